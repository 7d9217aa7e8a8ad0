"""Identifiers of documents, and the beam search among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clbench.errors import ConfigError
from clbench.models.spelling.docids import (
    END,
    SYMBOLS,
    SemanticIds,
    Trie,
    beam_search,
    naive,
    semantic,
    spell,
)


def blobs(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, 5))[rng.integers(12, size=n)] * 3 + rng.normal(size=(n, 5))


def random_ids(n: int, seed: int) -> list[str]:
    """Of different lengths, some of which begin others."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found["".join(map(str, rng.integers(4, size=rng.integers(1, 5))))] = None
    return list(found)


class RandomModel:
    """log p(next symbol | beginning), drawn once for every query and beginning."""

    def __init__(self, batch: int, seed: int) -> None:
        self.seeds = torch.arange(batch) * 7919 + seed

    def __call__(self, prefix: Tensor) -> Tensor:
        b, w, _ = prefix.shape
        logits = torch.empty(b, w, SYMBOLS)
        for i in range(b):
            for j in range(w):
                key = int("1" + "".join(f"{s:02d}" for s in prefix[i, j].tolist())) % (2**31)
                generator = torch.Generator().manual_seed(key + int(self.seeds[i]))
                logits[i, j] = torch.randn(SYMBOLS, generator=generator) * 2
        return logits.log_softmax(2)


def by_hand(model: RandomModel, ids: list[str], batch: int) -> Tensor:
    """(B, C) log p of every identifier, one symbol after the other."""
    scores = torch.zeros(batch, len(ids))
    for c, name in enumerate(ids):
        symbols = [*map(int, name), END]
        for t, symbol in enumerate(symbols):
            prefix = torch.tensor(symbols[:t], dtype=torch.int64).expand(batch, 1, t)
            scores[:, c] += model(prefix)[:, 0, symbol]
    return scores


# --- identifiers ---


def test_naive_identifiers_are_decimal_numbers() -> None:
    assert naive(12)[-3:] == ["9", "10", "11"]
    assert naive(12, width=3)[-2:] == ["010", "011"]
    with pytest.raises(ConfigError, match="use 2"):
        naive(12, width=1)


def test_semantic_identifiers_are_unique_and_repeatable() -> None:
    x, later = blobs(300), blobs(80, seed=1)
    one, two = SemanticIds(x, leaf=8), SemanticIds(x, leaf=8)
    assert one.ids == two.ids
    assert one.assign(later) == two.assign(later)
    both = SemanticIds(x, leaf=8)
    ids = both.ids + both.assign(later)
    assert len(set(ids)) == 380


def test_a_later_document_takes_the_next_place_of_the_nearest_leaf() -> None:
    """Two groups far apart, one split: the group's digit, then the place."""
    x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    tree = SemanticIds(x, k=2, leaf=3)
    near, far = tree.ids[0][0], tree.ids[3][0]
    assert tree.ids == [near + "0", near + "1", near + "2", far + "0", far + "1", far + "2"]
    assert tree.assign(np.array([[0.15], [8.0], [-4.0]])) == [near + "3", far + "3", near + "4"]


def test_documents_of_a_leaf_are_nearest_to_the_centroids_on_their_path() -> None:
    x = blobs(200)
    tree = SemanticIds(x, k=4, leaf=8)
    for row, name in zip(x, tree.ids, strict=True):
        node = tree.root
        for digit in name:
            if not node.children:
                break
            assert node.centroids is not None
            assert int(digit) == int(np.linalg.norm(node.centroids - row, axis=1).argmin())
            node = node.children[int(digit)]
        assert not node.children
        assert node.held <= 8


def test_equal_documents_share_a_leaf() -> None:
    tree = SemanticIds(np.ones((40, 3)), leaf=10)
    assert tree.ids == [str(i) for i in range(40)]


def test_a_corpus_does_not_depend_on_later_ones() -> None:
    tokens = torch.randint(1, 50, (60, 12), generator=torch.Generator().manual_seed(0))
    corpus = torch.tensor([0] * 30 + [1] * 15 + [2] * 15)
    ids = semantic(tokens, corpus, 50, leaf=4)
    assert len(set(ids)) == 60
    changed = tokens.clone()
    changed[45:] = 7
    assert semantic(changed, corpus, 50, leaf=4)[:45] == ids[:45]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert len(set(semantic(tokens[order], corpus[order], 50, leaf=4))) == 60


