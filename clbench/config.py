"""The configuration of a run: one resolved, checked, hashable tree. Imports no torch.

Values come from, each over the one before: `configs/defaults.yaml`, `configs/<benchmark>/defaults.yaml`,
`configs/<benchmark>/<strategy>.yaml` for every strategy of a chain, a file of the user's, and `key=value`
pairs.
"""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clbench.arguments import (
    hints_of,
    plain as own,
    refusal,
    refuse_sets,
    shown,
    signature_of,
)
from clbench.errors import ConfigError, suggest
from clbench.places import ROOT
from clbench.ranges import (
    HELD,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Part,
    Positive,
    Seed,
    Share,
    taken_apart,
)
from clbench.reads import located, with_files
from clbench.registry import benchmarks, chain_parts, check_arguments, models, strategies
from clbench.selection import DEFAULTS, Address, Chosen, Selection, leaves
from clbench.yamls import parse_pairs as parse_pairs, read_yaml as read_yaml


class _Tree(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelConfig(_Tree):
    """Which network, by its registered or timm name, and the factory's parameters.

    Attributes:
        weights: what its backbone starts from: the id of weights that `clbench pretrain` wrote, or a safetensors
            file, of it or of timm. Their hash is part of the run's id.
    """

    name: str = "mlp"
    params: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None


class OptimConfig(_Tree):
    """The optimizer and its schedule, which runs over one experience.

    Attributes:
        later_lr: in place of `lr` in every experience but the first, where a few examples would be fitted too fast.
        schedule: factor on `lr`: constant; cosine or linear to 0; quarter-cosine,
            cos(99 π max(t − 1, 0) / (200 (K − 1))) in pass t, from 0, of the experience's K; steps (× `gamma` at each
            of `milestones`, fractions of the experience's steps); restarts, by pass: of a `cycle` of passes the first
            `rise` go from `floor` to 1 in a line, the others back in half a cosine.
        warmup: fraction of the experience's steps with a linear rise from 0, under any schedule.
        clip: largest norm of the whole gradient; None leaves it as it is.
        reset: a fresh optimizer at every experience, where boundaries are told; otherwise momentum is carried
            over.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.1
    later_lr: Positive | None = None
    momentum: Fraction = 0.0
    nesterov: bool = False
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine", "quarter-cosine", "linear", "steps", "restarts"] = "constant"
    milestones: tuple[Part, ...] = (0.5, 0.75)
    gamma: Positive = 0.1
    cycle: Count = 200
    rise: Natural = 50
    floor: Share = 0.01
    warmup: Fraction = 0.0
    clip: Positive | None = None
    reset: bool = True

    @model_validator(mode="after")
    def _goes_together(self) -> OptimConfig:
        if self.nesterov and self.name == "sgd" and self.momentum == 0:
            raise ValueError(
                "nesterov looks ahead along the momentum, which is 0; give momentum=0.9, or nesterov=false"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones rise from one to the next; {list(self.milestones)} was given")
        if self.schedule == "restarts" and self.rise > self.cycle:
            raise ValueError(
                f"a cycle of {self.cycle} passes cannot rise for {self.rise}; give rise={self.cycle} or less"
            )
        return self


class TrainConfig(_Tree):
    """How long and in what portions.

    Attributes:
        batch_size: stream examples in a batch.
        later_batch_size: those of every experience but the first, where it is to be another.
        epochs: passes over an experience.
        later_epochs: passes over every experience but the first, where these are to be others: a few images need more.
        iterations: steps of an experience; overrides `epochs`, with as many passes as that takes.
        later_iterations: steps of every experience but the first, where these are to be others; with `iterations` only.
        drop_last: leave out the last batch of a pass when it is smaller.
        updates: on every batch of the stream, each with inputs augmented anew and other replayed examples. Memories
            take the batch once.
    """

    batch_size: Count = 32
    later_batch_size: Count | None = None
    epochs: Count = 1
    later_epochs: Count | None = None
    iterations: Count | None = None
    later_iterations: Count | None = None
    drop_last: bool = False
    updates: Count = 1

    @model_validator(mode="after")
    def _goes_together(self) -> TrainConfig:
        if self.later_iterations is not None and self.iterations is None:
            raise ValueError("later_iterations goes with iterations, the steps of the first experience")
        return self


class EvaluationConfig(_Tree):
    """The per-iteration evaluation.

    Attributes:
        every: steps between evaluations of all seen streams; 0 evaluates at experience ends only.
        every_examples: stream examples between them, in place of `every`: after the step with which a multiple of it is
            exceeded.
        subset: test examples of each experience that are used, a fixed random choice; None uses all.
        level: exact is float32, every example; fast has batch normalisation folded and fewer bits (bfloat16; on a CPU
            that can, convolutions in 8-bit integers and close calls again in float32), its disagreement with exact
            measured on the way and recorded; racing evaluates a prefix of each stream, and more only while a minimum
            can still change; racing+fast is both. Full test sets are evaluated exactly at any level.
        check: fast: steps between comparisons with exact.
        prefix: racing: examples of each stream that every tick evaluates.
        windows: racing: windowed forgetting of these widths, in ticks, is kept exact, too: 10 is WF10, 100 WF100. The
            weights of so many ticks are kept in memory for it.
        error: racing: probability that an extremum is wrong, over the whole run; 0 is certain.
        future: whether the full evaluations at experience ends include experiences that are still to come, as
            forward transfer needs; false saves time on long streams.
        seed: of the choice and the order of test examples.
        batch_size: examples in one forward pass; None chooses by device, network and cache.
        network: whether full evaluations measure the network, too: norms of its weights, effective learning rate,
            dormant units and effective rank of its features.
        indexed: retrieval: steps between looks at which documents are indexed, for forgetting events; 0 for none.
    """

    every: Natural = 1
    every_examples: Count | None = None
    subset: Count | None = None
    level: Literal["exact", "fast", "racing", "racing+fast"] = "exact"
    check: Count = 100
    prefix: Count = 32
    windows: tuple[Annotated[int, Field(ge=2), HELD], ...] = ()
    error: Fraction = 0.0
    future: bool = True
    seed: Seed = 0
    batch_size: Count | None = None
    network: bool = False
    indexed: Natural = 0

    @property
    def ticks(self) -> bool:
        """Whether anything is evaluated between experience ends."""
        return self.every > 0 or self.every_examples is not None

    def due(self, steps: int, before: int, after: int) -> bool:
        """Whether the step that ends with so many steps is evaluated.

        Args:
            steps: done so far. before, after: stream examples consumed before the last one and after it.
        """
        if self.every_examples is not None:
            return (after - 1) // self.every_examples > max(before - 1, 0) // self.every_examples
        return self.every > 0 and steps % self.every == 0

    def looks(self, steps: int) -> bool:
        """Whether documents are looked at after so many steps."""
        return self.indexed > 0 and steps % self.indexed == 0

    @property
    def fast(self) -> bool:
        return self.level.endswith("fast")

    @property
    def racing(self) -> bool:
        return self.level.startswith("racing")


class Seeds(_Tree):
    """Separate seeds: of the stream (class order, permutations), the initialisation, and all that training
    draws."""

    order: Seed
    init: Seed
    data: Seed


class RunConfig(_Tree):
    """Everything that decides a run's numbers, resolved. Its hash is part of the run's id.

    Attributes:
        threads: CPU threads of the numeric libraries, in each process of the run: sums are taken in another order with
            another number, and a long training makes other results of that.
        selection: how the hyper-parameters were chosen: defaults, fixed, or the protocol that `clbench tune` writes
            beside them; whoever changes a setting that stands beside it makes it fixed.
    """

    benchmark: str
    stream: dict[str, Any] = Field(default_factory=dict)
    strategy: str
    params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    threads: Annotated[int, Field(ge=1, le=4096), HELD] = 1
    seeds: Seeds
    selection: Selection = DEFAULTS

    def parts(self) -> list[str]:
        """The registered names of a chain, in order."""
        return self.strategy.split("+")


class Execution(_Tree):
    """How a run is carried out, which is not part of its id; the record names the device, the rest moves no number.

    Attributes:
        device: cpu, cuda, cuda:1 …; auto takes CUDA if there is one.
        resident: whether the training data lies on the device as a whole; auto decides by its size.
        workers, prefetch: processes that gather batches ahead and how many each, where it does not.
        capture: on a GPU, a step's forward pass, losses and backward pass are one launch (a CUDA graph), where every
            part of the strategy says that they can be; never leaves them to PyTorch's many. The numbers are the same,
            to the bit where the kernels allow.
        overlap: evaluate in another process, on a GPU on another stream, while training goes on; the numbers are the
            same.
        checkpoint_seconds: time between checkpoints; one is also written at every experience's end. No two lie
            closer than twenty times what writing one takes, unless this is 0: after every step. None writes none.
        log: observers: csv, tensorboard, wandb.
        project, group: of wandb; None takes what its own variables say, or clbench, and benchmark and strategy.
    """

    device: str = "auto"
    resident: Literal["auto", "always", "never"] = "auto"
    workers: Annotated[int, Field(ge=0, le=4096), HELD] = 2
    prefetch: Annotated[int, Field(ge=1, le=4096), HELD] = 4
    capture: Literal["auto", "never"] = "auto"
    overlap: bool = False
    checkpoint_seconds: NotNegative | None = 60.0
    log: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ()
    project: str | None = None
    group: str | None = None


def place() -> tuple[int, int, int]:
    """This process's rank, how many there are, and its rank on this machine, as torchrun says; (0, 1, 0) without.

    Raises:
        ConfigError: what it says is incomplete.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return 0, 1, 0
    try:
        if "MASTER_ADDR" not in os.environ:
            raise KeyError("MASTER_ADDR")
        return int(os.environ["RANK"]), int(size), int(os.environ["LOCAL_RANK"])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"WORLD_SIZE={size} in the environment asks for several processes, and {error} does not say which this is. "
            "Start them with torchrun, or unset WORLD_SIZE."
        ) from None


