"""bench/tau_norm.py beside the last layer's own products."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score

import train
from bench import tau_norm
from config import Config
from engine.checkpoint import load_best
from model import build_model
from posterior import evidence
from posterior.classifier import log_posteriors


def test_answers_are_those_of_weights_of_another_length(settings, monkeypatch, capsys):
    base = Config(**settings, folds=2, monitor="last", amp=False)
    for fold in (0, 1):
        train.train(dataclasses.replace(base, fold=fold, name=str(fold)))
    runs = [Path(settings["project"]) / str(fold) for fold in (0, 1)]
    monkeypatch.setattr(tau_norm, "TAUS", [0.0, 0.7])
    found = tau_norm.answers(runs, "cpu")
    expected = []
    for run in runs:
        saved, own = load_best(run / "best.pt"), evidence.of_run(run)
        features = []

        def built(**shape):
            network = build_model(**shape)
            network.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0].detach()))
            return network

        with monkeypatch.context() as patched:
            patched.setattr("posterior.classifier.build_model", built)
            log_posteriors([saved], [Path(saved["data"]) / path for path in own.paths], device="cpu")
        weight = saved["weights"]["fc.weight"].double()
        products = torch.cat(features)[: len(own.paths)].double() @ weight.T
        expected.append(np.stack([(products / weight.norm(dim=1) ** tau).argmax(1) for tau in (0.0, 0.7)]))
    expected = np.concatenate(expected, 1)
    assert (found == expected).mean() > 0.99  # but for a tie
    tau_norm.compare(runs, "cpu")
    said = evidence.pooled([[run] for run in runs])
    own = next(line for line in capsys.readouterr().out.splitlines() if "as it is" in line).split("|")[3]
    assert float(own) == float(f"{f1_score(said.targets, said.log_posterior.argmax(1), average='macro'):.3f}")


def test_a_cosine_head_has_no_bias_and_nothing_to_normalise(settings, monkeypatch):
    base = Config(**settings, folds=2, monitor="last", amp=False, head="cosine")
    for fold in (0, 1):
        train.train(dataclasses.replace(base, fold=fold, name=str(fold)))
    runs = [Path(settings["project"]) / str(fold) for fold in (0, 1)]
    monkeypatch.setattr(tau_norm, "TAUS", [0.0, 0.7])
    as_it_is, normalised = tau_norm.answers(runs, "cpu")
    assert (as_it_is == normalised).mean() > 0.99  # but for a tie
