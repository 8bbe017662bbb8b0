"""The network's input beside what else makes it on the device: microseconds a batch, and bytes against the copy
bandwidth.

    python -m bench.view [--batch-size 128] [--img-size 224] [--json FILE]

Random resized crops, flips, brightness, contrast and saturation, drawn for every picture; with two views every row is
mixed. Ours is the kernel on a GPU, its twin elsewhere. torchvision and kornia also draw as they go; torchvision is
there a picture at a time, which is the same work, and with one draw for the whole batch, which is less. triton-augment
crops without resizing.
"""

import importlib.util
import os

import numpy as np
import torch

import augment
import kernels
from bench import rounds
from config import Config
from engine.numerics import pick_device
from engine.run import environment
from engine.tables import row_of
from errors import Parser
from mixup import Mixing
from plan import Course, Material, draw_plan
from tests.conftest import import_torchvision

MEAN, STD = (0.5, 0.44, 0.37), (0.21, 0.19, 0.17)
SCALE, JITTER = (0.35, 1.0), 0.2
STEPS = 4  # batches that take turns, so that no cache keeps one


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="of the batch (default auto: bfloat16 on a GPU, else float32)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--calls", type=int, default=0, help="calls a round (default 0: 20 on a GPU, else 1)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: as torch has them)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--limit", type=float, default=0, help="seconds until a contender is ready (default 0: any)")
    parser.add_argument("--json", metavar="FILE", help="write the record with every round's seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    record = measure(args)
    rounds.tell(table(record), record, args.json)
    return int(not {"ours, 1", "ours, 2"} <= record["seconds"].keys())


def measure(args):
    """The record: seconds of every round, and what they depend on. It is written after each contender, too."""
    device, load = pick_device(args.device), os.getloadavg()[0]
    args.calls = args.calls or (20 if device.type == "cuda" else 1)
    if args.dtype == "auto":
        args.dtype = "bfloat16" if device.type == "cuda" else "float32"
    side = round(args.img_size * 256 / 224)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (STEPS * args.batch_size, side, side, 3), dtype=torch.uint8, generator=generator)
    means, pixels = pixels.float().mean((1, 2)).div(255).numpy(), pixels.to(device)
    size = 4 if args.dtype == "float32" else 2
    out = args.batch_size * args.img_size**2 * 3 * size
    copied, _ = rounds.seconds(dict(copy=copy(out, device)), device, rounds=args.rounds, calls=args.calls)
    shown = float(np.mean(SCALE)) * side**2 * 3 * args.batch_size  # bytes of the Store: the crops' mean area
    r = dict(
        vars(args),
        **environment(device),
        load=load,
        kernel=kernels.usable(device),
        seconds={},
        notes={},
        copy_seconds=copied["copy"],
        copy_bytes=2 * out,
        bytes={str(v): out + v * shown for v in (1, 2)},
    )

    def told(name, found, notes):
        r["seconds"] |= found
        r["notes"] |= notes
        said = "left out" if name not in found else f"{1e6 * found[name][0]:.1f} us"
        rounds.tell(f"{name}: {said} {notes.get(name, '')}", r, args.json)

    for views in (1, 2):
        made = contenders(args, device, pixels, rows(args, pixels, means, views, device), views)
        made = {f"{name}, {views}": call for name, call in made.items()}
        rounds.seconds(made, device, rounds=args.rounds, calls=args.calls, limit=args.limit, told=told)
    return r


def rows(args, pixels, means, views, device):
    """STEPS rows of a plan on `device`; with two views every picture is mixed."""
    n, count = len(pixels), np.full(1, len(pixels))
    config = Config(
        epochs=1,
        batch_size=args.batch_size,
        img_size=args.img_size,
        schedule="constant",
        warmup=0.0,
        mixup_p=float(views - 1),
        cutmix_p=0.0,
        crop_scale=SCALE,
        jitter=JITTER,
    )
    material = Material(np.zeros(n, int), means, np.arange(n), count, args.img_size, pixels.shape[1])
    plan = draw_plan(material, 0, *(config.group(kind) for kind in (Course, Mixing, augment.Views)))
    return [row_of(plan, t, device) for t in range(STEPS)]


