"""CIFAR-100-LT, imbalance 100, with ResNet-32: our methods beside published figures, on the balanced test set.

    make benchmark DATA=cifar100-lt                   every row, three seeds: a study that goes on where it stopped
    python -m bench.benchmark -c recipes/cifar100-lt.json --data cifar100-lt --rows CE "balanced softmax" --seeds 1

200 epochs, the last one's weights, crop and flip. Training and test pictures are in DIR/train and DIR/test, by class.
The published figures are top-1 accuracies of the same protocol; those of CE assume the training prior, the others equal
classes. Nothing is chosen on the test set: settings come from the papers, or from folds of the training pictures.
A row of two stages trains its last layer again on the networks of its first stage, by a recipe; processes that share
the study each take a --shard. Intervals: Student t over seeds, 95%; with one seed Wilson's, over pictures. Prints a
table; the study is --project/--name.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from bench.studies import base_of, known, numbers, parser_of, trained
from config import Config, read_object
from engine.flags import whole_number
from engine.numerics import pick_device
from engine.stop import StopRequest
from errors import LongtailError, run_command
from pictures.listing import Listing, listing
from posterior import classifier, scores
from study import stats, twostage
from study.table import Study

RECIPES = Path(__file__).parents[1] / "recipes"


class Row(NamedTuple):
    """A method, and what others had with it."""

    changes: dict  # of the recipe
    published: str  # top-1 accuracy, and calibration error where it is known
    least: float  # what ours must reach
    ece: float = 1.0  # what its calibration error must not exceed where all classes are alike
    uniform: bool = True  # whether the accuracies are of that too
    second: Path | None = None  # the recipe of stage two


def recipe(name: str) -> dict:
    """What recipes/`name` changes of the benchmark's own recipe."""
    common = read_object(RECIPES / "cifar100-lt.json")
    own = read_object(RECIPES / name)
    return {key: value for key, value in own.items() if key != "note" and common.get(key) != value}


MIXUP = dict(mixup_p=1.0)
ROWS = {
    "CE": Row({}, "0.383 (ECE 0.32)", 0.376, uniform=False),
    "logit adjustment": Row(dict(loss_tau=1.0), "0.420", 0.413),
    "balanced softmax": Row(dict(loss_tau=1.0, weight_decay=5e-4), "0.430", 0.423),
    "LDAM-DRW": Row(dict(margin=0.5, drw=0.8, head="cosine"), "0.420", 0.413),
    "mixup-DRW": Row(MIXUP | dict(drw=0.8), "0.469 (300 epochs)", 0.45),
    "mixup": Row(MIXUP, "0.395 (ECE 0.088)", 0.388, uniform=False),
    "mixup, last layer again": Row(MIXUP, "0.470 (ECE 0.048)", 0.463, ece=0.048, second=RECIPES / "mislas.json"),
    "ours, crop and flip": Row(recipe("cifar100-lt-ours.json"), "0.478", 0.47, ece=0.03),
    "ours, strong views": Row(recipe("cifar100-lt-strong.json"), "0.494; 0.528 (contrastive)", 0.494, ece=0.03),
}


class Result(NamedTuple):
    """A trained network on the test set, under a class prior."""

    accuracy: scores.Score
    ece: float


def judged(folder: Path, test: Listing, project: Path, device: str) -> dict[str, Result]:
    """The run in `folder` on the test pictures, by prior: that of training, and uniform, where all classes are alike.

    A calibration of the same settings in `project` is used, as predict.py uses it.
    """
    networks = classifier.members([folder])
    log_posterior, bad = classifier.log_posteriors(networks, test.files, device=pick_device(device))
    if bad:
        raise LongtailError(f"{test.files[min(bad)]} cannot be read: {bad[min(bad)]}")
    number_of = {name: k for k, name in enumerate(networks[0]["classes"])}
    targets = np.array([number_of[test.classes[label]] for label in test.labels])
    found = {}
    for prior in ("train", "uniform"):
        answers, _ = classifier.Adjustment([folder], networks, project, True, prior)(log_posterior)
        hits = (answers.argmax(1) == targets).sum()
        ece = metrics.ece(metrics.softmax(answers), targets)
        found[prior] = Result(scores.wilson(hits, len(targets)), ece)
    return found


