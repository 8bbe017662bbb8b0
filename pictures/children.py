"""Modules of this project as processes of their own, from whatever folder the command was started in.

Builds their command line and environment and starts them. What they do is the modules' own business.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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


def piped_child(module: str, *arguments: object, own_session: bool = False, **variables: str) -> subprocess.Popen:
    """Start `module` with text pipes to its stdin and from its stdout. `variables` go into its environment.

    own_session: a Ctrl-C in the terminal does not reach the child.
    """
    return subprocess.Popen(
        child_command(module, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(**variables),
        start_new_session=own_session,
    )
