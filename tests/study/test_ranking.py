"""What a table says: candidates, the winner, schemes, effects, on studies whose rows are written by hand, untrained."""

import dataclasses
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy
from sklearn.metrics import f1_score

import seeds
import sweep
from config import OFF, Config, flag_of, read_recipe, spelled
from conftest import PLAIN
from engine.build import prepare_pictures
from errors import LongtailError
from reporting import findings
from samples import answered, held_out_files
from study import effects, pace, ranking, stats
from study.begin import begin_study, without_folds
from study.held_out import SHOWN, HeldOut
from study.metric import METRICS
from study.table import Study
from test_train import made


def begun(settings, candidates, halving=0, n=1, **base):
    """A study of every candidate on every fold and seed, as sweep.py lays it out."""
    c = made(settings, **{"monitor": "last", **base})
    folder = Path(settings["project"]) / "s"
    return begin_study(folder, c, sweep.trials(c, candidates, n), halving)


def write(study, i, score, until=None, status="ok", **more):
    """The row of trial i and, at its last epoch, its answers; `score` None where it was never scored.

    Scores that are multiples of 0.01 are those of its answers too.
    """
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
        if until == c.epochs:
            answered(study.run(i), score, first=1000 * c.fold)
    (study.folder / "rows" / f"{i:04d}-{until}.json").write_text(json.dumps(row | more))


def fill(study, score):
    """Rows of all trials by score(config)."""
    for i in range(len(study.trials)):
        write(study, i, score(study.config(i)))
    return study


def chosen(study):
    return ranking.choose(ranking.candidates(study))


def only_group(study):
    (group,) = ranking.candidates(study).values()
    return group


def test_a_candidate_is_scored_on_its_folds_together_and_then_over_seeds(settings):
    """Its score and error: scikit-learn on all folds' pictures of a seed, each left out in turn."""
    study = fill(begun(settings, [dict(ls=0.0), dict(ls=0.3)], n=2, folds=3), lambda c: 0.5)
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, (3, 8))
    said = {}
    for i in range(12):
        c = study.config(i)
        said[c.ls, c.seed, c.fold] = rng.normal(0, 1, (8, 4)) + np.eye(4)[targets[c.fold]]
        held_out_files(study.run(i), said[c.ls, c.seed, c.fold], targets[c.fold], first=100 * c.fold)
    assert list(ranking.candidates(study)) == ["folds 3"]
    for metric in METRICS:
        for p in ranking.candidates(study, metric)["folds 3"]:
            assert list(p.settings) == ["ls"] and len(p.trials) == len(p.rows) == 6 and p.wanting == ""
            logits = [np.concatenate([said[p.settings["ls"], seed, fold] for fold in range(3)]) for seed in (0, 1)]
            scores = [independent(metric, targets.ravel(), of_seed) for of_seed in logits]
            assert p.score == pytest.approx(np.mean(scores), rel=1e-6)
            assert p.pictures == 24
        assert p.error == pytest.approx(brute_force(metric, targets.ravel(), logits), rel=1e-5)
    folds = [independent("macro_f1", targets[fold], said[0.0, 0, fold]) for fold in range(3)]
    together = independent("macro_f1", targets.ravel(), np.concatenate([said[0.0, 0, fold] for fold in range(3)]))
    assert abs(np.mean(folds) - together) > 0.01  # else this test could not tell


def independent(metric, targets, logits):
    """The metric by other means."""
    if metric == "nll":
        return -scipy.special.log_softmax(logits, 1)[range(len(targets)), targets].mean()
    predicted = logits.argmax(1)
    return (predicted == targets).mean() if metric == "acc" else f1_score(targets, predicted, average="macro")


