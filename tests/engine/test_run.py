"""A run's folder: what older versions wrote is read, what later ones wrote is refused, uncommitted code is kept."""

import csv
import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import files
import predict
import train
from config import REMOVED, Config
from engine import run
from errors import LongtailError
from study.begin import begin_study

OLD_NAMES = {"last_lr": "lr", "nll": "val_loss", "acc": "val_acc", "many": "head", "few": "tail"}  # of format 1
TIMES = ("seconds", "data_wait", "images_per_s")


def aged(scores):
    return {OLD_NAMES.get(name, name): value for name, value in scores.items()}


def as_format_1(folder):
    """The folder of a run as the first version would have left it."""
    for name in ("last.pt", "best.pt"):
        saved = torch.load(folder / name, weights_only=True)
        for later in ("format", *["rows", "stale"] * (name == "best.pt")):
            saved.pop(later, None)
        if "rows" in saved:
            saved["rows"] = [aged(row) for row in saved["rows"]]
        for kept in (saved, saved.get("best", {})):
            if "metrics" in kept:
                kept["metrics"] = aged(kept["metrics"])
        torch.save(saved, folder / name)
    env = json.loads((folder / "env.json").read_text())
    del env["format"]
    (folder / "env.json").write_text(json.dumps(env))
    header, *rows = (folder / "results.csv").read_text().splitlines()
    header = ",".join(OLD_NAMES.get(name, name) for name in header.split(","))
    (folder / "results.csv").write_text("\n".join([header, *rows]) + "\n")


def results(folder):
    with open(folder / "results.csv", newline="") as f:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)]


def test_a_run_of_the_first_format_is_resumed(settings, keep_last):
    train.train(Config(**settings, name="whole"))
    train.train(Config(**settings, name="old", until=2))
    whole, old = (Path(settings["project"]) / name for name in ("whole", "old"))
    as_format_1(old)
    assert "val_acc" in results(old)[0] and "acc" not in results(old)[0]
    train.train(Config(**settings, name="old", resume=True))
    assert results(old) == results(whole) and {"acc", "nll", "last_lr", "many"} <= set(results(old)[0])
    a, b = (torch.load(folder / "last.pt", weights_only=True)["stepper"]["model"] for folder in (old, whole))
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert json.loads((old / "env.json").read_text())["format"] == run.FORMAT


@pytest.mark.parametrize("more", [dict(crop_scale=(0.5, 1.0)), dict(tta="auto")])
def test_a_run_that_was_validated_by_other_views_is_not_resumed(settings, more):
    settings |= more
    train.train(Config(**settings, until=1))
    folder = Path(settings["project"]) / "run"
    env = json.loads((folder / "env.json").read_text())
    (folder / "env.json").write_text(json.dumps(env | dict(format=2)))
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != "train.log"}
    with pytest.raises(LongtailError, match="by an earlier version, which validated by other views"):
        train.train(Config(**settings, resume=True))
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_had_a_removed_setting_off_is_resumed(settings):
    train.train(Config(**settings, until=1))
    path = Path(settings["project"]) / "run" / "args.json"
    today = json.loads(path.read_text())
    path.write_text(json.dumps(today | REMOVED))
    last = path.with_name("last.pt")
    torch.save(torch.load(last, weights_only=True) | dict(signals=None, earlier_signals=None), last)
    train.train(Config(**settings, until=2, resume=True))
    assert len(results(path.parent)) == 2
    path.write_text(json.dumps(today | REMOVED | dict(adapt="gap")))
    with pytest.raises(LongtailError, match="args.json: --adapt 'gap' was removed: docs/log.md says why"):
        train.train(Config(**settings, resume=True))


def test_a_run_of_the_first_format_predicts(settings, capsys, keep_last):
    train.train(Config(**settings))
    folder = Path(settings["project"]) / "run"
    assert predict.main(["--run", str(folder)]) == 0
    today = capsys.readouterr().out
    as_format_1(folder)
    assert predict.main(["--run", str(folder)]) == 0 and capsys.readouterr().out == today


def test_weights_of_a_run_with_noise_on_its_input_predict(settings, capsys):
    """A removed setting of its network, which played no part but in training."""
    train.train(Config(**settings, until=1))
    path = Path(settings["project"]) / "run" / "best.pt"
    assert predict.main(["--run", str(path)]) == 0
    today = capsys.readouterr().out
    saved = torch.load(path, weights_only=True)
    torch.save(saved | dict(model=saved["model"] | dict(noise=0.1)), path)
    assert predict.main(["--run", str(path)]) == 0 and capsys.readouterr().out == today


def test_rows_of_the_first_format_are_read(settings, pictures):
    study = begin_study(Path(settings["project"]) / "s", Config(**settings), [{}])
    row = dict(
        trial=0, until=3, status="ok", epoch=3, fold=0, seed=0, val_acc=0.5, val_loss=1.0, macro_f1=0.4, head=0.6
    ) | dict(ece=0.1, macro_f1_se=0.01, val_pictures=5)
    (study.folder / "rows" / "0000-3.json").write_text(json.dumps(row))
    found = study.latest()[0]
    assert (found["acc"], found["nll"], found["many"], found["macro_f1"]) == (0.5, 1.0, 0.6, 0.4)
    assert not {"val_acc", "val_loss", "head"} & set(found)


