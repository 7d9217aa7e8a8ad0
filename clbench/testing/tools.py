"""What checks are made of: results, comparisons to the bit, probes around a strategy's points."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clbench.engine.engine import Engine
from clbench.errors import ClbenchError
from clbench.files.places import HOME
from clbench.machine import checkpoint
from clbench.registry.authors import is_library
from clbench.runs.building import build_strategy
from clbench.strategy import Strategy, overrides
from clbench.types import Batch, Benchmark, Output


class Violation(AssertionError):  # noqa: N818  # what is broken is a rule
    """A rule of the contract is broken; the message says how."""


class NotApplicable(Exception):  # noqa: N818  # not an error
    """A rule says nothing about this strategy or benchmark; the message says why."""


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        check: its name; rule: what it demands.
        status: "passed", "failed", "skipped" (the rule does not apply), "expected" (a known failure).
        message: how the rule is broken, why it does not apply, or the known reason.
        raised: where an exception that is no broken rule came from, `TypeError: … (mine.py, line 12)`; one
            mistake may stop several checks.
    """

    check: str
    rule: str
    status: Literal["passed", "failed", "skipped", "expected"]
    message: str = ""
    raised: str = ""

    def as_dict(self) -> dict[str, str]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


def name_of(check: Callable[..., None]) -> str:
    """Return a check's name, as in results and expected failures."""
    return check.__name__.removeprefix("check_")


def rule_of(check: Callable[..., None]) -> str:
    """Return the sentence that a check enforces."""
    return " ".join((inspect.getdoc(check) or "").split())


TOLD = (Violation, ClbenchError)
"""How a check says that its rule is not kept, or a strategy that it refuses; whatever else is raised is a crash."""


def attempt(check: Callable[[Any], None], under_test: Any, expected: str | None = None) -> Result:
    name, rule = name_of(check), rule_of(check)
    try:
        with one_thread():
            check(under_test)
    except NotApplicable as reason:
        return Result(name, rule, "skipped", str(reason))
    except Exception as error:  # whatever a strategy raises is a finding
        told = isinstance(error, TOLD)
        if expected and told:  # of a rule that is not kept; a crash is none
            return Result(name, rule, "expected", expected)
        raised = _raised(error.__cause__ or error) if not told or error.__cause__ else ""
        return Result(name, rule, "failed", str(error) if told else raised, raised)
    if expected:
        message = f"it was expected to fail ({expected}) and passes; expect it no longer"
        return Result(name, rule, "failed", message)
    return Result(name, rule, "passed")


def _raised(error: BaseException) -> str:
    """Return an exception with the last line outside clbench and the libraries that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    core = str(HOME) + os.sep
    outside = [f for f in frames if not (f.filename.startswith(core) or is_library(f.filename))]
    at = (outside or frames)[-1]
    return f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno})"


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """Return where two states differ first, to the bit; None where they do not."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{path}: {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        same = torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals itself here
        return None if same else path or "values"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{path}: {sorted(map(str, a.keys() ^ b.keys()))} on one side only"
        return next((found for key in a if (found := difference(a[key], b[key], f"{path}/{key}"))), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} elements"
        pairs = enumerate(zip(a, b, strict=True))
        return next((found for i, (x, y) in pairs if (found := difference(x, y, f"{path}/{i}"))), None)
    return None if a == b else f"{path}: {a!r} and {b!r}"


def stored_examples(state: Any, benchmark: Benchmark) -> int:
    """Return how many training examples are held in a tree of tensors.

    Rows of the inputs' shape and type count, and rows of any type that are an example, raw or normalised.
    """
    shape = tuple(benchmark.input_shape)
    raw = torch.cat([exp.data.x() for exp in benchmark.train])
    forms = (raw, raw.float(), benchmark.transform.normalise(raw))
    known = {row.numpy().tobytes() for x in forms for row in x.flatten(1)}

    def count(value: Any) -> int:
        if isinstance(value, Mapping | list | tuple):
            return sum(count(v) for v in (value.values() if isinstance(value, Mapping) else value))
        if not isinstance(value, Tensor) or value.ndim == 0:
            return 0
        value = value.detach().cpu()
        if value.dtype == raw.dtype and tuple(value.shape[-len(shape) :]) == shape:
            return int(value.numel() // raw[0].numel())
        if value.shape[-1] != raw[0].numel() and tuple(value.shape[-len(shape) :]) != shape:
            return 0
        rows = value.contiguous().view(-1, raw[0].numel())
        if rows.dtype not in (raw.dtype, torch.float32):
            rows = rows.float()
        return sum(int(row.numpy().tobytes() in known) for row in rows)

    return count(state)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Violation(message)


def same(a: Any, b: Any, message: str) -> None:
    where = difference(a, b)
    require(where is None, f"{message}, first at {where}")


def everything(run: Engine) -> dict[str, Any]:
    """Return all state of a run that is no time and no energy, copied."""
    state = checkpoint.clone(run.state_dict())
    for timed, key in ((state["counters"], "train_seconds"), (state["evaluator"], "seconds")):
        del timed[key]
    del state["energy"]
    del state["global_rng"]  # the caller's again by now
    kept: dict[str, Any] = state
    return kept


def trained(run: Engine) -> dict[str, Any]:
    """`everything` but what evaluation alone changes."""
    state = everything(run)
    del state["evaluator"]
    return state


def learned(run: Engine) -> dict[str, Any]:
    return checkpoint.clone({"model": run.model.state_dict(), "curve": run.evaluator.state_dict()["curve"]})  # type: ignore[no-any-return]


def finetune() -> Strategy:
    return build_strategy("finetune", {})


POINTS = (
    "begin_experience",
    "order",
    "end_experience",
    "extend",
    "step",
    "gradient",
    "losses",
    "gradients",
    "after_update",
    "after_step",
    "logits",
)
"""The points that are called in training and prediction; `setup`, `wrap` and `stream` come before."""

Probe = Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]
"""Called in place of a point, with its name, its arguments and the call itself."""


def watch(strategy: Strategy, probe: Probe) -> Strategy:
    """Return the strategy itself, with a probe around every point its parts write."""

    def around(point: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return probe(point, args, lambda: method(*args, **kwargs))

        return call

    for part in strategy.parts:
        for point in POINTS:
            if overrides(part, point):
                setattr(part, point, around(point, getattr(part, point)))
    return strategy


def tensors_of(arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """Return all tensors among a point's arguments, by what they are called."""
    found: dict[str, Tensor] = {}
    for i, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            found[f"argument {i}"] = argument
        if isinstance(argument, Batch | Output):
            kind = type(argument).__name__.lower()
            for f in dataclasses.fields(argument):
                value = getattr(argument, f.name)
                if isinstance(value, Tensor):
                    found[f"{kind}.{f.name}"] = value
    return found


def global_generators() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the legacy generator is the one that is global
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "Python": random.getstate(),
    }


def seed_globals(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002
    random.seed(number)


@contextlib.contextmanager
def globals_kept() -> Iterator[None]:
    legacy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(legacy)  # noqa: NPY002
            random.setstate(python)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The models are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
