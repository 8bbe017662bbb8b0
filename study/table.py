"""A study: a folder with a table of runs, filled by any number of processes, on all machines that share the folder.

Trial i is the base settings with a few of them changed, so it depends on study.json and i alone; a finished trial is a
row that was published once by an atomic link, and is never run again. Who works on a trial holds its lease. Knows
nothing of grids, ranks candidates only where halving asks which go on, and starts no process.
"""

import contextlib
import csv
import json
import math
import os
import shutil
from pathlib import Path

from config import Config, config_from, spelled, without_removed
from errors import LongtailError
from files import replacing, scratch_path, take_lock
from study.damage import row_from, spec_from
from study.lease import Lease, LeaseLost
from study.metric import DEFAULT, merit

SCHEME = ("folds", "val_split", "split_seed")  # how the pictures are split: compared, never ranked
REPEATS = ("fold", "seed")
NOT_SCORES = ("trial", "until", "fold", "seed", "status", "reason", "seconds")  # the other keys of a row


class Study:
    """The folder: study.json, trials/0007/ (a run), rows/0007-30.json (trial 7 to epoch 30), leases/, results.csv."""

    def __init__(self, folder: Path | str, old: bool = False):
        """Reads the study in `folder`; LongtailError if there is none.

        old: to be looked at alone; settings of its base that this version does not know are passed over.
        """
        self.folder, self.old = Path(folder), old
        self._text = None  # of study.json when it was last read
        self._rows = {}  # by file name and inode: a published row never changes, so it is read once
        self.refresh()

    def refresh(self) -> None:
        """Takes in what other processes added to study.json. LongtailError if it is damaged."""
        path = self.folder / "study.json"
        try:
            text = path.read_text(encoding="utf-8")
            if text == self._text:
                return
            spec = spec_from(text)
        except FileNotFoundError:
            raise LongtailError(f"{self.folder}: no study there (no study.json)") from None
        except ValueError as e:
            raise LongtailError(f"{path}: damaged ({e}): mend it, or begin another --name") from None
        settings, trials = spec["base"], spec["trials"]
        if self.old:
            settings = {name: value for name, value in settings.items() if hasattr(Config(), name)}
        else:
            settings = spec["base"] = without_removed(settings, str(path))  # so that a base of today is the same
        base = config_from(settings, str(path))
        configs = [config_from(trial, f"{path}, trial {i}", base) for i, trial in enumerate(trials)]
        self._text, self.spec, self.trials = text, spec, trials
        self.base, self._configs = base, configs

    @property
    def metric(self) -> str:
        """What its candidates are ranked by, and its survivors of halving chosen."""
        return self.spec.get("metric", DEFAULT)  # older studies have none

    def config(self, i: int) -> Config:
        """Trial i's settings, to its last epoch."""
        return self._configs[i]

    def run(self, i: int) -> Path:
        """Trial i's run folder."""
        return self.folder / "trials" / f"{i:04d}"

    def rungs(self, i: int) -> list[int]:
        """The epochs at which trial i is looked at: with halving by eta a ninth (for 3), a third and all of them."""
        epochs = self.config(i).epochs
        eta = self.spec["halving"]
        return sorted({math.ceil(epochs / eta**k) for k in range(3)}) if eta else [epochs]

    def scored_epoch(self) -> str:
        """The epoch that the rows score, in words: the one whose weights each trial keeps."""
        monitors = sorted({config.monitor for config in self._configs})
        if monitors == ["last"]:
            return "last epoch"
        return f"best epoch by validation {' or '.join(monitors)} (chosen on these pictures, so it flatters)"

    def rows(self) -> dict[tuple[int, int], dict]:
        """Every published row: (trial, epoch) -> dict, in order. LongtailError if one is damaged."""
        known, self._rows = self._rows, {}
        for entry in os.scandir(self.folder / "rows"):
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                key = entry.name, entry.inode()  # a retry removes a row, and another of that name may follow
                if key not in known:
                    try:
                        known[key] = self._fitting(row_from(entry.name, Path(entry.path).read_text("utf-8")))
                    except FileNotFoundError:  # a retry was faster
                        continue
                    except ValueError as e:
                        raise LongtailError(f"{entry.path}: damaged ({e}); without it the trial runs again") from None
                self._rows[key] = known[key]
        return dict(sorted(((row["trial"], row["until"]), row) for row in self._rows.values()))

    def _fitting(self, row):
        """`row` itself. ValueError where study.json has no such trial."""
        i = row["trial"]
        if i >= len(self.trials):
            self.refresh()  # another process may have added it
        if i >= len(self.trials):
            raise ValueError("study.json has no such trial")
        if row["until"] not in self.rungs(i):
            raise ValueError(f"trial {i} is looked at after epochs {', '.join(map(str, self.rungs(i)))}")
        config = self.config(i)
        if (row.get("fold"), row.get("seed")) != (config.fold, config.seed):
            raise ValueError(f"in study.json trial {i} has fold {config.fold} and seed {config.seed}")
        return row

    def latest(self) -> dict[int, dict]:
        """The last row of each trial that has one: trial -> dict."""
        return {trial: row for (trial, _), row in self.rows().items()}

    def over_now(self) -> set[int]:
        """The trials that have a row and nothing to do now, failed ones too."""
        return self.latest().keys() - {trial for trial, _ in self.jobs()}

    def jobs(self) -> list[tuple[int, int]]:
        """(trial, epoch) pairs that may be worked on now.

        Rungs are barriers: a trial goes on when all of the rung below are known.
        """
        rows = self.rows()
        alive = range(len(self.trials))
        last_rung = max(len(self.rungs(i)) for i in alive) - 1
        for rung in range(last_rung + 1):
            # Few epochs have fewer rungs: of those the last one counts again.
            wanted = [(i, self.rungs(i)[: rung + 1][-1]) for i in alive]
            waiting = [job for job in wanted if job not in rows]
            if waiting:
                return waiting
            if rung < last_rung:
                alive = self._survivors([rows[job] for job in wanted])
        return []

    def left(self, shard: tuple[int, int] = (0, 1)) -> bool:
        """Whether this shard has trials to wait for. With halving the others' too: the next rung needs them."""
        jobs = self.jobs()
        if self.spec["halving"]:
            return bool(jobs)
        index, count = shard
        return any(i % count == index for i, _ in jobs)

    def claim(self, shard: tuple[int, int] = (0, 1)) -> Lease | None:
        """A Lease of the first trial of this shard that nobody works on, or None."""
        index, count = shard
        for i, until in self.jobs():
            if i % count == index:
                lease = Lease.take(self, i, until)
                if lease:
                    return lease
        return None

    def publish(self, lease: Lease, row: dict) -> None:
        """Makes `row` the result of the lease's trial, unless there is one. Raises LeaseLost."""
        path = self.folder / "rows" / f"{lease.job}.json"
        draft = scratch_path(path)
        try:
            draft.write_text(json.dumps(row), encoding="utf-8")
            with open(draft) as f:
                os.fsync(f.fileno())
            lease.check()
            os.link(draft, path)
        except FileExistsError:
            raise LeaseLost(lease.job) from None
        finally:
            draft.unlink(missing_ok=True)

    def retry(self) -> int:
        """Forgets the failed trials, so that they run again from their start. Returns how many."""
        with locked(self.folder):  # of several processes that are told to, one does it
            self._rows.clear()
            failed = [i for i, row in self.latest().items() if row["status"] != "ok"]
            for i in failed:
                shutil.rmtree(self.run(i), ignore_errors=True)
                for path in (self.folder / "rows").glob(f"{i:04d}-*.json"):
                    path.unlink()
            self._rows.clear()
        return len(failed)

    def over(self, row: dict) -> bool:
        """Whether no later row of its trial can follow."""
        return row["status"] != "ok" or row["until"] == self.rungs(row["trial"])[-1]

    def write_results(self) -> None:
        """Writes results.csv, a line a trial: what varies first, then scores, then the settings that all share."""
        settings = [config.settings() for config in self._configs]
        first = settings[0]
        varied = [name for name in first if any(each[name] != first[name] for each in settings)]
        shared = [name for name in first if name not in varied]
        with locked(self.folder):  # else a process that read fewer rows could replace a fuller table
            latest = self.latest()
            scores = dict.fromkeys(name for row in latest.values() for name in row if name not in NOT_SCORES)
            header = ["trial", "status", "reason", "seconds", *varied, *scores, *shared]
            lines = []
            for i, own in enumerate(settings):
                cells = dict(status="to do", trial=i) | own | latest.get(i, {})
                lines.append([spelled(cells.get(name, "")) for name in header])
            write_csv(self.folder / "results.csv", [header, *lines])

    def _survivors(self, rows):
        """Trials of the best 1/eta of the candidates, by the metric's mean over rows; none of those with a failed one.

        The base candidate goes on too, however it stands: it is what is known to be good, such as an earlier study's
        winner, and only after all of the epochs can others be said to be better.
        """
        candidates = {}
        for row in rows:
            candidates.setdefault(candidate_key(self.trials[row["trial"]]), []).append(row)
        scored = [candidate for candidate in candidates.values() if all(row["status"] == "ok" for row in candidate)]

        def place(candidate):
            mean = sum(row[self.metric] for row in candidate) / len(candidate)
            return -merit(self.metric, mean), min(row["trial"] for row in candidate)  # of equals the first

        keep = math.ceil(len(scored) / self.spec["halving"])
        best = sorted(scored, key=place)
        on = [candidate for n, candidate in enumerate(best) if n < keep or self._is_base(candidate[0]["trial"])]
        return sorted(row["trial"] for candidate in on for row in candidate)

    def _is_base(self, i):
        """Whether trial i tries the base settings, however it spells them."""
        given = [name for name in self.trials[i] if name not in SCHEME + REPEATS]
        return all(getattr(self.config(i), name) == getattr(self.base, name) for name in given)


