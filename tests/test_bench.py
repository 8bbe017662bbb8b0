"""The benches' arithmetic, tables and records, from figures made up; nothing is measured here."""

import importlib
import io
import json
import math
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score

import augment
from model import build_model
from posterior import priors
from posterior.evidence import Evidence
from study.held_out import HeldOut


@pytest.fixture
def bench():
    """bench(name): a module of bench/."""
    return lambda name: importlib.import_module(f"bench.{name}")


def test_floor_is_that_of_the_references(bench):
    """Their totals, 1.814 GMAC and 10.65 GFLOP, are met, their 1.70, 3.31 and 6.53 ms to 1.1%: they leave open whether
    weights are averaged, which is 0.03 ms."""
    floor = bench("floor")
    found = list(floor.convolutions())
    assert len(found) == 20
    assert sum(written * each for _, written, each in found) == pytest.approx(1.814e9, rel=1e-3)
    flops = sum((2 if i == 0 else 3) * 2 * written * each for i, (_, written, each) in enumerate(found))
    assert flops == pytest.approx(10.65e9, rel=1e-3)
    for batch, wanted in ((64, 1.70e-3), (128, 3.31e-3), (256, 6.53e-3)):
        assert floor.seconds(batch, 780e12, 4.3e12) == pytest.approx(wanted, rel=0.011)
    inductor = floor.seconds(128, 780e12, 4.3e12, image_bytes=floor.INDUCTOR_BYTES)
    more = 128 * (floor.INDUCTOR_BYTES - floor.IMAGE_BYTES) / 4.3e12
    assert inductor - floor.seconds(128, 780e12, 4.3e12) == pytest.approx(more)
    bytes_alone = (100 * floor.IMAGE_BYTES + floor.STEP_BYTES) / 1e12
    assert floor.seconds(100, math.inf, 1e12) == pytest.approx(bytes_alone)
    assert all(v > 0 for v in floor.ceilings(torch.device("cpu"), side=32, size=1000))


def size(batch, **changes):
    """A batch of bench/step.py: 16 steps of 4 ms, others' in proportion."""
    step = batch * 4e-3 / 128
    spent = (
        dict(
            model=[16 * step / 1.02] * 3,
            steps=[16 * step] * 3,
            default=[17 * step] * 3,
            study=[8 * 35 * step] * 3,
            best=[32 * 4 * step] * 3,
        )
        | changes
    )
    images = {name: batch * dict(study=8, best=32).get(name, 16) for name in spent}
    return dict(
        batch_size=batch,
        seconds=spent,
        images=images,
        peak=dict.fromkeys(spent, 3e9),
        failed={},
        floor=0.8 * step,
        floor_inductor=0.9 * step,
    )


def records():
    """What a GPU that meets every target would leave."""
    loss = dict(
        rows=128,
        launches=2,
        seconds=dict(ours=[1e-5, 1.1e-5, 0.9e-5], twin=[1e-4] * 3),
        errors=dict(ours=dict(random=[1e-7, 1e-7], confident=[1e-7, 2e-7])),
    )
    view = {
        "ours, 1": [40e-6],
        "ours, 2": [70e-6],
        "twin, 1": [1e-3],
        "twin, 2": [2e-3],
        "ours, the Store in pinned host memory, 1": [45e-6],
        "torchvision, one draw a batch, 2": [80e-6],
    }
    return {
        "tests-kernels": dict(ran=60, failed=0),
        "tests": dict(ran=30, failed=0),
        "view": dict(batch_size=128, img_size=224, seconds=view),
        "step": dict(img_size=224, sizes=[size(b) for b in (128, 32)]),
        "step-more": dict(img_size=224, sizes=[size(b) for b in (64, 256)]),
        "step-32px": dict(img_size=32, sizes=[size(128)]),
        "loss-50-float32": dict(loss, classes=50),
        "loss-50-bfloat16": dict(loss, classes=50),
        "loss-1000-bfloat16": dict(loss, classes=1000),
        "variants": dict(trials=20, compiled_again=dict(graphs=0, kernels=0)),
        "variants-32px": dict(
            model="resnet32",
            img_size=32,
            batch_size=128,
            images=128 * 64,
            seconds={"as it is": [0.1]},
            packed=[dict(batch_size=128, images=128 * 64, seconds={"1": [0.1], "2": [0.13], "4": [0.25]})],
        ),
        "epochs": dict(
            epochs=50,
            pictures=4780,
            img_size=224,
            batch_size=64,
            runs=dict(warm=dict(seconds=31.0), cold=dict(seconds=70.0)),
        ),
    }


