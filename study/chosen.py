"""Which runs a command takes: those of what it is told, or when it is told nothing."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from config import WAY, read_recipe
from errors import LongtailError, Parser, counted, first_ten
from posterior import classifier
from posterior.calibration import CALIBRATION
from study import ranking
from study.table import SCHEME, Study, newest, recipe_of


class Chosen(NamedTuple):
    """Trained networks that are to judge pictures."""

    folders: list[Path]  # of their runs
    which: str  # they are, in words
    checkpoints: list[dict]
    adjustment: classifier.Adjustment  # of their answers


def add_flags(parser: Parser) -> None:
    """The flags of the commands that judge pictures: which networks do, and how pictures become probabilities."""
    parser.for_folders = "--test"
    parser.add_argument(
        "--run",
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of runs, or of a study for its winner's, averaged (default: a finished study `final`, else the "
        "winner of the newest best.json, else the newest run)",
    )
    parser.add_argument("--project", default="runs", help="folder of the runs (default runs)")
    parser.add_argument(
        "--tta",
        default="auto",
        choices=("auto", "none", "flip", "crops"),
        help="average over the picture and its mirror image, or corner crops too (default auto: as in validation)",
    )
    parser.add_argument(
        "--no-calibration",
        dest="calibration",
        action="store_false",
        help=f"leave aside the scaling of {CALIBRATION}, which calibrate.py wrote",
    )
    parser.add_argument(
        "--prior",
        default="",
        metavar="PRIOR",
        help="how frequent the classes are among these pictures: train, uniform, estimate (from the pictures, where "
        "that is shown to help), or a CSV of class and share; or for macro F1 tau, which favours rare classes as far "
        "as calibrate.py found best, tau:0.5 by half (default: what the run was trained to assume)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))


def opened(args: Namespace) -> Chosen:
    """What the flags of `add_flags` ask for. Says on stderr which of the runs have not ended."""
    folders, which = named(args.run) if args.run else choose(args.project)
    checkpoints = classifier.members(folders)
    for line in first_ten(classifier.not_done(folders)):
        print(line, file=sys.stderr)
    adjustment = classifier.Adjustment(folders, checkpoints, args.project, args.calibration, args.prior, args.tta)
    return Chosen(folders, which, checkpoints, adjustment)


def choose(project: Path | str) -> tuple[list[Path], str]:
    """(run folders, what they are) when none is named. Raises LongtailError where there is no run.

    The seeds of a finished study `final`; else the runs of the newest best.json, that of `make study` included; else
    the newest run. Studies and runs are never ranked against each other.
    """
    project = Path(project)
    recipe = newest_recipe(project)
    final = project / "final" / "study.json"
    if final.exists():
        study = Study(final.parent)
        good = [i for i, row in study.latest().items() if row["status"] == "ok"]
        if good and not study.jobs():
            which = f"the {counted(len(good), 'run')} of the finished study {study.folder}"
            return [study.run(i) for i in good], which + _not_of(recipe, study)
    if recipe is not None:
        study, trials = study_of_recipe(recipe)
        return [study.run(i) for i in trials], f"the {counted(len(trials), 'run')} of {recipe}"
    weights = newest(project, "best.pt")
    if weights is None:
        raise LongtailError(f"{project}: no run with a best.pt; train one (python train.py), or name one with --run")
    return [weights.parent], f"{weights.parent}, the newest run"


def _not_of(recipe, final):
    """In brackets that `recipe`, a path or None, has other settings than the study `final`; else ''.

    Settings of how the pictures are split and the numbers computed do not count.
    """
    if recipe is None:
        return ""
    try:
        own, others = recipe_of(final.base), recipe_of(read_recipe(recipe))
    except LongtailError as error:  # `final` needs it for nothing
        return f" ({error})"
    if all(own[name] == others[name] for name in own.keys() - {*SCHEME, *WAY}):
        return ""
    return f" (not of {recipe}, whose runs are taken where {final.folder} is not)"


def named(runs: list[str]) -> tuple[list[Path], str]:
    """(the folders of the runs that are named, what they are). A recipe of a study, such as its best.json, stands for
    its trials, and a study for its winner's; one of a single recipe that was judged on nothing, such as `final`, for
    all of them. A best.pt stands for its folder, where its calibration lies."""
    found, said = [], []
    for path in map(Path, runs):
        if path.suffix == ".json" and path.is_file():
            own, which = runs_of(path)[1], str(path)
        elif (path / "study.json").exists():
            own, which = _winners(path)
        else:
            own, which = [path.parent if path.name == "best.pt" and path.is_file() else path], str(path)
        found += own
        said.append(which)
    return found, ", ".join(said)


def _winners(folder):
    """(the runs of a study that answer for it, what they are)."""
    study = Study(folder)
    done = {i: row for i, row in study.latest().items() if row["status"] == "ok" and study.over(row)}
    judged = any(study.metric in row for row in done.values())
    recipes = [recipe_of(study.config(i)) for i in done]
    if done and not judged and all(recipe == recipes[0] for recipe in recipes):
        runs = [study.run(i) for i in done]
    elif (folder / "best.json").exists():  # what the study wrote, not what would win now
        runs = runs_of(folder / "best.json")[1]
    else:
        runs = runs_of(folder)[1]  # which refuses one that judged nothing: networks of unlike settings are no answer
    left = len(study.jobs())
    to_do = f", of which {counted(left, 'trial')} {'is' if left == 1 else 'are'} not done" if left else ""
    return runs, f"{', '.join(run.name for run in runs)} of {folder}{to_do}"


def newest_recipe(project: Path) -> Path | None:
    """The best.json that was written last: a study's, or the one beside the studies in which `make study` keeps the
    best of their winners. None where there is none."""
    own = project / "best.json"
    found = [path for path in (newest(project, "best.json"), own if own.exists() else None) if path is not None]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def study_of_recipe(recipe: Path) -> tuple[Study, list[int]]:
    """The study that tried a recipe, and its finished trials of it: the recipe's own study, or of those beside it the
    one that tried it on the most folds, of such the newest. Raises LongtailError where there is none.

    What the study wrote last counts, not what would win now: a study that grows has candidates that are half done.
    """
    specs = [recipe.parent / "study.json"]
    if not specs[0].exists():
        specs = sorted(recipe.parent.glob("*/study.json"), key=lambda path: path.stat().st_mtime_ns)
    found = []
    for spec in specs:
        try:
            study = Study(spec.parent)
            trials = finished_trials(study, recipe)
        except LongtailError as error:
            if len(specs) == 1:
                raise
            print(f"passed over: {error}", file=sys.stderr)  # one of several, which may have nothing to do with it
            continue
        found.append((len({study.config(trial).fold for trial in trials}), study, trials))
    folds, study, trials = max(reversed(found), key=lambda each: each[0], default=(0, None, []))
    if not folds:
        why = f"no finished trial of {recipe.parent} has these settings"
        if not (recipe.parent / "study.json").exists():
            why = f"no study in {recipe.parent} has a finished trial of these settings"
        raise LongtailError(f"{recipe}: {why}: name the runs to take")
    return study, trials


def finished_trials(study: Study, recipe: Path) -> list[int]:
    """The trials of a study that ended well and have the settings of a recipe, whichever their fold and seed.

    How they computed counts only where the study says it: a recipe says what was found to be fastest.
    """
    wanted = recipe_of(read_recipe(recipe))
    found = []
    for i, row in study.latest().items():
        own = recipe_of(study.config(i))
        same = all(own[name] == wanted[name] or (name in WAY and own[name] == "auto") for name in own)
        if same and study.over(row) and row["status"] == "ok":
            found.append(i)
    # Of a study that was stopped some seeds may lack folds: they could be pooled with nothing.
    folds = {study.config(i).fold for i in found}
    of_seed = {i: {study.config(k).fold for k in found if study.config(k).seed == study.config(i).seed} for i in found}
    return [i for i in found if of_seed[i] == folds]


def runs_of(path: Path) -> tuple[Path, list[Path]]:
    """(the folder that what is made of them belongs to, the runs) of a run, a study's winner, or a recipe's trials.

    Raises LongtailError where nothing was trained that could be taken.
    """
    if path.is_file():
        study, trials = study_of_recipe(path)
        return study.folder, [study.run(trial) for trial in trials]
    if not (path / "study.json").exists():
        return path, [path]
    study = Study(path)
    candidates = ranking.candidates(study)
    choice = ranking.choose(candidates)
    if choice is None:
        why = next((candidate.wanting for group in candidates.values() for candidate in group), "it has no trial")
        raise LongtailError(
            f"{path}: no candidate of this study can be ranked (the first: {why}): go on with it, or name one of its "
            "runs"
        )
    return path, [study.run(trial) for trial in choice.candidate.trials]


def chosen_last(project: Path) -> Path:
    """What was chosen last: the recipe of `make study`, or a study's folder; without any the newest run's."""
    recipe = newest_recipe(project)
    if recipe is not None:
        return recipe if recipe.parent == project else recipe.parent
    weights = newest(project, "best.pt")
    if weights is None:
        raise LongtailError(f"{project}: no study and no run there; name one")
    return weights.parent
