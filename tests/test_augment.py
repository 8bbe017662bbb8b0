"""Every operation alone against torchvision or NumPy in float64, their order, and the distributions of the draws.

Geometry is compared on noise, where neighbours differ most. Coordinates are float32 both here and in torchvision, so a
sample may sit 1e-5 of a pixel beside its place: PIXEL allows ten times that, 40 times less than one step of a uint8.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import augment

PIXEL = 1e-4
PLAIN = dict(
    crop_scale=(1.0, 1.0), pad=0, flip=False, rotate=0.0, jitter=0.0, erase=0.0, tail_crops=(0, 1), one_op=False
)
SIZES = [(8, 8), (40, 32), (73, 64), (64, 64), (29, 16)]  # Store, view; torchvision rounds half pixels to even, we down
EYE = torch.eye(3, 4)


@pytest.fixture(scope="module")
def F(torchvision):
    return pytest.importorskip("torchvision.transforms.v2.functional")


@pytest.fixture
def bilinear(torchvision):
    return torchvision.transforms.InterpolationMode.BILINEAR


def noise(n, side, seed=0, low=0, high=256):
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, (n, side, side, 3), dtype=np.uint8))


def planes(pixels):
    """What torchvision takes: float32 [N,3,S,S] in [0,1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def geometry(n, store_size, size, seed=0, **options):
    rng = np.random.default_rng(seed)
    frame = augment.Frame(size, store_size, options.pop("shown", size))
    views = augment.Views(**(PLAIN | options))
    low = np.broadcast_to(views.crop_scale[0], (n,))
    return augment.draw_geometry(rng, frame, views, low, np.full(n, views.rotate))


def look(pixels, geo, size, border="reflect", col=None):
    """Row i of `pixels` through geo[i] and col[i]."""
    geo = torch.as_tensor(np.asarray(geo, np.float32))
    col = EYE.expand(len(geo), 3, 4) if col is None else torch.as_tensor(col)
    return augment.sampled(pixels, torch.arange(len(geo), dtype=torch.int32), geo, col, size, border)


def close(ours, theirs, tolerance=PIXEL):
    assert ours.shape == theirs.shape
    assert (ours.double() - theirs.double()).abs().max() <= tolerance


def row(n, size, **columns):
    """One step of a plan that shows rows 0 .. n-1 as they are, but for `columns`."""
    index = torch.arange(n, dtype=torch.int32)
    none, geo, col = torch.zeros(n, 4, dtype=torch.int32), torch.eye(2, 3).repeat(n, 1, 1), EYE.repeat(n, 1, 1)
    plain = dict(index=index, partner=index, lam=torch.ones(n), blend=torch.ones(n), box=none, erase=none)
    plain |= dict(geo=geo, geo_b=geo, col=col, col_b=col)
    columns = {"blend": columns["lam"], **columns} if "lam" in columns else columns
    return SimpleNamespace(**(plain | columns))


def test_pixels_may_have_another_weight_than_targets():
    """blend decides what is seen, but inside and outside of a box; lam does not matter."""
    pixels = noise(4, 8)
    boxes = torch.tensor([[0, 0, 0, 0], [2, 1, 5, 7]] * 2, dtype=torch.int32)
    partner = torch.tensor([1, 2, 3, 0], dtype=torch.int32)
    blend = torch.tensor([0.3, 0.3, 1.0, 1.0])
    found = show(pixels, row(4, 8, lam=torch.zeros(4), blend=blend, box=boxes, partner=partner)).double()
    own, other = planes(pixels).double(), planes(pixels[partner.long()]).double()
    expected = own.clone()
    expected[0] = 0.3 * own[0] + 0.7 * other[0]
    for i in (1, 3):
        expected[i, :, 2:5, 1:7] = other[i, :, 2:5, 1:7]
    assert (found - expected).abs().max() < 1e-6


def show(pixels, plan_row, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), border="reflect"):
    mean, std = torch.tensor(mean), torch.tensor(std)
    return augment.batch(pixels, plan_row, size=pixels.shape[1], mean=mean, std=std, border=border)


