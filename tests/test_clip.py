"""Dual encoders: what transformers saves is read as transformers reads it, and prompts enter where they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import make_model
from clbench.errors import ConfigError, DataError
from clbench.machine.torchvision import torchvision
from clbench.models.clip import Bert, Clip, ToyClip, padded, read_clip, read_sentences

TOWER = {"num_attention_heads": 2, "intermediate_size": 24, "hidden_act": "quick_gelu"}
CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 10,
    "text_config": {**TOWER, "hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 30},
    "vision_config": {
        **TOWER,
        "hidden_size": 12,
        "num_hidden_layers": 4,
        "num_channels": 3,
        "image_size": 8,
        "patch_size": 4,
    },
}
SENTENCES: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
WORDS = ("apple", "aquarium", "fish", "bear", ".", "boy")


def the_library() -> Any:
    """transformers, which imports torchvision, too."""
    torchvision()
    return pytest.importorskip("transformers")


def write_tokeniser(folder: Path) -> None:
    """Words to numbers, with a first and a last token, the last with the highest number."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[unk]": 0, **{word: i + 1 for i, word in enumerate(WORDS)}, "[s]": 28, "[e]": 29}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[unk]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[s] $A [e]", special_tokens=[("[s]", 28), ("[e]", 29)]
    )
    made.save(str(folder / "tokenizer.json"))


def write(folder: Path, config: dict[str, Any], module: nn.Module, **more: Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: t.contiguous() for name, t in module.state_dict().items()}
    save_file({**tensors, **more}, folder / "model.safetensors")
    write_tokeniser(folder)
    return folder


