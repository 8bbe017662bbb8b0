"""The loss and its gradient against float64 autograd of the plain formula, F.cross_entropy, and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losses
from losses import loss, loss_table


def reference(logits, a, b, lam, table):
    """The formula of `loss` in float64. u = log((1 - p) / p) is summed over the other classes only, so nothing is lost
    at confident rows: log p = -softplus(u), log(1 - p) = -softplus(-u)."""
    logits, lam, table = logits.double(), lam.double(), table.double()
    classes = logits.shape[1]
    total = 0.0
    for targets, share in ((a.long(), lam), (b.long(), 1 - lam)):
        hot = F.one_hot(targets, classes)
        bias, weight, eps, gamma, margin = table[0], *table[1:, targets]
        z = logits + bias - margin[:, None] * hot
        own = torch.eye(classes, dtype=torch.bool)
        u = torch.logsumexp(z[:, None].masked_fill(own, -math.inf), 2) - z
        zero = torch.zeros_like(u)
        logp, logq = -torch.logaddexp(u, zero), -torch.logaddexp(-u, zero)
        smooth = (1 - eps[:, None]) * hot + eps[:, None] / classes
        total = total - share * weight * (smooth * (gamma[:, None] * logq).exp() * logp).sum(1)
    return total


def batch(rows, classes, *, scale=3.0, two=True, seed=0, dtype=torch.float32):
    """Random logits, targets, lam and upstream gradients; with two targets a few rows have a = b, lam 0 or lam 1."""
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=g) * scale).to(dtype)
    a, b = torch.randint(classes, (2, rows), generator=g, dtype=torch.int32)
    lam = torch.rand(rows, generator=g)
    if two:
        b[0], lam[1], lam[2] = a[0], 0.0, 1.0
    else:
        b, lam = a.clone(), torch.ones(rows)
    return logits, a, b, lam, torch.randn(rows, generator=g)


def both(logits, a, b, lam, upstream, table):
    """Value and gradient: ours, then the reference's."""
    found = []
    for function, z in ((loss, logits.clone()), (reference, logits.double())):
        value = function(z.requires_grad_(), a, b, lam, table)
        found += [value.detach().double(), torch.autograd.grad(value, z, upstream.to(value.dtype))[0]]
    return found


def largest(gradient):
    return gradient.abs().amax(1, keepdim=True)


