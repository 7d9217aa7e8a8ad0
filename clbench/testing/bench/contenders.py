"""The same training by hand, by clbench, by Avalanche and by Mammoth, as loops that call a gate at every step."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.engine.engine import Engine
from clbench.errors import ConfigError
from clbench.machine.caching import keeping_nothing
from clbench.machine.optim import make_optimizer
from clbench.models import Classifier
from clbench.runs.building import make_strategy
from clbench.strategy import Strategy, chain
from clbench.testing.bench.turns import Contender, Gate
from clbench.transforms.augment import Transform
from clbench.types import Batch, Benchmark, Data, Experience, Output, Pool, Setting, Stream

CLASSES, MEMORY, LR = 10, 200, 0.01
TOKENS = 256
MEAN, STD = 0.13, 0.31


@dataclass(frozen=True)
class Case:
    """A model and a batch; `share` of the steps asked for, since some models take long.

    With `replay`, as many remembered examples join the batch, and a reservoir takes the new ones.
    """

    model: str
    input_shape: tuple[int, ...]
    batch_size: int
    replay: bool = False
    share: float = 1.0

    def __str__(self) -> str:
        joined = f"{self.batch_size}+{self.batch_size}" if self.replay else str(self.batch_size)
        return f"{self.model}, batch {joined}" + (f" × {self.input_shape[0]} tokens" if self.language else "")

    @property
    def language(self) -> bool:
        return self.model == "decoder"


DIGIT, IMAGE, BLOCK = (1, 28, 28), (3, 32, 32), (128,)
CASES = (
    Case("mlp", DIGIT, 10),
    Case("mlp", DIGIT, 128),
    Case("mlp", DIGIT, 10, replay=True),
    Case("mlp", DIGIT, 32, replay=True),
    Case("slim-resnet18", IMAGE, 10, share=0.1),
    Case("slim-resnet18", IMAGE, 10, replay=True, share=0.1),
    Case("slim-resnet18", IMAGE, 32, replay=True, share=0.05),
    Case("slim-resnet18", IMAGE, 128, share=0.05),
    Case("decoder", BLOCK, 16, share=0.1),
)


@dataclass(frozen=True)
class Work:
    """What all contenders do alike; each begins with a copy of the model."""

    case: Case
    benchmark: Benchmark
    model: Classifier
    device: torch.device


def random_benchmark(case: Case, steps: int, streams: int = 1, images: int = 10) -> Benchmark:
    """One experience of random bytes, or tokens, so many batches; all test streams are seen from the start."""
    generator = torch.Generator().manual_seed(0)

    def data(n: int) -> Data:
        if case.language:
            blocks = torch.randint(TOKENS, (n, case.input_shape[0] + 1), generator=generator)
            return Data.of(Pool(blocks[:, :-1], blocks[:, 1:]), torch.arange(n))
        x = torch.randint(256, (n, *case.input_shape), dtype=torch.uint8, generator=generator)
        return Data.of(Pool(x, torch.randint(CLASSES, (n,), generator=generator)), torch.arange(n))

    classes, tests = tuple(range(CLASSES)), tuple(range(streams))
    train = Experience(0, classes, data(steps * case.batch_size), tests=tests)
    test = tuple(Experience(i, classes, data(images)) for i in tests)
    taught, tested = Stream("train", (train,)), Stream("test", test)
    setting = Setting("domain", language=case.language)
    many, transform = (
        (TOKENS, Transform()) if case.language else (CLASSES, Transform(mean=(MEAN,), std=(STD,)))
    )
    return Benchmark("bench", 1, setting, taught, tested, many, transform)


def bare(work: Work) -> Contender:
    """What one would write by hand for this one purpose: gather uint8 rows, normalise, forward, cross-entropy,
    backward, update; with replay also a draw, two `cat`s and a vectorised reservoir."""
    case, benchmark, device = work.case, work.benchmark, work.device
    model = copy.deepcopy(work.model).to(device)

    def loop(gate: Gate) -> None:
        optimizer = make_optimizer(list(model.parameters()), OptimConfig(lr=LR))
        data = benchmark.train[0].data
        x, y = data.x().to(device), data.y().to(device)
        gain, shift = torch.tensor(1 / 255 / STD, device=device), torch.tensor(-MEAN / STD, device=device)
        memory_x = torch.zeros((MEMORY, *case.input_shape), dtype=torch.uint8, device=device)
        memory_y = torch.zeros(MEMORY, dtype=torch.int64, device=device)
        seen = 0
        shuffle, draws = torch.Generator(), torch.Generator(device)
        for rows in torch.randperm(len(x), generator=shuffle).to(device).split(case.batch_size):
            gate()
            raw, labels = x.index_select(0, rows), y.index_select(0, rows)
            inputs, targets = raw if case.language else raw.mul(gain).add_(shift), labels
            if case.replay and seen:
                drawn = torch.randperm(min(seen, MEMORY), generator=draws, device=device)[: case.batch_size]
                old = memory_x.index_select(0, drawn).mul(gain).add_(shift)
                inputs = torch.cat([inputs, old])
                targets = torch.cat([labels, memory_y.index_select(0, drawn)])
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
            optimizer.step()
            if case.replay:
                position = torch.arange(seen, seen + len(rows), device=device)
                drawn = (torch.rand(len(rows), generator=draws, device=device) * (position + 1)).long()
                slot = torch.where(position < MEMORY, position, drawn)
                kept = slot < MEMORY
                memory_x[slot[kept]], memory_y[slot[kept]] = raw[kept], labels[kept]
                seen += len(rows)
        gate()

    return Contender("bare loop", loop)


class _Gated(Strategy):
    """Calls the gate after each step, last in a chain; a lap is all the engine does from one call to the next."""

    language = True

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def after_step(self, batch: Batch, out: Output) -> None:
        with torch.enable_grad():
            self.gate()


def clbench(work: Work, *, name: str = "clbench", capture: Literal["auto", "never"] = "auto") -> Contender:
    """clbench's engine, without evaluation."""
    case, model = work.case, copy.deepcopy(work.model)

    def loop(gate: Gate) -> None:
        strategy = make_strategy("er", memory=MEMORY) if case.replay else make_strategy("finetune")
        config = RunConfig(
            benchmark="bench",
            strategy=strategy.name,
            optim=OptimConfig(lr=LR),
            train=TrainConfig(batch_size=case.batch_size),
            evaluation=EvaluationConfig(every=0),
            seeds=Seeds(order=0, init=0, data=0),
        )
        execution = Execution(device=str(work.device), capture=capture, checkpoint_seconds=None)
        Engine(work.benchmark, chain(strategy, _Gated(gate)), model, config, execution).fit()

    return Contender(name, loop)


