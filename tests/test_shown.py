"""What people see of results and data in Python: data frames, plots, comparisons, what a notebook shows, and reprs."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clbench
from clbench import Benchmark, Comparison, Curve, Record
from clbench.data import Collection, Source, source_of
from clbench.errors import ConfigError, DataError, LedgerError
from clbench.reports.display import frames
from clbench.reports.rows import Cell as Reported, table_rows
from clbench.results.statistics import t_interval
from clbench.results.traces import Mean, Trace
from clbench.runs import lifecycle
from clbench.runs.cells import Cell, reported, settle
from clbench.runs.launchers import Job, Local
from clbench.testing import tiny_benchmark
from clbench.transforms.augment import Permute, Transform
from clbench.types import LateOutput

HOSTILE = '<script>alert("x")</script>'
STRATEGIES = ("finetune", "er", "er+ewc")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Five seeds of three strategies, of which one is another's chain."""
    out = tmp_path_factory.mktemp("runs")
    return [
        clbench.run(tiny_benchmark(seed=s), name, seed=s, epochs=2, hidden=[8], device="cpu", out=out)
        for name in STRATEGIES
        for s in range(5)
    ]


@pytest.fixture
def record(records: list[Record]) -> Record:
    return records[5]


# --- data frames ---


def test_a_curve_is_a_row_for_each_stream_at_each_step(record: Record) -> None:
    pytest.importorskip("pandas")
    curve = record.curve
    frame = curve.to_pandas()
    assert list(frame) == [
        *("step", "examples", "experience", "evaluated"),
        *("accuracy", "correct", "total", "loss", "full"),
    ]
    assert len(frame) == len(curve)
    assert not frame.duplicated(["step", "experience", "evaluated", "full"]).any()
    ticks = curve.ticks()
    table = frame[~frame.full].pivot(index="step", columns="evaluated", values="accuracy")
    np.testing.assert_array_equal(table.to_numpy(), ticks.accuracy)
    assert frame.loss.iloc[0] == curve.loss[0] / curve.total[0]


def test_columns_that_few_curves_have_are_there_where_they_say_something() -> None:
    pytest.importorskip("pandas")
    curve = Curve()
    row = {"step": 1, "examples": 4, "experience": 0, "evaluated": 0, "loss": 0.5, "full": False}
    curve.append(**row, correct=1, total=2, of=4, hits_at_10=2, reciprocal_at_10=1.5)
    assert list(curve.to_pandas())[-3:] == ["of", "hits_at_10", "reciprocal_at_10"]


def test_without_pandas_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"^A data frame needs pandas: pip install 'clbench\[pandas\]'\.$"):
        Curve.from_matrix([[1.0]]).to_pandas()


# --- plots ---


def test_a_curve_is_drawn_with_a_line_for_each_stream_and_a_mark_for_each_boundary(record: Record) -> None:
    axes = record.plot()
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["mean of those seen", *(f"experience {j}" for j in (1, 2, 3))]
    ticks = record.curve.ticks()
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["experience 2"].get_xdata(), ticks.steps)
    np.testing.assert_array_equal(lines["experience 2"].get_ydata(), ticks.accuracy[:, 1])
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_label().startswith("_")]
    assert marks == [int(ticks.steps[ticks.experience == e].max()) for e in (0, 1)]
    assert axes.get_title("left") == "tiny · er · seed 0"


def test_a_curve_of_ends_alone_is_drawn_by_its_ends() -> None:
    axes = Curve.from_matrix([[1.0, 0.0], [0.5, 1.0]], b=0.0).plot()
    first = next(line for line in axes.lines if line.get_label() == "experience 1")
    assert [list(first.get_xdata()), list(first.get_ydata())] == [[1, 2], [1.0, 0.5]]


def test_experiences_are_called_by_their_domains_where_the_record_says_them(record: Record) -> None:
    domains = ["photo", "$art$", "sketch"]
    told = replace(record, benchmark={**record.benchmark, "domains": domains})
    assert told.plot().get_legend_handles_labels()[1][1:] == ["photo", r"\$art\$", "sketch"]
    axes = told.plot("matrix")
    axes.figure.canvas.draw()  # no formula is read
    assert [label.get_text() for label in axes.get_xticklabels()] == domains


def test_many_streams_are_told_by_their_first_and_last() -> None:
    axes = Curve.from_matrix(np.eye(30)).plot()
    assert axes.get_legend_handles_labels()[1] == ["mean of those seen", "experience 1", "experience 30"]


@pytest.mark.parametrize("what", ["curve", "matrix"])
def test_axes_of_one_s_own_are_drawn_into(record: Record, what: Any) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert record.plot(what, ax=axes) is axes


