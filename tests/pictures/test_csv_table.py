"""CSVs as spreadsheets and people save them."""

import codecs

import pytest

from errors import LongtailError
from pictures.csv_table import read_csv

ROWS = [["file", "label"], ["1.jpg", "Zoë"], ["2.jpg", "a, b"]]
TEXT = 'file,label\n1.jpg,Zoë\n2.jpg,"a, b"\n'


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),  # with its mark
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        b'""\n\nfile;label\n1.jpg;Zo\xc3\xab\n2.jpg;"a, b"\n',
        ("\n \r\n" + TEXT + "\n\n").encode(),
        TEXT.removesuffix("\n").encode(),
        b"file;label\n1.jpg;Zo\xc3\xab\n2.jpg;a, b\n",
        b"\xef\xbb\xbfsep=;\r\nfile;label\r\n1.jpg;Zo\xc3\xab\r\n2.jpg;a, b\r\n",
        b'"file"\t"label"\n"1.jpg"\tZo\xc3\xab\n2.jpg\ta, b \n',
    ],
)
def test_encodings_delimiters_and_line_ends(raw, tmp_path):
    (tmp_path / "t.csv").write_bytes(raw)
    table = read_csv(tmp_path / "t.csv")
    assert [table.header, *(list(line.cells.values()) for line in table.lines)] == ROWS


@pytest.mark.parametrize(
    "raw, said",
    [
        (b"", "is empty"),
        (codecs.BOM_UTF8 + b"\n\n", "is empty"),
        (b"file,label\n1.jpg,Zo\xeb\n", "line 2 is not UTF-8: save it as a CSV in UTF-8"),
        (TEXT.replace("ë", "e").encode("utf-16-le"), "line 1 is not UTF-8"),  # without its mark
        (TEXT.encode("utf-32"), "line 1 is not UTF-8"),
        (b"file,label\n1.jpg,a\0b\n", "line 2 is not UTF-8: it holds a zero byte"),
        (b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0\xfe", "is not UTF-8"),  # a workbook
        (b'file,label,note\n1.jpg,a,"never closed\n2.jpg,b,x\n3.jpg,b,x\n', "line 2: unexpected end of data.*quote"),
        (b'file,label\n1.jpg,"a"b\n', "line 2: .*quote"),
        (b'file,label\n1.jpg,"a\nb"\n2.jpg\n', "line 4: 1 fields, where the first line has 2"),
        (b"file,label\n1.jpg," + b"x" * 200_000 + b"\n", "line 2: field larger than field limit"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(raw, said, tmp_path):
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(LongtailError, match=said) as caught:
        read_csv(tmp_path / "t.csv")
    assert "t.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_csv_whose_own_name_no_settings_file_could_hold(tmp_path):
    with pytest.raises(LongtailError, match=r"l\\xfc.csv: this name is not UTF-8"):
        read_csv(tmp_path / "l\udcfc.csv")
