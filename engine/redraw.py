"""Batches of a plan for people: as text, as pixels; the first one of a run drawn again from what its folder says."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

import augment
from config import Config
from data import Pictures, sizes
from engine.build import plans_of
from engine.folder import Folder
from engine.resident import halved
from errors import LongtailError
from pictures.decode import decode
from pictures.listing import Listing
from plan import Plan, store_level

MOST = 32  # rows of a batch that a page shows


class Seen(NamedTuple):
    """A row of a batch, as the network saw it."""

    pixels: np.ndarray  # uint8 [size, size, 3]
    own: str  # its class
    partner: str
    lam: float  # the weight of `own`


def first_batch(run: Folder, config: Config, listed: Listing) -> list[Seen]:
    """The first rows of the first step, MOST at the most; erased parts are grey.

    config: the run's; listed: the pictures of its data. Raises LongtailError where they are others than the run's, or
    cannot be read. Of the data only these pictures are read.
    """
    part_of = {path: part for path, _, part in run.split}
    if list(part_of) != listed.paths or listed.classes != run.classes:
        raise LongtailError("the folder holds other pictures than the run was trained on")
    train = np.array([row for row, path in enumerate(listed.paths) if part_of[path] == "train"])
    counts = np.bincount(listed.labels[train], minlength=len(listed.classes))
    size, side = sizes(listed.files, config.img_size)
    means = np.zeros((len(listed.paths), 3), np.float32)
    store = SimpleNamespace(pixels=np.empty((0, side)), means=means)
    pictures = Pictures(listed.root, listed, store, size, train, train[:0], counts, [], [], [])
    # Which pictures come first does not depend on what they look like; their colours do, so it is drawn twice.
    step = plans_of(config, pictures)[0](0)
    used = np.union1d(step.index[0, :MOST], step.partner[0, :MOST])
    pixels = np.stack([decode(listed.files[row], side, config.resize) for row in used])
    means[used] = pixels.mean((1, 2)) / 255
    step = plans_of(config, pictures)[0](0)

    step = Plan(*(table[0, :MOST] if table.ndim > 1 else table[0] for table in step))
    pixels = torch.from_numpy(pixels)
    while pixels.shape[1] > store_level(int(step.view_size), side):
        pixels = halved(pixels, torch.device("cpu"))
    border = config.border()
    grey = [0.5] * 3
    tiles = denormalised(step, pixels, used, size=int(step.view_size), mean=grey, std=grey, border=border)
    names = [listed.classes[label] for label in listed.labels]
    return [
        Seen(tile, names[a], names[b], float(lam)) for tile, a, b, lam in zip(tiles, step.index, step.partner, step.lam)
    ]


def denormalised(
    step: Plan, pixels: torch.Tensor, used: np.ndarray, *, size: int, mean: list[float], std: list[float], border: str
) -> np.ndarray:
    """One step's rows as the network sees them, back in colours that an eye can judge: uint8 [B, size, size, 3].

    pixels: uint8 [R, S, S, 3] of the Store's rows `used` [R], sorted, which hold all that the step needs.
    """
    index, partner = np.searchsorted(used, step.index), np.searchsorted(used, step.partner)
    step = Plan(*map(torch.tensor, step._replace(index=index, partner=partner)))
    mean, std = torch.tensor(mean), torch.tensor(std)
    x = augment.batch(pixels, step, size=size, mean=mean, std=std, border=border)
    rgb = x.permute(0, 2, 3, 1) * std + mean
    return rgb.mul(255).round().clamp(0, 255).byte().numpy()


def lines(plan: Plan, t: int, listed: Listing, *, store_size: int) -> Iterator[str]:
    """Step t as text: a title, a header and a line a row. scale: share of the Store's area that the view shows."""
    labels = listed.labels
    names = [fitted(name, 24, len) for name in listed.classes]
    width = max(map(len, names))
    rate, size = plan.lr[t], plan.view_size[t]
    yield f"batch {t + 1} of {len(plan.index)}, learning rate {rate:.4g}, {size:.0f} px"
    head = f"     row  {'class':{width}}  {'partner':{width}}    lam"
    yield f"{head}  {'box y, x':17}  mirror  scale  {'erase y, x':17}  file"
    for b, row in enumerate(plan.index[t]):
        own = names[labels[row]]
        partner = names[labels[plan.partner[t, b]]] if plan.blend[t, b] < 1 else "-"
        # The determinant of view -> Store is the area that a pixel of the view covers, negative for a mirror image.
        to_store = plan.geo[t, b, :, :2].astype(float)
        zoom = np.linalg.det(to_store) * (size / store_size) ** 2
        mirror = "yes" if zoom < 0 else "-"
        box = span(plan.box[t, b])
        erased = span(plan.erase[t, b])
        yield (
            f"{row:8}  {own:{width}}  {partner:{width}}  {plan.lam[t, b]:.3f}  "
            f"{box:17}  {mirror:6}  {abs(zoom):5.2f}  {erased:17}  {listed.paths[row]}"
        )


def span(box: np.ndarray) -> str:
    """A box [4] as 'y0:y1, x0:x1', '-' if it is empty."""
    y0, x0, y1, x1 = box
    return f"{y0}:{y1}, {x0}:{x1}" if y0 < y1 and x0 < x1 else "-"


def fitted(name: str, room: float, measure: Callable[[str], float]) -> str:
    """`name`, its end an ellipsis where `measure` of it passes `room`."""
    short = name
    end = len(name)
    while measure(short) > room and end > 0:
        end -= 1
        short = name[:end].rstrip() + "…"
    return short
