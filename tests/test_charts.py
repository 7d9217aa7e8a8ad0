"""Charts of pages: what they draw, as data, and what a reader can do with them, in a real browser."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, stepped

from clbench.reports import charts, frame, styles
from clbench.reports.charts import Chart, Panel, Series
from clbench.reports.markup import ASSETS
from clbench.reports.rows import Cell, table_rows
from clbench.results.curve import Floats
from clbench.results.traces import Line

RELEASED = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of the files of the npm package uplot 1.6.32."""


def line(count: int = 200, *, level: float = 0.8, dip: float = 0.3, half: float | None = None) -> Line:
    """Two experiences; where the second begins, accuracy drops."""
    x = np.linspace(0, 2, count)
    y = np.full(count, level)
    y[(x > 1) & (x < 1.1)] = dip
    return Line(x, y, None if half is None else np.full(count, half))


def chart(names: Sequence[str], shown: Sequence[str], *, half: float | None = None) -> Chart:
    look = styles.styles(names)
    levels = {name: 0.9 - i / 100 for i, name in enumerate(names)}
    series = tuple(
        Series(name, look[name], (line(level=levels[name], half=half), line(dip=0.1)), name in shown)
        for name in names
    )
    return Chart("toy", (Panel("seen"), Panel("first")), series, marks=(1.0,))


def read(found: dict[str, Any], name: str, panel: int = 0) -> tuple[Floats, Floats]:
    """x and y of a line, as the script reads them."""
    (told,) = [of["lines"][panel] for of in found["series"] if of["name"] == name]
    x = np.cumsum(found["grids"][told["grid"]]) * found["x"]["scale"]
    return x, np.array(told["y"], float) * found["panels"][panel]["scale"]


# --- the library ---


def test_the_library_is_as_it_was_released() -> None:
    folder = ASSETS / charts.UPLOT
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    assert found == RELEASED
    assert "(v1.6.32)" in charts.script()
    assert charts.UPLOT == "uplot-1.6.32"


def test_a_page_with_the_library_has_its_licence() -> None:
    assert "Copyright (c) 2022 Leon Sorokin" in frame.page("t", "h", "b", "f", charts=True)
    assert "uPlot" not in frame.page("t", "h", "b", "f", tables=True)


def test_zooms_are_where_points_are_kept() -> None:
    script = (ASSETS / "chart.js").read_text(encoding="utf-8")
    assert f"BEFORE = {charts.BEFORE}, AFTER = {charts.AFTER}" in script


# --- data ---


def test_data_are_the_lines_to_a_hundredth_of_a_percent() -> None:
    found = json.loads(json.dumps(charts.data(chart(["a", "b"], ["a"], half=0.05))))
    assert [of["shown"] for of in found["series"]] == [True, False]
    x, y = read(found, "b")
    assert x == pytest.approx(line().x, abs=1e-5)
    assert y == pytest.approx(line(level=0.89).mean, abs=1e-4)
    assert found["series"][0]["lines"][0]["half"] == [500] * 200
    assert len(found["grids"]) == 1  # both have one x


def test_what_is_not_defined_stays_undefined() -> None:
    gap = Line(np.arange(3.0), np.array([1.0, np.nan, 5e6]), None)
    made = Chart("t", (Panel("norm", percent=False),), (Series("a", styles.Style("#123456"), (gap,)),))
    x, y = read(charts.data(made), "a")
    assert x.tolist() == [0, 1, 2]
    assert y == pytest.approx([1.0, np.nan, 5e6], abs=500, nan_ok=True)


def test_thinning_keeps_a_single_dip_and_both_ends() -> None:
    y = np.full(10_000, 0.9)
    y[1234] = 0.05
    kept = charts.thinned(Line(np.linspace(0, 5, 10_000), y), 500)
    assert len(kept) <= 502
    assert {0, 1234, 9999} <= set(kept.tolist())


