"""Generative memory: pairs (G(x_d) → d) of old documents beside new documents, some of these as G(x_d), too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, make_strategy
from clbench.errors import IncompatibleError
from clbench.parts import give_way, pairs, spans
from clbench.testing import difference, tiny_benchmark, tiny_run, watch
from clbench.testing.tools import everything, learned
from clbench.types import Experience


def test_spans_by_hand() -> None:
    """Of five tokens there are three runs of three; what is shorter comes whole."""
    documents = torch.tensor([[5, 6, 7, 8, 9, 0], [4, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).repeat(200, 1)
    found = spans(documents, 3, torch.Generator().manual_seed(0)).view(200, 3, 6)
    assert {tuple(row) for row in found[:, 0].tolist()} == {
        (5, 6, 7, 0, 0, 0),
        (6, 7, 8, 0, 0, 0),
        (7, 8, 9, 0, 0, 0),
    }
    assert (found[:, 1] == torch.tensor([4, 3, 0, 0, 0, 0])).all()
    assert not found[:, 2].any()


def test_every_start_is_as_likely() -> None:
    documents = torch.arange(1, 9).repeat(8000, 1)
    starts = spans(documents, 5, torch.Generator().manual_seed(0))[:, 0].bincount()[1:]
    assert len(starts) == 4
    assert (starts - 2000).abs().max() < 4 * (8000 * 0.25 * 0.75) ** 0.5


def test_rows_that_give_way() -> None:
    """Six rows of the stream and one that a part has added; the stream's last two go."""
    x = torch.arange(7)[:, None]
    y, index = torch.arange(7), torch.tensor([0, 1, 2, 3, 4, 5, -1])
    batch = Batch(x, y, y - y - 1, x, index, torch.zeros(7, dtype=torch.int64), new=6)
    old = torch.tensor([[50], [60]])
    found = give_way(batch, old, old[:, 0], old[:, 0], old)
    assert found.y.tolist() == [0, 1, 2, 3, 6, 50, 60]
    assert found.new == 4
    assert found.replayed.tolist() == [False] * 4 + [True] * 3
    assert found.index.tolist() == [0, 1, 2, 3, -1, -1, -1]


