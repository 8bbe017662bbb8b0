"""The loss kernel against float64 autograd of the plain formula; what it builds into; how it is reached.

A GPU's exponential, division and logarithms are off by a unit or two in the last place, for which the twin's bounds
(test_losses.py) have no room. Under the interpreter they are made as inexact (rounds_as_a_gpu). The interpreter cuts
float32 to bfloat16 off instead of rounding it: one ulp there.
"""

import itertools
import math
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels
import losses
from conftest import GPU, INTERPRETED, kernel_builds, on_device, pass_under_the_interpreter
from losses import loss_table
from test_losses import COUNTS, batch, largest, reference

pytest.importorskip("triton")

from kernels import loss as kernel

pytestmark = pytest.mark.usefixtures("rounds_as_a_gpu")
# Twice what the worst of twelve patterns of such errors gave: 1.0e-6 (1 + gamma) of a value, 7.5e-6 of a gradient's
# largest in its row where gamma is 1, and 1.06e-6 + 2.1e-7 gamma of either in a confident row of two classes.
VALUE, GRADIENT = 2e-6, 1.5e-5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def tall(monkeypatch):
    """Up to 32 rows a program: the interpreter's time goes by programs."""
    power = kernel.triton.next_power_of_2
    monkeypatch.setattr(kernel, "tile", lambda rows, classes: (min(32, power(rows)), power(classes), 4))


def both(device, logits, a, b, lam, upstream, table):
    """Value and gradient: the kernel's, on a window into a wider matrix of NaN, then the reference's, in float64 on the
    CPU."""
    rows, classes = logits.shape
    wide = torch.full((rows, classes + 5), math.nan, dtype=logits.dtype, device=device)
    wide[:, 2 : 2 + classes] = logits
    z, true_z = wide[:, 2 : 2 + classes].requires_grad_(), logits.double().requires_grad_()
    value = kernel.loss(z, *(v.to(device) for v in (a, b, lam, table)))
    (grad,) = torch.autograd.grad(value, z, upstream.to(device))
    true_value = reference(true_z, a, b, lam, table)
    (true_grad,) = torch.autograd.grad(true_value, true_z, upstream.double())
    assert value.dtype == torch.float32 and value.shape == lam.shape
    assert grad.dtype == logits.dtype and grad.shape == logits.shape and grad.is_contiguous()
    return value.detach().double().cpu(), grad.double().cpu(), true_value.detach(), true_grad


def check(device, case, table, gamma):
    value, grad, true_value, true_grad = both(device, *case, table)
    dtype = case[0].dtype
    # d = z - z_max is off by half an ulp, which the power multiplies by 1 + gamma.
    assert (value - true_value).abs().le(VALUE * (1 + gamma) * true_value.abs() + 1e-37).all()
    bound = GRADIENT * largest(true_grad) + 1e-37
    if dtype != torch.float32:
        kind = torch.finfo(dtype)
        ulps = 1 if device == "cpu" and dtype == torch.bfloat16 else 0.5
        bound = bound + ulps * kind.eps * true_grad.abs() + kind.smallest_normal * kind.eps
    assert ((grad - true_grad).abs() <= bound).all()


@on_device
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    "ls, two, weights, tau, margin",
    [
        (0.0, False, False, 0.0, 0.0),
        (0.1, True, True, 1.0, 1.5),
        (1.0, True, False, 1.0, 0.0),
        (0.0, True, False, 0.0, 1.5),
        (0.1, False, True, 0.0, 0.0),
    ],
)
def test_value_and_gradient(device, gamma, ls, two, weights, tau, margin, tall, poisoned):
    table = loss_table(
        COUNTS, ls=ls, gamma=gamma, alpha=0.7, weights=weights, tau=tau, margins=margin / COUNTS.clamp_min(1) ** 0.25
    )
    for dtype, scale in itertools.product(DTYPES, (1.0, 8.0)):
        check(device, batch(24, 8, scale=scale, two=two, dtype=dtype), table, gamma)


@on_device
@pytest.mark.parametrize(
    "rows, classes, dtypes",
    [
        (1, 1, DTYPES),
        (33, 2, DTYPES),
        (7, 3, DTYPES),
        (5, 50, DTYPES),
        (65, 64, DTYPES),
        (3, 257, DTYPES),
        (2, 1000, DTYPES),
        (1, 4095, DTYPES[:1]),
        (1, 4096, DTYPES[1:2]),
    ],
)
def test_shapes(device, rows, classes, dtypes, tall, poisoned):
    table = loss_table(torch.arange(1.0, classes + 1), ls=0.1, gamma=0.5, weights=True, tau=1.0)
    for dtype in dtypes:
        check(device, batch(rows, classes, two=rows > 2, dtype=dtype, seed=3), table, 0.5)


