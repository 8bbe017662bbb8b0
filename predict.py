"""Labels for the test pictures, as CSV on stdout: the last step of the work.

    python predict.py > submission.csv
    python predict.py --run runs/a runs/b --tta flip -o submission.csv       (an averaged ensemble)

The checkpoint carries classes, preprocessing and weights; of the test set nothing but the pictures and their ids is
read.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

import data
import metrics
from engine import resident
from engine.evaluate import logits, view
from engine.numerics import pick_device, precision
from engine.run import check_format, load_checkpoint, replacing
from errors import LongtailError, Parser, run_command
from model import build_model
from pictures.store import load_store
from plan import evaluation_plans
from study import ranking
from study.table import Study


def probabilities(checkpoint, files, *, device, tta="none"):
    """Posterior float64 [N,C] of the picture files under a best.pt's dict, and the bad files' rows and reasons.

    A bad picture gets the class prior that the checkpoint's predictions assume. tta: 'none', 'flip' or 'crops',
    averaged.
    """
    c = checkpoint
    store = load_store(files, c["store_size"], c["resize"])
    net = build_model(**c["model"])
    net.load_state_dict(c["weights"])
    net = net.to(device, memory_format=torch.channels_last)
    shown = view(device, size=c["size"], mean=c["mean"], std=c["std"], border="reflect")
    shape = dict(size=c["size"], store_size=c["store_size"])
    dtype = precision(device, c["config"]["amp"])
    views = evaluation_plans(np.arange(len(files)), views="centre" if tta == "none" else tta, **shape)
    pixels = resident.levels(store, device)[store.pixels.shape[1]]
    probs = np.mean(
        [metrics.softmax(logits(net, pixels, v, len(files), shown, dtype=dtype) + np.array(c["bias"])) for v in views],
        0,
    )
    prior = np.ones(len(c["classes"])) if c["config"]["prior"] == "uniform" else np.array(c["counts"], float)
    probs[list(store.bad)] = prior / prior.sum()
    return probs, store.bad


def choose(project):
    """(run folders, what they are) when none is named: the seeds of a finished study `final`; else the winner's runs of
    the study whose
    best.json is the newest; else the newest run. Studies and runs are never ranked against each other."""
    project = Path(project)
    if (project / "final" / "study.json").exists():
        study = Study(project / "final")
        if not study.jobs():
            good = [i for i, row in study.latest().items() if row["status"] == "ok"]
            if good:
                return [study.run(i) for i in good], f"the {len(good)} runs of the finished study {study.folder}"
    won = sorted(project.glob("*/best.json"), key=lambda p: (p.stat().st_mtime_ns, p))
    if won:
        study = Study(won[-1].parent)
        point = ranking.choose(study)[1]
        return [study.run(i) for i in point.trials], f"the {len(point.trials)} runs of {won[-1]}"
    found = sorted(project.glob("*/best.pt"), key=lambda p: (p.stat().st_mtime_ns, p))
    if not found:
        raise LongtailError(f"{project}: no run with a best.pt; train one (python train.py), or name one with --run")
    return [found[-1].parent], f"{found[-1].parent}, the newest run"


def table(sample, ids, header=("id", "label")):
    """What to write: (header, ids in order). `sample`: a sample submission to take them from, or None."""
    if sample is None:
        return header, ids
    with open(sample, newline="", encoding="utf-8-sig") as f:
        head, *rows = [r for r in csv.reader(f) if r]
    wanted = [r[0] for r in rows]
    known = set(ids)
    for line, name in enumerate(wanted, 2):
        if name not in known:
            raise LongtailError(f"{sample}, line {line}: id {name!r} is not among the test pictures")
    if len(set(wanted)) < len(wanted):
        raise LongtailError(f"{sample}: an id stands twice")
    if len(wanted) < len(ids):
        print(f"{sample} lists {len(wanted)} of {len(ids)} test pictures: only those are written", file=sys.stderr)
    return head, wanted


def predict(args):
    device = pick_device(args.device)
    folders, which = ([Path(r) for r in args.run], ", ".join(args.run)) if args.run else choose(args.project)
    checkpoints = []
    for folder in folders:
        path = folder if folder.is_file() else folder / "best.pt"
        if not path.exists():
            raise LongtailError(f"{folder}: no best.pt there: name a run's folder")
        checkpoint = load_checkpoint(path)
        check_format(checkpoint.get("format", 1), path)
        checkpoints.append(checkpoint)
    first = checkpoints[0]
    for folder, c in zip(folders, checkpoints):
        if c["classes"] != first["classes"]:
            raise LongtailError(f"{folder} knows other classes than {folders[0]}: they cannot be averaged")
    root = Path(args.data or first["data"])
    print(f"predicting with {which}{', a plain average' * (len(folders) > 1)}, on {args.test or root}", file=sys.stderr)
    listing = data.test_listing(root, args.test)
    sample = args.sample_submission or next((p for p in [root / "sample_submission.csv"] if p.exists()), None)
    head, wanted = table(sample, listing.ids)

    probs, bad = 0, {}
    for c in checkpoints:
        p, wrong = probabilities(c, listing.files, device=device, tta=args.tta)
        probs, bad = probs + p / len(checkpoints), bad | wrong
    for row, reason in bad.items():
        print(f"warning: {listing.paths[row]}: {reason}: its row is the class prior's answer", file=sys.stderr)

    at = {name: i for i, name in enumerate(listing.ids)}
    order = [at[name] for name in wanted]
    if args.probs:
        head = [head[0], *first["classes"]]
        rows = [[listing.ids[i], *(f"{v:.6g}" for v in probs[i])] for i in order]
    else:
        rows = [[listing.ids[i], first["classes"][probs[i].argmax()]] for i in order]
    if args.output:
        with replacing(Path(args.output)) as path, open(path, "w", newline="", encoding="utf-8") as f:
            csv.writer(f, lineterminator="\n").writerows([head[: len(rows[0])] if rows else head, *rows])
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([head, *rows])
        sys.stdout.flush()


def main(args=None):
    parser = Parser(prog="predict.py", description=__doc__)
    parser.add_argument(
        "--run",
        nargs="+",
        default=[],
        metavar="RUN",
        help="run folders, averaged (default: a finished study `final`, "
        "else the winner of the newest best.json, else the newest run)",
    )
    parser.add_argument("--project", default="runs", help="folder of the runs (default runs)")
    parser.add_argument("--data", help="folder of the data (default: the one the run was trained on)")
    parser.add_argument(
        "--test", help="folder, or CSV of ids, of the test pictures (default: test.csv or test/ in --data)"
    )
    parser.add_argument(
        "--sample-submission", metavar="CSV", help="keep its header, ids and order (default: --data's, if any)"
    )
    parser.add_argument(
        "--probs", action="store_true", help="a column of probabilities for each class instead of the label"
    )
    parser.add_argument(
        "--tta",
        default="none",
        choices=("none", "flip", "crops"),
        help="average over mirrored views, or corner crops too",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write here, all or nothing, instead of stdout")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    space = parser.parse_args(args)
    return run_command("predict.py", lambda: predict(space))


if __name__ == "__main__":
    sys.exit(main())
