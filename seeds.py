"""The same settings with other seeds: how much of a score is luck, and is one recipe really better than another?

    python seeds.py --n 10                              the newest best.json, else the default settings
    python seeds.py --n 10 -c runs/sweep/best.json --compare recipes/attempt-3.json
    python seeds.py --n 10 --run runs/run               the settings of a run

Seeds change weights, order, augmentation and mixing, never the split. With --folds each seed is trained on every fold
and scored on all pictures together. Scores are the last epoch's, or with --patience those of the epoch that was kept.
Two kinds of chance are told apart: an interval over seeds is about training again, one over pictures about having few
to validate on. A study in --project, so it resumes. Results: seeds.csv, per_class.csv, summary.json there.
"""

import dataclasses
import itertools
import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from config import Config, config_from, flag_of, read_recipe, spelled, whole_paths
from engine.build import init_key
from engine.evaluate import averaged
from engine.flags import SettingsParser, as_flags, config_from_args, given_names, whole_number
from engine.outcome import predict_command
from engine.stop import StopRequest
from errors import ConfigError, LongtailError, counted, run_command
from reporting.tables import table
from study import stats
from study.begin import begin_study, without_folds
from study.best import PICTURES
from study.chosen import newest_recipe
from study.held_out import HeldOut, difference, judged, together
from study.metric import METRICS, titled
from study.repeats import SCORES, write
from study.supervisor import add_worker_flags, check_worker_flags, execute
from study.table import SCHEME, Study, changes, identity

# What the command of the last training says by itself.
FINAL = ("name", "project", "folds", "fold", "val_split", "until", "resume")


class ClassRow(NamedTuple):
    """What the seeds of a recipe say of a class; a line of per_class.csv after the recipe's name."""

    name: str
    pictures: int  # for validation
    f1_mean: float
    f1_sd: float  # nan for one seed
    f1_min: float
    f1_max: float


def other(space: Namespace, base: Config) -> Config:
    """The Config of --compare, a recipe or a run's folder, on the data of `base` and with the flags given on top.

    Raises ConfigError where it would be scored on other pictures.
    """
    fields = dataclasses.fields(Config)
    shared = {field.name: getattr(base, field.name) for field in fields if field.metadata["group"] == "data"}
    given = {field.name: getattr(space, field.name) for field in fields if hasattr(space, field.name)}
    path = Path(space.compare)
    if path.is_dir():
        path = path / "args.json"
    config = read_recipe(path, dataclasses.replace(Config(), **shared))
    config, _ = without_folds(dataclasses.replace(config, **given))
    config = dataclasses.replace(config, **whole_paths(vars(config)))
    if base.folds:  # they leave no other split, and without --fold all of them are trained
        config = dataclasses.replace(config, val_split=base.val_split, fold=given.get("fold", base.fold))
    for name in (*PICTURES, *SCHEME, "fold"):
        if name != "data" and getattr(config, name) != getattr(base, name):
            raise ConfigError(
                f"{space.compare} validates on other pictures ({name} {spelled(getattr(config, name))}, "
                f"not {spelled(getattr(base, name))}): give {flag_of(name)}, which then holds for both"
            )
    return dataclasses.replace(config, data=base.data, seed=base.seed, monitor=base.monitor, patience=base.patience)


def summary(study: Study, trials: list[list[int]]) -> tuple[dict, list[ClassRow]]:
    """What the seeds of one recipe say, as a JSON-ready dict, and its table of classes. trials: by seed, a fold each.

    scores: name -> values by seed, mean, sd, half width of the 95% t interval; over the pictures of all folds together.
    ensemble: scores of the seeds' mean posterior. agreement: share of pictures that two seeds label alike, mean over
    pairs. absent: classes without a validation picture. interval: 95%, of the mean macro F1 with ever more of them.
    """
    found = [together(study, of_seed) for of_seed in trials]
    _, targets, _, classes = found[0]  # those of every seed: the split is one
    logits = [logits_of_seed for _, _, logits_of_seed, _ in found]
    anything = np.ones(len(classes))  # who is head or tail is not asked for
    by_seed = [metrics.evaluate(each, targets, anything) for each in logits]
    scores = {}
    for name in SCORES:
        values = [of_seed[name] for of_seed in by_seed]
        mean, half = stats.interval(values)
        scores[name] = dict(values=values, mean=mean, half=half, sd=_sd(values))
    predicted = np.stack([each.argmax(1) for each in logits], 1)  # [N, seeds]
    ensemble = metrics.evaluate(averaged(logits), targets, anything)
    # Pairs of seeds, for each pair the share of pictures on which they agree.
    agreement = [float((a == b).mean()) for a, b in itertools.combinations(predicted.T, 2)]
    return dict(
        n=len(trials),
        pictures=len(targets),
        scores=scores,
        ensemble={name: ensemble[name] for name in SCORES},
        agreement=float(np.mean(agreement)) if agreement else math.nan,
        absent=len(classes) - len(np.unique(targets)),
        interval=metrics.macro_f1_interval(targets, predicted, len(classes)),
    ), _class_rows(targets, predicted, classes)


