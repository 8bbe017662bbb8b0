"""The pages in a real browser: sorting, filtering, hovering, keys, comparing; no error, no request; text stays text."""

import json
import re

import pytest

import report
from bench import browser
from bench.pages import make_run, make_study
from config import Config

pytestmark = pytest.mark.skipif(not browser.find(), reason="needs chromium")
HOSTILE = [
    "<script>document.title='hacked'</script>",
    'O\'Hara & "Sons"',
    "🎨 $x_1$",
    "\u202eevil",
    "a\x1b[31mred",
    "מונה",
]

# Helpers for the scripts, and at the end what they found, as JSON.
BEFORE = """
const $ = (selector) => document.querySelector(selector), found = {};
const column = (table, n) => [...table.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[n].textContent);
const key = (name) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const hover = (x, y) => document.elementFromPoint(x, y).dispatchEvent(
  new PointerEvent("pointermove", { clientX: x, clientY: y, bubbles: true }));
const blocked = [];
addEventListener("securitypolicyviolation", (event) => blocked.push(event.blockedURI));
"""
AFTER = """
const asked = performance.getEntriesByType("resource").map((each) => each.name);
found.requests = asked.filter((each) => !each.startsWith("data:"));
found.blocked = blocked;
return JSON.stringify(found);
"""


def ask(page, script, **how):
    """What `script` put into `found`, after no console message, no request and no blocked one."""
    said, console = browser.ask(page, BEFORE + script + AFTER, **how)
    found = json.loads(said)
    assert not console and found["requests"] == found["blocked"] == []
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return report.page_of(make_run(tmp_path_factory.mktemp("pages") / "run", 6, 120, names=HOSTILE), 0).write()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return report.page_of(make_study(tmp_path_factory.mktemp("pages") / "study", 14, 8, 90), 0).write()


def test_a_table_sorts_by_numbers_and_by_names_and_says_so(study):
    found = ask(study, """
        const table = $("#candidates table"), heads = [...table.querySelectorAll("th")];
        const f1 = heads.findIndex((h) => h.textContent === "macro F1"), state = heads.length - 1;
        heads[f1].firstChild.click(); found.down = column(table, f1); found.said = heads[f1].ariaSort;
        heads[f1].firstChild.click(); found.up = column(table, f1);
        heads[state].firstChild.click(); found.states = column(table, state);
        found.alone = table.querySelectorAll("[aria-sort]").length;
    """)  # fmt: skip
    down = [float(text) for text in found["down"] if text != "-"]
    assert down == sorted(down, reverse=True) and len(down) == 11 and found["down"][-3:] == ["-"] * 3
    assert [text for text in found["up"] if text != "-"] == sorted(text for text in found["up"] if text != "-")
    assert found["up"][-3:] == ["-"] * 3  # what is not known comes last either way
    assert found["states"] == sorted(found["states"]) and found["said"] == "descending" and found["alone"] == 1


def test_a_table_is_searched_and_filtered(study):
    found = ask(study, """
        const box = $("#candidates"), field = box.querySelector("input");
        const type = (text) => {
          field.value = text;
          field.oninput();
          return column(box.querySelector("table"), 0).length;
        };
        found.failed = type("memory"); found.said = box.querySelector("output").textContent;
        found.both = type("balance=sampler ls=0.1");
        found.more = type("macro_f1>0.3"); found.less = type("macro_f1<0.3"); found.equal = type("lr=0.5");
        found.least = type("macro_f1>=0.3"); found.most = type("macro_f1<=0.3"); found.word = type("macro_f1>high");
        found.all = type("");
    """)  # fmt: skip
    assert found["failed"] == 3 and found["said"] == "3 of 14" and found["both"] == 3 and found["all"] == 14
    assert found["more"] + found["less"] == 11 and found["more"] and not found["equal"]
    assert found["least"] >= found["more"] and found["most"] >= found["less"] and found["word"] == 0
    assert found["least"] + found["most"] >= 11


def test_two_candidates_stand_side_by_side(study):
    found = ask(study, """
        const box = $("[data-compare]"), [one, other] = box.querySelectorAll("select");
        other.value = 5; other.onchange();
        const words = (row) => [...row.cells].map((c) => c.textContent);
        found.lines = [...box.querySelectorAll("tbody tr")].map((r) => [r.className, ...words(r)]);
        found.row = words($("#candidates table").tBodies[0].rows[5]);
    """)  # fmt: skip
    assert [line[3] for line in found["lines"]] == found["row"]
    assert all((line[0] == "differs") == (line[2] != line[3]) for line in found["lines"])


