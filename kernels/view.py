"""The network's input in one launch: gather, bilinear sampling, colour, the partner's view, erasing, normalising.

For output pixel (x, y), with u = geo (x + 1/2, y + 1/2, 1) in Store pixels and P the picture's bilinear interpolant,

    v = clamp(col (P(u) / 255, 1)),   v += w (v_b - v),   out = (v - mean) / std, 0 within `erase`.

w is 1 - blend; where the row has a box that is not empty, w is 1 in it and 0 outside. v_b, the same of `partner`, is
made only where a row mixes: where it has a box, in the rows of the box; where not, if blend < 1.

    name              shape                      dtype                            the kernel
    pixels            [N, S, S, 3 or 4]          uint8, on the device or pinned   reads; a fourth byte is no colour
    index, partner    [B]                        int32 or int64                   reads
    blend             [B]                        float32                          reads
    box, erase        [B, 4], y0 x0 y1 x1        int32 or int64                   reads
    geo, geo_b        [B, 2, 3]                  float32                          reads
    col, col_b        [B, 3, 4]                  float32                          reads
    mean, std         [3]                        float32                          reads
    out               [B, size, size, 3 or 4]    float32, bfloat16 or float16     writes; a fourth channel is 0

Floor, in bytes: out, and of the Store the pixels that are shown, once (a channels-last bf16 batch of 128 x 224^2 with
two views of 4-byte pixels: 77 MB). In instructions: see bench/kernels.py, which counts them for every pixel.
"""

from collections import namedtuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # pixels a tile
TILES = 4  # tiles a program, which reads its row's tables once
WARPS = 4

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = ("index", "partner", "box", "erase")  # the tables of int32 or int64; the others are float32
# The tables' shapes behind [B]; the moments mean and std have no rows.
SHAPES = dict(index=(), partner=(), blend=(), box=(4,), geo=(2, 3), geo_b=(2, 3), col=(3, 4), col_b=(3, 4), erase=(4,))

# What the kernel's functions hand on together: Triton keeps the names and holds the fields in registers.
Rgb = namedtuple("Rgb", "red green blue")  # a number for each colour
MapLine = namedtuple("MapLine", "by_x by_y shift")  # of geo: by_x x + by_y y + shift is a place in the Store's picture
ColourLine = namedtuple("ColourLine", "red green blue offset")  # of col, for colours in [0, 255]
Span = namedtuple("Span", "first count")  # the rows of a box, or its columns


