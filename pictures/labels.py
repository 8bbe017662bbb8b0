"""What a CSV says: which file each row means, with its label, its group or its id.

Finds the columns by their usual names or as told; csv_table.py reads the CSV, named_files.py finds the files. What it
cannot settle is a LongtailError of one line, which names the line or column and the mend.
"""

from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from errors import LongtailError
from pictures.csv_table import Table, read_csv
from pictures.named_files import NamedFiles
from pictures.names import UNWRITABLE, brief, is_picture_name

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
    "image_name",
    "img_id",
    "id_code",
    "id",
    "name",
)
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "class_name",
    "label_name",
    "class_id",
    "classid",
    "artist",
    "y",
)


class Row(NamedTuple):
    """A picture to learn from, or a test picture."""

    path: str  # relative to the listing's root
    label: str | None  # the class's name; None where unknown
    part: str  # train, val or test
    group: str | None = None
    id: str = ""  # of a test picture


def label_rows(
    root: Path,
    file: Path,
    image_col: str,
    label_col: str,
    group_col: str | None,
    skipped: list[str],
    part: str = "train",
) -> list[Row]:
    """The rows of a CSV of labels, all of `part`. Every file must be there.

    image_col, label_col: a column's name, or "auto". group_col: a column's name, or None for no groups.
    A row that repeats an earlier one is left out and named in `skipped`. One that contradicts an earlier one, by giving
    the same file another label or group, raises LongtailError, as do missing files, empty cells and columns not found.
    """
    files = NamedFiles(root, file, part)
    table = _read(files, image_col, label_col, group_col)
    group = table.column(group_col, (), "--group-col") if group_col else None
    image = table.column(image_col, IMAGE_COLUMNS, "--image-col")
    # A column that was named for the pictures, say "class", does not hold the labels too.
    label = table.column(label_col, LABEL_COLUMNS, "--label-col", taken=(image,))
    others = [name for name in table.header if name and name not in (image, label, group)]
    if len(others) == 1 and (image is None) != (label is None):
        # One of the two is known and one column is left: it is the other.
        image = image or others[0]
        label = label or others[0]
    if len(table.header) == 1:
        raise LongtailError(f"{file} has one column only: its fields must end at a comma, a semicolon or a tab")
    if label is None:
        _refuse_one_hot(table, others)
    for column, what, flag in ((image, "pictures", "--image-col"), (label, "labels", "--label-col")):
        if column is None:
            names = table.columns()
            raise LongtailError(f"{file}: which column holds the {what}? Name one of {names} by {flag}")
    for number, cells in table.lines:
        for column in filter(None, (image, label, group)):
            if not cells[column]:
                raise LongtailError(f"{file} line {number}: no {column}")
        _refuse_unwritable(file, number, cells[label])

    paths = files.locate(table, image)
    missing = [line for line, path in zip(table.lines, paths) if path is None]
    if missing:
        raise LongtailError(
            f"{file}: {len(missing)} of {len(paths)} files are not there: {files.said(missing, image)}; names count "
            f"from {files.places()}"
        )
    rows = []
    first_line = {}
    for line, path in zip(table.lines, paths):
        number, cells = line
        first = first_line.setdefault(path, line)
        here, before = cells[label], first.cells[label]
        if first is line:
            rows.append(Row(path, here, part, cells[group] if group else None))
        elif normalize("NFC", before) != normalize("NFC", here):
            raise LongtailError(
                f"{file} line {number}: {path} is {brief(here)} here and {brief(before)} on line {first.number}"
            )
        elif group and cells[group] != first.cells[group]:
            raise LongtailError(
                f"{file} line {number}: {path} is of {group} {brief(cells[group])} here and of "
                f"{brief(first.cells[group])} on line {first.number}"
            )
        else:
            skipped.append(f"{file.name} line {number} (repeats line {first.number})")
    return rows


