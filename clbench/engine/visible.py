"""A run as a strategy sees it: all of it but what it is judged by.

What a strategy may know of test and validation streams is what they are about: their experiences, and the classes and
the domain of each. Their examples, and all that was made of them, are the evaluator's alone.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, NoReturn, cast

from torch import Tensor

from clbench.errors import IncompatibleError
from clbench.strategy import Run
from clbench.types import Benchmark, Change, Data, Experience, Pool, Stream

ENGINE_ONLY = ("evaluator", "observers", "state_dict")
"""Attributes of a `Run` that hold examples of the test stream, or what became of them."""


def visible(run: Run) -> Run:
    """Return what `run.strategy` gets as its run: refuses what it is judged by, and is the run itself in all else."""
    return cast("Run", _Visible(run))


class _Visible:
    """Asks the run, and writes to it."""

    __slots__ = ("_run", "benchmark")
    _run: Run
    benchmark: Benchmark

    def __init__(self, run: Run) -> None:
        object.__setattr__(self, "_run", run)
        object.__setattr__(self, "benchmark", without_examples(run.benchmark, str(run.strategy)))

    def __getattr__(self, name: str) -> Any:
        run = object.__getattribute__(self, "_run")
        if name in ENGINE_ONLY:
            _refuse(str(run.strategy), f"`run.{name}`")
        return getattr(run, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._run, name, value)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._run) if name not in ENGINE_ONLY]

    def __repr__(self) -> str:
        return repr(self._run)


def without_examples(benchmark: Benchmark, who: str) -> Benchmark:
    """Return a benchmark whose test and validation streams have no examples that could be looked at.

    Args:
        who: for the message to who tries.
    """

    def closed(stream: Stream) -> Stream:
        return Stream(stream.name, tuple(replace(e, data=Withheld(who, stream.name)) for e in stream))

    valid = None if benchmark.valid is None else closed(benchmark.valid)
    return replace(benchmark, test=closed(benchmark.test), valid=valid)


class Withheld(Data):
    """Stands for examples that must not be looked at, neither at one of them nor at how many there are."""

    def __init__(self, who: str, stream: str) -> None:
        object.__setattr__(self, "who", who)
        object.__setattr__(self, "stream", stream)

    @property
    def parts(self) -> tuple[tuple[Pool, Tensor, Change | None], ...]:
        """
        Raises:
            IncompatibleError: always.
        """
        _refuse(vars(self)["who"], f"the examples of the {vars(self)['stream']} stream")

    def __repr__(self) -> str:
        return f"<Data of the {vars(self)['stream']} stream, withheld>"


def _refuse(who: str, what: str) -> NoReturn:
    raise IncompatibleError(
        f"{who} looks at {what}, and a strategy may see nothing that it is judged by. Learn from what its points are "
        "given, from `run.train` and from a memory of its own; of test experiences, `classes` may be seen."
    )


def seamless(train: Stream) -> tuple[Stream, tuple[int, ...]]:
    """Ordered experiences as a single one, and how many examples have come when each of them ends."""
    classes = tuple(sorted({c for exp in train for c in exp.classes}))
    tests = tuple(dict.fromkeys(i for exp in train for i in exp.tests))
    whole = Experience(0, classes, Data.union([exp.data for exp in train]), tests=tests, ordered=True)
    return Stream(train.name, (whole,)), tuple(itertools.accumulate(map(len, train)))
