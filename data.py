"""What a folder or a CSV says: which pictures, which class, which part; then checks, splits, sizes, mean and std.

Lists and reads names only; pixels come from store.py. Never guesses silently: what it passes over is returned in
`skipped`, what it cannot settle is one DataError line with the row or folder and the mend.
"""
from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import numpy as np

import store as stores

VAL = ("val", "valid", "validation")
PARTS = ("train", *VAL, "test")
IMAGE_COLUMNS = ("file", "filename", "file_name", "image", "image_path", "path", "filepath", "img", "picture",
                 "image_id", "img_id", "id", "name")
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name", "artist", "y")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
            ".pbm", ".avif", ".jp2", ".mpo")
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir")


class DataError(ValueError):
    """The data cannot be used as it stands; the message names the place and the mend."""


@dataclass(frozen=True)
class Listing:
    """Pictures as rows; `paths` relative to `root`, printed as spelled."""
    root: Path
    paths: list[str]
    labels: np.ndarray  # int64 [N], index into classes, -1 where unknown
    classes: list[str]  # natural order
    parts: np.ndarray  # str [N]: train, val or test
    groups: list[str] | None = None
    skipped: list[str] = field(default_factory=list)  # passed over, each with its reason, for the caller to say
    ids: list[str] = field(default_factory=list)  # of a test listing

    @property
    def files(self) -> list[Path]:
        return [self.root / path for path in self.paths]


@dataclass(frozen=True)
class Pictures:
    """A Store with all that training needs to know about it."""
    listing: Listing
    store: stores.Store
    size: int  # what the network sees
    train: np.ndarray  # rows
    val: np.ndarray
    counts: np.ndarray  # training pictures a class [C]
    mean: list[float]  # RGB in [0, 1], of the training pictures
    std: list[float]
    notes: list[str]  # what was passed over, a line each, to be said


def prepare(root, *, labels: str, image_col: str, label_col: str, group_col: str, resize: str, skip_bad: bool, img_size,
            val_split: float, folds: int, fold: int, split_seed: int) -> Pictures:
    """Folder to Pictures: listed, decoded or mapped, split. The arguments are Config's fields.

    Raises DataError, and for pictures that cannot be read too, unless skip_bad leaves them out and says so in the notes.
    """
    found = listing(root, labels or None, image_col, label_col, group_col or None)
    size, side = sizes(found, img_size)
    store = stores.load(found.files, side, resize)
    notes = [f"passed over: {name}" for name in found.skipped]
    notes += [f"bad picture left out: {found.paths[row]}: {reason}" for row, reason in store.bad.items()]
    if store.bad and not skip_bad:
        row, reason = next(iter(store.bad.items()))
        raise DataError(f"{len(store.bad)} of {len(found.paths)} pictures cannot be read, {found.root / found.paths[row]} for one "
                        f"({reason}): mend or remove them, or train without them by --skip-bad; `python data.py check {root}` lists them")
    usable = ~np.isin(np.arange(len(found.paths)), list(store.bad))
    train, val = split(found, usable, val_split=val_split, folds=folds, fold=fold, split_seed=split_seed)
    counts = np.bincount(found.labels[train], minlength=len(found.classes))
    for rows, part in ((train, "training"), (val, "validation")):
        absent = np.setdiff1d(np.arange(len(found.classes)), found.labels[rows])
        if len(absent) and len(rows):
            notes.append(f"no {part} picture of: {', '.join(found.classes[c] for c in absent)}")
    return Pictures(found, store, size, train, val, counts, *statistics(store, train).values(), notes)


def natural_key(name: str):
    """Sort key: digits by value, letters without case, then code points; the same under every locale."""
    name = normalize("NFC", name)
    pieces = re.split("([0-9]+)", name.casefold())
    pieces[1::2] = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in pieces[1::2]]
    return pieces, name