def test_every_stretch_keeps_its_lowest_and_its_highest() -> None:
    y = np.full(20_000, 0.5)
    y[100::400], y[300::400] = 0.1, 0.9  # dips and peaks, each alone in its stretch
    kept = charts.thinned(Line(np.linspace(0, 4, len(y)), y), 400)
    assert len(kept) <= 400
    assert np.isin(np.flatnonzero(y != 0.5), kept).all()


def test_half_of_the_points_are_around_the_beginning_and_the_marks() -> None:
    x = np.linspace(0, 10, 50_000)
    y = np.random.default_rng(0).random(len(x))
    kept = charts.thinned(Line(x, y), 1000, marks=(1.0,))
    near = (x[kept] <= charts.AFTER) | (x[kept] >= 1 - charts.BEFORE) & (x[kept] <= 1 + charts.AFTER)
    assert near.sum() == pytest.approx(500, abs=10)


def test_a_line_of_thousands_is_said_to_be_thinned() -> None:
    long = Chart("t", (Panel("p"),), (Series("a", styles.Style("#123456"), (line(5000),)),), marks=(1.0,))
    assert "each stretch keeps its lowest and highest" in charts.figure(long, "c")
    assert "each stretch" not in charts.figure(chart(["a"], ["a"]), "c")
    assert len(charts.data(long)["series"][0]["lines"][0]["y"]) <= charts.POINTS


# --- lines ---


def test_no_two_rivals_look_the_same() -> None:
    look = styles.styles([f"s{i}" for i in range(60)])
    assert len({(of.color, of.lengths) for of in look.values()}) == 60


def linear(color: str) -> Floats:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


