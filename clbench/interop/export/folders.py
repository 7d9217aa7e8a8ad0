"""A plain network in a folder, as transformers, timm, peft or clbench alone reads it. Safetensors and JSON only.

Shapes: B examples, C classes, D features.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.engine.engine import Engine
from clbench.files import pretty_json, read_json
from clbench.interop.export.plain import Plain, Scores
from clbench.models.clip import Clip
from clbench.models.encoders import TextClassifier
from clbench.models.exported import load_model
from clbench.models.texts import Pretrained, transformer
from clbench.models.timm import timm_library

WEIGHTS, HEAD, ADAPTER = "model.safetensors", "head.safetensors", "adapter"
TOKENIZER = (
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files of a tokenizer that are copied as they are."""
MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"

Forward = Callable[[Tensor, Sequence[str]], Tensor]
"""Inputs (B, …) as the network gets them, and as texts if they are some → what the folder gives for them."""


@dataclass(frozen=True)
class Folder:
    """What was written.

    Attributes:
        library: that reads it. imports, lines: of Python, with `FOLDER` for its place, that compute `logits` (or
            `features`, without a head) of `texts` or of `x`. forward: the same, by the library.
    """

    library: str
    imports: tuple[str, ...]
    lines: tuple[str, ...]
    forward: Forward


def written(plain: Plain, engine: Engine, folder: Path) -> list[Callable[[], Folder]]:
    """Return the ways to write a network into a folder, the best first; one may not give what the network does."""
    if isinstance(plain.backbone, Pretrained):
        return [lambda: transformers_folder(plain, engine, folder)]
    if isinstance(plain.backbone, Clip):
        return [lambda: clip_folder(plain, engine, folder)]
    if hasattr(plain.backbone, "made_with"):
        ways = [True, False] if plain.scores is not None and plain.scores.eps is None else [False]
        return [lambda one=one: timm_folder(plain, engine, folder, one) for one in ways]  # type: ignore[misc]
    return [lambda: own_folder(plain, engine, folder)]


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, each with bytes of its own."""
    from safetensors.torch import save as to_bytes

    path.parent.mkdir(exist_ok=True)
    copies = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    path.write_bytes(to_bytes(copies, metadata={"format": "pt"}))


def save_head(scores: Scores | None, folder: Path) -> None:
    """Write a head that no other file has."""
    if scores is not None:
        save({"weight": scores.weight, "bias": scores.bias}, folder / HEAD)


def head_lines(scores: Scores | None) -> list[str]:
    """Return Python from features to logits."""
    if scores is None:
        return []
    over = f"features = features / (features.norm(dim=1, keepdim=True) + {scores.eps})"
    lines = [] if scores.eps is None else [over]
    return [*lines, f'logits = torch.nn.functional.linear(features, **load_file("FOLDER/{HEAD}"))']


# --- texts ---


def transformers_folder(plain: Plain, engine: Engine, folder: Path) -> Folder:
    """Write an encoder of transformers as AutoModel, AutoTokenizer and sentence-transformers read it, and a head."""
    encoder: Any = plain.backbone
    labels = labels_of(engine)
    network = encoder.inner
    network.config.id2label, network.config.label2id = (
        dict(enumerate(labels)),
        {n: i for i, n in enumerate(labels)},
    )
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)
    save(network.state_dict(), folder / WEIGHTS)
    _write_tokenizer(encoder, folder)
    modules = ["Transformer", "Pooling", *(["Normalize"] if encoder.unit else [])]
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(modules)
    ]
    ways = {f"pooling_mode_{way}": name == encoder.pooling for way, name in POOLING.items()}
    pooling = {"word_embedding_dimension": network.config.hidden_size, **ways}
    for name, tree in (
        ("modules.json", listed),
        ("sentence_bert_config.json", {"max_seq_length": encoder.length, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(pretty_json(tree), encoding="utf-8")
    if encoder.unit:
        (folder / "2_Normalize").mkdir()
    save_head(plain.scores, folder)
    if plain.branches:
        base = MINILM_NAME if engine.config.model.name == "minilm" else str(encoder.folder)
        write_adapter(plain.branches, folder / ADAPTER, base, "FEATURE_EXTRACTION")

    def forward(x: Tensor, texts: Sequence[str]) -> Tensor:
        from transformers import AutoTokenizer

        model = transformer(folder, read_json(folder / "config.json"))
        tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        given = dict(tokens(list(texts), padding=True, truncation=True, return_tensors="pt"))
        features = encoder.pooled(model(**given).last_hidden_state, given["attention_mask"])
        features = F.normalize(features, dim=1) if encoder.unit else features
        return features if plain.scores is None else plain.scores(features)

    with_head = [] if plain.scores is None else ["from safetensors.torch import load_file"]
    pooled = {
        "mean": [
            'there = tokens["attention_mask"].unsqueeze(2)',
            "features = (states * there).sum(1) / there.sum(1)",
        ],
        "cls": ["features = states[:, 0]"],
    }[encoder.pooling]
    return Folder(
        "transformers",
        ("import torch", *with_head, "from transformers import AutoModel, AutoTokenizer"),
        (
            'model, tokenizer = AutoModel.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")',
            'tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")',
            "with torch.no_grad():",
            "    states = model(**tokens).last_hidden_state",
            *pooled,
            *(["features = torch.nn.functional.normalize(features, dim=1)"] if encoder.unit else []),
            *head_lines(plain.scores),
        ),
        forward,
    )


POOLING = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "", "mean_sqrt_len_tokens": ""}
"""How sentence-transformers calls ways of pooling, and ours."""


def _write_tokenizer(encoder: Pretrained, folder: Path) -> None:
    """Copy an encoder's tokenizer, which cuts texts where the run did."""
    from clbench.transforms.text import read_tokenizer

    for name in TOKENIZER:
        if (encoder.folder / name).is_file():
            shutil.copyfile(encoder.folder / name, folder / name)
    path = encoder.folder / "tokenizer_config.json"
    says = read_json(path) if path.is_file() else {"tokenizer_class": "PreTrainedTokenizerFast"}
    says.setdefault("pad_token", read_tokenizer(encoder.folder).id_to_token(encoder.pad))
    says["model_max_length"] = encoder.length
    (folder / path.name).write_text(pretty_json(says), encoding="utf-8")


