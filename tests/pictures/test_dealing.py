"""What belongs together stays together. tests/test_data.py has the shares of a split."""

import numpy as np
import pytest

import data
from pictures.dealing import joined, keep_together
from test_data import everyone, listing_of


def sets_of(*members):
    return [np.array(rows) for rows in members]


def test_a_set_goes_where_its_first_row_is():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    bins = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    assert keep_together(bins, labels, sets_of([1, 6])).tolist() == [0, 1, 2, 0, 1, 2, 1, 1]
    assert keep_together(bins, labels, []).tolist() == bins.tolist()


def test_a_set_with_a_row_that_must_be_trained_on_is_trained_on():
    labels = np.array([0, 0, 0, 1, 2, 2])
    bins = np.array([0, 1, 2, -1, 0, 1])
    assert keep_together(bins, labels, sets_of([0, 3])).tolist() == [-1, 1, 2, -1, 0, 1]


def test_no_class_is_held_out_whole():
    """A class of one set, and one whose other picture lies where a set moves to, keep a picture to train on."""
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    bins = np.array([0, 1, 0, 1, 0, 0, 1, 2])
    assert keep_together(bins, labels, sets_of([0, 1], [2, 3])).tolist() == [-1, -1, -1, -1, 0, 0, 1, 2]


def test_groups_that_share_a_set_are_one():
    groups = ["p", "p", "q", "r", "s", "s"]
    assert joined(groups, sets_of([1, 3])).tolist() == [0, 0, 1, 0, 3, 3]
    assert joined(groups, sets_of([1, 3], [2, 0])).tolist() == [1, 1, 1, 1, 3, 3]
    assert joined(groups, []).tolist() == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("grouped", [False, True])
def test_no_fold_divides_a_set(grouped):
    """300 pictures of 10 classes in 20 sets of 2 to 4, some rows unusable: folds are disjoint, miss nothing, and each
    class keeps its share to within what the sets move."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 300)
    groups = [str(k // 2) for k in range(300)] if grouped else None
    found = listing_of(labels, groups=groups)
    usable = everyone(found)
    usable[290:] = False
    order = rng.permutation(290)
    alike = [sorted(order[4 * k : 4 * k + 2 + k % 3].tolist()) for k in range(20)]
    held = [data.split(found, usable, alike, folds=3, fold=fold)[1] for fold in range(3)]
    fold_of = {row: fold for fold, rows in enumerate(held) for row in rows.tolist()}
    assert sum(map(len, held)) == len(fold_of) == 290
    assert all(len({fold_of[row] for row in rows}) == 1 for rows in alike)
    for rows in held:
        assert np.abs(np.bincount(labels[rows], minlength=10) - np.bincount(labels[:290]) / 3).max() <= 6
    train, val = data.split(found, usable, alike, val_split=0.2)
    assert all(len(set(rows) & set(val.tolist())) in (0, len(rows)) for rows in alike) and 40 < len(val) < 76
    if not grouped:  # without a set nothing moves
        plain = [data.split(found, usable, folds=3, fold=fold)[1] for fold in range(3)]
        moved = sum(len(set(rows) - set(others)) for rows, others in zip(plain, held))
        assert 0 < moved <= sum(map(len, alike)) - len(alike)
