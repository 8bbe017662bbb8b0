"""CSVs of labels and of ids, good and faulty, against folders built for the purpose."""

from unicodedata import normalize

import pytest

import data
from errors import LongtailError
from pictures import store
from pictures.labels import id_rows, label_rows
from samples import names, pictures_in, table, tree


@pytest.mark.parametrize(
    "rows, options",
    [
        (["filename,label", "x/1.jpg,a", "2,b"], {}),
        (["\ufeffFile;Label", "x/1.jpg;a", "2.png;b"], {}),
        (["id\tartist", "x/1\ta", "2\tb"], {}),
        (["who,extra,label", "x/1.jpg,e,a", "2,e,b"], dict(image_col="who")),
        (["file,Kunstler", "x/1.jpg,a", "2,b"], {}),
        (["file,other,Künstler", "x/1.jpg,e,a", "2,e,b"], dict(label_col=normalize("NFD", "künstler"))),
        (["wo,label", "x/1.jpg,a", '"2",b', ""], {}),
        (["file,label", "./x/1.jpg,a", "2,b", "2.png,b"], {}),
        (["file,label", "x/001.jpg,a", "02,b", "02.png,b"], {}),
        (["x/1.jpg,a", "2.png,b"], {}),  # no header: an ending tells,
        (["x/1,a", "2,b"], {}),  # a file of that name too
        (["a;x/1.jpg", "b;2.png"], {}),
        (["x/1.jpg,who,a", "2.png,who,b"], dict(label_col="column 3")),
        (["x/1.jpg,a", "2.png,b"], dict(image_col="file", label_col="column 2")),
    ],
)
def test_a_csv_of_labels(rows, options, tmp_path):
    tree(tmp_path, "pictures/x/1.jpg", "pictures/2.png", "pictures/2.txt", "pictures/file.png")
    file = table(tmp_path / "labels.csv", *rows)
    found = data.listing(tmp_path / "pictures", file, **options)
    assert names(found) == [("x/1.jpg", "a", "train"), ("2.png", "b", "train")]
    beside = f"1 picture in {tmp_path / 'pictures'} (not in labels.csv)"
    assert found.skipped == ["labels.csv line 4 (repeats line 3)"] * (len(rows) == 4 and rows[3] != "") + [beside]


def test_files_count_from_the_folder_the_csv_or_train(tmp_path):
    nfd = normalize("NFD", "ü")
    tree(tmp_path, f"data/train/{nfd}/{nfd}.jpg", "data/one.jpg", "csv/two.jpg")
    absolute = tree(tmp_path, "far/three.jpg") / "far" / "three.jpg"
    file = table(tmp_path / "csv" / "l.csv", "file,label", "ü/ü,a", "one,b", "two.jpg,b", f"{absolute},a")
    found = data.listing(tmp_path / "data", file)
    assert found.paths == [f"train/{nfd}/{nfd}.jpg", "one.jpg", "../csv/two.jpg", "../far/three.jpg"]
    assert all(path.exists() for path in found.files)