def test_what_a_later_version_wrote_is_refused(settings, capsys):
    train.train(Config(**settings, until=1))
    folder = Path(settings["project"]) / "run"
    best = torch.load(folder / "best.pt", weights_only=True)
    torch.save(best | dict(format=run.FORMAT + 1), folder / "best.pt")
    capsys.readouterr()
    assert predict.main(["--run", str(folder)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("update")
    env = json.loads((folder / "env.json").read_text())
    (folder / "env.json").write_text(json.dumps(env | dict(format=run.FORMAT + 1)))
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(LongtailError, match="later version"):
        train.train(Config(**settings, resume=True))
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def git(folder, *words):
    who = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def test_uncommitted_code_can_be_had_again(tmp_path, monkeypatch):
    """The patch, applied to the commit, gives the same files."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.setattr(run, "ROOT", here)
    assert run.uncommitted() == ""  # no repository
    git(here, "init")
    (here / "a.py").write_text("one\ntwo\n")
    git(here, "add", ".")
    git(here, "commit", "-m", "first")
    assert run.uncommitted() == ""
    git(tmp_path, "clone", "here", "there")
    (here / "a.py").write_text("one\nzwei ü\n")
    (here / "new ü.py").write_text("three\n")
    (here / "picture.jpg").write_bytes(b"\xff")
    (there / "p").write_text(run.uncommitted())
    git(there, "apply", "p")
    for name in ("a.py", "new ü.py"):
        assert (there / name).read_text() == (here / name).read_text()
    assert not (there / "picture.jpg").exists()


def test_a_run_keeps_uncommitted_code(settings, monkeypatch):
    for name, patch in (("clean", ""), ("dirty", "a patch\n")):
        monkeypatch.setattr("engine.resume.uncommitted", lambda patch=patch: patch)
        train.train(Config(**settings, name=name, until=1))
    clean, dirty = (Path(settings["project"]) / name / "code.diff" for name in ("clean", "dirty"))
    assert not clean.exists() and dirty.read_text() == "a patch\n"


def leaves(value, prefix=""):
    """Every tensor, number and word of a checkpoint by its place."""
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in leaves(item, f"{prefix}/{name}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{prefix}/{i}").items()}
    return {prefix: value}


def unchanged(a, b):
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        )
    return a == b or (a != a and b != b)


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_flipped_bit_is_refused_or_changes_nothing(settings, name):
    """60 bits anywhere in the file, and of its directory, which no checksum covers, a bit of every 41st byte."""
    train.train(Config(**settings, until=1))
    path = Path(settings["project"]) / "run" / name
    whole = path.read_bytes()
    right = leaves(run.load_checkpoint(path))
    rng = random.Random(0)
    directory = whole.index(b"PK\x01\x02")
    places = [rng.randrange(8 * len(whole)) for _ in range(60)]
    places += [8 * place + rng.randrange(8) for place in range(directory, len(whole), 41)]
    refused = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = leaves(run.load_checkpoint(path))
        except LongtailError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
            continue
        assert found.keys() == right.keys() and all(unchanged(right[k], found[k]) for k in right)
    assert refused > 60


def test_weights_that_are_not_finite_are_never_predicted_with(settings, capsys):
    train.train(Config(**settings, until=1))
    path = Path(settings["project"]) / "run" / "best.pt"
    best = torch.load(path, weights_only=True)
    best["weights"]["fc.bias"][0] = float("nan")
    torch.save(best, path)
    capsys.readouterr()
    assert predict.main(["--run", str(path.parent)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "not finite (fc.bias)" in err


@pytest.mark.parametrize("inside", ["study.json", "thesis.tex", ".hidden.notes.txt"])
def test_resume_in_a_folder_that_is_no_run_touches_nothing(settings, inside):
    """A study, or somebody's folder, whose hidden files look like what a killed writer leaves."""
    folder = Path(settings["project"]) / "run"
    folder.mkdir(parents=True)
    (folder / inside).write_text("mine")
    (folder / "other.txt").write_text("mine too")
    with pytest.raises(LongtailError, match="is not the folder of a run"):
        train.train(Config(**settings, resume=True))
    assert sorted(path.name for path in folder.iterdir()) == sorted([inside, "other.txt"])


@pytest.mark.parametrize("inside", [".env.local", ".config.backup.2024", "args.json"])
def test_resume_in_a_folder_of_hidden_files_or_anothers_arguments_touches_nothing(settings, inside):
    folder = Path(settings["project"]) / "run"
    folder.mkdir(parents=True)
    (folder / inside).write_text("{}")
    with pytest.raises(LongtailError, match="is not the folder of a run"):
        train.train(Config(**settings, resume=True))
    assert [path.name for path in folder.iterdir()] == [inside]


TABLES = ("results.csv", "val_predictions.csv", "val_logits.npy", "per_class.csv", "confusion_matrix.csv")


LISTS = ("classes.txt", "split.csv", "stats.json")


@pytest.mark.parametrize("gone", [(*TABLES, *LISTS), ("best.pt",), ("best.pt", *TABLES), ("last.pt",)])
def test_a_finished_run_is_mended(settings, capsys, gone):
    """Of what best.pt tells, without training; where it is gone itself, by training again."""
    config = Config(**settings | dict(epochs=2, ema_epochs=2.0))
    train.train(config)
    folder = Path(settings["project"]) / "run"
    assert not (folder / "last.pt").exists()
    before = {name: (folder / name).read_bytes() for name in TABLES + LISTS}
    scores = results(folder)
    weights = torch.load(folder / "best.pt", weights_only=True)["weights"]
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    epochs = train.train(dataclasses.replace(config, resume=True))
    assert len(epochs) == (2 if "best.pt" in gone else 0)
    mended = torch.load(folder / "best.pt", weights_only=True)["weights"]
    assert all(torch.equal(weights[name], value) for name, value in mended.items())
    assert results(folder) == scores
    assert all((folder / name).read_bytes() == before[name] for name in TABLES[1:] + LISTS)
    if "best.pt" not in gone:
        assert (folder / "results.csv").read_bytes() == before["results.csv"]
    assert not (folder / "last.pt").exists()


def test_a_best_that_a_kill_left_without_a_last_is_trained_again(settings):
    """It came between best.pt and the first last.pt of a run that had epochs left."""
    config = Config(**settings)
    train.train(dataclasses.replace(config, until=1))
    folder = Path(settings["project"]) / "run"
    (folder / "last.pt").unlink()
    assert len(train.train(dataclasses.replace(config, resume=True))) == 3
    assert len(results(folder)) == 3


def spoilt(saved, how):
    """A checkpoint of someone else, a part of one, or one whose parts are not of one piece."""
    if how == "tensor":
        return torch.zeros(3)
    if how == "weights alone":
        return saved.get("weights", saved.get("stepper"))
    parts = saved["weights"] if "weights" in saved else saved["stepper"]["model"]
    if how == "a layer is missing":
        del parts["fc.bias"]
    if how == "another shape":
        parts["conv1.weight"] = parts["conv1.weight"][:4].clone()
    if how == "nan":
        parts["bn1.running_var"][0] = float("nan")
    if how == "classes":
        saved["classes"] = saved["classes"][:2]
    if how == "bias":
        saved["bias"][1] = float("inf")
    if how == "config":
        saved["config"] = {}
    if how == "a head that was removed":
        saved["model"]["head"] = "spectral"
    return saved


def test_a_foreign_or_partial_checkpoint_is_a_line(settings, capsys):
    """best.pt alone, in an ensemble, and to begin with; last.pt at a resume."""
    settings = settings | dict(ema_epochs=2.0)
    folder = Path(settings["project"]) / "run"
    train.train(Config(**settings, until=1))
    good = shutil.copytree(folder, folder.with_name("good"))
    whole = {name: (folder / name).read_bytes() for name in ("best.pt", "last.pt")}
    both = ["tensor", "weights alone", "a layer is missing", "another shape", "nan"]
    for how in [*both, "classes", "bias", "config", "a head that was removed"]:
        path = folder / "best.pt"
        torch.save(spoilt(torch.load(good / "best.pt", weights_only=True), how), path)
        capsys.readouterr()
        for runs in ([folder], [good, folder]):
            assert predict.main(["--run", *map(str, runs)]) == 1, how
            out, err = capsys.readouterr()
            assert out == "" and str(path) in err and err.count("\n") == 1, how
        with pytest.raises(LongtailError) as error:
            train.train(Config(**settings, name="x", init=str(folder)))
        assert str(path) in str(error.value) and "\n" not in str(error.value), how
        assert not (folder.parent / "x").exists()
    path.write_bytes(whole["best.pt"])
    for how in both:
        path = folder / "last.pt"
        torch.save(spoilt(torch.load(good / "last.pt", weights_only=True), how), path)
        with pytest.raises(LongtailError, match="last.pt") as error:
            train.train(Config(**settings, resume=True))
        assert "\n" not in str(error.value), how
    path.write_bytes(whole["last.pt"])
    assert len(train.train(Config(**settings, resume=True))) == 2


def test_a_file_system_without_locks_is_named(settings, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("files.fcntl.flock", no_locks)
    with pytest.raises(LongtailError, match=r"runs/run: its file system has no locks \(No locks available\)"):
        train.train(Config(**settings))


def test_resume_in_an_empty_folder_begins(settings):
    (Path(settings["project"]) / "run").mkdir(parents=True)
    assert len(train.train(Config(**settings | dict(epochs=1), resume=True))) == 1


def test_a_full_disk_is_said_of_the_file(tmp_path):
    with pytest.raises(OSError) as caught, files.replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_of_a_file_that_grows(tmp_path):
    folder = run.Run(str(tmp_path), "a", resume=False)
    for name, write in (("train.log", lambda: folder.say("b")), ("results.csv", lambda: folder.append(dict(epoch=1)))):
        (folder.folder / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left on device") as caught:
            write()
        assert caught.value.filename == str(folder.folder / name)
