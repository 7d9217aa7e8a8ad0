"""Tables, the page and the raw runs of a suite."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, stepped
from rich.console import Console

from clbench import config
from clbench.data import FEW_SHOT
from clbench.errors import LedgerError
from clbench.reports import charts, frame, rows as told, suite as report, tables
from clbench.reports.rows import Cell, Row
from clbench.results import statistics
from clbench.results.curve import Curve
from clbench.results.metrics import METRICS
from clbench.results.statistics import Interval
from clbench.runs.cells import reported

FIVE = [0.5, 0.6, 0.7, 0.8, 0.9]
CURVE = Curve.from_trace([[0.5, 1.0, 0.2, 0.9], [0.5, 1.0]], [2])


def cells(
    strategies: Mapping[str, Sequence[float | None]], *, benchmark: str = "split-digits", **options: Any
) -> list[Cell]:
    """A cell for each ACC; None is a run that diverged."""
    return [
        Cell(
            benchmark,
            strategy,
            seed,
            "diverged" if acc is None else "done",
            {"average_accuracy": acc, "forgetting": None if acc is None else 1 - acc, "wp100": 0.125},
            12.5,
            0.25,
            lambda: CURVE,
            "The loss is not finite." if acc is None else "",
            **options,
        )
        for strategy, accuracies in strategies.items()
        for seed, acc in enumerate(accuracies)
    ]


def rows(*given: Cell) -> dict[str, Row]:
    return {row.strategy: row for row in told.table_rows(given)}


class Page(HTMLParser):
    """Text, elements and attributes of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(f"{tag}.{name}", value or "") for name, value in attrs]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# --- numbers ---


def test_the_interval_of_a_row_is_over_the_values_that_are_there() -> None:
    def interval(*values: float | None) -> Interval | None:
        cells = [Cell("b", "a", seed, "done", {"wc_acc": value}) for seed, value in enumerate(values)]
        return Row.of(cells).interval("wc_acc")

    value = interval(0.8, None, 0.9, 1.0)
    assert value is not None
    assert value.mean == pytest.approx(0.9)
    assert value.half == pytest.approx(4.302653 * 0.1 / 3**0.5)  # t(0.975, 2)
    assert value.n == 3
    assert interval(None) is None


@pytest.mark.parametrize(
    ("mean", "half", "n", "key", "shown"),
    [
        (0.8712, 0.0041, 5, "wc_acc", "87.1 ± 0.4"),
        (0.8712, np.nan, 1, "wc_acc", "87.1"),
        (0.8712, np.nan, 2, "wc_acc", "87.1 (too few)"),
        (-0.0312, 0.0, 3, "wc_acc", "−3.1 ± 0.0"),
        (-0.0001, np.nan, 1, "wc_acc", "0.0"),
        (1.0, 0.0, 3, "wc_acc", "100.0 ± 0.0"),
        (12.345, 0.25, 3, "weight_norm", "12.35 ± 0.25"),
        (None, np.nan, 0, "wc_acc", "–"),
    ],
)
def test_numbers_are_told_in_percent_where_they_are_shares(
    mean: float | None, half: float, n: int, key: str, shown: str
) -> None:
    assert tables.told(None if mean is None else Interval(mean, mean - half, mean + half, n), key) == shown


def test_the_best_and_its_ties_are_marked_in_the_metrics_direction() -> None:
    low = [0.40, 0.41, 0.42, 0.41, 0.40]
    table = rows(*cells({"a": FIVE, "b": [FIVE[i] + (-1) ** i / 100 for i in range(5)], "c": low}))
    assert table["a"].best == table["b"].best == {"average_accuracy", "forgetting"}
    assert table["c"].best == set()
    assert rows(*cells({"a": FIVE}))["a"].best == set()  # the best of one


