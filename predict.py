"""Labels for the test pictures, as CSV on stdout: the last step of the work.

    python predict.py > submission.csv
    python predict.py --run runs/a runs/b --tta flip -o submission.csv       (an averaged ensemble)

The checkpoint carries classes, preprocessing and weights; of the test set nothing but the pictures and their ids is
read.
"""

import csv
import io
import os
import stat
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

import data
import metrics
from config import read_recipe
from engine import resident
from engine.checkpoint import load_best
from engine.evaluate import logits, view
from engine.numerics import pick_device, precision
from engine.run import replacing
from errors import LongtailError, Parser, counted, first_ten, run_command
from model import build_model
from pictures.samples import Sample, own_sample, read_sample
from pictures.store import load_store
from plan import evaluation_plans
from study.table import Study, newest, recipe_of


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
            return [study.run(i) for i in good], f"the {counted(len(good), 'run')} of the finished study {study.folder}"
    recipe = newest(project, "best.json")
    if recipe is not None:
        study = Study(recipe.parent)
        # What was written last, not what would win now: a study that grows has points that are half done.
        trials = [i for i, row in study.latest().items() if study.over(row) and row["status"] == "ok"]
        trials = [i for i in trials if recipe_of(study.config(i)) == recipe_of(read_recipe(recipe))]
        if not trials:
            raise LongtailError(f"{recipe}: no finished trial of {study.folder} has these settings: name runs by --run")
        return [study.run(i) for i in trials], f"the {counted(len(trials), 'run')} of {recipe}"
    weights = newest(project, "best.pt")
    if weights is None:
        raise LongtailError(f"{project}: no run with a best.pt; train one (python train.py), or name one with --run")
    return [weights.parent], f"{weights.parent}, the newest run"


def predict(args: Namespace) -> None:
    """The command, from its parsed arguments."""
    device = pick_device(args.device)
    if args.output is not None:
        _check_output(args.output)
    if args.run:
        folders, which = [Path(folder) for folder in args.run], ", ".join(args.run)
    else:
        folders, which = choose(args.project)
    checkpoints = _checkpoints(folders)
    root = Path(args.data or checkpoints[0]["data"])
    averaged = ", a plain average" if len(folders) > 1 else ""
    print(f"predicting with {which}{averaged}, on {args.test or root}", file=sys.stderr)
    tests = data.test_listing(root, args.test)
    classes = checkpoints[0]["classes"]
    file = args.sample_submission
    if file is None and args.test is None:  # the data's own sample is of its own test pictures
        file = own_sample(root)
    if file is None:
        sample = Sample(["id", "label"], tests.ids, range(len(tests.ids)), None)
    else:
        sample = read_sample(file, tests, classes)
        print(
            f"answering {len(sample.ids)} of {len(tests.ids)} test pictures, those of {file}, whose first id, "
            f"{sample.ids[0]!r}, is {tests.paths[sample.rows[0]]}",
            file=sys.stderr,
        )

    # Every run counts alike. A running sum: the runs' posteriors are never in memory together.
    probs, bad = 0, {}
    for checkpoint in checkpoints:
        own_probs, own_bad = probabilities(checkpoint, tests.files, device=device, tta=args.tta)
        probs = probs + own_probs / len(checkpoints)
        bad |= own_bad
    asked = sorted(bad.keys() & set(sample.rows))
    warned = [f"warning: {tests.paths[row]}: {bad[row]}: its row is the class prior's answer" for row in asked]
    print(*first_ten(warned), sep="\n", end="\n" * bool(warned), file=sys.stderr)

    header, columns = sample.header, sample.columns
    if args.probs and columns is None:
        header, columns = [header[0], *classes], range(len(classes))
    lines = [header]
    for name, row in zip(sample.ids, sample.rows):
        p = probs[row]
        answers = [classes[p.argmax()]] if columns is None else [f"{p[column]:.6g}" for column in columns]
        lines.append([name, *answers])
    _write(args.output, lines)


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
        "--test", help="folder, picture, or CSV of ids: the test pictures (default: test.csv or test/ in --data)"
    )
    parser.add_argument(
        "--sample-submission",
        metavar="CSV",
        help="keep its header, ids and order (default: --data's, if any, without --test)",
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
    parser.add_argument("-o", "--output", metavar="FILE", help="write here, a file all or nothing, instead of stdout")
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
        checkpoints.append(load_best(path))
    for folder, checkpoint in zip(folders, checkpoints):
        if checkpoint["classes"] != checkpoints[0]["classes"]:
            raise LongtailError(f"{folder} knows other classes than {folders[0]}: they cannot be averaged")
    return checkpoints


def _check_output(output):
    """Raises an error where `output` cannot be a file: before the work, not after it."""
    mode = _mode(output)
    if mode is None:
        os.stat(Path(os.path.realpath(output)).parent)
    elif stat.S_ISDIR(mode):
        raise LongtailError(f"{output} is a folder: name a file")


def _mode(output):
    """The mode of what `output` is, or of what its link leads to; None where nothing is there yet."""
    try:
        return os.stat(output).st_mode
    except FileNotFoundError:
        return None


def _write(output, lines):
    """The CSV, to stdout or to `output`, byte for byte the same.

    A file is replaced, all or nothing, and keeps its mode; a link stays one; a device or a pipe is written to.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    content = text.getvalue().encode("utf-8", "surrogateescape")  # names that are no text are written as spelled
    if output in (None, "/dev/stdout"):  # which may be a file that is not ours to replace
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        mode = _mode(output)
        if mode is None or stat.S_ISREG(mode):
            with replacing(Path(os.path.realpath(output))) as draft:
                draft.write_bytes(content)
                if mode is not None:
                    draft.chmod(stat.S_IMODE(mode))
        else:
            with open(output, "wb") as file:
                file.write(content)
    except OSError as error:
        raise LongtailError(f"{output} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
