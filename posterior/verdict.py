"""What came out of a run and what to do next: a sentence, and what was found, the worst first.

Reads no file. A finding says what was seen, with its number, and what to type or to try.
"""

import shlex
from typing import NamedTuple

import numpy as np

import metrics
from engine.folder import Folder
from engine.outcome import overfits
from errors import counted
from pictures.names import some
from posterior import mistakes, reliability, scores
from posterior.calibration import LARGE
from posterior.evidence import Evidence

SURE = 0.7  # accuracy from which a doubted label is more than a mistake of the network
WAITS = 0.2  # share of an epoch spent waiting for data from which it is worth a word


class Finding(NamedTuple):
    """Something to know about a run."""

    weight: float  # 0 to 1, how much it matters
    seen: str
    todo: str  # '' where there is nothing to do


def outcome(run: Folder, found: Evidence | None) -> str:
    """What came out, in a sentence."""
    if not run.epochs:
        last = next((line for line in reversed(run.log) if line.strip()), "nothing was said")
        return f"No epoch is done yet; the last thing said was: {last}."
    epochs, planned = len(run.epochs), run.settings.get("epochs", len(run.epochs))
    if found is None:
        last = run.epochs[-1]
        scored = f"macro F1 {last['macro_f1']:.3f}" if "macro_f1" in last else f"training loss {last['train_loss']:.3f}"
        state = "is done, without validation pictures" if run.done else f"stands after {epochs} of {planned} epochs"
        if run.done and any(part == "val" for _, _, part in run.split):
            state = "is done, but its answers to validation pictures cannot be read"
        return f"The run {state}: {scored} at epoch {epochs}."
    predicted, n = found.log_posterior.argmax(1), len(found.targets)
    f1 = metrics.macro_f1(found.targets, predicted, len(found.classes))
    low, high = metrics.macro_f1_interval(found.targets, predicted, len(found.classes))
    right = scores.wilson(int((predicted == found.targets).sum()), n)
    guess = scores.guesses(found.targets, found.counts)["most frequent"]
    return (
        f"Epoch {run.kept} of {planned} is kept: macro F1 {f1:.3f} (95%: {low:.3f} to {high:.3f}) and accuracy "
        f"{right.value:.3f} ({right.low:.3f} to {right.high:.3f}) on {counted(n, 'validation picture')} of "
        f"{counted(len(found.classes), 'class')}, where always naming the most frequent class gets "
        f"{guess['macro_f1']:.3f} and {guess['acc']:.3f}."
    )


def findings(run: Folder, found: Evidence | None) -> list[Finding]:
    """What there is to know, the most important first."""
    ours = list(_of_epochs(run))
    if found is not None:
        ours += _of_pictures(run, found)
    if run.notes:
        ours.append(Finding(0.5, f"Not all of the folder could be read: {'; '.join(run.notes)}", ""))
    return sorted(ours, key=lambda finding: -finding.weight)


