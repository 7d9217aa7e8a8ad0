"""What is under test: a registered strategy, a chain of them, or a factory."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from clbench.engine.engine import Engine
from clbench.machine.randomness import derive_seed
from clbench.models import Classifier
from clbench.registry import Entry, chain_parts, strategies
from clbench.runs.building import build_strategy
from clbench.strategy import Strategy
from clbench.testing.tiny import KINDS, architecture_of, tiny_benchmark, tiny_model, tiny_run
from clbench.types import Benchmark


@dataclass(frozen=True)
class Subject:
    """A strategy under test.

    Attributes:
        name: for messages.
        make: builds it anew, with the parameters for a tiny network that it is registered with and those given.
        null: parameters with which it is fine-tuning; None if it declares none.
        memory: the parameters that say how many examples it keeps.
        model: builds the network to check it on; `tiny_model`, or what `KINDS` says it needs, if None.
        device: where it is checked.
        factories: what is behind `make`, for their signatures.
    """

    name: str
    make: Callable[..., Strategy]
    null: dict[str, Any] | None = None
    memory: tuple[str, ...] = ()
    model: Callable[[Benchmark], Classifier] | None = None
    device: str = "cpu"
    factories: tuple[Callable[..., Any], ...] = field(default=(), repr=False)

    def run(
        self, benchmark: Benchmark, strategy: Strategy | None = None, *, norm: bool = True, **how: Any
    ) -> Engine:
        """Return a run of it, before its first step.

        Args:
            benchmark: to run on.
            strategy: in place of a new one of the subject.
            norm: whether a model that is not given has batch normalisation.
            how: the rest of `tiny_run`.
        """
        how.setdefault("seed", 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(how["seed"], "initialisation"))
            if self.model is not None:
                model = self.model(benchmark)
            else:
                kind = KINDS.get(self.architecture)
                model = tiny_model(benchmark, norm=norm) if kind is None else kind(benchmark)
        return tiny_run(
            self.make() if strategy is None else strategy, benchmark, model=model, device=self.device, **how
        )

    def fitted(self, benchmark: Benchmark, strategy: Strategy | None = None, **how: Any) -> Engine:
        """Return a run of it, to the end."""
        run = self.run(benchmark, strategy, **how)
        run.fit()
        return run

    @functools.cached_property
    def plain(self) -> Engine:
        """A run of it to the end, evaluated at experience ends; the checks that it serves change nothing of it."""
        return self.fitted(self.benchmark())

    @functools.cached_property
    def evaluated(self) -> Engine:
        """A run of it to the end, evaluated after every step; the checks that it serves change nothing of it."""
        return self.fitted(self.benchmark(), every=1)

    def benchmark(self, **spec: Any) -> Benchmark:
        """Return a `tiny_benchmark` that offers what the strategy needs, and nothing about tasks beyond that."""
        if "task labels" in self.needs:
            spec.setdefault("task_labels", "always")
        if "documents" in self.needs:
            spec.setdefault("documents", True)
        if "language" in self.needs:
            spec.setdefault("language", True)
        if self.architecture:
            spec["images"] = True
        return tiny_benchmark(**spec)

    def parameters(self) -> Iterator[tuple[str, Callable[..., Any], str]]:
        """Yield how `make` is given each parameter, the factory that takes it, and what it is called there."""
        parts = chain_parts(self.name) if self.factories != (self.make,) else ()
        for part, factory in zip(parts or ("",), self.factories, strict=True):
            for name in inspect.signature(factory).parameters:
                yield (f"{part}__{name}" if part else name), factory, name

    @functools.cached_property
    def exempt(self) -> Mapping[str, str]:
        """Checks that it declares not to pass, and why; nothing is declared of what is chained to others."""
        named = [part for part in self.name.split("+") if part != "finetune"]
        if len(named) > 1:
            return {}
        try:
            parts = self.make().parts
        except Exception:  # a check says so
            return {}
        return {check: why for part in parts for check, why in part.exempt.items()}

    @functools.cached_property
    def architecture(self) -> str:
        return architecture_of(self.make())

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        return self.make().all_needs()


def subject(
    strategy: str | Callable[..., Strategy],
    *,
    model: Callable[[Benchmark], Classifier] | None = None,
    device: str = "cpu",
    null: Mapping[str, Any] | None = None,
) -> Subject:
    """Return what to check, from a registered name, a chain of names, or a factory.

    A modifier, which cannot train alone, is checked on fine-tuning.

    Args:
        strategy: a registered name, a chain, or a factory.
        model, device, null: as for `check_strategy`.

    Raises:
        RegistryError: an unknown name.
    """
    if isinstance(strategy, str):
        parts = chain_parts(strategy)
        entries = [strategies.entry(part) for part in parts]
        if all(entry.modifier for entry in entries):
            parts, entries = ["finetune", *parts], [strategies.entry("finetune"), *entries]
        return _named(parts, entries, model, device)
    registered = [e for name in strategies.names() if (e := strategies.peek(name)).build is strategy]
    if registered and null is None:
        return subject(registered[0].name, model=model, device=device)
    return Subject(
        name=getattr(strategy, "__name__", str(strategy)),
        make=strategy,
        null=None if null is None else dict(null),
        memory=tuple(name for name in inspect.signature(strategy).parameters if name == "memory"),
        model=model,
        device=device,
        factories=(strategy,),
    )


def _named(
    parts: list[str], entries: list[Entry], model: Callable[[Benchmark], Classifier] | None, device: str
) -> Subject:
    def make(**params: Any) -> Strategy:
        given = {part: dict(entry.tiny or {}) for part, entry in zip(parts, entries, strict=True)}
        for key, value in params.items():
            part, _, name = key.partition("__")
            given[part][name] = value
        return build_strategy("+".join(parts), given)

    named = [*zip(parts, entries, strict=True)]
    nulls = {f"{part}__{key}": value for part, e in named for key, value in (e.null or {}).items()}
    null = nulls if all(entry.null is not None for entry in entries) else None
    memory = tuple(f"{part}__memory" for part, e in named if "memory" in e.signature().parameters)
    factories = tuple(entry.build for entry in entries if entry.build is not None)
    return Subject("+".join(parts), make, null, memory, model, device, factories)
