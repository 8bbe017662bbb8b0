"""The winner as a recipe, and the best of several stages, on studies whose rows are written by hand, untrained."""

import json
import os
import subprocess

import numpy as np
import pytest
from test_ranking import chosen, fill

from config import read_recipe
from conftest import ROOT
from errors import LongtailError
from samples import answered
from study import best
from study.begin import begin_study
from study.table import write_spec
from test_train import made


def stage(settings, name, scores, halving=0, threads=2, metric=None, **base):
    """A finished study of one-split candidates; scores: label smoothing -> macro F1."""
    config = made(settings, **{"monitor": "last", **base})
    candidates = [{} if ls == config.ls else dict(ls=ls) for ls in scores]
    study = begin_study(f"{settings['project']}/{name}", config, candidates, halving, metric)
    write_spec(study.folder / "study.json", dict(study.spec, threads=threads))
    study.refresh()
    return fill(study, lambda config: scores[config.ls])


def test_a_recipe_has_what_repeats_the_trial(settings, tmp_path):
    study = stage(settings, "sweep", {0.0: 0.5, 0.3: 0.9}, lr=0.01, seed=4, init="")
    best.write_best(study, chosen(study).candidate, tmp_path / "best.json")
    recipe = read_recipe(tmp_path / "best.json")
    assert recipe.settings() == study.config(1).settings()
    assert (recipe.threads, recipe.data) == (2, study.spec["base"]["data"])


def test_the_best_stage_is_the_one_that_scored_best_and_equals_go_to_the_earlier(settings, tmp_path, capsys):
    sweep = stage(settings, "sweep", {0.0: 0.5, 0.3: 0.9})
    tune = stage(settings, "tune", {0.3: 0.9, 0.4: 0.8}, ls=0.3)
    project = sweep.folder.parent
    folders = [str(project / name) for name in ("sweep", "tune", "not run")]
    assert best.main([str(tmp_path / "best.json"), *folders]) == 0
    said = capsys.readouterr().err
    assert "sweep: ls 0.3: macro F1 0.9000" in said and "best of 2: sweep, by macro F1 under val_split 0.2" in said
    assert read_recipe(tmp_path / "best.json").ls == 0.3
    better = stage(settings, "around", {0.3: 0.9, 0.2: 0.95}, ls=0.3)
    study, candidate, _ = best.best_stage([sweep.folder, tune.folder, better.folder])
    assert (study.folder, candidate.settings) == (better.folder, dict(ls=0.2))


@pytest.mark.parametrize(
    "base, said",
    [
        (dict(val_split=0.3), "val_split 0.3, not val_split 0.2"),
        (dict(folds=2), "folds 2, not val_split 0.2"),
        (dict(monitor="acc", patience=2), "scored at the best epoch by validation acc"),
        (dict(skip_bad=True), "skip_bad True, not False"),
        (dict(metric="nll"), "ranked by NLL, not macro F1: give all stages the same --metric"),
    ],
)
def test_stages_that_score_otherwise_are_not_compared_and_that_is_said(settings, base, said):
    first = stage(settings, "sweep", {0.0: 0.5})
    other = stage(settings, "tune", {0.0: 0.99}, **base)
    study, _, lines = best.best_stage([first.folder, other.folder])
    assert study.folder == first.folder and any(f"tune: not compared: {said}" in line for line in lines)


def test_the_best_stage_by_nll_is_the_one_of_the_lowest(settings, tmp_path, capsys):
    """Its answers score lower by macro F1."""
    first = stage(settings, "sweep", {0.0: 0.9}, metric="nll")
    other = stage(settings, "tune", {0.0: 0.8}, metric="nll")
    logits = np.load(first.run(0) / "val_logits.npy")
    np.save(first.run(0) / "val_logits.npy", 50 * logits)  # right more often, and wrong with certainty
    assert best.main([str(tmp_path / "best.json"), str(first.folder), str(other.folder)]) == 0
    assert "best of 2: tune, by NLL under val_split 0.2" in capsys.readouterr().err


def test_no_winner_at_all_is_said(settings, tmp_path):
    study = stage(settings, "sweep", {0.0: 0.5}, val_split=0)
    for path in (study.folder / "rows").iterdir():
        row = json.loads(path.read_text())
        path.write_text(json.dumps({name: row[name] for name in row if name != "macro_f1"}))
    with pytest.raises(LongtailError, match="none of .*sweep has a winner"):
        best.best_stage([study.folder])
    assert best.main([str(tmp_path / "best.json"), str(study.folder)]) == 1 and not (tmp_path / "best.json").exists()


def test_the_base_is_carried_to_the_last_rung_and_wins_there(settings):
    """It learns slowly: last after one epoch, best after nine."""
    study = begin_study(
        f"{settings['project']}/tune",
        made(settings, monitor="last", epochs=9),
        [{"epochs": 9}, *(dict(ls=v) for v in (0.1, 0.2, 0.3, 0.4))],  # the base, spelled otherwise
        3,
    )
    scores = {1: [0.1, 0.5, 0.6, 0.3, 0.2], 3: [0.2, 0.6, 0.5], 9: [0.9, 0.7]}
    for until, alive in ((1, [0, 1, 2, 3, 4]), (3, [0, 1, 2]), (9, [0, 1])):
        assert study.jobs() == [(i, until) for i in alive]
        for i in alive:
            more = dict(acc=0.5, nll=1.0, ece=0.1, macro_f1_se=0.01, val_pictures=5, macro_f1=scores[until][i])
            row = dict(trial=i, until=until, fold=0, seed=0, status="ok", reason="", **more)
            (study.folder / "rows" / f"{i:04d}-{until}.json").write_text(json.dumps(row))
            if until == 9:
                answered(study.run(i), scores[until][i])
    assert not study.jobs()
    assert chosen(study).candidate.trials == [0]


def makes(*words):
    command = ["make", "-n", "study", "PY=python", *words]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_every_stage_gets_the_flags_and_starts_from_the_best_of_those_before_it():
    lines = makes("DATA=somewhere", "FLAGS=--threads 1 --device cpu").stdout.replace("\\\n", "").splitlines()
    stages = [line for line in lines if line.startswith(("python sweep.py", "python seeds.py"))]
    assert len(stages) == 6 and all("--threads 1 --device cpu" in line for line in stages)
    assert "--ablate runs/best.json" in stages[3] and "-c runs/best.json" in stages[4] and "--name final" in stages[5]
    assert all("--metric macro_f1" in line for line in stages)
    stages_by_nll = makes("METRIC=nll").stdout.replace("\\\n", "")
    assert stages_by_nll.count("--metric nll") == 5 and "macro_f1" not in stages_by_nll  # no ablation: QUICK
    final = lines.index(stages[5])
    assert lines[final - 1] == "python -m study.best runs/best.json " + " ".join(
        f"runs/{name}" for name in ("sweep", "tune", "sensitivity", "ablation")
    )


@pytest.mark.parametrize("flags", ["--lr 1e-3", "--threads 1 --wd=0.1", "-b 8"])
def test_flags_that_would_undo_what_a_stage_chose_are_refused(flags):
    done = makes(f"FLAGS={flags}")
    assert done.returncode == 2 and "which the study chooses: give MIXUP_P, LS, BALANCE, LR" in done.stderr
