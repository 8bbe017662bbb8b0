"""Training: one step against plain PyTorch, the run's folder, stopping and resuming bit for bit, refusals."""

import csv
import dataclasses
import gc
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import augment
import losses
import metrics
import predict
import train
from config import Config, flag_of, read_recipe, spelled
from conftest import PLAIN
from engine import step
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.evaluate import logits as logits_of
from engine.stop import StopRequest
from engine.tables import row_of
from errors import ConfigError, LongtailError, Stopped
from files import replacing
from model import build_model
from plan import evaluation_plans, sampled_counts

ROOT = Path(__file__).resolve().parent.parent
FULL = dict(
    mixup_p=0.4, ema_epochs=2.0, dropout=0.3, jitter=0.2, crop_scale=(0.5, 1.0), ls=0.1, erase=0.3, cutmix_p=0.2
)
TIMES = ("seconds", "images_per_s", "data_wait")


def tensors(value, prefix=""):
    """Every leaf of nested dicts and lists, by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix: value}
    return {k: v for name, item in items if name not in TIMES for k, v in tensors(item, f"{prefix}/{name}").items()}


def assert_same_state(a, b):
    a, b = tensors(torch.load(a, weights_only=True)), tensors(torch.load(b, weights_only=True))
    assert a.keys() == b.keys()
    for k in a:
        same = torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] or a[k] != a[k]
        assert same, k


def results(folder):
    with open(folder / "results.csv", newline="") as f:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(f)]


class StopAfter(StopRequest):
    """A stop that is asked for at the n-th look."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    @property
    def number(self):
        self.left -= 1
        return signal.SIGTERM if self.left <= 0 else None

    @number.setter
    def number(self, value):
        pass


def made(settings, **more):
    return Config(**{**settings, **more})


# one step -------------------------------------------------------------------------------------------------------------


def stepper_of(settings, **more):
    config = made(settings, amp=False, **more)
    pictures = prepare_pictures(config)
    return config, pictures, build_stepper(config, pictures, torch.device("cpu"))[0]


@pytest.mark.parametrize("opt, lr", [("adamw", 3e-3), ("sgd", 3e-5)])
def test_steps_equal_a_plain_loop(settings, opt, lr):
    """Ten steps, learning rate changing, mixup and smoothing on, averaged weights: against torch's own pieces in a flat
    loop. It takes up our weights before each step: what rounds otherwise would grow, and AdamW makes a step of up to lr
    of the sign of a gradient that is all but 0. So the median of all weights' steps is compared."""
    config, pictures, ours = stepper_of(
        {**settings, "lr": lr}, opt=opt, mixup_p=0.5, ls=0.1, ema_epochs=2.0, weight_decay=0.1, warmup=1
    )
    draw, _ = plans_of(config, pictures)
    torch.manual_seed(config.seed)
    model = build_model("resnet18", 3, width=0.125, stem="cifar").to(memory_format=torch.channels_last).train()
    mine = {k: v.clone() for k, v in model.state_dict().items()}
    assert all(torch.equal(v, ours.model.state_dict()[k]) for k, v in mine.items())
    decayed = [
        p for n, p in model.named_parameters() if n.endswith("weight") and "bn" not in n and "downsample.1" not in n
    ]
    rest = [p for p in model.parameters() if not any(p is d for d in decayed)]
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=rest, weight_decay=0.0)]
    reference = torch.optim.AdamW(groups) if opt == "adamw" else torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    labels, seen, moved = torch.from_numpy(pictures.listing.labels), 0, 0
    for epoch in range(4):
        plan = draw(epoch)
        ours.begin(plan)
        for t in range(len(plan.index)):
            before = {k: v.clone() for k, v in ours.model.state_dict().items()}
            model.load_state_dict(before)
            ours.train(t)
            after = ours.model.state_dict()
            row = row_of(plan, t, "cpu")
            x = augment.batch(ours.pixels, row, **ours.view)
            target = row.lam[:, None] * F.one_hot(labels[row.index], 3) + (1 - row.lam[:, None]) * F.one_hot(
                labels[row.partner], 3
            )
            for g in reference.param_groups:
                g["lr"] = float(plan.lr[t])
            loss = F.cross_entropy(model(x), target, label_smoothing=0.1)
            reference.zero_grad()
            loss.backward()
            reference.step()
            assert float(ours.losses[t]) == pytest.approx(loss.item(), rel=1e-5)
            for group in groups:  # with decay and without
                names = [n for n, p in model.named_parameters() if any(p is g for g in group["params"])]
                theirs = torch.cat([(model.state_dict()[n] - before[n]).flatten() for n in names])
                off = torch.cat([(after[n] - before[n]).flatten() for n in names]) - theirs
                assert off.abs().median() <= 1e-3 * theirs.abs().median()
                moved += theirs.abs().median().item() > 0
            seen += 1
            keep = min(0.9, (1 + seen) / (10 + seen))
            for k, v in after.items():
                mine[k] = keep * mine[k] + (1 - keep) * v if v.is_floating_point() else v
    assert seen >= 10 and moved >= 16  # both kinds of weights, where the learning rate is not all but 0
    for k, v in ours.average.state_dict().items():
        if v.is_floating_point():
            torch.testing.assert_close(v, mine[k], rtol=1e-4, atol=1e-6)
    assert not torch.equal(ours.average.state_dict()["fc.weight"], ours.model.state_dict()["fc.weight"])


