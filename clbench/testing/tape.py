"""A stand-in for a CUDA graph that works anywhere: the operations of some work, in order, carried out again.

It holds to what a graph holds to. The same operations run on the same tensors, whatever Python would do now; and work
that asks the device for a number, brings one from the host or makes a tensor whose size hangs on numbers is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_consecutive",
    "repeat_interleave.Tensor",
)
"""Operations for whose result the host waits."""
FROM_THE_HOST = ("lift_fresh", "lift_fresh_copy")
"""How tensors begin that are made of Python's numbers."""


class Tape:
    """Records by writing down what torch is asked to do; a `clbench.engine.capture.Recorder`."""

    def aside(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def record(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        with _Writing() as writing:
            work()
        steps = writing.steps

        def replay() -> None:
            with torch.no_grad():
                for function, args, kwargs, left in steps:
                    found = function(*args, **kwargs)
                    for mine, new in zip(left, tree_leaves(found), strict=True):
                        if isinstance(mine, Tensor) and mine is not new:
                            mine.copy_(new)

        return replay


class _Writing(TorchDispatchMode):
    """Every operation with its tensors, but for views, which stay what they are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func).removeprefix("aten.")
        if any(name == w or name.startswith(f"{w}.") for w in (*WAITING, *FROM_THE_HOST)) or _by_mask(
            name, args
        ):
            raise RuntimeError(f"{name} waits for the device")
        found = func(*args, **kwargs)
        schema = func._schema
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        views = any(r.alias_info is not None for r in schema.returns) and not writes
        if not views:
            # Beneath autograd, so that a replay makes no graph; what is written in place is not copied onto itself.
            left = [None if writes else leaf for leaf in tree_leaves(found)]
            self.steps.append((func, args, kwargs, left))
        return found


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether rows are chosen by a mask, so that their number must be known."""
    if not name.startswith(("index.", "index_put")) or not isinstance(args[1], list | tuple):
        return False
    return any(isinstance(index, Tensor) and index.dtype is torch.bool for index in args[1])
