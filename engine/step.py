"""Training and evaluation steps: a row of the plan in, weights changed or logits out.

Holds the model, its average, the optimizer and the Store on one device. Draws no random number and reads no file; what
a step does is said by the plan's row alone. A step reads and writes tensors that stay where they are and nothing of the
host's, so that on CUDA it is captured in a graph once and then replayed; elsewhere, and on demand, the same function
runs eagerly.
"""

import copy
import functools
import time
import warnings

import numpy as np
import torch

import augment
import losses
from engine.numerics import autocast, input_dtype
from engine.tables import Tables
from plan import store_level

CHECK_EVERY = 50  # steps on a GPU, after which the host waits for it and looks at the losses


class NonFinite(ArithmeticError):
    """The loss became NaN or infinite; `step` is the step of the epoch at which it did."""

    def __init__(self, step):
        super().__init__(f"loss not finite at step {step}")
        self.step = step


def optimizer(model, opt, lr, weight_decay):
    """AdamW, or SGD with Nesterov momentum 0.9; norms and biases are not decayed. lr: a tensor, which is read at every
    step."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [dict(params=weights, weight_decay=weight_decay), dict(params=others, weight_decay=0.0)]
    if opt == "sgd":
        made = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
        for p in model.parameters():  # a first step that is left out for an overflow would leave them uninitialised
            made.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return made
    made = torch.optim.AdamW(groups, lr=lr, fused=True, capturable=lr.is_cuda)
    made._warned_capturable_if_run_uncaptured = True  # no news: a step warms up before its capture
    return made


def view(device, *, size, mean, std, border):
    """The arguments of augment.batch that stay the same through a run, on `device`."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device) for v in (mean, std))
    return dict(size=size, mean=mean, std=std, border=border)


def forward(model, x, dtype):
    """Logits, computed in `dtype`. Compiled, it is one function for every model: autocast is entered inside, so that
    no graph is cut there."""
    with autocast(x.device, dtype):
        return model(x)


