"""Every knob of a run, once: one frozen dataclass from whose fields come the command line, args.json, recipes and keys.

A value out of bounds or an unknown name is refused with the nearest valid one; nothing is guessed. This file knows
nothing of pictures or models.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from errors import ConfigError

T = TypeVar("T")
SHORT = reprlib.Repr()  # how a value that is refused is shown: no more of it than a line holds
SHORT.maxstring = SHORT.maxother = 80


def knob(
    default: Any,
    group: str,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    parts: int | tuple[int, ...] = 1,
    ordered: bool = True,
    auto: str | None = None,
    off: Any = None,
    source: str = "",
    daily: bool = False,
    keyed: bool = True,
) -> Any:
    """A field of Config.

    low, high, choices: what it accepts. names: other spellings of its flag. parts: how many values, joined by ':' on
    the command line; ordered: whether the low one of two comes first. auto: a word that stands for "decide". off: of a
    method, the value where it is not used; source: its paper. daily: whether --help shows it. keyed: False for what
    cannot change a run's result and so stays out of its key.
    """
    metadata = dict(
        group=group,
        help=help,
        low=low,
        high=high,
        choices=choices,
        names=names,
        parts=parts,
        ordered=ordered,
        auto=auto,
        off=off,
        source=source,
        daily=daily,
        keyed=keyed,
    )
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    data: str = knob(
        "",
        "data",
        "folder of class folders, or of train/ val/ test/ (default: $DATA, else the built-in set)",
        daily=True,
        keyed=False,
    )
    labels: str = knob("", "data", "CSV of file names and labels, where folders do not say them", daily=True)
    image_col: str = knob("auto", "data", "column of --labels that holds the file name")
    label_col: str = knob("auto", "data", "column of --labels that holds the label")
    group_col: str = knob("", "data", "column of --labels whose groups are never split between training and validation")
    resize: str = knob("squash", "data", "how a picture becomes square", choices=("squash", "crop", "pad"))
    skip_bad: bool = knob(False, "data", "train without the files that cannot be read, and list them in the run")
    img_size: int = knob(
        "auto",
        "data",
        "side of the network's input; auto: 224 px, or less where pictures are small; "
        "LOW:HIGH grows from LOW to HIGH in training",
        low=8,
        high=1024,
        auto="auto",
        names=("--size",),
        parts=(1, 2),
        daily=True,
    )
    val_split: float = knob(
        0.2, "data", "share of the training pictures held out for validation", low=0, high=0.9, daily=True
    )
    folds: int = knob(
        0,
        "data",
        "split the training pictures into this many folds and validate on --fold (0: use --val-split)",
        low=0,
        high=50,
        daily=True,
    )
    fold: int = knob(0, "data", "which fold validates", low=0, high=49)
    split_seed: int = knob(0, "data", "seed of the split alone", low=0, high=2**31 - 1)

    model: str = knob("resnet18", "model", "resnet18, resnet32 (CIFAR), or any name of torchvision.models", daily=True)
    width: float = knob(1.0, "model", "multiplies the channels", low=0.125, high=8)
    stem: str = knob(
        "auto",
        "model",
        "imagenet: stride 2 and max-pool; cifar: stride 1, no max-pool; auto: cifar up to 32 px, unless the kernel is "
        "above 3 or the weights are pretrained",
        choices=("auto", "imagenet", "cifar"),
    )
    stem_kernel: int = knob(
        "auto",
        "model",
        "first convolution's kernel: 3, 5 or 7; auto: 3 up to 128 px, else the stem's own",
        low=3,
        high=7,
        auto="auto",
    )
    dropout: float = knob(
        0.0,
        "model",
        "dropout before the head (0.3 cost macro F1 on painters)",
        low=0,
        high=0.95,
        off=0.0,
        source="Srivastava et al. 2014",
    )
    pretrained: bool = knob(
        False, "model", "start from torchvision's ImageNet weights in its cache", off=False, daily=True
    )

    head: str = knob(
        "linear",
        "model",
        "last layer; cosine: cosines of features and classes, scaled, in which --margin is measured; with --margin and "
        "--drw no gain on painters",
        choices=("linear", "cosine"),
        off="linear",
        source="Wang et al. 2018",
    )
    init: str = knob(
        "",
        "model",
        "begin with the weights of this run, the last layer too where it is of the same --head and classes",
    )
    fresh_head: bool = knob(
        False,
        "model",
        "with --init: the last layer begins anew; on balanced classes it gained no more than noise on painters",
        off=False,
        source="Kang et al. 2020",
    )
    freeze: str = knob(
        "",
        "model",
        "keep these parts as they are: names such as conv1,layer1; body: all but the last layer",
    )
    freeze_bn: str = knob(
        "keep",
        "model",
        "statistics of the batch norms that --freeze keeps; adapt: they follow the batches (not measured)",
        choices=("keep", "adapt"),
        off="keep",
        source="Zhong et al. 2021",
    )

    epochs: int = knob(80, "training", "length of the schedule", low=1, high=100_000, daily=True)
    until: int = knob(
        0, "training", "stop after this epoch, schedule unchanged (0: run to the end)", low=0, high=100_000, keyed=False
    )
    batch_size: int = knob(
        32, "training", "pictures a step; batch norm needs two", low=2, high=65_536, names=("-b", "--batch"), daily=True
    )
    opt: str = knob("adamw", "training", "optimizer", choices=("adamw", "sgd"))
    lr: float = knob(2e-3, "training", "peak learning rate", low=1e-8, high=100, daily=True)
    weight_decay: float = knob(
        0.1,
        "training",
        "decay of weights, not of norms and biases",
        low=0,
        high=10,
        names=("--wd",),
        off=0.0,
        source="Loshchilov & Hutter 2019",
        daily=True,
    )
    schedule: str = knob(
        "cosine",
        "training",
        "learning rate over time; step: x0.01 at 80% and again at 90%",
        choices=("cosine", "onecycle", "step", "constant"),
        off="constant",
        source="Loshchilov & Hutter 2017, Smith & Topin 2018",
    )
    warmup: float = knob(
        "auto",
        "training",
        "epochs of linear warm-up (onecycle has its own); auto: 3, or a quarter of the epochs where that is less",
        low=0,
        high=1000,
        auto="auto",
        off=0.0,
        source="Goyal et al. 2017",
    )
    ema_epochs: float = knob(
        6.0,
        "training",
        "epochs over which weights are averaged; the average is then what is evaluated (0: no average, which costs NLL "
        "on painters, but no macro F1)",
        low=0,
        high=1000,
        off=0.0,
        source="Polyak & Juditsky 1992",
    )

    gamma: float = knob(0.0, "loss", "focal loss's focus", low=0, high=10, off=0.0, source="Lin et al. 2017")
    alpha: float = knob(
        1.0,
        "loss",
        "focal loss's alpha: a factor on every row's loss, the same for all classes",
        low=1e-3,
        high=100,
    )
    ls: float = knob(
        0.1,
        "loss",
        "label smoothing; A:B goes from A to B, in either order, as --ls-by says",
        low=0,
        high=0.999,
        names=("--label-smoothing", "--smoothing"),
        parts=(1, 2),
        ordered=False,
        off=0.0,
        source="Szegedy et al. 2016, Zhong et al. 2021",
        daily=True,
    )
    ls_by: str = knob(
        "progress",
        "loss",
        "what --ls A:B follows; progress: over training; frequency: A for the most frequent class, B for the rarest; "
        "on painters neither gained anything over one value",
        choices=("progress", "frequency"),
    )
    loss_tau: float = knob(
        0.0,
        "loss",
        "logit adjustment: tau times log prior joins the logits in training; on painters no more than predict.py's "
        "--prior tau gives afterwards",
        low=0,
        high=4,
        off=0.0,
        source="Menon et al. 2021, Ren et al. 2020",
    )
    balance: str = knob(
        "none",
        "loss",
        "sampler: every class equally often; weights: a row counts 1 / its class's pictures, scaled to mean 1, and the "
        "batch's plain mean is taken (PyTorch divides by the batch's weights); on painters, from 40 epochs on, neither "
        "gained anything",
        choices=("none", "sampler", "weights"),
        off="none",
        daily=True,
    )
    margin: float = knob(
        0.0,
        "loss",
        "LDAM: margin of the rarest class, for others times (rarest count / count)^1/4; in logits, or in cosines with "
        "--head cosine; no gain on painters",
        low=0,
        high=10,
        off=0.0,
        source="Cao et al. 2019",
    )
    drw: float = knob(
        0.0,
        "loss",
        "deferred re-weighting: share of the epochs with the plain loss; then rare classes weigh more or, with "
        "--loss-tau, logit adjustment begins (0: nothing is deferred); weights alone gained nothing on painters",
        low=0,
        high=0.99,
        off=0.0,
        source="Cao et al. 2019",
    )
    prior: str = knob(
        "train",
        "loss",
        "class prior that evaluation and predict assume",
        choices=("train", "uniform"),
        off="train",
        source="Bayes' rule",
    )

    mixup_p: float = knob(
        0.6,
        "mixing",
        "probability of mixup for rows that CutMix did not take; LOW:HIGH with --mixup-by class, HIGH for the rarest",
        low=0,
        high=1,
        parts=(1, 2),
        off=0.0,
        source="Zhang et al. 2018",
        daily=True,
    )
    mixup_alpha: float = knob(1.0, "mixing", "lambda ~ Beta(alpha, alpha), of mixup and of CutMix", low=1e-3, high=100)
    mixup_by: str = knob(
        "row",
        "mixing",
        "row: each row draws; batch: one draw a batch; class: each row by its class's probability; "
        "class-batch: the whole batch mixes or not, by the mean of its rows' probabilities",
        choices=("row", "batch", "class", "class-batch"),
    )
    mixup_pair: str = knob(
        "uniform",
        "mixing",
        "mixup's partner; uniform: as the rows are drawn; balanced: every class equally often, its weight from "
        "Beta(alpha, 1); remix: as uniform, but a class 3 times as rare that fills more than half of the mixture gives "
        "the label alone; targeted: a class in proportion to 1 / its count, and the rarer of the two weighs more (with "
        "--mixup-alpha below 1, such as 0.8); on painters none gained anything over uniform",
        choices=("uniform", "balanced", "remix", "targeted"),
        off="uniform",
        source="Galdran et al. 2021, Chou et al. 2020, Xu et al. 2021",
    )
    cutmix_p: float = knob(
        0.3,
        "mixing",
        "probability of CutMix; by itself no gain on painters",
        low=0,
        high=1,
        off=0.0,
        source="Yun et al. 2019",
        daily=True,
    )
    cutmix_pair: str = knob(
        "uniform",
        "mixing",
        "whose box CutMix pastes; uniform: of a picture drawn as the rows are; tail: of every class equally often, and "
        "no CutMix in the first 3 epochs (a quarter of fewer than 12) nor in the last 1 to 3 (one for every 25 epochs; "
        "none with a constant schedule) (CMO; no gain on painters)",
        choices=("uniform", "tail"),
        off="uniform",
        source="Park et al. 2022",
    )

    crop_scale: float = knob(
        (0.35, 1.0),
        "augmentation",
        "random resized crop, LOW:HIGH share of the area (1:1: none)",
        low=0.01,
        high=1,
        parts=2,
        off=(1.0, 1.0),
        source="Szegedy et al. 2015",
        daily=True,
    )
    pad: int = knob(
        0,
        "augmentation",
        "instead of --crop-scale: random crop with a black border of PAD pixels",
        low=0,
        high=64,
        off=0,
        source="Lee et al. 2015",
    )
    flip: bool = knob(True, "augmentation", "mirror half of the pictures left to right", off=False)
    rotate: float = knob(0.0, "augmentation", "rotate by up to this many degrees", low=0, high=180, off=0.0)
    jitter: float = knob(
        0.2,
        "augmentation",
        "brightness, contrast and saturation vary by up to this share",
        low=0,
        high=1,
        off=0.0,
        source="Howard 2013",
    )
    one_op: bool = knob(
        False,
        "augmentation",
        "each view is also sheared, moved, rotated, or changed in brightness, contrast or saturation, by a random "
        "amount, or left as it is (for long trainings: in 40 epochs it cost macro F1 on painters)",
        off=False,
        source="Müller & Hutter 2021",
    )
    erase: float = knob(
        0.0, "augmentation", "probability of random erasing", low=0, high=1, off=0.0, source="Zhong et al. 2017"
    )
    tail_crops: int = knob(
        (0, 1),
        "augmentation",
        "COUNT:VIEWS: classes under COUNT give VIEWS strong views an epoch",
        low=0,
        high=100_000,
        parts=2,
        off=(0, 1),
        source="the painters study",
    )

    tta: str = knob(
        "auto",
        "choice",
        "views that validation and prediction average; flip: the picture and its mirror image; crops: its corners too; "
        "auto: flip where training mirrors, else none",
        choices=("auto", "none", "flip", "crops"),
    )
    monitor: str = knob(
        "macro_f1",
        "choice",
        "validation metric that picks the best epoch; last: the last epoch, no choice",
        choices=("macro_f1", "acc", "worst", "nll", "last"),
    )
    patience: int = knob(
        0,
        "choice",
        "stop after this many epochs without a better one; it waits for --drw (0: never)",
        low=0,
        high=100_000,
    )

    seed: int = knob(0, "run", "seed of weights, order, augmentation, mixing", low=0, high=2**31 - 1, daily=True)
    threads: int = knob(0, "run", "CPU threads (0: as many as PyTorch takes by itself)", low=0, high=1024, keyed=False)
    device: str = knob("auto", "run", "where to compute", choices=("auto", "cuda", "mps", "cpu"), keyed=False)
    deterministic: bool = knob(
        False, "run", "on CUDA: only algorithms that repeat bit for bit, which is slower (a CPU's always do)"
    )
    amp: bool = knob(
        "auto",
        "run",
        "compute in bf16, on older GPUs in fp16 with loss scaling; auto: on a CPU only if a step is then faster",
        auto="auto",
    )
    layout: str = knob(
        "auto",
        "run",
        "how feature maps lie in memory; auto: channels_last, on a CPU what makes a step faster",
        choices=("auto", "channels_last", "contiguous"),
    )
    products: int = knob(
        "auto",
        "run",
        "on a CPU: convolutions whose maps have up to so many pixels a side become matrix products (0: none); auto: "
        "those where that is faster",
        low=0,
        high=64,
        auto="auto",
    )
    compile: bool = knob(
        True, "run", "on CUDA: the network compiled and the whole step captured in a graph", keyed=False
    )
    project: str = knob("runs", "run", "folder of the runs", keyed=False)
    name: str = knob("run", "run", "folder of this run in --project", keyed=False, daily=True)
    tensorboard: bool = knob(False, "run", "log every epoch's scores for TensorBoard, in the run's folder", keyed=False)
    resume: bool = knob(False, "run", "continue the run of that name where it stopped", keyed=False, daily=True)

    def __post_init__(self):
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, validated(f, getattr(self, f.name)))
        if self.folds == 1 or (self.folds and self.fold >= self.folds):
            raise ConfigError(
                f"--fold {self.fold} of --folds {self.folds}: give 2 or more folds, and a fold below their number"
            )
        if isinstance(self.mixup_p, tuple) and not self.mixup_by.startswith("class"):
            raise ConfigError(
                f"--mixup-p {spelled(self.mixup_p)} is a range over classes: add --mixup-by class, or give a number"
            )
        for flag, pair in (("--mixup-pair", self.mixup_pair), ("--cutmix-pair", self.cutmix_pair)):
            if pair != "uniform" and self.mixup_by not in ("row", "class"):
                raise ConfigError(f"{flag} {pair} draws a partner for each row: add --mixup-by row, or class")
        if self.stem_kernel not in ("auto", 3, 5, 7):
            raise ConfigError(f"--stem-kernel {self.stem_kernel}: choose 3, 5 or 7")
        if isinstance(self.img_size, tuple) and (self.img_size[0] >= self.img_size[1] or self.pad):
            raise ConfigError(f"--img-size {spelled(self.img_size)}: the low end comes first, and --pad takes one size")
        if self.drw and self.balance == "sampler":
            raise ConfigError("--drw re-weights classes that --balance sampler shows equally often already: drop one")
        if self.monitor == "last" and self.patience:
            raise ConfigError(
                "--patience waits for a better epoch, which --monitor last never looks for: choose another --monitor"
            )
        if self.tail_crops[1] < 1:
            raise ConfigError(f"--tail-crops {spelled(self.tail_crops)}: VIEWS is at least 1")
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise ConfigError(f"--name {self.name!r}: a plain folder name is needed (its parent is --project)")

    def settings(self, group: str | None = None) -> dict:
        """The fields that decide a run's result (of one group), as a JSON-ready dict."""
        fields = [f for f in dataclasses.fields(self) if f.metadata["keyed"]]
        return {f.name: getattr(self, f.name) for f in fields if group in (None, f.metadata["group"])}

    def key(self, data_key: str, init_key: str = "") -> str:
        """16 hex digits: the hash of `settings()`, of the data's content, and of the weights that --init begins
        with. No path is in it."""
        settings = self.settings() | dict(init=init_key, labels="")
        text = json.dumps([settings, data_key], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def group(self, kind: type[T]) -> T:
        """The settings that the dataclass `kind` names, as one: how plain arguments reach library files."""
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(kind)})

    def border(self) -> str:
        """What a view shows beyond a picture's edge: 'constant' (black) or 'reflect'."""
        return "constant" if self.pad else "reflect"

    def averaged_views(self) -> str:
        """--tta with auto settled: none, flip or crops."""
        return self.tta if self.tta != "auto" else "flip" if self.flip else "none"

    def without_effect(self) -> list[str]:
        """Settings that change nothing, each with what it needs: `--mixup-pair remix (it needs --mixup-p above 0)`.

        Not refused: where a study takes a method away, its details stay behind.
        """
        mixes = self.mixup_p not in (0, (0, 0))
        alike = self.mixup_by == "class" and not isinstance(self.mixup_p, tuple)
        crops = self.crop_scale not in (Config.crop_scale, (1, 1))
        needs = {
            "stem": (self.stem == "auto" or self.model != "resnet32", "--model resnet18"),
            "warmup": (self.warmup in ("auto", 0) or self.schedule != "onecycle", "another --schedule than onecycle"),
            "crop_scale": (not crops or not self.pad, "--pad 0"),
            "mixup_by": (not alike or not mixes, "--mixup-p LOW:HIGH"),
            "mixup_pair": (self.mixup_pair == "uniform" or mixes, "--mixup-p above 0"),
            "cutmix_pair": (self.cutmix_pair == "uniform" or self.cutmix_p > 0, "--cutmix-p above 0"),
            "fold": (not self.fold or bool(self.folds), "--folds"),
            "ls_by": (self.ls_by == "progress" or isinstance(self.ls, tuple), "--ls A:B"),
        }
        as_drawn = self.mixup_pair in ("uniform", "balanced") and not isinstance(self.mixup_p, tuple)
        if self.balance == "sampler" and (as_drawn or not mixes):
            # All classes are equally frequent, and an equal logarithm for all of them moves no softmax.
            needs["loss_tau"] = (self.loss_tau == 0, "classes of unlike frequency: drop --balance sampler")
        return [
            f"{flag_of(name)} {spelled(getattr(self, name))} (it needs {what})"
            for name, (used, what) in needs.items()
            if not used
        ]


