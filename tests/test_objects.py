"""Strategies, networks and data that are handed to a run as objects."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import clbench
from clbench import Strategy, chain
from clbench.engine.observer import Observer, Watched
from clbench.errors import ClbenchError, ConfigError, IncompatibleError, LedgerError
from clbench.models.given import classifier_of
from clbench.parts import CrossEntropy, Replay
from clbench.results.ledger import Record
from clbench.runs import again, lifecycle, objects
from clbench.testing import tiny_benchmark
from clbench.types import Batch, Output

BRIEF: dict[str, Any] = {"device": "cpu", "iterations": 3}
BENCHMARK = tiny_benchmark()
SHAPE, CLASSES = BENCHMARK.input_shape, BENCHMARK.num_classes
SIZE = torch.Size(SHAPE).numel()


class Net(nn.Module):
    def __init__(self, width: int = 6, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(SIZE, width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layer(x.flatten(1)).relu())
        return out


class Fit(Strategy):
    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def losses(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        return {"fit": self.weight * out.cross_entropy(batch.y)}


def run(strategy: Any = "er", **given: Any) -> Record:
    return clbench.run(BENCHMARK, strategy, **{**BRIEF, **given})


def net(seed: int = 0, **given: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**given)


# --- networks ---


def test_a_module_runs_from_its_weights_and_stays_as_it_is() -> None:
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    record = run(model=module, lr=1e-30)
    assert record.folder is not None
    trained = load_file(record.folder / "model.safetensors")
    assert torch.equal(trained["backbone.layer.weight"], before["layer.weight"])
    assert torch.equal(trained["head.weight"], before["last.weight"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert record.model["name"] == "Net"


def test_the_same_module_is_the_same_run() -> None:
    assert run(model=net()) == run(model=net())


@pytest.mark.parametrize(
    "other",
    [net(1), net(width=7), nn.Sequential(nn.Flatten(), nn.Linear(SIZE, CLASSES))],
    ids=["seed", "width", "kind"],
)
def test_another_module_is_another_run(other: nn.Module) -> None:
    assert run(model=other).id != run(model=net()).id


def test_settings_of_layers_count() -> None:
    def pooled(stride: int) -> nn.Module:
        return nn.Sequential(nn.MaxPool2d(2, stride), nn.Flatten())

    a, b = (objects.told(pooled(stride), "it").content for stride in (1, 2))
    assert a != b
    assert a == objects.told(pooled(1).eval(), "it").content


def test_a_class_or_function_makes_a_network_anew_for_every_seed() -> None:
    a, b = (run(model=Net, seed=seed) for seed in (0, 1))
    assert run(model=Net) == a
    assert run(model=functools.partial(Net, width=5)).id != a.id
    assert a.metrics != b.metrics


def test_features_get_a_head() -> None:
    folder = run(model=nn.Flatten()).folder
    assert folder is not None
    assert load_file(folder / "model.safetensors")["head.weight"].shape == (CLASSES, SIZE)


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.last(self.layer(x.flatten(1))))
        return out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(SIZE, CLASSES), nn.Softmax(1)), "but not by a linear layer"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3, CLASSES)),
            "does not take inputs of shape .*: mat1 and mat2",
        ),
        (nn.Unflatten(1, (1, SIZE)), r"must give one row of logits or features for each example, \(2, D\)"),
        (Twice(width=CLASSES), "uses its last linear layer more than once"),
        (clbench.Classifier(nn.Flatten(), SIZE, 3), f"tells 3 classes apart; the benchmark has {CLASSES}"),
        (lambda: 1, "must make a torch.nn.Module; it made a int"),
        (3, "'model' takes a name, a torch.nn.Module, or a class or function that makes one; 3 was given"),
    ],
)
def test_networks_that_cannot_be(model: Any, message: str) -> None:
    with pytest.raises(ClbenchError, match=message):
        run(model=model)
    assert not Path("runs").exists()


# --- strategies ---


def test_a_strategy_runs_and_stays_as_it_is() -> None:
    mine = chain(Replay(5), Fit(0.5))
    record = run(mine)
    assert record == run(chain(Replay(5), Fit(0.5)))
    assert not hasattr(mine.parts[0], "run")
    assert record.strategy["name"] == "Replay-Fit"
    assert record.code["parts"]["strategy Replay-Fit"]["origin"] == "an object in memory"
    assert record.config["params"]["Replay-Fit"]["object"].startswith("Replay(capacity=5, ")


def test_what_a_strategy_holds_counts() -> None:
    ids = {run(chain(Replay(m), Fit(w))).id for m in (4, 5) for w in (0.5, 1.0)}
    assert len(ids) == 4


def test_it_may_have_a_name() -> None:
    assert run(Fit(), name="plain").strategy["name"] == "plain"
    with pytest.raises(ConfigError, match="'er' is the name of a registered strategy; give yours another"):
        run(Fit(), name="er")


def test_nothing_is_registered_afterwards() -> None:
    from clbench.registry import models, strategies

    run(Fit(), model=net())
    assert not {"Fit", "Net"} & {*strategies.names(), *models.names()}


def test_a_strategy_that_make_strategy_made_is_run_by_its_name() -> None:
    made = clbench.make_strategy("er+ewc", memory=5, ewc__strength=2.0)
    assert run(made) == run("er+ewc", memory=5, **{"ewc.strength": 2.0})
    made.parts[0].capacity = 4  # type: ignore[attr-defined]
    assert run(made).strategy["name"] == "Replay-CrossEntropy-Consolidate"


class Stop(Observer):
    def end_experience(self, run: Watched) -> None:
        run.stop = run.experience == 0


def test_a_run_of_objects_is_continued_by_the_same_call() -> None:
    whole = run(chain(Replay(5), Fit()), model=net(), out="whole")
    with pytest.raises(KeyboardInterrupt):
        run(chain(Replay(5), Fit()), model=net(), out="cut", observers=[Stop()])
    (folder,) = Path("cut").iterdir()
    assert (folder / "checkpoint.safetensors").is_file()
    with pytest.raises(LedgerError, match=r"if it was an object in memory, call clbench\.run with it again"):
        lifecycle.resume(folder)
    assert run(chain(Replay(5), Fit()), model=net(), out="cut").curve.sha256() == whole.curve.sha256()


class Holding(Fit):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


def test_what_cannot_be_read_is_asked_for_a_name() -> None:
    generator = (i for i in range(3))
    with pytest.raises(ConfigError, match=r"held is a generator, whose content cannot be read.*name='…'"):
        objects.told(Holding(generator), "The strategy Holding")
    a, b = (objects.told(Holding(generator), "it", name).content for name in ("a", "b"))
    assert a != b


@pytest.mark.parametrize(
    "pair",
    [
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (len, print),
        (lambda x: x + 1, lambda x: x + 2),
        (functools.partial(int, base=2), functools.partial(int, base=3)),
        (torch.float32, torch.float64),
        (nn.LSTM(2, 3), nn.LSTM(2, 4)),
        (1, 1.0),
        (True, 1),
        (frozenset("ab"), frozenset("ac")),
    ],
)
def test_contents_are_told_apart(pair: tuple[Any, Any]) -> None:
    a, b = (objects.told(Holding(one), "it").content for one in pair)
    assert a != b
    assert a == objects.told(Holding(pair[0]), "it").content


def test_contents_may_go_in_circles() -> None:
    one: list[Any] = []
    one.append(one)
    assert objects.told(Holding(one), "it").content


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"strategy": Fit},
            r"'strategy' takes a registered name or a Strategy, made, and not its class; <class",
        ),
        ({"strategy": None}, "'strategy' takes a registered name or a Strategy"),
        (
            {"strategy": Fit(), "weight": 3},
            "There is no setting 'weight'.*The strategy is an object, which has its own",
        ),
        ({"observers": print}, "'observers' takes a list of Observers"),
        ({"observers": [print]}, "'observers' takes a list of Observers"),
        ({"strategy": Fit(), "name": "my own"}, "'my own' cannot be a name: .*; 'my-own' is one"),
        ({"name": "plain"}, "There is no setting 'name'"),
        ({"execution": "fast"}, "'execution' takes a mapping of fields of Execution"),
        ({"file": "mine.yaml"}, "'file' takes a mapping"),
        ({"out": 3}, "'out' takes a path"),
        ({"seed": "a"}, "A seed is a whole number, 0 or more; 'a' was given"),
        ({"seed": True}, "A seed is a whole number, 0 or more; True was given"),
    ],
)
def test_what_run_does_not_take(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**given)


# --- optimizers ---


class WithRMSprop(Strategy):
    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=1e-3)


def test_a_part_brings_its_optimizer() -> None:
    assert run(chain(CrossEntropy(), WithRMSprop())).metrics != run("finetune").metrics


def test_two_optimizers_are_refused() -> None:
    class Other(WithRMSprop):
        pass

    with pytest.raises(
        IncompatibleError, match=r"Only one part of a chain may make the optimizer; .*WithRMSprop"
    ):
        chain(CrossEntropy(), WithRMSprop(), Other())


def test_an_optimizer_that_is_none() -> None:
    class Wrong(Strategy):
        def optimizer(self, parameters: Any) -> Any:
            return torch.optim.SGD

    with pytest.raises(
        IncompatibleError, match=r"Wrong\.optimizer must return a torch\.optim\.Optimizer or None"
    ):
        run(chain(CrossEntropy(), Wrong()))


# --- data ---

DATA = TensorDataset(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4)


def test_data_make_a_benchmark_of_the_name_that_is_given() -> None:
    record = clbench.run("mine", "er", data=(DATA, DATA), experiences=2, memory=5, **BRIEF)
    assert record.benchmark["name"] == "mine"
    made = clbench.from_dataset(DATA, DATA, experiences=2, name="mine")
    assert record == clbench.run(made, "er", memory=5, **BRIEF)


@pytest.mark.parametrize(
    ("benchmark", "strategy", "settings", "message"),
    [
        ("split-digits", "er", {}, "'split-digits' is a registered benchmark, which has its data"),
        (BENCHMARK, "er", {}, "With data, the benchmark is the name that theirs gets; a Benchmark was given"),
        ("mine", "ewc", {"online": True}, r"'online' could mean ewc\.online or stream\.online; write which"),
        ("mine", "er", {"experences": 2}, r"There is no setting 'experences'\. Did you mean 'experiences'\?"),
        ("mine", "er", {"shift": "clas"}, r"'shift' takes one of .* Did you mean 'class'\?"),
        ("my data", "er", {"experiences": 2}, "'my data' cannot be a name: .*; 'my-data' is one"),
    ],
)
def test_data_that_do_not_fit(benchmark: Any, strategy: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clbench.run(benchmark, strategy, data=DATA, **settings, **BRIEF)


def test_a_run_of_objects_cannot_be_verified_from_its_record() -> None:
    with pytest.raises(
        LedgerError, match="object in memory is not in it: strategy Fit, benchmark tiny, model Net"
    ):
        again.first_steps(run(Fit(), model=net()), 1)


# --- what people have at hand ---


class Compiled(nn.Module):
    """As `torch.compile` gives one, without seconds of imports."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_a_compiled_module_is_taken_as_it_was() -> None:
    assert run(model=Compiled(net())) == run(model=net())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_run_in_full_precision(dtype: torch.dtype) -> None:
    folder = run(model=net().to(dtype)).folder
    assert folder is not None
    assert load_file(folder / "model.safetensors")["head.weight"].dtype == torch.float32


