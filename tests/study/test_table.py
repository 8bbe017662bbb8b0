"""The study: its folder, leases, halving; killed, stopped or broken, its table is that of an undisturbed one."""

import contextlib
import csv
import errno
import json
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import metrics
import train
from config import REMOVED, flag_of, read_recipe, spelled
from conftest import PLAIN, ROOT
from engine.checkpoint import load_checkpoint
from engine.stop import StopRequest
from errors import ConfigError, LongtailError
from study import held_out, supervisor, workers
from study.begin import begin_study
from study.job import Job
from study.lease import Lease, LeaseLost
from study.pace import Shape, kept_way
from study.progress import Best
from study.table import Study, write_spec
from test_train import FULL, assert_same_state, made, results

RICH = {**FULL, "monitor": "last"}
WILD = dict(opt="sgd", lr=100, schedule="constant", epochs=30)  # it diverges
POINTS = [{}, dict(ls=0.2), dict(lr=1e-3, seed=1), dict(val_split=0.3)]


def begun(settings, trials, halving=0, name="s", **more):
    """A study of PLAIN settings that is ready for workers on one thread."""
    folder = Path(settings["project"]) / name
    study = begin_study(folder, made(settings, **{"monitor": "last", **more}), trials, halving)
    write_spec(folder / "study.json", dict(study.spec, threads=1))
    study.refresh()
    return study


def work(study, pack=1, shard=(0, 1)):
    workers.work(study.folder, "cpu", 1, pack, shard, os.getppid(), StopRequest())
    assert not [thread for thread in threading.enumerate() if "_keep_alive" in thread.name]


