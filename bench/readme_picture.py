"""README's docs/report.png: three charts of a study's page side by side, large enough to be read where README is shown.

    python -m bench.readme_picture runs/oof96      the study that docs/measurements.md has under "Probabilities"

Reads the study as report.py does and measures nothing.
"""

import io
import sys
from pathlib import Path

from PIL import Image

import report
from errors import LongtailError, Parser, run_command
from reporting.chart import Chart

# Each chart and its width in inches. 9.4 inches shown at some 840 px: text of 9 points is then 11 px.
CHARTS = {"f1_by_count": 3.0, "reliability_all": 3.5, "coverage": 2.9}
HEIGHT, DPI = 2.5, 192


def drawn(chart: Chart, width: float) -> Image.Image:
    """A chart drawn anew at another size, under its title."""
    chart.figure.set_size_inches(width, HEIGHT)
    chart.figure.set_layout_engine("constrained")
    chart.figure.suptitle(chart.title, fontsize=9, fontweight="bold")
    file = io.BytesIO()
    chart.save(file, format="png", dpi=DPI)
    return Image.open(file)


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    whole = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height))
    left = 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width
    return whole


def make(study: Path, output: Path) -> None:
    """Draws CHARTS of the page of `study`."""
    charts = {chart.name: chart for chart in report.page_of(study, 0).charts}
    if missing := CHARTS.keys() - charts.keys():
        raise LongtailError(f"{study}: its page has no {', '.join(sorted(missing))}: name a study whose winner is done")
    # Of few colours: a third of the bytes.
    side_by_side([drawn(charts[name], width) for name, width in CHARTS.items()]).quantize(64).save(output, "PNG")
    print(output)


def main(args: list[str] | None = None) -> int:
    parser = Parser(prog="bench.readme_picture", description=__doc__)
    parser.add_argument("study", help="its folder")
    parser.add_argument("-o", "--output", default="docs/report.png", metavar="PNG", help="(default docs/report.png)")
    space = parser.parse_args(args)
    return run_command("bench.readme_picture", lambda: make(Path(space.study), Path(space.output)))


if __name__ == "__main__":
    sys.exit(main())
