"""Metrics against scikit-learn, torchmetrics, F.cross_entropy, and cases worked by hand."""

import math

import numpy as np
import pytest
import torch

import metrics
from engine.evaluate import averaged

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("sklearn.metrics")


@pytest.fixture
def torchmetrics(torchvision):
    """torchmetrics' functions; it imports torchvision, which must be importable first."""
    import torchmetrics.functional.classification

    return torchmetrics.functional.classification


def outputs(rows=500, classes=7, seed=0, scale=2.0, absent=()):
    """Logits that know something of the targets, and targets without the classes in `absent`."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(np.setdiff1d(np.arange(classes), absent), rows)
    logits = rng.normal(size=(rows, classes)) * scale
    logits[np.arange(rows), targets] += scale
    return logits, targets


def test_softmax():
    logits, _ = outputs(scale=300.0)
    assert np.allclose(metrics.softmax(logits), torch.softmax(torch.tensor(logits), 1).numpy(), rtol=1e-12, atol=0)
    assert metrics.softmax(np.float32([[1000, 1000]])).tolist() == [[0.5, 0.5]]


def test_views_are_averaged_as_probabilities():
    one, other = (outputs(scale=scale)[0].astype(np.float32) for scale in (3.0, 300.0))
    assert averaged([one]) is one
    mean = torch.stack([torch.softmax(torch.tensor(each).double(), 1) for each in (one, other)]).mean(0)
    found = averaged([one, other])
    assert found.dtype == np.float32 and np.allclose(np.exp(found), mean.numpy(), rtol=1e-4, atol=1e-7)
    # No probability is too small for its logarithm.
    assert averaged([np.float32([[0, 4000]]), np.float32([[0, 4000]])]).tolist() == [[-4000, 0]]


@pytest.mark.parametrize("absent", [(), (0, 6)])
def test_counts_equal_scikit_learns(absent):
    logits, targets = outputs(absent=absent)
    predicted = logits.argmax(1)
    predicted[predicted == 3] = 4  # class 3 is never predicted
    every = list(range(7))
    assert metrics.accuracy(targets, predicted) == sklearn.metrics.accuracy_score(targets, predicted)
    table = sklearn.metrics.confusion_matrix(targets, predicted, labels=every)
    assert np.array_equal(metrics.confusion(targets, predicted, 7), table)
    wanted = sklearn.metrics.precision_recall_fscore_support(targets, predicted, labels=every, zero_division=0)
    ours = metrics.per_class(targets, predicted, 7)
    assert list(ours) == ["precision", "recall", "f1", "support"]
    for mine, theirs in zip(ours.values(), wanted):
        assert np.allclose(mine, theirs, rtol=1e-14, atol=0)
    present = np.unique(targets)
    f1 = sklearn.metrics.f1_score(targets, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.macro_f1(targets, predicted, 7) == pytest.approx(f1, rel=1e-14)
    assert metrics.worst(targets, predicted, 7) == 0 == wanted[1][3]


def test_macro_f1_is_over_the_classes_of_the_set():
    """scikit-learn's, with the labels that are in the set; a prediction of another class still costs its own."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(50):
        targets, predicted = rng.integers(0, 4, 30), rng.integers(0, 9, 30)
        present = np.unique(targets)
        f1 = sklearn.f1_score(targets, predicted, labels=present, average="macro", zero_division=0)
        assert metrics.macro_f1(targets, predicted, 9) == pytest.approx(f1, rel=1e-14)
    targets, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    assert metrics.macro_f1(targets, predicted, 81) == pytest.approx((6 / 7 + 4 / 5) / 2)
    assert metrics.worst(targets, predicted, 4) == 3 / 4


def test_groups():
    counts = [101, 100, 20, 19]  # head, medium, medium, tail: more than 100, 20 to 100, fewer than 20
    targets, predicted = np.array([0, 0, 1, 2, 2, 3]), np.array([0, 1, 1, 2, 0, 3])
    assert metrics.groups(targets, predicted, counts) == {"many": 1 / 2, "medium": (1 + 1 / 2) / 2, "few": 1.0}
    uneven = metrics.groups(np.array([0] * 8 + [1, 1]), np.array([0] * 8 + [2, 2]), [300, 200, 50, 5])
    assert uneven["many"] == 1 / 2  # of rows it would be 8 / 10
    only_head = metrics.groups(targets[:2], predicted[:2], counts)
    assert only_head["many"] == 1 / 2 and math.isnan(only_head["medium"]) and math.isnan(only_head["few"])


