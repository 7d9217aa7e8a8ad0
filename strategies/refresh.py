"""Refresh learning.

Wang et al., "A Unified and General Framework for Continual Learning", ICLR 2024, arXiv:2403.13249.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import fisher_of_labels, like, members_of
from clbench.ranges import Natural, NotNegative, Positive, Share

GUARD = 1e-20
"""Added to a norm that something is divided by."""


class Information(Strategy):
    """The Fisher information of the last experiences' labels, by which weights that matter are moved less.

    F ← τ F + F_new at the end of an experience, with F_new = Σ_i p_i (∂ ln p_i / ∂θ)² / (batches · batch size), p_i the
    probability of the true label of augmented example i. BatchNorm normalises each example by its own statistics.
    """

    needs = frozenset({"boundaries"})
    state = ("fisher",)
    parallel = True

    def __init__(self, damping: float, decay: float) -> None:
        self.damping, self.decay = damping, decay
        self.fisher: dict[str, Tensor] = {}

    def divisors(self) -> list[Tensor]:
        """1 + λ F for each parameter; nothing in the first experience, where F is zero."""
        if not self.fisher:
            return []
        return list(torch._foreach_add(torch._foreach_mul(list(self.fisher.values()), self.damping), 1.0))

    def end_experience(self, exp: Experience) -> None:
        new = fisher_of_labels(self.run, exp, "refresh/augment")
        if self.fisher:
            new = {name: self.decay * self.fisher[name] + value for name, value in new.items()}
        self.fisher = new


class Unlearn(Strategy):
    """Before every step, weights move up the loss of the batch they are about to be fitted to, and stay there.

    θ_k ← θ_k + δ (û_k + σ ξ_k) / (1 + λ F_k) for each parameter tensor k, û_k the gradient of the stream's mean
    cross-entropy at the norm of θ_k, and ξ_k standard normal.
    """

    parallel = True

    def __init__(
        self, steps: int, delta: float, rate: float, noise: float, information: Information | None
    ) -> None:
        self.steps, self.delta, self.rate = steps, delta, rate
        self.noise, self.information = noise, information

    def setup(self, run: Run) -> None:
        members_of("all", run.parameters())  # refused where nothing is trained

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        for _ in range(self.steps):
            self.unlearn(batch.stream())
        return inner(batch)

    def unlearn(self, new: Batch) -> None:
        """Take one step up, written to the parameters themselves: the optimizer does not hear of it."""
        theta: list[Tensor] = list(self.run.parameters().values())
        with self.run.tentatively():  # the scratch network: of this forward pass nothing is left
            loss = F.cross_entropy(self.run.forward(new.x, new.task).logits, new.y)
            gradient = torch.autograd.grad(loss, theta, materialize_grads=True)
        with torch.no_grad():
            # A step of the scratch network and back, as released: what is below the weights' precision is lost.
            up = torch._foreach_sub(torch._foreach_add(theta, gradient, alpha=self.rate), theta)
            lengths = torch._foreach_add(torch._foreach_norm(up), GUARD)
            move = torch._foreach_mul(up, torch._foreach_div(torch._foreach_norm(theta), lengths))
            if self.noise:
                torch._foreach_add_(move, standard_normal(self.run, theta), alpha=self.noise)
            if self.information is not None and (divisors := self.information.divisors()):
                torch._foreach_div_(move, divisors)
            torch._foreach_add_(theta, move, alpha=self.delta)


class Ascend(Strategy):
    """Before every gradient, weights move up the whole loss of the batch, by preconditioned Langevin steps.

    θ ← θ + γ P ∇L + σ (2 γ P)^½ ξ with P = 1 / (1 + λ F), as often as asked for; L is the sum of all losses of the
    chain, on the same batch with the same replayed examples every time.
    """

    parallel = True

    def __init__(self, steps: int, gamma: float, noise: float, information: Information | None) -> None:
        self.steps, self.gamma, self.noise, self.information = steps, gamma, noise, information

    def setup(self, run: Run) -> None:
        members_of("all", run.parameters())  # refused where nothing is trained

    def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        for _ in range(self.steps):
            with self.run.tentatively():
                inner(batch)
            self.ascend()
        return inner(batch)

    @torch.no_grad()
    def ascend(self) -> None:
        """Take one step up the gradients that are there."""
        theta: list[Tensor] = list(self.run.parameters().values())
        if all(p.grad is None for p in theta):  # nothing is learned from this batch
            return
        # Where fp16 overflowed, a gradient is not finite; the engine makes no update of it, and this is no step up.
        up = [torch.zeros_like(p) if p.grad is None else p.grad.nan_to_num(0.0, 0.0, 0.0) for p in theta]
        move = torch._foreach_mul(up, self.gamma / self.run.gradient_scale())
        divisors = self.information.divisors() if self.information is not None else []
        if divisors:
            torch._foreach_div_(move, divisors)
        if self.noise:
            shake = standard_normal(self.run, theta)
            if divisors:
                torch._foreach_div_(shake, torch._foreach_sqrt(divisors))
            torch._foreach_add_(move, shake, alpha=self.noise * (2 * self.gamma) ** 0.5)
        torch._foreach_add_(theta, move)


def standard_normal(run: Run, theta: list[Tensor]) -> list[Tensor]:
    """Return a draw in the shape of each parameter, from one kernel."""
    size, rng = sum(p.numel() for p in theta), run.rng("refresh")
    return like(theta, torch.randn(size, generator=rng, device=run.device, dtype=theta[0].dtype))


@register("refresh", family="training", paper="arXiv:2403.13249", modifier=True, null={"steps": 0})
def refresh(
    mode: Literal["released", "paper"] = "released",
    steps: Natural = 1,
    delta: NotNegative = 1e-5,
    rate: Positive = 0.01,
    gamma: NotNegative = 0.03,
    noise: NotNegative = 1e-3,
    damping: NotNegative = 1e-3,
    decay: Share = 1e-5,
) -> Strategy:
    """Refresh learning: unlearn the batch a little before it is learned, around any other strategy.

    As released: θ_k ← θ_k + δ (û_k + σ ξ_k) / (1 + λ F_k) for every parameter tensor, û_k the gradient of the stream
    batch's cross-entropy scaled to the norm of θ_k. In the paper: θ ← θ + γ P ∇L + N(0, 2 γ P) with L all losses of the
    strategy, replay too, and P the inverse Fisher information. Either way the strategy's own step follows.

    Args:
        mode: the released code's step, or the paper's. They are different methods: the first is a relative step of
            10⁻⁵, whatever the gradient's size.
        steps: J, unlearning steps before a learning step.
        delta: δ of the released step.
        rate: of its scratch network; only rounding depends on it.
        gamma: γ of the paper's step; it searched 0.02 to 0.04.
        noise: σ of the Gaussian part; 1 is the paper's Langevin step.
        damping: λ; with 0 the Fisher information is left out, and no boundaries are needed.
        decay: τ in F ← τ F + F_new.

    Reference: Wang et al., "A Unified and General Framework for Continual Learning", ICLR 2024, arXiv:2403.13249. The
    defaults are the constants of the authors' code, which has only the released mode, in DER++.

    Differences from the authors' code:
        1. Noise and the augmentation of the Fisher pass have random streams of their own, so that the strategy's own
           draws are the same with and without.
        2. With task labels, the classes of other tasks are masked in what is unlearned, as in what is learned.
        3. The Fisher pass runs without dropout, and a BatchNorm layer that sees one value per channel of an example
           uses its running statistics; a single example has none.
    Differences from the paper, in its mode:
        4. P = 1 / (1 + λ F): F is zero in the first experience, and its inverse nowhere bounded.
        5. The Gaussian part is multiplied by σ, 10⁻³ unless `noise=1` is given.
        6. F is the released code's.
    """
    if steps == 0:
        return Strategy()
    information = Information(damping, decay) if damping else None
    unlearn: Strategy = Ascend(steps, gamma, noise, information)
    if mode == "released":
        unlearn = Unlearn(steps, delta, rate, noise, information)
    return chain(unlearn, information) if information is not None else unlearn
