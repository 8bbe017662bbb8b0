"""Pixels against what NumPy or torchvision make of the same numbers; the cache against kills, races and full disks."""

import errno
import json
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from conftest import ROOT
from errors import LongtailError
from pictures import decode, pool, store

RNG = np.random.default_rng(0)
S = 24


def noise(*shape, high=256, dtype=np.uint8):
    return RNG.integers(0, high, shape).astype(dtype)


def png(path, samples, depth, colour, width=None):
    """A PNG written by hand, for what Pillow cannot write; samples [H, W, channels] big-endian, or bytes of bits."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = len(samples), width or samples.shape[1]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def over_white(rgb, alpha):
    a = alpha.astype(float)[..., None] / 255
    return rgb * a + 255 * (1 - a)


def grey(values):
    return np.repeat(values[..., None], 3, -1)


RGB, L, A = noise(S, S, 3), noise(S, S), noise(S, S)
CMYK = noise(S, S, 4)
WIDE = noise(S, S, high=65536, dtype=np.uint16)
PALETTE = noise(16, 3)
INDEX = noise(S, S, high=16)
OTHER = Image.fromarray(noise(S, S, 3))


def paletted():
    image = Image.fromarray(INDEX, "L").copy()
    image = Image.frombytes("P", (S, S), INDEX.tobytes())
    image.putpalette(PALETTE.tobytes())
    return image


MODES = {  # name: (writes the file, the picture that everyone should see, tolerance)
    "rgb.png": (lambda p: Image.fromarray(RGB).save(p), RGB, 0),
    "rgb.bmp": (lambda p: Image.fromarray(RGB).save(p), RGB, 0),
    "rgb.ppm": (lambda p: Image.fromarray(RGB).save(p), RGB, 0),
    "lossless.webp": (lambda p: Image.fromarray(RGB).save(p, lossless=True), RGB, 0),
    "grey.png": (lambda p: Image.fromarray(L).save(p), grey(L), 0),
    "bits.png": (lambda p: Image.fromarray(L > 99).save(p), grey((L > 99) * np.uint8(255)), 0),
    "palette.png": (lambda p: paletted().save(p), PALETTE[INDEX], 0),
    "palette-clear.png": (
        lambda p: paletted().save(p, transparency=3),
        np.where((INDEX == 3)[..., None], 255, PALETTE[INDEX]),
        0,
    ),
    "palette-alpha.png": (
        lambda p: paletted().save(p, transparency=bytes(range(0, 256, 16))),
        over_white(PALETTE[INDEX], INDEX * 16),
        1,
    ),
    "palette.gif": (lambda p: paletted().save(p), PALETTE[INDEX], 0),
    "grey-alpha.png": (
        lambda p: Image.merge("LA", [Image.fromarray(L), Image.fromarray(A)]).save(p),
        over_white(grey(L), A),
        1,
    ),
    "alpha.png": (lambda p: Image.fromarray(np.dstack([RGB, A])).save(p), over_white(RGB, A), 1),
    "alpha.webp": (
        lambda p: Image.fromarray(np.dstack([RGB, A])).save(p, lossless=True, exact=True),
        over_white(RGB, A),
        1,
    ),
    "hidden-colour.png": (lambda p: Image.fromarray(np.dstack([RGB, A * 0])).save(p), RGB * 0 + 255, 0),
    "key-colour.png": (
        lambda p: Image.fromarray(RGB).save(p, transparency=tuple(map(int, RGB[0, 0]))),
        np.where((RGB[0, 0] == RGB).all(-1, keepdims=True), 255, RGB),
        0,
    ),
    "grey16.png": (lambda p: png(p, WIDE[..., None].astype(">u2"), 16, 0), grey(WIDE // 256), 0),
    "rgb16.png": (
        lambda p: png(p, np.dstack([WIDE, WIDE.T, 65535 - WIDE]).astype(">u2"), 16, 2),
        np.dstack([WIDE, WIDE.T, 65535 - WIDE]) // 256,
        0,
    ),
    "grey-alpha16.png": (
        lambda p: png(p, np.dstack([WIDE, WIDE.T]).astype(">u2"), 16, 4),
        over_white(grey(WIDE // 256), WIDE.T // 256),
        1,
    ),
    "grey16.tif": (lambda p: Image.fromarray(WIDE).save(p), grey(WIDE // 256), 0),
    "grey16-big-endian.tif": (
        lambda p: Image.frombytes("I;16B", (S, S), WIDE.astype(">u2").tobytes()).save(p),
        grey(WIDE // 256),
        0,
    ),
    "grey16.pgm": (
        lambda p: p.write_bytes(b"P5 %d %d 65535\n" % (S, S) + WIDE.astype(">u2").tobytes()),
        grey(WIDE // 256),
        0,
    ),
    "grey32.tif": (lambda p: Image.fromarray(WIDE.astype(np.int32)).save(p), grey(WIDE // 256), 0),
    "cmyk.tif": (
        lambda p: Image.fromarray(CMYK, "CMYK").save(p),
        (255.0 - CMYK[..., :3]) * (255 - CMYK[..., 3:].astype(float)) / 255,
        1,
    ),
    "frames.gif": (lambda p: paletted().save(p, save_all=True, append_images=[OTHER.convert("P")]), PALETTE[INDEX], 0),
    "frames.webp": (
        lambda p: Image.fromarray(RGB).save(p, save_all=True, append_images=[OTHER], lossless=True),
        RGB,
        0,
    ),
    "frames.png": (lambda p: Image.fromarray(RGB).save(p, save_all=True, append_images=[OTHER]), RGB, 0),
    "frames.tif": (lambda p: Image.fromarray(RGB).save(p, save_all=True, append_images=[OTHER]), RGB, 0),
    "wrong-name.jpg": (lambda p: Image.fromarray(RGB).save(p, "PNG"), RGB, 0),
    "no-name-at-all": (lambda p: Image.fromarray(RGB).save(p, "PNG"), RGB, 0),
    "Émile Čiurlionis 北斎.png": (lambda p: Image.fromarray(RGB).save(p), RGB, 0),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_shows_the_picture_that_was_meant(name, tmp_path):
    write, expected, tolerance = MODES[name]
    write(tmp_path / name)
    found = store.decode(tmp_path / name, S)
    assert found.shape == (S, S, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(float) - expected).max() <= tolerance
    assert store.dimensions([tmp_path / name]) == [(S, S)]


@pytest.mark.parametrize("quality, space", [(95, "RGB"), (95, "L"), (95, "CMYK")])
def test_jpeg_of_every_colour_space_is_close(quality, space, tmp_path):
    smooth = np.asarray(Image.fromarray(noise(5, 4, 3)).resize((S, S), Image.Resampling.BICUBIC).convert(space))
    Image.fromarray(smooth, space).save(tmp_path / "a.jpg", quality=quality, subsampling=0)
    expected = {
        "RGB": lambda: smooth,
        "L": lambda: grey(smooth),
        "CMYK": lambda: (255.0 - smooth[..., :3]) * (255 - smooth[..., 3:].astype(float)) / 255,
    }[space]()
    assert np.abs(store.decode(tmp_path / "a.jpg", S) - expected.astype(float)).mean() < 3


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation, suffix, tmp_path):
    pixels = np.kron(noise(2, 3, 3), np.ones((16, 16, 1), np.uint8))  # 32 high, 48 wide, in blocks that JPEG keeps
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options = {"jpg": dict(quality=100, subsampling=0), "webp": dict(lossless=True)}.get(suffix, {})
    Image.fromarray(pixels).save(path, exif=exif, **options)
    upright = UPRIGHT[orientation](pixels)
    found = store.decode(path, 48, "pad")
    blank = np.zeros((48, 48, 3))
    y, x = (48 - upright.shape[0]) // 2, (48 - upright.shape[1]) // 2
    blank[y : y + upright.shape[0], x : x + upright.shape[1]] = upright
    assert np.abs(found - blank).max() <= (4 if suffix == "jpg" else 0)
    assert store.dimensions([path]) == [upright.shape[1::-1]]


@pytest.mark.parametrize("shape, size", [((90, 120), 64), ((53, 31), 64), ((200, 300), 50), ((64, 64), 64)])
def test_resizing_is_torchvisions(shape, size, torchvision, tmp_path):
    import torch
    from torchvision.transforms.v2 import functional as F

    pixels = noise(*shape, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).double()

    def resized(*to):
        return F.resize_image(tensor, list(to), antialias=True).permute(1, 2, 0).numpy()

    assert np.abs(store.decode(tmp_path / "a.png", size) - resized(size, size)).max() <= 1
    scale = size / max(shape)
    inner = resized(*(max(1, round(side * scale)) for side in shape))
    y, x = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    padded = np.zeros((size, size, 3))
    padded[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    assert np.abs(store.decode(tmp_path / "a.png", size, "pad") - padded).max() <= 1


@pytest.mark.parametrize("shape, size", [((100, 140), 50), ((96, 64), 32), ((31, 31), 40)])
def test_crop_is_torchvisions_where_no_pixel_is_cut_in_two(shape, size, torchvision, tmp_path):
    import torch
    from torchvision.transforms.v2 import functional as F

    pixels = noise(*shape, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = F.resize(torch.from_numpy(pixels).permute(2, 0, 1).double(), [size], antialias=True)
    expected = F.center_crop(tensor, [size, size]).permute(1, 2, 0).numpy()
    assert np.abs(store.decode(tmp_path / "a.png", size, "crop") - expected).max() <= 1


def test_large_jpegs_are_read_at_reduced_scale_without_visible_change(tmp_path, monkeypatch):
    smooth = Image.fromarray(noise(60, 80, 3)).resize((1600, 1200), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=92)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    loaded = []
    rgb = decode._rgb
    monkeypatch.setattr(decode, "_rgb", lambda image: loaded.append(image.size) or rgb(image))
    found, full = (store.decode(tmp_path / name, 96).astype(float) for name in ("a.jpg", "a.png"))
    assert loaded == [(400, 300), (1600, 1200)]
    assert np.abs(found - full).mean() < 0.5 and np.abs(found - full).max() <= 6


def test_dimensions_come_from_the_header_alone(tmp_path, monkeypatch):
    files = [tmp_path / f"a.{suffix}" for suffix in ("png", "jpg", "webp", "gif", "tif", "bmp")]
    for path in files:
        Image.fromarray(noise(30, 50, 3)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(decode.Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert store.dimensions(files) == [(50, 30)] * len(files)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_metadata_does_not_cost_the_picture(suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    good = exif.tobytes()
    for i in range(100):
        block = bytearray(good[: RNG.integers(6, len(good) + 1)])
        block[RNG.integers(0, len(block))] = RNG.integers(0, 256)
        Image.fromarray(RGB).save(tmp_path / f"{i}.{suffix}", exif=bytes(block))
        assert store.decode(tmp_path / f"{i}.{suffix}", S).shape == (S, S, 3)
        assert store.dimensions([tmp_path / f"{i}.{suffix}"]) == [(S, S)]


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
    with pytest.raises(store.PictureError, match="10000x10000 is more than"):
        store.decode(path, S)
    assert store.dimensions([path]) == [None]


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
        with pytest.raises(store.PictureError, match=reason) as caught:
            store.decode(path, S)
        assert "\n" not in str(caught.value)
    assert warnings.filters == filters
    for suffix, cut in (("png", 1), ("gif", 1), ("png", 14)):  # Pillow alone is content with these
        image = Image.fromarray(RGB).convert("P" if suffix == "gif" else "RGB")
        whole = write(f"whole.{suffix}", image.save)
        with pytest.raises(store.PictureError, match="truncated"):
            store.decode(write(f"cut.{suffix}", whole.read_bytes()[:-cut]), S)


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
        expected = np.zeros((16, 16, 3)) if row in found.bad else store.decode(path, 16)
        assert np.array_equal(found.pixels[row], expected)


def small(folder, count):
    """Small pictures, number 7 of them bad."""
    folder.mkdir()
    made = []
    for i in range(count):
        made.append(folder / f"{i:02d}.png")
        Image.fromarray(noise(12, 10, 3)).save(made[-1])
    made[7].write_text("no")
    return made


@pytest.fixture
def files(tmp_path):
    """Few enough to be decoded in this process."""
    return small(tmp_path / "pictures", 40)


@pytest.fixture
def many(tmp_path):
    """Enough for two worker processes."""
    return small(tmp_path / "many", 80)


@pytest.fixture
def later(monkeypatch):
    """A clock far enough past the files' last change that the index trusts their stats."""
    clock = time.time_ns
    monkeypatch.setattr(store.time, "time_ns", lambda: clock() + 60 * 10**9)


