"""python plan.py --show: its text and its picture are what the network would see; its errors are one line."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import config
from conftest import ROOT
from engine.build import plans_of, prepare_pictures
from plan import evaluation_plans
from reporting import montage


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("Émile Bernard", 9), ("a painter whose name is far too long for a caption", 5), ("x", 4)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 44, 3), np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path / "set"


def test_the_command_prints_rows_and_draws_them(folder, tmp_path, capsys):
    output = tmp_path / "shown.png"
    flags = [
        "--mixup-p",
        "0.5",
        "--cutmix-p",
        "0.5",
        "--erase",
        "0.5",
        "-b",
        "4",
        "--crop-scale",
        "0.5:1",
        "--jitter",
        "0.2",
        "--show",
        "2",
    ]
    assert montage.main(["--data", str(folder), *flags, "-o", str(output)]) == 0
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if line[:8].strip().isdigit()]
    assert len(rows) == 8 and said.out.count("batch ") == 2 and "Émile Bernard" in said.out
    assert str(output) in said.err and "python train.py" in said.err
    with Image.open(output) as picture:
        assert picture.format == "PNG" and picture.width > 4 * 40 and len(picture.getcolors(10**6)) > 1000


def test_the_command_shows_what_train_would_draw(folder, tmp_path, capsys):
    asked = dataclasses.replace(config.Config(), data=str(folder), batch_size=4, mixup_p=0.5, cutmix_p=0.0, seed=3)
    found = prepare_pictures(asked, folder)
    plan = plans_of(asked, found)[0](0)
    flags = ["--mixup-p", "0.5", "--cutmix-p", "0", "--seed", "3", "-b", "4", "--show", "1"]
    montage.main(["--data", str(folder), *flags, "-o", str(tmp_path / "p.png")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line[:8].strip().isdigit()]
    names = [montage.fitted(name, 24, len) for name in found.listing.classes]
    assert 0 < (plan.lam[0] < 1).sum() < 4
    for b, line in enumerate(rows):
        row, name, partner, lam, _, mirror, *_, file = re.split("  +", line.strip())
        assert file == found.listing.paths[int(row)]
        assert int(row) == plan.index[0, b] and float(lam) == pytest.approx(plan.lam[0, b], abs=5e-4)
        assert name == names[found.listing.labels[int(row)]]
        assert partner == (names[found.listing.labels[plan.partner[0, b]]] if plan.lam[0, b] < 1 else "-")
        assert (mirror == "yes") == (np.linalg.det(plan.geo[0, b, :, :2]) < 0)


def test_the_montage_shows_the_networks_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    plain, mirrored = evaluation_plans(np.arange(3), size=96, store_size=96, shown=96, batch_size=3, views="flip")
    for plan, expected in ((plain, pixels), (mirrored, pixels[:, :, ::-1])):
        sheet = montage.montage(
            plan,
            1,
            torch.from_numpy(pixels),
            ["a"],
            np.zeros(3, int),
            mean=[0.5, 0.4, 0.3],
            std=[0.2, 0.3, 0.4],
            border="reflect",
        )
        found = np.stack([sheet.crop((x, 44, x + 96, 44 + 96)) for x in (18, 142, 266)])  # tiles of 112, 12 apart
        assert (found == expected).all()


def test_a_setting_without_effect_is_told_as_in_training(folder, tmp_path, capsys):
    words = ["--data", str(folder), "-b", "4", "--fold", "3", "--show", "1", "-o", str(tmp_path / "p.png")]
    assert montage.main(words) == 0
    assert "warning: without effect: --fold 3 (it needs --folds)" in capsys.readouterr().err


def test_the_command_shows_no_more_than_there_is(folder, tmp_path, capsys):
    assert montage.main(["--data", str(folder), "-b", "8", "--show", "99", "-o", str(tmp_path / "p.png")]) == 0
    assert capsys.readouterr().out.count("batch ") == 2


@pytest.mark.parametrize(
    "flags, code, word",
    [
        (["--data", "no-such-folder"], 1, "no-such-folder"),
        (["-o", "no-such-folder/p.png"], 1, "no-such-folder"),
        (["--mixup-p", "7"], 2, "--mixup-p"),
        (["-c", "none.json"], 2, "none.json"),
        (["--model", "nope"], 1, "nope"),
        (["--init", "nowhere"], 1, "nowhere"),
        (["--freeze", "nope"], 2, "nope"),
    ],
)
def test_the_commands_errors_are_one_line(folder, capsys, flags, code, word):
    assert montage.main(["--data", str(folder), *flags]) == code
    said = capsys.readouterr()
    assert word in said.err and said.err.count("\n") == 1 and said.err.startswith("plan.py: ")


@pytest.mark.parametrize("flags", [["--shows", "3"], ["--show", "0"], ["--show", "x"]])
def test_the_commands_usage_errors(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        montage.main(flags)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flags, code", [([], 0), (["--mixup-p", "7"], 2)])
def test_it_is_the_command_of_plan_py(folder, tmp_path, flags, code):
    asked = [sys.executable, ROOT / "plan.py", "--data", folder, "-b", "8", "--show", "1", *flags]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.count("batch 1 of") == (code == 0) == (tmp_path / "plan.png").exists()
