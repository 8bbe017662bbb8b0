"""Is the luck of training in the error of a difference? Asked of a study that tried every candidate with several seeds.

    python sweep.py --data painters --img-size 16 --width 0.25 --epochs 12 --folds 3 --seeds 4 --threads 1 --name luck \
        --grid balance=none,sampler mixup_p=0.4
    python -m bench.luck runs/luck

Two seeds of the same settings truly differ by nothing: how far apart are they, and how far does the jackknife over
pictures, which sees one training of each, expect them to be? And how much does the difference of two candidates vary
over seeds that both have? Prints Markdown.
"""

import itertools
import sys

import numpy as np

from errors import LongtailError, Parser, run_command
from study import ranking, stats
from study.held_out import HeldOut
from study.metric import METRICS
from study.table import Study


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def two_seeds(candidate: HeldOut) -> tuple[float, float]:
    """(how far apart two seeds are, what the jackknife says), the root mean squares over all pairs."""
    scores, left_out = candidate.scores[candidate.metric], candidate.left_out
    apart, errors = [], []
    for a, b in itertools.combinations(range(len(scores)), 2):
        apart.append(scores[a] - scores[b])
        errors.append(stats.jackknife([apart[-1]], left_out[[a]] - left_out[[b]]))
    return rms(apart), rms(errors)


def one_seed_each(first: HeldOut, second: HeldOut) -> tuple[float, float]:
    """(sd over seeds of the difference of two candidates with the same seed, what the jackknife says for one seed)."""
    by_seed = first.scores[first.metric] - second.scores[first.metric]
    errors = [stats.jackknife([d], rows[None]) for d, rows in zip(by_seed, first.left_out - second.left_out)]
    return float(np.std(by_seed, ddof=1)), rms(errors)


def compare(folder: str) -> None:
    study = Study(folder)
    print("| metric | what | n | varies by | jackknife over pictures | ratio |\n| --- | --- | --- | --- | --- | --- |")
    for metric, title in METRICS.items():
        for group in ranking.candidates(study, metric).values():
            candidates = [
                candidate for candidate in group if candidate.held_out and len(candidate.held_out.left_out) > 1
            ]
            if not candidates:
                raise LongtailError(f"{folder}: no candidate was tried with two seeds or more")
            lines = []
            for candidate in candidates:
                seeds = len(candidate.held_out.left_out)
                pairs = seeds * (seeds - 1) // 2
                lines.append((f"two seeds of {candidate.label()}", f"{pairs} pairs", *two_seeds(candidate.held_out)))
            for first, second in itertools.combinations(candidates, 2):
                if len(first.held_out.left_out) == len(second.held_out.left_out):
                    seeds = len(first.held_out.left_out)
                    name = f"{first.label()} less {second.label()}, same seed"
                    lines.append((name, f"{seeds} seeds", *one_seed_each(first.held_out, second.held_out)))
            for name, n, varies, error in lines:
                print(f"| {title} | {name} | {n} | {varies:.4f} | {error:.4f} | {varies / error:.2f} |")


def main() -> int:
    parser = Parser(prog="bench.luck", description=__doc__)
    parser.add_argument("study", help="its folder")
    space = parser.parse_args()
    return run_command("bench.luck", lambda: compare(space.study))


if __name__ == "__main__":
    sys.exit(main())
