"""A run's network on paper: built without memory for its weights and shown a picture of every size that it will see.

Finds what cannot be trained before anything is written. Computes nothing.
"""

import functools

import torch
from torch import nn

from config import Config
from data import Pictures
from engine.build import network_to_train
from engine.numerics import pick_device
from errors import ConfigError, LongtailError, first_line
from plan import Course, view_size


def try_network(config: Config, pictures: Pictures, resumed: bool = False) -> None:
    """Builds the network on paper, with what it begins with and what is frozen, and shows it a picture of every size
    that it trains at. Raises LongtailError if it cannot be."""
    wrong = why_not_bfloat16(config, pictures, resumed)
    if wrong and config.amp is True and pick_device(config.device).type == "cpu":
        raise ConfigError(
            f"--amp: in bfloat16 a CPU would train on memory that nothing wrote, where {wrong}: drop --amp, or give a "
            "larger --img-size"
        )


def why_not_bfloat16(config: Config, pictures: Pictures, resumed: bool = True) -> str:
    """Why the network cannot train in bfloat16 on a CPU, in words; "" where it can.

    Asked of the maps' shapes at every size of the schedule: see `strides_beyond_map`.
    """
    model = _on_paper(config, pictures, resumed)
    course = config.group(Course)
    for size in sorted({view_size(epoch, course, pictures.size) for epoch in range(config.epochs)}):
        found = strides_beyond_map(model, size)
        if found:
            return f"{found} at {size} px"
    return ""


def strides_beyond_map(model: nn.Module, size: int) -> str:
    """The first convolution of `model` whose padded map is shorter than its stride, in words, at inputs of size x size;
    "" if there is none. The model is on the meta device: nothing is computed.

    oneDNN's bfloat16 leaves the taps of such a convolution's weight gradient that meet padding alone unwritten (seen
    with oneDNN of torch 2.13 on AVX-512; a map as long as the stride is right). Raises LongtailError where the network
    takes no inputs of this size.
    """
    found = []

    def look(name, module, inputs):
        side, stride = inputs[0].shape[2:], module.stride
        padded = module.padding not in (0, "valid", (0, 0))
        if padded and any(length < step for length, step in zip(side, stride)):
            found.append(f"{name} strides by {max(stride)} over a map of {side[0]}x{side[1]}")

    hooks = [
        module.register_forward_pre_hook(functools.partial(look, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.empty(2, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        said = first_line(error)
        raise LongtailError(f"the network takes no pictures of {size} px ({said}): give a larger --img-size") from error
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _on_paper(config, pictures, resumed):
    """The network to train, on the meta device."""
    try:
        with torch.device("meta"):
            return network_to_train(config, pictures, resumed)[0]
    except NotImplementedError:  # torchvision's RegNets read numbers out of tensors while they are built
        with torch.random.fork_rng(devices=[]):
            return network_to_train(config, pictures, resumed)[0].to("meta")
