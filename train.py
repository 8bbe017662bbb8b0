"""Train one classifier: `trial(config)` yields after every epoch, `train(config)` exhausts it, the command calls that.

Results go to a run's folder (docs/design.md, "Run") and to the caller; the test set is never looked at.
"""

import dataclasses
import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from config import Config, whole_paths
from engine.build import LossSchedule, beginning, build_stepper, plans_of, prepare_pictures
from engine.checkpoint import not_finite
from engine.evaluate import averaged
from engine.fastest import decide
from engine.flags import SettingsParser, config_from_args
from engine.numerics import THREADS, pick_device, repeatable
from engine.outcome import end_epoch, epoch_line, epoch_scores, finish, is_done, out_of_patience
from engine.paper import try_network
from engine.progress import Bar, Scalars
from engine.ranks import Ranks
from engine.resume import begin_or_resume, open_run, saved_state, way_of
from engine.step import NonFinite
from engine.stop import StopRequest
from errors import LongtailError, Stopped, counted, first_line, run_command
from losses import SETTLING

HELP = """Train one classifier. Everything about the run goes to a folder, runs/NAME; the test set is never looked at.

    python train.py --mixup-p 0.4 --ls 0.1        a run of these settings
    python train.py -c recipes/attempt-3.json     of a recipe, flags on top
    python train.py --resume                      go on where the run stopped
"""


