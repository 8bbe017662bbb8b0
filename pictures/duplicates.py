"""Pictures that are the same, or nearly, once decoded.

Compares the pixels of Stores and never opens an image file. Says what it found; leaves every picture where it is.
"""

import hashlib
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image

from pictures.listing import Listing
from pictures.store import Store

MOST_BITS = 10  # of 64 in which the difference hashes of nearly equal pictures may differ
MOST_LEVELS = 8  # of 255 by which their colour thumbnails may differ, on average


class Picture(NamedTuple):
    """Row `row` of a listing and of its Store."""

    part: Listing
    store: Store
    row: int


def duplicates(parts: list[Listing], stored: list[Store]) -> list[tuple[str, str]]:
    """(kind, members), in words, of every set of pictures with equal pixels, and of every set of nearly equal ones.

    parts: listings, say of the training and of the test pictures. stored: their Stores, all of one side.
    Nearly equal pictures have difference hashes at most 10 bits apart, and colour thumbnails at most 8 of 255 apart on
    average. A picture that was saved again, rescaled, or changed by a few per cent of light or crop stays that near.
    """
    pictures = []  # all but the bad ones, which are equal in being zero
    for part, store in zip(parts, stored):
        pictures += [Picture(part, store, row) for row in range(len(part.paths)) if row not in store.bad]
    if not pictures:
        return []
    equal_sets = {}
    for picture in pictures:
        digest = hashlib.blake2b(picture.store.pixels[picture.row]).digest()
        equal_sets.setdefault(digest, []).append(picture)
    found = [_finding("same picture", members) for members in equal_sets.values() if len(members) > 1]
    # One picture stands for its equals, which are named already.
    distinct = [members[0] for members in equal_sets.values()]
    for numbers in _near_sets(distinct):
        found.append(_finding("nearly the same", [distinct[number] for number in numbers]))
    return found


def _near_sets(pictures):
    """Sets of two or more nearly equal pictures, as sorted numbers. A chain of near pictures is one set."""
    thumbnails = np.stack([_thumbnail(picture) for picture in pictures])
    hashes = _difference_hashes(thumbnails)
    set_of = [[number] for number in range(len(pictures))]  # the members of a set share one list
    for number, thumbnail in enumerate(thumbnails):
        after = number + 1
        bits = np.bitwise_count(hashes[after:] ^ hashes[number])
        # Thumbnails are compared only where the hashes agree, which few do.
        close = after + np.flatnonzero(bits <= MOST_BITS)
        levels = np.abs(thumbnails[close] - thumbnail).mean((1, 2, 3))
        for other in close[levels <= MOST_LEVELS]:
            joined, added = set_of[number], set_of[other]
            if joined is not added:
                joined += added
                for member in added:
                    set_of[member] = joined
    # Each set is told once: at its first member.
    return [sorted(members) for number, members in enumerate(set_of) if len(members) > 1 and number == min(members)]


def _thumbnail(picture):
    """float32 [8, 9, 3], 0 to 255: nine columns, for eight differences of neighbours."""
    image = Image.fromarray(picture.store.pixels[picture.row])
    return np.asarray(image.resize((9, 8), Image.Resampling.BOX), np.float32)


def _difference_hashes(thumbnails):
    """uint64 [N]: a bit for each grey pixel that is brighter than its left neighbour (dHash)."""
    grey = thumbnails.mean(-1)
    brighter = grey[:, :, 1:] > grey[:, :, :-1]
    return np.packbits(brighter.reshape(-1, 64), axis=1).view(np.uint64).ravel()


def _finding(kind, members):
    """One finding: its kind, with the parts that it lies across and whether labels agree; its pictures and classes."""
    said, names = [], set()
    for part, _, row in members:
        path, label = part.paths[row], part.labels[row]
        if label < 0:
            said.append(path)
        else:
            name = part.classes[label]
            said.append(f"{path} ({name})")
            names.add(normalize("NFC", name))  # two spellings of one name are no conflict
    places = dict.fromkeys(str(part.parts[row]) for part, _, row in members)
    across = f", across {' and '.join(places)}" if len(places) > 1 else ""
    conflict = ", CONFLICTING LABELS" if len(names) > 1 else ""
    return f"{kind}{across}{conflict}", " = ".join(said)