def forbid(*_, **__):
    raise AssertionError("done again")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_store_holds_what_decode_says(many, workers, tmp_path):
    found = store.load_store(many, 8, "crop", cache=tmp_path / "cache", workers=workers)
    expected = np.stack(
        [store.decode(path, 8, "crop") if row != 7 else np.zeros((8, 8, 3), np.uint8) for row, path in enumerate(many)]
    )
    assert found.bad == {7: "not a picture"}
    assert np.array_equal(found.pixels, expected) and found.pixels.dtype == np.uint8
    assert isinstance(found.pixels, np.memmap)
    assert found.means.dtype == np.float32 and np.allclose(found.means, (expected / 255).mean((1, 2)), atol=1e-7)
    assert np.allclose(found.squares, ((expected / 255) ** 2).mean((1, 2)), rtol=1e-14)
    found.pixels[:] = 1  # in this process alone
    assert np.array_equal(store.load_store(many, 8, "crop", cache=tmp_path / "cache").pixels, expected)
    assert not list((tmp_path / "cache").glob("*.tmp-*"))


def test_an_empty_list_is_an_empty_store(tmp_path):
    found = store.load_store([], 8)
    assert found.pixels.shape == (0, 8, 8, 3) and found.means.shape == (0, 3) and found.bad == {}