def brute_force(metric, targets, first, second=None):
    """The standard error of a mean over two seeds, or of a difference of two such, leaving each picture out in turn:
    pictures and seeds as random effects, by the mean squares of a table of pseudo-values."""
    n = len(targets)

    def scores(kept):
        found = np.array([independent(metric, targets[kept], logits[kept]) for logits in first])
        if second is not None:
            found -= [independent(metric, targets[kept], logits[kept]) for logits in second]
        return found

    everything = np.ones(n, bool)
    pseudo = np.stack([n * scores(everything) - (n - 1) * scores(np.arange(n) != i) for i in range(n)], 1)  # [2, n]
    rows, columns = pseudo.mean(1, keepdims=True), pseudo.mean(0, keepdims=True)
    of_pictures = 2 * ((columns - pseudo.mean()) ** 2).sum() / (n - 1)
    of_both = ((pseudo - rows - columns + pseudo.mean()) ** 2).sum() / (n - 1)
    of_seeds = n * np.var(scores(everything), ddof=1)
    return math.sqrt((of_pictures + max(of_seeds - of_both, 0)) / (2 * n))


def test_the_difference_of_two_candidates_is_paired_picture_by_picture(settings):
    """Its error is smaller than that of unpaired scores where the two answer alike, and is the brute force's."""
    study = fill(begun(settings, [dict(ls=0.0), dict(ls=0.3)], n=2, folds=2), lambda c: 0.5)
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 4, 20)
    shared = rng.normal(0, 1, (20, 4)) + np.eye(4)[targets]
    said = {}
    for i in range(len(study.trials)):
        c = study.config(i)
        rows = slice(0, 9) if c.fold == 0 else slice(9, 20)
        own = said.setdefault((c.ls, c.seed), shared + rng.normal(0, 0.5, (20, 4)))
        held_out_files(study.run(i), own[rows], targets[rows], first=100 * c.fold)
    for metric in METRICS:
        first, second = ranking.candidates(study, metric)["folds 2"]
        by, error = ranking.behind(first, second)
        sides = [[said[ls, seed] for seed in (0, 1)] for ls in (0.0, 0.3)]
        expected = [np.mean([independent(metric, targets, logits) for logits in side]) for side in sides]
        sign = -1 if metric == "nll" else 1
        assert by == pytest.approx(sign * (expected[0] - expected[1]), rel=1e-5, abs=1e-7)
        assert error == pytest.approx(brute_force(metric, targets, *sides), rel=1e-5)
        assert error < math.hypot(first.error, second.error)


def test_a_mean_over_pictures_has_the_plain_paired_error(settings):
    study = fill(begun(settings, [dict(ls=0.0), dict(ls=0.3)]), lambda c: 0.5)
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 4, 40)
    logits = [rng.normal(0, 1, (40, 4)) + np.eye(4)[targets] for _ in range(2)]
    for i in range(2):
        held_out_files(study.run(i), logits[i], targets)
    right = [each.argmax(1) == targets for each in logits]
    first, second = ranking.candidates(study, "acc")["val_split 0.2"]
    assert first.error == pytest.approx(scipy.stats.sem(right[0].astype(float)))
    assert ranking.behind(first, second).error == pytest.approx(scipy.stats.sem(right[0] * 1.0 - right[1]))
    log_p = [scipy.special.log_softmax(each, 1)[range(40), targets] for each in logits]
    first, second = ranking.candidates(study, "nll")["val_split 0.2"]
    assert ranking.behind(first, second).error == pytest.approx(scipy.stats.sem(log_p[0] - log_p[1]), rel=1e-5)


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda run: (run / "val_logits.npy").unlink(), "trial 1 has no .*val_logits.npy any more"),
        (lambda run: shutil.rmtree(run), "trial 1 has no .*classes.txt any more: without its row it runs again"),
        (lambda run: (run / "val_logits.npy").write_bytes(b"no"), "what trial 1 held out cannot be read in"),
        (lambda run: np.save(run / "val_logits.npy", np.zeros((3, 2))), "does not fit 200 pictures of 2 classes"),
        (lambda run: np.save(run / "val_logits.npy", np.full((200, 2), np.nan)), "does not fit"),
        (lambda run: (run / "val_predictions.csv").write_text("path,true\na,b\n"), "cannot be read"),
        (
            lambda run: held_out_files(run, np.eye(2), np.arange(2), first=7),
            "held out other pictures than those of most",
        ),
    ],
)
def test_a_trial_whose_files_are_gone_or_damaged_is_not_ranked(settings, harm, said):
    study = fill(begun(settings, [dict(ls=v) for v in (0.0, 0.1, 0.2)]), lambda c: 0.5 + c.ls)
    harm(study.run(1))
    group = only_group(study)
    assert [bool(p.wanting) for p in group] == [False, True, False]
    assert re.search(said, group[1].wanting) and "\n" not in group[1].wanting
    assert chosen(study).candidate is group[2] or chosen(study).candidate.settings == dict(ls=0.2)


