"""From a folder or CSV to pictures ready to train on: sizes, Store, split, mean and std; and the check of a data set.

listing.py says what there is, store.py decodes it. Only `check` touches test pictures, and only the split is random.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from errors import ConfigError, LongtailError, Parser, counted, first_ten, run_command
from pictures.class_counts import classes_without, plot_counts, print_counts, print_findings
from pictures.dealing import deal, deal_groups, joined, keep_together
from pictures.duplicates import near_sets
from pictures.layout import own_test
from pictures.listing import Listing, listing, test_listing
from pictures.names import doubts
from pictures.problems import in_files
from pictures.samples import check_own_sample
from pictures.store import Store, dimensions, load_store


@dataclass(frozen=True)
class Pictures:
    """What training needs to know about its data."""

    root: Path  # the folder that was named; the listing's may be one inside it
    listing: Listing
    store: Store
    size: int  # what the network sees
    train: np.ndarray  # rows of the listing and of the Store, sorted
    val: np.ndarray  # the same
    counts: np.ndarray  # int64 [C], training pictures of each class
    mean: list[float]  # RGB in [0, 1], of the training pictures
    std: list[float]
    notes: list[str]  # what was passed over or may be wrong, a line each, to be said


@dataclass(frozen=True)
class Source:
    """Config's settings of what is read, and how."""

    labels: str = ""
    image_col: str = "auto"
    label_col: str = "auto"
    group_col: str = ""
    resize: str = "squash"
    skip_bad: bool = False
    img_size: int | str | tuple[int, int] = "auto"


@dataclass(frozen=True)
class Split:
    """Config's settings of how training and validation are parted."""

    val_split: float = 0.2
    folds: int = 0
    fold: int = 0
    split_seed: int = 0


def prepare(root: str | Path, source: Source, parted: Split) -> Pictures:
    """The pictures of the folder `root`, listed, decoded and split.

    Raises LongtailError where the data cannot be used, also where its sample submission could not be filled later, and
    for a bad picture unless source.skip_bad, which leaves them out with a note of each.
    """
    found = listing(root, source.labels or None, source.image_col, source.label_col, source.group_col or None)
    check_own_sample(root, found.classes)
    size, side = sizes(found.files, source.img_size)
    store = load_store(found.files, side, source.resize)
    notes = found.notes + first_ten([f"passed over: {name}" for name in found.skipped])
    left_out = []
    for row, reason in store.bad.items():
        path = found.paths[row]
        if not source.skip_bad:
            raise LongtailError(
                f"{len(store.bad)} of {counted(len(found.paths), 'picture')} cannot be read, "
                f"{found.root / path} for one ({reason}): mend or remove them, or train without "
                f"them by --skip-bad; `{_check_command(root, source)}` lists them"
            )
        left_out.append(f"bad picture left out: {path}: {reason}")
    notes += first_ten(left_out)  # split.csv has them all
    # A bad picture keeps its row in the Store and is in neither part of the split.
    usable = np.ones(len(found.paths), bool)
    usable[list(store.bad)] = False
    alike, own = near_sets(store), found.parts == "val"
    if own.any():  # whoever made the data has split it
        copies = sum(int(own[members].sum()) for members in alike if not own[members].all())
        if copies:
            said = f"{copies} of {counted(int(own.sum()), 'validation picture')}"
            notes.append(f"copies of training pictures, or nearly: {said}, whose scores flatter")
        if not parted.val_split:
            notes.append(f"--val-split 0: the {counted(int(own.sum()), 'validation picture')} are trained on too")
    elif alike:
        count = sum(map(len, alike))
        notes.append(f"{count} pictures are in {counted(len(alike), 'set')} of near duplicates; no split divides a set")
    train, val = split(found, usable, alike, **vars(parted))
    notes += classes_without(found, train, val)
    counts = np.bincount(found.labels[train], minlength=len(found.classes))
    moments = statistics(store, train)
    return Pictures(Path(root), found, store, size, train, val, counts, moments["mean"], moments["std"], notes)


def _check_command(root, source):
    return shlex.join(["python", "data.py", "check", str(root), *_csv_flags(source), "--all"])


def _csv_flags(source):
    """The flags of a Source's CSV and its columns, where they are not found by themselves."""
    words = []
    for name in ("labels", "image_col", "label_col", "group_col"):
        value = str(getattr(source, name))
        if value not in ("", "auto"):
            words += [f"--{name.replace('_', '-')}", value]
    return words


