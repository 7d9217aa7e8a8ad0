"""Metrics: published fixtures, clashing definitions apart, and the windowed ones against their definition."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from clbench.errors import RegistryError
from clbench.results import metrics
from clbench.results.curve import Curve, Floats
from clbench.results.metrics import METRICS, compute, core, metric

NAN = float("nan")

# The toy trace: three tasks of four ticks each.
TRACE = [
    [0.2, 0.6, 0.8, 0.9, 0.5, 0.6, 0.7, 0.85, 0.4, 0.7, 0.8, 0.8],
    [0.3, 0.7, 0.8, 0.95, 0.6, 0.5, 0.75, 0.8],
    [0.1, 0.5, 0.8, 0.9],
]
R = [[0.90, 0.30, 0.10], [0.85, 0.95, 0.20], [0.80, 0.80, 0.90]]

FEW_SHOT = (
    "performance_drop",
    "harmonic_mean",
    "base_accuracy",
    "novel_accuracy",
    "gacc_0",
    "gacc_auc",
)
REQUIRED = [
    "average_accuracy",
    "average_incremental_accuracy",
    "average_anytime_accuracy",
    "forgetting",
    "forgetting_first_last",
    "backward_transfer",
    "forward_transfer",
    "learning_accuracy",
    "min_acc",
    "wc_acc",
    "wf10",
    "wf100",
    "wp10",
    "wp100",
]


@pytest.fixture
def trace() -> Curve:
    return Curve.from_trace(TRACE, boundaries=[4, 8])


@pytest.fixture
def matrix() -> Curve:
    return Curve.from_matrix(R, b=0.1)


def value(curve: Curve, name: str) -> float | None:
    return compute(curve, [name])[name]


def test_generalized_accuracy_of_the_curve():
    """accs [[80], [70, 50]], base over way 12: gAcc(0) = 25, gAcc(1) = 70, gAcc(12) = 74.2308, AUC = 0.71132."""
    R = [[0.80, NAN], [0.70, 0.50]]
    curve = Curve.from_matrix(R, totals=[1200, 100])
    assert value(curve, "gacc_0") == pytest.approx(0.25)
    assert value(curve, "gacc_auc") == pytest.approx(0.71132, abs=5e-6)
    assert value(curve, "average_incremental_accuracy") == pytest.approx(
        metrics.generalized_accuracy(R, 1), abs=1e-12
    )
    assert metrics.generalized_accuracy(R, 1) == pytest.approx(0.70)
    assert metrics.generalized_accuracy(R, 12) == pytest.approx(0.742308, abs=5e-7)


def test_generalized_accuracy_against_the_definition_written_out():
    rng = np.random.default_rng(3)
    R = np.where(np.tri(5, dtype=bool), rng.integers(0, 101, (5, 5)) / 100, NAN)
    curve = Curve.from_matrix(R, totals=[1200, 100, 100, 100, 100])

    def gacc(alpha):
        sessions = [R[0, 0] if alpha else 0.0]
        for k in range(1, 5):
            sessions.append((alpha * R[k, 0] + sum(R[k, 1 : k + 1])) / (k + alpha))
        return sum(sessions) / 5

    assert value(curve, "gacc_0") == pytest.approx(gacc(0), abs=1e-12)
    area = np.trapezoid([gacc(a) for a in range(13)], x=range(13)) / 12
    assert value(curve, "gacc_auc") == pytest.approx(area, abs=1e-12)


# --- the registry ---


@pytest.mark.parametrize("name", REQUIRED)
def test_the_keys_that_scripts_rely_on_are_computed_unasked(name, trace):
    assert name in compute(trace)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_few_shot_metrics_are_computed_on_request_only(name, matrix):
    assert name not in compute(matrix)
    assert compute(matrix, [name])[name] is not None


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is(name):
    m = METRICS[name]
    assert m.name == name == m.function.__name__
    assert m.summary.endswith(".")
    assert "\n" not in m.summary
    assert any(sign in m.formula for sign in "=Σ")
    assert not m.formula.startswith(" ")
    assert m.reference
    assert m.title
    assert getattr(metrics, name) is m.function


def test_titles_are_distinct():
    assert len({m.title for m in METRICS.values()}) == len(METRICS)


def test_directions():
    down = {name for name, m in METRICS.items() if m.higher_is_better is False}
    words = (
        "forgetting",
        "f_last",
        "wf1",
        "gap",
        "drop",
        "loss",
        "dormant",
        "forgotten",
        "bits",
        "perplexity",
    )
    assert down == {name for name in METRICS if any(word in name for word in words)}


def test_compute_keeps_the_order_of_the_names(matrix):
    assert list(compute(matrix, ["forgetting", "average_accuracy"])) == ["forgetting", "average_accuracy"]


def test_an_unknown_metric_is_refused_with_the_nearest_one(matrix):
    message = r"no metric named 'forgeting'\. Did you mean 'forgetting'\? .*`clbench list metrics` shows all "
    with pytest.raises(RegistryError, match=message):
        compute(matrix, ["forgeting"])


def test_a_name_is_given_once():
    with pytest.raises(RegistryError, match="There is a metric 'wc_acc' already"):
        metric("wc_acc", title="x", higher_is_better=True, reference="x")(lambda curve: 0.0)


def test_a_metric_that_gives_no_number_is_named(monkeypatch, matrix):
    monkeypatch.setattr("clbench.results.metrics.core.METRICS", dict(METRICS))

    @metric("worded", title="Worded", higher_is_better=True, reference="here")
    def worded(curve):
        """A word."""
        return "much"

    with pytest.raises(RegistryError, match="The metric 'worded' gives 'much'; it has to give a number"):
        worded(matrix)


def test_a_plugin_can_add_a_metric(monkeypatch, matrix):
    monkeypatch.setattr("clbench.results.metrics.core.METRICS", dict(METRICS))

    @metric("worst_task", title="Worst", higher_is_better=True, reference="here")
    def worst_task(curve: Curve) -> float | None:
        """Accuracy at the end on the worst task.

        min_j R[T,j]
        """
        return float(curve.matrix().R[-1].min())

    assert value(matrix, "worst_task") == 0.8


def test_values_are_plain_floats(trace):
    assert all(v is None or type(v) is float for v in compute(trace).values())


# --- fixtures of the toy trace ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average_accuracy", 0.83333),
        ("forgetting_first_last", 0.125),
        ("min_acc", 0.45),
        ("wc_acc", 0.60),
        ("average_anytime_accuracy", 0.64583),
        ("average_anytime_accuracy_by_steps", 0.64583),
        ("average_anytime_accuracy_all_tasks", 0.43194),
        ("average_stability_gap", (0.4 / 0.9 + 0.45 / 0.85 + 0.45 / 0.95) / 3),
    ],
)
def test_toy_trace(trace, name, expected):
    assert value(trace, name) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("function", "window", "per_task"),
    [
        (metrics.windowed_forgetting, 1, (0, 0, 0)),
        (metrics.windowed_forgetting, 2, (0.45, 0.35, 0)),
        (metrics.windowed_forgetting, 4, (0.45, 0.45, 0)),
        (metrics.windowed_plasticity, 1, (0, 0, 0)),
        (metrics.windowed_plasticity, 2, (0.40, 0.40, 0.40)),
        (metrics.windowed_plasticity, 4, (0.70, 0.65, 0.80)),
    ],
)
def test_toy_trace_windows(trace, function, window, per_task):
    np.testing.assert_allclose(function(trace.ticks().accuracy, window)[-1], per_task, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "window", "expected"),
    [
        (metrics.windowed_forgetting, 2, 0.26667),
        (metrics.windowed_plasticity, 2, 0.40),
        (metrics.windowed_forgetting, 4, 0.30),
        (metrics.windowed_plasticity, 4, 0.71667),
    ],
)
def test_toy_trace_window_means(trace, function, window, expected):
    assert function(trace.ticks().accuracy, window)[-1].mean() == pytest.approx(expected, abs=1e-5)


def test_toy_trace_lca(trace):
    assert metrics.learning_curve_area(trace.ticks(), beta=2) == pytest.approx(0.40)


@pytest.mark.parametrize(("name", "expected"), [("min_acc", 0.50), ("wc_acc", 0.725)])
def test_toy_trace_after_two_tasks(trace, name, expected):
    assert value(trace.upto(2), name) == pytest.approx(expected)


def test_toy_trace_at_each_tick(trace):
    np.testing.assert_allclose(
        metrics.min_acc_trace(trace.ticks()), [NAN] * 4 + [0.5] * 4 + [0.5, 0.45, 0.45, 0.45]
    )
    np.testing.assert_allclose(
        metrics.wc_acc_trace(trace.ticks()),
        [0.2, 0.6, 0.8, 0.9, 0.4, 0.6, 0.65, 0.725, (0.1 + 1) / 3, (0.5 + 0.9) / 3, (0.8 + 0.9) / 3, 0.6],
    )


def test_wc_acc_anytime_is_the_mean_over_ticks(trace):
    assert value(trace, "wc_acc_anytime") == pytest.approx(metrics.wc_acc_trace(trace.ticks()).mean())


# --- windows ---


def test_one_window_with_a_dip():
    dip = [[0.5], [0.1], [0.9]]
    assert metrics.windowed_forgetting(dip, 3)[-1, 0] == pytest.approx(0.4)
    assert metrics.windowed_plasticity(dip, 3)[-1, 0] == pytest.approx(0.8)


def test_a_window_holds_as_many_ticks_as_it_says():
    drop = [[0.9], [0.6], [0.3]]
    assert metrics.windowed_forgetting(drop, 2)[-1, 0] == pytest.approx(0.3)
    assert metrics.windowed_forgetting(drop, 3)[-1, 0] == pytest.approx(0.6)


def test_a_window_runs_over_the_tasks_own_ticks():
    sparse = [[0.9], [NAN], [NAN], [0.2]]
    np.testing.assert_allclose(metrics.windowed_forgetting(sparse, 2)[:, 0], [0, 0, 0, 0.7])


def test_an_unseen_task_has_no_windows():
    assert np.isnan(metrics.windowed_forgetting([[NAN, 0.5]], 10)).tolist() == [[True, False]]


def test_the_registered_windows_are_10_and_100_ticks():
    a = [1.0, *[0.5] * 8, 0.4, 0.3, *[0.3] * 88, 0.2, 0.1]  # drops of 0.6 in 10 ticks and of 0.8 in 100
    curve = Curve.from_trace([a], boundaries=[])
    assert value(curve, "wf10") == pytest.approx(0.6)
    assert value(curve, "wf100") == pytest.approx(0.8)
    rising = Curve.from_trace([[1 - x for x in a]], boundaries=[])
    assert value(rising, "wp10") == pytest.approx(0.6)
    assert value(rising, "wp100") == pytest.approx(0.8)


@pytest.mark.parametrize(("accuracy", "window"), [([[0.5]], 0), ([0.5, 0.6], 10)])
def test_windows_refuse_what_they_cannot_mean(accuracy, window):
    with pytest.raises(ValueError, match="a window holds at least 1 tick"):
        metrics.windowed_forgetting(accuracy, window)


def naive_windows(accuracy: Floats, window: int, change: Callable[[float, float], float]) -> Floats:
    """The definition, letter by letter: all pairs m < n of every window, then the running maximum."""
    result = np.full(accuracy.shape, np.nan)
    for j in range(accuracy.shape[1]):
        own = [t for t in range(len(accuracy)) if not np.isnan(accuracy[t, j])]
        worst = 0.0
        for t in range(len(own)):
            held = accuracy[own[max(0, t - window + 1) : t + 1], j]
            pairs = [change(held[m], held[n]) for n in range(len(held)) for m in range(n)]
            worst = max([worst, *pairs])
            result[own[t] :, j] = worst
    return result


@st.composite
def random_accuracies(draw: st.DrawFn) -> Floats:
    """(K, T) with tasks that begin late and ticks that leave some out."""
    K, T = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    accuracy = rng.integers(0, 101, (K, T)) / 100
    accuracy[rng.random((K, T)) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    accuracy[np.arange(K)[:, None] < rng.integers(0, K, T)] = np.nan
    return accuracy


@settings(max_examples=60, deadline=None)
@given(random_accuracies(), st.integers(1, 40))
def test_windows_are_those_of_the_definition(accuracy, window):
    drop = naive_windows(accuracy, window, lambda m, n: m - n)
    rise = naive_windows(accuracy, window, lambda m, n: n - m)
    np.testing.assert_array_equal(metrics.windowed_forgetting(accuracy, window), drop)
    np.testing.assert_array_equal(metrics.windowed_plasticity(accuracy, window), rise)


@settings(max_examples=60, deadline=None)
@given(random_accuracies(), st.integers(1, 40))
def test_windows_never_fall_over_time_nor_with_a_longer_window(accuracy, window):
    short, long = (metrics.windowed_forgetting(accuracy, w) for w in (window, window + 1))
    seen = ~np.isnan(short)
    assert (short[seen] >= 0).all()
    assert (long[seen] >= short[seen]).all()
    assert (np.nan_to_num(np.diff(short, axis=0)) >= 0).all()


# --- worst cases, on random runs ---


@st.composite
def random_runs(draw: st.DrawFn) -> Curve:
    """A run of 1–4 tasks with 1–6 ticks each, every stream from its own task on."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    ends = np.cumsum(lengths).tolist()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    starts = [0, *ends[:-1]]
    traces = [(rng.integers(0, 21, ends[-1] - start) / 20).tolist() for start in starts]
    return Curve.from_trace(traces, boundaries=ends[:-1])