def random(module: nn.Module, seed: int = 0) -> Any:
    """The module with weights large enough to tell things apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return module.eval()


def letters(texts: Any) -> Any:
    return padded([[28, *(ord(c) % 27 for c in text), 29] for text in texts])


def a_clip(seed: int = 0) -> Clip:
    made: Clip = random(Clip(CONFIG, letters), seed)
    return made


# --- as transformers has it ---


def test_clip_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    transformers = the_library()
    config = transformers.CLIPConfig(
        text_config={**CONFIG["text_config"], "eos_token_id": 29, "bos_token_id": 28, "pad_token_id": 0},
        vision_config=CONFIG["vision_config"],
        projection_dim=10,
    )
    theirs = random(transformers.CLIPModel(config), seed=1)
    theirs.save_pretrained(tmp_path)
    write_tokeniser(tmp_path)
    ours = read_clip(tmp_path)
    x = torch.randn(5, 3, 8, 8)
    tokens = ours.tokenise(["apple.", "aquarium fish.", "boy bear fish."])
    assert tokens[0][1].tolist()[:5] == [28, 2, 3, 5, 29]
    with torch.no_grad():
        out = theirs(pixel_values=x, input_ids=tokens[0], attention_mask=tokens[1].long())
        assert torch.allclose(ours.image(x), out.image_embeds, atol=1e-5)
        assert torch.allclose(ours.text(tokens), out.text_embeds, atol=1e-5)
        scale = theirs.logit_scale.exp()
        assert torch.allclose(scale * ours.image(x) @ ours.text(tokens).T, out.logits_per_image, atol=1e-4)


def test_a_sentence_encoder_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    transformers = the_library()
    theirs = random(transformers.BertModel(transformers.BertConfig(**SENTENCES)), seed=2)
    theirs.save_pretrained(tmp_path)
    write_tokeniser(tmp_path)
    ours, tokenise = read_sentences(str(tmp_path))
    ids, mask = tokenise(["apple", "aquarium fish boy"])
    with torch.no_grad():
        states = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    mean = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    assert torch.allclose(ours((ids, mask)), mean, atol=1e-5)


# --- folders ---


def test_a_folder_makes_a_model(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip", CONFIG, a_clip(), logit_scale=torch.tensor(4.6))
    weights = str(folder / "model.safetensors")
    model = make_model("clip", (3, 8, 8), 5, weights=weights, folder="")  # as a run's configuration has it
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(model.features(x), a_clip().image(x))
    assert model(x).shape == (2, 5)
    assert model.features(torch.randn(2, 1, 32, 32)).shape == (2, 10)  # grey, and of another size


def test_a_toy_encoder_is_made_of_a_vit_and_a_sentence_encoder(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", SENTENCES, random(Bert(SENTENCES)))
    model = make_model(
        "toy-clip", (3, 8, 8), 5, text=str(folder), patch_size=4, embed_dim=8, depth=3, num_heads=2
    )
    encoder = model.backbone
    assert isinstance(encoder, ToyClip)
    assert (encoder.depth, encoder.text_width, encoder.image_width, encoder.size) == (2, 12, 8, 12)
    assert not any(p.requires_grad for p in encoder.bert.parameters())
    x, vit = torch.randn(2, 3, 8, 8), encoder.vit
    plain = F.normalize(encoder.visual_projection(vit.eval()(x)), dim=1)
    assert torch.allclose(model.features(x), plain, atol=1e-6)
    seen: list[int] = []
    for layer in vit.blocks:  # type: ignore[union-attr]
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1] - 5))
    prompts = torch.randn(2, 3, 8)
    by_mode = [encoder.image(x, prompts, mode) for mode in ("accumulate", "replace")]
    assert seen == [3, 6, 6, 3, 3, 3]
    assert not torch.allclose(by_mode[0], by_mode[1], atol=1e-3)
    assert torch.allclose(encoder.image(x[:1], prompts), by_mode[0][:1], atol=1e-6)


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder nowhere_at_all .*pip install --no-deps nowhere-at-all"):
        read_sentences("nowhere_at_all")
    with pytest.raises(ConfigError, match=r"model\.weights=FOLDER/model\.safetensors"):
        make_model("clip", (3, 8, 8), 5)
    folder = write(tmp_path / "clip", CONFIG, a_clip())
    with pytest.raises(ConfigError, match="holds a model of type 'clip'; 'bert' is needed"):
        read_sentences(str(folder))
    (folder / "pytorch_model.bin").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="Weights in other formats may run code"):
        read_clip(folder)
    write(folder, {**CONFIG, "projection_dim": 11}, a_clip())
    with pytest.raises(
        ConfigError, match=r"do not fit the folder's config\.json: 'text_projection.weight' differs"
    ):
        read_clip(folder)
    write(folder, CONFIG, a_clip())
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        read_clip(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        read_clip(folder)


def test_clips_normalisation_takes_the_place_of_the_benchmarks() -> None:
    clip, raw = a_clip(), torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    own_mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    own_std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    wanted = clip.image((raw - own_mean) / own_std)
    clip.expects((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    assert torch.allclose(clip.image((raw - mean) / std), wanted, atol=1e-5)
    clip.expects((), ())
    assert torch.allclose(clip.image(raw), wanted, atol=1e-5)


# --- prompts, against a forward pass written for these towers alone ---


def attention(layer: Any, x: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    B, n, W = x.shape
    q, k, v = (
        p(x).view(B, n, heads, -1).transpose(1, 2)
        for p in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    )
    weights = (q / (W // heads) ** 0.5 @ k.transpose(-1, -2) + bias).softmax(-1)
    return layer.self_attn.out_proj((weights @ v).transpose(1, 2).reshape(B, n, W))


def block(layer: Any, x: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    x = x + attention(layer, layer.layer_norm1(x), 2, bias)
    h = layer.mlp.fc1(layer.layer_norm2(x))
    return x + layer.mlp.fc2(h * torch.sigmoid(1.702 * h))


def image_by_hand(clip: Any, x: Tensor, P: Tensor, mode: str) -> tuple[Tensor, list[int]]:
    tower = clip.vision_model
    patches = F.conv2d(x, tower.embeddings.patch_embedding.weight, stride=4).flatten(2).transpose(1, 2)
    x = torch.cat([tower.embeddings.class_embedding.repeat(len(x), 1, 1), patches], 1)
    x = x + tower.embeddings.position_embedding(torch.arange(x.shape[1]))
    n, L = x.shape[1], P.shape[1]
    x = tower.pre_layrnorm(torch.cat([x, P[0].repeat(len(x), 1, 1)], 1))
    counts = []
    for i, layer in enumerate(tower.encoder.layers):
        if 0 < i < len(P):
            if mode == "replace":
                x = x[:, :n]
            x = torch.cat([x, P[i].repeat(len(x), 1, 1)], 1)
        counts.append(x.shape[1] - n)
        x = block(layer, x)
    del L
    y = tower.post_layernorm(x[:, 0]) @ clip.visual_projection.weight.T
    return y / y.norm(dim=1, keepdim=True), counts


def text_by_hand(clip: Any, names: list[str], G: Tensor) -> Tensor:
    """One text after the other, without padding."""
    tower, L, out = clip.text_model, G.shape[1], []
    for name in names:
        ids = letters([name])[0]
        e = tower.embeddings.token_embedding(ids)
        x = torch.cat([e[:, :1], G[0][None], e[:, 1:]], 1)
        x = x + tower.embeddings.position_embedding(torch.arange(x.shape[1]))
        causal = torch.full((x.shape[1],) * 2, float("-inf")).triu(1)
        for i, layer in enumerate(tower.encoder.layers):
            if 0 < i < len(G):
                x = torch.cat([x[:, :1], G[i][None], x[:, 1 + L :]], 1)
            x = block(layer, x, causal)
        y = tower.final_layer_norm(x)[0, ids.argmax() + L] @ clip.text_projection.weight.T
        out.append(y / y.norm())
    return torch.stack(out)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("mode", ["accumulate", "replace"])
def test_prompts_enter_the_image_tower(mode: Any, seed: int) -> None:
    clip, x, P = a_clip(seed), torch.randn(3, 3, 8, 8), torch.randn(3, 2, 12)
    seen: list[int] = []
    for layer in clip.vision_model.encoder.layers:  # type: ignore[union-attr]
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1] - 5))
    wanted, counts = image_by_hand(clip, x, P, mode)
    found = clip.image(x, P, mode)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert seen == counts == ([2, 4, 6, 6] if mode == "accumulate" else [2, 2, 2, 2])
    assert not torch.allclose(found, clip.image(x), atol=1e-2)


@pytest.mark.parametrize("seed", [0, 7])
def test_prompts_enter_the_text_tower(seed: int) -> None:
    clip, G, names = a_clip(seed), torch.randn(3, 2, 8), ["ab.", "longer name.", "c."]
    seen: list[int] = []
    for layer in clip.text_model.encoder.layers:  # type: ignore[union-attr]
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    found = clip.text(letters(names), G)
    assert torch.allclose(found, text_by_hand(clip, names, G), atol=1e-6)
    assert (
        seen == [len("longer name.") + 4] * 3
    )  # its tokens, a first and a last one, two prompts; at every layer
    with pytest.raises(ConfigError, match="A text has 80 tokens, prompts included; the model takes 77"):
        clip.text(letters(["x" * 76]), G)


def test_prompts_enter_a_sentence_encoder() -> None:
    """Padding and prompts are no part of the mean, and names do not depend on each other."""
    bert, G = random(Bert(SENTENCES)), torch.randn(2, 2, 12)
    together = bert(letters(["ab.", "abcdefg."]), G)
    alone = torch.cat([bert(letters([name]), G) for name in ("ab.", "abcdefg.")])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together, bert(letters(["ab.", "abcdefg."])), atol=1e-2)
