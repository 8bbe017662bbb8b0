"""The built-in set: procedural painters with the study's class counts and a known true posterior.

Each painter prefers certain styles, with known probabilities (painters.py). A picture shows its style (painting.py) and
noise that knows nothing of the painter. Equal arguments give equal bytes with the same NumPy, Pillow and kind of CPU.
Never reads a picture and never imports torch.
"""

import contextlib
import csv
import itertools
import os
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from errors import LongtailError, Parser, run_command
from pictures.children import serve, shared_out
from pictures.painters import draw, generator
from pictures.painting import render
from pictures.store import cache_dir

PAINTERS, SIDE = 50, 96  # classes and pixels a side of the built-in set
PAINT = "--paint"  # what a process of `_paint` is started with


def make(
    root: str | Path,
    *,
    classes: int = PAINTERS,
    scale: float = 0.28,
    size: int = SIDE,
    seed: int = 0,
    difficulty: float = 1.0,
    label_noise: float = 0.0,
    workers: int | None = None,
) -> None:
    """Paint a set into the new folder `root`, which appears whole or not at all.

    It holds train/<painter>/*.jpg, test/*.jpg, test.csv (id, file), sample_submission.csv (id, artist) and truth.npz.

    classes: painters, at most one per style. scale: times the study's training counts, whose curve is resampled to
    `classes`. A third as many pictures again are for testing; each painter is as frequent there as in training.
    size: pixels a side. difficulty: at 0 no painter works like another, and Bayes accuracy falls as it rises.
    label_noise: share of the training pictures that lie in another painter's folder, each of the others with equal
    chance; test labels are never wrong. workers: processes, by default by cores and work; any number gives the same.

    truth.npz is for numpy.load. It holds, for C painters by name and N pictures, those of training first:
        classes [C] str, prior [C] of the true painters, in training as in test, habits [C, 5], levels as in FACTORS,
        wander, borrow, label_noise, bayes_accuracy of the best rule that sees the style (over all styles, exact),
        files [N] str, test [N] bool, true [N] int, observed [N] int (the folder's), styles [N, 5] int,
        posterior [N, C]: p(true painter | style), posterior_observed [N, C]: p(observed painter | style).

    Raises LongtailError for a `root` that is not free and for arguments out of bounds.
    """
    root = Path(root).resolve()
    _check_free(root)  # before the work, and once more after it
    if size != int(size) or not 32 <= size <= 1024:
        raise LongtailError(f"--size {size}: give a whole number of pixels from 32 to 1024")
    truth = draw(classes=classes, scale=scale, seed=seed, difficulty=difficulty, label_noise=label_noise)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Painted under a hidden name beside it: a killed process leaves no half set under the name itself.
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as hidden:
        whole = Path(hidden) / root.name
        _paint(whole, truth, size, seed, workers)
        held = truth["files"][truth["test"]]
        _write_csv(whole / "test.csv", held, "file", held)
        anybody = itertools.repeat(truth["classes"][0])  # the sample is an answer, and a poor one
        _write_csv(whole / "sample_submission.csv", held, "artist", anybody)
        np.savez_compressed(whole / "truth.npz", **truth)
        _check_free(root)  # another process may have been faster
        whole.replace(root)


def is_there(data: str | Path = "") -> bool:
    """Whether nothing must be painted: `data` or $DATA is given, or the built-in set is there."""
    return bool(data or os.environ.get("DATA")) or _built_in().exists()


def folder(data: str | Path = "") -> Path:
    """The folder to train on: `data`, else $DATA, else the built-in set, which is made once in the cache folder.

    Says on stderr that it is the built-in set.
    """
    data = data or os.environ.get("DATA")
    if data:
        return Path(data)
    root = _built_in()
    if root.exists():
        print(f"no --data and no $DATA: using the built-in pictures in {root}", file=sys.stderr)
        return root
    print(f"no --data and no $DATA: painting the built-in pictures into {root}", file=sys.stderr)
    try:
        make(root)
    except LongtailError:
        # Another process may have painted the same set meanwhile, and then it is there to be used.
        if not (root / "truth.npz").exists():
            raise
    return root


def _built_in():
    # Never made anew while it is there; a killed process leaves none of this name.
    return cache_dir() / "painters-built-in-5"  # the number changes with the pictures


def _check_free(root):
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise LongtailError(f"{root}: exists and is not an empty folder; remove it or name another")


def _paint(root, truth, size, seed, workers):
    """Write all pictures of `truth` below `root`."""
    (root / "test").mkdir(parents=True)
    for name in truth["classes"]:  # also of those whose pictures all lie elsewhere, under label noise
        (root / "train" / name).mkdir(parents=True)
    styles = truth["styles"].tolist()
    requests = [[i, str(root / name), styles[i], size, seed] for i, name in enumerate(truth["files"])]
    total = len(requests)
    workers = workers or min(os.cpu_count() or 1, 1 + total // 300)  # starting a process costs about 100 pictures
    work = ((i, _picture(i, *rest)) for i, *rest in requests)
    if workers > 1:
        work = shared_out("pictures.synthetic", (PAINT,), requests, workers)
    from tqdm import tqdm

    with contextlib.closing(work):  # ends the processes, whatever happens here
        for _ in tqdm(work, "painting", total, disable=None, leave=False):
            pass


def _picture(number, path, style, size, seed):
    # A generator for each picture: any process may paint it, at any time.
    pixels = render(style, size, generator(seed, 1, number))
    Image.fromarray(pixels).save(path, quality=90)


def _write_csv(path, files, column, values):
    """Two columns: id, the stem of each file, and `column` with `values`."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", column])
        for name, value in zip(files, values):
            rows.writerow([Path(name).stem, value])


def main(args: list[str] | None = None) -> int:
    """The command `python -m pictures.synthetic`. Returns its exit code."""
    parser = Parser(prog="pictures.synthetic", description=__doc__)
    parser.add_argument("root", metavar="DIR", help="folder to make")
    for flag, default, said in (
        ("--classes", PAINTERS, "painters"),
        ("--scale", 0.28, "times the study's counts"),
        ("--size", SIDE, "pixels a side"),
        ("--seed", 0, "of painters and pictures"),
        ("--difficulty", 1.0, "0: no painter works like another; Bayes accuracy falls with it"),
        ("--label-noise", 0.0, "share of the training pictures in a wrong folder"),
    ):
        parser.add_argument(flag, type=type(default), default=default, help=f"{said} (default {default})")
    space = parser.parse_args(args)

    def paint() -> None:
        make(**vars(space))
        print(f"{space.root}: painted. Next: python train.py --data {shlex.quote(space.root)}", file=sys.stderr)

    return run_command("pictures.synthetic", paint)


if __name__ == "__main__":
    sys.exit(serve(_picture) if sys.argv[1:] == [PAINT] else main())