def test_the_matrix_is_drawn_in_percent(record: Record) -> None:
    axes = record.plot("matrix")
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [f"{100 * value:.0f}" for value in record.curve.matrix().R.ravel()]
    wide = Curve.from_matrix(np.eye(12)).matrix().plot()
    assert not wide.texts
    assert len(wide.figure.axes) == 2  # with a bar that says what the colours mean


def test_a_plot_that_there_is_not_is_refused(record: Record) -> None:
    with pytest.raises(
        ConfigError, match=r"no plot 'matrx'\. Did you mean 'matrix'\? Known: curve, matrix\.$"
    ):
        record.plot("matrx")  # type: ignore[arg-type]


# --- records in a notebook ---


def test_a_record_shows_as_a_table_and_its_curve(record: Record) -> None:
    html = record._repr_html_()
    assert f"{100 * record.metrics['average_accuracy']:.1f}" in html
    assert html.count('src="data:image/png;base64,') == 1
    assert not re.search(r"<script|href=|src=\"(?!data:)", html)


def test_a_record_without_its_curve_shows_its_numbers_and_says_so(record: Record) -> None:
    html = replace(record, folder=None)._repr_html_()
    assert "Without its curve: Record" in html
    assert "<img" not in html


def test_what_others_wrote_is_text_in_a_notebook(record: Record) -> None:
    hostile = replace(record, note=HOSTILE, strategy={"name": HOSTILE, "version": "1"})
    for html in (hostile._repr_html_(), clbench.compare([hostile])._repr_html_()):
        assert "&lt;script&gt;" in html
        assert "<script" not in html


# --- comparisons ---


def test_a_row_is_the_mean_over_seeds_with_its_interval(records: list[Record]) -> None:
    pytest.importorskip("pandas")
    frame = clbench.compare(records).to_pandas()
    lines = frame[~frame.difference].set_index(["strategy", "metric"])
    for name in STRATEGIES:
        of = [r.metrics["min_acc"] for r in records if r.strategy["name"] == name]
        interval = t_interval(of)
        line = lines.loc[(name, "min_acc")]
        assert (line["mean"], line["half_width"], line["n"]) == (interval.mean, interval.half, 5)


def test_it_says_what_the_report_of_a_suite_says(records: list[Record]) -> None:
    """The same runs, labelled as a suite labels them, are the same rows with the same marks."""
    suite = [Reported.of(r, "tiny@1", r.strategy["name"]) for r in records]
    rows, theirs = table_rows(clbench.compare(records).cells), table_rows(suite)
    assert [(r.strategy, r.values, r.best, r.rank) for r in rows] == [
        (r.strategy, r.values, r.best, r.rank) for r in theirs
    ]


def test_a_chain_is_compared_with_its_base_seed_by_seed(records: list[Record]) -> None:
    pytest.importorskip("pandas")
    frame = clbench.compare(records).to_pandas()
    line = frame[frame.difference & (frame.metric == "average_accuracy")].iloc[0]
    er, both = (
        np.array([r.metrics["average_accuracy"] for r in records if r.strategy["name"] == name])
        for name in ("er", "er+ewc")
    )
    assert line["strategy"] == "er+ewc − er"
    assert line["mean"] == pytest.approx((both - er).mean())


def test_its_text_has_a_line_for_each_strategy_in_the_order_given(records: list[Record]) -> None:
    lines = repr(clbench.compare(reversed(records))).splitlines()
    assert [line.split()[0] for line in lines[3:6]] == list(reversed(STRATEGIES))
    assert not re.search(r"\x1b|\s$", "\n".join(lines))
    assert max(map(len, lines)) <= 100


def test_what_is_best_is_starred_in_text(records: list[Record]) -> None:
    made = clbench.compare(records)
    (rows,) = made.tables.values()
    line = next(line for line in repr(made).splitlines() if line.startswith("finetune"))
    starred = sum(row.best != frozenset() for row in rows)
    assert ("*" in line) == bool(rows[0].best)
    assert ("Starred: the best" in repr(made)) == bool(starred)
    assert "Bold" not in repr(made)


def test_folders_are_as_good_as_records_and_a_run_counts_once(records: list[Record]) -> None:
    folders = [record.folder for record in records if record.folder is not None]
    assert repr(clbench.compare([*folders, *map(str, folders), *records])) == repr(clbench.compare(records))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "takes one record or run folder at least"),
        ("runs", "takes a list of records or run folders; 'runs' was given"),
        (5, "takes a list of records or run folders; 5 was given"),
        ([3], "takes records and run folders; int 3 was given"),
    ],
)
def test_what_cannot_be_compared_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        clbench.compare(given)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"record\.json"):
        clbench.compare([tmp_path])


