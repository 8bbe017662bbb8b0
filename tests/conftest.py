"""What tests share: the real pictures where they are there, a torchvision that imports beside any build of torch, and
kernels without a GPU."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def shared(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the pictures of ../shared/data/{name}, which are not part of the project")
    return SHARED / name


@pytest.fixture(scope="session")
def painters():
    return shared("painters")


@pytest.fixture(scope="session")
def cifar100lt():
    return shared("cifar100-lt")


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and lose much where other processes compute. For every test again: a
    training sets as many as it is told to."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """No test reads or fills the user's cache, nor sees the user's data. Of the session: what a module's fixture trains
    computes the way that was timed for all."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        monkeypatch.delenv("DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, the schemas of its compiled operators declared first where its build does not match torch's."""
    return import_torchvision()


def import_torchvision():
    """Its Python parts need only the names of its compiled operators, one of which a failing import names at a time."""
    library = import_torchvision.library = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as e:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(e))
            if not missing:
                raise
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library.define(f"{missing[1]}(Tensor x) -> Tensor")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A small folder to train on: three colours of noise, 12 + 8 + 4 pictures of 40 px, and seven for testing with
    ids."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    colours = dict(blue=(40, 60, 200), green=(40, 190, 60), red=(200, 50, 40))

    def paint(path, colour):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, 30, (40, 40, 3)) + colour
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)

    for (name, colour), n in zip(colours.items(), (12, 8, 4)):
        for i in range(n):
            paint(root / "train" / name / f"{i}.png", colour)
    order = ["red", "blue", "green", "blue", "red", "green", "blue"]
    for i, name in enumerate(order):
        paint(root / "test" / f"{i:03d}.png", colours[name])
    (root / "test.csv").write_text("id,file\n" + "".join(f"{i:03d},test/{i:03d}.png\n" for i in range(7)))
    (root / "truth.txt").write_text("\n".join(order))
    return root


# A run that takes a second, with none of the methods that the default settings turn on.
PLAIN = dict(
    width=0.125,
    img_size=32,
    epochs=3,
    batch_size=8,
    threads=1,
    device="cpu",
    lr=3e-3,
    weight_decay=1e-4,
    warmup=0.0,
    ema_epochs=0.0,
    ls=0.0,
    mixup_p=0.0,
    cutmix_p=0.0,
    crop_scale=(1.0, 1.0),
    jitter=0.0,
    tta="none",
)


@pytest.fixture
def settings(pictures, tmp_path):
    """Config arguments of a small run in a folder of the test's own."""
    return dict(PLAIN, data=str(pictures), project=str(tmp_path / "runs"))


@pytest.fixture
def keep_last(monkeypatch):
    """Runs keep their last.pt when they are done, for its state to be compared."""
    monkeypatch.setattr("engine.run.Run.remove", lambda run, name: None)


# Kernels: the same tests run on a GPU and, in a process of their own, under Triton's interpreter.

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = [pytest.mark.gpu, pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")]
on_device = pytest.mark.parametrize("device", ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=GPU)])


def pass_under_the_interpreter(file, least):
    """Runs the `on_device` tests of `file` on the CPU; at least `least` must have passed, and none failed."""
    if INTERPRETED:
        pytest.skip("this is the interpreter")
    env = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cpu", file]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= least, done.stdout


def nudged(values, ulps):
    """float32 `values`, each off by up to `ulps` units in its last place, by a hash of its bits: equal values by as
    much."""
    import numpy as np

    bits = np.ascontiguousarray(values).view(np.uint32)
    mixed = (bits ^ (bits >> 15) ^ NUDGE) * np.uint32(2654435761)
    step = (mixed >> 16) % (2 * ulps + 1)
    moved = (bits + step - np.uint32(ulps)).view(np.float32)
    return np.where(np.isfinite(values) & (np.abs(values) > 2.0**-120), moved, values)


NUDGE = int(os.environ.get("NUDGE", 0))  # another number, another pattern of errors


@pytest.fixture
def rounds_as_a_gpu(monkeypatch):
    """The interpreter's functions with the errors that PTX's documentation allows their counterparts on a GPU:
    ex2.approx and div.full 2 units in the last place, libdevice's logarithms 1. NumPy's are all but exact."""
    if not INTERPRETED:
        return
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def inexact(function, ulps):
        def call(self, *given):
            found = function(*(handle.data for handle in given))
            if found.dtype == np.float32:
                found = nudged(found, ulps)
            return TensorHandle(found, given[0].dtype.scalar)

        return call

    for name, function, ulps in (
        ("create_exp2", np.exp2, 2),
        ("create_fdiv", np.divide, 2),
        ("create_log", np.log, 1),
        ("create_log2", np.log2, 1),
    ):
        monkeypatch.setattr(InterpreterBuilder, name, inexact(function, ulps))


@pytest.fixture
def poisoned(monkeypatch):
    """What new_empty gives is NaN, so that a cell that no kernel wrote is seen."""
    plain = torch.Tensor.new_empty

    def new_empty(self, *args, **kwargs):
        made = plain(self, *args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    assert torch.ones(1).new_empty(2).isnan().all()


def kernel_builds(monkeypatch, cache):
    """The module bench.kernels, building into the folder `cache`."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    return importlib.import_module("bench.kernels")
