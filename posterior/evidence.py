"""What finished runs said of pictures that they were not trained on: the ground for scaling, priors and thresholds.

Reads the folders of runs, and no checkpoint itself; `trained_pictures` and `column_of` their data's too. Chooses
nothing.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import Config, read_object
from engine.evaluate import averaged
from engine.outcome import validation_answers
from errors import LongtailError
from metrics import log_softmax
from pictures.duplicates import rows_of_both
from pictures.layout import own_csvs
from pictures.listing import listing
from pictures.store import load_store
from posterior.priors import assumed, move, shares


@dataclass(frozen=True)
class Evidence:
    """N pictures, each judged by networks that had not seen it; of several networks, by their mean posterior."""

    paths: list[str]
    targets: np.ndarray  # int [N]
    log_posterior: np.ndarray  # float64 [N,C], under the training prior
    parts: np.ndarray | None  # int [N], which fold held a picture out; None where there are no folds
    classes: list[str]
    counts: np.ndarray  # float64 [C], training pictures of each class, the mean over the folds
    members: int  # networks that were averaged for a picture

    @property
    def prior(self) -> np.ndarray:
        """The training prior, float64 [C]."""
        return shares(self.counts)


def of_run(folder: Path) -> Evidence:
    """The validation pictures of a finished run. Raises LongtailError where there are none."""
    needed = ("val_logits.npy", "val_predictions.csv", "per_class.csv", "args.json")
    for name in needed:
        if not (folder / name).exists():
            raise LongtailError(
                f"{folder}: no {name} there: name a finished run that held validation pictures out, or a study of such"
            )
    settings = read_settings(folder)
    try:
        paths, targets, logits, classes = validation_answers(folder)
        with open(folder / "per_class.csv", newline="", encoding="utf-8") as f:
            counts = np.array([float(row["train"]) for row in csv.DictReader(f)])
        if counts.shape != (len(classes),) or not np.isfinite(counts).all():
            raise ValueError(f"per_class.csv has no number for each of {len(classes)} classes")
    except (ValueError, KeyError, TypeError, EOFError, csv.Error) as error:
        raise LongtailError(f"{folder}: its validation tables are damaged ({error}): train it again") from None
    log_posterior = log_softmax(logits)
    if settings.get("prior") == "uniform":  # what the run's own scores assumed
        trained = shares(counts)
        log_posterior = move(log_posterior, assumed("uniform", trained), trained)
    return Evidence(paths, targets, log_posterior, None, classes, counts, 1)


def runs_by_fold(folders: list[Path]) -> list[list[Path]]:
    """Run folders, those that held the same pictures out together."""
    by_split = {}
    for folder in folders:
        settings = read_settings(folder)
        split = json.dumps([settings.get(name) for name in ("folds", "fold", "split_seed", "val_split")])
        by_split.setdefault(split, []).append(folder)
    return list(by_split.values())


def read_settings(folder: Path) -> dict:
    """The settings of a run's args.json. Raises LongtailError where there is none."""
    try:
        return read_object(folder / "args.json")
    except LongtailError as error:
        raise LongtailError(f"{error}: name the folder of a run") from None


def trained_pictures(files: list[Path], runs: list[Path], checkpoint: dict) -> list[int]:
    """The rows of `files` whose pixels are those of a picture that one of the runs was trained on.

    checkpoint: a best.pt of these. Raises LongtailError where the training data or a run's split.csv is gone.
    """
    config = Config().settings() | checkpoint["config"]  # a run of an older version lacks the settings that came later
    taught = listing(checkpoint["data"], config["labels"] or None, config["image_col"], config["label_col"])
    paths = {path for run in runs for path in _trained_on(run)}
    rows = [row for row, path in enumerate(taught.paths) if path in paths]
    side, resize = checkpoint["store_size"], checkpoint["resize"]
    return rows_of_both(load_store(files, side, resize), load_store(taught.files, side, resize), rows)


def _trained_on(run):
    """The paths of the pictures that a run was trained on, as its split.csv says."""
    file = (run if run.is_dir() else run.parent) / "split.csv"
    try:
        with open(file, newline="", encoding="utf-8") as f:
            return [row["path"] for row in csv.DictReader(f) if row["part"] == "train"]
    except (OSError, KeyError, ValueError):
        raise LongtailError(f"{file} cannot be read") from None


def column_of(run: Path, found: Evidence, column: str) -> np.ndarray:
    """The text of each picture of `found` in a column of the CSV of labels that `run` was trained on, str [N].

    Raises LongtailError where there is no such CSV or column, and where it no longer lists one of the pictures.
    """
    settings = read_settings(run)
    env = run / "env.json"  # has the folder that was meant, where args.json may leave it to $DATA
    root = (read_object(env) if env.exists() else settings).get("data") or settings["data"]
    if not settings.get("labels") and not own_csvs(Path(root)):
        raise LongtailError(f"--by {column}: {run} was trained on class folders; a column needs a CSV of labels")
    listed = listing(root, settings["labels"] or None, settings["image_col"], settings["label_col"], column)
    value_of = dict(zip(listed.paths, listed.groups))
    missing = [path for path in found.paths if path not in value_of]
    if missing:
        raise LongtailError(f"{settings['labels'] or root} no longer lists {missing[0]}, which {run} validated on")
    return np.array([value_of[path] for path in found.paths])


def by_fold(folds: list[list[Path]]) -> list[Evidence]:
    """The pictures of each fold. folds: of each the folders of its runs, which differ in their seed alone.

    Seeds of a fold are averaged, as a prediction averages them.
    Raises LongtailError where folds know other classes or have unlike numbers of seeds.
    """
    of_fold = [_averaged([of_run(folder) for folder in runs]) for runs in folds]
    first = of_fold[0]
    for runs, each in zip(folds, of_fold):
        if each.classes != first.classes:
            raise LongtailError(f"{runs[0]} knows other classes than {folds[0][0]}: they cannot be pooled")
        if each.members != first.members:
            raise LongtailError(
                f"{runs[0]}: its fold has {each.members} runs, another {first.members}: give all as many"
            )
    return of_fold


def pooled(folds: list[list[Path]]) -> Evidence:
    """The pictures of all folds together; arguments and errors as `by_fold` and `joined`."""
    return joined(by_fold(folds))


def joined(of_fold: list[Evidence]) -> Evidence:
    """The pictures of all folds together. Raises LongtailError where two folds have one in common."""
    first = of_fold[0]
    if len(of_fold) == 1:
        return first
    paths = [path for each in of_fold for path in each.paths]
    if len({*paths}) < len(paths):
        raise LongtailError(
            "the runs held out the same pictures in unlike splits, so that they would count twice: take those of one "
            "--split-seed and --folds"
        )
    return Evidence(
        paths=paths,
        targets=np.concatenate([each.targets for each in of_fold]),
        log_posterior=np.concatenate([each.log_posterior for each in of_fold]),
        parts=np.repeat(np.arange(len(of_fold)), [len(each.targets) for each in of_fold]),
        classes=first.classes,
        counts=np.mean([each.counts for each in of_fold], 0),
        members=first.members,
    )


def _averaged(runs):
    """One Evidence of several runs on the same split: the logarithm of their mean posterior."""
    first = runs[0]
    for other in runs:
        if other.paths != first.paths:
            raise LongtailError("runs that validated on other pictures cannot be averaged")
    log_posterior = averaged([run.log_posterior for run in runs])
    return Evidence(first.paths, first.targets, log_posterior, None, first.classes, first.counts, len(runs))
