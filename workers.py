"""The processes that fill a study: workers that take trials, a supervisor that replaces the dead, the timing that says how many.

`execute` runs what is left of a study. On a CPU trials run side by side in processes that share the cores; on CUDA they take turns in
one process, each on its own stream. A trial that fails is a row with its reason; its neighbours do not notice.
"""

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import config as configs
import data
import metrics
import ranking
import run as runs
import train
from study import Lease, LeaseLost, Study, StudyError, locked, write_spec

DEATHS = 5  # of a trial's workers, one after another, before it is a failed row
LONG = 60  # minutes from which a study is told how to become smaller


def add_flags(parser):
    """What every command that fills a study takes."""
    how = parser.add_argument_group("how")
    how.add_argument("--pack", default="auto", help="trials at a time on a device; auto: measured (default auto)")
    how.add_argument("--devices", default="", metavar="0,1", help="CUDA devices, a worker each")
    how.add_argument("--shard", default="0/1", metavar="I/N", help="only every N-th trial, from the I-th on: for arrays of jobs")
    how.add_argument("--retry-failed", action="store_true", help="run failed trials again")


def command(name, function):
    """Exit code of a command that fills a study: function(stop) gives it, or what stopped it does, said in a line."""
    try:
        return function(runs.Stop().listen())
    except runs.Stopped as e:
        print(f"{name}: {e}; the same command continues", file=sys.stderr)
        return 128 + e.number
    except configs.ConfigError as e:
        print(f"{name}: {e}", file=sys.stderr)
        return 2
    except (*train.ERRORS, StudyError, OSError) as e:
        print(f"{name}: {e}", file=sys.stderr)
        return 1


def check_flags(space, base):
    """Turns the words of `add_flags` into values, before anything is written; ConfigError names one that cannot be."""
    space.pack = space.pack if space.pack == "auto" else number("--pack", space.pack, 1, 256)
    shard, slash, of = space.shard.partition("/")
    if not (slash and shard.isdecimal() and of.isdecimal() and int(shard) < int(of)):
        raise configs.ConfigError(f"--shard {space.shard}: give I/N with I from 0 to N - 1")
    space.shard = int(shard), int(of)
    space.devices = [number("--devices", d, 0) for d in space.devices.split(",")] if space.devices else []
    if train.pick_device(base.device).type != "cuda" and space.devices:
        raise configs.ConfigError("--devices are CUDA devices, and this study computes elsewhere: drop it")


def _minutes(study, rate):
    """About how long the trials that are left take, from images a second."""
    pictures = data.prepare(study.spec["base"]["data"], **study.config(0).pick(data.prepare))
    done, eta, left = study.latest(), study.spec["halving"], 0.0
    for i in range(len(study.trials)):
        rungs = study.rungs(i)
        shares = [(end - start) / eta**k if eta else end for k, (start, end) in enumerate(zip([0, *rungs], rungs))]
        left += 0 if i in done else sum(shares)
    return left * (len(pictures.train) + 0.3 * len(pictures.val)) / rate / 60


def _tell(study, row, done):
    """A finished trial in a line."""
    c = study.config(row["trial"])
    what = [f"{k} {configs.text(getattr(c, k))}" for k in ranking.varied(study)]
    what = what if len(what) < 6 else [*what[:4], f"{len(what) - 4} more"]
    what += [f"fold {c.fold}"] * bool(c.folds) + [f"seed {c.seed}"]
    said = f"{done:4d}  trial {row['trial']} ({', '.join(what)}): "
    if row["status"] != "ok":
        return said + f"failed: {row['reason']}"
    scores = f"macro F1 {row['macro_f1']:.4f}, accuracy {row['val_acc']:.4f}, " if "macro_f1" in row else f"train loss {row['train_loss']:.4f}, "
    return said + scores + f"epoch {row['epoch']}, {row['seconds']:.0f} s"


def execute(study, space, base, stop):
    """Runs what is left of a study (of its shard), with a line a trial and a bar on terminals. space: the parsed `add_flags`.
    True if every trial of the study then has its row."""
    from tqdm import tqdm

    if space.retry_failed:
        print(f"{study.retry()} failed trials forgotten", file=sys.stderr)
    for i, row in study.latest().items():
        if study.over(row):  # a kill may have come between the row and this
            (study.run(i) / "last.pt").unlink(missing_ok=True)
    study.write_results()
    if not study.jobs():
        return True
    workers, interleaved, rate = pace(study, base.device, space.pack, base.threads)
    shape = f"{workers} at a time, {study.spec['threads']} threads each" if workers > 1 or interleaved == 1 else f"{interleaved} in turns"
    expected = _minutes(study, rate) / max(1, len(space.devices)) / space.shard[1]
    print(f"{study.folder}: {len(study.trials)} trials, {len(study.latest())} done; {shape}, {rate:.0f} images/s: about {expected:.0f} minutes",
          file=sys.stderr)
    if expected > LONG:
        print("to make it smaller: a smaller --img-size or fewer --epochs, --halving 3, fewer values or --folds, or --random N of the grid",
              file=sys.stderr)
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

        fill(study, workers=workers, device=base.device, pack=interleaved, shard=space.shard, devices=space.devices, stop=stop, seen=seen)
    study.write_results()
    return not study.jobs()


