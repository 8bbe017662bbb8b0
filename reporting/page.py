"""One HTML file that needs nothing else: text, tables, charts and pictures. Its charts lie beside it as PNG and CSV.

Whatever comes from a run is shown as text, control characters as symbols. A policy in the head forbids every request.
"""

import base64
import csv
import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from files import replacing
from pictures.names import visible
from reporting.chart import Chart

HERE = Path(__file__).parent
BYTES = dict(encoding="utf-8", errors="surrogateescape")  # a name that is no UTF-8 keeps its bytes
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Html(str):
    """Markup that is put into the page as it is."""


def escaped(value: object) -> str:
    """Text or markup, for the page and for an attribute in double quotes."""
    return value if isinstance(value, Html) else html.escape(visible(value))


def name(value: object) -> Html:
    """A name of a class, file or setting: it runs in its own direction."""
    return Html(f"<bdi>{escaped(value)}</bdi>")


def prose(words: object) -> Html:
    """Text or markup; a flag in text is code, which no line parts at its hyphens."""
    flag = r"(?<!\S)--[a-z][a-z-]*"
    return words if isinstance(words, Html) else Html(re.sub(flag, r"<code>\g<0></code>", escaped(words)))


def paragraph(*words: object, kind: str = "") -> Html:
    """Words one after another."""
    return Html(f'<p class="{kind}">{" ".join(map(prose, words))}</p>')


def note(*words: object) -> Html:
    """A paragraph of explanation, or why a panel is empty."""
    return paragraph(*words, kind="note")


def items(lines: Iterable[object]) -> Html:
    """A numbered list."""
    return Html(f"<ol>{''.join(f'<li>{prose(line)}</li>' for line in lines)}</ol>")


