"""A chart: drawn once, in the page as SVG in the reader's light or dark, beside it as PNG, and its data as CSV."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1f2329", "#59636e", "#d0d7df", "#fefefe"
BLUE, ORANGE, GREEN, PURPLE, RED = "#0969da", "#bc4c01", "#1a7f37", "#8250df", "#cf222e"
# What a colour is called in page.css, which says how it looks in the dark.
NAMES = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper"}
NAMES |= {BLUE: "blue", ORANGE: "orange", GREEN: "green", PURPLE: "purple", RED: "red"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and be read aloud
    "svg.hashsalt": "longtail",
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "font.size": 9,
}
STYLE |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
STYLE |= dict.fromkeys(("axes.labelcolor", "text.color"), INK)
STYLE |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor"), FAINT)
matplotlib.rcParams.update(STYLE)


@dataclass
class Chart:
    """A picture and what it is made of."""

    name: str  # of its files
    title: str
    alt: str  # what is to be seen, in a sentence
    figure: Figure
    header: list[str]
    rows: list[Sequence]  # the data
    tips: dict[str, list[str]] = field(default_factory=dict)  # id of a group of points -> what each of them says
    grid: dict | None = None  # of a matrix: names, and cells [row, col, what it says]
    wide: bool = False  # shown at its own size, scrolled where the screen is narrower

    def save(self, file, **how) -> None:
        """Draws the picture to a file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # of a PNG; a page has its reader's fonts
            self.figure.savefig(file, **how)

    def svg(self) -> str:
        """The picture as SVG for the inside of a page."""
        text = io.StringIO()
        self.save(text, format="svg", metadata=dict(Date=None, Creator=None), transparent=True)
        self.figure.set_layout_engine("none")  # it is done: the PNG needs no second one
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\n\s*", "", svg, flags=re.DOTALL)
        for colour, name in NAMES.items():
            svg = svg.replace(colour, f"var(--{name})")
        svg = re.sub(r' id="[a-zA-Z]+\d*_[\d_]+"', "", svg)  # matplotlib's numbers, which every chart has
        svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{self.name}-", svg)  # what is left is this chart's own
        width = 90 * self.figure.get_figwidth()  # px: text of 9 points is then 11 px
        head = rf'<svg style="width:{width:.0f}px" \1 aria-hidden="true">'
        return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', head, svg, count=1)


def figure(width: float = 4.2, height: float = 2.8, panels: int = 1):
    """A Figure of so many inches and its axes: one, or an array of `panels` side by side."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(1, panels)
