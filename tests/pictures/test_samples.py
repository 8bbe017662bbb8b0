"""Sample submissions as competitions have them, and what is wrong with others. The files are named, never read."""

import numpy as np
import pytest

from errors import LongtailError
from pictures.listing import test_listing as listing_of
from pictures.samples import check_own_sample, own_sample, read_sample
from samples import table, tree

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture
def data(tmp_path):
    return tree(tmp_path / "data", "train/cat/1.jpg", *(f"test/{i:04d}.jpg" for i in (7, 8, 9, 90000)))


def read(data, *rows, test=None):
    return read_sample(table(data / "s.csv", *rows), listing_of(data, test), CLASSES)


@pytest.mark.parametrize(
    "ids",
    [
        ["0009", "90000", "0007"],
        ["0009.jpg", "90000.jpg", "0007.jpg"],
        ["0009.JPG", "90000.Jpg", "0007.png"],
        ["test/0009.jpg", "test/90000.jpg", "test/0007.jpg"],
        ["./test/0009.jpg", "data/test/90000.jpg", "/kaggle/input/data/test/0007.jpg"],
        ["test\\0009.jpg", "TEST/90000", "test/7"],
        ["9", "90000", "7"],
        ["9.jpg", "090000.jpg", "test/7.jpg"],
        ["9", "90000.jpg", "test/0007"],
    ],
)
def test_ids_are_matched_by_name_stem_path_or_number_and_spelled_as_in_the_sample(data, ids):
    sample = read(data, "Id_Code,Diagnosis", *(f"{name},0" for name in ids))
    assert (sample.header, sample.ids, sample.columns) == (["Id_Code", "Diagnosis"], ids, None)
    # The folder's order is that of names: 0007, 0008, 0009, 90000.
    assert sample.rows == [2, 3, 0]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfid,label\r\n0007.jpg,\r\n0008.jpg,\r\n\r\n",
        b"id;label\n0007.jpg;a, b\n0008.jpg;a, b\n",
        b'"id"\t"label"\n"0007.jpg"\t"x"\n"0008.jpg"\t"x"\n',
        b"id\n0007.jpg\n0008.jpg",
        b"id,label\n 0007.jpg ,0\n0008.jpg,0\n,\n",
        "id,label\n0007.jpg,0\n0008.jpg,0\n".encode("utf-16"),
    ],
)
def test_marks_delimiters_quotes_and_line_ends(data, text):
    (data / "s.csv").write_bytes(text)
    sample = read_sample(data / "s.csv", listing_of(data), CLASSES)
    assert (sample.header, sample.ids) == (["id", "label"], ["0007.jpg", "0008.jpg"])
    assert sample.rows == [0, 1]


def test_a_column_a_class_asks_for_probabilities_in_its_order(data):
    sample = read(data, "id,owl,cat,dog", "8,0.3,0.3,0.3")
    assert (sample.header, sample.columns, sample.rows) == (["id", "owl", "cat", "dog"], [2, 0, 1], [1])
    for header, said in (
        ("id,owl,cat,dog,fox", "no class is called 'fox':"),
        ("id,owl,Cat,dog", "no class is called 'Cat' and no column is called 'cat':"),
        ("id,owl,dog", "no column is called 'cat':"),
        ("id,dog", "no column is called 'cat', 'owl':"),
        ("id,label,usage", "no class is called 'label', 'usage' and no column is called 'cat', 'dog', 'owl':"),
        ("id,owl,cat,dog,dog", "two columns 'dog'"),
    ):
        with pytest.raises(LongtailError, match=said) as caught:
            read(data, header, "8" + ",0" * header.count(","))
        assert "s.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rows, said",
    [
        (["id,label", "7,x", "0007.jpg,x"], r"line 3: '0007.jpg' is test/0007.jpg, as is line 2"),
        (
            ["id,label", "7,x", "10,x", "11,x"],
            r"2 of 3 ids are not among the 4 test pictures: line 3 '10', line 4 '11'",
        ),
        (["id,label", "train/7.jpg,x"], "1 of 1 ids are not among .*'train/7.jpg'; there is 'test/0007.jpg'"),
        (["id,label", ",x"], "line 2: no id"),
        (["id,label", "7,x,y"], "line 2: 3 fields"),
        (["id,label"], "lists no id"),
        (["0007.jpg,x", "8,x"], "first line names a picture, '0007.jpg'"),
        (["7", "8"], "first line names a picture, '7'"),
        ([""], "is empty"),
    ],
)
def test_what_cannot_be_filled_is_refused_by_line(data, rows, said):
    with pytest.raises(LongtailError, match=said) as caught:
        read(data, *rows)
    assert "s.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_samples_that_are_no_text(data):
    for content in ("id,label\n7,café".encode("latin-1"), "id,label\n7,x".encode("utf-16-le")):
        (data / "s.csv").write_bytes(content)
        with pytest.raises(LongtailError, match=r"s\.csv line . is not UTF-8: .*save it as a CSV in UTF-8"):
            read_sample(data / "s.csv", listing_of(data), CLASSES)


