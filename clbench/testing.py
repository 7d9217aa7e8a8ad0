"""The contract that every strategy passes, and a tiny benchmark to try things on. Public: plugins use it.

    from clbench.testing import check_strategy
    for result in check_strategy("my-strategy"):
        print(result.check, result.status, result.message)

or, one pytest item for each strategy and check:

    from clbench.testing import parametrize_with_checks

    @parametrize_with_checks(["my-strategy"])
    def test_contract(strategy, check):
        check(strategy)

A check is a function of a `Subject`; the sentence in its docstring is the rule. It raises `Violation` where
the rule is broken and `NotApplicable` where it says nothing about a strategy. What the contract cannot know
is the method itself: a strategy also has a test of its equations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from clbench import checkpoint
from clbench.api import build_strategy
from clbench.augment import Transform
from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.engine import Run, derive_seed
from clbench.errors import ClbenchError, ConfigError, DataError, IncompatibleError, suggest
from clbench.models import Classifier
from clbench.observer import Observer
from clbench.registry import Entry, benchmarks, strategies
from clbench.strategy import Strategy, chain, overrides
from clbench.types import HIDDEN, NEEDS, Batch, Benchmark, Data, Experience, Output, Pool, Setting, Stream

MEMORY = 10
"""Examples granted where a check measures what a strategy keeps."""


class Violation(AssertionError):  # noqa: N818  # what is broken is a rule
    """A rule of the contract is broken; the message says how."""


class NotApplicable(Exception):  # noqa: N818  # not an error
    """A rule says nothing about this strategy or benchmark; the message says why."""


# --- a benchmark and a model that cost nothing ---


def tiny_benchmark(
    *,
    shift: Literal["class", "domain", "task"] = "class",
    experiences: int = 3,
    classes: int = 2,
    examples: int = 64,
    images: bool = False,
    repeat: bool = False,
    tasks: Sequence[int] | None = None,
    boundaries: bool = True,
    task_labels: Literal["never", "train", "always"] | None = None,
    passes: int | None = None,
    memory: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Experiences of a few well separated Gaussian classes; half as many test examples.

    Args:
        shift: with "domain", all experiences hold the same classes, at other places.
        experiences, classes, examples: how many; classes and examples of each experience.
        images: (1, 4, 4) uint8 images in place of 8 float features.
        repeat: the last experience holds the first class again in place of one of its own.
        tasks: the experiences' true task labels; their indices if None.
        boundaries, task_labels, passes, memory: of the `Setting`; task labels are always told under "task"
            shift unless said otherwise.
        seed: of everything drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    domain = shift == "domain"
    starts = [0 if domain else i * classes for i in range(experiences)]
    groups = [tuple(range(start, start + classes)) for start in starts]
    if repeat:
        groups[-1] = (0, *groups[-1][1:])
    features = 16 if images else 8
    clusters = experiences * classes
    # Means on corners of a cube, so that classes are apart in several features.
    corners = torch.rand((clusters, features), generator=generator).round() * 4 - 2
    means = corners + torch.eye(clusters, features)
    labels = tuple(tasks) if tasks is not None else tuple(range(experiences))

    def stream(name: str, size: int) -> Stream:
        xs, ys = [], []
        for i, group in enumerate(groups):
            y = torch.tensor(group)[torch.arange(size) % len(group)]
            place = y + i * classes if domain else y
            xs.append(means[place] + 0.5 * torch.randn((size, features), generator=generator))
            ys.append(y)
        x = torch.cat(xs)
        if images:
            x = (x * 32 + 128).clamp(0, 255).to(torch.uint8).view(-1, 1, 4, 4)
        pool = Pool(x, torch.cat(ys))
        return Stream(
            name,
            tuple(
                Experience(
                    i,
                    tuple(sorted(group)),
                    Data.of(pool, torch.arange(i * size, (i + 1) * size)),
                    labels[i],
                    f"domain {i}" if domain else None,
                )
                for i, group in enumerate(groups)
            ),
        )

    return Benchmark(
        name="tiny",
        version=1,
        setting=Setting(
            shift=shift,
            boundaries=boundaries,
            task_labels=task_labels or ("always" if shift == "task" else "never"),
            passes=passes,
            memory=memory,
        ),
        train=stream("train", examples),
        test=stream("test", max(examples // 2, 1)),
        num_classes=classes if domain else experiences * classes,
        transform=Transform(mean=(0.5,), std=(0.25,)) if images else Transform(),
        seed=seed,
    )


def tiny_model(benchmark: Benchmark, *, norm: bool = True) -> Classifier:
    """One hidden layer of 16 units, with batch normalisation unless said otherwise.

    Its running statistics show whatever runs the model once too often, or in the wrong mode.
    """
    size_in = torch.Size(benchmark.input_shape).numel()
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(size_in, 16)]
    if norm:
        layers.append(nn.BatchNorm1d(16))
    return Classifier(nn.Sequential(*layers, nn.ReLU()), 16, benchmark.num_classes)


def tiny_run(
    strategy: Strategy,
    benchmark: Benchmark,
    *,
    seed: int = 0,
    model: Classifier | None = None,
    batch_size: int = 32,
    epochs: int = 2,
    every: int = 0,
    optim: OptimConfig | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: str = "cpu",
    checkpoint_seconds: float | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """The engine, before its first step, with a freshly initialised `tiny_model` unless one is given."""
    config = RunConfig(
        benchmark=benchmark.name,
        strategy=str(strategy),
        optim=optim or OptimConfig(lr=0.02, momentum=0.9, reset=False),
        train=TrainConfig(batch_size=batch_size, epochs=epochs),
        evaluation=EvaluationConfig(every=every),
        precision=precision,
        seeds=Seeds(order=0, init=seed, data=seed),
    )
    execution = Execution(device=device, checkpoint_seconds=checkpoint_seconds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        network = tiny_model(benchmark) if model is None else model
        return Run(benchmark, strategy, network, config, execution, observers)


# --- what is checked ---


@dataclass(frozen=True)
class Subject:
    """A strategy under test.

    Attributes:
        name: for messages.
        make: builds it anew; takes parameters by name.
        parameters: the names of those parameters.
        null: parameters with which it is fine-tuning; None if it declares none.
        memory: the parameters that say how many examples it keeps.
        model: builds the network to check it on; `tiny_model` if None.
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
    ) -> Run:
        """A run of it, before its first step."""
        how.setdefault("seed", 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(how["seed"], "initialisation"))
            model = self.model(benchmark) if self.model is not None else tiny_model(benchmark, norm=norm)
        return tiny_run(
            self.make() if strategy is None else strategy, benchmark, model=model, device=self.device, **how
        )

    def fitted(self, benchmark: Benchmark, strategy: Strategy | None = None, **how: Any) -> Run:
        """A run of it, to the end."""
        run = self.run(benchmark, strategy, **how)
        run.fit()
        return run

    def benchmark(self, **spec: Any) -> Benchmark:
        """A `tiny_benchmark` that offers what the strategy needs, and nothing about tasks beyond that."""
        if "task labels" in self.needs:
            spec.setdefault("task_labels", "always")
        return tiny_benchmark(**spec)

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
    """What to check, from a registered name, a chain of names, or a factory.

    A modifier, which cannot train alone, is checked on fine-tuning.

    Raises:
        RegistryError: an unknown name.
    """
    if isinstance(strategy, str):
        parts = strategy.split("+")
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
        given: dict[str, dict[str, Any]] = {part: {} for part in parts}
        for key, value in params.items():
            part, _, name = key.partition("__")
            given[part][name] = value
        return build_strategy("+".join(parts), given)

    null = None
    if all(entry.null is not None for entry in entries):
        null = {
            f"{part}__{k}": v
            for part, e in zip(parts, entries, strict=True)
            for k, v in (e.null or {}).items()
        }
    memory = tuple(
        f"{p}__memory" for p, e in zip(parts, entries, strict=True) if "memory" in e.signature().parameters
    )
    factories = tuple(entry.build for entry in entries if entry.build is not None)
    return Subject("+".join(parts), make, null, memory, model, device, factories)


