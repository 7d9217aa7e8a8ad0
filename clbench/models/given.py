"""A network of the caller's own as a classifier: what is its backbone, and what its head.

Shapes: C classes, D features.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import ConfigError
from clbench.models.base import Classifier
from clbench.models.inputs import Shape, probing

ROWS = 2
"""Examples with which a network is tried: two, as some layers drop an axis of length one."""


def classifier_of(made: nn.Module | Callable[..., Any], input_shape: Shape, num_classes: int) -> Classifier:
    """Return a network as a classifier; it is not copied.

    A module whose output is that of a linear layer of C units has its head in that layer, and its weights stay. What
    comes out of any other is the features, which get a new head. A class or function is called first, with
    `input_shape` and `num_classes` where it has such parameters.

    Raises:
        ConfigError: it does not take such inputs, or what it gives is neither.
    """
    who = getattr(made, "__name__", type(made).__name__)
    if not isinstance(made, nn.Module):
        told = {"input_shape": input_shape, "num_classes": num_classes}
        made = made(**{key: told[key] for key in inspect.signature(made).parameters if key in told})
        if not isinstance(made, nn.Module):
            raise ConfigError(
                f"The model {who} must make a torch.nn.Module; it made a {type(made).__name__}."
            )
    if isinstance(made, Classifier):
        if made.num_classes != num_classes:
            raise ConfigError(
                f"The model {who} tells {made.num_classes} classes apart; the benchmark has {num_classes}."
            )
        _tried(made, who, input_shape, num_classes)
        return made
    x, given, head = _tried(made, who, input_shape, num_classes)
    size = given.shape[1]
    if head is None and size == num_classes:
        raise ConfigError(
            f"The model {who} gives {num_classes} numbers, as many as there are classes, but not by a linear layer, "
            "so it cannot be told whether they are logits. Let it end in torch.nn.Linear, without a softmax; or say "
            f"what is what: clbench.Classifier(backbone, {size}, {num_classes}), whose head is linear."
        )
    if head is None:
        return Classifier(made, size, num_classes)
    backbone = _without(made, head)
    with probing(backbone):
        again = head(backbone(x))
    if not torch.equal(again.nan_to_num(), given.nan_to_num()):
        raise ConfigError(
            f"The model {who} uses its last linear layer more than once, or changes what comes out of it. Say what is "
            f"what: clbench.Classifier(backbone, {head.in_features}, {num_classes}), whose head is linear."
        )
    whole = Classifier(backbone, head.in_features, num_classes)
    whole.head = head
    return whole


def _tried(
    module: nn.Module, who: str, input_shape: Shape, num_classes: int
) -> tuple[Tensor, Tensor, nn.Linear | None]:
    """Return inputs that a module takes, what it gives for them (2, D), and the linear layer that this comes from."""
    outputs: dict[int, tuple[nn.Linear, Tensor]] = {}

    def look(layer: nn.Module, _: Any, output: Tensor) -> None:
        outputs[id(output)] = (layer, output)  # type: ignore[assignment]

    layers = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    errors: list[Exception] = []
    given: Any = None
    with probing(module):
        for dtype in (torch.float32, torch.int64):  # numbers, or tokens
            x = torch.zeros((ROWS, *input_shape), dtype=dtype)
            if dtype.is_floating_point:  # of zeros, too much would be zero
                x.copy_(torch.linspace(-1, 1, x.numel()).view_as(x))
            try:
                given = module(x)
                break
            except Exception as error:  # whatever its author's code raises
                errors.append(error)
    for hook in hooks:
        hook.remove()
    if len(errors) == 2:
        first = " ".join([f"{type(errors[0]).__name__}:", *str(errors[0]).strip().splitlines()[:1]]).rstrip(
            ".:"
        )
        flat = len(input_shape) > 1 and "mat1 and mat2 shapes" in first
        cure = " Images become rows by nn.Flatten(), as the first layer." if flat else ""
        raise ConfigError(
            f"The model {who} does not take inputs of shape {tuple(input_shape)}: {first}.{cure}"
        ) from errors[0]
    if not isinstance(given, Tensor) or given.dim() != 2 or len(given) != ROWS:
        what = f"the shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise ConfigError(
            f"The model {who} must give one row of logits or features for each example, ({ROWS}, D) for {ROWS}; it "
            f"gives {what}. Flatten, pool or select it in forward()."
        )
    with probing(module):
        module.train()
        buffers = {name: value.clone() for name, value in module.named_buffers()}  # which training would move
        trained = torch.func.functional_call(module, buffers, (x,))
    if not isinstance(trained, Tensor) or trained.shape != given.shape:
        raise ConfigError(
            f"The model {who} gives something else in training, a {type(trained).__name__}, than in evaluation. Turn "
            "off its auxiliary outputs (aux_logits=False in torchvision), or leave them out in forward()."
        )
    found = outputs.get(id(given))
    return x, given, None if found is None else found[0]


def _without(module: nn.Module, head: nn.Linear) -> nn.Module:
    """Return a module with nothing in the place of its head."""
    if module is head:
        return nn.Identity()
    for parent in module.modules():
        for name, child in parent.named_children():
            if child is head:
                setattr(parent, name, nn.Identity())
    return module
