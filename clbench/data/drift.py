"""Drift streams: vectors of features in time order, each predicted before it is learned.

    benchmark = clbench.data.drift_stream(x, y, name="sensors")      # arrays, (N, D) and (N,)
    x, y, names = clbench.data.read_rows_in_time("sensors.csv")      # or from a file

Nothing is shuffled, nothing is told of where the stream changes, and there is no test set: metrics are those of what
was predicted beforehand. All examples together are the test stream, for what is left of them at the end.

Shapes: N rows in time order, D features.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from clbench.data.cells import NONE, iso
from clbench.data.draws import Ints
from clbench.data.files import data_folder, read_arrays
from clbench.data.known import KNOWN, missing_file
from clbench.data.manifests import FileTable, Manifest, read_manifest
from clbench.data.source import natural
from clbench.errors import ConfigError, DataError, choices
from clbench.transforms.augment import Transform
from clbench.types import Benchmark, Data, Experience, Pool, Setting, Stream

Times = Literal["checked", "sorted", "free"]
"""What becomes of rows whose times run backwards: they are refused, put in order, or left as they stand."""
METRICS = (
    "prequential_accuracy",
    "prequential_kappa",
    "prequential_kappa_temporal",
    "prequential_kappa_majority",
    "prequential_window",
    "prequential_fading",
)
"""What tables of drift streams show."""
Rows = tuple[npt.NDArray[np.float32], Ints, tuple[str, ...]]
"""x (N, D), y (N,), and the names of classes 0, 1, … or nothing."""


def drift_stream(
    x: Any,
    y: Any,
    *,
    name: str,
    version: int = 1,
    class_names: Sequence[str] = (),
    standardise: bool = True,
    rows: int | None = None,
    seed: int = 0,
    notes: str = "",
) -> Benchmark:
    """A drift stream of rows in time order.

    Args:
        x: (N, D) numbers.
        y: (N,) labels 0 … C−1, all known from the start, or names.
        name, version: of the benchmark, in records.
        class_names: of classes 0, 1, ….
        standardise: whether the network's first layer standardises each feature by what has come so far.
        rows: so many of the first ones only; all if None.
        seed: of what was drawn for it, if anything was.
        notes: for people who read its records.

    Raises:
        DataError: arrays that cannot be such rows; says which and where.
    """
    features, labels, names = _checked(name, x, y, tuple(class_names))
    if rows is not None and rows > len(labels):
        raise ConfigError(f"{name} has {len(labels):,} rows; rows={rows:,} was given.")
    pool = Pool(torch.from_numpy(features[:rows]), torch.from_numpy(labels[:rows]))
    held = tuple(pool.y.unique().tolist())
    whole = Experience(0, held, Data.of(pool, torch.arange(len(pool.y))), ordered=True)
    return Benchmark(
        name=name,
        version=version,
        setting=Setting("domain", boundaries=False, passes=1),
        train=Stream("train", (whole,)),
        test=Stream("test", (whole,)),
        num_classes=int(labels.max()) + 1,
        transform=Transform(running=standardise),
        primary=METRICS[0],
        seed=seed,
        class_names=names,
        notes=notes,
        memorise=True,
        metrics=METRICS,
        prequential=True,
    )


def _checked(who: str, x: Any, y: Any, names: tuple[str, ...]) -> Rows:
    features, labels = np.asarray(x), np.asarray(y)
    if features.ndim != 2 or features.dtype.kind not in "iufb" or not features.size:
        raise DataError(
            f"{who}: x holds rows of numbers (N, D); it is {features.dtype} of shape {features.shape}."
        )
    if labels.shape != (len(features),):
        raise DataError(
            f"{who}: y holds a label for each of the {len(features):,} rows; it is of shape {labels.shape}."
        )
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, dtype=np.float32)
    if not (finite := np.isfinite(features)).all():
        row, feature = np.argwhere(~finite)[0]
        raise DataError(
            f"{who}: x holds no finite number (in float32) in row {row}, feature {feature}; fill it, or leave the row "
            "out."
        )
    if labels.dtype.kind == "U":
        known = names or tuple(sorted(set(labels.tolist()), key=natural))
        if strange := next((label for label in labels.tolist() if label not in known), None):
            raise DataError(
                f"{who}: y holds '{strange}', which is none of class_names.{choices(strange, known)}"
            )
        labels, names = np.array([known.index(label) for label in labels.tolist()]), known
    if labels.dtype.kind not in "iub" or labels.min() < 0:
        raise DataError(f"{who}: labels are whole numbers from 0, or names; y is {labels.dtype}.")
    there = np.unique(labels)
    if len(there) < int(there[-1]) + 1 and not names:
        lacking = next(c for c, label in enumerate([*there.tolist(), -1]) if c != label)
        raise DataError(
            f"{who}: no row has the label {lacking}, and labels go up to {there[-1]}. Labels are 0 … C−1; write "
            "names if there are gaps."
        )
    if names and int(there[-1]) >= len(names):
        raise DataError(f"{who}: labels go up to {there[-1]}; there are names of {len(names)} classes.")
    return features, labels.astype(np.int64), names


# --- named sets ---


def known_rows(name: str) -> Rows:
    """Rows of `$CLBENCH_DATA/<name>.npz`, with x and y.

    Raises:
        DataError: the file is missing (says how to get it) or damaged.
    """
    path = data_folder() / f"{name}.npz"
    if not path.is_file():
        raise DataError(missing_file(name))
    arrays, _ = read_arrays(path, ("x", "y"), ("class_names",))
    shape, (rows, _) = KNOWN[name].shape, KNOWN[name].sizes
    if arrays["x"].shape != (rows, *shape):
        raise DataError(
            f"{path}: x is of shape {arrays['x'].shape}; {KNOWN[name].title} has {rows:,} rows of {shape[0]} features."
        )
    return arrays["x"], arrays["y"], tuple(map(str, arrays.get("class_names", ())))


# --- files ---


def read_rows_in_time(
    path: str | Path,
    *,
    features: Sequence[str] = (),
    label: str = "label",
    time: str | None = "time",
    times: Times = "checked",
    labels: Literal["auto", "names"] = "auto",
    class_names: Sequence[str] = (),
) -> Rows:
    """Rows in time order from a CSV, TSV, JSON-lines or Parquet file, or an `.npz` with x, y and perhaps time.

    Args:
        path: the file.
        features: columns of numbers (`*` stands for any characters); if none are given, all but the others.
        label: the column of classes: names, or whole numbers from 0.
        time: the column of times, ISO 8601 or seconds since 1970; the order of rows is that of time without it.
        times: what becomes of rows whose times run backwards: `Times`.
        labels: "names" takes whole numbers for names, so that there may be gaps.
        class_names: of classes 0, 1, ….

    Raises:
        DataError: all that is wrong with the file, at once.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() == ".npz":
        return _from_npz(file, features, times, tuple(class_names))
    table = FileTable(file)
    named = {"label": label, "time": time or ""}
    given = ["label", *(["time"] if time not in ("time", None) else [])]
    if not features:
        columns = table.names()
        if columns is None:
            columns = list(dict.fromkeys(key for chunk, _ in table.chunks(None) for key in chunk.columns))
        features = [column for column in columns if column not in named.values()]
    manifest = read_manifest(
        table,
        {"image": "", "row": "", "text": "", **named},
        root=file.parent,
        given=given,
        features=features,
        numbered=labels == "auto",
        class_names=class_names,
    )
    order = _in_time(manifest, times)
    manifest.faults.refuse(manifest.who)
    assert manifest.features is not None
    x = manifest.features.astype(np.float32)
    names = () if all(name.isdecimal() for name in manifest.class_names) else manifest.class_names
    return x[order], manifest.labels[order], names


