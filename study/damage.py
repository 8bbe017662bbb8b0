"""study.json and a study's rows as they are read: what a hand or a crash made unusable is a ValueError."""

import json
import re
from numbers import Real

from engine.numerics import LAYOUTS
from engine.run import with_todays_names
from study.metric import DEFAULT, METRICS

RANKED = ("acc", "nll", "ece")  # what a row with a macro F1 has beside it
ROW_NAME = re.compile(r"(\d{4,})-(\d+)\.json")


def spec_from(text: str) -> dict:
    """The contents of study.json. The settings in it are not looked at. Raises ValueError."""
    spec = _parsed(text)
    for name in ("base", "trials"):
        if name not in spec:
            raise ValueError(f"no {name!r}")
    if not isinstance(spec["base"], dict) or not isinstance(spec["base"].get("data"), str):
        raise ValueError("'base' must be an object of settings with a 'data'")
    trials = spec["trials"]
    if not isinstance(trials, list) or not trials or not all(isinstance(trial, dict) for trial in trials):
        raise ValueError("'trials' must be a list of objects")
    if not isinstance(spec.get("data_key"), str):
        raise ValueError("'data_key' must be a text")
    halving = spec.get("halving")
    if not _whole(halving) or not (halving == 0 or 2 <= halving <= 100):
        raise ValueError(f"'halving' must be 0 or a whole number from 2 to 100, not {halving!r}")
    metric = spec.get("metric", DEFAULT)
    if metric not in list(METRICS):
        raise ValueError(f"'metric' must be one of {', '.join(METRICS)}, not {metric!r}")
    threads = spec.get("threads")
    if threads is not None and not (_whole(threads) and 0 <= threads <= 1024):
        raise ValueError(f"'threads' must be null or a whole number from 0 to 1024, not {threads!r}")
    way = spec.get("way")
    fits = isinstance(way, dict) and isinstance(way.get("amp"), bool) and way.get("layout") in list(LAYOUTS)
    fits = fits and type(way.get("products", 0)) is int
    if way is not None and not fits:
        raise ValueError(f"'way' must be null or an object of 'amp', 'layout' and 'products', not {way!r}")
    return spec


def row_from(name: str, text: str) -> dict:
    """The row in the file `name` of rows/. Raises ValueError."""
    named = ROW_NAME.fullmatch(name)
    if not named:
        raise ValueError("no name of a row, as 0007-30.json is")
    row = with_todays_names(_parsed(text))
    if (row.get("trial"), row.get("until")) != tuple(map(int, named.groups())):
        raise ValueError(f"it is of trial {row.get('trial')!r} until epoch {row.get('until')!r}")
    if row.get("status") not in ("ok", "failed"):
        raise ValueError(f"'status' must be ok or failed, not {row.get('status')!r}")
    for key, value in row.items():
        wanted = str if key in ("status", "reason") else Real
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{key!r} cannot be {value!r}")
    if "macro_f1" in row:
        missing = [key for key in RANKED if key not in row]
        if missing and row["status"] == "ok":
            raise ValueError(f"no {missing[0]!r}")
        if not 0 <= row["macro_f1"] <= 1:
            raise ValueError(f"'macro_f1' cannot be {row['macro_f1']!r}")
    row.setdefault("reason", "")
    return row


def _parsed(text):
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)
