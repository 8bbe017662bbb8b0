"""What each method adds to the default settings: one at a time, on the same folds, judged out of fold.

    make effects DATA=painters                      every method below, a study that goes on where it stopped
    python -m bench.effects --data painters --img-size 64 --folds 3 --epochs 40 --methods base sampler --split-seeds 0

A method is named by what it changes of the base, which is what train.py's flags say. Every fold's pictures are judged
by the network that had not seen them, after its last epoch, and the folds' predictions are pooled. tau, which moves the
answer towards rare classes (arg-max of log p - tau log prior), is chosen for a fold on the pictures of the others; so
is the scaling of the probabilities. Differences from the base are paired picture by picture: the delete-one jackknife's
standard error, and intervals that hold for all methods of a table together (Bonferroni). Training luck is in them only
as far as --split-seeds repeat the folds. Prints a table; the study is --project/--name.
"""

import dataclasses
import math
import sys
import tempfile
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

import metrics
from bench.studies import base_of, known, numbers, parser_of, trained
from config import Config
from engine.numerics import pick_device
from errors import ConfigError, run_command
from pictures import synthetic
from pictures.rgb import upright_rgb
from posterior import classifier, evidence, priors, reliability, scaling
from study.held_out import macro_f1_difference
from study.table import Study

METHODS = {
    "base": {},
    "half the width, 120 epochs": dict(width=0.5, epochs=120),
    "half the width, 96 px, 53 epochs": dict(width=0.5, img_size=96, epochs=53),
    "no smoothing": dict(ls=0.0),
    "smoothing 0.02": dict(ls=0.02),
    "smoothing 0.05": dict(ls=0.05),
    "smoothing 0.2": dict(ls=0.2),
    "smoothing 0.3": dict(ls=0.3),
    "no mixup": dict(mixup_p=0.0),
    "no CutMix": dict(cutmix_p=0.0),
    "no average": dict(ema_epochs=0.0),
    "sampler": dict(balance="sampler"),
    "weights": dict(balance="weights"),
    "logit adjustment": dict(loss_tau=1.0),
    "deferred weights": dict(drw=0.8),
    "LDAM-DRW": dict(margin=0.5, drw=0.8, head="cosine"),
    "focal": dict(gamma=2.0),
    "decay 0.3": dict(weight_decay=0.3),
    "smoothing by frequency": dict(ls=(0.2, 0.0), ls_by="frequency"),
    "smoothing by progress": dict(ls=(0.2, 0.0), ls_by="progress"),
    "Balanced-MixUp": dict(mixup_pair="balanced", mixup_alpha=0.2),
    "Remix": dict(mixup_pair="remix"),
    "targeted mixup": dict(mixup_pair="targeted", mixup_alpha=0.8),
    "RegMixup": dict(mixup_p=0.5, mixup_alpha=10.0, cutmix_p=0.0),
    "CMO": dict(cutmix_pair="tail"),
    "one operation": dict(one_op=True),
}
BLUR = 0.01  # of the shorter side: the standard deviation of the corruption


class Judged(NamedTuple):
    """The pooled out-of-fold pictures of a method, under one split, in the order of their paths: the same in each."""

    targets: np.ndarray  # int [N]
    predicted: np.ndarray  # int [N], the class of the highest posterior
    moved: np.ndarray  # int [N], at the tau that the other folds chose
    tau: float  # that of all pictures
    nll: np.ndarray  # [N], in nats, as they are
    confidence: float  # the mean probability of the answer, as they are
    scaled: np.ndarray  # [N, C], the log posterior, by the scaling that the other folds chose
    seconds: float  # of training, the mean over the folds


