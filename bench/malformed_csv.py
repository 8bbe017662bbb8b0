"""CSVs as they go wrong in people's hands: each is refused by one line that names it, or read as it is meant.

Writes CSVs of labels (--labels, train.csv) and of test pictures (test.csv), each with a style of its own (encoding,
delimiter, quotes, line ends) and one fault, and gives them to `data.py check` and to the listing of test pictures. What
is right is known: the rows that were written, or for random damage what a plain split of the text says. Exit 1 if one
failed: an exception, a row lost or another label, something accepted that cannot be meant.

    python -m bench.malformed_csv --n 400 --seed 0
"""

import contextlib
import io
import os
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import numpy as np
from PIL import Image

import data
from bench.csv_faults import AS_SPLIT, BYTES, CELLS, CLASSES, FOR_TEST, KEPT, NO_LABELS, REFUSED, TABLES, Sheet
from engine.flags import whole_number
from errors import Parser, run_command

UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def make_pictures(root: Path) -> None:
    """Twelve pictures for training and twelve for testing, with names that are no plain ASCII among them."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a/u", "a/v", "a b/u", "ü/éu", "ü/x,y", "z", *(f"b/p{i:02d}" for i in range(6))):
            path = root / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(path)


def make_csv(kind: str, fault: str, files: list[str], rng: random.Random) -> tuple[bytes, object]:
    """(the bytes of a CSV with `fault`, what is right: REFUSED, or {cell that names a file: (file, label)})."""
    classes = CLASSES
    if BYTES.get(fault, "?")[0] == AS_SPLIT:  # no comma in a cell: a plain split would be wrong
        classes, files = CLASSES[:3], [name for name in files if "," not in name]
    rows = [["file", "label"], *([name, classes[i % len(classes)]] for i, name in enumerate(files))]
    encodings = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be"]
    ends = ["\n", "\r\n", "\r"]
    sheet = Sheet(rows, rng.choice(encodings), rng.choice(",;\t"), rng.choice(ends), rng.random() < 0.3)
    meaning = {name: (name, label) for name, label in rows[1:]}
    if fault in CELLS:
        right, column, change = CELLS[fault]
        row = rng.randrange(1, len(rows))
        old = rows[row]
        new = [change(text, rng) if i == column else text for i, text in enumerate(old)]
        sheet = sheet._replace(rows=[*rows[:row], new, *rows[row + 1 :]])
        plain = [cell.strip() for cell in new]
        meaning = {k if k != old[0] else plain[0]: v for k, v in meaning.items()}
        kept = kind == "test.csv" and FOR_TEST.get(fault) == KEPT
        meaning[plain[0]] = (plain[0] if kept else old[0], plain[1] or None)
        raw = sheet.raw()
    elif fault in TABLES:
        right, change = TABLES[fault]
        sheet = sheet._replace(rows=change(rows, rng))
        if fault == "one class":
            meaning = {name: (name, "Cat") for name in meaning}
        raw = sheet.raw()
    else:
        right, change = BYTES[fault]
        if right == AS_SPLIT or "quote" in fault:
            sheet = sheet._replace(encoding="utf-8", quote=False)
        raw = change(sheet.raw(), sheet, rng)
    if kind == "test.csv":
        right = FOR_TEST.get(fault, right)
        if right == NO_LABELS and fault in TABLES:
            meaning = {name: (file, None) for name, (file, _) in meaning.items()}
    if right == AS_SPLIT:
        return raw, split_plainly(raw, files, kind)
    return raw, REFUSED if right == REFUSED else meaning


def split_plainly(raw: bytes, files: list[str], kind: str) -> object:
    """What a CSV of a file and a label, of which no cell is quoted, says: as `make_csv` has it."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return REFUSED
    lines = [line for line in re.split("\r\n|\r|\n", text) if re.sub(r"[\s,;]", "", line)]
    delimiter = max(",;\t", key=(lines or [""])[0].count)
    rows = [[cell.strip() for cell in line.split(delimiter)] for line in lines]
    if not rows or "\0" in text or any(len(row) != 2 or row[0][:1] == '"' or row[1][:1] == '"' for row in rows):
        return REFUSED
    labelled = kind != "test.csv" or rows[0][1].casefold() in ("label", "labels")
    if not rows[0][0].endswith(".png"):
        del rows[0]
    found = {}
    for name, label in rows:
        plain = os.path.normpath(normalize("NFC", name))
        same = [file for file in files if plain in (file, file.removesuffix(".png"))]
        near = [file for file in files if _near(file) == _near(plain)]
        if (
            not name
            or (not label and kind != "test.csv")
            or UNWRITABLE.search(name + label)
            or found.get(name, (0, label))[1] != label
        ):
            return REFUSED
        if not same and (near or kind != "test.csv"):
            return REFUSED
        if name in found and kind == "test.csv":
            return REFUSED
        found[name] = (same[0] if same else name, label or None if labelled else None)
    labels = {}
    for file, label in found.values():
        if labels.setdefault(file, label) != label and kind != "test.csv":
            return REFUSED
    several = len(set(labels.values())) > 1 if kind != "test.csv" else bool(set(files) & labels.keys())
    return found if several else REFUSED


