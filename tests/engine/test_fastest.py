"""The way that a run computes: timed once, cached, forced, and held by resumes, ranks and studies. No time is asserted:
the clock is replaced, or one way is made to do hundredfold work."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import engine.evaluate
import sweep
import train
from config import Config, spelled
from engine import fastest
from engine.build import build_stepper, prepare_pictures
from engine.fastest import Way, decide, time_ways
from errors import LongtailError
from kernels.convolution import Convolution
from model import build_model
from study.table import Study

CPU = torch.device("cpu")
FOUR = [Way(amp, layout, None) for amp in (True, False) for layout in ("channels_last", "contiguous")]


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """A cache of the test's own, and seconds by way in place of the clock's; `clock.asked` says what was timed."""
    found = SimpleNamespace(seconds=dict(zip(FOUR, (3.0, 2.0, 4.0, 1.0))), asked=[])

    def time_ways(model, size, batch, ways):
        found.asked.append((size, batch, list(ways)))
        return {way._replace(products=2): found.seconds[way] for way in ways}

    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setattr(fastest, "time_ways", time_ways)
    return found


@pytest.fixture
def decided(settings):
    """decided(**changes): the Way of a run with these settings."""
    pictures = {}

    def way(device=CPU, held=None, ranks=None, **changes):
        config = Config(**settings | changes)
        size = changes.get("img_size", settings["img_size"])
        if size not in pictures:
            pictures[size] = prepare_pictures(config)
        done = decide(config, pictures[size], device, ranks, held)
        return Way(done.amp, done.layout, done.products)

    return way


def test_the_fastest_way_is_taken_and_timed_once(clock, decided):
    assert decided() == decided() == Way(False, "contiguous", 2)
    assert clock.asked == [(32, 8, FOUR)]
    clock.seconds[FOUR[1]] = 0.5
    assert decided() == Way(False, "contiguous", 2)  # as the cache has it
    for change in (dict(batch_size=4), dict(img_size=40), dict(width=0.25), dict(freeze="body")):
        assert decided(**change) == Way(True, "contiguous", 2), change
    assert len(clock.asked) == 5
    decided(lr=1e-4, dropout=0.0, seed=3, mixup_p=0.5)  # no step of these takes another time
    assert len(clock.asked) == 5


def test_flags_force_and_what_is_forced_alone_is_not_timed(clock, decided):
    assert decided(amp=True) == Way(True, "contiguous", 2)
    assert decided(amp=False) == Way(False, "contiguous", 2)
    assert decided(layout="channels_last") == Way(True, "channels_last", 2)
    assert len(clock.asked) == 3
    for way in FOUR:
        assert decided(amp=way.amp, layout=way.layout, products=0) == way._replace(products=0)
    assert len(clock.asked) == 3
    assert decided(amp=True, layout="contiguous") == Way(True, "contiguous", 2)  # only the products are open
    assert len(clock.asked) == 4


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_is_not_timed(clock, decided, device):
    assert decided(torch.device(device)) == Way(True, "channels_last", 0)
    assert decided(torch.device(device), amp=False, layout="contiguous") == Way(False, "contiguous", 0)
    assert not clock.asked


def test_what_was_decided_holds_and_flags_go_before(clock, decided):
    held = dict(amp=True, layout="channels_last", products=2)
    assert decided(held=held) == Way(True, "channels_last", 2)
    assert decided(held=held, amp=False) == Way(False, "channels_last", 2)
    assert decided(held=held, layout="contiguous") == Way(True, "contiguous", 2)
    assert decided(held=held, products=5) == Way(True, "channels_last", 5)
    assert not clock.asked
    # A study's way that this network cannot have.
    assert decided(held=held, img_size=8, stem="imagenet") == Way(False, "channels_last", 2)


def test_other_ranks_time_nothing_and_take_what_they_are_told(clock, decided):
    told = []

    def tell(value):
        told.append(value)
        return Way(True, "contiguous", 2)

    assert decided(ranks=SimpleNamespace(rank=1, world=2, told=tell)) == Way(True, "contiguous", 2)
    assert told == [None] and not clock.asked
    decided(ranks=SimpleNamespace(rank=0, world=2, told=lambda value: value))
    assert clock.asked == [(32, 4, FOUR)]  # a rank's part of the batch


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"fastest": 3}',
        b'{"fastest": [true, "nchw", 2]}',
        b'{"fastest": [false, "contiguous", -1]}',
        b'{"fastest": [false, "contiguous", null]}',
        b"[" * 10**5,
    ],
)
def test_a_damaged_cache_is_timed_anew(clock, decided, damage, tmp_path):
    way = decided()
    (path,) = (tmp_path / "own-cache" / "fastest").iterdir()
    path.write_bytes(damage)
    assert decided() == way and len(clock.asked) == 2
    assert json.loads(path.read_text())["fastest"] == list(way)
    assert decided() == way and len(clock.asked) == 2


def test_a_cache_that_cannot_be_written_to_only_costs_time(clock, decided, tmp_path):
    (tmp_path / "own-cache").mkdir()
    (tmp_path / "own-cache" / "fastest").write_text("a file where the folder should be")
    assert decided() == decided() == Way(False, "contiguous", 2) and len(clock.asked) == 2


@pytest.mark.parametrize("slow", [True, False])
def test_the_clock_finds_the_slower_precision(monkeypatch, slow):
    """One of them does everything twenty times; both compute in float32, as not every processor has the other."""
    model, calls = build_model("resnet18", 3, width=0.125, stem_kernel=3), Counter()

    def forward(model, x, dtype):
        amp = dtype == torch.bfloat16
        calls[amp] += 1
        for _ in range(20 if amp == slow else 1):
            y = engine.evaluate.forward(model, x.float(), torch.float32)
        return y

    monkeypatch.setattr(fastest, "forward", forward)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = time_ways(model, 40, 4, FOUR)
    assert min(found, key=found.get).amp != slow and all(way.amp != slow for way in found)
    assert calls[slow] <= 5 < calls[not slow]  # what is hopeless is looked at, and never timed
    assert torch.equal(torch.get_rng_state(), before)
    if slow:  # the other layout of a hopeless precision is not even looked at
        assert calls[slow] == 2


@pytest.mark.parametrize("products", [0, 4])
def test_all_four_ways_train_alike(settings, products):
    """Losses of the same first step: in float32 equal to rounding, in bfloat16 to its 8 bits."""
    pictures, losses = prepare_pictures(Config(**settings)), {}
    for way in FOUR:
        config = Config(**settings, amp=way.amp, layout=way.layout, products=products)
        stepper, recipe = build_stepper(config, pictures, CPU)
        weight = stepper.model.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (way.layout == "channels_last")
        assert stepper.dtype == (torch.bfloat16 if way.amp else torch.float32)
        assert (recipe["config"]["amp"], recipe["config"]["layout"]) == way[:2]
        seen = []
        handle = stepper.model.conv1.register_forward_pre_hook(lambda module, x: seen.append(x[0]))
        stepper.begin(train.plans_of(config, pictures)[0](0))
        stepper.train(0)
        handle.remove()
        assert seen[0].is_contiguous() == (way.layout == "contiguous")
        losses[way] = float(stepper.losses[0])
    exact = losses[Way(False, "contiguous", None)]
    for way, loss in losses.items():
        assert loss == pytest.approx(exact, rel=0.05 if way.amp else 1e-4), way


def test_a_run_says_its_way_and_a_resume_keeps_it(clock, settings, capsys):
    train.train(Config(**settings, name="one", until=1))
    folder = Path(settings["project"]) / "one"
    args, env = (json.loads((folder / name).read_text()) for name in ("args.json", "env.json"))
    assert (args["amp"], args["layout"], args["products"]) == (False, "contiguous", 2)
    assert (env["precision"], env["layout"], env["products"]) == ("fp32", "contiguous", 2)
    assert "32 px, fp32 on cpu" in capsys.readouterr().err
    clock.seconds = dict.fromkeys(FOUR, 1.0)
    asked = len(clock.asked)
    for path in folder.parent.parent.joinpath("own-cache", "fastest").iterdir():
        path.unlink()
    with pytest.raises(LongtailError, match="layout contiguous -> channels_last"):
        train.train(Config(**settings, name="one", resume=True, layout="channels_last"))
    with pytest.raises(LongtailError, match="products 2 -> 0"):
        train.train(Config(**settings, name="one", resume=True, products=0))
    with pytest.raises(LongtailError, match="precision fp32 -> bf16"):
        train.train(Config(**settings, name="one", resume=True, amp=True))
    train.train(Config(**settings, name="one", resume=True))
    assert len(clock.asked) == asked
    # A run of an earlier version: it had one layout and no products, and said neither.
    del env["layout"], args["layout"], env["products"], args["products"]
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "args.json").write_text(json.dumps(dict(args, amp=True)))
    began = train.way_of(SimpleNamespace(read_json=lambda name: env))
    assert began == dict(amp=False, layout="channels_last", products=0)


def test_a_study_decides_once_for_all_its_trials(settings, capsys, monkeypatch, tmp_path):
    """Workers are processes of their own, whose clock is the real one."""
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setattr(fastest, "time_ways", lambda model, size, batch, ways: {Way(False, "contiguous", 2): 1.0})
    small = {name: value for name, value in settings.items() if name not in ("data", "project", "epochs")}
    flags = [f"--{name.replace('_', '-')}={spelled(value)}" for name, value in small.items()]
    command = ["--data", settings["data"], "--project", settings["project"], "--epochs", "1", *flags]
    command += ["--name", "study", "--grid", "lr=1e-3,1e-2", "--pack", "1"]
    assert sweep.main(command) == 0
    study = Study(Path(settings["project"]) / "study")
    assert study.spec["way"] == dict(amp=False, layout="contiguous", products=2)
    for i in range(2):
        env = json.loads((study.run(i) / "env.json").read_text())
        assert (env["precision"], env["layout"], env["products"]) == ("fp32", "contiguous", 2)
    best = json.loads((study.folder / "best.json").read_text())  # the recipe repeats what its trial did
    assert (best["amp"], best["layout"], best["products"]) == (False, "contiguous", 2)
    # A study that grows keeps it, whatever would be the fastest now; --amp auto asks for nothing else.
    monkeypatch.setattr(fastest, "time_ways", lambda model, size, batch, ways: {Way(True, "channels_last", 2): 1.0})
    assert sweep.main([*command[:-3], "lr=1e-3,1e-2,2e-2", "--pack", "1"]) == 0
    env = json.loads((study.run(2) / "env.json").read_text())
    assert (env["precision"], env["layout"]) == ("fp32", "contiguous")


def test_part_of_a_batch_flatters_contiguous_maps(monkeypatch):
    """A clock that each step moves on by a second a row: layouts are equal on it."""
    now = [0.0]

    def forward(model, x, dtype):
        now[0] += len(x)
        return engine.evaluate.forward(model, x, dtype)

    monkeypatch.setattr(fastest, "forward", forward)
    monkeypatch.setattr(fastest.time, "thread_time", lambda: now[0])
    model = build_model("resnet18", 3, width=0.125, stem_kernel=3)
    both = [way._replace(products=0) for way in FOUR[2:]]
    assert time_ways(model, 40, fastest.ROWS, both) == {both[0]: 1.0, both[1]: 1.0}
    assert time_ways(model, 40, fastest.ROWS + 1, both) == {both[0]: 1.0, both[1]: fastest.PART}


@pytest.mark.parametrize(
    "costs, best",
    [
        ({2: 1.0, 4: 1.0}, 4),  # products cost nothing: all that are tried
        ({2: 1.0, 4: -0.5}, 2),  # larger maps lose
        ({2: -1.0, 4: 3.0}, 4),  # what is lost on small ones is made good on larger ones
        ({2: -1.0, 4: 0.5}, 0),
    ],
)
def test_products_go_up_to_the_size_that_pays(monkeypatch, costs, best):
    """Seconds that a product saves, by the side of its map, in place of the clock's. At 64 px a quarter-width ResNet-18
    has maps of 2 and 4 pixels a side in its last two stages, and larger ones before."""
    model = build_model("resnet18", 3, width=0.125, stem_kernel=3)
    timed = []

    def seconds(convolution, shape, way):
        side = fastest._side(convolution, shape)
        timed.append((side, convolution.products))
        return 10 - costs.get(side, -5.0) / 4 * bool(convolution.products)

    monkeypatch.setattr(fastest, "_seconds_alone", seconds)
    assert fastest.best_products(model, 64, 8, FOUR[0]) == best
    assert {side for side, _ in timed} == {2, 4, 8} and len(timed) == 2 * 6  # each kind once, both ways


def test_the_clock_finds_products_that_are_slow_or_fast(monkeypatch):
    """One of the two does everything a hundred times."""
    model = build_model("resnet18", 3, width=0.125, stem_kernel=3)
    before = {name: value.clone() for name, value in model.named_parameters()}

    for slow in (True, False):

        def forward(module, x, dtype, slow=slow):
            if isinstance(module, Convolution):
                for _ in range(100 if bool(module.products) == slow else 0):
                    engine.evaluate.forward(module, x, dtype)
            return engine.evaluate.forward(module, x, dtype)

        monkeypatch.setattr(fastest, "forward", forward)
        assert fastest.best_products(model, 64, 8, Way(False, "channels_last", None)) == (0 if slow else 8)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())
