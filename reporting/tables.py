"""Tables for people: aligned columns on a terminal, or Markdown. Computes nothing."""

import math
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from unicodedata import combining, east_asian_width

ELLIPSIS = "…"
GAP = "  "
LEAST = 12  # places that a column keeps


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool | None = None) -> Iterator[str]:
    """The lines of a table of text cells. Columns of numbers are set to the right.

    markdown: None where it is to be Markdown unless stdout is a terminal. On a terminal columns of words give way, the
    widest first, where a line would be wider than the terminal; elsewhere nothing is cut.
    """
    terminal = sys.stdout.isatty()
    if markdown or (markdown is None and not terminal):
        yield f"| {' | '.join(map(_escaped, header))} |"
        yield "| --- " * len(header) + "|"
        for row in rows:
            yield f"| {' | '.join(map(_escaped, row))} |"
        return
    columns = list(zip(header, *rows))
    widths = [max(map(_width, column)) for column in columns]
    right = [all(map(_is_number, column[1:])) for column in columns]
    words = [place for place in range(len(columns)) if not right[place]]
    room = shutil.get_terminal_size().columns if terminal else math.inf
    while sum(widths) + len(GAP) * (len(widths) - 1) > room and words:
        widest = max(words, key=lambda place: widths[place])
        if widths[widest] <= LEAST:
            break
        widths[widest] -= 1
    for row in (header, *rows):
        cells = []
        for cell, width, to_the_right in zip(row, widths, right):
            cell = _cut(cell, width)
            blank = " " * (width - _width(cell))
            cells.append(blank + cell if to_the_right else cell + blank)
        yield GAP.join(cells).rstrip()


def number(value: float, digits: int = 3) -> str:
    """A number as a cell; '-' where it is not known."""
    return "-" if value != value else f"{value:.{digits}f}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """'0.123 to 0.456', '-' where it is not known."""
    return "-" if low != low else f"{low:.{digits}f} to {high:.{digits}f}"


def _is_number(cell):
    """Whether a cell is of numbers: '-0.5', '0.123 to 0.456', '3 of 12', '+0.1 ± 0.2', '-' or ''."""
    return not re.sub(r" (to|of|±) |[-+.,%\d]", "", cell)


def _width(text):
    """How many places a terminal gives to `text`: an accent of its own has none, a Chinese character two."""
    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)


def _cut(text, width):
    """`text`, or as much of its beginning and end as fits: names in a table often begin alike."""
    if _width(text) <= width:
        return text
    end = text[-(width // 4) :]
    while _width(end) > width // 4:
        end = end[1:]
    while _width(text) + 1 + _width(end) > width:
        text = text[:-1]
    return text + ELLIPSIS + end


def _escaped(cell):
    return cell.replace("|", "\\|")
