"""A headless Chromium for tests and measurements of a page: what a script finds in it, or a picture of it.

Nothing but the standard library drives it. It starts with an empty profile and asks nobody for anything.
"""

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """The program, None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def ask(page: Path, script: str, width: int = 1240, dark: bool = False, seconds: int = 0) -> tuple[str, str]:
    """(what `script` returned, what the console said): it runs on a loaded page, on a screen that wide, px.

    seconds: for how long the page is open, by a clock that does not wait.
    """
    text = page.read_text(encoding="utf-8")
    # In a frame: Chromium's window has at least 500 px.
    text += f"<script>addEventListener('load', () => {{ parent.document.title = (() => {{{script}}})() }});</script>"
    whole = (
        f'<!DOCTYPE html><iframe style="width:{width}px;height:800px;border:0" srcdoc="{html.escape(text)}"></iframe>'
    )
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder, "frame.html")
        frame.write_text(whole, encoding="utf-8")
        clock = [f"--virtual-time-budget={1000 * seconds}"] if seconds else []
        done = _run("--dump-dom", "--window-size=1400,900", _scheme(dark), *clock, frame.as_uri())
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    return html.unescape(title[1]) if title else "", "\n".join(said)


def picture(page: Path, output: Path, width: int, height: int, dark: bool = False) -> None:
    """Draws the top of a page, so many px large, as a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder, "frame.html")
        size = f"width:{width}px;height:{height}px"
        frame.write_text(f'<body style="margin:0"><iframe style="{size};border:0" src="{page.as_uri()}"></iframe>')
        _run(f"--window-size={max(width, 500)},{height}", f"--screenshot={output}", _scheme(dark), frame.as_uri())


def paper(page: Path, output: Path) -> None:
    """Prints a page to a PDF."""
    _run(f"--print-to-pdf={output}", "--no-pdf-header-footer", page.as_uri())


def _scheme(dark):
    return f"--blink-settings=preferredColorScheme={0 if dark else 1}"


def _run(*words):
    with tempfile.TemporaryDirectory() as profile:
        command = [find(), *FLAGS, f"--user-data-dir={profile}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, encoding="utf-8", errors="replace")
