"""Listings against folders built for the purpose."""

import os
import subprocess
import sys
from unicodedata import normalize

import numpy as np
import pytest

import data
from conftest import ROOT
from errors import LongtailError
from pictures import store
from pictures.listing import Listing
from pictures.names import natural_key, shown
from samples import RNG, names, pictures_in, table, tree


def test_class_folders(tmp_path):
    tree(tmp_path, "b/2.jpg", "b/1.PNG", "a/x.jpg", "a/deep/er/y.webp", "test/a/z.jpg", "README.md")
    found = data.listing(tmp_path)
    assert names(found) == [
        ("a/x.jpg", "a", "train"),
        ("a/deep/er/y.webp", "a", "train"),
        ("b/1.PNG", "b", "train"),
        ("b/2.jpg", "b", "train"),
    ]
    assert found.labels.dtype == np.int64 and found.skipped == [] and found.groups is None and found.ids == []
    assert found.files == [tmp_path / path for path in found.paths]


@pytest.mark.parametrize(
    "train, val, test",
    [
        ("Training", "Validation", "Testing"),
        ("train_images", "val_images", "test_images"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("Training Set", "valid", "Test"),
    ],
)
def test_kin_of_train_and_test_are_parts(train, val, test, tmp_path):
    tree(tmp_path, f"{train}/a/1.jpg", f"{train}/b/2.jpg", f"{val}/b/3.jpg", f"{test}/a/4.jpg", f"{test}/b/5.jpg")
    found = data.listing(tmp_path)
    assert sorted(names(found)) == sorted(
        [(f"{train}/a/1.jpg", "a", "train"), (f"{train}/b/2.jpg", "b", "train"), (f"{val}/b/3.jpg", "b", "val")]
    )
    top = test.partition("/")[0]
    assert found.skipped == ([f"{top}/ (the test pictures)"] if top != "Test" else [])
    tests = data.test_listing(tmp_path)
    assert names(tests) == [(f"{test}/a/4.jpg", "a", "test"), (f"{test}/b/5.jpg", "b", "test")]


@pytest.mark.parametrize(
    "paths",
    [
        ("fold1/cat/1.jpg", "fold1/dog/1.jpg", "fold2/cat/2.jpg", "fold2/dog/2.jpg"),
        ("cat/train/1.jpg", "cat/test/1.jpg", "dog/train/2.jpg", "dog/test/2.jpg"),
        ("A/x/1.jpg", "A/y/1.jpg", "A/z/1.jpg", "B/x/1.jpg", "B/y/1.jpg", "C/1.jpg"),  # most of them are enough
        ("train/A/x/1.jpg", "train/A/y/1.jpg", "train/B/x/1.jpg", "train/B/y/1.jpg"),
    ],
)
def test_folders_that_hold_the_same_folders_are_no_classes(paths, tmp_path):
    with pytest.raises(LongtailError, match="both hold the folders .*name the outer folders train, val or test"):
        data.listing(tree(tmp_path, *paths))


def test_a_habit_of_one_inner_folder_says_nothing(tmp_path):
    found = data.listing(tree(tmp_path, "a/images/1.jpg", "b/images/1.jpg", "c/images/1.jpg", "c/more/2.jpg"))
    assert found.classes == ["a", "b", "c"] and len(found.paths) == 4


def test_train_csv_is_found_by_itself(tmp_path):
    """As Kaggle lays it out; and where class folders lie beside it, the CSV says what they may not."""
    tree(tmp_path / "k", "train/1.jpg", "train/2.jpg", "test/3.jpg", "sample_submission.csv")
    table(tmp_path / "k" / "train.csv", "id,label", "1,cat", "2,dog")
    table(tmp_path / "k" / "test.csv", "id", "3")
    found = data.listing(tmp_path / "k")
    assert names(found) == [("train/1.jpg", "cat", "train"), ("train/2.jpg", "dog", "train")]
    assert found.notes == [f"pictures and labels are those of train.csv in {tmp_path / 'k'}"] and not found.skipped
    assert data.test_listing(tmp_path / "k").paths == ["test/3.jpg"]

    tree(tmp_path / "p", "p/Train_Images/patient1/1.jpg", "p/Train_Images/patient2/2.jpg", "p/valid/3.jpg")
    table(tmp_path / "p/p/Train.csv", "path,label", "patient1/1.jpg,cat", "patient2/2.jpg,dog")
    table(tmp_path / "p/p/valid.csv", "path,label", "3.jpg,cat")
    found = data.listing(tmp_path / "p")
    assert names(found) == [
        ("Train_Images/patient1/1.jpg", "cat", "train"),
        ("Train_Images/patient2/2.jpg", "dog", "train"),
        ("valid/3.jpg", "cat", "val"),
    ]
    table(tmp_path / "p/p/valid.csv", "path,label", "Train_Images/patient1/1.jpg,cat")
    with pytest.raises(LongtailError, match="train and val both list Train_Images/patient1/1.jpg"):
        data.listing(tmp_path / "p")
    table(tmp_path / "p/p/valid.csv", "epoch,loss", "1,0.5")
    with pytest.raises(
        LongtailError, match="which column .* by --image-col; rename valid.csv if it is no list of labels"
    ):
        data.listing(tmp_path / "p")
    tree(tmp_path / "p/p", "TRAIN.csv")
    with pytest.raises(LongtailError, match="holds TRAIN.csv and Train.csv: keep one of them"):
        data.listing(tmp_path / "p")


@pytest.mark.parametrize("name", ["b\udcfcrger", "a\nx", "a\rx", "a\u2028x", "a\x85x"])
def test_names_that_no_table_holds_are_refused_and_hidden_ones_are_said(name, tmp_path):
    tree(tmp_path / "hidden", f"a/.{name}", "a/1.jpg", "b/2.jpg")
    assert data.listing(tmp_path / "hidden").skipped == [f"a/.{shown(name)} (hidden)"]
    for kind, paths in (("class", (f"{name}/1.jpg", "b/2.jpg")), ("picture", (f"a/{name}.jpg", "b/2.jpg"))):
        with pytest.raises(LongtailError) as caught:
            data.listing(tree(tmp_path / kind, *paths))
        assert shown(name) in str(caught.value) and "rename" in str(caught.value)
        assert str(caught.value).isascii() and len(str(caught.value).splitlines()) == 1
    with pytest.raises(LongtailError, match="rename"):
        data.test_listing(tree(tmp_path / "test", f"test/{name}.jpg"))
    with pytest.raises(LongtailError, match="rename the folder"):
        data.listing(tree(tmp_path / name, "a/1.jpg", "b/2.jpg"))


def test_classes_that_look_alike_are_said_by_check_and_training(tmp_path):
    root = pictures_in(tmp_path, {"Cat": 4, "cat": 4, "nan": 4})
    said = ["classes 'Cat', 'cat': are they one?", "class 'nan': is it a value that is missing?"]
    assert data.listing(root).notes == said
    assert data.prepare(root, data.Source(), data.Split()).notes[:2] == said


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_part_folders(val, tmp_path):
    tree(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{val}/b/3.jpg", "test/a/4.jpg", "extra/c/5.jpg")
    found = data.listing(tmp_path)
    assert names(found) == [
        ("train/a/1.jpg", "a", "train"),
        ("train/b/2.jpg", "b", "train"),
        (f"{val}/b/3.jpg", "b", "val"),
    ]
    assert found.skipped == ["extra (beside the train folder)"]


def test_class_folders_with_a_validation_folder_beside_them(tmp_path):
    found = data.listing(tree(tmp_path, "a/1.jpg", "b/2.jpg", "val/a/3.jpg"))
    assert names(found) == [("a/1.jpg", "a", "train"), ("b/2.jpg", "b", "train"), ("val/a/3.jpg", "a", "val")]


def test_an_unpacked_archive_is_entered(tmp_path):
    tree(tmp_path, "set/v1/train/a/1.jpg", "set/v1/train/b/2.jpg", "set/v1/test/3.jpg", ".cache/", "LICENSE")
    found = data.listing(tmp_path)
    assert found.root == tmp_path / "set" / "v1" and found.paths == ["train/a/1.jpg", "train/b/2.jpg"]
    assert data.test_listing(tmp_path).files == [tmp_path / "set/v1/test/3.jpg"]


def test_train_can_be_a_class_of_vehicles_but_not_a_heap(tmp_path):
    found = data.listing(tree(tmp_path / "vehicles", "bus/1.jpg", "train/2.jpg", "tram/3.jpg", "test/4.jpg"))
    assert found.classes == ["bus", "train", "tram"]
    for heap in (("train/1.jpg", "test/2.jpg"), ("a/1.jpg", "b/1.jpg", "val/1.jpg")):
        root = tree(tmp_path / heap[0].replace("/", "-"), *heap)
        with pytest.raises(LongtailError, match="holds no class folders.*--labels"):
            data.listing(root)


def test_what_is_passed_over_is_said_and_the_rest_is_a_candidate(tmp_path):
    tree(
        tmp_path,
        "a/1.jpg",
        "a/.hidden.jpg",
        "a/._1.jpg",
        "a/Thumbs.db",
        ".git/config",
        "__MACOSX/a/1.jpg",
        "b/2.jpg",
        "b/notes.txt",
        "b/folder.jpg/inside.png",
        "stray.png",
        "labels.csv",
        "empty/",
    )
    (tmp_path / "b" / "dangling.png").symlink_to("nowhere")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "self.png").symlink_to("self.png")
    found = data.listing(tmp_path)
    assert found.paths == ["a/1.jpg", "b/2.jpg", "b/dangling.png", "b/notes.txt", "b/self.png", "b/folder.jpg"]
    assert sorted(found.skipped) == sorted(
        [
            ".git (hidden)",
            "__MACOSX (hidden)",
            "a/.hidden.jpg (hidden)",
            "a/._1.jpg (hidden)",
            "a/Thumbs.db (hidden)",
            "stray.png (in no class folder)",
            "empty/ (no picture, so no class)",
            "b/loop/ (a link to a folder that it is in)",
        ]
    )
    assert set(store.load_store(found.files, 8).bad.values()) >= {
        "a dangling link",
        "a folder, not a file",
        "not a picture",
    }


def test_a_link_upwards_brings_no_other_class(tmp_path):
    tree(tmp_path, "train/a/1.jpg", "train/b/2.jpg")
    for link, target in (("train/a/up", ".."), ("train/b/top", "../.."), ("train/c", ".")):
        (tmp_path / link).symlink_to(target, target_is_directory=True)
    found = data.listing(tmp_path)
    assert names(found) == [("train/a/1.jpg", "a", "train"), ("train/b/2.jpg", "b", "train")]
    reasons = [f"train/{name}/ (a link to a folder that it is in)" for name in ("a/up", "b/top", "c")]
    assert found.skipped == [*reasons, "train/c/ (no picture, so no class)"]


def test_classes_are_matched_in_nfc_and_printed_as_spelled(tmp_path):
    nfd, nfc = normalize("NFD", "Émile"), normalize("NFC", "Émile")
    assert nfd != nfc
    found = data.listing(tree(tmp_path, f"train/{nfd}/1.jpg", "train/Zoë/2.jpg", f"val/{nfc}/3.jpg"))
    assert found.classes == ["Zoë", nfd]
    assert sum(found.labels == found.classes.index(nfd)) == 2


def test_class_order_is_natural_and_the_same_everywhere(tmp_path):
    wanted = ["a2", "A3", "a10", "a010b", "B", "class 1", "class 02", "class 11", "von Stuck", "Zorn", "Émile", "北斎"]
    shuffled = [wanted[i] for i in RNG.permutation(len(wanted))]
    assert sorted(shuffled, key=natural_key) == wanted
    tree(tmp_path, *(f"{name}/1.jpg" for name in shuffled))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import data; print(ascii(data.listing(sys.argv[2]).classes))"
    for lc in ("C", "C.UTF-8", "tr_TR.UTF-8"):
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", code, str(ROOT), str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "LC_ALL": lc},
        )
        assert done.stdout.strip() == ascii(wanted)
    natural_key("9" * 10_000)  # longer than int() takes


