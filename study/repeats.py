"""What seeds.py says of a study, written and read back: scores by seed, classes, how often two trainings agree."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from config import spelled
from engine.outcome import validation_labels
from errors import LongtailError, counted
from files import replacing
from study.table import REPEATS, Study, write_csv

SCORES = dict(macro_f1="macro F1", acc="accuracy", nll="NLL", ece="ECE", worst="worst class")
NUMBERS = ("f1_mean", "f1_sd", "f1_min", "f1_max")


def write(folder: Path, results: list[dict], classes: list[list]) -> None:
    """seeds.csv and summary.json of the summaries `results`, a recipe each; per_class.csv of the lines `classes`."""
    seeds = [["recipe", "seed", *SCORES]]
    for result in results:
        for k, seed in enumerate(result["seeds"]):
            scores = [result["scores"][name]["values"][k] for name in SCORES]
            seeds.append([result["recipe"], seed, *scores])
    write_csv(folder / "seeds.csv", seeds)
    header = ["recipe", "class", "pictures", "f1_mean", "f1_sd", "f1_min", "f1_max"]
    write_csv(folder / "per_class.csv", [header, *classes])
    with replacing(folder / "summary.json") as path:
        text = json.dumps(_without_nan(results), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def _without_nan(value):
    """`value` with None for what is not known, which JSON has no number for."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(found):
    """The reverse, of one object of the file."""
    return {name: math.nan if value is None else value for name, value in found.items()}


def read_repeats(folder: Path) -> tuple[list[dict], list[dict]]:
    """(summaries, a recipe each; lines of per_class.csv of the first recipe) of a study. Raises LongtailError where
    seeds.py has not ended there, and where a file is damaged."""
    try:
        results = json.loads((folder / "summary.json").read_text(encoding="utf-8"), object_hook=_with_nan)
        with open(folder / "per_class.csv", newline="", encoding="utf-8") as f:
            rows = [row for row in csv.DictReader(f) if row["recipe"] == results[0]["recipe"]]
        classes = [row | {key: float(row[key]) for key in NUMBERS} for row in rows]
        for result in results:  # all that is shown of it
            if not {"recipe", "n", "pictures", "agreement", *SCORES} <= result.keys() | result["scores"].keys():
                raise KeyError("an earlier version's")
            [score["values"] + [score["mean"], score["half"]] for score in result["scores"].values()]
        return results, classes
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise LongtailError(f"{folder}: summary.json or per_class.csv is damaged: seeds.py writes them again") from None


def headline(folder: Path) -> str:
    """What came out of seeds and what to do next, in three sentences. Raises LongtailError as `read_repeats`."""
    results, _ = read_repeats(folder)
    first, several = results[0], results[0]["n"] > 1
    said = []
    for result in results:
        score = result["scores"]["macro_f1"]
        half = f" ± {score['half']:.4f}" if several else ""
        said.append(f"{result['recipe']}: macro F1 {score['mean']:.4f}{half}")
    luck = "One seed says nothing of luck."
    if several:
        luck = f"Two seeds of the first label {first['agreement']:.1%} of {first['pictures']} pictures alike."
    after = first.get("next", "the command that seeds.py ended with")  # an earlier version did not keep it
    return (
        f"{counted(first['n'], 'seed')}: {'; '.join(said)}{' (95% t interval of the mean)' * several}. {luck} "
        f"What to do next: {after} trains what predicts."
    )


def in_short(recipes: list[str]) -> list[str]:
    """The recipes' names for a chart: of paths the last two parts, or as many as tell them apart."""
    for parts in range(2, 1 + max(len(Path(recipe).parts) for recipe in recipes)):
        short = ["/".join(Path(recipe).parts[-parts:]) for recipe in recipes]
        if len({*short}) == len({*recipes}):
            return short
    return recipes


def agreement(study: Study) -> tuple[list[str], np.ndarray]:
    """(trainings, shares of pictures that two of them label alike [R,R]), the folds of a seed together.

    Empty where an answer cannot be read.
    """
    predicted = {}
    try:
        for trial, changed in enumerate(study.trials):
            words = [f"{name} {spelled(value)}" for name, value in changed.items() if name not in REPEATS]
            label = ", ".join([*words, f"seed {study.config(trial).seed}"])
            predicted.setdefault(label, []).append(validation_labels(study.run(trial))[2])
        every = np.stack([np.concatenate(parts) for parts in predicted.values()])
    except (OSError, KeyError, ValueError):
        return [], np.full((0, 0), math.nan)
    return list(predicted), np.stack([(every == one).mean(1) for one in every])
