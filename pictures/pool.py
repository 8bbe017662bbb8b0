"""Many picture files decoded into one file, by as many processes as it is worth.

Not a fork, which would copy a process full of torch's threads and locks, nor multiprocessing's spawn, which would
import the caller's script, and torch, in every child. A child ends by itself when its parent dies.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from errors import LongtailError
from pictures.children import piped_child
from pictures.decode import decode_into

CHUNK = 8  # pictures handed to a process at a time


def decode_all(file, start: int, files: list[Path], size: int, resize: str, workers: int):
    """Fill `file` from byte `start` on; (float64 [N, 2, 3] means and mean squares, row -> reason)."""
    moments = np.zeros((len(files), 2, 3))
    bad: dict[int, str] = {}
    workers = min(workers, len(files) // 32)  # a process takes as long to start as 50 pictures to decode
    work = (
        _in_processes(file, start, files, size, resize, workers)
        if workers > 1
        else ((row, decode_into(file.fileno(), start, row, path, size, resize)) for row, path in enumerate(files))
    )
    with contextlib.closing(work):  # which ends the processes whatever happens here
        for row, result in _bar(work, len(files)):
            if isinstance(result, dict):  # a worker met a failure of the machine
                raise OSError(result["errno"], os.strerror(result["errno"]), result["path"])
            if isinstance(result, str):
                bad[row] = result
            else:
                moments[row] = result
    return moments, dict(sorted(bad.items()))


def _bar(work, total: int):
    """`work` with a progress bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        return work
    from tqdm import tqdm

    return tqdm(work, "decoding", total, unit="pictures", leave=False)


def _in_processes(file, start: int, files: list[Path], size: int, resize: str, workers: int):
    """Yield (row, result) from `python -m pictures.decode` children, each fed by a thread of ours."""
    arguments = file.name, start, size, resize
    children = [piped_child("pictures.decode", *arguments, OPENBLAS_NUM_THREADS="1") for _ in range(workers)]
    chunks: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    for first in range(0, len(files), CHUNK):
        chunks.put(range(first, min(first + CHUNK, len(files))))

    def send(child: subprocess.Popen) -> range | None:
        try:
            rows = chunks.get_nowait()
        except queue.Empty:
            return None
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading its answer will tell
            print(json.dumps([[row, os.fspath(files[row])] for row in rows]), file=child.stdin, flush=True)
        return rows

    def feed(child: subprocess.Popen) -> None:
        try:
            rows = send(child)
            while rows:
                ahead = send(child)  # so that a child never waits for us
                line = child.stdout.readline()
                if not line:
                    names = ", ".join(str(files[row]) for row in rows)
                    raise LongtailError(
                        f"a decoding process died (exit status {child.wait()}) on one of these (remove "
                        f"it, or see if memory ran out): {names}"
                    )
                for row, result in zip(rows, json.loads(line)):
                    results.put((row, result))
                rows = ahead
        except Exception as error:
            results.put(error)

    threads = [threading.Thread(target=feed, args=(child,), daemon=True) for child in children]
    for thread in threads:
        thread.start()
    try:
        for _ in files:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        for child in children:
            child.kill()
        for thread, child in zip(threads, children):
            thread.join()
            child.communicate()