def test_intervals_that_overlap_are_no_tie() -> None:
    """Seeds differ by ten points, the strategies by one on each seed."""
    table = rows(*cells({"a": FIVE, "b": [value - 0.01 - 0.001 * (i % 2) for i, value in enumerate(FIVE)]}))
    assert (bool(table["a"].best), bool(table["b"].best)) == (True, False)


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_fewer_seeds_than_a_rank_needs_mark_nothing(seeds: int) -> None:
    given = cells({"a": [0.9] * seeds, "b": [0.1] * seeds})
    assert not any(row.best for row in told.table_rows(given))
    assert "Fewer than 5 seeds are too few to say which is best." in tables.markdown_table(given)


@pytest.mark.parametrize("key", ["average_accuracy", "min_acc"])
def test_tables_mark_what_the_leaderboard_marks_and_no_worse_mean(key: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        spread = rng.uniform(0.001, 0.1, 6)
        values = {f"s{k}": rng.normal(0.5 + k / 50, spread[k], 5).tolist() for k in range(6)}
        given = [
            Cell("b", name, seed, "done", {"average_accuracy": 0.5, key: acc})
            for name, accuracies in values.items()
            for seed, acc in enumerate(accuracies)
        ]
        found = statistics.best([dict(enumerate(v)) for v in values.values()], higher_is_better=True)
        marked = [name for name, row in rows(*given).items() if key in row.best]
        assert marked == [f"s{k}" for k in sorted(found)]
        means = {name: np.mean(v) for name, v in values.items()}
        assert min(means[name] for name in marked) > max(
            (means[name] for name in values if name not in marked), default=0
        )


def test_settings_chosen_on_the_test_stream_are_no_rivals() -> None:
    oracle = cells({"a": [0.9] * 5}, config={"selection": "oracle"})
    table = rows(*oracle, *cells({"b": [0.7] * 5, "c": [0.2] * 5}))
    assert [name for name, row in table.items() if row.best] == ["b"]
    assert "Not rated: a, with settings chosen on the test stream." in tables.note_of(list(table.values()))


def few_shot_cells(strategy: str, base: float, novel: float, **options: Any) -> list[Cell]:
    overall = (100 * base + 50 * novel) / 150
    metrics = {
        "average_accuracy": (base + novel) / 2,
        "average_accuracy_weighted": overall,
        "base_accuracy": base,
        "novel_accuracy": novel,
        "harmonic_mean": 2 * base * novel / (base + novel) if novel else 0.0,
        "average_incremental_accuracy_weighted": 0.7,
        "performance_drop": base - overall,
        "forgetting": 0.1,
    }
    about = {"primary": "harmonic_mean", "more": FEW_SHOT}
    return [Cell("fscil", strategy, seed, "done", metrics, 1.0, 0.1, **about, **options) for seed in range(5)]


def test_few_shot_tables_show_what_was_learned_of_new_classes() -> None:
    """They lead with the harmonic mean, with base and novel accuracy beside it; other benchmarks are as they are."""
    few = [*few_shot_cells("base-only", 0.9, 0.0), *few_shot_cells("ncm", 0.7, 0.6)]
    rated = rows(*few)
    heads = [column.head for column in tables.columns_of(list(rated.values()))]
    assert heads[2:8] == ["HM ↑", "overall ↑", "base ↑", "novel ↑", "average ↑", "PD ↓"]
    assert heads[8:] == ["ACC ↑", "forgetting ↓", "train s", "eval s"]
    assert "base_accuracy" in rated["base-only"].best
    assert {"novel_accuracy", "harmonic_mean"} <= rated["ncm"].best
    assert rated["ncm"].rank == (1, 1)
    table = tables.markdown_table([*few, *cells({"er": [0.8, 0.9]})])
    assert "| strategy | runs | HM ↑ | overall ↑ | base ↑ | novel ↑ |" in table
    assert "| strategy | runs | ACC ↑ | forgetting ↓ | train s |" in table
    for table in tables.rich_tables(few):
        assert Console(width=200, file=io.StringIO()).measure(table).maximum <= 90


def test_a_chain_with_joint_training_is_a_bound() -> None:
    assert told.is_bound("joint")
    assert told.is_bound("joint+restart+imbsam")
    assert not told.is_bound("er+joint-like")


def test_bounds_and_survivors_are_not_rated() -> None:
    table = rows(
        *cells({"joint": [0.99] * 5}, bound=True),
        *cells({"a": [*[0.98] * 5, None], "b": [0.7] * 5, "c": [0.2] * 5}),
    )
    assert {name: bool(row.best) for name, row in table.items()} == {
        "joint": False,
        "a": False,
        "b": True,
        "c": False,
    }


def test_benchmarks_are_rated_each_on_its_own_and_keep_their_order() -> None:
    given = [
        *cells({"b": [0.5] * 5, "a": [0.9] * 5}, benchmark="z"),
        *cells({"b": [0.6] * 5, "a": [0.1] * 5}, benchmark="y"),
    ]
    table = told.table_rows(given)
    assert [(row.benchmark, row.strategy) for row in table] == [
        ("z", "b"),
        ("z", "a"),
        ("y", "b"),
        ("y", "a"),
    ]
    assert [bool(row.best) for row in table] == [False, True, True, False]


def test_diverged_runs_are_counted_and_not_in_the_mean() -> None:
    row = rows(*cells({"a": [0.5, None, 0.7, None, 0.6]}))["a"]
    assert (row.runs, row.done, row.unfinished) == (5, 3, {"diverged": 2})
    value = row.interval("average_accuracy")
    assert value is not None
    assert value.mean == pytest.approx(0.6)
    assert value.n == 3
    lost = rows(*cells({"a": [None, None]}))["a"]
    assert lost.done == 0
    assert lost.interval("average_accuracy") is None


def test_summary_has_every_metric_and_is_json() -> None:
    (entry,) = json.loads(json.dumps(told.summary(cells({"a": [0.5, 0.6, 0.7, None]}))))
    assert (entry["runs"], entry["done"], entry["diverged"]) == (4, 3, 1)
    assert entry["metrics"]["wp100"] == {"mean": 0.125, "half_width": 0.0, "n": 3}
    assert entry["metrics"]["train_seconds"]["mean"] == 12.5


# --- tables ---


def test_markdown() -> None:
    text = tables.markdown_table(cells({"a": [0.9, 0.9, 0.9], "b": [0.5, None], "c": [0.2, 0.4]}))
    assert text.splitlines()[:7] == [
        "## split-digits",
        "",
        "| strategy | runs | ACC ↑ | forgetting ↓ | train s | eval s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| a | 3 (0–2) | 90.0 ± 0.0 | 10.0 ± 0.0 | 12.5 | 0.25 |",
        "| b | 1 (0), 1/2 diverged | 50.0 | 50.0 | 12.5 | 0.25 |",
        "| c | 2 (0, 1) | 30.0 (too few) | 70.0 (too few) | 12.5 | 0.25 |",
    ]
    assert "means are over the others" in text
    marked = tables.markdown_table(cells({"a|b": [0.9] * 5, "c": [0.5] * 5}, benchmark="x*y"))
    assert marked.startswith("## x\\*y")
    assert "| a\\|b | 5 (0–4) | **90.0 ± 0.0** |" in marked


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        (range(5), "5 (0–4)"),
        ([19, 3, 7, 12, 11], "5 (3, 7, 11, 12, 19)"),
        ([0, 1, 2, 5, 10, 11, 12, 13], "8 (0–2, 5, 10–13)"),
        ([4], "1 (4)"),
        ([], "0"),
        (range(0, 60, 2), "30 (0, 2, 4, 6, 8, 10, 12, 14, 16, … 58)"),
    ],
)
def test_seeds_are_told_in_few_characters(seeds: Sequence[int], told: str) -> None:
    assert tables.counted(seeds) == told


