"""Prompts in a frozen transformer, of images or of texts: the one place where they enter it.

A prompt is some rows that are learned while the transformer stays as it is. They enter in three ways, for each example
its own, and a method may mix them:

- as a *prefix* of a block: rows that its attention meets among the keys and the values, after their projection. No
  query is formed for them, so a block keeps its N tokens.
- as *tokens* of a block: they join the sequence before the block and are dropped after it.
- as *tokens at the start*: they join the embedded patches or words and stay to the last block.

Shapes: B images or texts of a batch, N tokens, D their width, m rows of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.machine.caching import once
from clbench.parts.blocks import Blocks, Readout, Tokens, transformer_of
from clbench.strategy import Strategy
from clbench.types import Experience


@dataclass(frozen=True)
class Prompts:
    """What enters a transformer, for each image or text its own rows.

    Attributes:
        prefixes: block → keys (B, m, D) and values (B, m, D).
        projected: whether they are keys and values as they are; if not, the block's projection makes them so, of rows
            beside its normalised tokens.
        tokens: block → (B, m, D).
        start: (B, m, D), from the first block to the last.
        placed: whether those at the start get the class token's position embedding, where it has one; before an
            encoder of texts, they are then embedded as its first token is.
        note: (B, k) columns that the features carry for the head and for losses, after the feature itself.
    """

    prefixes: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    projected: bool = True
    tokens: Mapping[int, Tensor] = field(default_factory=dict)
    start: Tensor | None = None
    placed: bool = False
    note: Tensor | None = None

    def of(self, rows: Tensor | slice) -> Prompts:
        """Return those of some examples of the batch."""
        if isinstance(rows, slice):
            return self
        prefixes = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.prefixes.items()}
        tokens = {layer: joining[rows] for layer, joining in self.tokens.items()}
        start = None if self.start is None else self.start[rows]
        return replace(self, prefixes=prefixes, tokens=tokens, start=start)


class Prompter(nn.Module):
    """Holds what is learned, and says which prompts an image or a text gets.

    Attributes:
        passes: forward passes that a query costs, for the budget; 0 where none is asked.
        readout: what the head sees.
    """

    passes = 1
    readout: Readout = "token"

    def query(self, blocks: Blocks, x: Tensor) -> Tensor:
        """(B, D) what the transformer says of inputs (B, …) without prompts, the final norm included.

        It depends on nothing that is learned: evaluation asks it `once` for each test image.
        """
        return blocks.ask(x)

    def forward(self, query: Tensor) -> Prompts:
        """Return the prompts of examples with these queries (B, D), which are float32 in any precision below it.

        In train mode those for training, which may know the present experience; in eval mode those for prediction.
        """
        raise NotImplementedError


class Prompted(nn.Module):
    """A frozen transformer with prompts: inputs (B, …) → features (B, D + k), the last k columns the prompts' note.

    The transformer is in eval mode whatever mode this is in.
    """

    def __init__(self, blocks: Blocks, prompter: Prompter) -> None:
        super().__init__()
        self.blocks = blocks
        self.inner = blocks.network.eval().requires_grad_(False)
        self.prompter = prompter

    def train(self, mode: bool = True) -> Prompted:
        """Prompts take the mode, the transformer stays in eval mode."""
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D + k)."""
        with torch.no_grad():
            query = once("query", self.inner, x, lambda rows: self.prompter.query(self.blocks, rows))
        with torch.autocast(x.device.type, enabled=False):  # so that a choice is the same wherever it is made
            prompts = self.prompter(query if query.dtype == torch.float64 else query.float())

        def features(x: Tensor, rows: Tensor | slice) -> Tensor:
            mine = prompts.of(rows)
            with torch.no_grad():
                tokens = self.blocks.embed(x)  # (b, N, D)
            states = through_blocks(self.blocks, tokens, mine)
            start = 0 if mine.start is None else mine.start.shape[1]
            return self.blocks.read(states, start, self.prompter.readout)

        feature = self.blocks.by_portion(x, features)
        return feature if prompts.note is None else torch.cat([feature, prompts.note], dim=1)


class FeatureHead(nn.Module):
    """A head that sees the first `size` columns of the features; those behind are for others."""

    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    @property
    def weight(self) -> Tensor:
        """(C, D) of the head inside."""
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        return weight

    def forward(self, features: Tensor) -> Tensor:
        """(B, D + k) → (B, C)."""
        logits: Tensor = self.inner(features[:, : self.size])
        return logits


