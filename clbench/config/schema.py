"""The configuration of a run: one checked, hashable tree. Imports no torch."""

from __future__ import annotations

import inspect
import os
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from clbench.config.selection import DEFAULTS, Selection
from clbench.errors import ConfigError, choices
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
from clbench.registry.arguments import (
    refusal,
    refuse_sets,
    shown,
)


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


Schedule = Literal[
    "constant",
    "cosine",
    "quarter-cosine",
    "linear",
    "steps",
    "restarts",
    "rex",
    "warm-cosine",
    "infinite",
    "wsd",
    "power",
]
READ_BY: dict[str, tuple[str, ...]] = {
    "minimum": ("warm-cosine", "infinite", "wsd", "power"),
    **dict.fromkeys(("anneal", "shape"), ("infinite", "wsd", "power")),
    **dict.fromkeys(("plateau", "cooldown", "cooling"), ("infinite",)),
    "branch": ("infinite", "wsd"),
    **dict.fromkeys(("gain", "exponent", "unit"), ("power",)),
}
"""Settings of phased schedules, and the schedules that read each."""


class OptimConfig(_Tree):
    """The optimizer and its schedule.

    Attributes:
        later_lr: in place of `lr` in every experience but the first, where a few examples would be fitted too fast.
        schedule: factor on `lr`: constant; cosine or linear to 0; quarter-cosine,
            cos(99 π max(t − 1, 0) / (200 (K − 1))) in pass t, from 0, of the experience's K; steps (× `gamma` at each
            of `milestones`, fractions of the steps); restarts, by pass: of a `cycle` of passes the first `rise` go
            from `floor` to 1 in a line, the others back in half a cosine; rex, (1 − u) / (½ + ½ (1 − u)) after a share
            u of the steps. In phases, warm-up first: warm-cosine to `minimum`; infinite, cooldown to `plateau`,
            constant, anneal to `minimum`; wsd, constant at 1, then the anneal; power, min(1, β a nᵇ / lr), then it.
        over: what the schedule goes over: each experience; the stream as a whole; open, for infinite and wsd: warm-up
            and cooldown in the first experience, constant from then on, an anneal at the end of every experience.
        warmup: fraction of the steps with a linear rise from 0, under any schedule.
        cooldown, anneal: where the cooldown ends and where the anneal begins, as fractions of the steps: points in
            time, not lengths. anneal is 0.86 for infinite and 0.9 for wsd and power if None; 1 leaves it out.
        plateau, minimum: the rate of the constant phase and the last one, in units of `lr`. minimum is 0.1 if None, 0
            for power.
        cooling: form of the cooldown: half a cosine, or 1 / √(1 + 10 u).
        shape: of the anneal: linear, 1-sqrt, cosine, exponential, inverse-linear. If None exponential; power's linear.
        branch: the anneal at an experience's end is a branch: it is evaluated, and the next experience goes on from the
            state before it; else from the annealed one.
        gain, exponent, unit: power: a and b; n is the examples that have come × unit, 1 or the tokens of an example. β
            is the batch size.
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
    schedule: Schedule = "constant"
    over: Literal["experience", "stream", "open"] = "experience"
    milestones: tuple[Part, ...] = (0.5, 0.75)
    gamma: Positive = 0.1
    cycle: Count = 200
    rise: Natural = 50
    floor: Share = 0.01
    warmup: Fraction = 0.0
    cooldown: Share = 0.6
    anneal: Share | None = None
    plateau: Share = 0.55
    minimum: Share | None = None
    cooling: Literal["cosine", "inverse-sqrt"] = "cosine"
    shape: Literal["linear", "1-sqrt", "cosine", "exponential", "inverse-linear"] | None = None
    branch: bool = False
    gain: Positive = 4.0
    exponent: Annotated[float, Field(le=0), HELD] = -0.51
    unit: Count = 1
    clip: Positive | None = None
    reset: bool = True

    @model_serializer(mode="wrap")
    def _as_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and stands at its default: ids and rows are as before there was a choice."""
        tree: dict[str, Any] = write(self)
        fields = type(self).model_fields
        later = {key for key in ("over", *READ_BY) if getattr(self, key) == fields[key].default}
        return {key: value for key, value in tree.items() if key not in later}

    @property
    def phased(self) -> bool:
        """Whether the schedule has phases."""
        return self.schedule in READ_BY["minimum"]

    @property
    def annealed(self) -> tuple[float, float, str]:
        """Where the anneal begins, the last rate and the form: the usual ones of the schedule where None is given."""
        begins, least, shape = {"infinite": 0.86}.get(self.schedule, 0.9), 0.1, "exponential"
        if self.schedule == "power":
            least, shape = 0.0, "linear"
        return (
            begins if self.anneal is None else self.anneal,
            least if self.minimum is None else self.minimum,
            self.shape or shape,
        )

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
        for key, readers in READ_BY.items():
            if self.schedule not in readers and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} is of schedule={' or '.join(readers)}, and schedule is {self.schedule}; leave it out"
                )
        if self.over == "open" and self.schedule not in READ_BY["branch"]:
            raise ValueError(f"over=open goes with schedule=infinite or wsd; schedule is {self.schedule}")
        if self.over != "experience" and self.schedule in ("quarter-cosine", "restarts"):
            raise ValueError(
                f"{self.schedule} counts the passes over an experience; leave over={self.over} out"
            )
        if self.branch and self.over != "open":
            raise ValueError("branch goes back at every experience's end; give over=open with it")
        if self.phased:
            self._phases()
        return self

    def _phases(self) -> None:
        """Refuse phases that do not follow each other."""
        begins, least, shape = self.annealed
        points = {"warmup": self.warmup, "cooldown": self.cooldown, "anneal": begins}
        if self.schedule != "infinite":
            del points["cooldown"]
            points |= {"anneal": 1.0} if self.schedule == "warm-cosine" else {}
        named = ", ".join(f"{key}={value:g}" for key, value in points.items())
        if list(points.values()) != sorted(points.values()) or points.get("cooldown") == self.warmup:
            raise ValueError(
                f"the phases of {self.schedule} do not follow each other: {named} are the points in time where they "
                "end and the anneal begins, as fractions of all steps, and not their lengths; let them rise"
            )
        top = self.plateau if self.schedule == "infinite" else 1.0
        if least > top:
            raise ValueError(f"minimum={least:g} is above the rate {top:g} that it is annealed from")
        if (
            least == 0
            and begins < 1
            and self.schedule != "warm-cosine"
            and shape in ("exponential", "inverse-linear")
        ):
            raise ValueError(f"a decay of shape={shape} never comes to 0; give minimum > 0, or shape=linear")
        if self.branch and begins == 1:
            raise ValueError("anneal=1 leaves no step to a branch; give anneal=0.9 or so")


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
        micro_batch: examples that one forward pass takes; what lies between is computed again on the way back. Any
            strategy's gradient is that of the whole batch, in the memory that so many examples take, for a third more
            computing.
    """

    batch_size: Count = 32
    later_batch_size: Count | None = None
    epochs: Count = 1
    later_epochs: Count | None = None
    iterations: Count | None = None
    later_iterations: Count | None = None
    drop_last: bool = False
    updates: Count = 1
    micro_batch: Count | None = None

    @model_serializer(mode="wrap")
    def _as_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is not set: ids and rows are as before."""
        tree: dict[str, Any] = write(self)
        return {key: value for key, value in tree.items() if (key, value) != ("micro_batch", None)}

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
        seed: for the choice and the order of test examples.
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
    """Separate seeds: for the stream (class order, permutations), the initialisation, and all that training
    draws."""

    order: Seed
    init: Seed
    data: Seed


