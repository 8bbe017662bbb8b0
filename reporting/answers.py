"""Panels of judged pictures: classes, confusions, galleries, kinds of pictures."""

import math

import numpy as np

import metrics
from engine.album import Album
from posterior import mistakes, scores
from posterior.by_class import by_class, trend
from posterior.evidence import Evidence
from posterior.verdict import SURE
from reporting import charts
from reporting.page import Html, Page, folded, gallery, heading, items, name, note, paragraph, picture, strips, table
from reporting.tables import interval, number

SHOWN = 18  # pictures of a gallery, confused pairs
OF_A_CLASS, IN_ALL = 6, 420  # pictures of a class at the most, and of all classes together
LOOKED_AT = 1500  # pictures whose looks are measured at the most
PROPERTIES = dict(brightness="brightness", sharpness="sharpness", size="short side, px", aspect="width / height")
COLUMNS = ["class", "group", "#trained on", "#validation", "#F1", "95%"]
COLUMNS += ["#precision", "#recall", "#answers", "#ECE", "#too sure by"]


def classes(page: Page, found: Evidence) -> None:
    """F1 against training pictures, and the table of classes."""
    rows = sorted(by_class(found), key=lambda row: -row.trained)
    caption = "Precision and what follows are of the answers that name the class; ± is what chance makes of it in 95%."
    search = "Find classes (a name, or F1<0.2)"
    lines = [_class_line(row) for row in rows]
    page.section("Classes", _f1_by_count(rows), table(caption, COLUMNS, lines, search=search, ident="classes"))


def _class_line(row):
    """The cells of a class, in the order of COLUMNS."""
    return [
        name(row.name),
        row.group,
        f"{row.trained:.0f}",
        row.support,
        number(row.f1.value),
        interval(row.f1.low, row.f1.high, 2),
        number(row.precision),
        number(row.recall),
        row.answers,
        number(row.ece),
        f"{row.gap.gap:+.3f} ± {row.gap.half_width:.3f}" if row.gap else "-",
    ]


def _f1_by_count(rows):
    """The chart of each class's F1 by its training pictures."""
    known = [row for row in rows if not math.isnan(row.f1.value)]
    groups = {}
    for group, (colour, marker) in charts.GROUPS.items():
        here = [i for i, row in enumerate(known) if row.group == group]
        said = [f"{known[i].name}: F1 {known[i].f1.value:.2f}, trained on {known[i].trained:.0f}" for i in here]
        if here:
            groups[group] = charts.Group(here, colour, marker, said)
    line = trend(rows)
    alt = (
        f"Many: over {metrics.MANY} training pictures; few: under {metrics.FEW} (thirds of the classes, where one "
        "would be empty)."
    )
    if line[0]:
        alt += f" The line is the mean of {len(line[0])} groups of classes, {line[1][0]:.2f} for the most frequent."
    trained = "training pictures", np.array([row.trained for row in known])
    f1 = "F1", np.array([row.f1.value for row in known])
    title = "F1 against training pictures"
    return charts.points("f1_by_count", title, alt, trained, f1, groups, log_x=True, trend=line)


def confusions(page: Page, found: Evidence, album: Album) -> None:
    """The matrix in an order in which confused classes stand together, and the pairs with pictures."""
    predicted = found.log_posterior.argmax(1)
    counted = metrics.confusion(found.targets, predicted, len(found.classes))
    page.section(
        "Confusions",
        *_matrices(page, found, counted),
        heading("Most often confused"),
        note(album.why),
        strips(_confused_pairs(found, album, predicted, counted), "pairs"),
    )


def _matrices(page, found, counted):
    """The matrix in shares of the true class and, for up to 200 classes, in pictures."""
    order = [c for c in mistakes.cluster_order(counted) if counted[c].any() or counted[:, c].any()]
    ordered = counted[np.ix_(order, order)]
    support = np.maximum(ordered.sum(1), 1)
    names = [found.classes[c] for c in order]
    cells = []
    for r, c in np.argwhere(ordered).tolist():
        cells.append([r, c, f"{ordered[r, c]} of {support[r]} ({ordered[r, c] / support[r]:.0%})"])
    sides = ("true class", "answer")
    alt = "Green is right; confused classes stand together. Point at a cell for its names, or press arrow keys."
    shares = ordered / support[:, None]
    yield charts.matrix("confusion", "Confusion, share of the true class", alt, shares, names, sides, cells)
    if len(names) <= 200:
        raw = np.sqrt(ordered / max(ordered.max(), 1))
        chart = charts.matrix("confusion_raw", "Pictures", "Shades by the root of the count.", raw, names, sides, cells)
        yield folded("In pictures instead of shares", page.figure(chart))