def verdicts(rows):
    return {what: verdict for what, _, _, verdict in rows}


def test_targets_met_missed_and_not_measured(bench):
    rows = bench("targets").rows
    good = rows(records())
    assert {row[3] for row in good} == {"met", ""}
    assert [row[0] for row in good if not row[3]] == [
        *(
            f"whole step / {floor}, 224 px, batch {b}"
            for b in (64, 128, 256)
            for floor in ("its floor", "the floor with inductor's bytes")
        ),
        "a run of 50 epochs of 4,780 pictures, compile cache empty: s",
    ]
    assert ["whole step / its model alone, 224 px, batch 64", "<= 1.05", "1.02", "met"] in good
    assert ["whole step / its model alone, 224 px, batch 256", "<= 1.03", "1.02", "met"] in good
    assert ["images/s, 224 px, batch 128 (aim 20,000)", ">= 16,000", "30,118", "met"] in good
    on_an_h100 = rows(records(), "NVIDIA H100 80GB HBM3")
    assert ["images/s, 224 px, batch 128 (aim 17,000)", ">= 13,500", "30,118", "met"] in on_an_h100
    assert ["ResNet-32, 32 px, batch 128: images/s", ">= 60,000", "81,920", "met"] in good
    assert ["of it, 4 graphs side by side", ">= 1.5", "1.6", "met"] in good
    assert ["images/s / those of the study way, 224 px, batch 128", ">= 30", "32.9", "met"] in good
    assert ["images/s / those of the best-practice way, 32 px, batch 128", ">= 3", "3.76", "met"] in good
    assert {row[3] for row in rows({})} == {"not measured"} and {row[2] for row in rows({})} == {""}

    bad = records()
    bad["step-more"]["sizes"][0]["seconds"]["steps"] = [1.0] * 3
    bad["tests"]["failed"] = 1
    bad["view"]["seconds"]["ours, 2"] = [600e-6]
    bad["loss-50-float32"]["errors"] = dict(ours=dict(random=[0, math.nan], confident=[0, 1e-4]))
    bad["loss-50-bfloat16"] = dict(bad["loss-50-bfloat16"], launches=None)
    bad["variants"]["compiled_again"]["graphs"] = 1
    bad["epochs"]["epochs"] = 2  # another run than the target asks
    del bad["step-32px"]
    found = verdicts(rows(bad))
    assert [what for what, verdict in found.items() if verdict == "missed"] == [
        "tests on the GPU that failed",
        "whole step / its model alone, 224 px, batch 64",
        "input kernel, batch 128, 224 px, views 2: us",
        "fastest peer of the same work / input kernel, views 2",
        "loss, 50 classes, float32: gradient error, random rows",
        "loss, 50 classes, float32: gradient error, confident rows",
        "graphs that 20 trials compiled again",
    ]
    assert [what for what, verdict in found.items() if verdict == "not measured"] == [
        *(f"images/s / those of the {way} way, 32 px, batch 128" for way in ("study", "best-practice")),
        "loss, 50 classes, bfloat16: kernels, forward and backward",
        *(f"a run of 50 epochs of 4,780 pictures, compile cache {cache}: s" for cache in ("full", "empty")),
    ]


