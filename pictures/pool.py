"""Many picture files decoded into one file, by as many processes as are worth starting.

A process is started afresh, as `python -m pictures.decode`. A fork would copy a process full of torch's threads and
locks, and multiprocessing's spawn would import the caller's script, and torch, in every child. A child ends by itself
when its parent dies.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

from errors import LongtailError
from pictures.children import piped_child
from pictures.decode import decode_into

CHUNK = 8  # pictures handed to a process at a time
WORTH_A_PROCESS = 32  # pictures; starting a process takes as long as decoding 50


def decode_all(
    file: BinaryIO, start: int, files: list[Path], size: int, resize: str, workers: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode all pictures into an array of `file`. start, size, resize: as in `decode_into`.

    workers: at most so many processes. For few pictures, or with one worker, this process does the work itself.
    Returns (moments, bad): float64 [N, 2, 3], each picture's means and mean squares by channel; and row -> reason.
    Raises OSError where the machine failed, and LongtailError where a worker died.
    """
    # The rows of bad pictures stay zero.
    moments = np.zeros((len(files), 2, 3))
    bad = {}
    workers = min(workers, len(files) // WORTH_A_PROCESS)
    if workers > 1:
        work = _in_processes(file, start, files, size, resize, workers)
    else:
        work = ((row, decode_into(file.fileno(), start, row, path, size, resize)) for row, path in enumerate(files))
    with contextlib.closing(work):  # ends the processes, whatever happens here
        for row, result in _with_bar(work, len(files)):
            if isinstance(result, dict):  # the machine failed in a worker
                raise OSError(result["errno"], os.strerror(result["errno"]), result["path"])
            if isinstance(result, str):
                bad[row] = result
            else:
                moments[row] = result
    return moments, dict(sorted(bad.items()))  # processes finish in any order


def _with_bar(work, total):
    """`work` with a progress bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        return work
    from tqdm import tqdm

    return tqdm(work, "decoding", total, unit="pictures", leave=False)


def _in_processes(file, start, files, size, resize, workers):
    """Yield (row, result of decode_into) from child processes, in the order in which they finish.

    Each child has a thread here that hands it chunks and waits for its answers.
    """
    arguments = file.name, start, size, resize
    children = [piped_child("pictures.decode", *arguments, OPENBLAS_NUM_THREADS="1") for _ in range(workers)]
    chunks = queue.SimpleQueue()
    results = queue.SimpleQueue()
    for begin in range(0, len(files), CHUNK):
        chunks.put(range(begin, min(begin + CHUNK, len(files))))

    def send_chunk(child: subprocess.Popen) -> range | None:
        """Hand the child its next rows; None where no chunk is left."""
        try:
            rows = chunks.get_nowait()
        except queue.Empty:
            return None
        request = json.dumps([[row, os.fspath(files[row])] for row in rows])
        with contextlib.suppress(BrokenPipeError):  # the child is dead, which shows when its answer is read
            print(request, file=child.stdin, flush=True)
        return rows

    def serve(child: subprocess.Popen) -> None:
        try:
            rows = send_chunk(child)
            while rows:
                ahead = send_chunk(child)  # one chunk ahead, so that the child never waits for us
                answer = child.stdout.readline()
                if not answer:
                    names = ", ".join(str(files[row]) for row in rows)
                    raise LongtailError(
                        f"a decoding process died (exit status {child.wait()}) on one of these (remove "
                        f"it, or see if memory ran out): {names}"
                    )
                for item in zip(rows, json.loads(answer)):
                    results.put(item)
                rows = ahead
        except Exception as error:  # raised again in the thread that reads the results
            results.put(error)

    threads = [threading.Thread(target=serve, args=(child,), daemon=True) for child in children]
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
            child.communicate()  # closes the pipes
