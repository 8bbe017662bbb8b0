"""Pictures and folders that several test files make for themselves."""

import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def noise(*shape, high=256, dtype=np.uint8):
    return RNG.integers(0, high, shape).astype(dtype)


def png(path, samples, depth, colour, width=None):
    """A PNG written by hand, for what Pillow cannot write; samples [H, W, channels] big-endian, or bytes of bits."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = len(samples), width or samples.shape[1]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff(path, planes, photometric, order="<", together=True, **more):
    """A TIFF written by hand, for what Pillow cannot write. planes: [C, H, W] integers. more: tags, as t338=(1,)."""
    count, height, width = planes.shape
    stored = [np.moveaxis(planes, 0, -1)] if together else list(planes)
    strips = [strip.astype(strip.dtype.newbyteorder(order)).tobytes() for strip in stored]
    bits, kind = planes.dtype.itemsize * 8, {"u": 1, "i": 2}[planes.dtype.kind]
    tags = {256: (width,), 257: (height,), 258: (bits,) * count, 259: (1,), 262: (photometric,), 277: (count,)}
    tags |= {278: (height,), 279: tuple(map(len, strips)), 284: (1 if together else 2,), 339: (kind,) * count}
    tags |= {int(name[1:]): value for name, value in more.items()}
    at, offsets = 8, []
    for strip in strips:
        offsets.append(at)
        at += len(strip)
    tags[273] = tuple(offsets)
    directory, behind = struct.pack(order + "H", len(tags)), b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            place = at + 2 + 12 * len(tags) + 4 + len(behind)
            behind += packed
            packed = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    path.write_bytes(head + b"".join(strips) + directory + bytes(4) + behind)


def tree(root, *paths):
    for path in map(str, paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if path.endswith("/") else target.write_bytes(b"x")
    return root


def table(path, *rows):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def names(found):
    return [
        (path, found.classes[label] if label >= 0 else None, str(part))
        for path, label, part in zip(found.paths, found.labels, found.parts)
    ]


def pictures_in(root, counts, side=20):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            low = RNG.integers(0, 256, (5, 5, 3)).astype(np.uint8)
            Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC).save(root / name / f"{i}.png")
    return root


def small_pictures(folder, count):
    """Small pictures, number 7 of them bad."""
    folder.mkdir()
    made = []
    for i in range(count):
        made.append(folder / f"{i:02d}.png")
        Image.fromarray(noise(12, 10, 3)).save(made[-1])
    made[7].write_text("no")
    return made


def judged_run(folder, logits, targets, counts, first=0, **settings):
    """The folder of a finished run as far as its validation goes: logits [N, C] of pictures that no network saw."""
    import json

    from config import Config

    folder.mkdir(parents=True)
    classes = held_out_files(folder, logits, targets, first)
    table(folder / "per_class.csv", "class,train,f1", *(f"{name},{n},0" for name, n in zip(classes, counts)))
    config = Config(**settings)
    (folder / "args.json").write_text(json.dumps({name: getattr(config, name) for name in Config.__dataclass_fields__}))
    return folder


def held_out_files(folder, logits, targets, first=0):
    """What a run says of its validation pictures, the first of them number `first`; returns the classes."""
    import csv

    folder.mkdir(parents=True, exist_ok=True)
    classes = [f"painter {c}" for c in range(logits.shape[1])]
    np.save(folder / "val_logits.npy", logits.astype(np.float32))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    with open(folder / "val_predictions.csv", "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["path", "true", "predicted", "p"])
        for i, (true, p) in enumerate(zip(targets, probs), first):
            rows.writerow([f"{i:05d}.jpg", classes[true], classes[p.argmax()], p.max()])
    table(folder / "classes.txt", *classes)
    return classes


def answered(folder, score, first=0, n=200):
    """`held_out_files` of n pictures of two classes, of which the share `score` is right in both: macro F1 and accuracy
    are `score` where that is a multiple of 2 / n."""
    hits = round(score * n)
    targets = np.arange(n) % 2
    answers = np.where(np.arange(n) < hits, targets, 1 - targets)
    held_out_files(folder, np.eye(2)[answers], targets, first)
