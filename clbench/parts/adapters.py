"""Adapters, scales and prompts in a transformer that stays as it is, and its adaptation to the first experience.

Shapes: D width of the transformer, b of a bottleneck.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.models.encoders import Encoder
from clbench.parts.blocks import Blocks, transformer_of
from clbench.parts.groups import AsIs
from clbench.parts.heads import GrowingHead, NormalisedHead, linear_weight, replace_head
from clbench.parts.injection import Behind, insert, open_to, sites_of
from clbench.parts.losses import CrossEntropy, LocalCrossEntropy
from clbench.parts.lowrank import SEVERAL, Dropout, LowRankTuning, Stage, scale_head
from clbench.parts.prompts import Prompted, Prompter, Prompts
from clbench.parts.sessions import LearnFirst, SettleAfterFirst
from clbench.strategy import Strategy, chain

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Adapter(nn.Module):
    """s · (W_up drop(act(W_down x + b_down)) + b_up), (…, D) → (…, D); W_up and the biases begin as 0.

    Args:
        down: W_down (b, D).
        scale: s, or what it begins with if it is learned.
        dropout: drop.
        act: relu or gelu.
        learn_scale: whether s is learned.
    """

    def __init__(
        self,
        down: Tensor,
        scale: float = 0.1,
        dropout: Dropout | None = None,
        act: Literal["relu", "gelu"] = "relu",
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        self.down, self.down_bias = nn.Parameter(down), nn.Parameter(down.new_zeros(len(down)))
        self.up, self.up_bias = (
            nn.Parameter(torch.zeros_like(down.T)),
            nn.Parameter(down.new_zeros(down.shape[1])),
        )
        self.act, self.dropout = act, dropout or Dropout(0.0, None)
        self.scale = nn.Parameter(down.new_tensor(scale)) if learn_scale else scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        hidden = self.dropout(ACTIVATIONS[self.act](F.linear(x, self.down, self.down_bias)))
        return self.scale * F.linear(hidden, self.up, self.up_bias)

    def reset_parameters(self) -> None:
        """Draw W_down again, and set the rest to 0."""
        nn.init.uniform_(self.down, -(self.down.shape[1] ** -0.5), self.down.shape[1] ** -0.5)
        for parameter in (self.down_bias, self.up, self.up_bias):
            nn.init.zeros_(parameter)


def draw_down(width: int, bottleneck: int, rng: torch.Generator) -> Tensor:
    """(b, D) uniform in ±1/√D, which is Kaiming's initialisation with a = √5."""
    bound = width**-0.5
    return torch.empty(bottleneck, width, device=rng.device).uniform_(-bound, bound, generator=rng)


class Slots(nn.Module):
    """Modules of which one acts, that of the stage; none at −1.

    Args:
        slots: one for each experience, for example.
        stage: says which.
    """

    def __init__(self, slots: list[nn.Module], stage: Stage) -> None:
        super().__init__()
        self.slots = nn.ModuleList(slots)
        self._stage = (stage,)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        current = self._stage[0].current
        if current < 0:
            return torch.zeros_like(x)
        out: Tensor = self.slots[current](x)
        return out


class Scaled(nn.Module):
    """γ ⊙ y + β of the last dimension, or of channels (B, D, H, W): SSF.

    Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, arXiv:2210.08823.
    """

    def __init__(self, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)

    def forward(self, y: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        if y.shape[-1] == len(self.gamma):
            return y * self.gamma + self.beta
        return y * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)

    def reset_parameters(self) -> None:
        """Draw both again, around 1 and 0."""
        nn.init.normal_(self.gamma, 1.0, 0.02)
        nn.init.normal_(self.beta, 0.0, 0.02)


def scale_features(backbone: nn.Module, part: Strategy, rng: torch.Generator) -> None:
    """Put scales and shifts behind every linear layer and every norm of a transformer, and its patches: γ ~ N(1, 0.02²)
    and β ~ N(0, 0.02²), so that it begins as a noisy transformer and not as it was.

    Raises:
        IncompatibleError: the backbone is no transformer.
    """
    network = open_to(backbone, part)
    if not sites_of(network):
        raise IncompatibleError(
            f"{part} scales features within a transformer's blocks; a {type(network).__name__} has none."
        )
    for path, module in list(network.named_modules()):
        name = path.rpartition(".")[2]
        if isinstance(module, nn.Linear | nn.LayerNorm) and name not in ("q_norm", "k_norm"):
            size = module.out_features if isinstance(module, nn.Linear) else module.normalized_shape[0]
        elif name == "patch_embed":
            size = network.embed_dim  # type: ignore[assignment]
        elif name == "patch_embedding":
            size = module.out_channels
        else:
            continue
        gamma = torch.empty(int(size), device=rng.device).normal_(1.0, 0.02, generator=rng)
        beta = torch.empty(int(size), device=rng.device).normal_(0.0, 0.02, generator=rng)
        network.set_submodule(path, Behind(module, Scaled(gamma, beta)))


