"""Benchmarks from what Python users have at hand: data sets as torch has them, tables of image files, arrays."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from clbench.data.arrays import gathered, kept_once
from clbench.data.families import (
    build,
    from_arrays,
    from_folder,
    from_npz,
    stream_names,
    stream_settings,
)
from clbench.data.folders import ROLES, Part, Role, share_of, source_of_files
from clbench.data.manifest_streams import from_manifest
from clbench.data.pixels import eight_bits
from clbench.data.shares import held_out
from clbench.data.source import is_missing, source_of
from clbench.data.tables import CHUNKS
from clbench.errors import ConfigError, DataError, choices
from clbench.machine.numerics import pinned
from clbench.ranges import Count, Part as Portion
from clbench.registry.arguments import signature_of, validated
from clbench.types import Benchmark

LARGE = 1 << 30
"""Bytes of the items of a data set from which on they are kept on disk."""
READ_TWICE = 3
"""Items of a data set that are read a second time, to see whether they are the same."""


@pinned()
@validated
def from_dataset(
    train: Any,
    test: Any = None,
    *,
    valid_set: Any = None,
    test_fraction: Portion = 0.2,
    size: Count | None = None,
    channels: Literal[1, 3] | None = None,
    keep: Literal["auto", "memory", "disk"] = "auto",
    name: str = "dataset",
    **params: Any,
) -> Benchmark:
    """A benchmark from data sets as torch has them: `dataset[i]` is an input and its label, of `len(dataset)`.

    The items are read once, into memory or, if they are many, to a memory map in `$CLBENCH_DATA/folders`, and trained
    on as they were then; so give the data without random augmentation, and name that as `augment`. An input is an array
    or a tensor as for `from_arrays`, or an image of Pillow; a label is a number from 0 or a name. A third value is the
    domain, for shift="domain". The names of classes are those that the data set has as `classes`.

    Args:
        train, test: map-style data sets; without `test`, a share of each class of `train` is for testing.
        valid_set: the data set of the validation stream.
        test_fraction: that share, stratified, the same at every call.
        size: images of Pillow are cropped to squares and resized to size × size pixels; None leaves them as they are.
        channels: of images of Pillow: 3 for colour, 1 for grey; None as each is.
        keep: where the items are kept: in memory, or on disk, so that there may be more than fit into memory. "auto":
            on disk from a GB on.
        name: of the benchmark.
        params: the others of `from_arrays`: `experiences`, `shift`, `seed`, …

    Raises:
        DataError: no such data set, or items that are no pairs, differ in shape, or change from one look to the next.
        ConfigError: a parameter that does not fit.
    """
    settings = stream_settings("from_dataset()", params, tuple(signature_of(from_dataset).parameters)[:-2])
    by_domain = settings.get("shift") == "domain"
    given: dict[str, Any] = {}
    for split, dataset in (("train", train), ("test", test), ("valid", valid_set)):
        if dataset is not None or split == "train":
            columns = _columns(f"{name}: the {split} set", dataset, size, channels, keep)
            if len(columns) == 3 and not by_domain:
                raise DataError(
                    f"{name}: the items of the {split} set have three values; the third is a domain, for "
                    "shift='domain'. Give pairs of an input and its label."
                )
            given |= {f"{key}_{split}": column for key, column in zip("xyd", columns, strict=False)}
    if test is None:
        given = _split(given, test_fraction)
    for split in ("train", "test", "valid"):
        given[f"domain_{split}"] = given.pop(f"d_{split}", None)
    source = source_of(**given, class_names=_class_names(train, given["y_train"]), who=name)
    return build(source, name=name, **settings)


@pinned()
@validated
def from_frame(
    frame: Any,
    *,
    path: str = "path",
    label: str = "label",
    domain: str = "domain",
    split: str = "split",
    root: str | Path = "",
    size: Count = 64,
    channels: Literal[1, 3] = 3,
    test_fraction: Portion = 0.2,
    name: str = "frame",
    **params: Any,
) -> Benchmark:
    """A benchmark from a table of image files and their labels: a DataFrame, or a dictionary of columns.

    Images are read as those of `from_folder` are: decoded once, and kept as a memory map, so that they may be more than
    fit into memory. Classes and domains are numbered by name, 2 before 10.

    Args:
        frame: one row for each image.
        path, label: names of the columns with the image's file and its class.
        domain, split: names of the columns with its domain and with train, test or val, where there are such columns.
            Without a split, a fixed share of each class (in each domain) is for testing; without test, val is.
        root: folder that the paths are seen from.
        size: images are cropped to squares and resized to size × size pixels.
        channels: 3 for colour, 1 for grey.
        test_fraction: that share.
        name: of the benchmark.
        params: the others of `from_arrays`: `experiences`, `shift`, `seed`, …

    Raises:
        DataError: no such column, or what it holds cannot be used. ConfigError: a parameter that does not fit.
    """
    settings = stream_settings("from_frame()", params, tuple(signature_of(from_frame).parameters)[:-2])
    if not hasattr(frame, "columns") and not isinstance(frame, Mapping):
        raise DataError(
            f"{name}: a table is a DataFrame, or a dictionary of columns; a {type(frame).__name__} was given."
        )
    defaults = signature_of(from_frame).parameters
    files, labels = (_column(name, frame, column) for column in (path, label))
    there = {
        key: _column(name, frame, column)
        for key, column in (("domain", domain), ("split", split))
        if column in _column_names(frame) or column != defaults[key].default
    }
    if uneven := [column for column in (labels, *there.values()) if len(column) != len(files)]:
        raise DataError(f"{name}: the columns differ in length, {len(files)} and {len(uneven[0])}.")
    folder = Path(root).expanduser()
    parts: dict[Role, Part] = {"train": Part(), "valid": Part(), "test": Part()}
    rows = list(zip(files, labels, there.get("domain", [""] * len(files)), strict=True))
    roles = _roles(name, split, there["split"]) if "split" in there else _drawn(rows, test_fraction)
    if twice := [file for file, times in Counter(files).items() if times > 1]:
        raise DataError(f"{name}: the file {twice[0]} is in two rows; every image has one.")
    for role, (file, of_class, of_domain) in zip(roles, rows, strict=True):
        parts[role].add([(folder / file).as_posix()], of_class, of_domain)
    told = f"The images are those of a table of {len(files):,} rows:"
    return build(source_of_files(f"the table '{name}'", parts, told, size, channels), name=name, **settings)


def from_data(data: Any, *, name: str = "data", **params: Any) -> Benchmark:
    """A benchmark from whatever data there are, by the function that reads them.

    Args:
        data: a data set of torch's, or a pair for training and test (`from_dataset`); a DataFrame or a dictionary of
            columns (`from_frame`); the four arrays, in a tuple or a dictionary, that `from_arrays` takes; or the path
            of an .npz file, of a manifest (`from_manifest`) or of a folder of images.
        name: of the benchmark.
        params: of that function.

    Raises:
        DataError: of data that none of them takes, or as that function raises it.
        ConfigError: as that function raises it.
    """
    reader, given = _reader(data)
    if isinstance(given, Mapping):
        made: Benchmark = reader(**given, name=name, **params)
    else:
        made = reader(*given, name=name, **params)
    return made


def settings_of(data: Any) -> set[str]:
    """Return the names of the settings with which a benchmark is made from data: those of its function."""
    own = {k for k, p in signature_of(_reader(data)[0]).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return (own | set(stream_names())) - {"name", "seed"}


def _reader(data: Any) -> tuple[Any, Sequence[Any] | Mapping[str, Any]]:
    """Return the function that makes a benchmark of data, and what it is called with."""
    if isinstance(data, str | os.PathLike):
        place = Path(data).expanduser()
        return (
            from_folder if place.is_dir() else from_manifest if place.suffix.lower() in CHUNKS else from_npz
        ), (data,)
    if hasattr(data, "columns"):
        return from_frame, (data,)
    if isinstance(data, Mapping):
        arrays_of = {"x_train", "y_train", "x_test", "y_test"}
        return (from_frame, (data,)) if data and not arrays_of & data.keys() else (from_arrays, data)
    arrays: Any = np.ndarray | Tensor | list | tuple
    if isinstance(data, list | tuple) and len(data) == 4:
        return from_arrays, data
    sets = data if isinstance(data, list | tuple) and len(data) == 2 else (data,)
    if not any(isinstance(one, arrays) or not hasattr(one, "__getitem__") for one in sets):
        return from_dataset, sets
    held = f" of {len(data)}" if isinstance(data, list | tuple) else ""
    raise DataError(
        f"Data are a data set as torch has them or a pair of them (train, test), a DataFrame of files and labels, the "
        "arrays (x_train, y_train, x_test, y_test), or the path of an .npz file or a folder of images; "
        f"a {type(data).__name__}{held} was given."
    )


# --- data sets ---


def _columns(who: str, dataset: Any, size: int | None, channels: int | None, keep: str) -> list[Any]:
    """Return the inputs (N, …), the labels and, where there are some, the domains of a data set.

    Raises:
        DataError: it is none that can be read by number, or its items are not of one form.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        raise DataError(
            f"{who} is a {kind}, which cannot be read by number: clbench needs dataset[i] and len(dataset), as the "
            "same examples come again and are counted. Write its items to arrays and give those to clbench.from_arrays."
        )
    try:
        length = len(dataset)
    except Exception as error:  # whatever its author's code raises
        raise DataError(f"{who} cannot tell its length: {type(error).__name__}: {error}") from error
    if not length:
        raise DataError(f"{who} is empty.")
    first = _item(who, dataset, 0, size, channels)
    others: list[list[Any]] = [[] for _ in first[1:]]

    def inputs() -> Iterator[npt.NDArray[Any]]:
        for i in range(length):
            item = _item(who, dataset, i, size, channels)
            again = _item(who, dataset, i, size, channels) if i < READ_TWICE else item
            same = np.array_equal(item[0], again[0], equal_nan=item[0].dtype.kind == "f")
            if not same or str(item[1:]) != str(again[1:]):
                raise DataError(
                    f"{who} gives item {i} differently at every look, as random augmentation does, and its items are "
                    "read once. Give it without, and name the augmentation as augment=('crop', 'flip'), or write a "
                    "part of a strategy that augments."
                )
            if item[0].shape != first[0].shape or item[0].dtype != first[0].dtype or len(item) != len(first):
                cure = (
                    " Give size=64 and channels=3, for example, to bring images to one form."
                    if size is None
                    else ""
                )
                raise DataError(
                    f"{who}: item {i} is {item[0].dtype} of shape {item[0].shape}, and item 0 {first[0].dtype} of "
                    f"shape {first[0].shape}; all inputs are of one form.{cure}"
                )
            for column, value in zip(others, item[1:], strict=True):
                column.append(value)
            yield item[0]

    shape = (length, *first[0].shape)
    if keep == "disk" or (keep == "auto" and first[0].nbytes * length > LARGE):
        return [kept_once(inputs(), shape, first[0].dtype), *others]
    x = np.empty(shape, dtype=first[0].dtype)
    for i, one in enumerate(inputs()):
        x[i] = one
    return [x, *others]


