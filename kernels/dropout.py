"""Dropout by a counter-based hash, in plain PyTorch: the same bits on every device, drawn from no generator."""

import math

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each unit with probability p and scales the rest by 1 / (1 - p); the identity in eval mode.

    A unit of row i stays when a hash of (key, layer, i, unit), read as a fraction of 2^32, is at least p. `share` says
    what falls together: "unit", "row" (all units of a row: stochastic depth, Huang et al. 2016) or "batch"
    (everything). `build_model` sets `layer` and `owner`, the model whose `key` is read: a buffer here would become a
    copy at `.to(device)`."""

    def __init__(self, p: float, share: str = "unit"):
        super().__init__()
        self.p = p
        self.share = share  # what falls together

    @property
    def p(self) -> float:
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        """Keeps what a forward needs as tensors: networks that differ in p alone then share what is compiled. They stay
        on the CPU and are no buffers: kernels take them as numbers, and no move of the model loses them."""
        self._p = p
        self.idle = p == 0
        bound = torch.tensor(round(p * 2**32))
        scale = torch.tensor(1 / (1 - p) if p < 1 else 0.0)  # at p = 1 nothing is left to scale
        self.held = (bound, scale)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.idle:
            return x
        ones = [1] * (x.ndim - 1)
        shapes = {"unit": x.shape, "row": (len(x), *ones), "batch": (1, *ones)}
        rows, *units = shapes[self.share]
        model = self.owner[0]
        # A fresh mask for every key; the same one for the same key, on any device.
        bits = counter_hash(model.key, self.layer, rows, math.prod(units), model.row_start, model.row_stride)
        bound, scale = self.held
        return x * (bits.view(rows, *units) >= bound) * scale

    def extra_repr(self) -> str:
        return f"p={self.p}, share={self.share}"


def counter_hash(
    key: torch.Tensor, layer: int, rows: int, units: int, row_start: int = 0, row_stride: int = 1
) -> torch.Tensor:
    """int64 [rows, units] in [0, 2^32), the same on every device: starting from key, SplitMix64 (Steele et al. 2014)
    mixes its state and takes in the layer, the row and the unit one after another by addition, all modulo 2^64."""
    # Integers alone: floats would round differently from one device to the next.
    row = torch.arange(rows, device=key.device) * row_stride
    unit = torch.arange(units, device=key.device)
    state = _mix(_mix(key) + layer)
    state = _mix(state + row + row_start)
    state = _mix(state[:, None] + unit)
    return _shift_right(state, 32)  # the upper half, which mixing reaches best


def _mix(x):
    """SplitMix64's step; its constants are written as the int64 of the same bits."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift_right(x, 31)  # int64 wraps as the uint64 of the paper does


def _shift_right(x, n):
    """x >> n without the sign, which int64 would copy down."""
    return (x >> n) & (2 ** (64 - n) - 1)
