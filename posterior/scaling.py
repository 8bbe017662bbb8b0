"""Scaling after training: log posteriors in, log posteriors out, fitted on pictures that were not trained on.

A scaling multiplies and shifts log posteriors. It is fitted by maximum likelihood, and of several kinds the simplest
within one standard error of the best is taken, judged on rows that its fit had not seen. Reads no picture and no run.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from metrics import count_groups, log_softmax
from posterior.priors import shares

# The simplest first; `parameters` counts the numbers of each.
KINDS = (
    "none",
    "temperature",
    "temperature, prior and noise",
    "group temperature",
    "bias",
    "bias and temperature",
    "vector",
)
LARGEST = 20.0  # temperatures lie between 1 / LARGEST and LARGEST: where every row is right, none is small enough
MOST_NOISE = 0.5  # share of pictures
PARTS = 5  # parts of cross-fitting, where there are no folds


@dataclass(frozen=True)
class Scaling:
    """p = (1 - sum of floor) * softmax(by_top[arg-max of z] * slope * z + bias) + floor, for log posteriors z."""

    kind: str
    by_top: np.ndarray  # float64 [C]: one over the temperature, by the class that a row names
    slope: np.ndarray  # float64 [C]
    bias: np.ndarray  # float64 [C]
    floor: np.ndarray  # float64 [C]: the probability that each class keeps, whatever the picture

    def __call__(self, log_posterior: np.ndarray) -> np.ndarray:
        """Log posteriors float64 [N,C] of log posteriors [N,C]."""
        z = np.asarray(log_posterior, np.float64)
        row = self.by_top[z.argmax(1)][:, None]
        scaled = log_softmax(row * self.slope * z + self.bias)
        share = self.floor.sum()
        if not share:
            return scaled
        return np.log((1 - share) * np.exp(scaled) + self.floor)

    def in_words(self) -> str:
        """What it does, for people."""
        temperatures = 1 / self.by_top
        if self.kind == "temperature":
            return f"temperature {temperatures[0]:.3f}"
        if self.kind == "temperature, prior and noise":
            return f"temperature {temperatures[0]:.3f}, noise {self.floor.sum():.3f}, the prior weighted anew"
        if self.kind == "group temperature":
            return f"temperatures {temperatures.min():.3f} to {temperatures.max():.3f} by count group"
        return self.kind


class Tried(NamedTuple):
    """A kind of scaling, fitted to all rows, and tried on rows that its fit had not seen."""

    scaling: Scaling  # of all rows
    parameters: int
    nll: float  # held out, nats a picture
    behind: float  # how much worse than the best kind's, a mean over pictures
    error: float  # the standard error of that
    held_out: np.ndarray  # log posteriors [N,C]

    @property
    def kind(self) -> str:
        return self.scaling.kind


def identity(classes: int) -> Scaling:
    """The scaling that changes nothing."""
    return Scaling("none", np.ones(classes), np.ones(classes), np.zeros(classes), np.zeros(classes))


def parameters(kind: str, classes: int, groups: int) -> int:
    """How many numbers a kind of scaling fits."""
    numbers = (0, 1, 3, groups, classes, classes + 1, 2 * classes)
    return dict(zip(KINDS, numbers))[kind]


def fit(kind: str, log_posterior: np.ndarray, targets: np.ndarray, train_counts: np.ndarray) -> Scaling | None:
    """The scaling of a kind that makes `targets` most likely; None where the search did not converge.

    log_posterior [N,C], targets int [N], train_counts [C]: of the training pictures. Maximum likelihood by L-BFGS in
    float64 (temperature: Guo et al. 2017; vector: the same; bias and temperature: Alexandari et al. 2020). Class by
    class there may be few rows or none, so that biases, logarithms of slopes and of group temperatures have a standard
    normal prior; numbers for all classes have none. In its own measure the result is never worse than the identity.

    "Temperature, prior and noise" has three numbers: the temperature, how much the training prior counts, and the share
    of pictures that tell nothing of their label, which is then drawn from the training prior: wrong labels, pictures
    that look like another class. Without that share a few sure mistakes keep all other answers unsure.
    """
    n, classes = log_posterior.shape
    if kind == "none":
        return identity(classes)
    z = torch.as_tensor(np.asarray(log_posterior, np.float64))
    y = torch.as_tensor(np.asarray(targets, np.int64))
    numbers = _Numbers(kind, train_counts)

    def objective():
        own = numbers.log_probabilities(z).gather(1, y[:, None])[:, 0]
        return -own.mean() + numbers.penalty() / n

    search = torch.optim.LBFGS(
        numbers.free, max_iter=1000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        search.zero_grad()
        value = objective()
        value.backward()
        return value

    start = float(torch.nn.functional.cross_entropy(z, y))  # of the identity
    search.step(closure)
    end = float(closure().detach())
    slowest = max(float(value.grad.abs().max()) for value in numbers.free)
    if not end <= start + 1e-9 or slowest > 1e-5:
        return None
    return numbers.scaling()


class _Numbers:
    """The numbers of one kind of scaling, as a search moves them: each may be of any size and sign, 0 (the root: near
    it) does nothing."""

    def __init__(self, kind, train_counts):
        self.kind = kind
        self.prior = torch.as_tensor(shares(train_counts))
        classes = len(self.prior)
        self.groups, self.group = 1, torch.zeros(classes, dtype=torch.int64)
        if kind == "group temperature":
            names, numbers = np.unique(count_groups(train_counts), return_inverse=True)
            self.groups, self.group = len(names), torch.as_tensor(numbers)
        self.noisy = kind == "temperature, prior and noise"
        biased = kind in ("bias", "bias and temperature", "vector")
        self.free = []
        self.log_by_top = self._zeros(self.groups, "temperature" in kind)
        self.strength = self._zeros((), self.noisy)
        self.root = self._zeros((), self.noisy)  # of the share of noise
        self.log_slope = self._zeros(classes, kind == "vector")
        self.bias = self._zeros(classes, biased)
        if self.noisy:
            self.root.data.fill_(0.2)  # at 0 itself its gradient is 0

    def _zeros(self, size, fitted):
        value = torch.zeros(size, dtype=torch.float64, requires_grad=fitted)
        if fitted:
            self.free.append(value)
        return value

    def log_probabilities(self, z):
        """[N,C] of log posteriors [N,C]: what Scaling computes, with gradients."""
        row = self._by_top()[z.argmax(1), None]
        scaled = (row * self.log_slope.exp() * z + self._shift()).log_softmax(1)
        if not self.noisy:
            return scaled
        return ((1 - self._share()) * scaled.exp() + self._share() * self.prior).log()

    def penalty(self):
        """Of the normal prior of what few rows decide: half the sum of squares."""
        squares = (self.log_slope**2).sum() + (self.bias**2).sum()
        if self.groups > 1:
            squares = squares + (self.log_by_top**2).sum()
        return squares / 2

    def scaling(self):
        with torch.no_grad():
            values = self._by_top(), self.log_slope.exp(), self._shift(), self._share() * self.prior
        return Scaling(self.kind, *(value.numpy() for value in values))

    def _by_top(self):
        limit = float(np.log(LARGEST))
        return self.log_by_top.clamp(-limit, limit).exp()[self.group]

    def _shift(self):
        return self.bias + self.strength * self.prior.log()

    def _share(self):
        return (self.root**2).clamp(max=MOST_NOISE)


def cross_fit(
    kind: str, log_posterior: np.ndarray, targets: np.ndarray, train_counts: np.ndarray, parts: np.ndarray
) -> np.ndarray | None:
    """Log posteriors [N,C], each row scaled by a fit to the other parts' rows; None where a fit did not converge.

    parts int [N]: which part a row belongs to.
    """
    held_out = np.empty(log_posterior.shape)
    for part in np.unique(parts):
        here = parts == part
        scaling = fit(kind, log_posterior[~here], targets[~here], train_counts)
        if scaling is None:
            return None
        held_out[here] = scaling(log_posterior[here])
    return held_out


def parts_of(targets: np.ndarray) -> np.ndarray:
    """A part for each row, int [N]: PARTS of them, each class dealt out evenly."""
    generator = np.random.default_rng(0)
    shuffled = generator.permutation(len(targets))
    by_class = shuffled[np.argsort(np.asarray(targets)[shuffled], kind="stable")]
    parts = np.empty(len(targets), np.int64)
    parts[by_class] = np.arange(len(targets)) % PARTS  # one after another, through all classes
    return parts


def compare(
    log_posterior: np.ndarray, targets: np.ndarray, train_counts: np.ndarray, parts: np.ndarray
) -> tuple[list[Tried], list[str]]:
    """Every kind as it was tried, the simplest first, and the kinds of which a fit did not converge."""
    rows = np.arange(len(targets))
    groups = len(np.unique(count_groups(train_counts)))
    fitted, held_out, failed = {}, {}, []
    for kind in KINDS:
        of_all = fit(kind, log_posterior, targets, train_counts)
        of_parts = cross_fit(kind, log_posterior, targets, train_counts, parts)
        if of_all is None or of_parts is None:
            failed.append(kind)
        else:
            fitted[kind], held_out[kind] = of_all, of_parts
    losses = {kind: -found[rows, targets] for kind, found in held_out.items()}  # nats, a picture each
    best = min(losses.values(), key=np.mean)
    tried = []
    for kind, own in losses.items():
        behind = own - best
        error = behind.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
        count = parameters(kind, log_posterior.shape[1], groups)
        judged = (float(own.mean()), float(behind.mean()), float(error), held_out[kind])
        tried.append(Tried(fitted[kind], count, *judged))
    return tried, failed


def simplest(tried: list[Tried]) -> Tried:
    """The first, from the simplest on, that is within one standard error of the best.

    The error is that of the difference, picture by picture: both are judged on the same pictures.
    """
    return next(one for one in tried if one.behind <= one.error)