class Prompting(Strategy):
    """Prompts and a head are trained, in a transformer that stays as it is to the bit.

    It is one of timm for images, or an encoder of texts like BERT (`clbench.parts.blocks`).

    Attributes:
        prompter: what is learned beside the head.
        size: D, the columns of `out.features` that are the feature; those behind are the prompts' note.
    """

    architecture = "vit"
    prompter: Prompter

    def make_prompter(self, blocks: Blocks) -> Prompter:
        """Return what is to be learned in this transformer; drawn from `self.run.rng`."""
        raise NotImplementedError

    def make_head(self, head: nn.Module) -> nn.Module:
        """Return the head to use in place of the model's."""
        return FeatureHead(head, self.size)

    def wrap(self, model: nn.Module) -> nn.Module:
        who = f"{self} puts prompts into the blocks"
        if isinstance(model.backbone, Prompted):
            raise IncompatibleError(
                f"{who} of a transformer; another part of the chain has done so already. Leave one of them out."
            )
        blocks = transformer_of(model, who)
        self.size = blocks.size
        self.prompter = self.make_prompter(blocks).to(self.run.device)
        self.prompted = Prompted(blocks, self.prompter)
        model.backbone = self.prompted
        model.head = self.make_head(model.head)  # type: ignore[arg-type]
        model.passes = 1 + self.prompter.passes  # type: ignore[assignment]
        return model

    def frozen(self) -> Mapping[str, Tensor]:
        return self.prompted.inner.state_dict()


class SlicedPrompter(Prompter):
    """A slice of prompts for each experience, each a parameter of its own, so that no optimizer moves the others.

    Attributes:
        current: the experience that is being learned; 0 before the first.
    """

    current = 0

    def slices(self) -> Mapping[str, Sequence[Tensor]]:
        """Return the slices of all experiences, by what they are."""
        raise NotImplementedError


class SlicedPrompting(Prompting):
    """The present experience's slice of the prompts is trained; the others stay as they are."""

    needs = frozenset({"boundaries"})
    state = ("current",)
    prompter: SlicedPrompter

    @property
    def current(self) -> int:
        """The experience that is being learned."""
        return self.prompter.current

    @current.setter
    def current(self, index: int) -> None:
        self.prompter.current = index

    def begin_experience(self, exp: Experience) -> None:
        self.current = exp.index

    def frozen(self) -> Mapping[str, Tensor]:
        """Return the transformer, and the slices of other experiences."""
        others = {
            f"{kind} {t}": values.detach()
            for kind, slices in self.prompter.slices().items()
            for t, values in enumerate(slices)
            if t != self.current
        }
        return {**super().frozen(), **others}


# --- the transformer ---


def through_blocks(blocks: Blocks, tokens: Tokens, prompts: Prompts) -> Tokens:
    """(B, N, D) what the first block sees → (B, m + N, D) after the last one, m tokens of the start first."""
    if prompts.start is not None:
        start = blocks.placed(prompts.start) if prompts.placed else prompts.start
        tokens = tokens.joined(start, first=True)
    n = tokens.x.shape[1]
    for layer in range(blocks.depth):
        seen, prefix = tokens, prompts.prefixes.get(layer)
        if layer in prompts.tokens:
            seen = seen.joined(prompts.tokens[layer], first=False)
        if prefix is not None and not prompts.projected:
            prefix = blocks.project(layer, *prefix)
        tokens = tokens.now(blocks.block(layer, seen, prefix)[:, :n])
    return tokens


# --- choosing ---


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """(B, M) cos(q_b, k_m) of queries (B, D) and keys (M, D)."""
    return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(…, m, D) rows of a prompt → the first half, its keys, and the second half, its values."""
    keys, values = rows.chunk(2, dim=-2)
    return keys, values


def as_prefixes(*prompts: tuple[int, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
    """Make keys and values of prompts, by block: rows (B, m, D) each, half of them keys and half values.

    A block with several prompts meets the keys of all, and then the values of all.
    """
    prefixes: dict[int, tuple[Tensor, Tensor]] = {}
    for layer, rows in prompts:
        prefix = halves(rows)
        if layer in prefixes:
            keys, values = zip(prefixes[layer], prefix, strict=True)
            prefix = torch.cat(keys, dim=1), torch.cat(values, dim=1)
        prefixes[layer] = prefix
    return prefixes
