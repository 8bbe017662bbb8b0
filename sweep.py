"""Many runs over a grid, a random or a Sobol search, or one setting at a time; their ranking, and what moves the score.

    python sweep.py --name reg --grid mixup_p=0,0.2,0.4 ls=0,0.1 --folds 3        every combination, on three folds
    python sweep.py --sobol 16 lr=1e-4..1e-2:log weight_decay=0.01..0.3:log --halving 3
    python sweep.py --around runs/reg/best.json lr=x0.5,x2 weight_decay=x0.3,x3   one setting at a time
    python sweep.py --ablate runs/reg/best.json                                   one method removed at a time

Every flag of train.py sets the base. The same command again goes on where a study stopped, and several processes or machines that
share the folder share the work. Results: --project/--name/results.csv, best.json. The test set is never looked at.
"""

import dataclasses
import itertools
import json
import math
import shlex
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

import config as configs
import ranking
import run as runs
import study as studies
import workers

KNOBS = {f.name: f for f in dataclasses.fields(configs.Config) if f.metadata["keyed"]}


def knob(name):
    """The Config field that `name` or one of its flags' spellings means."""
    name = name.strip().lstrip("-").replace("-", "_")
    spelled = {n.lstrip("-").replace("-", "_"): f.name for f in KNOBS.values() for n in f.metadata["names"]}
    name = spelled.get(name, name)
    if name not in KNOBS:
        raise configs.ConfigError(f"{name!r} is no setting that a study can vary: did you mean {configs.nearest(name, list(KNOBS))}?")
    return KNOBS[name]


def typed(f, word):
    """A value of field `f` from the command line's text."""
    if f.type is bool:
        if word.lower() not in ("true", "false", "on", "off"):
            raise configs.ConfigError(f"{f.name}={word}: give true or false")
        return word.lower() in ("true", "on")
    return configs.checked(f, word)


def parts(spec):
    """'lr=1e-4,1e-3' as (field, ['1e-4', '1e-3'])."""
    name, equals, words = spec.partition("=")
    if not equals or not all(words.split(",")):
        raise configs.ConfigError(f"{spec!r}: give SETTING=VALUE,VALUE,...")
    return knob(name), words.split(",")


def grid(specs):
    """Every combination of the specs' values, as dicts; the last spec varies fastest."""
    lists = [[(f.name, typed(f, w)) for w in words] for f, words in map(parts, specs)]
    return [dict(c) for c in itertools.product(*lists)]


def search(specs, count, draws):
    """`count` dicts: spec's values where `draws` [count, len(specs)] in [0, 1) fall; LOW..HIGH, LOW..HIGH:log, or a list."""
    found = [{} for _ in range(count)]
    for column, spec in enumerate(specs):
        f, words = parts(spec)
        low, dots, high = words[0].partition("..")
        if not dots:
            values = [typed(f, w) for w in words]
            pick = [values[int(u * len(values))] for u in draws[:, column]]
        else:
            high, _, scale = high.partition(":")
            ends = [typed(f, low), typed(f, high)]
            if len(words) > 1 or scale not in ("", "log") or not all(isinstance(v, (int, float)) for v in ends) or (scale and ends[0] <= 0):
                raise configs.ConfigError(f"{spec!r}: a range is LOW..HIGH, or LOW..HIGH:log above 0, of plain numbers")
            a, b = map(math.log, ends) if scale else ends
            pick = [math.exp(a + u * (b - a)) if scale else a + u * (b - a) for u in draws[:, column]]
            pick = [typed(f, str(round(v)) if f.type is int else f"{v:.4g}") for v in pick]
        for point, value in zip(found, pick):
            point[f.name] = value
    return found


def uniforms(kind, name, count, width):
    """Draws [count, width]; row i depends on the study's name and i alone."""
    seed = zlib.crc32(name.encode())
    if kind == "sobol":  # Sobol 1967, scrambled (Owen 1998)
        return torch.quasirandom.SobolEngine(width, scramble=True, seed=seed).draw(count, dtype=torch.float64).numpy()
    return np.stack([np.random.default_rng([seed, i]).random(width) for i in range(count)])


