"""Where to compute, and how: the device, its precision, and whether it computes the same way every time.

Knows nothing of networks and data.
"""

import os
from contextlib import nullcontext

import torch

from errors import ConfigError

THREADS = torch.get_num_threads()  # what --threads 0 means, read before anything sets another number


def pick_device(name):
    """torch.device for 'auto', 'cuda', 'mps' or 'cpu'; ConfigError if it is not there."""
    there = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), cpu=True)
    if name == "auto":
        name = next(n for n, found in there.items() if found)
    if not there[name]:
        raise ConfigError(f"--device {name}: this PyTorch finds none; --device auto takes what there is")
    return torch.device(name)


def precision(device, amp):
    """The dtype that convolutions compute in: with `amp` the one whose arithmetic the hardware has, so that it gains
    speed. bfloat16, on older GPUs float16, else float32."""
    native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    if not amp or not (native or device.type == "cuda"):
        return torch.float32
    return torch.bfloat16 if native else torch.float16


def autocast(device, dtype):
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def input_dtype(device, dtype):
    """What the network's input is stored as. On a GPU autocast would narrow it in a pass of its own."""
    return dtype if device.type == "cuda" else torch.float32


def repeatable(wanted):
    """Sets, for the process, whether a GPU takes algorithms that give the same bits every time, or the fastest."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.backends.cudnn.benchmark = not wanted
    torch.utils.deterministic.fill_uninitialized_memory = False  # every cell is written before it is read
    if torch.are_deterministic_algorithms_enabled() != wanted:  # asking imports inductor, whose autotuning it turns off
        torch.use_deterministic_algorithms(wanted)
