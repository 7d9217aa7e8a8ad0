"""A convolutional network in 8-bit integers, for evaluation on a CPU.

x ≈ s (q − z): every map has a scale s and a zero point z, by which its smallest and largest value among a few examples
become 0 and 255; every filter of a layer has a scale, by which its largest weight becomes 127 (arXiv:1712.05877,
eq. 1). Sums of integers are exact in whichever order they are taken, and a processor with VNNI multiplies twice as
many of them at once as of bfloat16, and four times as many as of float32. Bias, addition and ReLU are part of the
convolution (oneDNN's), so that a map is written once, as bytes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.nn import functional as F

from clbench.machine.device import onednn_on_x86

_BYTE, _WEIGHT = 255, 127

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu)

Maps = dict[Node, Any]
"""What the nodes of a network have given: maps in float32, or bytes that stand for one; or a number, as a size."""


def has_int8() -> bool:
    """Whether this processor multiplies 8-bit integers and this torch has the convolution that does it."""
    return (
        onednn_on_x86()
        and bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())  # without, sums stop at 16 bits
        and hasattr(torch.ops.onednn, "qconv_prepack")
        and "binary" in torch.ops.onednn.qconv2d_pointwise.overloads()
    )


class Integers:
    """A network all of whose weights are those of convolutions.

    Args:
        network: in eval mode and float32, with its normalisations folded; kept, not copied.

    Raises:
        ValueError: something else has weights, or the network cannot be traced.
    """

    def __init__(self, network: nn.Module) -> None:
        named = [*network.named_parameters(), *network.named_buffers()]
        owners = {type(network.get_submodule(name.rpartition(".")[0])) for name, _ in named}
        if owners != {nn.Conv2d}:
            raise ValueError("not only convolutions have weights")
        if any(module._forward_pre_hooks for module in network.modules()):
            raise ValueError("what a layer is given is changed on the way to it")  # a graph does not show it
        try:
            graph = torch.fx.symbolic_trace(network).graph
        except Exception as error:  # whatever a forward method does that cannot be traced
            raise ValueError(f"the network cannot be traced: {str(error)[:100]}") from error
        self.network = network
        self._modules = dict(network.named_modules())
        if graph.find_nodes(op="get_attr"):
            raise ValueError("weights are used outside of layers")
        if any(_writes_over(node, self._modules) for node in graph.nodes):
            raise ValueError("a map is written over that is asked for again")
        _leave_out(graph, self._modules)
        (self._x,), (output,) = graph.find_nodes(op="placeholder"), graph.find_nodes(op="output")
        self._out: Node = output.args[0]
        self._nodes = [node for node in graph.nodes if node is not self._x and node is not output]
        self._shapes: dict[Node, torch.Size] = {}
        self._steps: list[_Step] = []
        self._packed: dict[Node, tuple[Tensor, Tensor, Tensor]] = {}  # of each convolution's end
        self._scales: dict[Node, tuple[float, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"network": self.network}  # the rest is quickly made again; packed weights are oneDNN's own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def load(self, x: Tensor) -> None:
        """Take over the network's present weights, and its maps' ranges on examples x (n, C, H, W) float32."""
        if not self._steps:
            self._steps = [_Other(node) for node in self._nodes]
            self._pass(x, self._in_float32, self._note_shape)
            self._steps = _plan(self._nodes, self._modules, self._shapes)
        needed = {node for step in self._steps for node in step.in_bytes}
        ranges: dict[Node, Tensor] = {}

        def note(node: Node, value: Any) -> None:
            if node in needed:
                ranges[node] = torch.stack(value.aminmax())

        self._pass(x, self._in_float32, note)
        low, high = (
            torch.stack(list(ranges.values())).nan_to_num().double().T
        )  # a run that diverges goes on to its end
        low, high = low.clamp(max=0), high.clamp(min=0)  # 0, with which maps are padded, is a byte
        scales = ((high - low) / _BYTE).clamp(min=1e-12)
        zeros = (-low / scales).round().int()
        self._scales = dict(zip(ranges, zip(scales.tolist(), zeros.tolist(), strict=True), strict=True))
        for step in self._steps:
            if isinstance(step, _Convolution):
                self._packed[step.out] = self._pack(step)

    def _note_shape(self, node: Node, value: Any) -> None:
        if isinstance(value, Tensor):
            self._shapes[node] = value.shape

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float32 → what the network gives, up to rounding."""
        return self._pass(x, self._in_integers)

    def _pass(
        self,
        x: Tensor,
        compute: Callable[[_Step, Maps], Any],
        note: Callable[[Node, Any], None] = lambda node, value: None,
    ) -> Tensor:
        maps: Maps = {self._x: x}
        note(self._x, x)
        for step in self._steps:
            maps[step.out] = compute(step, maps)
            note(step.out, maps[step.out])
            for node in step.last:
                del maps[node]
        made: Tensor = self._float(maps, self._out)
        return made

    # --- in float32 ---

    def _in_float32(self, step: _Step, maps: Maps) -> Any:
        if isinstance(step, _Other):
            return self._other(step, maps)
        y: Tensor = self._modules[step.layer](maps[step.x])
        if step.plus is not None:
            y = y + maps[step.plus]
        return y.relu_() if step.relu else y

    def _other(self, step: _Other, maps: Maps) -> Any:
        node = step.out
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self._float(maps, n))
        if node.op == "call_module":
            return self._modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _float(self, maps: Maps, node: Node) -> Any:
        value = maps[node]
        if not isinstance(value, Tensor) or value.dtype is not torch.uint8:
            return value
        scale, zero = self._scales[node]
        return (value.float() - zero) * scale

    # --- in integers ---

    def _in_integers(self, step: _Step, maps: Maps) -> Any:
        if isinstance(step, _Other):
            return self._other(step, maps)
        layer, act = self._modules[step.layer], "relu" if step.relu else "none"
        x = (self._bytes(maps, step.x), *self._scales[step.x], *self._packed[step.out])
        geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        out = (*self._scales[step.out], torch.uint8)
        conv = torch.ops.onednn.qconv2d_pointwise
        if step.plus is None:
            return conv(*x, layer.bias, *geometry, *out, act, [], "")
        plus = self._bytes(maps, step.plus)
        if step.plus is step.x or step.plus not in step.last:
            plus = plus.clone()  # the result takes its place
        scale = self._scales[step.plus]
        return conv.binary(*x, plus, layer.bias, *geometry, *out, *scale, "sum", 1.0, act, [], "")

    def _bytes(self, maps: Maps, node: Node) -> Tensor:
        value: Tensor = maps[node]
        if value.dtype is torch.uint8:
            return value
        scale, zero = self._scales[node]
        return (value / scale).round_().add_(zero).clamp_(0, _BYTE).to(torch.uint8)

    def _pack(self, step: _Convolution) -> tuple[Tensor, Tensor, Tensor]:
        """Return a layer's weights as oneDNN wants them for its inputs' shape, and each filter's scale and zero
        point."""
        layer = self._modules[step.layer]
        scale = layer.weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / _WEIGHT
        rounded = (layer.weight / scale.view(-1, 1, 1, 1)).round_().to(torch.int8).contiguous()
        geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        packed = torch.ops.onednn.qconv_prepack(
            rounded, scale, *self._scales[step.x], *geometry, self._shapes[step.x]
        )
        return packed, scale, torch.zeros(len(scale), dtype=torch.int32)


