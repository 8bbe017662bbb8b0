"""One procedural picture: a style, five levels of FACTORS, made visible. Everything else about it is left to chance.

Levels keep their meaning under horizontal flips, crops of over half the area, rotations by 15 degrees, and changes of
brightness, contrast and saturation. A pixel by itself says next to nothing: a palette's colours sum to grey and trade
places at random, and all positions are random. Knows nothing of classes and files, and never a painter.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

HUES = {
    "red, cyan": 0,
    "orange, azure": 30,
    "yellow, blue": 60,
    "lime, violet": 90,
    "green, magenta": 120,
    "jade, rose": 150,
}  # degrees, of a hue and its opposite
CHROMAS = {"vivid": (0.3, 0.38), "muted": (0.11, 0.15)}  # lowest and highest
PALETTES = {f"{chroma} {hues}": (HUES[hues], CHROMAS[chroma]) for chroma in CHROMAS for hues in HUES}
DIRECTIONS = {
    "level": 0,
    "upright": 90,
    "slanted": 45,  # to either side
    "swirling": None,
}  # degrees
STROKES = {
    "fine": (1 / 32, 5),
    "medium": (1 / 13, 4),
    "broad": (1 / 5.5, 3),
}  # width / picture side, length / width
SHAPES = ("disc", "square", "cross", "triangle", "leaf")
BANDS = {
    "frieze": 0,
    "column": 90,
    "sash": 45,  # to either side
}  # degrees
COMPOSITIONS = ("solo", "scatter", *BANDS, "mosaic", "echo")
FACTORS = {
    "palette": tuple(PALETTES),
    "direction": tuple(DIRECTIONS),
    "stroke": tuple(STROKES),
    "shape": SHAPES,
    "composition": COMPOSITIONS,
}
NEAR = np.arange(-1, 5)  # cells of a lattice or band that can reach into the picture


def render(style: Sequence[int], size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [size, size, 3]: a picture of `style`, which has one level number for each of FACTORS.

    `rng` decides all else. Where a shape lies, the palette's second colour covers its first.
    """
    levels = [names[level] for names, level in zip(FACTORS.values(), style)]
    palette, direction, stroke, shape, composition = levels
    # Twice as fine as the picture, then averaged: that is what smooths the edges.
    grid = (np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size)
    x, y = np.meshgrid(grid, grid)

    ground, figure = _colours(palette, rng)
    inside = _figure(x, y, shape, composition, rng)[..., None]
    dab, tone = _strokes(x, y, direction, stroke, rng)
    dab = dab[..., None]
    tone = tone[..., None]
    # Some strokes are mixed from both colours, as on a palette that is not quite clean.
    ground = np.where(dab < 0.2, 0.75 * ground + 0.25 * figure, ground)
    rgb = (1 - inside) * ground + inside * figure + 0.2 * tone
    rgb = rgb.reshape(size, 2, size, 2, 3).mean((1, 3))

    # The light of the room differs from picture to picture, in colour a little and in brightness more.
    tint = rng.normal(0, 0.03, 3)
    brightness = rng.normal(0, 0.12)
    rgb *= np.exp(tint + brightness)
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _colours(palette, rng):
    """float32 [2, 3]: the palette's two colours in random roles, either one the lighter."""
    hue, (lowest, highest) = PALETTES[palette]
    angle = math.radians(hue + rng.normal(0, 3))
    # Two unit vectors across the grey axis: whatever the angle, the tint's channels sum to zero.
    red = np.array([2, -1, -1]) / math.sqrt(6)
    green = np.array([0, 1, -1]) / math.sqrt(2)
    side = rng.choice([-1, 1])
    chroma = side * rng.uniform(lowest, highest)
    tint = chroma * (math.cos(angle) * red + math.sin(angle) * green)
    light = 0.5 + rng.normal(0, 0.05)
    contrast = rng.choice([-0.17, 0.17])
    return np.array([light + contrast + tint, light - contrast - tint], np.float32)


def _strokes(x, y, direction, stroke, rng):
    """A wall of brush strokes: for each pixel its stroke's random number in [0, 1), and its brightness about 0."""
    width, ratio = STROKES[stroke]
    width *= rng.uniform(0.9, 1.1)
    along, across = _stroke_axes(x, y, direction, width, rng)
    table = rng.random((2, 128, 128), dtype=np.float32)
    offsets = table[0, :, 0]  # bricks: each row of strokes begins elsewhere
    across = across / width + 64  # a row of strokes is one unit wide; none is negative
    row = np.floor(across).astype(np.int32) % 128
    column = np.floor(along / (width * ratio) + 64 + offsets[row]).astype(np.int32) % 128
    ridge = 1 / 3 - (2 * (across % 1) - 1) ** 2  # thick paint catches light
    dab = table[0, row, column]
    return dab, 2 * table[1, row, column] - 1 + 0.6 * ridge


