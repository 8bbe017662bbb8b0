"""From a folder or CSV to pictures ready to train on: sizes, Store, split, mean and std; and the check of a data set.

listing.py says what there is and store.py decodes it. Never touches a test picture but to check it, and draws from no
generator but the split's own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import LongtailError, Parser, run_command
from pictures.duplicates import duplicates
from pictures.listing import Listing, listing, natural_key, test_listing  # noqa: F401  (ours to hand on)
from pictures.store import Store, dimensions, load_store


@dataclass(frozen=True)
class Pictures:
    """A Store with all that training needs to know about it."""

    listing: Listing
    store: Store
    size: int  # what the network sees
    train: np.ndarray  # rows
    val: np.ndarray
    counts: np.ndarray  # training pictures a class [C]
    mean: list[float]  # RGB in [0, 1], of the training pictures
    std: list[float]
    notes: list[str]  # what was passed over, a line each, to be said


def prepare(
    root,
    *,
    labels: str,
    image_col: str,
    label_col: str,
    group_col: str,
    resize: str,
    skip_bad: bool,
    img_size,
    val_split: float,
    folds: int,
    fold: int,
    split_seed: int,
) -> Pictures:
    """Folder to Pictures: listed, decoded or mapped, split. The arguments are Config's fields.

    Raises LongtailError, for pictures that cannot be read too, unless skip_bad leaves them out and says so in the
    notes.
    """
    found = listing(root, labels or None, image_col, label_col, group_col or None)
    size, side = sizes(found, img_size)
    store = load_store(found.files, side, resize)
    notes = [f"passed over: {name}" for name in found.skipped]
    notes += [f"bad picture left out: {found.paths[row]}: {reason}" for row, reason in store.bad.items()]
    if store.bad and not skip_bad:
        row, reason = next(iter(store.bad.items()))
        raise LongtailError(
            f"{len(store.bad)} of {len(found.paths)} pictures cannot be read, "
            f"{found.root / found.paths[row]} for one ({reason}): mend or remove them, or train without "
            f"them by --skip-bad; `python data.py check {root}` lists them"
        )
    usable = ~np.isin(np.arange(len(found.paths)), list(store.bad))
    train, val = split(found, usable, val_split=val_split, folds=folds, fold=fold, split_seed=split_seed)
    counts = np.bincount(found.labels[train], minlength=len(found.classes))
    for rows, part in ((train, "training"), (val, "validation")):
        absent = np.setdiff1d(np.arange(len(found.classes)), found.labels[rows])
        if len(absent) and len(rows):
            notes.append(f"no {part} picture of: {', '.join(found.classes[c] for c in absent)}")
    return Pictures(found, store, size, train, val, counts, *statistics(store, train).values(), notes)


def sizes(pictures: Listing | list[Path], img_size: int | str | tuple[int, int] = "auto") -> tuple[int, int]:
    """(size the network sees in the end, S of the Store), from the headers of at most 1,000 evenly spaced pictures.

    "auto" is 224; where the median short side is below 256, 7/8 of it down to a multiple of 32, but not under 64; that
    side itself up to 64. S is size * 256 / 224, but no more than both size and the median short side, since a Store
    does not enlarge small pictures just to have them cropped again.
    """
    files = pictures.files if isinstance(pictures, Listing) else list(pictures)
    take = np.unique(np.linspace(0, len(files) - 1, min(len(files), 1000)).astype(int))
    sides = [min(found) for found in dimensions([files[row] for row in take]) if found]
    if not sides:
        raise LongtailError(f"no picture can be read, {files[0]} for one: `python data.py check DIR` says why")
    side = int(np.median(sides))
    img_size = img_size[1] if isinstance(img_size, tuple) else img_size
    if img_size == "auto":
        img_size = side if side <= 64 else max(64, min(224, side * 7 // 8 // 32 * 32))
    return img_size, min(round(img_size * 256 / 224), max(img_size, side))


def split(
    pictures: Listing, usable: np.ndarray, *, val_split: float = 0.2, folds: int = 0, fold: int = 0, split_seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(train rows, val rows), int64, sorted, of the rows where `usable` (bool [N]) holds.

    A val part of the data is used as it is. Else a stratified draw: each class gives its share, rounded up or down so
    that the whole keeps the share too; folds >= 2 are disjoint and differ by at most one picture a class. A class of
    one picture, or of one group, always stays in train; a group is never divided.
    """
    rows = np.flatnonzero(usable)
    labels = pictures.labels[rows]
    if len(np.unique(labels)) < 2:
        raise LongtailError(f"{pictures.root}: fewer than two classes have a picture that can be used")
    if (pictures.parts == "val").any():
        if folds:
            raise LongtailError(
                f"{pictures.root} has a validation folder of its own: drop --folds, or move it into train"
            )
        held = pictures.parts[rows] == "val"
    else:
        if not 0 <= val_split < 1:
            raise LongtailError(f"--val-split {val_split}: give a share from 0 to below 1")
        if folds and not (folds >= 2 and 0 <= fold < folds):
            raise LongtailError(f"--folds {folds} --fold {fold}: give 2 or more folds, and a fold below that number")
        shares = np.full(folds, 1 / folds) if folds else np.array([val_split, 1 - val_split])
        rng = np.random.Generator(np.random.PCG64(split_seed))
        groups = None if pictures.groups is None else [pictures.groups[row] for row in rows]
        bins = _deal(labels, shares, rng) if groups is None else _deal_groups(groups, labels, shares, rng)
        held = bins == (fold if folds else 0)
        if not held.any() and (folds or val_split):
            raise LongtailError(f"{pictures.root}: too few pictures to hold some out; add some, or give --val-split 0")
    return rows[~held], rows[held]


