"""How good is it? Every score of a run, or of several as one, on pictures with labels, with intervals and by class.

    python evaluate.py                                 on the data's own test pictures, where they have labels
    python evaluate.py --test labelled                 on class folders, or on a CSV of file names and labels
    python evaluate.py --run runs/a runs/b --tta crops of two runs, averaged

Without labelled test pictures it scores the pictures that were held out from training. Test pictures that were
trained on are counted in a warning. Tables go to stdout; evaluation.json and predictions.csv to -o, else to
the run's folder, or that of the study that all runs are of, or the current one.
"""

import csv
import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

import data
import metrics
from engine.numerics import pick_device
from errors import LongtailError, Parser, counted, first_ten, run_command
from files import replacing
from pictures.names import natural_key, shown, some
from posterior import classifier, evidence, reliability, scores
from reporting.tables import interval, number, table
from study.chosen import add_flags, opened

SHOWN = 10  # confused pairs


@dataclass(frozen=True)
class Judged:
    """Pictures with labels, as judged."""

    what: str  # in words
    paths: list[str]
    targets: np.ndarray  # int [N]
    log_posterior: np.ndarray  # [N,C]
    groups: list[str] | None  # the value of each in the column --by
    held_out: bool = False  # whether they are those that the runs held out


def evaluate(args: Namespace) -> None:
    """The command, from its parsed arguments."""
    folders, which, checkpoints, adjustment = opened(args)
    folder = _output_folder(args, folders)  # which may be refused: before the work, not after it
    classes = checkpoints[0]["classes"]
    counts = np.mean([checkpoint["counts"] for checkpoint in checkpoints], 0)
    judged = _test_pictures(args, folders, checkpoints) or _held_out(args, folders, checkpoints)
    log_posterior, said = adjustment(judged.log_posterior, held_out=judged.paths if judged.held_out else None)
    for line in said:
        print(line, file=sys.stderr)

    found = scores.of(log_posterior, judged.targets, counts)
    chance = reliability.chance(metrics.softmax(log_posterior))
    guesses = scores.guesses(judged.targets, counts)
    record = dict(
        runs=[shown(str(path)) for path in folders],  # a path may be no UTF-8, which JSON is
        pictures=shown(judged.what),
        n=len(judged.targets),
        said=[shown(line) for line in said],
        scores=scores.as_json(found),
        chance=scores.as_json(chance),
        guesses=guesses,
    )
    # Files first: who reads the tables may leave before their end.
    with replacing(folder / "evaluation.json") as draft:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
    _write_predictions(folder / "predictions.csv", classes, judged, log_posterior)

    print(f"{which} on {judged.what}: {counted(len(judged.targets), 'picture')}\n")
    print(*_score_lines(found, chance, guesses, counts, args.markdown), sep="\n")
    if judged.groups is not None:
        print(*_group_lines(args.by, judged.groups, log_posterior, judged.targets, args.markdown), sep="\n")
    print(*_class_lines(classes, counts, log_posterior, judged.targets, args.markdown), sep="\n", flush=True)
    print(f"written to {folder}: evaluation.json, predictions.csv", file=sys.stderr)


