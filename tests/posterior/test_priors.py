"""Class priors: Bayes' rule, QuaPy's expectation maximisation, and that an estimate is used only where it helps."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

import metrics
import oracles
from errors import LongtailError
from posterior import priors

RECORDED = json.loads(oracles.FILE.read_text())
UNIFORM = np.full(oracles.CLASSES, 1 / oracles.CLASSES)


def world(**how):
    logits, targets, prior = oracles.judged(**how)
    return metrics.log_softmax(logits), targets, prior


def test_a_posterior_moves_by_bayes_rule_and_back():
    log_posterior, _, prior = world(n=50)
    moved = priors.move(log_posterior, prior, UNIFORM)
    joint = np.exp(log_posterior) / prior * UNIFORM  # written out
    np.testing.assert_allclose(np.exp(moved), joint / joint.sum(1, keepdims=True))
    np.testing.assert_allclose(priors.move(moved, UNIFORM, prior), log_posterior, atol=1e-12)
    nobody = UNIFORM.copy()
    nobody[3] = 0
    gone = priors.move(log_posterior, prior, nobody / nobody.sum())
    assert np.exp(gone[:, 3]).max() < 1e-8 and np.isfinite(gone).all()


@pytest.mark.parametrize("temperature, expected", RECORDED["prior"])
def test_em_is_quapys(temperature, expected):
    log_posterior, targets, prior = world(temperature=temperature)
    shifted = np.concatenate([np.flatnonzero(targets == c)[:40] for c in range(oracles.CLASSES)])
    np.testing.assert_allclose(priors.em(log_posterior[shifted], prior, pseudo=0), expected, atol=1e-3)


def test_pseudo_pictures_keep_every_class():
    log_posterior, targets, prior = world()
    estimated = priors.em(log_posterior[targets < 2], prior)
    assert estimated.sum() == pytest.approx(1) and estimated.min() >= priors.PSEUDO / (len(targets) + 4) > 0


def test_the_tilt_finds_the_power_that_was_used():
    log_posterior, targets, prior = world(n=4000)
    generator = np.random.default_rng(0)
    for power in (0.0, 1.0):
        weight = (priors.tilted(prior, power) / prior)[targets]
        rows = generator.choice(len(targets), 2000, p=weight / weight.sum())
        found = priors.tilt(log_posterior[rows], prior)
        np.testing.assert_allclose(found, priors.tilted(prior, power), atol=0.04)


def shifted_rows(targets, mix, size, generator):
    weight = (mix / np.bincount(targets, minlength=len(mix)))[targets]
    return generator.choice(len(targets), size, p=weight / weight.sum())


def test_an_estimate_helps_under_a_shift_and_does_no_harm_without_one():
    log_posterior, targets, prior = world(n=8000)
    known, others = np.arange(3000), np.arange(3000, 8000)
    generator = np.random.default_rng(1)

    def accuracy(rows, mix):
        return (priors.move(log_posterior[rows], prior, mix).argmax(1) == targets[rows]).mean()

    for mix, shifted in ((prior, False), (UNIFORM, True)):
        rows = others[shifted_rows(targets[others], mix, 1000, generator)]
        found = priors.estimate(log_posterior[rows], prior, log_posterior[known], targets[known], prior)
        gain = accuracy(rows, found.prior) - accuracy(rows, prior)
        most = accuracy(rows, mix) - accuracy(rows, prior)
        if shifted:
            assert found.estimator != "none" and gain >= most / 2 > 0.01
        else:
            assert gain >= -0.005


def test_what_does_not_prove_itself_is_not_used():
    """Posteriors of half the confidence make EM see a mix that is not there: it must fail on known pictures."""
    log_posterior, targets, prior = world(n=4000, temperature=0.4)
    known, rows = slice(0, 2000), slice(2000, 4000)
    found = priors.estimate(log_posterior[rows], prior, log_posterior[known], targets[known], prior)
    before = (log_posterior[rows].argmax(1) == targets[rows]).mean()
    after = (priors.move(log_posterior[rows], prior, found.prior).argmax(1) == targets[rows]).mean()
    assert after >= before - 0.005
    plain = priors.em(log_posterior[rows], prior, pseudo=0)
    assert (priors.move(log_posterior[rows], prior, plain).argmax(1) == targets[rows]).mean() < before - 0.02


def test_of_a_few_pictures_nothing_is_said_of_their_mix():
    log_posterior, targets, prior = world(n=400)
    found = priors.estimate(log_posterior[:9], prior, log_posterior[9:], targets[9:], prior)
    assert found.estimator == "none" and found.reason == "an estimate takes 10 pictures or more"


def test_tau_is_chosen_by_the_other_parts():
    """Against scikit-learn's F1 and a search written out; a row's own part has no say in its answer."""
    log_posterior, targets, prior = world(n=400)
    parts = np.arange(400) % 3
    tau, predicted = priors.choose_tau(log_posterior, prior, targets, parts)

    def search(rows):
        scores = []
        for t in priors.TAUS:
            answers = (np.exp(log_posterior[rows]) / prior**t).argmax(1)
            scores.append(f1_score(targets[rows], answers, average="macro"))
        return priors.TAUS[int(np.argmax(scores))]

    assert tau == search(np.arange(400)) > 0
    for part in range(3):
        here = np.flatnonzero(parts == part)
        by_others = search(np.flatnonzero(parts != part))
        np.testing.assert_array_equal(predicted[here], (log_posterior[here] - by_others * np.log(prior)).argmax(1))
    log_posterior[here] = log_posterior[here][:, ::-1]  # the last part's rows
    _, changed = priors.choose_tau(log_posterior, prior, targets, parts)
    np.testing.assert_array_equal(changed[here], (log_posterior[here] - by_others * np.log(prior)).argmax(1))


def test_scores_along_the_frontier_are_those_of_moved_posteriors():
    log_posterior, targets, prior = world(n=300)
    accuracy, f1 = priors.frontier_scores(log_posterior, prior, targets)
    for k, tau in enumerate(priors.TAUS):
        moved = priors.move(log_posterior, prior, priors.tilted(prior, 1 - tau))  # prior^(1 - tau)
        predicted = moved.argmax(1)
        assert accuracy[k] == np.mean(predicted == targets)
        assert f1[k] == pytest.approx(f1_score(targets, predicted, average="macro", zero_division=0))


def test_the_frontier_begins_as_is_and_ends_at_the_uniform_prior():
    log_posterior, _, prior = world(n=300)
    as_is, uniform = priors.frontier(log_posterior, prior, (0.0, 1.0))
    np.testing.assert_array_equal(as_is, log_posterior.argmax(1))
    np.testing.assert_array_equal(uniform, priors.move(log_posterior, prior, UNIFORM).argmax(1))


@pytest.mark.parametrize(
    "text, said",
    [
        ("class,share\nb,3\na,1\n", None),
        ("b,3\na,1\n", None),  # no line that names the columns
        ("class;share\nb;0.75\na;0.25\n", None),
        ("class,share\na,25%\nb,75%\n", "line 2: '25%' is no share"),
        ("class,share\na,1\n", "no share of 'b'"),
        ("class,share\na,1\nb,x\n", "line 3: 'x' is no share"),
        ("class,share\na,1\nb,-1\n", "line 3"),
        ("class,share\na,1\nb,nan\n", "line 3"),
        ("class,share\na,1\nc,1\n", "'c' is no class"),
        ("class,share\na,1\na,1\n", "stands twice"),
        ("class,share\na,0\nb,0\n", "every share is 0"),
        ("class,share,more\na,0,1\nb,0,1\n", "two columns"),
    ],
)
def test_a_prior_is_read_from_a_file(tmp_path, text, said):
    (tmp_path / "prior.csv").write_text(text)
    if said is None:
        np.testing.assert_allclose(priors.from_file(tmp_path / "prior.csv", ["a", "b"]), [0.25, 0.75])
        return
    with pytest.raises(LongtailError, match=said):
        priors.from_file(tmp_path / "prior.csv", ["a", "b"])


def test_a_class_is_found_in_either_spelling_of_its_accents(tmp_path):
    (tmp_path / "prior.csv").write_text("class,share\nE\u0301mile,3\nGru\u0308n,1\n", encoding="utf-8")
    np.testing.assert_allclose(priors.from_file(tmp_path / "prior.csv", ["Gr\u00fcn", "\u00c9mile"]), [0.25, 0.75])
