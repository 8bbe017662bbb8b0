"""The least time of a training step of ResNet-18 at 224 px in bf16, from what the device was measured to do.

    python -m bench.floor [--device cuda] [--json FILE]      measures the device, and says what follows

Every convolution is three kernels, forward and the gradients of its input and its weights (the first has no gradient of
its input), each as slow as the slower of its operations and its bytes. What else an inductor-like schedule moves (batch
norms, activations, pool, shortcuts: the rest of the 72 MB an image that an inductor-like schedule moves), and once a
step the optimizer with the averaged weights, is moved at the speed of a copy. What torch 2.11's inductor really
generates for compute capability 9.0 moves more: 61.5 MB an image in 216 Triton kernels, beside the convolutions.
"""

import statistics

import torch

from bench import rounds
from engine.numerics import pick_device
from engine.run import environment
from errors import Parser

IMAGE_BYTES, STEP_BYTES = 72e6, 0.45e9  # an image's activations; optimizer and averaged weights
INDUCTOR_BYTES = 87.6e6  # an image's activations as inductor's kernels read and write them, read off its code
BATCHES = (64, 128, 256)


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192, help="of the matrices (default 8192)")
    parser.add_argument("--bytes", type=int, default=2**30, help="to copy (default 1 GiB)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--json", metavar="FILE", help="write the record here")
    args = parser.parse_args()
    device = pick_device(args.device)
    flops, bandwidth = ceilings(device, args.side, args.bytes)
    r = dict(vars(args), **environment(device), kind=device.type, flops=flops, bandwidth=bandwidth)
    said = [
        f"{r['device']}; {r['cpu']}; torch {r['torch']}, Python {r['python']}, commit {r['commit']}. Measured: "
        f"{flops / 1e12:.3g} TFLOP/s in bf16 (a product of matrices of {args.side}²), {bandwidth / 1e12:.3g} TB/s "
        f"(a copy of {args.bytes / 1e9:.3g} GB, read and written).",
        "",
        "| batch | floor, ms | images/s | with inductor's bytes, ms | images/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    r["floors"] = {}
    for batch in BATCHES:
        ideal, inductor = (seconds(batch, flops, bandwidth, image_bytes=b) for b in (IMAGE_BYTES, INDUCTOR_BYTES))
        r["floors"][str(batch)] = dict(ideal=ideal, inductor=inductor)
        cells = [f"{1e3 * s:.2f} | {batch / s:.0f}" for s in (ideal, inductor)]
        said.append(f"| {batch} | {' | '.join(cells)} |")
    rounds.tell("\n".join(said), r, args.json)


def convolutions():
    """(numbers read, numbers written, multiplications for each) of an image in every convolution at 224 px."""
    yield 224 * 224 * 3, 112 * 112 * 64, 7 * 7 * 3
    side, inputs = 56, 64
    for outputs in (64, 128, 256, 512):
        read, stride = side**2 * inputs, 1 if outputs == inputs else 2
        side //= stride
        written = side**2 * outputs
        yield read, written, 9 * inputs
        yield from [(written, written, 9 * outputs)] * 3
        if stride == 2:
            yield read, written, inputs  # the shortcut
        inputs = outputs


def seconds(batch_size, flops, bandwidth, image_bytes=IMAGE_BYTES):
    """Of a step. flops: operations a second; bandwidth: bytes a second, read and written."""
    image, rest = 0.0, image_bytes
    for i, (read, written, each) in enumerate(convolutions()):
        kernels, moved = 2 if i == 0 else 3, 2 * (read + written)
        image += kernels * max(2 * written * each / flops, moved / bandwidth)
        rest -= kernels * moved
    return batch_size * (image + rest / bandwidth) + STEP_BYTES / bandwidth


def ceilings(device, side=8192, size=2**30):
    """(operations a second of a bf16 product of square matrices, bytes a second of a copy), medians of five rounds."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    source = torch.ones(size, dtype=torch.uint8, device=device)
    product, target = torch.empty_like(a), torch.empty_like(source)
    spent, _ = rounds.seconds(
        dict(product=lambda _: torch.mm(a, b, out=product), copy=lambda _: target.copy_(source)),
        device,
        rounds=5,
        calls=10,
    )
    return 2 * side**3 / statistics.median(spent["product"]), 2 * size / statistics.median(spent["copy"])


if __name__ == "__main__":
    main()
