"""Claim: making a Store costs within 10% of a bare Pillow decode-and-resize loop over as many processes.

    python -m bench.decode [DIR] [--size 256] [--processes N] [--rounds 9]

Both sides start their processes anew and import NumPy and Pillow in them; ours also hashes every file, checks it, takes
its moments, writes its pixels and forces them to disk. Rounds alternate, so that a busy machine is busy for both.
Without DIR: 300 generated JPEGs of 500 px. Exit 1 where the claim fails.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from pictures import store

# Each process takes every N-th file, so that none waits for another.
BARE = """
import sys
import numpy as np
from PIL import Image
first, step, size = map(int, sys.argv[1:])
for path in sys.stdin.read().split("\\0")[first::step]:
    np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
"""


def bare(files, size, processes, _):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, str(first), str(processes), str(size)],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        for first in range(processes)
    ]
    for child in children:
        child.stdin.write("\0".join(map(str, files)))
        child.stdin.close()
    if any([child.wait() for child in children]):
        raise SystemExit("the bare loop failed: it knows no bad files, give a folder without")


def ours(files, size, processes, cache):
    store.load_store(files, size, cache=cache, workers=processes)


def measured(function, *args):
    """Seconds by the clock, and of all processors together: the second is calmer on a busy machine."""

    def processors():
        return sum(
            used.ru_utime + used.ru_stime
            for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    clock, used = time.perf_counter(), processors()
    function(*args)
    return time.perf_counter() - clock, processors() - used


def generate(folder, count=300, side=500):
    """JPEGs of about a photograph's bytes for their size: smooth shapes and fine grain."""
    rng = np.random.Generator(np.random.PCG64(0))
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
        grain = rng.normal(0, 6, (side * 3 // 4, side, 1))
        pixels = np.asarray(coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC)) + grain
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.jpg", quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", metavar="DIR", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if args.folder is None:
            args.folder = Path(made)
            generate(args.folder)
        files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        sides = {"bare": bare, "ours": ours}
        times = {name: [] for name in sides}
        for _ in range(args.rounds + 1):
            for name, side in sides.items():
                with tempfile.TemporaryDirectory() as cache:
                    times[name].append(measured(side, files, args.size, args.processes, Path(cache)))
    print(
        f"{len(files)} files, {args.processes} processes, {args.size} px, {args.rounds} alternating rounds after one "
        f"to warm up; Python {platform.python_version()}, Pillow {PIL.__version__}, {platform.machine()}"
    )
    for kind, what in enumerate(("clock", "processors")):
        for name in sides:
            seconds = [both[kind] for both in times[name][1:]]
            median = statistics.median(seconds)
            print(
                f"{what:10} {name}  median {median:.3f} s, {len(files) / median:.0f} files/s, "
                f"from {min(seconds):.3f} to {max(seconds):.3f} s"
            )
        ratios = [a[kind] / b[kind] for a, b in zip(times["ours"][1:], times["bare"][1:])]
        ratio = statistics.median(ratios)
        print(f"{what:10} ours / bare, round by round: median {ratio:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
        if kind == 0:
            within = ratio <= 1.1
    print(f"by the clock {'within' if within else 'NOT within'} 1.10")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
