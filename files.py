"""Files that are there whole or not at all, whatever kills their writer."""

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path


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
