"""calibration.json: what it says is checked, and pictures that it was fitted to are scaled without themselves."""

import json
import shutil

import numpy as np
import pytest

import calibrate
import metrics
import oracles
from config import REMOVED, Config
from errors import LongtailError
from posterior import calibration, classifier, evidence, priors, scaling
from samples import judged_run

COUNTS = np.array([90, 60, 40, 30, 20, 10, 5, 3])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run whose logits are too sure, and whose classes are off by a bias each: (folder, checkpoint)."""
    logits, targets, _ = oracles.judged(n=300, temperature=2.0)
    folder = judged_run(tmp_path_factory.mktemp("runs") / "run", logits + np.arange(oracles.CLASSES), targets, COUNTS)
    assert calibrate.main([str(folder)]) == 0
    return folder, dict(config=evidence.read_settings(folder), classes=[f"painter {c}" for c in range(oracles.CLASSES)])


def found(folder, checkpoint):
    return calibration.calibration_of([folder], [checkpoint], None)


def test_a_calibration_belongs_to_the_views_that_it_was_fitted_to():
    today = Config().settings()
    older = {name: value for name, value in today.items() if name != "tta"}
    same = [calibration.owner(today | dict(tta=tta)) for tta in ("auto", "flip")]
    others = [today | dict(tta="none"), today | dict(flip=False), older, today | dict(noise=0.1)]
    assert len({*same}) == 1 and len({*same, *map(calibration.owner, others)}) == 5
    assert calibration.owner(today | dict(noise=0.0)) == same[0]
    for settings in (today, *others):  # read back
        assert calibration.owner(json.loads(calibration.owner(settings))) == calibration.owner(settings)


def test_held_out_pictures_are_scaled_as_calibrate_judged_them(calibrated):
    folder, checkpoint = calibrated
    known = evidence.of_run(folder)
    own = found(folder, checkpoint)
    assert own.scaling.kind == "bias and temperature" and "carried over" not in own.carried_over([folder])
    judged = own.held_out(known.paths, known.log_posterior)
    after = json.loads((folder / "calibration.json").read_text())["after"]["nll"]["value"]
    assert metrics.nll(judged, known.targets) == pytest.approx(after, abs=1e-9)
    # With the fit that has seen them it would be lower.
    assert metrics.nll(own.scaling(known.log_posterior), known.targets) < after - 1e-4
    # In another order, and with a picture that nothing was fitted to: that one gets the scaling itself.
    paths = [*reversed(known.paths), "new.jpg"]
    mixed = own.held_out(paths, np.concatenate([known.log_posterior[::-1], known.log_posterior[:1]]))
    np.testing.assert_allclose(mixed[:-1], judged[::-1], atol=1e-12)
    np.testing.assert_allclose(mixed[-1:], own.scaling(known.log_posterior[:1]), atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_pictures_that_were_not_read_move_no_estimate(calibrated, scaled, monkeypatch):
    def mean_posterior(log_posterior, prior, *known):
        return priors.Estimate(metrics.softmax(log_posterior).mean(0), "mean", f"{len(log_posterior)} pictures")

    monkeypatch.setattr(classifier, "estimate", mean_posterior)
    folder, checkpoint = calibrated
    adjustment = classifier.Adjustment([folder], [checkpoint | dict(counts=COUNTS)], folder.parent, scaled, "estimate")
    read = evidence.of_run(folder).log_posterior[:100]
    answers, said = adjustment(read)
    given = np.concatenate([np.full((200, oracles.CLASSES), -np.log(oracles.CLASSES)), read])
    before = given.copy()
    with_others, also_said = adjustment(given, unread=range(200))
    np.testing.assert_array_equal(with_others[200:], answers)
    np.testing.assert_array_equal(given, before)
    assert said[-1] == also_said[-1] == "class prior: estimated by mean: 100 pictures"
    assert np.ptp(with_others[:200], axis=0).max() == 0  # each the prior's answer


def test_what_a_report_calls_scaled_is_by_fits_to_others_or_not_there(calibrated, monkeypatch):
    """Of too many probabilities none: what the file keeps was fitted to these pictures."""
    folder, checkpoint = calibrated
    known = evidence.of_run(folder)
    scaled, said = calibration.scaled_held_out(folder, checkpoint["config"], known)
    np.testing.assert_allclose(scaled, found(folder, checkpoint).held_out(known.paths, known.log_posterior), atol=1e-9)
    assert "each picture by a fit to others" in said
    monkeypatch.setattr(calibration, "cross_fit", lambda *args: None)
    assert calibration.scaled_held_out(folder, checkpoint["config"], known)[0] is None
    monkeypatch.setattr(calibration, "LARGE", 100)
    scaled, said = calibration.scaled_held_out(folder, checkpoint["config"], known)
    assert scaled is None and said.endswith("Not scaled here: a fit to so many probabilities takes minutes")


def test_which_runs_it_is_used_with_is_said(calibrated, tmp_path):
    folder, checkpoint = calibrated
    own = found(folder, checkpoint)
    assert "carried over from other runs" in own.carried_over([tmp_path])
    assert "carried over from 1 network to 3" in own.carried_over([folder] * 3)
    # Of pictures that three folds held out each is judged by one network, as those were that it was fitted to.
    assert "carried over" not in own.carried_over([folder] * 3, held_out=True)
    assert "carried over from other runs" in own.carried_over([tmp_path] * 3, held_out=True)
    # Averaged with a run of other settings it is not "of the same settings", whatever the number of runs.
    other = checkpoint | dict(config=checkpoint["config"] | dict(mixup_p=0.9))
    mixed = calibration.calibration_of([tmp_path, tmp_path], [checkpoint, other], folder.parent)
    assert "carried over to runs of other settings" in mixed.carried_over([folder])


def test_one_of_other_pictures_is_none(calibrated, tmp_path):
    """Two runs of the same settings and classes; env.json says of which pictures each was prepared."""
    folder, checkpoint = calibrated
    project = tmp_path / "runs"
    shutil.copytree(folder, project / "first")
    (project / "second").mkdir()

    def taken(first, second):
        for name, key in (("first", first), ("second", second)):
            (project / name / "env.json").write_text(
                json.dumps({} if key is None else dict(data_key=key, listing_key=1))
            )
        return calibration.calibration_of([project / "second"], [checkpoint], project)

    assert taken("a", "b") is None
    for keys in (("a", "a"), ("a", None), (None, "a")):
        assert taken(*keys).path == project / "first" / "calibration.json"
    (project / "second" / "env.json").unlink()
    assert calibration.calibration_of([project / "second"], [checkpoint], project) is not None


def test_one_that_a_version_with_other_settings_wrote_is_found(calibrated, tmp_path):
    folder, checkpoint = calibrated
    saved = json.loads((folder / "calibration.json").read_text())
    settings = json.loads(saved["recipe"])
    del settings["one_op"]  # as if it came later
    (tmp_path / "calibration.json").write_text(json.dumps(saved | dict(recipe=json.dumps(settings | REMOVED))))
    assert found(tmp_path, checkpoint).path.parent == tmp_path
    assert found(tmp_path, dict(checkpoint, config=checkpoint["config"] | dict(one_op=True))) is None


@pytest.mark.parametrize(
    "change",
    [
        dict(runs=5),
        dict(runs=[]),
        dict(runs=[5]),
        dict(members="x"),
        dict(members=None),
        dict(members=0),
        dict(pictures="many"),
        dict(classes=5),
        dict(classes=["a"]),
        dict(kind="magic"),
        dict(kind=5),
        dict(slope=[float("nan")] * 8),
        dict(slope=[10**400] * 8),
        dict(by_top=[1e308] * 8),
        dict(by_top=[-1] * 8),
        dict(bias=[0] * 7),
        dict(floor=[0.1] * 8),
        dict(floor=[-0.01] * 8),
        dict(bias="x"),
        dict(scaling=[]),
        dict(sets=5),
        dict(sets=dict(log_ratio="x")),
        dict(sets=dict(log_ratio=float("inf"))),
        dict(sets={}),
    ],
    ids=str,
)
def test_what_is_damaged_is_named(calibrated, tmp_path, change):
    folder, checkpoint = calibrated
    saved = json.loads((folder / "calibration.json").read_text())
    for name, value in change.items():
        (saved["scaling"] if name in saved["scaling"] else saved)[name] = value
    (tmp_path / "calibration.json").write_text(json.dumps(saved))
    with pytest.raises(LongtailError, match="calibration.json is damaged .*--no-calibration"):
        found(tmp_path, checkpoint)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000, "\udcff"], ids=range(6))
def test_what_is_no_calibration_is_named(calibrated, tmp_path, text):
    (tmp_path / "calibration.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LongtailError, match="calibration.json is damaged"):
        found(tmp_path, calibrated[1])


def test_what_it_was_fitted_to_may_be_gone(calibrated, tmp_path):
    folder, checkpoint = calibrated
    saved = json.loads((folder / "calibration.json").read_text()) | dict(runs=["gone"])
    (tmp_path / "calibration.json").write_text(json.dumps(saved))
    alone = found(tmp_path, checkpoint)
    assert alone.scaling.kind in scaling.KINDS  # it predicts without them
    with pytest.raises(LongtailError, match="what it was fitted to, but .*gone.*--no-calibration"):
        alone.known()


def test_a_run_that_went_on_needs_a_calibration_of_its_own(calibrated, tmp_path):
    """Of its networks as they are now nobody has asked what a scaling should be."""
    folder, checkpoint = calibrated
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    assert found(run, checkpoint).path == run / "calibration.json"
    np.save(run / "val_logits.npy", np.load(run / "val_logits.npy") + 1)
    with pytest.raises(LongtailError, match="calibration.json is of what .*run was before it went on: make it again"):
        found(run, checkpoint)
    saved = json.loads((run / "calibration.json").read_text())
    del saved["digests"]  # an older version's
    (run / "calibration.json").write_text(json.dumps(saved))
    assert found(run, checkpoint).digests == []
