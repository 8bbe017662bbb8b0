"""What goes wrong, in one family; how every command reads its flags, and how it ends.

An error of this family is for a person: one line that names the file, row or flag, and the mend. Whatever else is
raised is a fault of the program and shows its traceback. Arguments of the mathematics (losses, metrics, statistics)
that make no sense are plain ValueErrors.
"""

import argparse
import difflib
import io
import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import NoReturn


class LongtailError(Exception):
    """Something that whoever reads it can mend. `code`: the exit code of the command that it ends."""

    code = 1


class ConfigError(LongtailError):
    """A flag or setting that cannot be used."""

    code = 2


class Stopped(LongtailError):
    """A signal asked for the end, and the state is saved. number: the signal's. go_on: what to type to go on."""

    def __init__(self, number: int, go_on: str = ""):
        super().__init__(f"stopped by {signal.Signals(number).name}; state saved")
        self.go_on = go_on
        self.number = number
        self.code = 128 + number


def counted(number: int, noun: str) -> str:
    """'1 picture', '2 pictures', '0 classes'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def first_ten(lines: list[str]) -> list[str]:
    """The first ten of `lines`, and one that counts the others."""
    left = len(lines) - 10
    return lines[:10] + [f"... and {left} more of this kind"] * (left > 0)


def first_line(error: BaseException) -> str:
    """What `error` says, in a line; '' where it says nothing, as Python's own MemoryError."""
    return next(iter(str(error).strip().splitlines()), "")


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose refusals are one line, exit code 2, with the nearest flag."""

    removed: Collection[str] = ()  # flags of earlier versions
    may_be_empty: Collection[str] = ()  # flags whose value may be nothing
    for_folders = "--data"  # the flag that a folder without one is probably meant for

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        words = sys.argv[1:] if args is None else args
        for flag, value in zip(["", *words], words):
            if value == "" and flag not in self.may_be_empty:  # a shell's variable that is not set
                self.error(f"{flag or 'the command'}: an empty word follows: give it a value, or leave it out")
        space, unknown = self.parse_known_args(args, namespace)
        if unknown:
            if unknown[0].split("=")[0] in self.removed:
                self.error(f"{unknown[0]} was removed: docs/log.md says why")
            flag, known = unknown[0].split("=")[0], self._option_string_actions
            close = [each for each in known if flag.strip("-") and each.startswith(f"{flag}-")]
            close = close or difflib.get_close_matches(flag, known, n=1)
            hint = f": did you mean {close[0]}?" if close else "; see --help"
            if os.path.isdir(unknown[0]) and not unknown[0].startswith("-"):
                is_run = any(os.path.exists(os.path.join(unknown[0], file)) for file in ("args.json", "study.json"))
                meant = "--run" if is_run else self.for_folders
                hint = f": did you mean {meant} {unknown[0]}?" if meant in known else hint
            self.error(f"unknown argument {unknown[0]!r}{hint}")
        return space

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def run_command(name: str, function: Callable[[], int | None], *, continue_with: str = "") -> int:
    """The exit code of the command `name`: what `function` returns (None is 0), or that of its error, said in a line.

    continue_with: what to type after a signal stopped it. Where nobody listens for SIGTERM it ends the command as
    Ctrl-C does: everything that was opened is closed, and nothing is said. stdout has the bytes that a file would have,
    whatever the terminal's encoding: UTF-8, and names that are none as they are spelled.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is none
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        return function() or 0
    except Stopped as error:
        print(f"{name}: {error}; {error.go_on or continue_with} continues", file=sys.stderr)
        return error.code
    except LongtailError as error:
        print(f"{name}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except MemoryError as error:
        print(f"{name}: out of memory{f': {error}' if str(error) else ''}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who read our output has left: say nothing more, not even while Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        print(f"{name}: {place}{error.strerror or error}", file=sys.stderr)
        return 1


def _end(number, frame):
    raise SystemExit(128 + number)
