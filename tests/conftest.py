"""What tests share: the real pictures where they are there, and a torchvision that imports beside any build of torch."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared" / "data"


def shared(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the pictures of ../shared/data/{name}, which are not part of the project")
    return SHARED / name


@pytest.fixture(scope="session")
def painters():
    return shared("painters")


@pytest.fixture(scope="session")
def cifar100lt():
    return shared("cifar100-lt")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache, nor sees the user's data."""
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("DATA", raising=False)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, the schemas of its compiled operators declared first where its build does not match torch's."""
    return import_torchvision()


def import_torchvision():
    """Its Python parts need only the names of its compiled operators, one of which a failing import names at a time."""
    import torch

    library = import_torchvision.library = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as e:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(e))
            if not missing:
                raise
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
