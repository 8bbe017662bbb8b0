"""The loss of docs/design.md in one launch, and its gradient in another. Nothing is kept between them but the inputs.

    p = softmax(z + bias - margin_t e_t),    l(z; t) = sum_k c_k f(p_k),    f(p) = -(1 - p)^gamma_t log p,
    L = lam w_a l(z; a) + (1 - lam) w_b l(z; b),    c_k = (1 - eps_t) 1{k = t} + eps_t / C,
    dl/dz_j = c_j h_j (1 - p_j) - p_j sum_{k != j} c_k h_k,    h = p f'(p) = (1 - p)^gamma (gamma p log p / (1 - p) - 1)

    symbol                         name      shape    dtype                          the kernels
    z                              logits    [B, C]   float32, float16 or bfloat16   read, any row stride
    a, b                           a, b      [B]      any integers                   read
    lam                            lam       [B]      float32                        read
    bias, w, eps, gamma, margin    table     [5, C]   float32                        read
    dloss/dL                       upstream  [B]      any floats                     read backward, any stride
    L                              losses    [B]      float32                        write forward
    dloss/dz                       dlogits   [B, C]   that of logits                 write backward

Everything is computed in float32; the gradient is rounded once, when it is stored. No power is negative, and no sum
holds both a row's largest term and the others, so confident rows keep their precision. An e^x under 2^-126 counts as 0.

Floor: B C itemsize bytes forward, twice that backward, and about 2 B C (1 exponential, 2 logarithms, 60 other
operations) each way: at 128 x 50 and less a launch costs more than both.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

CLASSES = 4096  # the most for which no register spills
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# The lines of the table; line 0 is the bias.
WEIGHT = tl.constexpr(1)
EPS = tl.constexpr(2)
GAMMA = tl.constexpr(3)
MARGIN = tl.constexpr(4)

LOG2_E = tl.constexpr(1.4426950408889634)
LN2_HIGH = tl.constexpr(0.693145751953125)  # 15 bits: its product with an exponent is exact
LN2_LOW = tl.constexpr(1.4286068203094172e-06)
SMALLEST = tl.constexpr(1.1754943508222875e-38)  # 2^-126
ONE_BITS = tl.constexpr(0x3F800000)  # the float32 1 as an integer
SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)  # and 1 / sqrt(2)


@triton.jit(do_not_specialize=["n_rows"])  # a batch of another size is no reason to compile again
def _forward(
    logits_ptr,
    a_ptr,
    b_ptr,
    lam_ptr,
    table_ptr,
    losses_ptr,
    n_rows,
    n_cols,
    logits_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Losses of ROWS rows; COLUMNS >= n_cols, which is C."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    live = row < n_rows
    inside = live[:, None] & (column < n_cols)

    row_ptr = logits_ptr + row.to(tl.int64) * logits_stride  # B times the stride may pass 2^31
    z = tl.load(row_ptr[:, None] + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(table_ptr + column, mask=column < n_cols, other=0.0)
    lam = tl.load(lam_ptr + row, mask=live)

    total = tl.zeros((ROWS,), tl.float32)  # of L; a row outside the batch adds nothing, and is not stored
    for side in tl.static_range(2):  # the targets a and b: with margins, each has a softmax of its own
        target = tl.load((a_ptr if side == 0 else b_ptr) + row, mask=live)
        share = lam if side == 0 else 1 - lam
        weight = _setting(table_ptr, WEIGHT, target, live, n_cols)
        eps = _setting(table_ptr, EPS, target, live, n_cols)[:, None]
        gamma = _setting(table_ptr, GAMMA, target, live, n_cols)[:, None]

        below, is_top = _below_top(z, bias, row_ptr, table_ptr, column, inside, target, live, n_cols)
        e, rest, others = _exponentials(below, is_top, inside)
        not_p = others / (rest + 1)  # 1 - p without the cancellation
        log_p = below - _log1p(rest)

        cell = tl.where(inside, _soft_target(column, target, eps, n_cols) * _power(not_p, gamma) * log_p, 0.0)
        total -= share * weight * tl.sum(cell, 1)
    tl.store(losses_ptr + row, total, mask=live)


@triton.jit(do_not_specialize=["n_rows"])
def _backward(
    logits_ptr,
    a_ptr,
    b_ptr,
    lam_ptr,
    table_ptr,
    upstream_ptr,
    dlogits_ptr,
    n_rows,
    n_cols,
    logits_stride,
    upstream_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of ROWS rows, which lie contiguously; the rest as in _forward, step by step up to log_p."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    live = row < n_rows
    inside = live[:, None] & (column < n_cols)

    row_ptr = logits_ptr + row.to(tl.int64) * logits_stride
    z = tl.load(row_ptr[:, None] + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(table_ptr + column, mask=column < n_cols, other=0.0)
    lam = tl.load(lam_ptr + row, mask=live)

    total = tl.zeros((ROWS, COLUMNS), tl.float32)  # of dloss/dz, before the upstream gradient
    for side in tl.static_range(2):
        target = tl.load((a_ptr if side == 0 else b_ptr) + row, mask=live)
        share = lam if side == 0 else 1 - lam
        weight = _setting(table_ptr, WEIGHT, target, live, n_cols)
        eps = _setting(table_ptr, EPS, target, live, n_cols)[:, None]
        gamma = _setting(table_ptr, GAMMA, target, live, n_cols)[:, None]

        below, is_top = _below_top(z, bias, row_ptr, table_ptr, column, inside, target, live, n_cols)
        e, rest, others = _exponentials(below, is_top, inside)
        not_p = others / (rest + 1)  # 1 - p without the cancellation
        log_p = below - _log1p(rest)

        # p / (1 - p) is e / others, and others may underflow where p is 1.
        slope = gamma * e * log_p / tl.maximum(others, SMALLEST) - 1
        ch = tl.where(inside, _soft_target(column, target, eps, n_cols) * _power(not_p, gamma) * slope, 0.0)
        # The top cell's term may be far above the sum of the others: neither is taken out of a sum with the other.
        ch_rest = tl.sum(tl.where(is_top, 0.0, ch), 1)[:, None]
        ch_top = tl.sum(tl.where(is_top, ch, 0.0), 1)[:, None]
        ch_others = tl.where(is_top, ch_rest, ch_rest + ch_top - ch)
        total += (share * weight)[:, None] * (ch * not_p - e / (rest + 1) * ch_others)

    upstream = tl.load(upstream_ptr + row.to(tl.int64) * upstream_stride, mask=live).to(tl.float32)
    total *= upstream[:, None]
    # dlogits is contiguous, whatever the logits' rows are.
    cell_ptr = dlogits_ptr + row.to(tl.int64)[:, None] * n_cols + column
    tl.store(cell_ptr, total.to(dlogits_ptr.dtype.element_ty), mask=inside)  # the one rounding


@triton.jit
def _setting(table_ptr, line, target, live, n_cols):
    """A line of the table at each row's target [ROWS]; NaN, and so a NaN loss, for a target that is no class."""
    known = live & (target >= 0) & (target < n_cols)
    return tl.load(table_ptr + target + line * n_cols, mask=known, other=float("nan"))


