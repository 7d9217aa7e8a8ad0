"""Avalanche's strategies in clbench's engine do, bit for bit, what they do in Avalanche's own loop.

Each strategy and plugin is trained twice from the same weights on a tiny stream: by `strategy.train(experience)` alone,
with Avalanche's loaders and plugins untouched, and by clbench with evaluation after every step. Losses of all steps
and the final weights are compared for equality: the tolerance is zero.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("avalanche") is None:
    pytest.skip("the adapter needs avalanche-lib", allow_module_level=True)

from clbench import config
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer
from clbench.errors import ClbenchError, ConfigError, IncompatibleError, RegistryError
from clbench.interop.avalanche import PLUGINS, REFUSED, STRATEGIES
from clbench.interop.avalanche.known import RULES_NOT_KEPT
from clbench.interop.avalanche.lib import avalanche, quiet, seeded
from clbench.interop.avalanche.loading import Gathered
from clbench.interop.avalanche.strategies import AvalancheStrategy
from clbench.machine import checkpoint
from clbench.machine.randomness import derive_seed, global_rng
from clbench.runs import building, lifecycle
from clbench.runs.identity import identify
from clbench.strategy import Strategy
from clbench.testing import check_strategy, tiny_benchmark, tiny_model, tiny_run
from clbench.types import HIDDEN, MASKED, Benchmark

PARAMS: Mapping[str, Mapping[str, Any]] = {
    "AGEM": {"patterns_per_exp": 8, "sample_size": 8},
    "AGEMPlugin": {"patterns_per_experience": 8, "sample_size": 8},
    "CoPE": {"p_size": 8},
    "EWC": {"ewc_lambda": 1.0},
    "EWCPlugin": {"ewc_lambda": 1.0},
    "GEM": {"patterns_per_exp": 8},
    "GEMPlugin": {"patterns_per_experience": 8, "memory_strength": 0.5},
    "ICaRL": {"memory_size": 12, "fixed_memory": True},
    "LFL": {"lambda_e": 1.0},
    "LFLPlugin": {"lambda_e": 1.0},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "MER": {"mem_size": 10, "batch_size_mem": 2, "n_inner_steps": 1},
    "MIR": {"mem_size": 20, "subsample": 10, "batch_size_mem": 5},
    "MIRPlugin": {"batch_size_mem": 5},
    "PackNet": {"post_prune_epochs": 1, "prune_proportion": 0.5},
    "RWalkPlugin": {"delta_t": 2},
    "SCR": {"batch_size_mem": 8},
    "SynapticIntelligence": {"si_lambda": 1.0},
    "SynapticIntelligencePlugin": {"si_lambda": 1.0},
}
"""What has no default, or one too large for a tiny stream."""
KNOWN = {**STRATEGIES, **PLUGINS}


class Losses(Observer):
    def __init__(self) -> None:
        self.values: list[float] = []

    def window(self, run: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        self.values += [row["loss"] for row in rows]


def stream(name: str) -> Benchmark:
    shift = "task" if "task labels" in KNOWN[name].needs else "class"
    return tiny_benchmark(shift=shift, examples=48, images=True)


def engine(name: str, benchmark: Benchmark, **settings: Any) -> Engine:
    strategy = building.make_strategy(f"avalanche:{name}", **PARAMS.get(name, {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = tiny_model(benchmark, norm=False)
    return tiny_run(strategy, benchmark, model=model, batch_size=16, **settings)


def adapter(run: Engine) -> Any:
    assert isinstance(run.strategy, AvalancheStrategy)
    return run.strategy


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def own_loop(name: str, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], Any]:
    """The losses of Avalanche's own training, and the strategy. Nothing of clbench's takes part in it."""
    with monkeypatch.context() as patched:
        patched.setattr(AvalancheStrategy, "setup", lambda self, run: setattr(self, "theirs", self.build()))
        run = engine(name, benchmark)
    theirs, losses = adapter(run).theirs, []

    class Recorder:
        def after_training_iteration(self, strategy: Any, **_: Any) -> None:
            losses.append(float(strategy.loss.detach().reshape(())))

    theirs.plugins.append(Recorder())
    from clbench.interop.avalanche import to_avalanche

    experiences = list(to_avalanche(benchmark).train_stream)
    with global_rng(run.device, derive_seed(0, "model"), None), quiet():
        for i, exp in enumerate([experiences] if name == "JointTraining" else experiences):
            with seeded(derive_seed(0, f"avalanche/{i}")):
                theirs.train(exp)
    return losses, theirs


@pytest.mark.parametrize("name", KNOWN)
def test_losses_and_weights_are_those_of_avalanches_own_loop(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, losses = stream(name), Losses()
    expected, theirs = own_loop(name, benchmark, monkeypatch)
    run = engine(name, benchmark, every=1, observers=[losses])
    run.fit()
    assert losses.values == expected
    assert len(expected) == run.step
    assert len(set(expected)) > 2  # something is learned, so equality means something
    final = weights(adapter(run).theirs.model)
    for key, value in weights(theirs.model).items():
        assert torch.equal(final[key], value), key


def test_every_strategy_of_avalanche_is_known_to_run_or_not_to() -> None:
    supervised = avalanche().training.supervised
    there = {
        name
        for name, value in vars(supervised).items()
        if getattr(value, "__module__", "").startswith("avalanche.training.supervised")
        and not name.startswith("_")
        and name[0].isupper()
        and not (inspect.isclass(value) and issubclass(value, Exception))
    }
    assert len(there) >= 34
    assert there == {name for name in {**STRATEGIES, **REFUSED} if not name.endswith("Plugin")}


# --- what does not run ---


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_run_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(RegistryError, match="does not run in clbench: it ") as caught:
        building.make_strategy(f"avalanche:{name}")
    assert REFUSED[name] in str(caught.value)


def test_bic_fails_for_its_reason() -> None:
    av, benchmark = avalanche(), tiny_benchmark(images=True)
    x = [(exp.data.x().float(), exp.data.y()) for exp in benchmark.train]
    data = torch.utils.data.TensorDataset(torch.cat([a for a, _ in x]), torch.cat([b for _, b in x]))
    model = tiny_model(benchmark, norm=False)
    with quiet():
        data = av.benchmarks.utils.as_classification_dataset(_with_targets(data))
        scenario = av.benchmarks.nc_benchmark(data, data, n_experiences=3, task_labels=False, shuffle=False)
        bic = av.training.supervised.BiC(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            criterion=torch.nn.CrossEntropyLoss(),
            mem_size=20,
            train_mb_size=16,
            evaluator=av.training.plugins.EvaluationPlugin(loggers=[]),
        )
        bic.train(scenario.train_stream[0])
        with pytest.raises(TypeError, match="verbose"):
            bic.train(scenario.train_stream[1])


@pytest.mark.parametrize("name", ["AETraining", "VAETraining"])
def test_autoencoders_fail_for_their_reason(name: str) -> None:
    """Their loss is the same whatever the labels are, so no class is learned."""
    av = avalanche()

    class Tiny(torch.nn.Linear):
        feature_module = torch.nn.Identity()

    with quiet():
        strategy = getattr(av.training.supervised, name)(
            model=av.models.MlpVAE((1, 2, 2), nhid=2) if name == "VAETraining" else Tiny(2, 2),
            optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
            device="cpu",
            evaluator=av.training.plugins.EvaluationPlugin(loggers=[]),
        )
        tasks = torch.zeros(4, dtype=torch.int64)
        strategy.mbatch = [torch.rand((4, 1, 2, 2)), torch.tensor([0, 0, 1, 1]), tasks]
        strategy.mb_output = strategy.forward()
        losses = [float(strategy.criterion())]
        strategy.mbatch[1] = torch.tensor([1, 0, 1, 0])
        losses.append(float(strategy.criterion()))
    assert losses[0] == losses[1] > 0


def test_networks_with_downloaded_weights_fail_for_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class OfflineError(OSError):
        pass

    def offline(name: str) -> Any:
        def fetch(*_: Any, **__: Any) -> Any:
            asked.append(name)
            raise OfflineError(name)

        return fetch

    av = avalanche()
    ar1 = importlib.import_module("avalanche.training.supervised.ar1")
    monkeypatch.setattr(
        importlib.import_module("avalanche.models.mobilenetv1"), "mobilenet_w1", offline("mobilenet")
    )
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline("alexnet"))
    monkeypatch.setattr(
        importlib.import_module("torchvision.models._api"), "load_state_dict_from_url", offline("alexnet")
    )
    with quiet():
        with pytest.raises(OfflineError):
            ar1.AR1()
        with pytest.raises(OfflineError):
            av.models.ExpertGate(shape=(3, 227, 227), device="cpu", pretrained_flag=True)
        with pytest.raises(KeyError, match="NONE"):  # and without downloading it cannot be built at all
            av.models.ExpertGate(shape=(3, 227, 227), device="cpu", pretrained_flag=False)
    assert asked == ["mobilenet", "alexnet"]


def test_learning_to_prompt_fails_for_its_reason() -> None:
    with quiet(), pytest.raises(TypeError, match="not subscriptable"):
        avalanche().training.supervised.LearningToPrompt(model_name="vit_base_patch16_224", pretrained=False)


def _with_targets(data: Any) -> Any:
    data.targets = data.tensors[1].tolist()
    return data


# --- evaluation, records, checkpoints ---


@pytest.mark.parametrize("name", ["Replay", "DER", "StreamingLDA", "CoPE", "LFL"])
def test_accuracies_are_those_of_avalanches_own_evaluation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = stream(name)
    _, theirs = own_loop(name, benchmark, monkeypatch)
    run = engine(name, benchmark)
    run.fit()
    from clbench.interop.avalanche import to_avalanche

    right: list[float] = []

    class Count:
        def after_eval_iteration(self, strategy: Any, **_: Any) -> None:
            right.append((strategy.mb_output.argmax(1) == strategy.mb_y).double().mean().item())

    theirs.plugins.append(Count())
    theirs.eval_mb_size = 1000
    with quiet():
        theirs.eval(to_avalanche(benchmark).test_stream)
    assert run.evaluator.curve.matrix().R[-1] == pytest.approx(right, abs=1e-12)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_resumes_to_the_same_bits_at_an_experience_end_or_says_why_not(
    name: str, tmp_path: Path
) -> None:
    benchmark, before, after = stream(name), Losses(), Losses()
    run = engine(name, benchmark, every=4, checkpoint_seconds=0.0, observers=[before])
    saved: list[Path] = []

    def save() -> None:
        saved.append(tmp_path / str(len(saved)))
        checkpoint.save(saved[-1], run.state_dict())

    run.fit(save)
    assert len(saved) == len(run.train)  # within an experience there is none
    fresh = engine(name, benchmark, every=4, observers=[after])
    state = checkpoint.load(saved[0])
    if reason := KNOWN[name].resumes:
        with pytest.raises(IncompatibleError, match=reason):
            fresh.load_state_dict(state)
        return
    fresh.load_state_dict(state)
    fresh.fit()
    assert after.values == before.values[len(before.values) - len(after.values) :]
    assert len(after.values) or name == "JointTraining"  # which has a single experience
    for key, value in weights(run.model).items():
        assert torch.equal(fresh.model.state_dict()[key], value), key
    assert fresh.evaluator.curve.sha256() == run.evaluator.curve.sha256()


def test_evaluating_changes_nothing() -> None:
    finals = []
    for every in (0, 1):
        run = engine("Replay", stream("Replay"), every=every)
        run.fit()
        finals.append(weights(run.model))
    assert all(torch.equal(finals[0][key], finals[1][key]) for key in finals[0])


def test_a_record_names_avalanche_and_its_version(tmp_path: Path) -> None:
    record = lifecycle.run("split-digits", "avalanche:Replay", out=tmp_path, mem_size=50, every=20, subset=20)
    assert record.strategy == {"name": "avalanche:Replay", "version": "0.6.0"}
    assert record.config["params"] == {"avalanche:Replay": {"mem_size": 50}}
    assert record.budget["memory_examples"] == 50
    assert record.status == "done"


def test_an_id_covers_the_adapter_and_the_version_of_avalanche(monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.interop.avalanche import strategies as module
    from clbench.registry import strategies

    def identity() -> str:
        strategies._borrowed.clear()
        return identify(config.resolve("split-digits", "avalanche:Naive")).id

    first, version = identity(), module.version
    sources = strategies.entry("avalanche:Naive").source
    assert sources == module.__file__
    monkeypatch.setattr(module, "version", lambda: "0.6.1")
    changed = identity()
    monkeypatch.setattr(module, "version", version)
    assert identity() == first != changed


def test_what_decides_the_numbers_is_part_of_the_id(tmp_path: Path) -> None:
    from clbench.interop.avalanche import strategies as module
    from clbench.registry.closure import closure

    def adapters(file: Path) -> set[str]:
        return {file.stem for file in closure(file) if file.parent.name == "avalanche"}

    named = adapters(Path(str(module.__file__)))
    assert named == {"benchmarks", "known", "lib", "loading", "networks", "state", "strategies"}
    own = tmp_path / "own.py"
    own.write_text("from clbench.interop.avalanche import AvalancheStrategy\n", encoding="utf-8")
    assert adapters(own) == named


def test_a_grant_of_memory_is_heeded() -> None:
    benchmark = tiny_benchmark(images=True, memory=10)
    with pytest.raises(IncompatibleError, match="would keep 20 examples; tiny@1 grants 10"):
        tiny_run(building.make_strategy("avalanche:Replay", mem_size=20), benchmark)
    with pytest.raises(IncompatibleError, match="needs memory"):
        tiny_run(building.make_strategy("avalanche:Replay"), tiny_benchmark(memory=0))


# --- the loader ---


def test_batches_are_gathered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[type] = []

    class Look:
        def before_training_iteration(self, strategy: Any, **_: Any) -> None:
            used.append(type(strategy.dataloader))

    run = engine("Replay", stream("Replay"))
    adapter(run).theirs.plugins.insert(0, Look())
    run.fit()
    assert set(used) == {Gathered}
    assert run.examples == 2 * 3 * 48  # the stream's, replayed ones not counted


def test_memories_that_hold_other_examples_keep_avalanches_loader() -> None:
    used: list[type] = []

    class Look:
        def before_training_iteration(self, strategy: Any, **_: Any) -> None:
            used.append(type(strategy.dataloader))

    run = engine("ICaRL", stream("ICaRL"))
    adapter(run).theirs.plugins.insert(0, Look())
    run.fit()
    assert used[0] is Gathered
    assert used[-1].__name__ == "TaskBalancedDataLoader"


# --- names, parameters, settings ---


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("Replya", {}, "Did you mean 'avalanche:Replay'"),
        ("Replay", {"memsize": 3}, "has no parameter 'memsize'. Did you mean 'mem_size'"),
        ("Replay", {"mem_size": "many"}, "parameter 'mem_size' takes a whole number"),
        ("EWC", {}, "needs a value for 'ewc_lambda'"),
    ],
)
def test_mistakes_are_named_with_the_nearest_fix(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, RegistryError)) as caught:
        building.make_strategy(f"avalanche:{name}", **params)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf16"}, "knows no precision"),
        ({"clip": 1.0}, r"knows no optim\.clip"),
        ({"schedule": "cosine"}, r"knows no optim\.schedule"),
        ({"iterations": 5}, r"knows no train\.iterations"),
    ],
)
def test_settings_that_avalanches_loop_would_not_heed_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        lifecycle.run("split-digits", "avalanche:Naive", out=tmp_path, **settings)


def test_a_loop_of_its_own_cannot_be_chained() -> None:
    with pytest.raises(
        IncompatibleError, match=r"avalanche:Naive trains by a loop of its own.* cannot be chained"
    ):
        building.make_strategy("avalanche:Naive+refresh")


def test_task_labels_are_needed_where_the_network_has_columns() -> None:
    with pytest.raises(IncompatibleError, match="avalanche:PNNStrategy needs task labels"):
        tiny_run(building.make_strategy("avalanche:PNNStrategy"), tiny_benchmark())


def test_a_strategy_with_plugins_of_ones_own_runs() -> None:
    av, seen = avalanche(), []

    class Mine(av.training.plugins.SupervisedPlugin):  # type: ignore[misc, name-defined]
        def before_backward(self, strategy: Any, **_: Any) -> None:
            seen.append(strategy.loss.item())
            strategy.loss = strategy.loss * 2

    def make(**given: Any) -> Any:
        return av.training.supervised.Naive(**given, plugins=[Mine()])

    losses = Losses()
    run = tiny_run(AvalancheStrategy(make), tiny_benchmark(), epochs=1, observers=[losses])
    run.fit()
    assert losses.values == [2 * loss for loss in seen] != []


def test_task_incremental_streams_rule_out_other_tasks_classes() -> None:
    benchmark = tiny_benchmark(shift="task", images=True)
    run = engine("Naive", benchmark)
    run.fit()
    x = run.normalise(benchmark.test[0].data.x())
    with torch.no_grad(), run.evaluating():
        scores = run.predict(x, torch.zeros(len(x), dtype=torch.int64))
    assert set(scores.argmax(1).tolist()) <= set(benchmark.train[0].classes)


def test_task_labels_told_in_training_only_rule_no_class_out_at_test() -> None:
    benchmark = tiny_benchmark(shift="task", task_labels="train", images=True)
    run = engine("Naive", benchmark, epochs=1)
    run.fit()
    x = run.normalise(benchmark.test[2].data.x())
    with torch.no_grad(), run.evaluating():
        scores = run.predict(x, torch.full((len(x),), HIDDEN))
    assert bool((scores > MASKED).all())


@pytest.fixture(autouse=True)
def _no_global_change() -> Iterator[None]:
    """Whatever ran leaves torch's global generator as it was."""
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def test_the_parts_are_one_strategy() -> None:
    strategy = building.make_strategy("avalanche:Naive")
    assert isinstance(strategy, Strategy)
    assert strategy.parts == (strategy,)
    assert copy.copy(strategy).all_needs() == frozenset({"boundaries"})


