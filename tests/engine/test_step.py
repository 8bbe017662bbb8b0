"""A recorded step equals the eager one: graphs on a GPU, and on the CPU a tape that runs a step's operations again.

On the CPU the step goes through the kernels, under Triton's interpreter, as on a GPU: no size in it depends on the
data.
"""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import augment
import kernels
from config import Config
from conftest import GPU, INTERPRETED, on_device, pass_under_the_interpreter
from engine import capture, numerics
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.evaluate import compiled, forward
from engine.step import CHECK_EVERY, NonFinite
from engine.tables import Tables
from kernels.convolution import use_products
from plan import evaluation_plans

pytest.importorskip("triton")

from kernels import loss as loss_kernel
from kernels import view as view_kernel

EVERYTHING = dict(
    mixup_p=0.5,
    cutmix_p=0.3,
    ls=0.1,
    gamma=0.5,
    ema_epochs=2.0,
    dropout=0.3,
    jitter=0.2,
    crop_scale=(0.5, 1.0),
    erase=0.3,
    weight_decay=0.1,
    warmup=2.0,
    amp=False,
)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(kernels, "usable", lambda device: True)
        power = loss_kernel.triton.next_power_of_2
        monkeypatch.setattr(loss_kernel, "tile", lambda rows, classes: (8, power(classes), 4))
        monkeypatch.setattr(view_kernel, "BLOCK", 1024)
        monkeypatch.setattr(view_kernel, "TILES", 1)


class Tape(TorchDispatchMode):
    """What a CUDA graph is, on the CPU: after a warm-up one call notes every operation on tensors, and later calls run
    these again, on the same tensors and with the same numbers, without the Python around them. Looking into a tensor is
    refused."""

    WARM = 1

    def __init__(self, step):
        super().__init__()
        self.step, self.left, self.notes, self.replays = step, self.WARM, None, 0

    def __call__(self):
        if self.left:
            self.left -= 1
            return self.step()
        if self.notes is None:
            self.notes = []
            with self:
                return self.step()
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, noted in self.notes:
                if not function._schema.is_mutable and any(r.alias_info for r in function._schema.returns):
                    continue  # a view stays where it is
                for old, new in zip(tree_leaves(noted), tree_leaves(function(*args, **kwargs))):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("the step looks into a tensor")
        noted = function(*args, **(kwargs or {}))
        self.notes.append((function, args, kwargs or {}, noted))
        return noted


def recorder(device):
    return Tape if device == "cpu" else capture.Captured


def made(settings, device, record=None, **more):
    """A Stepper of a small run, the function epoch -> Plan, and its evaluation plan."""
    config = Config(
        **{
            **settings,
            **EVERYTHING,
            "device": device,
            "compile": False,
            "batch_size": 4,
            "deterministic": device == "cuda",
            **more,
        }
    )
    pictures = prepare_pictures(config)
    stepper = build_stepper(config, pictures, torch.device(device))[0]
    stepper.record = record
    stepper.forget()
    draw, _ = plans_of(config, pictures)
    side = pictures.store.pixels.shape[1]
    plans = evaluation_plans(pictures.val, size=pictures.size, store_size=side, shown=side, batch_size=3)
    return stepper, draw, plans[0]


