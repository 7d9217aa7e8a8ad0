"""APER: adaptation to the first experience, and cosines to class means of pretrained and adapted features together.

Zhou, Cai, Ye, Zhan, Liu, "Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and
Adaptivity Are All You Need", IJCV 2024, arXiv:2303.07338, where it is called ADAM first.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import ClassSums, FeaturesOf, adapt_first, as_it_is
from clbench.ranges import Count, Positive
from clbench.strategy import State
from clbench.types import MASKED


class Pretrained(Strategy):
    """Keeps the backbone as it was before anything changes it, as `model.pretrained`."""

    parallel = True

    def wrap(self, model: nn.Module) -> nn.Module:
        model.pretrained = as_it_is(model.backbone)  # type: ignore[arg-type]
        return model


class Merged(Strategy):
    """Predicts by the cosine to class means of ψ = [φ of the pretrained network; φ of the adapted one].

    Neither half is scaled: the one of larger norm counts for more.
    """

    needs = frozenset({"boundaries"})
    state = ("classes",)
    parallel = True

    def setup(self, run: Run) -> None:
        size = 2 * int(run.model.feature_size)  # type: ignore[arg-type]
        self.classes = ClassSums(run.num_classes, size).to(run.device)
        self.adapted = False  # `classes.known.any()`, where asking a GPU would have evaluation wait

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, 2 D) ψ."""
        pretrained: nn.Module = self.run.model.pretrained  # type: ignore[assignment]
        before = self.run.output_of(FeaturesOf(pretrained), x).features
        return torch.cat([before, self.run.forward(x).features], dim=1)

    @torch.no_grad()
    def end_experience(self, exp: Experience) -> None:
        with self.run.evaluating():
            for x, y in self.run.visit(exp.data):
                self.classes.add(self.features(x), y)
        self.adapted = True

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.adapted = bool(self.classes.known.any())

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        if not self.adapted:  # in the first experience
            return self.run.forward(x, task).logits
        means = F.normalize(self.classes.means(), dim=1).float()
        cosines = F.normalize(self.features(x), dim=1) @ means.T
        return self.run.mask_tasks(cosines.masked_fill(~self.classes.known, MASKED), task)


@register("aper", family="fixed features", paper="arXiv:2303.07338", tiny={"size": 4})
def aper(
    adapt: Literal["adapter", "finetune", "lora", "ssf", "vpt", "vpt-shallow"] = "adapter",
    size: Count | None = None,
    head: Positive = 1.0,
) -> Strategy:
    """APER: the first experience adapts a pretrained network; then cosines to class means of old and new features.

    ψ(x) = [φ(x); φ'(x)], of the network as it was pretrained and as the first experience's cross-entropy on
    σ · cos(φ', w_c) has changed it. Both stay as they are from then on. A class has the mean of ψ over its examples,
    and the largest cosine wins. It costs two passes for each example. What `adapt` adds shows beside `simple-cil`.

    The first experience is trained with the run's optimizer and schedule; later ones need one pass. The authors' are
    `optim.name=sgd lr=0.01 momentum=0.9 weight_decay=5e-4 schedule=cosine batch_size=48 epochs=20 later_epochs=1`.

    Args:
        adapt: what learns: adapter, a bottleneck beside each perceptron, of the residual; finetune, all weights; lora,
            low-rank branches of q and v; ssf, scales and shifts behind every layer; vpt and vpt-shallow, tokens in
            every block or at the start.
        size: of a bottleneck, 64 if none is given; a rank, 8; tokens, 5.
        head: factor on the learning rate of the head that adapts.

    Reference: Zhou, Cai, Ye, Zhan, Liu, "Revisiting Class-Incremental Learning with Pre-Trained Models:
    Generalizability and Adaptivity Are All You Need", IJCV 2024, arXiv:2303.07338.

    Differences from the authors' code:
        1. Low-rank branches are not among its variants; that for ResNets, statistics of their norms, is left out.
        2. Until the first experience ends, the head of its training predicts.
        3. A class that comes again has the mean of all its examples; there, the last experience's takes its place.
    """
    return chain(Pretrained(), adapt_first(adapt, size, head), Merged())
