"""What a table says: points, the winner, schemes, effects, on studies whose rows are written by hand, untrained."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

import seeds
import sweep
from config import OFF, Config, flag_of, read_recipe, spelled
from conftest import PLAIN
from engine.build import prepare_pictures
from engine.flags import SettingsParser, config_from_args
from study import effects, findings, pace, ranking, stats
from study.begin import begin_study, without_folds
from study.table import Study
from test_train import made


def begun(settings, points, halving=0, n=1, **base):
    """A study of every point on every fold and seed, as sweep.py lays it out."""
    c = made(settings, **{"monitor": "last", **base})
    folder = Path(settings["project"]) / "s"
    return begin_study(folder, c, sweep.trials(c, points, n), halving)


def write(study, i, score, until=None, status="ok", **more):
    """The row of trial i; `score` None where it was never scored."""
    c = study.config(i)
    until = until or c.epochs
    row = dict(
        trial=i,
        until=until,
        fold=c.fold,
        seed=c.seed,
        status=status,
        epoch=until,
        seconds=1.0,
        train_loss=0.5,
        reason="" if status == "ok" else "it blew up",
    )
    if score is not None:
        row |= dict(macro_f1=score, acc=score + 0.1, nll=1 - score, ece=0.05, macro_f1_se=0.04, val_pictures=5)
    (study.folder / "rows" / f"{i:04d}-{until}.json").write_text(json.dumps(row | more))


def fill(study, score):
    """Rows of all trials by score(config)."""
    for i in range(len(study.trials)):
        write(study, i, score(study.config(i)))
    return study


def only_group(study):
    (group,) = ranking.points(study).values()
    return group


def test_a_point_is_its_folds_and_seeds(settings):
    """Means over seeds first, then over folds; its standard error is over folds: NumPy on a table folds x seeds."""
    study = begun(settings, [dict(ls=0.0), dict(ls=0.3)], n=2, folds=3)
    assert len(study.trials) == 12
    rng = np.random.default_rng(0)
    scores = {ls: rng.random((3, 2)) for ls in (0.0, 0.3)}
    fill(study, lambda c: scores[c.ls][c.fold, c.seed])
    for p in only_group(study):
        found = scores[p.settings["ls"]]
        assert list(p.settings) == ["ls"] and len(p.trials) == len(p.rows) == 6 and p.wanting == ""
        assert p.mean == pytest.approx(found.mean(), abs=1e-12)
        assert p.se == pytest.approx(np.std(found.mean(1), ddof=1) / math.sqrt(3), abs=1e-12)
        assert p.average("acc") == pytest.approx(found.mean() + 0.1)
    assert list(ranking.points(study)) == ["folds 3"]


def test_on_one_split_the_error_is_the_jackknifes(settings):
    study = begun(settings, [{}], n=3)
    for i in range(3):
        write(study, i, [0.4, 0.5, 0.9][i], macro_f1_se=[0.01, 0.02, 0.06][i])
    (p,) = only_group(study)
    assert p.mean == pytest.approx(0.6) and p.se == pytest.approx(0.03) and p.label() == "the base settings"


def test_why_a_point_is_not_ranked(settings):
    study = begun(settings, [dict(ls=v) for v in (0.0, 0.1, 0.2, 0.3, 0.4)], n=2)
    at = {(study.config(i).ls, study.config(i).seed): i for i in range(10)}
    write(study, at[0.0, 0], 0.5), write(study, at[0.0, 1], 0.7)
    write(study, at[0.1, 0], 0.9)  # the other is to do
    write(study, at[0.2, 0], 0.9), write(study, at[0.2, 1], 0.95, status="failed")  # scored at its last good epoch
    write(study, at[0.3, 0], None), write(study, at[0.3, 1], None)
    group = {p.settings["ls"]: p for p in only_group(study)}
    assert {ls: p.wanting for ls, p in group.items()} == {
        0.0: "",
        0.1: "to do",
        0.2: f"trial {at[0.2, 1]} failed: it blew up",
        0.3: "no validation pictures",
        0.4: "to do",
    }
    assert math.isnan(group[0.2].mean) and math.isnan(group[0.4].mean)
    scheme, won, reason = ranking.choose(study)
    assert (scheme, won.settings, won.mean) == ("val_split 0.2", dict(ls=0.0), pytest.approx(0.6))
    assert reason == "no other point can be ranked"


def test_halving_ranks_only_who_ran_to_the_end(settings):
    study = begun(settings, [dict(ls=v, gamma=g) for v in (0.0, 0.1) for g in (0.0, 1.0)], halving=2, epochs=4)
    for i, score in enumerate((0.8, 0.9, 0.2, 0.1)):
        write(study, i, score, until=1)
    assert study.jobs() == [(0, 2), (1, 2)]
    write(study, 0, 0.6, until=2), write(study, 1, 0.5, until=2)
    assert study.jobs() == [(0, 4)]
    assert ranking.choose(study) is None
    write(study, 0, 0.3, until=4)
    assert not study.jobs() and [r["macro_f1"] for r in study.latest().values()] == [0.3, 0.5, 0.2, 0.1]
    assert [p.wanting for p in only_group(study)] == ["", *(f"stopped at epoch {e} by halving" for e in (2, 1, 1))]
    assert ranking.choose(study)[1].mean == 0.3


def test_halving_passes_over_points_with_a_failed_trial_and_breaks_ties_by_number(settings):
    study = begun(settings, [dict(ls=v) for v in (0.0, 0.1, 0.2, 0.3, 0.4)], halving=3, n=2, epochs=9)
    for i in range(10):
        ls, seed = study.config(i).ls, study.config(i).seed
        write(study, i, 0.9 if ls == 0.1 else 0.5, until=1, status="failed" if (ls, seed) == (0.1, 1) else "ok")
    on = study.jobs()  # ceil(4 / 3) = 2 points, the first of equals
    assert {study.config(i).ls for i, _ in on} == {0.0, 0.2} and len(on) == 4 and {until for _, until in on} == {3}


def test_halving_ends_where_every_trial_failed(settings):
    study = begun(settings, [dict(ls=0.0), dict(ls=0.1)], halving=2, epochs=4)
    for i in range(2):
        write(study, i, None, until=1, status="failed")
    assert study.jobs() == [] and ranking.choose(study) is None


def point(mean, se=0.05, wanting="", **settings):
    """A point of one split, or of folds where `mean` is a list."""
    return ranking.Point([0], settings, [], wanting, dict(enumerate(np.atleast_1d(mean).tolist())), se)


NONE = dict(ls=0.0, mixup_p=0.0, balance="none")


@pytest.mark.parametrize(
    "group, won, said",
    [
        (
            [point(0.70, ls=0.1), point(0.80, ls=0.2)],
            1,
            "no other point is within one standard error (0.0500, the best one's own, by jackknife over pictures) "
            "of it",
        ),
        (
            [point(0.76, ls=0.0), point(0.80, ls=0.2)],
            0,
            "of the best, 0.8000 (ls 0.2), it is the simplest (0 methods switched on)",
        ),
        ([point(0.74, ls=0.0), point(0.76, ls=0.1), point(0.80, ls=0.2)], 2, "of 2 points within one standard error"),
        ([point(0.80, ls=0.1), point(0.80, ls=0.2)], 0, "(1 method switched on)"),  # a tie in all: the first
        (
            [
                point(0.78, **NONE | dict(ls=0.1)),
                point(0.79, **NONE | dict(ls=0.1, mixup_p=0.2)),
                point(0.77, **NONE | dict(balance="sampler")),
                point(0.80, **NONE | dict(ls=0.1, mixup_p=0.4)),
            ],
            0,
            "of 4 points",
        ),  # of two with one method each the better
        ([point(0.76, lr=1e-3), point(0.80, lr=1e-2)], 1, "it scores best, and none is simpler"),  # lr is no method
        ([point(0.99, wanting="to do", ls=0.0), point(0.80, ls=0.2)], 1, "no other point can be ranked"),
        (
            [point(0.80, se=math.nan, ls=0.2), point(0.80, se=math.nan, ls=0.0)],
            1,
            "simplest",
        ),  # then only equals are near
        ([point(0.79, se=math.nan, ls=0.0), point(0.80, se=math.nan, ls=0.2)], 1, "no other"),
    ],
)
def test_the_one_standard_error_rule(group, won, said):
    found, reason = ranking.winner(group)
    assert found is group[won] and said in reason


def by_fold(table, **more):
    """Points of scores [point, fold], each with its standard error over its own folds."""
    return [point(row, se=np.std(row, ddof=1) / math.sqrt(len(row)), ls=0.1 * k, **more) for k, row in enumerate(table)]


def unpooled(group):
    """The winner by the best point's own standard error."""
    best = max(group, key=lambda p: p.mean)
    return min((p for p in group if p.mean >= best.mean - best.se), key=lambda p: (ranking.methods(p), -p.mean))