def test_a_seed_that_lacks_a_fold_is_said(settings):
    study = begun(settings, [{}], n=2, folds=2)
    spec = json.loads((study.folder / "study.json").read_text())
    spec["trials"].pop()
    (study.folder / "study.json").write_text(json.dumps(spec))
    study = fill(Study(study.folder), lambda c: 0.5)
    assert only_group(study)[0].wanting == "trial 2 held out other pictures than trial 0"


def test_why_a_candidate_is_not_ranked(settings):
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
    assert math.isnan(group[0.2].score) and math.isnan(group[0.4].error)
    scheme, won, reason = chosen(study)
    assert (scheme, won.settings, won.score) == ("val_split 0.2", dict(ls=0.0), pytest.approx(0.6))
    assert reason == "no other candidate can be ranked"


def test_halving_ranks_only_who_ran_to_the_end(settings):
    study = begun(settings, [dict(ls=v, gamma=g) for v in (0.0, 0.1) for g in (0.0, 1.0)], halving=2, epochs=4)
    for i, score in enumerate((0.8, 0.9, 0.2, 0.1)):
        write(study, i, score, until=1)
    assert study.jobs() == [(0, 2), (1, 2)]
    gone = "stopped at epoch 1 by halving"
    assert [p.wanting for p in only_group(study)] == ["to do", "to do", gone, gone]
    write(study, 0, 0.6, until=2), write(study, 1, 0.5, until=2)
    assert study.jobs() == [(0, 4)]
    assert chosen(study) is None
    write(study, 0, 0.3, until=4)
    assert not study.jobs() and [r["macro_f1"] for r in study.latest().values()] == [0.3, 0.5, 0.2, 0.1]
    assert [p.wanting for p in only_group(study)] == ["", *(f"stopped at epoch {e} by halving" for e in (2, 1, 1))]
    assert chosen(study).candidate.score == pytest.approx(0.3)


def test_halving_passes_over_candidates_with_a_failed_trial_and_breaks_ties_by_number(settings):
    study = begun(settings, [dict(ls=v) for v in (0.0, 0.1, 0.2, 0.3, 0.4)], halving=3, n=2, epochs=9)
    for i in range(10):
        ls, seed = study.config(i).ls, study.config(i).seed
        write(study, i, 0.9 if ls == 0.1 else 0.5, until=1, status="failed" if (ls, seed) == (0.1, 1) else "ok")
    on = study.jobs()  # ceil(4 / 3) = 2 candidates, the first of equals
    assert {study.config(i).ls for i, _ in on} == {0.0, 0.2} and len(on) == 4 and {until for _, until in on} == {3}


def test_halving_ends_where_every_trial_failed(settings):
    study = begun(settings, [dict(ls=0.0), dict(ls=0.1)], halving=2, epochs=4)
    for i in range(2):
        write(study, i, None, until=1, status="failed")
    assert study.jobs() == [] and chosen(study) is None


NUMBERS = itertools.count()


