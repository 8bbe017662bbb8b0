"""What a study's table says: points, their scores and standard errors, the winner, and what moves the score.

A point is a combination of settings; its trials are the folds and seeds it was tried with. Scores are macro F1 on
validation pictures, at the epoch that a trial keeps: the last, or with --patience the best. How pictures are split is a
scheme: schemes are compared, never ranked as settings. Runs and writes nothing.
"""

import math
from dataclasses import dataclass

import numpy as np

from config import OFF, spelled
from study import stats
from study.table import REPEATS, SCHEME, point_key


@dataclass(frozen=True)
class Point:
    trials: list[int]
    settings: dict  # of the knobs that vary in the study
    rows: list[dict]  # of finished trials, up to their last rung
    wanting: str  # why it cannot be ranked, '' if it can
    folds: dict[int, float]  # macro F1 by fold, the mean over seeds; empty where some are not known
    se: float  # of the mean, by this point alone: over its folds, or by bootstrap over pictures where there is one

    @property
    def mean(self):
        """Macro F1: the mean over folds, nan if it is not known."""
        return float(np.mean(list(self.folds.values()))) if self.folds else math.nan

    def label(self):
        return ", ".join(f"{k} {spelled(v)}" for k, v in self.settings.items()) or "the base settings"

    def average(self, name):
        return sum(r[name] for r in self.rows) / len(self.rows)

    def alone(self):
        """What `se` is taken over."""
        return f"over {len(self.folds)} folds" if len(self.folds) > 1 else "by bootstrap over pictures"


def points(study):
    """{scheme: [Point]} of all trials; a scheme is a string such as 'folds 3' or 'val_split 0.2'."""
    latest, found, knobs = study.latest(), {}, varied(study)
    for i in range(len(study.trials)):
        found.setdefault(scheme(study.config(i)), {}).setdefault(point_key(study.trials[i]), []).append(i)
    return {name: [_point(study, trials, latest, knobs) for trials in group.values()] for name, group in found.items()}


def varied(study):
    """The settings that differ between trials, apart from scheme, fold and seed."""
    names = dict.fromkeys(k for t in study.trials for k in t if k not in SCHEME + REPEATS)
    settings = [study.config(i) for i in range(len(study.trials))]
    return [k for k in names if len({spelled(getattr(c, k)) for c in settings}) > 1]


def scheme(config):
    name = f"folds {config.folds}" if config.folds else f"val_split {config.val_split:g}"
    return name + (f", split_seed {config.split_seed}" if config.split_seed else "")


def _point(study, trials, latest, knobs):
    rows = [latest[i] for i in trials if i in latest]
    wanting = ""
    if failed := [r for r in rows if r["status"] != "ok"]:
        wanting = f"trial {failed[0]['trial']} failed: {failed[0]['reason']}"
    elif len(rows) < len(trials):
        wanting = "to do"
    elif short := [r for r in rows if study.spec["halving"] and r["until"] < study.rungs(r["trial"])[-1]]:
        wanting = f"stopped at epoch {short[0]['until']} by halving"
    elif any("macro_f1" not in r for r in rows):
        wanting = "no validation pictures"
    settings = {k: getattr(study.config(trials[0]), k) for k in knobs}
    seeds, se = {}, math.nan
    if not failed and all("macro_f1" in r for r in rows):
        for r in rows:
            seeds.setdefault(study.config(r["trial"]).fold, []).append(r["macro_f1"])
    folds = {fold: float(np.mean(scores)) for fold, scores in seeds.items()}
    if len(folds) > 1:
        se = float(np.std(list(folds.values()), ddof=1) / math.sqrt(len(folds)))
    elif folds:
        se = float(np.mean([r["macro_f1_se"] for r in rows]))
    return Point(trials, settings, rows, wanting, folds, se)


def ranked(group):
    """Those of the points that can be ranked, the best first."""
    return sorted((p for p in group if not p.wanting), key=lambda p: -p.mean)


def yardstick(ranking):
    """(standard error, what it was taken over) by which the means of ranked points are told apart.

    All points are scored on the same folds, so what makes a fold easy or hard for all says nothing about which point is
    better, and two or three folds say little of one point's noise: the fold's share is taken out, and the noise that is
    left is pooled over all points (`stats.blocked`). Seeds are averaged first, for those of a fold share its pictures;
    points with unlike numbers of them are pooled as if alike, and a point that lacks a fold does not count. Where one
    point is left, or there is one split, it is the best point's own.
    """
    folds = sorted({fold for p in ranking for fold in p.folds})
    table = [[p.folds[fold] for fold in folds] for p in ranking if len(p.folds) == len(folds)]
    if len(table) > 1 and len(folds) > 1:
        return stats.blocked(table), f"pooled over {len(table)} points on the same {len(folds)} folds"
    return ranking[0].se, f"the best one's own, {ranking[0].alone()}"


