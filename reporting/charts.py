"""Charts for people: drawn once, in the page as SVG in the reader's light or dark, beside it as PNG and CSV.

Each function takes plain data and returns a Chart. Reads no file and computes no score.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from pictures.names import visible

INK, FAINT, GRID, PAPER = "#1f2329", "#59636e", "#d0d7df", "#fefefe"
BLUE, ORANGE, GREEN, PURPLE, RED = "#0969da", "#bc4c01", "#1a7f37", "#8250df", "#cf222e"
SERIES = (BLUE, ORANGE, PURPLE, GREEN)  # the first three are those of GROUPS
# What a colour is called in page.css, which says how it looks in the dark.
NAMES = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper"}
NAMES |= {BLUE: "blue", ORANGE: "orange", GREEN: "green", PURPLE: "purple", RED: "red"}
GROUPS = {"many": (BLUE, "o"), "medium": (ORANGE, "s"), "few": (PURPLE, "^")}
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and be read aloud
    "svg.hashsalt": "longtail",
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "font.size": 9,
}
STYLE |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
STYLE |= dict.fromkeys(("axes.labelcolor", "text.color"), INK)
STYLE |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor"), FAINT)
matplotlib.rcParams.update(STYLE)
MOST_POINTS = 200  # of a line that can be hovered


@dataclass
class Chart:
    """A picture and what it is made of."""

    name: str  # of its files
    title: str
    alt: str  # what is to be seen, in a sentence
    figure: Figure
    header: list[str]
    rows: list[Sequence]  # the data
    tips: dict[str, list[str]] = field(default_factory=dict)  # id of a group of points -> what each of them says
    grid: dict | None = None  # of a matrix: names, and cells [row, col, what it says]
    wide: bool = False  # shown at its own size, scrolled where the screen is narrower

    def save(self, file, **how) -> None:
        """Draws the picture to a file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # of a PNG; a page has its reader's fonts
            self.figure.savefig(file, **how)

    def svg(self) -> str:
        """The picture as SVG for the inside of a page."""
        text = io.StringIO()
        self.save(text, format="svg", metadata=dict(Date=None, Creator=None), transparent=True)
        self.figure.set_layout_engine("none")  # it is done: the PNG needs no second one
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\n\s*", "", svg, flags=re.DOTALL)
        for colour, name in NAMES.items():
            svg = svg.replace(colour, f"var(--{name})")
        svg = re.sub(r' id="[a-zA-Z]+\d*_[\d_]+"', "", svg)  # matplotlib's numbers, which every chart has
        svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{self.name}-", svg)  # what is left is this chart's own
        width = 90 * self.figure.get_figwidth()  # px: text of 9 points is then 11 px
        head = rf'<svg style="width:{width:.0f}px" \1 aria-hidden="true">'
        return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', head, svg, count=1)


class Group(NamedTuple):
    """Points of one kind in a chart."""

    rows: Sequence[int]  # of all points
    colour: str
    marker: str
    said: Sequence[str]  # of each


