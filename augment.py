"""Geometry, colour and erasing: drawn as small matrices on the host, applied in plain PyTorch or by a kernel.

`draw_*` make a plan's columns from a NumPy generator; `batch` turns a row of the plan into the network's input and
draws nothing. Store pixels in, normalised floats out; no picture file is ever opened here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import kernels

GREY = np.array([0.299, 0.587, 0.114])  # ITU-R 601 luma, as Pillow's and torchvision's greyscale
RATIO = (3 / 4, 4 / 3)  # aspect ratios of random resized crops (Szegedy et al. 2015)
TRIES = 10  # as torchvision's RandomResizedCrop: the first crop that fits, else the whole picture
ERASED = (0.02, 0.33)  # share of the area that random erasing takes
ERASED_RATIO = (0.3, 3.3)  # and its height by its width

# What --tail-crops gives rare classes at the least: share of the area, degrees, share of the colour.
STRONG_SCALE, STRONG_ROTATE, STRONG_JITTER = 0.6, 15.0, 0.2
# What --one-op draws from, with the largest strength either way: what a map and a colour matrix can express of
# TrivialAugment's wide space, whose 32 pixels are taken of a side of 224.
COLOURS = ("brightness", "contrast", "saturation")
OPERATIONS = ("identity", "shear x", "shear y", "translate x", "translate y", "rotate", *COLOURS)
SHEAR, TRANSLATE, ROTATE, ENHANCE = 0.99, 32 / 224, 135.0, 0.99


@dataclass(frozen=True)
class Views:
    """The fields of Config with these names."""

    crop_scale: tuple[float, float]
    pad: int
    flip: bool
    rotate: float
    jitter: float
    erase: float
    tail_crops: tuple[int, int]
    one_op: bool


@dataclass(frozen=True)
class Frame:
    """Sides in pixels: of the view that is made, of the Store's picture, and of what a centre crop shows of it."""

    size: int
    store_size: int
    shown: float


def draw_views(
    rng: Callable[[str], np.random.Generator], rare: np.ndarray, means: np.ndarray, frame: Frame, views: Views
) -> tuple[np.ndarray, np.ndarray]:
    """Maps geo [*,2,3] and colour matrices col [*,3,4], float32, for pictures with mean colours `means` [*,3].

    rng: the generator of a table's name. rare [*]: whose views are strong at the least, as --tail-crops has it.
    """
    crop_low = np.where(rare, min(views.crop_scale[0], STRONG_SCALE), views.crop_scale[0])
    rotate = np.where(rare, max(views.rotate, STRONG_ROTATE), views.rotate)
    jitter = np.where(rare, max(views.jitter, STRONG_JITTER), views.jitter)
    geo = draw_geometry(rng("geo"), frame, views, crop_low, rotate)
    if not views.one_op:
        return geo, draw_colour(rng("col"), means, jitter)
    warp, factors = draw_operation(rng("op"), rare.shape)
    return warped(geo, warp, frame.size), draw_colour(rng("col"), means, jitter, factors)


