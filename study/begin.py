"""How a study begins, or grows: its settings checked, its pictures and networks tried, before anything is written."""

import dataclasses
import json
import os
import sys
from pathlib import Path

from config import WAY, Config, config_from, flag_of, spelled, whole_paths
from data import listing
from engine.build import init_key, prepare_pictures, refuse_impossible
from engine.checkpoint import FORMAT
from engine.paper import try_network
from engine.resume import KEYS
from errors import LongtailError
from pictures import synthetic
from pictures.dealing import listing_key
from study.metric import DEFAULT
from study.table import Study, identity, locked, write_spec


def begin_study(
    folder: Path | str,
    base: Config,
    trials: list[dict],
    halving: int = 0,
    metric: str | None = None,
    scored: bool = False,
) -> Study:
    """The Study in `folder`, made, or added to: those of `trials` (dicts of changed settings) that it lacks.

    A trial keeps its number for ever. metric: what ranks the candidates, None where nobody said. It changes no trial,
    so the latest command that names one decides, unless halving has chosen by it who goes on. scored: whether it is of
    no use without validation pictures.
    Raises LongtailError for settings that cannot be, before anything is written. So it does where the folder holds a
    run, or a study of another base, of other pictures or of another halving.
    """
    folder = Path(folder)
    # Paths that hold from any folder: another process may go on from elsewhere.
    base = dataclasses.replace(base, **whole_paths(vars(base)))
    trials = [trial | whole_paths(trial) for trial in trials]
    configs = [config_from(trial, "study", base) for trial in trials]
    if (folder / "args.json").exists():
        raise LongtailError(f"{folder} is a run's folder: choose another --name")
    for config in configs:
        refuse_impossible(dataclasses.replace(config, project=str(folder.parent), name=folder.name))
    root = synthetic.folder(base.data).resolve()
    pictures = _check(root, configs, halving, scored)
    for sub in ("trials", "rows", "leases"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    settings = dict(base.settings(), data=str(root), compile=base.compile)
    spec = dict(
        format=FORMAT,
        base=settings,
        data_key=pictures.store.key,
        listing_key=listing_key(pictures.listing),
        init_key=init_key(base.init),
        own_val=bool((pictures.listing.parts == "val").any()),
        halving=halving,
        metric=metric or DEFAULT,
        threads=None,
        way=None,
        trials=[],
    )
    path = folder / "study.json"
    with locked(folder):
        if path.exists():
            wanted, old = spec, Study(folder)
            spec = dict(old.spec, metric=old.metric)
            wanted["metric"] = metric or old.metric
            # The study's keys are of its first trial's pictures; their labels may lie elsewhere by now.
            first = config_from(old.trials[0], "study", dataclasses.replace(old.base, labels=base.labels))
            pictures = prepare_pictures(first, root)
            wanted |= dict(data_key=pictures.store.key, listing_key=listing_key(pictures.listing))
            _refuse_another(folder, spec, wanted)
            spec["metric"] = wanted["metric"]
            spec["base"]["compile"] = base.compile  # no result's matter: the latest command decides
            spec["base"]["labels"] = base.labels  # nor does it where the same labels lie
            if not Path(spec["base"]["data"]).exists():  # the folder was moved: the pictures are the same
                spec["base"]["data"] = str(root)
        known = {identity(config_from(trial, "study", base)) for trial in spec["trials"]}
        for trial, config in zip(trials, configs):
            if identity(config) not in known:
                known.add(identity(config))
                spec["trials"].append(trial)
        write_spec(path, spec)
    return Study(folder)


def without_folds(base: Config, candidates: list[dict] = ()) -> tuple[Config, list[dict]]:
    """(base, candidates), without folds where the data has validation pictures of its own; that is said on stderr.

    candidates: dicts of what differs from the base.
    """
    root = base.data or os.environ.get("DATA")  # the built-in set has none
    if not root or not (base.folds or any(candidate.get("folds") for candidate in candidates)):
        return base, candidates
    parts = listing(root, base.labels or None, base.image_col, base.label_col, base.group_col or None).parts
    if not (parts == "val").any():
        return base, candidates
    print(f"{root} has a validation folder, which scores every trial: --folds gives way to it", file=sys.stderr)
    base = dataclasses.replace(base, folds=0, fold=0)
    return base, [
        {name: value for name, value in candidate.items() if name not in ("folds", "fold")} for candidate in candidates
    ]


def _refuse_another(folder, old, new):
    """Raises LongtailError where the study in `folder`, of spec `old`, is not the one that `new` describes."""
    if old.get("format", 2) < 3:
        raise LongtailError(
            f"{folder} was begun by an earlier version, whose trials were judged by other views of the same pictures: "
            "choose another --name, or remove it"
        )
    changed = []
    earlier = Config().settings() | dict(tta="none")  # what a version did that lacked a setting
    for name, wanted in new["base"].items():
        value = old["base"].get(name, earlier.get(name))
        if name in WAY and wanted == "auto":
            continue  # what the study decided holds
        if name not in ("data", "labels", "compile") and json.dumps(value) != json.dumps(wanted):
            changed.append(f"{flag_of(name)} {spelled(value)}, not {spelled(wanted)}")
    others = dict(halving="--halving") | (dict(metric="--metric") if old["halving"] else {})
    for name, what in others.items():
        if name in old and old[name] != new[name]:
            changed.append(f"{what} {old[name]}, not {new[name]}")
    changed += [what for name, what in KEYS.items() if name in old and old[name] != new[name]]
    if changed:
        raise LongtailError(f"{folder} was begun with {'; '.join(changed)}: choose another --name, or remove it")


def _check(root, checked, halving, scored):
    """Prepares the pictures at every size that is asked for, and tries every network on paper. Returns the first."""
    pictures = {}
    for c in checked:
        at = json.dumps(c.settings("data"))
        if at not in pictures:
            pictures[at] = prepare_pictures(c, root)
    networks = {json.dumps([c.settings("model"), c.img_size]): c for c in checked}
    for c in networks.values():
        try_network(c, pictures[json.dumps(c.settings("data"))])
    if (halving or scored) and not all(len(p.val) for p in pictures.values()):
        what = "--halving ranks trials" if halving else "seeds are scored"
        raise LongtailError(f"{what} on validation pictures, and there are none: give --val-split or --folds")
    return next(iter(pictures.values()))