def test_every_table_says_which_seeds_a_row_has(tmp_path: Path) -> None:
    given = [
        Cell("b", name, seed, "done", {"average_accuracy": 0.5})
        for name, seeds in {"a": range(5), "c": (3, 7, 11, 12, 19)}.items()
        for seed in seeds
    ]
    page = Page(report.write_report(given, tmp_path, "T", "c").read_text()).text
    for text in (tables.markdown_table(given), page, drawn(given)):
        assert "5 (0–4)" in text
        assert "5 (3, 7, 11, 12, 19)" in text
    assert [row["seeds"] for row in told.summary(given)] == [[0, 1, 2, 3, 4], [3, 7, 11, 12, 19]]
    assert "5 seeds (3, 7, 11, 12, 19)" in " ".join(drawn(given[5:]).split())


def drawn(given: Sequence[Cell], width: int = 100) -> str:
    """The tables of a terminal."""
    screen = Console(file=io.StringIO(), width=width)
    for table in tables.rich_tables(given):
        screen.print(table)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_terminal_tables_show_all_rows_and_do_not_read_labels_as_markup() -> None:
    given = cells({"[red]a": [0.9, 0.9, 0.9], "b": [None, None]})
    shown = tables.rich_tables([*given, *cells({"c": [0.5]}, benchmark="other")])
    assert len(shown) == 2
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(shown[0])
    text = capture.get()
    assert "[red]a" in text
    assert "90.0±0.0" in text
    assert "2/2 diverged" in text


