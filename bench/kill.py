"""A run that is killed again and again and resumed ends with the same bits as one that was left alone.

Trains small networks on the CPU with every random method on, sends SIGKILL at random moments of start-up, decoding,
training, writing and the end, now and then SIGTERM too, resumes, and compares the folders: weights, validation logits,
tables, and results.csv but for its time columns. Prints a table; exit 1 on any difference.
"""

import csv
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from errors import Parser
from pictures import synthetic

ROOT = Path(__file__).resolve().parent.parent

EPOCHS = 20
FLAGS = (
    f"--epochs {EPOCHS} --batch-size 16 --img-size 32 --width 0.125 --threads 1 --device cpu --warmup 2 --ema-epochs 2 "
    "--dropout 0.3 --ls 0.1 --gamma 1 --balance sampler --mixup-p 0.4 --cutmix-p 0.2 --crop-scale 0.4:1 "
    "--rotate 10 --jitter 0.3 --erase 0.3 --tail-crops 12:2"
).split()
SAVE = "import sys, train; train.Keeper.PERIOD = {}; sys.exit(train.main(sys.argv[1:]))"
MOMENTS = (
    "training",
    "last.pt",
    "start",
    "training",
    "final val_logits.npy",
    "final best.pt",
    "decoding",
    "training",
    "best.pt",
    "end",
)
TIMES = ("seconds", "images_per_s", "data_wait")  # the columns of results.csv that may differ
OWN = (".lock", "train.log", "env.json", "args.json")  # these tell of the process, so they may too
SHOWN = ("best.pt", "val_logits.npy", "val_predictions.csv", "results.csv")


class Unexpected(Exception):
    """A process ended as it should not have."""