@pytest.mark.parametrize(
    "paths, said",
    [
        ((), "no picture found"),
        (("a/",), "no picture found"),
        (("a/1.jpg",), "one class only, 'a'"),
        (("1.jpg", "2.jpg"), "no picture found"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"), "none to train on, of 'c'"),
    ],
)
def test_data_that_cannot_train_is_one_line(paths, said, tmp_path):
    with pytest.raises(LongtailError, match=said) as caught:
        data.listing(tree(tmp_path, *paths))
    assert "\n" not in str(caught.value)


def test_a_root_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LongtailError, match="no such folder"):
        data.listing(tmp_path / "nothing")
    with pytest.raises(LongtailError, match="is not a folder"):
        data.listing(tmp_path / "file")
    with pytest.raises(LongtailError, match="--group-col"):
        data.listing(tmp_path, group_col="patient")


def test_the_test_folder_flat_and_by_class(tmp_path):
    flat = data.test_listing(tree(tmp_path / "flat", "test/0002.jpg", "test/0001.png", "test/.x"))
    assert (flat.paths, flat.ids, flat.labels.tolist(), flat.classes) == (
        ["test/0001.png", "test/0002.jpg"],
        ["0001", "0002"],
        [-1, -1],
        [],
    )
    assert flat.skipped == ["test/.x (hidden)"] and set(flat.parts) == {"test"}
    sorted_ = data.test_listing(tree(tmp_path / "classes", "test/b/1.jpg", "test/a/2.jpg"))
    assert names(sorted_) == [("test/a/2.jpg", "a", "test"), ("test/b/1.jpg", "b", "test")]
    assert sorted_.ids == ["2", "1"]
    assert data.test_listing(tree(tmp_path / "stems", "test/1.jpg", "test/1.png")).ids == ["1.jpg", "1.png"]
    lone = data.test_listing(tree(tmp_path / "lone", "test/unknown/1.jpg", "test/unknown/2.jpg"))
    assert lone.ids == ["1", "2"] and lone.labels.tolist() == [-1, -1]
    same = data.test_listing(tree(tmp_path / "same", "test/a/1.jpg", "test/b/1.jpg"))
    assert same.ids == same.paths == ["test/a/1.jpg", "test/b/1.jpg"]
    other = data.test_listing(tmp_path / "flat", tmp_path / "same" / "test" / "a")
    assert other.files == [tmp_path / "same/test/a/1.jpg"] and other.ids == ["1"]


