"""posterior/verdict.py: each finding where it must be said and not where it must not, with numbers known beforehand."""

import math
import re

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from engine.folder import Folder
from posterior.evidence import Evidence
from posterior.verdict import findings, outcome


def folder(tmp_path, *, rows=(), done=True, kept=None, log=(), notes=(), validated=100, **settings):
    epochs = [dict(epoch=float(i), **row) for i, row in enumerate(rows, 1)]
    kept = kept or (len(epochs) or None)
    settings = dict(epochs=len(epochs), monitor="last") | settings
    split = [(f"{i}.jpg", "a", "val") for i in range(validated)]
    return Folder(tmp_path / "my run", settings, {}, epochs, kept, [], split, list(log), None, done, list(notes))


def evidence(targets, probs, counts):
    names = [f"painter {c}" for c in range(len(counts))]
    log_posterior = np.log(np.maximum(probs, 1e-300))
    paths = [f"{i}.jpg" for i in range(len(targets))]
    return Evidence(paths, np.array(targets), log_posterior, None, names, np.array(counts, float), 1)


def sure(named, confidence, classes):
    """Probabilities [N, classes] that name each of `named` so surely."""
    probs = np.full((len(named), classes), (1 - confidence) / (classes - 1))
    probs[range(len(named)), named] = confidence
    return probs


def seen(run, found=None):
    return [finding.seen for finding in findings(run, found)]


def flat(**changed):
    """An epoch of which nothing needs to be said."""
    return dict(train_loss=1.0, train_acc=0.5, acc=0.5, nll=1.0) | changed


def of_losses(*losses):
    return [flat(nll=loss) for loss in losses]


# What came out.


@pytest.mark.parametrize("log, last", [([], "nothing was said"), (["", "the loss is not finite", " "], "the loss is")])
def test_a_run_without_an_epoch_says_what_it_said_last(tmp_path, log, last):
    assert f"the last thing said was: {last}" in outcome(folder(tmp_path, log=log, done=False), None)


def test_a_run_without_judged_pictures_says_its_last_epoch(tmp_path):
    rows = [flat(macro_f1=0.25), flat(macro_f1=0.75)]
    said = outcome(folder(tmp_path, rows=rows, done=False, epochs=9), None)
    assert said == "The run stands after 2 of 9 epochs: macro F1 0.750 at epoch 2."
    said = outcome(folder(tmp_path, rows=[flat()], validated=0), None)
    assert said == "The run is done, without validation pictures: training loss 1.000 at epoch 1."
    said = outcome(folder(tmp_path, rows=[flat()]), None)
    assert said.startswith("The run is done, but its answers to validation pictures cannot be read: training loss")


def test_scores_stand_beside_their_intervals_and_the_best_guess(tmp_path):
    """30 of 40 right; class 0, the most frequent in training, has 16 of the 40."""
    targets = np.repeat([0, 1, 2, 3], [16, 8, 8, 8])
    named = targets.copy()
    named[:10] = 1
    found = evidence(targets, sure(named, 0.9, 4), [90, 30, 30, 30])
    said = outcome(folder(tmp_path, rows=[flat()] * 5, kept=4), found)
    wilson = binomtest(30, 40).proportion_ci(method="wilson")
    assert f"accuracy 0.750 ({wilson.low:.3f} to {wilson.high:.3f}) on 40 validation pictures of 4 classes" in said
    f1 = np.mean([2 * 6 / (16 + 6), 2 * 8 / (8 + 18), 1, 1])
    assert said.startswith(f"Epoch 4 of 5 is kept: macro F1 {f1:.3f} (95%: ")
    guess = 2 * 16 / (16 + 40) / 4  # of naming class 0 each time
    assert said.endswith(f"always naming the most frequent class gets {guess:.3f} and {16 / 40:.3f}.")


# What the epochs tell.


def test_nothing_is_found_where_nothing_is_wrong(tmp_path):
    assert findings(folder(tmp_path, rows=of_losses(1.2, 1.1, 1, 1, 1, 1)), None) == []


def test_a_run_that_is_not_done_is_resumed_by_its_name(tmp_path):
    first, *_ = findings(folder(tmp_path, rows=[flat()] * 2, done=False, epochs=7), None)
    assert first.seen == "2 of 7 epochs are done"
    assert first.todo == f"python train.py --project {tmp_path} --name 'my run' --resume goes on"


@pytest.mark.parametrize("last, said", [(1.11, True), (1.09, False)])
def test_a_loss_that_rises_by_a_tenth_is_told(tmp_path, last, said):
    found = seen(folder(tmp_path, rows=of_losses(2, 1, 1.02, 1.05, last)))
    assert found == ["Validation loss was lowest at epoch 2 (1.000) and ends at 1.110"] * said


@pytest.mark.parametrize("slope, planned, said", [(0.1, 12, True), (0.1, 24, False), (0.001, 12, False)])
def test_a_loss_that_still_falls_at_the_end_asks_for_more_epochs(tmp_path, slope, planned, said):
    losses = 2 - slope * np.arange(12)
    found = findings(folder(tmp_path, rows=of_losses(*losses), epochs=planned), None)
    assert [each.todo for each in found] == ["train longer: --epochs 24"] * said


@pytest.mark.parametrize("train_acc, validated, said", [(0.9, 100, True), (0.84, 100, False), (0.9, 2, False)])
def test_a_gap_between_training_and_validation_is_told(tmp_path, train_acc, validated, said):
    """Of the epoch that is kept, not of the last one; of two pictures one may be right by chance."""
    rows = [flat(), flat(train_acc=train_acc), flat()]
    found = seen(folder(tmp_path, rows=rows, kept=2, validated=validated))
    assert found == ["Training accuracy is 0.40 above validation accuracy"] * said