@triton.jit
def _soft_target(column, target, eps, n_cols):
    """c of the formula, [ROWS, COLUMNS]: 1 - eps at the target, and eps in equal shares (Szegedy et al. 2016)."""
    return tl.where(column == target[:, None], 1 - eps, 0.0) + eps / n_cols


@triton.jit
def _below_top(z, bias, row_ptr, table_ptr, column, inside, target, live, n_cols):
    """Each cell's z + bias - margin less that of its row's largest cell, and which cell that is; [ROWS, COLUMNS]."""
    margin = _setting(table_ptr, MARGIN, target, live, n_cols)
    shift = bias - tl.where(column == target[:, None], margin[:, None], 0.0)
    top = tl.argmax(tl.where(inside, z + shift, float("-inf")), 1)
    # Loaded from where it lies: to sum a row for one of its cells would touch all. A row of NaN may have top anywhere.
    there = live & (top < n_cols)
    z_top = tl.load(row_ptr + top, mask=there, other=float("nan")).to(tl.float32)
    shift_top = tl.load(table_ptr + top, mask=there, other=float("nan")) - tl.where(top == target, margin, 0.0)
    # The difference first: at logits of 100, float32 rounds the sum of logit and bias by up to 4e-6.
    below = (z - z_top[:, None]) + (shift - shift_top[:, None])
    return below, column == top[:, None]


@triton.jit
def _exponentials(below, is_top, inside):
    """e = exp(below), 1 at the top and 0 outside; the sum of its row without the top's [ROWS, 1]; the sum without its
    own [ROWS, COLUMNS]."""
    e = tl.where(inside, _exp(below), 0.0)
    rest = tl.sum(tl.where(is_top, 0.0, e), 1)[:, None]
    others = tl.where(is_top, rest, rest + 1 - e)
    return e, rest, others


