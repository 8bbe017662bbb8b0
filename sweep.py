"""Many runs over a grid, a random or a Sobol search, or one setting at a time; their ranking, and what moves scores.

    python sweep.py --name reg --grid mixup_p=0,0.2,0.4 ls=0,0.1 --folds 3        every combination, on three folds
    python sweep.py --sobol 16 lr=1e-4..1e-2:log weight_decay=0.01..0.3:log --halving 3
    python sweep.py --around runs/reg/best.json lr=x0.5,x2 weight_decay=x0.3,x3   one setting at a time
    python sweep.py --ablate runs/reg/best.json                                   one method removed at a time

Every flag of train.py sets the base, but the last epoch is scored unless --patience is given. The same command again
goes on where a study stopped, and several processes or machines that share the folder share the work. Results:
--project/--name/results.csv and best.json, which --around and --ablate leave to `python -m study.best`. The test set is
never looked at.
"""

import dataclasses
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from config import OFF, Config
from engine.flags import SettingsParser, as_flags, config_from_args, whole_number
from engine.outcome import predict_command
from engine.stop import StopRequest
from errors import ConfigError, counted, run_command
from files import replacing
from reporting import findings
from study import ranking
from study.begin import begin_study, without_folds
from study.best import recipe, write_best
from study.designs import around, grid, search, uniforms
from study.metric import METRICS
from study.supervisor import add_worker_flags, check_worker_flags, execute
from study.table import Study, changes


def ablations(base: Config) -> list[dict]:
    """The base candidate, then candidates in which one method of the base is switched off."""
    return [{}] + [{k: off} for k, off in OFF.items() if getattr(base, k) != off]


def trials(base: Config, candidates: list[dict], seeds: int, monitor: str | None = None) -> list[dict]:
    """Candidates times folds times seeds, as dicts of what differs from `base`.

    monitor: by what those with patience wait for a better epoch (None: as the base says); the others keep their last.
    Folds and seeds vary slowest, so that a study that is cut short has compared all candidates alike.
    """
    configs = []
    patient = [bool(candidate.get("patience", base.patience)) for candidate in candidates]
    for candidate, waits in zip(candidates, patient):
        if waits:
            candidate = dict(monitor=monitor or base.monitor) | candidate
        elif any(patient):
            candidate = candidate | dict(monitor="last")
        config = dataclasses.replace(base, **candidate)
        # Folds leave no other split: candidates that differ in it alone are one.
        split = base.val_split if config.folds else config.val_split
        for fold in range(config.folds or 1):
            for seed in range(config.seed, config.seed + seeds):
                configs.append(dataclasses.replace(config, fold=fold, seed=seed, val_split=split))
    configs.sort(key=lambda config: (config.seed, config.fold))
    return [changes(config, base) for config in configs]


def conclude(study: Study, choosing: bool, device: str) -> int:
    """Prints the report, draws effects.png, writes best.json if the study is `choosing` settings, and says the next
    command, on `device`. Returns the exit code: 1 where trials failed and no candidate can be ranked."""
    groups = ranking.candidates(study)
    print(*findings.report(study, groups), sep="\n")
    choice = ranking.choose(groups)
    if choice is None:
        rows = study.latest()
        good = [i for i, row in rows.items() if row["status"] == "ok"]
        if len(good) < len(rows):  # what was to be ranked failed
            print("Next: the same command with --retry-failed", file=sys.stderr)
            return 1
        words = ["--run", *(str(study.run(i)) for i in good)]
        print(f"Next: {predict_command(study.base.data, words, device)}", file=sys.stderr)
        return 0
    from reporting.study_effects import picture  # with matplotlib, which takes its time to import

    chart = picture(study, groups[choice.scheme])
    if chart is not None:
        with replacing(study.folder / "effects.png") as draft:
            chart.save(draft, format="png", dpi=144)
        print(f"drawn in {study.folder / 'effects.png'}", file=sys.stderr)
    if choosing:
        _hand_on(study, choice.candidate, device)
    return 0


