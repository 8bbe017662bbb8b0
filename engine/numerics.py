"""Where to compute, and how: the device, its precision, and whether it computes the same way every time.

Knows nothing of networks and data.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from errors import ConfigError

LAYOUTS = dict(channels_last=torch.channels_last, contiguous=torch.contiguous_format)
THREADS = torch.get_num_threads()  # what --threads 0 means, read before anything sets another number


def pick_device(name: str) -> torch.device:
    """torch.device for 'auto' (the first there is of 'cuda', 'mps' and 'cpu'), or for one of these; ConfigError if it
    is not there."""
    found = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), cpu=True)
    if name == "auto":
        available = [device for device in found if found[device]]
        name = available[0]
    if not found[name]:
        raise ConfigError(f"--device {name}: this PyTorch finds none; --device auto takes what there is")
    return torch.device(name)


def precision(device: torch.device, amp: bool) -> torch.dtype:
    """The dtype that convolutions compute in: with `amp` the one whose arithmetic the hardware has, so that it gains
    speed. bfloat16, on older GPUs float16, else float32."""
    if not amp:
        return torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)  # emulated bfloat16 is slower than float16
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """A context in which convolutions and products compute in `dtype`; with float32 it changes nothing."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def input_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What the network's input is stored as. On a GPU autocast would narrow it in a pass of its own."""
    return dtype if device.type == "cuda" else torch.float32


def repeatable(wanted: bool) -> None:
    """Sets, for the process, whether a GPU takes algorithms that give the same bits every time, or the fastest."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.backends.cudnn.benchmark = not wanted
    torch.utils.deterministic.fill_uninitialized_memory = False  # every cell is written before it is read
    if torch.are_deterministic_algorithms_enabled() != wanted:  # asking imports inductor, whose autotuning it turns off
        torch.use_deterministic_algorithms(wanted)
