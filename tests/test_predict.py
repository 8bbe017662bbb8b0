"""predict.py as a user runs it: ids, order, header, ensembles, bad pictures, what is on stdout."""

import csv
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import predict
import train
from config import Config
from conftest import PLAIN
from errors import LongtailError
from posterior import calibration
from samples import answered
from study import ranking
from study.begin import begin_study
from study.best import write_best
from study.chosen import choose

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project(pictures, tmp_path_factory):
    """Two runs that know the three colours; 28 of 32 px, so that the centre crop is in the middle of the mirror image
    too."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train.train(
            Config(
                **dict(
                    PLAIN, img_size=28, epochs=12, data=str(pictures), project=str(folder), name=f"s{seed}", seed=seed
                )
            )
        )
    return folder


def predicted(capsys, *args):
    code = predict.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, list(csv.reader(io.StringIO(out))), err


def test_ids_and_labels(project, pictures, capsys):
    code, rows, err = predicted(capsys, "--project", project)
    assert code == 0 and rows[0] == ["id", "label"] and [r[0] for r in rows[1:]] == [f"{i:03d}" for i in range(7)]
    assert [r[1] for r in rows[1:]] == (pictures / "truth.txt").read_text().split()
    assert "s1" in err  # the newest run, said


def test_the_newest_run_is_taken(project):
    os.utime(project / "s0" / "best.pt", (time.time() + 9, time.time() + 9))
    assert choose(project)[0] == [project / "s0"]
    os.utime(project / "s0" / "best.pt", (1, 1))
    assert choose(project)[0] == [project / "s1"]


def study_of(folder, pictures, trials, scores, **base):
    """A study whose rows are written by hand; no trial was trained."""
    made = begin_study(folder, Config(**dict(PLAIN, img_size=28, data=str(pictures), monitor="last", **base)), trials)
    for i, score in enumerate(scores):
        row = dict(
            trial=i,
            until=3,
            status="ok",
            epoch=3,
            fold=0,
            seed=made.config(i).seed,
        )
        if score is not None:
            row |= dict(macro_f1=score, acc=0.5, nll=1.0, ece=0.1, macro_f1_se=0.01, val_pictures=5)
            answered(made.run(i), score)
        (folder / "rows" / f"{i:04d}-3.json").write_text(json.dumps(row))
    return made


def test_a_winners_runs_come_before_the_newest_run_and_a_finished_final_before_those(project, pictures, tmp_path):
    shutil.copytree(project / "s0", tmp_path / "later")
    study = study_of(tmp_path / "grid", pictures, [{}, {"ls": 0.1}, {"ls": 0.2}], [0.5, 0.9, 0.6])
    assert choose(tmp_path)[0] == [tmp_path / "later"]  # without best.json the study has not ended
    write_best(study, ranking.choose(ranking.candidates(study)).candidate, tmp_path / "grid" / "best.json")
    assert choose(tmp_path)[0] == [tmp_path / "grid" / "trials" / "0001"]
    study_of(tmp_path / "final", pictures, [{}, {"seed": 1}], [None], val_split=0.0)
    assert choose(tmp_path)[0] == [tmp_path / "grid" / "trials" / "0001"]  # the final's second run is missing
    study_of(tmp_path / "final", pictures, [{}, {"seed": 1}], [None, None], val_split=0.0)
    folders, said = choose(tmp_path)
    assert (
        folders == [tmp_path / "final" / "trials" / name for name in ("0000", "0001")]
        and "2 runs of the finished study" in said
        and f"(not of {tmp_path / 'grid' / 'best.json'}, whose" in said
    )
    shutil.rmtree(tmp_path / "final")
    study_of(tmp_path / "final", pictures, [{}, {"seed": 1}], [None, None], val_split=0.0, ls=0.1)
    assert "not of" not in choose(tmp_path)[1]  # these are the winner's settings


def test_while_a_study_grows_the_winner_that_was_written_last_is_taken(project, pictures, tmp_path):
    """New candidates are half done, or are done and better: the study's own end decides which is best."""
    study = study_of(tmp_path / "grid", pictures, [{}, {"ls": 0.1}], [0.5, 0.6])
    write_best(study, ranking.choose(ranking.candidates(study)).candidate, tmp_path / "grid" / "best.json")
    study_of(tmp_path / "grid", pictures, [{"ls": 0.2}, {"ls": 0.1, "seed": 1}], [])
    assert choose(tmp_path) == ([study.run(1)], f"the 1 run of {tmp_path / 'grid' / 'best.json'}")
    study_of(tmp_path / "grid", pictures, [{}], [0.5, 0.6, 0.9])
    assert choose(tmp_path)[0] == [study.run(1)]
    study_of(tmp_path / "grid", pictures, [{}], [0.5, 0.6, 0.9, 0.1])
    assert choose(tmp_path)[0] == [study.run(1), study.run(3)]  # both are of the winner
    (tmp_path / "grid" / "best.json").write_text('{"ls": 0.5}')
    with pytest.raises(LongtailError, match="no finished trial of .*grid has these settings"):
        choose(tmp_path)