def test_tables_of_a_gpu(bench):
    """The text that a machine without one never prints."""
    r = dict(
        kind="cuda",
        device="NVIDIA H200",
        cpu="a CPU",
        threads=16,
        load=0.1,
        torch="2",
        pillow="3",
        python="3",
        commit="c",
        img_size=224,
        repeats=3,
        validation=100,
        workers=16,
        kilobytes=86,
        store=1e9,
        native="bf16",
        flops=780e12,
        bandwidth=4.3e12,
        pictures=None,
    )
    said = bench("step_table").table(r, size(128))
    assert "780 TFLOP/s in bf16, 4.30 TB/s" in said and "The floor is 3.20 ms, 40000 images/s" in said
    assert "3.60 ms, 35556" in said
    assert said.count("| met |") == 3 and "1.020 (1.020 to 1.020) of its time | <= 1.03 | met |" in said
    assert "32.941 (32.941 to 32.941) of its images/s | >= 30 | met |" in said
    assert "| missed |" in bench("step_table").table(r, size(128, steps=[1.0] * 3))

    r = dict(
        kind="cuda", batch_size=128, images=1024, seconds={"as it is": [0.032], "fp32": [0.064]}, failed=dict(both="no")
    )
    said = bench("changes").changes_table(r)
    assert "| fp32 | 8.00 (8.00 to 8.00) | 16000 | 2.000 (2.000 to 2.000) |" in said and "| both | no | | |" in said