def test_groups_come_with_the_csv(tmp_path):
    tree(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    file = table(tmp_path / "l.csv", "file,label,patient", "1,a,p", "2,b,q", "3,b,p")
    assert data.listing(tmp_path, file, group_col="patient").groups == ["p", "q", "p"]


@pytest.mark.parametrize(
    "rows, options, said",
    [
        (["file,label", "1,a", "9.jpg,b"], {}, r"1 of 2 files are not there: line 3 '9.jpg'"),
        (["file,label", "1,a", "2,"], {}, "line 3: no label"),
        (["file,label", "1,a", ",b"], {}, "line 3: no file"),
        (["file,label,patient", "1,a,p", "2,b,"], dict(group_col="patient"), "line 3: no patient"),
        (["file,label", "1,a", "2,b", "1.jpg,b"], {}, "line 4: 1.jpg is 'b' here and 'a' on line 2"),
        (["file,label", "1,a", "2,b,c"], {}, "line 3: 3 fields"),
        (["file,label", "1,a", "2"], {}, "line 3: 1 fields"),
        (["file,label,file", "1,a,1"], {}, "two columns 'file'"),
        (["file,x,y2", "1,a,b"], {}, "which column holds the labels.*file, x, y2 by --label-col"),
        (["who,x,label", "1,a,b"], {}, "which column holds the pictures.*--image-col"),
        (
            ["file,label", "1,a", "2,b"],
            dict(label_col="artist"),
            "no column 'artist' for --label-col; it has file, label",
        ),
        (["file,label", "1,a", "2,b"], dict(image_col="nr"), "no column 'nr' for --image-col"),
        (["file,label", "1,a", "2,b"], dict(group_col="nr"), "no column 'nr' for --group-col"),
        (
            ["file,label", "1,a", "twin,b"],
            {},
            "line 3: 'twin' may be twin.jpg or twin.png: write the extension",
        ),
        (["file,label", "1,a", "2,a"], {}, "one class only"),
        (["file,label"], {}, "l.csv lists no picture below its first line"),
        (["file,label", "1,a", '"2","b\nx"'], {}, r"line 3: 'b\\nx' holds a line break: write it as one line"),
        (["file,label", '1,"a\rx"', "2,b"], {}, r"line 2: 'a\\rx' holds a line break"),
        (["file,label", "1,a\u2028x", "2,b"], {}, r"line 2: 'a\\u2028x' holds a line break"),
        (["file,label", "1,a\x85x", "2,b"], {}, r"line 2: 'a\\x85x' holds a line break"),
        (["file,MEL,NV", "1,1.0,0.0", "2,0.0,1.0"], {}, "2 columns, 'MEL' for one, hold 0 or 1.*one column, label"),
        (["file|label", "1|a"], {}, "has one column only: its fields must end at a comma, a semicolon or a tab"),
        (["1.jpg a", "2.jpg b"], {}, "has one column only"),
        (["1.jpg,x,a", "2.jpg,y,b"], {}, "which column holds the labels.*file, column 2, column 3 by --label-col"),
        ([""], {}, "is empty"),
    ],
)
def test_faults_of_a_csv_are_named_by_line(rows, options, said, tmp_path):
    tree(tmp_path, "1.jpg", "2.jpg", "twin.jpg", "twin.png")
    with pytest.raises(LongtailError, match=said) as caught:
        data.listing(tmp_path, table(tmp_path / "l.csv", *rows), **options)
    assert "l.csv" in str(caught.value) or "no picture found" in said or "one class" in said
    assert "\n" not in str(caught.value)


def test_pictures_that_no_csv_names_are_said_by_their_number(tmp_path):
    tree(tmp_path, "1.jpg", "2.jpg", "3.jpg", "._1.jpg", "notes.txt", "other/7.jpg", "test/8.jpg")
    tree(tmp_path, "sub/4.jpg", "sub/5.png", "sub/6.jpg")
    found = data.listing(tmp_path, table(tmp_path / "l.csv", "file,label", "1,a", "2,b", "sub/4,a"))
    assert found.skipped == [
        f"1 picture in {tmp_path} (not in l.csv)",
        f"1 picture in {tmp_path / 'other'} (not in l.csv)",
        f"2 pictures in {tmp_path / 'sub'} (not in l.csv)",
    ]
    tree(tmp_path / "own", "pictures/1.jpg", "pictures/2.jpg", "pictures/3.jpg")
    table(tmp_path / "own/train.csv", "file,label", "pictures/1.jpg,a", "pictures/2.jpg,b")
    table(tmp_path / "own/val.csv", "file,label", "pictures/3.jpg,b")
    assert data.listing(tmp_path / "own").skipped == []
    table(tmp_path / "own/val.csv", "file,label")
    with pytest.raises(LongtailError, match="val.csv lists no picture below its first line; rename val.csv if"):
        data.listing(tmp_path / "own")


def test_a_way_around_its_own_folder_is_the_same_file(tmp_path):
    tree(tmp_path, "set/1.jpg", "set/2.jpg")
    found = data.listing(tmp_path / "set", table(tmp_path / "set/l.csv", "file,label", "1,a", "../set/2.jpg,b", "2,b"))
    assert found.paths == ["1.jpg", "2.jpg"] and found.skipped == ["l.csv line 4 (repeats line 3)"]
    with pytest.raises(LongtailError, match="line 3: 1.jpg is 'b' here and 'a' on line 2"):
        data.listing(tmp_path / "set", table(tmp_path / "set/l.csv", "file,label", "1,a", "../set/1.jpg,b"))


def test_a_test_picture_has_one_label(tmp_path):
    tree(tmp_path, "1.jpg", "2.jpg")
    both = table(tmp_path / "t.csv", "id,file,label", "x,1.jpg,a", "y,./1.jpg,a", "z,2,b")
    assert data.test_listing(tmp_path, both).ids == ["x", "y", "z"]
    with pytest.raises(LongtailError, match="t.csv line 3: 1.jpg is 'b' here and 'a' further up"):
        data.test_listing(tmp_path, table(tmp_path / "t.csv", "id,file,label", "x,1.jpg,a", "y,./1.jpg,b", "z,2,b"))


def test_a_csv_that_is_no_text(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"file,label\n\xff\xfe,a\n")
    with pytest.raises(LongtailError, match="is not UTF-8"):
        data.listing(tmp_path, tmp_path / "l.csv")
    with pytest.raises(LongtailError, match="No such file"):
        data.listing(tmp_path, tmp_path / "m.csv")


@pytest.mark.parametrize(
    "rows, ids",
    [
        (["id,file", "007,test/b.jpg", "08,a.png"], ["007", "08"]),
        (["id", "b", "a"], ["b", "a"]),
        (["file", "b.jpg", "test/a.png"], ["b.jpg", "test/a.png"]),
        (["ID,extra,filename", "x,1,b", "y,2,a"], ["x", "y"]),
    ],
)
def test_a_csv_of_ids(rows, ids, tmp_path):
    tree(tmp_path, "test/a.png", "test/b.jpg", "test/unlisted.jpg")
    table(tmp_path / "test.csv", *rows)
    found = data.test_listing(tmp_path)
    assert found.paths == ["test/b.jpg", "test/a.png"] and found.ids == ids and found.labels.tolist() == [-1, -1]


def test_a_csv_of_ids_without_a_header_loses_no_picture(tmp_path):
    tree(tmp_path, "test/a.png", "test/b.jpg", "test/id.jpg")
    for rows, ids in (
        (["b.jpg", "a.png"], ["b.jpg", "a.png"]),
        (["b", "a"], ["b", "a"]),
        (["id", "b", "a"], ["b", "a"]),
    ):
        found = data.test_listing(tmp_path, table(tmp_path / "other.csv", *rows))
        assert found.paths == ["test/b.jpg", "test/a.png"] and found.ids == ids


def test_a_test_csv_keeps_the_rows_of_missing_files_and_knows_labels(tmp_path):
    tree(tmp_path, "test/a.png")
    found = data.test_listing(tmp_path, table(tmp_path / "other.csv", "id,file,label", "1,a,x", "2,gone.jpg,w"))
    assert found.paths == ["test/a.png", "gone.jpg"] and found.classes == ["w", "x"] and found.labels.tolist() == [1, 0]
    assert store.load_store(found.files, 8).bad[1] == "no such file"
    for rows, said in (
        (["id,file", "1,a", "1,a"], "line 3: the id '1' again"),
        (["id,file", "1,a", ",a"], "line 3: no id"),
        (["id"], "no test picture"),
        (["id,file", "1,a", "2,A.JPG"], r"1 files are spelled otherwise: line 3 'A.JPG' \(is test/a.png meant\?\)"),
        (["id", "1", "2\x85x"], r"line 3: '2\\x85x' holds a line break"),
        (["id", "x", "y"], "none of its files is there: line 2 'x'"),
    ):
        with pytest.raises(LongtailError, match=said):
            data.test_listing(tmp_path, table(tmp_path / "other.csv", *rows))
    with pytest.raises(LongtailError, match="--test"):
        data.test_listing(tree(tmp_path / "no test here", "a/1.jpg"))


def test_a_column_is_taken_as_it_is_spelled(tmp_path):
    root = pictures_in(tmp_path, {"a": 2})
    names = [file.relative_to(root).as_posix() for file in sorted((root / "a").iterdir())]
    file = tmp_path / "l.csv"
    file.write_text("file,label,Label\n" + "".join(f"{name},small,LARGE\n" for name in names))
    for column in ("label", "Label"):
        rows = label_rows(root, file, "auto", column, None, [])
        assert {row.label for row in rows} == {dict(label="small", Label="LARGE")[column]}


def test_a_test_csvs_labels_are_those_of_the_column_that_was_trained_on(tmp_path):
    root = pictures_in(tmp_path, {"test": 1})
    name = next((root / "test").iterdir()).relative_to(root).as_posix()
    file = tmp_path / "t.csv"
    file.write_text(f"file,label,coarse\n{name},fine one,coarse one\n")
    notes = []
    assert [row.label for row in id_rows(root, file, label_col="coarse", notes=notes)] == ["coarse one"] and not notes
    assert [row.label for row in id_rows(root, file, label_col="style", notes=notes)] == ["fine one"]
    assert notes == [f"{file} has no column 'style', which was trained on: its labels are those of 'label'"]


def test_a_column_of_files_or_ids_is_none_of_labels(tmp_path):
    """Though a flag or a run says so: its names would become classes."""
    root = pictures_in(tmp_path, {"test": 1})
    name = next((root / "test").iterdir()).relative_to(root).as_posix()
    file = tmp_path / "t.csv"
    file.write_text(f"file,label\n{name},one\n")
    with pytest.raises(LongtailError, match="has no column 'file' for --label-col"):
        label_rows(root, file, "file", "file", None, [])
    assert [row.label for row in id_rows(root, file, label_col="file")] == ["one"]


def test_a_picture_in_two_groups_is_a_contradiction(tmp_path):
    root = pictures_in(tmp_path, {"a": 2})
    name = next((root / "a").iterdir()).relative_to(root).as_posix()
    file = tmp_path / "l.csv"
    file.write_text(f"file,label,artist\n{name},x,one\n{name},x,two\n")
    with pytest.raises(LongtailError, match="line 3: .* is of artist 'two' here and of 'one' on line 2"):
        label_rows(root, file, "auto", "auto", "artist", [])