def candidate(score, error=0.05, wanting="", metric="macro_f1", **settings):
    """A candidate whose difference from any other has `error`: each has two pictures of its own, of 200."""
    left_out = np.zeros((1, 200))
    own = 2 * (next(NUMBERS) % 100)
    left_out[0, own : own + 2] = np.array([1, -1]) * error / 2 * math.sqrt(200 / 199)
    scores = dict.fromkeys(SHOWN, np.full(1, 0.5)) | {metric: np.array([float(score)])}
    held_out = None if wanting else HeldOut("", 0, scores, metric, left_out)
    return ranking.Candidate([0], settings, [], wanting, metric, held_out)


NONE = dict(ls=0.0, mixup_p=0.0, balance="none")


@pytest.mark.parametrize(
    "group, won, said",
    [
        (
            [candidate(0.70, ls=0.1), candidate(0.80, ls=0.2)],
            1,
            "no other candidate is within one standard error of it; the next is 0.1000 behind, ± 0.0500",
        ),
        (
            [candidate(0.76, ls=0.0), candidate(0.80, ls=0.2)],
            0,
            "the best, 0.8000 (ls 0.2), it is the simplest (0 methods switched on); it is 0.0400 behind, ± 0.0500",
        ),
        (
            [candidate(0.74, ls=0.0), candidate(0.76, ls=0.1), candidate(0.80, ls=0.2)],
            2,
            "of 2 candidates within one standard error",
        ),
        ([candidate(0.80, ls=0.1), candidate(0.80, ls=0.2)], 0, "(1 method switched on)"),  # a tie in all: the first
        (
            [
                candidate(0.78, **NONE | dict(ls=0.1)),
                candidate(0.79, **NONE | dict(ls=0.1, mixup_p=0.2)),
                candidate(0.77, **NONE | dict(balance="sampler")),
                candidate(0.80, **NONE | dict(ls=0.1, mixup_p=0.4)),
            ],
            0,
            "of 4 candidates",
        ),  # of two with one method each the better
        (
            [candidate(0.76, lr=1e-3), candidate(0.80, lr=1e-2)],
            1,
            "it scores best, and none is simpler",
        ),  # lr is no method
        ([candidate(0.99, wanting="to do", ls=0.0), candidate(0.80, ls=0.2)], 1, "no other candidate can be ranked"),
        # Without a known error only equals are near.
        ([candidate(0.80, math.nan, ls=0.2), candidate(0.80, math.nan, ls=0.0)], 1, "simplest"),
        ([candidate(0.79, math.nan, ls=0.0), candidate(0.80, math.nan, ls=0.2)], 1, "no other"),
        # Of losses the lowest is the best.
        ([candidate(2.0, metric="nll", ls=0.1), candidate(2.1, metric="nll", ls=0.0)], 0, "the next is 0.1000 behind"),
        ([candidate(2.0, metric="nll", ls=0.1), candidate(2.02, metric="nll", ls=0.0)], 1, "0.0200 behind, ± 0.0500"),
    ],
)
def test_the_one_standard_error_rule(group, won, said):
    found, reason = ranking.winner(group)
    assert found is group[won] and said in reason


def test_the_yardstick_is_the_mean_square_of_the_errors_behind_the_best():
    group = [candidate(0.7, 0.02, ls=0.1), candidate(0.6, 0.02, ls=0.2), candidate(0.5, 0.06, ls=0.3)]
    errors = [ranking.behind(group[0], other).error for other in group[1:]]
    assert errors == pytest.approx([0.02, math.sqrt((0.02**2 + 0.06**2) / 2)])
    assert ranking.yardstick(group) == pytest.approx(math.sqrt((errors[0] ** 2 + errors[1] ** 2) / 2))
    assert ranking.yardstick(group[:1]) == group[0].error == pytest.approx(0.02 / math.sqrt(2))


def test_no_winner_where_nothing_is_ranked():
    assert ranking.winner([candidate(0.5, wanting="to do")]) is None and ranking.winner([]) is None