def sampled(picture, geo, size, border):
    """Bilinear samples float64 [3,size,size] in [0,1] of one picture [S,S,3], over a canvas that NumPy extends."""
    around = 12 * len(picture)
    width, mode = ((around, around), (around, around), (0, 0)), dict(reflect="symmetric", constant="constant")[border]
    canvas = np.pad(picture / 255.0, width, mode)
    y, x = np.mgrid[:size, :size] + 0.5
    at_x, at_y = np.tensordot(np.asarray(geo, np.float64), np.stack([x, y, np.ones_like(x)]), 1) - 0.5 + around
    left, top = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    fx, fy = (at_x - left)[..., None], (at_y - top)[..., None]
    upper = canvas[top, left] * (1 - fx) + canvas[top, left + 1] * fx
    lower = canvas[top + 1, left] * (1 - fx) + canvas[top + 1, left + 1] * fx
    return torch.from_numpy((upper * (1 - fy) + lower * fy).transpose(2, 0, 1))


def distance(a, b):
    """Kolmogorov-Smirnov distance of two samples."""
    at = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(v), at, "right") / len(v) for v in (a, b)]
    return np.abs(below[0] - below[1]).max()


# Geometry


@pytest.mark.parametrize("store_size, size", SIZES)
def test_centre_crop(F, store_size, size):
    pixels = noise(3, store_size)
    close(look(pixels, geometry(3, store_size, size), size), F.center_crop(planes(pixels), size))


@pytest.mark.parametrize("store_size, size", SIZES)
def test_flip(F, store_size, size):
    pixels, geo = noise(400, store_size), geometry(400, store_size, size, flip=True)
    mirrored = np.linalg.det(geo[:, :, :2]) < 0
    theirs = F.center_crop(planes(pixels), size)
    theirs[mirrored] = F.horizontal_flip(theirs[mirrored])
    close(look(pixels, geo, size), theirs)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / 400**0.5


@pytest.mark.parametrize(
    "x0, y0, w, h", [(0, 0, 60, 60), (5, 0, 40, 52), (13, 21, 47, 39), (30, 33, 30, 27), (3, 4, 56, 55)]
)
def test_resized_crop(F, bilinear, x0, y0, w, h):
    # Antialiasing off: a view never shrinks by more than the Store's 256/224. The rim is left out: torchvision repeats
    # the crop's own edge there, we go on to the picture's next pixel.
    store_size, size = 60, 52
    pixels = noise(2, store_size)
    theirs = F.resized_crop(planes(pixels), y0, x0, h, w, [size, size], interpolation=bilinear, antialias=False)
    ours = look(pixels, np.tile([[w / size, 0, x0], [0, h / size, y0]], (2, 1, 1)), size)
    rim = slice(1, -1) if w >= size and h >= size else slice(2, -2)
    close(ours[..., rim, rim], theirs[..., rim, rim])
    if (w, h) == (store_size, store_size):
        close(ours, theirs)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.6, 0.9), (0.95, 1.0)])
def test_random_resized_crops_are_drawn_as_torchvisions(torchvision, scale):
    n, side = 4000, 10**6  # so large that torchvision's rounding to whole pixels does not show
    geo = geometry(n, side, 64, crop_scale=scale).astype(np.float64)
    assert (geo[:, 0, 1] == 0).all() and (geo[:, 1, 0] == 0).all()
    w, h, x0, y0 = 64 * geo[:, 0, 0], 64 * geo[:, 1, 1], geo[:, 0, 2], geo[:, 1, 2]
    assert min(x0.min(), y0.min()) >= -1 and max((x0 + w).max(), (y0 + h).max()) <= side + 1  # inside; 1e-6 is rounding
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params, picture = torchvision.transforms.RandomResizedCrop.get_params, torch.empty(1).expand(3, side, side)
        theirs = np.array([params(picture, scale, (3 / 4, 4 / 3)) for _ in range(n)], float)
    ty, tx, th, tw = theirs.T
    for a, b in ((w * h, tw * th), (w / h, tw / th), (x0, tx), (y0, ty), (x0 / (side - w + 1), tx / (side - tw + 1))):
        assert distance(a, b) < 1.95 * (2 / n) ** 0.5  # p = 0.001 for equal distributions


