"""What a benchmark is made of: its setting, and the classes, counts and domain of every experience of its streams."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench.data.duplicates import remarks
from clbench.files.names import printable
from clbench.reports import frame
from clbench.reports.display import sheets
from clbench.reports.display.frames import data_frame
from clbench.reports.display.html import embedded, fragment
from clbench.reports.markup import tag
from clbench.reports.tables import Column, Text
from clbench.results.columns import Ints
from clbench.types import IGNORED, Benchmark, Experience, Stream

if TYPE_CHECKING:
    from pandas import DataFrame

FEW = 5
"""Classes of an experience that a line names."""
MOST = 20
"""Classes up to which each has a line of its own as text; a notebook shows up to `MOST_HTML` of them, folded."""
MOST_HTML = 1000
WORDS = ("stream", "domain", "classes", "class")
"""Columns of words."""


def describe(benchmark: Benchmark) -> Description:
    """Return `Benchmark.describe`."""
    return Description(benchmark)


@dataclass(frozen=True, eq=False, repr=False)
class Description:
    """What a benchmark is made of; as text, in a notebook, as data frame, as JSON, and as pictures.

    Attributes:
        benchmark: that it describes.
    """

    benchmark: Benchmark

    @property
    def streams(self) -> list[Stream]:
        """Those that there are, of training, validation and test."""
        of = self.benchmark
        return [stream for stream in (of.train, of.valid, of.test) if stream is not None]

    @cached_property
    def counts(self) -> dict[str, list[Ints]]:
        """Stream → for each experience, the examples (C,) of each class; of language, how often a token is a label."""
        C = self.benchmark.num_classes

        def of(exp: Experience) -> Ints:
            y = exp.data.y()
            return np.bincount(y[y != IGNORED].numpy(), minlength=C)

        return {stream.name: [of(exp) for exp in stream] for stream in self.streams}

    @cached_property
    def notes(self) -> list[str]:
        """What was found in the data, in sentences: how they were read, and whether tests were trained on."""
        return remarks(self.benchmark)

    @cached_property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number of the training inputs, as stored."""
        pools = {id(pool): pool for exp in self.benchmark.train for pool, _, _ in exp.data.parts}
        ends = [chunk.aminmax() for pool in pools.values() for chunk in pool.x.split(4096)]
        return float(min(low for low, _ in ends)), float(max(high for _, high in ends))

    @property
    def setting(self) -> str:
        """What the learner is told and granted, in a sentence."""
        of = self.benchmark.setting
        told = {
            "never": "task labels are never told",
            "train": "task labels are told in training",
            "always": "task labels are always told",
        }
        parts = [
            f"{of.shift}-incremental",
            f"boundaries are {'told' if of.boundaries else 'not told'}",
            told[of.task_labels],
        ]
        if of.passes is not None:
            parts.append("one pass over each experience" if of.passes == 1 else f"{of.passes} passes at most")
        if of.memory is not None:
            parts.append(f"{of.memory} stored examples at most" if of.memory else "no stored examples")
        if of.documents:
            parts.append("classes are documents")
        if of.language:
            parts.append("classes are tokens, and each is told from those before it in its block")
        return ", ".join(parts)

    @property
    def inputs(self) -> str:
        """Type, range and bytes of the inputs, in a sentence."""
        low, high = self.range
        size = sum(exp.data.nbytes for stream in self.streams for exp in stream)
        told = f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
        kind = str(self.benchmark.train[0].data.parts[0][0].x.dtype).removeprefix("torch.")
        return f"{kind} from {low:,.6g} to {high:,.6g}, {told} in all"

    def __repr__(self) -> str:
        lines = [self._head, *(f"  {line}" for line in self._lines)]
        tables = [self._experiences, *([self._classes] if self.benchmark.num_classes <= MOST else [])]
        return "\n".join([*lines, *("\n" + _text(table) for table in tables)])

    def _repr_html_(self) -> str:
        parts = [
            tag("p", tag("b", self._head)),
            *(tag("p", line, class_="note") for line in self._lines),
            frame.table(self._experiences, [{}] * len(self._experiences[0].texts)),
        ]
        if self.benchmark.num_classes <= MOST_HTML and not self.benchmark.setting.language:
            classes = frame.table(self._classes, [{}] * self.benchmark.num_classes)
            parts.append(tag("details", tag("summary", "examples of each class"), classes))
        if sheets.pictured(self.benchmark):
            parts.append(embedded(sheets.sheet(self.benchmark, rows=10, columns=12), sheets.CAPTION))
        return fragment(*parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the same as JSON can hold it."""
        of = self.benchmark
        return {
            "benchmark": {"name": of.name, "version": of.version, "fingerprint": of.fingerprint},
            "setting": {key: getattr(of.setting, key) for key in ("shift", "boundaries", "task_labels")},
            "input_shape": of.input_shape,
            "range": self.range,
            "classes": of.class_names or of.num_classes,
            "streams": {
                stream.name: [
                    {
                        "classes": exp.classes,
                        "domain": exp.domain,
                        "examples": len(exp),
                        **({"tokens": int(counts.sum())} if of.setting.language else {}),
                        "counts": [int(counts[c]) for c in exp.classes],
                    }
                    for exp, counts in zip(stream, self.counts[stream.name], strict=True)
                ]
                for stream in self.streams
            },
            "notes": self.notes,
        }

    def to_pandas(self) -> DataFrame:
        """Return a data frame with one row for each class of each experience of each stream.

        Its columns are `stream`, `experience`, `domain`, `class` (its number), `name`, and `examples`.

        Raises:
            ConfigError: pandas is not installed.
        """
        lines = [
            (stream.name, exp.index, exp.domain, c, self._name(c), int(counts[c]))
            for stream in self.streams
            for exp, counts in zip(stream, self.counts[stream.name], strict=True)
            for c in exp.classes
        ]
        names = ("stream", "experience", "domain", "class", "name", "examples")
        return data_frame(dict(zip(names, map(list, zip(*lines, strict=True)), strict=True)))

    def sheet(self, path: str | os.PathLike[str]) -> Path:
        """Write a contact sheet as PNG: a row of training images for each experience, by class.

        Raises:
            DataError: its inputs are no images.
        """
        return sheets.write(self.benchmark, path)

    # --- tables ---

    @property
    def _head(self) -> str:
        of = self.benchmark
        shape = " × ".join(map(str, of.input_shape))
        return f"{of.id}: inputs {shape}, {of.num_classes} {'tokens' if of.setting.language else 'classes'}"

    @property
    def _lines(self) -> list[str]:
        return [*self.notes, self.setting, self.inputs]

    @property
    def _experiences(self) -> list[Column]:
        if self.benchmark.setting.language:
            told = [
                (stream.name, str(exp.index + 1), exp.domain or "—", f"{len(exp):,}", f"{counts.sum():,}")
                for stream in self.streams
                for exp, counts in zip(stream, self.counts[stream.name], strict=True)
            ]
            return _columns(("stream", "experience", "domain", "blocks", "tokens"), told)
        rows = [
            (
                stream.name,
                str(exp.index + 1),
                f"{len(exp):,}",
                exp.domain or "—",
                _span(counts),
                self._named(exp),
            )
            for stream in self.streams
            for exp, counts in zip(stream, self.counts[stream.name], strict=True)
        ]
        return _columns(("stream", "experience", "examples", "domain", "of a class", "classes"), rows)

    @property
    def _classes(self) -> list[Column]:
        totals = {name: np.sum(counts, axis=0) for name, counts in self.counts.items()}
        rows = [
            (self._name(c), *(f"{total[c]:,}" for total in totals.values()))
            for c in range(self.benchmark.num_classes)
        ]
        return _columns(("class", *totals), rows)

    def _name(self, c: int) -> str:
        names = self.benchmark.class_names
        return names[c] if names else str(c)

    def _named(self, exp: Experience) -> str:
        few = ", ".join(map(self._name, exp.classes[:FEW]))
        return few + (f" and {len(exp.classes) - FEW} more" if len(exp.classes) > FEW else "")


def _span(counts: Ints) -> str:
    """Return how many examples a class has, of those that have any: `142–146`."""
    some = counts[counts > 0]
    low, high = (int(some.min()), int(some.max())) if len(some) else (0, 0)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Column]:
    cells = zip(*rows, strict=True)
    return [
        Column(head, tuple(map(Text, texts)), words=head in WORDS)
        for head, texts in zip(heads, cells, strict=True)
    ]


def _text(columns: Sequence[Column]) -> str:
    """Columns as aligned lines, words to the left and numbers to the right."""
    found = []
    for column in columns:
        texts = [
            printable(text).replace("\n", " ") for text in (column.head, *(of.text for of in column.texts))
        ]
        width = max(map(len, texts))
        found.append([text.ljust(width) if column.words else text.rjust(width) for text in texts])
    return "\n".join(("  " + "  ".join(row)).rstrip() for row in zip(*found, strict=True))
