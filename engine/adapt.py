"""--adapt gap: smoothing and mixing as strong as training runs ahead of a tenth of its own pictures, held back.

After Karras et al. 2020, arXiv:2006.06676, who steer the augmentation of a GAN by such a gap. A factor, 1 at first,
multiplies the odds of --ls, --mixup-p and --cutmix-p, so that none can pass 1. It is one of the signals: a loss table
reads that of the epoch before, a plan, which is drawn an epoch ahead, that of the one before it. Validation pictures
are never read. Where there are none, a run follows the factors of others: --adapt-path.
"""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import data
from config import Config
from data import Pictures
from errors import LongtailError
from pictures.duplicates import near_sets

FEWEST = 10  # training pictures of a class that gives a tenth of them; a rarer one keeps all
RATE = 10.0  # by how much a gap of 1 would move the factor in a whole training
HIGHEST = 2.0  # the factor's bounds are 0 and this
SMOOTHING, MIXING = ("ls",), ("mixup_p", "cutmix_p")  # the settings whose odds it multiplies


def measures(config: Config, validation: int) -> bool:
    """Whether a run measures its own factors, rather than to follow --adapt-path. validation: its pictures."""
    return config.adapt == "gap" and not (config.adapt_path and not validation)


def hold_back(pictures: Pictures, split_seed: int) -> Pictures:
    """`pictures` with a tenth of the training pictures of each class in `held`. Groups and sets of nearly
    equal pictures stay whole.

    Raises LongtailError where fewer than two classes have FEWEST.
    """
    enough = pictures.counts >= FEWEST
    if enough.sum() < 2:
        raise LongtailError(
            f"{pictures.root}: --adapt holds back a tenth of each class of {FEWEST} or more training pictures, and "
            "fewer than two have as many: leave it out"
        )
    listing = pictures.listing
    able = np.zeros(len(listing.labels), bool)
    able[pictures.train] = enough[listing.labels[pictures.train]]
    # A validation part of the data's own has done its work.
    undivided = dataclasses.replace(listing, parts=np.full(len(able), "train"))
    together = [[row for row in rows if able[row]] for rows in near_sets(pictures.store)]  # a copy tells nothing new
    alike = [rows for rows in together if len(rows) > 1]
    _, held = data.split(undivided, able, alike, val_split=0.1, split_seed=split_seed)
    train = np.setdiff1d(pictures.train, held)
    counts = np.bincount(listing.labels[train], minlength=len(pictures.counts))
    return dataclasses.replace(pictures, train=train, held=held, counts=counts)


def factor(signals: dict | None) -> float:
    """By what the odds of the next epoch are multiplied."""
    return float(signals["factor"]) if signals and "factor" in signals else 1.0


def strengthened(settings: Any, names: Iterable[str], signals: dict | None) -> Any:
    """The dataclass `settings`, the odds of its probabilities `names` multiplied by the signals' factor."""
    times = factor(signals)
    if times == 1:
        return settings
    return dataclasses.replace(settings, **{name: _raised(getattr(settings, name), times) for name in names})


def _raised(p, times):
    """A probability, or both ends of a range, with `times` the odds."""
    if isinstance(p, tuple):
        return tuple(_raised(end, times) for end in p)
    if p == 1:  # a factor of 0 would make it 0 / 0
        return p
    return times * p / (1 - p + times * p)


def gap(
    index: np.ndarray,
    rows: dict[str, np.ndarray],
    held: np.ndarray,
    held_logits: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Accuracy of an epoch's unmixed rows less that of the held-back pictures, each class weighing as among the latter.

    index [T,B] and rows: as in signals.after_epoch. held [H]: rows of the Store; held_logits [H,C]: theirs, the loss
    table's bias added, as in what the steps noted. labels [N]: of the Store. nan where no class has both.
    """
    classes = held_logits.shape[1]
    told = np.isfinite(rows["own"])
    right = rows["own"][told] == rows["confidence"][told]  # the own label has the largest probability
    of_training = _accuracy(labels[index[told]], right, classes)
    of_held = _accuracy(labels[held], held_logits.argmax(1) == labels[held], classes)
    shares = np.bincount(labels[held], minlength=classes)
    both = np.isfinite(of_training) & (shares > 0)
    if not both.any():
        return np.nan
    return float(np.average((of_training - of_held)[both], weights=shares[both]))


def _accuracy(classes_of, right, classes):
    """By class [C], nan where there is no row."""
    with np.errstate(invalid="ignore"):
        return np.bincount(classes_of, right, classes) / np.bincount(classes_of, minlength=classes)


def moved(before: float, gap: float, epochs: int) -> float:
    """The factor after an epoch of `epochs` that showed this gap: it stays where the gap is nan."""
    change = 0.0 if np.isnan(gap) else RATE / epochs * gap
    return round(min(max(before + change, 0.0), HIGHEST), 4)


def followed(path: str, epoch: int, epochs: int) -> float:
    """The factor of an epoch, counted from 0 of `epochs`, where the factors `path` are spread over the training."""
    factors = [float(word) for word in path.split(":")]
    at = epoch / max(epochs - 1, 1) * (len(factors) - 1)
    return float(np.interp(at, range(len(factors)), factors))


def mean_path(folders: Iterable[Path], epochs: int) -> str:
    """The mean of the factors that runs took, as --adapt-path takes it; a run that stopped early stays at its last."""
    paths = []
    for folder in folders:
        with open(folder / "results.csv", newline="", encoding="utf-8") as f:
            own = [float(row["adapt"]) for row in csv.DictReader(f)]
        paths.append(own + own[-1:] * (epochs - len(own)))
    return ":".join(f"{value:.4g}" for value in np.mean(paths, 0))
