"""Networks of clbench's own that `clbench export` has written into a folder, read back without the run or its data.

Shapes: B examples of a batch, C classes, D features.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, DataError
from clbench.files import expanded, read_json
from clbench.models.base import Classifier
from clbench.models.making import make_model

ABOUT = "clbench.json"
"""What an exported folder says of itself: the run, the classes, the inputs, the head, the network."""


class UnitLinear(nn.Linear):
    """Features (B, D) over their length → (B, C), linear: cosines, if rows of the weights are of one length.

    Args:
        eps: added to the length.
    """

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__(inputs, outputs)
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        return F.linear(input / (input.norm(dim=1, keepdim=True) + self.eps), self.weight, self.bias)


def load_model(folder: str | Path) -> Classifier:
    """Return a network that `clbench export` has written, with its weights, in eval mode: x (B, …) → logits (B, C).

    Without a head (`--backbone`) it gives the features (B, D).

    Args:
        folder: that was exported; inputs come as its README.md says.

    Raises:
        DataError: no such folder, or damaged. ConfigError: transformers or timm reads it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = expanded(folder)
    if not (place / ABOUT).is_file():
        raise DataError(f"{place} is no folder of `clbench export`: it holds no {ABOUT}.")
    about = read_json(place / ABOUT)
    if about["loads_with"] != "clbench":
        raise ConfigError(f"{place} is read by {about['loads_with']}; its README.md has the lines.")
    network, head = about["network"], about["head"]
    with torch.random.fork_rng(devices=[]):
        shape, classes = tuple(about["input"]["shape"]), len(about["labels"])
        model = make_model(network["name"], shape, classes, **network["params"])
    if head is None:
        model.head = nn.Identity()
    elif head["eps"] is not None:
        model.head = UnitLinear(model.feature_size, classes, head["eps"])
    try:
        model.load_state_dict(load_file(place / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{place} was altered, or written by another version: {str(error).splitlines()[0]}"
        ) from error
    return model.eval()
