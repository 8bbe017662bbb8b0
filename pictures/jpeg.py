"""A JPEG's pixels, and whether all of them were in the file.

libjpeg paints what is missing grey and says nothing if an end mark follows, and Pillow refuses a file without an end
mark though every pixel is there. Never repairs: what is missing is an error.
"""

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

END = b"\xff\xd9"
# A marker that is neither a byte 255 of the picture (00), nor a restart within a scan (D0 to D7), nor filling (FF).
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
SCAN, PROGRESSIVE, TABLES = 0xDA, (0xC2, 0xCA), (0xC4, 0xC8, 0xCC)
ARITHMETIC = (0xC9, 0xCA, 0xCB)
BARE = (0x01, 0xD8)  # markers without a length
# Pieces of noise with each restart marker between them: whatever a decoder misses, it takes this for it.
NOISE = np.random.default_rng(0).integers(0, 255, (9, 512)).astype(np.uint8)
PADDING = b"".join(NOISE[i].tobytes() + bytes([0xFF, 0xD0 + i]) for i in range(8)) + NOISE[8].tobytes()


class Layout(NamedTuple):
    """What the markers of a JPEG's first picture say."""

    end: int  # byte at which its end mark is, or would be
    scans: int
    partial: bool  # scans that a progressive picture needs are not there
    arithmetic: bool  # its last bytes may be left out if they are 0, so that nothing can be told from its end


def load_whole(image: Image.Image, size: int) -> Image.Image:
    """Load the JPEG `image`, opened from a file and not yet loaded. Returns it, or another that has its pixels.

    size: the file may be decoded at a reduced scale, but with no side below 2 size.
    Raises OSError where pixels are missing.
    """
    path = image.filename
    image.draft(None, (2 * size, 2 * size))
    try:
        image.load()
    except OSError:
        data = Path(path).read_bytes().removesuffix(b"\xff")
        layout = _layout(data)
        if layout.end < len(data):  # the end mark is there, so that something else is wrong
            raise
        image = _decoded(data + END, size)
    else:
        last = image.getpixel((image.width - 1, image.height - 1))
        last = last if isinstance(last, tuple) else (last,)
        progressive = "progressive" in image.info
        # Without its scan a colour is grey. Without any, all channels are 128.
        if not progressive and max(last) - min(last) > 1:
            return image
        data = Path(path).read_bytes()
        layout = _layout(data)
        if not progressive and layout.scans == 1 and not 127 <= max(last) <= 128:
            return image
        if layout.arithmetic:
            return image
    # Bytes before the end mark change nothing in a picture that has all its own.
    padded = _decoded(data[: layout.end] + PADDING + END, size)
    if layout.partial or padded.tobytes() != image.tobytes():
        raise OSError("image file is truncated: its scans end before the last pixel")
    return image


def _decoded(data, size):
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft(None, (2 * size, 2 * size))
    image.load()
    return image


def _layout(data):
    at = scans = frame = 0
    lowest = {}  # (component, coefficient) -> the lowest bit that a scan has brought
    components = b""
    while (marker := MARKER.search(data, at)) and marker[0] != END:
        kind = marker[0][1]
        at = marker.end()
        if kind in BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += length
        if kind == SCAN and len(body) > 3:
            scans += 1
            first, last, bits = body[-3:]
            for component in body[1:-3:2]:
                lowest.update({(component, k): bits & 15 for k in range(first, last + 1)})
        elif 0xC0 <= kind <= 0xCF and kind not in TABLES:
            frame, components = kind, body[6::3]
    end = marker.start() if marker else len(data)
    needed = [(component, k) for component in components for k in range(64)] if frame in PROGRESSIVE else []
    return Layout(end, scans, any(lowest.get(each) != 0 for each in needed), frame in ARITHMETIC)
