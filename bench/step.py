"""Training beside its floor, and beside the ways of others with the same network and pictures.

On a CPU: epochs beside forward, backward and optimizer on a batch that lies ready, and beside the way of the study that
this project comes from. On a GPU: the captured step beside the network's part of it alone, compiled and captured as
ours is; epochs beside the study's way and the best-practice way; peak memory; the floor of bench/floor.py. All take
turns in one run, the first round is thrown away, ratios are taken round by round. Each contender is told and written
when its first round is over; one that fails is left out, and the exit code is 1. Writes nothing but --json; it needs a
quiet machine.
"""

import dataclasses
import gc
import os
import random
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F

import augment
import train
from bench import floor, four, jpegs, rounds, ways
from bench.step_table import table
from config import Config, read_recipe
from engine import numerics, resident
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.fastest import decide
from engine.numerics import pick_device
from engine.run import environment
from engine.tables import row_of
from engine.update import floating, lerp
from errors import Parser

ROOT = Path(__file__).resolve().parent.parent

TRAINED = 4780  # pictures to train on at the most: as many as the painters study has
STUDY = ROOT / "recipes" / "attempt-5.json"  # flips, a centre crop, mixup p 0.4 by the batch, focal loss
CROPS = dict(crop_scale=(0.5, 1.0), mixup_p=0.0, mixup_by="row")
USUAL = dict(
    cpu=["bare", "crops", "mixup", "whole", "default", "study", "fp32", "bf16"],
    cuda=["model", "steps", "default", "study", "best"],
)


