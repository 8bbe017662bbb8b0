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


@pytest.mark.parametrize(
    "more, own",
    [
        ({}, "middle"),
        (dict(tta="auto"), "middle, mirrored too"),
        (dict(tta="auto", crop_scale=(0.5, 1.0)), "whole, mirrored too"),
        (dict(tta="auto", crop_scale=(0.5, 1.0), flip=False), "whole"),
        (dict(tta="crops", crop_scale=(0.5, 1.0), prior="uniform"), "whole, corners, all mirrored"),
    ],
)
def test_one_of_the_ways_is_that_of_the_training(settings, more, own):
    base = Config(**settings | more, folds=2, monitor="last", amp=False)
    for fold in (0, 1):
        train.train(dataclasses.replace(base, fold=fold, name=str(fold)))
    study = SimpleNamespace(base=base, run=lambda i: Path(settings["project"]) / str(i))
    targets, by_way, classes = shown.judged(study, [0, 1], "cpu")
    folds = [evidence.of_run(study.run(i)) for i in (0, 1)]
    order = np.argsort([path for each in folds for path in each.paths])
    assert (targets == np.concatenate([each.targets for each in folds])[order]).all() and classes == 3
    trained = np.concatenate([each.log_posterior for each in folds])[order]
    np.testing.assert_allclose(by_way.pop(own), trained, atol=1e-3)
    assert len(by_way) == 5 and min(np.abs(each - trained).max() for each in by_way.values()) > 1e-2


def test_points_are_those_whose_folds_are_done():
    trials = [dict(lr=lr, fold=fold) for lr in (1, 2, 3) for fold in (0, 1)]
    rows = {i: dict(status="failed" if i == 3 else "ok") for i in range(5)}
    study = SimpleNamespace(trials=trials, latest=lambda: rows, base=Config(folds=2))
    assert shown.points(study) == [[0, 1]]


def test_scores_and_those_without_one_picture():
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(3, size=40), rng.normal(size=(40, 3))
    log_posterior = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = shown.scores(targets, log_posterior, 3)
    for picture in (None, 0, 17):
        rest = np.arange(40) != picture
        predicted, posterior = log_posterior[rest].argmax(1), np.exp(log_posterior[rest])
        right = {
            "macro F1": f1_score(targets[rest], predicted, average="macro"),
            "accuracy": accuracy_score(targets[rest], predicted),
            "NLL": log_loss(targets[rest], posterior),
        }
        for name, (value, left_out) in found.items():
            assert (value if picture is None else left_out[picture]) == pytest.approx(right[name])