def cores() -> int:
    """CPU cores that this process may use; a container or a cluster's job may grant fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


SECTIONS: dict[str, type[BaseModel]] = {
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}
"""Sections whose fields may be named without the section, where that is unambiguous."""
_SECTIONS = ("evaluation", "model", "optim", "seeds", "stream", "train")
"""What may stand before the dot of a key, beside the strategies' names."""
_TREES = (*_SECTIONS, "params")
FULL_ONLY = {
    ("optim", "name"),
    *(("evaluation", key) for key in ("seed", "batch_size", "check", "prefix", "error")),
}
"""Fields that must be named in full: people who say `seed` or `batch_size` mean the run's and training's."""


def resolve(
    benchmark: str,
    strategy: str,
    *overrides: Mapping[str, Any],
    seed: int = 0,
    file: Mapping[str, Any] | None = None,
    suite: Sequence[Mapping[str, Any]] = (),
    given_benchmark: bool = False,
) -> RunConfig:
    """The configuration of a run, complete and checked.

    Args:
        benchmark, strategy: registered names; the strategy may be a chain, `derpp+refresh`.
        overrides: `key → value`, as on the command line: `memory`, `optim.lr`, `derpp.alpha`,
            `stream.experiences`; of several, each over the one before. A key without a dot means the one
            parameter or field of that name there is.
        seed: of everything, unless `seeds.order`, `seeds.init` or `seeds.data` says otherwise.
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
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"A seed is a whole number, 0 or more; {seed!r} was given.")
    tree: dict[str, Any] = {"seeds": {"order": seed, "init": seed, "data": seed}}
    chosen = Chosen(benchmark, "+".join(parts))
    for where, layer, whose in _layers(benchmark, parts):
        chosen.laid(_merge(tree, layer, parts, where), tree, whose)
    tree.setdefault("train", {}).setdefault("epochs", TrainConfig().epochs)
    keyed = functools.partial(
        _override, tree, benchmark=benchmark, parts=parts, given_benchmark=given_benchmark
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
    network = tree["model"]
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
    resolved: RunConfig = validate(RunConfig, tree)
    return resolved


def validate(model: type[Any], tree: Mapping[str, Any], where: str = "") -> Any:
    """A checked configuration object.

    Raises:
        ConfigError: names the key, what is allowed and what was given.
    """
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        refuse_sets(f"{where}'{name}'", value)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(p) for p in first["loc"])
        if model is Execution and key in RunConfig.model_fields:
            raise ConfigError(
                f"{where}'{key}' is a setting of the run, and part of its id: {key}={first['input']} among the "
                "settings, not in how it is carried out."
            ) from None
        if first["type"] == "extra_forbidden":
            known = list(getattr(_hint_at(model, first["loc"][:-1]), "model_fields", ()))
            raise ConfigError(
                f"{where}There is no setting '{key}'.{suggest(str(first['loc'][-1]), known)} "
                f"Known: {', '.join(known)}."
            ) from None
        if first["type"] == "missing":
            raise ConfigError(f"{where}'{key}' is missing.") from None
        hint = _hint_at(model, first["loc"])
        if first["type"] == "value_error" or hint is None:
            given = "" if isinstance(first["input"], Mapping) else f"; {shown(first['input'])} was given"
            said = _lower(first["msg"].removeprefix("Value error, "))
            raise ConfigError(f"{where}'{key}': {said}{given}.") from None
        raise ConfigError(f"{where}{refusal(key, hint, first['input'], error)}") from None


def config_file(*parts: str) -> Path | None:
    """A file of the shipped `configs/`, or None."""
    file = _configs().joinpath(*parts)
    return file if file.is_file() else None


def suite_names() -> list[str]:
    """The shipped suites."""
    return shipped("suites")


def shipped(folder: str) -> list[str]:
    """The names of the configurations in a folder of the shipped `configs/`."""
    return sorted(file.stem for file in (_configs() / folder).glob("*.yaml"))


def _configs() -> Path:
    """The folder of shipped configurations: inside the package in a wheel, beside it in a checkout."""
    return ROOT / "configs"


# --- layers ---


def _layers(benchmark: str, parts: Sequence[str]) -> list[tuple[str, dict[str, Any], str]]:
    """Shipped settings, with the file that they stand in and the strategy that they are for; all where it is empty."""
    whose = dict.fromkeys([*parts, "+".join(parts)])
    names = [("", "defaults.yaml"), ("", benchmark, "defaults.yaml")]
    names += [(strategy, benchmark, f"{strategy}.yaml") for strategy in whose]
    found = [(strategy, f"configs/{'/'.join(name)}", config_file(*name)) for strategy, *name in names]
    return [(name, read_yaml(path), strategy) for strategy, name, path in found if path is not None]


def _merge(tree: dict[str, Any], layer: Mapping[str, Any], parts: Sequence[str], where: str) -> set[Address]:
    """A layer over the tree; which settings it sets. `params` may leave out the name of a single strategy."""
    known, settings = list(RunConfig.model_fields), set[Address]()
    for key, value in layer.items():
        if key not in known:
            raise ConfigError(
                f"{where}: there is no setting '{key}'.{suggest(key, known)} Known: {', '.join(known)}."
            )
        if key == "params" and value is not None:
            value = _params_by_part(value, parts, where)
        if key == "model" and isinstance(value, str):
            value = {"name": value, "params": {}}
        if key in _TREES and value is None:  # a heading with nothing under it
            continue
        if key in _TREES and not isinstance(value, Mapping):
            raise ConfigError(f"{where}: '{key}' takes `key: value` lines; {value!r} was given.")
        other = tree.get(key, {}).get("name") if key == "model" else None
        if other is not None and value.get("name", other) != other:
            tree[key] = {}  # another network's parameters do not carry over
        settings |= set(leaves(value, (key,))) if key in _TREES else {(key,)}
        if isinstance(value, Mapping) and key in _TREES:
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
    """A user's file over the tree: sections as in a run's `config.yaml`, and keys as on the command line.

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
        if "." not in key and key not in (places := _places(benchmark, parts, tree, given_benchmark)):
            known = sorted({*RunConfig.model_fields, *places})
            raise ConfigError(
                f"{where}: there is no setting '{key}'.{suggest(key, known)} Known: {', '.join(known)}."
            )
        address = _address(key, benchmark, parts, tree, given_benchmark)
        inside: Any = sections
        for step in address:
            inside = inside.get(step) if isinstance(inside, Mapping) else None
        if inside is not None:
            raise ConfigError(
                f"{where}: '{key}' and '{'.'.join(address)}' are the same setting; give one of them."
            )
    return settings | _override(tree, keys, benchmark, parts, given_benchmark)


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


