"""Who works on a trial of a study: leases, files that processes on any number of machines agree on.

A lease whose holder died or fell silent is taken over; the old holder, who may only have slept, writes nothing more.
"""

import contextlib
import json
import os
import platform
import sys
from pathlib import Path

from files import scratch_path, take_lock


class LeaseLost(Exception):
    """Another worker has taken the trial over: nothing more may be written for it."""


class Lease:
    """The right to write a trial: file leases/JOB.G, G the number of times it was taken over. The highest G holds it.

    G starts anew once a holder gives the trial back, so a lease is known by its inode too, which lives as long as it is
    open. The file is locked from birth to the end of its holder's process, and touched every few seconds by it: who
    holds no lock, on the same machine, or is silent for TTL seconds, on another, is dead. Only link(2), which never
    replaces a file, makes one.
    """

    TTL = 60.0
    HOST = platform.node()
    if sys.platform == "linux":
        HOST += "/" + Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def __init__(self, study, i: int, until: int, generation: int):
        """Names the lease of trial `i` to epoch `until`; `take` makes one. study: a Study of table.py."""
        self.study = study
        self.i = i
        self.until = until
        self.generation = generation
        self.job = f"{i:04d}-{until}"
        self.path = study.folder / "leases" / f"{self.job}.{generation}"
        self.next = study.folder / "leases" / f"{self.job}.{generation + 1}"

    @classmethod
    def take(cls, study, i: int, until: int) -> "Lease | None":
        """A Lease of (i, until), or None where another holds it or has finished."""
        job = f"{i:04d}-{until}"
        paths = (study.folder / "leases").glob(f"{job}.*")
        taken = [int(path.suffix[1:]) for path in paths if path.suffix[1:].isdecimal()]
        held = max(taken, default=0)  # the highest generation
        if held and not cls(study, i, until, held).dead():
            return None
        lease = cls(study, i, until, held + 1)
        # Written and locked under another name first: nobody ever sees a lease without a holder.
        draft = scratch_path(lease.path)
        lease.file = open(draft, "w")
        take_lock(lease.file)
        json.dump(dict(host=cls.HOST, pid=os.getpid()), lease.file)
        lease.file.flush()
        try:
            os.link(draft, lease.path)
        except FileExistsError:
            lease.file.close()
            return None
        finally:
            draft.unlink()
        if (study.folder / "rows" / f"{job}.json").exists():  # finished since `jobs` looked
            lease.release()
            return None
        if held:
            (study.run(i) / ".lock").unlink(missing_ok=True)  # a stopped process may hold the old one
        return lease

    def dead(self) -> bool:
        """Whether the holder of this lease, another process, is gone."""
        try:
            with open(self.path, "r+") as f:
                if json.load(f)["host"] == self.HOST:
                    take_lock(f)
                    return True  # nobody held the lock
        except BlockingIOError:
            pass  # alive, or stopped: then it is silent too
        except FileNotFoundError:
            return False  # released just now
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # cut short by a crash of its host, or no lease of ours: nobody will touch it
        with contextlib.suppress(FileNotFoundError):
            return abs(self._now() - self.path.stat().st_mtime) > self.TTL  # nobody touches it in the future
        return False

    def check(self) -> None:
        """Raises LeaseLost once another worker has taken over."""
        mine = False
        with contextlib.suppress(FileNotFoundError):  # in this order: who takes over makes `next`, then removes `path`
            mine = not self.next.exists() and os.path.samestat(self.path.stat(), os.fstat(self.file.fileno()))
        if not mine:
            raise LeaseLost(self.job)

    def touch(self) -> None:
        """Says that the holder is alive."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path)

    def release(self) -> None:
        """Gives the trial back, unless it was lost."""
        with contextlib.suppress(LeaseLost):
            self.check()
            for generation in range(1, self.generation + 1):  # the own one last: until then nobody else takes the trial
                self.path.with_suffix(f".{generation}").unlink(missing_ok=True)
        self.file.close()

    def _now(self):
        """The clock of the file system, which all machines see alike."""
        probe = scratch_path(self.path.with_name("clock"))
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()
