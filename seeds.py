"""The same settings with other seeds: how much of a score is luck, and is one recipe really better than another?

    python seeds.py --n 10                              the newest best.json of a study, else the default settings
    python seeds.py --n 10 -c runs/sweep/best.json --compare recipes/attempt-3.json
    python seeds.py --n 10 --run runs/run               the settings of a run

Seeds change weights, order, augmentation and mixing, never the split. Scores are the last epoch's, or with --patience
those of the epoch that was kept. Two kinds of chance are told apart: the interval over seeds is about training again,
the bootstrap over pictures about validating on others. A study in --project, so it resumes. Results: seeds.csv,
per_class.csv, summary.json there.
"""

import csv
import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np

import metrics
from config import Config, config_from, flag_of, read_recipe
from engine.flags import SettingsParser, config_from_args, whole_number
from engine.outcome import validation_labels
from engine.run import replacing
from engine.stop import StopRequest
from errors import ConfigError, LongtailError, run_command
from study import stats
from study.supervisor import add_worker_flags, check_worker_flags, execute
from study.table import SCHEME, begin_study

SCORES = dict(macro_f1="macro F1", acc="accuracy", nll="NLL", ece="ECE", worst="worst class")


def other(space, base):
    """The Config of --compare, a recipe or a run's folder, on the data of `base` and with the flags given on top."""
    shared = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.metadata["group"] == "data"}
    given = {k: v for k, v in vars(space).items() if k in shared or k in Config.__dataclass_fields__}
    path = Path(space.compare)
    found = read_recipe(path / "args.json" if path.is_dir() else path, dataclasses.replace(Config(), **shared))
    found = dataclasses.replace(found, **{k: v for k, v in given.items() if k != "config"})
    for k in (*SCHEME, "fold"):
        if getattr(found, k) != getattr(base, k):
            raise ConfigError(
                f"{space.compare} validates on other pictures ({k} {getattr(found, k)}, "
                f"not {getattr(base, k)}): give {flag_of(k)}, which then holds for both"
            )
    return dataclasses.replace(found, data=base.data, seed=base.seed, monitor=base.monitor, patience=base.patience)


def newest(project):
    """The newest best.json of the studies in `project`, None if there is none."""
    found = sorted(Path(project).glob("*/best.json"), key=lambda p: (p.stat().st_mtime_ns, p))
    return found[-1] if found else None


def outputs(study, i):
    """(targets [N], logits [N,C], class names) of trial i's validation pictures, at the epoch it kept."""
    folder = study.run(i)
    targets, _, classes = validation_labels(folder)
    return targets, np.load(folder / "val_logits.npy"), classes


def summary(study, trials):
    """What the seeds of one recipe say, as a JSON-ready dict, and its table of classes (rows of name, support, F1's
    mean, sd, min, max).

    scores: name -> values by seed, mean, sd, half width of the 95% t interval. ensemble: scores of the seeds' mean
    posterior. agreement: share of pictures that two seeds label alike, mean over pairs. bootstrap: 95% interval, over
    validation pictures, of the seeds' mean macro F1.
    """
    rows = study.latest()
    scores = {}
    for name in SCORES:
        values = [rows[i][name] for i in trials]
        mean, half = stats.interval(values)
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        scores[name] = dict(values=values, mean=mean, half=half, sd=sd)
    found = [outputs(study, i) for i in trials]
    targets, classes = found[0][0], found[0][2]
    predicted = np.stack([logits.argmax(1) for _, logits, _ in found], 1)
    mixture = np.log(np.mean([metrics.softmax(logits) for _, logits, _ in found], 0))
    ensemble = metrics.evaluate(mixture, targets, np.ones(len(classes)))
    agreement = [float((a == b).mean()) for a, b in itertools.combinations(predicted.T, 2)]

    def mean_f1(t, p):
        return float(np.mean([metrics.macro_f1(t, column, len(classes)) for column in p.T]))

    f1 = np.stack([metrics.per_class(targets, column, len(classes))["f1"] for column in predicted.T])
    support = np.bincount(targets, minlength=len(classes))
    table = [
        [c, int(n), *map(float, (v.mean(), v.std(ddof=1) if len(v) > 1 else math.nan, v.min(), v.max()))]
        for c, n, v in zip(classes, support, f1.T)
    ]
    return dict(
        n=len(trials),
        pictures=len(targets),
        scores=scores,
        ensemble={k: ensemble[k] for k in SCORES},
        agreement=float(np.mean(agreement)) if agreement else math.nan,
        bootstrap=metrics.bootstrap(mean_f1, targets, predicted, n=500),
    ), table


