"""Scaling against scikit-learn's temperature, closed forms and what must always hold."""

import json

import numpy as np
import pytest

import metrics
import oracles
from posterior import scaling

RECORDED = json.loads(oracles.FILE.read_text())
COUNTS = np.array([300, 200, 150, 90, 50, 10, 8, 5])  # three classes of many pictures, two, and three of few
GROUP = np.array([0, 0, 0, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("temperature, expected", RECORDED["temperature"])
def test_temperature_is_scikit_learns(temperature, expected):
    logits, targets, _ = oracles.judged(temperature=temperature)
    fitted = scaling.fit("temperature", metrics.log_softmax(logits), targets, COUNTS)
    assert 1 / fitted.by_top[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", scaling.KINDS)
def test_no_kind_is_worse_than_as_is_where_it_was_fitted(kind):
    for seed in range(3):
        logits, targets, _ = oracles.judged(n=60, temperature=1.3, seed=seed)  # classes of a few pictures, and of none
        log_posterior = metrics.log_softmax(logits)
        fitted = scaling.fit(kind, log_posterior, targets, COUNTS)
        scaled = fitted(log_posterior)
        assert metrics.nll(scaled, targets) <= metrics.nll(log_posterior, targets) + 1e-9
        np.testing.assert_allclose(np.exp(scaled).sum(1), 1)
        assert np.isfinite(scaled).all()


def test_a_bias_brings_the_mean_posterior_to_the_share_of_each_class():
    """At the maximum of the likelihood the two are equal, but for the pull of the biases' normal prior."""
    logits, targets, _ = oracles.judged()
    wrong = metrics.log_softmax(logits + np.linspace(-1, 1, oracles.CLASSES))
    fitted = scaling.fit("bias", wrong, targets, COUNTS)
    share = np.bincount(targets, minlength=oracles.CLASSES) / len(targets)
    np.testing.assert_allclose(np.exp(fitted(wrong)).mean(0) + fitted.bias / len(targets), share, atol=1e-6)


def test_group_temperatures_undo_what_was_done_to_a_group():
    logits, targets, _ = oracles.judged(n=6000)
    log_posterior = metrics.log_softmax(logits)
    heated = metrics.log_softmax(np.array([0.5, 1.0, 2.0])[GROUP][log_posterior.argmax(1)][:, None] * log_posterior)
    fitted = scaling.fit("group temperature", heated, targets, COUNTS)
    np.testing.assert_allclose(1 / fitted.by_top[[0, 3, 5]], [0.5, 1.0, 2.0], rtol=0.15)
    assert metrics.nll(fitted(heated), targets) < metrics.nll(heated, targets)


def test_temperature_prior_and_noise_are_found_together():
    """Of flat logits, to which the prior was added in full, and labels of which a tenth say nothing."""
    logits, targets, prior = oracles.judged(n=6000)
    known = metrics.log_softmax(logits)
    flat = metrics.log_softmax(0.5 * (known - np.log(prior)) + np.log(prior))  # so known = 2 flat - log prior
    generator = np.random.default_rng(0)
    lost = generator.random(6000) < 0.1
    targets = np.where(lost, generator.choice(oracles.CLASSES, 6000, p=prior), targets)
    fitted = scaling.fit("temperature, prior and noise", flat, targets, 1e6 * prior)
    assert fitted.by_top[0] == pytest.approx(2, rel=0.15)
    slope = np.polyfit(np.log(prior), fitted.bias, 1)[0]
    assert slope == pytest.approx(-1, abs=0.2) and fitted.bias == pytest.approx(slope * np.log(prior))
    np.testing.assert_allclose(fitted.floor, fitted.floor.sum() * prior)
    assert fitted.floor.sum() == pytest.approx(0.1, abs=0.03)
    right = metrics.nll(np.log(0.9 * np.exp(known) + 0.1 * prior), targets)
    alone = scaling.fit("temperature", flat, targets, 1e6 * prior)
    assert metrics.nll(fitted(flat), targets) < right + 1e-9 < metrics.nll(alone(flat), targets) - 0.01
    np.testing.assert_allclose(np.exp(fitted(flat)).sum(1), 1)


def test_where_there_is_no_noise_none_is_found():
    logits, targets, prior = oracles.judged(n=2000, temperature=0.5)
    fitted = scaling.fit("temperature, prior and noise", metrics.log_softmax(logits), targets, 1e6 * prior)
    assert fitted.floor.sum() < 0.02 and fitted.by_top[0] == pytest.approx(2, rel=0.1)


def test_where_every_picture_is_right_the_temperature_stops_at_its_bound():
    targets = np.arange(40) % 4
    fitted = scaling.fit("temperature", metrics.log_softmax(np.eye(4)[targets]), targets, np.ones(4))
    assert 1 / fitted.by_top[0] == pytest.approx(1 / scaling.LARGEST)


def test_what_is_right_already_is_left_alone():
    """Of kinds that differ by noise the simplest is taken."""
    kept = []
    for seed in range(5):
        logits, targets, _ = oracles.judged(n=600, seed=seed)
        trials, failed = scaling.compare(metrics.log_softmax(logits), targets, COUNTS, scaling.parts_of(targets))
        assert not failed and [trial.kind for trial in trials] == list(scaling.KINDS)
        kept.append(scaling.simplest(trials).kind)
    assert kept.count("none") >= 4


def test_a_row_is_scaled_by_a_fit_that_did_not_see_it():
    logits, targets, _ = oracles.judged(n=200, temperature=2.0)
    log_posterior = metrics.log_softmax(logits)
    parts = scaling.parts_of(targets)
    held_out = scaling.cross_fit("bias", log_posterior, targets, COUNTS, parts)
    here = parts == 2
    alone = scaling.fit("bias", log_posterior[~here], targets[~here], COUNTS)(log_posterior[here])
    np.testing.assert_array_equal(held_out[here], alone)
    changed = np.where(here, (targets + 1) % oracles.CLASSES, targets)  # other labels of the part change nothing in it
    again = scaling.cross_fit("bias", log_posterior, changed, COUNTS, parts)
    np.testing.assert_array_equal(again[here], held_out[here])


def test_parts_deal_every_class_out_evenly():
    targets = np.repeat(np.arange(6), (50, 23, 11, 5, 2, 1))
    parts = scaling.parts_of(targets)
    for c in range(6):
        sizes = np.bincount(parts[targets == c], minlength=scaling.PARTS)
        assert sizes.max() - sizes.min() <= 1
    assert np.ptp(np.bincount(parts)) <= 1
