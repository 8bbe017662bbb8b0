"""bench/benchmark.py on a small set with train/ and test/: rows of one stage and of two, beside predict.py."""

import csv
import json
import shutil
import sys

import pytest

import evaluate
import predict
from bench import benchmark

ROWS = ["CE", "mixup, last layer again"]
SMALL = ["--val-split", "0", "--width", "0.125", "--epochs", "1", "-b", "4", "--warmup", "0", "--monitor", "last"]
SMALL += ["--device", "cpu", "--no-amp", "--seeds", "1"]


@pytest.fixture(scope="module")
def by_class(pictures, tmp_path_factory):
    """The pictures, the last of each class as test/."""
    root = tmp_path_factory.mktemp("by-class")
    for folder in filter(lambda each: each.name in ("blue", "green", "red"), sorted(pictures.rglob("*"))):
        files = sorted(folder.iterdir())
        for part, own in (("train", files[:-2]), ("test", files[-2:])):
            (root / part / folder.name).mkdir(parents=True)
            for file in own:
                shutil.copy(file, root / part / folder.name / f"{folder.name}-{file.name}")
    return root


def rows_of(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["bench.benchmark", *words])
    code = benchmark.main()
    out, err = capsys.readouterr()
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in out.splitlines() if "|" in line]
    return code, {cells[0]: cells for cells in lines[2:]}, err


def predicted(root, run, words, monkeypatch, capsys):
    """The share of right answers of predict.py on test/."""
    monkeypatch.setattr(sys, "argv", ["predict.py", "--run", str(run), "--test", str(root / "test"), *words])
    assert predict.main() == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))[1:]
    return sum(row[0].split("-")[0] == row[1] for row in rows) / len(rows)


def test_rows_of_one_and_of_two_stages_are_what_predict_says(by_class, tmp_path, monkeypatch, capsys):
    common = ["--data", str(by_class), "--img-size", "16", "--project", str(tmp_path)]
    words = [*common, *SMALL, "--rows", *ROWS]
    code, rows, _ = rows_of(monkeypatch, capsys, words)
    assert code == 0 and list(rows) == ROWS
    one = tmp_path / "benchmark" / "trials" / "0000"
    (two,) = (tmp_path / "benchmark" / "second").iterdir()
    for name, run in zip(ROWS, (one, two)):
        cells = rows[name]
        for cell, ece, prior in ((cells[2], cells[3], "train"), (cells[4], cells[5], "uniform")):
            assert float(cell.split()[0]) == pytest.approx(
                predicted(by_class, run, ["--prior", prior], monkeypatch, capsys), abs=5e-4
            )
            words_of = ["--run", run, "--test", by_class / "test", "--prior", prior, "-o", tmp_path / "judged"]
            assert evaluate.main([str(word) for word in words_of]) == 0
            scored = json.loads((tmp_path / "judged" / "evaluation.json").read_text())["scores"]
            assert float(ece) == pytest.approx(scored["ece"]["value"], abs=5e-4)
            capsys.readouterr()
        assert cells[6] == "1" and cells[7].split()[-1] in ("met", "missed")
    # What is there is shown again and nothing trained; what is gone is named.
    monkeypatch.setattr("train.train", lambda *_: pytest.fail("trained again"))
    assert rows_of(monkeypatch, capsys, words)[1] == rows
    shutil.rmtree(two)
    code, left, err = rows_of(monkeypatch, capsys, [*words, "--report"])
    assert code == 0 and left == {"CE": rows["CE"]} and "again: 1 of 1 trials are not done" in err