def code(words: str) -> Html:
    """A command or a file's text."""
    return Html(f'<pre tabindex="0">{escaped(words).replace("␊", chr(10))}</pre>')


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and what they are."""
    return Html(f"<dl>{''.join(f'<dt>{escaped(a)}</dt><dd>{escaped(b)}</dd>' for a, b in pairs)}</dl>")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence], search: str = "", ident: str = "") -> Html:
    """A table that sorts by a click on a column's head. A column whose name begins with # holds numbers.

    search: what the search field asks for; '' for none, as in short tables.
    """
    right = [column.startswith("#") for column in header]
    heads = []
    for column, numeric in zip(header, right):
        heads.append(f'<th scope="col"{" class=n" * numeric}><button>{escaped(column.removeprefix("#"))}</button></th>')
    lines = []
    for row in rows:
        cells = [f"<td{' class=n' * numeric}>{escaped(cell)}" for cell, numeric in zip(row, right)]
        lines.append(f"<tr>{''.join(cells)}")
    field = ""
    if search:
        field = f'<label class="search">{escaped(search)} <input type="search"></label><output></output>'
    return Html(
        f'<div class="table" id="{ident}">{field}<div class="scroll" tabindex="0"><table><caption>{escaped(caption)}'
        f"</caption><thead><tr>{''.join(heads)}</thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def picture(jpeg: bytes | None, alt: str, *lines: object, kind: str = "") -> Html:
    """A picture with lines of text under it; an empty frame where it cannot be read. kind: right, wrong, or ''."""
    shown = '<span class="gone">no picture</span>'
    if jpeg is not None:
        shown = f'<img alt="{escaped(alt)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    said = "".join(f"<span>{escaped(line)}</span>" for line in lines)
    return Html(f'<figure class="picture {kind}">{shown}<figcaption>{said}</figcaption></figure>')


def gallery(pictures: Iterable[Html]) -> Html:
    """Pictures in rows."""
    return Html(f'<div class="gallery">{"".join(pictures)}</div>')


def strips(rows: Iterable[tuple[Html, list[Html]]], kind: str = "") -> Html:
    """Pictures in a line a row, each beside its title."""
    lines = "".join(f'<div class="strip">{title}{gallery(tiles)}</div>' for title, tiles in rows)
    return Html(f'<div class="{kind}">{lines}</div>')


def heading(words: object) -> Html:
    """The heading of a part of a section."""
    return Html(f"<h3>{escaped(words)}</h3>")


def folded(title: object, *parts: object) -> Html:
    """Parts that are shown when asked for, and in print."""
    return Html(f"<details><summary>{escaped(title)}</summary>{''.join(map(escaped, parts))}</details>")


class Page:
    """A page in the making: FOLDER/report.html, and FOLDER/report/ with the charts."""

    def __init__(self, folder: Path, title: str, refresh: int = 0):
        """refresh: seconds after which the page loads itself again, 0 for never."""
        self.folder, self.title, self.refresh = folder, title, refresh
        self.sections = []  # (id, title, markup)
        self.charts = []

    def section(self, title: str, *parts: object) -> None:
        """A panel with a heading; parts are markup, text or charts. Charts that follow each other share a row."""
        ident = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
        body, row = [], []
        for part in [*parts, Html()]:
            if isinstance(part, Chart):
                row.append(self.figure(part))
                continue
            if row:
                body.append(f'<div class="charts">{"".join(row)}</div>')
                row = []
            body.append(escaped(part))
        self.sections.append((ident, title, "".join(body)))

    def headline(self, said: Iterable[object], others: Iterable[object]) -> None:
        """The first panel: what came out and what to do next, then what else there is to know, a line each."""
        self.section("What came out", paragraph(*said, kind="lead"), items(others))

    def figure(self, chart: Chart) -> Html:
        """A chart as markup: its caption, what its points say, links to its files."""
        self.charts.append(chart)
        said = ""
        if chart.tips or chart.grid:
            tips = {gid: [visible(line) for line in lines] for gid, lines in chart.tips.items()}
            grid = chart.grid and chart.grid | dict(names=[*map(visible, chart.grid["names"])])
            words = json.dumps(dict(tips=tips, grid=grid), separators=(",", ":")).replace("<", "\\u003c")
            said = f'<script type="application/json">{words}</script>'
        files = " ".join(f'<a href="report/{chart.name}.{kind}">{kind.upper()}</a>' for kind in ("png", "csv"))
        focus = ' tabindex="0"' if said else ""
        wide = "chart wide" if chart.wide else "chart"
        return Html(
            f'<figure class="{wide}"><figcaption>{escaped(chart.title)}</figcaption>'
            f'<div class="scroll"{focus} role="group" aria-label="{escaped(chart.alt)}">{chart.svg()}</div>'
            f'<p class="files">{escaped(chart.alt)} {files}</p>{said}</figure>'
        )

    def write(self) -> Path:
        """Writes the page and its charts, and returns the page's path."""
        beside = self.folder / "report"
        beside.mkdir(exist_ok=True)
        for chart in self.charts:
            with replacing(beside / f"{chart.name}.png") as draft:
                chart.save(draft, format="png", dpi=144)
            with replacing(beside / f"{chart.name}.csv") as draft, open(draft, "w", newline="", **BYTES) as f:
                csv.writer(f, lineterminator="\n").writerows([chart.header, *chart.rows])
        links = "".join(f'<a href="#{ident}">{escaped(title)}</a>' for ident, title, _ in self.sections[1:])
        panels = "".join(
            f'<section id="{ident}" aria-label="{escaped(title)}"><h2>{escaped(title)}</h2>{body}</section>'
            for ident, title, body in self.sections
        )
        whole = f"""<!DOCTYPE html>
<html lang="en" data-refresh="{self.refresh}"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{escaped(self.title)}</title><link rel="icon" href="data:,">
<style>{(HERE / "page.css").read_text(encoding="utf-8")}</style></head>
<body><a class="skip" href="#content">to the content</a><header><h1>{name(self.title)}</h1><nav>{links}</nav></header>
<main id="content">{panels}</main><div id="tip" role="status" aria-live="polite" hidden></div>
<script>{(HERE / "page.js").read_text(encoding="utf-8")}</script></body></html>
"""
        path = self.folder / "report.html"
        with replacing(path) as draft:
            draft.write_text(whole, encoding="utf-8", errors="replace")
        return path