def _item(who: str, dataset: Any, i: int, size: int | None, channels: int | None) -> list[Any]:
    """Return an item's input as an array, and its label and domain as Python's own."""
    try:
        item = dataset[i]
    except Exception as error:  # whatever its author's code raises
        raise DataError(f"{who} cannot give item {i}: {type(error).__name__}: {error}") from error
    if not isinstance(item, list | tuple) or len(item) not in (2, 3):
        what = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, list | tuple) else "")
        keys = f" with {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
        raise DataError(
            f"{who} gives {what}{keys} as item {i}; an item is a pair of an input and its label. Wrap it in a Dataset "
            "whose __getitem__ returns such pairs."
        )
    x, *others = item
    if hasattr(x, "convert"):  # an image of Pillow
        image = eight_bits(x)
        if channels is not None:
            image = image.convert("RGB" if channels == 3 else "L")
        if size is not None:
            from PIL import Image, ImageOps

            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        x = np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)
    elif size is not None:
        raise ConfigError(f"{who}: size is for images of Pillow; item {i} is a {type(x).__name__}.")
    elif isinstance(x, Tensor):
        try:
            x = x.detach().cpu().numpy() if x.dtype is not torch.bfloat16 else x.float().numpy()
        except (TypeError, RuntimeError) as error:  # sparse, or on the device meta
            raise DataError(f"{who} cannot give item {i} as an array: {error}") from error
    return [
        np.asarray(x),
        *(one.item() if hasattr(one, "item") and np.size(one) == 1 else one for one in others),
    ]


