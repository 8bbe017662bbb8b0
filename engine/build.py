"""What a run's settings ask for, made: pictures, network, loss, Stepper and plans. Writes nothing, trains nothing."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import data
import kernels
import losses
from augment import Views
from config import Config
from data import Pictures
from engine import resident
from engine.capture import Captured
from engine.checkpoint import FORMAT, load_best
from engine.evaluate import shown
from engine.numerics import LAYOUTS, precision, repeatable
from engine.ranks import Ranks
from engine.step import Stepper
from engine.update import Update, freeze
from errors import ConfigError, LongtailError
from kernels.convolution import use_products
from mixup import Mixing, in_epoch, label_counts
from model import Network, build_model, last_layer
from pictures import synthetic
from plan import Course, Material, Plan, draw_plan, evaluation_plans, sampled_counts, store_level, view_size

SMALL = 128  # px up to which the ImageNet stem's first convolution is 3 wide


def refuse_impossible(config: Config) -> None:
    """Raises LongtailError for settings that cannot work, before any picture is read.

    Folder, CSV, --init and network are looked at only where the built-in set must be painted first, which takes its
    time: where nothing must, the next steps come to them as soon.
    """
    if config.fresh_head and not config.init:
        raise ConfigError("--fresh-head is for a network that begins with a run's weights: add --init RUN")
    if config.freeze and not _frozen_parts(config):
        raise ConfigError(f"--freeze {config.freeze}: it names no part of the network: --freeze body, for one")
    if config.freeze_bn == "adapt" and not config.freeze:
        raise ConfigError("--freeze-bn adapt is for batch norms that are frozen: add --freeze body")
    if config.mixup_pair == "targeted" and config.mixup_alpha >= 1 and config.mixup_p not in (0, (0, 0)):
        raise ConfigError(
            "--mixup-pair targeted gives the rarer class more weight only where --mixup-alpha is below 1, and it is "
            f"{config.mixup_alpha:g}: give --mixup-alpha 0.8"
        )
    if synthetic.is_there(config.data):
        return
    folder = Path(config.project) / config.name
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise LongtailError(f"{above} is a file: choose another --name or --project")
    if not os.access(above, os.W_OK | os.X_OK):
        raise LongtailError(f"{above} cannot be written to: choose another --project")
    if config.group_col and not config.labels:
        raise LongtailError("--group-col names a column of a CSV: give the CSV by --labels")
    if config.labels and not Path(config.labels).is_file():
        raise LongtailError(f"--labels {config.labels}: no such file")
    if config.init:
        _weights_of(config.init)
    size = config.img_size if isinstance(config.img_size, int) else synthetic.SIDE
    with torch.device("meta"):
        model, shape = _network(config, synthetic.PAINTERS, size)
        _begin_and_freeze(model, shape, dataclasses.replace(config, init=""), None, resumed=False)


def prepare_pictures(config: Config, root: str | Path | None = None) -> Pictures:
    """The Pictures that `config` asks for, from `root` or config.data."""
    if not root:
        refuse_impossible(config)
        root = synthetic.folder(config.data)
    return data.prepare(root, config.group(data.Source), config.group(data.Split))


def build_stepper(
    config: Config, pictures: Pictures, device: torch.device, ranks: Ranks | None = None, resumed: bool = False
) -> tuple[Stepper, dict]:
    """The run's Stepper, and the contents of best.pt beside the weights: what a prediction needs.

    resumed: the weights come from a checkpoint, so those of --init are not looked for. What engine/fastest.py has not
    decided: --amp is on where the device reports bfloat16, --layout is channels_last, and there are no products.
    """
    ranks = ranks or Ranks()
    repeatable(config.deterministic)
    # The one use of torch's global generator: the first weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model, shape = network_to_train(config, pictures, resumed)
    use_products(model, 0 if config.products == "auto" else config.products)
    table, bias = LossSchedule(config, pictures, model.logit_scale).at(0)
    fast = config.compile and ranks.world == 1 and kernels.usable(device)  # on a CPU neither gains anything
    side = pictures.store.pixels.shape[1]
    # Small views are taken from a halved Store: bilinear sampling would alias.
    smallest = view_size(0, config.group(Course), pictures.size)
    levels = resident.levels(pictures.store, device, [store_level(smallest, side)])
    stepper = Stepper(
        model,
        levels,
        torch.from_numpy(pictures.listing.labels),
        table,
        config.group(Update),
        device=device,
        size=pictures.size,
        mean=pictures.mean,
        std=pictures.std,
        border=config.border(),
        dtype=torch.bfloat16 if config.amp is True and device.type == "cpu" else precision(device, config.amp),
        layout=LAYOUTS.get(config.layout, torch.channels_last),
        ranks=ranks,
        compile=fast,
        record=Captured if fast else None,
    )
    # All that makes of a picture the network's input, and of its logits a posterior.
    description = dict(
        format=FORMAT,
        model=shape,
        config=config.settings(),
        classes=pictures.listing.classes,
        counts=pictures.counts.tolist(),
        bias=bias.tolist(),
        size=pictures.size,
        store_size=side,
        shown=shown(config.group(Views), pictures.size, side),
        tta=config.averaged_views(),
        resize=config.resize,
        mean=pictures.mean,
        std=pictures.std,
        data=str(pictures.root.resolve()),
    )
    return stepper, description


class LossSchedule:
    """The loss of a run, epoch by epoch."""

    def __init__(self, config: Config, pictures: Pictures, logit_scale: float):
        self.objective = config.group(losses.Objective)
        self.epochs = config.epochs
        self.logit_scale = logit_scale
        self.counts = pictures.counts
        self.drawn = sampled_counts(pictures.counts, config.balance, config.tail_crops)
        self.mixing, self.schedule = config.group(Mixing), config.schedule

    def at(self, epoch: int) -> tuple[torch.Tensor, np.ndarray]:
        """(table [5,C], the bias [C] that makes posteriors of logits trained with it) of an epoch, counted from 0."""
        # At the very end mixing changes, and the network keeps the prior of before.
        mixing = in_epoch(self.mixing, min(epoch, self.epochs // 2), self.epochs, self.schedule)
        sampled = label_counts(self.drawn, self.counts, mixing)
        table = losses.schedule(
            self.objective,
            sampled,
            epoch,
            self.epochs,
            pictures=self.counts,
            logit_scale=self.logit_scale,
        )
        return table, losses.posterior_bias(table, sampled, self.counts, self.objective.prior)

    def changes(self, epoch: int) -> bool:
        """Whether another stage of the loss begins with this epoch."""
        return losses.changes(self.objective, epoch, self.epochs)

    def settling(self, epoch: int) -> bool:
        """Whether the network still follows a change of the loss."""
        return losses.settling(self.objective, epoch, self.epochs)


def build_network(config: Config, pictures: Pictures) -> tuple[torch.nn.Module, dict]:
    """The fresh network that `config` asks for, and the arguments of build_model that make another like it."""
    return _network(config, len(pictures.listing.classes), pictures.size)


def _network(config, classes, size):
    """The network for so many classes, at `size` px, and its arguments."""
    shape = vars(config.group(Network)).copy()
    name, pretrained = shape.pop("model"), shape.pop("pretrained")
    # "auto" is settled here, by the pictures: what a checkpoint says is plain.
    shape |= dict(name=name, classes=classes)
    ours = name == "resnet18"
    if shape["stem"] == "auto":
        # A CIFAR stem is 3 wide: who asks for more gets the other, as do pretrained weights, which have that one.
        small = ours and size <= 32 and shape["stem_kernel"] in ("auto", 3) and not pretrained
        shape["stem"] = "cifar" if small else "imagenet"
    if shape["stem_kernel"] == "auto":
        small = ours and shape["stem"] == "imagenet" and size <= SMALL and not pretrained
        shape["stem_kernel"] = 3 if small else None
    return build_model(**shape, pretrained=pretrained), shape


def network_to_train(config: Config, pictures: Pictures, resumed: bool = False) -> tuple[torch.nn.Module, dict]:
    """As `build_network`, with what it begins with (unless `resumed`) and what is frozen."""
    model, shape = build_network(config, pictures)
    _begin_and_freeze(model, shape, config, pictures, resumed)
    return model, shape


def _begin_and_freeze(model, shape, config, pictures, resumed):
    if config.init and not resumed:
        weights, _ = weights_to_begin_with(model, shape, config, pictures.listing.classes)
        if not next(model.parameters()).is_meta:  # on paper there is nothing to load them into
            model.load_state_dict(weights)
    freeze(model, _frozen_parts(config))


def _frozen_parts(config):
    """The names that --freeze lists."""
    return [part.strip() for part in config.freeze.split(",") if part.strip()]


def weights_to_begin_with(model: torch.nn.Module, shape: dict, config: Config, classes: list[str]) -> tuple[dict, str]:
    """(the state of `model` with the weights of the run --init, why its last layer is the model's own, else '').

    shape: what `build_model` made the model of. The last layer's weights are taken where it is of the same kind and
    knows the same classes, in order, and no --fresh-head is asked for. Raises LongtailError where the run has no
    weights, or those of another network.
    """
    run = config.init
    saved = _weights_of(run)
    own = model.state_dict()
    head = last_layer(own)
    loaded = {name: value for name, value in saved["weights"].items() if not name.startswith(head + ".")}
    old_head = {name: value for name, value in saved["weights"].items() if name not in loaded}
    own_head = {name: value for name, value in own.items() if name.startswith(head + ".")}
    anew = ""
    if config.fresh_head:
        anew = "as --fresh-head asks"
    elif saved["classes"] != classes:
        anew = "for that run knows other classes"
    elif _shapes(old_head) != _shapes(own_head):
        anew = "for that run's --head is of another kind"
    loaded |= own_head if anew else old_head
    unlike = _shapes(loaded).items() ^ _shapes(own).items()
    if saved["model"]["stem"] != shape["stem"]:  # the two stems' weights may have the same shape
        unlike = {("the stem",)}
    if unlike:
        why = f"it is another network ({min(unlike)[0]} does not fit)"
        raise LongtailError(f"--init {run}: {why}: give its --model, --width, --stem and --stem-kernel")
    return loaded, anew


def beginning(model: torch.nn.Module, shape: dict, config: Config, classes: list[str]) -> str:
    """What a network that begins with the weights of --init begins with, in a sentence."""
    _, anew = weights_to_begin_with(model, shape, config, classes)
    return f"begins with the weights of {config.init}" + (anew and f"; the last layer begins anew, {anew}")


def _shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def init_key(run: str) -> str:
    """A digest of the weights of `run`, '' for no run: what a run's key has in place of a path."""
    if not run:
        return ""
    digest = hashlib.sha256()
    # By content: a copy of the run elsewhere is the same beginning.
    for name, value in sorted(_weights_of(run)["weights"].items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _weights_of(run):
    """The best.pt of a run's folder, or the file itself."""
    path = Path(run)
    if path.is_dir():
        path = path / "best.pt"
    if not path.exists():
        raise LongtailError(f"--init {run}: no best.pt there: name the folder of a finished run")
    return load_best(path)


def plans_of(config: Config, pictures: Pictures) -> tuple[Callable[..., Plan], list[Plan]]:
    """The function epoch -> Plan, and the plans that show the validation pictures, one a view."""
    side = pictures.store.pixels.shape[1]
    material = Material(
        pictures.listing.labels, pictures.store.means, pictures.train, pictures.counts, pictures.size, side
    )
    course, mixing, views = config.group(Course), config.group(Mixing), config.group(Views)

    def draw(epoch):
        return draw_plan(material, epoch, course, mixing, views)

    if not len(pictures.val):
        return draw, []
    shows = evaluation_plans(
        pictures.val,
        size=pictures.size,
        store_size=side,
        shown=shown(views, pictures.size, side),
        views=config.averaged_views(),
    )
    return draw, shows