def everything(stepper):
    """All tensors of a stepper's state, by name."""
    state = stepper.state()
    found = {f"{part} {k}": v for part in ("model", "average") for k, v in state[part].items()}
    found |= {f"optimizer {i} {k}": v for i, held in state["optimizer"]["state"].items() for k, v in held.items()}
    found |= dict(losses=state["losses"], right=state["right"])
    return {k: torch.as_tensor(v).clone() for k, v in found.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for k in one:
        assert torch.equal(one[k], other[k]), k


def run(stepper, draw, evaluation, epochs):
    """Trains; the state and the validation logits after each epoch."""
    found = []
    for epoch in range(epochs):
        plan = draw(epoch)
        stepper.begin(plan)
        for t in range(len(plan.index)):
            stepper.train(t)
        found.append(everything(stepper) | dict(logits=torch.from_numpy(stepper.logits(evaluation, 5))))
    return found


@on_device
@pytest.mark.parametrize("opt, epochs", [("adamw", 2), ("sgd", 1)])
def test_recorded_steps_equal_eager_ones(device, settings, opt, epochs):
    """Five steps an epoch; the learning rate, lambda, boxes, dropout's key and the average's weight change at each."""
    lr = 3e-3 if opt == "adamw" else 1e-2
    eager, recorded = (made(settings, device, record, opt=opt, lr=lr) for record in (None, recorder(device)))
    seen = [eager[1](e) for e in range(epochs)]
    assert len(np.unique([p.lr for p in seen])) == sum(len(p.index) for p in seen) == 5 * epochs
    assert all((p.lam < 1).any() for p in seen)
    for one, other in zip(run(*eager, epochs), run(*recorded, epochs)):
        assert_same(one, other)
    if device == "cpu":
        assert recorded[0].calls[32].replays == sum(len(p.index) for p in seen) - 2
        assert eager[0].calls == {32: eager[0].step}


@on_device
def test_every_size_of_the_views_has_its_own_recording(device, settings):
    """Views grow from 16 px to 32 px over four epochs, the first from the half-size level."""
    pairs = [made(settings, device, record, img_size=(16, 32), epochs=4) for record in (None, recorder(device))]
    assert sorted(pairs[0][0].levels) == [18, 37]
    seen = []
    batch = augment.batch

    def noted(pixels, row, **how):
        seen.append((pixels.shape[1], how["size"]))
        return batch(pixels, row, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "batch", noted)
        eager = run(*pairs[0], 4)
    for one, other in zip(eager, run(*pairs[1], 4)):
        assert_same(one, other)
    assert list(pairs[1][0].calls) == [16, 24, 32]
    assert list(dict.fromkeys(seen)) == [(18, 16), (37, 32), (37, 24)]  # evaluation at the last size, from the start


@on_device
def test_a_table_changed_in_place_is_seen_and_an_exchanged_one_is_caught(device, settings):
    pairs = [made(settings, device, record) for record in (None, recorder(device))]
    for stepper, draw, _ in pairs:
        stepper.begin(draw(0))
        for t in range(3):
            stepper.train(t)
        stepper.table[2] += 0.3
        for t in range(3, len(draw(0).index)):
            stepper.train(t)
    assert_same(*(everything(p[0]) for p in pairs))
    for stepper, _, _ in pairs:
        stepper.table = stepper.table + 0.1  # a new tensor
    with pytest.raises(RuntimeError, match="moved since the step was recorded: table"):
        pairs[1][0].begin(pairs[1][1](1))
    pairs[1][0].places = {}  # without that check, the recorded step goes on with the old table
    for stepper, draw, _ in pairs:
        stepper.begin(draw(1))
        stepper.train(0)
    with pytest.raises(AssertionError):
        assert_same(*(everything(p[0]) for p in pairs))


@on_device
def test_a_number_frozen_by_the_recording_is_caught(device, settings, monkeypatch):
    """A learning rate that is a Python number stays what it was at the recording."""
    pairs = [made(settings, device, record, warmup=3.0) for record in (None, recorder(device))]
    for stepper, draw, _ in pairs:
        take = stepper.optimizer.step

        def step(stepper=stepper, take=take):
            for group in stepper.optimizer.param_groups:
                group["lr"] = float(stepper.rate)
            take()

        stepper.optimizer.step = step
        plan = draw(0)
        stepper.begin(plan)
        for t in range(5):  # the last one after a GPU's capture
            stepper.rate = plan.lr[t]
            stepper.train(t)
    with pytest.raises(AssertionError):
        assert_same(*(everything(p[0]) for p in pairs))


@on_device
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_float16_scales_the_loss(device, settings, opt):
    """Gradients too small for float16 arrive; where the scale is too large, a step is left out and the scale halved; a
    recorded step reads the scale anew; a resume takes it up."""
    pairs = [made(settings, device, record, opt=opt) for record in (None, recorder(device))]
    for stepper, draw, _ in pairs:
        stepper.dtype = torch.float16
        use_products(stepper.model, 32)  # torch's own convolutions in float16 are slow on a CPU
        stepper.scaler = torch.amp.GradScaler(device, init_scale=2.0**22, growth_interval=2)
        before = everything(stepper)["model conv1.weight"]
        plan = draw(0)
        stepper.begin(plan)
        stepper.train(0)
        assert torch.equal(everything(stepper)["model conv1.weight"], before) and stepper.scaler.get_scale() == 2.0**21
        for _ in range(3):
            stepper.begin(plan)
            for t in range(len(plan.index)):
                stepper.train(t)
        assert not torch.equal(everything(stepper)["model conv1.weight"], before)
        assert 1 < stepper.scaler.get_scale() < 2.0**20
    one, other = (p[0] for p in pairs)
    assert_same(everything(one), everything(other))
    assert one.scaler.state_dict() == other.scaler.state_dict()
    again = made(settings, device, opt=opt)[0]
    again.dtype, again.scaler = torch.float16, torch.amp.GradScaler(device)
    again.load(one.state())
    assert again.scaler.state_dict()["scale"] == one.scaler.get_scale()


@on_device
def test_a_look_into_a_tensor_is_refused(device, settings):
    if device == "cuda" and "ALONE" not in os.environ:  # a capture that failed spoils its process
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"{__file__}::test_a_look_into_a_tensor_is_refused",
            ],
            env=dict(os.environ, ALONE="1"),
            check=True,
        )
        return
    stepper, draw, _ = made(settings, device, recorder(device))
    step = stepper.step
    stepper.step = lambda: step() if stepper.lr.item() >= 0 else None
    stepper.forget()
    stepper.begin(draw(0))
    with pytest.raises(RuntimeError):
        for t in range(len(draw(0).index)):
            stepper.train(t)
        stepper.begin(draw(1))
        stepper.train(0)


