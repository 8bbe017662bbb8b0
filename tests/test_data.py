"""Listings against folders built for the purpose; splits against their own promises; check against planted faults."""

import os
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import data
from data import Listing
from errors import LongtailError
from pictures import store
from pictures.duplicates import duplicates

ROOT = Path(data.__file__).parent
RNG = np.random.default_rng(1)


def tree(root, *paths):
    for path in map(str, paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if path.endswith("/") else target.write_bytes(b"x")
    return root


def table(path, *rows):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def names(found):
    return [
        (path, found.classes[label] if label >= 0 else None, str(part))
        for path, label, part in zip(found.paths, found.labels, found.parts)
    ]


# Folders


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
    found = data.listing(tmp_path)
    assert found.paths == ["a/1.jpg", "b/2.jpg", "b/dangling.png", "b/notes.txt", "b/folder.jpg"]
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


def test_classes_are_matched_in_nfc_and_printed_as_spelled(tmp_path):
    nfd, nfc = normalize("NFD", "Émile"), normalize("NFC", "Émile")
    assert nfd != nfc
    found = data.listing(tree(tmp_path, f"train/{nfd}/1.jpg", "train/Zoë/2.jpg", f"val/{nfc}/3.jpg"))
    assert found.classes == ["Zoë", nfd]
    assert sum(found.labels == found.classes.index(nfd)) == 2


def test_class_order_is_natural_and_the_same_everywhere(tmp_path):
    wanted = ["a2", "A3", "a10", "a010b", "B", "class 1", "class 02", "class 11", "von Stuck", "Zorn", "Émile", "北斎"]
    shuffled = [wanted[i] for i in RNG.permutation(len(wanted))]
    assert sorted(shuffled, key=data.natural_key) == wanted
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
    data.natural_key("9" * 10_000)  # longer than int() takes


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


# CSVs of labels


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
    ],
)
def test_a_csv_of_labels(rows, options, tmp_path):
    tree(tmp_path, "pictures/x/1.jpg", "pictures/2.png", "pictures/2.txt")
    file = table(tmp_path / "labels.csv", *rows)
    found = data.listing(tmp_path / "pictures", file, **options)
    assert names(found) == [("x/1.jpg", "a", "train"), ("2.png", "b", "train")]
    assert found.skipped == (["labels.csv line 4 (repeats line 3)"] if len(rows) == 4 and rows[3] else [])


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
        (["file,label", "1,a", "twin,b"], {}, "line 3: 'twin' may be twin.jpg or twin.png: write the extension"),
        (["file,label", "1,a", "2,a"], {}, "one class only"),
        (["file,label"], {}, "no picture found"),
        ([""], {}, "is empty"),
    ],
)
def test_faults_of_a_csv_are_named_by_line(rows, options, said, tmp_path):
    tree(tmp_path, "1.jpg", "2.jpg", "twin.jpg", "twin.png")
    with pytest.raises(LongtailError, match=said) as caught:
        data.listing(tmp_path, table(tmp_path / "l.csv", *rows), **options)
    assert "l.csv" in str(caught.value) or "no picture found" in said or "one class" in said
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_no_text(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"file,label\n\xff\xfe,a\n")
    with pytest.raises(LongtailError, match="is not UTF-8"):
        data.listing(tmp_path, tmp_path / "l.csv")
    with pytest.raises(LongtailError, match="No such file"):
        data.listing(tmp_path, tmp_path / "m.csv")


# Test pictures


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
    same = data.test_listing(tree(tmp_path / "same", "test/a/1.jpg", "test/b/1.jpg"))
    assert same.ids == same.paths == ["test/a/1.jpg", "test/b/1.jpg"]
    other = data.test_listing(tmp_path / "flat", tmp_path / "same" / "test" / "a")
    assert other.files == [tmp_path / "same/test/a/1.jpg"] and other.ids == ["1"]


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


def test_a_test_csv_keeps_the_rows_of_missing_files_and_knows_labels(tmp_path):
    tree(tmp_path, "test/a.png")
    found = data.test_listing(tmp_path, table(tmp_path / "other.csv", "id,file,label", "1,a,x", "2,gone.jpg,w"))
    assert found.paths == ["test/a.png", "gone.jpg"] and found.classes == ["w", "x"] and found.labels.tolist() == [1, 0]
    assert store.load_store(found.files, 8).bad[1] == "no such file"
    for rows, said in (
        (["id,file", "1,a", "1,a"], "line 3: the id '1' again"),
        (["id,file", "1,a", ",a"], "line 3: no id"),
        (["id"], "no test picture"),
        (["id", "x", "y"], "none of its files is there, 'x'"),
    ):
        with pytest.raises(LongtailError, match=said):
            data.test_listing(tmp_path, table(tmp_path / "other.csv", *rows))
    with pytest.raises(LongtailError, match="--test"):
        data.test_listing(tree(tmp_path / "no test here", "a/1.jpg"))