def batches_of(strategy: Any, **how: Any) -> tuple[Any, list[tuple[int, Batch, Tensor]]]:
    """A run, and every batch that was learned from, with its experience and its loss."""
    seen: list[tuple[int, Batch, Tensor]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses":
            batch, out = arguments
            seen.append((run.experience, batch, result["fit"].detach()))
            torch.testing.assert_close(result["fit"], F.cross_entropy(out.logits, batch.y))
        return result

    run = tiny_run(
        watch(strategy, probe), tiny_benchmark(documents=True, classes=6), batch_size=16, epochs=1, **how
    )
    run.fit()
    return run, seen


def test_what_a_batch_holds() -> None:
    """In later corpora: 8 replayed queries, 4 new documents as queries and 4 as they are, of spans of three tokens."""
    strategy = make_strategy("generative-memory", share=0.5, pseudo=0.5, span=3)
    run, seen = batches_of(strategy)
    texts = {tuple(row) for exp in run.train for row in exp.data.x().tolist()}
    later = [batch for experience, batch, _ in seen if experience]
    assert len(later) == 8
    for experience, batch, _ in seen:
        assert len(batch) == 16
        if experience == 0:
            assert batch.new == 16
            assert all(tuple(row) in texts for row in batch.x.tolist())
            continue
        tokens = (batch.x != 0).sum(1).tolist()
        assert tokens == [3] * 4 + [6] * 4 + [3] * 8
        assert all(tuple(row) in texts for row in batch.x[4:8].tolist())
        new, old = batch.y[:8], batch.y[8:]
        assert ((new >= 6 * experience) & (new < 6 * experience + 6)).all()
        assert (old < 6 * experience).all()
        # Every token of a document is its own, so a query tells its document.
        whose = (batch.x.where(batch.x != 0, batch.x.amax(1, keepdim=True)) - 1) // 8
        assert (whose == batch.y[:, None]).all()
    assert len({tuple(row) for batch in later for row in batch.x[8:].tolist()}) > 40  # drawn anew


def test_steps_and_rows_are_those_without_replay() -> None:
    plain, _ = batches_of(make_strategy("finetune"))
    run, seen = batches_of(make_strategy("generative-memory"))
    assert (run.step, run.updates) == (plain.step, plain.updates)
    assert run.forwards == plain.forwards
    assert sum(len(batch) for _, batch, _ in seen) == plain.forwards


def test_sparse_replay() -> None:
    """Whole batches at a quarter of the steps, evenly spread."""
    run, seen = batches_of(make_strategy("generative-memory", share=1.0, rate=0.25, pseudo=0.0))
    replays = [i for i, (_, batch, _) in enumerate(seen) if batch.replayed.any()]
    assert replays == [i for i in range(4, run.step) if (i + 1) % 4 == 0]
    assert all(seen[i][1].new == 0 for i in replays)


def test_documents_without_labelled_queries_are_asked_from_the_start() -> None:
    """A first corpus that has none is taught by spans, too."""
    benchmark = tiny_benchmark(documents=True)
    first = benchmark.train[0]
    bare = Experience(0, first.classes, first.data.subset(torch.arange(32)), documents=32)
    strategy = make_strategy("generative-memory", pseudo=0.5, span=2)
    run = tiny_run(strategy, benchmark)
    part = run.strategy.parts[2]
    for exp, documents in ((first, 0), (bare, 32), (benchmark.train[1], 64)):
        part.begin_experience(exp)  # type: ignore[attr-defined]
        assert part.documents == documents


# --- a generator that learns ---


def test_pairs_of_documents_and_queries() -> None:
    """Each query beside the first passage of its document."""
    first = tiny_benchmark(documents=True).train[0]
    documents, queries = pairs(first)
    x, y = first.data.take(torch.arange(len(first)))
    assert len(documents) == len(queries) == 32
    for row in range(32):
        assert torch.equal(queries[row], x[32 + row])
        assert torch.equal(documents[row], x[int((y == y[32 + row]).nonzero()[0])])


@pytest.mark.parametrize("generator", ["selector", "writer"])
def test_a_learned_generator_asks_of_later_documents(generator: str) -> None:
    strategy = make_strategy("generative-memory", generator=generator, generator_steps=3)
    run, seen = batches_of(strategy)
    later = [batch for experience, batch, _ in seen if experience]
    for batch in later:
        assert len(batch) == 16
        assert batch.x.shape == (16, 6)
        assert batch.x.dtype == torch.int64
    assert run.strategy.parts[0].generator.training is False  # type: ignore[attr-defined]


def test_a_learned_generator_goes_on_to_the_same_bits() -> None:
    def make() -> Any:
        strategy = make_strategy("generative-memory", generator="selector", generator_steps=2)
        return tiny_run(strategy, tiny_benchmark(documents=True), batch_size=16, epochs=1)

    whole, first, fresh = make(), make(), make()
    whole.fit()
    first.until = 6
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    fresh.load_state_dict(first.state_dict())
    fresh.fit()
    assert difference(everything(whole), everything(fresh)) is None


def test_what_cannot_be_learned_is_refused() -> None:
    benchmark = tiny_benchmark(documents=True)
    first = benchmark.train[0]
    run = tiny_run(make_strategy("generative-memory", generator="selector"), benchmark)
    bare = Experience(0, first.classes, first.data.subset(torch.arange(32)), documents=32)
    with pytest.raises(IncompatibleError, match="labelled queries of the first corpus, which has none"):
        run.strategy.parts[0].begin_experience(bare)
    with pytest.raises(IncompatibleError, match=r"needs documents \(to be told which examples are documents"):
        tiny_run(make_strategy("generative-memory"), tiny_benchmark())
    with pytest.raises(ValueError, match=r"'share' takes a number from 0 to 1; 2\.0 was given"):
        make_strategy("generative-memory", share=2.0)


def test_without_replay_and_pseudo_queries_it_is_fine_tuning() -> None:
    runs = [
        tiny_run(make_strategy(name, **params), tiny_benchmark(documents=True))
        for name, params in (("finetune", {}), ("generative-memory", {"share": 0.0, "pseudo": 0.0}))
    ]
    for run in runs:
        run.fit()
    assert difference(*(learned(run) for run in runs)) is None
