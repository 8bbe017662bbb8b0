"""posterior/by_class.py against counts made by hand and the definitions of precision, recall, F1 and ECE."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from posterior.by_class import ClassScores, by_class, trend
from posterior.evidence import Evidence
from posterior.scores import Score


def evidence(targets, probs, counts):
    names = [f"painter {c}" for c in range(probs.shape[1])]
    paths = [f"{i}.jpg" for i in range(len(targets))]
    return Evidence(paths, np.array(targets), np.log(probs), None, names, np.array(counts, float), 1)


def answers(*rows):
    """Probabilities of 4 classes: each row the class named and how sure, the rest even."""
    probs = np.empty((len(rows), 4))
    for i, (named, sure) in enumerate(rows):
        probs[i] = (1 - sure) / 3
        probs[i, named] = sure
    return probs


@pytest.fixture
def rows():
    # Class 0: 4 pictures, 3 found; 1 other taken for it. Class 1: 2 pictures, 1 found. Class 2: 1 picture, missed; 1
    # taken for it. Class 3 has no picture and is never named.
    targets = [0, 0, 0, 0, 1, 1, 2]
    named = [(0, 0.9), (0, 0.7), (0, 0.7), (2, 0.4), (1, 0.6), (0, 0.5), (1, 0.8)]
    return by_class(evidence(targets, answers(*named), [200, 50, 10, 3]))


def test_scores_of_a_class_are_those_of_their_definitions(rows):
    assert [(row.name, row.group) for row in rows] == [
        ("painter 0", "many"),
        ("painter 1", "medium"),
        ("painter 2", "few"),
        ("painter 3", "few"),
    ]
    assert [row.trained for row in rows] == [200, 50, 10, 3]
    assert [row.support for row in rows] == [4, 2, 1, 0]
    assert [row.answers for row in rows] == [4, 2, 1, 0]
    first, second, third, fourth = rows
    assert (first.precision, first.recall) == (3 / 4, 3 / 4) and first.f1.value == pytest.approx(6 / 8)
    assert (second.precision, second.recall) == (1 / 2, 1 / 2) and second.f1.value == pytest.approx(2 / 4)
    assert (third.precision, third.recall, third.f1.value) == (0, 0, 0)
    assert math.isnan(fourth.precision) and math.isnan(fourth.recall) and math.isnan(fourth.f1.value)
    assert math.isnan(fourth.ece) and fourth.gap is None


def test_f1_has_the_interval_of_its_jaccard_share(rows):
    wilson = binomtest(3, 5).proportion_ci(method="wilson")  # 3 hits, 1 missed, 1 wrongly named
    assert rows[0].f1.low == pytest.approx(2 * wilson.low / (1 + wilson.low), abs=1e-4)
    assert rows[0].f1.high == pytest.approx(2 * wilson.high / (1 + wilson.high), abs=1e-4)


def test_how_sure_is_judged_among_the_answers_that_name_the_class(rows):
    # Of class 0: 0.9, 0.7, 0.7 are right and 0.5 is wrong, in bins of a fifteenth: |0.9 - 1|, 2 |0.7 - 1|, |0.5 - 0|.
    assert rows[0].ece == pytest.approx((0.1 + 2 * 0.3 + 0.5) / 4)
    gap = rows[0].gap
    assert (gap.n, gap.confidence, gap.accuracy) == (4, pytest.approx(0.7), 0.75)
    assert gap.half_width == pytest.approx(1.96 * math.sqrt(0.09 + 2 * 0.21 + 0.25) / 4)
    # Of class 1: 0.6 is right, 0.8 wrong.
    assert rows[1].ece == pytest.approx((0.4 + 0.8) / 2) and rows[1].gap.gap == pytest.approx(0.7 - 0.5)
    assert rows[2].ece == pytest.approx(0.4)


def test_many_random_classes_agree_with_a_count_of_each():
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.full(12, 0.3), 500) + 1e-9
    targets = generator.integers(0, 11, 500)  # the last has none
    found = by_class(evidence(targets, probs / probs.sum(1, keepdims=True), generator.integers(1, 300, 12)))
    named = probs.argmax(1)
    for c, row in enumerate(found):
        hits = int(((named == c) & (targets == c)).sum())
        assert row.answers == (named == c).sum() and row.support == (targets == c).sum()
        assert row.precision == pytest.approx(hits / row.answers)
        if c < 11:
            assert row.recall == pytest.approx(hits / row.support)
            assert row.f1.value == pytest.approx(2 * hits / (row.support + row.answers))
        else:
            assert math.isnan(row.recall) and row.precision == 0


def known(trained, f1):
    return ClassScores("", "many", trained, 1, Score(f1), 0, 0, 0, 0, None)


def test_the_trend_is_the_mean_of_groups_of_neighbours():
    rows = [known(100 - i, i / 10) for i in range(9)] + [known(5, math.nan)]
    trained, f1 = trend(rows, parts=3)
    assert trained == [99, 96, 93] and f1 == pytest.approx([0.1, 0.4, 0.7])


def test_a_trend_has_groups_of_three_classes_at_least():
    rows = [known(10 - i, i / 10) for i in range(8)]
    assert trend(rows) == (pytest.approx([8.5, 4.5]), pytest.approx([0.15, 0.55]))
    assert trend(rows[:5]) == trend([known(3, math.nan)] * 6) == ([], [])
