"""One epoch's randomness as tables, drawn ahead on the host: docs/design.md, "Plan".

Pure in its arguments: the same tables on every device and rank and at a resume. Every table has its own random stream,
so that turning one method on leaves the others' draws alone and two settings can be compared picture by picture.
`python plan.py -c RECIPE --show 3` prints rows and draws the batches that the network would see (reporting/montage.py).
"""

import math
import runpy
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import augment
import mixup

EVALUATION_BATCH = 128  # pictures at a time where nothing is trained
STAGES = 4  # in which views grow
WARMUP = 3.0  # epochs, by default
SHRINK = 1.8  # a view shrinks its source by at most this: above it, half the source is closer (bench/levels.py)


class Plan(NamedTuple):
    """T steps of B rows, as NumPy arrays (or, one step on a device, as tensors without the first axis)."""

    index: np.ndarray  # [T,B] int32, rows of the Store
    partner: np.ndarray  # [T,B] int32
    lam: np.ndarray  # [T,B] float32, weight of `index`'s target
    blend: np.ndarray  # [T,B] float32, weight of `index`'s pixels where `box` is empty
    box: np.ndarray  # [T,B,4] int32 y0 x0 y1 x1, half-open: these pixels are the partner's
    geo: np.ndarray  # [T,B,2,3] float32, output (x + 1/2, y + 1/2, 1) -> Store pixels
    geo_b: np.ndarray  # the partner's
    col: np.ndarray  # [T,B,3,4] float32 on RGB in [0,1]
    col_b: np.ndarray
    erase: np.ndarray  # [T,B,4] int32, like `box`, filled with the mean
    lr: np.ndarray  # [T] float32, learning rate
    view_size: np.ndarray  # [T] float32, side of the views; the same through an epoch
    ema_weight: np.ndarray  # [T] float32, weight of the new weights in the averaged ones
    key: np.ndarray  # [T] int64, seeds the step's dropout


@dataclass(frozen=True)
class Course:
    """Config's settings of how training runs."""

    seed: int
    epochs: int
    batch_size: int
    lr: float
    schedule: str
    warmup: float | str
    ema_epochs: float
    balance: str
    img_size: int | str | tuple[int, int]


@dataclass(frozen=True)
class Material:
    """What an epoch is drawn from."""

    labels: np.ndarray  # int [N], of the whole Store
    means: np.ndarray  # float [N,3], mean colours of the whole Store
    rows: np.ndarray  # the Store's rows to train on
    counts: np.ndarray  # training pictures a class [C]
    size: int  # of views at the end of training
    store_size: int  # the Store's side


