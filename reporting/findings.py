"""What a study found, for people: its ranking, what moves the score, and what to do next."""

import math
import shlex
from collections.abc import Iterator

from config import spelled
from errors import LongtailError, counted
from reporting.tables import table
from study import complement, ranking, stats
from study.effects import Difference, against_base, factors, in_turn
from study.metric import METRICS, merit, titled
from study.ranking import Candidate
from study.table import REPEATS, SCHEME, Study

SHOWN = 12  # candidates in the table


def report(study: Study, groups: dict[str, list[Candidate]]) -> Iterator[str]:
    """The ranking and the effects, line by line. groups: the study's `ranking.candidates`."""
    for reason, trials in failures(study).items():
        which = f"trial {trials[0]}" + f" and {len(trials) - 1} more" * (len(trials) > 1)
        yield f"{which} failed: {reason}; --retry-failed tries again"
    choice = ranking.choose(groups)
    if choice is None:
        first_group = next(iter(groups.values()))
        yield f"{study.folder}: no candidate to rank: {first_group[0].wanting}"
        return
    group = groups[choice.scheme]
    ranked = ranking.ranked(group)
    yield from _ranking_table(study, choice, ranked)
    yield f"\nwinner: {choice.candidate.label()}: {choice.reason}."
    wanting = [candidate for candidate in group if candidate.wanting]
    if wanting:
        yield f"Not ranked: {len(wanting)}; {wanting[0].label()}, for one: {wanting[0].wanting}."
    if len(groups) > 1:
        yield f"\nHow to validate (rank agreement: Spearman's, with {choice.scheme}):\n"
        rows = []
        for each in ranking.schemes(study, groups):
            rows.append([each.name, str(each.pictures), f"{each.error:.4f}", f"{each.agreement:.2f}"])
        yield from table(["scheme", "validation pictures", "standard error", "rank agreement"], rows)
    lines = changes(study, ranked) or effects(study, ranked)
    if lines:
        yield "\n" + "\n".join(lines)


def headline(study: Study, choice: ranking.Choice | None, candidates: list[Candidate]) -> list[str]:
    """What came out and what to do next, in three sentences; then what else there is to know, a line each.

    candidates: those of the scheme that is shown.
    """
    rows, left = study.latest(), len(study.jobs())
    failed = [row for row in rows.values() if row["status"] != "ok"]
    said = ["No candidate can be ranked yet."]
    more = []
    if choice is not None:
        candidate = choice.candidate
        score = f"{METRICS[candidate.metric]} {candidate.score:.4f} ± {candidate.error:.4f} (its standard error)"
        said = [f"The winner is {candidate.label()}, with {score} at the {study.scored_epoch()} under {choice.scheme}."]
        if ranking.varied(study):
            more.append(f"{candidate.label()}: {choice.reason}.")
        more += together(study, candidates)
    said.append(f"Of {counted(len(study.trials), 'trial')} {how_far(study)}.")
    recipe = study.folder / "best.json"
    if left:
        todo = "the command that began it goes on"
    elif failed and choice is None:
        todo = "the command that began it, with --retry-failed, tries again"
    elif recipe.exists():
        todo = f"{shlex.join(['python', 'seeds.py', '-c', str(recipe), '--n', '10'])} tells how much of it is luck"
    else:
        todo = "report.py of one of its runs shows pictures"
    said.append(f"What to do next: {todo}.")
    if failed:
        more.append(f"Trial {failed[0]['trial']} failed: {failed[0]['reason']}. --retry-failed tries again.")
    return [" ".join(said), *more]


def how_far(study: Study) -> str:
    """'7 done, 1 failed, 4 to run now': what halving chose to go on is not done yet."""
    failed = sum(row["status"] != "ok" for row in study.latest().values())
    return f"{len(study.over_now()) - failed} done, {failed} failed, {len(study.jobs())} to run now"


def together(study: Study, candidates: list[Candidate]) -> Iterator[str]:
    """Which two of the candidates make the best classifier as one, in a line; nothing for a single candidate."""
    try:
        pair = next(iter(complement.pairs(study, candidates)), None)
    except (LongtailError, OSError) as error:
        yield f"Which two candidates go together is not known: {error}."
        return
    if pair is None:
        return
    best = ranking.ranked(candidates)[0]
    if not merit(best.metric, pair.score) > merit(best.metric, best.score):
        yield "No two candidates averaged (predict.py --run A B) are better than the best one alone."
        return
    seeds = ", seeds averaged in all three" if len({study.config(i).seed for i in pair.first.trials}) > 1 else ""
    yield (
        f"The best pair to average (predict.py --run A B) is {pair.first.label()} with {pair.second.label()}: "
        f"{METRICS[pair.first.metric]} {pair.score:.4f}, {pair.gain:+.4f} ± {pair.error:.4f} (its standard error) over "
        f"the better of the two alone{seeds}. They agree on {pair.alike:.0%} of the pictures; at least one is right on "
        f"{pair.either:.0%}."
    )


