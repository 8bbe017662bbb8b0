"""Where all classes count alike: against pictures repeated until they do, and on a world whose posterior is known."""

import json

import numpy as np
import pytest

import calibrate
import metrics
import oracles
from posterior import calibration, classifier, equal_classes, evidence, priors, scaling
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


def test_a_temperature_is_that_of_pictures_repeated_until_all_classes_have_as_many():
    log_posterior, targets = unbalanced()
    rows = repeated(targets)
    found = scaling.fit("temperature", log_posterior, targets, COUNTS, equal_classes=True)
    known = scaling.fit("temperature", log_posterior[rows], targets[rows], COUNTS)
    np.testing.assert_allclose(found.by_top, known.by_top, rtol=1e-4)
    other = scaling.fit("temperature", log_posterior, targets, COUNTS)
    assert abs(other.by_top[0] / known.by_top[0] - 1) > 0.01


@pytest.mark.parametrize("kind", scaling.KINDS)
def test_no_kind_is_worse_than_as_is_where_it_was_fitted(kind):
    log_posterior, targets = unbalanced()
    weights = equal_classes.row_weights(targets, CLASSES)
    scaled = scaling.fit(kind, log_posterior, targets, COUNTS, equal_classes=True)(log_posterior)
    before, after = (equal_classes.scores(each, targets, weights)["nll"].value for each in (log_posterior, scaled))
    assert after <= before + 1e-9
    np.testing.assert_allclose(np.exp(scaled).sum(1), 1)


@pytest.fixture(scope="module")
def too_sure_of_rare(tmp_path_factory):
    """(folder, checkpoint, what the networks say of log posteriors for equal classes): too sure where they name a rare
    class there, which is seldom where classes are as frequent as in training."""

    def said(equal):
        rare = equal.argmax(1) >= CLASSES // 2
        return metrics.log_softmax(np.where(rare[:, None], 2.5, 1.0) * equal)

    log_posterior, targets, prior = oracles.judged(n=1000)
    uniform = np.full(CLASSES, 1 / CLASSES)
    logits = priors.move(said(priors.move(log_posterior, prior, uniform)), uniform, prior)
    folder = judged_run(tmp_path_factory.mktemp("runs") / "run", logits, targets, COUNTS)
    assert calibrate.main([str(folder)]) == 0
    known = evidence.of_run(folder)
    return folder, dict(config=evidence.read_settings(folder), classes=known.classes, counts=known.counts), said


def finish(folder, checkpoint, prior="uniform"):
    return classifier.Finish([folder], [checkpoint], folder.parent, True, prior)


def test_other_pictures_of_equal_classes_are_answered_with_less_error(too_sure_of_rare):
    """Than by the scaling of pictures as frequent as in training, and than by none."""
    folder, checkpoint, said = too_sure_of_rare
    log_posterior, targets, prior = oracles.judged(n=40_000, seed=9)
    uniform = np.full(CLASSES, 1 / CLASSES)
    rows = np.concatenate([np.flatnonzero(targets == c)[:500] for c in range(CLASSES)])
    equal = said(priors.move(log_posterior[rows], prior, uniform))
    given = priors.move(equal, uniform, prior)
    answers, words = finish(folder, checkpoint)(given)
    as_before = priors.move(finish(folder, checkpoint).calibration.scaling(given), prior, uniform)
    errors = [metrics.ece(metrics.softmax(each), targets[rows]) for each in (answers, as_before, equal)]
    assert errors[0] < errors[1] and errors[0] < errors[2] / 2
    assert metrics.nll(answers, targets[rows]) < metrics.nll(as_before, targets[rows]) - 0.02
    assert "all classes alike" in words[0] and words[1] == "class prior: uniform"


def test_held_out_pictures_are_scaled_as_calibrate_judged_them(too_sure_of_rare):
    folder, checkpoint, _ = too_sure_of_rare
    known = evidence.of_run(folder)
    answers, _ = finish(folder, checkpoint)(known.log_posterior, held_out=known.paths)
    weights = equal_classes.row_weights(known.targets, CLASSES)
    kept = json.loads((folder / "calibration.json").read_text())["of_equal_classes"]
    for name, score in equal_classes.scores(answers, known.targets, weights).items():
        assert score.value == pytest.approx(kept["after"][name]["value"], abs=1e-9)


def test_other_priors_have_the_other_scaling(too_sure_of_rare):
    folder, checkpoint, _ = too_sure_of_rare
    known = evidence.of_run(folder)
    for prior in ("train", "tau:1"):
        own = finish(folder, checkpoint, prior)
        answers, words = own(known.log_posterior.copy())
        expected = priors.move(own.calibration.scaling(known.log_posterior), known.prior, own.wanted)
        np.testing.assert_allclose(answers, expected, atol=1e-12)
        assert "all classes alike" not in words[0]


def test_a_picture_that_cannot_be_read_has_the_prior_that_is_asked_for(too_sure_of_rare):
    folder, checkpoint, _ = too_sure_of_rare
    answers, _ = finish(folder, checkpoint)(evidence.of_run(folder).log_posterior[:3].copy(), unread=[1])
    np.testing.assert_allclose(np.exp(answers[1]), 1 / CLASSES)


def test_an_older_calibration_has_one_scaling_for_all(too_sure_of_rare, tmp_path):
    folder, checkpoint, _ = too_sure_of_rare
    saved = json.loads((folder / "calibration.json").read_text())
    del saved["equal_classes"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "calibration.json").write_text(json.dumps(saved))
    log_posterior, trained = evidence.of_run(folder).log_posterior, evidence.of_run(folder).prior
    own = finish(tmp_path / "run", checkpoint)
    expected = priors.move(own.calibration.scaling(log_posterior), trained, own.wanted)
    np.testing.assert_allclose(own(log_posterior)[0], expected, atol=1e-12)


@pytest.mark.parametrize("change", [dict(by_top=[-1] * 8), dict(kind="magic"), dict(floor=[0.1] * 8), dict(bias="x")])
def test_what_is_damaged_is_named(too_sure_of_rare, tmp_path, change):
    folder, checkpoint, _ = too_sure_of_rare
    saved = json.loads((folder / "calibration.json").read_text())
    saved["equal_classes"] |= change
    (tmp_path / "calibration.json").write_text(json.dumps(saved))
    with pytest.raises(calibration.LongtailError, match="calibration.json is damaged .*--no-calibration"):
        calibration.calibration_of([tmp_path], [checkpoint], None)


def test_calibrate_shows_what_it_does(tmp_path, capsys):
    logits, targets, _ = oracles.judged(n=1000, temperature=2.0)
    folder = judged_run(tmp_path / "run", logits, targets, COUNTS)
    assert calibrate.main([str(folder), "--markdown"]) == 0
    out = capsys.readouterr().out
    part = out.split("Where all classes are equally frequent (predict.py --prior uniform):")[1]
    kept = json.loads((folder / "calibration.json").read_text())["of_equal_classes"]
    row = next(line for line in part.splitlines() if line.startswith("| NLL"))
    assert f"| {kept['before']['nll']['value']:.3f} |" in row and f"| {kept['after']['nll']['value']:.3f} |" in row
    weights = equal_classes.row_weights(targets, CLASSES)
    assert f"all say as much as {equal_classes.effective(weights):.0f} would" in part