@on_device
def test_resumes_into_a_recorded_run(device, settings, tmp_path):
    """Saved in the middle of an epoch, loaded by a fresh Stepper that records anew; and two are alive at once."""
    whole, draw, evaluation = made(settings, device, recorder(device))
    expected = run(whole, draw, evaluation, 1)[0]
    first, again = (made(settings, device, recorder(device))[0] for _ in range(2))
    plan = draw(0)
    first.begin(plan)
    first.train(0)
    torch.save(first.state(), tmp_path / "state.pt")
    again.load(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    again.begin(plan, first=1)
    for t in range(1, len(plan.index)):
        again.train(t)
    assert again.calls[32] is not first.calls[32]
    assert_same(everything(again), {k: v for k, v in expected.items() if k != "logits"})


@pytest.mark.skipif(INTERPRETED, reason="not a kernel's")
def test_tables_hold_a_plan(settings):
    draw = made(settings, "cpu")[1]
    first, second = draw(0), draw(1)
    tables = Tables(first, torch.device("cpu"))
    row = tables.row
    for plan, begin in ((first, 0), (second, 1)):
        tables.fill(plan, begin)
        for t in range(begin, len(plan.index)):
            assert tables.take() is row
            for name, column in row._asdict().items():
                table = getattr(plan, name)
                assert column.numpy().dtype == table.dtype and np.array_equal(column.numpy(), table[t]), name
            tables.at.add_(1)


@pytest.mark.skipif(INTERPRETED, reason="not a kernel's")
@pytest.mark.parametrize("fits, hidden", [(True, False), (False, False), (False, True)])
def test_captured_warms_up_captures_and_falls_back(fits, hidden, monkeypatch, capsys):
    """The order of calls, with CUDA played by stand-ins. `hidden`: closing the failed capture raises an error of its
    own."""
    calls = []

    @contextlib.contextmanager
    def graph(made, stream):
        calls.append("capture")
        try:
            yield
        except torch.OutOfMemoryError:
            calls.append("failed")
            if hidden:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904  (as torch does)
            raise
        calls.append("end")

    default, stream = (SimpleNamespace(wait_stream=lambda other: None) for _ in range(2))
    current = stream if fits else default
    for name, stand_in in dict(
        Stream=lambda: stream,
        current_stream=lambda: current,
        default_stream=lambda: default,
        stream=lambda s: contextlib.nullcontext(),
        graph=graph,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: calls.append("replay")),
    ).items():
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def step():
        if not fits and calls[-1:] == ["capture"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        calls.append("step")

    call = capture.Captured(step)
    assert call.stream is stream
    for _ in range(6):
        call()
    said = capsys.readouterr().err
    if fits:
        assert calls == ["step"] * 3 + ["capture", "step", "end"] + ["replay"] * 3 and not said
    else:
        assert calls == ["step"] * 3 + ["capture", "failed"] + ["step"] * 3 and said.count("runs eagerly") == 1
    failing = capture.Captured(lambda: calls.index("nothing"))
    failing.calls = failing.WARM
    with pytest.raises(ValueError):
        failing()


class SlowDevice:
    """A GPU that does a step of its queue only where the host waits for it, and no step more than it must."""

    def __init__(self):
        self.given = self.done = 0
        self.left = []  # steps in the queue at the end of each wait

    def event(self):
        """What torch.cuda.Event is to it."""
        place = []

        def synchronize():
            self.done = max(self.done, place[0])
            self.left.append(self.given - self.done)

        return SimpleNamespace(record=lambda: place.append(self.given), synchronize=synchronize)

    def wait(self):
        self.done = self.given


def queued(stepper, device, monkeypatch, finite=lambda t: True):
    """Makes `stepper` one on `device`: its steps only enter the queue, and are done when the device does them."""
    stepper.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "Event", device.event)

    def step():
        stepper.losses[device.given] = 1.0 if finite(device.given) else torch.nan
        device.given += 1

    stepper.calls = {32: step}
    check = stepper.check
    monkeypatch.setattr(stepper, "check", lambda steps: (device.wait(), check(steps)))


