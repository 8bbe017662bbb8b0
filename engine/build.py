"""What a run's settings ask for, made: device, network, loss table, Stepper and plans. Writes nothing, trains
nothing."""

import torch

import kernels
import losses
from engine import resident
from engine.capture import Captured
from engine.numerics import precision, repeatable
from engine.ranks import Ranks
from engine.run import FORMAT
from engine.step import Stepper
from model import build_model
from plan import draw_plan, evaluation_plans, sampled_counts, store_level, view_size

SMALL = 128  # px up to which the ImageNet stem's first convolution is 3 wide


def build_stepper(config, pictures, device, ranks=None):
    """The run's Stepper, the bias [C] that turns its logits into posteriors, and what a prediction needs beside the
    weights."""
    ranks = ranks or Ranks()
    repeatable(config.deterministic)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model, shape = build_network(config, pictures)
    sampled = sampled_counts(pictures.counts, config.balance, config.tail_crops)
    table = losses.loss_table(
        sampled,
        ls=config.ls,
        gamma=config.gamma,
        alpha=config.alpha,
        tau=config.loss_tau,
        weights=config.balance == "weights",
    )
    bias = losses.posterior_bias(table, sampled, pictures.counts, config.prior)
    fast = config.compile and ranks.world == 1 and kernels.usable(device)  # on a CPU neither gains anything
    side = pictures.store.pixels.shape[1]
    smallest = view_size(0, epochs=config.epochs, img_size=config.img_size, size=pictures.size)
    levels = resident.levels(pictures.store, device, [store_level(smallest, side)])
    stepper = Stepper(
        model,
        levels,
        torch.from_numpy(pictures.listing.labels),
        table,
        device=device,
        size=pictures.size,
        mean=pictures.mean,
        std=pictures.std,
        border="constant" if config.pad else "reflect",
        opt=config.opt,
        lr=config.lr,
        weight_decay=config.weight_decay,
        ema=config.ema,
        dtype=precision(device, config.amp),
        ranks=ranks,
        compile=fast,
        record=Captured if fast else None,
    )
    recipe = dict(
        format=FORMAT,
        model=shape,
        config=config.settings(),
        classes=pictures.listing.classes,
        counts=pictures.counts.tolist(),
        bias=bias.tolist(),
        size=pictures.size,
        store_size=side,
        resize=config.resize,
        mean=pictures.mean,
        std=pictures.std,
        data=str(pictures.listing.root.resolve()),
    )
    return stepper, bias, recipe


def build_network(config, pictures):
    """The fresh network that `config` asks for, and the arguments of build_model that make another like it."""
    stem = config.stem
    if stem == "auto":
        stem = "cifar" if pictures.size <= 32 and config.model == "resnet18" else "imagenet"
    kernel = None if config.stem_kernel == "auto" else config.stem_kernel
    if (
        kernel is None
        and config.model == "resnet18"
        and stem == "imagenet"
        and pictures.size <= SMALL
        and not config.pretrained
    ):
        kernel = 3
    shape = dict(
        name=config.model,
        classes=len(pictures.listing.classes),
        width=config.width,
        stem=stem,
        stem_kernel=kernel,
        dropout=config.dropout,
    )
    return build_model(**shape, pretrained=config.pretrained), shape


def plans_of(config, pictures):
    """The function epoch -> Plan, and the plans that show the validation pictures (none, or one)."""
    view = dict(size=pictures.size, store_size=pictures.store.pixels.shape[1])

    def draw(epoch):
        return draw_plan(
            pictures.listing.labels,
            pictures.store.means,
            pictures.train,
            pictures.counts,
            epoch=epoch,
            **view,
            **config.pick(draw_plan),
        )

    return draw, evaluation_plans(pictures.val, **view) if len(pictures.val) else []
