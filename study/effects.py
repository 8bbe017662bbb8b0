"""What moves a study's score: its trials as the additive model takes them, and each candidate beside the base.

Only candidates that can be ranked count. Runs and writes nothing.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

import metrics
from config import spelled
from study.held_out import difference
from study.ranking import Candidate, settings_key, varied
from study.stats import Additive, Effect
from study.table import Study


class Difference(NamedTuple):
    """A candidate against the base candidate."""

    candidate: Candidate
    mean: float  # of the metric
    half_width: float  # of its 95% interval, paired picture by picture


def factors(study: Study, group: list[Candidate]) -> tuple[list, list, dict]:
    """The ranked candidates' trials, as `stats.additive` takes them: (scores [N], blocks [N], levels).

    A score is a trial's own, of its fold. A block is a fold and seed. levels: knob -> level of each trial [N], a knob
    of many values in thirds; knobs of one level are left out.
    """
    scores, blocks, settings = [], [], []
    for candidate in group:
        if candidate.wanting:
            continue
        for row in candidate.rows:
            config = study.config(row["trial"])
            scores.append(row[candidate.metric])
            blocks.append(f"{config.fold}/{config.seed}")
            settings.append(candidate.settings)
    levels = {}
    for knob in varied(study):
        levels_of_knob = _levels([each[knob] for each in settings])
        if len(set(levels_of_knob)) > 1:
            levels[knob] = levels_of_knob
    return scores, blocks, levels


def against_base(study: Study, group: list[Candidate]) -> list[Difference]:
    """What each candidate changes of the base candidate, picture by picture; nothing where that cannot be ranked."""
    candidates = [candidate for candidate in group if not candidate.wanting]
    # The base candidate is the one that changes nothing.
    base = next((candidate for candidate in candidates if settings_key(study, candidate) == "{}"), None)
    if base is None:
        return []
    found = []
    for candidate in candidates:
        if candidate is not base:
            by, error = difference(candidate.held_out, base.held_out)
            found.append(Difference(candidate, by, metrics.Z * error))
    return found


def pair_means(scores: list[float], levels: dict, first: str, second: str) -> tuple[list, list, np.ndarray]:
    """(levels of `first`, levels of `second`, mean score [R,K] of the trials with both, nan for none), of `factors`."""
    rows, columns = in_order(levels[first]), in_order(levels[second])
    cells = np.full((len(rows), len(columns)), math.nan)
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            here = [score for score, a, b in zip(scores, levels[first], levels[second]) if (a, b) == (row, column)]
            if here:
                cells[r, c] = np.mean(here)
    return rows, columns, cells


def in_order(levels: Iterable[str]) -> list[str]:
    """The levels of a knob, each once: by their first number where they begin with one, then by name."""

    def place(level):
        try:
            return 0, float(level.split()[0]), level
        except ValueError:
            return 1, 0.0, level

    return sorted(set(levels), key=place)


def in_turn(model: Additive) -> Iterator[tuple[str, str, Effect]]:
    """(setting, level, Effect) of an additive model, one after another."""
    for name, table in model.effects.items():
        for level in in_order(table):
            yield name, level, table[level]


def _levels(values):
    """Values of a knob as the levels of a factor: as they are spelled, or more than six numbers in thirds."""
    distinct = set(values)
    numeric = all(isinstance(value, (int, float)) for value in values)
    # A search has a value a candidate: as levels of their own they would leave no degree of freedom.
    if not numeric or len(distinct) <= 6:
        return [spelled(value) for value in values]
    ordered = sorted(distinct)
    cuts = [ordered[len(ordered) * k // 3] for k in (1, 2)]
    edges = [ordered[0], *cuts, ordered[-1]]
    levels = []
    for value in values:
        third = sum(value >= cut for cut in cuts)  # how many it reaches: 0, 1 or 2
        levels.append(f"{edges[third]:.3g} to {edges[third + 1]:.3g}")
    return levels
