"""What a study hands on: its winner as a recipe, best.json, that repeats the winner's trial; and of several studies,
the stages of `make study`, the best winner.

    python -m study.best runs/best.json runs/sweep runs/tune         what `make` calls between its stages

Stages are compared like with like: on the same pictures, parted in the same way, at the same kind of epoch. Trains
nothing.
"""

import dataclasses
import json
import sys
from pathlib import Path

from config import WAY, Config, read_recipe, spelled
from errors import LongtailError, Parser, run_command
from files import replacing
from study import ranking
from study.metric import METRICS
from study.ranking import Candidate, Choice
from study.table import Study

PICTURES = ("data", "labels", "image_col", "label_col", "group_col", "skip_bad")  # which pictures, of which classes


def recipe(study: Study, candidate: Candidate) -> Config:
    """The settings that train `candidate` again: the seed of the base, on the pictures and threads of the study, in the
    precision, layout and products that its first trial had."""
    first = candidate.trials[0]
    spec, ran = study.spec, study.run(first) / "args.json"
    way = read_recipe(ran) if ran.exists() else study.config(first)
    return dataclasses.replace(
        study.config(first),
        fold=0,
        seed=study.base.seed,
        data=spec["base"]["data"],
        threads=spec["threads"] or 0,
        **{name: getattr(way, name) for name in WAY},
    )


def write_best(study: Study, candidate: Candidate, path: Path) -> None:
    """Writes the recipe of `candidate` to `path`, all or nothing."""
    best = recipe(study, candidate)
    settings = dict(best.settings(), data=best.data, threads=best.threads)
    with replacing(path) as draft:
        draft.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def best_stage(folders: list[Path]) -> tuple[Study, Candidate, list[str]]:
    """(study, candidate, lines that say why): the winner that scores best, of equals the earlier stage's.

    Folders that hold no study are stages that were not run. LongtailError where no stage has a winner.
    """
    lines, stages = [], []  # stages: (Study, Choice)
    for folder in folders:
        if not (folder / "study.json").exists():
            continue
        study = Study(folder)
        choice = ranking.choose(ranking.candidates(study))
        if choice is None:
            lines.append(f"{folder.name}: no candidate to rank")
            continue
        unlike = _unlike(stages[0], (study, choice)) if stages else ""
        if unlike:
            lines.append(f"{folder.name}: not compared: {unlike}")
            continue
        candidate = choice.candidate
        title = METRICS[candidate.metric]
        lines.append(f"{folder.name}: {candidate.label()}: {title} {candidate.score:.4f} ± {candidate.error:.4f}")
        stages.append((study, choice))
    if not stages:
        raise LongtailError(f"none of {', '.join(map(str, folders))} has a winner: `python sweep.py` makes one")
    study, choice = max(stages, key=lambda stage: stage[1].candidate.merit)  # of equals the first
    lines.append(f"best of {len(stages)}: {study.folder.name}, by {METRICS[study.metric]} under {choice.scheme}")
    return study, choice.candidate, lines


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="study.best", description=__doc__)
    parser.add_argument("recipe", type=Path, help="where to write the best winner's settings")
    parser.add_argument("studies", type=Path, nargs="+", help="folders of studies, the earliest stage first")
    space = parser.parse_args(args)

    def choose():
        study, candidate, lines = best_stage(space.studies)
        print(*lines, sep="\n", file=sys.stderr)
        write_best(study, candidate, space.recipe)
        print(f"written to {space.recipe}", file=sys.stderr)

    return run_command("study.best", choose)


def _unlike(first: tuple[Study, Choice], other: tuple[Study, Choice]) -> str:
    """In what two stages cannot be compared; '' if they can."""
    (old, old_choice), (new, new_choice) = first, other
    same_labels = old.spec.get("listing_key") == new.spec.get("listing_key")
    for name in PICTURES:
        if getattr(old.base, name) != getattr(new.base, name) and not (name == "labels" and same_labels):
            return f"{name} {spelled(getattr(new.base, name))}, not {spelled(getattr(old.base, name))}"
    # The key is of the pictures as they are decoded: at another size it is another.
    same_size = (old.base.img_size, old.base.resize) == (new.base.img_size, new.base.resize)
    if same_size and old.spec["data_key"] != new.spec["data_key"]:
        return f"the pictures are others than those of {old.folder.name}"
    if old_choice.scheme != new_choice.scheme:
        return f"{new_choice.scheme}, not {old_choice.scheme}"
    if old_choice.candidate.held_out.pictures != new_choice.candidate.held_out.pictures:
        return f"judged on other pictures than {old.folder.name}"
    if old.metric != new.metric:
        return f"ranked by {METRICS[new.metric]}, not {METRICS[old.metric]}: give all stages the same --metric"
    if old.scored_epoch() != new.scored_epoch():
        return f"scored at the {new.scored_epoch()}, not the {old.scored_epoch()}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
