"""The process that fills a study: it starts workers, replaces those that die, and says what becomes of each trial.

`execute` runs what is left of a study, as many trials at a time as go fastest together.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable

from config import Config, spelled
from engine.flags import whole_number
from engine.numerics import pick_device
from engine.stop import StopRequest
from errors import ConfigError, LongtailError, Parser, Stopped, counted
from pictures.children import child_command, child_environment
from study import pace, ranking
from study.lease import Lease, LeaseLost
from study.metric import METRICS, merit
from study.table import Study

DEATHS = 5  # of a trial's workers, one after another, before it is a failed row
LONG = 60  # minutes from which a study is told how to become smaller
LOOK = 0.2  # seconds between two looks at the table
RESULTS = 5.0  # seconds between two writings of results.csv: of a thousand trials it takes a fifth of one


def add_worker_flags(parser: Parser) -> None:
    """What every command that fills a study takes."""
    how = parser.add_argument_group("how")
    how.add_argument("--pack", default="auto", help="trials at a time on a device; auto: measured (default auto)")
    how.add_argument("--devices", default="", metavar="0,1", help="CUDA devices, a worker each")
    how.add_argument(
        "--shard", default="0/1", metavar="I/N", help="only every N-th trial, from the I-th on: for arrays of jobs"
    )
    how.add_argument("--retry-failed", action="store_true", help="run failed trials again")


def check_worker_flags(space: Namespace, base: Config) -> None:
    """Turns the words of `add_worker_flags` into values, before anything is written. Raises ConfigError."""
    if space.pack != "auto":
        space.pack = whole_number("--pack", space.pack, 1, 256)
    index, _, count = space.shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard {space.shard}: give I/N with I from 0 to N - 1")
    space.shard = int(index), int(count)
    words = space.devices.split(",") if space.devices else []
    space.devices = [whole_number("--devices", word, 0) for word in words]
    if pick_device(base.device).type != "cuda" and space.devices:
        raise ConfigError("--devices are CUDA devices, and this study computes elsewhere: drop it")


def execute(study: Study, space: Namespace, base: Config, stop: StopRequest) -> bool:
    """Runs what is left of a study (of its shard), with a line a trial and a bar on terminals.

    space: the parsed and checked `add_worker_flags`. True if every trial of the study then has its row. Raises Stopped
    after a signal, LongtailError where no worker can start.
    """
    if space.retry_failed:
        print(f"{counted(study.retry(), 'failed trial')} forgotten", file=sys.stderr)
    for i, row in study.latest().items():
        if study.over(row):  # a kill may have come between the row and this
            (study.run(i) / "last.pt").unlink(missing_ok=True)
    study.write_results()
    if not study.jobs():
        return True
    workers, interleaved, rate = pace.measure(study, base.device, space.pack, base.threads)
    _say_how_long(study, space, workers, interleaved, rate)
    with _progress(study) as seen:
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
    left = len(study.jobs())
    if left:
        others = f"of others there are {counted(left, 'trial')} left"
        print(f"{study.folder}: this shard is done; {others}. Next: the same command", file=sys.stderr)
    return not left


def fill(
    study: Study,
    *,
    workers: int,
    device: str,
    pack: int,
    shard: tuple[int, int],
    devices: list[int],
    stop: StopRequest,
    seen: Callable[[dict], None],
) -> None:
    """Runs worker processes until every trial (of the shard) has its row; `seen(row)` is called once for each new one.

    workers: on each of the `devices`, or altogether where none is named. A worker that dies is replaced, and its trial
    resumed; after DEATHS in a row the trial is a failed row. Raises Stopped after the workers have saved.
    """
    command = child_command("study.workers", study.folder, device, pack, *shard, os.getpid())
    environments = [child_environment(CUDA_VISIBLE_DEVICES=str(number)) for number in devices] or [child_environment()]

    def start(number):
        environment = environments[number % len(environments)]
        with open(study.folder / "workers.log", "a") as log:
            return subprocess.Popen(
                command,
                env=dict(environment, PYTHONUNBUFFERED="1"),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is passed on to them once, by this process
            )

    with stop.deferred():  # a signal is passed on to the workers, which save
        children = [start(number) for number in range(workers * len(environments))]
        known = set(study.rows())
        try:
            _watch(study, children, start, known, shard, stop, seen)
        finally:
            _end(children)
    for key, row in study.rows().items():
        if key not in known:
            seen(row)


def _say_how_long(study, space, workers, interleaved, rate):
    """Says how the trials that are left are run, and about how long it takes; of a long study, how to shorten it."""
    threads = study.spec["threads"]  # 0 on a GPU, where they do not matter
    shape = f"{workers} at a time" + (f", {counted(threads, 'thread')} each" if threads else "")
    if interleaved > 1:
        shape = f"{interleaved} in turns"
    _, shards = space.shard
    minutes = pace.minutes(study, rate) / max(1, len(space.devices)) / shards
    how_long = "under a minute" if minutes < 1 else f"about {math.ceil(minutes)} min"
    print(
        f"{study.folder}: {counted(len(study.trials), 'trial')}, {len(study.over_now())} done; {shape}, "
        f"{rate:.0f} images/s: {how_long}",
        file=sys.stderr,
    )
    if minutes > LONG:
        print(
            "for a smaller study stop this one, and begin another --name with --halving 3, fewer --epochs, a smaller "
            "--img-size, or --random N beside --grid",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _progress(study):
    """A bar of the study's rows; with halving a trial has several, and how many there will be is known rung by rung.
    The function that it gives takes each new row, says it, and keeps results.csv."""
    from tqdm import tqdm

    best_merit, best_said = -math.inf, ""
    written = 0.0  # when results.csv was, by the monotonic clock
    rows = len(study.rows())
    with tqdm(total=rows + len(study.jobs()), initial=rows, unit="trial", disable=None, smoothing=0) as bar:

        def seen(row):
            nonlocal best_merit, best_said, written
            done = len(study.rows())
            tqdm.write(_trial_line(study, row, done), file=sys.stderr)
            score = row.get(study.metric, math.nan)  # without validation pictures there is none
            if row["status"] == "ok" and merit(study.metric, score) > best_merit:
                best_merit = merit(study.metric, score)
                best_said = f"best so far {score:.4f}, trial {row['trial']}"
            bar.n, bar.total = done, done + len(study.jobs())
            bar.set_postfix_str(best_said)
            if time.monotonic() - written > RESULTS:
                study.write_results()
                written = time.monotonic()

        yield seen


def _trial_line(study, row, done):
    """A finished trial in a line."""
    config = study.config(row["trial"])
    settings = [f"{name} {spelled(getattr(config, name))}" for name in ranking.varied(study)]
    if len(settings) > 5:
        settings = [*settings[:4], f"{len(settings) - 4} more"]
    if config.folds:
        settings.append(f"fold {config.fold}")
    settings.append(f"seed {config.seed}")
    said = f"{done:4d}  trial {row['trial']} ({', '.join(settings)}): "
    if row["status"] != "ok":
        return f"{said}failed: {row['reason']}"
    if "macro_f1" in row:
        shown = dict.fromkeys(["macro_f1", "acc", study.metric])
        said += ", ".join(f"{METRICS[name]} {row[name]:.4f}" for name in shown)
    else:
        said += f"train loss {row['train_loss']:.4f}"
    return f"{said}, epoch {row['epoch']}, {row['seconds']:.0f} s"


def _watch(study, children, start, known, shard, stop, seen):
    """Until nothing is left to do: reports new rows, whose keys join `known`, and replaces dead workers."""
    deaths_by_trial = Counter()
    deaths_at_start = 0  # of workers that held no trial, since the last row
    give_up_at = math.inf
    while True:
        time.sleep(LOOK)
        fresh = {key: row for key, row in study.rows().items() if key not in known}
        known |= set(fresh)
        if fresh:
            study.refresh()  # another process may have added the trial
            deaths_at_start = 0
            if not study.left(shard):  # a worker that a signal stopped may never learn that its trial went to another
                give_up_at = time.monotonic() + Lease.TTL
        for row in fresh.values():
            seen(row)
        if stop.number:
            raise Stopped(stop.number)
        codes = [child.poll() for child in children]
        if all(code == 0 for code in codes) or time.monotonic() > give_up_at:
            return
        for number, code in enumerate(codes):
            if code is None or code == 0:  # it works, or found nothing left to do
                continue
            held = _trials_held_by(study, children[number].pid)
            if not held:
                deaths_at_start += 1
            deaths_by_trial.update(i for i, _ in held)
            for i, until in held:
                if deaths_by_trial[i] >= DEATHS:
                    _give_trial_up(study, i, until, code)
            children[number] = start(number)
        if deaths_at_start >= DEATHS:
            raise LongtailError(f"workers die as soon as they start: {study.folder / 'workers.log'} says why")


def _trials_held_by(study, pid):
    """(trial, epoch) of the leases of a process of this machine."""
    held = []
    for path in (study.folder / "leases").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            holder = json.loads(path.read_text())
            if (holder["host"], holder["pid"]) == (Lease.HOST, pid):
                trial, until = path.stem.split("-")
                held.append((int(trial), int(until)))
    return held


def _give_trial_up(study, i, until, code):
    """Makes a trial whose workers keep dying a failed row. code: how the last of them ended."""
    lease = Lease.take(study, i, until)
    if lease is None:  # another machine's worker has it
        return
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    reason = f"its worker died {DEATHS} times ({how}); {study.folder / 'workers.log'} may say why"
    config = study.config(i)
    row = dict(
        trial=i,
        until=until,
        fold=config.fold,
        seed=config.seed,
        status="failed",
        reason=reason,
    )
    with contextlib.suppress(LeaseLost):
        study.publish(lease, row)
    lease.release()


def _end(children):
    """Asks the workers to save and end; kills those that do not."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(Lease.TTL)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
