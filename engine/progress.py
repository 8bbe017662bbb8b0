"""What a person sees while a run trains: one bar for all of it, colours on a terminal, scores for TensorBoard.

Nothing here is read back, and nothing is drawn, coloured or logged where nobody looks.
"""

import os
import sys
from pathlib import Path
from typing import TextIO

from errors import LongtailError

YELLOW, GREEN, PLAIN = "\x1b[33m", "\x1b[32m", "\x1b[0m"


class Bar:
    """The run's epoch, its loss and macro F1 so far and the time left, on the last line of a terminal."""

    def __init__(self, epochs: int, shown: bool = True):
        """epochs: after which this call ends. shown: whether it is this process's to draw; on a terminal alone."""
        self.epochs = epochs
        self.off = None if shown else True  # None: tqdm looks whether there is a terminal
        self.bar = None

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Step `step` of `steps` of an epoch is done; all three are counted from 0 but `steps`."""
        done = epoch * steps + step + 1
        if self.bar is None:
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"  # which tqdm begins with a comma
            total = self.epochs * steps
            self.bar = tqdm(total=total, initial=done - 1, bar_format=form, disable=self.off, leave=False)
        self.bar.set_description_str(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.update(done - self.bar.n)

    def scores(self, row: dict) -> None:
        """Takes up an epoch's scores, and leaves the line to what is said next."""
        if self.bar is not None:
            f1 = f"  macro F1 {row['macro_f1']:.3f}" if "macro_f1" in row else ""
            self.bar.set_postfix_str(f"loss {row['train_loss']:.3f}{f1}", refresh=False)
            self.bar.clear()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Scalars:
    """Every score of every epoch for TensorBoard, in the run's folder, through torch's own writer."""

    def __init__(self, on: bool):
        """Raises LongtailError where they are asked for and the package is not there."""
        self.kind = self.writer = None
        if on:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise LongtailError(
                    "--tensorboard needs a package: pip install tensorboard, or drop the flag"
                ) from None
            self.kind = SummaryWriter

    def begin(self, folder: Path, epoch: int) -> None:
        """The scores that follow are of `folder`; what an earlier start logged from `epoch` on no longer counts."""
        if self.kind is not None:
            self.writer = self.kind(str(folder / "tensorboard"), purge_step=epoch + 1)

    def add(self, row: dict) -> None:
        """The scores of an epoch."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def painted(line: str, stream: TextIO = sys.stderr) -> str:
    """A line of talk with its warning or its best epoch in colour, where `stream` is a terminal that wants colours."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return line
    if line.startswith("warning:"):
        return f"{YELLOW}warning:{PLAIN}{line.removeprefix('warning:')}"
    if line.endswith("  best"):
        return f"{line.removesuffix('best')}{GREEN}best{PLAIN}"
    return line
