"""The network by which a snapshot of the weights is evaluated.

`InPlace` asks the run. `EvaluationCopy` is a second network that takes over the weights before every evaluation: laid
out with channels last, where that is faster; and at the level `fast` with batch normalisation folded into the layer
before it, and in fewer bits: convolutions in 8-bit integers on a CPU that has instructions for them, all else in
bfloat16. The network that trains is only read. On a CPU, either computes linear layers in float32 by oneDNN
(`kernels`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from clbench.evaluation.speed.integers import Integers, has_int8
from clbench.machine.caching import once
from clbench.machine.device import onednn_on_x86
from clbench.models.base import Classifier, head_of
from clbench.strategy import Run
from clbench.types import MASKED

KNOWN = (
    "torch",
    "timm",
    "torchvision",
    "clbench.models",
    "clbench.machine.torchvision",
)
"""Packages whose modules keep what they learn in parameters and buffers alone."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Conv2d, nn.Linear)

RANGED = 32
"""Examples on which the ranges of an integer network's maps are measured at every evaluation. With 8, maps of others
are cut off so that whole streams move by points; with 64, little is gained."""

CLOSE = 32
"""In each group of so many examples that an integer network judges, the closest call is made again in float32."""


class Forward(Protocol):
    """A network in eval mode: what the ticker needs of it."""

    dtype: torch.dtype | None  # of the inputs; None: as they come
    channels_last: bool
    keeps: bool  # what its parts ask `once` of a test example

    def see(self, x: Tensor) -> None:
        """Some of the examples (n, …) that it will be asked about, as `dtype` and `channels_last` say."""

    def load(self, weights: Sequence[Tensor]) -> None:
        """Take over the weights that `weights_of` gave."""

    def logits(self, x: Tensor, task: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, …) → (B, C) float32; told the right classes y (B,), a network that rounds may do better where the call
        is close."""


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return all that evaluation depends on, live: parameters, then buffers, each once."""
    return [*(p.detach() for p in model.parameters()), *model.buffers()]


def obstacle(run: Run) -> str | None:
    """Why a copy of the network need not classify as the run does; None where it does."""
    if run.classifier is not None:
        return f"{run.strategy} classifies by a rule of its own"
    if not isinstance(run.model, Classifier):
        return f"the network is a {type(run.model).__qualname__}"
    for module in run.model.modules():
        home = type(module).__module__
        if not any(home == known or home.startswith(f"{known}.") for known in KNOWN):
            return f"{home}.{type(module).__qualname__} may hold more than parameters and buffers"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"a hook is registered on {type(module).__qualname__}"
    return None


class InPlace:
    """The run's own network, put into eval mode meanwhile by who calls."""

    dtype: torch.dtype | None = None
    channels_last = False
    keeps = True

    def __init__(self, run: Run) -> None:
        self.run = run

    def see(self, x: Tensor) -> None:
        """It computes with all examples alike."""

    def load(self, weights: Sequence[Tensor]) -> None:
        """It has them."""

    def logits(self, x: Tensor, task: Tensor, y: Tensor | None = None) -> Tensor:
        return self.run.predict(x, task)


