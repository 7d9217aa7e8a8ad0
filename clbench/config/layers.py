"""The configuration of a run from its layers.

Values come from, each over the one before: `configs/defaults.yaml`, `configs/<benchmark>/defaults.yaml`,
`configs/<benchmark>/<strategy>.yaml` for every strategy of a chain, a file of the user's, and `key=value`
pairs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clbench.config.keys import TREES, address_of, no_setting, override, places_of
from clbench.config.schema import (
    RunConfig,
    TrainConfig,
    validate,
)
from clbench.config.selection import Address, Chosen, leaves
from clbench.config.yamls import read_yaml
from clbench.errors import ConfigError, choices
from clbench.files.places import ROOT
from clbench.registry import benchmarks, chain_parts, check_arguments, models, strategies
from clbench.registry.arguments import (
    hints_of,
    plain as own,
    signature_of,
)
from clbench.registry.reads import located, with_files


def resolve(
    benchmark: str,
    strategy: str,
    *overrides: Mapping[str, Any],
    seed: int = 0,
    file: Mapping[str, Any] | None = None,
    suite: Sequence[Mapping[str, Any]] = (),
    given_benchmark: bool = False,
) -> RunConfig:
    """Return the configuration of a run, complete and checked.

    Args:
        benchmark, strategy: registered names; the strategy may be a chain, `derpp+refresh`.
        overrides: `key → value`, as on the command line: `memory`, `optim.lr`, `derpp.alpha`,
            `stream.experiences`; of several, each over the one before. A key without a dot means the one
            parameter or field of that name there is.
        seed: for everything, unless `seeds.order`, `seeds.init` or `seeds.data` says otherwise.
        file: a configuration as read from YAML: the sections of `RunConfig`, and keys as on the command line.
        suite: `key → value` of a suite, under the file.
        given_benchmark: the benchmark is an object of the caller's, not a registered name.

    Raises:
        RegistryError: an unknown name. ConfigError: an unknown or ambiguous key, or a value that does not
            fit.
    """
    parts = chain_parts(strategy)
    for part in parts:
        strategies.entry(part)
    if not given_benchmark:
        benchmarks.entry(benchmark)
    if all(strategies.entry(part).modifier for part in parts):
        raise ConfigError(
            f"'{strategy}' only changes another strategy; name one to change, for example "
            f"'finetune+{strategy}'."
        )
    seed = own(seed)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"A seed is a whole number, 0 or more; {seed!r} was given.")
    tree: dict[str, Any] = {"seeds": {"order": seed, "init": seed, "data": seed}}
    chosen = Chosen(benchmark, "+".join(parts))
    for where, layer, whose in _layers(benchmark, parts):
        chosen.laid(_merge(tree, layer, parts, where), tree, whose)
    tree.setdefault("train", {}).setdefault("epochs", TrainConfig().epochs)
    keyed = functools.partial(
        override, tree, benchmark=benchmark, parts=parts, given_benchmark=given_benchmark
    )
    by_suite = {address for given in suite for address in keyed(given)}
    chosen.laid(by_suite, tree)
    by_file = _merge_file(tree, file or {}, benchmark, parts, given_benchmark)
    chosen.laid(by_file, tree)
    if tree.get("benchmark", benchmark) != benchmark or tree.get("strategy", strategy) != strategy:
        raise ConfigError(
            "A configuration file names another benchmark or strategy than the command line does."
        )
    by_key = {address for given in overrides for address in keyed(given)}
    chosen.laid(by_key, tree)
    if tree.get("stream", {}).get("online") and ("train", "epochs") not in by_suite | by_file | by_key:
        tree["train"]["epochs"] = 1  # shipped ones are meant for several passes
    tree["selection"] = chosen.now(tree)
    tree["benchmark"], tree["strategy"] = benchmark, strategy
    tree["params"] = {
        part: _all_arguments(
            f"strategy '{part}'", strategies.entry(part).build, tree.get("params", {}).get(part) or {}
        )
        for part in parts
    }
    for part in parts:  # what a factory refuses, it refuses before anything else is built
        strategies.make(part, **tree["params"][part])
    if not given_benchmark:
        entry = benchmarks.entry(benchmark)
        seeded = {"seed": tree["seeds"]["order"]} if "seed" in entry.signature().parameters else {}
        tree["stream"] = _all_arguments(
            f"benchmark '{benchmark}'", entry.build, {**seeded, **tree.get("stream", {})}
        )
    network = tree["model"] = _unfolded(tree["model"])
    options = network.get("params", {})
    if network.get("name") in models.names() and isinstance(
        options, Mapping
    ):  # what is none is refused below
        entry, shape = models.entry(network["name"]), {"input_shape": (), "num_classes": 0}
        given = {**options, **shape}
        filled = _all_arguments(f"model '{entry.name}'", entry.build, given)
        tree["model"] = {**network, "params": {k: v for k, v in filled.items() if k not in shape}}
    if isinstance(start_from := network.get("weights"), str | os.PathLike):
        tree["model"] = {**tree["model"], "weights": located(os.fspath(start_from))}
    if (recipe := tree.get("stream", {}).get("recipe")) is not None:
        tree["stream"] = {**tree["stream"], "recipe": _of_the_network(recipe, str(network.get("name")))}
    resolved: RunConfig = validate(RunConfig, tree)
    return resolved


PRETRAINED, TIMM = "pretrained", "timm:"
"""The recipe that is the run's network's own, and what stands before its name in the recipe's."""


