"""The loss, in plain PyTorch or by a kernel: focal cross-entropy with smoothing, class weights, a prior, margins and
two targets a row.

What a method changes is a row of a small table that lives beside the logits, so a schedule or a new trial changes
numbers, never code. Reduces nothing (the caller takes the mean), draws nothing, and keeps nothing for backward but its
own inputs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable

import kernels

BIAS, WEIGHT, EPS, GAMMA, MARGIN = range(5)  # the rows of the table
SETTLING = 5  # epochs that a network is given to follow a change of stage
FLOOR = 0.5  # pictures that a class counts for at the least, so that an absent one has a prior and a weight
KERNEL_CLASSES = 4096  # up to which the kernel is built


@dataclass(frozen=True)
class Objective:
    """Config's settings of the loss."""

    gamma: float
    alpha: float
    ls: float | tuple[float, float]
    ls_by: str
    loss_tau: float
    balance: str
    prior: str
    margin: float
    drw: float


def stage(objective: Objective, epoch: int, epochs: int) -> int:
    """Which stage of the loss an epoch (from 0) belongs to; where it changes, the network needs time to follow."""
    start = min(round(objective.drw * epochs), epochs - 1)  # the last epoch at the latest
    return int(objective.drw > 0 and epoch >= start)


def changes(objective: Objective, epoch: int, epochs: int) -> bool:
    """Whether another stage begins with this epoch."""
    return epoch > 0 and stage(objective, epoch, epochs) != stage(objective, epoch - 1, epochs)


def settling(objective: Objective, epoch: int, epochs: int) -> bool:
    """Whether the network still follows a change of stage: SETTLING epochs, of which none is taken as the best."""
    return any(changes(objective, e, epochs) for e in range(epoch - SETTLING + 1, epoch + 1))


def schedule(
    objective: Objective,
    counts: np.ndarray,
    epoch: int,
    epochs: int,
    *,
    pictures: np.ndarray | None = None,
    logit_scale: float = 1.0,
) -> torch.Tensor:
    """The table [5,C] of an epoch, counted from 0 of `epochs`.

    counts [C]: how much of an epoch's targets each class gets, in rows. pictures [C]: training pictures of each
    (default: `counts`), by which smoothing and margins go. logit_scale: by what the network multiplies its cosines.
    """
    # What favours rare classes starts once features are learned.
    deferred = objective.drw > 0 and stage(objective, epoch, epochs) == 0
    weights = objective.balance == "weights" or (objective.drw > 0 and objective.loss_tau == 0)
    pictures = counts if pictures is None else pictures
    return loss_table(
        counts,
        ls=smoothing(objective, pictures, epoch / max(epochs - 1, 1)),
        gamma=objective.gamma,
        alpha=objective.alpha,
        tau=0.0 if deferred else objective.loss_tau,
        weights=weights and not deferred,
        margins=ldam_margins(pictures, objective.margin * logit_scale),
    )


def smoothing(objective: Objective, pictures: np.ndarray, progress: float) -> float | np.ndarray:
    """Label smoothing, one number or one a class [C]. For ls = (A, B): A + (B - A) s, s from 0 to 1, by objective.ls_by

        progress      s = progress, the share of the epochs that is done
        frequency     s = 1 - sin(pi/2 (n - lowest n) / (highest n - lowest n)), of training pictures n [C]

    frequency: the concave form of Zhong et al. 2021, arXiv:2104.00466, whose smoothing is ours times (C - 1) / C.
    """
    if not isinstance(objective.ls, tuple):
        return objective.ls
    first, last = objective.ls
    share = progress
    if objective.ls_by == "frequency":
        there = np.maximum(pictures, pictures[pictures > 0].min())  # a class without any counts as the rarest
        low, high = there.min(), there.max()
        rank = (there - low) / (high - low) if high > low else np.ones(len(there))  # equal ones: all are frequent
        share = 1 - np.sin(np.pi / 2 * rank)
    return first + (last - first) * share


def ldam_margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """Margins [C], proportional to count^(-1/4); the rarest class that has pictures gets `largest` (Cao et al. 2019,
    arXiv:1906.07413, equation 13)."""
    counts = np.asarray(counts, np.float64)
    rarest = counts[counts > 0].min()
    return largest * (rarest / np.maximum(counts, rarest)) ** 0.25


