"""Another class prior: log posteriors moved to it, and how often each class occurs in pictures without labels.

Bayes' rule moves a posterior from the prior of training to another one; everything else about a class is taken to be as
in training ("label shift"). NumPy in float64. Reads no run and prints nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from errors import LongtailError
from metrics import log_softmax, macro_f1
from pictures.csv_table import read_csv

FLOOR = 0.5  # pictures that a class counts for at the least
NEVER = 1e-12  # the prior of a class that is said not to occur
PARTS = 5  # of the pictures without labels, each judged under a mix that the others gave
POWERS = np.linspace(0, 1.5, 31)  # of a tilt: at 0 all classes are alike; rare ones are never taken for the frequent
TAUS = np.linspace(0, 1.5, 31)  # of which one is chosen
PSEUDO = 0.5  # pictures that EM takes as seen of each class: one that occurs nowhere keeps a small share
EM_STEPS = 1000
BATCHES = 100  # of known pictures, on which an estimate must prove itself
LARGEST_BATCH = 2000  # pictures
PROOF = 0.95  # share of the batches on which it must do better
HARM = 0.005  # accuracy that it may cost where nothing has shifted


class Estimate(NamedTuple):
    """What pictures without labels say of the class prior."""

    prior: np.ndarray  # float64 [C], what to use
    estimator: str  # none (the training prior), tilt or EM
    reason: str


def shares(counts: np.ndarray) -> np.ndarray:
    """Class prior float64 [C] of picture counts [C]; what is below 1/2 counts as 1/2."""
    counts = np.maximum(np.asarray(counts, np.float64), FLOOR)
    return counts / counts.sum()


def assumed(name: str, trained: np.ndarray) -> np.ndarray:
    """What the probabilities of a run with --prior `name`, train or uniform, assume: a class prior like `trained`."""
    return np.full(trained.shape, 1 / trained.shape[-1]) if name == "uniform" else trained


def move(log_posterior: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Log posteriors [N,C] under the class prior `new`, of those under `old`: [C] each, or [N,C] a row of its own.

    A prior of 0 counts as NEVER, so that a picture of such a class has a price, though a high one.
    """
    return log_softmax(log_posterior - np.log(old) + np.log(np.maximum(new, NEVER)))


def from_file(path: Path, classes: list[str]) -> np.ndarray:
    """Class prior [C] of a CSV of two columns, class and share (or count), which are scaled to sum to 1.

    Raises LongtailError where it does not name each of the classes once, with a number that is not negative.
    """
    # The first line may be data already.
    table = read_csv(path, lambda cells: _share(cells[-1]) is not None, lambda cells: ["class", "share"][: len(cells)])
    if len(table.header) != 2:
        raise LongtailError(f"{path}: two columns are needed, the class and its share; it has {len(table.header)}")
    spelled = {normalize("NFC", name): name for name in classes}  # systems store the same accents in two ways
    share_of = {}
    for line, cells in table.lines:
        name, text = (cells[column] for column in table.header)
        name = spelled.get(normalize("NFC", name), name)
        share = _share(text)
        if share is None:
            raise LongtailError(f"{path} line {line}: {text!r} is no share: give a number that is not negative")
        if name not in classes or name in share_of:
            why = "stands twice" if name in share_of else "is no class of the model"
            raise LongtailError(f"{path} line {line}: {name!r} {why}")
        share_of[name] = share
    missing = [name for name in classes if name not in share_of]
    if missing:
        raise LongtailError(
            f"{path}: no share of {missing[0]!r}: name all {len(classes)} classes, with 0 where none is"
        )
    prior = np.array([share_of[name] for name in classes])
    if not prior.sum():
        raise LongtailError(f"{path}: every share is 0")
    return prior / prior.sum()


def _share(text):
    """A share or count as a number; None where it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < np.inf else None


def tilted(prior: np.ndarray, power: float) -> np.ndarray:
    """prior^power, as a prior: 1 leaves it, 0 makes it uniform."""
    weights = np.asarray(prior, np.float64) ** power
    return weights / weights.sum()


def frontier(log_posterior: np.ndarray, prior: np.ndarray, taus: np.ndarray) -> list[np.ndarray]:
    """Predicted classes [N] for each tau: the arg-max of log p - tau log prior (Menon et al. 2021, post hoc)."""
    return [(log_posterior - tau * np.log(prior)).argmax(1) for tau in taus]


def frontier_scores(log_posterior: np.ndarray, prior: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(accuracy, macro F1) at each of TAUS: what the one costs of the other. targets int [N]."""
    at_tau = frontier(log_posterior, prior, TAUS)
    right = [(predicted == targets).mean() for predicted in at_tau]
    f1 = [macro_f1(targets, predicted, len(prior)) for predicted in at_tau]
    return np.array(right), np.array(f1)


def choose_tau(
    log_posterior: np.ndarray, prior: np.ndarray, targets: np.ndarray, parts: np.ndarray
) -> tuple[float, np.ndarray]:
    """(tau, predicted int [N]): the tau of `frontier` whose macro F1 is the highest, of equals the smallest; and each
    row's class at the tau that the other parts' rows choose, by which that choice is judged.

    parts int [N]: which part a row belongs to. log_posterior [N,C]: out of fold.
    """
    place, predicted = choose_answers(frontier(log_posterior, prior, TAUS), targets, parts, len(prior))
    return float(TAUS[place]), predicted


def choose_answers(
    answers: Sequence[np.ndarray], targets: np.ndarray, parts: np.ndarray, classes: int
) -> tuple[int, np.ndarray]:
    """(which of `answers`, each int [N], has the highest macro F1, of equals the first; the class of each picture, int
    [N], in the one that the other parts' pictures choose)."""

    def best(here):
        return int(np.argmax([macro_f1(targets[here], each[here], classes) for each in answers]))

    predicted = np.empty(len(targets), np.int64)
    for part in np.unique(parts):
        here = parts == part
        predicted[here] = answers[best(~here)][here]
    return best(np.full(len(targets), True)), predicted


