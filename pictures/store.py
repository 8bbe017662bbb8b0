"""Every picture decoded once: files -> one memory-mapped uint8 array, cached under the content of the files.

`load` gives every process that asks the same Store, however many start at once. Plain worker processes write straight
into the file, so memory does not grow with the data. Never imports torch, never knows a class or a split, and never
stands something in for a bad picture: its row is zero and `bad` says why.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import LongtailError
from pictures.decode import MACHINE, RECIPE, RESIZES, PictureError, decode, decode_into, dimensions  # noqa: F401  (handed on)
from pictures.pool import decode_all


@dataclass(frozen=True)
class Store:
    """Decoded pictures in the order asked for; a row in `bad` is zero in every array."""

    pixels: np.ndarray  # uint8 [N, S, S, 3], a memory map whose changes never reach the file
    means: np.ndarray  # float32 [N, 3], each picture's mean, RGB in [0, 1]
    key: str  # hex digest of recipe, contents, order, S and resize mode
    bad: dict[int, str]  # row -> reason
    squares: np.ndarray  # float64 [N, 3], each picture's mean square, RGB in [0, 1]


def cache_dir() -> Path:
    """$LONGTAIL_CACHE, else $XDG_CACHE_HOME/longtail, else ~/.cache/longtail."""
    own, home = os.environ.get("LONGTAIL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(home or Path.home() / ".cache") / "longtail"


def load_store(
    files: list[Path], size: int, resize: str = "squash", cache: Path | None = None, workers: int | None = None
) -> Store:
    """The Store of `files` at S = `size`: mapped from the cache where their bytes are known, else decoded now.

    `workers`: processes that decode; None is one for each CPU this process may use.
    LongtailError: the machine failed. A bad picture is no failure but an entry of `bad`.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize {resize!r} is none of {', '.join(RESIZES)}")
    cache = Path(cache or cache_dir())
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        cache.mkdir(parents=True, exist_ok=True)
        states = [_state(path) for path in files]
        contents = _contents(files, states, cache, workers)
        folder = cache / hashlib.sha256(f"{RECIPE} {size} {resize} {contents}".encode()).hexdigest()[:32]
        store = _open(folder)
        if store is None:
            with _locked(folder) as locked:
                store = _open(folder)  # a process that we waited for may have made it
                if store is None:
                    if locked:
                        _sweep(folder)
                    _build(folder, files, states, size, resize, workers)
                    store = _open(folder)
        return store
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"no room for {len(files) * size * size * 3 / 2**30:.2f} GiB" if full else error
        raise LongtailError(f"cannot decode into {cache}: {what}; $LONGTAIL_CACHE names another folder") from error


def _state(path: Path) -> tuple | None:
    """What changes when a file does; ctime too, for a copy may restore size and mtime."""
    try:
        status = os.stat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, stat.S_IFMT(status.st_mode)
    except OSError:
        return None


def _contents(files: list[Path], states: list, cache: Path, workers: int) -> str:
    """Digest of all bytes in order; an index from states to digests spares unchanged files the reading."""
    started = time.time_ns()
    known = hashlib.sha256()
    for path, state in zip(files, states):
        known.update(f"{path}\0{state}\n".encode(errors="surrogateescape"))
    entry = cache / "index" / known.hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return entry.read_text()

    def digests(first: int) -> bytes:
        part = slice(first, first + 256)
        return b"".join(map(_digest, files[part], states[part]))

    with ThreadPoolExecutor(workers) as pool:
        contents = hashlib.sha256(b"".join(pool.map(digests, range(0, len(files), 256)))).hexdigest()
    # A file written within the clock's grain of its reading could change once more and keep its state: not yet.
    if all(state is None or state[3] < started - 2_000_000_000 for state in states):
        entry.parent.mkdir(exist_ok=True)
        draft = entry.with_suffix(f".{uuid.uuid4().hex}")
        draft.write_text(contents)
        os.replace(draft, entry)
    return contents


def _digest(path: Path, state: tuple | None) -> bytes:
    """Of a file's bytes; of what cannot be read, of the reason, so that a mended file is another content."""
    reason = state and state[4]
    if reason == stat.S_IFREG:  # a FIFO is never opened
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            if error.errno in MACHINE:
                raise
            reason = -error.errno
    return hashlib.sha256(f"\0no bytes: {reason}".encode()).digest()


def _open(folder: Path) -> Store | None:
    """The Store in `folder`; None where there is none, or one that was cut or robbed of a file."""
    try:
        moments = np.load(folder / "moments.npy")
        bad = {int(row): reason for row, reason in json.loads((folder / "meta.json").read_text())["bad"].items()}
        pixels = np.load(folder / "pixels.npy", mmap_mode="c")  # torch warns of read-only arrays
        return Store(pixels, moments[:, 0].astype(np.float32), folder.name, bad, moments[:, 1])
    except (FileNotFoundError, EOFError, ValueError):
        return None


@contextlib.contextmanager
def _locked(folder: Path):
    """One builder at a time, until it ends or dies. Yields False on a file system without locks: the rename decides."""
    with open(f"{folder}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another process that decodes the same pictures", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            yield False
            return
        yield True


def _sweep(folder: Path) -> None:
    """Remove what dead processes left half built: folders whose lock is free. Our own lock we hold."""
    for left in folder.parent.glob("*.tmp-*"):
        name = left.name.partition(".")[0]
        with contextlib.suppress(OSError), open(left.with_name(f"{name}.lock"), "w") as file:  # busy, or not ours
            if name != folder.name:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)


def _build(folder: Path, files: list[Path], states: list, size: int, resize: str, workers: int) -> None:
    """Decode into a folder beside `folder`, then rename it; whoever renames first is kept."""
    draft = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    need = len(files) * size * size * 3
    try:
        if shutil.disk_usage(folder.parent).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        draft.mkdir()
        with open(draft / "pixels.npy", "w+b") as file:
            shape = (len(files), size, size, 3)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            start = file.tell()
            claim = getattr(os, "posix_fallocate", lambda *_: None)  # better no room at the start than none half way
            claim(file.fileno(), 0, start + need)
            os.truncate(file.fileno(), start + need)
            moments, bad = decode_all(file, start, files, size, resize, workers)
            os.fsync(file.fileno())  # else a power cut could leave a published Store of zeros
        changed = [path for path, state in zip(files, states) if _state(path) != state]
        if changed:
            raise LongtailError(
                f"{changed[0]} changed while it was decoded ({len(changed)} files did): "
                "run again when the pictures are at rest"
            )
        np.save(draft / "moments.npy", moments)
        (draft / "meta.json").write_text(json.dumps({"recipe": RECIPE, "size": size, "resize": resize, "bad": bad}))
        if folder.exists() and _open(folder) is None:
            shutil.rmtree(folder)  # damaged
        try:
            os.rename(draft, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # a process that no lock held back was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
