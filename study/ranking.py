"""What a study's table says: candidates, their scores and standard errors, the winner, and how splits compare.

A candidate is a combination of settings; its trials are the folds and seeds it was tried with. Its score is that of its
answers on the validation pictures of all folds together, a seed at a time, then the mean over seeds, at the epoch that
a trial keeps: the last, or with --patience the best. How pictures are split is a scheme: schemes are compared, never
ranked as settings. Runs and writes nothing.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from config import OFF, Config, spelled
from errors import LongtailError, counted
from study import stats
from study.held_out import HeldOut, difference, judged
from study.metric import merit
from study.table import REPEATS, SCHEME, Study, candidate_key


@dataclass(frozen=True, eq=False)
class Candidate:
    """A combination of settings and how its trials did."""

    trials: list[int]
    settings: dict  # of the knobs that vary in the study
    rows: list[dict]  # of finished trials, up to their last rung
    wanting: str  # why it cannot be ranked, '' if it can
    metric: str
    held_out: HeldOut | None  # None where it cannot be ranked

    @property
    def score(self) -> float:
        """The metric, nan if it is not known."""
        return self.average(self.metric)

    @property
    def error(self) -> float:
        """The standard error of `score` by itself, nan if it is not known."""
        return self.held_out.error() if self.held_out else math.nan

    @property
    def pictures(self) -> int:
        """How many it was judged on."""
        return self.held_out.left_out.shape[1] if self.held_out else 0

    @property
    def merit(self) -> float:
        """The score, turned so that more is better."""
        return merit(self.metric, self.score)

    def label(self) -> str:
        """Its settings in words."""
        return ", ".join(f"{name} {spelled(value)}" for name, value in self.settings.items()) or "the base settings"

    def average(self, name: str) -> float:
        """The mean over seeds of macro_f1, acc, nll or ece; nan if it is not known."""
        return float(self.held_out.scores[name].mean()) if self.held_out else math.nan


class Behind(NamedTuple):
    """By how much a candidate is worse than another."""

    by: float  # in units of the metric, 0 or more where the other is better
    error: float  # the standard error of that, picture by picture


class Winner(NamedTuple):
    """The candidate that a scheme's ranking ends with."""

    candidate: Candidate
    reason: str  # a sentence


class Choice(NamedTuple):
    """What a study settles on."""

    scheme: str
    candidate: Candidate
    reason: str


class SchemeSummary(NamedTuple):
    """A way to split the pictures, as a line of the report."""

    name: str
    pictures: int  # validation pictures of a candidate
    error: float  # the yardstick
    agreement: float  # Spearman's, of its ranking with the chosen scheme's; nan for two candidates or fewer


def candidates(study: Study, metric: str = "") -> dict[str, list[Candidate]]:
    """The candidates of all trials by scheme, a string such as 'folds 3' or 'val_split 0.2'.

    metric: what they are ranked by, where it is not the study's own.
    """
    trials_of = {}
    for i, trial in enumerate(study.trials):
        # Dicts keep their order: a candidate stands where its first trial does.
        group = trials_of.setdefault(scheme(study.config(i), study.spec.get("own_val", False)), {})
        group.setdefault(candidate_key(trial), []).append(i)
    latest, jobs = study.latest(), dict(study.jobs())
    knobs = varied(study)
    found = {}
    for name, group in trials_of.items():
        found[name] = _on_the_same_pictures(
            [_candidate(study, trials, latest, jobs, knobs, metric or study.metric) for trials in group.values()]
        )
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


def scheme(config: Config, own: bool = False) -> str:
    """How `config` splits the pictures, in words. own: whether the data brings validation pictures of its own."""
    if own and config.val_split == Config().val_split:  # another share changes nothing, but is another trial
        return "the data's own split"
    name = f"folds {config.folds}" if config.folds else f"val_split {config.val_split:g}"
    return name + (f", split_seed {config.split_seed}" if config.split_seed else "")


def ranked(group: list[Candidate]) -> list[Candidate]:
    """Those of the candidates that can be ranked, the best first; equals stay in their order."""
    able = [candidate for candidate in group if not candidate.wanting]
    return sorted(able, key=lambda candidate: -candidate.merit)


def behind(best: Candidate, candidate: Candidate) -> Behind:
    """How far `candidate` is behind `best`. Both were judged on the same pictures, so what makes a picture easy or hard
    for both says nothing about which is better, and is not in the error."""
    by, error = difference(best.held_out, candidate.held_out)
    return Behind(merit(best.metric, by), error)


def yardstick(ranking: list[Candidate]) -> float:
    """The standard error by which ranked candidates are told apart: the root mean square of those behind the best; of
    one candidate alone its own."""
    best, *others = ranking
    if not others:
        return best.error
    return float(np.sqrt(np.mean([behind(best, candidate).error ** 2 for candidate in others])))


