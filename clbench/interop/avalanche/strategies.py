"""Avalanche's strategies and plugins as clbench strategies.

Avalanche's own loop trains: `strategy.train(experience)`, as in a user's script. A plugin behind all others tells the
engine that an iteration is over, and the engine counts, logs and evaluates. Another change is made to the loader
alone: its batches are gathered by clbench (`loading`), row for row the same.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import ClbenchError, IncompatibleError
from clbench.interop.avalanche.benchmarks import check_classes, to_avalanche
from clbench.interop.avalanche.known import PREFIX, Known, look_up
from clbench.interop.avalanche.lib import avalanche, quiet, seeded, version
from clbench.interop.avalanche.loading import Gathered, Store, gathered
from clbench.interop.avalanche.networks import arguments, one_task_at_a_time, readable
from clbench.interop.avalanche.state import Graph
from clbench.machine.randomness import derive_seed
from clbench.memory import Memory
from clbench.ranges import Natural, NotNegative
from clbench.registry import Entry
from clbench.strategy import Run, State, Strategy
from clbench.types import MASKED, Benchmark, Data, Experience, Stream

COMMON = (
    *("self", "model", "optimizer", "criterion", "train_mb_size", "train_epochs", "eval_mb_size", "device"),
    *("plugins", "evaluator", "eval_every", "peval_mode", "kwargs", "base_kwargs"),
)
"""Parameters of Avalanche's constructors that clbench gives."""

HEEDED = {
    "precision": "fp32",
    "optim.schedule": "constant",
    "optim.warmup": 0.0,
    **dict.fromkeys(("optim.clip", "optim.later_lr", "train.iterations"), None),
    **dict.fromkeys(("train.later_iterations", "train.later_epochs"), None),
}
"""Settings of which Avalanche's loop knows one value."""
Make = Callable[..., Any]
"""(model, optimizer, criterion, train_mb_size, train_epochs, eval_mb_size, device, evaluator) → their strategy."""


