"""A study goes on only as what it was begun as: of settings that an older version lacked, and of the same labels."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import sweep
import train
from config import Config
from conftest import PLAIN
from errors import LongtailError
from study.begin import begin_study
from study.table import write_spec

SMALL = dict(PLAIN, monitor="last", img_size=16)


def config(pictures, **more):
    return Config(**dict(SMALL, data=str(pictures)) | more)


def older(study, **changes):
    """The study as a version wrote it that lacked some settings: those whose value is None here."""
    base = {name: value for name, value in (study.spec["base"] | changes).items() if value is not None}
    write_spec(study.folder / "study.json", dict(study.spec, base=base))


def test_a_setting_that_an_older_version_lacked_counts_as_what_it_did(pictures, tmp_path):
    folder = tmp_path / "s"
    older(begin_study(folder, config(pictures), [{}]), tta=None, one_op=None)
    begin_study(folder, config(pictures), [{}])  # without it, and without mirror images
    for more, said in ((dict(one_op=True), "--one-op False, not True"), (dict(tta="auto"), "--tta none, not auto")):
        with pytest.raises(LongtailError, match=said):
            begin_study(folder, config(pictures, **more), [{}])


def test_labels_that_changed_are_noticed(pictures, tmp_path):
    """The pictures are the same, and so is their order: only what the CSV says of one is not."""
    root = shutil.copytree(pictures / "train", tmp_path / "pictures")
    rows = [(f"{file.parent.name}/{file.name}", file.parent.name) for file in sorted(root.glob("*/*.png"))]
    labels = tmp_path / "labels.csv"

    def write():
        labels.write_text("file,label\n" + "".join(f"{file},{label}\n" for file, label in rows))

    write()
    base = config(root, labels=str(labels))
    begin_study(tmp_path / "s", base, [{}])
    begin_study(tmp_path / "s", base, [{}, dict(ls=0.1)])
    run = dataclasses.replace(base, project=str(tmp_path), name="run", epochs=1)
    train.train(run)
    rows[0] = (rows[0][0], "red")
    write()
    with pytest.raises(LongtailError, match="was begun with other labels, groups or validation pictures"):
        begin_study(tmp_path / "s", base, [{}])
    with pytest.raises(LongtailError, match="cannot be resumed with .*other labels, groups or validation pictures"):
        train.train(dataclasses.replace(run, resume=True))


def test_labels_that_moved_are_the_same_labels(pictures, tmp_path, monkeypatch):
    """A study and its name are of what a CSV says, wherever it lies and however its path is spelled."""
    root = shutil.copytree(pictures / "train", tmp_path / "pictures")
    lines = [f"{file.parent.name}/{file.name},{file.parent.name}" for file in sorted(root.glob("*/*.png"))]
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    study = begin_study(tmp_path / "s", config(root, labels="labels.csv"), [{}])
    assert study.base.labels == str(tmp_path / "labels.csv")
    older(study, labels="labels.csv")  # as it was spelled, which an earlier version kept
    assert begin_study(tmp_path / "s", config(root, labels="./labels.csv"), [{}]).base.labels == study.base.labels
    Path("elsewhere").mkdir()
    Path("labels.csv").rename("elsewhere/labels.csv")
    moved = begin_study(tmp_path / "s", config(root, labels="elsewhere/labels.csv"), [{}, dict(ls=0.1)])
    assert moved.base.labels == str(tmp_path / "elsewhere" / "labels.csv") and len(moved.trials) == 2
    assert study.base.key("data") == moved.base.key("data")


def test_spellings_of_the_same_settings_are_one_trial(pictures, tmp_path):
    spelled = [dict(tta="auto"), dict(tta="flip"), dict(tta="none"), dict(ls="0.10"), dict(ls=0.1)]
    assert begin_study(tmp_path / "s", config(pictures, flip=True, tta="auto"), spelled).trials == [
        dict(tta="auto"),
        dict(tta="none"),
        dict(ls="0.10"),
    ]


def test_a_study_grows_over_sizes_in_any_order(pictures, tmp_path):
    folder = tmp_path / "s"
    begin_study(folder, config(pictures), [dict(img_size=16), dict(img_size=24)])
    grown = begin_study(folder, config(pictures), [dict(img_size=24), dict(img_size=32)])
    assert [trial["img_size"] for trial in grown.trials] == [16, 24, 32]
    other = shutil.copytree(pictures, tmp_path / "other")
    next((other / "train" / "blue").iterdir()).unlink()
    with pytest.raises(LongtailError, match="begun with other pictures"):
        begin_study(folder, config(other), [dict(img_size=16)])


def test_what_is_scored_needs_pictures_to_score_on(pictures, tmp_path):
    with pytest.raises(LongtailError, match="seeds are scored on validation pictures, and there are none"):
        begin_study(tmp_path / "s", config(pictures, val_split=0.0), [{}], scored=True)
    assert not (tmp_path / "s").exists()


def test_a_row_that_a_retry_replaced_is_read_again(pictures, tmp_path):
    """By a process that had read the failed one."""
    study = begin_study(tmp_path / "s", config(pictures), [{}])
    epochs = study.config(0).epochs
    path = Path(study.folder) / "rows" / f"0000-{epochs}.json"
    row = dict(trial=0, until=epochs, fold=0, seed=0, reason="")
    path.write_text(json.dumps(row | dict(status="failed", reason="out of memory")))
    assert study.latest()[0]["status"] == "failed"
    draft = path.with_name("draft")  # of another inode, as publish makes it
    draft.write_text(json.dumps(row | dict(status="ok", seconds=1.0, epoch=epochs, train_loss=1.0)))
    path.unlink()
    assert study.latest() == {}
    draft.rename(path)
    assert study.latest()[0]["status"] == "ok"


@pytest.mark.parametrize("words", [["--fold", "1"], ["--grid", "fold=0,1"]])
def test_a_sweep_trains_every_fold(words, pictures, tmp_path, capsys):
    assert sweep.main(["--data", str(pictures), "--project", str(tmp_path), "--folds", "2", *words]) == 2
    assert "a study trains every one of --folds: leave --fold out" in capsys.readouterr().err


def test_where_some_wait_for_a_best_epoch_the_others_keep_the_last():
    base, candidates = Config(monitor="nll"), [dict(patience=0), dict(patience=5)]
    monitors = [trial.get("monitor", base.monitor) for trial in sweep.trials(base, candidates, 1)]
    assert monitors == ["last", "nll"]
    both = [dict(patience=p, monitor=m) for p in (0, 5) for m in ("nll", "acc")]
    assert [trial["monitor"] for trial in sweep.trials(Config(), both, 1)] == ["last", "last", "nll", "acc"]
    # A base without patience, as sweep.py has it, is a candidate that changes nothing.
    base = Config(monitor="last")
    assert sweep.trials(base, candidates, 1, "nll") == [{}, dict(monitor="nll", patience=5)]
