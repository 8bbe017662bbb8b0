"""Splits against their own promises; check against planted faults."""

import errno
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import data
from data import Listing
from errors import LongtailError
from pictures import store
from samples import RNG, pictures_in, table, tree

ROOT = Path(data.__file__).parent


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
    with pytest.raises(LongtailError, match="give --folds 0"):
        data.split(found, everyone(found), folds=3)
    train, val = data.split(found, everyone(found), val_split=0)
    assert train.tolist() == [0, 1, 2, 3, 4] and not len(val)  # the last training, of all there is


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
    code, out, err = check(root, "--all")
    assert code == 0 and len(out) == 12
    assert out[:5] == [
        "pictures   25 for training, 6 for testing",
        "classes    3",
        "imbalance  3.2 (13 to 4 training pictures)",
        "problems   same picture, across train and test, CONFLICTING LABELS: 1; nearly the same, across train and "
        "test: 1; nearly the same: 1",
        "verdict    training would take this",
    ]
    assert out[5] == (
        "same picture, across train and test, CONFLICTING LABELS: train/a/3.png (a) = train/a/copy.bmp "
        "(a) = train/b/wrong.png (b) = test/leak.png"
    )
    assert out[6] == (
        "nearly the same, across train and test: train/b/0.png (b) = train/b/again.jpg (b) = test/smaller.png"
    )
    assert out[7] == "nearly the same: train/c/0.png (c) = train/c/brighter.png (c)"
    assert [line.split()[:2] for line in out[8:]] == [["class", "train"], ["a", "13"], ["b", "8"], ["c", "4"]]
    assert err[-1].startswith("training would take this. Next: python train.py --data")


def test_check_counts_bad_files_and_exits_1(tmp_path):
    root = pictures_in(tmp_path, {"train/b": 3, "train/a": 4, "val/a": 2, "test": 1})
    (root / "train/a/bad.jpg").write_bytes((root / "train/a/0.png").read_bytes()[:90])
    (root / "val/a/text.txt").write_text("no")
    (root / "test/empty.png").write_text("")
    (root / "train/.x").write_text("")
    code, out, err = check(root, "--plot", tmp_path / "bars.png")
    assert code == 1
    assert out[:4] == [
        "pictures   8 for training, 3 for validation, 2 for testing",
        "classes    2",
        "imbalance  1.7 (5 to 3 training pictures)",
        "problems   unreadable: 3; passed over: 1",
    ]
    assert out[4].startswith("verdict    training would refuse this: 2 of 11 pictures cannot be read")
    assert out[5] == "unreadable: train/a/bad.jpg: image file is truncated, and 2 more (--all lists them)"
    assert out[6] == "passed over: train/.x (hidden)"
    assert [line.split()[:3] for line in out[7:]] == [["class", "train", "val"], ["a", "5", "3"], ["b", "3", "0"]]
    assert err[-1].startswith("training would refuse this: ") and "--skip-bad" in err[-1] and "--all" in err[-1]
    bars = np.asarray(Image.open(tmp_path / "bars.png").convert("RGB"))
    assert min(bars.shape[:2]) > 300 and len(np.unique(bars.reshape(-1, 3), axis=0)) > 3
    assert [line for line in check(root, "--all")[1] if line.startswith("unreadable: ")] == [
        "unreadable: train/a/bad.jpg: image file is truncated",
        "unreadable: val/a/text.txt: not a picture",
        "unreadable: test/empty.png: an empty file",
    ]


def test_check_of_nothing_but_bad_files_still_names_them(tmp_path):
    code, out, err = check(tree(tmp_path, "a/1.jpg", "b/2.jpg"), "--all")
    assert code == 1 and out[5:7] == ["unreadable: a/1.jpg: not a picture", "unreadable: b/2.jpg: not a picture"]
    assert err[-1].startswith("training would refuse this: no picture can be read")


