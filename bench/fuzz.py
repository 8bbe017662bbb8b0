"""Random settings, damaged JSON files and flipped bits: each is refused in one line that names it, or harms nothing.

    python -m bench.fuzz configs --n 300        random flags of train.py on small sets: an epoch, or a line
    python -m bench.fuzz jsons --n 200          recipes and the JSON files of runs and studies, damaged
    python -m bench.fuzz flips --n 400          single bits of best.pt and last.pt

Prints how many were refused, survived and failed, with what failed; exit 1 if anything did. The same seed tries the
same again: `--only I` tries case I alone, and shows what it says.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import sweep
import train
from bench.kill import compare
from config import Config, flag_of, spelled
from engine.checkpoint import load_best, load_checkpoint
from errors import LongtailError, Parser
from study.begin import begin_study

SMALL = ("--threads", 1, "--device", "cpu", "--width", 0.125, "--img-size", 32, "--batch-size", 8)
SHORT = ("--epochs", 2, "--until", 1)
OURS = ("data", "labels", "image_col", "label_col", "group_col", "init", "project", "name", "resume", "device", "until")
UNDEFINED = ("many", "medium", "few")  # scores of a group that may have no class: nan is right


class Failed(Exception):
    """Something that is neither refused by name nor right."""


# what is tried ------------------------------------------------------------------------------------------------------


def small_set(root, counts, side, rng, part=""):
    """A folder of noise: `counts` pictures of each class."""
    for c, count in enumerate(counts):
        for i in range(count):
            path = root / part / f"class {c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.normal(60 * c, 40, (side, side, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def small_sets(root):
    """Sets that differ in what may go wrong: rare classes, tiny pictures, hardly any, a validation folder."""
    rng = np.random.default_rng(0)
    plain = small_set(root / "plain", (12, 8, 4), 40, rng)
    rows = [[path.relative_to(plain), path.parent.name, path.stem] for path in sorted(plain.glob("*/*.png"))]
    with open(root / "labels.csv", "w", newline="") as f:
        csv.writer(f).writerows([["file", "label", "group"], *rows])
    own = small_set(root / "own validation", (6, 5), 32, rng, "train")
    small_set(own, (2, 0), 32, rng, "val")
    return [
        ["--data", plain],
        ["--data", small_set(root / "rare", (30, 1, 1, 2, 1), 24, rng)],
        ["--data", small_set(root / "tiny", (5, 5), 8, rng)],
        ["--data", small_set(root / "hardly any", (2, 2), 33, rng)],
        ["--data", own],
        ["--data", plain, "--labels", root / "labels.csv"],
        ["--data", plain, "--labels", root / "labels.csv", "--group-col", "group"],
    ]


def random_value(field, rng):
    """A word for a setting's flag: mostly one that it may have, ends of its range above all; else what it may not."""
    metadata = field.metadata
    strange = ["", "nan", "-1", "inf", "1e400", "x", "1:2:3", "0.5", "9" * 400, "\u00e9", "None", "1e-30"]
    if rng.random() < 0.06:
        return rng.choice(strange)
    if field.type is str:
        return rng.choice(metadata["choices"] or ["", "body", "conv1,layer1", "fc", "resnet18", "resnet32", "x"])
    low, high = max(metadata["low"], -1e3), min(metadata["high"], 1e3)
    if field.name in ("batch_size", "img_size", "epochs", "width"):  # so that an epoch takes a second
        high = dict(batch_size=64, img_size=64, epochs=3, width=0.5)[field.name]

    def number():
        kind = rng.choice(["low", "high", "between", "between", "small"])
        value = dict(low=low, high=high, between=rng.uniform(low, high), small=low + (high - low) * 1e-3)[kind]
        return field.type(value)

    parts = metadata["parts"]
    count = rng.choice(parts) if isinstance(parts, tuple) else parts
    if metadata["auto"] and rng.random() < 0.2:
        return metadata["auto"]
    numbers = [number() for _ in range(count)]
    return spelled(tuple(sorted(numbers) if rng.random() < 0.9 else numbers))


