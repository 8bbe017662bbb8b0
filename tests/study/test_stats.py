"""Intervals, exact tests, rank agreement and the additive model: against SciPy, brute force and closed forms."""

import itertools
import math

import numpy as np
import pytest

from study import stats

scipy = pytest.importorskip("scipy")
pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("p", [0.001, 0.025, 0.2, 0.5, 0.6, 0.9, 0.95, 0.975, 0.995, 0.9999])
def test_t_quantile_is_scipys(p):
    df = np.arange(1, 201)
    ours = [stats.t_quantile(p, int(n)) for n in df]
    np.testing.assert_allclose(ours, scipy.stats.t.ppf(p, df), rtol=1e-9, atol=1e-12)


def test_interval_is_scipys():
    rng = np.random.default_rng(0)
    for n, level in itertools.product((2, 3, 10, 31), (0.5, 0.95, 0.99)):
        values = rng.normal(0.6, 0.02, n)
        mean, half = stats.interval(values, level)
        low, high = scipy.stats.t.interval(level, n - 1, values.mean(), scipy.stats.sem(values))
        np.testing.assert_allclose((mean - half, mean + half), (low, high), rtol=1e-10)
    mean, half = stats.interval([0.4])
    assert mean == 0.4 and math.isnan(half)


def by_brute_force(d):
    """Share of the 2^n sign patterns whose mean is at least as far from 0; fractions of integers: ties are exact."""
    sums = [abs(sum(s * v for s, v in zip(signs, d))) for signs in itertools.product((1, -1), repeat=len(d))]
    return sum(s >= abs(sum(d)) for s in sums) / len(sums)


@pytest.mark.parametrize("n", [6, 7, 10])
def test_sign_flip_is_brute_force(n):
    rng = np.random.default_rng(n)
    for shift in (0, 3, 40):
        whole = [int(v) for v in rng.integers(-20, 21, n) + shift]
        for scale in (1, 1e-3, 0.1):  # the same ties in fractions that binary cannot hold
            assert stats.sign_flip([v * scale for v in whole]) == by_brute_force(whole), (whole, scale)
    assert stats.sign_flip([0.01] * n) == 2 / 2**n
    assert stats.sign_flip([0.0] * n) == 1.0


def test_sign_flip_is_scipys_permutation_test():
    d = np.random.default_rng(1).normal(0.5, 1, 12)
    theirs = scipy.stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(d) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("n, why", [(0, "below 2.000"), (5, "below 0.062"), (21, "too many")])
def test_sign_flip_refuses_with_the_reason(n, why):
    with pytest.raises(ValueError, match=f"6 to 20 pairs, not {n}.*{why}"):
        stats.sign_flip([0.1] * n)


def test_spearman_is_scipys_ties_included():
    rng = np.random.default_rng(2)
    for n, levels in ((3, 100), (8, 3), (50, 7), (50, 10**6)):
        a, b = rng.integers(levels, size=(2, n)).astype(float)
        b += a * 0.5
        assert stats.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert stats.spearman([1, 2, 3], [30, 20, 10]) == -1.0
    assert math.isnan(stats.spearman([1, 1, 1], [1, 2, 3]))


@pytest.mark.parametrize("shared", [0.0, 0.3])
def test_jackknife_is_right_on_average(shared):
    """Means of pictures that are easy or hard, of seeds that are lucky or not, and of what is left: 2,000 draws. Where
    no luck is shared the variance is right. Where it is, one seed's is too small, and three seeds' are right."""
    rng = np.random.default_rng(0)
    n, seeds, draws = 20, 3, 2000
    values = (
        rng.normal(0, 1, (draws, 1, n)) + rng.normal(0, shared, (draws, seeds, 1)) + rng.normal(0, 1, (draws, seeds, n))
    )
    left_out = (values.sum(2, keepdims=True) - values) / (n - 1)
    found = {k: np.zeros(draws) for k in (1, 3)}
    for i in range(draws):
        for k in found:
            found[k][i] = stats.jackknife(values[i, :k].mean(1), left_out[i, :k]) ** 2
    true = {k: 1 / n + shared**2 / k + 1 / (k * n) for k in found}
    assert np.var(values.mean((1, 2))) == pytest.approx(true[3], rel=0.1)  # the formula above
    # Never below the pictures' own error, so a little above the truth where no luck is shared.
    assert found[3].mean() / true[3] == pytest.approx(1.0 if shared else 1.07, abs=0.08)
    assert found[1].mean() / true[1] == pytest.approx(1 / (1 + shared**2 * n / 2), rel=0.08)


def test_jackknife_of_one_picture_is_not_known():
    assert math.isnan(stats.jackknife([0.5], [[math.nan]]))


# the additive model ---------------------------------------------------------------------------------------------------


def by_sum_coding(y, blocks, factors):
    """(effects, residuals, sd) by lstsq on an intercept and sum-to-zero columns: a factor's last level is minus the sum
    of the others, so that a coefficient is a difference from the mean level; its error from the coefficients'
    covariance."""
    y, columns, spans = np.asarray(y), [np.ones(len(y))], {}
    for name, levels in {"": blocks, **factors}.items():
        named = sorted(set(levels))
        coding = np.vstack([np.eye(len(named) - 1), -np.ones(len(named) - 1)])
        spans[name] = named, coding, len(columns)
        columns += list(np.stack([coding[named.index(v)] for v in levels]).T)
    x = np.stack(columns, 1)
    assert np.linalg.matrix_rank(x) == x.shape[1], "the test's design must say every effect"
    fitted = np.linalg.lstsq(x, y, rcond=None)[0]
    residuals = y - x @ fitted
    sd = math.sqrt(residuals @ residuals / (len(y) - x.shape[1]))
    covariance = np.linalg.inv(x.T @ x) * sd**2
    effects = {}
    for name in factors:
        named, coding, start = spans[name]
        at = slice(start, start + len(named) - 1)
        errors = [math.sqrt(row @ covariance[at, at] @ row) for row in coding]
        effects[name] = dict(zip(named, zip(coding @ fitted[at], errors)))
    return effects, residuals, sd


