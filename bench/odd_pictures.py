"""Claim: of a folder of odd pictures each is read as an independent decoder reads it, or refused by name; none fails.

    python -m bench.odd_pictures DIR [--size 64] [--apart 2] [--cuts 3] [--list]

DIR is looked through at every depth, whatever its files are called: Tests/images of Pillow's source distribution has
some 1,000. Independent of Pillow are libvips (`pip install pyvips pyvips-binary`) and OpenCV (`pip install
opencv-python-headless`), each used where it is there. Both sides are brought to S x S by the same filter, over white,
CMYK by (1 - C)(1 - K), without colour profiles; then their mean colours are compared. Exit 1 where any file failed.
Each file that is read is also cut at random places, with and without its format's end mark behind, and once lengthened
by noise. All of these must be refused, or show the very pixels of the whole file.
"""

import argparse
import collections
import contextlib
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pictures.decode import PictureError, decode

try:
    import pyvips
except ImportError:
    pyvips = None
try:
    import tifffile
except ImportError:
    tifffile = None
try:
    import cv2
except ImportError:
    cv2 = None


def over_white(pixels, alpha):
    """float [H, W, C] of 0 to 255 over white. alpha: [H, W, 1] of 0 to 255."""
    return pixels * (alpha / 255) + 255 - alpha


def without_ink(pixels):
    """RGB of CMYK, float [H, W, 4] of 0 to 255."""
    return (255 - pixels[..., :3]) * (255 - pixels[..., 3:4]) / 255


def three_channels(pixels):
    colours = pixels[..., : 3 if pixels.shape[-1] > 2 else 1]
    return np.broadcast_to(colours, (*pixels.shape[:2], 3))


def of_255(values):
    """Integers [H, W, C] as float of 0 to 255, grey of 16 bits by decode()'s rule: its greatest value tells."""
    if values.dtype != np.uint16:
        return values.astype(np.float64) * (255 if values.dtype == bool else 1)
    top = values.max()
    white = 65535
    if values.shape[-1] == 1 and top < 4096:
        white = 255 if top < 256 else 4095
    return values * (255 / white)


def by_vips(path):
    """libvips' pixels as float [H, W, 3] of 0 to 255; None where they have no known white."""
    image = pyvips.Image.new_from_file(str(path), fail_on="error").copy_memory()
    if image.format not in ("uchar", "ushort"):
        return None
    pixels = of_255(image.numpy().reshape(image.height, image.width, image.bands))
    if image.interpretation == "cmyk":
        return without_ink(pixels)
    if image.bands in (2, 4):
        pixels = over_white(pixels[..., :-1], pixels[..., -1:])
    return three_channels(pixels)


def by_tifffile(path):
    """As `by_vips`, of a TIFF alone."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        pixels = page.asarray()
        photometric, extra, colours = page.photometric.name, page.extrasamples, page.colormap
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    if photometric == "PALETTE":
        pixels = colours.T[pixels]
    if pixels.dtype not in (bool, np.uint8, np.uint16) or page.bitspersample not in (1, 8, 12, 16):
        return None  # no known white, or left in fewer bits than its type has
    pixels = of_255(pixels.reshape(*pixels.shape[:2], -1))
    if photometric == "SEPARATED":
        return without_ink(pixels)
    if photometric == "CIELAB":
        pixels[..., 0] *= 100 / 255
        pixels[..., 1:] -= 256 * (pixels[..., 1:] > 127)
        lab = pyvips.Image.new_from_array(pixels.astype(np.float32)).copy(interpretation="lab")
        return lab.colourspace("srgb").numpy().astype(np.float64)
    if photometric == "MINISWHITE":
        pixels = 255 - pixels
    if extra and extra[0] == 2:
        pixels = over_white(pixels[..., :-1], pixels[..., -1:])
    elif extra and extra[0] == 1:  # multiplied by its alpha already
        pixels = pixels[..., :-1] + 255 - pixels[..., -1:]
    return three_channels(pixels)


def by_opencv(path):
    """As `by_vips`. OpenCV gives no pixels where it cannot read a file."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return None
    pixels = of_255(pixels.reshape(*pixels.shape[:2], -1))
    if pixels.shape[-1] == 4:
        pixels = over_white(pixels[..., :3], pixels[..., 3:])
    return three_channels(pixels[..., ::-1])


