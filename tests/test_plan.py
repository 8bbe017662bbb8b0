"""The tables: shapes, coverage, independence, purity; schedules against torch.optim."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losses
from augment import Views, sampled
from engine.evaluate import shown
from mixup import Mixing, label_counts
from pictures import painters
from plan import (
    Course,
    Material,
    Plan,
    draw_plan,
    ema_weights,
    evaluation_plans,
    learning_rates,
    sampled_counts,
    steps_per_epoch,
    store_level,
    view_size,
)

ROOT = Path(__file__).resolve().parent.parent
SHAPES = dict(box=(4,), geo=(2, 3), geo_b=(2, 3), col=(3, 4), col_b=(3, 4), erase=(4,))  # of a row; else a number
DTYPES = dict.fromkeys(("index", "partner", "box", "erase"), np.int32) | dict(key=np.int64)  # the others: float32
SHARED = ("lr", "view_size", "ema_weight", "key")  # a number a step
EVERYTHING = dict(mixup_p=0.4, cutmix_p=0.3, crop_scale=(0.5, 1.0), rotate=10.0, jitter=0.2, erase=0.5)


def pictures(counts=(23, 11, 5), seed=0):
    """Labels and means of a Store, its training rows (two thirds of it, shuffled in), and their counts."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), np.array(counts) * 3 // 2))
    rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)]))
    return labels, rng.random((len(labels), 3), np.float32), rows, np.array(counts)


def draw(data=None, **options):
    settings = dict(
        epoch=0,
        seed=0,
        img_size=32,
        size=32,
        store_size=40,
        batch_size=8,
        epochs=10,
        lr=0.1,
        schedule="cosine",
        warmup=0.0,
        balance="none",
        mixup_p=0.0,
        mixup_alpha=1.0,
        mixup_by="row",
        mixup_pair="uniform",
        cutmix_p=0.0,
        cutmix_pair="uniform",
        crop_scale=(1.0, 1.0),
        pad=0,
        flip=True,
        rotate=0.0,
        jitter=0.0,
        erase=0.0,
        tail_crops=(0, 1),
        one_op=False,
        ema_epochs=2.0,
    )
    settings |= options
    labels, means, rows, counts = data or pictures()
    material = Material(labels, means, rows, counts, settings["size"], settings["store_size"])
    groups = (of(kind, settings) for kind in (Course, Mixing, Views))
    return draw_plan(material, settings["epoch"], *groups)


def of(kind, settings):
    """A dataclass of settings from a dict that holds them among others."""
    return kind(**{name: settings[name] for name in kind.__dataclass_fields__})


def same(a, b, *tables):
    return all(np.array_equal(getattr(a, t), getattr(b, t)) for t in tables or Plan._fields)


def times(values, data):
    """How often each row of the Store stands in `values`."""
    return np.bincount(values.ravel(), minlength=len(data[0]))


def formed(plan, steps, batch_size):
    """Whether every table has the shape and dtype of docs/design.md."""
    for name, table in plan._asdict().items():
        assert table.dtype == DTYPES.get(name, np.float32), name
        form = dict.fromkeys(SHARED, (steps,)).get(name, (steps, batch_size, *SHAPES.get(name, ())))
        assert table.shape == form, name
    return True


# Form


