"""Pictures in, posteriors out: one trained network or several as one, scaled as calibration.json says.

Writes nothing. calibration.py knows which calibration belongs to which runs.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from engine import resident
from engine.checkpoint import load_best
from engine.evaluate import averaged, logits, view
from engine.numerics import precision
from errors import ConfigError, LongtailError
from kernels.convolution import use_products
from metrics import log_softmax
from model import build_model
from pictures.store import load_store
from plan import evaluation_plans
from posterior import evidence
from posterior.calibration import calibration_of, fitting_parts
from posterior.priors import TAUS, assumed, estimate, from_file, move, shares, tilted
from posterior.scaling import cross_fit, fit, identity


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


def not_done(folders: list[Path]) -> list[str]:
    """Says which of the runs have epochs to go, a line each: the best of those that are done stands for them."""
    return [
        f"{folder} has not ended: its best epoch so far is used" for folder in folders if (folder / "last.pt").exists()
    ]


def training_prior(checkpoints: list[dict]) -> np.ndarray:
    """Class prior float64 [C] of what the networks were trained on, their mean."""
    return np.mean([shares(checkpoint["counts"]) for checkpoint in checkpoints], 0)


def log_posteriors(
    checkpoints: list[dict], files: list[Path], *, device: torch.device | str, tta: str = "auto"
) -> tuple[np.ndarray, dict[int, str]]:
    """Log posteriors float64 [N,C] of the picture files under the training prior, and the bad files' rows and reasons.

    Of several networks it is the logarithm of their mean posterior. tta: 'none', 'flip' or 'crops', averaged in the
    same way; 'auto': as each was validated. A bad picture gets the training prior.
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
    border = "constant" if checkpoint["config"].get("pad") else "reflect"  # as in its training
    show = view(device, size=size, mean=checkpoint["mean"], std=checkpoint["std"], border=border)
    dtype = precision(device, checkpoint["config"]["amp"])
    shown = checkpoint.get("shown", size)  # older versions: a centre crop
    views = checkpoint.get("tta", "none") if tta == "auto" else tta
    plans = evaluation_plans(np.arange(len(files)), size=size, store_size=store_size, shown=shown, views=views)
    pixels = resident.levels(store, device)[store.pixels.shape[1]]
    bias = np.array(checkpoint["bias"])  # turns logits into log posteriors under the prior of --prior
    prior = shares(checkpoint["counts"])
    of_view = [logits(net, pixels, plan, len(files), show, dtype=dtype) + bias for plan in plans]
    log_posterior = log_softmax(averaged(of_view))
    posterior = np.exp(move(log_posterior, assumed(checkpoint["config"]["prior"], prior), prior))
    posterior[list(store.bad)] = prior
    return posterior, store.bad


