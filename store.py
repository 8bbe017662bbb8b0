"""Every picture decoded once: files -> one memory-mapped uint8 array, cached under the content of the files.

`load` gives the same Store to every process that asks, however many start at once; it decodes in plain worker
processes that write straight into the file, so memory does not grow with the data. Pixels are sRGB bytes as the file
has them: embedded colour profiles are not applied. Never imports torch, never knows a class or a split, never
enlarges what a caller asked for and never replaces a bad picture: its row is zero and `bad` says why.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import queue
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

RECIPE = 1  # raise it whenever decode() would give other pixels: old caches then stay unread
RESIZE = ("squash", "crop", "pad")
MAX_PIXELS = 89_478_485  # Pillow's own line between a photograph and a decompression bomb
# Only formats that begin with a signature and decode inside Pillow's process: EPS would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
CHUNK = 32  # pictures handed to a worker at a time
# Failures of the machine, not of the picture: caching them as a bad picture would outlive them.
MACHINE = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT)


class PictureError(ValueError):
    """One picture cannot be used; the message is the reason alone, without the file's name."""


class StoreError(RuntimeError):
    """The cache cannot be built: a full disk, a dead worker, files that change underneath."""


@dataclass(frozen=True)
class Store:
    """Decoded pictures in the order asked for; rows in `bad` are zero in every array."""
    pixels: np.ndarray  # uint8 [N, S, S, 3], a read-only memory map
    means: np.ndarray  # float32 [N, 3], mean of each picture, RGB in [0, 1]
    key: str  # hex digest of recipe, contents, order, S and resize mode
    bad: dict[int, str]  # row -> reason
    squares: np.ndarray  # float64 [N, 3], mean square of each picture, RGB in [0, 1]