def test_every_contender_of_the_training_bench_still_trains(tmp_path):
    """The benches reach into the engine, and a name that moved there would be noticed on a lent GPU only."""
    step = importlib.import_module("bench.step")
    names = sorted({*step.USUAL["cpu"], *step.USUAL["cuda"], *step.four.WAYS})
    small = dict(device="cpu", img_size=48, batch_size=2, steps=1, repeats=1, workers=1, files=64, threads=1)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in small.items()]
    ran = subprocess.run(
        [sys.executable, "-m", "bench.step", *flags, "--contenders", *names, "--json", str(tmp_path / "record.json")],
        cwd=step.ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    (size,) = json.loads((tmp_path / "record.json").read_text())["sizes"]
    assert sorted(size["seconds"]) == names and all(len(spent) == 1 for spent in size["seconds"].values())


def test_attempts_stand_side_by_side_on_the_same_folds(pictures, tmp_path, monkeypatch, capsys):
    """Each is trained once; the table's figures are those of the runs' last epochs."""
    (tmp_path / "mild.json").write_text('{"ls": 0, "mixup_p": 0, "epochs": 2}')
    words = ["--data", str(pictures), "--folds", "2", "--img-size", "32", "--width", "0.125", "--threads", "1"]
    words += ["--project", str(tmp_path), "--epochs", "1", "default", str(tmp_path / "mild.json")]
    monkeypatch.setattr(sys, "argv", ["bench.attempts", *words])
    attempts = importlib.import_module("bench.attempts")
    assert attempts.main() == 0
    first = capsys.readouterr().out
    rows = [line.split(" | ") for line in first.splitlines() if line.startswith(("| default", "| mild"))]
    assert [row[1] for row in rows] == ["1", "1"]  # a flag comes before a recipe's epochs
    for name, row in zip(("default", "mild"), rows):
        last = [(tmp_path / f"{name}-{fold}" / "results.csv").read_text().splitlines() for fold in (0, 1)]
        found = [float(dict(zip(lines[0].split(","), lines[-1].split(",")))["acc"]) for lines in last]
        assert float(row[4].split(" ± ")[0]) == pytest.approx(np.mean(found), abs=1e-3)
    monkeypatch.setattr("train.train", None)  # nothing is trained again
    assert attempts.main() == 0 and capsys.readouterr().out == first


def test_recipes_are_compared_picture_by_picture_in_whatever_order():
    """Against scikit-learn, one picture left out at a time."""
    rng = np.random.default_rng(0)
    targets, parts = rng.integers(3, size=60), np.repeat([0, 1], 30)
    counts = np.array([50.0, 20.0, 5.0])
    each, moved = [], []
    for hint in (2.0, 1.0):
        logits = rng.normal(size=(60, 3)) + hint * np.eye(3)[targets] + np.log(counts)
        log_posterior = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        taus = [best_tau(log_posterior, counts, targets, parts != part) for part in (0, 1)]
        moved.append((log_posterior - np.array(taus)[parts, None] * np.log(counts / counts.sum())).argmax(1))
        order = rng.permutation(60)
        names = [f"{i:02d}.jpg" for i in order]
        each.append(Evidence(names, targets[order], log_posterior[order], parts[order], list("abc"), counts, 1))
    (first, change), (last, nothing) = importlib.import_module("bench.attempts").at_tau(each)
    scores = [f1_score(targets, own, average="macro") for own in moved]
    assert (float(first), float(last), nothing) == (round(scores[0], 3), round(scores[1], 3), "")
    left_out = []
    for i in range(60):
        rest = np.arange(60) != i
        left_out.append(np.subtract(*(f1_score(targets[rest], own[rest], average="macro") for own in moved)))
    half = 2 * np.sqrt(59 / 60 * np.var(left_out) * 60)
    assert change == f"{scores[0] - scores[1]:+.3f} ± {half:.3f}"


def best_tau(log_posterior, counts, targets, rows):
    """The tau, of equals the smallest, at which macro F1 of `rows` is highest."""
    answers = {t: (log_posterior - t * np.log(counts / counts.sum())).argmax(1) for t in priors.TAUS}
    return max(answers, key=lambda t: f1_score(targets[rows], answers[t][rows], average="macro"))


def test_the_default_is_told_beside_every_way_and_timm(bench):
    """Ratios are of images/s, round by round; the fastest of the four by the median is what the claim is about."""
    seconds = {"default": [1.0, 2.0, 1.0], "fp32-contiguous": [0.9, 1.8, 0.9], "bf16-contiguous": [2.0, 2.0, 2.0]}
    each = {name: [s / 8 for s in values] for name, values in (seconds | dict(timm=[1.2, 2.4, 1.2])).items()}
    lines = bench("four").compared(dict(img_size=64, files=256, way="fp32-channels_last"), each)
    assert any(line.startswith("| the fastest of 2 ways, fp32-contiguous ") for line in lines)
    assert "| 0.900 (0.900 to 0.900) | >= 0.97 | missed |" in lines[5]
    assert "| 2.000 (1.000 to 2.000) |  |  |" in lines[6]
    assert "| 6.7 (3.3 to 6.7) | 1.200 (1.200 to 1.200) | >= 1.15 | met |" in lines[7]
    assert bench("four").compared({}, dict(default=[1.0], study=[2.0])) == []


FAKE = """
import json, subprocess, sys, time
what, file = sys.argv[1], sys.argv[-1]
print("said by " + what)
json.dump(dict(what=what), open(file, "w"))
if what == "broken":
    sys.exit("it broke")
if what == "slow":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    json.dump(dict(child=child.pid), open(file, "w"))
    time.sleep(60)
"""


def test_a_bench_that_fails_is_recorded_and_the_others_run(bench, monkeypatch, tmp_path, capsys):
    gpu = bench("gpu")
    (tmp_path / "fake.py").write_text(FAKE)
    listed = f"""# a list
    50 | broken | {tmp_path}/fake.py broken |
    3  | slow   | {tmp_path}/fake.py slow   |

    50 | good   | {tmp_path}/fake.py good   | --epochs 1 "two words"
    """
    given = ["bench/gpu.py", "--name", "first", "--device", "cpu", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*given, "--seconds", "100"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    assert gpu.main() == 1
    (path,) = (tmp_path / "out").glob("*.md")
    said = capsys.readouterr().out
    assert said.endswith(f"{path}\n") and path.stem[11:] == "cpu-first"
    assert said.index("== broken: 50 s") < said.index("said by broken") < said.index("== broken: failed: exit 1")
    found = json.loads(path.with_suffix(".json").read_text())["benches"]
    assert {name: bench["status"] for name, bench in found.items()} == {
        "broken": "failed: exit 1",
        "slow": "cut short after 3 s",
        "good": "ok",
    }
    assert "said by broken" in found["broken"]["said"] and "it broke" in found["broken"]["said"]
    assert found["good"]["record"] == dict(what="good")
    assert found["good"]["command"][1:2] == ["good"]  # the flags of a small run are for a small run
    of_its_child = Path(f"/proc/{found['slow']['record']['child']}/cmdline")  # what it wrote until then is kept
    assert not of_its_child.exists() or "sleep(60)" not in of_its_child.read_text()
    text = path.read_text()
    assert "Incomplete: broken failed: exit 1; slow cut short" in text
    assert "said by good" in text and "it broke" in text and "not measured |" in text

    monkeypatch.setattr(sys, "argv", [*given, "--seconds", "5", "--only", "good"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    assert gpu.main() == 0  # what is left out did not fail
    (second,) = (tmp_path / "out").glob("*-2.md")
    assert "good left out: 5 s were left" in second.read_text()


@pytest.mark.parametrize("name, seconds", [("first", 200), ("second", 360)])
def test_the_scripts_list_benches_that_are_there(bench, name, seconds, monkeypatch):
    gpu = bench("gpu")
    script = (gpu.ROOT / "bench" / f"gpu-{name}.sh").read_text()
    assert f'--seconds "${{LIMIT:-{seconds}}}"' in script
    benches = gpu.listed(script.partition("<<'EOF'\n")[2].removesuffix("EOF\n"))
    assert len({b.name for b in benches}) == len(benches) > 3
    for one in benches:
        if "pytest" in one.command:
            files = [word.partition("::")[0] for word in one.command if word.startswith("tests/")]
            assert files and all((gpu.ROOT / file).exists() for file in files)
        else:
            # Only flags that it has, so that no call on a GPU is lost to a typo; --help ends before anything runs.
            assert one.command[0] == "-m"
            monkeypatch.setattr(sys, "argv", [one.command[1], *one.command[2:], *one.small, "--help"])
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(one.command[1]).main()
            assert ended.value.code == 0


def test_every_test_that_needs_a_gpu_is_in_the_first_call(bench):
    root = bench("gpu").ROOT
    marks = re.compile(r"pytest\.mark\.gpu\b|marks=GPU|^@on_device", re.M)
    files = {str(p.relative_to(root)) for p in (root / "tests").rglob("test_*.py") if marks.search(p.read_text())}
    listed = set(re.findall(r"tests/\S+?\.py", (root / "bench" / "gpu-first.sh").read_text()))
    assert files - {"tests/test_bench.py"} == listed


@pytest.mark.parametrize("what", ["configs", "jsons", "flips"])
def test_fuzz_tries_and_counts(bench, what, monkeypatch, capsys):
    """A case of each; nothing fails."""
    monkeypatch.setattr("sys.argv", ["fuzz", what, "--n", "1"])
    monkeypatch.setenv("LONGTAIL_CACHE", "set anew inside")
    assert bench("fuzz").main() == 0
    assert f"1 {what}, seed 0: " in capsys.readouterr().out


def test_damaged_json_differs_and_is_the_same_for_a_seed(bench):
    fuzz = bench("fuzz")
    text = json.dumps(dict(lr=0.1, epochs=3, name="x"), indent=1)
    made = [fuzz.damaged(text, random.Random(i)) for i in range(50)]
    assert all(each != text for each in made) and len(set(made)) > 40
    assert made == [fuzz.damaged(text, random.Random(i)) for i in range(50)]


def test_without_a_gpu_one_line_and_1(bench, monkeypatch, capsys):
    gpu = bench("gpu")
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--name", "first", "--seconds", "9"])
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 1
    assert capsys.readouterr().err == "bench/gpu.py: no CUDA device here\n"


def test_records_are_named_by_day_and_device_and_never_overwritten(bench, tmp_path):
    gpu = bench("gpu")
    names = []
    for end in (".md", ".json", ".md"):
        path = gpu.fresh(tmp_path / "results", "2026-11-21", "NVIDIA H200 141GB (MIG)")
        path.with_suffix(end).touch()
        names.append(path.name)
    assert names == ["2026-11-21-nvidia-h200-141gb-mig" + n for n in ("", "-2", "-3")]


def test_outcomes_are_what_pytest_said_of_each_test_so_far(bench):
    """A run that is cut short has no last line."""
    said = [
        "collecting ... collected 5 items",
        "",
        "tests/test_a.py::test_one[1-cuda] PASSED                       [ 20%]",
        "tests/test_a.py::test_two[a b] FAILED",
        "tests/test_a.py::test_three SKIPPED (needs a CUDA device)",
        "tests/test_a.py::test_four ERROR",
        "tests/test_a.py::test_five ",
    ]
    names = ["tests/test_a.py::test_two[a b]", "tests/test_a.py::test_four"]
    assert bench("gpu").outcomes(said) == dict(ran=3, failed=2, names=names)
    assert bench("gpu").outcomes([])["ran"] == 0


def test_what_fails_or_takes_too_long_is_left_out_and_the_rest_is_told_at_once(bench, capsys, tmp_path):
    rounds, told = bench("rounds"), []

    def late(_):
        while True:
            pass

    contenders = dict(good=lambda k: None, bad=lambda k: 1 / 0, late=late, last=lambda k: None)
    found, notes = rounds.seconds(
        contenders,
        torch.device("cpu"),
        rounds=3,
        calls=1,
        limit=0.2,
        told=lambda name, found, notes: told.append((name, sorted(found))),
    )
    assert {name: len(spent) for name, spent in found.items()} == dict(good=3, last=3)
    assert notes["bad"].startswith("failed: ZeroDivisionError") and notes["late"].endswith("not done in 0.2 s")
    assert told == [("good", ["good"]), ("bad", ["good"]), ("late", ["good"]), ("last", ["good", "last"])]
    assert rounds.tried(lambda: 5) == (5, None)
    capsys.readouterr()
    rounds.tell("said", dict(a=1), tmp_path / "r.json")
    assert capsys.readouterr().out == "said\n" and json.loads((tmp_path / "r.json").read_text()) == dict(a=1)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_pictures_are_painted_once_and_linked(bench, monkeypatch, tmp_path):
    jpegs = bench("jpegs")
    monkeypatch.setattr(jpegs, "PAINTED", tmp_path / "none")
    monkeypatch.setattr(jpegs, "DIFFERENT", 4)
    jpegs.paint(tmp_path / "a", 10)
    files = {int(p.stem): p for p in (tmp_path / "a").rglob("*.jpg")}
    assert sorted(files) == list(range(10)) and len({p.read_bytes() for p in files.values()}) == 4
    assert files[1].read_bytes() == files[5].read_bytes() and files[1].samefile(files[9])
    with Image.open(files[0]) as image:
        assert image.size == jpegs.FILE
    monkeypatch.setattr(jpegs, "PAINTED", tmp_path / "painted")
    jpegs.main()
    (tmp_path / "painted" / "1.jpg").write_bytes(b"carried")
    jpegs.paint(tmp_path / "b", 10)
    again = {int(p.stem): p.read_bytes() for p in (tmp_path / "b").rglob("*.jpg")}
    assert again[1] == again[5] == b"carried" and again[2] == files[2].read_bytes()
    jpegs.paint(tmp_path / "c", 10, tmp_path / "a")
    assert len({p.read_bytes() for p in (tmp_path / "c").rglob("*.jpg")}) == 4


@pytest.mark.parametrize("mirror", [False, True])
def test_the_studys_transforms_are_torchvisions(bench, monkeypatch, torchvision, mirror):
    T, ways = torchvision.transforms, bench("ways")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    wanted = T.Compose(
        [
            T.Resize((37, 37)),
            T.CenterCrop(32),
            T.RandomHorizontalFlip(float(mirror)),
            T.ToTensor(),
            T.Normalize(mean, std),
        ]
    )(image)
    monkeypatch.setattr(ways, "random", types.SimpleNamespace(random=lambda: 0.5 - mirror / 4))
    assert torch.equal(ways.plain(image, 37, 32, *(torch.tensor(v).view(3, 1, 1) for v in (mean, std))), wanted)


def test_crops_of_the_best_practice_way(bench):
    ways = bench("ways")
    ways.random.seed(0)
    flat = Image.new("RGB", (60, 40), (9, 8, 7))
    for image in (flat, Image.new("RGB", (300, 3), (9, 8, 7))):  # in the second no crop fits
        x = ways.cropped(image, 24)
        assert x.shape == (24, 24, 3) and x.dtype == torch.uint8 and (x == torch.tensor([9, 8, 7])).all()


def test_a_fourth_channel_changes_nothing(bench, monkeypatch):
    changes = bench("changes")
    torch.manual_seed(0)
    plain = build_model(classes=5, width=0.125, stem="cifar").eval()
    torch.manual_seed(0)
    wide = build_model(classes=5, width=0.125, stem="cifar").eval()
    changes.altered(wide, {}, changes.BASE | dict(channels=4))
    x, store = torch.rand(2, 3, 16, 16), torch.zeros(1, 16, 16, 4, dtype=torch.uint8)
    monkeypatch.setattr(augment, "plain", lambda pixels, row, **how: x)
    how = dict(border="reflect", dtype=torch.float32, layout=torch.channels_last)
    four = changes.batch(store, None, size=16, mean=torch.zeros(3), std=None, channels=4, **how)
    assert four.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(wide(four), plain(x))
    bare, _ = changes.altered(plain, {}, changes.BASE | dict(norm=False))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in bare.modules())


def test_every_change_of_the_step_trains(bench, monkeypatch, tmp_path):
    """Those that a CPU has: `--trials 0` and no batches side by side leave the rest out."""
    tried = ["fp16", "fp32", "both", "without batch norm, a bound"]
    small = "--img-size 32 --batch-size 2 --steps 1 --repeats 1 --trials 0 --packed --device cpu --threads 1 --json"
    record = tmp_path / "r.json"
    for name in ("LONGTAIL_CACHE", "CUBLAS_WORKSPACE_CONFIG"):  # the bench sets them for its process
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["variants", "--changes", *tried, *small.split(), str(record)])
    assert bench("variants").main() == 0
    timed = json.loads(record.read_text())["seconds"]
    assert timed.keys() == {"as it is", *tried} and all(min(spent) > 0 for spent in timed.values())


def test_each_fault_of_a_csv_is_refused_by_name_or_read_rightly(bench, tmp_path):
    malformed = bench("malformed_csv")
    faults = [*malformed.CELLS, *malformed.TABLES, *malformed.BYTES]
    counts = malformed.trials(len(faults), 5, tmp_path / "set")
    assert set(counts) == {("--labels", "refused"), ("--labels", "read")} and counts.total() == len(faults)


def test_own_level_is_closer_up_to_the_bound_and_half_the_side_beyond(monkeypatch, capsys):
    from bench import levels

    monkeypatch.setattr(levels, "SHRINKS", (1.6, 2.0))
    monkeypatch.setattr(sys, "argv", ["bench/levels.py", "--pictures", "8", "--side", "64"])
    levels.main()
    rows = [line.split("|")[2:4] for line in capsys.readouterr().out.splitlines()[4:]]
    (own, half), (own_at_2, half_at_2) = [[float(cell.split(",")[0]) for cell in row] for row in rows]
    assert own > half + 1 and half_at_2 > own_at_2 + 1


def test_intervals_beside_metrics_own(monkeypatch, capsys):
    """A line a candidate and a share of right answers; the bootstrap's resamples are of the set itself."""
    from bench import coverage

    sizes = np.array([30, 8, 2])
    monkeypatch.setattr(coverage, "SIZES", {"three": sizes})
    monkeypatch.setattr(coverage, "RIGHT", (0.5, 0.98))
    monkeypatch.setattr(sys, "argv", ["bench/coverage.py", "--trials", "40", "--resamples", "20"])
    coverage.main()
    out = capsys.readouterr().out
    assert out.count("| ") > 20 and "nan" not in out
    for name in ("percentile bootstrap", "jackknife ± 1.96", "Wilson", coverage.CHOSEN, "0.5", "0.98"):
        assert f"| {name} |" in out
    for wrong in coverage.WRONG:
        table = coverage.classifier(sizes, 0.9, wrong)
        assert np.allclose(table.sum(1), 1) and (table >= 0).all()
    targets = np.repeat([0, 1, 2], sizes)
    drawn = coverage.resampled(targets, targets, 3, 200, np.random.default_rng(0))
    assert set(np.round(drawn, 9)) == {round(2 / 3, 9), 1.0}  # a resample that misses the class of two


def test_luck_that_all_pictures_share_is_told_from_that_of_single_ones(bench):
    """Scores that are means of independent numbers differ as the jackknife says. With luck of sd 0.3 on all 100
    pictures of unit variance they differ sqrt(1 + 0.3^2 * 100) = 3.16 times as much, unless both points have it."""
    luck = bench("luck")
    rng = np.random.default_rng(0)

    def held_out(values):
        left_out = (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)
        return HeldOut("", 0, {"nll": values.mean(1)}, "nll", left_out)

    plain, other = rng.normal(0, 1, (2, 60, 100))
    lucky = rng.normal(0, 0.3, (60, 1))
    for values, wanted in ((plain, 1.0), (plain + lucky, math.sqrt(10))):
        apart, error = luck.two_seeds(held_out(values))
        assert apart / error == pytest.approx(wanted, rel=0.2)
    apart, error = luck.one_seed_each(held_out(plain + lucky), held_out(other + lucky))
    assert apart / error == pytest.approx(1.0, rel=0.25)


def test_readmes_picture_is_three_charts_of_a_page_side_by_side(bench, tmp_path, monkeypatch, capsys):
    """In their order and at their widths, whatever their order and size in the page; a page without one is refused."""
    made = bench("readme_picture")
    chart, charts = (importlib.import_module(f"reporting.{name}") for name in ("chart", "charts"))
    names = ["coverage", "by_lr", "f1_by_count", "reliability_all"]
    found = []
    for number, name in enumerate(names):
        values = np.linspace(0, 1, 9)
        colour = (chart.RED, chart.PURPLE, chart.BLUE, chart.GREEN)[number]
        groups = dict(all=charts.Group(range(9), colour, "o", ["a point"] * 9))
        found.append(charts.points(name, f"Title of {name}", "", ("x", values), ("y", values), groups))
    monkeypatch.setattr("report.page_of", lambda path, refresh: types.SimpleNamespace(charts=found))
    output = tmp_path / "three.png"
    assert made.main([str(tmp_path), "-o", str(output)]) == 0
    with Image.open(output) as picture:
        whole = np.asarray(picture.convert("RGB")).astype(int)
    assert len(whole) == 2.5 * 192 and abs(whole.shape[1] - 9.4 * 192) < 2
    for colour, left, right in ((chart.BLUE, 0, 576), (chart.GREEN, 576, 1248), (chart.RED, 1248, whole.shape[1])):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        places = np.argwhere((abs(whole - rgb) < 12).all(2))
        assert len(places) > 100 and left < places[:, 1].min() and places[:, 1].max() < right
    del found[2]
    assert made.main([str(tmp_path), "-o", str(output)]) == 1
    assert "its page has no f1_by_count: name a study whose winner is done" in capsys.readouterr().err