def loss_table(
    counts: np.ndarray,
    *,
    ls: float | np.ndarray = 0.0,
    gamma: float = 0.0,
    alpha: float = 1.0,
    weights: bool = False,
    tau: float = 0.0,
    margins: np.ndarray | None = None,
) -> torch.Tensor:
    """The float32 [5,C] table that `loss` reads, on the CPU.

    counts [C]: an epoch's targets of each class, in rows; what is below 1/2 is raised to 1/2. ls: label smoothing in
    [0, 1], one number or [C] (Szegedy et al. 2016). gamma: focal exponent (Lin et al. 2017); alpha: the plain factor in
    front, folded into the weights. weights: inverse class frequency, scaled so that the mean weight of a drawn row is
    1. tau: logit adjustment, bias = tau * log prior (Menon et al. 2021; balanced softmax at 1, Ren et al. 2020).
    margins [C]: taken off the target's own logit (LDAM, Cao et al. 2019). Raises ValueError.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    if counts.ndim != 1 or not bool((counts >= 0).all()) or not 0 < float(counts.sum()) < float("inf"):
        raise ValueError(f"counts must be one non-negative number a class, not all zero; got {counts.tolist()}")
    for name, value, top in (("ls", ls, 1.0), ("gamma", gamma, float("inf")), ("alpha", alpha, float("inf"))):
        if not (np.min(value) >= 0 and np.max(value) <= top):
            raise ValueError(f"{name} must be between 0 and {top:g}; got {value}")
    floored = counts.clamp_min(FLOOR)
    table = torch.zeros(5, len(counts), dtype=torch.float64)  # rounded once, at the end
    table[BIAS] = tau * (floored / floored.sum()).log()
    table[WEIGHT] = alpha
    if weights:
        table[WEIGHT] *= counts.sum() / (counts / floored).sum() / floored
    table[EPS] = torch.as_tensor(ls, dtype=torch.float64)
    table[GAMMA] = gamma
    if margins is not None:
        margins = torch.as_tensor(margins, dtype=torch.float64)
        if margins.shape != counts.shape or not bool((margins >= 0).all()):
            raise ValueError(f"margins must be {len(counts)} non-negative numbers, one a class; got {margins.tolist()}")
        table[MARGIN] = margins
    return table.float()


def posterior_bias(table: torch.Tensor, sampled: np.ndarray, counts: np.ndarray, prior: str) -> np.ndarray:
    """What to add to the logits [C] of a network trained with `table` so that their softmax is a posterior.

    Training fits softmax(z + bias) to the distribution it sees: `sampled` [C], weighted by the table, less what
    smoothing takes of each class. Bayes' rule takes that prior out and puts in the classes' shares of `counts` [C]
    (prior 'train') or equal shares ('uniform'). What smoothing gives to all classes alike stays in. Float32 NumPy [C].
    """
    seen = torch.as_tensor(sampled, dtype=torch.float64).clamp_min(FLOOR) * table[WEIGHT].double()
    kept = (1 - table[EPS].double()).clamp_min(1e-6)  # at a smoothing of 1 nothing is
    seen *= kept / kept.max()
    wanted = torch.as_tensor(counts, dtype=torch.float64).clamp_min(FLOOR)
    log_prior = wanted.log() if prior == "train" else torch.zeros_like(wanted)
    bias = table[BIAS].double() - seen.log() + log_prior
    return (bias - bias.mean()).float().numpy()  # centred: a constant does not change the softmax


def loss(
    logits: torch.Tensor, a: torch.Tensor, b: torch.Tensor, lam: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """Per-row losses, float32 [B]: lam * w_a * l(logits; a) + (1 - lam) * w_b * l(logits; b), where

        l(z; t) = - sum_k [(1 - eps_t) 1{k = t} + eps_t / C] (1 - p_k)^gamma_t log p_k,
        p = softmax(z + bias - margin_t e_t).

    logits [B,C]: any float dtype; computed in float32 (float64 logits: in float64) and the gradient rounded once to
    their dtype. a, b [B]: integer targets in [0, C). lam [B]: weight of a. table [5,C]: see `loss_table`. Only the
    logits get gradients, and there is no second derivative. A row with a logit that is not finite has a loss that is
    not finite. On a GPU that takes them kernels/loss.py's two launches do it, up to KERNEL_CLASSES, and a target that
    is no class gives NaN.
    """
    fits = logits.dtype != torch.float64 and logits.shape[1] <= KERNEL_CLASSES
    if fits and kernels.usable(logits.device):
        from kernels import loss as kernel

        return kernel.loss(logits, a, b, lam, table)
    return plain(logits, a, b, lam, table)


def plain(
    logits: torch.Tensor, a: torch.Tensor, b: torch.Tensor, lam: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """`loss` in plain PyTorch, on any device."""
    targets = torch.stack((a, b)).long()
    lams = torch.stack((lam, 1 - lam))
    return _Loss.apply(logits, targets, lams, table)


class _Loss(torch.autograd.Function):
    """With f(p) = -(1 - p)^gamma log p and L = sum_k c_k f(p_k), the softmax's Jacobian p_k (1{j = k} - p_j) gives

        dL/dz_j = c_j h_j (1 - p_j) - p_j sum_{k != j} c_k h_k,
        h = p f'(p) = (1 - p)^gamma (gamma p log(p) / (1 - p) - 1).

    In this form no power is negative, so gamma < 1 needs no care as p -> 1, where p log(p) / (1 - p) -> -1.
    """

    @staticmethod
    def forward(ctx, logits, targets, lams, table):
        ctx.save_for_backward(logits, targets, lams, table)
        weight, eps, gamma, target = _row_settings(logits, targets, lams, table)
        soft = _softmax(logits, targets, table)
        f = -(soft.others / soft.total).pow(gamma) * soft.log_p
        own = f.gather(2, target)  # of the target's own class
        # Each class's share before the sum: of logits at 1e37 the bare sum passes float32's largest number.
        smoothed = (1 - eps) * own + (eps / logits.shape[1] * f).sum(2, keepdim=True)
        return (weight * smoothed).sum((0, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        logits, targets, lams, table = ctx.saved_tensors
        weight, eps, gamma, target = _row_settings(logits, targets, lams, table)
        soft = _softmax(logits, targets, table)
        n_classes = logits.shape[1]
        q = soft.others / soft.total  # 1 - p, exact where p is near 1
        tiny = torch.finfo(q.dtype).tiny
        h = q.pow(gamma) * (gamma * soft.exp * soft.log_p / soft.others.clamp_min(tiny) - 1)
        # c_k h_k: what smoothing gives every class, and what the target's own gets besides.
        own = weight * (1 - eps) * h.gather(2, target)
        ch = (weight * eps / n_classes * h).scatter_add_(2, target, own)
        if len(soft.exp) == 1:
            ch = ch.sum(0, keepdim=True)  # one softmax: both targets go through one Jacobian
        p = soft.exp / soft.total
        grad = (ch * q - p * _sum_of_others(ch, soft.top)).sum(0)
        return (grad * upstream[:, None]).to(logits.dtype), None, None, None


def _row_settings(logits, targets, lams, table):
    """Of both targets of every row [2,B,1]: lambda times the class's weight, smoothing, focus, and its number."""
    weight, eps, gamma = table.to(_wide(logits))[WEIGHT:MARGIN, targets, None]
    return lams.to(weight.dtype)[..., None] * weight, eps, gamma, targets[..., None]


