"""How many trials at a time, on how many threads each: found by timing a few steps, together, before a study begins.

On a CPU trials run side by side in processes that share the cores; on CUDA they take turns in one process, each on its
own stream.
"""

import json
import os
import sys
import time
from dataclasses import replace
from typing import NamedTuple

import torch

from config import Config, config_from
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.capture import Captured
from engine.fastest import Way, decide
from engine.numerics import THREADS, pick_device
from errors import LongtailError, counted
from pictures.children import piped_child
from study.table import Study, locked, write_spec

EVALUATION_COST = 0.3  # of a validation picture, in training pictures
TIMED = 1.0  # seconds that a number of trials at a time is tried for
TIMED_STEPS = 3  # that are timed at the least, however slow


class Shape(NamedTuple):
    """A way to run trials at the same time."""

    workers: int  # processes
    threads: int  # of each; 0 on CUDA, where their number does not matter
    pack: int  # trials that take turns in each


def measure(
    study: Study, device: str, pack: int | str = "auto", threads: int = 0, visible: str = ""
) -> tuple[Shape, float]:
    """(how to run the trials, images/s of all), found by timing a few steps of trial 0.

    CPU: `pack` processes that share the cores; the study keeps their number of threads, on which results depend in the
    last bits. CUDA: one process in which `pack` trials take turns. 'auto': 1, 2, 4 ... as long as it gets faster.
    The study keeps the way that a trial computes too, precision, layout and products: with these threads the fastest.
    visible: CUDA_VISIBLE_DEVICES of what is timed, '' for this process's own.
    """
    cuda = pick_device(device).type == "cuda"
    shapes = _shapes(cuda, pack, study.spec["threads"] or threads)
    config = replace(study.config(0), data=study.spec["base"]["data"])
    rates, ways = {}, {}
    for shape in shapes:
        decided = _decided(config, device, shape.threads, kept_way(study, device))
        ways[shape] = Way(decided.amp, decided.layout, decided.products)
        try:
            rates[shape] = rate(decided, device, *shape, visible)
        except LongtailError:
            if not rates:
                raise
            most = max(each.workers * each.pack for each in rates)
            print(f"{counted(most, 'trial')} at a time: more do not fit", file=sys.stderr)
            break
        if rates[shape] < max(rates.values()):
            break  # more at a time only crowd the device further
    fastest = max(rates, key=rates.get)
    with locked(study.folder):
        study.refresh()
        if None in (study.spec["threads"], study.spec.get("way")):
            way = ways[fastest]._asdict()
            write_spec(study.folder / "study.json", dict(study.spec, threads=fastest.threads, way=way))
            study.refresh()
    if not cuda and study.spec["threads"] not in (0, fastest.threads):
        # Another process, begun at the same time, has already written its number of threads: measure with that.
        return measure(study, device, pack)
    return fastest, rates[fastest]


def kept_way(study: Study, device: str) -> dict | None:
    """The way to compute that the study keeps, for devices of the kind that it was begun on; None for others, and
    where it keeps none yet."""
    on_cuda = study.spec["threads"] == 0
    return study.spec.get("way") if on_cuda == (pick_device(device).type == "cuda") else None


def rate(config: Config, device: str, workers: int, threads: int, pack: int, visible: str = "") -> float:
    """Images a second of `workers` processes that train together for a moment, `pack` trials in each.

    visible: their CUDA_VISIBLE_DEVICES, '' for this process's own.

    Raises LongtailError where they cannot; their own words are on stderr.
    """
    settings = json.dumps(dict(config.settings(), data=config.data, compile=config.compile))
    variables = dict(CUDA_VISIBLE_DEVICES=visible) if visible else {}
    children = []
    for _ in range(workers):
        children.append(piped_child("study.pace", settings, device, threads, pack, **variables))
    try:
        # Nobody starts before all are ready: else the first are timed with the device to themselves.
        ready = [child.stdout.readline() for child in children]
        if all(ready):
            for child in children:
                print(file=child.stdin, flush=True)
        rates = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            child.kill()
    if not all(rates):
        raise LongtailError("a first few steps could not be trained: the lines above say why")
    return sum(map(float, rates))


