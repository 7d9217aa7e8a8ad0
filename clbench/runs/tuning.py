"""Choosing hyper-parameters: protocols by name, equal budgets, and no look at the test stream.

    first-k-experiences   trained on the first k experiences, judged on their validation stream
    validation            trained on the whole stream, judged on its validation stream
    oracle                judged on the test stream: what tuning can give at most, shown apart and never ranked

The validation stream is cut from the training data, and until the choice is made the test data cannot be read: whoever
touches them gets an error.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clbench.config.selection import CHOOSING, Choice as Selected, experiences_of
from clbench.errors import ConfigError, DivergedError, suggest
from clbench.types import Benchmark, Data, Pool, Stream

if TYPE_CHECKING:
    from clbench.config import Execution, RunConfig
    from clbench.runs.suite import Choice, SuiteConfig

LARGEST = 2.0**63
"""Beyond every number of a space."""

VALID = 0.2
"""Share of the training data that judges, where the settings do not say."""


@dataclass(frozen=True)
class Protocol:
    """How hyper-parameters are chosen.

    Attributes:
        name: what records say.
        experiences: how many of the stream's first experiences are trained on; None for all.
        test: whether the test stream judges.
    """

    name: str
    experiences: int | None
    test: bool = False


def protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises:
        ConfigError: there is none, or nothing is chosen by it.
    """
    k = experiences_of(name)
    if k is None and name not in CHOOSING:
        raise ConfigError(
            f"There is no protocol '{name}' to choose hyper-parameters by."
            f"{suggest(name, ['first-2-experiences', *CHOOSING])} Known: first-k-experiences for any k, "
            f"{', '.join(CHOOSING)}."
        )
    return Protocol(name, k, test=name == "oracle")


def judged_by(benchmark: Benchmark, how: Protocol) -> Benchmark:
    """Return the benchmark as tuning sees it: what judges stands in the place of the test stream.

    Raises:
        ConfigError: it has no validation stream, or fewer experiences.
    """
    if how.test:
        return benchmark
    if benchmark.valid is None:
        raise ConfigError(
            f"{benchmark.name} was built without a validation stream to choose by; give valid=0.2, or a benchmark that "
            "has one."
        )
    k = len(benchmark.train) if how.experiences is None else how.experiences
    if k > len(benchmark.train):
        raise ConfigError(f"'{how.name}' needs {k} experiences; {benchmark.name} has {len(benchmark.train)}.")
    kept = benchmark.train.experiences[:k]
    used = sorted({t for exp in kept for t in exp.tests if len(benchmark.valid[t])})  # a class may have none
    place = {t: i for i, t in enumerate(used)}
    tests = [tuple(place[t] for t in exp.tests if t in place) for exp in kept]
    if not all(tests):
        raise ConfigError(
            f"{benchmark.name}: there is no validation example of what experience {tests.index(()) + 1} is tested on."
        )
    train = Stream("train", tuple(replace(exp, tests=of) for exp, of in zip(kept, tests, strict=True)))
    valid = tuple(replace(benchmark.valid[t], index=i) for t, i in place.items())
    return replace(benchmark, train=train, test=Stream("test", valid), valid=None)


class _Seal:
    """In place of inputs that must not be looked at."""

    def _refuse(self, *_: object) -> Any:
        raise ConfigError(
            "The test stream was touched while hyper-parameters are chosen. Judge by the validation stream, or say "
            "what is done: --protocol oracle."
        )

    __getitem__ = __len__ = __iter__ = _refuse

    def __getattr__(self, name: str) -> Any:
        return self._refuse()


@contextlib.contextmanager
def sealed(benchmark: Benchmark) -> Iterator[None]:
    """Raise `ConfigError` where the test stream's inputs are read inside; pools that training shares stay open."""
    kept = {id(pool) for stream in (benchmark.train, benchmark.valid) for pool in _pools(stream)}
    closed = {id(pool): (pool, pool.x) for pool in _pools(benchmark.test) if id(pool) not in kept}
    for pool, _ in closed.values():
        object.__setattr__(pool, "x", _Seal())
    try:
        yield
    finally:
        for pool, x in closed.values():
            object.__setattr__(pool, "x", x)


def _pools(stream: Stream | None) -> Iterator[Pool]:
    for exp in stream or ():
        data: Data = exp.data
        yield from (pool for pool, _, _ in data.parts)


# --- what is searched ---