def test_a_long_label_is_folded_and_numbers_stay_whole() -> None:
    text = drawn(cells({"x" * 80: [0.9, 0.8, 0.7]}), 60)
    assert "80.0±24.8" in text
    assert "ACC↑" in text
    assert "".join(text.split()).count("x") >= 80


def test_too_few_runs_are_told_once_where_all_have_too_few() -> None:
    few, mixed = (tables.markdown_table(cells({"a": [0.5] * 2, "b": [0.5] * n})) for n in (2, 3))
    assert (few.count("too few"), mixed.count("50.0 (too few)")) == (2, 2)


@needs_browser
def test_a_long_label_leaves_room_for_numbers_on_a_phone(tmp_path: Path) -> None:
    page = report.write_report(cells({"x" * 80: [0.9] * 3, "er": [0.8] * 3}), tmp_path / "report", "t", "c")
    steps = """
    const table = document.querySelector("div.table"), names = [...table.querySelectorAll("tbody th")];
    seen.room = names.every(of => of.getBoundingClientRect().width < 0.6 * table.clientWidth);
    """
    assert stepped(page, steps, tmp_path, "--window-size=500,800") == {"room": True}


# --- paired differences ---


def test_a_difference_is_paired_by_seed() -> None:
    """+0.2, +0.1 and +0.3 with the same mean as unpaired, but an interval of the differences' own spread."""
    (row,) = told.difference_rows(cells({"er": [0.1, 0.5, 0.4], "er+ema": [0.3, 0.6, 0.7]}))
    assert row.strategy == "er+ema − er"
    value = row.interval("average_accuracy")
    assert value is not None
    assert value.mean == pytest.approx(0.2)
    assert value.half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)


def test_only_chains_with_their_base_have_differences() -> None:
    assert told.difference_rows(cells({"er": [0.1], "der": [0.2], "der+ema+refresh": [0.3]})) == []


def test_a_chain_is_paired_with_its_base_of_the_same_settings() -> None:
    """Whatever they are called, and of two bases with the nearer one."""
    small, large = ({"params": {"er": {"memory": size}}} for size in (20, 1000))
    given = [
        *cells({"er 20": [0.1]}, name="er", config=small),
        *cells({"er 1000": [0.3]}, name="er", config=large),
        *cells({"A": [0.5]}, name="er+ema", config={"params": {**large["params"], "ema": {"momentum": 1}}}),
    ]
    (row,) = told.difference_rows(given)
    assert (row.strategy, row.also) == ("A − er 1000", ())
    (row,) = told.difference_rows(given[::2])
    assert (row.strategy, row.also) == ("A − er 20", ("params.er.memory",))
    assert "other settings differ, too: params.er.memory." in tables.note_of([row], True)


