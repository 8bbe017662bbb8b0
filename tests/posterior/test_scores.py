"""Scores with intervals, and what guessing gets, against closed forms, scikit-learn and simulation."""

import json

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

import metrics
import oracles
from errors import LongtailError
from posterior import scores

COUNTS = (4000 * 0.7 ** np.arange(oracles.CLASSES)).round()


def test_every_score_of_a_run_is_there_and_within_its_interval():
    logits, targets, _ = oracles.judged(n=400)
    found = scores.of(metrics.log_softmax(logits), targets, COUNTS)
    assert found.keys() >= metrics.evaluate(logits, targets, COUNTS).keys()
    for name, score in found.items():
        if score.low == score.low:  # not nan
            assert score.low <= score.value <= score.high, name
    expected = top_k_accuracy_score(targets, logits, k=5, labels=range(oracles.CLASSES))
    assert found["top5"].value == pytest.approx(expected)


def test_wilsons_interval_is_its_closed_form():
    """(p + z^2/2n ± z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n), Wilson 1927."""
    z, n, p = 1.96, 50, 0.3
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((p + z**2 / (2 * n) + side * half) / (1 + z**2 / n) for side in (-1, 1))
    assert scores.wilson(15, 50) == pytest.approx((0.3, low, high))
    assert scores.wilson(0, 9).low == 0 and scores.wilson(9, 9).high == 1


def test_a_groups_interval_covers():
    generator = np.random.default_rng(0)
    counts, recall = np.array([200, 150, 50, 40, 10, 5]), np.array([0.9, 0.8, 0.6, 0.5, 0.3, 0.2])
    targets = np.repeat(np.arange(6), (30, 25, 12, 10, 6, 4))
    truth = dict(many=0.85, medium=0.55, few=0.25)
    covered = {name: 0 for name in truth}
    for _ in range(400):
        hits = generator.random(len(targets)) < recall[targets]
        found = scores.group_scores(np.where(hits, targets, (targets + 1) % 6), targets, counts)
        for name, value in truth.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert min(covered.values()) >= 0.9 * 400


def test_guesses_are_scikit_learns_dummies():
    _, targets, _ = oracles.judged(n=4000)
    guesses = scores.guesses(targets, COUNTS)
    learned = np.repeat(np.arange(oracles.CLASSES), COUNTS.astype(int))
    frequent = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(learned), 1)), learned)
    named = frequent.predict(np.zeros((len(targets), 1)))
    assert guesses["most frequent"]["acc"] == pytest.approx((named == targets).mean())
    assert guesses["most frequent"]["macro_f1"] == pytest.approx(f1_score(targets, named, average="macro"))
    drawn = DummyClassifier(strategy="stratified", random_state=0).fit(np.zeros((len(learned), 1)), learned)
    named = np.concatenate([drawn.predict(np.zeros((len(targets), 1))) for _ in range(1)])
    assert guesses["drawn by the prior"]["acc"] == pytest.approx((named == targets).mean(), abs=0.03)
    f1 = f1_score(targets, named, average="macro")
    assert guesses["drawn by the prior"]["macro_f1"] == pytest.approx(f1, abs=0.03)
    few = np.array([0, 0, 1, 3])  # F1 bends most where a class has one picture
    draws = np.random.default_rng(0).choice(oracles.CLASSES, (4000, 4), p=COUNTS / COUNTS.sum())
    f1 = [f1_score(few, each, average="macro", labels=np.unique(few), zero_division=0) for each in draws]
    expected = scores.guesses(few, COUNTS)["drawn by the prior"]["macro_f1"]
    assert expected == pytest.approx(np.mean(f1), abs=4 * np.std(f1) / np.sqrt(len(f1)))
    prior = COUNTS / COUNTS.sum()
    logits = np.tile(np.log(prior), (len(targets), 1))
    assert guesses["drawn by the prior"]["nll"] == pytest.approx(metrics.nll(logits, targets))
    assert guesses["drawn by the prior"]["brier"] == pytest.approx(metrics.brier(np.exp(logits), targets))
    assert balanced_accuracy_score(targets, named) < 0.3  # guessing is not a classifier


def test_confused_pairs_come_by_count():
    targets = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 0, 2, 1, 0])
    assert scores.confused(targets, predicted, 3) == [(0, 1, 2), (1, 2, 1), (2, 0, 1)]


def test_what_evaluate_writes_is_read_again(tmp_path):
    """Nothing is known of the interval of the worst class, and of a group without a class not even the value."""
    logits, targets, _ = oracles.judged(n=60)
    found = scores.of(logits, targets, np.full(oracles.CLASSES, 30), resamples=0)
    (tmp_path / "evaluation.json").write_text(json.dumps(dict(pictures="new", n=60, scores=scores.as_json(found))))
    what, read = scores.read_evaluation(tmp_path)
    assert what == "new, n 60"
    assert {name: repr(read[name]) for name in read} == {name: repr(found[name]) for name in scores.TITLES}
    (tmp_path / "evaluation.json").write_text('{"scores": [], "pictures": "", "n": 1}')
    with pytest.raises(LongtailError, match="evaluation.json is damaged"):
        scores.read_evaluation(tmp_path)
