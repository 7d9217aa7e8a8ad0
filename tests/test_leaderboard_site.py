"""The site: it stands alone, shows what records say as text, and sorts and filters in a real browser."""

from __future__ import annotations

import ast
import base64
import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, opened, stepped

from clbench.reports import charts, frame, styles, suite as report, svg
from clbench.reports.leaderboard import site as site_module
from clbench.reports.leaderboard.board import slug
from clbench.reports.leaderboard.page import readme
from clbench.reports.leaderboard.site import write_site
from clbench.reports.leaderboard.store import place
from clbench.results.curve import Curve
from clbench.results.ledger import Record
from clbench.results.metrics import compute

ATTACK = '<img src=x onerror="alert(1)">"\'&'


def record(strategy: str, seed: int, accuracy: float, root: Path, **changes: Any) -> Record:
    """A record with its files; the leaderboard would not take it, the site asks no questions."""
    noise = int(np.random.default_rng(seed).integers(0, 3)) / 100
    curve = Curve.from_trace([[0.5, accuracy, 0.2, round(accuracy - noise, 2)], [0.1, accuracy]], [2])
    made = Record(
        id=hashlib.sha256(f"{strategy} {seed}".encode()).hexdigest()[:12],
        status="done",
        config={"stream": {"seed": seed}, "params": {}, "seeds": {"data": seed}},
        benchmark={"name": "toy", "version": 1, "fingerprint": "f"},
        strategy={"name": strategy, "version": "1"},
        seeds={"order": seed, "init": seed, "data": seed},
        code={"version": "0.1", "sources": "s", "commit": "0" * 40, "dirty": False},
        environment={
            "python": "3",
            "libraries": {},
            "device": "cpu",
            "processor": "p",
            "system": "s",
            "threads": 1,
        },
        budget={
            "train_seconds": 1.0,
            "forward_examples": 100,
            "memory_bytes": 0,
            "strategy_state_bytes": 0,
            "parameters": 10,
        },
        metrics=compute(curve),
        curve_file={"file": "", "sha256": curve.sha256()},
        selection="fixed",
        model={"name": "mlp"},
    )
    made = replace(
        made, curve_file={**made.curve_file, "file": f"{made.id}.npz"}, folder=root / "curves", **changes
    )
    for file in (root / "curves" / f"{made.id}.npz", root / place(made)):
        file.parent.mkdir(parents=True, exist_ok=True)
    curve.save(root / "curves" / f"{made.id}.npz")
    (root / place(made)).write_text(made.to_json())
    return made


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "board"
    records = [
        record(name, seed, acc, root) for name, acc in (("low", 0.6), ("high", 0.9)) for seed in range(5)
    ]
    records += [record("few", 0, 0.7, root, selection="oracle")]
    write_site(records, root, tmp_path / "site")
    return tmp_path / "site"


def test_joules_are_shown_where_all_of_a_row_were_read(site: Path, tmp_path: Path) -> None:
    def budget(**read: float | None) -> dict[str, Any]:
        return {
            "train_seconds": 1.0,
            "forward_examples": 100,
            "memory_bytes": 0,
            "strategy_state_bytes": 0,
            "parameters": 10,
            **read,
        }

    root = tmp_path / "measured"
    records = [record("all", 0, 0.5, root, budget=budget(whole_cpu_joules=2500.0, whole_gpu_joules=None))]
    records += [record("all", 1, 0.5, root, budget=budget(whole_cpu_joules=3500.0, whole_gpu_joules=None))]
    records += [record("some", 0, 0.5, root, budget=budget(whole_cpu_joules=2500.0, whole_gpu_joules=10.0))]
    records += [record("some", 1, 0.5, root, budget=budget(whole_cpu_joules=2500.0, whole_gpu_joules=None))]
    records += [record("before", 0, 0.5, root)]
    write_site(records, root, tmp_path / "read")
    assert "kJ, whole machine" in (tmp_path / "read" / "index.html").read_text()
    assert "kJ, whole machine" not in (site / "index.html").read_text()
    lines = readme(records).splitlines()
    told = {
        line.split("|")[2].strip(): line.split("|")[-3].strip() for line in lines if line.startswith("| ")
    }
    assert told.pop("---") == "---:"
    assert told == {"strategy": "kJ, whole machine", "all@1": "3.0", "some@1": "–", "before@1": "–"}