class AvalancheStrategy(Strategy):
    """A strategy of Avalanche's in clbench's engine.

    Args:
        make: builds the Avalanche strategy from the keywords `model`, `optimizer`, `criterion`, `train_mb_size`,
            `train_epochs`, `eval_mb_size`, `device` and `evaluator`; add your plugins there.
        needs: what the setting must offer.
        keeps: examples that it stores, at most.
        resumes: why a run cannot be continued from a checkpoint; empty where it can, at experience ends.
    """

    def __init__(
        self, make: Make, *, needs: frozenset[str] = frozenset(), keeps: int = 0, resumes: str = ""
    ) -> None:
        self.make, self.resumes, self.keeps = make, resumes, keeps
        self._needs = frozenset({"boundaries"}) | needs

    def all_needs(self) -> frozenset[str]:
        return self._needs

    # --- once ---

    def network(self, model: nn.Module, benchmark: Benchmark) -> tuple[nn.Module, dict[str, Any]]:
        """Return what is trained, and the keywords by which `make` is told."""
        return arguments("", model, benchmark, {})

    def wrap(self, model: nn.Module) -> nn.Module:
        self._check(self.run)
        with quiet():
            net, self._given = self.network(model, self.run.benchmark)
        refusal = f"{self} cannot be continued from a checkpoint: {self.resumes}" if self.resumes else ""
        return Holder(net, refusal)

    def setup(self, run: Run) -> None:
        self.scenario = to_avalanche(run.benchmark, streams=("train",))
        self.stream_ = list(self.scenario.train_stream)
        self.store = Store(run)
        self.theirs = self.build()
        # Their evaluation: ours takes its place, and without metrics and loggers theirs does nothing but cost.
        idle = ("EvaluationPlugin", "PeriodicEval")
        self.theirs.plugins = [p for p in self.theirs.plugins if type(p).__name__ not in idle]
        self.theirs.plugins.append(_Hook(self))
        self.theirs.model.to(run.device)
        self.holder.net = self.theirs.model
        self.memory = _Kept(self.keeps, run.benchmark)
        self.begun: set[int] = set()  # task labels
        self._one_task_at_a_time = one_task_at_a_time(self.theirs.model)

    def build(self) -> Any:
        """Avalanche's strategy, for the network and the settings of the run."""
        run = self.run
        train = run.config.train
        given = {
            "optimizer": run.optimizer,
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": train.batch_size,
            "train_epochs": train.epochs,
            "eval_mb_size": train.batch_size,
            "device": run.device,
            **self._given,
        }
        try:
            with quiet(), seeded(derive_seed(run.config.seeds.data, "avalanche")):
                given["evaluator"] = avalanche().training.plugins.EvaluationPlugin(loggers=[])
                return self.make(**given)
        except ClbenchError:
            raise
        except Exception as error:
            raise IncompatibleError(
                f"{self} cannot be built: Avalanche raised {type(error).__name__}: {error}"
            ) from error

    @property
    def holder(self) -> Holder:
        assert isinstance(self.run.model, Holder)
        return self.run.model

    def _check(self, run: Run) -> None:
        """Refuse settings that Avalanche's loop would not heed."""
        config = run.config
        for key, only in HEEDED.items():
            value = functools.reduce(getattr, key.split("."), config)
            if value != only:
                raise IncompatibleError(
                    f"{self} is trained by Avalanche's loop, which knows no {key}; {value} was given. Leave it at "
                    f"{'none' if only is None else only}."
                )

    # --- experiences ---

    def train_experience(self, exp: Experience) -> None:
        run = self.run
        kwargs = {"drop_last": True} if run.config.train.drop_last else {}
        if self.theirs.optimizer is not None:
            self.theirs.optimizer = run.optimizer  # a fresh one, where the run resets it
        sizes = [len(e.data) for e in run.train]
        self.present = (sum(sizes[: exp.index]), sum(sizes[: exp.index + 1]))
        with quiet(), seeded(derive_seed(run.config.seeds.data, f"avalanche/{exp.index}")):
            self.theirs.train(self._taught(exp), **kwargs)
        self.holder.net = self.theirs.model

    def _taught(self, exp: Experience) -> Any:
        """Return what `train` is called with."""
        return self.stream_[exp.index]

    # --- prediction ---

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        """(B, C) what Avalanche's evaluation would score: forward pass and the plugins around it."""
        theirs = self.theirs
        if _no_means(theirs.model):  # the nearest of no class means: every class alike
            return x.new_zeros((len(x), self.run.num_classes))
        # Avalanche's label where there are none is 0; where test examples' are hidden, −1 rules no class out.
        told = torch.zeros_like(task) if self.run.benchmark.setting.task_labels == "never" else task
        with _evaluating(theirs, self.stream_[min(self.run.experience, len(self.stream_) - 1)]):
            if self._one_task_at_a_time:
                return self._by_task(x, told)
            return self._columns(self._scores(x, told))

    def _scores(self, x: Tensor, task: Tensor) -> Tensor:
        theirs = self.theirs
        theirs.mbatch = [x, torch.zeros(len(x), dtype=torch.int64, device=x.device), task]
        theirs._before_eval_iteration()
        theirs._before_eval_forward()
        theirs.mb_output = theirs.forward()
        theirs._after_eval_forward()
        theirs._after_eval_iteration()
        scores: Tensor = theirs.mb_output
        return scores

    def _by_task(self, x: Tensor, task: Tensor) -> Tensor:
        """Task by task, for networks that know one at a time; of a task not yet begun, every class alike."""
        theirs, net = self.theirs, self.theirs.model
        scores = x.new_zeros((len(x), self.run.num_classes))
        theirs.model = readable(net)
        try:
            for label in task.unique().tolist():
                if label in self.begun:
                    rows = (task == label).nonzero().squeeze(1)
                    scores[rows] = self._columns(self._scores(x[rows], task[rows]))
        finally:
            theirs.model = net
        return self.run.mask_tasks(scores, task)

    def _columns(self, scores: Tensor) -> Tensor:
        """(B, K) scores of the classes that a growing head or classifier knows → (B, C)."""
        missing = self.run.num_classes - scores.shape[1]
        if missing <= 0:
            return scores[:, : self.run.num_classes].float()
        return torch.cat([scores.float(), scores.new_full((len(scores), missing), MASKED).float()], 1)

    # --- checkpoints ---

    def state_dict(self) -> State:
        """Return what Avalanche's strategy and plugins hold between two experiences, or why it cannot be saved."""
        if self.resumes:
            return {"refused": self.resumes}
        return Graph(self.theirs, self.scenario).save()

    def load_state_dict(self, state: State) -> None:
        Graph(self.theirs, self.scenario).load(state, str(self))


