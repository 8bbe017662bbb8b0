"""What the Triton kernels become on each GPU: registers, spills, shared memory and instructions, built here without
one.

    python -m bench.kernels [--arch 75 80 89 90 100] [--json FILE]

Builds ahead of time and reads cuobjdump's listing, so nothing is measured: instructions are those that stand in the
machine code; for the input kernel those of its loop and a share of what comes before, for each output pixel, by the
path that a row with one view and one with two takes. Exit 1 where registers spill.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from errors import Parser
from kernels import loss, view

ARCHS = (75, 80, 89, 90, 100)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = dict(  # of the kernels' arguments
    logits_ptr="*{}",
    a_ptr="*i32",
    b_ptr="*i32",
    lam_ptr="*fp32",
    table_ptr="*fp32",
    losses_ptr="*fp32",
    upstream_ptr="*fp32",
    dlogits_ptr="*{}",
    n_rows="i32",
    n_cols="i32",
    logits_stride="i32",
    upstream_stride="i32",
    pixels_ptr="*u8",
    index_ptr="*i32",
    partner_ptr="*i32",
    blend_ptr="*fp32",
    box_ptr="*i32",
    geo_ptr="*fp32",
    geo_b_ptr="*fp32",
    col_ptr="*fp32",
    col_b_ptr="*fp32",
    erase_ptr="*i32",
    mean_ptr="*fp32",
    std_ptr="*fp32",
    out_ptr="*{}",
    n_pictures="i32",
)


class Variant(NamedTuple):
    """One way to build a kernel. pixels: a thread's, of the input kernel's tile."""

    name: str
    kernel: object
    dtype: str
    constants: dict
    warps: int
    pixels: int = 0


def variants():
    """All that the tests build and the table shows."""
    found = []
    for classes in (50, 1000, 4096):
        rows, columns, warps = loss.tile(128, classes)
        for dtype in ("fp32", "bf16", "fp16"):
            for name, kernel in (("forward", loss._forward), ("backward", loss._backward)):
                found.append(
                    Variant(
                        f"loss {name}, {classes} classes, {dtype}",
                        kernel,
                        dtype,
                        dict(ROWS=rows, COLUMNS=columns),
                        warps,
                    )
                )
    for dtype, bytes, channels, border in (
        ("bf16", 3, 3, "reflect"),
        ("bf16", 4, 3, "reflect"),
        ("bf16", 3, 4, "reflect"),
        ("bf16", 4, 4, "reflect"),
        ("fp32", 3, 3, "reflect"),
        ("fp16", 3, 3, "constant"),
    ):
        constants = dict(
            SIZE=224,
            SIDE=256,
            BYTES=bytes,
            CHANNELS=channels,
            REFLECT=border == "reflect",
            BLOCK=view.BLOCK,
            TILES=view.TILES,
        )
        found.append(
            Variant(
                f"view, {bytes}-byte pixels to {channels} channels, {border}, {dtype}",
                view._view,
                dtype,
                constants,
                view.WARPS,
                view.BLOCK // (32 * view.WARPS),
            )
        )
    return found


def build(variant, arch):
    """Registers a thread, bytes spilled, shared bytes, instructions; of the input kernel instructions a pixel, too."""
    signature = {n: TYPES[n].format(variant.dtype) if n in TYPES else "constexpr" for n in variant.kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(variant.kernel, signature, variant.constants, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(num_warps=variant.warps))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage, listing = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack, local = (int(re.search(rf"\b{what}:(\d+)", usage)[1]) for what in ("REG", "STACK", "LOCAL"))
    code = [
        (int(at, 16), text)
        for at, text in re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(\S.*?);", listing, re.M)
        if not text.startswith("NOP")
    ]
    spilled = sum(bool(re.search(r"\b(STL|LDL)\b", text)) for _, text in code)
    row = dict(
        arch=arch,
        name=variant.name,
        registers=registers,
        stack=stack + local,
        spills=spilled,
        shared=built.metadata.shared,
        instructions=len(code),
    )
    if variant.pixels:
        row |= per_pixel(code, variant.pixels, variant.constants["TILES"])
    return row


def per_pixel(code, pixels, tiles):
    """Instructions a pixel where one view and where two are made, from the listing [(address, text)] of the input
    kernel.

    Its one loop ends in the last jump back; what the longest jump forward in it leaps over is the second view."""
    jumps = [(at, int(to[1], 16)) for at, text in code if (to := re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text))]
    end, begin = [(at, to) for at, to in jumps if to < at][-1]
    loop = sum(begin <= at <= end for at, _ in code)
    second = max(sum(at < place < to for place, _ in code) for at, to in jumps if begin <= at < to <= end)
    before = (len(code) - loop) / tiles
    return dict(one=(loop - second + before) / pixels, two=(loop + before) / pixels)


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--arch", nargs="+", type=int, default=list(ARCHS), help="compute capabilities without the dot")
    parser.add_argument("--json", metavar="FILE", help="write the rows here too")
    args = parser.parse_args()
    print(
        f"triton {triton.__version__}\n\n| sm | kernel | registers | spilled bytes | shared bytes | instructions "
        "| a pixel, one view | two views |\n| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        for arch in args.arch:
            for variant in variants():
                row = build(variant, arch)
                rows.append(row)
                pixel = [f"{row[k]:.0f}" if k in row else "" for k in ("one", "two")]
                print(
                    "|",
                    " | ".join(
                        [
                            str(row["arch"]),
                            row["name"],
                            str(row["registers"]),
                            str(row["stack"]),
                            str(row["shared"]),
                            str(row["instructions"]),
                            *pixel,
                        ]
                    ),
                    "|",
                    flush=True,
                )
    if args.json:
        Path(args.json).write_text(
            json.dumps(dict(triton=triton.__version__, rows=rows), indent=1) + "\n", encoding="utf-8"
        )
    return int(any(row["stack"] or row["spills"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
