"""Training and evaluation steps: a row of the plan in, weights changed or logits out.

Holds the model, its average, the optimizer and the Store on one device. Draws no random number and reads no file; what a
step does is said by the plan's row alone. Eager PyTorch, on any device.
"""

import copy
import time
from contextlib import nullcontext

import numpy as np
import torch

import augment
import losses
from plan import Plan


class NonFinite(ArithmeticError):
    """The loss became NaN or infinite; `step` is the step of the epoch at which it did."""

    def __init__(self, step):
        super().__init__(f"loss not finite at step {step}")
        self.step = step


def native_bf16(device):
    """Whether bf16 arithmetic is in the hardware, so that it gains speed."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def optimizer(model, opt, lr, weight_decay):
    """AdamW, or SGD with Nesterov momentum 0.9; norms and biases are not decayed."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [dict(params=weights, weight_decay=weight_decay), dict(params=others, weight_decay=0.0)]
    if opt == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def autocast(device, amp):
    return torch.autocast(device.type, torch.bfloat16) if amp else nullcontext()


def view(device, *, size, mean, std, border):
    """The arguments of augment.batch that stay the same through a run, on `device`."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device) for v in (mean, std))
    return dict(size=size, mean=mean, std=std, border=border)


def tensors(plan, t, device):
    """Step t of a plan, on `device`."""
    return Plan(*(torch.from_numpy(np.ascontiguousarray(v[t : t + 1]))[0].to(device) for v in plan))


@torch.inference_mode()
def logits(model, pixels, plan, rows, view, *, amp, pause=lambda: None):
    """Float32 logits [rows,C], a NumPy array, of `model` over an evaluation plan. `pause` is called between batches."""
    model, found, device = model.eval(), [], view["mean"].device
    for t in range(len(plan.index)):
        with autocast(device, amp):
            found.append(model(augment.batch(pixels, tensors(plan, t, device), **view)).float().cpu())
        pause()
    return torch.cat(found)[:rows].numpy() if found else np.empty((0, 0), np.float32)


class Stepper:
    """The training state of one run and its two steps.

    model: on `device`; pixels: uint8 [N,S,S,3] and labels: int [N] of the whole Store; table: the loss table [5,C]; mean, std:
    three numbers each. amp: bf16 autocast. ema: decay of the averaged weights, 0 for none. ranks: who shares the batches.
    """

    def __init__(self, model, pixels, labels, table, *, device, size, mean, std, border, opt, lr, weight_decay, ema, amp, ranks):
        self.device, self.ranks = device, ranks
        self.model, self.forward = ranks.wrap(model.to(device, memory_format=torch.channels_last))
        self.average = copy.deepcopy(self.model).eval() if ema else None
        self.optimizer = optimizer(self.model, opt, lr, weight_decay)
        self.ema, self.updates = ema, 0
        self.pixels, self.labels, self.table = pixels, labels.to(device), table.to(device)
        self.view, self.amp = view(device, size=size, mean=mean, std=std, border=border), amp
        self.losses = self.right = torch.zeros(0)

    def begin(self, plan, first=0):
        """Takes the tables of an epoch; its sums start from nothing unless steps before `first` are already in them."""
        self.plan, self.waited = self.ranks.columns(plan), 0.0
        if first == 0:
            self.losses, self.right = torch.zeros(2, len(plan.index), device=self.device)

    def train(self, t):
        """Step t of the epoch: forward, loss, backward, optimizer, average."""
        start = time.perf_counter()
        row = tensors(self.plan, t, self.device)
        x = augment.batch(self.pixels, row, **self.view)
        self.waited += time.perf_counter() - start
        a, b = self.labels[row.index], self.labels[row.partner]
        self.model.train()
        self.model.key.copy_(row.key)
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.plan.scalars[t, 0])
        with autocast(self.device, self.amp):
            logits = self.forward(x)
        loss = losses.loss(logits, a, b, row.lam, self.table).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses[t] = loss.detach()
        guess = logits.detach().argmax(1)
        self.right[t] = (row.lam * (guess == a) + (1 - row.lam) * (guess == b)).mean()
        self.ranks.mean(self.losses[t], self.right[t], *(b for b in self.model.buffers() if b.is_floating_point()))
        if self.ema:
            self.updates += 1
            keep = min(self.ema, (1 + self.updates) / (10 + self.updates))  # to forget the initial weights quickly
            torch._foreach_lerp_(floating(self.average), floating(self.model), 1 - keep)
        if self.device.type == "cpu" or t % 50 == 49 or t == len(self.losses) - 1:  # elsewhere it waits for the device
            wrong = (~self.losses[: t + 1].isfinite()).nonzero()
            if len(wrong):
                raise NonFinite(int(wrong[0]))

    def logits(self, plan, rows, pause=lambda: None):
        """Logits of the evaluated model: see `logits`."""
        mine = self.ranks.batches(plan)
        found = logits(self.evaluated(), self.pixels, mine, mine.index.size, self.view, amp=self.amp, pause=pause)
        return self.ranks.gathered(found, plan)[:rows]

    def evaluated(self):
        """The model whose predictions count: the average if there is one."""
        return self.average or self.model

    def state(self):
        """All that a resume needs, as plain tensors and numbers."""
        average = self.average.state_dict() if self.ema else None
        return dict(model=self.model.state_dict(), average=average, updates=self.updates,
                    optimizer=self.optimizer.state_dict(), losses=self.losses, right=self.right)

    def load(self, state):
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.right = state["losses"].to(self.device), state["right"].to(self.device)


def floating(model):
    """The floating-point tensors of a model's state: parameters and batch-norm statistics."""
    return [v for v in model.state_dict().values() if v.is_floating_point()]
