"""Benchmarks between the two libraries: Avalanche's as clbench's, and clbench's as Avalanche's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clbench.errors import ConfigError, DataError
from clbench.interop.avalanche.lib import avalanche, quiet
from clbench.transforms.augment import Transform
from clbench.types import HIDDEN, Benchmark, Data, Experience, Pool, Setting, Stream

ROW = "clbench_row"
"""Attribute of the data sets we make: the row of each example in the union of its stream's experiences."""
LAZY_BYTES = 4 << 30
"""Data of an experience larger than this is read example by example."""


# --- Avalanche's as ours ---


def from_avalanche(
    scenario: Any,
    *,
    name: str = "avalanche",
    setting: Setting | None = None,
    transform: Transform | None = None,
    train: str = "train",
    test: str = "test",
) -> Benchmark:
    """Any Avalanche classification benchmark, classic or new style, as a clbench benchmark.

    Examples are taken as Avalanche shows them in evaluation (its `eval` transformations), once and for all; with
    `transform`, they are taken before Avalanche's transformations, and this one acts in their place, in training
    with augmentation. The fingerprint covers their bytes.

    Args:
        scenario: has streams `train_stream` and `test_stream` (or others, see `train` and `test`) of experiences with
            a `dataset` each. Test stream and training stream are equally long, or the test stream is one experience.
        name: of the benchmark in records.
        setting: what the learner is told. If None: task-incremental where task labels differ between experiences,
            else class-incremental where classes do, else domain-incremental.
        transform: for raw examples: PIL images, uint8 arrays or tensors, float tensors.
        train, test: names of the streams.

    Raises:
        DataError: experiences without classification data, or streams that do not belong together.
    """
    streams = scenario.streams
    for wanted in (train, test):
        if wanted not in streams:
            raise DataError(
                f"The Avalanche benchmark has no stream '{wanted}'; it has: {', '.join(streams)}."
            )
    raw = transform is not None
    with quiet():
        taught = [_examples(exp, raw) for exp in streams[train]]
        tested = [_examples(exp, raw) for exp in streams[test]]
    if not taught or not tested:
        raise DataError("An Avalanche benchmark needs one experience in each of its streams at least.")
    if len(tested) not in (1, len(taught)):
        raise DataError(
            f"The test stream has {len(tested)} experiences and the training stream {len(taught)}; clbench takes as "
            "many, the i-th testing what the i-th teaches, or a single one for all."
        )
    setting = setting or _setting([(set(y.tolist()), set(t.tolist())) for _, y, t in taught])
    tests = None if len(tested) == len(taught) else (0,)
    return Benchmark(
        name=name,
        version=1,
        setting=setting,
        train=_stream("train", taught, tests, setting),
        test=_stream("test", tested, None, setting),
        num_classes=1 + max(int(y.max()) for _, y, _ in (*taught, *tested)),
        transform=transform or Transform(),
        notes=f"Converted from an Avalanche {type(scenario).__name__}.",
    )


