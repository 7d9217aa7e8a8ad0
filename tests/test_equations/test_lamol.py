"""LAMOL: draws among the likeliest, how many blocks are written of what, which labels count, and the loss."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clbench.strategies.lamol import Lamol, answers, layout_of, text_labels
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Benchmark, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.machine.torchvision import torchvision
from clbench.models.decoders import LanguageModel, causal
from clbench.parts import drawn, written
from clbench.testing import tiny_benchmark, tiny_language, tiny_run, watch
from clbench.types import IGNORED, Batch, Data, Output, Pool

_ = IGNORED


def started(benchmark: Benchmark, **params: Any) -> tuple[Engine, Lamol]:
    run = tiny_run(make_strategy("lamol", **params), benchmark, batch_size=10, epochs=1)
    part: Any = run.strategy
    return run, part


def of_blocks(x: Tensor, y: Tensor, tokenizer: Any = None) -> Benchmark:
    """A stream of two experiences with the same blocks."""
    benchmark = tiny_language()
    data = Data.of(Pool(x, y), torch.arange(len(x)))
    exps = tuple(replace(exp, data=data) for exp in benchmark.train)
    train = replace(benchmark.train, experiences=exps)
    return replace(benchmark, train=train, tokenizer=tokenizer or benchmark.tokenizer)


# --- draws ---


def test_a_token_is_drawn_among_the_k_likeliest() -> None:
    """Golden: of p = (0.1, 0.4, 0.2, 0.3) and k = 2, tokens 1 and 3 have 4/7 and 3/7."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().expand(20000, 4) + 5
    shares = torch.bincount(drawn(logits, 2, rng), minlength=4) / 20000
    torch.testing.assert_close(shares, torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=0.012, rtol=0)
    assert shares[0] == shares[2] == 0
    assert (drawn(logits, 1, rng) == 1).all()
    shares = torch.bincount(drawn(logits, 9, rng), minlength=4) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.4, 0.2, 0.3]), atol=0.012, rtol=0)


def stepwise(model: Any, text: Tensor) -> Tensor:
    """(N, L, V) logits, token by token."""
    with torch.no_grad(), model.backbone.continuing():
        return torch.cat([model(token) for token in text.split(1, 1)], 1)


def test_token_by_token_the_model_says_the_same() -> None:
    run, _part = started(tiny_language())
    text, model = torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(0)), run.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(stepwise(model, text), model(text), rtol=1e-4, atol=1e-6)
        assert torch.equal(model(text), model(text))  # afterwards it reads whole blocks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
def test_so_does_a_model_of_transformers(kind: str, tmp_path: Path) -> None:
    torchvision()
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, bos_token_id=0, eos_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    model = causal(tmp_path, 8, 300).eval()
    text = torch.randint(300, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stepwise(model, text), model(text), rtol=1e-4, atol=1e-5)


def test_what_is_written_follows_what_the_model_says() -> None:
    """With k = 1 each next token is the likeliest one, and a block counts as one example."""
    run, _part = started(tiny_language())
    first = torch.arange(11)
    text = written(run, first, 8, 1, run.rng("test"))
    assert torch.equal(text[:, 0], first)
    with torch.no_grad():
        assert torch.equal(run.model(text[:, :-1]).argmax(2), text[:, 1:])
    assert run.forwards == 11


# --- how many ---


@pytest.mark.parametrize(
    ("share", "blocks", "steps", "expected"),
    [
        (0.2, 24, None, [0, 5, 5]),  # ⌊4.8 + ½⌋
        (0.05, 50, None, [0, 3, 3]),  # ⌊2.5 + ½⌋
        (0.2, 24, 1, [0, 2, 2]),  # of 10 blocks that come
        (0.01, 24, None, [0, 0, 0]),
    ],
)
def test_how_many_are_written(share: float, blocks: int, steps: int | None, expected: list[int]) -> None:
    run, part = started(tiny_language(domains=3, blocks=blocks), share=share)
    if steps:
        train = run.config.train.model_copy(update={"iterations": steps})
        run.config = run.config.model_copy(update={"train": train})
    found = []
    for exp in run.train:
        run.batch_size = 10
        part.begin_experience(exp)
        found.append(len(part.text))
        part.end_experience(exp)
    assert found == expected


