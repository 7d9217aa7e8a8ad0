"""Streams for language models: domain after domain of text, and the loss on the next token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from clbench.data import DomainBy, Duplicates, language, prose_and_code, read_documents, shared
from clbench.ranges import Count, Fraction, Part, Seed
from clbench.registry import File, register_benchmark
from clbench.types import Benchmark

NOTES = (
    "Prose is sentences of the docstrings of NumPy and SciPy and of Python's language reference, python and c are "
    "source files of CPython; their licences lie beside the data. Held out is a tenth of the documents; every one of "
    "its tokens but the first counts once, told from what stands before it in its block."
)


@register_benchmark("prose-and-code", version=1, primary="average_loss")
def prose_and_code_(
    domains: tuple[Literal["prose", "python", "c"], ...] = ("prose", "python", "c"),
    domain_order: Literal["natural", "shuffled"] = "natural",
    length: Count = 128,
    tokenizer: Literal["characters", "bytes", "byte-pairs"] | File = "characters",
    vocabulary: Count = 1024,
    end: str | None = None,
    train_blocks: Count | None = None,
    test_blocks: Count | None = None,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """English about programming, then Python, then C: a language model that goes on learning, 0.6 MB of each.

    Nothing to download.

    Args:
        domains: which of them, in which order; one may come twice.
        domain_order: of these: as listed, or drawn from the seed.
        length: tokens of a block.
        tokenizer: characters, those of the first domain and ASCII; bytes; byte-pairs, trained on the first domain; or a
            file tokenizer.json.
        vocabulary: how many tokens byte-pairs have, at most.
        end: the token between documents, of a file tokenizer.json; <|endoftext|> or another usual one unless given.
        train_blocks, test_blocks: the first so many blocks of each domain; all unless given.
        online: one pass over the stream.
        valid: share of the documents that makes a validation stream.
        seed: of a shuffled order.
    """
    given: dict[str, Any] = dict(locals())
    built = language(prose_and_code(), name="prose-and-code", notes=NOTES, **given)
    streams = [stream for stream in (built.train, built.valid, built.test) if stream is not None]
    alike = max(
        shared(one, streams[:i])[0] for i, one in enumerate(streams) if i
    )  # sentences of many documents
    return replace(built, duplicates=alike)


@register_benchmark("text-domains", version=1, primary="average_loss")
def text_domains(
    path: File | list[File],
    by: DomainBy = "auto",
    domain: str = "domain",
    text: str = "text",
    files: str | tuple[str, ...] = "*",
    separator: str | None = None,
    domains: tuple[str, ...] = (),
    domain_order: Literal["natural", "shuffled"] = "natural",
    test_fraction: Part = 0.1,
    length: Count = 128,
    tokenizer: Literal["characters", "bytes", "byte-pairs"] | File = "characters",
    vocabulary: Count = 1024,
    end: str | None = None,
    train_blocks: Count | None = None,
    test_blocks: Count | None = None,
    online: bool = False,
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own text for language models: plain files or JSON lines; a folder, file or field is a domain.

    Args:
        path: a folder, a file, or a list of them, or their names in CLBENCH_DATA. With train and test in a folder, each
            a folder or a table, these are the sides; val in it makes a validation stream.
        by: what a domain is: folder, file, or field, of JSON lines or Parquet; auto: the folders in the given one, the
            field of a single table that has it, or else files.
        domain: the field of domains.
        text: the field of texts, of JSON lines or Parquet.
        files: patterns of the names of files that are read, such as *.txt.
        separator: what stands between documents in a plain-text file; each is one document unless given.
        domains: those that are taken, in this order; all unless given. One may come twice.
        domain_order: of all: by name (2 before 10), as listed in path; or drawn from the seed.
        test_fraction: share of a domain's documents that is held out, by their hash; of fewer than it takes for one,
            the end of each.
        length: tokens of a block.
        tokenizer: characters, those of the first domain and ASCII; bytes; byte-pairs, trained on the first domain; or a
            file tokenizer.json.
        vocabulary: how many tokens byte-pairs have, at most.
        end: the token between documents, of a file tokenizer.json; <|endoftext|> or another usual one unless given.
        train_blocks, test_blocks: the first so many blocks of each domain; all unless given.
        online: one pass over the stream.
        valid: share of the documents that makes a validation stream, where the data have none.
        duplicates: held-out blocks that are training blocks, too: note them in the record, or refuse.
        seed: of a shuffled order.
    """
    given: dict[str, Any] = dict(locals())
    read = {key: given.pop(key) for key in ("path", "by", "domain", "text", "files", "separator")}
    data, found = read_documents(**read, who="text-domains")
    return language(data, name="text-domains", found=found, **given)
