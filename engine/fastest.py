"""How a run computes: in bfloat16 or float32, with its feature maps channels-last or not, with which convolutions as
matrix products. On a CPU the fastest way is found by timing: what a processor says of itself tells nothing.

A machine, network, size, batch and number of threads is timed once, and the answer kept in the cache folder. What was
decided holds: a resume, the ranks of a training and the trials of a study are told it.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from config import Config
from data import Pictures
from engine.build import network_to_train
from engine.evaluate import forward
from engine.numerics import LAYOUTS
from engine.paper import why_not_bfloat16
from engine.ranks import Ranks
from engine.update import set_training
from files import replacing
from kernels.convolution import Convolution, use_products
from model import Network
from pictures.store import cache_dir

LOOK = 0.15  # seconds that a float32 forward pass takes at first, so that what is hopeless costs little
HOPELESS = 1.6  # a way that takes so many times as long as another is timed no further
STEP = 0.4  # seconds that a step may take: of a large batch fewer rows are timed
ROWS = 8  # but not less than these: on an EPYC at 224 px layouts are alike with 4 rows, 8% apart with 8, 13% with 32
PART = 1.06  # part of a batch flatters contiguous maps by as much: measured at 224 px (fa4fd2b)
SMALL = 8  # pixels a side of the largest map that is tried as a matrix product: of larger ones the patches fill memory
SURE = 3  # pixels a side up to which products gained in every way and on every processor that was tried
BUDGET = 1.5  # seconds of computing after which no further round begins
ROUNDS = 8  # at the most; the fastest of each way counts


class Way(NamedTuple):
    """Config's settings with these names."""

    amp: bool
    layout: str
    products: int | None  # None where it is to be found


def decide(
    config: Config, pictures: Pictures, device: torch.device, ranks: Ranks | None = None, held: dict | None = None
) -> Config:
    """`config` with the way it computes: what its --amp, --layout and --products force; what is open as in `held`, a
    dict of these that was decided before, if there is one; else, on a CPU, the fastest."""
    way = None
    ranks = ranks or Ranks()
    if ranks.rank == 0:  # the others would disturb the clock, and could find another
        way = _way(config, pictures, device, held or {}, ranks.world)
    return dataclasses.replace(config, **ranks.told(way)._asdict())


