"""Runs what bench/gpu-first.sh or bench/gpu-second.sh lists, one after the other, and keeps a dated record of it.

    bench/gpu-first.sh, bench/gpu-second.sh                        on a GPU; `make gpu` runs both
    DEVICE=cpu SMALL=1 OUT=/tmp/results bench/gpu-first.sh         the same chain in small, to see that it works

A line of the list on stdin is `seconds | name | command | flags of a small run`; {caches} stands for the folder of the
compile caches, which all share. What a bench prints is passed on as it comes; what it wrote until it ended, or was
ended after its seconds, is in the record. The others then run. Exit 1 where one failed, or where there is no GPU.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch

from bench import targets
from engine.run import environment
from errors import Parser

ROOT = Path(__file__).resolve().parent.parent
SAID = 200  # lines of a bench that are kept, the last ones
LEAST = 8  # seconds under which nothing is begun: a process takes as long to import torch


class Bench(NamedTuple):
    """limit: seconds that it may take. small: flags that make it a small run."""

    limit: float
    name: str
    command: list
    small: list


def listed(text):
    """The Benches of a list; lines that are empty or begin with # say nothing."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            limit, name, command, small = (part.strip() for part in line.split("|"))
            found.append(Bench(float(limit), name, shlex.split(command), shlex.split(small)))
    return found


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--name", required=True, help="of the list, which the record's name ends with")
    parser.add_argument("--seconds", type=float, required=True, help="that all may take")
    parser.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--only", nargs="+", metavar="BENCH", help="only these")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes, whose figures mean nothing")
    parser.add_argument("--commit", help="what to record where there is no .git")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py: no CUDA device here", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the bench of the moment is ended too
    found = measure(args, [b for b in listed(sys.stdin.read()) if b.name in (args.only or b.name)])
    return int(any(bench["status"].startswith("failed") for bench in found["benches"].values()))


def measure(args, benches):
    """Runs `benches` in turn and returns the record, which is written after each of them."""
    begin, device = time.monotonic(), torch.device(args.device)
    versions = environment(device)
    versions |= dict(
        commit=versions["commit"] or args.commit,
        triton=triton_version(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
    )
    record = dict(versions, benches={})
    path = fresh(args.out, versions["started"][:10], f"{versions['device']} {args.name}")
    with tempfile.TemporaryDirectory() as folder:
        for bench in benches:
            left = args.seconds - (time.monotonic() - begin)
            print(f"== {bench.name}: {bench.limit:.0f} s at the most, {left:.0f} are left", flush=True)
            record["benches"][bench.name] = found = run(bench, args, Path(folder), left)
            print(f"== {bench.name}: {found['status']}", flush=True)
            record["seconds"] = time.monotonic() - begin
            measured = {n: b["record"] for n, b in record["benches"].items() if b["record"]}
            record["targets"] = targets.rows(measured, versions["device"])
            path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(f"{path.with_suffix('.md')}", flush=True)
    return record


def run(bench, args, folder, left):
    """What one bench said, its record, how long it took and how it ended."""
    if left < LEAST:
        return dict(status=f"left out: {max(left, 0):.0f} s were left", said="", record=None)
    file = folder / f"{bench.name}.json"
    command = [word.replace("{caches}", str(folder)) for word in bench.command]
    command += bench.small if args.small else []
    is_test = "pytest" in command
    if not is_test:
        command += ["--device", args.device, "--json", str(file)]
    # Caches of their own, which the benches share: what they compile does not depend on what ran here before.
    caches = dict(TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor"), TRITON_CACHE_DIR=str(folder / "triton"))
    limit = min(bench.limit * (5 if args.small else 1), left)  # in small it may run on a CPU that others use
    begin = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
        env={**os.environ, **caches, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
    )
    lines = []
    reader = threading.Thread(target=pass_on, args=(child.stdout, lines), daemon=True)
    reader.start()
    try:
        code = child.wait(limit)
        status = "ok" if code == 0 else f"failed: exit {code}"
    except subprocess.TimeoutExpired:
        status = f"cut short after {limit:.0f} s"
    finally:
        end(child)
    reader.join(5)
    seconds = round(time.monotonic() - begin, 1)
    if is_test:
        found = outcomes(lines)
    else:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:  # it did not come that far
            found = None
    return dict(command=command, seconds=seconds, status=status, said="\n".join(lines[-SAID:]), record=found)


def pass_on(stream, lines):
    """Prints the lines of a bench as they come, and keeps them."""
    for line in stream:
        print(line, end="", flush=True)
        lines.append(line.rstrip("\n"))


def end(child):
    """Ends a bench and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def outcomes(lines):
    """How many tests ran and how many of them failed, by what `pytest -v` says of each; the names of those that did."""
    verdicts = [re.match(r"(\S+::.+?) (PASSED|FAILED|ERROR)\b", line) for line in lines]
    verdicts = [verdict for verdict in verdicts if verdict]
    failed = [verdict[1] for verdict in verdicts if verdict[2] != "PASSED"]
    return dict(ran=len(verdicts), failed=len(failed), names=failed)


def triton_version():
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def fresh(folder, day, device):
    """folder/DAY-DEVICE without suffix, or with -2, -3 ... where that was recorded already."""
    name = f"{day}-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}"
    folder.mkdir(parents=True, exist_ok=True)
    taken, number, path = {p.stem for p in folder.iterdir()}, 1, name
    while path in taken:
        number += 1
        path = f"{name}-{number}"
    return folder / path


def markdown(r):
    """The record for people: targets, what is missing, and what each bench said."""
    said = [
        f"# {r['device']}, {r['started'][:10]}",
        "",
        f"`python {' '.join(r['command'])}`, commit {r['commit']}, {r['seconds']:.0f} s. torch "
        f"{r['torch']}, triton {r['triton']}, CUDA {r['cuda']}, cuDNN {r['cudnn']}, Python {r['python']}, NumPy "
        f"{r['numpy']}, Pillow {r['pillow']}; {r['cpu']}, {r['platform']}.",
        "",
        "| | target | measured | |",
        "| --- | --- | --- | --- |",
    ]
    said += [f"| {' | '.join(row)} |" for row in r["targets"]]
    missing = {name: bench["status"] for name, bench in r["benches"].items() if bench["status"] != "ok"}
    if missing:
        said += ["", "Incomplete: " + "; ".join(f"{name} {status}" for name, status in missing.items()) + "."]
    for name, bench in r["benches"].items():
        said += ["", f"## {name}", ""]
        if "command" in bench:
            said += [f"`python {' '.join(bench['command'])}`, {bench['seconds']:.0f} s, {bench['status']}", ""]
        said += [bench["said"] or bench["status"]]
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    sys.exit(main())
