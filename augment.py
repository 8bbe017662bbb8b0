"""Geometry, colour and erasing: drawn as small matrices on the host, applied in plain PyTorch or by a kernel.

`draw_*` make a plan's columns from a NumPy generator; `batch` turns a row of the plan into the network's input and
draws nothing. Store pixels in, normalised float32 out; no picture file is ever opened here.
"""

import numpy as np
import torch
import torch.nn.functional as F

import kernels

GREY = np.array([0.299, 0.587, 0.114])  # ITU-R 601 luma, as Pillow's and torchvision's greyscale
RATIO = (3 / 4, 4 / 3)  # aspect ratios of random resized crops (Szegedy et al. 2015)


def draw_geometry(rng, shape, *, size, store_size, shown, crop_scale, pad, flip, rotate):
    """Affine maps geo [*shape,2,3] float32 from output (x + 1/2, y + 1/2, 1) to Store pixels: crop, resize, flip, then
    rotate.

    crop_scale: arrays (low, high) broadcast to `shape`, shares of the area; 1, 1 is the centre crop of `shown` pixels.
    pad > 0: a crop of `shown` pixels at a random offset within the picture and `pad` pixels around it. rotate: degrees.
    """
    tries = 10  # as torchvision's RandomResizedCrop: the first that fits, else the whole picture
    low, high = (np.broadcast_to(v, shape)[..., None] for v in crop_scale)
    area = rng.uniform(low, high, (*shape, tries))
    ratio = np.exp(rng.uniform(*np.log(RATIO), (*shape, tries)))
    sides = np.sqrt(np.stack([area * ratio, area / ratio], -1))
    fits = (sides <= 1).all(-1)
    first = np.take_along_axis(sides, fits.argmax(-1)[..., None, None], -2)[..., 0, :]
    side = np.where(fits.any(-1)[..., None], first, 1.0) * store_size
    place = rng.random((*shape, 2))
    if pad:
        side, offset = np.full((*shape, 2), float(shown)), np.floor(place * (store_size + 2 * pad - shown + 1)) - pad
    else:
        centre = (low >= 1) & (high >= 1)
        side, offset = (
            np.where(centre, shown, side),
            np.where(centre, (store_size - shown) // 2, place * (store_size - side)),
        )

    mirror = np.where(rng.random(shape) < 0.5 * flip, -1.0, 1.0)
    angle = np.deg2rad(rng.uniform(-1, 1, shape) * rotate)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = (
        np.stack([np.stack([mirror * cos, -mirror * sin], -1), np.stack([sin, cos], -1)], -2) * (side / size)[..., None]
    )
    shift = offset + side / 2 - linear.sum(-1) * size / 2
    return np.concatenate([linear, shift[..., None]], -1).astype(np.float32)


def draw_colour(rng, means, jitter):
    """Colour matrices [*,3,4] float32 on RGB in [0,1] for pictures with mean colours `means` [*,3].

    Brightness, contrast and saturation each vary by a factor in 1 +- jitter (array or number). Contrast is about the
    picture's mean grey. The three commute but for clamping, which happens once at the end, so their order is not drawn.
    """
    shape = means.shape[:-1]
    bright, contrast, saturate = (1 + rng.uniform(-1, 1, (3, *shape)) * jitter)[..., None]
    grey = (1 - saturate)[..., None] * GREY + saturate[..., None] * np.eye(3)
    offset = (1 - contrast) * bright * (means @ GREY)[..., None]
    matrix = (contrast * bright)[..., None] * grey
    return np.concatenate([matrix, np.broadcast_to(offset[..., None], (*shape, 3, 1))], -1).astype(np.float32)


def draw_erase(rng, shape, *, size, erase):
    """Boxes [*shape,4] int32 (y0 x0 y1 x1, half-open; empty with probability 1 - erase) of 2 to 33% of the area.

    Zhong et al. 2017, arXiv:1708.04896.
    """
    hit = rng.random(shape) < erase
    area = rng.uniform(0.02, 0.33, shape)
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3), shape))
    sides = np.rint(np.minimum(np.sqrt(np.stack([area * ratio, area / ratio], -1)), 1) * size)
    corner = np.floor(rng.random((*shape, 2)) * (size - sides + 1))
    return np.where(hit[..., None], np.concatenate([corner, corner + sides], -1), 0).astype(np.int32)


