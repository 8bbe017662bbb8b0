"""Stage two of a training: the last layer again, on a finished run's features, beside stage one; and the better one.

    python -m study.twostage                     of what `make study` chose, of the newest study's winner, or newest run
    python -m study.twostage runs/sweep --recipes recipes/crt.json recipes/los.json

A recipe's settings go on top of the run's own, and its stage two trains on the run's own part of the pictures: with
folds every picture is judged by networks that had not seen it. What is done is not trained again.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import metrics
import train
from config import Config, read_recipe
from engine.build import init_key
from engine.checkpoint import load_best
from engine.folder import read_folder
from engine.outcome import predict_command
from engine.stop import StopRequest
from errors import LongtailError, Parser, run_command
from posterior import evidence, priors
from posterior.calibration import fitting_parts
from posterior.classifier import members
from study.chosen import chosen_last, runs_of
from study.held_out import macro_f1_difference

RECIPES = [Path(__file__).parents[1] / "recipes" / "crt.json"]


def second_stage(run: Path, recipe: Path, project: Path) -> Config:
    """The settings of stage two of `run` by `recipe`, in a folder of `project` that these settings and weights name."""
    first = read_recipe(run / "args.json")
    config = dataclasses.replace(
        read_recipe(recipe, first),
        data=load_best(run / "best.pt")["data"],  # where args.json may leave it to $DATA
        fold=first.fold,
        init=str(run.resolve()),
        project=str(project),
        until=0,
        resume=True,
    )
    return dataclasses.replace(config, name=f"{recipe.stem}-{config.key('', init_key(config.init))[:8]}")


def folder_of(config: Config) -> Path:
    return Path(config.project) / config.name


def finished(config: Config) -> bool:
    """Whether its run is done: the last of its tables is there, or without validation pictures its last epoch."""
    folder = folder_of(config)
    if (folder / "confusion_matrix.csv").exists():
        return True
    if not (folder / "args.json").exists():
        return False
    found = read_folder(folder)
    return found.done and found.epochs[-1]["epoch"] == config.epochs


def trained(config: Config, stop: StopRequest) -> Path:
    """The run of `config`, trained first where it is not finished."""
    if not finished(config):
        train.train(config, stop)
    return folder_of(config)


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one way of training says of the pictures held out."""

    name: str
    runs: list[Path]
    found: evidence.Evidence
    tau: float  # for predictions: chosen on all of these pictures
    at_tau: np.ndarray  # int [N], each picture's class at the tau that the other folds chose

    def macro_f1(self) -> float:
        """At tau."""
        return metrics.macro_f1(self.found.targets, self.at_tau, len(self.found.classes))

    def against(self, other: "Stage") -> tuple[float, float]:
        """(macro F1 at tau less that of `other`, its standard error), paired by picture. Raises LongtailError where
        they were judged on other pictures."""
        if self.found.paths != other.found.paths:
            raise LongtailError(f"{self.runs[0]} held other pictures out than {other.runs[0]}: they cannot be compared")
        return macro_f1_difference(self.found.targets, self.at_tau, other.at_tau, len(self.found.classes))


def judged(name: str, runs: list[Path]) -> Stage:
    """The Stage of runs, of one fold or of several."""
    found = evidence.pooled(evidence.runs_by_fold(runs))
    parts = fitting_parts(found)
    return Stage(name, runs, found, *priors.choose_tau(found.log_posterior, found.prior, found.targets, parts))


def as_predicted(stage: Stage) -> np.ndarray:
    """Log posteriors [N,C] under the prior that the runs were trained to assume."""
    trained = stage.found.prior
    wanted = priors.assumed(evidence.read_settings(stage.runs[0])["prior"], trained)
    return priors.move(stage.found.log_posterior, trained, wanted)


def lines(stages: list[Stage]) -> Iterator[str]:
    """The stages side by side, as Markdown; the first is stage one."""
    header = ["stage", "macro F1", "accuracy", "NLL", "tau", "macro F1 at tau", "accuracy", "against stage one"]
    yield f"| {' | '.join(header)} |"
    yield "| --- " * len(header) + "|"
    for stage in stages:
        targets, classes = stage.found.targets, len(stage.found.classes)
        log_posterior = as_predicted(stage)
        change, error = stage.against(stages[0])
        cells = [
            stage.name,
            f"{metrics.macro_f1(targets, log_posterior.argmax(1), classes):.3f}",
            f"{metrics.accuracy(targets, log_posterior.argmax(1)):.3f}",
            f"{metrics.nll(log_posterior, targets):.3f}",
            f"{stage.tau:g}",
            f"{stage.macro_f1():.3f}",
            f"{metrics.accuracy(targets, stage.at_tau):.3f}",
            "" if stage is stages[0] else f"{change:+.3f} ± {metrics.Z * error:.3f}",
        ]
        yield f"| {' | '.join(cells)} |"
    yield (
        f"\n{len(stages[0].found.targets)} pictures held out. Tau favours rare classes; it is of the probabilities as\n"
        "they are, and each picture is judged at the tau that others chose. The difference is of\n"
        "macro F1 at tau, paired by picture (95%)."
    )


def twostage(args, stop: StopRequest) -> None:
    """The command, from its parsed arguments."""
    project = Path(args.project)
    path, runs = runs_of(Path(args.what) if args.what else chosen_last(project))
    for run, network in zip(runs, members(runs)):
        if "tta" not in network:  # stage two would be shown more of a picture, and gain by that
            raise LongtailError(f"{run} is of an earlier version, which validated by other views: train it again")
    stages = [judged(f"one: {path}", runs)]  # what cannot be judged is not trained
    configs = {recipe: [second_stage(run, recipe, project / "twostage") for run in runs] for recipe in args.recipes}
    for recipe, of_recipe in configs.items():
        stages.append(judged(f"two: {recipe.stem}", [trained(config, stop) for config in of_recipe]))
    print(*lines(stages), sep="\n", flush=True)
    best = max(stages, key=Stage.macro_f1)  # of equals the first
    (network,), settings = members(best.runs[:1]), read_recipe(best.runs[0] / "args.json")
    words = ["--run", *map(str, best.runs), "--prior", f"tau:{best.tau:g}"]
    following = predict_command(network["data"], words, settings.device)
    change, error = best.against(stages[0])
    doubt = ", within noise of stage one" if best is not stages[0] and change < metrics.Z * error else ""
    print(f"the best is stage {best.name}{doubt}. Next: {following}", file=sys.stderr)


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="study.twostage", description=__doc__)
    parser.add_argument("what", nargs="?", metavar="RUN|STUDY", help="its folder, or a recipe (default: see above)")
    parser.add_argument("--recipes", nargs="+", type=Path, default=RECIPES, help="of stage two (default: crt)")
    parser.add_argument("--project", default="runs", help="folder of the runs (default runs)")
    space = parser.parse_args(args)
    stop = StopRequest().listen()
    return run_command("study.twostage", lambda: twostage(space, stop), continue_with="the same command")


if __name__ == "__main__":
    sys.exit(main())
