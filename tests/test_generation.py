"""Generators of queries: they learn what is asked, draw by their own stream, and come back from their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.models.spelling.generation import QueryGenerator, Selector, Writer

VOCABULARY, LENGTH = 60, 10
SMALL: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
KINDS: dict[str, type[Selector] | type[Writer]] = {"selector": Selector, "writer": Writer}


def pairs(n: int = 200) -> tuple[Tensor, Tensor]:
    """A query asks, with word 7, for the two words of the document that are above 40, in order."""
    rng = torch.Generator().manual_seed(1)
    documents = torch.randint(10, 40, (n, LENGTH), generator=rng)
    places = torch.rand(n, 8, generator=rng).argsort(1)[:, :2].sort(1).values
    rare = torch.randint(40, VOCABULARY, (n, 2), generator=rng)
    documents.scatter_(1, places, rare)
    documents[:, 8:] *= torch.rand(n, 1, generator=rng) < 0.5  # some are shorter
    return documents, torch.cat([torch.full((n, 1), 7), rare, torch.zeros((n, 2), dtype=torch.int64)], 1)


def made(kind: str, seed: int = 0) -> QueryGenerator:
    torch.manual_seed(seed)
    return KINDS[kind](VOCABULARY, LENGTH, **SMALL)


def rng(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "steps"), [("selector", 120), ("writer", 400)])
def test_it_learns_to_ask_for_the_words_that_are_asked_for(kind: str, steps: int) -> None:
    documents, queries = pairs()
    generator = made(kind)
    generator.fit(documents, queries, rng(), steps, batch_size=32, lr=1e-2)
    new = documents.flip(0)[:50]
    asked = generator.generate(new, 2, LENGTH, rng())
    rare = (asked >= 40).sum(1).float()
    common = ((asked >= 10) & (asked < 40)).sum(1).float()
    assert rare.mean() > 1.5  # two are asked for; nothing learned: a fifth of what is drawn
    assert common.mean() < 0.5
    assert (asked == 7).any(1).float().mean() > 0.9
    of_document = (asked.unsqueeze(2) == new.repeat_interleave(2, 0).unsqueeze(1)).any(2)
    assert (of_document | (asked < 40)).float().mean() > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_rows_of_one_length_that_end_in_zeros(kind: str) -> None:
    documents, _ = pairs(9)
    documents[3] = 0  # an empty document
    asked = made(kind).generate(documents, 3, 6, rng())
    assert asked.shape == (27, 6)
    assert asked.dtype == torch.int64
    assert int(asked.max()) < VOCABULARY
    assert ((asked != 0).long().diff(dim=1) <= 0).all()
    assert made(kind).generate(documents[:0], 3, 6, rng()).shape == (0, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_drawn_from_the_given_stream_alone(kind: str) -> None:
    documents, queries = pairs(20)
    before = torch.random.get_rng_state()
    results = []
    for _ in range(2):
        with torch.random.fork_rng():
            generator = made(kind)
        torch.manual_seed(int(torch.randint(1000, ())))  # whatever the global stream is
        state = torch.random.get_rng_state()
        generator.fit(documents, queries, rng(), 5, batch_size=8)
        results.append(generator.generate(documents, 4, LENGTH, rng(6)))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*results)
    assert not torch.equal(results[0], generator.generate(documents, 4, LENGTH, rng(7)))
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("kind", KINDS)
def test_its_weights_are_all_its_state(kind: str) -> None:
    documents, queries = pairs(20)
    generator, again = made(kind), made(kind, seed=1)
    generator.fit(documents, queries, rng(), 5, batch_size=8)
    again.load_state_dict(generator.state_dict())
    assert torch.equal(generator.generate(documents, 2, 6, rng()), again.generate(documents, 2, 6, rng()))
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_the_selectors_loss_counts_words_of_the_document_and_words_that_ask() -> None:
    """By hand, over both words of a document and all words of the vocabulary."""
    generator = made("selector")
    documents, queries = torch.tensor([[12, 45, 0]]), torch.tensor([[7, 45, 0]])
    copied, asking = generator(documents)
    log = torch.nn.functional.logsigmoid
    expected = -log(-copied[0, 0]) - log(copied[0, 1]) - log(asking[0, 7])
    expected = expected - sum(log(-asking[0, word]) for word in range(VOCABULARY) if word != 7)
    torch.testing.assert_close(generator.loss(documents, queries), expected)


def test_the_writers_loss_is_that_of_a_mixture() -> None:
    """−log p of each word and of the end, by hand: g · p_copy + (1 − g) · p_vocabulary."""
    generator = made("writer")
    assert isinstance(generator, Writer)
    documents, words = torch.tensor([[12, 45, 12, 0]]), [45, 12, 7, 0]
    states, present = generator.encode(documents)
    total = torch.zeros(())
    for t, word in enumerate(words):
        gate, copy, own = generator.decode(states, present, torch.tensor([[0, *words[:t]]]))
        copying = sum(copy[0, -1, s].exp() for s in range(3) if int(documents[0, s]) == word)
        total = total - (gate[0, -1, 0].exp() * copying + own[0, -1, word].exp()).log()
    loss = generator.loss(documents, torch.tensor([[45, 12, 7, 0, 0]]))
    torch.testing.assert_close(loss, total / 4, rtol=1e-5, atol=1e-5)


def test_what_the_writer_may_say_is_a_distribution() -> None:
    generator = made("writer")
    assert isinstance(generator, Writer)
    documents = pairs(4)[0]
    gate, copy, own = generator.decode(*generator.encode(documents), torch.zeros((4, 1), dtype=torch.int64))
    total = own.exp().sum(2) + (gate + copy).exp().sum(2)
    torch.testing.assert_close(total, torch.ones(4, 1))