def listing(root, labels=None, image_col: str = "auto", label_col: str = "auto", group_col: str | None = None) -> Listing:
    """The training pictures (parts train and val, never test) of a folder of class folders, or of a CSV of labels."""
    root = _folder(root)
    skipped: list[str] = []
    if labels is not None:
        rows, names = _csv_rows(root, Path(labels), image_col, label_col, group_col, skipped)
    elif group_col:
        raise DataError("--group-col names a column of a CSV: give the CSV by --labels")
    else:
        rows = _folder_rows(root, skipped)
    paths, spelled, parts, groups = [], [], [], []
    for path, name, part, group in rows:
        paths.append(path), spelled.append(name), parts.append(part), groups.append(group)
    if not paths:
        raise DataError(f"{root}: no picture found; expected {root}/<class>/*.jpg, {root}/train/<class>/*.jpg "
                        "or a CSV by --labels")
    classes, index = _classes(spelled)
    if len(classes) < 2:
        raise DataError(f"{root}: only one class, {classes[0]!r}: a classifier needs two or more")
    numbers = np.array(index, np.int64)
    parts = np.array(parts)
    absent = sorted(set(numbers[parts == "val"]) - set(numbers[parts == "train"]))
    if absent:
        raise DataError(f"{root}: no training picture of {', '.join(classes[c] for c in absent[:5])}"
                        f"{' and more' * (len(absent) > 5)}, only validation pictures: is a folder misspelled?")
    return Listing(root, paths, numbers, classes, parts, groups if group_col else None, skipped)


def test_listing(root, test=None) -> Listing:
    """Test pictures and their ids, by default of root/test.csv (columns id and file, or either), else of root/test/.

    `test`: another folder or CSV. An id is the CSV's, else the file's stem, else its name where two stems collide, else
    its path. Labels are known (not -1) in class folders, and in a CSV with a usual label column; they index this
    listing's own `classes`.
    """
    root = _folder(root)
    skipped: list[str] = []
    if test is None:
        root = _inner(root, [])
        test = next((root / name for name in ("test.csv", "test") if (root / name).exists()), None)
        if test is None:
            raise DataError(f"{root}: no test.csv and no test/ folder; name the test pictures by --test")
    test = Path(test)
    if test.is_dir():
        home, base = (root, f"{test.relative_to(root)}/") if root in test.parents else (test, "")
        paths, spelled = [], []
        for name in _entries(test, base, skipped)[1]:
            paths.append(base + name), spelled.append(None)
        for folder in _entries(test, base, [])[0]:
            found = list(_pictures(home, f"{base}{folder}/", skipped))
            paths += found
            spelled += [folder] * len(found)
        ids = _ids(paths)
    else:
        home = root
        header, lines = _read_csv(test)
        image = _column(test, header, "auto", IMAGE_COLUMNS, "--image-col") or header[0]
        id_ = next((name for name in header if name.casefold() == "id"), image)
        label = next((name for name in header if name.casefold() in LABEL_COLUMNS and name not in (image, id_)), None)
        paths = _locate_all(test, lines, image, root, (root, test.parent, root / "test"))
        spelled = [row[label] or None if label else None for _, row in lines]
        ids = [row[id_] for _, row in lines]
        for at, name in _repeats(ids):
            raise DataError(f"{test} line {lines[at][0]}: the id {name!r} is there twice")
    if not paths:
        raise DataError(f"{test}: no test picture found")
    classes, index = _classes([name for name in spelled if name is not None])
    index = iter(index)
    labels = np.array([-1 if name is None else next(index) for name in spelled], np.int64)
    return Listing(home, paths, labels, classes, np.full(len(paths), "test"), None, skipped, ids)


