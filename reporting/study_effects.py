"""What moves a study's score, as charts: main effects, single changes beside the base, pairs of settings."""

import textwrap

import numpy as np

from reporting import charts, findings
from reporting.chart import Chart
from study import effects, ranking, stats
from study.metric import METRICS
from study.ranking import Candidate
from study.table import Study

MOST = 60  # lines of a chart
HEATS = 6  # pairs of settings
LEVELS = 12  # of a setting in a heat map


def picture(study: Study, candidates: list[Candidate]) -> Chart | None:
    """The chart that effects.png shows, of the candidates of a scheme: the changes of one setting each, where the study
    is of these, else the main effects. None where no setting varies."""
    draw = against_base if findings.one_change_each(study, candidates) else main_effects
    chart = draw(study, candidates)
    if chart is not None:  # alone it has no page around it that says what is to be seen
        chart.figure.suptitle(textwrap.fill(f"{chart.title}. {chart.alt}", 72), fontsize=8)
    return chart


def main_effects(study: Study, candidates: list[Candidate]) -> Chart | None:
    """Each value of each setting against the setting's mean value; None where no setting varies."""
    scores, blocks, levels = effects.factors(study, candidates)
    if not levels:
        return None
    rows = []
    model = stats.additive(scores, blocks, levels)
    for name, level, effect in effects.in_turn(model):
        half = model.half_width(effect)
        rows.append((f"{name} {level}", effect.value, effect.value - half, effect.value + half))
    noise = 2 * ranking.yardstick(ranking.ranked(candidates))
    alt = f"Against the setting's mean value, 95% t intervals. Band: what noise makes of a candidate, ± {noise:.4f}."
    return charts.intervals("effects", "Main effects", alt, METRICS[candidates[0].metric], rows[:MOST], 0, noise)


def against_base(study: Study, candidates: list[Candidate]) -> Chart | None:
    """Each candidate less the base, the largest difference first; None where there is no base or nothing else."""
    rows = []
    for found in sorted(effects.against_base(study, candidates), key=lambda found: -abs(found.mean))[:MOST]:
        change = findings.change_in_words(study, found.candidate)
        rows.append((change, found.mean, found.mean - found.half_width, found.mean + found.half_width))
    if not rows:
        return None
    alt = "Difference from the base settings, paired picture by picture, 95% intervals."
    return charts.intervals("against_base", "Against the base", alt, METRICS[candidates[0].metric], rows, 0)


def pairs(study: Study, candidates: list[Candidate]) -> list[Chart]:
    """The mean score by two settings, of the pairs that interact most."""
    scores, blocks, levels = effects.factors(study, candidates)
    metric, drawn = METRICS[candidates[0].metric], []
    model = stats.additive(scores, blocks, levels)
    for pair in stats.interactions(model.residuals, model.sd, levels)[:HEATS]:
        rows, columns, cells = effects.pair_means(scores, levels, pair.first, pair.second)
        if max(len(rows), len(columns)) <= LEVELS:
            sides = (pair.first, rows), (pair.second, columns)
            alt = f"Mean {metric}, from {np.nanmin(cells):.4f} to {np.nanmax(cells):.4f}."
            file = f"pair_{pair.first}_{pair.second}"
            drawn.append(charts.heat(file, f"{pair.first} and {pair.second}", alt, metric, *sides, cells))
    return drawn