@pytest.mark.parametrize("by", ["row", "batch", "class", "class-batch"])
@pytest.mark.parametrize("balance", ["none", "sampler", "weights"])
def test_every_table_has_the_designs_shape_and_dtype(by, balance):
    plan = draw(**EVERYTHING | dict(mixup_by=by, balance=balance, tail_crops=(6, 3)))
    steps = -(-(23 + 11 + 3 * 5) // 8)
    assert formed(plan, steps, 8)
    assert steps_per_epoch(np.array([23, 11, 5]), 8, (6, 3)) == steps
    assert (plan.key >= 0).all() and len(np.unique(plan.key)) == steps


@pytest.mark.parametrize(
    "counts, batch_size, size, store_size",
    [
        ((1,), 1, 8, 8),
        ((1,), 4, 8, 9),
        ((9,), 4, 64, 73),
        ((4, 0, 0), 64, 8, 8),
        ((2, 1), 3, 16, 16),
        ((3, 3, 3), 500, 224, 256),
    ],
)
@pytest.mark.parametrize("by", ["row", "class-batch"])
def test_small_and_odd_data(counts, batch_size, size, store_size, by):
    data = pictures(counts)
    data[1][:] = 0  # black pictures
    plan = draw(
        data,
        batch_size=batch_size,
        size=size,
        store_size=store_size,
        mixup_by=by,
        **EVERYTHING | dict(mixup_p=(0.3, 0.7) if by != "row" else 0.4, crop_scale=(1.0, 1.0)),
    )
    assert plan.index.shape == (-(-sum(counts) // batch_size), batch_size)
    assert np.isin(plan.index, data[2]).all() and np.isin(plan.partner, data[2]).all()
    assert all(np.isfinite(table).all() for table in plan)
    seen = times(plan.index, data)[data[2]]
    assert seen.min() >= 1 and np.ptp(seen) <= 1


# Which rows


def test_permutations_cover_every_row_and_top_up_the_last_batch():
    data = pictures()
    plan = draw(data)
    flat, n = plan.index.ravel(), len(data[2])
    assert len(flat) == 40 and n == 39
    assert (np.sort(flat[:n]) == data[2]).all() and flat[n] in data[2]
    big = draw(data, batch_size=100).index.ravel()  # more than twice the data: whole permutations, then a part of one
    assert (np.sort(big[:n]) == data[2]).all() and (np.sort(big[n : 2 * n]) == data[2]).all()
    assert len(set(big[2 * n :])) == 100 - 2 * n and (big[:n] != big[n : 2 * n]).any()
    assert (flat[:n] != np.sort(flat[:n])).any()
    later = draw(data, epoch=1).index.ravel()
    assert (np.sort(later[:n]) == data[2]).all() and (later != flat).any()


def test_partners_are_drawn_like_the_rows():
    data = pictures()
    plan = draw(data, mixup_p=1.0, batch_size=39)
    assert (np.sort(plan.partner[0]) == data[2]).all() and (plan.partner != plan.index).any()
    balanced = draw(data, mixup_p=1.0, batch_size=60, balance="sampler")
    assert (np.bincount(data[0][balanced.partner.ravel()]) == 20).all()


@pytest.mark.parametrize("by", ["row", "class"])
def test_who_does_not_mix_is_their_own_partner(by):
    plan = draw(mixup_by=by, **EVERYTHING)
    alone = plan.lam == 1
    assert 0 < alone.mean() < 1
    assert (plan.partner == plan.index)[alone].all() and (plan.partner != plan.index)[~alone].any()
    assert (plan.geo != plan.geo_b).any((2, 3)).all()  # its view is its own
    assert (plan.col != plan.col_b).any((2, 3)).all()
    area = (plan.box[..., 2] - plan.box[..., 0]) * (plan.box[..., 3] - plan.box[..., 1])
    cut = plan.box.any(-1)
    assert 0 < cut.mean() < 1 and (plan.lam[cut] == (1 - area[cut] / 32**2).astype(np.float32)).all()


@pytest.mark.parametrize("by", ["row", "batch"])
def test_contrast_is_about_each_pictures_own_mean(by):
    data = pictures()
    data[1][::2] = 0  # about black, nothing is added
    plan = draw(data, mixup_p=1.0, jitter=0.2, mixup_by=by)
    assert ((plan.col[..., 3] != 0).all(-1) == plan.index % 2).all()
    assert ((plan.col_b[..., 3] != 0).all(-1) == plan.partner % 2).all()


@pytest.mark.parametrize("by", ["batch", "class-batch"])
def test_a_batch_mixes_with_a_permutation_of_itself_and_its_views(by):
    plan = draw(pictures((120, 60, 20)), batch_size=16, **EVERYTHING | dict(mixup_by=by))
    assert (np.sort(plan.partner, 1) == np.sort(plan.index, 1)).all()
    turns = []
    for t, step in enumerate(plan.index):
        row = {i: b for b, i in enumerate(step)}
        if len(row) == 16:  # a topped-up batch may show a picture twice
            turn = [row[i] for i in plan.partner[t]]
            assert np.array_equal(plan.geo_b[t], plan.geo[t, turn]) and np.array_equal(plan.col_b[t], plan.col[t, turn])
            turns.append(tuple(turn))
        assert len(np.unique(plan.lam[t])) == 1 and len(np.unique(plan.box[t], axis=0)) == 1
    assert len(set(turns)) == len(turns) > 10


def test_the_sampler_gives_equal_shares_and_goes_through_each_class_evenly():
    data = pictures((23, 11, 5, 2))
    for epoch in range(4):
        plan = draw(data, balance="sampler", batch_size=6, epoch=epoch)
        per_class = np.bincount(data[0][plan.index.ravel()], minlength=4)
        assert plan.index.size == 42 and np.ptp(per_class) <= 1
        seen = times(plan.index, data)
        for c in range(4):
            own = seen[data[2][data[0][data[2]] == c]]
            assert np.ptp(own) <= 1 and own.sum() == per_class[c]
        assert seen.sum() == 42 and not seen[np.setdiff1d(np.arange(len(data[0])), data[2])].any()
    assert all(len(set(step)) > 1 for step in data[0][plan.index])  # shuffled, not class after class
    assert sampled_counts(data[3], "sampler", (0, 1)) == pytest.approx([41 / 4] * 4)
    assert sampled_counts(np.array([6, 0, 2]), "sampler", (3, 2)) == pytest.approx([5, 0, 5])


def test_tail_crops_give_rare_classes_more_and_stronger_views():
    data = pictures((60, 30, 12, 4))
    options = dict(batch_size=1, flip=False, tail_crops=(30, 3))  # under 30: the class of 30 is not
    plan = draw(data, **options)
    seen = times(plan.index, data)[data[2]]
    assert (seen == np.array([1, 1, 3, 3])[data[0][data[2]]]).all()
    assert sampled_counts(data[3], "none", (30, 3)).tolist() == [60, 30, 36, 12]
    assert steps_per_epoch(data[3], 5, (30, 3)) == 28
    tail = (data[0][plan.index] >= 2)[:, 0]
    geo, col = plan.geo[:, 0].astype(float), plan.col[:, 0]
    assert (geo[~tail] == [[1, 0, 4], [0, 1, 4]]).all() and (col[~tail] == np.eye(3, 4)).all()
    angle = np.rad2deg(np.arctan(geo[:, 1, 0] / geo[:, 1, 1]))[tail]
    share = np.linalg.det(geo[:, :, :2])[tail] * (32 / 40) ** 2
    assert 12 < np.abs(angle).max() <= 15 and 0.6 - 1e-6 <= share.min() < 0.7 < share.max() <= 1
    factor = col[tail][:, 0, :3].sum(1)  # brightness * contrast
    assert 0.8**2 - 1e-6 <= factor.min() < 0.85 and 1.15 < factor.max() <= 1.2**2 + 1e-6
    views = {tuple(g.ravel()) for g, i in zip(geo, plan.index[:, 0]) if i == plan.index[tail][0, 0]}
    assert len(views) == 3  # three views, not three copies

    strong = draw(data, **options | dict(crop_scale=(0.3, 1.0), rotate=40.0, jitter=0.5))  # never weaker than others
    angle = np.rad2deg(np.arctan(strong.geo[:, 0, 1, 0].astype(float) / strong.geo[:, 0, 1, 1]))
    assert np.abs(angle[tail]).max() > 25 and np.abs(angle[~tail]).max() > 25
    assert np.linalg.det(strong.geo[tail, 0, :, :2]).min() * (32 / 40) ** 2 < 0.45
    assert strong.col[tail, 0, 0, :3].sum(1).max() > 1.6
    mixed = draw(data, **options | dict(mixup_p=1.0))  # a rare class's partner view is strong as well
    turned = mixed.geo_b[:, 0, 1, 0] != 0
    assert (turned == (data[0][mixed.partner] >= 2)[:, 0]).all()


def test_balanced_partners_are_drawn_by_class():
    data = pictures((90, 30, 6))
    settings = dict(mixup_p=1.0, batch_size=126)
    plain, apart = draw(data, **settings), draw(data, **settings, mixup_pair="balanced")
    assert same(plain, apart, "index", "box", "geo", "key")
    found = np.bincount(data[0][apart.partner.ravel()], minlength=3)
    assert (np.bincount(data[0][apart.index.ravel()], minlength=3) == [90, 30, 6]).all() and (found == 42).all()
    cut = dict(settings, mixup_p=0.5, cutmix_p=0.5)  # CutMix's partners are as ever
    plain, apart = draw(data, **cut), draw(data, **cut, mixup_pair="balanced")
    boxed = plain.box.any(-1)
    assert same(plain, apart, "box") and np.array_equal(plain.partner[boxed], apart.partner[boxed])
    assert (plain.partner != apart.partner).any()


def test_tail_boxes_are_of_every_class_equally_often_and_not_at_either_end():
    data = pictures((90, 30, 6))
    settings = dict(cutmix_p=0.5, mixup_p=0.5, batch_size=126 * 40, epochs=80)
    assert (draw(data, **settings, cutmix_pair="tail", epoch=2).box == 0).all()
    for epoch in (3, 76):
        plain, tail = (draw(data, **settings, cutmix_pair=pair, epoch=epoch) for pair in ("uniform", "tail"))
        assert {name for name in Plan._fields if not same(plain, tail, name)} == {"partner"}
        boxed = tail.box.any(-1)
        assert np.array_equal(plain.partner[~boxed], tail.partner[~boxed])
    many = draw(
        data, cutmix_p=1.0, cutmix_pair="tail", batch_size=126 * 800, size=32, store_size=32, epoch=3, epochs=80
    )
    found = np.bincount(data[0][many.partner[many.lam < 1]], minlength=3)
    assert found.sum() > 90_000
    assert ((found - found.sum() / 3) ** 2 / (found.sum() / 3)).sum() < 13.8  # chi-square of 2, once in a thousand
    for epoch in (77, 79):
        tail, none = (
            draw(data, **settings, cutmix_pair="tail", epoch=epoch),
            draw(data, **settings | dict(cutmix_p=0.0, epoch=epoch)),
        )
        assert same(tail, none)


def test_remix_mixes_pixels_as_plain_mixup_does():
    data = pictures((90, 30, 6))
    settings = dict(mixup_p=0.7, cutmix_p=0.3, batch_size=126)
    plain, remix = draw(data, **settings), draw(data, **settings, mixup_pair="remix")
    assert {name for name in Plan._fields if not same(plain, remix, name)} == {"lam"}
    own, other = (data[3][data[0][rows]] for rows in (remix.index, remix.partner))
    moved = remix.lam != remix.blend
    assert moved.mean() > 0.05 and (np.maximum(own / other, other / own)[moved] >= 3).all()
    assert ((remix.lam == 1) == (own < other))[moved].all() and np.isin(remix.lam[moved], (0, 1)).all()


def test_targeted_partners_are_drawn_by_one_over_their_classes_count():
    """Chi-square of 10^5 draws, by class and, within a class, by picture."""
    data = pictures((60, 20, 5, 0, 2))
    plan = draw(data, mixup_p=1.0, mixup_alpha=0.8, mixup_pair="targeted", batch_size=100_000, size=8, store_size=8)
    chance = np.array([1 / 60, 1 / 20, 1 / 5, 0, 1 / 2])
    expected = 100_000 * chance / chance.sum()
    found = np.bincount(data[0][plan.partner.ravel()], minlength=5)
    there = chance > 0
    assert found[3] == 0
    assert ((found - expected) ** 2)[there] @ (1 / expected[there]) < 16.3  # 3 degrees, passed once in a thousand
    each = (expected[there] / data[3][there])[np.searchsorted(np.flatnonzero(there), data[0][data[2]])]
    found = times(plan.partner, data)[data[2]]
    assert (found - each) ** 2 @ (1 / each) < 131  # 86 degrees, once in a thousand
    assert plan.blend.tobytes() == plan.lam.tobytes()
    own, other = (data[3][data[0][table]] for table in (plan.index, plan.partner))
    assert plan.lam[own > 3 * other].mean() < 0.49 and plan.lam[other > 3 * own].mean() > 0.51  # the rarer weighs more


# What the targets add up to


PAIRS = [
    dict(mixup_pair="balanced"),
    dict(mixup_pair="balanced", mixup_alpha=0.2, balance="sampler"),
    dict(mixup_pair="remix"),
    dict(mixup_pair="remix", mixup_alpha=0.4),
    dict(mixup_by="class"),
    dict(mixup_by="class", mixup_pair="balanced", cutmix_p=0.0),
    dict(mixup_pair="remix", tail_crops=(20, 3)),
    dict(mixup_by="class-batch"),
    dict(mixup_pair="targeted", mixup_alpha=0.8),
    dict(mixup_pair="targeted", mixup_alpha=0.5, mixup_by="class", balance="sampler"),
    dict(cutmix_pair="tail"),
    dict(cutmix_pair="tail", mixup_pair="balanced", mixup_alpha=0.3),
    dict(cutmix_pair="tail", mixup_by="class", tail_crops=(20, 3)),
]


def expected_counts(data, options):
    """Rows an epoch draws of each class, and how much of the targets each gets, by closed forms."""
    drawn = sampled_counts(data[3], options["balance"], options["tail_crops"])
    settings = dict(mixup_alpha=1.0, mixup_by="row", mixup_pair="uniform")
    settings |= dict(cutmix_p=0.3, cutmix_pair="uniform") | options
    return drawn, label_counts(drawn, data[3], of(Mixing, settings))


@pytest.mark.parametrize("options", PAIRS, ids=lambda o: " ".join(map(str, o.values())))
def test_the_classes_shares_of_the_targets_are_what_the_tables_add_up_to(options):
    """10^5 rows: each class's sum of target weights, within 4.5 standard errors of the closed form."""
    options = dict(balance="none", tail_crops=(0, 1), cutmix_p=0.3) | options
    options["mixup_p"] = (0.2, 0.9) if options.get("mixup_by", "row").startswith("class") else 0.6
    data = pictures((60, 33, 11, 11, 2, 0))
    n_classes = len(data[3])
    # Batches of a whole number of permutations: the rows' own classes have no chance in them.
    batch = 96 * int(sampled_counts(data[3], "none", options["tail_crops"]).sum())
    found = []
    for epoch in range(10):
        plan = draw(data, batch_size=batch, size=32, store_size=32, epoch=20 + epoch, epochs=40, **options)
        own, other, lam = data[0][plan.index], data[0][plan.partner], plan.lam.astype(float)
        found.append(
            np.bincount(own.ravel(), lam.ravel(), n_classes) + np.bincount(other.ravel(), 1 - lam.ravel(), n_classes)
        )
    assert plan.index.size * 10 >= 10**5
    drawn, expected = expected_counts(data, options)
    found = np.array(found) / batch
    error = found.std(0, ddof=1) / len(found) ** 0.5
    difference = found.mean(0) - expected / drawn.sum()
    # Ten epochs estimate the error itself to a quarter: a floor of what binomial rows would have.
    floor = (expected / drawn.sum() / (10 * batch)) ** 0.5
    assert (np.abs(difference) <= 4.5 * np.maximum(error, floor / 3)).all()
    assert expected.sum() == pytest.approx(drawn.sum(), rel=1e-12)
    assert np.array_equal(expected, drawn) or options.get("mixup_by") != "class-batch"


def test_plain_mixup_leaves_the_prior_as_it_is_to_the_bit():
    counts = np.array([560, 30, 3, 0])
    for balance in ("none", "sampler"):
        drawn, expected = expected_counts(
            (None, None, None, counts), dict(balance=balance, tail_crops=(9, 2), mixup_p=0.6)
        )
        assert drawn.tobytes() == expected.tobytes()


class Styles:
    """The built-in set's painters, whose true posterior is known, by style instead of by picture, and a network."""

    def __init__(self):
        truth = painters.draw(classes=10, scale=2, seed=3, difficulty=6, label_noise=0)
        self.labels, self.test, self.posterior = truth["true"], truth["test"], truth["posterior"]
        self.counts = np.bincount(self.labels[~self.test], minlength=10)
        levels = [np.eye(n, dtype=np.float32)[truth["styles"][:, i]] for i, n in enumerate(painters.LEVELS)]
        self.x = torch.from_numpy(np.concatenate(levels, 1))
        self.data = self.labels, np.zeros((len(self.labels), 3)), np.flatnonzero(~self.test), self.counts
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = torch.nn.Linear(self.x.shape[1], 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)
            self.net = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.Adam(self.net.parameters())

    def train(self, epoch, table, **options):
        """One epoch of a plan's rows."""
        plan = draw(self.data, size=8, store_size=8, batch_size=256, epochs=12, lr=0.02, epoch=epoch, **options)
        for index, partner, lam, blend, lr in zip(plan.index, plan.partner, plan.lam, plan.blend, plan.lr):
            share = torch.from_numpy(blend)[:, None]
            logits = self.net(self.x[index] * share + self.x[partner] * (1 - share))
            a, b = (torch.from_numpy(self.labels[rows]) for rows in (index, partner))
            self.optimizer.param_groups[0]["lr"] = float(lr)
            self.optimizer.zero_grad()
            losses.loss(logits, a, b, torch.from_numpy(lam), table).mean().backward()
            self.optimizer.step()

    def divergence(self, bias):
        """From the true posterior of the test pictures, in nats a picture, with this bias on the logits."""
        logits = self.net(self.x[self.test]).detach().numpy()
        log_posterior = torch.log_softmax(torch.from_numpy(logits + bias).double(), 1)
        true = torch.from_numpy(self.posterior[self.test])
        return torch.nn.functional.kl_div(log_posterior, true, reduction="batchmean").item()


@pytest.mark.parametrize("pair", ["balanced", "targeted"])
def test_posteriors_are_right_after_the_bias_of_what_the_targets_add_up_to(pair):
    """A network that is trained on a plan's rows comes close to the true posterior with the bias of `label_counts`, and
    does not with that of the rows."""
    styles = Styles()
    table = losses.loss_table(styles.counts)
    options = dict(mixup_pair=pair, mixup_p=1.0, cutmix_p=0.0)
    for epoch in range(12):
        styles.train(epoch, table, **options)
    drawn, seen = expected_counts(styles.data, dict(options, balance="none", tail_crops=(0, 1)))

    def divergence(sampled):
        return styles.divergence(losses.posterior_bias(table, sampled, styles.counts, "train"))

    assert divergence(seen) < 0.05 and divergence(seen) < 0.6 * divergence(drawn)


@pytest.mark.parametrize("tau", [0.0, 1.0], ids=["weights", "tau"])
def test_posteriors_are_right_at_the_end_of_every_stage(tau):
    """Of deferred re-weighting and of deferred logit adjustment: each stage's own bias makes its logits the true
    posterior, and that of the other stage does not."""
    styles = Styles()
    objective = losses.Objective(
        gamma=0.0,
        alpha=1.0,
        ls=0.0,
        ls_by="progress",
        loss_tau=tau,
        balance="none",
        margin=0.0,
        drw=0.5,
        prior="train",
    )
    tables = [losses.schedule(objective, styles.counts, epoch, 12) for epoch in (0, 11)]
    biases = [losses.posterior_bias(table, styles.counts, styles.counts, "train") for table in tables]
    for epoch in range(12):
        own = losses.stage(objective, epoch, 12)
        styles.train(epoch, tables[own], mixup_p=0.0, cutmix_p=0.0)
        if epoch in (5, 11):
            right, wrong = styles.divergence(biases[own]), styles.divergence(biases[1 - own])
            assert right < 0.06 and right < 0.5 * wrong, (epoch, right, wrong)


# Independence and purity


@pytest.mark.parametrize(
    "change, touched",
    [
        (dict(mixup_p=0.4), ("lam", "blend", "partner", "col_b")),
        (dict(mixup_p=0.4, mixup_by="batch"), ("lam", "blend", "partner", "geo_b", "col_b")),
        (dict(cutmix_p=0.4), ("lam", "blend", "box", "partner", "col_b")),
        (dict(mixup_pair="balanced"), ()),  # it changes mixup, which is off
        (dict(mixup_pair="remix"), ()),
        (dict(mixup_pair="targeted"), ()),
        (dict(cutmix_pair="tail"), ()),
        (dict(jitter=0.2), ("col", "col_b")),
        (dict(crop_scale=(0.5, 1.0)), ("geo", "geo_b")),
        (dict(pad=4), ("geo", "geo_b")),
        (dict(one_op=True), ("geo", "geo_b", "col", "col_b")),
        (dict(rotate=9.0), ("geo", "geo_b")),
        (dict(flip=False), ("geo", "geo_b")),
        (dict(erase=0.5), ("erase",)),
        (dict(lr=0.2), ("lr",)),
        (dict(warmup=2.0), ("lr",)),
        (dict(balance="weights"), ()),
    ],
)
def test_a_method_touches_only_its_own_tables(change, touched):
    base = dict(jitter=0.1, rotate=3.0)
    plain, changed = draw(**base), draw(**base | change)
    assert {name for name in Plan._fields if not same(plain, changed, name)} == set(touched)


def test_pure_in_its_arguments():
    numpy_state, torch_state = str(np.random.get_state()), torch.get_rng_state()
    data = pictures()
    data_before = [np.array(v) for v in data]
    plan = draw(data, **EVERYTHING)
    assert same(plan, draw(pictures(), **EVERYTHING))
    assert all(np.array_equal(a, b) for a, b in zip(data, data_before))
    assert str(np.random.get_state()) == numpy_state and torch.equal(torch.get_rng_state(), torch_state)
    for change in (dict(seed=1), dict(epoch=1), dict(seed=2**31 - 1, epoch=99_999)):
        other = draw(data, **EVERYTHING | change)
        assert not any(same(plan, other, name) for name in set(Plan._fields) - set(SHARED[:3]))
    assert not same(draw(seed=0, epoch=1), draw(seed=1, epoch=0), "index")


def test_equal_in_another_process():
    code = (
        "import sys, zlib; sys.path[:0] = sys.argv[1:]; from test_plan import draw, EVERYTHING; "
        "print([zlib.crc32(v.tobytes()) for v in draw(**EVERYTHING)])"
    )
    env = dict(os.environ, PYTHONHASHSEED="7")
    command = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests")]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str([zlib.crc32(v.tobytes()) for v in draw(**EVERYTHING)])


# Learning rates


def course(**options):
    defaults = dict.fromkeys(Course.__dataclass_fields__)
    return Course(**(defaults | options))


def rates(epochs, count, **options):
    settings = dict(lr=0.1, schedule="cosine", warmup=0.0) | options
    every = [learning_rates(e, count, course(epochs=epochs, **settings)) for e in range(epochs)]
    return np.concatenate(every).astype(float)


def test_the_average_looks_back_a_number_of_epochs():
    steps, back, epochs = 37, 3.0, 60
    weights = np.concatenate([ema_weights(e, steps, back) for e in range(epochs)]).astype(float)
    # What step s adds to the average is its own weight times what every later step keeps.
    kept_after = np.append(np.cumprod(1 - weights[::-1])[::-1][1:], 1.0)
    share = weights * kept_after
    assert share.sum() == pytest.approx(1, abs=1e-6)
    newest = len(share) - 1
    ago = round(back * steps)
    assert share[newest - ago] / share[newest] == pytest.approx(np.exp(-1), rel=1e-3)
    # Early on the average reaches back a ninth of what was trained, however far it may reach.
    early = ema_weights(0, steps, 1000.0)
    assert early[-1] == pytest.approx(9 / (10 + steps), rel=1e-6)


@pytest.mark.parametrize("back", [0.0, 1e-3, 0.4, 1000.0])
def test_weights_of_the_average_are_shares(back):
    found = ema_weights(2, 1, back)
    assert found.dtype == np.float32 and (found > 0).all() and (found <= 1).all()


def torchs(scheduler, total, **options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule, found = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **options), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


def test_cosine_is_torchs_at_the_middle_of_each_step():
    ours = rates(5, 40)
    assert ours == pytest.approx(torchs("CosineAnnealingLR", 400, T_max=400)[1::2], abs=1e-7)
    assert ours[0] < 0.1 and 0 < ours[-1] < 1e-5


def test_onecycle_is_torchs():
    # torch's peak lies 0.35 of a step before 30%: the cosine's steepest slope over twice that bounds the difference.
    ours = rates(20, 50, schedule="onecycle")
    theirs = torchs("OneCycleLR", 2000, max_lr=0.1, total_steps=2001)[1::2]
    assert np.abs(ours - theirs).max() < 0.1 * np.pi / 2 / 0.3 * 0.7 / 1000
    assert ours.argmax() == pytest.approx(theirs.argmax(), abs=1) and ours.max() == pytest.approx(0.1, rel=1e-4)
    assert ours[0] == pytest.approx(0.1 / 25, rel=1e-3) and ours[-1] < 0.1 * 1e-5


def test_step_and_constant_in_closed_form():
    assert (rates(10, 7, schedule="constant") == np.float32(0.1)).all()
    step = rates(200, 3, schedule="step", warmup=5.0)  # CIFAR-100-LT's: x0.01 at 160 and at 180
    assert step[15:480] == pytest.approx(0.1)
    assert step[480:540] == pytest.approx(1e-3) and step[540:] == pytest.approx(1e-5)
    assert step[:15] == pytest.approx(0.1 * (np.arange(15) + 0.5) / 15)


def test_warmup_then_cosine():
    ours = rates(10, 8, warmup=2.0)
    assert ours[:16] == pytest.approx(0.1 * (np.arange(16) + 0.5) / 16)
    assert ours[16:] == pytest.approx(torchs("CosineAnnealingLR", 128, T_max=128)[1::2], abs=1e-7)
    assert rates(3, 4, warmup=6.0) == pytest.approx(0.1 * (np.arange(12) + 0.5) / 24)  # never gets warm
    assert rates(3, 4, warmup=0.5)[:2] == pytest.approx([0.025, 0.075])
    assert rates(1, 1) == pytest.approx([0.05])


@pytest.mark.parametrize("epochs, warm", [(80, 3.0), (12, 3.0), (8, 2.0), (2, 0.5), (1, 0.25)])
def test_the_default_warmup_gives_way_when_epochs_are_few(epochs, warm):
    """The peak is reached and the rate decays, however short the run."""
    ours = rates(epochs, 200, warmup="auto")
    assert np.array_equal(ours, rates(epochs, 200, warmup=warm))
    assert ours.max() > 0.097 and ours[-1] < 0.01 * 0.1
    assert np.argmax(ours) == pytest.approx(warm * 200, abs=8)


def test_a_plan_carries_its_epochs_rates():
    found = np.concatenate([draw(epoch=e, epochs=4, warmup=1.0).lr for e in range(4)])
    assert found == pytest.approx(rates(4, 5, warmup=1.0))


# Progressive resolution


def test_views_grow_in_four_equal_stages():
    sizes = [view_size(e, course(epochs=12, img_size=(128, 224)), 224) for e in range(12)]
    assert sizes == [128] * 3 + [160] * 3 + [192] * 3 + [224] * 3
    assert [view_size(e, course(epochs=12, img_size=224), 224) for e in range(12)] == [224] * 12
    for epochs in range(1, 40):
        sizes = [view_size(e, course(epochs=epochs, img_size=(30, 61)), 61) for e in range(epochs)]
        assert sizes == sorted(sizes) and sizes[-1] == 61 and set(sizes) <= {30, 38, 54, 61}


@pytest.mark.parametrize("size", [8, 33, 64, 128, 224, 1024])
@pytest.mark.parametrize("store_size", [8, 73, 256, 1170])
def test_a_view_comes_from_the_level_that_is_closest_to_an_antialiased_resize(size, store_size):
    """Own level and half the side: 35.9 and 35.5 dB at 1.8, 35.2 and 36.3 at 1.9 (whole painters, bench/levels.py)."""
    side = store_level(size, store_size)
    assert side / size <= 1.8 and store_size >> 8 <= side <= store_size
    assert side == store_size or 2 * side / size > 1.8 - 2 / size  # no smaller than it must be


def test_a_small_epoch_shows_what_a_large_one_does():
    """The same pictures, crops, mirrors and colours, in another grid: corners meet at the same share of the picture."""
    options = dict(size=224, store_size=256, epochs=8, crop_scale=(0.3, 1.0), rotate=20.0, jitter=0.2, mixup_p=0.5)
    for more in ({}, dict(crop_scale=(1.0, 1.0))):
        whole, small = (draw(img_size=img_size, **options | more) for img_size in (224, (128, 224)))
        assert (whole.view_size == 224).all() and (small.view_size == 128).all()
        for name in ("index", "partner", "lam", "col", "col_b", "key"):
            assert same(whole, small, name), name
        for name in ("geo", "geo_b"):
            corners = [np.array([[0, 0, 1], [s, 0, 1], [0, s, 1], [s, s, 1]], float).T for s in (224, 128)]
            one, other = (
                getattr(p, name).astype(float) @ c / side for p, c, side in zip((whole, small), corners, (256, 128))
            )
            np.testing.assert_allclose(one, other, atol=1e-5)


# Evaluation


@pytest.mark.parametrize("n, batch_size", [(1, 4), (8, 4), (9, 4), (3, 1), (5, 128)])
@pytest.mark.parametrize("views, count", [("none", 1), ("flip", 2), ("crops", 10)])
def test_evaluation_shows_every_row_once_in_order(n, batch_size, views, count):
    rows = np.random.default_rng(0).permutation(50)[:n]
    found = evaluation_plans(rows, size=16, store_size=23, shown=23, batch_size=batch_size, views=views)
    assert len(found) == count
    for plan in found:
        flat = plan.index.ravel()
        assert formed(plan, -(-n // batch_size), batch_size)
        assert (flat[:n] == rows).all() and (flat[n:] == rows[-1]).all()
        assert (plan.lam == 1).all() and (plan.partner == plan.index).all() and (plan.col == np.eye(3, 4)).all()
        assert not plan.box.any() and not plan.erase.any()


def test_evaluation_views():
    def boxes(views, store_size, shown=16):
        found = evaluation_plans(np.arange(2), size=16, store_size=store_size, shown=shown, batch_size=2, views=views)
        ends = [(p.geo[0, 1] @ [0, 0, 1], p.geo[0, 0] @ [16, 16, 1]) for p in found]
        return [(*a.astype(int), *b.astype(int)) for a, b in ends]  # x, y of the view's first corner and of its last

    assert boxes("none", 23) == [(3, 3, 19, 19)]  # as training's centre crop
    assert boxes("none", 23, 23) == [(0, 0, 23, 23)] and boxes("flip", 23, 23)[1] == (23, 0, 0, 23)
    corners = [(0, 0, 16, 16), (7, 0, 23, 16), (0, 7, 16, 23), (7, 7, 23, 23)]
    assert boxes("crops", 23, 23)[::2] == [(0, 0, 23, 23), *corners]
    assert boxes("flip", 23) == [(3, 3, 19, 19), (19, 3, 3, 19)]
    upright, mirrored = boxes("crops", 23)[::2], boxes("crops", 23)[1::2]
    assert upright == [(3, 3, 19, 19), *corners]
    assert mirrored == [(x1, y0, x0, y1) for x0, y0, x1, y1 in upright]
    assert boxes("crops", 16) == [(0, 0, 16, 16), (16, 0, 0, 16)]  # no room to move
    trained = draw(size=16, store_size=23, flip=False).geo
    (evaluated,) = evaluation_plans(np.arange(2), size=16, store_size=23, shown=16, batch_size=2)
    assert (trained == evaluated.geo[0, 0]).all()


def test_a_whole_picture_is_resized_to_the_views_side():
    """Beside torch's own bilinear resize, which puts pixels' centres at the same places."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 23, 23, 3), np.uint8))
    (found,) = evaluation_plans(np.arange(3), size=16, store_size=23, shown=23, batch_size=3)
    geo, col = (torch.from_numpy(np.array(table[0])) for table in (found.geo, found.col))
    views = sampled(pixels, torch.arange(3), geo, col, 16, "reflect")
    resized = F.interpolate(pixels.permute(0, 3, 1, 2).float() / 255, size=16, mode="bilinear", align_corners=False)
    torch.testing.assert_close(views, resized, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "more, whole",
    [({}, True), (dict(crop_scale=[1, 1]), False), (dict(pad=4), False), (dict(crop_scale=(1, 1), pad=4), False)],
)
def test_what_evaluation_shows_is_what_training_could(more, whole):
    options = dict(crop_scale=(0.35, 1.0), pad=0, flip=True, rotate=0.0, jitter=0.0, erase=0.0, tail_crops=(0, 1))
    views = Views(**options | dict(one_op=False) | more)
    assert shown(views, 32, 37) == (37 if whole else 32)
    assert shown(views, 32, 32) == 32


def test_nothing_to_evaluate():
    (plan,) = evaluation_plans(np.arange(0), size=16, store_size=16, shown=16, batch_size=4)
    assert plan.index.shape == (0, 4)
