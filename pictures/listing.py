"""Which pictures a folder or a CSV lists, with their classes, parts, groups and ids.

Reads names and never a picture. Passes nothing over in silence: `skipped` names it with the reason. What it cannot
settle is a LongtailError of one line, with the folder and the mend. labels.py reads the CSVs, layout.py knows folders.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import numpy as np

from errors import LongtailError
from pictures.labels import Row, id_rows, label_rows
from pictures.layout import (
    PART_WORDS,
    Entries,
    entries,
    existing_folder,
    own_csvs,
    own_test,
    part_folder,
    part_of,
    unpacked,
)
from pictures.named_files import unnamed
from pictures.names import UNWRITABLE, doubts, ids_of, is_picture_name, natural_key, numbered, shown, some


@dataclass(frozen=True)
class Listing:
    """N pictures. Their paths are relative to `root` and spelled as on the disk."""

    root: Path
    paths: list[str]
    labels: np.ndarray  # int64 [N], index into classes, -1 where unknown
    classes: list[str]  # natural order
    parts: np.ndarray  # str [N]: train, val or test
    groups: list[str] | None = None
    skipped: list[str] = field(default_factory=list)  # what was passed over and why, for the caller to say
    ids: list[str] = field(default_factory=list)  # of a test listing
    notes: list[str] = field(default_factory=list)  # what may be wrong with it, or was found by itself, to be said

    @functools.cached_property  # asked for row by row, a new list each time would take the square of its length
    def files(self) -> list[Path]:
        return [self.root / path for path in self.paths]


def listing(
    root: str | Path,
    labels: str | Path | None = None,
    image_col: str = "auto",
    label_col: str = "auto",
    group_col: str | None = None,
) -> Listing:
    """The pictures of parts train and val in the folder `root`; those of part test are never among them.

    Without `labels`, classes are folders: root/<class>/**, or root/<part>/<class>/**, where the folder of a part is
    called train, val, valid, validation, or a kin of these (Training, seg_train, train_images). Either may lie in a
    lone folder of root. Every visible file in a class folder is listed, whatever its name. A class folder without any
    file is no class. Where root holds train.csv, that is read instead, and val.csv with it.
    With `labels`, a CSV: its file names count from root, the CSV's folder or root/train, with or without extension.
    image_col, label_col, group_col: its columns, see `label_rows`.
    Raises LongtailError where there is no picture, only one class, or a class of validation pictures alone; and where
    a name is not UTF-8 or holds a line break.
    """
    root = existing_folder(root)
    skipped, notes = [], []
    if labels is not None:
        csvs = {"train": Path(labels)}
    else:
        root = unpacked(root)
        csvs = own_csvs(root)
        if csvs:
            names = " and ".join(file.name for file in csvs.values())
            notes.append(f"pictures and labels are those of {names} in {root}")
    for flag, column in (("--group-col", group_col), ("--image-col", image_col), ("--label-col", label_col)):
        if column not in (None, "auto") and not csvs:
            raise LongtailError(f"{flag} names a column of a CSV: give the CSV by --labels")
    rows = [] if csvs else _folder_rows(root, skipped)
    for part, file in csvs.items():
        try:
            listed = label_rows(root, file, image_col, label_col, group_col, skipped, part)
            if not listed:  # without validation pictures some of the others would be held out
                raise LongtailError(f"{file} lists no picture below its first line")
            rows += listed
        except LongtailError as error:
            why = "" if labels is not None else f"; rename {file.name} if it is no list of labels"
            raise LongtailError(f"{error}{why}") from None
    if csvs:
        skipped += unnamed(root, [row.path for row in rows], [file.name for file in csvs.values()])
    twice = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if twice:  # a CSV's own repeats are settled, and a folder has none
        raise LongtailError(f"{root}: the CSVs of train and val both list {some(twice)}: take them out of one")
    if not rows:
        raise LongtailError(
            f"{root}: no picture found; expected {root}/<class>/*.jpg, {root}/train/<class>/*.jpg or a CSV by --labels"
        )
    _refuse_unwritable(root, [*dict.fromkeys(row.label for row in rows), *(row.path for row in rows)])
    numbers, classes = numbered([row.label for row in rows])
    if len(classes) < 2:
        raise LongtailError(f"{root}: one class only, {classes[0]!r}: a classifier needs two or more")
    parts = np.array([row.part for row in rows])
    # A network cannot learn a class that it is only tested on.
    untaught = np.setdiff1d(numbers[parts == "val"], numbers[parts == "train"])
    if len(untaught):
        names = some([repr(classes[number]) for number in untaught])
        raise LongtailError(f"{root}: only validation pictures, none to train on, of {names}: is a folder misspelled?")
    groups = [row.group for row in rows] if group_col else None
    skipped = [shown(name) for name in skipped]
    return Listing(
        root, [row.path for row in rows], numbers, classes, parts, groups, skipped, notes=notes + doubts(classes)
    )


def test_listing(
    root: str | Path,
    test: str | Path | None = None,
    group_col: str | None = None,
    taught: Iterable[str] = (),
    label_col: str = "auto",
) -> Listing:
    """The test pictures and their ids, from `test`: a folder, a picture, or a CSV; by default those of `own_test`.

    A picture's id is the one in the CSV. Elsewhere it is the file's stem; if two stems are equal, all ids are file
    names; if two names are equal, all are paths. A file that the CSV names and that is missing keeps its row. In a
    folder, files that are not named like pictures are passed over, unless none is named like one.
    A label is known in a class folder, or in a CSV with a column of labels, and is -1 elsewhere. It indexes this
    listing's own `classes`. A lone folder is a class only where it has the name of one in `taught`: test/images is
    none. Nor are several where none of them has: test/part1, test/part2. group_col: a column of the CSV, for `groups`.
    label_col: the one of labels, where it is there, before those of the usual names.
    Raises LongtailError where there is no test picture, and for faults of the CSV, see `id_rows`.
    """
    root = Path(root)  # where `test` is given, the data itself need not be there
    skipped, notes = [], []
    if test is None:
        root = unpacked(existing_folder(root))
        test = own_test(root)
        if test is None:
            raise LongtailError(
                f"{root}: no test.csv or test/, or several that may be it: name the test pictures by --test"
            )
    test = Path(test)
    if test.is_dir():
        # Paths count from root, or from a folder that lies elsewhere.
        inside = root in test.parents
        base = f"{test.relative_to(root).as_posix()}/" if inside else ""
        root = root if inside else test
        rows = _test_rows(root, base, skipped, {normalize("NFC", name) for name in taught})
    elif is_picture_name(test.name) and test.exists():
        if not test.is_file():
            raise LongtailError(f"{test} is not a regular file")
        root = test.parent
        rows = [Row(test.name, None, "test")]
    else:
        rows = id_rows(root, test, group_col, label_col, notes)
    if not rows:
        raise LongtailError(f"{test}: no test picture found")
    ids = [row.id for row in rows] if rows[0].id else ids_of([row.path for row in rows])
    _refuse_unwritable(test, [name for row in rows for name in (row.path, row.label or "", row.id)])
    labels = np.full(len(rows), -1, np.int64)
    # A part of the pictures may lie in class folders, or have an empty label in the CSV.
    known = [row.label is not None for row in rows]
    labels[known], classes = numbered([row.label for row in rows if row.label is not None])
    parts = np.full(len(rows), "test")
    skipped = [shown(name) for name in skipped]
    groups = [row.group for row in rows] if group_col else None
    if groups and None in groups:
        raise LongtailError(f"--by {group_col}: {test} is no CSV, so it has no columns")
    return Listing(root, [row.path for row in rows], labels, classes, parts, groups, skipped, ids, notes)


def _pictures(root: Path, base, skipped, above=None):
    """Paths from root of all files below root/base. above: the folders that it is in, as `_same` tells them.

    A folder that is named like a picture is listed and not entered: the decoder will say what it is.
    """
    here = _same(root / base)
    if above is None:  # a class folder: the parts and root are above it
        above = [_same(root / folder) for folder in Path(base).parents]
    if here in above:  # following the link would never end
        skipped.append(f"{base} (a link to a folder that it is in)")
        return
    folders, others = entries(root / base, base, skipped)
    for name in others:
        yield base + name
    for name in filter(is_picture_name, folders):
        yield base + name
    for name in folders:
        if not is_picture_name(name):
            yield from _pictures(root, f"{base}{name}/", skipped, (*above, here))


def _same(folder):
    """Device and inode: unlike names, the same for a folder and a link to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _folder_rows(root: Path, skipped) -> list[Row]:
    """The pictures of parts train and val, where classes are folders."""
    folders, others = entries(root, "", skipped)
    parts = []  # a part and the name of its folder
    flat = []  # part folders that hold no folders
    classes = []  # all other folders
    for name in folders:
        part = part_of(name)
        if part is None:
            classes.append(name)
        elif part == "test":  # nothing of a test folder is even looked at
            if name.casefold() != "test":
                skipped.append(f"{name}/ (the test pictures)")
        elif entries(root / part_folder(root, name)).folders:
            parts.append((part, part_folder(root, name)))
        else:
            flat.append(name)
    for name in flat:
        # Beside other classes, "train" is a class itself: a vehicle.
        if name.casefold() not in PART_WORDS["train"] or not classes:
            raise LongtailError(f"{root / name} holds no class folders: sort its pictures into them, or give --labels")
    places = []  # of class folders: part, path of the folder they are in, entries
    if any(part == "train" for part, _ in parts):
        # Class folders beside a train folder are likely leftovers; said, not used.
        beside = [*classes, *filter(is_picture_name, others)]
        skipped += [f"{name} (beside the train folder)" for name in beside]
    else:
        places.append(("train", "", Entries(classes + flat, others)))
    for part, name in sorted(parts):
        base = f"{name}/"
        places.append((part, base, entries(root / name, base, skipped)))
    rows = []
    for part, base, (folders, others) in places:
        skipped += [f"{base}{name} (in no class folder)" for name in others if is_picture_name(name)]
        inner = {}  # class folder -> the folders in it
        for name in folders:
            found = [Row(path, name, part) for path in _pictures(root, f"{base}{name}/", skipped)]
            rows += found
            if not found:
                skipped.append(f"{base}{name}/ (no picture, so no class)")
            depth = f"{base}{name}/".count("/")
            inner[name] = {row.path.split("/")[depth] for row in found if row.path.count("/") > depth}
        _refuse_repeated(root / base, inner)
    return rows


def _refuse_repeated(place, inner):
    """Raises LongtailError where two class folders hold the same folders: those are the classes, or parts.

    One folder in common may be a habit, as is <class>/images, and says nothing.
    """
    holders = {}  # an inner folder -> the class folders that hold it
    for name, folders in inner.items():
        if len(folders) < 2:
            continue
        shared = Counter(holder for folder in folders for holder in holders.get(folder, ()))
        other, count = next(iter(shared.most_common(1)), (None, 0))
        if count > 1:
            both = some(sorted(map(shown, folders & inner[other]), key=natural_key))
            raise LongtailError(
                f"{place}: {shown(other)}/ and {shown(name)}/ both hold the folders {both}. If these are the classes, "
                "name the outer folders train, val or test; if not, move their pictures up, or give a CSV by --labels"
            )
        for folder in folders:
            holders.setdefault(folder, []).append(name)


def _refuse_unwritable(place, names):
    """Raises LongtailError where a table, or the list of classes, could not hold one of `names`."""
    bad = [shown(name) for name in names if UNWRITABLE.search(name)]
    if bad:
        raise LongtailError(f"{place}: names that are not UTF-8 or hold a line break: {some(bad)}: rename them")


def _test_rows(root: Path, base, skipped, taught) -> list[Row]:
    """The test pictures in root/base: those without a class, then those in class folders. Folders are classes where one
    of them has a name in `taught`; where that is empty, if they are several."""
    folders, others = entries(root / base, base, skipped)
    rows = [Row(base + name, None, "test") for name in others]
    known = any(normalize("NFC", name) in taught for name in folders)
    for name in folders:
        label = name if known or (len(folders) > 1 and not taught) else None  # test/images, test/part1
        rows += [Row(path, label, "test") for path in _pictures(root, f"{base}{name}/", skipped)]
    pictures = [row for row in rows if is_picture_name(row.path)]  # an answer for any other file would be a guess
    if pictures:
        skipped += [f"{row.path} (not named like a picture)" for row in rows if not is_picture_name(row.path)]
    return pictures or rows
