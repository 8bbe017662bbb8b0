"""What is known of each class from held-out pictures: its scores, and how sure the answers are that name it."""

import math
from typing import NamedTuple

import numpy as np

import metrics
from posterior import reliability
from posterior.evidence import Evidence
from posterior.mistakes import f1_interval
from posterior.reliability import Gap
from posterior.scores import Score


class ClassScores(NamedTuple):
    """A class; nan, or None, for what cannot be known of it."""

    name: str
    group: str  # many, medium or few
    trained: float  # training pictures
    support: int  # held-out pictures
    f1: Score
    precision: float
    recall: float
    answers: int  # pictures that it was named for
    ece: float  # of these answers
    gap: Gap | None  # of these answers


def trend(rows: list[ClassScores], parts: int = 6) -> tuple[list[float], list[float]]:
    """(mean training pictures, mean F1) of so many groups of classes, in the order of `rows`, to guide the eye: fewer
    where a group would have under three classes, and none where that leaves less than two."""
    known = [row for row in rows if not math.isnan(row.f1.value)]
    parts = min(parts, len(known) // 3)
    groups = np.array_split(np.arange(len(known)), parts) if parts > 1 else []
    trained = [float(np.mean([known[i].trained for i in group])) for group in groups]
    return trained, [float(np.mean([known[i].f1.value for i in group])) for group in groups]


def by_class(found: Evidence) -> list[ClassScores]:
    """The ClassScores of every class, in the order of their numbers."""
    targets, predicted = found.targets, found.log_posterior.argmax(1)
    probs = metrics.softmax(found.log_posterior)
    columns = metrics.per_class(targets, predicted, len(found.classes))
    answers = np.bincount(predicted, minlength=len(found.classes))
    gaps = reliability.gaps_by(probs, targets, predicted)
    group = metrics.count_groups(found.counts)
    rows = []
    for c, name in enumerate(found.classes):
        support, named = int(columns["support"][c]), int(answers[c])
        hits = round(columns["recall"][c] * support)
        here = predicted == c
        rows.append(
            ClassScores(
                name=name,
                group=str(group[c]),
                trained=float(found.counts[c]),
                support=support,
                f1=f1_interval(hits, support - hits, named - hits) if support else Score(math.nan),
                precision=float(columns["precision"][c]) if named else math.nan,
                recall=float(columns["recall"][c]) if support else math.nan,
                answers=named,
                ece=metrics.ece(probs[here], targets[here]) if named else math.nan,
                gap=gaps.get(c),
            )
        )
    return rows
