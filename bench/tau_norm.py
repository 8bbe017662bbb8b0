"""The last layer's weights divided by their norm to the power of tau (Kang et al. 2020), after training.

    python -m bench.tau_norm runs/attempts/default-0 runs/attempts/default-1 runs/attempts/default-2

The runs, one a fold, judge the pictures that they had not seen. At 1 all classes' weights are as long; the bias, which
they leave out, is left out. Beside it what predict.py has: the answer moved towards rare classes by tau times the log
prior. Of both, each fold's pictures are answered at the tau that the other folds choose by macro F1. The difference
from the networks' own answers is paired by picture; ± is 95% of other pictures by the delete-one jackknife. Trains
nothing.
"""

import sys
from pathlib import Path

import numpy as np

import metrics
from engine.numerics import pick_device
from errors import LongtailError, Parser, run_command
from model import last_layer
from posterior import classifier, evidence, priors
from reporting.tables import table
from study.held_out import macro_f1_difference

TAUS = np.linspace(0, 2, 21)


def normalised(network: dict, tau: float) -> dict:
    """The contents of a best.pt with each class's weights divided by their norm to the power of `tau`, without bias."""
    head, weights = last_layer(network["weights"]), dict(network["weights"])
    weight = weights[f"{head}.weight"]
    weights[f"{head}.weight"] = weight / weight.norm(dim=1, keepdim=True) ** tau
    if f"{head}.bias" in weights:  # which a cosine head lacks
        weights[f"{head}.bias"] = 0 * weights[f"{head}.bias"]
    return network | dict(weights=weights)


def answers(runs: list[Path], device: str) -> np.ndarray:
    """The class of each held-out picture at each of TAUS, int [T,N], in the order of `evidence.pooled`."""
    of_runs = []
    for run in runs:
        (network,) = classifier.members([run])
        files = [Path(network["data"]) / path for path in evidence.of_run(run).paths]
        of_tau = []
        for tau in TAUS:
            changed = [normalised(network, tau)]
            log_posterior, bad = classifier.log_posteriors(changed, files, device=pick_device(device))
            if bad:
                raise LongtailError(f"{files[min(bad)]} cannot be read: {bad[min(bad)]}")
            of_tau.append(log_posterior.argmax(1))
        of_runs.append(of_tau)
    return np.concatenate(of_runs, 1)


def compare(runs: list[Path], device: str) -> None:
    """Prints the table."""
    found = evidence.pooled([[run] for run in runs])
    if found.parts is None:
        raise LongtailError(f"{runs[0]} is of one fold: tau is chosen on others: name a run of each fold")
    classes = len(found.classes)
    own = found.log_posterior.argmax(1)
    tau, adjusted = priors.choose_tau(found.log_posterior, found.prior, found.targets, found.parts)
    place, by_norm = priors.choose_answers(answers(runs, device), found.targets, found.parts, classes)
    ways = {
        "as it is": ("", own),
        "log prior": (f"{tau:.2f}", adjusted),
        "weights' norm": (f"{TAUS[place]:.2f}", by_norm),
    }
    rows = []
    for name, (chosen, predicted) in ways.items():
        change, error = macro_f1_difference(found.targets, predicted, own, classes)
        moved = "" if predicted is own else f"{change:+.3f} ± {metrics.Z * error:.3f}"
        f1, right = metrics.macro_f1(found.targets, predicted, classes), metrics.accuracy(found.targets, predicted)
        rows.append([name, chosen, f"{f1:.3f}", moved, f"{right:.3f}"])
    print(*table(["adjusted by", "tau", "macro F1", "difference", "accuracy"], rows), sep="\n")
    change, error = macro_f1_difference(found.targets, by_norm, adjusted, classes)
    print(f"\n{len(own)} pictures. Weights' norm less log prior: {change:+.3f} ± {metrics.Z * error:.3f} in macro F1")


def main() -> int:
    parser = Parser(prog="bench.tau_norm", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="finished runs, one of each fold")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    args = parser.parse_args()
    return run_command("bench.tau_norm", lambda: compare(args.runs, args.device))


if __name__ == "__main__":
    sys.exit(main())
