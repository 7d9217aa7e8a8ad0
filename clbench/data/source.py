"""A data set, checked, from arrays."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clbench.errors import ConfigError, DataError, choices
from clbench.files.mapped import Mapped
from clbench.types import Pool

AxesOrder = Literal["auto", "channels-first", "channels-last"]
"""Which axis of images (N, ·, ·, ·) is the channels: 1, 3, or what `channels_first` finds beyond doubt."""
SELDOM = 0.01
"""A feature hardly varies where less than this share of the examples differs from its median."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, checked: what benchmarks are cut from.

    Attributes:
        train, test: the pools; labels are 0 … C−1, each with training and test examples.
        class_names: of classes 0, 1, …, or nothing.
        domain_train, domain_test: (N,) domain of every example, where it is known.
        domain_names: of domains 0, 1, …, or nothing.
        scale: what brings uint8 inputs to [0, 1].
        mean, std: published normalisation per channel; computed from the training pool where there is none.
        valid: the pool of validation examples, where the data have their own. domain_valid: (N,) their domains.
        found: what was found in the files that whoever reads results should know, such as their layout; sentences.
        duplicates: how many examples are known to be byte-identical to another one (`Benchmark.duplicates`).
    """

    train: Pool
    test: Pool
    class_names: tuple[str, ...] = ()
    domain_train: npt.NDArray[np.int64] | None = None
    domain_test: npt.NDArray[np.int64] | None = None
    domain_names: tuple[str, ...] = ()
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    valid: Pool | None = None
    domain_valid: npt.NDArray[np.int64] | None = None
    found: tuple[str, ...] = ()
    duplicates: int = 0

    def __repr__(self) -> str:
        return f"<Source: {self.num_classes} classes, training {self.train!r}, test {self.test!r}>"

    @functools.cached_property
    def num_classes(self) -> int:
        return int(self.train.y.max()) + 1

    @functools.cached_property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std: the published ones, else of the training pool; none for features and tokens."""
        if self.mean or self.train.x.dtype != torch.uint8:
            return self.mean, self.std
        return moments(self.train.x, self.scale)


def source_of(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    x_valid: Any = None,
    y_valid: Any = None,
    domain_train: Any = None,
    domain_test: Any = None,
    domain_valid: Any = None,
    class_names: Any = (),
    domain_names: Any = (),
    layout: AxesOrder = "auto",
    who: str = "The data",
) -> Source:
    """Return a checked data set from arrays; inputs as for `from_arrays`.

    Raises:
        DataError: says which array is wrong, what is allowed and what to do; `who` names the data in it.
    """
    labels, of_domains = (
        _names(f"{who}: class_names", class_names),
        _names(f"{who}: domain_names", domain_names),
    )
    given = {"train": (x_train, y_train, domain_train), "test": (x_test, y_test, domain_test)}
    if x_valid is not None or y_valid is not None or domain_valid is not None:
        if x_valid is None or y_valid is None:
            raise DataError(f"{who}: x_valid and y_valid go together; only one of them was given.")
        given["valid"] = (x_valid, y_valid, domain_valid)
    told = {split: domain is not None for split, (_, _, domain) in given.items()}
    if len(set(told.values())) > 1:
        names = " and ".join(f"domain_{split}" for split in told)
        raise DataError(f"{who}: {names} go together; only some of them were given.")
    pools: dict[str, Pool] = {}
    domains: dict[str, npt.NDArray[np.int64] | None] = {"valid": None}
    for split, (x, y, domain) in given.items():
        called = {key: f"{who}: {key}_{split}" for key in ("x", "y", "domain")}
        x, file = in_file(_array(called["x"], x))
        inputs = _inputs(called["x"], x, layout)
        y, labels = _numbered(called["y"], _array(called["y"], y), labels)
        pools[split] = pool(inputs, _integers(called["y"], y, len(inputs)))
        if file is not None and inputs.ctypes.data == x.ctypes.data:  # it needed no other form
            pools[split] = replace(pools[split], file=file._replace(shape=inputs.shape))
        domains[split] = None
        if domain is not None:
            domain, of_domains = _numbered(called["domain"], _array(called["domain"], domain), of_domains)
            domains[split] = _integers(called["domain"], domain, len(inputs))
    train = pools["train"]
    classes = int(train.y.max()) + 1
    for split, part in pools.items():
        if train.x.shape[1:] != part.x.shape[1:] or train.x.dtype != part.x.dtype:
            raise DataError(
                f"{who}: x_train and x_{split} must be of one shape and type; they are "
                f"{tuple(train.x.shape[1:])} {train.x.dtype} and {tuple(part.x.shape[1:])} {part.x.dtype}."
            )
        if split == "train":
            _check_classes(f"{who}: y_train", train, classes)
        elif part.y.max() >= classes:
            raise DataError(
                f"{who}: class {int(part.y.max())} is in y_{split} but not in y_train, so nothing can learn it."
            )
    _check_classes(f"{who}: y_test", pools["test"], classes)
    if labels and len(labels) != classes:
        raise DataError(f"{who}: {len(labels)} class names were given for {classes} classes.")
    return Source(
        train,
        pools["test"],
        labels,
        domains["train"],
        domains["test"],
        of_domains,
        valid=pools.get("valid"),
        domain_valid=domains["valid"],
    )


