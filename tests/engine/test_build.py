"""--init, --freeze and the loss of an epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

import losses
import predict
import seeds
import sweep
import train
from config import Config
from engine.build import LossSchedule, build_stepper, init_key, plans_of, prepare_pictures
from engine.outcome import kept_row
from errors import ConfigError, LongtailError
from reporting import montage
from study.begin import begin_study


def best(settings, name):
    return torch.load(Path(settings["project"]) / name / "best.pt", weights_only=True)


def log(settings, name):
    return (Path(settings["project"]) / name / "train.log").read_text()


@pytest.fixture
def first(settings):
    train.train(Config(**settings, name="first", monitor="last"))
    return str(Path(settings["project"]) / "first")


def test_a_frozen_body_keeps_every_bit_and_the_head_moves(settings, first):
    """Parameters and statistics of the body are those of the first run; cRT is this and a balanced sampler."""
    settings |= dict(balance="sampler", ema_epochs=2.0, dropout=0.2, monitor="last")
    train.train(Config(**settings, name="second", init=first, freeze="body"))
    a, b = best(settings, "first")["weights"], best(settings, "second")["weights"]
    moved = {k for k in a if not torch.equal(a[k], b[k])}
    assert moved == {"fc.weight", "fc.bias"}


def test_frozen_batch_norms_adapt_where_they_are_asked_to(settings, first):
    """Their statistics follow the batches, their weights stay; as in training, not as in a frozen part."""
    train.train(Config(**settings, name="second", init=first, freeze="body", freeze_bn="adapt", until=1))
    a, b = best(settings, "first")["weights"], best(settings, "second")["weights"]
    moved = {name for name in a if a[name].is_floating_point() and not torch.equal(a[name], b[name])}
    statistics = {name for name in a if "running" in name}
    assert moved == statistics | {"fc.weight", "fc.bias"} and len(statistics) == 40


def test_a_cosine_head_is_the_last_layer(settings, first):
    """It is fresh after a linear one, taken from one of its kind, and all that moves where the body is frozen."""
    settings |= dict(head="cosine", freeze="body", monitor="last")
    train.train(Config(**settings, name="second", init=first, until=1))
    second = str(Path(settings["project"]) / "second")
    train.train(Config(**settings | dict(name="third", init=second, lr=1e-8, warmup=3.0), until=1))
    a, b, c = (best(settings, name)["weights"] for name in ("first", "second", "third"))
    assert torch.equal(a["layer1.0.conv1.weight"], b["layer1.0.conv1.weight"])
    assert torch.allclose(b["fc.weight"], c["fc.weight"], atol=1e-6) and torch.equal(
        b["conv1.weight"], c["conv1.weight"]
    )
    assert not torch.allclose(a["fc.weight"], b["fc.weight"], atol=1e-2)
    assert "the last layer begins anew, for that run's --head is of another kind" in log(settings, "second")
    assert f"begins with the weights of {second}\n" in log(settings, "third")


def test_a_fresh_head_is_the_seeds_own(settings, first):
    still = dict(settings, monitor="last", lr=1e-8, warmup=3.0, freeze="body", until=1, seed=1)
    train.train(Config(**still, name="second", init=first, fresh_head=True))
    train.train(Config(**still, name="fresh"))
    second, fresh, old = (best(settings, name)["weights"] for name in ("second", "fresh", "first"))
    assert "begins anew, as --fresh-head asks" in log(settings, "second")
    assert torch.equal(second["conv1.weight"], old["conv1.weight"])
    assert torch.allclose(second["fc.weight"], fresh["fc.weight"], atol=1e-6)
    assert not torch.allclose(second["fc.weight"], old["fc.weight"], atol=1e-2)


def test_a_frozen_part_is_named_by_its_prefix(settings):
    train.train(Config(**settings, name="part", freeze="conv1,layer1.0", monitor="last", until=1))
    train.train(Config(**settings | dict(name="start", lr=1e-8, warmup=3.0, monitor="last", until=1)))
    a, b = best(settings, "part")["weights"], best(settings, "start")["weights"]
    same = {k for k in a if a[k].is_floating_point() and torch.allclose(a[k], b[k], atol=1e-6) and "running" not in k}
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn2.weight"} <= same
    assert not {"layer1.1.conv1.weight", "layer2.0.conv1.weight", "fc.weight"} & same


def test_a_run_that_begins_with_anothers_weights_resumes_to_the_same_bits(settings, first):
    settings |= dict(init=first, freeze="layer1", ema_epochs=2.0, epochs=4)
    train.train(Config(**settings, name="whole"))
    train.train(Config(**settings, name="parts", until=2))
    train.train(Config(**settings, name="parts", resume=True))
    a, b = best(settings, "whole"), best(settings, "parts")
    assert all(torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"])


def test_the_key_has_the_weights_and_not_their_place(settings, first, tmp_path):
    moved = tmp_path / "elsewhere"
    Path(first).rename(moved)
    assert init_key(str(moved)) == init_key(str(moved / "best.pt")) != init_key("") == ""
    one, other = Config(init=first), Config(init=str(moved))
    assert one.key("data", "weights") == other.key("data", "weights") != one.key("data", "others")
    settings |= dict(init=str(moved))
    train.train(Config(**settings, until=1))
    saved = torch.load(moved / "best.pt", weights_only=True)
    saved["weights"]["fc.bias"] += 1
    torch.save(saved, moved / "best.pt")
    with pytest.raises(LongtailError, match="other weights of --init"):
        train.train(Config(**settings, resume=True))


@pytest.mark.parametrize(
    "more, said",
    [
        (dict(init="nowhere"), "nowhere: no best.pt there"),
        (dict(freeze="layer9"), "--freeze layer9: no parameter begins so; the parts are conv1, bn1, layer1"),
        (dict(freeze="body,fc"), "leaves nothing to train"),
        (dict(fresh_head=True), "--fresh-head is for .* add --init RUN"),
        (dict(freeze_bn="adapt"), "--freeze-bn adapt is for .* add --freeze body"),
        (dict(freeze=" , ", freeze_bn="adapt"), "names no part of the network: --freeze body, for one"),
        (dict(mixup_pair="targeted", mixup_p=0.5), "below 1, and it is 1: give --mixup-alpha 0.8"),
    ],
)
def test_what_cannot_be_begun_with_or_frozen_is_refused_by_name(settings, more, said):
    with pytest.raises(LongtailError, match=said):
        train.train(Config(**settings | more))


def test_another_networks_weights_are_refused(settings, first):
    with pytest.raises(LongtailError, match="another network"):
        train.train(Config(**settings | dict(init=first, width=0.25, name="wide")))
    # Two stems of one kernel have weights of the same shapes, and do not compute the same.
    with pytest.raises(LongtailError, match=r"another network \(the stem does not fit\): .* --stem "):
        train.train(Config(**settings | dict(init=first, stem="imagenet", stem_kernel=3, name="stem")))


def test_other_classes_get_a_fresh_last_layer(settings, first, pictures, tmp_path):
    """The body is taken, the head is the seed's own."""
    few = tmp_path / "two classes"
    few.mkdir()
    for name in ("blue", "red"):
        (few / name).symlink_to(pictures / "train" / name)
    settings |= dict(data=str(few), monitor="last", lr=1e-8, warmup=3.0)
    train.train(Config(**settings, name="two", init=first, freeze="body"))
    train.train(Config(**settings, name="fresh", freeze="body"))
    two, fresh, old = (best(settings, name)["weights"] for name in ("two", "fresh", "first"))
    assert torch.equal(two["conv1.weight"], old["conv1.weight"])
    assert torch.allclose(two["fc.weight"], fresh["fc.weight"], atol=1e-5) and len(two["fc.weight"]) == 2


