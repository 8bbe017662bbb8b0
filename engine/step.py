"""The training step: a row of the plan in, weights changed.

Holds the model, its average, the optimizer and the Store on one device. Draws no random number and reads no file; what
a step does is said by the plan's row alone. A step reads and writes tensors that stay where they are and nothing of the
host's, so that on CUDA it is captured in a graph once and then replayed; elsewhere, and on demand, the same function
runs eagerly.
"""

import copy
import time
from collections.abc import Callable

import numpy as np
import torch

import augment
import losses
from engine.evaluate import Evaluation, compiled, forward, view
from engine.numerics import input_dtype
from engine.tables import Tables
from engine.update import floating, lerp, optimizer, set_training
from plan import Plan, store_level

CHECK_EVERY = 50  # steps between two looks at a GPU's losses; the host runs at most twice as many ahead of it


class NonFinite(ArithmeticError):
    """`what` became NaN or infinite; `step` is the step of the epoch at which it was found to be."""

    def __init__(self, step, what="the loss"):
        super().__init__(f"{what} is not finite at step {step}")
        self.step, self.what = step, what


class Stepper:
    """The training state of one run: how it trains and how it evaluates.

    model: on `device`; levels: {S: uint8 [N,S,S,3]} and labels: int [N] of the whole Store; table: the loss table
    [5,C]; update: an engine.update.Update; size: of evaluation's views (a plan brings its own); mean, std: three
    numbers each. dtype: what the network computes in; float16 scales the loss against underflow. layout: of weights and
    feature maps; channels-last is what tensor cores compute in. ranks: who shares the batches. compile: the network by
    inductor. record: None, or what records a step for replay, as capture.Captured does.
    """

    def __init__(
        self,
        model,
        levels,
        labels,
        table,
        update,
        *,
        device,
        size,
        mean,
        std,
        border,
        dtype,
        ranks,
        layout=torch.channels_last,
        compile=False,
        record=None,
    ):
        self.device, self.ranks = device, ranks
        self.model, self.net = ranks.wrap(model.to(device, memory_format=layout))
        self.average = copy.deepcopy(self.model).eval() if update.ema_epochs else None
        # A tensor: a captured optimizer would keep a plain number for ever.
        self.lr = torch.tensor(update.lr, dtype=torch.float32, device=device)
        self.optimizer = optimizer(self.model, update, self.lr)
        self.freeze_bn = update.freeze_bn
        self.levels, self.pixels = levels, levels[max(levels)]  # evaluation is at full size
        self.labels, self.table = labels.to(device), table.to(device)
        self.view = view(device, size=size, mean=mean, std=std, border=border, layout=layout)
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.losses = self.right = torch.zeros(0)  # [T], of the epoch's steps so far
        self.forward = compiled() if compile else forward
        self.record = record
        self.tables = None
        self.forget()

    def forget(self) -> None:
        """Drops what was recorded, after a change of the tensors that a step works on."""
        self.calls, self.evaluations, self.places = {}, {}, {}

    def take_table(self, table: torch.Tensor) -> None:
        """Makes `table` [5,C] the loss table, in place: a recorded step reads it anew."""
        self.table.copy_(table)

    def begin(self, plan: Plan, first: int = 0) -> None:
        """Takes the tables of an epoch, and clears what its steps note, except when it is resumed at step `first`.
        RuntimeError if a tensor was exchanged behind a recorded step, which would go on with the old one."""
        self._refuse_moved()
        self.looked = None
        self.waited = 0.0  # seconds in which a step had no input yet
        plan = self.ranks.columns(plan)
        if self.tables is None or (len(self.tables.packed), *self.tables.row.lam.shape) != plan.lam.shape:
            # Other shapes, so other addresses: what was recorded reads the old ones.
            self.tables = Tables(plan, self.device)
            self.forget()
        self._clear_sums(plan, first)
        self.tables.fill(plan, first)
        self.size = int(plan.view_size[0])
        if self.size not in self.calls:  # views that grow: a recording a size
            self.calls[self.size] = self.record(self.step) if self.record else self.step

    def _clear_sums(self, plan, first):
        """Room for what the epoch's steps note, empty if none of them is done."""
        steps = len(plan.index)
        if len(self.losses) != steps:
            self.losses, self.right = torch.zeros(2, steps, device=self.device)
            self.forget()
        elif first == 0:
            self.losses.zero_()
            self.right.zero_()

    def train(self, t: int) -> None:
        """The next step, which is number t of the epoch."""
        self.calls[self.size]()
        if self.record and not self.places:  # only now is all allocated
            self.places = self._places()
        if self.device.type == "cpu":
            self.check(t + 1)
        elif (t + 1) % CHECK_EVERY == 0:
            look = self._look_back if self.device.type == "cuda" else self.check
            look(t + 1)

    def check(self, steps: int) -> None:
        """Waits for the device; NonFinite if one of the epoch's first `steps` losses is not."""
        _refuse_not_finite(self.losses[:steps])

    def _look_back(self, steps):
        """Waits for the step CHECK_EVERY ago and looks at the losses up to it. All later ones are still in the
        device's queue, so that it does not run dry."""
        if self.looked:
            copied, losses = self.looked
            copied.synchronize()
            _refuse_not_finite(losses)
        # Without blocking: the copy has its turn after the steps that are queued.
        losses = self.losses[:steps].to("cpu", non_blocking=True, copy=True)
        copied = torch.cuda.Event()
        copied.record()
        self.looked = copied, losses

    def step(self) -> None:
        """Input, gradients, update, and a note of how it went: reads nothing of the host's that changes."""
        start = time.perf_counter()
        # The row of the plan decides all that is random about the step.
        row = self.tables.take()
        pixels = self.levels[store_level(self.size, max(self.levels))]
        x = augment.batch(pixels, row, **self.view | dict(size=self.size), dtype=input_dtype(self.device, self.dtype))
        self.waited += time.perf_counter() - start
        a, b = self.labels[row.index], self.labels[row.partner]
        set_training(self.model, self.freeze_bn)
        self.model.key.copy_(row.key)  # seeds dropout
        logits, row_losses = self.gradients(x, a, b, row.lam)
        self.update(row)
        self.note(row, a, b, logits, row_losses)
        self.tables.at.add_(1)

    def gradients(
        self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, lam: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward: the gradients of the mean loss are then in the parameters. Returns logits [B,C] and
        losses [B]."""
        logits = self.forward(self.net, x, self.dtype)
        row_losses = losses.loss(logits, a, b, lam, self.table)
        self.optimizer.zero_grad(set_to_none=True)
        # The scale is 1 except in float16, whose small gradients would vanish.
        self.scaler.scale(row_losses.mean()).backward()
        return logits.detach(), row_losses.detach()

    def update(self, row: Plan) -> None:
        """The optimizer's step at the row's learning rate, then the average's."""
        self.lr.copy_(row.lr)
        self.scaler.step(self.optimizer)  # left out, in float16, where a gradient overflowed
        self.scaler.update()
        # Ranks saw different pictures: they agree on batch norm's statistics.
        self.ranks.mean(*(v for v in self.model.buffers() if v.is_floating_point()))
        if self.average is not None:
            lerp(floating(self.average), floating(self.model), row.ema_weight)

    def note(self, row: Plan, a: torch.Tensor, b: torch.Tensor, logits: torch.Tensor, row_losses: torch.Tensor) -> None:
        """Keeps the step's mean loss and accuracy."""
        loss = row_losses.mean()
        adjusted = logits.float() + self.table[losses.BIAS]  # of what the loss takes for the right class's odds
        guess = adjusted.argmax(1)
        # A mixed row is right by the share of the target that was named.
        right = (row.lam * (guess == a) + (1 - row.lam) * (guess == b)).mean()
        self.ranks.mean(loss, right)
        self.losses.index_copy_(0, self.tables.at, loss[None])
        self.right.index_copy_(0, self.tables.at, right[None])

    def logits(self, plan: Plan, rows: int, pause: Callable = lambda: None) -> np.ndarray:
        """Float32 logits [rows,C], a NumPy array, of the evaluated model over an evaluation plan; `pause` is called
        between batches."""
        mine = self.ranks.batches(plan)
        if len(mine.index) == 0:  # fewer batches than ranks
            return self.ranks.gathered(np.empty((0, 0), np.float32), plan)[:rows]
        shape = mine.index.shape  # the last batches may be fewer: another shape is another recording
        if shape not in self.evaluations:
            self.evaluations[shape] = Evaluation(
                self.evaluated(),
                self.pixels,
                mine,
                self.view,
                dtype=self.dtype,
                forward=self.forward,
                record=self.record,
            )
        found = self.evaluations[shape].run(mine, mine.index.size, pause)
        return self.ranks.gathered(found, plan)[:rows]

    def evaluated(self) -> torch.nn.Module:
        """The model whose predictions count: the average if there is one."""
        return self.model if self.average is None else self.average

    def state(self) -> dict:
        """All that a resume needs, as plain tensors and numbers."""
        return dict(
            model=self.model.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            losses=self.losses,
            right=self.right,
        )

    def load(self, state: dict) -> None:
        """Takes up what `state` gave."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # loading put a copy there
        self.scaler.load_state_dict(state["scaler"])
        self.losses = state["losses"].to(self.device)
        self.right = state["right"].to(self.device)
        self.forget()

    def _refuse_moved(self):
        places = self._places() if self.places else {}
        moved = [name for name, place in self.places.items() if places.get(name) != place]
        if moved:
            raise RuntimeError(f"moved since the step was recorded: {', '.join(moved)}; change in place, or forget()")

    def _places(self):
        """Where the tensors lie that a step works on, by name."""
        # Whatever a step may read or write; what is no tensor falls out below.
        held = vars(self) | vars(self.tables) | dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        held |= {f"level {side}": v for side, v in self.levels.items()}
        for i, kept in enumerate(self.optimizer.state.values()):
            held |= {f"optimizer {i} {k}": v for k, v in kept.items()}
        if self.average is not None:
            held |= {f"average {k}": v for k, v in self.average.state_dict().items()}
        return {k: v.data_ptr() for k, v in held.items() if isinstance(v, torch.Tensor)}


def _refuse_not_finite(losses):
    """NonFinite for the first of an epoch's losses that is not."""
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        raise NonFinite(int(wrong[0]))
