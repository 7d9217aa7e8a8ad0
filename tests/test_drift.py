"""Drift streams: what is read, what is predicted before it is learned, and the measures of it."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import make_strategy
from clbench.data import data_folder, drift_stream, generated, read_rows_in_time
from clbench.engine.engine import Engine
from clbench.errors import ClbenchError, ConfigError, DataError, IncompatibleError
from clbench.models.running import Running
from clbench.results import anytime
from clbench.results.curve import Curve
from clbench.results.metrics import compute
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import Benchmark

Y = np.array([0, 0, 0, 1, 1, 0, 2, 2, 2, 2, 1, 1, 0, 0, 2, 1, 1, 1, 0, 2])
GUESS = np.array([0, 0, 1, 1, 0, 0, 2, 2, 0, 2, 1, 2, 0, 0, 2, 1, 0, 1, 0, 1])
"""Whose measures MOA gives, by CapyMOA 0.15.1."""
NAN = float("nan")


def stream(n: int = 60, seed: int = 0, **params: Any) -> Benchmark:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return drift_stream(rng.normal(y[:, None], 0.5, (n, 4)) * 100, y, name="tiny-drift", **params)


def run_of(strategy: str, benchmark: Benchmark, **params: Any) -> Engine:
    given = {key: params.pop(key) for key in ("batch_size", "every") if key in params}
    return tiny_run(
        make_strategy(strategy, **params), benchmark, **{"batch_size": 4, "every": 0, "epochs": 1, **given}
    )


# --- measures ---


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (slice(2), (1, NAN, NAN, NAN)),
        (slice(5), (0.6, 0.16666667, -1, 0)),
        (slice(10), (0.7, 0.53125, 0, 0.5)),
        (slice(20), (0.7, 0.547169811, 0.333333333, 0.5)),
    ],
)
def test_measures_are_those_of_moa(rows: slice, wanted: tuple[float, ...]) -> None:
    assert anytime.agreement(GUESS[rows], Y[rows]) == pytest.approx(wanted, abs=1e-8, nan_ok=True)


@pytest.mark.parametrize(
    ("end", "wanted"), [(8, (0.75, 0.6, 0.333333333, 0.5)), (16, (0.75, 0.627906977, 0.5, 0.6))]
)
def test_windows_are_those_of_moa(end: int, wanted: tuple[float, ...]) -> None:
    assert anytime.agreement(GUESS[:end], Y[:end], window=8) == pytest.approx(wanted, abs=1e-8)


def test_the_majority_of_a_window_is_the_same_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = anytime.majority(Y, 8)
    monkeypatch.setattr(anytime, "AT_ONCE", 9)
    assert np.array_equal(anytime.majority(Y, 8), whole)


def test_anytime_curves() -> None:
    c = GUESS == Y
    faded = anytime.fading(c, 0.9)
    assert faded[[2, 7, 10, 19]] == pytest.approx([0.630996, 0.768321, 0.741776, 0.676017], abs=1e-6)
    assert anytime.fading(c, 0.99)[-1] == pytest.approx(0.698429834, abs=1e-9)
    assert anytime.fading(c, 1)[-1] == anytime.cumulative(c)[-1] == pytest.approx(0.7)
    assert anytime.sliding(c, 8)[[0, 2, 4, 8, 19]] == pytest.approx([1, 2 / 3, 0.6, 0.625, 0.75])
    assert anytime.tumbling(c, 8) == pytest.approx([0.75, 0.75])


def test_measures_equal_rivers_on_the_same_predictions() -> None:
    metrics = pytest.importorskip("river.metrics")
    rng = np.random.default_rng(0)
    guess, y = rng.integers(0, 4, (2, 300))
    accuracy, kappa = metrics.Accuracy(), metrics.CohenKappa()
    for one, other in zip(y.tolist(), guess.tolist(), strict=True):
        accuracy.update(one, other)
        kappa.update(one, other)
    found = anytime.agreement(guess, y)
    assert (found.accuracy, found.kappa) == pytest.approx((accuracy.get(), kappa.get()), abs=1e-12)


def test_records_have_the_measures_of_finished_runs_only() -> None:
    curve = Curve()
    curve.append_predicted(GUESS, Y, 0)
    assert compute(curve, ["prequential_accuracy"]) == {"prequential_accuracy": None}
    curve.append(step=1, examples=20, experience=0, evaluated=0, correct=1, total=2, loss=0.0, full=True)
    names = ["prequential_accuracy", "prequential_kappa_temporal", "prequential_window"]
    assert list(compute(curve, names).values()) == pytest.approx([0.7, 1 / 3, 0.7])


# --- the tables of a curve ---


def test_predictions_come_back_from_a_file(tmp_path: Path) -> None:
    run = run_of("finetune", stream())
    run.fit()
    curve = run.evaluator.curve
    curve.save(tmp_path / "curve.npz")
    again = Curve.load(tmp_path / "curve.npz")
    assert again == curve
    assert np.array_equal(again.predicted, curve.predicted)


def test_a_curve_that_is_cut_holds_what_was_predicted_by_then() -> None:
    curve = Curve()
    curve.append_predicted(GUESS, Y, np.arange(20) // 4)
    assert curve.before(3).predicted_step.tolist() == np.repeat([0, 1, 2, 3], 4).tolist()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([0], [1], [-1]), "whole numbers from 0"),
        (([0, 1], [1, 1], [3, 2]), "decreases"),
        (([0.5], [0], [0]), "integers"),
    ],
)
def test_predictions_that_cannot_be_are_refused(columns: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Curve().append_predicted(*columns)


# --- test, then train ---


def test_every_row_is_predicted_by_the_model_before_its_batch() -> None:
    benchmark = stream(22)
    run, again = run_of("finetune", benchmark), run_of("finetune", benchmark)
    run.fit()
    wanted = []
    y = benchmark.train[0].data.y()
    step = again._iterate

    def look(batch: Any) -> None:
        with again.evaluating(), torch.no_grad():
            wanted.extend(again.predict(batch.raw, batch.task).argmax(1).tolist())
        step(batch)

    again._iterate = look  # type: ignore[method-assign]
    again.fit()
    curve = run.evaluator.curve
    assert curve.predicted.tolist() == wanted
    assert curve.label.tolist() == y.tolist()
    assert curve.predicted_step.tolist() == [i // 4 for i in range(22)]


def test_random_labels_are_predicted_by_chance() -> None:
    """Who trains before testing gets an impossible share right."""
    rng = np.random.default_rng(1)
    benchmark = drift_stream(rng.normal(size=(600, 40)), rng.integers(0, 4, 600), name="noise")
    run = run_of("finetune", benchmark, batch_size=3)
    run.fit()
    assert abs(anytime.right(run.evaluator.curve).mean() - 0.25) < 0.07


def test_training_is_the_same_with_and_without_predictions() -> None:
    benchmark = stream()
    run, without = run_of("er", benchmark), run_of("er", benchmark)
    without.evaluator.prequential = None
    run.fit()
    without.fit()
    for one, other in zip(run.model.state_dict().values(), without.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("strategy", ["er", "river", "labels-only", "reset-on-drift", "replay-on-drift"])
def test_a_run_goes_on_to_the_same_predictions(strategy: str) -> None:
    benchmark, params = stream(), {}
    if strategy.endswith("drift"):
        params = {"detector": "adwin", "settings": {"clock": 1, "grace_period": 5, "delta": 0.9}, "every": 2}
    elif strategy == "river":
        pytest.importorskip("river")
    whole, part, rest = (run_of(strategy, benchmark, **params) for _ in range(3))
    whole.fit()
    part.until = 7
    with pytest.raises(KeyboardInterrupt):
        part.fit()
    rest.load_state_dict(part.state_dict())
    rest.fit()
    assert rest.evaluator.curve == whole.evaluator.curve
    for one, other in zip(rest.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_more_than_one_pass_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(IncompatibleError, match="passes=1"):
        run_of("finetune", replace(tiny_benchmark(), prequential=True))


# --- inputs standardised by what has come ---


def test_standardises_as_rivers_scaler() -> None:
    preprocessing = pytest.importorskip("river.preprocessing")
    scaler, running = preprocessing.StandardScaler(), Running((3,))
    rows = torch.from_numpy(np.random.default_rng(0).normal(1e4, 3, (40, 3)).astype(np.float32))
    rows[:, 2] = 7.0  # which never varies
    for row in rows.tolist():
        scaler.learn_one(dict(enumerate(row)))
    for batch in rows.split(7):
        running.see(batch)
    wanted = [scaler.transform_one(dict(enumerate(row))) for row in rows.tolist()]
    found = running(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, torch.tensor([list(row.values()) for row in wanted]), rtol=1e-5, atol=1e-5
    )


def test_only_the_stream_moves_the_scale() -> None:
    benchmark = stream()
    runs = [run_of(strategy, benchmark) for strategy in ("finetune", "er")]
    for run in runs:
        run.fit()
    scales = [run.model.backbone[0] for run in runs]  # type: ignore[index]
    assert scales[0].count == 60
    assert torch.equal(scales[0].mean, scales[1].mean)
    torch.testing.assert_close(scales[0].mean, benchmark.train[0].data.x().double().mean(0))


def test_a_stream_may_be_left_as_it_is() -> None:
    plain = stream(standardise=False)
    assert plain.fingerprint != stream().fingerprint
    assert not any(isinstance(module, Running) for module in run_of("finetune", plain).model.modules())


# --- own files ---


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def rows_of(n: int = 12, **others: Any) -> list[dict[str, Any]]:
    return [
        {"a": i % 3, "b": i / 2, "time": f"2020-01-{i + 1:02}", "label": ("up", "down")[i % 2], **others}
        for i in range(n)
    ]


def test_a_table_is_a_drift_stream_in_one_call(tmp_path: Path) -> None:
    file = write(tmp_path / "own.csv", rows_of())
    record = clbench.run("drift-file", "finetune", seed=0, path=str(file), hidden=[4], out=tmp_path / "runs")
    assert record.benchmark["primary"] == "prequential_accuracy"
    assert 0 <= record.metrics["prequential_accuracy"] <= 1


def test_a_table_and_arrays_are_the_same_stream(tmp_path: Path) -> None:
    x, y, names = read_rows_in_time(write(tmp_path / "own.csv", rows_of()))
    assert (x.shape, names) == ((12, 2), ("down", "up"))
    np.savez(tmp_path / "own.npz", x=x, y=y, class_names=names)
    again = read_rows_in_time(tmp_path / "own.npz")
    prints = {drift_stream(a, b, name="own", class_names=c).fingerprint for a, b, c in ((x, y, names), again)}
    assert len(prints) == 1


def test_rows_are_sorted_by_time_where_that_is_wanted(tmp_path: Path) -> None:
    rows = rows_of()
    file = write(tmp_path / "own.csv", rows[::-1])
    wanted = read_rows_in_time(write(tmp_path / "sorted.csv", rows))
    assert np.array_equal(read_rows_in_time(file, times="sorted")[0], wanted[0])
    assert np.array_equal(read_rows_in_time(file, times="free")[0], wanted[0][::-1])


def test_all_that_is_wrong_with_a_table_is_told_at_once(tmp_path: Path) -> None:
    rows = rows_of()
    rows[3]["time"], rows[5]["b"], rows[6]["label"] = "2019-01-01", "much", ""
    with pytest.raises(DataError) as told:
        read_rows_in_time(write(tmp_path / "own.csv", rows))
    for words in (
        "Times that run backwards (1): line 5",
        "times=sorted",
        "line 7: b is 'much'",
        "without a label",
    ):
        assert words in str(told.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"label": "lable"}, "no column 'lable'.*Did you mean 'label'"),
        ({"time": "when"}, "no column 'when'"),
        ({"features": ["c"]}, "no column 'c', of features"),
    ],
)
def test_columns_that_are_not_there(params: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_rows_in_time(write(tmp_path / "own.csv", rows_of()), **params)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((3, 2)), "y": [0, 1, 0], "time": [1, 3, 2]}, "backwards 1 times, first in row 2"),
        ({"x": np.zeros((3, 2)), "y": [0, 1, 0], "z": 1}, "holds z"),
        ({"y": [0, 1]}, "has no x"),
    ],
)
def test_arrays_that_cannot_be_used(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=words):
        read_rows_in_time(tmp_path / "own.npz")


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros(3), [0, 1, 0], "rows of numbers"),
        (np.zeros((3, 2)), [0, 1], "a label for each of the 3 rows"),
        ([[0.0], [NAN]], [0, 1], "no finite number .* in row 1, feature 0"),
        (np.zeros((3, 2)), [0, 2, 0], "no row has the label 1"),
        (np.zeros((3, 2)), [0, -1, 0], "whole numbers from 0"),
    ],
)
def test_rows_that_cannot_be_used(x: Any, y: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        drift_stream(x, y, name="own")


def test_named_streams_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"x \(45312, 8\) numbers"):
        clbench.make_benchmark("elec2")


# --- River ---


@pytest.mark.parametrize(
    ("benchmark", "strategy", "params"),
    [
        ("tiny", "reset-on-drift", {}),
        ("tiny", "replay-on-drift", {"detector": "ddm"}),
        ("tiny", "river", {}),
        ("drift-river", "", {}),
    ],
)
def test_without_river_the_extra_is_named(
    benchmark: str, strategy: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("river", "river.drift", "river.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'clbench\[drift\]'"):
        make_strategy(strategy, **params) if strategy else clbench.make_benchmark(benchmark)


def test_generators_of_river_change_their_concept() -> None:
    pytest.importorskip("river")
    x, y = generated("SEA", 100, [{"variant": 0}, {"variant": 3}], 0, 42)
    assert x[0] == pytest.approx([6.3943, 0.2501, 2.7503], abs=1e-4)
    assert y[:3].tolist() == [0, 1, 1]
    total = x[:, 0] + x[:, 1]
    assert np.array_equal(y[:50], total[:50] > 8)
    assert np.array_equal(y[50:], total[50:] > 9.5)


def test_concepts_cross_as_in_river_however_narrow_the_change() -> None:
    synth = pytest.importorskip("river.datasets.synth")
    concepts = [{"variant": 0}, {"variant": 3}, {"variant": 1}]
    x, y = generated("SEA", 300, concepts, 40, 5)
    a, b, c = (synth.SEA(seed=5 + k, **concept) for k, concept in enumerate(concepts))
    first = synth.ConceptDriftStream(a, b, position=100, width=40, seed=5)
    both = list(synth.ConceptDriftStream(first, c, position=200, width=40, seed=6).take(300))
    assert np.array_equal(x, np.array([[*row.values()] for row, _ in both], dtype=np.float32))
    assert y.tolist() == [int(label) for _, label in both]
    assert len(generated("SEA", 4000, concepts, 1, 0)[1]) == 4000  # exp(4 · 2000 / 1) overflows in River


@pytest.mark.parametrize("generator", ["RandomRBFDrift", "RandomTree", "LED"])
def test_generators_that_take_other_seeds_or_no_concepts(generator: str) -> None:
    pytest.importorskip("river")
    (x, _), (again, _), (other, _) = (generated(generator, 40, [], 0, seed) for seed in (0, 0, 1))
    assert np.array_equal(x, again)
    assert not np.array_equal(x, other)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"generator": "LED"}, "does not take.*concepts=\\[\\] is a single one"),
        ({"generator": "Logical", "concepts": []}, "ends after 4 rows"),
        (
            {"generator": "Hyperplane", "concepts": [{"n_features": 3}, {"n_features": 4}]},
            "have 3 and 4 features",
        ),
        ({"generator": "SEE"}, "no generator 'SEE'.*Did you mean 'SEA'"),
        ({"concepts": [{"variants": 1}]}, "does not take"),
        ({"generator": "Friedman", "concepts": []}, "no classification"),
    ],
)
def test_generators_that_cannot_be_used(params: dict[str, Any], words: str) -> None:
    pytest.importorskip("river")
    with pytest.raises(ClbenchError, match=words):
        clbench.make_benchmark("drift-river", **{"rows": 20, **params})


REFERENCES = {
    ("elec2", "labels-only", "previous"): (0.85331, 0.69978, 0, 0.65440),
    ("elec2", "labels-only", "majority"): (0.57534, 0.00017, -1.895, -0.00047),
    ("elec2", "river", "naive-bayes"): (0.72877, 0.41520, -0.84895, 0.36099),
    ("weather", "labels-only", "previous"): (0.68027, 0.25756, 0, -0.01895),
    ("weather", "labels-only", "majority"): (0.68622, 0, 0.01860, 0),
    ("weather", "river", "naive-bayes"): (0.69222, 0.31295, 0.03738, 0.01913),
    ("weather", "river", "hoeffding-tree"): (0.73539, 0.34055, 0.17241, 0.15672),
    ("weather", "river", "softmax-regression"): (0.75522, 0.45830, 0.23441, 0.21990),
    ("outdoor", "labels-only", "previous"): (0.90225, 0.89974, 0, 0.89949),
    ("outdoor", "labels-only", "majority"): (0.02375, -0.00128, -8.99, -0.00386),  # −0.001 as printed
    ("outdoor", "river", "naive-bayes"): (0.50050, 0.48769, -4.110, 0.48638),
    ("outdoor", "river", "hoeffding-tree"): (0.59575, 0.58538, -3.136, 0.58432),
    ("outdoor", "river", "softmax-regression"): (0.46500, 0.45128, -4.473, 0.44987),
}
"""Test, then train, row by row, with River 0.26.1: accuracy, κ, κ_T, κ_M."""


@pytest.mark.slow
@pytest.mark.parametrize("case", REFERENCES, ids="-".join)
def test_references_on_known_streams(case: tuple[str, str, str], tmp_path: Path) -> None:
    benchmark, strategy, which = case
    pytest.importorskip("river")
    if not (data_folder() / f"{benchmark}.npz").is_file():
        pytest.skip(f"needs {benchmark}.npz in CLBENCH_DATA")
    record = clbench.run(
        benchmark,
        strategy,
        seed=0,
        out=tmp_path,
        execution={"device": "cpu"},
        **{"rule" if strategy == "labels-only" else "learner": which},
    )
    keys = ("accuracy", "kappa", "kappa_temporal", "kappa_majority")
    found = [record.metrics[f"prequential_{key}"] for key in keys]
    for value, wanted in zip(found, REFERENCES[case], strict=True):
        assert value == pytest.approx(wanted, abs=5.1e-6 if abs(wanted) < 1 else 5.1e-3)
