"""The least time of a training step of ResNet-18 at 224 px in bf16, from what the device was measured to do.

Every convolution is three kernels, forward and the gradients of its input and its weights (the first has no gradient of
its input), each as slow as the slower of its operations and its bytes. What else an inductor-like schedule moves (batch
norms, activations, pool, shortcuts: the rest of the 72 MB an image that an inductor-like schedule moves), and once a
step the optimizer with the averaged weights, is moved at the speed of a copy.
"""

import statistics

import torch

from bench import rounds

IMAGE_BYTES, STEP_BYTES = 72e6, 0.45e9  # an image's activations; optimizer and averaged weights


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


def seconds(batch_size, flops, bandwidth):
    """Of a step. flops: operations a second; bandwidth: bytes a second, read and written."""
    image, rest = 0.0, IMAGE_BYTES
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
