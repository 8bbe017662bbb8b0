"""A counter-based hash in plain PyTorch: the same bits on every device, drawn from no generator."""

import torch


def counter_hash(
    key: torch.Tensor, layer: int, rows: int, units: int, row_start: int = 0, row_stride: int = 1
) -> torch.Tensor:
    """int64 [rows, units] in [0, 2^32), the same on every device: starting from key, SplitMix64 (Steele et al. 2014)
    mixes its state and takes in the layer, the row and the unit one after another by addition, all modulo 2^64."""
    row = torch.arange(rows, device=key.device) * row_stride
    unit = torch.arange(units, device=key.device)
    state = _mix(_mix(key) + layer)
    state = _mix(state + row + row_start)
    state = _mix(state[:, None] + unit)
    return _shift_right(state, 32)


def _mix(x):
    """SplitMix64's step; its constants are written as the int64 of the same bits."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift_right(x, 31)


def _shift_right(x, n):
    """x >> n without the sign, which int64 would copy down."""
    return (x >> n) & (2 ** (64 - n) - 1)