@on_device
@pytest.mark.parametrize("ls, gamma", [(0.0, 0.0), (0.0, 2.0), (0.1, 2.0)])
def test_logits_near_the_largest_float32(device, ls, gamma, tall):
    """As the twin has them."""
    table = loss_table(torch.arange(1.0, 258), ls=ls, gamma=gamma)
    for size in (1e37, 1.6e38):
        logits, *rest = batch(16, 257)
        check(device, (logits * (size / logits.abs().max()), *rest), table, gamma)
        tied = size * logits.sign()  # half of the classes share the top, which the float64 formula cannot tell
        value = kernel.loss(tied.to(device), *(v.to(device) for v in rest[:3]), table.to(device))
        assert torch.allclose(value.cpu(), losses.plain(tied, *rest[:3], table), rtol=1e-5)


@on_device
def test_a_row_to_a_program_as_on_a_gpu(device, poisoned):
    assert kernel.tile(128, 50) == (1, 64, 1) and kernel.tile(128, 4096) == (1, 4096, 16)
    check(device, batch(5, 50), loss_table(torch.arange(50.0), ls=0.1, gamma=2.0, tau=1.0), 2.0)


@on_device
def test_any_memory_layout(device, tall):
    """Targets of 64 bits, logits by columns, an upstream gradient that is one number, or every second of a vector."""
    logits, a, b, lam, _ = (v.to(device) for v in batch(9, 8))
    table = loss_table(COUNTS, ls=0.1, gamma=1.0).to(device)
    plain, by_columns = logits.clone().requires_grad_(), logits.t().contiguous().t().requires_grad_()
    value = kernel.loss(plain, a, b, lam, table)
    other = kernel.loss(by_columns, a.long(), b.long(), lam, table)
    assert torch.equal(value, other)
    weights = torch.arange(18.0, device=device)[::2]
    for first, second, factor in (
        (value.mean(), other.mean(), torch.full((9,), 1 / 9, device=device)),
        ((value * weights).sum(), (other * weights).sum(), weights),
    ):
        found = [torch.autograd.grad(v, z, retain_graph=True)[0] for v, z in ((first, plain), (second, by_columns))]
        (expected,) = torch.autograd.grad(value, plain, factor.contiguous(), retain_graph=True)
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], expected)
    strided = torch.autograd.grad(value, plain, weights, retain_graph=True)[0]
    assert torch.equal(strided, torch.autograd.grad(value, plain, weights.contiguous())[0])


@on_device
def test_settings_by_class(device, tall, poisoned):
    g = torch.Generator().manual_seed(1)
    table = torch.rand(5, 8, generator=g)
    table[losses.GAMMA] = torch.tensor([0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0])
    for margins in (False, True):
        table[losses.MARGIN] *= margins
        check(device, batch(64, 8), table, 2.0)


@on_device
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("ls", [0.0, 0.1])
def test_saturated_logits(device, gamma, ls, tall):
    signs = torch.tensor(
        [[1, -1, -1, -1], [-1, 1, -1, -1], [1, 1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, 1], [0, 0, 1, -1]]
    )
    a, b = torch.zeros(6, dtype=torch.int32), torch.tensor([0, 1, 1, 2, 1, 3], dtype=torch.int32)
    table = loss_table(torch.tensor([90.0, 9.0, 1.0, 0.0]), ls=ls, gamma=gamma, tau=1.0)
    for scale in (100.0, 1e4):
        value, grad, true_value, true_grad = both(
            device, signs * scale, a, b, torch.full((6,), 0.3), torch.ones(6), table
        )
        assert ((value - true_value).abs() <= VALUE * true_value + 1e-37).all()
        assert ((grad - true_grad).abs() <= GRADIENT * largest(true_grad) + 1e-37).all()


@on_device
def test_a_prior_that_outweighs_the_logits(device, tall):
    """The arg-max is that of logits and bias together: by the logits alone, e^200 would be summed."""
    table = loss_table(torch.ones(4), ls=0.1, gamma=2.0)
    table[losses.BIAS] = torch.tensor([-100.0, 0.0, 100.0, 0.0])
    logits, *others = batch(9, 4)
    logits[:, 0] += 20
    value, grad, true_value, true_grad = both(device, logits, *others, table)
    assert torch.allclose(value, true_value, rtol=VALUE, atol=0)
    assert ((grad - true_grad).abs() <= GRADIENT * largest(true_grad)).all()


