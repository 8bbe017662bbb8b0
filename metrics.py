"""How good a classifier is: numpy in float64, over the whole set at once, never averaged over batches.

`targets` are int [N] in [0, C), `logits` and `probs` float [N, C], `predicted` int [N]; scores are fractions, not per
cent. Every score refuses an empty set. Nothing here chooses, fits or prints.
"""

import numpy as np


def softmax(logits):
    """Probabilities float64 [N, C]."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def accuracy(targets, predicted):
    """The fraction of rows that are right."""
    targets, predicted = _labels(targets, predicted)
    return float((targets == predicted).mean())


def confusion(targets, predicted, classes):
    """Counts int64 [classes, classes]: row = true, column = predicted."""
    targets, predicted = _labels(targets, predicted, classes)
    return np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(targets, predicted, classes):
    """A dict of float64 [classes]: precision, recall, f1 (0 where undefined) and support (rows of the class)."""
    targets, predicted = _labels(targets, predicted, classes)
    counted = (targets[targets == predicted], targets, predicted)
    hits, support, named = (np.bincount(labels, minlength=classes) for labels in counted)
    return {
        "precision": _ratio(hits, named),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + named),
        "support": support.astype(np.float64),
    }


def macro_f1(targets, predicted, classes):
    """The mean of F1 over all `classes`; a class without a hit, even one absent from the set, counts as 0."""
    return float(per_class(targets, predicted, classes)["f1"].mean())


def worst(targets, predicted, classes):
    """The lowest recall among the classes present in `targets`."""
    table = per_class(targets, predicted, classes)
    return float(table["recall"][table["support"] > 0].min())


def groups(targets, predicted, train_counts, many=100, few=20):
    """Accuracy of the rows whose class has many training pictures (more than `many`), a medium number, or few
    (fewer than `few`), the split of Liu et al. 2019 (OLTR). nan for a group that has no row."""
    targets, predicted = _labels(targets, predicted, len(train_counts))
    n = np.asarray(train_counts)[targets]
    rows = {"many": n > many, "medium": (n >= few) & (n <= many), "few": n < few}
    right = targets == predicted
    return {name: float(right[mask].mean()) if mask.any() else float("nan") for name, mask in rows.items()}


def nll(logits, targets):
    """Mean negative log-likelihood in nats, from logits: a confident mistake costs its true, finite price."""
    z, targets = _rows(logits, targets)
    z = z - z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), targets]).mean())


def brier(probs, targets):
    """Mean squared distance from the one-hot target, summed over classes (Brier 1950): 0 best, 2 worst."""
    probs, targets = _probs(probs, targets)
    return float(((probs**2).sum(1) - 2 * probs[np.arange(len(probs)), targets] + 1).mean())


def ece(probs, targets, bins=15):
    """Expected calibration error of the top class (Guo et al. 2017): `bins` equal-width bins, each closed on the left,
    the last on both sides, so that confidence 1.0 lies in the last bin."""
    confidence, hits = _top(probs, targets)
    return _gap(np.minimum((confidence * bins).astype(np.int64), bins - 1), confidence, hits, bins)


def adaptive_ece(probs, targets, bins=15):
    """ECE of the top class over `bins` bins of equally many rows, sizes differing by one at most (AdaECE, Mukhoti et
    al. 2020; Nixon et al. 2019 apply the scheme to every class). Rows of equal confidence are parted in their order."""
    confidence, hits = _top(probs, targets)
    order = np.argsort(confidence, kind="stable")
    bin_of = np.empty(len(order), np.int64)
    bin_of[order] = np.arange(len(order)) * bins // len(order)
    return _gap(bin_of, confidence, hits, bins)


def classwise_ece(probs, targets, bins=15):
    """Mean over classes of the ECE of "is it class c?" at p_c, with the bins of `ece`: class-wise ECE of Kull et al.
    2019, which is the static calibration error of Nixon et al. 2019."""
    probs, targets = _probs(probs, targets)
    classes = probs.shape[1]
    bin_of = np.minimum((probs * bins).astype(np.int64), bins - 1) + np.arange(classes) * bins
    hits = targets[:, None] == np.arange(classes)
    return _gap(bin_of.ravel(), probs.ravel(), hits.ravel(), bins * classes)


def bootstrap(metric, targets, outputs, n=1000, seed=0, level=0.95):
    """Percentile interval (low, high) of `metric(targets, outputs)` over `n` resamples of the rows (Efron 1979).

    outputs: predicted [N] or probs [N, C], whatever `metric` takes. The same seed draws the same rows, so two
    classifiers' scores are resampled alike."""
    scores = _resampled(metric, targets, outputs, n, seed)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(metric, targets, outputs, n=200, seed=0):
    """The bootstrap's standard error of `metric(targets, outputs)`; arguments as for `bootstrap`."""
    return float(np.std(_resampled(metric, targets, outputs, n, seed), ddof=1))


def _resampled(metric, targets, outputs, n, seed):
    targets, outputs = np.asarray(targets), np.asarray(outputs)
    if not len(targets) == len(outputs) > 0:
        raise ValueError(f"{len(targets)} targets and {len(outputs)} outputs; must be equally many and more than none")
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(targets), size=len(targets)) for _ in range(n))
    return [metric(targets[rows], outputs[rows]) for rows in draws]


def evaluate(logits, targets, train_counts):
    """Every scalar metric of logits [N, C] as a dict of floats; train_counts [C] say which classes are head or tail."""
    logits, targets = _rows(logits, targets)
    classes = logits.shape[1]
    if len(train_counts) != classes:
        raise ValueError(f"train_counts has {len(train_counts)} numbers, but there are {classes} classes")
    probs, predicted = softmax(logits), logits.argmax(1)
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


def _labels(targets, predicted, classes=None):
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.shape != predicted.shape or targets.ndim != 1 or not targets.size:
        raise ValueError(f"targets {targets.shape} and predicted {predicted.shape} must be [N] both, N above 0")
    return _within(targets, classes), _within(predicted, classes)


def _rows(scores, targets):
    """Scores float64 [N, C] and targets int64 [N], checked."""
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or not scores.size:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must be [N, C] and [N], N and C above 0")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores are not finite in row {np.flatnonzero(~np.isfinite(scores).all(1))[0]}")
    return scores, _within(targets, scores.shape[1])


def _probs(probs, targets):
    probs, targets = _rows(probs, targets)
    if probs.min() < 0 or probs.max() > 1 + 1e-6:
        raise ValueError(f"probabilities run from {probs.min():g} to {probs.max():g}; are these logits?")
    return probs, targets


def _within(labels, classes):
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers; got {labels.dtype}")
    if classes is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {classes} classes")
    return labels.astype(np.int64)


def _top(probs, targets):
    probs, targets = _probs(probs, targets)
    return probs.max(1), probs.argmax(1) == targets


def _gap(bin_of, confidence, hits, bins):
    """Sum over bins of |sum of confidence - hits| over all N rows; an empty bin adds nothing."""
    confidence_sum = np.bincount(bin_of, confidence, bins)
    hit_sum = np.bincount(bin_of, hits, bins)
    return float(np.abs(confidence_sum - hit_sum).sum() / len(bin_of))


def _ratio(a, b):
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)