@dataclass(frozen=True)
class Range:
    """The values of one setting: numbers from `low` to `high`, or one of `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its least and its greatest value, or all of a choice."""
        return self.choices or ((int(self.low), int(self.high)) if self.whole else (self.low, self.high))


DEFAULT_SPACE = {"lr": Range(1e-3, 1.0, log=True)}
"""Where a strategy's own space is not given."""


def space_of(tree: Mapping[str, Any]) -> dict[str, Range]:
    """Return a search space as written in YAML: `lr: {log: [0.001, 1]}`, `alpha: {uniform: [0, 1]}`,
    `draw: {int: [8, 64]}`, `model: {choice: [mlp, resnet18]}`.

    Raises:
        ConfigError: names the setting and what is allowed.
    """
    kinds = ("log", "uniform", "int", "choice")
    space = {}
    for key, given in tree.items():
        one: Mapping[str, Any] = given if isinstance(given, Mapping) and len(given) == 1 else {"": ()}
        kind, values = next(iter(one.items()))
        listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
        takes = (int,) if kind == "int" else (int, float)
        most = LARGEST if kind == "int" else math.inf
        numbers = listed and len(values) == 2 and all(type(v) in takes and -most < v < most for v in values)
        if kind == "choice" and listed:
            space[key] = Range(choices=tuple(values))
            continue
        if kind not in kinds or not numbers or values[0] >= values[1] or (kind == "log" and values[0] <= 0):
            raise ConfigError(
                f"The space of '{key}' is one of {{log: [low, high]}}, {{uniform: [low, high]}}, {{int: [low, high]}}, "
                f"{{choice: [a, b, …]}} with low < high, above 0 for log, below 2⁶³ for int; {given!r} was given."
            )
        space[key] = Range(float(values[0]), float(values[1]), log=kind == "log", whole=kind == "int")
    return space


# --- the search ---


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried: its settings, and what it is judged by; the value is None where it diverged."""

    settings: Mapping[str, Any]
    metric: str
    value: float | None


def tune(
    resolve: Callable[[Mapping[str, Any]], RunConfig],
    how: Protocol,
    space: Mapping[str, Range],
    trials: int,
    execution: Execution,
    *,
    metric: str | None = None,
    seed: int = 0,
    told: Callable[[Trial], object] = lambda trial: None,
) -> list[Trial]:
    """Try `trials` configurations and return them, the best first.

    The search is Optuna's tree-structured Parzen estimator with a seed, so that the same call tries the same settings.

    Args:
        resolve: settings of a trial → the run's configuration.
        metric: of the curve on what judges; the one that ranks on the benchmark if None.
        told: called after every trial.

    Raises:
        ConfigError: the benchmark has nothing to judge by, the metric is not defined, or Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("Tuning needs Optuna: pip install 'clbench[tune]'.") from error
    from clbench.results.metrics import METRICS, compute
    from clbench.runs import building

    try_ends(resolve, space)
    done: list[Trial] = []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(trials):
        asked = study.ask()
        settings = {key: _drawn(asked, key, values) for key, values in space.items()}
        resolved = resolve(settings)
        benchmark = building.make_benchmark(resolved.benchmark, **resolved.stream)
        metric = metric or benchmark.primary
        sign = 1 if METRICS[metric].rises else -1
        with contextlib.nullcontext() if how.test else sealed(benchmark):
            engine = building.build(resolved, execution, benchmark=judged_by(benchmark, how))
            try:
                engine.fit()
            except DivergedError:
                value = None
            else:
                value = compute(engine.evaluator.curve, [metric])[metric]
                if value is None:
                    raise ConfigError(
                        f"'{metric}' is not defined for {resolved.strategy} on {resolved.benchmark}, so that nothing "
                        "can be chosen by it."
                    )
        trial = Trial(settings, metric, value)
        if value is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, sign * value)
        done.append(trial)
        told(trial)
    return sorted(done, key=lambda t: math.inf if t.value is None else -sign * t.value)


