"""The network of a run in the form that each of Avalanche's strategies wants it in."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.interop.avalanche.lib import avalanche
from clbench.types import MASKED, Benchmark

Arguments = dict[str, Any]
"""Arguments of a strategy's constructor."""
PROJECTED = 128
"""Size of the embedding that SCR contrasts, as in its paper."""


class Features(nn.Module):
    """A classifier's features as its output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.features(x)  # type: ignore[operator]
        return features


def task_table(benchmark: Benchmark) -> Tensor:
    """(tasks + 1, C) bool: the classes of each task; the last row, which −1 selects, rules none out."""
    table = torch.zeros(
        (max(exp.task for exp in benchmark.train) + 2, benchmark.num_classes), dtype=torch.bool
    )
    table[-1] = True
    for exp in benchmark.train:
        table[exp.task, list(exp.classes)] = True
    return table


@functools.cache
def _tasked() -> type[nn.Module]:
    """Return the class, made when Avalanche is there to derive from."""

    class Tasked(avalanche().models.MultiTaskModule):  # type: ignore[misc]  # a class at run time only
        """A classifier that is told the task, whose other classes are then out of the question."""

        def __init__(self, net: nn.Module, classes: Tensor) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("classes", classes, persistent=False)

        @property
        def head(self) -> nn.Module:
            head: Any = self.net.head
            return head  # type: ignore[no-any-return]

        def features(self, x: Tensor) -> Tensor:
            features: Tensor = self.net.features(x)  # type: ignore[operator]
            return features

        def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Any:
            if task_labels is None:  # Avalanche's way to ask for every task's output
                return self.forward_all_tasks(x)
            return self.forward_single_task(x, task_labels.long())

        def forward_single_task(self, x: Tensor, task_label: int | Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits.masked_fill(~self.classes[task_label], MASKED)

    return Tasked


@functools.cache
def _with_features() -> type[nn.Module]:
    class WithFeatures(nn.Module, avalanche().models.base_model.BaseModel):  # type: ignore[misc]
        """A classifier that shows its features as Avalanche's LFL asks for them."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits

        def get_features(self, x: Tensor) -> Tensor:
            features: Tensor = self.net.features(x)  # type: ignore[operator]
            return features

    return WithFeatures


def arguments(
    name: str, model: Any, benchmark: Benchmark, params: Mapping[str, Any]
) -> tuple[nn.Module, Arguments]:
    """Return what a strategy trains, and the arguments that tell its constructor.

    Args:
        name: of the strategy, without prefix.
        model: the run's classifier, with `features` and `head`.
        params: what the user gave.

    Raises:
        IncompatibleError: a network that the strategy cannot use.
    """
    match name:
        case "ICaRL":
            parts = {"feature_extractor": Features(model), "classifier": model.head}
            return model, {**parts, "buffer_transform": None}
        case "ER_AML":
            return model, {"model": model, "feature_extractor": Features(model)}
        case "StreamingLDA":
            features = Features(model)
            sizes = {"input_size": model.feature_size, "num_classes": benchmark.num_classes}
            return features, {"slda_model": features, **sizes}
        case "CWRStar":
            return model, {"model": model, "cwr_layer_name": "head"}
        case "FeatureReplay":
            return model, {"model": model, "last_layer_name": "head"}
        case "CoPE":  # its embedding, in place of class scores
            model.head = nn.Linear(model.feature_size, int(params["p_size"]))
            return model, {"model": model, "n_classes": benchmark.num_classes}
        case "GSS_greedy":
            return model, {"model": model, "input_size": list(benchmark.input_shape)}
        case "GenerativeReplay":
            return model, {"model": model, "generator_strategy": _generator(benchmark, params)}
    net = _network(name, model, benchmark)
    return net, {"model": net}


def _network(name: str, model: Any, benchmark: Benchmark) -> nn.Module:
    """Return what is trained, where the constructor asks for that alone."""
    net: nn.Module = model
    match name:
        case "SCR":
            size = model.feature_size
            projection = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, PROJECTED))
            net = avalanche().models.SCRModel(Features(model), projection)
        case "LFL" | "LFLPlugin":
            net = _with_features()(model)
        case "PNNStrategy":
            net = avalanche().models.PNN(in_features=torch.Size(benchmark.input_shape).numel())
        case "FeatureDistillationPlugin":
            net = avalanche().models.utils.FeatureExtractorModel(Features(model), model.head)
        case "PackNet":
            try:
                net = avalanche().models.packnet.PackNetModel(model)
            except ValueError as error:
                raise IncompatibleError(
                    f"avalanche:PackNet cannot prune this model: {error}. Take model=mlp."
                ) from error
        case _ if benchmark.setting.task_labels != "never":
            net = _tasked()(model, task_table(benchmark))
    return net


def _generator(benchmark: Benchmark, params: Mapping[str, Any]) -> Callable[..., Any]:
    """As Avalanche's default generator, which is for 28 × 28 pixels only."""
    av = avalanche()

    def generator_strategy(*, device: torch.device, **given: Any) -> Any:
        generator = av.models.MlpVAE(tuple(benchmark.input_shape), nhid=2, device=device)
        return av.training.supervised.VAETraining(
            model=generator,
            optimizer=torch.optim.Adam(generator.parameters(), lr=0.01, weight_decay=0.0001),
            criterion=av.models.VAE_loss,
            device=device,
            plugins=[av.training.plugins.GenerativeReplayPlugin(**params)],
            **given,
        )

    return generator_strategy


def one_task_at_a_time(net: nn.Module) -> bool:
    """Whether a network takes only batches of one task, and only of tasks that it has met."""
    models = avalanche().models
    return isinstance(net, models.PNN | models.packnet.PackNetModel)


def readable(net: Any) -> Any:
    """Return the network, or a copy of it that may be asked for any task.

    Asking PackNet for another task's weights changes what is trained, and is forbidden after pruning.
    """
    packnet = avalanche().models.packnet
    if not isinstance(net, packnet.PackNetModel):
        return net
    asked = copy.deepcopy(net)
    for module in asked.modules():
        if isinstance(module, packnet.PackNetModule):
            module._state.fill_(module.State.EVAL.value)
            module._active_task.fill_(-1)  # none, so that whichever comes first is made visible
    return asked
