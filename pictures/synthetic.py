"""The built-in set: procedural painters with the study's class counts and a known true posterior.

A painter is a habit in each style factor of painting.py. A picture keeps each habit with probability 1 - wander, and
with probability borrow starts from another painter's: p(style | painter) has a closed form, and so has its inverse.
What a picture shows is its style and, besides, noise that knows nothing of the painter. Equal arguments give equal
bytes (same NumPy, Pillow and kind of CPU). It never reads a picture and never imports torch.
"""

import csv
import itertools
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from errors import LongtailError, Parser, run_command
from pictures.painting import FACTORS, render
from pictures.store import cache_dir

# Training pictures of the study's 50 painters.
COUNTS = (
    560,
    443,
    274,
    210,
    201,
    195,
    176,
    161,
    156,
    153,
    147,
    124,
    121,
    121,
    118,
    111,
    111,
    106,
    105,
    96,
    88,
    83,
    82,
    79,
    72,
    71,
    70,
    69,
    68,
    65,
    64,
    61,
    58,
    57,
    57,
    55,
    53,
    51,
    51,
    48,
    47,
    41,
    39,
    37,
    30,
    30,
    29,
    28,
    20,
    19,
)
FEWEST = 4  # training pictures of a class at any scale
WANDER, BORROW = 0.01, 0.115  # at difficulty 1
STYLES = np.array(list(itertools.product(*map(range, map(len, FACTORS.values())))))  # int64 [5040, 5], every style


def make(root, *, classes=50, scale=0.28, size=96, seed=0, difficulty=1.0, label_noise=0.0, workers=None):
    """Paints a set into the new folder `root`: train/<painter>/*.jpg, test/*.jpg, test.csv (id, file),
    sample_submission.csv (id, artist) and truth.npz. The folder appears whole or not at all.

    classes: painters, at most one per style. scale: times the study's training counts, their curve resampled to
    `classes`; a third as many pictures again are for testing, each painter as frequent there as in training. size:
    pixels a side. difficulty: at 0 no painter works like another; Bayes accuracy falls with it. label_noise: share of
    the training pictures that lie in the folder of another, any with equal chance; test labels are never wrong.
    workers: processes, by default by cores and work; the pictures do not depend on it.

    truth.npz, for numpy.load; N pictures, training first, and C classes in the order of their names:
        classes [C] str, prior [C] of the true painters, in training as in test, habits [C, 5], levels as in FACTORS,
        wander, borrow, label_noise, bayes_accuracy of the best rule that sees the style (over all styles, exact),
        files [N] str, test [N] bool, true [N] int, observed [N] int (the folder's), styles [N, 5] int,
        posterior [N, C]: p(true painter | style), posterior_observed [N, C]: p(observed painter | style).

    Raises LongtailError for a `root` that is not free and for arguments out of bounds.
    """
    root = Path(root).resolve()
    _check_free(root)
    if size != int(size) or not 32 <= size <= 1024:
        raise LongtailError(f"--size {size}: give a whole number of pixels from 32 to 1024")
    truth = draw(classes=classes, scale=scale, seed=seed, difficulty=difficulty, label_noise=label_noise)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as hidden:
        whole = Path(hidden) / root.name
        _paint(whole, truth, size, seed, workers)
        held = truth["files"][truth["test"]]
        _write_csv(whole / "test.csv", held, "file", held)
        _write_csv(whole / "sample_submission.csv", held, "artist", itertools.repeat(truth["classes"][0]))
        np.savez_compressed(whole / "truth.npz", **truth)
        _check_free(root)  # another process may have been faster
        whole.replace(root)


def folder(data=""):
    """The folder to train on: `data`, else $DATA, else the built-in set, made once in the cache folder and said."""
    if data or os.environ.get("DATA"):
        return Path(data or os.environ["DATA"])
    root = cache_dir() / "painters-built-in-5"  # the number changes with the pictures
    if root.exists():
        print(f"no --data and no $DATA: using the built-in pictures in {root}", file=sys.stderr)
        return root
    print(f"no --data and no $DATA: painting the built-in pictures into {root}", file=sys.stderr)
    try:
        make(root)
    except LongtailError:
        if not (root / "truth.npz").exists():  # else a process that started with this one painted the same set faster
            raise
    return root


