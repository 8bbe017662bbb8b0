"""An epoch of training beside its floor, and beside the way of the study that this project comes from.

The floor is forward, backward and optimizer on a batch that lies ready. The study's way is a DataLoader with two
workers over JPEG files of 500 px, fp32, focal loss on F.cross_entropy and mixup in Python. All take turns in one run,
the first round is thrown away, ratios are taken round by round. Writes nothing but --json; it needs a quiet machine.
"""

import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # and no longer bench/, whose step.py would hide the project's

import augment
import data
import model as models
import numerics
import step as steps
import train
from config import Config, Parser, read
from conftest import import_torchvision
from run import environment

FILE = (500, 400)  # pixels of a JPEG file
STUDY = ROOT / "recipes" / "attempt-5.json"  # flips, a centre crop, mixup p 0.4 by the batch, focal loss
CROPS = dict(crop_scale=(0.5, 1.0), mixup_p=0.0, mixup_by="row")
CLAIM = ("on a CPU at 224 px and batch 32 an epoch takes at most 1.05 of its floor's time with flips and crops and "
         "1.10 with mixup too, and gives at least 1.25 of the study's images/s in fp32, 2 in native bf16")


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16, help="steps an epoch (default 16)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: as torch has them)")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--pictures", metavar="DIR", help="enlarge the pictures under DIR (default: random ones)")
    parser.add_argument("--json", metavar="FILE", help="write the record with every round's seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    random.seed(0), torch.manual_seed(0)  # the study's way draws from both
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LONGTAIL_CACHE"] = temporary + "/cache"
        record = measure(args, Path(temporary))
    print(table(record))
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(args, folder):
    """Runs all contenders in turn. Returns the record: seconds of every round and what they depend on."""
    device, load = train.pick_device(args.device), os.getloadavg()[0]
    paint(folder / "pictures", max(8, args.steps * args.batch_size * 5 // 4), args.pictures)  # a fifth validates
    asked = dict(data=str(folder / "pictures"), project=str(folder / "runs"), epochs=1000, img_size=args.img_size,
                 batch_size=args.batch_size, threads=args.threads, device=args.device)
    base = dataclasses.replace(read(STUDY), **asked)
    pictures = data.prepare(base.data, **base.pick(data.prepare))
    native, torchvision = numerics.precision(device, True) == torch.bfloat16, import_torchvision()
    mixing = dict(CROPS, mixup_p=0.4)
    trial = train.trial(dataclasses.replace(base, **mixing))
    contenders = dict(bare=bare(base, pictures, device), crops=ours(base, pictures, device, **CROPS),
                      mixup=ours(base, pictures, device, **mixing), whole=lambda: next(trial),
                      default=ours(Config(**asked), pictures, device), fp32=ours(base, pictures, device, amp=False),
                      study=study(base, pictures, device, torchvision.transforms))
    contenders |= dict(bf16=ours(base, pictures, device)) if native else {}
    seconds = {name: [] for name in contenders}
    for turn in range(args.repeats + 1):
        for name, epoch in contenders.items():
            spent = timed(epoch, device)
            print(f"round {turn}{' (warm-up)' * (turn == 0)}: {name} {spent:.2f} s", file=sys.stderr)
            if turn:
                seconds[name].append(spent)
    kilobytes = statistics.mean(f.stat().st_size for f in pictures.listing.files) / 1000
    return dict(vars(args), **environment(device), load=load, torchvision=torchvision.__version__,
                validation=len(pictures.val), kilobytes=kilobytes, native="bf16" if native else "fp32", seconds=seconds)


def paint(folder, number, source):
    """JPEG files in up to 50 class folders: octaves of noise, which compress like photographs, or `source`'s."""
    rng = np.random.default_rng(0)
    found = sorted(p for p in Path(source or folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if source and not found:
        raise SystemExit(f"{source}: no .jpg or .png file in it")
    for i in range(number):
        if source:
            picture = Image.open(found[i % len(found)]).convert("RGB")
        else:
            picture = Image.new("RGB", (1, 1))
            for side in (4, 8, 16, 32, 64, 128, 256):
                noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
                picture = Image.blend(picture.resize(noise.size, Image.Resampling.BICUBIC), noise, 0.25)
        path = folder / f"{i % min(50, number // 4):02d}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize(FILE, Image.Resampling.BICUBIC).save(path, quality=90)


def ours(base, pictures, device, **settings):
    """An epoch as train.py runs it, from drawing its plan to its last step, without validation and files."""
    config = dataclasses.replace(base, **settings)
    stepper, _, _ = train.build(config, pictures, device)
    draw, _ = train.tables(config, pictures)
    number = count()

    def epoch():
        plan = draw(next(number))
        stepper.begin(plan)
        for t in range(len(plan.index)):
            stepper.train(t)

    return epoch


def bare(base, pictures, device):
    """As many forward, backward and optimizer passes on one ready batch; model, precision, memory format are ours."""
    stepper, _, _ = train.build(base, pictures, device)
    plan = train.tables(base, pictures)[0](0)
    row = steps.tensors(plan, 0, device)
    x, y = augment.batch(stepper.pixels, row, **stepper.view), stepper.labels[row.index]
    model, optimizer = stepper.model.train(), stepper.optimizer

    def epoch():
        for _ in range(len(plan.index)):
            with numerics.autocast(device, stepper.dtype):
                logits = model(x)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()

    return epoch


@dataclasses.dataclass
class Files(torch.utils.data.Dataset):
    """Pictures decoded whenever they are asked for."""
    files: list
    labels: list
    transform: object

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        with Image.open(self.files[i]) as image:
            return self.transform(image.convert("RGB")), self.labels[i]


def study(base, pictures, device, T):
    """An epoch in the study's way, its workers' start included; network and pictures are ours. T: torchvision's."""
    side = round(pictures.size * 256 / 224)
    transform = T.Compose([T.Resize((side, side)), T.CenterCrop(pictures.size), T.RandomHorizontalFlip(),
                           T.ToTensor(), T.Normalize(pictures.mean, pictures.std)])
    files, labels = zip(*((pictures.listing.files[i], int(pictures.listing.labels[i])) for i in pictures.train))
    loader = torch.utils.data.DataLoader(
        Files(files, labels, transform), base.batch_size, shuffle=True, num_workers=2, pin_memory=device.type == "cuda",
        multiprocessing_context="fork")  # a fresh child could not import torchvision beside a CPU build of torch
    model = models.build(**train.build(base, pictures, device)[2]["model"]).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def focal(logits, y):
        ce = F.cross_entropy(logits, y, reduction="none")
        return (0.25 * (1 - torch.exp(-ce)) ** 2 * ce).mean()

    def epoch():
        total, right = 0.0, 0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            if random.random() < 0.4:
                lam, turn = random.betavariate(1, 1), torch.randperm(len(x), device=device)
                logits = model(lam * x + (1 - lam) * x[turn])
                loss = lam * focal(logits, y) + (1 - lam) * focal(logits, y[turn])
            else:
                logits = model(x)
                loss = focal(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += (logits.argmax(1) == y).sum().item()

    return epoch


def timed(epoch, device):
    """Seconds of one call until the device's queue is empty, as it was before."""
    start = time.perf_counter()
    epoch()
    getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


def table(r):
    """The record as Markdown: images a second and ratios, with the targets where the claim's conditions hold."""
    seconds, size, batch = r["seconds"], r["img_size"], r["batch_size"]
    claimed = (r["device"], size, batch) == ("cpu", 224, 32)
    rows = [("bare forward + backward + optimizer", "bare", r["native"], None, ""),
            ("longtail, flips and crops", "crops", r["native"], "bare", "<= 1.05"),
            ("longtail, flips, crops, mixup p 0.4", "mixup", r["native"], "bare", "<= 1.10"),
            (f"the same, {r['validation']} validation pictures, files", "whole", r["native"], "bare", ""),
            ("longtail, its default settings", "default", r["native"], "bare", ""),
            ("the study's way, mixup p 0.4", "study", "fp32", None, ""),
            ("longtail, the same method", "fp32", "fp32", "study", ">= 1.25"),
            ("longtail, the same method", "bf16", "bf16", "study", ">= 2.00")]
    said = [f"**ResNet-18, {size} px, batch {batch}. Claim: {CLAIM}.**", "",
            f"n = {r['repeats']} alternating rounds of {r['steps']} steps: median (min to max), ratios round by round. "
            f"{r['device']}; {r['cpu']}, {r['threads']} threads, load {r['load']:.1f} before; torch "
            f"{r['torch']}, torchvision {r['torchvision']}, Pillow {r['pillow']}, Python {r['python']}, commit "
            f"{r['commit']}. {'Enlarged' if r['pictures'] else 'Random smooth'} pictures in JPEG files of "
            f"{FILE[0]}x{FILE[1]} px, {r['kilobytes']:.0f} kB on average.", "",
            "| an epoch of | precision | images/s | ratio | target | |", "| --- | --- | --- | --- | --- | --- |"]
    for name, key, precision, against, target in (row for row in rows if row[1] in seconds):
        ratio = verdict = ""
        if against:
            slower = against == "bare"  # time over time; else speed over speed
            ratios = [a / b if slower else b / a for a, b in zip(seconds[key], seconds[against])]
            ratio = f"{spread(ratios, 3)} of its {'time' if slower else 'images/s'}"
            if target and claimed:
                verdict = "met" if (statistics.median(ratios) <= float(target[3:])) == slower else "missed"
        speed = spread([r["steps"] * batch / s for s in seconds[key]], 1)
        said.append(f"| {name} | {precision} | {speed} | {ratio} | {target * claimed} | {verdict} |")
    return "\n".join(said)


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
