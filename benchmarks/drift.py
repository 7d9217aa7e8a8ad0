"""Streams of features in time order that change as they go: test, then train.

Losing, Hammer, Wersing: Incremental on-line learning: a review and comparison of state of the art algorithms,
Neurocomputing 2018. Electricity: Harries, 1999. Weather: Elwell, Polikar, IEEE TNN 2011. Outdoor: Losing, Hammer,
Wersing, IJCNN 2015.
"""

from __future__ import annotations

from typing import Any, Literal

from clbench.data import Times, drift_stream, generated, known_rows, read_rows_in_time
from clbench.ranges import Count, Natural, Seed
from clbench.registry import File, register_benchmark, register_benchmarks
from clbench.types import Benchmark

NOTES = (
    "One pass in the order of the file; every batch is predicted before it is learned, and there is no other test set: "
    "its accuracy on all rows at the end is of rows that it has learned. All classes are known from the start."
)


@register_benchmarks("drift.yaml", primary="prequential_accuracy")
def drift(
    told: dict[str, Any], *, data: str, standardise: bool = True, rows: Count | None = None
) -> Benchmark:
    """Rows in time order, each batch of which is predicted before it is learned.

    Args:
        standardise: the network's first layer standardises each feature by what has come so far.
        rows: so many of the first ones only.
    """
    x, y, names = known_rows(data)
    return drift_stream(
        x, y, class_names=names, standardise=standardise, rows=rows, **{**told, "notes": NOTES}
    )


@register_benchmark("drift-file", version=1, primary="prequential_accuracy")
def drift_file(
    path: File,
    features: str | tuple[str, ...] = (),
    label: str = "label",
    time: str | None = "time",
    times: Times = "checked",
    labels: Literal["auto", "names"] = "auto",
    class_names: tuple[str, ...] = (),
    standardise: bool = True,
    rows: Count | None = None,
) -> Benchmark:
    """Your own rows in time order, each batch of which is predicted before it is learned: from a table or an .npz file.

    Args:
        path: a CSV, TSV, JSON-lines or Parquet file with a row for each example; or an .npz file with x (N, D), y (N,)
            and perhaps time (N,) and class_names.
        features: columns of numbers (* stands for any characters); if none are given, all but label and time.
        label: column of classes, by name or by number.
        time: column of times, in ISO 8601 or seconds since 1970; without one, rows are in time order as they stand.
        times: what becomes of rows whose times run backwards: checked, they are refused; sorted; or free, as they
            stand.
        labels: names: whole numbers are names, so that there may be gaps.
        class_names: of classes 0, 1, ….
        standardise: the network's first layer standardises each feature by what has come so far.
        rows: so many of the first ones only.
    """
    chosen = (features,) if isinstance(features, str) else features
    x, y, names = read_rows_in_time(
        path, features=chosen, label=label, time=time, times=times, labels=labels, class_names=class_names
    )
    return drift_stream(
        x, y, name="drift-file", class_names=names, standardise=standardise, rows=rows, notes=NOTES
    )


@register_benchmark("drift-river", version=1, primary="prequential_accuracy")
def drift_river(
    generator: str = "SEA",
    rows: Count = 10_000,
    concepts: tuple[dict[str, Any], ...] = ({"variant": 0}, {"variant": 2}),
    width: Natural = 0,
    standardise: bool = True,
    seed: Seed = 0,
) -> Benchmark:
    """A generator of River whose concept changes at equal distances; each batch is predicted before it is learned.

    Args:
        generator: class of river.datasets.synth: SEA, STAGGER, Sine, Agrawal, LED, Hyperplane, RandomRBFDrift, ….
        rows: of the stream.
        concepts: parameters of the generator for each concept in turn, such as [{variant: 0}, {variant: 2}]; [] for a
            single one with its defaults.
        width: rows that a change takes; 0 for a step.
        standardise: the network's first layer standardises each feature by what has come so far.
        seed: of the generator.
    """
    x, y = generated(generator, rows, concepts, width, seed)
    return drift_stream(x, y, name="drift-river", standardise=standardise, seed=seed, notes=NOTES)