def test_a_best_epoch_keeps_the_bias_of_its_own_table(settings, monkeypatch, capsys):
    """A loss whose bias differs by epoch, and changes its stage before the third of eight."""
    at = LossSchedule.at

    def shifted(self, epoch):
        table, bias = at(self, epoch)
        return table, bias + np.float32([epoch, 0, 0])

    monkeypatch.setattr(LossSchedule, "at", shifted)
    monkeypatch.setattr("losses.stage", lambda objective, epoch, epochs: int(epoch >= 2))
    rows = train.train(Config(**settings | dict(epochs=8)))
    kept = best(settings, "run")
    said = capsys.readouterr().err
    assert "epochs 3 to 7 are not taken as the best" in said
    assert kept["epoch"] in (1, 2, 8), "no best epoch within five of the change"
    plain = at(LossSchedule(Config(**settings), prepare_pictures(Config(**settings)), 1.0), 0)[1]
    assert kept["bias"] == pytest.approx(list(plain + np.float32([kept["epoch"] - 1, 0, 0])))
    eligible = [row["macro_f1"] for row in rows if row["epoch"] in (1, 2, 8)]
    assert kept["metrics"]["macro_f1"] == max(eligible)
    assert predict.main(["--run", str(Path(settings["project"]) / "run")]) == 0


