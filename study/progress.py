"""What is said of a study while it is filled: a bar, a line for each trial that ends, the best so far."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

from config import spelled
from study import ranking
from study.metric import METRICS, merit
from study.table import Study

RESULTS = 5.0  # seconds between two writings of results.csv: of a thousand trials it takes a fifth of one


@contextlib.contextmanager
def progress(study: Study) -> Iterator[Callable[[dict], None]]:
    """A bar of the study's rows; with halving a trial has several, and how many there will be is known rung by rung.
    The function that it gives takes each new row, says it, and keeps results.csv."""
    from tqdm import tqdm

    best = Best(study.metric)
    for row in study.rows().values():
        best.see(row)
    written = 0.0  # when results.csv was, by the monotonic clock
    rows = len(study.rows())
    with tqdm(total=rows + len(study.jobs()), initial=rows, unit="trial", disable=None, smoothing=0) as bar:

        def seen(row):
            nonlocal written
            done = len(study.rows())
            tqdm.write(_trial_line(study, row, done), file=sys.stderr)
            best.see(row)
            bar.n, bar.total = done, done + len(study.jobs())
            bar.set_postfix_str(best.said)
            if time.monotonic() - written > RESULTS:
                study.write_results()
                written = time.monotonic()

        yield seen


class Best:
    """The best of the rows that were seen, in words."""

    def __init__(self, metric: str):
        self.metric, self.merit, self.said = metric, -math.inf, ""

    def see(self, row: dict) -> None:
        score = row.get(self.metric, math.nan)  # without validation pictures there is none
        if row["status"] == "ok" and merit(self.metric, score) > self.merit:
            self.merit = merit(self.metric, score)
            self.said = f"best so far {score:.4f}, trial {row['trial']}"


def _trial_line(study, row, done):
    """A finished trial in a line."""
    config = study.config(row["trial"])
    settings = [f"{name} {spelled(getattr(config, name))}" for name in ranking.varied(study)]
    if len(settings) > 5:
        settings = [*settings[:4], f"{len(settings) - 4} more"]
    if config.folds:
        settings.append(f"fold {config.fold}")
    settings.append(f"seed {config.seed}")
    said = f"{done:4d}  trial {row['trial']} ({', '.join(settings)}): "
    if row["status"] != "ok":
        return f"{said}failed: {row['reason']}"
    if "macro_f1" in row:
        shown = dict.fromkeys(["macro_f1", "acc", study.metric])
        said += ", ".join(f"{METRICS[name]} {row[name]:.4f}" for name in shown)
    else:
        said += f"train loss {row['train_loss']:.4f}"
    return f"{said}, epoch {row['epoch']}, {row['seconds']:.0f} s"
