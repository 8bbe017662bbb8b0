"""The panel of seeds: how much of a score is luck, and whether one recipe is really better than another."""

import numpy as np

from errors import LongtailError
from reporting import charts
from reporting.page import Page, name, note, table
from reporting.tables import number
from study import stats
from study.repeats import NUMBERS, SCORES, agreement, in_short, read_repeats
from study.table import Study

MOST = 20  # classes and trainings in a chart


def seeds(page: Page, study: Study) -> None:
    """Every seed, intervals, paired differences, agreement, classes."""
    try:
        results, classes = read_repeats(study.folder)
    except LongtailError as error:
        page.section("Seeds", note(error))
        return
    drawings, short = [], in_short([result["recipe"] for result in results])
    for key, title in SCORES.items():
        of_recipe = {recipe: result["scores"][key] for recipe, result in zip(short, results)}
        said = [f"{recipe}: mean {s['mean']:.4f} ± {s['half']:.4f} (95% t)." for recipe, s in of_recipe.items()]
        values = {recipe: score["values"] for recipe, score in of_recipe.items()}
        limits = [(score["mean"], score["half"]) for score in of_recipe.values()]
        alt = f"A dot is a seed. {' '.join(said)}"
        drawings.append(charts.strips(f"seeds_{key}", title, alt, title, values, limits=limits))
    if len(results) == 2:
        differences = np.subtract(*(result["scores"]["macro_f1"]["values"] for result in results))
        mean, half = stats.interval(differences)
        try:
            p = f"exact sign-flip p {stats.sign_flip(differences):.3f}"
        except ValueError as why:
            p = f"no p: {why}"
        alt = f"Same seed, {' less '.join(short)}: {mean:+.4f} ± {half:.4f} (95% t), {p}."
        pairs = {"first less second": differences}
        drawings.append(charts.strips("differences", "Paired differences", alt, "macro F1", pairs, 0, [(mean, half)]))
    names, shares = agreement(study)
    others = shares[~np.eye(len(names), dtype=bool)]
    if len(others) and len(names) <= MOST:
        alt = f"Two trainings label {others.mean():.1%} of the pictures alike, {others.min():.1%} at the least."
        values = np.where(np.eye(len(names)), np.nan, shares)
        sides = ("training", names), ("training", names)
        drawings.append(charts.heat("agreement", "Agreement", alt, "share alike", *sides, values))
    loose = sorted(classes, key=lambda row: -row["f1_sd"])
    lines = [(row["class"], row["f1_mean"], row["f1_min"], row["f1_max"]) for row in loose[:MOST]]
    alt = f"Mean, lowest and highest F1 over the seeds of the {len(lines)} least stable classes."
    drawings.append(charts.intervals("spread", "Spread by class", alt, "F1", lines))
    rows = [[name(row["class"]), row["pictures"], *(number(row[key]) for key in NUMBERS)] for row in loose]
    header = ["class", "#pictures", "#mean F1", "#sd", "#lowest", "#highest"]
    page.section("Seeds", *drawings, table("Classes over the seeds", header, rows, "Find classes"))