@pytest.mark.parametrize("side", [16, 41, 64])
@pytest.mark.parametrize("flip", [False, True])
def test_rotate(F, bilinear, side, flip):
    pixels, geo = noise(6, side), geometry(6, side, side, rotate=40.0, flip=flip)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    interior = torch.from_numpy(x**2 + y**2 <= (side / 2 - 1) ** 2)  # outside, the border answers and not the picture
    angles = np.rad2deg(np.arctan2(geo[:, 1, 0], geo[:, 1, 1]))
    for ours, picture, one, angle in zip(look(pixels, geo, side), planes(pixels), geo, angles):
        flipped = F.horizontal_flip(picture) if np.linalg.det(one[:, :2]) < 0 else picture  # before the rotation
        close(ours[:, interior], F.rotate(flipped, float(angle), interpolation=bilinear)[:, interior], 3 * PIXEL)


def test_rotation_angles():
    geo = geometry(4000, 40, 32, rotate=25.0)
    angles = np.rad2deg(np.arctan2(geo[:, 1, 0], geo[:, 0, 0]))
    assert distance(angles, np.random.default_rng(1).uniform(-25, 25, 4000)) < 1.95 * (2 / 4000) ** 0.5
    assert np.abs(np.linalg.det(geo[:, :, :2].astype(float)) - 1).max() < 1e-6  # rotates, and does not scale
    assert np.abs(geo @ [16, 16, 1] - 20).max() < 1e-4  # about the centre


@pytest.mark.parametrize("store_size, size, pad", [(32, 32, 4), (36, 32, 4), (9, 8, 3), (40, 32, 1)])
def test_pad_and_crop(F, store_size, size, pad):
    n, room = 600, store_size + 2 * pad - size
    pixels, geo = noise(n, store_size), geometry(n, store_size, size, pad=pad)
    padded = F.pad(planes(pixels), [pad] * 4, fill=0)
    corners = geo[:, :, 2].astype(int) + pad  # x, y on the padded picture
    theirs = torch.stack([F.crop(p, int(y), int(x), size, size) for p, (x, y) in zip(padded, corners)])
    close(look(pixels, geo, size, "constant"), theirs)
    assert (corners == geo[:, :, 2] + pad).all() and (geo[:, :, :2] == np.eye(2)).all()
    for axis in corners.T:  # every place, each equally often
        seen = np.bincount(axis, minlength=room + 1)
        assert len(seen) == room + 1 and np.abs(seen - n / (room + 1)).max() < 4.5 * (n / (room + 1)) ** 0.5


@pytest.mark.parametrize("border", ["reflect", "constant"])
def test_border_and_any_map_against_float64(border):
    side, size = 12, 16
    rng = np.random.default_rng(3)
    moves = (-side, 0), (7, -9), (-3.25, 2.5), (side, side), (-14.75, 13.5)
    shifts = [np.array([[1, 0, dx], [0, 1, dy]]) for dx, dy in moves]
    maps = [np.concatenate([rng.normal(0, 0.8, (2, 2)), rng.uniform(-6, 14, (2, 1))], 1) for _ in range(20)]
    geo = np.stack(shifts + maps).astype(np.float32)
    pixels = noise(len(geo), side)
    ours = look(pixels, geo, size, border)
    for picture, one, found in zip(pixels.numpy(), geo, ours):
        close(found, sampled(picture, one, size, border))
    assert (ours[0, :, 0, :side] < PIXEL).all() if border == "constant" else (ours[0, :, 0, :side] > 0).any()


def test_turning_one_move_on_leaves_the_others():
    def parts(**options):
        geo = geometry(50, 48, 32, **options).astype(float)
        mirror = np.sign(np.linalg.det(geo[:, :, :2]))
        return mirror, np.arctan2(geo[:, 1, 0], geo[:, 1, 1]), geo @ [16, 16, 1]

    mirror, _, _ = parts(flip=True)
    _, angle, _ = parts(rotate=20.0)
    _, _, centre = parts(crop_scale=(0.3, 0.8))
    for more in (dict(), dict(pad=4)):
        found = parts(flip=True, rotate=20.0, **more)
        assert (found[0] == mirror).all() and np.abs(found[1] - angle).max() < 1e-6
    found = parts(flip=True, rotate=20.0, crop_scale=(0.3, 0.8))  # its uneven zoom shears: no angle to be read off
    assert (found[0] == mirror).all() and np.abs(found[2] - centre).max() < 1e-4


