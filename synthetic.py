"""The built-in set: procedural painters with the study's class counts and a known true posterior.

A painter has one habit in each of five style factors (FACTORS). A picture keeps each habit, independently, with probability
1 - delta and else draws that factor from all its levels, so p(style | painter) and p(painter | style) are exact and in closed
form. A picture shows its style and, besides, only noise that knows nothing of the painter. Levels keep their meaning under
horizontal flips, moderate crops and rotations, and changes of brightness, contrast and saturation; the two or three hues of a
palette cancel and trade places, so that single pixels say little. It never reads a picture and never imports torch.
"""

import argparse
import csv
import itertools
import math
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

import store as stores

# The training pictures of the 50 painters of the study, and how many of its pictures were for testing.
COUNTS = (560, 443, 274, 210, 201, 195, 176, 161, 156, 153, 147, 124, 121, 121, 118, 111, 111, 106, 105, 96, 88, 83, 82, 79, 72,
          71, 70, 69, 68, 65, 64, 61, 58, 57, 57, 55, 53, 51, 51, 48, 47, 41, 39, 37, 30, 30, 29, 28, 20, 19)
FACTORS = {
    "palette": ("red-cyan", "orange-azure", "olive-violet", "green-magenta", "teal-rose", "triad-0", "triad-40", "triad-80"),
    "direction": ("level", "upright", "slanted", "swirling"),
    "stroke": ("fine", "medium", "broad"),
    "shape": ("disc", "ring", "square", "cross", "triangle"),
    "composition": ("solo", "scatter", "frieze", "echo"),
}
LEVELS = tuple(len(levels) for levels in FACTORS.values())
FEWEST = 4  # pictures of a class at any scale: two parts of a split, or four folds, still see it


class SyntheticError(ValueError):
    """Arguments that no set can be made from, or a folder that is taken."""


def make(root, *, classes=50, scale=0.28, size=96, seed=0, difficulty=1.0, label_noise=0.0, workers=None):
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SyntheticError(f"{root}: exists and is not an empty folder; choose another or remove it")
    plan = draw(classes=classes, scale=scale, seed=seed, difficulty=difficulty, label_noise=label_noise)
    partial = root.parent / f".{root.name}.{os.getpid()}.partial"
    partial.mkdir(parents=True)
    try:
        _write(partial, plan, size, seed, workers)
        if root.is_dir():
            root.rmdir()
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial)
        raise


def folder(data=""):
    """The folder to train on: `data`, else $DATA, else the built-in set, made once in the cache folder and said."""
    if data or os.environ.get("DATA"):
        return Path(data or os.environ["DATA"])
    root = stores.cache_dir() / "painters-built-in-1"
    if not root.exists():
        print(f"no --data and no $DATA: painting the built-in pictures into {root}", file=sys.stderr)
        root.parent.mkdir(parents=True, exist_ok=True)
        make(root)
    else:
        print(f"no --data and no $DATA: using the built-in pictures in {root}", file=sys.stderr)
    return root


def counts(classes, scale):
    curve = np.interp(np.linspace(0, 1, classes), np.linspace(0, 1, len(COUNTS)), COUNTS)
    return np.maximum(FEWEST, np.round(curve * scale)).astype(np.int64)


def log_likelihood(styles, habits, delta):
    out = np.zeros((len(styles), len(habits)))
    for f, levels in enumerate(LEVELS):
        kept = styles[:, None, f] == habits[None, :, f]
        with np.errstate(divide="ignore"):
            out += np.log(np.where(kept, 1 - delta + delta / levels, delta / levels))
    return out


def posterior(styles, habits, prior, delta):
    joint = log_likelihood(styles, habits, delta) + np.log(prior)
    joint = np.exp(joint - joint.max(1, keepdims=True))
    return joint / joint.sum(1, keepdims=True)


