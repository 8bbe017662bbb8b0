"""How a run begins: its folder opened, its first files written or, at a resume, held against what is asked."""

from collections.abc import Callable
from pathlib import Path

import torch

from config import Config, config_from, flag_of, spelled
from data import Pictures
from engine.build import init_key
from engine.outcome import State
from engine.ranks import Ranks
from engine.run import FORMAT, FollowedRun, Run, check_format, environment, uncommitted, with_todays_names
from engine.step import Stepper
from errors import LongtailError, counted

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# Of env.json: a resume with another of these would not end with the weights of an undisturbed run.
HELD = ("data_key", "init_key", "device", "threads", "precision", "compiled", "ranks")


def open_run(config: Config, ranks: Ranks, guard: Callable) -> Run:
    """The run's folder: rank 0's to write, the others' to read."""
    if ranks.rank == 0:
        run = Run(config.project, config.name, config.resume or ranks.restarted, guard)
        ranks.told(run.folder)
        return run
    return FollowedRun(ranks.told(None))


def begin_or_resume(run: Run, config: Config, pictures: Pictures, stepper: Stepper, ranks: Ranks) -> State:
    """Writes a new run's first files; or checks those of an old one against what is asked, and loads `stepper`.

    Returns the State to go on from. Raises LongtailError where settings, pictures, device, threads or precision are
    others than those that the run began with.
    """
    old_env = run.read_json("env.json")
    resumed = (run.folder / "last.pt").exists()
    # What a resumed run began with may be gone: its weights are in last.pt.
    weights_key = (
        (old_env or {}).get("init_key", "") if resumed and not Path(config.init).exists() else init_key(config.init)
    )
    env = environment(stepper.device) | dict(
        precision=PRECISIONS[stepper.dtype],
        compiled=stepper.record is not None,
        data_key=pictures.store.key,
        init_key=weights_key,
        key=config.key(pictures.store.key, weights_key),
        ranks=ranks.world,
    )
    if ranks.rank:
        ranks.wait()  # rank 0 has the folder to itself until then
    old_env = run.read_json("env.json")  # rank 0 may have written it meanwhile
    _refuse_changes(run, config, env, old_env)
    for note in pictures.notes:
        run.say(note)
    if old_env is None:
        _write_first_files(run, config, pictures, env)
    elif old_env.get("format", 1) < FORMAT:
        run.write_json("env.json", old_env | dict(format=FORMAT))  # what is written from now on
    saved = run.load("last.pt")
    if saved:
        if "stepper" not in saved:
            raise LongtailError(f"{run.folder / 'last.pt'} is not a last.pt of this program")
        stepper.load(saved.pop("stepper"))
        state = State(**saved)
        state.rows = [with_todays_names(row) for row in state.rows]
        if state.best:
            state.best["metrics"] = with_todays_names(state.best["metrics"])
        run.say(f"resuming {run.folder} at epoch {state.epoch + 1}, step {state.step + 1}")
    else:
        state = State()
        run.say(
            f"{run.folder}: {counted(len(pictures.train), 'picture')} to train on, {len(pictures.val)} to validate, "
            f"{len(pictures.listing.classes)} classes, {pictures.size} px, {env['precision']} on {env['device']}"
        )
    run.results(state.rows)
    if ranks.rank == 0:
        ranks.wait()
    return state


def _refuse_changes(run, config, env, old_env):
    """Raises LongtailError where the run in the folder was begun with other settings or in another way."""
    old = run.read_json("args.json")
    if old is None:
        return
    old_settings = config_from(old, str(run.folder / "args.json")).settings()
    changed = []
    for name, value in config.settings().items():
        if value != old_settings[name] and name != "init":  # init_key below tells, wherever the weights lie now
            changed.append(f"{flag_of(name)} {spelled(old_settings[name])} -> {spelled(value)}")
    if old_env:
        check_format(old_env.get("format", 1), run.folder)
        for name in HELD:
            if name in old_env and env[name] != old_env[name]:
                changed.append(f"{name} {old_env[name]} -> {env[name]}")
    if changed:
        raise LongtailError(f"{run.folder} cannot be resumed with other settings: {'; '.join(changed)}")


def _write_first_files(run, config, pictures, env):
    """What a folder says before the first step; env.json, which says that all of it is there, comes last."""
    files = pictures.listing
    run.write_json("args.json", {name: getattr(config, name) for name in config.__dataclass_fields__})
    run.write_text("classes.txt", "\n".join(files.classes) + "\n")
    part_of = dict.fromkeys(pictures.train, "train") | dict.fromkeys(pictures.val, "val")
    run.write_rows(
        "split.csv",
        ["path", "class", "part"],
        [[path, files.classes[files.labels[row]], part_of.get(row, "bad")] for row, path in enumerate(files.paths)],
    )
    run.write_json("stats.json", dict(mean=pictures.mean, std=pictures.std))
    patch = uncommitted()
    if patch:
        run.write_text("code.diff", patch)
    run.write_json("env.json", env)