def test_off_is_what_config_calls_off():
    """Every method that can be left out, at a value that Config takes; with all of them off none uses a method."""
    off = Config(**OFF)
    assert ranking.methods(candidate(0, **{k: getattr(off, k) for k in OFF})) == 0
    on = {k: getattr(Config(), k) for k in OFF}
    assert ranking.methods(candidate(0, **on)) == sum(on[k] != v for k, v in OFF.items()) > 5


def test_schemes_are_compared_never_ranked(settings):
    """A split and three folds over the same four candidates: three times the pictures tell them apart better. The
    split's level is higher, which decides nothing; agreement by hand."""
    scores = {0.0: 0.50, 0.1: 0.52, 0.2: 0.60, 0.3: 0.70}
    split = {0.0: 0.81, 0.1: 0.90, 0.2: 0.72, 0.3: 0.79}  # ranks 3 4 1 2 against 1 2 3 4: 1 - 6 * 16 / 60 = -0.6
    study = begun(settings, [dict(ls=v, folds=f) for v in scores for f in (0, 3)], n=2)
    fill(study, lambda c: scores[c.ls] if c.folds else split[c.ls])
    groups = ranking.candidates(study)
    assert sorted(groups) == ["folds 3", "val_split 0.2"] and all(len(g) == 4 for g in groups.values())
    scheme, won, _ = ranking.choose(groups)
    assert scheme == "folds 3" and won.score == pytest.approx(0.7) and won.settings == dict(ls=0.3)
    lines = {name: rest for name, *rest in ranking.schemes(study, groups)}
    assert [lines[name][0] for name in groups] == [200, 600] or [lines[name][0] for name in groups] == [600, 200]
    assert lines["folds 3"][1] < lines["val_split 0.2"][1]
    assert lines["folds 3"][2] == pytest.approx(1.0) and lines["val_split 0.2"][2] == pytest.approx(-0.6)


def test_val_split_and_split_seed_are_schemes_too(settings):
    study = begun(settings, [dict(val_split=v, split_seed=s) for v in (0.1, 0.2) for s in (0, 7)])
    assert sorted(ranking.candidates(study)) == [
        f"val_split {v}{s}" for v in (0.1, 0.2) for s in ("", ", split_seed 7")
    ]
    assert ranking.varied(study) == []
    assert chosen(study) is None


def test_main_effects_of_a_study(settings):
    """A planted additive score: the table says the planted differences, folds and seeds are blocks, no error stays."""
    effect = dict(none=0.0, sampler=0.06)
    study = begun(settings, [dict(ls=v, balance=b) for v in (0.0, 0.1, 0.2) for b in effect], n=2, folds=2)
    fill(study, lambda c: 0.5 + c.ls + effect[c.balance] + 0.1 * c.fold - 0.03 * c.seed)
    scores, blocks, levels = effects.factors(study, only_group(study))
    assert len(scores) == 24 and sorted(set(blocks)) == ["0/0", "0/1", "1/0", "1/1"]
    assert {k: set(v) for k, v in levels.items()} == {"ls": {"0.0", "0.1", "0.2"}, "balance": {"none", "sampler"}}
    effect_of, _, sd, _ = stats.additive(scores, blocks, levels)
    assert {k: v for k, (v, _) in effect_of["ls"].items()} == pytest.approx({"0.0": -0.1, "0.1": 0.0, "0.2": 0.1})
    assert {k: v for k, (v, _) in effect_of["balance"].items()} == pytest.approx({"none": -0.03, "sampler": 0.03})
    assert sd < 1e-9


def test_two_candidates_of_one_split_have_effects_without_an_error(settings):
    study = fill(begun(settings, [dict(ls=0.0), dict(ls=0.1)]), lambda c: 0.5 + c.ls)
    said = "\n".join(findings.effects(study, only_group(study)))
    assert "too few trials for an error" in said and "nan" not in said
    assert "| ls | 0.0 | -0.0500 |" in said and "| ls | 0.1 | +0.0500 |" in said


