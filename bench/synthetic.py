"""What can be known about the built-in set's painters, what a network finds, and what pixels give away.

    python -m bench.synthetic                          the default set, RECIPE below
    python -m bench.synthetic --scale 1 --epochs 20    more pictures, fewer epochs; every setting of train.py is a flag

Makes a set in a temporary folder and asks three rules for the painters of its test pictures: Bayes' rule on the true
style; ResNet-18 trained by train.py on all training pictures, last epoch; logistic regression on pixels at 32 px, its
regularisation chosen on a fifth of the training pictures. `expected` is the mean true posterior of the painter that a
rule names: its accuracy without the luck of the labels; `below Bayes` compares those picture by picture. Nothing is
chosen on test pictures.
"""

import dataclasses
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import train
from config import Config, flag_of, read_recipe, spelled
from engine.checkpoint import load_checkpoint
from engine.flags import SettingsParser
from engine.numerics import pick_device
from errors import run_command
from pictures import synthetic
from posterior.classifier import log_posteriors
from posterior.scores import wilson

RECIPE = dict(
    epochs=40,
    lr=1e-3,
    weight_decay=1e-4,
    warmup=1,
    ema_epochs=2,
    ls=0.1,
    mixup_p=0.5,
    cutmix_p=0,
    crop_scale=(0.6, 1),
    jitter=0,
)  # short: the default settings are for a longer schedule


def main():
    parser = SettingsParser("bench.synthetic", __doc__)
    made = parser.add_argument_group("the set")
    made.add_argument("--classes", type=int, default=50)
    made.add_argument("--scale", type=float, default=0.28)
    made.add_argument("--difficulty", type=float, default=1.0)
    made.add_argument("--set-seed", type=int, default=0, help="--seed of pictures.synthetic")
    parser.add_settings()
    args = parser.parse_args()
    return run_command("bench.synthetic", lambda: measure(args))


def measure(args):
    """Paints the set, trains on it and reports, in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LONGTAIL_CACHE"] = temporary + "/cache"
        root = Path(temporary) / "set"
        synthetic.make(root, classes=args.classes, scale=args.scale, difficulty=args.difficulty, seed=args.set_seed)
        given = {k: v for k, v in vars(args).items() if k in Config.__dataclass_fields__}
        base = read_recipe(args.config) if args.config else Config(**RECIPE)
        here = dict(data=str(root), project=temporary, name="run", val_split=0.0, folds=0)
        report(root, dataclasses.replace(base, **(given | here)))


def report(root, config):
    truth = np.load(root / "truth.npz")
    test, true, posterior = truth["test"], truth["true"][truth["test"]], truth["posterior"][truth["test"]]
    rules = {
        "Bayes, from the style": posterior.argmax(1),
        f"{config.model}, {config.epochs} epochs": network(root, truth, config),
        "logistic regression on pixels": pixels(root, truth),
        "the most frequent painter": np.full(len(true), truth["prior"].argmax()),
    }
    n = len(true)
    settings = " ".join(
        f"{flag_of(k)} {spelled(v)}"
        for k, v in config.settings().items()
        if v != Config.__dataclass_fields__[k].default
    )
    print(
        f"{(~test).sum()} training and {n} test pictures of {len(truth['classes'])} painters; Bayes accuracy over "
        f"all styles {truth['bayes_accuracy']:.4f}\ntrained with {settings}\n"
    )
    print(f"| rule | accuracy, n = {n} | 95% (Wilson) | expected | below Bayes, points | 95% (normal) |")
    print("| --- " * 6 + "|")
    for name, named in rules.items():
        _, low, high = wilson((named == true).sum(), n)
        p = posterior[np.arange(n), named]
        gap = 100 * (posterior.max(1) - p)
        half = 1.96 * gap.std(ddof=1) / math.sqrt(n)
        print(
            f"| {name} | {(named == true).mean():.3f} | {low:.3f} to {high:.3f} | {p.mean():.3f} | "
            f"{gap.mean():.1f} | {gap.mean() - half:.1f} to {gap.mean() + half:.1f} |"
        )


def network(root, truth, config):
    """The class that the trained network names for each test picture."""
    train.train(config)
    files = [root / f for f in truth["files"][truth["test"]]]
    weights = load_checkpoint(Path(config.project) / config.name / "best.pt")  # without validation: the last epoch's
    log_posterior, bad = log_posteriors([weights], files, device=pick_device(config.device))
    assert not bad
    return log_posterior.argmax(1)


def pixels(root, truth):
    """The class that logistic regression on [N, 32 * 32 * 3] pixels names for each test picture."""
    x = np.stack([np.asarray(Image.open(root / f).resize((32, 32), Image.Resampling.BOX)) for f in truth["files"]])
    x = x.reshape(len(x), -1).astype(np.float32) / 127.5 - 1
    y, test = truth["observed"], truth["test"]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~test))
    fit, held = rows[len(rows) // 5 :], rows[: len(rows) // 5]

    def fitted(strength, rows):
        return LogisticRegression(C=strength, max_iter=200).fit(x[rows], y[rows])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularisation does not settle, nor win
        best = max(10.0 ** np.arange(-5, 1), key=lambda strength: fitted(strength, fit).score(x[held], y[held]))
        return fitted(best, rows).predict(x[test])


if __name__ == "__main__":
    sys.exit(main())
