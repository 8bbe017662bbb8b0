"""Which study a recipe beside several belongs to: one that has it whole, whatever is wrong with the others."""

import json
from pathlib import Path

import pytest

from config import Config
from conftest import PLAIN
from errors import LongtailError
from study.begin import begin_study
from study.chosen import choose, named, study_of_recipe
from study.table import recipe_of


def published(study, trials):
    """The study with made-up rows of these trials."""
    for i in trials:
        config = study.config(i)
        row = dict(trial=i, until=config.epochs, status="ok", reason="", fold=config.fold, seed=config.seed)
        path = Path(study.folder) / "rows" / f"{i:04d}-{config.epochs}.json"
        path.write_text(json.dumps(row | dict(seconds=1.0, epoch=config.epochs, train_loss=1.0)))
    return study


@pytest.fixture
def base(pictures):
    return Config(**dict(PLAIN, data=str(pictures), monitor="last", img_size=16, folds=2))


@pytest.fixture
def recipe(tmp_path, base):
    path = tmp_path / "best.json"
    path.write_text(json.dumps(recipe_of(base)))
    return path


def seeds_and_folds(count):
    return [dict(fold=fold, seed=seed) for seed in range(count) for fold in (0, 1)]


def test_a_damaged_study_beside_it_is_passed_over_and_said(tmp_path, base, recipe, capsys):
    good = published(begin_study(tmp_path / "good", base, seeds_and_folds(1)), [0, 1])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.json").write_text("{")
    study, trials = study_of_recipe(recipe)
    assert study.folder == good.folder and trials == [0, 1]
    assert "passed over: " in capsys.readouterr().err
    (tmp_path / "good" / "study.json").unlink()
    with pytest.raises(LongtailError, match="damaged"):
        study_of_recipe(recipe)


def test_seeds_that_lack_a_fold_are_left_out(tmp_path, base, recipe):
    """A study of three seeds that was stopped in the third: its first fold alone could be pooled with nothing."""
    published(begin_study(tmp_path / "seeds", base, seeds_and_folds(3)), [0, 1, 2, 3, 4])
    assert study_of_recipe(recipe)[1] == [0, 1, 2, 3]


def test_a_finished_final_answers_though_the_newest_recipe_cannot_be_read(tmp_path, base, recipe):
    final = published(begin_study(tmp_path / "final", base, seeds_and_folds(1)), [0, 1])
    recipe.write_text("{")
    runs, said = choose(tmp_path)
    assert runs == [final.run(0), final.run(1)]
    assert said.startswith(f"the 2 runs of the finished study {final.folder} ({recipe}: ")


def test_a_study_that_is_named_stands_for_its_runs(tmp_path, base, monkeypatch):
    """All of `final`, whose runs are judged on nothing; the winner of one whose candidates have scores."""
    final = published(begin_study(tmp_path / "final", base, seeds_and_folds(2)), [0, 1, 3])
    found, said = named([str(final.folder), "runs/other"])
    assert found == [*(final.run(i) for i in (0, 1, 3)), Path("runs/other")]
    assert said == f"0000, 0001, 0003 of {final.folder}, of which 1 trial is not done, runs/other"
    grid = published(begin_study(tmp_path / "grid", base, [dict(ls=0.1), dict(ls=0.2)]), [0, 1])
    with pytest.raises(LongtailError, match="no candidate of this study can be ranked"):  # unlike settings, not judged
        named([str(grid.folder)])
    row = next((grid.folder / "rows").glob("0000-*.json"))
    row.write_text(
        json.dumps(
            json.loads(row.read_text())
            | dict(macro_f1=0.3, macro_f1_se=0.01, acc=0.3, nll=1.0, ece=0.1, val_pictures=5)
        )
    )
    monkeypatch.setattr("study.chosen.runs_of", lambda folder: (folder, [grid.run(1)]))
    assert named([str(grid.folder)]) == ([grid.run(1)], f"0001 of {grid.folder}")
    (grid.folder / "best.json").write_text("{}")
    monkeypatch.setattr("study.chosen.runs_of", lambda path: (path.parent, [grid.run(0)] * (path.name == "best.json")))
    assert named([str(grid.folder)])[0] == [grid.run(0)]  # what the study wrote, not what would win now
    assert named([str(grid.folder / "best.json")]) == ([grid.run(0)], str(grid.folder / "best.json"))
