"""Low-rank branches (LoRA) in a transformer that stays as it is: W x + b + s · B A x.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685.

Shapes: i inputs and o outputs of a layer, r rank, T experiences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.models.encoders import NONE
from clbench.parts.injection import Extended, Target, extend
from clbench.strategy import Strategy
from clbench.types import Experience

SEVERAL = "its dropout would be drawn anew by each of them"
"""Why several processes cannot share a step."""


class Stage(nn.Module):
    """Which experience a network is at, for what has a slot for each; a copy of the network has its own.

    Attributes:
        current: its index.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0

    def get_extra_state(self) -> Tensor:
        """Return what a checkpoint holds."""
        return torch.tensor(self.current)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self.current = int(state)

    @contextlib.contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Stand at another experience inside."""
        kept, self.current = self.current, index
        try:
            yield
        finally:
            self.current = kept


class Dropout(nn.Module):
    """Dropout by a random stream of its own.

    Args:
        share: of the numbers that are set to 0 in training.
        rng: draws them; None where none are.
    """

    def __init__(self, share: float, rng: torch.Generator | None) -> None:
        super().__init__()
        self.share = share
        self._rng = _Shared(rng)

    def forward(self, x: Tensor) -> Tensor:
        """(…) → (…)."""
        if not self.training or not self.share or self._rng.rng is None:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.share, generator=self._rng.rng)
        return x * kept / (1 - self.share)


class _Shared:
    """A random stream; a copy of a network goes on with the same one."""

    def __init__(self, rng: torch.Generator | None) -> None:
        self.rng = rng

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


class LowRank(nn.Module):
    """s · Σ_t B_t A_t x over the experiences so far, of which only the present one's pair is trained.

    The pairs of experiences to come are there, so that an optimizer and a checkpoint know them; they are not read.

    Args:
        downs: A_t (r, i), one for each experience, or a single one that all share.
        outputs: o. B_t (o, r) begin as 0.
        scale: s, learned if it is a parameter.
        dropout: on x, one draw for all pairs.
        stage: says which experience is the present one.
    """

    scale: float | nn.Parameter

    def __init__(
        self,
        downs: Sequence[Tensor],
        outputs: int,
        scale: float | nn.Parameter,
        dropout: Dropout,
        stage: Stage,
    ) -> None:
        super().__init__()
        self.downs = nn.ParameterList(nn.Parameter(down) for down in downs)
        self.ups = nn.ParameterList(nn.Parameter(down.new_zeros(outputs, len(down))) for down in downs)
        self.scale, self.dropout = scale, dropout
        self._stage = (stage,)  # a tuple, as it is one module of the network and not of every layer

    @property
    def current(self) -> int:
        """The index of the pair that is trained."""
        return min(self._stage[0].current, len(self.downs) - 1)

    def down(self) -> Tensor:
        """(r (t + 1), i) those so far, only the present one with gradient."""
        t = self.current
        return torch.cat([*(self.downs[k].detach() for k in range(t)), self.downs[t]])

    def up(self) -> Tensor:
        """(o, r (t + 1)), likewise."""
        t = self.current
        return torch.cat([*(self.ups[k].detach() for k in range(t)), self.ups[t]], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(…, i) → (…, o)."""
        return self.scale * F.linear(F.linear(self.dropout(x), self.down()), self.up())

    def delta(self) -> Tensor:
        """(o, i) s · Σ_t B_t A_t."""
        return self.scale * self.up() @ self.down()

    def reset_parameters(self) -> None:
        """Draw the A_t again, and set the B_t to 0."""
        for down, up in zip(self.downs, self.ups, strict=True):
            nn.init.uniform_(down, -(down.shape[1] ** -0.5), down.shape[1] ** -0.5)
            nn.init.zeros_(up)


class LowRankTuning(Strategy):
    """Low-rank branches are trained beside the head, in a transformer that stays as it is.

    Args:
        rank, scale, dropout: r, s, and on the branches' inputs.
        targets: the layers.
        blocks: whose layers; None for all.
        slots: a pair for each experience, or one.

    Attributes:
        branches: in the order of layers. stage: at which experience they are.
    """

    architecture = "vit"
    parallel: bool | str = True
    language = True

    def __init__(
        self,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        targets: Sequence[Target] = ("q", "v"),
        blocks: Sequence[int] | None = None,
        slots: bool = False,
    ) -> None:
        self.rank, self.scale, self.dropout = rank, scale, dropout
        self.targets, self.blocks, self.slots = tuple(targets), blocks, slots
        if dropout:
            self.parallel = SEVERAL

    def make(self, inputs: int, outputs: int) -> LowRank:
        """Return a branch: A_t uniform in ±1/√i, which is Kaiming's initialisation with a = √5, and B_t = 0."""
        rng, bound = self.run.rng("low-rank"), inputs**-0.5
        downs = [
            torch.empty(self.rank, inputs, device=rng.device).uniform_(-bound, bound, generator=rng)
            for _ in range(len(self.run.benchmark.train) if self.slots else 1)
        ]
        dropout = Dropout(self.dropout, self.run.rng("dropout"))
        return LowRank(downs, outputs, self.scale, dropout, self.stage)

    def wrap(self, model: nn.Module) -> nn.Module:
        model.backbone.requires_grad_(False)
        self.stage = Stage()
        self.layers: list[Extended] = extend(model.backbone, self, self.targets, self.make, self.blocks)  # type: ignore[arg-type]
        self.branches: list[LowRank] = [b for layer in self.layers for b in layer.branches.values()]  # type: ignore[misc]
        model.stage = self.stage
        return model

    def begin_experience(self, exp: Experience) -> None:
        self.stage.current = exp.index

    def frozen(self) -> Mapping[str, Tensor]:
        """Return the pairs of other experiences."""
        return {
            f"{kind} {number} {t}": pair.detach()
            for number, branch in enumerate(self.branches)
            for kind, pairs in (("A", branch.downs), ("B", branch.ups))
            for t, pair in enumerate(pairs)
            if t != branch.current
        }


def unpadded(x: Tensor) -> Iterator[Tensor]:
    """A batch, texts in groups of one length, so that no token is a filling."""
    if x.is_floating_point():
        yield x
        return
    lengths = (x != NONE).sum(1)
    for n in lengths.unique().tolist():
        yield x[lengths == n]


def scale_head(model: nn.Module, factor: float) -> None:
    """Have a model's head learn at a multiple of the run's rate."""
    from clbench.machine.optim import scale_rate

    for parameter in model.head.parameters():  # type: ignore[union-attr]
        scale_rate(parameter, factor)
