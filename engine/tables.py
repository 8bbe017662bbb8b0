"""A plan on a device: one row of it, or all of it at addresses that stay, for a step that is captured once and
replayed.

Copies numbers; draws none and knows no network.
"""

import numpy as np
import torch

from plan import Plan


def row_of(plan: Plan, t: int, device: torch.device | str) -> Plan:
    """Step t of a plan of arrays [T, ...], as tensors [...] on `device`."""
    tables = {}
    for name, table in plan._asdict().items():
        one_step = np.ascontiguousarray(
            table[t : t + 1]
        )  # a slice, so that a table of one number a step stays an array
        tables[name] = torch.from_numpy(one_step)[0].to(device)
    return Plan(**tables)


class Tables:
    """A plan on a device, at addresses that stay. `row` holds the step that `take` took last; the counter `at` points
    to the next."""

    def __init__(self, plan: Plan, device: torch.device):
        words = _as_words(plan)
        width = sum(columns.shape[1] for columns in words.values())
        # A step is one line of words, so that taking it is one copy.
        self.packed = torch.empty(len(plan.index), width, dtype=torch.int32, device=device)
        self.words = torch.empty_like(self.packed[:1])  # the step of `row`, whose tables are views of it
        self.at = torch.zeros(1, dtype=torch.int64, device=device)

        tables = {}
        start = 0
        for name, columns in words.items():
            end = start + columns.shape[1]
            table = getattr(plan, name)
            dtype = torch.from_numpy(np.empty(0, table.dtype)).dtype  # torch's name for NumPy's dtype
            tables[name] = self.words[0, start:end].view(dtype).view(table.shape[1:])
            start = end
        self.row = Plan(**tables)

    def fill(self, plan: Plan, first: int = 0) -> None:
        """The tables of `plan`, whose shapes are those of the first one; `take` begins at step `first`."""
        lines = np.concatenate(list(_as_words(plan).values()), 1)
        self.packed.copy_(torch.from_numpy(lines))
        self.at.fill_(first)

    def take(self) -> Plan:
        """Copies the step at `at` into `row`, which it returns; moving `at` is up to the caller."""
        torch.index_select(self.packed, 0, self.at, out=self.words)  # `at` is read on the device: a graph replays it
        return self.row


def _as_words(plan):
    """Each table by name as int32 [T, words], the key first: its 8 bytes are aligned there."""
    names = ["key", *(name for name in Plan._fields if name != "key")]  # all other tables have 4 bytes a number
    steps = len(plan.index)
    words = {}
    for name in names:
        table = np.ascontiguousarray(getattr(plan, name))
        words[name] = table.reshape(steps, -1).view(np.int32)
    return words