# --- the rules ---


def check_builds(subject: Subject) -> None:
    """It builds without arguments, has a docstring, and annotates all parameters, with immutable defaults."""
    for factory in subject.factories:
        name = getattr(factory, "__name__", str(factory))
        _require(
            bool(inspect.getdoc(factory)),
            f"{name} has no docstring; its first sentence says what the method does",
        )
        for key, parameter in inspect.signature(factory).parameters.items():
            _require(
                parameter.annotation is not parameter.empty, f"parameter '{key}' of {name} is not annotated"
            )
            _require(parameter.default is not parameter.empty, f"parameter '{key}' of {name} has no default")
            mutable = isinstance(parameter.default, list | dict | set | Tensor)
            _require(
                not mutable, f"the default of parameter '{key}' of {name} can be changed by whoever gets it"
            )
    strategy = subject.make()
    _require(isinstance(strategy, Strategy), f"it builds a {type(strategy).__name__}, not a Strategy")
    unknown = strategy.all_needs() - set(NEEDS)
    _require(not unknown, f"it declares the need {', '.join(sorted(unknown))}; needs are {', '.join(NEEDS)}")
    run = subject.run(subject.benchmark(), strategy)
    for part in run.strategy.parts:
        for name in part.state:
            _require(
                hasattr(part, name), f"{part} names '{name}' in `state` but has no such attribute after setup"
            )