# Splits


def listing_of(labels, parts="train", groups=None):
    labels = np.asarray(labels, np.int64)
    return Listing(
        Path("somewhere"),
        [f"{i}.jpg" for i in range(len(labels))],
        labels,
        [str(c) for c in range(labels.max() + 1)],
        np.full(len(labels), parts) if isinstance(parts, str) else np.array(parts),
        groups,
    )


def everyone(found):
    return np.ones(len(found.paths), bool)


LONG_TAIL = np.repeat(np.arange(40), np.maximum(1, (300 * 0.86 ** np.arange(40)).astype(int)))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 1 / 3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_a_stratified_split_keeps_every_share(share, seed):
    found = listing_of(RNG.permutation(LONG_TAIL))
    train, val = data.split(found, everyone(found), val_split=share, split_seed=seed)
    assert train.dtype == val.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(LONG_TAIL)))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    total, held = np.bincount(found.labels), np.bincount(found.labels[val], minlength=40)
    assert (held[total == 1] == 0).all() and (held < total).all()
    assert (np.abs(held - share * total)[total > 1] <= 1).all()
    if share <= 0.5:
        assert abs(held.sum() - share * total[total > 1].sum()) <= 0.5 + 1e-9
    other = data.split(found, everyone(found), val_split=share, split_seed=seed + 1)[1]
    assert not np.array_equal(val, other)
    assert np.array_equal(val, data.split(found, everyone(found), val_split=share, split_seed=seed)[1])


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_partition_all_but_lone_pictures(folds):
    found = listing_of(RNG.permutation(LONG_TAIL))
    usable = RNG.random(len(LONG_TAIL)) > 0.1
    held = [data.split(found, usable, folds=folds, fold=k, split_seed=3)[1] for k in range(folds)]
    total = np.bincount(found.labels[usable], minlength=40)
    several = np.flatnonzero(usable & (total[found.labels] > 1))
    assert np.array_equal(np.sort(np.concatenate(held)), several)
    counts = np.array([np.bincount(found.labels[rows], minlength=40) for rows in held])
    assert (np.ptp(counts, axis=0) <= 1).all() and np.ptp(counts.sum(1)) <= 1
    for k in range(folds):
        train = data.split(found, usable, folds=folds, fold=k, split_seed=3)[0]
        assert np.array_equal(np.sort(np.concatenate([train, held[k]])), np.flatnonzero(usable))
        assert set(found.labels[train]) == set(found.labels[usable])


def test_a_split_is_no_accident_of_the_global_generator():
    found = listing_of(LONG_TAIL)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = data.split(found, everyone(found))[1]
    assert np.array_equal(np.random.get_state()[1], before)
    assert first[:5].tolist() == data.split(found, everyone(found), split_seed=0)[1][:5].tolist()


