"""What is refused before a run's first step: what strategy, setting and configuration cannot do together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from clbench.config import Execution
from clbench.errors import ConfigError, IncompatibleError
from clbench.memory import Memory
from clbench.strategy import Run, Strategy, overrides
from clbench.types import NEEDS, Batch, Benchmark


def check_needs(strategy: Strategy, benchmark: Benchmark) -> None:
    """Refuse a setting that does not offer what a strategy needs.

    Raises:
        IncompatibleError: names the needs and what the setting gives.
    """
    offers = benchmark.setting.offers()
    missing = sorted(strategy.all_needs() - offers)
    if missing:
        unmet = " and ".join(f"{need} ({NEEDS[need]})" for need in missing)
        given = ", ".join(sorted(offers - {"past data"})) or "nothing beyond the examples"
        raise IncompatibleError(
            f"{strategy} needs {unmet}, which {benchmark.id} does not give; it gives {given}."
        )
    if benchmark.setting.language and (others := [part for part in strategy.parts if not part.language]):
        raise IncompatibleError(
            f"{strategy} is made for examples with one label each, and in {benchmark.id} every position of a block of "
            f"tokens has one: {type(others[0]).__name__} does not declare `language = True`. Take finetune, er, "
            "replay-fraction, or another one that the page on language lists."
        )


def check_parallel(strategy: Strategy, execution: Execution) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        IncompatibleError: a part of the strategy does not declare `parallel`; names it and the reason.
        ConfigError: evaluation beside training.
    """
    if execution.overlap:
        raise ConfigError(
            "Several processes evaluate together, each a share of the examples; leave out --overlap."
        )
    for part in strategy.parts:
        declared = vars(part).get("parallel", vars(type(part)).get("parallel", False))
        if declared is True:
            continue
        if overrides(part, "train_experience"):
            why = "it trains by a loop of its own, of which each process would make the whole"
        else:
            why = (
                declared
                or "it does not declare `parallel = True`, so what it does may hold for one process only"
            )
        raise IncompatibleError(
            f"{type(part).__name__} in {strategy} cannot be trained by several processes: {why}. Run it without "
            "torchrun."
        )


def check_passes(run: Run) -> None:
    """Refuse more passes over an experience than the setting allows."""
    passes, train = run.benchmark.setting.passes, run.config.train
    if passes is None:
        return
    allows = f"{run.benchmark.id} allows {passes} pass{'es' if passes > 1 else ''} over an experience"
    for name, given in (("epochs", train.epochs), ("later_epochs", train.later_epochs or 1)):
        if train.iterations is None and given > passes:
            raise IncompatibleError(f"{allows}; train.{name} is {given}. Set {name}={passes}.")
    for exp in run.train:
        size = run.batch_size_of(exp)
        most = passes * run.batches_of(len(exp.data), size)
        if train.iterations is not None and run.steps_of(exp) > most:
            raise IncompatibleError(
                f"{allows}, at most {most} steps of {size} examples in experience {exp.index + 1}; train.iterations is "
                f"{run.steps_of(exp)}."
            )


def check_loop(run: Run) -> None:
    """Refuse a loop or an order of a part's own where the configuration or the stream has one, and portions of a batch
    of which batch normalisation would take statistics of their own."""
    size, norms = run.config.train.micro_batch, nn.modules.batchnorm._BatchNorm
    if size is not None and any(isinstance(m, norms) and m.training for m in run.model.modules()):
        raise IncompatibleError(
            f"train.micro_batch={size} passes a batch in portions, and batch normalisation takes the statistics of "
            "what it is given; leave it out, or take a network without batch normalisation."
        )
    if any(overrides(part, "train_experience") for part in run.strategy.parts):
        ordered, updates = _ordered(run), run.config.train.updates
        if ordered or updates > 1:
            what = "the order of its examples" if ordered else f"train.updates={updates}"
            raise IncompatibleError(
                f"{run.strategy} trains by a loop of its own, which does not keep to {what} of {run.benchmark.id}."
            )
    if any(overrides(part, "order") for part in run.strategy.parts) and _ordered(run):
        raise IncompatibleError(
            f"{run.strategy} orders the examples, and those of {run.benchmark.id} come in an order of their own."
        )


def _ordered(run: Run) -> bool:
    return any(exp.ordered for exp in run.train)


def check_memory(run: Run, memories: Sequence[Memory]) -> None:
    """Refuse to keep more examples than the setting grants."""
    granted, asked = run.benchmark.setting.memory, sum(memory.capacity for memory in memories)
    if granted is not None and asked > granted:
        raise IncompatibleError(
            f"{run.strategy} would keep {asked} examples; {run.benchmark.id} grants {granted}."
        )


def check_batch(given: object, extend: Callable[..., Any]) -> None:
    """Refuse what a part's `extend` gives in place of a batch."""
    if not isinstance(given, Batch):
        raise IncompatibleError(
            f"{extend.__qualname__}() must return a batch, batch.with_x(…) or batch.join(…) for example; it returns "
            f"a {type(given).__name__}."
        )
    if len(given.x) != len(given):
        raise IncompatibleError(
            f"{extend.__qualname__}() gives inputs of {len(given.x)} rows for the batch's {len(given)}; with_x() takes "
            "row for row, and join() adds rows."
        )


def check_step(optimizer: Optimizer, part: Strategy) -> None:
    """Refuse an optimizer whose `step` asks for the loss again, as LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise IncompatibleError(
            f"{type(part).__name__}.optimizer returns {type(optimizer).__name__}, whose step() wants a closure that "
            "computes the loss again; the loop has none. Take another, or write a `step` point in its place."
        )


def check_losses(named: object, who: str, does: str = "returns") -> None:
    """Refuse what is no dictionary of scalar tensors.

    Args:
        named: losses by name. who: gives them. does: what it does with them, for the message.

    Raises:
        IncompatibleError: names who, the loss, its shape and the fix.
    """
    if not isinstance(named, Mapping):
        problem = f"{type(named).__name__} was given"
    else:
        for name, loss in named.items():
            if not isinstance(name, str):
                problem = f"the name {name!r:.40} is no text"
            elif not isinstance(loss, Tensor):
                problem = f"'{name}' is no tensor, but {type(loss).__name__} {loss!r:.40}"
            elif loss.dim():
                problem = f"'{name}' has shape {tuple(loss.shape)}; reduce it, by .mean() for example"
            elif loss.is_complex():
                problem = f"'{name}' is complex; take its .abs() or .real"
            else:
                continue
            break
        else:
            return
    raise IncompatibleError(
        f"{who} {does} a dictionary of scalar tensors, {{'fit': loss}} for example: {problem}."
    )
