"""Tables on a terminal: nothing is wider than it, and columns stand under each other."""

import os

import pytest

from reporting import tables

NAMES = ["Jean-Baptiste-Siméon Chardin, called the Silent One of Saint-Sulpice", "Giotto", "葛飾北斎", "E\u0301mile"]


def places(text):
    """How many a terminal gives it, counted by hand for what NAMES hold."""
    return len(text) + sum(letter in "葛飾北斎" for letter in text) - text.count("\u0301")


@pytest.fixture
def terminal(monkeypatch):
    """A stdout that is a terminal of so many columns."""

    def of(columns):
        monkeypatch.setattr("sys.stdout.isatty", lambda: columns is not None, raising=False)
        monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=None: os.terminal_size((columns, 24)))

    return of


@pytest.mark.parametrize("columns", [80, 60, 140])
def test_columns_stand_under_each_other_and_in_the_terminal(terminal, columns):
    terminal(columns)
    rows = [[name, name[::-1], "0.123 to 0.456", "+0.1 ± 0.2", "3 of 12"] for name in NAMES]
    lines = list(tables.table(["true", "taken for", "95%", "too sure by", "pictures"], rows))
    # The last columns are of numbers, set to the right: every line ends at the same place.
    assert len({places(line) for line in lines}) == 1
    assert places(lines[0]) <= max(columns, 67)  # columns keep 12 places
    for line in lines[1:]:
        assert line.endswith("0.123 to 0.456   +0.1 ± 0.2   3 of 12")
    assert "…" in lines[1] and "葛飾北斎" in lines[3]


def test_a_name_that_is_cut_keeps_its_end(terminal):
    terminal(30)
    lines = list(tables.table(["class", "n"], [[f"a very long name that they share, number {i}", "7"] for i in (1, 2)]))
    assert lines[1] != lines[2] and lines[1].split("…")[1].split() == ["mber", "1", "7"]


def test_nothing_is_cut_where_there_is_no_terminal(terminal, monkeypatch):
    terminal(None)
    monkeypatch.setenv("COLUMNS", "20")  # which a shell may have exported
    lines = list(tables.table(["true", "n"], [[name, "1"] for name in NAMES], markdown=False))
    assert all(name in line for name, line in zip(NAMES, lines[1:]))


def test_markdown_escapes_what_would_end_a_cell():
    lines = list(tables.table(["class", "n"], [["a|b", "1"]], markdown=True))
    assert lines == ["| class | n |", "| --- | --- |", "| a\\|b | 1 |"]


def test_where_none_is_asked_for_it_is_markdown_unless_on_a_terminal(terminal):
    terminal(None)
    assert list(tables.table(["class", "n"], [["a", "12"]])) == ["| class | n |", "| --- | --- |", "| a | 12 |"]
    terminal(80)
    assert list(tables.table(["class", "n"], [["a", "12"]])) == ["class   n", "a      12"]
