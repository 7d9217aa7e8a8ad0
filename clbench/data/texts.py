"""Data sets of labelled texts: from lists, and those that clbench brings.

    benchmark = clbench.from_texts(train, labels, test, labels_of_test, experiences=5)

A text is a row of bytes (`clbench.transforms.utf8`): a benchmark does not know which tokens a model will make of it.

Shapes: N texts, L bytes of the longest one, C classes.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clbench.data.families import build
from clbench.data.shares import ordered
from clbench.data.source import Source, first_of_each
from clbench.errors import ConfigError, DataError
from clbench.machine.numerics import pinned
from clbench.registry.arguments import validated
from clbench.transforms.utf8 import pack
from clbench.types import Benchmark, Pool

LONGEST = 4096
"""Bytes that are kept of a text unless more are asked for: several hundred words."""
EMBEDDED = Path(__file__).parent / "intents"
"""Data sets that clbench brings, with their licences."""


@dataclass(frozen=True)
class Row:
    """A labelled text, and the words that say where it stands.

    Attributes:
        domain: its domain, where the data have some.
    """

    where: str
    text: Any
    label: Any
    domain: Any = None


def text_source(
    rows: Mapping[str, Sequence[Row]],
    *,
    class_names: Sequence[str] = (),
    domain_names: Sequence[str] = (),
    longest: int = LONGEST,
    who: str = "The data",
) -> Source:
    """Return a checked data set of texts.

    Labels are names, or whole numbers, which are names, too; all of one type.

    Args:
        rows: of train and test, and of valid where there are some.
        class_names, domain_names: in the order that numbers them; alphabetical, or by number, if none are given.
        longest: bytes that are kept of a text; `Source.found` says how many texts are cut.
        who: names the data in messages.

    Raises:
        DataError: a text or a label that cannot be used, with where it stands; a class without training or test
            examples.
    """
    every = [row for part in rows.values() for row in part]
    check_rows(every)
    labels = _Numbers("label", every, class_names, who)
    domains = (
        _Numbers("domain", every, domain_names, who) if any(row.domain is not None for row in every) else None
    )
    sizes = [len(row.text.encode()) for row in every]
    width = min(max(sizes, default=1), longest)
    pools = {
        split: Pool(pack([row.text for row in part], width), torch.from_numpy(labels.of(part)))
        for split, part in rows.items()
    }
    for split, others in (("train", "test"), ("test", "train"), ("valid", "train")):
        if split in pools:
            lacking = sorted(set(pools[split].y.tolist()) - set(pools[others].y.tolist()))
            if lacking:
                raise DataError(
                    f"{who}: the class '{labels.names[lacking[0]]}' is in the {split} texts and not among those of "
                    f"{others}; every class needs training and test texts."
                )
    cut = sum(size > longest for size in sizes)
    told = f"{cut:,} of {len(sizes):,} texts are cut to their first {longest:,} bytes."
    return Source(
        pools["train"],
        pools["test"],
        labels.names,
        None if domains is None else domains.of(rows["train"]),
        None if domains is None else domains.of(rows["test"]),
        () if domains is None else domains.names,
        scale=1.0,  # bytes are no brightness
        mean=(0.0,),
        std=(1.0,),
        valid=pools.get("valid"),
        domain_valid=None if domains is None or "valid" not in rows else domains.of(rows["valid"]),
        found=(told,) if cut else (),
    )


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows whose texts, labels or domains cannot be used.

    Raises:
        DataError: names where the row stands, and what is wrong.
    """
    for row in rows:
        if not isinstance(row.text, str):
            raise DataError(f"{row.where}: a text is expected; {row.text!r} is none.")
        if not row.text.strip():
            raise DataError(f"{row.where}: the text is empty; remove the row, or write what is missing.")
        if "\0" in row.text:
            raise DataError(f"{row.where}: the text holds the character U+0000, which ends texts; remove it.")
        for what in ("text", "label", "domain"):
            try:
                str(getattr(row, what)).encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{row.where}: the {what} is no Unicode: {error.reason} at character {error.start}."
                ) from error
    with_domains = any(row.domain is not None for row in rows)
    for what in ("label", "domain") if with_domains else ("label",):
        first: Any = None
        known: dict[Any, Row] = {}  # by what stands between spaces
        for row in rows:
            value = getattr(row, what)
            if value is None or not str(value).strip():
                raise DataError(f"{row.where}: the {what} is missing.")
            if type(value) not in (str, int):
                raise DataError(f"{row.where}: a {what} is a name or a whole number; {value!r} is neither.")
            if first is not None and type(value) is not type(getattr(first, what)):
                raise DataError(
                    f"{row.where}: the {what} is {value!r}, and that of {first.where} is {getattr(first, what)!r}; "
                    "write all as names, or all as whole numbers."
                )
            other = known.setdefault(value.strip() if isinstance(value, str) else value, row)
            if (before := getattr(other, what)) != value:
                raise DataError(
                    f"{row.where}: the {what} is {value!r}, and that of {other.where} is {before!r}; they differ by "
                    "spaces alone. Write them alike."
                )
            first = first or row