def figure(width: float = 4.2, height: float = 2.8, panels: int = 1):
    """A Figure of so many inches and its axes: one, or an array of `panels` side by side."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(1, panels)


def curves(name: str, title: str, unit: str, lines: dict[str, Sequence], kept: int | None) -> Chart:
    """One score by epoch, from 1: label -> a value an epoch, nan where there is none. kept: the epoch that is kept."""
    made, axes = figure()
    tips, ends = {}, []
    for number, (label, values) in enumerate(lines.items()):
        values = np.asarray(values, np.float64)
        epochs = np.flatnonzero(np.isfinite(values))
        if not len(epochs):
            continue
        colour = SERIES[number % len(SERIES)]
        axes.plot(epochs + 1, values[epochs], color=colour, linewidth=1.6, linestyle="-" if number % 2 == 0 else "--")
        shown = epochs[:: -(-len(epochs) // MOST_POINTS)]
        gid = f"line{number}"
        axes.plot(shown + 1, values[shown], "o", color=colour, markersize=2.2 if len(shown) < 40 else 0.8, gid=gid)
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
    header = ["epoch", *lines]
    rows = [[epoch + 1, *(values[epoch] for values in lines.values())] for epoch in range(longest)]
    said = ", ".join(f"{label if len(ends) > 1 else 'it'} ends at {value:.3g}" for value, label, _ in ends)
    return Chart(name, title, f"{title} by epoch: {said}." if said else "No epoch yet.", made, header, rows, tips)


def points(
    name: str, title: str, alt: str, x: tuple, y: tuple, groups: dict[str, Group], *, log_x=False, log_y=False, trend=()
) -> Chart:
    """Points in groups. x, y: (label, values [N]); trend: (x, y) of a line to guide the eye."""
    made, axes = figure()
    tips = {}
    if trend:
        axes.plot(*trend, color=FAINT, linewidth=1.2)
    hollow = dict(markerfacecolor="none") if len(x[1]) < 400 else {}
    for number, (label, group) in enumerate(groups.items()):
        gid = f"points{number}"
        at_x, at_y = x[1][group.rows], y[1][group.rows]
        axes.plot(at_x, at_y, group.marker, color=group.colour, label=label, gid=gid, **hollow)
        tips[gid] = list(group.said)
    axes.set(xlabel=x[0], ylabel=y[0])
    axes.xaxis.get_major_locator().set_params(integer=x[1].dtype.kind == "i")
    for letter, on, values in (("x", log_x, x[1]), ("y", log_y, y[1])):
        if on:  # ticks are plain numbers, and more than one
            getattr(axes, f"set_{letter}scale")("symlog" if values.min() <= 0 else "log")
            axis = getattr(axes, f"{letter}axis")
            axis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            if values.min() > 0 and values.max() < 20 * values.min():
                axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    if len(groups) > 1:
        axes.legend(fontsize=8, loc="upper center", ncols=4, bbox_to_anchor=(0.5, 1.14), handletextpad=0.2)
    data = []
    for label, group in groups.items():
        data += [[label, said, x[1][i], y[1][i]] for i, said in zip(group.rows, group.said)]
    return Chart(name, title, alt, made, ["group", "what", x[0], y[0]], data, tips)


def intervals(name: str, title: str, alt: str, unit: str, rows: list[tuple], zero=None, band=0) -> Chart:
    """A line each of (label, value, low, high), nan for an end that is not known; zero: where a line is drawn.
    band: half width of a stripe around it."""
    made, axes = figure(4.2, 0.9 + 0.24 * len(rows))
    at = np.arange(len(rows))[::-1]
    middle, low, high = (np.array([row[k] for row in rows], np.float64) for k in (1, 2, 3))
    axes.hlines(at, np.where(np.isnan(low), middle, low), np.where(np.isnan(high), middle, high), color=FAINT)
    known = np.isfinite(middle)
    axes.plot(middle[known], at[known], "o", color=BLUE, gid="values")
    if zero is not None:
        axes.axvline(zero, color=FAINT, linewidth=1, linestyle=":")
        axes.axvspan(zero - band, zero + band, color=GRID, alpha=0.5, zorder=0)
    axes.set_yticks(at, [_short(label, 26) for label, *_ in rows], fontsize=8)
    axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel=unit)
    said = [f"{label}: {value:.4g} ({start:.4g} to {end:.4g})" for label, value, start, end in rows if value == value]
    return Chart(name, title, alt, made, ["what", unit, "low", "high"], rows, {"values": said})


def matrix(name: str, title: str, alt: str, shade: np.ndarray, names: list[str], axes_of: tuple, cells: list) -> Chart:
    """Shades from 0 to 1 [C,C] as a picture, the diagonal in green; cells: [row, col, what it says] of those that say
    something. axes_of: what rows and columns are. Names stand at the edges where there is room for them, up to 60."""
    count = len(names)
    named = count <= 60
    # Inches a cell: room for a name in 8 points, but no picture of a few classes that is smaller than 3 inches.
    side = max(0.155, 3 / count) if named else max(0.045, 9 / count)
    margin = 0.35 + 0.075 * min(22, max(map(len, names))) * named
    made, axes = figure(count * side + margin, count * side + margin)
    colour = _shaded(axes, np.where(shade > 0, 0.22 + 0.78 * np.clip(shade, 0, 1), 0), "equal")
    colour[range(count), range(count), :3] = matplotlib.colors.to_rgb(GREEN)
    axes.images[0].set_data(colour)
    labels = [_short(label, 22) for label in names] if named else []
    axes.set_yticks(range(len(labels)), labels, fontsize=min(9, side * 52))
    axes.set_xticks(range(len(labels)), labels, fontsize=min(9, side * 52), rotation=90)
    axes.set(ylabel=axes_of[0], xlabel=axes_of[1])
    data = [[names[r], names[c], said] for r, c, said in cells]
    grid = dict(names=names, cells=cells)
    return Chart(name, title, alt, made, [*axes_of, "value"], data, grid=grid, wide=count * side + margin > 5)


def heat(name: str, title: str, alt: str, unit: str, rows: tuple, cols: tuple, values: np.ndarray) -> Chart:
    """A table of numbers [R,K] with shades, nan where none is known. rows, cols: (what they are, their names)."""
    width = max(4.2, 1.4 + 0.55 * len(cols[1]))
    across, down = ([_short(label, 22) for label in labels] for _, labels in (cols, rows))
    upright = max(map(len, across)) > 8
    made, axes = figure(width, 1.1 + 0.34 * len(down) + upright * 0.075 * max(map(len, across)))
    low, high = np.nanmin(values), np.nanmax(values)
    shade = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    _shaded(axes, np.where(np.isnan(values), 0, 0.05 + 0.5 * np.nan_to_num(shade)), "auto")  # text stays readable
    for (r, c), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(c, r, f"{value:.3f}", ha="center", va="center", fontsize=8)
    axes.set_yticks(range(len(down)), down, fontsize=8)
    axes.set_xticks(range(len(across)), across, fontsize=8, rotation=90 * upright)
    axes.set(ylabel=rows[0], xlabel=cols[0])
    data = [[r, c, value] for r, line in zip(rows[1], values) for c, value in zip(cols[1], line)]
    return Chart(name, title, alt, made, [rows[0], cols[0], unit], data, wide=width > 5)


def reliability(name: str, title: str, alt: str, before: list[tuple], after: list[tuple]) -> Chart:
    """Diagrams side by side. Each side's rows are bins with a row: (confidence, accuracy, low, high, n)."""
    sides = {"as trained": before, "scaled": after}
    made, axes = figure(4.2, 2.35, panels=2)
    tips = {}
    largest = max((row[4] for row in [*before, *after]), default=1)
    for side, (label, rows), colour in zip(axes, sides.items(), (ORANGE, BLUE)):
        side.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        if rows:
            confidence, accuracy, low, high, n = map(np.array, zip(*rows))
            side.bar(confidence, 0.22 * n / largest, 1 / 18, color=GRID, zorder=0)
            side.vlines(confidence, low, high, color=colour, linewidth=1)
            side.plot(confidence, accuracy, "-", color=colour, linewidth=1)
            side.plot(confidence, accuracy, "o", color=colour, gid=label[:2])
            tips[label[:2]] = [
                f"{label}, sure {p:.2f}: right {a:.2f} ({i:.2f} to {j:.2f}), n {k}" for p, a, i, j, k in rows
            ]
        side.set_title(label, fontsize=9)
        side.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), xlabel="how sure", aspect="equal")
    axes[0].set_ylabel("how often right")
    axes[1].set_yticklabels([])
    data = [[label, *row] for label, rows in sides.items() for row in rows]
    header = ["probabilities", "confidence", "accuracy", "low", "high", "n"]
    return Chart(name, title, alt, made, header, data, tips)