def table(study):
    """results.csv as rows, without its time column."""
    study.write_results()
    with open(study.folder / "results.csv", newline="", encoding="utf-8") as f:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(f)]


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def wait(happened, seconds=300):
    """The first true value of `happened()`."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    """Function: the folder of a trial of RICH settings that train.train ran by itself."""
    project, kept = tmp_path_factory.mktemp("alone"), {}

    def folder(trial):
        key = json.dumps(trial)
        if key not in kept:
            kept[key] = project / str(len(kept))
            train.train(made(PLAIN, **{**RICH, **trial}, data=str(pictures), project=str(project), name=kept[key].name))
        return kept[key]

    return folder


def assert_as_alone(study, i, alone):
    mine, theirs = study.run(i), alone(study.trials[i])
    assert_same_state(mine / "best.pt", theirs / "best.pt")
    assert results(mine) == results(theirs)
    for name in ("val_logits.npy", "val_predictions.csv", "per_class.csv"):
        assert (mine / name).read_bytes() == (theirs / name).read_bytes()


# the folder -----------------------------------------------------------------------------------------------------------


def test_a_grid_grows_and_never_renumbers(settings):
    first = [dict(ls=0.1), dict(ls=0.2), dict(ls=0.1)]
    study = begun(settings, first)
    assert study.trials == [dict(ls=0.1), dict(ls=0.2)]
    more = [dict(ls=0.3), dict(ls=0.2), {}, dict(ls=0.0), dict(gamma=1.0, ls=0.1)]  # {} is ls=0.0, spelled otherwise
    study = begun(settings, more)
    assert study.trials == [dict(ls=0.1), dict(ls=0.2), dict(ls=0.3), {}, dict(gamma=1.0, ls=0.1)]
    assert [study.config(i).ls for i in range(5)] == [0.1, 0.2, 0.3, 0.0, 0.1] and study.config(4).gamma == 1.0
    assert study.spec["threads"] == 1


def test_no_compile_reaches_the_trials_and_the_latest_command_decides(settings, tmp_path):
    for wanted in (False, True):
        study = begin_study(tmp_path / "s", made(settings, compile=wanted), [dict(seed=1)])
        assert study.config(0).compile is wanted and study.config(0).seed == 1


def test_another_base_halving_or_other_pictures_are_refused_by_name(settings, pictures, tmp_path):
    study = begun(settings, POINTS)
    before = (study.folder / "study.json").read_bytes()
    with pytest.raises(LongtailError, match=r"--lr 0.003, not 0.5: choose another --name"):
        begun(settings, POINTS, lr=0.5)
    with pytest.raises(LongtailError, match="--halving 0, not 3"):
        begun(settings, POINTS, halving=3)
    shutil.copytree(pictures, tmp_path / "other")
    shutil.copy(tmp_path / "other/train/red/0.png", tmp_path / "other/train/red/new.png")
    with pytest.raises(LongtailError, match="begun with other pictures"):
        begun(settings, POINTS, data=str(tmp_path / "other"))
    assert (study.folder / "study.json").read_bytes() == before


def test_a_study_whose_trials_were_shown_other_views_is_refused(settings):
    study = begun(settings, POINTS)
    spec = json.loads((study.folder / "study.json").read_text())
    assert spec.pop("format") == 3
    (study.folder / "study.json").write_text(json.dumps(spec))
    with pytest.raises(LongtailError, match="by an earlier version, .*: choose another --name, or remove it"):
        begun(settings, POINTS)


def test_a_study_whose_base_had_a_removed_setting_off_goes_on(settings):
    path = begun(settings, [{}]).folder / "study.json"
    spec = json.loads(path.read_text())
    spec["base"] |= REMOVED
    path.write_text(json.dumps(spec))
    study = begun(settings, [{}, dict(ls=0.3)])
    assert study.trials == [{}, dict(ls=0.3)] and not REMOVED.keys() & study.spec["base"].keys()


def test_pictures_that_moved_are_found_at_their_new_place(settings, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "here")
    begun(settings, [{}], data=str(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    study = begun(settings, [{}], data=str(tmp_path / "there"))
    assert len(study.trials) == 1 and study.config(0).data == str(tmp_path / "there")
    shutil.copytree(tmp_path / "there", tmp_path / "copy")
    study = begun(settings, [{}], data=str(tmp_path / "copy"))
    assert study.config(0).data == str(tmp_path / "there"), "it is still there"


def test_the_folder_of_a_run_is_refused(settings):
    train.train(made(settings, epochs=1, name="s"))
    before = files(Path(settings["project"]) / "s")
    with pytest.raises(LongtailError, match="s is a run's folder"):
        begun(settings, [{}])
    assert files(Path(settings["project"]) / "s") == before


@pytest.mark.parametrize(
    "more, said",
    [
        (dict(model="resnet19"), "resnet19"),
        (dict(data="/nowhere"), "/nowhere"),
        (dict(halving=3, val_split=0), "--halving ranks .* validation pictures"),
    ],
)
def test_what_cannot_run_leaves_no_folder(settings, tmp_path, more, said):
    with pytest.raises(LongtailError, match=said):
        begun(settings, [{}], **more)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"base": {}}', "null"])
def test_a_damaged_study_or_row_is_named(settings, text):
    study = begun(settings, [{}])
    (study.folder / "rows" / "0000-3.json").write_text("{")
    with pytest.raises(LongtailError, match="0000-3.json: damaged"):
        study.rows()
    (study.folder / "study.json").write_text(text)
    with pytest.raises(LongtailError, match="study.json: damaged"):
        Study(study.folder)
    with pytest.raises(LongtailError, match="study.json: damaged"):
        study.refresh()
    assert study.trials == [{}]
    with pytest.raises(LongtailError, match="no study there"):
        Study(study.folder.parent)


def damaged(good, *path, to):
    """A copy of nested `good` in which the value at `path` is `to`; without it where `to` is ..."""
    copy = json.loads(json.dumps(good))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return json.dumps(copy)


SPEC_DAMAGE = [
    *[(("base",), to) for to in (..., None, [], "x", {})],
    *[(("base", "data"), to) for to in (..., 3)],
    *[(("trials",), to) for to in (..., None, [], {}, "x", [1], [{}, None])],
    *[(("halving",), to) for to in (..., None, 1, -3, 2.5, "3", True)],
    *[(("metric",), to) for to in ("f1", None, 3, [])],
    *[(("threads",), to) for to in ("1", -1, 1.5, True)],
    *[(("way",), to) for to in ("bf16", {}, dict(amp=True, layout=[]), dict(amp=1, layout="contiguous"))],
    *[(("data_key",), to) for to in (..., 3)],
    *[(("base", "lr"), to) for to in ("fast", [], {}, None, -1, 1e400)],
    *[(("base", "lrr"), to) for to in (1,)],
    *[(("trials", 0), to) for to in ({"ls": 7}, {"lss": 1}, {"ls": [[]]}, {"data": 3})],
]
ROW = dict(trial=0, until=3, fold=0, seed=0, status="ok", reason="", epoch=3, seconds=1.0, train_loss=0.5)
ROW |= dict(macro_f1=0.5, acc=0.5, nll=1.0, ece=0.1, macro_f1_se=0.01, val_pictures=5)
ROW_DAMAGE = [
    *[((name,), to) for name in ("trial", "until", "status") for to in (..., None, "0", 7, [], True)],
    *[((name,), to) for name in ("fold", "seed") for to in (..., None, 1, "0")],
    *[((name,), to) for name in ("acc", "nll", "ece") for to in (..., "0.5", None, [])],
    *[((name,), to) for name in ("macro_f1_se", "val_pictures") for to in ("0.5", None, [])],
    *[(("macro_f1",), to) for to in ("0.5", None, 2, math.nan, math.inf, True)],
    (("reason",), 3),
]


def test_a_study_that_a_hand_edited_is_refused_by_name(settings):
    study = begun(settings, [{}, dict(ls=0.1)])
    path = study.folder / "study.json"
    good = json.loads(path.read_text())
    texts = [damaged(good, *where, to=to) for where, to in SPEC_DAMAGE]
    for text in [*texts, "[" * 10**5, "\0", "\ud800", "NaN", '{"base": 1e400}']:
        path.write_bytes(text.encode(errors="surrogatepass"))
        with pytest.raises(LongtailError, match="study.json") as refused:
            Study(study.folder)
        assert "\n" not in str(refused.value)
    path.write_text(json.dumps(good))
    assert len(Study(study.folder).trials) == 2


def test_a_row_that_a_hand_edited_is_refused_by_name(settings):
    study = begun(settings, [{}, dict(ls=0.1)])
    path = study.folder / "rows" / "0000-3.json"
    texts = [damaged(ROW, *where, to=to) for where, to in ROW_DAMAGE]
    for text in [*texts, "", "{", "[]", "null", "[" * 10**5, "\ud800"]:
        path.write_bytes(text.encode(errors="surrogatepass"))
        with pytest.raises(LongtailError, match="rows/0000-3.json: damaged .*; without it the trial runs again"):
            Study(study.folder).rows()
    path.write_text(json.dumps(ROW))
    assert Study(study.folder).rows() == {(0, 3): ROW}
    others = {"0-3": {}, "x": {}, "0000-2": dict(until=2), "0009-3": dict(trial=9), "0001-3": dict(trial=0)}
    for name, more in others.items():
        other = study.folder / "rows" / f"{name}.json"
        other.write_text(json.dumps(ROW | more))
        with pytest.raises(LongtailError, match=f"rows/{name}.json: damaged"):
            Study(study.folder).rows()
        other.unlink()


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", "null", '{"host": 3}', "[" * 10**5])
def test_a_lease_that_a_hand_edited_is_one_that_falls_silent(settings, text):
    study = begun(settings, [{}])
    path = study.folder / "leases" / "0000-3.1"
    (study.folder / "leases" / "0000-3.x").write_text(text)  # no lease at all
    for hours in (-1, 1):  # in the future too, where nobody can have touched it
        path.write_text(text)
        assert study.claim() is None and supervisor._trials_held_by(study, os.getpid()) == []
        os.utime(path, (time.time() + 3600 * hours,) * 2)
        lease = study.claim()
        assert lease.generation == 2
        lease.release()


def test_a_file_system_without_locks_is_named(settings, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    study = begun(settings, [{}])
    monkeypatch.setattr("files.fcntl.flock", no_locks)
    for act in (lambda: begun(settings, [{}]), study.claim, study.write_results):
        with pytest.raises(LongtailError, match=f"^{study.folder}.*: its file system has no locks"):
            act()


def test_results_say_every_setting_and_the_last_epochs_scores(settings):
    study = begun(settings, [dict(lr=1e-3), dict(lr=2e-3), dict(lr=1e-3, crop_scale=(0.5, 1.0))])
    work(study, shard=(0, 2))  # trials 0 and 2
    rows = table(study)
    header = (study.folder / "results.csv").read_text().splitlines()[0].split(",")
    assert header[:6] == ["trial", "status", "reason", "seconds", "lr", "crop_scale"]
    assert len(set(header)) == len(header)
    assert [(r["trial"], r["status"], r["lr"], r["crop_scale"]) for r in rows] == [
        ("0", "ok", "0.001", "1.0:1.0"),
        ("1", "to do", "0.002", "1.0:1.0"),
        ("2", "ok", "0.001", "0.5:1.0"),
    ]
    for i in (0, 2):
        last = {k: float(v) for k, v in results(study.run(i))[-1].items() if k != "lr"}  # the setting keeps its name
        assert {k: float(rows[i][k]) for k in last} == pytest.approx(last, nan_ok=True)
    assert rows[1]["macro_f1"] == "" and set(header) >= set(study.base.settings())


@pytest.mark.parametrize("monitor", ["nll", "macro_f1"])
def test_with_patience_a_row_is_of_the_epoch_that_was_kept(settings, monitor):
    """Scores, standard error and stored outputs are all of the best epoch, not of the last."""
    study = begun(settings, [{}], monitor=monitor, patience=2, epochs=40, lr=0.05)
    work(study)
    row, kept = study.latest()[0], load_checkpoint(study.run(0) / "best.pt")
    assert row["epoch"] == kept["epoch"] == len(results(study.run(0))) - 2 and row["until"] == 40
    assert {k: row[k] for k in kept["metrics"] if k != "lr"} == pytest.approx(
        {k: v for k, v in kept["metrics"].items() if k != "lr"}, nan_ok=True
    )
    _, targets, logits, classes = held_out.together(study, [0])
    assert row["macro_f1"] == metrics.macro_f1(targets, logits.argmax(1), len(classes))
    assert row["nll"] == pytest.approx(metrics.nll(logits, targets))
    assert study.scored_epoch() == f"best epoch by validation {monitor} (chosen on these pictures, so it flatters)"


# leases ---------------------------------------------------------------------------------------------------------------


def _contend(barrier, found, folder, jobs):
    study, held = Study(folder), []
    for i in range(jobs):
        barrier.wait()
        held.append(Lease.take(study, i, 3))
        found.put((i, held[-1] is not None))
    barrier.wait()


def test_of_many_takers_one_wins(settings):
    study, fork, takers = begun(settings, [dict(seed=i) for i in range(8)]), multiprocessing.get_context("fork"), 4
    barrier, found = fork.Barrier(takers), fork.Queue()
    children = [fork.Process(target=_contend, args=(barrier, found, study.folder, 8)) for _ in range(takers)]
    for child in children:
        child.start()
    won = [found.get(timeout=60) for _ in range(takers * 8)]
    for child in children:
        child.join()
    assert sorted(i for i, took in won if took) == list(range(8))
    assert not [p.name for p in (study.folder / "leases").iterdir() if p.name.startswith(".")], "drafts stay behind"


def test_a_dead_holder_on_this_machine_is_replaced_at_once(settings):
    study = begun(settings, [{}])
    pid = os.fork()
    if pid == 0:
        held = Lease.take(study, 0, 3)
        while held:
            time.sleep(1)
        os._exit(0)
    wait(lambda: [p.name for p in (study.folder / "leases").iterdir()] == ["0000-3.1"])  # and its draft is gone
    assert Lease.take(study, 0, 3) is None and study.claim() is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    lease = study.claim()
    assert (lease.i, lease.until, lease.generation) == (0, 3, 2)
    lease.release()
    assert not list((study.folder / "leases").iterdir())


@pytest.mark.parametrize("text", [json.dumps(dict(host="elsewhere", pid=1)), ""])  # "": its host crashed as it wrote
def test_a_holder_elsewhere_is_replaced_once_it_is_silent(settings, text):
    study = begun(settings, [{}])
    path = study.folder / "leases" / "0000-3.1"
    path.write_text(text)
    assert Lease.take(study, 0, 3) is None
    os.utime(path, (time.time() - Lease.TTL + 20,) * 2)
    assert Lease.take(study, 0, 3) is None
    os.utime(path, (time.time() - Lease.TTL - 20,) * 2)
    assert Lease.take(study, 0, 3).generation == 2


def test_a_touched_lease_is_kept_and_a_finished_trial_is_not_taken(settings):
    study = begun(settings, [{}])
    lease = Lease.take(study, 0, 3)
    os.utime(lease.path, (0, 0))
    lease.touch()
    assert Lease.take(study, 0, 3) is None
    study.publish(lease, dict(trial=0, until=3, status="ok"))
    lease.release()
    assert Lease.take(study, 0, 3) is None and not list((study.folder / "leases").iterdir())


def expired(lease):
    """The lease of who takes over from `lease`, whose holder fell silent."""
    os.utime(lease.path, (0, 0))
    return Lease.take(lease.study, lease.i, lease.until)


def test_who_lost_its_lease_writes_nothing_more(settings):
    """Taken over at the n-th write, for every n: the exception comes and the files stay."""
    study = begun(settings, [dict(epochs=1)])
    for n in range(1, 100):
        shutil.rmtree(study.run(0), ignore_errors=True)
        lease, calls, before = Lease.take(study, 0, 1), [], None

        def guard():
            nonlocal before
            calls.append(1)
            if len(calls) == n:
                assert expired(lease)
                before = files(study.run(0))
            lease.check()

        try:
            list(train.trial(made(settings, epochs=1, project=str(study.folder / "trials"), name="0000"), guard=guard))
            break
        except LeaseLost:
            assert len(calls) == n and files(study.run(0)) == before
        for path in (study.folder / "leases").iterdir():
            path.unlink()
    assert n == len(calls) + 1 > 10  # each of its writes was once the first that did not happen


@pytest.mark.parametrize("then", ["holds it", "gave it back", "gave it back and a third holds it"])
def test_a_lost_lease_stays_lost(settings, then):
    """Whoever comes later and however far: the first holder notices, and what it gives back is not the others'."""
    study = begun(settings, [{}])
    first = Lease.take(study, 0, 3)
    config = made(settings, project=str(study.folder / "trials"), name="0000", resume=True)
    trial = train.trial(config, guard=first.check)
    next(trial)
    second = expired(first)
    if then != "holds it":
        second.release()
    third = Lease.take(study, 0, 3) if "third" in then else None
    before = files(study.run(0))
    with pytest.raises(LeaseLost):
        next(trial)
    with pytest.raises(LeaseLost):
        study.publish(first, dict(trial=0, until=3, status="ok"))
    assert files(study.run(0)) == before and not study.rows() and not list((study.folder / "rows").iterdir())
    first.release()
    for holder in {"holds it": [second], "gave it back": []}.get(then, [third]):
        holder.check()


