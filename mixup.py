"""Which pictures, who mixes, by how much, and where: rows, lambda, blend and boxes of a plan, drawn on the host.

Mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. Pixels are blended by augment.py
and targets by the loss; this file draws, and says what the draws do to the classes' shares. It knows neither.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

REMIX_RATIO, REMIX_SHARE = 3.0, 0.5  # kappa and tau of Remix
# Epochs without CutMix at either end of a training whose boxes are of rare classes, as CMO has it.
WITHOUT_BOXES = 3
# At the end at most 1/ENDING of the epochs are without CutMix: the learning rate is so low by then that the network
# keeps the prior that it has learned, which `label_counts` gives.
ENDING = 25


@dataclass(frozen=True)
class Mixing:
    """The fields of Config with these names."""

    mixup_p: float | tuple[float, float]
    mixup_alpha: float
    mixup_by: str
    mixup_pair: str
    cutmix_p: float
    cutmix_pair: str


def draw_rows(
    rng: np.random.Generator, rows: np.ndarray, labels: np.ndarray, need: int, balanced: bool, repeats: np.ndarray
) -> np.ndarray:
    """`need` of the Store's `rows` with `labels`: permutations one after another, in which a picture of class c stands
    repeats[c] times. Balanced: every class gets an equal share (to one row) and goes through its pictures evenly."""
    if not balanced:
        return _permutations(rng, np.repeat(rows, repeats[labels]), need)
    present = np.unique(labels)
    share = np.full(len(present), need // len(present))
    share[rng.permutation(len(present))[: need % len(present)]] += 1
    drawn = [_permutations(rng, rows[labels == c], n) for c, n in zip(present, share) if n]
    return rng.permutation(np.concatenate(drawn))


def _permutations(rng, pool, need):
    """`need` items: permutations of `pool` one after another."""
    whole = [rng.permutation(pool) for _ in range(math.ceil(need / len(pool)))]
    return np.concatenate(whole)[:need]


def draw_rare(
    rng: np.random.Generator, rows: np.ndarray, labels: np.ndarray, chance: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Store rows [*shape] out of `rows` with `labels`: each of a class by `chance` [C], and any of its pictures."""
    counts = np.bincount(labels, minlength=len(chance))
    grouped = rows[np.argsort(labels, kind="stable")]
    begin = np.cumsum(counts) - counts  # where a class's rows begin
    of_class = rng.choice(len(chance), shape, p=chance)
    place = np.floor(rng.random(shape) * counts[of_class]).astype(int)
    return grouped[begin[of_class] + place]


