"""Files that are there whole or not at all, whatever kills their writer; and locks."""

import contextlib
import fcntl
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from errors import LongtailError


def scratch_path(path: Path) -> Path:
    """A hidden path beside `path` of this process's own: hosts that share a file system often share process ids too."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")


def is_scratch(path: Path) -> bool:
    """Whether `scratch_path` names such a file: a killed writer left it."""
    named = re.fullmatch(r"\.\w+\.(pt|json|csv|npy|txt|diff)\..*\.\d+", path.name)
    return named is not None and path.is_file()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not."""
    temporary = scratch_path(path)
    try:
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a disk that is full does not say of which file
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written there is none
            temporary.unlink(missing_ok=True)


def take_lock(file: IO, wait: bool = False) -> None:
    """Locks an open file until it is closed. BlockingIOError where another process holds it, unless `wait`.

    Raises LongtailError where the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as e:
        raise LongtailError(
            f"{Path(file.name).parent}: its file system has no locks ({e.strerror}): choose a --project on another"
        ) from None
