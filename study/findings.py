"""What a study found, for people: its ranking and what moves the score, as Markdown, and the effects as a picture."""

import math

import numpy as np

from config import spelled
from engine.run import replacing
from study import ranking, stats

SHOWN = 12  # points in the table


def report(study):
    """The ranking and the effects, line by line."""
    for row in study.latest().values():
        if row["status"] != "ok":
            yield f"trial {row['trial']} failed: {row['reason']}"
    found, groups = ranking.choose(study), ranking.points(study)
    if found is None:
        yield f"{study.folder}: no point to rank: {next(iter(groups.values()))[0].wanting}"
        return
    scheme, won, reason = found
    group = ranking.ranked(groups[scheme])
    yield (
        f"{len(group)} point{'s' * (len(group) > 1)} under {scheme}, macro F1 on validation pictures at the "
        f"{study.epoch()} ± the point's own standard error, {won.alone()}:\n"
    )
    yield "| point | macro F1 | n | accuracy | NLL | ECE |\n| --- | --- | --- | --- | --- | --- |"
    for p in group[:SHOWN]:
        mark = "**" if p.trials == won.trials else ""
        yield (
            f"| {mark}{p.label()}{mark} | {p.mean:.4f} ± {p.se:.4f} | {len(p.rows)} | {p.average('acc'):.4f} | "
            f"{p.average('nll'):.3f} | {p.average('ece'):.4f} |"
        )
    if len(group) > SHOWN:
        yield f"\n{len(group) - SHOWN} more in results.csv"
    yield f"\nwinner: {won.label()}: {reason}."
    if out := [p for p in groups[scheme] if p.wanting]:
        yield f"Not ranked: {len(out)}; {out[0].label()}, for one: {out[0].wanting}."
    if len(groups) > 1:
        yield f"\nHow to validate (rank agreement: Spearman's, with {scheme}):\n"
        yield "| scheme | validation pictures a point | standard error | rank agreement |\n| --- | --- | --- | --- |"
        for name, pictures, se, how, agree in ranking.schemes(study):
            yield f"| {name} | {pictures} | {se:.4f}, {how} | {agree:.2f} |"
    if table := changes(study, group) or effects(study, group):
        yield "\n" + "\n".join(table)


def changes(study, group):
    """One setting at a time against the base, largest first; nothing where points differ in more than one."""
    found = sorted(ranking.against_base(study, group), key=lambda f: -abs(f[1])) if len(group) > 2 else []
    if not found or any(len(_changed(study, p)) > 1 for p, *_ in found):
        return []
    lines = [
        "What one change does to macro F1, paired by fold and seed, 95% t interval with pooled noise:\n",
        "| change | difference | n | |",
        "| --- | --- | --- | --- |",
    ]
    for p, mean, half, n in found:
        interval = "" if math.isnan(half) else f" ± {half:.4f}"
        beyond = "beyond noise" if abs(mean) > half else ""
        lines.append(f"| {_only(study, p)} | {mean:+.4f}{interval} | {n} | {beyond} |")
    return lines


def _changed(study, point):
    """The settings in which a point differs from the base."""
    return [k for k in study.trials[point.trials[0]] if k not in ranking.SCHEME + ranking.REPEATS]


def _only(study, point):
    """The one setting in which a point differs from the base, with its value."""
    c = study.config(point.trials[0])
    return ", ".join(f"{k} {spelled(getattr(c, k))}" for k in _changed(study, point))


def effects(study, group):
    """Main effects of an additive model, and the strongest interactions."""
    scores, blocks, levels = ranking.factors(study, group)
    if not levels:
        return []
    found, residuals, sd = stats.additive(scores, blocks, levels)
    lines = [
        "Main effects on macro F1 (additive model with folds and seeds as blocks; ± one standard error):\n",
        "| setting | value | against the mean value |",
        "| --- | --- | --- |",
    ]
    for k, table in found.items():
        lines += [f"| {k} | {level} | {effect:+.4f} ± {se:.4f} |" for level, (effect, se) in table.items()]
    pairs = [
        f"{a} × {b} {size:.4f} (noise alone: {noise:.4f})"
        for size, noise, a, b in stats.interactions(residuals, sd, levels)[:3]
    ]
    if pairs and not math.isnan(sd):
        lines.append("\nStrongest interactions, root mean square: " + "; ".join(pairs) + ".")
    return lines


def draw(study, path):
    """Differences from the base, or main effects, with their intervals, as a picture. False if there are none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scheme = ranking.choose(study)[0]
    group = [p for p in ranking.points(study)[scheme] if not p.wanting]
    if changes(study, group):
        bars = [(_only(study, p), mean, half) for p, mean, half, _ in ranking.against_base(study, group)]
        title = "one change at a time: difference of macro F1, 95% t interval"
    else:
        scores, blocks, levels = ranking.factors(study, group)
        if not levels:
            return False
        found = stats.additive(scores, blocks, levels)[0]
        bars = [(f"{k} {level}", effect, 2 * se) for k, table in found.items() for level, (effect, se) in table.items()]
        title = "main effects on macro F1, ± 2 standard errors"
    names, middle, half = zip(*bars[::-1])
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.3 * len(bars)), layout="constrained")
    axes.errorbar(
        middle, range(len(bars)), xerr=np.nan_to_num(half), fmt="o", color="#0969da", ecolor="#8c959f", capsize=3
    )
    axes.axvline(0, color="#d0d7de", zorder=0)
    axes.set_yticks(range(len(bars)), names)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    pyplot.close(figure)
    return True
