"""Tokens of language models: characters, bytes, pairs of bytes, or those of a file tokenizer.json.

A document is its UTF-8 bytes. A tokenizer tells of every token how many characters and bytes of text it stands for, so
that losses per character are exact whatever the tokens are; the token between documents stands for none. A character
of several tokens is counted with the one that begins it.

Shapes: N tokens of a document, V of the vocabulary.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.errors import ConfigError, DataError, choices, suggest
from clbench.transforms.text import Tokenizer, library

Kind = Literal["characters", "bytes", "byte-pairs"]
"""Tokenizers that need no file."""
Ids = npt.NDArray[np.int32]

AT_ONCE = 1 << 20
"""Bytes that are made tokens of at a time; longer documents are cut, behind a line end where there is one."""
END = "<|endoftext|>"
"""The token between documents, in tokenizers that are trained here."""
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|endofdoc|>", "[EOS]", "<|eos|>", "[SEP]")
"""What is looked for in a file tokenizer.json, in this order."""
CODES = 0x110000
"""Of Unicode."""


class Tokens:
    """Between documents and tokens.

    Args:
        pieces: the bytes of each token, none of the one between documents; None where a token alone does not tell.
        end: the token between documents.
        size: V.

    Attributes:
        counted: whether a token alone tells its characters and bytes.
        characters, bytes: (V,) int64, how many characters and UTF-8 bytes of text a token stands for; 0 if not counted.
    """

    kind: str = ""

    def __init__(self, pieces: Sequence[bytes] | None, end: int, size: int) -> None:
        self.end, self.size = end, size
        self._pieces = pieces
        self.counted = pieces is not None
        told = pieces or [b""] * size
        self.characters, self.bytes = (torch.tensor(list(map(of, told))) for of in (characters_of, len))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.size} tokens>"

    def encode(self, document: bytes) -> Ids:
        """One document → (N,) int32, without the token that ends it."""
        found = [self._encode(chunk) for chunk in chunks(document)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _encode(self, text: bytes) -> Ids:
        raise NotImplementedError

    def decode(self, ids: Tensor) -> str:
        """(N,) → text; what is between documents is left out."""
        if self._pieces is None:
            raise NotImplementedError
        return b"".join([self._pieces[i] for i in ids.tolist()]).decode(errors="replace")

    def to_json(self) -> str:
        """Return all that determines it; equal tokenizers have equal texts."""
        raise NotImplementedError


AnyTokenizer = Tokenizer | Tokens


class Characters(Tokens):
    """A token for each character of a set; others are their UTF-8 bytes, a token each, so that nothing is lost.

    Args:
        characters: of the set.
        others: the bytes that other characters may consist of.
    """

    kind = "characters"

    def __init__(self, characters: str, others: bytes = b"") -> None:
        self._set, self._others = "".join(sorted(set(characters))), bytes(sorted(set(others)))
        pieces = [c.encode() for c in self._set] + [bytes([b]) for b in self._others]
        super().__init__([*pieces, b""], len(pieces), len(pieces) + 1)
        self._of_code = np.full(CODES, -1, dtype=np.int32)
        self._of_code[codes(self._set)] = np.arange(len(self._set), dtype=np.int32)
        self._of_byte = np.full(256, -1, dtype=np.int32)
        self._of_byte[list(self._others)] = len(self._set) + np.arange(len(self._others), dtype=np.int32)

    def _encode(self, text: bytes) -> Ids:
        of_character = self._of_code[codes(text.decode())]
        known = of_character >= 0
        if known.all():
            return of_character
        raw = np.frombuffer(text, dtype=np.uint8)
        begins = begin(raw)
        character = np.cumsum(begins) - 1  # of each byte
        whole = known[character]
        ids: Ids = np.where(whole, of_character[character], self._of_byte[raw])[begins | ~whole]
        if (ids < 0).any():
            at = int((~known).nonzero()[0][0])
            raise DataError(
                f"The character {text.decode()[at]!r} is not of the tokenizer's set, nor are its bytes."
            )
        return ids

    def outside(self, document: bytes) -> int:
        """Return how many characters of a document are not in the set."""
        return sum(int((self._of_code[codes(chunk.decode())] < 0).sum()) for chunk in chunks(document))

    def to_json(self) -> str:
        return json.dumps({"clbench": self.kind, "characters": self._set, "bytes": list(self._others)})


class Bytes(Tokens):
    """A token for each byte."""

    kind = "bytes"

    def __init__(self) -> None:
        super().__init__([*(bytes([b]) for b in range(256)), b""], 256, 257)

    def _encode(self, text: bytes) -> Ids:
        return np.frombuffer(text, dtype=np.uint8).astype(np.int32)

    def to_json(self) -> str:
        return json.dumps({"clbench": self.kind})


class Pieces(Tokens):
    """Those of a tokenizer of the tokenizers library.

    What a document says is text: the name of a special token in it is no special token.

    Args:
        text: its JSON, as in a file tokenizer.json.
        end: the name of the token between documents; one of `ENDS` if none is given.
        who: names it in messages.

    Raises:
        DataError: it is none, or has no such token.
    """

    kind = "pieces"

    def __init__(self, text: str, end: str | None = None, who: str = "The tokenizer") -> None:
        try:
            self._inner = library().Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more special
            raise DataError(f"{who} is not the JSON of a tokenizer: {error}.") from error
        self._inner.no_padding()
        self._inner.no_truncation()
        self._inner.encode_special_tokens = True
        vocabulary: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        found = [name for name in ([end] if end else ENDS) if name in vocabulary]
        if not found:
            special = [t.content for t in self._inner.get_added_tokens_decoder().values() if t.special]
            asked = f"no token '{end}'" if end else f"none of {', '.join(ENDS)}"
            raise DataError(
                f"{who} has {asked}; one token must stand between documents.{choices(end or END, special)} Name it by "
                "end=TOKEN."
            )
        self.name = found[0]
        size = max(vocabulary.values()) + 1
        super().__init__(self._bytes_of(json.loads(text), vocabulary, size), vocabulary[self.name], size)

    def _bytes_of(self, told: Any, vocabulary: dict[str, int], size: int) -> list[bytes] | None:
        """Return the bytes of each token, where it is made of bytes as GPT-2's are."""
        decoder = told.get("decoder") or {}
        if "ByteLevel" not in [decoder.get("type"), *(part["type"] for part in decoder.get("decoders", ()))]:
            return None
        of_letter, pieces = _byte_letters(), [b""] * size
        added = self._inner.get_added_tokens_decoder()
        for piece, i in vocabulary.items():
            if i in added:
                pieces[i] = b"" if added[i].special else piece.encode()
            elif any(letter not in of_letter for letter in piece):
                return None
            else:
                pieces[i] = bytes(of_letter[letter] for letter in piece)
        return pieces

    def _encode(self, text: bytes) -> Ids:
        (found,) = self._inner.encode_batch_fast([text.decode()], add_special_tokens=False)
        return np.array(found.ids, dtype=np.int32)

    def decode(self, ids: Tensor) -> str:
        if self._pieces is not None:
            return super().decode(ids)
        return str(self._inner.decode(ids.tolist(), skip_special_tokens=True))

    def uncounted(self) -> Pieces:
        """Return the same without the tables, for texts whose characters its tokens do not tell."""
        made = Pieces(self.tokenizer_json(), self.name)
        made._pieces, made.counted = None, False
        made.characters, made.bytes = (torch.zeros_like(table) for table in (made.characters, made.bytes))
        return made

    def to_json(self) -> str:
        return json.dumps(
            {"clbench": self.kind, "end": self.name, "tokenizer": json.loads(self.tokenizer_json())}
        )

    def tokenizer_json(self) -> str:
        """Return what a file tokenizer.json of it holds."""
        return str(self._inner.to_str())


