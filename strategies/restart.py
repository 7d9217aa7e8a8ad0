"""Every experience from the same start.

Kim et al., "Does Prior Data Matter? Exploring Joint Training in the Context of Few-Shot Class-Incremental Learning",
ICCV-W 2025, arXiv:2503.10003.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench import Experience, Run, Strategy, register


class Restart(Strategy):
    """When an experience begins, all weights are as they were before the first one, and so are running statistics."""

    needs = frozenset({"boundaries"})
    parallel = True
    language = True

    def setup(self, run: Run) -> None:
        # No checkpoint holds them: a run that goes on is built with these weights, too.
        self.initial = {name: value.detach().clone() for name, value in self._now().items()}

    def _now(self) -> dict[str, Tensor]:
        model = self.run.model
        found: dict[str, Tensor] = dict(model.named_parameters())
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                found |= {f"{name}.{key}": value for key, value in module.named_buffers()}
        return found

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        if exp.index == 0:
            return
        for name, value in self._now().items():
            value.copy_(self.initial[name])
        parameters = self.run.parameters().values()
        self.run.forget_moments({p: torch.ones_like(p, dtype=torch.bool) for p in parameters})


@register("restart", family="few-shot", paper="arXiv:2503.10003", modifier=True)
def restart() -> Strategy:
    """Begins every experience with the weights that the first one began with, around any other strategy.

    `joint+restart` trains from scratch on all data so far, experience by experience; `joint` alone goes on from the
    weights it has. With pretrained weights, these are the start.

    Reference: Kim et al., "Does Prior Data Matter? Exploring Joint Training in the Context of Few-Shot
    Class-Incremental Learning", ICCV-W 2025, arXiv:2503.10003, which defines joint training so.
    """
    return Restart()