# --- the order of work ---


@dataclass(frozen=True)
class _Convolution:
    """out = [relu](layer(x) [+ plus]), all in one; `last` are the maps that nothing needs afterwards."""

    out: Node
    layer: str
    x: Node
    plus: Node | None = None
    relu: bool = False
    last: tuple[Node, ...] = ()

    @property
    def needs(self) -> tuple[Node, ...]:
        return (self.x,) if self.plus is None else (self.x, self.plus)

    @property
    def in_bytes(self) -> tuple[Node, ...]:
        return (*self.needs, self.out)


@dataclass(frozen=True)
class _Other:
    """A node that is computed in float32."""

    out: Node
    last: tuple[Node, ...] = ()
    in_bytes: tuple[Node, ...] = ()

    @property
    def needs(self) -> tuple[Node, ...]:
        return tuple(self.out.all_input_nodes)


_Step = _Convolution | _Other


def _leave_out(graph: Graph, modules: Mapping[str, nn.Module]) -> None:
    """Take out the layers that do nothing in eval mode."""
    for node in list(graph.nodes):
        if node.op == "call_module" and type(modules[str(node.target)]) in _NOTHING:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _plan(
    nodes: Sequence[Node], modules: Mapping[str, nn.Module], shapes: Mapping[Node, torch.Size]
) -> list[_Step]:
    """Return the nodes of a network in order, additions and ReLUs gone into the convolutions before them."""
    steps: dict[Node, _Step] = {}

    def end(node: Node) -> _Convolution | None:
        """Return the convolution whose result a node is, if only one other node asks for it."""
        step = steps[node] if node in steps and len(node.users) == 1 else None
        return step if isinstance(step, _Convolution) and not step.relu else None

    for node in nodes:
        inputs = node.all_input_nodes
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        steps[node] = _Other(node)
        if _plain(module):
            steps[node] = _Convolution(node, str(node.target), inputs[0])
        elif isinstance(module, nn.ReLU) or _is(node, _RELUS, "relu"):
            if (before := end(inputs[0])) is not None:
                del steps[before.out]
                steps[node] = replace(before, out=node, relu=True)
        elif _is(node, _ADDITIONS, "add") and len(inputs) == 2 and not node.kwargs:
            for one, other in (inputs, inputs[::-1]):
                before = end(one)
                if before is not None and before.plus is None and shapes[other] == shapes[node]:
                    del steps[before.out]
                    steps[node] = replace(before, out=node, plus=other)
                    break
    return _with_last_uses(list(steps.values()))


def _with_last_uses(steps: list[_Step]) -> list[_Step]:
    """Return each step with the maps that it is the last to need."""
    last = {node: i for i, step in enumerate(steps) for node in step.needs}
    return [
        replace(step, last=tuple(node for node, at in last.items() if at == i))
        for i, step in enumerate(steps)
    ]


def _plain(module: nn.Module | None) -> bool:
    """Return a convolution as oneDNN has it."""
    return (
        type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )


def _writes_over(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node changes in place what other nodes ask for, or is there for nothing but that."""
    if node.op in ("placeholder", "output"):
        return False
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    in_place = (
        getattr(module, "inplace", False)
        or node.kwargs.get("inplace", False)
        or (node.op == "call_method" and str(node.target).endswith("_"))
        or node.target is operator.iadd
    )
    return not node.users or (bool(in_place) and len(node.all_input_nodes[0].users) > 1)


def _is(node: Node, functions: Sequence[Callable[..., Any]], method: str) -> bool:
    """Whether a node calls one of some functions or a method, in place or not."""
    if node.op == "call_function":
        return node.target in functions
    return node.op == "call_method" and node.target in (method, f"{method}_")
