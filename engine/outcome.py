"""What an epoch and a run come to: where a run stands, its scores, the epoch that is kept, the tables of its end."""

import contextlib
import csv
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import metrics
from config import Config
from data import Pictures
from engine.run import Run
from engine.step import Stepper
from losses import Objective, changes, settling
from pictures.layout import own_test

OVERFIT_GAP = 0.35  # training minus validation accuracy from which a run is told that it overfits


@dataclass
class State:
    """Where a run stands. With the Stepper's state it is all that a resume needs."""

    epoch: int = 0  # epochs that are done
    step: int = 0  # steps that are done of the epoch under way
    stale: int = 0  # epochs without a new best one, those that follow a change of the loss aside
    rows: list[dict] = field(default_factory=list)  # of results.csv, an epoch each
    best: dict | None = None  # the epoch that is kept: its weights, number, scores, bias and validation logits


def epoch_scores(epoch: int, stepper: Stepper, logits: np.ndarray | None, pictures: Pictures, last_lr: float) -> dict:
    """The scores of an epoch, a dict of floats: of training as it went, and of `logits` [V,C] of the validation
    pictures (None where there are none). last_lr: the learning rate of its last step."""
    scores = dict(
        epoch=epoch,
        last_lr=last_lr,
        train_loss=float(stepper.losses.mean()),
        train_acc=float(stepper.right.mean()),
    )
    if logits is not None:
        scores |= metrics.evaluate(logits, pictures.listing.labels[pictures.val], pictures.counts)
    return scores


def end_epoch(
    state: State,
    scores: dict,
    times: dict,
    monitor: str,
    model: torch.nn.Module,
    logits: np.ndarray | None,
    bias: np.ndarray,
    settling: bool = False,
    last: bool = True,
) -> None:
    """Ends an epoch in `state`: adds its row, and keeps its weights, logits and bias where it is the best so far.

    settling: the network still follows a change of the loss; such an epoch is neither the best nor a reason to stop.
    last: no epoch follows in this call; where the last one is kept, whatever its scores, only then it is copied.
    """
    state.epoch += 1
    state.step = 0
    state.rows.append(scores | times)
    waits = settling if _chooses(scores, monitor) else not last
    if waits:
        return
    # The first of equals is kept: training longer must give something.
    better = not state.best or rating(scores, monitor) > rating(state.best["metrics"], monitor)
    if not better:
        state.stale += 1
        return
    state.stale = 0
    state.best = dict(
        # On the CPU: the next step writes over the device's.
        weights={k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()},
        epoch=state.epoch,
        metrics=scores,
        bias=bias.tolist(),
        logits=None if logits is None else torch.from_numpy(logits),
    )


def _chooses(scores, monitor):
    """Whether the epoch that is kept is chosen by a score; else it is the last."""
    return monitor != "last" and "nll" in scores


def out_of_patience(state: State, config: Config) -> bool:
    """Whether config.patience epochs brought nothing better, so that training ends (0: never).

    Not before the last change of the loss: what that is worth shows only after it.
    """
    objective = config.group(Objective)
    to_come = any(changes(objective, epoch, config.epochs) for epoch in range(state.epoch, config.epochs))
    return bool(config.patience) and state.stale >= config.patience and not to_come


def is_done(state: State, config: Config) -> bool:
    """Whether a run of `config` has no epoch left to train."""
    return state.epoch >= config.epochs or out_of_patience(state, config)


def rating(scores: dict, monitor: str) -> float:
    """An epoch's score: the highest is kept, the earliest of equals. Without validation pictures the last is kept."""
    if not _chooses(scores, monitor):
        return scores["epoch"]
    return -scores["nll"] if monitor == "nll" else scores[monitor]


def kept_row(rows: list[dict], config: Config) -> dict:
    """The row of results.csv of the epoch that a run of `config` keeps."""
    able = rows
    if _chooses(rows[0], config.monitor):
        objective = config.group(Objective)
        able = [row for row in rows if not settling(objective, int(row["epoch"]) - 1, config.epochs)]
    return max(able, key=lambda row: rating(row, config.monitor))


def finish(run: Run, config: Config, pictures: Pictures, state: State) -> None:
    """Validation tables of the epoch that is kept, and the warnings that a practitioner would want."""
    _add_last_filters(run, state.best)
    following = predict_command(pictures.root, ["--run", str(run.folder)], config.device)
    if not len(pictures.val):
        run.say(f"{run.folder}: done; weights of the last epoch, no validation pictures. Next: {following}")
        return
    best = state.best
    classes = pictures.listing.classes
    targets = pictures.listing.labels[pictures.val]
    logits = best["logits"].numpy()
    predicted = logits.argmax(1)
    scores = metrics.per_class(targets, predicted, len(classes))
    _write_tables(run, pictures, logits, scores)

    kept = best["metrics"]
    # Training accuracy is of mixed and cropped rows: a gap in spite of that is a large one.
    if overfits(kept, len(targets)):
        gap = kept["train_acc"] - kept["acc"]
        run.say(
            f"warning: training accuracy is {gap:.2f} above validation: more augmentation, mixup or weight decay may "
            "help"
        )
    # Of classes without a validation picture nothing is known.
    named = np.bincount(predicted, minlength=len(classes))
    never = [c for i, c in enumerate(classes) if scores["support"][i] and not named[i]]
    if never:
        run.say(
            f"warning: never predicted on validation, {len(never)} of {len(classes)} classes: "
            f"{', '.join(never[:3])}{' ...' * (len(never) > 3)}: train longer, or use calibrate.py, then predict.py "
            "--prior tau"
        )
    chosen = "last epoch"  # no choice, so nothing flatters
    if config.monitor != "last":
        chosen = (
            f"best epoch {best['epoch']} of {state.epoch} by validation {config.monitor} (chosen on these pictures, "
            "so it flatters)"
        )
    low, high = metrics.macro_f1_interval(targets, predicted, len(classes))
    absent = int((scores["support"] == 0).sum())
    without = f" ({absent} of {len(classes)} classes have no validation picture)" if absent else ""
    run.say(
        f"{run.folder}: {chosen}: macro F1 {kept['macro_f1']:.3f} [{low:.3f}, {high:.3f}]{without}, "
        f"accuracy {kept['acc']:.3f}, n {len(targets)}. In brackets: 95% interval, for other pictures of this kind. "
        f"Next: {following}"
    )


