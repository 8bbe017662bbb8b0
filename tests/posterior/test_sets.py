"""Sets of classes that are to hold the right one for 90% of pictures: beside crepes, brute force and a closed form."""

import json
import math

import numpy as np
import pytest

import metrics
import oracles
from posterior import sets

RECORDED = json.loads(oracles.FILE.read_text())


def of(known, log_posterior):
    """The sets of pictures by a threshold from known ones, bool [M,C]."""
    log_p, targets, prior = known
    least = sets.threshold(log_p, targets, prior)
    answers = (log_posterior - np.log(prior)).argmax(1)
    return sets.inside(log_posterior, prior, least, answers)


def test_sets_are_crepes():
    logits, targets, prior = oracles.judged(n=400)
    found = of((logits[:300], targets[:300], prior), logits[300:])
    own = [{int(c) for c in np.flatnonzero(row)} for row in found]
    recorded = [{int(c) for c in word} for word in RECORDED["sets"].split(" ")]
    # crepes lets a set be empty; here the answer is always in it.
    assert [a if b else set() for a, b in zip(own, recorded)] == recorded and all(own)


@pytest.mark.parametrize("n", [9, 10, 18, 19, 29, 30, 200])
def test_a_class_is_in_a_set_where_its_p_value_is_above_one_in_ten(n):
    """By the definition of a conformal p-value, picture by picture and class by class, ties included."""
    logits, targets, prior = oracles.judged(n=n + 40)
    logits = metrics.log_softmax(logits.round())  # so that some are equal
    prior = np.full_like(prior, 1 / len(prior))
    found = of((logits[:n], targets[:n], prior), logits[n:])
    own = logits[np.arange(n), targets[:n]]
    for row, log_p in zip(found, logits[n:]):
        for c, value in enumerate(log_p):
            as_strange = 1 + (own <= value).sum()
            assert row[c] == (10 * as_strange > n + 1) or c == log_p.argmax()


def test_coverage_is_distributed_as_it_must_be():
    """With N known pictures and M new ones the number of sets that hold the right class is beta-binomial.

    Its parameters are k = N + 1 - floor((N + 1) / 10) and N + 1 - k. Chi-square over 2,000 draws.
    """
    n, m, draws = 39, 5, 2000
    logits, targets, prior = oracles.judged(n=draws * (n + m))
    counts = np.zeros(m + 1)
    for block in np.arange(len(targets)).reshape(draws, n + m):
        known, new = block[:n], block[n:]
        least = sets.threshold(logits[known], targets[known], prior)
        nothing = np.full((m, 1), -np.inf)  # a class of its own takes the answer
        found = sets.inside(
            np.hstack([logits[new], nothing]), np.append(prior, 1.0), least, np.full(m, oracles.CLASSES)
        )
        counts[found[np.arange(m), targets[new]].sum()] += 1
    outside = (n + 1) // 10
    a, b = n + 1 - outside, outside

    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    expected = [math.comb(m, j) * math.exp(log_beta(a + j, b + m - j) - log_beta(a, b)) for j in range(m + 1)]
    assert sum(expected) == pytest.approx(1)
    expected = draws * np.array(expected)
    seldom = expected.cumsum() < 20  # few in a cell: together with the next
    first = int(np.argmin(seldom))
    seen = np.append(counts[: first + 1].sum(), counts[first + 1 :])
    wanted = np.append(expected[: first + 1].sum(), expected[first + 1 :])
    chi_square = ((seen - wanted) ** 2 / wanted).sum()
    assert len(wanted) >= 4 and chi_square < 25  # 1 in 20,000 for four degrees of freedom


def test_rare_classes_are_held_as_often_as_frequent_ones():
    """One threshold on p itself holds the rare ones less often."""
    logits, targets, prior = oracles.judged(n=10000)
    parts = np.arange(len(targets)) % 2
    held = {}
    for name, used in (("p / prior", prior), ("p", np.full_like(prior, 1 / len(prior)))):
        found = sets.cross_fitted(logits, targets, used, logits.argmax(1), parts)
        right = found[np.arange(len(targets)), targets]
        assert right.mean() == pytest.approx(0.9, abs=0.01)
        held[name] = [right[targets == c].mean() for c in range(oracles.CLASSES)]
    assert np.ptp(held["p / prior"]) < 0.07 and np.ptp(held["p"]) > 0.2


def test_each_picture_is_judged_by_others_and_no_set_is_empty():
    logits, targets, prior = oracles.judged(n=40)
    parts = np.repeat([0, 1], [10, 30])
    answers = np.full(40, 3)
    found = sets.cross_fitted(logits, targets, prior, answers, parts)
    np.testing.assert_array_equal(
        found[:10], sets.inside(logits[:10], prior, sets.threshold(logits[10:], targets[10:], prior), answers[:10])
    )
    assert found[:, 3].all()
    assert sets.inside(logits, prior, np.inf, answers).sum() == 40


def test_too_few_pictures():
    logits, targets, prior = oracles.judged(n=20)
    sets.threshold(logits[:9], targets[:9], prior)
    with pytest.raises(ValueError, match="8 pictures are too few: 9 are needed"):
        sets.threshold(logits[:8], targets[:8], prior)
    assert sets.cross_fitted(logits, targets, prior, targets, np.repeat([0, 1], [8, 12])) is None