def judged(study: Study, trials: list[int]) -> Judged:
    """What the runs of `trials`, one a fold, say of the pictures that they had not seen."""
    latest = study.latest()
    found = evidence.pooled([[study.run(i)] for i in trials])
    rows, order = np.arange(len(found.targets)), np.argsort(found.paths, kind="stable")
    tau, moved = priors.choose_tau(found.log_posterior, found.prior, found.targets, found.parts)
    kinds, _ = scaling.compare(found.log_posterior, found.targets, found.counts, found.parts)
    return Judged(
        targets=found.targets[order],
        predicted=found.log_posterior.argmax(1)[order],
        moved=moved[order],
        tau=tau,
        nll=-found.log_posterior[rows, found.targets][order],
        confidence=float(np.exp(found.log_posterior.max(1)).mean()),
        scaled=scaling.simplest(kinds).held_out[order],
        seconds=float(np.mean([latest[i]["seconds"] for i in trials])),
    )


def difference(own: list[Judged], base: list[Judged], classes: int) -> tuple[float, float]:
    """(macro F1 at tau less that of the base, its standard error), over the splits: delete-one jackknife, paired."""
    by_split = [macro_f1_difference(a.targets, a.moved, b.moved, classes) for a, b in zip(own, base)]
    values, errors = np.transpose(by_split)
    # The same pictures under every split: their luck does not average out, so the mean variance is kept whole.
    return float(values.mean()), math.sqrt((errors**2).mean())


def blurred(study: Study, trials: list[int], root: Path, device: str) -> float:
    """Macro F1 of pooled out-of-fold pictures that are blurred before the network sees them."""
    targets, predicted = [], []
    for i in trials:
        found = evidence.of_run(study.run(i))
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for row, path in enumerate(found.paths):
                with Image.open(root / path) as picture:
                    picture = upright_rgb(picture, max(picture.size))
                copy = Path(folder) / f"{row}.png"
                picture.filter(ImageFilter.GaussianBlur(BLUR * min(picture.size))).save(copy, compress_level=1)
                files.append(copy)
            networks = classifier.members([study.run(i)])
            log_posterior, _ = classifier.log_posteriors(networks, files, device=pick_device(device))
        targets.append(found.targets)
        predicted.append(log_posterior.argmax(1))
    return metrics.macro_f1(np.concatenate(targets), np.concatenate(predicted), len(found.classes))


