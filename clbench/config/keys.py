"""Settings by key, as on the command line: where each belongs in the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from clbench.config.schema import (
    EvaluationConfig,
    Execution,
    OptimConfig,
    TrainConfig,
)
from clbench.config.selection import Address
from clbench.errors import ConfigError, choices, suggest
from clbench.registry import benchmarks, models, strategies
from clbench.registry.arguments import (
    plain as own,
)

SECTIONS: dict[str, type[BaseModel]] = {
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}
"""Sections whose fields may be named without the section, where that is unambiguous."""


_SECTIONS = ("evaluation", "model", "optim", "seeds", "stream", "train")
"""What may stand before the dot of a key, beside the strategies' names."""


ELSEWHERE = {
    "device": "--device cpu, cuda, cuda:1 …",
    "overlap": "--overlap",
    "log": "--log csv, tensorboard or wandb",
    "checkpoint": "--checkpoint SECONDS",
    "checkpoint_seconds": "--checkpoint SECONDS",
    "project": "--project NAME",
    "group": "--group NAME",
    "out": "--out FOLDER",
    "plugin": "--plugin FILE",
    "seeds": "--seed N of a run, --seeds N of a suite",
    "workers": "--workers N of `clbench suite`, or for loading as execution={'workers': N} of clbench.run",
}
"""What is given beside the settings, with the option that takes it."""


TREES = (*_SECTIONS, "params")


FULL_ONLY = {
    ("optim", "name"),
    *(("evaluation", key) for key in ("seed", "batch_size", "check", "prefix", "error")),
}
"""Fields that must be named in full: people who say `seed` or `batch_size` mean the run's and training's."""


def override(
    tree: dict[str, Any],
    given: Mapping[str, Any],
    benchmark: str,
    parts: Sequence[str],
    given_benchmark: bool,
) -> set[Address]:
    """Write values by key over the tree; return which settings they are."""
    addresses: dict[Address, str] = {}
    # The model first: which other keys there are depends on it, and its parameters go with the old one.
    for key in sorted(given, key=lambda key: key not in ("model", "model.name")):
        address = address_of(key, benchmark, parts, tree, given_benchmark)
        if address in addresses:
            raise ConfigError(f"'{addresses[address]}' and '{key}' are the same setting; give one of them.")
        addresses[address] = key
        _set(tree, address, own(given[key]))
    return set(addresses)


def address_of(
    key: str, benchmark: str, parts: Sequence[str], tree: Mapping[str, Any], given_benchmark: bool
) -> Address:
    """Return where a key of the command line belongs in the tree."""
    places = places_of(benchmark, parts, tree, given_benchmark)
    if "." in key:
        first, _, rest = key.partition(".")
        if first in parts:
            return ("params", first, rest)
        if first == "model" and rest not in ("name", "weights"):
            return ("model", "params", rest.removeprefix("params."))
        if first == "params" and (len(parts) == 1 or rest.partition(".")[0] in parts):
            return (
                ("params", parts[0], rest)
                if rest.partition(".")[0] not in parts
                else (first, *rest.split(".", 1))
            )
        if first in _SECTIONS:
            return (first, rest)
        owners = [*_SECTIONS, *parts]
        known = sorted({*places, *(f"{p[0][0]}.{k}" for k, p in places.items() if p[0][0] in SECTIONS)})
        raise ConfigError(
            f"There is no setting '{key}'.{suggest(key, known)} What stands before the dot is one of: "
            f"{', '.join(sorted(owners))}."
        )
    if key == "seed":
        raise ConfigError(
            "The seed of a run is given as --seed N, single ones as seeds.order, seeds.init, seeds.data."
        )
    found = places.get(key, [])
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(no_setting(key, sorted(places), parts))
    full = [".".join(p[1:] if p[0] == "params" else p) for p in found]
    raise ConfigError(f"'{key}' could mean {' or '.join(full)}; write which.")


def no_setting(key: str, known: Sequence[str], parts: Sequence[str]) -> str:
    """Return what to write in place of a key that is no setting: the option that it is, or the nearest settings."""
    if key in ELSEWHERE or key in Execution.model_fields:
        option = ELSEWHERE.get(key, f"execution={{'{key}': …}} of clbench.run")
        return f"'{key}' says how runs are carried out, and is no setting of one; give it as {option}."
    own = f"`clbench show {parts[0]}` lists the strategy's own."
    if strategies.entry(parts[0]).made_of is not None:
        own = "The strategy is an object, which has its own settings already; make it with others."
    return f"There is no setting '{key}'.{choices(key, known)} {own}"


def places_of(
    benchmark: str, parts: Sequence[str], tree: Mapping[str, Any], given_benchmark: bool
) -> dict[str, list[Address]]:
    """Return every key that may stand alone, with the addresses it could mean."""
    places: dict[str, list[Address]] = {}

    def add(key: str, address: Address) -> None:
        places.setdefault(key, []).append(address)

    for part in dict.fromkeys(parts):
        for name in strategies.entry(part).signature().parameters:
            add(name, ("params", part, name))
    if not given_benchmark:
        for name in benchmarks.entry(benchmark).signature().parameters:
            if name != "seed":
                add(name, ("stream", name))
    for section, model in SECTIONS.items():
        for name in model.model_fields:
            if (section, name) not in FULL_ONLY:
                add(name, (section, name))
    for name in ("precision", "channels_last", "threads", "memory_budget", "selection"):
        add(name, (name,))
    add("model", ("model", "name"))
    add("weights", ("model", "weights"))
    for name in _model_parameters(tree):
        add(name, ("model", "params", name))
    return places


def _model_parameters(tree: Mapping[str, Any]) -> list[str]:
    name = (tree.get("model") or {}).get("name", "")
    if name not in models.names():
        return []
    return [p for p in models.entry(name).signature().parameters if p not in ("input_shape", "num_classes")]


def _set(tree: dict[str, Any], address: Address, value: Any) -> None:
    if address == ("model", "name") and tree.get("model", {}).get("name") != value:
        tree["model"] = {}
    for key in address[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"'{'.'.join(address)}': '{key}' holds no settings of its own.")
    tree[address[-1]] = value