def draw_plan(
    material: Material,
    epoch: int,
    course: Course,
    mixing: mixup.Mixing,
    views: augment.Views,
) -> Plan:
    """The Plan of one epoch, counted from 0. Pure: nothing else is read."""
    labels, counts = material.labels, material.counts
    size = view_size(epoch, course, material.size)
    store_size = store_level(size, material.store_size)
    # A centre crop shows the same part of the picture at every size.
    frame = augment.Frame(size, store_size, material.size * store_size / material.store_size)
    steps = steps_per_epoch(counts, course.batch_size, views.tail_crops)
    shape = (steps, course.batch_size)

    def rng(table):
        return stream(course.seed, epoch, table)

    rows = material.rows
    repeats = views_per_class(counts, views.tail_crops)

    def drawn_rows(table, balance):
        drawn = mixup.draw_rows(rng(table), rows, labels[rows], shape[0] * shape[1], balance == "sampler", repeats)
        return drawn.reshape(shape)

    def drawn_partners(pair, table):
        """Rows by --mixup-pair or --cutmix-pair. All methods without a sampler of their own draw the same partners, as
        the rows are drawn."""
        if mixup.by_class(pair):
            return drawn_rows(table, "sampler")
        if pair == "targeted":
            chance = mixup.partner_shares(pair, counts, counts)
            return mixup.draw_rare(rng(table), rows, labels[rows], chance, shape)
        return drawn_rows("partner", course.balance)

    def drawn_views(index, suffix):
        rare = (counts < views.tail_crops[0])[labels[index]]
        return augment.draw_views(lambda table: rng(table + suffix), rare, material.means[index], frame, views)

    mixing = mixup.in_epoch(mixing, epoch, course.epochs, course.schedule)
    index = drawn_rows("index", course.balance)
    geo, col = drawn_views(index, "")
    if mixup.in_batch(mixing.mixup_by):
        order = np.argsort(rng("partner").random(shape), axis=1)
        at = np.arange(steps)[:, None], order
        boxed = blended = index[at]
    else:
        boxed = drawn_partners(mixing.cutmix_pair, "partner_cutmix")
        blended = drawn_partners(mixing.mixup_pair, "partner_mixup")
    lam, blend, box = mixup.draw(rng("mix"), rng("pair"), labels[index], labels[blended], counts, size, mixing)
    partner = np.where(mixup.area(box) > 0, boxed, blended)
    if mixup.in_batch(mixing.mixup_by):
        geo_b, col_b = geo[at], col[at]
    else:
        partner = np.where(blend < 1, partner, index)
        geo_b, col_b = drawn_views(partner, "_b")
    return Plan(
        index=index.astype(np.int32),
        partner=partner.astype(np.int32),
        lam=lam,
        blend=blend,
        box=box,
        geo=geo,
        geo_b=geo_b,
        col=col,
        col_b=col_b,
        erase=augment.draw_erase(rng("erase"), shape, size, views.erase),
        lr=learning_rates(epoch, steps, course),
        view_size=np.full(steps, size, np.float32),
        ema_weight=ema_weights(epoch, steps, course.ema_epochs),
        key=rng("key").integers(0, 2**63, steps, dtype=np.int64),
    )


def evaluation_plans(
    rows: np.ndarray,
    *,
    size: int,
    store_size: int,
    shown: int,
    batch_size: int = EVALUATION_BATCH,
    views: str = "none",
) -> list[Plan]:
    """Plans (one per view) that show every row of `rows` once, unaugmented; the last batch is padded with its last row.

    shown: the side in Store pixels of the middle that is shown. views: 'none': the middle; 'flip': the middle and its
    mirror image; 'crops': also the four corners, `size` wide, and their mirror images.
    """
    steps = math.ceil(len(rows) / batch_size)
    padding = np.repeat(rows[-1:], steps * batch_size - len(rows))
    index = np.concatenate([rows, padding]).reshape(steps, batch_size).astype(np.int32)
    middle, room = (store_size - shown) // 2, store_size - size
    windows = [(middle, middle, shown)]
    if views == "crops" and room:
        windows += [(x, y, size) for y in (0, room) for x in (0, room)]
    mirrors = (1,) if views == "none" else (1, -1)
    return [_plain_plan(index, x, y, side, mirror, size) for x, y, side in windows for mirror in mirrors]


def _plain_plan(index, x, y, side, mirror, size):
    """The Plan that shows rows `index` [T,B] in the window of `side` Store pixels at (x, y), turned left to right where
    mirror is -1."""
    left, step = x if mirror > 0 else x + side, side / size
    geo = np.broadcast_to(np.array([[mirror * step, 0, left], [0, step, y]], np.float32), (*index.shape, 2, 3))
    col = np.broadcast_to(np.eye(3, 4, dtype=np.float32), (*index.shape, 3, 4))
    one = np.ones(index.shape, np.float32)
    no_box = np.zeros((*index.shape, 4), np.int32)
    unused = np.zeros(len(index), np.float32)
    return Plan(
        index=index,
        partner=index,
        lam=one,
        blend=one,
        box=no_box,
        geo=geo,
        geo_b=geo,
        col=col,
        col_b=col,
        erase=no_box,
        lr=unused,
        view_size=np.full(len(index), size, np.float32),
        ema_weight=unused,
        key=np.zeros(len(index), np.int64),
    )


def stream(seed: int, epoch: int, table: str) -> np.random.Generator:
    """The generator of one table of one epoch."""
    key = [seed, epoch, zlib.crc32(table.encode())]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def views_per_class(counts: np.ndarray, tail_crops: tuple[int, int]) -> np.ndarray:
    """Views of each picture an epoch, by class [C]: tail_crops = (count, views) for classes under `count`, else 1."""
    return np.where(counts < tail_crops[0], tail_crops[1], 1)


