"""A head that is neither linear nor of clbench's own: the core asks it by the protocol alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench.engine.capture import undeclared
from clbench.engine.engine import Engine
from clbench.evaluation.forward import EvaluationCopy
from clbench.models import Head, head_of
from clbench.runs.building import make_strategy
from clbench.testing import tiny_benchmark, tiny_model, tiny_run
from clbench.types import MASKED, LateOutput, Output


class Pairs(nn.Module):
    """log p(y|x) = log p(y div 2|x) + log p(y mod 2|x); it derives from nothing of clbench's."""

    on_request = True
    recordable = False
    in_float32 = True

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.tens, self.units = nn.Linear(size, classes // 2), nn.Linear(size, 2)
        self.admitted: list[list[int]] = []
        self.scored = 0

    def forward(self, features: Tensor) -> Tensor:
        self.scored += 1
        tens, units = self.tens(features).log_softmax(1), self.units(features).log_softmax(1)
        return (tens.unsqueeze(2) + units.unsqueeze(1)).flatten(1)

    def admit(self, classes: Sequence[int]) -> None:
        self.admitted.append(list(classes))

    def output(self, features: Tensor, within: Callable[[], AbstractContextManager[object]]) -> Output:
        def log_prob(y: Tensor) -> Tensor:
            tens, units = self.tens(features).log_softmax(1), self.units(features).log_softmax(1)
            return tens.gather(1, y // 2) + units.gather(1, y % 2)

        return LateOutput(features, lambda: self(features), log_prob, self.tens.weight)

    def predict(self, features: Tensor) -> Tensor:
        scores: Tensor = self(features)
        known = (
            torch.tensor(self.admitted[-1], dtype=torch.int64)
            if self.admitted
            else torch.arange(scores.shape[1])
        )
        return torch.full_like(scores, MASKED).index_copy(1, known, scores[:, known])


def run_with(strategy: str = "finetune", epochs: int = 2, **benchmark: Any) -> Engine:
    stream = tiny_benchmark(**benchmark)
    model = tiny_model(stream)
    model.head = Pairs(16, stream.num_classes)
    return tiny_run(make_strategy(strategy), stream, model=model, epochs=epochs)


def test_a_linear_layer_is_a_plain_scorer() -> None:
    model = tiny_model(tiny_benchmark())
    head, features = head_of(model), torch.randn(3, 16)
    assert not isinstance(model.head, Head)
    assert (head.on_request, head.recordable) == (False, True)
    assert torch.equal(head.predict(features), model.head(features))


def test_a_loss_asks_for_the_labels_alone() -> None:
    run = run_with()
    head = run.model.head
    assert isinstance(head, Pairs)
    assert isinstance(head, Head)
    x, y = torch.randn(5, 8), torch.tensor([0, 3, 1, 5, 2])
    before = head.scored  # when the engine looked at what the network normalises
    loss = run.forward(x).cross_entropy(y)
    assert head.scored == before
    assert loss.item() == pytest.approx(nn.functional.nll_loss(head(run.model.features(x)), y).item())  # type: ignore[operator]


def test_it_learns() -> None:
    run = run_with(experiences=1, epochs=10)
    run.fit()
    assert run.evaluator.latest()[0] > 0.9


def test_it_is_told_which_documents_there_are() -> None:
    run = run_with(documents=True)
    run.fit()
    head = run.model.head
    assert isinstance(head, Pairs)
    assert head.admitted == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


def test_a_growing_head_tells_it_too() -> None:
    run = run_with("finetune+growing-head")
    assert isinstance(run.model.head, Pairs)
    run.fit()
    assert run.model.head.admitted == [[], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


def test_it_is_not_recorded() -> None:
    assert undeclared(run_with()) == "its head, a Pairs, cannot be recorded"


def test_a_copy_for_evaluation_predicts_by_it() -> None:
    run = run_with()
    copied, x = EvaluationCopy(run.model.eval(), None, fast=True), torch.randn(4, 8)
    copied.load([*(p.detach() for p in run.model.parameters()), *run.model.buffers()])
    assert copied.model.head.tens.weight.dtype is torch.float32  # type: ignore[union-attr]
    assert copied.logits(x.to(copied.dtype), torch.full((4,), -1)).shape == (4, 6)
