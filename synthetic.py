"""The built-in set: procedural painters with the study's class counts and a known true posterior.

A painter is a habit in each of five style factors (FACTORS). A picture keeps every habit with probability 1 - wander, and with
probability borrow starts from another painter's habits: p(style | painter) has a closed form, and so p(painter | style). A
picture shows its style and, besides, noise that knows nothing of the painter. Levels keep their meaning under horizontal flips,
crops of more than half the area, rotations of 15 degrees, and changes of brightness, contrast and saturation; the hues of a palette
sum to grey and trade places at random, and all positions are random, so that a pixel by itself says next to nothing.
Equal arguments give equal bytes (same NumPy, Pillow and kind of CPU). It never reads a picture and never imports torch.
"""

import argparse
import csv
import itertools
import math
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

import store as stores

# Training pictures of the study's 50 painters.
COUNTS = (560, 443, 274, 210, 201, 195, 176, 161, 156, 153, 147, 124, 121, 121, 118, 111, 111, 106, 105, 96, 88, 83, 82, 79, 72,
          71, 70, 69, 68, 65, 64, 61, 58, 57, 57, 55, 53, 51, 51, 48, 47, 41, 39, 37, 30, 30, 29, 28, 20, 19)
FEWEST = 4  # training pictures of a class at any scale
WANDER, BORROW = 0.012, 0.12  # at difficulty 1

PALETTES = {  # hues in degrees that sum to grey
    "red, cyan": (0, 180), "orange, azure": (30, 210), "yellow, blue": (60, 240), "lime, violet": (90, 270),
    "green, magenta": (120, 300), "jade, rose": (150, 330), "red, green, blue": (0, 120, 240), "yellow, cyan, magenta": (60, 180, 300),
}
DIRECTIONS = {"level": 0, "upright": 90, "slanted": 45, "swirling": None}  # degrees; slanted to either side
STROKES = {"fine": (1 / 32, 5), "medium": (1 / 13, 4), "broad": (1 / 5.5, 3)}  # width over the picture's side, length over width
SHAPES = ("disc", "square", "cross", "triangle", "leaf")
COMPOSITIONS = ("solo", "scatter", "frieze", "column", "mosaic", "echo")
FACTORS = dict(palette=tuple(PALETTES), direction=tuple(DIRECTIONS), stroke=tuple(STROKES), shape=SHAPES, composition=COMPOSITIONS)
STYLES = np.array(list(itertools.product(*(range(len(levels)) for levels in FACTORS.values()))))  # int64 [2880, 5], every style


class SyntheticError(ValueError):
    """Arguments that no set can be made from, or a folder that is taken."""


def make(root, *, classes=50, scale=0.28, size=96, seed=0, difficulty=1.0, label_noise=0.0, workers=None):
    """Paints a set into the new folder `root`: train/<painter>/*.jpg, test/*.jpg, test.csv (id, file), sample_submission.csv (id, artist)
    and truth.npz. The folder appears whole or not at all; pictures do not depend on `workers` (processes; default: by cores and work).

    classes: painters, at most one per style. scale: multiplies the study's training counts (curve resampled to `classes`); a third
    as many pictures again are for testing, painters as frequent there as in training. size: pixels a side. difficulty: 0 makes all
    painters distinct, 1 is the default, Bayes accuracy falls with it. label_noise: share of the training pictures that lie in another
    painter's folder, any other with equal chance; test labels are never wrong.

    truth.npz, N pictures (training first), C classes in the order of their names, read with numpy.load:
        classes [C] str, prior [C] (that of the true painters, the same in train and test), habits [C, 5] (levels by FACTORS),
        wander, borrow, label_noise, bayes_accuracy (of the best rule that sees the style; over the population, exact);
        files [N] str, test [N] bool, true [N] int, observed [N] int (the folder), styles [N, 5] int,
        posterior [N, C] p(true painter | style), posterior_observed [N, C] p(folder | style), the same but for label noise.

    Raises SyntheticError for a `root` that is not free and for arguments out of bounds.
    """
    root = Path(root).resolve()
    _check_free(root)
    if size != int(size) or not 32 <= size <= 1024:
        raise SyntheticError(f"--size {size}: give a whole number of pixels from 32 to 1024")
    truth = draw(classes=classes, scale=scale, seed=seed, difficulty=difficulty, label_noise=label_noise)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as hidden:
        whole = Path(hidden) / root.name
        _paint(whole, truth, size, seed, workers)
        _write_csv(whole / "test.csv", truth, "file", truth["files"])
        _write_csv(whole / "sample_submission.csv", truth, "artist", np.repeat(truth["classes"][:1], len(truth["files"])))
        np.savez_compressed(whole / "truth.npz", **truth)
        _check_free(root)  # another process may have been faster
        whole.replace(root)