DEFICIENCIES = {  # Machado et al., 2009, at full severity
    "none": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.mark.parametrize("paper", ["#ffffff", "#17191d"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_are_told_apart_by_everybody(paper: str, deficiency: str) -> None:
    """CIE76 differences of at least 12, where 2.3 is just seen; and each shows on its paper."""
    palette = [styles.ON_DARK[of] if paper != "#ffffff" else of for of in styles.OKABE_ITO]

    def lab(color: str) -> Floats:
        xyz = XYZ @ np.clip(DEFICIENCIES[deficiency] @ linear(color), 0, 1) / [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    assert min(np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(palette, 2)) > 12
    light = [XYZ[1] @ linear(color) for color in [*palette, paper]]
    assert min((max(of, light[-1]) + 0.05) / (min(of, light[-1]) + 0.05) for of in light[:-1]) > 2.2


def test_the_page_has_every_colour_in_the_light_and_in_the_dark() -> None:
    written = charts.style()
    for light, dark in styles.ON_DARK.items():
        assert f"{styles.Style(light).variable}: {light};" in written
        assert f"{styles.Style(light).variable}: {dark};" in written


def test_at_first_the_best_are_shown_between_the_bounds() -> None:
    accuracies = {f"s{i}": 0.5 + i / 100 for i in range(20)} | {
        "finetune": 0.1,
        "joint": 0.99,
        "offline": 0.98,
    }
    cells = [
        Cell("b", name, 0, "done", {"average_accuracy": acc}, name=name) for name, acc in accuracies.items()
    ]
    shown = [row.strategy for row in charts.first(table_rows(cells))]
    assert shown == [f"s{i}" for i in range(14, 20)] + ["finetune", "joint"]
    assert len(shown) == charts.SHOWN


# --- pages ---

ATTACK = "</script><script>document.title='taken'</script><!--<img src=x onerror=alert(1)>"


def test_names_neither_end_the_data_nor_reach_the_terminal() -> None:
    made = charts.figure(chart([ATTACK, "odd\x1b[31m\u202eback"], [ATTACK]), ATTACK)
    assert made.count("<script") == made.count("</script") == 1
    assert "<!--" not in made
    assert "<img" not in made
    (inside,) = re.findall(r'<script type="application/json">(.*?)</script>', made, re.DOTALL)
    assert [of["name"] for of in json.loads(inside)["series"]] == [ATTACK, r"odd\u001b[31m\u202eback"]
    assert "\x1b" not in frame.page("t", "h", made, "f", charts=True)


def test_without_a_script_there_is_a_picture_of_what_is_shown_at_first() -> None:
    made = charts.figure(chart(["a", "b", "c"], ["a", "c"]), "c")
    picture = made.partition("<script")[0]
    assert picture.count("<polyline") == 4  # two lines in two panels
    assert re.findall(r"</svg>(\w+)</li>", picture) == ["a", "c"]
    assert not re.search(r"<[^>]* (style|on\w+)=", made)


def page(tmp_path: Path, names: Sequence[str], shown: Sequence[str], *more: object) -> Path:
    file = tmp_path / "page.html"
    made = charts.figure(chart(names, shown, half=0.02), "c")
    file.write_text(frame.page("t", "h", made, "f", charts=True), encoding="utf-8")
    return file


NAMES = [*(f"s{i}" for i in range(25)), "joint", ATTACK]
HELP = """
const wait = () => new Promise(done => setTimeout(done, 60));
const boxes = () => [...document.querySelectorAll(".lines input[type=checkbox]")];
const on = () => boxes().filter(box => box.checked).map(box => box.parentElement.textContent);
const button = text => [...document.querySelectorAll(".drawn button")].find(of => of.textContent === text);
const say = (of, name, about) => of.dispatchEvent(new MouseEvent(name, {bubbles: true, ...about}));
const axis = () => document.querySelector(".zoom select").value;
"""


@needs_browser
def test_every_line_can_be_found_shown_and_hidden_in_a_browser(tmp_path: Path) -> None:
    steps = """
    seen.first = on();
    seen.count = document.querySelector(".lines output").textContent;
    boxes()[4].click(); seen.more = on().length; boxes()[0].click(); seen.less = on();
    button("all").click(); seen.all = on().length;
    button("none").click(); seen.none = on().length;
    button("best").click(); seen.best = on();
    const find = document.querySelector(".lines input[type=search]");
    find.value = "S2"; find.dispatchEvent(new Event("input"));
    seen.found = boxes().filter(box => box.closest("li").offsetParent).map(box => box.parentElement.textContent);
    seen.title = document.title;
    seen.pictures = document.querySelectorAll("canvas").length;
    """
    seen = stepped(page(tmp_path, NAMES, ["s0", "s1", "joint"]), HELP + steps, tmp_path)
    assert seen["first"] == seen["best"] == ["s0", "s1", "joint"]
    assert seen["count"] == "3 of 27 shown"
    assert (seen["more"], seen["all"], seen["none"]) == (4, 27, 0)
    assert seen["less"] == ["s1", "s4", "joint"]
    assert seen["found"] == ["s2", *(f"s{i}" for i in range(20, 25))]
    assert seen["title"] == "t"
    assert seen["pictures"] == 2


@needs_browser
def test_values_are_shown_under_the_pointer_and_dragging_zooms(tmp_path: Path) -> None:
    steps = """
    const over = document.querySelectorAll(".u-over")[0], place = over.getBoundingClientRect();
    const at = share => ({clientX: place.left + share * place.width, clientY: place.top + 40, movementX: 5, button: 0});
    const text = of => of.textContent.replace(/\\s+/g, " ");
    say(over, "mouseenter", at(0.25)); say(over, "mousemove", at(0.25)); await wait();
    seen.hover = [...over.querySelectorAll(".hover tr")].map(text);
    seen.where = over.querySelector(".hover p").textContent;
    say(over, "mousedown", at(0.5)); await wait(); say(over, "mousemove", at(0.6)); await wait();
    say(document, "mouseup", at(0.6)); await wait();
    seen.dragged = axis(); seen.reset = !button("reset zoom").hidden;
    say(over, "mousemove", at(0.5)); await wait();
    seen.inside = over.querySelector(".hover p").textContent;
    button("reset zoom").click(); seen.whole = [axis(), button("reset zoom").hidden];
    const select = document.querySelector(".zoom select"); select.value = "0";
    select.dispatchEvent(new Event("change")); await wait();
    say(over, "mousemove", at(0.25)); await wait();
    seen.boundary = over.querySelector(".hover p").textContent;
    say(over, "dblclick", at(0.5)); seen.double = axis();
    """
    seen = stepped(page(tmp_path, NAMES, ["s0", "joint"]), HELP + steps, tmp_path)
    assert seen["where"].startswith("experience 1, ")
    assert seen["hover"] == ["s090.0 %± 2.0", "joint65.0 %± 2.0"]
    assert (seen["dragged"], seen["reset"]) == ("free", True)
    assert re.fullmatch(r"experience 2, (8|9|10|11)\.\d %", seen["inside"])
    assert seen["whole"] == ["", True]
    assert re.fullmatch(r"(at the end of experience 1|experience (1, 99|2, [01])\.\d %)", seen["boundary"])
    assert seen["double"] == ""


@needs_browser
def test_new_data_keep_what_is_shown(tmp_path: Path) -> None:
    steps = """
    const data = JSON.parse(document.querySelector("figure.chart script").textContent);
    const place = document.createElement("div"); document.querySelector("main").replaceChildren(place);
    const some = {...data, series: data.series.slice(0, 3)};
    const drawn = clbenchChart(place, {...data, series: []});
    seen.none = on();
    drawn.update(some);
    boxes()[2].click(); seen.before = on();
    drawn.update(some); seen.same = on();
    drawn.update(data); seen.more = on();
    """
    seen = stepped(page(tmp_path, NAMES, ["s0", "joint"]), HELP + steps, tmp_path)
    assert seen.pop("none") == []
    assert seen == {"before": ["s0", "s2"], "same": ["s0", "s2"], "more": ["s0", "s2", "joint"]}


@needs_browser
def test_a_phone_has_the_legend_below_and_nothing_runs_off(tmp_path: Path) -> None:
    steps = """
    await wait();
    seen.wide = document.documentElement.scrollWidth <= innerWidth;
    const tops = [".panels", ".lines"].map(of => document.querySelector(of).getBoundingClientRect());
    seen.below = tops[1].top >= tops[0].bottom - 1;
    """
    seen = stepped(page(tmp_path, NAMES, ["s0"]), HELP + steps, tmp_path, "--window-size=500,800")
    assert seen == {"wide": True, "below": True}


@needs_browser
def test_values_are_reached_by_the_keyboard_and_stay_within_a_phone(tmp_path: Path) -> None:
    steps = """
    const over = document.querySelector(".u-over"), hover = over.querySelector(".hover");
    const press = key => over.dispatchEvent(new KeyboardEvent("keydown", {key, shiftKey: true, bubbles: true}));
    over.focus(); seen.reached = document.activeElement === over;
    const edges = [];
    for (let i = 0; i < 9; i++) {
      press("ArrowRight"); await wait();
      const { left, right } = hover.getBoundingClientRect();
      edges.push(left >= 0 && right <= innerWidth);
    }
    seen.within = edges.every(Boolean);
    seen.where = hover.querySelector("p").textContent;
    seen.told = hover.querySelectorAll("tr").length;
    over.blur(); seen.left = hover.hidden;
    """
    made = page(tmp_path, ["a", f"b-{'x' * 60}"], ["a", f"b-{'x' * 60}"])
    seen = stepped(made, HELP + steps, tmp_path, "--window-size=500,800")
    assert re.fullmatch(r"experience 2, (79|80|81)\.\d %", seen.pop("where"))
    assert seen == {"reached": True, "within": True, "told": 2, "left": True}


@needs_browser
def test_without_a_script_nothing_runs_off_a_phone(tmp_path: Path) -> None:
    steps = "seen.wide = document.documentElement.scrollWidth <= innerWidth;"
    file = page(tmp_path, NAMES, ["s0"])
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL), encoding="utf-8")
    assert stepped(file, steps, tmp_path, "--window-size=500,800") == {"wide": True}