def naive_min_acc(curve: Curve, t: int) -> float | None:
    """min-ACC at tick t by its definition: all ticks of later experiences, for every old task."""
    ticks = curve.ticks()
    k = int(ticks.experience[t])
    minima = [min(ticks.accuracy[n, j] for n in range(t + 1) if ticks.experience[n] > j) for j in range(k)]
    return sum(minima) / k if k else None


@settings(max_examples=60, deadline=None)
@given(random_runs())
def test_min_acc_is_that_of_the_definition(curve):
    got = metrics.min_acc_trace(curve.ticks())
    for t in range(len(got)):
        expected = naive_min_acc(curve, t)
        assert math.isnan(got[t]) if expected is None else got[t] == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(random_runs())
def test_min_acc_never_rises_while_the_old_tasks_stay(curve):
    ticks = curve.ticks()
    rise = np.diff(metrics.min_acc_trace(ticks))[np.diff(ticks.experience) == 0]
    assert (np.nan_to_num(rise) <= 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(random_runs())
def test_worst_case_is_never_better_than_the_end(curve):
    result = compute(curve)
    assert result["wc_acc"] <= result["average_accuracy"] + 1e-12
    if result["min_acc"] is not None:
        assert result["min_acc"] <= result["stability"] + 1e-12


@settings(max_examples=60, deadline=None)
@given(random_runs())
def test_relations_between_definitions(curve):
    result = compute(curve)
    if curve.experiences == 1:
        assert result["wc_acc"] == result["average_accuracy"]
        return
    assert result["forgetting_first_last"] == -result["backward_transfer"]
    assert result["forgetting_first_record"] == result["forgetting_first_last"]
    assert result["forgetting"] >= result["forgetting_first_last"] - 1e-12
    assert result["forgetting"] >= result["forgetting_since_learned"] - 1e-12
    assert result["forgetting_all_tasks"] >= 0
    assert result["wf10"] <= result["wf100"]


def test_the_tick_at_a_tasks_own_end_is_not_among_its_minima():
    curve = Curve.from_trace([[0.9, 0.1, 0.5, 0.6], [0.7, 0.7]], boundaries=[2])
    assert value(curve, "min_acc") == 0.5  # 0.1 is the end of task 1; 0.5 follows the first update of task 2


def test_a_task_not_evaluated_since_its_end_is_left_out():
    curve = Curve.from_trace([[0.9, None, None], [0.8, 0.3], [0.7]], boundaries=[1, 2])
    assert metrics.min_acc_trace(curve.ticks())[-1] == 0.3


def test_a_frozen_model_shows_no_gap():
    curve = Curve.from_trace([[0.4] * 9, [0.6] * 6, [0.2] * 3], boundaries=[3, 6])
    result = compute(curve)
    for name in ("wf10", "wf100", "wp10", "wp100", "average_stability_gap", "forgetting"):
        assert result[name] == 0
    assert result["min_acc"] == 0.5
    assert result["average_accuracy"] == pytest.approx(result["wc_acc"])


def test_constant_accuracy_is_its_own_anytime_and_worst_case():
    result = compute(Curve.from_trace([[0.7] * 6, [0.7] * 3], boundaries=[3]))
    for name in ("average_anytime_accuracy", "wc_acc", "wc_acc_anytime", "min_acc", "average_accuracy"):
        assert result[name] == pytest.approx(0.7)


def test_ticks_at_experience_ends_only_hide_the_gap(trace):
    ends = Curve.from_trace([[0.9, 0.85, 0.8], [0.95, 0.8], [0.9]], boundaries=[1, 2])
    assert value(ends, "min_acc") == pytest.approx((0.8 + 0.8) / 2)
    assert value(trace, "min_acc") < value(ends, "min_acc")


# --- anytime accuracy and areas ---


def uneven() -> Curve:
    """Accuracy 0.2 at step 1, 0.8 at step 10."""
    curve = Curve()
    for step, correct in ((1, 2), (10, 8)):
        curve.append(
            step=step,
            examples=step,
            experience=0,
            evaluated=0,
            correct=correct,
            total=10,
            loss=0.0,
            full=False,
        )
    return curve


def test_anytime_accuracy_by_ticks_and_by_steps_differ_where_ticks_are_uneven():
    assert value(uneven(), "average_anytime_accuracy") == pytest.approx(0.5)
    assert value(uneven(), "average_anytime_accuracy_by_steps") == pytest.approx((1 * 0.2 + 9 * 0.8) / 10)


def test_anytime_accuracy_of_a_curve_of_step_0_alone_has_no_steps_to_weigh_by():
    curve = Curve.from_trace([[0.5]], boundaries=[], first_step=0)
    assert value(curve, "average_anytime_accuracy") == 0.5
    assert value(curve, "average_anytime_accuracy_by_steps") is None


def test_the_area_takes_the_first_tick_that_reaches_each_multiple():
    curve = Curve.from_trace([[0.1, 0.2, 0.3, 0.4, 0.5]], [], examples_per_step=64)  # 64 128 192 256 320
    assert value(curve, "a_auc_100") == pytest.approx((0.2 + 0.4 + 0.5) / 3)


def test_the_area_takes_a_tick_exactly_at_a_multiple_and_no_trailing_part():
    curve = Curve.from_trace([[0.1, 0.2, 0.3]], boundaries=[], examples_per_step=50)  # 50 100 150
    assert value(curve, "a_auc_100") == pytest.approx(0.2)


def test_a_tick_that_ends_several_intervals_counts_once():
    curve = Curve()
    for step, examples, correct in ((1, 300, 2), (2, 400, 4)):
        curve.append(
            step=step,
            examples=examples,
            experience=0,
            evaluated=0,
            correct=correct,
            total=10,
            loss=0.0,
            full=False,
        )
    assert value(curve, "a_auc_100") == pytest.approx(0.3)


def test_the_area_is_over_examples_of_the_exposed_classes_only():
    curve = Curve.from_trace([[0.4, 0.4], [0.8]], [1], totals=[10, 30], examples_per_step=1000)
    assert value(curve, "a_auc_1000") == pytest.approx((0.4 + (4 + 24) / 40) / 2)


def test_a_stream_shorter_than_an_interval_has_no_area(trace):
    assert value(trace, "a_auc_100") is None


# --- learning curve areas ---


def test_lca_leaves_out_tasks_with_too_few_ticks():
    curve = Curve.from_trace([[0.5] * 15, [0.9] * 5], boundaries=[10])
    assert value(curve, "lca10") == pytest.approx(0.5)


def test_lca_counts_the_tick_before_the_first_update():
    curve = Curve.from_trace([[0.0] + [1.0] * 10], boundaries=[], first_step=0)
    assert value(curve, "lca10") == pytest.approx(0.9)


def zero_shot_curve() -> Curve:
    """Two tasks with 10 ticks each after a tick at step 0, and full evaluations of all streams throughout."""
    curve = Curve()

    def add(step: int, experience: int, streams: list[int], correct: list[int], full: bool) -> None:
        curve.append(
            step=step, examples=step, experience=experience, evaluated=streams, correct=correct, total=10,
            loss=0.0, full=full,
        )  # fmt: skip

    add(0, -1, [0, 1], [1, 1], True)
    add(0, 0, [0], [0], False)
    for step in range(1, 11):
        add(step, 0, [0], [10], False)
    add(10, 0, [0, 1], [10, 3], True)
    for step in range(11, 21):
        add(step, 1, [0, 1], [10, 8], False)
    add(20, 1, [0, 1], [10, 8], True)
    return curve


def test_lca_with_the_zero_shot_point():
    first, second = (0.1 + 10 * 1.0) / 11, (0.3 + 10 * 0.8) / 11  # b[1] and R[1,2] are the 0-shot points
    assert value(zero_shot_curve(), "lca10_zero_shot") == pytest.approx((first + second) / 2)


def test_lca_with_the_zero_shot_point_needs_ten_ticks_of_every_task(trace):
    assert value(trace, "lca10_zero_shot") is None


def test_forward_facilitation_compares_first_ticks_after_updates_with_those_of_the_first_task():
    assert value(zero_shot_curve(), "forward_facilitation") == pytest.approx(0.8 - 1.0)


def test_forward_facilitation_compares_after_equal_updates():
    """Ticks at every tenth step of the run, a boundary at 105: task 2 is seen after 5, 15 … updates of its own."""
    curve = Curve()

    def add(step: int, experience: int, streams: list[int], correct: list[int], full: bool = False) -> None:
        curve.append(
            step=step, examples=step, experience=experience, evaluated=streams, correct=correct, total=1000,
            loss=0.0, full=full,
        )  # fmt: skip

    for step in range(10, 110, 10):
        add(step, 0, [0], [step])  # a_1(u) = u / 1000
    add(105, 0, [0], [105])
    add(105, 0, [0, 1], [105, 0], full=True)
    for step in range(110, 220, 10):
        add(step, 1, [0, 1], [0, step - 105])  # a_2(u) = u / 1000, too
    add(219, 1, [0, 1], [0, 114], full=True)
    assert value(curve, "forward_facilitation") == pytest.approx(0, abs=1e-12)


def test_forward_facilitation_needs_ten_ticks_of_the_first_task(trace):
    assert value(trace, "forward_facilitation") is None


# --- retention ---


def with_last_row(final: list[int]) -> Curve:
    """Tasks that end at so many right out of 1,000."""
    curve, tasks = Curve(), list(range(len(final)))
    for i in tasks:
        curve.append(
            step=i + 1, examples=i + 1, experience=i, evaluated=tasks, correct=final, total=1000, loss=0.0, full=True
        )  # fmt: skip
    return curve


def test_retention_falls_with_a_power_of_age():
    assert value(with_last_row([250, 500, 1000, 7]), "retention_slope") == pytest.approx(
        np.polyfit(np.log([3, 2, 1]), np.log([0.25, 0.5, 1]), 1)[0]
    )
    assert value(with_last_row([300, 300, 300, 900]), "retention_slope") == pytest.approx(0)


def test_retention_is_undefined_where_a_task_ended_at_nothing():
    assert value(with_last_row([0, 500, 1000]), "retention_slope") is None
    assert value(with_last_row([500, 1000]), "retention_slope") is None


# --- the stability gap ---


def test_the_gap_is_negative_for_a_task_that_only_improves():
    curve = Curve.from_trace([[0.5, 0.6, 0.7], [0.5, 0.5]], boundaries=[1])
    assert value(curve, "average_stability_gap") == pytest.approx(-0.2)


def test_the_gap_is_measured_from_the_last_tick_before_the_switch():
    curve = Curve.from_trace([[0.9, 0.5, 0.4], [0.5]], boundaries=[2])
    assert value(curve, "average_stability_gap") == pytest.approx(0.2)


def test_the_gap_leaves_out_tasks_that_had_nothing_to_lose():
    curve = Curve.from_trace([[0.0, 0.0, 0.0], [0.8, 0.4], [0.5]], boundaries=[1, 2])
    assert value(curve, "average_stability_gap") == pytest.approx(0.5)


# --- fixtures of the worked matrix ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average_accuracy", 0.8333),
        ("average_incremental_accuracy", 0.8778),
        ("backward_transfer", -0.125),
        ("backward_transfer_all_pairs", (-0.05 - 0.10 - 0.15) / 3),
        ("forward_transfer", 0.15),
        ("forgetting", 0.125),
        ("forgetting_since_learned", 0.125),
        ("forgetting_all_tasks", 0.25 / 3),
        ("forgetting_first_last", 0.125),
        ("forgetting_first_record", 0.125),
        ("learning_accuracy", 0.9167),
        ("stability", 0.80),
        ("stability_plasticity", 0.8544),
        ("global_forgetting", (0.05 / 2 + (0.10 + 0.15) / 3) / 2),
    ],
)
def test_worked_matrix(matrix, name, expected):
    assert value(matrix, name) == pytest.approx(expected, abs=5e-5)


