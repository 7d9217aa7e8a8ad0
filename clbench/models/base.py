"""A network as strategies see it: a backbone and a head. Shapes: B examples of a batch, C classes, D features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from clbench.types import Output

if TYPE_CHECKING:
    from clbench.types import Benchmark


class Reading(Protocol):
    """What makes tokens of texts.

    Attributes:
        told: what is lost of them, in a sentence; empty if nothing is.
    """

    told: str

    def __call__(self, x: Tensor) -> Tensor:
        """(B, L) bytes → (B, T) tokens."""
        ...


class Classifier(nn.Module):
    """A backbone and a head.

    Args:
        backbone: (B, …) → (B, D).
        feature_size: D.
        num_classes: C, all classes of the stream; who trains masks those not seen yet, the model does not.

    Attributes:
        head: (B, D) → (B, C), linear with bias; a strategy may put another one in its place, which may be a `Head`.
        passes: forward passes through the backbone that the features of an example take, for the budget.
        crops: that it leaves out pixels of its images on purpose; otherwise it is refused if it does.
        language: that it says of every token of a block what comes next: features (B, L, D), logits (B, L, C).
    """

    passes: int = 1
    crops: bool = False
    language: bool = False

    def __init__(self, backbone: nn.Module, feature_size: int, num_classes: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.num_classes = num_classes
        self.backbone = backbone
        self.head: nn.Module = nn.Linear(feature_size, num_classes)

    def prepare(self, benchmark: Benchmark) -> None:
        """Take from a benchmark what the model must know of it, once, before a strategy wraps the model."""

    def reading(self, pools: Sequence[Tensor]) -> Reading | None:
        """Return what makes tokens of a benchmark's texts, and take up these pools of them, each (N, L) bytes
        (`clbench.transforms.utf8`); None if the model reads no texts."""
        return None

    def ahead(self, x: Tensor, learning: Collection[str]) -> Tensor:
        """Return what single examples of a batch begin with, where gradients are taken of each apart (`torch.vmap`).

        That is x itself, unless the network sees a batch as a whole, or has parts that are asked once.

        Args:
            x: (B, …) inputs.
            learning: names of the parameters whose gradients are wanted.

        Returns:
            Tensor: (B, …) from which the network computes what it does from x.
        """
        return x

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D)."""
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C) logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


@runtime_checkable
class Head(Protocol):
    """What the core asks of a head; a module that lacks it, such as a linear layer, is a `Scorer` (`head_of`).

    A head that derives from it begins as a scorer of all classes, and writes what it does otherwise.

    Attributes:
        on_request: that scoring every class is costly, so that the logits of `output` wait until they are asked for.
        recordable: that a GPU may record what it does in a step (`Strategy.capturable`).
        in_float32: that it stays in float32 where evaluation computes in fewer bits: scores of few bits are often
            equal, and equal ones name no class.
    """

    on_request: bool = False
    recordable: bool = True
    in_float32: bool = True

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C) logits of every class."""
        raise NotImplementedError

    def admit(self, classes: Sequence[int]) -> None:
        """Name these classes and no others from now on; a scorer leaves that to who compares its scores."""
        return

    def output(self, features: Tensor, within: Callable[[], AbstractContextManager[object]]) -> Output:
        """Say of features (B, D) how probable the classes are, for a loss.

        Args:
            within: makes the context, autocast for one, that every computation needs, now or on request.
        """
        with within():
            logits = self(features)
        return Output(logits.float(), features)

    def predict(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C) scores by which to classify."""
        return self(features)


@dataclass(frozen=True)
class Scorer(Head):
    """A module as a head that scores every class at once, and may name any."""

    module: nn.Module

    def __call__(self, features: Tensor) -> Tensor:
        logits: Tensor = self.module(features)
        return logits


def head_of(model: nn.Module) -> Head:
    """Return the head of a network; one that has none, as a foreign loop's may, counts as a scorer itself."""
    head = getattr(model, "head", model)
    return head if isinstance(head, Head) else Scorer(head)