def around(base, specs):
    """The base point, then points in which one setting differs: to a value, or to xFACTOR times the base's."""
    points = [{}]
    for f, words in map(parts, specs):
        for word in words:
            value = getattr(base, f.name)
            if word.startswith("x") and f.type in (int, float):
                if not isinstance(value, (int, float)):
                    raise configs.ConfigError(f"{f.name}={word}: the base's {configs.text(value)} is no plain number to multiply")
                try:
                    value = value * float(word[1:])
                except ValueError:
                    raise configs.ConfigError(f"{f.name}={word}: give x and a factor") from None
                points.append({f.name: typed(f, str(round(value)) if f.type is int else f"{value:.6g}")})
            else:
                points.append({f.name: typed(f, word)})
    return points


def ablations(base):
    """The base point, then points in which one method of the base is switched off."""
    return [{}] + [{k: off} for k, off in ranking.OFF.items() if getattr(base, k) != off]


def trials(base, points, seeds):
    """Points times folds times seeds, as dicts of what differs from `base`; folds and seeds vary slowest, so that a study that is
    cut short has compared all points alike."""
    found = []
    for point in points:
        c = dataclasses.replace(base, **point)
        for fold in range(c.folds or 1):
            for seed in range(c.seed, c.seed + seeds):
                found.append(dataclasses.replace(c, fold=fold, seed=seed, val_split=base.val_split if c.folds else c.val_split))
    found.sort(key=lambda c: (c.seed, c.fold))
    return [{k: v for k, v in c.settings().items() if v != getattr(base, k)} for c in found]


def report(study):
    """The ranking and the effects, as Markdown."""
    found = ranking.choose(study)
    failed = [r for r in study.latest().values() if r["status"] != "ok"]
    for r in failed:
        yield f"trial {r['trial']} failed: {r['reason']}"
    if found is None:
        yield f"{study.folder}: no point to rank: {next(iter(ranking.points(study).values()))[0].wanting}"
        return
    scheme, won, reason = found
    groups = ranking.points(study)
    group = ranking.ranked(groups[scheme])
    yield (f"{len(group)} point{'s' * (len(group) > 1)} under {scheme}, last epoch's macro F1 on validation pictures "
           f"± the point's own standard error, {won.alone()}:\n")
    yield "| point | macro F1 | n | accuracy | NLL | ECE |\n| --- | --- | --- | --- | --- | --- |"
    for p in group[:12]:
        mark = "**" if p.trials == won.trials else ""
        yield (f"| {mark}{p.label()}{mark} | {p.mean:.4f} ± {p.se:.4f} | {len(p.rows)} | {p.average('val_acc'):.4f} | "
               f"{p.average('val_loss'):.3f} | {p.average('ece'):.4f} |")
    yield (f"\n{len(group) - 12} more in results.csv\n" if len(group) > 12 else "") + f"\nwinner: {won.label()}: {reason}."
    out = [p for p in groups[scheme] if p.wanting]
    if out:
        yield f"Not ranked: {len(out)}; {out[0].label()}, for one: {out[0].wanting}."
    if len(groups) > 1:
        yield f"\nHow to validate (rank agreement: Spearman's, with {scheme}):\n"
        yield "| scheme | validation pictures a point | standard error | rank agreement |\n| --- | --- | --- | --- |"
        for name, pictures, se, how, agree in ranking.schemes(study):
            yield f"| {name} | {pictures} | {se:.4f}, {how} | {agree:.2f} |"
    for name, table in (("change", changes(study, group)), ("effect", effects(study, group))):
        if table and (name == "change" or not changes(study, group)):
            yield "\n" + "\n".join(table)