def test_a_pair_with_an_unfinished_run_is_left_out_and_counted() -> None:
    (row,) = told.difference_rows(cells({"er": [0.1, None], "er+ema": [0.3, 0.9]}))
    assert row.values["average_accuracy"] == {0: pytest.approx(0.2)}
    assert row.unfinished == {"unpaired": 1}


def test_differences_are_shown_with_their_sign_wherever_tables_are(tmp_path: Path) -> None:
    given = cells({"er": [0.5] * 3, "er+ema": [0.6] * 3})
    assert "| er+ema − er | 3 (0–2) | +10.0 ± 0.0 | −10.0 ± 0.0 |" in tables.markdown_table(given)
    assert len(tables.rich_tables(given)) == 2
    assert [entry["strategy"] for entry in told.summary(given)] == ["er", "er+ema", "er+ema − er"]
    page = report.write_report(given, tmp_path, "Suite", "command").read_text(encoding="utf-8")
    assert "+10.0<small> ± 0.0</small>" in page


def test_the_quickstart_table_fits_into_80_characters() -> None:
    values = {name: [0.5, 0.9] for name in ("finetune", "joint", "derpp")}
    (table,) = tables.rich_tables(cells(values, benchmark="rotated-digits"))
    console = Console(width=200, file=io.StringIO())
    assert console.measure(table).maximum <= 80


# --- the report ---


@pytest.fixture
def given() -> list[Cell]:
    nasty = "<script>alert(1)</script>|\"'&"
    return [
        *cells({"er": [0.9, 0.8], nasty: [0.5, None]}, made_by="clbench 0.1.0; <Python>"),
        *cells({"er": [0.9, 0.8]}, benchmark="a <b>/c"),
        Cell("a <b>/c", "er", 2, "failed", note="Disk <full>."),
    ]


def test_report_is_one_page_that_needs_nothing_else(given: list[Cell], tmp_path: Path) -> None:
    page = report.write_report(given, tmp_path / "new" / "report", "A <title>", "clbench suite 'x' && <y>")
    assert page == tmp_path / "new" / "report" / "report.html"
    names = sorted(file.name for file in page.parent.iterdir())
    assert names == ["report.html", "results.csv", "table.md"]
    parsed = Page(page.read_text(encoding="utf-8"))
    assert parsed.open == []
    sources = [
        value for name, value in parsed.attributes if name.endswith((".src", ".href")) and value != "data:,"
    ]
    assert all(source.startswith("#") or source in names for source in sources)
    assert parsed.tags.count("figure") == 2 + 3  # a chart of each benchmark, a matrix of each row
    anchors = {value for name, value in parsed.attributes if name.endswith(".id")}
    assert {source[1:] for source in sources if source.startswith("#")} <= anchors


def test_everything_in_the_page_is_escaped(given: list[Cell], tmp_path: Path) -> None:
    page = report.write_report(given, tmp_path, "A <title>", "clbench suite 'x' && <y>")
    parsed = Page(page.read_text(encoding="utf-8"))
    assert parsed.tags.count("script") == 3  # data of two charts, and what draws them
    assert "alert" not in parsed.tags
    for text in (
        given[2].strategy,
        "A <title>",
        "clbench suite 'x' && <y>",
        "a <b>/c",
        "Disk <full>.",
        "<Python>",
    ):
        assert text in parsed.text