def _test_pictures(args, folders, checkpoints):
    """The labelled test pictures that are asked for, or the data's own; None where there are none and none were asked
    for."""
    root = Path(args.data or checkpoints[0]["data"])
    classes = checkpoints[0]["classes"]
    what = str(args.test or f"the test pictures of {root}")
    try:
        own = dict(taught=classes, label_col=checkpoints[0]["config"].get("label_col", "auto"))
        listed = data.test_listing(root, args.test, args.by or None, **own)
        if (listed.labels < 0).all():
            inside = Path(args.test or root) / "train"
            if args.test and inside.is_dir() and any(path.is_dir() for path in inside.iterdir()):
                raise LongtailError(f"{what}: no picture in its test part has a label: --test {inside} takes others")
            raise LongtailError(
                f"{what}: no picture has a label: sort them into folders called as the model's classes, "
                f"{classes[0]!r} for one, or name a CSV with a column of labels"
            )
    except LongtailError as error:
        if args.test or args.data:
            raise
        print(f"{error}. Scoring the pictures that were held out from training instead", file=sys.stderr)
        return None
    for note in listed.notes + first_ten([f"passed over: {name}" for name in listed.skipped]):
        print(note, file=sys.stderr)
    number_of = {normalize("NFC", name): i for i, name in enumerate(classes)}
    targets = np.array(
        [-1 if label < 0 else number_of.get(normalize("NFC", listed.classes[label]), -2) for label in listed.labels]
    )
    _say_left_out(what, listed, targets)
    rows = np.flatnonzero(targets >= 0)
    if not len(rows):
        raise LongtailError(f"{what}: the model knows none of its classes, {listed.classes[0]!r} for one")
    files = [listed.files[row] for row in rows]
    log_posterior, bad = classifier.log_posteriors(checkpoints, files, device=pick_device(args.device), tta=args.tta)
    for line in first_ten([f"warning: {listed.paths[rows[row]]}: {bad[row]}: it is not scored" for row in bad]):
        print(line, file=sys.stderr)
    good = np.setdiff1d(np.arange(len(rows)), list(bad))
    if not len(good):
        raise LongtailError(f"{what}: no picture can be read")
    _say_taught(what, [files[row] for row in good], folders, checkpoints[0])
    rows = rows[good]
    groups = [listed.groups[row] for row in rows] if args.by else None
    return Judged(what, [listed.paths[row] for row in rows], targets[rows], log_posterior[good], groups)


def _say_taught(what, files, folders, checkpoint):
    """Says how many of the pictures a run was trained on, to the pixel, and where that cannot be looked up."""
    try:
        both = evidence.trained_pictures(files, folders, checkpoint)
    except LongtailError as error:
        print(f"{what}: whether they were trained on cannot be looked up: {error}", file=sys.stderr)
        return
    if both:
        print(
            f"warning: {what}: {len(both)} of {counted(len(files), 'picture')} are, to the pixel, among those that "
            f"were trained on, {files[both[0]]} for one: their scores flatter",
            file=sys.stderr,
        )


def _say_left_out(what, listed, targets):
    """Names what cannot be scored."""
    unlabelled, unknown = int((targets == -1).sum()), targets == -2
    if unlabelled:
        print(f"{what}: not scored: {counted(unlabelled, 'picture')} without a label", file=sys.stderr)
    if unknown.any():
        names = sorted({listed.classes[label] for label in listed.labels[unknown]})
        print(
            f"{what}: not scored: {counted(int(unknown.sum()), 'picture')} of {counted(len(names), 'class')} that the "
            f"model does not know: {some(names)}",
            file=sys.stderr,
        )


def _held_out(args, folders, checkpoints):
    """The pictures that were held out from training, as the runs' folders have them."""
    if args.tta != "auto" and any(args.tta != checkpoint.get("tta", "none") for checkpoint in checkpoints):
        raise LongtailError(f"--tta {args.tta}: held-out pictures are not looked at again: name others by --test")
    found = evidence.pooled(evidence.runs_by_fold(folders))
    chosen = {checkpoint["config"]["monitor"] for checkpoint in checkpoints} != {"last"}
    flatters = " (their epochs were chosen on them, so the scores flatter)" if chosen else ""
    moved = (args.prior or checkpoints[0]["config"]["prior"]) != "train"
    as_there = ", whose classes are as frequent as there, whatever --prior says" if moved else ""
    what = f"the pictures held out from training{as_there}{flatters}"
    groups = list(evidence.column_of(folders[0], found, args.by)) if args.by else None
    return Judged(what, found.paths, found.targets, found.log_posterior, groups, held_out=True)


def _score_lines(found, chance, guesses, counts, markdown) -> Iterator[str]:
    rows = []
    group = metrics.count_groups(counts)
    for name, title in scores.TITLES.items():
        if name in group:
            title += f" ({(group == name).sum()})"
        by_guessing = [number(guess.get(name, np.nan)) for guess in guesses.values()]
        if_right = interval(chance[name].low, chance[name].high) if name in chance else "-"
        score = found[name]
        rows.append([title, number(score.value), interval(score.low, score.high), *by_guessing, if_right])
    yield from table(["score", "value", "95%", "majority", "prior", "if right"], rows, markdown)
    many, few = metrics.MANY, metrics.FEW
    yield (
        f"\nMany, medium, few: mean accuracy of the classes with over {many}, {few} to {many}, under {few}\n"
        "training pictures (thirds, where one would be empty); in brackets their number.\n"
        "Guessing: the class most trained on (majority), or each as often as trained on\n"
        "(prior). If right: what right probabilities would show in 95% of draws."
    )