def test_the_bias_takes_out_the_prior_that_mixing_makes(settings):
    """Partners of every class equally often, half of each row: the network sees half of the classes' equal shares."""
    found = {}
    for pair in ("uniform", "balanced"):
        config = Config(**settings | dict(mixup_p=1.0, cutmix_p=0.0, mixup_alpha=1.0, mixup_pair=pair))
        pictures = prepare_pictures(config)
        found[pair] = LossSchedule(config, pictures, 1.0).at(0)[1]
    counts = pictures.counts
    seen = counts / counts.sum() / 2 + 1 / len(counts) / 2
    correction = np.log(counts / counts.sum()) - np.log(seen)
    assert found["uniform"] == pytest.approx(np.zeros(len(counts)), abs=1e-6)
    assert found["balanced"] == pytest.approx(correction - correction.mean(), abs=1e-6)


def test_the_bias_of_tail_boxes_is_that_of_the_epochs_that_have_them(settings):
    config = Config(**settings | dict(mixup_p=0.0, cutmix_p=0.5, cutmix_pair="tail", epochs=80))
    loss = LossSchedule(config, prepare_pictures(config), 1.0)
    first, second, last = (loss.at(epoch)[1] for epoch in (2, 3, 79))
    assert first == pytest.approx(np.zeros(len(first)), abs=1e-6)
    assert np.array_equal(second, last) and second[loss.counts.argmax()] > 0.05 > 0 > second[loss.counts.argmin()]


def test_an_epoch_that_settles_is_no_reason_to_stop(settings, monkeypatch):
    monkeypatch.setattr("losses.stage", lambda objective, epoch, epochs: int(epoch >= 1))
    rows = train.train(Config(**settings | dict(epochs=7, patience=1, lr=1e-8, warmup=7.0)))
    assert len(rows) == 7  # the first is the best; five settle; the seventh is stale


def test_tables_are_copied_in_place(settings):
    config = Config(**settings)
    pictures = prepare_pictures(config)
    stepper = build_stepper(config, pictures, torch.device("cpu"))[0]
    place = stepper.table.data_ptr()
    stepper.take_table(torch.full((5, 3), 0.5))
    assert stepper.table.data_ptr() == place and (stepper.table == 0.5).all()


