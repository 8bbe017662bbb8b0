"""evaluate.py as a user runs it: its scores against scikit-learn's, its labels, and what it leaves out and says."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, log_loss

import evaluate
import predict
import train
from config import Config
from conftest import PLAIN, ROOT
from errors import LongtailError
from posterior import calibration


@pytest.fixture(scope="module")
def project(pictures, tmp_path_factory):
    """A run that knows the three colours, not too well."""
    folder = tmp_path_factory.mktemp("runs")
    train.train(Config(**dict(PLAIN, epochs=4, data=str(pictures), project=str(folder), name="run")))
    return folder


@pytest.fixture
def labelled(pictures, tmp_path):
    """The seven test pictures in class folders, with one of a class that nobody knows and one that is no picture."""
    root = tmp_path / "labelled"
    truth = (pictures / "truth.txt").read_text().split()
    for i, name in enumerate(truth):
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / "test" / f"{i:03d}.png", root / name / f"{i}.png")
    (root / "violet").mkdir()
    shutil.copy(pictures / "test" / "000.png", root / "violet" / "7.png")
    (root / "red" / "bad.png").write_text("no picture")
    return root


def run(capsys, *args):
    code = evaluate.main([str(word) for word in args])
    out, err = capsys.readouterr()
    return code, out, err


def probabilities(path, classes):
    """(true [N] str, probabilities [N, C]) of a predictions.csv."""
    rows = list(csv.DictReader(open(path)))
    table = np.zeros((len(rows), len(classes)))
    for row, cells in zip(table, rows):
        for place in range(1, len(classes) + 1):
            row[classes.index(cells[f"class_{place}"])] = float(cells[f"p_{place}"])
    return [row["true"] for row in rows], table


def test_scores_are_scikit_learns(project, labelled, capsys, tmp_path):
    code, out, err = run(capsys, "--run", project / "run", "--test", labelled, "-o", tmp_path / "out")
    assert code == 0
    assert "not scored: 1 picture of 1 class that the model does not know: violet" in err
    assert "bad.png" in err and "not scored" in err
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    classes = ["blue", "green", "red"]
    true, probs = probabilities(tmp_path / "out" / "predictions.csv", classes)
    assert record["n"] == len(true) == 7
    named = [classes[c] for c in probs.argmax(1)]
    value = {name: score["value"] for name, score in record["scores"].items()}
    assert value["acc"] == pytest.approx(accuracy_score(true, named))
    assert value["macro_f1"] == pytest.approx(f1_score(true, named, average="macro", labels=sorted(set(true))))
    assert value["nll"] == pytest.approx(log_loss(true, probs / probs.sum(1, keepdims=True), labels=classes), abs=1e-4)
    assert value["top5"] == 1  # of three classes
    assert record["scores"]["acc"]["low"] <= value["acc"] <= record["scores"]["acc"]["high"]
    assert record["guesses"]["most frequent"]["acc"] == pytest.approx(3 / 7)  # blue
    for name in ("accuracy", "macro F1", "By class:", "blue"):
        assert name in out


def test_labels_of_a_csv_and_groups_of_its_column(project, pictures, capsys, tmp_path):
    truth = (pictures / "truth.txt").read_text().split()
    lines = [f"{i:03d}.png,{name},{'a' if i < 3 else 'b'}" for i, name in enumerate(truth)]
    (pictures / "test" / "labels.csv").write_text("\n".join(["file,label,camera", *lines]) + "\n")
    try:
        code, out, _ = run(
            capsys,
            "--run",
            project / "run",
            "--test",
            pictures / "test" / "labels.csv",
            "--by",
            "camera",
            "-o",
            tmp_path,
        )
    finally:
        (pictures / "test" / "labels.csv").unlink()
    assert code == 0 and "By camera:" in out
    counts = [line.split()[:2] for line in out.splitlines() if line[:2] in ("a ", "b ")]
    assert counts == [["a", "3"], ["b", "4"]]


def test_without_labelled_pictures_the_held_out_ones_are_scored(project, capsys):
    code, out, err = run(capsys, "--project", project)
    assert code == 0 and "held out from training" in out
    assert "no picture has a label" in err and "Scoring the pictures that were held out from training instead" in err
    record = json.loads((project / "run" / "evaluation.json").read_text())
    rows = list(csv.DictReader(open(project / "run" / "results.csv")))
    kept = max(rows, key=lambda row: float(row["macro_f1"]))
    assert record["scores"]["acc"]["value"] == pytest.approx(float(kept["acc"]))


def test_a_calibration_is_applied_and_can_be_left_aside(project, labelled, capsys, tmp_path):
    """A temperature written by hand: probabilities flatten, answers stay."""
    shutil.copytree(project / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "args.json").read_text())
    scaling = dict(kind="temperature", by_top=[0.25] * 3, slope=[1.0] * 3, bias=[0.0] * 3)
    saved = dict(
        recipe=calibration.owner(settings),
        classes=["blue", "green", "red"],
        runs=["."],
        members=1,
        pictures=5,
        scaling=scaling,
    )
    (tmp_path / "run" / "calibration.json").write_text(json.dumps(saved))
    common = ("--run", tmp_path / "run", "--test", labelled)
    _, _, err = run(capsys, *common, "-o", tmp_path / "scaled")
    assert "temperature 4.000" in err and "carried over" not in err and "other views" not in err
    _, _, err = run(capsys, *common, "-o", tmp_path / "views", "--tta", "flip")
    assert "fitted to 5 held-out pictures), from other views than --tta asks for: that it fits is assumed" in err
    _, _, err = run(capsys, *common, "-o", tmp_path / "plain", "--no-calibration")
    assert "temperature" not in err
    classes = ["blue", "green", "red"]
    _, scaled = probabilities(tmp_path / "scaled" / "predictions.csv", classes)
    _, plain = probabilities(tmp_path / "plain" / "predictions.csv", classes)
    expected = plain**0.25 / (plain**0.25).sum(1, keepdims=True)
    np.testing.assert_allclose(scaled, expected, atol=2e-3)  # from six decimals
    assert predict.main(["--run", str(tmp_path / "run"), "--test", str(labelled), "--probs"]) == 0
    out, err = capsys.readouterr()
    assert "temperature 4.000" in err
    said = next(line for line in err.splitlines() if "have labels" in line)
    scoring = shlex.split(said.partition("and ")[2].partition(" scores")[0])
    assert scoring == ["python", "evaluate.py", "--run", str(tmp_path / "run"), "--test", str(labelled)]
    by_predict = {row["id"]: float(row["blue"]) for row in csv.DictReader(out.splitlines())}
    names = [row["path"] for row in csv.DictReader(open(tmp_path / "scaled" / "predictions.csv"))]
    assert by_predict["0"] == pytest.approx(scaled[names.index("red/0.png"), 0], abs=1e-5)
    (tmp_path / "run" / "calibration.json").write_text('{"recipe": 1')
    code, _, err = run(capsys, *common, "-o", tmp_path / "scaled")
    assert code == 1 and "calibration.json is damaged" in err and err.count("\n") == 1


def test_a_prior_moves_the_answers(project, labelled, capsys, tmp_path):
    (tmp_path / "prior.csv").write_text("class,share\nblue,0\ngreen,1\nred,0\n")
    common = ("--run", project / "run", "--test", labelled)
    code, _, err = run(capsys, *common, "-o", tmp_path / "green", "--prior", tmp_path / "prior.csv")
    rows = list(csv.DictReader(open(tmp_path / "green" / "predictions.csv")))
    assert code == 0 and {row["predicted"] for row in rows} == {"green"} and "prior.csv" in err


def test_a_prior_makes_no_held_out_picture_more_frequent(project, capsys, tmp_path):
    for prior, said in (("train", False), ("uniform", True), ("tau:1", True)):
        code, out, _ = run(capsys, "--run", project / "run", "-o", tmp_path, "--prior", prior)
        assert code == 0 and ("whose classes are as frequent as there, whatever --prior says" in out) == said


def test_tau_goes_part_of_the_way_to_a_uniform_prior(project, labelled, capsys, tmp_path):
    """Training's prior was 10, 6 and 3 of 19; tau is a number, or what calibration.json chose."""
    shutil.copytree(project / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "args.json").read_text())
    unscaled = dict(kind="none", by_top=[1.0] * 3, slope=[1.0] * 3, bias=[0.0] * 3)
    saved = dict(recipe=calibration.owner(settings), classes=["blue", "green", "red"], runs=["."], members=1)
    saved |= dict(pictures=5, scaling=unscaled, tau=dict(value=0.25))
    path = tmp_path / "run" / "calibration.json"
    path.write_text(json.dumps(saved))
    found = {}
    for prior in ("train", "uniform", "tau:1", "tau:0.25", "tau"):
        code, _, err = run(capsys, "--run", tmp_path / "run", "--test", labelled, "-o", tmp_path, "--prior", prior)
        assert code == 0 and "class prior" in err or prior == "train", err
        found[prior] = probabilities(tmp_path / "predictions.csv", saved["classes"])[1]
    assert "tau 0.25, which" in err
    np.testing.assert_array_equal(found["tau:1"], found["uniform"])
    np.testing.assert_array_equal(found["tau"], found["tau:0.25"])
    moved = found["train"] / (np.array([10, 6, 3]) / 19) ** 0.25
    np.testing.assert_allclose(found["tau"], moved / moved.sum(1, keepdims=True), atol=1e-5)
    for wrong in (-1, "x", None):
        path.write_text(json.dumps(saved | dict(tau=dict(value=wrong))))
        code, _, err = run(capsys, "--run", tmp_path / "run", "--test", labelled, "-o", tmp_path)
        assert code == 1 and "calibration.json is damaged" in err and err.count("\n") == 1


