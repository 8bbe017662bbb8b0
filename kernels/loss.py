"""The loss of docs/design.md in one launch, and its gradient in another. Nothing is kept between them but the inputs.

    p = softmax(z + bias - margin_t e_t),    l(z; t) = sum_k c_k f(p_k),    f(p) = -(1 - p)^gamma_t log p,
    L = lam w_a l(z; a) + (1 - lam) w_b l(z; b),    c_k = (1 - eps_t) 1{k = t} + eps_t / C,
    dl/dz_j = c_j h_j (1 - p_j) - p_j sum_{k != j} c_k h_k,    h = p f'(p) = (1 - p)^gamma (gamma p log p / (1 - p) - 1)

Read: logits [B, C] float32, float16 or bfloat16 of any row stride, a and b [B] of any integer type, lam [B] float32,
table [5, C] float32 and, backward, the upstream gradient [B] of any stride. Written: losses [B] float32; dlogits [B,
C], computed in float32 and rounded once to the logits' dtype. No power is negative, and no sum holds both a row's
largest term and the others, so confident rows keep their precision. An e^x under 2^-126 counts as 0.

Floor: B C itemsize bytes forward, twice that backward, and about 2 B C (1 exponential, 2 logarithms, 60 other
operations) each way: at 128 x 50 and less a launch costs more than both.
"""

import torch
import triton
import triton.language as tl

CLASSES = 4096  # the most for which no register spills
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

LOG2E = tl.constexpr(1.4426950408889634)
LN2_HIGH = tl.constexpr(0.693145751953125)  # 15 bits: its product with an exponent is exact
LN2_LOW = tl.constexpr(1.4286068203094172e-06)
SMALLEST = tl.constexpr(1.1754943508222875e-38)  # 2^-126
SQRT_HALF = tl.constexpr(0x3F3504F3)  # the bits of 1 / sqrt(2), and of 1
ONE = tl.constexpr(0x3F800000)