def test_points_of_a_chart_speak_to_the_mouse_and_to_keys(run):
    found = ask(run, """
        const area = $("#learning .scroll"), mark = area.querySelectorAll("[id$=-line0] use")[3];
        area.scrollIntoView();
        const { left, top, width, height } = mark.getBoundingClientRect();
        hover(left + width / 2, top + height / 2); found.hover = $("#tip").textContent; found.shown = !$("#tip").hidden;
        area.focus(); key("Escape"); found.closed = $("#tip").hidden;
        key("ArrowRight"); found.first = $("#tip").textContent;
        key("ArrowRight"); found.second = $("#tip").textContent;
        found.live = $("#tip").getAttribute("aria-live");
    """)  # fmt: skip
    assert found["hover"].startswith("epoch 4: training") and found["shown"] and found["closed"]
    assert found["first"].startswith("epoch 1: training") and found["second"].startswith("epoch 2: training")
    assert found["live"] == "polite"


def test_a_matrix_says_the_names_of_a_cell(run):
    found = ask(run, """
        const area = $("#confusions .scroll"); area.scrollIntoView(); area.focus();
        found.names = JSON.parse(area.parentElement.querySelector("script").textContent).grid.names;
        const { left, top, width, height } = area.querySelector("image").getBoundingClientRect();
        hover(left + width * 2.5 / 6, top + height * 1.5 / 6); found.cell = $("#tip").textContent;
        key("ArrowDown"); found.below = $("#tip").textContent;
    """)  # fmt: skip
    names = found["names"]
    assert found["cell"].startswith(f"{names[1]} → {names[2]}: ") and found["below"].startswith(
        f"{names[2]} → {names[2]}: "
    )


def test_the_page_can_be_used_without_a_mouse(run):
    found = ask(run, """
        key("/"); found.searching = document.activeElement.tagName; document.activeElement.blur();
        found.dead = [...document.querySelectorAll("th > *, summary, a, select")].filter((e) => e.tabIndex < 0).length;
        found.unnamed = [...document.querySelectorAll("input, select")].filter((e) => !e.labels.length).length;
        found.pictures = [...document.querySelectorAll("img:not([alt]), svg:not([aria-hidden])")].length;
        found.charts = [...document.querySelectorAll(".chart .scroll")].filter((e) => !e.ariaLabel).length;
        dispatchEvent(new Event("beforeprint")); found.folded = document.querySelectorAll("details:not([open])").length;
    """)  # fmt: skip
    assert found["searching"] == "INPUT"
    assert found["dead"] == found["unnamed"] == found["pictures"] == found["charts"] == found["folded"] == 0


def test_names_of_every_kind_are_text(run):
    found = ask(run, "found.title = document.title; found.text = document.body.innerText;")
    assert found["title"] == "Run run"  # no script of a name has run
    for shown in ("<script>document.title='hacked'</script>", 'O\'Hara & "Sons"', "🎨 $x_1$", "a␛[31mred", "מונה"):
        assert shown in found["text"]
    assert "⟨U+202E⟩evil" in found["text"]


@pytest.mark.parametrize("width", [390, 1240])
@pytest.mark.parametrize("which", ["run", "study"])
def test_nothing_is_wider_than_the_screen(request, which, width):
    found = ask(
        request.getfixturevalue(which),
        "found.width = document.documentElement.scrollWidth; found.screen = innerWidth;",
        width=width,
    )
    assert found["width"] <= found["screen"] == width


def test_colours_follow_the_readers_choice(run):
    script = "const of = (where) => getComputedStyle($(where));"
    script += "found.ground = of('body').backgroundColor; found.ink = of('svg text').fill;"
    light = ask(run, script)
    dark = ask(run, script, dark=True)
    brightness = []
    for each in (light, dark):
        for what in ("ground", "ink"):
            brightness.append(sum(map(int, re.findall(r"\d+", each[what])[:3])))
    assert brightness[0] > 700 and brightness[1] < 350 and brightness[2] < 100 and brightness[3] > 400


def test_a_page_of_what_goes_on_reads_itself_again_unless_somebody_types(tmp_path):
    (tmp_path / "args.json").write_text(json.dumps(dict(Config().settings(), data=str(tmp_path))))
    count = "parent.times = (parent.times || 0) + 1; found.times = parent.times;"
    page = report.page_of(tmp_path, 10).write()
    assert ask(page, count, seconds=25)["times"] == 3
    assert ask(page, count + "$('details').open = true; $('input').focus();", seconds=25)["times"] == 1
    assert ask(report.page_of(tmp_path, 0).write(), count, seconds=25)["times"] == 1