class VisualPrompts(Prompter):
    """The same tokens for every example: at the start (shallow), or new ones in every block (deep). VPT.

    Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv:2203.12119. They begin as 0, which is not the transformer
    without them: they take a share of the attention.

    Args:
        prompts: (1 or blocks, m, D).
        deep: whether each block has its own.
    """

    passes = 0

    def __init__(self, prompts: Tensor, deep: bool) -> None:
        super().__init__()
        self.prompts, self.deep = nn.Parameter(prompts), deep

    def query(self, blocks: Blocks, x: Tensor) -> Tensor:
        """(B, 0): nothing is asked."""
        return self.prompts.new_zeros((len(x), 0))

    def forward(self, query: Tensor) -> Prompts:
        rows = [prompt.expand(len(query), -1, -1) for prompt in self.prompts]
        return Prompts(tokens=dict(enumerate(rows))) if self.deep else Prompts(start=rows[0])


def as_it_is(backbone: nn.Module) -> AsIs:
    """Return a copy of a backbone that stays as it is now; one of texts is asked once for each."""
    made = copy.deepcopy(backbone).requires_grad_(False)
    if isinstance(backbone, Encoder) and isinstance(made, Encoder):
        made.kept = backbone.kept.anew()
    return AsIs(made)


class FeaturesOf(nn.Module):
    """A backbone as a network without classes, which a run asks for its features alone.

    Args:
        backbone: (B, …) → (B, D).
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.features, self.head = backbone, nn.Identity()


def label_losses(loss: Literal["local", "softmax"], head: float = 1.0) -> Strategy:
    """Return what learns labels by the model's own head: cross-entropy over the present experience's classes, or over
    all, and a factor on the head's rate."""
    scaled = [ScaleHead(head)] if head != 1.0 else []
    losses = [GrowingHead(), LocalCrossEntropy()] if loss == "local" else [CrossEntropy()]
    return chain(*scaled, *losses)


# --- adaptation ---

Adaptation = Literal["none", "finetune", "adapter", "lora", "ssf", "vpt", "vpt-shallow"]
"""What learns the first experience: nothing; every weight; adapters beside the perceptrons; low-rank branches; scales
and shifts; tokens of every block, or at the start."""

SIZES: dict[str, int] = {"adapter": 64, "lora": 8, "vpt": 5, "vpt-shallow": 5}
"""Of a bottleneck, a rank, tokens; those of the published presets."""


class Injected(Strategy):
    """Something small is put into the backbone, which otherwise stays as it is.

    Args:
        kind: what. size: b, r or m.
    """

    architecture = "vit"
    parallel: bool | str = True

    def __init__(self, kind: Adaptation, size: int) -> None:
        self.kind, self.size = kind, size
        if kind == "adapter":
            self.parallel = SEVERAL

    def wrap(self, model: nn.Module) -> nn.Module:
        backbone: Any = model.backbone
        rng = self.run.rng("adaptation")
        if self.kind.startswith("vpt"):
            blocks, deep = transformer_of(model, f"{self} puts prompts into the blocks"), self.kind == "vpt"
            shape = (blocks.depth if deep else 1, self.size, blocks.size)
            model.backbone = Prompted(blocks, VisualPrompts(torch.zeros(shape, device=rng.device), deep))
            return model
        backbone.requires_grad_(False)
        if self.kind == "ssf":
            scale_features(backbone, self, rng)
        else:
            dropout = Dropout(0.1, self.run.rng("dropout"))
            insert(
                backbone,
                self,
                "mlp",
                lambda width: Adapter(draw_down(width, self.size, rng), dropout=dropout),
            )
        return model


class Cosine(Strategy):
    """A head of cosines σ · cos(φ, w_c), σ learned from 1 on, whose weights begin as the linear one's."""

    parallel = True
    capturable = True

    def wrap(self, model: nn.Module) -> nn.Module:
        replace_head(model, NormalisedHead(linear_weight(model, self), learn_scale=True))
        return model


class ScaleHead(Strategy):
    """The head learns at a multiple of the run's rate."""

    parallel = True
    capturable = True
    language = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def wrap(self, model: nn.Module) -> nn.Module:
        scale_head(model, self.factor)
        return model


def adapt_first(kind: Adaptation, size: int | None = None, head: float = 1.0) -> Strategy:
    """Return what adapts a network to the first experience, by a head of cosines that is not used afterwards; the
    backbone stays as it is from then on.

    Args:
        kind: what learns; not none.
        size: of it; `SIZES` if None.
        head: factor on the head's rate.
    """
    n = size or SIZES.get(kind, 0)
    parts: list[Strategy] = []
    if kind == "lora":
        parts = [LowRankTuning(n, scale=2.0)]
    elif kind != "finetune":
        parts = [Injected(kind, n)]
    heads = [Cosine(), *([ScaleHead(head)] if head != 1.0 else [])]
    return chain(*parts, SettleAfterFirst(), *heads, LearnFirst())
