"""Many picture files decoded into one file, by as many processes as are worth starting."""

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pictures.children import shared_out
from pictures.decode import decode_into

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
        requests = [[row, os.fspath(path)] for row, path in enumerate(files)]
        work = shared_out("pictures.decode", (file.name, start, size, resize), requests, workers)
    else:
        work = ((row, decode_into(file.fileno(), start, row, path, size, resize)) for row, path in enumerate(files))
    with contextlib.closing(work):  # ends the processes, whatever happens here
        for row, result in _with_bar(work, len(files)):
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
