"""A page that shows what came out: of a run, of a study, of seeds. One file, report.html in their folder, that needs
neither network nor server; its charts lie beside it as PNG and CSV.

    python report.py runs/photos         of a run, finished or not
    python report.py runs/sweep          of a study or of seeds
    python report.py --watch             of the one begun last, written anew while it goes on

Reads the folder and, for the pictures that it shows, the data. No checkpoint is loaded, nothing is trained.
"""

import sys
import time
from argparse import Namespace
from pathlib import Path

from engine.stop import StopRequest
from errors import LongtailError, Parser, run_command
from reporting import run_page, study_page
from reporting.page import Page
from study.table import newest

PERIOD = 10  # seconds between two looks at a folder that is watched
# Of a run, and of a study. A run is done when its last.pt is gone.
WATCHED = ("results.csv", "val_predictions.csv", "best.pt", "last.pt", "rows", "best.json", "summary.json")


def page_of(path: Path, refresh: int) -> Page:
    """The page of the folder `path`. refresh: seconds after which the page of what goes on loads itself again."""
    if (path / "study.json").exists():
        return study_page.build(path, refresh)
    return run_page.build(path, refresh)


def report(args: Namespace) -> None:
    """The command, from its parsed arguments."""
    if args.what:
        path = Path(args.what)
    else:
        found = [path for path in (newest(args.project, name) for name in ("study.json", "args.json")) if path]
        if not found:
            raise LongtailError(f"{args.project}: no study and no run there; name one")
        path = max(found, key=lambda path: path.stat().st_mtime_ns).parent
    changed = True
    while changed:
        before = _state(path)  # what is written while the page is made belongs to the next one
        page = page_of(path, PERIOD if args.watch else 0)
        print(page.write(), flush=True)
        if not args.watch:
            return
        time.sleep(PERIOD)
        while page.refresh and _state(path) == before:
            time.sleep(PERIOD)
        changed = _state(path) != before  # what is done may still write its summary


def _state(path):
    """When each file that a page shows of a folder was last written."""
    files = [path / name for name in WATCHED]
    return {file.name: file.stat().st_mtime_ns for file in files if file.exists()}


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="report.py", description=__doc__)
    parser.add_argument("what", nargs="?", metavar="RUN|STUDY", help="its folder (default: what was begun last)")
    parser.add_argument("--project", default="runs", help="folder of the runs (default runs)")
    parser.add_argument("--watch", action="store_true", help="write it anew while the run or study goes on")
    space = parser.parse_args(args)
    StopRequest().listen()  # a shell's background jobs would not hear SIGINT
    return run_command("report.py", lambda: report(space))


if __name__ == "__main__":
    sys.exit(main())