def strips(name: str, title: str, alt: str, unit: str, groups: dict[str, Sequence], line=None, limits=()) -> Chart:
    """Every value a point, a column a group, with its mean as a dash. line: a level to compare with; limits: of
    each group's interval (middle, half width)."""
    made, axes = figure(max(4.2, 0.6 + 0.32 * len(groups)))
    tips = {}
    for number, (label, values) in enumerate(groups.items()):
        values = np.asarray(values, np.float64)
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else 0 * values
        axes.hlines(values.mean(), number - 0.3, number + 0.3, color=ORANGE, linewidth=1.5)
        axes.plot(number + spread, values, "o", color=BLUE, markersize=3.4, gid=f"strip{number}")
        tips[f"strip{number}"] = [f"{label}: {value:.4g}" for value in values]
    for number, (middle, half) in enumerate(limits):
        axes.errorbar(number + 0.3, middle, half, color=ORANGE, capsize=3, fmt="_")
    if line is not None:
        axes.axhline(line, color=FAINT, linewidth=1, linestyle=":")
    _grounded(axes)
    crowded = len(groups) > 5 or max(map(len, groups)) * len(groups) > 46
    labels = [_short(label, 22) for label in groups]
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


def _short(label, letters):
    label = visible(label)
    return label if len(label) <= letters else label[: letters - 1] + "…"