def _way(config, pictures, device, held, world):
    """The Way of a run of `config`, on `world` ranks."""
    amps = [True, False] if config.amp == "auto" else [config.amp]
    layouts = list(LAYOUTS) if config.layout == "auto" else [config.layout]
    if device.type != "cpu":
        # What tensor cores compute in: nothing is to be timed.
        held = dict(amp=True, layout="channels_last", products=0) | held
    amps = [held["amp"]] if held.get("amp") in amps else amps
    layouts = [held["layout"]] if held.get("layout") in layouts else layouts
    if config.amp == "auto" and True in amps and device.type == "cpu" and why_not_bfloat16(config, pictures):
        amps = [False]
    products = held.get("products") if config.products == "auto" else config.products
    ways = [Way(amp, layout, products) for amp in amps for layout in layouts]
    if len(ways) == 1 and products is not None:
        return ways[0]
    return _fastest(config, pictures, config.batch_size // world, ways)


def _fastest(config, pictures, batch, ways):
    """The fastest of `ways` to train on the CPU, from the cache or by timing."""
    network = vars(config.group(Network)) | dict(freeze=config.freeze, classes=len(pictures.listing.classes))
    asked = dict(
        machine=_machine(), threads=torch.get_num_threads(), network=network, size=pictures.size, batch=batch, ways=ways
    )
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    path = cache_dir() / "fastest" / f"{key}.json"
    way = _known(path, ways)
    if way is None:
        with torch.random.fork_rng(devices=[]):  # the run's own network is drawn as if there had been no other
            model, _ = network_to_train(config, pictures, resumed=True)
        seconds = time_ways(model, pictures.size, batch, ways)
        way = min(seconds, key=seconds.get)
        with contextlib.suppress(OSError):  # a cache that cannot be written to only costs the next run its time
            path.parent.mkdir(parents=True, exist_ok=True)
            said = {f"{'bf16' if each.amp else 'fp32'} {each.layout} {each.products}": s for each, s in seconds.items()}
            with replacing(path) as draft:
                draft.write_text(json.dumps(dict(asked, seconds_a_row=said, fastest=way), indent=1) + "\n")
    return way


def _known(path, ways):
    """The Way that the file at `path` names; None where there is none, or something else than one of `ways`."""
    try:
        way = Way(*json.loads(path.read_text(encoding="utf-8"))["fastest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = type(way.products) is int and way.products >= 0
    return way if fits and (way in ways or way._replace(products=None) in ways) else None


def _machine():
    """What the speed of a way depends on beside network and threads."""
    listed = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    first, _, _ = listed.partition("\n\n")
    told = [line for line in first.splitlines() if line.split("\t")[0] in ("model name", "flags", "Features")]
    isa = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("ONEDNN_", "DNNL_", "ATEN_"))}
    return [platform.machine(), *(told or [first]), os.cpu_count(), torch.__version__, isa]


def time_ways(model: torch.nn.Module, size: int, batch: int, ways: Sequence[Way]) -> dict[Way, float]:
    """Seconds a row of a training step of `model`, by way, each with the products that suit it; without those that are
    far behind. Changes the model's layout, products, gradients and statistics.

    The clock is that of this thread, which is there from a step's first line to its last: what others compute on a busy
    machine hardly counts.
    """
    set_training(model)

    def seconds(way, rows, backward=True):
        model.to(memory_format=LAYOUTS[way.layout])
        use_products(model, SURE if way.products is None else way.products)
        # The same numbers at every call, drawn from no generator: this is no part of training.
        inputs = torch.linspace(-2, 2, rows * 3 * size * size).view(rows, 3, size, size)
        inputs = inputs.contiguous(memory_format=LAYOUTS[way.layout])
        started = time.thread_time()
        logits = forward(model, inputs, torch.bfloat16 if way.amp else torch.float32)
        if backward:
            F.cross_entropy(logits.float(), torch.zeros(rows, dtype=torch.long)).backward()
        spent = time.thread_time() - started
        model.zero_grad()
        return spent / rows

    # A processor without bfloat16 may take twenty times as long in it: a few rows tell, and one layout.
    in_order = sorted(ways)  # float32 comes first
    few = max(2, min(batch, round(LOOK / seconds(in_order[0], 2, backward=False))))
    looked = {}
    for way in in_order:
        if not any(way.amp == other.amp for other in _far_behind(looked)):
            looked[way] = min(seconds(way, few, backward=False) for _ in range(2))
    left = [way for way in looked if way not in _far_behind(looked)]

    step = 3 * min(looked.values())  # backward takes twice as long as forward
    rows = min(batch, max(ROWS, few, round(STEP / step)))
    for place, way in enumerate(left):
        if way.products is None:
            left[place] = way._replace(products=best_products(model, size, rows, way))
    found = dict.fromkeys(left, math.inf)
    started = time.thread_time()
    for turn in range(ROUNDS):
        # The first step of a shape is slow, since oneDNN makes its code then.
        if turn >= 2 and time.thread_time() - started > BUDGET:
            break
        for way in left:  # in turn: what disturbs one disturbs all
            found[way] = min(found[way], seconds(way, rows))
        left = [way for way in left if way not in _far_behind(found)]
    handicap = PART if rows < batch else 1.0
    return {way: s * handicap if way.layout == "contiguous" else s for way, s in found.items()}


def _far_behind(seconds):
    """The ways that another one of `seconds` leaves behind so far that they are timed no further."""
    return [way for way in seconds if seconds[way] > HOPELESS * min(seconds.values())]


def best_products(model: torch.nn.Module, size: int, rows: int, way: Way) -> int:
    """Up to how many pixels a side a map's convolution is faster as a matrix product, 0 for none: by timing each kind
    of convolution of `model` alone, both ways, forward and backward."""
    model.to(memory_format=LAYOUTS[way.layout])  # of weights in another layout a product makes a copy
    gain = dict.fromkeys(range(SMALL + 1), 0.0)  # seconds of a step, by the longer side of the output
    for convolution, shape, count in _small_convolutions(model, size):
        seconds = {}
        for products in (0, SMALL):
            convolution.products = products
            seconds[products] = _seconds_alone(convolution, (rows, *shape[1:]), way)
        gain[_side(convolution, shape)] += count * (seconds[0] - seconds[SMALL])
    total, best, largest = 0.0, 0, 0.0
    for side, seconds in gain.items():
        total += seconds
        if total > largest:
            best, largest = side, total
    return best


def _small_convolutions(model, size):
    """(a Convolution, its input's shape, how many alike there are) of each kind whose output is at most SMALL wide."""
    seen = {}

    def note(module, inputs):
        kind = (inputs[0].shape, module.weight.shape, module.stride, module.padding)
        seen.setdefault(kind, []).append(module)

    hooks = [
        module.register_forward_pre_hook(note)
        for module in model.modules()
        if isinstance(module, Convolution) and module.may_be_product()
    ]
    with torch.no_grad():
        model(torch.zeros(2, 3, size, size))
    for hook in hooks:
        hook.remove()
    return [(found[0], kind[0], len(found)) for kind, found in seen.items() if _side(found[0], kind[0]) <= SMALL]


def _side(convolution, shape):
    """The longer side of the output for an input of `shape`."""
    return max(convolution.output_shape(torch.empty(shape, device="meta"))[1:])


def _seconds_alone(convolution, shape, way):
    """Seconds of one forward and backward pass, the shortest of three."""
    inputs = torch.linspace(-2, 2, math.prod(shape)).view(shape)
    inputs = inputs.to(torch.bfloat16 if way.amp else torch.float32)
    inputs = inputs.contiguous(memory_format=LAYOUTS[way.layout]).requires_grad_()
    shortest = math.inf
    for _ in range(3):
        started = time.thread_time()
        out = forward(convolution, inputs, inputs.dtype)
        out.backward(torch.ones_like(out))
        shortest = min(shortest, time.thread_time() - started)
    convolution.zero_grad()
    return shortest
