"""The Store where training reads it: on the device, in pinned host memory where that is too small, halved for small
views.

Trials of one process that take turns share one copy. Knows nothing of plans and networks, and decodes nothing.
"""

import sys

import torch
import torch.nn.functional as F

ROOM = 0.75  # of a GPU's free memory may hold pictures; the rest is for training
CHUNK = 256  # pictures halved at a time
HELD = {}  # (Store's key, device) -> its levels, of the last Store that was asked for


def levels(store, device, sides=()):
    """{side: uint8 [N,side,side,3]} of a store.Store, at its own side and at `sides`, which come of it by halving.

    Tensors on `device`, a torch.device; where a GPU has too little free memory they stay in pinned host memory, which
    its kernels read, and stderr is told.
    """
    at = store.key, str(device)
    if at not in HELD:
        HELD.clear()
        HELD[at] = {store.pixels.shape[1]: _put(torch.from_numpy(store.pixels), device)}
    found = HELD[at]
    while min(found) > min(sides, default=min(found)):
        found[min(found) // 2] = halved(found[min(found)], device)
    return found


def halved(pixels, device):
    """uint8 [N,S//2,S//2,3] of uint8 [N,S,S,3], antialiased (a triangle filter), where `pixels` is; computed on
    `device`."""
    side = pixels.shape[1] // 2
    made = torch.empty(
        len(pixels), side, side, 3, dtype=torch.uint8, device=pixels.device, pin_memory=pixels.is_pinned()
    )
    for i in range(0, len(pixels), CHUNK):
        part = pixels[i : i + CHUNK].to(device).permute(0, 3, 1, 2).float()
        small = F.interpolate(part, (side, side), mode="bilinear", antialias=True)
        made[i : i + CHUNK] = small.round_().permute(0, 2, 3, 1).to(made.device, torch.uint8)
    return made


def _put(pixels, device):
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later is not counted as free
        free, _ = torch.cuda.mem_get_info(device)
        if pixels.nbytes > ROOM * free:
            print(
                f"the decoded pictures take {pixels.nbytes / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB "
                "free: they stay in pinned host memory, and training reads them from there",
                file=sys.stderr,
            )
            return pixels.pin_memory()
    return pixels.to(device)