def test_a_sample_keeps_header_order_and_ids(project, pictures, tmp_path, capsys):
    sample = tmp_path / "sample.csv"
    sample.write_text("Id,Artist\n006,x\n000,x\n002,x\n")
    code, rows, err = predicted(capsys, "--project", project, "--sample-submission", sample)
    truth = (pictures / "truth.txt").read_text().split()
    assert code == 0 and rows == [["Id", "Artist"], *[[f"{i:03d}", truth[i]] for i in (6, 0, 2)]]
    assert "answering 3 of 7 test pictures" in err and "'006', is test/006.png" in err


def test_a_sample_beside_the_data_is_found(project, pictures, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    (root / "sample_submission.csv").write_text("key,painter\n" + "".join(f"{i:03d},x\n" for i in reversed(range(7))))
    _, rows, _ = predicted(capsys, "--project", project, "--data", root)
    assert rows[0] == ["key", "painter"] and rows[1][0] == "006"


@pytest.mark.parametrize(
    "text, said",
    [
        ("id,label\n009,x\n", "line 2 '009'"),
        ("id,label\n001,x\n001,x\n", "line 3: '001' is test/001.png, as is line 2"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(project, tmp_path, capsys, text, said):
    (tmp_path / "s.csv").write_text(text)
    code, rows, err = predicted(capsys, "--project", project, "--sample-submission", tmp_path / "s.csv")
    assert code == 1 and not rows and said in err


def test_a_sample_with_a_column_a_class_gets_probabilities_in_its_order(project, tmp_path, capsys):
    sample = tmp_path / "s.csv"
    sample.write_text("picture,red,blue,green\ntest/6.png,0,0,0\n2,0,0,0\n")
    p = probs(capsys, "--project", project)
    code, rows, _ = predicted(capsys, "--project", project, "--sample-submission", sample)
    assert code == 0 and rows[0] == ["picture", "red", "blue", "green"]
    assert [row[0] for row in rows[1:]] == ["test/6.png", "2"]
    assert np.array_equal(np.array([row[1:] for row in rows[1:]], float), p[[6, 2]][:, [2, 0, 1]])


@pytest.fixture
def with_sets(project, tmp_path):
    """The run s0 with a calibration.json by hand: log p - log prior from -3 on; (its folder, what is in the file)."""
    folder = tmp_path / "s0"
    shutil.copytree(project / "s0", folder)
    classes = ["blue", "green", "red"]
    settings = json.loads((folder / "args.json").read_text())
    temperature = dict(kind="temperature", by_top=[0.5] * 3, slope=[1.0] * 3, bias=[0.0] * 3)
    saved = dict(recipe=calibration.owner(settings), classes=classes, runs=["."], members=1, pictures=5)
    saved |= dict(scaling=temperature, sets=dict(log_ratio=-3.0))
    (folder / "calibration.json").write_text(json.dumps(saved))
    return folder, saved


@pytest.mark.parametrize("prior", ["train", "uniform"])
def test_sets_of_classes(with_sets, capsys, prior):
    """The classes that reach the threshold before the scaling, and the answer; the likeliest first by the prior."""
    folder, saved = with_sets
    plain = probs(capsys, "--run", folder, "--no-calibration")
    with open(folder / "per_class.csv", newline="") as f:
        counts = np.array([float(row["train"]) for row in csv.DictReader(f)])
    ratios = np.log(plain / (counts / counts.sum()))
    saved["sets"]["log_ratio"] = float(np.sort(ratios.ravel())[9:11].mean())  # 11 of 21 reach it
    (folder / "calibration.json").write_text(json.dumps(saved))
    likely_first = np.argsort(-probs(capsys, "--run", folder, "--prior", prior), axis=1)
    code, rows, err = predicted(capsys, "--run", folder, "--sets", "--prior", prior)
    assert code == 0 and rows[0] == ["id", "label"] and len(rows) == 8
    for (_, label), order, ratio in zip(rows[1:], likely_first, ratios):
        wanted = [c for c in order if ratio[c] >= saved["sets"]["log_ratio"] or c == order[0]]
        assert label == "|".join(saved["classes"][c] for c in wanted)
    said = next(line for line in err.splitlines() if line.startswith("sets of"))
    assert "which hold the right one for 90% of pictures like the 5 of" in said and "carried over" not in said
    assert ("no prior moves a set" in said) == (prior == "uniform")


def test_a_picture_that_cannot_be_read_may_be_of_any_class(with_sets, pictures, capsys, tmp_path):
    shutil.copytree(pictures / "test", tmp_path / "test")
    folder, saved = with_sets
    saved["sets"]["log_ratio"] = 50.0  # nothing reaches it: a set is the answer alone
    (folder / "calibration.json").write_text(json.dumps(saved))
    (tmp_path / "test" / "003.png").write_text("no picture")
    code, rows, err = predicted(capsys, "--run", folder, "--sets", "--test", tmp_path / "test")
    assert code == 0 and sorted(rows[4][1].split("|")) == ["blue", "green", "red"]
    assert "sets of 1.0 classes on average" in err  # of the others
    assert "003.png" in err and "its row has every class" in err


def test_sets_that_cannot_be_are_refused_before_the_work(with_sets, project, capsys, tmp_path):
    folder, saved = with_sets
    sample = tmp_path / "sample.csv"
    sample.write_text("picture,red,blue,green\n2,0,0,0\n")
    for args, code, said in (
        (("--run", folder, "--probs"), 2, "--sets and --probs: give one of them"),
        (("--run", folder, "--no-calibration"), 2, "--sets and --no-calibration: the threshold"),
        (("--run", project / "s0"), 1, "no calibration belongs to these runs: calibrate.py makes one"),
        (("--run", folder, "--sample-submission", sample), 2, "asks for a number for each class"),
    ):
        got, rows, err = predicted(capsys, "--sets", *args)
        assert got == code and not rows and said in err.splitlines()[-1]
    saved["sets"] = None  # of few pictures
    (folder / "calibration.json").write_text(json.dumps(saved))
    code, _, err = predicted(capsys, "--sets", "--run", folder)
    assert code == 1 and "s0/calibration.json has no threshold: 5 held-out pictures were too few, or an older" in err


def test_no_class_name_may_hold_what_joins_the_classes_of_a_set():
    adjustment = SimpleNamespace(calibration=SimpleNamespace(least=0.0))
    with pytest.raises(LongtailError, match=r"joins classes by \|, but a class is called 'a\|b': rename it"):
        predict._check_sets(SimpleNamespace(probs=False, calibration=True), adjustment, ["a", "a|b"])


def test_one_picture(project, pictures, tmp_path, capsys):
    """The data that the run was trained on may be gone; its sample is of other pictures."""
    file = shutil.copy(pictures / "test" / "004.png", tmp_path / "mine.PNG")
    for extra in ((), ("--data", tmp_path / "gone")):
        code, rows, _ = predicted(capsys, "--project", project, "--test", file, *extra)
        assert code == 0 and rows == [["id", "label"], ["mine", "red"]]
    code, rows, err = predicted(capsys, "--project", project, "--test", tmp_path / "none.png")
    assert code == 1 and not rows and "none.png: No such file" in err


def probs(capsys, *args):
    code, rows, _ = predicted(capsys, "--probs", *args)
    assert code == 0 and rows[0] == ["id", "blue", "green", "red"]
    return np.array([r[1:] for r in rows[1:]], float)


def test_probabilities_ensemble_and_tta(project, capsys):
    a, b = (probs(capsys, "--run", project / n) for n in ("s0", "s1"))
    np.testing.assert_allclose(a.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(probs(capsys, "--run", project / "s0", project / "s1"), (a + b) / 2, atol=1e-5)
    assert not np.allclose(a, b, atol=1e-3)
    assert np.array_equal(probs(capsys, "--run", project / "s0", "--tta", "auto"), a)
    flipped = probs(capsys, "--run", project / "s0", "--tta", "flip")
    crops = probs(capsys, "--run", project / "s0", "--tta", "crops")
    assert np.abs(flipped - a).max() > 1e-6 and np.abs(crops - flipped).max() > 1e-6
    np.testing.assert_allclose(crops.sum(1), 1, atol=1e-5)


def test_tta_flip_is_the_mean_of_the_picture_and_its_mirror_image(project, pictures, tmp_path, capsys):
    from PIL import Image, ImageOps

    (tmp_path / "m").mkdir()
    for path in sorted((pictures / "test").glob("*.png")):
        ImageOps.mirror(Image.open(path)).save(tmp_path / "m" / path.name)
    a = probs(capsys, "--run", project / "s0")
    b = probs(capsys, "--run", project / "s0", "--test", tmp_path / "m")
    np.testing.assert_allclose(probs(capsys, "--run", project / "s0", "--tta", "flip"), (a + b) / 2, atol=0.02)  # bf16


def test_a_bad_picture_keeps_its_row(project, pictures, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    (root / "test" / "003.png").write_bytes(b"not a picture")
    code, rows, err = predicted(capsys, "--project", project, "--data", root, "--probs")
    assert code == 0 and len(rows) == 8 and "003.png" in err and "warning" in err
    prior = np.array([10, 6, 3]) / 19  # what is left of 12, 8 and 4 to train on after 20% for validation
    np.testing.assert_allclose(np.array(rows[4][1:], float), prior, atol=0.06)


def test_output_file_is_all_or_nothing(project, tmp_path, capsys):
    out = tmp_path / "s.csv"
    code, rows, _ = predicted(capsys, "--project", project, "-o", out)
    assert code == 0 and not rows and out.read_text().startswith("id,label\n000,")
    (tmp_path / "loop").symlink_to("loop")
    for output, said in (
        (tmp_path / "no" / "s.csv", "No such file"),
        (tmp_path, "is a folder: name a file"),
        (tmp_path / "loop", "loop: Too many levels of symbolic links"),
        (out / "s.csv", "Not a directory"),
    ):
        code, rows, err = predicted(capsys, "--project", project, "-o", output)
        assert code == 1 and not rows and said in err and "predicting" not in err  # before the work
        assert sorted(path.name for path in tmp_path.iterdir()) == ["loop", "s.csv"]


def test_output_and_stdout_are_equal_byte_for_byte(project, pictures, tmp_path):
    """Whatever the sample spells and whatever stdout's encoding is; at stdout's own device too."""
    sample = tmp_path / "sample.csv"
    sample.write_text('"Bild, Nr.",Künstler\r\n6,x\r\n0.png,x\r\n', encoding="utf-8-sig")
    line = [sys.executable, ROOT / "predict.py", "--project", project, "--sample-submission", sample]
    done = subprocess.run([*line, "-o", tmp_path / "s.csv"], capture_output=True)
    truth = (pictures / "truth.txt").read_text().split()
    wanted = f'"Bild, Nr.",Künstler\n6,{truth[6]}\n0.png,{truth[0]}\n'.encode()
    assert done.returncode == 0 and done.stdout == b"" and (tmp_path / "s.csv").read_bytes() == wanted
    env = dict(os.environ, PYTHONIOENCODING="ascii")
    with open(tmp_path / "both.csv", "wb") as file:
        file.write(b"before\n")
        file.flush()
        assert subprocess.run([*line, "-o", "/dev/stdout"], stdout=file, env=env).returncode == 0
    assert (tmp_path / "both.csv").read_bytes() == b"before\n" + wanted


def test_output_goes_through_links_into_pipes_and_keeps_a_files_mode(project, tmp_path, capsys):
    plain = tmp_path / "plain.csv"
    assert predicted(capsys, "--project", project, "-o", plain)[0] == 0
    content = plain.read_bytes()
    kept = tmp_path / "kept.csv"
    kept.write_text("old")
    kept.chmod(0o604)
    (tmp_path / "link.csv").symlink_to("kept.csv")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "made.csv")
    for name in ("link.csv", "dangling.csv"):
        assert predicted(capsys, "--project", project, "-o", tmp_path / name)[0] == 0
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == content
    assert kept.read_bytes() == content and kept.stat().st_mode & 0o777 == 0o604
    assert (tmp_path / "made.csv").stat().st_mode == plain.stat().st_mode
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(pipe.read_bytes)
        assert predicted(capsys, "--project", project, "-o", pipe)[0] == 0
        assert reader.result(10) == content and stat.S_ISFIFO(pipe.stat().st_mode)
    assert predicted(capsys, "--project", project, "-o", "/dev/null")[0] == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    if Path("/dev/full").exists():
        code, _, err = predicted(capsys, "--project", project, "-o", "/dev/full")
        assert code == 1 and err.splitlines()[-1] == "predict.py: /dev/full cannot be written: No space left on device"


@pytest.mark.parametrize(
    "args, code, said",
    [
        (["--project", "/nowhere"], 1, "train one"),
        (["--prior", "unifrom"], 1, "--prior unifrom: no such file, nor train, uniform, estimate or tau"),
        (["--run", "/nowhere"], 1, "no best.pt"),
        (["--tta", "some"], 2, "invalid choice"),
        (["--data", "/nowhere"], 1, "no such folder"),
    ],
)
def test_bad_input_is_one_line(project, args, code, said, capsys):
    if args[0] in ("--data", "--prior"):
        args = ["--project", str(project), *args]
    try:
        got = predict.main(args)
    except SystemExit as e:
        got = e.code
    out, err = capsys.readouterr()
    assert got == code and said in err and not out


def test_runs_of_other_classes_are_not_averaged(project, pictures, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    (root / "train" / "red").rename(root / "train" / "rot")
    train.train(Config(**dict(PLAIN, epochs=1, data=str(root), project=str(tmp_path))))
    code, rows, err = predicted(capsys, "--run", project / "s0", tmp_path / "run")
    assert code == 1 and not rows and "other classes" in err


def test_stdout_is_csv_only_and_a_closed_pipe_is_quiet(project):
    line = [sys.executable, ROOT / "predict.py", "--project", project]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (
        done.returncode == 0 and len(list(csv.reader(io.StringIO(done.stdout)))) == 8 and "Traceback" not in done.stderr
    )
    cut = subprocess.run(
        f"{sys.executable} {ROOT}/predict.py --project {project} | true", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in cut.stderr and "BrokenPipe" not in cut.stderr


def test_other_pictures_take_no_sample_of_the_datas_own(project, pictures, tmp_path, capsys):
    """The data's sample_submission.csv lists its own test pictures: with --test it says nothing, unless it is named."""
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    (root / "sample_submission.csv").write_text("id,colour\n000,red\n")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("000", "new"):
        shutil.copy(pictures / "test" / "000.png", other / f"{name}.png")
    code, rows, _ = predicted(capsys, "--project", project, "--data", root)
    assert code == 0 and [row[0] for row in rows] == ["id", "000"] and rows[0][1] == "colour"
    code, rows, _ = predicted(capsys, "--project", project, "--data", root, "--test", other)
    assert code == 0 and [row[0] for row in rows] == ["id", "000", "new"] and rows[0][1] == "label"
