"""The targets of the GPU path, and what the records of bench/gpu.py's benches say of them. Measures nothing."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

EXACT = 1.5e-5  # of a gradient, in its row's largest: the tests' bound; bfloat16 adds half of its last place
HALF_PLACE = dict(float32=0.0, bfloat16=2.0**-8)
NO_PEERS = ("ours", "torchvision, one draw a batch", "triton-augment, no resizing")  # of the input kernel: less work


class Target(NamedTuple):
    """sign: '<=', '>=', or nothing for what is only reported. value: of the records {bench: its JSON}; KeyError or
    ValueError where they do not have it."""

    what: str
    sign: str
    bound: float
    value: Callable


def targets(device=""):
    """All of them, in the table's order. They are an H200's, but for images/s on a `device` that is an H100."""
    yield Target("tests on the GPU that failed", "<=", 0, failed_tests)
    for batch, bound in ((64, 1.05), (128, 1.03), (256, 1.03)):
        yield Target(
            f"whole step / its model alone, 224 px, batch {batch}",
            "<=",
            bound,
            lambda r, b=batch: ratio(size(r, 224, b), "steps", "model"),
        )
    must, aim = (13_500, "17,000") if "H100" in device else (16_000, "20,000")
    yield Target(f"images/s, 224 px, batch 128 (aim {aim})", ">=", must, lambda r: speed(size(r, 224, 128), "default"))
    for px, batch in ((224, 32), (224, 64), (224, 128), (224, 256), (32, 128)):
        for name, way, bound in (("study", "study", 30), ("best-practice", "best", 3)):
            yield Target(
                f"images/s / those of the {name} way, {px} px, batch {batch}",
                ">=",
                bound,
                lambda r, p=px, b=batch, w=way: ratio(size(r, p, b), w, "default"),
            )
    for batch in (64, 128, 256):
        for key, said in (("floor", "its floor"), ("floor_inductor", "the floor with inductor's bytes")):
            yield Target(
                f"whole step / {said}, 224 px, batch {batch}",
                "",
                0,
                lambda r, b=batch, k=key: b / speed(size(r, 224, b), "steps") / size(r, 224, b)[k],
            )
    for views, bound in ((2, 80), (1, 45)):
        yield Target(
            f"input kernel, batch 128, 224 px, views {views}: us",
            "<=",
            bound,
            lambda r, v=views: 1e6 * statistics.median(view(r)[f"ours, {v}"]),
        )
        yield Target(
            f"fastest peer of the same work / input kernel, views {views}",
            ">=",
            4,
            lambda r, v=views: fastest(
                view(r), f"ours, {v}", [n for n in view(r) if n.endswith(f", {v}") and not n.startswith(NO_PEERS)]
            ),
        )
    for classes, dtype in ((50, "float32"), (50, "bfloat16"), (1000, "bfloat16")):
        bench, said = f"loss-{classes}-{dtype}", f"loss, {classes} classes, {dtype}: "
        asked = dict(classes=classes, rows=128)
        yield Target(
            said + "kernels, forward and backward", "<=", 2, lambda r, n=bench, a=asked: of(r, n, **a)["launches"]
        )
        yield Target(
            said + "fastest peer / ours",
            ">=",
            1,
            lambda r, n=bench, a=asked: fastest(of(r, n, **a)["seconds"], "ours", r[n]["seconds"]),
        )
        for kind in ("random", "confident"):
            yield Target(
                f"{said}gradient error, {kind} rows",
                "<=",
                EXACT + HALF_PLACE[dtype],
                lambda r, n=bench, a=asked, k=kind: of(r, n, **a)["errors"]["ours"][k][1],
            )
    for what in ("graphs", "kernels"):
        yield Target(
            f"{what} that 20 trials compiled again",
            "<=",
            0,
            lambda r, w=what: of(r, "variants", trials=20)["compiled_again"][w],
        )
    for cache, sign in (("full", "<="), ("empty", "")):
        yield Target(
            f"a run of 50 epochs of 4,780 pictures, compile cache {cache}: s",
            sign,
            40,
            lambda r, c=cache: of(r, "epochs", epochs=50, pictures=4780, img_size=224, batch_size=64)["runs"][
                dict(full="warm", empty="cold")[c]
            ]["seconds"],
        )

    yield Target(
        "ResNet-32, 32 px, batch 128: images/s",
        ">=",
        60_000,
        lambda r: speed(small(r), "as it is", small(r)["images"]),
    )
    yield Target("of it, 4 graphs side by side", ">=", 1.5, lambda r: side_by_side(small(r)["packed"][0], 4))


def failed_tests(records):
    """Of all lists of tests that ran at all; None where none did."""
    ran = [found for name, found in records.items() if name.startswith("tests") and found["ran"]]
    return sum(found["failed"] for found in ran) if ran else None


def small(records):
    return of(records, "variants-32px", model="resnet32", img_size=32, batch_size=128)


def side_by_side(found, number):
    """Images a second of so many graphs over those of one, the median over rounds."""
    one, more = found["seconds"]["1"], found["seconds"][str(number)]
    return statistics.median([number * a / b for a, b in zip(one, more)])


def of(records, bench, **asked):
    """The record of `bench` if it measured what the target asks."""
    if any(records[bench][k] != v for k, v in asked.items()):
        raise KeyError(bench)
    return records[bench]


def view(records):
    return of(records, "view", batch_size=128, img_size=224)["seconds"]


def size(records, px, batch):
    """What bench/step.py found at one size of picture and batch."""
    for name, record in records.items():
        for found in record["sizes"] if name.startswith("step") else []:
            if (record["img_size"], found["batch_size"]) == (px, batch):
                return found
    raise KeyError((px, batch))


def ratio(size, one, other):
    """Time of `one` over that of `other` for as many pictures, the median over rounds."""
    shown = size["images"][other] / size["images"][one]
    return statistics.median([shown * a / b for a, b in zip(size["seconds"][one], size["seconds"][other])])


def speed(found, name, images=None):
    """Images a second."""
    return (images or found["images"][name]) / statistics.median(found["seconds"][name])


def fastest(seconds, ours, names):
    """The median of the fastest of the others over that of `ours`."""
    return min(statistics.median(seconds[n]) for n in names if n != ours) / statistics.median(seconds[ours])


def rows(records, device=""):
    """[what, wanted, measured, verdict] of every target, as texts. What is not a number misses every target."""
    found = []
    for target in targets(device):
        try:
            value = target.value(records)
        except (KeyError, ValueError, IndexError):
            value = None
        wanted = f"{target.sign} {number(target.bound)}" if target.sign else ""
        if value is None:
            found.append([target.what, wanted, "", "not measured"])
            continue
        met = {"<=": value <= target.bound, ">=": value >= target.bound}.get(target.sign)
        found.append([target.what, wanted, number(value), {True: "met", False: "missed", None: ""}[met]])
    return found


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
