"""One picture file -> upright RGB bytes of one size, or the reason why not. Run as a script it is a Store's worker.

Trusts nothing about the file: its kind, its size and its end are checked, and whatever Pillow raises becomes a
PictureError. Never repairs, never guesses a missing part, never decodes what its header says is too large.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

RECIPE = 1  # raise it whenever decode() would give other pixels: older caches then stay unread
RESIZES = ("squash", "crop", "pad")
MAX_PIXELS = 89_478_485  # Pillow's own line between a photograph and a decompression bomb
# Those that start with a signature, need no other program (EPS does) and notice when they are cut (JPEG 2000 does not).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# Pillow is content without these endings; a file that lacks its own was cut, be it after the last pixel.
ENDINGS = {"PNG": (b"IEND\xaeB`\x82", 2**20), "GIF": (b"\0;", 2**10)}  # and how near to the end to look
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Failures of the machine, not of the picture: they pass through as they are, for they may be gone tomorrow.
MACHINE = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT)


class PictureError(ValueError):
    """One picture cannot be used; the message is the reason alone, without the file's name."""


def decode(path: Path, size: int, resize: str = "squash") -> np.ndarray:
    """One picture as uint8 [S, S, 3]; PictureError says what is wrong with it.

    Upright by its EXIF orientation, first frame, transparency over white, 16-bit grey by its high byte, colour profiles
    ignored. Then Pillow's antialiased bilinear filter, which torchvision's Resize is too: `squash` both sides to S,
    `crop` the central square to S, `pad` the long side to S and black around.
    """
    with _opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # JPEG only: its inverse DCT halves, never below twice S
        return np.asarray(_resized(_rgb(image), size, resize))


def decode_into(file: int, start: int, row: int, path: str | Path, size: int, resize: str) -> list | str:
    """Write row `row` of the uint8 [N, S, S, 3] that begins at byte `start` of a file descriptor.

    Returns [means, mean squares], three channels each, RGB in [0, 1]; or the reason why the picture is bad.
    """
    try:
        picture = decode(path, size, resize)
    except PictureError as error:
        return str(error)
    # pwrite and no writable map: on a full disk that is an exception and not a SIGBUS.
    if os.pwrite(file, picture, start + row * picture.size) < picture.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    flat = picture.reshape(size, -1)
    sums = [
        x.sum(0, dtype=np.uint32).reshape(size, 3).sum(0, dtype=np.uint64)
        for x in (flat, np.square(flat, dtype=np.uint16))
    ]
    return [(total / (255.0**power * size * size)).tolist() for power, total in enumerate(sums, 1)]


def dimensions(files: list[Path]) -> list[tuple[int, int] | None]:
    """(width, height) of each upright picture by its header alone; None where the header is bad."""
    found = []
    for path in files:
        try:
            with _opened(path) as image:
                swap = image.format != "TIFF" and _orientation(image) >= 5  # Pillow gives a TIFF's size as turned
                found.append(image.size[::-1] if swap else image.size)
        except PictureError:
            found.append(None)
    return found


@contextlib.contextmanager
def _opened(path: Path):
    """A Pillow image with a sane header; whatever goes wrong in the caller's block is a PictureError too."""
    try:
        mode = os.stat(path).st_mode  # before opening: open() on a FIFO never returns
        if not stat.S_ISREG(mode):
            raise PictureError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters raises; the rest is chatter about metadata
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(f"{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels: shrink it")
                yield image
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("a dangling link" if os.path.islink(path) else "no such file") from None
    except UnidentifiedImageError:
        raise PictureError("not a picture" if os.path.getsize(path) else "an empty file") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        raise PictureError(" ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())) from None


def _orientation(image: Image.Image) -> int:
    """EXIF's 1 to 8; 1 where its block is damaged, for so every viewer shows such a picture."""
    try:
        code = Image.Image.getexif(image).get(0x0112)  # not the PNG class's own, which decodes all pixels first
    except (SyntaxError, ValueError, struct.error):
        return 1
    return code if code in TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.format in ENDINGS:
        mark, within = ENDINGS[image.format]
        with open(image.filename, "rb") as file:
            file.seek(-min(within, os.path.getsize(image.filename)), os.SEEK_END)
            if mark not in file.read():
                raise PictureError("image file is truncated: its end mark is missing")
    turn = TURNS.get(_orientation(image))  # after load(), which turns a TIFF and then says 1
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError("integer pixels beyond 16 bits have no known white")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise PictureError("floating-point pixels have no known white")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(turn) if turn is not None else image


def _resized(image: Image.Image, size: int, resize: str) -> Image.Image:
    width, height = image.size
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if resize == "crop":
        side = min(width, height)
        x, y = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return canvas


def _child(pixels: str, start: str, size: str, resize: str) -> None:
    """A worker: a list of [row, path] in, a list of results out, until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a dead parent ends us without a word
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and its kin chat about files that we report ourselves
    with open(pixels, "r+b") as file:
        for line in sys.stdin:
            results = []
            for row, path in json.loads(line):
                try:
                    results.append(decode_into(file.fileno(), int(start), row, path, int(size), resize))
                except OSError as error:
                    results.append({"errno": error.errno, "path": path})
            print(json.dumps(results), flush=True)


if __name__ == "__main__":
    _child(*sys.argv[1:])