# --- Avalanche ---


def avalanche() -> Any:
    """Avalanche, or None where it is not installed."""
    if importlib.util.find_spec("avalanche") is None:
        return None
    from clbench.machine.torchvision import torchvision

    torchvision()
    with unheard():
        module = importlib.import_module("avalanche")
        for name in ("benchmarks.utils", "evaluation.metrics", "training.plugins", "training.supervised"):
            importlib.import_module(f"avalanche.{name}")
    return module


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Without the warnings of Avalanche and what it imports; recorded, since Avalanche resets the filters."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        yield


class _Images(torch.utils.data.Dataset[Any]):
    """Images as data sets of torchvision give them: decoded, to a tensor and normalised one by one."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        from PIL import Image
        from torchvision import transforms

        arrays = x.permute(0, 2, 3, 1).numpy()
        plain = (a[:, :, 0] if a.shape[2] == 1 else np.ascontiguousarray(a) for a in arrays)
        self.images = [Image.fromarray(a) for a in plain]
        self.targets = y.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.targets[index]


def avalanche_strategy(module: Any, work: Work, *, images: bool, **more: Any) -> tuple[Any, Any]:
    """Avalanche's Naive or Replay and its streams, on PIL images or on tensors that are normalised already."""

    def dataset(exp: Experience) -> Any:
        x, y = exp.data.x(), exp.data.y()
        utils = module.benchmarks.utils
        attributes = [
            utils.DataAttribute(y.tolist(), "targets"),
            utils.DataAttribute([0] * len(y), "targets_task_labels", use_in_getitem=True),
        ]
        tensors = torch.utils.data.TensorDataset(work.benchmark.transform.normalise(x), y)
        data = _Images(x, y) if images else tensors
        return utils.TaskAwareClassificationDataset([data], data_attributes=attributes)

    with unheard():
        streams = module.benchmarks.benchmark_from_datasets(
            train=[dataset(exp) for exp in work.benchmark.train],
            test=[dataset(exp) for exp in work.benchmark.test],
        )
        model = copy.deepcopy(work.model)
        metrics = module.evaluation.metrics.accuracy_metrics(experience=True)
        strategy = getattr(module.training.supervised, "Replay" if work.case.replay else "Naive")(
            model=model,
            optimizer=make_optimizer(list(model.parameters()), OptimConfig(lr=LR)),
            criterion=F.cross_entropy,
            train_mb_size=work.case.batch_size,
            train_epochs=1,
            device=work.device,
            evaluator=module.training.plugins.EvaluationPlugin(metrics, loggers=[]),
            **({"mem_size": MEMORY} if work.case.replay else {}),
            **more,
        )
    return strategy, streams


