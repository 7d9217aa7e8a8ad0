"""The values that flow through clbench. All are frozen; none knows the engine.

Shapes: N examples of a data set, B of a batch, C classes, D features; `…` is the shape of one input,
channels first for images.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import ConfigError, IncompatibleError
from clbench.files.mapped import Mapped
from clbench.files.names import name_mistake, version_mistake

if TYPE_CHECKING:
    from clbench.transforms.augment import Transform
    from clbench.transforms.tokens import AnyTokenizer

HIDDEN = -1
"""The task label of a row whose task the learner may not know."""

IGNORED = -1
"""The label of a position that does not count, where every position of an example has one."""

MASKED = -1e4
"""Logit of another task's class. Finite, so that differences and 0 · log 0 stay numbers; softmax 0 in float32."""


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from: rows of the stream first, then the rows that parts have added.

    Attributes:
        x: (B, …) float, augmented and normalised, what the model sees.
        y: (B,) int64 labels; (B, L), one for each position, of language.
        task: (B,) int64 task labels, `HIDDEN` where the setting tells none.
        raw: (B, …) as stored in the data set, before augmentation: what a memory may keep.
        index: (B,) int64 row of each example in its experience's data; −1 for rows that are not of it.
        view: (B,) int64, 0 for the first view of an example, 1, 2 … for further ones.
        new: how many rows come from the stream; they are the first ones, so `batch.x[:batch.new]`
            selects them without asking the device.
        first: (n,) int64, which of the stream's rows are first views; None where all are (`firsts`).
    """

    x: Tensor
    y: Tensor
    task: Tensor
    raw: Tensor
    index: Tensor
    view: Tensor
    new: int
    first: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<Batch: {len(self)} examples {_times(self.x.shape[1:])}, {self.new} of the stream>"

    @property
    def replayed(self) -> Tensor:
        """(B,) bool, true for rows that a part has added."""
        return torch.arange(len(self), device=self.y.device) >= self.new

    def stream(self) -> Batch:
        """Return the rows that come from the stream, without those that parts have added."""
        if self.new == len(self.y):
            return self
        n = self.new
        rows = (self.x, self.y, self.task, self.raw, self.index, self.view)
        x, y, task, raw, index, view = (tensor[:n] for tensor in rows)
        return Batch(x, y, task, raw, index, view, n, self.first)

    def firsts(self, values: Tensor) -> Tensor:
        """Return those of the values (B, …), one per row, that belong to the first view of an example of the stream."""
        rows = values[: self.new]
        return rows if self.first is None else rows.index_select(0, self.first)

    def examples(self) -> dict[str, Tensor]:
        """Return what a memory takes of a batch: `x` as stored, `y` and `task` of the stream's examples, each once."""
        return {"x": self.firsts(self.raw), "y": self.firsts(self.y), "task": self.firsts(self.task)}

    def join(self, x: Tensor, y: Tensor, task: Tensor, raw: Tensor) -> Batch:
        """This batch with further rows that are not of the stream.

        Args:
            x: (M, …) float inputs as the model sees them.
            y: (M,) int64 labels.
            task: (M,) int64 task labels.
            raw: (M, …) the inputs as stored.
        """
        outside = torch.full_like(task, -1)
        return Batch(
            torch.cat([self.x, x]),
            torch.cat([self.y, y]),
            torch.cat([self.task, task]),
            torch.cat([self.raw, raw]),
            torch.cat([self.index, outside]),
            torch.cat([self.view, torch.zeros_like(task)]),
            self.new,
            self.first,
        )

    def with_x(self, x: Tensor) -> Batch:
        """This batch with other inputs, row for row."""
        return replace(self, x=x)


@dataclass(frozen=True, slots=True)
class Output:
    """What the model says of a batch: logits (B, C) and features (B, D), both float32 whatever the precision.

    Of language, (B, L, C) and (B, L, D)."""

    logits: Tensor
    features: Tensor

    def __repr__(self) -> str:
        return f"<Output: logits {_times(self.logits.shape)}, features {_times(self.features.shape)}>"

    def cross_entropy(self, y: Tensor) -> Tensor:
        """() the mean of −log p(y|x) over labels (B,), or (B, L) that are not `IGNORED`; p = softmax(logits)."""
        return F.cross_entropy(self.logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED)