# --- images ---


def timm_folder(plain: Plain, engine: Engine, folder: Path, whole: bool) -> Folder:
    """Write a network of timm as `timm.create_model("local-dir:…")` reads it.

    Args:
        whole: with its head; otherwise that is a file beside it.
    """
    timm, backbone = timm_library(), plain.backbone
    made = dict(backbone.made_with)  # type: ignore[arg-type]
    name, labels = str(made.pop("name")), labels_of(engine)
    network: Any = copy.deepcopy(backbone)
    network._forward_pre_hooks.clear()
    if whole:
        assert plain.scores is not None
        network.reset_classifier(len(labels))
        head = network.get_classifier()
        if not isinstance(head, nn.Linear) or head.weight.shape != plain.scores.weight.shape:
            return timm_folder(plain, engine, folder, False)
        head.weight.data, head.bias.data = plain.scores.weight, plain.scores.bias
    else:
        save_head(plain.scores, folder)
    transform, shape = engine.benchmark.transform, tuple(made.get("img_size") or engine.input_shape[1:])
    says = {key: value for key, value in network.pretrained_cfg.items() if key in KEPT and _is_json(value)}
    says |= {"input_size": [made["in_chans"], *shape], "crop_pct": 1.0, "num_classes": network.num_classes}
    says |= {"mean": list(transform.mean or (0.0,)), "std": list(transform.std or (1.0,))}
    config = {
        "architecture": name,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "label_names": labels,
        "model_args": made,
        "pretrained_cfg": says,
    }
    save(network.state_dict(), folder / WEIGHTS)
    (folder / "config.json").write_text(pretty_json(config), encoding="utf-8")
    if plain.branches:
        write_adapter(plain.branches, folder / ADAPTER, name, None)

    def forward(x: Tensor, texts: Sequence[str]) -> Tensor:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        features = model(x if plain.sides is None else F.pad(x, plain.sides))
        return features if whole or plain.scores is None else plain.scores(features)

    out = "logits" if whole else "features"
    with_head = () if whole or plain.scores is None else ("from safetensors.torch import load_file",)
    pad = () if plain.sides is None else (f"x = torch.nn.functional.pad(x, {plain.sides})",)
    return Folder(
        "timm",
        ("import timm", "import torch", *with_head),
        (
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
            *pad,
            "with torch.no_grad():",
            f"    {out} = model(x)",
            *([] if whole else head_lines(plain.scores)),
        ),
        forward,
    )


