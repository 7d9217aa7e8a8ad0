"""What of a part changes from step to step beside the tensors of its device: why its recorded step goes wrong."""

from __future__ import annotations

import inspect
import random
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from clbench.engine.capture import WITHIN
from clbench.engine.engine import Engine
from clbench.strategy import Strategy, overrides

OTHERWISE = (
    "what {0} computes hangs on what is no tensor, such as `run.step`, a rate of the optimizer, the clock or a draw of "
    "Python's; let a tensor of the device hold it, or leave `capturable` out"
)


def moving(run: Engine) -> str:
    """Return what should be otherwise in the parts that are declared `capturable`, with the line; trains the run."""
    parts = [part for part in run.strategy.parts if part.capturable]
    found: dict[str, None] = {}
    iterate = run._iterate

    def step(*args: Any, **kwargs: Any) -> None:
        before = [{name: _mark(value) for name, value in vars(part).items()} for part in parts]
        iterate(*args, **kwargs)
        for part, marks in zip(parts, before, strict=True):
            for name, value in vars(part).items():
                if name in marks and (cure := _cure(part, name, value, marks[name], run)):
                    found[cure] = None

    run._iterate = step  # type: ignore[method-assign]
    run.fit()
    if found:
        return "; ".join(found)
    theirs = [part for part in parts if not type(part).__module__.startswith("clbench.")] or parts
    points = [f"`{p}` ({_line(part, p)})" for part in theirs for p in WITHIN if overrides(part, p)]
    return OTHERWISE.format(", ".join(points) or "it")


def _cure(part: Strategy, name: str, value: Any, before: Any, run: Engine) -> str:
    """Return what to do about an attribute that a step has changed; empty if it may, or no recorded point has it."""
    now = _mark(value)
    if now == before or not (line := _line(part, *WITHIN, names=name)):
        return ""
    if not isinstance(value, Tensor):
        return (
            f"`{name}` is Python's and changes from step to step ({line}); let a tensor of the device hold it"
        )
    if value.device != run.device:
        return (
            f"`{name}` lies on the CPU and changes from step to step ({line}); make it with device=run.device"
        )
    if before is None or now[1] != before[1]:
        return f"`{name}` is another tensor after a step ({line}); write into the same one, in `after_step`"
    if _line(part, "after_step", names=name):
        return ""
    return f"`{name}` is written by what is recorded ({line}), and recording tries that out; write it in `after_step`"


def _mark(value: Any) -> Any:
    """Return what tells whether a value is another one now; None of what nobody can tell."""
    if isinstance(value, Tensor):
        return "tensor", value.data_ptr(), value._version
    if value is None or isinstance(value, int | float | str):
        return "plain", value
    if isinstance(value, Mapping):
        return "items", [(key, id(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | deque):
        return "items", [id(item) for item in value]
    if isinstance(value, random.Random):
        return "draws", value.getstate()
    if isinstance(value, np.random.Generator):
        return "draws", str(value.bit_generator.state)
    return None


def _line(part: Strategy, *points: str, names: str = "") -> str:
    """Return where a part's points are written, or where they name an attribute; empty if they do not."""
    for point in points:
        if not overrides(part, point):
            continue
        method: Callable[..., Any] = getattr(type(part), point)
        try:
            lines, first = inspect.getsourcelines(method)
        except OSError:  # typed in
            continue
        places = (
            [i for i, line in enumerate(lines) if re.search(rf"\bself\.{names}\b", line)] if names else [0]
        )
        if places:
            file = "/".join((inspect.getsourcefile(method) or "?").rsplit("/", 2)[-2:])
            return f"{file}:{first + places[0]}"
    return ""