def counts(classes, scale):
    """int64 [classes], falling: training pictures by class, `scale` times the study's curve at `classes` even steps."""
    steps = np.linspace(0, 1, classes), np.linspace(0, 1, len(COUNTS))
    return np.maximum(FEWEST, np.rint(np.interp(*steps, COUNTS) * scale)).astype(np.int64)


def likelihood(styles, habits, wander, borrow):
    """float64 [N, C]: p(style | painter) of styles [N, 5] for painters with `habits` [C, 5], levels as in FACTORS.

    q(s | h) = prod_f ((1 - wander) [s_f = h_f] + wander / levels_f)
    p(s | c) = (1 - borrow) q(s | h_c) + borrow mean_k q(s | h_k)
    """
    q = np.ones((len(styles), len(habits)))
    for f, levels in enumerate(FACTORS.values()):
        q *= (1 - wander) * (styles[:, None, f] == habits[:, f]) + wander / len(levels)
    return (1 - borrow) * q + borrow * q.mean(1, keepdims=True)


def posterior(styles, habits, prior, wander, borrow):
    """float64 [N, C]: p(painter | style) under the class prior [C]; rows sum to 1."""
    joint = likelihood(styles, habits, wander, borrow) * prior
    return joint / joint.sum(1, keepdims=True)


def bayes_accuracy(habits, prior, wander, borrow):
    """The accuracy of the best rule that sees the style: sum over all styles of max_c prior_c p(style | c)."""
    return float((likelihood(STYLES, habits, wander, borrow) * prior).max(1).sum())


def draw(*, classes, scale, seed, difficulty, label_noise):
    """Everything but the pixels: the arrays of truth.npz (see `make`), as a dict."""
    for flag, value, low, high in (
        ("--classes", classes, 2, len(STYLES)),
        ("--scale", scale, 1e-6, 1e3),
        ("--seed", seed, 0, 2**63),
        ("--difficulty", difficulty, 0, 1e3),
        ("--label-noise", label_noise, 0, 0.99),
    ):
        if not low <= value <= high:
            raise LongtailError(f"{flag} {value}: give a number from {low} to {high}")
    rng = _rng(seed, 0)
    names, habits, n = _names(rng, classes), _habits(rng, classes), rng.permutation(counts(classes, scale))
    prior, trains = n / n.sum(), int(n.sum())
    tests = max(classes, round(trains / 3))
    # One even comb over the prior: a class gets its share of the test pictures, rounded up or down, exact on average.
    comb = np.searchsorted(np.cumsum(prior)[:-1], (rng.random() + np.arange(tests)) / tests, side="right")
    true = np.concatenate([rng.permutation(np.repeat(np.arange(classes), n)), rng.permutation(comb)])
    total = trains + tests
    test = np.arange(total) >= trains

    wander, borrow = (1 - (1 - share) ** difficulty for share in (WANDER, BORROW))
    styles = habits[np.where(rng.random(total) < borrow, rng.integers(classes, size=total), true)]
    anywhere = rng.integers([len(levels) for levels in FACTORS.values()], size=styles.shape)
    styles = np.where(rng.random(styles.shape) < wander, anywhere, styles)
    wrong = (rng.random(total) < label_noise) & ~test
    observed = np.where(wrong, (true + rng.integers(1, classes, size=total)) % classes, true)
    files = [f"test/{i:06d}.jpg" if test[i] else f"train/{names[observed[i]]}/{i:06d}.jpg" for i in range(total)]

    p = posterior(styles, habits, prior, wander, borrow)
    noise = np.where(test, 0, label_noise)[:, None]
    best = bayes_accuracy(habits, prior, wander, borrow)
    painters = dict(classes=np.array(names), prior=prior, habits=habits, bayes_accuracy=best)
    chances = dict(wander=wander, borrow=borrow, label_noise=label_noise)
    labels = dict(files=np.array(files), test=test, true=true, observed=observed)
    shown = dict(
        styles=styles,
        posterior=p,
        posterior_observed=(1 - noise) * p + noise * (1 - p) / (classes - 1),
    )
    return painters | chances | labels | shown


