"""Probabilities that mean what they say: fits a scaling to held-out pictures, shows what it does, and keeps it.

    python calibrate.py                    of the newest winner, a study's or that of `make study`, or the newest run
    python calibrate.py runs/photos        of a run, on its validation pictures
    python calibrate.py runs/sweep         of a study's winner; with --folds on all pictures, each judged out of fold

Of several kinds of scaling the simplest within one standard error of the best is kept, judged on pictures that its fit
had not seen. So is how often sets of classes hold the right one (predict.py --sets). Written to calibration.json there;
predict.py and evaluate.py then use it. The test set is never looked at.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from errors import LongtailError, Parser, counted, run_command
from pictures.names import natural_key, shown
from posterior import equal_classes, evidence, priors, reliability, scaling, scores, sets
from posterior.calibration import CALIBRATION, fitting_parts, save
from reporting.tables import interval, number, table
from study.chosen import chosen_last, runs_of

COMPARED = ("acc", "macro_f1", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "smooth_ece")
SHOWN = 10  # classes
TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of those that are tried


def calibrate(args: Namespace) -> None:
    """The command, from its parsed arguments."""
    path, runs = runs_of(Path(args.what) if args.what else chosen_last(Path(args.project)))
    found = evidence.pooled(evidence.runs_by_fold(runs))
    n = len(found.targets)
    if n < 2 * scaling.PARTS:
        raise LongtailError(
            f"{path}: {counted(n, 'held-out picture')}: too few to fit a scaling to, which takes {2 * scaling.PARTS}"
        )
    if not os.access(path, os.W_OK):  # refused before the work, not after it
        raise LongtailError(f"{path} cannot be written to, and {CALIBRATION} belongs there")
    by = evidence.column_of(runs[0], found, args.by) if args.by else None
    parts = fitting_parts(found)
    trials, failed = scaling.compare(found.log_posterior, found.targets, found.counts, parts)
    chosen = scaling.simplest(trials)
    equal = _where_classes_are_equal(found, chosen.held_out)

    raw = metrics.softmax(found.log_posterior)
    scaled = metrics.softmax(chosen.held_out)
    before = scores.of(found.log_posterior, found.targets, found.counts)
    after = scores.of(chosen.held_out, found.targets, found.counts)
    chance = reliability.chance(scaled)
    tau = _tau(chosen.held_out, found, parts)
    in_sets = sets.cross_fitted(found.log_posterior, found.targets, found.prior, chosen.held_out.argmax(1), parts)
    judged = {name: scores.as_json(each) for name, each in dict(before=before, after=after, chance=chance).items()}
    of_equal = dict(before=scores.as_json(equal.before), after=scores.as_json(equal.after))
    judged |= dict(of_equal_classes=of_equal, tau=tau, sets=_kept_sets(found, in_sets))
    # The file first: who reads the tables may leave before their end.
    written = save(path, runs, found, chosen.scaling, judged)

    print(_what_was_judged(path, found) + "\n")
    print(*_kinds(trials, failed, chosen.scaling, args.markdown), sep="\n")
    moved = int((raw.argmax(1) != scaled.argmax(1)).sum())
    print(*_before_and_after(before, after, chance, n, moved, args.markdown), sep="\n")
    print(*_of_equal_classes(equal, len(found.classes), args.markdown), sep="\n")
    print(*_answers(found, raw, scaled, by, args.markdown), sep="\n")
    print(*_decisions(found, raw, scaled, tau, args.markdown), sep="\n")
    print(*_sets(found, in_sets, args.markdown), sep="\n", flush=True)
    print(
        f"written to {written}: predict.py and evaluate.py use it with runs of these settings and pictures",
        file=sys.stderr,
    )


def _what_was_judged(path, found):
    held_out = "held out from training"
    if found.parts is not None:
        held_out = f"each held out in one of {found.parts.max() + 1} folds"
    together = f", {found.members} networks averaged" if found.members > 1 else ""
    return f"{path}: {len(found.targets)} pictures, {len(found.classes)} classes, {held_out}{together}"


def _kinds(trials, failed, fitted, markdown) -> Iterator[str]:
    """The kinds of scaling, and which is kept."""
    rows = []
    for trial in trials:
        kept = "kept" if trial.kind == fitted.kind else ""
        nll, behind, error = (number(value, 4) for value in (trial.nll, trial.behind, trial.error))
        rows.append([trial.kind, str(trial.parameters), nll, behind, error, kept])
    yield from table(["scaling", "numbers", "NLL", "behind the best", "std. error", ""], rows, markdown)
    yield (
        f"\nKept: {fitted.in_words()}.\n"
        "It is the simplest within one standard error of the best; each was judged on\n"
        "pictures that its fit had not seen."
    )
    if failed:
        yield f"Left out, for the fit did not converge: {', '.join(failed)}."


def _before_and_after(before, after, chance, n, moved, markdown) -> Iterator[str]:
    """The scores without and with the scaling, which moved so many of n answers to another class."""
    rows = []
    for name in COMPARED:
        cells = [scores.TITLES[name]]
        for score in (before[name], after[name]):
            cells += [number(score.value), interval(score.low, score.high)]
        cells.append(interval(chance[name].low, chance[name].high) if name in chance else "-")
        rows.append(cells)
    yield ""
    yield from table(["score", "before", "95%", "after", "95%", "if right"], rows, markdown)
    yield (
        f"\nIf right: what {counted(n, 'picture')} would show if the probabilities after scaling were\n"
        "right, in 95% of draws. An error in that range says nothing against them."
    )
    errors = COMPARED[COMPARED.index("nll") :]
    # By more than rounding: where no scaling is kept both are the same.
    worse = [scores.TITLES[name] for name in errors if after[name].value > before[name].value + 1e-9]
    if worse:
        yield f"Worse after scaling: {', '.join(worse)}. Kinds of scaling are chosen by NLL."
    if moved:
        yield f"It moves {moved} of {counted(n, 'answer')} to another class (predict.py --no-calibration does without)."


class EqualClasses(NamedTuple):
    """What a scaling does where each class counts the same."""

    before: dict[str, scores.Score]
    after: dict[str, scores.Score]
    chance: reliability.Chance  # of the ECE after it
    pictures: float  # of equally frequent classes that would say as much
    classes: int  # that have a held-out picture


def _where_classes_are_equal(found, scaled):
    """scaled: log posteriors under the training prior, by fits to others."""
    uniform = priors.assumed("uniform", found.prior)
    before, after = (priors.move(each, found.prior, uniform) for each in (found.log_posterior, scaled))
    weights = equal_classes.row_weights(found.targets, len(found.classes))
    judged = (equal_classes.scores(each, found.targets, weights) for each in (before, after))
    chance = equal_classes.chance(after, found.prior, found.targets)
    return EqualClasses(*judged, chance, equal_classes.effective(weights), len(np.unique(found.targets)))


def _of_equal_classes(equal, classes, markdown) -> Iterator[str]:
    """The scores without and with the scaling, moved to equally frequent classes."""
    rows = []
    for name, before in equal.before.items():
        cells = [scores.TITLES[name]]
        for score in (before, equal.after[name]):
            cells += [number(score.value), interval(score.low, score.high)]
        cells.append(interval(equal.chance.low, equal.chance.high) if name == "ece" else "-")
        rows.append(cells)
    yield "\nWhere all classes are equally frequent (predict.py --prior uniform):\n"
    yield from table(["score", "before", "95%", "after", "95%", "if right"], rows, markdown)
    absent = classes - equal.classes
    yield (
        f"\nEach class counts the same here, however few its pictures: they say as much as {equal.pictures:.0f} of\n"
        f"equally frequent classes would."
        + (f" {counted(absent, 'class')} without a held-out picture cannot be judged." if absent else "")
    )


def _answers(found, raw, scaled, by, markdown) -> Iterator[str]:
    """How sure the answers are and how often they are right: by count group, by column, by class."""
    # By the class that is named, which is what a user sees. The true class would give the answer away.
    named = scaled.argmax(1)
    group = metrics.count_groups(found.counts)
    parts = [(f"{name} ({(group == name).sum()})", group[named] == name) for name in metrics.GROUPS]
    if by is not None:
        parts += [(shown(value) or "(empty)", by == value) for value in sorted(set(by.tolist()), key=natural_key)]
    rows = []
    for name, here in parts:
        if here.any():
            before = reliability.gap(raw[here], found.targets[here])
            after = reliability.gap(scaled[here], found.targets[here])
            accuracy = [number(each.accuracy) for each in (before, after)]  # a scaling moves answers too
            rows.append([name, str(after.n), accuracy[0], *_sure(before), accuracy[1], *_sure(after)])
    yield ""
    header = ["answers", "n", "accuracy", "sure", "too sure by", "scaled: accuracy", "sure", "too sure by"]
    yield from table(header, rows, markdown)

    gaps = reliability.gaps_by(scaled, found.targets, named)
    beyond = sorted((c for c, gap in gaps.items() if gap.p_value < 0.05), key=lambda c: gaps[c].p_value)
    rows = []
    for c in beyond[:SHOWN]:
        gap = gaps[c]
        rows.append([found.classes[c], f"{found.counts[c]:.0f}", str(gap.n), number(gap.accuracy), *_sure(gap)])
    yield (
        f"\nRight more or less often than they claim, by more than chance (p < 0.05,\n"
        f"two-sided): the answers of {len(beyond)} of {counted(len(gaps), 'class')}, where chance alone makes about\n"
        f"{0.05 * len(gaps):.1f}. ± is what chance alone makes of a difference in 95% of sets."
    )
    if rows:
        yield ""
        yield from table(["answer", "trained on", "n", "accuracy", "sure", "too sure by"], rows, markdown)


def _sure(gap):
    """Cells of a Gap: how sure, and by how much too sure."""
    return number(gap.confidence), f"{gap.gap:+.3f} ± {gap.half_width:.3f}"


def _tau(log_posterior, found, parts):
    """The tau that is kept, 0 where choosing one gains nothing; with the macro F1 of answers at tau 0, and of each at
    the tau that others choose. JSON-ready."""
    best, predicted = priors.choose_tau(log_posterior, found.prior, found.targets, parts)
    classes = len(found.classes)
    before = metrics.macro_f1(found.targets, log_posterior.argmax(1), classes)
    after = metrics.macro_f1(found.targets, predicted, classes)
    return dict(value=best if after > before else 0.0, best=best, before=before, after=after)


def _decisions(found, raw, scaled, tau, markdown) -> Iterator[str]:
    """What changes in decisions: answering only the surest, and favouring rare classes."""
    rows = []
    both = zip(reliability.coverage(scaled, found.targets), reliability.coverage(raw, found.targets))
    for (part, low, accuracy), (_, _, unscaled) in both:
        rows.append([f"{part:.0%}", number(low), number(accuracy), number(unscaled)])
    yield "\nAnswering only the surest pictures:\n"
    yield from table(["answered", "sure by at least", "accuracy", "unscaled"], rows, markdown)

    rows = []
    log_scaled = np.log(np.maximum(scaled, np.finfo(float).tiny))
    taus = sorted({*TAUS, tau["best"]})
    for power, predicted in zip(taus, priors.frontier(log_scaled, found.prior, taus)):
        accuracy = metrics.accuracy(found.targets, predicted)
        f1 = metrics.macro_f1(found.targets, predicted, len(found.classes))
        rows.append([f"{power:g}", number(accuracy), number(f1)])
    yield "\nFavouring rare classes by log p - tau log prior:\n"
    yield from table(["tau", "accuracy", "macro F1"], rows, markdown)
    kept = "it is kept for predict.py --prior tau" if tau["value"] else "none is kept"
    yield (
        f"\nBest for macro F1: tau {tau['best']:g}. Chosen for each picture on others, tau gives\n"
        f"{tau['after']:.3f}; at 0 it is {tau['before']:.3f}. So {kept}."
    )


def _kept_sets(found, in_sets):
    """The threshold of sets and what it gives, JSON-ready; None where the pictures are too few."""
    if in_sets is None:
        return None
    least = sets.threshold(found.log_posterior, found.targets, found.prior)
    right = in_sets[np.arange(len(in_sets)), found.targets]
    return dict(log_ratio=least, coverage=float(right.mean()), classes=float(in_sets.sum(1).mean()))


def _sets(found, in_sets, markdown) -> Iterator[str]:
    """How often sets of classes hold the right one, by how many pictures it was trained on."""
    yield ""
    if in_sets is None:
        yield f"No sets of classes: {counted(len(found.targets), 'held-out picture')} are too few."
        return
    group = metrics.count_groups(found.counts)
    of_picture = group[found.targets]
    parts = [("all", np.full(len(in_sets), True))]
    parts += [(f"{name} ({(group == name).sum()})", of_picture == name) for name in metrics.GROUPS]
    right = in_sets[np.arange(len(in_sets)), found.targets]
    size = in_sets.sum(1)
    rows = []
    for name, here in parts:
        if here.any():
            held = scores.wilson(right[here].sum(), here.sum())
            cells = [number(held.value), interval(held.low, held.high), number(size[here].mean(), 1)]
            rows.append([name, str(here.sum()), *cells])
    yield f"Sets that are to hold the right class for {1 - 1 / sets.ONE_IN:.0%} of pictures (predict.py --sets):\n"
    yield from table(["right class", "n", "held", "95%", "classes in a set"], rows, markdown)
    of_class = [right[found.targets == c].mean() for c in np.unique(found.targets)]
    yield f"\nMean over the classes: {np.mean(of_class):.3f}. Each picture's set is by a threshold from others."


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="calibrate.py", description=__doc__)
    parser.add_argument("what", nargs="?", metavar="RUN|STUDY", help="its folder, or a recipe (default: see above)")
    parser.add_argument("--project", default="runs", help="folder of the runs (default runs)")
    parser.add_argument("--by", default="", metavar="COLUMN", help="also by this column of the CSV of labels")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    space = parser.parse_args(args)
    return run_command("calibrate.py", lambda: calibrate(space))


if __name__ == "__main__":
    sys.exit(main())