def accuracy(found: list[scores.Score]) -> str:
    """The mean over seeds and its interval; of one seed its own."""
    if len(found) == 1:
        return f"{found[0].value:.3f} ({found[0].low:.3f} to {found[0].high:.3f})"
    mean, half = stats.interval([each.value for each in found])
    return f"{mean:.3f} ± {half:.3f}"


def table(study: Study, rows: dict[str, list[Path]], device: str) -> None:
    """Prints a line a row. rows: of each the runs that ended well."""
    listed = listing(Path(study.spec["base"]["data"]) / "test")
    print(f"\n{len(listed.paths)} test pictures\n")
    header = "| method | published | ours, training prior | ECE | ours, equal classes | ECE | n | wanted |\n|"
    print(header + " --- |" * 8)
    for name, runs in rows.items():
        row = ROWS[name]
        found = [judged(run, listed, study.folder.parent, device) for run in runs]
        cells = [name, row.published]
        for prior in ("train", "uniform"):
            own = [each[prior] for each in found]
            cells += [accuracy([each.accuracy for each in own]), f"{np.mean([each.ece for each in own]):.3f}"]
        prior = "uniform" if row.uniform else "train"
        reached = np.mean([each[prior].accuracy.value for each in found])
        met = (
            "met" if reached >= row.least and np.mean([each["uniform"].ece for each in found]) <= row.ece else "missed"
        )
        wanted = f"{row.least:.3f}" + (f", ECE {row.ece:.3f}" if row.ece < 1 else "")
        cells += [str(len(found)), f"{wanted} {met}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser, what = parser_of("bench.benchmark", __doc__, "[--rows NAME ...] ")
    what.add_argument("--rows", nargs="+", default=list(ROWS), metavar="NAME", help=f"of {', '.join(ROWS)}")
    what.add_argument("--seeds", type=int, default=3, help="seeds of each (default 3)")
    space = parser.parse_args()

    def run():
        base = base_of(space)
        known("--rows", space.rows, ROWS)
        seeds = range(whole_number("--seeds", space.seeds, 1, 1000))
        wanted = {name: [ROWS[name].changes | dict(seed=base.seed + k) for k in seeds] for name in space.rows}
        study = trained(space, base, "benchmark", [trial for trials in wanted.values() for trial in trials])
        rows = {name: numbers(study, trials) for name, trials in wanted.items()}  # two rows may share a first stage
        if not space.report:
            train_second_stages(study, rows, space.shard, StopRequest().listen())
        table(study, done(study, rows), base.device)

    return run_command("bench.benchmark", run, continue_with="the same command")


def run_of(study: Study, row: Row, trial: int) -> Path | None:
    """The folder of the trial, or of its second stage where the row has one; None where it is not there."""
    if study.latest().get(trial, {}).get("status") != "ok":
        return None
    if not row.second:
        return study.run(trial)
    config = second_stage(study, row, trial)
    return twostage.folder_of(config) if twostage.finished(config) else None


def second_stage(study: Study, row: Row, trial: int) -> Config:
    return twostage.second_stage(study.run(trial), row.second, study.folder / "second")


def train_second_stages(study: Study, rows: dict[str, list[int]], shard: tuple[int, int], stop: StopRequest) -> None:
    """Trains what is left of stage two, on the trials of the shard (I, N) that ended well."""
    index, count = shard
    for name, trials in rows.items():
        if not ROWS[name].second:
            continue
        for i in trials:
            if i % count == index and study.latest().get(i, {}).get("status") == "ok":
                twostage.trained(second_stage(study, ROWS[name], i), stop)


def done(study: Study, rows: dict[str, list[int]]) -> dict[str, list[Path]]:
    """Of each row that has any, the runs that ended well; what is left is said on stderr."""
    found = {}
    for name, trials in rows.items():
        runs = [run_of(study, ROWS[name], i) for i in trials]
        good = [run for run in runs if run]
        if good:
            found[name] = good
        if len(good) < len(runs):
            print(f"{name}: {len(runs) - len(good)} of {len(runs)} trials are not done", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