def sizes(pictures: Listing | list[Path], img_size: str | int = "auto") -> tuple[int, int]:
    """(size the network sees, S of the Store), from the headers of at most 1,000 evenly spaced pictures.

    "auto" is 224, less where the median short side is under 256 (7/8 of it, down to a multiple of 32, at least 64),
    and that side itself up to 64. S is size * 256 / 224, but never above both size and the median short side: a Store
    does not enlarge small pictures just to crop them again.
    """
    files = pictures.files if isinstance(pictures, Listing) else list(pictures)
    take = np.unique(np.linspace(0, len(files) - 1, min(len(files), 1000)).astype(int))
    sides = [min(found) for found in stores.dimensions([files[i] for i in take]) if found]
    if not sides:
        raise DataError(f"no picture can be read, {files[0]} for one: `python data.py check DIR` says why")
    side = int(np.median(sides))
    if img_size == "auto":
        size = side if side <= 64 else max(64, min(224, side * 224 // 256 // 32 * 32))
    else:
        size = int(img_size)
    return size, min(round(size * 256 / 224), max(size, side))


def split(pictures: Listing, usable: np.ndarray, *, val_split: float = 0.2, folds: int = 0, fold: int = 0,
          split_seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(train rows, val rows), int64, sorted, of the rows where `usable` (bool [N]).

    A val part of the data is used as it is. Otherwise stratified: a class's share is rounded so that the whole has
    round(val_split * N) pictures, or with folds >= 2 one of `folds` parts that differ by at most one picture a class.
    A class of one picture, or of one group, stays in train; a group is never divided.
    """
    rows = np.flatnonzero(usable)
    labels = pictures.labels[rows]
    if len(np.unique(labels)) < 2:
        raise DataError(f"{pictures.root}: fewer than two classes have a usable picture")
    if (pictures.parts == "val").any():
        if folds:
            raise DataError(f"{pictures.root} has a validation folder of its own: drop --folds, or move it into train")
        held = pictures.parts[rows] == "val"
    elif not 0 <= val_split < 1:
        raise DataError(f"--val-split {val_split}: give a share from 0 to below 1")
    elif not folds and not val_split:
        held = np.zeros(len(rows), bool)
    elif folds:
        if not (folds >= 2 and 0 <= fold < folds):
            raise DataError(f"--folds {folds} --fold {fold}: give 2 or more folds, and a fold from 0 to folds - 1")
        held = _deal(pictures, rows, labels, np.full(folds, 1 / folds), split_seed) == fold
    else:
        held = _deal(pictures, rows, labels, np.array([val_split, 1 - val_split]), split_seed) == 0
    if not held.any() and (folds or val_split):
        raise DataError(f"{pictures.root}: too few pictures to hold any out; add some, or train with --val-split 0")
    if held.all():
        raise DataError(f"{pictures.root}: no picture is left to train on; lower --val-split")
    return rows[~held], rows[held]


def statistics(store: stores.Store, rows: np.ndarray) -> dict[str, list[float]]:
    """{"mean": [3], "std": [3]}, RGB in [0, 1], over every pixel of `rows`; float64, from the Store's moments."""
    mean = store.means[rows].astype(np.float64).mean(0)
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(store.squares[rows].mean(0) - mean**2, 0)).tolist()}


def _folder(root) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"{root}: no such folder")
    return root


def _entries(folder: Path, base: str, skipped: list[str]) -> tuple[list[str], list[str]]:
    """Names of the sub-folders and of the rest, sorted; hidden things go to `skipped` as `base` + name."""
    folders, rest = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: (normalize("NFC", entry.name), entry.name)):
        if entry.name.startswith(".") or entry.name.casefold() in LITTER:
            skipped.append(f"{base}{entry.name} (hidden)")
        else:
            (folders if entry.is_dir() else rest).append(entry.name)
    return folders, rest