class EvaluationCopy:
    """A copy of a network for evaluation only; picklable, and without any tie to the run.

    Args:
        model: to copy, on its device.
        task_classes: (T, C) bool, the classes of each task where task labels are told at test; None otherwise.
        fast: fold batch normalisation, and compute with fewer bits where the device has them.

    Attributes:
        folds: how many batch normalisations were folded.
        integers: the backbone in 8-bit integers; None where it is not computed in them.
        notes: why less was done than asked for.
    """

    def __init__(self, model: nn.Module, task_classes: Tensor | None, *, fast: bool = False) -> None:
        device = next((t.device for t in weights_of(model)), torch.device("cpu"))
        self.notes: list[str] = []
        self.task_classes = task_classes
        self.channels_last = (device.type == "cuda" and fast) or (
            _convolutional(model) and device.type == "cpu"
        )
        self.keeps = device.type == "cpu"  # a GPU would wait for the comparison
        self._learns = any(p.requires_grad for p in model.backbone.parameters())  # type: ignore[union-attr]
        names = [name for name, _ in _named_weights(model)]
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for parameter in self.model.parameters():
            parameter.grad = None
        pairs = self._fold() if fast else {}
        self.folds = len(pairs)
        self.integers: Integers | None = None
        if fast and device.type == "cpu" and self._learns and has_int8():
            with suppress(ValueError):  # a network of other layers is left in bfloat16
                self.integers = Integers(self.model.backbone)  # type: ignore[arg-type]
        fewer = fast and self.integers is None
        self.dtype: torch.dtype | None = torch.bfloat16 if fewer and _has_bf16(device) else torch.float32
        if fewer and self.dtype is torch.float32:
            self.notes.append(f"this {device.type} has no bfloat16")
        self._sample: Tensor | None = None
        self.model.to(dtype=self.dtype)
        if head_of(self.model).in_float32:
            self.model.head.float()
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        done = {f"{layer}.{end}" for layer, _ in pairs for end in ("weight", "bias")}
        at = {name: i for i, name in enumerate(names)}
        self._plain = [(at[name], name) for name, _ in _named_weights(self.model) if name not in done]
        self._folded = [_Fold.of(layer, norm, epsilon, at) for (layer, norm), epsilon in pairs.items()]

    def load(self, weights: Sequence[Tensor]) -> None:
        mine = dict(_named_weights(self.model))
        with torch.no_grad():
            for i, name in self._plain:
                mine[name].copy_(weights[i])
            for fold in self._folded:
                # γ (W x + b − μ) / √(σ² + ε) + β  =  (s W) x + s (b − μ) + β,   s = γ / √(σ² + ε)
                scale = torch.rsqrt(weights[fold.variance] + fold.epsilon)
                if fold.gamma is not None:
                    scale = weights[fold.gamma] * scale
                weight, mean = weights[fold.weight], weights[fold.mean]
                shift = scale * (-mean if fold.bias is None else weights[fold.bias] - mean)
                if fold.beta is not None:
                    shift = shift + weights[fold.beta]
                mine[f"{fold.layer}.weight"].copy_(weight * scale.view(-1, *[1] * (weight.ndim - 1)))
                mine[f"{fold.layer}.bias"].copy_(shift)
        if self.integers is not None:
            assert self._sample is not None, "an integer network needs to see examples first"
            self.integers.load(self._sample)

    def see(self, x: Tensor) -> None:
        if self.integers is not None:
            self._sample = x.clone(memory_format=torch.preserve_format)

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D); a trunk that does not learn is asked once, while its statistics do not move either."""
        if self._learns:
            features: Tensor = self.model.features(x)  # type: ignore[operator]
            return features
        return once("features", self.model.backbone, x, self.model.features)  # type: ignore[arg-type]

    def logits(self, x: Tensor, task: Tensor, y: Tensor | None = None) -> Tensor:
        if self.integers is None:
            return self._logits(self.features(x), task)
        logits = self._logits(self.integers(x), task)
        if y is None:
            return logits
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        margin = (logits.gather(1, y[:, None])[:, 0] - others).abs()  # to where right becomes wrong
        closest = margin.topk(-(-len(x) // CLOSE), largest=False).indices
        again = x.index_select(0, closest)
        if x.ndim == 4:
            again = again.contiguous(memory_format=torch.channels_last)
        return logits.index_copy_(0, closest, self._logits(self.features(again), task[closest]))

    def _logits(self, features: Tensor, task: Tensor) -> Tensor:
        head = head_of(self.model)
        logits = head.predict(features.float() if head.in_float32 else features).float()
        if self.task_classes is not None:
            logits = logits.masked_fill(~self.task_classes[task], MASKED)
        return logits

    def describe(self) -> str:
        """Return what the network is, in words, for the record."""
        kind = "bfloat16" if self.dtype is torch.bfloat16 else "float32"
        if self.integers is not None:
            kind = f"8-bit integers, the closest of {CLOSE} again in float32"
        folded = f", {self.folds} batch normalisations folded" if self.folds else ""
        return kind + folded + (", channels last" if self.channels_last else "")

    # --- folding ---

    def _fold(self) -> dict[tuple[str, str], float]:
        """Take out every batch normalisation that a layer feeds and nothing else; the names of both, and its ε."""
        try:
            graph = torch.fx.symbolic_trace(self.model).graph
        except (
            Exception
        ) as error:  # whatever a forward method does that cannot be traced: it is then left as it is
            self.notes.append(f"nothing is folded, as the network cannot be traced: {str(error)[:100]}")
            return {}
        modules = dict(self.model.named_modules())
        calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
        pairs: dict[tuple[str, str], float] = {}
        for node in graph.nodes:
            if node.op != "call_module" or type(modules[str(node.target)]) not in _NORMS:
                continue
            before = node.args[0]
            feeds = (
                isinstance(before, torch.fx.Node) and before.op == "call_module" and len(before.users) == 1
            )
            layer, norm = str(before.target) if feeds else "", str(node.target)
            if (
                type(modules.get(layer)) in _LAYERS
                and calls.count(layer) == calls.count(norm) == 1
                and modules[norm].track_running_stats
            ):
                pairs[layer, norm] = float(modules[norm].eps)
        norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules.values())
        if norms > len(pairs):
            self.notes.append(f"{norms - len(pairs)} of {norms} batch normalisations cannot be folded")
        for layer, norm in pairs:
            if modules[layer].bias is None:
                size = modules[layer].weight.shape[0]
                modules[layer].bias = nn.Parameter(modules[layer].weight.new_zeros(size), requires_grad=False)
            parent, _, name = norm.rpartition(".")
            setattr(modules[parent], name, nn.Identity())
        return pairs


@dataclass(frozen=True)
class _Fold:
    """A layer that a batch normalisation went into: where both have their numbers among the weights."""

    layer: str
    epsilon: float
    weight: int
    bias: int | None
    gamma: int | None
    beta: int | None
    mean: int
    variance: int

    @staticmethod
    def of(layer: str, norm: str, epsilon: float, at: dict[str, int]) -> _Fold:
        own = at[f"{layer}.weight"], at.get(f"{layer}.bias"), at.get(f"{norm}.weight"), at.get(f"{norm}.bias")
        return _Fold(layer, epsilon, *own, at[f"{norm}.running_mean"], at[f"{norm}.running_var"])


def _named_weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*((n, p.detach()) for n, p in model.named_parameters()), *model.named_buffers()]


def _convolutional(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed and not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


# --- linear layers ---


class _ByOneDNN(TorchFunctionMode):
    """Linear layers in float32 on a CPU, twice as fast as torch's where MKL does not use what the processor has.

    torch gives float32 products to MKL, which keeps to AVX2 on processors of other makers than its own; oneDNN, which
    torch gives bfloat16 and convolutions to, uses AVX-512 wherever there is any.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and not torch.is_grad_enabled():  # it has no backward pass
            x, weight, bias = (*args, None)[:3]
            if x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
                return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def has_onednn() -> bool:
    """Whether this torch has oneDNN's linear layer for this processor."""
    return onednn_on_x86() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def kernels(device: torch.device) -> AbstractContextManager[object]:
    """Give the context of an evaluation. A strategy that trains when it is asked has torch's own, with gradients."""
    return _ByOneDNN() if device.type == "cpu" and has_onednn() else nullcontext()


