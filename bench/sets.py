"""Sets of classes that are to hold the right one for 90% of pictures: kinds of them side by side.

    python -m bench.sets runs/oof

Of a study's winner or a run, on its held-out pictures: each picture's set is by a threshold from the other parts. One
threshold on the posterior p; on p / prior, which is what posterior/sets.py keeps; and these two with one threshold a
count group. Each with p as it is, and scaled as calibrate.py chooses. "Test": one threshold from all held-out pictures,
on the test pictures of the built-in set, whose classes truth.npz has, by the runs' networks averaged.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import metrics
from engine.numerics import pick_device
from errors import run_command
from posterior import classifier, evidence, scaling, sets
from posterior.calibration import fitting_parts
from posterior.scores import wilson
from reporting.tables import interval, number, table
from study.chosen import runs_of


def scores_of(log_posterior: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    """By the kind of set: how much speaks for each class, [N,C]."""
    return {"p": log_posterior, "p / prior": log_posterior - np.log(prior)}


def thresholds(scores: np.ndarray, targets: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The least score of each class [C], one for all classes of a group; -inf where a group has too few pictures."""
    own = scores[np.arange(len(targets)), targets]
    least = np.full(len(group), -np.inf)
    for name in np.unique(group):
        of_group = own[group[targets] == name]
        outside = (len(of_group) + 1) // sets.ONE_IN
        if outside:
            least[group == name] = np.sort(of_group)[outside - 1]
    return least


def row(kind: str, found: np.ndarray, targets: np.ndarray, group: np.ndarray) -> list[str]:
    """The cells of sets bool [N,C]."""
    held = found[np.arange(len(targets)), targets]
    of_class = [held[targets == c].mean() for c in np.unique(targets)]
    all_held = wilson(held.sum(), len(held))
    cells = [kind, number(all_held.value), interval(all_held.low, all_held.high)]
    cells += [number(np.mean(of_class)), number(min(of_class), 2)]
    cells.append(" / ".join(number(held[group[targets] == name].mean()) for name in metrics.GROUPS))
    size = found.sum(1)
    return cells + [number(size.mean(), 1), f"{np.median(size):.0f}"]


def test_pictures(runs: list[Path]) -> tuple[np.ndarray, np.ndarray] | None:
    """(log posteriors [M,C], targets [M]) of the built-in set's test pictures; None for other data."""
    networks = classifier.members(runs)
    root = Path(networks[0]["data"])
    if not (root / "truth.npz").exists():
        return None
    truth = np.load(root / "truth.npz")
    test = truth["test"]
    number_of = {name: c for c, name in enumerate(networks[0]["classes"])}
    targets = np.array([number_of[truth["classes"][c]] for c in truth["observed"][test]])
    files = [root / name for name in truth["files"][test]]
    return classifier.log_posteriors(networks, files, device=pick_device("auto"))[0], targets


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.sets", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", type=Path, metavar="RUN|STUDY")
    args = parser.parse_args()

    def run():
        _, runs = runs_of(args.what)
        known = evidence.pooled(evidence.runs_by_fold(runs))
        parts, targets = fitting_parts(known), known.targets
        group = metrics.count_groups(known.counts)
        trials, _ = scaling.compare(known.log_posterior, targets, known.counts, parts)
        kept = scaling.simplest(trials)
        fitted = scaling.fit(kept.kind, known.log_posterior, targets, known.counts)
        test = test_pictures(runs)
        rows, test_rows = [], []
        for way, held_out, scale in (("", known.log_posterior, None), (", scaled", kept.held_out, fitted)):
            for kind, scores in scores_of(held_out, known.prior).items():
                for by, of_class in (("", np.full(len(group), "all")), (", by group", group)):
                    found = np.empty(scores.shape, bool)
                    for part in np.unique(parts):
                        here = parts == part
                        found[here] = scores[here] >= thresholds(scores[~here], targets[~here], of_class)
                    rows.append(row(kind + by + way, found, targets, group))
                    if test is not None:
                        new = test[0] if scale is None else scale(test[0])
                        found = scores_of(new, known.prior)[kind] >= thresholds(scores, targets, of_class)
                        test_rows.append(row(kind + by + way, found, test[1], group))
        header = ["threshold on", "held", "95%", "mean of classes", "worst class", "many / medium / few"]
        header += ["classes in a set", "median"]
        print(f"{args.what}: {len(targets)} pictures held out, scaling kept: {kept.kind}\n")
        print(*table(header, rows, markdown=True), sep="\n")
        if test is not None:
            print(f"\nTest: {len(test[1])} pictures, {len(runs)} networks averaged\n")
            print(*table(header, test_rows, markdown=True), sep="\n")

    return run_command("bench.sets", run)


if __name__ == "__main__":
    sys.exit(main())
