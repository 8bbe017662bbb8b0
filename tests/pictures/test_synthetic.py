"""The built-in set against a simulation of its own, its files, and what a picture may and may not show."""

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from errors import LongtailError
from pictures import synthetic
from pictures.children import child_command, child_environment
from pictures.painting import FACTORS, render
from pictures.synthetic import COUNTS, STYLES

SMALL = dict(classes=3, scale=0.01, size=32, workers=1)
LEVELS = [len(levels) for levels in FACTORS.values()]


def draw(**given):
    return synthetic.draw(**dict(dict(classes=50, scale=0.28, seed=0, difficulty=1.0, label_noise=0.0), **given))


def bytes_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "set"
    synthetic.make(root, **SMALL, label_noise=0.3, seed=5)
    return root


def test_counts_follow_the_study():
    assert sum(COUNTS) == 5311 and len(COUNTS) == 50
    assert synthetic.counts(50, 1).tolist() == list(COUNTS)
    assert synthetic.counts(50, 10).tolist() == [10 * n for n in COUNTS]
    assert synthetic.counts(99, 1)[::2].tolist() == list(COUNTS)  # halfway steps between them
    few = synthetic.counts(7, 0.1)
    assert few[0] == 56 and few[-1] == synthetic.FEWEST and (np.diff(few) <= 0).all()
    truth = draw()
    train = np.bincount(truth["true"][~truth["test"]])
    assert sorted(train, reverse=True) == synthetic.counts(50, 0.28).tolist()
    assert 1900 < len(truth["files"]) < 2100
    np.testing.assert_allclose(truth["prior"], train / train.sum())


def test_test_pictures_share_the_prior():
    share = np.mean(
        [
            np.bincount(t["true"][t["test"]], minlength=50) / t["test"].sum() - t["prior"]
            for t in (draw(seed=s) for s in range(25))
        ],
        axis=0,
    )
    tests = draw()["test"].sum()
    assert np.abs(share).max() < 5 * 0.5 / tests / np.sqrt(25)  # rounding's sd is at most 1/2
    t = draw()
    assert np.abs(np.bincount(t["true"][t["test"]], minlength=50) - tests * t["prior"]).max() < 1


def test_classes_are_sorted_distinct_and_many():
    truth = draw(classes=400, scale=0.02)
    assert len(set(truth["classes"])) == 400
    assert sorted(truth["classes"], key=data.natural_key) == truth["classes"].tolist()
    assert len(np.unique(truth["habits"], axis=0)) == 400
    habits = draw()["habits"]
    assert ((habits[:, None] != habits).sum(2) + 9 * np.eye(50)).min() == 2
    assert len(np.unique(habits[:, [0, 4]], axis=0)) == 50  # palette and composition alone tell painters apart


