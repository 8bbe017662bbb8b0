"""Folders as people lay them out."""

import pytest

from pictures.layout import own_test, part_of, unpacked
from samples import tree


@pytest.mark.parametrize(
    "part, names",
    [
        ("train", "train Train TRAINING train_images train-images images_train seg_train Training_set trainset"),
        ("train", "train_jpg train1 train_224"),
        ("val", "val valid Validation val_images seg_val validation-set"),
        ("test", "test Testing test_images seg_test test_set test1"),
        (None, "trains crash_test_dummy train_station contest latest trainval train_test pretrain attest"),
        (None, "images seg_pred 1 1_2"),
    ],
)
def test_the_part_that_a_folder_says(part, names):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


@pytest.mark.parametrize(
    "paths, wanted",
    [
        (("test/1.jpg", "train/a/1.jpg"), "test"),
        (("Testing/a/1.jpg", "Training/a/1.jpg"), "Testing"),
        (("set/seg_test/seg_test/a/1.jpg", "set/seg_train/seg_train/a/1.jpg"), "set/seg_test/seg_test"),
        (("test.csv", "test/1.jpg"), "test.csv"),
        (("Test.csv", "Test/1.jpg"), "Test.csv"),
        (("test.csv", "Testing.csv"), "test.csv"),
        (("test/1.jpg", "test_images/1.jpg"), "test"),
        (("test_a/1.jpg",), None),
        (("seg_test/1.jpg", "test_images/1.jpg"), None),  # either may be meant
        (("train/a/1.jpg",), None),
    ],
)
def test_where_the_test_pictures_are(paths, wanted, tmp_path):
    assert own_test(tree(tmp_path, *paths)) == (wanted and tmp_path / wanted)
    assert own_test(tmp_path / "nothing") is None


def test_a_csv_is_not_left_behind_by_unpacking(tmp_path):
    tree(tmp_path, "archive/train.csv", "archive/images/a/1.jpg", "__MACOSX/archive/._1.jpg")
    assert unpacked(tmp_path) == tmp_path / "archive"