def test_the_yardstick_is_pooled_over_points_that_share_their_folds():
    """By hand: over three points and two folds the residuals of point + fold are +-1/3, -+2/3 and +-1/3 of 0.01."""
    group = by_fold([[0.50, 0.54], [0.60, 0.62], [0.70, 0.74]])
    error = math.sqrt(2 * (1 + 4 + 1) / 9 * 1e-4 / 2 / 2)
    assert ranking.yardstick(group) == (pytest.approx(error), "pooled over 3 points on the same 2 folds")
    won, reason = ranking.winner(group)
    assert won is group[2] and reason == (
        f"no other point is within one standard error ({error:.4f}, pooled over 3 points on the same 2 folds) of it"
    )
    unranked = point([0.1, 0.9], wanting="to do", ls=0.5)
    assert ranking.winner([*group, unranked])[1] == reason
    short = ranking.Point([0], dict(ls=0.6), [], "", {0: 0.55}, 0.3)  # of one fold: ranked, but says no noise
    assert ranking.winner([short, *group])[1] == reason


def test_without_points_to_pool_the_yardstick_is_the_best_ones_own():
    group = by_fold([[0.5, 0.6, 0.7]])
    assert ranking.yardstick(group) == (group[0].se, "the best one's own, over 3 folds")
    group = [point(0.7, se=0.02), point(0.6, se=0.01)]
    assert ranking.yardstick(group) == (0.02, "the best one's own, by jackknife over pictures")