def test_a_run_that_did_not_finish_is_named_with_the_reason(records: list[Record]) -> None:
    lost = replace(records[0], status="diverged", note="the loss is not finite")
    made = clbench.compare([lost, *records[1:]])
    assert repr(made).endswith("tiny@1 · finetune · seed 0: diverged: the loss is not finite")
    assert "diverged: the loss is not finite" in made._repr_html_()


def test_a_comparison_is_drawn_as_means_with_intervals(records: list[Record]) -> None:
    axes = clbench.compare(records).plot(evaluated=1)
    line = next(line for line in axes.lines if line.get_label() == "er")
    traces = [Trace.of(r.curve, 1).one for r in records if r.strategy["name"] == "er"]
    mean = np.mean(traces, axis=0)
    np.testing.assert_allclose(line.get_ydata(), mean[~np.isnan(mean)])
    assert len(axes.collections) == len(STRATEGIES)


def test_of_several_tables_one_is_drawn_by_its_name(records: list[Record], tmp_path: Path) -> None:
    other = tiny_benchmark(experiences=2)
    two = clbench.run(replace(other, name="other"), "er", epochs=1, hidden=[8], device="cpu", out=tmp_path)
    made = clbench.compare([*records, two])
    assert made.plot("other@1").get_title("left") == "other@1"
    with pytest.raises(ConfigError, match=r"several tables; name one, of tiny@1, other@1\.$"):
        made.plot()
    with pytest.raises(ConfigError, match=r"no table 'othr@1'\. Did you mean 'other@1'\?"):
        made.plot("othr@1")


# --- suites ---

TINY = {"epochs": 1, "hidden": [8], "experiences": 2, "evaluation.every": 20}


def inline(_: Local, jobs: Sequence[tuple[Cell, Job]], watch: Callable[[], None]) -> None:
    """In this process, which does not take seconds to start."""
    for cell, job in jobs:
        lifecycle.start(job.resolved, job.execution, job.root)
        settle(cell, job.root)
        watch()


def test_a_suite_from_python_is_compared_and_runs_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = {"strategies": ["finetune", "er"], "benchmarks": ["split-digits"], "settings": TINY}
    monkeypatch.setattr(Local, "launch", inline)
    made = clbench.suite(suite, seeds=[3], device="cpu")
    assert [(cell.strategy, cell.seed, cell.status) for cell in made.cells] == [
        ("finetune", 3, "done"),
        ("er", 3, "done"),
    ]
    monkeypatch.setattr(Local, "launch", None)  # which a second time has nothing to do
    assert repr(clbench.suite(suite, seeds=[3], device="cpu")) == repr(made)


@pytest.mark.parametrize(
    ("suite", "seeds", "says"),
    [
        ("quickstrat", 1, "Did you mean 'quickstart'?"),
        ({"strategies": ["er"]}, 1, "The suite: 'benchmarks'"),
        ("quickstart", 0, "takes one seed at least"),
        ("quickstart", 1.5, "'seeds' takes how many, or a list of them; 1.5 was given"),
        (None, 1, "A suite is a name, a YAML file or what such a file holds; None was given"),
    ],
)
def test_a_suite_with_a_mistake_is_refused(suite: Any, seeds: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        clbench.suite(suite, seeds=seeds)


def test_a_run_of_a_suite_that_failed_is_compared_as_failed() -> None:
    from clbench.runs import suite

    (cell,) = suite.plan(suite.SuiteConfig(strategies=["er"], benchmarks=["split-digits"], seeds=[0]))
    cell.state, cell.message = "failed", "its process was killed"
    assert repr(Comparison((reported(cell),))).endswith("er · seed 0: failed: its process was killed")


# --- benchmarks ---


def named(benchmark: Benchmark, *names: str) -> Benchmark:
    return replace(benchmark, class_names=names)


def test_a_benchmark_says_what_it_is_made_of() -> None:
    made = named(tiny_benchmark(experiences=2, images=True), "ant", "bee", "cat", "dog")
    head, setting, inputs, _, heads, *rows = repr(made.describe()).splitlines()
    assert head == "tiny@1: inputs 1 × 4 × 4, 4 classes"
    assert setting.strip() == "class-incremental, boundaries are told, task labels are never told"
    x = torch.cat([exp.data.x() for exp in made.train])
    assert inputs.startswith(f"  uint8 from {x.min()} to {x.max()}, ")
    assert heads.split("  ")[1:3] == ["stream", "experience"]
    assert rows[0].split() == ["train", "1", "64", "—", "32", "ant,", "bee"]
    assert ["dog", "32", "16"] in [row.split() for row in rows]


def test_counts_are_those_of_the_data() -> None:
    made = tiny_benchmark(shift="domain", experiences=2)
    told = made.describe().as_dict()
    for stream, experiences in itertools.product((made.train, made.test), (0, 1)):
        exp, said = stream[experiences], told["streams"][stream.name][experiences]
        assert said["counts"] == [int((exp.data.y() == c).sum()) for c in exp.classes]
        assert (said["examples"], said["domain"]) == (len(exp), exp.domain)


def test_a_benchmark_is_a_data_frame_of_counts() -> None:
    pytest.importorskip("pandas")
    made = named(tiny_benchmark(experiences=2), "ant", "bee", "cat", "dog")
    frame = made.describe().to_pandas()
    assert frame[frame.stream == "test"]["examples"].sum() == sum(map(len, made.test))
    assert list(frame.name.unique()) == ["ant", "bee", "cat", "dog"]


def test_a_benchmark_shows_in_a_notebook_with_some_images_and_names_as_text() -> None:
    html = named(tiny_benchmark(experiences=2, images=True), HOSTILE, "b", "c", "$d$")._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert html.count("<img") == 1
    assert "<img" not in tiny_benchmark()._repr_html_()


def test_a_contact_sheet_has_a_row_of_images_for_each_experience(tmp_path: Path) -> None:
    one, three = (
        tiny_benchmark(experiences=n, images=True).describe().sheet(tmp_path / f"{n}.png") for n in (1, 3)
    )
    with Image.open(one) as small, Image.open(three) as large:
        assert 2.5 < large.height / small.height < 3
        assert small.convert("L").getextrema() == (0, 255)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_contact_sheet_takes_any_channels_and_numbers(channels: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, channels, 6, 4)).astype(np.float32)
    y = np.arange(40) % 4
    made = clbench.from_arrays(x, y, x + 1, y, experiences=2, layout="channels-first")
    assert made.describe().sheet(tmp_path / "sheet.png").stat().st_size > 1000


