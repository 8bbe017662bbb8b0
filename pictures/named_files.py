"""Which file a name in a CSV means: in several folders, with or without extension, in any Unicode form.

A name that is wrong by its case, its ending or a \\ is never followed; what it may mean is there to be said.
"""

import functools
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from errors import LongtailError, counted
from pictures.csv_table import Line, Table
from pictures.layout import entries, named_folders, part_of
from pictures.names import brief, is_picture_name, some, unpadded


class NamedFiles:
    """The files that the CSV `csv` of `part` (train, val or test) names.

    A name counts from root, else from the CSV's folder, else from the folders of that part.
    """

    def __init__(self, root: Path, csv: Path, part: str):
        self.root, self.csv = root, csv
        self.bases = list(dict.fromkeys([root, csv.parent, *named_folders(root, part)]))
        self._folder = functools.cache(_read_folder)  # once for each folder, not for each row

    def places(self) -> str:
        """Where names count from, to be said."""
        inner = [str(base) for base in self.bases if base != self.csv.parent]
        return f"{', '.join(inner)} or the CSV's folder" if inner else "the CSV's folder"

    def find(self, name: str) -> list[str]:
        """The paths, from root, of all files that `name` may mean in the first folder that has any.

        A number may lack the zeros before it, where no folder has it as it is.
        """
        parent, _, name = name.rpartition("/")
        for way, base in itertools.product((_Folder.matches, _Folder.same_number), self.bases):
            folder = self._folder(self.root, base, parent)
            matches = way(folder, name)
            if matches:
                return [folder.prefix + match for match in matches]
        return []

    def locate(self, table: Table, column: str) -> list[str | None]:
        """For each line the path of the file that its `column` names; None where no such file is there."""
        paths = []
        for number, cells in table.lines:
            found = self.find(cells[column])
            if len(found) > 1:
                either = " or ".join(sorted(Path(path).name for path in found))
                raise LongtailError(
                    f"{table.file} line {number}: {brief(cells[column])} may be {either}: "
                    "write the extension and the zeros"
                )
            paths.append(found[0] if found else None)
        return paths

    def said(self, lines: list[Line], column: str) -> str:
        """The first of the lines whose file is missing, each with the file that may be meant."""
        named = []
        for number, cells in lines[:5]:
            name = cells[column]
            meant = self.respelled(name) or self._elsewhere(name)
            named.append(f"line {number} {brief(name)}" + (f" (is {meant} meant?)" if meant else ""))
        return some(named + [""] * (len(lines) - len(named)))

    def respelled(self, name: str) -> str | None:
        """The picture that `name` means but for its case, its ending or a \\; None if there is not exactly one."""
        wanted = [_parts(os.path.relpath(base, self.root), name) for base in self.bases]
        found = [path for path in self._by_stem[wanted[0][-1]] if _parts(path) in wanted]
        return found[0] if len(found) == 1 else None

    def _elsewhere(self, name):
        """The picture whose last folders and stem are those of `name`, more of them than of any other; or None."""
        wanted = _parts(name)[::-1]
        agree = {}
        for path in self._by_stem[wanted[0]]:
            agree[path] = len(os.path.commonprefix([_parts(path)[::-1], wanted]))
        best = [path for path, count in agree.items() if count == max(agree.values())]
        return best[0] if len(best) == 1 else None

    @functools.cached_property
    def _by_stem(self):
        """The paths of all pictures below root, by their stems as `_parts` has them."""
        found = defaultdict(list)
        for folder, _, names in os.walk(self.root):
            for name in filter(is_picture_name, names):
                path = os.path.relpath(os.path.join(folder, name), self.root)
                found[_parts(path)[-1]].append(path)
        return found


def unnamed(root: Path, paths: Iterable[str], csvs: list[str]) -> list[str]:
    """What is to be said of pictures beside those of `paths`, in the same folders and in those beside them, but for the
    folders of a part: a line a folder that has any. csvs: the names of the tables that were read."""
    named, found = set(paths), []
    folders = {os.path.dirname(path) for path in named}
    for parent in {os.path.dirname(folder) for folder in folders if folder and not folder.startswith("..")}:
        inner = [name for name in entries(root / parent).folders if part_of(name) is None]
        folders |= {os.path.join(parent, name) for name in inner}
    for folder in sorted(folders):
        own = filter(is_picture_name, entries(root / folder).others)
        left = sum(os.path.join(folder, name) not in named for name in own)
        if left:
            found.append(f"{counted(left, 'picture')} in {root / folder} (not in {' or '.join(csvs)})")
    return found


def _parts(*path):
    """The folders of a path and its file's stem, without what a misspelled name may have otherwise."""
    plain = normalize("NFC", "/".join(path)).casefold().replace("\\", "/")
    *folders, name = os.path.normpath(plain).split("/")
    return [*folders, re.sub(r"\.([a-z]{2,5}|jp2)$", "", name)]


@dataclass(frozen=True)
class _Folder:
    prefix: str  # what comes before a name to make it a path from root
    names: dict[str, str]  # a name, as spelled or in NFC -> as spelled
    stems: dict[str, list[str]]  # a picture's name in NFC without its extension -> the names that it may mean
    numbers: dict[str, list[str]]  # the same, and with it, but without the zeros before a number

    def matches(self, name: str) -> list[str]:
        """The files that `name` may mean: the one of that very name, else all pictures of that stem."""
        composed = normalize("NFC", name)
        same = self.names.get(name) or self.names.get(composed)
        return [same] if same else self.stems.get(composed, [])

    def same_number(self, name: str) -> list[str]:
        """The pictures of the same number, zeros before it aside: 0007.jpg for 7 and for 7.jpg, not for 7.png."""
        return self.numbers.get(unpadded(normalize("NFC", name)), [])


def _read_folder(root, base, parent) -> _Folder:
    """What base/parent holds. Each part of `parent` is matched in NFC; a folder that is not there holds nothing."""
    here = base
    for part in Path(parent).parts:
        if not os.path.isdir(here / part):  # by this spelling; perhaps by another
            listed = os.listdir(here) if os.path.isdir(here) else []
            part = next((name for name in listed if normalize("NFC", name) == normalize("NFC", part)), part)
        here = here / part
    names, stems, numbers = {}, {}, {}
    for entry in os.scandir(here) if os.path.isdir(here) else ():
        is_picture = is_picture_name(entry.name)
        if is_picture or not os.path.isdir(entry.path):
            names.setdefault(normalize("NFC", entry.name), entry.name)
            names[entry.name] = entry.name  # the very spelling goes before another one of the same NFC
        if is_picture:
            stem = Path(entry.name).stem
            stems.setdefault(normalize("NFC", stem), []).append(entry.name)
            for name in (stem, entry.name):
                numbers.setdefault(unpadded(normalize("NFC", name)), []).append(entry.name)
    inner = os.path.relpath(here, root)  # ../data/x of the folder data is x
    return _Folder("" if inner == "." else f"{inner}/", names, stems, numbers)
