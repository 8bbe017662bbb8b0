"""How people lay out the folders of a data set: which hold the parts train, val and test, and where the CSVs lie.

Reads names and never a picture. listing.py says which pictures there are.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from errors import LongtailError
from pictures.names import is_picture_name, shown

PART_WORDS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "testset"),
}
# What may stand beside them in a folder's name: train_images, seg_test, Training Set.
FILLERS = ("image", "images", "img", "imgs", "pictures", "photos", "set", "data", "seg", "jpg", "jpeg", "png")
# What systems leave in folders without being asked.
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir")


class Entries(NamedTuple):
    """What a folder holds, by name, sorted."""

    folders: list[str]
    others: list[str]


def existing_folder(root: str | Path) -> Path:
    """`root` as a Path. Raises LongtailError where it is no folder, or has a name that no settings file can hold."""
    root = Path(root)
    for name in (str(root), str(root.resolve())):
        if shown(name) != name:
            raise LongtailError(f"{shown(name)}: this name is not UTF-8 or holds a line break: rename the folder")
    if not root.is_dir():
        raise LongtailError(f"{root} is not a folder" if root.exists() else f"{root}: no such folder")
    return root


def entries(folder: Path, base: str = "", skipped: list[str] | None = None) -> Entries:
    """The visible entries of `folder`. Hidden ones are added to `skipped`, with `base` before their names."""
    found = Entries([], [])
    try:
        listed = sorted(os.scandir(folder), key=lambda entry: (normalize("NFC", entry.name), entry.name))
    except OSError as error:
        raise LongtailError(f"{shown(str(folder))} cannot be read: {error.strerror}") from None
    for entry in listed:
        if entry.name.startswith(".") or entry.name.casefold() in LITTER:
            if skipped is not None:
                skipped.append(f"{base}{entry.name} (hidden)")
        elif _is_folder(entry):
            found.folders.append(entry.name)
        else:
            found.others.append(entry.name)
    return found


def part_of(name: str) -> str | None:
    """The part, train, val or test, that a folder's name says: Training, seg_train, test_images. None for others."""
    words = re.split(r"[\W\d_]+", name.casefold())  # numbers aside: test1, train_224
    said = [part for part, usual in PART_WORDS.items() for word in words if word in usual]
    known = sum(word in FILLERS or word == "" for word in words) + len(said)
    return said[0] if len(said) == 1 and known == len(words) else None


def unpacked(root: Path) -> Path:
    """Enter folders that hold nothing but one folder of folders, as unpacked archives often do."""
    while True:
        folders, others = entries(root)
        if any(part_csvs(root, part) for part in PART_WORDS):
            return root
        if len(folders) != 1 or part_of(folders[0]) or any(map(is_picture_name, others)):
            return root
        inner = root / folders[0]  # a class if it holds no folders
        if not entries(inner).folders:
            return root
        root = inner


def part_folder(root: Path, name: str) -> str:
    """Where the part in root/name begins: in name, or in name/inner that is all it holds (seg_train/seg_train)."""
    part = part_of(name)
    folders, others = entries(root / name)
    while part and list(map(part_of, folders)) == [part] and not any(map(is_picture_name, others)):
        name = f"{name}/{folders[0]}"
        folders, others = entries(root / name)
    return name


def part_csvs(root: Path, part: str) -> list[str]:
    """Which of train.csv, test.csv, or val.csv (valid.csv, validation.csv), in any case, the folder `root` holds."""
    usual = [f"{word}.csv" for word in PART_WORDS[part]]
    return [name for name in entries(root).others if name.casefold() in usual]


def own_csvs(root: Path) -> dict[str, Path]:
    """Part -> CSV of labels, where root holds train.csv; val.csv counts only beside it.

    Raises LongtailError where there are several of a part.
    """
    csvs = {}
    for part in ("train", "val"):
        names = part_csvs(root, part)
        if len(names) > 1:
            raise LongtailError(f"{root} holds {' and '.join(names)}: keep one of them, or name one by --labels")
        if names:
            csvs[part] = root / names[0]
    return csvs if "train" in csvs else {}


def own_test(root: str | Path) -> Path | None:
    """Where the data in `root` has its test pictures: test.csv, else test/, else a kin of it, such as Testing/.

    None where it has none, and where several may be meant.
    """
    if not Path(root).is_dir():
        return None
    root = unpacked(Path(root))
    files = part_csvs(root, "test")
    folders = [name for name in entries(root).folders if part_of(name) == "test"]
    found = files or folders
    name = next((name for name in ("test.csv", "test") if name in found), found[0] if len(found) == 1 else None)
    if name is None or files:
        return name and root / name
    return root / part_folder(root, name)


def named_folders(root: Path, part: str) -> list[Path]:
    """The folders of `root` in which the file names of a CSV of `part` may lie: those of that part, and of no part but
    pictures alone, such as images/."""
    found = []
    for name in entries(root).folders:
        if part_of(name) == part or name.casefold() in FILLERS:
            found.append(root / part_folder(root, name))
    return found


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