def test_the_maximum_of_forgetting_runs_over_experiences_before_the_task_too():
    curve = Curve.from_matrix([[0.9, 0.8, 0.0], [0.9, 0.6, 0.0], [0.9, 0.5, 0.9]])
    assert value(curve, "forgetting") == pytest.approx(0.15)  # task 2 was at 0.8 before it was learned
    assert value(curve, "forgetting_since_learned") == pytest.approx(0.05)


def test_the_maximum_of_forgetting_takes_the_best_and_not_the_first():
    curve = Curve.from_matrix([[0.5, NAN, NAN], [0.9, 0.8, NAN], [0.6, 0.8, 0.9]])
    assert value(curve, "forgetting") == pytest.approx(0.15)
    assert value(curve, "forgetting_first_last") == pytest.approx(-0.05)


def test_the_maximum_of_forgetting_leaves_out_the_accuracy_before_training():
    assert value(Curve.from_matrix([[0.5, 0.2], [0.4, 0.9]], b=[0.9, 0.1]), "forgetting") == pytest.approx(
        0.1
    )


def test_forgetting_of_all_tasks_counts_the_last_accuracy_among_the_best():
    curve = Curve.from_matrix([[0.5, NAN], [0.6, 0.9]])
    assert value(curve, "forgetting_all_tasks") == 0
    assert value(curve, "forgetting") == pytest.approx(-0.1)