def test_evaluation_is_the_average_in_eval_mode_and_batching_does_not_matter(settings):
    config, pictures, ours = stepper_of(settings, ema_epochs=2.0)
    draw, _ = plans_of(config, pictures)
    ours.begin(draw(0))
    ours.train(0)
    rows = np.arange(24)
    many, few = (
        ours.logits(evaluation_plans(rows, size=32, store_size=37, shown=37, batch_size=b)[0], 24) for b in (24, 7)
    )
    np.testing.assert_allclose(many, few, rtol=0, atol=1e-5)
    assert not ours.average.training
    assert (
        np.abs(
            many
            - logits_of(
                ours.model,
                ours.pixels,
                evaluation_plans(rows, size=32, store_size=37, shown=37, batch_size=24)[0],
                24,
                ours.view,
                dtype=torch.float32,
            )
        ).max()
        > 1e-6
    )


def test_non_finite_loss_names_its_step(settings):
    config, pictures, ours = stepper_of(settings)
    ours.begin(plans_of(config, pictures)[0](0))
    ours.train(0)
    with torch.no_grad():
        ours.model.fc.bias[1] = float("nan")
    with pytest.raises(step.NonFinite) as e:
        ours.train(1)
    assert e.value.step == 1


# the folder -----------------------------------------------------------------------------------------------------------


