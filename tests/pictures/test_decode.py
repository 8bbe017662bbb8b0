"""Pixels against what NumPy or torchvision make of the same numbers."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from pictures import decode
from samples import RNG, noise, png, tiff

S = 24


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


def png_with_key(path, values, depth, key):
    """A PNG whose pixels of the value `key` are clear. values: [H, W] or [H, W, 3] integers below 2**depth."""
    channels = values.reshape(*values.shape[:2], -1)
    if depth == 16:
        packed = channels.astype(">u2")
    else:  # several pixels in a byte
        bits = channels >> np.arange(depth)[::-1] & 1
        packed = np.packbits(bits.astype(np.uint8).reshape(len(values), -1), axis=1)
    png(path, packed, depth, 2 if channels.shape[-1] == 3 else 0, width=values.shape[1])
    data = path.read_bytes()
    body = b"tRNS" + np.asarray(key).astype(">u2").tobytes()
    path.write_bytes(
        data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    )


def gif_of_a_part(path, index, place, canvas):
    """A GIF whose only frame is `index` [h, w], at `place` (x, y) of a canvas (width, height)."""
    image = Image.frombytes("P", index.shape[::-1], index.tobytes())
    image.putpalette(PALETTE.tobytes())
    image.save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b",\0\0\0\0" + struct.pack("<HH", *image.size))
    data[at + 1 : at + 5] = struct.pack("<HH", *place)
    data[6:10] = struct.pack("<HH", *canvas)
    path.write_bytes(data)


def webp_of_a_part(path, pixels, place, canvas):
    """An animated WebP without transparency, each frame `pixels` [h, w, 3] at `place` of a canvas (width, height)."""

    def three(*values):
        return b"".join(value.to_bytes(3, "little") for value in values)

    def chunk(name, body):
        return name + struct.pack("<I", len(body)) + body

    still = io.BytesIO()
    Image.fromarray(pixels).save(still, "WEBP", lossless=True)
    height, width = pixels.shape[:2]
    x, y = place
    frame = chunk(b"ANMF", three(x // 2, y // 2, width - 1, height - 1, 100) + b"\0" + still.getvalue()[12:])
    head = chunk(b"VP8X", b"\2\0\0\0" + three(canvas[0] - 1, canvas[1] - 1)) + chunk(b"ANIM", bytes(6))
    path.write_bytes(chunk(b"RIFF", b"WEBP" + head + frame + frame))


def paletted():
    image = Image.fromarray(INDEX, "L").copy()
    image = Image.frombytes("P", (S, S), INDEX.tobytes())
    image.putpalette(PALETTE.tobytes())
    return image


PART = noise(10, 8, 3)
AROUND = np.full((S, S, 3), 255, np.uint8)
AROUND[6:16, 4:12] = PART
SMALL = Image.fromarray(L.astype(np.uint16))  # values of 8 bits in 16
KEYED = (
    WIDE.copy()
)  # grey of 16 bits, half of it clear; the rest shares its high byte or its low byte with what is clear
KEYED[:12] = 0x1234
KEYED[12:14], KEYED[14:16] = 0x1200, 0x3434
COLOURS = np.dstack([KEYED, KEYED[::-1], np.full_like(KEYED, 0x1234)])
COLOURS[:4] = 0x1234

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
    "white-is-zero16.tif": (lambda p: tiff(p, WIDE[None], 0), grey(255 - WIDE // 256), 0),
    "white-is-zero16-big-endian.tif": (lambda p: tiff(p, WIDE[None], 0, ">"), grey(255 - WIDE // 256), 0),
    "white-is-zero-8-in-16.tif": (lambda p: tiff(p, L[None].astype(np.uint16), 0), grey(255 - L), 0),
    "8-in-16.png": (SMALL.save, grey(L), 0),
    "8-in-16.tif": (SMALL.save, grey(L), 0),
    "8-in-16.pgm": (SMALL.save, grey(L), 0),
    "8-in-16-signed.tif": (lambda p: tiff(p, L[None].astype(np.int16), 1), grey(L), 0),
    "8-in-32.tif": (lambda p: Image.fromarray(L.astype(np.int32)).save(p), grey(L), 0),
    "12-in-16.png": (lambda p: Image.fromarray(WIDE // 16).save(p), grey(WIDE // 256), 0),
    "12-in-16.tif": (lambda p: Image.fromarray(WIDE // 16).save(p), grey(WIDE // 256), 0),
    "rgb-apart.tif": (lambda p: tiff(p, np.moveaxis(RGB, -1, 0), 2, together=False), RGB, 0),
    "rgb16.tif": (
        lambda p: tiff(p, np.stack([WIDE, WIDE.T, 65535 - WIDE]), 2, ">"),
        np.dstack([WIDE, WIDE.T, 65535 - WIDE]) // 256,
        0,
    ),
    "grey-times-alpha.tif": (
        lambda p: tiff(p, np.stack([L // 2, L // 2 + 128]), 1, t338=(1,)),
        grey(L // 2 + 255.0 - (L // 2 + 128)),
        2,
    ),
    "key1.png": (lambda p: png_with_key(p, INDEX % 2, 1, 0), grey(INDEX * 0 + 255), 0),
    "key2.png": (
        lambda p: png_with_key(p, INDEX % 4, 2, 2),
        grey(np.where(INDEX % 4 == 2, 255, INDEX % 4 * 85)),
        0,
    ),
    "key4.png": (lambda p: png_with_key(p, INDEX, 4, 5), grey(np.where(INDEX == 5, 255, INDEX * 17)), 0),
    "key16.png": (
        lambda p: png_with_key(p, KEYED, 16, 0x1234),
        grey(np.where(KEYED == 0x1234, 255, KEYED // 256)),
        0,
    ),
    "key-colour16.png": (
        lambda p: png_with_key(p, COLOURS, 16, (0x1234,) * 3),
        np.where((COLOURS == 0x1234).all(-1, keepdims=True), 255, COLOURS // 256),
        0,
    ),
    "part.gif": (
        lambda p: gif_of_a_part(p, INDEX[:10, :8], (4, 6), (S, S)),
        255 - np.pad(255 - PALETTE[INDEX[:10, :8]], ((6, 8), (4, 12), (0, 0))),
        0,
    ),
    "part.webp": (lambda p: webp_of_a_part(p, PART, (4, 6), (S, S)), AROUND, 0),
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
    found = decode.decode(tmp_path / name, S)
    assert found.shape == (S, S, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(float) - expected).max() <= tolerance
    assert decode.dimensions([tmp_path / name]) == [(S, S)]


@pytest.mark.parametrize("quality, space", [(95, "RGB"), (95, "L"), (95, "CMYK")])
def test_jpeg_of_every_colour_space_is_close(quality, space, tmp_path):
    smooth = np.asarray(Image.fromarray(noise(5, 4, 3)).resize((S, S), Image.Resampling.BICUBIC).convert(space))
    Image.fromarray(smooth, space).save(tmp_path / "a.jpg", quality=quality, subsampling=0)
    expected = {
        "RGB": lambda: smooth,
        "L": lambda: grey(smooth),
        "CMYK": lambda: (255.0 - smooth[..., :3]) * (255 - smooth[..., 3:].astype(float)) / 255,
    }[space]()
    assert np.abs(decode.decode(tmp_path / "a.jpg", S) - expected.astype(float)).mean() < 3


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
    found = decode.decode(path, 48, "pad")
    blank = np.zeros((48, 48, 3))
    y, x = (48 - upright.shape[0]) // 2, (48 - upright.shape[1]) // 2
    blank[y : y + upright.shape[0], x : x + upright.shape[1]] = upright
    assert np.abs(found - blank).max() <= (4 if suffix == "jpg" else 0)
    assert decode.dimensions([path]) == [upright.shape[1::-1]]


@pytest.mark.parametrize("shape, size", [((90, 120), 64), ((53, 31), 64), ((200, 300), 50), ((64, 64), 64)])
def test_resizing_is_torchvisions(shape, size, torchvision, tmp_path):
    import torch
    from torchvision.transforms.v2 import functional as F

    pixels = noise(*shape, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).double()

    def resized(*to):
        return F.resize_image(tensor, list(to), antialias=True).permute(1, 2, 0).numpy()

    assert np.abs(decode.decode(tmp_path / "a.png", size) - resized(size, size)).max() <= 1
    scale = size / max(shape)
    inner = resized(*(max(1, round(side * scale)) for side in shape))
    y, x = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    padded = np.zeros((size, size, 3))
    padded[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    assert np.abs(decode.decode(tmp_path / "a.png", size, "pad") - padded).max() <= 1


@pytest.mark.parametrize("shape, size", [((100, 140), 50), ((96, 64), 32), ((31, 31), 40)])
def test_crop_is_torchvisions_where_no_pixel_is_cut_in_two(shape, size, torchvision, tmp_path):
    import torch
    from torchvision.transforms.v2 import functional as F

    pixels = noise(*shape, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = F.resize(torch.from_numpy(pixels).permute(2, 0, 1).double(), [size], antialias=True)
    expected = F.center_crop(tensor, [size, size]).permute(1, 2, 0).numpy()
    assert np.abs(decode.decode(tmp_path / "a.png", size, "crop") - expected).max() <= 1


def test_large_jpegs_are_read_at_reduced_scale_without_visible_change(tmp_path, monkeypatch):
    smooth = Image.fromarray(noise(60, 80, 3)).resize((1600, 1200), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=92)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    loaded = []
    resized = decode._resized
    monkeypatch.setattr(decode, "_resized", lambda image, *args: loaded.append(image.size) or resized(image, *args))
    found, full = (decode.decode(tmp_path / name, 96).astype(float) for name in ("a.jpg", "a.png"))
    assert loaded == [(400, 300), (1600, 1200)]
    assert np.abs(found - full).mean() < 0.5 and np.abs(found - full).max() <= 6


def test_dimensions_come_from_the_header_alone(tmp_path, monkeypatch):
    files = [tmp_path / f"a.{suffix}" for suffix in ("png", "jpg", "webp", "gif", "tif", "bmp")]
    for path in files:
        Image.fromarray(noise(30, 50, 3)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(decode.Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert decode.dimensions(files) == [(50, 30)] * len(files)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_metadata_does_not_cost_the_picture(suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    good = exif.tobytes()
    for i in range(100):
        block = bytearray(good[: RNG.integers(6, len(good) + 1)])
        block[RNG.integers(0, len(block))] = RNG.integers(0, 256)
        Image.fromarray(RGB).save(tmp_path / f"{i}.{suffix}", exif=bytes(block))
        assert decode.decode(tmp_path / f"{i}.{suffix}", S).shape == (S, S, 3)
        assert decode.dimensions([tmp_path / f"{i}.{suffix}"]) == [(S, S)]
