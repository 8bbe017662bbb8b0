"""How commands end: exit codes and the one line that says why."""

import os
import signal
import subprocess
import sys

import pytest

import data
import predict
import train
from conftest import ROOT
from engine.flags import SettingsParser
from errors import ConfigError, LongtailError, Parser, Stopped, counted, first_ten, run_command


def test_an_empty_word_is_a_variable_that_is_not_set(capsys):
    for main, words, said in (
        (predict.main, ["--test", ""], "predict.py: --test: an empty word follows"),
        (data.main, ["check", ""], "data.py: check: an empty word follows"),
        (train.main, ["--labels", ""], "train.py: --labels: an empty word follows"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        err = capsys.readouterr().err
        assert end.value.code == 2 and err.startswith(said) and err.count("\n") == 1
    parser = SettingsParser("train.py", "")
    parser.add_settings()
    assert parser.parse_args(["--freeze", ""]).freeze == ""  # as it is by default


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    "error, code, said",
    [
        (LongtailError("a.jpg: cut short: mend it"), 1, "x.py: a.jpg: cut short: mend it"),
        (ConfigError("--lr abc: a number is needed"), 2, "x.py: --lr abc: a number is needed"),
        (Stopped(signal.SIGTERM), 143, "x.py: stopped by SIGTERM; state saved; --resume continues"),
        (Stopped(signal.SIGINT), 130, "x.py: stopped by SIGINT; state saved; --resume continues"),
        (FileNotFoundError(2, "No such file or directory", "gone.csv"), 1, "x.py: gone.csv: No such file or directory"),
        (OSError("no errno"), 1, "x.py: no errno"),
        (
            LongtailError("a name\nof two lines\u2028or three: mend it"),
            1,
            "x.py: a name of two lines or three: mend it",
        ),
        (MemoryError("Unable to allocate 8. GiB"), 1, "x.py: out of memory: Unable to allocate 8. GiB"),
        (MemoryError(), 1, "x.py: out of memory"),
    ],
)
def test_an_error_is_a_line_and_its_exit_code(error, code, said, capsys):
    assert run_command("x.py", raising(error), continue_with="--resume") == code
    assert capsys.readouterr() == ("", said + "\n")


def test_one_is_singular():
    assert [counted(n, "picture") for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert (counted(1, "class"), counted(2, "class")) == ("1 class", "2 classes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_listens_for_no_signal_cleans_up_and_says_nothing(number):
    code = (
        "import os, sys, errors\ndef wait():\n    try:\n        os.kill(os.getpid(), int(sys.argv[1]))\n"
        "    finally:\n        print('cleaned')\nsys.exit(errors.run_command('x.py', wait))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(int(number))], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "cleaned\n", "")


def test_what_a_function_returns_is_the_code():
    assert run_command("x.py", lambda: None) == 0
    assert run_command("x.py", lambda: 1) == 1


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("x.py", lambda: 1 / 0)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-16", "utf-8"])
def test_stdout_has_the_bytes_of_a_file_whatever_the_terminal_spells(encoding):
    """A name beyond Latin-1, and one whose bytes are no text; on stderr, whatever the encoding has for them."""
    names = "Štefan Łuks, 北斎, caf\udce9"
    code = f"""
import sys, errors
def function():
    print({names!r})
    print({names!r}, file=sys.stderr)
    raise errors.LongtailError({names!r})
sys.exit(errors.run_command("x.py", function))
"""
    env = dict(os.environ, PYTHONIOENCODING=encoding)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=env)
    assert done.stdout == names.encode("utf-8", "surrogateescape") + b"\n"
    assert done.returncode == 1 and b"Traceback" not in done.stderr


def test_lines_of_a_kind_are_ten_and_a_count():
    lines = [f"line {i}" for i in range(13)]
    assert first_ten(lines[:10]) == lines[:10] and first_ten([]) == []
    assert first_ten(lines) == [*lines[:10], "... and 3 more of this kind"]


def test_a_reader_that_left_is_no_traceback():
    code = "import sys, errors; sys.exit(errors.run_command('x.py', lambda: print('line\\n' * 10**6)))"
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    os.close(reading)
    assert child.communicate()[1] == "" and child.returncode == 1


def test_a_parser_refuses_in_a_line_and_names_the_nearest_flag(capsys):
    parser = Parser(prog="x.py")
    parser.add_argument("--mix-long", type=float)
    parser.add_argument("--mixup-p", type=float)
    parser.removed = {"--mixup-o"}
    for words, said in (
        (["--mixup-q", "1"], "x.py: unknown argument '--mixup-q': did you mean --mixup-p?"),
        (["--mixup", "1"], "x.py: unknown argument '--mixup': did you mean --mixup-p?"),
        (["--mix", "1"], "x.py: unknown argument '--mix': did you mean --mix-long?"),
        (["--mixup-o=1"], "x.py: --mixup-o=1 was removed: docs/log.md says why"),
        (["zzz"], "x.py: unknown argument 'zzz'; see --help"),
        (["--mixup-p", "much"], "x.py: argument --mixup-p: invalid float value: 'much'"),
    ):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(words)
        assert end.value.code == 2 and capsys.readouterr().err == said + "\n"


def test_a_folder_without_a_flag_is_told_the_flag_that_it_needs(capsys, tmp_path):
    parser = Parser(prog="x.py")
    pictures, run = tmp_path / "a=b", tmp_path / "run"
    for folder in (pictures, run):
        folder.mkdir()
    (run / "args.json").touch()

    def said(folder):
        with pytest.raises(SystemExit):
            parser.parse_args([str(folder)])
        return capsys.readouterr().err.partition(f"x.py: unknown argument {str(folder)!r}")[2]

    assert said(pictures) == said(run) == "; see --help\n"
    for flag in ("--data", "--run"):
        parser.add_argument(flag)
    assert said(pictures) == f": did you mean --data {pictures}?\n"
    assert said(run) == f": did you mean --run {run}?\n"