def statistics(store: Store, rows: np.ndarray) -> dict[str, list[float]]:
    """{"mean": [3], "std": [3]}, RGB in [0, 1], over every pixel of `rows`, from the Store's moments in float64."""
    mean = store.means[rows].astype(np.float64).mean(0)
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(store.squares[rows].mean(0) - mean**2, 0)).tolist()}


def _deal(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bin of each row, -1 for lone pictures: the shuffled classes lie end to end and bins are dealt at even steps."""
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in rng.permutation(np.unique(labels))]
    deck = np.concatenate([member if len(member) > 1 else member[:0] for member in members])
    bins = np.full(len(labels), -1)
    if len(shares) > 2 or shares[0] == shares[1]:
        bins[deck] = np.arange(len(deck)) % len(shares)
    else:
        marks = np.floor(np.arange(len(deck) + 1) * shares[0] + 0.5)
        bins[deck] = np.where(np.diff(marks) > 0, 0, 1)
        for member in members:  # a large share can take a small class whole: its last picture stays
            if (bins[member] == 0).all():
                bins[member[-1]] = 1
    return bins


def _deal_groups(groups: list[str], labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bin of each row, -1 where a group has a class to itself: the largest group first, each to the bin whose classes
    it leaves nearest to their share (chi-squared)."""
    group = np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    counts = [np.bincount(labels[member], minlength=labels.max() + 1) for member in members]
    total = sum(counts)
    free = [i for i, count in enumerate(counts) if not ((count == total) & (total > 0)).any()]
    target = np.maximum(np.outer(shares, sum((counts[i] for i in free), 0 * total)), 1e-9)
    have = np.zeros_like(target)
    bins = np.full(len(labels), -1)
    for i in sorted(rng.permutation(np.array(free, int)), key=lambda i: -len(members[i])):
        best = np.argmin((counts[i] * (2 * have + counts[i]) / target).sum(1))
        have[best] += counts[i]
        bins[members[i]] = best
    return bins


def check(root, labels: str, image_col: str, label_col: str, group_col: str, plot: str) -> bool:
    """Print what is wrong with a data set, then its classes; True if training would take it as it is.

    Names every bad file, and every set of pictures that are the same, or nearly, once decoded; within and across train,
    val and test, and with what classes. `plot`: a file for a bar picture of the class counts.
    """
    parts = [listing(root, labels or None, image_col, label_col, group_col or None)]
    try:
        parts.append(test_listing(root))
    except LongtailError as error:
        print(f"no test pictures checked: {error}", file=sys.stderr)
    for name in (name for part in parts for name in part.skipped):
        print(f"passed over: {name}", file=sys.stderr)
    try:
        side = sizes(parts[0])[1]
    except LongtailError:
        side = 64  # no file can be read, and each is about to be named
    stored = [load_store(part.files, side) for part in parts]
    for part, store in zip(parts, stored):
        for row, reason in store.bad.items():
            print(f"bad: {part.paths[row]}: {reason}")
    for finding in duplicates(parts, stored):
        print(finding)
    columns = {
        name: np.bincount(parts[0].labels[parts[0].parts == name], minlength=len(parts[0].classes))
        for name in ("train", "val")
        if (parts[0].parts == name).any()
    }
    _table(parts[0].classes, columns)
    if plot:
        _plot(parts[0].classes, columns, plot)
        print(f"class counts drawn in {plot}", file=sys.stderr)
    try:
        prepare(
            root,
            labels=labels,
            image_col=image_col,
            label_col=label_col,
            group_col=group_col,
            resize="squash",
            skip_bad=False,
            img_size="auto",
            val_split=0.2,
            folds=0,
            fold=0,
            split_seed=0,
        )
    except LongtailError as error:
        print(f"training would refuse this: {error}", file=sys.stderr)
        return False
    print(f"training would take this. Next: python train.py --data {root}", file=sys.stderr)
    return True


def _table(classes: list[str], columns: dict[str, np.ndarray]) -> None:
    total, widest = sum(columns.values()), max(map(len, [*classes, "class"]))
    print(f"{'class':{widest}}", *(f"{name:>7}" for name in columns))
    for c, name in enumerate(classes):
        bar = "#" * max(1, round(40 * total[c] / total.max()))
        print(f"{name:{widest}}", *(f"{counts[c]:7d}" for counts in columns.values()), bar)
    train = columns["train"]
    print(
        f"{total.sum()} pictures, {len(classes)} classes, imbalance ratio {train.max() / train.min():.1f} "
        f"({train.max()} to {train.min()} training pictures)"
    )


def _plot(classes: list[str], columns: dict[str, np.ndarray], file) -> None:
    """Stacked bars of the class counts, the largest class first."""
    from matplotlib.figure import Figure

    total = sum(columns.values())
    order = np.argsort(-total, kind="stable")
    figure = Figure(figsize=(max(6.4, 0.22 * len(classes)), 4.8), layout="constrained")
    axes = figure.add_subplot()
    below = np.zeros(len(classes))
    for name, counts in columns.items():
        axes.bar(np.arange(len(classes)), counts[order], bottom=below, label=name)
        below += counts[order]
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.set_xticks(np.arange(len(classes)), [classes[c] for c in order], rotation=90, fontsize=8)
    axes.set_ylabel("pictures")
    axes.set_title(f"{total.sum():,} pictures in {len(classes)} classes, {total.max()} to {total.min()}")
    if len(columns) > 1:
        axes.legend()
    figure.savefig(file, dpi=120)


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="data.py", description=__doc__.partition("\n")[0])
    command = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check", help="name bad files, duplicates and conflicting labels; count the classes"
    )
    command.add_argument("root", metavar="DIR", help="the data that training would get by --data")
    command.add_argument("--labels", default="", help="CSV of file names and labels, where folders do not say them")
    command.add_argument("--image-col", default="auto", help="its column of file names (auto)")
    command.add_argument("--label-col", default="auto", help="its column of labels (auto)")
    command.add_argument("--group-col", default="", help="its column of groups that a split must not divide")
    command.add_argument("--plot", default="", metavar="FILE", help="draw the class counts, as .png, .pdf or .svg")
    sys.stdout.reconfigure(errors="surrogateescape")  # names that are no text are printed as spelled
    space = parser.parse_args(args)
    return run_command("data.py", lambda: 0 if check(**vars(space)) else 1)


if __name__ == "__main__":
    sys.exit(main())
