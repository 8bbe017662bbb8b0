"""Two candidates as one classifier, beside brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score
from test_ranking import begun

from errors import LongtailError
from reporting import findings
from samples import held_out_files, table
from study import complement, ranking

COUNTS = (30, 20, 10)


def judged(study, i, logits, targets, first):
    """Trial i as done, with these answers."""
    c = study.config(i)
    row = dict(trial=i, until=c.epochs, fold=c.fold, seed=c.seed, status="ok", epoch=c.epochs, seconds=1.0)
    row |= dict(macro_f1=0.5, acc=0.5, nll=1.0, ece=0.1, macro_f1_se=0.1, val_pictures=len(targets), reason="")
    (study.folder / "rows" / f"{i:04d}-{c.epochs}.json").write_text(json.dumps(row))
    folder = study.run(i)
    classes = held_out_files(folder, logits, targets, first)
    table(folder / "per_class.csv", "class,train,f1", *(f"{name},{n},0" for name, n in zip(classes, COUNTS)))
    (folder / "args.json").write_text(json.dumps(c.settings()))


@pytest.fixture
def study(settings):
    """Three candidates on two folds, with one seed, and with two."""
    return begun(settings, [dict(mixup_p=p) for p in (0.0, 0.2, 0.4)], folds=2)


def filled(study, noise=1.0, seed=0):
    """Random answers that are right more often than chance; returns targets [N] and posteriors by candidate [N,C]."""
    rng = np.random.default_rng(seed)
    targets = [np.repeat(np.arange(3), (12, 8, 4)) for _ in range(2)]
    posteriors = {}
    for i in range(len(study.trials)):
        c = study.config(i)
        logits = 1.5 * np.eye(3)[targets[c.fold]] + rng.normal(0, noise, (24, 3))
        judged(study, i, logits, targets[c.fold], first=100 * c.fold)
        p = np.exp(logits.astype(np.float32).astype(float))
        posteriors.setdefault(c.mixup_p, {})[c.fold] = p / p.sum(1, keepdims=True)
    return np.concatenate(targets), {k: np.concatenate([v[0], v[1]]) for k, v in posteriors.items()}


def macro_f1(targets, p):
    return f1_score(targets, p.argmax(1), average="macro", zero_division=0)


def test_a_pair_is_the_mean_posterior_of_its_candidates(study):
    targets, posteriors = filled(study)
    (group,) = ranking.candidates(study).values()
    found = complement.pairs(study, group)
    assert len(found) == 3 and [pair.score for pair in found] == sorted((pair.score for pair in found), reverse=True)
    for pair in found:
        p, q = (posteriors[candidate.settings["mixup_p"]] for candidate in (pair.first, pair.second))
        assert pair.first.score >= pair.second.score
        together = (p + q) / 2
        assert pair.score == pytest.approx(macro_f1(targets, together))
        assert pair.gain == pytest.approx(macro_f1(targets, together) - max(macro_f1(targets, p), macro_f1(targets, q)))
        assert pair.alike == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
        assert pair.either == pytest.approx(((p.argmax(1) == targets) | (q.argmax(1) == targets)).mean())
        better = max((p, q), key=lambda each: macro_f1(targets, each))
        rest = [np.arange(len(targets)) != i for i in range(len(targets))]
        left_out = [macro_f1(targets[r], together[r]) - macro_f1(targets[r], better[r]) for r in rest]
        n = len(targets)
        assert pair.error == pytest.approx(np.sqrt((n - 1) / n * ((left_out - np.mean(left_out)) ** 2).sum()))


def test_lower_is_better_for_nll(study):
    targets, posteriors = filled(study, seed=1)
    (group,) = ranking.candidates(study, "nll").values()
    rows = np.arange(len(targets))

    def nll(p):
        return -np.log(p[rows, targets]).mean()

    found = complement.pairs(study, group)
    assert [pair.score for pair in found] == sorted(pair.score for pair in found)
    for pair in found:
        p, q = (posteriors[candidate.settings["mixup_p"]] for candidate in (pair.first, pair.second))
        assert pair.score == pytest.approx(nll((p + q) / 2))
        assert pair.gain == pytest.approx(min(nll(p), nll(q)) - nll((p + q) / 2))


def test_candidates_are_averaged_under_the_training_prior_and_judged_under_their_own(settings):
    """As predict.py does; alone a candidate keeps the score that it is ranked by."""
    study = begun(settings, [dict(mixup_p=p) for p in (0.0, 0.2, 0.4)], folds=2, prior="uniform")
    targets, posteriors = filled(study, seed=2)
    (group,) = ranking.candidates(study).values()
    trained = np.array(COUNTS) / sum(COUNTS)
    for pair in complement.pairs(study, group):
        assert pair.score - pair.gain == pytest.approx(max(pair.first.score, pair.second.score))
        p, q = (posteriors[candidate.settings["mixup_p"]] * trained for candidate in (pair.first, pair.second))
        together = (p / p.sum(1, keepdims=True) + q / q.sum(1, keepdims=True)) / trained
        assert pair.score == pytest.approx(macro_f1(targets, together))


def test_fewer_than_two_candidates_make_no_pair_and_lost_files_are_named(study):
    filled(study)
    (group,) = ranking.candidates(study).values()
    assert complement.pairs(study, group[:1]) == complement.pairs(study, []) == []
    Path(study.run(0), "val_logits.npy").unlink()
    with pytest.raises(LongtailError, match="val_logits.npy"):
        complement.pairs(study, group)


def test_what_a_page_says_of_pairs(study):
    targets, _ = filled(study)
    (group,) = ranking.candidates(study).values()
    (said,) = findings.together(study, group)
    assert ", +" in said and "at least one is right on" in said and "seeds" not in said
    file = study.run(0) / "per_class.csv"
    file.unlink()
    file.mkdir()  # what cannot be read costs this line, not the page
    (said,) = findings.together(study, group)
    assert said.startswith("Which two candidates go together is not known: ") and "per_class.csv" in said
    file.rmdir()
    for i in range(len(study.trials)):
        fold = study.config(i).fold
        judged(study, i, 60 * np.eye(3)[targets[:24]], targets[:24], first=100 * fold)
    (group,) = ranking.candidates(study).values()
    (said,) = findings.together(study, group)
    assert said.startswith("No two candidates averaged")


def test_the_gain_of_a_pair_is_on_averaged_seeds_where_there_are_any(settings):
    study = begun(settings, [dict(mixup_p=p) for p in (0.0, 0.2)], n=2, folds=2)
    filled(study)
    (group,) = ranking.candidates(study).values()
    (said,) = findings.together(study, group)
    assert "over the better of the two alone, seeds averaged in all three." in said


def test_a_study_whose_trials_all_failed_is_to_be_tried_again(study):
    filled(study)
    for file in (study.folder / "rows").iterdir():
        file.write_text(json.dumps(json.loads(file.read_text()) | dict(status="failed", reason="boom")))
    (group,) = ranking.candidates(study).values()
    said, *_ = findings.headline(study, None, group)
    assert said.endswith("What to do next: the command that began it, with --retry-failed, tries again.")
