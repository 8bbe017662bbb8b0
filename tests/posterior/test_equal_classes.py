"""Where all classes count alike: against pictures repeated until they do, and on a world whose posterior is known."""

import json

import numpy as np
import pytest

import calibrate
import metrics
import oracles
from posterior import calibration, equal_classes, evidence, priors
from samples import judged_run

CLASSES = oracles.CLASSES
COUNTS = 1e6 * 0.7 ** np.arange(CLASSES)  # as oracles.judged has them


def unbalanced():
    """(log posteriors [N,C], targets [N]) with 2, 3, 4 or 6 pictures a class."""
    logits, targets, _ = oracles.judged(n=2000, temperature=1.7)
    rows = np.concatenate([np.flatnonzero(targets == c)[: (2, 3, 4, 6)[c % 4]] for c in range(CLASSES)])
    return metrics.log_softmax(logits)[rows], targets[rows]


def repeated(targets):
    """The rows of targets [N], each so often that all classes have 12."""
    return np.repeat(np.arange(len(targets)), 12 // np.bincount(targets)[targets])


def test_scores_are_those_of_pictures_repeated_until_all_classes_have_as_many():
    log_posterior, targets = unbalanced()
    rows = repeated(targets)
    weights = equal_classes.row_weights(targets, CLASSES)
    found = equal_classes.scores(log_posterior, targets, weights)
    known = metrics.evaluate(log_posterior[rows], targets[rows], COUNTS)
    for name in ("acc", "nll", "ece"):
        assert found[name].value == pytest.approx(known[name], abs=1e-12)
    assert weights.mean() == pytest.approx(1)


def test_classes_without_a_picture_count_nothing():
    targets = np.array([2, 2, 0])
    np.testing.assert_allclose(equal_classes.row_weights(targets, 5), [0.75, 0.75, 1.5])


def test_an_interval_is_the_usual_one_where_all_count_the_same():
    values = np.random.default_rng(0).random(50)
    found = equal_classes.mean(values, np.ones(50))
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert equal_classes.mean(values[:1], np.ones(1)).error == 0


def test_an_interval_holds_the_truth_where_weights_differ():
    """Two classes, of 200 and 20 pictures, right with probability 0.9 and 0.3: their mean is 0.6."""
    generator = np.random.default_rng(1)
    targets = np.repeat([0, 1], [200, 20])
    weights = equal_classes.row_weights(targets, 2)
    held = 0
    for _ in range(500):
        hits = generator.random(220) < np.array([0.9, 0.3])[targets]
        middle, error = equal_classes.mean(hits.astype(float), weights)
        held += abs(middle - 0.6) < 1.96 * error
    assert 0.9 < held / 500 < 0.98  # the standard error of the share is 0.01


@pytest.mark.parametrize("sizes, expected", [([5, 5], 10), ([9, 1], 3.6), ([1], 1)])
def test_unlike_weights_say_as_much_as_fewer_pictures(sizes, expected):
    """K classes: K squared over the sum of one over their pictures."""
    targets = np.repeat(np.arange(len(sizes)), sizes)
    weights = equal_classes.row_weights(targets, len(sizes))
    assert equal_classes.effective(weights) == pytest.approx(expected)


def test_right_probabilities_show_an_error_that_chance_shows():
    """In 95% of draws, of labels by the training prior, which the weights make equal."""
    inside = []
    for seed in range(60):
        log_posterior, targets, prior = oracles.judged(n=400, seed=seed)
        equal = priors.move(log_posterior, prior, np.full(CLASSES, 1 / CLASSES))
        weights = equal_classes.row_weights(targets, CLASSES)
        chance = equal_classes.chance(equal, prior, targets, draws=100)
        inside.append(chance.low <= equal_classes.scores(equal, targets, weights)["ece"].value <= chance.high)
    assert sum(inside) >= 51  # of 57 expected; fewer has a probability of 0.02


def test_chance_is_of_labels_as_frequent_as_the_pictures():
    """A sure answer for the frequent class where classes are equal is surer where that class is nine times as
    frequent: there it is hardly ever wrong, and a wrong one weighs nine times as much."""
    log_posterior = np.log(np.tile([0.8, 0.2], (1000, 1)))
    targets = np.repeat([0, 1], [900, 100])
    prior = np.array([0.9, 0.1])
    found = equal_classes.chance(log_posterior, prior, targets, draws=400)
    generator = np.random.default_rng(3)
    rare = 0.02 / 0.74  # 0.1 x 0.2 of 0.9 x 0.8 + 0.1 x 0.2
    errors = []
    for _ in range(400):
        drawn = generator.random(1000) < rare
        weight = np.where(drawn, 5.0, 1 / 1.8)
        errors.append(abs(0.8 - np.average(~drawn, weights=weight)))
    assert found.mean == pytest.approx(np.mean(errors), rel=0.15)
    assert found.high == pytest.approx(np.quantile(errors, 0.975), rel=0.2)


def test_a_perfect_score_is_not_certain_and_no_share_is_above_one():
    log_posterior = metrics.log_softmax(5 * np.eye(2)[[0] * 9 + [1]])
    targets = np.array([0] * 9 + [1])
    found = equal_classes.scores(log_posterior, targets, equal_classes.row_weights(targets, 2))
    assert found["acc"].value == found["acc"].high == 1 and 0.3 < found["acc"].low < 0.6


def test_calibrate_shows_what_it_does_there(tmp_path, capsys):
    """By fits that had not seen a picture; a class that no picture is of is named."""
    logits, targets, _ = oracles.judged(n=1000, temperature=2.0)
    rows = targets != CLASSES - 1
    folder = judged_run(tmp_path / "run", logits[rows], targets[rows], COUNTS)
    assert calibrate.main([str(folder), "--markdown"]) == 0
    out = capsys.readouterr().out
    part = out.split("Where all classes are equally frequent (predict.py --prior uniform):")[1]
    kept = json.loads((folder / "calibration.json").read_text())["of_equal_classes"]
    row = next(line for line in part.splitlines() if line.startswith("| NLL"))
    assert f"| {kept['before']['nll']['value']:.3f} |" in row and f"| {kept['after']['nll']['value']:.3f} |" in row

    known = evidence.of_run(folder)
    settings = dict(config=evidence.read_settings(folder), classes=known.classes)
    own = calibration.calibration_of([folder], [settings], None)
    weights = equal_classes.row_weights(known.targets, CLASSES)
    for stage, log_posterior in (
        ("before", known.log_posterior),
        ("after", own.held_out(known.paths, known.log_posterior)),
    ):
        moved = priors.move(log_posterior, known.prior, np.full(CLASSES, 1 / CLASSES))
        for name, score in equal_classes.scores(moved, known.targets, weights).items():
            assert kept[stage][name]["value"] == pytest.approx(score.value, abs=1e-9)
    assert f"they say as much as {equal_classes.effective(weights):.0f} of" in part
    assert "1 class without a held-out picture cannot be judged." in part