def draw(*, classes, scale, seed, difficulty, label_noise):
    rng = _rng(seed)
    n = counts(classes, scale)
    names = _names(rng, classes)
    order = np.argsort(names)
    names, n = [names[i] for i in order], n[order]
    prior = n / n.sum()
    delta = 1 - 0.84 ** difficulty
    habits = _habits(rng, classes)
    tests = max(classes, round(n.sum() / 3))
    marks = np.clip(np.searchsorted(np.cumsum(prior), (rng.random() + np.arange(tests)) / tests, side="right"), 0, classes - 1)
    true = np.concatenate([np.repeat(np.arange(classes), n), rng.permutation(marks)])
    styles = habits[true]
    for f, levels in enumerate(LEVELS):
        styles[:, f] = np.where(rng.random(len(true)) < delta, rng.integers(levels, size=len(true)), styles[:, f])
    flip = rng.random(len(true)) < label_noise
    observed = np.where(flip, (true + rng.integers(1, max(2, classes), size=len(true))) % classes, true)
    is_test = np.arange(len(true)) >= n.sum()
    return dict(classes=np.array(names), prior=prior, habits=habits, delta=delta, true=true, observed=observed, test=is_test,
                styles=styles, posterior=posterior(styles, habits, prior, delta), label_noise=label_noise)


