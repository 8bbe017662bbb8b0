"""The network's input in one launch: gather, bilinear sampling, colour, the partner's view, erasing, normalising.

For output pixel (x, y) of row i, with u = geo (x + 1/2, y + 1/2, 1) in Store pixels and P the picture's bilinear
interpolant,

    v = clamp(col (P(u) / 255, 1)),   v += w (v_b - v),   out = (v - mean) / std, 0 within `erase`;

w is 1 - lam, or with a box 1 inside of it and 0 outside; v_b is made only where the row mixes (lam < 1) and, with a
box, in its rows. Read: Store uint8 [N, S, S, 3 or 4] on the device or in pinned host memory, which the GPU reads by the
same address; the plan's row as docs/design.md has it (Plan). Written: [B, 3 or 4, size, size] in channels-last order; a
fourth channel is 0.

Floor, in bytes: out, and of the Store the pixels that are shown, once (a channels-last bf16 batch of 128 x 224^2 with
two views of 4-byte pixels: 77 MB). In instructions: see bench/kernels.py, which counts them for every pixel.
"""

import torch
import triton
import triton.language as tl

BLOCK, TILES, WARPS = 512, 4, 4  # pixels a tile, tiles a program (its row's tables are read once), warps


@triton.jit
def _view(
    pixels,
    index,
    partner,
    lam,
    box,
    geo,
    geo_b,
    col,
    col_b,
    erase,
    mean,
    std,
    out,
    pictures,
    SIZE: tl.constexpr,
    SIDE: tl.constexpr,
    BYTES: tl.constexpr,
    CHANNELS: tl.constexpr,
    REFLECT: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """TILES * BLOCK pixels of one row. SIZE, SIDE: of the output and of the Store; BYTES: of a Store pixel."""
    programs: tl.constexpr = (SIZE * SIZE + TILES * BLOCK - 1) // (TILES * BLOCK)
    row = tl.program_id(0) // programs
    picture, other, share = tl.load(index + row), tl.load(partner + row), 1 - tl.load(lam + row)
    mixes = share > 0
    own_there, other_there = (picture >= 0) & (picture < pictures), (other >= 0) & (other < pictures)
    own = pixels + tl.where(own_there, picture, 0).to(tl.int64) * (SIDE * SIDE * BYTES)
    others = pixels + tl.where(other_there, other, 0).to(tl.int64) * (SIDE * SIDE * BYTES)
    map_a, colour_a = _map(geo + row * 6), _lines(col + row * 12)
    map_b, colour_b = _map(geo_b + row * 6), _lines(col_b + row * 12)
    box_top, box_left, box_height, box_width = _box(box + row * 4)
    boxed = (box_height > 0) & (box_width > 0)
    erase_top, erase_left, erase_height, erase_width = _box(erase + row * 4)
    # A picture that the Store lacks becomes NaN, which the loss then shows, and no other picture.
    gain_r = tl.where(own_there & (other_there | (share <= 0)), 1 / tl.load(std), float("nan"))
    gain_g, gain_b = 1 / tl.load(std + 1), 1 / tl.load(std + 2)
    shift_r, shift_g, shift_b = -tl.load(mean) * gain_r, -tl.load(mean + 1) * gain_g, -tl.load(mean + 2) * gain_b
    target = out + row.to(tl.int64) * (SIZE * SIZE * CHANNELS)
    for tile in range(TILES):
        first = (tl.program_id(0) % programs * TILES + tile) * BLOCK
        at = first + tl.arange(0, BLOCK)
        y, x = at // SIZE, at % SIZE
        r, g, b = _look(own, map_a, colour_a, x, y, SIDE, BYTES, REFLECT)
        reached = (first // SIZE < box_top + box_height) & ((first + BLOCK - 1) // SIZE >= box_top)
        if mixes & (reached | (boxed == 0)):
            r_b, g_b, b_b = _look(others, map_b, colour_b, x, y, SIDE, BYTES, REFLECT)
            w = tl.where(boxed, _inside(y, x, box_top, box_left, box_height, box_width, 1.0, 0.0), share)
            r, g, b = r + w * (r_b - r), g + w * (g_b - g), b + w * (b_b - b)
        keep = _inside(y, x, erase_top, erase_left, erase_height, erase_width, 0.0, 1.0) > 0
        r = tl.where(keep, r * gain_r + shift_r, 0.0).to(out.dtype.element_ty)
        g = tl.where(keep, g * gain_g + shift_g, 0.0).to(out.dtype.element_ty)
        b = tl.where(keep, b * gain_b + shift_b, 0.0).to(out.dtype.element_ty)
        live = at < SIZE * SIZE
        if CHANNELS == 4:
            rgb = tl.reshape(tl.join(tl.join(r, b), tl.join(g, tl.zeros_like(g))), (BLOCK, 4))
            tl.store(target + at[:, None] * 4 + tl.arange(0, 4)[None, :], rgb, mask=live[:, None])
        else:
            tl.store(target + at * 3, r, mask=live)
            tl.store(target + at * 3 + 1, g, mask=live)
            tl.store(target + at * 3 + 2, b, mask=live)


@triton.jit
def _look(picture, geo, col, x, y, SIDE: tl.constexpr, BYTES: tl.constexpr, REFLECT: tl.constexpr):
    """Red, green and blue in [0, 1] of output pixels (x, y). Every address is in the picture, whatever geo says."""
    x, y = x.to(tl.float32), y.to(tl.float32)
    left, west, east = _between(geo[0] * x + (geo[1] * y + geo[2]), SIDE, REFLECT)
    top, north, south = _between(geo[3] * x + (geo[4] * y + geo[5]), SIDE, REFLECT)
    corner = picture + (top * SIDE + left) * BYTES
    r, g, b = _add(corner, north * west, 0.0, 0.0, 0.0, BYTES)
    r, g, b = _add(corner + BYTES, north * east, r, g, b, BYTES)
    r, g, b = _add(corner + SIDE * BYTES, south * west, r, g, b, BYTES)
    r, g, b = _add(corner + (SIDE + 1) * BYTES, south * east, r, g, b, BYTES)
    return _line(col, 0, r, g, b), _line(col, 4, r, g, b), _line(col, 8, r, g, b)


@triton.jit
def _between(u, SIDE: tl.constexpr, REFLECT: tl.constexpr):
    """The pixel i before the place u, in Store pixels from the edge, and the weights of i and i + 1, both in the
    picture."""
    if REFLECT:
        u = tl.abs(u - 2 * SIDE * tl.floor(u * (0.5 / SIDE) + 0.5))  # a triangle wave: the edge pixel comes twice
        u = tl.minimum(tl.maximum(u - 0.5, 0.0), SIDE - 1.0)
        i = tl.minimum(u.to(tl.int32), SIDE - 2)
        after = u - i.to(tl.float32)
        return i, 1 - after, after
    u = tl.minimum(tl.maximum(u - 0.5, -1.0), SIDE * 1.0)
    i = tl.minimum(tl.maximum(u.to(tl.int32), 0), SIDE - 2)
    after = u - i.to(tl.float32)  # under 0 or over 1 where a neighbour is in the border, which is 0
    return i, tl.maximum(1 - tl.abs(after), 0.0), tl.maximum(1 - tl.abs(after - 1), 0.0)


@triton.jit
def _add(at, weight, r, g, b, BYTES: tl.constexpr):
    """r, g and b in [0, 255] with weight times the pixels `at` added."""
    if BYTES == 4:
        pixel = tl.load(at.to(tl.pointer_type(tl.uint32)))
        red, green, blue = pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255
    else:
        red, green, blue = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    return r + weight * red.to(tl.float32), g + weight * green.to(tl.float32), b + weight * blue.to(tl.float32)


@triton.jit
def _line(col, k: tl.constexpr, r, g, b):
    """One line of the 3 x 4 matrix, clamped."""
    return tl.minimum(tl.maximum(col[k] * r + (col[k + 1] * g + (col[k + 2] * b + col[k + 3])), 0.0), 1.0)


@triton.jit
def _map(p):
    """The 2 x 3 matrix at p, for whole x and y: the half pixel to their centres goes into the shift."""
    xx, xy, yx, yy = tl.load(p), tl.load(p + 1), tl.load(p + 3), tl.load(p + 4)
    return xx, xy, tl.load(p + 2) + 0.5 * (xx + xy), yx, yy, tl.load(p + 5) + 0.5 * (yx + yy)


@triton.jit
def _lines(p):
    """The 3 x 4 matrix at p, for colours in [0, 255]."""
    scale: tl.constexpr = 1 / 255
    return (
        tl.load(p) * scale,
        tl.load(p + 1) * scale,
        tl.load(p + 2) * scale,
        tl.load(p + 3),
        tl.load(p + 4) * scale,
        tl.load(p + 5) * scale,
        tl.load(p + 6) * scale,
        tl.load(p + 7),
        tl.load(p + 8) * scale,
        tl.load(p + 9) * scale,
        tl.load(p + 10) * scale,
        tl.load(p + 11),
    )


@triton.jit
def _box(p):
    """Top, left, height and width of the box at p."""
    top, left = tl.load(p), tl.load(p + 1)
    return top, left, tl.maximum(tl.load(p + 2) - top, 0), tl.maximum(tl.load(p + 3) - left, 0)


@triton.jit
def _inside(y, x, top, left, height, width, yes, no):
    """`yes` where a pixel is in the box, else `no`; what is before its edge wraps to a large number."""
    columns = tl.where((x - left).to(tl.uint32) < width.to(tl.uint32), yes, no)
    return tl.where((y - top).to(tl.uint32) < height.to(tl.uint32), columns, no)


@torch.library.custom_op("longtail::view", mutates_args=())
def view(
    pixels: torch.Tensor,
    index: torch.Tensor,
    partner: torch.Tensor,
    lam: torch.Tensor,
    box: torch.Tensor,
    geo: torch.Tensor,
    geo_b: torch.Tensor,
    col: torch.Tensor,
    col_b: torch.Tensor,
    erase: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    size: int,
    border: str,
    dtype: torch.dtype,
    channels: int,
) -> torch.Tensor:
    """The batch [B, channels, size, size], channels-last, of `dtype` (float32, bfloat16, float16): see augment.batch,
    its twin, which calls it, for training and for evaluation plans alike. mean, std: float32 [3]. border: 'reflect' or
    'constant'. channels: 3 or 4. ValueError for other shapes and dtypes; a row of the Store that is not there gives
    NaN."""
    _check(pixels, index, partner, lam, box, geo, geo_b, col, col_b, erase, mean, std, border, dtype, channels)
    out = _empty(geo, size, dtype, channels)
    columns = [v.contiguous() for v in (index, partner, lam, box, geo, geo_b, col, col_b, erase, mean, std)]
    programs = triton.cdiv(size * size, BLOCK * TILES)
    if len(index):
        with torch.cuda.device_of(geo):
            _view[(len(index) * programs,)](
                pixels.contiguous(),
                *columns,
                out,
                len(pixels),
                SIZE=size,
                SIDE=pixels.shape[1],
                BYTES=pixels.shape[3],
                CHANNELS=channels,
                REFLECT=border == "reflect",
                BLOCK=BLOCK,
                TILES=TILES,
                num_warps=WARPS,
            )
    return out.permute(0, 3, 1, 2)


@view.register_fake
def _(pixels, index, partner, lam, box, geo, geo_b, col, col_b, erase, mean, std, size, border, dtype, channels):
    _check(pixels, index, partner, lam, box, geo, geo_b, col, col_b, erase, mean, std, border, dtype, channels)
    return _empty(geo, size, dtype, channels).permute(0, 3, 1, 2)


def _empty(geo, size, dtype, channels):
    return geo.new_empty((len(geo), size, size, channels), dtype=dtype)


def _check(pixels, index, partner, lam, box, geo, geo_b, col, col_b, erase, mean, std, border, dtype, channels):
    n, side = len(index), pixels.shape[1] if pixels.ndim == 4 else 0
    if side < 2 or pixels.dtype != torch.uint8 or pixels.shape[2] != side or pixels.shape[3] not in (3, 4):
        raise ValueError(f"the Store is uint8 [N, S, S, 3 or 4], S > 1; got {pixels.dtype} {tuple(pixels.shape)}")
    if (
        border not in ("reflect", "constant")
        or channels not in (3, 4)
        or dtype not in (torch.float32, torch.bfloat16, torch.float16)
    ):
        raise ValueError(
            "border is reflect or constant, channels 3 or 4, dtype float32, bfloat16 or float16; got "
            f"{border}, {channels}, {dtype}"
        )
    shapes = dict(
        index=(n,),
        partner=(n,),
        lam=(n,),
        box=(n, 4),
        geo=(n, 2, 3),
        geo_b=(n, 2, 3),
        col=(n, 3, 4),
        col_b=(n, 3, 4),
        erase=(n, 4),
        mean=(3,),
        std=(3,),
    )
    given = dict(zip(shapes, (index, partner, lam, box, geo, geo_b, col, col_b, erase, mean, std)))
    for name, shape in shapes.items():
        kinds = (torch.int32, torch.int64) if name in ("index", "partner", "box", "erase") else (torch.float32,)
        v = given[name]
        if v.shape != shape or v.dtype not in kinds or v.device != geo.device:
            raise ValueError(
                f"{name} must be {shape} of {' or '.join(map(str, kinds))} on {geo.device}; got "
                f"{tuple(v.shape)} {v.dtype} on {v.device}"
            )
    if pixels.device != geo.device and not pixels.is_pinned():
        raise ValueError(f"the Store must be on {geo.device} or in pinned host memory; it is on {pixels.device}")
