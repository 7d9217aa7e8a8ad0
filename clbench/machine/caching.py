"""What a network that stays as it is says of a test example: computed once, and kept.

Evaluation asks the same test examples again and again. A part that knows a network to stay as it is says so where it
uses it, and evaluation then asks that network once for each example:

    features = once("features", self.inner, x, self.inner)

Elsewhere, in training for example, this is `self.inner(x)`. That the network has stayed is not believed: before
every evaluation its parameters and buffers are compared with what they were, and where a bit has changed all is
computed anew. Examples go through in the portions of the evaluation itself, so the bits are those of one that keeps
nothing.

Shapes: N examples of a test set, n of them in one forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

LIMIT = 256 << 20
"""Bytes that are kept for one test set. An answer that would not fit in whole is not kept at all."""


def once(name: str, network: nn.Module, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute(x)`; for test examples what it gave when it was first asked for them, if `network` is still the same.

    What `compute` gives for an example may depend on nothing but the example and the parameters and buffers of
    `network`, which is in eval mode. The contract's check `once` finds what else it depends on.

    Args:
        name: tells several answers of one network apart.
        network: stays as it is; one that asks itself once, and says so by `asked_once`, is simply asked.
        x: (n, …) the very tensor that the model was given; another one is never kept.
        compute: inputs (m, …) → (m, …), row by row.
    """
    asked = _asked.get()
    if asked is None or x is not asked.x or torch.is_grad_enabled() or getattr(network, "asked_once", False):
        return compute(x)
    return asked.answer(name, network, compute)


