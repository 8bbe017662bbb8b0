"""The documents against the code: each flag, setting, make target, file and command that they name is there.

A document is not run here, but for README's lines of Python. Whoever renames something learns here what else names it.
"""

import argparse
import functools
import io
import re
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from study.designs import KNOBS

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/methods.md", "docs/measurements.md")
COMMANDS = (
    "train.py",
    "sweep.py",
    "seeds.py",
    "predict.py",
    "evaluate.py",
    "calibrate.py",
    "report.py",
    "plan.py",
    "data.py",
)
# Flags of other people's programs: ruff's, torchrun's, sbatch's.
FOREIGN = {"--check", "--fix", "--nproc-per-node", "--max-restarts", "--partition", "--gres", "--time"}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def text(document):
    return (ROOT / document).read_text(encoding="utf-8")


README = text("README.md")
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}
FOLDERS = PACKAGES | {"recipes", "tests", "docs"}


def command_lines(document):
    """Every command of ours in a document, as (program, its arguments): in code blocks and in `code`."""
    joined = re.sub(r"\\\n\s*", "", text(document))
    blocks = re.findall(r"^(?:    |\$ )(.*)$", joined, re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", joined, flags=re.DOTALL))
    program = r"(?:^|[\s(])(?:python |torchrun .*?)?(\w+\.py|-m (?:bench|study)\.\w+)\b([^>|)#]*)"
    for code in [*blocks, *spans]:
        found = re.search(program, " ".join(code.split()))
        if found and (found[1] in COMMANDS or found[1].startswith("-m")):
            yield found[1].removeprefix("-m "), found[2]


NAMED = sorted({(document, *command) for document in DOCUMENTS for command in command_lines(document)})


class Asked(Exception):
    """A command's parser, at the moment when it would read the command line."""


@functools.cache
def flags_of(program):
    """The flags that a command of ours takes, found by starting it."""

    def parse(parser, args=None, namespace=None):
        raise Asked(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
        patch.setattr(sys, "argv", [program])
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        try:
            if not program.endswith(".py"):
                runpy.run_module(program, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / program), run_name="__main__")
        except Asked as asked:
            parsers = [asked.args[0]]
    for action in parsers[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    return {flag for parser in parsers for flag in parser._option_string_actions}


def test_documents_name_commands():
    """What the next tests read is not read in vain."""
    programs = {program for document, program, _ in NAMED if document == "README.md"}
    assert {"train.py", "sweep.py", "seeds.py", "predict.py", "plan.py", "data.py", "bench.attempts"} <= programs
    assert len(NAMED) > 40


@pytest.mark.parametrize("program", sorted({program for _, program, _ in NAMED}))
def test_commands_take_the_flags_that_documents_give_them(program):
    known = flags_of(program)
    for document, asked, arguments in NAMED:
        if asked == program:
            unknown = set(FLAG.findall(arguments)) - known
            assert not unknown, f"{document}: {program} {arguments}: no {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_is_one_of_a_command(document):
    programs = {program for _, program, _ in NAMED} | set(COMMANDS)
    unknown = set(FLAG.findall(text(document))).difference(FOREIGN, *map(flags_of, programs))
    assert not unknown


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_that_a_study_varies_exist(document):
    joined = re.sub(r"\\\n\s*", "", text(document))
    searches = re.findall(r"--(?:grid|sobol|random|around)\b([^`\n-]*(?:-\d[^`\n-]*)*)", joined)
    names = [name for words in searches for name in re.findall(r"\b([a-z_]+)=", words)]
    assert not set(names) - set(KNOBS)
    assert names or document not in ("README.md", "docs/measurements.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_and_variables_exist(document):
    makefile = text("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    joined = re.sub(r"\\\n\s*", "", text(document))
    commands = re.findall(r"(?:`|^    |&& )make ([^`#\n]*)", joined, re.MULTILINE)
    assert not {target for words in commands for target in re.findall(r"^[a-z-]+", words)} - targets
    assert not {name for words in commands for name in re.findall(r"\b([A-Z_]+)=", words)} - variables
    assert commands or document == "docs/methods.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    here = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)]+)\)", text(document)):
        path, _, anchor = target.partition("#")
        assert (here / path).exists(), target
        headings = [
            re.sub(r"[^\w -]", "", line.lower()).strip() for line in text(document).splitlines() if line[:1] == "#"
        ]
        assert not anchor or anchor in [heading.replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_documents_name_exist(document):
    """Paths in a folder of ours, such as `engine/step.py` or `recipes/attempt-1.json`."""
    named = re.findall(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)", text(document))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert not missing - {"bench/results"}  # which the first GPU makes


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_readme_lists_the_files_that_are_there():
    listed = set()
    for line in section("The files").splitlines():
        rooms = re.findall(r"\b(\w+/)", line)
        room = rooms[0] if len(rooms) == 1 else ""
        listed |= {room + name for name in re.findall(r"\b(\w+\.py)", line)} | set(rooms)
    assert not {path for path in listed if not (ROOT / path).exists()}
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert not scripts - listed
    assert not {f"{folder}/" for folder in FOLDERS} - listed


def test_what_you_get_is_what_is_written():
    """The names in README's tree of a run and of a study stand in the code that writes them."""
    paths = [*ROOT.glob("*.py"), *ROOT.glob("engine/*.py"), *ROOT.glob("study/*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in paths)
    names = re.findall(r"\b\w+\.(?:json|csv|pt|png)\b", section("What you get"))
    assert len(names) >= 10
    assert [name for name in names if f'"{name}"' not in code] == []


def test_the_lines_of_python_run(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "eight" / name).mkdir(parents=True)
        for k in range(8):
            noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "eight" / name / f"{k}.png")
    shutil.copytree(tmp_path / "eight" / "a", tmp_path / "new")
    lines = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len(lines.splitlines()) <= 10
    for slow, quick in (("epochs=10", "epochs=1, batch_size=8, width=0.25"), ("*.jpg", "*.png")):
        assert slow in lines
        lines = lines.replace(slow, quick)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    exec(lines, {})
    score, label = capsys.readouterr().out.split()
    assert 0 <= float(score) <= 1
    assert label in ("a", "b")


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 246
    assert max(map(len, lines)) <= 120


def test_a_file_outside_of_tests_has_at_most_300_lines():
    """CONTRIBUTING.md says so."""
    ours = [*ROOT.glob("*.py"), *(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))]
    assert len(ours) > 100
    assert [path.name for path in ours if len(path.read_text().splitlines()) > 300] == ["config.py"]