def candidate_key(trial: dict) -> str:
    """What a trial tries, as one string: its settings without split, fold and seed."""
    return json.dumps({name: value for name, value in sorted(trial.items()) if name not in SCHEME + REPEATS})


def changes(config: Config, base: Config) -> dict:
    """The settings of `config` that differ from those of `base`: a trial, if `base` is its study's."""
    return {name: value for name, value in config.settings().items() if value != getattr(base, name)}


def identity(config: Config) -> str:
    """A trial's complete settings as one string: trials that are spelled otherwise but are the same share it."""
    return json.dumps(config.settings() | dict(tta=config.averaged_views()))


def recipe_of(config: Config) -> dict:
    """What a recipe says of a trial: its settings, whichever fold and seed it has."""
    return {name: value for name, value in config.settings().items() if name not in REPEATS}


def newest(project: Path | str, name: str) -> Path | None:
    """The file `name` that was written last in the folders of `project`; None if there is none."""
    paths = Path(project).glob(f"*/{name}")
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, path), default=None)


def write_csv(path: Path, rows: list) -> None:
    """Replaces the table `path`, all or nothing."""
    with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows(rows)


@contextlib.contextmanager
def locked(folder: Path):
    """Holds the lock of study.json."""
    with open(folder / ".lock", "w") as lock:
        take_lock(lock, wait=True)
        yield


def write_spec(path: Path, spec: dict) -> None:
    """Replaces study.json, all or nothing."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
