"""Pages: what the report of a suite and the leaderboard's site share. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from clbench.reports.markup import join, policy, spelled, tag
from clbench.reports.tables import Column, Text


def page(title: str, header: object, body: object, footer: object, *, live: bool = False) -> Markup:
    """Return a whole page, which needs no other file; a `live` one sorts and filters its tables."""
    whole = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{policy}
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>{header}</header>
<main>{body}</main>
<footer>{footer}</footer>
{script}</body>
</html>
""").format(
        policy=policy(CSS, SCRIPT if live else ""),
        title=title,
        style=Markup(CSS),
        header=header,
        body=body,
        footer=footer,
        script=Markup("<script>{}</script>\n").format(Markup(SCRIPT)) if live else "",
    )
    return spelled(whole)


def table(
    columns: Sequence[Column], rows: Sequence[Mapping[str, str]], *, up: str = "", sortable: bool = False
) -> Markup:
    """Return a table of columns.

    Args:
        rows: attributes of each. up: the way to where links start. sortable: whether the script sorts it.
    """
    head = [
        tag(
            "th",
            tag("button", of.head, type="button", title=of.hint or "sort") if sortable else of.head,
            scope="col",
            class_="words" if of.words else "",
            aria_sort="none" if sortable else "",
        )
        for of in columns
    ]
    lines = [
        tag("tr", *(_inside(of, of.texts[i], up) for of in columns), **about) + "\n"
        for i, about in enumerate(rows)
    ]
    whole = tag(
        "table",
        tag("thead", tag("tr", *head)),
        "\n",
        tag("tbody", "\n", *lines),
        class_="sortable" * sortable,
    )
    return tag("div", whole, class_="table") + "\n"


def _inside(column: Column, of: Text, up: str) -> Markup:
    aside = None if column.words else re.search(r" (±.*|\(.*)", of.text)
    shown = join([of.text[: aside.start()], tag("small", aside[0])]) if aside else escape(of.text)
    shown = tag("a", shown, href=up + of.link) if of.link else tag("b", shown) if of.best else shown
    value = None if of.value is None else repr(of.value)
    named = {"class_": "words"} if column.words else {"data_value": value}
    header = column.head == "strategy"
    return tag("th" if header else "td", shown, scope="row" if header else "", **named)


SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column], value = cell.dataset.value;
      return value === undefined ? cell.textContent.trim() : value === "inf" ? Infinity : Number(value);
    };
    const rows = [...table.tBodies[0].rows].map((row, place) => [key(row), place, row]);
    rows.sort(([a, i], [b, j]) => {
      const order = typeof a === "number" && typeof b === "number" ? a - b || 0 : String(a).localeCompare(String(b));
      if (a === Infinity || b === Infinity) return a === b ? i - j : a === Infinity ? 1 : -1;
      return (up ? order : -order) || i - j;
    });
    table.tBodies[0].append(...rows.map(entry => entry[2]));
  }));
}
const form = document.querySelector("form.filters");
if (form) {
  const rows = [...document.querySelectorAll("tr.row")], count = document.getElementById("count");
  const show = () => {
    const wanted = document.getElementById("search").value.trim().toLowerCase();
    const facets = [...form.querySelectorAll("select")].filter(select => select.value);
    let shown = 0;
    for (const row of rows) {
      const fits = facets.every(select => row.dataset[select.dataset.facet] === select.value)
        && row.textContent.toLowerCase().includes(wanted);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  show();
}
"""

SHADES = 20
"""Shades of a cell of a matrix: the class `v7` is seven twentieths of the darkest."""

CSS = """
:root { --ink: #1d1d1f; --faint: #63666b; --line: #d9dce1; --paper: #ffffff; --tint: #f5f6f8; --link: #0b62a8;
  --bad: #b3261e; --heat: 0, 114, 178; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e8ea; --faint: #a2a6ad; --line: #3a3e45; --paper: #17191d;
  --tint: #22252b; --link: #79b8f0; --bad: #ff8a80;
  --heat: 86, 160, 220; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: .2rem 0 .6rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .6rem; font-size: 1.25rem; }
a { color: var(--link); }
a:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible { outline: 2px solid var(--link);
  outline-offset: 2px; }
.lead { max-width: 46rem; color: var(--faint); }
.note, small, figcaption, footer { color: var(--faint); }
.note, figcaption { font-size: .86rem; max-width: 52rem; }
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { padding: .7rem 1rem; overflow-x: auto; background: var(--tint); border-radius: 8px; }
.filters { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: end; margin: 1.2rem 0 .8rem;
  font-size: .86rem; }
.filters label { display: grid; gap: .15rem; color: var(--faint); }
input, select, .filters button { font: inherit; color: var(--ink); background: var(--tint); padding: .3rem .55rem;
  border: 1px solid var(--line); border-radius: 6px; max-width: 15rem; }
output { color: var(--faint); padding: .35rem 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
div.table > table { width: 100%; }
th, td { padding: .36rem .6rem; text-align: right; white-space: nowrap; font-weight: normal; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; font-weight: 600; }
thead button { all: unset; cursor: pointer; font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; border-radius: 2px; }
th[aria-sort="ascending"] button::after { content: " ▴"; }
th[aria-sort="descending"] button::after { content: " ▾"; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr:hover > * { background: var(--tint); }
tr.best > :first-child, td b { font-weight: 700; }
tr.bound { font-style: italic; color: var(--faint); }
.words { text-align: left; }
tr.unfinished > :nth-child(2), .note strong { color: var(--bad); }
ul.plain { list-style: none; padding: 0; }
figure { margin: 1.8rem 0; }
img { display: block; max-width: 100%; height: auto; padding: .5rem; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; }
dt { margin-top: 1rem; font-weight: 600; }
dd { margin: 0; }
svg { display: block; width: 100%; max-width: 60rem; height: auto; }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
svg text.axis { font-size: 12px; fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: .7; }
svg .mark { stroke: var(--faint); stroke-width: .8; stroke-dasharray: 4 3; }
svg .thread { stroke: var(--faint); stroke-width: .8; }
svg .bar { stroke: currentColor; stroke-width: 4; }
svg .dot { fill: currentColor; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; margin: .3rem 0;
  font-size: .86rem; }
.key svg { display: inline-block; width: 1.4rem; height: 3px; margin-right: .4rem; vertical-align: middle; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; max-width: 60rem; }
.pairs figure { margin: .6rem 0; }
.matrices { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; }
.matrices figure { margin: .4rem 0; }
.matrix td { min-width: 2.3rem; padding: .25rem .4rem; text-align: center; border: 0; background: rgba(var(--heat),
  calc(var(--v, 0) * .55)); }
.matrix td.later { opacity: .55; }
.matrix th { color: var(--faint); padding: .25rem .5rem; border: 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); font-size: .85rem; }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; } h1 { font-size: 1.45rem; }
  th, td { padding: .34rem .45rem; } }
"""
CSS += "".join(f".v{i} {{ --v: {i / SHADES:g}; }}\n" for i in range(SHADES + 1))
