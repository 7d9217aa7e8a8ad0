"""DualPrompt.

Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022, arXiv:2204.04799.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import (
    Blocks,
    GrowingHead,
    LocalCrossEntropy,
    Prompter,
    Prompts,
    SlicedPrompter,
    SlicedPrompting,
    as_prefixes,
    check_layers,
    cosines,
)
from clbench.ranges import Count, Even, Natural, NotNegative

Pull = Literal["cosine", "sum", "mean"]
Candidates = Literal["learned", "pool"]


@dataclass(frozen=True)
class Settings:
    """What the codes of this method differ in.

    Attributes:
        pool: M, E-prompts. general, expert: rows of a G-prompt and of an E-prompt in a block, half keys, half values.
        pull, form: weight and form of the loss that pulls keys to queries.
        keys: whether an E-prompt has one key, or one for each of its blocks.
        copy: whether an experience's E-prompt begins as the one before it ended.
        low, high: prompts and keys are drawn between these, evenly.
    """

    pool: int
    general: int
    expert: int
    pull: float
    form: Pull
    keys: Literal["one", "layers"]
    copy: bool
    low: float
    high: float


VARIANTS = {
    "released": Settings(10, 10, 10, 1.0, "cosine", "one", True, 0.0, 0.01),
    "pilot": Settings(10, 10, 10, 0.1, "cosine", "one", True, -1.0, 1.0),
    "coda": Settings(10, 6, 20, 1.0, "sum", "layers", False, 0.0, 1.0),
    "ovor": Settings(10, 10, 40, 1.0, "mean", "layers", False, 0.0, 1.0),
}


class Slots(SlicedPrompter):
    """One E-prompt and its key for each experience, and G-prompts that all share.

    Attributes:
        general: (G blocks, rows, D).
        experts: M times (E blocks, rows, D). keys: M times (1 or E blocks, D).
    """

    def __init__(
        self,
        general: Tensor,
        experts: Tensor,
        keys: Tensor,
        general_layers: tuple[int, ...],
        expert_layers: tuple[int, ...],
        candidates: Candidates,
    ) -> None:
        super().__init__()
        self.general = nn.Parameter(general)
        self.experts = nn.ParameterList(nn.Parameter(prompt) for prompt in experts.unbind())
        self.keys = nn.ParameterList(nn.Parameter(key) for key in keys.unbind())
        self.general_layers, self.expert_layers, self.candidates = general_layers, expert_layers, candidates

    def slices(self) -> Mapping[str, Sequence[Tensor]]:
        """Return the E-prompts, and their keys."""
        return {"E-prompt": list(self.experts), "key": list(self.keys)}

    def forward(self, query: Tensor) -> Prompts:
        n = len(query)
        general = self.general.unsqueeze(1).expand(-1, n, -1, -1)  # (G blocks, B, rows, D)
        present = self.experts[self.current].unsqueeze(1).expand(-1, n, -1, -1)  # (E blocks, B, rows, D)
        experts = present if self.training else self.matching(query)
        prefixes = as_prefixes(
            *zip(self.general_layers, general, strict=True), *zip(self.expert_layers, experts, strict=True)
        )
        return Prompts(prefixes=prefixes, note=query)

    def matching(self, query: Tensor) -> Tensor:
        """(E blocks, B, rows, D) the E-prompts whose keys are nearest to the queries (B, D)."""
        count = self.current + 1 if self.candidates == "learned" else len(self.keys)
        keys = torch.stack(list(self.keys)[:count], dim=1)  # (1 or E blocks, M, D)
        experts = torch.stack(list(self.experts)[:count], dim=1)  # (E blocks, M, rows, D)
        nearest = torch.stack([cosines(query, of_layer).argmax(dim=1) for of_layer in keys])
        nearest = nearest.expand(len(experts), -1)  # (E blocks, B)
        return torch.stack([prompts[index] for prompts, index in zip(experts, nearest, strict=True)])

    def pull(self, query: Tensor, form: Pull) -> Tensor:
        """Return how far the queries (B, D) are from the present experience's keys.

        cosine: −(1/B) Σ cos(q_b, k) over images b and keys k. sum: Σ (1 − cos(q_b, k)). mean: their mean.
        """
        cosine = cosines(query, self.keys[self.current])  # (B, 1 or E blocks)
        if form == "cosine":
            return -cosine.sum() / len(query)
        return (1 - cosine).sum() if form == "sum" else (1 - cosine).mean()


class Dual(SlicedPrompting):
    """G-prompts and the present experience's E-prompt are trained; at prediction the nearest key says which one.

    `pull` brings the key of the present E-prompt to the queries of the stream.
    """

    prompter: Slots
    parallel = True

    def __init__(
        self,
        settings: Settings,
        general_layers: tuple[int, ...],
        expert_layers: tuple[int, ...],
        candidates: Candidates,
    ) -> None:
        self.settings, self.candidates = settings, candidates
        self.general_layers, self.expert_layers = general_layers, expert_layers

    def make_prompter(self, blocks: Blocks) -> Prompter:
        s, device, rng = self.settings, self.run.device, self.run.rng("prompts")
        check_layers((*self.general_layers, *self.expert_layers), blocks, self)
        each = len(self.expert_layers)
        general = torch.empty(len(self.general_layers), s.general, self.size, device=device)
        experts = torch.empty(s.pool, each, s.expert, self.size, device=device)
        keys = torch.empty(s.pool, each if s.keys == "layers" else 1, self.size, device=device)
        for drawn in (general, experts, keys):
            drawn.uniform_(s.low, s.high, generator=rng)
        return Slots(general, experts, keys, self.general_layers, self.expert_layers, self.candidates)

    def setup(self, run: Run) -> None:
        if len(run.train) > self.settings.pool:
            raise IncompatibleError(
                f"{run.strategy} has {self.settings.pool} E-prompts, and the stream has {len(run.train)} experiences, "
                f"each of which needs one. Set dualprompt.pool={len(run.train)}."
            )

    def begin_experience(self, exp: Experience) -> None:
        super().begin_experience(exp)
        if self.settings.copy and exp.index:
            with torch.no_grad():
                self.prompter.experts[exp.index].copy_(self.prompter.experts[exp.index - 1])

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        query = out.features[:, self.size :]
        return {"pull": self.settings.pull * self.prompter.pull(query, self.settings.form)}


@register(
    "dualprompt",
    family="prompts",
    version=2,
    paper="arXiv:2204.04799",
    tiny={"pool": 4, "general_layers": (0,), "expert_layers": (1,)},
)
def dualprompt(
    variant: Literal["released", "pilot", "coda", "ovor"] = "released",
    pool: Count | None = None,
    general: Even | None = None,
    expert: Even | None = None,
    pull: NotNegative | None = None,
    general_layers: tuple[Natural, ...] = (0, 1),
    expert_layers: tuple[Natural, ...] = (2, 3, 4),
    candidates: Candidates = "learned",
) -> Strategy:
    """DualPrompt: prompts that all experiences share, and one for each experience, found again by its key.

    Both enter blocks of the frozen transformer as prefixes. In training, images get the E-prompt of their experience,
    whose key is pulled to the queries q(x), features without prompts; in prediction that of argmax_m cos(q(x), k_m).
    L = CE − λ mean_b cos(q_b, k_t), the cross-entropy of stream rows over the present experience's classes.

    Args:
        variant: whose settings stand where no other is given. released: the authors' code, in JAX; pilot: the toolbox
            PILOT; coda: the code of CODA-Prompt, with a key for each block and a pull that is the sum of 1 − cos over
            batch and blocks; ovor: the code of OVOR, where it is their mean.
        pool: M, E-prompts; 10.
        general: rows of a G-prompt in a block, half of them keys and half values; 10, or 6 for coda.
        expert: rows of an E-prompt in a block; 10, 20 (coda), 40 (ovor).
        pull: λ; 1, or 0.1 for pilot.
        general_layers, expert_layers: the blocks they enter.
        candidates: E-prompts among which the nearest key is looked for at prediction: those of experiences that have
            begun, or the whole pool, untrained ones too.

    Reference: Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022,
    arXiv:2204.04799.

    Differences from the authors' code:
        1. E-prompts of experiences to come are no candidates, unless `candidates=pool`.
        2. Their configuration for CIFAR-100 lets all images of a test batch take the E-prompt that most of them match,
           which leaks; here each image takes its own.
        3. Outputs of classes not seen yet are no candidates.
        4. Images are as the benchmark gives them, neither enlarged to 224 × 224 nor left without mean and deviation.
        5. PILOT's code reshapes E-prompts where it should transpose them: one half of a batch gets the key half as keys
           and as values, the other the value half. Here every image gets keys and values, whatever its place.
        6. In an encoder of texts (BERT and its like), prefixes have no position and are met by every token; query and
           feature are the encoder's, for many the mean over a text's tokens.
    """
    given = {"pool": pool, "general": general, "expert": expert, "pull": pull}
    settings = replace(VARIANTS[variant], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    dual = Dual(settings, tuple(general_layers), tuple(expert_layers), candidates)
    return chain(dual, GrowingHead(), LocalCrossEntropy())