def cache_dir() -> Path:
    """$LONGTAIL_CACHE, else $XDG_CACHE_HOME/longtail, else ~/.cache/longtail."""
    if os.environ.get("LONGTAIL_CACHE"):
        return Path(os.environ["LONGTAIL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longtail"


def load(files: list[Path], size: int, resize: str = "squash", cache: Path | None = None,
         workers: int | None = None) -> Store:
    """The Store of `files` at S = `size`: decoded now, or mapped from the cache when their bytes are known.

    `workers`: processes that decode; None is one for each CPU this process may use.
    Raises StoreError for a machine's failure; a bad picture is no failure but an entry of `bad`.
    """
    if resize not in RESIZE:
        raise ValueError(f"resize {resize!r} is none of {', '.join(RESIZE)}")
    cache = Path(cache or cache_dir())
    workers = workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        before = _stats(files)
        contents = _contents(files, before, cache, workers)
        key = hashlib.sha256(f"{RECIPE} {size} {resize} {contents}".encode()).hexdigest()[:32]
        folder = cache / key
        store = _open(folder)
        if store is None:
            with _locked(cache / f"{key}.lock"):
                store = _open(folder)
                if store is None:
                    _build(folder, files, before, size, resize, workers)
                    store = _open(folder)
    except OSError as error:
        raise StoreError(f"cannot use the cache folder {cache}: {error}; $LONGTAIL_CACHE chooses another") from error
    return store


def decode(path: Path, size: int, resize: str = "squash") -> np.ndarray:
    """One picture as uint8 [S, S, 3]; PictureError says what is wrong with it.

    Upright by its EXIF orientation, first frame, transparency over white, 16-bit grey by its high byte; then Pillow's
    antialiased bilinear filter, as torchvision's Resize: `squash` both sides to S, `crop` the central square to S,
    `pad` the long side to S and the rest black.
    """
    with _opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # JPEG only: the inverse DCT itself halves, never below twice S
        return np.asarray(_resized(_rgb(image), size, resize))


def dimensions(files: list[Path]) -> list[tuple[int, int] | None]:
    """(width, height) of each upright picture by its header alone; None where the header is bad."""
    found = []
    for path in files:
        try:
            with _opened(path) as image:
                swap = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turns TIFF headers itself
                found.append((image.height, image.width) if swap else image.size)
        except PictureError:
            found.append(None)
    return found


@contextlib.contextmanager
def _opened(path: Path):
    """A Pillow image whose header is sane; whatever goes wrong inside becomes a PictureError."""
    try:
        mode = os.stat(path).st_mode  # before opening: open() on a FIFO never returns
        if not stat.S_ISREG(mode):
            raise PictureError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised; the rest is chatter about metadata
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(f"{image.width}x{image.height} is over {MAX_PIXELS:,} pixels: shrink it")
                yield image
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("a dangling link" if os.path.islink(path) else "no such file") from None
    except UnidentifiedImageError:
        raise PictureError("not a picture" if os.path.getsize(path) else "an empty file") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError(" ".join(reason.split()) or type(error).__name__) from None


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(0x0112, 1)


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    turn = TURNS.get(_orientation(image))  # after load(): Pillow turns TIFF itself and then says 1
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError("integer pixels beyond 16 bits have no known white")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise PictureError("floating-point pixels have no known white")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image.transpose(turn) if turn is not None else image


def _resized(image: Image.Image, size: int, resize: str) -> Image.Image:
    width, height = image.size
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    scale = size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", (size, size))
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


def _stats(files: list[Path]) -> list[tuple | None]:
    """What changes when a file does. ctime too: a copy may restore size and mtime."""
    found = []
    for path in files:
        try:
            s = os.stat(path)
            found.append((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_mode))
        except OSError:
            found.append(None)
    return found


def _contents(files: list[Path], stats: list[tuple | None], cache: Path, workers: int) -> str:
    """Digest of all bytes in order; by way of an index of stats, so that unchanged files are not read again."""
    started = time.time_ns()
    digest = hashlib.sha256()
    for path, state in zip(files, stats):
        digest.update(f"{os.fspath(path)}\0{state}\n".encode(errors="surrogateescape"))
    entry = cache / "index" / digest.hexdigest()
    try:
        return entry.read_text()
    except FileNotFoundError:
        pass
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(_digests, (files[i:i + 256] for i in range(0, len(files), 256))))
    contents = hashlib.sha256(b"".join(parts)).hexdigest()
    # A file written within the clock's grain of its hashing could change again and keep its stats: not indexed yet.
    if all(state is None or state[3] < started - 2_000_000_000 for state in stats):
        entry.parent.mkdir(exist_ok=True)
        temporary = entry.with_name(f"{entry.name}.{uuid.uuid4().hex}")
        temporary.write_text(contents)
        os.replace(temporary, entry)
    return contents


def _digests(files: list[Path]) -> bytes:
    found = []
    for path in files:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise PictureError
            with open(path, "rb") as file:
                found.append(hashlib.file_digest(file, "sha256").digest())
        except (OSError, PictureError) as error:
            if getattr(error, "errno", None) in MACHINE:
                raise
            found.append(b"unreadable".ljust(32))
    return b"".join(found)


def _open(folder: Path) -> Store | None:
    """The Store in `folder`, or None where there is none, or one whose files were cut or removed by hand."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        return Store(pixels, np.load(folder / "means.npy"), folder.name,
                     {int(row): reason for row, reason in meta["bad"].items()}, np.load(folder / "squares.npy"))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def _locked(path: Path):
    """One process at a time, until it ends or dies; where the file system cannot lock, the rename alone decides."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another process that decodes the same pictures", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def _sweep(cache: Path, own: str) -> None:
    """Remove what dead processes left half built: a folder whose lock is free (our own key's lock we hold)."""
    for temporary in cache.glob("*.tmp-*"):
        key = temporary.name.partition(".")[0]
        with open(cache / f"{key}.lock", "w") as file:
            try:
                if key != own:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(temporary, ignore_errors=True)
            except OSError:
                continue  # alive, or a file system without locks


def _build(folder: Path, files: list[Path], before: list, size: int, resize: str, workers: int) -> None:
    """Decode into a folder beside `folder` and rename it; whoever renames first is kept."""
    _sweep(folder.parent, folder.name)
    temporary = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    stride = size * size * 3
    try:
        if shutil.disk_usage(folder.parent).free < len(files) * stride:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        with open(temporary / "pixels.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)})
            file.flush()
            start = file.tell()
            # Claim the space at once: better no room now than none half way.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, start + len(files) * stride)
            else:
                os.truncate(file.fileno(), start + len(files) * stride)
        means, squares, bad = _decode_all(temporary / "pixels.npy", start, files, size, resize, workers)
        changed = [path for path, a, b in zip(files, before, _stats(files)) if a != b]
        if changed:
            raise StoreError(f"{changed[0]} and {len(changed) - 1} more files changed while being decoded: "
                             "run again when they are at rest")
        np.save(temporary / "means.npy", means)
        np.save(temporary / "squares.npy", squares)
        (temporary / "meta.json").write_text(json.dumps(
            {"recipe": RECIPE, "size": size, "resize": resize, "pictures": len(files), "bad": bad}))
        if folder.exists():  # only ever a damaged one: _open() refused it
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return  # another process published the same Store first
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no room in {folder.parent} for {len(files) * stride / 2**30:.2f} GiB of decoded "
                             "pictures: free some, or choose another folder by $LONGTAIL_CACHE") from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode_all(pixels: Path, start: int, files: list[Path], size: int, resize: str, workers: int):
    """Fill the pixel file; (means float32 [N, 3], squares float64 [N, 3], bad)."""
    from tqdm import tqdm

    moments = np.zeros((len(files), 2, 3))
    bad: dict[int, str] = {}
    bar = tqdm(total=len(files), desc="decoding", unit="picture", disable=None, leave=False)

    def done(row: int, result: list | str) -> None:
        if isinstance(result, str):
            bad[row] = result
        else:
            moments[row] = result
        bar.update()

    workers = min(workers, -(-len(files) // CHUNK))
    with bar:
        if workers <= 1:
            with open(pixels, "r+b") as file:
                for row, path in enumerate(files):
                    done(row, _store_one(file.fileno(), start, row, path, size, resize))
        else:
            _in_processes(pixels, start, files, size, resize, workers, done)
    return moments[:, 0].astype(np.float32), moments[:, 1], dict(sorted(bad.items()))


def _store_one(file: int, start: int, row: int, path: Path | str, size: int, resize: str) -> list | str:
    """Decode one picture into its place; its [mean, mean square] by channel, or the reason why not."""
    try:
        picture = decode(path, size, resize)
    except PictureError as error:
        return str(error)
    # pwrite and not a writable map: a full disk is then an exception, not a SIGBUS.
    if os.pwrite(file, picture, start + row * picture.size) != picture.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    flat = picture.reshape(size, -1).astype(np.uint32)
    sums = [x.sum(0, dtype=np.uint64).reshape(size, 3).sum(0) for x in (flat, flat * flat)]
    return [(sums[0] / (255 * size * size)).tolist(), (sums[1] / (255**2 * size * size)).tolist()]


def _in_processes(pixels: Path, start: int, files: list[Path], size: int, resize: str, workers: int, done) -> None:
    """Plain `python store.py` children, one thread of ours feeding each: no fork of a process full of torch's
    threads, no second import of the caller's script, and a child ends by itself when its parent dies."""
    chunks: queue.SimpleQueue = queue.SimpleQueue()
    for first in range(0, len(files), CHUNK):
        chunks.put(range(first, min(first + CHUNK, len(files))))
    children = []

    def feed(_: int) -> None:
        child = subprocess.Popen([sys.executable, __file__, pixels, str(start), str(size), resize],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        with child:
            while True:
                try:
                    rows = chunks.get_nowait()
                except queue.Empty:
                    return
                work = json.dumps([[row, os.fspath(files[row])] for row in rows])
                with contextlib.suppress(BrokenPipeError):
                    print(work, file=child.stdin, flush=True)
                for row in rows:
                    line = child.stdout.readline()
                    if not line:
                        raise StoreError(f"a decoding process died (exit status {child.wait()}) on {files[row]}: "
                                         "remove that file, or see whether memory ran out")
                    result = json.loads(line)
                    if isinstance(result, dict):
                        raise OSError(result["errno"], result["error"], os.fspath(files[row]))
                    done(row, result)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for _ in pool.map(feed, range(workers)):
                pass
        except BaseException:
            with contextlib.suppress(queue.Empty):
                while True:
                    chunks.get_nowait()
            for child in children:
                child.kill()
            raise


def _child(pixels: str, start: str, size: str, resize: str) -> None:
    """A worker: lines of [row, path] in, a line for each picture out, until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    with open(pixels, "r+b") as file:
        for line in sys.stdin:
            for row, path in json.loads(line):
                try:
                    result = _store_one(file.fileno(), int(start), row, path, int(size), resize)
                except OSError as error:
                    result = {"errno": error.errno, "error": error.strerror}
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _child(*sys.argv[1:])
