"""Recipes side by side over validation folds: macro F1, accuracy and the gap between training and validation.

    python -m bench.attempts --folds 3 --data DIR --img-size 64 recipes/attempt-3.json recipes/attempt-7.json default
    make attempts                                  the study's eight attempts and the default, on the data at hand

A run is a folder in --project; one that is finished is not repeated. All figures are of the last epoch, so that no
epoch is picked by its validation score; `best` is the best epoch's macro F1, as the study reported it. Intervals:
Student t over folds, 95%.

With folds, also macro F1 of all pictures together, each answered at the tau that the other folds choose, and by how
much it differs from that of the recipe that is named last: paired by picture, the delete-one jackknife's 95%. Training
luck is not in that interval.
"""

import csv
import sys
from pathlib import Path

import numpy as np

import metrics
import train
from config import Config, config_from, flag_of, read_recipe, spelled
from engine.flags import SettingsParser, given_names
from engine.run import with_todays_names
from engine.stop import StopRequest
from errors import ConfigError, run_command
from posterior import evidence, priors
from study import stats
from study.begin import without_folds
from study.held_out import macro_f1_difference


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
    table, runs = [], []
    for recipe in space.recipes:
        base = Config() if recipe == "default" else read_recipe(recipe)
        name = Path(recipe).stem
        found, own = [], []
        for fold in folds:
            settings = dict(given, fold=fold, resume=True, name=f"{name}-{fold}" if len(folds) > 1 else name)
            settings.setdefault("project", "runs/attempts")
            config = config_from(settings, "command line", base)
            found.append(rows_of(config, stop))
            own.append([Path(config.project) / config.name])
        table.append((name, found))
        runs.append(own)
    shown = [f"{flag_of(k)} {spelled(v)}" for k, v in given.items() if k not in ("data", "folds")]
    print(f"folds {len(folds)}, {' '.join(shown)}\n")
    header = ["recipe", "epochs", "macro F1", "best", "accuracy", "ECE", "train - val accuracy"]
    together = []
    if len(folds) > 1:
        header += ["at tau, together", "against the last"]
        together = at_tau([evidence.pooled(own) for own in runs])
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for place, (name, found) in enumerate(table):
        last = [rows[-1] for rows in found]
        cells = [
            name,
            f"{last[0]['epoch']:.0f}",
            interval([r["macro_f1"] for r in last]),
            interval([max(r["macro_f1"] for r in rows) for rows in found]),
            interval([r["acc"] for r in last]),
            interval([r["ece"] for r in last]),
            interval([r["train_acc"] - r["acc"] for r in last]),
            *(together[place] if together else []),
        ]
        print(f"| {' | '.join(cells)} |")


def at_tau(each: list[evidence.Evidence]) -> list[tuple[str, str]]:
    """Of each recipe macro F1 of all pictures together, at the tau that the other folds choose, and how far it is from
    that of the last one."""
    moved = []
    for found in each:
        _, predicted = priors.choose_tau(found.log_posterior, found.prior, found.targets, found.parts)
        moved.append(predicted[np.argsort(found.paths, kind="stable")])
    targets = each[-1].targets[np.argsort(each[-1].paths, kind="stable")]
    classes = len(each[-1].classes)
    cells = []
    for own in moved[:-1]:
        change, error = macro_f1_difference(targets, own, moved[-1], classes)
        cells.append((f"{metrics.macro_f1(targets, own, classes):.3f}", f"{change:+.3f} ± {metrics.Z * error:.3f}"))
    return [*cells, (f"{metrics.macro_f1(targets, moved[-1], classes):.3f}", "")]


if __name__ == "__main__":
    sys.exit(main())