def test_training_accuracy_is_of_what_the_loss_takes_for_right(settings):
    """The table's bias joins the logits, as in validation, where it is a part of the posterior's."""
    config = Config(**settings)
    pictures = prepare_pictures(config)
    stepper, _ = build_stepper(config, pictures, torch.device("cpu"))
    stepper.table[losses.BIAS, 2] = 100
    draw, _ = plans_of(config, pictures)
    plan = draw(0)
    stepper.begin(plan)
    steps = len(plan.index)
    for t in range(steps):
        stepper.train(t)
    of_class_2 = pictures.listing.labels[np.asarray(plan.index)] == 2
    assert stepper.right[:steps].tolist() == pytest.approx(of_class_2.mean(1).tolist()) and of_class_2.any()


def test_a_studys_row_is_of_the_epoch_that_was_kept(settings):
    """Where a change of the loss leaves out the best-scoring epochs."""
    settings |= dict(epochs=9, drw=0.3, lr=3e-2, patience=9)
    rows = train.train(Config(**settings))
    kept = best(settings, "run")
    assert kept_row(rows, Config(**settings))["epoch"] == kept["epoch"]
    monitor_last = Config(**settings | dict(patience=0, monitor="last"))
    assert kept_row(rows, monitor_last)["epoch"] == 9
    made_up = [dict(epoch=e, nll=1.0, macro_f1=e / 10, acc=0.5) for e in range(1, 10)]
    assert kept_row(made_up, Config(**settings))["epoch"] == 9
    assert kept_row(made_up[:8], Config(**settings))["epoch"] == 3  # 4 to 8 follow the change


@pytest.mark.parametrize("drw, epochs, first", [(0.8, 200, 160), (0.95, 10, 9), (0.99, 20, 19), (0.5, 1, 0)])
def test_a_deferred_loss_always_sets_in(drw, epochs, first):
    objective = Config(drw=drw).group(losses.Objective)
    assert [losses.stage(objective, e, epochs) for e in range(epochs)] == [0] * first + [1] * (epochs - first)


def test_a_change_that_no_best_epoch_can_follow_is_said(settings, capsys):
    train.train(Config(**settings | dict(epochs=4, drw=0.5)))
    assert "epochs 3 to 4 are not taken as the best, so none with the new loss is" in capsys.readouterr().err
    train.train(Config(**settings | dict(epochs=4, drw=0.5, monitor="last", name="last")))
    assert "not taken" not in capsys.readouterr().err and best(settings, "last")["epoch"] == 4


def test_a_head_of_another_kind_is_fresh(settings, first):
    """From a linear one to a cosine one and back."""
    train.train(Config(**settings, name="cosine", init=first, head="cosine", until=1))
    cosine = str(Path(settings["project"]) / "cosine")
    train.train(Config(**settings, name="linear", init=cosine, freeze="body", until=1))
    a, b = best(settings, "cosine")["weights"], best(settings, "linear")["weights"]
    assert torch.equal(a["layer1.0.conv1.weight"], b["layer1.0.conv1.weight"]) and "fc.bias" in b


def test_deferring_what_a_sampler_does_already_is_refused():
    with pytest.raises(ConfigError, match="--balance sampler shows equally often"):
        Config(drw=0.8, balance="sampler")


def test_a_run_goes_on_when_what_it_began_with_is_gone_or_moved(settings, first, tmp_path, monkeypatch):
    """Its weights are in its own checkpoint; another place for the same weights changes nothing, others are refused."""
    settings |= dict(epochs=4, ema_epochs=2.0)
    train.train(Config(**settings, name="whole", init=first))
    for name in ("parts", "moved"):
        train.train(Config(**settings, name=name, init=first, until=2))
    other = tmp_path / "other"
    Path(first).rename(other)
    train.train(Config(**settings, name="parts", init=first, resume=True))
    monkeypatch.chdir(tmp_path)
    train.train(Config(**settings, name="moved", init="other", resume=True))
    whole = best(settings, "whole")["weights"]
    for name in ("parts", "moved"):
        assert all(torch.equal(whole[k], v) for k, v in best(settings, name)["weights"].items())


def test_what_cannot_be_trained_leaves_no_folder(settings):
    for more in (dict(init="nowhere"), dict(freeze="layer9")):
        with pytest.raises(LongtailError):
            train.train(Config(**settings | more))
    assert not Path(settings["project"]).exists()