# Colour


def coloured(pixels, jitter, seed=0):
    """Colour matrices of whole pictures whose brightness, contrast and saturation vary by the three of `jitter`."""
    means = planes(pixels).mean((2, 3)).numpy()
    return augment.draw_colour(np.random.default_rng(seed), means, np.array(jitter)[:, None])


# torchvision's grey takes 0.2989 of red, and so loses 1e-4 of white; we take the 0.299 of ITU-R 601.
@pytest.mark.parametrize(
    "name, which, tolerance", [("brightness", 0, 1e-5), ("contrast", 1, 1.1e-4), ("saturation", 2, 1.1e-4)]
)
def test_colour_operations(F, name, which, tolerance):
    pixels = noise(16, 20) // torch.arange(1, 5, dtype=torch.uint8).repeat(4)[:, None, None, None]  # bright and dark
    jitter = np.zeros(3)
    jitter[which] = 0.9
    col = coloured(pixels, jitter)
    factors = col[:, 0, :3].sum(1) if which < 2 else col[:, 0, 0] - col[:, 1, 0]  # read off the matrix
    ours = look(pixels, np.tile(np.eye(2, 3), (16, 1, 1)), 20, col=col)
    theirs = torch.stack([getattr(F, f"adjust_{name}")(p, float(f)) for p, f in zip(planes(pixels), factors)])
    close(ours, theirs, tolerance)
    assert 0.1 <= factors.min() < 0.5 and 1.5 < factors.max() <= 1.9 and (ours == 1).any()  # wide, and clamped


def test_colours_together_are_any_order_of_torchvisions(F):
    pixels = noise(8, 20, low=90, high=150)  # no order clamps
    names = ("brightness", "contrast", "saturation")
    alone = [coloured(pixels, jitter) for jitter in np.eye(3) * 0.2]  # the same factors, one at a time
    factors = [alone[0][:, 0, 0], alone[1][:, 0, 0], alone[2][:, 0, 0] - alone[2][:, 1, 0]]
    ours = look(pixels, np.tile(np.eye(2, 3), (8, 1, 1)), 20, col=coloured(pixels, (0.2, 0.2, 0.2)))
    for order in itertools.permutations(range(3)):
        for i, theirs in enumerate(planes(pixels)):
            for k in order:
                theirs = getattr(F, f"adjust_{names[k]}")(theirs, float(factors[k][i]))
            close(ours[i], theirs, 2e-4)  # torchvision's grey, twice


def test_colour_factors():
    means = np.random.default_rng(0).random((5000, 3)).astype(np.float32)
    means[:100] = 0  # black pictures, the bad rows of a Store among them
    for i in range(3):
        jitter = np.zeros((3, 1))
        jitter[i] = 0.3
        col = augment.draw_colour(np.random.default_rng(0), means, jitter)
        factor = col[:, 0, :3].sum(1) if i < 2 else col[:, 0, 0] - col[:, 1, 0]
        assert distance(factor, np.random.default_rng(1).uniform(0.7, 1.3, 5000)) < 1.95 * (2 / 5000) ** 0.5
        assert np.isfinite(col).all() and (col[:100, :, 3] == 0).all()
    by_row = augment.draw_colour(np.random.default_rng(0), means[:2], np.array([0.0, 0.5]))
    assert (by_row[0] == np.eye(3, 4)).all() and (by_row[1] != np.eye(3, 4)).any()
    assert by_row.dtype == np.float32


# One operation a view


