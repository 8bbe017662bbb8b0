"""Many runs over a grid, a random or a Sobol search, or one setting at a time; their ranking, and what moves scores.

    python sweep.py --name reg --grid mixup_p=0,0.2,0.4 ls=0,0.1 --folds 3        every combination, on three folds
    python sweep.py --sobol 16 lr=1e-4..1e-2:log weight_decay=0.01..0.3:log --halving 3
    python sweep.py --around runs/reg/best.json lr=x0.5,x2 weight_decay=x0.3,x3   one setting at a time
    python sweep.py --ablate runs/reg/best.json                                   one method removed at a time

Every flag of train.py sets the base. The same command again goes on where a study stopped, and several processes or
machines that share the folder share the work. Results: --project/--name/results.csv, best.json. The test set is never
looked at.
"""

import dataclasses
import itertools
import json
import math
import shlex
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from config import OFF, Config, flag_of, nearest, spelled, validated
from engine.flags import SettingsParser, config_from_args, whole_number
from engine.run import replacing
from engine.stop import StopRequest
from errors import ConfigError, run_command
from study import findings, ranking
from study.supervisor import add_worker_flags, check_worker_flags, execute
from study.table import Study, begin_study

KNOBS = {f.name: f for f in dataclasses.fields(Config) if f.metadata["keyed"]}


def knob(name):
    """The Config field that `name` or one of its flags' spellings means."""
    name = name.strip().lstrip("-").replace("-", "_")
    aliases = {n.lstrip("-").replace("-", "_"): f.name for f in KNOBS.values() for n in f.metadata["names"]}
    name = aliases.get(name, name)
    if name not in KNOBS:
        raise ConfigError(f"{name!r} is no setting that a study can vary: did you mean {nearest(name, list(KNOBS))}?")
    return KNOBS[name]


def typed(f, word):
    """A value of field `f` from the command line's text."""
    if f.type is bool:
        if word.lower() not in ("true", "false", "on", "off"):
            raise ConfigError(f"{f.name}={word}: give true or false")
        return word.lower() in ("true", "on")
    return validated(f, word)


def parts(spec):
    """'lr=1e-4,1e-3' as (field, ['1e-4', '1e-3'])."""
    name, equals, words = spec.partition("=")
    if not equals or not all(words.split(",")):
        raise ConfigError(f"{spec!r}: give SETTING=VALUE,VALUE,...")
    return knob(name), words.split(",")


def grid(specs):
    """Every combination of the specs' values, as dicts; the last spec varies fastest."""
    lists = [[(f.name, typed(f, w)) for w in words] for f, words in map(parts, specs)]
    return [dict(c) for c in itertools.product(*lists)]


def search(specs, count, draws):
    """`count` dicts: a spec's values where `draws` [count, len(specs)] in [0, 1) fall; a spec's values are LOW..HIGH,
    LOW..HIGH:log, or a list."""
    found = [{} for _ in range(count)]
    for column, spec in enumerate(specs):
        f, words = parts(spec)
        low, dots, high = words[0].partition("..")
        if not dots:
            values = [typed(f, w) for w in words]
            pick = [values[int(u * len(values))] for u in draws[:, column]]
        else:
            high, _, scale = high.partition(":")
            ends = [typed(f, low), typed(f, high)]
            plain = len(words) == 1 and scale in ("", "log") and all(isinstance(v, (int, float)) for v in ends)
            if not plain or (scale and ends[0] <= 0):
                raise ConfigError(f"{spec!r}: a range is LOW..HIGH, or LOW..HIGH:log above 0, of plain numbers")
            a, b = map(math.log, ends) if scale else ends
            pick = [math.exp(a + u * (b - a)) if scale else a + u * (b - a) for u in draws[:, column]]
            pick = [typed(f, str(round(v)) if f.type is int else f"{v:.4g}") for v in pick]
        for point, value in zip(found, pick):
            point[f.name] = value
    return found


def uniforms(kind, name, count, width):
    """Draws [count, width]; row i depends on the study's name and i alone."""
    seed = zlib.crc32(name.encode())
    if kind == "sobol":  # Sobol 1967, scrambled (Owen 1998)
        return torch.quasirandom.SobolEngine(width, scramble=True, seed=seed).draw(count, dtype=torch.float64).numpy()
    return np.stack([np.random.default_rng([seed, i]).random(width) for i in range(count)])


def around(base, specs):
    """The base point, then points in which one setting differs: to a value, or to xFACTOR times the base's."""
    points = [{}]
    for f, words in map(parts, specs):
        for word in words:
            value = getattr(base, f.name)
            if word.startswith("x") and f.type in (int, float):
                if not isinstance(value, (int, float)):
                    raise ConfigError(f"{f.name}={word}: the base's {spelled(value)} is no plain number to multiply")
                try:
                    value = value * float(word[1:])
                except ValueError:
                    raise ConfigError(f"{f.name}={word}: give x and a factor") from None
                points.append({f.name: typed(f, str(round(value)) if f.type is int else f"{value:.6g}")})
            else:
                points.append({f.name: typed(f, word)})
    return points


def ablations(base):
    """The base point, then points in which one method of the base is switched off."""
    return [{}] + [{k: off} for k, off in OFF.items() if getattr(base, k) != off]


def trials(base, points, seeds):
    """Points times folds times seeds, as dicts of what differs from `base`; folds and seeds vary slowest, so that a
    study that is cut short has compared all points alike."""
    found = []
    for point in points:
        c = dataclasses.replace(base, **point)
        split = base.val_split if c.folds else c.val_split
        for fold in range(c.folds or 1):
            for seed in range(c.seed, c.seed + seeds):
                found.append(dataclasses.replace(c, fold=fold, seed=seed, val_split=split))
    found.sort(key=lambda c: (c.seed, c.fold))
    return [{k: v for k, v in c.settings().items() if v != getattr(base, k)} for c in found]