def contenders(args, device, pixels, plan, views):
    """name -> function of the call's number."""
    mean, std = (torch.tensor(v, device=device) for v in (MEAN, STD))
    dtype, shape = getattr(torch, args.dtype), dict(size=args.img_size, mean=mean, std=std)

    def twin(pixels, row):
        return augment.plain(pixels, row, **shape).to(dtype)

    def mixed(look):
        """A batch by a library's own `look`: float pictures [B,3,S,S] of rows -> normalised views."""

        def call(k):
            row = plan[k % STEPS]
            x = look(gathered(pixels, row.index))
            if views == 2:
                x = x.lerp(look(gathered(pixels, row.partner)), (1 - row.blend).view(-1, 1, 1, 1).expand_as(x))
            return x.to(dtype, memory_format=torch.channels_last)

        return call

    compiled = torch.compile(twin)
    found = dict(
        ours=lambda k: augment.batch(pixels, plan[k % STEPS], **shape, dtype=dtype),
        twin=lambda k: twin(pixels, plan[k % STEPS]),
    )
    if kernels.usable(device):
        host = pixels.cpu().pin_memory()
        found["ours, the Store in pinned host memory"] = lambda k: augment.batch(
            host, plan[k % STEPS], **shape, dtype=dtype
        )
    if device.type != "cuda" or importlib.util.find_spec("triton"):
        found["twin, compiled"] = lambda k: compiled(pixels, plan[k % STEPS])
    try:
        v2 = importlib.import_module("torchvision.transforms.v2") if import_torchvision() else None
        compose = v2.Compose(
            [
                v2.RandomResizedCrop(args.img_size, scale=SCALE, antialias=False),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(JITTER, JITTER, JITTER),
                v2.Normalize(MEAN, STD),
            ]
        )
        found["torchvision, a picture at a time"] = mixed(lambda x: torch.stack([compose(p) for p in x]))
        found["torchvision, one draw a batch"] = mixed(compose)
    except ImportError:
        pass
    if importlib.util.find_spec("kornia"):
        import kornia.augmentation as K

        found["kornia"] = mixed(
            torch.nn.Sequential(
                K.RandomResizedCrop((args.img_size, args.img_size), scale=SCALE),
                K.RandomHorizontalFlip(),
                K.ColorJiggle(JITTER, JITTER, JITTER),
                K.Normalize(mean, std),
            ).to(device)
        )
    if importlib.util.find_spec("triton_augment") and device.type == "cuda":
        import triton_augment

        found["triton-augment, no resizing"] = mixed(
            triton_augment.TritonFusedAugment(
                crop_size=args.img_size,
                horizontal_flip_p=0.5,
                brightness=JITTER,
                contrast=JITTER,
                saturation=JITTER,
                mean=MEAN,
                std=STD,
            )
        )
    return found


def gathered(pixels, index):
    return pixels.index_select(0, index).permute(0, 3, 1, 2).float().div_(255)


def copy(size, device):
    """Copies `size` bytes, from and to memory that no cache holds."""
    source = torch.empty(STEPS, size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return lambda k: target[k % STEPS].copy_(source[k % STEPS])


def table(r):
    """The record as Markdown."""
    bandwidth = [r["copy_bytes"] / s / 1e9 for s in r["copy_seconds"]]
    kind = "kernel" if r["kernel"] else "twin"
    said = [
        f"**{r['batch_size']} pictures of {r['img_size']} px to {r['dtype']}; ours is the {kind}.**",
        "",
        f"n = {r['rounds']} alternating rounds of {r['calls']} calls: median (min to max). {r['device']}; "
        f"{r['cpu']}, {r['threads']} threads, load {r['load']:.1f} before; torch {r['torch']}, commit "
        f"{r['commit']}. A copy of the batch reads and writes {rounds.spread(bandwidth)} GB/s; GB/s of a batch "
        "count what is written and the share of the Store that is shown.",
        "",
        "| | views | us | in ours | GB/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, spent in r["seconds"].items():
        kind, views = name.rsplit(", ", 1)
        late = " (not captured)" if name in r["notes"] else ""
        speed = rounds.spread([r["bytes"][views] / s / 1e9 for s in spent])
        said.append(
            f"| {kind}{late} | {views} | {rounds.spread([s * 1e6 for s in spent])} | "
            f"{rounds.ratios(spent, r['seconds'].get(f'ours, {views}', spent))} | {speed} |"
        )
    said += [f"| {name} | | {why} | | |" for name, why in r["notes"].items() if name not in r["seconds"]]
    return "\n".join(said)


if __name__ == "__main__":
    rounds.leave(main())
