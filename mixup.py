"""Who mixes with whom, and by how much: lambda and boxes for every row of a plan, drawn on the host.

Mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. Pixels are blended by augment.py
and targets by the loss; this file only draws, and knows neither.
"""

import numpy as np


def class_probability(counts, low, high):
    """Mixup probability of each class [C]: `high` for the rarest, falling linearly in the count to `low` for the
    largest.

    counts: training pictures a class [C]; classes without a picture do not set the ends. Equal counts: `low`
    everywhere.
    """
    counts = np.asarray(counts, float)
    present = counts[counts > 0]
    spread = present.max() - present.min()
    rarity = (present.max() - counts) / spread if spread else np.zeros_like(counts)
    return low + (high - low) * np.clip(rarity, 0, 1)


def draw(rng, labels, counts, *, size, mixup_p, mixup_alpha, mixup_by, cutmix_p):
    """Draws lam [T,B] float32 and box [T,B,4] int32 (y0 x0 y1 x1, half-open) for rows with `labels` [T,B].

    lam is the weight of a row's own target, 1 where it does not mix; its pixels' too where its box is empty. A CutMix
    box has lam = 1 - its area. CutMix is drawn first, mixup among the rest. mixup_p is a number, or (low, high) by
    class. mixup_by 'row' or 'class': each row draws for itself; 'batch' or 'class-batch': one draw, lambda and box a
    step, with the mean of its rows' probabilities.
    """
    steps, batch = labels.shape
    p = class_probability(counts, *mixup_p)[labels] if isinstance(mixup_p, tuple) else np.full(labels.shape, mixup_p)
    shape = (steps, batch)
    if in_batch(mixup_by):
        shape, p = (steps, 1), p.mean(1, keepdims=True)
    cut = rng.random(shape) < cutmix_p
    mix = rng.random(shape) < p
    lam = np.where(cut | mix, rng.beta(mixup_alpha, mixup_alpha, shape), 1.0)

    half = np.where(cut, size * np.sqrt(1 - lam), 0)[..., None] / 2
    centre = rng.random(shape + (2,)) * size
    box = np.rint(np.clip(np.concatenate([centre - half, centre + half], -1), 0, size)).astype(np.int32)
    box[~cut] = 0
    area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    lam = np.where(cut, 1 - area / size**2, lam).astype(np.float32)
    return np.broadcast_to(lam, (steps, batch)).copy(), np.broadcast_to(box, (steps, batch, 4)).copy()


def in_batch(mixup_by):
    """Whether partners are a permutation of the batch and share its views, as in the paper's code, and not fresh
    rows."""
    return mixup_by in ("batch", "class-batch")