def overfits(row: dict, n: int) -> bool:
    """Whether training accuracy is far above that on n validation pictures, by a row of results.csv, and above its 95%
    interval too: of a handful of pictures chance alone leaves few right."""
    _, high = metrics.proportion_interval(row["acc"], n)
    return row["train_acc"] - row["acc"] > OVERFIT_GAP and row["train_acc"] > high


def predict_command(root: Path | str, words: list[str], device: str = "auto") -> str:
    """The command line that labels the test pictures of the data in `root`, with `words` to name the runs."""
    if not own_test(root):
        words = [*words, "--test", "DIR"]
    if device != "auto":
        words = [*words, "--device", device]
    return f"{shlex.join(['python', 'predict.py', *words])} > submission.csv"


def _write_tables(run, pictures, logits, scores):
    """val_logits.npy, val_predictions.csv, per_class.csv and confusion_matrix.csv."""
    classes, paths = pictures.listing.classes, pictures.listing.paths
    run.write_array("val_logits.npy", logits)
    true = pictures.listing.labels[pictures.val]
    predicted = logits.argmax(1)
    pieces = np.array_split(logits, len(logits) // 256 + 1)  # in float64 all rows at once would be large
    confidence = np.concatenate([metrics.softmax(piece).max(1) for piece in pieces])
    run.write_rows(
        "val_predictions.csv",
        ["path", "true", "predicted", "p"],
        [
            [paths[row], classes[t], classes[p], f"{c:.6f}"]
            for row, t, p, c in zip(pictures.val, true, predicted, confidence)
        ],
    )
    run.write_rows(
        "per_class.csv",
        ["class", "train", *scores],
        [
            [name, count, *(f"{column[c]:.6g}" for column in scores.values())]
            for c, (name, count) in enumerate(zip(classes, pictures.counts))
        ],
    )
    run.write_rows(
        "confusion_matrix.csv",  # a row at a time: of 10,000 classes all would take 800 MB
        ["true \\ predicted", *classes],
        ([name, *np.bincount(predicted[true == c], minlength=len(classes)).tolist()] for c, name in enumerate(classes)),
    )


def filters(weights: dict[str, torch.Tensor]) -> np.ndarray | None:
    """The filters of the first convolution, float16 [K, 3, k, k], of a network's weights; None if it takes no RGB."""
    first = next((value for value in weights.values() if value.ndim == 4), None)
    return None if first is None or first.shape[1] != 3 else first.detach().cpu().half().numpy()


def _add_last_filters(run, best):
    """filters.npy, which began as [1, K, 3, k, k], becomes [2, K, 3, k, k]: before training and of the kept epoch."""
    path = run.folder / "filters.npy"
    last = filters(best["weights"]) if best and path.exists() else None
    if last is not None:
        with contextlib.suppress(ValueError, EOFError):  # damaged: a picture less, and no reason for a run to fail
            run.write_array(path.name, np.stack([np.load(path)[0], last]))


def validation_labels(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """(paths, targets [V], predicted [V], class names) of a finished run's validation pictures, from its folder."""
    # A class may hold what read_text and splitlines take for the end of a line.
    classes = (folder / "classes.txt").read_bytes().decode().removesuffix("\n").split("\n")
    number = {name: c for c, name in enumerate(classes)}
    with open(folder / "val_predictions.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    paths = [row["path"] for row in rows]
    targets = np.array([number[row["true"]] for row in rows])
    predicted = np.array([number[row["predicted"]] for row in rows])
    return paths, targets, predicted, classes


def validation_answers(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """As `validation_labels`, with the logits [V,C] in place of what they come to.

    Raises FileNotFoundError where a file is gone, ValueError, KeyError, EOFError or csv.Error where one is damaged.
    """
    paths, targets, _, classes = validation_labels(folder)
    logits = np.load(folder / "val_logits.npy")
    if logits.shape != (len(paths), len(classes)) or not len(paths) or not np.isfinite(logits).all():
        raise ValueError(f"val_logits.npy does not fit {len(paths)} pictures of {len(classes)} classes")
    return paths, targets, logits, classes


def epoch_line(state: State, epochs: int, last: int) -> str:
    """The last epoch that is done, in a line, and the minutes until epoch `last`, where there are some."""
    row = state.rows[-1]
    minutes = math.ceil((last - state.epoch) * row["seconds"] / 60)
    said = f"epoch {row['epoch']:3d}/{epochs}  train loss {row['train_loss']:.3f} acc {row['train_acc']:.3f}"
    if "nll" in row:
        said += (
            f"  val loss {row['nll']:.3f} acc {row['acc']:.3f}  macro F1 {row['macro_f1']:.3f}  ECE {row['ece']:.3f}"
        )
    best = "  best" if state.best and state.best["epoch"] == state.epoch else ""
    left = f"  {minutes} min left" if minutes > 1 else ""
    return f"{said}  {row['images_per_s']:.0f} images/s  wait {row['data_wait']:.0%}{left}{best}"