def test_the_page_says_what_did_not_finish_and_what_metrics_mean(given: list[Cell], tmp_path: Path) -> None:
    text = Page(report.write_report(given, tmp_path, "T", "c").read_text(encoding="utf-8")).text
    assert "2 strategies × 2 benchmarks × 3 seeds: 5 done, 1 diverged, 1 failed" in text
    assert "1/2 diverged" in text
    assert "1/3 failed" in text
    assert f"{given[2].strategy}, seed 1: diverged. The loss is not finite." in text
    assert METRICS["average_accuracy"].summary in text
    assert METRICS["forgetting"].reference in text
    assert METRICS["wc_acc"].summary not in text  # no run has it


def test_a_suite_chooses_its_columns() -> None:
    given = cells({"er": [0.9, 0.8]}, columns=("wp100", "average_accuracy", "min_acc"))
    lines = tables.markdown_table(given).splitlines()
    assert lines[2] == "| strategy | runs | WP¹⁰⁰ ↑ | ACC ↑ | min-ACC ↑ | train s | eval s |"
    assert lines[4].startswith("| er | 2 (0, 1) | 12.5 | 85.0 | – |")


def test_the_page_says_what_ran_and_links_to_the_runs(tmp_path: Path) -> None:
    def ran(strategy: str, seed: int, memory: int, **params: object) -> Cell:
        budget = {
            "train_seconds": 1.0,
            "forward_examples": 9,
            "memory_bytes": memory,
            "strategy_state_bytes": memory + 500,
            "parameters": 17610,
        }
        folder = tmp_path / "runs" / f"{strategy} {seed}"
        record = SimpleNamespace(
            status="done", budget=budget, model={"name": "mlp"}, folder=folder, note="", files={}
        )
        config = {
            "params": params,
            "optim": {"lr": 0.1},
            "selection": "fixed",
            "train": {"epochs": 3, "x": None},
        }
        return Cell("b", strategy, seed, "done", {"average_accuracy": 0.5}, record=record, config=config)  # type: ignore[arg-type]

    given = [ran("er", seed, 8000, er={"memory": 100, "draw": None}) for seed in (0, 3)]
    given += [ran("<ewc>", 0, 0, ewc={"strength": 2.5, "fisher": "sampled"})]
    content = report.write_report(given, tmp_path / "runs" / "suite", "T", "c").read_text(encoding="utf-8")
    _, _, below = content.partition("What ran")
    table, _, shared = (re.sub(r"(<[^>]*>\s*)+", "|", part) for part in below.partition("</table>"))
    assert "|er|er.memory=100|mlp|17,610|8.0 kB|8.5 kB|0|, |3|" in table
    assert "|&lt;ewc&gt;|ewc.strength=2.5|ewc.fisher=sampled|mlp|17,610|0|0.5 kB|0|" in table
    assert "|What all share|optim.lr=0.1|selection=fixed|train.epochs=3|" in shared
    links = [of for name, of in Page(content).attributes if name == "a.href" and not of.startswith("#")]
    assert links == ["../er%200/", "../er%203/", "../%3Cewc%3E%200/", "results.csv", "table.md"]


def test_no_report_is_lost_to_one_plot(tmp_path: Path) -> None:
    """Two runs under one label whose matrices have no mean; the other plots and all tables are there."""
    other = Curve.from_matrix([[0.5, 0.1], [0.4, 0.6], [0.3, 0.5]])
    given = [*cells({"er": [0.9], "ewc": [0.9]}), Cell("split-digits", "er", 1, "done", curve=lambda: other)]
    page = Page(report.write_report(given, tmp_path, "T", "c").read_text(encoding="utf-8"))
    assert "accuracy matrices: ValueError" in page.text
    assert ("figure.class", "chart") in page.attributes
    assert "| er | 2 (0, 1) |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_tables_are_written_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        assert (tmp_path / "table.md").exists()
        assert (tmp_path / "results.csv").exists()
        raise RuntimeError("no ink")

    monkeypatch.setattr(charts, "figure", fail)
    monkeypatch.setattr(frame, "matrices", fail)
    page = Page(report.write_report(cells({"er": [0.9]}), tmp_path, "T", "c").read_text(encoding="utf-8"))
    assert page.text.count("RuntimeError: no ink") == 2


