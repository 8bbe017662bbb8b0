"""A whole run of train.py, from its process's start to its finished folder: cold, with an empty compile cache; warm,
with the full one; eager, neither compiled nor captured. And what they learned, epoch by epoch, beside each other.

    python -m bench.epochs [--epochs 50] [--pictures 4780] [--img-size 224] [--batch-size 64] [--json FILE]

Default settings but for those; a tenth of all pictures validates. They are decoded before, which is timed apart. Each
run is told and written when it ends.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench import jpegs, rounds
from config import Config
from engine.build import prepare_pictures
from engine.numerics import pick_device
from engine.run import environment
from errors import Parser

ROOT = Path(__file__).resolve().parent.parent
RUNS = dict(cold=[], warm=[], eager=["--no-compile"])  # flags of each


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=4780, help="training pictures (default 4780)")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: as torch has them)")
    parser.add_argument("--runs", nargs="+", default=["cold", "warm"], choices=RUNS, help="in this order")
    parser.add_argument("--limit", type=float, default=0, help="seconds that a run may take (default 0: any)")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="compile cache, which should be empty for the first run (default: a temporary one)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--json", metavar="FILE", help="write the record here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LONGTAIL_CACHE"] = temporary + "/cache"
        for record, said in measure(args, Path(temporary)):
            rounds.tell(said, record, args.json)
            failed = record["failed"]
    return int(bool(failed))


def measure(args, folder):
    """Yields the record and a text after each run."""
    device, load = pick_device(args.device), os.getloadavg()[0]
    jpegs.paint(folder / "pictures", round(args.pictures / 0.9))
    config = Config(data=str(folder / "pictures"), img_size=args.img_size, val_split=0.1)
    begin = time.perf_counter()
    pictures = prepare_pictures(config)
    decoded = time.perf_counter() - begin
    cache = Path(args.cache or folder / "compiled")
    os.environ |= dict(TORCHINDUCTOR_CACHE_DIR=str(cache / "inductor"), TRITON_CACHE_DIR=str(cache / "triton"))
    record = dict(
        vars(args),
        **environment(device),
        load=load,
        kind=device.type,
        training=len(pictures.train),
        validation=len(pictures.val),
        decoded=decoded,
        runs={},
        failed={},
    )
    for name in args.runs:
        found, failure = rounds.tried(run, args, config, folder, name)
        if failure:
            record["failed"][name] = failure
        else:
            record["runs"][name] = found
        yield record, f"{name}: " + (failure or f"{found['seconds']:.1f} s")
    yield record, table(record)


def run(args, config, folder, name):
    """Seconds of one run, from start to end and by epoch."""
    command = [
        sys.executable,
        "train.py",
        "--data",
        config.data,
        "--val-split",
        "0.1",
        "--img-size",
        args.img_size,
        "--epochs",
        args.epochs,
        "--batch-size",
        args.batch_size,
        "--device",
        args.device,
        "--threads",
        args.threads,
        "--project",
        folder / "runs",
        "--name",
        name,
        *RUNS[name],
    ]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=args.limit or None,
        )
    except subprocess.TimeoutExpired as late:
        raise TimeoutError(f"not done in {args.limit:g} s: {(late.stderr or b'').decode()[-1000:]}") from None
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"train.py ended with {done.returncode}: {done.stderr[-3000:]}")
    with open(folder / "runs" / name / "results.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return dict(
        seconds=seconds,
        epochs=[float(row["seconds"]) for row in rows],
        images_per_s=[float(row["images_per_s"]) for row in rows],
        train_loss=[float(row["train_loss"]) for row in rows],
        nll=[float(row["nll"]) for row in rows],
    )


def table(r):
    """The record as Markdown."""
    said = [
        f"**{r['epochs']} epochs of {r['training']} pictures at {r['img_size']} px, batch {r['batch_size']}, "
        f"{r['validation']} validate, start to finished folder.**",
        "",
        f"n = 1 each. {r['device']}; {r['cpu']}, load {r['load']:.1f} before; torch {r['torch']}, commit "
        f"{r['commit']}. Decoding, before and apart: {r['decoded']:.1f} s.",
        "",
        "| run | s | of it in epochs | the first epoch | the median epoch | images/s in it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in r["runs"].items():
        said.append(
            f"| {name} | {found['seconds']:.1f} | {sum(found['epochs']):.1f} | {found['epochs'][0]:.2f} | "
            f"{statistics.median(found['epochs']):.3f} | {statistics.median(found['images_per_s']):.0f} |"
        )
    said += [f"| {name} | {failure} | | | | |" for name, failure in r["failed"].items()]
    said += ["", "| run | training loss by epoch | validation loss |", "| --- | --- | --- |"]
    for name, found in r["runs"].items():
        losses = [" ".join(f"{value:.4f}" for value in found[key][:5]) for key in ("train_loss", "nll")]
        said.append(f"| {name} | {' | '.join(losses)} |")
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(main())
