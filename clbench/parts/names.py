"""Classes by their names: what an image shows is compared with what a class is called, by a dual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.models import make_model
from clbench.models.clip import DualEncoder, Tokens
from clbench.models.encoders import TextClassifier
from clbench.strategy import Strategy
from clbench.types import MASKED, Experience

SCALE = 100.0
"""What cosines are multiplied by, as in CLIP."""
EARLIER = -9999.0
"""Logit of earlier experiences' classes in training, as in the code of CPE-CLIP; its softmax is 0."""


class NamesHead(nn.Module):
    """Image embeddings (B, E) of length 1 → (B, C) logits: 100 · cos to the embedding of each class's name.

    In train mode only the present experience's classes have cosines: earlier ones have the constant −9999, which takes
    no pass of their texts and gives them no gradient. In eval mode all seen ones do. Classes to come are `MASKED`.

    Args:
        encoder: has `text(tokens)` → (n, E); it stays the backbone's, so this head has no parameters.
        tokens: the names of all classes, as tokens.
    """

    ids: Tensor
    mask: Tensor

    def __init__(self, encoder: nn.Module, tokens: Tokens) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that its parameters are not registered twice
        self.register_buffer("ids", tokens[0], persistent=False)
        self.register_buffer("mask", tokens[1], persistent=False)
        self.tell((), ())

    def tell(self, present: Sequence[int], seen: Sequence[int]) -> None:
        """Tell which classes the present experience has, and which ones came up to now, those included."""
        earlier = [c for c in seen if c not in set(present)]
        device = self.ids.device
        self._present, self._seen, self._earlier = (
            torch.tensor(classes, dtype=torch.int64, device=device) for classes in (present, seen, earlier)
        )
        self._kept = _Kept()
        encoder: Any = self._encoder[0]
        self._learns = any(t.requires_grad for t in encoder.text_sources())

    def forward(self, features: Tensor) -> Tensor:
        """(B, E) → (B, C), float32."""
        logits = torch.full((len(features), len(self.ids)), MASKED, device=features.device)
        classes = self._present if self.training else self._seen
        if self.training:
            logits = logits.index_fill(1, self._earlier, EARLIER)
        if not len(classes):
            return logits
        cosines = features.float() @ self._texts(classes).float().T
        return logits.index_copy(1, classes, SCALE * cosines.float())

    def _texts(self, classes: Tensor) -> Tensor:
        """Return the embeddings (n, E) of these classes' names, computed anew only where they can have changed."""
        encoder: Any = self._encoder[0]
        if self._learns and torch.is_grad_enabled():
            learned: Tensor = encoder.text((self.ids[classes], self.mask[classes]))
            return learned
        half = torch.is_autocast_enabled(classes.device.type)
        key = (self.training, half, *((id(t), t._version) for t in encoder.text_sources()))
        if self._kept.texts is None or self._kept.key != key:
            self._kept.key = key
            self._kept.texts = encoder.text((self.ids[classes], self.mask[classes]))
        return self._kept.texts


class _Kept:
    """Text embeddings and what they were computed from; a copy of the model begins without."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.texts: Tensor | None = None

    def __deepcopy__(self, memo: object) -> _Kept:
        return _Kept()


class ByName(Strategy):
    """Classes are told by their names: the head is a `NamesHead` on the dual encoder."""

    needs = frozenset({"boundaries"})
    architecture = "clip"
    state: ClassVar[tuple[str, ...]] = ("present", "seen")

    def wrap(self, model: nn.Module) -> nn.Module:
        encoder, names = dual_encoder(model, self), self.run.benchmark.class_names
        if len(names) < self.run.num_classes:
            raise IncompatibleError(
                f"{self} tells classes by their names; {self.run.benchmark.name} names {len(names)} of "
                f"{self.run.num_classes}."
            )
        transform = self.run.benchmark.transform
        encoder.expects(transform.mean, transform.std)
        self.present: list[int] = []
        self.seen: list[int] = []
        model.backbone = self.put_into(encoder).to(self.run.device)
        tokens = encoder.tokenise([f"{name.replace('_', ' ')}." for name in names])
        self.head = NamesHead(model.backbone, tokens).to(self.run.device)
        model.head = self.head
        return model

    def put_into(self, encoder: DualEncoder) -> nn.Module:
        """Return what stands in place of the encoder: images → embeddings, and `text`."""
        return encoder

    def begin_experience(self, exp: Experience) -> None:
        self.present = list(exp.classes)
        self.seen = sorted({*self.seen, *exp.classes})
        self.head.tell(self.present, self.seen)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.head.tell(self.present, self.seen)


def dual_encoder(model: nn.Module, part: Strategy) -> DualEncoder:
    """Return the dual encoder that is the model's backbone.

    Raises:
        IncompatibleError: it is none.
    """
    if not isinstance(model.backbone, DualEncoder):
        raise IncompatibleError(
            f"{part} compares images with names of classes, by a dual encoder such as model=clip or model=toy-clip; "
            f"the backbone is a {type(model.backbone).__name__}."
        )
    return model.backbone


def said_of(texts: Sequence[str], model: nn.Module, folder: str = "") -> Tensor:
    """Return what an encoder of texts says of some, (N, E).

    Args:
        texts: N of them.
        model: asked if it reads texts and no folder is given; else minilm is.
        folder: with an encoder that transformers has saved.
    """
    reader = model
    if folder or not isinstance(model, TextClassifier):
        known = {"name": "hf", "folder": folder} if folder else {"name": "minilm"}
        with torch.random.fork_rng(devices=[]):  # its head, which nobody asks, is drawn
            reader = make_model(input_shape=(1,), num_classes=2, **known)
    said: Tensor = reader.embed(texts)  # type: ignore[operator]
    return said
