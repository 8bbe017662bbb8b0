"""The page of a run: what came out and what to do next, how it learnt, its answers, what it saw, what made it."""

import base64
import json
import re
import shlex
from pathlib import Path

import numpy as np

from config import flag_of
from engine.album import Album
from engine.folder import read_folder
from errors import LongtailError
from pictures.looks import jpeg, sheet
from posterior import evidence, verdict
from reporting import answers, charts, probabilities
from reporting.chart import BLUE, ORANGE
from reporting.page import Html, Page, code, facts, folded, gallery, heading, name, note, picture, table

# Columns of results.csv that share a chart or have none; every other one has its own, whatever a setting adds.
TOGETHER = {"epoch", "train_loss", "nll", "train_acc", "acc", "many", "medium", "few"}
LEFT_OUT = {"worst", "brier", "adaptive_ece", "classwise_ece", "seconds", "data_wait"}
TITLES = dict(macro_f1="Macro F1", ece="Calibration error (ECE)", last_lr="Learning rate", images_per_s="Speed")
UNITS = dict(macro_f1="validation", ece="validation", last_lr="at the epoch's end", images_per_s="pictures a second")


def build(path: Path, refresh: int = 0) -> Page:
    """The page of the run at `path`. Raises LongtailError where there is no run."""
    run = read_folder(path)
    page = Page(path, f"Run {path.name}", 0 if run.done else refresh)
    try:
        found, why = evidence.of_run(path), ""
    except (LongtailError, OSError, ValueError, KeyError, EOFError) as error:
        found, why = None, f"There are no judged pictures: {error}."
    album = Album(run)
    first, *others = [*verdict.findings(run, found), verdict.Finding(0, "Nothing speaks against this run", "")]
    todo = first.todo or shlex.join(["python", "predict.py", "--run", str(path)]) + " labels pictures with it"
    said = verdict.outcome(run, found), f"{first.seen}.", f"What to do next: {todo}."
    page.headline(said, (f"{each.seen}{': ' if each.todo else ''}{each.todo}." for each in others if each.weight))
    _learning(page, run)
    if found is None:
        page.section("Answers", note(why))
    else:
        answers.classes(page, found)
        answers.confusions(page, found, album)
        probabilities.calibration(page, path, run.settings, found)
        probabilities.all_scores(page, path, found)
        answers.galleries(page, found, album)
        answers.kinds_of_pictures(page, found, album)
    _seen(page, run, album)
    _data(page, run)
    _made(page, run)
    return page


def _learning(page, run):
    """Every score by epoch; those that belong together in one chart."""
    if not run.epochs:
        page.section("Learning", note("No epoch is done yet."))
        return
    column = run.column
    accuracy = dict(training=column("train_acc"), validation=column("acc"))
    drawn = [
        ("loss", "Loss", "nats a picture", dict(training=column("train_loss"), validation=column("nll"))),
        ("accuracy", "Accuracy", "share right", accuracy),
        ("groups", "Accuracy by training pictures", "validation", {g: column(g) for g in charts.GROUPS}),
        ("gap", "Gap", "training less validation", dict(gap=np.subtract(*accuracy.values()))),
    ]
    own = [key for key in dict.fromkeys([*TITLES, *run.epochs[-1]]) if key not in TOGETHER | LEFT_OUT]
    own = [key for key in own if re.fullmatch(r"\w+", key, re.ASCII)]  # it becomes a file's name; ours all are
    drawn = [each for each in drawn if each[0] not in own]
    drawn[2:2] = [(key, TITLES.get(key, key), UNITS.get(key, ""), {key: column(key)}) for key in own]
    known = [each for each in drawn if np.isfinite(list(each[3].values())).any()]
    said = "Training scores are of pictures as they were trained on, mixed and cropped."
    page.section("Learning", *(charts.curves(*each, run.kept) for each in known), note(said))