def test_every_earlier_experience_has_equally_many_to_a_block() -> None:
    """Blocks of experience j begin with token j only, so that what is written tells of which it is."""
    run, part = started(tiny_language(domains=4), share=0.3)  # 7 of 24
    part.starts = torch.eye(11, dtype=torch.int64)[:3]
    part.counts, part.marks = torch.ones(3, 8, dtype=torch.bool), torch.full((3,), -1)
    part.tasks = torch.full((3,), -1)
    run.batch_size = 10
    part.begin_experience(run.train[3])
    assert part.text[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_batches_grow_by_what_is_written() -> None:
    """⌊γ·R + ½⌋ written blocks have come after R of the stream, in their order."""
    sizes: list[tuple[int, int]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            batch: Batch = arguments[0]
            sizes.append((batch.new, len(batch) - batch.new))
            written_ones.extend(batch.raw[batch.new :].tolist())
        return call()

    written_ones: list[list[int]] = []
    watched = watch(make_strategy("lamol", share=0.25), probe)
    run = tiny_run(watched, tiny_language(), batch_size=10, epochs=2)
    run.fit()
    part: Any = run.strategy.parts[0]
    assert sizes == [(10, 0), (10, 0), (4, 0)] * 2 + [(10, 3), (10, 2), (4, 1), (10, 3), (10, 2), (4, 1)]
    assert written_ones == 2 * part.text[:, :-1].tolist()
    assert run.forwards == 96 + 12 + 6  # 6 were written


# --- what counts ---


def test_loss_is_of_answers_and_of_all_text() -> None:
    """L_QA + λ L_LM, each the mean of −ln p over its tokens."""
    x = torch.tensor([[3, 1, 4, 1], [2, 7, 1, 8]])
    y = torch.tensor([[_, _, 1, 5], [_, 1, 8, _]])  # the second ends one token earlier
    assert text_labels(x, y).tolist() == [[1, 4, 1, 5], [7, 1, 8, _]]
    _run, part = started(of_blocks(x[:1], y[:1]), lm=0.5)
    logits = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, y, *[torch.zeros(2)] * 1, x, *[torch.zeros(2)] * 2, 2)
    found = part.losses(batch, Output(logits, logits))

    def nll(row: int, place: int, token: int) -> float:
        z = logits[row, place].double().tolist()
        return math.log(sum(map(math.exp, z))) - z[token]

    right = [(0, 2, 1), (0, 3, 5), (1, 1, 1), (1, 2, 8)]
    text = [*right, (0, 0, 1), (0, 1, 4), (1, 0, 7)]
    assert found["answer"].item() == pytest.approx(sum(nll(*at) for at in right) / 4, rel=1e-5)
    assert found["text"].item() == pytest.approx(0.5 * sum(nll(*at) for at in text) / 7, rel=1e-5)


def test_where_all_labels_count_there_is_one_term() -> None:
    run, part = started(tiny_language())
    x, y = run.train[0].data.take(torch.arange(2))
    logits = torch.randn(2, 8, 11, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, y, *[torch.zeros(2)] * 1, x, *[torch.zeros(2)] * 2, 2)
    found = part.losses(batch, Output(logits, logits))
    assert list(found) == ["fit"]
    torch.testing.assert_close(found["fit"], F.cross_entropy(logits.flatten(0, 1), y.flatten()))


def test_labels_of_the_same_positions_count_in_what_is_written() -> None:
    run, part = started(tiny_benchmark(language=True))
    run.fit()
    assert part.right.tolist() == [[False] * 8 + [True] * 2] * len(part.text)


def test_filling_is_no_question() -> None:
    x, y = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[2, 3, 4], [5, _, _]])
    found = layout_of(of_blocks(x, y).train[0], 11)
    assert (found.mark, found.asks, found.counts.tolist()) == (-1, False, [True] * 3)


