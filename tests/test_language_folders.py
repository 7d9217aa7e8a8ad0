"""Language models from folders of transformers, and into them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import clbench
from clbench.errors import ClbenchError, DataError
from clbench.interop.export import export
from clbench.machine.torchvision import torchvision
from clbench.models import make_model
from clbench.transforms.tokens import fit_pairs

TEXTS = {
    "counting": [f"{n} and {n + 1} make {2 * n + 1}." for n in range(60)],
    "code": [f"def f_{n}(x):\n    return x + {n}\n" for n in range(60)],
}
SETTINGS = {"iterations": 3, "batch_size": 4, "optim.name": "adamw", "optim.lr": 0.01, "every": 0}


SIZES = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
"""More tokens than there are, as is usual."""
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {**SIZES, "intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 16},
    "GPTNeoX": {**SIZES, "intermediate_size": 32, "max_position_embeddings": 16},
    "GPT2": {"vocab_size": 320, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
}


def saved(kind: str, place: Path) -> Path:
    """A small model as transformers saves it, with a tokenizer of byte pairs."""
    transformers = pytest.importorskip("transformers")
    torchvision()
    tokens = fit_pairs([text.encode() for text in TEXTS["counting"]], 300)
    (place / "tokenizer.json").write_text(tokens.tokenizer_json())
    config = getattr(transformers, f"{kind}Config")(**FAMILIES[kind], bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    getattr(transformers, name)(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("Llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of JSON lines."""
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [{"domain": domain, "text": text} for domain, listed in TEXTS.items() for text in listed]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def stream(texts: Path, tokenizer: Path | str, length: int = 16) -> dict[str, Any]:
    return {
        "benchmark": "text-domains",
        "path": str(texts),
        "by": "field",
        "length": length,
        "tokenizer": str(tokenizer),
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_s_model_goes_on_learning_and_is_written_again_with_its_adapter(
    kind: str, texts: Path, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    folder = saved(kind, tmp_path / "base")
    from transformers import AutoModelForCausalLM

    told = stream(texts, folder)
    how: dict[str, Any] = {"lora.targets": ("q", "v", "proj", "fc1", "fc2")}
    record = clbench.run(
        strategy="lora+lwf", model=f"hf:{folder}", **told, **how, **SETTINGS, out=tmp_path / "runs"
    )
    export(record.folder, tmp_path / "again")
    told = stream(texts, tmp_path / "again")
    benchmark = clbench.make_benchmark(told.pop("benchmark"), **told)
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (folder, tmp_path / "again"))
    x, y = benchmark.test[0].data.take(torch.arange(len(benchmark.test[0])))
    losses = [float(_loss(model, x, y)) for model in (before, after)]
    curve = record.curve
    last = curve.full & (curve.evaluated == 0)
    said = (curve.loss[last] / curve.total[last])[[0, -1]]
    assert losses == pytest.approx(said.tolist(), rel=1e-4)
    says = json.loads((tmp_path / "again" / "adapter" / "adapter_config.json").read_text())
    assert says["modules_to_save"] == (None if kind == "GPT2" else ["lm_head"])  # GPT-2's is its embedding
    given = _by_adapter(folder, tmp_path / "again" / "adapter", x)
    with torch.no_grad():
        torch.testing.assert_close(given, after(input_ids=x).logits, rtol=1e-4, atol=1e-5)


def test_lift_trains_entries_of_gpt2_s_layers(texts: Path, tmp_path: Path) -> None:
    """Their weights are (i, o), which changes nothing in what is largest."""
    (tmp_path / "base").mkdir()
    folder = saved("GPT2", tmp_path / "base")
    told = stream(texts, folder)
    how: dict[str, Any] = {"lift.rank": 2, "lift.budget": 2}
    record = clbench.run(
        strategy="lift", model=f"hf:{folder}", **told, **how, **SETTINGS, out=tmp_path / "runs"
    )
    export(record.folder, tmp_path / "again")
    from transformers import AutoModelForCausalLM

    before, after = (
        AutoModelForCausalLM.from_pretrained(place).transformer.h[0].mlp.c_fc.weight
        for place in (folder, tmp_path / "again")
    )
    assert 0 < int((before != after).sum()) <= 2 * 2 * sum(before.shape)  # a choice in each of two domains


def _by_adapter(base: Path, adapter: Path, x: torch.Tensor) -> torch.Tensor:
    """What peft makes of it: B A added to each layer's weights, and the layers that were trained as they are."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    says = json.loads((adapter / "adapter_config.json").read_text())
    assert says["r"] == says["lora_alpha"]
    tensors, model = (
        load_file(adapter / "adapter_model.safetensors"),
        AutoModelForCausalLM.from_pretrained(base),
    )
    start = "base_model.model."
    with torch.no_grad():
        for path in says["target_modules"]:
            down, up = (tensors.pop(f"{start}{path}.lora_{side}.weight") for side in "AB")
            model.get_submodule(path).weight += (up @ down).T if says["fan_in_fan_out"] else up @ down
        for path in says["modules_to_save"] or ():
            model.get_submodule(path).weight.copy_(tensors.pop(f"{start}{path}.weight"))
        assert not tensors
        return model.eval()(input_ids=x).logits


def _loss(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model.eval()(input_ids=x).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-1)


def test_the_decoder_is_a_gpt_neox() -> None:
    pytest.importorskip("transformers")
    from clbench.interop.export.language import neox

    torch.manual_seed(0)
    model = make_model("decoder", (12,), 50, width=32, layers=2, heads=4).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    x = torch.randint(50, (2, 12))
    with torch.no_grad():
        assert torch.allclose(neox(model.backbone, 12).eval()(input_ids=x).logits, model(x), atol=1e-5)


def test_a_decoder_is_written_with_what_made_its_tokens(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    network = {"model": "decoder", "model.width": 16, "model.layers": 1, "model.heads": 2}
    told = stream(texts, "characters")
    record = clbench.run(strategy="finetune", **network, **told, **SETTINGS, out=tmp_path / "runs")
    export(record.folder, tmp_path / "decoder")
    about = json.loads((tmp_path / "decoder" / "clbench.json").read_text())
    assert about["tokenizer"]["clbench"] == "characters"
    assert about["domains"] == sorted(TEXTS)


@pytest.mark.parametrize(
    ("tokenizer", "length", "message"),
    [
        ("bytes", 16, "has learned other tokens"),
        ("own", 17, "longer than what the model in .* reads at once, 16; give the stream length=16"),
    ],
)
def test_what_a_folder_s_model_does_not_read_is_refused(
    folder: Path, texts: Path, tokenizer: str, length: int, message: str
) -> None:
    told = stream(texts, folder if tokenizer == "own" else tokenizer, length)
    with pytest.raises(ClbenchError, match=message):
        clbench.run(strategy="finetune", model=f"hf:{folder}", **told, **SETTINGS)


@pytest.mark.parametrize(("damage", "message"), [("config", "would be random"), ("weights", "cannot read")])
def test_weights_that_are_not_all_there_are_refused(
    folder: Path, texts: Path, tmp_path: Path, damage: str, message: str
) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    config, weights = damaged / "config.json", damaged / "model.safetensors"
    if damage == "config":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 2}))
    else:
        weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(DataError, match=message):
        clbench.run(strategy="finetune", model=f"hf:{damaged}", **stream(texts, damaged), **SETTINGS)


def test_a_language_model_is_not_pooled(folder: Path, texts: Path) -> None:
    told = stream(texts, folder)
    with pytest.raises(ClbenchError, match=r"leave out model\.pooling and model\.tune"):
        clbench.run(strategy="finetune", model=f"hf:{folder}", **told, **{"model.tune": 1}, **SETTINGS)


def test_a_folder_s_config_asks_for_all_its_weights(folder: Path, texts: Path, tmp_path: Path) -> None:
    """A model of two layers under a config.json of one would be read without the second."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = 2
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ClbenchError, match=r"that its config\.json has no place for, model\.layers\.1"):
        clbench.run(strategy="finetune", model=f"hf:{tmp_path}", **stream(texts, folder), **SETTINGS)