def test_bad_input_is_one_line(project, pictures, labelled, capsys, tmp_path):
    for args, said in (
        (("--test", pictures / "test"), "no picture has a label"),
        (("--test", labelled / "violet"), "no picture has a label"),
        (("--tta", "flip"), "--tta flip: held-out pictures are not looked at again: name others by --test"),
        (("--by", "camera"), "was trained on class folders"),
        (("--test", labelled, "-o", labelled / "red" / "bad.png"), "File exists"),
        (("--test", labelled, "--by", "camera"), "is no CSV"),
        (("--run", tmp_path), "no best.pt"),
        (("--test", labelled, "--prior", "nothing.csv"), "nothing.csv"),
        (("--test", labelled, "--prior", "tau"), "calibrate.py makes it, or give --prior tau:0.5"),
        (("--test", labelled, "--prior", "tau:two"), "a number from 0 to 1.5"),
    ):
        code, out, err = run(capsys, "--run", project / "run", *args) if "--run" not in args else run(capsys, *args)
        assert code == (2 if "tau:two" in args else 1) and said in err and not out, (args, err)


def strict(path):
    """The JSON of a file, as programs read it that know no NaN."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_path_that_is_no_text_is_written_as_text(project, labelled, tmp_path):
    """JSON is UTF-8, a path need not be."""
    odd = tmp_path / os.fsdecode(b"r\xfcn\n")
    shutil.copytree(project / "run", odd)
    shutil.copytree(labelled, tmp_path / os.fsdecode(b"t\xfc"))
    words = ["--run", odd, "--test", tmp_path / os.fsdecode(b"t\xfc")]
    done = subprocess.run([sys.executable, ROOT / "evaluate.py", *words], capture_output=True)
    assert done.returncode == 0, done.stderr
    record = strict(odd / "evaluation.json")
    assert record["runs"] == [f"{tmp_path}/r\\xfcn\\n"] and record["pictures"] == f"{tmp_path}/t\\xfc"


def test_the_weights_of_a_run_stand_for_their_folder(project, capsys, tmp_path):
    """There lie its calibration and what it says of held-out pictures."""
    code, out, err = run(capsys, "--run", project / "run" / "best.pt", "-o", tmp_path)
    assert code == 0 and "held out from training" in out, err
    assert strict(tmp_path / "evaluation.json")["runs"] == [str(project / "run")]


def test_one_picture_in_one_class_folder(project, labelled, capsys, tmp_path):
    """A lone folder is a class where the model knows it. What one picture cannot tell is unknown, not 0."""
    shutil.copytree(labelled / "green", tmp_path / "one" / "green")
    first, *others = sorted((tmp_path / "one" / "green").iterdir())
    for other in others:
        other.unlink()
    code, out, _ = run(capsys, "--run", project / "run", "--test", tmp_path / "one", "-o", tmp_path)
    record = strict(tmp_path / "evaluation.json")
    assert code == 0 and record["n"] == 1 and record["scores"]["many"]["value"] is None
    assert record["scores"]["ece"]["low"] is None and record["scores"]["ece"]["value"] > 0
    named = next(csv.DictReader(open(tmp_path / "predictions.csv")))["predicted"]
    by_class = {line.split()[0]: line.split() for line in out.split("By class:")[1].splitlines() if line}
    assert by_class["red" if named != "red" else "blue"][2:] == ["0", "-", "-", "-", "-"]


def test_pictures_that_were_trained_on_are_named(project, pictures, labelled, capsys, tmp_path):
    """By their pixels: a copy elsewhere, saved again without loss, is the same picture. Those held out are not."""
    args = ["--project", project, "--test", labelled, "-o", tmp_path]
    assert "trained on, " not in run(capsys, *args)[2]
    rows = list(csv.DictReader(open(project / "run" / "split.csv")))
    one, other = [row["path"] for row in rows if (row["class"], row["part"]) == ("blue", "train")][:2]
    held_out = next(row["path"] for row in rows if (row["class"], row["part"]) == ("blue", "val"))
    with Image.open(pictures / one) as picture:
        picture.save(labelled / "blue" / "again.png", compress_level=1)
    shutil.copy(pictures / other, labelled / "blue" / "copied.png")
    shutil.copy(pictures / held_out, labelled / "blue" / "unseen.png")
    said = run(capsys, *args)[2]
    assert f"warning: {labelled}: 2 of 10 pictures are, to the pixel, among those that were trained on" in said
    assert "again.png for one: their scores flatter" in said


def test_training_data_that_is_gone_is_said(pictures, labelled, capsys, tmp_path):
    moved = shutil.copytree(pictures, tmp_path / "data")
    train.train(Config(**dict(PLAIN, epochs=1, data=str(moved), project=str(tmp_path / "runs"), name="run")))
    shutil.rmtree(moved)
    code, out, said = run(capsys, "--project", tmp_path / "runs", "--test", labelled)
    assert (code, "macro F1" in out) == (0, True)
    assert f"{labelled}: whether they were trained on cannot be looked up: " in said


def test_groups_are_in_natural_order_and_an_empty_one_has_a_name(project, pictures, capsys, tmp_path):
    truth = (pictures / "truth.txt").read_text().split()
    sizes = ["10", "", "9", "2.5", "10", "\u00fc", ""]
    lines = [f"{pictures / 'test'}/{i:03d}.png,{name},{size}" for i, (name, size) in enumerate(zip(truth, sizes))]
    (tmp_path / "l.csv").write_text("\n".join(["file,label,size", *lines]) + "\n", encoding="utf-8")
    args = ("--run", project / "run", "--test", tmp_path / "l.csv", "--by", "size", "-o", tmp_path)
    code, out, err = run(capsys, *args)
    assert code == 0, err
    table = out.split("By size:")[1].split("By class:")[0].splitlines()[3:]
    assert [line.split()[:2] for line in table if line] == [
        ["(empty)", "2"],
        ["2.5", "1"],
        ["9", "1"],
        ["10", "2"],
        ["\u00fc", "1"],
    ]


def test_a_folder_of_parts_is_told_from_one_of_classes(project, pictures, capsys):
    """It is the whole data: what is meant are its test pictures, which have no labels."""
    code, _, err = run(capsys, "--run", project / "run", "--test", pictures)
    assert code == 1 and f"no picture in its test part has a label: --test {pictures / 'train'} takes others" in err
    assert run(capsys, "--run", project / "run", "--test", pictures / "train", "-o", project)[0] == 0


def test_held_out_pictures_by_a_column_of_the_labels(pictures, capsys, tmp_path, monkeypatch):
    """Trained and resumed where the CSV lies, by other spellings of its path, and judged elsewhere."""
    rows = []
    for i, path in enumerate(sorted((pictures / "train").rglob("*.png"))):
        rows.append(f"{path.relative_to(pictures)},{path.parent.name},{'ab'[i % 2]}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["file,label,camera", *rows]) + "\n")
    settings = dict(PLAIN, epochs=2, data=str(pictures.resolve()), project=str(tmp_path), name="run")
    monkeypatch.chdir(tmp_path)
    train.train(Config(**settings, labels="labels.csv", until=1))
    train.train(Config(**settings, labels="./labels.csv", resume=True))
    monkeypatch.chdir("/")
    code, out, _ = run(capsys, "--run", tmp_path / "run", "--by", "camera")
    camera = dict(row.split(",")[::2] for row in rows)
    held_out = [row["path"] for row in csv.DictReader(open(tmp_path / "run" / "val_predictions.csv"))]
    expected = [[c, str(sum(camera[path] == c for path in held_out))] for c in "ab"]
    table = out.split("By camera:")[1].split("By class:")[0].splitlines()[3:]
    assert code == 0 and [line.split()[:2] for line in table if line] == expected


def test_files_are_there_though_nobody_reads_the_tables_to_their_end(project, labelled, monkeypatch, tmp_path):
    def leave(*_):
        raise LongtailError("who read it has left")

    monkeypatch.setattr(evaluate, "_class_lines", leave)
    assert evaluate.main(["--run", str(project / "run"), "--test", str(labelled), "-o", str(tmp_path)]) == 1
    assert (tmp_path / "evaluation.json").exists() and (tmp_path / "predictions.csv").exists()


def test_an_estimate_without_held_out_pictures_is_refused_before_the_work(pictures, capsys, tmp_path):
    train.train(Config(**dict(PLAIN, epochs=1, val_split=0.0, data=str(pictures), project=str(tmp_path), name="run")))
    assert predict.main(["--run", str(tmp_path / "run"), "--prior", "estimate"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("predict.py: --prior estimate needs pictures that were held out from training: ")
    assert not any(line.startswith("predicting with") for line in lines)
