"""Which runs a command takes: those of what it is told, or when it is told nothing."""

from pathlib import Path

from config import read_recipe
from errors import LongtailError, counted
from study import ranking
from study.table import Study, newest, recipe_of

WAY = ("amp", "layout", "products")


def choose(project: Path | str) -> tuple[list[Path], str]:
    """(run folders, what they are) when none is named. Raises LongtailError where there is no run.

    The seeds of a finished study `final`; else the winner's runs of the study whose best.json is the newest; else the
    newest run. Studies and runs are never ranked against each other.
    """
    project = Path(project)
    if (project / "final" / "study.json").exists():
        study = Study(project / "final")
        good = [i for i, row in study.latest().items() if row["status"] == "ok"]
        if good and not study.jobs():
            return [study.run(i) for i in good], f"the {counted(len(good), 'run')} of the finished study {study.folder}"
    recipe = newest(project, "best.json")
    if recipe is not None:
        study = Study(recipe.parent)
        # What was written last, not what would win now: a study that grows has points that are half done.
        trials = finished_trials(study, recipe)
        if not trials:
            raise LongtailError(f"{recipe}: no finished trial of {study.folder} has these settings: name runs by --run")
        return [study.run(i) for i in trials], f"the {counted(len(trials), 'run')} of {recipe}"
    weights = newest(project, "best.pt")
    if weights is None:
        raise LongtailError(f"{project}: no run with a best.pt; train one (python train.py), or name one with --run")
    return [weights.parent], f"{weights.parent}, the newest run"


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
    return found


def runs_of(path: Path) -> tuple[Path, list[Path]]:
    """(the folder that what is made of them belongs to, the runs) of a run, a study's winner, or a recipe's trials.

    A recipe's are in the study beside it that tried its settings on the most folds, of such in the newest. Raises
    LongtailError where nothing was trained that could be calibrated.
    """
    if path.is_file():
        found = []
        for spec in path.parent.glob("*/study.json"):
            study = Study(spec.parent)
            trials = finished_trials(study, path)
            folds = {study.config(trial).fold for trial in trials}
            found.append((len(folds), spec.stat().st_mtime_ns, study.folder, [study.run(trial) for trial in trials]))
        folds, _, folder, runs = max(found, default=(0, 0, path, []))
        if not folds:
            raise LongtailError(f"{path}: no study in {path.parent} has a finished trial of these settings")
        return folder, runs
    if not (path / "study.json").exists():
        return path, [path]
    study = Study(path)
    choice = ranking.choose(ranking.points(study))
    if choice is None:
        raise LongtailError(f"{path}: no point of this study can be ranked, so there is no run to take")
    return path, [study.run(trial) for trial in choice.point.trials]


def chosen_last(project: Path) -> Path:
    """The recipe that `make study` chose last, else the study whose best.json is the newest, else the newest run."""
    if (project / "best.json").exists():
        return project / "best.json"
    newest_file = newest(project, "best.json") or newest(project, "best.pt")
    if newest_file is None:
        raise LongtailError(f"{project}: no study and no run there; name one")
    return newest_file.parent
