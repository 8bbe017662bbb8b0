"""The page of a study: its candidates ranked, what moves the score, what it cost, and the answers of its winner."""

import contextlib
import math
from pathlib import Path

import numpy as np

from config import spelled
from engine.album import Album
from engine.folder import read_folder
from errors import LongtailError
from posterior import evidence
from reporting import answers, charts, findings, probabilities, study_effects
from reporting.chart import BLUE, ORANGE, RED
from reporting.page import Html, Page, heading, note, table
from reporting.seeds_panel import seeds
from reporting.tables import number
from study import effects, ranking, repeats
from study.metric import METRICS
from study.table import Study

COMPARE = (
    '<div data-compare="candidates" class="table"><div class="compare"><label>One <select></select></label>'
    '<label>Other <select></select></label></div><div class="scroll"><table><tbody></tbody></table></div></div>'
)


def build(path: Path, refresh: int = 0) -> Page:
    """The page of the study at `path`. Raises LongtailError where there is none."""
    study = Study(path, old=True)
    page = Page(path, f"Study {path.name}", refresh if study.jobs() else 0)
    groups = ranking.candidates(study)
    choice = ranking.choose(groups)
    candidates = groups[choice.scheme] if choice else next(iter(groups.values()))
    ranked = ranking.ranked(candidates)
    first, *others = findings.headline(study, choice, candidates)
    of_seeds = (path / "summary.json").exists()
    if of_seeds:
        with contextlib.suppress(LongtailError):
            first = repeats.headline(path)
    page.headline([first], others)
    if of_seeds:
        seeds(page, study)
    _candidates(page, study, choice, candidates)
    if len(ranked) > 1:
        _effects(page, study, candidates)
        _sensitivity(page, study, choice, ranked)
    if study.spec["halving"]:
        _rungs(page, study)
    _cost(page, study)
    if choice:
        _winner(page, study, choice.candidate)
    return page


def _candidates(page, study, choice, candidates):
    """Every candidate, and two of them side by side."""
    knobs = ranking.varied(study)
    heads = []
    for knob in knobs:
        kinds = {type(candidate.settings[knob]) for candidate in candidates}
        heads.append("#" * (kinds <= {int, float}) + knob)
    place = {candidate.trials[0]: rank for rank, candidate in enumerate(ranking.ranked(candidates), 1)}
    lines = []
    for candidate in sorted(candidates, key=lambda candidate: place.get(candidate.trials[0], math.inf)):
        first = candidate.trials[0]
        won = choice and choice.candidate.trials[0] == first
        values = [spelled(candidate.settings[knob]) for knob in knobs]
        scores = [
            number(each, 4) for each in (*map(candidate.average, ("macro_f1", "acc", "nll", "ece")), candidate.error)
        ]
        times = [row["seconds"] for row in candidate.rows if "seconds" in row]
        cost = [len(candidate.rows), number(float(np.mean(times)) if times else math.nan, 0)]
        state = candidate.wanting or ("winner" if won else "ranked")
        lines.append([f"{first:04d}", place.get(first, ""), *values, *scores, *cost, state])
    scored = ["#macro F1", "#accuracy", "#NLL", "#ECE", "#± se", "#trials", "#seconds", "state"]
    said = (
        f"A candidate has the number of its first trial; se is the standard error of {METRICS[candidates[0].metric]}."
    )
    search = "Find candidates (failed, or macro_f1>0.3 ls=0.1)"
    whole = table(said, ["candidate", "#rank", *heads, *scored], lines, search, "candidates")
    compared = [heading("Two candidates side by side"), Html(COMPARE)] if len(lines) > 1 else []
    page.section("Candidates", whole, *compared)


def _effects(page, study, candidates):
    """Main effects and single changes beside what noise makes of them; pairs of settings."""
    main = study_effects.main_effects(study, candidates)
    if main is None:
        return
    changes = study_effects.against_base(study, candidates)
    drawings = [main, *([changes] if changes else []), *study_effects.pairs(study, candidates)]
    page.section("What moves the score", *drawings)