def only(source: Source, first: int, stop: int) -> Source:
    """Return the classes first … stop − 1 of a data set, numbered from 0.

    Raises:
        ConfigError: it does not have them.
    """
    if not 0 <= first < stop <= source.num_classes:
        raise ConfigError(
            f"Classes are given as [a, b] with 0 ≤ a < b ≤ {source.num_classes}; [{first}, {stop}] was given."
        )

    return chosen(source, range(first, stop))


def chosen(source: Source, classes: Sequence[int]) -> Source:
    """Some classes of a data set, numbered in the order in which they are listed.

    Raises:
        ConfigError: a class that it does not have, or one twice.
    """
    listed = np.asarray(classes, dtype=np.int64)
    if len(np.unique(listed)) < len(listed) or not set(listed.tolist()) <= set(range(source.num_classes)):
        raise ConfigError(f"Classes are listed once each, of 0 … {source.num_classes - 1}.")
    number = torch.full((source.num_classes,), -1)
    number[torch.from_numpy(listed)] = torch.arange(len(listed))

    def part(whole: Pool, domain: npt.NDArray[np.int64] | None) -> tuple[Pool, npt.NDArray[np.int64] | None]:
        rows = (number[whole.y] >= 0).nonzero().squeeze(1)
        return Pool(whole.x[rows], number[whole.y[rows]]), None if domain is None else domain[rows.numpy()]

    train, domain_train = part(source.train, source.domain_train)
    test, domain_test = part(source.test, source.domain_test)
    valid, domain_valid = (None, None) if source.valid is None else part(source.valid, source.domain_valid)
    return replace(
        source,
        train=train,
        test=test,
        class_names=tuple(source.class_names[c] for c in listed.tolist()) if source.class_names else (),
        domain_train=domain_train,
        domain_test=domain_test,
        valid=valid,
        domain_valid=domain_valid,
    )


def first_of_each(source: Source, split: str, most: int, what: str = "examples") -> Source:
    """Return a data set with no more than so many examples of each class, and of each domain of it, in a split."""
    pool, domain = getattr(source, split), getattr(source, f"domain_{split}")
    of = pool.y.numpy() if domain is None else pool.y.numpy() + source.num_classes * domain
    together = np.argsort(of, kind="stable")
    place = np.arange(len(of)) - np.searchsorted(of[together], of[together])  # of each, among those like it
    kept = np.sort(together[place < most])
    of_domain = {} if domain is None else {f"domain_{split}": domain[kept]}
    told = f"Of the {split} {what}, the first {most:,} of each class are used: {len(kept):,} of {len(of):,}."
    found = (*source.found, told)
    return replace(source, found=found, **{split: Pool(pool.x[kept], pool.y[kept]), **of_domain})


