"""What is wrong with the files of a data set, for `data.py check`: unreadable ones, equal ones, and no pictures.

Mends nothing and prints nothing.
"""

from pictures.duplicates import duplicates
from pictures.listing import Listing
from pictures.store import load_store


def in_files(parts: list[Listing], side: int) -> dict[str, list[str]]:
    """A kind of problem -> what is of it, in words, [] where nothing is.

    parts: listings, of the training and of the test pictures. side: pixels a side of the Stores that are compared; sets
    of pictures that are the same, or nearly, may lie across parts.
    """
    stored = [load_store(part.files, side) for part in parts]
    bad = [f"{part.paths[row]}: {why}" for part, store in zip(parts, stored) for row, why in store.bad.items()]
    problems = {"unreadable": bad}
    for kind, members in duplicates(parts, stored):
        problems.setdefault(kind, []).append(members)
    problems["passed over"] = [name for part in parts for name in part.skipped]
    return problems
