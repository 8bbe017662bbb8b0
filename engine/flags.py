"""The command line of every setting: flags made from config.py's fields, and the Config that flags and recipes ask
for."""

import argparse
import dataclasses
from pathlib import Path

from config import Config, bounds_of, flag_of, read_recipe, spelled
from errors import ConfigError


def add_config_flags(parser):
    """Every field of Config as a flag of `parser`, grouped, plus -c/--config."""
    parser.add_argument("-c", "--config", metavar="RECIPE", help="JSON file of settings; flags go on top")
    groups = {}
    for f in dataclasses.fields(Config):
        m = f.metadata
        group = groups.setdefault(m["group"], None) or parser.add_argument_group(m["group"])
        groups[m["group"]] = group
        names = sorted([flag_of(f.name), *m["names"]], key=lambda n: n.startswith("--"))  # short ones first
        said = m["help"].replace("%", "%%")
        if f.type is bool:
            group.add_argument(
                *names,
                dest=f.name,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=f"{said} (default {'on' if f.default else 'off'})",
            )
            continue
        limits = f"one of {', '.join(m['choices'])}" if m["choices"] else "" if f.type is str else bounds_of(f)
        shown = [limits] if limits else []
        if f.default != "":
            shown.append(f"default {spelled(f.default)}")
        group.add_argument(
            *names,
            dest=f.name,
            default=argparse.SUPPRESS,
            metavar=f.name.split("_")[-1].upper(),
            help=said + (f" ({'; '.join(shown)})" if shown else ""),
        )


def config_from_args(space):
    """The Config of parsed arguments: defaults, then -c's recipe, then the flags given; with --resume, where that run
    exists, its own settings come before them all."""
    given = {f.name: getattr(space, f.name) for f in dataclasses.fields(Config) if hasattr(space, f.name)}

    def on_top_of(base):
        return dataclasses.replace(read_recipe(space.config, base) if space.config else base, **given)

    asked = on_top_of(Config())
    saved = Path(asked.project) / asked.name / "args.json"
    return on_top_of(dataclasses.replace(read_recipe(saved), until=0)) if asked.resume and saved.exists() else asked


def whole_number(flag, word, low, high=10**6):
    """A whole number within bounds, from the command line's text; ConfigError names the flag."""
    if not str(word).isdecimal() or not low <= int(word) <= high:
        raise ConfigError(f"{flag} {word}: give a whole number from {low} to {high}")
    return int(word)