# --- keys ---


def _override(
    tree: dict[str, Any],
    given: Mapping[str, Any],
    benchmark: str,
    parts: Sequence[str],
    given_benchmark: bool,
) -> set[Address]:
    """Values by key over the tree; which settings they are."""
    addresses: dict[Address, str] = {}
    # The model first: which other keys there are depends on it, and its parameters go with the old one.
    for key in sorted(given, key=lambda key: key not in ("model", "model.name")):
        address = _address(key, benchmark, parts, tree, given_benchmark)
        if address in addresses:
            raise ConfigError(f"'{addresses[address]}' and '{key}' are the same setting; give one of them.")
        addresses[address] = key
        _set(tree, address, own(given[key]))
    return set(addresses)


def _address(
    key: str, benchmark: str, parts: Sequence[str], tree: Mapping[str, Any], given_benchmark: bool
) -> Address:
    """Where a key of the command line belongs in the tree."""
    places = _places(benchmark, parts, tree, given_benchmark)
    known = sorted({*places, *(f"{p[0][0]}.{k}" for k, p in places.items() if p[0][0] in SECTIONS)})
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
        raise ConfigError(
            f"There is no setting '{key}'.{suggest(key, known)} Known: {', '.join(sorted(places))}."
        )
    full = [".".join(p[1:] if p[0] == "params" else p) for p in found]
    raise ConfigError(f"'{key}' could mean {' or '.join(full)}; write which.")


