"""A network as strategies see it: a backbone and a head. Shapes: B examples of a batch, C classes, D features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from clbench.types import Benchmark


class Classifier(nn.Module):
    """A backbone and a head.

    Args:
        backbone: (B, …) → (B, D).
        feature_size: D.
        num_classes: C, all classes of the stream; who trains masks those not seen yet, the model does not.

    Attributes:
        head: (B, D) → (B, C), linear with bias; a strategy may put another one in its place.
        passes: forward passes through the backbone that the features of an example take, for the budget.
        crops: that it leaves out pixels of its images on purpose; otherwise it is refused if it does.
    """

    passes: int = 1
    crops: bool = False

    def __init__(self, backbone: nn.Module, feature_size: int, num_classes: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.num_classes = num_classes
        self.backbone = backbone
        self.head: nn.Module = nn.Linear(feature_size, num_classes)

    def prepare(self, benchmark: Benchmark) -> None:
        """Take from a benchmark what the model must know of it, once, before a strategy wraps the model."""

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D)."""
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C) logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Spelling(nn.Module):
    """A head that spells a label piece by piece, so that scoring all of them is costly: it also scores on request.

    Calling it gives (B, C) log p(y|x) of all labels.

    Attributes:
        seen: (C,) bool, the labels that may be named.
    """

    seen: Tensor

    def log_prob(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, W) log p(y|x), float32, of the labels (B, W) that are asked for."""
        raise NotImplementedError

    def predict(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C) log p(y|x) of the likeliest labels, `MASKED` for the others."""
        raise NotImplementedError


def predicted(head: nn.Module, features: Tensor) -> Tensor:
    """(B, C) scores by which a head classifies features (B, D)."""
    if isinstance(head, Spelling):
        return head.predict(features)
    scores: Tensor = head(features)
    return scores
