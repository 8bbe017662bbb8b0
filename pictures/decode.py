"""One picture file becomes upright RGB pixels of one size, or a reason why not. As a script it is a worker of pool.py.

Trusts nothing about a file: its kind, its size and its end are checked, and whatever Pillow raises becomes a
PictureError. Never repairs a picture, never guesses a missing part, never decodes what its header says is too large.
"""

import contextlib
import errno
import os
import stat
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from pictures.children import serve
from pictures.foreign import what_it_is
from pictures.rgb import SIDEWAYS, PictureError, orientation, upright_rgb

RECIPE = 2  # part of every Store's key: raise it whenever decode() would give other pixels
RESIZES = ("squash", "crop", "pad")
MAX_PIXELS = 89_478_485  # where Pillow, too, begins to suspect a decompression bomb
# These formats begin with a signature, need no other program (EPS does) and show a cut (JPEG 2000 does not).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
Image.WARN_POSSIBLE_FORMATS = True  # Pillow then says why a decoder did not take a file
# The machine's failures, not the picture's. They are raised as they are, because they may be gone tomorrow.
MACHINE = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT)


def decode(path: str | Path, size: int, resize: str = "squash") -> np.ndarray:
    """One picture as uint8 [S, S, 3], S = `size`, turned upright by its EXIF orientation.

    resize: `squash` scales both sides to S; `crop` scales the central square to S; `pad` scales the long side to S and
    leaves black around. The filter is Pillow's antialiased bilinear one, as in torchvision's Resize.
    Of several frames the first counts. What is transparent shows white, and so does what a first frame that is smaller
    than its canvas leaves free. Colour profiles are ignored.
    Grey of up to 16 bits keeps its 8 high bits. No file says how many bits it uses, so the greatest value tells: 8 bits
    where it is below 256, 12 below 4096, else 16. Thus 8 or 12 bits in a wide container keep their brightness, and a
    picture of 16 bits that nowhere reaches a sixteenth of white comes out lighter. Such a one in colour is refused.
    Raises PictureError with the reason why the picture cannot be used, and OSError where the machine failed.
    """
    with _opened(path) as image:
        return np.asarray(_resized(upright_rgb(image, size), size, resize))


def decode_into(file: int, start: int, row: int, path: str | Path, size: int, resize: str) -> list[list[float]] | str:
    """Decode one picture and write it as row `row` of an array in a file. size, resize: as in `decode`.

    file: descriptor of the file. start: byte at which its array, uint8 [N, S, S, 3], begins.
    Returns [means, mean squares], each a list of three channels, RGB in [0, 1]. Of a bad picture nothing is written,
    and the reason is returned instead. Raises OSError where the machine failed or the disk is full.
    """
    try:
        picture = decode(path, size, resize)
    except PictureError as error:
        return str(error)
    # Not through a writable map: there a full disk kills the process (SIGBUS), and here it is an exception.
    written = os.pwrite(file, picture, start + row * picture.size)
    if written < picture.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return _moments(picture)


def dimensions(files: list[Path]) -> list[tuple[int, int] | None]:
    """(width, height) of each picture once upright, from its header alone; None where the header is bad."""
    found = []
    for path in files:
        try:
            with _opened(path) as image:
                width, height = image.size
                # Of a TIFF, Pillow gives the size that it has once upright.
                if image.format != "TIFF" and orientation(image) in SIDEWAYS:
                    width, height = height, width
                found.append((width, height))
        except PictureError:
            found.append(None)
    return found


@contextlib.contextmanager
def _opened(path):
    """The file as a Pillow image whose header is sane. Errors in the caller's block become PictureErrors too."""
    try:
        mode = os.stat(path).st_mode  # looked at first, for open() would wait at a FIFO for ever
        if stat.S_ISDIR(mode):
            raise PictureError("a folder, not a file")
        if not stat.S_ISREG(mode):
            raise PictureError("not a regular file")
        with warnings.catch_warnings(record=True) as said:  # not printed: what spoils a picture raises
            warnings.simplefilter("always")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(f"{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels: shrink it")
                yield image
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("a dangling link" if os.path.islink(path) else "no such file") from None
    except UnidentifiedImageError:
        # What Pillow has said is "PNG opening failed. " and then why, or that it has no decoder of that format.
        why = str(said[-1].message).rpartition("opening failed. ")[2] if said else ""
        raise PictureError(" ".join(what_it_is(path, why).split())) from None
    except MemoryError:  # the machine's failure too
        raise
    except Exception as error:  # on a damaged file Pillow may raise nearly anything
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        if reason.startswith("decoder error"):  # and then a number
            reason = f"damaged or truncated ({reason})"
        raise PictureError(" ".join(reason.split())) from None  # in one line


def _resized(image, size, resize):
    """The picture at [size, size]. resize: as in `decode`."""
    width, height = image.size
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2  # may be halves: the filter can cut a pixel in two
        square = (left, top, left + side, top + side)
        return image.resize((size, size), Image.Resampling.BILINEAR, box=square)
    longest = max(width, height)
    width = max(1, round(width * size / longest))
    height = max(1, round(height * size / longest))
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return canvas


def _moments(picture):
    """[means, mean squares] of uint8 [S, S, 3], by channel, RGB in [0, 1]."""
    size = len(picture)
    squares = np.square(picture, dtype=np.uint16)
    sum_of_values = _channel_sums(picture)
    sum_of_squares = _channel_sums(squares)
    means = sum_of_values / (255.0 * size * size)
    mean_squares = sum_of_squares / (255.0**2 * size * size)
    return [means.tolist(), mean_squares.tolist()]


def _channel_sums(values):
    """uint64 [3]: exact sums over an integer array [S, S, 3]."""
    # Columns first: NumPy adds whole rows fast, and no column of a picture overflows 32 bits.
    columns = values.sum(0, dtype=np.uint32)
    return columns.sum(0, dtype=np.uint64)


def _worker(pixels: str, start: str, size: str, resize: str) -> None:
    """What a process of pool.py does: decodes pictures, each given as [row, path], into the file called `pixels`.

    start, size, resize: as `decode_into` has them.
    """
    # libtiff and others write to stderr about files that are reported anyway.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # 2 is stderr
    with open(pixels, "r+b") as file:
        serve(lambda row, path: decode_into(file.fileno(), int(start), row, path, int(size), resize))


if __name__ == "__main__":
    _worker(*sys.argv[1:])
