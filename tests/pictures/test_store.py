"""The Store against decode; its cache against changed files, races, full disks and failing machines."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from errors import LongtailError
from pictures import children, decode, pool, store
from samples import small_pictures


@pytest.fixture
def files(tmp_path):
    """Few enough to be decoded in this process."""
    return small_pictures(tmp_path / "pictures", 40)


@pytest.fixture
def many(tmp_path):
    """Enough for two worker processes."""
    return small_pictures(tmp_path / "many", 80)


@pytest.fixture
def later(monkeypatch):
    """A clock far enough past the files' last change that the index trusts their stats."""
    clock = time.time_ns
    monkeypatch.setattr(store.time, "time_ns", lambda: clock() + 60 * 10**9)


def forbid(*_, **__):
    raise AssertionError("done again")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_store_holds_what_decode_says(many, workers, tmp_path):
    found = store.load_store(many, 8, "crop", cache=tmp_path / "cache", workers=workers)
    expected = np.stack(
        [store.decode(path, 8, "crop") if row != 7 else np.zeros((8, 8, 3), np.uint8) for row, path in enumerate(many)]
    )
    assert found.bad == {7: "not a picture"}
    assert np.array_equal(found.pixels, expected) and found.pixels.dtype == np.uint8
    assert isinstance(found.pixels, np.memmap)
    assert found.means.dtype == np.float32 and np.allclose(found.means, (expected / 255).mean((1, 2)), atol=1e-7)
    assert np.allclose(found.squares, ((expected / 255) ** 2).mean((1, 2)), rtol=1e-14)
    found.pixels[:] = 1  # in this process alone
    assert np.array_equal(store.load_store(many, 8, "crop", cache=tmp_path / "cache").pixels, expected)
    assert not list((tmp_path / "cache").glob("*.tmp-*"))


def test_an_empty_list_is_an_empty_store(tmp_path):
    found = store.load_store([], 8)
    assert found.pixels.shape == (0, 8, 8, 3) and found.means.shape == (0, 3) and found.bad == {}


def test_a_known_store_is_mapped_without_reading_a_picture(files, later, monkeypatch):
    first = store.load_store(files, 8)
    for name in ("_build", "_digest"):
        monkeypatch.setattr(store, name, forbid)
    again = store.load_store(files, 8)
    assert again.key == first.key and again.bad == first.bad and np.array_equal(again.pixels, first.pixels)
    with pytest.raises(AssertionError):
        store.load_store(files, 9)


def test_fresh_files_are_read_again_rather_than_trusted(files, monkeypatch):
    store.load_store(files, 8)
    monkeypatch.setattr(store, "_digest", forbid)
    with pytest.raises(AssertionError):
        store.load_store(files, 8)


def test_the_key_is_content_order_size_and_mode(files, later, tmp_path):
    key = store.load_store(files, 8).key
    assert store.load_store(files, 9).key != key
    assert store.load_store(files, 8, "pad").key != key
    assert store.load_store(files[::-1], 8).key != key
    assert store.load_store(files[:-1], 8).key != key
    moved = files[0].parent.rename(tmp_path / "moved")
    assert store.load_store([moved / path.name for path in files], 8).key == key


