"""make gpu: the tests that need a GPU, every bench that it decides, and a dated record of what they found.

    python -m bench.gpu [--minutes 9] [--out bench/results]
    python -m bench.gpu --device cpu --quick --out /tmp/results     the same chain in small, to see that it works

Every bench is a process of its own. One that fails is recorded with its last lines, one that does not fit in the
minutes is left out, which is said, and the others run. Exit 1 where one failed, or where there is no GPU. It takes
torch, triton, NumPy, Pillow and pytest; neither git nor a network.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from bench import targets
from engine.run import environment
from errors import Parser

ROOT = Path(__file__).resolve().parent.parent


class Bench(NamedTuple):
    """flags, quick: of a whole and of a small run. needs: seconds under which it is not begun; limit: it may take."""

    name: str
    script: str
    flags: str
    quick: str
    needs: int
    limit: int


BENCHES = [  # what matters most first: the last may not fit
    Bench("tests", "-m pytest", "-m gpu -q -p no:cacheprovider", "-m gpu -q -p no:cacheprovider", 20, 300),
    Bench(
        "step",
        "-m bench.step",
        "--batch-size 128 64 256 32 --repeats 3",
        "--batch-size 4 2 --img-size 64 --steps 1 --repeats 1 --workers 1 --contenders model steps default study best",
        60,
        240,
    ),
    Bench("loss-50-float32", "-m bench.loss", "", "--rows 8 --rounds 1 --calls 1", 10, 90),
    Bench(
        "loss-50-bfloat16",
        "-m bench.loss",
        "--dtype bfloat16",
        "--dtype bfloat16 --rows 8 --rounds 1 --calls 1",
        10,
        90,
    ),
    Bench(
        "loss-1000-bfloat16",
        "-m bench.loss",
        "--classes 1000 --dtype bfloat16",
        "--classes 20 --dtype bfloat16 --rows 8 --rounds 1 --calls 1",
        10,
        90,
    ),
    Bench("view", "-m bench.view", "", "--batch-size 2 --img-size 32 --rounds 1", 10, 90),
    Bench("epochs", "-m bench.epochs", "", "--epochs 1 --pictures 12 --img-size 32 --batch-size 4", 60, 200),
    Bench(
        "step-32px",
        "-m bench.step",
        "--img-size 32 --batch-size 128 --repeats 3",
        "--img-size 32 --batch-size 2 --steps 1 --repeats 1 --workers 1 --contenders model default",
        30,
        90,
    ),
    Bench(
        "variants",
        "-m bench.variants",
        "--repeats 3",
        "--img-size 32 --batch-size 2 --steps 2 --packed 2 --repeats 1 --trials 1",
        40,
        240,
    ),
    Bench("kernels", "-m bench.kernels", "", "", 30, 90),
]


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=9, help="that all may take (default 9)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--only", nargs="+", metavar="BENCH", choices=[b.name for b in BENCHES], help="only these")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose figures mean nothing")
    parser.add_argument("--commit", help="what to record where there is no .git")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py: no CUDA device here", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the bench of the moment is ended too
    found = measure(args, [b for b in BENCHES if b.name in (args.only or b.name)])
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
    path = fresh(args.out, versions["started"][:10], versions["device"])
    with tempfile.TemporaryDirectory() as folder:
        for bench in benches:
            left = 60 * args.minutes - (time.monotonic() - begin)
            print(f"{bench.name}: {left:.0f} s are left", file=sys.stderr, flush=True)
            record["benches"][bench.name] = run(bench, args, Path(folder), left)
            record["minutes"] = (time.monotonic() - begin) / 60
            record["targets"] = targets.rows({n: b["record"] for n, b in record["benches"].items() if b["record"]})
            path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(f"{path.with_suffix('.md')}", flush=True)
    return record


def run(bench, args, folder, left):
    """What one bench said, its record, how long it took and how it ended."""
    if left < bench.needs:
        return dict(
            status=f"left out: it takes {bench.needs} s and more, {max(left, 0):.0f} were left", said="", record=None
        )
    file, said, errors = (folder / f"{bench.name}.{end}" for end in ("json", "out", "err"))
    command = [*bench.script.split(), *(bench.quick if args.quick else bench.flags).split()]
    if bench.name == "kernels":
        command += [
            "--arch",
            "".join(map(str, torch.cuda.get_device_capability() if args.device == "cuda" else (9, 0))),
        ]
    elif bench.name != "tests":
        command += ["--device", args.device]
    asked = [] if bench.name == "tests" else ["--json", str(file)]
    # Caches of their own, which the benches share: what they compile does not depend on what ran here before.
    caches = dict(TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor"), TRITON_CACHE_DIR=str(folder / "triton"))
    begin = time.monotonic()
    with open(said, "w") as out, open(errors, "w") as err:
        child = subprocess.Popen(
            [sys.executable, *command, *asked],
            cwd=ROOT,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env={**os.environ, **caches, "TMPDIR": str(folder)},
        )
        try:
            code = child.wait(min(bench.limit, left))
            status = "ok" if code == 0 else f"failed: exit {code}"
        except subprocess.TimeoutExpired:
            status = (
                f"failed: not done in {bench.limit} s"
                if bench.limit < left
                else f"cut short: the minutes were over after {left:.0f} s"
            )
        finally:
            end(child)
    text, more = (path.read_text(encoding="utf-8", errors="replace").strip() for path in (said, errors))
    last = [] if status == "ok" else f"{text}\n{more}".strip().splitlines()[-30:]
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none was written, or the end came meanwhile
        found = None
    if bench.name == "tests":
        text = text.rpartition("\n")[2]
        found = outcomes(text)
    return dict(
        command=command, seconds=round(time.monotonic() - begin, 1), status=status, said=text, record=found, last=last
    )


def end(child):
    """Ends a bench and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def outcomes(line):
    """How many tests ran and how many of them failed, by pytest's last line; None if it does not say."""
    counted = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", line)}
    failed = counted.get("failed", 0) + counted.get("error", 0)
    return dict(ran=failed + counted.get("passed", 0), failed=failed) if counted else None


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
        f"`python {' '.join(r['command'])}`, commit {r['commit']}, {r['minutes']:.1f} minutes. torch "
        f"{r['torch']}, triton {r['triton']}, CUDA {r['cuda']}, cuDNN {r['cudnn']}, Python {r['python']}, NumPy "
        f"{r['numpy']}, Pillow {r['pillow']}; {r['cpu']}, {r['platform']}. The targets are for an H200.",
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
            said += [f"`python {' '.join(bench['command'])}`, {bench['seconds']:.0f} s", ""]
        said += [bench["said"] if bench["status"] == "ok" else bench["said"] + "\n\n" + bench["status"]]
        if bench.get("last"):
            said += ["", "```", *bench["last"], "```"]
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    sys.exit(main())