def test_groups_are_thirds_of_the_classes_where_the_usual_bounds_leave_one_empty():
    counts = [90, 12, 50, 40, 30, 11, 60]  # none above 100
    group = metrics.count_groups(counts)
    assert group.tolist() == ["many", "few", "many", "medium", "medium", "few", "many"]
    assert metrics.count_groups([101, 100, 20, 19]).tolist() == ["many", "medium", "medium", "few"]
    assert metrics.count_groups([5, 5]).tolist() == ["many", "medium"]


def test_nll_and_brier():
    logits, targets = outputs()
    wanted = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(targets)).item()
    assert metrics.nll(logits, targets) == pytest.approx(wanted, rel=1e-13)
    assert metrics.nll([[0.0, 1e4]], [0]) == 1e4  # where the probability itself is 0 in float64
    probs = metrics.softmax(logits)
    wanted = sum(((row - np.eye(7)[t]) ** 2).sum() for row, t in zip(probs, targets)) / len(targets)
    assert metrics.brier(probs, targets) == pytest.approx(wanted, rel=1e-13)
    assert metrics.brier([[1.0, 0.0], [0.0, 1.0]], [0, 0]) == 1.0


@pytest.mark.parametrize("scale", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_torchmetrics_below_confidence_one(torchmetrics, scale, bins):
    logits, targets = outputs(rows=2000, scale=scale)
    probs = metrics.softmax(logits)
    probs, targets = probs[probs.max(1) < 0.999], targets[probs.max(1) < 0.999]
    wanted = torchmetrics.multiclass_calibration_error(torch.tensor(probs), torch.tensor(targets), 7, bins)
    assert metrics.ece(probs, targets, bins) == pytest.approx(wanted.item(), rel=1e-5)


def test_ece_puts_confidence_one_in_the_last_bin(torchmetrics):
    probs, targets = np.array([[1.0, 0.0], [0.96, 0.04]]), np.array([1, 0])
    # One bin: |1.96 - 1| / 2. A bin each would give (|1 - 0| + |0.96 - 1|) / 2 = 0.52, which is torchmetrics' answer.
    assert metrics.ece(probs, targets) == pytest.approx(0.48, rel=1e-12)
    apart = torchmetrics.multiclass_calibration_error(torch.tensor(probs), torch.tensor(targets), 2, 15)
    assert apart.item() == pytest.approx(0.52)


def test_adaptive_ece_by_hand():
    confidence, hits = np.array([0.9, 0.6, 0.8, 0.7, 0.95]), np.array([1, 0, 1, 1, 0])
    probs = np.stack([confidence, 1 - confidence], 1)
    # Sorted .6 .7 .8 .9 .95 (hits 0 1 1 1 0) in two bins of three and two rows: |2.1 - 2| and |1.85 - 1|, over 5.
    assert metrics.adaptive_ece(probs, 1 - hits, bins=2) == pytest.approx((0.1 + 0.85) / 5, rel=1e-12)
    # A bin a row: the mean of |confidence - hit|; more bins than rows change nothing.
    alone = np.abs(confidence - hits).mean()
    assert metrics.adaptive_ece(probs, 1 - hits, bins=5) == pytest.approx(alone, rel=1e-12)
    assert metrics.adaptive_ece(probs, 1 - hits, bins=50) == pytest.approx(alone, rel=1e-12)
    scores = []
    for seed in range(20):  # equal confidences, right and wrong, in any order
        tied = np.random.default_rng(seed).permutation(12)
        p = np.repeat([0.6, 0.8, 0.9], 4)[tied]
        right = np.array([1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0])[tied]
        found = metrics.adaptive_ece(np.stack([p, 1 - p], 1), 1 - right, bins=5)
        scores.append(found)
    assert scores == pytest.approx([scores[0]] * 20, rel=1e-12)
    order = [4, 2, 0, 1, 3]
    assert metrics.adaptive_ece(probs[order], 1 - hits[order], bins=2) == pytest.approx(0.19, rel=1e-12)


def test_classwise_ece_is_the_mean_of_one_class_against_the_rest(torchmetrics):
    logits, targets = outputs(rows=800, classes=5)
    probs = metrics.softmax(logits)
    wanted = [
        torchmetrics.binary_calibration_error(torch.tensor(probs[:, c]), torch.tensor(targets == c).long(), 15)
        for c in range(5)
    ]
    assert metrics.classwise_ece(probs, targets) == pytest.approx(np.mean(wanted), rel=1e-4)


def test_a_calibrated_and_an_overconfident_classifier():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.5] * 4, 40000)
    targets = (rng.random((40000, 1)) > probs.cumsum(1)).sum(1)
    sharp = probs**3 / (probs**3).sum(1, keepdims=True)
    for score in (metrics.ece, metrics.adaptive_ece, metrics.classwise_ece):
        assert score(probs, targets) < 0.01 < 0.05 < score(sharp, targets)
    assert metrics.brier(probs, targets) < metrics.brier(sharp, targets)


