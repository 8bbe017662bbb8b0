"""A CSV as people save it: its encoding, delimiter, header and lines, or one line that says what is wrong with it.

Knows nothing of pictures. labels.py says what the columns mean.
"""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from errors import LongtailError
from pictures.names import brief, shown, some


class Line(NamedTuple):
    number: int  # as a text editor counts; of a line that a quoted field continues, the first
    cells: dict[str, str]  # column -> text


@dataclass(frozen=True)
class Table:
    file: Path
    header: list[str]
    lines: list[Line]

    def columns(self) -> str:
        """Their names, to be said in an error."""
        return some([shown(name[:80]) for name in self.header], 20)

    def column(self, wanted: str, usual: tuple[str, ...], flag: str = "", taken: tuple = ()) -> str | None:
        """The column `wanted`, in any case; for "auto" the first of the `usual` names that is there, else None.

        Columns in `taken` do not count. flag: what to name in the LongtailError where `wanted` is not there.
        """
        spelled = {_plain(name): name for name in self.header if name not in taken}
        if wanted in self.header and wanted not in ("auto", *taken):
            return wanted
        if wanted != "auto":
            usual = (_plain(wanted),)
            if usual[0] not in spelled:
                raise LongtailError(f"{self.file} has no column {wanted!r} for {flag}; it has {self.columns()}")
        return next((spelled[name] for name in usual if name in spelled), None)


def read_csv(file: Path, is_data=lambda cells: False, names=lambda cells: cells) -> Table:
    """The CSV `file`: UTF-8, or UTF-16 with its mark, fields ending at a comma, semicolon or tab.

    is_data: whether a first line, a list of cells, is no header but data; names: the columns' names then, from the
    same list. Spaces around cells do not count, nor do empty lines.
    Raises LongtailError for what cannot be read, with the line.
    """
    rows = _rows(file, _text(file))
    if not rows:
        raise LongtailError(f"{file} is empty: its first line must name the columns")
    _, header = rows[0]
    if is_data(header):
        header = names(header)
    else:
        del rows[0]
    for position, name in enumerate(header):
        if name and name in header[:position]:
            raise LongtailError(f"{file} has two columns {brief(name)}")
    for number, fields in rows:
        if len(fields) != len(header):
            raise LongtailError(f"{file} line {number}: {len(fields)} fields, where the first line has {len(header)}")
    return Table(file, header, [Line(number, dict(zip(header, fields))) for number, fields in rows])


def _plain(name):
    return normalize("NFC", name).casefold()


def _text(file):
    if shown(str(file)) != str(file):  # settings and tables keep its name
        raise LongtailError(f"{shown(str(file))}: this name is not UTF-8 or holds a line break: rename it")
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise LongtailError(f"{file}: {error.strerror}") from None
    # Excel begins its UTF-8 files with a byte order mark, and saves "Unicode text" as UTF-16.
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise LongtailError(f"{file} line {line} is not UTF-8: save it as a CSV in UTF-8") from None
    if "\0" in text:  # UTF-16 or UTF-32 without a mark, or no text at all
        line = text.partition("\0")[0].count("\n") + 1
        raise LongtailError(f"{file} line {line} is not UTF-8: it holds a zero byte; save it as a CSV in UTF-8")
    return text


def _rows(file, text) -> list[tuple[int, list[str]]]:
    """(line number, fields) of each line that is not empty."""
    # The csv module wants line ends as they are, for a quoted field may hold some.
    first = next((line for line in io.StringIO(text, newline="") if re.search(r'[^\s",;]', line)), "")
    told = re.fullmatch("sep=(.)", first.rstrip("\r\n"), re.IGNORECASE)  # Excel's own first line
    # Else the first line decides: cells may hold commas of their own.
    delimiter = told[1] if told else max(",;\t", key=first.count)
    # strict: a quote that is never closed would swallow all lines after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, number = [], 1
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                rows.append((number, fields))
            number = reader.line_num + 1
    except csv.Error as error:
        raise LongtailError(f"{file} line {number}: {error} (is a quote wrong there?)") from None
    return rows[1:] if told else rows
