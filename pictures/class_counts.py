"""What a data set holds and what is wrong with it, as text and as a picture. For people only: nothing reads it back."""

from pathlib import Path

import numpy as np

from errors import counted
from files import replacing
from pictures.listing import Listing
from pictures.names import some

MOST_CLASSES = 30  # that are shown unless everything is asked for
MOST_LETTERS = 300  # of a finding, which may be a set of thousands of pictures


def print_findings(
    columns: dict[str, np.ndarray], tests: str, problems: dict[str, list[str]], verdict: str, everything: bool
) -> None:
    """Print five lines, pictures, classes, imbalance, problems and verdict; then each kind of problem, the most first.

    columns: part -> int64 [C], its pictures of each class; "train" is one of the parts. tests: test pictures, in words.
    problems: a kind -> what is of it, in words, one or more. everything: print all of it, not the first alone.
    """
    train = columns["train"]
    kinds = sorted(problems, key=lambda kind: -len(problems[kind]))
    said = {"train": "for training", "val": "for validation"}
    pictures = [f"{counts.sum()} {said[part]}" for part, counts in columns.items()]
    print("pictures  ", ", ".join([*pictures, tests]))
    print("classes   ", len(train))
    print(
        "imbalance ", f"{train.max() / train.min():.1f} ({train.max()} to {counted(train.min(), 'training picture')})"
    )
    print("problems  ", "; ".join(f"{kind}: {len(problems[kind])}" for kind in kinds) or "none")
    print("verdict   ", verdict)
    for kind in kinds:
        first, *others = problems[kind]
        if everything:
            print(*(f"{kind}: {finding}" for finding in problems[kind]), sep="\n")
            continue
        cut = "..." if len(first) > MOST_LETTERS else ""
        more = f", and {len(others)} more (--all lists them)" if others else ""
        print(f"{kind}: {first[:MOST_LETTERS]}{cut}{more}")


def print_counts(classes: list[str], columns: dict[str, np.ndarray], everything: bool) -> None:
    """Print a line for each class, the one of most pictures first.

    classes: C names. columns: as above. everything: also those in the middle, where there are many.
    """
    total = sum(columns.values())
    order = np.argsort(-total, kind="stable")
    hidden = 0 if everything or len(order) <= MOST_CLASSES else len(order) - MOST_CLASSES
    ends = MOST_CLASSES // 2
    widest = max(map(len, [*classes, "class"]))
    print(f"{'class':{widest}}", *(f"{part:>7}" for part in columns))
    for place, number in enumerate(order):
        if hidden and place == ends:
            print(f"... {hidden} classes of {total[number]} to {total[order[ends + hidden - 1]]} pictures (--all)")
        if hidden and ends <= place < ends + hidden:
            continue
        # At most 40 characters; at least one, so that no class looks empty.
        bar = "#" * max(1, round(40 * total[number] / total.max()))
        print(f"{classes[number]:{widest}}", *(f"{counts[number]:7d}" for counts in columns.values()), bar)


def classes_without(found: Listing, train: np.ndarray, val: np.ndarray) -> list[str]:
    """Says which classes have no picture among the rows `train` of a listing, and which none among the rows `val`."""
    said = []
    for rows, part, means in ((train, "training", ""), (val, "validation", ", unscored")):
        present = set(found.labels[rows])
        absent = [name for number, name in enumerate(found.classes) if number not in present]
        if absent and len(rows):  # no validation at all was asked for, and needs no note
            said.append(f"no {part} picture of {counted(len(absent), 'class')}{means}: {some(absent, 10)}")
    return said


def plot_counts(classes: list[str], columns: dict[str, np.ndarray], file: str) -> None:
    """Draw stacked bars, the largest class first, into `file`: .png, .pdf or .svg. classes, columns: as printed."""
    from matplotlib.figure import Figure  # slow to import, and training never draws

    total = sum(columns.values())
    order = np.argsort(-total, kind="stable")
    places = np.arange(len(classes))
    width = max(6.4, 0.22 * len(classes))  # inches: room for each name
    figure = Figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.add_subplot()
    below = np.zeros(len(classes))
    for part, counts in columns.items():
        axes.bar(places, counts[order], bottom=below, label=part)
        below += counts[order]
    axes.set_xlim(-0.6, len(classes) - 0.4)  # matplotlib's own margin grows with the number of bars
    axes.set_xticks(places, [classes[number] for number in order], rotation=90, fontsize=8)
    axes.set_ylabel("pictures")
    axes.set_title(f"{total.sum():,} pictures in {len(classes)} classes, {total.max()} to {total.min()}")
    if len(columns) > 1:
        axes.legend()
    with replacing(Path(file)) as draft:
        figure.savefig(draft, dpi=120, format=Path(file).suffix[1:])