class _Softmax(NamedTuple):
    """n is 2 with margins, since then each target has a softmax of its own, else 1."""

    top: torch.Tensor  # the arg-max, int64 [n,B,1]
    exp: torch.Tensor  # exp(z - z_max) [n,B,C]
    others: torch.Tensor  # the sum of the other classes' exp [n,B,C]
    total: torch.Tensor  # the sum of exp [n,B,1]
    log_p: torch.Tensor  # [n,B,C]


def _softmax(logits, targets, table):
    """On an accelerator n is always 2: looking into the table would stop the device, and a captured graph would keep
    the answer."""
    table = table.to(_wide(logits))
    # Bias and margin stay apart from the logits until differences are taken.
    z = logits.to(table.dtype)[None]
    shift = table[BIAS].expand(1, *logits.shape)
    if table.device.type != "cpu" or bool(table[MARGIN].any()):
        z = z.expand(2, -1, -1)
        shift = shift.expand(2, -1, -1)
        shift = shift.scatter_add(2, targets[..., None], -table[MARGIN, targets, None])
    top = (z + shift).argmax(2, keepdim=True)
    # The difference first: at logits of 100, float32 rounds the sum of logit and bias by up to 4e-6.
    below = (z - z.gather(2, top)) + (shift - shift.gather(2, top))
    exp = below.exp()
    others = _sum_of_others(exp, top)
    rest = others.gather(2, top)  # of the arg-max
    total = rest + exp.gather(2, top)
    return _Softmax(top, exp, others, total, below - rest.log1p())


def _sum_of_others(x, top):
    """sum_{j != k} x_j [n,B,C]; at the arg-max without x_top, which would swamp the rest of a confident row."""
    rest = x.scatter(2, top, 0.0).sum(2, keepdim=True)
    others = rest + x.gather(2, top) - x
    return others.scatter_(2, top, rest)


def _wide(logits):
    """The dtype of the arithmetic."""
    return torch.promote_types(logits.dtype, torch.float32)
