"""Tables for people: aligned columns on a terminal, or Markdown. Computes nothing."""

import shutil
from collections.abc import Iterator, Sequence

ELLIPSIS = "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> Iterator[str]:
    """The lines of a table of text cells. Columns of numbers are set to the right.

    On a terminal the first column gives way where a line would be wider than the terminal; elsewhere nothing is cut.
    """
    if markdown:
        yield f"| {' | '.join(map(_escaped, header))} |"
        yield "| --- " * len(header) + "|"
        for row in rows:
            yield f"| {' | '.join(map(_escaped, row))} |"
        return
    columns = list(zip(header, *rows))
    widths = [max(map(len, column)) for column in columns]
    columns_of_terminal = shutil.get_terminal_size((0, 0)).columns  # 0 where there is none: nothing is cut
    too_wide = sum(widths) + 2 * len(widths) - 2 - columns_of_terminal
    if columns_of_terminal and too_wide > 0:
        widths[0] = max(12, widths[0] - too_wide)
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    for row in (header, *rows):
        cells = []
        for cell, width, to_the_right in zip(row, widths, right):
            if len(cell) > width:
                cell = cell[: width - 1] + ELLIPSIS
            cells.append(cell.rjust(width) if to_the_right else cell.ljust(width))
        yield "  ".join(cells).rstrip()


def number(value: float, digits: int = 3) -> str:
    """A number as a cell; '-' where it is not known."""
    return "-" if value != value else f"{value:.{digits}f}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """'0.123 to 0.456', '-' where it is not known."""
    return "-" if low != low else f"{low:.{digits}f} to {high:.{digits}f}"


def _is_number(cell):
    return not cell.strip("+-.,%0123456789 ") or cell.replace(" to ", "").strip("+-.0123456789") == ""


def _escaped(cell):
    return cell.replace("|", "\\|")