def random_flags(rng):
    """Words for train.py: a few settings at random values."""
    fields = [field for field in dataclasses.fields(Config) if field.name not in OURS]
    words = []
    for field in rng.sample(fields, rng.randint(1, 12)):
        flag = flag_of(field.name)
        if field.type is bool:
            words.append(rng.choice([flag, f"--no-{flag[2:]}"]))
        else:
            words.append(f"{flag}={random_value(field, rng)}")  # "=": a value may begin with a dash
    return words


def damaged(text, rng):
    """The text of a JSON file with one thing wrong with it."""
    evil = ["1e400", "-1e400", "NaN", "null", "true", "[]", "{}", '"\\u0000"', '"\\ud800"', '"x"', "-1", "9" * 5000]
    evil += ["[" * 100_000, "[" * 500 + "]" * 500, '"' + "y" * 100_000 + '"', "1.5", "[[1]]", '{"a": {"a": 1}}', '""']
    where = rng.randrange(len(text))
    kind = rng.choice(["cut", "byte", "hole", "value", "value", "value", "name", "twice", "whole"])
    if kind == "cut":
        return text[:where]
    if kind == "byte":
        return text[:where] + rng.choice('\0{}[]",:\x1f\u2028 9eE-') + text[where + 1 :]
    if kind == "hole":
        return text[:where] + text[where + rng.randrange(1, 40) :]
    if kind == "whole":
        return rng.choice([*evil, "", "\0" * 50, "\ufeff" + text, text + text, "[" + text + "]", text.encode().hex()])
    value = json.loads(text)
    name = rng.choice(list(value))
    if kind == "twice":
        return "{" + f'"{name}": 1, ' + text.lstrip()[1:]
    if kind == "name":
        value[name + "x"] = value.pop(name)
        return json.dumps(value)
    value[name] = "EVIL"
    return json.dumps(value).replace('"EVIL"', rng.choice(evil))


# how it goes --------------------------------------------------------------------------------------------------------


