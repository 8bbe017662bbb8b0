"""Train one classifier: `trial(config)` yields after every epoch, `train(config)` exhausts it, the command calls that.

    python train.py --mixup-p 0.4 --ls 0.1        settings are flags; --help lists them
    python train.py -c recipes/attempt-3.json     or a recipe, with flags on top

Results go to a run's folder (run.py) and to the caller; the test set is never looked at.
"""

import gc
import sys
import time

import numpy as np
import torch

import data
from config import config_from, flag_of, spelled
from engine.build import build_stepper, plans_of
from engine.flags import add_config_flags, config_from_args
from engine.numerics import THREADS, pick_device, repeatable
from engine.outcome import finish, judge, line
from engine.ranks import Ranks
from engine.run import Reader, Run, Stop, environment
from engine.step import NonFinite
from errors import LongtailError, Parser, Stopped, run_command
from pictures import synthetic

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def trial(config, stop=None, guard=lambda: None, turn=0):
    """Runs `config` in its folder, from the start or, with config.resume, from where it stopped, and yields a dict of
    metrics after each epoch. When exhausted, the folder holds weights, validation predictions and tables (DESIGN.md, "A
    run's folder").

    stop: a run.Stop that is asked between batches; the state is then saved and Stopped raised. guard: called before
    every write to the folder, which does not happen where it raises. turn: steps after which it yields None in between,
    for others to have their turn on the same device (0: never). Raises LongtailError otherwise; the last checkpoint
    stays as it was.
    """
    stop, ranks = stop or Stop(), Ranks()
    device = ranks.begin(pick_device(config.device), config.batch_size)
    torch.set_num_threads(config.threads or THREADS)
    pictures = data.prepare(synthetic.folder(config.data), **config.pick(data.prepare))
    run = Run(config.project, config.name, config.resume or ranks.restarted, guard) if ranks.rank == 0 else None
    folder = ranks.told(run and run.folder)
    run = run or Reader(folder)
    try:
        stepper, bias, recipe = build_stepper(config, pictures, device, ranks)
        state = begin(run, config, pictures, stepper, ranks)
        draw, evaluation = plans_of(config, pictures)
        end = min(config.until or config.epochs, config.epochs)

        def save():
            if state["best"]:  # before last.pt, which says that all this is done
                run.save("best.pt", dict(recipe, **state["best"]))
            run.save("last.pt", dict(state, stepper=stepper.state()))

        def pause():
            if number := ranks.any(stop.number):
                save()
                raise Stopped(number)

        stop.held, saved, ahead = True, time.monotonic(), None
        while state["epoch"] < end and not stale(state, config):
            plan, first, start = ahead or draw(state["epoch"]), state["step"], time.perf_counter()
            stepper.begin(plan, first)
            for t in bar(range(first, len(plan.index)), f"epoch {state['epoch'] + 1}/{config.epochs}"):
                stepper.train(t)
                state["step"] = t + 1
                pause()
                if turn and (t + 1) % turn == 0:
                    yield
                    repeatable(config.deterministic)  # a trial that had its turn may have wanted otherwise
            ahead = draw(state["epoch"] + 1) if state["epoch"] + 1 < end else None  # while a GPU has steps to do
            stepper.check(len(plan.index))
            seconds = time.perf_counter() - start
            look = pause if ranks.world == 1 else int  # several ranks must stop at the same batch
            logits = [stepper.logits(e, len(pictures.val), look) + bias for e in evaluation]
            if not np.isfinite(logits).all():
                raise NonFinite(len(plan.index) - 1)
            row = judge(state, config, pictures, stepper, logits, float(plan.scalars[-1, 0]))
            shown = (len(plan.index) - first) * config.batch_size
            row |= dict(
                seconds=round(time.perf_counter() - start, 3),
                data_wait=round(stepper.waited / max(seconds, 1e-9), 4),
                images_per_s=round(shown / max(seconds, 1e-9), 1),
            )
            run.append(row)
            run.say(line(row, config, state))
            if state["epoch"] == end or stale(state, config) or time.monotonic() - saved > run.PERIOD:
                save()
                saved = time.monotonic()
            yield row
            repeatable(config.deterministic)
        stop.held = False
        if ranks.rank == 0:
            finish(run, config, pictures, state)
    except NonFinite as e:
        raise LongtailError(
            f"{run.folder}: the loss is not finite at epoch {state['epoch'] + 1}, step {e.step + 1}: try a "
            f"lower --lr, some --warmup, or --no-amp"
        ) from e
    except torch.OutOfMemoryError as e:
        said = str(e).splitlines()[0]
        raise LongtailError(f"out of memory ({said}): try a smaller --batch-size or --img-size") from e
    finally:
        stop.held = False
        run.close()
        ranks.end()
        stepper = None
        gc.collect()  # a step's graphs and memory hang in cycles, and the next trial of this process needs the room