def table(study: Study, groups: dict[str, list[list[int]]], device: str, blur: bool) -> None:
    """Prints a line a method. groups: of each method, by split, its trials, one a fold."""
    root = synthetic.folder(study.base.data)
    found = {name: [judged(study, trials) for trials in splits] for name, splits in groups.items()}
    base = found["base"]
    counts = evidence.of_run(study.run(groups["base"][0][0])).counts
    classes = len(counts)
    z = NormalDist().inv_cdf(1 - 0.025 / max(len(found) - 1, 1))
    n = len(base[0].targets)
    print(f"\n{n} pictures, {classes} classes, {len(base)} splits, {len(found) - 1} methods; z = {z:.2f}\n")
    header = [
        "method",
        "macro F1 at tau",
        "against the base",
        "tau",
        "as it is",
        "accuracy",
        "how sure, scaled",
        "NLL, scaled",
        "ECE scaled (if right)",
        "many / medium / few",
        "helped / harmed",
        *(["blurred"] if blur else []),
        "time",
    ]
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for name, splits in found.items():
        change, error = difference(splits, base, classes)

        def mean(score, splits=splits):
            return float(np.mean([score(each) for each in splits]))

        group = [metrics.groups(each.targets, each.moved, counts) for each in splits]
        helped, harmed = moved_classes(splits, base, classes)
        probs = [metrics.softmax(each.scaled) for each in splits]
        right = [reliability.chance(each)["ece"] for each in probs]
        low, high = (np.mean([getattr(each, end) for each in right]) for end in ("low", "high"))
        error_of = [metrics.ece(each, s.targets) for each, s in zip(probs, splits)]
        cells = [
            name,
            f"{mean(lambda s: metrics.macro_f1(s.targets, s.moved, classes)):.3f}",
            "" if name == "base" else f"{change:+.3f} ± {z * error:.3f}",
            f"{mean(lambda s: s.tau):.2f}",
            f"{mean(lambda s: metrics.macro_f1(s.targets, s.predicted, classes)):.3f}",
            f"{mean(lambda s: metrics.accuracy(s.targets, s.predicted)):.3f}",
            f"{mean(lambda s: s.confidence):.3f}, {mean(lambda s: metrics.softmax(s.scaled).max(1).mean()):.3f}",
            f"{mean(lambda s: s.nll.mean()):.3f}, {mean(lambda s: metrics.nll(s.scaled, s.targets)):.3f}",
            f"{np.mean(error_of):.3f} ({low:.3f} to {high:.3f})",
            " / ".join(f"{np.mean([each[kind] for each in group]):.3f}" for kind in metrics.GROUPS),
            "" if name == "base" else f"{helped} / {harmed}",
        ]
        if blur:
            cells.append(f"{np.mean([blurred(study, trials, root, device) for trials in groups[name]]):.3f}")
        cells.append(f"{mean(lambda s: s.seconds) / np.mean([s.seconds for s in base]):.2f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def moved_classes(own: list[Judged], base: list[Judged], classes: int) -> tuple[int, int]:
    """How many classes gain, and lose, recall by more than two standard errors of the paired difference."""
    helped = harmed = 0
    for c in range(classes):
        changes = [
            (a.moved == c).astype(float)[a.targets == c] - (b.moved == c).astype(float)[b.targets == c]
            for a, b in zip(own, base)
        ]
        change = np.mean([each.mean() if len(each) else 0.0 for each in changes])
        size = len(changes[0])
        if size < 2:
            continue
        error = math.sqrt(np.mean([each.var(ddof=1) for each in changes]) / size)
        helped += change > 2 * error
        harmed += -change > 2 * error
    return helped, harmed


def main() -> int:
    parser, what = parser_of("bench.effects", __doc__, "[--methods NAME ...] ")
    what.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help=f"of {', '.join(METHODS)}")
    what.add_argument("--split-seeds", nargs="+", type=int, default=[0], metavar="SEED", help="ways to part the folds")
    what.add_argument("--blur", action="store_true", help="also macro F1 of blurred pictures")
    space = parser.parse_args()

    def run():
        known("--methods", space.methods, METHODS)
        # The best epoch of the pictures that judge it would flatter.
        base = dataclasses.replace(base_of(space, folds=True), fold=0, split_seed=0, monitor="last")
        names = list(dict.fromkeys(["base", *space.methods]))
        wanted = trials(base, names, space.split_seeds)
        all_trials = [trial for splits in wanted.values() for split in splits for trial in split]
        study = trained(space, base, "effects", all_trials)
        table(study, finished(study, wanted), base.device, space.blur)

    return run_command("bench.effects", run, continue_with="the same command")


def trials(base: Config, names: list[str], split_seeds: list[int]) -> dict[str, list[list[dict]]]:
    """Of each method, by split, the trials of its folds, as dicts of what differs from the base."""
    wanted = {}
    for name in names:
        wanted[name] = [
            [METHODS[name] | dict(split_seed=seed, fold=fold) for fold in range(base.folds)] for seed in split_seeds
        ]
    return wanted


def finished(study: Study, wanted: dict[str, list[list[dict]]]) -> dict[str, list[list[int]]]:
    """The numbers of the trials of each method all of whose trials ended well."""
    latest = study.latest()
    found = {}
    for name, splits in wanted.items():
        by_split = [numbers(study, trials) for trials in splits]
        if all(latest.get(i, {}).get("status") == "ok" for split in by_split for i in split):
            found[name] = by_split
        else:
            print(f"{name}: not all of its trials are done", file=sys.stderr)
    if "base" not in found:
        raise ConfigError("the base is not trained yet: give the same command without --report")
    return found


if __name__ == "__main__":
    sys.exit(main())