def clip_folder(plain: Plain, engine: Engine, folder: Path) -> Folder:
    """Write CLIP's image tower as transformers reads it, and a head. The text tower stays where it came from."""
    clip, source = plain.backbone, Path(str(engine.config.model.weights))
    assert isinstance(clip, Clip)
    says = {**read_json(source / "config.json").get("vision_config", {}), "projection_dim": clip.size}
    says |= {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"}
    towers = ("vision_model.", "visual_projection.")
    save({k: v for k, v in clip.state_dict().items() if k.startswith(towers)}, folder / WEIGHTS)
    (folder / "config.json").write_text(pretty_json(says), encoding="utf-8")
    save_head(plain.scores, folder)
    if plain.branches:
        write_adapter(plain.branches, folder / ADAPTER, str(source), None)
    factor, shift = clip.factor.flatten().tolist(), clip.shift.flatten().tolist()

    def forward(x: Tensor, texts: Sequence[str]) -> Tensor:
        from transformers import CLIPVisionModelWithProjection

        model: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
        model.eval()
        if tuple(x.shape[-2:]) != (clip.pixels, clip.pixels):
            x = F.interpolate(x, (clip.pixels, clip.pixels), mode="bicubic", antialias=True)
        x = (x * clip.factor + clip.shift).expand(-1, clip.channels, -1, -1)
        features = F.normalize(model(pixel_values=x).image_embeds, dim=1)
        return features if plain.scores is None else plain.scores(features)

    size = f"({clip.pixels}, {clip.pixels})"
    scaled = f"x = x * torch.tensor({factor}).view(-1, 1, 1) + torch.tensor({shift}).view(-1, 1, 1)"
    return Folder(
        "transformers",
        (
            "import torch",
            *([] if plain.scores is None else ["from safetensors.torch import load_file"]),
            "from transformers import CLIPVisionModelWithProjection",
        ),
        (
            'model = CLIPVisionModelWithProjection.from_pretrained("FOLDER").eval()',
            f'x = torch.nn.functional.interpolate(x, {size}, mode="bicubic", antialias=True)',
            *([] if factor == [1.0] and shift == [0.0] else [scaled]),
            "with torch.no_grad():",
            f"    features = model(pixel_values=x.expand(-1, {clip.channels}, -1, -1)).image_embeds",
            "features = torch.nn.functional.normalize(features, dim=1)",
            *head_lines(plain.scores),
        ),
        forward,
    )


KEPT = ("interpolation", "first_conv", "classifier", "fixed_input_size", "pool_size")
"""Of what timm says of its own weights, what holds for others."""


def _is_json(value: Any) -> bool:
    with contextlib.suppress(TypeError, ValueError):
        return bool(json.dumps(value))
    return False


# --- clbench's own ---


def own_folder(plain: Plain, engine: Engine, folder: Path) -> Folder:
    """Write a network of clbench's as `clbench.load_model` reads it."""
    tensors = {f"backbone.{name}": tensor for name, tensor in plain.backbone.state_dict().items()}
    if plain.scores is not None:
        tensors |= {"head.weight": plain.scores.weight, "head.bias": plain.scores.bias}
    save(tensors, folder / WEIGHTS)
    out = "features" if plain.scores is None else "logits"
    reads = isinstance(engine.model, TextClassifier)

    def forward(x: Tensor, texts: Sequence[str]) -> Tensor:
        model = load_model(folder)
        found: Tensor = model.head(model.embed(texts)) if isinstance(model, TextClassifier) else model(x)
        return found

    return Folder(
        "clbench",
        ("import clbench", "import torch"),
        (
            'model = clbench.load_model("FOLDER")',
            "with torch.no_grad():",
            f"    {out} = " + ("model.head(model.embed(texts))" if reads else "model(x)"),
        ),
        forward,
    )


# --- low-rank branches ---


def write_adapter(
    branches: Mapping[str, tuple[Tensor, Tensor]],
    folder: Path,
    base: str,
    task: str | None,
    whole: Mapping[str, Tensor] | None = None,
    turned: bool = False,
) -> None:
    """Write low-rank branches as peft reads them, filled up with zeros to one rank.

    Args:
        branches: A (R, i) and B (o, R) by the path of a layer. base: what they stand on. task: peft's.
        whole: the weight of a layer that was trained as it is, by its path.
        turned: whether the layers' weights are (i, o), as GPT-2's are.
    """
    rank = max(len(down) for down, _ in branches.values())
    tensors = {}
    for path, (down, up) in branches.items():
        more = rank - len(down)
        tensors[f"base_model.model.{path}.lora_A.weight"] = F.pad(down, (0, 0, 0, more))
        tensors[f"base_model.model.{path}.lora_B.weight"] = F.pad(up, (0, more))
    for path, weight in (whole or {}).items():
        tensors[f"base_model.model.{path}.weight"] = weight
    says = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "target_modules": list(branches),
        "modules_to_save": list(whole) if whole else None,
        "r": rank,
        "lora_alpha": rank,  # the scale is in B
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": turned,
        "inference_mode": True,
    }
    save(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(pretty_json(says), encoding="utf-8")


# --- about a run ---


def labels_of(engine: Engine) -> list[str]:
    """Return the names of all classes; their numbers where they have none."""
    names = engine.benchmark.class_names
    return list(names) if len(names) == engine.num_classes else [str(c) for c in range(engine.num_classes)]


def texts_of(engine: Engine, raw: Tensor) -> list[str]:
    """(B, L) bytes, or whatever else → the texts, if they are some."""
    from clbench.transforms.utf8 import rows_of

    if not engine.benchmark.texts:
        return []
    return [row.decode(errors="replace") for row in rows_of(raw)]
