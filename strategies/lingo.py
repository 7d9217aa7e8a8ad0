"""LingoCL: a head whose rows are what a language model makes of the names of classes, and stay as they are.

Ni, Wei, Tang, Zhuang, Tian, "Enhancing Visual Continual Learning with Language-Guided Supervision", CVPR 2024,
arXiv:2403.16124.

Shapes: B examples, C classes, D features, E of a row.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Experience, File, Run, Strategy, chain, register
from clbench.errors import ConfigError, IncompatibleError
from clbench.parts import CrossEntropy, GrowingHead, replace_head, said_of
from clbench.ranges import Count, Positive

Rows = Literal["names", "random", "orthogonal", "etf"]
"""What names say; unit vectors drawn at random; such ones that are orthogonal; or a simplex equiangular tight frame."""


def orthogonal(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, size) rows of length 1, drawn at random, each orthogonal to all others."""
    drawn = torch.randn((size, n), generator=generator, device=generator.device)
    q, r = torch.linalg.qr(drawn)
    rows: Tensor = (q * r.diagonal().sign()).T
    return rows


def simplex(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, size) rows of length 1 with inner products −1 / (n − 1), in a position drawn at random."""
    # Helmert's rows: an orthonormal basis (n − 1, n) of the vectors whose entries sum to 0
    k = torch.arange(1, n, device=generator.device).unsqueeze(1)
    column = torch.arange(n, device=generator.device)
    basis = torch.where(column < k, 1.0, torch.where(column == k, -k.float(), 0.0)) / (k * (k + 1.0)).sqrt()
    return math.sqrt(n / (n - 1)) * basis.T @ orthogonal(n - 1, size, generator)


class FixedRows(nn.Module):
    """Features (B, D) → (B, C) logits s · (P φ) Wᵀ; W are the rows, 0 for classes that are still to come.

    Args:
        shape: C and E. scale: s. linear: P, from D to E. cosine: scale P φ to length 1.
    """

    rows: Tensor

    def __init__(self, shape: tuple[int, int], scale: float, linear: nn.Module, cosine: bool) -> None:
        super().__init__()
        self.linear, self.scale, self.cosine = linear, scale, cosine
        self.register_buffer("rows", torch.zeros(shape))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        mapped: Tensor = self.linear(features)
        if self.cosine:
            mapped = F.normalize(mapped, dim=1)
        return self.scale * F.linear(mapped, self.rows)


class NamedRows(Strategy):
    """The head is `FixedRows`; those of an experience's classes come when it begins.

    Args:
        rows: of what. prompt: the text of a name, which stands for the braces. language: a folder with an encoder.
        scale, cosine: of the logits. linear: whether there is a map before them. width: E of rows that are no names'.
    """

    needs = frozenset({"boundaries"})
    state: ClassVar[tuple[str, ...]] = ()
    parallel = True

    def __init__(
        self,
        rows: Rows,
        prompt: str,
        language: str,
        scale: float,
        cosine: bool,
        linear: bool | None,
        width: int | None,
    ) -> None:
        self.kind, self.prompt, self.reader = rows, prompt, language
        self.scale, self.cosine, self.linear, self.width = scale, cosine, linear, width

    def wrap(self, model: nn.Module) -> nn.Module:
        if "{}" not in self.prompt:
            raise ConfigError(f"lingo: the prompt takes a name at {{}}, which '{self.prompt}' does not hold.")
        size: int = model.feature_size  # type: ignore[assignment]
        self._all = (self._of_names(model) if self.kind == "names" else self._drawn(size)).to(self.run.device)
        wide = self._all.shape[1]
        learns = any(p.requires_grad for p in model.backbone.parameters())  # type: ignore[union-attr]
        linear: nn.Module = nn.Identity()
        if self.linear or wide != size:
            made: Any = nn.utils.skip_init(nn.Linear, size, wide, bias=False, device=self.run.device)
            with torch.no_grad():
                if wide == size:
                    made.weight.copy_(torch.eye(size))  # so that it begins as if it were not there
                else:
                    bound = size**-0.5
                    made.weight.uniform_(-bound, bound, generator=self.run.rng("lingo"))
            linear = made
        elif not learns:
            raise IncompatibleError(
                "lingo trains an encoder towards rows that stay, and this one is frozen, so that nothing is left to be "
                "trained. Set linear=true for a linear map between them, or train the encoder."
            )
        replace_head(model, FixedRows((self.run.num_classes, wide), self.scale, linear, self.cosine))
        return model

    def _of_names(self, model: nn.Module) -> Tensor:
        """(C, E)"""
        names = self.run.benchmark.class_names
        if len(names) < self.run.num_classes:
            raise IncompatibleError(
                f"lingo tells classes by their names; {self.run.benchmark.name} names {len(names)} of "
                f"{self.run.num_classes}. rows=random, orthogonal or etf need none."
            )
        texts = [self.prompt.replace("{}", name.replace("_", " ")) for name in names]
        return F.normalize(said_of(texts, model, self.reader), dim=1)

    def _drawn(self, size: int) -> Tensor:
        """(C, E)"""
        many, rng = self.run.num_classes, self.run.rng("lingo")
        needed = {"random": 1, "orthogonal": many, "etf": many - 1}[self.kind]
        wide = self.width or max(size, needed)
        if wide < needed:
            raise ConfigError(
                f"lingo: rows={self.kind} of {many} classes take a width of {needed}; width={wide} was given."
            )
        if self.kind == "random" or many == 1:  # one vector is no frame
            return F.normalize(torch.randn((many, wide), generator=rng, device=rng.device), dim=1)
        return (orthogonal if self.kind == "orthogonal" else simplex)(many, wide, rng)

    def setup(self, run: Run) -> None:
        self.head = next(m for m in run.model.modules() if isinstance(m, FixedRows))

    def begin_experience(self, exp: Experience) -> None:
        self.head.rows[list(exp.classes)] = self._all[list(exp.classes)]


@register("lingo", family="training", paper="arXiv:2403.16124", tiny={"rows": "etf"})
def lingo(
    rows: Rows = "names",
    prompt: str = "a {}",
    language: File = "",
    scale: Positive = 16.0,
    cosine: bool = True,
    linear: bool | None = None,
    width: Count | None = None,
) -> Strategy:
    """LingoCL: the head's rows are what a language model says of the classes' names, and only the encoder is trained.

    Where names are alike rows are near each other, and no row moves when classes come that are like old ones. By itself
    it is fine-tuning towards such rows; it goes beside others, too, as in er+lingo. Rows of classes that have not come
    are not there. Whatever is well spread helps: compare rows=names with random and etf.

    Args:
        rows: names, by a language model; or, as controls, random, unit vectors; orthogonal ones; or etf, a simplex
            equiangular tight frame.
        prompt: what the language model reads, with the name at the braces.
        language: a folder with an encoder that transformers has saved; by default the model's own, as it is before
            training, where it reads texts, and minilm where it does not.
        scale: s of the logits s · cos(φ, w).
        cosine: scale features to length 1; without, logits are s · φ w.
        linear: learn a linear map between features and rows; by default where their widths differ. One between equal
            widths begins as the identity.
        width: of rows that are no names'; by default that of the features, or more where so many rows need it.

    Reference: Ni, Wei, Tang, Zhuang, Tian, "Enhancing Visual Continual Learning with Language-Guided Supervision", CVPR
    2024, arXiv:2403.16124.

    Differences from the paper:
        1. There is no code of the authors. Scale and prompt are not the paper's; a scale is needed, as cosines alone
           keep the loss of ten classes above ln(1 + 9 / e²) = 0.797.
        2. On texts the language model is the encoder that is trained, as it was before.
    """
    return chain(
        NamedRows(rows, prompt, language, scale, cosine, linear, width), GrowingHead(), CrossEntropy()
    )
