"""Every picture decoded once and kept in a cache: one memory-mapped uint8 array, found again by the files' contents.

Processes that ask for the same pictures get the same Store, and one of them decodes, however many start at once. Worker
processes write straight into the file, so memory does not grow with the data. Never imports torch, and never knows a
class or a split. Never puts something in the place of a bad picture: its row is zero and `bad` says why.
"""

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
from typing import NamedTuple

import numpy as np

from errors import LongtailError
from files import replacing
from pictures.decode import MACHINE, RECIPE, RESIZES, PictureError, decode, decode_into, dimensions  # noqa: F401  (handed on)
from pictures.pool import decode_all

CHUNK = 256  # files that a thread reads at a time
CLOCK_GRAIN = 2_000_000_000  # nanoseconds: the coarsest file times in use are two seconds apart
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what a file system without locks answers


@dataclass(frozen=True)
class Store:
    """Decoded pictures in the order asked for. A row in `bad` is zero in every array."""

    pixels: np.ndarray  # uint8 [N, S, S, 3], a memory map whose changes never reach the file
    means: np.ndarray  # float32 [N, 3], each picture's mean, RGB in [0, 1]
    key: str  # hex digest of the decoding recipe, the files' contents and order, S and the resize mode
    bad: dict[int, str]  # row -> reason
    squares: np.ndarray  # float64 [N, 3], each picture's mean square, RGB in [0, 1]


class FileState(NamedTuple):
    """What changes when a file does. The change time too, because a copy may restore size and modification time."""

    inode: int
    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds
    kind: int  # a file, a folder, ...: the S_IFMT bits


def cache_dir() -> Path:
    """$LONGTAIL_CACHE, else $XDG_CACHE_HOME/longtail, else ~/.cache/longtail. LongtailError without any of them."""
    own = os.environ.get("LONGTAIL_CACHE")
    if own:
        return Path(own)
    try:
        shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise LongtailError("there is no home folder to keep decoded pictures in: set $LONGTAIL_CACHE") from None
    return Path(shared) / "longtail"


def load_store(
    files: list[Path], size: int, resize: str = "squash", cache: Path | None = None, workers: int | None = None
) -> Store:
    """The Store of `files`, S = `size`: mapped from the cache where these contents are known, else decoded now.

    resize: "squash", "crop" or "pad", as in `decode`. cache: a folder, by default that of `cache_dir`.
    workers: processes that decode, by default one for each CPU that this process may use.
    Raises LongtailError where the machine failed: no room, no right to write, a disk that cannot be read. A bad picture
    raises nothing and is an entry of `bad`.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize {resize!r} is none of {', '.join(RESIZES)}")
    cache = Path(cache or cache_dir())
    workers = workers or _usable_cpus()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        states = [_file_state(path) for path in files]
        contents = _contents(files, states, cache, workers)
        key = hashlib.sha256(f"{RECIPE} {size} {resize} {contents}".encode()).hexdigest()[:32]
        folder = cache / key
        store = _open(folder)
        if store is not None:
            return store
        with _locked(folder) as locked:
            store = _open(folder)  # a process that we waited for may have made it
            if store is not None:
                return store
            if locked:
                _remove_abandoned(folder)
            _build(folder, files, states, size, resize, workers)
            return _open(folder)
    except OSError as error:
        what = error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need, free = (number / 2**20 for number in (_bytes_needed(files, size), shutil.disk_usage(cache).free))
            what = f"no room: {need:,.2f} MiB are needed, {free:,.2f} MiB are free"
        raise LongtailError(f"cannot decode into {cache}: {what}; $LONGTAIL_CACHE names another folder") from error


def _usable_cpus():
    if hasattr(os, "sched_getaffinity"):  # on Linux a process may have fewer CPUs than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _bytes_needed(files, size):
    return len(files) * size * size * 3


def _file_state(path) -> FileState | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    kind = stat.S_IFMT(status.st_mode)
    return FileState(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, kind)


def _contents(files, states, cache: Path, workers: int) -> str:
    """Hex digest of the contents of all files, in order.

    The cache has an index from file states to this digest, so that files that did not change are not read again.
    """
    started = time.time_ns()
    known = hashlib.sha256()
    for path, state in zip(files, states):
        # As a plain tuple: its text is part of the name of every index entry ever written.
        text = state and tuple(state)
        known.update(f"{path}\0{text}\n".encode(errors="surrogateescape"))
    entry = cache / "index" / known.hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return entry.read_text()

    def digests(begin):
        chunk = slice(begin, begin + CHUNK)
        return b"".join(map(_digest, files[chunk], states[chunk]))

    with ThreadPoolExecutor(workers) as pool:
        chunks = pool.map(digests, range(0, len(files), CHUNK))
        contents = hashlib.sha256(b"".join(chunks)).hexdigest()
    # A file that changed moments ago could change again without a new time. Such files are read again next time.
    if all(state is None or state.changed < started - CLOCK_GRAIN for state in states):
        entry.parent.mkdir(exist_ok=True)
        with replacing(entry) as draft:  # whole at once: another process may be reading it
            draft.write_text(contents)
    return contents


def _digest(path, state) -> bytes:
    """Digest of a file's bytes. Where they cannot be read, that of the reason: once mended, the contents differ."""
    reason = state and state.kind
    if reason == stat.S_IFREG:  # nothing else is opened: a FIFO would wait for ever
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            if error.errno in MACHINE:
                raise
            reason = -error.errno
    return hashlib.sha256(f"\0no bytes: {reason}".encode()).digest()


