"""Networks by name: ResNet-18 with torchvision's parameter names, the CIFAR ResNet-32, and any of `torchvision.models`.

Every dropout is a hash of (key, layer, row, unit): the train step writes the model's `key` before each forward, and
nothing here draws from a global generator after initialisation. Nothing is ever downloaded.
"""

import difflib
import hashlib
import math
import textwrap
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import LongtailError
from kernels.convolution import Convolution, replace_convolutions
from kernels.dropout import Dropout
from kernels.heads import COSINE_SCALE, HEADS

Layout = namedtuple("Layout", "channels depth")  # channels of each stage, and how many blocks it has
LAYOUTS = {
    "resnet18": Layout(channels=(64, 128, 256, 512), depth=2),
    "resnet32": Layout(channels=(16, 32, 64), depth=5),
}


@dataclass(frozen=True)
class Network:
    """Config's settings of the network; all but `model` are arguments of build_model."""

    model: str
    width: float
    stem: str
    stem_kernel: int | str | None
    dropout: float
    head: str
    pretrained: bool


def build_model(
    name: str = "resnet18",
    classes: int = 1000,
    *,
    width: float = 1.0,
    stem: str = "imagenet",
    stem_kernel: int | None = None,
    dropout: float = 0.0,
    head: str = "linear",
    pretrained: bool = False,
) -> nn.Module:
    """A network that maps float [B, 3, H, W] to logits [B, classes], on the CPU, in train mode, freshly initialised.

    name: resnet18 (He et al. 2016), resnet32 (the 16-32-64 network for CIFAR, ibid. section 4.2) or any classification
    network of torchvision, which keeps the dropouts of its own design. width: multiplies the channels, rounded to
    multiples of 8. stem: of resnet18, imagenet (stride 2, then max-pool; stem_kernel 3, 5 or 7, the default) or cifar
    (3x3, stride 1, no pool), which resnet32 always has. dropout: share of units zeroed before the last layer.
    head: linear, or of ours cosine.
    pretrained: torchvision's ImageNet weights, found in torch.hub's cache; the last layer is then fresh unless there
    are 1000 classes. The buffer `key` (int64, 0-dim, in no state dict) seeds every dropout of the next forward. Raises
    LongtailError."""
    if classes < 1:
        raise LongtailError(f"classes must be at least 1; got {classes}")
    if not 0 <= dropout < 1:
        raise LongtailError(f"dropout must be at least 0 and below 1; got {dropout}")
    if head not in HEADS:
        raise LongtailError(f"head must be {' or '.join(HEADS)}; got {head!r}")
    build = _resnet if name in LAYOUTS else _torchvision_model
    model = build(name, classes, width, stem, stem_kernel, dropout, head, pretrained)
    model.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)
    # What the head multiplies cosines by, if it has any: margins are measured in them.
    model.logit_scale = COSINE_SCALE if head == "cosine" else 1.0
    # Row i of a batch is hashed as row_start + i * row_stride: with several ranks, its place in the whole batch.
    model.row_start = 0
    model.row_stride = 1
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    for layer, module in enumerate(dropouts):
        module.layer = layer
        module.owner = (model,)  # in a tuple, so that the owner is no submodule of its own part
    return model