def test_an_easy_fold_does_not_move_the_winner():
    """What a fold adds to all points changes nothing but the best point's own standard error."""
    table = np.array([[0.68, 0.70, 0.69], [0.72, 0.71, 0.74], [0.70, 0.73, 0.73]])
    even, odd = by_fold(table), by_fold(table + [0.2, -0.1, -0.1])
    assert ranking.winner(odd)[0].settings == ranking.winner(even)[0].settings == dict(ls=0.1)
    assert ranking.yardstick(odd)[0] == pytest.approx(ranking.yardstick(even)[0])
    assert unpooled(odd).settings == dict(ls=0.0) != unpooled(even).settings


def test_the_pooled_yardstick_picks_the_same_winner_more_often():
    """1,000 redraws of the noise of eight points on two folds alike in difficulty, so that both yardsticks estimate the
    same noise: the one that sees eight points agrees with itself more often, and on the point it should choose."""
    rng = np.random.default_rng(0)
    points = [dict(ls=ls, mixup_p=p, balance=b) for ls in (0.0, 0.1) for p in (0.0, 0.6) for b in ("none", "sampler")]
    true = np.array(
        [0.03 * (p["balance"] == "sampler") - 0.01 * (p["mixup_p"] > 0) + 0.004 * (p["ls"] > 0) for p in points]
    )
    won = dict(pooled=[], unpooled=[])
    for _ in range(1000):
        scores = 0.2 + true[:, None] + rng.normal(0, 0.014, (8, 2))
        group = [point(y, se=np.std(y, ddof=1) / math.sqrt(2), **p) for y, p in zip(scores, points)]
        won["pooled"].append(points.index(ranking.winner(group)[0].settings))
        won["unpooled"].append(points.index(unpooled(group).settings))
    shares = {rule: np.bincount(indices, minlength=8) / 1000 for rule, indices in won.items()}
    simplest = points.index(dict(ls=0.0, mixup_p=0.0, balance="sampler"))
    assert [share.argmax() for share in shares.values()] == [simplest, simplest]
    assert shares["pooled"].max() > shares["unpooled"].max() + 0.05


def test_no_winner_where_nothing_is_ranked():
    assert ranking.winner([point(0.5, wanting="to do")]) is None and ranking.winner([]) is None


def test_off_is_what_config_calls_off():
    """Every method that can be left out, at a value that Config takes; with all of them off no point uses a method."""
    off = Config(**OFF)
    assert ranking.methods(point(0, **{k: getattr(off, k) for k in OFF})) == 0
    on = {k: getattr(Config(), k) for k in OFF}
    assert ranking.methods(point(0, **on)) == sum(on[k] != v for k, v in OFF.items()) > 5


