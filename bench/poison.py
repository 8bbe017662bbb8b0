"""Whether training ever reads memory that nothing wrote: random small runs in processes whose freed memory is poisoned.

The C library fills what is freed and what is allocated with another byte in each process (MALLOC_PERTURB_, Linux); each
process trains the same random networks at the same random small sizes for two steps, in bfloat16 wherever a run may.
Whoever reads what nothing wrote ends with other bits. Prints how many runs differ, and their settings; exit 1 if any.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench import jpegs
from config import Config
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.fastest import decide
from engine.numerics import LAYOUTS
from errors import LongtailError, Parser

ROOT = Path(__file__).resolve().parent.parent
BYTES = (1, 85, 170)  # what memory is filled with: other numbers in every format
STEPS = 2


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="random runs (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jpegs.paint(Path(folder) / "pictures", 24)
        found = poisoned(Path(folder), args.n, args.seed)
    differing = [settings for settings, digests in found if len(set(digests)) > 1]
    reduced = sum(digests[0].startswith("float32") for _, digests in found)
    print(
        f"{len(found)} random runs of {STEPS} steps in {len(BYTES)} processes: {len(differing)} differ; "
        f"{reduced} in float32, since bfloat16 would have read what nothing wrote"
    )
    print(*map(json.dumps, differing), sep="\n", end="")
    return bool(differing)


def poisoned(folder: Path, n: int, seed: int) -> list[tuple[dict, list[str]]]:
    """(settings, what each process ended with) of `n` random runs on the pictures in `folder`."""
    drawn = list(runs(n, seed))
    lines = []
    for byte in BYTES:
        command = [sys.executable, "-c", "import bench.poison as p; p.work()", str(folder), json.dumps(drawn)]
        env = dict(os.environ, MALLOC_PERTURB_=str(byte), LONGTAIL_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
        lines.append(done.stdout.split("\n")[:n])
    return [(settings, list(digests)) for settings, digests in zip(drawn, zip(*lines))]


def runs(n: int, seed: int):
    """`n` dicts of settings: small sizes, some of them growing, and every kind of network of ours."""
    draw = random.Random(seed)
    for _ in range(n):
        size = draw.randint(8, 40)
        settings = dict(
            model=draw.choice(["resnet18", "resnet18", "resnet32"]),
            width=draw.choice([0.125, 0.25, 0.5]),
            img_size=[8, max(9, size)] if draw.random() < 0.3 else size,
            batch_size=draw.randint(2, 9),
            layout=draw.choice(list(LAYOUTS)),
            opt=draw.choice(["sgd", "adamw"]),
            dropout=draw.choice([0.0, 0.3]),
            erase=draw.choice([0.0, 0.5]),
            seed=draw.randint(0, 99),
            epochs=draw.randint(1, 6),
        )
        if settings["model"] == "resnet18":
            settings["stem"] = draw.choice(["imagenet", "cifar"])
            settings["stem_kernel"] = draw.choice([3, 5, 7]) if settings["stem"] == "imagenet" else 3
        yield settings


def work():
    """A process: prints what each run ended with, its precision and a digest of its weights."""
    folder, drawn = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    for settings in drawn:
        print(_ended_with(Config(data=str(folder / "pictures"), threads=1, device="cpu", **settings)), flush=True)


def _ended_with(config):
    device = torch.device("cpu")
    try:
        pictures = prepare_pictures(config)
        # bfloat16 as if a study had decided for it: a run that cannot have it takes float32.
        config = decide(config, pictures, device, held=dict(amp=True))
        stepper, _ = build_stepper(config, pictures, device)
        stepper.begin(plans_of(config, pictures)[0](0))
        for t in range(min(STEPS, len(stepper.losses))):
            stepper.train(t)
    except LongtailError as error:  # refused, and the same in every process
        return f"refused: {error}"
    digest = hashlib.sha256()
    for name, value in stepper.model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return f"{str(stepper.dtype).removeprefix('torch.')} {digest.hexdigest()[:16]}"


if __name__ == "__main__":
    sys.exit(main())