@on_device
@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.3, 0.5, 1.0, 2.0, 2.7])
def test_confident_rows_against_the_closed_form(device, gamma, tall):
    """Two classes, gap x: 1 - p = 1 / (1 + e^x), far under float32's epsilon, and under 2^-126 at 90. Errors do not
    grow with x."""
    gaps = [5.0, 15.0, *torch.linspace(20, 60, 60).tolist(), 90.0]
    logits = torch.tensor([[x, 0.0] for x in gaps], device=device, requires_grad=True)
    zero = torch.zeros(len(gaps), dtype=torch.int32, device=device)
    table = loss_table([1, 1], gamma=gamma)
    value = kernel.loss(logits, zero, zero, torch.ones(len(gaps), device=device), table.to(device))
    value.sum().backward()
    gamma, near = float(table[losses.GAMMA, 0]), VALUE + 4e-7 * gamma
    for x, ours, slope in zip(gaps, value.tolist(), logits.grad.tolist()):
        q, nll = 1 / (1 + math.exp(x)), math.log1p(math.exp(-x))
        by_x = q**gamma * (-gamma * math.exp(-nll) * nll - q)  # d/dx of q^gamma nll, dq/dx = -p q, dnll/dx = -q
        assert ours == pytest.approx(q**gamma * nll, rel=near, abs=2e-38)
        assert slope == pytest.approx([by_x, -by_x], rel=near, abs=4e-38)


@on_device
def test_what_is_not_finite_and_what_is_no_class_is_not_silent(device, tall):
    table = loss_table(torch.ones(4), gamma=2.0).to(device)
    for bad, where in itertools.product((math.nan, math.inf, -math.inf), range(4)):
        logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        logits[1, where] = bad
        zero = torch.zeros(3, dtype=torch.int32, device=device)
        value = kernel.loss(logits.to(device), zero, zero, torch.ones(3, device=device), table)
        assert torch.isfinite(value).tolist() == [True, False, True], (bad, where)
    for target in (-1, 4, 2**31 - 1):
        logits, a, b, lam, _ = (v.to(device) for v in batch(4, 4))
        b[3] = target
        value = kernel.loss(logits.requires_grad_(), a, b, lam, table)
        value.sum().backward()
        assert value.isnan().tolist() == logits.grad.isnan().all(1).tolist() == [False, False, False, True]


@on_device
def test_more_than_2_to_the_31_logits_apart(device, poisoned):
    """Only the pages that are touched take memory on a CPU."""
    stride = 2**30 + 64  # fits 32 bits; twice it does not
    room = torch.empty(2 * stride + 8, dtype=torch.float16, device=device)
    logits = torch.as_strided(room, (3, 8), (stride, 1))
    values, a, b, lam, _ = batch(3, 8, two=False, dtype=torch.float16)
    logits.copy_(values)
    table = loss_table(COUNTS).to(device)
    rest = a.to(device), b.to(device), lam.to(device), table
    assert torch.equal(kernel.loss(logits, *rest), kernel.loss(values.to(device), *rest))


@on_device
def test_the_operator_keeps_its_contract(device, tall):
    logits, a, b, lam, upstream = (v.to(device) for v in batch(6, 8))
    table = loss_table(COUNTS, ls=0.1, gamma=2.0).to(device)
    torch.library.opcheck(kernel.loss, (logits.requires_grad_(), a, b, lam, table))
    torch.library.opcheck(kernel.loss_backward, (logits.detach(), a, b, lam, table, upstream))
    with pytest.raises(RuntimeError, match="autograd"):  # second derivatives
        (first,) = torch.autograd.grad((kernel.loss(logits, a, b, lam, table) ** 2).sum(), logits, create_graph=True)
        first.sum().backward()


@on_device
def test_traces_whole_with_its_backward(device, tall):
    logits, a, b, lam, _ = (v.to(device) for v in batch(6, 8))
    table = loss_table(COUNTS, ls=0.1, gamma=2.0).to(device)
    traced = torch.compile(lambda z: kernel.loss(z * 2, a, b, lam, table).mean(), fullgraph=True, backend="aot_eager")
    found = []
    for function in (traced, lambda z: kernel.loss(z * 2, a, b, lam, table).mean()):
        z = logits.clone().requires_grad_()
        value = function(z)
        value.backward()
        found.append((value.detach(), z.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@on_device
def test_losses_loss_comes_here(device, tall, monkeypatch):
    monkeypatch.setattr(kernels, "usable", lambda asked: True)
    calls, plain = [], losses.plain
    monkeypatch.setattr(losses, "plain", lambda *args: calls.append(args) or plain(*args))
    logits, a, b, lam, _ = (v.to(device) for v in batch(6, 8))
    table = loss_table(COUNTS, ls=0.1, gamma=2.0).to(device)
    assert torch.equal(losses.loss(logits, a, b, lam, table), kernel.loss(logits, a, b, lam, table)) and not calls
    losses.loss(logits.double(), a, b, lam, table)
    losses.loss(
        torch.zeros(6, kernel.CLASSES + 1, device=device), a, b, lam, torch.zeros(5, kernel.CLASSES + 1, device=device)
    )
    assert len(calls) == 2


def refused(**changes):
    logits, a, b, lam, _ = batch(4, 8)
    return dict(dict(logits=logits, a=a, b=b, lam=lam, table=loss_table(COUNTS)), **changes).values()


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(logits=torch.zeros(4, 8, dtype=torch.float64)), "float64"),
        (dict(logits=torch.zeros(4)), "logits"),
        (dict(logits=torch.zeros(4, 4097)), "4097"),
        (dict(a=torch.zeros(3, dtype=torch.int32)), "a must"),
        (dict(b=torch.zeros(4)), "b must"),
        (dict(lam=torch.ones(4).half()), "lam must"),
        (dict(table=torch.zeros(5, 7)), "table must"),
    ],
)
def test_other_inputs_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        kernel.loss(*refused(**changes))
    given, fake = refused(**changes), FakeTensorMode()
    given = [fake.from_tensor(v) for v in given]
    with fake, pytest.raises(ValueError, match=word):
        kernel.loss(*given)


