"""Pictures that are the same, or nearly, once decoded.

Compares the pixels of Stores and never opens an image file. Says what it found; leaves every picture where it is.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image

from files import replacing
from pictures.listing import Listing
from pictures.store import Store, cache_dir

MOST_BITS = 10  # of 64 in which the difference hashes of nearly equal pictures may differ
MOST_LEVELS = 8  # of 255 by which their colour thumbnails may differ, on average
SMALL_SET = 3  # pictures: no set of so few is too large
LARGEST_SHARE = 0.05  # of the pictures that a set of near duplicates may hold


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
        equal_sets.setdefault(_digest(picture.store, picture.row), []).append(picture)
    found = [_finding("same picture", members) for members in equal_sets.values() if len(members) > 1]
    # One picture stands for its equals, which are named already.
    distinct = [members[0] for members in equal_sets.values()]
    for numbers in _near_sets(_thumbnails([picture.store.pixels[picture.row] for picture in distinct])):
        found.append(_finding("nearly the same", [distinct[number] for number in numbers]))
    return found


def rows_of_both(store: Store, other: Store, rows: Iterable[int]) -> list[int]:
    """The rows of `store` whose pixels are those of one of the `rows` of `other`, a Store of the same side; bad ones
    left out."""
    known = {_digest(other, row) for row in rows if row not in other.bad}
    return [row for row in range(len(store.pixels)) if row not in store.bad and _digest(store, row) in known]


def _digest(store, row):
    """Of a picture's pixels."""
    return hashlib.blake2b(store.pixels[row]).digest()


def near_sets(store: Store) -> list[list[int]]:
    """Rows of a Store in sets of two or more pictures that are the same, or nearly; found once, and kept in the cache.

    Of a set of more than a twentieth of the pictures only those of equal pixels are: the others are no copies, but what
    pictures of this kind look like.
    """
    path = cache_dir() / store.key / "copies.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    rows = [row for row in range(len(store.pixels)) if row not in store.bad]
    found = []
    for numbers in _near_sets(_thumbnails([store.pixels[row] for row in rows])) if rows else []:
        near = [rows[number] for number in numbers]
        if len(near) <= max(SMALL_SET, LARGEST_SHARE * len(rows)):
            found.append(near)
            continue
        equal_sets = {}
        for row in near:
            equal_sets.setdefault(_digest(store, row), []).append(row)
        found += [equal for equal in equal_sets.values() if len(equal) > 1]
    # Whole at once, for another process may be reading it. A cache that cannot be written is looked through again.
    with contextlib.suppress(OSError), replacing(path) as draft:
        draft.write_text(json.dumps(found))
    return found


def _near_sets(thumbnails):
    """Sets of two or more nearly equal pictures, as sorted numbers. A chain of near pictures is one set."""
    hashes = _difference_hashes(thumbnails)
    light = thumbnails.mean((1, 2, 3), dtype=np.float64)
    order = np.argsort(light, kind="stable")
    light, thumbnails, hashes = light[order], thumbnails[order], hashes[order]
    # Pictures whose mean is further apart than that are not near. A little more, for rounding.
    ends = np.searchsorted(light, light + MOST_LEVELS + 0.01)
    set_of = [[number] for number in order.tolist()]  # the members of a set share one list
    place = np.argsort(order)  # of each number in this order
    for k, (end, thumbnail) in enumerate(zip(ends, thumbnails)):
        bits = np.bitwise_count(hashes[k + 1 : end] ^ hashes[k])
        # Thumbnails are compared only where the hashes agree, which few do.
        close = k + 1 + np.flatnonzero(bits <= MOST_BITS)
        levels = np.abs(thumbnails[close] - thumbnail).mean((1, 2, 3))
        for other in close[levels <= MOST_LEVELS]:
            joined, added = set_of[k], set_of[other]
            if joined is not added:
                joined += added
                for member in added:
                    set_of[place[member]] = joined
    found = {id(members): sorted(members) for members in set_of if len(members) > 1}
    return sorted(found.values())


def _thumbnails(pictures):
    """float32 [N, 8, 9, 3], 0 to 255, of pictures uint8 [S, S, 3]: nine columns for eight differences of neighbours."""
    small = []
    for pixels in pictures:
        small.append(np.asarray(Image.fromarray(pixels).resize((9, 8), Image.Resampling.BOX), np.float32))
    return np.stack(small)


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
