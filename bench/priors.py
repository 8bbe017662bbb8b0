"""What `--prior estimate` gives where classes have shifted, and costs where they have not.

    python -m bench.priors                                a simulated long tail of 50 classes, 400 to 4 pictures each
    python -m bench.priors --study runs/sweep             the out-of-fold pictures of a finished study's winner

Known pictures, with labels, are apart from those whose prior is asked for. Of these, batches are drawn: as they are,
and with all classes equally frequent. Rows are accuracies, the mean over batches, and the mean and the lowest of
estimate - as is. The simulated posterior is also given too sure and not sure enough. Posteriors are taken as they
are, and scaled by bias and temperature, fitted to the known pictures, as `--prior estimate` does it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import metrics
from errors import run_command
from posterior import evidence, priors, scaling
from reporting.tables import number, table
from study.chosen import runs_of

CLASSES, MOST, LEAST = 50, 400, 4
KIND = "bias and temperature"
SHIFT = 2.4  # of the true class's feature, in standard deviations: accuracies near those of real long tails


def simulated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true log posteriors [n, C], targets [n], prior [C]): each class has a normal feature of its own."""
    generator = np.random.default_rng(seed)
    prior = MOST * (LEAST / MOST) ** (np.arange(CLASSES) / (CLASSES - 1))
    prior /= prior.sum()
    targets = generator.choice(CLASSES, n, p=prior)
    features = generator.standard_normal((n, CLASSES))
    features[np.arange(n), targets] += SHIFT
    return metrics.log_softmax(SHIFT * features + np.log(prior)), targets, prior


def measure(name: str, log_posterior, targets, prior, size: int, batches: int, scaled: bool) -> list[list[str]]:
    """The table's rows of one set of judged pictures: half of them known, batches drawn from the other half."""
    generator = np.random.default_rng(0)
    known = np.zeros(len(targets), bool)
    known[generator.permutation(len(targets))[: len(targets) // 2]] = True
    known_log, known_targets = log_posterior[known], targets[known]
    if scaled:
        fitted = scaling.fit(KIND, known_log, known_targets, prior)
        parts = scaling.parts_of(known_targets)
        known_log, log_posterior = (
            scaling.cross_fit(KIND, known_log, known_targets, prior, parts),
            fitted(log_posterior),
        )
    others = np.flatnonzero(~known)
    present = np.bincount(targets[others], minlength=len(prior)) > 0
    rows = []
    for shift, mix in (("none", prior * present), ("uniform", present.astype(float))):
        mix = mix / mix.sum()
        weight = (mix / np.maximum(np.bincount(targets[others], minlength=len(prior)), 1))[targets[others]]
        found = {rule: [] for rule in ("as is", "estimate", "EM alone", "true prior")}
        taken = []
        for batch in range(batches):
            at = generator.choice(others, size, p=weight / weight.sum())
            own, true = log_posterior[at], targets[at]
            guess = priors.estimate(own, prior, known_log, known_targets, prior, seed=batch)
            taken.append(guess.estimator)
            new = {
                "as is": prior,
                "estimate": guess.prior,
                "EM alone": priors.em(own, prior, pseudo=0),
                "true prior": mix,
            }
            for rule, wanted in new.items():
                found[rule].append((priors.move(own, prior, wanted).argmax(1) == true).mean())
        gain = np.subtract(found["estimate"], found["as is"])
        used = ", ".join(f"{kind} {taken.count(kind)}" for kind in sorted(set(taken)))
        means = [number(float(np.mean(values))) for values in found.values()]
        rows.append([name, shift, *means, f"{gain.mean():+.3f}", f"{gain.min():+.3f}", used])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.priors", description=__doc__, allow_abbrev=False)
    parser.add_argument("--study", type=Path, help="a finished study with folds, or a run")
    parser.add_argument("--size", type=int, default=1000, help="pictures a batch")
    parser.add_argument("--batches", type=int, default=20)
    args = parser.parse_args()

    def run():
        rows = []
        if args.study:
            found = evidence.pooled(evidence.runs_by_fold(runs_of(args.study)[1]))
            judged = found.log_posterior, found.targets, found.prior
            for scaled in (False, True):
                name = f"{args.study.name}{', scaled' * scaled}"
                rows += measure(name, *judged, min(args.size, len(found.targets) // 2), args.batches, scaled)
        else:
            true, targets, prior = simulated(4394 + 4 * args.size, 0)
            for name, power in (("right", 1.0), ("too sure", 2.0), ("not sure enough", 0.5)):
                for scaled in (False, True):
                    judged = metrics.log_softmax(power * true)
                    named = f"{name}{', scaled' * scaled}"
                    rows += measure(named, judged, targets, prior, args.size, args.batches, scaled)
        header = ["posterior", "shift", "as is", "estimate", "EM alone", "true prior", "mean gain", "lowest", "used"]
        print(*table(header, rows, markdown=True), sep="\n")

    return run_command("bench.priors", run)


if __name__ == "__main__":
    sys.exit(main())