def _sensitivity(page, study, choice, ranked):
    """The metric of every candidate by each setting."""
    drawings, metric = [], METRICS[ranked[0].metric]
    ranked = sorted(
        ranked, key=lambda candidate: candidate.trials[0]
    )  # by score, dots side by side would look like a slope
    score = np.array([candidate.score for candidate in ranked])
    said = [f"{candidate.trials[0]:04d}: {candidate.label()}: {candidate.score:.4f}" for candidate in ranked]
    won = [i for i, candidate in enumerate(ranked) if candidate.trials == choice.candidate.trials]
    rest = [i for i in range(len(ranked)) if i not in won]
    for knob in ranking.varied(study):
        values = [candidate.settings[knob] for candidate in ranked]
        title, alt = f"Sensitivity to {knob}", f"A dot is a candidate; the winner has {spelled(values[won[0]])}."
        if {type(value) for value in values} <= {int, float} and len(set(values)) > 4:
            x = np.array(values, float)
            log = x.min() > 0 and x.max() / x.min() > 20
            groups = {
                "candidates": charts.Group(rest, BLUE, "o", [said[i] for i in rest]),
                "winner": charts.Group(won, ORANGE, "s", [said[i] for i in won]),
            }
            sides = (knob, x), (metric, score)
            drawings.append(charts.points(f"by_{knob}", title, alt, *sides, groups, log_x=log))
        else:
            words = [spelled(value) for value in values]
            groups = {level: score[[word == level for word in words]] for level in effects.in_order(words)}
            drawings.append(charts.strips(f"by_{knob}", title, alt, metric, groups))
    page.section("Sensitivity", *drawings)


def _rungs(page, study):
    """Halving: every trial at each of the epochs after which it was looked at."""
    shown, metric = {}, study.metric
    for (_, until), row in sorted(study.rows().items(), key=lambda item: item[0][1]):
        if metric in row:
            shown.setdefault(f"epoch {until}", []).append(row[metric])
    if not shown:
        return
    counts = ", ".join(f"{len(values)} at {rung}" for rung, values in shown.items())
    alt = f"A dot is a trial; the best, and the base, go on: {counts}."
    page.section("Halving", charts.strips("rungs", "Rungs of halving", alt, METRICS[metric], shown))


def _cost(page, study):
    """Time of every trial, and why some failed."""
    rows = [row for row in study.latest().values() if "seconds" in row]
    parts = []
    if rows:
        x, y = (np.array([row[name] for row in rows]) for name in ("trial", "seconds"))
        groups = {}
        for status, colour, marker in (("ok", BLUE, "o"), ("failed", RED, "s")):
            at = [i for i, row in enumerate(rows) if row["status"] == status]
            said = [f"trial {x[i]}: {y[i]:.0f} s, {status}" for i in at]
            if at:
                groups[status] = charts.Group(at, colour, marker, said)
        alt = f"{y.sum() / 3600:.2f} hours of training in all, {np.median(y):.0f} s a trial (median)."
        parts.append(charts.points("seconds", "Time of each trial", alt, ("trial", x), ("seconds", y), groups))
    failed = findings.failures(study).items()
    lines = [[len(trials), " ".join(map(str, trials[:20])), reason] for reason, trials in failed]
    parts.append(table("Failures", ["#trials", "which", "reason"], lines) if lines else note("No trial failed."))
    page.section("Time and failures", *parts)


def _winner(page, study, candidate):
    """The answers of the winner's runs, each picture judged by networks that had not seen it."""
    runs = [study.run(trial) for trial in candidate.trials]
    try:
        found = evidence.pooled(evidence.runs_by_fold(runs))
        settings, album = evidence.read_settings(runs[0]), Album(read_folder(runs[0]))
    except (LongtailError, OSError, ValueError, KeyError) as error:
        page.section("The winner's answers", note(f"They cannot be shown: {error}"))
        return
    answers.classes(page, found)
    answers.confusions(page, found, album)
    probabilities.calibration(page, study.folder, settings, found)
