"""How soon a run that was started before takes its first step, and how soon pictures that were decoded are found again.

Every start is a process of its own: seconds from the moment `import torch` is done to the end of the first training
step, for a new run on known pictures and for a run that is resumed, in turn. Then the seconds of load_store on pictures
that it decoded before. Works in a temporary folder with the default settings; it needs a quiet machine.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from errors import Parser
from pictures import store, synthetic

ROOT = Path(__file__).resolve().parent.parent

# Prints the seconds, then stops the run as a user would: it saves its state, and the next process can resume it.
CHILD = """
import torch, time
start = time.perf_counter()
import json, os, signal, sys, train
from engine import step
whole_step = step.Stepper.train
def first_step(self, t):
    whole_step(self, t)
    float(self.losses[t])  # waits for the device
    print(json.dumps([time.perf_counter() - start, torch.__version__, torch.get_num_threads(), str(self.device)]))
    os.kill(os.getpid(), signal.SIGTERM)
step.Stepper.train = first_step
sys.exit(train.main(sys.argv[1:]))
"""


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="folder of pictures (default: the built-in set, made afresh)")
    parser.add_argument("--repeats", type=int, default=5, help="starts of each kind (default 5)")
    parser.add_argument("--pictures", type=int, default=50_000, help="files for load_store (default 50000)")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["LONGTAIL_CACHE"] = str(root / "cache")
        folder = Path(args.folder or root / "built-in").resolve()
        if not args.folder:
            synthetic.make(folder)
        cold, *versions = start(folder, root, "run")
        seconds = dict(new=[], resumed=[])
        for i in range(args.repeats):
            seconds["new"] += start(folder, root, f"new-{i}")[:1]
            seconds["resumed"] += start(folder, root, "run", "--resume")[:1]
        reused = reuse(root, args.pictures, args.repeats)
    print(
        f"**Claim: the second start of a run takes its first step within 3 s of importing torch; decoded pictures "
        f"are reused in under 1 s.**\n\nn = {args.repeats} each, processes in turn: median (min to max). "
        f"{platform.platform()}, {os.cpu_count()} CPUs, {versions[1]} threads on {versions[2]}, load {load:.1f}; "
        f"torch {versions[0]}, Python {platform.python_version()}. Default settings on "
        f"{args.folder or 'the built-in set'}.\n\n| what | seconds | target |\n| --- | --- | --- |"
    )
    for what, measured, target in (
        ("first start, which decodes, to its first step", [cold], ""),
        ("new run on decoded pictures, to its first step", seconds["new"], "<= 3"),
        ("resumed run, to its first step", seconds["resumed"], "<= 3"),
        (f"load_store of {args.pictures:,} decoded pictures", reused, "< 1"),
    ):
        print(f"| {what} | {statistics.median(measured):.2f} ({min(measured):.2f} to {max(measured):.2f}) | {target} |")


def start(folder, root, name, *flags):
    """[seconds, torch's version, threads, device] of one process that trains for a step."""
    command = [sys.executable, "-c", CHILD, "--data", folder, "--project", root / "runs", "--name", name, *flags]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if child.returncode != 143:
        raise SystemExit(f"start.py: exit {child.returncode} instead of 143\n{child.stderr}")
    return json.loads(child.stdout)


def reuse(root, number, repeats):
    """Seconds of each load_store of `number` files. They hold 8x8 pixels: a Store is only mapped."""
    files = [root / "many" / f"{i // 1000:04d}" / f"{i}.jpg" for i in range(number)]
    Image.new("RGB", (8, 8)).save(root / "one.jpg")
    picture = (root / "one.jpg").read_bytes()
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
    time.sleep(2.1)  # younger files are not trusted to stay as they are
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        store.load_store(files, 8)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


if __name__ == "__main__":
    main()