def number(flag, word, low, high=10**6):
    """A whole number within bounds, from the command line's text."""
    if not str(word).isdecimal() or not low <= int(word) <= high:
        raise configs.ConfigError(f"{flag} {word}: give a whole number from {low} to {high}")
    return int(word)


def work(folder, device, pack, shard, parent, stop):
    """Takes trials of the study in `folder` one after another, `pack` of them in turns, until none is left.

    CPU: pack is 1 and there are several workers. CUDA: each of the packed trials has its own stream. `parent`: the process whose
    end ends this one too.
    """
    study, running = Study(folder), []
    threading.Thread(target=_beat, args=(running, parent), daemon=True).start()
    while not stop.number:
        stop.held = True  # a signal waits for the next batch's end
        study.refresh()
        while len(running) < pack and (lease := study.claim(shard)):
            running.append(_Job(study, lease, device, stop))
        if not running:
            if not _left(study, shard):
                return
            time.sleep(0.3)
        _advance(running)
    _advance(running)  # each saves and stops
    raise runs.Stopped(stop.number)


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


class _Job:
    """A trial in progress under a lease."""

    def __init__(self, study, lease, device, stop):
        self.study, self.lease = study, lease
        base = study.config(lease.i)
        self.config = replace(base, project=str(study.folder / "trials"), name=f"{lease.i:04d}", resume=True, until=lease.until,
                              threads=study.spec["threads"], device=device)
        self.stream = torch.cuda.Stream() if train.pick_device(device).type == "cuda" else None
        self.epochs = train.trial(self.config, stop, lease.check)

    def advance(self):
        """Goes on for an epoch. True when the trial is over: finished, failed or lost."""
        try:
            with torch.cuda.stream(self.stream):
                next(self.epochs)
            return False
        except StopIteration:
            outcome = dict(status="ok", reason="")
        except (LeaseLost, runs.Stopped):
            return True
        except Exception as e:  # whatever it is, it is this trial's alone, and its row says it
            if isinstance(e, RuntimeError) and "CUDA error" in str(e):
                raise  # the device itself is gone for this process; a new worker goes on
            outcome = dict(status="failed", reason=_reason(e))
        with contextlib.suppress(LeaseLost):
            row = dict(trial=self.lease.i, until=self.lease.until, fold=self.config.fold, seed=self.config.seed)
            self.study.publish(self.lease, row | outcome | _scores(self.config))
            if self.study.over(row | outcome):
                (Path(self.config.project) / self.config.name / "last.pt").unlink(missing_ok=True)
        return True


def _reason(e):
    """An exception in a line."""
    lines = str(e).strip().splitlines() or [""]
    if isinstance(e, (torch.OutOfMemoryError, MemoryError)):
        return f"out of memory: {lines[0]}"
    return lines[0] if isinstance(e, train.ERRORS) else f"{type(e).__name__}: {lines[0]}"