def batch(pixels, row, *, size, mean, std, border="reflect", dtype=torch.float32):
    """The network's input [B,3,size,size] of `dtype`, channels-last, for `row`, one step's columns of a plan as
    tensors.

    pixels: the Store, uint8 [N,S,S,3]. mean, std: tensors [3] of RGB in [0,1]. Each view is sampled bilinearly,
    coloured and clamped to [0,1]; then mixed or boxed with its partner's, erased to the mean, and normalised. border:
    'reflect' (the edge pixel repeats once) or 'constant' (black). On a GPU that takes it kernels/view.py's one launch
    does it all.
    """
    if kernels.usable(mean.device):
        from kernels import view as kernel

        return kernel.view(
            pixels,
            row.index,
            row.partner,
            row.lam,
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
    return plain(pixels, row, size=size, mean=mean, std=std, border=border).to(dtype)


def plain(pixels, row, *, size, mean, std, border="reflect"):
    """`batch` in float32 and plain PyTorch, on any device."""
    x = views(pixels, row.index, row.geo, row.col, size, border)
    mixing = (row.lam < 1).nonzero()[:, 0]
    if len(mixing):
        other = views(pixels, row.partner[mixing], row.geo_b[mixing], row.col_b[mixing], size, border)
        share, box = 1 - row.lam[mixing, None, None, None], row.box[mixing]
        if bool(box.any()):
            share = torch.where(filled(box)[:, None, None, None], inside(box, size).float(), share)
        x[mixing] = x[mixing].lerp_(other, share.expand_as(other))
    x = x.sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
    erasing = filled(row.erase).nonzero()[:, 0]
    if len(erasing):
        x[erasing] = x[erasing].masked_fill_(inside(row.erase[erasing], size), 0)  # the mean, once normalised
    return x.to(memory_format=torch.channels_last)


def views(pixels, index, geo, col, size, border):
    """Float32 [B,3,size,size] in [0,1]: rows `index` of the Store through geo [B,2,3] and col [B,3,4]."""
    pictures = pixels.index_select(0, index.to(pixels.device)).to(geo.device).permute(0, 3, 1, 2).contiguous().float()
    centres = torch.arange(size, device=geo.device) + 0.5
    across, down, shift = (
        geo.mul(2 / pictures.shape[-1]).unsqueeze(-2).unbind(-1)
    )  # [B,2,1] each, in grid_sample's units
    grid = (across * centres + shift - 1)[:, :, None, :] + (down * centres)[:, :, :, None]
    mode = {"reflect": "reflection", "constant": "zeros"}[border]
    x = F.grid_sample(pictures, grid.permute(0, 2, 3, 1), "bilinear", mode, align_corners=False).view(len(index), 3, -1)
    if torch.equal(col, torch.eye(3, 4, device=col.device).expand_as(col)):
        return x.div_(255).view(-1, 3, size, size)
    return torch.baddbmm(col[:, :, 3:], col[:, :, :3] / 255, x).clamp_(0, 1).view(-1, 3, size, size)


def filled(box):
    """Which boxes [B,4] have an inside: bool [B]."""
    return (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])


def inside(box, size):
    """Mask bool [B,1,size,size]: True inside each half-open box [B,4] of y0 x0 y1 x1."""
    at = torch.arange(size, device=box.device)
    y0, x0, y1, x1 = box[:, :, None].unbind(1)
    rows, columns = (at >= y0) & (at < y1), (at >= x0) & (at < x1)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
