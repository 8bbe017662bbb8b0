"""What a study costs beside its training, what trials side by side cost each other, and what a kill does to it.

    python -m bench.study                       overhead, packing and --status; about five minutes on two idle cores
    python -m bench.study --kills 30            30 kill -9 over one study, each at a random moment

Trains small networks on the CPU, one thread each. Beside wall times it gives CPU seconds, which other processes on the
machine move less. Prints Markdown; --kills exits 1 if the killed study's table differs from that of one that was left
alone.
"""

import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import train
from config import Config
from engine.step import Stepper
from engine.stop import StopRequest
from errors import Parser
from pictures import synthetic
from study import pace, supervisor, workers
from study.begin import begin_study
from study.table import Study, write_spec

ROOT = Path(__file__).resolve().parent.parent

BASE = dict(batch_size=16, img_size=32, width=0.125, threads=1, device="cpu", warmup=1.0, monitor="last")
TIMES = ("seconds",)  # the columns of results.csv that may differ


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="trials of the study (default 20)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of a trial: how long it takes (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="alternations of every comparison (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="trials side by side (default 2)")
    parser.add_argument("--rows", type=int, default=1000, help="finished trials that --status reads (default 1000)")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 this often, and measure nothing (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    parser.add_argument(
        "--do", nargs=2, metavar=("WHAT", "FOLDER"), help="what this script starts: alone, startup or supervise"
    )
    args = parser.parse_args()
    if args.do:
        return dict(alone=alone, startup=startup, supervise=supervise)[args.do[0]](args.do[1], args.workers)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} "
        f"cores, load {os.getloadavg()[0]:.1f}. Networks of width {BASE['width']} at {BASE['img_size']} px, "
        f"{args.epochs} epochs.\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        synthetic.make(root / "pictures", classes=6, scale=0.15, size=48)
        os.environ["LONGTAIL_CACHE"] = str(root / "cache")
        if args.kills:
            return kills(args, root)
        overhead(args, root)
        packing(args, root)
        status(args, root)
    return 0


def begun(args, root, name, trials):
    """A study of `trials` seeds, ready for workers on one thread."""
    base = Config(**BASE, epochs=args.epochs, data=str(root / "pictures"))
    study = begin_study(root / name, base, [dict(seed=i) for i in range(trials)])
    write_spec(study.folder / "study.json", dict(study.spec, threads=1))
    study.refresh()
    return study


