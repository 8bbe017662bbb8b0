"""calibrate.py as a user runs it: what it fits, what it writes, and that it never makes things worse."""

import dataclasses
import json
import os

import numpy as np
import pytest

import calibrate
import metrics
import oracles
from config import Config
from conftest import PLAIN
from errors import LongtailError
from posterior import calibration, evidence, priors, scaling, scores, sets
from samples import judged_run
from study import ranking
from study.begin import begin_study
from study.best import write_best
from study.chosen import choose
from study.table import Study

COUNTS = (10000 * 0.7 ** np.arange(oracles.CLASSES) / 3).round()


def run(capsys, *args):
    code = calibrate.main([str(word) for word in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def sure(tmp_path):
    """A run that is far too sure of itself."""
    logits, targets, _ = oracles.judged(n=600, temperature=2.0)
    return judged_run(tmp_path / "sure", logits, targets, COUNTS), logits, targets


def test_a_run_that_is_too_sure_gets_a_temperature(sure, capsys):
    folder, logits, targets = sure
    code, out, err = run(capsys, folder)
    assert code == 0 and "Kept: temperature 2." in out and str(folder / "calibration.json") in err
    no_nan = dict(parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    saved = json.loads((folder / "calibration.json").read_text(), **no_nan)
    before, after = saved["before"], saved["after"]
    assert before["nll"]["value"] == pytest.approx(metrics.nll(logits, targets), abs=1e-5)
    right = metrics.nll(logits / 2, targets)  # the true posterior
    assert after["nll"]["value"] == pytest.approx(right, abs=0.02)
    assert after["ece"]["value"] < saved["chance"]["ece"]["high"] < before["ece"]["value"]
    assert after["acc"] == before["acc"]  # a temperature changes no answer
    assert "to another class" not in out and "Worse after scaling" not in out
    tau = saved["tau"]
    assert tau["value"] in priors.TAUS and tau["before"] == pytest.approx(before["macro_f1"]["value"])
    assert tau["value"] == (tau["best"] if tau["after"] > tau["before"] else 0)
    assert f"Best for macro F1: tau {tau['best']:g}." in out and f"{tau['after']:.3f}; at 0 it is" in out
    assert ("is kept for predict.py --prior tau" in out) == (tau["value"] > 0)


def test_sets_are_judged_by_others_and_their_threshold_is_kept(sure, capsys):
    folder, logits, targets = sure
    _, out, _ = run(capsys, folder)
    kept = json.loads((folder / "calibration.json").read_text())["sets"]
    known = evidence.of_run(folder)
    assert kept["log_ratio"] == sets.threshold(known.log_posterior, targets, known.prior)
    assert kept["coverage"] == pytest.approx(0.9, abs=0.04)  # 3 standard errors
    row = next(line.split() for line in out.split("right class")[-1].splitlines() if line.startswith("all "))
    assert row[1:3] == ["600", f"{kept['coverage']:.3f}"] and row[-1] == f"{kept['classes']:.1f}"
    checkpoint = dict(config=evidence.read_settings(folder), classes=known.classes)
    assert calibration.calibration_of([folder], [checkpoint], None).least == kept["log_ratio"]


def test_answers_that_move_are_said(tmp_path, capsys):
    """Every other class is favoured: only a number a class mends it, which moves answers too."""
    logits, targets, _ = oracles.judged(n=3000, temperature=1.0)
    favoured = logits + 1.5 * (np.arange(oracles.CLASSES) % 2)
    folder = judged_run(tmp_path / "run", favoured, targets, COUNTS)
    _, out, _ = run(capsys, folder)
    known = evidence.of_run(folder)
    parts = calibration.fitting_parts(known)
    trials, _ = scaling.compare(known.log_posterior, targets, known.counts, parts)
    kept = scaling.simplest(trials).held_out
    moved = (kept.argmax(1) != known.log_posterior.argmax(1)).sum()
    assert moved and f"It moves {moved} of 3000 answers to another class" in out


def test_an_error_that_grows_is_named():
    before = {name: scores.Score(0.5, 0.4, 0.6) for name in calibrate.COMPARED}
    after = before | dict(nll=scores.Score(0.4, 0.3, 0.5), ece=scores.Score(0.51, 0.4, 0.6), acc=scores.Score(1, 1, 1))
    said = "\n".join(calibrate._before_and_after(before, after, {}, 9, 0, False))
    assert f"Worse after scaling: {scores.TITLES['ece']}. Kinds of scaling are chosen by NLL." in said


def test_few_pictures_have_no_sets(tmp_path, capsys):
    logits, targets, _ = oracles.judged(n=10)
    folder = judged_run(tmp_path / "run", logits, targets, COUNTS)
    code, out, _ = run(capsys, folder)
    assert code == 0 and out.endswith("\nNo sets of classes: 10 held-out pictures are too few.\n")
    assert json.loads((folder / "calibration.json").read_text())["sets"] is None


def test_what_is_right_already_stays_as_it_is(tmp_path, capsys):
    logits, targets, _ = oracles.judged(n=600)
    folder = judged_run(tmp_path / "run", logits, targets, COUNTS)
    code, out, _ = run(capsys, folder, "--markdown")
    saved = json.loads((folder / "calibration.json").read_text())
    assert code == 0 and saved["scaling"]["kind"] == "none" and saved["after"]["nll"] == saved["before"]["nll"]
    assert "| scaling | numbers | NLL |" in out


def test_the_file_is_there_though_nobody_reads_the_tables_to_their_end(sure, monkeypatch):
    def leave(*_):
        raise LongtailError("who read it has left")

    monkeypatch.setattr(calibrate, "_kinds", leave)
    assert calibrate.main([str(sure[0])]) == 1 and (sure[0] / "calibration.json").exists()


def test_groups_of_a_column(tmp_path, capsys):
    """By a column of the CSV of labels: which camera took the picture, say."""
    from PIL import Image

    logits, targets, _ = oracles.judged(n=80, temperature=2.0)
    data = tmp_path / "data"
    data.mkdir()
    lines = ["file,label,camera"]
    for i, target in enumerate(targets):
        Image.new("RGB", (8, 8)).save(data / f"{i:05d}.jpg")
        lines.append(f"{i:05d}.jpg,painter {target},{'old' if i % 2 else 'new'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    where = dict(data=str(data), labels=str(tmp_path / "labels.csv"))
    folder = judged_run(tmp_path / "run", logits, targets, COUNTS, **where)
    args = json.loads((folder / "args.json").read_text()) | where
    (folder / "args.json").write_text(json.dumps(args))
    code, out, _ = run(capsys, folder, "--by", "camera")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.startswith("old"))
    assert row[1] == "40" and float(row[2]) == pytest.approx((logits.argmax(1) == targets)[1::2].mean(), abs=6e-4)
    code, _, err = run(capsys, folder, "--by", "nothing")
    assert code == 1 and "no column 'nothing'" in err and err.count("\n") == 1


def test_bad_input_is_one_line(tmp_path, capsys, sure):
    logits, targets, _ = oracles.judged(n=6)
    few = judged_run(tmp_path / "few", logits, targets, COUNTS)
    for args, said in (
        ([tmp_path / "nowhere"], "args.json: No such file or directory: name the folder of a run"),
        ([few], "few: 6 held-out pictures: too few to fit a scaling to, which takes 10"),
        (["--project", tmp_path / "none"], "name one"),
        ([sure[0], "--by", "camera"], "class folders"),
    ):
        code, out, err = run(capsys, *args)
        assert code == 1 and said in err and err.count("\n") == 1 and not out
    assert not (few / "calibration.json").exists()


def test_a_recipe_is_calibrated_on_the_study_that_tried_it_on_the_most_folds(tmp_path, pictures, capsys):
    """As `make study` does it: out of fold, and predict.py carries it over to the runs of `final`."""
    base = Config(**dict(PLAIN, data=str(pictures), monitor="last", project=str(tmp_path), amp="auto", layout="auto"))
    logits, targets, _ = oracles.judged(n=300, temperature=2.0)
    for name, folds in (("grid", 3), ("seeds", 1)):
        trials = [dict(fold=fold) for fold in range(folds)]
        study = begin_study(tmp_path / name, dataclasses.replace(base, folds=3), trials)
        for i in range(folds):
            rows = slice(100 * i, 100 * i + 100)
            run_folder = study.run(i)
            judged_run(run_folder, logits[rows], targets[rows], COUNTS, first=100 * i)
            ran = dict(study.config(i).settings(), amp=False, layout="contiguous")  # what was found to be fastest
            (run_folder / "args.json").write_text(json.dumps(ran))
            row = dict(trial=i, until=3, status="ok", epoch=3, fold=i, seed=0, macro_f1=0.5, macro_f1_se=0.01)
            row |= dict(acc=0.5, nll=1.0, ece=0.1, val_pictures=100)
            (tmp_path / name / "rows" / f"{i:04d}-3.json").write_text(json.dumps(row))
    grid = Study(tmp_path / "grid")
    write_best(grid, ranking.choose(ranking.candidates(grid)).candidate, tmp_path / "best.json")
    assert json.loads((tmp_path / "best.json").read_text())["layout"] == "contiguous"
    code, out, err = run(capsys, "--project", tmp_path)
    assert code == 0 and "300 pictures" in out and "one of 3 folds" in out
    saved = json.loads((tmp_path / "grid" / "calibration.json").read_text())
    assert saved["runs"] == [f"trials/{i:04d}" for i in range(3)] and saved["out_of_fold"]
    checkpoint = dict(config=dataclasses.replace(base, val_split=0.0).settings(), classes=saved["classes"])
    carried = calibration.calibration_of([tmp_path / "final"], [checkpoint], tmp_path)
    assert carried.path == tmp_path / "grid" / "calibration.json"
    elsewhere = calibration.calibration_of([grid.run(i) for i in range(3)], [checkpoint], tmp_path / "runs")
    assert elsewhere.path == carried.path  # --project left out: a trial's own study has it
    assert "carried over from 1 network to 5" in carried.carried_over([tmp_path / "final"] * 5)
    runs = [grid.run(i) for i in range(3)]
    assert choose(tmp_path) == (runs, f"the 3 runs of {tmp_path / 'best.json'}")  # which predict.py takes
    write_best(grid, ranking.choose(ranking.candidates(grid)).candidate, tmp_path / "seeds" / "best.json")
    os.utime(tmp_path / "seeds" / "best.json", (1, 1))
    assert choose(tmp_path)[0] == runs  # the newest one
    other = dict(checkpoint, config=dataclasses.replace(base, lr=0.5).settings())
    assert calibration.calibration_of([tmp_path / "final"], [other], tmp_path) is None
    (tmp_path / "grid" / "rows" / "0001-3.json").unlink()
    code, _, err = run(capsys, tmp_path / "grid")  # says why, and what else there is
    assert code == 1 and "can be ranked (the first: to do): go on with it" in err
    (tmp_path / "none.json").write_text(json.dumps(dict(lr=0.7)))
    code, _, err = run(capsys, tmp_path / "none.json")
    assert code == 1 and "no study" in err


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(sure, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("posterior.scaling.compare", lambda *_: pytest.fail("worked first"))
    code, out, err = run(capsys, sure[0])
    assert code == 1 and not out
    assert err == f"calibrate.py: {sure[0]} cannot be written to, and calibration.json belongs there\n"
