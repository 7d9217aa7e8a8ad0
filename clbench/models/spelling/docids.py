"""Document identifiers that are spelled digit by digit, and a beam search among those that exist.

An identifier is a string of digits. A model writes it from left to right and ends it with `END`, so that one
identifier may begin like another; the tree of all identifiers (`Trie`) tells what may follow what.

Shapes: C documents, L symbols of the longest identifier with its end, M nodes of the tree, B queries, W beams,
N documents at hand, T tokens of a document, E dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clbench.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

END = 10
"""The symbol after the last digit."""
SYMBOLS = 11
"""0 … 9 and `END`."""


# --- identifiers ---


def naive(n: int, width: int | None = None) -> list[str]:
    """Return the numbers 0 … n − 1 in decimal, "naively structured" identifiers (Tay et al., arXiv:2202.06991).

    Args:
        width: digits of each, with leading zeros; None writes numbers as they are.

    Raises:
        ConfigError: the width is too small for n documents.
    """
    if width is not None and n > 10**width:
        raise ConfigError(f"{n} documents cannot be numbered with {width} digits; use {len(str(n - 1))}.")
    return [f"{i:0{width or 1}d}" for i in range(n)]


class SemanticIds:
    """Identifiers by recursive k-means: similar documents begin alike (Tay et al., arXiv:2202.06991).

    The documents are split into k clusters, each of them again, until a cluster has no more than `leaf` documents. An
    identifier is the path of cluster numbers, then the document's place in its leaf. Later documents follow the
    nearest centroid at every split and take the next place of the leaf where they arrive; no identifier ever changes.

    Args:
        embeddings: (N, E) of the first corpus.
        k: clusters of a split, 10 at most, so that each is a digit.
        leaf: documents that a cluster may hold without being split.
        seed: of k-means.

    Attributes:
        ids: identifiers of the first corpus.

    Raises:
        ConfigError: a k that is no digit, a leaf of nothing, or no documents.
    """

    def __init__(self, embeddings: Floats, k: int = 10, leaf: int = 10, seed: int = 0) -> None:
        if not 2 <= k <= 10 or leaf < 1 or not len(embeddings):
            raise ConfigError(
                f"Semantic identifiers need 2 to 10 clusters of a split, 1 or more documents in a leaf, and documents; "
                f"given: k={k}, leaf={leaf}, {len(embeddings)} documents."
            )
        self.k, self.leaf, self.seed = k, leaf, seed
        x = np.asarray(embeddings, dtype=np.float64)
        self.root, paths = self._split(x)
        self.ids = [path + str(node.take()) for node, path in paths]

    def _split(self, x: Floats) -> tuple[_Cluster, list[tuple[_Cluster, str]]]:
        """Return the tree over rows (N, E), and for each row its leaf and the path there."""
        distinct = len(np.unique(x, axis=0))
        if len(x) <= self.leaf or distinct == 1:  # what is equal cannot be told apart
            node = _Cluster()
            return node, [(node, "")] * len(x)
        from sklearn.cluster import KMeans

        means = KMeans(min(self.k, distinct), n_init=1, random_state=self.seed).fit(x)
        node = _Cluster(means.cluster_centers_)
        nearest = node.nearest(x)  # as for later documents
        found: list[tuple[_Cluster, str]] = [(node, "")] * len(x)
        for digit in range(len(means.cluster_centers_)):
            rows = np.flatnonzero(nearest == digit)
            if len(rows) == len(x):  # k-means has found no split
                leaf = _Cluster()
                return leaf, [(leaf, "")] * len(x)
            child, below = self._split(x[rows]) if len(rows) else (_Cluster(), [])
            node.children.append(child)
            for row, (leaf, path) in zip(rows, below, strict=True):
                found[row] = leaf, str(digit) + path
        return node, found

    def assign(self, embeddings: Floats) -> list[str]:
        """Identifiers of further documents (N, E), in order."""
        ids = []
        for row in np.asarray(embeddings, dtype=np.float64):
            node, path = self.root, ""
            while node.children:
                digit = int(node.nearest(row[None])[0])
                node, path = node.children[digit], path + str(digit)
            ids.append(path + str(node.take()))
        return ids


@dataclass
class _Cluster:
    """A split with its centroids (k, E), or a leaf with the number of its documents."""

    centroids: Floats | None = None
    children: list[_Cluster] = field(default_factory=list)
    held: int = 0

    def nearest(self, x: Floats) -> NDArray[np.int64]:
        """(N,) the centroid nearest to each row; of several the first."""
        assert self.centroids is not None
        distances = ((x[:, None, :] - self.centroids) ** 2).sum(2)  # (N, k)
        nearest: NDArray[np.int64] = distances.argmin(1)
        return nearest

    def take(self) -> int:
        """The next place of a leaf."""
        self.held += 1
        return self.held - 1


class LatentSemantics:
    """Embeddings of documents for `SemanticIds`: tf-idf of their tokens, its main directions, length 1.

    Args:
        tokens: (N, T) int64 of the first corpus, 0 where there is none; weights and directions are learned of it.
        vocabulary: V.
        dimensions: E at most.
        seed: of the decomposition.
    """

    def __init__(self, tokens: Tensor, vocabulary: int, dimensions: int = 64, seed: int = 0) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        self.vocabulary = vocabulary
        counts = self._counts(tokens)
        self.weights: Any = TfidfTransformer(sublinear_tf=True).fit(counts)
        rank = min(dimensions, vocabulary - 1, max(len(tokens) - 1, 1))
        self.directions: Any = TruncatedSVD(rank, random_state=seed).fit(self.weights.transform(counts))

    def _counts(self, tokens: Tensor) -> Any:
        """(N, V) sparse: how often each token occurs, without those that fill up."""
        from scipy.sparse import csr_matrix

        rows, columns = (tokens != 0).nonzero(as_tuple=True)
        found = tokens[rows, columns].numpy()
        shape = (len(tokens), self.vocabulary)
        return csr_matrix((np.ones(len(found)), (rows.numpy(), found)), shape=shape)

    def __call__(self, tokens: Tensor) -> Floats:
        """(N, T) → (N, E)."""
        found: Floats = self.directions.transform(self.weights.transform(self._counts(tokens)))
        lengths: Floats = np.linalg.norm(found, axis=1, keepdims=True)
        unit: Floats = found / np.maximum(lengths, 1e-12)
        return unit


def semantic(
    tokens: Tensor,
    corpus: Tensor,
    vocabulary: int,
    *,
    k: int = 10,
    leaf: int = 10,
    dimensions: int = 64,
    seed: int = 0,
) -> list[str]:
    """Semantic identifiers of all documents of a stream, each by what was there when its corpus came.

    Clusters are those of the first corpus alone, and a later document depends on it and on those before it in the same
    leaf: computing all at once gives away nothing of later corpora.

    Args:
        tokens: (C, T) int64 of all documents. corpus: (C,) with which corpus each came, from 0.
        vocabulary: V. k, leaf, dimensions, seed: as of `SemanticIds` and `LatentSemantics`.
    """
    first = (corpus == corpus.min()).nonzero().squeeze(1)
    embed = LatentSemantics(tokens[first], vocabulary, dimensions, seed)
    tree = SemanticIds(embed(tokens[first]), k, leaf, seed)
    ids = [""] * len(tokens)
    for row, found in zip(first.tolist(), tree.ids, strict=True):
        ids[row] = found
    for number in corpus.unique().tolist()[1:]:
        rows = (corpus == number).nonzero().squeeze(1)
        for row, found in zip(rows.tolist(), tree.assign(embed(tokens[rows])), strict=True):
            ids[row] = found
    return ids


def spell(ids: Sequence[str]) -> Tensor:
    """Identifiers → (C, L) int64 symbols: digits, `END`, then −1.

    Raises:
        ConfigError: one that is not of digits, or that two documents have.
    """
    for wrong in ids:
        if not (wrong.isascii() and wrong.isdigit()):
            raise ConfigError(f"A document's identifier is a string of the digits 0 to 9; '{wrong}' is not.")
    if len(set(ids)) < len(ids):
        first = {name: row for row, name in reversed(list(enumerate(ids)))}
        row, name = next((row, name) for row, name in enumerate(ids) if first[name] != row)
        raise ConfigError(f"Documents {first[name]} and {row} have the same identifier, '{name}'.")
    symbols = torch.full((len(ids), max(map(len, ids)) + 1), -1)
    for row, name in zip(symbols, ids, strict=True):
        row[: len(name) + 1] = torch.tensor([*map(int, name), END])
    return symbols


# --- the tree of identifiers ---


@dataclass(frozen=True)
class Trie:
    """What may follow what, as tables.

    Attributes:
        children: (M, SYMBOLS) int64, the node that a symbol leads to, −1 for none; node 0 is the root. From the end of
            an identifier, `END` leads to where one is.
        document: (M,) int64, the document whose identifier ends here; −1 elsewhere.
        paths: (C, L) int64, the nodes along each identifier; where it has ended, its last one.
    """

    children: Tensor
    document: Tensor
    paths: Tensor

    @staticmethod
    def of(symbols: Tensor) -> Trie:
        """Return the tree of identifiers (C, L), as `spell` gives them."""
        node = torch.zeros(len(symbols), dtype=torch.int64)  # (C,) where each identifier has arrived
        going = torch.ones(len(symbols), dtype=torch.bool)
        edges, paths, nodes = [], [], 1
        for column in symbols.T:
            going = going & (column >= 0)
            edge = node * SYMBOLS + column.clamp(min=0)
            new, number = edge[going].unique(
                return_inverse=True
            )  # sorted, so numbered alike on every machine
            edges.append(new)
            node = node.clone()
            node[going] = nodes + number
            nodes += len(new)
            paths.append(node)
        children = torch.full((nodes, SYMBOLS), -1)
        children.view(-1)[torch.cat(edges)] = torch.arange(1, nodes)
        children[node, END] = node
        document = torch.full((nodes,), -1)
        document[node] = torch.arange(len(symbols))
        return Trie(children, document, torch.stack(paths, 1))

    def open(self, seen: Tensor) -> Tensor:
        """(M,) bool: the nodes from which a document that is marked in seen (C,) can be reached."""
        marked = torch.zeros(len(self.document), dtype=torch.int64, device=seen.device)
        flags = seen.long().unsqueeze(1).expand_as(self.paths)
        return marked.scatter_reduce_(0, self.paths.flatten(), flags.flatten(), "amax").bool()


def beam_search(
    step_log_probs: Callable[[Tensor], Tensor],
    trie: Trie,
    batch: int,
    width: int = 10,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the likeliest documents, found from left to right with `width` beginnings kept at each symbol.

    No document comes twice. With a width of all documents or more, the search is exact.

    Args:
        step_log_probs: beginnings (B, W, t) int64 → (B, W, SYMBOLS) log p(next symbol | beginning); t may be 0.
            Beginnings that have ended, or of no identifier, may be given; what is said of them is not used.
        trie: the identifiers there are.
        batch: B.
        width: beams.
        seen: (C,) bool, documents that may be named; None for all.

    Returns:
        documents (B, K) and their log-probabilities (B, K), the likeliest first; −1 and −∞ where there are fewer.
    """
    device = trie.children.device
    is_open = torch.ones_like(trie.document, dtype=torch.bool) if seen is None else trie.open(seen)
    node = torch.zeros((batch, 1), dtype=torch.int64, device=device)  # (B, W)
    score = torch.zeros((batch, 1), device=device)  # (B, W)
    prefix = torch.zeros((batch, 1, 0), dtype=torch.int64, device=device)  # (B, W, t)
    for _ in range(trie.paths.shape[1]):
        ended = (trie.document[node] >= 0).unsqueeze(2)  # (B, W, 1)
        gain = step_log_probs(prefix).float().masked_fill(ended, 0.0)  # (B, W, SYMBOLS)
        child = trie.children[node]
        allowed = (child >= 0) & is_open[child.clamp(min=0)]
        total = (score.unsqueeze(2) + gain).masked_fill(~allowed, -torch.inf).flatten(1)
        score, best = total.topk(min(width, total.shape[1]), dim=1)
        parent, symbol = best.div(SYMBOLS, rounding_mode="floor"), best % SYMBOLS
        # A beam without any way to go on stays behind with −∞.
        node = child.flatten(1).gather(1, best).clamp(min=0)
        kept = prefix.gather(1, parent.unsqueeze(2).expand(-1, -1, prefix.shape[2]))
        prefix = torch.cat([kept, symbol.unsqueeze(2)], dim=2)
    return trie.document[node].masked_fill(score == -torch.inf, -1), score
