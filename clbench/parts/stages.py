"""The hidden layers of a network whose layers stand in a row."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from clbench.errors import IncompatibleError
from clbench.parts.heads import SeenOutputs


class Stage(NamedTuple):
    """A hidden layer.

    Attributes:
        into: the linear map into its units. norms: what stands between that and the activation and has a number for
            each unit. activation: of its units. out: the linear map that comes next, the head at last.
    """

    into: nn.Linear
    norms: tuple[nn.Module, ...]
    activation: nn.Module
    out: nn.Linear


def stages(model: nn.Module) -> list[Stage]:
    """The hidden layers of a network. Norms and dropout may stand in between.

    Raises:
        IncompatibleError: the backbone is no row of linear layers with an activation each.
    """
    leaves = [module for module in model.backbone.modules() if not list(module.children())]  # type: ignore[union-attr]
    boxes = [module for module in model.backbone.modules() if list(module.children())]  # type: ignore[union-attr]
    head = model.head.inner if isinstance(model.head, SeenOutputs) else model.head
    linear = [*(m for m in leaves if isinstance(m, nn.Linear)), head]
    activations = [m for m in leaves if type(m).__module__ == "torch.nn.modules.activation"]
    fits = (
        all(type(box) is nn.Sequential for box in boxes)
        and all(isinstance(m, nn.Linear) for m in linear)
        and len(activations) == len(linear) - 1
        and not any(isinstance(m, nn.modules.conv._ConvNd) for m in leaves)
    )
    if not fits:
        raise IncompatibleError(
            "Units can be recycled in networks of linear layers in a row, each with an activation, and a linear head, "
            "such as the model 'mlp'; this one is built otherwise."
        )
    found = []
    for i, activation in enumerate(activations):
        between = leaves[leaves.index(linear[i]) + 1 : leaves.index(activation)]
        norms = tuple(m for m in between if [*m.parameters(), *m.buffers()])
        found.append(Stage(linear[i], norms, activation, linear[i + 1]))  # type: ignore[arg-type]
    return found