class LateOutput(Output):
    """An output whose logits are computed when they are first asked for.

    A head with `log_prob`, such as one that spells labels, gives it: to say how probable one label is costs such a
    head far less than to score them all.

    Args:
        features: (B, D).
        score: () → (B, C) logits.
        log_prob: (B, 1) labels → (B, 1) log p(y|x).
        weight: a parameter of the head; once it has changed, the logits of this output are gone.
    """

    __slots__ = ("_late",)
    _late: _Late

    def __init__(
        self,
        features: Tensor,
        score: Callable[[], Tensor],
        log_prob: Callable[[Tensor], Tensor],
        weight: Tensor,
    ) -> None:
        object.__setattr__(self, "features", features)
        late = _Late(score, log_prob, weight, weight._version, torch.is_grad_enabled())
        object.__setattr__(self, "_late", late)

    def __repr__(self) -> str:
        return f"<Output: logits on request, features {_times(self.features.shape)}>"

    @property
    def logits(self) -> Tensor:
        """(B, C) float32.

        Raises:
            IncompatibleError: they are asked for after an update, when another model would answer.
        """
        late = self._late
        if late.found is None:
            if late.weight._version != late.version:
                raise IncompatibleError(
                    "The logits of all labels, which this model computes on request only, are asked for after the "
                    "update; a strategy that stores logits needs a model with an output for each label."
                )
            with torch.set_grad_enabled(late.grad):
                late.found = late.score()
        return late.found

    def cross_entropy(self, y: Tensor) -> Tensor:
        """() the mean of −log p(y|x) over rows with labels (B,)."""
        return -self._late.log_prob(y.unsqueeze(1)).mean()


