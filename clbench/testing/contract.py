"""The rules that every strategy keeps, each a function whose docstring is the rule."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clbench.config import OptimConfig
from clbench.engine.capture import APART, Gradients, undeclared
from clbench.engine.engine import Engine
from clbench.errors import ConfigError, IncompatibleError
from clbench.machine import checkpoint
from clbench.machine.caching import keeping_nothing
from clbench.parts import CrossEntropy
from clbench.registry.arguments import check_arguments, hints_of
from clbench.strategy import Strategy, chain, overrides
from clbench.testing.elsewhere import UnreachableError, digests, digests_elsewhere
from clbench.testing.fair import check_forwards_counted, check_test_unseen
from clbench.testing.moving import moving
from clbench.testing.numbers import numbers_in
from clbench.testing.subjects import Subject
from clbench.testing.tape import Tape
from clbench.testing.tools import (
    NotApplicable,
    Violation,
    difference,
    everything,
    finetune,
    global_generators,
    globals_kept,
    learned,
    require,
    same,
    seed_globals,
    stored_examples,
    tensors_of,
    trained,
    watch,
)
from clbench.types import HIDDEN, NEEDS, Batch, Experience

MEMORY = 10
"""Examples granted where a check measures what a strategy keeps."""


def check_builds(subject: Subject) -> None:
    """It builds without arguments, has a docstring, and annotates all parameters, with immutable defaults."""
    for factory in subject.factories:
        name = getattr(factory, "__name__", str(factory))
        said = bool(inspect.getdoc(factory))
        require(said, f"{name} has no docstring; its first sentence says what the method does")
        for key, parameter in inspect.signature(factory).parameters.items():
            what = f"parameter '{key}' of {name}"
            require(parameter.annotation is not parameter.empty, f"{what} is not annotated")
            require(parameter.default is not parameter.empty, f"{what} has no default")
            mutable = isinstance(parameter.default, list | dict | set | Tensor)
            require(not mutable, f"the default of {what} can be changed by whoever gets it")
    strategy = subject.make()
    require(isinstance(strategy, Strategy), f"it builds a {type(strategy).__name__}, not a Strategy")
    unknown = strategy.all_needs() - set(NEEDS)
    require(not unknown, f"it declares the need {', '.join(sorted(unknown))}; needs are {', '.join(NEEDS)}")
    run = subject.run(subject.benchmark(), strategy)
    for part in run.strategy.parts:
        for name in part.state:
            there = hasattr(part, name)
            require(there, f"{part} names '{name}' in `state` but has no such attribute after setup")


def check_deterministic(subject: Subject) -> None:
    """The same seed gives the same bits, in another process, too, and another seed gives others."""
    benchmark = subject.benchmark()
    again, other = (everything(subject.fitted(benchmark, seed=seed, every=1)) for seed in (0, 1))
    first = everything(subject.evaluated)
    same(first, again, "two runs with one seed differ")
    require(difference(first["model"], other["model"]) is not None, "another seed gives the same weights")
    here = digests(everything(subject.plain))
    try:
        there = list(digests_elsewhere(subject))
    except UnreachableError as reason:
        raise NotApplicable(
            f"it was run in one process only, as no other can import it: {reason}"
        ) from reason
    except RuntimeError as error:
        raise Violation(f"in another process: {error}") from error
    for found in there:
        apart = [path for path in here.keys() | found.keys() if here.get(path) != found.get(path)]
        require(
            not apart,
            "two processes differ (does it hang on the order of a set, a hash, an address or the process's number?), "
            f"for example in {min(apart, default='')}",
        )


def check_private_randomness(subject: Subject) -> None:
    """Its points neither move nor read the global generators of torch, numpy and Python; use `run.rng`."""
    benchmark = subject.benchmark()

    def still(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        before = global_generators()
        result = call()
        moved = [name for name, state in global_generators().items() if state != before[name]]
        require(not moved, f"{point} moves the global generator of {' and of '.join(moved)}")
        return result

    def disturbed(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        seed_globals(next(numbers))
        return call()

    plain = subject.run(benchmark, watch(subject.make(), still), every=2)
    plain.fit()
    numbers = iter(range(1, 1_000_000))
    with globals_kept():
        shaken = subject.run(benchmark, watch(subject.make(), disturbed), every=2)
        shaken.fit()
    same(everything(plain), everything(shaken), "the result depends on the state of a global generator")


def check_inputs_untouched(subject: Subject) -> None:
    """It writes neither into the batch and the output it is given nor into the benchmark's data."""

    def compare(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        tensors = tensors_of(arguments)
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        result = call()
        written = [name for name, t in tensors.items() if difference(before[name], t.detach()) is not None]
        require(not written, f"{point} writes into {', '.join(written)}")
        return result

    for images in (False, True):
        benchmark = subject.benchmark(images=images)
        pools = [pool for exp in (*benchmark.train, *benchmark.test) for pool, *_ in exp.data.parts]
        before = [(pool.x.clone(), pool.y.clone()) for pool in pools]
        subject.fitted(benchmark, watch(subject.make(), compare), every=2)
        for pool, (x, y) in zip(pools, before, strict=True):
            same = torch.equal(pool.x, x) and torch.equal(pool.y, y)
            require(same, "the benchmark's examples were changed during the run")


def check_modes_restored(subject: Subject) -> None:
    """Every point leaves the model's modules in the train or eval mode it found them in."""

    def compare(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        before = [module.training for module in run.model.modules()]
        result = call()
        after = [module.training for module in run.model.modules()]
        kept = before == after or point == "begin_experience"
        require(kept, f"{point} leaves the model in another train or eval mode")
        return result

    run = subject.run(subject.benchmark(), watch(subject.make(), compare), every=2)
    run.fit()


def check_evaluation_silent(subject: Subject) -> None:
    """Evaluating after every step changes no bit of the weights, the strategy's state or a random stream."""
    same(trained(subject.plain), trained(subject.evaluated), "evaluation changes the run")


def check_resumes(subject: Subject) -> None:
    """Saved to disk within an experience or between two, and loaded afresh, it continues to the same bits."""
    benchmark = subject.benchmark()
    reference = everything(subject.evaluated)
    with tempfile.TemporaryDirectory() as folder:
        saved: dict[str, list[Path]] = {"within": [], "between": []}

        def save() -> None:
            state = run.state_dict()
            paths = saved[state["place"]["phase"]]
            paths.append(Path(folder) / f"{state['place']['phase']}-{len(paths)}")
            checkpoint.save(paths[-1], state)

        run = subject.run(benchmark, every=1, checkpoint_seconds=0.0)
        run.fit(save)
        same(reference, everything(run), "saving checkpoints changes the run")
        require(bool(saved["within"]), "no checkpoint is written within an experience")
        middle, first = saved["within"][len(saved["within"]) // 2], saved["between"][0]
        for when, path in (("within an experience", middle), ("between two experiences", first)):
            fresh = subject.run(benchmark, every=1)
            fresh.load_state_dict(checkpoint.load(path))
            fresh.fit()
            same(reference, everything(fresh), f"a run resumed {when} ends differently")


def check_learns(subject: Subject) -> None:
    """It gets more than 90 % right after a single stationary experience of four easy classes."""
    accuracy = _learned(subject)
    require(accuracy > 0.9, f"it gets {100 * accuracy:.1f} % right")


def _learned(subject: Subject, strategy: Strategy | None = None) -> float:
    """How much is right after a single stationary experience of four easy classes."""
    easy = subject.benchmark(experiences=1, classes=4)
    curve = subject.fitted(easy, strategy, batch_size=16, epochs=12).evaluator.curve
    return float(curve.correct[-1] / curve.total[-1])


def _check_finite(run: Engine, what: str, advice: str = "") -> None:
    finite = all(bool(p.isfinite().all()) for p in run.model.parameters())
    require(finite, f"{what}: the weights are no longer finite{advice}")


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
                how: dict[str, Any] = {"batch_size": batch_size, "norm": False, "every": 1}
                run = subject.fitted(subject.benchmark(**spec), strategy, **how)
            except Exception as error:
                raise Violation(f"{what}: {type(error).__name__}: {error}") from error
            _check_finite(run, what)


def check_ranges(subject: Subject) -> None:
    """Numbers outside a range are refused by name, and its ends train; without one, −1 and 0 do either."""
    for key, factory, name in subject.parameters():
        hint = hints_of(subject.name, factory).get(name)
        default = inspect.signature(factory).parameters[name].default
        if default is not inspect.Parameter.empty and default is not None:
            check_arguments(subject.name, factory, {name: default})
        for number in numbers_in(hint):
            for value in number.outside():
                refused = _refusal(functools.partial(check_arguments, subject.name, factory, {name: value}))
                require(f"'{name}'" in refused, f"'{name}' = {value!r} is not refused by name")
            for value in number.ends() if number.ranged else number.plain():
                _trains(subject, key, name, value, ranged=number.ranged)


def _refusal(build: Callable[[], object]) -> str:
    """What is said against building it; empty if nothing is."""
    try:
        build()
    except ConfigError as error:
        return str(error)
    return ""


def _trains(subject: Subject, key: str, name: str, value: Any, *, ranged: bool) -> None:
    """A value is refused, or trains; where no range says that it may be given, it trains to something of use."""
    what = f"'{name}' = {value!r}"
    advice = "" if ranged else f"; annotate its range, as in `{name}: Natural` (clbench.ranges)"
    benchmark = subject.benchmark(experiences=2, examples=24)
    started = False
    try:
        run = subject.run(benchmark, subject.make(**{key: value}), norm=False, batch_size=8)
        started = True
        run.fit()
    except Exception as error:
        if started or not isinstance(error, ValueError | IncompatibleError):
            raise Violation(f"{what}: {type(error).__name__}: {error}{advice}") from error
        require(ranged or name in str(error), f"{what} is refused, but not by name: {error}{advice}")
        return
    _check_finite(run, what, advice)
    if not ranged:
        accuracy = _learned(subject, subject.make(**{key: value}))
        require(accuracy > 0.5, f"{what} gets {100 * accuracy:.1f} % right of four easy classes{advice}")


def check_low_precision(subject: Subject) -> None:
    """Under bf16, and in full precision, each of its losses is a finite float32 scalar."""

    def inspect_losses(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        result = call()
        for name, loss in result.items() if point == "losses" else ():
            require(isinstance(loss, Tensor) and loss.ndim == 0, f"loss '{name}' is no scalar tensor")
            single = loss.dtype == torch.float32
            require(single, f"loss '{name}' is {loss.dtype} under {precision}, not float32")
            require(bool(loss.isfinite()), f"loss '{name}' is {loss.item()} under {precision}")
        return result

    for precision in ("bf16", "fp32"):
        watched = watch(subject.make(), inspect_losses)
        subject.fitted(subject.benchmark(), watched, precision=precision, every=2)


def check_memory_budget(subject: Subject) -> None:
    """Its state never holds more raw examples than it was granted, counted in the tensors themselves."""
    params = dict.fromkeys(subject.memory, MEMORY)
    granted = MEMORY * max(len(params), int("memory" in subject.needs))
    # uint8 inputs: no weight or statistic can be taken for one
    benchmark = subject.benchmark(images=True, memory=granted)

    def count() -> None:
        held = stored_examples([part.state_dict() for part in run.strategy.parts], benchmark)
        require(held <= granted, f"it holds {held} examples after step {run.step} and may keep {granted}")

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
        "documents": {"documents": False},
        "language": {"language": False},
    }
    offering = subject.benchmark(images=True)

    @functools.cache
    def granted(epochs: int) -> dict[str, Any]:
        return everything(subject.fitted(offering, epochs=epochs, every=2))

    for need, spec in without.items():
        epochs = 1 if need == "several passes" else 2
        benchmark = subject.benchmark(**spec, images=True)
        if benchmark.setting == offering.setting:  # nothing is taken away
            continue
        if need in subject.needs:
            try:
                subject.run(benchmark, epochs=epochs)
            except IncompatibleError:
                continue
            raise Violation(f"it needs {need}, and a setting without is not refused")
        run = subject.fitted(benchmark, epochs=epochs, every=2)
        same(granted(epochs), everything(run), f"it declares no need of {need} but does otherwise without")
        if need == "memory":
            held = stored_examples([part.state_dict() for part in run.strategy.parts], benchmark)
            require(held == 0, f"it declares no need of memory but holds {held} examples")


def check_chain_unit(subject: Subject) -> None:
    """Chaining it with the plain `Strategy()`, before or after, gives it back."""
    strategy = subject.make()
    require(chain(strategy, Strategy()) is strategy, "chain(s, Strategy()) is not s")
    require(chain(Strategy(), strategy) is strategy, "chain(Strategy(), s) is not s")


def check_null_parameters(subject: Subject) -> None:
    """With the parameters it declares as `null` it is fine-tuning, bit for bit, running statistics too."""
    if subject.null is None:
        raise NotApplicable("it declares no null parameters")
    benchmark = subject.benchmark()
    null = subject.fitted(benchmark, subject.make(**subject.null), every=2)
    same(learned(subject.fitted(benchmark, finetune(), every=2)), learned(null), "it is not fine-tuning")


def check_takes_effect(subject: Subject) -> None:
    """With its defaults it is not fine-tuning: on a class-, domain- or task-incremental stream."""
    if subject.null == {}:
        raise NotApplicable("it is fine-tuning")
    shifts: tuple[Literal["class", "domain", "task"], ...] = ("class", "domain", "task")
    for shift in shifts:
        benchmark = subject.benchmark(shift=shift)
        found = learned(subject.fitted(benchmark))
        plain = subject.run(benchmark, finetune())
        if plain.model.state_dict().keys() != found["model"].keys():  # by its form it is not
            continue
        plain.fit()
        apart = difference(learned(plain), found)
        require(apart is not None, f"on a {shift}-incremental stream: it is fine-tuning, bit for bit")


def check_first_experience(subject: Subject) -> None:
    """If all it knows of the past comes at boundaries, it is fine-tuning up to the first one, bit for bit."""
    strategy = subject.make()
    if "boundaries" not in subject.needs or subject.needs & {"memory", "past data"}:
        raise NotApplicable("it does not wait for a boundary")
    for point in ("wrap", "order", "step", "gradient"):
        if any(overrides(part, point) for part in strategy.parts):
            raise NotApplicable(f"it trains another way from the start: it defines {point}()")
    if any(part.from_start for part in strategy.parts):
        raise NotApplicable("it holds to the initial model from the start")
    if any(CrossEntropy in part.replaces for part in strategy.parts):
        raise NotApplicable("it learns labels by another loss than fine-tuning does")
    benchmark = subject.benchmark(experiences=1)
    first, plain = subject.fitted(benchmark, strategy), subject.fitted(benchmark, finetune())
    same(learned(plain), learned(first), "its first experience is not fine-tuning")


def check_tasks_hidden(subject: Subject) -> None:
    """Where the setting tells no task labels, it sees none and the true ones make no difference."""
    if "task labels" in subject.needs:
        raise NotApplicable("it needs task labels")

    def look(point: str, arguments: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        for argument in arguments:
            if isinstance(argument, Batch):
                require(bool((argument.task == HIDDEN).all()), f"{point} is given a batch with task labels")
            if isinstance(argument, Experience):
                require(argument.task == HIDDEN, f"{point} is given an experience with its task label")
        return call()

    runs = [
        subject.fitted(subject.benchmark(tasks=tasks), watch(subject.make(), look), every=2)
        for tasks in ((0, 1, 2), (2, 0, 1))
    ]
    same(everything(runs[0]), everything(runs[1]), "the result depends on task labels that it may not know")


def check_prediction_alone(subject: Subject) -> None:
    """What it predicts for an example is the same alone, among its own experience and among all of them."""
    run = subject.evaluated
    x, task = _test_examples(run)
    everyone = torch.arange(len(x), device=run.device)
    groups = [
        *everyone.flip(0).split(7),
        *everyone.split([len(exp) for exp in run.benchmark.test]),
        *everyone[:: max(len(x) // 6, 1)].split(1),
    ]
    with torch.no_grad(), run.evaluating():
        together = run.predict(x, task)
        for rows in groups:
            # the size of a product decides the order of its sums, so the last bits may differ
            same = torch.allclose(run.predict(x[rows], task[rows]), together[rows], rtol=1e-5, atol=1e-5)
            require(same, "predictions of the same examples differ with what else is in the batch")


def check_evaluation_blind(subject: Subject) -> None:
    """Predictions are the same whichever experience is under way, and whatever label a task that is not told has."""
    run = subject.evaluated
    x, task = _test_examples(run)
    told = run.benchmark.setting.task_labels == "always"
    with torch.no_grad(), run.evaluating():
        reference = run.predict(x, task)
        for exp in run.benchmark.train:  # the last one is again that of the run's end
            run.place.experience = exp.index
            hinted = task if told else torch.full_like(task, exp.index)
            for label in (task, hinted):
                same = torch.allclose(run.predict(x, label), reference, rtol=1e-5, atol=1e-5)
                require(same, "predictions of the same examples differ with the experience that is under way")


def check_frozen(subject: Subject) -> None:
    """What it declares frozen, and every parameter without gradient, has the same bits after an experience."""

    class Look(Strategy):
        language = True

        def begin_experience(self, exp: Experience) -> None:
            self.before = {name: value.clone() for name, value in frozen().items()}

        def end_experience(self, exp: Experience) -> None:
            after = frozen()
            for name, value in self.before.items():
                kept = name in after and difference(value, after[name]) is None
                require(kept, f"'{name}' is frozen, and experience {exp.index + 1} changed it")

    def frozen() -> dict[str, Tensor]:
        still = {name: p.detach() for name, p in run.model.named_parameters() if not p.requires_grad}
        return {**still, **{name: t for part in strategy.parts for name, t in part.frozen().items()}}

    strategy = subject.make()
    if any(overrides(part, "train_experience") for part in strategy.parts):
        raise NotApplicable("it trains by a loop of its own, beside which nothing can look on")
    try:
        run = subject.run(subject.benchmark(), chain(strategy, Look()))
    except IncompatibleError as error:
        raise NotApplicable(f"nothing can look on: {error}") from error
    run.fit()


def check_once(subject: Subject) -> None:
    """What it asks `once` for each test example depends on nothing that changes: the curve is as without keeping."""
    keeps = subject.evaluated
    moved = keeps.evaluator.moved()
    if moved is None:
        raise NotApplicable("it asks nothing once")
    require(not moved, f"'{', '.join(moved)}' is asked once, as if it stayed as it is, and changes")
    with keeping_nothing():
        anew = subject.fitted(subject.benchmark(), every=1)
    same(learned(anew)["curve"], learned(keeps)["curve"], "what it asks once is not the same later")


def check_capture(subject: Subject) -> None:
    """What it declares a GPU may record and do again takes the same operations at every step: the bits are equal."""
    strategy = subject.make()
    declared = [part for part in strategy.parts if part.capturable]
    if not declared:
        raise NotApplicable("it does not declare capturable = True")
    optim = OptimConfig(lr=0.02, momentum=0.9, reset=False, schedule="cosine")  # another rate in each step
    how: dict[str, Any] = {"batch_size": 8, "epochs": 2, "optim": optim}  # more after a recording than before
    run = subject.run(subject.benchmark(), strategy, **how)
    if reason := undeclared(run):
        raise NotApplicable(reason)
    run.gradients = Gradients(run, run.backward, Tape())
    run.fit()
    if reason := run.gradients.reason:
        why = f" ({moving(subject.run(subject.benchmark(), **how))})" if reason.startswith(APART) else ""
        raise Violation(f"a GPU could not record it: {reason}{why}")
    recorded = run.gradients.recorded > 0
    require(recorded, "its batches never have one shape for long, so it could not be recorded")
    eager = subject.fitted(subject.benchmark(), **how)
    if difference(everything(run), everything(eager)):
        why = moving(subject.run(subject.benchmark(), **how))
        same(everything(run), everything(eager), f"recorded, it computes something else ({why})")


def _test_examples(run: Engine) -> tuple[Tensor, Tensor]:
    """The inputs of the whole test stream, and the task labels that prediction is told."""
    x = torch.cat([run.normalise(exp.data.x()) for exp in run.benchmark.test]).to(run.device)
    told = run.benchmark.setting.task_labels == "always"
    task = [torch.full((len(exp),), exp.task if told else HIDDEN) for exp in run.benchmark.test]
    return x, torch.cat(task).to(run.device)


CHECKS: list[Callable[[Subject], None]] = [
    check_builds,
    check_deterministic,
    check_private_randomness,
    check_inputs_untouched,
    check_modes_restored,
    check_evaluation_silent,
    check_test_unseen,
    check_forwards_counted,
    check_resumes,
    check_learns,
    check_odd_batches,
    check_ranges,
    check_low_precision,
    check_memory_budget,
    check_declares_needs,
    check_chain_unit,
    check_null_parameters,
    check_takes_effect,
    check_first_experience,
    check_tasks_hidden,
    check_prediction_alone,
    check_evaluation_blind,
    check_frozen,
    check_once,
    check_capture,
]
"""The contract, rule by rule."""
