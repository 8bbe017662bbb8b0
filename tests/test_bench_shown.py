"""What bench/shown.py says of a study, beside what its runs said of the same pictures when they were trained."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

import train
from bench import shown
from config import Config
from posterior import evidence
from posterior.priors import choose_tau


@pytest.mark.parametrize(
    "more, own",
    [
        ({}, "middle"),
        (dict(tta="auto"), "middle, mirrored too"),
        (dict(tta="auto", crop_scale=(0.5, 1.0)), "whole, mirrored too"),
        (dict(tta="auto", crop_scale=(0.5, 1.0), flip=False), "whole"),
        (dict(tta="crops", crop_scale=(0.5, 1.0), prior="uniform"), "whole, corners, all mirrored"),
        (dict(tta="crops", pad=2), "middle, corners, all mirrored"),  # corners touch the border
    ],
)
def test_one_of_the_ways_is_that_of_the_training(settings, more, own):
    base = Config(**settings | more, folds=2, monitor="last", amp=False)
    for fold in (0, 1):
        train.train(dataclasses.replace(base, fold=fold, name=str(fold)))
    study = SimpleNamespace(base=base, run=lambda i: Path(settings["project"]) / str(i))
    by_way = shown.judged(study, [0, 1], "cpu")
    trained = evidence.pooled([[study.run(0)], [study.run(1)]])
    assert by_way[own].paths == trained.paths and (by_way[own].targets == trained.targets).all()
    np.testing.assert_allclose(by_way.pop(own).log_posterior, trained.log_posterior, atol=1e-5)
    assert len(by_way) == 5
    assert min(np.abs(each.log_posterior - trained.log_posterior).max() for each in by_way.values()) > 1e-2


def test_candidates_are_those_whose_folds_are_done():
    trials = [dict(lr=lr, fold=fold) for lr in (1, 2, 3) for fold in (0, 1)]
    rows = {i: dict(status="failed" if i == 3 else "ok") for i in range(5)}
    study = SimpleNamespace(trials=trials, latest=lambda: rows, base=Config(folds=2))
    assert shown.candidates(study) == [[0, 1]]


def test_scores_and_those_without_one_picture():
    """In order of path, whichever order the pictures are in."""
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(3, size=40), rng.normal(size=(40, 3))
    log_posterior = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    names = [f"{i:02d}" for i in rng.permutation(40)]
    parts = rng.integers(2, size=40)
    said = evidence.Evidence(names, targets, log_posterior, parts, ["a", "b", "c"], np.array([9.0, 3.0, 1.0]), 1)
    found = shown.scores(said)
    _, moved = choose_tau(said.log_posterior, said.prior, said.targets, said.parts)
    assert (moved != log_posterior.argmax(1)).any()
    for picture in (None, 0, 17):
        rest = np.array(names) != f"{picture:02d}" if picture is not None else np.full(40, True)
        predicted, posterior = log_posterior[rest].argmax(1), np.exp(log_posterior[rest])
        right = {
            "macro F1": f1_score(targets[rest], predicted, average="macro"),
            "at tau": f1_score(targets[rest], moved[rest], average="macro"),
            "accuracy": accuracy_score(targets[rest], predicted),
            "NLL": log_loss(targets[rest], posterior),
        }
        for name, (value, left_out) in found.items():
            assert (value if picture is None else left_out[picture]) == pytest.approx(right[name])