def conclude(study, choosing):
    """Prints the report, draws effects.png, writes best.json if the study is `choosing` settings, and says the next
    command."""
    print(*findings.report(study), sep="\n")
    found = ranking.choose(study)
    if found is None:
        good = [i for i, r in study.latest().items() if r["status"] == "ok"]
        if good:
            folders = " ".join(str(study.run(i)) for i in good)
            print(f"Next: python predict.py --run {folders} > submission.csv", file=sys.stderr)
        return 0 if good else 1
    if findings.draw(study, study.folder / "effects.png"):
        print(f"drawn in {study.folder / 'effects.png'}", file=sys.stderr)
    if not choosing:
        return 0
    best = dataclasses.replace(study.config(found[1].trials[0]), fold=0, seed=study.base.seed)
    path = study.folder / "best.json"
    with replacing(path) as draft:
        settings = dict(best.settings(), data=study.spec["base"]["data"])
        draft.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    words = ["--data", study.spec["base"]["data"]]
    for k, v in best.settings().items():
        if v != getattr(Config(), k):
            flag = flag_of(k)
            words += [flag if v else f"--no-{flag[2:]}"] if isinstance(v, bool) else [flag, spelled(v)]
    print(
        f"the winner is {path}: python train.py {shlex.join(words)}\n"
        f"Next: python seeds.py -c {shlex.quote(str(path))} --n 10",
        file=sys.stderr,
    )
    return 0


def arguments():
    parser = SettingsParser("sweep.py", __doc__, "[--grid SETTING=A,B ...] ")
    what = parser.add_argument_group("what to try")
    what.add_argument("--grid", nargs="+", default=[], metavar="SETTING=A,B", help="every combination of these values")
    searches = {
        "--random": "the base, and N random points of these ranges or lists",
        "--sobol": "the base, and N points that cover the ranges evenly",
    }
    for flag, said in searches.items():
        what.add_argument(flag, nargs="+", default=[], metavar=("N", "SETTING=LOW..HIGH"), help=said)
    what.add_argument(
        "--around", nargs="+", default=[], metavar=("RECIPE", "SETTING=x0.5,x2"), help="one setting of RECIPE at a time"
    )
    what.add_argument("--ablate", metavar="RECIPE", help="one method of RECIPE removed at a time")
    what.add_argument("--seeds", type=int, default=1, help="seeds of every point and fold (default 1)")
    what.add_argument(
        "--halving",
        type=int,
        default=0,
        metavar="ETA",
        help="go on with the best 1/ETA of the points at a ninth (for 3) and at a third of the epochs",
    )
    what.add_argument(
        "--status", action="store_true", help="say how far the study is, and its ranking so far; run nothing"
    )
    add_worker_flags(parser)
    parser.add_settings()
    return parser


def asked(space, name):
    """(base Config, points) of the parsed arguments."""
    chosen = [flag for flag in ("random", "sobol", "around", "ablate") if getattr(space, flag)]
    if len(chosen) > 1 or (space.grid and {"around", "ablate"} & set(chosen)):
        raise ConfigError(f"choose one of {', '.join('--' + c for c in ['grid'] * bool(space.grid) + chosen)}")
    if space.around or space.ablate:
        if space.config:
            raise ConfigError(f"--{chosen[0]} brings the recipe: drop --config")
        space.config = space.ablate or space.around[0]
    base = config_from_args(space)
    base = dataclasses.replace(base, fold=0, until=0, resume=False, monitor=base.monitor if base.patience else "last")
    if space.around:
        return base, around(base, space.around[1:])
    if space.ablate:
        return base, ablations(base)
    for kind in ("random", "sobol"):
        if getattr(space, kind):
            count, *specs = getattr(space, kind)
            count, specs = whole_number(f"--{kind}", count, 1), [*space.grid, *specs]
            if not specs:
                raise ConfigError(f"--{kind} {count}: give the settings to vary, as in lr=1e-4..1e-2:log")
            return base, [{}, *search(specs, count, uniforms(kind, name, count, len(specs)))]
    return base, grid(space.grid)


def sweep(space, stop):
    name = getattr(space, "name", "sweep")
    base, points = asked(space, name)
    folder = Path(base.project) / name
    halving = whole_number("--halving", space.halving, 2, 100) if space.halving else 0
    if space.status:
        study = Study(folder)
        done = study.latest()
        failed = sum(r["status"] != "ok" for r in done.values())
        print(
            f"{folder}: {len(study.trials)} trials, {len(done) - failed} done, {failed} failed, "
            f"{len(study.jobs())} to run now",
            file=sys.stderr,
        )
        print(*findings.report(study), sep="\n")
        return 0
    check_worker_flags(space, base)
    wanted = trials(base, points, whole_number("--seeds", space.seeds, 1, 1000))
    study = begin_study(folder, base, wanted, halving)
    if not execute(study, space, base, stop):
        print(
            f"{folder}: this shard is done, {len(study.jobs())} trials of others are not. "
            "Next: the same command, or --status",
            file=sys.stderr,
        )
        return 0
    return conclude(study, choosing=not (space.around or space.ablate))


def main(args=None):
    space = arguments().parse_args(args)
    return run_command("sweep.py", lambda: sweep(space, StopRequest().listen()), continue_with="the same command")


if __name__ == "__main__":
    sys.exit(main())
