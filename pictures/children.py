"""Modules of this project as processes of their own, from whatever folder the command was started in."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def child_command(module: str, *arguments) -> list[str]:
    """The command line that runs `module`, say "study.workers"."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def child_environment(**variables: str) -> dict[str, str]:
    """This process's environment, the project's modules found first, with `variables` on top."""
    paths = [str(ROOT)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}


def piped_child(module: str, *arguments, own_session: bool = False, **variables: str) -> subprocess.Popen:
    """`module` started, with text pipes to its stdin and from its stdout. own_session: a terminal's Ctrl-C is not
    its own to handle."""
    return subprocess.Popen(
        child_command(module, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(**variables),
        start_new_session=own_session,
    )