def winner(group: list[Candidate]) -> Winner | None:
    """The winner by the one-standard-error rule (Breiman et al. 1984); None where no candidate can be ranked.

    Of the candidates that are behind the best by no more than the standard error of their difference from it, it is the
    one that uses the fewest methods; among equals the best.
    """
    ranking = ranked(group)
    if not ranking:
        return None
    best, *others = ranking
    if not others:
        return Winner(best, "no other candidate can be ranked")
    gaps = {id(candidate): behind(best, candidate) for candidate in others}
    near = [best]
    for candidate in others:
        by, error = gaps[id(candidate)]
        if by <= (0 if math.isnan(error) else error):  # without a known error only equals are near
            near.append(candidate)
    simplest = min(near, key=methods)  # the first of equals, which is the best of them
    if len(near) == 1:
        by, error = gaps[id(others[0])]
        reason = f"no other candidate is within one standard error of it; the next is {by:.4f} behind, ± {error:.4f}"
        return Winner(best, reason)
    used = f"{counted(methods(simplest), 'method')} switched on"
    if simplest is best:
        among = f"of {len(near)} candidates within one standard error of the best"
        return Winner(best, f"{among} it scores best, and none is simpler ({used})")
    by, error = gaps[id(simplest)]
    reason = (
        f"of {len(near)} candidates within one standard error of the best, {best.score:.4f} ({best.label()}), "
        f"it is the simplest ({used}); it is {by:.4f} behind, ± {error:.4f}"
    )
    return Winner(simplest, reason)


def methods(candidate):
    """How many of the varied settings switch a method on."""
    return sum(k in OFF and v != OFF[k] for k, v in candidate.settings.items())


def choose(groups: dict[str, list[Candidate]]) -> Choice | None:
    """The winner under the scheme that tells candidates apart by the smallest standard error; None if there is none.

    groups: as `candidates` gives them.
    """
    rankings = {name: ranked(group) for name, group in groups.items()}
    errors = {name: yardstick(ranking) for name, ranking in rankings.items() if ranking}
    if not errors:
        return None
    # nan compares as neither smaller nor greater: unknown errors come last by a key of their own.
    name = min(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
    won = winner(rankings[name])
    return Choice(name, won.candidate, won.reason)


def settings_key(study: Study, candidate: Candidate) -> str:
    """What a candidate changes of the base, as one string: the same under every scheme, '{}' for the base candidate."""
    return candidate_key(study.trials[candidate.trials[0]])


def schemes(study: Study, groups: dict[str, list[Candidate]]) -> list[SchemeSummary]:
    """A line a scheme, in the order of the trials. At least one of the candidates can be ranked."""
    chosen = _by_settings(study, groups[choose(groups).scheme])
    return [_scheme_summary(name, _by_settings(study, group), chosen) for name, group in groups.items()]


def _candidate(study, trials, latest, jobs, knobs, metric):
    """The Candidate of `trials`, from the rows and files that are there."""
    rows = [latest[i] for i in trials if i in latest]
    config = study.config(trials[0])
    settings = {name: getattr(config, name) for name in knobs}
    wanting, found = _why_not_ranked(study, trials, rows, jobs), None
    if not wanting:
        try:
            found = judged(study, _by_seed(study, trials), metric)
        except LongtailError as error:
            wanting = str(error)
    return Candidate(trials, settings, rows, wanting, metric, found)


def _by_seed(study, trials):
    """The trials of each seed, fold after fold."""
    of_seed = {}
    for i in sorted(trials, key=lambda i: (study.config(i).seed, study.config(i).fold)):
        of_seed.setdefault(study.config(i).seed, []).append(i)
    return list(of_seed.values())


def _on_the_same_pictures(group):
    """The candidates; those that were judged on other pictures than most cannot be ranked beside them."""
    which = Counter(candidate.held_out.pictures for candidate in group if candidate.held_out)
    if len(which) < 2:
        return group
    usual = which.most_common(1)[0][0]
    why = "its trials held out other pictures than those of most candidates"
    return [
        replace(candidate, wanting=why, held_out=None)
        if candidate.held_out and candidate.held_out.pictures != usual
        else candidate
        for candidate in group
    ]


def _why_not_ranked(study, trials, rows, jobs):
    """The first reason against ranking a candidate that its rows give, '' if there is none. jobs: trial -> epoch, of
    those that may be worked on now."""
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        return f"trial {failed[0]['trial']} failed: {failed[0]['reason']}"
    if len(rows) < len(trials):
        return "to do"
    if study.spec["halving"]:
        for row in rows:
            if row["until"] < study.rungs(row["trial"])[-1]:
                undecided = row["trial"] in jobs or row["until"] in jobs.values()
                return "to do" if undecided else f"stopped at epoch {row['until']} by halving"
    if any("macro_f1" not in row for row in rows):
        return "no validation pictures"
    return ""


def _by_settings(study, group):
    """Ranked candidates by what they try: the same under every scheme."""
    return {settings_key(study, candidate): candidate for candidate in ranked(group)}


def _scheme_summary(name, own, chosen):
    """The SchemeSummary of ranked candidates `own`, by settings, beside those of the chosen scheme."""
    if not own:
        return SchemeSummary(name, 0, math.nan, math.nan)
    both = [key for key in own if key in chosen]  # a scheme may lack candidates that another has
    agreement = math.nan
    if len(both) > 2:  # two candidates agree or not by chance alone
        agreement = stats.spearman([own[key].merit for key in both], [chosen[key].merit for key in both])
    ranking = list(own.values())
    return SchemeSummary(name, ranking[0].pictures, yardstick(ranking), agreement)