def test_the_first_record_may_be_later_than_the_tasks_own_end():
    curve = Curve.from_matrix([[NAN, 0.1, 0.1], [0.9, 0.8, 0.1], [0.6, 0.6, 0.9]])
    assert value(curve, "forgetting_first_record") == pytest.approx(0.25)
    assert value(curve, "forgetting_first_last") is None


def test_two_equal_tasks_give_half_the_loss_as_global_forgetting():
    assert value(Curve.from_matrix([[0.9, 0.0], [0.7, 0.8]]), "global_forgetting") == pytest.approx(0.1)


def test_global_forgetting_weighs_by_task_size():
    curve = Curve.from_matrix([[0.9, 0.0], [0.7, 0.8]], totals=[300, 100])
    assert value(curve, "global_forgetting") == pytest.approx(0.75 * 0.2)


def test_accuracy_by_tasks_and_by_examples_differ_where_tasks_do():
    curve = Curve.from_matrix([[1.0, 0.0], [0.8, 0.4]], totals=[300, 100])
    assert value(curve, "average_accuracy") == pytest.approx(0.6)
    assert value(curve, "average_accuracy_weighted") == pytest.approx(0.7)
    assert value(curve, "average_incremental_accuracy") == pytest.approx(0.8)
    assert value(curve, "average_incremental_accuracy_weighted") == pytest.approx(0.85)