@triton.jit
def _exp(x):
    """e^x for x <= 0 to 3 ulp; 0 under 2^-126. The hardware's own takes x log2(e) rounded: 1e-5 off at x = -80."""
    n = tl.floor(x * LOG2_E + 0.5)  # e^x = 2^n e^(x - n ln 2), the second from 0.7 to 1.42
    power = tl.exp2((x - n * LN2_HIGH - n * LN2_LOW) * LOG2_E)
    return tl.where(n < -126, 0.0, power * _two_to(n))  # 2^n has no bits of its own under 2^-126


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0: what 1 + x loses, x / ((1 + x) - 1) gives back (Kahan)."""
    u = 1 + x
    return tl.where(u == 1, x, tl.log(u) * (x / tl.where(u == 1, 1.0, u - 1)))


@triton.jit
def _power(q, gamma):
    """q^gamma for 0 <= q <= 1, with q = m 2^n and m near 1: gamma log2(m) is small, so the power of a tiny q is as
    precise as any. Under 2^-126 it is some number up to 1, and what it multiplies is as tiny as q."""
    bits = q.to(tl.int32, bitcast=True)
    n_bits = (bits + (ONE_BITS - SQRT_HALF_BITS)) >> 23  # rounds n so that m is from 1 / sqrt(2) to sqrt(2)
    log_m = tl.log2((bits - ((n_bits - 127) << 23)).to(tl.float32, bitcast=True))
    n = (n_bits - 127).to(tl.float32)
    whole = tl.floor(n * gamma + 0.5)  # of the exponent n gamma; fma gives what is left without rounding it
    power = tl.exp2(tl.fma(n, gamma, -whole) + gamma * log_m)
    return tl.where(whole < -126, 0.0, power * _two_to(whole))


@triton.jit
def _two_to(n):
    """2^n of a whole float32 n from -126 to 127, put together from its bits."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@torch.library.custom_op("longtail::loss", mutates_args=())
def loss(logits: Tensor, a: Tensor, b: Tensor, lam: Tensor, table: Tensor) -> Tensor:
    """Per-row losses float32 [B]: see losses.loss, which is this file's twin and calls it. Gradients reach the logits
    alone, once. ValueError for other shapes and dtypes than the file's docstring says, and for more than CLASSES
    classes."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    _launch(_forward, logits, a, b, lam, table, losses_ptr=losses)
    return losses


@torch.library.custom_op("longtail::loss_backward", mutates_args=())
def loss_backward(logits: Tensor, a: Tensor, b: Tensor, lam: Tensor, table: Tensor, upstream: Tensor) -> Tensor:
    """dlogits, contiguous [B, C], for the gradient `upstream` [B] of the losses. Errors as in `loss`."""
    dlogits = logits.new_empty(logits.shape)
    outputs = dict(upstream_ptr=upstream, dlogits_ptr=dlogits, upstream_stride=upstream.stride(0))
    _launch(_backward, logits, a, b, lam, table, **outputs)
    return dlogits


@loss.register_fake
def _loss_fake(logits, a, b, lam, table):
    _check(logits, a, b, lam, table)
    return logits.new_empty(len(logits), dtype=torch.float32)


@loss_backward.register_fake
def _loss_backward_fake(logits, a, b, lam, table, upstream):
    return logits.new_empty(logits.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _loss_gradients(ctx, upstream):
    dlogits = loss_backward(*ctx.saved_tensors, upstream)
    return dlogits, None, None, None, None


loss.register_autograd(_loss_gradients, setup_context=_setup_context)


def tile(rows: int, classes: int) -> tuple[int, int, int]:
    """ROWS, COLUMNS and warps of a program. A row each: a small batch then spreads over the whole device."""
    columns = triton.next_power_of_2(classes)
    return 1, columns, max(1, min(16, columns // 256))


def _launch(kernel, logits, a, b, lam, table, **rest):
    """Starts `kernel` over the rows of `logits`. rest: the other arguments that it takes, by name."""
    _check(logits, a, b, lam, table)
    rows, classes = logits.shape
    if not rows:
        return
    if logits.stride(1) != 1 and classes > 1:  # a row may lie anywhere, but its logits side by side
        logits = logits.contiguous()
    height, columns, warps = tile(rows, classes)
    targets = dict(a_ptr=a.contiguous(), b_ptr=b.contiguous(), lam_ptr=lam.contiguous())
    sizes = dict(n_rows=rows, n_cols=classes, logits_stride=logits.stride(0), ROWS=height, COLUMNS=columns)
    start = kernel[(triton.cdiv(rows, height),)]
    with torch.cuda.device_of(logits):
        start(logits_ptr=logits, **targets, table_ptr=table.contiguous(), **rest, **sizes, num_warps=warps)


def _check(logits, a, b, lam, table):
    if logits.ndim != 2 or logits.dtype not in DTYPES or not 1 <= logits.shape[1] <= CLASSES:
        raise ValueError(
            f"logits are [B, C] with C from 1 to {CLASSES}, float32, float16 or bfloat16; got "
            f"{tuple(logits.shape)} {logits.dtype}"
        )
    rows, classes = logits.shape
    _check_input("a", a, (rows,), "integers", logits.device)
    _check_input("b", b, (rows,), "integers", logits.device)
    _check_input("lam", lam, (rows,), "float32", logits.device)
    _check_input("table", table, (5, classes), "float32", logits.device)


def _check_input(name, given, shape, kind, device):
    fits = given.dtype == torch.float32 if kind == "float32" else not given.dtype.is_floating_point
    if given.shape != shape or given.device != device or not fits:
        raise ValueError(
            f"{name} must be {shape} of {kind} on {device}; got {tuple(given.shape)} {given.dtype} on {given.device}"
        )