def _scores(config):
    """The last epoch's metrics of a run's results.csv, its seconds altogether, the standard error of its macro F1."""
    folder = Path(config.project) / config.name
    if not (folder / "results.csv").exists():
        return {}
    with open(folder / "results.csv", newline="", encoding="utf-8") as f:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    if not rows:
        return {}
    aside = ("lr", "seconds", "data_wait", "images_per_s")  # lr is the name of a setting
    scores = {k: v for k, v in rows[-1].items() if k not in aside}
    scores |= dict(epoch=int(scores["epoch"]), seconds=round(sum(r["seconds"] for r in rows), 3))
    if (folder / "val_predictions.csv").exists():
        classes = (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
        with open(folder / "val_predictions.csv", newline="", encoding="utf-8") as f:
            said = list(csv.DictReader(f))
        at = {name: c for c, name in enumerate(classes)}
        targets, predicted = (np.array([at[row[k]] for row in said]) for k in ("true", "predicted"))
        se = metrics.standard_error(lambda t, p: metrics.macro_f1(t, p, len(classes)), targets, predicted)
        scores |= dict(macro_f1_se=se, val_pictures=len(said))
    return scores


def fill(study, *, workers, device, pack, shard, devices, stop, seen):
    """Runs worker processes until every trial (of the shard) has its row; `seen(row)` is called once for each new one.

    A worker that dies is replaced, and its trial resumed; after DEATHS in a row the trial is a failed row. Raises Stopped after the
    workers have saved.
    """
    command = [sys.executable, __file__, "work", str(study.folder), device, str(pack), *map(str, shard), str(os.getpid())]
    places = [dict(os.environ, CUDA_VISIBLE_DEVICES=str(d)) for d in devices] or [dict(os.environ)]

    def spawn(n):
        with open(study.folder / "workers.log", "a") as log:
            return subprocess.Popen(command, env=dict(places[n % len(places)], PYTHONUNBUFFERED="1"), stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, start_new_session=True)

    stop.held = True  # from here on a signal is passed on to the workers, which save
    children, deaths, known, late = [spawn(n) for n in range(workers * len(places))], {}, set(study.rows()), math.inf
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
                raise runs.Stopped(stop.number)
            codes = [child.poll() for child in children]
            if all(code == 0 for code in codes) or time.monotonic() > late:  # a stopped worker, whose trial went to another
                break
            for n, code in enumerate(codes):
                if code not in (None, 0):
                    _mourn(study, children[n].pid, code, deaths)
                    children[n] = spawn(n)
            if deaths.get(None, 0) >= DEATHS:
                raise StudyError(f"workers die as soon as they start: {study.folder / 'workers.log'} says why")
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
                        row = dict(trial=i, until=until, fold=config.fold, seed=config.seed, status="failed", reason=reason)
                        study.publish(lease, row)
                    lease.release()
    if held is None:
        deaths[None] = deaths.get(None, 0) + 1


def pace(study, device, pack="auto", threads=0):
    """(workers, trials interleaved in each, images/s of all), found by timing a few steps of trial 0.

    CPU: `pack` processes that share the cores; the study keeps their number of threads, on which results depend in the last bits.
    CUDA: one process in which `pack` trials take turns. 'auto': 1, 2, 4 ... as long as it gets faster.
    """
    cores, cuda = train.THREADS, train.pick_device(device).type == "cuda"
    threads = study.spec["threads"] or threads
    if cuda:
        shapes = [(1, 0, k) for k in ((1, 2, 4) if pack == "auto" else (pack,))]
    elif threads:
        shapes = [(max(1, cores // threads) if pack == "auto" else pack, threads, 1)]
    else:
        packs = [2**n for n in range(cores.bit_length())] if pack == "auto" else [pack]
        shapes = [(k, max(1, cores // k), 1) for k in packs]
    config, tried = replace(study.config(0), data=study.spec["base"]["data"]), {}
    for shape in shapes:
        tried[shape] = _rate(config, device, *shape)
        if tried[shape] < max(tried.values()):
            break
    workers, threads, interleaved = max(tried, key=tried.get)
    with locked(study.folder):
        study.refresh()
        if study.spec["threads"] is None:
            write_spec(study.folder / "study.json", dict(study.spec, threads=threads))
            study.refresh()
    if not cuda and study.spec["threads"] not in (0, threads):  # a process that started with this one chose them first
        return pace(study, device, pack)
    return workers, interleaved, max(tried.values())


def _rate(config, device, workers, threads, pack):
    """Images a second of `workers` processes that train together for a moment."""
    settings = json.dumps(dict(config.settings(), data=config.data))
    command = [sys.executable, __file__, "time", settings, device, str(threads), str(pack)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
                for _ in range(workers)]
    try:
        ready = [child.stdout.readline() for child in children]
        for child in children if all(ready) else []:
            print(file=child.stdin, flush=True)
        rates = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            child.kill()
    if not all(rates):
        raise StudyError("a first few steps could not be trained: the lines above say why")
    return sum(map(float, rates))


def _time(settings, device, threads, pack, seconds=1.0):
    """A child of `_rate`: builds `pack` trials, says so, waits for a line, trains in turns, prints images a second."""
    config = configs.from_dict(settings)
    device = train.pick_device(device)
    torch.set_num_threads(threads or train.THREADS)
    pictures = data.prepare(config.data, **config.pick(data.prepare))
    steppers = [train.build(config, pictures, device)[0] for _ in range(pack)]
    streams = [torch.cuda.Stream() if device.type == "cuda" else None for _ in steppers]
    plan = train.tables(config, pictures)[0](0)

    def turn(t):
        for stepper, stream in zip(steppers, streams):
            with torch.cuda.stream(stream):
                if t % len(plan.index) == 0:
                    stepper.begin(plan)
                stepper.train(t % len(plan.index))

    turn(0)
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # nobody waits for the answer
    start, t = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or t < 3:
        t += 1
        turn(t)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(t * pack * config.batch_size / (time.perf_counter() - start))


def main():
    """What `fill` and `packing` start: not a command for people."""
    what, *args = sys.argv[1:]
    if what == "time":
        settings, device, threads, pack = args
        try:
            _time(json.loads(settings), device, int(threads), int(pack))
        except BrokenPipeError:  # who asked was stopped
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    folder, device, pack, shard, of, parent = args
    stop = runs.Stop(patient=True).listen()  # Slurm signals a whole task, and then the supervisor does, while this one saves
    try:
        work(folder, device, int(pack), (int(shard), int(of)), int(parent), stop)
    except runs.Stopped as e:
        return 128 + e.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