def folder(data=""):
    """The folder to train on: `data`, else $DATA, else the built-in set, made once in the cache folder and said."""
    if data or os.environ.get("DATA"):
        return Path(data or os.environ["DATA"])
    root = stores.cache_dir() / "painters-built-in-3"
    if not root.exists():
        print(f"no --data and no $DATA: painting the built-in pictures into {root}", file=sys.stderr)
        try:
            make(root)
        except SyntheticError:
            if not (root / "truth.npz").exists():  # else a process that started at the same moment was faster: the set is the same
                raise
    else:
        print(f"no --data and no $DATA: using the built-in pictures in {root}", file=sys.stderr)
    return root


def counts(classes, scale):
    """int64 [classes], falling: training pictures of each class, the study's curve read at `classes` even steps, times `scale`."""
    steps = np.linspace(0, 1, classes), np.linspace(0, 1, len(COUNTS))
    return np.maximum(FEWEST, np.rint(np.interp(*steps, COUNTS) * scale)).astype(np.int64)


def likelihood(styles, habits, wander, borrow):
    """float64 [N, C]: p(style | painter) of styles [N, 5] for painters with `habits` [C, 5], levels as in FACTORS.

    q(s | h) = prod_f (1 - wander) [s_f = h_f] + wander / levels_f;  p(s | c) = (1 - borrow) q(s | h_c) + borrow mean_k q(s | h_k)
    """
    out = np.ones((len(styles), len(habits)))
    for f, levels in enumerate(FACTORS.values()):
        out *= (1 - wander) * (styles[:, None, f] == habits[:, f]) + wander / len(levels)
    return (1 - borrow) * out + borrow * out.mean(1, keepdims=True)


def posterior(styles, habits, prior, wander, borrow):
    """float64 [N, C]: p(painter | style) under the class prior [C]; rows sum to 1."""
    joint = likelihood(styles, habits, wander, borrow) * prior
    return joint / joint.sum(1, keepdims=True)


def bayes_accuracy(habits, prior, wander, borrow):
    """The accuracy of the best rule that sees the style: sum over all styles of max_c prior_c p(style | c)."""
    return float((likelihood(STYLES, habits, wander, borrow) * prior).max(1).sum())


def draw(*, classes, scale, seed, difficulty, label_noise):
    """Everything but the pixels: the arrays of truth.npz (see `make`), as a dict."""
    for name, value, low, high in (("classes", classes, 2, len(STYLES)), ("scale", scale, 1e-6, 1e3), ("seed", seed, 0, 2**63),
                                   ("difficulty", difficulty, 0, 1e3), ("label-noise", label_noise, 0, 0.99)):
        if not low <= value <= high:
            raise SyntheticError(f"--{name} {value}: give a number from {low} to {high}")
    rng = _rng(seed, 0)
    names, habits, n = _names(rng, classes), _habits(rng, classes), rng.permutation(counts(classes, scale))
    prior, trains = n / n.sum(), int(n.sum())
    tests = max(classes, round(trains / 3))
    # One even comb over the prior: each class gets its share of the test pictures rounded up or down, and exactly its share on average.
    comb = np.searchsorted(np.cumsum(prior)[:-1], (rng.random() + np.arange(tests)) / tests, side="right")
    true = np.concatenate([np.repeat(np.arange(classes), n), rng.permutation(comb)])
    total, test = len(true), np.arange(len(true)) >= trains

    wander, borrow = (1 - (1 - share) ** difficulty for share in (WANDER, BORROW))
    styles = habits[np.where(rng.random(total) < borrow, rng.integers(classes, size=total), true)]
    anywhere = rng.integers([len(levels) for levels in FACTORS.values()], size=styles.shape)
    styles = np.where(rng.random(styles.shape) < wander, anywhere, styles)
    wrong = (rng.random(total) < label_noise) & ~test
    observed = np.where(wrong, (true + rng.integers(1, classes, size=total)) % classes, true)

    p = posterior(styles, habits, prior, wander, borrow)
    noise = np.where(test, 0, label_noise)[:, None]
    files = [f"test/{i:06d}.jpg" if test[i] else f"train/{names[observed[i]]}/{i:06d}.jpg" for i in range(total)]
    return dict(classes=np.array(names), prior=prior, habits=habits, wander=wander, borrow=borrow, label_noise=label_noise,
                bayes_accuracy=bayes_accuracy(habits, prior, wander, borrow), files=np.array(files), test=test, true=true,
                observed=observed, styles=styles, posterior=p, posterior_observed=p * (1 - noise) + (1 - p) * noise / (classes - 1))


