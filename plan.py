"""One epoch's randomness as tables, drawn ahead on the host: docs/design.md, "Plan".

Pure in its arguments: the same tables on every device and rank and at a resume. Every table has its own random stream,
so that turning one method on leaves the others' draws alone and two settings can be compared picture by picture.
`python plan.py -c RECIPE --show 3` prints rows and draws the batches that the network would see (reporting/montage.py).
"""

import math
import runpy
import zlib
from typing import NamedTuple

import numpy as np

import augment
import mixup

EVALUATION_BATCH = 128  # pictures at a time where nothing is trained
STRONG = dict(crop_scale=0.6, rotate=15.0, jitter=0.2)  # what --tail-crops gives the rare classes at the least


class Plan(NamedTuple):
    """T steps of B rows, as NumPy arrays (or, one step on a device, as tensors without the first axis)."""

    index: np.ndarray  # [T,B] int32, rows of the Store
    partner: np.ndarray  # [T,B] int32
    lam: np.ndarray  # [T,B] float32, weight of `index`'s target; of its pixels too where `box` is empty
    box: np.ndarray  # [T,B,4] int32 y0 x0 y1 x1, half-open: these pixels are the partner's
    geo: np.ndarray  # [T,B,2,3] float32, output (x + 1/2, y + 1/2, 1) -> Store pixels
    geo_b: np.ndarray
    col: np.ndarray  # [T,B,3,4] float32 on RGB in [0,1]
    col_b: np.ndarray
    erase: np.ndarray  # [T,B,4] int32, like `box`, filled with the mean
    scalars: np.ndarray  # [T,2] float32: learning rate, side of the views
    key: np.ndarray  # [T] int64, seeds the step's dropout


