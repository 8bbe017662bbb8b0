"""evaluate.py as a user runs it: its scores against scikit-learn's, its labels, and what it leaves out and says."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

import calibrate
import evaluate
import predict
import train
from config import Config
from conftest import PLAIN


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
    assert code == 0 and "held out from training" in out and "by --test" in err
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
        recipe=calibrate.recipe(settings),
        classes=["blue", "green", "red"],
        runs=["."],
        members=1,
        pictures=5,
        scaling=scaling,
    )
    (tmp_path / "run" / "calibration.json").write_text(json.dumps(saved))
    common = ("--run", tmp_path / "run", "--test", labelled)
    _, _, err = run(capsys, *common, "-o", tmp_path / "scaled")
    assert "temperature 4.000" in err and "carried over" not in err
    _, _, err = run(capsys, *common, "-o", tmp_path / "plain", "--no-calibration")
    assert "temperature" not in err
    classes = ["blue", "green", "red"]
    _, scaled = probabilities(tmp_path / "scaled" / "predictions.csv", classes)
    _, plain = probabilities(tmp_path / "plain" / "predictions.csv", classes)
    expected = plain**0.25 / (plain**0.25).sum(1, keepdims=True)
    np.testing.assert_allclose(scaled, expected, atol=2e-3)  # from six decimals
    assert predict.main(["--run", str(tmp_path / "run"), "--test", str(labelled), "--probs"]) == 0
    out, err = capsys.readouterr()
    assert "temperature 4.000" in err and "python evaluate.py scores" in err
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


def test_tau_goes_part_of_the_way_to_a_uniform_prior(project, labelled, capsys, tmp_path):
    """Training's prior was 10, 6 and 3 of 19; tau is a number, or what calibration.json chose."""
    shutil.copytree(project / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "args.json").read_text())
    unscaled = dict(kind="none", by_top=[1.0] * 3, slope=[1.0] * 3, bias=[0.0] * 3)
    saved = dict(recipe=calibrate.recipe(settings), classes=["blue", "green", "red"], runs=["."], members=1)
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
        (("--test", labelled, "--by", "camera"), "is no CSV"),
        (("--run", tmp_path), "no best.pt"),
        (("--test", labelled, "--prior", "nothing.csv"), "nothing.csv"),
        (("--test", labelled, "--prior", "tau"), "calibrate.py makes it, or give --prior tau:0.5"),
        (("--test", labelled, "--prior", "tau:two"), "a number from 0 to 1.5"),
    ):
        code, out, err = run(capsys, "--run", project / "run", *args) if "--run" not in args else run(capsys, *args)
        assert code == 1 and said in err and not out, (args, err)