def test_a_setting_of_many_values_is_cut_in_thirds(settings):
    values = [0.001 * 2**k for k in range(9)]
    study = fill(begun(settings, [dict(lr=v) for v in values]), lambda c: 0.5)
    _, _, levels = effects.factors(study, only_group(study))
    assert [levels["lr"].count(x) for x in dict.fromkeys(levels["lr"])] == [3, 3, 3]
    assert list(dict.fromkeys(levels["lr"])) == ["0.001 to 0.008", "0.008 to 0.064", "0.064 to 0.256"]


def test_against_base_pairs_pictures(settings):
    study = begun(settings, [{}, dict(ls=0.1), dict(gamma=1.0)], n=2, folds=2)
    fill(study, lambda c: 0.5 + 0.1 * c.fold + (0.04 if c.ls else 0) - 0.1 * bool(c.gamma))
    found = {p.label(): rest for p, *rest in effects.against_base(study, only_group(study))}
    # Answers are right for the first pictures of a fold: 4 (or 10) of 100 differ, in both folds and for both seeds.
    for label, gain in (("ls 0.1, gamma 0.0", 0.04), ("ls 0.0, gamma 1.0", -0.1)):
        mean, half_width = found[label]
        assert mean == pytest.approx(gain)
        plain = math.sqrt(abs(gain) * (1 - abs(gain)) / 400)  # of accuracy, which is near
        assert half_width == pytest.approx(2 * plain, rel=0.05)
    (next((study.folder / "rows").glob("0000-*.json"))).unlink()
    assert effects.against_base(Study(study.folder), only_group(Study(study.folder))) == []


@pytest.mark.parametrize("metric", METRICS)
def test_main_effects_are_of_the_metric_that_ranks(settings, metric):
    study = fill(begun(settings, [dict(ls=v) for v in (0.0, 0.1, 0.2)], folds=2), lambda c: 0.5 + c.ls)
    group = ranking.candidates(study, metric)["folds 2"]
    scores, _, _ = effects.factors(study, group)
    assert scores == [row[metric] for p in group for row in p.rows]
    assert any(METRICS[metric] in line for line in findings.effects(study, group))


@pytest.mark.parametrize("metric, won", [("macro_f1", 0.1), ("acc", 0.2), ("nll", 0.0)])
def test_the_metric_decides_who_wins(settings, metric, won, capsys, monkeypatch):
    """Three candidates, each the best by one metric; the study is not trained again for another metric."""
    monkeypatch.setattr(pace, "measure", None)
    targets = np.array([0] * 90 + [1] * 10)
    study = begun(settings, [dict(ls=v) for v in (0.0, 0.1, 0.2)])
    for i, ls in enumerate((0.0, 0.1, 0.2)):
        write(study, i, 0.5)
        if ls == 0.2:  # always the frequent class
            logits = np.tile([6.0, 0.0], (100, 1))
        else:  # the rare one is found too, at the price of 15 of the frequent; surely, or hardly
            logits = np.eye(2)[np.where(np.arange(100) < 15, 1, targets)] * (1.6 if ls == 0.0 else 9.0)
        if ls == 0.1:
            logits[15] = [9.0, 0.0]
        if ls == 0.0:
            logits[15] = [0.0, 1.6]
        held_out_files(study.run(i), logits, targets)
    groups = ranking.candidates(study, metric)
    assert ranking.ranked(groups["val_split 0.2"])[0].settings == dict(ls=won)
    words = flags(settings, "--grid", "ls=0,0.1,0.2", "--metric", metric)
    assert sweep.main(words) == 0
    said = capsys.readouterr()
    assert f"by {METRICS[metric]}" in said.out and Study(study.folder).metric == metric
    assert sweep.main(flags(settings, "--grid", "ls=0,0.1,0.2")) == 0  # who says nothing changes nothing
    assert capsys.readouterr().out == said.out
    assert sweep.main([*words, "--status", "--metric", "acc"]) == 0
    assert "by accuracy on" in capsys.readouterr().out and Study(study.folder).metric == metric