def _is_picture_name(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def _pictures(root: Path, base: str, skipped: list[str], above: tuple = ()):
    """Every candidate below root/base: each file, and each folder named like a picture (the decoder will refuse it)."""
    status = os.stat(root / base)
    if (status.st_dev, status.st_ino) in above:
        skipped.append(f"{base} (a link to a folder above it)")
        return
    folders, rest = _entries(root / base, base, skipped)
    yield from (base + name for name in rest)
    for name in folders:
        if _is_picture_name(name):
            yield base + name
        else:
            yield from _pictures(root, f"{base}{name}/", skipped, (*above, (status.st_dev, status.st_ino)))


def _inner(root: Path, skipped: list[str]) -> Path:
    """Down through folders that hold nothing but one folder of folders, as archives often do."""
    while True:
        folders, rest = _entries(root, "", [])
        if len(folders) != 1 or folders[0].casefold() in PARTS or any(map(_is_picture_name, rest)):
            return root
        if not _entries(root / folders[0], "", [])[0]:
            return root
        root = root / folders[0]


def _folder_rows(root: Path, skipped: list[str]) -> list[tuple]:
    folders, rest = _entries(root, "", skipped)
    deep = {name for name in folders if _entries(root / name, "", [])[0]}
    parts = {name: "val" if name.casefold() in VAL else "train" for name in folders
             if name.casefold() in (*VAL, "train") and name in deep}
    others = [name for name in folders if name not in parts and name.casefold() != "test"]
    if "train" not in parts.values():
        if not [name for name in others if name.casefold() not in PARTS] and others:
            raise DataError(f"{root / others[0]} holds no class folders: sort its pictures into them, or give --labels")
        parts[""] = "train"
    else:
        skipped += [f"{name}/ (beside the train folder)" for name in others]
    rows = []
    for name, part in sorted(parts.items(), key=lambda item: item[1]):
        base = f"{name}/" if name else ""
        folders, rest = (others, rest) if not name else _entries(root / name, base, skipped)
        skipped += [f"{base}{file} (in no class folder)" for file in rest if _is_picture_name(file)]
        for folder in folders:
            found = list(_pictures(root, f"{base}{folder}/", skipped))
            rows += [(path, folder, part, None) for path in found]
            if not found:
                skipped.append(f"{base}{folder}/ (no picture, so no class)")
    return rows


def _classes(spelled: list[str]) -> tuple[list[str], list[int]]:
    """Class names in natural order, each as first spelled, and every row's index; equal in NFC is equal."""
    first: dict[str, str] = {}
    for name in spelled:
        first.setdefault(normalize("NFC", name), name)
    order = {name: i for i, name in enumerate(sorted(first, key=natural_key))}
    return [first[name] for name in order], [order[normalize("NFC", name)] for name in spelled]


def _ids(paths: list[str]) -> list[str]:
    for ids in ([Path(path).stem for path in paths], [Path(path).name for path in paths]):
        if len(set(ids)) == len(ids):
            return ids
    return paths


def _repeats(values: list) -> list[tuple[int, str]]:
    seen: set = set()
    return [(i, v) for i, v in enumerate(values) if v in seen or seen.add(v)]


def _read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and (line number, row) pairs; comma, semicolon or tab, whichever the header has most of."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{file} line {reader.line_num}: {error}") from None
    if not any(header):
        raise DataError(f"{file} is empty: its first line must name the columns")
    for _, name in _repeats([name for name in header if name]):
        raise DataError(f"{file}: the column {name!r} is there twice")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{file} line {number}: {len(row)} fields where the header names {len(header)}")
    return header, [(number, dict(zip(header, row))) for number, row in rows]


def _column(file: Path, header: list[str], wanted: str, usual: tuple[str, ...], flag: str) -> str | None:
    """The column `wanted`, else ("auto") the first of the usual names that is there, else None."""
    spelled = {normalize("NFC", name).casefold(): name for name in header}
    if wanted == "auto":
        return next((spelled[name] for name in usual if name in spelled), None)
    if normalize("NFC", wanted).casefold() not in spelled:
        raise DataError(f"{file} has no column {wanted!r} for {flag}; it has {', '.join(header)}")
    return spelled[normalize("NFC", wanted).casefold()]


def _csv_rows(root: Path, file: Path, image_col: str, label_col: str, group_col: str | None, skipped: list[str]):
    header, lines = _read_csv(file)
    group = _column(file, header, group_col, (), "--group-col") if group_col else None
    image = _column(file, header, image_col, IMAGE_COLUMNS, "--image-col")
    label = _column(file, header, label_col, LABEL_COLUMNS, "--label-col")
    rest = [name for name in header if name and name not in (image, label, group)]
    if len(rest) == 1 and (image is None) != (label is None):  # two columns, one known: the other is settled
        image, label = image or rest[0], label or rest[0]
    for column, what, flag in ((image, "pictures", "--image-col"), (label, "labels", "--label-col")):
        if column is None:
            raise DataError(f"{file}: which column has the {what}? Name one of {', '.join(header)} by {flag}")
    for number, row in lines:
        for column in filter(None, (image, label, group)):
            if not row[column]:
                raise DataError(f"{file} line {number}: {column} is empty")
    seen: dict[str, int] = {}
    rows = []
    for at, path in enumerate(_locate_all(file, lines, image, root, (root, file.parent, root / "train"))):
        number, row = lines[at]
        first = seen.setdefault(path, at)
        if first == at:
            rows.append((path, row[label], "train", row[group] if group else None))
        elif normalize("NFC", row[label]) != normalize("NFC", lines[first][1][label]):
            raise DataError(f"{file} line {number}: {path} is {row[label]!r} here, but "
                            f"{lines[first][1][label]!r} on line {lines[first][0]}")
        else:
            skipped.append(f"{file.name} line {number} (repeats line {lines[first][0]})")
    return rows