def test_a_known_store_is_mapped_without_reading_a_picture(files, later, monkeypatch):
    first = store.load_store(files, 8)
    for name in ("_build", "_digest"):
        monkeypatch.setattr(store, name, forbid)
    again = store.load_store(files, 8)
    assert again.key == first.key and again.bad == first.bad and np.array_equal(again.pixels, first.pixels)
    with pytest.raises(AssertionError):
        store.load_store(files, 9)


def test_fresh_files_are_read_again_rather_than_trusted(files, monkeypatch):
    store.load_store(files, 8)
    monkeypatch.setattr(store, "_digest", forbid)
    with pytest.raises(AssertionError):
        store.load_store(files, 8)


def test_the_key_is_content_order_size_and_mode(files, later, tmp_path):
    key = store.load_store(files, 8).key
    assert store.load_store(files, 9).key != key
    assert store.load_store(files, 8, "pad").key != key
    assert store.load_store(files[::-1], 8).key != key
    assert store.load_store(files[:-1], 8).key != key
    moved = files[0].parent.rename(tmp_path / "moved")
    assert store.load_store([moved / path.name for path in files], 8).key == key


def test_a_changed_file_is_noticed_even_with_its_old_size_and_time(files, later):
    before = store.load_store(files, 8)
    status, data = files[3].stat(), bytearray(files[3].read_bytes())
    other = files[4].read_bytes()
    files[3].write_bytes((other + bytes(9999))[: len(data)] if len(other) <= len(data) else bytes(len(data)))
    os.utime(files[3], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (files[3].stat().st_size, files[3].stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = store.load_store(files, 8)
    assert after.key != before.key and not np.array_equal(after.pixels[3], before.pixels[3])
    files[7].unlink()
    assert store.load_store(files, 8).bad[7] == "no such file"


def test_a_damaged_cache_is_made_anew(files, later):
    first = store.load_store(files, 8)
    folder = store.cache_dir() / first.key
    expected = np.array(first.pixels)
    for harm in (
        lambda: os.truncate(folder / "pixels.npy", 300),
        lambda: (folder / "meta.json").unlink(),
        lambda: (folder / "moments.npy").write_bytes(b""),
    ):
        harm()
        assert np.array_equal(store.load_store(files, 8).pixels, expected)


def test_a_lost_race_uses_the_winners_store(files, monkeypatch):
    """Without working locks two processes decode; the later rename finds the folder taken."""
    rename = os.rename

    def late(draft, folder):
        other = folder.with_name("winner")
        store.shutil.copytree(draft, other)
        rename(other, folder)
        rename(draft, folder)

    monkeypatch.setattr(store.os, "rename", late)
    found = store.load_store(files, 8)
    assert np.array_equal(found.pixels[0], store.decode(files[0], 8))
    assert not list(store.cache_dir().glob("*.tmp-*"))


def test_a_file_system_without_locks_still_serves(files, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(store.fcntl, "flock", no_locks)
    other = store.cache_dir() / "0123.tmp-4567"  # perhaps alive: nobody can tell
    other.mkdir(parents=True)
    assert store.load_store(files, 8).bad == {7: "not a picture"} and other.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are no Unicode")
def test_names_that_are_no_unicode_reach_the_workers(many):
    name = Path(os.fsdecode(os.fsencode(many[0].parent) + b"/\xff\xfe.png"))
    many[0].rename(name)
    found = store.load_store([name, *many[1:]], 8, workers=2)
    assert list(found.bad) == [7] and np.array_equal(found.pixels[0], store.decode(name, 8))


@pytest.mark.parametrize("breaks", ["disk_usage", "posix_fallocate", "pwrite", "short"])
def test_a_full_disk_is_one_line_and_leaves_nothing(breaks, files, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if breaks == "disk_usage":
        monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 40 * 192 - 1}))
    else:
        name, fault = ("pwrite", lambda *_: 5) if breaks == "short" else (breaks, full)
        monkeypatch.setattr(store.os, name, fault)
    with pytest.raises(LongtailError, match="no room for") as caught:
        store.load_store(files, 8, cache=tmp_path / "cache", workers=1)
    assert "\n" not in str(caught.value) and "LONGTAIL_CACHE" in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written_is_one_line(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LongtailError, match="LONGTAIL_CACHE"):
        store.load_store(files, 8, cache=tmp_path / "file")


def test_a_failing_machine_is_no_bad_picture(files, monkeypatch, tmp_path):
    """A read error may be gone tomorrow; as a bad picture it would stay in the cache."""

    def broken(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(decode.Image, "open", broken)
    with pytest.raises(LongtailError, match="Input/output error"):
        store.load_store(files, 8, cache=tmp_path / "cache", workers=1)
    assert not list((tmp_path / "cache").glob("*/meta.json"))


def test_files_that_change_while_decoded_are_refused(files, monkeypatch):
    decode_into = store.decode_into

    def touching(file, start, row, path, *args):
        if row == 30:
            os.utime(files[20])
        return decode_into(file, start, row, path, *args)

    monkeypatch.setattr(pool, "decode_into", touching)
    with pytest.raises(LongtailError, match="20.png changed while"):
        store.load_store(files, 8, workers=1)


def test_a_worker_that_dies_names_the_file_and_ends_the_others(many, monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    def doomed(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        if len(started) == 2:
            started[1].kill()
            started[1].wait()
        return started[-1]

    monkeypatch.setattr(pool.subprocess, "Popen", doomed)
    with pytest.raises(LongtailError, match=r"died \(exit status -9\) on .*/\d\d\.png"):
        store.load_store(many, 8, cache=tmp_path / "cache", workers=3)
    assert len(started) == 2 and all(child.poll() is not None for child in started)
    assert not list((tmp_path / "cache").glob("*.tmp-*"))


def run(code, cache, *args, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LONGTAIL_CACHE": str(cache)},
        **kwargs,
    )


LOAD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pictures import store
files = sorted(Path(sys.argv[2]).iterdir())
"""


def test_processes_that_start_at_once_decode_once(many, tmp_path):
    code = (
        LOAD
        + """
build = store._build
def told(*args):
    with open(sys.argv[3], "a") as log:
        log.write("built\\n")
    build(*args)
store._build = told
found = store.load_store(files, 8, workers=2)
print(json.dumps([found.key, int(found.pixels.sum(dtype="int64"))]))
"""
    )
    racers = [
        run(code, tmp_path / "cache", many[0].parent, tmp_path / "log", stderr=subprocess.DEVNULL) for _ in range(4)
    ]
    said = {racer.communicate(timeout=300)[0] for racer in racers}
    total = sum(int(store.decode(path, 8).sum()) for row, path in enumerate(many) if row != 7)
    assert len(said) == 1 and json.loads(said.pop())[1] == total
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_killed_while_decoding_leaves_no_store_and_no_process(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(noise(900, 900, 3)).save(folder / "000.jpg", quality=95)
    for i in range(1, 150):
        os.link(folder / "000.jpg", folder / f"{i:03d}.jpg")
    cache = tmp_path / "cache"
    code = LOAD + "store.load_store(files, 64, workers=2)"
    victim = run(code, cache, folder)

    def written():
        return any(np.fromfile(path, np.uint8)[200:].any() for path in cache.glob("*.tmp-*/pixels.npy"))

    def until(condition):
        for _ in range(20_000):
            if condition():
                return True
            time.sleep(0.01)
        return False

    assert until(written)
    children = [int(pid) for pid in Path(f"/proc/{victim.pid}/task/{victim.pid}/children").read_text().split()]
    assert len(children) == 2
    victim.kill()
    victim.wait()
    assert not list(cache.glob("*/meta.json")) or list(cache.glob("*.tmp-*/meta.json"))
    assert until(
        lambda: (
            not any(
                Path(f"/proc/{pid}/cmdline").exists()
                and b"pictures.decode" in Path(f"/proc/{pid}/cmdline").read_bytes()
                for pid in children
            )
        )
    )
    assert list(cache.glob("*.tmp-*"))
    other = folder / "000.jpg"
    store.load_store([other], 8, cache=cache)  # building anything sweeps what the dead left
    assert not list(cache.glob("*.tmp-*"))
    found = store.load_store(sorted(folder.iterdir()), 64, cache=cache)
    assert not found.bad and np.array_equal(found.pixels[149], store.decode(other, 64))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_anonymous_memory_does_not_grow_with_the_data(tmp_path):
    """Peak over the parent and its workers, 60 and 1,200 pictures: the pixels alone are 3 and 59 MB."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(noise(40, 40, 3)).save(folder / "0000.jpg")
    code = (
        LOAD
        + """
import threading
peak, done = 0, threading.Event()
def anonymous(pid):
    try:
        return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("RssAnon"))
    except OSError:
        return 0
def watch():
    global peak
    while not done.wait(0.02):
        pids = [os.getpid(), *open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()]
        peak = max(peak, sum(map(anonymous, pids)))
thread = threading.Thread(target=watch)
thread.start()
store.load_store(files, 128, workers=2)
done.set()
thread.join()
print(peak)
"""
    )
    peaks = []
    for count in (70, 1200):
        for i in range(1, count):
            if not (folder / f"{i:04d}.jpg").exists():
                os.link(folder / "0000.jpg", folder / f"{i:04d}.jpg")
        child = run(code, tmp_path / "cache", folder)
        peaks.append(int(child.communicate(timeout=300)[0]))
    assert peaks[0] > 10_000  # it did look
    assert peaks[1] - peaks[0] < 12_000  # kB


def test_the_store_needs_no_torch():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); import data; from pictures import store;"
            "print([n for n in ('torch', 'matplotlib', 'tqdm') if n in sys.modules])",
            str(ROOT),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert store.cache_dir() == Path("/a")
    monkeypatch.delenv("LONGTAIL_CACHE")
    assert store.cache_dir() == Path("/b/longtail")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.cache_dir() == Path.home() / ".cache" / "longtail"