def render(style, size, rng):
    """uint8 [size, size, 3]: a picture of `style`, five levels as in FACTORS. `rng` decides all else and must not know the painter."""
    palette, direction, stroke, shape, composition = (levels[i] for levels, i in zip(FACTORS.values(), style))
    grid = (np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size)  # twice as fine, then averaged: smooth edges
    x, y = np.meshgrid(grid, grid)
    ground, figure, *third = _hues(palette, rng)
    inside = _figure(x, y, shape, composition, rng)[..., None]
    dab, tone = (a[..., None] for a in _strokes(x, y, direction, stroke, rng))
    if third:
        ground = np.where(dab < 0.4, 0.15 * ground + 0.85 * third[0], ground)
    else:
        ground = np.where(dab < 0.2, 0.75 * ground + 0.25 * figure, ground)
    rgb = (1 - inside) * ground + inside * figure + 0.2 * tone
    rgb = rgb.reshape(size, 2, size, 2, 3).mean((1, 3))
    rgb *= np.exp(rng.normal(0, 0.04, 3) + rng.normal(0, 0.12))  # the light of the room
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _hues(palette, rng):
    """The palette's colours, float64 [3] each, in random roles."""
    angles = np.deg2rad(rng.permutation(PALETTES[palette]) + rng.normal(0, 3))[:, None]
    red, green = np.array([2, -1, -1]) / math.sqrt(6), np.array([0, 1, -1]) / math.sqrt(2)
    light = 0.5 + rng.permutation(np.linspace(-0.17, 0.17, len(angles)))[:, None] + rng.normal(0, 0.05)
    return (light + rng.uniform(0.3, 0.38) * (np.cos(angles) * red + np.sin(angles) * green)).astype(np.float32)


def _strokes(x, y, direction, stroke, rng):
    """A wall of brush strokes: for each pixel its stroke's random number in [0, 1), and its brightness about 0."""
    width, ratio = STROKES[stroke]
    width *= rng.uniform(0.9, 1.1)
    if direction == "swirling":
        cx, cy = rng.uniform(0.2, 0.8, 2).tolist()
        across = np.hypot(x - cx, y - cy)
        along = (np.arctan2(y - cy, x - cx) + np.pi) * np.maximum(np.floor(across / width), 1) * width
    else:
        angle = math.radians(DIRECTIONS[direction] * rng.choice([-1, 1]) + rng.normal(0, 5))
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    table = rng.random((2, 128, 128), dtype=np.float32)
    across = across / width + 64
    row = np.floor(across).astype(np.int32) % 128
    column = np.floor(along / (width * ratio) + 64 + table[0, row, 0]).astype(np.int32) % 128
    ridge = 1 / 3 - (2 * (across % 1) - 1) ** 2
    return table[0, row, column], 2 * table[1, row, column] - 1 + 0.6 * ridge


def _figure(x, y, shape, composition, rng):
    """How far each pixel belongs to the figure (1) and not to the ground (0): copies of one shape, arranged."""
    turn, near = rng.normal(0, 0.1), np.arange(-1, 5)
    if composition in ("scatter", "mosaic"):
        pitch, phase = rng.uniform(0.36, 0.4), rng.random(2)
        cells = np.stack(np.meshgrid(near, near), -1).reshape(-1, 2) + phase - 0.5
        spots = pitch * (cells + (rng.uniform(-0.17, 0.17, cells.shape) if composition == "scatter" else 0))
        radius = rng.uniform(0.35, 0.39) * pitch
    elif composition in ("frieze", "column"):
        if composition == "column":
            x, y = y, x  # the shape is turned back below
        middle, radius = rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.165)
        spots = np.stack([0.4 * (near - rng.random()), np.full(len(near), middle)], 1)
    else:
        spots, radius = rng.uniform(0.4, 0.6, (1, 2)), rng.uniform(0.3, 0.36)
    offsets = ((x - cx, y - cy) for cx, cy in spots.tolist())
    offsets = ((v, u) if composition == "column" else (u, v) for u, v in offsets)
    reach = np.min([_reach(u, v, shape, turn) for u, v in offsets], axis=0) / radius
    soft = len(x) * radius / 2  # an edge is two fine pixels wide
    if composition == "echo":
        return _edge((np.abs((2.2 * reach + rng.random()) % 1 - 0.5) - 0.25) * soft / 2.2)
    inside = _edge((1 - reach) * soft)
    if composition in ("frieze", "column"):
        return np.maximum(inside, _edge((np.abs(y - middle) / radius - 1.5) * soft))
    if composition == "mosaic":
        odd = np.floor(x / pitch - phase[0]) + np.floor(y / pitch - phase[1])
        return np.where(odd % 2 == 1, 1 - inside, inside)
    return inside


