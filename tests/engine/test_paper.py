"""What a network's shapes tell before anything is trained: above all where a CPU's bfloat16 leaves memory unwritten."""

import importlib
import itertools
import json
from pathlib import Path

import pytest
import torch

import train
from config import Config
from engine.paper import strides_beyond_map
from errors import ConfigError, LongtailError
from model import build_model
from study.begin import begin_study


def smallest_without(name, **more):
    """The smallest input, in px, at which no strided convolution of the network meets a shorter map."""
    with torch.device("meta"):
        network = build_model(name, 5, width=0.125, **more)
    return next(size for size in range(1, 100) if not strides_beyond_map(network, size))


def test_maps_shorter_than_a_stride_are_found():
    """By hand: each of the halvings before the last one rounds up, and the last must see 2x2. Before it the ImageNet
    stem and two stages halve four times, 17 9 5 3 2; the CIFAR stem twice, 5 3 2; resnet32 once, 3 2."""
    assert smallest_without("resnet18") == 17
    assert smallest_without("resnet18", stem_kernel=3) == 17
    assert smallest_without("resnet18", stem="cifar") == 5
    assert smallest_without("resnet32") == 3
    with torch.device("meta"):
        network = build_model("resnet18", 5, width=0.125)
    assert strides_beyond_map(network, 16) == "layer4.0.conv1 strides by 2 over a map of 1x1"
    assert strides_beyond_map(network, 8).startswith("layer3.0.conv1 ")
    assert network.training and not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_that_takes_no_picture_of_this_size_is_refused():
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 11))
    with pytest.raises(LongtailError, match="takes no pictures of 10 px .*: give a larger --img-size"):
        strides_beyond_map(network, 10)


def test_torchvisions_networks_can_be_asked(torchvision):
    for name in ("squeezenet1_0", "mobilenet_v3_small", "shufflenet_v2_x0_5"):
        with torch.device("meta"):
            network = build_model(name, 5)
        assert strides_beyond_map(network, 224) == "", name
    assert "a map of 1x1" in strides_beyond_map(network, 16)
    with torch.device("meta"):
        network = build_model("vit_b_16", 5)
    with pytest.raises(LongtailError, match="Wrong image height.*: give"):
        strides_beyond_map(network, 32)


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_the_shapes_allow_is_written(channels_last):
    """Weight gradients in bfloat16 of every small map that is as long as the stride, against float64; memory that was
    freed before is full of large numbers."""
    for kernel, stride, side in itertools.product((1, 3, 5, 7), (1, 2, 3, 4), (1, 2, 3, 4, 5)):
        if side < stride or side + kernel // 2 * 2 < kernel:
            continue
        torch.manual_seed(0)
        x, weight = torch.randn(4, 16, side, side), torch.randn(32, 16, kernel, kernel)
        if channels_last:
            x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        found = []
        for dtype in (torch.bfloat16, torch.float64):
            w = weight.to(dtype, copy=True).requires_grad_()
            for _ in range(4):  # what the allocator gives next
                torch.full_like(w, 1e13)
            torch.nn.functional.conv2d(x.to(dtype), w, None, stride, kernel // 2).sum().backward()
            found.append(w.grad.double())
        assert float((found[0] - found[1]).norm()) <= 0.02 * float(found[1].norm()), (kernel, stride, side)


def test_no_run_trains_on_memory_that_nothing_wrote(pictures, tmp_path):
    """Small random runs end with the same bits in three processes, each of which fills freed memory with another byte.
    `python -m bench.poison` does it a hundred times."""
    poison = importlib.import_module("bench.poison")
    (tmp_path / "pictures").symlink_to(pictures)
    found = poison.poisoned(tmp_path, 8, seed=1)
    assert len(found) == 8
    for settings, digests in found:
        assert len(digests) == 3 and len(set(digests)) == 1, settings
    precisions = [digests[0].split()[0] for _, digests in found]
    assert {"bfloat16", "float32"} == set(precisions)


def test_bfloat16_is_refused_where_a_cpu_would_leave_memory_unwritten(settings):
    settings |= dict(img_size=16, stem="imagenet")
    with pytest.raises(
        ConfigError, match="--amp: .* layer4.0.conv1 strides by 2 over a map of 1x1 at 16 px: drop --amp"
    ):
        train.train(Config(**settings, amp=True))
    assert not Path(settings["project"]).exists()
    growing = dict(settings, img_size=(8, 40), epochs=4)
    with pytest.raises(ConfigError, match="at 8 px"):
        begin_study(Path(settings["project"]) / "study", Config(**growing), [dict(amp=True)])
    train.train(Config(**settings))
    assert json.loads((Path(settings["project"]) / "run" / "env.json").read_text())["precision"] == "fp32"
