"""Panels of judged pictures: classes, confusions, probabilities, scores, galleries, kinds of pictures."""

import math
from pathlib import Path

import numpy as np

import metrics
from engine.album import Album
from errors import LongtailError
from posterior import mistakes, priors, reliability, scores
from posterior.by_class import by_class, trend
from posterior.calibration import scaled_held_out
from posterior.evidence import Evidence
from posterior.verdict import SURE
from reporting import charts
from reporting.page import Html, Page, folded, gallery, heading, items, name, note, paragraph, picture, strips, table
from reporting.tables import interval, number

SHOWN = 18  # pictures of a gallery, confused pairs
OF_A_CLASS, IN_ALL = 6, 420  # pictures of a class at the most, and of all classes together
LOOKED_AT = 1500  # pictures whose looks are measured at the most
PROPERTIES = dict(brightness="brightness", sharpness="sharpness", size="short side, px", aspect="width / height")


def classes(page: Page, found: Evidence) -> None:
    """F1 against training pictures, and the table of classes."""
    rows = sorted(by_class(found), key=lambda row: -row.trained)
    lines = []
    for row in rows:
        sure = f"{row.gap.gap:+.3f} ± {row.gap.half_width:.3f}" if row.gap else "-"
        limits = interval(row.f1.low, row.f1.high, 2)
        cells = [name(row.name), row.group, f"{row.trained:.0f}", row.support, number(row.f1.value), limits]
        lines.append([*cells, *map(number, (row.precision, row.recall)), row.answers, number(row.ece), sure])
    known = [row for row in rows if row.f1.value == row.f1.value]
    groups = {}
    for group, (colour, marker) in charts.GROUPS.items():
        at = [i for i, row in enumerate(known) if row.group == group]
        said = [f"{known[i].name}: F1 {known[i].f1.value:.2f}, trained on {known[i].trained:.0f}" for i in at]
        groups |= {group: (at, colour, marker, said)} if at else {}
    trained, f1 = np.array([row.trained for row in known]), np.array([row.f1.value for row in known])
    line = trend(rows)
    alt = f"The line is the mean of six groups of classes, {line[1][0]:.2f} for the most frequent."
    x, y = ("training pictures", trained), ("F1", f1)
    header = ["class", "group", "#trained on", "#validation", "#F1", "95%", "#precision", "#recall", "#answers", "#ECE"]
    caption = "Precision and what follows are of the answers that name the class; ± is what chance makes of it in 95%."
    page.section(
        "Classes",
        charts.points("f1_by_count", "F1 against training pictures", alt, x, y, groups, log_x=True, trend=line),
        table(caption, [*header, "#too sure by"], lines, search="Find classes (a name, or F1<0.2)", ident="classes"),
    )


def confusions(page: Page, found: Evidence, album: Album) -> None:
    """The matrix in an order in which confused classes stand together, and the pairs with pictures."""
    predicted = found.log_posterior.argmax(1)
    table_of = metrics.confusion(found.targets, predicted, len(found.classes))
    order = [c for c in mistakes.cluster_order(table_of) if table_of[c].any() or table_of[:, c].any()]
    ordered = table_of[np.ix_(order, order)]
    support = np.maximum(ordered.sum(1), 1)
    names = [found.classes[c] for c in order]
    cells = []
    for r, c in np.argwhere(ordered).tolist():
        cells.append([r, c, f"{ordered[r, c]} of {support[r]} ({ordered[r, c] / support[r]:.0%})"])
    sides = ("true class", "answer")
    said = "Green is right; confused classes stand together. Point at a cell for its names, or press arrow keys."
    shares = ordered / support[:, None]
    parts = [charts.matrix("confusion", "Confusion, share of the true class", said, shares, names, sides, cells)]
    if len(names) <= 200:
        raw = np.sqrt(ordered / max(ordered.max(), 1))
        chart = charts.matrix("confusion_raw", "Pictures", "Shades by the root of the count.", raw, names, sides, cells)
        parts.append(folded("In pictures instead of shares", page.figure(chart)))
    pairs = []
    for a, b, count in scores.confused(found.targets, predicted, len(table_of))[:SHOWN]:
        rows = np.flatnonzero((found.targets == a) & (predicted == b))[:2]
        of_all = f"· {count} of {table_of[a].sum()}"
        title = paragraph(name(found.classes[a]), "taken for", name(found.classes[b]), of_all)
        pairs.append((title, [_tile(found, album, i) for i in rows]))
    page.section("Confusions", *parts, heading("Most often confused"), note(album.why), strips(pairs, "pairs"))


