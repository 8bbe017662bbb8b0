"""A study: a folder with a table of runs, filled by any number of processes, on all machines that share the folder.

Trial i is the base settings with a few of them changed, so it depends on study.json and i alone; a finished trial is a
row that was published once by an atomic link, and is never run again. Who works on a trial holds its lease. Knows
nothing of grids and rankings, and starts no process.
"""

import contextlib
import csv
import fcntl
import json
import math
import os
import shutil
from pathlib import Path

import torch

from config import config_from, flag_of, spelled
from engine.build import build_network, init_key, prepare_pictures
from engine.run import replacing, scratch_path, with_todays_names
from errors import LongtailError
from pictures import synthetic
from study.lease import Lease, LeaseLost


class Study:
    """The folder: study.json, trials/0007/ (a run), rows/0007-30.json (trial 7 to epoch 30), leases/, results.csv."""

    def __init__(self, folder):
        """Reads the study in `folder`; LongtailError if there is none."""
        self.folder, self._rows, self._text = Path(folder), {}, None
        self.refresh()

    def refresh(self):
        """Takes in what other processes added to study.json."""
        path = self.folder / "study.json"
        try:
            text = path.read_text(encoding="utf-8")
            if text == self._text:
                return
            spec = json.loads(text)
            base, trials = spec["base"], spec["trials"]
        except FileNotFoundError:
            raise LongtailError(f"{self.folder}: no study there (no study.json)") from None
        except (ValueError, KeyError, TypeError) as e:
            raise LongtailError(f"{path}: damaged ({e})") from None
        self._text, self.spec, self.trials = text, spec, trials
        self.base = config_from(base, str(path))
        self._configs = [config_from(t, f"{path}, trial {i}", self.base) for i, t in enumerate(self.trials)]

    def config(self, i):
        """Trial i's settings, to its last epoch."""
        return self._configs[i]

    def run(self, i):
        """Trial i's run folder."""
        return self.folder / "trials" / f"{i:04d}"

    def rungs(self, i):
        """The epochs at which trial i is looked at: with halving by eta a ninth (for 3), a third and all of them."""
        epochs, eta = self.config(i).epochs, self.spec["halving"]
        return sorted({math.ceil(epochs / eta**k) for k in range(3)}) if eta else [epochs]

    def epoch(self):
        """The epoch that the rows score, in words: the one whose weights each trial keeps."""
        monitors = sorted({c.monitor for c in self._configs})
        if monitors == ["last"]:
            return "last epoch"
        return f"best epoch by validation {' or '.join(monitors)} (chosen on these pictures, so it flatters)"

    def rows(self):
        """Every published row: (trial, epoch) -> dict, in order."""
        for entry in os.scandir(self.folder / "rows"):
            if entry.name.endswith(".json") and entry.name not in self._rows:
                try:
                    self._rows[entry.name] = with_todays_names(json.loads(Path(entry.path).read_text(encoding="utf-8")))
                except ValueError as e:
                    raise LongtailError(f"{entry.path}: damaged ({e}); without it the trial runs again") from None
        found = {(row["trial"], int(name[:-5].split("-")[1])): row for name, row in self._rows.items()}
        return dict(sorted(found.items()))

    def latest(self):
        """The last row of each trial that has one: trial -> dict."""
        return {i: row for (i, _), row in self.rows().items()}

    def jobs(self):
        """(trial, epoch) pairs that may be worked on now. Rungs are barriers: a trial goes on when all of the rung
        below are known."""
        rows, width = self.rows(), max(len(self.rungs(i)) for i in range(len(self.trials)))
        alive = list(range(len(self.trials)))
        for rung in range(width):
            wanted = {i: self.rungs(i)[min(rung, len(self.rungs(i)) - 1)] for i in alive}
            waiting = [(i, until) for i, until in wanted.items() if (i, until) not in rows]
            if waiting:
                return waiting
            if rung < width - 1:
                alive = self._survivors({i: rows[i, until] for i, until in wanted.items()})
        return []

    def _survivors(self, rows):
        """Trials of the best 1/eta of the points, by mean macro F1; points with a failed trial are out."""
        points = {}
        for i, row in rows.items():
            points.setdefault(point_key(self.trials[i]), []).append((i, row))
        scored = [
            (-sum(r["macro_f1"] for _, r in runs) / len(runs), min(i for i, _ in runs), runs)
            for runs in points.values()
            if all(r["status"] == "ok" for _, r in runs)
        ]
        keep = math.ceil(len(scored) / self.spec["halving"])
        return sorted(i for _, _, runs in sorted(scored, key=lambda s: s[:2])[:keep] for i, _ in runs)

    def left(self, shard=(0, 1)):
        """Whether this shard has trials to wait for. With halving the others' too: the next rung needs them."""
        return any(self.spec["halving"] or i % shard[1] == shard[0] for i, _ in self.jobs())

    def claim(self, shard=(0, 1)):
        """A Lease of the first trial of this shard that nobody works on, or None."""
        for i, until in self.jobs():
            if i % shard[1] == shard[0]:
                lease = Lease.take(self, i, until)
                if lease:
                    return lease
        return None

    def publish(self, lease, row):
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

    def retry(self):
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

    def over(self, row):
        """Whether no later row of its trial can follow."""
        return row["status"] != "ok" or row["until"] == self.rungs(row["trial"])[-1]

    def write_results(self):
        """results.csv: a line a trial; what varies first, then scores, then the settings that all share."""
        settings = [self.config(i).settings() for i in range(len(self.trials))]
        varied = [k for k in settings[0] if any(s[k] != settings[0][k] for s in settings)]
        known = ("trial", "until", "fold", "seed", "status", "reason", "seconds")
        with locked(self.folder):  # else a process that read fewer rows could replace a fuller table
            latest = self.latest()
            scores = list(dict.fromkeys(k for row in latest.values() for k in row if k not in known))
            shared = [k for k in settings[0] if k not in varied]
            header = ["trial", "status", "reason", "seconds", *varied, *scores, *shared]
            lines = [
                [spelled((dict(status="to do", trial=i) | s | latest.get(i, {})).get(k, "")) for k in header]
                for i, s in enumerate(settings)
            ]
            path = self.folder / "results.csv"
            with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as f:
                csv.writer(f, lineterminator="\n").writerows([header, *lines])


