"""seeds.py and predict.py -o, killed or stopped at random moments: the same command again gives the same files.

Trains small networks on the CPU. seeds.py, and with it its workers, gets SIGKILL, SIGTERM, or SIGSTOP for a while and
then SIGCONT; its tables must be those of an undisturbed one. predict.py -o gets SIGKILL; the answer that was there
before must be whole, or the new one. Prints Markdown; exit 1 on any difference.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from errors import Parser
from pictures import synthetic

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ("seeds.csv", "per_class.csv", "summary.json")
SHAPE = ("--batch-size", 16, "--img-size", 32, "--width", 0.125, "--threads", 1, "--device", "cpu")
FLAGS = ("--n", 3, "--epochs", 6, "--warmup", 1, *SHAPE)


def start(*words):
    """A command of this project as a group of its own, which one signal reaches whole."""
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process):
    """Seconds that it took. SystemExit where it failed."""
    began = time.monotonic()
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"kill_commands: exit {process.returncode} without a signal\n{said}")
    return time.monotonic() - began


def descendants(pid):
    """The process ids of a process's children and of theirs, itself first."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    below = path.read_text().split() if path.exists() else []
    return [pid, *(number for child in below for number in descendants(int(child)))]


def strike(process, rng, span, kinds):
    """Sends a signal of `kinds` at a random moment to the command or to one below it. What was done, None if it had
    ended."""
    time.sleep(rng.uniform(0, span))
    if process.poll() is not None:
        return None
    victim = rng.choice(descendants(process.pid))
    kind = rng.choice(kinds)
    who = "command" if victim == process.pid else "worker"
    try:
        if kind == "SIGSTOP":
            os.kill(victim, signal.SIGSTOP)
            time.sleep(rng.uniform(0.5, 4))
            os.kill(victim, signal.SIGCONT)
        else:
            os.kill(victim, signal.Signals[kind])
    except ProcessLookupError:
        return None
    return f"{kind} of the {who}"


def kill_seeds(root, count, rng, struck):
    """What differs between the tables of a seeds.py that was struck `count` times and of one that was left alone."""
    command = ["seeds.py", "--data", root / "pictures", "--project", root / "runs", *FLAGS, "--name"]
    span = finish(start(*command, "calm"))
    right = {name: tables(root / "runs" / "calm" / name) for name in SEEDS}
    wrong, done = [], 0
    while done < count:
        shutil.rmtree(root / "runs" / "killed", ignore_errors=True)
        for _ in range(4):  # blows on one study
            process = start(*command, "killed")
            blow = strike(process, rng, span, ["SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP"])
            if blow:
                struck[f"seeds.py: {blow}"] += 1
                done += 1
            if blow and not blow.startswith("SIGSTOP") and blow.endswith("command"):
                process.communicate()
            else:  # it goes on by itself
                finish(process) if not (blow or "").startswith("SIGTERM") else process.communicate()
        finish(start(*command, "killed"))
        found = {name: tables(root / "runs" / "killed" / name) for name in SEEDS}
        wrong += [name for name in SEEDS if found[name] != right[name]]
    return wrong


def tables(path):
    """A file's text without the study's own name."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else text


def kill_predict(root, count, rng, struck):
    """What was wrong with the answers of a predict.py -o that was killed `count` times."""
    run = root / "runs" / "calm" / "trials" / "0000"
    command = ["predict.py", "--run", run, "-o"]
    span = finish(start(*command, root / "right.csv"))
    right, old = (root / "right.csv").read_bytes(), b"id,label\nold,answer\n"
    wrong, done = [], 0
    (root / "answers").mkdir()
    path = root / "answers" / "answer.csv"
    while done < count:
        path.write_bytes(old)
        process = start(*command, path)
        # Most of the time goes by before a byte is written: every other blow falls near the end.
        time.sleep(span * 0.7 if done % 2 else 0)
        blow = strike(process, rng, span * (0.3 if done % 2 else 1), ["SIGKILL"])
        process.communicate()
        if blow:
            struck[f"predict.py -o: {blow}"] += 1
            done += 1
        if path.read_bytes() not in (old, right):
            wrong.append(f"{path.name} after {done} kills")
    finish(start(*command, path))
    visible = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    if path.read_bytes() != right or visible != [path.name]:
        wrong.append(f"the last answer, beside {visible}")
    return wrong


def main():
    parser = Parser(prog="bench.kill_commands", description=__doc__)
    parser.add_argument("--seeds", type=int, default=12, help="blows for seeds.py (default 12)")
    parser.add_argument("--predict", type=int, default=12, help="kills of predict.py -o (default 12)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    args = parser.parse_args()
    rng, struck = random.Random(args.seed), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["LONGTAIL_CACHE"] = str(root / "cache")
        synthetic.make(root / "pictures", classes=6, scale=0.15, size=48)
        wrong = kill_seeds(root, args.seeds, rng, struck) + kill_predict(root, args.predict, rng, struck)
    print(f"**{sum(struck.values())} blows at random moments, seed {args.seed}: {len(wrong)} failed.**\n")
    print(*(f"- {blow}: {count}" for blow, count in sorted(struck.items())), *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
