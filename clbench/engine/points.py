"""The points that the parts of a strategy write, as the loop calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from clbench.errors import IncompatibleError
from clbench.strategy import Strategy, overrides
from clbench.types import Batch, Output

Inner = Callable[[Batch], Output]


class Points:
    """What a strategy does in a run.

    Args:
        strategy: whose parts.
        gradient, step: what the points of these names lie around.

    Attributes:
        extend, gradients, after_update, after_step, begin_experience, end_experience: the parts' methods, in order.
        losing: the parts that add losses.
        gradient, step: the around points, nested with the first part innermost.
        order, train_experience, logits: the one part's method; None where no part writes the point.
    """

    def __init__(self, strategy: Strategy, gradient: Inner, step: Inner) -> None:
        parts = strategy.parts

        def written(point: str) -> list[Callable[..., Any]]:
            return [getattr(part, point) for part in parts if overrides(part, point)]

        def around(point: str, inner: Inner) -> Inner:
            for call in written(point):
                inner = functools.partial(call, inner=inner)
            return inner

        def only(point: str) -> Callable[..., Any] | None:
            return next(iter(written(point)), None)

        self.extend, self.after_step = written("extend"), written("after_step")
        self.gradients, self.after_update = written("gradients"), written("after_update")
        self.begin_experience, self.end_experience = written("begin_experience"), written("end_experience")
        self.gradient, self.step = around("gradient", gradient), around("step", step)
        self.order, self.train_experience, self.logits = map(only, ("order", "train_experience", "logits"))
        self.losing = [part for part in parts if overrides(part, "losses")]
        if not self.losing and self.logits is None:
            raise IncompatibleError(
                f"{strategy} neither adds a loss nor classifies, so nothing would be learned; chain it to a strategy "
                "that does, for example finetune."
            )
