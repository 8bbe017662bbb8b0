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

from config import Config
from engine.flags import whole_number
from engine.numerics import pick_device
from engine.stop import StopRequest
from errors import ConfigError, LongtailError, Parser, Stopped, counted
from pictures.children import child_command, child_environment
from study import pace
from study.lease import Lease, LeaseLost
from study.progress import progress
from study.table import Study

DEATHS = 5  # of workers that held a trial alone, since its last row, before it is a failed row
LONG = 60  # minutes from which a study is told how to become smaller
LOOK = 0.2  # seconds between two looks at the table


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
    if hasattr(space, "until"):
        raise ConfigError("a study trains every trial to its end: leave --until out, or give fewer --epochs")
    if space.pack != "auto":
        space.pack = whole_number("--pack", space.pack, 1, 256)
    index, _, count = space.shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard {space.shard}: give I/N with I from 0 to N - 1")
    space.shard = int(index), int(count)
    words = space.devices.split(",") if space.devices else []
    numbers = [whole_number("--devices", word, 0) for word in words]
    if pick_device(base.device).type != "cuda" and numbers:
        raise ConfigError("--devices are CUDA devices, and this study computes elsewhere: drop it")
    space.devices = [_visible(number) for number in numbers]


def _visible(number):
    """CUDA_VISIBLE_DEVICES of a process that is to see the device `number` of those that this one sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not seen:
        return str(number)
    names = seen.split(",")
    if number >= len(names):
        raise ConfigError(f"--devices {number}: CUDA_VISIBLE_DEVICES={seen} shows {counted(len(names), 'device')}")
    return names[number]


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
    visible = space.devices[0] if space.devices else ""
    shape, rate = pace.measure(study, base.device, space.pack, base.threads, visible)
    _say_how_long(study, space, shape, rate)
    with progress(study) as seen:
        fill(
            study,
            shape=shape,
            device=base.device,
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
    shape: pace.Shape,
    device: str,
    shard: tuple[int, int],
    devices: list[str],
    stop: StopRequest,
    seen: Callable[[dict], None],
) -> None:
    """Runs worker processes until every trial (of the shard) has its row; `seen(row)` is called once for each new one.

    shape: on each of the `devices`, a CUDA_VISIBLE_DEVICES each, or altogether where none is named. A worker that dies
    is replaced, and its trials resumed, one at a time where it had several; after DEATHS of workers that held it alone
    a trial is a failed row. Raises Stopped after the workers have saved.
    """
    environments = [child_environment(CUDA_VISIBLE_DEVICES=name) for name in devices] or [child_environment()]

    def start(number, pack=shape.pack):
        command = child_command("study.workers", study.folder, device, shape.threads, pack, *shard, os.getpid())
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
        children = [start(number) for number in range(shape.workers * len(environments))]
        known = set(study.rows())
        try:
            _watch(study, children, start, known, shard, stop, seen)
        finally:
            _end(children)
    for key, row in study.rows().items():
        if key not in known:
            seen(row)


def _say_how_long(study, space, shape, rate):
    """Says how the trials that are left are run, and about how long it takes; of a long study, how to shorten it."""
    threads = f", {counted(shape.threads, 'thread')} each" if shape.threads else ""  # on a GPU they do not matter
    how = f"{shape.pack} in turns" if shape.pack > 1 else f"{shape.workers} at a time{threads}"
    _, shards = space.shard
    minutes = pace.minutes(study, rate) / max(1, len(space.devices)) / shards
    how_long = "under a minute" if minutes < 1 else f"about {math.ceil(minutes)} min"
    print(
        f"{study.folder}: {counted(len(study.trials), 'trial')}, {len(study.over_now())} done; {how}, "
        f"{rate:.0f} images/s: {how_long}",
        file=sys.stderr,
    )
    if minutes > LONG:
        print(
            "for a smaller study stop this one, and begin another --name with --halving 3, fewer --epochs, a smaller "
            "--img-size, or --random N beside --grid",
            file=sys.stderr,
        )


def _watch(study, children, start, known, shard, stop, seen):
    """Until nothing is left to do: reports new rows, whose keys join `known`, and replaces dead workers."""
    deaths_by_trial = Counter()  # of workers that held it alone: of several trials nobody knows which it was
    alone = set()  # the workers that hold one trial at a time since one of several killed them
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
            deaths_by_trial.pop(row["trial"], None)
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
            elif len(held) > 1:
                alone.add(number)
            else:
                ((i, until),) = held
                deaths_by_trial[i] += 1
                if deaths_by_trial[i] >= DEATHS:
                    _give_trial_up(study, i, until, code)
            children[number] = start(number, 1) if number in alone else start(number)
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
