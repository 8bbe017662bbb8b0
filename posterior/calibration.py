"""calibration.json: a scaling of probabilities, with the runs and the settings that it belongs to. Written by
calibrate.py, found and read here for whoever predicts.

Fits nothing but, for pictures that a scaling was fitted to, what it would be without them.
"""

import hashlib
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from config import REMOVED, WAY, Config, read_object
from errors import LongtailError, counted
from files import replacing
from posterior import evidence
from posterior.evidence import Evidence
from posterior.priors import TAUS
from posterior.scaling import KINDS, LARGEST, MOST_NOISE, Scaling, cross_fit, fit, parts_of

CALIBRATION = "calibration.json"
LARGE = 3_000_000  # probabilities above which nothing is fitted to look at
# What may differ between the runs that a calibration came from and those that it is used with.
SPLIT = ("val_split", "folds", "fold", "split_seed", "seed", "monitor", "patience")
NOT_THE_RECIPE = (*SPLIT, *WAY, "labels")
# The numbers of a scaling, and bounds that no fit comes near. Within them no probability overflows.
BOUNDS = {"by_top": (0.5 / LARGEST, 2 * LARGEST), "slope": (1e-6, 1e6), "bias": (-1e6, 1e6), "floor": (-1e-9, 1)}


@dataclass(frozen=True)
class Calibration:
    """A scaling that was fitted on pictures held out from training."""

    scaling: Scaling
    path: Path
    members: int  # networks averaged for each of these pictures
    pictures: int
    runs: list[Path]  # these networks' runs
    digests: list[str]  # of what each of them said then; empty of an older calibration
    tau: float | None  # of the prior `tau`; an older calibration has none
    least: float | None  # the threshold of `sets`; an older one, or one of few pictures, has none
    shared: bool = True  # whether all runs that it is used with have the settings that it belongs to

    def in_words(self) -> str:
        """Which scaling it is."""
        return f"scaled by {self.path} ({self.scaling.in_words()}, fitted to {self.pictures} held-out pictures)"

    def carried_over(self, folders: list[Path], held_out: bool = False, other_views: bool = False) -> str:
        """What to say where it is used with other runs than it was fitted to, or other views; '' where it is not.

        held_out: each picture is judged by the networks of its fold, not by all of them. other_views: --tta asks for
        others than the runs were validated by.
        """
        said = ""
        if not self.shared:
            said = ", carried over to runs of other settings"
        elif len(folders) != self.members and not held_out:
            said = f", carried over from {_networks(self.members)} to {len(folders)}"
        elif not {folder.resolve() for folder in folders} <= {run.resolve() for run in self.runs}:
            said = ", carried over from other runs of the same settings"
        if other_views:
            said += ", from other views than --tta asks for"
        return said and f"{said}: that it fits is assumed"

    def known(self) -> Evidence:
        """The pictures that it was fitted to. Raises LongtailError where their runs are gone or damaged."""
        try:
            return evidence.pooled(evidence.runs_by_fold(self.runs))
        except LongtailError as error:
            raise LongtailError(
                f"{self.path} needs what it was fitted to, but {error}; or go without it by --no-calibration"
            ) from None

    def held_out(self, paths: list[str], log_posterior: np.ndarray) -> np.ndarray:
        """Log posteriors [N,C], scaled, of log posteriors [N,C] of the pictures `paths`.

        Pictures that the scaling was fitted to are scaled by a fit to the other parts of them, as calibrate.py judges
        it. Raises LongtailError where what it was fitted to is gone.
        """
        known = self.known()
        parts = fitting_parts(known)
        part_of = dict(zip(known.paths, parts))
        own = np.array([part_of.get(path, -1) for path in paths])
        scaled = self.scaling(log_posterior)
        for part in np.unique(own[own >= 0]):
            others = parts != part
            log_known, targets = known.log_posterior[others], known.targets[others]
            fitted = fit(self.scaling.kind, log_known, targets, known.counts)
            if fitted is None:
                raise LongtailError(f"{self.path} is older than the runs that it was fitted to: make it again")
            here = own == part
            scaled[here] = fitted(log_posterior[here])
        return scaled


