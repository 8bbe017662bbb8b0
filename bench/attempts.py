"""Recipes side by side over validation folds: macro F1, accuracy and the gap between training and validation.

    python -m bench.attempts --folds 3 --data DIR --img-size 64 recipes/attempt-3.json recipes/attempt-7.json default
    make attempts                                  the study's eight attempts and the default, on the data at hand

A run is a folder in --project; one that is finished is not repeated. All figures are of the last epoch, so that no
epoch is picked by its validation score; `best` is the best epoch's macro F1, as the study reported it. Intervals:
Student t over folds, 95%.
"""

import csv
import sys
from pathlib import Path

import train
from config import Config, config_from, flag_of, read_recipe, spelled
from engine.flags import SettingsParser, given_names
from engine.run import with_todays_names
from engine.stop import StopRequest
from errors import ConfigError, run_command
from study import stats
from study.begin import without_folds


def interval(values):
    """'mean ± half width' of the 95% Student-t interval."""
    mean, half = stats.interval(values)
    return f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")


def rows_of(config, stop):
    """results.csv of the run of `config`, trained first where it is not finished."""
    folder = Path(config.project) / config.name
    if not (folder / "val_logits.npy").exists():  # written last
        train.train(config, stop)
    with open(folder / "results.csv", newline="", encoding="utf-8") as f:
        return [with_todays_names({k: float(v) for k, v in row.items()}) for row in csv.DictReader(f)]


def main():
    parser = SettingsParser("bench.attempts", __doc__, "RECIPE ... ")
    parser.add_argument("recipes", nargs="+", help="recipe files, or 'default' for the default settings")
    parser.add_settings()
    space = parser.parse_args()
    return run_command(
        "bench.attempts", lambda: compare(space, StopRequest().listen()), continue_with="the same command"
    )


def compare(space, stop):
    """Trains what is not trained yet, and prints the table."""
    if space.config:
        raise ConfigError(f"-c {space.config}: name the recipes without -c")
    given = {name: getattr(space, name) for name in given_names(space)}
    asked, _ = without_folds(Config(**given))
    given |= dict(folds=asked.folds)
    folds = range(asked.folds or 1)
    table = []
    for recipe in space.recipes:
        base = Config() if recipe == "default" else read_recipe(recipe)
        name = Path(recipe).stem
        found = []
        for fold in folds:
            settings = dict(given, fold=fold, resume=True, name=f"{name}-{fold}" if len(folds) > 1 else name)
            settings.setdefault("project", "runs/attempts")
            found.append(rows_of(config_from(settings, "command line", base), stop))
        table.append((name, found))
    shown = [f"{flag_of(k)} {spelled(v)}" for k, v in given.items() if k not in ("data", "folds")]
    print(f"folds {len(folds)}, {' '.join(shown)}\n")
    print("| recipe | epochs | macro F1 | best | accuracy | ECE | train - val accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, found in table:
        last = [rows[-1] for rows in found]
        cells = [
            name,
            f"{last[0]['epoch']:.0f}",
            interval([r["macro_f1"] for r in last]),
            interval([max(r["macro_f1"] for r in rows) for rows in found]),
            interval([r["acc"] for r in last]),
            interval([r["ece"] for r in last]),
            interval([r["train_acc"] - r["acc"] for r in last]),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