def _examples(exp: Any, raw: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (N, …), labels (N,) and task labels (N,) of an experience."""
    data = getattr(exp, "dataset", None)
    if data is None or not hasattr(data, "targets"):
        raise DataError(
            f"Experience {exp.current_experience + 1} has no data set with targets; clbench classifies."
        )
    if not len(data):
        raise DataError(f"Experience {exp.current_experience + 1} has no examples.")
    data = data.remove_current_transform_group() if raw else data.eval()
    inputs = torch.stack([_tensor(data[i][0]) for i in range(len(data))])
    labels = torch.tensor([int(y) for y in data.targets])
    tasks = getattr(data, "targets_task_labels", None)
    told = [0] * len(data) if tasks is None else [int(t) for t in tasks]
    return inputs, labels, torch.tensor(told)


def _tensor(x: Any) -> Tensor:
    """One input as stored: uint8 images, channels first, or float32."""
    if isinstance(x, Tensor):
        return x if x.dtype in (torch.uint8, torch.int64) else x.float()
    array = np.array(x)
    if array.ndim == 2:  # a grey image
        array = array[None]
    elif array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = np.moveaxis(array, 2, 0)
    stored = array if array.dtype == np.uint8 else array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(stored))


def _setting(seen: Sequence[tuple[set[int], set[int]]]) -> Setting:
    """Return what classes and task labels of the experiences say about the setting."""
    if len({frozenset(tasks) for _, tasks in seen}) > 1:
        return Setting(shift="task", task_labels="always")
    return Setting(shift="class" if len({frozenset(classes) for classes, _ in seen}) > 1 else "domain")


def _stream(
    name: str,
    examples: Sequence[tuple[Tensor, Tensor, Tensor]],
    tests: tuple[int, ...] | None,
    setting: Setting,
) -> Stream:
    pool = Pool(torch.cat([x for x, _, _ in examples]), torch.cat([y for _, y, _ in examples]))
    experiences, start = [], 0
    for index, (_, y, told) in enumerate(examples):
        tasks = set(told.tolist())
        if setting.task_labels != "never" and len(tasks) > 1:
            raise DataError(
                f"Experience {index + 1} of the {name} stream holds examples of tasks {sorted(tasks)}; clbench's "
                "experiences have one task label each."
            )
        task = tasks.pop() if len(tasks) == 1 else HIDDEN
        domain = f"experience {index}" if setting.shift == "domain" else None
        data, classes = Data.of(pool, torch.arange(start, start + len(y))), tuple(sorted(set(y.tolist())))
        experiences.append(Experience(index, classes, data, task, domain, tests or (index,)))
        start += len(y)
    return Stream(name, tuple(experiences))


# --- ours as Avalanche's ---


def to_avalanche(benchmark: Benchmark, streams: Sequence[str] = ("train", "test", "valid")) -> Any:
    """Return a clbench benchmark as an Avalanche `CLScenario` with `train_stream`, `test_stream` and perhaps
    `valid_stream`.

    Experiences have `dataset`, `task_label(s)` (0 where the setting tells none) and the classes' timeline. Examples
    are normalised, in the training stream's `train` transformation augmented, too, by torch's global generator.

    Args:
        streams: those that it has, as far as the benchmark has them.
    """
    av = avalanche()
    named = {"train": benchmark.train, "test": benchmark.test, "valid": benchmark.valid}
    with quiet():
        made = {n: _datasets(s, benchmark) for n, s in named.items() if s is not None and n in streams}
        scenario = av.benchmarks.benchmark_from_datasets(**made)
        scenario = av.benchmarks.with_task_labels(av.benchmarks.with_classes_timeline(scenario))
    # What classic benchmarks of new classes have, and iCaRL asks for.
    scenario.n_classes_per_exp = [len(exp.classes) for exp in benchmark.train]
    scenario.classes_order = [c for exp in benchmark.train for c in exp.classes]
    scenario.n_classes = benchmark.num_classes
    for stream in scenario.streams.values():
        stream.benchmark = scenario
        for exp in stream:
            exp.benchmark = scenario
            exp.classes_in_this_experience = sorted(exp.classes_in_this_experience)  # PNN indexes with it
    return scenario


def _datasets(stream: Stream, benchmark: Benchmark) -> list[Any]:
    """One Avalanche data set per experience."""
    utils, told = avalanche().benchmarks.utils, benchmark.setting.task_labels != "never"
    evaluated = _ToModel(benchmark.transform, augmented=False)
    trained = _ToModel(benchmark.transform, augmented=stream is benchmark.train)
    made, start = [], 0
    for exp in stream:
        y, n = exp.data.y(), len(exp.data)
        how = {
            "data_attributes": [
                utils.DataAttribute(y.tolist(), "targets"),
                utils.TaskLabels(utils.ConstantSequence(exp.task if told else 0, n)),
                utils.DataAttribute(list(range(start, start + n)), ROW),
            ],
            "transform_groups": utils.TransformGroups({"train": (trained, None), "eval": (evaluated, None)}),
        }
        made.append(utils.TaskAwareSupervisedClassificationDataset([_Examples(exp.data)], **how))
        start += n
    return made


class _Examples(Dataset[tuple[Tensor, int]]):
    """An experience's examples one by one, as stored."""

    def __init__(self, data: Data) -> None:
        self.data = data

    @functools.cached_property
    def _held(self) -> tuple[Tensor, list[int]]:
        return self.data.x(), self.data.y().tolist()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.data.nbytes > LAZY_BYTES:
            x, y = self.data.take(torch.tensor([index]))
            return x[0], int(y)
        return self._held[0][index], self._held[1][index]


class _ToModel:
    """A transform as Avalanche calls it: one example, no batch dimension."""

    def __init__(self, transform: Transform, augmented: bool) -> None:
        self.transform, self.augmented = transform, augmented

    def __call__(self, raw: Tensor) -> Tensor:
        if self.augmented and self.transform.ops:
            return self.transform.train(raw[None], torch.default_generator)[0]
        return self.transform.normalise(raw[None])[0]


def concatenated(scenario: Any) -> Any:
    """Return the training stream's data in one data set, whose i-th example has row i."""
    utils = avalanche().benchmarks.utils
    with quiet():
        return utils.concat_datasets([exp.dataset for exp in scenario.train_stream])


def rows_of(data: Any) -> list[int] | None:
    """Return the rows in the training stream of a data set's examples; None where some come from elsewhere."""
    attribute = data._data_attributes.get(ROW)
    return None if attribute is None else [int(row) for row in attribute.data]


def check_classes(benchmark: Benchmark, who: str) -> None:
    """Refuse a stream in which classes come again, for methods that count them.

    Raises:
        ConfigError: names both.
    """
    classes = [c for exp in benchmark.train for c in exp.classes]
    if len(set(classes)) < len(classes):
        raise ConfigError(
            f"{who} needs experiences with classes of their own; in {benchmark.name} classes come again."
        )
