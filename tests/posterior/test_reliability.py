"""Calibration measures against relplot, an integral done the long way, and what chance must show."""

import itertools
import json

import numpy as np
import pytest

import metrics
import oracles
from posterior import reliability

RECORDED = json.loads(oracles.FILE.read_text())


def world(**how):
    logits, targets, _ = oracles.judged(**how)
    return metrics.softmax(logits), targets


@pytest.mark.parametrize("temperature, expected", RECORDED["smooth_ece"])
def test_smooth_ece_is_relplots(temperature, expected):
    probs, targets = world(temperature=temperature)
    # relplot cuts its Gaussian at half the unit interval, which a wide one feels.
    assert reliability.smooth_ece(probs, targets) == pytest.approx(expected, abs=1e-3 if expected < 0.1 else 4e-3)


@pytest.mark.parametrize("temperature", (0.6, 1.0, 1.7))
def test_smooth_ece_is_the_integral_of_its_definition(temperature):
    probs, targets = world(n=300, temperature=temperature)
    width = reliability.smooth_ece(probs, targets)
    confidence, hits = probs.max(1), probs.argmax(1) == targets
    at = (np.arange(1000) + 0.5) / 1000
    smoothed = np.zeros(1000)
    for turn in (-2, 0, 2):  # the line folded at 0 and 1
        for mirrored in (confidence, -confidence):
            z = (at[:, None] - turn - mirrored) / width
            smoothed += (np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / width) @ (hits - confidence) / len(hits)
    assert np.abs(smoothed).mean() == pytest.approx(width, abs=1e-4)


def test_right_probabilities_lie_within_what_chance_shows():
    inside = 0
    for seed in range(20):
        probs, targets = world(n=400, seed=seed)
        chance = reliability.chance(probs, draws=60, seed=seed)
        for name, score in reliability.SCORES.items():
            inside += chance[name].low <= score(probs, targets) <= chance[name].high
    assert inside >= 0.85 * 20 * len(reliability.SCORES)  # 95% of the draws, less the noise of 60 of them


def test_wrong_probabilities_do_not():
    probs, targets = world(temperature=1.7)
    chance = reliability.chance(probs, draws=60)
    for name, score in reliability.SCORES.items():
        assert score(probs, targets) > chance[name].high


def test_gaps_are_means_and_chance_stays_within_their_interval():
    within, surprises = [], []
    for seed in range(200):
        probs, targets = world(n=100, seed=seed)
        gap = reliability.gap(probs, targets)
        within.append(abs(gap.gap) <= gap.half_width)
        surprises.append(gap.p_value < 0.05)
        assert gap.confidence == pytest.approx(probs.max(1).mean())
        assert gap.accuracy == pytest.approx((probs.argmax(1) == targets).mean())
    assert 0.9 <= np.mean(within) <= 0.99 and 0.005 <= np.mean(surprises) <= 0.09


def test_the_chance_of_hits_is_summed_over_all_outcomes():
    confidence = np.array([0.9, 0.6, 0.55, 0.7, 0.8])
    probs = np.stack([confidence, 1 - confidence], 1)
    for hits in range(6):
        targets = np.array([0] * hits + [1] * (5 - hits))
        below = above = 0.0
        for outcome in itertools.product((0, 1), repeat=5):
            chance = np.prod(np.where(outcome, confidence, 1 - confidence))
            below += chance * (sum(outcome) <= hits)
            above += chance * (sum(outcome) >= hits)
        assert reliability.gap(probs, targets).p_value == pytest.approx(min(1, 2 * min(below, above)))
    many = np.tile(confidence, 240)
    exact, reliability.EXACT = reliability.EXACT, len(many)
    try:
        long_way = reliability._p_value(many, 820)
    finally:
        reliability.EXACT = exact
    assert reliability._p_value(many, 820) == pytest.approx(long_way, rel=0.1)


@pytest.mark.parametrize("n", [reliability.EXACT, reliability.EXACT + 1])
def test_answers_that_claim_to_be_certain(n):
    """No chance is left: all are right, or something is wrong."""
    probs = np.tile([1.0, 0.0], (n, 1))
    assert reliability.gap(probs, np.zeros(n, int)).p_value == 1
    assert reliability.gap(probs, np.arange(n) // (n - 1)).p_value == 0


def test_coverage_keeps_the_surest():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]])
    targets = np.array([0, 1, 1, 0])
    assert reliability.coverage(probs, targets, (1.0, 0.5)) == [(1.0, 0.55, 0.5), (0.5, 0.8, 1.0)]


@pytest.mark.parametrize("classes", [2, 8])
def test_errors_are_each_score_by_itself(classes):
    """Of other labels, and of rows of which some come twice."""
    logits, targets, _ = oracles.judged(n=300)
    probs = metrics.softmax(logits[:, :classes])
    labels = targets % classes
    rows = np.random.default_rng(0).integers(300, size=300)
    errors = reliability.Errors(probs)
    for found, some in ((errors(labels), np.arange(300)), (errors(labels, rows), rows)):
        assert found.keys() == reliability.SCORES.keys()
        for name, score in reliability.SCORES.items():
            assert found[name] == pytest.approx(score(probs[some], labels[some]), abs=1e-12), name