def _in_time(manifest: Manifest, times: Times) -> Ints:
    """(N,) the rows in the order of the stream; what is wrong with their times is noted."""
    rows, time = np.arange(len(manifest)), manifest.time
    if time is None or times == "free":
        return rows
    unit = manifest.faults.unit
    empty = np.flatnonzero(time == NONE)
    manifest.faults.rows(
        "Rows without a time", manifest.at(empty, lambda i: "empty"), "Fill it, or say times=free."
    )
    if times == "sorted":
        return np.argsort(time, kind="stable")
    back = np.flatnonzero(np.diff(time) < 0) + 1
    manifest.faults.rows(
        "Times that run backwards",
        manifest.at(
            back,
            lambda i: (
                f"{iso(int(time[i]))}, after {iso(int(time[i - 1]))} in {unit} {manifest.numbers[i - 1]}"
            ),
        ),
        "Sort the rows; or say times=sorted, or times=free to take them as they stand.",
    )
    return rows


def _from_npz(file: Path, features: Sequence[str], times: Times, class_names: tuple[str, ...]) -> Rows:
    if features:
        raise ConfigError(f"{file}: features names columns, and an .npz file has none; leave it out.")
    arrays, unused = read_arrays(file, ("x", "y"), ("time", "class_names"))
    if unused:
        raise DataError(
            f"{file} holds {unused[0]}, which would go unused. It may hold x, y, time and class_names."
        )
    x, y, time = arrays["x"], arrays["y"], arrays.get("time")
    names = class_names or tuple(map(str, arrays.get("class_names", ())))
    if time is None or times == "free":
        return x, y, names
    if time.shape != y.shape or time.dtype.kind not in "iufM":
        raise DataError(
            f"{file}: time holds a number for each row; it is {time.dtype} of shape {time.shape}."
        )
    if times == "sorted":
        order = np.argsort(time, kind="stable")
        return x[order], y[order], names
    back = np.flatnonzero(time[1:] < time[:-1]) + 1
    if len(back):
        raise DataError(
            f"{file}: times run backwards {len(back):,} times, first in row {back[0]} ({time[back[0]]}, after "
            f"{time[back[0] - 1]}). Sort the rows; or say times=sorted, or times=free to take them as they stand."
        )
    return x, y, names


