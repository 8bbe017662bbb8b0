"""What a folder or a CSV says: which pictures there are, their classes, parts, groups and ids.

Reads names and CSVs, never a picture. Guesses nothing silently: what it passes over is returned in `skipped`, what it
cannot settle is one DataError line with the row, column or folder and the mend.
"""
from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import numpy as np

VAL = ("val", "valid", "validation")
PARTS = ("train", *VAL, "test")
IMAGE_COLUMNS = ("file", "filename", "file_name", "image", "image_path", "path", "filepath", "img", "picture",
                 "image_id", "img_id", "id", "name")
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name", "artist", "y")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
            ".avif", ".mpo")
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir")


class DataError(ValueError):
    """The data cannot be used as it stands; the message names the place and the mend."""


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


def listing(root, labels=None, image_col: str = "auto", label_col: str = "auto", group_col: str | None = None) -> Listing:
    """The training pictures, parts train and val, never test.

    Without `labels`: DIR/<class>/**, DIR/{train,val,valid,validation}/<class>/**, or either inside a lone folder in DIR.
    Every visible file in a class folder is a candidate, whatever its name; a class folder without any is no class.
    With `labels`, a CSV: its files count from DIR, the CSV's folder or DIR/train, with or without extension.
    """
    root = _folder(root)
    skipped: list[str] = []
    if labels is not None:
        rows = _csv_rows(root, Path(labels), image_col, label_col, group_col, skipped)
    elif group_col:
        raise DataError("--group-col names a column of a CSV: give the CSV by --labels")
    else:
        root = _inner(root)
        rows = _folder_rows(root, skipped)
    if not rows:
        raise DataError(f"{root}: no picture found; expected {root}/<class>/*.jpg, {root}/train/<class>/*.jpg or a CSV "
                        "by --labels")
    paths, names, parts, groups = map(list, zip(*rows))
    numbers, classes = _classes(names)
    if len(classes) < 2:
        raise DataError(f"{root}: one class only, {classes[0]!r}: a classifier needs two or more")
    parts = np.array(parts)
    untaught = np.setdiff1d(numbers[parts == "val"], numbers[parts == "train"])
    if len(untaught):
        raise DataError(f"{root}: only validation pictures, none to train on, of "
                        f"{_some([repr(classes[c]) for c in untaught])}: is a folder misspelled?")
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
            raise DataError(f"{root}: neither test.csv nor test/ is there; name the test pictures by --test")
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
        rows, ids = _test_rows(root, test)
    if not rows:
        raise DataError(f"{test}: no test picture found")
    labels = np.full(len(rows), -1, np.int64)
    labels[[name is not None for _, name in rows]], classes = _classes([name for _, name in rows if name is not None])
    return Listing(home, [path for path, _ in rows], labels, classes, np.full(len(rows), "test"), None, skipped, ids)


def _folder(root) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"{root}: no such folder")
    return root


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _entries(folder: Path, base: str, skipped: list[str]) -> tuple[list[str], list[str]]:
    """Names of the sub-folders and of the rest, sorted; hidden things and litter go to `skipped`, `base` before them."""
    folders, rest = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: (normalize("NFC", entry.name), entry.name)):
        if entry.name.startswith(".") or entry.name.casefold() in LITTER:
            skipped.append(f"{base}{entry.name} (hidden)")
        else:
            (folders if entry.is_dir() else rest).append(entry.name)
    return folders, rest


