"""A run that is killed again and again and resumed ends with the same bits as one that is left alone.

Trains small networks on the CPU with every random method on, sends SIGKILL at random moments (start-up, decoding, training,
writing of checkpoints, the end) and now and then SIGTERM, resumes, and compares the folders: weights, optimizer, validation
logits and tables, results.csv but for its time columns. Prints a table; exit 1 on any difference. It asserts nothing of speed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT)]

import synthetic
from config import Parser

TIMES = ("seconds", "images_per_s", "data_wait")  # columns of results.csv
# Checkpoints as often as epochs end, so that a resume takes up in many places.
COMMAND = [sys.executable, "-c", "import sys, run, train; run.Run.PERIOD = 0.3; sys.exit(train.main(sys.argv[1:]))"]
FLAGS = ("--epochs 30 --batch-size 16 --img-size 32 --width 0.25 --threads 1 --device cpu --opt adamw --ema 0.9 --dropout 0.3 --ls 0.1 "
         "--gamma 1 --mixup-p 0.4 --cutmix-p 0.2 --crop-scale 0.4:1 --rotate 10 --jitter 0.3 --erase 0.3 --tail-crops 12:2 "
         "--balance sampler --warmup 2").split()
MOMENTS = ("training", "checkpoint", "start", "training", "end", "decoding", "training", "checkpoint", "training", "best")


class Trial:
    """One run's folder and the processes that work on it one after another."""

    def __init__(self, root, name):
        self.root, self.name, self.folder, self.sent = root, name, root / "runs" / name, []
        self.cache = root / f"cache-{name}"

    def launch(self):
        """Starts or resumes the run."""
        self.log = open(self.root / f"{self.name}.err", "w+")
        self.process = subprocess.Popen(
            [*COMMAND, "--data", self.root / "pictures", "--project", self.root / "runs", "--name", self.name, "--resume", *FLAGS],
            cwd=ROOT, env=dict(os.environ, LONGTAIL_CACHE=str(self.cache)), stderr=self.log, start_new_session=True)

    def wait_for(self, happened):
        """True once `happened()`, False if the process ended first."""
        while not happened():
            if self.process.poll() is not None:
                return False
            time.sleep(0.0005)
        return True

    def said(self):
        """Bytes that this process wrote: it is quiet until its first step is near."""
        return os.fstat(self.log.fileno()).st_size

    def writing(self, name):
        return any(self.folder.glob(f".{name}.*"))

    def epochs(self):
        path = self.folder / "results.csv"
        return path.read_bytes().count(b"\n") - 1 if path.exists() else 0

    def reach(self, moment, rng):
        """Waits for a random instant of that kind. False if the process ended before."""
        if moment == "decoding":
            shutil.rmtree(self.cache, ignore_errors=True)
