"""Groups of parameters: which are held, and which are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.machine.caching import once
from clbench.strategy import Strategy

Group = Literal["all", "encoder", "qkv", "head"]
"""all; encoder: all but the head; qkv: the query, key and value projections of a timm transformer; head."""

T = TypeVar("T", bound=Tensor)


def members_of(group: Group, parameters: Mapping[str, T]) -> dict[str, T]:
    """Return the parameters of a group, out of those by name.

    Raises:
        IncompatibleError: there are none.
    """
    belongs = {
        "all": lambda name: True,
        "encoder": lambda name: not _in_head(name),
        "qkv": lambda name: "qkv" in name.split("."),
        "head": _in_head,
    }[group]
    found = {name: p for name, p in parameters.items() if belongs(name)}
    if not found:
        what = "Only timm's transformers have them." if group == "qkv" else "Is it frozen?"
        if group == "head":
            what = "Is it frozen, or are its weights those of the embedding, as in a decoder?"
        raise IncompatibleError(f"The model has no trainable parameters of the group '{group}'. {what}")
    return found


def _in_head(name: str) -> bool:
    return name.split(".")[0] == "head"


class AsIs(nn.Module):
    """A network that stays in eval mode: no dropout, and statistics of batch normalisation that do not move."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.eval()

    def train(self, mode: bool = True) -> AsIs:
        """Keep the network inside in eval mode, whatever `mode` is."""
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D); what does not learn is asked once for each test example."""
        return once("features", self.inner, x, self.inner)


class TrainOnly(Strategy):
    """Some parameters are trained and the others stay as they are.

    Args:
        groups: those that are trained; without any of the backbone's it stays in eval mode.
    """

    parallel = True
    capturable = True
    language = True

    def __init__(self, *groups: Group) -> None:
        self.groups = groups

    def wrap(self, model: nn.Module) -> nn.Module:
        kept = {name for g in self.groups for name in members_of(g, dict(model.named_parameters()))}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in kept and parameter.requires_grad)
        if all(_in_head(name) for name in kept):
            model.backbone = AsIs(model.backbone)  # type: ignore[arg-type]
        return model

    def frozen(self) -> Mapping[str, Tensor]:
        """Include the buffers of a backbone in eval mode."""
        as_is = [module for module in self.run.model.modules() if isinstance(module, AsIs)]
        return {name: buffer for module in as_is for name, buffer in module.named_buffers()}


def entries(model: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a model, in order, without gradients."""
    return [*(p.detach() for p in model.parameters()), *model.buffers()]