def test_items_of_freeze_may_have_spaces(settings):
    train.train(Config(**settings, freeze="conv1, layer1,", until=1))
    assert "warning: --freeze without --init RUN or --pretrained: what is frozen stays as random" in log(
        settings, "run"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}', "[" * 100_000, '{"a": 1, "a": 2}', "\0"])
def test_a_damaged_env_is_a_line(settings, text):
    train.train(Config(**settings, until=1))
    path = Path(settings["project"]) / "run" / "env.json"
    path.write_text(text)
    with pytest.raises(LongtailError, match="env.json.* is damaged"):
        train.train(Config(**settings, resume=True))


def test_a_last_pt_is_no_best_pt(settings, first, capsys):
    train.train(Config(**settings, name="part", until=1))
    last = Path(settings["project"]) / "part" / "last.pt"
    with pytest.raises(LongtailError, match="last.pt is not a best.pt"):
        train.train(Config(**settings, name="x", init=str(last)))
    assert predict.main(["--run", str(last)]) == 1 and "not a best.pt" in capsys.readouterr().err


def test_a_study_holds_the_weights_it_began_with(settings, first, tmp_path, monkeypatch):
    """Paths are kept whole; other weights at the same place, and parts that are not there, are refused at once."""
    folder = Path(settings["project"]) / "study"
    monkeypatch.chdir(settings["project"])
    base = Config(**settings, init="first")
    study = begin_study(folder, base, [{}, dict(init="first", lr=0.5)])
    assert study.base.init == first and study.config(1).init == first
    monkeypatch.chdir(tmp_path)
    begin_study(folder, Config(**settings, init=first), [dict(lr=0.1)])
    with pytest.raises(LongtailError, match="no parameter begins so"):
        begin_study(folder, Config(**settings, init=first), [dict(freeze="nonsense")])
    assert len(begin_study(folder, Config(**settings, init=first), [{}]).trials) == 3
    saved = torch.load(Path(first) / "best.pt", weights_only=True)
    saved["weights"]["fc.bias"] += 1
    torch.save(saved, Path(first) / "best.pt")
    with pytest.raises(LongtailError, match="other weights of --init"):
        begin_study(folder, Config(**settings, init=first), [dict(lr=0.2)])


@pytest.mark.parametrize(
    "words, said",
    [
        ("--model resnet19", "resnet19"),
        ("--init nowhere", "nowhere: no best.pt"),
        ("--freeze nothing", "--freeze nothing"),
        ("--freeze body,fc", "leaves nothing to train"),
        ("--labels nowhere.csv", "nowhere.csv: no such file"),
        ("--group-col painter", "--group-col names a column of a CSV"),
        ("--project a.file", "a.file is a file"),
        ("--project a.file/runs", "a.file is a file"),
        ("--name taken --project .", "taken is a file"),
        ("--stem-kernel 5 --stem cifar", "stem_kernel"),
        ("--device mps", "--device mps"),
    ],
)
@pytest.mark.parametrize("program", [train, sweep, seeds, montage])
def test_names_and_flags_are_judged_before_the_built_in_set_is_painted(
    program, words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pictures.synthetic.make", lambda root: pytest.fail("painted"))
    (tmp_path / "a.file").touch()
    (tmp_path / "taken").touch()
    if program is montage and words.startswith(("--device", "--project", "--name")):
        pytest.skip("it trains nothing, and writes to no project")
    assert program.main(words.split()) in (1, 2)
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1] and "painting" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.file", "taken"]


def test_where_to_draw_is_judged_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pictures.synthetic.make", lambda root: pytest.fail("painted"))
    for output in (tmp_path / "nowhere" / "plan.png", tmp_path):
        assert montage.main(["-o", str(output)]) == 1
        assert f"--output {output}: give a file in a folder that is there" in capsys.readouterr().err
