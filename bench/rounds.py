"""Contenders that do the same work, timed in turn, so that a busy machine is busy for all of them.

On a GPU each one's calls are captured in a CUDA graph, so that the host's time does not count, and replayed between two
events; one that cannot be captured runs as it is, which is said. Elsewhere the clock decides. The first round is thrown
away. `in_turn` times what is more than a launch or two, by the clock. A contender that fails or takes too long is left
out, with the reason, and what the others gave is told as soon as it is there.
"""

import contextlib
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import torch

from files import replacing

clock = time.perf_counter  # of `clocked`; a bench may set another


def seconds(contenders, device, *, rounds, calls, limit=0, told=lambda name, found, notes: None):
    """({name: seconds a call of every round that counts}, {name: why it runs uncaptured, or not at all}) of
    `contenders`, name -> function of the number of the call.

    limit: seconds until a contender must be ready (0: any). told: is called with a name and both dicts whenever the
    first round of a contender is over.
    """
    found, ready, notes = {}, {}, {}

    def first_round(name):
        run = repeated(contenders[name], calls, device)
        if device.type == "cuda":
            try:
                run = captured(run)
            except RuntimeError as error:
                notes[name] = f"not captured: {in_a_line(error)}"
        timed(run, device)
        found[name] = [timed(run, device) / calls]
        ready[name] = run

    for name in contenders:
        _, failure = tried(first_round, name, limit=limit)
        if failure:
            notes[name] = failure
        told(name, found, notes)
    for _ in range(rounds - 1):
        for name, run in ready.items():
            found[name].append(timed(run, device) / calls)
    return found, notes


def tried(function, *given, limit=0):
    """(what `function` returns, None), or (None, why not) where it raises or takes over `limit` seconds (0: any)."""
    try:
        with limited(limit):
            return function(*given), None
    except Exception as error:  # whatever it is, the other contenders run
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None, f"failed: {in_a_line(error)}"


@contextlib.contextmanager
def limited(seconds):
    """TimeoutError in a block that takes longer (0: any). It is raised between two lines of Python."""

    def late(*_):
        raise TimeoutError(f"not done in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def leave(code):
    """Ends the process: torch's own end waits for compile workers, up to 300 s for those that a limit cut off."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def in_a_line(error):
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def tell(said, record, file):
    """Prints `said` and writes the record so far: what ends a bench later takes neither with it."""
    print(said, flush=True)
    if file:
        with replacing(Path(file)) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def repeated(call, calls, device):
    """A function that calls `call` so often; called once here, so that compiling does not count."""

    def run():
        for number in range(calls):
            call(number)

    run()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return run


def captured(run):
    """`run` as the replay of a CUDA graph, after the warm-up that a capture needs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")  # who waits for the device says so here: a capture that fails spoils others
    try:
        with torch.cuda.stream(side):
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        run()
    return graph.replay


def timed(run, device):
    """Seconds of one call."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        run()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1000
    return clocked(run, device)


def in_turn(contenders, device, repeats):
    """{name: seconds of every round} of functions that are warm, by the clock: the host's time counts."""
    found = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, run in contenders.items():
            found[name].append(clocked(run, device))
            print(f"round {turn + 1} of {repeats}: {name} {found[name][-1]:.3f} s", file=sys.stderr)
    return found


def clocked(run, device):
    """Seconds of one call until the device's queue is empty, as it was before."""
    start = clock()
    run()
    getattr(torch, device.type).synchronize()
    return clock() - start


def spread(values, digits=1):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(values, base, digits=2):
    """How often `base` goes into `values`, round by round."""
    return spread([v / b for v, b in zip(values, base)], digits)