# --- portions ---


SCORES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Scores of one pass at most, where an example has very many."""


def portion(forward: Forward, device: torch.device, input_shape: Sequence[int], scores: int = 1) -> int:
    """Return how many examples, of so many scores each, go through at once, unless the configuration says.

    On a CPU, the maps between two convolutions should stay in the cache: a power of two of images that fill a quarter
    of it. By size and not by stopwatch, so that two runs on one machine have the same bits however busy it is.
    """
    most = max(1, SCORES.get(device.type, 1 << 22) // scores)
    if device.type == "cuda":
        return min(2048, most)
    if most < 512:
        return most
    if not isinstance(forward, EvaluationCopy):
        return 64 if isinstance(forward, InPlace) and _convolutional(forward.run.model) else 512
    if not _convolutional(forward.model):
        return 512
    sizes: list[int] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        sizes.append(given[0].nbytes + made.nbytes)

    hooks = [m.register_forward_hook(note) for m in forward.model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        forward.features(torch.zeros(1, *input_shape, dtype=forward.dtype))
    for hook in hooks:
        hook.remove()
    # Floats are measured, and bytes are a quarter of them; half of the cache, so that more are judged again at once.
    more = 8 if forward.integers is not None else 1
    fitting = max(more * _cache_bytes() // 4 // max(sizes, default=1), 1)
    return min(max(1 << (fitting.bit_length() - 1), 8), 256)


def _cache_bytes() -> int:
    """Return the last level's size; 16 MiB where the system does not say."""
    sizes = [
        file.read_text().strip() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=1 << 24)