def test_folders_of_a_test_set_without_a_class_that_is_known_are_no_labels(tmp_path):
    root = pictures_in(tmp_path, {"test/part1": 2, "test/part2": 2})
    assert (data.test_listing(root, taught=["a", "b"]).labels == -1).all()
    assert data.test_listing(root, taught=["part1", "b"]).labels.tolist() == [0, 0, 1, 1]
    assert data.test_listing(root).labels.tolist() == [0, 0, 1, 1]  # nobody says what is known


def test_a_note_beside_test_pictures_gets_no_answer_and_is_said(tmp_path):
    found = data.test_listing(tree(tmp_path / "mixed", "test/1.JPG", "test/notes.txt", "test/a/2.png", "test/a/b.csv"))
    assert found.paths == ["test/1.JPG", "test/a/2.png"] and found.ids == ["1", "2"]
    assert found.skipped == ["test/notes.txt (not named like a picture)", "test/a/b.csv (not named like a picture)"]
    bare = data.test_listing(tree(tmp_path / "bare", "test/1", "test/2"))  # a competition's files without endings
    assert bare.paths == ["test/1", "test/2"] and bare.skipped == []


@pytest.mark.parametrize("flag", ["--image-col", "--label-col", "--group-col"])
def test_a_column_needs_a_csv(flag, tmp_path):
    root = pictures_in(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(LongtailError, match=f"{flag} names a column of a CSV"):
        data.listing(root, **{flag[2:].replace("-", "_"): "kind"})


def test_the_files_of_a_listing_are_made_once(tmp_path):
    """Ten thousand of them were once made for each row that was looked up."""
    found = Listing(tmp_path, ["a.jpg", "b.jpg"], np.zeros(2, np.int64), ["a"], np.array(["train"] * 2))
    assert found.files == [tmp_path / "a.jpg", tmp_path / "b.jpg"] and found.files is found.files