def test_a_row_is_published_once(settings):
    study = begun(settings, [{}])
    lease = Lease.take(study, 0, 3)
    row = dict(trial=0, until=3, fold=0, seed=0, status="ok", reason="", train_loss=0.5)
    study.publish(lease, row)
    with pytest.raises(LeaseLost):
        study.publish(lease, dict(trial=0, until=3, status="failed"))
    assert study.rows() == {(0, 3): row} == Study(study.folder).rows()
    assert [p.name for p in (study.folder / "rows").iterdir()] == ["0000-3.json"]


# trials in one worker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [1, 2, 3])
def test_trials_are_what_they_are_alone_however_packed(settings, alone, pack):
    study = begun(settings, POINTS, **RICH)
    work(study, pack)
    for i in range(len(POINTS)):
        assert_as_alone(study, i, alone)
    assert all(r["status"] == "ok" for r in table(study)) and not study.jobs()
    assert not [p for i in range(4) for p in study.run(i).glob("last.pt")]
    assert not list((study.folder / "leases").iterdir())


@pytest.mark.parametrize("pack", [1, 2])
def test_a_failing_trial_is_a_row_and_its_neighbours_do_not_notice(settings, alone, pack):
    study = begun(settings, [{}, WILD, dict(ls=0.2)], **RICH)
    work(study, pack)
    rows = table(study)
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert "is not finite at epoch" in rows[1]["reason"]
    assert_as_alone(study, 0, alone)
    assert_as_alone(study, 2, alone)
    assert not (study.run(1) / "last.pt").exists()

    other = Study(study.folder)  # another process that was told --retry-failed, a moment later
    assert other.latest()[1]["status"] == "failed"
    ok = files(study.folder / "rows")
    assert study.retry() == 1 and study.jobs() == [(1, 30)] and not study.run(1).exists()
    lease = study.claim()
    study.publish(lease, ROW | dict(trial=1, until=30))
    lease.release()
    assert other.retry() == 0 and not other.jobs()
    assert {k: v for k, v in files(study.folder / "rows").items() if k != "0001-30.json"} == {
        k: v for k, v in ok.items() if k != "0001-30.json"
    }


