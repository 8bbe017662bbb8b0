"""What a picture may and may not show."""

import numpy as np

from pictures.painters import STYLES
from pictures.painting import FACTORS, render


def pictures(n, seed=0, size=48, **levels):
    """float64 [n, size, size, 3]: pictures of random styles but for the factors given by name."""
    rng = np.random.default_rng(seed)
    styles = STYLES
    for f, (name, all_levels) in enumerate(FACTORS.items()):
        if name in levels:
            styles = styles[styles[:, f] == all_levels.index(levels[name])]
    return np.stack([render(styles[rng.integers(len(styles))], size, rng) for _ in range(n)]) / 255


def test_every_style_can_be_painted():
    rng = np.random.default_rng(0)
    for style in rng.permutation(STYLES)[:150]:
        picture = render(style, 32, rng)
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert picture.reshape(-1, 3).std(0).max() > 12


def gradients(x):
    """Mean squared slope of grey across and down, and their product's mean: [n] each."""
    grey = x.mean(-1)
    right, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    return (right**2).mean((1, 2)), (down**2).mean((1, 2)), (right * down).mean((1, 2))


def test_strokes_show_their_direction_and_width():
    plain = dict(composition="solo", shape="disc")
    shown = {d: gradients(pictures(60, direction=d, stroke="medium", **plain)) for d in FACTORS["direction"]}
    right, down, _ = shown["level"]
    assert (down > 1.5 * right).mean() > 0.95
    right, down, _ = shown["upright"]
    assert (right > 1.5 * down).mean() > 0.95
    right, down, both = shown["slanted"]
    lean = both / (right + down)
    assert (np.abs(lean) > 0.1).mean() > 0.95
    assert 0.25 < (lean > 0).mean() < 0.75  # to either side: a mirrored picture is as likely
    right, down, both = shown["swirling"]
    assert np.median(np.abs(both) / (right + down)) < 0.1
    fine, medium, broad = (np.median(sum(gradients(pictures(60, stroke=s, **plain))[:2])) for s in FACTORS["stroke"])
    assert fine > 1.2 * medium > 1.2 * 1.2 * broad


def test_a_pixel_by_itself_says_little():
    """Between factor levels the average picture moves far less than pictures of one level differ."""
    for factor, levels in FACTORS.items():
        sets = [pictures(80, seed=i, size=32, **{factor: level}) for i, level in enumerate(levels)]
        between = np.std([s.mean((0, 1, 2)) for s in sets], axis=0)
        within = np.mean([s.mean((1, 2)).std(0) for s in sets], axis=0)
        assert (between < 0.35 * within).all(), (factor, between, within)
