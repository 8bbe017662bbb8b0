"""Names of classes, pictures and folders: order, numbers and ids, which no table could hold, which look alike.

Reads and changes no file.
"""

import re
from fractions import Fraction
from pathlib import Path
from unicodedata import normalize

import numpy as np

# What a picture's name ends with. Only names are judged here; the decoder looks at the bytes.
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".avif",
    ".mpo",
)
# Control characters, all line breaks among them, and the bytes of a name that is not UTF-8, as Python shows them.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# They turn the direction of what follows them, or separate lines where no line ends.
INVISIBLE = {0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
MISSING = ("nan", "null", "none", "na", "n/a", "<na>", "#n/a")  # how programs write that there is no value


def is_picture_name(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return name.casefold().endswith(SUFFIXES)


def unpadded(name: str) -> str:
    """A file's name or stem; where that is a number, without the zeros before it."""
    stem, dot, suffix = name.rpartition(".") if is_picture_name(name) else (name, "", "")
    if stem.isascii() and stem.isdigit():
        stem = stem.lstrip("0") or "0"
    return stem + dot + suffix


def natural_key(name: str) -> tuple[list, str]:
    """Sort key: digits by value, letters without case, then code points. It is the same under every locale."""
    name = normalize("NFC", name)
    pieces = re.split("([0-9]+)", name.casefold())  # every second piece is digits
    for position in range(1, len(pieces), 2):
        # Length, then text, orders numbers as their values do. int() would refuse very long ones.
        digits = pieces[position].lstrip("0")
        pieces[position] = (len(digits), digits)
    return pieces, name


def numbered(names: list[str]) -> tuple[np.ndarray, list[str]]:
    """(each name's class number, int64; the class names). Names equal in NFC are one class, as it was spelled first."""
    composed = [normalize("NFC", name) for name in names]
    spelled = {}
    for key, name in zip(composed, names):
        spelled.setdefault(key, name)  # systems store the same accents in two ways
    order = sorted(spelled, key=natural_key)
    number = {key: i for i, key in enumerate(order)}
    return np.array([number[key] for key in composed], np.int64), [spelled[key] for key in order]


def ids_of(paths: list[str]) -> list[str]:
    """Stems where no two are equal, else file names where no two are equal, else paths."""
    stems = [Path(path).stem for path in paths]
    names = [Path(path).name for path in paths]
    for ids in (stems, names):
        if len(set(ids)) == len(ids):
            return ids
    return paths


def visible(value: object) -> str:
    """`value` as text whose every character can be seen: of an ANSI escape, ␛ and the letters after it."""
    shown = []
    for character in str(value):
        code = ord(character)
        if code < 32 or code == 127:
            character = chr(0x2400 + code) if code < 32 else "\u2421"
        elif 0x80 <= code < 0xA0 or code in INVISIBLE:
            character = f"⟨U+{code:04X}⟩"
        elif 0xD800 <= code < 0xE000:  # a byte of a name that is no UTF-8
            character = "\ufffd"
        shown.append(character)
    return "".join(shown)


def some(names: list[str], most: int = 5) -> str:
    """The first names, `most` at the most, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def brief(text: str) -> str:
    """`text` in quotes and in one line, its first 80 characters at the most."""
    return repr(text if len(text) <= 80 else text[:80] + "...")


def shown(name: str) -> str:
    """`name` as text of one line: what tables cannot hold is escaped, a byte that is not UTF-8 as \\xfc."""

    def escaped(match):
        character = match[0]
        if "\udc80" <= character <= "\udcff":
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape").decode()

    return UNWRITABLE.sub(escaped, name)


def doubts(classes: list[str]) -> list[str]:
    """What looks wrong with the classes' names, a line each: several that may be one, and those that say "no value"."""
    alike = {}
    for name in classes:
        alike.setdefault(_meant(name), []).append(name)
    found = [f"classes {', '.join(map(repr, names))}: are they one?" for names in alike.values() if len(names) > 1]
    for name in classes:
        if name.strip().casefold() in MISSING:
            found.append(f"class {name!r}: is it a value that is missing?")
    return found


def _meant(name):
    """The same for names that differ in case, in spaces, - and _, or in how they write a number."""
    seen = re.sub("[\u00ad\u200b-\u200d\u2060\ufeff]", "", normalize("NFKC", name))  # without what has no width
    plain = re.sub(r"[\s_]+|(?<=\w)-+", " ", seen.casefold()).strip()
    if re.fullmatch(r"-?[0-9]{1,99}(\.[0-9]{0,99})?", plain):  # no exponents: 1e9 would be long
        return str(Fraction(plain))  # exact, unlike float
    return plain
