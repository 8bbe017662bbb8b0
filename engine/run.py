"""A run's folder: made or continued under a lock, written so that a kill at any moment loses nothing that was written.

Knows file names and formats; knows nothing of models, losses or training.
"""

import contextlib
import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import read_object
from engine.checkpoint import FORMAT, load_checkpoint
from engine.progress import painted
from errors import ConfigError, LongtailError, first_line
from files import is_scratch, replacing, take_lock

ROOT = Path(__file__).resolve().parent.parent
FORMAT_1_NAMES = {"lr": "last_lr", "val_loss": "nll", "val_acc": "acc", "head": "many", "tail": "few"}


def with_todays_names(scores: dict) -> dict:
    """`scores`, a dict of an epoch's scores from any version, with their names of today."""
    return {FORMAT_1_NAMES.get(name, name): value for name, value in scores.items()}


class Run:
    """A locked run folder."""

    def __init__(self, project: str, name: str, resume: bool, guard: Callable = lambda: None):
        """Makes project/name, or name-2, name-3, ... where that is taken; with `resume` continues in the first.

        guard: called before every write, which does not happen where it raises.
        """
        self.guard = guard
        for i in count(1):
            self.folder = Path(project) / (name if i == 1 else f"{name}-{i}")
            try:
                self.folder.mkdir(parents=True)
                break
            except FileExistsError:
                if not self.folder.is_dir():
                    raise LongtailError(f"{self.folder} is a file: choose another --name or --project") from None
                if resume:
                    self._refuse_others_folder()
                    break
        self.lock = open(self.folder / ".lock", "w")
        try:
            take_lock(self.lock)
        except BlockingIOError:
            raise LongtailError(f"{self.folder} is in use by another process: wait, or choose another --name") from None
        for left in filter(is_scratch, self.folder.iterdir()):
            left.unlink()
        if i > 1:
            self.say(f"{Path(project) / name} exists: this run is {self.folder} (--resume continues the old one)")

    def _refuse_others_folder(self):
        """Raises LongtailError where a folder to go on in holds something else than a run: nothing of it is touched."""
        names = {path.name for path in self.folder.iterdir() if not is_scratch(path)}
        begun = names <= {".lock", "train.log"}  # a kill came before its first file
        ours = "mixup_p" in (self.read_json("args.json") or {})  # other programs write an args.json too
        if "study.json" in names or not (begun or ours):
            raise LongtailError(f"{self.folder} is not the folder of a run: choose another --name")

    def close(self) -> None:
        self.lock.close()

    def say(self, line: str) -> None:
        """One line to stderr and to train.log."""
        self.guard()
        print(painted(line, sys.stderr), file=sys.stderr, flush=True)
        with self._appending("train.log") as f:
            print(line, file=f)

    @contextlib.contextmanager
    def _appending(self, name):
        path = self.folder / name
        try:
            with open(path, "a", newline="", encoding="utf-8") as f:
                yield f
        except OSError as error:
            error.filename = str(path)  # a disk that is full does not say of which file
            raise

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        with replacing(self.folder / name) as path:
            yield path
            self.guard()

    def write_json(self, name: str, value: object) -> None:
        self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        with self.replacing(name) as path:
            path.write_text(text, encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """The object in file `name`, None if there is none. Raises LongtailError where it is damaged."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return read_object(path)
        except ConfigError as e:
            raise LongtailError(f"{e}: it is damaged, and the run cannot go on: begin another --name") from None

    def write_rows(self, name: str, header: list, rows: Iterable[list]) -> None:
        with self.replacing(name) as path, open(path, "w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)

    def write_array(self, name: str, array: np.ndarray) -> None:
        with self.replacing(name) as path, open(path, "wb") as f:
            np.save(f, array)

    def results(self, rows: list[dict]) -> None:
        """Writes results.csv anew: one dict an epoch."""
        with self.replacing("results.csv") as path, open(path, "w", newline="", encoding="utf-8") as f:
            csv.writer(f, lineterminator="\n").writerows([list(r) for r in rows[:1]] + [list(r.values()) for r in rows])

    def append(self, row: dict) -> None:
        """Adds an epoch to results.csv, flushed; the header comes with the first."""
        self.guard()
        with self._appending("results.csv") as f:
            header = [list(row)] if f.tell() == 0 else []
            csv.writer(f, lineterminator="\n").writerows([*header, list(row.values())])

    def save(self, name: str, value: dict) -> None:
        """torch.save of plain tensors and dicts, all or nothing."""
        try:
            with self.replacing(name) as path:
                torch.save(value, path)
        except (OSError, RuntimeError) as e:  # torch reports a full disk as a RuntimeError of several lines
            raise LongtailError(
                f"{self.folder / name} could not be written ({first_line(e)}): is the disk full? "
                "Make room, then --resume"
            ) from e

    def load(self, name: str) -> dict | None:
        """What `save` wrote, on the CPU; None if there is none."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return load_checkpoint(path)
        except LongtailError as e:
            raise LongtailError(f"{e}; remove it, and --resume begins again at epoch 1") from e

    def remove(self, name: str) -> None:
        self.guard()
        (self.folder / name).unlink(missing_ok=True)


class FollowedRun(Run):
    """The folder of a run that another rank writes: it can be read, and what would be written is dropped."""

    def __init__(self, folder):
        self.folder = folder

    def close(self) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def write_text(self, name: str, text: str) -> None:
        pass

    def write_rows(self, name: str, header: list, rows: list) -> None:
        pass

    def write_array(self, name: str, array: np.ndarray) -> None:
        pass

    def results(self, rows: list[dict]) -> None:
        pass

    def append(self, row: dict) -> None:
        pass

    def save(self, name: str, value: dict) -> None:
        pass

    def remove(self, name: str) -> None:
        pass


def environment(device: torch.device) -> dict:
    """What a result depends on beside its settings: versions, device, threads, the code's commit."""
    import PIL

    listed = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = (re.findall(r"model name\s*: (.+)", listed) or [platform.machine()])[0]
    return dict(
        format=FORMAT,
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        command=sys.argv,
        commit=_git("describe", "--always", "--dirty", "--exclude", "*").strip() or None,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        pillow=PIL.__version__,
        platform=platform.platform(),
        cpu=f"{cpu}, {os.cpu_count()} cores",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def uncommitted() -> str:
    """What the code differs in from its last commit, as a patch, Python files that git does not track yet included.

    Empty for a clean tree and outside of a repository.
    """
    patch = _git("diff", "HEAD", "--", ".")
    for name in _git("ls-files", "--others", "--exclude-standard", "*.py").splitlines():
        patch += _git("diff", "--no-index", os.devnull, name)
    return patch


def _git(*words):
    """What git says about the repository of this code, '' where there is none."""
    if not shutil.which("git"):
        return ""
    command = ["git", "-C", ROOT, "-c", "core.quotepath=off", *words]
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