def test_operations_are_drawn_equally_often_and_uniformly_strong():
    n = 100_000
    warp, factors = augment.draw_operation(np.random.default_rng(0), (n,))
    angle = np.rad2deg(np.arctan2(warp[:, 1, 0], warp[:, 0, 0]))
    turned = np.abs(warp[:, 0, 0] - 1) > 1e-12
    strength = {
        "shear x": np.where(turned, 0, warp[:, 0, 1] / 0.99),
        "shear y": np.where(turned, 0, warp[:, 1, 0] / 0.99),
        "translate x": warp[:, 0, 2] * 7,
        "translate y": warp[:, 1, 2] * 7,
        "rotate": np.where(turned, angle / 135, 0),
        "brightness": (factors[0] - 1) / 0.99,
        "contrast": (factors[1] - 1) / 0.99,
        "saturation": (factors[2] - 1) / 0.99,
    }
    acts = np.stack([np.abs(values) > 1e-9 for values in strength.values()])
    assert acts.sum(0).max() == 1
    seen = np.append(acts.sum(1), (~acts.any(0)).sum())  # the last left the view as it is
    expected = n / 9
    assert ((seen - expected) ** 2 / expected).sum() < 26.1  # chi-square of 8 degrees passes it once in a thousand
    for values, does in zip(strength.values(), acts):
        values = np.sort(values[does])
        steps = np.arange(len(values) + 1) / len(values)
        at = (values + 1) / 2
        distance = max(np.abs(at - steps[1:]).max(), np.abs(at - steps[:-1]).max())
        assert distance < 1.95 / len(values) ** 0.5  # Kolmogorov and Smirnov's, once in a thousand
        assert values[0] < -0.99 and values[-1] > 0.99


def test_an_operation_acts_on_the_view_that_crop_and_mirror_made():
    """Where a pixel of the view comes from, by each operation's textbook formula about the centre, in float64."""
    n, size = 400, 32
    warp, _ = augment.draw_operation(np.random.default_rng(0), (n,))
    geo = geometry(n, 48, size, flip=True, crop_scale=(0.3, 1.0))
    found = augment.warped(geo, warp, size)
    assert found.dtype == np.float32
    for one, change, ours in zip(geo.astype(float), warp, found):
        for x, y in ((0, 0), (size, 0), (5, 29), (16, 16)):
            u, v = (x - size / 2) / size, (y - size / 2) / size
            u, v = (
                change[0, 0] * u + change[0, 1] * v + change[0, 2],
                change[1, 0] * u + change[1, 1] * v + change[1, 2],
            )
            there = one @ [u * size + size / 2, v * size + size / 2, 1]
            assert np.abs(ours @ [x, y, 1] - there).max() < 1e-4
    unmoved = (warp == np.eye(2, 3)).all((1, 2))
    assert unmoved.sum() > 100 and np.array_equal(found[unmoved], geo[unmoved])


