"""The curve: what may be appended, how it is viewed, and that a file is the same bytes or refused."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from clbench.errors import LedgerError
from clbench.results.curve import Curve

R = [[0.90, 0.30, 0.10], [0.85, 0.95, 0.20], [0.80, 0.80, 0.90]]
NAN = float("nan")


def row(**changes: Any) -> dict[str, Any]:
    """One valid tick row, with changes."""
    time = {"step": 1, "examples": 10, "experience": 0}
    return time | {"evaluated": 0, "correct": 3, "total": 4, "loss": 1.5, "full": False} | changes


def small() -> Curve:
    """Two streams, two ticks each, full evaluations before training and at both ends, and class counts."""
    curve = Curve()
    start = {"step": 0, "examples": 0, "experience": -1, "full": True}
    curve.append(**row(**start, evaluated=[0, 1], correct=[1, 2], total=8))
    curve.append_classes([1, 0, 2], [4, 4, 8])
    for experience, streams in ((0, [0]), (1, [0, 1])):
        for tick in (1, 2):
            step = 2 * experience + tick
            curve.append(**row(step=step, examples=10 * step, experience=experience, evaluated=streams))
        last = {"step": step, "examples": 10 * step, "experience": experience, "full": True}
        curve.append(**row(**last, evaluated=[0, 1], correct=[7, 5], total=8))
        curve.append_classes([3, 4, 5], [4, 4, 8])
    return curve


# --- appending ---


def test_scalars_stand_for_all_rows():
    curve = Curve()
    curve.append(**row(evaluated=[0, 1, 2], correct=[1, 2, 3]))
    assert curve.step.tolist() == [1, 1, 1]
    assert curve.correct.tolist() == [1, 2, 3]
    assert len(curve) == 3


def test_columns_have_fixed_types():
    types = {name: array.dtype.str for name, array in small().columns().items()}
    assert types.pop("loss") == "<f8"
    assert types.pop("full") == "|b1"
    assert set(types.values()) == {"<i8"}


def test_columns_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        small().correct[0] = 0


def test_a_view_keeps_its_values_while_the_curve_grows():
    curve = Curve()
    curve.append(**row())
    view = curve.step
    for step in range(2, 200):
        curve.append(**row(step=step))
    assert view.tolist() == [1]
    assert curve.step.tolist() == list(range(1, 200))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": 5}, "0 ≤ correct ≤ total"),
        ({"correct": -1}, "0 ≤ correct ≤ total"),
        ({"total": 0, "correct": 0}, "total > 0"),
        ({"correct": 2.0}, "'correct' takes integers; float64 was given"),
        ({"full": 1}, "'full' takes booleans"),
        ({"loss": "low"}, "'loss' takes numbers"),
        ({"step": -1}, "cannot be negative"),
        ({"evaluated": -1}, "cannot be negative"),
        ({"experience": -2, "full": True}, "count from 0"),
        ({"experience": -1}, "only a full evaluation can be before training"),
        ({"evaluated": [0, 0]}, "evaluates a stream twice"),
        ({"evaluated": [0, 1], "experience": [0, 1]}, "belongs to two experiences"),
        ({"step": [2, 1]}, "'step' decreases"),
        ({"examples": [2, 1], "evaluated": [0, 1]}, "'examples' decreases"),
        ({"experience": [1, 0], "step": [1, 2]}, "'experience' decreases"),
        ({"step": [[1]]}, "one dimension"),
    ],
)
def test_impossible_rows_are_refused_and_leave_the_curve_as_it_was(change, message):
    curve = Curve()
    with pytest.raises(ValueError, match=message):
        curve.append(**row(**change))
    assert len(curve) == 0
    curve.append(**row())
    assert len(curve) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0}, "'step' decreases"),
        ({"examples": 9}, "'examples' decreases"),
        ({}, "evaluates a stream twice"),
        ({"evaluated": 1, "experience": 1}, "belongs to two experiences"),
    ],
)
def test_rows_must_fit_those_before(change, message):
    curve = Curve()
    curve.append(**row())
    with pytest.raises(ValueError, match=message):
        curve.append(**row(**change))


def test_a_tick_may_come_in_pieces():
    curve = Curve()
    curve.append(**row(evaluated=0))
    curve.append(**row(evaluated=1))
    assert len(curve.ticks()) == 1


def test_a_second_full_evaluation_of_an_experience_is_refused():
    curve = Curve()
    curve.append(**row(full=True))
    with pytest.raises(ValueError, match="two full evaluations of one stream"):
        curve.append(**row(full=True, step=2))


def test_a_full_test_set_keeps_its_size():
    curve = Curve()
    curve.append(**row(full=True, total=4))
    with pytest.raises(ValueError, match="changed its size"):
        curve.append(**row(full=True, step=2, experience=1, total=5))


@pytest.mark.parametrize(
    ("correct", "total", "message"),
    [([1, 2], [4, 4], "shapes"), ([5, 0, 0], [4, 4, 4], "more correct"), ([-1, 0, 0], [4, 4, 4], "negative")],
)
def test_impossible_class_counts_are_refused(correct, total, message):
    with pytest.raises(ValueError, match=message):
        small().append_classes(correct, total)


def test_appending_one_tick_at_a_time_seldom_copies_the_curve():
    curve, buffers = Curve(), []
    for step in range(1000):
        curve.append(**row(step=step, examples=step))
        if not buffers or curve.step.base is not buffers[-1]:
            buffers.append(curve.step.base)
    assert len(buffers) < 10


# --- views ---


def test_ticks_are_dense_with_nan_where_unseen():
    ticks = small().ticks()
    assert ticks.steps.tolist() == [1, 2, 3, 4]
    assert ticks.examples.tolist() == [10, 20, 30, 40]
    assert ticks.experience.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(ticks.accuracy, [[0.75, NAN], [0.75, NAN], [0.75, 0.75], [0.75, 0.75]])
    np.testing.assert_array_equal(ticks.total, [[4, 0], [4, 0], [4, 4], [4, 4]])


def test_a_tick_before_the_first_update_is_a_tick():
    curve = Curve.from_trace([[0.1, 0.5]], boundaries=[], first_step=0)
    assert curve.ticks().steps.tolist() == [0, 1]


def test_views_follow_the_curve():
    curve = Curve()
    curve.append(**row())
    assert len(curve.ticks()) == 1
    curve.append(**row(step=2))
    assert len(curve.ticks()) == 2


def test_the_matrix_holds_full_evaluations_only():
    matrix = small().matrix()
    np.testing.assert_array_equal(matrix.R, [[7 / 8, 5 / 8], [7 / 8, 5 / 8]])
    np.testing.assert_array_equal(matrix.b, [1 / 8, 2 / 8])
    np.testing.assert_array_equal(matrix.totals, [8, 8])


def test_the_matrix_of_a_run_cut_short_ends_in_nan():
    curve = Curve.from_matrix(R[:2])
    np.testing.assert_array_equal(curve.matrix().R, [*R[:2], [NAN] * 3])


def test_the_matrix_has_a_row_for_each_experience_when_these_repeat_streams():
    assert Curve.from_matrix([[0.1], [0.2], [0.3]]).matrix().R.shape == (3, 1)


def test_an_empty_curve_has_empty_views():
    curve = Curve()
    assert len(curve.ticks()) == 0
    assert curve.matrix().R.shape == (0, 0)
    assert not curve.finished


def test_learned_is_the_experience_of_a_streams_first_tick():
    trace = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9]]  # stream 1 is seen with stream 0
    assert Curve.from_trace(trace, boundaries=[1, 3]).learned.tolist() == [0, 0, 2]


def test_a_future_stream_is_not_learned():
    curve = Curve.from_matrix([[0.5, 0.1]])
    assert curve.learned.tolist() == [0, 1]
    assert not curve.finished


def test_a_curve_is_finished_when_the_last_experience_ended():
    curve = Curve.from_trace([[0.1, 0.2], [0.3]], boundaries=[1])
    assert curve.finished
    curve.append(**row(step=3, experience=2, evaluated=0))
    assert not curve.finished


def test_upto_is_the_curve_of_the_shorter_stream():
    longer, shorter = Curve.from_trace([[0.1, 0.2, 0.3], [0.4]], [2]), Curve.from_trace([[0.1, 0.2]], [])
    assert longer.upto(1) == shorter
    assert longer.upto(2) == longer


def test_upto_keeps_the_class_counts_of_its_evaluations():
    assert small().upto(1).class_correct.tolist() == [[1, 0, 2], [3, 4, 5]]


# --- curves from accuracies ---


def test_from_matrix_gives_the_accuracies_back_exactly():
    matrix = Curve.from_matrix(R, b=0.1).matrix()
    assert matrix.R.tolist() == R
    assert matrix.b.tolist() == [0.1] * 3
    assert matrix.totals.tolist() == [100] * 3


def test_from_matrix_leaves_out_what_is_nan():
    curve = Curve.from_matrix([[0.5, NAN], [0.5, 0.5]])
    assert len(curve) == 3


def test_totals_may_differ_by_stream():
    assert Curve.from_matrix([[0.5, 1 / 3]], totals=[10, 3]).total.tolist() == [10, 3]


def test_an_accuracy_that_is_no_count_is_refused():
    with pytest.raises(ValueError, match=r"0\.125 is no whole number out of 100 examples"):
        Curve.from_matrix([[0.125]])


def test_from_trace_aligns_shorter_traces_with_the_end():
    curve = Curve.from_trace([[0.1, 0.2, 0.3], [0.4]], boundaries=[2])
    np.testing.assert_array_equal(curve.ticks().accuracy, [[0.1, NAN], [0.2, NAN], [0.3, 0.4]])
    assert curve.ticks().experience.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(curve.matrix().R, [[0.2, NAN], [0.3, 0.4]])


def test_from_trace_takes_none_and_nan_for_unseen():
    short = Curve.from_trace([[0.1, 0.2], [0.4]], boundaries=[1])
    assert Curve.from_trace([[0.1, 0.2], [None, 0.4]], boundaries=[1]) == short
    assert Curve.from_trace([[0.1, 0.2], [NAN, 0.4]], boundaries=[1]) == short


# --- identity and files ---


def test_equality_is_of_content():
    assert small() == small()
    other = small()
    other.append(**row(step=9, examples=90, experience=1))
    assert small() != other
    assert small() != "curve"


def test_class_counts_are_content():
    other = small()
    other.append_classes([0, 0, 0], [1, 1, 1])
    assert other.sha256() != small().sha256()


def test_every_nan_and_zero_has_the_same_hash():
    curves = []
    for nan, zero in ((NAN, 0.0), (-NAN, -0.0)):
        curve = Curve()
        curve.append(**row(loss=[nan, zero], evaluated=[0, 1]))
        curves.append(curve)
    assert curves[0] == curves[1]


def test_the_hash_is_that_of_every_machine():
    digest = "1abe855acbc99b8f9405caa5d95a60e0e72b8cd02d44ccb339fec4f7926c36bb"
    assert small().sha256() == digest  # records hold this hash: a change of it orphans them


def test_columns_rebuild_the_curve():
    assert Curve.from_columns(small().columns()) == small()
    assert Curve.from_columns(Curve().columns()) == Curve()


def test_a_file_gives_the_curve_back(tmp_path):
    small().save(tmp_path / "curve.npz")
    assert Curve.load(tmp_path / "curve.npz") == small()


def test_an_empty_curve_has_a_file(tmp_path):
    Curve().save(tmp_path / "curve.npz")
    assert Curve.load(tmp_path / "curve.npz") == Curve()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_curve_survives_its_file(tmp_path_factory, data):
    steps = data.draw(st.integers(1, 5))
    counts = data.draw(st.lists(st.integers(0, 7), min_size=steps, max_size=steps))
    loss = data.draw(st.lists(st.floats(), min_size=steps, max_size=steps))
    curve = Curve()
    curve.append(**row(step=np.arange(steps), correct=counts, total=7, loss=loss))
    path = tmp_path_factory.mktemp("any") / "curve.npz"
    curve.save(path)
    assert Curve.load(path).sha256() == curve.sha256()


def test_numpy_reads_the_file(tmp_path):
    small().save(tmp_path / "curve.npz")
    with np.load(tmp_path / "curve.npz", allow_pickle=False) as arrays:
        assert arrays["correct"].tolist() == small().correct.tolist()


def test_equal_content_gives_equal_bytes(tmp_path):
    pieces = Curve()  # the same rows, appended in another way
    columns = small().columns()
    for i in range(len(small())):
        pieces.append(**{name: columns[name][i] for name in columns if not name.startswith("class_")})
    for right, of in zip(columns["class_correct"], columns["class_total"], strict=True):
        pieces.append_classes(right, of)
    small().save(tmp_path / "a.npz")
    pieces.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_file_knows_no_time(tmp_path):
    small().save(tmp_path / "curve.npz")
    with zipfile.ZipFile(tmp_path / "curve.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_saving_leaves_no_other_file(tmp_path):
    small().save(tmp_path / "curve.npz")
    small().save(tmp_path / "curve.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.npz"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "curve.npz"
    small().save(path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(LedgerError):
        Curve().save(path)
    monkeypatch.undo()
    assert Curve.load(path) == small()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LedgerError, match=r"There is no curve .*gone\.npz"):
        Curve.load(tmp_path / "gone.npz")


def rewrite(path: Path, **changes: Any) -> None:
    """A curve file with some arrays replaced, or left out for None."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": None}, "'correct' is missing"),
        ({"class_total": None}, "'class_total' is missing"),
        ({"extra": np.zeros(3)}, "no column 'extra'"),
        ({"format": np.array(2)}, "format is 2, and this clbench reads 1"),
        ({"format": None}, "format is -1"),
        ({"format": np.array([1, 1])}, "format is"),
        ({"loss": np.zeros(3)}, "differ in shape"),
        ({"step": np.zeros((12, 1), np.int64)}, "differ in shape"),
        ({"correct": np.zeros(12)}, "'correct' has type float64 and not int64"),
        ({"correct": np.full(12, 99)}, "0 ≤ correct ≤ total"),
        ({"step": np.arange(12)[::-1].copy()}, "'step' decreases"),
        ({"class_correct": np.zeros((2, 3), np.int64)}, "class tables have shapes"),
        (
            {"class_correct": np.zeros((2, 3), np.int64), "class_total": np.ones((2, 3), np.int64)},
            "2 rows for 3 full evaluations",
        ),
        ({"correct": np.array([None] * 12)}, "Object arrays"),
    ],
)
def test_a_mismatched_file_is_refused_with_its_name_and_the_reason(tmp_path, changes, message):
    path = tmp_path / "curve.npz"
    small().save(path)
    assert len(small()) == 12
    rewrite(path, **changes)
    with pytest.raises(LedgerError, match=message) as error:
        Curve.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + b"\0" * 100])
def test_a_file_that_is_no_curve_is_refused(tmp_path, content):
    path = tmp_path / "curve.npz"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged or not a curve"):
        Curve.load(path)


def test_a_folder_is_no_curve(tmp_path):
    with pytest.raises(LedgerError, match="damaged or not a curve"):
        Curve.load(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "curve.npz"
    small().save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(LedgerError):
            Curve.load(path)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "curve.npz"
    small().save(path)
    content = path.read_bytes()
    digest = small().sha256()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(LedgerError):
            assert Curve.load(path).sha256() == digest  # a date of the zip, say
