"""seeds.py on folds: every seed is trained on every fold, and scored on all pictures at once."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

import seeds
from conftest import PLAIN


def flags(pictures, project):
    small = dict(PLAIN, data=pictures, project=project, img_size=16, epochs=1, crop_scale="1:1")
    words = []
    for name, value in small.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def test_a_seed_is_trained_on_every_fold_and_scored_on_all_pictures(pictures, tmp_path, capsys):
    command = [*flags(pictures, tmp_path), "--name", "s", "--folds", "2"]
    assert seeds.main([*command, "--n", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 seeds, 24 validation pictures in 2 folds" in out
    (result,) = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert result["seeds"] == [0, 1] and result["folds"] == 2 and result["pictures"] == 24
    for k, seed in enumerate(result["seeds"]):
        true, named = [], []
        for folder in sorted((tmp_path / "s" / "trials").iterdir()):
            if json.loads((folder / "args.json").read_text())["seed"] == seed:
                with open(folder / "val_predictions.csv", newline="") as f:
                    rows = list(csv.DictReader(f))
                true += [row["true"] for row in rows]
                named += [row["predicted"] for row in rows]
        assert len(true) == 24
        assert result["scores"]["acc"]["values"][k] == pytest.approx(accuracy_score(true, named))
        expected = f1_score(true, named, average="macro", labels=sorted(set(true)))
        assert result["scores"]["macro_f1"]["values"][k] == pytest.approx(expected)
    assert seeds.main([*command, "--n", "1", "--fold", "1", "--name", "one"]) == 0
    (result,) = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert result["folds"] == 1 and result["pictures"] == 12
    assert np.isfinite(result["scores"]["nll"]["mean"])