class Links(HTMLParser):
    """Where a page points, and what it loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value is not None]


def test_every_link_leads_to_a_file_of_the_site_and_none_to_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) == 1 + 1 + 3 + 3
    for page in pages:
        for target in Links(page).found:
            assert target == "data:," or (page.parent / target).is_file(), (page.name, target)
        written = page.read_text(encoding="utf-8").replace(charts.script(), "")  # which may not load anything
        assert not re.search(r"https?://", written)


def test_what_a_record_says_is_shown_as_text(tmp_path: Path) -> None:
    root = tmp_path / "board"
    evil = record("evil", 0, 0.5, root, selection=ATTACK, note=ATTACK, model={"name": ATTACK})
    evil = replace(
        evil, config={**evil.config, "params": {ATTACK: ATTACK}}, code={**evil.code, "version": ATTACK}
    )
    write_site([evil, record("evil", 1, 0.5, root)], root, tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<img" not in page.read_text(encoding="utf-8")
    assert "&lt;img" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_control_characters_of_a_record_are_spelled(tmp_path: Path) -> None:
    root = tmp_path / "board"
    odd = record("odd", 0, 0.5, root, note="\x1b[31mred \u202eback", model={"name": "a\x07b"})
    write_site([odd], root, tmp_path / "site")
    pages = [page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html")]
    assert any(r"\u001b[31mred \u202eback" in page for page in pages)
    assert not any(set("\x1b\x07\u202e") & set(page) for page in pages)


@pytest.mark.parametrize(
    "module", [charts, frame, site_module, styles, svg, report], ids=lambda m: m.__name__
)
def test_nothing_but_text_of_the_source_comes_into_a_page_raw(module: ModuleType) -> None:
    """`Markup` takes constants; no f-string makes elements."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Markup":
            (given,) = node.args
            assert isinstance(given, ast.Constant) or (isinstance(given, ast.Name) and given.id.isupper())
        if isinstance(node, ast.JoinedStr):
            assert not any(isinstance(part, ast.Constant) and "<" in str(part.value) for part in node.values)


