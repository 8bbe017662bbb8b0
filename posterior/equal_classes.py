"""Held-out pictures as if all classes were equally frequent: what `--prior uniform` is judged by.

Held-out pictures are as unbalanced as the training pictures, so that the frequent classes decide their scores. Where
all classes count the same, each picture weighs one over its class's number of pictures (importance weights, Shimodaira
2000). `weights` are float64 [N] with mean 1. Fits nothing and prints nothing.
"""

import math
from typing import NamedTuple

import numpy as np

import metrics
from posterior.priors import move
from posterior.reliability import NORMAL, Chance
from posterior.scores import Score


class Mean(NamedTuple):
    """A weighted mean and its standard error, 0 of one row."""

    value: float
    error: float


def row_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """Weights [N] for targets int [N], under which all classes that occur count the same."""
    count = np.bincount(targets, minlength=classes)
    return len(targets) / ((count > 0).sum() * count[targets])


def effective(weights: np.ndarray) -> float:
    """How many rows of equal weight say as much (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def mean(values: np.ndarray, weights: np.ndarray) -> Mean:
    """The mean of values [N], weighted; with equal weights the error is the usual one."""
    middle = float(np.average(values, weights=weights))
    n = len(values)
    if n < 2:
        return Mean(middle, 0.0)
    squares = (weights**2 * (values - middle) ** 2).sum()
    return Mean(middle, float(math.sqrt(squares * n / (n - 1)) / weights.sum()))


def scores(log_posterior: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Score]:
    """Accuracy, NLL and ECE of log posteriors [N,C], by their names in results.csv.

    Accuracy has the interval of as many pictures as `effective` says, NLL a normal one, ECE none.
    """
    confidence, hits = metrics.top_class(metrics.softmax(log_posterior), targets)
    losses = -metrics.log_softmax(log_posterior)[np.arange(len(targets)), targets]
    share = float(np.average(hits, weights=weights))
    nll, error = mean(losses, weights)
    return dict(
        acc=Score(share, *metrics.proportion_interval(share, effective(weights))),
        nll=Score(nll, nll - NORMAL * error, nll + NORMAL * error),
        ece=Score(ece(confidence, hits, weights)),
    )


def ece(confidence: np.ndarray, hits: np.ndarray, weights: np.ndarray) -> float:
    """`metrics.ece` of confidences [N] and hits [N], where rows count by their weights [N]."""
    bin_of = metrics.equal_width_bins(confidence, metrics.BINS)
    gap = np.bincount(bin_of, weights * (confidence - hits), metrics.BINS)
    return float(np.abs(gap).sum() / weights.sum())


def chance(
    log_posterior: np.ndarray, prior: np.ndarray, targets: np.ndarray, draws: int = 200, seed: int = 0
) -> Chance:
    """What `ece` shows by chance alone, where the log posteriors [N,C] for equal classes are right.

    Labels are drawn from what they say under `prior` [C], that of the pictures. A label brings its class's weight, as
    the pictures with `targets` [N] have it.
    """
    generator = np.random.default_rng(seed)
    classes = len(prior)
    equal = np.full(classes, 1 / classes)
    of_class = np.zeros(classes)
    of_class[targets] = row_weights(targets, classes)
    cumulative = np.exp(move(log_posterior, equal, prior)).cumsum(1)
    cumulative /= cumulative[:, -1:]
    confidence, named = metrics.softmax(log_posterior).max(1), log_posterior.argmax(1)
    found = []
    for _ in range(draws):
        drawn = (cumulative > generator.random((len(cumulative), 1))).argmax(1)
        found.append(ece(confidence, drawn == named, of_class[drawn]))
    low, high = np.quantile(found, (0.025, 0.975))
    return Chance(float(np.mean(found)), float(low), float(high))
