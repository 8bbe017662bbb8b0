"""What bench.step found at one batch size, as Markdown, beside what is claimed. Measures nothing."""

import statistics

from bench import four, jpegs, rounds

CLAIM = dict(
    cpu="on a CPU at 224 px and batch 32 an epoch takes at most 1.05 of its floor's time with flips and crops and 1.10 "
    "with mixup too, and gives at least 1.25 of the study's images/s in fp32, 2 in native bf16",
    cuda="on an H200 at 224 px a whole step takes at most 1.03 of its model's time from batch 64 on, and an epoch "
    "gives at least 30 times the study's images/s and 3 times the best-practice way's",
)


def table(r, size):
    """One batch size of the record as Markdown, with the targets where the claim's conditions hold."""
    kind, batch, side = "cuda" if r["kind"] == "cuda" else "cpu", size["batch_size"], r["img_size"]
    claimed = dict(cpu=(r["kind"], side, batch) == ("cpu", 224, 32), cuda=side == 224 and batch >= 64)[kind]
    each = {name: [s / size["images"][name] for s in spent] for name, spent in size["seconds"].items()}
    alone = "bare" if "bare" in each else "model"
    rows = [
        ("bare forward + backward + optimizer", "bare", r["native"], None, ""),
        ("the model alone, with averaged weights", "model", r["native"], None, ""),
        ("longtail, its default settings, the steps alone", "steps", r["native"], "model", "<= 1.03"),
        ("longtail, flips and crops", "crops", r["native"], "bare", "<= 1.05"),
        ("longtail, flips, crops, mixup p 0.4", "mixup", r["native"], "bare", "<= 1.10"),
        (f"the same, {r['validation']} validation pictures, files", "whole", r["native"], "bare", ""),
        ("longtail, its default settings", "default", r["native"], alone, ""),
        ("the study's way, mixup p 0.4", "study", "fp32", None, ""),
        ("longtail, the same method", "fp32", "fp32", "study", ">= 1.25"),
        ("longtail, the same method", "bf16", "bf16", "study", ">= 2.00"),
        (f"the best-practice way, {r['workers']} workers, mixup", "best", r["native"], None, ""),
    ]
    if kind == "cuda":
        rows += [
            ("longtail, its default settings", "default", r["native"], "study", ">= 30"),
            ("longtail, its default settings", "default", r["native"], "best", ">= 3"),
        ]
    said = [
        f"**ResNet-18, {side} px, batch {batch}. Claim: {CLAIM[kind]}.**",
        "",
        f"n = {r['repeats']} alternating rounds of about {max(size['images'].values(), default=0) // batch} steps: "
        f"median (min to max), ratios round by round. {r['device']}; {r['cpu']}, {r['threads']} threads, load "
        f"{r['load']:.1f} before; torch {r['torch']}, Pillow {r['pillow']}, Python {r['python']}, commit "
        f"{r['commit']}. {'Enlarged' if r['pictures'] else 'Random smooth'} pictures in JPEG files of "
        f"{r.get('files') or jpegs.FILE[0]} px width, {r['kilobytes']:.0f} kB on average.",
        "",
    ]
    if kind == "cuda":
        said += [
            f"GB: the most that a contender had on the GPU, the {r['store'] / 1e9:.2f} of the decoded pictures "
            f"left out. Measured: {r['flops'] / 1e12:.0f} TFLOP/s in bf16, {r['bandwidth'] / 1e12:.2f} TB/s.",
            "",
        ]
    if "floor" in size:
        said += [
            f"The floor is {1e3 * size['floor']:.2f} ms, {batch / size['floor']:.0f} images/s; with the bytes that "
            f"inductor's kernels move, {1e3 * size['floor_inductor']:.2f} ms, {batch / size['floor_inductor']:.0f}.",
            "",
        ]
    said += ["| an epoch of | precision | images/s | ms a step | GB | ratio | target | |", "| --- " * 8 + "|"]
    for name, key, precision, against, target in (row for row in rows if row[1] in each):
        ratio = verdict = ""
        if against in each:
            slower = against in ("bare", "model")  # time over time; else speed over speed
            a, b = (each[key], each[against]) if slower else (each[against], each[key])
            ratio = f"{rounds.ratios(a, b, 3)} of its {'time' if slower else 'images/s'}"
            if target and claimed:
                found = statistics.median([x / y for x, y in zip(a, b)])
                verdict = "met" if (found <= float(target[3:]) if slower else found >= float(target[3:])) else "missed"
        speed = rounds.spread([1 / s for s in each[key]])
        gigabytes = f"{size['peak'][key] / 1e9:.2f}" if kind == "cuda" else ""
        said.append(
            f"| {name} | {precision} | {speed} | {rounds.spread([1e3 * batch * s for s in each[key]], 2)} | "
            f"{gigabytes} | {ratio} | {target * claimed} | {verdict} |"
        )
    said += [f"| {name} | {failure} | | | | | | |" for name, failure in size["failed"].items()]
    return "\n".join([*said, *four.compared(r, each)]) + "\n"