def test_accuracies_by_examples_where_one_experience_teaches_several_tasks():
    """Of three tasks two come first, at once; and all of them at once, as in offline training."""
    curve = Curve()
    for experience, seen in ((0, 2), (1, 3)):
        for full in (False, True):
            for j in range(3 if full else seen):
                counts = {"correct": (4 + experience) * (j + 1), "total": 10 * (j + 1)}
                row = {"step": experience + 1, "examples": 0, "loss": 0.0, "full": full}
                curve.append(**row, experience=experience, evaluated=j, **counts)
    assert curve.learned.tolist() == [0, 0, 1]
    assert metrics.session_accuracies(curve).tolist() == pytest.approx([12 / 30, 30 / 60])
    assert value(curve, "average_incremental_accuracy_weighted") == pytest.approx(0.45)
    once = Curve()
    for full in (False, True):
        for j, n in enumerate((10, 30, 60)):
            row = {"step": 1, "examples": 0, "loss": 0.0, "full": full, "experience": 0}
            once.append(**row, evaluated=j, correct=n - 5, total=n)
    for key in ("average_accuracy_weighted", "average_incremental_accuracy_weighted"):
        assert value(once, key) == pytest.approx(0.85)
    assert value(once, "performance_drop") is None  # there is no base session


def test_forward_transfer_needs_future_tasks_and_the_initial_accuracy():
    past_only = [[0.9, NAN], [0.8, 0.9]]
    assert value(Curve.from_matrix(past_only, b=0.1), "forward_transfer") is None
    assert value(Curve.from_matrix([[0.9, 0.2], [0.8, 0.9]]), "forward_transfer") is None
    assert value(
        Curve.from_matrix([[0.9, 0.2], [0.8, 0.9]], b=[0.5, 0.1]), "forward_transfer"
    ) == pytest.approx(0.1)


