"""From which level of the Store a view is best taken: its own, or the one of half the side. plan.SHRINK is the bound.

    python -m bench.levels [DIR] [--pictures 100] [--side 256]

A view of `side` / shrink pixels is sampled as training does, from either level, and compared with Pillow's antialiased
resize of the same window: signal to noise, and the energy of its gradients by that of the resize (over 1: aliasing,
under 1: blur). Once of whole pictures, once of windows of 35 to 100% of the area. Without DIR: generated pictures.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import augment
from bench.jpegs import paint
from engine.resident import halved
from errors import Parser
from pictures.decode import decode

SHRINKS = (1.0, 1.14, 1.25, 1.33, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0)


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("folder", nargs="?", metavar="DIR", help="pictures of their own (default: generated ones)")
    parser.add_argument("--pictures", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--side", type=int, default=256, help="of the Store, in pixels (default 256)")
    args = parser.parse_args()
    pixels = decoded(args)
    half = halved(pixels, torch.device("cpu"))
    print(f"{len(pixels)} pictures of {args.side} px: signal to noise in dB and energy of gradients\n")
    print(
        "| shrunk by | whole: own level | half the side | windows: own level | half the side |\n" + "| --- " * 5 + "|"
    )
    for shrink in SHRINKS:
        size = round(args.side / shrink)
        cells = []
        for low in (1.0, 0.35):
            offset, side = windows(len(pixels), low, args.side)
            wanted = resized(pixels, offset, side, size)
            for level in (pixels, half):
                scale = level.shape[1] / args.side
                cells.append(compared(sampled(level, offset * scale, side * scale, size), wanted))
        print(f"| {args.side / size:.2f} | " + " | ".join(cells) + " |", flush=True)


def decoded(args):
    """uint8 [N,S,S,3] of the first pictures under the folder, evenly spread."""
    with tempfile.TemporaryDirectory() as place:
        if not args.folder:
            paint(Path(place), args.pictures)
        files = sorted(
            p for p in Path(args.folder or place).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if not files:
            raise SystemExit(f"{args.folder}: no .jpg or .png file in it")
        chosen = files[:: max(1, len(files) // args.pictures)][: args.pictures]
        return torch.from_numpy(np.stack([decode(path, args.side) for path in chosen]))


def windows(n, low, side):
    """Corners and sides of n square windows, float64 [n,2] each, in pixels: `low` to all of the area."""
    rng = np.random.default_rng(0)
    sides = np.repeat(np.sqrt(rng.uniform(low, 1, n))[:, None], 2, 1) * side
    return rng.random((n, 2)) * (side - sides), sides


def resized(pixels, offset, side, size):
    """float32 [N,3,size,size] in [0,1] by Pillow."""
    views = []
    for picture, corner, extent in zip(pixels.numpy(), offset, side):
        box = tuple(np.clip([*corner, *(corner + extent)], 0, pixels.shape[1]))
        views.append(np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, box=box)))
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255


def sampled(level, offset, side, size):
    """The same as training has it."""
    n = len(level)
    geo = torch.from_numpy(augment.affine(side, offset, np.ones(n), np.zeros(n), size))
    return augment.sampled(level, torch.arange(n), geo, torch.eye(3, 4).expand(n, 3, 4), size, "reflect")


def compared(view, wanted):
    noise = (view - wanted).square().mean((1, 2, 3)).clamp_min(1e-9)
    decibel = (-10 * noise.log10()).mean()
    return f"{decibel:.1f}, {energy(view) / energy(wanted):.2f}"


def energy(x):
    return x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()


if __name__ == "__main__":
    sys.exit(main())
