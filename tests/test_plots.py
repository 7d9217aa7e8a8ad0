"""What the plots draw, as numbers, and the files they write."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from clbench.errors import ConfigError
from clbench.reports import plots
from clbench.reports.styles import BOUNDS, OKABE_ITO
from clbench.results.curve import Curve
from clbench.results.traces import Line, Mean, Trace, mean_line, progress


def run(*steps: int, dip: float = 0.5, streams: int | None = None) -> Curve:
    """A run whose experience e takes `steps[e]` steps; old streams dip when one begins, then recover to 1."""
    ends = np.cumsum(steps)
    traces = []
    for j in range(streams or len(steps)):
        trace = [1.0] * (ends[-1] - (ends[j - 1] if j else 0))
        for end in ends[j:-1]:
            trace[end - ends[-1]] = dip
        traces.append(trace)
    return Curve.from_trace(traces, ends[:-1].tolist())


def mean_curve(curves: Sequence[Curve], stream: int = 0) -> Line | None:
    """The mean accuracy on one stream."""
    return mean_line([(progress(curve), Trace.of(curve, stream).one) for curve in curves])


def size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []

    def keep(figure: Figure, path: plots.Path_) -> Path:
        figure.canvas.draw()
        saved.append(figure)
        return Path(path)

    monkeypatch.setattr(plots, "save", keep)
    return saved


# --- numbers ---


def test_progress_aligns_boundaries_whatever_the_steps() -> None:
    for steps in ((2, 2, 2), (2, 4, 8), (1, 1, 1)):
        there = progress(run(*steps))
        ends = np.cumsum(steps) - 1
        assert there[ends] == pytest.approx([1, 2, 3])
        assert (np.diff(there) > 0).all()
    assert progress(run(2, 4)) == pytest.approx([0.5, 1, 1.25, 1.5, 1.75, 2])


def test_a_tick_before_the_first_step_is_at_zero() -> None:
    curve = Curve()
    for step in (0, 2, 4):
        curve.append(
            step=step, examples=step, experience=0, evaluated=0, correct=1, total=2, loss=0.0, full=False
        )
    assert progress(curve).tolist() == [0, 0.5, 1]


def test_sparse_ticks_end_with_the_experience_and_not_with_its_last_tick() -> None:
    curve = Curve()
    for step, full in ((5, False), (10, True)):
        curve.append(
            step=step, examples=step, experience=0, evaluated=0, correct=1, total=2, loss=0.0, full=full
        )
    assert progress(curve).tolist() == [0.5]


def test_mean_curve_keeps_every_dip_of_equal_runs() -> None:
    line = mean_curve([run(40, 40, dip=0.2), run(40, 40, dip=0.4), run(40, 40, dip=0.6)])
    assert line is not None
    x, mean, half = line
    assert len(x) == 80
    assert mean.min() == pytest.approx(0.4)
    assert x[mean.argmin()] == pytest.approx(1 + 1 / 40)
    assert half is not None
    assert half.max() == pytest.approx(4.302653 * 0.2 / 3**0.5)
    assert np.count_nonzero(half) == 1


def test_mean_curve_interpolates_runs_of_other_steps() -> None:
    line = mean_curve([run(2, 2, dip=0.0), run(4, 4, dip=1.0)])
    assert line is not None
    x, mean, _ = line
    assert x == pytest.approx([0.5, 0.75, 1, 1.25, 1.5, 1.75, 2])  # from where both have begun
    assert mean == pytest.approx([1, 1, 1, 0.75, 0.5, 0.75, 1])


def test_mean_curve_begins_where_the_stream_is_seen() -> None:
    line = mean_curve([run(2, 2)], 1)
    assert line is not None
    assert line[0] == pytest.approx([1.5, 2])
    assert line[2] is None
    assert mean_curve([Curve()]) is None
    assert mean_curve([]) is None


def test_mean_matrix() -> None:
    runs = [Curve.from_matrix([[0.8, 0], [0.2, 1]]), Curve.from_matrix([[0.4, 0], [0, 1]])]
    R = Mean.of([Trace.of(curve) for curve in runs]).matrix
    np.testing.assert_allclose(R, np.array([[0.6, 0], [0.1, 1]]))


def test_a_label_is_drawn_as_the_strategy_that_it_stands_for() -> None:
    labels = {"er memory=20": "er", "finetune lr=0.1": "finetune", "finetune lr=1": "finetune", "joint": "er"}
    chosen = plots.styles(labels, labels)
    assert chosen["finetune lr=0.1"] == plots.styles(["finetune"])["finetune"]
    assert chosen["finetune lr=1"].color == BOUNDS["finetune"]
    assert chosen["joint"].color in OKABE_ITO
    assert len(set(chosen.values())) == 4


def test_two_runs_have_no_band_and_the_plot_says_so(figures: list[Figure]) -> None:
    plots.stability_gap({"er": [run(5, 5, dip=0.2), run(5, 5, dip=0.6)]}, "a.png")
    axis = figures[0].axes[0]
    assert not axis.collections
    assert any("too few for an interval" in text.get_text() for text in axis.texts)


def test_styles_are_distinct_and_hold_for_bounds() -> None:
    names = ["er", "finetune", *[f"s{k}" for k in range(19)], "joint"]
    chosen = plots.styles([*names, *names])
    assert list(chosen) == names
    assert len(set(chosen.values())) == len(names)
    assert chosen["finetune"] == plots.styles(["finetune"])["finetune"]
    assert not {chosen[name].color for name in ("finetune", "joint")} & set(OKABE_ITO)


@pytest.mark.parametrize(
    "wanted", [[0.5], [0.0, 0.0, 0.0, 0.9], [0.1, 0.12, 0.14, 0.5, 0.51], [1.0, 1.0, 1.0], [0.3, 0.35, 0.4]]
)
def test_spread_moves_names_apart_and_no_farther_than_needed(wanted: Sequence[float]) -> None:
    places = plots.spread(wanted, 0.1, 0.0, 1.0)
    assert len(places) == len(wanted)
    assert (np.diff(places) >= 0.1 - 1e-9).all()
    assert min(places) >= 0
    assert max(places) <= 1 + 1e-9
    assert np.abs(np.subtract(places, wanted)).max() <= 0.1 * (len(wanted) - 1) + 1e-9


def test_spread_leaves_alone_what_does_not_touch() -> None:
    assert plots.spread([0.1, 0.3, 0.8], 0.1, 0.0, 1.0) == pytest.approx([0.1, 0.3, 0.8])
    assert plots.spread([0.3, 0.35, 0.4], 0.1, 0.0, 1.0) == pytest.approx([0.25, 0.35, 0.45])


# --- files ---


def test_plots_are_png_of_the_stated_resolution_and_equal_bytes(tmp_path: Path) -> None:
    curves = {"er": [run(3, 4, dip=0.2), run(3, 4)], "joint": [run(3, 8, dip=0.9)]}
    for name, draw in (("gap", plots.stability_gap), ("seen", plots.seen_accuracy)):
        made = [draw(curves, tmp_path / folder / f"{name}.png") for folder in ("a", "b")]
        assert size(made[0]) == (round(8.4 * plots.DPI), round(4.4 * plots.DPI))
        assert made[0].read_bytes() == made[1].read_bytes()
        assert b"tEXt" not in made[0].read_bytes()  # neither time nor version


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_plots_for_papers_are_vectors_and_equal_bytes(form: str, tmp_path: Path) -> None:
    runs = {"er": [run(3, 4, dip=0.2)], "joint": [run(3, 8, dip=0.9)]}
    made = [plots.draw("seen-accuracy", runs, tmp_path / f"{of}.{form}") for of in "ab"]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert made[0].read_bytes().startswith({"svg": b"<?xml", "pdf": b"%PDF"}[form])


def test_a_plot_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in .png, .svg, .pdf; .*a.gif does not"):
        plots.draw("stability-gap", {"er": [run(3, 4)]}, tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("seen", "no figure 'seen'"),
        ("plasticity", "none of the runs has evaluation.network=true"),
        ("accuracy-matrix", "none of the runs has evaluations at the ends of experiences"),
    ],
)
def test_what_cannot_be_drawn_is_said(figure: str, said: str, tmp_path: Path) -> None:
    curve = Curve()
    curve.append(step=1, examples=1, experience=0, evaluated=0, correct=1, total=2, loss=0.0, full=False)
    with pytest.raises(ConfigError, match=said):
        plots.draw(figure, {"er": [curve]}, tmp_path / "a.png")


def test_experiences_are_called_by_their_names(figures: list[Figure]) -> None:
    plots.seen_accuracy({"er": [run(5, 5)]}, "a.png", names=["photo", "sketch"])
    plots.accuracy_matrix({"er": [[1.0, 0.0], [0.5, 1.0]]}, "a.png", names=["photo", "sketch"])
    for figure in figures:
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["photo", "sketch"]


def test_a_users_settings_neither_change_nor_matter(tmp_path: Path) -> None:
    plain = plots.stability_gap({"er": [run(3, 4)]}, tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        assert plots.stability_gap({"er": [run(3, 4)]}, tmp_path / "b.png").read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_what_stability_gap_draws(figures: list[Figure]) -> None:
    runs = [run(10, 10, 10, dip=dip) for dip in (0.2, 0.2, 0.8)]
    curves = {"er": runs, "joint": [run(10, 20, 30)]}
    plots.stability_gap(curves, "a.png", title="Gap")
    axis = figures[0].axes[0]
    line = next(line for line in axis.lines if len(line.get_xdata()) == 30)
    assert min(line.get_ydata()) == pytest.approx(0.4)
    verticals = [line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1]
    assert verticals == [1, 2]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2", "3"]
    assert axis.get_title(loc="left") == "Gap"
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0  # 0.4 ± 4.3 · 0.35 / √3 is cut to what an accuracy can be
    assert band[:, 1].max() == 1


def test_seen_accuracy_averages_over_seen_streams_only(figures: list[Figure]) -> None:
    plots.seen_accuracy({"er": [run(2, 2, dip=0.5)]}, "a.png")
    line = next(line for line in figures[0].axes[0].lines if len(line.get_xdata()) == 4)
    assert line.get_ydata() == pytest.approx([1, 1, 0.75, 1])


@pytest.mark.parametrize("count", [1, 6, 24])
def test_names_do_not_overlap_and_stay_inside(count: int, figures: list[Figure]) -> None:
    plots.stability_gap({f"a rather long name {k}": [run(5, 5)] for k in range(count)}, "a.png")
    figure = figures[0]
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text().startswith("a r")]
    assert len(boxes) == count
    ordered = sorted(boxes, key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(ordered))
    width, height = figure.canvas.get_width_height()
    assert all(min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)


def test_strategies_keep_the_style_they_are_given(figures: list[Figure]) -> None:
    style = {"er": plots.Style("#123456")}
    plots.stability_gap({"ewc": [run(5, 5)], "er": [run(5, 5)]}, "a.png", styles=style)
    assert [line.get_color() for line in figures[0].axes[0].lines][:2] == [OKABE_ITO[0], "#123456"]


def test_nothing_evaluated_is_said_and_no_error(figures: list[Figure]) -> None:
    plots.stability_gap({"er": [Curve.from_matrix([[1, 0], [0.5, 1]])]}, "a.png")
    assert "nothing was evaluated" in [text.get_text() for text in figures[0].axes[0].texts]


def test_high_accuracies_get_the_room(figures: list[Figure]) -> None:
    plots.stability_gap({"er": [run(5, 5, dip=0.9)]}, "a.png")
    low, high = figures[0].axes[0].get_ylim()
    assert 0.7 < low < 0.9
    assert 1 < high < 1.01


def test_accuracy_matrix_shows_numbers_in_percent(figures: list[Figure]) -> None:
    matrices = {"er": [[0.97, 0.0], [0.5, 1.0]], "joint": [[0.97, np.nan], [0.951, 1.0]]}
    plots.accuracy_matrix(matrices, "a.png", title="Matrix")
    shown = [[text.get_text() for text in axis.texts] for axis in figures[0].axes]
    assert shown == [["97", "0", "50", "100"], ["97", "95", "100"]]
    assert [axis.get_title(loc="left") for axis in figures[0].axes] == ["er", "joint"]


@pytest.mark.parametrize(("T", "S", "count"), [(1, 1, 1), (3, 2, 2), (5, 5, 7), (20, 20, 5)])
def test_accuracy_matrices_of_any_size(T: int, S: int, count: int, tmp_path: Path) -> None:
    R = np.tri(T, S)
    R[0, -1] = np.nan
    path = plots.accuracy_matrix({f"s{k}": R for k in range(count)}, tmp_path / "a.png")
    assert size(path)[0] <= 1600