def mean_colour(pixels, size):
    """Mean RGB of float [H, W, 3] once squashed to `size` as decode() does it."""
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).mean((0, 1))


def read_by_peers(path, peers):
    """{name: pixels} of those that can read the file."""
    found = {}
    for name, read in peers.items():
        with contextlib.suppress(Exception):  # each has its own ways to fail, and this is not about them
            pixels = read(path)
            if pixels is not None:
                found[name] = pixels
    return found


def damaged(data, cuts, rng):
    """(what was done, the bytes) of a file, cut and lengthened."""
    end = next((end for start, end in ENDS.items() if data.startswith(start)), b"")
    for length in rng.integers(0, len(data), cuts):
        yield "cut", data[:length]
        if end:
            yield "cut before an end mark", data[:length] + end
    if cuts:
        yield "lengthened", data + rng.bytes(4096)


def check_damaged(path, args, rng, counts):
    """Counts what becomes of `path` once damaged."""
    whole = decode(path, args.size)
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as file:
        for how, data in damaged(path.read_bytes(), args.cuts, rng):
            Path(file.name).write_bytes(data)
            try:
                pixels = decode(file.name, args.size)
            except PictureError:
                counts[f"{how}: refused by name"] += 1
                continue
            same = np.array_equal(pixels, whole)
            counts[f"{how}: {'every pixel' if same else 'other pixels'}"] += 1
            if not same:
                apart = np.abs(pixels.astype(int) - whole).mean()
                print(f"{how} to {len(data):,} bytes, read with a mean difference of {apart:.3f} of 255: {path}")


# The first bytes of a format, and its end mark where it can stand anywhere: parts of a PNG have lengths.
ENDS = {b"\xff\xd8": b"\xff\xd9", b"GIF8": b";"}
PEERS = (("vips", by_vips, pyvips), ("tifffile", by_tifffile, tifffile), ("opencv", by_opencv, cv2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--apart", type=float, default=2, help="mean colours further apart than this, of 255, disagree")
    parser.add_argument("--cuts", type=int, default=3, help="random places at which to cut each file that is read")
    parser.add_argument("--list", action="store_true", help="a line for every file, not only for those that disagree")
    args = parser.parse_args()
    peers = {name: read for name, read, there in PEERS if there}
    counts, cut, reasons = collections.Counter(), collections.Counter(), collections.Counter()
    rng = np.random.default_rng(0)
    files = sorted(path for path in args.folder.rglob("*") if path.is_file())
    for path in files:
        began = time.perf_counter()
        try:
            ours, reason = decode(path, args.size).mean((0, 1)), None
            check_damaged(path, args, rng, cut)
        except PictureError as error:
            ours, reason = None, str(error)
        except Exception as error:
            counts["failed"] += 1
            print(f"FAILED {path}: {error!r}")
            continue
        theirs = read_by_peers(path, peers)
        seconds = time.perf_counter() - began
        if ours is None:
            counts["refused by name"] += 1
            counts["refused by name, though another decoder reads it"] += bool(theirs)
            reasons[re.sub(r"\d[\d,]*", "#", reason)] += 1
            line = f"refused {path}: {reason}" + (f" ({', '.join(theirs)} reads it)" if theirs else "")
        else:
            counts["read"] += 1
            apart = {name: np.abs(mean_colour(pixels, args.size) - ours).max() for name, pixels in theirs.items()}
            verdict = "read by us alone"
            if apart:
                verdict = "disagree" if min(apart.values()) > args.apart else "agree"
            counts[f"read: {verdict}"] += 1
            line = f"{verdict} {path}: {ours.round(1)} " + ", ".join(f"{n} {a:.1f} apart" for n, a in apart.items())
        if args.list or line.startswith("disagree"):
            print(line, f"{seconds:.1f} s" if seconds > 5 else "")
    print(f"{len(files)} files; beside us: {', '.join(peers) or 'no other decoder'}")
    counts["failed"] += 0  # said even where there is none
    for name, count in [*sorted(counts.items()), *sorted(cut.items())]:
        print(f"{count:6}  {name}")
    for reason, count in reasons.most_common():
        print(f"        {count:6}  {reason}")
    return 1 if counts["failed"] or not files else 0


if __name__ == "__main__":
    sys.exit(main())
