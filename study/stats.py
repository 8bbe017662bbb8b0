"""Statistics of a few numbers: intervals, exact tests, rank agreement. NumPy in float64; knows nothing of studies."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Effect(NamedTuple):
    """What a level of a factor adds to a score."""

    value: float  # its difference from the factor's mean level
    error: float  # the standard error of that


class Additive(NamedTuple):
    """A fitted additive model."""

    effects: dict[str, dict[str, Effect]]  # by factor, then by level
    residuals: np.ndarray  # [N]
    sd: float  # the residuals' standard deviation, nan where no degree of freedom is left
    free: int  # degrees of freedom of that

    def half_width(self, effect: Effect) -> float:
        """Of the effect's 95% interval, by Student's t; nan where no degree of freedom is left."""
        return t_quantile(0.975, self.free) * effect.error if self.free > 0 else math.nan


class Interaction(NamedTuple):
    """What an additive model missed of two factors together, in the units of the score."""

    size: float  # root mean square of the cells' mean residuals
    noise: float  # the size that noise alone would have
    first: str
    second: str


def t_quantile(p: float, df: int) -> float:
    """The p-quantile of Student's t with df = 1, 2, ... degrees of freedom, by bisection of its distribution."""
    # t is symmetric: the quantile of the upper side is found, and gets its sign at the end.
    upper_p = max(p, 1 - p)
    low, high = 0.0, 1.0
    while _t_below(high, df) < upper_p:
        high *= 2
    for _ in range(200):  # more halvings than float64 has digits
        middle = (low + high) / 2
        if _t_below(middle, df) < upper_p:
            low = middle
        else:
            high = middle
    return math.copysign(high, p - 0.5)


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """(mean, half width) of the Student-t interval of a mean; the half width is nan for one value."""
    values = np.asarray(values, np.float64)
    n = len(values)
    mean = float(values.mean())
    if n < 2:
        return mean, math.nan
    sd = float(values.std(ddof=1))
    return mean, t_quantile((1 + level) / 2, n - 1) * sd / math.sqrt(n)


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided p of the mean of paired differences under random signs (Fisher 1935), over all 2^n of them.

    n is from 6 to 20. Below 6 no p can pass 0.05: its least value is 2 / 2^n. Raises ValueError.
    """
    differences = np.asarray(differences, np.float64)
    n = len(differences)
    if not 6 <= n <= 20:
        why = f"no p can fall below {2 / 2**n:.3f}" if n < 6 else "there are too many signs to try"
        raise ValueError(f"an exact sign-flip test takes 6 to 20 pairs, not {n}: {why}")
    sizes = np.abs(differences)
    sums = np.zeros(1)
    for size in sizes:  # the signs of |d| run over the same sums as those of d
        sums = np.concatenate([sums + size, sums - size])
    # Sums that are equal on paper differ by rounding: a tie must still count as one.
    tolerance = 1e-12 * sizes.sum()
    extreme = np.abs(sums) >= abs(differences.sum()) - tolerance
    return float(extreme.mean())


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of a [N] and b [N], ties at their mean rank; nan where one of the two does not vary."""
    a = _centred_ranks(a)
    b = _centred_ranks(b)
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else math.nan


def jackknife(scores: ArrayLike, left_out: ArrayLike) -> float:
    """Standard error of the mean of scores [S] with other pictures and, from two seeds on, with other seeds too.

    S seeds are scored on the same N pictures; left_out [S, N]: each seed's score of all pictures but one. Over pictures
    it is the delete-one jackknife's error (Tukey 1958), which for a mean over pictures is the plain standard error. By
    how much seeds differ beyond their answers to single pictures comes on top: both are random effects, as readers and
    cases are in Dorfman, Berbaum & Metz 1992. nan for one picture.
    """
    left_out = np.asarray(left_out, np.float64)
    seeds, pictures = left_out.shape
    if pictures < 2:
        return math.nan
    by_picture = left_out.mean(0)
    inflation = (pictures - 1) / pictures
    variance = inflation * ((by_picture - by_picture.mean()) ** 2).sum()
    if seeds > 1:
        # The interaction of seed and picture: seeds differ by this even where all are equally good.
        rest = left_out - by_picture
        rest = rest - rest.mean(1, keepdims=True)
        expected = inflation * (rest**2).sum() / (seeds - 1)
        variance += max(0.0, np.var(scores, ddof=1) - expected) / seeds
    return math.sqrt(variance)


