"""How a run begins: its folder opened, its first files written or, at a resume, held against what is asked."""

from collections.abc import Callable
from pathlib import Path

import torch

from augment import Views
from config import WAY, Config, config_from, flag_of, spelled
from data import Pictures
from engine.build import init_key
from engine.checkpoint import FORMAT, check_format, not_finite
from engine.evaluate import resized
from engine.outcome import State, filters, is_done
from engine.ranks import Ranks
from engine.run import FollowedRun, Run, environment, uncommitted, with_todays_names
from engine.step import Stepper
from errors import LongtailError, counted, first_line
from pictures.dealing import listing_key

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
KEYS = dict(  # what to say instead of the name where one of these changed
    data_key="other pictures (is --data or $DATA the same?)",
    listing_key="other labels, groups or validation pictures",
    init_key="other weights of --init",
)
# Of env.json: a resume with another of these would not end with the weights of an undisturbed run.
HELD = (*KEYS, "device", "threads", "precision", "layout", "products", "compiled", "ranks")
HELD_ELSEWHERE = ("init", "labels", *WAY)  # settings of which env.json tells what they lead to
GONE = ("signals", "earlier_signals")  # what an earlier version's last.pt holds besides
OF_THE_BEST = ("weights", "epoch", "metrics", "bias", "logits")  # what end_epoch keeps of an epoch


def open_run(config: Config, ranks: Ranks, guard: Callable) -> Run:
    """The run's folder: rank 0's to write, the others' to read."""
    if ranks.rank == 0:
        run = Run(config.project, config.name, config.resume or ranks.restarted, guard)
        ranks.told(run.folder)
        return run
    return FollowedRun(ranks.told(None))


def way_of(run: Run) -> dict | None:
    """`amp`, `layout` and `products` that the run in this folder began with; None for a new one."""
    env = run.read_json("env.json")
    # Earlier versions, whose env.json lacks the last two, had no others.
    return env and dict(
        amp=env.get("precision") != "fp32",
        layout=env.get("layout", "channels_last"),
        products=env.get("products", 0),
    )


def saved_state(run: Run, config: Config) -> dict | None:
    """What the run's folder has to go on from: last.pt; of a run that is done, whose last.pt is gone, its State alone,
    which best.pt has. None where there is neither."""
    saved = run.load("last.pt")
    if saved is not None:
        if not {"stepper", "epoch", "step", "rows", "best"} <= saved.keys():
            raise LongtailError(f"{run.folder / 'last.pt'} is not a last.pt of this program")
        return saved
    saved = run.load("best.pt") or {}
    if not {"rows", "stale", *OF_THE_BEST} <= saved.keys():
        return None
    best = {name: saved[name] for name in OF_THE_BEST}
    state = State(epoch=len(saved["rows"]), stale=saved["stale"], rows=saved["rows"], best=best)
    return vars(state) if is_done(state, config) else None  # else a kill came between best.pt and the first last.pt


