"""Triton kernels, each beside a twin in plain PyTorch that lives with its concern (losses.py, augment.py); and dropout,
which needs none.

`usable` says whether they run on a device. Nothing of ours is imported here or in a kernel's file.
"""

import functools
import importlib
import sys

import torch

OLDEST = (7, 5)  # compute capability, for which the tests build


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernels run on `device`. Where a GPU cannot have them, stderr is told why, once."""
    if device.type != "cuda":
        return False
    reason = _hindrance(device)
    if reason:
        print(f"{device}: no Triton kernels ({reason}); the same arithmetic runs in plain PyTorch", file=sys.stderr)
    return not reason


def _hindrance(device):
    """Why not, in words; empty if nothing stands in the way."""
    if torch.version.hip:
        return "untested on ROCm"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < OLDEST:
        return f"compute capability {major}.{minor}, they take {OLDEST[0]}.{OLDEST[1]} and newer"
    try:
        driver = importlib.import_module("triton.runtime.driver").driver
        driver.active.get_current_target()  # builds Triton's launcher, which needs a C compiler
    except Exception as error:  # whatever it is, plain PyTorch does the work
        return f"Triton does not work here: {type(error).__name__}: {error}"
    return ""
