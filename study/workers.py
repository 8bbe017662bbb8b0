"""The processes that fill a study: workers that take trials, and a supervisor that replaces the dead ones.

`execute` runs what is left of a study, as many trials at a time as go fastest together, and says what becomes of each.
"""

import contextlib
import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

from config import spelled
from engine.numerics import pick_device
from engine.run import Stop
from errors import ConfigError, LongtailError, Stopped
from pictures.children import child_command, child_environment
from study import pace, ranking
from study.job import Job
from study.lease import Lease, LeaseLost
from study.table import Study

DEATHS = 5  # of a trial's workers, one after another, before it is a failed row
LONG = 60  # minutes from which a study is told how to become smaller


def add_flags(parser):
    """What every command that fills a study takes."""
    how = parser.add_argument_group("how")
    how.add_argument("--pack", default="auto", help="trials at a time on a device; auto: measured (default auto)")
    how.add_argument("--devices", default="", metavar="0,1", help="CUDA devices, a worker each")
    how.add_argument(
        "--shard", default="0/1", metavar="I/N", help="only every N-th trial, from the I-th on: for arrays of jobs"
    )
    how.add_argument("--retry-failed", action="store_true", help="run failed trials again")


def check_flags(space, base):
    """Turns the words of `add_flags` into values, before anything is written; ConfigError names one that cannot be."""
    space.pack = space.pack if space.pack == "auto" else number("--pack", space.pack, 1, 256)
    shard, slash, of = space.shard.partition("/")
    if not (slash and shard.isdecimal() and of.isdecimal() and int(shard) < int(of)):
        raise ConfigError(f"--shard {space.shard}: give I/N with I from 0 to N - 1")
    space.shard = int(shard), int(of)
    space.devices = [number("--devices", d, 0) for d in space.devices.split(",")] if space.devices else []
    if pick_device(base.device).type != "cuda" and space.devices:
        raise ConfigError("--devices are CUDA devices, and this study computes elsewhere: drop it")


def _tell(study, row, done):
    """A finished trial in a line."""
    c = study.config(row["trial"])
    what = [f"{k} {spelled(getattr(c, k))}" for k in ranking.varied(study)]
    what = what if len(what) < 6 else [*what[:4], f"{len(what) - 4} more"]
    what += [f"fold {c.fold}"] * bool(c.folds) + [f"seed {c.seed}"]
    said = f"{done:4d}  trial {row['trial']} ({', '.join(what)}): "
    if row["status"] != "ok":
        return said + f"failed: {row['reason']}"
    if "macro_f1" in row:
        said += f"macro F1 {row['macro_f1']:.4f}, accuracy {row['val_acc']:.4f}"
    else:
        said += f"train loss {row['train_loss']:.4f}"
    return said + f", epoch {row['epoch']}, {row['seconds']:.0f} s"


def execute(study, space, base, stop):
    """Runs what is left of a study (of its shard), with a line a trial and a bar on terminals. space: the parsed
    `add_flags`. True if every trial of the study then has its row."""
    from tqdm import tqdm

    if space.retry_failed:
        print(f"{study.retry()} failed trials forgotten", file=sys.stderr)
    for i, row in study.latest().items():
        if study.over(row):  # a kill may have come between the row and this
            (study.run(i) / "last.pt").unlink(missing_ok=True)
    study.write_results()
    if not study.jobs():
        return True
    workers, interleaved, rate = pace.measure(study, base.device, space.pack, base.threads)
    side_by_side = f"{workers} at a time, {study.spec['threads']} threads each"
    shape = side_by_side if interleaved == 1 else f"{interleaved} in turns"
    expected = pace.minutes(study, rate) / max(1, len(space.devices)) / space.shard[1]
    print(
        f"{study.folder}: {len(study.trials)} trials, {len(study.latest())} done; {shape}, {rate:.0f} images/s: "
        f"about {expected:.0f} minutes",
        file=sys.stderr,
    )
    if expected > LONG:
        print(
            "to make it smaller: a smaller --img-size or fewer --epochs, --halving 3, fewer values or --folds, or "
            "--random N of the grid",
            file=sys.stderr,
        )
    best, written = [-1.0, ""], [0.0]
    with tqdm(total=len(study.trials), initial=len(study.latest()), unit="trial", disable=None, smoothing=0) as bar:

        def seen(row):
            done = len(study.latest())
            tqdm.write(_tell(study, row, done), file=sys.stderr)
            if row["status"] == "ok" and row.get("macro_f1", -1) > best[0]:
                best[:] = row["macro_f1"], f"best so far {row['macro_f1']:.4f}, trial {row['trial']}"
            bar.n = done
            bar.set_postfix_str(best[1])
            if time.monotonic() - written[0] > 5:  # of a thousand trials it takes a fifth of a second
                study.write_results()
                written[0] = time.monotonic()

        fill(
            study,
            workers=workers,
            device=base.device,
            pack=interleaved,
            shard=space.shard,
            devices=space.devices,
            stop=stop,
            seen=seen,
        )
    study.write_results()
    return not study.jobs()


