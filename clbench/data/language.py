"""Streams for language models: domains of documents, packed into blocks of tokens whose labels are the next tokens.

    benchmark = clbench.from_documents({"letters": [...], "code": [...]}, length=128, tokenizer="bytes")

A domain is an experience. Its documents are shared out to training and held-out ones by the hash of their text, so by
nothing else: the same document is on the same side wherever it stands, and copies of one are on one side. The documents
of a side follow each other in their order, each with the token between documents behind it, and are cut into blocks of
L + 1 tokens that share one: every token but the first of all is a label once. What a label may be told from are the
tokens of its block before it, of an earlier document, too.

Memory: the texts once, and 8 bytes a token, of which inputs and labels are views; 4 more while a domain is encoded.

Shapes: P blocks of L tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from clbench.data.duplicates import Duplicates, checked
from clbench.data.shares import ordered
from clbench.errors import ConfigError, DataError, choices
from clbench.machine.numerics import pinned
from clbench.registry.arguments import validated
from clbench.transforms.augment import Transform
from clbench.transforms.tokens import (
    Bytes,
    Characters,
    Pieces,
    Tokens,
    characters_of,
    fit_characters,
    fit_pairs,
    load_pieces,
)
from clbench.types import IGNORED, Benchmark, Data, Experience, Pool, Setting, Stream

EMBEDDED = Path(__file__).parent / "prose_and_code"
"""Texts that clbench brings, with their licences."""
PROSE_AND_CODE = ("prose", "python", "c")
"""Its domains, in their order."""
METRICS = ("bits_per_character", "forgetting_nats", "gap_nats")
"""What tables show beside the loss; the first where tokens tell characters."""
SHOWN = 10
"""Faults that one message lists."""

WORDS = {"train": "training", "valid": "validation", "test": "held-out"}


@dataclass(frozen=True)
class Documents:
    """The documents of a domain, each as UTF-8.

    Attributes:
        train, test, valid: those of each side; with `shared`, all are in train, and sides are still to be made.
        shared: whether the data have no sides of their own.
    """

    train: Sequence[bytes]
    test: Sequence[bytes] = ()
    valid: Sequence[bytes] = ()
    shared: bool = True


@dataclass(frozen=True)
class _Sides:
    """A domain's documents, shared out.

    Attributes:
        rule: how, in words.
        whole: whether by the hash of whole documents.
    """

    of: Mapping[str, Sequence[bytes]]
    rule: str
    whole: bool = False


def share_out(documents: Sequence[bytes], test: float, valid: float = 0.0) -> _Sides:
    """Return which documents train and which are held out.

    Of n documents, the round(test · n) with the smallest SHA-256 are held out, the next round(valid · n) make the
    validation stream; equal documents count as one. Of fewer than 1 / test documents, the end of each is held out,
    from a line end near its share where there is one.
    """
    keys = [hashlib.sha256(document).digest() for document in documents]
    ranked = sorted(set(keys))
    n = len(ranked)
    held, more = round(test * n), round(valid * n)
    if held < 1 or held + more >= n or (valid and more < 1):
        return _ends_of(documents, test, valid)
    sides: dict[str, set[bytes]] = {
        "train": set(ranked[held + more :]),
        "test": set(ranked[:held]),
        "valid": set(ranked[held : held + more]),
    }
    of = {
        side: [d for d, key in zip(documents, keys, strict=True) if key in own] for side, own in sides.items()
    }
    return _Sides(of, "those with the smallest SHA-256 are held out", whole=True)


def _ends_of(documents: Sequence[bytes], test: float, valid: float) -> _Sides:
    """Share out documents that are too few: the beginning of each trains."""
    of: dict[str, list[bytes]] = {"train": [], "valid": [], "test": []}
    for document in documents:
        cuts = [
            0,
            *(_line_end(document, share) for share in (1 - test - valid, 1 - test)),
            len(document),
        ]
        for side, start, stop in zip(of, cuts, cuts[1:], strict=False):
            if stop > start:
                of[side].append(document[start:stop])
    return _Sides(of, "they are few, so the end of each is held out")


def _line_end(document: bytes, share: float) -> int:
    """Return where a share of a document ends: behind the nearest line end, else between two characters."""
    at = round(share * len(document))
    near = [document.rfind(b"\n", 0, at) + 1, document.find(b"\n", at) + 1]
    lines = [place for place in near if 0 < place < len(document)]
    if lines and abs((best := min(lines, key=lambda place: abs(place - at))) - at) <= len(document) // 100:
        return best
    while at < len(document) and document[at] & 0xC0 == 0x80:
        at += 1
    return at


def packed(
    documents: Iterable[bytes], tokens: Tokens, length: int, *, pad: bool
) -> tuple[Pool | None, int, bool]:
    """Return the blocks of documents, tokens that none of them holds, and whether all texts were told exactly.

    Args:
        length: L.
        pad: whether the last block is filled up, with labels `IGNORED`; otherwise what fills no block is left out.
    """
    parts: list[npt.NDArray[np.int32]] = []
    end, exact = np.array([tokens.end], dtype=np.int32), True
    for document in documents:
        ids = tokens.encode(document)
        if isinstance(tokens, Pieces):  # a file's may change texts
            at = torch.from_numpy(ids)
            exact &= int(tokens.bytes[at].sum()) == len(document)
            exact &= int(tokens.characters[at].sum()) == characters_of(document)
        parts += (ids, end)
    n = sum(map(len, parts))
    labels = max(n - 1, 0)
    P = -(-labels // length) if pad else labels // length
    if not P:
        return None, n, exact
    row = np.full(P * length + 1, tokens.end, dtype=np.int64)
    start = 0
    for part in parts:
        row[start : start + len(part)] = part[: len(row) - start]
        start += len(part[: len(row) - start])
    whole = torch.from_numpy(row)
    x, y = whole[:-1].view(P, length), whole[1:].view(P, length)
    if labels < P * length:
        y = y.clone()
        y.view(-1)[labels:] = IGNORED
    return Pool(x, y), max(n - len(row), 0), exact


@functools.cache
def prose_and_code() -> dict[str, Documents]:
    """Return the embedded domains: prose about programming, Python and C. Their licences lie beside them."""
    found = {}
    for name in PROSE_AND_CODE:
        told = json.loads(lzma.decompress((EMBEDDED / f"{name}.json.xz").read_bytes()))
        found[name] = Documents([text.encode() for text in told["documents"].values()])
    return found


def language(
    data: Mapping[str, Documents],
    *,
    name: str,
    version: int = 1,
    notes: str = "",
    length: int = 128,
    tokenizer: str = "characters",
    vocabulary: int = 1024,
    end: str | None = None,
    domains: Sequence[str] = (),
    domain_order: Literal["natural", "shuffled"] = "natural",
    test_fraction: float = 0.1,
    valid: float = 0.0,
    train_blocks: int | None = None,
    test_blocks: int | None = None,
    online: bool = False,
    duplicates: Duplicates = "note",
    seed: int = 0,
    found: Sequence[str] = (),
) -> Benchmark:
    """Return the benchmark of domains of documents, in their order.

    Args:
        data: documents by domain.
        name, version, notes: of the benchmark.
        length: L, tokens of a block.
        tokenizer: characters, bytes, byte-pairs, or a file tokenizer.json; fitted to the training documents of the
            first domain.
        vocabulary: V of byte-pairs, at most.
        end: the token between documents, of a file tokenizer.json; one of the usual ones if none is given.
        domains: those that are taken, in their order; all of them if none is listed.
        domain_order: as they come, or drawn from the seed.
        test_fraction, valid: shares of the documents, where the data have no sides of their own (`share_out`).
        train_blocks, test_blocks: the first so many of each domain.
        online: one pass.
        duplicates: held-out blocks that are training blocks, too.
        seed: of a drawn order.
        found: what is known of the data already, in sentences.

    Raises:
        DataError: domains that cannot be used, all that are wrong at once; or a tokenizer that cannot.
        ConfigError: a domain that is not there.
    """
    names = _chosen(name, data, domains, domain_order, seed)
    shared = {domain: _sides(one, test_fraction, valid) for domain, one in data.items()}
    agreed = _agreed(shared, data)
    sides = {domain: agreed[domain] for domain in dict.fromkeys(names)}
    wanted = ["train", "test", *(["valid"] if any(one.of["valid"] for one in sides.values()) else [])]
    faults = [
        _lack(domain, one, wanted)
        for domain, one in sides.items()
        if not all(one.of[side] for side in wanted)
    ]
    first = sides[names[0]].of["train"]
    if not first:
        refuse(name, faults)
    every = (document for one in sides.values() for documents in one.of.values() for document in documents)
    tokens = _tokenizer(name, tokenizer, first, every, vocabulary, end)
    pools: dict[tuple[str, str], Pool] = {}
    told, exact = list(found), True
    for domain, one in sides.items():
        counts = {}
        for side, documents in one.of.items():
            if not documents:
                continue
            pool, left, told_exactly = packed(documents, tokens, length, pad=side != "train")
            exact &= told_exactly
            if pool is None:
                faults.append(
                    f"the {WORDS[side]} documents of the domain '{domain}' are {left:,} tokens, and a block of "
                    f"{length:,} with its labels takes {length + 1:,}; take a smaller length, or more text"
                )
                continue
            pools[domain, side] = pool
            counts[side] = (len(documents), sum(map(characters_of, documents)), len(pool.x), left)
        told.append(_told(domain, one.rule, counts))
    refuse(name, faults)
    if isinstance(tokens, Pieces) and not exact:
        tokens = tokens.uncounted()
        told.append(
            "The tokens do not tell which characters and bytes of text they stand for, so that bits per character and "
            "per byte are not measured."
        )
    if isinstance(tokens, Characters):
        told += _outside(sides, tokens, names[0])
    classes = tuple(range(tokens.size))

    def stream(side: str, most: int | None) -> Stream:
        experiences = []
        for i, domain in enumerate(names):
            pool = pools[domain, side]
            rows = torch.arange(min(len(pool.x), most or len(pool.x)))
            experiences.append(Experience(i, classes, Data.of(pool, rows), domain=domain))
        return Stream(side, tuple(experiences))

    made = Benchmark(
        name,
        version,
        Setting("domain", passes=1 if online else None, language=True),
        stream("train", train_blocks),
        stream("test", test_blocks),
        tokens.size,
        Transform(),
        valid=stream("valid", test_blocks) if "valid" in wanted else None,
        primary="average_loss",
        metrics=METRICS if tokens.counted else METRICS[1:],
        seed=seed if domain_order == "shuffled" else 0,
        notes=notes,
        tokenizer=tokens,
        found=tuple(told),
    )
    return checked(made, duplicates)


def _lack(domain: str, one: _Sides, wanted: Iterable[str]) -> str:
    """Return what is wrong with a domain that lacks documents."""
    if not any(one.of.values()):
        return f"the domain '{domain}' is empty: it has no document that holds text"
    lacking = next(side for side in wanted if not one.of[side])
    n = sum(map(len, one.of.values()))
    return (
        f"the domain '{domain}' has no {WORDS[lacking]} documents: {n:,} of {sum(map(len, one.of['train'])):,} bytes "
        f"{'is' if n == 1 else 'are'} too little to be shared out, or {WORDS[lacking]} ones were not given"
    )


def refuse(who: str, faults: Sequence[str]) -> None:
    """Refuse what has faults, naming all of them up to `SHOWN`.

    Raises:
        DataError: there are some.
    """
    if len(faults) == 1:
        raise DataError(f"{who}: {faults[0]}.")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        listed = "".join(f"\n  {fault}" for fault in (*faults[:SHOWN], *more))
        raise DataError(f"{who}: {len(faults)} things are wrong:{listed}")


def _chosen(
    who: str,
    data: Mapping[str, Documents],
    domains: Sequence[str],
    order: Literal["natural", "shuffled"],
    seed: int,
) -> list[str]:
    if strange := [domain for domain in domains if domain not in data]:
        raise ConfigError(f"{who}: there is no domain '{strange[0]}'.{choices(strange[0], data)}")
    names = list(domains or data)
    if len(names) == 1 and not domains:
        raise DataError(
            f"{who}: the data hold one domain, '{names[0]}', and a stream needs two: put each domain into a folder or "
            "file of its own, or name a field of JSON lines that tells it, domain=FIELD. "
            f"domains=[{names[0]}] takes the one."
        )
    if not names:
        raise DataError(f"{who}: the data hold no domain.")
    return [names[i] for i in ordered("domain", np.arange(len(names)), order, seed).tolist()]


def _sides(data: Documents, test: float, valid: float) -> _Sides:
    kept = {
        side: [document for document in getattr(data, side) if document.strip()]
        for side in ("train", "test", "valid")
    }
    blank = sum(len(getattr(data, side)) - len(documents) for side, documents in kept.items())
    one = (
        share_out(kept["train"], test, valid)
        if data.shared
        else _Sides(
            {"train": kept["train"], "test": kept["test"], "valid": kept["valid"]}, "as the data have them"
        )
    )
    rule = f"{one.rule}; {blank:,} without text are left out" if blank else one.rule
    return replace(one, rule=rule)


def _agreed(sides: Mapping[str, _Sides], data: Mapping[str, Documents]) -> dict[str, _Sides]:
    """Have a document that is held out of one domain be held out of all: the smallest hashes of each are others, and
    one would train on what another is measured by. One that validates in one domain trains in none.
    """
    place: dict[bytes, str] = {}
    for side in ("train", "valid", "test"):
        for one in sides.values():
            if one.whole:
                place |= dict.fromkeys(one.of[side], side)
    found = dict(sides)
    for domain, one in sides.items():
        moved = sum(place[d] != side for side, own in one.of.items() for d in own) if one.whole else 0
        if moved:
            of: dict[str, list[bytes]] = {side: [] for side in one.of}
            for document in filter(bytes.strip, data[domain].train):
                of[place[document]].append(document)
            rule = f"{one.rule}; {moved:,} where another domain has the same"
            found[domain] = replace(one, of=of, rule=rule)
    return found


def _tokenizer(
    who: str, kind: str, first: Sequence[bytes], every: Iterable[bytes], vocabulary: int, end: str | None
) -> Tokens:
    if end is not None and kind in ("characters", "bytes", "byte-pairs"):
        raise ConfigError(
            f"{who}: end names a token of a file tokenizer.json, and tokenizer={kind} has one of its own; leave out "
            "end."
        )
    if kind == "characters":
        return fit_characters(first, every)
    if kind == "bytes":
        return Bytes()
    if kind == "byte-pairs":
        return fit_pairs(first, vocabulary)
    return load_pieces(kind, end)


def _told(domain: str, rule: str, counts: Mapping[str, tuple[int, int, int, int]]) -> str:
    """Return what was made of a domain, in a sentence."""
    parts = [
        f"{characters:,} characters of {documents:,} {WORDS[side]} document{'s' * (documents > 1)} are {blocks:,} "
        f"block{'s' * (blocks > 1)}" + (f" ({left:,} token{'s' * (left > 1)} left over)" if left else "")
        for side, (documents, characters, blocks, left) in counts.items()
    ]
    return f"{domain}: {', '.join(parts)}; {rule}."


def _outside(sides: Mapping[str, _Sides], tokens: Characters, first: str) -> list[str]:
    """Say which domains have characters that the first one lacks."""
    found = []
    for domain, one in sides.items():
        n = sum(tokens.outside(document) for documents in one.of.values() for document in documents)
        if n:
            found.append(
                f"{domain}: {n:,} characters are not among those that {first} trains with; each is the tokens of its "
                "bytes."
            )
    return found


@pinned()
@validated
def from_documents(
    documents: Mapping[str, Any],
    *,
    documents_test: Mapping[str, Any] | None = None,
    name: str = "documents",
    **params: Any,
) -> Benchmark:
    """A benchmark for language models, from lists of documents: each domain is an experience.

    Args:
        documents: lists of strings by domain, in the order of the stream.
        documents_test: held-out ones by domain, where there are some; otherwise a tenth of the documents, or
            `test_fraction`, is held out, by the hash of their text.
        name: of the benchmark, in records.
        params: `length` of a block in tokens (128), `tokenizer` (characters, bytes, byte-pairs or a file
            tokenizer.json), `vocabulary` of byte-pairs, `domains`, `train_blocks`, `online`, … as in the benchmark
            `text-domains`.

    Raises:
        DataError: a document that is none, an empty domain, one too short for a block; says all that is wrong.
    """
    faults: list[str] = []
    encoded = {
        side: {domain: _encoded(f"{side}['{domain}']", listed, faults) for domain, listed in given.items()}
        for side, given in (("documents", documents), ("documents_test", documents_test or {}))
    }
    if documents_test is not None and (lacking := sorted(set(documents) ^ set(documents_test))):
        faults.append(f"the domain '{lacking[0]}' is in one of documents and documents_test only")
    refuse(name, faults)
    own = encoded["documents_test"]
    data = {
        domain: Documents(listed) if documents_test is None else Documents(listed, own[domain], shared=False)
        for domain, listed in encoded["documents"].items()
    }
    return language(data, name=name, **params)


def _encoded(where: str, listed: Any, faults: list[str]) -> list[bytes]:
    found = []
    if isinstance(listed, str):
        faults.append(f"{where} is a text; a list of texts is expected")
        return []
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            faults.append(f"{where}[{i}] is {type(text).__name__}; a text is expected")
            continue
        try:
            found.append(text.encode())
        except UnicodeEncodeError as error:
            faults.append(f"{where}[{i}] is no Unicode: {error.reason} at character {error.start}")
    return found
