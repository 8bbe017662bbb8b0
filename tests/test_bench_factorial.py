"""The effects of bench/factorial.py beside a regression on the same scores, and what its screening keeps apart."""

import itertools
import sys

import numpy as np
import pytest

from bench import factorial

ON = dict(ls=0.1, mixup_p=0.6, weight_decay=0.1, balance="sampler")


def test_effects_and_interactions_are_those_of_a_regression():
    design = factorial.all_of(factorial.FOUR)
    scores = np.random.default_rng(0).normal(size=16)
    # The full model: every product of factors that are -1 (off) or 1 (on). An effect is twice its coefficient.
    levels = np.array([[2.0 * (run[key] == on[key]) - 1 for key in on] for run in design.settings for on in [ON]])
    pairs = list(itertools.combinations(range(4), 2))
    own = np.column_stack([np.ones(16), levels, *(levels[:, a] * levels[:, b] for a, b in pairs)])
    coefficients = np.linalg.lstsq(own, scores, rcond=None)[0][1:]
    assert len(design.effects) == 10
    for signs, coefficient in zip(design.effects.values(), coefficients):
        assert factorial.effect(signs, scores) == pytest.approx(2 * coefficient)
    # What no effect explains is spread over the other columns.
    rest = scores - own @ np.linalg.lstsq(own, scores, rcond=None)[0]
    assert sum(factorial.effect(signs, scores) ** 2 for signs in design.noise) == pytest.approx(4 * (rest**2).mean())
    # Of each picture at once: a column each.
    one = design.effects["smoothing 0.1"]
    assert np.allclose(
        factorial.effect(one, np.stack([scores, 2 * scores], 1)), factorial.effect(one, scores) * np.array([1, 2])
    )


def test_an_effect_is_a_difference_of_means_and_an_interaction_half_of_its_growth():
    design = factorial.all_of(factorial.FOUR)
    on = np.array([[run[key] == value for key, value in ON.items()] for run in design.settings])
    scores = np.array([3.0 * a + 2 * b - 1 * c + 4 * a * b for a, b, c, d in on])
    found = {name: factorial.effect(signs, scores) for name, signs in design.effects.items()}
    assert found["decay 0.1"] == pytest.approx(-1)
    assert found["sampler"] == pytest.approx(0)
    assert found["smoothing 0.1"] == pytest.approx(3 + 4 / 2)
    assert found["smoothing 0.1 × mixup 0.6"] == pytest.approx(4 / 2)
    score_of = {tuple(each): score for each, score in zip(on, scores)}
    grown = score_of[1, 1, 0, 0] - score_of[0, 1, 0, 0] - (score_of[1, 0, 0, 0] - score_of[0, 0, 0, 0])
    assert found["smoothing 0.1 × mixup 0.6"] == pytest.approx(grown / 2)


FIFTEEN = {f"setting {k}": ({f"s{k}": 0}, {f"s{k}": 1}) for k in range(15)}


@pytest.mark.parametrize("factors", [factorial.SCREENED, FIFTEEN], ids=["ours", "fifteen"])
def test_no_effect_of_a_screening_is_mixed_up_with_another_or_with_a_pair(factors):
    design, n = factorial.some_of(factors), len(factors)
    # Which run has which setting on, read back from what it trains with.
    on = np.array(
        [[run | values == run and values != off for off, values in factors.values()] for run in design.settings]
    )
    assert [run["split_seed"] for run in design.settings] == [0] * 16 + [1] * 16
    split = np.repeat([-1.0, 1.0], 16)
    signs = np.column_stack([np.where(on, 1.0, -1.0), split])
    rng = np.random.default_rng(0)
    # The split's own effect, and those by split, too.
    own, pairs = rng.normal(size=n + 1), rng.normal(size=(n + 1, n + 1))
    scores = signs @ own + np.einsum("ra,rb,ab->r", signs, signs, pairs)
    for effect, coefficient in zip(design.effects.values(), own[:n], strict=True):
        assert factorial.effect(effect, scores) == pytest.approx(2 * coefficient)
    assert len({tuple(row) for row in on.tolist()}) == 32 and not on[0].any()  # the first run is the base
    # Without pairs' interactions nothing is left in the columns of noise, which with them is where they are.
    assert np.allclose([factorial.effect(each, signs @ own) for each in design.noise], 0)
    of_pairs = np.abs([factorial.effect(each, scores) for each in design.noise])
    # A column that no setting took is one of noise, without any pair's.
    assert of_pairs[:15].min() > 1e-3 and of_pairs[15:] == pytest.approx(np.zeros(15 - n))
    # The first half alone: none mixed up with another.
    half = factorial.first_half(design)
    assert list(half.effects) == list(factors)
    for effect, coefficient in zip(half.effects.values(), own[:n], strict=True):
        assert factorial.effect(effect, signs[:16] @ own) == pytest.approx(2 * coefficient)


def test_a_screening_has_no_column_for_a_sixteenth_setting():
    with pytest.raises(ValueError):
        factorial.some_of(FIFTEEN | {"one more": (dict(more=0), dict(more=1))})


def test_lenths_noise_is_that_of_the_effects_that_are_nothing():
    """Of 15 effects, three of them large, the standard deviation of the others, in the mean of many draws."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        effects = rng.normal(0, 0.01, 15)
        effects[:3] += 0.1
        found.append(factorial.lenth(effects))
    assert np.mean(found) == pytest.approx(0.01, rel=0.1)
    assert factorial.lenth(np.zeros(15)) == 0


def test_a_report_of_nothing_says_how_to_train_and_makes_no_study(pictures, tmp_path, monkeypatch, capsys):
    words = ["--report", "--data", str(pictures), "--img-size", "32", "--folds", "2", "--project", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench.factorial", *words])
    assert factorial.main() == 2
    assert "factorial: give the same command without it\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # it looks, and makes nothing