def train(config, stop=None):
    """Runs `config` to its end and returns the metrics of every epoch of this call, a list of dicts."""
    return list(trial(config, stop))


def begin(run, config, pictures, stepper, ranks):
    """Writes what the folder says from its first moment, or checks it against what is asked; the state to go on
    from."""
    env = dict(
        environment(stepper.device),
        precision=PRECISIONS[stepper.dtype],
        data_key=pictures.store.key,
        key=config.key(pictures.store.key),
        ranks=ranks.world,
    )
    if ranks.rank:
        ranks.wait()  # rank 0 has the folder to itself until then
    old, old_env = run.read_json("args.json"), run.read_json("env.json")
    if old is not None:
        old = config_from(old, str(run.folder / "args.json")).settings()
        changed = [
            f"{flag_of(k)} {spelled(old[k])} -> {spelled(v)}" for k, v in config.settings().items() if v != old[k]
        ]
        if old_env:
            changed += [
                f"{k} {old_env[k]} -> {env[k]}"
                for k in ("data_key", "device", "threads", "precision", "ranks")
                if env[k] != old_env[k]
            ]
        if changed:
            raise LongtailError(f"{run.folder} cannot be resumed with other settings: {'; '.join(changed)}")
    for note in pictures.notes:
        run.say(note)
    if old_env is None:
        files = pictures.listing
        run.write_json("args.json", {k: getattr(config, k) for k in config.__dataclass_fields__})
        run.write_text("classes.txt", "\n".join(files.classes) + "\n")
        parts = dict.fromkeys(pictures.train, "train") | dict.fromkeys(pictures.val, "val")
        run.write_rows(
            "split.csv",
            ["path", "class", "part"],
            [[path, files.classes[files.labels[i]], parts.get(i, "bad")] for i, path in enumerate(files.paths)],
        )
        run.write_json("stats.json", dict(mean=pictures.mean, std=pictures.std))
        run.write_json("env.json", env)
    state = run.load("last.pt")
    if state:
        stepper.load(state.pop("stepper"))
        run.say(f"resuming {run.folder} at epoch {state['epoch'] + 1}, step {state['step'] + 1}")
    else:
        state = dict(epoch=0, step=0, stale=0, rows=[], best=None)
        run.say(
            f"{run.folder}: {len(pictures.train)} pictures to train on, {len(pictures.val)} to validate, "
            f"{len(pictures.listing.classes)} classes, {pictures.size} px, {env['precision']} on {env['device']}"
        )
    run.results(state["rows"])
    if not ranks.rank:
        ranks.wait()
    return state


def stale(state, config):
    return bool(config.patience) and state["stale"] >= config.patience


def bar(steps, name):
    """`steps` with a progress bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps, name, leave=False)


def main(args=None):
    parser = Parser(prog="train.py", description=__doc__)
    add_config_flags(parser)
    space = parser.parse_args(args)
    stop = Stop().listen()

    def run():
        train(config_from_args(space), stop)

    return run_command("train.py", run, continue_with="--resume")


if __name__ == "__main__":
    sys.exit(main())