def fitting_parts(known: Evidence) -> np.ndarray:
    """The part of each picture, int [N], without which a scaling of it is fitted: its fold where there are folds."""
    return parts_of(known.targets) if known.parts is None else known.parts


def scaled_held_out(folder: Path, settings: dict, found: Evidence) -> tuple[np.ndarray | None, str]:
    """(log posteriors [N,C], what was done): held-out pictures of a run or study, scaled by fits to others of them.

    The kind of scaling is that of its calibration.json, else one temperature, to show what calibrate.py would do; None
    where that would take minutes, and where a fit did not converge.
    """
    kept = calibration_of([folder], [dict(config=settings, classes=found.classes)], folder.parent)
    if kept is None:
        kind, said = "temperature", "No calibration.json yet: python calibrate.py fits one"
    else:
        kind, said = kept.scaling.kind, f"{kept.path} keeps {kept.scaling.in_words()}"
    if found.log_posterior.size > LARGE:
        return None, f"{said}. Not scaled here: a fit to so many probabilities takes minutes"
    after = cross_fit(kind, found.log_posterior, found.targets, found.counts, fitting_parts(found))
    if after is None:
        return None, f"{said}. Not scaled here: a fit of {kind} to a part of the pictures did not converge"
    return after, f"{said}. Scaled here: {kind}, each picture by a fit to others"


def owner(settings: dict) -> str:
    """What a calibration belongs to, as one string: settings without split, seed and threads."""
    known = Config().settings()  # a run of an older version lacks the settings that came later
    own = {name: settings.get(name, known[name]) for name in known if name not in NOT_THE_RECIPE}
    if "tta" not in settings:
        own["tta"] = "middle"  # an older version's validation showed that alone
    elif own["tta"] == "auto":
        own["tta"] = "flip" if own["flip"] else "none"
    own |= {name: settings[name] for name, off in REMOVED.items() if settings.get(name, off) != off}
    return json.dumps(own)


