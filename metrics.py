"""How good a classifier is: NumPy in float64, over the whole set at once, never averaged over batches.

`targets` are int [N] in [0, C), `logits` and `probs` float [N, C], `predicted` int [N]. Scores are fractions, not per
cent. Every score raises ValueError for an empty set, for shapes that do not fit and for labels that are no class."""

import math

import numpy as np
from numpy.typing import ArrayLike

Z = 2.0  # standard errors on either side: the 1.96 of 95% covered 0.924 in one situation of bench/coverage.py
BINS = 15  # of confidence, in calibration errors
GROUPS = ("many", "medium", "few")  # of classes, by training pictures
MANY, FEW = 100, 20  # more, and fewer, training pictures than these


def log_softmax(logits: ArrayLike) -> np.ndarray:
    """Log probabilities float64 [N, C] of each row; finite where the softmax itself is 0."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)  # no exponential overflows
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def softmax(logits: ArrayLike) -> np.ndarray:
    """Probabilities float64 [N, C]: e^z_k / sum_j e^z_j, row by row."""
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))  # of which none overflows
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


def macro_f1(targets: ArrayLike, predicted: ArrayLike, classes: int) -> float:
    """The mean of F1 over the classes that have a row in the set; one without a hit counts as 0."""
    scores = per_class(targets, predicted, classes)
    return float(scores["f1"][scores["support"] > 0].mean())


def macro_f1_left_out(targets: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """`macro_f1` of the set without row i, for each row i: float64 [N], in one pass; nan for the only row.

    A row touches the F1 of two classes at most: its own, and the one that it was taken for.
    """
    targets, predicted = _checked_labels(targets, predicted, classes)
    right = targets == predicted
    hits = np.bincount(targets[right], minlength=classes)
    support = np.bincount(targets, minlength=classes)
    total = support + np.bincount(predicted, minlength=classes)  # the denominator of F1
    f1 = _ratio(2 * hits, total)
    present = support > 0
    less_a_hit = _ratio(2 * (hits - 1), total - 2)
    less_a_miss = _ratio(2 * hits, total - 1)

    alone = support[targets] == 1  # without its only row, a class is not in the mean
    own = np.where(right, less_a_hit[targets], less_a_miss[targets])
    change = np.where(alone, 0, own) - f1[targets]
    gained = np.where(present, less_a_miss - f1, 0)  # by the class that a row was wrongly taken for
    change += np.where(right, 0, gained[predicted])
    return _ratio(f1[present].sum() + change, present.sum() - alone, undefined=math.nan)


def macro_f1_error(targets: ArrayLike, predicted: ArrayLike, classes: int) -> float:
    """The delete-one jackknife's standard error of `macro_f1` (Tukey 1958), or of its mean over R classifiers.

    predicted: [N] or [N, R].
    """
    left_out = [macro_f1_left_out(targets, column, classes) for column in _columns(predicted)]
    each = np.mean(left_out, 0)
    n = len(each)
    if n == 1:
        return 0.0  # nothing varies
    return math.sqrt((n - 1) / n * ((each - each.mean()) ** 2).sum())


def macro_f1_interval(targets: ArrayLike, predicted: ArrayLike, classes: int) -> tuple[float, float]:
    """95% interval (low, high) of the score that ever more rows like these would give; arguments as `macro_f1_error`.

    That of a proportion among as many rows as would have the jackknife's error, but no more than
    the sizes n_c of K classes allow where all recalls are equal: K^2 / sum(1 / n_c). Another set of as few rows, which
    has luck of its own, may score outside. docs/measurements.md has its coverage.
    """
    score = float(np.mean([macro_f1(targets, column, classes) for column in _columns(predicted)]))
    variance = macro_f1_error(targets, predicted, classes) ** 2
    _, sizes = np.unique(targets, return_counts=True)
    rows = float(len(sizes) ** 2 / (1 / sizes).sum())
    if variance:
        rows = min(rows, score * (1 - score) / variance)
    return proportion_interval(score, rows)


def proportion_interval(share: float, rows: float) -> tuple[float, float]:
    """95% interval (low, high) of a share of so many rows (Agresti & Coull 1998)."""
    # Two successes and two failures more: a perfect score is then not a certain one.
    more = rows + Z**2
    centre = (rows * share + Z**2 / 2) / more
    half = Z * math.sqrt(centre * (1 - centre) / more)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def worst(targets: ArrayLike, predicted: ArrayLike, classes: int) -> float:
    """The lowest recall among the classes present in `targets`."""
    scores = per_class(targets, predicted, classes)
    return float(scores["recall"][scores["support"] > 0].min())


def count_groups(train_counts: ArrayLike) -> np.ndarray:
    """The group of each class by its training pictures [C]: str [C] of 'many', 'medium' and 'few'.

    Many: more than MANY pictures; few: fewer than FEW (Liu et al. 2019, OLTR). Where that leaves one of the three
    without a class, they are thirds of the classes by rank instead.
    """
    pictures = np.asarray(train_counts)
    group = np.where(pictures > MANY, "many", np.where(pictures < FEW, "few", "medium"))
    if len(np.unique(group)) < 3:
        order = np.argsort(-pictures, kind="stable")
        for name, third in zip(GROUPS, np.array_split(order, 3)):
            group[third] = name
    return group


def groups(targets: ArrayLike, predicted: ArrayLike, train_counts: ArrayLike) -> dict[str, float]:
    """Mean accuracy of the classes that have many, a medium number of, or few training pictures (`count_groups`).

    Each class counts alike; those without a row are left out. nan, not 0, for a group that nobody asked about.
    """
    group = count_groups(train_counts)
    table = per_class(targets, predicted, len(group))
    scores = {}
    for name in GROUPS:
        recall = table["recall"][(group == name) & (table["support"] > 0)]
        scores[name] = float(recall.mean()) if len(recall) else math.nan
    return scores


def nll(logits: ArrayLike, targets: ArrayLike) -> float:
    """Mean negative log-likelihood in nats, from logits: a confident mistake costs its true, finite price."""
    logits, targets = _checked_scores(logits, targets)
    return float(-log_softmax(logits)[np.arange(len(targets)), targets].mean())


def brier(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean squared distance from the one-hot target, summed over classes (Brier 1950): 0 best, 2 worst."""
    probs, targets = _checked_probs(probs, targets)
    # sum_k (p_k - 1{k = t})^2 multiplied out: the one-hot matrix is never built.
    squares = (probs**2).sum(1)
    return float((squares - 2 * probs[np.arange(len(targets)), targets] + 1).mean())


