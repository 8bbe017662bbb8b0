"""Files that are no pictures, or no longer whole: each is refused with its reason, and harms no other."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from pictures import decode, store
from samples import RNG, noise, png

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
        "beyond 16 bits": write("deep.tif", lambda p: Image.fromarray(WIDE.astype(np.int32) * 9).save(p)),
    }
    filters = list(warnings.filters)
    for reason, path in cases.items():
        with pytest.raises(decode.PictureError, match=reason) as caught:
            decode.decode(path, S)
        assert "\n" not in str(caught.value)
    assert warnings.filters == filters
    for suffix, cut in (("png", 1), ("gif", 1), ("png", 14)):  # Pillow alone is content with these
        image = Image.fromarray(RGB).convert("P" if suffix == "gif" else "RGB")
        whole = write(f"whole.{suffix}", image.save)
        with pytest.raises(decode.PictureError, match="truncated"):
            decode.decode(write(f"cut.{suffix}", whole.read_bytes()[:-cut]), S)


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
            path.write_bytes(whole[suffix][: RNG.integers(0, len(whole[suffix]))])
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
