"""Text as rows of tokens of one length: words and pieces of words, by the tokenizers library.

Token 0 fills up what is shorter, so that it also stands for the end of a text; 1 is what the vocabulary lacks.
Imports nothing heavy at the top.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clbench.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

PAD = 0
"""The token that fills up, in every tokenizer of clbench's and in T5's."""
UNKNOWN = 1
"""What the vocabulary lacks, in tokenizers that `fit_tokenizer` made."""

_SPECIAL = ["[PAD]", "[UNK]"]


class Tokenizer:
    """Between texts and rows of tokens.

    Args:
        inner: a tokenizer of the tokenizers library whose token 0 is the one that fills up.

    Attributes:
        size: V, how many tokens there are; ids are 0 … V − 1.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.size: int = inner.get_vocab_size()

    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """Texts → (N, length) int64: their first `length` tokens, then 0."""
        if not texts:
            return torch.zeros((0, length), dtype=torch.int64)
        self._inner.enable_truncation(length)
        try:
            found = self._inner.encode_batch_fast(list(texts))
        finally:
            self._inner.no_truncation()
        tokens = np.full((len(texts), length), PAD, dtype=np.int64)
        for row, encoding in zip(tokens, found, strict=True):
            ids = encoding.ids
            row[: len(ids)] = ids
        return torch.from_numpy(tokens)

    def decode(self, ids: Tensor) -> list[str]:
        """(N, L) → N texts, without what fills up and what was unknown."""
        texts: list[str] = self._inner.decode_batch(ids.tolist(), skip_special_tokens=True)
        return texts

    def token(self, piece: str) -> int | None:
        """Return the token of a piece of text as it stands in the vocabulary; None if there is none."""
        found: int | None = self._inner.token_to_id(piece)
        return found

    def to_json(self) -> str:
        """Return all that determines it; equal tokenizers have equal texts."""
        text: str = self._inner.to_str()
        return text

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """Return the tokenizer of `to_json`, or of a file tokenizer.json.

        Raises:
            DataError: the text describes no tokenizer, or one whose token 0 does not fill up.
        """
        try:
            inner = library().Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more special
            raise DataError(f"This is not the JSON of a tokenizer: {error}.") from error
        padding = json.loads(text).get("padding")
        fills = padding["pad_id"] if padding else PAD
        special = {token["id"]: token["content"] for token in json.loads(text).get("added_tokens", ())}
        if fills != PAD or PAD not in special:
            raise DataError(
                "The tokenizer's token 0 must be the one that fills up, as in T5's and in clbench's own; "
                f"here token {fills} fills up, and its special tokens are {special}."
            )
        inner.no_padding()
        inner.no_truncation()
        return Tokenizer(inner)


def fit_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer of lower-cased words and pieces of words, the most frequent ones of some texts.

    The pieces are those of byte-pair encoding (Sennrich et al., arXiv:1508.07909), learned within words and
    punctuation; accents are dropped. Deterministic.

    Args:
        texts: to learn from.
        vocabulary: V at most; fewer where the texts give no more pieces.

    Raises:
        ValueError: a vocabulary that cannot hold the two special tokens and one more.
    """
    if vocabulary <= len(_SPECIAL):
        raise ValueError(
            f"a vocabulary of {vocabulary} tokens holds nothing beyond {', '.join(_SPECIAL)}; give it some thousand"
        )
    made = library()
    split = made.pre_tokenizers
    inner = made.Tokenizer(made.models.BPE(unk_token="[UNK]"))
    inner.normalizer = made.normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = split.Sequence([split.Metaspace(), split.Punctuation()])
    inner.decoder = made.decoders.Metaspace()
    # Not WordPiece: its trainer numbers pieces in the order of a hash map, which is another in every call.
    trainer = made.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=_SPECIAL, min_frequency=2, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a file tokenizer.json, or of a folder that holds one, such as a checkpoint's of T5.

    Raises:
        DataError: there is no such file, or it holds no tokenizer.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"There is no tokenizer at {file}; a file tokenizer.json is read, nothing else.")
    return Tokenizer.from_json(file.read_text(encoding="utf-8"))


def read_tokenizer(folder: Path) -> Any:
    """Return the library's own tokenizer of the tokenizer.json that a pretrained encoder's folder holds, not padding.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{folder} holds no tokenizer.json, which says what the encoder's tokens are. transformers writes it: "
            f"AutoTokenizer.from_pretrained(NAME).save_pretrained({str(folder)!r})."
        )
    try:
        made = library().Tokenizer.from_file(str(path))
    except Exception as error:  # what its Rust code raises is a bare Exception
        raise DataError(f"{path} is damaged or no tokenizer: {error}.") from error
    made.no_padding()
    return made


def library() -> Any:
    """Return the tokenizers library, told to start no threads."""
    # Its threads would make it warn in every process that is forked later; texts are few.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers
