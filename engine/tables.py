"""A plan on a device: one row of it, or all of it at addresses that stay, for a step that is captured once and
replayed.

Copies numbers; draws none and knows no network.
"""

import numpy as np
import torch

from plan import Plan


def row_of(plan, t, device):
    """Step t of a plan, on `device`."""
    return Plan(*(torch.from_numpy(np.ascontiguousarray(v[t : t + 1]))[0].to(device) for v in plan))


class Tables:
    """A plan on a device, at addresses that stay. `row` holds the step that `take` took last; the counter `at` points
    to the next."""

    def __init__(self, plan, device):
        tables = self._words(plan)
        width = sum(v.shape[1] for v in tables.values())
        self.packed = torch.empty(len(plan.index), width, dtype=torch.int32, device=device)
        self.words, self.at = torch.empty_like(self.packed[:1]), torch.zeros(1, dtype=torch.int64, device=device)
        columns, start = {}, 0
        for name, words in tables.items():
            table, end = getattr(plan, name), start + words.shape[1]
            kind = torch.from_numpy(np.empty(0, table.dtype)).dtype
            columns[name], start = self.words[0, start:end].view(kind).view(table.shape[1:]), end
        self.row = Plan(**columns)

    def fill(self, plan, first=0):
        """The tables of `plan`, whose shapes are those of the first one; `take` begins at step `first`."""
        self.packed.copy_(torch.from_numpy(np.concatenate(list(self._words(plan).values()), 1)))
        self.at.fill_(first)

    def take(self):
        torch.index_select(self.packed, 0, self.at, out=self.words)
        return self.row

    @staticmethod
    def _words(plan):
        """Each table as int32 [T, words], the key first: its 8 bytes are aligned there."""
        steps, order = len(plan.index), sorted(Plan._fields, key=lambda name: name != "key")
        return {name: np.ascontiguousarray(getattr(plan, name)).reshape(steps, -1).view(np.int32) for name in order}
