"""Every score of a set of judged pictures, with its interval, and what guessing would get. Prints nothing."""

import json
import math
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from errors import LongtailError
from posterior import reliability
from posterior.priors import shares
from posterior.reliability import NORMAL

RESAMPLES = 100
TITLES = {
    "acc": "accuracy",
    "macro_f1": "macro F1",
    "top5": "top-5 accuracy",
    "worst": "worst class's accuracy",
    "many": "accuracy, many",
    "medium": "accuracy, medium",
    "few": "accuracy, few",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "classwise_ece": "class-wise ECE",
    "smooth_ece": "smooth ECE",
}


class Score(NamedTuple):
    """A score and its 95% interval, nan where none is known."""

    value: float
    low: float = math.nan
    high: float = math.nan


def as_json(found: dict[str, NamedTuple]) -> dict[str, dict[str, float | None]]:
    """Scores, or a Chance each, by name, as JSON has them: None for what is not known, for it has no nan."""
    return {
        name: {part: None if value != value else value for part, value in score._asdict().items()}
        for name, score in found.items()
    }


def of(
    log_posterior: np.ndarray, targets: np.ndarray, train_counts: np.ndarray, resamples: int = RESAMPLES
) -> dict[str, Score]:
    """Every Score by its name in results.csv, with smooth_ece and top5 besides.

    log_posterior [N,C], targets int [N], train_counts [C]. Shares have Wilson's interval, macro F1 that of
    `metrics.macro_f1_interval`, mean losses a normal one, calibration errors a normal one from `resamples` draws of the
    pictures, and none where that is 0.
    """
    n, classes = log_posterior.shape
    values = metrics.evaluate(log_posterior, targets, train_counts)
    probs = metrics.softmax(log_posterior)
    predicted = log_posterior.argmax(1)
    true = targets[:, None]  # a column, to take each row's own class by
    scores = {name: Score(value) for name, value in values.items()}
    scores["acc"] = wilson((predicted == targets).sum(), n)

    own = np.take_along_axis(log_posterior, true, 1)
    ahead = (log_posterior > own).sum(1)  # classes that are likelier than the true one
    scores["top5"] = wilson((ahead < 5).sum(), n)

    low, high = metrics.macro_f1_interval(targets, predicted, classes)
    scores["macro_f1"] = Score(values["macro_f1"], low, high)

    log_p = np.take_along_axis(metrics.log_softmax(log_posterior), true, 1)
    scores["nll"] = mean(-log_p[:, 0])
    squares = (probs**2).sum(1)
    scores["brier"] = mean(squares - 2 * np.exp(log_p[:, 0]) + 1)

    scores |= group_scores(predicted, targets, train_counts)
    scores["smooth_ece"] = Score(reliability.smooth_ece(probs, targets))
    if resamples:
        scores |= _calibration_errors(probs, targets, scores, resamples)
    return scores


