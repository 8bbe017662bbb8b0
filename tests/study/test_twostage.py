"""Stage two on runs of two folds: trained once, judged out of fold, compared by picture."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import oracles
import train
from config import Config, read_recipe
from conftest import ROOT
from engine.stop import StopRequest
from errors import LongtailError
from posterior import evidence
from samples import judged_run
from study import twostage

COUNTS = (1000 * 0.7 ** np.arange(oracles.CLASSES)).round()


def test_each_fold_gets_a_stage_two_of_its_own_once(settings, tmp_path, monkeypatch, capsys):
    project = Path(settings["project"])
    for fold in (0, 1):
        train.train(Config(**settings | dict(epochs=1, folds=2, fold=fold, monitor="last", name=f"one-{fold}")))
    recipe = tmp_path / "again.json"
    recipe.write_text(json.dumps(dict(note="a test's", freeze="body", fresh_head=True, balance="sampler", epochs=1)))
    runs = [project / "one-0", project / "one-1"]
    monkeypatch.setattr(twostage, "runs_of", lambda path: (path, runs))
    args = Namespace(what="study", recipes=[recipe], project=str(project))
    twostage.twostage(args, StopRequest())
    out, err = capsys.readouterr()
    # Where args.json leaves the data to $DATA, stage two takes what stage one was trained on.
    said = json.loads((runs[0] / "args.json").read_text())
    (runs[0] / "args.json").write_text(json.dumps(said | dict(data="")))
    assert twostage.second_stage(runs[0], recipe, project).data == str(Path(settings["data"]).resolve())
    (runs[0] / "args.json").write_text(json.dumps(said))
    made = sorted((project / "twostage").iterdir(), key=lambda run: evidence.read_settings(run)["fold"])
    assert [evidence.read_settings(run)["init"] for run in made] == [str(run) for run in runs]
    for old, new in zip(runs, made):
        a, b = (torch.load(run / "best.pt", weights_only=True)["weights"] for run in (old, new))
        assert {name for name in a if not torch.equal(a[name], b[name])} == {"fc.weight", "fc.bias"}
        assert evidence.of_run(old).paths == evidence.of_run(new).paths
    assert [line.split(" | ")[0] for line in out.splitlines()[2:4]] == ["| one: study", "| two: again"]
    assert "24 pictures held out" in out and "python predict.py --run" in err and "--prior tau:" in err
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    twostage.twostage(args, StopRequest())
    assert capsys.readouterr().out == out
    best = torch.load(runs[1] / "best.pt", weights_only=True)
    del best["tta"]
    torch.save(best, runs[1] / "best.pt")
    with pytest.raises(LongtailError, match="one-1 is of an earlier version, which validated by other views"):
        twostage.twostage(args, StopRequest())


def test_the_difference_of_two_stages_is_the_jackknifes(tmp_path):
    stages = []
    for k, temperature in enumerate((1.0, 0.3)):
        logits, targets, _ = oracles.judged(n=60, temperature=temperature)
        logits[::7] = logits[::7, ::-1] if k else logits[::7]
        stages.append(twostage.judged(str(k), [judged_run(tmp_path / str(k), logits, targets, COUNTS)]))
    one, two = stages

    def difference(rows):
        present = np.unique(targets[rows])
        f1 = [f1_score(targets[rows], s.at_tau[rows], average="macro", labels=present) for s in (two, one)]
        return f1[0] - f1[1]

    rows = np.arange(60)
    without = np.array([difference(np.delete(rows, i)) for i in rows])
    change, error = two.against(one)
    assert change == pytest.approx(difference(rows)) and change < -0.01
    assert error == pytest.approx(np.sqrt(59 / 60 * ((without - without.mean()) ** 2).sum()))


def test_the_recipes_fit_on_top_of_any_run():
    base = dict(drw=0.8, loss_tau=1.0, margin=0.5, head="cosine", opt="sgd", mixup_p=(0.3, 0.7), mixup_by="class")
    base = Config(**base)
    for path in (*twostage.RECIPES, Path("recipes/los.json"), Path("recipes/mislas.json")):
        assert json.loads((ROOT / path).read_text())["note"]
        config = read_recipe(ROOT / path, base)
        assert config.freeze == "body" and config.epochs == 10 and config.mixup_p == 0
        assert not config.without_effect()
