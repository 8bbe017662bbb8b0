"""How far probabilities can be trusted: smooth calibration error, what chance alone shows, gaps by class and group.

NumPy in float64. `probs` are [N,C], `targets` int [N]. Fits nothing and prints nothing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import metrics

GRID = 1024  # cells of [0, 1] on which residuals are smoothed
NORMAL = 1.96  # standard errors on either side of a normal distribution's 95%
EXACT = 1000  # rows up to which the number of hits has its exact distribution
Score = Callable[[np.ndarray, np.ndarray], float]


class Gap(NamedTuple):
    """How often answers are right, beside how sure they are."""

    n: int
    confidence: float  # the mean probability of the named class
    accuracy: float
    half_width: float  # what chance alone makes of confidence - accuracy in 95% of sets, where probabilities are right
    p_value: float  # how likely chance alone gives so large a difference, two-sided

    @property
    def gap(self) -> float:
        """Above 0: too sure."""
        return self.confidence - self.accuracy


class Chance(NamedTuple):
    """What a score would be for the same probabilities, if they were right: labels drawn from them."""

    mean: float
    low: float  # 2.5% of the draws lie below
    high: float


def smooth_ece(probs: np.ndarray, targets: np.ndarray) -> float:
    """Smooth calibration error of the top class (Blasiok & Nakkiran 2023), which needs no bins.

    The residual hit - confidence, as a function of confidence, is smoothed by a Gaussian of width s that is reflected
    at 0 and 1; the error is the integral of its absolute value, and s is where that equals s.
    """
    confidence, hits = metrics.top_class(probs, targets)
    place = np.clip(confidence * GRID - 0.5, 0, GRID - 1)  # in cells, by their centres
    low = np.minimum(place.astype(np.int64), GRID - 2)
    share = place - low
    residual = (hits - confidence) / len(hits)
    cells = np.bincount(low, residual * (1 - share), GRID) + np.bincount(low + 1, residual * share, GRID)
    # A function that is mirrored at both ends is periodic, and a Gaussian multiplies its Fourier coefficients.
    spectrum = np.fft.rfft(np.concatenate([cells, cells[::-1]]))
    frequency = np.pi * np.arange(len(spectrum))  # by the mirrored function's period of 2

    def error(width):
        smoothed = np.fft.irfft(spectrum * np.exp(-0.5 * (width * frequency) ** 2), 2 * GRID)
        return float(np.abs(smoothed[:GRID]).sum())

    below, above = 0.0, 1.0  # the error falls as the width grows
    for _ in range(20):  # to a millionth
        width = (below + above) / 2
        if error(width) > width:
            below = width
        else:
            above = width
    return (below + above) / 2


SCORES: dict[str, Score] = {
    "ece": metrics.ece,
    "adaptive_ece": metrics.adaptive_ece,
    "classwise_ece": metrics.classwise_ece,
    "smooth_ece": smooth_ece,
}


class Errors:
    """SCORES of the same probabilities [N,C], for many sets of labels or of rows.

    Fast: only class-wise ECE needs all N x C probabilities, and its sums are kept. SCORES one by one look at all.
    """

    def __init__(self, probs: np.ndarray):
        self.probs = np.asarray(probs, np.float64)
        self.named = self.probs.argmax(1)
        # All that a score of the top class looks at: it, and one other for a miss.
        confidence = self.probs.max(1)
        self.top = np.stack([confidence, np.zeros_like(confidence)], 1)
        # Of class-wise ECE the cell that a probability lies in: each class has metrics.BINS of its own.
        classes = self.probs.shape[1]
        self.cells = metrics.BINS * classes
        self.cell = metrics.equal_width_bins(self.probs, metrics.BINS).astype(np.int32)
        # Most probabilities lie in the first bin of their class, whose sum is that of the class less the others.
        self.rows, columns = np.nonzero(self.cell)
        self.cell += metrics.BINS * np.arange(classes, dtype=np.int32)
        self.beyond = self.cell[self.rows, columns], self.probs[self.rows, columns]
        self.sums = self._sums(np.ones(len(self.probs)))

    def __call__(self, labels: np.ndarray, rows: np.ndarray | None = None) -> dict[str, float]:
        """Each of SCORES for labels int [N], of all rows or of `rows`, which may name a row again."""
        n, classes = self.probs.shape
        missed = (labels != self.named).astype(np.int64)
        own = self.cell[np.arange(n), labels]
        sums, times, top = self.sums, None, self.top
        if rows is not None:
            top, missed = top[rows], missed[rows]
            times = np.bincount(rows, minlength=n).astype(np.float64)  # that a row counts
            sums = self._sums(times)
        hits = np.bincount(own, times, self.cells)
        found = {name: score(top, missed) for name, score in SCORES.items() if name != "classwise_ece"}
        return found | {"classwise_ece": float(np.abs(sums - hits).sum()) / (len(missed) * classes)}

    def _sums(self, times):
        """The sum of the probabilities in each cell, where row i counts times[i]."""
        cell, probs = self.beyond
        sums = np.bincount(cell, times[self.rows] * probs, self.cells)
        sums[:: metrics.BINS] = times @ self.probs - sums.reshape(-1, metrics.BINS).sum(1)
        return sums


def chance(probs: np.ndarray, draws: int = 200, seed: int = 0) -> dict[str, Chance]:
    """What each of SCORES shows by chance alone, where `probs` are right: over labels drawn from them.

    An error of n pictures is never 0. One inside of this range says nothing against the probabilities.
    """
    generator = np.random.default_rng(seed)
    errors = Errors(probs)
    cumulative = errors.probs.cumsum(1)
    cumulative /= cumulative[:, -1:]  # a float32 softmax may sum to a little less than 1
    found = []
    for _ in range(draws):
        drawn = (cumulative > generator.random((len(cumulative), 1))).argmax(1)  # the first: the last is 1
        found.append(errors(drawn))
    summary = {}
    for name in SCORES:
        values = [each[name] for each in found]
        low, high = np.quantile(values, (0.025, 0.975))
        summary[name] = Chance(float(np.mean(values)), float(low), float(high))
    return summary


def gap(probs: np.ndarray, targets: np.ndarray) -> Gap:
    """The Gap of all rows, beside what chance gives where each row is right with its own probability."""
    confidence, hits = metrics.top_class(probs, targets)
    n = len(hits)
    half_width = NORMAL * math.sqrt((confidence * (1 - confidence)).sum()) / n
    return Gap(n, float(confidence.mean()), float(hits.mean()), half_width, _p_value(confidence, int(hits.sum())))


def gaps_by(probs: np.ndarray, targets: np.ndarray, group: np.ndarray) -> dict:
    """The Gap of each value in `group` [N], in their order."""
    return {value: gap(probs[group == value], targets[group == value]) for value in np.unique(group)}


def bins(probs: np.ndarray, targets: np.ndarray) -> list[Gap]:
    """The Gap of the rows in each bin of confidence, of equal widths, that holds one."""
    confidence, _ = metrics.top_class(probs, targets)
    return list(gaps_by(probs, targets, metrics.equal_width_bins(confidence, metrics.BINS)).values())


def coverage(probs: np.ndarray, targets: np.ndarray, shares=(1.0, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)) -> list[tuple]:
    """(share of the rows answered, the lowest confidence among them, their accuracy), the surest rows first."""
    confidence, hits = metrics.top_class(probs, targets)
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for share in shares:
        answered = order[: max(1, round(share * len(order)))]
        rows.append((share, float(confidence[answered[-1]]), float(hits[answered].mean())))
    return rows


def _p_value(confidence, hits):
    """Twice the smaller tail of the number of hits, which is Poisson-binomial; for many rows, as good as normal."""
    if len(confidence) > EXACT:
        variance = (confidence * (1 - confidence)).sum()
        if not variance:  # all answers are said to be certain
            return float(hits == len(confidence))
        # Half a hit nearer: the normal distribution stands for one that takes whole numbers.
        z = max(abs(hits - confidence.sum()) - 0.5, 0) / math.sqrt(variance)
        return math.erfc(z / math.sqrt(2))
    chance = np.ones(1)  # of 0, 1, 2, ... hits among the rows so far
    for p in confidence:
        chance = np.append(chance * (1 - p), 0) + np.append(0, chance * p)
    return float(min(1, 2 * min(chance[: hits + 1].sum(), chance[hits:].sum())))