def draw_operation(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """One of OPERATIONS a view, of uniform strength: (warp [*shape,2,3], factors [3,*shape]).

    warp: a map of the view about its centre, in sides. factors: of brightness, contrast and saturation.
    In the spirit of TrivialAugment (Müller & Hutter 2021, arXiv:2103.10158).
    """
    chosen = rng.integers(len(OPERATIONS), size=shape)
    strength = rng.uniform(-1, 1, shape)
    by_name = {name: np.where(chosen == number, strength, 0.0) for number, name in enumerate(OPERATIONS)}
    angle = np.deg2rad(ROTATE * by_name["rotate"])
    cos, sin = np.cos(angle), np.sin(angle)
    shear_x, shear_y = SHEAR * by_name["shear x"], SHEAR * by_name["shear y"]
    move_x, move_y = TRANSLATE * by_name["translate x"], TRANSLATE * by_name["translate y"]
    across = np.stack([cos, shear_x - sin, move_x], -1)
    down = np.stack([shear_y + sin, cos, move_y], -1)
    factors = [1 + ENHANCE * by_name[name] for name in COLOURS]
    return np.stack([across, down], -2), np.stack(factors)


def warped(geo: np.ndarray, warp: np.ndarray, size: int) -> np.ndarray:
    """The maps geo [*,2,3] of views of `size` pixels that are then changed by `warp` [*,2,3]; float32."""
    linear = warp[..., :2]
    shift = (warp[..., 2] + 0.5 - linear.sum(-1) / 2) * size  # the centre stays but for the translation
    to_store = geo[..., :2].astype(float)
    moved = geo[..., 2:] + to_store @ shift[..., None]
    both = np.concatenate([to_store @ linear, moved], -1)
    return both.astype(np.float32)


def draw_geometry(
    rng: np.random.Generator, frame: Frame, views: Views, crop_low: np.ndarray, rotate: np.ndarray
) -> np.ndarray:
    """Affine maps geo [*,2,3] float32 from output (x + 1/2, y + 1/2, 1) to Store pixels: crop, resize, flip, rotate.

    crop_low [*]: the least share of the area that a random resized crop shows; views.crop_scale has the largest, and
    where both are 1 it is the centre crop. rotate [*]: degrees, either way. With views.pad the crop has the size that a
    centre crop shows, anywhere within the picture and so many pixels around it. Every mode draws the same numbers, so
    that two settings can be compared picture by picture.
    """
    shape = crop_low.shape
    crop = draw_crop(rng, crop_low, views.crop_scale[1]) * frame.store_size
    place = rng.random((*shape, 2))  # of the window, from the corner at 0 to the one at 1
    if views.pad:
        # At whole pixels, as the padded crops of the CIFAR papers.
        room = frame.store_size + 2 * views.pad - frame.shown
        side = np.full((*shape, 2), float(frame.shown))
        offset = np.floor(place * (room + 1)) - views.pad
    else:
        centred = ((crop_low >= 1) & (views.crop_scale[1] >= 1))[..., None]
        middle = (frame.store_size - frame.shown) // 2
        side = np.where(centred, frame.shown, crop)
        offset = np.where(centred, middle, place * (frame.store_size - side))
    mirror = np.where(rng.random(shape) < 0.5 * views.flip, -1.0, 1.0)  # without --flip the number is drawn too
    angle = np.deg2rad(rng.uniform(-1, 1, shape) * rotate)
    return affine(side, offset, mirror, angle, frame.size)


def draw_crop(rng: np.random.Generator, low: np.ndarray, high: float) -> np.ndarray:
    """(width, height) [*,2] of random resized crops, as shares of the side; their area is from low [*] to high."""
    shape = (*low.shape, TRIES)
    area = rng.uniform(low[..., None], high, shape)
    ratio = np.exp(rng.uniform(*np.log(RATIO), shape))
    width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    sides = np.stack([width, height], -1)
    fits = (sides <= 1).all(-1)  # in the picture
    first = fits.argmax(-1)[..., None, None]
    chosen = np.take_along_axis(sides, first, -2)[..., 0, :]
    any_fits = fits.any(-1)[..., None]
    return np.where(any_fits, chosen, 1.0)


def affine(side: np.ndarray, offset: np.ndarray, mirror: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """Maps [*,2,3] float32 that show the Store's window of `side` [*,2] at `offset` [*,2] in `size` pixels.

    mirror [*]: -1 turns left to right. angle [*]: radians, about the window's centre.
    """
    cos = np.cos(angle)
    sin = np.sin(angle)
    across = np.stack([mirror * cos, -mirror * sin], -1)
    down = np.stack([sin, cos], -1)
    scale = (side / size)[..., None]  # Store pixels by view pixel
    linear = np.stack([across, down], -2) * scale
    # The view's centre, (size / 2, size / 2), meets the window's.
    shift = offset + side / 2 - linear.sum(-1) * size / 2
    geo = np.concatenate([linear, shift[..., None]], -1)
    return geo.astype(np.float32)


def draw_colour(
    rng: np.random.Generator, means: np.ndarray, jitter: np.ndarray, besides: np.ndarray | float = 1.0
) -> np.ndarray:
    """Colour matrices [*,3,4] float32 on RGB in [0,1] for pictures with mean colours `means` [*,3].

    Brightness, contrast and saturation each vary by a factor in 1 +- jitter [*], times `besides` [3,*]. Contrast is
    about the picture's mean grey. The three commute but for clamping, once at the end, so their order is not drawn.
    """
    shape = means.shape[:-1]
    factors = (1 + rng.uniform(-1, 1, (3, *shape)) * jitter) * besides
    bright, contrast, saturate = factors[..., None]
    # Saturation goes from each channel's own value towards the pixel's grey.
    grey = (1 - saturate)[..., None] * GREY
    saturated = grey + saturate[..., None] * np.eye(3)
    matrix = (contrast * bright)[..., None] * saturated
    mean_grey = (means @ GREY)[..., None]
    offset = (1 - contrast) * bright * mean_grey
    offset = np.broadcast_to(offset[..., None], (*shape, 3, 1))
    return np.concatenate([matrix, offset], -1).astype(np.float32)


def draw_erase(rng: np.random.Generator, shape: tuple[int, ...], size: int, erase: float) -> np.ndarray:
    """Boxes [*shape,4] int32 (y0 x0 y1 x1, half-open; empty with probability 1 - erase) of 2 to 33% of the area.

    Zhong et al. 2017, arXiv:1708.04896.
    """
    hit = rng.random(shape) < erase
    area = rng.uniform(*ERASED, shape)
    ratio = np.exp(rng.uniform(*np.log(ERASED_RATIO), shape))
    shares = np.sqrt(np.stack([area * ratio, area / ratio], -1))
    sides = np.rint(np.minimum(shares, 1) * size)
    room = size - sides + 1  # whole pixels that a corner may lie on
    corner = np.floor(rng.random((*shape, 2)) * room)
    box = np.concatenate([corner, corner + sides], -1)
    return np.where(hit[..., None], box, 0).astype(np.int32)


def batch(
    pixels: torch.Tensor,
    row: Any,
    *,
    size: int,
    mean: torch.Tensor,
    std: torch.Tensor,
    border: str = "reflect",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """The network's input [B,3,size,size] of `dtype` and `layout`, for `row`, one step of a plan as tensors.

    pixels: the Store, uint8 [N,S,S,3]. mean, std: tensors [3] of RGB in [0,1]. Each view is sampled bilinearly,
    coloured and clamped to [0,1]; then blended with its partner's, or boxed, erased to the mean, and normalised.
    border: 'reflect' (the edge pixel repeats once) or 'constant' (black). On a GPU that takes it kernels/view.py's one
    launch does it all.
    """
    if kernels.usable(mean.device):
        from kernels import view as kernel

        x = kernel.view(
            pixels,
            row.index,
            row.partner,
            row.blend,
            row.box,
            row.geo,
            row.geo_b,
            row.col,
            row.col_b,
            row.erase,
            mean,
            std,
            size,
            border,
            dtype,
            3,
        )
        return x.contiguous(memory_format=layout)
    return plain(pixels, row, size=size, mean=mean, std=std, border=border).to(dtype, memory_format=layout)


def plain(
    pixels: torch.Tensor, row: Any, *, size: int, mean: torch.Tensor, std: torch.Tensor, border: str = "reflect"
) -> torch.Tensor:
    """`batch` in float32 and plain PyTorch, on any device."""
    x = sampled(pixels, row.index, row.geo, row.col, size, border)
    mixing = ((row.blend < 1) | filled(row.box)).nonzero()[:, 0]  # only these rows need their partner's view
    if len(mixing):
        partner = row.partner[mixing]
        other = sampled(pixels, partner, row.geo_b[mixing], row.col_b[mixing], size, border)
        share = 1 - row.blend[mixing, None, None, None]
        box = row.box[mixing]
        if bool(box.any()):
            boxed = filled(box)[:, None, None, None]
            share = torch.where(boxed, inside(box, size).float(), share)
        x[mixing] = x[mixing].lerp_(other, share.expand_as(other))
    x.sub_(mean.view(1, 3, 1, 1))
    x.div_(std.view(1, 3, 1, 1))
    erasing = filled(row.erase).nonzero()[:, 0]
    if len(erasing):
        erased = inside(row.erase[erasing], size)
        x[erasing] = x[erasing].masked_fill_(erased, 0)  # the mean, once normalised
    return x


def sampled(
    pixels: torch.Tensor, index: torch.Tensor, geo: torch.Tensor, col: torch.Tensor, size: int, border: str
) -> torch.Tensor:
    """Float32 [B,3,size,size] in [0,1]: rows `index` of the Store through geo [B,2,3] and col [B,3,4]."""
    pictures = pixels.index_select(0, index.to(pixels.device)).to(geo.device)
    pictures = pictures.permute(0, 3, 1, 2).contiguous().float()  # grid_sample wants planes, and no bytes
    # grid_sample counts from -1 to 1 across the picture. Each of these is [B,2,1].
    across, down, shift = geo.mul(2 / pictures.shape[-1]).unsqueeze(-2).unbind(-1)
    centres = torch.arange(size, device=geo.device) + 0.5
    along_row = across * centres + shift - 1
    along_column = down * centres
    grid = along_row[:, :, None, :] + along_column[:, :, :, None]
    mode = {"reflect": "reflection", "constant": "zeros"}[border]
    x = F.grid_sample(pictures, grid.permute(0, 2, 3, 1), "bilinear", mode, align_corners=False)
    x = x.view(len(index), 3, -1)
    unchanged = torch.eye(3, 4, device=col.device).expand_as(col)
    if torch.equal(col, unchanged):  # as in evaluation: nothing to colour, and nothing to clamp
        x = x.div_(255)
    else:
        x = torch.baddbmm(col[:, :, 3:], col[:, :, :3] / 255, x).clamp_(0, 1)
    return x.view(-1, 3, size, size)


def filled(box: torch.Tensor) -> torch.Tensor:
    """Which boxes [B,4] have an inside: bool [B]."""
    y0, x0, y1, x1 = box.unbind(1)
    return (y1 > y0) & (x1 > x0)


def inside(box: torch.Tensor, size: int) -> torch.Tensor:
    """Mask bool [B,1,size,size]: True inside each half-open box [B,4] of y0 x0 y1 x1."""
    at = torch.arange(size, device=box.device)
    y0, x0, y1, x1 = box[:, :, None].unbind(1)
    rows = (at >= y0) & (at < y1)
    columns = (at >= x0) & (at < x1)
    mask = rows[:, :, None] & columns[:, None, :]
    return mask[:, None]
