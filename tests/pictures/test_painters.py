"""The painters against a simulation of their own, and their pictures' labels against the posterior."""

import numpy as np
import pytest

from pictures import painters
from pictures.names import natural_key
from pictures.painters import COUNTS, LEVELS, STYLES


def draw(**given):
    return painters.draw(**dict(dict(classes=50, scale=0.28, seed=0, difficulty=1.0, label_noise=0.0), **given))


def test_counts_follow_the_study():
    assert sum(COUNTS) == 5311 and len(COUNTS) == 50
    assert painters.counts(50, 1).tolist() == list(COUNTS)
    assert painters.counts(50, 10).tolist() == [10 * n for n in COUNTS]
    assert painters.counts(99, 1)[::2].tolist() == list(COUNTS)  # halfway steps between them
    few = painters.counts(7, 0.1)
    assert few[0] == 56 and few[-1] == painters.FEWEST and (np.diff(few) <= 0).all()
    truth = draw()
    train = np.bincount(truth["true"][~truth["test"]])
    assert sorted(train, reverse=True) == painters.counts(50, 0.28).tolist()
    assert 1900 < len(truth["files"]) < 2100
    np.testing.assert_allclose(truth["prior"], train / train.sum())


def test_test_pictures_share_the_prior():
    share = np.mean(
        [
            np.bincount(t["true"][t["test"]], minlength=50) / t["test"].sum() - t["prior"]
            for t in (draw(seed=s) for s in range(25))
        ],
        axis=0,
    )
    tests = draw()["test"].sum()
    assert np.abs(share).max() < 5 * 0.5 / tests / np.sqrt(25)  # rounding's sd is at most 1/2
    t = draw()
    assert np.abs(np.bincount(t["true"][t["test"]], minlength=50) - tests * t["prior"]).max() < 1


def test_classes_are_sorted_distinct_and_many():
    truth = draw(classes=400, scale=0.02)
    assert len(set(truth["classes"])) == 400
    assert sorted(truth["classes"], key=natural_key) == truth["classes"].tolist()
    assert len(np.unique(truth["habits"], axis=0)) == 400
    habits = draw()["habits"]
    assert ((habits[:, None] != habits).sum(2) + 9 * np.eye(50)).min() == 2
    assert len(np.unique(habits[:, [0, 4]], axis=0)) == 50  # palette and composition alone tell painters apart


def test_styles_have_probabilities():
    truth = draw(seed=3)
    p = painters.likelihood(STYLES, truth["habits"], truth["wander"], truth["borrow"])
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-12)
    assert (p > 0).all() and len(STYLES) == np.prod(LEVELS) == len(np.unique(STYLES, axis=0))
    for name in ("posterior", "posterior_observed"):
        np.testing.assert_allclose(truth[name].sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_posterior_equals_a_simulation(noise):
    """Painters at work, one decision after the other, counted by style."""
    rng = np.random.default_rng(7)
    truth = draw(classes=4, seed=2, label_noise=noise, difficulty=6)
    habits, n = truth["habits"], 1_000_000
    painter = rng.choice(4, n, p=truth["prior"])
    model = painter.copy()
    borrowing = rng.random(n) < truth["borrow"]
    model[borrowing] = rng.integers(0, 4, borrowing.sum())
    style = habits[model]
    for f in range(5):
        wandering = rng.random(n) < truth["wander"]
        style[wandering, f] = rng.integers(0, LEVELS[f], wandering.sum())
    signed = painter.copy()
    wrong = rng.random(n) < noise
    signed[wrong] = (painter[wrong] + rng.integers(1, 4, wrong.sum())) % 4

    cell = np.ravel_multi_index(style.T, LEVELS)
    asked, row = np.unique(np.ravel_multi_index(truth["styles"].T, LEVELS), return_index=True)
    row = row[~truth["test"][row]]
    assert len(row) > 30
    checked = 0
    for r in row:
        here = cell == np.ravel_multi_index(truth["styles"][r], LEVELS)
        for labels, name in ((painter, "posterior"), (signed, "posterior_observed")):
            p, m = truth[name][r], here.sum()
            if m >= 200:
                found = np.bincount(labels[here], minlength=4) / m
                assert (np.abs(found - p) < 5.5 * np.sqrt(p * (1 - p) / m) + 5 / m).all(), (r, name, found, p)
                checked += 1
    assert checked > 20
    best = painters.posterior(STYLES, habits, truth["prior"], truth["wander"], truth["borrow"]).argmax(1)
    hits = (best[cell] == painter).mean()
    assert abs(hits - truth["bayes_accuracy"]) < 5 * np.sqrt(0.25 / n)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_labels_are_what_the_posterior_says(noise):
    truth = draw(scale=10, label_noise=noise, seed=11)
    n = len(truth["files"])
    for name, label, rows in (
        ("posterior", "true", np.arange(n)),
        ("posterior_observed", "observed", np.arange(n)),
        ("posterior_observed", "observed", np.flatnonzero(truth["test"])),
    ):
        p = truth[name][rows]
        for c in (p.argmax(1), np.argsort(p, 1)[:, -2], np.full(len(rows), 7)):
            q, hit = np.take_along_axis(p, c[:, None], 1)[:, 0], truth[label][rows] == c
            for part in (slice(None), *np.array_split(np.argsort(q, kind="stable"), 10)):
                z = (hit[part].sum() - q[part].sum()) / np.sqrt((q[part] * (1 - q[part])).sum() + 1)
                assert abs(z) < 5, (name, z)
    assert abs(truth["posterior"].max(1).mean() - truth["bayes_accuracy"]) < 5 * 0.5 / np.sqrt(n)


def test_label_noise():
    truth = draw(scale=4, label_noise=0.3)
    wrong, test = truth["observed"] != truth["true"], truth["test"]
    n = (~test).sum()
    assert abs(wrong[~test].mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n) and not wrong[test].any()
    shift = (truth["observed"] - truth["true"])[wrong] % 50
    assert np.abs(np.bincount(shift, minlength=50)[1:] / wrong.sum() * 49 - 1).max() < 5 * np.sqrt(49 / wrong.sum())
    assert not (draw()["observed"] != draw()["true"]).any()


def test_difficulty():
    accuracies = [draw(difficulty=d)["bayes_accuracy"] for d in (0, 0.5, 1, 2, 4, 8)]
    assert accuracies[0] == 1 and (np.diff(accuracies) < -0.02).all()
    assert all(0.8 < draw(seed=s)["bayes_accuracy"] < 0.9 for s in range(4))
    assert draw(difficulty=1000, classes=5)["bayes_accuracy"] == pytest.approx(draw(classes=5)["prior"].max(), abs=1e-6)
