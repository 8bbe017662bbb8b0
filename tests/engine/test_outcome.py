"""What a finished run's folder says: its tables, and how they are read back."""

import csv
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from config import Config
from engine.outcome import State, epoch_line, finish, overfits, validation_labels
from engine.run import Run
from pictures.listing import Listing


def test_many_classes_need_no_table_of_all_pairs_in_memory(tmp_path, monkeypatch):
    """The end of a run with 20 validation pictures: all pairs of 1,000 classes would be 8 MB, of 10,000 800 MB."""
    classes = 1_000
    files = Listing(
        root=tmp_path,
        paths=[f"{i}.png" for i in range(20)],
        classes=[f"c{i}" for i in range(classes)],
        labels=np.arange(20),
        parts=np.full(20, "train"),
        groups=None,
        skipped=[],
    )
    rng = np.random.default_rng(0)
    rows, counts = np.arange(20), np.ones(classes, int)
    shown = SimpleNamespace(root=tmp_path, listing=files, val=rows, counts=counts)
    logits = rng.normal(size=(20, classes)).astype(np.float32)
    kept = dict(macro_f1=0.0, acc=0.0, train_acc=0.0)
    state = State(epoch=1, best=dict(epoch=1, metrics=kept, logits=torch.from_numpy(logits)))
    run = Run(str(tmp_path), "run", resume=False)
    tracemalloc.start()
    finish(run, Config(), shown, state)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    run.close()
    assert peak < 4e6
    with open(tmp_path / "run" / "confusion_matrix.csv", newline="") as f:
        header, *lines = csv.reader(f)
        assert len(header) == classes + 1
        named = logits.argmax(1)
        for c, (name, *cells) in enumerate(lines):
            expected = [int(c == t) for t in range(20)]
            assert name == f"c{c}" and cells.count("1") == sum(expected)
            if c < 20:
                assert cells[named[c]] == "1"
    assert c == classes - 1


def test_a_list_of_classes_is_read_back_as_it_was_written(tmp_path):
    """Older runs may hold classes with what Python takes for the end of a line."""
    classes = ["a b", "a\u2028x", "b\x85x", "c\x0bx", "d\x1cx", "é"]
    run = Run(tmp_path, "run", False)
    run.write_text("classes.txt", "\n".join(classes) + "\n")
    rows = [[f"{name}.jpg", name, classes[0], "1.0"] for name in classes]
    run.write_rows("val_predictions.csv", ["path", "true", "predicted", "p"], rows)
    run.close()
    paths, targets, predicted, read = validation_labels(run.folder)
    assert paths == [f"{name}.jpg" for name in classes] and read == classes
    assert targets.tolist() == list(range(6)) and predicted.tolist() == [0] * 6


def test_overfitting_is_a_gap_beyond_chance():
    """Told where the exact interval agrees, with a little room: Agresti and Coull's is no narrower than Wilson's."""
    for n in (1, 4, 10, 30, 100, 1000):
        for hits in range(0, n + 1, max(1, n // 10)):
            high = binomtest(hits, n).proportion_ci(0.95, "wilson").high
            acc = hits / n
            for train_acc in (acc + 0.34, acc + 0.36, high + 0.1, 1.0):
                told = overfits(dict(acc=acc, train_acc=train_acc), n)
                if train_acc <= min(high, 1) or train_acc - acc <= 0.35:
                    assert not told
                elif train_acc > high + 0.1:
                    assert told


@pytest.mark.parametrize(
    "done, last, seconds, left",
    [
        (1, 10, 30.0, "  5 min left"),
        (1, 3, 30.0, ""),  # a rung of halving
        (9, 10, 61.0, "  2 min left"),
        (9, 10, 60.0, ""),
        (10, 10, 99.0, ""),
    ],
)
def test_an_epochs_line_says_the_minutes_left(done, last, seconds, left):
    row = dict(epoch=done, train_loss=1.0, train_acc=0.5, images_per_s=300.0, data_wait=0.01, seconds=seconds)
    said = epoch_line(State(epoch=done, rows=[row]), 10, last)
    assert said == f"epoch {done:3d}/10  train loss 1.000 acc 0.500  300 images/s  wait 1%{left}"
