"""The built-in set: its files, its command, and what a failure leaves behind."""

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from errors import LongtailError
from pictures import painters, synthetic
from pictures.children import child_command, child_environment

SMALL = dict(classes=3, scale=0.01, size=32, workers=1)


def bytes_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "set"
    synthetic.make(root, **SMALL, label_noise=0.3, seed=5)
    return root


def test_folder(small):
    truth = np.load(small / "truth.npz")
    test, files = truth["test"], truth["files"]
    assert sorted(files) == sorted(str(p.relative_to(small)) for p in small.rglob("*.jpg"))
    for f in files:
        with Image.open(small / f) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")
    for f, c in zip(files[~test], truth["observed"][~test]):
        assert Path(f).parts[:2] == ("train", truth["classes"][c])
    with open(small / "test.csv", newline="") as a, open(small / "sample_submission.csv", newline="") as b:
        asked, answered = list(csv.reader(a)), list(csv.reader(b))
    assert asked == [["id", "file"]] + [[Path(f).stem, f] for f in files[test]]
    assert answered == [["id", "artist"]] + [[Path(f).stem, truth["classes"][0]] for f in files[test]]
    assert (truth["observed"] != truth["true"]).any()
    whole = painters.draw(classes=50, scale=0.28, seed=0, difficulty=1.0, label_noise=0.0)
    for part in (whole["test"], ~whole["test"]):  # a picture's number does not tell its painter
        assert 0.3 < (np.diff(whole["true"][part]) < 0).mean() < 0.6


def test_folder_reads_back(small):
    truth = np.load(small / "truth.npz")
    found = data.listing(small)
    assert found.classes == truth["classes"].tolist()
    of = dict(zip(truth["files"], truth["observed"]))
    assert [of[p] for p in found.paths] == found.labels.tolist() and len(found.paths) == (~truth["test"]).sum()
    asked = data.test_listing(small)
    assert asked.paths == truth["files"][truth["test"]].tolist() and (asked.labels == -1).all()


def test_every_class_has_a_folder_under_label_noise(tmp_path):
    synthetic.make(tmp_path / "set", **dict(SMALL, scale=0.001), label_noise=0.99)
    assert len(list((tmp_path / "set" / "train").iterdir())) == 3


def test_same_bytes_by_any_number_of_workers(small, tmp_path):
    synthetic.make(tmp_path / "two", **dict(SMALL, workers=2), label_noise=0.3, seed=5)
    synthetic.make(tmp_path / "other", **SMALL, label_noise=0.3, seed=6)
    one, two, other = bytes_of(small), bytes_of(tmp_path / "two"), bytes_of(tmp_path / "other")
    assert one == two
    pictures = {v for k, v in one.items() if k.endswith(".jpg")}
    assert len(pictures) == len(list(small.rglob("*.jpg"))) and not pictures & set(other.values())


def test_a_taken_folder_is_refused(small, tmp_path):
    before = bytes_of(small)
    with pytest.raises(LongtailError, match="not an empty folder"):
        synthetic.make(small, **SMALL)
    assert bytes_of(small) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(LongtailError, match="not an empty folder"):
        synthetic.make(tmp_path / "file", **SMALL)
    (tmp_path / "empty").mkdir()
    synthetic.make(tmp_path / "empty", **SMALL)
    assert (tmp_path / "empty" / "truth.npz").exists()


@pytest.mark.parametrize(
    "given",
    [
        dict(classes=1),
        dict(classes=5041),
        dict(scale=0),
        dict(scale=float("nan")),
        dict(size=16),
        dict(size=40.5),
        dict(seed=-1),
        dict(difficulty=-0.1),
        dict(label_noise=1.0),
    ],
)
def test_arguments_out_of_bounds(tmp_path, given):
    with pytest.raises(LongtailError, match=f"^--{next(iter(given)).replace('_', '-')} [^\n]*: give a[^\n]*$"):
        synthetic.make(tmp_path / "set", **dict(SMALL, **given))
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fails(number, path, *rest):
        if path.endswith("000003.jpg"):
            raise OSError("disk full")
        Path(path).write_bytes(b"")

    monkeypatch.setattr(synthetic, "_picture", fails)
    with pytest.raises(OSError, match="disk full"):
        synthetic.make(tmp_path / "set", **SMALL)
    assert not any(tmp_path.iterdir())


def test_a_killed_command_leaves_no_folder_of_that_name(tmp_path):
    command = child_command("pictures.synthetic", tmp_path / "set", "--scale", "5")
    process = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    while not any(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    synthetic.make(tmp_path / "set", **SMALL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_while_painting_ends_them_and_leaves_nothing(tmp_path, number):
    command = child_command("pictures.synthetic", tmp_path / "set", "--scale", "5", "--size", "64")
    process = subprocess.Popen(command, env=child_environment(), stderr=subprocess.PIPE, start_new_session=True)
    while not any(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, b"") and not any(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    assert (
        synthetic.main([str(tmp_path / "set"), *["--classes", "2", "--scale", "0.01", "--size", "32", "--seed", "4"]])
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "" and "python train.py --data" in err
    synthetic.make(tmp_path / "same", classes=2, scale=0.01, size=32, seed=4)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "same")
    assert synthetic.main([str(tmp_path / "set")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_built_in_folder(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(synthetic, "make", lambda root: made.append(root) or root.mkdir(parents=True))
    assert synthetic.folder("given") == Path("given") and not made
    root = synthetic.folder()
    assert made == [root] and str(root) in capsys.readouterr().err
    assert synthetic.folder() == root and len(made) == 1
    monkeypatch.setenv("DATA", "elsewhere")
    assert synthetic.folder() == Path("elsewhere") and synthetic.folder("given") == Path("given")
