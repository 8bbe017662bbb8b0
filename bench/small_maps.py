"""Convolutions of small maps, forward and backward: torch's own beside the same sums as a matrix product.

    python -m bench.small_maps --threads 1
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python -m bench.small_maps --threads 1      as a processor without bf16 computes

Those of ResNet-18 at 64, 96, 128 and 224 px. Alternating, the clock is this thread's: ratios are torch's seconds over
the product's, round by round, median (smallest to largest).
"""

import argparse
import statistics
import time

import torch

from engine.evaluate import forward
from engine.numerics import LAYOUTS
from kernels.convolution import Convolution

KINDS = {  # input channels, output channels, stride, side of the input
    "2 px": (512, 512, 1, 2),
    "4 to 2 px": (256, 512, 2, 4),
    "3 px": (512, 512, 1, 3),
    "4 px, 512 channels": (512, 512, 1, 4),
    "4 px, 256 channels": (256, 256, 1, 4),
    "6 px": (256, 256, 1, 6),
    "7 px": (512, 512, 1, 7),
    "8 px": (128, 128, 1, 8),
    "14 px": (256, 256, 1, 14),
}


def seconds(convolution, inputs, dtype):
    """Of a forward and a backward pass."""
    started = time.thread_time()
    out = forward(convolution, inputs, dtype)
    out.backward(torch.ones_like(out))
    return time.thread_time() - started


def main():
    parser = argparse.ArgumentParser(prog="bench.small_maps", description=__doc__, allow_abbrev=False)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    dtypes = [torch.float32]
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        dtypes.append(torch.bfloat16)
    print("| map | dtype | layout | torch, ms | product, ms | ratio |\n| --- | --- | --- | --- | --- | --- |")
    for name, (channels, outputs, stride, side) in KINDS.items():
        for dtype in dtypes:
            for layout, memory_format in LAYOUTS.items():
                convolution = Convolution(channels, outputs, 3, stride, 1, bias=False).to(memory_format=memory_format)
                inputs = torch.randn(args.batch_size, channels, side, side).to(dtype)
                inputs = inputs.contiguous(memory_format=memory_format).requires_grad_()
                rounds = []
                for _ in range(args.rounds + 1):
                    both = []
                    for products in (0, side):
                        convolution.products = products
                        both.append(seconds(convolution, inputs, dtype))
                    rounds.append(both)
                own, product = zip(*rounds[1:])  # oneDNN makes its code in the first
                ratios = [a / b for a, b in zip(own, product)]
                print(
                    f"| {name} | {str(dtype)[6:]} | {layout} | {1e3 * statistics.median(own):.1f} | "
                    f"{1e3 * statistics.median(product):.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
                    f"{max(ratios):.2f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