def grouped(rng, count=300, classes=8):
    labels = rng.choice(classes, count, p=0.7 ** np.arange(classes) / (0.7 ** np.arange(classes)).sum())
    return listing_of(labels, groups=[f"g{g}" for g in rng.integers(0, count // 5, count)])


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_never_divided_and_still_stratified(seed):
    found = grouped(np.random.default_rng(seed))
    groups, total = np.array(found.groups), np.bincount(found.labels)
    train, val = data.split(found, everyone(found), val_split=0.2, split_seed=seed)
    assert not set(groups[train]) & set(groups[val]) and len(train) + len(val) == len(groups)
    assert abs(len(val) / len(groups) - 0.2) < 0.03
    held = np.bincount(found.labels[val], minlength=8)
    assert (np.abs(held - 0.2 * total) <= np.maximum(3, 0.1 * total)).all()
    assert set(found.labels[train]) == set(found.labels)
    folds = [data.split(found, everyone(found), folds=4, fold=k, split_seed=seed)[1] for k in range(4)]
    assert len(np.unique(np.concatenate(folds))) == sum(map(len, folds)) == len(groups)
    assert sum(len(set(groups[rows])) for rows in folds) == len(set(groups))
    assert max(map(len, folds)) - min(map(len, folds)) < 0.1 * len(groups)


def test_a_class_of_one_group_stays_in_train():
    found = listing_of([0, 0, 0, 0, 1, 1, 1, 0], groups=list("abcdxxxe"))
    for k in range(3):
        train, val = data.split(found, everyone(found), folds=3, fold=k)
        assert set(found.labels[val]) == {0} and {4, 5, 6} <= set(train)
    with pytest.raises(LongtailError, match="too few pictures"):
        data.split(listing_of([0, 0, 1, 1], groups=list("aabb")), np.ones(4, bool))


def test_an_own_validation_part_is_used_as_it_is():
    found = listing_of([0, 1, 0, 1, 0], parts=["train", "train", "val", "val", "train"])
    train, val = data.split(found, np.array([True, True, True, False, True]), val_split=0.4)
    assert train.tolist() == [0, 1, 4] and val.tolist() == [2]
    with pytest.raises(LongtailError, match="drop --folds"):
        data.split(found, everyone(found), folds=3)


def test_splits_that_cannot_be(tmp_path):
    found = listing_of([0, 1, 2])
    assert data.split(found, everyone(found), val_split=0)[1].tolist() == []
    with pytest.raises(LongtailError, match="too few pictures"):
        data.split(found, everyone(found))
    with pytest.raises(LongtailError, match="fewer than two classes"):
        data.split(found, np.array([True, False, False]))
    for options in (dict(folds=1), dict(folds=3, fold=3), dict(val_split=1.0), dict(val_split=-0.1)):
        with pytest.raises(LongtailError, match="--fold|--val-split"):
            data.split(listing_of(LONG_TAIL), np.ones(len(LONG_TAIL), bool), **options)


# Sizes and statistics


@pytest.mark.parametrize(
    "short, img_size, expected",
    [
        (32, "auto", (32, 32)),
        (64, "auto", (64, 64)),
        (40, "auto", (40, 40)),
        (96, "auto", (64, 73)),
        (72, "auto", (64, 72)),
        (128, "auto", (96, 110)),
        (255, "auto", (192, 219)),
        (256, "auto", (224, 256)),
        (900, "auto", (224, 256)),
        (900, 112, (112, 128)),
        (100, 112, (112, 112)),
        (120, 112, (112, 120)),
        (32, 224, (224, 224)),
    ],
)
def test_sizes(short, img_size, expected, tmp_path):
    files = []
    for i, (width, height) in enumerate(
        [(short, short * 2), (short + 1, short), (short - 9, short * 3), (short, short), (short * 4, short + 9)]
    ):
        files.append(tmp_path / f"{i}.png")
        Image.new("L", (width, height)).save(files[-1])
    (tmp_path / "bad.png").write_text("")
    assert data.sizes([*files, tmp_path / "bad.png"], img_size) == expected


def test_sizes_look_at_a_thousand_headers_at_most(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "dimensions", lambda files: asked.extend(files) or [(50, 50)] * len(files))
    assert data.sizes([Path(str(i)) for i in range(7000)]) == (50, 50)
    assert len(asked) == 1000 and asked[0] == Path("0") and asked[-1] == Path("6999")
    monkeypatch.setattr(data, "dimensions", lambda files: [None] * len(files))
    with pytest.raises(LongtailError, match="check DIR"):
        data.sizes([Path("a")])


def pictures_in(root, counts, side=20):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            low = RNG.integers(0, 256, (5, 5, 3)).astype(np.uint8)
            Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC).save(root / name / f"{i}.png")
    return root


def test_statistics_are_those_of_all_pixels(tmp_path):
    found = data.listing(pictures_in(tmp_path, {"a": 6, "b": 5}))
    held = store.load_store(found.files, 17)
    rows = np.array([0, 3, 4, 9])
    pixels = held.pixels[rows].reshape(-1, 3).astype(np.float64) / 255
    stats = data.statistics(held, rows)
    assert list(stats) == ["mean", "std"]
    assert np.allclose(stats["mean"], pixels.mean(0), atol=1e-7) and np.allclose(stats["std"], pixels.std(0), atol=1e-6)
    Image.new("RGB", (9, 9), (10, 20, 255)).save(tmp_path / "flat.png")
    flat = data.statistics(store.load_store([tmp_path / "flat.png"], 9), np.array([0]))
    assert np.allclose(flat["std"], 0, atol=1e-3) and not np.isnan(flat["std"]).any()


# The command


def check(*args):
    done = subprocess.run(
        [sys.executable, str(ROOT / "data.py"), "check", *map(str, args)], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_check_finds_what_was_planted(tmp_path):
    root = pictures_in(tmp_path / "set", {"train/a": 12, "train/b": 6, "train/c": 3, "test": 4}, side=80)
    a = Image.open(root / "train/a/3.png")
    a.save(root / "train/a/copy.bmp")  # other bytes, same pixels
    a.save(root / "train/b/wrong.png")
    a.save(root / "test/leak.png")
    b = Image.open(root / "train/b/0.png")
    b.save(root / "train/b/again.jpg", quality=60)
    b.resize((61, 67), Image.Resampling.BICUBIC).save(root / "test/smaller.png")
    c = Image.open(root / "train/c/0.png")
    ImageEnhance.Brightness(c.crop((1, 1, 79, 79))).enhance(1.03).save(root / "train/c/brighter.png")
    code, out, err = check(root)
    assert code == 0
    assert out[0] == (
        "same picture, across train and test, CONFLICTING LABELS: train/a/3.png (a) = train/a/copy.bmp "
        "(a) = train/b/wrong.png (b) = test/leak.png"
    )
    assert out[1] == (
        "nearly the same, across train and test: train/b/0.png (b) = train/b/again.jpg (b) = test/smaller.png"
    )
    assert out[2] == "nearly the same: train/c/0.png (c) = train/c/brighter.png (c)"
    assert [line.split()[:2] for line in out[3:7]] == [["class", "train"], ["a", "13"], ["b", "8"], ["c", "4"]]
    assert out[7] == "25 pictures, 3 classes, imbalance ratio 3.2 (13 to 4 training pictures)" and len(out) == 8
    assert err[-1].startswith("training would take this. Next: python train.py --data")


def test_check_names_every_bad_file_and_exits_1(tmp_path):
    root = pictures_in(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "test": 1})
    (root / "train/a/bad.jpg").write_bytes((root / "train/a/0.png").read_bytes()[:90])
    (root / "val/a/text.txt").write_text("no")
    (root / "test/empty.png").write_text("")
    code, out, err = check(root, "--plot", tmp_path / "bars.png")
    assert code == 1
    assert [line for line in out if line.startswith("bad: ")] == [
        "bad: train/a/bad.jpg: image file is truncated",
        "bad: val/a/text.txt: not a picture",
        "bad: test/empty.png: an empty file",
    ]
    assert [line.split()[:3] for line in out if line[:2] in ("cl", "a ", "b ")] == [
        ["class", "train", "val"],
        ["a", "4", "3"],
        ["b", "3", "0"],
    ]
    assert err[-1].startswith("training would refuse this: ") and "--skip-bad" in err[-1]
    bars = np.asarray(Image.open(tmp_path / "bars.png").convert("RGB"))
    assert min(bars.shape[:2]) > 300 and len(np.unique(bars.reshape(-1, 3), axis=0)) > 3


def test_check_of_nothing_but_bad_files_still_names_them(tmp_path):
    code, out, err = check(tree(tmp_path, "a/1.jpg", "b/2.jpg"))
    assert code == 1 and out[:2] == ["bad: a/1.jpg: not a picture", "bad: b/2.jpg: not a picture"]
    assert err[-1].startswith("training would refuse this: no picture can be read")


def test_check_of_unusable_data_is_one_line_on_stderr(tmp_path):
    code, out, err = check(tree(tmp_path, "a/1.jpg"))
    assert (code, out, len(err)) == (1, [], 1) and err[0].startswith("data.py: ") and "one class only" in err[0]
    assert check(tmp_path / "nothing")[0] == 1
    assert check()[0] == 2


def test_near_duplicates_of_flat_and_of_unlike_pictures(tmp_path):
    """A flat picture has no hash to speak of: two of one colour are the same, of two colours are not."""
    for name, colour in (("a/1", "red"), ("a/2", "blue"), ("b/3", "#0101f8")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    found = data.listing(tmp_path)
    held = store.load_store(found.files, 40)
    assert duplicates([found], [held]) == ["nearly the same, CONFLICTING LABELS: a/2.png (a) = b/3.png (b)"]
    unlike = data.listing(pictures_in(tmp_path / "many", {"a": 150, "b": 150}))
    assert duplicates([unlike], [store.load_store(unlike.files, 20)]) == []


def test_real_pictures(painters, cifar100lt):
    found = data.listing(painters)
    assert len(found.paths) == 1488 and len(found.classes) == 50 and found.skipped == []
    tests = data.test_listing(painters)
    assert tests.ids == [f"{i:04d}" for i in range(376)] and tests.paths[0] == "test/0000.jpg"
    assert data.sizes(found) == (224, 256)
    found, tests = data.listing(cifar100lt), data.test_listing(cifar100lt)
    assert np.bincount(found.labels).tolist() == [int(500 * 0.01 ** (i / 99)) for i in range(100)]
    assert found.classes == tests.classes and np.bincount(tests.labels).tolist() == [100] * 100
    assert data.sizes(found) == (32, 32)
    held = store.load_store(found.files[::40], 32)
    assert not held.bad and np.array_equal(held.pixels[5], np.asarray(Image.open(found.files[200])))