def avalanche_training(module: Any, work: Work, *, images: bool) -> Contender:
    """Its training loop. Replay's memory joins from the second experience on: the first is the same data once more."""

    def loop(gate: Gate) -> None:
        class Gated(module.training.plugins.SupervisedPlugin):  # type: ignore[misc]  # a class at run time only
            counting = False

            def after_training_iteration(self, strategy: Any, **_: Any) -> None:
                if self.counting:
                    gate()

        plugin = Gated()
        strategy, streams = avalanche_strategy(module, work, images=images, plugins=[plugin])
        with unheard():
            if work.case.replay:
                strategy.train(streams.train_stream[0])  # fills the memory
            plugin.counting = True
            strategy.train(streams.train_stream[0])

    kind = "Replay" if work.case.replay else "Naive"
    return Contender(f"Avalanche {kind}, {'PIL images' if images else 'tensors'}", loop)


def avalanche_evaluation(module: Any, work: Work, *, images: bool, batch_size: int) -> Contender:
    """Its evaluation of all test streams, again and again."""

    def loop(gate: Gate) -> None:
        strategy, streams = avalanche_strategy(module, work, images=images, eval_mb_size=batch_size)
        with unheard():
            while True:
                gate()
                strategy.eval(streams.test_stream)

    return Contender(f"Avalanche, {'PIL images' if images else 'tensors'}, batch {batch_size}", loop)


def evaluation(
    work: Work, level: str, name: str, *, strategy: str = "finetune", keep: bool = True
) -> Contender:
    """clbench's tick of all test streams, again and again, at a level.

    Args:
        keep: what a frozen network says of a test example.
    """
    benchmark, model = work.benchmark, copy.deepcopy(work.model)

    def loop(gate: Gate) -> None:
        config = RunConfig(
            benchmark="bench",
            strategy=strategy,
            evaluation=EvaluationConfig.model_validate({"level": level, "check": 1_000_000}),
            seeds=Seeds(order=0, init=0, data=0),
        )
        run = Engine(benchmark, make_strategy(strategy), model, config, Execution(device=str(work.device)))
        with contextlib.nullcontext() if keep else keeping_nothing():
            run.evaluator.begin_experience(benchmark.train[0])
            while True:
                gate()
                run.place.step += 1
                run.evaluator.tick()
                run.evaluator.fetch()

    return Contender(name, loop)


# --- Mammoth ---


def mammoth(checkout: Path) -> type[Any]:
    """ER of a checkout of Mammoth (https://github.com/aimagelab/mammoth): its class, from `models/er.py`.

    Mammoth is no package: its folders `models`, `utils` and `datasets` are imported as they are, from its own folder.

    Raises:
        ConfigError: no such checkout, or one that cannot be imported here.
    """
    from clbench.machine.torchvision import torchvision

    torchvision()
    checkout = checkout.resolve()
    if not (checkout / "models" / "er.py").is_file():
        raise ConfigError(f"{checkout} is no checkout of Mammoth: it has no models/er.py.")
    before = Path.cwd()
    sys.path.insert(0, str(checkout))
    try:
        with unheard():
            found: type[Any] = importlib.import_module("models.er").Er
    except Exception as error:  # whatever its modules need: it is said, and nothing is measured
        raise ConfigError(
            f"Mammoth at {checkout} cannot be imported: {type(error).__name__}: {error}. Install what its "
            "requirements.txt asks for."
        ) from error
    finally:
        sys.path.remove(str(checkout))
        os.chdir(before)  # its `models` changes the working directory
    return found


class _Triples(_Images):
    """Images as Mammoth's data sets give them: normalised, the label, and as they were before."""

    def __getitem__(self, index: int) -> Any:
        from torchvision.transforms.functional import to_tensor

        x, y = super().__getitem__(index)
        return x, y, to_tensor(self.images[index])


def mammoth_training(er: type[Any], work: Work) -> Contender:
    """Its training step, `observe`, on batches of its kind.

    Its constructor asks for a whole configuration and one of its data sets; what `observe` uses is put there instead.
    """
    case, benchmark, device = work.case, work.benchmark, work.device
    model = copy.deepcopy(work.model).to(device)

    def loop(gate: Gate) -> None:
        from torchvision.transforms import Normalize

        module = importlib.import_module(er.__module__)
        theirs: Any = object.__new__(er)
        torch.nn.Module.__init__(theirs)
        theirs.net, theirs.loss, theirs.device = model, F.cross_entropy, device
        theirs.transform = Normalize((MEAN,), (STD,))
        theirs.args = Namespace(buffer_size=MEMORY, minibatch_size=case.batch_size, lr=LR)
        theirs.opt = make_optimizer(list(model.parameters()), OptimConfig(lr=LR))
        theirs.buffer = module.Buffer(MEMORY, device)
        theirs.train()
        data = benchmark.train[0].data
        triples, how = _Triples(data.x(), data.y()), {"shuffle": True, "generator": torch.Generator()}
        for x, y, raw in torch.utils.data.DataLoader(triples, case.batch_size, **how):  # type: ignore[arg-type]
            gate()
            theirs.observe(x.to(device), y.to(device), raw.to(device), epoch=0)
        gate()

    return Contender("Mammoth Er", loop)