def test_run_folder_is_whole_and_agrees_with_itself(settings, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.resume.uncommitted", lambda: "")  # else a tree that is being worked on adds code.diff
    config = made(settings, **FULL)
    rows = train.train(config)
    folder = tmp_path / "runs" / "run"
    assert {p.name for p in folder.iterdir()} == {
        ".lock",
        "args.json",
        "env.json",
        "classes.txt",
        "split.csv",
        "stats.json",
        "results.csv",
        "best.pt",
        "val_predictions.csv",
        "val_logits.npy",
        "per_class.csv",
        "confusion_matrix.csv",
        "filters.npy",
        "train.log",
    }
    begun, kept = np.load(folder / "filters.npy")
    weights = torch.load(folder / "best.pt", weights_only=True)["weights"]
    first = next(value for value in weights.values() if value.ndim == 4)
    assert (kept == first.half().numpy()).all() and begun.shape == kept.shape and not (begun == kept).all()
    ran = read_recipe(folder / "args.json")
    assert isinstance(ran.amp, bool) and ran.layout in ("channels_last", "contiguous")  # what was decided
    assert dataclasses.replace(ran, amp="auto", layout="auto", products="auto") == config
    assert (folder / "classes.txt").read_text().split() == ["blue", "green", "red"]
    assert [int(r["epoch"]) for r in results(folder)] == [1, 2, 3] == [r["epoch"] for r in rows]

    with open(folder / "split.csv", newline="") as f:
        split = list(csv.DictReader(f))
    assert len(split) == 24 and sum(r["part"] == "val" for r in split) == round(0.2 * 24)
    with open(folder / "val_predictions.csv", newline="") as f:
        said = list(csv.DictReader(f))
    assert [r["path"] for r in said] == [r["path"] for r in split if r["part"] == "val"]
    assert all(r["path"].split("/")[1] == r["true"] for r in said)
    logits, names = np.load(folder / "val_logits.npy"), ["blue", "green", "red"]
    assert [r["predicted"] for r in said] == [names[i] for i in logits.argmax(1)]
    best = torch.load(folder / "best.pt", weights_only=True)
    targets = np.array([names.index(r["true"]) for r in said])
    assert (
        metrics.macro_f1(targets, logits.argmax(1), 3)
        == best["metrics"]["macro_f1"]
        == max(r["macro_f1"] for r in rows)
    )
    assert best["classes"] == names and best["size"] == 32 and best["shown"] == best["store_size"] == 37
    env = json.loads((folder / "env.json").read_text())
    assert env["threads"] == 1 and env["data_key"] and env["torch"] == torch.__version__


def test_it_learns_three_colours(settings):
    rows = train.train(made(settings, epochs=12))
    assert rows[-1]["acc"] == 1.0 and rows[-1]["nll"] < 0.5


def test_without_validation_the_last_weights_are_kept(settings, tmp_path, keep_last):
    train.train(made(settings, val_split=0, ema_epochs=2.0))
    folder = tmp_path / "runs" / "run"
    best, last = (torch.load(folder / f"{n}.pt", weights_only=True) for n in ("best", "last"))
    assert all(torch.equal(v, last["stepper"]["average"][k]) for k, v in best["weights"].items())
    assert not (folder / "val_logits.npy").exists() and "nll" not in results(folder)[0]


def test_a_taken_name_gets_a_number_and_says_so(settings, tmp_path, capsys):
    for _ in range(3):
        train.train(made(settings, epochs=1))
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["run", "run-2", "run-3"]
    assert "this run is" in capsys.readouterr().err


def test_a_resume_that_finds_no_run_says_that_it_begins_one(settings, tmp_path, capsys):
    flags = ["--data", settings["data"], "--project", settings["project"], "--img-size", "32", "--epochs", "1"]
    said = f"there is no {tmp_path / 'runs' / 'typo'} to resume"
    for times in (1, 0):
        assert train.main([*flags, "--batch-size", "8", "--name", "typo", "--resume"]) == 0
        assert capsys.readouterr().err.count(said) == times


def test_a_folder_in_use_is_refused(settings, tmp_path):
    first = train.trial(made(settings))
    next(first)
    with pytest.raises(LongtailError, match="in use"):
        next(train.trial(made(settings, resume=True)))
    first.close()
    assert len(train.train(made(settings, resume=True))) == 3  # closed before its first checkpoint: from the start


def test_a_batch_of_more_than_all_pictures_is_warned_about(settings):
    train.train(made(settings, batch_size=60, epochs=1))
    log = (Path(settings["project"]) / "run" / "train.log").read_text()
    assert "warning: --batch-size 60: a step shows each of the 19 pictures 3.2 times: give a smaller one" in log


@pytest.mark.parametrize("monitor, column, sign", [("acc", "acc", 1), ("nll", "nll", -1), ("macro_f1", "macro_f1", 1)])
def test_best_is_by_the_monitor(settings, tmp_path, monitor, column, sign):
    rows = train.train(made(settings, monitor=monitor))
    best = torch.load(tmp_path / "runs" / "run" / "best.pt", weights_only=True)
    assert sign * best["metrics"][column] == max(sign * r[column] for r in rows)


@pytest.mark.parametrize(
    "size, given, kernel",
    [(48, "auto", 3), (128, "auto", 3), (160, "auto", 7), (48, 7, 7), (32, "auto", 3), (32, 7, 7)],
)
def test_small_pictures_get_a_small_first_convolution(settings, size, given, kernel):
    _, pictures, stepper = stepper_of(settings, img_size=size, stem_kernel=given)
    assert stepper.model.conv1.kernel_size == (kernel, kernel) and stepper.model.conv1.stride == (
        (1, 1) if size == 32 and kernel == 3 else (2, 2)
    )


def test_a_slow_stem_that_nobody_asked_for_is_said_with_what_is_faster(settings, capsys):
    for changed, said in ((dict(), True), (dict(img_size=40), False), (dict(stem="cifar"), False)):
        train.train(made(settings, until=1, **changed))
        assert ("--img-size 64 is faster, and so is --stem imagenet" in capsys.readouterr().err) == said, changed


def test_the_next_command_has_all_that_it_needs(settings, pictures, tmp_path, capsys):
    """Names with spaces, the device, and where to look for test pictures if the data has none."""
    away = str(tmp_path / "my runs")
    train.train(made(settings, epochs=1, project=away))
    following = capsys.readouterr().err.split("Next: ")[1]
    command = ["python", "predict.py", "--run", f"{away}/run", "--device", "cpu", ">", "submission.csv"]
    assert shlex.split(following) == command
    shutil.copytree(pictures / "train", tmp_path / "no test")
    train.train(made(settings, epochs=1, project=away, name="b", data=str(tmp_path / "no test"), val_split=0))
    following = capsys.readouterr().err.split("Next: ")[1]
    assert shlex.split(following)[2:6] == ["--run", f"{away}/b", "--test", "DIR"]


def test_monitor_last_keeps_the_last_epoch(settings):
    rows = train.train(made(settings, monitor="last"))
    saved = torch.load(Path(settings["project"]) / "run" / "best.pt", weights_only=True)
    assert saved["epoch"] == 3 and saved["metrics"]["macro_f1"] == rows[-1]["macro_f1"]
    with pytest.raises(ConfigError, match="--patience waits"):
        made(settings, monitor="last", patience=2)


@pytest.mark.parametrize("changes", [dict(monitor="last"), dict(val_split=0.0)])
def test_weights_are_copied_once_where_the_last_are_kept(settings, tmp_path, monkeypatch, keep_last, changes):
    """Not at every epoch: on a GPU the host would wait for each copy."""
    monkeypatch.setattr(train.Keeper, "PERIOD", 0.0)  # saved after every epoch
    kept = []
    for _ in train.trial(made(settings, **changes)):
        saved = torch.load(tmp_path / "runs" / "run" / "last.pt", weights_only=True)
        kept.append(saved["best"] and saved["best"]["epoch"])
    assert kept == [None, None, 3]
    weights = torch.load(tmp_path / "runs" / "run" / "best.pt", weights_only=True)["weights"]
    assert all(torch.equal(v, weights[k]) for k, v in saved["stepper"]["model"].items())


def test_a_plan_is_drawn_while_the_epoch_before_it_trains(settings, monkeypatch):
    """However long drawing takes, no step waits for it: here a plan is done only once all steps of the epoch before are
    given."""
    steps_given, drawn = [], []
    plain_train, plain_plans = step.Stepper.train, train.plans_of
    all_given = {epoch: threading.Event() for epoch in range(3)}

    def given(self, t):
        plain_train(self, t)
        steps_given.append(t)
        if t == 2:  # three steps an epoch
            all_given[steps_given.count(2) - 1].set()

    def plans_of(*args):
        draw, evaluation = plain_plans(*args)

        def slow(epoch):
            in_time = epoch == 0 or all_given[epoch - 1].wait(60)
            drawn.append((epoch, in_time))
            return draw(epoch)

        return slow, evaluation

    monkeypatch.setattr(step.Stepper, "train", given)
    monkeypatch.setattr(train, "plans_of", plans_of)
    train.train(made(settings))
    assert steps_given == [0, 1, 2] * 3 and drawn == [(0, True), (1, True), (2, True)]


def test_a_run_that_stops_waits_for_no_plan(settings, monkeypatch):
    """A drawing that fails is the run's failure, at the epoch that it is for; what is no longer needed ends quietly."""
    plain = train.plans_of

    def plans_of(*args):
        draw, evaluation = plain(*args)
        return lambda epoch: draw(epoch) if epoch < 2 else 1 / 0, evaluation

    monkeypatch.setattr(train, "plans_of", plans_of)
    rows = []
    with pytest.raises(ZeroDivisionError):
        for row in train.trial(made(settings)):
            rows.append(row)
    assert len(rows) == 2
    threads = threading.active_count()
    with pytest.raises(Stopped):
        train.train(made(settings, name="stopped"), StopAfter(4))
    assert threading.active_count() == threads


def test_views_may_grow_in_training(settings, tmp_path, keep_last):
    """Four sizes, evaluated at the last; stopped in the third epoch and resumed, it ends with the same bits."""
    grown = made(settings, img_size=(16, 32), epochs=4)
    for row in train.train(grown):
        assert np.isfinite(row["nll"])
    assert torch.load(tmp_path / "runs" / "run" / "best.pt", weights_only=True)["size"] == 32
    other = dataclasses.replace(grown, name="stopped")
    with pytest.raises(Stopped):
        train.train(other, StopAfter(8))
    train.train(dataclasses.replace(other, resume=True))
    folders = [tmp_path / "runs" / name for name in ("run", "stopped")]
    assert_same_state(*(f / "last.pt" for f in folders))
    assert results(folders[0]) == results(folders[1]) and len(results(folders[0])) == 4


def test_deterministic_algorithms_are_asked_for_and_change_nothing_on_a_cpu(settings, tmp_path):
    plain, strict = (made(settings, deterministic=d, name=str(d)) for d in (False, True))
    assert plain.key("") != strict.key("")
    first, second = train.trial(plain), train.trial(strict)
    for _ in range(3):  # in turns, as in a study
        next(first)
        next(second)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    for left in (first, second):
        assert not list(left)
    train.train(dataclasses.replace(plain, name="after"))
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    weights = [
        torch.load(tmp_path / "runs" / n / "best.pt", weights_only=True)["weights"] for n in ("False", "True", "after")
    ]
    for k, v in weights[0].items():
        assert torch.equal(v, weights[1][k]) and torch.equal(v, weights[2][k]), k


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "more",
    [
        dict(compile=False),
        dict(compile=False, img_size=64, stem="imagenet"),  # with the max-pool, whose eager backward is torch's own
        dict(compile=True),
    ],
)
def test_deterministic_gpu_runs_repeat_bit_for_bit_and_resume(settings, tmp_path, keep_last, more):
    asked = made({**settings, **FULL, **more}, device="cuda", deterministic=True)
    for name in ("one", "two"):
        train.train(dataclasses.replace(asked, name=name))
    with pytest.raises(Stopped):
        train.train(dataclasses.replace(asked, name="three"), StopAfter(5))
    train.train(dataclasses.replace(asked, name="three", resume=True))
    for name in ("two", "three"):
        for file in ("last.pt", "best.pt"):
            assert_same_state(tmp_path / "runs" / "one" / file, tmp_path / "runs" / name / file)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more"),
        RuntimeError("[alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 2 GiB\nand more"),
        MemoryError("Unable to allocate 2 GiB"),
        MemoryError(),  # Python's own
    ],
)
def test_a_full_memory_is_one_line(settings, monkeypatch, capsys, error):
    def full(*args):
        raise error

    monkeypatch.setattr(step.Stepper, "train", full)
    assert train.main(["--data", settings["data"], "--project", settings["project"], "--img-size", "32"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("train.py: out of memory") and "--batch-size" in said
    assert ("2 GiB" in said) == bool(str(error)) and "()" not in said


def test_turns_are_within_epochs_and_change_nothing(settings, tmp_path, keep_last):
    """Two trials that take turns after every second step, three steps an epoch, one of them stopped and resumed."""
    train.train(made(settings, **FULL))
    trials = [train.trial(made(settings, **FULL, name=name), turn=2) for name in ("a", "b")]
    seen = list(zip(*trials))
    assert [row and row["epoch"] for row, _ in seen] == [None, 1, None, 2, None, 3]
    for name in ("a", "b"):
        assert_same_state(tmp_path / "runs" / "run" / "last.pt", tmp_path / "runs" / name / "last.pt")


def test_patience_stops_early(settings):
    rows = train.train(made(settings, epochs=50, lr=1e-8, patience=2))
    best = max(range(len(rows)), key=lambda i: rows[i]["macro_f1"])  # the first of equals
    assert len(rows) == best + 3 < 50


def test_patience_waits_for_a_deferred_loss_and_counts_from_there(settings):
    """Nothing is learned at this rate: without the change it would be over after a few epochs."""
    rows = train.train(made(settings, epochs=30, lr=1e-8, patience=2, drw=0.2))
    settled = 6 + losses.SETTLING  # epochs that are done by then
    assert settled + 2 <= len(rows) < 30


def test_posterior_bias_by_bayes():
    """Training on z + bias fits the sampled prior; a uniform or train posterior follows by Bayes' rule."""
    rng = np.random.default_rng(0)
    counts = np.array([50.0, 20.0, 5.0])
    likelihood = rng.random((7, 3))
    for balance, tau in [
        ("none", 0),
        ("none", 1),
        ("none", 0.5),
        ("sampler", 0),
        ("sampler", 1),
        ("weights", 0),
        ("weights", 1),
    ]:
        sampled = sampled_counts(counts, balance, (0, 1))
        table = losses.loss_table(sampled, weights=balance == "weights", tau=tau)
        effective = counts / counts.sum() if balance == "none" else np.full(3, 1 / 3)
        fitted = np.log(likelihood * effective) - table[losses.BIAS].numpy()  # z such that softmax(z + bias) is the fit
        for prior, wanted in (("train", counts), ("uniform", np.ones(3))):
            posterior = metrics.softmax(fitted + losses.posterior_bias(table, sampled, counts, prior))
            expected = likelihood * wanted
            np.testing.assert_allclose(posterior, expected / expected.sum(1, keepdims=True), rtol=1e-5)


# stopping and resuming ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    project = tmp_path_factory.mktemp("undisturbed")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("engine.run.Run.remove", lambda run, name: None)
    train.train(made(PLAIN, **FULL, data=str(pictures), project=str(project)))
    monkeypatch.undo()
    return project / "run"


@pytest.mark.parametrize("looks", [[1], [3], [4], [5], [9], [2, 3, 2]])
def test_stopped_anywhere_and_resumed_it_ends_with_the_same_bits(settings, undisturbed, tmp_path, keep_last, looks):
    for n in looks:
        with pytest.raises(Stopped):
            train.train(made(settings, **FULL, resume=True), StopAfter(n))
    train.train(made(settings, **FULL, resume=True))
    folder = tmp_path / "runs" / "run"
    assert_same_state(folder / "last.pt", undisturbed / "last.pt")
    assert_same_state(folder / "best.pt", undisturbed / "best.pt")
    assert results(folder) == results(undisturbed)
    for name in ("val_logits.npy", "val_predictions.csv", "per_class.csv", "confusion_matrix.csv", "split.csv"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def test_an_until_that_lies_behind_is_refused_where_nothing_is_kept_yet(settings, monkeypatch):
    monkeypatch.setattr(train.Keeper, "PERIOD", 0.0)  # saved after every epoch
    config = Config(**settings | dict(epochs=3, monitor="last"))
    epochs = train.trial(config)
    next(epochs), next(epochs)
    epochs.close()
    behind = dataclasses.replace(config, resume=True, until=1)
    with pytest.raises(LongtailError, match="2 epochs already: give a later --until, or none"):
        train.train(behind)


def test_until_leaves_the_schedule_alone(settings, undisturbed, tmp_path):
    train.train(made(settings, **FULL, until=2))
    train.train(made(settings, **FULL, resume=True))
    assert results(tmp_path / "runs" / "run") == results(undisturbed)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(lr=0.5), "--lr 0.003 -> 0.5"),
        (dict(threads=2), "threads 1 -> 2"),
        (dict(img_size=40), "--img-size 32 -> 40"),
    ],
)
def test_resuming_with_other_settings_is_refused_by_name(settings, tmp_path, change, said):
    train.train(made(settings, until=1))
    before = (tmp_path / "runs" / "run" / "last.pt").read_bytes()
    with pytest.raises(LongtailError, match=said):
        train.train(made(settings, **change, resume=True))
    assert (tmp_path / "runs" / "run" / "last.pt").read_bytes() == before


