"""A run's folder: made or continued under a lock, written so that a kill at any moment loses nothing that was written.

Knows file names and formats; knows nothing of models, losses or training.
"""

import contextlib
import csv
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from errors import LongtailError

ROOT = Path(__file__).resolve().parent.parent
FORMAT = 2  # of what a run's folder and a study's rows hold; higher numbers are a later version's
FORMAT_1_NAMES = {"lr": "last_lr", "val_loss": "nll", "val_acc": "acc", "head": "many", "tail": "few"}


def with_todays_names(scores: dict) -> dict:
    """`scores`, a dict of an epoch's scores from any version, with their names of today."""
    return {FORMAT_1_NAMES.get(name, name): value for name, value in scores.items()}


def check_format(number: int, path: Path) -> None:
    """Raises LongtailError where `path` was written in a later format than this program knows."""
    if not isinstance(number, int) or number > FORMAT:
        raise LongtailError(f"{path} was written by a later version (format {number}, this one knows {FORMAT}): update")


def scratch_path(path: Path) -> Path:
    """A hidden path beside `path` of this process's own: hosts that share a file system often share process ids too."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not."""
    temporary = scratch_path(path)
    try:
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LongtailError(f"{self.folder} is in use by another process: wait, or choose another --name") from None
        for left in self.folder.glob(".*.*"):
            left.unlink()  # a killed writer's, as `replacing` names them
        if i > 1:
            self.say(f"{Path(project) / name} exists: this run is {self.folder} (--resume continues the old one)")

    def _refuse_others_folder(self):
        """Raises LongtailError where a folder to go on in holds something else than a run: nothing of it is touched."""
        names = {path.name for path in self.folder.iterdir()}
        begun = {name for name in names if name in (".lock", "train.log") or name.startswith(".")}
        if "study.json" in names or ("args.json" not in names and names != begun):
            raise LongtailError(f"{self.folder} is not the folder of a run: choose another --name")

    def close(self) -> None:
        self.lock.close()

    def say(self, line: str) -> None:
        """One line to stderr and to train.log."""
        self.guard()
        print(line, file=sys.stderr, flush=True)
        with open(self.folder / "train.log", "a", encoding="utf-8") as f:
            print(line, file=f)

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
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as e:
            raise LongtailError(f"{path} is damaged ({e}): the run cannot go on, begin another --name") from None
        if not isinstance(value, dict):
            raise LongtailError(f"{path} is damaged (no JSON object): the run cannot go on, begin another --name")
        return value

    def write_rows(self, name: str, header: list, rows: list) -> None:
        with self.replacing(name) as path, open(path, "w", newline="", encoding="utf-8") as f:
            csv.writer(f, lineterminator="\n").writerows([header, *rows])

    def results(self, rows: list[dict]) -> None:
        """Writes results.csv anew: one dict an epoch."""
        with self.replacing("results.csv") as path, open(path, "w", newline="", encoding="utf-8") as f:
            csv.writer(f, lineterminator="\n").writerows([list(r) for r in rows[:1]] + [list(r.values()) for r in rows])

    def append(self, row: dict) -> None:
        """Adds an epoch to results.csv, flushed; the header comes with the first."""
        self.guard()
        path = self.folder / "results.csv"
        with open(path, "a", newline="", encoding="utf-8") as f:
            header = [list(row)] if f.tell() == 0 else []
            csv.writer(f, lineterminator="\n").writerows([*header, list(row.values())])

    def save(self, name: str, value: dict) -> None:
        """torch.save of plain tensors and dicts, all or nothing."""
        try:
            with self.replacing(name) as path:
                torch.save(value, path)
        except (OSError, RuntimeError) as e:  # torch reports a full disk as a RuntimeError of several lines
            raise LongtailError(
                f"{self.folder / name} could not be written ({str(e).splitlines()[0]}): is the disk full? "
                "Make room, then --resume"
            ) from e

    def load(self, name: str) -> dict | None:
        """What `save` wrote, on the CPU; None if there is none."""
        path = self.folder / name
        return load_checkpoint(path) if path.exists() else None


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

    def results(self, rows: list[dict]) -> None:
        pass

    def append(self, row: dict) -> None:
        pass

    def save(self, name: str, value: dict) -> None:
        pass


def load_checkpoint(path: Path) -> dict:
    """A checkpoint's dict, on the CPU, without running any code of it. Raises LongtailError where a byte of it
    changed."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch checks no CRC: a flipped bit would become another weight
            # Nor is there one for attributes, by which torch would take a tensor's bytes for a folder.
            odd = [entry.filename for entry in archive.infolist() if entry.external_attr]
        damaged = damaged or next(iter(odd), None)
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise LongtailError(
            f"{path} cannot be read ({type(e).__name__}): damaged, or no checkpoint of this program"
        ) from e


def load_best(path: Path) -> dict:
    """A best.pt, of this or an earlier format. Raises LongtailError where it is something else."""
    saved = load_checkpoint(path)
    if not isinstance(saved, dict) or not {"weights", "classes", "model"} <= saved.keys():
        raise LongtailError(f"{path} is not a best.pt of this program")
    check_format(saved.get("format", 1), path)
    return saved


def environment(device: torch.device) -> dict:
    """What a result depends on beside its settings: versions, device, threads, the code's commit."""
    import numpy
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
        numpy=numpy.__version__,
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
