"""Signals against a plain count; in training from unmixed rows alone, an epoch late for plans, the same at a resume."""

import numpy as np
import pytest
import torch

import train
from config import Config
from engine import build, signals
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.outcome import State
from losses import BIAS


def test_means_over_what_an_epoch_showed_and_the_rest_as_it_was():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 30)
    labels[labels == 3] = 2  # class 3 is never shown
    before = signals.nothing_known(30, 4)
    before["own"][:] = 0.25
    index = rng.integers(0, 25, (5, 8))
    rows = {name: rng.random((5, 8)).astype(np.float32) for name in signals.ROWS}
    mixed = rng.random((5, 8)) < 0.4
    for values in rows.values():
        values[mixed] = np.nan
    found = signals.after_epoch(before, index, labels, rows)
    for name in ("loss", "confidence"):
        for c in range(4):
            seen = [v for v, i in zip(rows[name].ravel(), index.ravel()) if labels[i] == c and not np.isnan(v)]
            expected = np.mean(seen) if seen else np.nan
            assert float(found[name][c]) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    for i in range(30):
        seen = [v for v, at in zip(rows["own"].ravel(), index.ravel()) if at == i and not np.isnan(v)]
        assert float(found["own"][i]) == pytest.approx(np.mean(seen) if seen else 0.25, rel=1e-6)


@pytest.mark.parametrize("pair", ["uniform", "remix"])
def test_a_step_notes_what_its_unmixed_rows_show(settings, monkeypatch, pair):
    """By the model's own logits in float64; a row whose pixels mix is NaN, whatever its label."""
    monkeypatch.setattr(Config, "reads_signals", lambda self: True)
    settings = settings | dict(mixup_p=0.5, mixup_pair=pair, loss_tau=0.7, amp=False, balance="weights", ls=0.2)
    config = Config(**settings)
    pictures = prepare_pictures(config)
    stepper = build_stepper(config, pictures, torch.device("cpu"))[0]
    seen = []
    forward = stepper.forward
    stepper.forward = lambda *args: seen.append(forward(*args)) or seen[-1]
    plan = plans_of(config, pictures)[0](0)
    stepper.begin(plan)
    for t in range(len(plan.index)):
        stepper.train(t)
    logits = torch.stack(seen).detach().double() + stepper.table[BIAS].double()
    p = logits.softmax(2).numpy()
    own = np.take_along_axis(p, pictures.listing.labels[plan.index][..., None], 2)[..., 0]
    noted = stepper.rows_seen()
    mixes = plan.blend < 1
    assert 0 < mixes.sum() < mixes.size
    assert (plan.lam[mixes] == 1).any() == (pair == "remix")
    for values in noted.values():
        assert (np.isnan(values) == mixes).all()
    assert np.abs(noted["own"] - own)[~mixes].max() < 1e-6
    assert np.abs(noted["confidence"] - p.max(2))[~mixes].max() < 1e-6
    plain = -np.log(own)  # without weights and smoothing, which may follow it
    assert np.abs(noted["loss"] - plain)[~mixes].max() < 1e-5


def told(monkeypatch, config):
    """What draws and loss tables of a run are given, by epoch, and the run's final State."""
    given = dict(plan={}, table={}, states=[])
    drawer, at = build.draw_plan, build.LossSchedule.at

    def draw(material, epoch, *groups, signals=None):
        given["plan"][epoch] = signals
        return drawer(material, epoch, *groups, signals=signals)

    def table(self, epoch, signals=None):
        given["table"][epoch] = signals
        return at(self, epoch, signals)

    def kept(**fields):
        given["states"].append(State(**fields))
        return given["states"][-1]

    monkeypatch.setattr(Config, "reads_signals", lambda self: True)
    monkeypatch.setattr(build, "draw_plan", draw)
    monkeypatch.setattr(build.LossSchedule, "at", table)
    monkeypatch.setattr("engine.resume.State", kept)
    train.train(config)
    return given


def equal(a, b):
    if a is None or b is None:
        return a is b
    return all(torch.equal(torch.nan_to_num(a[k], -1), torch.nan_to_num(b[k], -1)) for k in a)


def test_plans_read_the_epoch_before_the_last_and_tables_the_last(settings, monkeypatch):
    """The same whether the run was stopped between epochs or not."""
    config = Config(**settings | dict(epochs=5, mixup_p=0.3, name="whole"))
    whole = told(monkeypatch, config)
    assert whole["plan"][0] is None and whole["plan"][1] is None and whole["table"].pop(0) is None
    assert whole["plan"][2] is not None
    for epoch in (2, 3, 4):  # what the plan of an epoch knows, the table knew an epoch before
        assert equal(whole["plan"][epoch], whole["table"][epoch - 1])
    assert not equal(whole["table"][1], whole["table"][2])
    own = whole["states"][0].signals["own"]
    rows = torch.from_numpy(prepare_pictures(config).val)
    assert own[rows].isnan().all() and not own.isnan().all()  # never a validation picture

    parts = {}
    for until in (2, 3, 5):
        stopped = Config(**settings | dict(epochs=5, mixup_p=0.3, name="stopped", until=until, resume=True))
        found = told(monkeypatch, stopped)
        parts |= found["plan"]
    assert all(equal(parts[epoch], whole["plan"][epoch]) for epoch in whole["plan"])
    assert equal(found["states"][0].signals, whole["states"][0].signals)
    assert equal(found["states"][0].earlier_signals, whole["states"][0].earlier_signals)


def test_nothing_is_gathered_that_no_setting_reads(settings):
    config = Config(**settings)
    stepper = build_stepper(config, prepare_pictures(config), torch.device("cpu"))[0]
    assert not stepper.gather and stepper.rows_seen() == {}