def begin_or_resume(
    run: Run, config: Config, pictures: Pictures, stepper: Stepper, ranks: Ranks, saved: dict | None
) -> State:
    """Writes a new run's first files; or checks those of an old one against what is asked, and loads `stepper`.

    saved: what `saved_state` found. Returns the State to go on from. Raises LongtailError where settings, pictures,
    device, threads or precision are others than those that the run began with.
    """
    old_env = run.read_json("env.json")
    resumed = saved is not None
    # What a resumed run began with may be gone: its weights are in last.pt.
    gone = resumed and not (Path(config.init).is_file() or (Path(config.init) / "best.pt").exists())
    weights_key = (old_env or {}).get("init_key", "") if gone else init_key(config.init)
    env = environment(stepper.device) | dict(
        precision=PRECISIONS[stepper.dtype],
        layout=config.layout,
        products=config.products,
        compiled=stepper.record is not None,
        data=str(pictures.root.resolve()),
        data_key=pictures.store.key,
        listing_key=listing_key(pictures.listing),
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
    lists = ("classes.txt", "split.csv", "stats.json")
    if old_env is None:
        _write_first_files(run, config, pictures, env, filters(stepper.model.state_dict()))
    elif not all((run.folder / name).exists() for name in lists):  # somebody removed one
        _write_lists(run, pictures)
    if old_env and old_env.get("format", 1) < FORMAT:
        run.write_json("env.json", old_env | dict(format=FORMAT))  # what is written from now on
    if saved:
        state = _taken_up(run, saved, stepper)
        state.rows = [with_todays_names(row) for row in state.rows]
        if state.best:
            state.best["metrics"] = with_todays_names(state.best["metrics"])
        where = f"at epoch {state.epoch + 1}, step {state.step + 1}"
        if is_done(state, config):
            where = f"after its last epoch, {state.epoch}: its tables are written again"
        run.say(f"resuming {run.folder} {where}")
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


def _taken_up(run, saved, stepper):
    """The State of `saved`; `stepper` takes up its part. LongtailError where it is foreign, or could not train on."""
    state = {name: value for name, value in saved.items() if name not in ("stepper", *GONE)}
    bad = None
    try:
        if "stepper" in saved:
            stepper.load(saved["stepper"])
            kept = [saved["best"]["weights"]] if saved["best"] else []
            states = [stepper.model.state_dict(), stepper.evaluated().state_dict(), *kept]
            bad = next(filter(None, map(not_finite, states)), None)
        state = State(**state)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:
        said = first_line(e)
        raise LongtailError(f"{run.folder / 'last.pt'} is not of this run ({said}): begin another --name") from e
    if bad:
        raise LongtailError(f"{run.folder / 'last.pt'}: the weights are not finite ({bad}): begin another --name")
    return state


def _refuse_changes(run, config, env, old_env):
    """Raises LongtailError where the run in the folder was begun with other settings or in another way."""
    old = run.read_json("args.json")
    if old is None:
        return
    old_settings = config_from(old, str(run.folder / "args.json")).settings()
    changed = []
    for name, value in config.settings().items():
        if value != old_settings[name] and name not in HELD_ELSEWHERE:
            changed.append(f"{flag_of(name)} {spelled(old_settings[name])} -> {spelled(value)}")
    if old_env:
        number = old_env.get("format", 1)
        check_format(number, run.folder / "env.json")
        if number < 3 and (resized(config.group(Views)) or config.averaged_views() != "none"):
            raise LongtailError(
                f"{run.folder} was begun by an earlier version, which validated by other views of the pictures: resume "
                "it with that version, or begin another --name"
            )
        for name in HELD:
            if name in old_env and env[name] != old_env[name]:
                changed.append(KEYS.get(name) or f"{name} {old_env[name]} -> {env[name]}")
    if changed:
        raise LongtailError(f"{run.folder} cannot be resumed with other settings: {'; '.join(changed)}")


def _write_first_files(run, config, pictures, env, first_filters):
    """What a folder says before the first step; env.json, which says that all of it is there, comes last."""
    run.write_json("args.json", {name: getattr(config, name) for name in config.__dataclass_fields__})
    _write_lists(run, pictures)
    patch = uncommitted()
    if patch:
        run.write_text("code.diff", patch)
    if first_filters is not None:
        run.write_array("filters.npy", first_filters[None])
    run.write_json("env.json", env)


def _write_lists(run, pictures):
    """What follows from the pictures: the classes, each picture's part, mean and standard deviation."""
    files = pictures.listing
    run.write_text("classes.txt", "\n".join(files.classes) + "\n")
    part_of = dict.fromkeys(pictures.train, "train") | dict.fromkeys(pictures.val, "val")
    run.write_rows(
        "split.csv",
        ["path", "class", "part"],
        [[path, files.classes[files.labels[row]], part_of.get(row, "bad")] for row, path in enumerate(files.paths)],
    )
    run.write_json("stats.json", dict(mean=pictures.mean, std=pictures.std))