class Life:
    """One run and the processes that work on it, one after another."""

    def __init__(self, root, name):
        self.root, self.folder, self.cache = root, root / "runs" / name, root / f"cache of {name}"
        self.errors, self.sent, self.finished = root / f"{name}.err", [], False

    def launch(self, program):
        self.said = self.lines("train.log")
        command = [
            sys.executable,
            *program,
            "--data",
            self.root / "pictures",
            "--project",
            self.folder.parent,
            "--name",
            self.folder.name,
            "--resume",
            *FLAGS,
        ]
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=errors, env=dict(os.environ, LONGTAIL_CACHE=str(self.cache))
            )

    def lines(self, name):
        path = self.folder / name
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def began(self):
        return self.lines("train.log") > self.said  # it says so right before its first step

    def trained(self):
        return self.lines("results.csv") > EPOCHS

    def wait(self, happened):
        """True once `happened()`, False if the process ended first."""
        while not happened():
            if self.process.poll() is not None:
                return False
            time.sleep(0.0005)
        return True

    def reach(self, moment, spans, rng):
        """Lets the process run to a random instant of that kind; False if it ended before."""
        somewhere = self.began, spans["training"] / 2
        stages = {
            "start": [(lambda: True, spans["start"])],
            "training": [somewhere],
            "end": [(self.trained, spans["end"] / 2)],
            "decoding": [(lambda: any(self.cache.glob("*.tmp-*")), 0.2)],
        }
        if moment not in stages:  # a file that is being written, at the end or somewhere
            file = moment.removeprefix("final ")
            stages[moment] = [
                (self.trained, 0) if file != moment else somewhere,
                (lambda: any(self.folder.glob(f".{file}.*")), 0.005),
            ]
        for happened, span in stages[moment]:
            if not self.wait(happened):
                return False
            late = time.monotonic() + rng.uniform(0, span)
            if not self.wait(lambda late=late: time.monotonic() > late):
                return False
        return True

    def signal(self, number, moment):
        """Sends it and waits for the end; False if the process was quicker and finished its run.

        SIGTERM gives 143 with the state saved; a plain -15 only when Python itself is already on its way out.
        """
        epochs = max(0, self.lines("results.csv") - 1)
        done = self.trained()
        self.process.send_signal(number)
        if self.process.wait() == 0:
            self.finished = True
        elif self.process.returncode not in ([-9] if number == signal.SIGKILL else [143, -15] if done else [143]):
            raise Unexpected(f"{number.name} in {moment}: exit {self.process.returncode}\n{self.errors.read_text()}")
        else:
            self.sent.append((number, f"{moment} {epochs}"))
        return not self.finished

    def finish(self):
        """Waits for the end of an undisturbed process."""
        if self.process.wait() != 0:
            raise Unexpected(f"exit {self.process.returncode} without a signal\n{self.errors.read_text()}")
        self.finished = True


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs to send (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    args = parser.parse_args()
    rng, lives = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        try:
            synthetic.make(root / "pictures", classes=6, scale=0.15, size=48)
            alone, spans = undisturbed(root)
            for i in range(args.kills):
                disturb(root, lives, signal.SIGKILL, MOMENTS[i % len(MOMENTS)], spans, rng)
                if i % 4 == 3:
                    disturb(root, lives, signal.SIGTERM, "training", spans, rng)
            if not lives[-1].finished:
                lives[-1].launch(["train.py"])
                lives[-1].finish()
            found = [differences(life.folder, alone.folder) for life in lives]
        except Unexpected as e:
            print(f"kill.py: {e}", file=sys.stderr)
            return 1
        finally:
            for life in lives:
                life.process.kill()
        print(table(args, lives, found))
    return 1 if any(found) else 0


def undisturbed(root):
    """A run left alone, as train.py has it, and the seconds that its parts took."""
    life, times = Life(root, "undisturbed"), [time.monotonic()]
    life.launch(["train.py"])
    for happened in (life.began, life.trained, lambda: False):
        life.wait(happened)
        times.append(time.monotonic())
    life.finish()
    spans = dict(zip(("start", "training", "end"), (b - a for a, b in zip(times, times[1:]))))
    print("undisturbed: " + ", ".join(f"{name} {span:.1f} s" for name, span in spans.items()), file=sys.stderr)
    return life, spans


def disturb(root, lives, number, moment, spans, rng):
    """Resumes the last run, or starts one where that is finished, until the signal has struck at such a moment."""
    while True:
        if not lives or lives[-1].finished:
            lives.append(Life(root, f"run {len(lives) + 1}"))
        life = lives[-1]
        if moment == "decoding":
            shutil.rmtree(life.cache, ignore_errors=True)
        # Every epoch is saved, so that resumes take up in many places; but near the end as seldom as in earnest.
        life.launch(["-c", SAVE.format(20 if moment == "end" or moment.startswith("final") else 0)])
        if not life.reach(moment, spans, rng):
            life.finish()
        elif life.signal(number, moment):
            print(f"{life.folder.name}: {number.name} in {life.sent[-1][1]}", file=sys.stderr)
            return


def differences(folder, other):
    """Names of the files in either folder whose contents differ, and where."""
    found = {}
    for name in sorted({p.name for f in (folder, other) for p in f.iterdir()} - set(OWN)):
        a, b = folder / name, other / name
        if not (a.exists() and b.exists()):
            found[name] = f"only in {folder.name if a.exists() else other.name}"
            continue
        if name.endswith(".pt"):
            unequal = compare(*(torch.load(p, weights_only=True) for p in (a, b)))
        elif name == "results.csv":
            unequal = compare(*(list(csv.DictReader(p.open(newline=""))) for p in (a, b)))
        else:
            unequal = [] if a.read_bytes() == b.read_bytes() else ["bytes"]
        if unequal:
            found[name] = f"{len(unequal)} differ, {unequal[0]} for one"
    return found


def compare(a, b, at=""):
    """Where two trees of dicts, lists, tensors and numbers differ, bit for bit; times are passed over."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted((a.keys() | b.keys()) - set(TIMES), key=str)
        return [p for k in keys for p in compare(a.get(k, "nothing"), b.get(k, "nothing"), f"{at}/{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [p for i, (x, y) in enumerate(zip(a, b)) for p in compare(x, y, f"{at}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = (a.dtype, a.shape) == (b.dtype, b.shape) and a.numpy().tobytes() == b.numpy().tobytes()
    else:
        same = repr(a) == repr(b)  # of a float, all its bits
    return [] if same else [at]


def table(args, lives, found):
    """Markdown: a run a line, with what struck it after how many epochs, and which files are equal."""
    bad = sum(map(bool, found))
    said = [
        f"**Killed at {args.kills} random moments and resumed, a run ends with the bits of an undisturbed one: "
        f"{f'NO, {bad} of {len(lives)} runs differ' if bad else f'yes, in all {len(lives)} runs'}.**",
        "",
        f"n = {args.kills} SIGKILL over {len(lives)} runs of {EPOCHS} epochs, seed {args.seed}. 1 thread, torch "
        f"{torch.__version__}, Python {platform.python_version()}, {platform.platform()}. Behind a moment: epochs "
        f"in results.csv by then.",
        "",
        "| run | SIGKILL in | SIGTERM in | " + " | ".join(SHOWN) + " | other files |",
        "| --- " * (len(SHOWN) + 4) + "|",
    ]
    for life, wrong in zip(lives, found):
        struck = [", ".join(m for n, m in life.sent if n == number) for number in (signal.SIGKILL, signal.SIGTERM)]
        others = ", ".join(f"{name}: {why}" for name, why in wrong.items() if name not in SHOWN)
        cells = [life.folder.name, *struck, *(wrong.get(name, "equal") for name in SHOWN), others or "equal"]
        said.append("| " + " | ".join(cells) + " |")
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(main())
