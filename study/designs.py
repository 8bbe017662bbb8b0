"""Combinations of settings, from the words of a command line: grids, random and Sobol searches, one at a time.

A combination is a dict of what differs from the base settings. Whatever cannot be is a ConfigError that names the word.
"""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Collection

import numpy as np
import torch

from config import Config, nearest, spelled, validated
from errors import ConfigError

KNOBS = {field.name: field for field in dataclasses.fields(Config) if field.metadata["keyed"]}


def knob(name: str) -> dataclasses.Field:
    """The Config field that `name` or one of its flags' spellings means. Raises ConfigError."""
    name = _as_field(name.strip())
    for field in KNOBS.values():
        if name in map(_as_field, field.metadata["names"]):
            return field
    if name not in KNOBS:
        raise ConfigError(f"{name!r} is no setting that a study can vary: did you mean {nearest(name, list(KNOBS))}?")
    return KNOBS[name]


def typed(field: dataclasses.Field, word: str):
    """A value of `field` from the command line's text. Raises ConfigError."""
    if field.type is bool and word != field.metadata["auto"]:
        if word.lower() not in ("true", "false", "on", "off"):
            raise ConfigError(f"{field.name}={word}: give true or false")
        return word.lower() in ("true", "on")
    return validated(field, word)


def setting_and_words(spec: str) -> tuple[dataclasses.Field, list[str]]:
    """'lr=1e-4,1e-3' as (field, ['1e-4', '1e-3']); 'freeze=,body' has nothing as a value. Raises ConfigError."""
    name, equals, values = spec.partition("=")
    words = values.split(",")
    field = knob(name)
    # No value is one, where a setting may be left empty.
    if not equals or (field.default != "" and not all(words)):
        raise ConfigError(f"{spec!r}: give SETTING=VALUE,VALUE,...")
    return field, words


def grid(specs: list[str]) -> list[dict]:
    """Every combination of the specs' values, as dicts; the last spec varies fastest."""
    lists = []
    for field, words in map(setting_and_words, specs):
        refuse_twice(field, [chosen[0][0] for chosen in lists])
        lists.append([(field.name, typed(field, word)) for word in words])
    return [dict(combination) for combination in itertools.product(*lists)]


def refuse_twice(field: dataclasses.Field, before: Collection[str]) -> None:
    """Raises ConfigError where `before`, names of settings, has that of `field` already."""
    if field.name in before:
        raise ConfigError(f"{field.name} stands twice: give all its values in one, {field.name}=A,B")


def search(specs: list[str], count: int, draws: np.ndarray) -> list[dict]:
    """`count` dicts: a spec's values where `draws` [count, len(specs)] in [0, 1) fall.

    A spec's values are LOW..HIGH, LOW..HIGH:log, or a list. Raises ConfigError.
    """
    candidates = [{} for _ in range(count)]
    for spec, column in zip(specs, draws.T):
        field, words = setting_and_words(spec)
        refuse_twice(field, candidates[0] if candidates else ())
        if ".." in words[0]:
            values = _in_range(spec, field, words, column)
        else:
            listed = [typed(field, word) for word in words]
            values = [listed[int(share * len(listed))] for share in column]
        for candidate, value in zip(candidates, values):
            candidate[field.name] = value
    return candidates


def uniforms(kind: str, name: str, count: int, width: int) -> np.ndarray:
    """Draws [count, width] in [0, 1); row i depends on the study's name and i alone."""
    seed = zlib.crc32(name.encode())
    if kind == "sobol":  # Sobol 1967, scrambled (Owen 1998)
        return torch.quasirandom.SobolEngine(width, scramble=True, seed=seed).draw(count, dtype=torch.float64).numpy()
    # A generator a row: a longer search begins with the candidates of a shorter one.
    return np.stack([np.random.default_rng([seed, i]).random(width) for i in range(count)])


def around(base: Config, specs: list[str]) -> list[dict]:
    """The base candidate, then candidates in which one setting differs: to a value, or to xFACTOR times the base's."""
    candidates = [{}]  # what every other one is compared with
    for field, words in map(setting_and_words, specs):
        for word in words:
            if word.startswith("x") and field.type in (int, float):
                word = _multiplied(field, getattr(base, field.name), word)
            candidates.append({field.name: typed(field, word)})
    return candidates


def _as_field(flag):
    """'--mixup-p' -> 'mixup_p'."""
    return flag.lstrip("-").replace("-", "_")


def _in_range(spec, field, words, shares):
    """Values of `field` at `shares` in [0, 1) of the range that `words` spell; `spec` for the message."""
    low, _, high = words[0].partition("..")
    high, _, scale = high.partition(":")
    low, high = typed(field, low), typed(field, high)
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    if len(words) > 1 or scale not in ("", "log") or not numbers or (scale and min(low, high) <= 0):
        raise ConfigError(f"{spec!r}: a range is LOW..HIGH, or LOW..HIGH:log above 0, of plain numbers")
    ends = low, high
    if field.type is int:  # half a number more at each end, so that the ends come as often as the rest
        more = 0.5 if low <= high else -0.5
        low, high = low - more, high + more
    if scale:  # even in the logarithm: each factor of ten gets as many draws
        low, high = math.log(low), math.log(high)
    values = []
    for share in shares:
        value = low + share * (high - low)
        if scale:
            value = math.exp(value)
        # As text and back: a study keeps values that a person can type.
        text = f"{value:.4g}"
        if field.type is int:
            text = str(min(max(round(value), min(ends)), max(ends)))
        values.append(typed(field, text))
    return values


def _multiplied(field, value, word):
    """`value` times the factor of `word`, 'x0.5' for one, as the command line would spell it."""
    if not isinstance(value, (int, float)):
        raise ConfigError(f"{field.name}={word}: the base's {spelled(value)} is no plain number to multiply")
    try:
        product = value * float(word[1:])
        return str(round(product)) if field.type is int else f"{product:.6g}"
    except (ValueError, OverflowError):  # no number, or none that an integer can be
        raise ConfigError(f"{field.name}={word}: give x and a factor") from None