def read_evaluation(folder: Path) -> tuple[str, dict[str, Score]]:
    """(which pictures, every Score) that evaluate.py wrote for a run or study. LongtailError where it has not."""
    try:
        kept = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        known = {name: [score[key] for key in Score._fields] for name, score in kept["scores"].items()}
        # As `as_json` writes it: None for what is not known.
        judged = {name: Score(*(math.nan if x is None else float(x) for x in known[name])) for name in TITLES}
        return f"{kept['pictures']}, n {kept['n']}", judged
    except FileNotFoundError:
        judging = f"python evaluate.py --run {shlex.quote(str(folder))} --test DIR"
        raise LongtailError(f"scores on pictures that chose nothing: {judging}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LongtailError("evaluation.json is damaged: python evaluate.py makes it again") from None


def wilson(hits: int, n: int) -> Score:
    """hits of n, with Wilson's interval."""
    more = n + NORMAL**2
    middle = (hits + NORMAL**2 / 2) / more
    half = NORMAL * math.sqrt(hits * (n - hits) / n + NORMAL**2 / 4) / more
    return Score(float(hits / n), float(middle - half), float(middle + half))


def bins(probs: np.ndarray, targets: np.ndarray) -> list[tuple]:
    """(confidence, accuracy, its lower and its upper 95% limit, rows) of the bins of `reliability.bins`."""
    found = reliability.bins(probs, targets)
    return [(gap.confidence, *wilson(round(gap.accuracy * gap.n), gap.n), gap.n) for gap in found]


def mean(values: np.ndarray) -> Score:
    """The mean of values [N], with its normal interval."""
    middle = float(values.mean())
    if len(values) < 2:
        return Score(middle)
    half = NORMAL * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Score(middle, middle - half, middle + half)


def group_scores(predicted: np.ndarray, targets: np.ndarray, train_counts: np.ndarray) -> dict[str, Score]:
    """Mean accuracy of the classes with many, a medium number of, and few training pictures, normal intervals."""
    group = metrics.count_groups(train_counts)
    table = metrics.per_class(targets, predicted, len(group))
    scores = {}
    for name in metrics.GROUPS:
        classes = (group == name) & (table["support"] > 0)
        if not classes.any():
            scores[name] = Score(math.nan)
            continue
        recall = table["recall"][classes]
        support = table["support"][classes]
        # A class's share of hits varies by its own few pictures. One more of each kind keeps 0 and 1 from being sure.
        smoothed = (recall * support + 1) / (support + 2)
        variances = smoothed * (1 - smoothed) / support
        half = NORMAL * math.sqrt(variances.sum()) / len(recall)
        value = float(recall.mean())
        scores[name] = Score(value, max(0.0, value - half), min(1.0, value + half))
    return scores


def guesses(targets: np.ndarray, train_counts: np.ndarray) -> dict[str, dict[str, float]]:
    """What two rules get that look at no picture: 'most frequent' and 'drawn by the prior', by score.

    The second names each class as often as it was trained on; its scores are expected ones, with the prior as its
    probabilities. Named M times of N, a class of n pictures is right n M / N times on average: F1 2 n M / (N (n + M)),
    where M has a binomial distribution.
    """
    counts = np.asarray(train_counts, np.float64)
    prior = shares(counts)
    support = np.bincount(targets, minlength=len(counts))
    part = support / support.sum()  # of each class among these pictures
    most_frequent = np.full(len(targets), counts.argmax())
    five_most = np.argsort(-counts, kind="stable")[:5]
    first = {
        "acc": metrics.accuracy(targets, most_frequent),
        "macro_f1": metrics.macro_f1(targets, most_frequent, len(counts)),
        "top5": float(part[five_most].sum()),
    }
    named = np.arange(len(targets) + 1)
    log_factorial = np.append(0.0, np.log(named[1:]).cumsum())
    choices = log_factorial[-1] - log_factorial - log_factorial[::-1]
    drawn_f1 = []
    for n, p in zip(support[support > 0], prior[support > 0]):
        chance = np.exp(choices + named * math.log(p) + named[::-1] * math.log1p(-p))
        drawn_f1.append(chance @ (2 * n * named / (len(targets) * (n + named))))
    missed_by_five = (1 - prior) ** 5
    second = {
        "acc": float(part @ prior),
        "macro_f1": float(np.mean(drawn_f1)),
        "top5": float(part @ (1 - missed_by_five)),
        "nll": float(-part @ np.log(prior)),
        "brier": float((prior**2).sum() - 2 * part @ prior + 1),
    }
    return {"most frequent": first, "drawn by the prior": second}


def confused(targets: np.ndarray, predicted: np.ndarray, classes: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, pictures) of the mistakes, the most frequent first."""
    table = metrics.confusion(targets, predicted, classes)
    np.fill_diagonal(table, 0)
    pairs = np.argwhere(table)
    counts = table[pairs[:, 0], pairs[:, 1]]
    order = np.argsort(-counts, kind="stable")
    return [(int(a), int(b), int(table[a, b])) for a, b in pairs[order]]


def _calibration_errors(probs, targets, scores, resamples):
    """The calibration errors of `scores`, each with the interval that resampled pictures give."""
    if len(targets) < 2:
        return {}  # every resample is the same
    generator = np.random.default_rng(0)
    errors = reliability.Errors(probs)
    found = []
    for _ in range(resamples):
        rows = generator.integers(len(targets), size=len(targets))
        found.append(errors(targets, rows))
    intervals = {}
    for name in reliability.SCORES:
        value = scores[name].value
        half = NORMAL * float(np.std([each[name] for each in found], ddof=1))
        intervals[name] = Score(value, max(0.0, value - half), value + half)
    return intervals
