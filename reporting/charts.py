"""Kinds of charts: each function takes plain data and returns a Chart. Reads no file and computes no score."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.ticker
import numpy as np

from pictures.names import visible
from reporting.chart import BLUE, FAINT, GREEN, GRID, ORANGE, PURPLE, Chart, figure

SERIES = (BLUE, ORANGE, PURPLE, GREEN)  # the first three are those of GROUPS
GROUPS = dict(many=(BLUE, "o"), medium=(ORANGE, "s"), few=(PURPLE, "^"))
MOST_POINTS = 200  # of a line that can be hovered
LONGEST = 22  # letters of a name at an axis
WIDE = 5  # inches from which a chart is shown at its own size


class Group(NamedTuple):
    """Points of one kind in a chart."""

    rows: Sequence[int]  # of all points
    colour: str
    marker: str
    said: Sequence[str]  # of each


def curves(name: str, title: str, unit: str, lines: dict[str, Sequence], kept: int | None) -> Chart:
    """One score by epoch, from 1: label -> a value an epoch, nan where there is none. kept: the epoch that is kept."""
    made, axes = figure()
    tips, ends = {}, []
    for number, (label, values) in enumerate(lines.items()):
        values = np.asarray(values, np.float64)
        epochs = np.flatnonzero(np.isfinite(values))
        if not len(epochs):
            continue
        gid, colour = f"line{number}", SERIES[number % len(SERIES)]
        dashes = "-" if number % 2 == 0 else "--"
        axes.plot(epochs + 1, values[epochs], color=colour, linewidth=1.6, linestyle=dashes)
        every = math.ceil(len(epochs) / MOST_POINTS)
        shown = epochs[::every]
        dot = 2.2 if len(shown) < 40 else 0.8
        axes.plot(shown + 1, values[shown], "o", color=colour, markersize=dot, gid=gid)
        tips[gid] = [f"epoch {epoch + 1}: {label} {values[epoch]:.4g}" for epoch in shown]
        ends.append((values[epochs[-1]], label, colour))
    if kept is not None:
        axes.axvline(kept, color=FAINT, linewidth=1, linestyle=":")
    longest = max((len(values) for values in lines.values()), default=1)
    by = "epoch" if kept is None else f"epoch (dotted: the one kept, {kept})"
    axes.set(xlim=(0.5, max(longest, 2) + 0.5), xlabel=by, ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _grounded(axes)
    if len(ends) > 1:
        _labels(axes, ends)
    rows = [[epoch, *values] for epoch, *values in zip(range(1, longest + 1), *lines.values())]
    alt = "No epoch yet."
    if ends:
        said = (f"{label if len(ends) > 1 else 'it'} ends at {value:.3g}" for value, label, _ in ends)
        alt = f"{title} by epoch: {', '.join(said)}."
    return Chart(name, title, alt, made, ["epoch", *lines], rows, tips)


def points(
    name: str, title: str, alt: str, x: tuple, y: tuple, groups: dict[str, Group], *, log_x=False, log_y=False, trend=()
) -> Chart:
    """Points in groups. x, y: (label, values [N]); trend: (x, y) of a line to guide the eye."""
    (x_label, x), (y_label, y) = x, y
    made, axes = figure()
    tips = {}
    if trend:
        axes.plot(*trend, color=FAINT, linewidth=1.2)
    hollow = dict(markerfacecolor="none") if len(x) < 400 else {}
    for number, (label, group) in enumerate(groups.items()):
        gid = f"points{number}"
        looks = dict(marker=group.marker, color=group.colour, linestyle="none", **hollow)
        axes.plot(x[group.rows], y[group.rows], label=label, gid=gid, **looks)
        tips[gid] = list(group.said)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.get_major_locator().set_params(integer=x.dtype.kind == "i")
    if log_x:
        axes.set_xscale("symlog" if x.min() <= 0 else "log")
        _plain_ticks(axes.xaxis, x)
    if log_y:
        axes.set_yscale("symlog" if y.min() <= 0 else "log")
        _plain_ticks(axes.yaxis, y)
    if len(groups) > 1:
        above = dict(loc="upper center", bbox_to_anchor=(0.5, 1.14))
        axes.legend(**above, ncols=4, fontsize=8, handletextpad=0.2)
    data = []
    for label, group in groups.items():
        for i, said in zip(group.rows, group.said):
            data.append([label, said, x[i], y[i]])
    header = ["group", "what", x_label, y_label]
    return Chart(name, title, alt, made, header, data, tips)


def _plain_ticks(axis, values):
    """Ticks of a logarithmic axis as plain numbers, and more than one."""
    axis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    if values.min() > 0 and values.max() < 20 * values.min():
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))


def intervals(
    name: str,
    title: str,
    alt: str,
    unit: str,
    rows: list[tuple],
    zero=None,
    band=0,
) -> Chart:
    """A line each of (label, value, low, high), nan for an end that is not known.

    zero: where a line is drawn; band: half width of a stripe around it.
    """
    made, axes = figure(4.2, 0.9 + 0.24 * len(rows))
    at = np.arange(len(rows))[::-1]  # the first on top
    labels, *numbers = zip(*rows)
    middle, low, high = np.array(numbers, np.float64)
    left = np.where(np.isnan(low), middle, low)
    right = np.where(np.isnan(high), middle, high)
    axes.hlines(at, left, right, color=FAINT)
    known = np.isfinite(middle)
    axes.plot(middle[known], at[known], "o", color=BLUE, gid="values")
    if zero is not None:
        axes.axvline(zero, color=FAINT, linewidth=1, linestyle=":")
        axes.axvspan(zero - band, zero + band, color=GRID, alpha=0.5, zorder=0)
    axes.set_yticks(at, [_short(label, 26) for label in labels], fontsize=8)
    axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel=unit)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))  # more would touch each other beside long labels
    said = "{}: {:.4g} ({:.4g} to {:.4g})"
    tips = {"values": [said.format(*row) for row, there in zip(rows, known) if there]}
    header = ["what", unit, "low", "high"]
    return Chart(name, title, alt, made, header, rows, tips)


def matrix(
    name: str,
    title: str,
    alt: str,
    shade: np.ndarray,
    names: list[str],
    axes_of: tuple,
    cells: list,
) -> Chart:
    """Shades from 0 to 1 [C,C] as a picture, the diagonal in green; cells: [row, col, what it says] of those that say
    something. axes_of: what rows and columns are. Names stand at the edges where there is room for them, up to 60."""
    count = len(names)
    named = count <= 60
    # Inches a cell: room for a name in 8 points, but no picture of a few classes that is smaller than 3 inches.
    side = max(0.155, 3 / count) if named else max(0.045, 9 / count)
    margin = 0.35 + 0.075 * min(LONGEST, max(map(len, names))) * named
    whole = count * side + margin
    made, axes = figure(whole, whole)
    strength = 0.22 + 0.78 * np.clip(shade, 0, 1)  # one picture is to be seen
    strength[shade <= 0] = 0
    colour = _shaded(axes, strength, "equal")
    colour[range(count), range(count), :3] = matplotlib.colors.to_rgb(GREEN)
    axes.images[0].set_data(colour)
    labels = [_short(label) for label in names] if named else []
    letters = min(9, side * 52)  # points
    axes.set_yticks(range(len(labels)), labels, fontsize=letters)
    axes.set_xticks(range(len(labels)), labels, fontsize=letters, rotation=90)
    axes.set(ylabel=axes_of[0], xlabel=axes_of[1])
    data = [[names[r], names[c], said] for r, c, said in cells]
    grid = dict(names=names, cells=cells)
    header = [*axes_of, "value"]
    return Chart(name, title, alt, made, header, data, grid=grid, wide=whole > WIDE)


def heat(name: str, title: str, alt: str, unit: str, rows: tuple, cols: tuple, values: np.ndarray) -> Chart:
    """A table of numbers [R,K] with shades, nan where none is known. rows, cols: (what they are, their names)."""
    across, down = ([_short(label) for label in labels] for _, labels in (cols, rows))
    longest = max(map(len, across))
    upright = longest > 8
    width = max(4.2, 1.4 + 0.55 * len(across))
    made, axes = figure(width, 1.1 + 0.34 * len(down) + upright * 0.075 * longest)
    low, high = np.nanmin(values), np.nanmax(values)
    shade = np.full(values.shape, 0.5)
    if high > low:
        shade = (values - low) / (high - low)
    strength = 0.05 + 0.5 * shade  # text stays readable
    strength[np.isnan(values)] = 0
    _shaded(axes, strength, "auto")
    for (r, c), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(c, r, f"{value:.3f}", ha="center", va="center", fontsize=8)
    axes.set_yticks(range(len(down)), down, fontsize=8)
    axes.set_xticks(range(len(across)), across, fontsize=8, rotation=90 * upright)
    axes.set(ylabel=rows[0], xlabel=cols[0])
    data = []
    for r, line in zip(rows[1], values):
        data += [[r, c, value] for c, value in zip(cols[1], line)]
    header = [rows[0], cols[0], unit]
    return Chart(name, title, alt, made, header, data, wide=width > WIDE)


def reliability(name: str, title: str, alt: str, before: list[tuple], after: list[tuple]) -> Chart:
    """Diagrams side by side. Each side's rows are bins with a row: (confidence, accuracy, low, high, n)."""
    sides = {"as trained": before, "scaled": after}
    made, axes = figure(4.2, 2.35, panels=2)
    tips = {}
    largest = max((row[4] for row in [*before, *after]), default=1)
    for side, (label, rows), colour in zip(axes, sides.items(), (ORANGE, BLUE)):
        side.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        if rows:
            gid = label[:2]
            confidence, accuracy, low, high, n = map(np.array, zip(*rows))
            side.bar(confidence, 0.22 * n / largest, 1 / 18, color=GRID, zorder=0)
            side.vlines(confidence, low, high, color=colour, linewidth=1)
            side.plot(confidence, accuracy, "-", color=colour, linewidth=1)
            side.plot(confidence, accuracy, "o", color=colour, gid=gid)
            said = "{label}, sure {:.2f}: right {:.2f} ({:.2f} to {:.2f}), n {}"
            tips[gid] = [said.format(*row, label=label) for row in rows]
        side.set_title(label, fontsize=9)
        side.set(xlim=(0, 1), xticks=(0, 0.5, 1), xlabel="how sure")
        side.set(ylim=(0, 1), yticks=(0, 0.5, 1), aspect="equal")
    axes[0].set_ylabel("how often right")
    axes[1].set_yticklabels([])
    data = [[label, *row] for label, rows in sides.items() for row in rows]
    header = ["probabilities", "confidence", "accuracy", "low", "high", "n"]
    return Chart(name, title, alt, made, header, data, tips)


