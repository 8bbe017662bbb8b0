"""Who mixes, by how much, and where: lambda, blend and boxes for every row of a plan, drawn on the host.

Mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. Pixels are blended by augment.py
and targets by the loss; this file only draws, and knows neither.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixing:
    """The fields of Config with these names."""

    mixup_p: float | tuple[float, float]
    mixup_alpha: float
    mixup_by: str
    cutmix_p: float


def draw(
    rng: np.random.Generator, labels: np.ndarray, counts: np.ndarray, size: int, mixing: Mixing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws (lam [T,B] float32, blend [T,B] float32, box [T,B,4] int32) for rows with `labels` [T,B].

    lam: the weight of a row's own target, 1 where it does not mix. blend: the weight of its own pixels where its box is
    empty. box: y0 x0 y1 x1, half-open, of views of `size` pixels; its pixels are the partner's, and lam is 1 less its
    share of the area. CutMix is drawn first, mixup among the rest. counts: training pictures a class [C].
    """
    chance = mixup_chance(labels, counts, mixing)
    shape = labels.shape
    if in_batch(mixing.mixup_by):  # one draw a step
        shape = (len(labels), 1)
        chance = chance.mean(1, keepdims=True)
    # Every number is drawn whether it is used or not: a setting then changes no other row's draw.
    cut = rng.random(shape) < mixing.cutmix_p
    mix = rng.random(shape) < chance
    lam = np.where(cut | mix, rng.beta(mixing.mixup_alpha, mixing.mixup_alpha, shape), 1.0)
    box = draw_boxes(rng, lam, size)
    box[~cut] = 0  # empty: these rows blend, or do nothing
    # A box that the edge cuts off, or that rounding changes, shows less or more of the partner than was drawn.
    lam = np.where(cut, 1 - area(box) / size**2, lam).astype(np.float32)
    # One draw a step becomes one a row; copies, since a view of one number cannot be written to.
    lam = np.broadcast_to(lam, labels.shape).copy()
    box = np.broadcast_to(box, (*labels.shape, 4)).copy()
    return lam, lam.copy(), box


def mixup_chance(labels: np.ndarray, counts: np.ndarray, mixing: Mixing) -> np.ndarray:
    """The probability of mixup of every row [T,B]: one for all, or for mixup_p = (low, high) by class."""
    if isinstance(mixing.mixup_p, tuple):
        return class_probability(counts, *mixing.mixup_p)[labels]
    return np.full(labels.shape, mixing.mixup_p)


def class_probability(counts: np.ndarray, low: float, high: float) -> np.ndarray:
    """Mixup probability of each class [C]: `high` for the rarest, falling linearly in the count to `low`.

    counts: training pictures a class [C]; classes without a picture do not set the ends. Equal counts: `low`.
    """
    counts = np.asarray(counts, float)
    present = counts[counts > 0]
    spread = present.max() - present.min()
    if spread == 0:  # no class is rarer than another
        return np.full(len(counts), float(low))
    rarity = (present.max() - counts) / spread
    return low + (high - low) * np.clip(rarity, 0, 1)


def draw_boxes(rng: np.random.Generator, lam: np.ndarray, size: int) -> np.ndarray:
    """Boxes [*,4] int32 of 1 - lam [*] of the area, about a point anywhere in the view, cut off at its edges."""
    half = size * np.sqrt(1 - lam)[..., None] / 2  # a square of that share of the area
    centre = rng.random((*lam.shape, 2)) * size
    corners = np.concatenate([centre - half, centre + half], -1)
    return np.rint(np.clip(corners, 0, size)).astype(np.int32)


def area(box: np.ndarray) -> np.ndarray:
    """Pixels inside each box [*,4]: [*]."""
    height = box[..., 2] - box[..., 0]
    width = box[..., 3] - box[..., 1]
    return height * width


def in_batch(mixup_by: str) -> bool:
    """Whether partners are a permutation of the batch and share its views, as in the paper's code, not fresh rows."""
    return mixup_by in ("batch", "class-batch")