def tokens_from_json(text: str) -> Tokens:
    """Return the tokenizer of `to_json`.

    Raises:
        DataError: the text describes none.
    """
    try:
        told = json.loads(text)
        kind = told["clbench"]
        if kind == Characters.kind:
            return Characters(told["characters"], bytes(told["bytes"]))
        if kind == Bytes.kind:
            return Bytes()
        if kind == Pieces.kind:
            return Pieces(json.dumps(told["tokenizer"]), told["end"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"This is not the JSON of a tokenizer: {error!r}.") from error
    raise DataError(f"There is no kind of tokenizer '{kind}'.")


def fit_characters(first: Iterable[bytes], others: Iterable[bytes] = ()) -> Characters:
    """Return the tokenizer whose set is the characters of some documents, with all printable ASCII in it.

    Args:
        others: further documents, whose other characters will be bytes.
    """
    used = np.zeros(CODES, dtype=bool)
    used[[9, 10, *range(32, 127)]] = True
    for document in first:
        for chunk in chunks(document):
            used[codes(chunk.decode())] = True
    outside = np.zeros(CODES, dtype=bool)
    for document in others:
        for chunk in chunks(document):
            outside[codes(chunk.decode())] = True
    strange = "".join(map(chr, (outside & ~used).nonzero()[0].tolist()))
    return Characters("".join(map(chr, used.nonzero()[0].tolist())), strange.encode())


def fit_pairs(documents: Iterable[bytes], vocabulary: int) -> Pieces:
    """Return a tokenizer of bytes and of what pairs of them come together most often in some documents.

    Byte-pair encoding of bytes, as GPT-2 has it (Sennrich et al., arXiv:1508.07909). Deterministic.

    Args:
        vocabulary: V at most; 257 are bytes and the token between documents.

    Raises:
        ConfigError: a vocabulary without room for a pair.
    """
    if vocabulary < 258:
        raise ConfigError(
            f"A vocabulary of {vocabulary} holds no pair of bytes: 256 are bytes, and one stands between documents; "
            "take 258 or more, or tokenizer=bytes."
        )
    made = library()
    inner = made.Tokenizer(made.models.BPE())
    inner.pre_tokenizer = made.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = made.decoders.ByteLevel()
    trainer = made.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(_byte_letters()),
        show_progress=False,
    )
    texts = (chunk.decode() for document in documents for chunk in chunks(document))
    inner.train_from_iterator(texts, trainer)
    return Pieces(inner.to_str(), END)