def test_a_curve_that_cannot_be_read_is_named_and_not_drawn(tmp_path: Path) -> None:
    def lost() -> Curve:
        raise LedgerError("x/curve.npz is missing.")

    given = [*cells({"er": [0.9]}), Cell("split-digits", "er", 1, "done", curve=lost)]
    page = Page(report.write_report(given, tmp_path, "T", "c").read_text(encoding="utf-8"))
    assert "er, seed 1: x/curve.npz is missing." in page.text
    assert ("table.class", "matrix") in page.attributes


def test_runs_are_written_in_full_precision(tmp_path: Path) -> None:
    report.write_report(cells({"er": [1 / 3, None]}), tmp_path, "T", "c")
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["average_accuracy"]) == 1 / 3
    assert (first["benchmark"], first["strategy"], first["seed"], first["status"]) == (
        "split-digits",
        "er",
        "0",
        "done",
    )
    assert (second["status"], second["average_accuracy"]) == ("diverged", "")
    assert second["note"] == "The loss is not finite."


def test_the_same_cells_give_the_same_bytes(given: list[Cell], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        report.write_report(given, tmp_path / folder, "T", "c")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_report_without_any_finished_run(tmp_path: Path) -> None:
    page = report.write_report(cells({"er": [None]}), tmp_path, "T", "c")
    assert "1/1 diverged" in page.read_text(encoding="utf-8")
    assert "<figure" not in page.read_text(encoding="utf-8")


def test_labels_that_differ_keep_files_that_differ() -> None:
    assert list(report._slugs(["a b", "a/b", "ä"]).values()) == ["a-b", "a-b-2", "benchmark"]


def test_cells_of_a_suite() -> None:
    resolved = config.resolve("split-digits", "joint", seed=3)
    failed = SimpleNamespace(
        benchmark="b",
        strategy="s",
        seed=3,
        state="failed",
        message="No data.",
        record=None,
        resolved=resolved,
    )
    lost = reported(failed)  # type: ignore[arg-type]
    assert (lost.benchmark, lost.strategy, lost.seed, lost.status) == ("b", "s", 3, "failed")
    assert (lost.note, lost.name, lost.bound) == ("No data.", "joint", True)
    assert "seeds" not in lost.config
    assert "seed" not in lost.config["stream"]
    record = SimpleNamespace(
        status="done",
        metrics={"average_accuracy": 0.5},
        primary="average_accuracy",
        more=(),
        seeds={"data": 3},
        selection="fixed",
        config=resolved.model_dump(mode="json"),
        budget={"train_seconds": 1.0, "eval_seconds": 2.0},
        curve=CURVE,
        note="",
        strategy={"name": "joint"},
        benchmark={"name": "pacs", "version": 1, "domains": ["photo", "sketch"]},
        model={"name": "mlp", "substrate": "an MLP trained on digits"},
        code={"version": "0.1.0", "commit": "0123456789abcdef", "dirty": True},
        environment={
            "python": "3.12.1",
            "libraries": {"torch": "2.9.0", "timm": None},
            "device": "cpu",
            "processor": "P",
            "system": "Linux",
            "threads": 1,
        },
    )
    done = reported(SimpleNamespace(**{**vars(failed), "record": record}))  # type: ignore[arg-type]
    assert done.substrate == "an MLP trained on digits"
    assert done.experiences == ("photo", "sketch")
    assert done.bound
    assert (done.status, done.train_seconds, done.eval_seconds) == ("done", 1.0, 2.0)
    assert done.curve is not None
    assert done.curve() is CURVE
    assert (
        done.made_by
        == "clbench 0.1.0 (012345678, changed); Python 3.12.1; torch 2.9.0; cpu on P, Linux, 1 thread"
    )
