"""A language model in a folder, as transformers reads it: one of its own, or clbench's decoder as the GPT-NeoX it is.

Shapes: B blocks, L tokens, D features, H heads, V tokens of the vocabulary.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.interop.export.folders import ADAPTER, TOKENIZER, Folder, write_adapter
from clbench.interop.export.plain import Plain
from clbench.machine.torchvision import torchvision
from clbench.models.decoders import Causal, Decoder
from clbench.models.folders import quiet_transformers, read_by_transformers
from clbench.parts.injection import is_turned
from clbench.transforms.tokens import Pieces

TOKENS = (
    'tokenizer = PreTrainedTokenizerFast(tokenizer_file="FOLDER/tokenizer.json")',
    'x = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids',
)
"""From a text to tokens."""


def language_folder(plain: Plain, engine: Engine, folder: Path) -> Folder:
    """Write a language model as AutoModelForCausalLM reads it, and its tokenizer where there is a tokenizer.json."""
    backbone, head = plain.backbone, plain.scores
    if head is None:
        raise IncompatibleError("A language model is exported with its head, which says what comes next.")
    tokenizer = engine.benchmark.tokenizer
    if isinstance(backbone, Causal):
        model = read_by_transformers("AutoModelForCausalLM", backbone.folder)
        model.base_model.load_state_dict(backbone.inner.state_dict())
        outputs = model.get_output_embeddings()
        trained = not torch.equal(outputs.weight, head.weight)
        outputs.weight.data.copy_(head.weight)
        for name in (*TOKENIZER, "tokenizer_config.json"):
            if (backbone.folder / name).is_file():
                shutil.copyfile(backbone.folder / name, folder / name)
        if plain.branches:
            below = model.base_model_prefix  # what theirs calls the network without its head
            named = {f"{below}.{path.removeprefix('inner.')}": pair for path, pair in plain.branches.items()}
            last = next(name for name, module in model.named_modules() if module is outputs)
            whole = {last: head.weight} if trained else {}
            turned = any(is_turned(model.get_submodule(path)) for path in named)
            write_adapter(named, folder / ADAPTER, str(backbone.folder), "CAUSAL_LM", whole, turned)
    else:
        assert isinstance(backbone, Decoder)
        model = neox(backbone, engine.input_shape[0])
        if isinstance(tokenizer, Pieces):
            (folder / "tokenizer.json").write_text(tokenizer.tokenizer_json(), encoding="utf-8")
    with quiet_transformers():
        model.save_pretrained(folder)
    texts = (folder / "tokenizer.json").is_file()

    def forward(x: Tensor, texts: Sequence[str]) -> Tensor:
        read = read_by_transformers("AutoModelForCausalLM", folder).eval()
        logits: Tensor = read(input_ids=x, use_cache=False).logits
        return logits

    return Folder(
        "transformers",
        (
            "import torch",
            f"from transformers import AutoModelForCausalLM{', PreTrainedTokenizerFast' * texts}",
        ),
        (
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            *(TOKENS if texts else ()),
            "with torch.no_grad():",
            "    logits = model(input_ids=x).logits",
        ),
        forward,
    )


def neox(decoder: Decoder, length: int) -> Any:
    """Return a decoder as transformers' GPTNeoXForCausalLM with the same weights, for blocks of so many tokens."""
    torchvision()  # transformers imports it, and it may not load by itself
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    first: Any = decoder.blocks[0]
    vocabulary, width = decoder.embed.weight.shape
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len(decoder.blocks),
        num_attention_heads=first.attn.heads,
        intermediate_size=first.fc1.out_features,
        hidden_act="gelu",
        max_position_embeddings=length,
        rope_parameters={"rope_type": "default", "rope_theta": first.attn.base, "partial_rotary_factor": 1.0},
        layer_norm_eps=first.norm1.eps,
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    made: Any = GPTNeoXForCausalLM(config)
    inner = made.base_model
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (inner.embed_in, decoder.embed),
        (inner.final_layer_norm, decoder.norm),
    ]
    for theirs, ours in zip(inner.layers, decoder.blocks, strict=True):
        block: Any = ours
        pairs += [
            (theirs.input_layernorm, block.norm1),
            (theirs.post_attention_layernorm, block.norm2),
            (theirs.attention.dense, block.attn.proj),
            (theirs.mlp.dense_h_to_4h, block.fc1),
            (theirs.mlp.dense_4h_to_h, block.fc2),
        ]
        # Theirs has queries, keys and values of one head after the other: (H, 3, D / H, D) in place of (3, H, …).
        apart = block.attn.qkv.weight.unflatten(0, (3, block.attn.heads, -1))
        theirs.attention.query_key_value.weight.data.copy_(apart.transpose(0, 1).flatten(0, 2))
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    return made