def _decided(config, device, threads, way):
    """`config` with the way that a trial of it computes, on so many threads; `way`: decided before, or None."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or THREADS)
    try:
        return decide(config, prepare_pictures(config), pick_device(device), held=way)
    finally:
        torch.set_num_threads(before)


def minutes(study: Study, rate: float) -> float:
    """About how long the trials that are left take, from images a second."""
    pictures = prepare_pictures(study.config(0), study.spec["base"]["data"])
    done, epochs = study.latest(), 0.0
    for i, _ in study.jobs():  # those that halving chose to go on are among them
        behind = done[i]["until"] if i in done else 0
        ahead = [rung for rung in study.rungs(i) if rung > behind]
        epochs += _expected_epochs(behind, ahead, study.spec["halving"])
    return epochs * (len(pictures.train) + EVALUATION_COST * len(pictures.val)) / rate / 60


def main() -> int:
    """What `rate` starts: not a command for people."""
    settings, device, threads, pack = sys.argv[1:]
    try:
        _time(json.loads(settings), device, int(threads), int(pack))
    except BrokenPipeError:  # who asked was stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _shapes(cuda, pack, threads):
    """The shapes to try, the fewest trials at a time first. pack: 'auto' or a number; threads: 0 if still open."""
    if cuda:
        packs = (1, 2, 4) if pack == "auto" else (pack,)
        return [Shape(1, 0, many) for many in packs]
    if threads:
        return [Shape(max(1, THREADS // threads) if pack == "auto" else pack, threads, 1)]
    # From one process on all cores to one a core: no core idles, and none is shared.
    packs = [2**power for power in range(THREADS.bit_length())] if pack == "auto" else [pack]
    return [Shape(many, max(1, THREADS // many), 1) for many in packs]


def _expected_epochs(behind, rungs, eta):
    """Epochs of a trial that has so many behind it, a mean over trials: with halving by `eta` (0: none) one of eta goes
    on at each rung."""
    if not eta:
        return sum(rungs)
    expected = []
    for rung, (start, end) in enumerate(zip([behind, *rungs], rungs)):
        expected.append((end - start) / eta**rung)
    return sum(expected)


def _time(settings, device, threads, pack):
    """A child of `rate`: builds `pack` trials, says so, waits for a line, trains in turns, prints images a second."""
    config = config_from(settings)
    device = pick_device(device)
    cuda = device.type == "cuda"
    torch.set_num_threads(threads or THREADS)
    pictures = prepare_pictures(config)
    steppers = [build_stepper(config, pictures, device)[0] for _ in range(pack)]
    streams = [torch.cuda.Stream() if cuda else None for _ in steppers]
    for stream in filter(None, streams):
        stream.wait_stream(torch.cuda.current_stream())  # on which the steppers were built
    draw, _ = plans_of(config, pictures)
    plan = draw(0)
    steps = len(plan.index)

    def turn(t):
        for stepper, stream in zip(steppers, streams):
            with torch.cuda.stream(stream):
                if t % steps == 0:
                    stepper.begin(plan)
                stepper.train(t % steps)

    warm_up = Captured.WARM + 1 if cuda else 1  # turns until all is compiled and captured
    for t in range(warm_up):
        turn(t)
    if cuda:
        torch.cuda.synchronize()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # nobody waits for the answer
    start = time.perf_counter()
    timed = 0
    while time.perf_counter() - start < TIMED or timed < TIMED_STEPS:
        turn(warm_up + timed)
        timed += 1
    if cuda:
        torch.cuda.synchronize()  # steps are queued, and count once they are done
    print(timed * pack * config.batch_size / (time.perf_counter() - start))


if __name__ == "__main__":
    sys.exit(main())
