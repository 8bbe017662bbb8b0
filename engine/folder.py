"""A run's folder as it is found: finished or not, failed, of an older version, damaged. Opens no checkpoint.

What cannot be read is left out and noted: whoever looks at a run wants to see the rest.
"""

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from config import config_from
from engine.outcome import kept_row
from engine.run import with_todays_names
from errors import LongtailError, counted


@dataclass
class Folder:
    """What the files of a run say."""

    path: Path
    settings: dict  # args.json
    env: dict
    epochs: list[dict[str, float]]  # results.csv, under the names of today
    kept: int | None  # the epoch that is kept, from 1; None where there is none yet
    classes: list[str]
    split: list[tuple[str, str, str]]  # path, class, part
    log: list[str]
    filters: np.ndarray | None  # [1 or 2, K, 3, k, k]
    done: bool
    notes: list[str] = field(default_factory=list)  # what could not be read

    def counts(self, part: str) -> np.ndarray:
        """Pictures of each class in a part, int [C]."""
        found = Counter(name for _, name, of_part in self.split if of_part == part)
        return np.array([found[name] for name in self.classes])

    def column(self, name: str) -> list[float]:
        """A score by epoch, nan where it is not known."""
        return [row.get(name, math.nan) for row in self.epochs]


def read_folder(path: Path | str) -> Folder:
    """The Folder at `path`. Raises LongtailError where it is no run's."""
    path, notes = Path(path), []
    if not (path / "args.json").is_file():
        raise LongtailError(f"{path}: no run there (no args.json)")
    settings = _json(path / "args.json", notes)
    rows = [with_todays_names(row) for row in _rows(path / "results.csv", notes)]
    epochs = list(filter(None, map(_numbers, rows)))
    split = [(row.get("path"), row.get("class"), row.get("part")) for row in _rows(path / "split.csv", notes)]
    return Folder(
        path=path,
        settings=settings,
        env=_json(path / "env.json", notes),
        epochs=epochs,
        kept=_kept(epochs, settings),
        classes=_lines(path / "classes.txt", notes),
        split=[row for row in split if None not in row],
        log=_lines(path / "train.log", notes),
        filters=_filters(path / "filters.npy", notes),
        done=(path / "best.pt").exists() and not (path / "last.pt").exists() and bool(epochs),
        notes=notes,
    )


def _kept(epochs, settings):
    """The epoch that the run keeps, as far as its settings can still be read."""
    if not epochs:
        return None
    try:
        return int(kept_row(epochs, config_from(settings))["epoch"])
    except (LongtailError, KeyError, ValueError):
        return int(epochs[-1]["epoch"])


def _numbers(row):
    """A row of results.csv as numbers; None for a line that is not whole."""
    try:
        found = {name: float(value) for name, value in row.items()}
    except (TypeError, ValueError):
        return None
    return found if "epoch" in found else None


def _json(path, notes):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read ({type(error).__name__})")
        return {}


def _rows(path, notes):
    """The lines of a CSV as dicts."""
    try:
        with open(path, newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
        whole = [row for row in rows if None not in row and None not in row.values()]
        if len(whole) < len(rows):
            notes.append(f"{path.name} has {counted(len(rows) - len(whole), 'line')} that is not whole")
        return whole
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        notes.append(f"{path.name} cannot be read ({type(error).__name__})")
        return []


def _lines(path, notes):
    try:
        return path.read_bytes().decode(errors="surrogateescape").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror})")
        return []


def _filters(path, notes):
    try:
        found = np.load(path).astype(np.float32)
        return found if found.ndim == 5 and np.isfinite(found).all() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        notes.append("filters.npy cannot be read")
        return None
