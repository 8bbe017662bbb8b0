"""What a file is that no decoder took: its format by name, where its first bytes or its last tell.

Decodes nothing. What it does not know is "not a picture".
"""

import os
from pathlib import Path

READ_BYTES = 1024
# TGA has no first bytes of its own, some of its files begin like CUR, and older ones do not even end like this.
TGA_END = b"TRUEVISION-XFILE.\0"
CONVERT = "which is not read here: convert it to PNG or JPEG"
# (offset, bytes there, format). The longer of two that begin alike comes first.
SIGNATURES = (
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\0\0\x02\0", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"gimp xcf", "XCF (GIMP)"),
    (0, b"qoif", "QOI"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"/* XPM */", "XPM"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (4, b"\x11\xaf", "FLI"),
    (4, b"\x12\xaf", "FLC"),
    (0, b"\x0a\x05\x01", "PCX"),
    (0, b"\x0a\x03\x01", "PCX"),
    (128, b"DICM", "DICOM"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw (RAF)"),
    (0, b"IIRO", "a camera's raw (ORF)"),
    (0, b"IIU\0", "a camera's raw (RW2)"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"Rar!", "RAR"),
    (0, b"7z\xbc\xaf", "7-Zip"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file (FPX, MIC, Office)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska, WebM)"),
    (8, b"AVI ", "a video (AVI)"),
    # From here on the program's own: a file that begins well, but that no decoder takes.
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8", "JPEG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
)
OWN = ("PNG", "JPEG", "GIF", "WebP", "TIFF", "AVIF")
# The box "ftyp" of HEIC, AVIF and videos lists brands, four letters each.
BRANDS = (
    (("avif", "avis"), "AVIF"),
    (("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), "HEIC"),
    (("crx ",), "a camera's raw (CR3)"),
    (("isom", "iso2", "mp41", "mp42", "qt  ", "M4V ", "avc1"), "a video (MP4, QuickTime)"),
)
# Text that downloads and repositories leave under a picture's name.
TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the picture: git lfs pull fetches it"),
    (b"<svg", f"SVG, {CONVERT}"),
    (b"<!doctype html", "a web page (HTML), as a failed download leaves: fetch the picture again"),
    (b"<html", "a web page (HTML), as a failed download leaves: fetch the picture again"),
    (b"<error", "an error message (XML), as a failed download leaves: fetch the picture again"),
)


def what_it_is(path: str | Path, said: str = "") -> str:
    """Why the file cannot be a picture here, in one line. said: what a decoder objected to, if one tried.

    Raises OSError where the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(READ_BYTES)
        file.seek(max(0, os.path.getsize(path) - len(TGA_END)))
        tail = file.read()
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    name = _format(head)
    if name in (None, "CUR") and (tail == TGA_END or str(path).lower().endswith(".tga")):
        name = "TGA"
    if name in OWN:
        return f"{name} that cannot be decoded ({said or 'its header is damaged'}): save it again as PNG or JPEG"
    if name:
        return f"{name}, {CONVERT}"
    lower = head.lower()
    for word, reason in TEXTS:
        if word in lower:
            return reason
    return "not a picture"


def _format(head):
    """The format that begins with the bytes `head`; None where it is not known."""
    if head[4:8] == b"ftyp":
        length = int.from_bytes(head[:4], "big")
        listed = [head[at : at + 4].decode("latin-1") for at in range(8, min(length, len(head)), 4)]
        for brands, name in BRANDS:
            if any(brand in brands for brand in listed):
                return name
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return None
