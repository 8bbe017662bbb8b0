"""Modules of this project as processes of their own, from whatever folder the command was started in."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def child_command(module: str, *arguments) -> list[str]:
    """The command line that runs `module`, say "study.workers"."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def child_environment(**variables: str) -> dict[str, str]:
    """This process's environment, the project's modules found first, with `variables` on top."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