def test_check_shows_the_ends_of_a_long_tail(tmp_path):
    root = pictures_in(tmp_path, {f"c{i:02d}": 1 + i % 4 for i in range(32)}, side=8)
    _, out, err = check(root)
    assert out[3].startswith("problems   ")
    ready = data.prepare(root, data.Source(), data.Split())
    unscored = [f"c{i:02d}" for i in range(32) if i not in ready.listing.labels[ready.val]]
    assert {"c00", "c04", "c08"} <= set(unscored)  # of one picture each
    assert err[0].startswith(f"no validation picture of {len(unscored)} classes, unscored: {', '.join(unscored[:10])}")
    table = out[next(i for i, line in enumerate(out) if line.startswith("class ")) + 1 :]
    assert [line.split()[0] for line in table[:9]] == [f"c{i:02d}" for i in (3, 7, 11, 15, 19, 23, 27, 31, 2)]
    assert len(table) == 31 and table[15] == "... 2 classes of 3 to 2 pictures (--all)"
    assert [line.split()[0] for line in table[-2:]] == ["c24", "c28"]
    assert (
        len([line for line in check(root, "--all")[1] if line.startswith("c")]) == 34
    )  # and the two lines that say class


def test_a_sample_that_cannot_be_filled_is_found_before_anything_trains(tmp_path):
    root = pictures_in(tmp_path, {"train/a": 3, "train/b": 3, "test": 2})
    file = root / "sample_submission.csv"
    file.write_text("id,b,a\n01.png,0,0\n0.png,0,0\n")
    prepared = data.prepare(root, data.Source(), data.Split())
    assert check(root)[0] == 0 and prepared.root == root
    for text, said in (("id,label\n7,x\n", "line 2 '7'"), ("id,c,a\n1,0,0\n", "no class is called 'c'")):
        file.write_text(text)
        with pytest.raises(LongtailError, match=said):
            data.prepare(root, data.Source(), data.Split())
        code, out, err = check(root)
        assert code == 1 and out[3] == "problems   sample submission: 1" and said in out[5]
        assert out[4] == "verdict    training would refuse this"  # why, the next line says, and stderr
        assert err[-1].startswith("training would refuse this: ") and said in err[-1] and "move" in err[-1]
        assert "\n".join(out).count(said) == "\n".join(err).count(said) == 1


def test_check_of_test_pictures_that_cannot_be_listed(tmp_path):
    root = pictures_in(tmp_path, {"train/a": 3, "train/b": 3, "test": 2})
    (root / "test.csv").write_text("id\n0\n0\n")
    code, out, err = check(root)
    assert code == 1 and out[0] == "pictures   6 for training, none for testing" and "line 3" in out[5]
    assert out[4] == "verdict    predict.py would refuse this" and "line 3" in err[-1]


def test_check_says_that_test_pictures_have_labels(tmp_path):
    root = pictures_in(tmp_path / "set", {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2, "test/c": 1})
    code, out, err = check(root)
    assert code == 0 and out[0] == "pictures   8 for training, 5 for testing, with labels"
    assert out[3] == "problems   classes of test pictures alone: 1" and out[5].endswith("alone: c")
    assert any("have labels" in line and "python evaluate.py" in line for line in err)
    (root / "test.csv").write_text("file,label\ntest/a/0.png,a\ntest/b/0.png,\n")
    assert check(root)[1][0] == "pictures   8 for training, 2 for testing, with labels"
    (root / "test.csv").write_text("file,label\ntest/a/0.png,\ntest/b/0.png,\n")
    code, out, err = check(root)
    assert out[0] == "pictures   8 for training, 2 for testing" and not any("evaluate.py" in line for line in err)


def test_check_of_unusable_data_is_one_line_on_stderr(tmp_path):
    code, out, err = check(tree(tmp_path, "a/1.jpg"))
    assert (code, out, len(err)) == (1, [], 1) and err[0].startswith("data.py: ") and "one class only" in err[0]
    assert check(tmp_path / "nothing")[0] == 1
    assert check()[0] == 2


def test_real_pictures(painters, cifar100lt):
    found = data.listing(painters)
    assert len(found.paths) == 1488 and len(found.classes) == 50 and found.skipped == []
    tests = data.test_listing(painters)
    assert tests.ids == [f"{i:04d}" for i in range(376)] and tests.paths[0] == "test/0000.jpg"
    assert data.sizes(found.files) == (224, 256)
    found, tests = data.listing(cifar100lt), data.test_listing(cifar100lt)
    assert np.bincount(found.labels).tolist() == [int(500 * 0.01 ** (i / 99)) for i in range(100)]
    assert found.classes == tests.classes and np.bincount(tests.labels).tolist() == [100] * 100
    assert data.sizes(found.files) == (32, 32)
    held = store.load_store(found.files[::40], 32)
    assert not held.bad and np.array_equal(held.pixels[5], np.asarray(Image.open(found.files[200])))