def _of_the_network(recipe: Any, network: str) -> Any:
    """Return a benchmark's recipe with the network's name where it is the network's own.

    Raises:
        ConfigError: it is, and the network is none of timm, which alone tells how images are prepared.
    """
    lines = recipe if isinstance(recipe, Mapping) else {"name": recipe}
    if lines.get("name") != PRETRAINED:
        return recipe
    if network in models.names():
        raise ConfigError(
            f"recipe={PRETRAINED} prepares images as timm's configuration of the network says, and model={network} is "
            "none of timm. Take one, such as model=vit_base_patch16_224.augreg_in21k, or name a recipe: recipe=pilot."
        )
    named = f"{TIMM}{network.removeprefix(TIMM)}"
    return {**lines, "name": named} if isinstance(recipe, Mapping) else named


FOLDERS = "hf:"
"""Before a folder, in the place of a model's name: `model=hf:FOLDER` is `model=hf model.folder=FOLDER`."""


def _unfolded(network: dict[str, Any]) -> dict[str, Any]:
    """Return the section of the model with a folder among its parameters that was given as its name."""
    name = network.get("name")
    if not isinstance(name, str) or not name.startswith(FOLDERS):
        return network
    params = {"folder": name.removeprefix(FOLDERS), **network.get("params", {})}
    return {**network, "name": FOLDERS[:-1], "params": params}


def config_file(*parts: str) -> Path | None:
    """Return a file of the shipped `configs/`, or None."""
    file = _configs().joinpath(*parts)
    return file if file.is_file() else None


def suite_names() -> list[str]:
    """Return the shipped suites."""
    return shipped("suites")


def shipped(folder: str) -> list[str]:
    """Return the names of the configurations in a folder of the shipped `configs/`."""
    return sorted(file.stem for file in (_configs() / folder).glob("*.yaml"))


def _configs() -> Path:
    """Return the folder of shipped configurations: inside the package in a wheel, beside it in a checkout."""
    return ROOT / "configs"


def _layers(benchmark: str, parts: Sequence[str]) -> list[tuple[str, dict[str, Any], str]]:
    """Shipped settings, with the file that they stand in and the strategy that they are for; all where it is empty."""
    whose = dict.fromkeys([*parts, "+".join(parts)])
    names = [("", "defaults.yaml"), ("", benchmark, "defaults.yaml")]
    names += [(strategy, benchmark, f"{strategy}.yaml") for strategy in whose]
    found = [(strategy, f"configs/{'/'.join(name)}", config_file(*name)) for strategy, *name in names]
    return [(name, read_yaml(path), strategy) for strategy, name, path in found if path is not None]


