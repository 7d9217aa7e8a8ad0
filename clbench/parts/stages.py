"""The hidden layers of a network whose layers stand in a row."""

from __future__ import annotations

from torch import nn

from clbench.errors import IncompatibleError
from clbench.parts.heads import SeenOutputs


def stages(model: nn.Module) -> list[tuple[nn.Linear, nn.Module, nn.Linear]]:
    """For each hidden layer its linear map, its activation and the linear map that comes next, the head at last.

    Norms and dropout may stand in between.

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
    return [(linear[i], activations[i], linear[i + 1]) for i in range(len(activations))]  # type: ignore[misc]
