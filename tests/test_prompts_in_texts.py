"""Prompts in frozen encoders of texts: where they enter, what they leave alone, and what is refused."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import pytest
import torch
from torch import Tensor

import clbench
from clbench import make_model, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.machine import checkpoint
from clbench.machine.torchvision import torchvision
from clbench.models.encoders import NONE, TextClassifier
from clbench.models.texts import Pretrained, tuned
from clbench.parts import Prompted, Prompts, TextBlocks, transformer_of
from clbench.parts.prompts import through_blocks
from clbench.testing import contract, subject, tiny_run
from clbench.testing.subjects import Subject
from clbench.types import Benchmark

WIDTH, PAD = 12, 1
SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "vocab_size": 40,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
}
DISTILBERT: dict[str, Any] = {
    "dim": WIDTH,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 16,
    **{key: SMALL[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")},
}
MODERNBERT: dict[str, Any] = {
    **SMALL,
    "local_attention": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "reference_compile": False,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2),
}
KINDS = {"Bert": SMALL, "Roberta": SMALL, "DistilBert": DISTILBERT, "ModernBert": MODERNBERT}
METHODS = ("l2p", "dualprompt", "coda-prompt", "oneprompt", "oneprompt+ovor", "mvp")


def made(kind: str = "Bert", config: dict[str, Any] | None = None, attention: str = "sdpa") -> Any:
    """A small encoder of transformers with random weights, in eval mode."""
    torchvision()  # transformers imports it
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, f"{kind}Config")(**(KINDS[kind] if config is None else config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(settings).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.4)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    model.set_attn_implementation(attention)
    return model


def encoder(kind: str = "Bert", pooling: Any = "mean", unit: bool = True, **how: Any) -> Pretrained:
    return Pretrained(made(kind, **how), PAD, pooling, unit).eval().requires_grad_(False)


def walked(network: Pretrained, x: Tensor, prompts: Prompts, readout: Any = "token") -> Tensor:
    """(B, T) → (B, D)"""
    blocks = TextBlocks(network)

    def features(x: Tensor, rows: Tensor | slice) -> Tensor:
        mine = prompts.of(rows)
        start = 0 if mine.start is None else mine.start.shape[1]
        return blocks.read(through_blocks(blocks, blocks.embed(x), mine), start, readout)

    return blocks.by_portion(x, features)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(n: int = 8, longest: int = 9) -> Tensor:
    """Different rows of tokens, of lengths 2 … longest."""
    x = torch.randint(2, 40, (n, longest), generator=torch.Generator().manual_seed(0))
    lengths = 2 + torch.arange(n) % (longest - 1)
    return x.masked_fill(torch.arange(longest) >= lengths[:, None], NONE)


def everywhere(n: int, seed: int = 1) -> Prompts:
    """Prompts that enter in all three ways."""
    return Prompts(
        prefixes={1: (normal(n, 2, WIDTH, seed=seed), normal(n, 2, WIDTH, seed=seed + 1))},
        tokens={0: normal(n, 3, WIDTH, seed=seed + 2)},
        start=normal(n, 1, WIDTH, seed=seed + 3),
    )


# --- without prompts ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("longest", [2, 9])
def test_without_prompts_features_are_the_encoders_own_to_the_bit(
    kind: str, pooling: str, attention: str, longest: int
) -> None:
    """Of as many texts as go through together, with a prefix of no rows, too."""
    network, x = encoder(kind, pooling, attention=attention), rows(longest=longest)
    empty = torch.zeros(8, 0, WIDTH)
    for prompts in (Prompts(), Prompts(prefixes={0: (empty, empty)}, tokens={1: empty}, start=empty)):
        assert torch.equal(walked(network, x, prompts), network.encode(x))


# --- with prompts, computed by transformers ---


@pytest.fixture
def attention_of_others() -> dict[int, tuple[Tensor, Tensor]]:
    """An attention of transformers' own models that meets keys and values; by the number of the block."""
    torchvision()
    transformers = pytest.importorskip("transformers")
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

    given: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **how: Any) -> Any:
        if module.number in given:
            keys, values = (x.view(1, -1, 3, WIDTH // 3).transpose(1, 2) for x in given[module.number])
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            if mask is not None:
                mask = torch.cat([mask.new_ones(*mask.shape[:3], keys.shape[2]), mask], 3)
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(3) @ v).transpose(1, 2), None

    transformers.AttentionInterface.register("prefixed", attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register("prefixed", sdpa_mask)
    return given


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_prefix_is_keys_and_values_that_the_encoders_attention_meets(
    kind: str, attention: str, attention_of_others: dict[int, tuple[Tensor, Tensor]]
) -> None:
    x, keys, values = rows(), normal(2, 8, 3, WIDTH), normal(2, 8, 3, WIDTH, seed=2)
    prompts = Prompts({layer: (keys[layer], values[layer]) for layer in (0, 1)})
    found = walked(encoder(kind, unit=False, attention=attention), x, prompts)
    theirs = made(kind, attention="prefixed")
    attentions = [
        m for m in theirs.modules() if type(m).__name__ in (f"{kind}SelfAttention", f"{kind}Attention")
    ]
    for number, module in enumerate(m for m in attentions if hasattr(m, "config")):
        module.number = number
    for i, row in enumerate(x):
        attention_of_others.update({layer: (keys[layer, i], values[layer, i]) for layer in (0, 1)})
        ids = row[row != NONE][None]
        with torch.no_grad():
            states = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        torch.testing.assert_close(found[i], states[0].mean(0), rtol=1e-4, atol=1e-5)


class Given(torch.nn.Module):
    """In place of embeddings: states."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *args: Any, **others: Any) -> Tensor:
        return self.states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_tokens_at_the_start_are_states_before_those_of_the_text(kind: str, pooling: str) -> None:
    """By transformers' whole model, text by text; the feature is without them, unless the head is to see them."""
    config = {**KINDS[kind], "layer_types": ["full_attention"] * 2} if kind == "ModernBert" else KINDS[kind]
    network, theirs = encoder(kind, pooling, config=config), made(kind, config)
    x, start, embeddings = rows(), normal(8, 2, WIDTH), theirs.embeddings
    found = {readout: walked(network, x, Prompts(start=start), readout) for readout in ("token", "prompts")}
    for i, row in enumerate(x):
        ids = row[row != NONE][None]
        with torch.no_grad():
            states = torch.cat([start[i : i + 1], embeddings(input_ids=ids)], 1)
            theirs.embeddings = Given(states)
            places = torch.tensor([[0, 0, *range(ids.shape[1])]])
            out = theirs(inputs_embeds=states, position_ids=places).last_hidden_state[0]
        means = {"prompts": out[:2].mean(0), "token": out[2] if pooling == "cls" else out[2:].mean(0)}
        for readout, mean in means.items():
            wanted = torch.nn.functional.normalize(mean, dim=0)
            torch.testing.assert_close(found[readout][i], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_block_are_a_prefix_before_its_projection_and_dropped_after_it(kind: str) -> None:
    """The others' queries meet the same keys and values, within ModernBERT's window and beyond it."""
    network, x, joined = encoder(kind), rows(), normal(8, 3, WIDTH)
    prefix = Prompts({0: (joined, joined)}, projected=False)
    torch.testing.assert_close(walked(network, x, Prompts(tokens={0: joined})), walked(network, x, prefix))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert"])
def test_placed_prompts_are_embedded_as_words_at_the_first_position(kind: str) -> None:
    blocks = TextBlocks(encoder(kind))
    inner: Any = blocks.network.inner
    words = torch.tensor([[7], [9]])
    rows = inner.embeddings.word_embeddings(words)
    torch.testing.assert_close(blocks.placed(rows), blocks.embed(words).x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_of_a_text_do_not_depend_on_its_company(kind: str, pooling: str) -> None:
    network, x, prompts = encoder(kind, pooling), rows(20), everywhere(20)
    together = walked(network, x, prompts)
    for i in range(20):
        one = torch.tensor([i])
        alone = walked(network, x[one], prompts.of(one))
        torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-6)


# --- strategies ---

WORDS = ["play", "stop", "rain", "sun"]
TINY: dict[str, dict[str, Any]] = {
    "l2p": {"pool": 4, "length": 2, "top": 2},
    "dualprompt": {"pool": 4, "general_layers": (0,), "expert_layers": (1,)},
    "coda-prompt": {"pool": 8, "length": 4, "layers": (0, 1)},
    "oneprompt": {"early_layers": (0,), "late_layers": (1,)},
    "mvp": {
        "pool": 3,
        "general": 1,
        "expert": 1,
        "general_layers": (0,),
        "expert_layers": (1,),
        "alpha": 0.1,
    },
}


def built(name: str) -> Any:
    if name == "oneprompt+ovor":
        ovor = make_strategy("ovor", epochs=1, boundary=4, draws=8, per_class=4, thresholds="measured")
        return clbench.chain(make_strategy("oneprompt", **TINY["oneprompt"]), ovor)
    return make_strategy(name, **TINY[name])


def stream(**how: Any) -> Benchmark:
    """Four classes of texts, told apart by their words, of different lengths."""
    texts = [f"{WORDS[i % 4]} {i} {(WORDS[i % 4] + ' ') * (i % 5)}" for i in range(56)]
    labels = [i % 4 for i in range(56)]
    return clbench.from_texts(
        texts[:40], labels[:40], texts[40:], labels[40:], class_order="natural", **{"experiences": 2, **how}
    )


def tokens(texts: Any) -> tuple[list[list[int]], list[bool]]:
    known = {word: 2 + i for i, word in enumerate(WORDS)}
    found = [
        [known.get(word) or 6 + zlib.crc32(word.encode()) % 34 for word in text.split()] for text in texts
    ]
    return found, [False] * len(texts)


def model(benchmark: Benchmark, kind: str = "Bert", **how: Any) -> TextClassifier:
    network = Pretrained(made(kind, **how), PAD, "mean", False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TextClassifier(network, WIDTH, benchmark.num_classes, tokens)


def run_of(name: str, benchmark: Benchmark, kind: str = "Bert", **how: Any) -> Engine:
    how.setdefault("optim", OptimConfig(name="adam", lr=0.02))
    return tiny_run(built(name), benchmark, model=model(benchmark, kind), batch_size=8, **how)


@pytest.mark.parametrize("name", METHODS)
def test_strategies_learn_texts_and_the_encoder_stays_to_the_bit(name: str) -> None:
    run = run_of(name, stream(), epochs=8)
    inner = next(m for m in run.model.modules() if isinstance(m, Prompted)).inner
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    run.fit()
    curve = run.evaluator.curve
    first = list(curve.step).index(curve.step[-1] // 2)  # after the first experience, on its test texts
    assert curve.correct[first] / curve.total[first] >= 0.75
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in inner.parameters())


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda-prompt", "oneprompt", "mvp"])
def test_prompts_and_head_have_gradients_and_nothing_else(name: str) -> None:
    run = run_of(name, stream(), "Roberta")
    run.strategy.parts[0].begin_experience(run.train[0])
    x = run.normalise(run.benchmark.train[0].data.x()[:8])
    run.forward(x).features.square().sum().backward()
    moved = {key for key, p in run.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved
    assert all(key.startswith("backbone.prompter.") for key in moved)


def test_a_text_is_asked_once_for_its_query(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    encode = Pretrained.encode
    benchmark = stream()
    run = run_of("dualprompt", benchmark, epochs=3, every=2)
    monkeypatch.setattr(Pretrained, "encode", lambda self, x: (asked.append(len(x)), encode(self, x))[1])
    run.fit()
    streams = (*benchmark.train, *benchmark.test)
    assert sum(asked) == len(torch.cat([run.normalise(exp.data.x()) for exp in streams]).unique(dim=0))


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "mvp"])
def test_an_interrupted_run_goes_on_to_the_same_bits(name: str) -> None:
    whole, states = run_of(name, stream(), every=2, checkpoint_seconds=0.0), []
    whole.fit(lambda: states.append(checkpoint.clone(whole.state_dict())))
    resumed = run_of(name, stream(), every=2, checkpoint_seconds=0.0)
    resumed.load_state_dict(states[len(states) // 2])
    resumed.fit()
    ends = [run.model.state_dict() for run in (whole, resumed)]
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert resumed.evaluator.curve.correct.tolist() == whole.evaluator.curve.correct.tolist()


@dataclasses.dataclass(frozen=True)
class OfTexts(Subject):
    """A strategy, checked on an encoder of texts."""

    def benchmark(self, **spec: Any) -> Benchmark:
        return stream(experiences=spec.get("experiences", 2))


CHECKS = (
    "inputs_untouched",
    "modes_restored",
    "evaluation_silent",
    "low_precision",
    "prediction_alone",
    "frozen",
)


@pytest.mark.parametrize("check", CHECKS)
def test_the_contract_holds_on_texts(check: str) -> None:
    there = subject("dualprompt")
    asked = {field.name: getattr(there, field.name) for field in dataclasses.fields(there)}
    getattr(contract, f"check_{check}")(OfTexts(**{**asked, "model": model}))


# --- what is refused ---


def refused(network: Any, name: str = "oneprompt") -> str:
    benchmark = stream()
    made = network if isinstance(network, TextClassifier) else TextClassifier(network, WIDTH, 4, tokens)
    with pytest.raises(IncompatibleError) as error:
        tiny_run(built(name), benchmark, model=made)
    return str(error.value)


def test_another_network_is_refused_by_name() -> None:
    bag: Any = make_model("bag-of-words", stream().input_shape, 4)
    assert "or of an encoder of texts like BERT, such as model=minilm; the backbone is a" in refused(bag)


def test_other_blocks_are_refused_by_name() -> None:
    mpnet = {key: value for key, value in SMALL.items() if key != "pad_token_id"}
    says = refused(Pretrained(made("MPNet", mpnet), PAD, "mean", False))
    assert (
        "built as BERT, RoBERTa, DistilBERT or ModernBERT, such as model=minilm; MPNetModel has blocks"
        in says
    )
    albert = {**SMALL, "embedding_size": WIDTH}
    assert "AlbertModel has its blocks elsewhere" in refused(
        Pretrained(made("Albert", albert), PAD, "mean", False)
    )


@pytest.mark.parametrize("width", [WIDTH, 6])
def test_an_encoder_that_does_more_than_its_blocks_is_found_by_its_features(width: int) -> None:
    """ELECTRA's blocks are BERT's; its embeddings may be of another width and are projected then."""
    electra = Pretrained(made("Electra", {**SMALL, "embedding_size": width}), PAD, "mean", False)
    if width == WIDTH:
        assert transformer_of(TextClassifier(electra, WIDTH, 4, tokens), "who").depth == 2
    else:
        assert "gone through block by block, ElectraModel gives other features than by itself" in refused(
            electra
        )


def test_an_encoder_whose_last_blocks_are_tuned_is_refused() -> None:
    network = made()
    below = tuned(network, PAD, WIDTH, 1)
    assert "some blocks of this one are tuned" in refused(Pretrained(network, PAD, "mean", False, below))


def test_blocks_that_are_not_there_are_refused() -> None:
    benchmark = stream()
    with pytest.raises(
        IncompatibleError, match=r"the blocks 0, 1, 2, 3, 4; this transformer has the blocks 0 to 1"
    ):
        tiny_run(make_strategy("oneprompt"), benchmark, model=model(benchmark))


def test_two_prompt_methods_are_refused() -> None:
    benchmark = stream()
    with pytest.raises(IncompatibleError, match="another part of the chain has done so already"):
        tiny_run(clbench.chain(built("oneprompt"), built("l2p")), benchmark, model=model(benchmark))