@functools.cache
def compiled():
    """`forward` by inductor. Compiling over and over is an error, not a slow run; the networks, batches and sizes of a
    study's trials that share a process are more than dynamo's 8."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = 64
    warnings.filterwarnings("ignore", message="TensorFloat32")  # the network computes in bfloat16 or float16
    return torch.compile(forward, dynamic=False)


class Evaluation:
    """The logits of `model` over evaluation plans that have the shape of `plan`."""

    def __init__(self, model, pixels, plan, view, *, dtype, forward=forward, record=None):
        self.model, self.pixels, self.view, self.dtype, self.forward = model.eval(), pixels, view, dtype, forward
        self.device, self.logits = view["mean"].device, None
        self.tables = Tables(plan, self.device)
        self.call = record(self.step) if record else self.step

    @torch.inference_mode()
    def run(self, plan, rows, pause=lambda: None):
        """Float32 NumPy array [rows,C]. `pause` is called between batches."""
        self.model.eval()
        self.tables.fill(plan)
        for _ in range(len(plan.index)):
            self.call()
            pause()
        return self.logits.flatten(0, 1)[:rows].cpu().numpy()

    def step(self):
        x = augment.batch(self.pixels, self.tables.take(), **self.view, dtype=input_dtype(self.device, self.dtype))
        found = self.forward(self.model, x, self.dtype).float()
        if self.logits is None:
            self.logits = found.new_empty(len(self.tables.packed), *found.shape)
        self.logits.index_copy_(0, self.tables.at, found[None])
        self.tables.at.add_(1)


def logits(model, pixels, plan, rows, view, *, dtype):
    """Float32 logits [rows,C], a NumPy array, of `model` over an evaluation plan, once and eagerly."""
    return Evaluation(model, pixels, plan, view, dtype=dtype).run(plan, rows)


class Stepper:
    """The training state of one run and its two steps.

    model: on `device`; levels: {S: uint8 [N,S,S,3]} and labels: int [N] of the whole Store; table: the loss table
    [5,C]; size: of evaluation's views (a plan brings its own); mean, std: three numbers each. dtype: what the network
    computes in; float16 scales the loss against underflow. ema: decay of the averaged weights, 0 for none. compile: the
    network by inductor. ranks: who shares the batches. record: None, or what makes of a step a function that runs it
    again, as capture.Captured does.
    """

    def __init__(
        self,
        model,
        levels,
        labels,
        table,
        *,
        device,
        size,
        mean,
        std,
        border,
        opt,
        lr,
        weight_decay,
        ema,
        dtype,
        ranks,
        compile=False,
        record=None,
    ):
        self.device, self.ranks = device, ranks
        self.model, self.net = ranks.wrap(model.to(device, memory_format=torch.channels_last))
        self.average = copy.deepcopy(self.model).eval() if ema else None
        self.lr = torch.tensor(lr, dtype=torch.float32, device=device)
        self.optimizer = optimizer(self.model, opt, self.lr, weight_decay)
        self.ema, self.updates = ema, 0
        self.levels, self.pixels = levels, levels[max(levels)]
        self.labels, self.table = labels.to(device), table.to(device)
        self.view, self.dtype = view(device, size=size, mean=mean, std=std, border=border), dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.losses = self.right = torch.zeros(0)
        self.forward, self.record = compiled() if compile else forward, record
        self.tables, self.calls, self.evaluations, self.places = None, {}, {}, {}

    def begin(self, plan, first=0):
        """Takes the tables of an epoch; its sums start from nothing unless steps before `first` are already in them.
        RuntimeError if a tensor was exchanged behind a recorded step, which would go on with the old one."""
        places = self._places() if self.places else {}
        moved = [name for name, place in self.places.items() if places.get(name) != place]
        if moved:
            raise RuntimeError(f"moved since the step was recorded: {', '.join(moved)}; change in place, or forget()")
        self.waited, steps = 0.0, len(plan.index)
        done = self.updates + 1 + np.arange(steps) - first
        keep = np.minimum(self.ema, (1 + done) / (10 + done))  # to forget the initial weights quickly
        plan = self.ranks.columns(plan)
        plan = plan._replace(scalars=np.column_stack([plan.scalars, 1 - keep]).astype(np.float32))
        if self.tables is None or (len(self.tables.packed), *self.tables.row.lam.shape) != plan.lam.shape:
            self.tables = Tables(plan, self.device)
            self.forget()
        if len(self.losses) != steps:
            self.losses, self.right = torch.zeros(2, steps, device=self.device)
            self.forget()
        elif first == 0:
            self.losses.zero_(), self.right.zero_()
        self.tables.fill(plan, first)
        self.size = int(plan.scalars[0, 1])
        if self.size not in self.calls:
            self.calls[self.size] = self.record(self.step) if self.record else self.step

    def forget(self):
        """Drops what was recorded, after a change of the tensors that a step works on."""
        self.calls, self.evaluations, self.places = {}, {}, {}

    def train(self, t):
        """Step t of the epoch, the one after the last."""
        self.calls[self.size]()
        if self.record and not self.places:
            self.places = self._places()
        self.updates += 1
        if self.device.type == "cpu" or (t + 1) % CHECK_EVERY == 0:
            self.check(t + 1)

    def check(self, steps):
        """Waits for the device; NonFinite if one of the epoch's first `steps` losses is not."""
        wrong = (~self.losses[:steps].isfinite()).nonzero()
        if len(wrong):
            raise NonFinite(int(wrong[0]))

    def step(self):
        """Forward, loss, backward, optimizer, average: reads nothing of the host's that changes."""
        start = time.perf_counter()
        row = self.tables.take()
        pixels = self.levels[store_level(self.size, max(self.levels))]
        x = augment.batch(pixels, row, **self.view | dict(size=self.size), dtype=input_dtype(self.device, self.dtype))
        self.waited += time.perf_counter() - start
        a, b = self.labels[row.index], self.labels[row.partner]
        self.model.train()
        self.model.key.copy_(row.key)
        self.lr.copy_(row.scalars[0])
        logits = self.forward(self.net, x, self.dtype)
        loss = losses.loss(logits, a, b, row.lam, self.table).mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        guess = logits.detach().argmax(1)
        right = (row.lam * (guess == a) + (1 - row.lam) * (guess == b)).mean()
        self.ranks.mean(loss := loss.detach(), right, *(b for b in self.model.buffers() if b.is_floating_point()))
        self.losses.index_copy_(0, self.tables.at, loss[None])
        self.right.index_copy_(0, self.tables.at, right[None])
        if self.ema:
            lerp(floating(self.average), floating(self.model), row.scalars[2])
        self.tables.at.add_(1)

    def _places(self):
        """Where the tensors lie that a step works on, by name."""
        held = vars(self) | vars(self.tables) | dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        held |= {f"level {side}": v for side, v in self.levels.items()}
        for i, kept in enumerate(self.optimizer.state.values()):
            held |= {f"optimizer {i} {k}": v for k, v in kept.items()}
        held |= {f"average {k}": v for k, v in self.average.state_dict().items()} if self.ema else {}
        return {k: v.data_ptr() for k, v in held.items() if isinstance(v, torch.Tensor)}

    def logits(self, plan, rows, pause=lambda: None):
        """Float32 logits [rows,C], a NumPy array, of the evaluated model over an evaluation plan; `pause` is called
        between batches."""
        mine = self.ranks.batches(plan)
        shape, found = mine.index.shape, np.empty((0, 0), np.float32)  # a rank may have no batch
        if shape not in self.evaluations and len(mine.index):
            self.evaluations[shape] = Evaluation(
                self.evaluated(),
                self.pixels,
                mine,
                self.view,
                dtype=self.dtype,
                forward=self.forward,
                record=self.record,
            )
        if len(mine.index):
            found = self.evaluations[shape].run(mine, mine.index.size, pause)
        return self.ranks.gathered(found, plan)[:rows]

    def evaluated(self):
        """The model whose predictions count: the average if there is one."""
        return self.average or self.model

    def state(self):
        """All that a resume needs, as plain tensors and numbers."""
        average = self.average.state_dict() if self.ema else None
        return dict(
            model=self.model.state_dict(),
            average=average,
            updates=self.updates,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            losses=self.losses,
            right=self.right,
        )

    def load(self, state):
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # loading put a copy there
        self.scaler.load_state_dict(state["scaler"])
        self.losses, self.right = state["losses"].to(self.device), state["right"].to(self.device)
        self.forget()


def floating(model):
    """The floating-point tensors of a model's state: parameters and batch-norm statistics."""
    return [v for v in model.state_dict().values() if v.is_floating_point()]


def lerp(old, new, weight):
    """old += weight (new - old), lists of tensors in place; weight: a tensor, so that a recorded step reads it anew."""
    if weight.is_cuda:  # where _foreach_lerp_ launches a kernel for every tensor
        change = torch._foreach_sub(new, old)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(old, change)
    else:
        torch._foreach_lerp_(old, new, [weight] * len(old))