def test_an_epoch_that_was_chosen_flatters(tmp_path):
    found = seen(folder(tmp_path, rows=[flat()], monitor="acc"))
    assert found == ["The kept epoch was chosen on these validation pictures by acc, so its scores flatter"]


@pytest.mark.parametrize("waits, said", [((0.1, 0.5), True), ((0.1, 0.2), False)])
def test_waiting_for_data_is_told_from_a_fifth_of_the_time(tmp_path, waits, said):
    found = seen(folder(tmp_path, rows=[flat(data_wait=wait) for wait in waits]))
    assert found == ["Training waited for data 30% of the time"] * said


def test_what_could_not_be_read_is_told_and_the_weightiest_comes_first(tmp_path):
    run = folder(tmp_path, rows=[flat(train_acc=0.95)], monitor="acc", done=False, epochs=3, notes=["env.json is gone"])
    found = findings(run, None)
    assert [each.seen.split()[0] for each in found] == ["1", "Training", "Not", "The"]
    assert [each.weight for each in found] == sorted((each.weight for each in found), reverse=True)
    assert all(0 <= each.weight <= 1 for each in found)


# What the validation pictures tell.


EVEN = [100, 100, 100, 100]


def test_right_probabilities_need_no_word(tmp_path):
    """Labels are drawn from them; about half of the answers are right."""
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(4), 400)
    targets = (probs.cumsum(1) > generator.random((400, 1))).argmax(1)
    assert seen(folder(tmp_path), evidence(targets, probs, EVEN)) == []


def test_answers_no_better_than_a_draw_are_the_first_thing_said(tmp_path):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 4, 60)
    first, *_ = findings(folder(tmp_path), evidence(targets, sure(generator.permutation(targets), 0.4, 4), EVEN))
    drawn = [f1_score(targets, generator.integers(0, 4, 60), average="macro") for _ in range(1000)]
    said, value = re.fullmatch(r"(.*) \((.*)\)", first.seen).groups()
    assert said == "Macro F1 is not clearly above drawing labels by the prior"
    assert float(value) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(1000))
    assert first.weight == 1


@pytest.mark.parametrize("true, direction", [(0.5, "too sure"), (1.0, "not sure enough")])
def test_probabilities_that_are_wrong_are_told_with_their_direction(tmp_path, true, direction):
    """Each answer is 0.8 sure; so many are right: the ECE is the difference."""
    n = 400
    targets = np.arange(n) % 4
    named = targets.copy()
    named[: round((1 - true) * n)] += 1
    (said,) = [each for each in findings(folder(tmp_path), evidence(targets, sure(named % 4, 0.8, 4), EVEN))
               if each.seen.startswith("The probabilities")]  # fmt: skip
    assert said.seen.startswith(f"The probabilities are {direction}: ECE {abs(0.8 - true):.3f}, right ones show 0.0")
    assert said.todo == f"python calibrate.py '{tmp_path / 'my run'}'"
    # 400 draws of 0.8 are within two standard errors, 0.04, of it.
    assert float(said.seen.split()[-1]) < 0.05


def test_classes_that_were_never_named_are_counted_and_named(tmp_path):
    targets = np.repeat([0, 1, 2, 3], 20)
    named = np.where(targets >= 2, 0, targets)
    found = findings(folder(tmp_path), evidence(targets, sure(named, 0.6, 4), EVEN))
    (never,) = [each for each in found if "Never named" in each.seen]
    assert never.seen == "Never named: 2 classes of 4: painter 2, painter 3"
    assert never.weight == pytest.approx(0.6 + 0.3 * 2 / 4) and "--prior uniform" in never.todo


@pytest.mark.parametrize("rare_right, said", [(2, True), (18, False)])
def test_rare_classes_far_behind_frequent_ones_are_told(tmp_path, rare_right, said):
    """Of 20 pictures each; in the frequent class 18 are right."""
    targets = np.repeat([0, 1, 2], 20)
    named = targets.copy()
    named[:2], named[20:22], named[40 + rare_right :] = 1, 0, 1
    found = [each for each in seen(folder(tmp_path), evidence(targets, sure(named, 0.9, 3), [500, 50, 5]))
             if each.startswith("Accuracy")]  # fmt: skip
    assert found == ["Accuracy of classes with many training pictures: 0.90; with few: 0.10"] * said


@pytest.mark.parametrize("wrong, said", [(4, True), (1, False)])
def test_labels_to_doubt_are_told_where_the_network_is_good(tmp_path, wrong, said):
    """Of 200 sure and right answers so many have another label."""
    targets = np.arange(200) % 4
    probs = sure(targets.copy(), 0.99, 4)
    targets[:wrong] = (targets[:wrong] + 1) % 4
    found = [each for each in seen(folder(tmp_path), evidence(targets, probs, EVEN)) if "may be wrong" in each]
    assert found == ["4 validation labels may be wrong"] * said


def test_classes_without_pictures_or_with_few_ask_for_folds(tmp_path):
    targets = np.repeat([0, 1, 2, 3], [40, 4, 4, 4])
    few = findings(folder(tmp_path), evidence(targets, sure(targets, 0.97, 4), EVEN))
    (told,) = [each for each in few if "fewer than 5" in each.seen]
    assert told.seen == "Half of the classes have fewer than 5 validation pictures" and "--folds 5" in told.todo
    absent = seen(folder(tmp_path), evidence(targets, sure(targets, 0.97, 6), [*EVEN, 100, 100]))
    assert "2 classes without a validation picture: macro F1 is over the others" in absent
    assert not any("fewer than 5" in each for each in absent) and not math.isnan(told.weight)