def test_halving_goes_on_by_the_metric_and_then_keeps_it(settings):
    base = dict(monitor="last", epochs=4)
    folder = Path(settings["project"]) / "s"
    trials = [dict(ls=v) for v in (0.1, 0.2, 0.3, 0.4)]
    study = begin_study(folder, made(settings, **base), trials, 2, "nll")
    for i, (f1, loss) in enumerate([(0.9, 3.0), (0.8, 2.9), (0.1, 1.0), (0.2, 1.1)]):
        write(study, i, f1, until=1, nll=loss)
    assert study.jobs() == [(2, 2), (3, 2)]
    with pytest.raises(LongtailError, match="--metric nll, not macro_f1: choose another --name"):
        begin_study(folder, made(settings, **base), trials, 2, "macro_f1")
    assert begin_study(folder, made(settings, **base), trials, 2).metric == "nll"


def test_a_study_without_a_metric_is_one_of_macro_f1(settings):
    study = begun(settings, [{}])
    spec = json.loads((study.folder / "study.json").read_text())
    assert spec.pop("metric") == "macro_f1"
    (study.folder / "study.json").write_text(json.dumps(spec))
    assert Study(study.folder).metric == "macro_f1" and begun(settings, [{}]).metric == "macro_f1"
    (study.folder / "study.json").write_text(json.dumps(spec | dict(metric="f1")))
    with pytest.raises(LongtailError, match="'metric' must be one of macro_f1, acc, nll, not 'f1'"):
        Study(study.folder)


# what the command makes of it -----------------------------------------------------------------------------------------


def flags(settings, *more, name="s"):
    given = [x for k, v in settings.items() for x in (flag_of(k), spelled(v))]
    return [*given, "--name", name, *more]


def test_the_same_command_on_a_finished_study_only_concludes(settings, capsys, monkeypatch):
    """Killed between the last row and the table: table, recipe and picture are written, nothing is timed or trained."""
    monkeypatch.setattr(pace, "measure", None)
    study = begun(settings, [dict(ls=0.0), dict(ls=0.1), dict(ls=0.2)], n=2)
    fill(study, lambda c: {0.0: 0.3, 0.1: 0.9, 0.2: 0.88}[c.ls])
    (study.run(0) / "last.pt").touch()
    assert sweep.main(flags(settings, "--grid", "ls=0,0.1,0.2", "--seeds", "2")) == 0
    said = capsys.readouterr()
    assert (
        "| **ls 0.1** | 0.9000 ± 0.0213 | - | 2 |" in said.out and "winner: ls 0.1" in said.out and "--n 10" in said.err
    )
    assert len((study.folder / "results.csv").read_text().splitlines()) == 7 and (study.folder / "effects.png").exists()
    assert not (study.run(0) / "last.pt").exists()
    best = read_recipe(study.folder / "best.json")
    assert (best.ls, best.seed, best.fold, best.data) == (0.1, 0, 0, str(Path(settings["data"]).resolve()))
    assert f"the winner is {study.folder / 'best.json'}\n" in said.err


def test_status_of_an_unfinished_study(settings, capsys):
    study = begun(settings, [dict(ls=0.0), dict(ls=0.1), dict(ls=0.2)])
    write(study, 0, 0.5), write(study, 1, None, status="failed")
    before = sorted(p.relative_to(study.folder) for p in study.folder.rglob("*"))
    assert sweep.main(flags(settings, "--status")) == 0
    said = capsys.readouterr()
    assert "3 trials, 1 done, 1 failed, 1 to run now" in said.err
    assert "trial 1 failed: it blew up" in said.out and "Not ranked: 2" in said.out
    assert "1 candidate under val_split 0.2, by macro F1 on 200 validation pictures at the last epoch." in said.out
    assert sorted(p.relative_to(study.folder) for p in study.folder.rglob("*")) == before
    assert sweep.main(flags(settings, "--status", name="none")) == 1 and "no study there" in capsys.readouterr().err


