"""What a CSV says: which file each row means, with its label, its group or its id.

Finds the columns by their usual names or as told. Finds the files in several folders, with or without extension, in any
Unicode form. What it cannot settle is a LongtailError of one line, which names the line or column and the mend.
"""

import csv
import functools
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from errors import LongtailError

# Usual column names, the surest first; compared in lower case.
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
# What a picture's name ends with. Only names are judged here; the decoder looks at the bytes.
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


class Row(NamedTuple):
    """A picture to learn from, or a test picture."""

    path: str  # relative to the listing's root
    label: str | None  # the class's name; None where unknown
    part: str  # train, val or test
    group: str | None = None
    id: str = ""  # of a test picture


class Line(NamedTuple):
    number: int  # as a text editor counts
    cells: dict[str, str]  # column -> text


def label_rows(
    root: Path, file: Path, image_col: str, label_col: str, group_col: str | None, skipped: list[str]
) -> list[Row]:
    """The rows of a CSV of labels, all of part train. Every file must be there.

    image_col, label_col: a column's name, or "auto". group_col: a column's name, or None for no groups.
    A row that repeats an earlier one is left out and named in `skipped`. One that contradicts an earlier one, by giving
    the same file another label, raises LongtailError, as do missing files, empty cells and columns not found.
    """
    table = _read_csv(file)
    group = table.column(group_col, (), "--group-col") if group_col else None
    image = table.column(image_col, IMAGE_COLUMNS, "--image-col")
    # A column that was named for the pictures, say "class", does not hold the labels too.
    label = table.column(label_col, LABEL_COLUMNS, "--label-col", taken=(image,))
    others = [name for name in table.header if name and name not in (image, label, group)]
    if len(others) == 1 and (image is None) != (label is None):
        # One of the two is known and one column is left: it is the other.
        image = image or others[0]
        label = label or others[0]
    for column, what, flag in ((image, "pictures", "--image-col"), (label, "labels", "--label-col")):
        if column is None:
            names = ", ".join(table.header)
            raise LongtailError(f"{file}: which column holds the {what}? Name one of {names} by {flag}")
    for number, cells in table.lines:
        for column in filter(None, (image, label, group)):
            if not cells[column]:
                raise LongtailError(f"{file} line {number}: no {column}")

    paths = _locate(table, image, root, root / "train")
    missing = [f"line {line.number} {line.cells[image]!r}" for line, path in zip(table.lines, paths) if path is None]
    if missing:
        raise LongtailError(
            f"{file}: {len(missing)} of {len(paths)} files are not there: {some(missing)}; names count "
            f"from {root}, {root / 'train'} or the CSV's folder"
        )
    rows = []
    first_line = {}
    for line, path in zip(table.lines, paths):
        number, cells = line
        first = first_line.setdefault(path, line)
        here, before = cells[label], first.cells[label]
        if first is line:
            rows.append(Row(path, here, "train", cells[group] if group else None))
        elif normalize("NFC", before) != normalize("NFC", here):
            raise LongtailError(f"{file} line {number}: {path} is {here!r} here and {before!r} on line {first.number}")
        else:
            skipped.append(f"{file.name} line {number} (repeats line {first.number})")
    return rows


def id_rows(root: Path, file: Path) -> list[Row]:
    """The rows of a CSV of test pictures, of part test. A missing file keeps its row, with the name that the CSV gives.

    The picture's column is found by its usual names, else it is the first. The id's is "id", else the picture's. Labels
    are known where a column has a usual name for them.
    Raises LongtailError where an id is missing or stands twice, or where none of the files is there.
    """
    table = _read_csv(file)
    image = table.column("auto", IMAGE_COLUMNS) or table.header[0]
    key = table.column("auto", ("id",)) or image
    label = table.column("auto", LABEL_COLUMNS, taken=(image, key))
    ids = set()
    for number, cells in table.lines:
        name = cells[key]
        if not name:
            raise LongtailError(f"{file} line {number}: no id")
        if name in ids:
            raise LongtailError(f"{file} line {number}: the id {name!r} again")
        ids.add(name)

    paths = _locate(table, image, root, root / "test")
    # Some may be missing, but if all are, the names count from somewhere else.
    if table.lines and not any(paths):
        example = table.lines[0].cells[image]
        raise LongtailError(
            f"{file}: none of its files is there, {example!r} for one; names count from {root}, "
            f"{root / 'test'} or the CSV's folder"
        )
    rows = []
    for (_, cells), path in zip(table.lines, paths):
        known = cells[label] if label else ""
        rows.append(Row(path or cells[image], known or None, "test", id=cells[key]))
    return rows