def test_errors_are_clbenchs() -> None:
    with pytest.raises(ClbenchError, match="cannot be built: Avalanche raised"):
        tiny_run(AvalancheStrategy(lambda **given: 1 / 0), tiny_benchmark())


# --- runs that end early ---


class Stop(Observer):
    """Asks for the end of the run, as Ctrl-C does, when an experience ends."""

    def __init__(self, experience: int) -> None:
        self.experience = experience

    def end_experience(self, run: Engine) -> None:
        run.stop = run.experience == self.experience


def test_an_interrupted_run_goes_on_from_the_last_experience_end(tmp_path: Path) -> None:
    settings = {"mem_size": 20, "epochs": 1, "every": 10, "subset": 20}
    whole = lifecycle.run("split-digits", "avalanche:Replay", out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        lifecycle.run(
            "split-digits", "avalanche:Replay", out=tmp_path / "cut", observers=[Stop(1)], **settings
        )
    cut = lifecycle.resume(tmp_path / "cut" / whole.id)
    assert cut.metrics == whole.metrics
    assert cut.curve.sha256() == whole.curve.sha256()
    logs = [(tmp_path / part / whole.id / "log.jsonl").read_text() for part in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_an_interrupted_run_that_cannot_go_on_says_why(tmp_path: Path) -> None:
    settings = {**PARAMS["AGEM"], "epochs": 1, "every": 0}
    with pytest.raises(KeyboardInterrupt):
        lifecycle.run("split-digits", "avalanche:AGEM", out=tmp_path, observers=[Stop(0)], **settings)
    (folder,) = tmp_path.iterdir()
    with pytest.raises(
        IncompatibleError, match=r"AGEM cannot be continued.*: its memory is read by a loader.* Delete"
    ):
        lifecycle.resume(folder)


def test_a_run_that_diverges_is_recorded_as_such(tmp_path: Path) -> None:
    record = lifecycle.run("split-digits", "avalanche:Naive", out=tmp_path, lr=1e30, epochs=1, every=0)
    assert record.status == "diverged"
    assert "in experience 1" in record.note


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    def make(**given: Any) -> Any:
        strategy = avalanche().training.supervised.Naive(**given)
        strategy.reader = iter([1, 2])
        return strategy

    state = adapter(_fitted(AvalancheStrategy(make))).state_dict()
    assert state == {"refused": "it holds what a checkpoint cannot: strategy.reader is a list_iterator"}
    with pytest.raises(IncompatibleError, match=r"strategy\.reader is a list_iterator"):
        adapter(_fitted(AvalancheStrategy(make))).load_state_dict(state)


def _fitted(strategy: Strategy) -> Engine:
    run = tiny_run(strategy, tiny_benchmark(), epochs=1)
    run.fit()
    return run


def test_a_checkpoint_makes_objects_of_avalanches_training_classes_only() -> None:
    strategy = adapter(_fitted(building.make_strategy("avalanche:Naive")))
    state = strategy.state_dict()
    state["strategy"]["retain_graph"] = {"object": ["subprocess", "Popen"], "inside": {}}
    with pytest.raises(IncompatibleError, match=r"asks for subprocess\.Popen"):
        strategy.load_state_dict(state)


@pytest.mark.parametrize("name", ["Naive", "Replay"])
def test_the_contract_is_kept_but_for_what_a_foreign_loop_cannot(name: str) -> None:
    results = list(check_strategy(f"avalanche:{name}", expected_failures=RULES_NOT_KEPT))
    assert [result for result in results if result.status == "failed"] == []
    assert {result.check for result in results if result.status == "expected"} == set(RULES_NOT_KEPT)
