"""What a classifier's mistakes are made of: classes that are confused, labels that may be wrong, kinds of pictures.

NumPy in float64. Reads no file, fits nothing and prints nothing.
"""

import math
from typing import NamedTuple

import numpy as np

from posterior.priors import move, shares
from posterior.scores import Score, wilson


class Segment(NamedTuple):
    """A quarter of the pictures by one of their properties."""

    low: float  # of the property, in its units
    high: float
    n: int
    accuracy: Score
    expected: float  # accuracy that the classes in it have elsewhere
    p_value: float  # how likely chance alone makes it so much worse than expected, one-sided


def f1_interval(hits: int, missed: int, wrongly: int) -> Score:
    """F1 of a class with its 95% interval, nan where the class was neither there nor named.

    hits: its pictures that were recognised; missed: those that were not; wrongly: others that were taken for it. With
    J = hits / (hits + missed + wrongly), F1 = 2J / (1 + J). J is a share, and Wilson's interval of it is transformed.
    """
    n = hits + missed + wrongly
    if n == 0:
        return Score(np.nan)
    return Score(*(2 * j / (1 + j) for j in wilson(hits, n)))


def cluster_order(table: np.ndarray) -> np.ndarray:
    """An order of the classes, int [C], in which those that are taken for each other stand together.

    table: confusion counts [C,C]. Average linkage (Sokal & Michener 1958) of the shares of pictures confused either
    way; when two clusters join, the ends that are most alike meet.
    """
    rates = table / np.maximum(table.sum(1, keepdims=True), 1)
    alike = rates + rates.T
    np.fill_diagonal(alike, -np.inf)
    between = alike.astype(np.float64)  # of clusters; a cluster is kept at the row of its first class
    clusters = [[c] for c in range(len(table))]
    for _ in range(len(table) - 1):
        a, b = np.unravel_index(between.argmax(), between.shape)
        left, right = clusters[a], clusters[b]
        clusters[a] = _joined(left, right, alike)
        mean = (len(left) * between[a] + len(right) * between[b]) / len(clusters[a])
        between[a] = mean
        between[:, a] = mean
        between[a, a] = -np.inf
        between[b] = -np.inf  # its classes are a's now
        between[:, b] = -np.inf
    return np.array(clusters[a] if len(table) > 1 else [0])


def _joined(left, right, alike):
    """The lists of classes `left` and `right` as one, each turned so that the ends that meet are most alike."""
    ways = []
    for first in (left, left[::-1]):
        for second in (right, right[::-1]):
            ways.append((alike[first[-1], second[0]], first + second))
    return max(ways, key=lambda way: way[0])[1]


def suspects(log_posterior: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> list[tuple[int, int, float]]:
    """(row, the class that it looks like, margin) of pictures whose label may be wrong, the likeliest first.

    Confident learning (Northcutt et al. 2021) with the training prior taken out, else rare classes look wrong: class j
    is likely where p_j is at least its mean over the rows labelled j. A row is suspect where its likeliest such class,
    and its likeliest class of all, are not its label. margin: by how much more probable the other one is.
    log_posterior [N,C] under the training prior, targets int [N], counts [C] of training pictures.
    """
    classes = log_posterior.shape[1]
    uniform = np.full(classes, 1 / classes)
    probs = np.exp(move(log_posterior, shares(counts), uniform))
    rows = np.arange(len(targets))
    own = probs[rows, targets]
    support = np.bincount(targets, minlength=classes)
    threshold = np.bincount(targets, own, classes) / np.maximum(support, 1)
    threshold[support == 0] = np.inf  # of such a class nothing is known
    likely = np.where(probs >= threshold, probs, 0)
    seems = likely.argmax(1)
    doubted = likely[rows, seems] > 0
    doubted &= seems != targets
    doubted &= probs.argmax(1) != targets
    margin = probs[rows, seems] - own
    order = np.argsort(-margin, kind="stable")
    order = order[doubted[order]]
    return list(zip(order.tolist(), seems[order].tolist(), margin[order].tolist()))


def worth_a_look(
    log_posterior: np.ndarray, targets: np.ndarray, counts: np.ndarray
) -> dict[str, tuple[list[int], str]]:
    """title -> (rows, the most telling first; why): what a person would want to see. Arguments as `suspects`."""
    rows = np.arange(len(targets))
    second, first = np.sort(log_posterior, 1)[:, -2:].T
    wrong = rows[log_posterior.argmax(1) != targets]
    any_order = np.random.default_rng(0).permutation(rows)
    by_certainty = wrong[np.argsort(-first[wrong], kind="stable")]
    by_loss = np.argsort(log_posterior[rows, targets], kind="stable")
    by_lead = np.argsort(first - second, kind="stable")
    doubted = [row for row, *_ in suspects(log_posterior, targets, counts)]
    return {
        "Labels and answers": (any_order.tolist(), "Drawn at random."),
        "Most confident mistakes": (by_certainty.tolist(), "The surest answers that are wrong."),
        "Top losses": (by_loss.tolist(), "The least probable labels."),
        "Least sure": (by_lead.tolist(), "The two likeliest classes are nearly as likely."),
        "Suspected labels": (
            doubted,
            "With all classes equally frequent, another one fits better (confident learning).",
        ),
    }


def segments(values: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> list[Segment]:
    """The pictures in quarters by a property `values` [N], the lowest first; equal values stay together."""
    hits = targets == predicted
    classes = targets.max() + 1
    edges = np.unique(np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    quarter = np.clip(np.searchsorted(edges, values, "right") - 1, 0, max(len(edges) - 2, 0))
    found = []
    for number in np.unique(quarter):
        here = quarter == number
        n = int(here.sum())
        right = int(hits[here].sum())
        # Each class counts as it does outside; two more pictures at the mean rate keep 0 and 1 from being sure.
        outside = np.bincount(targets[~here], minlength=classes)
        outside_hits = np.bincount(targets[~here], hits[~here], classes)
        mean = hits[~here].mean() if n < len(hits) else hits.mean()
        rate_of_class = (outside_hits + 2 * mean) / (outside + 2)
        rate = rate_of_class[targets[here]]
        variance = (rate * (1 - rate)).sum()
        error = math.sqrt(max(variance, 1e-12))
        # Half a hit nearer: the normal distribution stands for one that takes whole numbers.
        z = (rate.sum() - right - 0.5) / error
        p_value = math.erfc(z / math.sqrt(2)) / 2
        low, high = float(values[here].min()), float(values[here].max())
        found.append(Segment(low, high, n, wilson(right, n), float(rate.mean()), p_value))
    return found