def _locate_all(file: Path, lines: list, column: str, root: Path, bases: tuple[Path, ...]) -> list[str]:
    """Each row's file as a path relative to root; the first base that has it wins, with or without extension."""
    known: dict[Path, tuple[dict, dict]] = {}
    paths, missing = [], []
    for number, row in lines:
        found = next(filter(None, (_locate(base, row[column], known, f"{file} line {number}") for base in bases)), None)
        if found is None:
            missing.append(f"line {number} {row[column]!r}")
        else:
            paths.append(found.relative_to(root).as_posix() if root in found.parents else os.path.relpath(found, root))
    if missing:
        raise DataError(f"{file}: {len(missing)} of {len(lines)} files are not there: {', '.join(missing[:5])}"
                        f"{' ...' * (len(missing) > 5)}; names count from the CSV's folder or from {root}")
    return paths


def _locate(base: Path, value: str, known: dict, where: str) -> Path | None:
    """base/value, each component as spelled or equal in NFC; the last also by its stem."""
    here = Path("/") if value.startswith("/") else base
    names = [name for name in value.split("/") if name not in ("", ".")]
    for i, name in enumerate(names):
        last = i == len(names) - 1
        if os.path.lexists(here / name) and not (last and (here / name).is_dir() and not _is_picture_name(name)):
            here = here / name
            continue
        if here not in known:
            listed = os.listdir(here) if here.is_dir() else []
            stems: dict[str, list[str]] = {}
            for each in filter(_is_picture_name, listed):
                stems.setdefault(normalize("NFC", Path(each).stem), []).append(each)
            known[here] = {normalize("NFC", each): each for each in listed}, stems
        whole, stems = known[here]
        name = normalize("NFC", name)
        if last and len(stems.get(name, ())) > 1:
            raise DataError(f"{where}: {value!r} could be {' or '.join(sorted(stems[name]))}: add the extension")
        match = stems[name][0] if last and name in stems else whole.get(name)
        if match is None or (last and name not in stems and (here / match).is_dir()):
            return None
        here = here / match
    return here if names else None


def _deal(pictures: Listing, rows: np.ndarray, labels: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """The bin of each row, bins having `shares` of every class; -1, so never held out, for a class in one piece."""
    rng = np.random.Generator(np.random.PCG64(seed))
    if pictures.groups is not None:
        return _deal_groups([pictures.groups[row] for row in rows], labels, shares, rng)
    bins = np.full(len(rows), -1)
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    members = [member for member in members if len(member) > 1]
    if shares[0] == shares[-1]:  # equal folds: dealt like cards, through all classes without a new start
        deck = np.concatenate([*members, np.array([], int)]).astype(int)
        bins[deck] = np.arange(len(deck)) % len(shares)
        return bins
    exact = np.array([len(member) * shares[0] for member in members])
    take = np.floor(exact + 1e-9).astype(int)
    order = np.lexsort((rng.random(len(members)), -(exact - take)))  # the largest remainders first, ties by lot
    take[order[:max(0, round(len(rows) * shares[0]) - take.sum())]] += 1
    for member, count in zip(members, take):
        bins[member[:min(count, len(member) - 1)]] = 0
    return bins


def _deal_groups(groups: list[str], labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Greedy: the largest group first, each to the bin whose classes it leaves nearest their share (chi-squared)."""
    _, group = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    counts = [np.bincount(labels[member], minlength=labels.max() + 1) for member in members]
    total = sum(counts)
    free = [i for i, count in enumerate(counts) if not ((count == total) & (total > 0)).any()]
    target = np.outer(shares, np.maximum(sum((counts[i] for i in free), np.zeros_like(total)), 1))
    have = np.zeros_like(target)
    bins = np.full(len(labels), -1)
    for i in sorted(rng.permutation(free).astype(int), key=lambda i: -len(members[i])):
        best = np.argmin((counts[i] * (2 * have + counts[i]) / target).sum(1))
        have[best] += counts[i]
        bins[members[i]] = best
    return bins