def arguments():
    parser = SettingsParser("sweep.py", __doc__, "[--grid SETTING=A,B ...] ")
    what = parser.add_argument_group("what to try")
    what.add_argument("--grid", nargs="+", default=[], metavar="SETTING=A,B", help="every combination of these values")
    searches = {
        "--random": "the base, and N random candidates of these ranges or lists",
        "--sobol": "the base, and N candidates that cover the ranges evenly",
    }
    for flag, said in searches.items():
        what.add_argument(flag, nargs="+", default=[], metavar=("N", "SETTING=LOW..HIGH"), help=said)
    what.add_argument(
        "--around", nargs="+", default=[], metavar=("RECIPE", "SETTING=x0.5,x2"), help="one setting of RECIPE at a time"
    )
    what.add_argument("--ablate", metavar="RECIPE", help="one method of RECIPE removed at a time")
    what.add_argument("--seeds", type=int, default=1, help="seeds of every candidate and fold (default 1)")
    what.add_argument(
        "--halving",
        type=int,
        default=0,
        metavar="ETA",
        help="with 3: after a ninth of the epochs, and again after a third, only the best third of the candidates goes "
        "on, and the base",
    )
    what.add_argument("--metric", choices=METRICS, help="what the candidates are ranked by (default macro_f1)")
    what.add_argument(
        "--status", action="store_true", help="say how far the study is, and its ranking so far; run nothing"
    )
    add_worker_flags(parser)
    parser.add_settings(name="folder of the study in --project (default sweep)", resume="", fold="", until="")
    return parser


def asked(space: Namespace, name: str) -> tuple[Config, list[dict]]:
    """(base Config, candidates) of the parsed arguments. Raises ConfigError."""
    chosen = [flag for flag in ("random", "sobol", "around", "ablate") if getattr(space, flag)]
    if space.grid:
        chosen.insert(0, "grid")
    # A grid may add settings to a search; every other pair contradicts itself.
    if len(chosen) > 1 and chosen not in (["grid", "random"], ["grid", "sobol"]):
        raise ConfigError(f"choose one of {', '.join('--' + flag for flag in chosen)}")
    if space.around or space.ablate:
        if space.config:
            raise ConfigError(f"--{chosen[0]} brings the recipe: drop --config")
        space.config = space.ablate or space.around[0]
    base = config_from_args(space)
    base = dataclasses.replace(base, fold=0, until=0, resume=False)
    if space.around:
        _, *specs = space.around
        return base, around(base, specs)
    if space.ablate:
        return base, ablations(base)
    for kind in ("random", "sobol"):
        if getattr(space, kind):
            return base, _searched(kind, name, space.grid, *getattr(space, kind))
    return base, grid(space.grid)


def sweep(space: Namespace, stop: StopRequest) -> int:
    """The command, from its parsed arguments; returns the exit code."""
    name = getattr(space, "name", "sweep")
    base, candidates = asked(space, name)
    if hasattr(space, "fold") or any("fold" in candidate for candidate in candidates):
        raise ConfigError("a study trains every one of --folds: leave --fold out")
    monitor = base.monitor
    if not base.patience:
        base = dataclasses.replace(base, monitor="last")  # the best epoch of the pictures that score would flatter
    folder = Path(base.project) / name
    halving = whole_number("--halving", space.halving, 2, 100) if space.halving else 0
    if space.status:
        _print_status(Study(folder), space.metric)
        return 0
    check_worker_flags(space, base)
    base, candidates = without_folds(base, candidates)
    wanted = trials(base, candidates, whole_number("--seeds", space.seeds, 1, 1000), monitor)
    study = begin_study(folder, base, wanted, halving, space.metric)
    if not execute(study, space, base, stop):
        return 0
    return conclude(study, not (space.around or space.ablate), base.device)


def main(args: list[str] | None = None) -> int:
    space = arguments().parse_args(args)
    return run_command("sweep.py", lambda: sweep(space, StopRequest().listen()), continue_with="the same command")


def _searched(kind, name, grid_specs, count, *specs):
    """The base candidate and `count` candidates of a random or Sobol search."""
    count = whole_number(f"--{kind}", count, 1)
    specs = [*grid_specs, *specs]
    if not specs:
        raise ConfigError(f"--{kind} {count}: give the settings to vary, as in lr=1e-4..1e-2:log")
    return [{}, *search(specs, count, uniforms(kind, name, count, len(specs)))]


def _print_status(study, metric):
    """How far the study is, and its ranking so far, by its own metric or by the one asked for."""
    print(f"{study.folder}: {counted(len(study.trials), 'trial')}, {findings.how_far(study)}", file=sys.stderr)
    print(*findings.report(study, ranking.candidates(study, metric)), sep="\n")


def _hand_on(study, candidate, device):
    """Writes the winner's settings to best.json, and says the next command."""
    path = study.folder / "best.json"
    write_best(study, candidate, path)
    best = dataclasses.replace(recipe(study, candidate), project=str(study.folder.parent), device=device)
    where = [name for name in ("device", "project") if getattr(best, name) != getattr(Config(), name)]
    following = shlex.join(["python", "seeds.py", "-c", str(path), *as_flags(best, where), "--n", "10"])
    print(f"the winner is {path}\nNext: {following}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
