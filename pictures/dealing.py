"""Rows dealt to the parts of a split: each class gets its share, and what belongs together stays together.

Knows labels, groups and sets of rows; never opens a picture.
"""

import hashlib
import json

import numpy as np

from pictures.listing import Listing


def listing_key(pictures: Listing) -> str:
    """Hex digest of what a split depends on beside its settings and the pictures: names, classes, parts, groups."""
    names = [pictures.classes[label] for label in pictures.labels]
    said = json.dumps([pictures.paths, names, pictures.parts.tolist(), pictures.groups])
    return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def deal(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bin of each row, int [N], -1 for the only picture of a class.

    The shuffled classes lie end to end, and bins are dealt at even steps: each class and the whole get their share.
    """
    members = []
    for label in rng.permutation(np.unique(labels)):
        rows = np.flatnonzero(labels == label)
        members.append(rng.permutation(rows))
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
    in_groups = np.argsort(group, kind="stable")
    members = np.split(in_groups, ends[:-1])
    counts = np.zeros((len(members), labels.max() + 1), int)  # of pictures, [groups, C]
    np.add.at(counts, (group, labels), 1)
    total = counts.sum(0)
    has_whole_class = ((counts == total) & (total > 0)).any(1)
    free = np.flatnonzero(~has_whole_class)  # the others stay in training
    due = np.outer(shares, counts[free].sum(0))
    target = np.maximum(due, 1e-9)  # float64 [bins, C], never 0: it divides
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


def keep_together(bins: np.ndarray, labels: np.ndarray, sets: list[np.ndarray]) -> np.ndarray:
    """`bins` [N], changed so that the rows of each of `sets` share a bin: that of the first.

    All of them stay in training, bin -1, where one of them does, and where a class would be in one bin alone.
    """
    bins = bins.copy()
    for rows in sets:
        own = bins[rows]
        all_are_dealt = (own >= 0).all()
        bins[rows] = own[0] if all_are_dealt else -1
    set_of = {row: rows for rows in sets for row in rows.tolist()}
    for label in np.unique(labels[list(set_of)]):
        members = np.flatnonzero(labels == label)
        first = members[0]
        in_one = (bins[members] == bins[first]).all()
        if in_one and bins[first] >= 0:
            kept = set_of.get(first, members[:1])
            bins[kept] = -1
    return bins


def joined(groups: list[str], sets: list[np.ndarray]) -> np.ndarray:
    """The group of each row as a number, int [N], those of the rows of a set made one."""
    group = np.unique(groups, return_inverse=True)[1]
    for rows in sets:
        touched = np.isin(group, group[rows])
        group[touched] = group[rows[0]]
    return group
