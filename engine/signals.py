"""Signals (not those of the operating system): what earlier epochs tell of the training pictures, for plans and loss
tables that adapt to them.

Gathered in the training step from rows that do not mix, where a switched-on setting reads them; checkpointed; never
from a validation picture. A dict of float32 tensors on the CPU, NaN where nothing is known yet:

    loss [C], confidence [C]    by class, cross-entropy and largest probability: means over the last epoch that showed
                                it unmixed
    own [N]                     by picture of the Store, the probability of its own label, likewise
"""

import numpy as np
import torch

ROWS = ("loss", "confidence", "own")  # what a step notes of each of its rows


def nothing_known(pictures: int, classes: int) -> dict[str, torch.Tensor]:
    """The signals before the first epoch."""
    sizes = dict(loss=classes, confidence=classes, own=pictures)
    return {name: torch.full((size,), torch.nan) for name, size in sizes.items()}


def after_epoch(
    before: dict[str, torch.Tensor], index: np.ndarray, labels: np.ndarray, rows: dict[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    """The signals after an epoch that showed the Store's rows `index` [T,B].

    labels: int [N] of the whole Store. rows: by name of ROWS what the steps noted, float [T,B], NaN where a row mixed.
    What the epoch does not tell stays as it was `before`.
    """
    index = index.ravel()
    # A row's own label alone: its partner's share is 0 where it does not mix.
    classes = labels[index]
    return dict(
        loss=_renewed(before["loss"], classes, rows["loss"]),
        confidence=_renewed(before["confidence"], classes, rows["confidence"]),
        own=_renewed(before["own"], index, rows["own"]),
    )


def _renewed(before, place, values):
    """`before`, with the mean of the `values` that are numbers at each `place` that has one."""
    values = values.ravel().astype(np.float64)
    told = np.isfinite(values)  # a row that mixed tells nothing
    total = np.bincount(place[told], values[told], len(before))
    count = np.bincount(place[told], minlength=len(before))
    renewed = before.numpy().copy()  # plans that are drawn already still read the old ones
    renewed[count > 0] = total[count > 0] / count[count > 0]
    return torch.from_numpy(renewed)
