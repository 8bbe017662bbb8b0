"""How CSVs go wrong, one fault each, and what is right then. bench/malformed_csv.py writes them and looks on."""

import codecs
import gzip
import re
from typing import NamedTuple
from unicodedata import normalize

SAME, REFUSED, AS_SPLIT = "same", "refused", "as split"  # what is right: the rows written, a refusal, a plain split
NO_LABELS, KEPT = "no labels", "kept"  # of test.csv alone: a row without its label, or without its file, stays
CLASSES = ("Cat", "von Stuck", "Zoë", "owl, barn")


class Sheet(NamedTuple):
    """A CSV before it is bytes. rows: cells, the header first."""

    rows: list[list[str]]
    encoding: str
    delimiter: str
    end: str
    quote: bool  # every cell; else only those that need it

    def text(self) -> str:
        return self.end.join(self.delimiter.join(map(self.cell, row)) for row in self.rows) + self.end

    def cell(self, text: str) -> str:
        needed = self.quote or re.search(f'["\r\n{self.delimiter}]', text)
        return '"' + text.replace('"', '""') + '"' if needed else text

    def raw(self) -> bytes:
        mark = codecs.BOM_UTF16_BE if self.encoding == "utf-16-be" else b""
        return mark + self.text().encode(self.encoding)