def calibration(page: Page, folder: Path, settings: dict, found: Evidence) -> None:
    """How far probabilities can be trusted before and after scaling, and what answering only the surest gives.

    folder: of the run or study whose calibration.json counts; settings: of its run, or of one of its runs.
    """
    try:
        scaled, said = scaled_held_out(folder, settings, found)
    except LongtailError as error:
        scaled, said = None, str(error)
    before, targets = metrics.softmax(found.log_posterior), found.targets
    after = None if scaled is None else metrics.softmax(scaled)
    group = metrics.count_groups(found.counts)[before.argmax(1)]
    parts = {"all answers": group != ""} | {f"{g} training pictures": group == g for g in charts.GROUPS}
    drawings = []
    for title, here in parts.items():
        if here.any():
            both = [scores.bins(p[here], targets[here]) if p is not None else [] for p in (before, after)]
            gap = reliability.gap(before[here], targets[here])
            alt = f"{gap.n} answers, {gap.confidence:.2f} sure, {gap.accuracy:.2f} right. Grey bars: how many."
            drawings.append(charts.reliability(f"reliability_{title.split()[0]}", f"Reliability, {title}", alt, *both))
    shares = np.linspace(0.02, 1, 50)
    x, y, groups = [], [], {}
    kinds = ("as trained", before, charts.ORANGE, "s"), ("scaled", after, charts.BLUE, "o")
    for label, probs, colour, marker in kinds:
        if probs is not None:
            found_at = reliability.coverage(probs, targets, shares)
            lines = [f"{label}: surest {share:.0%} (p ≥ {p:.2f}): {right:.0%} right" for share, p, right in found_at]
            groups[label] = range(len(x), len(x) + len(shares)), colour, marker, lines
            x += [share for share, *_ in found_at]
            y += [right for *_, right in found_at]
    alt = f"All answers: {y[len(shares) - 1]:.0%} right; the surest half: {y[len(shares) // 2 - 1]:.0%}."
    axes = ("share answered", np.array(x)), ("accuracy", np.array(y))
    drawings.append(charts.points("coverage", "Accuracy against coverage", alt, *axes, groups))
    both = [scores.of(z, targets, found.counts, 0) if z is not None else {} for z in (found.log_posterior, scaled)]
    shown = ("nll", "brier", "ece", "adaptive_ece")
    rows = [[scores.TITLES[key], *(number(each[key].value) if each else "-" for each in both)] for key in shown]
    page.section("Probabilities", note(f"{said}."), *drawings, table("", ["score", "#as trained", "#scaled"], rows))


def all_scores(page: Page, folder: Path, found: Evidence) -> None:
    """Every score beside what guessing gets, and those of evaluate.py where it has judged other pictures."""
    known = scores.of(found.log_posterior, found.targets, found.counts, resamples=0)
    guesses = scores.guesses(found.targets, found.counts)
    rows = []
    for key, score in known.items():
        guessed = [number(guess.get(key, math.nan)) for guess in guesses.values()]
        rows.append([scores.TITLES[key], number(score.value), interval(score.low, score.high), *guessed])
    header = ["score", "#value", "95%", *(f"#guess: {title}" for title in guesses)]
    parts = [table("On the pictures held out from training, beside rules that look at no picture", header, rows)]
    try:
        what, judged = scores.read_evaluation(folder)
        rows = [[scores.TITLES[key], number(s.value), interval(s.low, s.high)] for key, s in judged.items()]
        parts.append(table(f"By evaluate.py on {what}", header[:3], rows))
    except LongtailError as error:
        parts.append(note(error))
    accuracy, f1 = priors.frontier_scores(found.log_posterior, found.prior, found.targets)
    said = [f"τ {t:.2f}: accuracy {a:.3f}, macro F1 {f:.3f}" for t, a, f in zip(priors.TAUS, accuracy, f1)]
    alt = f"predict.py --prior tau:0 to tau:1.5; the highest macro F1 here is at {priors.TAUS[f1.argmax()]:.2f}."
    groups = {"τ": (range(1, len(said)), charts.BLUE, "o", said[1:]), "as trained": ([0], charts.ORANGE, "s", said[:1])}
    axes = ("accuracy", accuracy), ("macro F1", f1)
    parts.append(charts.points("frontier", "Accuracy against macro F1, by τ", alt, *axes, groups, trend=(accuracy, f1)))
    page.section("Scores and guesses", *parts)


