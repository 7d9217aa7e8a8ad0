"""Subsets: how many rows, which ones, and the perplexity of n-grams that ranks them."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from clbench.strategies.subset import NGrams

from clbench import make_strategy
from clbench.errors import IncompatibleError
from clbench.testing import tiny_benchmark, tiny_language, tiny_run
from clbench.types import IGNORED, Data, Pool


def blocks(n: int, length: int, seed: int) -> Data:
    tokens = torch.randint(4, (n, length + 1), generator=torch.Generator().manual_seed(seed))
    y = tokens[:, 1:].clone()
    y[::3, -1] = IGNORED
    return Data.of(Pool(tokens[:, :-1], y), torch.arange(n))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_n_grams(order: int) -> None:
    """As counted by hand, on every label with the tokens of its block before it."""
    seen, asked = blocks(20, 5, 0), blocks(6, 5, 1)
    grams, contexts = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for x, y in zip(seen.x().tolist(), seen.y().tolist(), strict=True):
        for t, w in enumerate(y):
            for k in range(min(order - 1, t + 1) + 1 if w >= 0 else 0):
                h = tuple(x[t + 1 - k : t + 1])
                grams[(*h, w, k)] += 1
                contexts[(*h, k)] += 1
    expected = []
    for x, y in zip(asked.x().tolist(), asked.y().tolist(), strict=True):
        terms = []
        for t, w in enumerate(y):
            if w < 0:
                continue
            p = 1 / 4
            for k in range(min(order - 1, t + 1) + 1):
                h = tuple(x[t + 1 - k : t + 1])
                p = (grams[(*h, w, k)] + 0.5 * p) / (contexts[(*h, k)] + 0.5)
            terms.append(-math.log(p))
        expected.append(sum(terms) / len(terms))
    model = NGrams(order, 4, 0.5)
    model.fit(seen)
    assert model.loss(asked).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_likeliest_blocks_are_taken() -> None:
    """Of a domain with a few blocks like those of the first one, by n-grams of the first one."""
    benchmark = tiny_language(blocks=20)
    (pool, _, _), (other, _, _) = (exp.data.parts[0] for exp in benchmark.train)
    other.x[[3, 8, 11, 17]], other.y[[3, 8, 11, 17]] = pool.x[:4], pool.y[:4]
    run = tiny_run(
        make_strategy("finetune+subset", subset__choose="perplexity", subset__share=0.2), benchmark
    )
    first, second = run.train
    assert len(first) == 20
    assert torch.equal(second.data.x(), other.x[[3, 8, 11, 17]])
    own = tiny_run(
        make_strategy(
            "finetune+subset", subset__choose="perplexity", subset__share=0.2, subset__reference="own"
        ),
        benchmark,
    )
    assert not torch.equal(own.train[1].data.x(), second.data.x())


def test_a_random_part_in_several_passes() -> None:
    benchmark = tiny_benchmark(experiences=2, examples=100)
    runs = [
        tiny_run(make_strategy("finetune+subset", subset__share=0.2), benchmark, batch_size=20) for _ in "ab"
    ]
    first, second = runs[0].train
    assert (len(first), len(second)) == (100, 20)
    assert torch.equal(second.data.x(), runs[1].train[1].data.x())
    rows = {tuple(row) for row in benchmark.train[1].data.x().tolist()}
    assert {tuple(row) for row in second.data.x().tolist()} < rows
    runs[0].fit()
    assert runs[0].step == 2 * 5 + 2 * 1


def test_what_has_no_tokens_is_not_ranked() -> None:
    with pytest.raises(IncompatibleError, match=r"Take choose=random, or a benchmark of language"):
        tiny_run(make_strategy("finetune+subset", subset__choose="perplexity"), tiny_benchmark())
    with pytest.raises(IncompatibleError, match="take a smaller order"):
        NGrams(5, 50000, 1.0)