class _Named(AvalancheStrategy):
    """One of Avalanche's own, by name."""

    def __init__(self, name: str, known: Known, params: Mapping[str, Any]) -> None:
        self.theirs_name, self.params = name, dict(params)
        super().__init__(self._make, needs=known.needs, resumes=known.resumes)

    def network(self, model: nn.Module, benchmark: Benchmark) -> tuple[nn.Module, dict[str, Any]]:
        if self.theirs_name == "ICaRL":
            check_classes(benchmark, str(self))
        self.keeps = _stored(self.params, benchmark)
        return arguments(self.theirs_name, model, benchmark, self.params)

    def stream(self, train: Stream) -> Stream:
        if self.theirs_name != "JointTraining":
            return train
        classes = tuple(sorted({c for exp in train for c in exp.classes}))
        tests = tuple(t for exp in train for t in exp.tests)
        everything = Data.union([exp.data for exp in train])
        return Stream(train.name, (Experience(0, classes, everything, tests=tests),))

    def _taught(self, exp: Experience) -> Any:
        return self.stream_ if self.theirs_name == "JointTraining" else super()._taught(exp)

    def _make(self, **given: Any) -> Any:
        av = avalanche()
        plugin = self.theirs_name.endswith("Plugin")
        cls = av.training.supervised.Naive if plugin else getattr(av.training.supervised, self.theirs_name)
        if callable(given.get("generator_strategy")):
            same = ("train_mb_size", "train_epochs", "device", "evaluator")
            given["generator_strategy"] = given["generator_strategy"](**{key: given[key] for key in same})
        if self.theirs_name == "OnlineNaive":
            given["train_passes"] = given["train_epochs"]
        if self.theirs_name == "FeatureReplay":
            # Its own default is one object that all instances share, and that remembers classes.
            given["criterion"] = av.training.losses.MaskedCrossEntropy()
        takes = inspect.signature(cls if plugin else _constructor(self.theirs_name)).parameters
        given = {key: value for key, value in given.items() if key in takes}
        if plugin:
            return cls(**given, plugins=[getattr(av.training.plugins, self.theirs_name)(**self.params)])
        return cls(**given, **self.params)


class Holder(nn.Module):
    """What the engine knows as its model: the network that Avalanche's strategy has at present.

    Args:
        net: the network.
        refusal: why its weights cannot be loaded, empty where they can.
    """

    def __init__(self, net: nn.Module, refusal: str = "") -> None:
        super().__init__()
        self.net, self.refusal = net, refusal

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        if self.refusal:
            raise IncompatibleError(f"{self.refusal}. Delete the run's folder to begin it again.")
        return super().load_state_dict(state_dict, strict, assign)


class _Hook:
    """The last of the plugins: puts our loader in place and reports every iteration to the engine."""

    def __init__(self, ours: AvalancheStrategy) -> None:
        self.ours = ours

    def before_training_epoch(self, theirs: Any, **_: Any) -> None:
        ours = self.ours
        ours.holder.net = theirs.model  # some put another one in place as an experience begins
        ours.begun.update(theirs.experience.task_labels)
        if not isinstance(theirs.dataloader, Gathered):
            theirs.dataloader = gathered(theirs.dataloader, ours.store, ours.present) or theirs.dataloader

    def after_training_iteration(self, theirs: Any, **_: Any) -> None:
        run, loader = self.ours.run, theirs.dataloader
        examples = loader.new if isinstance(loader, Gathered) else len(theirs.mb_y)
        run.forwards += len(theirs.mb_y)
        run.stepped(examples, {"loss": theirs.loss.detach().reshape(())})