def galleries(page: Page, found: Evidence, album: Album) -> None:
    """Held-out pictures: a mosaic, the worst mistakes, the least sure, labels to doubt, and those of each class."""
    probs = metrics.softmax(found.log_posterior)
    hits = found.log_posterior.argmax(1) == found.targets
    chosen = mistakes.worth_a_look(found.log_posterior, found.targets, found.counts)
    few_are = "" if hits.mean() >= SURE else f"It is wrong on {1 - hits.mean():.0%}: most of these are its mistakes."
    parts = [note(album.why)]
    for title, (rows, why) in chosen.items():
        rows, more = rows[:SHOWN], f"There are {len(rows)}. {few_are}" * (title == "Suspected labels")
        album.read([found.paths[i] for i in rows])
        tiles = [_tile(found, album, i) for i in rows]
        parts += [heading(title), note(why, more), gallery(tiles) if tiles else note("There are none.")]
    most = max(1, min(OF_A_CLASS, IN_ALL // len(found.classes)))
    lines = []
    for c in np.argsort(-found.counts, kind="stable")[:IN_ALL]:
        rows = np.flatnonzero(found.targets == c)
        shown = rows[np.lexsort((-probs[rows].max(1), hits[rows]))][:most]
        album.read([found.paths[i] for i in shown])
        title = paragraph(name(found.classes[c]), f"· {hits[rows].sum()} of {len(rows)} right")
        lines.append((title, [_tile(found, album, i) for i in shown]))
    field = Html('<label class="search">Find a class <input type="search"></label><output></output>')
    page.section("Pictures", *parts, folded("By class, its mistakes first", field, strips(lines)))


def _tile(found, album, i):
    """A held-out picture with its file, label and answer."""
    log_p = found.log_posterior[i]
    answer, true = int(log_p.argmax()), int(found.targets[i])
    right = answer == true
    said = [name(f"{'✓' if right else '✗'} {found.classes[answer]}")]
    said += [] if right else [Html(f"is {name(found.classes[true])}")]
    sure = f"p {math.exp(log_p[answer]):.2f}, loss {-log_p[true]:.2f}"
    kind = "right" if right else "wrong"
    alt = f"{found.classes[true]}, named {found.classes[answer]}"
    return picture(album.jpeg(found.paths[i]), alt, *said, sure, name(found.paths[i]), kind=kind)


def kinds_of_pictures(page: Page, found: Evidence, album: Album) -> None:
    """Where it is weak: accuracy by what pictures look like."""
    drawn = np.random.default_rng(0).permutation(len(found.paths))[:LOOKED_AT]
    album.read([found.paths[i] for i in drawn])
    rows = np.array([i for i in drawn if album.look(found.paths[i])], int)
    if len(rows) < 8:
        page.section("Kinds of pictures", note(album.why or "Fewer than 8 pictures can be read."))
        return
    looks = [album.look(found.paths[i]) for i in rows]
    targets, predicted = found.targets[rows], found.log_posterior[rows].argmax(1)
    drawings, weak = [], []
    for key, title in PROPERTIES.items():
        quarters = mistakes.segments(np.array([getattr(look, key) for look in looks]), targets, predicted)
        if len(quarters) < 2:
            continue  # nearly all pictures are alike in it
        lines = []
        for each in quarters:
            label, right = f"{each.low:.3g} to {each.high:.3g}", each.accuracy
            lines.append((label, *right))
            if each.p_value < 0.05 / (4 * len(PROPERTIES)):
                weak.append(f"{title} {label}: {right.value:.2f} right, {each.expected:.2f} expected, n {each.n}.")
        alt = f"Quarters of {len(rows)} pictures with 95% intervals; dotted: all pictures."
        mean = np.mean(predicted == targets)
        drawings.append(charts.intervals(f"by_{key}", f"By {title}", alt, "accuracy", lines, mean))
    said = "Weaker than their classes explain, by more than chance (p < 0.05 over all quarters together):"
    page.section("Kinds of pictures", *drawings, note(said, "" if weak else "none."), items(weak))