def load_pieces(path: str | Path, end: str | None = None) -> Pieces:
    """Return the tokenizer of a file tokenizer.json, or of a folder that holds one, such as that of a causal model.

    Raises:
        DataError: there is no such file, it holds no tokenizer, or no token that can stand between documents.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise DataError(
            f"There is no tokenizer at {file}; a tokenizer is characters, bytes or byte-pairs, or a file "
            f"tokenizer.json.{suggest(str(path), typing.get_args(Kind))}"
        )
    try:
        return Pieces(file.read_text(encoding="utf-8"), end, str(file))
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error.reason} at byte {error.start}.") from error


def chunks(document: bytes) -> Iterator[bytes]:
    """Yield a document in parts of `AT_ONCE` bytes at most, that end with a line where that can be."""
    start = 0
    while len(document) - start > AT_ONCE:
        stop = document.rfind(b"\n", start, start + AT_ONCE) + 1
        if stop <= start:
            stop = start + AT_ONCE
            while document[stop] & 0xC0 == 0x80:  # within a character
                stop -= 1
        yield document[start:stop]
        start = stop
    yield document[start:] if start else document


def codes(text: str) -> npt.NDArray[np.uint32]:
    """(N,) the numbers of characters."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def begin(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(N,) which bytes begin a character of UTF-8."""
    found: npt.NDArray[np.bool_] = (raw & 0xC0) != 0x80
    return found


def characters_of(document: bytes) -> int:
    """Return how many characters a document has, or begin in a part of one."""
    return int(begin(np.frombuffer(document, dtype=np.uint8)).sum())


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in vocabularies of byte pairs: itself where it can be seen, else of those
    from U+0100 on, in order."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(hidden)}