def _split(given: dict[str, Any], fraction: float) -> dict[str, Any]:
    """Return columns of which a share of each class (in each domain) is for testing."""
    strata = [str(one) for one in zip(*(given[k] for k in ("y_train", "d_train") if k in given), strict=True)]
    test = held_out(np.unique(strata, return_inverse=True)[1], fraction, 0)
    assert test is not None

    def rows(column: Any, which: npt.NDArray[np.bool_]) -> Any:
        if isinstance(column, np.ndarray):
            return gathered(column, np.flatnonzero(which))
        return list(itertools.compress(column, which))

    both = {k: c for k, c in given.items() if k.endswith("_train")}
    return {
        **{k: c for k, c in given.items() if k not in both},
        **{k: rows(c, ~test) for k, c in both.items()},
        **{k.replace("_train", "_test"): rows(c, test) for k, c in both.items()},
    }


def _class_names(dataset: Any, labels: Sequence[Any]) -> Sequence[str]:
    """Return the names of classes that a data set has, also one that others are taken from; none of named labels."""
    while not hasattr(dataset, "classes") and isinstance(getattr(dataset, "dataset", None), Dataset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", ())
    fits = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
    if not fits or not all(isinstance(one, int) for one in labels) or len(names) != max(labels) + 1:
        return ()
    return names


# --- tables ---


def _column_names(frame: Any) -> list[str]:
    return [str(column) for column in getattr(frame, "columns", frame)]


def _column(who: str, frame: Any, column: str) -> list[str]:
    """Return a column as texts."""
    known = _column_names(frame)
    if column not in known:
        raise DataError(f"{who}: the table has no column '{column}'.{choices(column, known)}")
    held = frame[next(one for one in getattr(frame, "columns", frame) if str(one) == column)]
    if known.count(column) > 1 or getattr(held, "ndim", 1) != 1:
        raise DataError(f"{who}: the table has more than one column '{column}'.")
    if isinstance(held, str) or not isinstance(held, Iterable):
        raise DataError(f"{who}: the column '{column}' is a {type(held).__name__}; a column is a list.")
    values = list(held)
    if not values:
        raise DataError(f"{who}: the table has no rows.")
    for row, value in enumerate(values):
        if not str(value).isprintable():
            raise DataError(f"{who}: row {row} has the {column} {str(value)!r}, with control characters.")
        if is_missing(value):
            raise DataError(f"{who}: row {row} has no {column}; fill it, or leave out the row.")
    return [os.fspath(value) if isinstance(value, os.PathLike) else str(value) for value in values]


def _roles(who: str, column: str, values: Sequence[str]) -> list[Role]:
    for row, value in enumerate(values):
        if value.lower() not in ROLES:
            raise DataError(f"{who}: row {row} has the {column} '{value}'.{choices(value, ROLES)}")
    roles = [ROLES[value.lower()] for value in values]
    if "test" not in roles:
        roles = ["test" if role == "valid" else role for role in roles]
    return roles


def _drawn(rows: Sequence[tuple[str, str, str]], fraction: float) -> list[Role]:
    """Return train or test for every row, a fixed share of each class (in each domain) for testing."""
    groups: dict[tuple[str, str], list[str]] = {}
    for file, label, domain in rows:
        groups.setdefault((label, domain), []).append(file)
    test = {key: share_of(files, fraction) for key, files in groups.items()}
    return ["test" if file in test[label, domain] else "train" for file, label, domain in rows]
