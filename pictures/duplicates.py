"""Pictures that are the same, or nearly, once decoded."""

import hashlib
from unicodedata import normalize

import numpy as np
from PIL import Image

from pictures.listing import Listing
from pictures.store import Store


def duplicates(parts: list[Listing], stored: list[Store]) -> list[str]:
    """A line for every set of pictures with equal pixels, and for every set of nearly equal ones.

    Nearly: difference hashes (64 signs of neighbours on a 9 x 8 grey thumbnail) at most 10 bits apart, and colour
    thumbnails at most 8 of 255 apart on average, which takes resaving, rescaling and a few per cent of light or crop.
    """
    rows = [
        (part, store, row)
        for part, store in zip(parts, stored)
        for row in range(len(part.paths))
        if row not in store.bad
    ]
    if not rows:
        return []
    same: dict[bytes, list[int]] = {}
    for i, (_, store, row) in enumerate(rows):
        same.setdefault(hashlib.blake2b(store.pixels[row]).digest(), []).append(i)
    firsts = [members[0] for members in same.values()]
    thumbs = np.stack(
        [
            np.asarray(Image.fromarray(store.pixels[row]).resize((9, 8), Image.Resampling.BOX), np.float32)
            for _, store, row in map(rows.__getitem__, firsts)
        ]
    )
    grey = thumbs.mean(-1)
    hashes = np.packbits((grey[:, :, 1:] > grey[:, :, :-1]).reshape(-1, 64), axis=1).view(np.uint64).ravel()
    near = {i: [i] for i in range(len(firsts))}  # each picture's set, one list shared by its members
    for i in range(len(firsts)):
        close = i + 1 + np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= 10)
        for j in close[np.abs(thumbs[close] - thumbs[i]).mean((1, 2, 3)) <= 8]:
            if near[i] is not near[j]:
                near[i] += near[j]
                near.update(dict.fromkeys(near[j], near[i]))

    def line(kind: str, members: list[int]) -> str:
        said, places, names = [], [], []
        for part, _, row in map(rows.__getitem__, members):
            name = part.classes[part.labels[row]] if part.labels[row] >= 0 else None
            said.append(part.paths[row] if name is None else f"{part.paths[row]} ({name})")
            places.append(str(part.parts[row]))
            names += [normalize("NFC", name)] if name is not None else []
        across = f", across {' and '.join(dict.fromkeys(places))}" if len(set(places)) > 1 else ""
        return f"{kind}{across}{', CONFLICTING LABELS' if len(set(names)) > 1 else ''}: {' = '.join(said)}"

    return [line("same picture", members) for members in same.values() if len(members) > 1] + [
        line("nearly the same", [firsts[i] for i in sorted(members)])
        for first, members in near.items()
        if len(members) > 1 and first == min(members)
    ]