class _Kept(Memory):
    """How much Avalanche's strategy stores; by its capacity grants are checked and budgets told."""

    def __init__(self, capacity: int, benchmark: Benchmark) -> None:
        super().__init__(capacity)
        pool = benchmark.train[0].data.parts[0][0]
        self._bytes = pool.x[:1].numel() * pool.x.element_size()

    @property
    def nbytes(self) -> int:
        return int(self.capacity * self._bytes)


def _stored(params: Mapping[str, Any], benchmark: Benchmark) -> int:
    """Examples that a strategy with these parameters stores, at most."""
    if "memory_size" in params:  # iCaRL's
        return int(params["memory_size"]) * (1 if params.get("fixed_memory", True) else benchmark.num_classes)
    for key in ("patterns_per_exp", "patterns_per_experience"):
        if key in params:
            return int(params[key]) * len(benchmark.train)
    return int(params.get("mem_size", 0))


def _no_means(model: Any) -> bool:
    """Whether the network classifies by class means and has none yet."""
    classifier = getattr(model, "eval_classifier", None)
    return classifier is not None and getattr(classifier, "class_means_dict", None) == {}


@contextlib.contextmanager
def _evaluating(theirs: Any, experience: Any) -> Iterator[None]:
    """Avalanche's strategy as in its own evaluation, and afterwards as it was."""
    names = ("is_training", "experience", "mbatch", "mb_output", "loss")
    kept, iterations = {name: getattr(theirs, name) for name in names}, theirs.clock.total_iterations
    theirs.is_training = False
    if theirs.experience is None:
        theirs.experience = experience
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(theirs, name, value)
        theirs.clock.total_iterations = iterations


# --- names ---


def _constructor(name: str) -> Any:
    """Return the constructor of a strategy or plugin, whose signature tells its parameters."""
    av = avalanche()
    made = getattr(av.training.plugins if name.endswith("Plugin") else av.training.supervised, name)
    return made.__init__ if inspect.isclass(made) else made  # a deprecated one is a function


def entry(name: str) -> Entry:
    """Return what the registry knows of `avalanche:NAME`, made from the constructor's signature.

    Raises:
        RegistryError: avalanche-lib is missing, or there is no such name, or it does not run; says why.
    """
    known = look_up(name)
    release = version()
    with quiet():
        constructor = _constructor(name)
        hints = _hints(constructor)
    parameters = [
        p.replace(kind=p.KEYWORD_ONLY, annotation=_annotation(p, hints))
        for key, p in inspect.signature(constructor).parameters.items()
        if key not in COMMON and key not in known.fixed
    ]

    def build(**params: Any) -> Strategy:
        return _Named(name, known, params)

    build.__doc__ = f"{known.summary}\n\nAvalanche's `{name}`, in its own loop (avalanche-lib {release})."
    build.__name__ = name
    build.__annotations__ = {p.name: p.annotation for p in parameters}
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return Entry(PREFIX + name, release, __name__, known.summary, source=__file__, build=build)


def _hints(constructor: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(constructor)
    except NameError:  # names that Avalanche imports for type checkers only
        return {}


def _annotation(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    """Return a parameter's type: as annotated, unless its own default says otherwise; by its default where it is not.

    None of Avalanche's numbers is below zero.
    """
    default, hint = parameter.default, hints.get(parameter.name, Any)
    plain = type(default) in (bool, int, float, str)
    if hint in (bool, int, float, str) and not (plain and hint is int and isinstance(default, float)):
        return {int: Natural, float: NotNegative}.get(hint, hint)
    if hint in (Any, int) and plain:
        number = isinstance(default, int | float) and not isinstance(default, bool)
        return Natural | NotNegative if number else type(default)
    return hint