def test_intransigence(matrix):
    np.testing.assert_allclose(metrics.intransigence(matrix, [0.9, 0.9, 0.95]), [0, -0.05, 0.05], atol=1e-12)


def test_intransigence_refuses_a_reference_of_another_length(matrix):
    with pytest.raises(ValueError, match=r"\(2,\) does not fit a matrix of shape \(3, 3\)"):
        metrics.intransigence(matrix, [0.9, 0.9])


def test_local_forgetting():
    assert metrics.local_forgetting([[0.9, 0.0], [0.8, 0.9]]) == pytest.approx(0.1)


# --- forgetting per class ---


def with_classes(*accuracies: list[float], before: bool = False) -> Curve:
    """A curve whose full evaluations have these class accuracies, of 10 examples each; NaN: not evaluated."""
    T = len(accuracies) - before
    curve = Curve.from_matrix(np.full((T, T), 0.5), b=0.5 if before else None)
    for row in accuracies:
        of = np.where(np.isnan(row), 0, 10)
        curve.append_classes(np.rint(np.nan_to_num(row) * 10).astype(int), of)
    return curve


def test_class_forgetting_is_best_minus_last():
    assert value(with_classes([0.8, 0.5], [0.9, 0.4], [0.3, 0.4]), "class_forgetting") == pytest.approx(0.35)


def test_class_forgetting_leaves_out_classes_never_recognised_before():
    curve = with_classes([0.8, 0.0, NAN], [0.6, 0.9, 0.9])
    assert value(curve, "class_forgetting") == pytest.approx(0.2)


def test_class_forgetting_leaves_out_the_evaluation_before_training():
    assert value(with_classes([1.0], [0.8], [0.6], before=True), "class_forgetting") == pytest.approx(0.2)


def test_class_forgetting_needs_class_counts_and_two_experiences(matrix):
    assert value(matrix, "class_forgetting") is None
    assert value(with_classes([0.8]), "class_forgetting") is None


# --- few-shot ---


def test_harmonic_mean_fixture():
    curve = Curve.from_matrix([[0.8280, NAN], [0.7740, 0.2767]], totals=[60_000, 40_000])
    result = compute(curve, ["base_accuracy", "novel_accuracy", "harmonic_mean", "average_accuracy_weighted"])
    assert result == pytest.approx(
        {
            "base_accuracy": 0.7740,
            "novel_accuracy": 0.2767,
            "harmonic_mean": 0.40766,
            "average_accuracy_weighted": 0.57508,
        },
        abs=5e-6,
    )


def test_novel_accuracy_is_over_examples():
    curve = Curve.from_matrix([[0.9, NAN, NAN], [0.9, 0.8, NAN], [0.9, 0.8, 0.4]], totals=[60, 5, 15])
    assert value(curve, "novel_accuracy") == pytest.approx((4 + 6) / 20)


def test_performance_drop_is_of_session_accuracies():
    curve = Curve.from_matrix([[0.8280, NAN], [0.7740, 0.2767]], totals=[60_000, 40_000])
    assert value(curve, "performance_drop") == pytest.approx(0.8280 - 0.57508)
    np.testing.assert_allclose(metrics.session_accuracies(curve), [0.8280, 0.57508])


def test_knowing_the_base_classes_only_gives_no_harmonic_mean():
    sessions, base = 3, 0.80
    M = np.where(np.tri(sessions, dtype=bool), 0.0, NAN)
    M[:, 0] = base
    curve = Curve.from_matrix(M, totals=[6000, 500, 500])
    assert value(curve, "harmonic_mean") == 0
    assert value(curve, "average_accuracy_weighted") == pytest.approx(base * 60 / (60 + 5 * 2))


def test_one_session_has_nothing_novel():
    curve = Curve.from_matrix([[0.8]])
    assert compute(curve, ["base_accuracy", "novel_accuracy", "harmonic_mean"]) == {
        "base_accuracy": 0.8,
        "novel_accuracy": None,
        "harmonic_mean": None,
    }


@pytest.mark.parametrize(("alpha", "expected"), [(0, 0.25), (1, 0.70), (12, 0.742308)])
def test_generalized_accuracy(alpha, expected):
    assert metrics.generalized_accuracy([[0.8, NAN], [0.7, 0.5]], alpha) == pytest.approx(expected, abs=1e-6)


