"""Names against what they say and what tables can hold."""

import csv
import io
import os

import pytest

from pictures.names import UNWRITABLE, doubts, shown


@pytest.mark.parametrize(
    "classes, said",
    [
        (["Cat", "cat", "dog"], ["classes 'Cat', 'cat': are they one?"]),
        (["0", "0.0", "1"], ["classes '0', '0.0': are they one?"]),
        (["7", "007", "7.00", "70"], ["classes '7', '007', '7.00': are they one?"]),
        (
            ["van Gogh", "van_gogh", "Van  Gogh", "vanGogh"],
            ["classes 'van Gogh', 'van_gogh', 'Van  Gogh': are they one?"],
        ),
        (["ﬁsh", "fish"], ["classes 'ﬁsh', 'fish': are they one?"]),
        (["nan", "cat"], ["class 'nan': is it a value that is missing?"]),
        (["NULL", "cat"], ["class 'NULL': is it a value that is missing?"]),
        (["-1", "1", "1_2", "12", "1.2", "Nana"], []),
        (["1" * 5000, "1e999999999", "12345678901234567", "12345678901234568"], []),
    ],
)
def test_classes_that_look_alike_or_missing_are_said(classes, said):
    assert doubts(classes) == said


def test_what_tables_and_lists_cannot_hold_is_known_and_shown_in_one_line():
    """Every character: one that str.splitlines ends a line at, or that UTF-8 cannot write, is among the refused."""
    for number in range(0x110000):
        character = chr(number)
        text = f"a{character}b"
        breaks = len(text.splitlines()) > 1
        if breaks or 0xD800 <= number < 0xE000:
            assert UNWRITABLE.search(text), hex(number)
            assert len(shown(text).splitlines()) == 1 and shown(text).isascii()
        elif not UNWRITABLE.search(text):
            assert shown(text) == text
    for name in ("Zoë", "北斎", "a b", "a\u00a0b", "👩‍🎨", 'a"b', "a,b", "\u200fא"):  # these a table does hold
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\n").writerow([name, "x"])
        assert shown(name) == name and list(csv.reader(io.StringIO(file.getvalue(), newline=""))) == [[name, "x"]]
    assert shown(os.fsdecode(b"b\xfcrger")) == "b\\xfcrger" and shown("a\nb\u2028c") == "a\\nb\\u2028c"