def outcome(command, words):
    """(exit code, stderr) of a command of this project, in this process. Failed where it raises or warns of NaN."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # of NumPy: a division by 0, a NaN that appears
            code = command([str(word) for word in words])
    except SystemExit as end:  # of argparse; a signal ends this program too
        if end.code > 2:
            raise
        code = end.code
    except Exception:
        raise Failed(traceback.format_exc(limit=-3)) from None
    return code, said.getvalue()


def refused_by_name(code, said, names):
    """Whether the last line says what is wrong with one of `names`, and nothing but lines like it came before."""
    last = said.splitlines()[-1] if said else ""
    return code in (1, 2) and len(last) < 2000 and any(str(name) in last for name in names)


def try_config(rng, root, sets):
    project = root / "runs"
    shutil.rmtree(project, ignore_errors=True)
    words = [*SMALL, *SHORT, *random_flags(rng)]
    code, said = outcome(train.main, [*rng.choice(sets), *words, "--project", project])
    if code:
        # Of the set itself (too few pictures, one class), of a flag, or of a network's argument.
        if not refused_by_name(code, said, ["--", root, "not finite", "stem_kernel", "pretrained", "width", "head"]):
            raise Failed(f"exit {code}: {said[-600:]}")
        return "refused"
    load_best(project / "run" / "best.pt")  # finite, of one piece
    with open(project / "run" / "results.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    bad = [
        name for row in rows for name, cell in row.items() if name not in UNDEFINED and not math.isfinite(float(cell))
    ]
    if not rows or bad:
        raise Failed(f"results.csv: {len(rows)} rows, not finite: {bad}")
    if "nan" in said:
        raise Failed(f"it says nan: {said[-600:]}")
    return "survived"


def prepare_jsons(root, sets):
    """A run that can go on, a study, a recipe: what the damaged files stand in."""
    words = [*sets[0], *SMALL, *SHORT, "--project", root / "runs"]
    code, said = outcome(train.main, words)
    if code:
        raise SystemExit(said)
    base = Config(data=str(sets[0][1]), width=0.125, img_size=32, batch_size=8, epochs=2)
    begin_study(root / "runs" / "study", base, [dict(lr=1e-3), dict(lr=2e-3)])
    (root / "runs" / "study" / "best.json").write_text(json.dumps(base.settings(), indent=1))
    flags = words[words.index("--threads") :]
    run, study = root / "runs" / "run", root / "runs" / "study"
    resume = (train.main, [*flags, "--resume"])
    status = (sweep.main, ["--project", root / "runs", "--name", "study", "--status"])
    recipe = (train.main, [*sets[0], "-c", study / "best.json", *SMALL, *SHORT, "--project", root / "other"])
    return {
        run / "args.json": resume,
        run / "env.json": resume,
        run / "stats.json": resume,
        study / "best.json": recipe,
        study / "study.json": status,
    }


def try_json(rng, root, cases):
    path = rng.choice(list(cases))
    command, words = cases[path]
    keep = shutil.copytree(root / "runs", root / "keep")
    try:
        text = path.read_text(encoding="utf-8")
        path.write_bytes(damaged(text, rng).encode("utf-8", "surrogatepass"))
        code, said = outcome(command, words)
        if code and not refused_by_name(code, said, [path, "--", path.parent]):
            raise Failed(f"{path.name}: exit {code}: {said[-600:]}")
        return "refused" if code else "survived"
    finally:
        shutil.rmtree(root / "runs")
        shutil.rmtree(root / "other", ignore_errors=True)
        keep.rename(root / "runs")


def prepare_flips(root, sets):
    code, said = outcome(train.main, [*sets[0], *SMALL, *SHORT, "--project", root / "runs"])
    if code:
        raise SystemExit(said)
    paths = [root / "runs" / "run" / name for name in ("best.pt", "last.pt")]
    return {path: (path.read_bytes(), load_checkpoint(path)) for path in paths}


def try_flip(rng, root, cases):
    path = rng.choice(list(cases))
    whole, right = cases[path]
    # A quarter in the directory at the end, which no checksum covers.
    begin = whole.index(b"PK\x01\x02") if rng.random() < 0.25 else 0
    place = rng.randrange(begin * 8, len(whole) * 8)
    flipped = bytearray(whole)
    flipped[place // 8] ^= 1 << place % 8
    path.write_bytes(flipped)
    try:
        found = load_checkpoint(path)
    except LongtailError as error:
        if str(path) not in str(error) or "\n" in str(error):
            raise Failed(f"bit {place}: {error}") from None
        return "refused"
    unequal = compare(right, found)
    if unequal:
        raise Failed(f"bit {place} of {path.name} changes {unequal[0]}")
    return "survived"


def main():
    parser = Parser(prog="bench.fuzz", description=__doc__)
    parser.add_argument("what", choices=("configs", "jsons", "flips"))
    parser.add_argument("--n", type=int, default=300, help="cases (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of them all (default 0)")
    parser.add_argument("--only", type=int, help="the number of one case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    attempt = dict(configs=try_config, jsons=try_json, flips=try_flip)[args.what]
    prepare = dict(configs=lambda root, sets: sets, jsons=prepare_jsons, flips=prepare_flips)[args.what]
    found = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["LONGTAIL_CACHE"] = str(root / "cache")
        cases = prepare(root, small_sets(root))
        for i in range(args.n) if args.only is None else [args.only]:
            try:
                result = attempt(random.Random(f"{args.seed} {i}"), root, cases)
            except Failed as failure:
                result = "failed"
                print(f"case {i}: {failure}", flush=True)
            found[result] += 1
    print(
        f"**{sum(found.values())} {args.what}, seed {args.seed}: {found['refused']} refused by name, "
        f"{found['survived']} survived, {found['failed']} failed.**"
    )
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
