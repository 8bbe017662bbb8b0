"""Do settings help or hinder each other? Smoothing, mixup, weight decay and sampling, each off or on: 16 combinations.

    python -m bench.factorial --data painters --img-size 48 --width 0.5 --folds 3 --epochs 40 --threads 1

Every combination is trained on the same folds and judged on the pictures of all folds together. The effect of a setting
is the mean score of the 8 combinations that have it, less that of the 8 that do not. The interaction of two is half of
what the first one's effect grows by where the second is on (Fisher's 2^k factorial, see Box, Hunter & Hunter, ch. 5).
Errors are the paired delete-one jackknife's: other pictures. Training luck is seen apart: interactions of three and
four are rarely there, so that what they show is noise. Prints a table; the study is --project/--name.
"""

import dataclasses
import itertools
import math
import sys
from statistics import NormalDist

import numpy as np

from bench.studies import base_of, parser_of, trained
from errors import ConfigError, run_command
from study import held_out, stats
from study.metric import METRICS
from study.table import Study

# Of each setting the value that is called off, and the one that is called on.
FACTORS = {
    "ls": (0.0, 0.1),
    "mixup_p": (0.0, 0.6),
    "weight_decay": (0.02, 0.1),
    "balance": ("none", "sampler"),
}
COMBINATIONS = list(itertools.product((0, 1), repeat=len(FACTORS)))  # of each factor, off or on


def effect(together: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """The effect of the factors numbered `together`, all of them on at once, from values [16, ...] by combination.

    Of one factor: mean with it less mean without it. Of more: the same for the parity of those that are off.
    """
    signs = np.array([math.prod(2 * combination[k] - 1 for k in together) for combination in COMBINATIONS])
    return np.tensordot(signs, values, 1) / (len(COMBINATIONS) / 2)


def table(study: Study) -> None:
    """Prints a line an effect, a column a score."""
    folds = study.base.folds
    by_combination = [list(range(k * folds, (k + 1) * folds)) for k in range(len(COMBINATIONS))]
    found = {}
    for metric in METRICS:
        judged = [held_out.judged(study, [trials], metric) for trials in by_combination]
        found[metric] = (
            np.array([each.scores[metric][0] for each in judged]),
            np.stack([each.left_out[0] for each in judged]),
        )
    names = list(FACTORS)
    counted = [each for size in (1, 2) for each in itertools.combinations(range(len(names)), size)]
    z = NormalDist().inv_cdf(1 - 0.025 / len(counted))
    print(f"\n{found['acc'][1].shape[1]} pictures out of fold; ±: 95% over all {len(counted)} effects (z = {z:.2f})\n")
    print(f"| effect | {' | '.join(METRICS)} |\n|{' --- |' * (1 + len(METRICS))}")
    for together in counted:
        cells = [" with ".join(names[k] for k in together)]
        for scores, left_out in found.values():
            error = stats.jackknife([0.0], effect(together, left_out)[None])
            cells.append(f"{effect(together, scores):+.4f} ± {z * error:.4f}")
        print(f"| {' | '.join(cells)} |")
    higher = [each for size in (3, 4) for each in itertools.combinations(range(len(names)), size)]
    noise = [np.sqrt(np.mean([effect(each, scores) ** 2 for each in higher])) for scores, _ in found.values()]
    print(f"| noise: root mean square of three and four together | {' | '.join(f'{each:.4f}' for each in noise)} |")
    means = [scores.mean() for scores, _ in found.values()]
    print(f"| mean of all combinations | {' | '.join(f'{each:.4f}' for each in means)} |", flush=True)


def main() -> int:
    parser, _ = parser_of("bench.factorial", __doc__)
    space = parser.parse_args()

    def run():
        base = dataclasses.replace(base_of(space, folds=True), fold=0, monitor="last")  # the best epoch would flatter
        wanted = []
        for combination in COMBINATIONS:
            point = {name: values[on] for (name, values), on in zip(FACTORS.items(), combination)}
            wanted += [point | dict(fold=fold) for fold in range(base.folds)]
        study = trained(space, base, "factorial", wanted)
        todo = [i for i in range(len(study.trials)) if study.latest().get(i, {}).get("status") != "ok"]
        if todo:
            how = "the same command without --report" if space.report else "the same command again"
            failed = ", with --retry-failed" * any(i in study.latest() for i in todo)
            raise ConfigError(f"{len(todo)} of {len(study.trials)} trials are not done: give {how}{failed}")
        table(study)

    return run_command("bench.factorial", run, continue_with="the same command")


if __name__ == "__main__":
    sys.exit(main())
