"""Which settings help, and do they hinder each other? Many at once, each off in half of the runs and on in the others.

    python -m bench.factorial --data painters --img-size 48 --width 0.5 --folds 3 --epochs 40 --threads 1
    python -m bench.factorial --screen --data painters --img-size 64 --width 0.5 --folds 3 --epochs 40 --threads 1

The first trains all 16 combinations of four settings (Fisher's 2^4 factorial), which shows every pair's interaction.
--screen trains 32 combinations of up to fifteen settings, 16 on one split of the pictures into folds and 16 on another,
chosen so that no setting's effect is mixed up with another's, with a pair's or with the split's (resolution IV in two
blocks; Box, Hunter & Hunter, ch. 6). All runs bear on every effect: each is known as well as if 16 runs with it stood
beside 16 without it, where as many runs, one setting at a time, give 2 beside 2.

Every combination is trained on folds and judged on the pictures of all folds together, as bench.effects does:
last epoch, tau and scaling chosen on the other folds. The effect of a setting is the mean score with it less that
without it. The interaction of two is half of what the first one's effect grows by where the second is on. An effect is
compared with two bounds, each of 95% for all effects of a column together. ± is of other pictures, by the paired
delete-one jackknife. "noise" is of other pictures and of another training, by columns in which no setting's effect is:
with four settings interactions of three and four, with --screen the sum of up to seven pairs' and of how much one
setting's effect differs between the splits; a column that no setting took has those of three. Where such interactions
are there, they make it larger.

With --report a screening shows its first 16 runs alone where the others are not done. An effect then includes up to
seven pairs' interactions, and noise is told by the effects themselves, most of which are taken for nothing else (Lenth
1989).
"""

import dataclasses
import itertools
import math
import sys
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

import metrics
from bench import effects
from bench.studies import base_of, numbers, parser_of, trained
from errors import ConfigError, run_command
from posterior import evidence
from study import stats
from study.table import Study

# Of each setting what is off, and what is on.
FOUR = {
    "smoothing 0.1": (dict(ls=0.0), dict(ls=0.1)),
    "mixup 0.6": (dict(mixup_p=0.0), dict(mixup_p=0.6)),
    "decay 0.1": (dict(weight_decay=0.02), dict(weight_decay=0.1)),
    "sampler": (dict(balance="none"), dict(balance="sampler")),
}
SCREENED = {
    "one operation": (dict(one_op=False), dict(one_op=True)),
    "decay 0.3": (dict(weight_decay=0.1), dict(weight_decay=0.3)),
    "smoothing by frequency": (dict(ls=0.1), dict(ls=(0.2, 0.0), ls_by="frequency")),
    "targeted mixup, alpha 0.8": (dict(), dict(mixup_pair="targeted", mixup_alpha=0.8)),  # CutMix has the alpha too
    "CMO": (dict(cutmix_pair="uniform"), dict(cutmix_pair="tail")),
    "deferred weights": (dict(drw=0.0), dict(drw=0.8)),
    "focal": (dict(gamma=0.0), dict(gamma=2.0)),
    "no average": (dict(), dict(ema_epochs=0.0)),
    "margin 0.5": (dict(margin=0.0), dict(margin=0.5)),
    "learning rate 4e-3": (dict(lr=2e-3), dict(lr=4e-3)),
    "dropout 0.3": (dict(dropout=0.0), dict(dropout=0.3)),
}


class Design(NamedTuple):
    """Which settings are on in which run. signs: float64 [runs], -1 (off) or 1 (on)."""

    settings: list[dict]  # of each run, what it changes of the base
    effects: dict[str, np.ndarray]  # name: signs
    noise: list[np.ndarray]  # signs of columns in which no effect is