def main():
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=0, help="steps a round at the least (default: 64 on a GPU, else 16)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: as torch has them)")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32])
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument(
        "--workers",
        type=int,
        default=min(16, os.cpu_count()),
        help="processes of the best-practice way (default: one a core, 16 at the most)",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        choices=sorted({*USUAL["cpu"], *USUAL["cuda"], *four.NAMES}),
        help="who takes part (default: by the device); timm, if it is installed, and the ways of a CPU: by name alone",
    )
    parser.add_argument("--limit", type=float, default=0, help="seconds until a contender is warm (default 0: any)")
    parser.add_argument("--files", type=int, default=0, metavar="PX", help="width of the files (default 500)")
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="count what is computed, workers' too: busy machines"
    )
    parser.add_argument("--pictures", metavar="DIR", help="enlarge the pictures under DIR (default: random ones)")
    parser.add_argument("--json", metavar="FILE", help="write the record with every round's seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    if args.cpu_seconds:
        rounds.clock = four.computed
    random.seed(0), torch.manual_seed(0)  # the ways of others draw from both
    args.steps = args.steps or (64 if pick_device(args.device).type == "cuda" else 16)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LONGTAIL_CACHE"] = temporary + "/cache"
        for record, said in measure(args, Path(temporary)):
            rounds.tell(said, record, args.json)
            failed = any(size["failed"] for size in record["sizes"])
    return int(failed)


def measure(args, folder):
    """Runs all contenders in turn, for one batch size after the other; yields the record and a text after each."""
    device, load = pick_device(args.device), os.getloadavg()[0]
    trained = min(args.steps * max(args.batch_size), TRAINED)
    jpegs.paint(folder / "pictures", max(8, trained * 5 // 4), args.pictures)  # a fifth validates
    if args.files:
        four.shrink(folder / "pictures", args.files)
    asked = dict(
        data=str(folder / "pictures"),
        project=str(folder / "runs"),
        epochs=1000,
        img_size=args.img_size,
        threads=args.threads,
        device=args.device,
    )
    pictures = prepare_pictures(Config(**asked))
    resident.levels(pictures.store, device)  # all of ours share them, so that no contender's memory has them
    numerics.repeatable(False)  # as train.py does
    way = decide(Config(**asked, batch_size=args.batch_size[0]), pictures, device)
    native = numerics.precision(device, True) == torch.bfloat16
    names = args.contenders or [n for n in USUAL.get(device.type, USUAL["cpu"]) if native or n != "bf16"]
    record = dict(
        vars(args),
        **environment(device),
        load=load,
        kind=device.type,
        validation=len(pictures.val),
        kilobytes=statistics.mean(f.stat().st_size for f in pictures.listing.files) / 1000,
        store=pictures.store.pixels.nbytes,
        native="bf16" if way.amp and device.type != "mps" else "fp32",
        way=four.way_of(way),
        sizes=[],
    )
    if device.type == "cuda":
        record["flops"], record["bandwidth"] = floor.ceilings(device)
    for batch_size in args.batch_size:
        made = contenders(dict(asked, batch_size=batch_size), pictures, device, args)
        torch._dynamo.reset()  # what was compiled for another batch size is looked through at every call
        size = dict(batch_size=batch_size, images={}, peak={}, seconds={}, failed={})
        record["sizes"].append(size)
        if device.type == "cuda" and args.img_size == 224:
            ceilings = record["flops"], record["bandwidth"]
            size["floor"] = floor.seconds(batch_size, *ceilings)
            size["floor_inductor"] = floor.seconds(batch_size, *ceilings, image_bytes=floor.INDUCTOR_BYTES)
        epochs = {}
        for name in names:
            epochs[name], failure = rounds.tried(first_round, name, made[name], size, device, limit=args.limit)
            if failure:
                del epochs[name]
                size["failed"][name] = failure
            yield record, f"batch {batch_size}, {name}: {failure or speed(size, name)}"
        for turn in range(1, args.repeats):
            order = list(epochs.items())[:: (-1) ** turn]  # whoever follows a loader's workers pays for their end
            for name, epoch in order:
                size["seconds"][name].append(rounds.clocked(epoch, device))
        yield record, table(record, size)


def first_round(name, make, size, device):
    """Makes a contender's epoch, runs it once until it is warm and once for the clock, and notes in `size` the seconds,
    the pictures that it shows, and the bytes that it and what it keeps take on a GPU at the most."""
    gc.collect()
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    epoch, shown = make()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    rounds.clocked(epoch, device)
    spent = rounds.clocked(epoch, device)
    size["peak"][name] = torch.cuda.max_memory_allocated() - before if on_gpu else None
    size["images"][name], size["seconds"][name] = shown, [spent]
    return epoch


def speed(size, name):
    """A contender's first round, in words."""
    rate = size["images"][name] / size["seconds"][name][0]
    return f"{rate:.0f} images/s, {1e3 * size['batch_size'] / rate:.2f} ms a step"


def contenders(asked, pictures, device, args):
    """name -> function that makes an epoch and says how many pictures it shows."""
    base = decide(dataclasses.replace(read_recipe(STUDY), **asked), pictures, device)
    default = decide(Config(**asked), pictures, device)
    mixing = dict(CROPS, mixup_p=0.4)

    def epochs(config, **settings):
        return lambda: ours(dataclasses.replace(config, **settings), pictures, device, args.steps)

    def whole():
        trial = train.trial(dataclasses.replace(base, **mixing))
        return lambda: next(trial), -(-len(pictures.train) // base.batch_size) * base.batch_size

    return dict(
        bare=lambda: bare(base, pictures, device, args.steps),
        model=lambda: bare(default, pictures, device, args.steps),
        crops=epochs(base, **CROPS),
        mixup=epochs(base, **mixing),
        whole=whole,
        default=epochs(default),
        steps=lambda: ours(default, pictures, device, args.steps, drawn=True),
        fp32=epochs(base, amp=False),
        bf16=epochs(base, amp=True),
        study=lambda: ways.study(base, pictures, device),
        best=lambda: ways.best(base, pictures, device, args.workers),
        timm=lambda: four.timm(default, pictures, device),
        **{name: epochs(default, **way._asdict()) for name, way in four.WAYS.items()},
    )


def ours(config, pictures, device, steps, drawn=False):
    """Epochs as train.py runs them, `steps` steps or more: each plan is drawn while the epoch before it trains, and the
    losses are looked at; without validation and files. `drawn`: the steps alone, of one plan that lies on the
    device."""
    stepper, _ = build_stepper(config, pictures, device)
    draw, _ = plans_of(config, pictures)
    number, drawing, plan = count(1), ThreadPoolExecutor(1), draw(0)
    next_plan = drawing.submit(draw, next(number))
    stepper.begin(plan)
    epochs = -(-steps // len(plan.index))

    def round_of_epochs():
        nonlocal next_plan
        for _ in range(epochs):
            if drawn:
                stepper.tables.at.zero_()
            else:
                ahead, next_plan = next_plan, drawing.submit(draw, next(number))
                stepper.begin(ahead.result())
            for t in range(len(plan.index)):
                stepper.train(t)
            if not drawn:
                stepper.check(len(plan.index))

    return round_of_epochs, epochs * plan.index.size


def bare(config, pictures, device, steps):
    """As many forward, backward and optimizer passes on one ready batch, and averages where `config` averages; model,
    precision, memory format, compiling and capture are ours."""
    stepper, _ = build_stepper(config, pictures, device)
    plan = plans_of(config, pictures)[0](0)
    row = row_of(plan, 0, device)
    x = augment.batch(stepper.pixels, row, **stepper.view, dtype=numerics.input_dtype(device, stepper.dtype))
    y, share = stepper.labels[row.index].long(), row.ema_weight
    model = stepper.model.train()

    def step():
        logits = stepper.forward(stepper.net, x, stepper.dtype)
        stepper.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), y).backward()
        stepper.optimizer.step()
        if stepper.average is not None:
            lerp(floating(stepper.average), floating(model), share)

    call = stepper.record(step) if stepper.record else step

    epochs = -(-steps // len(plan.index))

    def round_of_epochs():
        for _ in range(epochs * len(plan.index)):
            call()

    return round_of_epochs, epochs * plan.index.size


if __name__ == "__main__":
    rounds.leave(main())
