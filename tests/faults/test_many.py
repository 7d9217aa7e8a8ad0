"""Reports and pages of many runs: right, and linear in the runs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import many
import pytest
from markupsafe import Markup

from clbench.reports import charts, frame, plots, suite as report, tables
from clbench.reports.leaderboard import read_board, write_site
from clbench.reports.leaderboard.store import place
from clbench.results.curve import Curve
from clbench.results.ledger import Record
from clbench.results.traces import Trace

ROOT = Path(__file__).resolve().parent.parent.parent
ONE = many.BENCHMARKS[:1]


def calls(function: Callable[..., object], *given: Any) -> int:
    """How often clbench's own functions are called in it."""
    count = 0

    def called(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call" and "/clbench/" in frame.f_code.co_filename

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        function(*given)
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture(scope="module")
def curve() -> Curve:
    return Curve.from_trace([[0.5, 1.0, 0.2, 0.9], [0.5, 1.0]], [2])


def records(rows: int, seeds: int) -> list[Record]:
    return [record for record, _ in many.runs(ROOT / "leaderboard", ONE, rows, seeds)]


def test_made_up_runs_are_a_sound_board_of_rows(tmp_path: Path) -> None:
    many.make_board(many.runs(ROOT / "leaderboard", ONE, 3, 6), tmp_path)
    read = read_board(tmp_path)
    assert Counter(record.strategy["name"] for record in read) == dict.fromkeys(
        {record.strategy["name"] for record in read}, 6
    )
    assert len(read) == 18


@pytest.mark.parametrize("shape", [(6, 4, 24, 4), (6, 4, 6, 16)], ids=["rows", "seeds"])
def test_a_site_is_linear_in_its_records(
    shape: tuple[int, int, int, int], curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, seeds, more_rows, more_seeds = shape
    reads = Counter[str]()

    def read(record: Record) -> Curve:
        reads[record.id] += 1
        return curve

    monkeypatch.setattr(Record, "curve", property(read))

    def made(number: int, of: int) -> int:
        found, root = records(number, of), tmp_path / f"{number} {of}"
        reads.clear()
        for record in found:
            for path in (root / place(record), root / "curves" / record.curve_file["file"]):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("")
        counted = calls(write_site, found, root, root / "site")
        assert set(reads.values()) == {1}  # every curve once
        return counted

    assert made(more_rows, more_seeds) < 4.5 * made(rows, seeds)


def test_of_a_board_and_its_site_every_curve_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many.make_board(many.runs(ROOT / "leaderboard", ONE, 2, 3), tmp_path)
    traces: dict[str, Trace] = {}
    load, reads = Curve.load, Counter[str]()

    def read(path: Path) -> Curve:
        reads[path.name] += 1
        return load(path)

    with monkeypatch.context() as patch:
        patch.setattr(Curve, "load", read)
        found = read_board(tmp_path, traces=traces)
        write_site(found, tmp_path, tmp_path / "once", traces)
    assert reads == {f"{record.id}.npz": 1 for record in found}
    write_site(found, tmp_path, tmp_path / "again")
    pages = [path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*.html")]
    assert pages
    for page in pages:
        assert (tmp_path / "once" / page).read_text() == (tmp_path / "again" / page).read_text()


@pytest.mark.parametrize("shape", [(6, 4, 24, 4), (6, 4, 6, 16)], ids=["rows", "seeds"])
def test_a_report_is_linear_in_its_runs(
    shape: tuple[int, int, int, int], curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((charts, "figure"), (frame, "matrices")):  # of thirty rows at most
        monkeypatch.setattr(module, name, lambda *given: Markup(""))
    rows, seeds, more_rows, more_seeds = shape
    reads = Counter[tuple[str, int]]()

    def cells(number: int, of: int) -> list[tables.Cell]:
        def read(key: tuple[str, int]) -> Curve:
            reads[key] += 1
            return curve

        return [
            tables.Cell(
                "b", f"s{i}", seed, "done", {"average_accuracy": (i + seed) / 100}, 1.0, 1.0,
                partial(read, (f"s{i}", seed)),
            )
            for i in range(number)
            for seed in range(of)
        ]  # fmt: skip

    def made(number: int, of: int) -> int:
        reads.clear()
        counted = calls(report.write_report, cells(number, of), tmp_path / f"{number} {of}", "T", "c")
        assert set(reads.values()) == {1}
        return counted

    assert made(more_rows, more_seeds) < 4.5 * made(rows, seeds)


def test_charts_show_the_thirty_best_rows_and_say_so(curve: Curve, tmp_path: Path) -> None:
    said = f"Of 31 strategies, the {plots.MOST} with the highest ACC."
    for number, told in ((plots.MOST, False), (plots.MOST + 1, True)):
        read: list[int] = []

        def curve_of(i: int, read: list[int] = read) -> Curve:
            read.append(i)
            return curve

        given = [
            tables.Cell("b", f"s{i}", 0, "done", {"average_accuracy": i / 100}, curve=partial(curve_of, i))
            for i in range(number)
        ]
        page = report.write_report(given, tmp_path / str(number), "T", "c").read_text(encoding="utf-8")
        assert (said in page) is told
        assert sorted(read) == list(range(number - plots.MOST, number))  # the worst is not drawn
        assert all(f">s{i}<" in page for i in range(number))  # and stands in the table


def test_figures_of_the_site_show_the_thirty_best_rows_and_say_so(
    curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "MOST", 3)
    monkeypatch.setattr(Record, "curve", property(lambda record: curve))
    found, root = records(5, 1), tmp_path / "board"
    for record in found:
        for path in (root / place(record), root / "curves" / record.curve_file["file"]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    write_site(found, root, tmp_path / "site")
    (page,) = (tmp_path / "site" / "benchmarks").glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert text.count("Of 5 rows, the 3 with the highest ACC.") == 3  # lines, dots, matrices
    assert text.count('<table class="matrix">') == 3
    assert text.count('<tr class="row') == 5