def changes(study, group):
    """One setting at a time against the base, largest first."""
    found = sorted(ranking.against_base(study, group), key=lambda f: -abs(f[1])) if len(group) > 2 else []
    if not found or any(len(study.trials[p.trials[0]].keys() - {*ranking.SCHEME, *ranking.REPEATS}) > 1 for p, *_ in found):
        return []
    head = ["What one change does to macro F1, paired by fold and seed, 95% t interval:\n", "| change | difference | n | |", "| --- | --- | --- | --- |"]
    return head + [f"| {only(study, p)} | {mean:+.4f}{'' if math.isnan(half) else f' ± {half:.4f}'} | {n} | "
                   f"{'beyond noise' if abs(mean) > half else ''} |" for p, mean, half, n in found]


def only(study, point):
    """The one setting in which a point differs from the base."""
    changed = [k for k in study.trials[point.trials[0]] if k not in (*ranking.SCHEME, *ranking.REPEATS)]
    return ", ".join(f"{k} {configs.text(getattr(study.config(point.trials[0]), k))}" for k in changed)


def effects(study, group):
    """Main effects of an additive model, and the strongest interactions."""
    scores, blocks, levels = ranking.factors(study, group)
    if not levels:
        return []
    found, residuals, sd = ranking.stats.additive(scores, blocks, levels)
    lines = ["Main effects on macro F1 (additive model with folds and seeds as blocks; ± one standard error):\n",
             "| setting | value | against the mean value |", "| --- | --- | --- |"]
    lines += [f"| {k} | {level} | {effect:+.4f} ± {se:.4f} |" for k, table in found.items() for level, (effect, se) in table.items()]
    pairs = [f"{a} × {b} {size:.4f} (noise alone: {noise:.4f})" for size, noise, a, b in ranking.stats.interactions(residuals, sd, levels)[:3]]
    return lines + (["\nStrongest interactions, root mean square: " + "; ".join(pairs) + "."] if pairs and not math.isnan(sd) else [])


