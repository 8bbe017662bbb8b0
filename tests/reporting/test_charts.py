"""Charts as a reader sees them: labels that do not touch, a constant with its zero, flags that no line parts."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reporting import charts
from reporting.page import Html, prose


def boxes(axes, which):
    """Where the tick labels of an axis are drawn, px."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return [label.get_window_extent(renderer) for label in getattr(axes, f"get_{which}ticklabels")()]


@pytest.mark.parametrize("names", [["a", "b", "c"], [f"lr 0.00{i}, seed {i}" for i in range(12)], ["x" * 40] * 3])
def test_labels_of_a_heat_map_do_not_touch(names):
    values = np.linspace(0, 1, len(names) ** 2).reshape(len(names), -1)
    chart = charts.heat("heat", "", "", "share", ("one", names), ("other", names), values)
    (axes,) = chart.figure.axes
    for which in "xy":
        drawn = boxes(axes, which)
        for before, after in zip(drawn, drawn[1:]):
            assert not before.overlaps(after)
        for box in drawn:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= axes.figure.bbox.x1


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_is_shown_with_its_zero(value):
    chart = charts.strips("seeds", "", "", "worst class", dict(a=[value] * 3), limits=[(value, 0.0)])
    low, high = chart.figure.axes[0].get_ylim()
    assert low < 0 < value + 1e-9 < high and -low < 0.1 * high
    chart = charts.curves("ls", "", "", dict(smoothing=[value] * 3), None)
    assert chart.figure.axes[0].get_ylim() == (low, high)


def test_flags_in_text_are_not_parted_and_names_stay_text():
    assert prose("try --balance sampler") == "try <code>--balance</code> sampler"
    assert prose("a--b --> <i>--x") == "a--b --&gt; &lt;i&gt;--x"
    assert prose(Html("<b>--x</b>")) == "<b>--x</b>"