def _places(
    benchmark: str, parts: Sequence[str], tree: Mapping[str, Any], given_benchmark: bool
) -> dict[str, list[Address]]:
    """Every key that may stand alone, with the addresses it could mean."""
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
    for name in ("precision", "channels_last", "threads", "selection"):
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


def _all_arguments(who: str, build: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Given arguments, checked, with every default filled in, as plain values; files with their whole path."""
    checked = check_arguments(who, build, given)
    defaults = {k: p.default for k, p in signature_of(build).parameters.items() if p.default is not p.empty}
    values, hints = {k: plain(v) for k, v in {**defaults, **checked}.items()}, hints_of(who, build)
    return {k: with_files(hints.get(k), v, lambda at, path: located(path)) for k, v in values.items()}


def plain(value: Any) -> Any:
    """A value as YAML and JSON hold it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return value


def _hint_at(model: type[BaseModel], path: tuple[Any, ...]) -> Any:
    """The annotation of what stands at a path; None where it is not known."""
    hint: Any = model
    for key in path:
        inner = taken_apart(hint)[0]
        if inspect.isclass(inner) and issubclass(inner, BaseModel) and key in inner.model_fields:
            info = inner.model_fields[key]
            hint = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        elif isinstance(key, int) and (inside := typing.get_args(inner)):
            hint = inside[key if key < len(inside) and inside[-1] is not ... else 0]
        else:
            return None
    return hint


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".")