def test_generalized_accuracy_auc():
    assert metrics.generalized_accuracy_auc([[0.8, NAN], [0.7, 0.5]], 12) == pytest.approx(0.71132, abs=1e-5)


def test_harmonic_of_nothing_is_nothing():
    assert metrics.harmonic(0.0, 0.0) == 0


# --- predictions ---

LOGITS = np.array([[3.0, 2.0, 9.0], [2.0, 3.0, 9.0], [0.0, 0.0, 1.0]])
LABELS = [0, 1, 2]


def test_masked_accuracy_restricts_examples_and_logits():
    assert metrics.masked_accuracy(LOGITS, LABELS, [0, 1]) == 1  # class 2 wins unless it is masked
    assert metrics.masked_accuracy(LOGITS, LABELS, [0, 1, 2]) == pytest.approx(1 / 3)


def test_masked_accuracy_does_not_depend_on_the_order_of_classes():
    assert metrics.masked_accuracy(LOGITS, LABELS, [1, 0]) == 1
    assert metrics.masked_accuracy(LOGITS, LABELS, [2, 0]) == pytest.approx(1 / 2)


def test_equal_highest_logits_name_no_class():
    assert metrics.masked_accuracy(np.zeros((4, 3)), [0, 1, 2, 0], [0, 1, 2]) == 0
    assert metrics.masked_accuracy([[1, 1, 0], [1, 0, 0]], [0, 0], [0, 1]) == pytest.approx(1 / 2)


