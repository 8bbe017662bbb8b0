"""Which study a recipe beside several belongs to: one that has it whole, whatever is wrong with the others."""

import json
from pathlib import Path

import pytest

from config import Config
from conftest import PLAIN
from errors import LongtailError
from study.begin import begin_study
from study.chosen import study_of_recipe
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
