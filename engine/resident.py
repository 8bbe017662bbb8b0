"""The Store where training reads it: on the device, in pinned host memory where that is too small, halved for small
views.

Trials of one process that take turns share one copy. Knows nothing of plans and networks, and decodes nothing.
"""

import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pictures.store import Store

ROOM = 0.75  # of a GPU's free memory may hold pictures; the rest is for training
CHUNK = 256  # pictures halved at a time
HELD = {}  # (Store's key, device) -> its levels, of the last Store that was asked for


def levels(store: Store, device: torch.device, sides: Sequence[int] = ()) -> dict[int, torch.Tensor]:
    """{side: uint8 [N,side,side,3]} of a Store, at its own side and at `sides`, which come of it by halving.

    Tensors on `device`. Where a GPU has too little free memory they stay in pinned host memory, which its kernels
    read, and stderr is told.
    """
    key = (store.key, str(device))
    if key not in HELD:
        HELD.clear()  # before the new one is put there: two Stores may not fit
        HELD[key] = {store.pixels.shape[1]: _put(torch.from_numpy(store.pixels), device)}
    held = HELD[key]
    smallest = min(held)
    while sides and smallest > min(sides):
        held[smallest // 2] = halved(held[smallest], device)
        smallest //= 2
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # other trials read them from streams of their own
    return held


def halved(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 [N,S//2,S//2,3] of uint8 [N,S,S,3], antialiased (a triangle filter), where `pixels` is; computed on
    `device`."""
    side = pixels.shape[1] // 2
    shape = (len(pixels), side, side, 3)
    small = torch.empty(shape, dtype=torch.uint8, device=pixels.device, pin_memory=pixels.is_pinned())
    for start in range(0, len(pixels), CHUNK):  # a chunk in float32 is four times its bytes
        chunk = pixels[start : start + CHUNK].to(device).permute(0, 3, 1, 2).float()
        half = F.interpolate(chunk, (side, side), mode="bilinear", antialias=True)
        small[start : start + CHUNK] = half.round_().permute(0, 2, 3, 1).to(small.device, torch.uint8)
    return small


def _put(pixels, device):
    if device.type != "cuda":
        return pixels.to(device)  # on a CPU the Store's file itself, mapped into memory
    torch.cuda.empty_cache()  # what torch keeps for later is not counted as free
    free, _ = torch.cuda.mem_get_info(device)
    if pixels.nbytes <= ROOM * free:
        return pixels.to(device)
    print(
        f"the decoded pictures take {pixels.nbytes / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB "
        "free: they stay in pinned host memory, and training reads them from there",
        file=sys.stderr,
    )
    return pixels.pin_memory()