def tune_suite(
    suite: SuiteConfig,
    how: Protocol,
    trials: int,
    execution: Execution,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    told: Callable[[Choice, Trial], object] = lambda strategy, trial: None,
    save: Callable[[SuiteConfig], object] = lambda suite: None,
) -> SuiteConfig:
    """Return a suite in which every strategy has the best settings of as many trials.

    Each searches the suite's space and its own; where there is neither, the learning rate from 0.001 to 1. Chosen
    numbers are rounded to three digits; the runs of the suite are trained with these. A strategy whose settings have a
    `selection` is left as it is, so that a search that was cut off goes on from what it saved.

    Args:
        settings: `key → value` of every trial, over all that the suite says.
        told: called after every trial. save: called with the suite so far after every strategy.

    Raises:
        ConfigError: the suite has several benchmarks, a setting is given and searched, a value of a space does not fit
            (before the first trial), or every trial of a strategy diverged.
    """
    from clbench import config
    from clbench.runs.suite import named

    if len(suite.benchmarks) > 1:
        names = ", ".join(named(suite.benchmarks))
        raise ConfigError(
            f"Settings are chosen for one benchmark, and this suite has {names}; write a suite for each."
        )
    labels = named(suite.strategies)
    [benchmark] = suite.benchmarks

    def resolver(strategy: Choice) -> Callable[[Mapping[str, Any]], RunConfig]:
        layers = (suite.settings, benchmark.settings, strategy.settings)

        def resolve(drawn: Mapping[str, Any]) -> RunConfig:
            over = (trial_settings(how, benchmark.name), settings or {}, drawn)
            return config.resolve(benchmark.name, strategy.name, *over, seed=seed, suite=layers)

        return resolve

    searches = {}
    for i, strategy in enumerate(suite.strategies):
        if "selection" not in strategy.settings:
            space = space_of({**suite.space, **strategy.space}) or DEFAULT_SPACE
            refuse_both(settings or {}, space)
            try_ends(resolver(strategy), space)
            searches[i] = space
    for i, space in searches.items():
        strategy = suite.strategies[i]
        tell = functools.partial(told, strategy.model_copy(update={"label": labels[i]}))
        best = tune(resolver(strategy), how, space, trials, execution, seed=seed, told=tell)[0]
        if best.value is None:
            raise ConfigError(f"Every one of {trials} trials of '{labels[i]}' diverged.")
        rounded = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in best.settings.items()}
        selected = Selected(how.name, benchmark.name, strategy.name).written()
        now = {**strategy.settings, **rounded, "selection": selected}
        strategies = list(suite.strategies)
        strategies[i] = strategy.model_copy(update={"settings": now})
        suite = suite.model_copy(update={"strategies": tuple(strategies)})
        save(suite)
    return suite


def trial_settings(how: Protocol, benchmark: str) -> dict[str, Any]:
    """Return what every trial has unless settings say otherwise: data to judge by, evaluated where the metric that
    ranks needs it: at the ends of experiences only, if it follows from those.

    Raises:
        ConfigError: the protocol needs a validation stream that the benchmark cannot have.
    """
    from clbench.registry import benchmarks
    from clbench.results.curve import Curve
    from clbench.results.metrics import compute

    if not how.test and "valid" not in benchmarks.entry(benchmark).signature().parameters:
        raise ConfigError(
            f"'{how.name}' judges by a validation stream, and {benchmark} cannot be built with one (it has no "
            "parameter 'valid'). The protocol 'oracle' judges by the test stream; records and tables say so."
        )
    ends, twice = Curve(), [0, 0, 1, 1]
    where = {"step": twice, "examples": twice, "experience": twice, "evaluated": [0, 1, 0, 1]}
    ends.append(**where, correct=5, total=10, loss=0, full=True, hits_at_10=5, reciprocal_at_10=1)
    primary = benchmarks.peek(benchmark).primary
    enough = compute(ends, [primary])[primary] is not None
    return ({"evaluation.every": 0} if enough else {}) | ({} if how.test else {"stream.valid": VALID})


def refuse_both(settings: Mapping[str, Any], space: Mapping[str, Range]) -> None:
    """Raise `ConfigError` where a setting is given a value and searched as well."""
    for key in settings.keys() & space.keys():
        raise ConfigError(
            f"'{key}' is searched, so it cannot be {settings[key]}; leave it out, or out of the space."
        )


def try_ends(resolve: Callable[[Mapping[str, Any]], object], space: Mapping[str, Range]) -> None:
    """Resolve each setting's least and greatest value, so that one that is not allowed is told before any trial."""
    first = {key: values.ends[0] for key, values in space.items()}
    for key, values in space.items():
        for end in values.ends:
            resolve({**first, key: end})


def _drawn(asked: Any, key: str, values: Range) -> Any:
    if values.choices:
        return asked.suggest_categorical(key, list(values.choices))
    if values.whole:
        return asked.suggest_int(key, int(values.low), int(values.high))
    return asked.suggest_float(key, values.low, values.high, log=values.log)
