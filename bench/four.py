"""The contenders of bench/step.py that tell whether a CPU's default is the fastest way, and faster than timm is.

The default beside each precision and layout that engine/fastest.py chooses from, with torch's own convolutions; and
beside timm's train.py with its own defaults: its loader, augmentation, loss and optimizer, in fp32. timm comes beside
this project: it is not required.
"""

import contextlib
import os
import statistics
import time
from pathlib import Path

from PIL import Image

from bench import rounds
from engine.fastest import Way
from engine.numerics import LAYOUTS
from errors import LongtailError

WAYS = {f"{'bf16' if amp else 'fp32'}-{layout}": Way(amp, layout, 0) for amp in (True, False) for layout in LAYOUTS}
NAMES = [*WAYS, "timm"]
TIMM_WORKERS = 4  # of its train.py
# Images/s of ours over timm's that are claimed, by (size of the network's input, width of the files).
CLAIMED = {(224, 256): 1.0, (64, 256): 1.15, (64, 500): 1.4, (224, 500): 1.4}


def computed():
    """CPU seconds of this process and of its children so far: what remains the same when others compute beside."""
    seconds, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            _, parent, *rest = stat.read_text().rpartition(")")[2].split()
            if int(parent) == os.getpid():
                user, system = rest[9:11]
                seconds += (int(user) + int(system)) / ticks
    return seconds


def shrink(folder, width):
    """Makes the JPEG files under `folder` so many pixels wide."""
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            small = image.resize((width, round(width * image.height / image.width)), Image.Resampling.BICUBIC)
        draft = path.with_suffix(".draft")
        small.save(draft, "jpeg", quality=90)
        os.replace(draft, path)  # files may be links to one another


def timm(config, pictures, device):
    """An epoch of timm's train.py with its defaults, and how many pictures it shows."""
    try:
        import timm
        from timm.data import create_dataset, create_loader
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
    except ImportError as error:
        raise LongtailError(f"the contender timm needs timm beside this project ({error})") from error
    model = timm.create_model("resnet18", num_classes=len(pictures.listing.classes)).to(device)
    loader = create_loader(
        create_dataset("", root=str(pictures.listing.root), split="train", is_training=True),
        input_size=(3, pictures.size, pictures.size),
        batch_size=config.batch_size,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        color_jitter=0.4,
        interpolation="random",
        num_workers=TIMM_WORKERS,
        device=device,
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, momentum=0.9, weight_decay=2e-5)
    loss = LabelSmoothingCrossEntropy(smoothing=0.1)

    def epoch():
        model.train()
        for x, y in loader:
            value = loss(model(x), y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return epoch, len(loader) * config.batch_size


def compared(record, each):
    """Lines of Markdown on the default beside the others; each: {contender: seconds a picture of every round}."""
    if "default" not in each or not set(NAMES) & set(each):
        return []
    rows = []
    timed = [name for name in WAYS if name in each]
    if timed:
        best = min(timed, key=lambda name: statistics.median(each[name]))
        rows.append((best, 0.97, f"the fastest of {len(timed)} ways, {best}"))
        rows += [(name, None, name) for name in timed if name != best]
    if "timm" in each:
        claimed = CLAIMED.get((record["img_size"], record["files"] or 500))
        rows.append(("timm", claimed, f"timm's train.py, fp32, {TIMM_WORKERS} workers"))
    clock = "; images are a CPU second's, workers' seconds counted" if record.get("cpu_seconds") else ""
    said = ["", f"The default is {record['way']}{clock}.", "", "| beside | images/s | the default's ratio | target | |"]
    said.append("| --- " * 5 + "|")
    for name, target, words in rows:
        found = statistics.median([a / b for a, b in zip(each[name], each["default"])])
        verdict = "" if target is None else "met" if found >= target else "missed"
        ratios = rounds.ratios(each[name], each["default"], 3)
        wanted = "" if target is None else f">= {target:.2f}"
        said.append(f"| {words} | {rounds.spread([1 / s for s in each[name]])} | {ratios} | {wanted} | {verdict} |")
    return said


def way_of(config):
    """A decided `config`'s way in words, as the contenders are called."""
    products = f", products up to {config.products} px" if config.products else ""
    return f"{'bf16' if config.amp else 'fp32'}-{config.layout}{products}"
