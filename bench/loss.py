"""The loss and its gradient beside what else computes them: microseconds forward and backward, and errors against
float64.

    python -m bench.loss [--rows 128] [--classes 50] [--dtype float32] [--json FILE]

Ours is the kernel on a GPU, its twin elsewhere. The composition is the formula as one would write it, under autograd.
Cross entropy, Liger-Kernel's and torchvision's sigmoid focal loss compute less (no focus, prior, margin or second
target; no softmax), so they have no errors here. Errors: of values relative, of gradients in the row's largest, the
worst of all rows; confident rows have hard labels, since smoothing would drown what they lose.
"""

import importlib.util
import os

import torch
import torch.nn.functional as F

import kernels
import losses
from bench import rounds
from engine.numerics import pick_device
from engine.run import environment
from errors import Parser
from tests.conftest import import_torchvision
from tests.test_losses import batch, reference

SETTINGS = dict(ls=0.1, gamma=2.0, weights=True, tau=1.0)


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default 9)")
    parser.add_argument("--calls", type=int, default=50, help="calls a round (default 50)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: as torch has them)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--limit", type=float, default=0, help="seconds until a contender is ready (default 0: any)")
    parser.add_argument("--json", metavar="FILE", help="write the record with every round's seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    record = measure(args)
    rounds.tell(table(record), record, args.json)
    return int("ours" not in record["seconds"])


def measure(args):
    """The record: seconds of every round, errors, and what they depend on. It is written after each contender, too."""
    device, load = pick_device(args.device), os.getloadavg()[0]
    cases = dict(random=batch(args.rows, args.classes, dtype=getattr(torch, args.dtype)), confident=confident(args))
    hard, settings = (
        losses.loss_table(torch.arange(1.0, args.classes + 1), **(SETTINGS | changes)) for changes in (dict(ls=0.0), {})
    )
    exact, other = peers(device)
    logits, a, b, lam, upstream = (v.to(device) for v in cases["random"])
    upstream, there = torch.full_like(upstream, 1 / args.rows), settings.to(device)
    logits.requires_grad_()

    def both_ways(function):
        def call(_):
            value = function(logits, a, b, lam, there)
            torch.autograd.grad(value, logits, upstream if value.ndim else None)

        return call

    r = dict(
        vars(args),
        **environment(device),
        load=load,
        kind=device.type,
        kernel=kernels.usable(device),
        settings=SETTINGS,
        errors={},
        launches=launches(both_ways(losses.loss), device),
        seconds={},
        notes={},
    )

    def told(name, found, notes):
        r["seconds"], r["notes"] = found, notes
        said = "left out" if name not in found else f"{1e6 * found[name][0]:.1f} us"
        if name in exact and name in found:
            tables = dict(random=settings, confident=hard)
            r["errors"][name] = {k: error(exact[name], case, tables[k], device) for k, case in cases.items()}
        rounds.tell(f"{name}: {said} {notes.get(name, '')}", r, args.json)

    all_ways = {name: both_ways(function) for name, function in (exact | other).items()}
    rounds.seconds(all_ways, device, rounds=args.rounds, calls=args.calls, limit=args.limit, told=told)
    return r


def launches(call, device):
    """How many kernels one call starts on a GPU; None where that cannot be counted."""
    if device.type != "cuda":
        return None
    call(0)  # compiles
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(0)
        torch.cuda.synchronize()
    return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in profile.events()) or None


def confident(args):
    """Rows that are right by 5 to 25, the others' logits apart by as little as in a trained network."""
    logits, a, b, lam, upstream = batch(args.rows, args.classes, scale=1.0, seed=1)
    gaps = torch.linspace(5, 25, args.rows)[:, None]  # beyond, the cube of 1 - p leaves float32
    logits.scatter_(1, a[:, None].long(), logits.amax(1, keepdim=True) + gaps)
    return logits.to(getattr(torch, args.dtype)), a, a.clone(), torch.ones_like(lam), upstream