def _seen(page, run, album):
    """A batch as the network saw it, and what its first layer became."""
    parts = []
    try:
        tiles = []
        for seen in album.batch():
            mixed = [Html(f"+ {name(seen.partner)}")] if seen.lam < 1 else []
            tiles.append(picture(jpeg(seen.pixels), seen.own, Html(f"λ {seen.lam:.2f} {name(seen.own)}"), *mixed))
        said = "The first pictures of training, λ the weight of their label; erased parts are grey."
        parts += [note(said), gallery(tiles)]
    except (LongtailError, OSError, ValueError) as error:
        parts.append(note(f"The first batch cannot be drawn again: {error}"))
    if run.filters is None:
        parts.append(note("The run kept no filters: it is of an older version, or its first layer takes no RGB."))
    else:
        largest = np.abs(run.filters).max()
        for title, array in zip(("at the start", "of the kept epoch"), run.filters):
            parts += _filters(title, array / largest)
        if len(run.filters) > 1:
            change = run.filters[1] - run.filters[0]
            length = np.linalg.norm(change) / max(np.linalg.norm(run.filters[0]), 1e-9)
            title = f"their change, at full contrast; it is {length:.2f} times as long as the start"
            parts += _filters(title, change / max(np.abs(change).max(), 1e-9))
    page.section("What the network saw", *parts)


def _filters(title, array):
    """A sheet of filters [K, 3, k, k] in [-1, 1]: grey is 0."""
    data = base64.b64encode(sheet(array.transpose(0, 2, 3, 1) / 2 + 0.5)).decode()
    return heading(f"First filters, {title}"), Html(f'<img class="sheet" alt="" src="data:image/png;base64,{data}">')


def _data(page, run):
    """How many pictures each class has, and how they were parted."""
    if not run.split or not run.classes:
        page.section("Data", note("The run has no split.csv, or no classes.txt."))
        return
    train, val = run.counts("train"), run.counts("val")
    order = np.argsort(-train, kind="stable")
    x = "class, by training pictures", np.tile(np.arange(1, len(order) + 1), 2)
    y = "pictures", np.concatenate([train[order], val[order]])
    groups = {}
    kinds = (("training", train, BLUE, "o"), ("validation", val, ORANGE, "s"))
    for number, (part, counts, colour, marker) in enumerate(kinds):
        said = [f"{run.classes[c]}: {counts[c]} for {part}" for c in order]
        groups[part] = charts.Group(range(number * len(order), (number + 1) * len(order)), colour, marker, said)
    ratio = train.max() / max(train[train > 0].min(initial=train.max()), 1)
    alt = f"{train.sum()} for training in {len(order)} classes, {train.max()} to {train.min()}: imbalance {ratio:.1f}."
    chart = charts.points("class_counts", "Pictures of each class", alt, x, y, groups, log_y=True)
    get = run.settings.get
    share = val.sum() / max(train.sum() + val.sum(), 1)  # of data that was split already no setting tells it
    scheme = f"fold {get('fold')} of {get('folds')}" if get("folds") else f"{share:.3g} of the pictures"
    parts = [own for *_, own in run.split]
    pairs = [(f"{part} pictures", parts.count(part)) for part in dict.fromkeys(parts)]
    page.section("Data", chart, facts([*pairs, ("held out", scheme), ("split seed", get("split_seed"))]))


def _made(page, run):
    """What made it: command, environment, settings, log."""
    command = run.env.get("command") or []
    environment = [(key, value) for key, value in run.env.items() if key != "command"]
    environment += [("changed code", "code.diff")] * (run.path / "code.diff").exists()
    settings = [[flag_of(key), json.dumps(value, ensure_ascii=False)] for key, value in run.settings.items()]
    page.section(
        "What made it",
        code(shlex.join(["python", *map(str, command)]) if command else "The command was not recorded."),
        facts(environment),
        folded("Every setting", table("args.json", ["setting", "value"], settings, search="Find a setting")),
        folded("Log", code("\n".join(run.log[-200:]))),
    )
