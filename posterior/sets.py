"""Which classes might it be? Sets of classes that hold the right one for 90% of pictures ("conformal prediction").

A class is in a picture's set where the picture makes it likely enough beside how frequent it was in training: where
p(class | picture) / prior(class) reaches one threshold for all classes (Ding et al. 2025, "prevalence-adjusted"). One
threshold on p itself leaves rare classes out. The threshold is a quantile of held-out pictures' own ratios; of the
posterior nothing but its order is trusted, so it is taken as it is, before any scaling. NumPy; reads no run.
"""

import numpy as np

ONE_IN = 10  # pictures, of which one may be of a class outside of its set
LEAST = ONE_IN - 1  # pictures, below which no threshold is low enough


def threshold(log_posterior: np.ndarray, targets: np.ndarray, prior: np.ndarray) -> float:
    """The log ratio that a class of the set must reach, from held-out pictures.

    log_posterior [N,C], under the training prior [C]; targets int [N]. It is the k-th smallest of the N pictures' own
    ratios, k = floor((N + 1) / ONE_IN). A new picture like them is as likely to be in any place of their order: it lies
    below with a probability of at most k / (N + 1) (Vovk, Gammerman & Shafer 2005). Raises ValueError for fewer than
    LEAST pictures.
    """
    outside = (len(targets) + 1) // ONE_IN
    if not outside:
        raise ValueError(f"{len(targets)} pictures are too few: {LEAST} are needed")
    own = _log_ratios(log_posterior, prior)[np.arange(len(targets)), targets]
    return float(np.sort(own)[outside - 1])


def inside(log_posterior: np.ndarray, prior: np.ndarray, least: float, answers: np.ndarray) -> np.ndarray:
    """Whether a class is in a picture's set, bool [N,C]; least: the `threshold`.

    The answers int [N], a class a picture, always are: no set is empty.
    """
    found = _log_ratios(log_posterior, prior) >= least
    found[np.arange(len(answers)), answers] = True
    return found


def cross_fitted(
    log_posterior: np.ndarray, targets: np.ndarray, prior: np.ndarray, answers: np.ndarray, parts: np.ndarray
) -> np.ndarray | None:
    """As `inside`, each picture by the threshold of the other parts; None where these have fewer than LEAST pictures.

    parts int [N]: which part a picture belongs to.
    """
    found = np.empty(log_posterior.shape, bool)
    for part in np.unique(parts):
        here = parts == part
        others = ~here
        if others.sum() < LEAST:
            return None
        least = threshold(log_posterior[others], targets[others], prior)
        found[here] = inside(log_posterior[here], prior, least, answers[here])
    return found


def _log_ratios(log_posterior, prior):
    """log p(class | picture) - log prior(class), [N,C]: log p(picture | class), but for a number of each picture."""
    return log_posterior - np.log(prior)
