"""The command line of every setting: flags made from config.py's fields, and the Config that flags and recipes ask for.

`python -m engine.flags` prints the table of methods that docs/methods.md holds.
"""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from config import REMOVED, Config, bounds_of, flag_of, read_recipe, spelled
from errors import ConfigError, Parser, counted


class SettingsParser(Parser):
    """A parser of a command's own flags and of every setting. --help shows the settings of every day, --help-all all.

    takes: the command's own part of the usage line.
    """

    def __init__(self, prog: str, description: str, takes: str = ""):
        usage = f"%(prog)s {takes}[-c RECIPE] [--SETTING VALUE ...]\n       %(prog)s --help | --help-all"
        super().__init__(prog=prog, description=description, usage=usage, add_help=False)
        self.removed = {flag_of(name) for name in REMOVED}
        self.may_be_empty = {flag_of(field.name) for field in dataclasses.fields(Config) if _may_be_empty(field)}
        self._settings = []  # the groups that hold settings
        self._daily = []  # the settings that --help shows
        self._common = self.add_argument_group("help and recipes")
        self._common.add_argument("-h", "--help", action="help", help="show this page")
        self._common.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every setting")
        recipe = "JSON file of settings; flags go on top"
        self._common.add_argument("-c", "--config", metavar="RECIPE", help=recipe)

    def add_settings(self, **helps: str) -> None:
        """Adds a flag for every field of Config. To be called last: the command's own flags come first.

        helps: what --help says of a setting that means something else here; "" hides one that means nothing.
        """
        groups = {}
        for field in dataclasses.fields(Config):
            title = field.metadata["group"]
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            action = _add_flag(groups[title], field)
            if field.name in helps:
                action.short_help = action.full_help = helps[field.name] or argparse.SUPPRESS
            if field.metadata["daily"]:
                self._daily.append(action)
        self._settings = list(groups.values())

    def format_help(self, everything: bool = False) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        sections = {g.title: g._group_actions for g in self._action_groups if g not in self._settings}
        common = sections.pop(self._common.title)
        if everything:
            sections |= {f"settings: {g.title}": g._group_actions for g in self._settings}
        else:
            sections["settings of every day"] = self._daily
        sections[self._common.title] = common
        for setting in (a for g in self._settings for a in g._group_actions):
            setting.help = setting.full_help if everything else setting.short_help
        for title, actions in sections.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()


def _may_be_empty(field):
    """Whether nothing is a value of a setting; of the data's it is a shell's variable that is not set."""
    return field.default == "" and field.metadata["group"] != "data"


class _HelpAll(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        print(parser.format_help(everything=True), end="")
        parser.exit()


def _add_flag(group, field):
    """The flag of one field of Config."""
    metadata = field.metadata
    names = sorted(
        [flag_of(field.name), *metadata["names"]], key=lambda name: name.startswith("--")
    )  # short ones first
    common = dict(dest=field.name, default=argparse.SUPPRESS)
    if field.type is bool:
        action = group.add_argument(*names, action=argparse.BooleanOptionalAction, **common)
    else:
        action = group.add_argument(*names, metavar=field.name.split("_")[-1].upper(), **common)
    limits = []
    if metadata["choices"]:
        limits = [f"one of {', '.join(metadata['choices'])}"]
    elif field.type in (int, float):
        limits = [bounds_of(field)]
    default = [] if field.default == "" else [f"default {_cell(field.default)}"]
    action.short_help = _with(metadata["help"], default)
    action.full_help = _with(metadata["help"], limits + default)
    return action


def _with(said, known):
    """A help text for argparse with what is known beside it."""
    text = f"{said} ({'; '.join(known)})" if known else said
    return text.replace("%", "%%")


def config_from_args(space: argparse.Namespace) -> Config:
    """The Config of parsed arguments: defaults, then -c's recipe, then the flags given; with --resume, where that run
    exists, its own settings come before them all. Raises ConfigError."""
    given = {name: getattr(space, name) for name in given_names(space)}
    cores = os.cpu_count() or 1
    if Config(threads=given.get("threads", 0)).threads > cores:
        raise ConfigError(f"--threads {given['threads']}: this machine has {counted(cores, 'core')}")

    def on_top_of(base):
        recipe = read_recipe(space.config, base) if space.config else base
        return dataclasses.replace(recipe, **given)

    asked = on_top_of(Config())
    if asked.threads > cores:  # a recipe of a larger machine
        print(
            f"{space.config} asks for {asked.threads} threads, and this machine has {counted(cores, 'core')}: PyTorch "
            "chooses their number, and scores may differ in their last digits",
            file=sys.stderr,
        )
        given["threads"] = 0
        asked = on_top_of(Config())
    saved = Path(asked.project) / asked.name / "args.json"
    if asked.resume and saved.exists():
        return on_top_of(dataclasses.replace(read_recipe(saved), until=0))
    return asked


def train_command(config: Config) -> str:
    """The command line that trains `config`, of the flags that are not at their defaults, for a shell."""
    changed = [field.name for field in dataclasses.fields(Config) if getattr(config, field.name) != field.default]
    return shlex.join(["python", "train.py", *as_flags(config, changed)])


def as_flags(config: Config, names: Iterable[str]) -> list[str]:
    """The words of a command line that set `names` to what they are in `config`."""
    words = []
    for name in names:
        value, flag = getattr(config, name), flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif spelled(value).startswith("-"):
            words.append(f"{flag}={value}")  # apart it would be read as a flag
        else:
            words += [flag, spelled(value)]
    return words


def given_names(space: argparse.Namespace) -> list[str]:
    """The settings that parsed arguments give, in Config's order."""
    return [field.name for field in dataclasses.fields(Config) if hasattr(space, field.name)]


def whole_number(flag: str, word: str | int, low: int, high: int = 10**6) -> int:
    """A whole number within bounds, from the command line's text; ConfigError names the flag."""
    if not str(word).isdecimal() or not low <= int(word) <= high:
        raise ConfigError(f"{flag} {word}: give a whole number from {low} to {high}")
    return int(word)


def methods_table() -> Iterator[str]:
    """Every method that can be off, as lines of a Markdown table."""
    yield "| flag | what it does | default | off | source |"
    yield "| --- | --- | --- | --- | --- |"
    for field in dataclasses.fields(Config):
        metadata = field.metadata
        if metadata["off"] is None:
            continue
        cells = [f"`{flag_of(field.name)}`", metadata["help"], _cell(field.default), _cell(metadata["off"])]
        yield f"| {' | '.join([*cells, metadata['source']])} |"


def _cell(value):
    """A setting's value as the command line gives it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return spelled(value)


if __name__ == "__main__":
    print(*methods_table(), sep="\n")
    sys.exit()
