"""seeds.py on folds: every seed is trained on every fold, and scored on all pictures at once."""

import csv
import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import sem
from sklearn.metrics import accuracy_score, f1_score

import seeds
from conftest import PLAIN
from study.held_out import HeldOut


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
    logits = {0: [], 1: []}
    for k, seed in enumerate(result["seeds"]):
        true, named = [], []
        for folder in sorted((tmp_path / "s" / "trials").iterdir()):
            if json.loads((folder / "args.json").read_text())["seed"] == seed:
                with open(folder / "val_predictions.csv", newline="") as f:
                    rows = list(csv.DictReader(f))
                true += [row["true"] for row in rows]
                named += [row["predicted"] for row in rows]
                logits[seed].append(np.load(folder / "val_logits.npy").astype(np.float64))
        assert len(true) == 24
        assert result["scores"]["acc"]["values"][k] == pytest.approx(accuracy_score(true, named))
        expected = f1_score(true, named, average="macro", labels=sorted(set(true)))
        assert result["scores"]["macro_f1"]["values"][k] == pytest.approx(expected)
    # Of the two, each picture is judged by the two networks that had not seen it.
    posterior = (softmax(np.concatenate(logits[0]), 1) + softmax(np.concatenate(logits[1]), 1)) / 2
    number = {name: c for c, name in enumerate(sorted(set(true)))}
    target = np.array([number[name] for name in true])
    assert result["ensemble"]["nll"] == pytest.approx(-np.log(posterior[range(24), target]).mean())
    assert result["ensemble"]["macro_f1"] == pytest.approx(f1_score(target, posterior.argmax(1), average="macro"))
    assert seeds.main([*command, "--n", "1", "--fold", "1", "--name", "one"]) == 0
    (result,) = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert result["folds"] == 1 and result["pictures"] == 12
    assert np.isfinite(result["scores"]["nll"]["mean"])


@pytest.mark.parametrize("metric, title", [("acc", "accuracy"), ("nll", "NLL (lower is better)")])
def test_two_recipes_are_compared_seed_by_seed_and_picture_by_picture(metric, title):
    """A mean over 60 pictures has the plain error of paired differences; the interval is two of them to either side."""
    rng = np.random.default_rng(0)
    values = rng.random((2, 60))
    sides = []
    for of_picture in values:
        left_out = (of_picture.sum() - of_picture) / 59
        sides.append(HeldOut("", 0, {metric: np.array([of_picture.mean()])}, metric, left_out[None]))
    said = "\n".join(seeds.against(*sides))
    mean, error = (values[0] - values[1]).mean(), sem(values[0] - values[1])
    assert f"{title}, first minus second, paired by seed: {mean:+.4f}; mean {mean:+.4f}" in said
    assert f"{mean - 2 * error:+.4f} to {mean + 2 * error:+.4f} (95%, paired picture by picture, n 60" in said
    assert f"standard error {error:.4f}" in said
