"""CIFAR-100-LT, imbalance 100, with ResNet-32: our methods beside published figures, on the balanced test set.

    make benchmark DATA=cifar100-lt                   every row, three seeds: a study that goes on where it stopped
    python -m bench.benchmark -c recipes/cifar100-lt.json --data cifar100-lt --rows CE "balanced softmax" --seeds 1

200 epochs, the last one's weights, crop and flip. Training and test pictures are in DIR/train and DIR/test, by class.
The published figures are top-1 accuracies of the same protocol; those of CE assume the training prior, the others equal
classes. Nothing is chosen on the test set: settings come from the papers, or from folds of the training pictures.
Intervals: Student t over seeds, 95%; with one seed Wilson's, over pictures. Prints a table; the study is
--project/--name.
"""

import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from bench.studies import base_of, known, parser_of, trained
from engine.flags import whole_number
from engine.numerics import pick_device
from errors import LongtailError, run_command
from pictures.listing import Listing, listing
from posterior import classifier, priors, scores
from study import stats
from study.table import Study, identity


class Row(NamedTuple):
    """A method, and what others had with it."""

    changes: dict  # of the recipe
    published: str  # top-1 accuracy, and calibration error where it is known
    least: float  # what ours must reach
    uniform: bool = True  # whether the figure is for equal classes


ROWS = {
    "CE": Row({}, "38.3 (ECE 32)", 0.376, uniform=False),
    "logit adjustment": Row(dict(loss_tau=1.0), "42.0", 0.413),
    "balanced softmax": Row(dict(loss_tau=1.0, weight_decay=5e-4), "43.0", 0.423),
    "LDAM-DRW": Row(dict(margin=0.5, drw=0.8, head="cosine"), "42.0", 0.413),
    "mixup-DRW": Row(dict(mixup_p=1.0, drw=0.8, loss_tau=1.0), "46.9 (300 epochs)", 0.45),
}


class Result(NamedTuple):
    """A trained network on the test set."""

    as_it_is: scores.Score  # accuracy under the training prior
    uniform: scores.Score  # accuracy where all classes are equally likely
    ece: float  # of the posterior that the row's figure is for


def judged(folder: Path, test: Listing, uniform: bool, device: str) -> Result:
    """The run in `folder` on the test pictures; uniform: its calibration error is that where all classes are alike."""
    networks = classifier.members([folder])
    log_posterior, bad = classifier.log_posteriors(networks, test.files, device=pick_device(device))
    if bad:
        raise LongtailError(f"{test.files[min(bad)]} cannot be read: {bad[min(bad)]}")
    number_of = {name: k for k, name in enumerate(networks[0]["classes"])}
    targets = np.array([number_of[test.classes[label]] for label in test.labels])
    prior = classifier.training_prior(networks)
    equal = priors.move(log_posterior, prior, np.full(len(prior), 1 / len(prior)))
    right = [(each.argmax(1) == targets).sum() for each in (log_posterior, equal)]
    ece = metrics.ece(metrics.softmax(equal if uniform else log_posterior), targets)
    return Result(*(scores.share(hits, len(targets)) for hits in right), ece)


def accuracy(found: list[scores.Score]) -> str:
    """The mean over seeds and its interval; of one seed its own."""
    if len(found) == 1:
        return f"{found[0].value:.3f} ({found[0].low:.3f} to {found[0].high:.3f})"
    mean, half = stats.interval([each.value for each in found])
    return f"{mean:.3f} ± {half:.3f}"


def table(study: Study, rows: dict[str, list[int]], device: str) -> None:
    """Prints a line a row. rows: of each the trials that ended well."""
    listed = listing(Path(study.spec["base"]["data"]) / "test")
    print(f"\n{len(listed.paths)} test pictures\n")
    print("| method | published | ours, training prior | ours, equal classes | ECE | n | wanted |\n|" + " --- |" * 7)
    for name, trials in rows.items():
        row = ROWS[name]
        found = [judged(study.run(i), listed, row.uniform, device) for i in trials]
        own = [each.uniform if row.uniform else each.as_it_is for each in found]
        met = "met" if np.mean([score.value for score in own]) >= row.least else "missed"
        cells = [
            name,
            row.published,
            accuracy([each.as_it_is for each in found]),
            accuracy([each.uniform for each in found]),
            f"{np.mean([each.ece for each in found]):.3f}",
            str(len(found)),
            f"{row.least:.3f} {met}",
        ]
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
        table(study, finished(study, wanted), base.device)

    return run_command("bench.benchmark", run, continue_with="the same command")


def finished(study: Study, wanted: dict[str, list[dict]]) -> dict[str, list[int]]:
    """Of each row that has any, the numbers of the trials that ended well."""
    latest = study.latest()
    number_of = {identity(study.config(i)): i for i in range(len(study.trials))}
    found = {}
    for name, trials in wanted.items():
        numbers = [number_of[identity(dataclasses.replace(study.base, **trial))] for trial in trials]
        good = [i for i in numbers if latest.get(i, {}).get("status") == "ok"]
        if good:
            found[name] = good
        if len(good) < len(numbers):
            print(f"{name}: {len(numbers) - len(good)} of {len(numbers)} trials are not done", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
