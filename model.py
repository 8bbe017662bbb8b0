"""Networks by name: ResNet-18 with torchvision's parameter names, the CIFAR ResNet-32, and any of `torchvision.models`.

Every dropout is a hash of (key, layer, row, unit): the train step writes the model's `key` before each forward, and
nothing here draws from a global generator after initialisation. Nothing is ever downloaded.
"""

import difflib
import hashlib
import math
import textwrap
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from errors import LongtailError


def build_model(
    name="resnet18", classes=1000, *, width=1.0, stem="imagenet", stem_kernel=None, dropout=0.0, pretrained=False
):
    """A network that maps float [B, 3, H, W] to logits [B, classes], on the CPU, in train mode, freshly initialised.

    name: resnet18 (He et al. 2016), resnet32 (the 16-32-64 network for CIFAR, ibid. section 4.2) or any classification
    network of torchvision, which keeps the dropouts of its own design. width: multiplies the channels, rounded to
    multiples of 8. stem: of resnet18, imagenet (stride 2, then max-pool; stem_kernel 3, 5 or 7, the default) or cifar
    (3x3, stride 1, no pool), which resnet32 always has. dropout: share of units zeroed before the last layer.
    pretrained: torchvision's ImageNet weights, found in torch.hub's cache; the last layer is then fresh unless there
    are 1000 classes. The buffer `key` (int64, 0-dim, in no state dict) seeds every dropout of the next forward. Raises
    LongtailError."""
    if classes < 1:
        raise LongtailError(f"classes must be at least 1; got {classes}")
    if not 0 <= dropout < 1:
        raise LongtailError(f"dropout must be at least 0 and below 1; got {dropout}")
    if name in ("resnet18", "resnet32"):
        model = _ours(name, classes, width, stem, stem_kernel, dropout, pretrained)
    else:
        model = _torchvision(name, classes, width, stem, stem_kernel, dropout, pretrained)
    model.first, model.apart = 0, 1  # row i of a batch is hashed as row first + i * apart: a rank's share of it
    model.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)
    for layer, module in enumerate(m for m in model.modules() if isinstance(m, Dropout)):
        module.layer, module.owner = layer, (model,)  # in a tuple, so that the owner is no submodule of its own part
    return model


class Dropout(nn.Module):
    """Zeroes each unit with probability p and scales the rest by 1 / (1 - p); the identity in eval mode.

    A unit of row i stays when a hash of (key, layer, i, unit), read as a fraction of 2^32, is at least p. `share` says
    what falls together: "unit", "row" (all units of a row: stochastic depth, Huang et al. 2016) or "batch"
    (everything). `build` sets `layer` and `owner`, the model whose `key` is read: a buffer here would become a copy at
    `.to(device)`."""

    def __init__(self, p, share="unit"):
        super().__init__()
        self.p, self.share = p, share

    @property
    def p(self):
        return self._p

    @p.setter
    def p(self, p):
        """Keeps what a forward needs as tensors: networks that differ in p alone then share what is compiled. They stay
        on the CPU and are no buffers: kernels take them as numbers, and no move of the model loses them."""
        self._p, self.idle = p, p == 0
        self.held = torch.tensor(round(p * 2**32)), torch.tensor(1 / (1 - p) if p < 1 else 0.0)

    def forward(self, x):
        if not self.training or self.idle:
            return x
        ones = [1] * (x.ndim - 1)
        shape = {"unit": x.shape, "row": (len(x), *ones), "batch": (1, *ones)}[self.share]
        model = self.owner[0]
        bits = _hash(model.key, self.layer, shape[0], math.prod(shape[1:]), model.first, model.apart).view(shape)
        bound, scale = self.held
        return x * (bits >= bound) * scale

    def extra_repr(self):
        return f"p={self.p}, share={self.share}"


def _hash(key, layer, rows, units, first=0, apart=1):
    """int64 [rows, units] in [0, 2^32), the same on every device: starting from key, SplitMix64 (Steele et al. 2014)
    mixes its state and takes in the layer, the row and the unit one after another by addition, all modulo 2^64."""
    state = _mix(_mix(key) + layer)
    state = _mix(state + torch.arange(rows, device=key.device) * apart + first)
    state = _mix(state[:, None] + torch.arange(units, device=key.device))
    return _shift(state, 32)


def _mix(x):
    """SplitMix64's step; its constants are written as the int64 of the same bits."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


def _shift(x, n):
    """x >> n without the sign, which int64 would copy down."""
    return (x >> n) & (2 ** (64 - n) - 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: projected (option B) or, with `pad`, cut and zero-padded (option A)."""

    def __init__(self, inputs, outputs, stride, pad):
        super().__init__()
        change = stride > 1 or inputs != outputs
        self.pad = (stride, outputs - inputs) if change and pad else None
        project = None
        if change and not pad:
            project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = project  # drawn first, registered last, as in torchvision: one seed gives equal weights

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.pad is not None:
            stride, more = self.pad
            x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2))
        return F.relu(y + x, inplace=True)


