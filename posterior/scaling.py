"""Scaling after training: log posteriors in, log posteriors out, fitted on pictures that were not trained on.

A scaling multiplies and shifts log posteriors. It is fitted by maximum likelihood, and of several kinds the simplest
within one standard error of the best is taken, judged on rows that its fit had not seen. Reads no picture and no run.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from metrics import log_softmax

# Each kind and its parameters for C classes in G groups, the simplest first.
KINDS = ("none", "temperature", "group temperature", "bias", "bias and temperature", "vector")
LARGEST = 20.0  # temperatures lie between 1 / LARGEST and LARGEST: where every row is right, none is small enough
PARTS = 5  # parts of cross-fitting, where there are no folds


@dataclass(frozen=True)
class Scaling:
    """z -> by_top[arg-max of z] * slope * z + bias, for log posteriors z."""

    kind: str
    by_top: np.ndarray  # float64 [C]: one over the temperature, by the class that a row names
    slope: np.ndarray  # float64 [C]
    bias: np.ndarray  # float64 [C]

    def __call__(self, log_posterior: np.ndarray) -> np.ndarray:
        """Log posteriors float64 [N,C] of log posteriors [N,C]."""
        z = np.asarray(log_posterior, np.float64)
        row = self.by_top[z.argmax(1)][:, None]
        return log_softmax(row * self.slope * z + self.bias)

    def in_words(self) -> str:
        """What it does, for people."""
        temperatures = 1 / self.by_top
        if self.kind == "temperature":
            return f"temperature {temperatures[0]:.3f}"
        if self.kind == "group temperature":
            return f"temperatures {temperatures.min():.3f} to {temperatures.max():.3f} by count group"
        return self.kind


class Trial(NamedTuple):
    """A kind of scaling, tried on rows that its fit had not seen."""

    kind: str
    parameters: int
    nll: float  # held out, nats a picture
    behind: float  # how much worse than the best kind's, a mean over pictures
    error: float  # the standard error of that
    held_out: np.ndarray  # log posteriors [N,C]


def identity(classes: int) -> Scaling:
    """The scaling that changes nothing."""
    return Scaling("none", np.ones(classes), np.ones(classes), np.zeros(classes))


def parameters(kind: str, classes: int, groups: int) -> int:
    """How many numbers a kind of scaling fits."""
    counts = (0, 1, groups, classes, classes + 1, 2 * classes)
    return dict(zip(KINDS, counts))[kind]


def fit(kind: str, log_posterior: np.ndarray, targets: np.ndarray, group_of: np.ndarray) -> Scaling | None:
    """The scaling of a kind that makes `targets` most likely; None where the search did not converge.

    log_posterior [N,C], targets int [N], group_of int [C]: the count group of each class. Maximum likelihood by L-BFGS
    in float64 from the identity on (temperature: Guo et al. 2017; vector: the same; bias and temperature: Alexandari et
    al. 2020). Class by class there may be few rows or none, so that biases, logarithms of slopes and of group
    temperatures have a standard normal prior; one temperature for all has none. In its own measure the result is never
    worse than the identity.
    """
    n, classes = log_posterior.shape
    if kind == "none":
        return identity(classes)
    z = torch.as_tensor(np.asarray(log_posterior, np.float64))
    y = torch.as_tensor(np.asarray(targets, np.int64))
    group = torch.as_tensor(np.asarray(group_of, np.int64))
    top = z.argmax(1)
    groups = int(group.max()) + 1 if kind == "group temperature" else 1
    if groups == 1:
        group = torch.zeros_like(group)
    log_by_top = torch.zeros(groups, dtype=torch.float64, requires_grad="temperature" in kind)
    log_slope = torch.zeros(classes, dtype=torch.float64, requires_grad=kind == "vector")
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=kind in ("bias", "bias and temperature", "vector"))
    free = [value for value in (log_by_top, log_slope, bias) if value.requires_grad]
    limit = float(np.log(LARGEST))

    def objective():
        row = log_by_top.clamp(-limit, limit).exp()[group][top, None]
        scaled = row * log_slope.exp() * z + bias
        likelihood = torch.nn.functional.cross_entropy(scaled, y)
        squares = (log_slope**2).sum() + (bias**2).sum()
        if groups > 1:
            squares = squares + (log_by_top**2).sum()
        return likelihood + squares / (2 * n)

    search = torch.optim.LBFGS(
        free, max_iter=1000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        search.zero_grad()
        value = objective()
        value.backward()
        return value

    start = float(objective().detach())
    search.step(closure)
    end = float(closure().detach())
    slowest = max(float(value.grad.abs().max()) for value in free)
    if not end <= start or slowest > 1e-5:
        return None
    by_top = log_by_top.detach().clamp(-limit, limit).exp()[group]
    return Scaling(kind, by_top.numpy(), log_slope.detach().exp().numpy(), bias.detach().numpy())


def cross_fit(
    kind: str, log_posterior: np.ndarray, targets: np.ndarray, group_of: np.ndarray, parts: np.ndarray
) -> np.ndarray | None:
    """Log posteriors [N,C], each row scaled by a fit to the other parts' rows; None where a fit did not converge.

    parts int [N]: which part a row belongs to.
    """
    held_out = np.empty(log_posterior.shape)
    for part in np.unique(parts):
        here = parts == part
        scaling = fit(kind, log_posterior[~here], targets[~here], group_of)
        if scaling is None:
            return None
        held_out[here] = scaling(log_posterior[here])
    return held_out


def parts_of(targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """A part for each row, int [N]: PARTS of them, each class dealt out evenly."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(targets))
    by_class = shuffled[np.argsort(np.asarray(targets)[shuffled], kind="stable")]
    parts = np.empty(len(targets), np.int64)
    parts[by_class] = np.arange(len(targets)) % PARTS  # one after another, through all classes
    return parts


def compare(
    log_posterior: np.ndarray, targets: np.ndarray, group_of: np.ndarray, parts: np.ndarray
) -> tuple[list[Trial], list[str]]:
    """Every kind's Trial, the simplest first, and the kinds whose fit did not converge."""
    rows = np.arange(len(targets))
    held_out, failed = {}, []
    for kind in KINDS:
        found = cross_fit(kind, log_posterior, targets, group_of, parts)
        if found is None:
            failed.append(kind)
        else:
            held_out[kind] = found
    losses = {kind: -found[rows, targets] for kind, found in held_out.items()}  # nats, a picture each
    best = min(losses.values(), key=np.mean)
    trials = []
    for kind, own in losses.items():
        behind = own - best
        error = behind.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
        count = parameters(kind, log_posterior.shape[1], int(group_of.max()) + 1)
        trials.append(Trial(kind, count, float(own.mean()), float(behind.mean()), float(error), held_out[kind]))
    return trials, failed


def simplest(trials: list[Trial]) -> Trial:
    """The first Trial, from the simplest on, that is within one standard error of the best.

    The error is that of the difference, picture by picture: both are judged on the same pictures.
    """
    return next(trial for trial in trials if trial.behind <= trial.error)