@dataclass(slots=True)
class _Late:
    """What a `LateOutput` needs to compute its logits, or them."""

    score: Callable[[], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    weight: Tensor
    version: int
    grad: bool
    found: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """The rows of an experience in the order of one pass: rows (n,) int64 and, where an example comes in
    several views, view (n,) int64."""

    rows: Tensor
    view: Tensor | None = None

    def __repr__(self) -> str:
        return f"<Order: {len(self.rows)} rows>"


class Change(Protocol):
    """What a domain does to raw inputs, in exact integers; a method `shape` tells which shape they get, if another."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, …) → (N, …), same dtype."""
        ...

    def describe(self) -> dict[str, object]:
        """Return a JSON-able description that determines the change; it enters the fingerprint."""
        ...


@dataclass(frozen=True, eq=False)
class Pool:
    """All examples of a data set's split, shared by every experience that takes rows of it.

    Attributes:
        x: (P, …) uint8 images, float32 features, or int64 tokens or features; may be a memory map of a file.
        y: (P,) int64 labels; (P, L) of language.
        file: what x is a memory map of; None where it is none.
        also: (P, R) int64, further labels that are right, −1 where there is none; None where every example has one.
    """

    x: Tensor
    y: Tensor
    file: Mapped | None = None
    also: Tensor | None = None

    @staticmethod
    def mapped(file: Mapped, y: Tensor) -> Pool:
        """Inputs that lie in a file, read when they are asked for."""
        return Pool(torch.from_numpy(file.open()), y, file)

    def __reduce__(self) -> tuple[Callable[..., Pool], tuple[object, ...]]:
        """A worker process opens a mapped file itself: being sent the map would copy it to shared memory."""
        if self.file is not None:
            return Pool.mapped, (self.file, self.y)
        return Pool, (self.x, self.y, None, self.also)

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"a pool needs one label per example; it has {len(self.x)} examples, {len(self.y)} labels"
            )

    def __repr__(self) -> str:
        return f"<Pool: {len(self.x)} examples {_times(self.x.shape[1:])} {self.x.dtype}>"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shape, dtype and bytes of inputs and labels."""
        sha = hashlib.sha256()
        for tensor in (self.x, self.y, *(() if self.also is None else (self.also,))):
            sha.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            for chunk in tensor.split(4096):  # a memory map need not fit into memory
                sha.update(memoryview(chunk.contiguous().numpy()).cast("B"))
        return sha.hexdigest()

    @cached_property
    def hashes(self) -> Tensor:
        """(P,) int64 of each input's bytes: equal for equal ones; two others share one by a chance of 2⁻³³ at most."""
        width = self.x[:1].numel() * self.x.element_size()
        words = -(-width // 4)
        keys = np.random.PCG64(0).random_raw(words) | np.uint64(1)
        found = np.empty(len(self.x), dtype=np.uint64)
        start = 0
        for chunk in self.x.split(
            max(1, (1 << 22) // max(width, 1))
        ):  # a memory map need not fit into memory
            raw = chunk.reshape(len(chunk), -1).contiguous().view(torch.uint8).numpy()
            padded = np.pad(raw, ((0, 0), (0, 4 * words - width))) if width % 4 else raw
            found[start : start + len(chunk)] = padded.view(np.uint32) @ keys
            start += len(chunk)
        return torch.from_numpy(found.view(np.int64))


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of one or more pools, each with what its domain does to them; nothing is copied until asked for.

    Attributes:
        parts: (pool, rows (n,) int64, change or None) in order; the examples of the parts are concatenated.
    """

    parts: tuple[tuple[Pool, Tensor, Change | None], ...]

    def __repr__(self) -> str:
        return f"<Data: {len(self)} examples>"

    @staticmethod
    def of(pool: Pool, rows: Tensor, change: Change | None = None) -> Data:
        """Return the rows (n,) of one pool, under one change."""
        return Data(((pool, rows, change),))

    @staticmethod
    def union(data: Sequence[Data]) -> Data:
        """Return all examples of several data, in order."""
        return Data(tuple(part for d in data for part in d.parts))

    def __len__(self) -> int:
        return sum(len(rows) for _, rows, _ in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs, were they gathered."""
        size = torch.Size(self.input_shape).numel() if self.parts else 0
        return sum(len(rows) * size * pool.x.element_size() for pool, rows, _ in self.parts)

    @property
    def input_shape(self) -> tuple[int, ...]:
        pool, _, change = self.parts[0]
        return tuple(getattr(change, "shape", tuple)(pool.x.shape[1:]))

    def x(self) -> Tensor:
        """(N, …) the inputs as stored, gathered anew at each call."""
        gathered = [
            change(pool.x[rows]) if change is not None else pool.x[rows] for pool, rows, change in self.parts
        ]
        return gathered[0] if len(gathered) == 1 else torch.cat(gathered)

    def y(self) -> Tensor:
        """(N,) int64 labels."""
        return torch.cat([pool.y[rows] for pool, rows, _ in self.parts])

    def also(self) -> Tensor | None:
        """(N, R) int64 further labels that are right, −1 where there is none; None where every example has one."""
        found = [(len(rows), None if pool.also is None else pool.also[rows]) for pool, rows, _ in self.parts]
        width = max((0 if also is None else also.shape[1] for _, also in found), default=0)
        if not width:
            return None
        table = torch.full((len(self), width), -1)
        start = 0
        for n, also in found:
            if also is not None:
                table[start : start + n, : also.shape[1]] = also
            start += n
        return table

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples at `index` (n,): inputs (n, …) and labels (n,), touching no other example."""
        if len(self.parts) == 1:
            pool, rows, change = self.parts[0]
            chosen = rows[index]
            x = pool.x[chosen]
            return (change(x) if change is not None else x), pool.y[chosen]
        sizes = torch.tensor([len(rows) for _, rows, _ in self.parts])
        ends = sizes.cumsum(0)
        which = torch.searchsorted(ends, index, right=True)
        x = torch.empty((len(index), *self.input_shape), dtype=self.parts[0][0].x.dtype)
        y = torch.empty((len(index), *self.parts[0][0].y.shape[1:]), dtype=torch.int64)
        for p in which.unique().tolist():
            at = (which == p).nonzero().squeeze(1)
            start = int(ends[p] - sizes[p])
            x[at], y[at] = Data((self.parts[p],)).take(index[at] - start)
        return x, y

    def subset(self, index: Tensor) -> Data:
        """Return the examples at sorted `index` (n,), still not copied."""
        parts, start = [], 0
        for pool, rows, change in self.parts:
            inside = index[(index >= start) & (index < start + len(rows))] - start
            if len(inside):
                parts.append((pool, rows[inside], change))
            start += len(rows)
        return Data(tuple(parts))

    def describe(self, sha: hashlib._Hash) -> None:
        """Feed what determines these examples into a hash."""
        for pool, rows, change in self.parts:
            sha.update(pool.digest.encode())
            sha.update(rows.to(torch.int64).contiguous().numpy().tobytes())
            sha.update(json.dumps(change.describe() if change is not None else None, sort_keys=True).encode())


@dataclass(frozen=True, eq=False)
class Experience:
    """One segment of a stream.

    Attributes:
        index: position in the stream, from 0.
        classes: the classes it holds, sorted.
        data: its examples.
        task: the task label; the learner sees it only where the setting tells.
        domain: name of the domain, in domain-incremental streams.
        tests: which experiences of the test stream count as seen from here on; its own one by default.
        documents: of a retrieval stream, how many of its examples, the first ones, are documents, and no queries.
        ordered: that its examples come in the order of the data. Otherwise every pass shuffles them.
    """

    index: int
    classes: tuple[int, ...]
    data: Data
    task: int = HIDDEN
    domain: str | None = None
    tests: tuple[int, ...] = ()
    documents: int | None = None
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.tests:
            object.__setattr__(self, "tests", (self.index,))

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        of = f", domain {self.domain!r}" * (self.domain is not None)
        return f"<Experience {self.index}: {len(self)} examples of {len(self.classes)} classes{of}>"


@dataclass(frozen=True, eq=False)
class Stream(Sequence[Experience]):
    """An ordered sequence of experiences: `train`, `valid` or `test`."""

    name: str
    experiences: tuple[Experience, ...]

    def __len__(self) -> int:
        return len(self.experiences)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's two overloads say it all
        return self.experiences[index]

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def __repr__(self) -> str:
        return f"<Stream {self.name}: {len(self)} experiences, {sum(map(len, self))} examples>"


NEEDS = {
    "boundaries": "to be told when an experience ends",
    "task labels": "to be told the task of every example",
    "memory": "to keep past examples",
    "several passes": "to see an experience more than once",
    "past data": "all data of past experiences, which only a bound may have",
    "documents": "to be told which examples are documents and which are queries",
    "language": "blocks of tokens, with a label for each of them",
}
"""What a strategy can need of a setting, and what each need means."""


@dataclass(frozen=True)
class Setting:
    """What the learner is told and granted.

    Attributes:
        shift: what changes between experiences: the classes, the domain, or the task with its label.
        boundaries: whether the learner is told when an experience begins and ends.
        task_labels: who sees task labels: nobody, training only, or training and test.
        passes: passes over an experience that are allowed; 1 is online, None leaves it to the run.
        memory: raw examples a strategy may keep; 0 is rehearsal-free, None leaves it to the strategy.
        documents: whether it is about retrieval: classes are documents, examples are documents and queries in tokens,
            and experiences tell which (`Experience.documents`). Documents that have not come yet are no answers.
        language: whether classes are tokens, examples blocks of them, and every position has the next one as its label.
    """

    shift: Literal["class", "domain", "task"] = "class"
    boundaries: bool = True
    task_labels: Literal["never", "train", "always"] = "never"
    passes: int | None = None
    memory: int | None = None
    documents: bool = False
    language: bool = False

    def offers(self) -> frozenset[str]:
        """Return the needs (`NEEDS`) that this setting meets. Past data is granted to bounds everywhere."""
        met = {
            "boundaries": self.boundaries,
            "task labels": self.task_labels != "never",
            "memory": self.memory is None or self.memory > 0,
            "several passes": self.passes is None or self.passes > 1,
            "past data": True,
            "documents": self.documents,
            "language": self.language,
        }
        return frozenset(need for need, given in met.items() if given)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Streams, a setting and the metric that ranks: everything that two runs must share to be compared.

    Attributes:
        name, version: a change of data, split or order that may move numbers raises the version.
        setting: what the learner is told and granted.
        train, test, valid: the streams; experience i of `test` measures what experience i of `train` teaches.
        num_classes: C, over the whole stream.
        transform: normalisation and training-time augmentation.
        primary: key of the metric that ranks strategies, that tuning maximises and that tables lead with; the one that
            it is registered with.
        seed: the seed of the stream (class order, permutations …), 0 where it draws nothing.
        class_names: for people.
        notes: what it is, for people; records have it as `about`.
        memorise: that the test stream asks for the training examples themselves, to see how well they can be fitted.
        tokenizer: between texts and inputs, where the inputs are tokens that one has made.
        metrics: keys of metrics that its tables show beside those of every table, and its records hold.
        found: what was found in the data when they were read, such as the layout of a folder; sentences, for records.
        duplicates: how many examples are known to be byte-identical to another one, as in some published data sets;
            `clbench check` lets streams share so many.
        prequential: that every batch is predicted before it is learned, for metrics of predictions; one pass only.
        texts: that the inputs are bytes of texts (`clbench.transforms.utf8`), which the model makes its tokens of.
    """

    name: str
    version: int
    setting: Setting
    train: Stream
    test: Stream
    num_classes: int
    transform: Transform
    valid: Stream | None = None
    primary: str = "average_accuracy"
    seed: int = 0
    class_names: tuple[str, ...] = ()
    notes: str = ""
    memorise: bool = False
    tokenizer: AnyTokenizer | None = None
    metrics: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    duplicates: int = 0
    texts: bool = False
    prequential: bool = False

    def __post_init__(self) -> None:
        if wrong := name_mistake(self.name) or version_mistake(self.version):
            raise ConfigError(f"A benchmark cannot be made: {wrong}.")

    def __repr__(self) -> str:
        return (
            f"<Benchmark {self.name}@{self.version}: {len(self.train)} experiences, {self.num_classes} classes, "
            f"inputs {_times(self.input_shape)}, {self.setting.shift}-incremental>"
        )

    def describe(self) -> Any:
        """Return what it is made of, a `Description` to print or to see in a notebook: its setting, and the classes,
        counts and domain of every experience of its streams. It reads all examples."""
        return pkgutil.resolve_name("clbench.reports.display.benchmarks:describe")(self)

    def _repr_html_(self) -> str:
        return str(self.describe()._repr_html_())

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input as the network gets it; `experience.data.input_shape` is that of a stored one."""
        return self.transform.shape(self.train.experiences[0].data.input_shape)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over data bytes, split indices, class order, domains, augmentation and setting.

        Two benchmarks with the same fingerprint are the same, on any machine.
        """
        sha = hashlib.sha256(b"clbench benchmark 1")
        setting = self.setting
        sha.update(
            json.dumps(
                {
                    "setting": [
                        setting.shift,
                        setting.boundaries,
                        setting.task_labels,
                        setting.passes,
                        setting.memory,
                    ],
                    "classes": self.num_classes,
                    "transform": self.transform.describe(),
                },
                sort_keys=True,
            ).encode()
        )
        for stream in (self.train, self.test, self.valid):
            for exp in stream or ():
                told = [exp.index, exp.classes, exp.task, exp.domain, exp.tests]
                sha.update(json.dumps(told if exp.documents is None else [*told, exp.documents]).encode())
                if exp.ordered:
                    sha.update(b"ordered")
                exp.data.describe(sha)
        return sha.hexdigest()
