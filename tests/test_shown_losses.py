"""Runs of language models are drawn and told by their losses, in nats per token; the lower, the better."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clbench.reports import charts, frame, plots, styles, svg
from clbench.reports.live import LivePage, Named
from clbench.reports.rows import Cell, Row, difference_rows, keys_of, table_rows
from clbench.reports.tables import note_of, told, units_of
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.results.live import LIVE, packed, summary
from clbench.results.measures import ACCURACY, LOSS, measure_of
from clbench.results.statistics import t_interval
from clbench.results.traces import Mean, Trace, range_of

FIRST = [4.0, 2.0, 1.0, 1.5, 1.75, 1.25]
"""The loss on the first domain, tick by tick; the second begins after three."""


def curve(shift: float = 0.0) -> Curve:
    made = Curve()
    about = {"correct": 1, "total": 10, "characters": 20, "bytes": 20}
    for t, loss in enumerate(FIRST):
        seen = 1 + (t >= 3)
        losses = 10 * (np.array([loss, 3.0])[:seen] + shift)
        at = {"step": t + 1, "examples": t + 1, "experience": seen - 1}
        made.append(**at, **about, evaluated=np.arange(seen), loss=losses, full=False)
        if t in (2, 5):
            both = 10 * (np.array([loss, 3.0]) + shift)
            made.append(**at, **about, evaluated=[0, 1], loss=both, full=True)
    return made


def mean() -> Mean:
    return Mean.of([Trace.of(curve(shift)) for shift in (-0.1, 0.0, 0.1)])


def cells(strategy: str = "er", shift: float = 0.0) -> list[Cell]:
    shifts = [shift + seed / 100 for seed in range(3)]
    found = [metrics.compute(curve(of)) for of in shifts]
    return [
        Cell("prose", strategy, seed, "done", values, primary="average_loss", name=strategy)
        for seed, values in enumerate(found)
    ]


# --- what is drawn ---


def test_a_curve_of_language_is_drawn_by_its_losses() -> None:
    trace = Trace.of(curve())
    assert trace.measure == LOSS
    assert trace.one.tolist() == FIRST
    assert trace.seen.tolist() == [4.0, 2.0, 1.0, 2.25, 2.375, 2.125]
    assert trace.matrix is not None
    assert trace.matrix.tolist() == [[1.0, 3.0], [1.25, 3.0]]
    assert measure_of(Curve.from_matrix([[1.0]])) == ACCURACY


def test_a_chart_of_losses_says_its_unit_and_no_percent() -> None:
    of = {"er": mean()}
    made = charts.stream_chart("prose", of, styles.styles(of), {"er"})
    assert made is not None
    found = charts.data(made)
    assert [panel["label"] for panel in found["panels"]] == [
        "loss (nats per token) on the experiences seen so far",
        "loss (nats per token) on the first experience",
    ]
    assert not any(panel["percent"] or panel["zero"] for panel in found["panels"])
    line = found["series"][0]["lines"][1]
    assert np.array(line["y"]) * found["panels"][1]["scale"] == pytest.approx(FIRST, abs=1e-3)
    assert "the rise when another experience begins" in charts.stream_caption(LOSS)


def test_an_axis_of_losses_fits_all_but_their_first_fall() -> None:
    line = mean().one
    assert line is not None
    late = line._replace(x=line.x - line.x[0])  # whose first tick, of 4 nats, is at the very beginning
    low, high = range_of([late])
    assert low < 1.0 - 0.2 < 1.0 < 2.0 < high < 4.0


def test_a_picture_of_losses_is_not_cut_at_1() -> None:
    line = mean().one
    assert line is not None
    curves = [svg.Curve("er", styles.Style("#123456"), line)]
    drawn = svg.lines(curves, title="t", x_label="x", y_label="y", percent=False, zero=False)
    points = drawn.split('points="')[2].split('"')[0].split()
    assert len({point.split(",")[1] for point in points}) == len(set(FIRST))


def test_the_lowest_loss_is_the_darkest() -> None:
    R = np.array([[1.0, 3.0], [2.0, np.nan]])
    drawn = str(frame.matrices({"er": R}, {"er"}, measure=LOSS))
    assert [text in drawn for text in ('class="v20">1.00', 'class="v0 later">3.00', 'class="v10">2.00')] == [
        True
    ] * 3
    assert frame.matrices_caption(LOSS, "each one", "seeds").startswith("Loss in nats per token on the full")


def test_plots_of_losses_have_their_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: kept.append(figure))
    for name in ("stability-gap", "seen-accuracy", "accuracy-matrix"):
        plots.draw(name, {"er": [curve()]}, tmp_path / "a.png", title="prose")
    gap, _, matrix = kept
    assert gap.axes[0].get_title(loc="left") == "prose: loss of the first experience"
    assert gap.axes[0].get_ylabel() == "test loss (nats per token) on the first experience"
    assert gap.axes[0].get_ylim()[1] > 1.75
    assert [text.get_text() for text in matrix.axes[0].texts] == ["1.00", "3.00", "1.25", "3.00"]
    axes = curve().loss_matrix().plot(Figure().subplots())
    assert axes.get_xlabel() == "loss, in nats, on"
    assert curve().plot(Figure().subplots()).get_ylabel() == "test loss (nats per token)"


# --- what is told ---


def test_tables_of_language_show_losses_and_no_accuracy() -> None:
    rows = table_rows([*cells("er"), *cells("er+ewc", 0.25)])
    keys = keys_of(rows)
    assert keys[:2] == ["average_loss", "bits_per_character"]
    assert {"forgetting_nats", "average_anytime_loss", "gap_nats"} == set(keys[2:])
    assert note_of(rows).startswith("Nats per token (bpc: bits); mean ± half")
    assert told(rows[0].interval("average_loss"), "average_loss") == "2.135 ± 0.025"
    (change,) = difference_rows([*cells("er"), *cells("er+ewc", 0.25)])
    assert told(change.interval("average_loss"), "average_loss", plus=True) == "+0.250 ± 0.000"
    assert "Nats per token (bpc: bits): what the last part of a chain changes" in note_of([change], True)


def test_a_table_of_both_kinds_shows_of_each_what_is_of_it() -> None:
    image = metrics.compute(Curve.from_matrix([[0.5, 0.1], [0.4, 0.6]]))
    rows = [Row.of(cells()), Row.of([Cell("digits", "er", 0, "done", image, primary="average_accuracy")])]
    keys = keys_of(rows)
    assert {"average_accuracy", "average_loss"} <= set(keys)
    assert [row.tells("average_accuracy") for row in rows] == [False, True]
    assert units_of(["average_accuracy", "average_loss"]) == "Percent (loss: nats per token)"


def test_no_minus_stands_before_a_zero() -> None:
    assert told(t_interval([-1e-5]), "average_loss", plus=True) == "0.000"


# --- while it runs ---


def test_what_is_told_so_far_ends_as_the_metrics() -> None:
    found, told_so_far = metrics.compute(curve()), summary(curve())
    assert {key: float(line[-1]) for key, line in told_so_far.items()} == pytest.approx(
        {key: found[key] for key in ("average_loss", "gap_nats", "average_anytime_loss")}
    )
    assert told_so_far["gap_nats"][2:].tolist() == pytest.approx([np.nan, 0.5, 0.75, 0.75], nan_ok=True)


def test_the_live_page_has_losses(tmp_path: Path) -> None:
    about = {
        "format": 2,
        "benchmark": "prose",
        "strategy": "er",
        "seed": 0,
        "domains": [None, None],
        "steps": 6,
    }
    about |= {"host": "another", "from": 0, "began": 0.0, "by": "step", "ends": [3, 6]}
    made = curve()
    (tmp_path / LIVE).write_bytes(json.dumps(about).encode() + b"\n" + packed(made, 0, len(made)))
    with LivePage("t", lambda: [Named(tmp_path)]) as page:
        (run,) = page.overview()["runs"]
        assert run["told"] == {"loss": "2.125", "gap": "0.750", "anytime loss": "2.292"}
        shown = page.curve(run["key"], "", 0)
    assert shown is not None
    assert shown["each"][0] == FIRST
    assert [panel["percent"] for panel in shown["panels"]] == [False, False]
    assert "Nats per token" in shown["about"]
