"""The effects of bench/factorial.py beside a regression on the same scores."""

import itertools
import sys

import numpy as np
import pytest

from bench import factorial


def test_effects_and_interactions_are_those_of_a_regression():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=len(factorial.COMBINATIONS))
    # The full model: every product of factors that are -1 (off) or 1 (on). An effect is twice its coefficient.
    levels = 2.0 * np.array(factorial.COMBINATIONS) - 1
    subsets = [each for size in range(5) for each in itertools.combinations(range(4), size)]
    design = np.stack([levels[:, list(each)].prod(1) for each in subsets], 1)
    coefficients = np.linalg.lstsq(design, scores, rcond=None)[0]
    for together, coefficient in zip(subsets[1:], coefficients[1:]):
        assert factorial.effect(together, scores) == pytest.approx(2 * coefficient)


def test_an_effect_is_a_difference_of_means_and_an_interaction_half_of_its_growth():
    on = {each: k for k, each in enumerate(factorial.COMBINATIONS)}
    scores = np.array([3.0 * a + 2 * b - 1 * c + 4 * a * b for a, b, c, d in factorial.COMBINATIONS])
    assert factorial.effect((2,), scores) == pytest.approx(-1)
    assert factorial.effect((3,), scores) == pytest.approx(0)
    assert factorial.effect((0,), scores) == pytest.approx(3 + 4 / 2)
    assert factorial.effect((0, 1), scores) == pytest.approx(4 / 2)
    grown = scores[on[1, 1, 0, 0]] - scores[on[0, 1, 0, 0]] - (scores[on[1, 0, 0, 0]] - scores[on[0, 0, 0, 0]])
    assert factorial.effect((0, 1), scores) == pytest.approx(grown / 2)
    # Of each picture at once: a column each.
    assert np.allclose(factorial.effect((0,), np.stack([scores, 2 * scores], 1)), [5, 10])


def test_a_report_of_nothing_says_how_to_train_and_makes_no_study(pictures, tmp_path, monkeypatch, capsys):
    words = ["--report", "--data", str(pictures), "--img-size", "32", "--folds", "2", "--project", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench.factorial", *words])
    assert factorial.main() == 2
    assert "factorial: give the same command without it\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # it looks, and makes nothing
