"""Geometry, colour and erasing: drawn as small matrices on the host, applied in plain PyTorch.

`draw_*` make a plan's columns from a NumPy generator; `batch` turns a row of the plan into the network's input and draws
nothing. Store pixels in, normalised float32 out; no picture file is ever opened here.
"""

import numpy as np
import torch
import torch.nn.functional as F

GREY = np.array([0.299, 0.587, 0.114])  # ITU-R 601 luma, as Pillow's and torchvision's greyscale
RATIO = (3 / 4, 4 / 3)  # aspect ratios of random resized crops (Szegedy et al. 2015)


def draw_geometry(rng, shape, *, size, store_size, crop_scale, pad, flip, rotate):
    """Affine maps geo [*shape,2,3] float32 from output (x + 1/2, y + 1/2, 1) to Store pixels: crop, resize, flip, then rotate.

    crop_scale: arrays (low, high) broadcast to `shape`, shares of the area; 1, 1 is the centre crop of `size` pixels.
    pad > 0: a crop of `size` pixels at a random offset within the picture and `pad` pixels around it. rotate: degrees.
    """
    tries = 10  # as torchvision's RandomResizedCrop: the first that fits, else the whole picture
    low, high = (np.broadcast_to(v, shape)[..., None] for v in crop_scale)
    area = rng.uniform(low, high, (*shape, tries))
    ratio = np.exp(rng.uniform(*np.log(RATIO), (*shape, tries)))
    sides = np.sqrt(np.stack([area * ratio, area / ratio], -1))
    fits = (sides <= 1).all(-1)
    first = np.take_along_axis(sides, fits.argmax(-1)[..., None, None], -2)[..., 0, :]
    side = np.where(fits.any(-1)[..., None], first, 1.0) * store_size
    offset = rng.random((*shape, 2)) * (store_size - side)
    if pad:
        room = store_size + 2 * pad - size
        side, offset = np.full((*shape, 2), float(size)), rng.integers(0, room + 1, (*shape, 2)) - float(pad)
    else:
        centre = (low >= 1) & (high >= 1)
        side, offset = np.where(centre, size, side), np.where(centre, (store_size - size) // 2, offset)

    mirror = np.where(rng.random(shape) < 0.5, -1.0, 1.0) if flip else np.ones(shape)
    angle = np.deg2rad(rng.uniform(-1, 1, shape) * rotate)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.stack([np.stack([mirror * cos, -mirror * sin], -1), np.stack([sin, cos], -1)], -2) * (side / size)[..., None]
    shift = offset + side / 2 - linear.sum(-1) * size / 2
    return np.concatenate([linear, shift[..., None]], -1).astype(np.float32)


def draw_colour(rng, means, jitter):
    """Colour matrices [*,3,4] float32 on RGB in [0,1] for pictures with mean colours `means` [*,3].

    Brightness, contrast and saturation each vary by a factor in 1 +- jitter (array or number). Contrast is about the picture's
    mean grey. The three commute but for clamping, which happens once at the end, so their order is not drawn.
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


def batch(pixels, row, *, size, mean, std, border="reflect"):
    """The network's input float32 [B,3,size,size], channels-last, for `row`, one step's columns of a plan as tensors.

    pixels: the Store, uint8 [N,S,S,3]. mean, std: tensors [3] of RGB in [0,1]. Each view is sampled bilinearly, coloured and
    clamped to [0,1]; then mixed or boxed with its partner's, erased to the mean, and normalised. border: 'reflect' (the edge
    pixel repeats once) or 'constant' (black).
    """
    x = views(pixels, row.index, row.geo, row.col, size, border)
    mixing = (row.lam < 1).nonzero()[:, 0]
    if len(mixing):
        other = views(pixels, row.partner[mixing], row.geo_b[mixing], row.col_b[mixing], size, border)
        lam, box = row.lam[mixing, None, None, None], row.box[mixing]
        blend = torch.where(boxed(box, size).any(dim=(1, 2, 3), keepdim=True), boxed(box, size).to(lam.dtype), 1 - lam)
        x[mixing] = torch.lerp(x[mixing], other, blend)
    x = x.sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
    erasing = (row.erase[:, 2] > row.erase[:, 0]).nonzero()[:, 0]
    if len(erasing):
        x[erasing] = x[erasing].masked_fill(boxed(row.erase[erasing], size), 0)  # the mean, once normalised
    return x


def views(pixels, index, geo, col, size, border):
    """Float32 [B,3,size,size] in [0,1], channels-last: rows `index` of the Store through geo [B,2,3] and col [B,3,4]."""
    out = torch.empty(len(index), 3, size, size, memory_format=torch.channels_last, device=pixels.device)
    copied = aligned(geo, pixels.shape[1], size) if pixels.device.type == "cpu" else torch.zeros(len(index), dtype=torch.bool)
    for i in copied.nonzero()[:, 0].tolist():  # whole-pixel crops and flips: a copy, no arithmetic
        (fx, _, x0), (_, _, y0) = geo[i].tolist()
        x0, y0 = int(x0) - (size if fx < 0 else 0), int(y0)
        crop = pixels[index[i], y0 : y0 + size, x0 : x0 + size]
        out[i] = (crop.flip(1) if fx < 0 else crop).permute(2, 0, 1)
    rest = (~copied).nonzero()[:, 0].to(index.device)
    if len(rest):
        out[rest] = sample(pixels[index[rest].long()], geo[rest], size, border)
    identity = torch.eye(3, 4, device=col.device)
    if bool((col == identity).all()):
        return out.div_(255)
    flat = out.permute(0, 2, 3, 1).reshape(len(index), -1, 3)
    flat = torch.baddbmm(col[:, None, :, 3], flat, col[:, :, :3].transpose(1, 2) / 255).clamp_(0, 1)
    return flat.view(-1, size, size, 3).permute(0, 3, 1, 2)


def sample(pictures, geo, size, border):
    """Bilinear samples, float32 [B,3,size,size] in [0,255], of uint8 pictures [B,S,S,3]."""
    side = pictures.shape[1]
    centres = torch.arange(size, device=geo.device) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    grid = (points @ geo.transpose(1, 2)).view(len(geo), size, size, 2) * (2 / side) - 1
    mode = {"reflect": "reflection", "constant": "zeros"}[border]
    return F.grid_sample(pictures.permute(0, 3, 1, 2).float(), grid, "bilinear", mode, align_corners=False)


def aligned(geo, side, size):
    """Which maps [B,2,3] are whole-pixel crops inside the picture, flipped or not: bool [B]."""
    linear, shift = geo[:, :, :2], geo[:, :, 2]
    start = shift - (linear[:, :, 0].clamp(max=0) * -size)
    plain = (linear[:, 0, 0].abs() == 1) & (linear[:, 1, 1] == 1) & (linear[:, 0, 1] == 0) & (linear[:, 1, 0] == 0)
    return plain & ((start == start.round()) & (start >= 0) & (start + size <= side)).all(1)


def boxed(box, size):
    """Mask bool [B,1,size,size]: True inside each half-open box [B,4] of y0 x0 y1 x1."""
    at = torch.arange(size, device=box.device)
    y0, x0, y1, x1 = box[:, :, None].unbind(1)
    rows, columns = (at >= y0) & (at < y1), (at >= x0) & (at < x1)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
