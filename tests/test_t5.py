"""A T5 from a folder: as an index that spells and as a writer of queries. The checkpoint is small, its format real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clbench
from clbench.errors import ConfigError, DataError, IncompatibleError
from clbench.machine.torchvision import torchvision
from clbench.models import make_model
from clbench.models.spelling.docids import END
from clbench.models.weights import find
from clbench.runs.building import make_benchmark, make_strategy
from clbench.testing import tiny_run
from clbench.transforms.text import load_tokenizer

pytest.importorskip("transformers")
DIGITS = list(range(3, 13))  # T5's tokens of 0 … 9
WORDS = ["array", "▁array", "▁the", "▁of", "▁an", "▁a", "▁return", "▁", *"abcdefghijklmnopqrstuvwxyz"]


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of T5's kind: unigrams, and an end behind every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((str(d), -4.0) for d in range(10))]
    pieces += [(word, -float(len(WORDS[:i])) / 4 - 1) for i, word in enumerate(WORDS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torchvision()
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    write_tokenizer(folder)
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def stream(folder: Path) -> dict[str, Any]:
    from clbench.benchmarks.retrieval import EMBEDDED

    tokenizer = str(folder / "tokenizer.json")
    return {"folder": str(EMBEDDED), "documents": 30, "corpora": 2, "length": 12, "tokenizer": tokenizer}


def texts() -> Tensor:
    x = torch.randint(13, 40, (4, 12), generator=torch.Generator().manual_seed(0))
    x[1, 5:] = 0
    return x


def test_the_tokenizer_is_read_as_it_is(checkpoint: Path) -> None:
    tokens = load_tokenizer(checkpoint).encode(["the array of 12", "a " * 50], 10)
    assert tokens[0].tolist()[-3:] == [0, 0, 0] or 1 in tokens[0]
    assert int(tokens[1, -1]) == 1  # the end stands, whatever was cut
    assert int(tokens.max()) < 64


@torch.no_grad()
def test_scores_are_those_of_transformers_among_digits(checkpoint: Path) -> None:
    """log p(d|x) by T5's own forward pass over whole identifiers, its output kept to the digits and the end."""
    from transformers import T5ForConditionalGeneration

    model = make_model("seq2seq", (12,), 23, weights=str(checkpoint)).eval()
    t5 = T5ForConditionalGeneration.from_pretrained(checkpoint, local_files_only=True).float().eval()
    x, allowed = texts(), torch.tensor([*DIGITS, 1])
    scores = model.head(model.features(x))
    for c in range(23):
        symbols = [*map(int, str(c)), END]
        labels = allowed[torch.tensor(symbols)]
        begun = torch.cat([torch.zeros(1, dtype=torch.int64), labels[:-1]]).expand(4, -1)
        logits = t5(input_ids=x, attention_mask=(x != 0).long(), decoder_input_ids=begun).logits
        each = logits[:, :, allowed].log_softmax(2)
        expected = sum(each[:, t, symbol] for t, symbol in enumerate(symbols))
        torch.testing.assert_close(scores[:, c], expected, rtol=1e-4, atol=1e-5)
    found = model.head.predict(model.features(x))  # type: ignore[union-attr, operator]
    assert torch.equal(found.argmax(1), scores.argmax(1))


def test_a_run_starts_from_the_checkpoint_and_names_it(checkpoint: Path, tmp_path: Path) -> None:
    spec = {f"stream.{key}": value for key, value in stream(checkpoint).items()}
    record = clbench.run(
        "dsi",
        "finetune+growing-head",
        out=tmp_path,
        model="seq2seq",
        iterations=2,
        later_iterations=2,
        batch_size=4,
        **{"model.weights": str(checkpoint), "model.docid": "semantic", "precision": "bf16", **spec},
    )
    assert record.status == "done"
    assert record.config["model"]["weights"] is not None


def test_its_hash_is_over_all_its_files(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert find(str(tmp_path)).sha256 == find(str(checkpoint)).sha256
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.3}))
    assert find(str(tmp_path)).sha256 != find(str(checkpoint)).sha256


def test_training_moves_encoder_and_decoder(checkpoint: Path) -> None:
    model = make_model("seq2seq", (12,), 30, weights=str(checkpoint))
    run = tiny_run(make_strategy("finetune"), make_benchmark("dsi", **stream(checkpoint)), model=model)
    x, y = run.benchmark.train[0].data.take(torch.arange(8))
    run.forward(x).cross_entropy(y).backward()
    still = {name for name, p in run.model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not still


def test_other_tokens_are_refused(checkpoint: Path) -> None:
    benchmark = make_benchmark("dsi-numpy", documents=30, corpora=2, length=12)
    model = make_model("seq2seq", (12,), 30, weights=str(checkpoint))
    with pytest.raises(IncompatibleError, match=r"stream\.tokenizer=.*tokenizer\.json"):
        tiny_run(make_strategy("finetune"), benchmark, model=model)


def test_what_is_no_t5_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.safetensors file"):
        make_model("seq2seq", (12,), 30, weights=str(tmp_path))
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(DataError, match="model type is None"):
        make_model("seq2seq", (12,), 30, weights=str(tmp_path))
    with pytest.raises(ConfigError, match="'mlp' is another"):
        make_model("mlp", (12,), 30, weights=str(checkpoint))
    with pytest.raises(ConfigError, match=r"model\.width"):
        make_model("seq2seq", (12,), 30, weights=str(checkpoint), width=64)


def test_the_writer_learns_and_draws_by_its_own_stream(checkpoint: Path) -> None:
    from clbench.models.spelling.t5 import T5Writer

    rng = torch.Generator().manual_seed(0)
    documents = torch.randint(13, 40, (40, 12), generator=rng)
    queries = torch.cat(
        [documents[:, :2], torch.full((40, 1), 1), torch.zeros((40, 3), dtype=torch.int64)], 1
    )
    results = []
    for _ in range(2):
        writer = T5Writer(checkpoint)
        writer.eval()
        with torch.no_grad():
            before = writer.loss(documents, queries).item()
        torch.manual_seed(0)  # of dropout
        writer.fit(documents, queries, torch.Generator().manual_seed(1), 20, batch_size=16, lr=3e-3)
        with torch.no_grad():
            assert writer.loss(documents, queries).item() < before
        results.append(writer.generate(documents, 2, 5, torch.Generator().manual_seed(2)))
    assert results[0].shape == (80, 5)
    assert torch.equal(*results)
    ended = (results[0] == 1).long().cumsum(1) - (results[0] == 1).long()
    assert not results[0][ended > 0].any()  # nothing follows the end


def test_the_checkpoint_also_asks_the_pseudo_queries(checkpoint: Path, tmp_path: Path) -> None:
    spec = {f"stream.{key}": value for key, value in stream(checkpoint).items()}
    steps = {"iterations": 2, "later_iterations": 2, "batch_size": 4, "generator_steps": 2}
    given: dict[str, Any] = {"model": "seq2seq", "generator": "t5", **steps, **spec}
    record = clbench.run(
        "dsi", "generative-memory", out=tmp_path, **given, **{"model.weights": str(checkpoint)}
    )
    assert record.status == "done"
    with pytest.raises(IncompatibleError, match=r"model\.weights"):
        clbench.run("dsi", "generative-memory", out=tmp_path, **given)
