"""The Store where several processes build it, are killed, or could fill the memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from pictures import store
from samples import noise, small_pictures


@pytest.fixture
def many(tmp_path):
    """Enough for two worker processes."""
    return small_pictures(tmp_path / "many", 80)


def run(code, cache, *args, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LONGTAIL_CACHE": str(cache)},
        **kwargs,
    )


LOAD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pictures import store
files = sorted(Path(sys.argv[2]).iterdir())
"""


LOAD_ALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from errors import run_command
from pictures import store
files = sorted(Path(sys.argv[2]).rglob("*.png"))
sys.exit(run_command("x", lambda: store.load_store(files, 8, workers=2) and 0))
"""


def test_processes_that_start_at_once_decode_once(many, tmp_path):
    code = (
        LOAD
        + """
build = store._build
def told(*args):
    with open(sys.argv[3], "a") as log:
        log.write("built\\n")
    build(*args)
store._build = told
found = store.load_store(files, 8, workers=2)
print(json.dumps([found.key, int(found.pixels.sum(dtype="int64"))]))
"""
    )
    racers = [
        run(code, tmp_path / "cache", many[0].parent, tmp_path / "log", stderr=subprocess.DEVNULL) for _ in range(4)
    ]
    said = {racer.communicate(timeout=300)[0] for racer in racers}
    total = sum(int(store.decode(path, 8).sum()) for row, path in enumerate(many) if row != 7)
    assert len(said) == 1 and json.loads(said.pop())[1] == total
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_killed_while_decoding_leaves_no_store_and_no_process(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(noise(900, 900, 3)).save(folder / "000.jpg", quality=95)
    for i in range(1, 150):
        os.link(folder / "000.jpg", folder / f"{i:03d}.jpg")
    cache = tmp_path / "cache"
    code = LOAD + "store.load_store(files, 64, workers=2)"
    victim = run(code, cache, folder)

    def written():
        return any(np.fromfile(path, np.uint8)[200:].any() for path in cache.glob("*.tmp-*/pixels.npy"))

    def until(condition):
        for _ in range(20_000):
            if condition():
                return True
            time.sleep(0.01)
        return False

    assert until(written)
    children = [int(pid) for pid in Path(f"/proc/{victim.pid}/task/{victim.pid}/children").read_text().split()]
    assert len(children) == 2
    victim.kill()
    victim.wait()
    assert not list(cache.glob("*/meta.json")) or list(cache.glob("*.tmp-*/meta.json"))
    assert until(
        lambda: (
            not any(
                Path(f"/proc/{pid}/cmdline").exists()
                and b"pictures.decode" in Path(f"/proc/{pid}/cmdline").read_bytes()
                for pid in children
            )
        )
    )
    assert list(cache.glob("*.tmp-*"))
    other = folder / "000.jpg"
    store.load_store([other], 8, cache=cache)  # building anything sweeps what the dead left
    assert not list(cache.glob("*.tmp-*"))
    found = store.load_store(sorted(folder.iterdir()), 64, cache=cache)
    assert not found.bad and np.array_equal(found.pixels[149], store.decode(other, 64))


def until(condition):
    end = time.monotonic() + 200
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_while_decoding_ends_them_without_a_word(tmp_path, number):
    """As a terminal's Ctrl-C and Slurm send it: to the children too, whatever they are about to do."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(noise(900, 900, 3)).save(folder / "000.png")
    for i in range(1, 150):
        os.link(folder / "000.png", folder / f"{i:03d}.png")
    env = {**os.environ, "LONGTAIL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", LOAD_ALL, str(ROOT), str(folder)]
    process = subprocess.Popen(command, env=env, stdout=-1, stderr=-1, text=True, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    started = until(lambda: children.read_text().split())
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert not list((tmp_path / "cache").glob("*/*/meta.json"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_anonymous_memory_does_not_grow_with_the_data(tmp_path):
    """Peak over the parent and its workers, 60 and 1,200 pictures: the pixels alone are 3 and 59 MB."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(noise(40, 40, 3)).save(folder / "0000.jpg")
    code = (
        LOAD
        + """
import threading
peak, done = 0, threading.Event()
def anonymous(pid):
    try:
        return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("RssAnon"))
    except OSError:
        return 0
def watch():
    global peak
    while not done.wait(0.02):
        pids = [os.getpid(), *open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()]
        peak = max(peak, sum(map(anonymous, pids)))
thread = threading.Thread(target=watch)
thread.start()
store.load_store(files, 128, workers=2)
done.set()
thread.join()
print(peak)
"""
    )
    peaks = []
    for count in (70, 1200):
        for i in range(1, count):
            if not (folder / f"{i:04d}.jpg").exists():
                os.link(folder / "0000.jpg", folder / f"{i:04d}.jpg")
        child = run(code, tmp_path / "cache", folder)
        peaks.append(int(child.communicate(timeout=300)[0]))
    assert peaks[0] > 10_000  # it did look
    assert peaks[1] - peaks[0] < 12_000  # kB