def strips(
    name: str,
    title: str,
    alt: str,
    unit: str,
    groups: dict[str, Sequence],
    line=None,
    limits=(),
) -> Chart:
    """Every value a point, a column a group, with its mean as a dash. line: a level to compare with; limits: of
    each group's interval (middle, half width)."""
    made, axes = figure(max(4.2, 0.6 + 0.32 * len(groups)))
    tips = {}
    for number, (label, values) in enumerate(groups.items()):
        gid = f"strip{number}"
        values = np.asarray(values, np.float64)
        spread = np.linspace(-0.16, 0.16, len(values))  # so that none hides another
        if len(values) == 1:
            spread[:] = 0
        axes.hlines(values.mean(), number - 0.3, number + 0.3, color=ORANGE, linewidth=1.5)
        axes.plot(number + spread, values, "o", color=BLUE, markersize=3.4, gid=gid)
        tips[gid] = [f"{label}: {value:.4g}" for value in values]
    for number, (middle, half) in enumerate(limits):
        axes.errorbar(number + 0.3, middle, half, color=ORANGE, capsize=3, fmt="_")
    if line is not None:
        axes.axhline(line, color=FAINT, linewidth=1, linestyle=":")
    _grounded(axes)
    crowded = len(groups) > 5 or max(map(len, groups)) * len(groups) > 46
    labels = [_short(label) for label in groups]
    axes.set_xticks(range(len(groups)), labels, rotation=90 if crowded else 0, fontsize=8)
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylabel=unit)
    rows = [[label, value] for label, values in groups.items() for value in values]
    return Chart(name, title, alt, made, ["group", unit], rows, tips, wide=len(groups) > 12)


def _grounded(axes):
    """Shows the zero of a constant: it tells how large it is."""
    low, high = axes.dataLim.intervaly
    if np.isclose(low, high, 1e-9, 1e-12):
        top = 2 * low or 1
        axes.set_ylim(-0.04 * top, top)


def _labels(axes, ends):
    """Names of lines at their right ends, moved apart where they would touch."""
    to_fraction = axes.transData - axes.transAxes
    before = -1.0
    for value, label, colour in sorted(ends):
        y = max(to_fraction.transform((1, value))[1], before + 0.09)
        before = y
        axes.annotate(label, (1.01, y), xycoords="axes fraction", color=colour, fontsize=8, va="center")


def _shaded(axes, strength, aspect):
    """Draws cells of a strength from 0 to 1 [R,K], how much they hide the ground; returns their colours."""
    colour = np.empty((*strength.shape, 4))
    colour[..., :3], colour[..., 3] = matplotlib.colors.to_rgb(BLUE), strength
    axes.imshow(colour, interpolation="none", aspect=aspect)
    axes.grid(False)
    axes.tick_params(length=0)
    return colour


def _short(label, letters=LONGEST):
    label = visible(label)
    return label if len(label) <= letters else label[: letters - 1] + "…"