def draw(
    rng: np.random.Generator,
    pair_rng: np.random.Generator,
    labels: np.ndarray,
    partner_labels: np.ndarray,
    counts: np.ndarray,
    size: int,
    mixing: Mixing,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws (lam [T,B] float32, blend [T,B] float32, box [T,B,4] int32) for rows with `labels` [T,B].

    lam: the weight of a row's own target, 1 where it does not mix. blend: the weight of its own pixels where its box is
    empty. box: y0 x0 y1 x1, half-open, of views of `size` pixels; its pixels are the partner's, and lam is 1 less its
    share of the area. CutMix is drawn first, mixup among the rest. partner_labels [T,B]: of the partners that mixup
    would take. counts: training pictures a class [C]. pair_rng: draws what --mixup-pair needs besides.
    """
    chance = mixup_chance(labels, counts, mixing)
    shape = labels.shape
    if in_batch(mixing.mixup_by):  # one draw a step
        shape = (len(labels), 1)
        chance = chance.mean(1, keepdims=True)
    # Every number is drawn whether it is used or not: a setting then changes no other row's draw.
    cut = rng.random(shape) < mixing.cutmix_p
    mix = rng.random(shape) < chance
    share = rng.beta(mixing.mixup_alpha, mixing.mixup_alpha, shape)
    box = draw_boxes(rng, np.where(cut | mix, share, 1.0), size)
    box[~cut] = 0  # empty: these rows blend, or do nothing
    # A box that the edge cuts off, or that rounding changes, shows less or more of the partner than was drawn.
    in_boxes = 1 - area(box) / size**2
    lam, blend = pair_weights(pair_rng, share, counts[labels], counts[partner_labels], mixing)
    tables = []
    for weight in (lam, blend):
        weight = np.where(cut, in_boxes, np.where(mix, weight, 1.0)).astype(np.float32)
        # One draw a step becomes one a row; copies, since a view of one number cannot be written to.
        tables.append(np.broadcast_to(weight, labels.shape).copy())
    return *tables, np.broadcast_to(box, (*labels.shape, 4)).copy()


def in_epoch(mixing: Mixing, epoch: int, epochs: int, schedule: str) -> Mixing:
    """`mixing` as it is in an epoch, counted from 0: --cutmix-pair tail leaves CutMix out in the first and last ones.

    Park et al. 2022, arXiv:2112.00412. The last ones have it where the learning rate does not fall (schedule).
    """
    opening = min(WITHOUT_BOXES, epochs // 4)
    ending = 0 if schedule == "constant" else min(WITHOUT_BOXES, epochs // ENDING)
    if mixing.cutmix_pair == "tail" and not opening <= epoch < epochs - ending:
        return replace(mixing, cutmix_p=0.0)
    return mixing


def by_class(pair: str) -> bool:
    """Whether partners of --mixup-pair or --cutmix-pair `pair` are of every class equally often."""
    return pair in ("balanced", "tail")


def pair_weights(
    rng: np.random.Generator, share: np.ndarray, own: np.ndarray, partner: np.ndarray, mixing: Mixing
) -> tuple[np.ndarray, np.ndarray]:
    """The weights (lam, blend) of the rows' own targets and pixels if all rows mix, by --mixup-pair.

    share: drawn from Beta(alpha, alpha). own, partner [T,B]: training pictures of the row's class and its partner's.
    """
    if mixing.mixup_pair == "balanced":
        # The balanced partner's weight is Beta(alpha, 1), which is a uniform number to the power of 1 / alpha.
        kept = 1 - rng.random(share.shape) ** (1 / mixing.mixup_alpha)
        return kept, kept
    if mixing.mixup_pair == "remix":
        # A mixture with a much rarer class is labelled by that class alone, where it shows at least half of it.
        to_partner = (own >= REMIX_RATIO * partner) & (share < REMIX_SHARE)
        to_own = (partner >= REMIX_RATIO * own) & (1 - share < REMIX_SHARE)
        return np.where(to_partner, 0.0, np.where(to_own, 1.0, share)), share
    if mixing.mixup_pair == "targeted":
        # The two classes' counts move the distribution's peak, which was at 0 and 1, to a low weight of the frequent.
        shifted = (share + partner / (own + partner)) % 1
        return shifted, shifted
    return share, share


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


def label_counts(drawn: np.ndarray, counts: np.ndarray, mixing: Mixing) -> np.ndarray:
    """How much of an epoch's targets each class gets, in rows [C]: what the network sees as the classes' prior.

    drawn [C]: rows that an epoch draws of each class; counts [C]: training pictures. An expectation over all draws:
    each row gives its own class the mean of lam, and its partner's class the rest.
    """
    uniform = mixing.mixup_pair == mixing.cutmix_pair == "uniform" and not isinstance(mixing.mixup_p, tuple)
    if uniform or in_batch(mixing.mixup_by):  # partners are as the rows are, or the batch gives among itself
        return drawn
    classes = np.arange(len(counts))
    boxed = drawn * mixing.cutmix_p * mean_box(mixing.mixup_alpha)  # of the targets, not of the rows
    received = boxed.sum() * partner_shares(mixing.cutmix_pair, drawn, counts)
    blended = drawn * (1 - mixing.cutmix_p) * mixup_chance(classes, counts, mixing)  # rows that mixup takes
    partners = partner_shares(mixing.mixup_pair, drawn, counts)
    # The mean of lam depends on the two counts alone: a table of the counts that occur, not of the classes.
    sizes, which = np.unique(np.maximum(counts, 1), return_inverse=True)  # who has none is nobody's partner
    kept = mean_lam(sizes[:, None], sizes[None, :], mixing)
    blended_by_size = np.bincount(which, blended)
    partners_by_size = np.bincount(which, partners)
    given_away = boxed + blended * ((1 - kept) @ partners_by_size)[which]
    received += partners * (blended_by_size @ (1 - kept))[which]
    return drawn - given_away + received


def partner_shares(pair: str, drawn: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The probability of each class [C] to be a partner's, by --mixup-pair or --cutmix-pair."""
    weight = drawn
    if by_class(pair):
        weight = np.where(counts > 0, 1.0, 0.0)
    if pair == "targeted":
        weight = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    return weight / weight.sum()


def mean_box(alpha: float) -> float:
    """The mean share of a view that a box of CutMix covers, but for rounding to whole pixels.

    A side of the drawn square is r = sqrt(1 - lam) of the view's, about a uniform centre; the edge leaves r - r^2 / 4
    of it in the mean, of both sides alike. With the moments m_k of Beta(alpha, alpha): m_1 - m_1.5 / 2 + m_2 / 16.
    """
    of_power_1_5 = math.exp(
        math.lgamma(alpha + 1.5) + math.lgamma(2 * alpha) - math.lgamma(alpha) - math.lgamma(2 * alpha + 1.5)
    )
    of_square = (alpha + 1) / (2 * (2 * alpha + 1))
    return 0.5 - of_power_1_5 / 2 + of_square / 16


def mean_lam(own: np.ndarray, partner: np.ndarray, mixing: Mixing) -> np.ndarray:
    """The mean of lam where rows mix whose class has `own` training pictures, and their partner's class `partner`."""
    alpha = mixing.mixup_alpha
    mean = np.full(np.broadcast_shapes(own.shape, partner.shape), 0.5)
    if mixing.mixup_pair == "balanced":
        mean[:] = 1 / (1 + alpha)
    if mixing.mixup_pair == "targeted":
        # A uniform shift by s, modulo 1, takes 1 off where the drawn weight is above 1 - s.
        shift = partner / (own + partner)
        mean = 0.5 + shift - beta_below(shift, alpha)
    if mixing.mixup_pair == "remix":
        # Of Beta(alpha, alpha): E[lam; lam >= 1/2] = 1/4 + d / 2, with d = E|lam - 1/2|.
        beta = math.exp(2 * math.lgamma(alpha) - math.lgamma(2 * alpha))
        spread = 1 / (alpha * 4**alpha * beta)
        mean = np.where(own >= REMIX_RATIO * partner, 0.25 + spread / 2, mean)
        mean = np.where(partner >= REMIX_RATIO * own, 0.75 - spread / 2, mean)
    return mean


def beta_below(x: np.ndarray, alpha: float) -> np.ndarray:
    """The distribution function of Beta(alpha, alpha) at x [*] within (0, 1).

    Up to 1/2 by a series of positive terms, x^a (1 - x)^a / (a B(a, a)) sum_n x^n prod_{m < n} (2a + m) / (a + 1 + m);
    by symmetry above.
    """
    below = np.minimum(x, 1 - x)
    term = np.ones(below.shape)
    total = np.zeros(below.shape)
    n = 0
    while (term > 1e-17 * total).any():
        total += term
        term = term * below * (2 * alpha + n) / (alpha + 1 + n)
        n += 1
    log_beta = 2 * math.lgamma(alpha) - math.lgamma(2 * alpha)
    lower = np.exp(alpha * np.log(below * (1 - below)) - log_beta) / alpha * total
    return np.where(x <= 0.5, lower, 1 - lower)
