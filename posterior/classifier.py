"""Pictures in, posteriors out: one trained network or several as one, scaled as calibration.json says.

Knows where a calibration belongs; fits none and writes nothing.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import metrics
from config import Config
from engine import resident
from engine.checkpoint import load_best
from engine.evaluate import logits, view
from engine.numerics import precision
from errors import LongtailError
from kernels.convolution import use_products
from metrics import log_softmax
from model import build_model
from pictures.store import load_store
from plan import evaluation_plans
from posterior import evidence
from posterior.priors import TAUS, estimate, from_file, move, shares, tilted
from posterior.scaling import Scaling, cross_fit, fit, identity, parts_of

CALIBRATION = "calibration.json"
LARGE = 3_000_000  # probabilities above which nothing is fitted to look at
# What may differ between the runs that a calibration came from and those that it is used with.
SPLIT = ("val_split", "folds", "fold", "split_seed", "seed", "monitor", "patience", "until")
NOT_THE_RECIPE = (*SPLIT, "threads", "amp", "layout", "products")


@dataclass(frozen=True)
class Calibration:
    """A scaling that was fitted on pictures held out from training."""

    scaling: Scaling
    path: Path
    members: int  # networks averaged for each of these pictures
    pictures: int
    runs: list[Path]  # these networks' runs
    own: bool  # whether they are the very runs that it is used with
    tau: float | None  # of the prior `tau`; an older calibration has none

    def in_words(self, members: int) -> str:
        """Which scaling it is, used with so many networks."""
        said = f"scaled by {self.path} ({self.scaling.in_words()}, fitted to {self.pictures} held-out pictures)"
        if not self.own or members != self.members:
            said += f", carried over from {_networks(self.members)} to {_networks(members)}: that it fits is assumed"
        return said


def members(folders: list[Path]) -> list[dict]:
    """The best.pt of each run, all of the same classes. Raises LongtailError otherwise."""
    checkpoints = []
    for folder in folders:
        path = folder if folder.is_file() else folder / "best.pt"
        if not path.exists():
            raise LongtailError(f"{folder}: no best.pt there: name a run's folder")
        checkpoints.append(load_best(path))
    for folder, checkpoint in zip(folders, checkpoints):
        if checkpoint["classes"] != checkpoints[0]["classes"]:
            raise LongtailError(f"{folder} knows other classes than {folders[0]}: they cannot be averaged")
    return checkpoints


def training_prior(checkpoints: list[dict]) -> np.ndarray:
    """Class prior float64 [C] of what the networks were trained on, their mean."""
    return np.mean([shares(checkpoint["counts"]) for checkpoint in checkpoints], 0)


def log_posteriors(
    checkpoints: list[dict], files: list[Path], *, device: torch.device | str, tta: str = "none"
) -> tuple[np.ndarray, dict[int, str]]:
    """Log posteriors float64 [N,C] of the picture files under the training prior, and the bad files' rows and reasons.

    Of several networks it is the logarithm of their mean posterior. tta: 'none', 'flip' or 'crops', averaged in the
    same way. A bad picture gets the training prior.
    """
    # Posteriors are averaged, not logits: a network with large logits does not outvote the others. A running sum: the
    # networks' posteriors are never in memory together.
    posterior, bad = 0, {}
    for checkpoint in checkpoints:
        own, own_bad = _posterior(checkpoint, files, torch.device(device), tta)
        posterior = posterior + own / len(checkpoints)
        bad |= own_bad
    return np.log(np.maximum(posterior, np.finfo(np.float64).tiny)), bad


def _posterior(checkpoint, files, device, tta):
    """(posterior [N,C] of one network under its training prior, bad rows and reasons)."""
    size, store_size = checkpoint["size"], checkpoint["store_size"]
    store = load_store(files, store_size, checkpoint["resize"])
    net = build_model(**checkpoint["model"])
    net.load_state_dict(checkpoint["weights"])
    products = checkpoint["config"].get("products", 0)  # a run of an older version had none
    use_products(net, 0 if products == "auto" else products)
    net = net.to(device, memory_format=torch.channels_last)
    show = view(device, size=size, mean=checkpoint["mean"], std=checkpoint["std"], border="reflect")
    dtype = precision(device, checkpoint["config"]["amp"])
    views = "centre" if tta == "none" else tta
    plans = evaluation_plans(np.arange(len(files)), views=views, size=size, store_size=store_size)
    pixels = resident.levels(store, device)[store.pixels.shape[1]]
    bias = np.array(checkpoint["bias"])  # turns logits into log posteriors under the prior of --prior
    prior = shares(checkpoint["counts"])
    assumed = np.full(len(prior), 1 / len(prior)) if checkpoint["config"]["prior"] == "uniform" else prior
    by_view = []
    for plan in plans:
        scores = logits(net, pixels, plan, len(files), show, dtype=dtype)
        by_view.append(np.exp(move(log_softmax(scores + bias), assumed, prior)))
    posterior = np.mean(by_view, 0)
    posterior[list(store.bad)] = prior
    return posterior, store.bad


def recipe(settings: dict) -> str:
    """What a calibration belongs to, as one string: settings without split, seed and threads."""
    known = Config().settings()  # a run of an older version lacks the settings that came later
    return json.dumps({name: settings.get(name, known[name]) for name in known if name not in NOT_THE_RECIPE})


def calibration_of(folders: list[Path], checkpoints: list[dict], project: Path | str | None) -> Calibration | None:
    """The calibration for these runs: the run's own, else the newest of a study that tried the same settings; or None.

    project: where studies are looked for, None to look for none. Raises LongtailError where one is damaged.
    """
    wanted = recipe(checkpoints[0]["config"])
    found = [folders[0] / CALIBRATION] if len(folders) == 1 else []
    if project is not None:
        by_age = sorted(Path(project).glob(f"*/{CALIBRATION}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        found += by_age
    for path in found:
        if not path.is_file():
            continue
        saved = _read(path)
        if saved["recipe"] == wanted and saved["classes"] == checkpoints[0]["classes"]:
            runs = [path.parent / name for name in saved["runs"]]
            own = {run.resolve() for run in runs} == {folder.resolve() for folder in folders}
            return Calibration(_scaling(saved), path, saved["members"], saved["pictures"], runs, own, _tau(saved))
    return None


def scaled_held_out(folder: Path, settings: dict, found: evidence.Evidence) -> tuple[np.ndarray | None, str]:
    """(log posteriors [N,C], what was done): held-out pictures of a run or study, scaled by fits to others of them.

    The kind of scaling is that of its calibration.json, else one temperature, to show what calibrate.py would do; None
    where that would take minutes, and where the fit did not converge.
    """
    kept = calibration_of([folder], [dict(config=settings, classes=found.classes)], folder.parent)
    if kept is None:
        kind, said = "temperature", "No calibration.json yet: python calibrate.py fits one"
    else:
        kind, said = kept.scaling.kind, f"{kept.path} keeps {kept.scaling.in_words()}"
    if found.log_posterior.size > LARGE:
        return (None, said) if kept is None else (kept.scaling(found.log_posterior), said)
    group_of = np.unique(metrics.count_groups(found.counts), return_inverse=True)[1]
    parts = parts_of(found.targets) if found.parts is None else found.parts
    after = cross_fit(kind, found.log_posterior, found.targets, group_of, parts)
    return after, f"{said}. Scaled here: {kind}, each picture by a fit to others"


def _networks(count):
    return f"{count} network{'s' * (count != 1)}" + " averaged" * (count > 1)


def _read(path):
    """The content of a calibration.json, complete."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        classes = len(saved["classes"])
        for name in ("by_top", "slope", "bias"):
            values = np.array(saved["scaling"][name], np.float64)
            if values.shape != (classes,) or not np.isfinite(values).all():
                raise ValueError(name)
        saved["recipe"], saved["runs"], saved["members"], saved["pictures"], saved["scaling"]["kind"]
        _tau(saved)
    except (ValueError, KeyError, TypeError) as error:
        raise LongtailError(f"{path} is damaged ({error}): make it again with calibrate.py, or remove it") from None
    return saved