class Inputs(Protocol):
    """The inputs of N examples, a tensor (N, …) or what makes one of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


class Kept:
    """All that one evaluator keeps. A copy of it begins with nothing."""

    def __init__(self) -> None:
        self.networks: dict[nn.Module, _Network] = {}
        self.answers: WeakKeyDictionary[Any, dict[tuple[str, nn.Module], _Answers]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    @contextlib.contextmanager
    def evaluating(self, test: object, everyone: Inputs, portion: int) -> Iterator[Asked]:
        """Begin an evaluation: inside, `once` answers for the rows that `Asked.show` has last shown.

        Args:
            test: whose answers are kept as long as it is.
            everyone: its inputs.
            portion: rows of a forward pass.
        """
        asked = Asked(self, self.answers.setdefault(test, {}), everyone, portion)
        token = _asked.set(None if _nothing.get() else asked)
        try:
            yield asked
        finally:
            _asked.reset(token)

    def inherit(self, before: object, after: object, sizes: tuple[int, int], portion: int) -> None:
        """Keep what is known of one test set for another that begins with its examples, too.

        Portions that lie in both as a whole are taken over, so that each is still computed as it would have been.

        Args:
            sizes: those of the two.
            portion: rows of a forward pass, in both.
        """
        same = sizes[0] // portion
        heir = self.answers.setdefault(after, {})
        for asked, known in self.answers.get(before, {}).items():
            answers = _Answers(known.version)
            if known.values is None or not _hold(heir, answers, known.values, sizes[1]):
                continue
            assert answers.values is not None
            answers.values[: same * portion] = known.values[: same * portion]
            answers.done = {number for number in known.done if number < same}
            heir[asked] = answers

    def version(self, network: nn.Module) -> int:
        """Return how often a network has moved between two looks at it, this one included."""
        now = [*(p.detach() for p in network.parameters()), *network.buffers()]
        known = self.networks.get(network)
        if known is None:
            known = self.networks[network] = _Network([w.clone() for w in now])
        elif not _same(known.weights, now):
            known.weights, known.version = [w.clone() for w in now], known.version + 1
        return known.version

    def moved(self) -> dict[nn.Module, int]:
        """Return every network that was asked, and how often it has moved after all."""
        return {network: known.version for network, known in self.networks.items()}

    def describe(self) -> dict[str, dict[str, int]]:
        """Describe, by name of what was asked, the examples and bytes that are kept now, the examples for which there
        is no room, and how often the network has moved."""
        found: dict[str, dict[str, int]] = {}
        for test, answers in self.answers.items():
            for (name, network), known in answers.items():
                about = found.setdefault(name, {"examples": 0, "bytes": 0, "refused": 0, "moved": 0})
                size = 0 if known.values is None else known.values.nbytes
                about["examples"] += len(test) if size else 0
                about["bytes"] += size
                about["refused"] += len(test) if known.refused else 0
                about["moved"] = max(about["moved"], self.networks[network].version)
        return found


@contextlib.contextmanager
def keeping_nothing() -> Iterator[None]:
    """Let evaluations that begin inside compute everything anew, to compare those with that keep."""
    token = _nothing.set(True)
    try:
        yield
    finally:
        _nothing.reset(token)


@dataclass(eq=False)
class _Network:
    """The weights of a network when it was last looked at, and how often it had moved."""

    weights: list[Tensor]
    version: int = 0


@dataclass(eq=False)
class _Answers:
    """What a network of a certain version says of a test set.

    Attributes:
        values: (N, …). done: which portions of it are there. refused: that it does not fit.
    """

    version: int
    values: Tensor | None = None
    done: set[int] = field(default_factory=set)
    refused: bool = False


class Asked:
    """An evaluation of a test set (N, …), portion by portion; see `Kept.evaluating`."""

    def __init__(
        self, kept: Kept, answers: dict[tuple[str, nn.Module], _Answers], everyone: Inputs, portion: int
    ) -> None:
        self.kept, self.answers, self.everyone, self.portion = kept, answers, everyone, portion
        self.x: Tensor | None = None
        self.rows: slice | Tensor = slice(0, 0)
        self._versions: dict[nn.Module, int] = {}

    def show(self, x: Tensor, rows: slice | Tensor) -> None:
        """Tell what goes through next: inputs `x` (n, …), which are the test set's at `rows`, a slice or (n,)."""
        self.x, self.rows = x, rows

    def answer(self, name: str, network: nn.Module, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the answers (n, …) for the rows; only portions that nobody has asked for are computed."""
        assert self.x is not None
        if network not in self._versions:
            self._versions[network] = self.kept.version(network)
        known = self.answers.get((name, network))
        if known is None or known.version != self._versions[network]:
            known = self.answers[name, network] = _Answers(self._versions[network])
        for number in () if known.refused else self._portions():
            if number in known.done:
                continue
            start = number * self.portion
            whole = slice(start, min(start + self.portion, len(self.everyone)))
            mine = isinstance(self.rows, slice) and self.rows == whole
            made = compute(self.x if mine else self.everyone[whole])
            if known.values is None and not _hold(self.answers, known, made, len(self.everyone)):
                return made if mine else compute(self.x)
            assert known.values is not None
            known.values[whole] = made
            known.done.add(number)
        if known.values is None:
            return compute(self.x)
        return known.values[self.rows]

    def _portions(self) -> list[int]:
        """Return those that the rows lie in."""
        if isinstance(self.rows, slice):
            return list(range(self.rows.start // self.portion, -(-self.rows.stop // self.portion)))
        numbers: list[int] = (self.rows // self.portion).unique().tolist()
        return numbers


def _hold(beside: dict[tuple[str, nn.Module], _Answers], known: _Answers, like: Tensor, n: int) -> bool:
    """Make a place for the answers (n, …) of all examples, if there is room beside the test set's others."""
    held = sum(others.values.nbytes for others in beside.values() if others.values is not None)
    known.refused = held + like[:1].nbytes * n > LIMIT
    if not known.refused:
        known.values = like.new_empty((n, *like.shape[1:]))
    return not known.refused


def _same(before: Sequence[Tensor], now: Sequence[Tensor]) -> bool:
    """Whether no bit differs; on a GPU, it takes one wait."""
    if len(before) != len(now) or any(a.shape != b.shape for a, b in zip(before, now, strict=True)):
        return False
    pairs = list(zip(before, now, strict=True))
    if not pairs or pairs[0][0].device.type == "cpu":
        return all(torch.equal(a, b) for a, b in pairs)
    return bool(torch.stack([(a == b).all() for a, b in pairs]).all())


_asked: ContextVar[Asked | None] = ContextVar("asked", default=None)
_nothing: ContextVar[bool] = ContextVar("nothing", default=False)