def _check_classes(who: str, part: Pool, classes: int) -> None:
    """Labels without gaps: a head with outputs that nothing trains is more often a mistake than meant."""
    present = part.y.unique().tolist()
    if len(present) < classes:
        absent = next((c for c, label in enumerate(present) if c != label), len(present))
        raise DataError(
            f"{who} has no example of class {absent}. Labels are 0 … C−1, each in training and test, and "
            "clbench never renumbers them. To do so, join those of training and test: names, labels = "
            "numpy.unique(labels, return_inverse=True)."
        )


def _names(who: str, given: Any) -> tuple[str, ...]:
    if np.ndim(given) != 1:
        raise DataError(f"{who} must hold one name for each; it is of shape {np.shape(given)}.")
    try:
        return tuple(str(name) for name in given)
    except (SystemError, ValueError) as error:  # a damaged file's characters may be none
        raise DataError(f"{who} holds text that cannot be read: {error}.") from error


def natural(name: str) -> tuple[list[str | int], str]:
    """Return what names are sorted by: numbers in them by size, so that 2 comes before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _numbered(
    who: str, given: npt.NDArray[Any], names: tuple[str, ...]
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return numbers in place of names, and the names of 0, 1, …: in their natural order, unless they are known.

    Raises:
        DataError: a name that is not known.
    """
    if given.ndim != 1 or not (
        given.dtype.kind == "U" or (given.dtype.kind == "O" and all(isinstance(one, str) for one in given))
    ):
        return given, names
    listed = [str(one) for one in given]
    names = names or tuple(sorted(set(listed), key=natural))
    number = {name: k for k, name in enumerate(names)}
    for row, name in enumerate(listed):
        if not name.strip() or not name.isprintable():
            raise DataError(
                f"{who} holds {name!r} in example {row}; a name has letters, and no control characters."
            )
        if name not in number:
            raise DataError(f"{who} holds '{name}', which is none of the names.{choices(name, names)}")
    return np.array([number[name] for name in listed], dtype=np.int64), names


def _array(who: str, given: Any) -> npt.NDArray[Any]:
    """Return an array of an array, a tensor or lists; of numbers that NumPy does not have, such as bfloat16, in
    float32."""
    if isinstance(given, np.ma.MaskedArray) and given.mask.any():
        raise DataError(
            f"{who} has {int(given.mask.sum())} masked values; fill them, or leave out their rows."
        )
    if isinstance(given, Dataset):
        raise DataError(f"{who} is a {type(given).__name__}, no array; clbench.from_dataset takes data sets.")
    try:
        if isinstance(given, Tensor):
            tensor = given.detach().cpu()
            known = (torch.float16, torch.float32, torch.float64)
            return (
                tensor.float() if tensor.is_floating_point() and tensor.dtype not in known else tensor
            ).numpy()
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"{who} cannot be read as an array of numbers of one shape: {str(error).splitlines()[0].rstrip('.')}."
        ) from error
    if array.dtype == object and not array.ndim:
        cure = "a sparse matrix as .toarray()" if hasattr(given, "toarray") else "anything else as list(…)"
        raise DataError(f"{who} is a {type(given).__name__}; give an array, a tensor or a list, {cure}.")
    return array.astype(np.float32) if array.dtype.name.startswith(("bfloat", "float8")) else array


