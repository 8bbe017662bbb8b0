"""How far posteriors are from the true ones, on the built-in set, where these are known; as they are, and scaled.

    python sweep.py --folds 3 --grid mixup_p=0.4 --name builtin
    python calibrate.py runs/builtin
    python -m bench.posterior runs/builtin

Of a study's winner, or of a run: on the set's test pictures, which nobody trained on. The distance is the mean
Kullback-Leibler divergence from the true posterior, in nats, and half of the summed absolute difference; 95% normal
intervals over pictures.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from engine.numerics import pick_device
from errors import LongtailError, run_command
from pictures import synthetic
from posterior import classifier
from posterior.priors import shares
from posterior.scores import mean
from reporting.tables import interval, number, table
from study.chosen import runs_of


def distances(log_posterior: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """By picture: the divergence of log posteriors [N,C] from true posteriors [N,C], and their total variation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(true > 0, true * (np.log(true) - log_posterior), 0)
    return {"divergence": terms.sum(1), "total variation": np.abs(np.exp(log_posterior) - true).sum(1) / 2}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.posterior", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", type=Path, metavar="RUN|STUDY")
    parser.add_argument("--data", default="", help="the built-in set (default: the one in the cache)")
    args = parser.parse_args()

    def run():
        root = synthetic.folder(args.data)
        if not (root / "truth.npz").exists():
            raise LongtailError(f"{root}: no truth.npz there: only of the built-in set is the truth known")
        truth = np.load(root / "truth.npz")
        test = truth["test"]
        folder, runs = runs_of(args.what)
        networks = classifier.members(runs)
        order = [list(truth["classes"]).index(name) for name in networks[0]["classes"]]
        true = truth["posterior"][test][:, order]
        files = [root / name for name in truth["files"][test]]
        log_posterior, _ = classifier.log_posteriors(networks, files, device=pick_device("auto"))
        as_trained = [network | dict(bias=[0.0] * len(order)) for network in networks]
        without_bias, _ = classifier.log_posteriors(as_trained, files, device=pick_device("auto"))
        rules = {"the training prior": np.tile(np.log(shares(networks[0]["counts"])), (len(files), 1))}
        rules["without the bias"] = without_bias
        rules["as it is"] = log_posterior
        scaled, said = classifier.Adjustment(runs, networks, folder.parent, True, "train")(log_posterior)
        if said:
            rules["scaled"] = scaled
            print(*said, sep="\n", file=sys.stderr)
        rows = []
        for rule, found in rules.items():
            for name, each in distances(found, true).items():
                score = mean(each)
                rows.append([rule, name, number(score.value), interval(score.low, score.high)])
        print(f"{len(files)} test pictures, {len(runs)} networks\n")
        print(*table(["posterior", "from the true one", "mean", "95%"], rows, markdown=True), sep="\n")

    return run_command("bench.posterior", run)


if __name__ == "__main__":
    sys.exit(main())