def is_picture_name(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return name.casefold().endswith(SUFFIXES)


def some(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class _Table:
    file: Path
    header: list[str]
    lines: list[Line]

    def column(self, wanted: str, usual, flag="", taken=()) -> str | None:
        """The column `wanted`, in any case; for "auto" the first of the `usual` names that is there, else None.

        Columns in `taken` do not count. flag: what to name in the error where `wanted` is not there.
        """
        spelled = {normalize("NFC", name).casefold(): name for name in self.header if name not in taken}
        if wanted != "auto":
            usual = (normalize("NFC", wanted).casefold(),)
            if usual[0] not in spelled:
                columns = ", ".join(self.header)
                raise LongtailError(f"{self.file} has no column {wanted!r} for {flag}; it has {columns}")
        return next((spelled[name] for name in usual if name in spelled), None)


def _read_csv(file: Path) -> _Table:
    """A CSV in UTF-8. Fields end at a comma, semicolon or tab, whichever the header has most of."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # Excel begins its files with a byte order mark
    except UnicodeDecodeError:
        raise LongtailError(f"{file} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise LongtailError(f"{file}: {error.strerror}") from None
    # The header decides: cells may hold commas of their own.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    # The csv module wants line ends as they are, for a quoted field may hold some.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                rows.append((reader.line_num, fields))
    except csv.Error as error:
        raise LongtailError(f"{file} line {reader.line_num}: {error}") from None

    if not any(header):
        raise LongtailError(f"{file} is empty: its first line must name the columns")
    for position, name in enumerate(header):
        if name and name in header[:position]:
            raise LongtailError(f"{file} has two columns {name!r}")
    for number, fields in rows:
        if len(fields) != len(header):
            raise LongtailError(f"{file} line {number}: {len(fields)} fields, where the header names {len(header)}")
    return _Table(file, header, [Line(number, dict(zip(header, fields))) for number, fields in rows])


def _locate(table, column, root: Path, inner: Path):
    """For each line the path, from root, of the file that its `column` names; None where no such file is there.

    A name counts from root, else from the CSV's folder, else from `inner`.
    """
    read_folder = functools.cache(_read_folder)  # once for each folder, not for each row
    paths = []
    for number, cells in table.lines:
        parent, _, name = cells[column].rpartition("/")
        path = None
        for base in (root, table.file.parent, inner):
            folder = read_folder(root, base, parent)
            matches = folder.matches(name)
            if len(matches) > 1:
                either = " or ".join(sorted(matches))
                raise LongtailError(
                    f"{table.file} line {number}: {cells[column]!r} may be {either}: write the extension"
                )
            if matches:  # the first folder that has one decides
                path = folder.prefix + matches[0]
                break
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _Folder:
    prefix: str  # what comes before a name to make it a path from root
    names: dict[str, str]  # a name, as spelled or in NFC -> as spelled
    stems: dict[str, list[str]]  # a picture's name in NFC without its extension -> the names that it may mean

    def matches(self, name: str) -> list[str]:
        """The files that `name` may mean: the one of that very name, else all pictures of that stem."""
        composed = normalize("NFC", name)
        same = self.names.get(name) or self.names.get(composed)
        return [same] if same else self.stems.get(composed, [])


def _read_folder(root, base, parent) -> _Folder:
    """What base/parent holds. Each part of `parent` is matched in NFC; a folder that is not there holds nothing."""
    here = base
    for part in Path(parent).parts:
        if not (here / part).is_dir():  # by this spelling; perhaps by another
            listed = os.listdir(here) if here.is_dir() else []
            part = next((name for name in listed if normalize("NFC", name) == normalize("NFC", part)), part)
        here = here / part
    names, stems = {}, {}
    for entry in os.scandir(here) if here.is_dir() else ():
        is_picture = is_picture_name(entry.name)
        if is_picture or not entry.is_dir():
            names.setdefault(normalize("NFC", entry.name), entry.name)
            names[entry.name] = entry.name  # the very spelling goes before another one of the same NFC
        if is_picture:
            stems.setdefault(normalize("NFC", Path(entry.name).stem), []).append(entry.name)
    prefix = "" if here == root else f"{os.path.relpath(here, root)}/"
    return _Folder(prefix, names, stems)
