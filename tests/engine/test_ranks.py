"""Two gloo processes train one model: the steps of one process, one folder, and a killed rank that comes back."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from config import Config, flag_of, spelled
from conftest import PLAIN, ROOT
from engine import ranks
from plan import Plan

TIMES = ("seconds", "images_per_s", "data_wait")

STEPS = """
import gc, json, sys
import torch
sys.path.insert(0, sys.argv[1])
import augment
from engine.build import build_stepper, plans_of, prepare_pictures
from config import Config
from engine import evaluate, step
from engine.ranks import Ranks

# In float64: in float32 a tie in a ReLU or a pool may part two ways of computing by a per cent.
torch.set_default_dtype(torch.float64)
step.input_dtype = evaluate.input_dtype = lambda device, dtype: torch.float64
make_input = augment.batch

def batch(*args, **kwargs):
    torch.set_default_dtype(torch.float32)  # as the twin of a kernel has it
    x = make_input(*args, **kwargs)
    torch.set_default_dtype(torch.float64)
    return x

augment.batch = batch
here, config = Ranks(), Config(**json.loads(sys.argv[2]))
torch.set_num_threads(1)
device = here.begin(torch.device("cpu"), config.batch_size)
pictures = prepare_pictures(config)
stepper, recipe = build_stepper(config, pictures, device, here)
for module in stepper.model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        # batch statistics do not enter
        module.train = lambda mode=True, module=module: torch.nn.Module.train(module, False)
draw, evaluation = plans_of(config, pictures)
losses, gradients = [], []
for epoch in range(4):
    stepper.begin(draw(epoch))
    stepper.right = stepper.right.float()  # shares of lambda, which is float32
    for t in range(len(stepper.losses)):
        stepper.train(t)
        gradients.append({k: p.grad.clone() for k, p in stepper.model.named_parameters()})
    losses.append(stepper.losses.clone())
logits = stepper.logits(evaluation[0], len(pictures.val))
if here.rank == 0:
    torch.save(dict(losses=torch.cat(losses), gradients=gradients, logits=torch.from_numpy(logits)), sys.argv[3])
here.end()
# As train.py does: gloo's threads that outlive the interpreter may abort it.
stepper = None
gc.collect()
"""


def torchrun(*command, **env):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*run, *map(str, command)], dict(os.environ, OMP_NUM_THREADS="1", **env)


def test_two_ranks_take_the_steps_of_one_process(settings, tmp_path):
    script, config = (
        tmp_path / "steps.py",
        dict(
            settings,
            amp=False,
            dropout=0.5,
            mixup_p=0.5,
            cutmix_p=0.3,
            opt="sgd",
            lr=1e-3,
            erase=0.3,
            val_split=0.4,
            batch_size=4,
        ),
    )
    script.write_text(STEPS)
    args = [script, ROOT, json.dumps(config)]
    subprocess.run([sys.executable, *map(str, args), tmp_path / "one.pt"], check=True)
    command, env = torchrun(*args, tmp_path / "two.pt")
    subprocess.run(command, env=env, check=True)
    one, two = (torch.load(tmp_path / f"{n}.pt") for n in ("one", "two"))
    assert len(one["losses"]) >= 12
    assert one["losses"].dtype == one["gradients"][0]["fc.weight"].dtype == torch.float64
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-7, atol=1e-9)
    for a, b in zip(one["gradients"], two["gradients"]):
        for k in a:
            assert float((b[k] - a[k]).norm()) <= 1e-6 * float(a[k].norm()) + 1e-12, k
    torch.testing.assert_close(two["logits"], one["logits"], rtol=1e-5, atol=1e-6)
    assert one["losses"].std() > 0.01 and float(one["gradients"][3]["fc.weight"].abs().sum()) > 0


def flags(settings):
    return [
        w
        for k, v in settings.items()
        for w in ([flag_of(k), spelled(v)] if not isinstance(v, bool) else [flag_of(k)] * v)
    ]


def results(folder):
    with open(folder / "results.csv", newline="") as f:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)]


def test_a_killed_rank_comes_back_and_changes_nothing(settings, tmp_path):
    """torchrun starts all ranks again, and they go on from the last checkpoint, here of epoch 4."""
    long = dict(settings, epochs=12, dropout=0.3, ema_epochs=2.0)

    def start(name, *more):
        command, env = torchrun(ROOT / "train.py", *flags(dict(long, name=name)), *more)
        command[3:3] = ["--max-restarts", "2"]
        log = open(tmp_path / f"{name}.log", "a")
        return subprocess.Popen(command, env=env, stderr=log)

    assert start("undisturbed").wait(120) == 0 and start("killed", "--until", "4").wait(120) == 0
    killed, undisturbed = (Path(settings["project"]) / name for name in ("killed", "undisturbed"))
    assert len(results(killed)) == 4
    process = start("killed", "--resume")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(results(killed)) < 6:
        time.sleep(0.01)
    rank = next(p for p in processes() if parent(p) == process.pid)
    os.kill(rank, signal.SIGKILL)
    assert process.wait(120) == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert (killed / "train.log").read_text().count("at epoch 5, step 1") == 2  # by --resume, and by torchrun's restart
    assert results(killed) == results(undisturbed) and len(results(killed)) == 12
    a, b = (torch.load(folder / "best.pt", weights_only=True) for folder in (killed, undisturbed))
    assert all(torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"])
    assert not killed.with_name("killed-2").exists() and json.loads((killed / "env.json").read_text())["ranks"] == 2


def processes():
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal()]


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return None


def test_a_batch_that_cannot_be_shared_is_refused(settings):
    command, env = torchrun(ROOT / "train.py", *flags(dict(settings, batch_size=7)))
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode and "--batch-size 7 over 2 ranks: give a multiple of 2" in done.stderr


def test_every_rank_has_its_columns():
    shared = ("lr", "view_size", "ema_weight", "key")
    plan = Plan(**{name: np.arange(2) if name in shared else np.arange(12).reshape(2, 6) for name in Plan._fields})
    two = [object.__new__(ranks.Ranks) for _ in range(2)]
    for rank, r in enumerate(two):
        r.rank, r.world = rank, 2
    shares = [r.columns(plan) for r in two]
    assert np.array_equal(np.stack([s.index for s in shares], 2).reshape(2, 6), plan.index)
    assert all(np.array_equal(s.lr, plan.lr) and np.array_equal(s.key, plan.key) for s in shares)
    alone = ranks.Ranks()
    assert alone.columns(plan) is plan and alone.any(15) == 15 and alone.any(None) is None and alone.told(3) == 3


def test_one_process_joins_nothing(settings):
    assert ranks.Ranks().begin(torch.device("cpu"), 7) == torch.device("cpu") and not torch.distributed.is_initialized()
    assert Config(**dict(PLAIN, batch_size=7)).batch_size == 7