class Adjustment:
    """What becomes of log posteriors under training's prior: they are scaled by the calibration that belongs to the
    runs, then moved to the prior that is asked for.

    prior: '' (what the runs were trained to assume), 'train', 'uniform', 'estimate', 'tau' (the calibration's),
    'tau:0.5', or the path of a CSV of shares. The prior of a tau is training's to the power of 1 - tau, so that the
    arg-max is that of log p - tau log prior (Menon et al. 2021, post hoc).
    Raises LongtailError, before any picture is looked at, where a calibration, that CSV or the pictures that an
    estimate needs cannot be used. tta: as log_posteriors has it; that a scaling was fitted to other views is said.
    """

    def __init__(
        self,
        folders: list[Path],
        checkpoints: list[dict],
        project: Path | str,
        calibrated: bool,
        prior: str,
        tta: str = "auto",
    ):
        self.folders = folders
        self.other_views = tta != "auto" and any(tta != checkpoint.get("tta", "none") for checkpoint in checkpoints)
        self.trained = training_prior(checkpoints)
        self.calibration = calibration_of(folders, checkpoints, project) if calibrated else None
        self.prior = prior or checkpoints[0]["config"]["prior"]
        self.prior_in_words = self.prior
        self.wanted = self.trained
        if self.prior == "uniform":
            self.wanted = assumed("uniform", self.trained)
        elif self.prior == "estimate":
            self.known = self._known()
        elif self.prior == "tau":
            self.wanted = tilted(self.trained, 1 - self._chosen_tau())
        elif self.prior.startswith("tau:"):
            self.wanted = tilted(self.trained, 1 - self._given_tau())
        elif self.prior != "train":
            if not Path(self.prior).exists():
                raise LongtailError(f"--prior {self.prior}: no such file, nor train, uniform, estimate or tau")
            self.wanted = from_file(Path(self.prior), checkpoints[0]["classes"])

    def __call__(
        self, log_posterior: np.ndarray, unread: Iterable[int] = (), held_out: list[str] | None = None
    ) -> tuple[np.ndarray, list[str]]:
        """(log posteriors [N,C] of log posteriors [N,C], what was done in sentences).

        unread: rows of pictures that could not be read. They get the prior's answer. held_out: the pictures' paths,
        where they are those that the runs held out: a scaling that was fitted to one of them is fitted without it.
        """
        said, wanted = [], self.wanted
        read = np.delete(np.arange(len(log_posterior)), list(unread))
        given = log_posterior[read]
        scaled = given
        if self.calibration is not None and self.calibration.scaling.kind != "none":
            words = self.calibration.in_words() + self.carried_over(held_out is not None)
            if held_out is None:
                scaled = self.calibration.scaling(given)
            else:
                words += "; for each picture fitted again without it and others"
                scaled = self.calibration.held_out(held_out, given)
            said.append(words)
        if self.prior == "estimate":
            scaled, found = self._estimate(given, scaled)
            used = "as in training" if found.estimator == "none" else f"estimated by {found.estimator}"
            said.append(f"class prior: {used}: {found.reason}")
            wanted = found.prior
        elif self.prior != "train":
            said.append(f"class prior: {self.prior_in_words}")
        answers = np.tile(np.log(self.trained), (len(log_posterior), 1))  # the prior's, where a picture was not read
        answers[read] = scaled
        return move(answers, self.trained, wanted), said

    def carried_over(self, held_out: bool = False) -> str:
        """What the calibration, if there is one, is used for that it was not fitted to, in words. held_out: of pictures
        that the runs held out."""
        return self.calibration.carried_over(self.folders, held_out, self.other_views)

    def _chosen_tau(self):
        """The tau that the calibration found best."""
        if self.calibration is None or self.calibration.tau is None:
            raise LongtailError(
                "--prior tau: no calibration of these runs has one: calibrate.py makes it, or give --prior tau:0.5"
            )
        self.prior_in_words = f"tau {self.calibration.tau:g}, which {self.calibration.path} chose by macro F1"
        if self.calibration.tau == 0:
            self.prior_in_words = f"tau 0: {self.calibration.path} found none that helps macro F1"
        return self.calibration.tau

    def _given_tau(self):
        """The number after `tau:`."""
        try:
            tau = float(self.prior.removeprefix("tau:"))
        except ValueError:
            tau = -1.0
        if not 0 <= tau <= TAUS[-1]:
            raise ConfigError(f"--prior {self.prior}: give tau as a number from 0 to {TAUS[-1]:g}, as in tau:0.5")
        return tau

    def _known(self):
        """The Evidence that an estimate is judged by: the pictures that the calibration was fitted to; without one,
        those that the runs held out."""
        if self.calibration is not None:
            return self.calibration.known()
        try:
            return evidence.pooled(evidence.runs_by_fold(self.folders))
        except LongtailError as error:
            raise LongtailError(f"--prior estimate needs pictures that were held out from training: {error}") from None

    def _estimate(self, given, scaled):
        """(log posteriors [N,C] to use, priors.estimate). Without a calibration, bias and temperature are fitted to
        what is known, for an estimate needs scaled posteriors."""
        known = self.known
        scale = None if self.calibration is None else self.calibration.scaling
        kind = "bias and temperature" if scale is None else scale.kind
        if scale is None:
            scale = fit(kind, known.log_posterior, known.targets, known.counts) or identity(len(self.trained))
            scaled = scale(given)
        # What is known is scaled by fits that had not seen it, as the pictures that are asked about are.
        held_out = cross_fit(kind, known.log_posterior, known.targets, known.counts, fitting_parts(known))
        if held_out is None:
            held_out = scale(known.log_posterior)
        return scaled, estimate(scaled, self.trained, held_out, known.targets, known.prior)