def number(flag, word, low, high=10**6):
    """A whole number within bounds, from the command line's text."""
    if not str(word).isdecimal() or not low <= int(word) <= high:
        raise ConfigError(f"{flag} {word}: give a whole number from {low} to {high}")
    return int(word)


def work(folder, device, pack, shard, parent, stop):
    """Takes trials of the study in `folder` one after another, `pack` of them in turns, until none is left.

    CPU: pack is 1 and there are several workers. CUDA: each of the packed trials has its own stream. `parent`: the
    process whose end ends this one too.
    """
    study, running = Study(folder), []
    threading.Thread(target=_beat, args=(running, parent), daemon=True).start()
    while not stop.number:
        stop.held = True  # a signal waits for the next batch's end
        study.refresh()
        while len(running) < pack and (lease := study.claim(shard)):
            running.append(Job(study, lease, device, stop))
        if not running:
            if not _left(study, shard):
                return
            time.sleep(0.3)
        _advance(running)
    _advance(running)  # each saves and stops
    raise Stopped(stop.number)


def _left(study, shard):
    """Whether this shard has trials to wait for. With halving the others' too: the next rung needs them."""
    return any(study.spec["halving"] or i % shard[1] == shard[0] for i, _ in study.jobs())


def _advance(running):
    for job in list(running):
        if job.advance():
            running.remove(job)
            job.lease.release()


def _beat(running, parent):
    """Says every few seconds that the leases are alive; asks for a stop once the parent is gone."""
    tick = 0
    while True:
        time.sleep(0.5)
        tick += 1
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if tick % max(1, int(Lease.TTL / 3)) == 0:
            for job in list(running):
                job.lease.touch()


def fill(study, *, workers, device, pack, shard, devices, stop, seen):
    """Runs worker processes until every trial (of the shard) has its row; `seen(row)` is called once for each new one.

    A worker that dies is replaced, and its trial resumed; after DEATHS in a row the trial is a failed row. Raises
    Stopped after the workers have saved.
    """
    command = child_command("study.workers", study.folder, device, pack, *shard, os.getpid())
    places = [child_environment(CUDA_VISIBLE_DEVICES=str(d)) for d in devices] or [child_environment()]

    def spawn(n):
        with open(study.folder / "workers.log", "a") as log:
            return subprocess.Popen(
                command,
                env=dict(places[n % len(places)], PYTHONUNBUFFERED="1"),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    stop.held = True  # from here on a signal is passed on to the workers, which save
    children = [spawn(n) for n in range(workers * len(places))]
    deaths, known, late = {}, set(study.rows()), math.inf
    try:
        while True:
            time.sleep(0.2)
            fresh = {k: row for k, row in study.rows().items() if k not in known}
            known |= set(fresh)
            if fresh:
                study.refresh()  # another process may have added the trial
                deaths.pop(None, None)
                if not _left(study, shard):
                    late = time.monotonic() + Lease.TTL
            for row in fresh.values():
                seen(row)
            if stop.number:
                raise Stopped(stop.number)
            codes = [child.poll() for child in children]
            if all(code == 0 for code in codes) or time.monotonic() > late:  # a stopped worker's trial went to another
                break
            for n, code in enumerate(codes):
                if code not in (None, 0):
                    _mourn(study, children[n].pid, code, deaths)
                    children[n] = spawn(n)
            if deaths.get(None, 0) >= DEATHS:
                raise LongtailError(f"workers die as soon as they start: {study.folder / 'workers.log'} says why")
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            try:
                child.wait(Lease.TTL)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        stop.held = False
    for k, row in study.rows().items():
        if k not in known:
            seen(row)


def _mourn(study, pid, code, deaths):
    """Counts a worker's death against the trials it held; a trial with too many of them becomes a failed row."""
    how, held = signal.Signals(-code).name if code < 0 else f"exit status {code}", None
    for path in (study.folder / "leases").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            holder = json.loads(path.read_text())
            if (holder["host"], holder["pid"]) == (Lease.HOST, pid):
                held, until = map(int, path.name.split(".")[0].split("-"))
                i, deaths[held] = held, deaths.get(held, 0) + 1
                if deaths[i] >= DEATHS and (lease := Lease.take(study, i, until)):
                    reason = f"its worker died {DEATHS} times ({how}); {study.folder / 'workers.log'} may say why"
                    with contextlib.suppress(LeaseLost):
                        config = study.config(i)
                        row = dict(trial=i, until=until, fold=config.fold, seed=config.seed)
                        study.publish(lease, dict(row, status="failed", reason=reason))
                    lease.release()
    if held is None:
        deaths[None] = deaths.get(None, 0) + 1


def main():
    """What `fill` starts: not a command for people."""
    folder, device, pack, shard, of, parent = sys.argv[1:]
    gc.freeze()  # what was imported stays: so that a trial's end looks through what it leaves alone
    stop = Stop(patient=True).listen()  # Slurm signals a whole task, and the supervisor does, while this one saves
    try:
        work(folder, device, int(pack), (int(shard), int(of)), int(parent), stop)
    except Stopped as e:
        return 128 + e.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
