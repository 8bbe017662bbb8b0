"""How long report.py takes, how large its pages are, how fast a browser opens and sorts them.

    python -m bench.pages                     60 trials of 50 classes, 1,000 trials, a run of 1,000 classes
    python -m bench.pages --trials 200        another number of trials

The folders are made up: scores, answers and splits are drawn, nothing is trained and there are no pictures. A browser
is measured where Debian's chromium is installed: from the page's request to its load event, and a sort of its table.
"""

import csv
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import report
from bench import browser
from config import Config
from errors import Parser, run_command
from study.table import Study

CLASSES = 50
TIMES = 5  # that a page is opened


def make_run(
    folder: Path,
    classes: int,
    pictures: int,
    seed: int = 0,
    names: list[str] | None = None,
    skill: float = 3.0,
    **settings,
) -> Path:
    """The folder of a finished run that was never trained: a long tail of classes, right on about half.

    Runs of other seeds judge the same pictures. skill: what the right class's logit has more, on average.
    """
    generator = np.random.default_rng(0)
    names = names or [f"class {c:03d}" for c in range(classes)]
    counts = np.maximum(2, 400 * 0.01 ** (np.arange(classes) / classes)).astype(int)
    targets = np.sort(generator.choice(classes, pictures, p=counts / counts.sum()))
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (pictures, classes)) + np.log(counts / counts.sum())
    logits[range(pictures), targets] += generator.normal(skill, 1.5, pictures)
    predicted = logits.argmax(1)
    folder.mkdir(parents=True)
    np.save(folder / "val_logits.npy", logits.astype(np.float32))
    config = Config(data=str(folder / "no-pictures"), epochs=30, **settings)
    (folder / "args.json").write_text(json.dumps(config.settings() | dict(data=config.data)), encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "best.pt").write_bytes(b"")
    shown = [[f"{names[t]}/{i:05d}.jpg", names[t], names[p], "0.5"] for i, (t, p) in enumerate(zip(targets, predicted))]
    _write(folder / "val_predictions.csv", ["path", "true", "predicted", "p"], shown)
    _write(folder / "per_class.csv", ["class", "train", "f1"], [[name, n, 0] for name, n in zip(names, counts)])
    split = [[row[0], row[1], "val"] for row in shown]
    split += [[f"{name}/train-{i}.jpg", name, "train"] for name, n in zip(names, counts) for i in range(n)]
    _write(folder / "split.csv", ["path", "class", "part"], split)
    scores = ("last_lr", "train_loss", "train_acc", "acc", "macro_f1", "many", "medium", "few", "nll", "ece")
    rows = [[e, *np.round(generator.random(len(scores)) + 0.1, 4)] for e in range(1, 31)]
    _write(folder / "results.csv", ["epoch", *scores], rows)
    return folder


def make_study(folder: Path, trials: int, classes: int, pictures: int = 800, failed: int = 3) -> Path:
    """The folder of a finished study of three settings that was never trained; its last `failed` trials failed."""
    generator = np.random.default_rng(0)
    changed = []
    for i in range(trials):
        rate = float(f"{10 ** generator.uniform(-4, -2):.3g}")
        changed.append(dict(lr=rate, ls=[0.0, 0.1][i % 2], balance=["none", "sampler"][i // 2 % 2], seed=0))
    for part in ("rows", "leases", "trials"):
        (folder / part).mkdir(parents=True)
    settings = Config(data=str(folder), epochs=30, monitor="last").settings() | dict(data=str(folder))
    spec = dict(base=settings, data_key="", halving=0, threads=1, way=None, trials=changed)
    (folder / "study.json").write_text(json.dumps(spec), encoding="utf-8")
    for i in range(trials):
        row = dict(trial=i, until=30, fold=0, seed=0, seconds=60.0 + i % 7, status="ok", reason="")
        score = _score(changed[i], i)
        row |= dict(
            epoch=30, macro_f1=score, acc=score + 0.1, nll=2 - score, ece=0.1, macro_f1_se=0.01, val_pictures=800
        )
        if i >= trials - failed:
            row |= dict(status="failed", reason="out of memory: try a smaller --batch-size")
        (folder / "rows" / f"{i:04d}-30.json").write_text(json.dumps(row))
    study = Study(folder)
    for i in range(trials):
        make_run(study.run(i), classes, pictures, seed=i, skill=10 * _score(changed[i], i))
    study.write_results()
    return folder


def _score(changed, i):
    """A macro F1 that has its best at a rate of 1e-3."""
    noise = float(np.random.default_rng(i).normal(0, 0.01))
    return round(0.4 - 0.08 * abs(np.log10(changed["lr"]) + 3) + 0.3 * changed["ls"] + noise, 5)


def _write(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *rows])


# The time to the load event, and of a sort of the longest table.
MEASURE = """
const loaded = performance.timing.loadEventStart - performance.timing.navigationStart, before = performance.now();
const longest = [...document.querySelectorAll("table")].sort((a, b) => b.rows.length - a.rows.length)[0];
longest.querySelector("th:nth-child(3) button").click();
document.body.offsetHeight;
return `opened ${loaded} sorted ${Math.round(performance.now() - before)} of ${longest.rows.length}`;
"""


def in_a_browser(page: Path) -> str:
    """What a browser measures of a page, in words: the quickest of TIMES, for whatever else runs only slows it."""
    if not browser.find():
        return "no chromium here"
    found = [re.fullmatch(r"opened (\d+) sorted (\d+) of (\d+)", browser.ask(page, MEASURE)[0]) for _ in range(TIMES)]
    if None in found:
        return "the browser did not answer"
    opened, sort = (min(int(each[k]) for each in found) for k in (1, 2))
    return f"opened in {opened} ms, {found[0][3]} rows sorted in {sort} ms (the quickest of {TIMES})"


def measure(trials: int) -> None:
    """Prints a line a page."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made = {
            f"{trials} trials, {CLASSES} classes": make_study(folder / "study", trials, CLASSES),
            "1,000 trials": make_study(folder / "large", 1000, CLASSES),
            "a run of 1,000 classes": make_run(folder / "run", 1000, 5000),
        }
        for title, path in made.items():
            wall, cpu = time.perf_counter(), os.times()
            page = report.page_of(path, 0).write()
            wall, cpu = time.perf_counter() - wall, sum(os.times()[:2]) - sum(cpu[:2])
            size = page.stat().st_size / 1e6
            print(f"{title}: {wall:.1f} s ({cpu:.1f} s of CPU), {size:.1f} MB, {in_a_browser(page)}", flush=True)


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="bench.pages", description=__doc__)
    parser.add_argument("--trials", type=int, default=60, help="of the first study (default 60)")
    space = parser.parse_args(args)
    return run_command("bench.pages", lambda: measure(space.trials))


if __name__ == "__main__":
    sys.exit(main())
