"""How many trials at a time, on how many threads each: found by timing a few steps, together, before a study begins.

On a CPU trials run side by side in processes that share the cores; on CUDA they take turns in one process, each on its
own stream.
"""

import json
import os
import sys
import time
from dataclasses import replace

import torch

from config import config_from
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.capture import Captured
from engine.numerics import THREADS, pick_device
from errors import LongtailError
from pictures.children import piped_child
from study.table import locked, write_spec

EVALUATION_COST = 0.3  # of a validation picture, in training pictures
TIMED = 1.0  # seconds that a number of trials at a time is tried for


def measure(study, device, pack="auto", threads=0):
    """(workers, trials interleaved in each, images/s of all), found by timing a few steps of trial 0.

    CPU: `pack` processes that share the cores; the study keeps their number of threads, on which results depend in the
    last bits. CUDA: one process in which `pack` trials take turns. 'auto': 1, 2, 4 ... as long as it gets faster.
    """
    cores, cuda = THREADS, pick_device(device).type == "cuda"
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
        tried[shape] = rate(config, device, *shape)
        if tried[shape] < max(tried.values()):
            break
    workers, threads, interleaved = max(tried, key=tried.get)
    with locked(study.folder):
        study.refresh()
        if study.spec["threads"] is None:
            write_spec(study.folder / "study.json", dict(study.spec, threads=threads))
            study.refresh()
    if not cuda and study.spec["threads"] not in (0, threads):  # a process that started with this one chose them first
        return measure(study, device, pack)
    return workers, interleaved, max(tried.values())


def rate(config, device, workers, threads, pack):
    """Images a second of `workers` processes that train together for a moment, `pack` trials in each."""
    settings = json.dumps(dict(config.settings(), data=config.data, compile=config.compile))
    arguments = settings, device, threads, pack
    children = [piped_child("study.pace", *arguments, own_session=True) for _ in range(workers)]
    try:
        ready = [child.stdout.readline() for child in children]
        for child in children if all(ready) else []:
            print(file=child.stdin, flush=True)
        rates = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            child.kill()
    if not all(rates):
        raise LongtailError("a first few steps could not be trained: the lines above say why")
    return sum(map(float, rates))


def minutes(study, rate):
    """About how long the trials that are left take, from images a second."""
    pictures = prepare_pictures(study.config(0), study.spec["base"]["data"])
    done, eta, left = study.latest(), study.spec["halving"], 0.0
    for i in range(len(study.trials)):
        rungs = study.rungs(i)
        shares = [(end - start) / eta**k if eta else end for k, (start, end) in enumerate(zip([0, *rungs], rungs))]
        left += 0 if i in done else sum(shares)
    return left * (len(pictures.train) + EVALUATION_COST * len(pictures.val)) / rate / 60


def _time(settings, device, threads, pack):
    """A child of `rate`: builds `pack` trials, says so, waits for a line, trains in turns, prints images a second."""
    config = config_from(settings)
    device = pick_device(device)
    torch.set_num_threads(threads or THREADS)
    pictures = prepare_pictures(config)
    steppers = [build_stepper(config, pictures, device)[0] for _ in range(pack)]
    streams = [torch.cuda.Stream() if device.type == "cuda" else None for _ in steppers]
    plan = plans_of(config, pictures)[0](0)

    def turn(t):
        for stepper, stream in zip(steppers, streams):
            with torch.cuda.stream(stream):
                if t % len(plan.index) == 0:
                    stepper.begin(plan)
                stepper.train(t % len(plan.index))

    for t in range(Captured.WARM + 1 if device.type == "cuda" else 1):  # all is compiled and captured
        turn(t)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # nobody waits for the answer
    start, first = time.perf_counter(), t
    while time.perf_counter() - start < TIMED or t < first + 3:
        t += 1
        turn(t)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print((t - first) * pack * config.batch_size / (time.perf_counter() - start))


def main():
    """What `rate` starts: not a command for people."""
    settings, device, threads, pack = sys.argv[1:]
    try:
        _time(json.loads(settings), device, int(threads), int(pack))
    except BrokenPipeError:  # who asked was stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