# Each method's setting where it is not used: what --ablate removes, and what makes one recipe simpler than another.
OFF = {f.name: f.metadata["off"] for f in dataclasses.fields(Config) if f.metadata["off"] is not None}
# How the numbers are computed: "auto" until it is timed, and then the same to a run's or a study's end.
WAY = ("amp", "layout", "products")
# Settings of earlier versions, each with the value that meant off, which old runs and recipes still hold.
REMOVED = {"adapt": "none", "adapt_path": "", "noise": 0.0, "head_decay": "auto", "sam": 0.0, "mixup_refine": 1}


# Choices of earlier versions, of settings that are still there.
REMOVED_CHOICES = {"ls_by": ("difficulty", "confidence"), "head": ("spectral",)}


def whole_paths(settings: dict) -> dict:
    """Those of `settings` that are paths of files, as they hold from any folder."""
    return {name: os.path.abspath(settings[name]) for name in ("init", "labels") if settings.get(name)}


def flag_of(name: str) -> str:
    """'mixup_p' -> '--mixup-p'."""
    return "--" + name.replace("_", "-")


def spelled(value: object) -> str:
    """A value as the command line spells it."""
    return ":".join(map(spelled, value)) if isinstance(value, tuple) else str(value)


def validated(f: dataclasses.Field, value: object) -> object:
    """`value` as field `f` holds it; ConfigError if its type, choice or bounds are wrong."""
    m, kind = f.metadata, f.type
    if m["auto"] is not None and value == m["auto"]:
        return value
    if kind is bool or kind is str:
        if not isinstance(value, kind):
            word = "true or false" if kind is bool else "text"
            raise ConfigError(f"{flag_of(f.name)} takes {word}, not {SHORT.repr(value)}")
        if value in REMOVED_CHOICES.get(f.name, ()):
            raise ConfigError(f"{flag_of(f.name)} {value} was removed: docs/log.md says why")
        if m["choices"] and value not in m["choices"]:
            raise ConfigError(f"{flag_of(f.name)} {SHORT.repr(value)}: choose {nearest(value, m['choices'])}")
        if kind is str and not _is_plain(value):
            raise ConfigError(f"{flag_of(f.name)} {SHORT.repr(value)}: it is not UTF-8, or holds a NUL or a line break")
        return value
    items = value.split(":") if isinstance(value, str) else list(value) if isinstance(value, (tuple, list)) else [value]
    allowed = m["parts"] if isinstance(m["parts"], tuple) else (m["parts"],)
    try:
        numbers = tuple(kind(v) for v in items)
        exact = kind is float or all(float(v) == n for v, n in zip(items, numbers))
    except (TypeError, ValueError, OverflowError):
        exact = False
    if (
        not exact
        or len(items) not in allowed
        or any(isinstance(v, bool) for v in items)
        or not all(m["low"] <= n <= m["high"] for n in numbers)
    ):
        raise ConfigError(f"{flag_of(f.name)} takes {bounds_of(f)}, not {SHORT.repr(value)}")
    if kind is float and len(numbers) == 2 and m["ordered"] and numbers[0] > numbers[1]:
        raise ConfigError(f"{flag_of(f.name)} {spelled(numbers)}: the low end comes first")
    return numbers if len(numbers) > 1 else numbers[0]