@triton.jit(do_not_specialize=["rows"])
def _forward(logits, a, b, lam, table, losses, rows, classes, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Losses of ROWS rows; COLUMNS >= classes."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    live, base, inside, z, bias = _load(logits, table, row, column, rows, classes, stride)
    share = tl.load(lam + row, mask=live)
    total = tl.zeros((ROWS,), tl.float32)
    for side in tl.static_range(2):
        target, part = tl.load((a if side == 0 else b) + row, mask=live), share if side == 0 else 1 - share
        weight, eps, gamma, margin = _settings(table, target, live, classes)
        _, _, _, q, logp, first = _softmax(logits, table, base, z, bias, column, inside, target, margin, live, classes)
        c = tl.where(column == target[:, None], 1 - eps[:, None], 0.0) + eps[:, None] / classes
        total -= part * weight * tl.sum(tl.where(inside, c * _power(q, gamma[:, None]) * logp, 0.0), 1)
    tl.store(losses + row, total, mask=live)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    logits,
    a,
    b,
    lam,
    table,
    upstream,
    gradient,
    rows,
    classes,
    stride,
    upstream_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradient of ROWS rows, contiguous [B, C]; the rest as in _forward."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    live, base, inside, z, bias = _load(logits, table, row, column, rows, classes, stride)
    share = tl.load(lam + row, mask=live)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for side in tl.static_range(2):
        target, part = tl.load((a if side == 0 else b) + row, mask=live), share if side == 0 else 1 - share
        weight, eps, gamma, margin = _settings(table, target, live, classes)
        e, s, others, q, logp, first = _softmax(
            logits, table, base, z, bias, column, inside, target, margin, live, classes
        )
        c = tl.where(column == target[:, None], 1 - eps[:, None], 0.0) + eps[:, None] / classes
        slope = gamma[:, None] * e * logp / tl.maximum(others, SMALLEST) - 1
        ch = tl.where(inside, c * _power(q, gamma[:, None]) * slope, 0.0)
        rest = tl.sum(tl.where(first, 0.0, ch), 1)[:, None]
        top = tl.sum(tl.where(first, ch, 0.0), 1)[:, None]
        ch_others = tl.where(first, rest, rest + top - ch)
        total += (part * weight)[:, None] * (ch * q - e / s * ch_others)
    total *= tl.load(upstream + row.to(tl.int64) * upstream_stride, mask=live).to(tl.float32)[:, None]
    at = gradient + row.to(tl.int64)[:, None] * classes + column
    tl.store(at, total.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _load(logits, table, row, column, rows, classes, stride):
    """Which rows there are, where they begin, which cells are theirs; logits and bias in float32, 0 outside."""
    live, base = row < rows, row.to(tl.int64) * stride
    inside = live[:, None] & (column < classes)
    z = tl.load(logits + base[:, None] + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(table + column, mask=column < classes, other=0.0)
    return live, base, inside, z, bias


@triton.jit
def _settings(table, target, live, classes):
    """weight, eps, gamma and margin of each row's target; NaN, and so a NaN loss, for one that is no class."""
    known = live & (target >= 0) & (target < classes)
    at = table + target
    weight = tl.load(at + classes, mask=known, other=float("nan"))
    eps = tl.load(at + 2 * classes, mask=known, other=float("nan"))
    gamma = tl.load(at + 3 * classes, mask=known, other=float("nan"))
    margin = tl.load(at + 4 * classes, mask=known, other=float("nan"))
    return weight, eps, gamma, margin


@triton.jit
def _softmax(logits, table, base, z, bias, column, inside, target, margin, live, classes):
    """e = exp(z - z_max); s = sum e; the sum of the other e's, 1 - p and log p of each cell; which cell is the
    arg-max."""
    shift = bias - tl.where(column == target[:, None], margin[:, None], 0.0)
    top = tl.argmax(tl.where(inside, z + shift, float("-inf")), 1)
    there = live & (top < classes)  # a row of NaN may have its maximum anywhere
    z_top = tl.load(logits + base + top, mask=there, other=float("nan")).to(tl.float32)
    shift_top = tl.load(table + top, mask=there, other=float("nan")) - tl.where(top == target, margin, 0.0)
    # The difference first: at logits of 100, float32 rounds the sum of logit and bias by up to 4e-6.
    d = (z - z_top[:, None]) + (shift - shift_top[:, None])
    e = tl.where(inside, _exp(d), 0.0)
    first = column == top[:, None]
    rest = tl.sum(tl.where(first, 0.0, e), 1)[:, None]
    others = tl.where(first, rest, rest + 1 - e)
    return e, rest + 1, others, others / (rest + 1), d - _log1p(rest), first


@triton.jit
def _exp(x):
    """e^x for x <= 0 to 3 ulp; 0 under 2^-126. The hardware's own takes x log2(e) rounded: 1e-5 off at x = -80."""
    n = tl.floor(x * LOG2E + 0.5)
    power = tl.exp2((x - n * LN2_HIGH - n * LN2_LOW) * LOG2E)
    return tl.where(n < -126, 0.0, power * _two_to(n))


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0: what 1 + x loses, x / ((1 + x) - 1) gives back (Kahan)."""
    u = 1 + x
    return tl.where(u == 1, x, tl.log(u) * (x / tl.where(u == 1, 1.0, u - 1)))


@triton.jit
def _power(q, gamma):
    """q^gamma for 0 <= q <= 1. q = m 2^n, and gamma log2(m) is small: the power of a tiny q is as precise as any. Under
    2^-126 it is some number up to 1, and what it multiplies is as tiny as q."""
    bits = q.to(tl.int32, bitcast=True)
    n = (bits + (ONE - SQRT_HALF)) >> 23
    log_m = tl.log2((bits - ((n - 127) << 23)).to(tl.float32, bitcast=True))
    n = (n - 127).to(tl.float32)
    whole = tl.floor(n * gamma + 0.5)
    power = tl.exp2(tl.fma(n, gamma, -whole) + gamma * log_m)
    return tl.where(whole < -126, 0.0, power * _two_to(whole))


@triton.jit
def _two_to(n):
    """2^n of a whole float32 n from -126 to 127."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@torch.library.custom_op("longtail::loss", mutates_args=())
def loss(
    logits: torch.Tensor, a: torch.Tensor, b: torch.Tensor, lam: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """Per-row losses float32 [B]: see losses.loss, which is this file's twin and calls it. Gradients reach the logits
    alone, once. ValueError for other shapes and dtypes than the file's docstring says, and for more than CLASSES
    classes."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    _launch(_forward, logits, a, b, lam, table, losses)
    return losses


@torch.library.custom_op("longtail::loss_backward", mutates_args=())
def loss_backward(
    logits: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    lam: torch.Tensor,
    table: torch.Tensor,
    upstream: torch.Tensor,
) -> torch.Tensor:
    """dlogits, contiguous [B, C]."""
    gradient = logits.new_empty(logits.shape)
    _launch(_backward, logits, a, b, lam, table, upstream, gradient, upstream.stride(0))
    return gradient


@loss.register_fake
def _(logits, a, b, lam, table):
    _check(logits, a, b, lam, table)
    return logits.new_empty(len(logits), dtype=torch.float32)


@loss_backward.register_fake
def _(logits, a, b, lam, table, upstream):
    return logits.new_empty(logits.shape)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, upstream):
    return loss_backward(*ctx.saved_tensors, upstream), None, None, None, None


loss.register_autograd(_differentiate, setup_context=_keep)


def _check(logits, a, b, lam, table):
    if logits.ndim != 2 or logits.dtype not in DTYPES or not 1 <= logits.shape[1] <= CLASSES:
        raise ValueError(
            f"logits are [B, C] with C from 1 to {CLASSES}, float32, float16 or bfloat16; got "
            f"{tuple(logits.shape)} {logits.dtype}"
        )
    rows, classes = logits.shape
    shapes = (("a", a, (rows,)), ("b", b, (rows,)), ("lam", lam, (rows,)), ("table", table, (5, classes)))
    for name, given, shape in shapes:
        kind = given.dtype == torch.float32 if name in ("lam", "table") else not given.dtype.is_floating_point
        if given.shape != shape or not kind or given.device != logits.device:
            raise ValueError(
                f"{name} must be {shape} of {'float32' if name in ('lam', 'table') else 'integers'} on "
                f"{logits.device}; got {tuple(given.shape)} {given.dtype} on {given.device}"
            )


def tile(rows, classes):
    """ROWS, COLUMNS and warps of a program. A row each: a small batch then spreads over the whole device."""
    columns = triton.next_power_of_2(classes)
    return 1, columns, max(1, min(16, columns // 256))


def _launch(kernel, logits, a, b, lam, table, *others):
    _check(logits, a, b, lam, table)
    logits = logits if logits.stride(1) == 1 or logits.shape[1] == 1 else logits.contiguous()
    a, b, lam, table = (v.contiguous() for v in (a, b, lam, table))
    rows, classes = logits.shape
    height, columns, warps = tile(rows, classes)
    tensors = [v for v in others if isinstance(v, torch.Tensor)]
    strides = [v for v in others if not isinstance(v, torch.Tensor)]
    if rows:
        with torch.cuda.device_of(logits):
            kernel[(triton.cdiv(rows, height),)](
                logits,
                a,
                b,
                lam,
                table,
                *tensors,
                rows,
                classes,
                logits.stride(0),
                *strides,
                ROWS=height,
                COLUMNS=columns,
                num_warps=warps,
            )