def test_schemes_are_compared_never_ranked(settings):
    """A split and three folds over the same four points: the scheme of the smaller error chooses; agreement by hand.
    The folds differ, and beside that the first two points take turns."""
    scores = {0.0: 0.50, 0.1: 0.52, 0.2: 0.60, 0.3: 0.70}
    split = {0.0: 0.61, 0.1: 0.90, 0.2: 0.55, 0.3: 0.58}  # ranks 3 4 1 2 against 1 2 3 4: 1 - 6 * 16 / 60 = -0.6
    study = begun(settings, [dict(ls=v, folds=f) for v in scores for f in (0, 3)], n=2)
    turns = {0.0: 0.01, 0.1: -0.01, 0.2: 0.0, 0.3: 0.0}
    fill(study, lambda c: scores[c.ls] + (0.1 + turns[c.ls]) * (c.fold - 1) if c.folds else split[c.ls])
    groups = ranking.points(study)
    assert sorted(groups) == ["folds 3", "val_split 0.2"] and all(len(g) == 4 for g in groups.values())
    scheme, won, _ = ranking.choose(study)
    assert scheme == "folds 3" and won.mean == pytest.approx(0.7) and won.settings == dict(ls=0.3)
    lines = {name: rest for name, *rest in ranking.schemes(study)}
    error, how = math.sqrt(4 * 0.01**2 / 6 / 3), "pooled over 4 points on the same 3 folds"
    assert lines["folds 3"] == [15, pytest.approx(error), how, pytest.approx(1.0)]
    assert lines["val_split 0.2"] == [
        5,
        pytest.approx(0.04),
        "the best one's own, by jackknife over pictures",
        pytest.approx(-0.6),
    ]


def test_val_split_and_split_seed_are_schemes_too(settings):
    study = begun(settings, [dict(val_split=v, split_seed=s) for v in (0.1, 0.2) for s in (0, 7)])
    assert sorted(ranking.points(study)) == [f"val_split {v}{s}" for v in (0.1, 0.2) for s in ("", ", split_seed 7")]
    assert ranking.varied(study) == []
    assert ranking.choose(study) is None


def test_main_effects_of_a_study(settings):
    """A planted additive score: the table says the planted differences, folds and seeds are blocks, no error stays."""
    effect = dict(none=0.0, sampler=0.06)
    study = begun(settings, [dict(ls=v, balance=b) for v in (0.0, 0.1, 0.2) for b in effect], n=2, folds=2)
    fill(study, lambda c: 0.5 + c.ls + effect[c.balance] + 0.1 * c.fold - 0.03 * c.seed)
    scores, blocks, levels = effects.factors(study, only_group(study))
    assert len(scores) == 24 and sorted(set(blocks)) == ["0/0", "0/1", "1/0", "1/1"]
    assert {k: set(v) for k, v in levels.items()} == {"ls": {"0.0", "0.1", "0.2"}, "balance": {"none", "sampler"}}
    effect_of, _, sd = stats.additive(scores, blocks, levels)
    assert {k: v for k, (v, _) in effect_of["ls"].items()} == pytest.approx({"0.0": -0.1, "0.1": 0.0, "0.2": 0.1})
    assert {k: v for k, (v, _) in effect_of["balance"].items()} == pytest.approx({"none": -0.03, "sampler": 0.03})
    assert sd < 1e-9


def test_a_setting_of_many_values_is_cut_in_thirds(settings):
    values = [0.001 * 2**k for k in range(9)]
    study = fill(begun(settings, [dict(lr=v) for v in values]), lambda c: 0.5)
    _, _, levels = effects.factors(study, only_group(study))
    assert [levels["lr"].count(x) for x in dict.fromkeys(levels["lr"])] == [3, 3, 3]
    assert list(dict.fromkeys(levels["lr"])) == ["0.001 to 0.008", "0.008 to 0.064", "0.064 to 0.256"]


