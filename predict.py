"""Labels for the test pictures, as CSV on stdout: the last step of the work.

    python predict.py > submission.csv
    python predict.py --run runs/a runs/b --tta crops -o submission.csv      (an averaged ensemble)

The checkpoint carries classes, preprocessing and weights. Of the test set it reads the pictures and their ids alone.
"""

import csv
import io
import os
import shlex
import stat
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np

import data
from engine.numerics import pick_device
from errors import ConfigError, LongtailError, Parser, counted, first_ten, run_command
from files import replacing
from pictures.samples import Sample, own_sample, read_sample
from posterior import classifier, sets
from study.chosen import add_flags, opened

SEPARATOR = "|"  # of the classes of a set


def predict(args: Namespace) -> None:
    """The command, from its parsed arguments."""
    device = pick_device(args.device)
    if args.output is not None:
        _check_output(args.output)
    chosen = opened(args)
    classes = chosen.checkpoints[0]["classes"]
    if args.sets:
        _check_sets(args, chosen.adjustment, classes)
    root = Path(args.data or chosen.checkpoints[0]["data"])
    averaged = ", a plain average" if len(chosen.folders) > 1 else ""
    print(f"predicting with {chosen.which}{averaged}, on {args.test or root}", file=sys.stderr)
    tests = data.test_listing(root, args.test, taught=classes)
    for line in first_ten([f"passed over: {name}" for name in tests.skipped]):
        print(line, file=sys.stderr)
    if (tests.labels >= 0).any():
        print(f"these pictures have labels, and {_scoring(args)} scores the answers", file=sys.stderr)
    sample = _sample(args, root, tests, classes)

    as_judged, unread = classifier.log_posteriors(chosen.checkpoints, tests.files, device=device, tta=args.tta)
    log_posterior, said = chosen.adjustment(as_judged, unread=unread)
    in_sets = _sets(chosen.adjustment, as_judged, log_posterior, unread) if args.sets else None
    for line in said if in_sets is None else [*said, _about_sets(chosen.adjustment, in_sets, unread)]:
        print(line, file=sys.stderr)
    asked = sorted(unread.keys() & set(sample.rows))
    answer = "has every class" if args.sets else "is the class prior's answer"
    warned = [f"warning: {tests.paths[row]}: {unread[row]}: its row {answer}" for row in asked]
    for line in first_ten(warned):
        print(line, file=sys.stderr)
    _write(args.output, _lines(args, sample, classes, np.exp(log_posterior), in_sets))


def _sample(args, root, tests, classes):
    """Header, ids and order of the answer: those of a sample submission, else of the test pictures."""
    file = args.sample_submission
    if file is None and args.test is None:  # the data's own sample is of its own test pictures
        file = own_sample(root)
    if file is None:
        return Sample(["id", "label"], tests.ids, range(len(tests.ids)), None)
    sample = read_sample(file, tests, classes)
    print(
        f"answering {len(sample.ids)} of {len(tests.ids)} test pictures, those of {file}, whose first id, "
        f"{sample.ids[0]!r}, is {tests.paths[sample.rows[0]]}",
        file=sys.stderr,
    )
    if args.sets and sample.columns is not None:
        raise ConfigError(f"--sets: {file} asks for a number for each class; --test DIR does without it")
    return sample


def _lines(args, sample, classes, probs, in_sets):
    """The rows of the CSV, its header first. probs [N,C], in_sets bool [N,C] or None: of the test pictures."""
    header, columns = sample.header, sample.columns
    if args.probs and columns is None:
        header, columns = [header[0], *classes], range(len(classes))
    lines = [header]
    for name, row in zip(sample.ids, sample.rows):
        p = probs[row]
        if args.sets:
            likely_first = np.argsort(-p, kind="stable")
            answers = [SEPARATOR.join(classes[c] for c in likely_first if in_sets[row, c])]
        elif columns is None:
            answers = [classes[p.argmax()]]
        else:
            answers = [f"{p[column]:.6g}" for column in columns]
        lines.append([name, *answers])
    return lines


def _check_sets(args, adjustment, classes):
    """Raises an error where sets of classes cannot be written: before the work, not after it."""
    if args.probs:
        raise ConfigError("--sets and --probs: give one of them, for each fills the columns")
    unfit = next((name for name in classes if SEPARATOR in name), None)
    if unfit is not None:
        raise LongtailError(f"--sets joins classes by {SEPARATOR}, but a class is called {unfit!r}: rename it")
    kept = adjustment.calibration
    if not args.calibration:
        raise ConfigError("--sets and --no-calibration: the threshold of sets is in the calibration")
    if kept is None:
        raise LongtailError("--sets: no calibration belongs to these runs: calibrate.py makes one")
    if kept.least is None:
        raise LongtailError(
            f"--sets: {kept.path} has no threshold: {counted(kept.pictures, 'held-out picture')} were too few, or an "
            "older version made it: make it again with calibrate.py"
        )


def _sets(adjustment, as_judged, log_posterior, unread):
    """Whether a class is in a picture's set, bool [N,C]. Of a picture that cannot be read every class may be right."""
    found = sets.inside(as_judged, adjustment.trained, adjustment.calibration.least, log_posterior.argmax(1))
    found[list(unread)] = True
    return found


def _about_sets(adjustment, in_sets, unread):
    """What the sets promise, in a sentence. unread: rows of pictures that could not be read, which promise nothing."""
    kept = adjustment.calibration
    if len(unread) < len(in_sets):
        in_sets = np.delete(in_sets, list(unread), 0)
    said = (
        f"sets of {in_sets.sum(1).mean():.1f} classes on average, which hold the right one for "
        f"{1 - 1 / sets.ONE_IN:.0%} of pictures like the {kept.pictures} of {kept.path}"
    )
    if adjustment.prior != "train":
        said += ", where classes are as frequent as there: no prior moves a set, only the order in it"
    return said + adjustment.carried_over()


def _scoring(args):
    """The command line that scores what this one answers."""
    words = ["python", "evaluate.py"]
    defaults = dict(project="runs", tta="auto", device="auto")
    for flag in ("run", "project", "data", "test", "tta", "prior", "device"):
        value = getattr(args, flag)
        if value and value != defaults.get(flag):
            words += [f"--{flag}", *(value if flag == "run" else [value])]
    return shlex.join(words + ["--no-calibration"] * (not args.calibration))


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="predict.py", description=__doc__)
    add_flags(parser)
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
        "--sets",
        action="store_true",
        help=f"instead of the label all classes that it may be, the likeliest first, joined by {SEPARATOR}: the right "
        "one is among them for 90%% of pictures (calibrate.py first)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write here, a file all or nothing, instead of stdout")
    space = parser.parse_args(args)
    return run_command("predict.py", lambda: predict(space))


def _check_output(output):
    """Raises an error where `output` cannot be a file: before the work, not after it."""
    mode = _mode(output)
    folder = Path(os.path.realpath(output)).parent
    if mode is None:
        os.stat(folder)
    elif stat.S_ISDIR(mode):
        raise LongtailError(f"{output} is a folder: name a file")
    if (mode is None or stat.S_ISREG(mode)) and not os.access(folder, os.W_OK | os.X_OK):
        raise LongtailError(f"{output}: {folder} cannot be written to: name a file in another folder")


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