@pytest.mark.parametrize("command", ["train", "sweep", "seeds"])
def test_every_command_refuses_what_no_table_holds(command, tmp_path, capsys):
    """By one line, and before it makes a folder. check and predict list pictures by the same functions."""
    tree(tmp_path / "set", "a/1.jpg", "b/2.jpg")
    file = table(tmp_path / "l.csv", "file,label", "a/1.jpg,a", "b/2.jpg,b\u2028x")
    tree(tmp_path / "latin", "b\udcfcrger/1.jpg", "b/2.jpg")
    tree(tmp_path / "p\udcfc", "a/1.jpg", "b/2.jpg")
    for data_flags, code, said in (
        (["--data", str(tmp_path / "set"), "--labels", str(file)], 1, "l.csv line 3: 'b\\u2028x' holds a line break"),
        (["--data", str(tmp_path / "latin")], 1, "b\\xfcrger/1.jpg: rename them"),
        (["--data", str(tmp_path / "p\udcfc")], 2, "p\\udcfc': it is not UTF-8"),
    ):
        project = tmp_path / "runs"
        grid = ["--grid", "ls=0,0.1"] if command == "sweep" else []
        assert importlib.import_module(command).main([*data_flags, "--project", str(project), *grid]) == code
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"{command}.py: ") and said in line and not project.exists()
        assert check(data_flags[1], *data_flags[2:])[0] == 1


def test_check_names_the_next_command_whole(tmp_path):
    """What it was told to read the labels by, the training needs too."""
    root = pictures_in(tmp_path / "my pictures", {".": 6})
    names = sorted(path.name for path in root.iterdir())
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    file = tmp_path / "l.csv"
    file.write_text("\n".join(["picture_name,who", *rows]) + "\n")
    told = ["--labels", file, "--image-col", "picture_name", "--label-col", "who"]
    code, _, err = check(root, *told)
    assert code == 0
    words = shlex.split(err[-1].partition("Next: ")[2])
    assert words == ["python", "train.py", "--data", str(root), *map(str, told)]


def test_validation_pictures_of_ones_own_that_are_copies_or_trained_on_are_said(tmp_path):
    root = pictures_in(tmp_path, {"train/a": 6, "train/b": 6, "val/a": 3, "val/b": 3})
    assert not any("copies" in note for note in data.prepare(root, data.Source(), data.Split()).notes)
    first = next((root / "train" / "a").iterdir())
    (root / "val" / "a" / first.name).write_bytes(first.read_bytes())
    notes = data.prepare(root, data.Source(), data.Split()).notes
    assert "copies of training pictures, or nearly: 1 of 7 validation pictures, whose scores flatter" in notes
    parted = data.prepare(root, data.Source(), data.Split(val_split=0.0))
    assert len(parted.val) == 0 and "--val-split 0: the 7 validation pictures are trained on too" in parted.notes


def test_a_plots_ending_is_looked_at_first(tmp_path, capsys):
    pictures_in(tmp_path, {"a": 3, "b": 3})
    assert data.main(["check", str(tmp_path), "--plot", "counts.xyz"]) == 2
    out, err = capsys.readouterr()
    assert not out and err == "data.py: --plot counts.xyz: give a file that ends in .png, .pdf or .svg\n"


def test_a_full_disk_is_said_of_the_plot_and_leaves_none(tmp_path, monkeypatch, capsys):
    root = pictures_in(tmp_path / "pictures", {"a": 3, "b": 3})

    def full(figure, file, **kwargs):
        Path(file).write_bytes(b"half of a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    assert data.main(["check", str(root), "--plot", str(tmp_path / "counts.png")]) == 1
    assert f"data.py: {tmp_path / 'counts.png'}: No space left on device\n" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_the_command_that_lists_bad_files_is_the_one_for_these_labels(tmp_path):
    root = pictures_in(tmp_path / "my pictures", {"a": 3, "b": 3})
    bad = next((root / "a").iterdir())
    bad.write_text("no picture")
    rows = [f"{file.relative_to(root)},{file.parent.name}" for file in sorted(root.glob("*/*"))]
    labels = tmp_path / "l.csv"
    labels.write_text("picture,kind\n" + "\n".join(rows))
    with pytest.raises(LongtailError) as refused:
        data.prepare(root, data.Source(labels=str(labels), label_col="kind"), data.Split())
    command = str(refused.value).split("`")[1]
    assert shlex.split(command)[:4] == ["python", "data.py", "check", str(root)]
    assert shlex.split(command)[4:] == ["--labels", str(labels), "--label-col", "kind", "--all"]
