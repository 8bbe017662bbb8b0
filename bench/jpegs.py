"""JPEG files to train on: photographs enlarged, or noise that compresses like them.

    python -m bench.jpegs        paints the noise once, into bench/painted, where every bench then finds it

Without that folder a bench paints what it needs. It is not tracked; a copy of the tree may bring it along (11 MB).
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

PAINTED = Path(__file__).resolve().parent / "painted"
FILE = (500, 400)  # pixels of a file
DIFFERENT = 128  # pictures; further files are links to them, which a decoder does not know


def paint(folder, number, source=None):
    """`number` files in up to 50 class folders under `folder`: octaves of noise, or the pictures under `source`."""
    files = [folder / f"{i % min(50, number // 4):02d}" / f"{i}.jpg" for i in range(number)]
    for parent in {file.parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    different = files[: DIFFERENT if not source else None]
    pictures = found_in(source) if source else []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow and NumPy work without the interpreter's lock
        made = pool.map(lambda i: enlarged(pictures[i % len(pictures)]) if source else noise(i), range(len(different)))
        for file, content in zip(different, made):
            file.write_bytes(content)
    for i in range(len(different), number):
        os.link(different[i % len(different)], files[i])


def found_in(source):
    """The picture files under `source`."""
    found = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise SystemExit(f"{source}: no .jpg or .png file in it")
    return found


def enlarged(path):
    with Image.open(path) as image:
        return jpeg(image.convert("RGB"))


def noise(i):
    """Picture number `i`, as bytes of a file: octaves of noise, from bench/painted if it is there."""
    if (PAINTED / f"{i}.jpg").exists():
        return (PAINTED / f"{i}.jpg").read_bytes()
    rng = np.random.default_rng(i)
    picture = Image.new("RGB", (1, 1))
    for side in (4, 8, 16, 32, 64, 128, 256):
        octave = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture = Image.blend(picture.resize(octave.size, Image.Resampling.BICUBIC), octave, 0.25)
    return jpeg(picture)


def jpeg(picture):
    held = io.BytesIO()
    picture.resize(FILE, Image.Resampling.BICUBIC).save(held, "jpeg", quality=90)
    return held.getvalue()


def main():
    PAINTED.mkdir(exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, content in enumerate(pool.map(noise, range(DIFFERENT))):
            (PAINTED / f"{i}.jpg").write_bytes(content)


if __name__ == "__main__":
    main()