def test_a_name_that_may_be_two_pictures_is_refused(tmp_path):
    """Exact names go before others; folders decide where names are the same."""
    data = tree(tmp_path, "test/7.jpg", "test/007.jpg", "test/x.jpg", "test/x.png", "test/a/1.jpg", "test/b/1.jpg")
    tests = listing_of(data)
    asked = ["7.jpg", "007.jpg", "x.png", "a/1.jpg", "b/1"]
    sample = read(data, "id,label", *(f"{name},0" for name in asked))
    files = ["test/7.jpg", "test/007.jpg", "test/x.png", "test/a/1.jpg", "test/b/1.jpg"]
    assert [tests.paths[row] for row in sample.rows] == files
    for name, said in (("07", "007.jpg or .*7.jpg"), ("x", "x.jpg or test/x.png"), ("1", "a/1.jpg or test/b/1.jpg")):
        with pytest.raises(LongtailError, match=f"line 2: '{name}' may be .*{said}"):
            read(data, "id,label", f"{name},0")


def test_ids_of_a_test_csv_go_before_names_of_files(data):
    table(data / "test.csv", "id,file", "001,test/0008.jpg", "0008,test/0007.jpg", "b,0009.jpg")
    assert read(data, "id,label", "1,x", "8,x", "B,x").rows == [0, 1, 2]
    assert read(data, "id,label", "0009.jpg,x", "test/0007.jpg,x").rows == [2, 1]


def test_ids_of_a_test_csv_may_be_numbers_of_files(data):
    table(data / "test.csv", "id", "9", "7")
    assert listing_of(data).paths == ["test/0009.jpg", "test/0007.jpg"]
    assert read(data, "id,label", "0007.jpg,x", "9,x").rows == [1, 0]


def test_ten_thousand_ids(tmp_path):
    names = [f"{i:05d}.png" for i in np.random.default_rng(0).permutation(10_000)]
    table(tmp_path / "test.csv", "id", *names, "a.png")
    tree(tmp_path, "test/a.png")
    tests = listing_of(tmp_path)
    sample = read(tmp_path, "id,label", *(f"{i},0" for i in range(10_000)))
    assert [tests.ids[row] for row in sample.rows] == sorted(names)


def test_the_datas_own_sample(data):
    assert own_sample(data) is None
    check_own_sample(data, CLASSES)
    file = table(data / "sampleSubmission.csv", "id,label", "7,x")
    assert own_sample(data) == file
    check_own_sample(data, CLASSES)
    table(file, "id,label", "5,x")
    with pytest.raises(LongtailError, match="line 2 '5'.* move .*sampleSubmission.csv away"):
        check_own_sample(data, CLASSES)
    table(data / "sample_submission.csv", "id,label", "7,x")
    with pytest.raises(LongtailError, match="two sample submissions"):
        check_own_sample(data, CLASSES)


def test_a_sample_whose_pictures_are_not_there_yet_does_not_hinder_training(tmp_path):
    data = tree(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg")
    table(data / "sample_submission.csv", "id,label", "7,x")
    check_own_sample(data, CLASSES)


def test_the_sample_beside_a_lone_folder_and_in_it(tmp_path):
    inner = tree(tmp_path / "set", "v1/train/cat/1.jpg", "v1/test/7.jpg") / "v1"
    file = table(tmp_path / "set" / "sample_submission.csv", "id,label", "007.jpg,x")
    assert own_sample(tmp_path / "set") == file
    check_own_sample(tmp_path / "set", CLASSES)
    assert own_sample(inner) is None
    file = file.rename(inner / file.name)
    assert own_sample(tmp_path / "set") == own_sample(inner) == file