def _scaling(saved):
    numbers = {name: np.array(saved["scaling"][name], np.float64) for name in ("by_top", "slope", "bias")}
    return Scaling(saved["scaling"]["kind"], **numbers)


def _tau(saved):
    """The tau of a calibration.json; None where it was made before there were any."""
    if "tau" not in saved:
        return None
    tau = float(saved["tau"]["value"])
    if not 0 <= tau <= TAUS[-1]:
        raise ValueError("tau")
    return tau


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that decide how pictures become probabilities, for the commands that judge pictures."""
    parser.add_argument(
        "--tta",
        default="none",
        choices=("none", "flip", "crops"),
        help="average over mirrored views, or corner crops too",
    )
    parser.add_argument(
        "--no-calibration",
        dest="calibration",
        action="store_false",
        help=f"leave aside the scaling of {CALIBRATION}, which calibrate.py wrote",
    )
    parser.add_argument(
        "--prior",
        default="",
        metavar="PRIOR",
        help="how frequent the classes are among these pictures: train, uniform, estimate (from the pictures, where "
        "that is shown to help), or a CSV of class and share; or for macro F1 tau, which favours rare classes as far "
        "as calibrate.py found best, tau:0.5 by half (default: what the run was trained to assume)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))


class Finish:
    """What becomes of log posteriors under training's prior: they are scaled by the calibration that belongs to the
    runs, then moved to the prior that is asked for.

    prior: '' (what the runs were trained to assume), 'train', 'uniform', 'estimate', 'tau' (the calibration's),
    'tau:0.5', or the path of a CSV of shares. The prior of a tau is training's to the power of 1 - tau, so that the
    arg-max is that of log p - tau log prior (Menon et al. 2021, post hoc).
    Raises LongtailError, before any picture is looked at, where a calibration or that CSV cannot be used.
    """

    def __init__(self, folders: list[Path], checkpoints: list[dict], project: Path | str, calibrated: bool, prior: str):
        self.folders = folders
        self.trained = training_prior(checkpoints)
        self.calibration = calibration_of(folders, checkpoints, project) if calibrated else None
        self.asked = prior or checkpoints[0]["config"]["prior"]
        self.wanted = self.trained
        if self.asked == "uniform":
            self.wanted = np.full(len(self.trained), 1 / len(self.trained))
        elif self.asked == "tau" or self.asked.startswith("tau:"):
            self.wanted = tilted(self.trained, 1 - self._tau())
        elif self.asked not in ("train", "estimate"):
            self.wanted = from_file(Path(self.asked), checkpoints[0]["classes"])

    def __call__(self, log_posterior: np.ndarray, unread: Iterable[int] = ()) -> tuple[np.ndarray, list[str]]:
        """(log posteriors [N,C] of log posteriors [N,C], what was done in sentences).

        unread: rows of pictures that could not be read. They get the prior's answer.
        """
        said, scale, wanted = [], None, self.wanted
        if self.calibration is not None:
            scale = self.calibration.scaling
            if scale.kind != "none":
                said.append(self.calibration.in_words(len(self.folders)))
        if self.asked == "estimate":
            scale, found = self._estimate(log_posterior, scale)
            used = "as in training" if found.candidate == "none" else f"estimated by {found.candidate}"
            said.append(f"class prior: {used}: {found.reason}")
            wanted = found.prior
        elif self.asked != "train":
            said.append(f"class prior: {self.asked}")
        if scale is not None:
            log_posterior = scale(log_posterior)
            log_posterior[list(unread)] = np.log(self.trained)
        return move(log_posterior, self.trained, wanted), said

    def _tau(self):
        """The number of a prior `tau`, chosen or given."""
        if self.asked == "tau":
            if self.calibration is None or self.calibration.tau is None:
                raise LongtailError(
                    "--prior tau: no calibration of these runs has one: calibrate.py makes it, or give --prior tau:0.5"
                )
            self.asked = f"tau {self.calibration.tau:g}, which {self.calibration.path} chose by macro F1"
            return self.calibration.tau
        try:
            tau = float(self.asked.removeprefix("tau:"))
        except ValueError:
            tau = -1.0
        if not 0 <= tau <= TAUS[-1]:
            raise LongtailError(f"--prior {self.asked}: give tau as a number from 0 to {TAUS[-1]:g}, as in tau:0.5")
        return tau

    def _estimate(self, log_posterior, scale):
        """(the scaling to use, priors.estimate). Known are the pictures that these runs held out, or those of the
        calibration; without one, bias and temperature are fitted to them."""
        folders = self.folders if self.calibration is None else self.calibration.runs
        known = evidence.pooled(evidence.runs_by_fold(folders))
        one_group = np.zeros(len(self.trained), np.int64)
        kind = scale.kind if scale is not None else "bias and temperature"
        if scale is None:
            scale = fit(kind, known.log_posterior, known.targets, one_group) or identity(len(self.trained))
        # What is known is scaled by fits that had not seen it, as the pictures that are asked about are.
        parts = parts_of(known.targets) if known.parts is None else known.parts
        group_of = np.unique(metrics.count_groups(known.counts), return_inverse=True)[1]
        held_out = cross_fit(kind, known.log_posterior, known.targets, group_of, parts)
        if held_out is None:
            held_out = scale(known.log_posterior)
        return scale, estimate(scale(log_posterior), self.trained, held_out, known.targets, known.prior)