def lines(name, s, table):
    """A summary as Markdown."""
    yield f"**{name}**, {s['n']} seeds, {s['pictures']} validation pictures, {s['epoch']}:\n"
    yield "| seed | " + " | ".join(SCORES.values()) + " |\n| --- |" + " --- |" * len(SCORES)
    for k in range(s["n"]):
        yield f"| {s['seeds'][k]} | " + " | ".join(f"{s['scores'][m]['values'][k]:.4f}" for m in SCORES) + " |"
    scores = [s["scores"][m] for m in SCORES]
    yield "| mean ± sd | " + " | ".join(f"{v['mean']:.4f} ± {v['sd']:.4f}" for v in scores) + " |"
    yield "| 95% t interval of the mean | " + " | ".join(f"± {v['half']:.4f}" for v in scores) + " |"
    yield f"| ensemble of the {s['n']} | " + " | ".join(f"{s['ensemble'][m]:.4f}" for m in SCORES) + " |\n"
    if s["n"] > 1:
        loose = [
            f"{c} (F1 {low:.2f} to {high:.2f} on {n} pictures)"
            for c, n, _, _, low, high in sorted(table, key=lambda row: -row[3])[:3]
        ]
        yield f"Two seeds label {s['agreement']:.1%} of the pictures alike. Least stable: {', '.join(loose)}."
    low, high = s["bootstrap"]
    yield (
        f"Over other validation pictures the mean macro F1 may lie in {low:.4f} to {high:.4f} (95%, bootstrap over "
        "pictures)."
    )


def against(a, b):
    """Differences a - b by seed of two summaries, as Markdown."""
    d = np.subtract(a["scores"]["macro_f1"]["values"], b["scores"]["macro_f1"]["values"])
    mean, half = stats.interval(d)
    yield (
        f"\nmacro F1, first minus second, paired by seed: {', '.join(f'{v:+.4f}' for v in d)}; mean {mean:+.4f}, "
        f"95% t interval {mean - half:+.4f} to {mean + half:+.4f} (n {len(d)})"
    )
    try:
        yield f"exact sign-flip test: p = {stats.sign_flip(d):.4f}"
    except ValueError as e:
        yield f"no p: {e}"


def run(space, stop):
    count = whole_number("--n", space.n, 1, 1000)
    project = getattr(space, "project", Config().project)
    if space.run and space.config:
        raise ConfigError("--run and --config both bring settings: give one")
    space.config = (Path(space.run) / "args.json") if space.run else space.config or newest(project)
    base = config_from_args(space)
    print(f"settings: {space.config or 'the defaults'}", file=sys.stderr)
    base = dataclasses.replace(base, until=0, resume=False, monitor=base.monitor if base.patience else "last")
    recipes = [(str(space.config or "default settings"), base)]
    if space.compare:
        recipes.append((space.compare, other(space, base)))
    changed = [{k: v for k, v in c.settings().items() if v != getattr(base, k)} for _, c in recipes]
    trials = [[dict(c, seed=base.seed + k) for k in range(count)] for c in changed]
    check_worker_flags(space, base)
    name = getattr(space, "name", f"seeds-{base.key('')[:8]}")
    folder = Path(project) / name
    study = begin_study(folder, base, [t for pair in zip(*trials) for t in pair])
    if not execute(study, space, base, stop):
        print(f"{folder}: this shard is done, {len(study.jobs())} trials of others are not", file=sys.stderr)
        return 0
    known = {json.dumps(study.config(i).settings()): i for i in range(len(study.trials))}
    rows, found, classes = study.latest(), [], []
    for (title, _), wanted in zip(recipes, trials):
        indices = [known[json.dumps(config_from(t, "seeds", study.base).settings())] for t in wanted]
        for i in indices:
            if rows[i]["status"] != "ok":
                raise LongtailError(f"{folder}: trial {i} failed: {rows[i]['reason']}; --retry-failed runs it again")
            if "macro_f1" not in rows[i]:
                raise LongtailError(
                    f"{folder}: there are no validation pictures to score on: give --val-split or --folds"
                )
        s, table = summary(study, indices)
        s = dict(recipe=title, seeds=[study.config(i).seed for i in indices], epoch=study.epoch(), **s)
        print(*lines(title, s, table), sep="\n")
        found.append(s)
        classes += [[title, *row] for row in table]
    if space.compare:
        print(*against(*found), sep="\n")
    write(folder, found, classes)
    print(
        f"written to {folder}: seeds.csv, per_class.csv, summary.json. Next: python sweep.py --name final "
        f"-c {space.config or 'RECIPE'} --folds 0 --val-split 0 --seeds 5, then python predict.py > submission.csv",
        file=sys.stderr,
    )
    return 0


def write(folder, found, classes):
    with replacing(folder / "seeds.csv") as path, open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows(
            [["recipe", "seed", *SCORES]]
            + [
                [s["recipe"], seed, *(s["scores"][m]["values"][k] for m in SCORES)]
                for s in found
                for k, seed in enumerate(s["seeds"])
            ]
        )
    with replacing(folder / "per_class.csv") as path, open(path, "w", newline="", encoding="utf-8") as f:
        header = ["recipe", "class", "pictures", "f1_mean", "f1_sd", "f1_min", "f1_max"]
        csv.writer(f, lineterminator="\n").writerows([header, *classes])
    with replacing(folder / "summary.json") as path:
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(args=None):
    parser = SettingsParser("seeds.py", __doc__, "[--n N] [--compare OTHER] ")
    what = parser.add_argument_group("what to repeat")
    what.add_argument("--n", default=10, help="seeds, from --seed on (default 10)")
    what.add_argument("--run", metavar="RUN", help="the settings of this run")
    what.add_argument(
        "--compare", metavar="OTHER", help="a recipe or run to compare with, seed by seed, on the same split"
    )
    add_worker_flags(parser)
    parser.add_settings()
    space = parser.parse_args(args)
    return run_command("seeds.py", lambda: run(space, StopRequest().listen()), continue_with="the same command")


if __name__ == "__main__":
    sys.exit(main())