def test_against_base_pairs_by_fold_and_seed(settings):
    study = begun(settings, [{}, dict(ls=0.1), dict(gamma=1.0)], n=2, folds=2)
    noise = {(0, 0): 0.0, (0, 1): 0.2, (1, 0): -0.1, (1, 1): 0.3}  # of the fold and seed: pairing takes it out
    gain = {(0, 0): 0.01, (0, 1): 0.02, (1, 0): 0.03, (1, 1): 0.04}
    fill(study, lambda c: 0.5 + noise[c.fold, c.seed] + (gain[c.fold, c.seed] if c.ls else 0) - 0.05 * bool(c.gamma))
    found = {p.label(): rest for p, *rest in effects.against_base(study, only_group(study))}
    y = np.array([[noise[k] for k in noise], [noise[k] + gain[k] for k in noise], [noise[k] - 0.05 for k in noise]])
    dummies = np.concatenate([np.kron(np.eye(3), np.ones((4, 1))), np.tile(np.eye(4), (3, 1))], 1)
    left = y.ravel() - dummies @ np.linalg.lstsq(dummies, y.ravel(), rcond=None)[0]
    half = 2.446912 * np.sqrt(left @ left / 6 * 2 / 4)  # Student's t on 2 x 3 degrees of freedom
    assert found["ls 0.1, gamma 0.0"] == [pytest.approx(0.025), pytest.approx(half, rel=1e-5), 4]
    assert found["ls 0.0, gamma 1.0"] == [pytest.approx(-0.05), pytest.approx(half, rel=1e-5), 4]
    (next((study.folder / "rows").glob("0000-*.json"))).unlink()
    assert effects.against_base(Study(study.folder), only_group(Study(study.folder))) == []


# what the command makes of it -----------------------------------------------------------------------------------------


def flags(settings, *more, name="s"):
    given = [x for k, v in settings.items() for x in (flag_of(k), spelled(v))]
    return [*given, "--name", name, *more]


def test_the_same_command_on_a_finished_study_only_concludes(settings, capsys, monkeypatch):
    """Killed between the last row and the table: table, recipe and picture are written, nothing is timed or trained."""
    monkeypatch.setattr(pace, "measure", None)
    study = begun(settings, [dict(ls=0.0), dict(ls=0.1), dict(ls=0.2)], n=2)
    fill(study, lambda c: {0.0: 0.3, 0.1: 0.9, 0.2: 0.89}[c.ls] + c.seed * 1e-3)
    study.run(0).mkdir()
    (study.run(0) / "last.pt").touch()
    assert sweep.main(flags(settings, "--grid", "ls=0,0.1,0.2", "--seeds", "2")) == 0
    said = capsys.readouterr()
    assert "**ls 0.1** | 0.9005 ± 0.0400 | 2 |" in said.out and "winner: ls 0.1" in said.out and "--n 10" in said.err
    assert len((study.folder / "results.csv").read_text().splitlines()) == 7 and (study.folder / "effects.png").exists()
    assert not (study.run(0) / "last.pt").exists()
    best = read_recipe(study.folder / "best.json")
    assert (best.ls, best.seed, best.fold, best.data) == (0.1, 0, 0, str(Path(settings["data"]).resolve()))
    line = next(x for x in said.err.splitlines() if "python train.py" in x).split("train.py ")[1].split()
    space = SettingsParser("train.py", "")
    space.add_settings()
    assert config_from_args(space.parse_args(line)).settings() == best.settings()


def test_status_of_an_unfinished_study(settings, capsys):
    study = begun(settings, [dict(ls=0.0), dict(ls=0.1), dict(ls=0.2)])
    write(study, 0, 0.5), write(study, 1, None, status="failed")
    before = sorted(p.relative_to(study.folder) for p in study.folder.rglob("*"))
    assert sweep.main(flags(settings, "--status")) == 0
    said = capsys.readouterr()
    assert "3 trials, 1 done, 1 failed, 1 to run now" in said.err
    assert "trial 1 failed: it blew up" in said.out and "Not ranked: 2" in said.out
    assert "under val_split 0.2, macro F1 on validation pictures at the last epoch ± the point's own" in said.out
    assert sorted(p.relative_to(study.folder) for p in study.folder.rglob("*")) == before
    assert sweep.main(flags(settings, "--status", name="none")) == 1 and "no study there" in capsys.readouterr().err


def test_without_validation_pictures_nothing_is_ranked(settings, capsys, monkeypatch):
    monkeypatch.setattr(pace, "measure", None)
    study = begun(settings, [{}], n=2, val_split=0)
    for i in range(2):
        write(study, i, None)
    assert sweep.main(flags({**settings, "val_split": 0}, "--seeds", "2")) == 0
    assert "no point to rank: no validation pictures" in capsys.readouterr().out
    assert not (study.folder / "best.json").exists()


