"""Training beside its floor, and beside the ways of others with the same network and pictures.

On a CPU: epochs beside forward, backward and optimizer on a batch that lies ready, and beside the way of the study that
this project comes from. On a GPU: the captured step beside the network's part of it alone, compiled and captured as
ours is; epochs beside the study's way and the best-practice way; peak memory; the floor of bench/floor.py. All take
turns in one run, the first round is thrown away, ratios are taken round by round. Writes nothing but --json; it needs a
quiet machine.
"""

import dataclasses
import gc
import json
import os
import random
import statistics
import sys
import tempfile
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F

import augment
import train
from bench import floor, jpegs, rounds, ways
from config import Config, read_recipe
from engine import numerics, resident
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.numerics import pick_device
from engine.run import environment
from engine.tables import row_of
from engine.update import floating, lerp
from errors import Parser

ROOT = Path(__file__).resolve().parent.parent

STUDY = ROOT / "recipes" / "attempt-5.json"  # flips, a centre crop, mixup p 0.4 by the batch, focal loss
CROPS = dict(crop_scale=(0.5, 1.0), mixup_p=0.0, mixup_by="row")
USUAL = dict(
    cpu=["bare", "crops", "mixup", "whole", "default", "study", "fp32", "bf16"],
    cuda=["model", "steps", "default", "study", "best"],
)
CLAIM = dict(
    cpu="on a CPU at 224 px and batch 32 an epoch takes at most 1.05 of its floor's time with flips and crops and 1.10 "
    "with mixup too, and gives at least 1.25 of the study's images/s in fp32, 2 in native bf16",
    cuda="on an H200 at 224 px a whole step takes at most 1.03 of its model's time from batch 64 on, and an epoch "
    "gives at least 30 times the study's images/s and 3 times the best-practice way's",
)


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16, help="steps an epoch at the largest batch (default 16)")
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
        choices=sorted({*USUAL["cpu"], *USUAL["cuda"]}),
        help="who takes part (default: by the device)",
    )
    parser.add_argument("--pictures", metavar="DIR", help="enlarge the pictures under DIR (default: random ones)")
    parser.add_argument("--json", metavar="FILE", help="write the record with every round's seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    random.seed(0), torch.manual_seed(0)  # the ways of others draw from both
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LONGTAIL_CACHE"] = temporary + "/cache"
        for record in measure(args, Path(temporary)):
            print(table(record, record["sizes"][-1]), flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(args, folder):
    """Runs all contenders in turn, for one batch size after the other; yields the record after each of them."""
    device, load = pick_device(args.device), os.getloadavg()[0]
    jpegs.paint(folder / "pictures", max(8, args.steps * max(args.batch_size) * 5 // 4), args.pictures)  # 1/5 validates
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
        native="bf16" if native else "fp32",
        sizes=[],
    )
    if device.type == "cuda":
        record["flops"], record["bandwidth"] = floor.ceilings(device)
    for batch_size in args.batch_size:
        made = contenders(dict(asked, batch_size=batch_size), pictures, device, args.workers)
        torch._dynamo.reset()  # what was compiled for another batch size is looked through at every call
        epochs, images, peak = {}, {}, {}
        for name in names:
            epochs[name], images[name], peak[name] = warm(made[name], device)
            print(f"batch {batch_size}: {name} is warm", file=sys.stderr)
        size = dict(
            batch_size=batch_size, images=images, peak=peak, seconds=rounds.in_turn(epochs, device, args.repeats)
        )
        if device.type == "cuda" and args.img_size == 224:
            size["floor"] = floor.seconds(batch_size, record["flops"], record["bandwidth"])
        record["sizes"].append(size)
        yield record


def warm(make, device):
    """(epoch, pictures it shows, bytes that it and what it keeps take on a GPU at the most) of a contender, which has
    run once."""
    gc.collect()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    epoch, shown = make()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rounds.clocked(epoch, device)
    return epoch, shown, torch.cuda.max_memory_allocated() - before if device.type == "cuda" else None


def contenders(asked, pictures, device, workers):
    """name -> function that makes an epoch and says how many pictures it shows."""
    base = dataclasses.replace(read_recipe(STUDY), **asked)
    default = Config(**asked)
    mixing = dict(CROPS, mixup_p=0.4)

    def epochs(config, **settings):
        return lambda: ours(dataclasses.replace(config, **settings), pictures, device)

    def whole():
        trial = train.trial(dataclasses.replace(base, **mixing))
        return lambda: next(trial), -(-len(pictures.train) // base.batch_size) * base.batch_size

    return dict(
        bare=lambda: bare(base, pictures, device),
        model=lambda: bare(default, pictures, device),
        crops=epochs(base, **CROPS),
        mixup=epochs(base, **mixing),
        whole=whole,
        default=epochs(default),
        steps=lambda: ours(default, pictures, device, drawn=True),
        fp32=epochs(base, amp=False),
        bf16=epochs(base),
        study=lambda: ways.study(base, pictures, device),
        best=lambda: ways.best(base, pictures, device, workers),
    )


def ours(config, pictures, device, drawn=False):
    """An epoch as train.py runs it, from drawing its plan to its last step, without validation and files; `drawn`: the
    steps alone, of one plan that lies on the device."""
    stepper, _ = build_stepper(config, pictures, device)
    draw, _ = plans_of(config, pictures)
    number, plan = count(1), draw(0)
    stepper.begin(plan)

    def epoch():
        if drawn:
            stepper.tables.at.zero_()
        else:
            stepper.begin(draw(next(number)))
        for t in range(len(plan.index)):
            stepper.train(t)

    return epoch, plan.index.size


def bare(config, pictures, device):
    """As many forward, backward and optimizer passes on one ready batch, and averages where `config` averages; model,
    precision, memory format, compiling and capture are ours."""
    stepper, _ = build_stepper(config, pictures, device)
    plan = plans_of(config, pictures)[0](0)
    row = row_of(plan, 0, device)
    x = augment.batch(stepper.pixels, row, **stepper.view, dtype=numerics.input_dtype(device, stepper.dtype))
    y, share = stepper.labels[row.index].long(), torch.tensor(1 - config.ema, device=device)
    model = stepper.model.train()

    def step():
        logits = stepper.forward(stepper.net, x, stepper.dtype)
        stepper.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), y).backward()
        stepper.optimizer.step()
        if stepper.average is not None:
            lerp(floating(stepper.average), floating(model), share)

    call = stepper.record(step) if stepper.record else step

    def epoch():
        for _ in range(len(plan.index)):
            call()

    return epoch, plan.index.size


def table(r, size):
    """One batch size of the record as Markdown, with the targets where the claim's conditions hold."""
    kind, batch, side = "cuda" if r["kind"] == "cuda" else "cpu", size["batch_size"], r["img_size"]
    claimed = dict(cpu=(r["kind"], side, batch) == ("cpu", 224, 32), cuda=side == 224 and batch >= 64)[kind]
    each = {name: [s / size["images"][name] for s in spent] for name, spent in size["seconds"].items()}
    alone = "bare" if "bare" in each else "model"
    rows = [
        ("bare forward + backward + optimizer", "bare", r["native"], None, ""),
        ("the model alone, with averaged weights", "model", r["native"], None, ""),
        ("longtail, its default settings, the steps alone", "steps", r["native"], "model", "<= 1.03"),
        ("longtail, flips and crops", "crops", r["native"], "bare", "<= 1.05"),
        ("longtail, flips, crops, mixup p 0.4", "mixup", r["native"], "bare", "<= 1.10"),
        (f"the same, {r['validation']} validation pictures, files", "whole", r["native"], "bare", ""),
        ("longtail, its default settings", "default", r["native"], alone, ""),
        ("the study's way, mixup p 0.4", "study", "fp32", None, ""),
        ("longtail, the same method", "fp32", "fp32", "study", ">= 1.25"),
        ("longtail, the same method", "bf16", "bf16", "study", ">= 2.00"),
        (f"the best-practice way, {r['workers']} workers, mixup", "best", r["native"], None, ""),
    ]
    if kind == "cuda":
        rows += [
            ("longtail, its default settings", "default", r["native"], "study", ">= 30"),
            ("longtail, its default settings", "default", r["native"], "best", ">= 3"),
        ]
    said = [
        f"**ResNet-18, {side} px, batch {batch}. Claim: {CLAIM[kind]}.**",
        "",
        f"n = {r['repeats']} alternating rounds of about {max(size['images'].values()) // batch} steps: median "
        f"(min to max), ratios round by round. {r['device']}; {r['cpu']}, {r['threads']} threads, load "
        f"{r['load']:.1f} before; torch {r['torch']}, Pillow {r['pillow']}, Python {r['python']}, commit "
        f"{r['commit']}. {'Enlarged' if r['pictures'] else 'Random smooth'} pictures in JPEG files of "
        f"{jpegs.FILE[0]}x{jpegs.FILE[1]} px, {r['kilobytes']:.0f} kB on average.",
        "",
    ]
    if kind == "cuda":
        said += [
            f"GB: the most that a contender had on the GPU, the {r['store'] / 1e9:.2f} of the decoded pictures "
            f"left out. Measured: {r['flops'] / 1e12:.0f} TFLOP/s in bf16, {r['bandwidth'] / 1e12:.2f} TB/s.",
            "",
        ]
    if "floor" in size:
        said += [f"The floor is {1e3 * size['floor']:.2f} ms, {batch / size['floor']:.0f} images/s.", ""]
    said += ["| an epoch of | precision | images/s | ms a step | GB | ratio | target | |", "| --- " * 8 + "|"]
    for name, key, precision, against, target in (row for row in rows if row[1] in each):
        ratio = verdict = ""
        if against in each:
            slower = against in ("bare", "model")  # time over time; else speed over speed
            a, b = (each[key], each[against]) if slower else (each[against], each[key])
            ratio = f"{rounds.ratios(a, b, 3)} of its {'time' if slower else 'images/s'}"
            if target and claimed:
                found = statistics.median([x / y for x, y in zip(a, b)])
                verdict = "met" if (found <= float(target[3:]) if slower else found >= float(target[3:])) else "missed"
        speed = rounds.spread([1 / s for s in each[key]])
        gigabytes = f"{size['peak'][key] / 1e9:.2f}" if kind == "cuda" else ""
        said.append(
            f"| {name} | {precision} | {speed} | {rounds.spread([1e3 * batch * s for s in each[key]], 2)} | "
            f"{gigabytes} | {ratio} | {target * claimed} | {verdict} |"
        )
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    main()