def design(rng, *, keep):
    """A grid of three factors on two folds times two seeds, of which a share `keep` was run, and their scores."""
    grid = list(itertools.product("ABCD", ("x", "y"), ("p", "q", "r"), ("a0", "a1", "b0", "b1")))
    rows = [g for g in grid if rng.random() < keep]
    effect = dict(A=0.0, B=0.3, C=-0.1, D=0.2, x=0.0, y=0.5, p=0.0, q=-0.2, r=0.1, a0=0.0, a1=1.0, b0=2.0, b1=-1.0)
    y = [sum(effect[v] for v in row) + rng.normal(0, 0.1) for row in rows]
    names = ("first", "second", "third")
    return y, [row[3] for row in rows], {name: [row[k] for row in rows] for k, name in enumerate(names)}


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_additive_is_least_squares_with_sum_coding(keep):
    y, blocks, factors = design(np.random.default_rng(3), keep=keep)
    effects, residuals, sd, _ = stats.additive(y, blocks, factors)
    wanted, wanted_residuals, wanted_sd = by_sum_coding(y, blocks, factors)
    assert sd == pytest.approx(wanted_sd, rel=1e-9)
    np.testing.assert_allclose(residuals, wanted_residuals, atol=1e-10)
    assert effects.keys() == wanted.keys()
    for name, table in wanted.items():
        assert effects[name].keys() == table.keys()
        for level, (value, se) in table.items():
            assert effects[name][level] == (pytest.approx(value, abs=1e-10), pytest.approx(se, rel=1e-8)), (name, level)


def test_additive_in_a_balanced_design_is_a_difference_of_means():
    y, blocks, factors = design(np.random.default_rng(4), keep=1.0)
    effects, _, sd, _ = stats.additive(y, blocks, factors)
    y = np.array(y)
    for name, levels in factors.items():
        for level, (value, se) in effects[name].items():
            chosen = np.array([v == level for v in levels])
            k = len(set(levels))
            assert value == pytest.approx(y[chosen].mean() - y.mean(), abs=1e-10)
            assert se == pytest.approx(sd * math.sqrt((k - 1) / len(y)), rel=1e-9)


@pytest.mark.parametrize("repeats, free, quantile", [(1, 1, 12.7062), (2, 5, 2.5706), (4, 13, 2.1604)])
def test_intervals_of_effects_know_how_little_their_error_rests_on(repeats, free, quantile):
    """A grid of two settings: with four trials one degree of freedom is left (quantiles of a printed table)."""
    factors = dict(ls=["0", "0", "1", "1"] * repeats, mix=["0", "1"] * 2 * repeats)
    y = np.random.default_rng(7).normal(size=4 * repeats)
    model = stats.additive(y, ["0"] * len(y), factors)
    effect = model.effects["ls"]["1"]
    assert model.free == free and model.half_width(effect) == pytest.approx(quantile * effect.error, rel=1e-4)


def test_additive_without_a_degree_of_freedom_claims_no_error():
    effects, residuals, sd, _ = stats.additive([1.0, 3.0], ["0", "0"], dict(lr=["a", "b"]))
    assert effects["lr"]["b"][0] == pytest.approx(1.0) and math.isnan(effects["lr"]["b"][1]) and math.isnan(sd)
    np.testing.assert_allclose(residuals, 0, atol=1e-12)


def test_interactions_finds_the_one_that_is_there():
    """Balanced 3 x 2 x 2 with a planted first x second term: its size is that of the doubly centred cell means."""
    rng = np.random.default_rng(5)
    rows = list(itertools.product("ABC", "xy", "pq", range(4)))
    factors = {name: [r[k] for r in rows] for k, name in enumerate(("first", "second", "third"))}
    y = np.array([0.5 * (r[0] == "C" and r[1] == "y") + 0.2 * (r[2] == "q") + rng.normal(0, 0.05) for r in rows])
    _, residuals, sd, _ = stats.additive(y, ["0"] * len(rows), factors)
    found = stats.interactions(residuals, sd, factors)
    assert found[0][2:] == ("first", "second") and {f[2:] for f in found} == set(itertools.combinations(factors, 2))
    cells = y.reshape(3, 2, 8).mean(2)
    centred = cells - cells.mean(0) - cells.mean(1)[:, None] + cells.mean()
    assert found[0][0] == pytest.approx(math.sqrt((centred**2).mean()), rel=1e-9)
    assert found[0][1] == pytest.approx(sd * math.sqrt(2 / 48), rel=1e-9)
    assert [f[0] for f in found] == sorted((f[0] for f in found), reverse=True)


def test_interactions_of_noise_have_the_size_that_noise_alone_gives():
    """Mean square over many draws of pure noise: the claimed size."""
    rng = np.random.default_rng(6)
    rows = list(itertools.product("ABC", "xyz", range(3)))
    factors = {name: [r[k] for r in rows] for k, name in enumerate(("first", "second"))}
    squares = []
    for _ in range(400):
        _, residuals, sd, _ = stats.additive(rng.normal(0, 1, len(rows)), ["0"] * len(rows), factors)
        size, noise, *_ = stats.interactions(residuals, sd, factors)[0]
        squares.append((size**2, noise**2))
    size, noise = np.mean(squares, 0)
    assert size == pytest.approx(4 / 27, rel=0.15) and noise == pytest.approx(4 / 27, rel=0.15)