TYPOS = [
    (["--grid", "lss=0.1"], "did you mean ls"),
    (["--grid", "data=a"], "no setting that a study can vary"),
    (["--grid", "ls=2"], "--ls takes a number"),
    (["--grid", "ls=0.1,"], "give SETTING=VALUE"),
    (["--grid", "ls"], "give SETTING=VALUE"),
    (["--grid", "ls=nan"], "--ls takes a number"),
    (["--grid", "flip=maybe"], "true or false"),
    (["--grid", "model="], "give SETTING"),
    (["--grid", "freeze"], "give SETTING"),
    (["--grid", "mixup_p=0.1:0.5"], "--mixup-by class"),
    (["--grid", "balance=sample"], "sampler"),
    (["--gird", "ls=0"], "--grid"),
    (["--random", "lr=0.1..1"], "--random lr"),
    (["--random", "4"], "give the settings"),
    (["--sobol", "0", "lr=0.1..1"], "whole number"),
    (["--sobol", "4", "lr=0..1:log"], "a number from 1e-08"),
    (["--sobol", "4", "ls=0..0.5:log"], "above 0"),
    (["--sobol", "4", "lr=0.1..x"], "--lr"),
    (["--sobol", "4", "lr=0.1..1:lin"], "LOW..HIGH"),
    (["--random", "4", "lr=0.1..1,2"], "LOW..HIGH"),
    (["--random", "2", "balance=none..sampler"], "plain numbers"),
    (["--random", "2", "--sobol", "2"], "choose one of"),
    (["--around", "nowhere.json", "lr=x2"], "nowhere.json"),
    (["--ablate", "nowhere.json"], "nowhere.json"),
    (["--halving", "1"], "--halving 1"),
    (["--seeds", "0"], "--seeds 0"),
    (["--seeds", "two"], "--seeds"),
    (["--lr", "fast"], "--lr"),
    (["--pack", "many"], "--pack many"),
    (["--pack", "0"], "--pack 0"),
    (["--shard", "2/2"], "--shard 2/2"),
    (["--shard", "1"], "--shard 1"),
    (["--devices", "0,x"], "--devices x"),
    (["--devices", "0"], "drop it"),
    (["--name", "a/b"], "plain folder name"),
]


