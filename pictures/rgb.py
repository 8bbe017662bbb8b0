"""The pixels of an opened picture as Pillow does not always give them: RGB, upright, over white, with their brightness.

Never guesses a white that is not known: such a picture is a PictureError.
"""

import os
import struct

import numpy as np
from PIL import Image, TiffImagePlugin

from pictures import jpeg

EXIF_ORIENTATION = 0x0112
BITS, COMPRESSION, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 259, 262, 284, 339  # tags of TIFF
STRIPS, TILES = (273, 279), (324, 325)  # tags of TIFF, each the bytes at which they begin, and how many they are
JPEGS = (6, 7)  # compressions of TIFF
WHITE_IS_ZERO, APART, SIGNED = 0, 2, 2  # a value of each of the last three in the first line
# A layout that Pillow's table lacks: 16 bits, white is zero, the high byte first. A key is (byte order, photometric
# interpretation, sample format, fill order, bits, extra samples).
TiffImagePlugin.OPEN_INFO[b"MM", WHITE_IS_ZERO, (1,), 1, (16,), ()] = ("I;16B", "I;16B")
SPREAD = {"L;2": 85, "L;4": 17}  # white is 255 in 8 bits, 3 in two, 15 in four
# How to bring a picture upright, by its EXIF orientation; 1 is upright already.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


class PictureError(ValueError):
    """One picture cannot be used. The message is the reason alone, without the file's name."""


def upright_rgb(image: Image.Image, size: int) -> Image.Image:
    """The decoded picture in mode RGB, upright; PictureError where it was cut or has no known white.

    size: a JPEG may be decoded at a reduced scale, but with no side below 2 size.
    """
    kind = image.format
    rawmode, frame = _storage(image)
    # Channels stored apart: of 16 bits that are not compressed Pillow reads half, and of grey not the transparency.
    half = 16 in _tag(image, BITS, ()) and ";16" not in rawmode
    if _tag(image, PLANAR) == APART and (half or image.mode in ("LA", "La")):
        raise PictureError("a TIFF of this kind with its channels apart is not read here: save it with them together")
    if _tag(image, COMPRESSION) in JPEGS:
        _check_strips(image)
    if kind == "WEBP" and image.is_animated:
        # Its frames lie on a clear canvas, even where the file says that it knows no transparency.
        image._mode = image.rawmode = "RGBA"
    if kind in ("JPEG", "MPO"):
        image = jpeg.load_whole(image, size)
    else:
        _load(image)
    turn = orientation(image)  # read after load(), which turns a TIFF itself and then says 1
    if image.mode == "F":
        raise PictureError("floating-point pixels have no known white")
    if image.mode.startswith("I"):
        image = _grey(image)
    else:
        _check_range(image, rawmode)
    if image.has_transparency_data:
        image = _over_white(image, rawmode)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if kind == "GIF" and frame != (0, 0, *image.size):
        # What a first frame leaves free is clear. Pillow paints it in some colour of the palette.
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image.crop(frame), frame)
        image = canvas
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    return image


def _check_strips(image):
    """OSError where a TIFF should go on behind its last byte. Of a JPEG in it libtiff would paint the rest grey."""
    strips = STRIPS if _tag(image, STRIPS[0]) else TILES
    ends = map(sum, zip(*(_tag(image, number, ()) for number in strips)))
    if max(ends, default=0) > os.path.getsize(image.filename):
        raise OSError("image file is truncated: not all its strips are there")


def _load(image):
    try:
        image.load()
    except OSError:
        # Behind the last pixel of a PNG Pillow reads on to the end mark. What is missing there is no loss.
        if image.format != "PNG" or image.tile:
            raise


def _storage(image):
    """(how the file holds its pixels, in Pillow's words; the box that they fill), both known before they are loaded."""
    if not image.tile:
        return "", None
    _, box, _, how = image.tile[0]
    return how if isinstance(how, str) else str(how[0]) if how else "", box


def _grey(image):
    """Grey of up to 16 bits as grey of 8. Pillow may hold it in 32 bits, and then more than 16 could be used."""
    values = np.asarray(image)
    top = values.max()
    if values.min() < 0 or top > 65535:
        raise PictureError("integer pixels beyond 16 bits have no known white")
    bits = 8 if top < 256 else 12 if top < 4096 else 16
    grey = values >> bits - 8
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" in image.info:
        grey = np.where(values == image.info["transparency"], 255, grey)
    return Image.fromarray(grey.astype(np.uint8))


def _check_range(image, rawmode):
    """PictureError where a picture that Pillow gives with 8 bits a channel had values that these cannot tell."""
    signed = SIGNED in _tag(image, SAMPLE_FORMAT, ())
    if signed and image.mode == "L" and image.getextrema()[1] > 127:
        raise PictureError("negative pixels have no known white")
    if ";16" in rawmode and max(top for _, top in image.getextrema()[:3]) < 16:
        raise PictureError("no colour of its 16 bits reaches a sixteenth of white: save it with 8 bits")


def _tag(image, number, default=None):
    """A tag of a TIFF; `default` of other formats, and where there is none."""
    return image.tag_v2.get(number, default) if image.format == "TIFF" else default


def _over_white(image, rawmode):
    """RGB of a picture with transparency. rawmode: how its file holds it."""
    key = image.info.get("transparency")
    if rawmode in SPREAD:  # a PNG of 2 or 4 bits: Pillow spreads its values over 8 bits, but not its clear one
        image.info["transparency"] = key * SPREAD[rawmode]
    if rawmode == "RGB;16B" and key:  # a PNG of 16 bits: Pillow compares the high bytes alone
        low = Image.open(image.filename, formats=("PNG",))
        low.tile = [low.tile[0]._replace(args="RGB;16L")]  # read the other way round, it gives the low bytes
        values = np.asarray(image, np.uint16) << 8 | np.asarray(low)
        clear = (values == key).all(-1, keepdims=True)
        return Image.fromarray(np.where(clear, 255, np.asarray(image)).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where the EXIF data is damaged, since viewers do not turn such a picture."""
    try:
        # Image's own method: that of the PNG class would decode all pixels first.
        turn = Image.Image.getexif(image).get(EXIF_ORIENTATION)
    except (SyntaxError, ValueError, struct.error):
        return 1
    return turn if turn in TURNS else 1
