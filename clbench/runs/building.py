"""What a run is built of, by names and numbers: benchmark, strategy, model and engine. A run's id covers this file."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clbench.config import Execution, RunConfig
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer
from clbench.errors import ConfigError
from clbench.machine.device import enough_memory
from clbench.machine.numerics import pinned
from clbench.machine.parallel import ALONE, Ranks
from clbench.machine.randomness import derive_seed
from clbench.models import make_model, weights
from clbench.registry import Entry, benchmarks, chain_parts, models, strategies
from clbench.registry.reads import watched
from clbench.strategy import Strategy, chain
from clbench.types import Benchmark


@pinned()
def make_benchmark(name: str, **spec: Any) -> Benchmark:
    """A registered benchmark, built: `make_benchmark("split-cifar100", experiences=20, seed=1)`."""
    benchmark: Benchmark = benchmarks.make(name, **spec)
    return benchmark


def make_strategy(name: str, **params: Any) -> Strategy:
    """Return a registered strategy, or a chain of them: `make_strategy("derpp+refresh", memory=500)`.

    A parameter goes to the strategy of the chain that has it; one that several have is given as `derpp__alpha`.
    """
    parts = chain_parts(name)
    given: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in params.items():
        owner, _, inner = key.partition("__")
        if inner and owner in given:
            given[owner][inner] = value
            continue
        owners = [part for part in parts if key in strategies.entry(part).signature().parameters]
        if len(owners) > 1:
            raise ConfigError(
                f"'{key}' could mean {' or '.join(f'{o}__{key}' for o in owners)}; write which."
            )
        given[owners[0] if owners else parts[0]][key] = value
    made = build_strategy(name, given)
    _RECIPES[made] = name, given
    return made


_RECIPES: weakref.WeakKeyDictionary[Strategy, tuple[str, dict[str, dict[str, Any]]]] = (
    weakref.WeakKeyDictionary()
)


def recipe_of(strategy: Strategy) -> tuple[str, dict[str, dict[str, Any]]] | None:
    """Return the name and all parameters, by part, that a strategy was made of; None where `make_strategy` did not."""
    if strategy not in _RECIPES:
        return None
    name, given = _RECIPES[strategy]
    defaults = {part: strategies.entry(part).signature().parameters for part in given}
    return name, {
        part: {k: given[part].get(k, p.default) for k, p in defaults[part].items()} for part in given
    }


@pinned()
def build_strategy(name: str, params: Mapping[str, Mapping[str, Any]]) -> Strategy:
    """A chain from its parts' names and their parameters, with its registered name stamped on."""
    made = []
    for part in chain_parts(name):
        strategy = strategies.make(part, **params.get(part, {}))
        for piece in (strategy, *strategy.parts):  # errors name what the user has written, not a class
            piece.name = piece.name or part
        made.append(strategy)
    whole = chain(*made)
    whole.name = name
    return whole


def build(
    resolved: RunConfig,
    execution: Execution,
    *,
    benchmark: Benchmark | None = None,
    observers: Sequence[Observer] = (),
    ranks: Ranks = ALONE,
) -> Engine:
    """Return the engine for a configuration, before its first step: stream, strategy and freshly initialised model.

    Args:
        resolved: what runs.
        execution: how it is carried out.
        benchmark: an object of the caller's, in place of the registered one.
        observers: progress displays, loggers.
        ranks: the processes that make the run together.

    Raises:
        ClbenchError: parts that do not fit together.
    """
    if benchmark is None:
        benchmark = make_benchmark(resolved.benchmark, **resolved.stream)
    network = dict(resolved.model.params)
    if network.get("vocabulary", 0) is None and benchmark.tokenizer is not None:
        network["vocabulary"] = benchmark.tokenizer.size
    with pinned(resolved.threads), reading_what_is_declared(resolved), torch.random.fork_rng(devices=[]):
        strategy = build_strategy(resolved.strategy, resolved.params)
        torch.default_generator.manual_seed(derive_seed(resolved.seeds.init, "initialisation"))
        model = make_model(
            resolved.model.name,
            benchmark.input_shape,
            benchmark.num_classes,
            weights=resolved.model.weights,
            **network,
        )
        with enough_memory(f"'{resolved.strategy}' on {benchmark.name}"):
            return Engine(benchmark, strategy, model, resolved, execution, observers, ranks)


def entries_of(resolved: RunConfig) -> tuple[list[Entry], Entry | None]:
    """Return where a configuration's strategies and its network are registered; None for one of timm's."""
    name = resolved.model.name
    return (
        [strategies.entry(part) for part in resolved.parts()],
        models.entry(name) if name in models.names() else None,
    )


def declared(resolved: RunConfig) -> dict[str, str]:
    """Return where the files and folders lie that a run is said to read, by the setting or the plug-in that says so.

    What a benchmark reads (`stream.…`) is told by its fingerprint; a name where nothing lies is a name.
    """
    parts, network = entries_of(resolved)
    given = [("strategy", part, f"params.{part.name}", resolved.params.get(part.name, {})) for part in parts]
    if network is not None:
        given.append(("model", network, "model.params", resolved.model.params))
    if resolved.stream and benchmarks.knows(resolved.benchmark):  # and not an object of the caller's
        given.append(("benchmark", benchmarks.entry(resolved.benchmark), "stream", resolved.stream))
    found: dict[str, str] = {}
    for kind, entry, section, values in given:
        for key, value in entry.named(values).items():
            if kind == "benchmark" or Path(value).exists():
                found[f"{section}.{key}"] = value
        found |= {f"{kind} {entry.name}: {name}": str(path) for name, path in entry.files().items()}
    return found


@contextlib.contextmanager
def reading_what_is_declared(resolved: RunConfig) -> Iterator[None]:
    """Let a plug-in read what it has declared, inside, while a run is built.

    Raises:
        RegistryError: a plug-in has read another file; names it, and how it is declared.
    """
    parts, network = entries_of(resolved)
    foreign = [entry for entry in (*parts, network) if entry is not None and not entry.own]
    if not foreign:
        yield
        return
    covered: list[str | Path] = [*declared(resolved).values()]
    if resolved.model.weights is not None:
        covered.append(weights.find(resolved.model.weights).path)
    with watched() as watch:
        yield
    named = " or ".join(f"'{entry.name}' ({entry.origin})" for entry in foreign)
    watch.refuse(f"{named}, as the run is built,", covered)
