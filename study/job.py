"""A trial in a worker's hands: it goes on epoch by epoch under its lease, and ends as a row of the study.

A trial that fails is a row with its reason; its neighbours do not notice. One whose lease is lost leaves no row.
"""

import contextlib
import csv
from dataclasses import replace
from pathlib import Path

import torch

import metrics
import train
from engine import outcome
from engine.numerics import pick_device
from errors import LongtailError, Stopped
from study.lease import LeaseLost

TURN = 16  # steps that a trial queues on its stream before the next one's turn; a CPU's trials do not notice


class Job:
    """A trial in progress under a lease."""

    def __init__(self, study, lease, device, stop):
        self.study, self.lease = study, lease
        self.config = replace(
            study.config(lease.i),
            project=str(study.folder / "trials"),
            name=f"{lease.i:04d}",
            resume=True,
            until=lease.until,
            threads=study.spec["threads"],
            device=device,
        )
        self.stream = torch.cuda.Stream() if pick_device(device).type == "cuda" else None
        self.epochs = train.trial(self.config, stop, lease.check, TURN)

    def advance(self):
        """Goes on for a turn, at most an epoch. True when the trial is over: finished, failed or lost."""
        try:
            with torch.cuda.stream(self.stream):
                next(self.epochs)
            return False
        except StopIteration:
            outcome = dict(status="ok", reason="")
        except (LeaseLost, Stopped):
            return True
        except Exception as e:  # whatever it is, it is this trial's alone, and its row says it
            if isinstance(e, RuntimeError) and "CUDA error" in str(e):
                raise  # the device itself is gone for this process; a new worker goes on
            outcome = dict(status="failed", reason=_reason(e))
        with contextlib.suppress(LeaseLost):
            row = dict(trial=self.lease.i, until=self.lease.until, fold=self.config.fold, seed=self.config.seed)
            self.study.publish(self.lease, row | outcome | _scores(self.config))
            if self.study.over(row | outcome):
                (Path(self.config.project) / self.config.name / "last.pt").unlink(missing_ok=True)
        return True


def _reason(e):
    """An exception in a line."""
    lines = str(e).strip().splitlines() or [""]
    if isinstance(e, MemoryError):
        return f"out of memory: {lines[0]}"
    return lines[0] if isinstance(e, LongtailError) else f"{type(e).__name__}: {lines[0]}"


def _scores(config):
    """The metrics of the epoch that a run kept, its seconds altogether, the standard error of its macro F1."""
    folder = Path(config.project) / config.name
    if not (folder / "results.csv").exists():
        return {}
    with open(folder / "results.csv", newline="", encoding="utf-8") as f:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    if not rows:
        return {}
    aside = ("seconds", "data_wait", "images_per_s")
    kept = max(rows, key=lambda row: outcome.rating(row, config.monitor))
    scores = {k: v for k, v in kept.items() if k not in aside}
    scores |= dict(epoch=int(scores["epoch"]), seconds=round(sum(r["seconds"] for r in rows), 3))
    if (folder / "val_predictions.csv").exists():
        targets, predicted, classes = outcome.validation_labels(folder)
        se = metrics.standard_error(lambda t, p: metrics.macro_f1(t, p, len(classes)), targets, predicted)
        scores |= dict(macro_f1_se=se, val_pictures=len(targets))
    return scores