def stream(seed, epoch, table):
    """The generator of one table of one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, zlib.crc32(table.encode())])))


def views_per_class(counts, tail_crops):
    """Views of each picture an epoch, by class [C]: tail_crops = (count, views) for classes under `count`, else 1."""
    return np.where(counts < tail_crops[0], tail_crops[1], 1)


def sampled_counts(counts, balance, tail_crops):
    """Rows that an epoch draws from each class, float64 [C], from its training pictures `counts` [C]."""
    drawn = counts * views_per_class(counts, tail_crops).astype(float)
    if balance == "sampler":
        present = counts > 0
        drawn = np.where(present, drawn.sum() / present.sum(), 0.0)
    return drawn


def steps_per_epoch(counts, batch_size, tail_crops):
    """Steps an epoch: the last is topped up to a whole batch."""
    return math.ceil(sampled_counts(counts, "none", tail_crops).sum() / batch_size)


def order(rng, labels, rows, counts, need, balance, tail_crops):
    """`need` Store rows: permutations of `rows` one after another, each picture as often as its class has views; with
    balance 'sampler' every class gets an equal share (to one row) and goes through its own pictures evenly."""
    repeats = views_per_class(counts, tail_crops)[labels[rows]]
    if balance != "sampler":
        pool = np.repeat(rows, repeats)
        return np.concatenate([rng.permutation(pool) for _ in range(math.ceil(need / len(pool)))])[:need]
    present = np.flatnonzero(counts)
    share = np.full(len(present), need // len(present))
    share[rng.permutation(len(present))[: need % len(present)]] += 1
    drawn = [
        order(rng, labels, rows[labels[rows] == c], counts, n, "none", (0, 1)) for c, n in zip(present, share) if n
    ]
    return rng.permutation(np.concatenate(drawn))


def view_size(epoch, *, epochs, img_size, size):
    """The side of an epoch's views: `size`, or for img_size = (low, high) from low to it in four equal stages.

    Progressive resizing (Howard, fast.ai, DAWNBench 2018), in stages as in EfficientNetV2 (Tan & Le 2021).
    """
    if not isinstance(img_size, tuple):
        return size
    stage = math.ceil(4 * (epoch + 1) / epochs) - 1
    return size if stage == 3 else img_size[0] + round((size - img_size[0]) * stage / 3 / 8) * 8


def store_level(size, store_size):
    """The side of the Store's level that views of `size` are taken from: halved until the whole picture shrinks by 1.5
    at the
    most, where bilinear sampling does not alias."""
    while store_size > 1.5 * size:
        store_size //= 2
    return store_size


def learning_rates(epoch, count, *, epochs, lr, schedule, warmup):
    """The learning rate of each of `count` steps of `epoch` [count] float32.

    cosine: Loshchilov & Hutter 2017, to 0. onecycle: Smith & Topin 2018, up from lr/25 over 30%, down to lr/250000,
    both by cosine. step: x0.01 at 80% and again at 90% of the epochs, as LDAM-DRW (Cao et al. 2019).
    """
    at = epoch + (np.arange(count) + 0.5) / count  # in epochs
    done = at / epochs
    if schedule == "onecycle":
        rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(done / 0.3, 0, 1))
        fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((done - 0.3) / 0.7, 0, 1))
        factor = np.where(done < 0.3, 1 / 25 + (1 - 1 / 25) * rise, 4e-6 + (1 - 4e-6) * fall)
    else:
        after = np.clip((at - warmup) / max(epochs - warmup, 1e-9), 0, 1)
        factor = {
            "cosine": 0.5 + 0.5 * np.cos(np.pi * after),
            "constant": np.ones(count),
            "step": np.where(done < 0.8, 1.0, np.where(done < 0.9, 1e-2, 1e-4)),
        }[schedule]
        factor = factor * np.minimum(1, at / warmup if warmup else 1)
    return (lr * factor).astype(np.float32)


def draw_plan(
    labels,
    means,
    rows,
    counts,
    *,
    epoch,
    seed,
    img_size,
    size,
    store_size,
    batch_size,
    epochs,
    lr,
    schedule,
    warmup,
    balance,
    mixup_p,
    mixup_alpha,
    mixup_by,
    cutmix_p,
    crop_scale,
    pad,
    flip,
    rotate,
    jitter,
    erase,
    tail_crops,
):
    """The Plan of one epoch over the training `rows` of the Store.

    labels: int [N] and means: float [N,3] of the whole Store; counts: training pictures a class [C]; size: of views at
    the end, and store_size, the Store's side. The other arguments are Config's fields. Pure: nothing else is read.
    """
    whole = size, store_size
    size = view_size(epoch, epochs=epochs, img_size=img_size, size=size)
    store_size = store_level(size, store_size)
    shown = whole[0] * store_size / whole[1]  # a centre crop shows the same at every size
    shape = (steps_per_epoch(counts, batch_size, tail_crops), batch_size)
    need = shape[0] * shape[1]

    def rng(table):
        return stream(seed, epoch, table)

    def drawn(table):
        return order(rng(table), labels, rows, counts, need, balance, tail_crops).reshape(shape)

    def views(index, suffix):
        tail = (counts < tail_crops[0])[labels[index]]
        scale = (np.where(tail, min(crop_scale[0], STRONG["crop_scale"]), crop_scale[0]), np.full(shape, crop_scale[1]))
        turn = np.where(tail, max(rotate, STRONG["rotate"]), rotate)
        vary = np.where(tail, max(jitter, STRONG["jitter"]), jitter)
        geo = augment.draw_geometry(
            rng("geo" + suffix),
            shape,
            size=size,
            store_size=store_size,
            shown=shown,
            crop_scale=scale,
            pad=pad,
            flip=flip,
            rotate=turn,
        )
        return geo, augment.draw_colour(rng("col" + suffix), means[index], vary)

    index = drawn("index")
    lam, box = mixup.draw(
        rng("mix"),
        labels[index],
        counts,
        size=size,
        mixup_p=mixup_p,
        mixup_alpha=mixup_alpha,
        mixup_by=mixup_by,
        cutmix_p=cutmix_p,
    )
    geo, col = views(index, "")
    if mixup.in_batch(mixup_by):
        turn = np.argsort(rng("partner").random(shape), axis=1)
        at = np.arange(shape[0])[:, None], turn
        partner, geo_b, col_b = index[at], geo[at], col[at]
    else:
        partner = np.where(lam < 1, drawn("partner"), index)
        geo_b, col_b = views(partner, "_b")
    rates = learning_rates(epoch, shape[0], epochs=epochs, lr=lr, schedule=schedule, warmup=warmup)
    view_sizes = np.full(shape[0], size, np.float32)
    return Plan(
        index=index.astype(np.int32),
        partner=partner.astype(np.int32),
        lam=lam,
        box=box,
        geo=geo,
        geo_b=geo_b,
        col=col,
        col_b=col_b,
        erase=augment.draw_erase(rng("erase"), shape, size=size, erase=erase),
        scalars=np.stack([rates, view_sizes], 1),
        key=rng("key").integers(0, 2**63, shape[0], dtype=np.int64),
    )


def evaluation_plans(rows, *, size, store_size, batch_size=EVALUATION_BATCH, views="centre"):
    """Plans (one per view) that show every row of `rows` once, unaugmented; the last batch is padded with its last row.

    views: 'centre' crop; 'flip': it and its mirror image; 'crops': the four corners, the centre, and their mirror
    images.
    """
    count = math.ceil(len(rows) / batch_size)
    padded = np.concatenate([rows, np.repeat(rows[-1:], count * batch_size - len(rows))])
    index = padded.reshape(count, batch_size).astype(np.int32)
    none = np.zeros((*index.shape, 4), np.int32)
    col = np.broadcast_to(np.eye(3, 4, dtype=np.float32), (*index.shape, 3, 4))
    room, middle = store_size - size, (store_size - size) // 2
    corners = [(x, y) for y in (0, room) for x in (0, room)] if views == "crops" and room else []
    plans = []
    for x, y in [(middle, middle), *corners]:
        for mirror in (1, -1)[: 1 if views == "centre" else 2]:
            geo = np.array([[mirror, 0, x if mirror > 0 else x + size], [0, 1, y]], np.float32)
            geo = np.broadcast_to(geo, (*index.shape, 2, 3))
            plans.append(
                Plan(
                    index,
                    index,
                    np.ones(index.shape, np.float32),
                    none,
                    geo,
                    geo,
                    col,
                    col,
                    none,
                    np.tile(np.float32([0, size]), (count, 1)),
                    np.zeros(count, np.int64),
                )
            )
    return plans


if __name__ == "__main__":  # the command stands on this file, which imports nothing of it
    runpy.run_module("reporting.montage", run_name="__main__")