@pytest.mark.skipif(INTERPRETED, reason="not a kernel's")
def test_the_queue_of_a_gpu_never_runs_dry_within_an_epoch(settings, monkeypatch):
    """The host looks at losses on its way, and is never further ahead than a signal can wait for."""
    stepper, draw, _ = made(settings, "cpu", batch_size=2, epochs=100)
    plan = draw(0)
    longer = type(plan)(*(np.concatenate([table] * 40) for table in plan))  # 400 steps
    stepper.begin(longer)
    device = SlowDevice()
    queued(stepper, device, monkeypatch)
    ahead = []
    for t in range(len(longer.index)):
        stepper.train(t)
        ahead.append(device.given - device.done)
    assert len(ahead) == 400 and len(device.left) == 400 // CHECK_EVERY - 1
    assert min(device.left) >= CHECK_EVERY  # where the host waited, so many steps were still to be done
    assert max(ahead) < 2 * CHECK_EVERY
    stepper.check(400)
    assert device.done == 400

    stepper.begin(longer)
    device = SlowDevice()
    queued(stepper, device, monkeypatch, finite=lambda t: t < 120)
    with pytest.raises(NonFinite) as caught:
        for t in range(400):
            stepper.train(t)
    assert caught.value.step == 120 and device.given < 120 + 2 * CHECK_EVERY + 1


@pytest.mark.skipif(INTERPRETED, reason="not a kernel's")
def test_compiled_networks_train_alike_and_recompiling_too_often_is_an_error(settings, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: real(function, backend="aot_eager", **kwargs))
    kept = {k: getattr(torch._dynamo.config, k) for k in ("fail_on_recompile_limit_hit", "recompile_limit")}
    compiled.cache_clear()
    try:
        (eager, draw, evaluation), (traced, _, _) = made(settings, "cpu"), made(settings, "cpu")
        traced.forward = compiled()
        assert traced.forward is compiled() is not forward
        for one, other in zip(run(eager, draw, evaluation, 2), run(traced, draw, evaluation, 2)):
            for k in one:
                torch.testing.assert_close(one[k], other[k], rtol=1e-3, atol=1e-3, msg=k)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for dropout in (0.1, 0.2, 0.4):  # other trials of a process: another network, another value
            traced.forward(
                made(settings, "cpu", dropout=dropout)[0].model.train(), torch.rand(4, 3, 32, 32), torch.float32
            )
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs + 1  # one for the batch's memory layout
        assert torch._dynamo.config.fail_on_recompile_limit_hit
        torch._dynamo.config.recompile_limit = 8
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            for classes in range(2, 40):
                traced.forward(torch.nn.Linear(4, classes), torch.zeros(2, 4), torch.float32)
    finally:
        for k, value in kept.items():
            setattr(torch._dynamo.config, k, value)
        compiled.cache_clear()
        torch._dynamo.reset()


@pytest.mark.skipif(INTERPRETED, reason="not a kernel's")
@pytest.mark.parametrize(
    "device, native, found",
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("mps", True, torch.float32),
    ],
)
def test_precision_is_what_the_hardware_has(device, native, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: native)
    assert numerics.precision(torch.device(device), True) == found
    assert numerics.precision(torch.device(device), False) == torch.float32


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__, 9)


def apart(one, other):
    """The distance of two tensors over the length of the second."""
    one, other = one.double(), other.double()
    return float((one - other).norm() / other.norm())


