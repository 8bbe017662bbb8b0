"""How many pictures each class has, as text and as a picture. For people only: nothing reads it back."""

import numpy as np


def print_counts(classes: list[str], columns: dict[str, np.ndarray]) -> None:
    """Print a line for each class and one for the whole.

    classes: C names. columns: part -> int64 [C], its pictures of each class; "train" is one of the parts.
    """
    total = sum(columns.values())
    widest = max(map(len, [*classes, "class"]))
    print(f"{'class':{widest}}", *(f"{part:>7}" for part in columns))
    for number, name in enumerate(classes):
        # At most 40 characters; at least one, so that no class looks empty.
        bar = "#" * max(1, round(40 * total[number] / total.max()))
        print(f"{name:{widest}}", *(f"{counts[number]:7d}" for counts in columns.values()), bar)
    train = columns["train"]
    print(
        f"{total.sum()} pictures, {len(classes)} classes, imbalance ratio {train.max() / train.min():.1f} "
        f"({train.max()} to {train.min()} training pictures)"
    )


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
    figure.savefig(file, dpi=120)
