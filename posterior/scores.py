"""Every score of a set of judged pictures, with its interval, and what guessing would get. Prints nothing."""

import math
from typing import NamedTuple

import numpy as np

import metrics
from posterior import reliability

RESAMPLES = 100


class Score(NamedTuple):
    """A score and its 95% interval, nan where none is known."""

    value: float
    low: float = math.nan
    high: float = math.nan


def of(log_posterior: np.ndarray, targets: np.ndarray, train_counts: np.ndarray) -> dict[str, Score]:
    """Every Score by its name in results.csv, with smooth_ece and top5 besides.

    log_posterior [N,C], targets int [N], train_counts [C]. Shares have Wilson's interval, macro F1 that of
    `metrics.macro_f1_interval`, mean losses a normal one, calibration errors a normal one from resampled pictures.
    """
    n, classes = log_posterior.shape
    values = metrics.evaluate(log_posterior, targets, train_counts)
    probs = metrics.softmax(log_posterior)
    predicted = log_posterior.argmax(1)
    scores = {name: Score(value) for name, value in values.items()}
    scores["smooth_ece"] = Score(reliability.smooth_ece(probs, targets))
    own = np.take_along_axis(log_posterior, targets[:, None], 1)
    in_top5 = (log_posterior > own).sum(1) < 5
    scores["acc"] = share((predicted == targets).sum(), n)
    scores["top5"] = share(in_top5.sum(), n)
    scores["macro_f1"] = Score(values["macro_f1"], *metrics.macro_f1_interval(targets, predicted, classes))
    scores["nll"] = mean(-np.take_along_axis(metrics.log_softmax(log_posterior), targets[:, None], 1)[:, 0])
    squares = (probs**2).sum(1) - 2 * np.take_along_axis(probs, targets[:, None], 1)[:, 0] + 1
    scores["brier"] = mean(squares)
    for name, group in group_scores(predicted, targets, train_counts).items():
        scores[name] = group
    scores |= _calibration_errors(probs, targets, scores)
    return scores


def share(hits: int, n: int, z: float = 1.96) -> Score:
    """hits of n, with Wilson's interval."""
    middle = hits + z * z / 2
    half = z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return Score(float(hits / n), float((middle - half) / (n + z * z)), float((middle + half) / (n + z * z)))


def mean(values: np.ndarray) -> Score:
    """The mean of values [N], with its normal interval."""
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Score(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def group_scores(predicted: np.ndarray, targets: np.ndarray, train_counts: np.ndarray) -> dict[str, Score]:
    """Mean accuracy of the classes with many, a medium number of, and few training pictures, normal intervals."""
    group = metrics.count_groups(train_counts)
    table = metrics.per_class(targets, predicted, len(group))
    scores = {}
    for name in ("many", "medium", "few"):
        classes = (group == name) & (table["support"] > 0)
        if not classes.any():
            scores[name] = Score(math.nan)
            continue
        recall, support = table["recall"][classes], table["support"][classes]
        # A class's share of hits varies by its own few pictures. One more of each kind keeps 0 and 1 from being sure.
        smoothed = (recall * support + 1) / (support + 2)
        half = 1.96 * math.sqrt((smoothed * (1 - smoothed) / support).sum()) / len(recall)
        value = float(recall.mean())
        scores[name] = Score(value, max(0.0, value - half), min(1.0, value + half))
    return scores


def guesses(targets: np.ndarray, train_counts: np.ndarray) -> dict[str, dict[str, float]]:
    """What two rules get that look at no picture: 'most frequent' and 'drawn by the prior', by score.

    The second names each class as often as it was trained on; its scores are expected ones, with the prior as its
    probabilities.
    """
    counts = np.asarray(train_counts, np.float64)
    classes = len(counts)
    prior = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum()
    support = np.bincount(targets, minlength=classes)
    part = support / support.sum()
    present = support > 0
    top = np.full(len(targets), counts.argmax())
    five = np.argsort(-counts, kind="stable")[:5]
    losses = {"nll": float(-(part * np.log(prior)).sum()), "brier": float((prior**2).sum() - 2 * part @ prior + 1)}
    drawn_f1 = 2 * part * prior / np.maximum(part + prior, 1e-300)
    return {
        "most frequent": {
            "acc": metrics.accuracy(targets, top),
            "macro_f1": metrics.macro_f1(targets, top, classes),
            "top5": float(part[five].sum()),
        },
        "drawn by the prior": {
            "acc": float(part @ prior),
            "macro_f1": float(drawn_f1[present].mean()),
            "top5": float(part @ (1 - (1 - prior) ** 5)),
            **losses,
        },
    }


def confused(targets: np.ndarray, predicted: np.ndarray, classes: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, pictures) of the mistakes, the most frequent first."""
    table = metrics.confusion(targets, predicted, classes)
    np.fill_diagonal(table, 0)
    pairs = np.argwhere(table)
    order = np.argsort(-table[tuple(pairs.T)], kind="stable")
    return [(int(a), int(b), int(table[a, b])) for a, b in pairs[order]]


def _calibration_errors(probs, targets, scores):
    """The calibration errors of `scores`, each with the interval that resampled pictures give."""
    generator = np.random.default_rng(0)
    found = {name: [] for name in reliability.SCORES}
    for _ in range(RESAMPLES):
        rows = generator.integers(len(targets), size=len(targets))
        for name, score in reliability.SCORES.items():
            found[name].append(score(probs[rows], targets[rows]))
    intervals = {}
    for name, values in found.items():
        value, half = scores[name].value, 1.96 * float(np.std(values, ddof=1))
        intervals[name] = Score(value, max(0.0, value - half), value + half)
    return intervals