def _confused_pairs(found, album, predicted, counted):
    """Of the classes most often confused a title and two pictures each."""
    pairs = []
    for a, b, count in scores.confused(found.targets, predicted, len(counted))[:SHOWN]:
        rows = np.flatnonzero((found.targets == a) & (predicted == b))[:2]
        of_all = f"· {count} of {counted[a].sum()}"
        title = paragraph(name(found.classes[a]), "taken for", name(found.classes[b]), of_all)
        pairs.append((title, [_tile(found, album, i) for i in rows]))
    return pairs


def galleries(page: Page, found: Evidence, album: Album) -> None:
    """Held-out pictures: a mosaic, the worst mistakes, the least sure, labels to doubt, and those of each class."""
    chosen = _worth_a_look(found, album)
    field = Html('<label class="search">Find a class <input type="search"></label><output></output>')
    by_class = folded("By class, its mistakes first", field, strips(_of_each_class(found, album)))
    page.section("Pictures", note(album.why), *chosen, by_class)


def _worth_a_look(found, album):
    """A gallery, under its heading, for each reason to look at pictures."""
    parts = []
    right = np.mean(found.log_posterior.argmax(1) == found.targets)
    for title, (rows, why) in mistakes.worth_a_look(found.log_posterior, found.targets, found.counts).items():
        more = ""
        if title == "Suspected labels":
            more = f"There are {len(rows)}. "
            if right < SURE:
                more += f"The network is wrong on {1 - right:.0%} of all pictures: most of these are its mistakes."
        shown = rows[:SHOWN]
        album.read([found.paths[i] for i in shown])
        tiles = [_tile(found, album, i) for i in shown]
        parts += [heading(title), note(why, more), gallery(tiles) if tiles else note("There are none.")]
    return parts


def _of_each_class(found, album):
    """Of each class, the most frequent first, a title and a few pictures, the surest mistakes first."""
    sure = metrics.softmax(found.log_posterior).max(1)
    hits = found.log_posterior.argmax(1) == found.targets
    most = max(1, min(OF_A_CLASS, IN_ALL // len(found.classes)))
    lines = []
    for c in np.argsort(-found.counts, kind="stable")[:IN_ALL]:
        rows = np.flatnonzero(found.targets == c)
        shown = rows[np.lexsort((-sure[rows], hits[rows]))][:most]
        album.read([found.paths[i] for i in shown])
        title = paragraph(name(found.classes[c]), f"· {hits[rows].sum()} of {len(rows)} right")
        lines.append((title, [_tile(found, album, i) for i in shown]))
    return lines


def _tile(found, album, i):
    """A held-out picture with its file, label and answer."""
    log_p = found.log_posterior[i]
    answer, true = int(log_p.argmax()), int(found.targets[i])
    right = answer == true
    said = [name(f"{'✓' if right else '✗'} {found.classes[answer]}")]
    if not right:
        said.append(Html(f"is {name(found.classes[true])}"))
    said += [f"p {math.exp(log_p[answer]):.2f}, loss {-log_p[true]:.2f}", name(found.paths[i])]
    alt = f"{found.classes[true]}, named {found.classes[answer]}"
    return picture(album.jpeg(found.paths[i]), alt, *said, kind="right" if right else "wrong")


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
    alt = f"Quarters of {len(rows)} pictures with 95% intervals; dotted: all pictures."
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
        mean = np.mean(predicted == targets)
        drawings.append(charts.intervals(f"by_{key}", f"By {title}", alt, "accuracy", lines, mean))
    said = "Weaker than their classes explain, by more than chance (p < 0.05 over all quarters together):"
    page.section("Kinds of pictures", *drawings, note(said, "" if weak else "none."), items(weak))