def in_file(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Mapped | None]:
    """Return an array and, where it is a memory map of numbers that lie one after the other, their file.

    A map that is for reading only is opened anew, so that torch, which wants memory that it may write to, takes it
    without a copy; nothing is written to the file.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and isinstance(base.base, np.ndarray):
        base = base.base
    if (
        not isinstance(base, np.memmap)
        or base.filename is None
        or not array.flags.c_contiguous
        or not array.size
    ):
        return array, None
    offset = base.offset + array.ctypes.data - base.ctypes.data
    file = Mapped(str(base.filename), array.dtype.str, array.shape, offset)
    if array.dtype.byteorder == ">" or array.flags.writeable:
        return array, file if base.mode != "c" else None  # whose changes the file has not
    return file.open(), file


def pool(x: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> Pool:
    return Pool(torch.from_numpy(x), torch.from_numpy(y))


def _inputs(who: str, x: npt.NDArray[Any], layout: AxesOrder) -> npt.NDArray[Any]:
    """Inputs in the form that pools hold: uint8 or float32 (N, C, H, W) or (N, D), or int64 (N, D)."""
    if not x.size or not x.ndim:
        raise DataError(f"{who} is empty.")
    if layout != "auto" and x.ndim != 4:
        raise DataError(f"{who}: layout is of images (N, ·, ·, ·); this array is of shape {x.shape}.")
    if x.dtype.kind == "f" and x.ndim in (2, 4):
        with np.errstate(over="ignore", invalid="ignore"):
            stored = x.astype(np.float32, copy=False)
        step = max(1, (1 << 22) // max(1, stored[:1].size))  # of a map that need not fit into memory
        for start in range(0, len(stored), step):
            if (finite := np.isfinite(stored[start : start + step])).all():
                continue
            first, *rest = np.argwhere(~finite)[0]
            place = (start + int(first), *rest)
            what, cure = "NaN or infinity", "remove or fill it"
            if np.isfinite(x[place]):
                most = np.finfo(np.float32).max
                what, cure = (
                    str(x[place]),
                    f"float32, in which inputs are kept, ends at {most:.3g}; scale them",
                )
            raise DataError(f"{who} holds {what}, first in example {place[0]}; {cure}.")
        return channels_first(stored, layout, who)
    if x.dtype == np.uint8 and x.ndim in (2, 3, 4):
        return channels_first(x, layout, who)
    if x.dtype.kind in "iu" and x.ndim == 2:
        if x.max() > np.iinfo(np.int64).max:
            raise DataError(f"{who} holds {x.max()}; whole numbers are kept in int64, which ends before it.")
        return channels_first(x.astype(np.int64, copy=False))
    raise DataError(
        f"{who}: {x.dtype} of shape {x.shape}. Allowed: uint8 images (N, H, W), (N, H, W, C) or (N, C, H, W) "
        "or features (N, D); floating-point features (N, D) or images with a channel axis; whole numbers (N, D), "
        f"which are tokens or features as the model wants them.{_to_bytes(x)}"
    )


def _to_bytes(x: npt.NDArray[Any]) -> str:
    """Return how pixels of another type become uint8."""
    if x.dtype.kind == "b":
        return " Pixels that are on or off become uint8 by .astype(numpy.uint8) * 255."
    if x.dtype.kind not in "iu":
        return ""
    if x.min() >= 0 and x.max() <= 255:
        return " Pixels of 0 … 255 become uint8 by .astype(numpy.uint8)."
    return (
        f" These numbers go from {x.min()} to {x.max()}: bring their full range to 0 … 255 first, for 16 bits by "
        "(x // 257).astype(numpy.uint8)."
    )


def channels_first(x: npt.NDArray[Any], layout: AxesOrder = "auto", who: str = "x") -> npt.NDArray[Any]:
    """Images (N, C, H, W) from (N, H, W), (N, H, W, C) or (N, C, H, W); features (N, D) as they are.

    The result is contiguous. With layout "auto", the channel axis is the smaller one of axes 1 and 3 where that is
    beyond doubt: the images are square then, or there are up to four channels and the other reading has no square ones.

    Raises:
        DataError: it is not beyond doubt.
    """
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        if layout == "auto":
            a, b, c = x.shape[1:]
            square, other = (b == c, a == b) if a < c else (a == b, b == c)
            if a == c or not (square or (min(a, c) <= 4 and not other)):
                raise DataError(
                    f"{who}: images of shape {x.shape} may be {a} channels of {b} × {c} pixels or {c} channels of "
                    f"{a} × {b}; say which by layout='channels-first' or layout='channels-last'."
                )
            layout = "channels-first" if a < c else "channels-last"
        if layout == "channels-last":
            x = x.transpose(0, 3, 1, 2)
    # A copy where there must be one: torch refuses negative strides and warns of read-only arrays.
    return np.ascontiguousarray(x) if x.flags.writeable else np.array(x, order="C")


def _integers(who: str, y: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(
            f"{who} must hold one integer, or one name, per example; it is {y.dtype} of shape {y.shape}."
            + _to_integers(y)
        )
    if len(y) != n:
        raise DataError(f"{who} holds {len(y)} numbers for {n} examples.")
    if y.min() < 0:
        row = int(np.argmin(y))
        raise DataError(f"{who} holds {y[row]} in example {row}; numbers start at 0.")
    if y.max() > np.iinfo(np.int64).max:
        raise DataError(f"{who} holds {y.max()} in example {int(np.argmax(y))}; numbers are counted from 0.")
    return y.astype(np.int64)


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN, nothing but blanks, or what pandas has in their place."""
    nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return nan or type(value).__name__ in ("NoneType", "NAType", "NaTType") or not str(value).strip()