def assert_every_step_is_alike(fast, plain, epochs=3):
    """Losses and gradients of each step, then the validation logits, with lambda, boxes and smoothing of its own.

    The learning rate is next to nothing, so each step begins with the first weights: rounding has nothing to grow by.
    Where a ReLU or a pool meets a tie, two right ways differ by a per cent of a gradient, so norms are compared.
    """
    for epoch in range(epochs):
        plan = plain[1](epoch)
        for stepper, _, _ in (fast, plain):
            stepper.table[2] += 0.05
            stepper.begin(plan)
        for t in range(len(plan.index)):
            for stepper, _, _ in (fast, plain):
                stepper.train(t)
            assert float(fast[0].losses[t]) == pytest.approx(float(plain[0].losses[t]), rel=1e-3)
            for (name, one), other in zip(fast[0].model.named_parameters(), plain[0].model.parameters()):
                assert apart(one.grad, other.grad) < 0.1, name
        # The statistics of batch norm are the forward pass's, so they are as near as the loss.
        for (name, one), other in zip(fast[0].model.named_buffers(), plain[0].model.buffers()):
            assert not one.is_floating_point() or apart(one, other) < 1e-3, name
        logits = [torch.from_numpy(stepper.logits(evaluation, 5)) for stepper, _, evaluation in (fast, plain)]
        assert apart(*logits) < 1e-3


STILL = dict(opt="sgd", lr=1e-8, weight_decay=0.0)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("more", [dict(img_size=32), dict(img_size=64, stem="imagenet")])
def test_compiled_and_captured_equals_eager(device, settings, more, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # 10 bits of a product would be 1e-3 by themselves
    fast, plain = made(settings, device, capture.Captured, **STILL, **more), made(settings, device, **STILL, **more)
    fast[0].forward = compiled()
    assert_every_step_is_alike(fast, plain)
    assert fast[0].calls[more["img_size"]].graph is not None


@pytest.mark.skipif(INTERPRETED, reason="not a kernel's")
def test_steps_that_are_not_alike_are_told_apart(settings):
    """What the test above compares: alike where nothing differs, and not where a weight or a gradient is off."""
    assert_every_step_is_alike(made(settings, "cpu", **STILL), made(settings, "cpu", **STILL), epochs=1)
    weight, gradient = made(settings, "cpu", **STILL), made(settings, "cpu", **STILL)
    with torch.no_grad():
        weight[0].model.fc.weight.mul_(1.1)
    gradient[0].model.conv1.weight.register_hook(lambda g: 1.2 * g)
    for other in (weight, gradient):
        with pytest.raises(AssertionError):
            assert_every_step_is_alike(other, made(settings, "cpu", **STILL), epochs=1)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_twenty_trials_compile_once(device, settings):
    """What differs between the trials of a study is data to the kernels and to the compiled network."""
    found = []
    for i in range(20):
        stepper, draw, evaluation = made(
            settings,
            device,
            capture.Captured,
            lr=1e-3 * (1 + i),
            weight_decay=0.01 * i,
            dropout=0.02 * (1 + i),
            gamma=0.1 * i,
            ls=0.02 * i,
            mixup_alpha=0.5 + 0.1 * i,
            balance=("none", "weights")[i % 2],
            seed=i,
            amp=True,
        )
        stepper.forward = compiled()
        run(stepper, draw, evaluation, 1)
        kernel_caches = [
            cache[0]
            for kernel in (loss_kernel._forward, loss_kernel._backward, view_kernel._view)
            for cache in kernel.device_caches.values()
        ]
        found.append((torch._dynamo.utils.counters["stats"]["unique_graphs"], sum(map(len, kernel_caches))))
    assert min(found[0]) > 0 and found == found[:1] * 20


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_compiled_and_captured_in_float16(device, settings, opt):
    """As on a GPU without bfloat16: overflows halve the scale inside of the graph until the weights move."""
    # Eight epochs with a learning rate: the scale is halved in the first 26 of their 40 steps.
    plain, fast = (made(settings, device, record, opt=opt, epochs=8) for record in (None, capture.Captured))
    fast[0].forward, fast[0].dtype = compiled(), torch.float16
    fast[0].scaler = torch.amp.GradScaler(device, init_scale=2.0**40)
    found = [run(*one, 8) for one in (plain, fast)]
    assert fast[0].scaler.get_scale() < 2.0**39
    assert float(found[0][0]["losses"][0]) == pytest.approx(float(found[1][0]["losses"][0]), rel=0.02)
    assert found[1][-1]["losses"].isfinite().all()
    assert not torch.equal(found[1][0]["model conv1.weight"], found[1][-1]["model conv1.weight"])