def validation_set(sizes, right, rng):
    """(targets, predicted) of classes of these sizes, of which a share `right` is named rightly."""
    targets = np.repeat(np.arange(len(sizes)), sizes)
    return targets, np.where(rng.random(len(targets)) < right, targets, rng.integers(0, len(sizes), len(targets)))


@pytest.mark.parametrize("right", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("sizes", [[1], [4], [1, 1, 1], [3, 1, 2, 0, 7], [20, 9, 4, 2, 1, 1, 0, 1, 3, 2]])
def test_the_closed_form_of_macro_f1_without_a_row_is_what_deleting_it_gives(sizes, right):
    """Rows whose class is absent without them, classes that nobody named, and absent ones that somebody did."""
    targets, predicted = validation_set(sizes, right, np.random.default_rng(0))
    found = metrics.macro_f1_left_out(targets, predicted, len(sizes))
    assert found.dtype == np.float64
    if len(targets) == 1:
        assert np.isnan(found).all()
        return
    rows = range(len(targets))
    each = [metrics.macro_f1(np.delete(targets, i), np.delete(predicted, i), len(sizes)) for i in rows]
    assert found == pytest.approx(np.array(each), rel=1e-13, abs=1e-15)
    n = len(targets)
    error = math.sqrt((n - 1) * np.var(each))
    assert metrics.macro_f1_error(targets, predicted, len(sizes)) == pytest.approx(error, rel=1e-9, abs=1e-15)


def test_the_error_of_a_mean_of_classifiers():
    rng = np.random.default_rng(0)
    targets, one = validation_set([9, 5, 3, 1], 0.6, rng)
    _, other = validation_set([9, 5, 3, 1], 0.6, rng)
    both = np.stack([one, other], 1)
    each = []
    for i in range(len(targets)):
        left = np.delete(targets, i)
        pair = [metrics.macro_f1(left, np.delete(column, i), 4) for column in both.T]
        each.append(np.mean(pair))
    error = math.sqrt((len(each) - 1) * np.var(each))
    assert metrics.macro_f1_error(targets, both, 4) == pytest.approx(error, rel=1e-12)
    low, high = metrics.macro_f1_interval(targets, both, 4)
    assert low < np.mean([metrics.macro_f1(targets, column, 4) for column in both.T]) < high
    assert metrics.macro_f1_interval(targets, one[:, None], 4) == metrics.macro_f1_interval(targets, one, 4)


def plus_four(score, rows):
    """Agresti and Coull's interval of two standard errors: two successes and two failures more."""
    middle, n = (rows * score + 2) / (rows + 4), rows + 4
    half = 2 * math.sqrt(middle * (1 - middle) / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def test_the_interval_of_macro_f1():
    """Of an even set of two classes it is that of a proportion; a perfect or hopeless score is not certain."""
    targets = np.repeat([0, 1], 200)
    predicted = targets.copy()
    predicted[:60] = 1
    predicted[200:260] = 0  # as many mistakes of either class: macro F1 is the accuracy, 0.7
    assert metrics.macro_f1_interval(targets, predicted, 2) == pytest.approx(plus_four(0.7, 400), abs=2e-4)

    targets = np.repeat([0, 1, 2], [200, 20, 3])
    rows = 9 / (1 / 200 + 1 / 20 + 1 / 3)
    for predicted in (targets, (targets + 1) % 3):
        score = float((targets == predicted).mean())
        found = metrics.macro_f1_interval(targets, predicted, 3)
        assert found == pytest.approx(plus_four(score, rows)) and [type(end) for end in found] == [float, float]
        assert metrics.macro_f1_error(targets, predicted, 3) == 0
    assert metrics.macro_f1_interval([0], [0], 2) == pytest.approx(plus_four(1, 1))


@pytest.mark.parametrize("sizes, right", [([40, 20, 9, 5, 3, 2, 1], 0.9), ([2] * 20, 0.5), ([3] * 20, 0.995)])
def test_the_interval_holds_the_score_of_ever_more_pictures(sizes, right):
    """At least 0.93 of 400 sets each; the percentile bootstrap has 0.9 or less. bench/coverage.py has the rest."""
    rng = np.random.default_rng(0)
    sizes = np.array(sizes)
    k = len(sizes)
    table = np.full((k, k), (1 - right) / (k - 1))
    np.fill_diagonal(table, right)
    cells = sizes[:, None] * table
    truth = np.mean(2 * cells.diagonal() / (cells.sum(0) + sizes))
    held = []
    for _ in range(400):
        targets, predicted = np.divmod(np.repeat(np.arange(k * k), rng.multinomial(sizes, table).ravel()), k)
        low, high = metrics.macro_f1_interval(targets, predicted, k)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.93


def test_evaluate():
    logits, targets = outputs(absent=(6,))
    counts = [500, 101, 100, 50, 20, 19, 3]
    scores = metrics.evaluate(logits.astype(np.float32), targets, counts)
    assert list(scores) == [
        "acc",
        "macro_f1",
        "worst",
        "many",
        "medium",
        "few",
        "nll",
        "brier",
        "ece",
        "adaptive_ece",
        "classwise_ece",
    ]
    assert all(type(v) is float for v in scores.values())
    probs, predicted = metrics.softmax(logits), logits.argmax(1)
    assert scores["acc"] == (predicted == targets).mean()
    assert scores["macro_f1"] == metrics.macro_f1(targets, predicted, 7)
    assert scores["worst"] == metrics.worst(targets, predicted, 7)
    assert scores["few"] == (predicted == targets)[targets >= 5].mean()
    for name in ("brier", "ece", "adaptive_ece", "classwise_ece"):
        assert scores[name] == pytest.approx(getattr(metrics, name)(probs, targets), rel=1e-5)
    assert scores["nll"] == pytest.approx(metrics.nll(logits, targets), rel=1e-6)


NONE = np.zeros((0, 3)), np.zeros(0, int)


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: metrics.accuracy(NONE[1], NONE[1]), "above 0"),
        (lambda: metrics.macro_f1(NONE[1], NONE[1], 3), "above 0"),
        (lambda: metrics.worst(NONE[1], NONE[1], 3), "above 0"),
        (lambda: metrics.groups(NONE[1], NONE[1], [1, 2, 3]), "above 0"),
        (lambda: metrics.nll(*NONE), "above 0"),
        (lambda: metrics.brier(*NONE), "above 0"),
        (lambda: metrics.ece(*NONE), "above 0"),
        (lambda: metrics.adaptive_ece(*NONE), "above 0"),
        (lambda: metrics.classwise_ece(*NONE), "above 0"),
        (lambda: metrics.evaluate(*NONE, [1, 2, 3]), "above 0"),
        (lambda: metrics.macro_f1_interval(NONE[1], NONE[1], 3), "above 0"),
        (lambda: metrics.macro_f1_error([0, 3], [0, 1], 3), "0 to 3"),
        (lambda: metrics.accuracy([0, 1], [0]), "both"),
        (lambda: metrics.accuracy([0.0], [0.0]), "integers"),
        (lambda: metrics.macro_f1([0, 3], [0, 1], 3), "0 to 3"),
        (lambda: metrics.confusion([0, 1], [0, -1], 3), "-1 to 0"),
        (lambda: metrics.nll([[0.0, math.nan], [0.0, 1.0]], [0, 1]), "row 0"),
        (lambda: metrics.evaluate([[0.0, 1.0], [0.0, math.inf]], [0, 1], [1, 1]), "row 1"),
        (lambda: metrics.evaluate([[0.0, 1.0]], [0], [1, 1, 1]), "train_counts"),
        (lambda: metrics.ece([[3.0, -1.0]], [0]), "logits"),
        (lambda: metrics.brier([[0.5, 0.5]], [2]), "2 to 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()