def _edge(distance):
    return np.clip(distance + 0.5, 0, 1)


def _reach(x, y, shape, turn):
    """By how much the unit shape about the origin must grow to touch each point: all shapes cover about the unit disc's area."""
    c, s = math.cos(turn), math.sin(turn)
    x, y = np.abs(c * x + s * y), c * y - s * x
    if shape == "disc":
        return np.hypot(x, y)
    if shape == "square":
        return np.maximum(x, np.abs(y)) / 0.886
    if shape == "cross":
        return np.minimum(np.maximum(x, 3 * np.abs(y)), np.maximum(np.abs(y), 3 * x)) / 1.19
    if shape == "triangle":
        return np.maximum(y, math.sqrt(0.75) * x - y / 2) / 0.777
    tip, middle = 1.6, 1.755  # a leaf: where two circles overlap
    return (middle * x + np.sqrt((middle**2 + tip**2) * x**2 + tip**2 * y**2)) / tip**2


def _habits(rng, classes):
    """int64 [classes, 5]: distinct styles, each the first of a random order that differs most from those before it."""
    order = rng.permutation(STYLES)
    apart, picked = np.full(len(order), order.shape[1]), []
    for _ in range(classes):
        picked.append(int(np.argmax(apart)))
        apart = np.minimum(apart, (order != order[picked[-1]]).sum(1))
    return order[picked]


def _names(rng, classes):
    """Sorted names of nobody."""
    given = "Aurelk Bessim Corvane Dulvie Elowix Fennor Galiv Hespro Ilvo Jorune Kestrax Lumoq Marzil Neriol Orlux Pellwyn".split()
    stem = "Brax Cald Drov Esk Fald Grimz Hask Isk Jolv Kram Lorv Mosk Narv Olk Pryn Quend Rusk Skarn Trev Ulv Vask Wrenk Yld Zorv".split()
    ending = "abeque adono aquiv aveeno elloway emirel endoux erquiv iblane idorra ilvane imondo ondrel orvane udello umbrel urvaine".split()
    every = [f"{g} {s}{e}" for g, s, e in itertools.product(given, stem, ending)]
    return sorted(every[i] for i in rng.permutation(len(every))[:classes])


def _check_free(root):
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise SyntheticError(f"{root}: exists and is not an empty folder; remove it or name another")


def _rng(seed, *key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _paint(root, truth, size, seed, workers):
    """Writes all pictures of `truth` below `root`."""
    from tqdm import tqdm

    for parent in {Path(f).parent for f in truth["files"]} | {Path("train") / c for c in truth["classes"]}:
        (root / parent).mkdir(parents=True)
    total = len(truth["files"])
    jobs = [root / f for f in truth["files"]], truth["styles"].tolist(), itertools.repeat(size), itertools.repeat(seed), range(total)
    workers = workers or min(os.cpu_count() or 1, 1 + total // 300)  # a process costs about as much as 100 pictures
    if workers == 1:
        list(tqdm(map(_picture, *jobs), "painting", total, disable=None, leave=False))
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(tqdm(pool.map(_picture, *jobs, chunksize=32), "painting", total, disable=None, leave=False))


def _picture(path, style, size, seed, index):
    Image.fromarray(render(style, size, _rng(seed, 1, index))).save(path, quality=90)


def _write_csv(path, truth, column, values):
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", column])
        rows.writerows([Path(f).stem, v] for f, v, test in zip(truth["files"], values, truth["test"]) if test)


def main(args=None):
    parser = argparse.ArgumentParser(prog="synthetic.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="DIR", help="folder to make")
    for flag, default, help in (("--classes", 50, "painters"), ("--scale", 0.28, "times the study's counts"),
                                ("--size", 96, "pixels a side"), ("--seed", 0, "of painters and pictures"),
                                ("--difficulty", 1.0, "0: painters never alike; Bayes accuracy falls with it"),
                                ("--label-noise", 0.0, "share of the training pictures in a wrong folder")):
        parser.add_argument(flag, type=type(default), default=default, help=f"{help} (default {default})")
    args = parser.parse_args(args)
    try:
        make(**vars(args))
    except (SyntheticError, OSError) as e:
        print(f"synthetic.py: {e}", file=sys.stderr)
        return 1
    print(f"{args.root}: painted. Next: python train.py --data {args.root}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