@pytest.mark.parametrize("wrong", [{"k": 11}, {"k": 1}, {"leaf": 0}])
def test_clusters_must_be_digits(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="2 to 10 clusters"):
        SemanticIds(blobs(20), **wrong)


# --- spelling and the tree ---


def test_spelling_ends_every_identifier() -> None:
    assert spell(["7", "012"]).tolist() == [[7, END, -1, -1], [0, 1, 2, END]]
    with pytest.raises(ConfigError, match="'1x' is not"):
        spell(["1x"])
    with pytest.raises(ConfigError, match="Documents 0 and 2 have the same identifier, '5'"):
        spell(["5", "6", "5"])


def test_the_tree_leads_to_every_document_and_nowhere_else() -> None:
    ids = random_ids(40, seed=2)
    trie = Trie.of(spell(ids))
    for c, name in enumerate(ids):
        node = 0
        for symbol in [*map(int, name), END]:
            node = int(trie.children[node, symbol])
            assert node > 0
        assert int(trie.document[node]) == c
        assert int(trie.children[node, END]) == node
    beginnings = {name[:t] for name in ids for t in range(len(name) + 1)}
    assert len(trie.document) == len(beginnings) + len(ids)
    assert int((trie.document >= 0).sum()) == len(ids)


# --- beam search ---


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_is_exact(seed: int) -> None:
    ids, batch = random_ids(30, seed), 3
    model = RandomModel(batch, seed)
    documents, scores = beam_search(model, Trie.of(spell(ids)), batch, width=30)
    exact, order = by_hand(model, ids, batch).sort(descending=True)
    assert torch.equal(documents[:, :30], order)
    torch.testing.assert_close(scores[:, :30], exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 10])
def test_a_narrow_beam_keeps_the_best_beginnings(width: int) -> None:
    """Against a search over Python lists."""
    ids, batch = random_ids(60, 5), 4
    model, symbols = RandomModel(batch, 5), [[*map(int, name), END] for name in ids]
    documents, scores = beam_search(model, Trie.of(spell(ids)), batch, width)
    for b in range(batch):
        beams: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(max(map(len, symbols))):
            grown = [beam for beam in beams if beam[1] in symbols]
            for total, begun in beams:
                if begun in symbols:
                    continue
                gain = model(torch.tensor(begun, dtype=torch.int64).expand(batch, 1, -1))[b, 0]
                nexts = {s[len(begun)] for s in symbols if s[: len(begun)] == begun and len(s) > len(begun)}
                grown += [(total + float(gain[s]), [*begun, s]) for s in nexts]
            beams = sorted(grown, key=lambda beam: -beam[0])[:width]
        found = documents[b][documents[b] >= 0].tolist()
        assert found == [symbols.index(begun) for _, begun in beams]
        assert len(set(found)) == len(found)
        expected = torch.tensor([total for total, _ in beams])
        torch.testing.assert_close(scores[b, : len(beams)], expected, rtol=1e-5, atol=1e-5)


def test_documents_not_seen_are_never_named() -> None:
    ids, batch = random_ids(50, 9), 3
    seen = torch.arange(50) % 5 == 0
    model = RandomModel(batch, 9)
    documents, scores = beam_search(model, Trie.of(spell(ids)), batch, width=10, seen=seen)
    exact = by_hand(model, ids, batch).masked_fill(~seen, -torch.inf)
    assert torch.equal(documents, exact.topk(10).indices)
    torch.testing.assert_close(scores, exact.topk(10).values, rtol=1e-6, atol=1e-6)


def test_fewer_documents_than_beams_leave_places_empty() -> None:
    ids = ["3", "31", "4"]
    seen = torch.tensor([True, True, False])
    documents, scores = beam_search(RandomModel(2, 0), Trie.of(spell(ids)), 2, width=10, seen=seen)
    assert (documents >= 0).sum(1).tolist() == [2, 2]
    assert documents[:, :2].sort(1).values.tolist() == [[0, 1], [0, 1]]
    assert torch.equal(documents < 0, scores == -torch.inf)
