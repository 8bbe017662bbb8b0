"""The input kernel against NumPy in float64, against its twin, and what it builds into; what it must not read.

`sampled` (test_augment.py) is the float64 view. Coordinates are float32 in the kernel: PIXEL, as for the twin. The
interpreter cuts float32 to bfloat16 off instead of rounding it: one ulp there.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import augment
import kernels
from config import Config
from conftest import GPU, INTERPRETED, kernel_builds, on_device, pass_under_the_interpreter
from mixup import Mixing
from plan import Course, Material, draw_plan, evaluation_plans
from test_augment import EYE, PIXEL, noise, sampled
from test_augment import row as plan_row

pytest.importorskip("triton")

from kernels import view as kernel

pytestmark = pytest.mark.usefixtures("rounds_as_a_gpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
COLUMNS = ("index", "partner", "blend", "box", "geo", "geo_b", "col", "col_b", "erase")


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """2048 pixels a tile, one tile a program: the interpreter's time goes by tiles."""
    if INTERPRETED:
        monkeypatch.setattr(kernel, "BLOCK", 2048)
        monkeypatch.setattr(kernel, "TILES", 1)


def row(n, size, blend=None, **columns):
    """test_augment.row with a weight of its own for the pixels; without it, they weigh what the targets do."""
    made = plan_row(n, size, **columns)
    made.blend = made.lam.clone() if blend is None else blend
    return made


def arguments(device, pixels, columns, size, border="reflect", dtype=torch.float32, channels=3, mean=MEAN, std=STD):
    moments = (torch.tensor(v, device=device) for v in (mean, std))
    there = (getattr(columns, k).to(device) for k in COLUMNS)
    return pixels.to(device), *there, *moments, size, border, dtype, channels


def shown(*args, **options):
    return kernel.view(*arguments(*args, **options)).cpu()


def step_of(plan, t):
    """Step t of a plan, as tensors."""
    tables = {name: torch.from_numpy(np.ascontiguousarray(getattr(plan, name)[t])) for name in (*COLUMNS, "lam")}
    return SimpleNamespace(**tables)


def four(pixels):
    """4-byte pixels whose last byte is no colour."""
    return torch.cat([pixels, torch.full_like(pixels[..., :1], 171)], -1)


