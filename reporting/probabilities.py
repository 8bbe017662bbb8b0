"""Panels of probabilities and scores: how far they can be trusted, what guessing gets, what tau gives and takes."""

import math
from pathlib import Path

import numpy as np

import metrics
from errors import LongtailError
from posterior import priors, reliability, scores
from posterior.calibration import scaled_held_out
from posterior.evidence import Evidence
from reporting import charts
from reporting.chart import BLUE, ORANGE
from reporting.page import Page, note, table
from reporting.tables import interval, number

COMPARED = ("nll", "brier", "ece", "adaptive_ece")  # scores of probabilities, before and after scaling


def calibration(page: Page, folder: Path, settings: dict, found: Evidence) -> None:
    """How far probabilities can be trusted before and after scaling, and what answering only the surest gives.

    folder: of the run or study whose calibration.json counts; settings: of its run, or of one of its runs.
    """
    try:
        scaled, said = scaled_held_out(folder, settings, found)
    except LongtailError as error:
        scaled, said = None, str(error)
    before = metrics.softmax(found.log_posterior)
    after = None if scaled is None else metrics.softmax(scaled)
    page.section(
        "Probabilities",
        note(f"{said}."),
        *_reliability(found, before, after),
        _coverage(found.targets, before, after),
        _before_and_after(found, scaled),
    )


def _reliability(found, before, after):
    """Charts of how sure answers are and how often they are right: of all, and by training pictures."""
    group = metrics.count_groups(found.counts)[before.argmax(1)]  # of the class that is named
    parts = {"all answers": np.full(len(group), True)}
    for name in charts.GROUPS:
        parts[f"{name} training pictures"] = group == name
    drawn = []
    for title, here in parts.items():
        if not here.any():
            continue
        targets = found.targets[here]
        bins_before = scores.bins(before[here], targets)
        bins_after = [] if after is None else scores.bins(after[here], targets)
        gap = reliability.gap(before[here], targets)
        alt = f"{gap.n} answers, {gap.confidence:.2f} sure, {gap.accuracy:.2f} right. Grey bars: how many."
        file = f"reliability_{title.split()[0]}"
        drawn.append(charts.reliability(file, f"Reliability, {title}", alt, bins_before, bins_after))
    return drawn


def _coverage(targets, before, after):
    """The chart of the surest answers' accuracy by how many of all answers they are."""
    shares = np.linspace(0.02, 1, 50)
    kinds = [("as trained", before, ORANGE, "s")]
    if after is not None:
        kinds.append(("scaled", after, BLUE, "o"))
    accuracy, groups = [], {}
    for label, probs, colour, marker in kinds:
        surest = reliability.coverage(probs, targets, shares)
        said = [f"{label}: surest {share:.0%} (p ≥ {p:.2f}): {right:.0%} right" for share, p, right in surest]
        rows = range(len(accuracy), len(accuracy) + len(shares))
        groups[label] = charts.Group(rows, colour, marker, said)
        accuracy += [right for _, _, right in surest]
    answered = "share answered", np.tile(shares, len(kinds))
    right = "accuracy", np.array(accuracy)
    every, half = accuracy[len(shares) - 1], accuracy[len(shares) // 2 - 1]  # as trained
    alt = f"All answers: {every:.0%} right; the surest half: {half:.0%}."
    return charts.points("coverage", "Accuracy against coverage", alt, answered, right, groups)


def _before_and_after(found, scaled):
    """The table of scores without and with the scaling."""
    before = scores.of(found.log_posterior, found.targets, found.counts, resamples=0)
    after = {} if scaled is None else scores.of(scaled, found.targets, found.counts, resamples=0)
    rows = []
    for key in COMPARED:
        cells = [number(side[key].value) if side else "-" for side in (before, after)]
        rows.append([scores.TITLES[key], *cells])
    return table("", ["score", "#as trained", "#scaled"], rows)


def all_scores(page: Page, folder: Path, found: Evidence) -> None:
    """Every score beside what guessing gets, those of evaluate.py where it has judged other pictures, and the answers
    by tau."""
    parts = [_beside_guesses(found)]
    try:
        what, judged = scores.read_evaluation(folder)
        rows = [[scores.TITLES[key], *_value(score)] for key, score in judged.items()]
        parts.append(table(f"By evaluate.py on {what}", ["score", "#value", "95%"], rows))
    except LongtailError as error:
        parts.append(note(error))
    page.section("Scores and guesses", *parts, _frontier(found))


def _beside_guesses(found):
    """The table of scores on the pictures held out, and of rules that look at no picture."""
    known = scores.of(found.log_posterior, found.targets, found.counts, resamples=0)
    guesses = scores.guesses(found.targets, found.counts)
    rows = []
    for key, score in known.items():
        guessed = [number(guess.get(key, math.nan)) for guess in guesses.values()]
        rows.append([scores.TITLES[key], *_value(score), *guessed])
    header = ["score", "#value", "95%", *(f"#guess: {title}" for title in guesses)]
    return table("On the pictures held out from training, beside rules that look at no picture", header, rows)


def _value(score):
    """A score's two cells."""
    return number(score.value), interval(score.low, score.high)


def _frontier(found):
    """The chart of what answers that move towards rare classes gain in macro F1 and lose in accuracy."""
    accuracy, f1 = priors.frontier_scores(found.log_posterior, found.prior, found.targets)
    said = [f"τ {t:.2f}: accuracy {a:.3f}, macro F1 {f:.3f}" for t, a, f in zip(priors.TAUS, accuracy, f1)]
    groups = {
        "τ": charts.Group(range(1, len(said)), BLUE, "o", said[1:]),
        "as trained": charts.Group([0], ORANGE, "s", said[:1]),
    }
    alt = f"predict.py --prior tau:0 to tau:1.5; the highest macro F1 here is at {priors.TAUS[f1.argmax()]:.2f}."
    sides = ("accuracy", accuracy), ("macro F1", f1)
    return charts.points("frontier", "Accuracy against macro F1, by τ", alt, *sides, groups, trend=(accuracy, f1))