def failures(study: Study) -> dict[str, list[int]]:
    """The trials that failed, by their reason."""
    found = {}
    for trial, row in study.latest().items():
        if row["status"] != "ok":
            found.setdefault(row["reason"], []).append(trial)
    return found


def changes(study: Study, group: list[Candidate]) -> list[str]:
    """One setting at a time against the base, largest first; nothing where candidates differ in more than one."""
    found = one_change_each(study, group)
    if not found:
        return []
    rows = []
    for change in sorted(found, key=lambda change: -abs(change.mean)):
        name = change_in_words(study, change.candidate)
        interval = "" if math.isnan(change.half_width) else f" ± {change.half_width:.4f}"
        beyond = "beyond noise" if abs(change.mean) > change.half_width else ""
        rows.append([name, f"{change.mean:+.4f}{interval}", beyond])
    said = f"What one change does to {titled(group[0].metric)}, paired picture by picture, 95% interval:\n"
    return [said, *table(["change", "difference", ""], rows)]


def one_change_each(study: Study, group: list[Candidate]) -> list[Difference]:
    """The differences from the base, where each candidate differs from it in one setting; else none.

    None of two candidates either: their difference says no more than the ranking does.
    """
    found = against_base(study, group)
    if len(ranking.ranked(group)) < 3 or any(len(_changed(study, change.candidate)) > 1 for change in found):
        return []
    return found


def change_in_words(study: Study, candidate: Candidate) -> str:
    """The settings in which a candidate differs from the base, with their values."""
    config = study.config(candidate.trials[0])
    return ", ".join(f"{name} {spelled(getattr(config, name))}" for name in _changed(study, candidate))


def _changed(study, candidate):
    """The settings in which a candidate differs from the base."""
    return [name for name in study.trials[candidate.trials[0]] if name not in SCHEME + REPEATS]


def effects(study: Study, group: list[Candidate]) -> list[str]:
    """Main effects of an additive model, and the strongest interactions; nothing where no setting varies."""
    scores, blocks, levels = factors(study, group)
    if not levels:
        return []
    model = stats.additive(scores, blocks, levels)
    errors = "too few trials for an error"
    if model.free:
        errors = f"± 95% t intervals, {counted(model.free, 'degree')} of freedom"
    rows = []
    for name, level, effect in in_turn(model):
        error = f" ± {model.half_width(effect):.4f}" if model.free else ""
        rows.append([name, level, f"{effect.value:+.4f}{error}"])
    lines = [
        f"Main effects on {titled(group[0].metric)} of a fold (additive model, folds and seeds as blocks; {errors}):\n",
        *table(["setting", "value", "against the mean value"], rows),
    ]
    pairs = []
    for pair in stats.interactions(model.residuals, model.sd, levels)[:3]:
        # Without other degrees of freedom the pair is its own noise, and nobody could see it.
        if (len(set(levels[pair.first])) - 1) * (len(set(levels[pair.second])) - 1) < model.free:
            pairs.append(f"{pair.first} × {pair.second} {pair.size:.4f} (noise alone: {pair.noise:.4f})")
    if pairs:
        lines.append("\nStrongest interactions, root mean square: " + "; ".join(pairs) + ".")
    return lines


def _ranking_table(study, choice, ranked):
    """The best candidates, the chosen one in bold."""
    best = ranked[0]
    over = "pictures and seeds" if any(len(candidate.held_out.left_out) > 1 for candidate in ranked) else "pictures"
    yield (
        f"{counted(len(ranked), 'candidate')} under {choice.scheme}, by {titled(best.metric)} on "
        f"{counted(best.pictures, 'validation picture')} at the {study.scored_epoch()}.\n"
        f"± is one standard error over {over}; behind the best, of the difference picture by picture:\n"
    )
    others = [name for name in METRICS if name != best.metric]
    titles = [METRICS[best.metric], "behind the best", "trials", *(METRICS[name] for name in others), "ECE"]
    rows = []
    for candidate in ranked[:SHOWN]:
        mark = "**" if candidate is choice.candidate else ""
        cells = [
            f"{mark}{candidate.label()}{mark}",
            f"{candidate.score:.4f} ± {candidate.error:.4f}",
            "-",
            str(len(candidate.rows)),
        ]
        if candidate is not best:
            by, error = ranking.behind(best, candidate)
            cells[2] = f"{by:.4f} ± {error:.4f}"
        cells += [f"{candidate.average(name):.4f}" for name in (*others, "ece")]
        rows.append(cells)
    yield from table(["candidate", *titles], rows)
    if len(ranked) > SHOWN:
        yield f"\n{len(ranked) - SHOWN} more in results.csv"
    absent = best.held_out.absent
    if absent:
        yield f"\n{counted(absent, 'class')} without a validation picture: macro F1 is over the others."