def _to_integers(y: npt.NDArray[Any]) -> str:
    """Say how labels of another form become integers or names."""
    if y.ndim == 2:
        return " A column becomes one by .ravel(), one-hot rows by .argmax(1)."
    if y.dtype.kind == "f" and np.isnan(y).any():
        return f" Example {int(np.isnan(y).argmax())} has none; fill it, or leave out its row."
    if y.dtype.kind in "fb":
        return " Whole numbers become integers by .astype(int)."
    if y.dtype.kind == "O" and (without := [row for row, one in enumerate(y) if is_missing(one)]):
        return f" Example {without[0]} has none; fill it, or leave out its row."
    return " What is meant as names becomes text by .astype(str)." if y.dtype.kind in "OSM" else ""


def moments(x: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of uint8 inputs · scale: per channel of (N, C, H, W), one for all features of (N, D).

    From histograms, in integers of any length, so that every machine gets the same six digits. The std of a
    channel that never changes is 1.
    """
    channels = x.shape[1] if x.dim() == 4 else 1
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in torch.split(x, 1024):  # x may be a memory map that does not fit into memory
        for c in range(channels):
            values = chunk[:, c] if x.dim() == 4 else chunk
            counts[c] += torch.bincount(values.flatten(), minlength=256)
    means, stds = [], []
    for histogram in counts.tolist():
        n = sum(histogram)
        first = sum(v * k for v, k in enumerate(histogram))
        second = sum(v * v * k for v, k in enumerate(histogram))
        variance = (n * second - first * first) / (n * n)
        means.append(round(first / n * scale, 6))
        stds.append(round(math.sqrt(variance) * scale, 6) or 1.0)
    return tuple(means), tuple(stds)


def moments_of_first(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of numbers that are no pixels, (N, C, H, W) or (N, D): of each channel, or of each feature.

    Later experiences may bring more than these examples show. A feature that hardly varies in them would then become
    huge: its std is taken to be the median of the others'. To six digits, so that every machine gets the same.
    """
    means, stds, known = [], [], []
    for part in x.split(256 if x.dim() == 2 else 1, dim=1):
        values = part.double().transpose(0, 1).flatten(1)  # (D or 1, N or N·H·W)
        means.append(values.mean(1))
        stds.append(values.std(1, correction=0))
        differ = values != values.median(1, keepdim=True).values if x.dim() == 2 else stds[-1] > 0
        known.append(differ.double().mean(1) >= SELDOM if x.dim() == 2 else differ)
    mean, std, varies = torch.cat(means), torch.cat(stds), torch.cat(known)
    usual = std[varies].median() if varies.any() else std.mean()
    std = torch.where(varies, std, usual if usual > 0 else torch.ones_like(usual))
    scales = [float(f"{one:.6g}") for one in std.tolist()]
    return tuple(round(m / s, 6) * s for m, s in zip(mean.tolist(), scales, strict=True)), tuple(scales)
