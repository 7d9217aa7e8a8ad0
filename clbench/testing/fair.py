"""The rules without which a result says little: nothing learned from what judges, and nothing passed uncounted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from clbench.evaluation import ContinualEvaluator
from clbench.strategy import Strategy, overrides
from clbench.testing.subjects import Subject
from clbench.testing.tools import NotApplicable, require, same, trained
from clbench.types import Benchmark, Data, Pool, Stream


def check_test_unseen(subject: Subject) -> None:
    """With other data in the place of test and validation data, it learns the same bits."""
    other = subject.fitted(with_other_tests(subject.benchmark()), every=1)
    same(trained(subject.evaluated), trained(other), "what it learns depends on what it is judged by")


def with_other_tests(benchmark: Benchmark) -> Benchmark:
    """Return the same training stream, with other examples, labels and numbers of examples in what judges."""

    def poisoned(name: str) -> Stream:
        experiences = []
        for exp in benchmark.test:
            x, y = exp.data.x().flip(0), exp.data.y()
            # Tokens must stay those that the model knows.
            if not (benchmark.setting.documents or benchmark.setting.language):
                x = 255 - x if x.dtype == torch.uint8 else 3 - x
            classes = torch.tensor(exp.classes)
            y = classes[(torch.searchsorted(classes, y) + 1) % len(classes)]
            pool = Pool(torch.cat([x, x[:1]]), torch.cat([y, y[:1]]))
            experiences.append(replace(exp, data=Data.of(pool, torch.arange(len(y) + 1))))
        return Stream(name, tuple(experiences))

    return replace(benchmark, test=poisoned("test"), valid=poisoned("valid"))


def check_forwards_counted(subject: Subject) -> None:
    """The budget's forward passes are all that the model, and copies of it, make in training."""
    strategy = subject.make()
    if any(overrides(part, "train_experience") for part in strategy.parts):
        raise NotApplicable("it trains by a loop of its own, which counts its batches")
    passes = _Passes(strategy)
    # A recording is tried out, which is no training, and carried out again where no hook looks.
    run = subject.run(subject.benchmark(), strategy, every=2, capture="never")
    passes.leave_out(run.evaluator)
    passes.rows = run.forwards  # whoever prepares a network may have to try it; that is no training yet
    run.fit()
    require(
        passes.rows == run.forwards,
        f"{passes.rows} examples pass the model in training, and the budget counts {run.forwards}; ask the model by "
        "`run.forward(x)` and a copy of it by `run.output_of(model, x)`, which count, or count by `run.count(x)` what "
        "you send through `run.model` yourself",
    )


class _Passes:
    """Counts the examples that go through a run's backbone, whoever sends them, while nothing is evaluated.

    A pass counts where it enters, be it the backbone or a layer of it that somebody calls by itself; what the head asks
    of the backbone is part of a pass. Copies of the model are looked at, too.

    Attributes:
        rows: examples so far, times the passes that the model says its features take.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.rows: int | Fraction = 0
        self._strategy = strategy
        self._inside = 0  # calls that have not returned; an evaluation is one, too
        self._hooked: set[nn.Module] = set()
        for part in {strategy.parts[0], strategy.parts[-1]}:  # before the first wraps, and after the last
            setattr(part, "wrap", self._around(part.wrap))  # noqa: B010  # mypy minds methods

    def leave_out(self, evaluator: ContinualEvaluator) -> None:
        """What it sends through the model from now on is no training."""
        ends = ("begin_experience", "end_experience", "end_segment")
        for name in (*ends, "tick", "full", "look_at_documents"):
            setattr(evaluator, name, self._aside(getattr(evaluator, name)))

    def _around(self, wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
        def wrap_and_look(model: nn.Module) -> nn.Module:
            self._look_at(model)
            self._look_at(wrapped := wrap(model))
            return wrapped

        return wrap_and_look

    def _aside(self, evaluate: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(evaluate)
        def aside(*given: Any, **named: Any) -> None:
            self._inside += 1
            try:
                evaluate(*given, **named)
            finally:
                self._inside -= 1

        return aside

    def _look_at(self, model: Any) -> None:
        if not hasattr(model, "backbone"):  # of another library
            return

        # Functions, as a copy of the model would copy a method's object with it.
        def enter(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not self._inside:
                tensors = (value for value in (*given, *named.values()) if isinstance(value, Tensor))
                passes: int = getattr(self._strategy.parts[0].run.model, "passes", 1)
                x, run = next(tensors), self._strategy.parts[0].run
                # Of language, a pass may be of a part of a block.
                part = Fraction(x.shape[1], run.input_shape[0]) if run.benchmark.setting.language else 1
                self.rows += passes * _rows(x) * part
            self._inside += 1

        def enter_head(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._inside += 1

        def leave(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            self._inside -= 1

        modules = {**dict.fromkeys(model.backbone.modules(), enter), model.head: enter_head}
        for module in modules.keys() - self._hooked:
            module.register_forward_pre_hook(modules[module], with_kwargs=True)
            module.register_forward_hook(leave, always_call=True)
            self._hooked.add(module)


def _rows(x: Tensor) -> int:
    """Examples in a batch; of one that `torch.vmap` takes apart, in the whole of it."""
    functorch, whole = torch._C._functorch, x
    while functorch.is_functorch_wrapped_tensor(whole):
        whole = functorch.get_unwrapped(whole)
    return len(x) * whole.numel() // max(x.numel(), 1)