def test_styles_have_probabilities():
    truth = draw(seed=3)
    p = synthetic.likelihood(STYLES, truth["habits"], truth["wander"], truth["borrow"])
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-12)
    assert (p > 0).all() and len(STYLES) == np.prod(LEVELS) == len(np.unique(STYLES, axis=0))
    for name in ("posterior", "posterior_observed"):
        np.testing.assert_allclose(truth[name].sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_posterior_equals_a_simulation(noise):
    """Painters at work, one decision after the other, counted by style."""
    rng = np.random.default_rng(7)
    truth = draw(classes=4, seed=2, label_noise=noise, difficulty=6)
    habits, n = truth["habits"], 1_000_000
    painter = rng.choice(4, n, p=truth["prior"])
    model = painter.copy()
    borrowing = rng.random(n) < truth["borrow"]
    model[borrowing] = rng.integers(0, 4, borrowing.sum())
    style = habits[model]
    for f in range(5):
        wandering = rng.random(n) < truth["wander"]
        style[wandering, f] = rng.integers(0, LEVELS[f], wandering.sum())
    signed = painter.copy()
    wrong = rng.random(n) < noise
    signed[wrong] = (painter[wrong] + rng.integers(1, 4, wrong.sum())) % 4

    cell = np.ravel_multi_index(style.T, LEVELS)
    asked, row = np.unique(np.ravel_multi_index(truth["styles"].T, LEVELS), return_index=True)
    row = row[~truth["test"][row]]
    assert len(row) > 30
    checked = 0
    for r in row:
        here = cell == np.ravel_multi_index(truth["styles"][r], LEVELS)
        for labels, name in ((painter, "posterior"), (signed, "posterior_observed")):
            p, m = truth[name][r], here.sum()
            if m >= 200:
                found = np.bincount(labels[here], minlength=4) / m
                assert (np.abs(found - p) < 5.5 * np.sqrt(p * (1 - p) / m) + 5 / m).all(), (r, name, found, p)
                checked += 1
    assert checked > 20
    best = synthetic.posterior(STYLES, habits, truth["prior"], truth["wander"], truth["borrow"]).argmax(1)
    hits = (best[cell] == painter).mean()
    assert abs(hits - truth["bayes_accuracy"]) < 5 * np.sqrt(0.25 / n)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_labels_are_what_the_posterior_says(noise):
    truth = draw(scale=10, label_noise=noise, seed=11)
    n = len(truth["files"])
    for name, label, rows in (
        ("posterior", "true", np.arange(n)),
        ("posterior_observed", "observed", np.arange(n)),
        ("posterior_observed", "observed", np.flatnonzero(truth["test"])),
    ):
        p = truth[name][rows]
        for c in (p.argmax(1), np.argsort(p, 1)[:, -2], np.full(len(rows), 7)):
            q, hit = np.take_along_axis(p, c[:, None], 1)[:, 0], truth[label][rows] == c
            for part in (slice(None), *np.array_split(np.argsort(q, kind="stable"), 10)):
                z = (hit[part].sum() - q[part].sum()) / np.sqrt((q[part] * (1 - q[part])).sum() + 1)
                assert abs(z) < 5, (name, z)
    assert abs(truth["posterior"].max(1).mean() - truth["bayes_accuracy"]) < 5 * 0.5 / np.sqrt(n)


def test_label_noise():
    truth = draw(scale=4, label_noise=0.3)
    wrong, test = truth["observed"] != truth["true"], truth["test"]
    n = (~test).sum()
    assert abs(wrong[~test].mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n) and not wrong[test].any()
    shift = (truth["observed"] - truth["true"])[wrong] % 50
    assert np.abs(np.bincount(shift, minlength=50)[1:] / wrong.sum() * 49 - 1).max() < 5 * np.sqrt(49 / wrong.sum())
    assert not (draw()["observed"] != draw()["true"]).any()


def test_difficulty():
    accuracies = [draw(difficulty=d)["bayes_accuracy"] for d in (0, 0.5, 1, 2, 4, 8)]
    assert accuracies[0] == 1 and (np.diff(accuracies) < -0.02).all()
    assert all(0.8 < draw(seed=s)["bayes_accuracy"] < 0.9 for s in range(4))
    assert draw(difficulty=1000, classes=5)["bayes_accuracy"] == pytest.approx(draw(classes=5)["prior"].max(), abs=1e-6)


def test_folder(small):
    truth = np.load(small / "truth.npz")
    test, files = truth["test"], truth["files"]
    assert sorted(files) == sorted(str(p.relative_to(small)) for p in small.rglob("*.jpg"))
    for f in files:
        with Image.open(small / f) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")
    for f, c in zip(files[~test], truth["observed"][~test]):
        assert Path(f).parts[:2] == ("train", truth["classes"][c])
    with open(small / "test.csv", newline="") as a, open(small / "sample_submission.csv", newline="") as b:
        asked, answered = list(csv.reader(a)), list(csv.reader(b))
    assert asked == [["id", "file"]] + [[Path(f).stem, f] for f in files[test]]
    assert answered == [["id", "artist"]] + [[Path(f).stem, truth["classes"][0]] for f in files[test]]
    assert (truth["observed"] != truth["true"]).any()
    whole = draw()
    for part in (whole["test"], ~whole["test"]):  # a picture's number does not tell its painter
        assert 0.3 < (np.diff(whole["true"][part]) < 0).mean() < 0.6


def test_folder_reads_back(small):
    truth = np.load(small / "truth.npz")
    found = data.listing(small)
    assert found.classes == truth["classes"].tolist()
    of = dict(zip(truth["files"], truth["observed"]))
    assert [of[p] for p in found.paths] == found.labels.tolist() and len(found.paths) == (~truth["test"]).sum()
    asked = data.test_listing(small)
    assert asked.paths == truth["files"][truth["test"]].tolist() and (asked.labels == -1).all()


def test_every_class_has_a_folder_under_label_noise(tmp_path):
    synthetic.make(tmp_path / "set", **dict(SMALL, scale=0.001), label_noise=0.99)
    assert len(list((tmp_path / "set" / "train").iterdir())) == 3


def test_same_bytes_by_any_number_of_workers(small, tmp_path):
    synthetic.make(tmp_path / "two", **dict(SMALL, workers=2), label_noise=0.3, seed=5)
    synthetic.make(tmp_path / "other", **SMALL, label_noise=0.3, seed=6)
    one, two, other = bytes_of(small), bytes_of(tmp_path / "two"), bytes_of(tmp_path / "other")
    assert one == two
    pictures = {v for k, v in one.items() if k.endswith(".jpg")}
    assert len(pictures) == len(list(small.rglob("*.jpg"))) and not pictures & set(other.values())


def test_a_taken_folder_is_refused(small, tmp_path):
    before = bytes_of(small)
    with pytest.raises(LongtailError, match="not an empty folder"):
        synthetic.make(small, **SMALL)
    assert bytes_of(small) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(LongtailError, match="not an empty folder"):
        synthetic.make(tmp_path / "file", **SMALL)
    (tmp_path / "empty").mkdir()
    synthetic.make(tmp_path / "empty", **SMALL)
    assert (tmp_path / "empty" / "truth.npz").exists()


@pytest.mark.parametrize(
    "given",
    [
        dict(classes=1),
        dict(classes=5041),
        dict(scale=0),
        dict(scale=float("nan")),
        dict(size=16),
        dict(size=40.5),
        dict(seed=-1),
        dict(difficulty=-0.1),
        dict(label_noise=1.0),
    ],
)
def test_arguments_out_of_bounds(tmp_path, given):
    with pytest.raises(LongtailError, match=f"^--{next(iter(given)).replace('_', '-')} [^\n]*: give a[^\n]*$"):
        synthetic.make(tmp_path / "set", **dict(SMALL, **given))
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fails(path, *rest):
        if path.name == "000003.jpg":
            raise OSError("disk full")
        path.write_bytes(b"")

    monkeypatch.setattr(synthetic, "_picture", fails)
    with pytest.raises(OSError, match="disk full"):
        synthetic.make(tmp_path / "set", **SMALL)
    assert not any(tmp_path.iterdir())


def test_a_killed_command_leaves_no_folder_of_that_name(tmp_path):
    command = child_command("pictures.synthetic", tmp_path / "set", "--scale", "5")
    process = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    while not any(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    synthetic.make(tmp_path / "set", **SMALL)


def test_command(tmp_path, capsys):
    assert (
        synthetic.main([str(tmp_path / "set"), *["--classes", "2", "--scale", "0.01", "--size", "32", "--seed", "4"]])
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "" and "python train.py --data" in err
    synthetic.make(tmp_path / "same", classes=2, scale=0.01, size=32, seed=4)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "same")
    assert synthetic.main([str(tmp_path / "set")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_built_in_folder(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(synthetic, "make", lambda root: made.append(root) or root.mkdir(parents=True))
    assert synthetic.folder("given") == Path("given") and not made
    root = synthetic.folder()
    assert made == [root] and str(root) in capsys.readouterr().err
    assert synthetic.folder() == root and len(made) == 1
    monkeypatch.setenv("DATA", "elsewhere")
    assert synthetic.folder() == Path("elsewhere") and synthetic.folder("given") == Path("given")


def pictures(n, seed=0, size=48, **levels):
    """float64 [n, size, size, 3]: pictures of random styles but for the factors given by name."""
    rng = np.random.default_rng(seed)
    styles = STYLES
    for f, (name, all_levels) in enumerate(FACTORS.items()):
        if name in levels:
            styles = styles[styles[:, f] == all_levels.index(levels[name])]
    return np.stack([render(styles[rng.integers(len(styles))], size, rng) for _ in range(n)]) / 255


def test_every_style_can_be_painted():
    rng = np.random.default_rng(0)
    for style in rng.permutation(STYLES)[:150]:
        picture = render(style, 32, rng)
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert picture.reshape(-1, 3).std(0).max() > 12


def gradients(x):
    """Mean squared slope of grey across and down, and their product's mean: [n] each."""
    grey = x.mean(-1)
    right, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    return (right**2).mean((1, 2)), (down**2).mean((1, 2)), (right * down).mean((1, 2))


def test_strokes_show_their_direction_and_width():
    plain = dict(composition="solo", shape="disc")
    shown = {d: gradients(pictures(60, direction=d, stroke="medium", **plain)) for d in FACTORS["direction"]}
    right, down, _ = shown["level"]
    assert (down > 1.5 * right).mean() > 0.95
    right, down, _ = shown["upright"]
    assert (right > 1.5 * down).mean() > 0.95
    right, down, both = shown["slanted"]
    lean = both / (right + down)
    assert (np.abs(lean) > 0.1).mean() > 0.95
    assert 0.25 < (lean > 0).mean() < 0.75  # to either side: a mirrored picture is as likely
    right, down, both = shown["swirling"]
    assert np.median(np.abs(both) / (right + down)) < 0.1
    fine, medium, broad = (np.median(sum(gradients(pictures(60, stroke=s, **plain))[:2])) for s in FACTORS["stroke"])
    assert fine > 1.2 * medium > 1.2 * 1.2 * broad


def test_a_pixel_by_itself_says_little():
    """Between factor levels the average picture moves far less than pictures of one level differ."""
    for factor, levels in FACTORS.items():
        sets = [pictures(80, seed=i, size=32, **{factor: level}) for i, level in enumerate(levels)]
        between = np.std([s.mean((0, 1, 2)) for s in sets], axis=0)
        within = np.mean([s.mean((1, 2)).std(0) for s in sets], axis=0)
        assert (between < 0.35 * within).all(), (factor, between, within)