@triton.jit
def _view(
    pixels_ptr,
    index_ptr,
    partner_ptr,
    blend_ptr,
    box_ptr,
    geo_ptr,
    geo_b_ptr,
    col_ptr,
    col_b_ptr,
    erase_ptr,
    mean_ptr,
    std_ptr,
    out_ptr,
    n_pictures,
    SIZE: tl.constexpr,
    SIDE: tl.constexpr,
    BYTES: tl.constexpr,
    CHANNELS: tl.constexpr,
    REFLECT: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """TILES * BLOCK pixels of one row. SIZE, SIDE: of the output and of the Store; BYTES: of a Store pixel."""
    programs: tl.constexpr = (SIZE * SIZE + TILES * BLOCK - 1) // (TILES * BLOCK)  # that share a row
    row = (tl.program_id(0) // programs).to(tl.int64)  # a base in out may pass 2^31
    # The row's tables: loaded once, for all tiles.
    own_ptr, own_there = _find_picture(pixels_ptr, index_ptr + row, n_pictures, SIDE, BYTES)
    other_ptr, other_there = _find_picture(pixels_ptr, partner_ptr + row, n_pictures, SIDE, BYTES)
    own_x = _load_map(geo_ptr + row * 6)
    own_y = _load_map(geo_ptr + row * 6 + 3)
    other_x = _load_map(geo_b_ptr + row * 6)
    other_y = _load_map(geo_b_ptr + row * 6 + 3)
    own_colours = _load_colours(col_ptr + row * 12)
    other_colours = _load_colours(col_b_ptr + row * 12)
    box_rows, box_columns = _load_box(box_ptr + row * 4)
    erase_rows, erase_columns = _load_box(erase_ptr + row * 4)

    boxed = (box_rows.count > 0) & (box_columns.count > 0)  # one without rows or columns is none
    share = 1 - tl.load(blend_ptr + row)  # the partner's
    mixes = boxed | (share > 0)
    # A picture that the Store lacks becomes NaN, which the loss then shows, and no other picture.
    readable = own_there & (other_there | (mixes == 0))
    mean = _load_rgb(mean_ptr)
    std = _load_rgb(std_ptr)
    gain = Rgb(tl.where(readable, 1 / std.red, float("nan")), 1 / std.green, 1 / std.blue)
    shift = Rgb(-mean.red * gain.red, -mean.green * gain.green, -mean.blue * gain.blue)
    row_ptr = out_ptr + row * (SIZE * SIZE * CHANNELS)
    for tile in range(TILES):
        first = (tl.program_id(0) % programs * TILES + tile) * BLOCK
        pixel = first + tl.arange(0, BLOCK)  # those of the last tile may lie behind the picture
        y = pixel // SIZE
        x = pixel % SIZE
        rgb = _look(own_ptr, own_x, own_y, own_colours, x, y, SIDE, BYTES, REFLECT)

        # The partner's view costs as much as the row's own: a tile whose lines all miss the box makes none.
        reached = (first // SIZE < box_rows.first + box_rows.count) & ((first + BLOCK - 1) // SIZE >= box_rows.first)
        if mixes & (reached | (boxed == 0)):
            other = _look(other_ptr, other_x, other_y, other_colours, x, y, SIDE, BYTES, REFLECT)
            w = tl.where(boxed, tl.where(_within(y, x, box_rows, box_columns), 1.0, 0.0), share)
            red = rgb.red + w * (other.red - rgb.red)
            green = rgb.green + w * (other.green - rgb.green)
            blue = rgb.blue + w * (other.blue - rgb.blue)
            rgb = Rgb(red, green, blue)
        kept = _within(y, x, erase_rows, erase_columns) == 0
        dtype: tl.constexpr = out_ptr.dtype.element_ty
        red = tl.where(kept, rgb.red * gain.red + shift.red, 0.0).to(dtype)
        green = tl.where(kept, rgb.green * gain.green + shift.green, 0.0).to(dtype)
        blue = tl.where(kept, rgb.blue * gain.blue + shift.blue, 0.0).to(dtype)
        live = pixel < SIZE * SIZE
        if CHANNELS == 4:  # one store of four neighbours: joining twice interleaves red, green, blue and 0
            rgb0 = tl.reshape(tl.join(tl.join(red, blue), tl.join(green, tl.zeros_like(green))), (BLOCK, 4))
            tl.store(row_ptr + pixel[:, None] * 4 + tl.arange(0, 4)[None, :], rgb0, mask=live[:, None])
        else:
            tl.store(row_ptr + pixel * 3, red, mask=live)
            tl.store(row_ptr + pixel * 3 + 1, green, mask=live)
            tl.store(row_ptr + pixel * 3 + 2, blue, mask=live)


@triton.jit
def _find_picture(pixels_ptr, index_ptr, n_pictures, SIDE: tl.constexpr, BYTES: tl.constexpr):
    """Where the picture at index_ptr begins, and whether the Store has it; if not, picture 0 stands in for it."""
    index = tl.load(index_ptr)
    there = (index >= 0) & (index < n_pictures)
    picture_ptr = pixels_ptr + tl.where(there, index, 0).to(tl.int64) * (SIDE * SIDE * BYTES)
    return picture_ptr, there


@triton.jit
def _look(picture_ptr, map_x, map_y, colours, x, y, SIDE: tl.constexpr, BYTES: tl.constexpr, REFLECT: tl.constexpr):
    """Rgb in [0, 1] of output pixels (x, y). Every address is in the picture, whatever the map says."""
    x = x.to(tl.float32)
    y = y.to(tl.float32)
    left, west, east = _neighbours(map_x.by_x * x + (map_x.by_y * y + map_x.shift), SIDE, REFLECT)
    top, north, south = _neighbours(map_y.by_x * x + (map_y.by_y * y + map_y.shift), SIDE, REFLECT)
    corner_ptr = picture_ptr + (top * SIDE + left) * BYTES
    rgb = Rgb(0.0, 0.0, 0.0)  # in [0, 255] until the colour lines
    rgb = _add_pixel(rgb, corner_ptr, north * west, BYTES)
    rgb = _add_pixel(rgb, corner_ptr + BYTES, north * east, BYTES)
    rgb = _add_pixel(rgb, corner_ptr + SIDE * BYTES, south * west, BYTES)
    rgb = _add_pixel(rgb, corner_ptr + (SIDE + 1) * BYTES, south * east, BYTES)
    red_line, green_line, blue_line = colours
    return Rgb(_colour(red_line, rgb), _colour(green_line, rgb), _colour(blue_line, rgb))


@triton.jit
def _neighbours(place, SIDE: tl.constexpr, REFLECT: tl.constexpr):
    """The pixel before a place (Store pixels from the edge), its weight and that of the next: neither is outside."""
    if REFLECT:
        place = tl.abs(place - 2 * SIDE * tl.floor(place * (0.5 / SIDE) + 0.5))  # a triangle wave: the edge comes twice
        place = tl.minimum(tl.maximum(place - 0.5, 0.0), SIDE - 1.0)
        before = tl.minimum(place.to(tl.int32), SIDE - 2)  # the last pixel is reached as the next of the one before
        part = place - before.to(tl.float32)
        return before, 1 - part, part
    place = tl.minimum(tl.maximum(place - 0.5, -1.0), SIDE * 1.0)
    before = tl.minimum(tl.maximum(place.to(tl.int32), 0), SIDE - 2)
    part = place - before.to(tl.float32)  # under 0 or over 1 where a neighbour is in the border, which is 0
    return before, tl.maximum(1 - tl.abs(part), 0.0), tl.maximum(1 - tl.abs(part - 1), 0.0)


@triton.jit
def _add_pixel(rgb, pixel_ptr, weight, BYTES: tl.constexpr):
    """rgb with `weight` times the Store's pixel added, in [0, 255]."""
    if BYTES == 4:
        word = tl.load(pixel_ptr.to(tl.pointer_type(tl.uint32)))  # one load for the three
        red = word & 255
        green = (word >> 8) & 255
        blue = (word >> 16) & 255
    else:
        red = tl.load(pixel_ptr)
        green = tl.load(pixel_ptr + 1)
        blue = tl.load(pixel_ptr + 2)
    red = rgb.red + weight * red.to(tl.float32)
    green = rgb.green + weight * green.to(tl.float32)
    blue = rgb.blue + weight * blue.to(tl.float32)
    return Rgb(red, green, blue)


@triton.jit
def _colour(line, rgb):
    """One colour of the result, clamped."""
    colour = line.red * rgb.red + (line.green * rgb.green + (line.blue * rgb.blue + line.offset))
    return tl.minimum(tl.maximum(colour, 0.0), 1.0)


@triton.jit
def _load_rgb(rgb_ptr):
    return Rgb(tl.load(rgb_ptr), tl.load(rgb_ptr + 1), tl.load(rgb_ptr + 2))


@triton.jit
def _load_map(line_ptr):
    """One line of a row's geo, for whole x and y."""
    by_x = tl.load(line_ptr)
    by_y = tl.load(line_ptr + 1)
    shift = tl.load(line_ptr + 2) + 0.5 * (by_x + by_y)  # the half pixel from a corner to the centre
    return MapLine(by_x, by_y, shift)


@triton.jit
def _load_colours(col_ptr):
    """The three lines of a row's col, for red, green and blue."""
    return _load_colour_line(col_ptr), _load_colour_line(col_ptr + 4), _load_colour_line(col_ptr + 8)


@triton.jit
def _load_colour_line(line_ptr):
    rgb = _load_rgb(line_ptr)
    scale: tl.constexpr = 1 / 255  # col is on [0, 1], and here meets bytes
    return ColourLine(rgb.red * scale, rgb.green * scale, rgb.blue * scale, tl.load(line_ptr + 3))


@triton.jit
def _load_box(box_ptr):
    """The rows and the columns of a box, which lies there as y0 x0 y1 x1."""
    top = tl.load(box_ptr)
    left = tl.load(box_ptr + 1)
    height = tl.maximum(tl.load(box_ptr + 2) - top, 0)
    width = tl.maximum(tl.load(box_ptr + 3) - left, 0)
    return Span(top, height), Span(left, width)


@triton.jit
def _within(y, x, rows, columns):
    """Whether a pixel is in a box. What is before its edge wraps to a large number: one comparison for two."""
    in_rows = (y - rows.first).to(tl.uint32) < rows.count.to(tl.uint32)
    in_columns = (x - columns.first).to(tl.uint32) < columns.count.to(tl.uint32)
    return in_rows & in_columns


@torch.library.custom_op("longtail::view", mutates_args=())
def view(
    pixels: Tensor,
    index: Tensor,
    partner: Tensor,
    blend: Tensor,
    box: Tensor,
    geo: Tensor,
    geo_b: Tensor,
    col: Tensor,
    col_b: Tensor,
    erase: Tensor,
    mean: Tensor,
    std: Tensor,
    size: int,
    border: str,
    dtype: torch.dtype,
    channels: int,
) -> Tensor:
    """The batch [B, channels, size, size], channels-last, of `dtype`: see augment.batch, its twin, which calls it, for
    training and for evaluation plans alike. border: 'reflect' or 'constant'. channels: 3 or 4. ValueError for other
    shapes and dtypes than the file's docstring says; a row of the Store that is not there gives NaN."""
    tables = dict(index=index, partner=partner, blend=blend, box=box, geo=geo, geo_b=geo_b, col=col, col_b=col_b)
    tables |= dict(erase=erase, mean=mean, std=std)
    _check(pixels, tables, border, dtype, channels)
    out = geo.new_empty((len(geo), size, size, channels), dtype=dtype)
    if len(index):
        pointers = {f"{name}_ptr": table.contiguous() for name, table in tables.items()}
        store = dict(n_pictures=len(pixels), SIDE=pixels.shape[1], BYTES=pixels.shape[3], REFLECT=border == "reflect")
        tiles = dict(SIZE=size, CHANNELS=channels, BLOCK=BLOCK, TILES=TILES, num_warps=WARPS)
        start = _view[(len(index) * triton.cdiv(size * size, BLOCK * TILES),)]
        with torch.cuda.device_of(geo):
            start(pixels_ptr=pixels.contiguous(), **pointers, out_ptr=out, **store, **tiles)
    return out.permute(0, 3, 1, 2)


@view.register_fake
def _(pixels, index, partner, blend, box, geo, geo_b, col, col_b, erase, mean, std, size, border, dtype, channels):
    tables = dict(index=index, partner=partner, blend=blend, box=box, geo=geo, geo_b=geo_b, col=col, col_b=col_b)
    tables |= dict(erase=erase, mean=mean, std=std)
    _check(pixels, tables, border, dtype, channels)
    return geo.new_empty((len(geo), size, size, channels), dtype=dtype).permute(0, 3, 1, 2)


def _check(pixels, tables, border, dtype, channels):
    side = pixels.shape[1] if pixels.ndim == 4 else 0
    if side < 2 or pixels.dtype != torch.uint8 or pixels.shape[2] != side or pixels.shape[3] not in (3, 4):
        raise ValueError(f"the Store is uint8 [N, S, S, 3 or 4], S > 1; got {pixels.dtype} {tuple(pixels.shape)}")
    if border not in ("reflect", "constant") or channels not in (3, 4) or dtype not in DTYPES:
        raise ValueError(
            "border is reflect or constant, channels 3 or 4, dtype float32, bfloat16 or float16; got "
            f"{border}, {channels}, {dtype}"
        )
    rows, device = len(tables["index"]), tables["geo"].device
    for name, table in tables.items():
        shape = (rows, *SHAPES[name]) if name in SHAPES else (3,)
        dtypes = (torch.int32, torch.int64) if name in INTEGERS else (torch.float32,)
        if table.shape != shape or table.dtype not in dtypes or table.device != device:
            wanted = f"{shape} of {' or '.join(map(str, dtypes))} on {device}"
            found = f"{tuple(table.shape)} {table.dtype} on {table.device}"
            raise ValueError(f"{name} must be {wanted}; got {found}")
    if pixels.device != device and not pixels.is_pinned():
        raise ValueError(f"the Store must be on {device} or in pinned host memory; it is on {pixels.device}")