def winner(group):
    """(Point, the reason in a sentence) by the one-standard-error rule (Breiman et al. 1984): of the points within one
    standard error (`yardstick`) of the best, the one that uses the fewest methods; among equals the best. None where no
    point can be ranked."""
    ranking = ranked(group)
    if not ranking:
        return None
    if len(ranking) == 1:
        return ranking[0], "no other point can be ranked"
    best, (se, how) = ranking[0], yardstick(ranking)
    near = [p for p in ranking if p.mean >= best.mean - (0 if math.isnan(se) else se)]
    won, error = min(near, key=methods), f"one standard error ({se:.4f}, {how})"
    if len(near) == 1:
        return won, f"no other point is within {error} of it"
    used = f"{methods(won)} method{'' if methods(won) == 1 else 's'} switched on"
    if won is best:
        return won, f"of {len(near)} points within {error} it scores best, and none is simpler ({used})"
    return won, (
        f"of {len(near)} points within {error} of the best, {best.mean:.4f} ({best.label()}), "
        f"it is the simplest ({used})"
    )


def methods(point):
    """How many of the varied settings switch a method on."""
    return sum(k in OFF and v != OFF[k] for k, v in point.settings.items())


def choose(study):
    """(scheme, Point, reason): the winner under the scheme that tells points apart by the smallest standard error; None
    if there is none."""
    rankings = {name: ranking for name, group in points(study).items() if (ranking := ranked(group))}
    errors = {name: yardstick(ranking)[0] for name, ranking in rankings.items()}
    if not errors:
        return None
    name = min(errors, key=lambda n: (math.isnan(errors[n]), errors[n]))
    return name, *winner(rankings[name])


def schemes(study):
    """A line a scheme: name, validation pictures a point, standard error and what it was taken over (`yardstick`), rank
    agreement with the chosen scheme (Spearman)."""

    def keyed(group):
        return {point_key(study.trials[p.trials[0]]): p for p in ranked(group)}

    groups, table = points(study), []
    chosen = keyed(groups[choose(study)[0]])
    for name, group in groups.items():
        own = keyed(group)
        both = [k for k in own if k in chosen]
        agree = stats.spearman(*([side[k].mean for k in both] for side in (own, chosen))) if len(both) > 2 else math.nan
        seen = [sum(r["val_pictures"] for r in p.rows) / len({r["seed"] for r in p.rows}) for p in own.values()]
        error = yardstick(list(own.values())) if own else (math.nan, "no point to rank")
        table.append((name, round(np.mean(seen)) if own else 0, *error, agree))
    return table


def factors(study, group):
    """(scores [N], blocks [N], {knob: level of each trial [N]}) of the ranked points' trials; a knob of many values in
    thirds."""
    rows = [(p, r) for p in group if not p.wanting for r in p.rows]
    scores = [r["macro_f1"] for _, r in rows]
    blocks = [f"{study.config(r['trial']).fold}/{study.config(r['trial']).seed}" for _, r in rows]
    levels = {}
    for knob in varied(study):
        values = [p.settings[knob] for p, _ in rows]
        named = sorted(set(values)) if all(isinstance(v, (int, float)) for v in values) else []
        if len(named) > 6:
            cuts = [named[len(named) * k // 3] for k in (1, 2)]
            edge = [named[0], *cuts, named[-1]]
            third = [sum(v >= c for c in cuts) for v in values]
            levels[knob] = [f"{edge[t]:.3g} to {edge[t + 1]:.3g}" for t in third]
        else:
            levels[knob] = [spelled(v) for v in values]
    return scores, blocks, {k: v for k, v in levels.items() if len(set(v)) > 1}


def against_base(study, group):
    """What each point changes of the base point: [(Point, mean difference, half width of its 95% t interval, n)],
    paired by fold and seed; nothing where the base point cannot be ranked.

    Two or three pairs say little of one difference's noise: over the folds and seeds that all points have it is pooled
    (`stats.blocked`), as in `yardstick`. Where there is one of them the half width is nan.
    """
    points = [p for p in group if not p.wanting]
    base = next((p for p in points if point_key(study.trials[p.trials[0]]) == "{}"), None)
    scores = [
        {(study.config(r["trial"]).fold, study.config(r["trial"]).seed): r["macro_f1"] for r in p.rows} for p in points
    ]
    cells = sorted(set.intersection(*map(set, scores))) if base and len(points) > 1 else []
    if not cells:
        return []
    table, half = np.array([[s[cell] for cell in cells] for s in scores]), math.nan
    if len(cells) > 1:
        free = (len(points) - 1) * (len(cells) - 1)
        half = stats.t_quantile(0.975, free) * math.sqrt(2) * stats.blocked(table)
    at = points.index(base)
    return [(p, float((row - table[at]).mean()), half, len(cells)) for p, row in zip(points, table) if p is not base]