class _Numbers:
    """Labels or domains by number, of those that rows have."""

    def __init__(self, what: str, rows: Sequence[Row], listed: Sequence[str], who: str) -> None:
        self.what = what
        names = {str(getattr(row, what)) for row in rows}
        if listed:
            if strange := sorted(names - set(listed)):
                raise DataError(
                    f"{who}: the {what} '{strange[0]}' is none of the {len(listed)} that are listed."
                )
            if len(set(listed)) < len(listed):
                twice = next(name for name in listed if list(listed).count(name) > 1)
                raise DataError(f"{who}: '{twice}' is listed twice.")
            if idle := [name for name in listed if name not in names]:
                raise DataError(f"{who}: the {what} '{idle[0]}' is listed, and no text has it; leave it out.")
        numbers = all(name.removeprefix("-").isdecimal() for name in names)  # 10 comes after 9
        self.names = tuple(listed) or tuple(sorted(names, key=int if numbers else str))
        self._number = {name: i for i, name in enumerate(self.names)}

    def of(self, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
        """(N,) the numbers of rows."""
        return np.array([self._number[str(getattr(row, self.what))] for row in rows], dtype=np.int64)


def text_benchmark(
    source: Source, *, train_per_class: int | None = None, test_per_class: int | None = None, **params: Any
) -> Benchmark:
    """Return the benchmark of a data set of texts.

    Args:
        train_per_class, test_per_class: the first so many of each class, and of each domain of it, in the order of the
            data; all if None.
        params: those of `build`.
    """
    for split, most in (("train", train_per_class), ("test", test_per_class)):
        if most is not None:
            source = first_of_each(source, split, most, "texts")
    return replace(build(source, **params), texts=True)


def by_domain(source: Source, order: Any, seed: int) -> list[list[int]]:
    """Return the classes of each domain, a list for each, in an order of domains.

    Raises:
        ConfigError: the data have no domains, or a class is of two of them.
    """
    if source.domain_train is None:
        raise ConfigError("Experiences by domain need the domain of every text, and the data have none.")
    y, of_class = source.train.y.numpy(), dict[int, int]()
    for c, d in zip(y.tolist(), source.domain_train.tolist(), strict=True):
        if of_class.setdefault(c, d) != d:
            raise ConfigError(
                f"Experiences by domain need classes of one domain each; '{source.class_names[c]}' is of "
                f"'{source.domain_names[of_class[c]]}' and '{source.domain_names[d]}'. shift=domain makes one "
                "experience of each domain, with the same classes."
            )
    domains = ordered("domain", np.unique(source.domain_train), order, seed)
    return [sorted(c for c, d in of_class.items() if d == domain) for domain in domains.tolist()]


@pinned()
@validated
def from_texts(
    texts_train: Any,
    y_train: Any,
    texts_test: Any,
    y_test: Any,
    *,
    texts_valid: Any = None,
    y_valid: Any = None,
    class_names: Sequence[str] = (),
    longest: int = LONGEST,
    name: str = "texts",
    **params: Any,
) -> Benchmark:
    """A benchmark from lists of texts, to be learned by a model that reads them, such as `minilm`.

    Args:
        texts_train, texts_test: strings, none of them empty.
        y_train, y_test: a label for each, all names or all whole numbers.
        texts_valid, y_valid: of the validation stream, where the data have their own.
        class_names: the labels in the order that numbers them; alphabetical, or ascending, if none is given.
        longest: bytes that are kept of a text.
        name: of the benchmark, in records.
        params: the others of `from_arrays`: `experiences`, `shift`, `class_order`, `seed`, …; and `train_per_class` and
            `test_per_class`, for the first so many texts of each class.

    Raises:
        DataError: a text or a label that cannot be used; says which.
        ConfigError: a parameter that does not fit.
    """
    given = {"train": (texts_train, y_train), "test": (texts_test, y_test)}
    if (texts_valid is None) != (y_valid is None):
        raise DataError(f"{name}: texts_valid and y_valid go together; only one of them was given.")
    if texts_valid is not None:
        given["valid"] = texts_valid, y_valid
    rows = {}
    for split, parts in given.items():
        texts, labels = map(_values, parts)
        if len(texts) != len(labels) or not texts:
            raise DataError(
                f"{name}: texts_{split} and y_{split} need one label for each text, and one text at least; they have "
                f"{len(texts)} and {len(labels)}."
            )
        pairs = enumerate(zip(texts, labels, strict=True))
        rows[split] = [Row(f"{name}: texts_{split}[{i}]", text, label) for i, (text, label) in pairs]
    source = text_source(rows, class_names=class_names, longest=longest, who=name)
    return text_benchmark(source, name=name, **params)


def _values(part: Any) -> list[Any]:
    """Return what an array, or a list perhaps of NumPy's scalars, holds, in Python's own types."""
    values = part.tolist() if hasattr(part, "tolist") else part
    return [value.item() if isinstance(value, np.generic) else value for value in values]


@functools.cache
def intents(name: str) -> Source:
    """Return an embedded data set of what people want from an assistant: clinc150 or banking77.

    Its licence lies beside it, and is in the file.
    """
    data = json.loads(lzma.decompress((EMBEDDED / f"{name}.json.xz").read_bytes()))
    domains, of = data.get("domains", ()), data.get("domain_of")
    rows = {
        split: [
            Row(f"{name} {split} {i}", text, data["classes"][c], None if of is None else domains[of[c]])
            for i, (text, c) in enumerate(zip(data[split]["texts"], data[split]["labels"], strict=True))
        ]
        for split in ("train", "test", "valid")
        if split in data
    }
    return text_source(rows, class_names=data["classes"], domain_names=domains, who=name)
