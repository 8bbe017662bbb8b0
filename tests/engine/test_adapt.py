"""--adapt gap: the rule by hand, what is held back, and that a run's factors follow it, resume, and are followed."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from config import Config
from engine import adapt, build
from engine.build import prepare_pictures
from engine.checkpoint import load_checkpoint
from errors import ConfigError, LongtailError
from losses import EPS

COUNTS = dict(blue=26, green=16, red=6)


@pytest.fixture(scope="module")
def tail(tmp_path_factory):
    """Colours of noise, of which two have ten pictures and more."""
    root, rng = tmp_path_factory.mktemp("tail"), np.random.default_rng(0)
    for name, colour in dict(blue=(40, 60, 200), green=(40, 190, 60), red=(200, 50, 40)).items():
        (root / name).mkdir()
        for i in range(COUNTS[name]):
            noise = rng.normal(0, 60, (32, 32, 3)) + colour
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def adapting(settings, tail):
    more = dict(adapt="gap", mixup_p=0.4, cutmix_p=0.2, ls=0.1, epochs=4, stem="imagenet", amp=False)
    return settings | more | dict(data=str(tail))


def results(config):
    with open(f"{config.project}/{config.name}/results.csv", newline="") as f:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(f)]


def test_the_odds_are_multiplied_and_nothing_passes_one():
    @dataclasses.dataclass(frozen=True)
    class Some:
        p: float
        by_class: tuple

    told = dict(factor=torch.tensor(2.0, dtype=torch.float64))
    found = adapt.strengthened(Some(0.6, (0.0, 0.9)), ["p", "by_class"], told)
    assert found.p / (1 - found.p) == pytest.approx(2 * 0.6 / 0.4)
    assert found.by_class[0] == 0 and found.by_class[1] / (1 - found.by_class[1]) == pytest.approx(2 * 0.9 / 0.1)
    off = adapt.strengthened(Some(0.6, (0.0, 0.9)), ["p", "by_class"], dict(factor=torch.tensor(0.0)))
    assert off == Some(0.0, (0.0, 0.0))
    # A probability of 1 has no odds that could fall.
    assert adapt.strengthened(Some(1.0, (0.3, 1.0)), ["p", "by_class"], dict(factor=torch.tensor(0.0))).p == 1
    plain = Some(0.6, (0.0, 0.9))
    for nothing in (None, {}, dict(factor=torch.tensor(1.0))):
        assert adapt.strengthened(plain, ["p"], nothing) is plain


def test_the_factor_moves_by_the_gap_and_stays_within_its_bounds():
    assert adapt.moved(1.0, 0.2, 80) == pytest.approx(1 + 10 * 0.2 / 80)
    assert adapt.moved(1.0, -0.2, 80) == pytest.approx(1 - 10 * 0.2 / 80)
    assert adapt.moved(1.0, math.nan, 80) == 1
    assert adapt.moved(1.9, 1.0, 10) == 2 and adapt.moved(0.1, -1.0, 10) == 0


def test_the_gap_is_training_less_held_accuracy_with_the_classes_of_the_latter():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    labels[:2] = 3  # of class 3 nothing is held back, of class 2 nothing is shown
    held = np.flatnonzero(labels[30:] != 3) + 30
    pool = np.flatnonzero(labels[:30] != 2)
    index = rng.choice(pool, (5, 8))
    p = rng.dirichlet([1, 1, 1, 1], (5, 8))
    own = np.take_along_axis(p, labels[index][..., None], 2)[..., 0]
    rows = dict(own=own.copy(), confidence=p.max(2))
    mixed = rng.random((5, 8)) < 0.3
    rows["own"][mixed] = rows["confidence"][mixed] = np.nan
    logits = rng.normal(0, 1, (len(held), 4))
    found = adapt.gap(index, rows, held, logits, labels)

    total = pictures = 0
    for c in (0, 1):
        shown = (labels[index] == c) & ~mixed
        of_class = labels[held] == c
        training = (p.argmax(2) == c)[shown].mean()
        total += of_class.sum() * (training - (logits.argmax(1) == c)[of_class].mean())
        pictures += of_class.sum()
    assert found == pytest.approx(total / pictures)
    rows["own"][:] = np.nan
    assert math.isnan(adapt.gap(index, rows, held, logits, labels))


def test_a_tenth_of_each_class_is_held_back_and_rare_classes_keep_theirs(settings, tail):
    base = settings | dict(data=str(tail), val_split=0.0)
    plain = prepare_pictures(Config(**base))
    found = prepare_pictures(Config(**base, adapt="gap"))
    labels = found.listing.labels
    assert sorted([*found.train, *found.held]) == sorted(plain.train) and len(found.held) == 4
    assert np.bincount(labels[found.held], minlength=3).tolist() in ([2, 2, 0], [3, 1, 0])  # 2.6 and 1.6 by share
    assert (found.counts + np.bincount(labels[found.held], minlength=3) == plain.counts).all()
    again, other = (prepare_pictures(Config(**base, adapt="gap", split_seed=seed)).held for seed in (0, 1))
    assert (again == found.held).all() and set(other) != set(found.held)
    validated = prepare_pictures(Config(**base | dict(val_split=0.2), adapt="gap"))
    assert not set(validated.val) & {*validated.held, *validated.train}


def test_a_picture_is_not_held_back_from_its_copies(settings, tmp_path):
    """Of pictures that are there twice, one brighter by a level, both are held back or neither is."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(30):
            coarse = Image.fromarray(rng.integers(0, 250, (8, 8, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC))
            for k in range(2):
                Image.fromarray((smooth // 2 + k).astype(np.uint8)).save(tmp_path / name / f"{i}-{k}.png")
    config = Config(**settings | dict(data=str(tmp_path), val_split=0.0), adapt="gap")
    found = prepare_pictures(config)
    held = {found.listing.paths[row] for row in found.held}
    assert 8 <= len(held) <= 16  # a tenth of 120, pairs whole
    assert all({path.replace("-0.", "-1."), path.replace("-1.", "-0.")} <= held for path in held)


def test_too_few_pictures_to_hold_back_is_a_line(settings):
    with pytest.raises(LongtailError, match="--adapt holds back a tenth of each class of 10 or more"):
        prepare_pictures(Config(**settings, adapt="gap"))


def test_a_runs_factors_follow_its_gaps_and_reach_table_and_plan(adapting, monkeypatch):
    """The table of an epoch has the factor of the epoch before, its plan that of the one before it."""
    seen = dict(table={}, plan={})
    at, drawer = build.Loss.at, build.draw_plan

    def table(self, epoch, signals=None, earlier=None):
        found = at(self, epoch, signals, earlier)
        seen["table"][epoch] = float(found[0][EPS, 0])
        return found

    def draw(material, epoch, course, mixing, views, **signals):
        seen["plan"][epoch] = mixing.mixup_p, mixing.cutmix_p
        return drawer(material, epoch, course, mixing, views, **signals)

    monkeypatch.setattr(build.Loss, "at", table)
    monkeypatch.setattr(build, "draw_plan", draw)
    config = Config(**adapting)
    train.train(config)
    rows = results(config)
    factors = [row["adapt"] for row in rows]
    assert factors[0] == 1 and len(set(factors)) > 1
    for before, after in zip(rows, rows[1:]):
        assert after["adapt"] == pytest.approx(min(max(before["adapt"] + 10 / 4 * before["gap"], 0), 2), abs=6e-5)
    for epoch, factor in enumerate(factors):
        assert seen["table"][epoch] == pytest.approx(factor * 0.1 / (0.9 + factor * 0.1), rel=1e-6)
        factor = factors[max(epoch - 1, 0)]
        expected = [factor * p / (1 - p + factor * p) for p in (0.4, 0.2)]
        assert seen["plan"][epoch] == pytest.approx(expected, rel=1e-6)
    split = Path(config.project, "run", "split.csv").read_text()
    assert split.count(",held\n") == len(prepare_pictures(config).held) > 0


def weights(config):
    return load_checkpoint(f"{config.project}/{config.name}/best.pt")["weights"]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_stopped_run_ends_with_the_same_factors_and_bits(adapting):
    whole = Config(**adapting, name="whole", monitor="last")
    train.train(whole)
    for until in (1, 3, 0):
        train.train(Config(**adapting, name="stopped", monitor="last", until=until, resume=True))
    stopped = Config(**adapting, name="stopped")
    columns = ("adapt", "gap", "train_loss", "macro_f1")
    assert [[row[c] for c in columns] for row in results(stopped)] == [[r[c] for c in columns] for r in results(whole)]
    assert same(weights(stopped), weights(whole))


def test_validation_labels_never_enter(adapting, monkeypatch):
    config = Config(**adapting | dict(epochs=3), name="told", monitor="last")
    train.train(config)
    prepare = train.prepare_pictures

    def wrong(config):
        pictures = prepare(config)
        pictures.listing.labels[pictures.val] = 0
        return pictures

    monkeypatch.setattr(train, "prepare_pictures", wrong)
    other = dataclasses.replace(config, name="mistold")
    train.train(other)
    assert [r["adapt"] for r in results(config)] == [r["adapt"] for r in results(other)]
    assert [r["macro_f1"] for r in results(config)] != [r["macro_f1"] for r in results(other)]
    assert same(weights(config), weights(other))


def test_a_training_on_all_pictures_follows_the_path_and_holds_nothing_back(adapting):
    config = Config(**adapting | dict(val_split=0.0), adapt_path="1:0.5:1.5:2")
    assert len(prepare_pictures(config).held) == 0 and len(prepare_pictures(config).train) == sum(COUNTS.values())
    train.train(config)
    rows = results(config)
    assert [row["adapt"] for row in rows] == [1, 0.5, 1.5, 2] and "gap" not in rows[0]
    assert adapt.measures(dataclasses.replace(config, val_split=0.2), 9)  # with validation pictures it measures again


def test_a_path_is_spread_over_the_training_and_is_a_mean(tmp_path):
    assert [adapt.followed("1:2", epoch, 5) for epoch in range(5)] == pytest.approx([1, 1.25, 1.5, 1.75, 2])
    assert adapt.followed("1:2", 5, 5) == 2 and adapt.followed("0.5", 3, 5) == 0.5
    for name, path in (("a", [1, 1.2, 1.4, 1.6]), ("b", [1, 0.8])):
        (tmp_path / name).mkdir()
        lines = ["epoch,adapt", *(f"{k},{value}" for k, value in enumerate(path))]
        (tmp_path / name / "results.csv").write_text("\n".join(lines) + "\n")
    assert adapt.mean_path([tmp_path / "a", tmp_path / "b"], 4) == "1:1:1.1:1.2"


@pytest.mark.parametrize("path", ["x", "1:", "1:2.1", "1:-0.1", "nan"])
def test_a_path_of_something_else_is_refused(path):
    with pytest.raises(ConfigError, match="--adapt-path .*: give numbers from 0 to 2, joined by ':'"):
        Config(adapt_path=path)
