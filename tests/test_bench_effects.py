"""What bench/effects.py says of methods, beside brute force."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bench import effects
from posterior.evidence import Evidence
from posterior.priors import TAUS

CLASSES = 4


def drawn(seed, n=60):
    rng = np.random.default_rng(seed)
    targets = np.sort(rng.choice(CLASSES, n, p=[0.5, 0.3, 0.15, 0.05]))
    return rng, targets


def judged(targets, moved):
    logits = np.zeros((len(targets), CLASSES))
    nll = np.ones(len(targets))
    return effects.Judged(targets, moved, moved, tau=0.0, nll=nll, confidence=0.5, scaled=logits, seconds=1.0)


def a_method(rng, targets, right):
    moved = np.where(rng.random(len(targets)) < right, targets, rng.integers(CLASSES, size=len(targets)))
    return judged(targets, moved)


def macro_f1(targets, predicted):
    return f1_score(targets, predicted, labels=np.unique(targets), average="macro", zero_division=0)


def test_a_difference_has_the_paired_jackknifes_error():
    rng, targets = drawn(0)
    base, own = a_method(rng, targets, 0.5), a_method(rng, targets, 0.8)
    change, error = effects.difference([own], [base], CLASSES)
    assert change == pytest.approx(macro_f1(targets, own.moved) - macro_f1(targets, base.moved))
    n = len(targets)
    left_out = []
    for i in range(n):
        rest = np.arange(n) != i
        left_out.append(macro_f1(targets[rest], own.moved[rest]) - macro_f1(targets[rest], base.moved[rest]))
    assert error == pytest.approx(np.sqrt((n - 1) / n * np.var(left_out) * n))
    assert effects.difference([base], [base], CLASSES) == (0.0, 0.0)
    # Two splits of the same pictures: the mean of both, and no less noise than one has.
    assert effects.difference([own, own], [base, base], CLASSES) == pytest.approx((change, error))


def test_tau_and_scaling_are_chosen_on_other_folds(monkeypatch):
    """Two folds that want different taus: each gets the other's."""
    n = 200
    rng, _ = drawn(1)
    counts = np.array([90.0, 6.0, 3.0, 1.0])
    parts = np.repeat([0, 1], n)
    targets = np.concatenate([rng.integers(CLASSES, size=n), np.zeros(n, np.int64)])  # a uniform mix; the frequent one
    targets[-3:] = [1, 2, 3]
    noise = rng.normal(size=(2 * n, CLASSES))
    noise[np.arange(2 * n), targets] += 1.5
    logits = noise + np.log(counts / counts.sum())
    log_posterior = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = Evidence([""] * (2 * n), targets, log_posterior, parts, list("abcd"), counts, 1)
    monkeypatch.setattr(effects.evidence, "pooled", lambda runs: found)
    study = SimpleNamespace(latest=lambda: {0: dict(seconds=1.0), 1: dict(seconds=3.0)}, run=lambda i: i)
    judged = effects.judged(study, [0, 1])

    def best_tau(here):
        scores = []
        for tau in TAUS:
            predicted = (log_posterior - tau * np.log(found.prior))[here].argmax(1)
            scores.append(macro_f1(targets[here], predicted))
        return TAUS[int(np.argmax(scores))]

    taus = [best_tau(parts == 1), best_tau(parts == 0)]  # of each fold, as the other has it
    assert taus[0] != taus[1]
    for part, tau in enumerate(taus):
        here = parts == part
        assert (judged.moved[here] == (log_posterior - tau * np.log(found.prior))[here].argmax(1)).all()
    assert judged.tau == best_tau(parts >= 0) and judged.seconds == 2.0
    assert judged.nll == pytest.approx(-log_posterior[np.arange(2 * n), targets])
    assert judged.scaled.shape == (2 * n, CLASSES)


def test_classes_that_gain_and_lose():
    targets = np.repeat(np.arange(CLASSES), 20)
    right, wrong = targets.copy(), (targets + 1) % CLASSES

    base = np.where(np.arange(80) % 20 < 10, right, wrong)  # half of every class
    own = base.copy()
    own[:20] = right[:20]  # all of the first class
    own[20:40] = wrong[20:40]  # none of the second
    own[40] = wrong[40]  # one less of the third: noise
    own, base = judged(targets, own), judged(targets, base)
    assert effects.moved_classes([own], [base], CLASSES) == (1, 1)
    assert effects.moved_classes([base], [base], CLASSES) == (0, 0)