def sizes(files: list[Path], img_size: int | str | tuple[int, int] = "auto") -> tuple[int, int]:
    """(pixels a side that the network sees in the end, pixels a side S of the Store).

    Both depend on the median short side of at most 1,000 pictures, evenly spaced, by their headers.
    img_size: a side; two, those of the first and of the last epoch; or "auto". "auto" is the median up to 64, and 224
    from 256 on. In between it is 7/8 of the median, down to a multiple of 32 and at least 64.
    S is 256/224 of the side, to leave room for crops, but at most the larger of the side and the median: small pictures
    are not enlarged only to be cropped.
    Raises LongtailError where no header can be read.
    """
    # A thousand are enough for a median, and reading more headers would take time at every start.
    rows = np.unique(np.linspace(0, len(files) - 1, min(len(files), 1000)).astype(int))
    short_sides = [min(found) for found in dimensions([files[row] for row in rows]) if found]
    if not short_sides:
        raise LongtailError(f"no picture can be read, {files[0]} for one: `python data.py check DIR` says why")
    median = int(np.median(short_sides))
    if isinstance(img_size, tuple):
        _, img_size = img_size
    if img_size == "auto":
        reduced = median * 7 // 8 // 32 * 32  # networks halve a side five times
        img_size = median if median <= 64 else max(64, min(224, reduced))
    return img_size, min(round(img_size * 256 / 224), max(img_size, median))


def split(
    pictures: Listing,
    usable: np.ndarray,
    alike: list[list[int]] = (),
    *,
    val_split: float = 0.2,
    folds: int = 0,
    fold: int = 0,
    split_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, validation rows), int64, sorted, of the rows where `usable` (bool [N]) holds.

    Where the data has a val part, that is held out; with `val_split` 0 nothing is. Otherwise a stratified draw holds
    out the share `val_split` of each class, rounded up or down so that the whole keeps the share too; or, with
    folds >= 2, fold number `fold`. Folds are disjoint and differ by at most one picture a class.
    Neither a group nor a set of `alike`, rows of nearly equal pictures, is divided. A class of one picture, or of one
    group or set, stays in training.
    Raises LongtailError for shares and folds out of bounds, and where too few pictures are left.
    """
    root = pictures.root
    rows = np.flatnonzero(usable)
    labels = pictures.labels[rows]
    if len(np.unique(labels)) < 2:
        raise LongtailError(f"{root}: fewer than two classes have a picture that can be used")
    if (pictures.parts == "val").any():  # whoever made the data has split it already
        if folds:
            raise LongtailError(f"{root} has a validation folder of its own: give --folds 0, or move it into train")
        held_out = (pictures.parts[rows] == "val") & (val_split > 0)
        return rows[~held_out], rows[held_out]
    if not 0 <= val_split < 1:
        raise LongtailError(f"--val-split {val_split}: give a share from 0 to below 1")
    if folds and not (folds >= 2 and 0 <= fold < folds):
        raise LongtailError(f"--folds {folds} --fold {fold}: give 2 or more folds, and a fold below that number")
    shares = np.full(folds, 1 / folds) if folds else np.array([val_split, 1 - val_split])
    rng = np.random.Generator(np.random.PCG64(split_seed))
    sets = [np.searchsorted(rows, members) for members in alike]  # positions among the usable rows
    if pictures.groups is None:
        bins = keep_together(deal(labels, shares, rng), labels, sets)
    else:
        groups = joined([pictures.groups[row] for row in rows], sets)
        bins = deal_groups(groups, labels, shares, rng)
    held_out = bins == (fold if folds else 0)
    if not held_out.any() and (folds or val_split):  # a share of 0 asks for none
        raise LongtailError(f"{root}: too few pictures to hold some out; add some, or give --val-split 0")
    return rows[~held_out], rows[held_out]


def statistics(store: Store, rows: np.ndarray) -> dict[str, list[float]]:
    """{"mean": [3], "std": [3]}, RGB in [0, 1], over every pixel of `rows`: from the Store's moments, in float64."""
    mean = store.means[rows].astype(np.float64).mean(0)
    variance = store.squares[rows].mean(0) - mean**2
    std = np.sqrt(np.maximum(variance, 0))  # rounding can take the variance of a flat picture below 0
    return {"mean": mean.tolist(), "std": std.tolist()}


