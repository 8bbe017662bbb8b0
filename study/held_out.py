"""What the trials of a study said of pictures that they were not trained on, all folds of a seed together.

A score of all folds' pictures is not the mean of the folds' scores: macro F1 of few pictures is too low on average.
Scores are of val_logits.npy unchanged: its logits already include the trial's --prior. Chooses nothing.
"""

import csv
import hashlib
from dataclasses import dataclass

import numpy as np

import metrics
from engine.outcome import validation_answers
from errors import LongtailError
from study import stats
from study.table import Study

SHOWN = ("macro_f1", "acc", "nll", "ece")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How S seeds of the same settings did on the same N pictures."""

    pictures: str  # a digest of which they are, in order
    absent: int  # classes without a picture
    scores: dict[str, np.ndarray]  # each of SHOWN: float64 [S]
    metric: str  # one of study.metric.METRICS
    left_out: np.ndarray  # float64 [S, N], the metric without each picture

    def error(self) -> float:
        """Standard error of the metric's mean over seeds (`stats.jackknife`)."""
        return stats.jackknife(self.scores[self.metric], self.left_out)


def together(study: Study, trials: list[int]) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """(paths, targets [N], logits [N,C], class names) of the pictures that `trials`, the folds of a seed, held out.

    Fold after fold, at the epoch that each trial kept. Raises LongtailError where a trial's files are gone or damaged.
    """
    paths, targets, logits = [], [], []
    for i in trials:
        folder = study.run(i)
        try:
            of_fold, labels, rows, classes = validation_answers(folder)
        except FileNotFoundError as error:
            raise LongtailError(f"trial {i} has no {error.filename} any more: without its row it runs again") from None
        except (OSError, EOFError, KeyError, ValueError, csv.Error) as error:
            raise LongtailError(f"what trial {i} held out cannot be read in {folder} ({error})") from None
        paths += of_fold
        targets.append(labels)
        logits.append(rows)
    return paths, np.concatenate(targets), np.concatenate(logits), classes


def judged(study: Study, by_seed: list[list[int]], metric: str) -> HeldOut:
    """How the seeds did. by_seed: of each seed its trials, a fold each. Raises LongtailError as `together` does, and
    where two seeds were judged on other pictures."""
    pictures, values, left_out = "", [], []
    for trials in by_seed:
        paths, targets, logits, classes = together(study, trials)
        which = hashlib.blake2b("\0".join(paths).encode(errors="surrogateescape")).hexdigest()
        if pictures and which != pictures:
            raise LongtailError(f"trial {trials[0]} held out other pictures than trial {by_seed[0][0]}")
        pictures = which
        found, without = scored(targets, logits, metric)
        values.append([found[name] for name in SHOWN])
        left_out.append(without)
    scores = {name: np.array(column) for name, column in zip(SHOWN, zip(*values))}
    absent = len(classes) - len(np.unique(targets))
    return HeldOut(pictures, absent, scores, metric, np.stack(left_out))


def difference(first: HeldOut, second: HeldOut) -> tuple[float, float]:
    """(first - second, its standard error), paired picture by picture: both were judged on the same ones.

    With as many seeds on both sides, seeds are paired too. Else what seeds share is not in the error.
    """
    scores = [side.scores[side.metric] for side in (first, second)]
    left_out = [side.left_out for side in (first, second)]
    if len(scores[0]) != len(scores[1]):
        scores = [np.mean(each, keepdims=True) for each in scores]
        left_out = [each.mean(0, keepdims=True) for each in left_out]
    by_seed = scores[0] - scores[1]
    return float(by_seed.mean()), stats.jackknife(by_seed, left_out[0] - left_out[1])


def macro_f1_difference(
    targets: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int
) -> tuple[float, float]:
    """(macro F1 of answers `first` less that of `second`, its standard error), paired by picture; all int [N]."""
    scores = [metrics.macro_f1(targets, answers, classes) for answers in (first, second)]
    left_out = [metrics.macro_f1_left_out(targets, answers, classes) for answers in (first, second)]
    change = scores[0] - scores[1]
    return change, stats.jackknife([change], [left_out[0] - left_out[1]])


def scored(targets: np.ndarray, logits: np.ndarray, metric: str) -> tuple[dict[str, float], np.ndarray]:
    """({name of SHOWN: score}, the metric without each picture [N]), of logits [N,C]."""
    predicted = logits.argmax(1)
    log_p = metrics.log_softmax(logits)
    own = log_p[np.arange(len(targets)), targets]
    scores = dict(
        macro_f1=metrics.macro_f1(targets, predicted, logits.shape[1]),
        acc=metrics.accuracy(targets, predicted),
        nll=float(-own.mean()),
        ece=metrics.ece(np.exp(log_p), targets),
    )
    if metric == "macro_f1":
        return scores, metrics.macro_f1_left_out(targets, predicted, logits.shape[1])
    of_picture = -own if metric == "nll" else (predicted == targets).astype(np.float64)
    others = max(len(targets) - 1, 1)
    return scores, (of_picture.sum() - of_picture) / others
