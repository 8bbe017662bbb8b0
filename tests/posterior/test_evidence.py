"""What runs said of held-out pictures: folds pooled, seeds averaged, the prior that a run assumed taken back."""

import numpy as np
import pytest

import metrics
import oracles
from errors import LongtailError
from posterior import evidence
from samples import judged_run

COUNTS = np.array([90, 60, 40, 30, 20, 10, 5, 3])


def test_folds_are_pooled_and_seeds_of_a_fold_averaged(tmp_path):
    folders, expected = [], []
    for fold in (0, 1):
        posteriors = []
        for seed in (0, 1):
            logits, targets, _ = oracles.judged(n=30 + fold, seed=10 * fold + seed)
            targets = np.arange(30 + fold) % oracles.CLASSES  # the same pictures for both seeds
            run = judged_run(
                tmp_path / f"{fold}{seed}",
                logits,
                targets,
                COUNTS + fold,
                first=100 * fold,
                folds=2,
                fold=fold,
                seed=seed,
            )
            folders.append(run)
            posteriors.append(metrics.softmax(logits.astype(np.float32)))
        expected.append(np.mean(posteriors, 0))
    by_fold = evidence.runs_by_fold(folders)
    assert by_fold == [folders[:2], folders[2:]]
    found = evidence.pooled(by_fold)
    np.testing.assert_allclose(np.exp(found.log_posterior), np.concatenate(expected), rtol=1e-12)
    assert found.members == 2 and found.parts.tolist() == [0] * 30 + [1] * 31
    assert found.paths[0] == "00000.jpg" and found.paths[-1] == "00130.jpg"
    np.testing.assert_allclose(found.counts, COUNTS + 0.5)
    assert found.prior == pytest.approx((COUNTS + 0.5) / (COUNTS + 0.5).sum())


def test_the_prior_that_a_runs_scores_assumed_is_taken_back(tmp_path):
    logits, targets, _ = oracles.judged(n=40)
    prior = COUNTS / COUNTS.sum()
    judged_run(tmp_path / "train", logits, targets, COUNTS)
    judged_run(tmp_path / "uniform", logits - np.log(prior), targets, COUNTS, prior="uniform")
    first, second = (evidence.of_run(tmp_path / name).log_posterior for name in ("train", "uniform"))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_one_run_has_no_folds(tmp_path):
    logits, targets, _ = oracles.judged(n=40)
    found = evidence.pooled([[judged_run(tmp_path / "run", logits, targets, COUNTS)]])
    assert found.parts is None and found.members == 1


def test_settings_that_are_no_numbers_part_runs_too(tmp_path):
    (tmp_path / "args.json").write_text('{"val_split": [1]}')
    assert evidence.runs_by_fold([tmp_path]) == [[tmp_path]]


def test_what_cannot_be_pooled_is_named(tmp_path):
    logits, targets, _ = oracles.judged(n=40)
    run = judged_run(tmp_path / "run", logits, targets, COUNTS)
    with pytest.raises(LongtailError, match="no val_logits.npy there"):
        (tmp_path / "empty").mkdir()
        evidence.of_run(tmp_path / "empty")
    other = judged_run(tmp_path / "other", logits, targets, COUNTS, first=7)
    with pytest.raises(LongtailError, match="other pictures"):
        evidence.pooled([[run, other]])
    with pytest.raises(LongtailError, match="as many"):
        evidence.pooled([[run], [other, judged_run(tmp_path / "third", logits, targets, COUNTS, first=7)]])
    fewer = judged_run(tmp_path / "fewer", logits[:, :4], targets % 4, COUNTS[:4])
    with pytest.raises(LongtailError, match="other classes"):
        evidence.pooled([[run], [fewer]])


@pytest.mark.parametrize("name", ["args.json", "val_predictions.csv", "per_class.csv", "classes.txt", "val_logits.npy"])
@pytest.mark.parametrize("damage", ["empty", "half", "junk"])
def test_damaged_tables_are_named(tmp_path, name, damage):
    logits, targets, _ = oracles.judged(n=40)
    run = judged_run(tmp_path / "run", logits, targets, COUNTS)
    raw = (run / name).read_bytes()
    (run / name).write_bytes({"empty": b"", "half": raw[: len(raw) // 2], "junk": b"\xff\x00junk"}[damage])
    with pytest.raises(LongtailError, match=str(run)):
        evidence.of_run(run)


def test_logits_that_are_not_finite_or_too_few_are_named(tmp_path):
    logits, targets, _ = oracles.judged(n=40)
    run = judged_run(tmp_path / "run", logits, targets, COUNTS)
    logits = logits.astype(np.float32)
    for wrong in (np.where(np.arange(40)[:, None] == 7, np.nan, logits), logits[:30], logits[:, :5]):
        np.save(run / "val_logits.npy", wrong)
        with pytest.raises(LongtailError, match="damaged"):
            evidence.of_run(run)


def test_a_picture_that_two_splits_held_out_counts_once_or_not_at_all(tmp_path):
    logits, targets, _ = oracles.judged(n=30)
    runs = [judged_run(tmp_path / str(seed), logits, targets, COUNTS, split_seed=seed) for seed in (0, 1)]
    with pytest.raises(LongtailError, match="held out the same pictures in unlike splits"):
        evidence.pooled(evidence.runs_by_fold(runs))