# Where it runs, and what it becomes


def test_where_kernels_run(monkeypatch, capsys):
    def at(capability=(9, 0), hip=None, triton=lambda name: sys.modules["triton"].runtime.driver):
        kernels.usable.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(kernels.importlib, "import_module", triton)
        return [kernels.usable(torch.device("cuda")) for _ in range(2)], capsys.readouterr().err

    class Works:
        driver = type("", (), {"active": type("", (), {"get_current_target": lambda: "sm_90"})})

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    try:
        assert at(triton=lambda name: Works) == ([True, True], "")
        for said, options in (
            ("7.0", dict(capability=(7, 0), triton=lambda name: Works)),
            ("ROCm", dict(hip="6.2", triton=lambda name: Works)),
            ("No module named", dict(triton=missing)),
        ):
            found, err = at(**options)
            assert found == [False, False] and err.count("plain PyTorch") == 1 and said in err
        assert not kernels.usable(torch.device("cpu")) and capsys.readouterr().err == ""
    finally:
        kernels.usable.cache_clear()


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels do not build")
@pytest.mark.parametrize("arch", [75, 80, 89, 90, 100])
def test_builds_without_spills(arch, monkeypatch, tmp_path):
    builds = kernel_builds(monkeypatch, tmp_path)
    chosen = {"loss forward, 50 classes, bf16", "loss backward, 4096 classes, fp32"}
    found = [builds.build(v, arch) for v in builds.variants() if v.name in chosen]
    assert len(found) == 2
    for row in found:
        assert row["stack"] == row["spills"] == 0 and row["registers"] <= 128 and row["shared"] <= 16384, row
        assert 300 < row["instructions"] < 4000, row


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels do not build")
def test_a_spill_is_seen(monkeypatch, tmp_path):
    builds = kernel_builds(monkeypatch, tmp_path)
    crowded = builds.variants()[1]._replace(constants=dict(ROWS=1, COLUMNS=1024), warps=1)
    row = builds.build(crowded, 90)
    assert row["stack"] > 0 and row["spills"] > 0


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__, 56)


# On a GPU only


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_capture_and_replay_equal_eager(device):
    """Every replay reads the logits, the table and the targets that lie there then."""
    cases = [[v.to(device) for v in batch(128, 50, seed=seed)] for seed in range(4)]
    tables = [loss_table(torch.arange(50.0), ls=0.1 * i, gamma=0.5 * i, tau=1.0).to(device) for i in range(4)]
    static, table = [v.clone() for v in cases[0]], tables[0].clone()
    static[0].requires_grad_()

    def step():
        value = kernel.loss(*static[:4], table)
        return value, torch.autograd.grad(value, static[0], static[4])[0]

    torch.cuda.synchronize()  # another stream does not wait for what is still being made
    with torch.cuda.stream(torch.cuda.Stream()):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for case, other in zip(cases, tables):
        with torch.no_grad():
            for to, new in zip([*static, table], [*case, other]):
                to.copy_(new)
        graph.replay()
        again = [v.clone() for v in captured]
        assert all(torch.equal(x, y) for x, y in zip(again, step()))
        assert not again[0].isnan().any()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_one_launch_each_way(device):
    logits, a, b, lam, upstream = (v.to(device) for v in batch(128, 50, dtype=torch.bfloat16))
    table = loss_table(torch.arange(50.0), ls=0.1, gamma=2.0).to(device)
    logits.requires_grad_()

    def launches(function):
        function()  # compiles
        torch.cuda.synchronize()
        with torch.profiler.profile() as seen:
            function()
            torch.cuda.synchronize()
        return [e.name for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]

    value = kernel.loss(logits, a, b, lam, table)
    assert len(launches(lambda: kernel.loss(logits, a, b, lam, table))) == 1
    assert len(launches(lambda: torch.autograd.grad(value, logits, upstream, retain_graph=True))) == 1
