"""report.py --watch: writes the page again when the folder has changed, ends with what it watches, or with Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from test_run_page import epochs, judged, write_svg

import report
from bench.pages import make_study
from config import Config
from conftest import ROOT


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **how: write_svg(file))


@pytest.fixture
def naps(monkeypatch):
    """naps(steps): the waits of report.py do these one after another, and what the page says is noted before each."""

    def of(folder, *steps):
        seen, left = [], list(steps)

        def sleep(seconds):
            text = (folder / "report.html").read_text(encoding="utf-8")
            ends = re.search(r"(stands after \d of 9 epochs|Epoch \d of 9 is kept|What to do next: [\w ]*)", text)[1]
            seen.append((ends, int(re.search(r'data-refresh="(\d+)"', text)[1])))
            left.pop(0)()

        monkeypatch.setattr("report.time", SimpleNamespace(sleep=sleep))  # report.py's alone: other threads sleep too
        return seen, left

    return of


def nothing():
    pass


def row(epoch):
    return f"{epoch},0.001,{2 / epoch},0.5,0.4,0.3,0.4,0.3,0.2,1.5,0.1"


def test_a_run_is_watched_until_it_is_done(tmp_path, naps, capsys):
    """Also where it ends while a page is made, between two of its last files."""
    folder = judged(tmp_path, n=60)
    settings = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(settings | dict(epochs=9)))
    later = {}
    for name in ("val_logits.npy", "val_predictions.csv", "per_class.csv", "best.pt"):
        later[name] = (folder / name).read_bytes()
        (folder / name).unlink()
    (folder / "last.pt").write_bytes(b"")
    epochs(folder, row(1))

    def finish():
        epochs(folder, *map(row, range(1, 10)))
        for name, content in later.items():
            (folder / name).write_bytes(content)

    seen, left = naps(
        folder, nothing, lambda: epochs(folder, row(1), row(2)), nothing, finish, (folder / "last.pt").unlink, nothing
    )
    assert report.main([str(folder), "--watch"]) == 0
    assert not left
    going_on = "stands after {} of 9 epochs".format
    # last.pt is gone after the others: until then the run goes on.
    assert [each[1] for each in seen] == [10, 10, 10, 10, 10, 0]
    assert [each[0] for each in seen[:4]] == [going_on(1), going_on(1), going_on(2), going_on(2)]
    assert seen[5][0] == "Epoch 1 of 9 is kept"  # all are as good: the first
    assert capsys.readouterr().out == f"{folder}/report.html\n" * 4


def test_what_changes_while_a_page_is_made_is_in_the_next_one(tmp_path, naps, monkeypatch, capsys):
    folder = judged(tmp_path, n=60)
    (folder / "last.pt").write_bytes(b"")
    made = report.page_of

    def page_of(path, refresh):
        page = made(path, refresh)
        (folder / "last.pt").unlink(missing_ok=True)
        return page

    monkeypatch.setattr("report.page_of", page_of)
    naps(folder, nothing, nothing)
    assert report.main([str(folder), "--watch"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_studys_best_recipe_comes_after_its_last_row(tmp_path, naps, capsys):
    folder = make_study(tmp_path / "study", 3, 4, 50, failed=0)
    last = folder / "rows" / "0002-30.json"
    content = last.read_text()
    last.unlink()
    naps(folder, nothing, lambda: last.write_text(content), lambda: (folder / "best.json").write_text("{}"), nothing)
    assert report.main([str(folder), "--watch"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert "best.json <code>--n</code> 10 tells how much of it is luck" in (folder / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_word(tmp_path, number):
    (tmp_path / "args.json").write_text(json.dumps(dict(Config().settings(), data=str(tmp_path))))
    command = [sys.executable, "report.py", str(tmp_path), "--watch"]
    quiet = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    with subprocess.Popen(command, env=os.environ | dict(OMP_NUM_THREADS="1"), **quiet) as watching:
        assert watching.stdout.readline() == f"{tmp_path}/report.html\n"  # it is there, and watched from here on
        watching.send_signal(number)
        out, err = watching.communicate(timeout=60)
    assert (watching.returncode, out, err) == (128 + number, "", "")
