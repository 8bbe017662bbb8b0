"""Checkpoints read from files that may be damaged, foreign, or of another version. Runs no code that a file holds.

What is given back is whole: each byte is what was written, and the weights are finite and fit their network.
"""

import zipfile
from pathlib import Path

import torch

from errors import LongtailError, first_line
from model import build_model

FORMAT = 3  # of what a run's folder and a study's rows hold; higher numbers are a later version's
# What a prediction needs of a best.pt.
NEEDED = {
    "weights",
    "model",
    "classes",
    "counts",
    "bias",
    "config",
    "size",
    "store_size",
    "resize",
    "mean",
    "std",
}


def check_format(number: int, path: Path) -> None:
    """Raises LongtailError where `path` was written in a later format than this program knows."""
    if not isinstance(number, int):
        raise LongtailError(f"{path}: it is damaged: its format is no number")
    if number > FORMAT:
        raise LongtailError(f"{path} was written by a later version (format {number}, this one knows {FORMAT}): update")


def load_checkpoint(path: Path) -> dict:
    """A checkpoint's dict, on the CPU. Raises LongtailError where a byte of it changed, and where it is no dict;
    OSError where it cannot be opened."""
    open(path, "rb").close()  # a file that is missing or may not be read is no damaged one
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch checks no CRC: a flipped bit would become another weight
            # Nor is there one for attributes, by which torch would take a tensor's bytes for a folder.
            odd = [entry.filename for entry in archive.infolist() if entry.external_attr]
        damaged = damaged or next(iter(odd), None)
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise LongtailError(
            f"{path} cannot be read ({type(e).__name__}): damaged, or no checkpoint of this program"
        ) from e
    if not isinstance(saved, dict):
        raise LongtailError(f"{path} cannot be read ({type(saved).__name__}): no checkpoint of this program")
    return saved


def load_best(path: Path) -> dict:
    """A best.pt, of this or an earlier format. Raises LongtailError where it is something else, or cannot predict."""
    saved = load_checkpoint(path)
    missing = sorted(NEEDED - saved.keys())
    if missing:
        raise LongtailError(f"{path} is not a best.pt of this program (it has no {missing[0]})")
    check_format(saved.get("format", 1), path)
    try:
        numbers = {
            name: torch.tensor(saved[name], dtype=torch.float64, device="cpu")
            for name in ("bias", "counts", "mean", "std")
        }
        sizes = {len(saved["classes"]), len(numbers["bias"]), len(numbers["counts"]), saved["model"]["classes"]}
        fits = len(sizes) == 1 and {"amp", "prior"} <= saved["config"].keys()
        saved["model"].pop("noise", None)  # an earlier version's, on the input of training alone
        with torch.device("meta"):  # on paper: names and shapes are compared, nothing is computed
            build_model(**saved["model"]).load_state_dict(saved["weights"], assign=True)
    except LongtailError as e:
        raise LongtailError(f"{path}: {e}") from None  # a network that cannot be here, such as one that was removed
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise LongtailError(f"{path}: its parts do not fit each other ({first_line(e)})") from e
    if not fits:
        raise LongtailError(f"{path}: its parts do not fit each other (classes, or config)")
    bad = not_finite(saved["weights"] | numbers)
    if bad:
        raise LongtailError(f"{path}: the weights are not finite ({bad}): train again with a lower --lr")
    return saved


def not_finite(state: dict[str, torch.Tensor]) -> str | None:
    """The name of the first tensor in `state` that holds a NaN or an infinity, if any does."""
    return next((name for name, value in state.items() if not value.isfinite().all()), None)