def test_a_changed_file_is_noticed_even_with_its_old_size_and_time(files, later):
    before = store.load_store(files, 8)
    status, data = files[3].stat(), bytearray(files[3].read_bytes())
    other = files[4].read_bytes()
    files[3].write_bytes((other + bytes(9999))[: len(data)] if len(other) <= len(data) else bytes(len(data)))
    os.utime(files[3], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (files[3].stat().st_size, files[3].stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = store.load_store(files, 8)
    assert after.key != before.key and not np.array_equal(after.pixels[3], before.pixels[3])
    files[7].unlink()
    assert store.load_store(files, 8).bad[7] == "no such file"


def test_a_damaged_cache_is_made_anew(files, later):
    first = store.load_store(files, 8)
    folder = store.cache_dir() / first.key
    expected = np.array(first.pixels)
    for harm in (
        lambda: os.truncate(folder / "pixels.npy", 300),
        lambda: (folder / "meta.json").unlink(),
        lambda: (folder / "moments.npy").write_bytes(b""),
    ):
        harm()
        assert np.array_equal(store.load_store(files, 8).pixels, expected)


def test_a_lost_race_uses_the_winners_store(files, monkeypatch):
    """Without working locks two processes decode; the later rename finds the folder taken."""
    rename = os.rename

    def late(draft, folder):
        other = folder.with_name("winner")
        store.shutil.copytree(draft, other)
        rename(other, folder)
        rename(draft, folder)

    monkeypatch.setattr(store.os, "rename", late)
    found = store.load_store(files, 8)
    assert np.array_equal(found.pixels[0], store.decode(files[0], 8))
    assert not list(store.cache_dir().glob("*.tmp-*"))


def test_a_file_system_without_locks_still_serves(files, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(store.fcntl, "flock", no_locks)
    other = store.cache_dir() / "0123.tmp-4567"  # perhaps alive: nobody can tell
    other.mkdir(parents=True)
    assert store.load_store(files, 8).bad == {7: "not a picture"} and other.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are no Unicode")
def test_names_that_are_no_unicode_reach_the_workers(many):
    name = Path(os.fsdecode(os.fsencode(many[0].parent) + b"/\xff\xfe.png"))
    many[0].rename(name)
    found = store.load_store([name, *many[1:]], 8, workers=2)
    assert list(found.bad) == [7] and np.array_equal(found.pixels[0], store.decode(name, 8))


@pytest.mark.parametrize("breaks", ["disk_usage", "posix_fallocate", "pwrite", "short"])
def test_a_full_disk_is_one_line_and_leaves_nothing(breaks, files, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if breaks == "disk_usage":
        monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 40 * 192 - 1}))
    else:
        name, fault = ("pwrite", lambda *_: 5) if breaks == "short" else (breaks, full)
        monkeypatch.setattr(store.os, name, fault)
    said = r"no room: 0.01 MiB are needed, [\d,]+\.\d\d MiB are free"
    with pytest.raises(LongtailError, match=said) as caught:
        store.load_store(files, 8, cache=tmp_path / "cache", workers=1)
    assert "\n" not in str(caught.value) and "LONGTAIL_CACHE" in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written_is_one_line(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LongtailError, match="LONGTAIL_CACHE"):
        store.load_store(files, 8, cache=tmp_path / "file")


def test_a_failing_machine_is_no_bad_picture(files, monkeypatch, tmp_path):
    """A read error may be gone tomorrow; as a bad picture it would stay in the cache."""

    def broken(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(decode.Image, "open", broken)
    with pytest.raises(LongtailError, match="Input/output error"):
        store.load_store(files, 8, cache=tmp_path / "cache", workers=1)
    assert not list((tmp_path / "cache").glob("*/meta.json"))


def test_files_that_change_while_decoded_are_refused(files, monkeypatch):
    decode_into = store.decode_into

    def touching(file, start, row, path, *args):
        if row == 30:
            os.utime(files[20])
        return decode_into(file, start, row, path, *args)

    monkeypatch.setattr(pool, "decode_into", touching)
    with pytest.raises(LongtailError, match="20.png changed while"):
        store.load_store(files, 8, workers=1)


def test_a_worker_that_dies_names_the_file_and_ends_the_others(many, monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    def doomed(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        if len(started) == 2:
            started[1].kill()
            started[1].wait()
        return started[-1]

    monkeypatch.setattr(children.subprocess, "Popen", doomed)
    with pytest.raises(LongtailError, match=r"died \(exit status -9\) on .*/\d\d\.png"):
        store.load_store(many, 8, cache=tmp_path / "cache", workers=3)
    assert len(started) == 2 and all(child.poll() is not None for child in started)
    assert not list((tmp_path / "cache").glob("*.tmp-*"))


def test_the_store_needs_no_torch():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); import data; from pictures import store;"
            "print([n for n in ('torch', 'matplotlib', 'tqdm') if n in sys.modules])",
            str(ROOT),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert store.cache_dir() == Path("/a")
    monkeypatch.delenv("LONGTAIL_CACHE")
    assert store.cache_dir() == Path("/b/longtail")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.cache_dir() == Path.home() / ".cache" / "longtail"


def test_without_a_home_the_cache_asks_for_a_folder(monkeypatch, files):
    """As for a user id of a container that no password file knows."""

    def unknown(number):
        raise KeyError(number)

    for name in ("LONGTAIL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(LongtailError, match=r"no home folder .*LONGTAIL_CACHE"):
        store.load_store(files, 8)