class ResNet(nn.Module):
    """A stem, stages of `depth` basic blocks each (the first at stride 1), mean, dropout, linear head."""

    def __init__(self, classes, channels, depth, kernel, *, reduce, pad, dropout):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], kernel, 2 if reduce else 1, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1) if reduce else nn.Identity()
        self.stages = [f"layer{i + 1}" for i in range(len(channels))]
        for i, (stage, inputs, outputs) in enumerate(zip(self.stages, (channels[0], *channels), channels)):
            blocks = [BasicBlock(inputs, outputs, 1 if i == 0 else 2, pad)]
            blocks += [BasicBlock(outputs, outputs, 1, pad) for _ in range(depth - 1)]
            self.add_module(stage, nn.Sequential(*blocks))
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(channels[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(self.dropout(x.mean((2, 3))))


def _ours(name, classes, width, stem, stem_kernel, dropout, pretrained):
    if stem not in ("imagenet", "cifar"):
        raise LongtailError(f"stem must be imagenet or cifar; got {stem!r}")
    if not 0 < width < math.inf:
        raise LongtailError(f"width must be above 0 and finite; got {width}")
    reduce = stem == "imagenet" and name == "resnet18"
    kernels = (3, 5, 7) if reduce else (3,)
    kernel = kernels[-1] if stem_kernel is None else stem_kernel
    if kernel not in kernels:
        where = f"the {stem} stem" if name == "resnet18" else "resnet32"
        raise LongtailError(f"{where} takes stem_kernel {' or '.join(map(str, kernels))}; got {stem_kernel}")
    channels, depth = ((64, 128, 256, 512), 2) if name == "resnet18" else ((16, 32, 64), 5)
    channels = [max(8, round(c * width / 8) * 8) for c in channels]
    model = ResNet(classes, channels, depth, kernel, reduce=reduce, pad=name == "resnet32", dropout=dropout)
    if pretrained:
        if name != "resnet18" or width != 1 or kernel != 7:
            raise LongtailError(
                "pretrained weights fit resnet18 with width 1, the imagenet stem and stem_kernel 7, not "
                f"{name} with width {width}, the {stem} stem and stem_kernel {kernel}"
            )
        path = _cached(name, _import_torchvision(name).models)
        _adopt(model, torch.load(path, map_location="cpu", weights_only=True))
    return model


def _torchvision(name, classes, width, stem, stem_kernel, dropout, pretrained):
    torchvision = _import_torchvision(name)
    models = torchvision.models
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, ["resnet32", *names], 3, 0)
        raise LongtailError(f"there is no model {name!r}; the nearest names are {', '.join(near)}")
    asked = {"width": width != 1, "stem": stem != "imagenet", "stem_kernel": stem_kernel is not None}
    for option in asked:
        if asked[option]:
            raise LongtailError(f"{option} is for resnet18 and resnet32; {name} is torchvision's own and has none")
    # The second heads of these two would make the training output a tuple.
    single = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, num_classes=classes, **single)
    if pretrained:
        _cached(name, models)
        source = models.get_model(name, weights="DEFAULT")
        if single:
            source.AuxLogits, model.transform_input = None, source.transform_input
        _adopt(model, source.state_dict())
    for parent in list(model.modules()):
        for child, module in parent.named_children():
            if isinstance(module, nn.Dropout):
                parent.add_module(child, Dropout(module.p))
            elif isinstance(module, torchvision.ops.StochasticDepth):
                parent.add_module(child, Dropout(module.p, module.mode))
    if dropout:
        head = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
        head.add_module("dropout", Dropout(dropout))
        head.register_forward_pre_hook(_drop_input)
    return model


def _drop_input(module, inputs):
    return (module.dropout(*inputs),)


def _import_torchvision(name):
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        raise LongtailError(
            f"{name} needs torchvision, which does not import here ({textwrap.shorten(str(error), 300)}); "
            f"install the build that belongs to torch {torch.__version__}, or take resnet18 or resnet32, "
            "not pretrained"
        ) from error
    return torchvision


def _cached(name, models):
    """The file of torchvision's default weights; missing or damaged, a LongtailError that says how to get it."""
    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    get = f"get it with: curl -L --create-dirs -o '{path}' {url}"
    if not path.is_file():
        raise LongtailError(f"the pretrained weights of {name} are not in {path}; {get}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise LongtailError(
            f"the pretrained weights in {path} are damaged (their SHA-256 is not that of the name); {get}"
        )
    return path


def _adopt(model, state):
    """Loads `state` strictly, but for a last layer that was made for another number of classes."""
    own = model.state_dict()
    head = [k for k in own if k.rpartition(".")[0] == list(own)[-1].rpartition(".")[0]]
    fresh = [k for k in head if k in state and state[k].shape != own[k].shape]
    for k in fresh:
        state[k] = own[k]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LongtailError(f"the pretrained weights do not fit: {textwrap.shorten(str(error), 300)}") from error