def _open(folder: Path) -> Store | None:
    """The Store in `folder`. None where there is none, or where a file of it is missing or was cut."""
    try:
        moments = np.load(folder / "moments.npy")
        meta = json.loads((folder / "meta.json").read_text())
        bad = {int(row): reason for row, reason in meta["bad"].items()}  # JSON has made strings of the rows
        pixels = np.load(folder / "pixels.npy", mmap_mode="c")  # writable in memory: torch warns of read-only arrays
    except (FileNotFoundError, EOFError, ValueError):
        return None
    means, squares = moments[:, 0], moments[:, 1]
    return Store(pixels, means.astype(np.float32), folder.name, bad, squares)


@contextlib.contextmanager
def _locked(folder: Path):
    """Hold the lock of `folder`, so that one process at a time builds it. The lock ends with the process.

    Yields False on a file system without locks. Then several may build, and whoever renames first wins.
    """
    with open(f"{folder}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another process that decodes the same pictures", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield False
            return
        yield True


def _remove_abandoned(folder: Path):
    """Remove the drafts that dead processes left in the cache. The lock of `folder` is ours."""
    for draft in folder.parent.glob("*.tmp-*"):
        key = draft.name.partition(".")[0]
        lock = draft.with_name(f"{key}.lock")
        # An OSError: a living process holds the lock, or the draft belongs to somebody else.
        with contextlib.suppress(OSError), open(lock, "w") as file:
            if key != folder.name:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(draft)


def _build(folder: Path, files, states, size, resize, workers) -> None:
    """Decode into a draft beside `folder`, then rename it. Where several do, the first to rename wins."""
    draft = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    try:
        if shutil.disk_usage(folder.parent).free < _bytes_needed(files, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        draft.mkdir()
        moments, bad = _decode_to(draft / "pixels.npy", files, size, resize, workers)
        changed = [path for path, state in zip(files, states) if _file_state(path) != state]
        if changed:
            raise LongtailError(
                f"{changed[0]} changed while it was decoded ({len(changed)} files did): "
                "run again when the pictures are at rest"
            )
        np.save(draft / "moments.npy", moments)
        meta = {"recipe": RECIPE, "size": size, "resize": resize, "bad": bad}
        (draft / "meta.json").write_text(json.dumps(meta))
        if folder.exists() and _open(folder) is None:
            shutil.rmtree(folder)  # damaged
        try:
            os.rename(draft, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # these two: another process was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decode_to(pixels: Path, files, size, resize, workers):
    """Write the .npy file `pixels`. Returns (moments float64 [N, 2, 3], row -> reason), as `decode_all` does."""
    with open(pixels, "w+b") as file:
        shape = (len(files), size, size, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        start = file.tell()
        need = _bytes_needed(files, size)
        if hasattr(os, "posix_fallocate"):  # takes the room now: better none at the start than none half way
            os.posix_fallocate(file.fileno(), 0, start + need)
        os.truncate(file.fileno(), start + need)
        result = decode_all(file, start, files, size, resize, workers)
        os.fsync(file.fileno())  # without it a power cut could leave a finished Store of zeros
    return result