_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _bytes(given: Any) -> Any:
    """Return `10MB` or `1.5 GiB` as a number of bytes; what is no text as it is."""
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([A-Za-z]*)", given.strip())
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    size = units.get((found[2] or "B").lower()) if found else None
    if found is None or size is None:
        raise ValueError(f"takes bytes, or a size such as 10MB or 1.5GiB; units are {', '.join(_UNITS)}")
    return int(float(found[1]) * size) if "." in found[1] else int(found[1]) * size


class RunConfig(_Tree):
    """Everything that decides a run's numbers, resolved. Its hash is part of the run's id.

    Attributes:
        memory_budget: bytes, or a size such as 10MB, that a strategy may hold beside the network: examples, features,
            teachers, prototypes, and what it adds to the network. One that would hold more is refused.
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
    memory_budget: Annotated[int, Field(ge=0, le=1 << 50), BeforeValidator(_bytes), HELD] | None = None
    seeds: Seeds
    selection: Selection = DEFAULTS

    @model_serializer(mode="wrap")
    def _as_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a budget that there is not: ids and rows are as before there could be one."""
        tree: dict[str, Any] = write(self)
        return {key: value for key, value in tree.items() if (key, value) != ("memory_budget", None)}

    def parts(self) -> list[str]:
        """Return the registered names of a chain, in order."""
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
        deterministic: on a GPU, only operations whose bits are the same each time; one that has none ends the run with
            its name. Convolutions and sums by index are slower.
        overlap: evaluate in another process, on a GPU on another stream, while training goes on; the numbers are the
            same.
        checkpoint_seconds: time between checkpoints; one is also written at every experience's end. No two lie
            closer than twenty times what writing one takes, unless this is 0: after every step. None writes none.
        keep_models: keep the model after every experience, for `clbench export --experience`, and not only the last.
        log: observers: csv, tensorboard, wandb.
        project, group: those of wandb; None takes what its own variables say, or clbench, and benchmark and strategy.
    """

    device: str = "auto"
    resident: Literal["auto", "always", "never"] = "auto"
    workers: Annotated[int, Field(ge=0, le=4096), HELD] = 2
    prefetch: Annotated[int, Field(ge=1, le=4096), HELD] = 4
    capture: Literal["auto", "never"] = "auto"
    deterministic: bool = False
    overlap: bool = False
    checkpoint_seconds: NotNegative | None = 60.0
    keep_models: bool = False
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


def validate(model: type[Any], tree: Mapping[str, Any], where: str = "") -> Any:
    """Return a checked configuration object.

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
                f"{where}There is no setting '{key}'.{choices(str(first['loc'][-1]), known)}"
            ) from None
        if first["type"] == "missing":
            raise ConfigError(f"{where}'{key}' is missing.") from None
        hint = _hint_at(model, first["loc"])
        if first["type"] == "value_error" or hint is None:
            given = "" if isinstance(first["input"], Mapping) else f"; {shown(first['input'])} was given"
            said = _lower(first["msg"].removeprefix("Value error, "))
            raise ConfigError(f"{where}'{key}': {said}{given}.") from None
        raise ConfigError(f"{where}{refusal(key, hint, first['input'], error)}") from None


def _hint_at(model: type[BaseModel], path: tuple[Any, ...]) -> Any:
    """Return the annotation of what stands at a path; None where it is not known."""
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
