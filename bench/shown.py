"""What a trained network should be shown of a picture: its middle, all of it, its mirror image, its corners too.

    python -m bench.shown runs/effects                  every candidate of the study whose folds are done
    python -m bench.shown runs/first runs/second --candidates 4

Reads studies on folds of the same pictures and trains nothing: each fold's pictures are judged again by the network
that had not seen them, as it stands, without scaling; "at tau" is macro F1 at the tau that the other folds chose.
Candidates are averaged. A difference from the middle is paired picture by picture; ± is 95% of other pictures by the
delete-one jackknife. "candidates" is in how many of them macro F1 is higher.
"""

import dataclasses
import sys
from collections import defaultdict
from pathlib import Path
from statistics import NormalDist

import numpy as np

import metrics
from engine.numerics import pick_device
from errors import ConfigError, Parser, run_command
from pictures import synthetic
from posterior import classifier, evidence
from posterior.priors import choose_tau
from study import stats
from study.table import Study

# Of each way whether the whole picture is shown, and the views that are averaged.
WAYS = {
    "middle": (False, "none"),
    "whole": (True, "none"),
    "middle, mirrored too": (False, "flip"),
    "whole, mirrored too": (True, "flip"),
    "middle, corners, all mirrored": (False, "crops"),
    "whole, corners, all mirrored": (True, "crops"),
}


def candidates(study: Study) -> list[list[int]]:
    """The trials of each candidate, a fold each, whose folds are all done."""
    latest, found = study.latest(), defaultdict(list)
    for i in range(len(study.trials)):
        settings = {name: value for name, value in study.trials[i].items() if name != "fold"}
        found[str(sorted(settings.items(), key=str))].append(i)
    done = [trials for trials in found.values() if all(latest.get(i, {}).get("status") == "ok" for i in trials)]
    return [trials for trials in done if len(trials) == study.base.folds]


def judged(study: Study, trials: list[int], device: str) -> dict[str, evidence.Evidence]:
    """By way what the networks of `trials`, one a fold, say of the pictures that they had not seen."""
    root = synthetic.folder(study.base.data)
    by_way = defaultdict(list)
    for i in trials:
        (network,) = classifier.members([study.run(i)])
        files = [root / path for path in evidence.of_run(study.run(i)).paths]
        for name, (whole, views) in WAYS.items():
            shows = network | dict(shown=network["store_size" if whole else "size"])
            log_posterior, _ = classifier.log_posteriors([shows], files, device=pick_device(device), tta=views)
            by_way[name].append(log_posterior)
    found = evidence.pooled([[study.run(i)] for i in trials])
    return {name: dataclasses.replace(found, log_posterior=np.concatenate(each)) for name, each in by_way.items()}


def scores(found: evidence.Evidence) -> dict[str, tuple[float, np.ndarray]]:
    """Of each score its value, and those with one picture left out [N], in order of path."""
    targets, predicted, classes = found.targets, found.log_posterior.argmax(1), len(found.classes)
    order, of_score = np.argsort(found.paths, kind="stable"), {}
    _, moved = choose_tau(found.log_posterior, found.prior, targets, found.parts)
    for name, answers in {"macro F1": predicted, "at tau": moved}.items():
        left_out = metrics.macro_f1_left_out(targets, answers, classes)
        of_score[name] = (metrics.macro_f1(targets, answers, classes), left_out[order])
    nll = -found.log_posterior[np.arange(len(targets)), targets]
    for name, each in {"accuracy": predicted == targets, "NLL": nll}.items():
        of_score[name] = (float(each.mean()), (each.sum() - each[order]) / (len(each) - 1))
    return of_score


def table(by_candidate: list[dict[str, dict]]) -> None:
    """Prints a line a way. by_candidate: of each candidate, by way, its scores."""
    z = NormalDist().inv_cdf(0.975)
    names = list(by_candidate[0]["middle"])
    pictures = len(by_candidate[0]["middle"]["NLL"][1])
    print(f"\n{pictures} pictures out of fold, {len(by_candidate)} candidates; ±: 95%, from the middle\n")
    header = ["shown", *(part for name in names for part in (name, "difference")), "candidates"]
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for way in WAYS:
        cells = [way]
        for name in names:
            value = np.mean([candidate[way][name][0] for candidate in by_candidate])
            change = value - np.mean([candidate["middle"][name][0] for candidate in by_candidate])
            left_out = np.mean(
                [candidate[way][name][1] - candidate["middle"][name][1] for candidate in by_candidate], 0
            )
            error = z * stats.jackknife([0.0], left_out[None])
            cells += [f"{value:.4f}", f"{change:+.4f} ± {error:.4f}" if way != "middle" else ""]
        higher = sum(candidate[way]["macro F1"][0] > candidate["middle"]["macro F1"][0] for candidate in by_candidate)
        print(f"| {' | '.join(cells)} | {higher if way != 'middle' else ''} |")


def main() -> int:
    parser = Parser(prog="bench.shown", description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path, metavar="study", help="a study on folds")
    parser.add_argument(
        "--candidates", type=int, default=0, help="only each one's first so many candidates (default: all)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    args = parser.parse_args()

    def run():
        by_candidate, pictures = [], set()
        for folder in args.studies:
            study = Study(folder)
            done = candidates(study)[: args.candidates or None]
            if not done:
                raise ConfigError(f"{folder}: no candidate has all its folds done: name a study with --folds 3")
            for trials in done:
                by_way = judged(study, trials, args.device)
                pictures.add(tuple(sorted(by_way["middle"].paths)))
                if len(pictures) > 1:
                    raise ConfigError(f"{folder} is of other pictures than {args.studies[0]}: nothing can be paired")
                by_candidate.append({name: scores(found) for name, found in by_way.items()})
                said = {name: f"{found['macro F1'][0]:.4f}" for name, found in by_candidate[-1].items()}
                print(f"{folder} {trials}: macro F1 {said}", file=sys.stderr, flush=True)
        table(by_candidate)

    return run_command("bench.shown", run)


if __name__ == "__main__":
    sys.exit(main())