def sampled_counts(counts: np.ndarray, balance: str, tail_crops: tuple[int, int]) -> np.ndarray:
    """Rows that an epoch draws from each class, float64 [C], from its training pictures `counts` [C]."""
    drawn = counts * views_per_class(counts, tail_crops).astype(float)
    if balance == "sampler":
        present = counts > 0
        drawn = np.where(present, drawn.sum() / present.sum(), 0.0)
    return drawn


def steps_per_epoch(counts: np.ndarray, batch_size: int, tail_crops: tuple[int, int]) -> int:
    """Steps an epoch: the last is topped up to a whole batch."""
    return math.ceil(sampled_counts(counts, "none", tail_crops).sum() / batch_size)


def view_size(epoch: int, course: Course, size: int) -> int:
    """The side of an epoch's views: `size`, or for img_size = (low, high) from low to it in equal stages.

    Progressive resizing (Howard, fast.ai, DAWNBench 2018), in stages as in EfficientNetV2 (Tan & Le 2021).
    """
    if not isinstance(course.img_size, tuple):
        return size
    stage = math.ceil(STAGES * (epoch + 1) / course.epochs) - 1
    if stage == STAGES - 1:
        return size
    low = course.img_size[0]
    return low + round((size - low) * stage / (STAGES - 1) / 8) * 8


def store_level(size: int, store_size: int) -> int:
    """The side of the Store's level that views of `size` are taken from: halved as often as SHRINK asks for."""
    while store_size > SHRINK * size:
        store_size //= 2
    return store_size


def learning_rates(epoch: int, steps: int, course: Course) -> np.ndarray:
    """The learning rate of each of an epoch's `steps`, float32 [T].

    cosine: Loshchilov & Hutter 2017, to 0. onecycle: Smith & Topin 2018, up from lr/25 over 30%, down to lr/250000,
    both by cosine. step: x0.01 at 80% and again at 90% of the epochs, as LDAM-DRW (Cao et al. 2019).
    """
    at = epoch + (np.arange(steps) + 0.5) / steps  # in epochs
    done = at / course.epochs
    if course.schedule == "onecycle":
        return (course.lr * _one_cycle(done)).astype(np.float32)
    warmup = course.warmup
    if warmup == "auto":
        warmup = min(WARMUP, course.epochs / 4)  # else a short run would end before it is warm
    if course.schedule == "cosine":
        after = np.clip((at - warmup) / max(course.epochs - warmup, 1e-9), 0, 1)
        factor = 0.5 + 0.5 * np.cos(np.pi * after)
    elif course.schedule == "step":
        factor = np.where(done < 0.8, 1.0, np.where(done < 0.9, 1e-2, 1e-4))
    else:
        factor = np.ones(steps)
    if warmup:
        factor = factor * np.minimum(1, at / warmup)
    return (course.lr * factor).astype(np.float32)


def _one_cycle(done):
    """The factor of the peak learning rate, where the share `done` of all steps is done."""
    start, end = 1 / 25, 4e-6
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(done / 0.3, 0, 1))
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((done - 0.3) / 0.7, 0, 1))
    return np.where(done < 0.3, start + (1 - start) * rise, end + (1 - end) * fall)


def ema_weights(epoch: int, steps: int, ema_epochs: float) -> np.ndarray:
    """The weight of the new weights in the averaged ones, float32 [T].

    A step's weights count 1/e as much after `ema_epochs` epochs of `steps`; early on they fade faster. 0: no average.
    """
    if not ema_epochs:
        return np.ones(steps, np.float32)
    update = epoch * steps + 1 + np.arange(steps)
    keep = np.minimum(np.exp(-1 / (ema_epochs * steps)), (1 + update) / (10 + update))
    return (1 - keep).astype(np.float32)


if __name__ == "__main__":  # the command stands on this file, which imports nothing of it
    runpy.run_module("reporting.montage", run_name="__main__")
