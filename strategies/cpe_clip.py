"""CPE-CLIP: prompts for both towers of a frozen dual encoder, for few-shot class-incremental learning.

D'Alessandro et al., "Multimodal Parameter-Efficient Few-Shot Class Incremental Learning", ICCV-W 2023,
arXiv:2303.04751.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clbench import Experience, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import ByName, CrossEntropy
from clbench.ranges import Count

Mode = Literal["accumulate", "replace"]


class Prompted(nn.Module):
    """A frozen dual encoder with one set of prompts for both towers.

    Args:
        encoder: frozen, and in eval mode whatever mode this is in.
        layers, length: D and L.
        mode: what becomes of earlier layers' prompts in the image tower.
        rng: draws the initial prompts.
    """

    def __init__(self, encoder: Any, layers: int, length: int, mode: Mode, rng: torch.Generator) -> None:
        super().__init__()
        self.encoder, self.mode = encoder.eval().requires_grad_(False), mode
        text, image = encoder.text_width, encoder.image_width
        self.prompts = nn.Parameter(torch.empty(layers, length, text, device=rng.device))  # G (D, L, W_t)
        nn.init.xavier_uniform_(self.prompts, generator=rng)
        self.projection = nn.Linear(text, image, device=rng.device)
        for tensor in self.projection.parameters():  # as nn.Linear draws them
            nn.init.uniform_(tensor, -1 / math.sqrt(text), 1 / math.sqrt(text), generator=rng)

    def train(self, mode: bool = True) -> Prompted:
        """Keep the encoder in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, E) of length 1."""
        embedded: Tensor = self.encoder.image(x, self.projection(self.prompts), self.mode)
        return embedded

    def text(self, tokens: tuple[Tensor, Tensor]) -> Tensor:
        """Tokens of C names → (C, E) of length 1."""
        embedded: Tensor = self.encoder.text(tokens, self.prompts)
        return embedded

    def text_sources(self) -> list[Tensor]:
        """Return what the embeddings of names depend on."""
        return [self.prompts, *self.encoder.text_sources()]


class SharedPrompts(ByName):
    """Prompts in both towers; after the first experience their gradients are scaled by the share of new classes."""

    state = (*ByName.state, "counts")
    parallel = True

    def __init__(self, layers: int, length: int, mode: Mode, scale: bool) -> None:
        self.layers, self.length, self.mode, self.scale = layers, length, mode, scale
        self.counts: list[int] = []  # classes of each experience so far

    def put_into(self, encoder: Any) -> nn.Module:
        layers = min(self.layers, encoder.depth)
        self.prompted = Prompted(encoder, layers, self.length, self.mode, self.run.rng("prompts"))
        return self.prompted

    def setup(self, run: Run) -> None:
        if self.scale and run.config.optim.name != "sgd":
            raise IncompatibleError(
                f"{self} scales gradients, which {run.config.optim.name} divides out again; set optim.name=sgd, or "
                "scale=false to do without."
            )

    def begin_experience(self, exp: Experience) -> None:
        super().begin_experience(exp)
        self.counts.append(len(exp.classes))

    def gradients(self) -> None:
        if self.scale and len(self.counts) > 1:
            share = self.counts[-1] / sum(self.counts)  # λ_t = n_t / Σ_{i≤t} n_i
            for tensor in (self.prompted.prompts, *self.prompted.projection.parameters()):
                if tensor.grad is not None:
                    tensor.grad.mul_(share)

    def frozen(self) -> Mapping[str, Tensor]:
        """Return the dual encoder."""
        weights: Mapping[str, Tensor] = self.prompted.encoder.state_dict()
        return weights


@register("cpe-clip", family="dual encoders", paper="arXiv:2303.04751")
def cpe_clip(
    layers: Count = 12, length: Count = 2, mode: Mode = "accumulate", scale: bool = True
) -> Strategy:
    """CPE-CLIP: one small set of prompts enters both towers of a frozen dual encoder; classes are told by their names.

    L = cross-entropy of 100 · cos(image, name) over the present experience's classes; at prediction over all seen. The
    prompts G (D, L, W_t) enter the text tower behind the first token, new ones in place of the last layer's; mapped to
    the image tower's width by a linear layer, its only other parameters, they join the end of its sequence, and stay
    there beside those of later layers. After the first experience, gradients are multiplied by λ_t = n_t / Σ_{i≤t} n_i,
    the share of the experience's classes, just before the update. With CLIP ViT-B/16, 406,272 parameters are trained.

    Needs a dual encoder (`model=clip` or `toy-clip`) and a benchmark with class names. What it is worth shows beside
    `zero-shot`, since the encoder may know the classes by name already.

    Args:
        layers: D; those of the shallower tower at most.
        length: L, prompts of a layer.
        mode: whether, in the image tower, prompts' outputs stay beside the prompts of later layers or make way.
        scale: whether gradients are scaled by λ_t. Needs SGD, as Adam would divide the factor out again.

    Reference: D'Alessandro et al., "Multimodal Parameter-Efficient Few-Shot Class Incremental Learning", ICCV-W 2023,
    arXiv:2303.04751.

    Differences from the authors' code:
        1. Columns of classes that have not come are there and masked, where the code has none; the loss is the same.
        2. In training, names of earlier classes are not embedded: their columns are the constant −9999, so that no
           gradient could reach them.
        3. The ablation without accumulation leaves the scaling of gradients on; the code turns both off at once.
    """
    return chain(SharedPrompts(layers, length, mode, scale), CrossEntropy())
