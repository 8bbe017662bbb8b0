"""Modules of this project as processes of their own, from whatever folder the command was started in.

Builds their command line and environment, starts them, and shares work out to them. What they do is the modules' own
business. A process is started afresh: a fork would copy a process full of torch's threads and locks, and
multiprocessing's spawn would import the caller's script, and torch, in every child.
"""

import contextlib
import errno
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from errors import LongtailError

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 8  # requests handed to a process at a time


def child_command(module: str, *arguments: object) -> list[str]:
    """The command line that runs `module`, say "study.workers", with each argument as text."""
    # -P: the folder that the command runs in must not be searched for modules.
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def child_environment(**variables: str) -> dict[str, str]:
    """This process's environment with the project's modules found first, and `variables` on top."""
    paths = [str(ROOT)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}


def piped_child(module: str, *arguments: object, **variables: str) -> subprocess.Popen:
    """Start `module` with text pipes to its stdin and from its stdout. `variables` go into its environment.

    Neither Ctrl-C nor SIGTERM ends the child, which a terminal or Slurm may send to the whole group: it ends when its
    stdin closes, as it does when this process ends, or by `kill`.
    """
    # A child inherits the mask, so that there is no moment at which a signal could reach it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(
            child_command(module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(**variables),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shared_out(module: str, arguments: tuple, requests: list[list], workers: int) -> Iterator[tuple[int, object]]:
    """Yield (number of the request, answer) from `workers` processes of `module`, in the order in which they finish.

    A process reads a line with a list of requests, as JSON, and answers with a line with a list of answers, and so on.
    An answer {"errno", "path"} says that the machine failed: it is raised as OSError. LongtailError where a process
    dies. Each process has a thread here that hands it chunks and waits for its answers.
    """
    children = [piped_child(module, *arguments, OPENBLAS_NUM_THREADS="1") for _ in range(workers)]
    chunks = queue.SimpleQueue()
    results = queue.SimpleQueue()
    for begin in range(0, len(requests), CHUNK):
        chunks.put(range(begin, min(begin + CHUNK, len(requests))))

    def send_chunk(child: subprocess.Popen) -> range | None:
        """Hand the child its next requests; None where no chunk is left."""
        try:
            numbers = chunks.get_nowait()
        except queue.Empty:
            return None
        line = json.dumps([requests[number] for number in numbers])
        with contextlib.suppress(BrokenPipeError):  # the child is dead, which shows when its answer is read
            print(line, file=child.stdin, flush=True)
        return numbers

    def talk(child: subprocess.Popen) -> None:
        try:
            numbers = send_chunk(child)
            while numbers:
                ahead = send_chunk(child)  # one chunk ahead, so that the child never waits for us
                answer = child.stdout.readline()
                if not answer:
                    names = ", ".join(str(requests[number][1]) for number in numbers)
                    raise LongtailError(
                        f"a process of {module} died (exit status {child.wait()}) on one of these (remove "
                        f"it, or see if memory ran out): {names}"
                    )
                for item in zip(numbers, json.loads(answer)):
                    results.put(item)
                numbers = ahead
        except Exception as error:  # raised again in the thread that reads the results
            results.put(error)

    threads = [threading.Thread(target=talk, args=(child,), daemon=True) for child in children]
    for thread in threads:
        thread.start()
    try:
        for _ in requests:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            _, answer = result
            if isinstance(answer, dict):
                raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["path"])
            yield result
    finally:
        for child in children:
            child.kill()
        for thread, child in zip(threads, children):
            thread.join()
            child.communicate()  # closes the pipes


def serve(function: Callable) -> None:
    """What a process of `shared_out` does: `function(*request)` for every request, until stdin closes."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends us without a word where the parent is dead
    for line in sys.stdin:
        answers = []
        for number, path, *rest in json.loads(line):
            try:
                answers.append(function(number, path, *rest))
            except OSError as error:
                answers.append({"errno": error.errno, "path": path})
            except MemoryError:
                answers.append({"errno": errno.ENOMEM, "path": path})
        print(json.dumps(answers), flush=True)
