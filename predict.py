"""Labels for the test pictures, as CSV on stdout: the last step of the work.

    python predict.py > submission.csv
    python predict.py --run runs/a runs/b --tta flip -o submission.csv       (an averaged ensemble)

The checkpoint carries classes, preprocessing and weights; of the test set nothing but the pictures and their ids is
read.
"""

import csv
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

import data
import metrics
from engine import resident
from engine.evaluate import logits, view
from engine.numerics import pick_device, precision
from engine.run import load_best
from errors import LongtailError, Parser, run_command
from model import build_model
from pictures.store import load_store
from plan import evaluation_plans
from study import ranking
from study.table import Study, newest, write_csv


def probabilities(
    checkpoint: dict, files: list[Path], *, device: torch.device | str, tta: str = "none"
) -> tuple[np.ndarray, dict[int, str]]:
    """Posterior float64 [N,C] of the picture files under a best.pt's dict, and the bad files' rows and reasons.

    A bad picture gets the class prior that the checkpoint's predictions assume. tta: 'none', 'flip' or 'crops',
    averaged.
    """
    device = torch.device(device)
    size = checkpoint["size"]
    store_size = checkpoint["store_size"]
    store = load_store(files, store_size, checkpoint["resize"])
    net = build_model(**checkpoint["model"])
    net.load_state_dict(checkpoint["weights"])
    net = net.to(device, memory_format=torch.channels_last)
    show = view(device, size=size, mean=checkpoint["mean"], std=checkpoint["std"], border="reflect")
    dtype = precision(device, checkpoint["config"]["amp"])
    plans = evaluation_plans(
        np.arange(len(files)), views="centre" if tta == "none" else tta, size=size, store_size=store_size
    )
    pixels = resident.levels(store, device)[store.pixels.shape[1]]
    bias = np.array(checkpoint["bias"])  # turns logits into posteriors under the prior that was asked for
    # Posteriors are averaged, not logits: a view with large logits does not outvote the others.
    by_view = []
    for plan in plans:
        scores = logits(net, pixels, plan, len(files), show, dtype=dtype)
        by_view.append(metrics.softmax(scores + bias))
    probs = np.mean(by_view, 0)
    if checkpoint["config"]["prior"] == "uniform":
        prior = np.ones(len(checkpoint["classes"]))
    else:
        prior = np.array(checkpoint["counts"], float)
    probs[list(store.bad)] = prior / prior.sum()
    return probs, store.bad


def choose(project: Path | str) -> tuple[list[Path], str]:
    """(run folders, what they are) when none is named. Raises LongtailError where there is no run.

    The seeds of a finished study `final`; else the winner's runs of the study whose best.json is the newest; else the
    newest run. Studies and runs are never ranked against each other.
    """
    project = Path(project)
    if (project / "final" / "study.json").exists():
        study = Study(project / "final")
        good = [i for i, row in study.latest().items() if row["status"] == "ok"]
        if good and not study.jobs():
            return [study.run(i) for i in good], f"the {len(good)} runs of the finished study {study.folder}"
    recipe = newest(project, "best.json")
    if recipe is not None:
        study = Study(recipe.parent)
        choice = ranking.choose(study)
        if choice is None:
            raise LongtailError(f"{study.folder}: no point of this study can be ranked any more: name runs with --run")
        trials = choice.point.trials
        return [study.run(i) for i in trials], f"the {len(trials)} runs of {recipe}"
    weights = newest(project, "best.pt")
    if weights is None:
        raise LongtailError(f"{project}: no run with a best.pt; train one (python train.py), or name one with --run")
    return [weights.parent], f"{weights.parent}, the newest run"


def table(sample: Path | str | None, ids: list[str], header=("id", "label")) -> tuple[list[str], list[str]]:
    """What to write: (header, ids in order). `sample`: a sample submission to take them from, or None.

    Raises LongtailError where the sample asks for a picture that is not there, or for one twice.
    """
    if sample is None:
        return header, ids
    with open(sample, newline="", encoding="utf-8-sig") as f:  # -sig: spreadsheets begin a file with a mark
        header, *rows = [row for row in csv.reader(f) if row]
    wanted = [row[0] for row in rows]
    known = set(ids)
    for line, name in enumerate(wanted, 2):
        if name not in known:
            raise LongtailError(f"{sample}, line {line}: id {name!r} is not among the test pictures")
    if len(set(wanted)) < len(wanted):
        raise LongtailError(f"{sample}: an id stands twice")
    if len(wanted) < len(ids):
        print(f"{sample} lists {len(wanted)} of {len(ids)} test pictures: only those are written", file=sys.stderr)
    return header, wanted


def predict(args: Namespace) -> None:
    """The command, from its parsed arguments."""
    device = pick_device(args.device)
    if args.run:
        folders, which = [Path(folder) for folder in args.run], ", ".join(args.run)
    else:
        folders, which = choose(args.project)
    checkpoints = _checkpoints(folders)
    root = Path(args.data or checkpoints[0]["data"])
    averaged = ", a plain average" if len(folders) > 1 else ""
    print(f"predicting with {which}{averaged}, on {args.test or root}", file=sys.stderr)
    listing = data.test_listing(root, args.test)
    sample = args.sample_submission
    own_sample = root / "sample_submission.csv"
    if sample is None and args.test is None and own_sample.exists():  # it is of the data's own test pictures
        sample = own_sample
    header, wanted = table(sample, listing.ids)

    # Every run counts alike. A running sum: the runs' posteriors are never in memory together.
    probs, bad = 0, {}
    for checkpoint in checkpoints:
        own_probs, own_bad = probabilities(checkpoint, listing.files, device=device, tta=args.tta)
        probs = probs + own_probs / len(checkpoints)
        bad |= own_bad
    for row, reason in bad.items():
        print(f"warning: {listing.paths[row]}: {reason}: its row is the class prior's answer", file=sys.stderr)

    classes = checkpoints[0]["classes"]
    row_of = {name: row for row, name in enumerate(listing.ids)}
    rows = []
    for name in wanted:  # in the sample's order
        p = probs[row_of[name]]
        answer = [f"{value:.6g}" for value in p] if args.probs else [classes[p.argmax()]]
        rows.append([name, *answer])
    if args.probs:
        header = [header[0], *classes]
    _write(args.output, header, rows)


def main(args: list[str] | None = None) -> int:
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


def _checkpoints(folders):
    """The best.pt of each run, all of the same classes. LongtailError otherwise."""
    checkpoints = []
    for folder in folders:
        path = folder if folder.is_file() else folder / "best.pt"
        if not path.exists():
            raise LongtailError(f"{folder}: no best.pt there: name a run's folder")
        checkpoint = load_best(path)
        bad = [name for name, value in checkpoint["weights"].items() if not value.isfinite().all()]
        if bad:
            raise LongtailError(f"{path}: the weights are not finite ({bad[0]}): train again with a lower --lr")
        checkpoints.append(checkpoint)
    for folder, checkpoint in zip(folders, checkpoints):
        if checkpoint["classes"] != checkpoints[0]["classes"]:
            raise LongtailError(f"{folder} knows other classes than {folders[0]}: they cannot be averaged")
    return checkpoints


def _write(output, header, rows):
    """The CSV, to the file `output`, all or nothing, or to stdout."""
    if output:
        columns = len(rows[0]) if rows else len(header)  # a sample's further columns stay empty: they go
        write_csv(Path(output), [header[:columns], *rows])
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