@pytest.mark.parametrize("name", ["rotate", "translate", "shear"])
def test_operations_look_like_torchvisions(F, bilinear, name):
    """On the inner disc, which no border reaches. torchvision says where pixels go, but for a shear, and we whence."""
    side = 56
    pixels = noise(9, side)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    inner = torch.from_numpy(x**2 + y**2 <= (side / 4) ** 2)
    eye = np.tile(np.eye(2, 3), (9, 1, 1))
    for picture, amount in zip(pixels, np.linspace(-1, 1, 9)):
        warp = np.eye(2, 3)
        move = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
        if name == "rotate":
            angle = np.deg2rad(135 * amount)
            warp[:, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            move["angle"] = float(-135 * amount)
        elif name == "translate":
            pixel = round(side / 7 * amount)
            warp[0, 2] = pixel / side
            move["translate"] = [-pixel, 0]
        else:
            warp[0, 1] = 0.99 * amount
            move["shear"] = [float(np.rad2deg(np.arctan(0.99 * amount))), 0.0]
        ours = look(picture[None], augment.warped(eye[:1].astype(np.float32), warp[None], side), side)
        theirs = F.affine(planes(picture[None]), **move, interpolation=bilinear)
        close(ours[..., inner], theirs[..., inner], 3 * PIXEL)


def test_a_view_has_its_operation_on_top_of_all_else():
    views = augment.Views(**(PLAIN | dict(flip=True, jitter=0.1, crop_scale=(0.5, 1.0))))
    frame = augment.Frame(32, 40, 32)
    means = np.random.default_rng(1).random((300, 3))
    never = np.zeros(300, bool)

    def tables(one_op):
        with_op = augment.Views(**vars(views) | dict(one_op=one_op))
        return augment.draw_views(lambda name: np.random.default_rng(len(name)), never, means, frame, with_op)

    (geo, col), (geo_op, col_op) = tables(False), tables(True)
    warp, factors = augment.draw_operation(np.random.default_rng(len("op")), (300,))
    assert np.array_equal(geo_op, augment.warped(geo, warp, 32))
    changed = (factors != 1).any(0)
    assert np.array_equal((col != col_op).any((1, 2)), changed) and 0.2 < changed.mean() < 0.5
    bright = factors[0] != 1
    assert np.allclose(col_op[bright], col[bright] * factors[0][bright, None, None], rtol=1e-5, atol=1e-6)


# Erasing, mixing, and the order of all


def test_erase(F):
    pixels, mean, std = noise(4, 24), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    boxes = torch.tensor([[0, 0, 24, 24], [3, 5, 9, 20], [23, 0, 24, 1], [0, 0, 0, 0]], dtype=torch.int32)
    ours = show(pixels, row(4, 24, erase=boxes), mean, std)
    for picture, (y0, x0, y1, x1), found in zip(planes(pixels), boxes.tolist(), ours):
        filled = F.erase(picture, y0, x0, y1 - y0, x1 - x0, torch.tensor(mean)[:, None, None])
        close(found, F.normalize(filled, mean, std), PIXEL / min(std))
    assert (ours[0] == 0).all()


def test_erase_draws():
    n, size = 6000, 224
    box = augment.draw_erase(np.random.default_rng(0), (n,), size=size, erase=0.3)
    y0, x0, y1, x1 = box.T
    hit = (y1 > y0) & (x1 > x0)
    assert box.dtype == np.int32 and (box[~hit] == 0).all() and (box >= 0).all() and (box <= size).all()
    assert abs(hit.mean() - 0.3) < 4 * (0.21 / n) ** 0.5
    h, w = (y1 - y0)[hit], (x1 - x0)[hit]
    share = h * w / size**2
    assert share.max() <= 0.33 * 1.02 and share.min() >= 0.02 * 0.95  # sides are whole pixels
    uniform = np.random.default_rng(1).uniform  # hits are 0.3 n: 1.95 sqrt((1 + 0.3) / (0.3 n)) is p = 0.001
    assert distance(share, uniform(0.02, 0.33, n)) < 0.053
    assert distance(np.log(h / w), uniform(*np.log([0.3, 3.3]), n)) < 0.053
    place = y0[hit] / np.maximum(size - h, 1)
    assert abs(place.mean() - 0.5) < 0.03 and place.max() > 0.98 and place.min() < 0.02
    everywhere = augment.draw_erase(np.random.default_rng(0), (3000,), size=8, erase=1.0)
    assert (everywhere[:, 2:] > everywhere[:, :2]).all() and everywhere.max() == 8
    y0, _, y1, _ = everywhere.T
    places = np.bincount(y0[y1 - y0 == 2], minlength=7)  # of boxes two pixels high: each as often, the last too
    assert np.ptp(places) < 0.5 * places.mean()
    assert not augment.draw_erase(np.random.default_rng(0), (50, 2), size=8, erase=0.0).any()


def test_mixup_and_cutmix_pixels_against_float64():
    n, size = 6, 16
    pixels = noise(n, size)
    lam = torch.tensor([0.3, 1.0, 0.85, 1 - 60 / 256, 0.0, 0.0])
    box = torch.zeros(n, 4, dtype=torch.int32)
    box[3] = torch.tensor([2, 4, 12, 10])
    box[4] = torch.tensor([0, 0, 16, 16])
    partner = torch.tensor([3, 1, 0, 5, 2, 2], dtype=torch.int32)
    mirror, swap = torch.tensor([[-1.0, 0, size], [0, 1, 0]]), EYE[[2, 1, 0]]  # the partner has a view of its own
    views = dict(geo_b=mirror.repeat(n, 1, 1), col_b=swap.repeat(n, 1, 1))
    found = show(pixels, row(n, size, lam=lam, box=box, partner=partner, **views))
    own = planes(pixels).double()
    other, share = own[partner.long()].flip(1, 3), lam.double()[:, None, None, None]
    expected = share * own + (1 - share) * other
    expected[3] = own[3]
    expected[3, :, 2:12, 4:10] = other[3, :, 2:12, 4:10]
    close(found, expected)  # row 4 is all box, row 5 all mixup: both are the partner


def test_clamped_once_then_mixed_then_erased_then_normalised():
    n, size, mean, std = 2, 16, np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    pixels, lam = noise(n, size), 0.6
    col = torch.eye(3, 4) * torch.tensor([1.9, 1.5]).view(2, 1, 1)
    col[:, :, 3] = torch.tensor([[0.1], [-0.5]])
    partner = torch.tensor([1, 0], dtype=torch.int32)
    erase = torch.tensor([[2, 3, 7, 9], [0, 0, 0, 0]], dtype=torch.int32)
    columns = row(n, size, lam=torch.full((n,), lam), partner=partner, col=col, col_b=col[[1, 0]], erase=erase)
    found = show(pixels, columns, tuple(mean), tuple(std))

    gain, shift = col[:, 0, 0, None, None, None].double().numpy(), col[:, 0, 3, None, None, None].double().numpy()
    raw = planes(pixels).double().numpy() * gain + shift
    mean, std = mean[:, None, None], std[:, None, None]
    expected = (lam * raw.clip(0, 1) + (1 - lam) * raw[[1, 0]].clip(0, 1) - mean) / std
    expected[0, :, 2:7, 3:9] = 0
    close(found, torch.from_numpy(expected), PIXEL / std.min())
    late = ((lam * raw + (1 - lam) * raw[[1, 0]]).clip(0, 1) - mean) / std
    assert np.abs(late - expected).max() > 0.5  # clamping after the mix would be seen


def test_colour_is_sampled_first_and_never_wraps():
    pixels = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    pixels[0, :, 4:] = 255
    col = torch.tensor([[[3.0, 0, 0, -1], [0, 3, 0, -1], [0, 0, 3, -1]]])
    geo = torch.tensor([[[0.25, 0, 3.0], [0, 1, 0]]])  # four views a pixel, over the edge
    line = augment.sampled(pixels, torch.tensor([0]), geo, col, 8, "reflect")[0, 0, 0]
    ramp = (np.arange(8) + 0.5) * 0.25 + 3 - 3.5  # bilinear position between the black and the white column
    close(line, torch.from_numpy((3 * ramp.clip(0, 1) - 1).clip(0, 1)))


def test_partners_view_is_made_only_for_rows_that_mix():
    n, size = 5, 16
    pixels, lam = noise(n, size), torch.tensor([1.0, 0.5, 1.0, 1.0, 0.25])
    poison = torch.full((n, 2, 3), float("nan"))
    poison[lam < 1] = torch.eye(2, 3)
    partner = torch.tensor([99, 0, 99, 99, 2], dtype=torch.int32)  # rows that the Store does not have
    found = show(pixels, row(n, size, lam=lam, geo_b=poison, partner=partner))
    assert found.isfinite().all()
    close(found[[0, 2, 3]], planes(pixels)[[0, 2, 3]])


@pytest.mark.parametrize("n, size", [(1, 8), (3, 31)])
def test_batch_changes_nothing_it_was_given(n, size):
    pixels = noise(n, size)
    columns = row(n, size, lam=torch.full((n,), 0.5), erase=torch.tensor([[0, 0, 2, 2]] * n, dtype=torch.int32))
    before, saved = pixels.clone(), {k: v.clone() for k, v in vars(columns).items()}
    first, again = show(pixels, columns), show(pixels, columns)
    assert torch.equal(first, again) and torch.equal(pixels, before)
    assert all(torch.equal(v, saved[k]) for k, v in vars(columns).items())
    assert first.shape == (n, 3, size, size) and first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_a_crop_that_is_not_a_crop():
    geo = geometry(20, 64, 64)  # the whole Store picture: nothing to draw
    assert (geo == np.eye(2, 3, dtype=np.float32)).all() and geo.dtype == np.float32
    mixed = geometry(4, 9, 8, crop_scale=(np.array([1, 1, 0.5, 0.5]), 1.0))
    assert (mixed[:2] == np.eye(2, 3)).all() and (mixed[2:, 0, 0] != 1).all()


def test_inside_is_half_open():
    box = torch.tensor([[1, 2, 3, 6], [0, 0, 0, 0], [2, 1, 2, 5], [0, 0, 7, 7]], dtype=torch.int32)
    mask = augment.inside(box, 7)
    expected = np.zeros((4, 1, 7, 7), bool)
    expected[0, 0, 1:3, 2:6] = True
    expected[3] = True
    assert (mask.numpy() == expected).all()
    assert augment.filled(box).tolist() == [True, False, False, True]
