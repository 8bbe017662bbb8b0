"""How good a classifier is: NumPy in float64, over the whole set at once, never averaged over batches.

`targets` are int [N] in [0, C), `logits` and `probs` float [N, C], `predicted` int [N]. Scores are fractions, not per
cent. Every score raises ValueError for an empty set, for shapes that do not fit and for labels that are no class.
Nothing here chooses, fits or prints.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def softmax(logits: ArrayLike) -> np.ndarray:
    """Probabilities float64 [N, C]: e^z_k / sum_j e^z_j, row by row."""
    logits = np.asarray(logits, np.float64)
    # Less the row's largest logit the ratio is the same, and no exponential overflows.
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def accuracy(targets: ArrayLike, predicted: ArrayLike) -> float:
    """The fraction of rows that are right."""
    targets, predicted = _checked_labels(targets, predicted)
    return float((targets == predicted).mean())


def confusion(targets: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """Counts int64 [classes, classes]: row = true, column = predicted."""
    targets, predicted = _checked_labels(targets, predicted, classes)
    cells = targets * classes + predicted  # one number a cell, so that one pass counts them all
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class(targets: ArrayLike, predicted: ArrayLike, classes: int) -> dict[str, np.ndarray]:
    """A dict of float64 [classes]: precision, recall, f1 (0 where undefined) and support (rows of the class)."""
    targets, predicted = _checked_labels(targets, predicted, classes)
    # minlength: the last classes may not occur, and still have a row in the table.
    hits = np.bincount(targets[targets == predicted], minlength=classes)
    support = np.bincount(targets, minlength=classes)
    named = np.bincount(predicted, minlength=classes)
    return {
        "precision": _ratio(hits, named),
        "recall": _ratio(hits, support),
        # The harmonic mean of the two, written so that it needs neither: 0, not undefined, without a hit.
        "f1": _ratio(2 * hits, support + named),
        "support": support.astype(np.float64),
    }


def macro_f1(targets: ArrayLike, predicted: ArrayLike, classes: int, among: np.ndarray | None = None) -> float:
    """The mean of F1 over the classes that have a row in the set, or over `among` (bool [classes]).

    A class that nobody asked about says nothing; one without a hit counts as 0. among: for a resample, the classes of
    the whole set: one that it misses then counts as 0.
    """
    scores = per_class(targets, predicted, classes)
    if among is None:  # nobody asked for others
        among = scores["support"] > 0
    return float(scores["f1"][among].mean())


def worst(targets: ArrayLike, predicted: ArrayLike, classes: int) -> float:
    """The lowest recall among the classes present in `targets`."""
    scores = per_class(targets, predicted, classes)
    present = scores["support"] > 0  # an absent class has no recall; its 0 stands for undefined
    return float(scores["recall"][present].min())


def groups(
    targets: ArrayLike, predicted: ArrayLike, train_counts: ArrayLike, many: int = 100, few: int = 20
) -> dict[str, float]:
    """Mean accuracy of the classes that have many, a medium number of, or few training pictures.

    Many: more than `many`; few: fewer than `few`; each class counts alike, as in Liu et al. 2019 (OLTR) and the papers
    after it. train_counts: training pictures of each class [C]. Classes without a row are left out; nan for a group
    that has none left.
    """
    pictures = np.asarray(train_counts)
    table = per_class(targets, predicted, len(pictures))
    present = table["support"] > 0
    classes_of = {
        "many": pictures > many,
        "medium": (pictures >= few) & (pictures <= many),
        "few": pictures < few,
    }
    scores = {}
    for name, classes in classes_of.items():
        recall = table["recall"][classes & present]
        # nan, not 0: a group that nobody asked about is not one that was always wrong.
        scores[name] = float(recall.mean()) if len(recall) else math.nan
    return scores


def nll(logits: ArrayLike, targets: ArrayLike) -> float:
    """Mean negative log-likelihood in nats, from logits: a confident mistake costs its true, finite price."""
    logits, targets = _checked_scores(logits, targets)
    shifted = logits - logits.max(1, keepdims=True)
    # log(sum) - z rather than -log(softmax): a probability that is 0 in float64 still has a logarithm.
    log_normalizer = np.log(np.exp(shifted).sum(1))
    return float((log_normalizer - _of_target(shifted, targets)).mean())


def brier(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean squared distance from the one-hot target, summed over classes (Brier 1950): 0 best, 2 worst."""
    probs, targets = _checked_probs(probs, targets)
    # sum_k (p_k - 1{k = t})^2 multiplied out: the one-hot matrix is never built.
    squares = (probs**2).sum(1)
    return float((squares - 2 * _of_target(probs, targets) + 1).mean())