def read(root: Path, kind: str, file: Path) -> tuple[int, str, object]:
    """(exit code, what was said on stderr, what was read as {file: label} or, of test.csv, {id: (file, label)})."""
    said = io.StringIO()
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # data.py sets how it is written
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        if kind == "test.csv":
            code = run_command("data.py", lambda: data.test_listing(root) and None)
        else:
            labels = ["--labels", str(file)] if kind == "--labels" else []
            code = data.main(["check", str(root), *labels])
    if code:
        return code, said.getvalue(), None
    if kind == "test.csv":
        found = data.test_listing(root)
        names = [found.classes[label] if label >= 0 else None for label in found.labels]
        return 0, said.getvalue(), {key: pair for key, *pair in zip(found.ids, found.paths, names)}
    found = data.listing(root, file)
    return 0, said.getvalue(), {path: found.classes[label] for path, label in zip(found.paths, found.labels)}


def judged(root: Path, kind: str, right: object, code: int, said: str, found: object) -> str:
    """ "refused", "read", or what failed."""
    lines = said.splitlines()
    if code:
        if (
            code not in (1, 2)
            or not lines
            or not lines[-1].startswith(("data.py: ", "training would"))
            or str(root) not in lines[-1]
        ):
            return f"exit {code} without a line that names it: {said!r}"
        if len([line for line in lines if line.startswith("data.py: ")]) > 1 or len(lines[-1]) > 2000:
            return f"not one line: {said[:3000]!r}"
        few = "too few pictures" in lines[-1]  # a cut CSV may be read, and training still refuse what is left
        return "refused" if right == REFUSED or few else f"refused, but it means {right}: {lines[-1]}"
    if right == REFUSED:
        return f"read as {found}, but it should be refused"
    wanted = {key: list(pair) for key, pair in right.items()} if kind == "test.csv" else dict(right.values())
    return "read" if found == wanted else f"read as {found}, but it means {wanted}"


def trials(n: int, seed: int, root: Path) -> Counter:
    """Counts of (kind, outcome) over n CSVs in `root`. A failure is printed."""
    make_pictures(root)
    kinds = ["--labels", "train.csv", "test.csv"]
    pictures = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    faults = [*CELLS, *TABLES, *BYTES]
    counts = Counter()
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        kind, fault = kinds[i // len(faults) % 3], faults[i % len(faults)]
        file = root / ("labels.csv" if kind == "--labels" else kind)
        part = "test/" if kind == "test.csv" else "train/"
        raw, right = make_csv(kind, fault, [name for name in pictures if name.startswith(part)], rng)
        file.write_bytes(raw)
        try:
            outcome = judged(root, kind, right, *read(root, kind, file))
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        file.unlink()
        if outcome not in ("refused", "read"):
            print(f"{i}, {kind} with {fault}: {outcome}", file=sys.stderr)
            outcome = "failed"
        counts[kind, outcome] += 1
    return counts


def measure(n: int, seed: int) -> int:
    """The command: prints the counts; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        counts = trials(n, seed, Path(folder) / "set")
    print("| CSV | refused by name | read rightly | failed |\n| --- | --- | --- | --- |")
    for kind in sorted({kind for kind, _ in counts}):
        print(f"| {kind} | {counts[kind, 'refused']} | {counts[kind, 'read']} | {counts[kind, 'failed']} |")
    return int(any(outcome == "failed" for _, outcome in counts))


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="malformed_csv", description=__doc__.partition("\n")[0])
    parser.add_argument("--n", default=400, help="CSVs (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    space = parser.parse_args(args)
    return run_command("malformed_csv", lambda: measure(whole_number("--n", space.n, 1, 10**6), space.seed))


def _near(path):
    """A path without what is refused by the name of the file that is meant."""
    return re.sub(r"\.[a-z]{2,5}$", "", path.casefold().replace("\\", "/"))


if __name__ == "__main__":
    sys.exit(main())
