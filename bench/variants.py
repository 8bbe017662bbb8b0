"""What a change of the training step gives, graphs side by side, and what is compiled again.

    python -m bench.variants [--batch-size 128] [--changes NAME ...] [--packed 32 64 256] [--trials 20] [--json FILE]

The steps of an epoch of the default settings, drawn before; one thing is changed at a time and all take turns in one
run. Each change is told and written when its first round is over; `--packed` alone and `--trials 0` leave a part out.
Learning rate 1e-8, so that a change which would not train is timed as well. Where there is no CUDA nothing is compiled
or captured, and rows that differ in nothing else say so.
"""

import functools
import gc
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from engine.build import build_stepper, plans_of, prepare_pictures
from engine.numerics import pick_device
from errors import Parser

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it before the first use

import torch

import kernels
from bench import changes, jpegs, rounds
from bench.step import TRAINED
from config import Config
from engine import numerics
from engine.run import environment

TRIALS = 20


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=64, help="steps a round at the least (default 64)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: as torch has them)")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--model", default="resnet18", choices=("resnet18", "resnet32"))
    parser.add_argument("--changes", nargs="+", default=list(changes.CHANGES), choices=changes.CHANGES, metavar="NAME")
    parser.add_argument("--limit", type=float, default=0, help="seconds until a change is warm (default 0: any)")
    parser.add_argument("--packed", type=int, nargs="*", default=[32, 64, 256], help="batches of graphs side by side")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"that must compile nothing (default {TRIALS})")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--json", metavar="FILE", help="write the record with every round's seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LONGTAIL_CACHE"] = temporary + "/cache"
        for record, said in measure(args, Path(temporary)):
            rounds.tell(said, record, args.json)
    return int(any(reason != changes.ONLY_ON_CUDA for reason in record["failed"].values()))


def measure(args, folder):
    """Yields the record and a text after each of its parts."""
    device, load = pick_device(args.device), os.getloadavg()[0]
    jpegs.paint(folder / "pictures", max(8, min(args.steps * args.batch_size, TRAINED)))
    config = Config(
        data=str(folder / "pictures"),
        model=args.model,
        img_size=args.img_size,
        batch_size=args.batch_size,
        lr=1e-8,
        val_split=0.0,
        threads=args.threads,
        device=args.device,
        project=str(folder / "runs"),
    )
    pictures = prepare_pictures(config)
    r = dict(vars(args), **environment(device), load=load, kind=device.type)
    numerics.repeatable(False)  # as train.py does
    yield (
        r,
        (
            f"{r['device']}; {r['cpu']}, {r['threads']} threads, load {load:.1f} before; torch {r['torch']}, commit "
            f"{r['commit']}. {args.model}, {args.img_size} px, default settings; medians of {args.repeats} alternating "
            "rounds (min to max).\n"
        ),
    )
    for found, name in changes.one_at_a_time(config, pictures, device, args):
        r |= found
        yield r, changes.in_words(r, name) if name else changes.changes_table(r)
    gc.collect()  # graphs hang in cycles
    if args.trials:
        r["compiled_again"] = again(config, pictures, device, args.trials)
        yield (
            r,
            (
                f"{args.trials} trials that differ in loss table, lambda, learning rate, decay, dropout and order of "
                f"the data: {r['compiled_again']['graphs']} graphs and {r['compiled_again']['kernels']} kernels "
                "compiled after the first one.\n"
            ),
        )
    r["packed"] = []
    for batch_size in args.packed:
        r["packed"].append(side_by_side(replace(config, batch_size=batch_size), pictures, device, args.repeats))
        yield r, packed_table(r)


def again(config, pictures, device, trials):
    """How many graphs inductor and kernels Triton compile for `trials` trials after a first one."""
    compiled = []
    if kernels.usable(device):
        from triton import knobs

        knobs.runtime.jit_post_compile_hook = lambda **_: compiled.append(1)
    counted = []
    for i in range(trials + 1):
        share = (i + 1) / (trials + 2)
        other = replace(
            config,
            ls=share,
            gamma=3 * share,
            loss_tau=share,
            mixup_alpha=share,
            lr=1e-6 * share,
            seed=i,
            weight_decay=share,
            ema_epochs=10 * share,
            dropout=share / 2,
            balance=("none", "weights", "sampler")[i % 3],
        )
        stepper, _ = build_stepper(other, pictures, device)
        plan = plans_of(other, pictures)[0](0)
        stepper.begin(plan)
        for t in range(min(len(plan.index), 6)):  # three as they are, then recorded
            stepper.train(t)
        counted.append((torch._dynamo.utils.counters["stats"]["unique_graphs"], len(compiled)))
        del stepper
        gc.collect()
    graphs, built = zip(*counted)
    return dict(trials=trials, graphs=graphs[-1] - graphs[0], kernels=built[-1] - built[0], first=counted[0])


def side_by_side(config, pictures, device, repeats, most=4):
    """Seconds of an epoch's steps of 1, 2 and `most` trials, each on a stream of its own, over one Store."""
    plan, trials = plans_of(config, pictures)[0](0), []
    for seed in range(most):
        stream = torch.cuda.Stream() if device.type == "cuda" else None
        with torch.cuda.stream(stream):
            trials.append((build_stepper(replace(config, seed=seed), pictures, device)[0], stream))

    def epoch(number):
        for stepper, stream in trials[:number]:
            with torch.cuda.stream(stream):
                stepper.begin(plan)
        for t in range(len(plan.index)):
            for stepper, stream in trials[:number]:
                with torch.cuda.stream(stream):
                    stepper.train(t)

    rounds.clocked(lambda: epoch(most), device)
    numbers = (1, 2, most)
    spent = rounds.in_turn({str(n): functools.partial(epoch, n) for n in numbers}, device, repeats)
    return dict(batch_size=config.batch_size, images=plan.index.size, seconds=spent)


def packed_table(r):
    said = ["| batch | graphs side by side | images/s of all | of one's |", "| --- | --- | --- | --- |"]
    for size in r["packed"]:
        for number, spent in size["seconds"].items():
            speed = [int(number) * size["images"] / s for s in spent]
            one = [size["images"] / s for s in size["seconds"]["1"]]
            said.append(
                f"| {size['batch_size']} | {number} | {rounds.spread(speed, 0)} | {rounds.ratios(speed, one)} |"
            )
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    rounds.leave(main())