def ece(probs: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error of the top class (Guo et al. 2017), over `bins` bins of equal width.

    Each bin is closed on the left, the last on both sides: confidence 1.0 lies in the last bin.
    """
    confidence, hits = _top_class(probs, targets)
    return _calibration_gap(_equal_width_bins(confidence, bins), confidence, hits, bins)


def adaptive_ece(probs: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """ECE of the top class over `bins` bins of equally many rows, sizes differing by one at most.

    AdaECE of Mukhoti et al. 2020; Nixon et al. 2019 apply the scheme to every class. Rows of equal confidence count as
    their mean: where a bin's edge parts them, their order decides nothing.
    """
    confidence, hits = _top_class(probs, targets)
    _, tie, size = np.unique(confidence, return_inverse=True, return_counts=True)
    hits = (np.bincount(tie, hits) / size)[tie]
    order = np.argsort(confidence)
    bin_of = np.empty(len(order), np.int64)
    # The row at place r goes to bin r * bins // N: sizes differ by one at most, whatever N is.
    bin_of[order] = np.arange(len(order)) * bins // len(order)
    return _calibration_gap(bin_of, confidence, hits, bins)


def classwise_ece(probs: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """Mean over classes of the ECE of "is it class c?" at p_c, with the bins of `ece`.

    Class-wise ECE of Kull et al. 2019, which is the static calibration error of Nixon et al. 2019.
    """
    probs, targets = _checked_probs(probs, targets)
    classes = np.arange(probs.shape[1])
    # Every class has `bins` bins of its own, so that one call counts all of them.
    bin_of = _equal_width_bins(probs, bins) + classes * bins
    hits = targets[:, None] == classes
    # Divided by N * C rows, the sum over the classes' bins is the mean over classes.
    return _calibration_gap(bin_of.ravel(), probs.ravel(), hits.ravel(), bins * len(classes))


def bootstrap(
    metric: Callable, targets: ArrayLike, outputs: ArrayLike, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of `metric(targets, outputs)` over `n` resamples of the rows (Efron 1979).

    outputs: predicted [N] or probs [N, C], whatever `metric` takes. The same seed draws the same rows, so two
    classifiers' scores are resampled alike.
    """
    scores = _resampled(metric, targets, outputs, n, seed)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(metric: Callable, targets: ArrayLike, outputs: ArrayLike, n: int = 200, seed: int = 0) -> float:
    """The bootstrap's standard error of `metric(targets, outputs)`; arguments as for `bootstrap`."""
    scores = _resampled(metric, targets, outputs, n, seed)
    return float(np.std(scores, ddof=1))  # ddof: their mean was taken from them too


def evaluate(logits: ArrayLike, targets: ArrayLike, train_counts: ArrayLike) -> dict[str, float]:
    """Every scalar metric of logits [N, C] as a dict of floats; train_counts [C] say which classes are head or tail."""
    logits, targets = _checked_scores(logits, targets)
    classes = logits.shape[1]
    if len(train_counts) != classes:
        raise ValueError(f"train_counts has {len(train_counts)} numbers, but there are {classes} classes")
    probs = softmax(logits)  # once, for all the scores that want probabilities
    predicted = logits.argmax(1)  # of the logits: two that differ may round to one probability
    return {
        "acc": accuracy(targets, predicted),
        "macro_f1": macro_f1(targets, predicted, classes),
        "worst": worst(targets, predicted, classes),
        **groups(targets, predicted, train_counts),
        "nll": nll(logits, targets),
        "brier": brier(probs, targets),
        "ece": ece(probs, targets),
        "adaptive_ece": adaptive_ece(probs, targets),
        "classwise_ece": classwise_ece(probs, targets),
    }


def _resampled(metric, targets, outputs, n, seed):
    """`metric` of `n` resamples of the rows, a list."""
    targets = np.asarray(targets)
    outputs = np.asarray(outputs)
    if not len(targets) == len(outputs) > 0:
        raise ValueError(f"{len(targets)} targets and {len(outputs)} outputs; must be equally many and more than none")
    generator = np.random.default_rng(seed)
    scores = []
    for _ in range(n):
        # A target and its output are drawn together: their pairs are what a new set would bring.
        rows = generator.integers(len(targets), size=len(targets))
        scores.append(metric(targets[rows], outputs[rows]))
    return scores


def _calibration_gap(bin_of, confidence, hits, bins):
    """Sum over bins of |sum of confidence - hits| over all N rows."""
    # A bin's |mean confidence - accuracy| times its share of the rows is |difference of sums| / N: no bin's size is
    # divided by, so an empty one does no harm.
    confidence_sum = np.bincount(bin_of, confidence, bins)
    hit_sum = np.bincount(bin_of, hits, bins)
    return float(np.abs(confidence_sum - hit_sum).sum() / len(bin_of))


def _equal_width_bins(confidence, bins):
    """The bin of each confidence in [0, 1], int64 of its shape."""
    bin_of = (confidence * bins).astype(np.int64)
    return np.minimum(bin_of, bins - 1)  # confidence 1.0 would be in a bin of its own


def _top_class(probs, targets):
    """Of each row the largest probability, float64 [N], and whether its class is right, bool [N]."""
    probs, targets = _checked_probs(probs, targets)
    return probs.max(1), probs.argmax(1) == targets


def _of_target(scores, targets):
    """Of each row of `scores` [N, C] the target's, [N]."""
    return scores[np.arange(len(scores)), targets]


def _ratio(numerator, denominator):
    """numerator / denominator, float64 [C], and 0 where nothing was counted."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


# Checks. NumPy takes a negative label as a position from the end, and stretches a wrong shape: both would score.


def _checked_labels(targets, predicted, classes=None):
    """Both int64 [N]. classes: what they must be below, if it is known."""
    targets = np.asarray(targets)
    predicted = np.asarray(predicted)
    if targets.shape != predicted.shape or targets.ndim != 1 or not targets.size:
        raise ValueError(f"targets {targets.shape} and predicted {predicted.shape} must be [N] both, N above 0")
    return _whole_labels(targets, classes), _whole_labels(predicted, classes)


def _checked_scores(scores, targets):
    """Finite scores float64 [N, C] and targets int64 [N]."""
    scores = np.asarray(scores, np.float64)
    targets = np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or not scores.size:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must be [N, C] and [N], N and C above 0")
    finite = np.isfinite(scores).all(1)
    if not finite.all():
        raise ValueError(f"scores are not finite in row {np.flatnonzero(~finite)[0]}")
    return scores, _whole_labels(targets, scores.shape[1])


def _checked_probs(probs, targets):
    """Probabilities float64 [N, C] and targets int64 [N]."""
    probs, targets = _checked_scores(probs, targets)
    if probs.min() < 0 or probs.max() > 1 + 1e-6:  # a float32 softmax may round to a little above 1
        raise ValueError(f"probabilities run from {probs.min():g} to {probs.max():g}; are these logits?")
    return probs, targets


def _whole_labels(labels, classes):
    if labels.dtype.kind not in "iu":  # signed and unsigned integers: a bool is no label
        raise ValueError(f"labels must be integers; got {labels.dtype}")
    if classes is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {classes} classes")
    return labels.astype(np.int64)