def lines(title: str, result: dict, of_class: list[ClassRow]) -> Iterator[str]:
    """A summary, line by line."""
    n = result["n"]
    scores = [result["scores"][name] for name in SCORES]
    in_folds = f" in {result['folds']} folds" if result["folds"] > 1 else ""
    scored_on = counted(result["pictures"], "validation picture") + in_folds
    yield f"**{title}**, {counted(n, 'seed')}, {scored_on}, {result['epoch']}:\n"
    rows = [[str(seed), *(f"{score['values'][k]:.4f}" for score in scores)] for k, seed in enumerate(result["seeds"])]
    if n > 1:
        rows.append(["mean ± sd", *(f"{score['mean']:.4f} ± {score['sd']:.4f}" for score in scores)])
        rows.append(["95% t interval of the mean", *(f"± {score['half']:.4f}" for score in scores)])
        rows.append([f"ensemble of the {n}", *(f"{result['ensemble'][name]:.4f}" for name in SCORES)])
    yield from table(["seed", *SCORES.values()], rows)
    yield ""
    if n > 1:
        loose = sorted(of_class, key=lambda row: -row.f1_sd)[:3]
        named = []
        for row in loose:
            named.append(f"{row.name} (F1 {row.f1_min:.2f} to {row.f1_max:.2f} on {counted(row.pictures, 'picture')})")
        yield f"Two seeds label {result['agreement']:.1%} of the pictures alike. Least stable: {', '.join(named)}."
    low, high = result["interval"]
    yield (
        f"With ever more validation pictures like these {result['pictures']}, the seeds' mean macro F1 would lie in "
        f"{low:.4f} to {high:.4f} (95%)."
    )
    if result["absent"]:
        yield f"{result['absent']} of {len(of_class)} classes have no validation picture: macro F1 is over the others."


def against(first: HeldOut, second: HeldOut) -> Iterator[str]:
    """Differences first - second of how two recipes did on the same pictures with the same seeds, line by line."""
    if first.pictures != second.pictures:
        raise LongtailError("the two recipes were scored on other pictures: compare them under another --name")
    metric = first.metric
    differences = first.scores[metric] - second.scores[metric]
    mean, half = stats.interval(differences)
    yield (
        f"\n{titled(metric)}, first minus second, paired by seed: {', '.join(f'{v:+.4f}' for v in differences)}; "
        f"mean {mean:+.4f}. Other seeds on these pictures: {mean - half:+.4f} to {mean + half:+.4f} "
        f"(95% t interval, n {len(differences)})"
    )
    error = difference(first, second)[1]
    half = metrics.Z * error
    yield (
        f"With other pictures, too: {mean - half:+.4f} to {mean + half:+.4f} (95%, paired picture by picture, "
        f"n {first.left_out.shape[1]}; standard error {error:.4f})"
    )
    try:
        yield f"exact sign-flip test: p = {stats.sign_flip(differences):.4f}"
    except ValueError as e:
        yield f"no p: {e}"