def id_rows(
    root: Path, file: Path, group_col: str | None = None, label_col: str = "auto", notes: list[str] | None = None
) -> list[Row]:
    """The rows of a CSV of test pictures, of part test. A missing file keeps its row, with the name that the CSV gives.

    The picture's column is found by its usual names, else it is the first. The id's is "id", else the picture's. Labels
    are known where a column is called `label_col` or has a usual name for them; that the second stood in for the first
    is added to `notes`. group_col: a column's name, or None for no groups.
    Raises LongtailError where an id is missing or stands twice, where none of the files is there, and where a missing
    one is there in another spelling.
    """
    files = NamedFiles(root, file, "test")
    table = _read(files)
    group = table.column(group_col, (), "--by") if group_col else None
    image = table.column("auto", IMAGE_COLUMNS) or table.header[0]
    key = table.column("auto", ("id",)) or image
    label = table.column("auto", LABEL_COLUMNS, taken=(image, key))
    if label_col in table.header and label_col not in (image, key):
        label = label_col
    elif label and label_col != "auto" and notes is not None:
        notes.append(f"{file} has no column {label_col!r}, which was trained on: its labels are those of {label!r}")
    ids = set()
    for number, cells in table.lines:
        name = cells[key]
        if not name:
            raise LongtailError(f"{file} line {number}: no id")
        if name in ids:
            raise LongtailError(f"{file} line {number}: the id {brief(name)} again")
        _refuse_unwritable(file, number, name)
        if label:
            _refuse_unwritable(file, number, cells[label])
        ids.add(name)

    paths = files.locate(table, image)
    missing = [line for line, path in zip(table.lines, paths) if path is None]
    # Some may be missing, but if all are, the names count from somewhere else.
    if missing and not any(paths):
        raise LongtailError(
            f"{file}: none of its files is there: {files.said(missing, image)}; names count from {files.places()}"
        )
    respelled = [line for line in missing if files.respelled(line.cells[image])]
    if respelled:
        raise LongtailError(f"{file}: {len(respelled)} files are spelled otherwise: {files.said(respelled, image)}")
    rows = []
    label_of = {}  # a file, and what the first line with a label calls it
    for (number, cells), path in zip(table.lines, paths):
        known = cells[label] if label else ""
        first = label_of.setdefault(path, known) if known and path else known
        if normalize("NFC", first) != normalize("NFC", known):
            raise LongtailError(f"{file} line {number}: {path} is {brief(known)} here and {brief(first)} further up")
        in_group = cells[group] if group else None
        rows.append(Row(path or cells[image], known or None, "test", in_group, cells[key]))
    return rows


def _read(files, *wanted) -> Table:
    """The CSV, whose first line may name a picture instead of the columns. wanted: columns that flags name."""
    known = {*IMAGE_COLUMNS, *LABEL_COLUMNS, *(name.casefold() for name in wanted if name)}

    def names_picture(cell):
        return is_picture_name(cell) or bool(files.find(cell))

    def is_data(cells):
        """Endings tell; without any, names of files do, but "id" is a column even beside a file id.jpg."""
        return any(map(is_picture_name, cells)) or (
            not known.intersection(map(str.casefold, cells)) and any(map(names_picture, cells))
        )

    def columns(cells):
        pictured = next(i for i, cell in enumerate(cells) if names_picture(cell))
        return ["file" if i == pictured else f"column {i + 1}" for i in range(len(cells))]

    return read_csv(files.csv, is_data, columns)


def _refuse_one_hot(table, others):
    """Raises LongtailError where several columns hold nothing but 0 and 1."""
    hot = [name for name in others if {line.cells[name] for line in table.lines} in ({"0", "1"}, {"0.0", "1.0"})]
    if len(hot) > 1:
        raise LongtailError(
            f"{table.file}: {len(hot)} columns, {brief(hot[0])} for one, hold 0 or 1, as if one for each class: write "
            "the class's name into one column, label"
        )


def _refuse_unwritable(file, number, text):
    """Raises LongtailError where a list of classes or ids, a line each, could not hold `text`."""
    if UNWRITABLE.search(text):
        raise LongtailError(f"{file} line {number}: {brief(text)} holds a line break: write it as one line")
