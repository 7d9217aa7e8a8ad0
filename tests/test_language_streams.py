"""Streams for language models: documents of domains, sides, tokens, blocks, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import cli
from clbench.data import language, prose_and_code, read_documents
from clbench.data.language import Documents, packed, share_out
from clbench.errors import ConfigError, DataError
from clbench.testing import check_benchmark
from clbench.transforms import tokens as transforms
from clbench.transforms.tokens import (
    END,
    Bytes,
    Characters,
    Pieces,
    Tokens,
    characters_of,
    fit_characters,
    fit_pairs,
    load_pieces,
    tokens_from_json,
)
from clbench.types import IGNORED, Benchmark, Stream

TEXTS = ["naïve café", "日本語 and 🙂🙂", "plain ASCII\n\twith a tab", "\r\n", "é", f"a {END} that is text"]
DOCUMENTS = [text.encode() for text in TEXTS]


# --- tokenizers ---


def tokenizers() -> list[Tokens]:
    return [fit_characters(DOCUMENTS[:1], DOCUMENTS), Bytes(), fit_pairs(DOCUMENTS, 300)]


@pytest.mark.parametrize("tokens", tokenizers(), ids=lambda t: t.kind)
def test_tokens_stand_for_the_characters_and_bytes_of_a_document(tokens: Tokens) -> None:
    for text, document in zip(TEXTS, DOCUMENTS, strict=True):
        ids = torch.from_numpy(tokens.encode(document))
        assert int(tokens.characters[ids].sum()) == len(text)
        assert int(tokens.bytes[ids].sum()) == len(document)
        assert tokens.decode(ids) == text
        assert tokens.end not in ids
    assert tokens.characters.shape == tokens.bytes.shape == (tokens.size,)
    assert tokens.characters[tokens.end] == tokens.bytes[tokens.end] == 0


@pytest.mark.parametrize("tokens", tokenizers(), ids=lambda t: t.kind)
def test_its_json_is_all_of_a_tokenizer(tokens: Tokens) -> None:
    again = tokens_from_json(tokens.to_json())
    assert again.to_json() == tokens.to_json()
    assert (again.size, again.end) == (tokens.size, tokens.end)
    assert all(np.array_equal(again.encode(d), tokens.encode(d)) for d in DOCUMENTS)


@pytest.mark.parametrize("tokens", tokenizers(), ids=lambda t: t.kind)
def test_a_long_document_is_made_tokens_of_part_by_part(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "AT_ONCE", 7)
    for text, document in zip(TEXTS, DOCUMENTS, strict=True):
        assert tokens.decode(torch.from_numpy(tokens.encode(document))) == text


def test_a_character_outside_the_set_is_the_tokens_of_its_bytes() -> None:
    tokens = fit_characters([b"ab"], ["aé".encode()])
    assert tokens.size == 97 + 2 + 1  # printable ASCII, tab and line end; two bytes; the end of a document
    assert len(tokens.encode("éa".encode())) == 3
    assert tokens.outside("éaé".encode()) == 2
    with pytest.raises(DataError, match="'ö' is not of the tokenizer's set"):
        Characters("ab").encode("aö".encode())


def test_pairs_are_the_same_on_every_machine() -> None:
    tokens = fit_pairs(prose_and_code()["prose"].train[:60], 400)
    merges = json.loads(tokens.tokenizer_json())["model"]["merges"]
    assert hashlib.sha256(json.dumps(merges).encode()).hexdigest() == (
        "54c999e687c4dc189538028c51e98e9ab77e661bf54ebbb2ac80dcad87ee539c"
    )


def test_the_commonest_pair_is_a_token() -> None:
    tokens = fit_pairs([b"abab" * 5], 258)
    assert len(tokens.encode(b"abab")) == 2
    with pytest.raises(ConfigError, match="holds no pair of bytes"):
        fit_pairs([b"abab"], 257)


# --- a file tokenizer.json ---


def tokenizer_file(path: Path, **change: Any) -> Path:
    told = json.loads(fit_pairs(DOCUMENTS, 300).tokenizer_json())
    path.write_text(json.dumps(told | change), encoding="utf-8")
    return path


def test_a_file_s_tokenizer_is_that_of_the_file(tmp_path: Path) -> None:
    file = tokenizer_file(tmp_path / "tokenizer.json")
    for place in (file, tmp_path):
        tokens = load_pieces(place)
        assert tokens.name == END
        assert np.array_equal(tokens.encode(DOCUMENTS[0]), fit_pairs(DOCUMENTS, 300).encode(DOCUMENTS[0]))


def test_a_tokenizer_without_a_token_between_documents_is_refused(tmp_path: Path) -> None:
    special = {
        "id": 0,
        "content": "<|stop|>",
        **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        "special": True,
    }
    told = json.loads(fit_pairs(DOCUMENTS, 300).tokenizer_json())
    model = told["model"] | {
        "vocab": {("<|stop|>" if k == END else k): v for k, v in told["model"]["vocab"].items()}
    }
    file = tokenizer_file(tmp_path / "tokenizer.json", added_tokens=[special], model=model)
    with pytest.raises(DataError, match=r"has none of .*Name it by end=TOKEN"):
        load_pieces(file)
    with pytest.raises(DataError, match=r"no token '<\|stopp\|>'.*Did you mean '<\|stop\|>'"):
        load_pieces(file, "<|stopp|>")
    assert load_pieces(file, "<|stop|>").end == 0


def test_the_nearest_tokenizer_is_named() -> None:
    with pytest.raises(DataError, match="Did you mean 'byte-pairs'"):
        small(tokenizer="byte-pair")


@pytest.mark.parametrize("content", ["{}", "no JSON", None])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="tokenizer"):
        load_pieces(file)


def test_tokens_that_do_not_tell_their_characters_count_none(tmp_path: Path) -> None:
    """A tokenizer that writes everything small loses nothing here but the count of what `İ` stands for."""
    file = tokenizer_file(tmp_path / "tokenizer.json", normalizer={"type": "Lowercase"})
    plain = {"a": ["some text", "more text"] * 5, "b": ["other text", "and text"] * 5}
    told = clbench.from_documents(plain, length=4, tokenizer=str(file), test_fraction=0.5)
    assert "bits_per_character" in told.metrics
    lost = clbench.from_documents(
        plain | {"b": ["İİİ", "text of b"]}, length=4, tokenizer=str(file), test_fraction=0.5
    )
    assert isinstance(lost.tokenizer, Pieces)
    assert not lost.tokenizer.counted
    assert not lost.tokenizer.characters.any()
    assert not lost.tokenizer.bytes.any()
    assert "bits_per_character" not in lost.metrics
    assert "not measured" in lost.found[-1]


# --- sides ---


def numbered(n: int) -> list[bytes]:
    return [f"document {i}".encode() for i in range(n)]


def test_sides_are_told_by_the_text_alone() -> None:
    documents = numbered(50)
    sides = share_out(documents, 0.1, 0.2).of
    assert [len(sides[side]) for side in ("train", "test", "valid")] == [35, 5, 10]
    backwards = share_out(documents[::-1], 0.1, 0.2).of
    assert all(set(sides[side]) == set(backwards[side]) for side in sides)
    assert [d for d in documents if d in sides["train"]] == sides["train"]  # in their order


def test_copies_are_on_one_side() -> None:
    sides = share_out(numbered(20) * 2, 0.1).of
    assert not set(sides["train"]) & set(sides["test"])
    assert len(sides["test"]) == 4


def test_what_is_held_out_of_one_domain_trains_in_none() -> None:
    both, more = [f"both {i}" for i in range(40)], [f"more {i}" for i in range(60)]
    benchmark = clbench.from_documents({"a": both, "b": both + more}, length=1, tokenizer="bytes", valid=0.1)

    def documents(stream: Stream) -> list[list[str]]:
        rows = [exp.data.take(torch.arange(len(exp.data))) for exp in stream]
        told = [[int(x[0]), *y.flatten().tolist()] for x, y in rows]
        return ["".join(chr(t) if t < 256 else "|" for t in row).rstrip("|").split("|") for row in told]

    assert benchmark.valid is not None
    sides = [documents(stream) for stream in (benchmark.test, benchmark.valid, benchmark.train)]
    held, valid, train = (set(a + b) for a, b in sides)
    assert not held & valid
    assert not (held | valid) & train
    assert [len(set().union(*(side[i] for side in sides))) for i in (0, 1)] == [40, 100]
    assert [d for d in both + more if d in sides[2][1]] == sides[2][1]  # in their order
    assert "where another domain has the same" in str(benchmark.describe())


def test_of_few_documents_the_ends_are_held_out() -> None:
    lines = b"".join(b"line %03d\n" % i for i in range(200))
    sides = share_out([lines], 0.1, 0.1).of
    assert sides["train"] + sides["valid"] + sides["test"] == [
        lines[:1440],
        lines[1440:1620],
        lines[1620:],
    ]
    assert all(part.endswith(b"\n") for side in sides.values() for part in side)
    (begin,), (end,) = (share_out(["é".encode() * 51], 0.1).of[side] for side in ("train", "test"))
    assert begin.decode() + end.decode() == "é" * 51


# --- blocks ---


@pytest.mark.parametrize("length", [1, 3, 4, 5, 13])
def test_every_token_but_the_first_is_a_label_once(length: int) -> None:
    documents, tokens = [b"abcde", b"fg", b"hijkl"], Bytes()
    row = [*b"abcde", 256, *b"fg", 256, *b"hijkl", 256]
    held, left, _ = packed(documents, tokens, length, pad=True)
    assert held is not None
    assert left == 0
    assert held.y.shape == held.x.shape == (-(-14 // length), length)
    assert held.y[held.y != IGNORED].tolist() == row[1:]
    assert held.x.flatten()[:14].tolist() == row[:14]
    train, left, _ = packed(documents, tokens, length, pad=False)
    assert train is not None
    assert train.y.flatten().tolist() == row[1 : 1 + 14 // length * length]
    assert len(row) - 1 - train.y.numel() == left


def test_inputs_and_labels_are_views_of_one_row() -> None:
    train, _, _ = packed([b"abcdefgh"], Bytes(), 4, pad=False)
    assert train is not None
    assert train.y.data_ptr() == train.x.data_ptr() + 8


def small(**params: Any) -> Benchmark:
    data = {name: [f"{name} says {i} things" for i in range(20)] for name in ("a", "b", "c")}
    return clbench.from_documents(data, **{"length": 16, **params})


def test_a_stream_of_language() -> None:
    benchmark = small()
    assert benchmark.setting.language
    assert benchmark.setting.shift == "domain"
    assert benchmark.num_classes == benchmark.tokenizer.size == 98  # type: ignore[union-attr]
    assert benchmark.input_shape == (16,)
    assert benchmark.primary == "average_loss"
    for stream in (benchmark.train, benchmark.test):
        assert [exp.domain for exp in stream] == ["a", "b", "c"]
        assert all(exp.classes == tuple(range(98)) for exp in stream)
    assert len(benchmark.found) == 3
    assert "18 training documents" in benchmark.found[0]
    assert small().fingerprint == benchmark.fingerprint != small(tokenizer="bytes").fingerprint


def test_domains_are_chosen_and_ordered() -> None:
    assert [e.domain for e in small(domains=["c", "a", "c"]).train] == ["c", "a", "c"]
    assert len(small(domains=["b"]).train) == 1
    assert {e.domain for e in small(domain_order="shuffled", seed=3).train} == {"a", "b", "c"}
    assert small(seed=3).fingerprint == small().fingerprint
    with pytest.raises(ConfigError, match="no domain 'd'"):
        small(domains=["d", "a"])


def test_the_first_blocks_and_a_validation_stream() -> None:
    benchmark = small(train_blocks=2, test_blocks=1, valid=0.2)
    assert benchmark.valid is not None
    assert [len(e) for e in (*benchmark.train, *benchmark.test, *benchmark.valid)] == [2] * 3 + [1] * 6


def test_held_out_documents_of_one_s_own() -> None:
    data, held = {"a": ["text of a"], "b": ["text of b"]}, {"a": ["held of a"], "b": ["held of b"]}
    benchmark = clbench.from_documents(data, documents_test=held, length=4, tokenizer="bytes")
    counted = benchmark.test[0].data.y()
    assert bytes(counted[(counted != IGNORED) & (counted < 256)].tolist()) == b"eld of a"
    with pytest.raises(DataError, match="'b' is in one of documents and documents_test only"):
        clbench.from_documents(data, documents_test={"a": ["held of a"]})


def test_it_is_described_by_blocks_and_tokens() -> None:
    told = small().describe()
    assert "blocks" in str(told)
    assert "98 tokens" in str(told)
    entry = told.as_dict()["streams"]["test"][0]
    assert entry["tokens"] == sum(entry["counts"])


# --- the embedded one ---


def test_prose_and_code_are_embedded() -> None:
    benchmark = clbench.make_benchmark("prose-and-code")
    assert benchmark.num_classes == 98
    assert benchmark.fingerprint == "ee915d7618eb8e7086e60cc237e5d5a4d83e3df1a1ff73471c4949d31583e74a"
    tokens = benchmark.tokenizer
    assert isinstance(tokens, Characters)
    for exp, documents in zip(benchmark.test, prose_and_code().values(), strict=True):
        y = exp.data.y()
        held = share_out(documents.train, 0.1).of["test"]
        assert int(tokens.characters[y[y != IGNORED]].sum()) == sum(map(characters_of, held)) - 1


def test_it_keeps_what_every_benchmark_must() -> None:
    found = check_benchmark("prose-and-code", train_blocks=20, test_blocks=20)
    assert {result.status for result in found} == {"passed"}


# --- files ---


def write(root: Path, **files: str | bytes) -> Path:
    """Write files whose names have `__` for `/` and `_DOT_` for a point."""
    for name, content in files.items():
        file = root / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def texts(data: dict[str, Documents]) -> dict[str, list[str]]:
    return {name: [document.decode() for document in one.train] for name, one in data.items()}


def test_folders_are_domains(tmp_path: Path) -> None:
    write(tmp_path, d10__x_DOT_txt="ten", d2__b__y_DOT_txt="two", d2__a_DOT_py="first", README_DOT_md="no")
    write(tmp_path, _DOT_git__config="no", d2___DOT_hidden="no")
    data, found = read_documents(str(tmp_path))
    assert texts(data) == {"d2": ["first", "two"], "d10": ["ten"]}
    assert found == [f"1 file beside the folders of {tmp_path.name} is left out, README.md for one."]


def test_files_are_domains(tmp_path: Path) -> None:
    write(tmp_path, b_DOT_txt="one--two", a_DOT_jsonl='{"text": "three"}\n{"text": "four"}\n')
    assert texts(read_documents(str(tmp_path), separator="--")[0]) == {
        "a": ["three", "four"],
        "b": ["one", "two"],
    }
    assert list(read_documents(str(tmp_path), files="*.txt")[0]) == ["b"]
    listed = [str(tmp_path / name) for name in ("b.txt", "a.jsonl")]
    assert list(read_documents(listed)[0]) == ["b", "a"]


def test_values_of_a_field_are_domains(tmp_path: Path) -> None:
    rows = [{"body": f"text {i}", "of": i % 2} for i in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for place, by in ((file, "auto"), (tmp_path, "field")):
        data, _ = read_documents(str(place), by=by, text="body", domain="of")  # type: ignore[arg-type]
        assert texts(data) == {"0": ["text 0", "text 2"], "1": ["text 1", "text 3"]}


def test_tables_of_two_sides(tmp_path: Path) -> None:
    rows = {
        side: [{"text": f"{side} {i}", "domain": "ab"[i % 2]} for i in range(4)] for side in ("train", "test")
    }
    write(tmp_path, **{f"{side}_DOT_jsonl": "\n".join(map(json.dumps, told)) for side, told in rows.items()})
    data, _ = read_documents(str(tmp_path))
    assert data["b"] == Documents([b"train 1", b"train 3"], [b"test 1", b"test 3"], shared=False)


def test_a_folder_with_sides_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, train__a_DOT_txt="in a", train__b_DOT_txt="in b", test__a_DOT_txt="out a")
    write(tmp_path, test__b_DOT_txt="out b", val__a_DOT_txt="mid a", val__b_DOT_txt="mid b")
    data, _ = read_documents(str(tmp_path))
    assert data["b"] == Documents([b"in b"], [b"out b"], [b"mid b"], shared=False)
    benchmark = language(data, name="own", length=2)
    assert benchmark.valid is not None


def test_from_files_in_one_command(tmp_path: Path) -> None:
    write(tmp_path, a_DOT_txt="some text\n" * 40, b_DOT_txt="other text\n" * 40)
    benchmark = clbench.make_benchmark("text-domains", path=str(tmp_path), length=8)
    assert [exp.domain for exp in benchmark.train] == ["a", "b"]


def test_a_folder_of_texts_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a_DOT_txt="some text\n" * 40, b_DOT_txt="other text\n" * 40)
    cli.data.data_describe(str(tmp_path), ["length=8"])
    assert "text-domains@1: inputs 8, 98 tokens" in capsys.readouterr().out


# --- what is refused ---


def test_files_that_are_no_text_are_named_with_the_byte_all_at_once(tmp_path: Path) -> None:
    write(tmp_path, a_DOT_txt=b"ab\0c", b_DOT_txt=b"abc\xff", c_DOT_txt="x".encode("utf-16"))
    write(tmp_path, d_DOT_jsonl='{"txt": "x"}', e_DOT_jsonl='{"text": 3}', f_DOT_jsonl="{")
    with pytest.raises(DataError) as error:
        read_documents(str(tmp_path), who="text-domains")
    lines = str(error.value).splitlines()
    assert lines[0] == "text-domains: 6 things are wrong:"
    for line, part in zip(
        lines[1:],
        (
            "a.txt is no text: byte 2 is 0x00",
            "b.txt is no text: byte 3 is 0xff, no UTF-8",
            "It may be UTF-16",
            "d.jsonl, line 1: there is no field 'text'. Did you mean 'txt'?",
            "e.jsonl, line 1: 'text' holds 3",
            "f.jsonl, line 1 is not JSON",
        ),
        strict=True,
    ):
        assert part in line


def test_a_separator_that_stands_nowhere_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a_DOT_txt="one\r\n\r\ntwo", b_DOT_txt="three")
    with pytest.raises(DataError, match=r"separator='\\n\\n' stands in none of 2 plain-text files"):
        read_documents(str(tmp_path), separator="\n\n")


def test_a_wrong_byte_is_found_where_parts_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clbench.data.language_files.AT_ONCE", 4)
    write(tmp_path, a_DOT_txt="日本語" * 3, b_DOT_txt="日本語".encode() + b"\x80\x80\x80\x80")
    with pytest.raises(DataError, match="byte 9 is 0x80"):
        read_documents(str(tmp_path))


def test_domains_that_hold_too_little_are_named_all_at_once() -> None:
    data = {
        "a": ["text that is long enough"] * 3,
        "empty": [],
        "blank": [" \n"],
        "one": ["a"],
        "short": ["ab cd"],
    }
    with pytest.raises(DataError) as error:
        clbench.from_documents(data, length=12)
    for line, part in zip(
        str(error.value).splitlines()[1:],
        (
            "the domain 'empty' is empty",
            "the domain 'blank' is empty",
            "the domain 'one' has no held-out documents: 1 of 1 bytes is too little",
            "the training documents of the domain 'one' are 2 tokens, and a block of 12 with its labels takes 13",
            "the training documents of the domain 'short' are",
        ),
        strict=True,
    ):
        assert part in line


def test_a_name_that_no_tokenizer_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer=characters has one of its own"):
        small(end="</s>")


def test_one_domain_is_no_stream(tmp_path: Path) -> None:
    write(tmp_path, a_DOT_txt="text\n" * 40)
    with pytest.raises(DataError, match=r"one domain, 'a'.*domain=FIELD.*domains=\[a\]"):
        clbench.make_benchmark("text-domains", path=str(tmp_path))
    with pytest.raises(DataError, match="there is no file in"):
        clbench.make_benchmark("text-domains", path=str(tmp_path), files="*.md")
    with pytest.raises(DataError, match="there are no texts at"):
        clbench.make_benchmark("text-domains", path=str(tmp_path / "nowhere"))


def test_documents_that_are_no_texts_are_refused() -> None:
    given: Any = {"a": ["text", 3, "\ud800"], "b": "text"}
    with pytest.raises(DataError) as error:
        clbench.from_documents(given)
    for part in ("documents['a'][1] is int", "documents['a'][2] is no Unicode", "documents['b'] is a text"):
        assert part in str(error.value)