def test_a_page_names_its_style_and_script_by_their_hashes(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "unsafe-inline" not in text
        assert not re.search(r"<[^>]* (style|on\w+)=", text)  # which no hash allows
        for kind in ("style", "script"):
            inside = re.search(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
            assert inside
            digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}';" in text


def test_tables_of_one_benchmark_have_pages_of_their_own(tmp_path: Path) -> None:
    """Two data sets whose paths are one in plain letters, and two configurations of a bound in a figure."""
    root = tmp_path / "board"
    records = []
    for seed, path in enumerate(("x/y", "x y", "x/y", "x y")):
        made = record(
            "finetune", seed, 0.6, root, benchmark={"name": "npz", "version": 1, "fingerprint": path}
        )
        records.append(replace(made, config={**made.config, "stream": {"seed": seed, "path": path}}))
    records[2] = replace(records[2], config={**records[2].config, "optim": {"lr": 1}})
    write_site(records, root, tmp_path / "site")
    pages = sorted((tmp_path / "site" / "benchmarks").iterdir())
    assert len(pages) == 2
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert all(f"benchmarks/{page.name}" in index for page in pages)
    (two,) = [page for page in (p.read_text(encoding="utf-8") for p in pages) if "finetune lr=1" in page]
    color = styles.styles(["finetune"])["finetune"].variable
    assert two.count(f'"color":"{color}"') == 2  # a line of each of two
    assert "(too few)" in "".join(page.read_text(encoding="utf-8") for page in pages)


def test_names_make_plain_files() -> None:
    assert slug("../a b/c") == "-a-b-c"
    assert slug("er+ewc@1+1") == "er+ewc@1+1"
    assert slug("..") == "unnamed"


@needs_browser
def test_no_other_script_runs_in_a_browser(tmp_path: Path) -> None:
    """What a record says makes no element; and if something did, the page would not run it."""
    attack = "</code></pre><script>document.title = 'taken'</script><svg onload=\"document.title='taken'\">"
    root = tmp_path / "board"
    evil = record("evil", 0, 0.5, root, selection=attack, note=attack, model={"name": attack})
    evil = replace(evil, seeds={"order": 0, "init": 0, "data": attack})  # type: ignore[dict-item]
    write_site([evil], root, tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 4
    for page in pages:
        assert "<title>taken" not in opened(page, tmp_path / "profile").stdout
    (row,) = (tmp_path / "site" / "rows").iterdir()
    row.write_text(row.read_text(encoding="utf-8").replace("<main>", f"<main>{attack}"), encoding="utf-8")
    done = opened(row, tmp_path / "profile")
    assert "<title>taken" not in done.stdout
    assert "Content Security Policy" in done.stderr


@needs_browser
def test_sorting_and_filtering_in_a_browser(site: Path, tmp_path: Path) -> None:
    """A page that clicks, types and says what it sees; no message on the console, no request."""
    steps = """
    const names = () => [...document.querySelectorAll("tr.row")].filter(r => !r.hidden)
        .map(r => r.querySelectorAll("a")[1].textContent);
    const head = text => [...document.querySelectorAll("thead th")].find(h => h.textContent.startsWith(text));
    seen.first = names();
    head("ACC").querySelector("button").click(); seen.up = names(); seen.sort = head("ACC").ariaSort;
    head("ACC").querySelector("button").click(); seen.down = names();
    head("rank").querySelector("button").click(); seen.rank = names();
    const box = document.getElementById("search");
    box.value = "low"; box.dispatchEvent(new Event("input", {bubbles: true})); seen.search = names();
    seen.count = document.getElementById("count").textContent;
    box.value = "";
    const select = document.querySelector("select[data-facet=selection]");
    select.value = "oracle"; select.dispatchEvent(new Event("input", {bubbles: true})); seen.filter = names();
    """
    seen = stepped(site / "index.html", steps, tmp_path)
    assert seen == {
        "first": ["high@1", "low@1", "few@1"],
        "up": ["low@1", "few@1", "high@1"],
        "sort": "ascending",
        "down": ["high@1", "few@1", "low@1"],
        "rank": ["high@1", "low@1", "few@1"],
        "search": ["low@1"],
        "count": "1 of 3",
        "filter": ["few@1"],
    }


@needs_browser
def test_the_strategies_stay_in_sight_on_a_phone(site: Path, tmp_path: Path) -> None:
    steps = """
    const table = document.querySelector("div.table");
    table.scrollLeft = 300;
    const left = of => Math.round(of.getBoundingClientRect().left);
    seen.scrolled = table.scrollLeft;
    seen.names = [...table.querySelectorAll("tbody th")].map(of => left(of) - left(table));
    seen.head = left([...table.querySelectorAll("thead th")].find(of => of.textContent === "strategy")) - left(table);
    seen.wide = document.documentElement.scrollWidth <= innerWidth;
    """
    seen = stepped(site / "index.html", steps, tmp_path, "--window-size=500,800")
    assert seen == {"scrolled": 300, "names": [0, 0, 0], "head": 0, "wide": True}


@needs_browser
def test_what_a_chart_hides_is_hidden_in_the_other_figures(site: Path, tmp_path: Path) -> None:
    steps = """
    const dots = () => [...document.querySelectorAll("g[data-line]")]
        .filter(of => getComputedStyle(of).display !== "none").map(of => of.dataset.line).sort();
    const box = name => [...document.querySelectorAll(".lines label")].find(of => of.textContent === name).control;
    seen.first = dots();
    box("low").click();
    seen.less = dots();
    """
    (page,) = (site / "benchmarks").iterdir()
    seen = stepped(page, steps, tmp_path)
    assert seen == {"first": ["few", "high", "low"], "less": ["few", "high"]}