class Ends:
    end = 10


def test_a_mark_before_the_answer_tells_where_it_is() -> None:
    x = torch.tensor([[1, 9, 2, 10], [1, 2, 9, 3], [1, 2, 3, 4], [9, 1, 9, 2]])
    y = torch.tensor([[_, 2, 10, _], [_, _, 3, 10], [2, 3, 4, 5], [_, _, 2, 10]])
    exp = of_blocks(x[:2], y[:2]).train[0]
    found = layout_of(exp, 11)
    assert (found.mark, found.asks, found.starts.tolist()) == (9, True, [0, 2, *[0] * 9])
    counts = answers(x[:2], torch.ones(2, 4, dtype=torch.bool), torch.tensor([9, 9]), 10)
    assert counts.tolist() == [[False, True, True, False], [False, False, True, True]]
    assert layout_of(of_blocks(x[:3], y[:3]).train[0], 11).mark is None
    with pytest.raises(IncompatibleError, match=r"cannot tell where an answer begins .* experience 1"):
        started(of_blocks(x[:3], y[:3]))


def test_blocks_without_exactly_one_mark_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    text = torch.tensor([[1, 9, 2, 10, 1], [1, 2, 3, 4, 5], [9, 1, 9, 2, 10], [1, 2, 9, 3, 10]])
    monkeypatch.setattr("clbench.strategies.lamol.written", lambda *given: text)
    x, y = torch.tensor([[1, 9, 2, 10], [1, 2, 9, 3]]), torch.tensor([[_, 2, 10, _], [_, _, 3, 10]])
    tokenizer: Any = Ends()
    run, part = started(of_blocks(x.repeat(10, 1), y.repeat(10, 1), tokenizer))
    run.batch_size = 10
    part.end_experience(run.train[0])
    part.begin_experience(run.train[1])
    assert part.text.tolist() == text[[0, 3]].tolist()
    assert part.right.tolist() == [[False, True, True, False], [False, False, True, True]]


# --- beginnings, and what is refused ---


def test_blocks_begin_as_those_of_the_experience_or_with_the_end_of_a_document() -> None:
    x, y = torch.tensor([[1, 2], [1, 3], [1, 4], [5, 6]]), torch.tensor([[2, 3], [3, 4], [4, 5], [6, 7]])
    benchmark = of_blocks(x.repeat(100, 1), y.repeat(100, 1))
    run, part = started(benchmark, share=1.0)
    run.batch_size = 10
    part.end_experience(run.train[0])
    part.begin_experience(run.train[1])
    found = Counter(part.text[:, 0].tolist())
    assert found.keys() == {1, 5}
    assert found[1] == pytest.approx(300, abs=40)
    tokenizer: Any = Ends()
    run, part = started(replace(benchmark, tokenizer=tokenizer), start="end")
    run.batch_size = 10
    part.end_experience(run.train[0])
    part.begin_experience(run.train[1])
    assert (part.text[:, 0] == 10).all()
    with pytest.raises(IncompatibleError, match=r"tiny-language@1 have none; take start=tokens"):
        started(benchmark, start="end")


def test_labels_and_models_that_do_not_write_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="lamol needs language"):
        tiny_run(make_strategy("lamol"), tiny_benchmark())
    backbone = nn.Embedding(11, 8)
    model = LanguageModel(backbone, 8, 11, nn.Linear(8, 11))
    with pytest.raises(IncompatibleError, match=r"an? Embedding has no `continuing\(\)`"):
        tiny_run(make_strategy("lamol"), tiny_language(), model=model)
