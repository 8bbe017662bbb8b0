"""A CSV of labels or of test ids -> the files its rows mean.

Finds the columns by their usual names or as told, and the files from several folders, with or without extension, in
any Unicode form. What it cannot settle is one LongtailError line that names the line or the column, and the mend.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from unicodedata import normalize

from errors import LongtailError

IMAGE_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "image",
    "image_path",
    "path",
    "filepath",
    "img",
    "picture",
    "image_id",
    "img_id",
    "id",
    "name",
)
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name", "artist", "y")
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".avif",
    ".mpo",
)


def is_picture_name(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def label_rows(root: Path, file: Path, image_col: str, label_col: str, group_col: str | None, skipped: list[str]):
    """(path, label, "train", group or None) of each row of a CSV of labels; every file must be there.

    A row that says again what an earlier one said goes to `skipped`; one that says otherwise is an error.
    """
    header, lines = _read_csv(file)
    group = _column(file, header, group_col, (), "--group-col") if group_col else None
    image = _column(file, header, image_col, IMAGE_COLUMNS, "--image-col")
    label = _column(file, header, label_col, LABEL_COLUMNS, "--label-col", taken=(image,))
    others = [name for name in header if name and name not in (image, label, group)]
    if len(others) == 1 and (image is None) != (label is None):  # one is known and one column is left: it is the other
        image, label = image or others[0], label or others[0]
    for column, what, flag in ((image, "pictures", "--image-col"), (label, "labels", "--label-col")):
        if column is None:
            raise LongtailError(f"{file}: which column holds the {what}? Name one of {', '.join(header)} by {flag}")
    for number, row in lines:
        for column in filter(None, (image, label, group)):
            if not row[column]:
                raise LongtailError(f"{file} line {number}: no {column}")
    found = _locate_all(file, lines, image, root, (root, file.parent, root / "train"))
    missing = [f"line {number} {row[image]!r}" for path, (number, row) in zip(found, lines) if path is None]
    if missing:
        raise LongtailError(
            f"{file}: {len(missing)} of {len(lines)} files are not there: {some(missing)}; names count "
            f"from {root}, {root / 'train'} or the CSV's folder"
        )
    rows, first = [], {}
    for path, (number, row) in zip(found, lines):
        before, known = first.setdefault(path, (number, row[label]))
        if before == number:
            rows.append((path, row[label], "train", row[group] if group else None))
        elif normalize("NFC", known) != normalize("NFC", row[label]):
            raise LongtailError(f"{file} line {number}: {path} is {row[label]!r} here and {known!r} on line {before}")
        else:
            skipped.append(f"{file.name} line {number} (repeats line {before})")
    return rows


def id_rows(root: Path, file: Path) -> tuple[list[tuple[str, str | None]], list[str]]:
    """((path, label or None) of each row, ids) of a CSV of test pictures; a missing file keeps its row and its name."""
    header, lines = _read_csv(file)
    image = _column(file, header, "auto", IMAGE_COLUMNS, "") or header[0]
    key = _column(file, header, "auto", ("id",), "") or image
    label = _column(file, header, "auto", LABEL_COLUMNS, "", taken=(image, key))
    first: dict[str, int] = {}
    for line, row in lines:
        if not row[key] or first.setdefault(row[key], line) != line:
            raise LongtailError(f"{file} line {line}: {f'the id {row[key]!r} again' if row[key] else 'no id'}")
    found = _locate_all(file, lines, image, root, (root, file.parent, root / "test"))
    if lines and not any(found):
        raise LongtailError(
            f"{file}: none of its files is there, {lines[0][1][image]!r} for one; names count from {root}, "
            f"{root / 'test'} or the CSV's folder"
        )
    rows = [(path or row[image], row[label] or None if label else None) for path, (_, row) in zip(found, lines)]
    return rows, [row[key] for _, row in lines]


def _read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and (line number, row) pairs; comma, semicolon or tab, whichever the header has most of."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise LongtailError(f"{file} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise LongtailError(f"{file}: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise LongtailError(f"{file} line {reader.line_num}: {error}") from None
    if not any(header):
        raise LongtailError(f"{file} is empty: its first line must name the columns")
    twice = next((name for i, name in enumerate(header) if name and name in header[:i]), None)
    if twice:
        raise LongtailError(f"{file} has two columns {twice!r}")
    for number, row in rows:
        if len(row) != len(header):
            raise LongtailError(f"{file} line {number}: {len(row)} fields, where the header names {len(header)}")
    return header, [(number, dict(zip(header, row))) for number, row in rows]


def _column(file: Path, header: list[str], wanted: str, usual: tuple[str, ...], flag: str, taken=()) -> str | None:
    """The column `wanted`, whatever its case; for "auto" the first of the usual names that is there, else None."""
    spelled = {normalize("NFC", name).casefold(): name for name in header if name not in taken}
    if wanted != "auto":
        usual = (normalize("NFC", wanted).casefold(),)
        if usual[0] not in spelled:
            raise LongtailError(f"{file} has no column {wanted!r} for {flag}; it has {', '.join(header)}")
    return next((spelled[name] for name in usual if name in spelled), None)


def _locate_all(file: Path, lines: list, column: str, root: Path, bases: tuple[Path, ...]) -> list[str | None]:
    """Each row's file as a path relative to root, in the first base that has it; None where none has."""
    known: dict[tuple[Path, str], tuple[str, dict, dict]] = {}
    found: list[str | None] = []
    for number, row in lines:
        folder, _, name = row[column].rpartition("/")
        found.append(None)
        for base in bases:
            if (base, folder) not in known:
                known[base, folder] = _names(root, base, folder)
            prefix, whole, stems = known[base, folder]
            same = whole.get(name) or whole.get(normalize("NFC", name))
            matches = [same] if same else stems.get(normalize("NFC", name), [])
            if len(matches) > 1:
                raise LongtailError(
                    f"{file} line {number}: {row[column]!r} may be {' or '.join(sorted(matches))}: write the extension"
                )
            if matches:
                found[-1] = prefix + matches[0]
                break
    return found


def _names(root: Path, base: Path, folder: str) -> tuple[str, dict[str, str], dict[str, list[str]]]:
    """What base/folder holds, its components matched in NFC: (its path from root, name or NFC name -> name,
    NFC stem -> names)."""
    whole: dict[str, str] = {}
    stems: dict[str, list[str]] = {}
    here = base
    for name in Path(folder).parts:
        if not (here / name).is_dir():
            listed = os.listdir(here) if here.is_dir() else []
            name = next((each for each in listed if normalize("NFC", each) == normalize("NFC", name)), name)
        here = here / name
    for entry in os.scandir(here) if here.is_dir() else ():
        pictured = is_picture_name(entry.name)
        if pictured or not entry.is_dir():
            whole.setdefault(normalize("NFC", entry.name), entry.name)
            whole[entry.name] = entry.name
        if pictured:
            stems.setdefault(normalize("NFC", Path(entry.name).stem), []).append(entry.name)
    return "" if here == root else f"{os.path.relpath(here, root)}/", whole, stems
