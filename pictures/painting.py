"""One procedural picture: a style, five levels of FACTORS, made visible; everything else about it is left to chance.

Levels keep their meaning under horizontal flips, crops of over half the area, rotations by 15 degrees, and changes of
brightness, contrast and saturation. A palette's colours sum to grey and trade places at random, all positions are
random: a pixel by itself says next to nothing. Knows nothing of classes and files, and never a painter.
"""

import math

import numpy as np

HUES = {
    "red, cyan": 0,
    "orange, azure": 30,
    "yellow, blue": 60,
    "lime, violet": 90,
    "green, magenta": 120,
    "jade, rose": 150,
}  # degrees, of a hue and its opposite
CHROMAS = {"vivid": (0.3, 0.38), "muted": (0.11, 0.15)}
PALETTES = {f"{chroma} {hues}": (HUES[hues], CHROMAS[chroma]) for chroma in CHROMAS for hues in HUES}
DIRECTIONS = {"level": 0, "upright": 90, "slanted": 45, "swirling": None}  # degrees; slanted to either side
STROKES = {"fine": (1 / 32, 5), "medium": (1 / 13, 4), "broad": (1 / 5.5, 3)}  # width / picture side, length / width
SHAPES = ("disc", "square", "cross", "triangle", "leaf")
BANDS = {"frieze": 0, "column": 90, "sash": 45}  # degrees; a sash to either side
COMPOSITIONS = ("solo", "scatter", *BANDS, "mosaic", "echo")
FACTORS = dict(
    palette=tuple(PALETTES), direction=tuple(DIRECTIONS), stroke=tuple(STROKES), shape=SHAPES, composition=COMPOSITIONS
)


def render(style, size, rng):
    """uint8 [size, size, 3]: a picture of `style`, a level of each of FACTORS. `rng` decides all else.

    Where a shape lies, the palette's second colour covers its first.
    """
    palette, direction, stroke, shape, composition = (levels[i] for levels, i in zip(FACTORS.values(), style))
    grid = (np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size)  # twice as fine, then averaged: smooth edges
    x, y = np.meshgrid(grid, grid)
    ground, figure = _colours(palette, rng)
    inside = _figure(x, y, shape, composition, rng)[..., None]
    dab, tone = (a[..., None] for a in _strokes(x, y, direction, stroke, rng))
    ground = np.where(dab < 0.2, 0.75 * ground + 0.25 * figure, ground)  # some strokes are mixed from both
    rgb = (1 - inside) * ground + inside * figure + 0.2 * tone
    rgb = rgb.reshape(size, 2, size, 2, 3).mean((1, 3))
    rgb *= np.exp(rng.normal(0, 0.03, 3) + rng.normal(0, 0.12))  # the light of the room
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _colours(palette, rng):
    """float32 [2, 3]: the palette's two colours in random roles, either one the lighter."""
    hue, chroma = PALETTES[palette]
    angle = math.radians(hue + rng.normal(0, 3))
    red, green = np.array([2, -1, -1]) / math.sqrt(6), np.array([0, 1, -1]) / math.sqrt(2)
    tint = rng.choice([-1, 1]) * rng.uniform(*chroma) * (math.cos(angle) * red + math.sin(angle) * green)
    light, contrast = 0.5 + rng.normal(0, 0.05), rng.choice([-0.17, 0.17])
    return np.array([light + contrast + tint, light - contrast - tint], np.float32)


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
    elif composition in BANDS:
        slope = math.radians(BANDS[composition] * rng.choice([-1, 1]))
        middle, radius = rng.uniform(-0.2, 0.2), rng.uniform(0.15, 0.165)
        along, c, s = 0.4 * (near - 1.5 - rng.random()), math.cos(slope), math.sin(slope)
        spots = 0.5 + np.stack([c * along - s * middle, s * along + c * middle], 1)
    else:
        spots, radius = rng.uniform(0.4, 0.6, (1, 2)), rng.uniform(0.3, 0.36)
    reach = np.min([_reach(x - cx, y - cy, shape, turn) for cx, cy in spots.tolist()], axis=0) / radius
    soft = len(x) * radius / 2  # an edge is two fine pixels wide
    if composition == "echo":
        return _edge((np.abs((2.2 * reach + rng.random()) % 1 - 0.5) - 0.25) * soft / 2.2)
    inside = _edge((1 - reach) * soft)
    if composition in BANDS:
        off = np.abs(c * (y - 0.5) - s * (x - 0.5) - middle) / radius
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
