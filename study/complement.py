"""Which two candidates of a study go together: what their average answers, beside the better one of the two.

Both are judged on the same pictures, which neither had seen, as predict.py --run A B answers: posteriors are averaged
under the training prior, then moved to the one that the first run's own scores assume. Chooses and writes nothing.
"""

import itertools
from typing import NamedTuple

import numpy as np

from engine.evaluate import averaged
from errors import LongtailError
from posterior import evidence
from posterior.priors import assumed, move
from study import stats
from study.held_out import scored
from study.metric import merit
from study.ranking import Candidate, ranked
from study.table import Study

BEST = 8  # candidates that are paired, the best of the ranking


class Pair(NamedTuple):
    """Two candidates as one classifier: the mean of their posteriors."""

    first: Candidate  # of the two the one that is ranked higher
    second: Candidate
    alike: float  # share of pictures that both give the same class
    either: float  # share of pictures that one of them, or both, get right: what a perfect referee would reach
    score: float  # of the average, by the metric that the candidates are ranked by
    gain: float  # by how much the average is better than the better of the two, 0 or more where it is
    error: float  # the standard error of that, picture by picture


def pairs(study: Study, group: list[Candidate]) -> list[Pair]:
    """Every two of the BEST candidates of a scheme, those whose average is best first.

    The seeds of a candidate are averaged before, as a prediction averages them. A pair that was picked as the best of
    many has some luck in its gain. Raises LongtailError where a trial's files are gone or damaged.
    """
    able = ranked(group)[:BEST]
    runs = [[study.run(i) for i in candidate.trials] for candidate in able]
    of_folds = [evidence.by_fold(evidence.runs_by_fold(each)) for each in runs]
    answers = [evidence.joined(each) for each in of_folds]
    priors = [_priors(study, candidate, each) for candidate, each in zip(able, of_folds)]
    for other in answers:
        if other.paths != answers[0].paths:
            raise LongtailError("candidates that were judged on other pictures cannot be averaged")
    metric = able[0].metric if able else ""
    own = [move(each.log_posterior, *prior) for each, prior in zip(answers, priors)]
    alone = [scored(each.targets, log_posterior, metric) for each, log_posterior in zip(answers, own)]
    found = []
    for a, b in itertools.combinations(range(len(able)), 2):
        one, other = answers[a], answers[b]
        trained, wanted = (priors[a][0] + priors[b][0]) / 2, priors[a][1]
        together = move(averaged([one.log_posterior, other.log_posterior]), trained, wanted)
        scores, left_out = scored(one.targets, together, metric)
        better = max((a, b), key=lambda k: merit(metric, alone[k][0][metric]))
        of_better, left_out_of_better = alone[better]
        change = scores[metric] - of_better[metric]
        classes_of = [own[k].argmax(1) for k in (a, b)]
        right = [each == one.targets for each in classes_of]
        found.append(
            Pair(
                first=able[a],
                second=able[b],
                alike=float((classes_of[0] == classes_of[1]).mean()),
                either=float((right[0] | right[1]).mean()),
                score=scores[metric],
                gain=merit(metric, change),
                error=stats.jackknife([change], (left_out - left_out_of_better)[None]),
            )
        )
    return sorted(found, key=lambda pair: -merit(metric, pair.score))


def _priors(study, candidate, of_fold):
    """(the class prior of training, the one that a candidate's scores assume), [N,C] each: folds differ a little."""
    trained = np.concatenate([np.tile(found.prior, (len(found.paths), 1)) for found in of_fold])
    return trained, assumed(study.config(candidate.trials[0]).prior, trained)