@pytest.mark.parametrize("words, said", TYPOS)
def test_a_typo_costs_nothing(settings, tmp_path, capsys, words, said):
    try:
        code = sweep.main(flags(settings) + words)
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and err.count("\n") == 1 and err.startswith("sweep.py: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--n", "0"], "--n 0"),
        (["--pack", "x"], "--pack x"),
        (["--shard", "x"], "--shard x"),
        (["--run", "a", "-c", "b"], "give one"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_a_typo_of_seeds_costs_nothing(settings, tmp_path, capsys, words, said):
    assert seeds.main(flags(settings) + words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_validation_folder_takes_the_place_of_folds_and_that_is_said(settings, pictures, tmp_path, capsys):
    root = tmp_path / "parted"
    shutil.copytree(pictures / "train", root / "train")
    for name in ("blue", "green", "red"):
        (root / "valid" / name).mkdir(parents=True)
        (root / "train" / name / "0.png").rename(root / "valid" / name / "0.png")
    base = made(settings, data=str(root), folds=3)
    plain, points = without_folds(base, [dict(ls=0.1), dict(folds=2, ls=0.2)])
    assert (plain.folds, points) == (0, [dict(ls=0.1), dict(ls=0.2)])
    assert (
        capsys.readouterr().err
        == f"{root} has a validation folder, which scores every trial: --folds gives way to it\n"
    )
    study = begin_study(tmp_path / "s", plain, sweep.trials(plain, points, 1))
    assert len(study.trials) == 2
    assert without_folds(plain, []) == (plain, []) and without_folds(made(settings, folds=3), [])[0].folds == 3
    assert capsys.readouterr().err == ""
    # The last training takes all pictures.
    everything = prepare_pictures(dataclasses.replace(plain, val_split=0))
    assert (len(everything.train), len(everything.val)) == (24, 0)
    assert len(prepare_pictures(plain).val) == 3


# what is tried --------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination():
    assert sweep.grid(["ls=0,0.1", "--mixup-p=0.2", "label-smoothing=0.3"]) == [dict(ls=0.3, mixup_p=0.2)] * 2
    assert sweep.grid(["balance=none,sampler", "flip=on,off"]) == [
        dict(balance=b, flip=f) for b in ("none", "sampler") for f in (True, False)
    ]
    assert sweep.grid([]) == [{}]
    assert sweep.grid(["freeze=,body"]) == [dict(freeze=""), dict(freeze="body")]  # nothing frozen, or the body
    assert sweep.grid(["init="]) == [dict(init="")]


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_a_search_depends_on_its_name_and_number_alone(kind):
    specs = ["lr=1e-4..1e-2:log", "batch_size=8..64", "ls=0,0.1"]
    few, many = (sweep.search(specs, n, sweep.uniforms(kind, "a", n, 3)) for n in (8, 64))
    assert many[:8] == few and few != sweep.search(specs, 8, sweep.uniforms(kind, "b", 8, 3))
    lr = np.log10([p["lr"] for p in many])
    assert all(-4 <= v <= -2 for v in lr)
    assert all(isinstance(p["batch_size"], int) and 8 <= p["batch_size"] <= 64 for p in many)
    assert {p["ls"] for p in many} == {0.0, 0.1}
    counts = np.histogram(lr, 4, (-4, -2))[0]
    assert counts.min() >= (14 if kind == "sobol" else 6)


def test_one_at_a_time_and_ablations():
    base = Config(**{**PLAIN, "ls": 0.1, "flip": False})
    assert sweep.around(base, ["lr=x0.5,x2,0.1", "batch_size=x2", "opt=sgd"]) == [
        {},
        dict(lr=0.0015),
        dict(lr=0.006),
        dict(lr=0.1),
        dict(batch_size=16),
        dict(opt="sgd"),
    ]
    assert sweep.ablations(base) == [{}, dict(weight_decay=0.0), dict(schedule="constant"), dict(ls=0.0)]


def test_folds_and_seeds_vary_slowest_and_splits_of_folds_are_one():
    base = Config(**PLAIN)
    found = sweep.trials(base, [dict(ls=0.1), dict(folds=2, val_split=0.3), dict(folds=2, val_split=0.1)], 2)
    assert found == [
        dict(ls=0.1),
        dict(folds=2),
        dict(folds=2),
        dict(folds=2, fold=1),
        dict(folds=2, fold=1),
        dict(ls=0.1, seed=1),
        dict(folds=2, seed=1),
        dict(folds=2, seed=1),
        dict(folds=2, fold=1, seed=1),
        dict(folds=2, fold=1, seed=1),
    ]


def test_whole_numbers_of_a_range_come_equally_often():
    """10,000 random draws of 1 to 5: each within five standard errors of a fifth; in either order; log ranges reach
    both ends."""
    for low, high in ((1, 5), (5, 1)):
        draws = sweep.uniforms("random", "even", 10_000, 1)
        values = [point["epochs"] for point in sweep.search([f"epochs={low}..{high}"], 10_000, draws)]
        share = np.bincount(values, minlength=6)[1:] / 10_000
        assert len(share) == 5 and np.abs(share - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / 10_000)
    ends = np.array([[0.0], [1 - 1e-12]])
    found = sweep.search(["batch_size=16..64:log"], 2, ends)
    assert [point["batch_size"] for point in found] == [16, 64]


def test_the_report_says_how_many_classes_macro_f1_is_not_over(settings):
    study = begun(settings, [{}, {"ls": 0.1}])
    for i, absent in enumerate((0, 2)):
        write(study, i, 0.5 + 0.1 * i, absent_classes=absent)
    said = "\n".join(findings.report(study))
    assert "2 classes without a validation picture in the split: macro F1 is over the others." in said
    write(study, 1, 0.6, absent_classes=0)
    assert "without a validation picture" not in "\n".join(findings.report(Study(study.folder)))


def test_on_a_terminal_the_columns_of_a_table_are_aligned():
    lines = ["words", "| point | n | |\n| --- | --- | --- |", "| a \\| b | 12 | beyond noise |", "| c | 3 | |", "\nend"]
    assert list(findings.aligned(lines, False)) == "\n".join(lines).split("\n")
    assert list(findings.aligned(lines, True)) == [
        "words",
        "| point  | n   |              |",
        "| ------ | --- | ------------ |",
        "| a \\| b | 12  | beyond noise |",
        "| c      | 3   |              |",
        "",
        "end",
    ]
