"""One procedural picture: a style, five levels of FACTORS, made visible; everything else about it is left to chance.

Levels keep their meaning under horizontal flips, crops of over half the area, rotations by 15 degrees, and changes of
brightness, contrast and saturation. A palette sums to grey, its hues trade places at random, all positions are random:
a pixel by itself says next to nothing. Knows nothing of classes and files, and never a painter.
"""

import math

import numpy as np

PALETTES = {  # hues in degrees that sum to grey
    "red, cyan": (0, 180),
    "orange, azure": (30, 210),
    "yellow, blue": (60, 240),
    "lime, violet": (90, 270),
    "green, magenta": (120, 300),
    "jade, rose": (150, 330),
    "red, green, blue": (0, 120, 240),
    "yellow, cyan, magenta": (60, 180, 300),
}
DIRECTIONS = {"level": 0, "upright": 90, "slanted": 45, "swirling": None}  # degrees; slanted to either side
STROKES = {"fine": (1 / 32, 5), "medium": (1 / 13, 4), "broad": (1 / 5.5, 3)}  # width / picture side, length / width
SHAPES = ("disc", "square", "cross", "triangle", "leaf")
COMPOSITIONS = ("solo", "scatter", "frieze", "column", "mosaic", "echo")
FACTORS = dict(
    palette=tuple(PALETTES), direction=tuple(DIRECTIONS), stroke=tuple(STROKES), shape=SHAPES, composition=COMPOSITIONS
)


def render(style, size, rng):
    """uint8 [size, size, 3]: a picture of `style`, a level of each of FACTORS. `rng` decides all else.

    Wherever a shape lies, the second hue covers the first; a third one is strewn over the ground stroke by stroke.
    """
    palette, direction, stroke, shape, composition = (levels[i] for levels, i in zip(FACTORS.values(), style))
    grid = (np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size)  # twice as fine, then averaged: smooth edges
    x, y = np.meshgrid(grid, grid)
    ground, figure, *third = _hues(palette, rng)
    inside = _figure(x, y, shape, composition, rng)[..., None]
    dab, tone = (a[..., None] for a in _strokes(x, y, direction, stroke, rng))
    if third:
        ground = np.where(dab < 0.4, 0.15 * ground + 0.85 * third[0], ground)
    else:
        ground = np.where(dab < 0.2, 0.75 * ground + 0.25 * figure, ground)
    rgb = (1 - inside) * ground + inside * figure + 0.2 * tone
    rgb = rgb.reshape(size, 2, size, 2, 3).mean((1, 3))
    rgb *= np.exp(rng.normal(0, 0.04, 3) + rng.normal(0, 0.12))  # the light of the room
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _hues(palette, rng):
    """float32 [2 or 3, 3]: the palette's colours in random roles."""
    angles = np.deg2rad(rng.permutation(PALETTES[palette]) + rng.normal(0, 3))[:, None]
    red, green = np.array([2, -1, -1]) / math.sqrt(6), np.array([0, 1, -1]) / math.sqrt(2)
    light = 0.5 + rng.permutation(np.linspace(-0.17, 0.17, len(angles)))[:, None] + rng.normal(0, 0.05)
    return (light + rng.uniform(0.3, 0.38) * (np.cos(angles) * red + np.sin(angles) * green)).astype(np.float32)


def _strokes(x, y, direction, stroke, rng):
    """A wall of brush strokes: for each pixel its stroke's random number in [0, 1), and its brightness about 0."""
    width, ratio = STROKES[stroke]
    width *= rng.uniform(0.9, 1.1)
    if direction == "swirling":
        cx, cy = rng.uniform(0.2, 0.8, 2).tolist()
        across = np.hypot(x - cx, y - cy)
        along = (np.arctan2(y - cy, x - cx) + np.pi) * np.maximum(np.floor(across / width), 1) * width
    else:
        angle = math.radians(DIRECTIONS[direction] * rng.choice([-1, 1]) + rng.normal(0, 5))
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    table = rng.random((2, 128, 128), dtype=np.float32)
    across = across / width + 64  # a row of strokes is one unit wide; none is negative
    row = np.floor(across).astype(np.int32) % 128
    column = np.floor(along / (width * ratio) + 64 + table[0, row, 0]).astype(np.int32) % 128
    ridge = 1 / 3 - (2 * (across % 1) - 1) ** 2  # thick paint catches light
    return table[0, row, column], 2 * table[1, row, column] - 1 + 0.6 * ridge


def _figure(x, y, shape, composition, rng):
    """How far each pixel belongs to the figure (1) and not to the ground (0): copies of one shape, arranged."""
    turn, near = rng.normal(0, 0.1), np.arange(-1, 5)
    if composition in ("scatter", "mosaic"):
        pitch, phase = rng.uniform(0.36, 0.4), rng.random(2)
        cells = np.stack(np.meshgrid(near, near), -1).reshape(-1, 2) + phase - 0.5
        spots = pitch * (cells + (rng.uniform(-0.17, 0.17, cells.shape) if composition == "scatter" else 0))
        radius = rng.uniform(0.35, 0.39) * pitch
    elif composition in ("frieze", "column"):
        middle, radius = rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.165)
        spots = np.stack([0.4 * (near - rng.random()), np.full(len(near), middle)], 1)
        if composition == "column":
            spots = spots[:, ::-1]
    else:
        spots, radius = rng.uniform(0.4, 0.6, (1, 2)), rng.uniform(0.3, 0.36)
    reach = np.min([_reach(x - cx, y - cy, shape, turn) for cx, cy in spots.tolist()], axis=0) / radius
    soft = len(x) * radius / 2  # an edge is two fine pixels wide
    if composition == "echo":
        return _edge((np.abs((2.2 * reach + rng.random()) % 1 - 0.5) - 0.25) * soft / 2.2)
    inside = _edge((1 - reach) * soft)
    if composition in ("frieze", "column"):
        off = np.abs((y if composition == "frieze" else x) - middle) / radius
        return np.maximum(inside, _edge((off - 1.5) * soft))
    if composition == "mosaic":
        odd = np.floor(x / pitch - phase[0]) + np.floor(y / pitch - phase[1])
        return np.where(odd % 2 == 1, 1 - inside, inside)
    return inside


def _edge(distance):
    return np.clip(distance + 0.5, 0, 1)


def _reach(x, y, shape, turn):
    """By how much the unit shape about the origin must grow to touch each point. Every shape has about pi of area."""
    c, s = math.cos(turn), math.sin(turn)
    x, y = np.abs(c * x + s * y), c * y - s * x
    if shape == "disc":
        return np.hypot(x, y)
    if shape == "square":
        return np.maximum(x, np.abs(y)) / 0.886
    if shape == "cross":
        return np.minimum(np.maximum(x, 3 * np.abs(y)), np.maximum(np.abs(y), 3 * x)) / 1.19
    if shape == "triangle":
        return np.maximum(y, math.sqrt(0.75) * x - y / 2) / 0.777
    tip, middle = 1.6, 1.755  # a leaf: where two circles overlap
    return (middle * x + np.sqrt((middle**2 + tip**2) * x**2 + tip**2 * y**2)) / tip**2
