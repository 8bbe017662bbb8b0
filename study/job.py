"""A trial in a worker's hands: it goes on epoch by epoch under its lease, and ends as a row of the study.

A trial that fails is a row with its reason; its neighbours do not notice. One whose lease is lost leaves no row.
"""

import contextlib
import csv
from dataclasses import replace

import torch

import metrics
import train
from engine import outcome
from engine.numerics import pick_device
from engine.stop import StopRequest
from errors import LongtailError, Stopped, first_line
from study.lease import Lease, LeaseLost
from study.pace import kept_way
from study.table import Study

TURN = 16  # steps that a trial queues on its stream before the next one's turn; a CPU's trials do not notice
NOT_KEPT = ("seconds", "data_wait", "images_per_s")  # columns of results.csv that are no scores of the kept epoch


class Job:
    """A trial in progress under a lease."""

    def __init__(self, study: Study, lease: Lease, device: str, threads: int, stop: StopRequest):
        self.study = study
        self.lease = lease
        self.folder = study.run(lease.i)
        self.config = replace(
            study.config(lease.i),
            project=str(self.folder.parent),
            name=self.folder.name,
            resume=True,
            until=lease.until,
            threads=threads,
            device=device,
        )
        self.stream = torch.cuda.Stream() if pick_device(device).type == "cuda" else None
        self.epochs = train.trial(self.config, stop, lease.check, TURN, kept_way(study, device))

    def advance(self) -> bool:
        """Goes on for a turn, at most an epoch. True when the trial is over: finished, failed or lost."""
        try:
            with torch.cuda.stream(self.stream):
                next(self.epochs)
            return False
        except StopIteration:
            status, reason = "ok", ""
        except (LeaseLost, Stopped):
            return True
        except Exception as error:  # whatever it is, it is this trial's alone, and its row says it
            if isinstance(error, RuntimeError) and "CUDA error" in str(error):
                raise  # the device itself is gone for this process; a new worker goes on
            status, reason = "failed", _in_a_line(error)
        self._end(status, reason)
        return True

    def _end(self, status, reason):
        """Publishes the trial's row, unless its lease is lost."""
        row = dict(
            trial=self.lease.i,
            until=self.lease.until,
            fold=self.config.fold,
            seed=self.config.seed,
            status=status,
            reason=reason,
        )
        with contextlib.suppress(LeaseLost):
            self.study.publish(self.lease, row | _scores(self.folder, self.config))
            if self.study.over(row):
                (self.folder / "last.pt").unlink(missing_ok=True)


def _in_a_line(error):
    """An exception as the reason of a row."""
    said = first_line(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {said}"
    if isinstance(error, LongtailError):  # its message is for people as it is
        return said
    return f"{type(error).__name__}: {said}"


def _scores(folder, config):
    """The metrics of the epoch that a run kept, its seconds altogether, the standard error of its macro F1."""
    if not (folder / "results.csv").exists():
        return {}
    with open(folder / "results.csv", newline="", encoding="utf-8") as f:
        epochs = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(f)]
    if not epochs:
        return {}
    kept = outcome.kept_row(epochs, config)
    scores = {name: value for name, value in kept.items() if name not in NOT_KEPT}
    scores["epoch"] = int(scores["epoch"])
    scores["seconds"] = round(sum(epoch["seconds"] for epoch in epochs), 3)
    if (folder / "val_predictions.csv").exists():
        _, targets, predicted, classes = outcome.validation_labels(folder)
        scores["macro_f1_se"] = metrics.macro_f1_error(targets, predicted, len(classes))
        scores["val_pictures"] = len(targets)
        scores["absent_classes"] = len(classes) - len(set(targets.tolist()))
    return scores