def trial(
    config: Config,
    stop: StopRequest | None = None,
    guard: Callable = lambda: None,
    turn: int = 0,
    way: dict | None = None,
) -> Iterator[dict | None]:
    """Runs `config` in its folder, from the start or, with config.resume, from where it stopped, and yields a dict of
    metrics after each epoch. When exhausted, the folder holds weights, validation predictions and tables
    (docs/design.md, "Run").

    stop: a StopRequest that is asked between batches; the state is then saved and Stopped raised. guard: called before
    every write to the folder, which does not happen where it raises. turn: steps after which it yields None in between,
    for others to have their turn on the same device (0: never). way: `amp`, `layout` and `products` where `config`
    leaves them open and a study has decided. Raises LongtailError for any other failure; the last checkpoint stays as
    it was.
    """
    stop = stop or StopRequest()
    ranks = Ranks()
    scalars = Scalars(config.tensorboard)
    device = ranks.begin(pick_device(config.device), config.batch_size)
    torch.set_num_threads(config.threads or THREADS)
    pictures = prepare_pictures(config)
    config = dataclasses.replace(config, **whole_paths(vars(config)))
    try_network(config, pictures, resumed=config.resume or ranks.restarted)
    run = open_run(config, ranks, guard)  # only now: what cannot be trained leaves no folder
    last_epoch = min(config.until or config.epochs, config.epochs)
    bar = Bar(last_epoch, ranks.rank == 0)
    drawing = ThreadPoolExecutor(1)  # a thread of its own, so that no step waits for a plan
    try:
        saved = saved_state(run, config)
        config = decide(config, pictures, device, ranks, way_of(run) or way)
        stepper, description = build_stepper(config, pictures, device, ranks, saved is not None)
        if config.init and saved is None:
            run.say(beginning(stepper.model, description["model"], config, pictures.listing.classes))
        state = begin_or_resume(run, config, pictures, stepper, ranks, saved)
        saved = None  # its tensors need the room no more
        if state.best is None and state.epoch >= last_epoch:  # --monitor last keeps nothing before the last epoch
            done = counted(state.epoch, "epoch")
            raise LongtailError(f"{run.folder} has {done} already: give a later --until, or none")
        if not state.rows:
            _say_what_is_odd(run, config, pictures, description)
        keeper = Keeper(run, description, stepper, state, stop, ranks)
        draw, evaluation = plans_of(config, pictures)
        loss = LossSchedule(config, pictures, stepper.model.logit_scale)
        if ranks.rank == 0:
            scalars.begin(run.folder, state.epoch)
        next_plan = None
        # A signal waits for the end of the step: half a step could not be resumed.
        with stop.deferred():
            while state.epoch < last_epoch and not out_of_patience(state, config):
                started = time.perf_counter()
                # The epoch's tables: its plan and its loss.
                plan = next_plan.result() if next_plan else draw(state.epoch)
                if state.epoch + 1 < last_epoch:  # drawn while this epoch trains
                    next_plan = drawing.submit(draw, state.epoch + 1)
                table, bias = loss.at(state.epoch)
                if loss.changes(state.epoch) and state.step == 0 and evaluation and config.monitor != "last":
                    state.stale = 0
                    _say_that_the_loss_changes(run, state.epoch, last_epoch)
                steps, first = len(plan.index), state.step
                stepper.take_table(table)
                stepper.begin(plan, first)

                # Its steps, each a row of the plan.
                for t in range(first, steps):
                    stepper.train(t)
                    state.step = t + 1
                    bar.step(state.epoch, t, steps)
                    keeper.pause()
                    if turn and (t + 1) % turn == 0:
                        yield
                        repeatable(config.deterministic)  # a trial that had its turn may have wanted otherwise
                stepper.check(steps)
                training = max(time.perf_counter() - started, 1e-9)

                # What it came to.
                count = len(pictures.val)
                of_view = [stepper.logits(view, count, keeper.pause_in_evaluation) + bias for view in evaluation]
                _refuse_not_finite(of_view, stepper.evaluated(), steps - 1)
                logits = averaged(of_view) if of_view else None
                # Scores and times are apart: two runs of one recipe have the same scores.
                scores = epoch_scores(state.epoch + 1, stepper, logits, pictures, float(plan.lr[-1]))
                times = dict(
                    seconds=round(time.perf_counter() - started, 3),
                    data_wait=round(stepper.waited / training, 4),
                    images_per_s=round((steps - first) * config.batch_size / training, 1),
                )
                settling, last = loss.settling(state.epoch), state.epoch + 1 == last_epoch
                end_epoch(state, scores, times, config.monitor, stepper.evaluated(), logits, bias, settling, last)
                run.append(state.rows[-1])
                scalars.add(state.rows[-1])
                bar.scores(state.rows[-1])
                run.say(epoch_line(state, config.epochs, last_epoch))
                over = state.epoch == last_epoch or out_of_patience(state, config)
                keeper.save_now_and_then(over)
                yield state.rows[-1]  # who drives several trials goes on with another
                repeatable(config.deterministic)
        if ranks.rank == 0:  # the others have the same state, and no folder to write to
            keeper.save_best()  # somebody may have removed it
            finish(run, config, pictures, state)
            if is_done(state, config) and state.best:
                run.remove("last.pt")  # nothing is left to resume, and best.pt can mend the tables
    except NonFinite as e:
        raise LongtailError(
            f"{run.folder}: {e.what} is not finite at epoch {state.epoch + 1}, step {e.step + 1}: try a "
            f"lower --lr, some --warmup, or --no-amp"
        ) from e
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        said = first_line(e)
        a_cpus = "can't allocate memory" in said  # its allocator has no error of its own
        if not (a_cpus or isinstance(e, (torch.OutOfMemoryError, MemoryError))):
            raise
        raise LongtailError(f"out of memory{said and f' ({said})'}: try a smaller --batch-size or --img-size") from e
    finally:
        drawing.shutdown(cancel_futures=True)
        bar.close()
        scalars.close()
        run.close()
        ranks.end()
        stepper = keeper = None
        gc.collect()  # a step's graphs and memory hang in cycles, and the next trial of this process needs the room