def _habits(rng, classes):
    """int64 [classes, 5]: distinct styles, each the first of a random order that differs most from those before it.

    Palette and composition, which have the most levels and the eye reads first, count twice.
    """
    order, weight = rng.permutation(STYLES), np.array([2, 1, 1, 1, 2])
    apart, picked = np.full(len(order), weight.sum()), []
    for _ in range(classes):
        picked.append(int(np.argmax(apart)))
        apart = np.minimum(apart, (order != order[picked[-1]]) @ weight)
    return order[picked]


def _names(rng, classes):
    """Sorted names of nobody."""
    given = "Aurelk Bessim Corvane Dulvie Elowix Fennor Galiv Hespro Ilvo Jorune Kestrax Lumoq Marzil Neriol Orlux"
    stem = "Brax Cald Drov Esk Fald Grimz Hask Isk Jolv Kram Lorv Mosk Narv Olk Pryn Quend Rusk Skarn Trev Ulv Vask"
    ending = (
        "abeque adono aquiv aveeno elloway emirel endoux erquin iblane idorra ilvane imondo ondrel orvane udello umbrel"
    )
    every = [f"{g} {s}{e}" for g, s, e in itertools.product(given.split(), stem.split(), ending.split())]
    return sorted(every[i] for i in rng.permutation(len(every))[:classes])


def _rng(seed, *key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _check_free(root):
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise LongtailError(f"{root}: exists and is not an empty folder; remove it or name another")


def _paint(root, truth, size, seed, workers):
    """Writes all pictures of `truth` below `root`."""
    from tqdm import tqdm

    for place in ("test", *(f"train/{name}" for name in truth["classes"])):
        (root / place).mkdir(parents=True)
    files, total = [root / f for f in truth["files"]], len(truth["files"])
    jobs = files, truth["styles"].tolist(), itertools.repeat(size), itertools.repeat(seed), range(total)
    workers = workers or min(os.cpu_count() or 1, 1 + total // 300)  # starting a process costs about 100 pictures
    if workers == 1:
        list(tqdm(map(_picture, *jobs), "painting", total, disable=None, leave=False))
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(tqdm(pool.map(_picture, *jobs, chunksize=32), "painting", total, disable=None, leave=False))


def _picture(path, style, size, seed, index):
    Image.fromarray(render(style, size, _rng(seed, 1, index))).save(path, quality=90)


def _write_csv(path, files, column, values):
    with open(path, "w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["id", column])
        rows.writerows(zip((Path(f).stem for f in files), values))


def main(args=None):
    parser = Parser(prog="pictures.synthetic", description=__doc__)
    parser.add_argument("root", metavar="DIR", help="folder to make")
    for flag, default, said in (
        ("--classes", 50, "painters"),
        ("--scale", 0.28, "times the study's counts"),
        ("--size", 96, "pixels a side"),
        ("--seed", 0, "of painters and pictures"),
        ("--difficulty", 1.0, "0: no painter works like another; Bayes accuracy falls with it"),
        ("--label-noise", 0.0, "share of the training pictures in a wrong folder"),
    ):
        parser.add_argument(flag, type=type(default), default=default, help=f"{said} (default {default})")
    space = parser.parse_args(args)

    def paint():
        make(**vars(space))
        print(f"{space.root}: painted. Next: python train.py --data {space.root}", file=sys.stderr)

    return run_command("pictures.synthetic", paint)


if __name__ == "__main__":
    sys.exit(main())