def test_features_have_no_contact_sheet(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^tiny: there is no contact sheet of inputs 8; images have channels"
    ):
        tiny_benchmark().describe().sheet(tmp_path / "sheet.png")


# --- reprs ---


def held(record: Record) -> dict[str, object]:
    """What a user can hold, as large as it gets."""
    benchmark = replace(tiny_benchmark(experiences=50, classes=20), class_names=("a long name",) * 1000)
    x, y = benchmark.train[0].data.take(torch.arange(60))
    outside = torch.zeros_like(y)
    source: Source = source_of(x.numpy(), y.numpy(), x.numpy(), y.numpy())
    curve = record.curve
    return {
        "benchmark": benchmark,
        "stream": benchmark.train,
        "experience": benchmark.train[0],
        "data": benchmark.train[0].data,
        "pool": benchmark.train[0].data.parts[0][0],
        "source": source,
        "transform": Transform(mean=(0.1234567,) * 784, std=(1.0,) * 784),
        "permutation": Permute(torch.arange(784)),
        "cell": Reported.of(record, "tiny@1", "er"),
        "batch": clbench.Batch(x, y, outside, x, outside, outside, 40),
        "output": clbench.Output(torch.zeros(60, 1000), torch.zeros(60, 512)),
        "record": record,
        "curve": curve,
        "ticks": curve.ticks(),
        "matrix": curve.matrix(),
        "trace": Trace.of(curve),
        "mean": Mean.of([Trace.of(curve)] * 5),
        "order": clbench.Order(torch.arange(1000), torch.arange(1000)),
        "corpus": Collection("squad", ("a" * 99,) * 99, ("",) * 99, ("text",) * 99, {}, {}),
    }


def test_whatever_a_user_holds_is_a_line(record: Record) -> None:
    long = {name: repr(thing) for name, thing in held(record).items() if not 10 < len(repr(thing)) < 160}
    assert not long
    assert not [name for name, thing in held(record).items() if "\n" in repr(thing)]


def test_a_repr_says_how_much_there_is(record: Record) -> None:
    told = held(record)
    ticks = record.curve.ticks()
    assert repr(ticks) == f"<Ticks: {len(ticks)} of 3 streams, steps 0–{ticks.steps[-1]}>"
    assert repr(Curve().ticks()) == "<Ticks: 0 of 0 streams>"
    assert repr(told["batch"]) == "<Batch: 60 examples 8, 40 of the stream>"
    assert repr(told["output"]) == "<Output: logits 60×1000, features 60×512>"
    late = LateOutput(torch.zeros(60, 8), lambda: 1 / 0, lambda y: y, torch.zeros(1))  # type: ignore[arg-type, return-value]
    assert repr(late) == "<Output: logits on request, features 60×8>"
    assert repr(told["experience"]) == "<Experience 0: 64 examples of 20 classes>"
    assert repr(told["stream"]) == "<Stream train: 50 experiences, 3200 examples>"


def test_frames_are_of_what_they_are_given() -> None:
    pytest.importorskip("pandas")
    assert frames.data_frame({"a": [1, 2]}).to_dict("list") == {"a": [1, 2]}
