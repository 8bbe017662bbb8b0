"""What a study's table says: points, their scores and standard errors, the winner, and how splits compare.

A point is a combination of settings; its trials are the folds and seeds it was tried with. Scores are macro F1 on
validation pictures, at the epoch that a trial keeps: the last, or with --patience the best. How pictures are split is a
scheme: schemes are compared, never ranked as settings. Runs and writes nothing.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config import OFF, Config, spelled
from errors import counted
from study import stats
from study.table import REPEATS, SCHEME, Study, point_key


@dataclass(frozen=True)
class Point:
    """A combination of settings and what its trials scored."""

    trials: list[int]
    settings: dict  # of the knobs that vary in the study
    rows: list[dict]  # of finished trials, up to their last rung
    wanting: str  # why it cannot be ranked, '' if it can
    folds: dict[int, float]  # macro F1 by fold, the mean over seeds; empty where some are not known
    se: float  # of the mean, by this point alone: over its folds, or by jackknife over pictures where there is one

    @property
    def mean(self) -> float:
        """Macro F1: the mean over folds, nan if it is not known."""
        return float(np.mean(list(self.folds.values()))) if self.folds else math.nan

    def label(self) -> str:
        """Its settings in words."""
        return ", ".join(f"{name} {spelled(value)}" for name, value in self.settings.items()) or "the base settings"

    def average(self, name: str) -> float:
        """The mean of a score over its rows."""
        return sum(row[name] for row in self.rows) / len(self.rows)

    def alone(self) -> str:
        """What `se` is taken over."""
        return f"over {len(self.folds)} folds" if len(self.folds) > 1 else "by jackknife over pictures"


class Yardstick(NamedTuple):
    """By how much the means of points must differ to be told apart."""

    error: float  # a standard error
    source: str  # what it was taken over


class Winner(NamedTuple):
    """The point that a scheme's ranking ends with."""

    point: Point
    reason: str  # a sentence


class Choice(NamedTuple):
    """What a study settles on."""

    scheme: str
    point: Point
    reason: str


class SchemeSummary(NamedTuple):
    """A way to split the pictures, as a line of the report."""

    name: str
    pictures: int  # validation pictures a point
    error: float  # the yardstick's
    source: str
    agreement: float  # Spearman's, of its ranking with the chosen scheme's; nan for two points or fewer


def points(study: Study) -> dict[str, list[Point]]:
    """The points of all trials by scheme, a string such as 'folds 3' or 'val_split 0.2'."""
    trials_of = {}
    for i, trial in enumerate(study.trials):
        # Dicts keep their order: a point stands where its first trial does.
        group = trials_of.setdefault(scheme(study.config(i)), {})
        group.setdefault(point_key(trial), []).append(i)
    latest = study.latest()
    knobs = varied(study)
    found = {}
    for name, group in trials_of.items():
        found[name] = [_point(study, trials, latest, knobs) for trials in group.values()]
    return found


def varied(study: Study) -> list[str]:
    """The settings that differ between trials, apart from scheme, fold and seed."""
    changed = dict.fromkeys(name for trial in study.trials for name in trial)
    configs = [study.config(i) for i in range(len(study.trials))]
    found = []
    for name in changed:
        if name in SCHEME + REPEATS:
            continue
        # A trial may spell out the base's own value, so that values are compared, not names.
        values = {spelled(getattr(config, name)) for config in configs}
        if len(values) > 1:
            found.append(name)
    return found


def scheme(config: Config) -> str:
    """How `config` splits the pictures, in words."""
    name = f"folds {config.folds}" if config.folds else f"val_split {config.val_split:g}"
    return name + (f", split_seed {config.split_seed}" if config.split_seed else "")


def ranked(group: list[Point]) -> list[Point]:
    """Those of the points that can be ranked, the best first; equals stay in their order."""
    able = [point for point in group if not point.wanting]
    return sorted(able, key=lambda point: -point.mean)


def yardstick(ranking: list[Point]) -> Yardstick:
    """The standard error by which the means of ranked points are told apart.

    All points are scored on the same folds, so what makes a fold easy or hard for all says nothing about which point is
    better, and two or three folds say little of one point's noise. So the fold's share is taken out, and the noise that
    is left is pooled over all points (`stats.blocked`). Where one point is left, or there is one split, it is the best
    point's own.

    Seeds are averaged first, for those of a fold share its pictures. Points with unlike numbers of them are pooled as
    if alike, and a point that lacks a fold does not count.
    """
    folds = sorted({fold for point in ranking for fold in point.folds})  # the columns
    complete = [point for point in ranking if len(point.folds) == len(folds)]
    if len(complete) > 1 and len(folds) > 1:
        scores = [[point.folds[fold] for fold in folds] for point in complete]  # a row a point
        return Yardstick(stats.blocked(scores), f"pooled over {len(complete)} points on the same {len(folds)} folds")
    best = ranking[0]
    return Yardstick(best.se, f"the best one's own, {best.alone()}")