def run(space: Namespace, stop: StopRequest) -> int:
    """The command, from its parsed arguments; returns the exit code."""
    count = whole_number("--n", space.n, 1, 1000)
    project = getattr(space, "project", Config().project)
    if space.run and space.config:
        raise ConfigError("--run and --config both bring settings: give one")
    if space.run:
        space.config = Path(space.run) / "args.json"
    elif not space.config:
        space.config = newest_recipe(Path(project))
    asked = config_from_args(space)
    print(f"settings: {space.config or 'the defaults'}", file=sys.stderr)
    monitor = asked.monitor if asked.patience else "last"
    base = dataclasses.replace(asked, until=0, resume=False, monitor=monitor, **whole_paths(vars(asked)))
    base, _ = without_folds(base)
    # Every fold, so that each picture is judged by networks that had not seen it; or the one that is asked for.
    folds = range(base.folds) if base.folds and not hasattr(space, "fold") else [base.fold]
    titles, trials = [str(space.config or "default settings")], [_trials(base, base, count, folds)]
    if space.compare:
        titles.append(space.compare)
        trials.append(_trials(other(space, base), base, count, folds))
    check_worker_flags(space, base)
    folder = Path(project) / getattr(space, "name", f"seeds-{base.key('', init_key(base.init))[:8]}")
    seed_by_seed = [trial for pair in zip(*trials) for trial in pair]  # stopped early, both have the same seeds
    study = begin_study(folder, base, seed_by_seed, metric=space.metric, scored=True)
    if not execute(study, space, base, stop):
        return 0
    results, classes, held_out = [], [], []
    for title, wanted in zip(titles, trials):
        indices = _scored(study, wanted)
        by_seed = [indices[k : k + len(folds)] for k in range(0, len(indices), len(folds))]
        result, of_class = summary(study, by_seed)
        seeds = [study.config(of_seed[0]).seed for of_seed in by_seed]
        result = dict(recipe=title, seeds=seeds, folds=len(folds), epoch=study.scored_epoch(), **result)
        print(*lines(title, result, of_class), sep="\n")
        results.append(result)
        held_out.append(judged(study, by_seed, study.metric))
        classes += [[title, *row] for row in of_class]
    if space.compare:
        print(*against(*held_out), sep="\n")
    final = _final_command(space, asked, project)
    write(folder, [result | dict(next=final) for result in results], classes)
    answer = predict_command(study.base.data, _in_project(asked, project), base.device)
    print(f"written to {folder}: seeds.csv, per_class.csv, summary.json. Next: {final}, then {answer}", file=sys.stderr)
    return 0


def main(args: list[str] | None = None) -> int:
    parser = SettingsParser("seeds.py", __doc__, "[--n N] [--compare OTHER] ")
    what = parser.add_argument_group("what to repeat")
    what.add_argument("--n", default=10, help="seeds, from --seed on (default 10)")
    what.add_argument("--run", metavar="RUN", help="the settings of this run")
    what.add_argument("--compare", metavar="OTHER", help="a recipe or run to compare with, seed by seed, same split")
    what.add_argument("--metric", choices=METRICS, help="what --compare is about (default macro_f1)")
    add_worker_flags(parser)
    parser.add_settings(name="folder of the study in --project (default: by its settings)", resume="", until="")
    space = parser.parse_args(args)
    return run_command("seeds.py", lambda: run(space, StopRequest().listen()), continue_with="the same command")


def _final_command(space, asked, project):
    """The command that trains what the parsed arguments `space` ask for, a Config, on all pictures."""
    recipe = ["-c", str(space.config)] if space.config else []
    given = [name for name in given_names(space) if name not in FINAL]
    final = ["--name", "final", "--folds", "0", "--val-split", "0", "--seeds", "5"]
    return shlex.join(["python", "sweep.py", *recipe, *_in_project(asked, project), *as_flags(asked, given), *final])


def _in_project(asked, project):
    """The flag of the project, where a recipe or the default names another."""
    return [] if asked.project == project == Config().project else ["--project", project]


def _trials(config, base, count, folds):
    """`count` seeds of `config` on each of `folds`, seed by seed, as dicts of what differs from `base`."""
    changed = changes(config, base)
    return [dict(changed, fold=fold, seed=base.seed + k) for k in range(count) for fold in folds]


def _scored(study, wanted):
    """The numbers of the trials `wanted`. LongtailError where one failed."""
    number_of = {identity(study.config(i)): i for i in range(len(study.trials))}
    rows = study.latest()
    numbers = [number_of[identity(config_from(trial, "seeds", study.base))] for trial in wanted]
    for i in numbers:
        if rows[i]["status"] != "ok":
            raise LongtailError(f"{study.folder}: trial {i} failed: {rows[i]['reason']}; --retry-failed runs it again")
    return numbers


def _class_rows(targets, predicted, classes):
    """A ClassRow for each of `classes`, from targets [N] and predicted [N, seeds]."""
    f1 = np.stack([metrics.per_class(targets, column, len(classes))["f1"] for column in predicted.T])  # [seeds, C]
    support = np.bincount(targets, minlength=len(classes))
    rows = []
    for name, pictures, values in zip(classes, support, f1.T):
        low, high = float(values.min()), float(values.max())
        rows.append(ClassRow(name, int(pictures), float(values.mean()), _sd(values), low, high))
    return rows


def _sd(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


if __name__ == "__main__":
    sys.exit(main())
