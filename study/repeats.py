"""What seeds.py wrote of a study, read back: scores by seed, classes, and how often two trainings agree."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from config import spelled
from engine.outcome import validation_labels
from errors import LongtailError
from study.table import REPEATS, Study

NUMBERS = ("f1_mean", "f1_sd", "f1_min", "f1_max")


def read_repeats(folder: Path) -> tuple[list[dict], list[dict]]:
    """(summaries, a recipe each; lines of per_class.csv of the first recipe) of a study. Raises LongtailError where
    seeds.py has not ended there, and where a file is damaged."""
    try:
        results = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        with open(folder / "per_class.csv", newline="", encoding="utf-8") as f:
            rows = [row for row in csv.DictReader(f) if row["recipe"] == results[0]["recipe"]]
        classes = [row | {key: float(row[key]) for key in NUMBERS} for row in rows]
        for result in results:  # what is shown of it
            [score["values"] + [score["mean"], score["half"]] for score in result["scores"].values()]
        return results, classes
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise LongtailError(f"{folder}: summary.json or per_class.csv is damaged: seeds.py writes them again") from None


def headline(folder: Path) -> str:
    """What came out of seeds and what to do next, in three sentences. Raises LongtailError as `read_repeats`."""
    results, _ = read_repeats(folder)
    said = []
    for result in results:
        score = result["scores"]["macro_f1"]
        said.append(f"{result['recipe']}: macro F1 {score['mean']:.4f} ± {score['half']:.4f}")
    first = results[0]
    return (
        f"{first['n']} seeds: {'; '.join(said)} (95% t interval of the mean). Two seeds of the first label "
        f"{first['agreement']:.1%} of {first['pictures']} pictures alike. What to do next: python sweep.py -c "
        f"{first['recipe']} --name final --folds 0 --val-split 0 --seeds 5 trains what predicts."
    )


def in_short(recipe: str) -> str:
    """A recipe's name for a chart: of a path the last two parts."""
    return "/".join(Path(recipe).parts[-2:])


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
