"""What an epoch and a run come to: metrics, the epoch that is kept, the tables of a run's end and its warnings."""

import numpy as np
import torch

import metrics

GAP = 0.35  # training minus validation accuracy from which a run is told that it overfits


def judge(state, config, pictures, stepper, logits, lr):
    """Ends the epoch: its metrics as a dict, and in `state` the row, the best weights so far and the epochs since."""
    state["epoch"], state["step"] = state["epoch"] + 1, 0
    row = dict(
        epoch=state["epoch"], lr=lr, train_loss=float(stepper.losses.mean()), train_acc=float(stepper.right.mean())
    )
    if logits:
        scores = metrics.evaluate(logits[0], pictures.listing.labels[pictures.val], pictures.counts)
        row |= dict(val_loss=scores.pop("nll"), val_acc=scores.pop("acc"), **scores)
    better = not state["best"] or rating(row, config.monitor) > rating(state["best"]["metrics"], config.monitor)
    state["rows"].append(row)
    state["stale"] = 0 if better else state["stale"] + 1
    if better:
        weights = {k: v.detach().cpu().clone() for k, v in stepper.evaluated().state_dict().items()}
        state["best"] = dict(
            weights=weights,
            epoch=state["epoch"],
            metrics=dict(row),
            logits=torch.from_numpy(logits[0]) if logits else None,
        )
    return row


def rating(row, monitor):
    """What an epoch's row is kept for: the first of the greatest. Without validation pictures the last epoch is
    kept."""
    if monitor == "last" or "val_loss" not in row:
        return row["epoch"]
    return -row["val_loss"] if monitor == "nll" else row["val_acc" if monitor == "acc" else monitor]


def finish(run, config, pictures, state):
    """Validation tables of the best epoch, and the warnings that a practitioner would want."""
    best, classes, after = (
        state["best"],
        pictures.listing.classes,
        f"python predict.py --run {run.folder} > submission.csv",
    )
    if not len(pictures.val):
        run.say(f"{run.folder}: done; weights of the last epoch, no validation pictures. Next: {after}")
        return
    logits, targets = best["logits"].numpy(), pictures.listing.labels[pictures.val]
    probs, predicted = metrics.softmax(logits), logits.argmax(1)
    with run.replacing("val_logits.npy") as path, open(path, "wb") as f:
        np.save(f, logits)
    run.write_rows(
        "val_predictions.csv",
        ["path", "true", "predicted", "p"],
        [
            [pictures.listing.paths[i], classes[t], classes[p], f"{q:.6f}"]
            for i, t, p, q in zip(pictures.val, targets, predicted, probs.max(1))
        ],
    )
    scores = metrics.per_class(targets, predicted, len(classes))
    run.write_rows(
        "per_class.csv",
        ["class", "train", *scores],
        [[c, n, *(f"{v[i]:.6g}" for v in scores.values())] for i, (c, n) in enumerate(zip(classes, pictures.counts))],
    )
    confusion = metrics.confusion(targets, predicted, len(classes))
    run.write_rows(
        "confusion_matrix.csv",
        ["true \\ predicted", *classes],
        [[c, *row] for c, row in zip(classes, confusion.tolist())],
    )

    low, high = metrics.bootstrap(lambda t, p: metrics.macro_f1(t, p, len(classes)), targets, predicted)
    m = best["metrics"]
    gap = m["train_acc"] - m["val_acc"]
    if gap > GAP:
        run.say(
            f"warning: training accuracy is {gap:.2f} above validation: more augmentation, mixup or weight decay may "
            "help"
        )
    never = [c for i, c in enumerate(classes) if scores["support"][i] and not confusion[:, i].any()]
    if never:
        run.say(
            f"warning: {len(never)} classes of {len(classes)} are never predicted on validation, "
            f"{', '.join(never[:3])}{' ...' * (len(never) > 3)}: try --balance sampler or --prior uniform"
        )
    chosen = "last epoch"
    if config.monitor != "last":
        chosen = (
            f"best epoch {best['epoch']} of {state['epoch']} by validation {config.monitor} (chosen on these pictures, "
            "so it flatters)"
        )
    run.say(
        f"{run.folder}: {chosen}: macro F1 {m['macro_f1']:.3f} [{low:.3f}, {high:.3f}], accuracy {m['val_acc']:.3f}, n "
        f"{len(targets)}, 95% bootstrap interval over pictures. Next: {after}"
    )


def line(row, config, state):
    """An epoch in a line."""
    said = f"epoch {row['epoch']:3d}/{config.epochs}  train loss {row['train_loss']:.3f} acc {row['train_acc']:.3f}"
    if "val_loss" in row:
        said += (
            f"  val loss {row['val_loss']:.3f} acc {row['val_acc']:.3f}  macro F1 {row['macro_f1']:.3f}  "
            f"ECE {row['ece']:.3f}"
        )
    best = "  best" if not state["stale"] else ""
    return said + f"  {row['images_per_s']:.0f} images/s  wait {row['data_wait']:.0%}{best}"