def mixed(n, side, size, border, seed=0):
    """Rows with every kind of mixing, box and erasing, seen from any angle, some far over the edge."""
    rng = np.random.default_rng(seed)

    def geometry(k):
        pad = 4 if border == "constant" else 0
        views = augment.Views(
            (0.3, 1.0), pad, flip=True, rotate=45.0, jitter=0.0, erase=0.0, tail_crops=(0, 1), one_op=False
        )
        frame = augment.Frame(size, side, size)
        low, turn = np.full(n, 0.3), np.full(n, 45.0)
        geo = augment.draw_geometry(np.random.default_rng(seed + k), frame, views, low, turn)
        geo[-1] *= 3
        geo[0, :, 2] -= side
        return torch.from_numpy(geo)

    def colour():
        return torch.from_numpy(augment.draw_colour(rng, rng.random((n, 3)).astype(np.float32), 0.8))

    lam, box = torch.from_numpy(rng.random(n).astype(np.float32)), torch.zeros(n, 4, dtype=torch.int32)
    lam[::3] = 1.0
    box[1::4] = torch.tensor([size // 4, size // 3, size - 1, size - 2], dtype=torch.int32)
    box[2::6], lam[2::6] = torch.tensor([0, 0, size, size], dtype=torch.int32), 0.0
    erase = torch.from_numpy(augment.draw_erase(rng, (n,), size=size, erase=0.7))
    index, partner = (torch.from_numpy(rng.permutation(n).astype(np.int32)) for _ in range(2))
    return row(
        n,
        size,
        index=index,
        partner=partner,
        lam=lam,
        box=box,
        erase=erase,
        geo=geometry(1),
        geo_b=geometry(2),
        col=colour(),
        col_b=colour(),
    )


def reference(pixels, c, size, border):
    """The batch in float64."""

    def looks(index, geo, col):
        rgb = torch.stack([sampled(pixels[i].numpy(), g, size, border) for i, g in zip(index.tolist(), geo.numpy())])
        col = col.double()
        return (torch.einsum("bij,bjyx->biyx", col[:, :, :3], rgb) + col[:, :, 3, None, None]).clamp(0, 1)

    out, other = looks(c.index, c.geo, c.col), looks(c.partner, c.geo_b, c.col_b)
    for i, (blend, (y0, x0, y1, x1), erased) in enumerate(zip(c.blend.tolist(), c.box.tolist(), c.erase.tolist())):
        top, left, bottom, right = erased
        if y0 < y1 and x0 < x1:
            out[i, :, y0:y1, x0:x1] = other[i, :, y0:y1, x0:x1]
        else:
            out[i] = blend * out[i] + (1 - blend) * other[i]
        out[i, :, top:bottom, left:right] = torch.tensor(MEAN, dtype=torch.float64)[:, None, None]
    return (out - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)


@on_device
@pytest.mark.parametrize("border", ["reflect", "constant"])
@pytest.mark.parametrize("n, side, size", [(5, 37, 32), (6, 29, 16), (5, 16, 31), (5, 64, 45), (7, 8, 33)])
def test_against_float64(device, border, n, side, size, poisoned, monkeypatch):
    if side == 8:  # several programs of several tiles, the last of them beyond the picture
        monkeypatch.setattr(kernel, "BLOCK", 512)
        monkeypatch.setattr(kernel, "TILES", 2)
    pixels, columns = noise(n, side, seed=n), mixed(n, side, size, border)
    expected = reference(pixels, columns, size, border)
    assert expected.abs().max() > 1.5 and (expected == 0).any()
    for dtype, channels, store in (
        (torch.float32, 3, pixels),
        (torch.bfloat16, 4, pixels),
        (torch.float16, 3, four(pixels)),
        (torch.float32, 4, four(pixels)),
    ):
        found = shown(device, store, columns, size, border, dtype, channels)
        assert found.shape == (n, channels, size, size) and found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        ulps = 0 if dtype == torch.float32 else 1 if (device, dtype) == ("cpu", torch.bfloat16) else 0.5
        # Colours and std stretch a pixel's error.
        bound = 6 * PIXEL + ulps * torch.finfo(dtype).eps * expected.abs()
        assert ((found[:, :3].double() - expected).abs() <= bound).all()
        assert (found[:, 3:] == 0).all()
        assert (found[:, :3][expected == 0] == 0).all()


@on_device
def test_4_byte_pixels_change_nothing(device):
    pixels, columns = noise(5, 29), mixed(5, 29, 40, "reflect")
    three, with_four = (shown(device, store, columns, 40) for store in (pixels, four(pixels)))
    assert torch.equal(three, with_four)
    assert torch.equal(three, shown(device, pixels, columns, 40, channels=4)[:, :3])


@on_device
def test_evaluation_plans_show_the_pictures_as_they_are(device):
    pixels, rows = noise(3, 24), np.array([2, 0, 1])
    for columns in evaluation_plans(rows, size=17, store_size=24, shown=17, batch_size=2, views="crops"):
        for t in range(2):
            step = step_of(columns, t)
            found = shown(device, pixels, step, 17, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
            for picture, i, geo in zip(found, step.index.tolist(), step.geo.tolist()):
                left, top, mirrored = int(geo[0][2]), int(geo[1][2]), geo[0][0] < 0
                left -= 17 * mirrored
                plain = pixels[i, top : top + 17, left : left + 17].permute(2, 0, 1).float() / 255
                # A division may be off by two units in the last place, each 1.2e-7 at the most.
                torch.testing.assert_close(picture, plain.flip(2) if mirrored else plain, rtol=5e-7, atol=0)


@on_device
def test_equals_its_twin_for_a_plan_that_was_drawn(device):
    labels, means = np.arange(20) % 4, np.random.default_rng(0).random((20, 3)).astype(np.float32)
    config = Config(
        epochs=5, batch_size=20, seed=1, mixup_p=0.5, cutmix_p=0.3, rotate=15.0, jitter=0.2, erase=0.3, img_size=32
    )
    material = Material(labels, means, np.arange(20), np.full(4, 5), size=32, store_size=37)
    drawn = draw_plan(material, 3, *(config.group(kind) for kind in (Course, Mixing, augment.Views)))
    step = step_of(drawn, 0)
    assert step.box.any() and step.erase.any() and (step.lam < 1).any() and (step.lam == 1).any()
    pixels, moments = noise(20, 37), dict(mean=torch.tensor(MEAN), std=torch.tensor(STD))
    found = shown(device, pixels, step, 32)
    assert (found - augment.plain(pixels, step, size=32, **moments)).abs().max() < 2 * PIXEL / min(STD)


@on_device
def test_boxes_of_one_row_at_the_edges_of_tiles(device, monkeypatch):
    """A tile leaves the partner's view out where its rows miss the box: 512 pixels end in row 15 of 33. The last box
    has no width, so it is none, and its row is mixed."""
    monkeypatch.setattr(kernel, "BLOCK", 512)
    monkeypatch.setattr(kernel, "TILES", 2)
    size, tops = 33, (0, 14, 15, 16, 30, 31, 32, 5)
    box = torch.tensor([[y, 0, y + 1, size] for y in tops], dtype=torch.int32)
    box[-1] = torch.tensor([5, 9, 20, 9])
    n, turned = len(tops), torch.arange(len(tops)).roll(1).int()
    pixels, columns = noise(n, size), row(n, size, lam=torch.full((n,), 0.5), box=box, partner=turned)
    found = shown(device, pixels, columns, size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    own = pixels.permute(0, 3, 1, 2) / 255
    other = own[turned.long()]
    expected = own.clone()
    for i, y in enumerate(tops[:-1]):
        expected[i, :, y] = other[i, :, y]
    expected[-1] = (own[-1] + other[-1]) / 2
    assert (found - expected).abs().max() < PIXEL


@on_device
def test_the_weight_of_pixels_counts_only_where_the_box_is_empty(device, poisoned):
    """It is not the weight of the target: rows mix by `blend` alone, and a box takes the partner's pixels even at 1."""
    n, side, size = 8, 20, 24
    columns, pixels = mixed(n, side, size, "reflect", seed=3), noise(n, side)
    columns.blend = torch.tensor([0.25, 1.0, 0.0, 1.0, 0.75, 0.5, 1.0, 1.0])
    columns.lam = 1 - columns.blend
    columns.box = torch.zeros(n, 4, dtype=torch.int32)
    columns.box[4:] = torch.tensor([5, 3, 20, 24], dtype=torch.int32)
    columns.box[7] = torch.tensor([9, 4, 9, 20], dtype=torch.int32)  # no rows, so none
    found = shown(device, pixels, columns, size)
    assert ((found.double() - reference(pixels, columns, size, "reflect")).abs() <= 6 * PIXEL).all()
    boxed = torch.tensor([False] * 4 + [True] * 3 + [False])
    for blend in (0.0, 1.0):
        columns.blend[boxed] = blend
        assert torch.equal(shown(device, pixels, columns, size), found)


@on_device
def test_what_a_row_does_not_mix_is_not_read(device, poisoned):
    n, size = 5, 16
    pixels, lam = noise(n, size), torch.tensor([1.0, 0.5, 1.0, 1.0, 0.25])
    poison = torch.full((n, 2, 3), float("nan"))
    poison[lam < 1] = torch.eye(2, 3)
    col_b = torch.full((n, 3, 4), float("nan"))
    col_b[lam < 1] = EYE
    partner = torch.tensor([2**31 - 1, 0, 99, -1, 2], dtype=torch.int32)
    columns = row(n, size, lam=lam, geo_b=poison, col_b=col_b, partner=partner)
    assert shown(device, pixels, columns, size).isfinite().all()


@on_device
@pytest.mark.parametrize("column, missing", [*itertools.product(("index", "partner"), (5, -1, 2**31 - 1))])
def test_a_picture_that_is_not_there_is_nan(device, column, missing):
    n, size = 5, 16
    columns = row(n, size, lam=torch.tensor([1.0, 0.5, 1.0, 0.5, 0.5]), partner=torch.arange(n, dtype=torch.int32))
    getattr(columns, column)[1] = missing
    found = shown(device, noise(n, size), columns, size)
    assert found.isnan()[:, 0].flatten(1).all(1).tolist() == [False, True, False, False, False]
    assert found[[0, 2, 3, 4]].isfinite().all()


@on_device
def test_more_than_2_to_the_31_bytes(device):
    """Only the pages that are touched take memory on a CPU."""
    side, size, n = 256, 8, 10_924
    pixels = torch.empty(n, side, side, 3, dtype=torch.uint8, device=device)
    pixels[-1] = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).to(device)
    columns = row(1, size, index=torch.tensor([n - 1], dtype=torch.int32))
    found = shown(device, pixels, columns, size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    torch.testing.assert_close(found[0], pixels[-1, :size, :size].permute(2, 0, 1).cpu() / 255)


@on_device
def test_the_operator_keeps_its_contract(device):
    columns = mixed(4, 12, 9, "reflect")
    torch.library.opcheck(
        kernel.view,
        arguments(device, noise(4, 12), columns, 9, dtype=torch.float16, channels=4),
        test_utils=("test_schema", "test_faketensor"),
    )


@on_device
def test_augment_batch_comes_here(device, monkeypatch):
    pixels, columns = noise(4, 12).to(device), mixed(4, 12, 9, "reflect")
    args = arguments(device, pixels, columns, 9, "constant", torch.float16)
    monkeypatch.setattr(kernels, "usable", lambda asked: True)
    monkeypatch.setattr(augment, "plain", None)
    columns = SimpleNamespace(**dict(zip(COLUMNS, args[1:10])), lam=args[3])
    found = augment.batch(pixels, columns, size=9, mean=args[10], std=args[11], border="constant", dtype=torch.float16)
    assert torch.equal(found, kernel.view(*args))


def test_the_twin_gives_the_dtype_that_is_asked_for():
    pixels, columns = noise(4, 12), mixed(4, 12, 9, "reflect")
    moments = dict(size=9, mean=torch.tensor(MEAN), std=torch.tensor(STD))
    wide = augment.batch(pixels, columns, **moments)
    narrow = augment.batch(pixels, columns, **moments, dtype=torch.bfloat16)
    assert wide.dtype == torch.float32 and torch.equal(narrow, wide.bfloat16())
    assert narrow.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(pixels=torch.zeros(4, 12, 11, 3, dtype=torch.uint8)), "Store"),
        (dict(pixels=torch.zeros(4, 12, 12, 3)), "Store"),
        (dict(pixels=torch.zeros(4, 12, 12, 2, dtype=torch.uint8)), "Store"),
        (dict(border="wrap"), "border"),
        (dict(dtype=torch.float64), "dtype"),
        (dict(channels=2), "channels"),
        (dict(blend=torch.ones(4).half()), "blend must"),
        (dict(box=torch.zeros(4, 4)), "box must"),
        (dict(geo_b=torch.zeros(4, 3, 2)), "geo_b must"),
        (dict(std=torch.ones(1)), "std must"),
    ],
)
def test_other_inputs_are_refused(changes, word):
    names = ("pixels", *COLUMNS, "mean", "std", "size", "border", "dtype", "channels")
    given = dict(zip(names, arguments("cpu", noise(4, 12), row(4, 9), 9))) | changes
    with pytest.raises(ValueError, match=word):
        kernel.view(*given.values())
    mode = FakeTensorMode()
    fake = [mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for v in given.values()]
    with mode, pytest.raises(ValueError, match=word):
        kernel.view(*fake)


def test_a_store_on_the_host_must_be_pinned():
    """The columns lie elsewhere, on the meta device here; a Store that the device cannot read is refused, a pinned one
    is not."""
    pixels, *rest = arguments("meta", noise(4, 12), row(4, 9), 9)
    tables = dict(zip((*COLUMNS, "mean", "std"), rest))
    store = noise(4, 12)
    with pytest.raises(ValueError, match="pinned"):
        kernel._check(store, tables, "reflect", torch.float32, 3)
    pinned = dict(ndim=4, shape=store.shape, dtype=store.dtype, device=store.device, is_pinned=lambda: True)
    kernel._check(SimpleNamespace(**pinned), tables, "reflect", torch.float32, 3)


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels do not build")
@pytest.mark.parametrize("arch", [75, 80, 89, 90, 100])
def test_builds_without_spills(arch, monkeypatch, tmp_path):
    builds = kernel_builds(monkeypatch, tmp_path)
    chosen = {"view, 3-byte pixels to 3 channels, reflect, bf16", "view, 4-byte pixels to 4 channels, reflect, bf16"}
    found = [builds.build(v, arch) for v in builds.variants() if v.name in chosen]
    assert len(found) == 2
    for found_row in found:
        assert found_row["stack"] == found_row["spills"] == 0, found_row
        assert found_row["registers"] <= (128 if arch < 100 else 160), found_row  # Triton 3.6 takes 140 for 10.0
        assert 80 < found_row["one"] < 150 and 1.5 < found_row["two"] / found_row["one"] < 1.95, found_row


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__, 25)


# On a GPU only


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_capture_and_replay_equal_eager(device):
    """Every replay reads the columns that lie there then."""
    pixels = noise(16, 64).to(device)
    steps = [
        arguments(device, pixels, mixed(16, 64, 56, "reflect", seed=seed), 56, dtype=torch.bfloat16)
        for seed in range(4)
    ]
    static = [v.clone() for v in steps[0][1:10]]
    torch.cuda.synchronize()  # another stream does not wait for what is still being made
    with torch.cuda.stream(torch.cuda.Stream()):
        kernel.view(pixels, *static, *steps[0][10:])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernel.view(pixels, *static, *steps[0][10:])
    for step in steps:
        for to, new in zip(static, step[1:10]):
            to.copy_(new)
        graph.replay()
        assert torch.equal(captured, kernel.view(*step))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_a_store_in_pinned_host_memory(device):
    pixels, columns = noise(8, 40), mixed(8, 40, 32, "reflect")
    on_device_, *rest = arguments(device, pixels, columns, 32)
    assert torch.equal(kernel.view(pixels.pin_memory(), *rest), kernel.view(on_device_, *rest))