def composition(logits, a, b, lam, table):
    """The loss of losses.loss in log_softmax, exp and a power."""
    total, z = 0.0, logits.float()
    for targets, share in ((a.long(), lam), (b.long(), 1 - lam)):
        bias, weight, eps, gamma, margin = table[0], *table[1:, targets]
        hot = F.one_hot(targets, z.shape[1])
        logp = F.log_softmax(z + bias - margin[:, None] * hot, 1)
        smooth = (1 - eps[:, None]) * hot + eps[:, None] / z.shape[1]
        total = total - share * weight * (smooth * (1 - logp.exp()) ** gamma[:, None] * logp).sum(1)
    return total


def peers(device):
    """name -> function of loss's arguments: those that compute the same, and the others."""
    exact = dict(ours=losses.loss, twin=losses.plain, composition=composition)
    if device.type != "cuda" or importlib.util.find_spec("triton"):
        exact["composition, compiled"] = torch.compile(composition, fullgraph=True, dynamic=False)
    other = {"F.cross_entropy": lambda z, a, b, lam, t: F.cross_entropy(z, a.long(), label_smoothing=SETTINGS["ls"])}
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerCrossEntropyLoss

        liger = LigerCrossEntropyLoss(label_smoothing=SETTINGS["ls"])
        other["Liger-Kernel"] = lambda z, a, b, lam, t: liger(z.clone(), a.long())  # it writes into its input
    try:
        focal = import_torchvision().ops.sigmoid_focal_loss
        other["torchvision's focal"] = lambda z, a, b, lam, t: focal(
            z, F.one_hot(a.long(), z.shape[1]).to(z.dtype), reduction="mean"
        )
    except ImportError:
        pass
    return exact, other


def error(function, case, table, device):
    """The worst relative error of a value, and of a gradient in units of its row's largest, against float64."""
    logits, a, b, lam, upstream = case
    z, true_z = logits.to(device).requires_grad_(), logits.double().requires_grad_()
    value, true = function(z, *(v.to(device) for v in (a, b, lam, table))), reference(true_z, a, b, lam, table)
    (grad,) = torch.autograd.grad(value, z, upstream.to(device))
    (true_grad,) = torch.autograd.grad(true, true_z, upstream.double())
    of_value = ((value.double().cpu() - true).abs() / true.abs()).detach()
    of_grad = (grad.double().cpu() - true_grad).abs() / true_grad.abs().amax(1, keepdim=True)
    return float(of_value.max()), float(of_grad.max())


def table(r):
    """The record as Markdown."""
    where = "one CUDA graph" if r["kind"] == "cuda" else "plain calls"
    kind = "kernel" if r["kernel"] else "twin"
    launches = f" Ours starts {r['launches']} kernels." if r["launches"] else ""
    said = [
        f"**The loss, forward and backward, {r['rows']} x {r['classes']} {r['dtype']}; ours is the {kind}.**",
        "",
        f"n = {r['rounds']} alternating rounds of {r['calls']} calls ({where}): median (min to max). "
        f"{r['device']}; {r['cpu']}, {r['threads']} threads, load {r['load']:.1f} before; torch {r['torch']}, "
        f"commit {r['commit']}. Settings "
        f"{' '.join(f'{k} {v}' for k, v in r['settings'].items())}, two targets a row."
        f"{launches}",
        "",
        "| | us | in ours | value error | gradient error | confident rows: value | gradient |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, spent in r["seconds"].items():
        errors = [f"{v:.1e}" for kind in r["errors"].get(name, {}).values() for v in kind] or [""] * 4
        late = " (not captured)" if name in r["notes"] else ""
        said.append(
            f"| {name}{late} | {rounds.spread([s * 1e6 for s in spent])} | "
            f"{rounds.ratios(spent, r['seconds'].get('ours', spent))} | {' | '.join(errors)} |"
        )
    said += [f"| {name} | {why} | | | | | |" for name, why in r["notes"].items() if name not in r["seconds"]]
    return "\n".join(said)


if __name__ == "__main__":
    rounds.leave(main())
