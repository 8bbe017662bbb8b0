"""Pictures dealt into bins at random, so that each bin gets its share of every class: folds, or
validation and training.

`labels` are int [N], `shares` float [bins] that sum to 1. Reads no file.
"""

import numpy as np


def deal(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bin of each row, int [N], -1 for the only picture of a class.

    The shuffled classes lie end to end, and bins are dealt at even steps: each class and the whole get their share.
    """
    order = rng.permutation(np.unique(labels))
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in order]
    deck = np.concatenate([rows if len(rows) > 1 else rows[:0] for rows in members])
    bins = np.full(len(labels), -1)
    if len(shares) > 2 or shares[0] == shares[1]:
        bins[deck] = np.arange(len(deck)) % len(shares)  # equal shares: one row to each bin in turn
        return bins
    due = np.floor(np.arange(len(deck) + 1) * shares[0] + 0.5)  # rows of bin 0 after so many of the deck
    bins[deck] = np.where(np.diff(due) > 0, 0, 1)
    for rows in members:
        if (bins[rows] == 0).all():  # a large share took a small class whole: its last picture stays
            bins[rows[-1]] = 1
    return bins


def deal_groups(groups: list[str], labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bin of each row, int [N], -1 where its group has a class to itself.

    The largest group comes first. Each goes to the bin whose classes it leaves nearest to their share, by chi-squared.
    """
    _, group = np.unique(groups, return_inverse=True)
    ends = np.cumsum(np.bincount(group))
    members = np.split(np.argsort(group, kind="stable"), ends[:-1])
    # int64 [groups, C]
    counts = np.array([np.bincount(labels[rows], minlength=labels.max() + 1) for rows in members])
    total = counts.sum(0)
    has_whole_class = ((counts == total) & (total > 0)).any(1)
    free = np.flatnonzero(~has_whole_class)  # the others stay in training
    target = np.maximum(np.outer(shares, counts[free].sum(0)), 1e-9)  # float64 [bins, C], never 0: it divides
    dealt = np.zeros_like(target)
    bins = np.full(len(labels), -1)
    # Shuffled before it is sorted: the sort is stable, so equal groups stay in random order.
    for number in sorted(rng.permutation(free), key=lambda number: -len(members[number])):
        count = counts[number]
        # By how much each bin's sum of (dealt - target)^2 / target would rise, but for a term that all bins share.
        rise = (count * (2 * dealt + count) / target).sum(1)
        best = np.argmin(rise)
        dealt[best] += count
        bins[members[number]] = best
    return bins
