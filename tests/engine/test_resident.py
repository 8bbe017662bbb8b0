"""The Store on a device: levels against Pillow's own antialiasing, sharing, and what happens where a GPU is too
small."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine import resident

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(resident, "HELD", {})


def store(n=5, side=73, key="a"):
    pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    return SimpleNamespace(pixels=pixels, key=key)


@pytest.mark.parametrize("side", [8, 73, 256])
def test_halved_as_pillow_shrinks(side, monkeypatch):
    monkeypatch.setattr(resident, "CHUNK", 2)
    pixels = store(side=side).pixels
    found = resident.halved(torch.from_numpy(pixels), CPU).numpy()
    half = side // 2
    theirs = np.stack([Image.fromarray(p).resize((half, half), Image.Resampling.BILINEAR) for p in pixels])
    assert found.shape == (5, half, half, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - theirs).max() <= 1


def test_a_flat_picture_stays_what_it_is():
    flat = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(2, 16, 16, 3)
    assert torch.equal(resident.halved(flat, CPU), flat[:, :8, :8])


def test_levels_are_made_once_and_only_the_last_store_is_held():
    first, second = store(), store(key="b")
    own = resident.levels(first, CPU)
    assert list(own) == [73] and own[73].data_ptr() == first.pixels.ctypes.data  # a CPU reads the file's map itself
    more = resident.levels(first, CPU, [73, 18])
    assert list(more) == [73, 36, 18] and more[73] is own[73]
    assert torch.equal(more[18], resident.halved(more[36], CPU))
    assert resident.levels(first, CPU, [36])[36] is more[36]
    resident.levels(second, CPU)
    assert [key for key, _ in resident.HELD] == ["b"]


@pytest.mark.parametrize("free, pinned", [(10**6, False), (10**5, True)])
def test_what_does_not_fit_stays_in_pinned_memory_and_that_is_said(free, pinned, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**7))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: calls.append("copied") or self)
    waited = SimpleNamespace(synchronize=lambda: calls.append("waited"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: waited)
    resident.levels(store(n=10, side=100), torch.device("cuda"))  # 300,000 bytes
    said = capsys.readouterr().err
    assert calls == ["emptied", "pinned" if pinned else "copied", "waited"]  # other streams may read it from now on
    assert ("pinned host memory" in said) == pinned and said.count("\n") == pinned


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pinned_store_gives_what_a_resident_one_does(monkeypatch):
    device, made = torch.device("cuda"), store()
    near = resident.levels(made, device, [36])
    monkeypatch.setattr(resident, "HELD", {})
    monkeypatch.setattr(resident, "ROOM", 0.0)
    far = resident.levels(made, device, [36])
    for side in (73, 36):
        assert near[side].is_cuda and far[side].is_pinned()
        assert (near[side].cpu().int() - far[side].int()).abs().max() <= 1