def check(
    root: str | Path, labels: str, image_col: str, label_col: str, group_col: str, plot: str, everything: bool
) -> bool:
    """Print five lines on a data set, then what is wrong with it by count, then its classes. True if training and
    predict.py would take it.

    Bad files are found, and sets of pictures that are the same, or nearly, once decoded: such a set may lie across
    train, val and test. everything: name each of them, and every class.
    labels, image_col, label_col, group_col: as in `listing`, "" for none. plot: a file for a bar picture of the class
    counts, "" for none.
    Raises LongtailError where the pictures cannot be listed.
    """
    if plot and Path(plot).suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--plot {plot}: give a file that ends in .png, .pdf or .svg")
    source = Source(labels, image_col, label_col, group_col)
    found = listing(root, labels or None, image_col, label_col, group_col or None)
    tests, problems, refusals = _test_part(root, found)
    try:
        _, side = sizes(found.files)
    except LongtailError:
        side = 64  # any side will do: no file can be read, and each is about to be named
    problems = {"class names": doubts(found.classes)} | problems | in_files([found, *tests], side)
    notes = found.notes
    # Training's own code decides, with the settings that matter here at their defaults.
    try:
        ready = prepare(root, source, Split())
        notes = found.notes + classes_without(found, ready.train, ready.val)
    except LongtailError as error:
        refusals.insert(0, ("training", error))
    verdict = why = "training would take this"
    if refusals:
        who, error = refusals[0]
        verdict = why = f"{who} would refuse this: {error}"
        if any(str(error) in what for what in problems.values()):  # which are printed too
            verdict = f"{who} would refuse this"

    counts = {}
    for name in ("train", "val"):
        rows = found.parts == name
        if rows.any():
            counts[name] = np.bincount(found.labels[rows], minlength=len(found.classes))
    labelled = any((part.labels >= 0).any() for part in tests)
    testing = f"{sum(len(part.paths) for part in tests) or 'none'} for testing{', with labels' * labelled}"
    print_findings(counts, testing, {kind: what for kind, what in problems.items() if what}, verdict, everything)
    print_counts(found.classes, counts, everything)
    for note in notes:
        if note not in problems["class names"]:
            print(note, file=sys.stderr)
    if plot:
        plot_counts(found.classes, counts, plot)
        print(f"class counts drawn in {plot}", file=sys.stderr)
    words = ["python", "train.py", "--data", str(root), *_csv_flags(source)]
    if labelled:
        print("the test pictures have labels: python evaluate.py scores a trained run on them", file=sys.stderr)
    print(why if refusals else f"{verdict}. Next: {shlex.join(words)}", file=sys.stderr)
    return not refusals


def _test_part(root, found):
    """(the test pictures as a list of none or one Listing, a kind of problem -> what is of it, who would refuse what)
    of the data in `root`, whose training part was `found`."""
    problems, refusals = {}, []
    try:
        tests = [test_listing(root, taught=found.classes)] if own_test(root) else []
    except LongtailError as error:
        tests = []
        problems["test pictures"] = [str(error)]
        refusals.append(("predict.py", error))
    taught = {normalize("NFC", name) for name in found.classes}
    strange = [name for part in tests for name in part.classes if normalize("NFC", name) not in taught]
    problems["classes of test pictures alone"] = strange
    try:
        check_own_sample(root, found.classes)
    except LongtailError as error:
        problems["sample submission"] = [str(error)]
    return tests, problems, refusals


def main(args: list[str] | None = None) -> int:
    """The command `python data.py check`. Returns its exit code: 0 where training and predict.py would take it."""
    parser = Parser(prog="data.py", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="check")
    said = "find bad files, duplicates and conflicting labels; count the classes"
    command = commands.add_parser("check", help=said)
    command.add_argument("root", metavar="DIR", help="the data that training would get by --data")
    command.add_argument("--labels", default="", help="CSV of file names and labels, where folders do not say them")
    command.add_argument("--image-col", default="auto", help="its column of file names (auto)")
    command.add_argument("--label-col", default="auto", help="its column of labels (auto)")
    command.add_argument("--group-col", default="", help="its column of groups that a split must not divide")
    command.add_argument("--all", action="store_true", dest="everything", help="name every file, set and class")
    command.add_argument("--plot", default="", metavar="FILE", help="draw the class counts, as .png, .pdf or .svg")
    space = parser.parse_args(args)
    return run_command("data.py", lambda: 0 if check(**vars(space)) else 1)


if __name__ == "__main__":
    sys.exit(main())