# --- River's generators ---


def generated(
    generator: str, rows: int, concepts: Sequence[Mapping[str, Any]], width: int, seed: int
) -> tuple[npt.NDArray[np.float32], Ints]:
    """Rows of a generator of River, whose concept changes at equal distances.

    Args:
        generator: a class of `river.datasets.synth`, such as SEA.
        rows: how many.
        concepts: parameters of each concept in turn.
        width: rows that a change takes, as in `ConceptDriftStream`; 0 for a step.
        seed: of everything that is drawn.

    Raises:
        ConfigError: River is not installed, has no such generator, or that does not take such parameters.
    """
    try:
        from river.datasets import base, synth
    except ImportError as error:
        raise ConfigError(f"Generators are River's ({error}); pip install 'clbench[drift]'.") from error
    kinds = {
        key: kind
        for key, kind in vars(synth).items()
        if isinstance(kind, type) and issubclass(kind, base.SyntheticDataset) and key != "ConceptDriftStream"
    }
    if generator not in kinds:
        raise ConfigError(f"River has no generator '{generator}'.{choices(generator, kinds)}")
    concepts = concepts or [{}]
    if rows < len(concepts):
        raise ConfigError(f"{len(concepts)} concepts need as many rows at least; rows={rows} was given.")
    made = []
    takes = signature(kinds[generator]).parameters
    for k, concept in enumerate(concepts):
        seeds = {key: seed + k for key in takes if key.startswith("seed")}  # RandomRBF has two
        try:
            made.append(kinds[generator](**{**seeds, **concept}))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{generator} of River does not take {dict(concept)}: {error}. concepts lists those of each concept, "
                f"of {', '.join(takes)}; concepts=[] is a single one with its defaults."
            ) from error
    ends = [rows * (k + 1) // len(made) for k in range(len(made))]
    if width:
        stream: Iterator[Any] = iter(made[0])
        for k, (following, at) in enumerate(zip(made[1:], ends, strict=False)):
            stream = _crossing(stream, iter(following), at, width, seed + k)
        drawn = list(itertools.islice(stream, rows))
    else:
        each = np.diff([0, *ends])
        drawn = list(itertools.chain(*(one.take(int(n)) for one, n in zip(made, each, strict=True))))
    if len(drawn) < rows:
        raise ConfigError(f"{generator} of River ends after {len(drawn):,} rows; rows={rows:,} was given.")
    if len(sizes := sorted({len(row) for row, _ in drawn})) > 1:
        raise ConfigError(
            f"The concepts have {' and '.join(map(str, sizes))} features; those of a stream have as many."
        )
    if not all(isinstance(y, bool | int | np.integer | np.bool_) for _, y in drawn):
        raise ConfigError(f"{generator} of River is no classification: its targets are numbers with a point.")
    x = np.array([list(row.values()) for row, _ in drawn], dtype=np.float32)
    return x, np.array([int(y) for _, y in drawn])


def _crossing(old: Iterator[Any], new: Iterator[Any], at: int, width: int, seed: int) -> Iterator[Any]:
    """Rows of two concepts; row n is of the new one with probability σ(4 (n − at) / width).

    They are those of River's `ConceptDriftStream`, whose exponential overflows where a narrow change is far ahead.
    """
    rng = random.Random(seed)
    for n in itertools.count(1):
        ahead = 4 * (at - n) / width
        changed = rng.random() <= (1 / (1 + math.exp(ahead)) if ahead < 700 else 0)
        row = next(new if changed else old, None)
        if row is None:
            return
        yield row