def test_a_damaged_checkpoint_is_named(settings, tmp_path):
    train.train(made(settings, until=1))
    path = tmp_path / "runs" / "run" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LongtailError, match="last.pt cannot be read"):
        train.train(made(settings, resume=True))


def command(settings, **more):
    flags = [x for k, v in {**settings, **more}.items() for x in (flag_of(k), spelled(v))]
    return [sys.executable, str(ROOT / "train.py"), *flags]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals(settings, undisturbed, tmp_path, number, code):
    """A signal in the middle of training: saved (or, for SIGKILL, as last saved), and resumed to the same bits."""
    line = command(settings, **FULL) + ["--resume"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONUNBUFFERED="1"))
    for said in process.stderr:
        if said.startswith("epoch   1"):
            break
    process.send_signal(number)
    process.stderr.read()
    assert process.wait(60) == code or process.returncode == 0  # 0: it was through before the signal came
    assert subprocess.run(line, capture_output=True).returncode == 0
    folder = tmp_path / "runs" / "run"
    assert_same_state(folder / "best.pt", undisturbed / "best.pt")
    assert results(folder) == results(undisturbed) and not (folder / "last.pt").exists()


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(settings, tmp_path):
    """A limit on file sizes stands in for the disk: the checkpoint of a wider net no longer fits."""
    settings |= dict(width=0.5)
    assert subprocess.run(command(settings, until=1), capture_output=True).returncode == 0
    folder = tmp_path / "runs" / "run"
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "results.csv" and p.name != "train.log"}
    limit = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)); import train; "
        f"sys.exit(train.main({command(settings)[2:] + ['--resume']!r}))"
    )
    done = subprocess.run([sys.executable, "-c", limit], capture_output=True, text=True, cwd=ROOT)
    assert (
        done.returncode == 1
        and "could not be written" in done.stderr.splitlines()[-1]
        and "Traceback" not in done.stderr
    )
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "results.csv" and p.name != "train.log"}
    assert after == before
    assert subprocess.run(command(settings) + ["--resume"], capture_output=True).returncode == 0
    assert len(results(folder)) == 3


