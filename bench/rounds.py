"""Contenders that do the same work, timed in turn, so that a busy machine is busy for all of them.

On a GPU each one's calls are captured in a CUDA graph, so that the host's time does not count, and replayed between two
events; one that cannot be captured runs as it is, which is said. Elsewhere the clock decides. The first round is thrown
away. `in_turn` times what is more than a launch or two, by the clock.
"""

import statistics
import sys
import time

import torch


def seconds(contenders, device, *, rounds, calls):
    """({name: seconds a call of every round that counts}, [names that run uncaptured]) of `contenders`, name ->
    function of the number of the call."""
    uncaptured, ready = [], {}
    for name, call in contenders.items():
        ready[name] = repeated(call, calls, device)
        if device.type == "cuda":
            try:
                ready[name] = captured(ready[name])
            except RuntimeError as error:
                uncaptured.append(name)
                print(f"{name} cannot be captured: {str(error).splitlines()[0]}", file=sys.stderr)
    found = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in ready.items():
            spent = timed(run, device) / calls
            if turn:
                found[name].append(spent)
        print(f"round {turn} of {rounds}", file=sys.stderr)
    return found, uncaptured


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
    start = time.perf_counter()
    run()
    getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


def spread(values, digits=1):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(values, base, digits=2):
    """How often `base` goes into `values`, round by round."""
    return spread([v / b for v, b in zip(values, base)], digits)
