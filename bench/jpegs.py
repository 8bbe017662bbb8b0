"""JPEG files to train on: photographs enlarged, or noise that compresses like them."""

from pathlib import Path

import numpy as np
from PIL import Image

FILE = (500, 400)  # pixels of a file
DIFFERENT = 640  # random pictures; further files hold them again, which a decoder does not know


def paint(folder, number, source=None):
    """`number` files in up to 50 class folders under `folder`: octaves of noise, or the pictures under `source`."""
    rng = np.random.default_rng(0)
    found = sorted(p for p in Path(source or folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if source and not found:
        raise SystemExit(f"{source}: no .jpg or .png file in it")
    painted = []
    for i in range(number):
        path = folder / f"{i % min(50, number // 4):02d}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DIFFERENT and not source:
            path.write_bytes(painted[i % DIFFERENT])
            continue
        if source:
            picture = Image.open(found[i % len(found)]).convert("RGB")
        else:
            picture = Image.new("RGB", (1, 1))
            for side in (4, 8, 16, 32, 64, 128, 256):
                noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
                picture = Image.blend(picture.resize(noise.size, Image.Resampling.BICUBIC), noise, 0.25)
        picture.resize(FILE, Image.Resampling.BICUBIC).save(path, quality=90)
        painted.append(path.read_bytes())