def last_layer(names: Iterable[str]) -> str:
    """The name of the last layer, which in every network here comes last among those of its parameters or state."""
    return list(names)[-1].rpartition(".")[0]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: projected (option B) or, with `pad`, cut and zero-padded (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int, pad: bool):
        super().__init__()
        change = stride > 1 or inputs != outputs
        self.pad = (stride, outputs - inputs) if change and pad else None  # option A has no weights
        project = None
        if change and not pad:
            project = nn.Sequential(Convolution(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.conv1 = Convolution(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = Convolution(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = project  # drawn first, registered last, as in torchvision: one seed gives equal weights

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.pad is not None:
            stride, added = self.pad
            x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, added // 2, added - added // 2))  # channels, both sides
        return F.relu(y + x, inplace=True)


class ResNet(nn.Module):
    """A stem, a stage of `depth` basic blocks for each of `channels`, mean, dropout, linear head.

    kernel: of the stem's convolution. reduce: the stem quarters height and width. pad: of the blocks' shortcuts."""

    def __init__(
        self,
        classes: int,
        channels: list[int],
        depth: int,
        kernel: int,
        *,
        reduce: bool,
        pad: bool,
        dropout: float,
        head: type,
    ):
        super().__init__()
        inputs = channels[0]
        self.conv1 = Convolution(3, inputs, kernel, 2 if reduce else 1, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if reduce else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(channels) + 1)]
        for stage, outputs in zip(self.stages, channels):
            stride = 1 if stage == "layer1" else 2
            blocks = [BasicBlock(inputs, outputs, stride, pad)]
            for _ in range(depth - 1):
                blocks.append(BasicBlock(outputs, outputs, 1, pad))
            self.add_module(stage, nn.Sequential(*blocks))
            inputs = outputs
        self.dropout = Dropout(dropout)
        self.fc = head(inputs, classes)
        for module in self.modules():  # after all else, so that one seed gives torchvision's weights
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        x = x.mean((2, 3))
        return self.fc(self.dropout(x))


def _resnet(name, classes, width, stem, stem_kernel, dropout, head, pretrained):
    if stem not in ("imagenet", "cifar"):
        raise LongtailError(f"stem must be imagenet or cifar; got {stem!r}")
    if not 0 < width < math.inf:
        raise LongtailError(f"width must be above 0 and finite; got {width}")
    reduce = stem == "imagenet" and name == "resnet18"
    kernels = (3, 5, 7) if reduce else (3,)  # no CIFAR network of the papers has another
    kernel = kernels[-1] if stem_kernel is None else stem_kernel
    if kernel not in kernels:
        where = f"the {stem} stem" if name == "resnet18" else "resnet32"
        raise LongtailError(f"{where} takes stem_kernel {' or '.join(map(str, kernels))}; got {stem_kernel}")
    layout = LAYOUTS[name]
    channels = [max(8, round(full * width / 8) * 8) for full in layout.channels]  # tensor cores take multiples of 8
    pad = name == "resnet32"
    model = ResNet(classes, channels, layout.depth, kernel, reduce=reduce, pad=pad, dropout=dropout, head=HEADS[head])
    if pretrained:
        if name != "resnet18" or width != 1 or kernel != 7:  # all that torchvision has published for it
            raise LongtailError(
                "pretrained weights fit resnet18 with width 1, the imagenet stem and stem_kernel 7, not "
                f"{name} with width {width}, the {stem} stem and stem_kernel {kernel}"
            )
        path = _cached_weights(name, _import_torchvision(name).models)
        _load_pretrained(model, torch.load(path, map_location="cpu", weights_only=True))
    return model


def _torchvision_model(name, classes, width, stem, stem_kernel, dropout, head, pretrained):
    torchvision = _import_torchvision(name)
    models = torchvision.models
    names = models.list_models(module=models)  # classification alone: detectors and the like have modules of their own
    if name not in names:
        near = difflib.get_close_matches(name, ["resnet32", *names], 3, 0)
        raise LongtailError(f"there is no model {name!r}; the nearest names are {', '.join(near)}")
    changed = dict(
        width=width != 1, stem=stem != "imagenet", stem_kernel=stem_kernel is not None, head=head != "linear"
    )
    for option, given in changed.items():
        if given:
            raise LongtailError(f"{option} is for resnet18 and resnet32; {name} is torchvision's own and has none")
    # The second heads of these two would make the training output a tuple.
    one_head = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, num_classes=classes, **one_head)
    if pretrained:
        _cached_weights(name, models)  # what is missing or damaged raises here, before torchvision would download it
        source = models.get_model(name, weights="DEFAULT")  # a network of its own, for its 1000 classes
        if one_head:
            source.AuxLogits = None  # so that both have the same weights
            model.transform_input = source.transform_input
        _load_pretrained(model, source.state_dict())
    _replace_dropouts(model, torchvision.ops.StochasticDepth)
    replace_convolutions(model)
    if dropout:
        # The last layer is a convolution in SqueezeNet.
        head = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
        head.add_module("dropout", Dropout(dropout))
        head.register_forward_pre_hook(_drop_input)
    return model


def _replace_dropouts(model, stochastic_depth):
    """Puts our Dropout in the place of torch's and of torchvision's, which draw from the global generator."""
    for parent in list(model.modules()):  # a list, since the loop changes what it goes through
        for child, module in parent.named_children():
            if isinstance(module, nn.Dropout):
                parent.add_module(child, Dropout(module.p))
            elif isinstance(module, stochastic_depth):
                parent.add_module(child, Dropout(module.p, module.mode))


def _drop_input(module, inputs):
    """A hook before the head's forward: a module in front of it would change the state dict's names."""
    return (module.dropout(*inputs),)


def _import_torchvision(name):
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:  # the last two: a build for another torch
        raise LongtailError(
            f"{name} needs torchvision, which does not import here ({textwrap.shorten(str(error), 300)}); "
            f"install the build that belongs to torch {torch.__version__}, or take resnet18 or resnet32, "
            "not pretrained"
        ) from error
    return torchvision


def _cached_weights(name, models):
    """The file of torchvision's default weights; missing or damaged, a LongtailError that says how to get it."""
    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])  # where torch.hub puts what it downloads
    get = f"get it with: curl -L --create-dirs -o '{path}' {url}"
    if not path.is_file():
        raise LongtailError(f"the pretrained weights of {name} are not in {path}; {get}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rpartition("-")[2]):  # resnet18-f37072fd.pth begins its SHA-256 with f37072fd
        raise LongtailError(f"the pretrained weights in {path} are damaged: their SHA-256 is not its name's; {get}")
    return path


def _load_pretrained(model, state):
    """Loads `state` strictly, but for a last layer that was made for another number of classes."""
    own = model.state_dict()
    head = last_layer(own)
    state = {name: tensor for name, tensor in state.items() if name in own or not name.startswith(head + ".")}
    for name, tensor in own.items():
        in_head = name.rpartition(".")[0] == head
        if in_head and name in state and state[name].shape != tensor.shape:
            state[name] = tensor  # fresh
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LongtailError(f"the pretrained weights do not fit: {textwrap.shorten(str(error), 300)}") from error