def _stroke_axes(x, y, direction, width, rng):
    """Each pixel's position along its stroke and across the strokes, in picture sides."""
    if direction == "swirling":
        centre = rng.uniform(0.2, 0.8, 2)
        centre_x, centre_y = centre.tolist()  # plain floats leave x and y in float32
        across = np.hypot(x - centre_x, y - centre_y)
        ring = np.maximum(np.floor(across / width), 1)  # whole rings, so that a stroke's sides have one length
        along = (np.arctan2(y - centre_y, x - centre_x) + np.pi) * ring * width
        return along, across
    lean = rng.choice([-1, 1])
    angle = math.radians(DIRECTIONS[direction] * lean + rng.normal(0, 5))
    cosine, sine = math.cos(angle), math.sin(angle)
    along = x * cosine + y * sine
    across = y * cosine - x * sine
    return along, across


def _figure(x, y, shape, composition, rng):
    """How far each pixel belongs to the figure (1) and not to the ground (0): copies of one shape, arranged."""
    turn = rng.normal(0, 0.1)  # radians, of all copies
    reach = partial(_nearest, x, y, shape, turn)
    if composition in BANDS:
        return _band(x, y, reach, BANDS[composition], rng)
    if composition in ("scatter", "mosaic"):
        return _lattice(x, y, reach, composition, rng)
    centre = rng.uniform(0.4, 0.6, (1, 2))
    radius = rng.uniform(0.3, 0.36)
    if composition == "solo":
        return _cover(1 - reach(centre, radius), radius)
    # An echo: rings of the shape, one inside the other, 2.2 of them in a radius.
    rings = (2.2 * reach(centre, radius) + rng.random()) % 1
    return _cover(np.abs(rings - 0.5) - 0.25, radius, 2.2)


def _lattice(x, y, reach, composition, rng):
    """A copy in each cell of a square lattice: shaken in a scatter, with every other cell inverted in a mosaic."""
    pitch = rng.uniform(0.36, 0.4)
    phase = rng.random(2)
    columns, rows = np.meshgrid(NEAR, NEAR)
    cells = np.stack([columns, rows], -1).reshape(-1, 2) + phase - 0.5
    if composition == "scatter":
        cells += rng.uniform(-0.17, 0.17, cells.shape)
    radius = rng.uniform(0.35, 0.39) * pitch
    inside = _cover(1 - reach(pitch * cells, radius), radius)
    if composition == "scatter":
        return inside
    column = np.floor(x / pitch - phase[0])
    row = np.floor(y / pitch - phase[1])
    return np.where((column + row) % 2 == 1, 1 - inside, inside)


def _band(x, y, reach, degrees, rng):
    """Copies in a row through the picture, and all that lies farther off the row than they do."""
    lean = rng.choice([-1, 1])
    slope = math.radians(degrees * lean)
    cosine, sine = math.cos(slope), math.sin(slope)
    middle = rng.uniform(-0.2, 0.2)  # of the row, off the picture's centre
    radius = rng.uniform(0.15, 0.165)
    along = 0.4 * (NEAR - 1.5 - rng.random())
    centres = 0.5 + np.stack([cosine * along - sine * middle, sine * along + cosine * middle], 1)
    inside = _cover(1 - reach(centres, radius), radius)
    off = np.abs(cosine * (y - 0.5) - sine * (x - 0.5) - middle) / radius
    return np.maximum(inside, _cover(off - 1.5, radius))


def _nearest(x, y, shape, turn, centres, radius):
    """Each pixel's reach from the nearest of `centres` [n, 2], in radii: below 1 inside a copy."""
    reaches = [_reach(x - centre_x, y - centre_y, shape, turn) for centre_x, centre_y in centres.tolist()]
    return np.min(reaches, axis=0) / radius


def _cover(distance, radius, rings=1):
    """The share of each pixel that lies inside an edge, from its distance to the edge, positive inside.

    Distances are in radii, or in parts of a radius where several `rings` lie in one.
    """
    fine_pixels = len(distance) * radius / 2  # in pairs: an edge is two of them wide
    return np.clip(distance * fine_pixels / rings + 0.5, 0, 1)


def _reach(x, y, shape, turn):
    """By how much the unit shape about the origin must grow to touch each point. Every shape has about pi of area."""
    cosine, sine = math.cos(turn), math.sin(turn)
    across = np.abs(cosine * x + sine * y)  # every shape is its own mirror image
    up = cosine * y - sine * x
    if shape == "disc":
        return np.hypot(across, up)
    if shape == "square":
        return np.maximum(across, np.abs(up)) / 0.886
    if shape == "cross":
        level = np.maximum(across, 3 * np.abs(up))
        upright = np.maximum(np.abs(up), 3 * across)
        return np.minimum(level, upright) / 1.19
    if shape == "triangle":
        return np.maximum(up, math.sqrt(0.75) * across - up / 2) / 0.777
    tip, middle = 1.6, 1.755  # a leaf: where two circles overlap
    root = np.sqrt((middle**2 + tip**2) * across**2 + tip**2 * up**2)
    return (middle * across + root) / tip**2