def _pictured(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def _pictures(root: Path, base: str, skipped: list[str], above: tuple = ()):
    """Every candidate under root/base: each file, and each folder named like a picture, which the decoder will refuse."""
    status = os.stat(root / base)
    here = status.st_dev, status.st_ino
    if here in above:
        skipped.append(f"{base} (a link to a folder that it is in)")
        return
    folders, rest = _entries(root / base, base, skipped)
    yield from (base + name for name in [*rest, *filter(_pictured, folders)])
    for name in folders:
        if not _pictured(name):
            yield from _pictures(root, f"{base}{name}/", skipped, (*above, here))


def _inner(root: Path) -> Path:
    """Down through folders that hold nothing but one folder of folders, as unpacked archives often do."""
    while True:
        folders, rest = _entries(root, "", [])
        if len(folders) != 1 or folders[0].casefold() in PARTS or any(map(_pictured, rest)):
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
            raise DataError(f"{root / name} holds no class folders: sort its pictures into them, or give --labels")
    if any(kind == "train" for kind, _ in parts):
        skipped += [f"{name} (beside the train folder)" for name in [*classes, *filter(_pictured, loose)]]
        places = []
    else:
        places = [("train", "", classes + flat, loose)]
    places += [(kind, f"{name}/", *_entries(root / name, f"{name}/", skipped)) for kind, name in sorted(parts)]
    rows = []
    for kind, base, folders, loose in places:
        skipped += [f"{base}{name} (in no class folder)" for name in loose if _pictured(name)]
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


def _csv_rows(root: Path, file: Path, image_col: str, label_col: str, group_col: str | None, skipped: list[str]):
    header, lines = _read_csv(file)
    group = _column(file, header, group_col, (), "--group-col") if group_col else None
    image = _column(file, header, image_col, IMAGE_COLUMNS, "--image-col")
    label = _column(file, header, label_col, LABEL_COLUMNS, "--label-col", taken=(image,))
    others = [name for name in header if name and name not in (image, label, group)]
    if len(others) == 1 and (image is None) != (label is None):  # one is known and one column is left: it is the other
        image, label = image or others[0], label or others[0]
    for column, what, flag in ((image, "pictures", "--image-col"), (label, "labels", "--label-col")):
        if column is None:
            raise DataError(f"{file}: which column holds the {what}? Name one of {', '.join(header)} by {flag}")
    for number, row in lines:
        for column in filter(None, (image, label, group)):
            if not row[column]:
                raise DataError(f"{file} line {number}: no {column}")
    found = _locate_all(file, lines, image, root, (root, file.parent, root / "train"))
    missing = [f"line {number} {row[image]!r}" for path, (number, row) in zip(found, lines) if path is None]
    if missing:
        raise DataError(f"{file}: {len(missing)} of {len(lines)} files are not there: {_some(missing)}; names count from "
                        f"{root}, {root / 'train'} or the CSV's folder")
    rows, first = [], {}
    for path, (number, row) in zip(found, lines):
        before, known = first.setdefault(path, (number, row[label]))
        if before == number:
            rows.append((path, row[label], "train", row[group] if group else None))
        elif normalize("NFC", known) != normalize("NFC", row[label]):
            raise DataError(f"{file} line {number}: {path} is {row[label]!r} here and {known!r} on line {before}")
        else:
            skipped.append(f"{file.name} line {number} (repeats line {before})")
    return rows


def _test_rows(root: Path, file: Path) -> tuple[list[tuple[str, str | None]], list[str]]:
    header, lines = _read_csv(file)
    image = _column(file, header, "auto", IMAGE_COLUMNS, "") or header[0]
    key = _column(file, header, "auto", ("id",), "") or image
    label = _column(file, header, "auto", LABEL_COLUMNS, "", taken=(image, key))
    first: dict[str, int] = {}
    for line, row in lines:
        if not row[key] or first.setdefault(row[key], line) != line:
            raise DataError(f"{file} line {line}: {f'the id {row[key]!r} again' if row[key] else 'no id'}")
    found = _locate_all(file, lines, image, root, (root, file.parent, root / "test"))
    if lines and not any(found):
        raise DataError(f"{file}: none of its files is there, {lines[0][1][image]!r} for one; names count from {root}, "
                        f"{root / 'test'} or the CSV's folder")
    rows = [(path or row[image], row[label] or None if label else None) for path, (_, row) in zip(found, lines)]
    return rows, [row[key] for _, row in lines]


def _read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and (line number, row) pairs; comma, semicolon or tab, whichever the header has most of."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{file} line {reader.line_num}: {error}") from None
    if not any(header):
        raise DataError(f"{file} is empty: its first line must name the columns")
    twice = next((name for i, name in enumerate(header) if name and name in header[:i]), None)
    if twice:
        raise DataError(f"{file} has two columns {twice!r}")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{file} line {number}: {len(row)} fields, where the header names {len(header)}")
    return header, [(number, dict(zip(header, row))) for number, row in rows]


def _column(file: Path, header: list[str], wanted: str, usual: tuple[str, ...], flag: str, taken=()) -> str | None:
    """The column `wanted`, whatever its case; for "auto" the first of the usual names that is there, else None."""
    spelled = {normalize("NFC", name).casefold(): name for name in header if name not in taken}
    if wanted != "auto":
        usual = (normalize("NFC", wanted).casefold(),)
        if usual[0] not in spelled:
            raise DataError(f"{file} has no column {wanted!r} for {flag}; it has {', '.join(header)}")
    return next((spelled[name] for name in usual if name in spelled), None)


def _locate_all(file: Path, lines: list, column: str, root: Path, bases: tuple[Path, ...]) -> list[str | None]:
    """Each row's file as a path relative to root, in the first base that has it; None where none has."""
    known: dict[Path, tuple[dict, dict]] = {}
    found = []
    for number, row in lines:
        path = next(filter(None, (_locate(base, row[column], known, f"{file} line {number}") for base in bases)), None)
        found.append(path and (path.relative_to(root).as_posix() if root in path.parents else os.path.relpath(path, root)))
    return found


def _locate(base: Path, value: str, known: dict, where: str) -> Path | None:
    """base/value, each component as spelled or equal in NFC, the last one also by its stem."""
    here = Path("/") if value.startswith("/") else base
    names = [name for name in value.split("/") if name not in ("", ".")]
    for left, name in zip(range(len(names) - 1, -1, -1), names):
        if os.path.lexists(here / name) and (left or _pictured(name) or not (here / name).is_dir()):
            here = here / name
            continue
        if here not in known:
            listed = os.listdir(here) if here.is_dir() else []
            stems: dict[str, list[str]] = {}
            for each in filter(_pictured, listed):
                stems.setdefault(normalize("NFC", Path(each).stem), []).append(each)
            known[here] = {normalize("NFC", each): each for each in listed}, stems
        whole, stems = known[here]
        matches = [] if left else stems.get(normalize("NFC", name), [])
        if len(matches) > 1:
            raise DataError(f"{where}: {value!r} may be {' or '.join(sorted(matches))}: write the extension")
        if not matches and (left or _pictured(name)) and normalize("NFC", name) in whole:
            matches = [whole[normalize("NFC", name)]]
        if not matches:
            return None
        here = here / matches[0]
    return here if names else None