def _say_what_is_odd(run, config, pictures, description):
    """Settings that somebody who chose them might not have meant."""
    if config.without_effect():
        run.say(f"warning: without effect: {'; '.join(config.without_effect())}")
    times = config.batch_size / max(len(pictures.train), 1)
    if times > 1:
        shown = f"a step shows each of the {len(pictures.train)} pictures {times:.1f} times"
        run.say(f"warning: --batch-size {config.batch_size}: {shown}: give a smaller one")
    if config.freeze and not (config.init or config.pretrained):
        run.say("warning: --freeze without --init RUN or --pretrained: what is frozen stays as random as it began")
    if config.stem == "auto" and description["model"]["stem"] == "cifar":
        run.say(
            "up to 32 px the network begins with the CIFAR stem, which keeps small pictures whole and takes three "
            "times as long as 64 px with the other: --img-size 64 is faster, and so is --stem imagenet"
        )


def _say_that_the_loss_changes(run, epoch, last_epoch):
    """What that means for the epochs from `epoch` on, counted from 0, of which one is to be the best."""
    end = min(epoch + SETTLING, last_epoch)
    passed_over = f"epochs {epoch + 1} to {end} are not taken as the best"
    if end == last_epoch:
        passed_over += ", so none with the new loss is: --monitor last keeps the last"
    run.say(f"the loss changes, and the network needs time to follow: {passed_over}")


def _refuse_not_finite(of_view, model, step):
    """NonFinite where an answer to a validation picture, by view, or the model's state is not."""
    if not all(np.isfinite(each).all() for each in of_view):
        raise NonFinite(step, "an answer to a validation picture")
    bad = not_finite(model.state_dict())
    if bad:  # a loss can be finite while a statistic is not
        raise NonFinite(step, bad)


def train(config: Config, stop: StopRequest | None = None) -> list[dict]:
    """Runs `config` to its end and returns the metrics of every epoch of this call, a list of dicts."""
    return list(trial(config, stop))


class Keeper:
    """Saves a run: now and then between epochs, and where a signal asks for its end."""

    PERIOD = 20.0  # seconds between two last.pt at the least: one is 180 MB for ResNet-18 with AdamW and an average

    def __init__(self, run, description, stepper, state, stop, ranks):
        self.run, self.description = run, description
        self.stepper, self.state = stepper, state
        self.stop, self.ranks = stop, ranks
        self.saved = time.monotonic()

    def save(self) -> None:
        self.save_best()  # before last.pt, which says that all this is done
        self.run.save("last.pt", vars(self.state) | dict(stepper=self.stepper.state()))
        self.saved = time.monotonic()

    def save_best(self) -> None:
        """What a prediction needs; and the epochs' rows, from which a run that is done gets its tables again."""
        if self.state.best:
            rows = dict(rows=self.state.rows, stale=self.state.stale)
            self.run.save("best.pt", self.description | self.state.best | rows)

    def save_now_and_then(self, over: bool) -> None:
        """Saves if the last time was a while ago, or training is over."""
        if over or time.monotonic() - self.saved > self.PERIOD:
            self.save()

    def pause(self) -> None:
        """Between two steps: if a signal asked any rank for the end, saves and raises Stopped."""
        number = self.ranks.any(self.stop.number)
        if number:
            self.stepper.check(self.state.step)  # a GPU's losses were not all looked at, and NaN is not worth saving
            self.save()
            folder = self.run.folder
            flags = shlex.join(["--project", str(folder.parent), "--name", folder.name, "--resume"])
            raise Stopped(number, f"the same command with {flags}")

    def pause_in_evaluation(self) -> None:
        """Between two batches of an evaluation, of which ranks may have unlike numbers: one rank alone may stop."""
        if self.ranks.world == 1:
            self.pause()


def main(args: list[str] | None = None) -> int:
    parser = SettingsParser("train.py", HELP)
    parser.add_settings()
    space = parser.parse_args(args)
    stop = StopRequest().listen()

    def run():
        config = config_from_args(space)
        folder = Path(config.project) / config.name
        if config.resume and not folder.exists() and Ranks().rank == 0:  # a mistyped --name looks just so
            print(f"train.py: there is no {folder} to resume: a new run begins", file=sys.stderr)
        train(config, stop)

    return run_command("train.py", run, continue_with="--resume")


if __name__ == "__main__":
    sys.exit(main())