def save(folder: Path, runs: list[Path], found: Evidence, fitted: Scaling, judged: dict) -> Path:
    """Writes calibration.json into `folder`, all or nothing, and returns its path.

    found: the pictures of `runs`, which lie in `folder`. judged: scores by name, to be read by people.
    """
    saved = dict(
        recipe=owner(evidence.read_settings(runs[0])),
        classes=found.classes,
        runs=[str(run.relative_to(folder)) for run in runs],
        digests=[_digest(run) for run in runs],
        members=found.members,
        pictures=len(found.targets),
        out_of_fold=found.parts is not None,
        scaling=dict(kind=fitted.kind, **{name: getattr(fitted, name).tolist() for name in BOUNDS}),
        **judged,
    )
    path = folder / CALIBRATION
    with replacing(path) as draft:
        text = json.dumps(saved, indent=1, ensure_ascii=False, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
    return path


def calibration_of(folders: list[Path], checkpoints: list[dict], project: Path | str | None) -> Calibration | None:
    """The calibration for these runs: the run's own, else the newest of a study that tried the same settings on the
    same pictures; or None.

    Of runs with unlike settings it is that of the first. project: where studies are looked for;
    where the run is a study's trial, also in that study's project. None: nowhere.
    Raises LongtailError where one is damaged.
    """
    wanted = owner(checkpoints[0]["config"])
    shared = all(owner(checkpoint["config"]) == wanted for checkpoint in checkpoints)
    found = [folders[0] / CALIBRATION] if len(folders) == 1 else []
    if project is not None:
        projects, own = {Path(project)}, folders[0].parent.parent
        if (own / "study.json").is_file():  # the run is a study's trial, of another project perhaps
            projects.add(own.parent)
        studies = [path for place in projects for path in place.glob(f"*/{CALIBRATION}")]
        found += sorted(studies, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        if not path.is_file():
            continue
        belongs_to, classes, calibration = _read(path)
        if belongs_to == wanted and classes == checkpoints[0]["classes"]:
            if len({_pictures_key(folders[0]), _pictures_key(calibration.runs[0])} - {None}) > 1:
                print(f"passed over: {path} is of other pictures or labels", file=sys.stderr)
                continue
            _refuse_outdated(calibration)
            return replace(calibration, shared=shared)
    return None


def _pictures_key(run):
    """Of a run's pictures and their labels, as one string; None where its env.json does not tell."""
    try:
        env = read_object((run if run.is_dir() else run.parent) / "env.json")
        return f"{env['data_key']} {env['listing_key']}"
    except (LongtailError, KeyError):
        return None


def _refuse_outdated(calibration):
    """Raises LongtailError where a run went on after it was calibrated: a scaling is of what its networks said then."""
    for run, digest in zip(calibration.runs, calibration.digests):
        if _digest(run) not in (digest, None):
            raise LongtailError(
                f"{calibration.path} is of what {run} was before it went on: make it again with calibrate.py, or add "
                "--no-calibration"
            )


def _read(path):
    """(what it belongs to, classes, Calibration) of a calibration.json, every number of it checked."""
    try:
        saved = read_object(path)
        classes = saved["classes"]
        saved["scaling"].setdefault("floor", [0] * len(classes))  # one that was made before there were any
        numbers = {name: np.array(saved["scaling"][name], np.float64) for name in BOUNDS}
        for name, values in numbers.items():
            least, most = BOUNDS[name]
            if values.shape != (len(classes),) or not ((values > least) & (values < most)).all():
                raise ValueError(f"scaling.{name}")
        if numbers["floor"].sum() > 1.1 * MOST_NOISE:
            raise ValueError("scaling.floor")
        scaling = Scaling(saved["scaling"]["kind"], **numbers)
        if scaling.kind not in KINDS:
            raise ValueError("scaling.kind")
        runs = [path.parent / name for name in saved["runs"]]
        if not runs:
            raise ValueError("runs")
        members, pictures = (_whole(saved, name) for name in ("members", "pictures"))
        digests = [str(digest) for digest in saved.get("digests", [])]  # an older version has none
        belongs_to = owner(json.loads(saved["recipe"]))  # an older version's has other settings
        found = Calibration(scaling, path, members, pictures, runs, digests, _tau(saved), _least(saved))
        return belongs_to, classes, found
    except KeyError as error:
        what = f"it has no {error}"
    except (LongtailError, ValueError, TypeError, AttributeError, OverflowError) as error:
        what = str(error).removeprefix(f"{path}: ")
    raise LongtailError(
        f"{path} is damaged ({what}): make it again with calibrate.py, or remove it, or add --no-calibration"
    )


def _digest(run):
    """Of what a run's networks say of its validation pictures, which a scaling is fitted to; None where it is gone."""
    try:
        return hashlib.blake2b((run / "val_logits.npy").read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return None


def _whole(saved, name):
    value = saved[name]
    if not isinstance(value, int) or value < 1:
        raise ValueError(name)
    return value


def _tau(saved):
    """The tau of a calibration.json; None where it was made before there were any."""
    if "tau" not in saved:
        return None
    tau = float(saved["tau"]["value"])
    if not 0 <= tau <= TAUS[-1]:
        raise ValueError("tau")
    return tau


def _least(saved):
    """The threshold of sets in a calibration.json; None where it has none."""
    kept = saved.get("sets")
    if kept is None:
        return None
    least = float(kept["log_ratio"])
    if not math.isfinite(least):
        raise ValueError("sets.log_ratio")
    return least


def _networks(count):
    return f"{counted(count, 'network')}{' averaged' * (count > 1)}"
