"""Strategies with the mistakes that only a GPU shows; `tests/test_rehearsal.py` has them found."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.strategy import Run


class Reads(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        largest = out.logits.detach().amax()
        return {"more": out.logits.square().mean() / max(1.0, largest.item())}  # the mistake


@register("hidden-item")
def hidden_item() -> Strategy:
    """Ask the device for a number in every step."""
    return chain(CrossEntropy(), Reads())


class Constant(Strategy):
    def setup(self, run: Run) -> None:
        self.weight = torch.ones(run.num_classes)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"more": (out.logits.square() * self.weight).mean()}  # the mistake


@register("constant-left-behind")
def constant_left_behind() -> Strategy:
    """Leave a constant on the CPU."""
    return chain(CrossEntropy(), Constant())


class Aside(Strategy):
    def setup(self, run: Run) -> None:
        self.side = torch.cuda.Stream(run.device) if run.device.type == "cuda" else None

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.side is None:
            return {"more": (2 * out.logits).square().mean()}
        with torch.cuda.stream(self.side):
            doubled = 2 * out.logits  # the mistake
        return {"more": doubled.square().mean()}


@register("missing-wait")
def missing_wait() -> Strategy:
    """Compute on a second stream that waits for nothing, and for which nothing waits."""
    return chain(CrossEntropy(), Aside())


class Draws(Strategy):
    capturable = True

    def setup(self, run: Run) -> None:
        self.generator = torch.Generator(run.device)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        like = out.logits
        noise = torch.rand(like.shape, generator=self.generator, device=like.device)  # the mistake
        return {"more": (like * noise).square().mean()}


@register("generator-of-its-own")
def generator_of_its_own() -> Strategy:
    """Draw from a generator that no recording knows."""
    return chain(CrossEntropy(), Draws())
