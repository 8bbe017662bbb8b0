"""What a folder or a CSV says: which pictures there are, their classes, parts, groups and ids.

Reads names, never a picture. Guesses nothing silently: what it passes over is returned in `skipped`, what it cannot
settle is one LongtailError line with the folder and the mend. CSVs are read by labels.py.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import numpy as np

from errors import LongtailError
from pictures.labels import id_rows, is_picture_name, label_rows, some

VAL = ("val", "valid", "validation")
PARTS = ("train", *VAL, "test")
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir")


@dataclass(frozen=True)
class Listing:
    """Pictures as rows; `paths` relative to `root`, printed as spelled."""

    root: Path
    paths: list[str]
    labels: np.ndarray  # int64 [N], index into classes, -1 where unknown
    classes: list[str]  # natural order
    parts: np.ndarray  # str [N]: train, val or test
    groups: list[str] | None = None
    skipped: list[str] = field(default_factory=list)  # passed over, each with its reason, for the caller to say
    ids: list[str] = field(default_factory=list)  # of a test listing

    @property
    def files(self) -> list[Path]:
        return [self.root / path for path in self.paths]


def natural_key(name: str):
    """Sort key: digits by value, letters without case, then code points; the same under every locale."""
    name = normalize("NFC", name)
    pieces = re.split("([0-9]+)", name.casefold())
    pieces[1::2] = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in pieces[1::2]]
    return pieces, name


def listing(
    root, labels=None, image_col: str = "auto", label_col: str = "auto", group_col: str | None = None
) -> Listing:
    """The training pictures, parts train and val, never test.

    Without `labels`: DIR/<class>/**, DIR/{train,val,valid,validation}/<class>/**, or either in a lone folder of DIR.
    Every visible file in a class folder is a candidate, whatever its name; a class folder without any is no class.
    With `labels`, a CSV: its files count from DIR, the CSV's folder or DIR/train, with or without extension.
    """
    root = _folder(root)
    skipped: list[str] = []
    if labels is not None:
        rows = label_rows(root, Path(labels), image_col, label_col, group_col, skipped)
    elif group_col:
        raise LongtailError("--group-col names a column of a CSV: give the CSV by --labels")
    else:
        root = _inner(root)
        rows = _folder_rows(root, skipped)
    if not rows:
        raise LongtailError(
            f"{root}: no picture found; expected {root}/<class>/*.jpg, {root}/train/<class>/*.jpg or a CSV by --labels"
        )
    paths, names, parts, groups = map(list, zip(*rows))
    numbers, classes = _classes(names)
    if len(classes) < 2:
        raise LongtailError(f"{root}: one class only, {classes[0]!r}: a classifier needs two or more")
    parts = np.array(parts)
    untaught = np.setdiff1d(numbers[parts == "val"], numbers[parts == "train"])
    if len(untaught):
        raise LongtailError(
            f"{root}: only validation pictures, none to train on, of "
            f"{some([repr(classes[c]) for c in untaught])}: is a folder misspelled?"
        )
    return Listing(root, paths, numbers, classes, parts, groups if group_col else None, skipped)


def test_listing(root, test=None) -> Listing:
    """The test pictures and their ids: root/test.csv (columns id and file, or either), else root/test/; or `test`.

    An id is the CSV's, else the file's stem, else its name where two stems collide, else its path. A file that the CSV
    names in vain keeps its row. Labels are known (not -1) in class folders, and in a CSV that has a label column; they
    index this listing's own `classes`.
    """
    root, skipped = _folder(root), []
    if test is None:
        root = _inner(root)
        test = next((root / name for name in ("test.csv", "test") if (root / name).exists()), None)
        if test is None:
            raise LongtailError(f"{root}: neither test.csv nor test/ is there; name the test pictures by --test")
    test = Path(test)
    if test.is_dir():
        home, base = (root, f"{test.relative_to(root).as_posix()}/") if root in test.parents else (test, "")
        folders, loose = _entries(test, base, skipped)
        rows = [(base + name, None) for name in loose]
        rows += [(path, name) for name in folders for path in _pictures(home, f"{base}{name}/", skipped)]
        choices = [[getattr(Path(path), part) for path, _ in rows] for part in ("stem", "name")]
        ids = next((ids for ids in choices if len(set(ids)) == len(ids)), [path for path, _ in rows])
    else:
        home = root
        rows, ids = id_rows(root, test)
    if not rows:
        raise LongtailError(f"{test}: no test picture found")
    labels = np.full(len(rows), -1, np.int64)
    labels[[name is not None for _, name in rows]], classes = _classes([name for _, name in rows if name is not None])
    return Listing(home, [path for path, _ in rows], labels, classes, np.full(len(rows), "test"), None, skipped, ids)


def _folder(root) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise LongtailError(f"{root} is not a folder" if root.exists() else f"{root}: no such folder")
    return root


def _entries(folder: Path, base: str, skipped: list[str]) -> tuple[list[str], list[str]]:
    """Names of the sub-folders and of the rest, sorted; hidden things go to `skipped`, `base` before their names."""
    folders, rest = [], []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: (normalize("NFC", entry.name), entry.name))
    except OSError as error:
        raise LongtailError(f"{folder} cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.casefold() in LITTER:
            skipped.append(f"{base}{entry.name} (hidden)")
        else:
            (folders if entry.is_dir() else rest).append(entry.name)
    return folders, rest


def _pictures(root: Path, base: str, skipped: list[str], above: tuple = ()):
    """Every candidate under root/base: each file, and each folder named like a picture, for the decoder to refuse."""
    status = os.stat(root / base)
    here = status.st_dev, status.st_ino
    if here in above:
        skipped.append(f"{base} (a link to a folder that it is in)")
        return
    folders, rest = _entries(root / base, base, skipped)
    yield from (base + name for name in [*rest, *filter(is_picture_name, folders)])
    for name in folders:
        if not is_picture_name(name):
            yield from _pictures(root, f"{base}{name}/", skipped, (*above, here))


def _inner(root: Path) -> Path:
    """Down through folders that hold nothing but one folder of folders, as unpacked archives often do."""
    while True:
        folders, rest = _entries(root, "", [])
        if len(folders) != 1 or folders[0].casefold() in PARTS or any(map(is_picture_name, rest)):
            return root
        if not _entries(root / folders[0], "", [])[0]:
            return root
        root = root / folders[0]


def _folder_rows(root: Path, skipped: list[str]) -> list[tuple[str, str, str, None]]:
    folders, loose = _entries(root, "", skipped)
    parts, flat, classes = [], [], []
    for name in folders:
        kind = "val" if name.casefold() in VAL else name.casefold()
        if kind not in PARTS:
            classes.append(name)
        elif kind != "test":
            parts.append((kind, name)) if _entries(root / name, "", [])[0] else flat.append(name)
    for name in flat:
        if name.casefold() != "train" or not classes:  # beside other classes "train" is one: a vehicle
            raise LongtailError(f"{root / name} holds no class folders: sort its pictures into them, or give --labels")
    if any(kind == "train" for kind, _ in parts):
        skipped += [f"{name} (beside the train folder)" for name in [*classes, *filter(is_picture_name, loose)]]
        places = []
    else:
        places = [("train", "", classes + flat, loose)]
    places += [(kind, f"{name}/", *_entries(root / name, f"{name}/", skipped)) for kind, name in sorted(parts)]
    rows = []
    for kind, base, folders, loose in places:
        skipped += [f"{base}{name} (in no class folder)" for name in loose if is_picture_name(name)]
        for name in folders:
            found = list(_pictures(root, f"{base}{name}/", skipped))
            rows += [(path, name, kind, None) for path in found]
            if not found:
                skipped.append(f"{base}{name}/ (no picture, so no class)")
    return rows


def _classes(names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Each name's number int64, and the class names in natural order as first spelled; equal in NFC is equal."""
    spelled: dict[str, str] = {}
    for name in names:
        spelled.setdefault(normalize("NFC", name), name)
    order = sorted(spelled, key=natural_key)
    number = {name: i for i, name in enumerate(order)}
    return np.array([number[normalize("NFC", name)] for name in names], np.int64), [spelled[name] for name in order]
