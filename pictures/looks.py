"""What a picture looks like, in numbers that people understand, and small copies for a page. Knows no class."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pictures.decode import decode
from pictures.rgb import PictureError
from pictures.store import dimensions

SIDE = 118  # px of the copy's long side
LUMA = (0.299, 0.587, 0.114)  # of RGB, ITU-R BT.601


class Look(NamedTuple):
    """A picture, read once."""

    jpeg: bytes  # the copy
    brightness: float  # mean luma in [0, 1]
    sharpness: float  # standard deviation of the Laplacian of the luma at SIDE px, in 1/255
    size: int  # px, the short side
    aspect: float  # width / height


def look(file: Path) -> Look | None:
    """The Look of a picture file; None where it cannot be read."""
    try:
        pixels = decode(file, SIDE)
        width, height = dimensions([file])[0]
    except (PictureError, OSError, TypeError):
        return None
    luma = pixels @ np.array(LUMA)
    middle = luma[1:-1, 1:-1]
    edges = 4 * middle - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    scale = SIDE / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    copy = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR))
    return Look(jpeg(copy), float(luma.mean() / 255), float(edges.std()), min(width, height), width / height)


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as JPEG, a small one enlarged by a whole number."""
    zoom = max(1, SIDE // max(pixels.shape))
    return _file(_enlarged(pixels, zoom), "JPEG", quality=72)


def sheet(tiles: np.ndarray, columns: int = 16) -> bytes:
    """Pictures [K, k, k, 3] of [0, 1] side by side as a PNG, `columns` in a row, each 16 px or more wide."""
    zoom = -(-16 // tiles.shape[1])
    side = tiles.shape[1] * zoom + 2
    columns = min(columns, len(tiles))
    whole = np.full((-(-len(tiles) // columns) * side, columns * side, 3), 255, np.uint8)
    for number, tile in enumerate(np.rint(tiles * 255).astype(np.uint8)):
        top, left = number // columns * side + 1, number % columns * side + 1
        whole[top : top + side - 2, left : left + side - 2] = _enlarged(tile, zoom)
    return _file(whole, "PNG")


def _enlarged(pixels, zoom):
    return pixels.repeat(zoom, 0).repeat(zoom, 1)


def _file(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
