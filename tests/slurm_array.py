"""make slurm on a real Slurm of one node, started and ended here: `make test-slurm`, not part of make test.

Submits a sweep as an array of three tasks and disturbs each while it trains: one is requeued by an operator, one is
told that its time is nearly up, one loses all its processes to SIGKILL and is requeued. The table must equal that of an
undisturbed `make sweep` but for its time column. Then a cancelled task must not come back. Needs Debian's slurm-wlm and
munge; touches no configuration of the machine's own, no system service, no cgroup. Exit 1 on any difference.
"""

import contextlib
import csv
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PATH = os.pathsep.join(
    [os.environ["PATH"], "/usr/sbin", "/sbin"]
)  # where Debian has daemons, which is not on everyone's PATH
HOST = socket.gethostname().split(".")[0]
TASKS, CORES = 3, 4  # cores of the node by its configuration: more than there may be, so that all tasks run at once
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores}
PartitionName=all Nodes={host} Default=YES State=UP
"""  # cred_expire: what a requeued task waits before it starts again, two minutes by default


def out(*command):
    """The standard output of a command of Slurm."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait(what, ready, seconds=120):
    """The first true value of ready()."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not after {seconds} s")
        time.sleep(0.05)
    return found


def make(target, root, project, *more):
    """What `make target` says, on a grid of 24 trials."""
    grid = dict(
        DATA=root / "pictures",
        PROJECT=root / project,
        QUICK=0,
        EPOCHS=3,
        IMG=32,
        FOLDS=3,
        MIXUP_P="0,0.3",
        LS="0,0.1",
        BALANCE="none,sampler",
        FLAGS="--width 0.125 --batch-size 8 --threads 1 --device cpu",
    )
    command = ["make", "-C", ROOT, target, f"PY={sys.executable}", *(f"{k}={v}" for k, v in grid.items()), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"make {target} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def paint(folder):
    """Three classes of coloured noise, 12 + 8 + 4 pictures of 40 px."""
    rng = np.random.default_rng(0)
    for name, colour, n in (("blue", (40, 60, 200), 12), ("green", (40, 190, 60), 8), ("red", (200, 50, 40), 4)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            noise = rng.normal(0, 30, (40, 40, 3)) + colour
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


@contextlib.contextmanager
def slurm(root):
    """munged, slurmctld and slurmd of our own until the block ends; `root` gets their state and logs."""
    for sub in ("munge", "state", "spool"):
        (root / sub).mkdir(mode=0o755)
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        ports = a.getsockname()[1], b.getsockname()[1]
    conf, key = root / "slurm.conf", root / "munge" / "key"
    conf.write_text(CONF.format(root=root, host=HOST, ports=ports, user=getpass.getuser(), cores=CORES))
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    os.environ.update(PATH=PATH, SLURM_CONF=str(conf))
    munge = [f"--{k}-file={root}/munge/{k}" for k in ("key", "log", "pid", "seed")]
    daemons = []

    def start(*command):
        with open(root / f"{command[0]}.log", "w") as log:
            daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            )

    try:
        start("munged", "--foreground", "--force", f"--socket={root}/munge/socket", *munge)
        wait("munged", (root / "munge" / "socket").exists)
        start("slurmctld", "-D", "-f", str(conf))
        start("slurmd", "-D", "-f", str(conf))
        wait(
            "an idle node",
            lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True).stdout,
        )
        try:
            yield
        finally:  # what the jobs started ends with them, and before the daemons that know of it
            out("scancel", "--user", getpass.getuser())
            wait("an empty queue", lambda: not out("squeue", "-h"))
    finally:
        for daemon in daemons[::-1]:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


class Array:
    """A sweep that `make slurm` submitted."""

    def __init__(self, root, project, tasks):
        self.folder, self.tasks = root / project / "sweep", tasks
        said = make("slurm", root, project, f"JOBS={tasks}", "SBATCH=--cpus-per-task=1")
        self.job = re.search(r"Submitted batch job (\d+)", said)[1]

    def field(self, task, name):
        """What Slurm says of a task: JobState, Restarts, ..."""
        return re.search(rf"\b{name}=(\S+)", out("scontrol", "show", "job", f"{self.job}_{task}"))[1]

    def rows(self, task):
        return [p for p in (self.folder / "rows").glob("[0-9]*") if int(p.name[:4]) % self.tasks == task]

    def training(self, task):
        """Whether the task has finished a trial, has most of them before it, and is in the middle of one."""
        held = any(int(p.name[:4]) % self.tasks == task for p in (self.folder / "leases").glob("[0-9]*"))
        return held and 1 <= len(self.rows(task)) <= 5

    def log(self, task):
        return (self.folder / f"slurm-{self.job}_{task}.log").read_text()


def requeue(array, task):
    out("scontrol", "requeue", f"{array.job}_{task}")


def warn(array, task):
    """What Slurm itself does a minute before the end of the task's time."""
    out("scancel", "--batch", "--signal=USR1", f"{array.job}_{task}")