def _of_epochs(run):
    """What the epochs tell."""
    settings, rows = run.settings, run.epochs
    planned = settings.get("epochs", len(rows))
    where = shlex.join(["--project", str(run.path.parent), "--name", run.path.name])
    if not run.done:
        yield Finding(0.95, f"{len(rows)} of {planned} epochs are done", f"python train.py {where} --resume goes on")
    if not rows:
        return
    losses = np.array(run.column("nll"))
    if np.isfinite(losses).all() and len(rows) >= 5:
        best = int(losses.argmin())
        if losses[-1] > 1.1 * losses[best] and best < len(rows) - 2:
            seen = f"Validation loss was lowest at epoch {best + 1} ({losses[best]:.3f}) and ends at {losses[-1]:.3f}"
            mend = (
                "calibrate.py repairs its probabilities; with more augmentation or weight decay the loss falls longer"
            )
            yield Finding(0.55, seen, mend)
        # A third of the epochs ago, by a straight line through the last ones.
        tail = losses[-max(3, len(rows) // 5) :]
        gain = -np.polyfit(np.arange(len(tail)), tail, 1)[0] * len(rows) / 3
        if best >= len(rows) - 2 and gain > 0.05 * losses[-1] and len(rows) >= planned:
            yield Finding(0.75, "Validation loss was still falling at the end", f"train longer: --epochs {2 * planned}")
    kept = next((row for row in rows if row["epoch"] == run.kept), rows[-1])
    if "acc" in kept and overfits(kept, sum(part == "val" for _, _, part in run.split)):
        gap = kept["train_acc"] - kept["acc"]
        todo = "more augmentation, --mixup-p, --weight-decay or --dropout"
        yield Finding(0.7, f"Training accuracy is {gap:.2f} above validation accuracy", todo)
    if settings.get("monitor", "last") != "last" and "acc" in kept:
        seen = f"The kept epoch was chosen on these validation pictures by {settings['monitor']}, so its scores flatter"
        judging = f"python evaluate.py --run {shlex.quote(str(run.path))} --test DIR"
        yield Finding(0.3, seen, f"judge it on others: {judging}, or study folds")
    waits = np.mean([row.get("data_wait", 0) for row in rows])
    if waits > WAITS:
        yield Finding(0.2, f"Training waited for data {waits:.0%} of the time", "")


def _of_pictures(run, found):
    """What the validation pictures tell."""
    classes, targets, n = found.classes, found.targets, len(found.targets)
    predicted = found.log_posterior.argmax(1)
    columns = metrics.per_class(targets, predicted, len(classes))
    low, _ = metrics.macro_f1_interval(targets, predicted, len(classes))
    drawn = scores.guesses(targets, found.counts)["drawn by the prior"]["macro_f1"]
    if low <= drawn:
        yield Finding(
            1, f"Macro F1 is not clearly above drawing labels by the prior ({drawn:.3f})", "train longer first"
        )
    named = np.bincount(predicted, minlength=len(classes))
    never = [name for c, name in enumerate(classes) if columns["support"][c] and not named[c]]
    todo = f"python calibrate.py {shlex.quote(str(run.path))}, then predict with --prior tau or --prior uniform"
    if never:
        seen = f"Never named: {counted(len(never), 'class')} of {len(classes)}: {some(never)}"
        yield Finding(0.6 + 0.3 * len(never) / len(classes), seen, todo)
    group = scores.group_scores(predicted, targets, found.counts)
    many, few = group["many"], group["few"]
    if many.low > few.high:
        seen = f"Accuracy of classes with many training pictures: {many.value:.2f}; with few: {few.value:.2f}"
        yield Finding(0.65, seen, todo)
    if found.log_posterior.size <= LARGE:
        probs = metrics.softmax(found.log_posterior)
        error, right = metrics.ece(probs, targets), reliability.chance(probs, draws=50)["ece"]
        if error > right.high:
            way = "too sure" if reliability.gap(probs, targets).gap > 0 else "not sure enough"
            seen = f"The probabilities are {way}: ECE {error:.3f}, right ones show {right.low:.3f} to {right.high:.3f}"
            yield Finding(0.6, seen, f"python calibrate.py {shlex.quote(str(run.path))}")
    suspects = len(mistakes.suspects(found.log_posterior, targets, found.counts))
    if suspects > 0.01 * n and (predicted == targets).mean() >= SURE:
        seen = f"{counted(suspects, 'validation label')} may be wrong"
        yield Finding(0.4, seen, "look at the pictures under Suspected labels")
    absent = int((columns["support"] == 0).sum())
    if absent:
        seen = f"{counted(absent, 'class')} without a validation picture: macro F1 is over the others"
        yield Finding(0.45, seen, "sweep.py --folds 5 judges every picture")
    elif np.median(columns["support"]) < 5:
        seen = "Half of the classes have fewer than 5 validation pictures"
        yield Finding(0.35, seen, "sweep.py --folds 5 judges every picture")