# the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, code, said",
    [
        (["--lr", "-1"], 2, "--lr takes a number from"),
        (["--data", "/nowhere"], 1, "/nowhere: no such folder"),
        (["--device", "cuda"], 2, "--device cuda"),
        (["--model", "resnet19"], 1, "resnet19"),
        (["-c", "/nowhere.json"], 2, "/nowhere.json"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(settings, args, code, said, capsys):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    flags = command(settings)[2:]
    try:
        got = train.main(flags + args)
    except SystemExit as e:
        got = e.code
    err = capsys.readouterr().err
    assert got == code and said in err and err.startswith("train.py: ") and err.count("\n") == 1


def test_a_diverging_run_says_where_and_what_to_try(settings, capsys):
    assert train.main(command({**settings, "lr": 100, "opt": "sgd", "schedule": "constant", "epochs": 30})[2:]) == 1
    assert "is not finite at epoch" in capsys.readouterr().err


def test_bad_pictures_are_refused_and_with_skip_bad_listed(settings, pictures, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(pictures, root)
    (root / "train" / "red" / "torn.png").write_bytes((root / "train" / "red" / "0.png").read_bytes()[:500])
    settings["data"] = str(root)
    assert train.main(command(settings)[2:]) == 1
    said = capsys.readouterr().err
    assert "torn.png" in said and "--skip-bad" in said and not (tmp_path / "runs").exists()
    assert train.main(command(settings)[2:] + ["--skip-bad"]) == 0
    folder = tmp_path / "runs" / "run"
    assert "train/red/torn.png,red,bad" in (folder / "split.csv").read_text()
    assert "torn.png" in (folder / "train.log").read_text()


def test_bad_and_passed_over_files_are_ten_lines_and_a_count(settings, pictures, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(pictures, root)
    for i in range(13):
        (root / "train" / "blue" / f"torn{i}.png").write_bytes(b"no picture")
        (root / "train" / "blue" / f".notes{i}.txt").write_text("no picture")
        (root / "test" / f"torn{i}.png").write_bytes(b"no picture")
    (root / "test.csv").unlink()
    settings["data"] = str(root)
    assert train.main(command(settings, epochs=1)[2:] + ["--skip-bad"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert sum("bad picture left out: " in line for line in said) == 10
    assert sum("passed over: " in line for line in said) == 10
    assert sum("... and 3 more of this kind" in line for line in said) == 2
    assert (tmp_path / "runs" / "run" / "split.csv").read_text().count(",bad\n") == 13
    assert predict.main(["--run", str(tmp_path / "runs" / "run")]) == 0
    out, err = capsys.readouterr()
    assert err.count("its row is the class prior's answer") == 10 and "... and 3 more" in err
    assert out.count("\n") == 1 + 7 + 13


def test_a_statistic_that_is_not_finite_is_never_saved(settings, monkeypatch, capsys):
    """Without validation pictures no score tells."""
    plain = step.Stepper.train

    def spoilt(stepper, t):
        plain(stepper, t)
        stepper.model.bn1.running_var[0] = float("inf")

    monkeypatch.setattr(step.Stepper, "train", spoilt)
    assert train.main(command(settings, val_split=0.0)[2:]) == 1
    assert "not finite" in capsys.readouterr().err
    assert not (Path(settings["project"]) / "run" / "best.pt").exists()


def test_a_finished_trial_leaves_nothing_in_memory(settings, monkeypatch):
    """Two hundred trainings in one process need the memory of one."""
    alive, build = [], build_stepper

    def noted(*args):
        made = build(*args)
        alive.append(weakref.ref(made[0]))
        return made

    monkeypatch.setattr(train, "build_stepper", noted)
    gc.disable()
    try:
        for name in ("a", "b"):
            train.train(made(settings, epochs=1, name=name))
            assert [step() for step in alive] == [None] * len(alive)
        abandoned = train.trial(made(settings, name="c"))
        next(abandoned)
        abandoned.close()
        assert alive[-1]() is None
    finally:
        gc.enable()


def test_classes_without_a_validation_picture_are_said_and_left_out(settings, pictures, tmp_path, capsys):
    """A class of one picture stays in training; macro F1 is over the other three."""
    root = tmp_path / "lone"
    shutil.copytree(pictures, root)
    (root / "train" / "grey").mkdir()
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)  # like no other picture
    Image.fromarray(noise).save(root / "train" / "grey" / "only.png")
    train.train(made(settings, data=str(root), epochs=1))
    said = capsys.readouterr().err
    assert "no validation picture of 1 class, unscored: grey" in said
    assert "(1 of 4 classes have no validation picture)" in said