def kill(array, task):
    """Every process of the task at once, then a person who requeues it."""
    for line in out("scontrol", "listpids", array.field(task, "JobId"), HOST).splitlines()[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    wait("a failed task", lambda: array.field(task, "JobState") == "FAILED")
    requeue(array, task)


def disturb(array):
    """Each of the tasks in its own way, as soon as it is in the middle of its work."""
    left = {0: requeue, 1: warn, 2: kill}
    while left:
        task, *_ = wait("a task in the middle of its trials", lambda: [t for t in left if array.training(t)])
        how = left.pop(task)
        print(f"task {task}, {len(array.rows(task))} of 8 trials done: {how.__name__}", flush=True)
        how(array, task)


def table(folder):
    """results.csv as a list of dicts, without its time column."""
    with open(folder / "results.csv", newline="", encoding="utf-8") as f:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(f)]


def check(claim, holds):
    print(f"{'ok' if holds else 'FAILED'}: {claim}", flush=True)
    return bool(holds)


def undisturbed_and_array(root):
    """Whether an array that was disturbed everywhere ends as one `make sweep` does."""
    array = Array(root, "array", TASKS)
    disturb(array)
    wait("all tasks", lambda: all(array.field(t, "JobState") == "COMPLETED" for t in range(TASKS)), 300)
    logs = [array.log(t) for t in range(TASKS)]
    make("sweep", root, "alone")
    alone = root / "alone" / "sweep"
    rows = sorted(p.name for p in (array.folder / "rows").iterdir())
    starts = [re.findall(r"requeued (\d+) times", log) for log in logs]
    good = all(
        [
            check(
                f"every task ran twice by its own count, {starts}, and by Slurm's",
                all(s == ["0", "1"] and array.field(t, "Restarts") == "1" for t, s in enumerate(starts)),
            ),
            check(
                "the task that was told its time saved and requeued itself",
                "state saved" in logs[1] and "back to the queue" in logs[1],
            ),
            check(
                f"{len(rows)} rows, one a trial, no lease left",
                rows == [f"{i:04d}-3.json" for i in range(24)] and not any((array.folder / "leases").iterdir()),
            ),
            check("results.csv is that of an undisturbed sweep", table(array.folder) == table(alone)),
            check(
                "best.json too",
                json.loads((array.folder / "best.json").read_text()) == json.loads((alone / "best.json").read_text()),
            ),
            check("a task printed the ranking", any("winner:" in log for log in logs)),
        ]
    )
    if not good:
        print(*logs, sep="\n")
    return good


def cancelled(root):
    """Whether a task that its user cancels saves, and stays cancelled."""
    array = Array(root, "cancelled", 1)
    wait("a task in the middle of its trials", lambda: array.training(0))
    out("scancel", f"{array.job}_0")
    wait("the end of the task", lambda: not out("squeue", "-h"))
    time.sleep(9)  # past cred_expire and the next round of the scheduler
    return all(
        [
            check("a cancelled task saved", "state saved" in array.log(0)),
            check("and stays cancelled", array.field(0, "JobState") == "CANCELLED" and not out("squeue", "-h")),
        ]
    )


def main():
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]
    if missing:
        print(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge (Debian, Ubuntu)", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the daemons end too
    for name in ("MAKEFLAGS", "MAKELEVEL", "DATA"):  # this make's own settings are not those under test
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="longtail-slurm-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # munge's clients may be other users
        os.environ["LONGTAIL_CACHE"] = str(root / "cache")
        paint(root / "pictures")
        with slurm(root):
            print(out("sinfo", "--version").strip(), "on", HOST, flush=True)
            return 0 if all([undisturbed_and_array(root), cancelled(root)]) else 1


if __name__ == "__main__":
    sys.exit(main())
