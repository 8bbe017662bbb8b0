"""One thing about the training step changed at a time, for bench.variants: precision, bytes, channels, compiling."""

import functools
import statistics
from unittest.mock import patch

import torch
import torch.nn.functional as F

import augment
import kernels
from bench import rounds
from engine import build, numerics, resident
from engine.evaluate import forward

ONLY_ON_CUDA = "only on CUDA"
DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16, fp32=torch.float32)
BASE = dict(dtype="bf16", bytes=3, channels=3, norm=True, compile=True, capture=True, deterministic=False)
CHANGES = {
    "as it is": {},
    "fp16": dict(dtype="fp16"),
    "fp32": dict(dtype="fp32"),
    "Store pixels of 4 bytes": dict(bytes=4),
    "conv1 of 4 channels": dict(channels=4),
    "both": dict(bytes=4, channels=4),
    "without batch norm, a bound": dict(norm=False),
    "not compiled": dict(compile=False),
    "not compiled, fp16": dict(compile=False, dtype="fp16"),
    "not captured": dict(capture=False),
    "neither": dict(compile=False, capture=False),
    "deterministic": dict(deterministic=True),
}


def one_at_a_time(config, pictures, device, args):
    """Yields, after each change, dict(images, seconds by change of every round, failed: the changes that did not work,
    with the reason) and the name of the change; in the end once more, without a name.

    args: repeats (rounds), steps (of a round, at the least), changes (names; "as it is" is always the first) and limit
    (seconds until a change is warm, 0: any).
    """
    on_gpu = device.type == "cuda"
    (pixels,) = resident.levels(pictures.store, device).values()
    store = {3: pixels, 4: F.pad(pixels, (0, 1))}
    per_epoch = -(-len(pictures.train) // config.batch_size)
    times = -(-args.steps // per_epoch)
    found, epochs = dict(images=times * per_epoch * config.batch_size, seconds={}, failed={}), {}

    def first_round(name):
        epochs[name] = epoch = changed(config, pictures, store, device, times, BASE | CHANGES[name])
        rounds.clocked(epoch, device)
        found["seconds"][name] = [rounds.clocked(epoch, device)]

    for name in CHANGES:
        if name not in ("as it is", *args.changes):
            continue
        if not on_gpu and CHANGES[name].keys() & {"compile", "capture"}:
            found["failed"][name] = ONLY_ON_CUDA
            continue
        _, failure = rounds.tried(first_round, name, limit=args.limit)
        if failure:
            epochs.pop(name, None)
            found["failed"][name] = failure
        yield found, name
    for _ in range(args.repeats - 1):
        for name, epoch in epochs.items():
            found["seconds"][name].append(rounds.clocked(epoch, device))
    yield found, None


def changed(config, pictures, store, device, times, to):
    """The steps of an epoch, so many times, with the changes `to`, as a function."""
    network = build.build_network
    with patch.object(build, "build_network", lambda *given: altered(*network(*given), to)):
        stepper, _ = build.build_stepper(config, pictures, device)
    stepper.levels = {pictures.store.pixels.shape[1]: store[to["bytes"]]}
    stepper.dtype = DTYPES[to["dtype"]]
    stepper.scaler = torch.amp.GradScaler(device.type, enabled=to["dtype"] == "fp16")
    stepper.forward = stepper.forward if to["compile"] else forward
    stepper.record = stepper.record if to["capture"] else None
    plan = build.plans_of(config, pictures)[0](0)

    def epoch():
        numerics.repeatable(to["deterministic"])
        try:
            with patch.object(augment, "batch", functools.partial(batch, channels=to["channels"])):
                for _ in range(times):
                    stepper.begin(plan)
                    for t in range(len(plan.index)):
                        stepper.train(t)
        finally:
            numerics.repeatable(False)

    return epoch


def altered(model, shape, to):
    """The network with a first convolution of four channels, or without batch norm."""
    if to["channels"] == 4:
        old = model.conv1
        model.conv1 = torch.nn.Conv2d(4, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
        model.conv1.weight.data = F.pad(old.weight.data, (0, 0, 0, 0, 0, 1))
    if not to["norm"]:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.BatchNorm2d):
                    setattr(module, name, torch.nn.Identity())
    return model, shape


def batch(pixels, row, *, size, mean, std, border, dtype, layout, channels):
    """augment.batch with Store pixels of 3 or 4 bytes, and 3 or 4 channels, of which the fourth is 0."""
    if kernels.usable(mean.device):
        from kernels import view

        x = view.view(
            pixels,
            row.index,
            row.partner,
            row.blend,
            row.box,
            row.geo,
            row.geo_b,
            row.col,
            row.col_b,
            row.erase,
            mean,
            std,
            size,
            border,
            dtype,
            channels,
        )
        return x.contiguous(memory_format=layout)
    x = augment.plain(pixels[..., :3], row, size=size, mean=mean, std=std, border=border)
    return F.pad(x, (0, 0, 0, 0, 0, channels - 3)).to(dtype, memory_format=layout)


def in_words(r, name):
    """A change's first round."""
    if name in r["failed"]:
        return f"{name}: {r['failed'][name]}"
    rate = r["images"] / r["seconds"][name][0]
    return f"{name}: {rate:.0f} images/s, {1e3 * r['batch_size'] / rate:.2f} ms a step"


def changes_table(r):
    base, batch = r["seconds"].get("as it is", []), r["batch_size"]
    said = [
        f"Batch {batch}, compiled and captured in bf16 from 3-byte pixels but for:"
        if r["kind"] == "cuda"
        else f"Batch {batch}, eager on {r['kind']}, but for:",
        "",
        "| | ms a step | images/s | of its time |",
        "| --- | --- | --- | --- |",
    ]
    for name, spent in r["seconds"].items():
        said.append(
            f"| {name} | {rounds.spread([1e3 * batch * s / r['images'] for s in spent], 2)} | "
            f"{r['images'] / statistics.median(spent):.0f} | {rounds.ratios(spent, base, 3) if base else ''} |"
        )
    said += [f"| {name} | {reason} | | |" for name, reason in r["failed"].items()]
    return "\n".join(said) + "\n"
