"""seeds.py on folds: every seed is trained on every fold, and scored on all pictures at once."""

import csv
import json
import math

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import sem
from sklearn.metrics import accuracy_score, f1_score

import seeds
from conftest import PLAIN
from study.held_out import HeldOut
from study.repeats import headline, in_short, read_repeats


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
    assert result["scores"]["nll"]["half"] is result["agreement"] is None  # of one seed they are not known
    (read,), _ = read_repeats(tmp_path / "one")
    assert math.isnan(read["scores"]["nll"]["half"]) and math.isnan(read["agreement"])


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


@pytest.mark.parametrize(
    "more, said",
    [
        (
            dict(label_col="kind", labels="l.csv"),
            "l.csv, not ): give --labels, which then holds for both",
        ),
        (dict(split_seed=3), "(split_seed 3, not 0): give --split-seed"),
    ],
)
def test_what_is_compared_is_scored_on_the_same_pictures(more, said, pictures, tmp_path, capsys):
    recipe = tmp_path / "other.json"
    recipe.write_text(json.dumps(more))
    command = [*flags(pictures, tmp_path), "--n", "1", "--compare", str(recipe)]
    assert seeds.main(command) == 2
    assert said in capsys.readouterr().err


def test_runs_of_other_folds_are_compared_on_all_of_them(pictures, tmp_path):
    """Every fold is trained, whichever one a recipe names; and a path in a recipe counts from where it is given."""
    first, second = ({"fold": fold, "folds": 2, "val_split": 0.2 + fold / 10} for fold in (0, 1))
    for name, recipe in (("first", first), ("second", second)):
        (tmp_path / f"{name}.json").write_text(json.dumps(recipe))
    space = seeds_space(["--compare", str(tmp_path / "second.json"), "-c", str(tmp_path / "first.json")], pictures)
    base = seeds.config_from_args(space)
    assert seeds.other(space, base).fold == base.fold == 0


def seeds_space(words, pictures):
    parser = seeds.SettingsParser("seeds.py", "", "")
    parser.add_argument("--compare")
    parser.add_settings()
    return parser.parse_args([*words, "--data", str(pictures)])


def test_nothing_is_trained_where_nothing_could_be_scored(pictures, tmp_path, capsys):
    assert seeds.main([*flags(pictures, tmp_path), "--n", "1", "--val-split", "0", "--name", "s"]) == 1
    assert "seeds are scored on validation pictures, and there are none" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_one_seed_has_no_interval(pictures, tmp_path, capsys):
    assert seeds.main([*flags(pictures, tmp_path), "--n", "1", "--name", "s"]) == 0
    out, err = capsys.readouterr()
    assert "nan" not in out and "ensemble" not in out
    said = headline(tmp_path / "s")
    assert said.startswith("1 seed: ") and "nan" not in said and "One seed says nothing of luck." in said
    # What the page says to do is what the command said.
    command = said.partition("What to do next: ")[2].removesuffix(" trains what predicts.")
    assert command in err and "-c default" not in command and str(pictures) in command


def test_recipes_of_one_name_are_told_apart():
    assert in_short(["a/sweep/best.json", "recipes/attempt-3.json"]) == ["sweep/best.json", "recipes/attempt-3.json"]
    assert in_short(["cpu/sweep/best.json", "gpu/sweep/best.json"]) == ["cpu/sweep/best.json", "gpu/sweep/best.json"]
    assert in_short(["default settings"]) == ["default settings"]