def test_masked_accuracy_of_no_examples_is_nan():
    assert math.isnan(metrics.masked_accuracy(LOGITS, [2, 2, 2], [0, 1]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_fewer_competing_logits_never_hurt(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(50, 6)), rng.integers(0, 6, 50)
    first = [0, 1]
    ordinary = (logits.argmax(1) == labels)[np.isin(labels, first)]
    assert metrics.masked_accuracy(logits, labels, first) >= ordinary.mean()
    assert metrics.masked_accuracy(logits, labels, range(6)) == (logits.argmax(1) == labels).mean()


def test_cumulative_forgetting_is_then_minus_now():
    now = LOGITS[:, [1, 0, 2]]
    assert metrics.cumulative_forgetting(LOGITS, now, LABELS, [0, 1]) == 1


# --- knowledge loss and gain ---


def test_equal_predictions_lose_and_gain_nothing():
    g = np.arange(40) % 4
    y = np.where(np.arange(40) < 28, g, (g + 1) % 4)
    assert metrics.knowledge_ratios(g, y, y, 4, 4) == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize("C", range(2, 30))  # rounding leaves a little to gain in some
def test_perfect_predictions_lose_nothing_and_have_nothing_to_gain(C):
    g = np.arange(10 * C) % C
    lost, gained = metrics.knowledge_ratios(g, g, g, C, C)
    assert lost == pytest.approx(0, abs=1e-12)
    assert math.isnan(gained)


def test_all_is_lost_when_predictions_become_constant():
    g = np.arange(40) % 4
    assert metrics.knowledge_ratios(g, g, np.zeros(40), 4, 4)[0] == pytest.approx(1)


def test_all_is_gained_from_constant_to_perfect():
    g = np.arange(40) % 4
    lost, gained = metrics.knowledge_ratios(g, np.zeros(40), g, 4, 4)
    assert math.isnan(lost)
    assert gained == pytest.approx(1)


def test_half_is_lost_when_one_of_two_bits_is():
    g = np.arange(40) % 4
    assert metrics.knowledge_ratios(g, g, g // 2 * 2, 4, 4)[0] == pytest.approx(0.5)


def test_what_could_be_gained_depends_on_the_classes_known():
    g = np.arange(40) % 4
    y1 = g // 2 * 2  # one bit of two
    assert metrics.knowledge_ratios(g, y1, g, 4, 4)[1] == pytest.approx(1)
    assert metrics.knowledge_ratios(g, y1, g, 8, 8)[1] == pytest.approx(0.5)


def test_ratios_do_not_depend_on_the_number_of_classes_never_seen():
    g = np.arange(40) % 4
    y1, y2 = np.roll(g, 3), np.where(np.arange(40) < 30, g, 0)
    few, many = (metrics.knowledge_ratios(g, y1, y2, C, 4) for C in (4, 1000))
    assert few == pytest.approx(many, abs=1e-9, nan_ok=True)


def test_the_released_estimate_finds_a_model_different_from_itself():
    # 100 examples of 4 classes, 17 of 25 right, the wrong ones such that every class is predicted as often
    g = np.repeat(np.arange(4), 25)
    wrong = np.tile([1, 2, 3, 1, 2, 3, 1, 2], 4)
    y = g.copy()
    y[np.arange(100) % 25 >= 17] = (g[np.arange(100) % 25 >= 17] + wrong) % 4
    assert (y == g).mean() == 0.68
    assert np.bincount(y).tolist() == [25] * 4
    lost, gained = metrics.knowledge_ratios(g, y, y, 4, 4, released=True)
    assert lost == pytest.approx(0.98354, abs=1e-5)  # by the closed form of this symmetric case
    assert gained == pytest.approx(0.41001, abs=1e-5)
    assert metrics.knowledge_ratios(g, y, y, 4, 4) == pytest.approx((0, 0), abs=1e-12)


def test_the_released_estimate_drops_what_was_missed_once_where_nothing_was_missed_twice():
    g = np.array([0, 0, 1, 1])
    first, second = np.array([0, 1, 1, 1]), np.array([1, 0, 1, 1])
    # All of class 0 vanishes, and with it what was lost: P(1, 1, 1) = 1/2 remains.
    assert metrics.knowledge_ratios(g, first, second, 2, 2, released=True)[0] == pytest.approx(0)
    assert metrics.knowledge_ratios(g, first, second, 2, 2)[0] > 0.5


# --- what is not there ---


def test_an_empty_curve_has_no_metrics():
    assert set(compute(Curve(), METRICS).values()) == {None}


def test_one_experience_has_no_old_tasks():
    result = compute(Curve.from_trace([[0.1, 0.9]], boundaries=[]))
    none = {name for name, v in result.items() if v is None}
    assert {"min_acc", "forgetting", "backward_transfer", "stability", "average_stability_gap"} <= none
    assert result["average_accuracy"] == 0.9
    assert result["wc_acc"] == 0.9
    assert result["wp10"] == pytest.approx(0.8)


TICKS_ONLY = [
    "average_anytime_accuracy",
    "average_anytime_accuracy_all_tasks",
    "average_anytime_accuracy_by_steps",
    "average_stability_gap",
    "min_acc",
    "wc_acc",
    "wc_acc_anytime",
    "wf10",
    "wf100",
    "wp10",
    "wp100",
]


def test_without_ticks_only_metrics_of_full_evaluations_are_defined(matrix):
    result = compute(matrix)
    assert all(result[name] is None for name in TICKS_ONLY)
    assert result["average_accuracy"] is not None


def test_without_full_evaluations_only_metrics_of_ticks_are_defined(trace):
    columns = {k: c if k.startswith("class_") else c[~trace.full] for k, c in trace.columns().items()}
    ticks = Curve.from_columns(columns)
    assert {name for name, v in compute(ticks).items() if v is not None} == set(TICKS_ONLY)
    assert all(value(ticks, name) == value(trace, name) for name in TICKS_ONLY)


def test_ticks_do_not_enter_full_metrics_nor_the_other_way_round():
    curve = Curve.from_trace([[0.9, 0.2], [0.4]], boundaries=[1], totals=10)
    columns = dict(curve.columns())
    columns["correct"] = np.where(curve.full, 5, curve.correct)
    changed = Curve.from_columns(columns)
    assert value(changed, "average_accuracy") == 0.5
    assert value(changed, "min_acc") == 0.2


def cut(curve: Curve, rows: int) -> Curve:
    """The first rows of a curve, as a diverged run leaves them."""
    columns = curve.columns()
    return Curve.from_columns({k: c[:0] if k.startswith("class_") else c[:rows] for k, c in columns.items()})


def test_no_metric_of_a_run_cut_short_passes_for_one_of_the_whole():
    whole = zero_shot_curve()
    ends = np.flatnonzero(np.diff(2 * whole.step + whole.full))  # between evaluations
    for rows in [0, *(ends + 1)]:
        assert set(compute(cut(whole, rows), METRICS).values()) == {None}, rows
    assert value(cut(whole, len(whole)), "average_accuracy") == pytest.approx(0.9)


def test_metrics_of_a_run_cut_short_are_there_on_demand(trace):
    broken = cut(trace, len(trace) - 3)  # the last experience has no full evaluation
    assert value(broken, "average_accuracy") is None
    assert value(broken.upto(2), "average_accuracy") == pytest.approx(0.9)


def test_streams_with_repetition_have_accuracies_but_no_tasks():
    curve = Curve.from_trace([[0.1, 0.5, 0.3, 0.7]], boundaries=[1, 2, 3])
    result = compute(curve)
    assert result["average_accuracy"] == 0.7
    assert result["average_incremental_accuracy"] == pytest.approx(0.4)
    assert result["average_anytime_accuracy"] == pytest.approx(0.4)
    assert result["wf10"] == pytest.approx(0.2)
    for name in ("forgetting", "backward_transfer", "min_acc", "wc_acc", "lca10", "learning_accuracy"):
        assert result[name] is None


def test_streams_seen_out_of_step_with_experiences_have_no_tasks():
    curve = Curve.from_trace([[0.5, 0.6], [0.4, 0.7]], boundaries=[1])  # both are seen from the start
    result = compute(curve)
    assert result["min_acc"] is None
    assert result["average_incremental_accuracy"] == pytest.approx((0.45 + 0.65) / 2)


def test_metrics_are_pure(trace):
    before = trace.sha256()
    assert compute(trace, METRICS) == compute(trace, METRICS)
    assert trace.sha256() == before


def test_every_public_function_says_where_it_is_from():
    own = [(name, vars(file)[name], file.__name__) for file in metrics._FILES for name in vars(file)]
    for name, function, file in own:
        if not inspect.isfunction(function) or function.__module__ != file or file.endswith(".core"):
            continue
        if name[0] != "_" and name not in {*METRICS, "harmonic"}:
            assert any(venue in (function.__doc__ or "") for venue in ("arXiv", "ICLR")), name


def test_a_run_that_learns_all_tasks_in_one_experience_has_an_accuracy():
    """Offline training: the bound has an ACC, but no forgetting."""
    curve = Curve()
    curve.append(
        step=1, examples=1, experience=0, evaluated=[0, 1], correct=[9, 7], total=10, loss=0.0, full=False
    )
    curve.append(
        step=1, examples=1, experience=0, evaluated=[0, 1], correct=[9, 7], total=10, loss=0.0, full=True
    )
    values = compute(curve, ["average_accuracy", "average_incremental_accuracy", "forgetting"])
    assert values == {"average_accuracy": 0.8, "average_incremental_accuracy": 0.8, "forgetting": None}


def test_records_need_not_have_what_a_new_file_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "METRICS", dict(core.METRICS))
    file = {"__name__": "clbench.results.metrics.mine", "metric": core.metric}
    exec(
        "@metric('mine', title='mine', higher_is_better=True, reference='a test')\n"
        "def mine(curve):\n    '''Nothing.'''\n",
        file,
    )
    assert core.METRICS["mine"].since is None
    assert core.METRICS["average_accuracy"].since == 1
