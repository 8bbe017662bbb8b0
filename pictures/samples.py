"""A sample submission: which test pictures it asks for, in which order, spelling and columns.

Reads names and never a picture. What cannot be filled is a LongtailError of one line, with the file, the line or the
column, and the mend. labels.py reads the CSV.
"""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from errors import LongtailError
from pictures.csv_table import read_csv
from pictures.labels import IMAGE_COLUMNS
from pictures.layout import own_test, unpacked
from pictures.listing import Listing, test_listing
from pictures.names import brief, is_picture_name, some, unpadded


@dataclass(frozen=True)
class Sample:
    """What to answer: a line for each of its ids."""

    header: list[str]  # the ids' column, then those of the answers
    ids: list[str]  # as the sample spells them, in its order
    rows: list[int]  # of the test listing, one for each id
    columns: list[int] | None  # the class of each column of answers; None where it asks for a label


def own_sample(root: str | Path) -> Path | None:
    """The sample submission that lies in the data `root`; None where there is none, or more than one.

    It is sample_submission.csv in any case, with or without the line: Kaggle has sampleSubmission.csv too.
    """
    folders = {Path(root), unpacked(Path(root))}
    found = [
        folder / name for folder in folders for name in os.listdir(folder) if _plain(name) == "samplesubmission.csv"
    ]
    if len(found) > 1:
        raise LongtailError(f"{root} has two sample submissions, {found[0]} and {found[1]}: remove one")
    return found[0] if found else None


def check_own_sample(root: str | Path, classes: list[str]) -> None:
    """Raises LongtailError where the data in `root` has a sample submission that a network of `classes` cannot fill."""
    file = own_sample(root)
    if file is None or own_test(root) is None:  # its pictures may come later
        return
    try:
        read_sample(file, test_listing(root), classes)
    except LongtailError as error:
        raise LongtailError(f"{error}; or move {file} away, and training goes on without it") from None


def read_sample(file: str | Path, tests: Listing, classes: list[str]) -> Sample:
    """The sample submission `file`, for these test pictures and the classes of the network.

    Its first column holds the ids. An id names a picture by the picture's own id, path, name, stem or number. One more
    column asks for a label; a column for each class, in any order, asks for probabilities.
    Raises LongtailError where an id names no picture, or several, where a picture stands twice, and for columns that
    are not the classes.
    """
    table = read_csv(Path(file))
    key, *names = table.header
    columns = _columns(file, names, classes)
    find = _Finder(tests)
    if key.casefold() not in IMAGE_COLUMNS and find.rows(key):
        raise LongtailError(f"{file}: its first line names a picture, {brief(key)}: begin it with the columns' names")
    if not table.lines:
        raise LongtailError(f"{file} lists no id below its first line: take the competition's file once more")

    ids, rows, unknown = [], [], []
    line_of = {}  # the line that asked for a picture
    for number, cells in table.lines:
        name = cells[key]
        if not name:
            raise LongtailError(f"{file} line {number}: no id")
        found = find.rows(name)
        if not found:
            unknown.append(f"line {number} {brief(name)}")
            continue
        if len(found) > 1:
            paths = " or ".join(tests.paths[row] for row in found[:5])
            raise LongtailError(f"{file} line {number}: {brief(name)} may be {paths}: write its path")
        first = line_of.setdefault(found[0], number)
        if first != number:
            path = tests.paths[found[0]]
            raise LongtailError(
                f"{file} line {number}: {brief(name)} is {path}, as is line {first}: remove one of them"
            )
        ids.append(name)
        rows.append(found[0])
    if unknown:
        raise LongtailError(
            f"{file}: {len(unknown)} of {len(table.lines)} ids are not among the {len(tests.ids)} test pictures: "
            f"{some(unknown)}; there is {tests.paths[0]!r}: give the pictures that the sample is of"
        )
    return Sample([key, *(names or ["label"])], ids, rows, columns)


def _plain(name):
    return name.casefold().replace("_", "").replace("-", "")


def _columns(file, names, classes):
    """The class of each column; None for a column of labels, or where only ids are listed."""
    number = {normalize("NFC", name.strip()): i for i, name in enumerate(classes)}
    columns = [number.get(normalize("NFC", name)) for name in names]
    if columns in ([], [None]):
        return None
    strange = [brief(name) for name, column in zip(names, columns) if column is None]
    absent = [repr(name) for i, name in enumerate(classes) if i not in columns]
    faults = []
    if strange:
        faults.append(f"no class is called {some(strange)}")
    if absent:
        faults.append(f"no column is called {some(absent)}")
    if faults:
        raise LongtailError(f"{file}: {' and '.join(faults)}: give ids and one column of labels, or a column a class")
    return columns


# Forms of a name, the strictest first. Two names are of one picture where a form of both is the same.
def _exact(name):
    return normalize("NFC", name).removeprefix("./")


def _stem(name):
    name = _exact(name)
    return name.rpartition(".")[0] if is_picture_name(name) else name


def _loose(name):
    folder, line, stem = _stem(name.replace("\\", "/").casefold()).rpartition("/")
    return folder + line + unpadded(stem)


class _Finder:
    """Finds test pictures by name."""

    def __init__(self, tests: Listing):
        # A picture's own id goes before its file: with ids of its own, a set's id 7 need not be the file 7.jpg.
        ids, paths = tests.ids, tests.paths
        self.paths = paths
        self.steps = [(_exact, ids), (_exact, paths), (_stem, ids), (_loose, ids), (_stem, paths), (_loose, paths)]
        self.indexes = {}  # by step: most are never needed

    def rows(self, asked: str) -> list[int]:
        """The rows that `asked` may name: those of the first step that has any."""
        for step, (form, names) in enumerate(self.steps):
            if step not in self.indexes:
                self.indexes[step] = _index(form, names, self.paths)
            folder, name = _split(form(asked))
            rows = [row for row, own in self.indexes[step].get(name, ()) if _same_end(folder, own)]
            if rows:
                return rows
        return []


def _index(form, names, paths):
    """The rows and folders of each name, in one form. An id without a folder is in that of its file."""
    index = defaultdict(list)
    for row, spelled in enumerate(names):
        folder, name = _split(form(spelled))
        index[name].append((row, folder or _split(form(paths[row]))[0]))
    return index


def _split(path):
    folder, _, name = path.rpartition("/")
    return folder, name


def _same_end(one, other):
    """Whether two paths of folders can be one, where either may begin further up."""
    shorter, longer = sorted((one, other), key=len)
    return not shorter or f"/{longer}".endswith(f"/{shorter}")