def _rng(*key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _habits(rng, classes):
    cells = np.array(list(itertools.product(*map(range, LEVELS))))
    return cells[rng.permutation(len(cells))[:classes]]


def _names(rng, classes):
    first = ["Aurel", "Bessim", "Corvane", "Dulcie", "Elowin", "Fenno", "Galia", "Hesper", "Ilvo", "Jorune", "Kestra", "Lumo", "Maris",
             "Nerio", "Orla", "Pelle", "Quillon", "Risa", "Sorrel", "Tavi", "Umbra", "Vesna", "Wystan", "Yarrow"]
    head = ["Bram", "Cald", "Drov", "Esk", "Fald", "Grim", "Hask", "Isk", "Jolv", "Kram", "Lorv", "Mosk", "Narv", "Olk", "Pryn", "Quend",
            "Rusk", "Skarn", "Trev", "Ulv", "Vask", "Wrenk", "Yld", "Zorv"]
    tail = ["abeque", "adono", "aquin", "aveen", "elloway", "emire", "endoux", "erquist", "iblane", "idorra", "ilvane", "imonde", "ondrel",
            "oquart", "orvane", "ossimo", "udell", "umbrel", "urvaine", "ystrom"]
    pairs = rng.permutation(len(head) * len(tail))[:classes]
    return [f"{first[i]} {head[p % len(head)]}{tail[p // len(head)]}" for i, p in zip(rng.integers(len(first), size=classes), pairs)]


def _write(root, plan, size, seed, workers):
    classes, test = plan["classes"], plan["test"]
    digits = len(str(len(test)))
    files = [f"test/{i:0{digits}}.jpg" if t else f"train/{classes[c]}/{i:0{digits}}.jpg"
             for i, (t, c) in enumerate(zip(test, plan["observed"]))]
    for folder in {str(Path(f).parent) for f in files}:
        (root / folder).mkdir(parents=True)
    jobs = [(root / f, tuple(s), size, seed, i) for i, (f, s) in enumerate(zip(files, plan["styles"].tolist()))]
    workers = workers or min(os.cpu_count() or 1, 1 + len(jobs) // 200)
    if workers == 1:
        for job in jobs:
            _paint(job)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_paint, jobs, chunksize=32))
    held = [f for f, t in zip(files, test) if t]
    for name, header, value in (("test.csv", "file", held), ("sample_submission.csv", "artist", [classes[0]] * len(held))):
        with open(root / name, "w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out, lineterminator="\n")
            rows.writerow(["id", header])
            rows.writerows((Path(f).stem, v) for f, v in zip(held, value))
    np.savez_compressed(root / "truth.npz", files=np.array(files), **plan)


def _paint(job):
    path, style, size, seed, index = job
    Image.fromarray(render(style, size, _rng(seed, index))).save(path, quality=90)


def render(style, size, rng):
    palette, direction, stroke, shape, composition = style
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(grid, grid)
    figure = _figure(x, y, shape, composition, rng)
    tone, dab = _strokes(x, y, direction, stroke, rng)
    hues = _hues(palette, rng)
    swap = dab > 0.9
    mix = np.where(swap, 0.5, figure)[..., None]
    rgb = hues[0] * (1 - mix) + hues[1] * mix + (tone * 0.16)[..., None]
    if len(hues) == 3:
        rgb = np.where((dab < 0.25)[..., None], 0.35 * rgb + 0.65 * hues[2], rgb)
    gain = np.exp(rng.normal(0, 0.06, 3)) * np.exp(rng.normal(0, 0.12))
    return (np.clip(rgb * gain, 0, 1) * 255 + 0.5).astype(np.uint8)


def _hues(palette, rng):
    e1, e2 = np.array([2, -1, -1]) / math.sqrt(6), np.array([0, 1, -1]) / math.sqrt(2)
    if palette < 5:
        angles = np.deg2rad(36 * palette + np.array([0, 180]))
    else:
        angles = np.deg2rad(40 * (palette - 5) + np.array([0, 120, 240]))
    angles = rng.permutation(angles) + np.deg2rad(rng.normal(0, 4))
    chroma = rng.uniform(0.26, 0.36)
    light = 0.5 + rng.permutation(np.linspace(-0.14, 0.14, len(angles))) + rng.normal(0, 0.05)
    return [l + chroma * (math.cos(a) * e1 + math.sin(a) * e2) for a, l in zip(angles, light)]


def _strokes(x, y, direction, stroke, rng):
    width = (1 / 32, 1 / 15, 1 / 8)[stroke] * rng.uniform(0.9, 1.1)
    length = 4.5 * width
    if direction == 3:
        cx, cy = rng.uniform(0.2, 0.8, 2)
        v = np.hypot(x - cx, y - cy)
        u = (np.arctan2(y - cy, x - cx) + np.pi) * np.maximum(np.floor(v / width) * width, width)
    else:
        angle = np.deg2rad((0, 90, 45 * rng.choice([-1, 1]))[direction] + rng.normal(0, 5))
        u = x * math.cos(angle) + y * math.sin(angle)
        v = -x * math.sin(angle) + y * math.cos(angle)
    table = rng.random((64, 64))
    row = np.floor(v / width + rng.random()).astype(int)
    b = v / width - np.floor(v / width)
    shift = table[row % 64, 0]
    col = np.floor(u / length + shift).astype(int)
    dab = table[row % 64, col % 64]
    ridge = 1 - (2 * b - 1) ** 2
    return ((table[col % 64, row % 64] - 0.5) * 2 + 0.6 * (ridge - 0.67)) * rng.choice([-1, 1]), dab


def _figure(x, y, shape, composition, rng):
    if composition == 0:
        spots = [(*rng.uniform(0.35, 0.65, 2), rng.uniform(0.28, 0.34))]
    elif composition == 1:
        spots = [((i + rng.uniform(0.3, 0.7)) / 3, (j + rng.uniform(0.3, 0.7)) / 3, rng.uniform(0.09, 0.12)) for i in range(3) for j in range(3)]
    elif composition == 2:
        level, phase = rng.uniform(0.3, 0.7), rng.random()
        spots = [((i + phase) / 3.5, level, 0.11) for i in range(-1, 5)]
    else:
        spots = [(*rng.uniform(0.35, 0.65, 2), 0.3)]
    near = np.full(x.shape, 9.0)
    for cx, cy, r in spots:
        near = np.minimum(near, _distance(x - cx, y - cy, shape, rng.uniform(0, 2 * np.pi)) / r - 1 if composition != 3 else near * 0 + np.sin(_distance(x - cx, y - cy, shape, 0) / r * 9))
    inside = 1 / (1 + np.exp(np.clip(near * 25, -30, 30)))
    if composition == 2:
        inside = np.where(abs(y - level) < 0.18, inside, 1 - inside * 0)
    return inside


def _distance(x, y, shape, turn):
    c, s = math.cos(turn), math.sin(turn)
    x, y = c * x + s * y, c * y - s * x
    if shape == 0:
        return np.hypot(x, y)
    if shape == 1:
        return 1 + (abs(np.hypot(x, y) - 0.1) - 0.03)
    if shape == 2:
        return np.maximum(abs(x), abs(y)) * 1.15
    if shape == 3:
        return np.minimum(np.maximum(abs(x), 3 * abs(y)), np.maximum(abs(y), 3 * abs(x)))
    return np.maximum(y * 1.0, abs(x) * 0.866 - y * 0.5) * 1.6


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", metavar="DIR", type=Path)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--scale", type=float, default=0.28)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", type=float, default=1.0)
    parser.add_argument("--label-noise", type=float, default=0.0)
    args = parser.parse_args(argv)
    try:
        make(**vars(args))
    except SyntheticError as error:
        print(f"synthetic.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