SCHEME = ("folds", "val_split", "split_seed")  # how the pictures are split: compared, never ranked
REPEATS = ("fold", "seed")


def point_key(trial):
    """What a trial tries, as one string: its settings without split, fold and seed."""
    return json.dumps({k: v for k, v in sorted(trial.items()) if k not in SCHEME + REPEATS})


def begin_study(folder, base, trials, halving=0):
    """The Study in `folder`, made, or added to: those of `trials` (dicts of changed settings) that it lacks.

    A trial keeps its number for ever. Raises LongtailError for settings that cannot be, before anything is
    written, and LongtailError where the folder holds a run, or a study of another base, of other pictures or of another
    halving.
    """
    folder, root = Path(folder), synthetic.folder(base.data).resolve()
    checked = [config_from(t, "study", base) for t in trials]
    key = _check(root, checked, halving)
    if (folder / "args.json").exists():
        raise LongtailError(f"{folder} is a run's folder: choose another --name")
    for sub in ("trials", "rows", "leases"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    init = str(Path(base.init).resolve()) if base.init else ""
    settings = dict(base.settings(), init=init, data=str(root), compile=base.compile)
    spec = dict(base=settings, data_key=key, halving=halving, threads=None, trials=[])
    path = folder / "study.json"
    with locked(folder):
        if path.exists():
            old = Study(folder).spec
            changed = [
                f"{flag_of(k)} {spelled(v)}, not {spelled(settings[k])}"
                for k, v in old["base"].items()
                if k not in ("data", "compile") and json.dumps(v) != json.dumps(settings[k])
            ]
            named = dict(data_key="the pictures", halving="--halving")
            changed += [f"{what} {old[k]}, not {spec[k]}" for k, what in named.items() if old[k] != spec[k]]
            if changed:
                raise LongtailError(
                    f"{folder} was begun with {'; '.join(changed)}: choose another --name, or remove it"
                )
            spec = old
            spec["base"]["compile"] = base.compile  # no result's matter: the latest command decides
            if not Path(old["base"]["data"]).exists():  # the folder was moved: the pictures are the same
                spec["base"]["data"] = str(root)
        known = {json.dumps(config_from(t, "study", base).settings()) for t in spec["trials"]}
        for trial, c in zip(trials, checked):
            settled = json.dumps(c.settings())
            if settled not in known:
                known.add(settled)
                spec["trials"].append(trial)
        write_spec(path, spec)
    return Study(folder)


@contextlib.contextmanager
def locked(folder):
    """Holds the lock of study.json."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check(root, checked, halving):
    """Prepares the pictures at every size that is asked for, and tries every network on paper. Returns their key."""
    pictures = {}
    for c in checked:
        at = json.dumps(c.settings("data"))
        if at not in pictures:
            pictures[at] = prepare_pictures(c, root)
    networks = {json.dumps([c.settings("model"), c.img_size]): c for c in checked}
    for c in networks.values():
        with torch.device("meta"):
            build_network(c, pictures[json.dumps(c.settings("data"))])
        init_key(c.init)
    if halving and not all(len(p.val) for p in pictures.values()):
        raise LongtailError(
            "--halving ranks trials on validation pictures, and there are none: give --val-split or --folds"
        )
    return next(iter(pictures.values())).store.key


def write_spec(path, spec):
    with replacing(path) as draft:
        draft.write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
