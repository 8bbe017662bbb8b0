"""The targets of the GPU path, and what the records of bench/gpu.py's benches say of them. Measures nothing."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

EXACT = 4e-6  # of a gradient, in its row's largest: the tests' bound; bfloat16 adds half of its last place
HALF_PLACE = dict(float32=0.0, bfloat16=2.0**-8)
NO_PEERS = ("ours", "torchvision, one draw a batch", "triton-augment, no resizing")  # of the input kernel: less work


class Target(NamedTuple):
    """sign: '<=', '>=', or nothing for what is only reported. value: of the records {bench: its JSON}; KeyError or
    ValueError where they do not have it."""

    what: str
    sign: str
    bound: float
    value: Callable


def targets():
    """All of them, in the table's order."""
    yield Target("tests on the GPU that failed", "<=", 0, lambda r: r["tests"]["failed"] if r["tests"]["ran"] else None)
    for batch in (64, 128, 256):
        yield Target(
            f"whole step / its model alone, 224 px, batch {batch}",
            "<=",
            1.03,
            lambda r, b=batch: ratio(size(r, 224, b), "steps", "model"),
        )
    yield Target(
        "images/s, 224 px, batch 128 (aim 25,000)", ">=", 16_000, lambda r: speed(size(r, 224, 128), "default")
    )
    for px, batch in ((224, 32), (224, 64), (224, 128), (224, 256), (32, 128)):
        for name, way, bound in (("study", "study", 30), ("best-practice", "best", 3)):
            yield Target(
                f"images/s / those of the {name} way, {px} px, batch {batch}",
                ">=",
                bound,
                lambda r, p=px, b=batch, w=way: ratio(size(r, p, b), w, "default"),
            )
    for batch in (64, 128, 256):
        yield Target(
            f"whole step / its floor, 224 px, batch {batch}",
            "",
            0,
            lambda r, b=batch: b / speed(size(r, 224, b), "steps") / size(r, 224, b)["floor"],
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


def of(records, bench, **asked):
    """The record of `bench` if it measured what the target asks."""
    if any(records[bench][k] != v for k, v in asked.items()):
        raise KeyError(bench)
    return records[bench]


def view(records):
    return of(records, "view", batch_size=128, img_size=224)["seconds"]


def size(records, px, batch):
    """What bench/step.py found at one size of picture and batch."""
    for name in ("step", "step-32px"):
        for found in records.get(name, {}).get("sizes", []):
            if (records[name]["img_size"], found["batch_size"]) == (px, batch):
                return found
    raise KeyError((px, batch))


def ratio(size, one, other):
    """Time of `one` over that of `other` for as many pictures, the median over rounds."""
    shown = size["images"][other] / size["images"][one]
    return statistics.median([shown * a / b for a, b in zip(size["seconds"][one], size["seconds"][other])])


def speed(size, name):
    """Images a second."""
    return size["images"][name] / statistics.median(size["seconds"][name])


def fastest(seconds, ours, names):
    """The median of the fastest of the others over that of `ours`."""
    return min(statistics.median(seconds[n]) for n in names if n != ours) / statistics.median(seconds[ours])


def rows(records):
    """[what, wanted, measured, verdict] of every target, as texts. What is not a number misses every target."""
    found = []
    for target in targets():
        try:
            value = target.value(records)
        except (KeyError, ValueError):
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