COUNTS = torch.tensor([560, 443, 57, 0, 1, 19, 20, 100], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("ls", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("weights, tau, margin", list(itertools.product([False, True], [0.0, 1.0], [0.0, 1.5])))
def test_value_and_gradient_equal_float64_autograd(gamma, ls, two, weights, tau, margin):
    margins = margin / COUNTS.clamp_min(1) ** 0.25
    table = loss_table(COUNTS, ls=ls, gamma=gamma, alpha=0.7, weights=weights, tau=tau, margins=margins)
    for dtype, scale in itertools.product((torch.float32, torch.bfloat16, torch.float16), (1.0, 8.0)):
        value, grad, true_value, true_grad = both(*batch(24, 8, scale=scale, two=two, dtype=dtype), table)
        assert grad.dtype == dtype
        # d = z - z_max is off by half an ulp, which the power multiplies by 1 + gamma.
        assert (value - true_value).abs().le(1e-6 * (1 + gamma) * true_value + 1e-37).all()
        bound = 4e-6 * largest(true_grad) + 1e-37
        if dtype != torch.float32:  # one rounding, half an ulp, on top of the arithmetic's own error
            kind = torch.finfo(dtype)
            bound = bound + kind.eps / 2 * true_grad.abs() + kind.smallest_normal * kind.eps / 2
        assert ((grad.double() - true_grad).abs() <= bound).all()


@pytest.mark.parametrize("classes", [2, 3, 50, 257])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_other_numbers_of_classes(classes, gamma):
    table = loss_table(torch.arange(1.0, classes + 1), ls=0.1, gamma=gamma, weights=True, tau=1.0)
    value, grad, true_value, true_grad = both(*batch(16, classes, seed=2), table)
    assert torch.allclose(value, true_value, rtol=2e-6, atol=0)
    assert ((grad - true_grad).abs() <= 4e-6 * largest(true_grad)).all()


def test_weights_and_alpha_are_what_the_help_says():
    """Weighted, a batch's plain mean is F.cross_entropy's mean times the batch's mean weight; alpha is a factor."""
    logits, a, b, lam, _ = batch(32, 8, two=False)
    table = loss_table(COUNTS, weights=True)
    assert float((COUNTS * table[losses.WEIGHT]).sum() / COUNTS.sum()) == pytest.approx(1, rel=1e-6)
    assert float(table[losses.WEIGHT, 0] * 560) == pytest.approx(float(table[losses.WEIGHT, 5] * 19), rel=1e-6)
    theirs = F.cross_entropy(logits, a.long(), weight=table[losses.WEIGHT])
    ours = loss(logits, a, b, lam, table).mean()
    assert float(ours) == pytest.approx(float(theirs * table[losses.WEIGHT, a.long()].mean()), rel=1e-5)
    quarter = loss(logits, a, b, lam, loss_table(COUNTS, weights=True, alpha=0.25)).mean()
    assert float(quarter) == pytest.approx(float(ours / 4), rel=1e-6)


@pytest.mark.parametrize("ls, gamma", [(0.0, 0.0), (0.0, 2.0), (0.1, 0.0), (0.1, 2.0), (1.0, 0.5)])
def test_logits_near_the_largest_float32(ls, gamma):
    """Of 257 classes the sum of f passes it from 1e36 on, which ls 0 must not turn into NaN."""
    table = loss_table(torch.arange(1.0, 258), ls=ls, gamma=gamma)
    for size in (1e20, 1e36, 1e37, 1.6e38):
        logits, *rest = batch(16, 257)
        value, grad, true_value, true_grad = both(logits * (size / logits.abs().max()), *rest, table)
        assert torch.allclose(value, true_value, rtol=1e-6 * (1 + gamma), atol=0)
        assert ((grad - true_grad).abs() <= 4e-6 * largest(true_grad)).all()


def test_mixed_settings_by_class():
    """Each target brings its own eps, gamma, weight and margin, also where both share a row."""
    g = torch.Generator().manual_seed(1)
    table = torch.rand(5, 8, generator=g)
    table[losses.GAMMA] = torch.tensor([0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0])
    for margins in (False, True):
        table[losses.MARGIN] *= margins
        value, grad, true_value, true_grad = both(*batch(64, 8), table)
        assert torch.allclose(value, true_value, rtol=3e-6, atol=0)
        assert ((grad - true_grad).abs() <= 4e-6 * largest(true_grad)).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize("ls", [0.0, 0.1])
def test_saturated_logits(gamma, scale, ls):
    """Logits of +-scale, the target right, wrong, tied, or neither."""
    signs = torch.tensor(
        [[1, -1, -1, -1], [-1, 1, -1, -1], [1, 1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, 1], [0, 0, 1, -1]]
    )
    a, b = torch.zeros(6, dtype=torch.int32), torch.tensor([0, 1, 1, 2, 1, 3], dtype=torch.int32)
    table = loss_table(torch.tensor([90.0, 9.0, 1.0, 0.0]), ls=ls, gamma=gamma, tau=1.0)
    value, grad, true_value, true_grad = both(signs * scale, a, b, torch.full((6,), 0.3), torch.ones(6), table)
    assert torch.isfinite(value).all() and torch.isfinite(grad).all()
    assert ((value - true_value).abs() <= 2e-6 * true_value + 1e-37).all()
    assert ((grad - true_grad).abs() <= 4e-6 * largest(true_grad) + 1e-37).all()


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_confident_rows_against_the_closed_form(gamma):
    """Two classes, gap x: 1 - p = 1 / (1 + e^x), far under float32's epsilon."""
    gaps = [5.0, 15.0, 20.0, 30.0, 40.0, 60.0]
    logits = torch.tensor([[x, 0.0] for x in gaps], requires_grad=True)
    zero = torch.zeros(len(gaps), dtype=torch.int32)
    value = loss(logits, zero, zero, torch.ones(len(gaps)), loss_table([1, 1], gamma=gamma))
    value.sum().backward()
    for x, ours, slope in zip(gaps, value.tolist(), logits.grad.tolist()):
        q, nll = 1 / (1 + math.exp(x)), math.log1p(math.exp(-x))
        p = math.exp(-nll)
        by_x = q**gamma * (-gamma * p * nll - q)  # d/dx of q^gamma nll, dq/dx = -p q, dnll/dx = -q
        assert ours == pytest.approx(q**gamma * nll, rel=5e-6, abs=1e-44)
        assert slope == pytest.approx([by_x, -by_x], rel=5e-6, abs=1e-44)


def test_equals_cross_entropy():
    logits, a, b, lam, _ = batch(32, 8)
    la, lb = a.long(), b.long()
    counts = torch.arange(1.0, 9.0)
    log_prior = (counts / counts.sum()).log()

    def check(table, wanted, lam=lam):
        z = logits.clone().requires_grad_()
        ours = loss(z, a, b, lam, table)
        assert torch.allclose(ours, wanted(z), rtol=2e-6, atol=1e-6)
        gradients = [torch.autograd.grad(v.mean(), z)[0] for v in (ours, wanted(z))]
        assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)

    def ce(z, t, **kw):
        return F.cross_entropy(z, t, reduction="none", **kw)

    one = torch.ones(32)
    soft = lam[:, None] * F.one_hot(la, 8) + (1 - lam)[:, None] * F.one_hot(lb, 8)
    check(loss_table(counts), lambda z: ce(z, la), one)
    check(loss_table(counts), lambda z: ce(z, soft))
    check(loss_table(counts, ls=0.1), lambda z: ce(z, soft, label_smoothing=0.1))
    weight = counts.sum() / 8 / counts
    check(loss_table(counts, weights=True), lambda z: ce(z, la, weight=weight), one)
    check(loss_table(counts, tau=1.0), lambda z: ce(z + log_prior, soft))
    margins = 0.5 / counts**0.25
    check(loss_table(counts, margins=margins), lambda z: ce(z - margins * F.one_hot(la, 8), la), one)


def test_equals_the_usual_focal_loss_on_hard_labels():
    logits, a, _, _, _ = batch(32, 8)
    nll = F.cross_entropy(logits, a.long(), reduction="none")
    focal = 0.25 * (1 - torch.exp(-nll)) ** 2 * nll
    ours = loss(logits, a, a, torch.ones(32), loss_table(torch.ones(8), gamma=2.0, alpha=0.25))
    assert torch.allclose(ours, focal, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_gradcheck(margin):
    logits, a, b, lam, _ = batch(6, 5, dtype=torch.float64)
    table = loss_table(torch.arange(1.0, 6.0), ls=0.2, gamma=0.5, tau=1.0, margins=torch.full((5,), margin)).double()
    assert torch.autograd.gradcheck(lambda z: loss(z, a, b, lam.double(), table), logits.requires_grad_())


@pytest.mark.parametrize("gamma, ls", [(0.0, 0.0), (0.5, 0.1), (2.0, 1.0)])
def test_one_class_costs_nothing(gamma, ls):
    logits = torch.tensor([[3.0], [-100.0]], requires_grad=True)
    zero = torch.zeros(2, dtype=torch.int32)
    table = loss_table([7], ls=ls, gamma=gamma, weights=True, tau=1.0)
    value = loss(logits, zero, zero, torch.tensor([1.0, 0.4]), table)
    value.sum().backward()
    assert value.tolist() == [0, 0] and logits.grad.tolist() == [[0], [0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gamma, ls", [(0.0, 0.0), (2.0, 0.1)])
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_finite_is_not_silent(bad, gamma, ls, where):
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    logits[1, where] = bad
    zero = torch.zeros(3, dtype=torch.int32)
    value = loss(logits, zero, zero, torch.ones(3), loss_table(torch.ones(4), gamma=gamma, ls=ls))
    assert torch.isfinite(value).tolist() == [True, False, True]


def test_is_per_row_float32_and_keeps_only_its_inputs():
    logits, a, b, lam, _ = batch(32, 8, dtype=torch.bfloat16)
    logits.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        value = loss(logits, a, b, lam, loss_table(COUNTS))
    assert value.shape == (32,) and value.dtype == torch.float32
    assert sum(t.numel() for t in kept) <= logits.numel() + 4 * 32 + 5 * 8
    alone = torch.cat(
        [loss(logits[i : i + 1], a[i : i + 1], b[i : i + 1], lam[i : i + 1], loss_table(COUNTS)) for i in range(32)]
    )
    assert torch.equal(value, alone)


def test_softmaxes_apart_equal_the_shared_one():
    """Accelerators always take the path of two softmaxes, and read nothing back: a meta tensor has nothing to read."""
    logits, a, b, lam, upstream = batch(64, 8)
    table = loss_table(COUNTS, ls=0.1, gamma=2.0, tau=1.0)
    apart = table.clone()
    apart[losses.MARGIN, 0] = 1e-30
    found = []
    for t in (table, apart):
        z = logits.clone().requires_grad_()
        value = loss(z, a, b, lam, t)
        found.append((value, torch.autograd.grad(value, z, upstream)[0]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6, atol=0)
    assert torch.allclose(found[0][1], found[1][1], rtol=0, atol=1e-6 * float(found[0][1].abs().max()))
    logits, a, b, lam, upstream, table = (t.to("meta") for t in (logits, a, b, lam, upstream, table))
    loss(logits.requires_grad_(), a, b, lam, table).backward(upstream)
    assert logits.grad.shape == (64, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    case = batch(64, 50)
    table = loss_table(torch.arange(50.0), ls=0.1, gamma=0.5, tau=1.0, weights=True)
    logits, a, b, lam, upstream = (t.cuda() for t in case)
    on_gpu = table.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = loss(logits.requires_grad_(), a, b, lam, on_gpu)
        value.backward(upstream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    _, _, true_value, true_grad = both(*case, table)
    assert torch.allclose(value.double().cpu(), true_value, rtol=2e-6, atol=0)
    assert ((logits.grad.cpu() - true_grad).abs() <= 4e-6 * largest(true_grad)).all()


def test_second_derivatives_are_refused():
    logits, a, b, lam, _ = batch(4, 8)
    value = loss(logits.requires_grad_(), a, b, lam, loss_table(COUNTS))
    (first,) = torch.autograd.grad((value**2).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("target", [-1, 8])
def test_targets_out_of_range_are_refused(target):
    logits, a, b, lam, _ = batch(4, 8)
    a[3] = target
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        loss(logits, a, b, lam, loss_table(COUNTS))


def test_table():
    table = loss_table(COUNTS, ls=0.1, gamma=2.0, alpha=0.25, weights=True, tau=0.5, margins=torch.arange(8.0))
    assert table.shape == (5, 8) and table.dtype == torch.float32
    floored = COUNTS.clamp_min(0.5)
    assert torch.allclose(table[losses.BIAS].double(), 0.5 * (floored / floored.sum()).log())
    weight = table[losses.WEIGHT].double()
    assert float((COUNTS * weight).sum()) == pytest.approx(0.25 * float(COUNTS.sum()), rel=1e-6)
    assert torch.allclose(weight * floored, weight[0] * floored[0])
    assert table[losses.EPS].eq(0.1).all() and table[losses.GAMMA].eq(2).all()
    assert table[losses.MARGIN].tolist() == list(range(8))
    plain = loss_table(COUNTS)
    assert plain[losses.WEIGHT].eq(1).all() and plain[[0, 2, 3, 4]].eq(0).all()


@pytest.mark.parametrize("options", [{}, {"tau": 1.0}, {"tau": 0.5, "weights": True}])
def test_posterior_bias_turns_a_perfect_fit_into_bayes_rule(options):
    """Logits for which softmax(z + bias) is the posterior of the weighted sampled distribution: what training fits."""
    counts, sampled = torch.tensor([90.0, 9.0, 1.0]), torch.tensor([50.0, 30.0, 20.0])
    table = loss_table(sampled, **options)
    likelihood = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    logits = (likelihood * sampled * table[losses.WEIGHT]).log() - table[losses.BIAS] + 3.0
    for prior, share in (("train", counts), ("uniform", torch.ones(3))):
        wanted = likelihood * share / (likelihood * share).sum(1, keepdim=True)
        bias = torch.from_numpy(losses.posterior_bias(table, sampled, counts, prior))
        assert torch.allclose((logits + bias).softmax(1), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "counts, options, word",
    [
        ([], {}, "counts"),
        ([0, 0], {}, "counts"),
        ([1, -1], {}, "counts"),
        ([1, math.nan], {}, "counts"),
        ([1, math.inf], {}, "counts"),
        ([[1, 2]], {}, "counts"),
        ([1, 1], {"ls": 1.1}, "ls"),
        ([1, 1], {"ls": np.array([0.1, -0.1])}, "ls"),
        ([1, 1], {"ls": np.array([0.1, math.nan])}, "ls"),
        ([1, 1], {"gamma": -1}, "gamma"),
        ([1, 1], {"alpha": math.nan}, "alpha"),
        ([1, 1], {"margins": [1.0]}, "margins"),
        ([1, 1], {"margins": [0.0, -1]}, "margins"),
    ],
)
def test_bad_tables_are_refused(counts, options, word):
    with pytest.raises(ValueError, match=word):
        loss_table(counts, **options)


# Schedules


def objective(**options):
    plain = dict(gamma=0.0, alpha=1.0, ls=0.0, ls_by="progress", loss_tau=0.0, balance="none", prior="train")
    return losses.Objective(**(plain | dict(margin=0.0, drw=0.0) | options))


def table_at(epoch, epochs=200, counts=(500, 50, 5, 0), scale=1.0, **options):
    return losses.schedule(objective(**options), np.array(counts), epoch, epochs, logit_scale=scale).double().numpy()


def test_ldam_margins_are_the_papers():
    """Equation 13 with its constant such that the rarest class has the largest margin, as in the authors' code."""
    counts = np.array([500, 50, 5])
    published = 1 / np.sqrt(np.sqrt(counts))
    published = published * (0.5 / np.max(published))
    assert losses.ldam_margins(counts, 0.5) == pytest.approx(published)
    assert losses.ldam_margins(np.array([9, 0, 4]), 0.5)[1] == 0.5  # a class without a picture has that of the rarest
    assert table_at(0, margin=0.5, scale=30.0)[losses.MARGIN, :3] == pytest.approx(30 * published, rel=1e-6)
    assert (table_at(0)[losses.MARGIN] == 0).all()
    # Of the classes' pictures, however rows are drawn.
    drawn = losses.schedule(objective(margin=0.5), np.array([185.0] * 3), 0, 10, pictures=counts)
    assert drawn[losses.MARGIN].tolist() == pytest.approx(published, rel=1e-6)


def test_ldam_is_the_authors_loss():
    """cross_entropy(s (cos - margin e_t), t) in float64, s = 30."""
    rng = np.random.default_rng(0)
    cosines, target = torch.from_numpy(rng.uniform(-1, 1, (40, 4))), torch.from_numpy(rng.integers(0, 4, 40))
    table = losses.schedule(objective(margin=0.5), np.array([500, 50, 5, 5]), 0, 10, logit_scale=30.0)
    margins = losses.ldam_margins(np.array([500, 50, 5, 5]), 0.5)
    shifted = cosines - torch.from_numpy(margins) * F.one_hot(target, 4)
    expected = F.cross_entropy(30 * shifted, target, reduction="none")
    found = losses.plain(30 * cosines, target, target, torch.ones(40), table)
    assert (found - expected).abs().max() < 1e-5


def smoothing_at(epoch=0, epochs=11, counts=(500, 50, 5), pictures=None, **options):
    aim = objective(**options)
    table = losses.schedule(aim, np.array(counts), epoch, epochs, pictures=pictures)
    return table[losses.EPS].tolist()


def test_smoothing_by_frequency_is_that_of_mislas():
    """LabelAwareSmoothing's concave shape, as its authors compute it, on the study's class counts."""
    counts = torch.tensor([560, 443, 274, 210, 156, 121, 88, 57, 30, 19])
    for head, tail in ((0.4, 0.1), (0.0, 0.3)):
        ratio = (counts - counts.min()) * math.pi / (2 * (counts.max() - counts.min()))
        theirs = tail + (head - tail) * torch.sin(ratio.double())
        found = smoothing_at(counts=counts.tolist(), ls=(head, tail), ls_by="frequency")
        assert found == pytest.approx(theirs.tolist(), abs=1e-7)
        # Rows that a sampler draws equally often do not hide which class is rare.
        even = smoothing_at(counts=[100] * 10, pictures=counts.numpy(), ls=(head, tail), ls_by="frequency")
        assert even == found
    assert smoothing_at(counts=(9, 9, 9), ls=(0.4, 0.1), ls_by="frequency") == pytest.approx([0.4] * 3)
    # A class that has no picture changes nothing for those that have some.
    there, with_none = (
        smoothing_at(counts=c, ls=(0.4, 0.1), ls_by="frequency") for c in ((20, 15, 10), (20, 15, 10, 0))
    )
    assert with_none == pytest.approx([*there, there[2]]) and there[2] == pytest.approx(0.1)


def test_smoothing_goes_from_the_first_end_to_the_last_over_training():
    for ends in ((0.0, 0.2), (0.2, 0.0)):
        found = [smoothing_at(epoch, ls=ends)[0] for epoch in range(11)]
        assert found == pytest.approx(np.linspace(*ends, 11), abs=1e-7)
        assert smoothing_at(ls=ends) == pytest.approx([ends[0]] * 3)  # the same for all classes
    assert smoothing_at(0, epochs=1, ls=(0.1, 0.3)) == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    "options, weights, tau",
    [
        (dict(drw=0.8), True, False),
        (dict(drw=0.8, balance="weights"), True, False),
        (dict(drw=0.8, loss_tau=1.0), False, True),
        (dict(drw=0.8, loss_tau=1.0, balance="weights"), True, True),
    ],
)
def test_deferred_reweighting_sets_in_after_its_share_of_the_epochs(options, weights, tau):
    """Of 200 epochs at the 161st, as LDAM-DRW."""
    plain = table_at(0)
    assert np.array_equal(table_at(159, **options), plain)
    late = table_at(160, **options)
    counts = np.array([500, 50, 5, 0.5])
    inverse = 555 / 3 / counts  # the mean weight of a drawn row is 1
    assert late[losses.WEIGHT] == pytest.approx(inverse if weights else np.ones(4), rel=1e-6)
    prior = np.log(counts / counts.sum())
    assert late[losses.BIAS] == pytest.approx(prior if tau else np.zeros(4), rel=1e-6)
    stages = [losses.stage(objective(**options), epoch, 200) for epoch in range(200)]
    assert stages == [0] * 160 + [1] * 40


def test_without_deferring_a_schedule_is_one_table():
    for options in (dict(), dict(balance="weights"), dict(loss_tau=1.0, ls=0.1, gamma=2.0)):
        tables = [table_at(epoch, **options) for epoch in (0, 100, 199)]
        assert all(np.array_equal(table, tables[0]) for table in tables)
    assert not np.array_equal(table_at(0, balance="weights"), table_at(0))


GRID = np.linspace(-6, 6, 61)
COUNTS_OF_GAUSSIANS = np.array([500.0, 50.0, 5.0])


def gaussians():
    """The likelihood [X,3] of GRID under three normal distributions, about -1.5, 0 and 2, of standard deviation 1."""
    density = np.exp(-((GRID[:, None] - np.array([-1.5, 0.0, 2.0])) ** 2) / 2)
    return density / density.sum(0)


def expected_loss(logits, joint, table):
    """The mean loss of logits [X,C] over the joint distribution [X,C] of x and class."""
    rows, classes = joint.shape
    target = torch.arange(classes).repeat(rows)
    one = torch.ones(rows * classes, dtype=torch.float64)
    row_losses = losses.plain(logits.repeat_interleave(classes, 0), target, target, one, table)
    return (torch.from_numpy(joint).flatten() * row_losses).sum()


@pytest.mark.parametrize("prior", ["train", "uniform"])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(balance="weights"),
        dict(balance="sampler"),
        dict(loss_tau=1.0),
        dict(loss_tau=0.5, balance="weights"),
        dict(drw=0.5),
        dict(drw=0.5, balance="weights"),
        dict(drw=0.5, loss_tau=1.0),
    ],
    ids=str,
)
def test_the_bias_makes_posteriors_at_the_end_of_every_stage(options, prior):
    """Softmax regression, trained to the end of its first and of its last stage on Gaussians, whose posterior is
    linear in x before the softmax: with the bias it is Bayes' rule."""
    counts, likelihood = COUNTS_OF_GAUSSIANS, gaussians()
    sampled = np.full(3, counts.mean()) if options.get("balance") == "sampler" else counts
    joint = likelihood * (counts if prior == "train" else 1.0)
    features = torch.from_numpy(np.stack([np.ones_like(GRID), GRID], 1))
    for epoch in (0, 9):
        table = losses.schedule(objective(**options), sampled, epoch, 10, pictures=counts)
        weights = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure(weights=weights, optimizer=optimizer, table=table):
            optimizer.zero_grad()
            value = expected_loss(features @ weights, likelihood * sampled / sampled.sum(), table)
            value.backward()
            return value

        optimizer.step(closure)
        bias = torch.from_numpy(losses.posterior_bias(table, sampled, counts, prior)).double()
        found = torch.softmax(features @ weights.detach() + bias, 1).numpy()
        assert np.abs(found - joint / joint.sum(1, keepdims=True)).max() < 1e-4


@pytest.mark.parametrize("balance", ["none", "weights"])
def test_what_the_bias_leaves_of_smoothing_by_class(balance):
    """The unequal shares that classes keep are taken out; what each picture's smoothing gives to all classes stays.

    At logits that fit the smoothed targets exactly, which are the minimum: there the gradient is 0.
    """
    counts, joint = COUNTS_OF_GAUSSIANS, gaussians()[10:50] * COUNTS_OF_GAUSSIANS
    table = losses.schedule(objective(ls=(0.4, 0.1), ls_by="frequency", balance=balance), counts, 0, 10)
    eps, weight = table[losses.EPS].double().numpy(), table[losses.WEIGHT].double().numpy()
    weighted = joint * weight
    target = weighted * (1 - eps) + (weighted * eps).sum(1, keepdims=True) / 3
    logits = torch.from_numpy(np.log(target)).requires_grad_()
    (gradient,) = torch.autograd.grad(expected_loss(logits, joint, table), logits)
    assert gradient.abs().max() < 1e-9 * target.max()

    bias = losses.posterior_bias(table, counts, counts, "train")
    found = torch.softmax(logits.detach() + torch.from_numpy(bias).double(), 1).numpy()
    posterior = joint / joint.sum(1, keepdims=True)
    given_to_all = (posterior * weight * eps).sum(1, keepdims=True) / 3
    expected = posterior + given_to_all / (weight * (1 - eps))
    assert found == pytest.approx(expected / expected.sum(1, keepdims=True), abs=1e-5)


def test_equal_smoothing_leaves_the_bias_as_it_is():
    counts = COUNTS_OF_GAUSSIANS
    for ls in (0.1, 0.999, 1.0):
        plain, smoothed = loss_table(counts, tau=0.5, weights=True), loss_table(counts, tau=0.5, weights=True, ls=ls)
        found = losses.posterior_bias(smoothed, counts, counts, "train")
        assert (found == losses.posterior_bias(plain, counts, counts, "train")).all()
