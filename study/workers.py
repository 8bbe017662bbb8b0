"""What a worker of a study does: it takes trials one after another until none is left. Started by supervisor.py."""

import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path

from engine.stop import StopRequest
from errors import Stopped
from study.job import Job
from study.lease import Lease
from study.table import Study

WAIT = 0.3  # seconds between two looks for a trial, where others have all of them


def work(
    folder: Path | str,
    device: str,
    threads: int,
    pack: int,
    shard: tuple[int, int],
    parent: int,
    stop: StopRequest,
) -> None:
    """Takes trials of the study in `folder` one after another, `pack` of them in turns, until none is left.

    CPU: pack is 1 and there are several workers, of so many threads. CUDA: each of the packed trials has its own
    stream, and threads do not count. `parent`: the process whose end ends this one too. Raises Stopped once a signal's
    wish is met.
    """
    running, over = [], threading.Event()  # the Jobs in hand, which the thread reads too
    keeper = threading.Thread(target=_keep_alive, args=(running, parent, over), daemon=True)
    keeper.start()
    try:
        with stop.deferred():  # a signal waits for the next batch's end
            _take_trials(Study(folder), running, (device, threads), pack, shard, stop)
    finally:
        over.set()
        keeper.join()


def _take_trials(study, running, place, pack, shard, stop):
    """Fills `running` up to `pack` jobs and gives each its turn, until the study is done or a signal came. place: the
    device and the threads of each."""
    while not stop.number:
        study.refresh()
        while len(running) < pack:
            lease = study.claim(shard)
            if lease is None:
                break
            running.append(Job(study, lease, *place, stop))
        if not running:
            if not study.left(shard):
                return
            time.sleep(WAIT)
        _advance(running)
    while running:  # each goes on to where it can save, and stops there
        _advance(running)
    raise Stopped(stop.number)


def _advance(running):
    """A turn for every job; those that are over give their trial back."""
    for job in list(running):  # a copy: jobs leave the list on the way
        if job.advance():
            running.remove(job)
            job.lease.release()


def _keep_alive(running, parent, over):
    """Until `over`: says every few seconds that the leases are alive, and asks for a stop once the parent is gone."""
    touched = time.monotonic()
    while not over.wait(0.5):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if time.monotonic() - touched > Lease.TTL / 6:
            touched = time.monotonic()
            for job in list(running):
                job.lease.touch()


def main() -> int:
    """What the supervisor starts: not a command for people."""
    folder, device, threads, pack, shard_index, shard_count, parent = sys.argv[1:]
    gc.freeze()  # what was imported stays: so that a trial's end looks through what it leaves alone
    # Slurm signals a whole task, and the supervisor passes its own signal on: this one may get two, and saves once.
    stop = StopRequest(second_signal_exits=False).listen()
    try:
        work(folder, device, int(threads), int(pack), (int(shard_index), int(shard_count)), int(parent), stop)
    except Stopped as stopped:
        return stopped.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
