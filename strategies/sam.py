"""Sharpness-aware minimisation (SAM).

Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
arXiv:2010.01412.
"""

from __future__ import annotations

from collections.abc import Callable

from clbench import Batch, Output, Run, Strategy, register
from clbench.errors import IncompatibleError
from clbench.parts import ascent, members_of, perturbed
from clbench.ranges import NotNegative
from clbench.strategy import overrides


class SharpnessAware(Strategy):
    """The gradient of a batch is taken where its loss is about worst within ρ of the weights.

    g(θ + ε̂) in place of g(θ), ε̂ = ρ g(θ) / ‖g(θ)‖₂. Both passes see the same rows, replayed ones too, and the same
    draws; what the model says of the batch, and its running statistics, are those of the first.
    """

    parallel = True
    language = True

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def setup(self, run: Run) -> None:
        members_of("all", run.parameters())  # refused where nothing is trained
        parts = list(run.strategy.parts)
        for part in parts[: parts.index(self)]:
            if overrides(part, "gradient"):
                raise IncompatibleError(
                    f"{self} takes the gradient inside it twice a step, and {part} before it changes what a gradient "
                    f"is, with weights that it moves; put {self} before {part} in the chain."
                )

    def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        before = self.run.moment()
        out = inner(batch)
        theta = list(self.run.parameters().values())
        up = ascent([p.grad for p in theta], self.rho)
        if any(e is not None for e in up):  # else nothing is learned from this batch
            with self.run.repeating(before), perturbed(theta, up):
                inner(batch)
        return out


@register("sam", family="training", paper="arXiv:2010.01412", modifier=True, null={"rho": 0.0})
def sam(rho: NotNegative = 0.05) -> Strategy:
    """Sharpness-aware minimisation: the gradient is taken a step of length ρ up the loss, around any other strategy.

    θ ← update(θ, ∇L(θ + ε̂)) with ε̂ = ρ ∇L(θ) / ‖∇L(θ)‖₂, one norm over all trained parameters; L is the sum of all
    losses of the chain. Both gradients are of the same batch, with the same replayed examples and the same dropout.
    It doubles the forward and backward passes. Chain it last: `er+sam`.

    Args:
        rho: ρ. The paper searched 0.01 to 0.5 and recommends 0.05; language models take 0.02 to 0.3.

    Reference: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
    arXiv:2010.01412. Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023,
    arXiv:2212.09744, index documents with it.

    Differences from the paper:
        1. There is one ε̂ for the batch; the paper's experiments take one for each accelerator's share of it.
        2. Running statistics of batch normalisation, and logits that a memory stores, are those at θ.
        3. Gradients are clipped, and projected by other parts, after the second pass; ε̂ is of the gradient as it is.
    """
    return SharpnessAware(rho) if rho else Strategy()
