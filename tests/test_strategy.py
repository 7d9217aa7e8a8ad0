"""Chains, needs, state, and what a strategy's file may not do."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench import Batch, Experience, Order, Output, Reservoir, Strategy, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.engine.refusals import check_needs
from clbench.errors import ConfigError, IncompatibleError
from clbench.parts import CrossEntropy
from clbench.registry import strategies
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import Setting


class Named(Strategy):
    """A part with a name and a harmless loss."""

    def __init__(self, name: str) -> None:
        self.name = name

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {self.name: out.logits.mean()}


class Orders(Strategy):
    def order(self, exp: Experience, epoch: int) -> Order | None:
        return Order(torch.arange(len(exp)))


class Classifies(Strategy):
    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        return torch.zeros((len(x), self.run.num_classes))


# --- chains ---


def test_a_chain_is_flat_and_in_order() -> None:
    a, b, c = Named("a"), Named("b"), Named("c")
    assert chain(a, chain(b, c)).parts == (a, b, c) == chain(chain(a, b), c).parts


def test_the_plain_strategy_is_the_unit() -> None:
    a = Named("a")
    assert chain(a) is chain(a, Strategy()) is chain(Strategy(), a) is a


def test_a_chain_of_nothing_is_the_unit() -> None:
    assert type(chain()) is type(chain(Strategy(), Strategy())) is Strategy


def test_a_chain_reads_as_its_parts() -> None:
    assert str(chain(Named("a"), Named("b"))) == "a+b"


def test_a_second_cross_entropy_is_dropped() -> None:
    assert len(chain(CrossEntropy(), Named("a"), CrossEntropy()).parts) == 2


@pytest.mark.parametrize("name", ["er+finetune", "finetune+er"])
def test_fine_tuning_adds_nothing_to_a_chain(name: str) -> None:
    kinds = {type(part).__name__ for part in make_strategy(name).parts}
    assert (kinds, len(make_strategy(name).parts)) == ({"Replay", "CrossEntropy"}, 2)


def test_registered_chains_share_the_cross_entropy() -> None:
    kinds = [type(part).__name__ for part in make_strategy("er+ewc").parts]
    assert kinds == ["Replay", "CrossEntropy", "Consolidate"]


@pytest.mark.parametrize(("kind", "does"), [(Orders, "order the data"), (Classifies, "classify")])
def test_two_parts_that_decide_the_same_are_refused(kind: type[Strategy], does: str) -> None:
    with pytest.raises(IncompatibleError, match=f"Only one part of a chain may {does}"):
        chain(kind(), CrossEntropy(), kind())


def test_two_losses_of_one_name_are_refused() -> None:
    run = tiny_run(chain(CrossEntropy(), Named("fit")), tiny_benchmark())
    with pytest.raises(IncompatibleError, match="both add a loss named 'fit'; the second is fit"):
        run.fit()


def test_a_strategy_that_does_nothing_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="neither adds a loss nor classifies"):
        tiny_run(Orders(), tiny_benchmark())


# --- points ---


def test_around_points_nest_with_the_first_part_innermost() -> None:
    calls: list[str] = []

    class Around(Named):
        def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
            calls.append(f"step {self.name}")
            return inner(batch)

        def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
            calls.append(f"gradient {self.name}")
            return inner(batch)

    tiny_run(chain(CrossEntropy(), Around("a"), Around("b")), tiny_benchmark()).fit()
    assert calls[:4] == ["step b", "step a", "gradient b", "gradient a"]


def test_batches_go_through_the_parts_in_order() -> None:
    class Scale(Strategy):
        def __init__(self, factor: float, add: float) -> None:
            self.factor, self.add = factor, add

        def extend(self, batch: Batch) -> Batch:
            return batch.with_x(batch.x * self.factor + self.add)

    seen: list[Tensor] = []

    class Look(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            seen.append(batch.x - (batch.raw * 2 + 1))

    tiny_run(chain(Scale(2, 0), Scale(1, 1), CrossEntropy(), Look()), tiny_benchmark()).fit()
    assert all(bool((apart == 0).all()) for apart in seen)


def test_no_loss_means_no_update() -> None:
    class Watch(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {}

    run = tiny_run(Watch(), tiny_benchmark())
    before = [p.detach().clone() for p in run.parameters().values()]
    run.fit()
    assert (run.updates, run.step) == (0, 12)
    assert all(torch.equal(a, b) for a, b in zip(before, run.parameters().values(), strict=True))


@pytest.mark.parametrize(("boundaries", "calls"), [(True, 3), (False, 0)])
def test_experience_points_are_called_only_where_boundaries_are_told(boundaries: bool, calls: int) -> None:
    ends: list[int] = []

    class Count(Strategy):
        def end_experience(self, exp: Experience) -> None:
            ends.append(exp.index)

    tiny_run(chain(CrossEntropy(), Count()), tiny_benchmark(boundaries=boundaries)).fit()
    assert len(ends) == calls


def test_an_order_decides_the_rows() -> None:
    rows: list[list[int]] = []

    class Look(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            rows.append(batch.index.tolist())

    tiny_run(chain(Orders(), CrossEntropy(), Look()), tiny_benchmark(), batch_size=40).fit()
    assert rows[:3] == [list(range(40)), list(range(40, 64)), list(range(40))]


# --- needs ---


def test_needs_of_a_chain_are_those_of_its_parts() -> None:
    assert make_strategy("er+ewc").all_needs() == {"memory", "boundaries"}


def test_the_refusal_says_who_needs_what_and_what_is_given() -> None:
    message = (
        "er needs memory (to keep past examples), which tiny@1 does not give; "
        "it gives boundaries, several passes."
    )
    with pytest.raises(IncompatibleError) as error:
        tiny_run(make_strategy("er"), tiny_benchmark(memory=0))
    assert str(error.value) == message


def test_a_setting_with_nothing_says_so() -> None:
    setting = Setting(boundaries=False, passes=1, memory=0)
    bare = dataclasses.replace(tiny_benchmark(), setting=setting)
    with pytest.raises(IncompatibleError, match="it gives nothing beyond the examples"):
        check_needs(make_strategy("ewc"), bare)


def test_a_memory_larger_than_granted_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="er would keep 50 examples; tiny@1 grants 10"):
        tiny_run(make_strategy("er", memory=50), tiny_benchmark(memory=10))


def test_a_memory_that_parts_share_counts_once() -> None:
    class Shares(Strategy):
        def setup(self, run: Engine) -> None:
            self.memory = vars(replay)["memory"]

    replay, fit = make_strategy("er", memory=10).parts
    assert tiny_run(chain(replay, fit, Shares()), tiny_benchmark(memory=10)).budget()["memory_examples"] == 10


# --- state ---


class Keeps(Strategy):
    """One attribute of every kind that may be state."""

    state = ("number", "word", "nothing", "tensor", "memory", "module", "nested", "series")

    def setup(self, run: Engine) -> None:
        self.number, self.word, self.nothing = 0, "", None
        self.tensor = torch.zeros(2)
        self.memory = Reservoir(3)
        self.module: nn.Module | None = None
        self.nested: dict[str, dict[str, Tensor]] = {}
        self.series: list[Tensor] = []

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": out.logits.square().mean()}


def kept() -> tuple[Keeps, Keeps]:
    """A strategy with state, and a fresh one that has loaded it."""
    old, new = Keeps(), Keeps()
    for part in (old, new):
        tiny_run(part, tiny_benchmark())
    old.number, old.word, old.tensor = 7, "seven", torch.tensor([1.0, 2.0])
    old.memory.add(torch.Generator(), x=torch.arange(3))
    old.module = old.run.frozen()
    old.nested, old.series = {"anchor": {"w": torch.ones(1)}}, [torch.ones(2), torch.zeros(1)]
    new.load_state_dict(old.state_dict())
    return old, new


def test_plain_values_come_back() -> None:
    _, new = kept()
    assert (new.number, new.word, new.nothing, new.tensor.tolist()) == (7, "seven", None, [1.0, 2.0])


def test_a_memory_comes_back() -> None:
    _, new = kept()
    assert isinstance(new.memory, Reservoir)
    assert new.memory["x"].tolist() == [0, 1, 2]


def test_a_module_that_does_not_exist_yet_comes_back_as_a_frozen_copy() -> None:
    old, new = kept()
    assert old.module is not None
    assert new.module is not None
    assert new.module is not old.module
    assert not new.module.training
    states = old.module.state_dict(), new.module.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_nested_tensors_come_back() -> None:
    _, new = kept()
    assert new.nested["anchor"]["w"].tolist() == [1.0]
    assert [t.tolist() for t in new.series] == [[1.0, 1.0], [0.0]]


# --- names and parameters ---


def test_a_chain_takes_parameters_of_its_parts() -> None:
    replay, _, consolidate = make_strategy("er+ewc", memory=5, strength=2.0).parts
    assert (vars(replay)["capacity"], vars(consolidate)["strength"]) == (5, 2.0)


def test_a_parameter_of_several_parts_must_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="'memory' could mean er__memory or derpp__memory; write which"):
        make_strategy("er+derpp", memory=5)


# --- what is left to the engine ---

NEVER = {"backward", "item", "cpu", "cuda", "autocast", "manual_seed", "seed"}
WAITING = {"numpy", "tolist"}  # at an experience's end a method may look at numbers, in a step it may not
STEP = {"extend", "step", "gradient", "losses", "gradients", "after_update", "after_step", "logits"}
FILES = sorted((Path(__file__).parent.parent / "strategies").glob("*.py"))


def called(node: ast.AST) -> set[str]:
    """Names of the methods that are called in a piece of code."""
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return {func.attr for func in calls if isinstance(func, ast.Attribute)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_strategies_leave_mechanism_to_the_engine(path: Path) -> None:
    """No backward pass, no device or random stream of their own, and no waiting for the device in a step."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not called(tree) & NEVER
    points = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in STEP]
    assert not {name for point in points for name in called(point)} & WAITING


@pytest.mark.parametrize("name", strategies.names())
def test_strategies_cite_what_they_are(name: str) -> None:
    """The docstring says in a sentence what the method does and, where there is a paper, cites it."""
    entry: Any = strategies.entry(name)
    assert entry.summary
    assert not entry.paper or entry.paper in entry.build.__doc__
