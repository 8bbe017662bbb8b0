"""What benches that train a study share: their flags, and the study, which goes on where it stopped."""

import dataclasses
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from config import Config
from engine.flags import SettingsParser, config_from_args
from engine.stop import StopRequest
from errors import ConfigError
from study.begin import begin_study
from study.supervisor import add_worker_flags, check_worker_flags, execute
from study.table import Study, identity


def parser_of(program: str, about: str, usage: str = "") -> tuple[SettingsParser, object]:
    """(the parser of `python -m PROGRAM`, its group for flags of its own): --report, workers and settings are there."""
    parser = SettingsParser(program, about, usage)
    what = parser.add_argument_group("what to do")
    what.add_argument("--report", action="store_true", help="print what is there; train nothing")
    add_worker_flags(parser)
    parser.add_settings()
    return parser, what


def base_of(space: Namespace, folds: bool = False) -> Config:
    """The settings that trials change, of checked flags; folds: whether it must part the pictures into folds."""
    base = config_from_args(space)
    check_worker_flags(space, base)
    if folds and base.folds < 2:
        raise ConfigError("give --folds 3: pictures are judged out of fold")
    return base


def known(flag: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Raises ConfigError where one of `names`, given to `flag`, is not among those that are there."""
    for name in names:
        if name not in there:
            raise ConfigError(f"{flag} {name!r}: there are {', '.join(there)}")


def numbers(study: Study, trials: list[dict]) -> list[int]:
    """The numbers that these trials, dicts of what they change of the base, have in the study."""
    number_of = {identity(study.config(i)): i for i in range(len(study.trials))}
    return [number_of[identity(dataclasses.replace(study.base, **trial))] for trial in trials]


def trained(space: Namespace, base: Config, name: str, trials: list[dict]) -> Study:
    """The study of `trials` in --project/--name, else in --project/`name`, trained unless --report asks for no more."""
    folder = Path(base.project) / getattr(space, "name", name)
    if space.report and not (folder / "study.json").exists():
        raise ConfigError(f"--report: there is no study in {folder}: give the same command without it")
    study = begin_study(folder, base, trials)
    if not space.report:
        execute(study, space, base, StopRequest().listen())
    return study