def _is_plain(text):
    """Whether a run's files, where a setting is one line of UTF-8, can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a path that are no text, or half of a surrogate pair
        return False
    return "\0" not in text and text.splitlines() in ([], [text])


def bounds_of(f: dataclasses.Field) -> str:
    """What field `f` accepts, in words."""
    m = f.metadata
    word = {int: "a whole number", float: "a number"}[f.type] + f" from {m['low']} to {m['high']}"
    if m["parts"] != 1:
        shape = "two numbers joined by ':'" if m["parts"] == 2 else "one number, or two joined by ':',"
        word = shape + word.split("number")[1]
    return word + (f", or {m['auto']}" if m["auto"] else "")


def nearest(name: str, names: Sequence[str]) -> str:
    """The one of `names` that is closest to `name`, or begins with it; all, as 'a, b, c', where none is and does."""
    longer = [each for each in names if each.startswith((f"{name}_", f"{name}-"))]
    close = longer[:1] or difflib.get_close_matches(str(name), names, n=1)
    return close[0] if close else ", ".join(names)


def config_from(settings: dict, source: str = "settings", base: Config = Config()) -> Config:
    """`base` with `settings` on top. Unknown names raise ConfigError with the nearest valid one."""
    known = [f.name for f in dataclasses.fields(Config)]
    settings = without_removed(settings, source)
    for name in settings:
        if name not in known:
            raise ConfigError(f"{source}: unknown setting {SHORT.repr(name)}: did you mean {nearest(name, known)}?")
    try:
        return dataclasses.replace(base, **settings)
    except ConfigError as e:
        raise ConfigError(f"{source}: {e}") from None


def without_removed(settings: dict, source: str = "settings") -> dict:
    """`settings` without those of REMOVED that are off. ConfigError where one is on: nothing could do what it says."""
    for name, off in REMOVED.items():
        if settings.get(name, off) != off:
            asked = f"{flag_of(name)} {SHORT.repr(settings[name])}"
            raise ConfigError(f"{source}: {asked} was removed: docs/log.md says why")
    return {name: value for name, value in settings.items() if name not in REMOVED}


def read_recipe(path: str | Path, base: Config = Config()) -> Config:
    """The recipe (a JSON object of settings; its `note` is for people) at `path`, on top of `base`."""
    settings = read_object(path)
    settings.pop("note", None)
    return config_from(settings, str(path), base)


def read_object(path: str | Path) -> dict:
    """The JSON object in the file `path`. Raises ConfigError for anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_no_name_twice)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not JSON of this program: nested too deep") from None
    except ValueError as e:
        raise ConfigError(f"{path}: not JSON: {e}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: no JSON object, which begins with {{ and ends with }}")
    return value


def _no_name_twice(pairs):
    """The dict of an object's pairs. ValueError where a name stands twice: JSON leaves open which would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{SHORT.repr(twice)} stands twice")
    return found