def check_deterministic(subject: Subject) -> None:
    """The same seed gives the same bits, another seed gives others."""
    benchmark = subject.benchmark()
    first, again, other = (_everything(subject.fitted(benchmark, seed=seed, every=1)) for seed in (0, 0, 1))
    _same(first, again, "two runs with one seed differ")
    _require(difference(first["model"], other["model"]) is not None, "another seed gives the same weights")


def check_private_randomness(subject: Subject) -> None:
    """Its points neither move nor read the global generators of torch, numpy and Python; use `run.rng`."""
    benchmark = subject.benchmark()

    def still(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        before = _global_generators()
        result = call()
        moved = [name for name, state in _global_generators().items() if state != before[name]]
        _require(not moved, f"{point} moves the global generator of {' and of '.join(moved)}")
        return result

    def disturbed(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        _seed_globals(next(numbers))
        return call()

    plain = subject.run(benchmark, watch(subject.make(), still), every=2)
    plain.fit()
    numbers = iter(range(1, 1_000_000))
    with _globals_kept():
        shaken = subject.run(benchmark, watch(subject.make(), disturbed), every=2)
        shaken.fit()
    _same(_everything(plain), _everything(shaken), "the result depends on the state of a global generator")


def check_inputs_untouched(subject: Subject) -> None:
    """It writes neither into the batch and the output it is given nor into the benchmark's data."""

    def compare(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        tensors = _tensors_of(arguments)
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        result = call()
        written = [
            name for name, tensor in tensors.items() if difference(before[name], tensor.detach()) is not None
        ]
        _require(not written, f"{point} writes into {', '.join(written)}")
        return result

    for images in (False, True):
        benchmark = subject.benchmark(images=images)
        pools = {
            id(pool): pool
            for stream in (benchmark.train, benchmark.test)
            for e in stream
            for pool, *_ in e.data.parts
        }
        before = {key: (pool.x.clone(), pool.y.clone()) for key, pool in pools.items()}
        subject.fitted(benchmark, watch(subject.make(), compare), every=2)
        for key, pool in pools.items():
            same = torch.equal(pool.x, before[key][0]) and torch.equal(pool.y, before[key][1])
            _require(same, "the benchmark's examples were changed during the run")


def check_modes_restored(subject: Subject) -> None:
    """Every point leaves the model's modules in the train or eval mode it found them in."""
    run: Run

    def compare(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        before = [module.training for module in run.model.modules()]
        result = call()
        after = [module.training for module in run.model.modules()]
        _require(
            before == after or point == "begin_experience",
            f"{point} leaves the model in another train or eval mode",
        )
        return result

    run = subject.run(subject.benchmark(), watch(subject.make(), compare), every=2)
    run.fit()


def check_evaluation_silent(subject: Subject) -> None:
    """Evaluating after every step changes no bit of the weights, the strategy's state or a random stream."""
    benchmark = subject.benchmark()
    silent, watched = (_everything(subject.fitted(benchmark, every=every)) for every in (0, 1))
    silent.pop("evaluator"), watched.pop("evaluator")
    _same(silent, watched, "evaluation changes the run")


def check_resumes(subject: Subject) -> None:
    """Saved to disk within an experience or between two, and loaded afresh, it continues to the same bits."""
    benchmark = subject.benchmark()
    reference = _everything(subject.fitted(benchmark, every=1))
    with tempfile.TemporaryDirectory() as folder:
        saved: dict[str, list[Path]] = {"within": [], "between": []}

        def save() -> None:
            state = run.state_dict()
            paths = saved[state["place"]["phase"]]
            paths.append(Path(folder) / f"{state['place']['phase']}-{len(paths)}")
            checkpoint.save(paths[-1], state)

        run = subject.run(benchmark, every=1, checkpoint_seconds=0.0)
        run.fit(save)
        _same(reference, _everything(run), "saving checkpoints changes the run")
        middle = saved["within"][len(saved["within"]) // 2]
        for when, path in (
            ("within an experience", middle),
            ("between two experiences", saved["between"][0]),
        ):
            fresh = subject.run(benchmark, every=1)
            fresh.load_state_dict(checkpoint.load(path))
            fresh.fit()
            _same(reference, _everything(fresh), f"a run resumed {when} ends differently")


def check_learns(subject: Subject) -> None:
    """It gets more than 90 % right after a single stationary experience of four easy classes."""
    benchmark = subject.benchmark(experiences=1, classes=4)
    curve = subject.fitted(benchmark, batch_size=16, epochs=12).evaluator.curve
    accuracy = curve.correct[-1] / curve.total[-1]
    _require(accuracy > 0.9, f"it gets {100 * accuracy:.1f} % right")


def check_odd_batches(subject: Subject) -> None:
    """It copes with one example, a batch larger than the experience, a memory of one, a class seen again."""
    small = dict.fromkeys(subject.memory, 1)
    for what, spec, batch_size in (
        ("a last batch of one example", {"examples": 17}, 16),
        ("an experience of one example", {"examples": 1, "classes": 1}, 16),
        ("a batch larger than the experience", {"examples": 20}, 64),
        ("a class seen in two experiences", {"repeat": True}, 32),
    ):
        for strategy in [subject.make()] + ([subject.make(**small)] if small else []):
            try:
                # Batch normalisation cannot train on one example, which is no fault of a strategy.
                run = subject.fitted(
                    subject.benchmark(**spec), strategy, batch_size=batch_size, norm=False, every=1
                )
            except Exception as error:
                raise Violation(f"{what}: {type(error).__name__}: {error}") from error
            finite = all(bool(p.isfinite().all()) for p in run.model.parameters())
            _require(finite, f"{what}: the weights are no longer finite")


def check_low_precision(subject: Subject) -> None:
    """Under bf16, and in full precision, each of its losses is a finite float32 scalar."""

    def inspect_losses(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        result = call()
        if point == "losses":
            for name, loss in result.items():
                _require(isinstance(loss, Tensor) and loss.ndim == 0, f"loss '{name}' is no scalar tensor")
                _require(
                    loss.dtype == torch.float32,
                    f"loss '{name}' is {loss.dtype} under {precision}, not float32",
                )
                _require(bool(loss.isfinite()), f"loss '{name}' is {loss.item()} under {precision}")
        return result

    for precision in ("bf16", "fp32"):
        subject.fitted(
            subject.benchmark(), watch(subject.make(), inspect_losses), precision=precision, every=2
        )


def check_memory_budget(subject: Subject) -> None:
    """Its state never holds more raw examples than it was granted, counted in the tensors themselves."""
    params = dict.fromkeys(subject.memory, MEMORY)
    granted = MEMORY * max(len(params), int("memory" in subject.needs))
    # uint8 inputs: no weight or statistic can be taken for one
    benchmark = subject.benchmark(images=True, memory=granted)

    def count() -> None:
        held = stored_examples([part.state_dict() for part in run.strategy.parts], benchmark)
        _require(held <= granted, f"it holds {held} examples after step {run.step} and may keep {granted}")

    strategy = subject.make(**params)
    if "memory" in subject.needs and not params:
        raise NotApplicable("it keeps examples but has no parameter `memory` to grant them by")
    run = subject.run(benchmark, strategy, batch_size=8, checkpoint_seconds=0.0)
    run.fit(count)


def check_declares_needs(subject: Subject) -> None:
    """A setting without what it needs is refused at once; what it does not declare makes no difference."""
    without: dict[str, dict[str, Any]] = {
        "boundaries": {"boundaries": False},
        "task labels": {"task_labels": "never"},
        "memory": {"memory": 0},
        "several passes": {"passes": 1},
    }
    for need, spec in without.items():
        epochs = 1 if need == "several passes" else 2
        benchmark = subject.benchmark(**spec, images=True)
        if need in subject.needs:
            try:
                subject.run(benchmark, epochs=epochs)
            except IncompatibleError:
                continue
            raise Violation(f"it needs {need}, and a setting without is not refused")
        run = subject.fitted(benchmark, epochs=epochs, every=2)
        granted = subject.fitted(subject.benchmark(images=True), epochs=epochs, every=2)
        _same(
            _everything(granted),
            _everything(run),
            f"it declares no need of {need} but does otherwise without",
        )
        if need == "memory":
            held = stored_examples([part.state_dict() for part in run.strategy.parts], benchmark)
            _require(held == 0, f"it declares no need of memory but holds {held} examples")


def check_chain_unit(subject: Subject) -> None:
    """Chaining it with the plain `Strategy()`, before or after, gives it back."""
    strategy = subject.make()
    _require(chain(strategy, Strategy()) is strategy, "chain(s, Strategy()) is not s")
    _require(chain(Strategy(), strategy) is strategy, "chain(Strategy(), s) is not s")


def check_null_parameters(subject: Subject) -> None:
    """With the parameters it declares as `null` it is fine-tuning, bit for bit, running statistics too."""
    if subject.null is None:
        raise NotApplicable("it declares no null parameters")
    benchmark = subject.benchmark()
    null = subject.fitted(benchmark, subject.make(**subject.null), every=2)
    _same(_learned(subject.fitted(benchmark, _finetune(), every=2)), _learned(null), "it is not fine-tuning")


def check_takes_effect(subject: Subject) -> None:
    """With its defaults it is not fine-tuning: on a class-, domain- or task-incremental stream."""
    if subject.null == {}:
        raise NotApplicable("it is fine-tuning")
    shifts: tuple[Literal["class", "domain", "task"], ...] = ("class", "domain", "task")
    for shift in shifts:
        benchmark = subject.benchmark(shift=shift)
        apart = difference(
            _learned(subject.fitted(benchmark, _finetune())), _learned(subject.fitted(benchmark))
        )
        _require(apart is not None, f"on a {shift}-incremental stream: it is fine-tuning, bit for bit")


def check_first_experience(subject: Subject) -> None:
    """If all it knows of the past comes at boundaries, it is fine-tuning up to the first one, bit for bit."""
    strategy = subject.make()
    if "boundaries" not in subject.needs or subject.needs & {"memory", "past data"}:
        raise NotApplicable("it does not wait for a boundary")
    changing = [point for point in ("wrap", "order") for part in strategy.parts if overrides(part, point)]
    if changing:
        raise NotApplicable(f"it trains another way from the start: it defines {changing[0]}()")
    benchmark = subject.benchmark(experiences=1)
    first = subject.fitted(benchmark, strategy)
    _same(
        _learned(subject.fitted(benchmark, _finetune())),
        _learned(first),
        "its first experience is not fine-tuning",
    )


def check_tasks_hidden(subject: Subject) -> None:
    """Where the setting tells no task labels, it sees none and the true ones make no difference."""
    if "task labels" in subject.needs:
        raise NotApplicable("it needs task labels")

    def look(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        for argument in arguments:
            if isinstance(argument, Batch):
                _require(bool((argument.task == HIDDEN).all()), f"{point} is given a batch with task labels")
            if isinstance(argument, Experience):
                _require(argument.task == HIDDEN, f"{point} is given an experience with its task label")
        return call()

    runs = [
        subject.fitted(tiny_benchmark(tasks=tasks), watch(subject.make(), look), every=2)
        for tasks in ((0, 1, 2), (2, 0, 1))
    ]
    _same(
        _everything(runs[0]), _everything(runs[1]), "the result depends on task labels that it may not know"
    )


def check_prediction_alone(subject: Subject) -> None:
    """What it predicts for an example does not depend on the examples predicted with it."""
    run = subject.fitted(subject.benchmark())
    x = torch.cat([run.normalise(exp.data.x()) for exp in run.benchmark.test]).to(run.device)
    told = run.benchmark.setting.task_labels == "always"
    task = torch.cat(
        [torch.full((len(exp),), exp.task if told else HIDDEN) for exp in run.benchmark.test]
    ).to(run.device)
    with torch.no_grad(), run.evaluating():
        together = run.predict(x, task)
        for rows in torch.split(torch.arange(len(x), device=run.device).flip(0), 7):
            # the size of a product decides the order of its sums, so the last bits may differ
            same = torch.allclose(run.predict(x[rows], task[rows]), together[rows], rtol=1e-4, atol=1e-5)
            _require(same, "predictions of the same examples differ with what else is in the batch")


CHECKS: list[Callable[[Subject], None]] = [
    check_builds,
    check_deterministic,
    check_private_randomness,
    check_inputs_untouched,
    check_modes_restored,
    check_evaluation_silent,
    check_resumes,
    check_learns,
    check_odd_batches,
    check_low_precision,
    check_memory_budget,
    check_declares_needs,
    check_chain_unit,
    check_null_parameters,
    check_takes_effect,
    check_first_experience,
    check_tasks_hidden,
    check_prediction_alone,
]
"""The contract, rule by rule."""


# --- checking ---


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        check: its name; rule: what it demands.
        status: "passed", "failed", "skipped" (the rule does not apply), "expected" (a known failure).
        message: how the rule is broken, why it does not apply, or the known reason.
    """

    check: str
    rule: str
    status: Literal["passed", "failed", "skipped", "expected"]
    message: str = ""

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


def check_strategy(
    strategy: str | Callable[..., Strategy],
    *,
    expected_failures: Mapping[str, str] | None = None,
    model: Callable[[Benchmark], Classifier] | None = None,
    device: str = "cpu",
    null: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
) -> Iterator[Result]:
    """Put a strategy through the contract, check by check.

    Args:
        strategy: a registered name, a chain `"er+ewc"`, or a factory.
        expected_failures: name of a check → why it fails; that it passes after all is then a failure.
        model: builds the network to check it on, for strategies that need a special one.
        device: where to check.
        null: parameters with which a factory that is not registered is fine-tuning.
        only: names of the checks to make; all if None.

    Raises:
        RegistryError: an unknown strategy. ConfigError: a check that does not exist.
    """
    expected = dict(expected_failures or {})
    _known_checks([*expected, *(only or ())])
    under_test = subject(strategy, model=model, device=device, null=null)
    return (
        _attempt(check, under_test, expected.get(name_of(check)))
        for check in CHECKS
        if only is None or name_of(check) in only
    )


def name_of(check: Callable[..., None]) -> str:
    """A check's name, as in results and expected failures."""
    return check.__name__.removeprefix("check_")


def rule_of(check: Callable[..., None]) -> str:
    """The sentence that a check enforces."""
    return " ".join((inspect.getdoc(check) or "").split())


def parametrize_with_checks(
    names: Sequence[str] | None = None, expected_failures: Mapping[str, Mapping[str, str]] | None = None
) -> Any:
    """A pytest decorator that makes one item for each strategy and check.

    The test takes `strategy` and `check` and calls `check(strategy)`.

    Args:
        names: registered strategies or chains; all that are registered if None.
        expected_failures: strategy → name of a check → why it fails.
    """
    import pytest

    def as_test(check: Callable[[Subject], None]) -> Callable[[str], None]:
        @functools.wraps(check)
        def test(strategy: str) -> None:
            try:
                with _one_thread():
                    check(subject(strategy))
            except NotApplicable as reason:
                pytest.skip(str(reason))

        return test

    expected = expected_failures or {}
    items = []
    for name in strategies.names() if names is None else names:
        reasons = expected.get(name, {})
        _known_checks(reasons)
        for check in CHECKS:
            reason = reasons.get(name_of(check))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            items.append(pytest.param(name, as_test(check), id=f"{name}-{name_of(check)}", marks=marks))
    return pytest.mark.parametrize(("strategy", "check"), items)


def _attempt(check: Callable[[Any], None], under_test: Any, expected: str | None = None) -> Result:
    name, rule = name_of(check), rule_of(check)
    try:
        with _one_thread():
            check(under_test)
    except NotApplicable as reason:
        return Result(name, rule, "skipped", str(reason))
    except Exception as error:  # whatever a strategy raises is a finding
        message = (
            str(error) if isinstance(error, Violation | ClbenchError) else f"{type(error).__name__}: {error}"
        )
        return Result(name, rule, "expected", expected) if expected else Result(name, rule, "failed", message)
    if expected:
        return Result(
            name, rule, "failed", f"it was expected to fail ({expected}) and passes; expect it no longer"
        )
    return Result(name, rule, "passed")


def _known_checks(names: Iterable[str]) -> None:
    known = [name_of(check) for check in CHECKS]
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no check '{name}'.{suggest(name, known)} Known: {', '.join(known)}.")


# --- benchmarks ---


def check_benchmark(benchmark: str | Benchmark) -> Iterator[Result]:
    """Put a benchmark, or a registered one with its defaults, through what every benchmark must keep.

    Raises:
        RegistryError: an unknown name.
    """
    if isinstance(benchmark, str):
        benchmarks.entry(benchmark)
    return (_attempt(check, benchmark) for check in BENCHMARK_CHECKS)


def check_rebuilds(benchmark: str | Benchmark) -> None:
    """Built twice it has one fingerprint; another seed gives another, or nothing is drawn and its seed is 0."""
    name = _registered(benchmark)
    first = _built(name)
    _require(first.fingerprint == _built(name).fingerprint, "two builds have different fingerprints")
    if "seed" in benchmarks.entry(name).signature().parameters:
        other = _built(name, seed=first.seed + 1)
        told, is_so = other.seed != first.seed, other.fingerprint != first.fingerprint
        _require(
            told == is_so, f"another seed {'changes nothing' if told else 'changes it, and it says seed 0'}"
        )


def check_rows_disjoint(benchmark: str | Benchmark) -> None:
    """No row of the data is both trained and tested on, or validated on."""
    built = _built(benchmark)
    streams = [stream for stream in (built.train, built.test, built.valid) if stream is not None]
    for i, one in enumerate(streams):
        for other in streams[i + 1 :]:
            a, b = _rows(one), _rows(other)
            for digest in a.keys() & b.keys():
                shared = np.intersect1d(a[digest], b[digest])
                _require(
                    not len(shared),
                    f"{len(shared)} rows are in both the {one.name} and the {other.name} stream",
                )


def check_labels(benchmark: str | Benchmark) -> None:
    """Every experience holds just the classes it names, all below the number of classes, and is not empty."""
    built = _built(benchmark)
    for stream in (built.train, built.test, built.valid or ()):
        for exp in stream:
            held = tuple(torch.unique(exp.data.y()).tolist())
            _require(len(exp) > 0, f"experience {exp.index} is empty")
            _require(
                set(held) <= set(exp.classes), f"experience {exp.index} names {exp.classes} and holds {held}"
            )
            inside = all(0 <= label < built.num_classes for label in exp.classes)
            _require(inside, f"experience {exp.index} has classes outside 0 … {built.num_classes - 1}")


def check_streams_aligned(benchmark: str | Benchmark) -> None:
    """Experiences are numbered in order, and each names test streams that exist and were taught by then."""
    built = _built(benchmark)
    for stream in (built.train, built.test, built.valid or ()):
        _require(
            [e.index for e in stream] == list(range(len(stream))),
            "experiences are not numbered from 0 in order",
        )
    taught: set[int] = set()
    for exp in built.train:
        taught |= set(exp.classes)
        _require(
            all(0 <= t < len(built.test) for t in exp.tests),
            f"experience {exp.index} names missing test streams",
        )
        for t in exp.tests:
            early = set(built.test[t].classes) - taught
            _require(
                not early,
                f"test stream {t} counts as seen from experience {exp.index}, before classes {early}",
            )


def check_shapes(benchmark: str | Benchmark) -> None:
    """All inputs have one shape and type, which the transform turns into finite float32 of that shape."""
    built = _built(benchmark)
    first = built.train[0].data.take(torch.arange(1))[0]
    for stream in (built.train, built.test, built.valid or ()):
        for exp in stream:
            raw, y = exp.data.take(torch.arange(min(len(exp), 4)))
            like = raw.dtype == first.dtype and raw.shape[1:] == first.shape[1:]
            _require(
                like,
                f"experience {exp.index} holds {raw.dtype} {tuple(raw.shape[1:])}, the first {first.dtype}",
            )
            _require(y.dtype == torch.int64, f"experience {exp.index} has labels of type {y.dtype}")
            if raw.dtype == torch.int64:  # tokens are embedded by the model
                continue
            x = built.transform.normalise(raw)
            fits = x.dtype == torch.float32 and x.shape == raw.shape and bool(x.isfinite().all())
            _require(
                fits,
                f"the transform does not turn experience {exp.index} into finite float32 of the same shape",
            )


BENCHMARK_CHECKS: list[Callable[[str | Benchmark], None]] = [
    check_rebuilds,
    check_rows_disjoint,
    check_labels,
    check_streams_aligned,
    check_shapes,
]
"""What every benchmark must keep."""


def _registered(benchmark: str | Benchmark) -> str:
    if isinstance(benchmark, Benchmark):
        raise NotApplicable("it is an object, with nothing to build it from again")
    return benchmark


def _needs_values(benchmark: str) -> list[str]:
    parameters = benchmarks.entry(benchmark).signature().parameters
    return [name for name, parameter in parameters.items() if parameter.default is parameter.empty]


def _built(benchmark: str | Benchmark, **spec: Any) -> Benchmark:
    if isinstance(benchmark, Benchmark):
        return benchmark
    if missing := _needs_values(benchmark):
        raise NotApplicable(f"it cannot be built without {', '.join(missing)}; check what you build with it")
    try:
        built: Benchmark = benchmarks.make(benchmark, **spec)
    except DataError as error:
        raise NotApplicable(f"its data is not here: {error}") from error
    return built


def _rows(stream: Stream) -> dict[str, np.ndarray[Any, Any]]:
    """The rows of each pool that a stream uses, by the pool's content."""
    rows: dict[str, list[Tensor]] = {}
    for exp in stream:
        for pool, chosen, _ in exp.data.parts:
            rows.setdefault(pool.digest, []).append(chosen)
    return {digest: torch.cat(chosen).numpy() for digest, chosen in rows.items()}


# --- what checks are made of ---


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """Where two states differ first, to the bit; None where they do not."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{path}: {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        same = torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals itself here
        return None if same else path or "values"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{path}: {sorted(map(str, a.keys() ^ b.keys()))} on one side only"
        return next((found for key in a if (found := difference(a[key], b[key], f"{path}/{key}"))), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} elements"
        return next(
            (f for i, (x, y) in enumerate(zip(a, b, strict=True)) if (f := difference(x, y, f"{path}/{i}"))),
            None,
        )
    return None if a == b else f"{path}: {a!r} and {b!r}"


def stored_examples(state: Any, benchmark: Benchmark) -> int:
    """How many training examples are held in a tree of tensors.

    Rows of the inputs' shape and type count, and rows of any type that are an example, raw or normalised.
    """
    shape = tuple(benchmark.input_shape)
    raw = torch.cat([exp.data.x() for exp in benchmark.train])
    known = {
        row.numpy().tobytes()
        for x in (raw, raw.float(), benchmark.transform.normalise(raw))
        for row in x.flatten(1)
    }

    def count(value: Any) -> int:
        if isinstance(value, Mapping):
            return sum(count(v) for v in value.values())
        if isinstance(value, list | tuple):
            return sum(count(v) for v in value)
        if not isinstance(value, Tensor) or value.ndim == 0:
            return 0
        value = value.detach().cpu()
        if value.dtype == raw.dtype and tuple(value.shape[-len(shape) :]) == shape:
            return int(value.numel() // raw[0].numel())
        if value.shape[-1] != raw[0].numel() and tuple(value.shape[-len(shape) :]) != shape:
            return 0
        rows = value.contiguous().view(-1, raw[0].numel())
        if rows.dtype not in (raw.dtype, torch.float32):
            rows = rows.float()
        return sum(int(row.numpy().tobytes() in known) for row in rows)

    return count(state)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Violation(message)


def _same(a: Any, b: Any, message: str) -> None:
    where = difference(a, b)
    _require(where is None, f"{message}, first at {where}")


def _everything(run: Run) -> dict[str, Any]:
    """All state of a run that is not a time, copied."""
    state = checkpoint.clone(run.state_dict())
    for timed, key in ((state["counters"], "train_seconds"), (state["evaluator"], "seconds")):
        del timed[key]
    del state["global_rng"]  # the caller's again by now
    kept: dict[str, Any] = state
    return kept


def _learned(run: Run) -> dict[str, Any]:
    return checkpoint.clone({"model": run.model.state_dict(), "curve": run.evaluator.state_dict()["curve"]})  # type: ignore[no-any-return]


def _finetune() -> Strategy:
    return build_strategy("finetune", {})


POINTS = (
    "begin_experience",
    "order",
    "end_experience",
    "extend",
    "step",
    "gradient",
    "losses",
    "gradients",
    "after_update",
    "after_step",
    "logits",
)
"""The points that are called in training and prediction; `setup`, `wrap` and `stream` come before."""

Probe = Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]
"""Called in place of a point, with its name, its arguments and the call itself."""


def watch(strategy: Strategy, probe: Probe) -> Strategy:
    """The strategy itself, with a probe around every point its parts write."""

    def around(point: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return probe(point, args, lambda: method(*args, **kwargs))

        return call

    for part in strategy.parts:
        for point in POINTS:
            if overrides(part, point):
                setattr(part, point, around(point, getattr(part, point)))
    return strategy


def _tensors_of(arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """All tensors among a point's arguments, by what they are called."""
    found: dict[str, Tensor] = {}
    for i, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            found[f"argument {i}"] = argument
        if isinstance(argument, Batch | Output):
            kind = type(argument).__name__.lower()
            for f in dataclasses.fields(argument):
                value = getattr(argument, f.name)
                if isinstance(value, Tensor):
                    found[f"{kind}.{f.name}"] = value
    return found


def _global_generators() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the legacy generator is the one that is global
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "Python": random.getstate(),
    }


def _seed_globals(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002
    random.seed(number)


@contextlib.contextmanager
def _globals_kept() -> Iterator[None]:
    legacy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(legacy)  # noqa: NPY002
            random.setstate(python)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The models are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