def ece(probs: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error of the top class (Guo et al. 2017), over `bins` bins of equal width.

    Each bin is closed on the left, the last on both sides: confidence 1.0 lies in the last bin.
    """
    confidence, hits = top_class(probs, targets)
    return _calibration_gap(equal_width_bins(confidence, bins), confidence, hits, bins)


def adaptive_ece(probs: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """ECE of the top class over `bins` bins of equally many rows, sizes differing by one at most.

    AdaECE of Mukhoti et al. 2020; Nixon et al. 2019 apply the scheme to every class. Rows of equal confidence count as
    their mean: where a bin's edge parts them, their order decides nothing.
    """
    confidence, hits = top_class(probs, targets)
    _, tie, size = np.unique(confidence, return_inverse=True, return_counts=True)
    hits = (np.bincount(tie, hits) / size)[tie]
    order = np.argsort(confidence)
    bin_of = np.empty(len(order), np.int64)
    bin_of[order] = np.arange(len(order)) * bins // len(order)
    return _calibration_gap(bin_of, confidence, hits, bins)


def classwise_ece(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean over classes of the ECE of "is it class c?" at p_c, with the bins of `ece`.

    Class-wise ECE of Kull et al. 2019, which is the static calibration error of Nixon et al. 2019.
    """
    probs, targets = _checked_probs(probs, targets)
    classes = np.arange(probs.shape[1])
    # Every class has BINS bins of its own: one call counts all of them.
    bin_of = equal_width_bins(probs, BINS) + classes * BINS
    return _calibration_gap(bin_of.ravel(), probs.ravel(), (targets[:, None] == classes).ravel(), BINS * len(classes))


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


def _calibration_gap(bin_of, confidence, hits, bins):
    """Sum over bins of |sum of confidence - hits| over all N rows."""
    # A bin's |mean confidence - accuracy| times its share is |difference of sums| / N: an empty bin does no harm.
    confidence_sum = np.bincount(bin_of, confidence, bins)
    hit_sum = np.bincount(bin_of, hits, bins)
    return float(np.abs(confidence_sum - hit_sum).sum() / len(bin_of))


def equal_width_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each confidence in [0, 1], int64 of its shape."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)  # 1.0 would be in a bin of its own


def top_class(probs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the largest probability, float64 [N], and whether its class is right, bool [N]."""
    probs, targets = _checked_probs(probs, targets)
    return probs.max(1), probs.argmax(1) == targets


def _ratio(numerator, denominator, undefined=0.0):
    """numerator / denominator, float64 [C], and `undefined` where nothing was counted."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), undefined), where=denominator > 0)


def _columns(predicted):
    """The R columns [N] of predicted [N, R], or of [N] as one."""
    predicted = np.asarray(predicted)
    return predicted.T if predicted.ndim == 2 else [predicted]


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
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {classes} classes")
    return labels.astype(np.int64)
