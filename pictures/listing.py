"""Which pictures a folder or a CSV lists, with their classes, parts, groups and ids.

Reads names and never a picture. Passes nothing over in silence: `skipped` names it with the reason. What it cannot
settle is a LongtailError of one line, with the folder and the mend. labels.py reads the CSVs.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from errors import LongtailError
from pictures.labels import Row, id_rows, is_picture_name, label_rows, some

VAL = ("val", "valid", "validation")
PARTS = ("train", *VAL, "test")
# What systems leave in folders without being asked.
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir")


@dataclass(frozen=True)
class Listing:
    """N pictures. Their paths are relative to `root` and spelled as on the disk."""

    root: Path
    paths: list[str]
    labels: np.ndarray  # int64 [N], index into classes, -1 where unknown
    classes: list[str]  # natural order
    parts: np.ndarray  # str [N]: train, val or test
    groups: list[str] | None = None
    skipped: list[str] = field(
        default_factory=list
    )  # what was passed over, each with its reason, for the caller to say
    ids: list[str] = field(default_factory=list)  # of a test listing

    @property
    def files(self) -> list[Path]:
        return [self.root / path for path in self.paths]


def natural_key(name: str) -> tuple[list, str]:
    """Sort key: digits by value, letters without case, then code points. It is the same under every locale."""
    name = normalize("NFC", name)
    pieces = re.split("([0-9]+)", name.casefold())  # every second piece is digits
    for position in range(1, len(pieces), 2):
        # Length, then text, orders numbers as their values do. int() would refuse very long ones.
        digits = pieces[position].lstrip("0")
        pieces[position] = (len(digits), digits)
    return pieces, name


def listing(
    root: str | Path,
    labels: str | Path | None = None,
    image_col: str = "auto",
    label_col: str = "auto",
    group_col: str | None = None,
) -> Listing:
    """The pictures of parts train and val in the folder `root`; those of part test are never among them.

    Without `labels`, classes are folders: root/<class>/**, or root/{train,val,valid,validation}/<class>/**. Either may
    lie in a lone folder of root. Every visible file in a class folder is listed, whatever its name. A class folder
    without any file is no class.
    With `labels`, a CSV: its file names count from root, the CSV's folder or root/train, with or without extension.
    image_col, label_col, group_col: its columns, see `label_rows`.
    Raises LongtailError where there is no picture, only one class, or a class of validation pictures alone.
    """
    root = _existing_folder(root)
    skipped = []
    if labels is not None:
        rows = label_rows(root, Path(labels), image_col, label_col, group_col, skipped)
    elif group_col:
        raise LongtailError("--group-col names a column of a CSV: give the CSV by --labels")
    else:
        root = _unpacked(root)
        rows = _folder_rows(root, skipped)
    if not rows:
        raise LongtailError(
            f"{root}: no picture found; expected {root}/<class>/*.jpg, {root}/train/<class>/*.jpg or a CSV by --labels"
        )
    numbers, classes = _classes([row.label for row in rows])
    if len(classes) < 2:
        raise LongtailError(f"{root}: one class only, {classes[0]!r}: a classifier needs two or more")
    parts = np.array([row.part for row in rows])
    # A network cannot learn a class that it is only tested on.
    untaught = np.setdiff1d(numbers[parts == "val"], numbers[parts == "train"])
    if len(untaught):
        names = some([repr(classes[number]) for number in untaught])
        raise LongtailError(f"{root}: only validation pictures, none to train on, of {names}: is a folder misspelled?")
    groups = [row.group for row in rows] if group_col else None
    return Listing(root, [row.path for row in rows], numbers, classes, parts, groups, skipped)


def test_listing(root: str | Path, test: str | Path | None = None) -> Listing:
    """The test pictures and their ids, from `test`, a folder or a CSV; by default from root/test.csv, else root/test/.

    A picture's id is the one in the CSV. In a folder it is the file's stem; if two stems are equal, all ids are file
    names; if two names are equal, all are paths. A file that the CSV names and that is missing keeps its row.
    A label is known in a class folder, or in a CSV with a column of labels, and is -1 elsewhere. It indexes this
    listing's own `classes`.
    Raises LongtailError where there is no test picture, and for faults of the CSV, see `id_rows`.
    """
    root = _existing_folder(root)
    skipped = []
    if test is None:
        root = _unpacked(root)
        test = next((root / name for name in ("test.csv", "test") if (root / name).exists()), None)
        if test is None:
            raise LongtailError(f"{root}: neither test.csv nor test/ is there; name the test pictures by --test")
    test = Path(test)
    if test.is_dir():
        # Paths count from root, or from a folder that lies elsewhere.
        inside = root in test.parents
        base = f"{test.relative_to(root).as_posix()}/" if inside else ""
        root = root if inside else test
        rows = _test_rows(root, base, skipped)
        ids = _ids([row.path for row in rows])
    else:
        rows = id_rows(root, test)
        ids = [row.id for row in rows]
    if not rows:
        raise LongtailError(f"{test}: no test picture found")
    labels = np.full(len(rows), -1, np.int64)
    # A part of the pictures may lie in class folders, or have an empty label in the CSV.
    known = [row.label is not None for row in rows]
    labels[known], classes = _classes([row.label for row in rows if row.label is not None])
    parts = np.full(len(rows), "test")
    return Listing(root, [row.path for row in rows], labels, classes, parts, None, skipped, ids)


def _existing_folder(root):
    root = Path(root)
    if not root.is_dir():
        raise LongtailError(f"{root} is not a folder" if root.exists() else f"{root}: no such folder")
    return root


class _Entries(NamedTuple):
    """What a folder holds, by name, sorted."""

    folders: list[str]
    others: list[str]


def _entries(folder: Path, base="", skipped=None) -> _Entries:
    """The visible entries of `folder`. Hidden ones are added to `skipped`, with `base` before their names."""
    found = _Entries([], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: (normalize("NFC", entry.name), entry.name))
    except OSError as error:
        raise LongtailError(f"{folder} cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.casefold() in LITTER:
            if skipped is not None:
                skipped.append(f"{base}{entry.name} (hidden)")
        elif entry.is_dir():
            found.folders.append(entry.name)
        else:
            found.others.append(entry.name)
    return found


def _unpacked(root: Path) -> Path:
    """Enter folders that hold nothing but one folder of folders, as unpacked archives often do."""
    while True:
        folders, others = _entries(root)
        if len(folders) != 1 or folders[0].casefold() in PARTS or any(map(is_picture_name, others)):
            return root
        inner = root / folders[0]  # a class if it holds no folders
        if not _entries(inner).folders:
            return root
        root = inner


def _pictures(root: Path, base, skipped, above=()):
    """Paths from root of all files below root/base. above: device and inode of the folders that it is in.

    A folder that is named like a picture is listed and not entered: the decoder will say what it is.
    """
    status = os.stat(root / base)  # follows links, unlike a comparison of names
    here = status.st_dev, status.st_ino
    if here in above:  # following the link would never end
        skipped.append(f"{base} (a link to a folder that it is in)")
        return
    folders, others = _entries(root / base, base, skipped)
    for name in others:
        yield base + name
    for name in filter(is_picture_name, folders):
        yield base + name
    for name in folders:
        if not is_picture_name(name):
            yield from _pictures(root, f"{base}{name}/", skipped, (*above, here))


def _folder_rows(root: Path, skipped) -> list[Row]:
    """The pictures of parts train and val, where classes are folders."""
    folders, others = _entries(root, "", skipped)
    parts = []  # a part and the name of its folder
    flat = []  # part folders that hold no folders
    classes = []  # all other folders
    for name in folders:
        part = "val" if name.casefold() in VAL else name.casefold()
        if part not in PARTS:
            classes.append(name)
        elif part != "test":  # nothing of a test folder is even looked at
            if _entries(root / name).folders:
                parts.append((part, name))
            else:
                flat.append(name)
    for name in flat:
        # Beside other classes, "train" is a class itself: a vehicle.
        if name.casefold() != "train" or not classes:
            raise LongtailError(f"{root / name} holds no class folders: sort its pictures into them, or give --labels")
    places = []  # of class folders: part, path of the folder they are in, entries
    if any(part == "train" for part, _ in parts):
        # Class folders beside a train folder are likely leftovers; said, not used.
        beside = [*classes, *filter(is_picture_name, others)]
        skipped += [f"{name} (beside the train folder)" for name in beside]
    else:
        places.append(("train", "", _Entries(classes + flat, others)))
    for part, name in sorted(parts):
        base = f"{name}/"
        places.append((part, base, _entries(root / name, base, skipped)))
    rows = []
    for part, base, (folders, others) in places:
        skipped += [f"{base}{name} (in no class folder)" for name in others if is_picture_name(name)]
        for name in folders:
            found = [Row(path, name, part) for path in _pictures(root, f"{base}{name}/", skipped)]
            rows += found
            if not found:
                skipped.append(f"{base}{name}/ (no picture, so no class)")
    return rows


def _test_rows(root: Path, base, skipped) -> list[Row]:
    """The test pictures in root/base: those without a class, then those in class folders."""
    folders, others = _entries(root / base, base, skipped)
    rows = [Row(base + name, None, "test") for name in others]
    for name in folders:
        rows += [Row(path, name, "test") for path in _pictures(root, f"{base}{name}/", skipped)]
    return rows


def _ids(paths: list[str]) -> list[str]:
    """Stems where no two are equal, else file names where no two are equal, else paths."""
    stems = [Path(path).stem for path in paths]
    names = [Path(path).name for path in paths]
    for ids in (stems, names):
        if len(set(ids)) == len(ids):
            return ids
    return paths


def _classes(names: list[str]) -> tuple[np.ndarray, list[str]]:
    """(each name's class number, int64; the class names). Names equal in NFC are one class, as it was spelled first."""
    composed = [normalize("NFC", name) for name in names]
    spelled = {}
    for key, name in zip(composed, names):
        spelled.setdefault(key, name)  # systems store the same accents in two ways
    order = sorted(spelled, key=natural_key)
    number = {key: i for i, key in enumerate(order)}
    return np.array([number[key] for key in composed], np.int64), [spelled[key] for key in order]
