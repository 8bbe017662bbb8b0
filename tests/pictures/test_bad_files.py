"""Files that are no pictures, or no longer whole: each is refused with its reason, and harms no other."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from pictures import decode, store
from samples import RNG, noise, png, tiff

S = 24
RGB = noise(S, S, 3)
WIDE = noise(S, S, high=65536, dtype=np.uint16)


def bomb(path):
    png(path, np.zeros((20000, 2500), np.uint8), 1, 0, width=20000)  # 20,000 x 20,000 pixels in 50 kB


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    def never(self):
        raise AssertionError("decoded")

    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 10_000, 10_000, 8, 0, 0, 0, 0)
        + struct.pack(">I", zlib.crc32(struct.pack(">4sIIBBBBB", b"IHDR", 10_000, 10_000, 8, 0, 0, 0, 0)))
        + struct.pack(">I4s", 9, b"IDAT")
    )
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(decode.PictureError, match="10000x10000 is more than"):
        decode.decode(path, S)
    assert decode.dimensions([path]) == [None]


def test_refusals_name_the_reason_and_leave_the_warning_filters_alone(tmp_path):
    def write(name, what):
        path = tmp_path / name
        path.write_bytes(what) if isinstance(what, bytes) else what(path)
        return path

    good = write("good.jpg", lambda p: Image.fromarray(RGB).save(p))
    cases = {
        "empty": write("empty.jpg", b""),
        "not a picture": write("text.jpg", b"P.S. I am no picture\n" * 50),
        "truncated": write("cut.jpg", good.read_bytes()[:-40]),
        "a folder": write("folder.png", lambda p: p.mkdir()),
        "dangling": write("link.png", lambda p: p.symlink_to("nowhere")),
        "no such file": tmp_path / "nothing.png",
        "not a regular file": write("fifo.jpg", os.mkfifo),
        "no known white": write("float.tif", lambda p: Image.fromarray(RGB[..., 0].astype(np.float32)).save(p)),
        "not all its strips": write("jpeg.tif", lambda p: tiff(p, WIDE[None], 1, t259=(7,), t279=(99_999,))),
        "beyond 16 bits": write("deep.tif", lambda p: Image.fromarray(WIDE.astype(np.int32) * 9).save(p)),
    }
    filters = list(warnings.filters)
    for reason, path in cases.items():
        with pytest.raises(decode.PictureError, match=reason) as caught:
            decode.decode(path, S)
        assert "\n" not in str(caught.value)
    assert warnings.filters == filters


FOREIGN = {  # the first bytes of a file: what its reason must say
    b"\0\0\0\x18ftypheic\0\0\0\0heicmif1": "HEIC, which is not read here",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "HEIC",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf": "AVIF",
    b"\0\0\0\x18ftypisom\0\0\0\0isommp42": "a video",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51\0\x2f": "JPEG 2000",
    b"\xff\x0a\xfa\x1f": "JPEG XL",
    b"8BPS\0\1": "PSD",
    b"\0\0\1\0\1\0": "ICO",
    b"DDS \x7c\0": "DDS",
    b"%!PS-Adobe-3.0 EPSF": "EPS",
    b"%PDF-1.7": "PDF",
    bytes(128) + b"DICM": "DICOM",
    b"FUJIFILMCCD-RAW 0201": "a camera's raw",
    b"\0\0\2" + bytes(15) + b"TRUEVISION-XFILE.\0": "TGA",
    b"<!DOCTYPE html><html><body>404": "a web page",
    b"\n  <html lang='en'>": "a web page",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "an error message",
    b"<?xml version='1.0'?><svg width='9'/>": "SVG",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0": "git lfs pull",
    bytes(5000): "nothing but zero bytes",
    b"no picture": "^not a picture$",
    b"\x89PNG\r\n\x1a\n": "PNG that cannot be decoded",
    b"\xff\xd8\xff\xe0": "JPEG that cannot be decoded",
}


@pytest.mark.parametrize("head", FOREIGN)
def test_a_file_that_no_decoder_takes_is_called_what_it_is(head, tmp_path):
    (tmp_path / "a.jpg").write_bytes(head)
    with pytest.raises(decode.PictureError, match=FOREIGN[head]):
        decode.decode(tmp_path / "a.jpg", S)


def test_what_pillow_knows_but_cannot_decode_is_named_with_its_reason(tmp_path, monkeypatch):
    jpeg, avif = tmp_path / "a.jpg", tmp_path / "a.avif"
    Image.fromarray(RGB).save(jpeg)
    data = bytearray(jpeg.read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12  # bits of a sample
    jpeg.write_bytes(data)
    with pytest.raises(decode.PictureError, match=r"JPEG that cannot be decoded \(.*12"):
        decode.decode(jpeg, S)
    Image.fromarray(RGB).save(avif)
    monkeypatch.setattr(decode.AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(decode.PictureError, match=r"AVIF that cannot be decoded \(.*support not installed"):
        decode.decode(avif, S)


MISREAD = {  # the reason: writes a picture that Pillow would show with other values than it has
    "negative pixels": (lambda p: tiff(p, RGB[..., 0][None].view(np.int8), 1)),
    "no known white": (lambda p: tiff(p, WIDE[None].view(np.int16), 1)),
    "sixteenth of white": (lambda p: tiff(p, np.moveaxis(RGB, -1, 0).astype(np.uint16), 2)),
    "with its channels apart": (lambda p: tiff(p, np.stack([WIDE] * 3), 2, together=False)),
    "its channels apart is": (lambda p: tiff(p, np.moveaxis(RGB[..., :2], -1, 0), 1, together=False, t338=(2,))),
}


@pytest.mark.parametrize("reason", MISREAD)
def test_values_that_cannot_be_known_are_refused(reason, tmp_path):
    MISREAD[reason](tmp_path / "a.tif")
    with pytest.raises(decode.PictureError, match=reason):
        decode.decode(tmp_path / "a.tif", S)


def encoded(suffix, mode="RGB", **options):
    """(the bytes of a picture of 48 x 32, its end mark)."""
    coarse = np.random.default_rng(1).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((48, 32), Image.Resampling.BICUBIC).convert(mode)
    into = io.BytesIO()
    image.save(into, suffix, **options)
    return into.getvalue(), {"JPEG": b"\xff\xd9", "GIF": b";", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}.get(suffix, b"")


WHOLE = {
    "jpeg": encoded("JPEG"),
    "grey jpeg": encoded("JPEG", "L"),
    "cmyk jpeg": encoded("JPEG", "CMYK"),
    "jpeg with restarts": encoded("JPEG", restart_marker_blocks=2),
    "progressive": encoded("JPEG", progressive=True),
    "grey progressive": encoded("JPEG", "L", progressive=True),
    "png": encoded("PNG"),
    "gif": encoded("GIF", "P"),
    "animated gif": encoded("GIF", "P", save_all=True, append_images=[Image.fromarray(RGB)]),
    "webp": encoded("WEBP"),
    "avif": encoded("AVIF"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "tiff": encoded("TIFF"),
    "tiff, lzw": encoded("TIFF", compression="tiff_lzw"),
}


def decoded(path, data):
    """The picture, or None where it is refused."""
    path.write_bytes(data)
    try:
        return decode.decode(path, 48, "pad")
    except decode.PictureError as error:
        assert str(error)
        return None


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_refused_or_has_every_pixel(kind, tmp_path):
    data, end = WHOLE[kind]
    path = tmp_path / "a"
    picture = decoded(path, data)
    last_block = np.zeros((48, 48, 1), bool)
    last_block[22:, 30:] = True  # and 2 px around it, into which its colours are smoothed
    for length in {*range(0, len(data), max(1, len(data) // 40)), *range(len(data) - 8, len(data))}:
        found = decoded(path, data[:length])
        assert found is None or np.array_equal(found, picture), length
        if kind == "png":
            continue  # its parts have lengths, and would take the end mark for missing bytes
        # With an end mark after the cut libjpeg says nothing. A piece of the last block, 16 x 16, may then be missing.
        found = decoded(path, data[:length] + end)
        if found is not None and "jpeg" in kind:
            found = np.where(last_block, picture, found)
        assert found is None or np.array_equal(found, picture), length


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "jpeg with restarts", "png", "gif", "animated gif"])
def test_what_follows_the_last_pixel_does_not_matter(kind, tmp_path):
    data, end = WHOLE[kind]
    path = tmp_path / "a"
    picture = decoded(path, data)
    assert data.endswith(end)
    for other in (data[: -len(end)], data[:-1], data + b"\n", data + bytes(2**21), data + RNG.bytes(5000), data + data):
        assert np.array_equal(decoded(path, other), picture)


def test_half_a_scan_before_the_end_mark_is_called_cut(tmp_path):
    data, end = encoded("JPEG")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 3 // 4] + end)
    with pytest.raises(decode.PictureError, match="truncated: its scans end before the last pixel"):
        decode.decode(tmp_path / "a.jpg", S)


def test_a_whole_jpeg_that_ends_in_plain_grey_is_read(tmp_path):
    """Plain grey is what libjpeg shows where a scan was cut."""
    grey = RGB.copy()
    grey[8:] = 128
    for name, options in {"a": {}, "b": dict(progressive=True), "c": dict(restart_marker_blocks=1)}.items():
        Image.fromarray(grey).save(tmp_path / f"{name}.jpg", quality=95, subsampling=0, **options)
        assert np.abs(decode.decode(tmp_path / f"{name}.jpg", S)[16:].astype(int) - 128).max() <= 2


def test_two_thousand_malformed_files_are_each_named(tmp_path):
    """None crashes a worker, hangs it, or harms the good pictures between them."""
    image = Image.fromarray(np.asarray(Image.fromarray(noise(6, 7, 3)).resize((48, 40), Image.Resampling.BICUBIC)))
    whole = {}
    for suffix, options in {
        "jpg": {},
        "png": {},
        "webp": {},
        "gif": {},
        "bmp": {},
        "tif": dict(compression="tiff_lzw"),
        "ppm": {},
        "avif": {},
        "jpeg": dict(progressive=True),
    }.items():
        image.save(tmp_path / f"whole.{suffix}", **options)
        whole[suffix] = (tmp_path / f"whole.{suffix}").read_bytes()
    bomb(tmp_path / "bomb")
    heads = {suffix: data[:12] for suffix, data in whole.items()}

    def huge(suffix):  # the same header with a side of 65,535 or more
        data = bytearray(whole[suffix])
        if suffix == "png":
            data[16:29] = struct.pack(">II", 99_999, 99_999) + data[24:29]
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        elif suffix == "bmp":
            data[18:26] = struct.pack("<ii", 99_999, 99_999)
        elif suffix == "ppm":
            data = data.replace(b"48 40", b"99999 99999")
        else:
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = b"\xff\xff\xff\xff"
        return bytes(data)

    suffixes = list(whole)
    bad, good = [], []
    for i in range(2000):
        suffix, path = suffixes[i % len(suffixes)], tmp_path / f"{i:04d}"
        kind = i % 20
        path = path.with_suffix(f".{suffix}")
        if kind < 10:
            path.write_bytes(whole[suffix][: RNG.integers(0, len(whole[suffix]) - 60)])  # not the end mark alone
        elif kind == 10:
            path.write_bytes(b"")
        elif kind == 11:
            path.write_text("a picture, honestly\n" * 9)
        elif kind == 12:
            path.symlink_to("nowhere")
        elif kind == 13:
            path.mkdir()
        elif kind == 14:
            path.write_bytes(huge(("png", "bmp", "ppm", "jpg")[i // 20 % 4]))
        elif kind == 15:
            path.symlink_to(tmp_path / "bomb")
        elif kind == 16:
            path.write_bytes(heads[suffix] + RNG.bytes(500))
        elif kind == 17:
            path.write_bytes(RNG.bytes(500))
        elif kind == 18:
            os.mkfifo(path)
        else:
            path.symlink_to(path)
        bad.append(path)
        if i % 20 == 0:
            good.append(path.with_name(f"{i:04d}-good.{suffix}"))
            good[-1].write_bytes(whole[suffix])
    files = sorted(bad + good)
    found = store.load_store(files, 16, workers=2)
    assert {files[row] for row in found.bad} == set(bad)
    assert all(reason and "\n" not in reason for reason in found.bad.values())
    for row, path in enumerate(files):
        expected = np.zeros((16, 16, 3)) if row in found.bad else decode.decode(path, 16)
        assert np.array_equal(found.pixels[row], expected)