def draw(study, path):
    """Differences from the base, or main effects, with their intervals, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scheme = ranking.choose(study)[0]
    group = [p for p in ranking.points(study)[scheme] if not p.wanting]
    if changes(study, group):
        bars = [(only(study, p), mean, half) for p, mean, half, _ in ranking.against_base(study, group)]
        title = "one change at a time: difference of macro F1, 95% t interval"
    else:
        scores, blocks, levels = ranking.factors(study, group)
        if not levels:
            return False
        found = ranking.stats.additive(scores, blocks, levels)[0]
        bars = [(f"{k} {level}", effect, 2 * se) for k, table in found.items() for level, (effect, se) in table.items()]
        title = "main effects on macro F1, ± 2 standard errors"
    names, middle, half = zip(*bars[::-1])
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.3 * len(bars)), layout="constrained")
    axes.errorbar(middle, range(len(bars)), xerr=np.nan_to_num(half), fmt="o", color="#0969da", ecolor="#8c959f", capsize=3)
    axes.axvline(0, color="#d0d7de", zorder=0)
    axes.set_yticks(range(len(bars)), names)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with runs.replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    pyplot.close(figure)
    return True


def conclude(study, choosing):
    """Prints the report, draws effects.png, writes best.json if the study is `choosing` settings, and says the next command."""
    print(*report(study), sep="\n")
    found = ranking.choose(study)
    if found is None:
        good = [i for i, r in study.latest().items() if r["status"] == "ok"]
        if good:
            print(f"Next: python predict.py --run {' '.join(str(study.run(i)) for i in good)} > submission.csv", file=sys.stderr)
        return 0 if good else 1
    if draw(study, study.folder / "effects.png"):
        print(f"drawn in {study.folder / 'effects.png'}", file=sys.stderr)
    if not choosing:
        return 0
    best = dataclasses.replace(study.config(found[1].trials[0]), fold=0, seed=study.base.seed)
    path = study.folder / "best.json"
    with runs.replacing(path) as draft:
        settings = dict(best.settings(), data=study.spec["base"]["data"])
        draft.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    words = [["--data", study.spec["base"]["data"]]]
    words += [[configs.flag(k), configs.text(v)] if not isinstance(v, bool) else [configs.flag(k) if v else f"--no-{configs.flag(k)[2:]}"]
              for k, v in best.settings().items() if v != getattr(configs.Config(), k)]
    print(f"the winner is {path}: python train.py {shlex.join(itertools.chain(*words))}\n"
          f"Next: python seeds.py -c {shlex.quote(str(path))} --n 10", file=sys.stderr)
    return 0


def arguments():
    parser = configs.Parser(prog="sweep.py", description=__doc__)
    what = parser.add_argument_group("what to try")
    what.add_argument("--grid", nargs="+", default=[], metavar="SETTING=A,B", help="every combination of these values")
    what.add_argument("--random", nargs="+", default=[], metavar=("N", "SETTING=LOW..HIGH"), help="the base, and N random points of these ranges or lists")
    what.add_argument("--sobol", nargs="+", default=[], metavar=("N", "SETTING=LOW..HIGH"), help="the base, and N points that cover the ranges evenly")
    what.add_argument("--around", nargs="+", default=[], metavar=("RECIPE", "SETTING=x0.5,x2"), help="one setting of RECIPE at a time")
    what.add_argument("--ablate", metavar="RECIPE", help="one method of RECIPE removed at a time")
    what.add_argument("--seeds", type=int, default=1, help="seeds of every point and fold (default 1)")
    what.add_argument("--halving", type=int, default=0, metavar="ETA", help="go on with the best 1/ETA of the points at a ninth (for 3) "
                      "and at a third of the epochs")
    what.add_argument("--status", action="store_true", help="say how far the study is, and its ranking so far; run nothing")
    workers.add_flags(parser)
    configs.add_flags(parser)
    return parser


def asked(space, name):
    """(base Config, points) of the parsed arguments."""
    chosen = [flag for flag in ("random", "sobol", "around", "ablate") if getattr(space, flag)]
    if len(chosen) > 1 or (space.grid and {"around", "ablate"} & set(chosen)):
        raise configs.ConfigError(f"choose one of {', '.join('--' + c for c in ['grid'] * bool(space.grid) + chosen)}")
    if space.around or space.ablate:
        if space.config:
            raise configs.ConfigError(f"--{chosen[0]} brings the recipe: drop --config")
        space.config = space.ablate or space.around[0]
    base = configs.from_args(space)
    base = dataclasses.replace(base, fold=0, until=0, resume=False, monitor=base.monitor if base.patience else "last")
    if space.around:
        return base, around(base, space.around[1:])
    if space.ablate:
        return base, ablations(base)
    for kind in ("random", "sobol"):
        if getattr(space, kind):
            count, *specs = getattr(space, kind)
            count, specs = workers.number(f"--{kind}", count, 1), [*space.grid, *specs]
            if not specs:
                raise configs.ConfigError(f"--{kind} {count}: give the settings to vary, as in lr=1e-4..1e-2:log")
            return base, [{}, *search(specs, count, uniforms(kind, name, count, len(specs)))]
    return base, grid(space.grid)


def sweep(space, stop):
    name = getattr(space, "name", "sweep")
    base, points = asked(space, name)
    folder = Path(base.project) / name
    halving = workers.number("--halving", space.halving, 2, 100) if space.halving else 0
    if space.status:
        study = studies.Study(folder)
        done = study.latest()
        failed = sum(r["status"] != "ok" for r in done.values())
        print(f"{folder}: {len(study.trials)} trials, {len(done) - failed} done, {failed} failed, {len(study.jobs())} to run now", file=sys.stderr)
        print(*report(study), sep="\n")
        return 0
    workers.check_flags(space, base)
    study = studies.begin(folder, base, trials(base, points, workers.number("--seeds", space.seeds, 1, 1000)), halving)
    if not workers.execute(study, space, base, stop):
        print(f"{folder}: this shard is done, {len(study.jobs())} trials of others are not. Next: the same command, or --status", file=sys.stderr)
        return 0
    return conclude(study, choosing=not (space.around or space.ablate))


def main(args=None):
    space = arguments().parse_args(args)
    return workers.command("sweep.py", lambda stop: sweep(space, stop))


if __name__ == "__main__":
    sys.exit(main())