def tilt(log_posterior: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The prior [C] among the POWERS of `prior` that makes the pictures most likely: one number to fit."""
    return tilted(prior, max(POWERS, key=lambda power: mean_gain(log_posterior, prior, tilted(prior, power))))


def em(log_posterior: np.ndarray, prior: np.ndarray, pseudo: float = PSEUDO) -> np.ndarray:
    """The prior [C] by expectation maximisation (Saerens et al. 2002), with `pseudo` pictures of each class besides."""
    n, classes = log_posterior.shape
    ratio = np.exp(log_posterior) / prior  # p(picture | class), up to a factor of each picture
    current = prior
    for _ in range(EM_STEPS):
        joint = ratio * current
        joint /= joint.sum(1, keepdims=True)
        following = (joint.sum(0) + pseudo) / (n + classes * pseudo)
        moved = np.abs(following - current).max()
        current = following
        if moved < 1e-7:
            break
    return current


def mean_gain(log_posterior: np.ndarray, prior: np.ndarray, new: np.ndarray) -> float:
    """Mean log-likelihood of the pictures under the class prior `new`, beside that under `prior`, in nats."""
    return float(_gain(log_posterior, prior, new).mean())


ESTIMATORS: dict[str, Callable] = {"tilt": tilt, "EM": em}


def estimate(
    log_posterior: np.ndarray,
    prior: np.ndarray,
    known: np.ndarray,
    known_targets: np.ndarray,
    known_prior: np.ndarray,
    seed: int = 0,
) -> Estimate:
    """The class prior of pictures without labels, if what is known shows that using it helps.

    log_posterior [N,C]: of those pictures, under the training prior `prior` [C]. known [M,C], known_targets int [M],
    known_prior [C]: log posteriors of pictures with labels that were not trained on, and their training prior. All are
    scaled already: of posteriors that are not sure enough, every estimate sees a shift where there is none.
    An estimator must explain held-out pictures better than the training prior does, by more than chance; the best of
    them comes first. It must then prove itself on batches of known pictures, of each of which the same estimate is
    made. Drawn to the mix that it found, it must give the true classes more likelihood than the training prior does on
    PROOF of them, and name no fewer right. Drawn as they are, it may cost HARM of accuracy at the most.
    """
    generator = np.random.default_rng(seed)
    reason = "the pictures fit the training prior as well as any other"
    if len(log_posterior) < 2 * PARTS:
        reason = f"an estimate takes {2 * PARTS} pictures or more"
    for name in _better_explained(log_posterior, prior, generator):
        found = ESTIMATORS[name](log_posterior, prior)
        gains = []
        for mix in (found, known_prior):
            size = min(len(log_posterior), LARGEST_BATCH)
            gains.append(_gains(ESTIMATORS[name], mix, size, known, known_targets, known_prior, generator))
        shifted, unshifted = gains
        wins = float((shifted.likelihood > 0).mean())
        said = (
            f"{name}, on {BATCHES} batches of known pictures drawn to its mix, makes the true classes likelier on "
            f"{wins:.0%} and changes accuracy by {shifted.accuracy.mean():+.3f}; where nothing has shifted, by "
            f"{unshifted.accuracy.mean():+.3f}"
        )
        if wins >= PROOF and shifted.accuracy.mean() >= 0 and unshifted.accuracy.mean() >= -HARM:
            return Estimate(found, name, said)
        reason = f"{said}: not to be trusted"
    return Estimate(prior, "none", reason)


class _Gains(NamedTuple):
    """What an estimate adds on each of BATCHES batches."""

    accuracy: np.ndarray
    likelihood: np.ndarray  # of the true classes, mean logarithm


def _better_explained(log_posterior, prior, generator):
    """The estimators that beat the training prior's likelihood of held-out pictures by more than chance, best first."""
    n = len(log_posterior)
    if n < 2 * PARTS:
        return []
    part = generator.permutation(n) % PARTS
    means = {}
    for name, estimator in ESTIMATORS.items():
        gain = np.empty(n)  # by picture
        for k in range(PARTS):
            here = part == k
            gain[here] = _gain(log_posterior[here], prior, estimator(log_posterior[~here], prior))
        if _beyond_chance(gain):
            means[name] = gain.mean()
    return sorted(means, key=lambda name: -means[name])


def _gain(log_posterior, prior, new):
    """By how much a picture's log-likelihood rises under the class prior `new`, [N]."""
    return np.log(np.exp(log_posterior) @ (new / prior))


def _beyond_chance(gain):
    """Whether a mean [N] is above 0 by two standard errors."""
    return gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain))


def _gains(estimator, mix, size, known, targets, known_prior, generator):
    """The _Gains of the estimator's own estimates of batches of known pictures, drawn to the prior `mix`."""
    support = np.bincount(targets, minlength=len(mix))
    weight = (mix / np.maximum(support, 1))[targets]  # of each picture
    weight /= weight.sum()
    gains = _Gains(np.zeros(BATCHES), np.zeros(BATCHES))
    for k in range(BATCHES):
        rows = generator.choice(len(targets), size, p=weight)
        batch, true = known[rows], targets[rows]
        new = estimator(batch, known_prior)
        if not _beyond_chance(_gain(batch, known_prior, new)):
            continue  # it would not be used
        moved = move(batch, known_prior, new)
        gains.accuracy[k] = (moved.argmax(1) == true).mean() - (batch.argmax(1) == true).mean()
        gains.likelihood[k] = (moved - batch)[np.arange(size), true].mean()
    return gains