def test_without_validation_pictures_nothing_is_ranked(settings, capsys, monkeypatch):
    monkeypatch.setattr(pace, "measure", None)
    study = begun(settings, [{}], n=2, val_split=0)
    for i in range(2):
        write(study, i, None)
    assert sweep.main(flags({**settings, "val_split": 0}, "--seeds", "2")) == 0
    assert "no candidate to rank: no validation pictures" in capsys.readouterr().out
    assert not (study.folder / "best.json").exists()


TYPOS = [
    (["--grid", "lss=0.1"], "did you mean ls"),
    (["--grid", "data=a"], "no setting that a study can vary"),
    (["--grid", "ls=2"], "--ls takes one number"),
    (["--grid", "ls=0.1,"], "give SETTING=VALUE"),
    (["--grid", "ls"], "give SETTING=VALUE"),
    (["--grid", "ls=nan"], "--ls takes one number"),
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
    (["--metric", "f1"], "'macro_f1', 'acc', 'nll'"),
    (["--pack", "many"], "--pack many"),
    (["--pack", "0"], "--pack 0"),
    (["--shard", "2/2"], "--shard 2/2"),
    (["--shard", "1"], "--shard 1"),
    (["--devices", "0,x"], "--devices x"),
    (["--devices", "0"], "drop it"),
    (["--until", "1"], "leave --until out"),
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
    plain, candidates = without_folds(base, [dict(ls=0.1), dict(folds=2, ls=0.2)])
    assert (plain.folds, candidates) == (0, [dict(ls=0.1), dict(ls=0.2)])
    assert (
        capsys.readouterr().err
        == f"{root} has a validation folder, which scores every trial: --folds gives way to it\n"
    )
    study = begin_study(tmp_path / "s", plain, sweep.trials(plain, candidates, 1))
    assert len(study.trials) == 2 and list(ranking.candidates(study)) == ["the data's own split"]
    assert ranking.scheme(dataclasses.replace(plain, val_split=0.3), own=True) == "val_split 0.3"
    assert without_folds(plain, []) == (plain, []) and without_folds(made(settings, folds=3), [])[0].folds == 3
    assert capsys.readouterr().err == ""
    # The last training takes all pictures.
    everything = prepare_pictures(dataclasses.replace(plain, val_split=0))
    assert (len(everything.train), len(everything.val)) == (24, 0)
    assert len(prepare_pictures(plain).val) == 3


# what is tried --------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination():
    assert sweep.grid(["label-smoothing=0,0.1", "--mixup-p=0.2"]) == [dict(ls=ls, mixup_p=0.2) for ls in (0, 0.1)]
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
    base = Config(**PLAIN, monitor="last")
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
        values = [candidate["epochs"] for candidate in sweep.search([f"epochs={low}..{high}"], 10_000, draws)]
        share = np.bincount(values, minlength=6)[1:] / 10_000
        assert len(share) == 5 and np.abs(share - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / 10_000)
    ends = np.array([[0.0], [1 - 1e-12]])
    found = sweep.search(["batch_size=16..64:log"], 2, ends)
    assert [candidate["batch_size"] for candidate in found] == [16, 64]


def test_the_report_says_how_many_classes_macro_f1_is_not_over(settings):
    """Of all folds together: a class that one fold lacks, another has."""
    study = begun(settings, [{}, {"ls": 0.1}], folds=2)
    fill(study, lambda c: 0.5)
    logits = np.random.default_rng(0).normal(0, 1, (20, 5))
    for i in range(4):
        held_out_files(study.run(i), logits, np.arange(20) % 2 + study.config(i).fold, first=100 * study.config(i).fold)
    said = "\n".join(findings.report(study, ranking.candidates(study)))
    assert "2 classes without a validation picture: macro F1 is over the others." in said
    fill(study, lambda c: 0.6)
    said = "\n".join(findings.report(study, ranking.candidates(study)))
    assert "without a validation picture" not in said
