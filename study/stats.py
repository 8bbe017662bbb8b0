"""Statistics of a few numbers: intervals, exact tests, rank agreement. NumPy in float64; knows nothing of studies."""

import itertools
import math

import numpy as np


def t_quantile(p, df):
    """The p-quantile of Student's t with df = 1, 2, ... degrees of freedom, by bisection of its distribution."""
    low, high = 0.0, 1.0
    q = max(p, 1 - p)
    while _t_below(high, df) < q:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, df) < q else (low, middle)
    return math.copysign(high, p - 0.5)


def _t_below(t, df):
    """P(T <= t) for t >= 0 and whole df: the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term = total = 1.0 if df % 2 == 0 else math.cos(angle)
    for k in range(1 + df % 2, df - 2, 2):
        term *= k / (k + 1) * square
        total += term
    if df % 2 == 0:
        return 0.5 + 0.5 * sine * total
    return 0.5 + (angle + (sine * total if df > 1 else 0.0)) / math.pi


def interval(values, level=0.95):
    """(mean, half width) of the Student-t interval of a mean; the half width is nan for one value."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), t_quantile((1 + level) / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)


def sign_flip(differences):
    """Two-sided p of the mean of paired differences under random signs (Fisher 1935), over all 2^n of them.

    n is from 6 to 20. Below 6 no p can pass 0.05: its least value is 2 / 2^n. Raises ValueError."""
    d = np.asarray(differences, np.float64)
    if not 6 <= len(d) <= 20:
        why = f"no p can fall below {2 / 2 ** len(d):.3f}" if len(d) < 6 else "there are too many signs to try"
        raise ValueError(f"an exact sign-flip test takes 6 to 20 pairs, not {len(d)}: {why}")
    sums = np.zeros(1)
    for value in np.abs(d):  # signs of |d| run over the same sums
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()).mean())


def spearman(a, b):
    """Rank correlation, ties at their mean rank; nan where one of the two does not vary."""
    a, b = (_ranks(np.asarray(v, np.float64)) for v in (a, b))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else math.nan


def _ranks(values):
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


def blocked(scores):
    """Standard error of a row's mean beside the other rows' means, for scores [P,B], P and B above 1, whose columns are
    blocks (folds) that all rows share: what a column adds to all rows is taken out, and the variance that row + column
    leave, on (P - 1)(B - 1) degrees of freedom, is pooled (randomized blocks, Fisher 1935). The difference of two means
    has sqrt(2) times it."""
    y = np.asarray(scores, np.float64)
    residuals = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    return math.sqrt((residuals**2).sum() / ((len(y) - 1) * (y.shape[1] - 1)) / y.shape[1])


def additive(y, blocks, factors):
    """Least squares of y [N] on blocks [N] (fold and seed, say) and on `factors`, name -> the level of each row [N],
    without interactions. Returns (effects, residuals [N], sd): effects[name][level] = (difference from the mean level,
    its standard error); sd: the residuals' standard deviation, nan where no degree of freedom is left."""
    y = np.asarray(y, np.float64)
    columns, spans = [np.equal(blocks, b) for b in dict.fromkeys(blocks)], {}
    for name, levels in factors.items():
        named = list(dict.fromkeys(levels))
        spans[name] = (len(columns), named)
        columns += [np.array([v == level for v in levels]) for level in named]
    x = np.stack(columns, 1).astype(np.float64)
    inverse = np.linalg.pinv(x.T @ x)
    fitted = inverse @ (x.T @ y)
    residuals = y - x @ fitted
    free = len(y) - np.linalg.matrix_rank(x)
    sd = math.sqrt(residuals @ residuals / free) if free > 0 else math.nan
    effects = {}
    for name, (start, named) in spans.items():
        effects[name] = {}
        for k, level in enumerate(named):
            contrast = np.zeros(x.shape[1])
            contrast[start : start + len(named)] = -1 / len(named)
            contrast[start + k] += 1
            effects[name][level] = float(contrast @ fitted), sd * math.sqrt(max(contrast @ inverse @ contrast, 0.0))
    return effects, residuals, sd


def interactions(residuals, sd, factors):
    """What an additive model missed, pair by pair of factors, the largest first: [(size, size by noise alone, a, b)],
    root mean squares of the cells' mean residuals."""
    found = []
    for a, b in itertools.combinations(factors, 2):
        cells = {}
        for r, *cell in zip(residuals, factors[a], factors[b]):
            cells.setdefault(tuple(cell), []).append(r)
        left = (len(set(factors[a])) - 1) * (len(set(factors[b])) - 1)
        size = math.sqrt(sum(len(c) * np.mean(c) ** 2 for c in cells.values()) / len(residuals))
        found.append((size, sd * math.sqrt(left / len(residuals)), a, b))
    return sorted(found, reverse=True)