def timed(*command, core=None):
    """(wall seconds, CPU seconds with all descendants, stdout) of a command of this project, on one core if given."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=out, stderr=err)
        if core is not None:
            os.sched_setaffinity(child.pid, {core})
        _, status, used = os.wait4(child.pid, 0)
        wall, child.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if child.returncode:
            raise SystemExit(f"bench/study.py: exit {child.returncode} of {command}\n{err.read()}")
        return wall, used.ru_utime + used.ru_stime, out.read()


# overhead -------------------------------------------------------------------------------------------------------------


def alone(folder, _):
    """The trials of a study by train.train, one after another in this process; prints the seconds of each."""
    study = Study(folder)
    for i in range(len(study.trials)):
        start = time.perf_counter()
        train.train(replace(study.config(i), project=str(study.folder / "alone"), name=f"{i:04d}", threads=1))
        print(time.perf_counter() - start)
    return 0


def startup(folder, _):
    """A worker in this process; prints for every trial the seconds from the end of the one before to its first step."""
    marks, begin = [time.perf_counter()], Stepper.begin

    def first(stepper, plan, t=0):
        if stepper.tables is None:
            marks.append(time.perf_counter())
        begin(stepper, plan, t)

    publish = Study.publish

    def last(study, lease, row):
        publish(study, lease, row)
        marks.append(time.perf_counter())

    Stepper.begin, Study.publish = first, last
    workers.work(folder, "cpu", 1, (0, 1), os.getppid(), StopRequest())
    print(*(b - a for a, b in zip(marks[::2], marks[1::2])), sep="\n")
    return 0


def supervise(folder, count):
    """What sweep.py does between its timing and its report."""
    study = Study(folder)
    stop = StopRequest().listen()
    supervisor.fill(
        study, workers=count, device="cpu", pack=1, shard=(0, 1), devices=[], stop=stop, seen=lambda row: None
    )
    study.write_results()
    return 0


def overhead(args, root):
    """Both ways at the same time, on a core each, which they exchange every round: what else the machine does strikes
    both."""
    found, trials = [], []
    for n in range(args.rounds):
        study = begun(args, root, f"overhead {n}", args.trials)
        cores = (sorted(os.sched_getaffinity(0)) * 2)[:2]
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(timed, __file__, "--do", "alone", study.folder, core=cores[n % 2])
            both = pool.submit(
                timed, __file__, "--do", "supervise", study.folder, "--workers", 1, core=cores[1 - n % 2]
            )
            (*one, out), (*both, _) = one.result(), both.result()
        trials += map(float, out.split())
        found.append([f"{b - a:+.1f} s ({b / a - 1:+.1%})" for a, b in zip(one, both)])
    study = begun(args, root, "startup", min(args.trials, 10))
    begins = sorted(map(float, timed("-m", "bench.study", "--do", "startup", study.folder)[2].split()[1:]))
    wall, cpu = zip(*found)
    print(
        f"**Overhead of a study** of {args.trials} trials of {statistics.median(trials):.1f} s, one worker, against "
        f"`train.train` on the same settings one after another, whole commands, at the same time on a core each, "
        f"{args.rounds} rounds with cores exchanged: wall "
        f"{', '.join(wall)}; CPU {', '.join(cpu)}, a second start of Python and torch included. From a trial's row "
        f"to the first step of the next: median {statistics.median(begins):.2f} s, at most {begins[-1]:.2f} s (n "
        f"{len(begins)}).\n"
    )


# packing --------------------------------------------------------------------------------------------------------------


def packing(args, root):
    config, found = replace(begun(args, root, "packing", 1).config(0), batch_size=32), []
    for _ in range(args.rounds):
        one, many = (pace.rate(config, "cpu", n, 1, 1) for n in (1, args.workers))
        found.append((one, many, many / (args.workers * one)))
    rates = ", ".join(f"{one:.0f} → {many:.0f} ({share:.0%})" for one, many, share in found)
    print(
        f"**Side by side on the CPU**: images/s of one worker → of {args.workers}, and their share of "
        f"{args.workers} times one, {args.rounds} rounds in turns: {rates}.\n"
    )


# a thousand rows ------------------------------------------------------------------------------------------------------


def status(args, root):
    study, rng = begun(args, root, "sweep", args.rows), random.Random(args.seed)
    for i in range(args.rows):
        scores = dict.fromkeys(("macro_f1", "acc", "nll", "ece"), rng.random())
        row = dict(
            trial=i,
            until=args.epochs,
            fold=0,
            seed=i,
            status="ok",
            reason="",
            epoch=args.epochs,
            seconds=5.0,
            train_loss=0.1,
            macro_f1_se=0.02,
            val_pictures=100,
            **scores,
        )
        (study.folder / "rows" / f"{i:04d}-{args.epochs}.json").write_text(json.dumps(row))
        write_answers(study.run(i), i)
    found = [timed("sweep.py", "--project", root, "--name", "sweep", "--status")[:2] for _ in range(5)]
    floor = [timed("-c", "import torch")[:2] for _ in range(5)]
    said = ["{:.2f} s wall, {:.2f} s CPU".format(*map(statistics.median, zip(*times))) for times in (found, floor)]
    print(
        f"**`sweep.py --status` of {args.rows} finished trials**, start of Python included: {said[0]} (median of 5); "
        f"`import torch` alone: {said[1]}."
    )


def write_answers(folder, seed, pictures=500, classes=50):
    """What a finished trial says of its validation pictures: noise."""
    folder.mkdir(parents=True)
    logits = np.random.default_rng(seed).normal(size=(pictures, classes)).astype(np.float32)
    np.save(folder / "val_logits.npy", logits)
    lines = [f"{k}.jpg,{k % classes},{predicted},0.5\n" for k, predicted in enumerate(logits.argmax(1))]
    (folder / "val_predictions.csv").write_text("path,true,predicted,p\n" + "".join(lines))
    (folder / "classes.txt").write_text("".join(f"{c}\n" for c in range(classes)))


# kills ----------------------------------------------------------------------------------------------------------------


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in path.read_text().split()] if path.exists() else []


def kills(args, root):
    """Kills the supervisor or a worker of one study, again and again; compares its table with an undisturbed one's."""
    rng, struck, supervisor = random.Random(args.seed), dict(supervisor=0, worker=0), None
    calm, start = begun(args, root, "calm", args.trials), time.perf_counter()
    timed("-m", "bench.study", "--do", "supervise", calm.folder, "--workers", args.workers)
    span = time.perf_counter() - start
    study = begun(args, root, "killed", args.trials)
    command = [
        sys.executable,
        "-m",
        "bench.study",
        "--do",
        "supervise",
        str(study.folder),
        "--workers",
        str(args.workers),
    ]
    while sum(struck.values()) < args.kills:
        if supervisor is None or supervisor.poll() is not None:
            if not study.jobs():  # it was through before the last blow fell: more trials
                study = begun(args, root, "killed", len(study.trials) + 2)
            supervisor = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, span / 2))
        victims = children(supervisor.pid)
        what = rng.choice(["supervisor", "worker"])
        pid = supervisor.pid if what == "supervisor" else rng.choice(victims) if victims else None
        if pid and supervisor.poll() is None and study.jobs():
            os.kill(pid, signal.SIGKILL)
            struck[what] += 1
            print(
                f"{sum(struck.values())}: {what}, {len(study.rows())} of {len(study.trials)} trials done",
                file=sys.stderr,
            )
            if what == "supervisor":
                supervisor.wait()
    if supervisor.poll() is None:
        supervisor.wait()
    timed("-m", "bench.study", "--do", "supervise", study.folder, "--workers", args.workers)
    if len(study.trials) > args.trials:
        calm = begun(args, root, "calm", len(study.trials))
        timed("-m", "bench.study", "--do", "supervise", calm.folder, "--workers", args.workers)
    tables = [table(s.folder) for s in (calm, study)]
    logs = [(study.run(i) / "train.log").read_text() for i in range(len(study.trials))]
    twice = sum(log.count("last epoch: macro F1") - 1 for log in logs)
    same = tables[0] == tables[1]
    print(
        f"**Killed at {args.kills} random moments, a study ends with the table of an undisturbed one: "
        f"{'yes' if same else 'NO'}**, byte for byte but for its seconds. {struck['supervisor']} kill -9 of the "
        f"supervisor, {struck['worker']} of one of its {args.workers} workers, seed {args.seed}; {len(study.trials)} "
        f"trials, of which {twice} wrote their last tables twice."
    )
    return 0 if same else 1


def table(folder):
    """results.csv as text without its time columns."""
    lines = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    keep = [k for k, name in enumerate(lines[0]) if name not in TIMES]
    return "\n".join(",".join(line[k] for k in keep) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