def test_shards_share_the_trials_out(settings):
    study = begun(settings, [dict(seed=i, epochs=1) for i in range(5)])
    work(study, shard=(1, 2))
    assert set(study.latest()) == {1, 3}
    work(study, shard=(0, 2))
    assert set(study.latest()) == {0, 1, 2, 3, 4}


def test_halving_resumes_at_rungs_that_are_barriers(settings, alone):
    """Four candidates, two seeds, rungs at 1, 2 and 4 of 4 epochs: who goes on follows from what trials are alone."""
    candidates = [dict(ls=0.2), {}, dict(lr=1e-2), dict(lr=1e-8)]
    trials = [dict(p, **({"seed": 1} if seed else {}), epochs=4) for seed in (0, 1) for p in candidates]
    study = begun(settings, trials, halving=2, **{**RICH, "epochs": 4})
    assert study.rungs(0) == [1, 2, 4] and study.jobs() == [(i, 1) for i in range(8)]
    wanted, alive = {}, list(range(4))
    for until in (1, 2, 4):
        for p in alive:
            for i in (p, p + 4):
                wanted[i, until] = float(results(alone(trials[i]))[until - 1]["macro_f1"])
        best = sorted(alive, key=lambda p: (-wanted[p, until] - wanted[p + 4, until], p))[: -(-len(alive) // 2)]
        alive = sorted({*best, 1})  # the base candidate, however it stands
    for _ in range(7):  # all but one of the first rung, and nobody may go on
        lease = study.claim()
        job = Job(study, lease, "cpu", 1, StopRequest())
        while not job.advance():
            pass
        lease.release()
    assert study.jobs() == [(7, 1)]
    assert study.over_now() == set(range(7))  # as far as is known
    work(study, pack=2)
    assert study.over_now() == set(range(8))
    assert {k: row["macro_f1"] for k, row in study.rows().items()} == wanted
    counts = {until: sum(u == until for _, u in wanted) for until in (1, 2, 4)}
    assert counts[1] == 8 and counts[2] in (4, 6) and counts[4] in (2, 4)
    for i in (i for i, until in wanted if until == 4):
        assert_as_alone(study, i, alone)
        assert [r["epoch"] for r in results(study.run(i))] == list("1234")
        log = (study.run(i) / "train.log").read_text()
        assert [log.count(f"epoch   {e}/4") for e in range(1, 5)] == [1, 1, 1, 1] and log.count("resuming") == 2
    out = next(i for i in range(8) if (i, 2) not in wanted)
    assert (study.run(out) / "last.pt").exists(), "a larger study may want it again"


# processes ------------------------------------------------------------------------------------------------------------

SUPERVISE = """
import sys
from engine.stop import StopRequest
from study import supervisor, table as study
from study.pace import Shape
s = study.Study(sys.argv[1])
stop = StopRequest().listen()
n = int(sys.argv[2])
shape = Shape(n, 1, 1)
supervisor.fill(s, shape=shape, device="cpu", shard=(0, 1), devices=[], stop=stop, seen=lambda row: None)
s.write_results()
"""
SIX = [{"seed": i, "epochs": 2, **(WILD if i == 2 else {})} for i in range(6)]


def supervise(study, n):
    command = [sys.executable, "-c", SUPERVISE, str(study.folder), str(n)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def fill(study, n, pack=1, seen=lambda row: None):
    shape = Shape(n, 1, pack)
    supervisor.fill(study, shape=shape, device="cpu", shard=(0, 1), devices=[], stop=StopRequest(), seen=seen)


def holders(study):
    """{path of a lease: pid of its holder}."""
    found = {}
    for path in (study.folder / "leases").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            found[path] = json.loads(path.read_text())["pid"]
    return found


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def six(pictures, tmp_path_factory):
    """The table of SIX, filled by one worker that nobody disturbed."""
    study = begun(dict(PLAIN, data=str(pictures), project=str(tmp_path_factory.mktemp("six"))), SIX)
    work(study)
    return [{**row, "reason": row["reason"].partition(": ")[2]} for row in table(study)]


def assert_undisturbed(study, six):
    """Equal tables; a reason begins with the path of its run, which is another here."""
    rows = table(study)
    assert [{**row, "reason": row["reason"].partition(": ")[2]} for row in rows] == six
    assert rows[2]["reason"].startswith(str(study.run(2))) and len(list((study.folder / "rows").iterdir())) == 6


def test_two_supervisors_share_a_study_and_a_kill_hurts_neither_it_nor_the_other(settings, six):
    """kill -9 of one: its orphan saves and ends by itself, the other supervisor goes on; every trial ends once."""
    study = begun(settings, SIX)
    both = [supervise(study, 1) for _ in range(2)]
    try:
        wait(lambda: len(set(holders(study).values())) == 2)
        victim, orphan = next(
            (s, pid)
            for s in both
            for pid in holders(study).values()
            if str(pid) in Path(f"/proc/{s.pid}/task/{s.pid}/children").read_text().split()
        )
        victim.kill()
        wait(lambda: not running(orphan))
        assert both[both[0] is victim].wait(600) == 0
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert_undisturbed(study, six)
    ends = [(study.run(i) / "train.log").read_text().count("last epoch: macro F1") for i in range(6)]
    assert ends == [1, 1, 0, 1, 1, 1] and not list((study.folder / "leases").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_stopped_and_grown_a_study_ends_alike(settings, six, monkeypatch):
    """One worker is stopped for longer than its lease lasts, the other killed, and trials come in meanwhile."""
    monkeypatch.setattr(Lease, "TTL", 1.0)  # of the supervisor alone: how long it waits for the stopped worker
    study, rows, stopped = begun(settings, SIX[:5]), [], []

    def stop():
        path, pid = wait(lambda: list(holders(study).items()))[0]
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        os.utime(path, (0, 0))

    def seen(row):
        rows.append(row["trial"])
        assert study.config(row["trial"])
        if len(rows) == 1:
            begin_study(study.folder, made(settings, monitor="last"), SIX)
        if len(rows) == 2:
            os.kill(wait(lambda: [pid for pid in holders(study).values() if pid not in stopped])[0], signal.SIGKILL)

    thread = threading.Thread(target=stop)
    thread.start()
    fill(study, 2, seen=seen)
    thread.join()
    assert sorted(rows) == [0, 1, 2, 3, 4, 5] and not running(stopped[0])
    assert_undisturbed(study, six)


def start_instead(monkeypatch, script):
    """Has `script` started where a worker would be."""
    monkeypatch.setattr(supervisor, "child_command", lambda module, *a: [sys.executable, str(script), *map(str, a)])


@pytest.mark.parametrize("pack", [1, 3])
def test_a_trial_that_kills_its_workers_becomes_a_row(settings, tmp_path, monkeypatch, pack):
    """Those that share a worker with it end well: its death is no fault of theirs, and each goes on alone."""
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import os, train\nfrom study import workers\n"
        "plain = train.trial\n"
        "train.trial = lambda c, *a: os.kill(os.getpid(), 9) if c.name == '0001' else plain(c, *a)\n"
        "sys.exit(workers.main())\n"
    )
    start_instead(monkeypatch, wrapper)
    monkeypatch.setattr(supervisor, "DEATHS", 2)
    study = begun(settings, [dict(seed=i, epochs=1) for i in range(3)])
    fill(study, 1, pack)
    rows = table(study)
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert "its worker died 2 times (SIGKILL)" in rows[1]["reason"] and not list((study.folder / "leases").iterdir())


def test_devices_are_those_of_the_devices_that_are_shown(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert supervisor._visible(1) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert [supervisor._visible(number) for number in (0, 1)] == ["3", "GPU-5"]
    with pytest.raises(ConfigError, match="--devices 2: CUDA_VISIBLE_DEVICES=3,GPU-5 shows 2 devices"):
        supervisor._visible(2)


def test_a_study_keeps_its_way_for_devices_of_the_kind_that_it_began_on(settings, monkeypatch):
    study = begun(settings, [{}])
    way = dict(amp=True, layout="channels_last", products=0)
    for threads, of_cpu, of_cuda in ((1, way, None), (0, None, way)):
        write_spec(study.folder / "study.json", dict(study.spec, threads=threads, way=way))
        study.refresh()
        assert kept_way(study, "cpu") == of_cpu
        with monkeypatch.context() as patched:
            patched.setattr("study.pace.pick_device", torch.device)
            assert kept_way(study, "cuda") == of_cuda


def test_the_best_so_far_counts_rows_of_before():
    best = Best("nll")
    for trial, nll, status in ((0, 2.0, "ok"), (1, 1.0, "failed"), (2, 1.5, "ok"), (3, 1.7, "ok")):
        best.see(dict(trial=trial, nll=nll, status=status))
    assert best.said == "best so far 1.5000, trial 2"


def test_workers_that_cannot_start_end_the_study_with_the_reason(settings, monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    start_instead(monkeypatch, tmp_path / "broken.py")
    with pytest.raises(LongtailError, match="workers.log says why"):
        fill(begun(settings, [{}]), 1)


def test_the_whole_chain_by_its_commands(settings, tmp_path, pictures):
    """sweep.py is stopped as it times, then as it trains, and ends with an undisturbed one's table; seeds.py takes its
    winner."""
    place = tmp_path / "runs of $HOME [1] ü"
    settings = dict(settings, project=str(place), epochs=2, flip=None)
    words = [x for k, v in settings.items() for x in ([flag_of(k), spelled(v)] if v is not None else [])]
    line = [sys.executable, str(ROOT / "sweep.py"), *words, "--grid", "ls=0,0.1", "--seeds", "3", "--pack", "1"]
    folder = place / "sweep"

    def command():
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process = command()
    wait(lambda: (folder / "results.csv").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 130 and process.communicate() == ("", "")
    process = command()
    wait(lambda: any((folder / "rows").glob("[0-9]*.json")))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 143 and not out
    assert "sweep.py: stopped by SIGTERM; state saved; the same command continues" in err
    finished = files(folder / "rows")
    assert 0 < len(finished) < 6
    process = command()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    following = next(said for said in err.splitlines() if said.startswith("Next: "))
    assert "winner: ls" in out and shlex.split(following)[1:] == [
        *["python", "seeds.py", "-c", f"{folder}/best.json", "--device", "cpu", "--project", str(place), "--n", "10"]
    ]
    assert f"6 trials, {len(finished)} done" in err
    assert finished.items() <= files(folder / "rows").items()
    six = [dict(ls=v, seed=s) for s in range(3) for v in (0.0, 0.1)]
    calm = begun(dict(settings, flip=True, project=str(tmp_path / "calm")), six)
    work(calm)
    assert table(calm) == table(Study(folder))

    # The recipe repeats its trial bit for bit.
    best = read_recipe(folder / "best.json")
    configs = [Study(folder).config(i) for i in range(6)]
    won = next(i for i, config in enumerate(configs) if (config.ls, config.seed) == (best.ls, 0))
    assert train.main(["-c", str(folder / "best.json"), "--project", str(place), "--name", "again"]) == 0
    assert best.threads == 1
    assert_same_state(place / "again" / "best.pt", Study(folder).run(won) / "best.pt")

    line = [
        sys.executable,
        str(ROOT / "seeds.py"),
        "--project",
        str(place),
        "--name",
        "n",
        "--n",
        "2",
        "--pack",
        "1",
        "--device",
        "cpu",
        "--compare",
        str(folder / "trials" / "0000"),
    ]
    process = command()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert Study(place / "n").spec["threads"] == 1  # from best.json
    final, answer = (shlex.split(words) for words in err.split("Next: ")[1].split(", then "))
    assert final[:6] == ["python", "sweep.py", "-c", f"{folder}/best.json", "--project", str(place)]
    assert final[6:] == ["--device", "cpu", "--name", "final", "--folds", "0", "--val-split", "0", "--seeds", "5"]
    assert answer == ["python", "predict.py", "--project", str(place), "--device", "cpu", ">", "submission.csv"]
    assert f"settings: {folder}/best.json" in err and "no p: an exact sign-flip test takes 6 to 20 pairs, not 2" in out
    assert ", 2 seeds, 5 validation pictures, last epoch:" in out
    with open(place / "n" / "seeds.csv", newline="", encoding="utf-8") as f:
        said = list(csv.DictReader(f))
    ls = read_recipe(folder / "best.json").ls
    again = {(float(r["ls"]), r["seed"]): r["macro_f1"] for r in table(calm)}
    assert [(r["seed"], r["macro_f1"]) for r in said] == [(s, again[v, s]) for v in (ls, 0.0) for s in "01"]
    assert {p.name for p in (place / "n").iterdir()} >= {"summary.json", "per_class.csv", "results.csv"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trials_in_turns_on_a_gpu_are_those_they_would_be_alone(settings):
    """One of them diverges, and its neighbours do not notice."""
    tables = []
    for pack in (1, 3):
        study = begun(settings, [*POINTS, WILD], name=f"pack {pack}", deterministic=True)
        workers.work(study.folder, "cuda", 0, pack, (0, 1), os.getppid(), StopRequest())
        tables.append(table(study))
        assert [row["status"] for row in study.latest().values()].count("failed") == 1
    assert tables[0] == tables[1]