def _group_lines(column, groups, log_posterior, targets, markdown) -> Iterator[str]:
    group = np.array(groups)
    predicted = log_posterior.argmax(1)
    probs = metrics.softmax(log_posterior)
    rows = []
    for value in sorted(set(groups), key=natural_key):
        here = group == value
        accuracy = scores.wilson((predicted[here] == targets[here]).sum(), here.sum())
        gap = reliability.gap(probs[here], targets[here])
        f1 = metrics.macro_f1(targets[here], predicted[here], probs.shape[1])
        rows.append(
            [
                shown(value) or "(empty)",
                str(here.sum()),
                number(accuracy.value),
                interval(accuracy.low, accuracy.high),
                number(f1),
                f"{gap.gap:+.3f} ± {gap.half_width:.3f}",
            ]
        )
    yield f"\nBy {column}:\n"
    yield from table([column, "n", "accuracy", "95%", "macro F1", "too sure by"], rows, markdown)


def _class_lines(classes, counts, log_posterior, targets, markdown) -> Iterator[str]:
    predicted = log_posterior.argmax(1)
    columns = metrics.per_class(targets, predicted, len(classes))
    rows = []
    named = np.bincount(predicted, minlength=len(classes))
    for c in np.argsort(-counts, kind="stable"):
        n = int(columns["support"][c])
        recall = scores.wilson(round(columns["recall"][c] * n), n) if n else scores.Score(np.nan)
        rows.append(
            [
                classes[c],
                f"{counts[c]:.0f}",
                str(n),
                number(columns["precision"][c] if named[c] else np.nan),
                number(recall.value),
                interval(recall.low, recall.high, 2),
                number(columns["f1"][c] if n else np.nan),
            ]
        )
    yield "\nBy class:\n"
    yield from table(["class", "trained on", "n", "precision", "recall", "95%", "F1"], rows, markdown)
    pairs = scores.confused(targets, predicted, len(classes))[:SHOWN]
    if pairs:
        yield "\nMost often confused:\n"
        cells = [[classes[a], classes[b], f"{count} of {int(columns['support'][a])}"] for a, b, count in pairs]
        yield from table(["true", "taken for", "pictures"], cells, markdown)


def _output_folder(args, folders):
    """Where the files go: -o, the run's folder, the folder of the study that all runs belong to, or the current one."""
    if args.output:
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    studies = {folder.parent.parent for folder in folders}
    folder = Path()
    if len(folders) == 1:
        folder = folders[0] if folders[0].is_dir() else folders[0].parent
    elif len(studies) == 1 and (next(iter(studies)) / "study.json").exists():
        folder = studies.pop()
    if not os.access(folder, os.W_OK):
        raise LongtailError(f"{folder} cannot be written to: name another folder by -o")
    return folder


def _write_predictions(path, classes, judged, log_posterior):
    """A line a picture: path, true and predicted class, the five most probable classes with their probabilities."""
    probs = metrics.softmax(log_posterior)
    top = min(5, len(classes))
    order = np.argsort(-probs, axis=1, kind="stable")[:, :top]
    header = ["path", "true", "predicted"]
    for place in range(1, top + 1):
        header += [f"class_{place}", f"p_{place}"]
    with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f, lineterminator="\n")
        rows.writerow(header)
        for name, true, p, best in zip(judged.paths, judged.targets, probs, order):
            cells = [name, classes[true], classes[best[0]]]
            for c in best:
                cells += [classes[c], f"{p[c]:.6f}"]
            rows.writerow(cells)


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="evaluate.py", description=__doc__)
    add_flags(parser)
    parser.add_argument("--data", help="folder whose test pictures are scored (default: what the run was trained on)")
    parser.add_argument("--test", help="folder of class folders, or CSV of file names and labels")
    parser.add_argument("--by", default="", metavar="COLUMN", help="also by this column of the CSV")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for evaluation.json and predictions.csv")
    space = parser.parse_args(args)
    return run_command("evaluate.py", lambda: evaluate(space))


if __name__ == "__main__":
    sys.exit(main())
