"""engine/progress.py: a bar on a terminal alone, colours where they are wanted, scores in TensorBoard's writer."""

import io
import sys
from types import ModuleType

import pytest

import train
from config import Config
from engine.progress import Bar, Scalars, painted
from errors import LongtailError


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Writer:
    """SummaryWriter's methods that are used."""

    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.open = folder, purge_step, [], True
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.open = False


@pytest.fixture
def tensorboard(monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def run_bar(monkeypatch, stream, shown=True):
    monkeypatch.setattr(sys, "stderr", stream)
    bar = Bar(2, shown)
    for epoch in range(2):
        for step in range(3):
            bar.step(epoch, step, 3)
        bar.scores(dict(train_loss=1.25, macro_f1=0.5))
        assert bar.bar.n == 3 * (epoch + 1)
    bar.bar.refresh()
    bar.close()
    return stream.getvalue()


def test_one_bar_says_epoch_loss_score_and_time(monkeypatch):
    drawn = run_bar(monkeypatch, Terminal())
    assert "epoch 2/2" in drawn and "100%" in drawn and " left, loss 1.250  macro F1 0.500" in drawn
    assert "\n" not in drawn.strip("\n")  # all of it in one line


@pytest.mark.parametrize("stream, shown", [(io.StringIO(), True), (Terminal(), False)])
def test_nothing_is_drawn_where_nobody_looks(monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    bar = Bar(1, shown)
    bar.step(0, 0, 3)
    bar.scores(dict(train_loss=1.0))
    bar.close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("line", ["warning: too few", "epoch 1/3  best"])
def test_colour_is_for_terminals_that_want_it(monkeypatch, line):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in painted(line, Terminal()) and painted(line, io.StringIO()) == line
    assert painted("a best line", Terminal()) == "a best line"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted(line, Terminal()) == line


def test_scores_of_every_epoch_are_logged(settings, tensorboard):
    rows = train.train(Config(**settings, tensorboard=True))
    (writer,) = tensorboard
    assert writer.folder.endswith("run/tensorboard") and writer.purge_step == 1 and not writer.open
    found = {(name, step): value for name, value, step in writer.scalars}
    for row in rows:
        assert all(found[name, row["epoch"]] == value for name, value in row.items() if name != "epoch")
    assert len(found) == len(rows) * (len(rows[0]) - 1)


def test_without_the_package_it_is_a_line_before_anything_is_written(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LongtailError, match="--tensorboard needs a package: pip install tensorboard"):
        train.train(Config(**settings, tensorboard=True))
    assert not (tmp_path / "runs").exists()
    Scalars(False).add(dict(epoch=1))  # not asked for, not missed
