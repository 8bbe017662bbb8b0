"""What of a picture evaluation shows, and a network's logits for it: the same step again and again, captured once on
CUDA."""

import functools
import warnings
from collections.abc import Callable

import numpy as np
import torch

import augment
from engine.numerics import autocast, input_dtype
from engine.tables import Tables
from metrics import log_softmax
from plan import Plan


def shown(views: augment.Views, size: int, store_size: int) -> int:
    """The side in Store pixels of what evaluation shows of a picture, in its middle, to a network for `size` pixels.

    Where training's views are random resized crops it is the whole picture: that measured better (bench/shown.py), for
    crops come from everywhere and are themselves resized. Else it is as much as training's own views show.
    """
    return store_size if resized(views) else size


def resized(views: augment.Views) -> bool:
    """Whether views are random resized crops of the picture, not a window of one size."""
    return not views.pad and tuple(views.crop_scale) != (1, 1)


def averaged(logits: list[np.ndarray]) -> np.ndarray:
    """Logits [N, C] of the mean posterior of several views; those of a single one as they are, log p of more.

    Posteriors are averaged, not logits: a view with large logits does not outvote the others.
    """
    if len(logits) == 1:
        return logits[0]
    mean = np.logaddexp.reduce([log_softmax(each) for each in logits]) - np.log(len(logits))
    return mean.astype(logits[0].dtype)


def view(
    device: torch.device,
    *,
    size: int,
    mean: list[float],
    std: list[float],
    border: str,
    layout: torch.memory_format = torch.channels_last,
) -> dict:
    """The arguments of augment.batch that stay the same through a run, on `device`."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device) for v in (mean, std))
    return dict(size=size, mean=mean, std=std, border=border, layout=layout)


def forward(model: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Logits, computed in `dtype`. Compiled, it is one function for every model: autocast is entered inside, so that
    no graph is cut there."""
    with autocast(x.device, dtype):  # float32 masters, arithmetic in `dtype`
        return model(x)


@functools.cache
def compiled() -> Callable:
    """`forward` by inductor. Compiling again and again raises: it would be a slow run.

    Dynamo's limit of 8 is too small for the networks, batches and sizes of a study's trials that share a process.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = 64
    warnings.filterwarnings("ignore", message="TensorFloat32")  # the network computes in bfloat16 or float16
    return torch.compile(forward, dynamic=False)


class Evaluation:
    """The logits of `model` over evaluation plans that have the shape of `plan`."""

    def __init__(self, model, pixels, plan, view, *, dtype, forward=forward, record=None):
        self.model = model.eval()  # a captured step keeps the mode of its recording
        self.pixels = pixels
        self.view = view
        self.dtype = dtype
        self.forward = forward
        self.device = view["mean"].device
        self.logits = None  # [T,B,C], made by the first step
        self.tables = Tables(plan, self.device)
        # The same step for every batch, so that one recording serves them all.
        self.call = record(self.step) if record else self.step

    @torch.inference_mode()
    def run(self, plan: Plan, rows: int, pause: Callable = lambda: None) -> np.ndarray:
        """Float32 NumPy array [rows,C]. `pause` is called between batches."""
        self.model.eval()
        self.tables.fill(plan)
        for _ in range(len(plan.index)):
            self.call()
            pause()
        return self.logits.flatten(0, 1)[:rows].cpu().numpy()  # without the padding of the last batch

    def step(self) -> None:
        row = self.tables.take()
        x = augment.batch(self.pixels, row, **self.view, dtype=input_dtype(self.device, self.dtype))
        # Metrics are computed from float32, whatever the network computes in.
        found = self.forward(self.model, x, self.dtype).float()
        if self.logits is None:
            self.logits = found.new_empty(len(self.tables.packed), *found.shape)
        self.logits.index_copy_(0, self.tables.at, found[None])
        self.tables.at.add_(1)


def logits(
    model: torch.nn.Module, pixels: torch.Tensor, plan: Plan, rows: int, view: dict, *, dtype: torch.dtype
) -> np.ndarray:
    """Float32 logits [rows,C], a NumPy array, of `model` over an evaluation plan, once and eagerly."""
    return Evaluation(model, pixels, plan, view, dtype=dtype).run(plan, rows)