# Faults of one cell: (what is right, column, the cell from the one that was there and a source of chance).
CELLS = {
    "no ending": (SAME, 0, lambda text, rng: text.rpartition(".")[0]),
    "./ before the name": (SAME, 0, lambda text, rng: f"./{text}"),
    "decomposed accents": (SAME, 0, lambda text, rng: normalize("NFD", text)),
    "spaces around": (SAME, 0, lambda text, rng: f"  {text} "),
    "backslash": (REFUSED, 0, lambda text, rng: text.replace("/", "\\")),
    "capitals": (REFUSED, 0, lambda text, rng: text.upper()),
    "another ending": (REFUSED, 0, lambda text, rng: text.replace(".png", rng.choice([".jpg", ".PNG", ".txt"]))),
    "another machine's path": (REFUSED, 0, lambda text, rng: rng.choice(["C:\\set\\", "/home/me/", "gs://b/"]) + text),
    "no such file": (REFUSED, 0, lambda text, rng: f"none{text}"),
    "a folder": (REFUSED, 0, lambda text, rng: rng.choice([".", "..", "/", "train/", "train"])),
    "a very long name": (REFUSED, 0, lambda text, rng: rng.choice(["x", "x/"]) * 5000),
    "an empty name": (REFUSED, 0, lambda text, rng: " "),
    "a line break in a name": (
        REFUSED,
        0,
        lambda text, rng: text[:3] + rng.choice("\n\r\u2028\x85\x0b\x1c") + text[3:],
    ),
    "an empty label": (REFUSED, 1, lambda text, rng: " "),
    "a line break in a label": (REFUSED, 1, lambda text, rng: text[:1] + rng.choice("\n\r\u2028\x85\x0b\x1c") + text),
    "a zero byte": (REFUSED, 1, lambda text, rng: f"{text}\0{text}"),
    "an escape code": (REFUSED, 1, lambda text, rng: f"\x1b[31m{text}"),
    "a quote in a label": (SAME, 1, lambda text, rng: f'{text} "the elder"'),
    "a label that is missing": (SAME, 1, lambda text, rng: rng.choice(["nan", "NaN", "None", "NULL"])),
    "a label in capitals": (SAME, 1, lambda text, rng: text.upper()),
    "a number for a label": (SAME, 1, lambda text, rng: rng.choice(["0", "0.0", "-1", "1e999"])),
    "a very long label": (SAME, 1, lambda text, rng: text * 200),
    "a formula": (SAME, 1, lambda text, rng: f"=1+{len(text)}"),
}
# Faults of the table: (what is right, its rows from the right ones).
TABLES = {
    "none": (SAME, lambda rows, rng: rows),
    "no header": (SAME, lambda rows, rng: rows[1:]),
    "capitals in the header": (SAME, lambda rows, rng: [[name.upper() for name in rows[0]], *rows[1:]]),
    "empty lines": (SAME, lambda rows, rng: [row for each in rows for row in ([""], each, [])]),
    "a column of numbers": (SAME, lambda rows, rng: [[str(i) if i else "", *row] for i, row in enumerate(rows)]),
    "a delimiter after each line": (SAME, lambda rows, rng: [[*row, ""] for row in rows]),
    "a row twice": (SAME, lambda rows, rng: [*rows, rng.choice(rows[1:])]),
    "a delimiter after the rows": (REFUSED, lambda rows, rng: [rows[0], *([*row, ""] for row in rows[1:])]),
    "one column twice": (REFUSED, lambda rows, rng: [[rows[0][0]] * 2, *rows[1:]]),
    "a header that says nothing": (REFUSED, lambda rows, rng: [["left", "right"], *rows[1:]]),
    "the header alone": (REFUSED, lambda rows, rng: rows[:1]),
    "a field less": (REFUSED, lambda rows, rng: [*rows[:-1], rows[-1][:1]]),
    "a field more": (REFUSED, lambda rows, rng: [*rows, [*rows[-1], "x"]]),
    "a line before the header": (REFUSED, lambda rows, rng: [["# made by hand"], *rows]),
    "two labels": (REFUSED, lambda rows, rng: [*rows, [rows[-1][0], f"not {rows[-1][1]}"]]),
    "one class": (REFUSED, lambda rows, rng: [rows[0], *([row[0], "Cat"] for row in rows[1:])]),
    "a column a class": (
        REFUSED,
        lambda rows, rng: [
            ["file", *CLASSES],
            *([row[0], *(str(int(row[1] == c)) for c in CLASSES)] for row in rows[1:]),
        ],
    ),
}
# Faults of the bytes: (what is right, the bytes from the right ones and their sheet).
BYTES = {
    "sep= before the header": (SAME, lambda raw, sheet, rng: f"sep={sheet.delimiter}\r\n{sheet.text()}".encode()),
    "no last line end": (SAME, lambda raw, sheet, rng: raw.removesuffix(sheet.end.encode(sheet.encoding))),
    "mixed line ends": (SAME, lambda raw, sheet, rng: sheet.text().replace(sheet.end, "\r\n", 3).encode()),
    "latin-1": (REFUSED, lambda raw, sheet, rng: sheet.text().encode("latin-1")),
    "utf-16 without its mark": (REFUSED, lambda raw, sheet, rng: sheet.text().encode("utf-16-le")),
    "utf-32": (REFUSED, lambda raw, sheet, rng: sheet.text().encode("utf-32")),
    "another delimiter": (REFUSED, lambda raw, sheet, rng: sheet._replace(delimiter=rng.choice("| :")).text().encode()),
    "compressed": (REFUSED, lambda raw, sheet, rng: gzip.compress(raw)),
    "random bytes": (REFUSED, lambda raw, sheet, rng: rng.randbytes(500)),
    "nothing": (REFUSED, lambda raw, sheet, rng: rng.choice([b"", b"\n\n", codecs.BOM_UTF8, b" , \n,,\n"])),
    "a quote that never closes": (REFUSED, lambda raw, sheet, rng: raw.decode(sheet.encoding).encode() + b'"x'),
    "text after a quote": (REFUSED, lambda raw, sheet, rng: sheet.text().encode() + b'"Cat"x,"Cat"\n'),
    "a web page": (REFUSED, lambda raw, sheet, rng: b"<!DOCTYPE html>\n<html><body>404, not found</body></html>\n"),
    "JSON": (REFUSED, lambda raw, sheet, rng: b'[{"file": "1.png",\n "label": "Cat"}]\n'),
    "cut": (AS_SPLIT, lambda raw, sheet, rng: raw[: rng.randrange(len(raw))]),
    "a byte changed": (AS_SPLIT, lambda raw, sheet, rng: _change(raw, rng, lambda byte: bytes([rng.randrange(256)]))),
    "a bit flipped": (
        AS_SPLIT,
        lambda raw, sheet, rng: _change(raw, rng, lambda byte: bytes([byte[0] ^ 1 << rng.randrange(8)])),
    ),
    "a byte lost": (AS_SPLIT, lambda raw, sheet, rng: _change(raw, rng, lambda byte: b"")),
    "a byte twice": (AS_SPLIT, lambda raw, sheet, rng: _change(raw, rng, lambda byte: byte * 2)),
    "a span of zeros": (AS_SPLIT, lambda raw, sheet, rng: raw[: len(raw) // 2] + bytes(rng.randint(1, 9)) + raw[-40:]),
    "a line lost": (AS_SPLIT, lambda raw, sheet, rng: _without_a_line(raw, sheet, rng)),
}
# What is right for a test.csv, where that differs: labels do not matter there, and files may be missing.
FOR_TEST = {
    "no such file": KEPT,
    "another machine's path": KEPT,
    "a folder": KEPT,
    "a very long name": KEPT,
    "an empty label": NO_LABELS,
    "a row twice": REFUSED,
    "one class": SAME,
    "no header": NO_LABELS,
    "a header that says nothing": NO_LABELS,
    "a column a class": NO_LABELS,
}


def _change(raw, rng, change):
    at = rng.randrange(len(raw))
    return raw[:at] + change(raw[at : at + 1]) + raw[at + 1 :]


def _without_a_line(raw, sheet, rng):
    lines = raw.split(sheet.end.encode())
    del lines[rng.randrange(len(lines))]
    return sheet.end.encode().join(lines)