def winner(group: list[Point]) -> Winner | None:
    """The winner by the one-standard-error rule (Breiman et al. 1984); None where no point can be ranked.

    Of the points within one standard error (`yardstick`) of the best, it is the one that uses the fewest methods; among
    equals the best.
    """
    ranking = ranked(group)
    if not ranking:
        return None
    best = ranking[0]
    if len(ranking) == 1:
        return Winner(best, "no other point can be ranked")
    measure = yardstick(ranking)
    margin = 0 if math.isnan(measure.error) else measure.error  # without a known error only equals are near
    near = [point for point in ranking if point.mean >= best.mean - margin]
    simplest = min(near, key=methods)  # the first of equals, which is the best of them
    error = f"one standard error ({measure.error:.4f}, {measure.source})"
    if len(near) == 1:
        return Winner(best, f"no other point is within {error} of it")
    count = methods(simplest)
    used = f"{counted(count, 'method')} switched on"
    if simplest is best:
        reason = f"of {len(near)} points within {error} it scores best, and none is simpler ({used})"
        return Winner(best, reason)
    reason = (
        f"of {len(near)} points within {error} of the best, {best.mean:.4f} ({best.label()}), "
        f"it is the simplest ({used})"
    )
    return Winner(simplest, reason)


def methods(point):
    """How many of the varied settings switch a method on."""
    return sum(k in OFF and v != OFF[k] for k, v in point.settings.items())


def choose(study: Study) -> Choice | None:
    """The winner under the scheme that tells points apart by the smallest standard error; None if there is none."""
    rankings = {name: ranked(group) for name, group in points(study).items()}
    errors = {name: yardstick(ranking).error for name, ranking in rankings.items() if ranking}
    if not errors:
        return None
    # nan compares as neither smaller nor greater: unknown errors come last by a key of their own.
    name = min(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
    won = winner(rankings[name])
    return Choice(name, won.point, won.reason)


def settings_key(study: Study, point: Point) -> str:
    """What a point changes of the base, as one string: the same under every scheme, '{}' for the base point."""
    return point_key(study.trials[point.trials[0]])


def schemes(study: Study) -> list[SchemeSummary]:
    """A line a scheme, in the order of the trials. At least one point can be ranked."""
    groups = points(study)
    chosen = _by_settings(study, groups[choose(study).scheme])
    return [_scheme_summary(name, _by_settings(study, group), chosen) for name, group in groups.items()]


def _point(study, trials, latest, knobs):
    """The Point of `trials`, from the rows that are there."""
    rows = [latest[i] for i in trials if i in latest]
    config = study.config(trials[0])
    settings = {name: getattr(config, name) for name in knobs}
    folds, se = {}, math.nan
    # A failed trial keeps the scores of its last good epoch, which are not the point's.
    if all(row["status"] == "ok" and "macro_f1" in row for row in rows):
        folds = _mean_by_fold(study, rows)
    # Over folds, not over trials: seeds of a fold are scored on the same pictures, so they tell less than they number.
    if len(folds) > 1:
        scores = list(folds.values())
        se = float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
    elif folds:
        se = float(np.mean([row["macro_f1_se"] for row in rows]))
    return Point(trials, settings, rows, _why_not_ranked(study, trials, rows), folds, se)


def _why_not_ranked(study, trials, rows):
    """The first reason against ranking a point, '' if there is none."""
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        return f"trial {failed[0]['trial']} failed: {failed[0]['reason']}"
    if len(rows) < len(trials):
        return "to do"
    if study.spec["halving"]:
        for row in rows:
            if row["until"] < study.rungs(row["trial"])[-1]:
                return f"stopped at epoch {row['until']} by halving"
    if any("macro_f1" not in row for row in rows):
        return "no validation pictures"
    return ""


def _mean_by_fold(study, rows):
    """Macro F1 by fold, the mean over seeds."""
    scores = {}
    for row in rows:
        fold = study.config(row["trial"]).fold
        scores.setdefault(fold, []).append(row["macro_f1"])
    return {fold: float(np.mean(values)) for fold, values in scores.items()}


def _by_settings(study, group):
    """Ranked points by what they try: the same under every scheme."""
    return {settings_key(study, point): point for point in ranked(group)}


def _scheme_summary(name, own, chosen):
    """The SchemeSummary of ranked points `own`, by settings, beside those of the chosen scheme."""
    if not own:
        return SchemeSummary(name, 0, math.nan, "no point to rank", math.nan)
    pictures = []
    for point in own.values():
        seeds = {row["seed"] for row in point.rows}  # every seed is scored on the same pictures
        pictures.append(sum(row["val_pictures"] for row in point.rows) / len(seeds))
    both = [key for key in own if key in chosen]  # a scheme may lack points that another has
    agreement = math.nan
    if len(both) > 2:  # two points agree or not by chance alone
        agreement = stats.spearman([own[key].mean for key in both], [chosen[key].mean for key in both])
    measure = yardstick(list(own.values()))
    return SchemeSummary(name, round(np.mean(pictures)), measure.error, measure.source, agreement)