def additive(y: ArrayLike, blocks: Sequence, factors: dict[str, Sequence]) -> Additive:
    """Least squares of y [N] on blocks [N] (fold and seed, say) and on `factors`, without interactions.

    factors: name -> the level of each row [N]. An effect is a level's difference from its factor's mean level.
    """
    y = np.asarray(y, np.float64)
    columns = _indicators(blocks)
    columns_of = {}
    for name, levels in factors.items():
        own = _indicators(levels)
        columns_of[name] = slice(len(columns), len(columns) + len(own))
        columns += own
    x = np.stack(columns, 1).astype(np.float64)
    # A column a level is one too many a factor. Only contrasts of levels are asked for, and those the pseudo-inverse
    # gives as any full-rank coding would.
    inverse = np.linalg.pinv(x.T @ x)
    coefficients = inverse @ (x.T @ y)
    residuals = y - x @ coefficients
    free = len(y) - np.linalg.matrix_rank(x)
    sd = math.sqrt(residuals @ residuals / free) if free > 0 else math.nan
    effects = {}
    for name, levels in factors.items():
        at = columns_of[name]
        effects[name] = {}
        for column, level in enumerate(dict.fromkeys(levels), at.start):
            # The level less the mean of all levels, as weights of the coefficients.
            contrast = np.zeros(x.shape[1])
            contrast[at] = -1 / (at.stop - at.start)
            contrast[column] += 1
            variance = max(contrast @ inverse @ contrast, 0.0)  # in units of sd^2; rounding can take it below 0
            effects[name][level] = Effect(float(contrast @ coefficients), sd * math.sqrt(variance))
    return Additive(effects, residuals, sd, int(free))


def interactions(residuals: ArrayLike, sd: float, factors: dict[str, Sequence]) -> list[Interaction]:
    """What an additive model missed, pair by pair of factors, the largest first; `residuals` [N] and `sd` are its."""
    levels = {name: len(set(of_rows)) for name, of_rows in factors.items()}
    found = []
    for first, second in itertools.combinations(factors, 2):
        cells = defaultdict(list)
        for residual, *cell in zip(residuals, factors[first], factors[second]):
            cells[tuple(cell)].append(residual)
        squares = sum(len(cell) * np.mean(cell) ** 2 for cell in cells.values())
        # Main effects are out already: this many ways are left for the cell means to differ.
        free = (levels[first] - 1) * (levels[second] - 1)
        size = math.sqrt(squares / len(residuals))
        noise = sd * math.sqrt(free / len(residuals))
        found.append(Interaction(size, noise, first, second))
    return sorted(found, reverse=True)


def _t_below(t, df):
    """P(T <= t) for t >= 0 and whole df: the finite sums of Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(df))
    sine = math.sin(angle)
    cosine = math.cos(angle)
    even = df % 2 == 0
    term = 1.0 if even else cosine
    total = term
    for k in range(1 + df % 2, df - 2, 2):
        term *= k / (k + 1) * cosine**2
        total += term
    if even:
        return 0.5 + 0.5 * sine * total
    if df == 1:  # the sum is empty
        return 0.5 + angle / math.pi
    return 0.5 + (angle + sine * total) / math.pi


def _centred_ranks(values):
    """The rank of each value, from 0, less the mean rank; equal values share the mean of their ranks."""
    values = np.asarray(values, np.float64)
    below = (values[:, None] > values).sum(1)
    equals = (values[:, None] == values).sum(1) - 1  # other than itself
    ranks = below + equals / 2
    return ranks - ranks.mean()


def _indicators(levels):
    """A bool column [N] for each level, in the order in which the levels first appear."""
    return [np.array([one == level for one in levels]) for level in dict.fromkeys(levels)]