def subsets(of: int, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [each for size in sizes for each in itertools.combinations(range(of), size)]


def columns(levels: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """The products of so many of the columns of levels [runs, K]."""
    return [levels[:, list(each)].prod(1) for each in subsets(levels.shape[1], sizes)]


def all_of(factors: dict) -> Design:
    """Every combination of the factors: effects of one and of two, noise from those of more."""
    levels = np.array(list(itertools.product((-1.0, 1.0), repeat=len(factors))))
    names = [" × ".join(list(factors)[k] for k in each) for each in subsets(len(factors), (1, 2))]
    more = tuple(range(3, len(factors) + 1))
    return Design(changes(factors, levels.T), dict(zip(names, columns(levels, (1, 2)))), columns(levels, more))


def some_of(factors: dict) -> Design:
    """32 combinations of up to fifteen factors, of resolution IV, the first 16 of them of resolution III and of one
    split.

    Of the 31 products of five columns those of an odd number are the split and the settings. The product of two of
    these is one of an even number: pairs' interactions, and luck, are all that those 15 show. One of an odd number that
    no setting took shows no pair's.
    """
    levels = np.array(list(itertools.product((-1.0, 1.0), repeat=5)))
    split, *odd = columns(levels, (1, 3, 5))  # the first column is that of the halves
    own, unused = odd[: len(factors)], odd[len(factors) :]
    settings = changes({"split": (dict(split_seed=0), dict(split_seed=1))} | factors, [split, *own])
    return Design(settings, dict(zip(factors, own, strict=True)), columns(levels, (2, 4)) + unused)


def changes(factors: dict, signs) -> list[dict]:
    """What each run changes of the base. signs: of each factor, those of all runs."""
    runs = []
    for row in np.transpose(signs):
        runs.append({})
        for (off, on), sign in zip(factors.values(), row, strict=True):
            runs[-1] |= on if sign > 0 else off
    return runs


def first_half(design: Design) -> Design:
    """The first half of the runs, which leaves no column for noise: pairs' interactions are in all of them."""
    half = len(design.settings) // 2
    return Design(design.settings[:half], {name: signs[:half] for name, signs in design.effects.items()}, [])


def effect(signs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of values [runs, ...] where signs [runs] are 1 less that where they are -1."""
    return np.tensordot(signs, values, 1) / (len(signs) / 2)


def lenth(contrasts: np.ndarray) -> float:
    """Lenth's pseudo standard error: that of `contrasts`, were all of them but a few 0 but for noise."""
    sizes = np.abs(contrasts)
    small = sizes <= 2.5 * 1.5 * np.median(sizes)
    return 1.5 * float(np.median(sizes[small]))


def table(study: Study, design: Design, by_run: list[list[int]]) -> None:
    """Prints a line an effect, a column a score. by_run: of each run its trials, one a fold."""
    scores, left_out = {}, {}
    for trials in by_run:
        found = effects.judged(study, trials)
        classes = len(evidence.of_run(study.run(trials[0])).classes)
        of_picture = {
            "accuracy": (found.predicted == found.targets).astype(float),
            "NLL": found.nll,
            "NLL scaled": -found.scaled[np.arange(len(found.targets)), found.targets],
        }
        scores.setdefault("macro F1 at tau", []).append(metrics.macro_f1(found.targets, found.moved, classes))
        left_out.setdefault("macro F1 at tau", []).append(
            metrics.macro_f1_left_out(found.targets, found.moved, classes)
        )
        for name, each in of_picture.items():
            scores.setdefault(name, []).append(each.mean())
            left_out.setdefault(name, []).append((each.sum() - each) / (len(each) - 1))
    z = NormalDist().inv_cdf(1 - 0.025 / len(design.effects))
    n = len(found.targets)
    splits = len({run.get("split_seed") for run in design.settings})
    print(f"\n{n} pictures out of fold, {len(design.settings)} runs, {splits} splits", end="; ")
    print(f"±: 95% for the {len(design.effects)} effects of a column together (z = {z:.2f})\n")
    print(f"| effect | {' | '.join(scores)} |\n|{' --- |' * (1 + len(scores))}")
    for name, signs in design.effects.items():
        cells = [name]
        for score, values in scores.items():
            error = stats.jackknife([0.0], effect(signs, np.stack(left_out[score]))[None])
            cells.append(f"{effect(signs, np.array(values)):+.4f} ± {z * error:.4f}")
        print(f"| {' | '.join(cells)} |")
    nothing = design.noise or list(design.effects.values())
    free = len(design.noise) or len(design.effects) / 3  # degrees of freedom; Lenth's choice
    t = stats.t_quantile(1 - 0.025 / len(design.effects), round(free))
    cells = [f"noise, {len(design.noise)} columns (t = {t:.2f})" if design.noise else f"noise, Lenth's (t = {t:.2f})"]
    for values in scores.values():
        contrasts = np.array([effect(signs, np.array(values)) for signs in nothing])
        error = math.sqrt((contrasts**2).mean()) if design.noise else lenth(contrasts)
        cells.append(f"± {t * error:.4f}")
    print(f"| {' | '.join(cells)} |")
    print(f"| mean of all runs | {' | '.join(f'{np.mean(each):.4f}' for each in scores.values())} |", flush=True)


def main() -> int:
    parser, what = parser_of("bench.factorial", __doc__, "[--screen] ")
    what.add_argument("--screen", action="store_true", help=f"{len(SCREENED)} settings: {', '.join(SCREENED)}")
    space = parser.parse_args()

    def run():
        design = some_of(SCREENED) if space.screen else all_of(FOUR)
        base = dataclasses.replace(base_of(space, folds=True), fold=0, monitor="last")  # the best epoch would flatter
        wanted = [[changed | dict(fold=fold) for fold in range(base.folds)] for changed in design.settings]
        study = trained(space, base, "screen" if space.screen else "factorial", [t for run in wanted for t in run])
        by_run, latest = [numbers(study, trials) for trials in wanted], study.latest()
        todo = [[i for i in run if latest.get(i, {}).get("status") != "ok"] for run in by_run]
        left, of = sum(map(len, todo)), sum(map(len, by_run))
        half = len(by_run) // 2
        if left and space.screen and space.report and not any(todo[:half]):
            print(f"{left} of {of} trials are not done: the first half alone", file=sys.stderr)
            design, by_run = first_half(design), by_run[:half]
        elif left:
            how = "the same command without --report" if space.report else "the same command again"
            failed = ", with --retry-failed" * any(i in latest for run in todo for i in run)
            raise ConfigError(f"{left} of {of} trials are not done: give {how}{failed}")
        table(study, design, by_run)

    return run_command("bench.factorial", run, continue_with="the same command")


if __name__ == "__main__":
    sys.exit(main())