def test_weights_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match="is on the device meta, and has no values"):
        run(model=nn.Linear(SIZE, CLASSES, device="meta"))


def test_transforms_of_torchvision_are_read() -> None:
    from clbench.machine.torchvision import torchvision

    torchvision()
    from torchvision.transforms import v2

    a, b = (objects.told(Holding(v2.RandomErasing(p=p)), "it").content for p in (0.5, 0.6))
    assert a != b


# --- what the text of the code does not tell ---

FACTOR = 1.0


class Scaled(Strategy):
    weight = 1.0

    def losses(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        return {"fit": _factor() * self.weight * out.cross_entropy(batch.y)}


def _factor() -> float:
    return FACTOR


def _made_here(factor: float) -> Strategy:
    class Here(Strategy):
        def losses(self, batch: Batch, out: Output) -> dict[str, Tensor]:
            return {"fit": factor * out.cross_entropy(batch.y)}

    return Here()


def _network_of(scale: float) -> Callable[..., nn.Module]:
    def made(num_classes: int, *, scale: float = scale) -> nn.Module:
        return net(width=int(scale), num_classes=num_classes)

    return made


def content(thing: Any) -> str:
    return objects.told(thing, "it").content


def test_what_is_set_while_a_program_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(Scaled())
    for target, name, value in (
        (Scaled, "weight", 2.0),
        (sys.modules[__name__], "FACTOR", 2.0),
        (Scaled, "losses", lambda self, batch, out: {"fit": out.logits.sum()}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            assert content(Scaled()) != before
    assert content(Scaled()) == before


@pytest.mark.parametrize("make", [_made_here, _network_of])
def test_variables_around_a_definition_count(make: Callable[[float], Any]) -> None:
    assert content(make(1.0)) == content(make(1.0)) != content(make(2.0))


class Descent(torch.optim.Optimizer):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(0.1 * parameter.grad)


class Descending(Strategy):
    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return Descent(parameters)


def test_an_optimizer_that_has_been_made_is_the_same() -> None:
    before = content(Descending())
    Descent([nn.Parameter(torch.zeros(1))])  # by which torch wraps the class's `step`
    assert content(Descending()) == before


SCRIPT = """
import collections, dataclasses, functools, re, torch, clbench
from clbench.runs import objects

WORDS = {"a", "b", "c"}

@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    names: list = dataclasses.field(default_factory=list)

Pair = collections.namedtuple("Pair", "a b")

class Mine(clbench.Strategy):
    def __init__(self):
        self.settings, self.words = Settings(), {"x", "y", "z"}
        self.pair, self.pattern = Pair(1, 2), re.compile("a")
    @functools.cached_property
    def twice(self): return 2
    @torch.no_grad()
    def after_step(self, batch, out): return [w for w in WORDS if w in {"a", "q", "z"}]

print(objects.told(Mine(), "it").content)
"""


def test_a_script_has_one_content_whatever_the_order_of_hashes() -> None:
    Path("mine.py").write_text(SCRIPT, encoding="utf-8")
    told = set()
    for seed in ("1", "2"):
        command = [sys.executable, "mine.py"]
        given = {**os.environ, "PYTHONHASHSEED": seed}
        told.add(subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout)
    assert len(told) == 1


def test_what_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    part = Fit()
    with (
        (tmp_path / "log").open("w") as part.log,
        pytest.raises(ConfigError, match=r"cannot be copied.*setup\(\)"),
    ):
        run(part, name="mine")


class Bare(nn.Module):
    """Without biases all is 0 where the inputs are."""

    def __init__(self, ends: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(SIZE, CLASSES, bias=False), nn.Linear(CLASSES, CLASSES, bias=False)
        self.ends = ends

    def forward(self, x: Tensor) -> Any:
        return self.ends(self, self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (lambda m, h: m.last(m.last(h)), "more than once"),
        (lambda m, h: m.last(h).relu_(), "changes what comes out of it"),
        (lambda m, h: (m.last(h), h) if m.training else m.last(h), "something else in training, a tuple"),
    ],
    ids=["twice", "in place", "auxiliary"],
)
def test_what_a_network_does_behind_its_last_layer_is_seen(ends: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(model=Bare(ends))


def test_looking_at_a_network_moves_nothing_in_it() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIZE), nn.Linear(SIZE, CLASSES))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    looked = classifier_of(module, SHAPE, CLASSES)
    assert all(map(torch.equal, before.values(), looked.state_dict().values()))
    assert looked.training


def test_a_backbone_must_give_what_the_head_takes() -> None:
    with pytest.raises(ConfigError, match="does not take inputs of shape"):
        run(model=clbench.Classifier(nn.Flatten(), SIZE - 1, CLASSES))


# --- parts that do not do what is asked of them ---


class Nothing(Strategy):
    def extend(self, batch: Batch) -> Any:
        pass


class Fewer(Strategy):
    def extend(self, batch: Batch) -> Batch:
        return batch.with_x(batch.x[:1])


class Again(Strategy):
    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Nothing(), r"Nothing.extend\(\) must return a batch, .* it returns a NoneType"),
        (Fewer(), r"Fewer.extend\(\) gives inputs of 1 rows for the batch's \d+; with_x\(\)"),
        (Again(), r"returns LBFGS, whose step\(\) wants a closure"),
    ],
)
def test_parts_that_cannot_be(part: Strategy, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        run(chain(CrossEntropy(), part))


def test_one_object_is_in_a_chain_once() -> None:
    memory = Replay(5)
    with pytest.raises(IncompatibleError, match="in the chain twice"):
        chain(memory, CrossEntropy(), memory)