def _merge(tree: dict[str, Any], layer: Mapping[str, Any], parts: Sequence[str], where: str) -> set[Address]:
    """Merge a layer over the tree; return what it sets. `params` may leave out the name of a single strategy."""
    known, settings = list(RunConfig.model_fields), set[Address]()
    for key, value in layer.items():
        if key not in known:
            raise ConfigError(f"{where}: there is no setting '{key}'.{choices(key, known)}")
        if key == "params" and value is not None:
            value = _params_by_part(value, parts, where)
        if key == "model" and isinstance(value, str):
            value = {"name": value, "params": {}}
        if key in TREES and value is None:  # a heading with nothing under it
            continue
        if key in TREES and not isinstance(value, Mapping):
            raise ConfigError(f"{where}: '{key}' takes `key: value` lines; {value!r} was given.")
        other = tree.get(key, {}).get("name") if key == "model" else None
        if other is not None and value.get("name", other) != other:
            tree[key] = {}  # another network's parameters do not carry over
        settings |= set(leaves(value, (key,))) if key in TREES else {(key,)}
        if isinstance(value, Mapping) and key in TREES:
            _deep(tree.setdefault(key, {}), value)
        else:
            tree[key] = value
    return settings


def _merge_file(
    tree: dict[str, Any],
    file: Mapping[str, Any],
    benchmark: str,
    parts: Sequence[str],
    given_benchmark: bool,
) -> set[Address]:
    """Merge a user's file over the tree: sections as in a run's `config.yaml`, and keys as on the command line.

    Returns:
        which settings it sets.
    """
    where = "the configuration file"
    sections = {key: value for key, value in file.items() if key in RunConfig.model_fields}
    settings = _merge(tree, sections, parts, where)
    keys: dict[str, Any] = {}
    for key in file.keys() - sections.keys():
        inner = file[key] if key in parts and isinstance(file[key], Mapping) else None  # derpp: {alpha: 0.5}
        given = {key: file[key]} if inner is None else {f"{key}.{name}": v for name, v in inner.items()}
        if twice := sorted(given.keys() & keys.keys()):
            raise ConfigError(f"{where}: '{twice[0]}' is given twice; give it once.")
        keys |= given
    for key in keys:
        if "." not in key and key not in (places := places_of(benchmark, parts, tree, given_benchmark)):
            known = sorted({*RunConfig.model_fields, *places})
            raise ConfigError(f"{where}: {no_setting(key, known, parts)}")
        address = address_of(key, benchmark, parts, tree, given_benchmark)
        inside: Any = sections
        for step in address:
            inside = inside.get(step) if isinstance(inside, Mapping) else None
        if inside is not None:
            raise ConfigError(
                f"{where}: '{key}' and '{'.'.join(address)}' are the same setting; give one of them."
            )
    return settings | override(tree, keys, benchmark, parts, given_benchmark)


def _params_by_part(params: Any, parts: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise ConfigError(f"{where}: 'params' takes `key: value` lines; {params!r} was given.")
    if all(key in parts and isinstance(value, Mapping) for key, value in params.items()):
        return dict(params)
    # A shipped configs/<benchmark>/<strategy>.yaml gives the parameters of its strategy.
    named = Path(where).stem
    owner = named if named in parts else parts[0] if len(parts) == 1 else None
    if owner is None:
        raise ConfigError(
            f"{where}: 'params' of a chain are given by strategy, for example `params: {{{parts[0]}: …}}`."
        )
    return {owner: dict(params)}


def _deep(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _deep(into[key], value)
        else:
            into[key] = value


def _all_arguments(who: str, build: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Given arguments, checked, with every default filled in, as plain values; files with their whole path."""
    checked = check_arguments(who, build, given)
    defaults = {k: p.default for k, p in signature_of(build).parameters.items() if p.default is not p.empty}
    values, hints = {k: plain(v) for k, v in {**defaults, **checked}.items()}, hints_of(who, build)
    return {k: with_files(hints.get(k), v, lambda at, path: located(path)) for k, v in values.items()}


def plain(value: Any) -> Any:
    """Return a value as YAML and JSON hold it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return value
