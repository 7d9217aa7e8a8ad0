"""Collections in the layout of BEIR, and the streams that are cut from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clbench import make_benchmark
from clbench.data import Collection, beir_folder, read_beir, retrieval
from clbench.errors import ConfigError, DataError
from clbench.registry import benchmarks
from clbench.testing import check_benchmark
from clbench.types import Benchmark

WORDS = [
    "ant",
    "bee",
    "cat",
    "dog",
    "eel",
    "fox",
    "gnu",
    "hen",
    "ibis",
    "jay",
    "kiwi",
    "lynx",
    "mole",
    "newt",
    "owl",
    "pig",
    "ram",
    "seal",
    "tern",
    "vole",
]


def write(
    folder: Path,
    corpus: Sequence[Any],
    queries: Sequence[Any],
    **qrels: Sequence[str],
) -> Path:
    """A collection; entries that are no text become JSON."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, pairs in qrels.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def animals(folder: Path) -> Path:
    """Ten documents of two words each, with two queries each, one for training."""
    corpus = [
        {"_id": f"d{i}", "title": f"T{i % 3}", "text": f"{WORDS[2 * i]} {WORDS[2 * i + 1]}"}
        for i in range(10)
    ]
    queries = [{"_id": f"q{i}{s}", "text": f"{s} {WORDS[2 * i]}"} for i in range(10) for s in "ab"]
    return write(
        folder,
        corpus,
        queries,
        train=[f"q{i}a\td{i}\t1" for i in range(10)],
        test=[f"q{i}b\td{i}\t1" for i in range(10)],
    )


def words_of(benchmark: Benchmark, x: torch.Tensor) -> list[str]:
    assert benchmark.tokenizer is not None
    return benchmark.tokenizer.decode(x)


# --- reading ---


def test_reading(tmp_path: Path) -> None:
    folder = animals(tmp_path / "animals")
    found = read_beir(folder)
    assert len(found) == 10
    assert found.ids[:2] == ("d0", "d1")
    assert found.titles[4] == "T1"
    assert found.texts[0] == "ant bee"
    assert found.queries["q3b"] == "b gnu"
    assert found.relevant["test"]["q3b"] == ("d3",)


def test_a_name_means_a_folder_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    animals(tmp_path / "collections" / "animals")
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "collections"))
    assert beir_folder("animals") == tmp_path / "collections" / "animals"
    with pytest.raises(
        DataError, match=r"There is no collection 'plants': neither plants nor .* CLBENCH_DATA"
    ):
        beir_folder("plants")


def test_judgements_below_one_and_empty_documents_are_left_out(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "c",
        [{"_id": "a", "text": "ant"}, {"_id": "b", "title": "", "text": " "}, {"_id": "c", "text": "cat"}],
        [{"_id": "q", "text": "an ant?"}],
        test=["q\ta\t2", "q\tb\t1", "q\tc\t-1"],
    )
    found = read_beir(folder)
    assert found.ids == ("a", "c")
    assert found.relevant == {"test": {"q": ("a",)}}


DOCUMENT, QUERY = {"_id": "a", "text": "ant"}, {"_id": "q", "text": "an ant?"}


@pytest.mark.parametrize(
    ("corpus", "queries", "judged", "said"),
    [
        ([], [QUERY], ["q\ta\t1"], r"corpus.jsonl holds no document"),
        ([DOCUMENT, "{'_id': 1"], [QUERY], [], r"corpus.jsonl, line 2 is not JSON"),
        ([DOCUMENT, "[1, 2]"], [QUERY], [], r"line 2 must hold an object with '_id' and 'text'"),
        ([{"_id": "a"}], [QUERY], [], r"corpus.jsonl, line 1: 'text' must be a text; it is None"),
        ([{"_id": 7, "text": "ant"}], [QUERY], [], r"line 1: '_id' must be a text; it is 7"),
        ([{**DOCUMENT, "title": 3}], [QUERY], [], r"line 1: 'title' must be a text; it is 3"),
        ([DOCUMENT, DOCUMENT], [QUERY], [], r"line 2: the id 'a' is taken by .*corpus.jsonl, line 1"),
        ([DOCUMENT], [QUERY, QUERY], [], r"queries.jsonl, line 2: the id 'q' is taken"),
        ([DOCUMENT], [QUERY], ["q a 1"], r"test.tsv, line 2 must hold query-id, corpus-id and score"),
        ([DOCUMENT], [QUERY], ["q\ta\thigh"], r"test.tsv, line 2: the score must be a number; it is 'high'"),
        ([DOCUMENT], [QUERY], ["p\ta\t1"], r"test.tsv, line 2: there is no query 'p' in c/queries.jsonl"),
        ([DOCUMENT], [QUERY], ["q\tz\t1"], r"test.tsv, line 2: there is no document 'z' in c/corpus.jsonl"),
    ],
)
def test_what_is_wrong_is_told_by_file_and_line(
    tmp_path: Path, corpus: list[Any], queries: list[Any], judged: list[str], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_beir(write(tmp_path / "c", corpus, queries, test=judged))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", [DOCUMENT], [QUERY])
    with pytest.raises(DataError, match=r"qrels holds no judgements; it needs test.tsv"):
        read_beir(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"queries.jsonl cannot be read: No such file"):
        read_beir(folder)
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"queries.jsonl is not UTF-8"):
        read_beir(folder)


# --- streams ---


def stream(folder: Path, **params: Any) -> Benchmark:
    return retrieval(read_beir(folder), name="animals", **{"corpora": 2, "titles": "remove", **params})


def test_documents_come_corpus_by_corpus_and_labelled_queries_with_the_first_alone(tmp_path: Path) -> None:
    benchmark = stream(animals(tmp_path))
    assert benchmark.num_classes == 10
    assert [exp.classes for exp in benchmark.train] == [(0, 1, 2, 3, 4), (5, 6, 7), (8, 9)]
    assert [exp.documents for exp in benchmark.train] == [5, 3, 2]
    assert [len(exp) for exp in benchmark.train] == [10, 3, 2]
    assert [exp.data.y().tolist() for exp in benchmark.test] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]
    first = benchmark.train[0].data
    assert first.y().tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    said = words_of(benchmark, first.x())
    assert said[:2] == ["ant bee", "cat dog"]
    assert said[5:7] == ["a ant", "a cat"]  # queries of the split train
    assert benchmark.setting.documents
    assert benchmark.primary == "hits_at_10"
    assert benchmark.seed == 0


def test_no_query_of_later_corpora_is_trained_on_or_seen_by_the_tokenizer(tmp_path: Path) -> None:
    """Other queries, and other later documents, leave the first corpus as it is."""
    one = stream(animals(tmp_path / "1"))
    folder = animals(tmp_path / "2")
    queries = (folder / "queries.jsonl").read_text(encoding="utf-8").replace('"a kiwi"', '"zebra zebra"')
    (folder / "queries.jsonl").write_text(queries, encoding="utf-8")
    other = stream(folder)
    assert one.fingerprint == other.fingerprint
    for exp in one.train.experiences[1:]:
        assert len(exp) == exp.documents == len(exp.classes)


def test_orders(tmp_path: Path) -> None:
    folder = animals(tmp_path)
    assert stream(folder).class_names == tuple(f"d{i}" for i in range(10))
    article = stream(folder, order="article")
    assert article.class_names == tuple(f"d{i}" for i in (0, 3, 6, 9, 1, 4, 7, 2, 5, 8))
    drawn = [stream(folder, order="random", seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].class_names == drawn[1].class_names != drawn[2].class_names
    assert [b.seed for b in drawn] == [0, 0, 1]
    assert sorted(drawn[2].class_names) == [f"d{i}" for i in range(10)]
    assert stream(folder, documents=6).class_names == tuple(f"d{i}" for i in range(6))


def test_titles(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        [
            {"_id": str(i), "title": f"the {w}", "text": f"the {w} of {v} of {u}"}
            for i, (w, v, u) in enumerate(zip(WORDS[:6], WORDS[6:12], WORDS[12:18], strict=True))
        ],
        [{"_id": str(i), "text": f"{w}?"} for i, w in enumerate(WORDS[:6])],
        test=[f"{i}\t{i}\t1" for i in range(6)],
    )
    said = {
        titles: words_of(b := stream(folder, titles=titles, first=0.9, corpora=1), b.train[0].data.x())
        for titles in ("keep", "remove", "query")
    }
    assert said["keep"][0] == "the ant of gnu of mole"
    assert said["remove"][0] == said["query"][0] == "of gnu of mole"
    asked = stream(folder, titles="query", first=0.5, corpora=1)
    assert [len(exp) for exp in asked.train] == [3, 3]  # no labelled queries at all
    assert [exp.documents for exp in asked.train] == [3, 3]
    assert [len(exp) for exp in asked.test] == [3, 3]


def test_several_relevant_documents(tmp_path: Path) -> None:
    """The query is asked of every corpus that has some of them, and those of the corpus are right there."""
    folder = write(
        tmp_path,
        [{"_id": str(i), "text": f"{w} animal"} for i, w in enumerate(WORDS[:6])],
        [{"_id": "q", "text": "animal"}, *({"_id": str(i), "text": WORDS[i]} for i in range(6))],
        train=["q\t0\t1", "q\t5\t1", "1\t1\t1", "1\t2\t1"],
        test=["q\t0\t1", "q\t2\t3", "q\t4\t2", *(f"{i}\t{i}\t1" for i in range(6))],
    )
    benchmark = stream(folder, first=0.5, corpora=1)
    assert benchmark.train[0].data.y().tolist() == [
        0,
        1,
        2,
        1,
        2,
    ]  # not the query that a later document answers
    first, second = benchmark.test
    assert first.data.y().tolist() == [0, 0, 1, 2]
    assert second.data.y().tolist() == [4, 3, 4, 5]
    also = first.data.also()
    assert also is not None
    assert also.tolist() == [[2], [-1], [-1], [-1]]
    assert stream(animals(tmp_path / "single")).test[0].data.also() is None


def test_texts_are_cut(tmp_path: Path) -> None:
    benchmark = stream(animals(tmp_path), length=1)
    assert benchmark.input_shape == (1,)
    assert words_of(benchmark, benchmark.train[0].data.x())[:2] == ["ant", "cat"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"first": 1.0}, "first is between 0 and 1"),
        ({"corpora": 0}, "corpora and length are 1 or more"),
        ({"corpora": 6}, "10 documents cannot be shared out, 50% to the first corpus and the others to 6"),
        ({"documents": 11}, "has 10 documents; documents=11"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path: Path, params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stream(animals(tmp_path), **params)


def test_collections_that_do_not_fit(tmp_path: Path) -> None:
    folder = animals(tmp_path / "a")
    with pytest.raises(DataError, match=r"no judgements qrels/dev.tsv; there are test, train"):
        stream(folder, test="dev")
    pairs = [f"q{i}b\td{i}\t1" for i in range(8)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(pairs), encoding="utf-8")  # without a header
    with pytest.raises(DataError, match=r"corpus 2, documents 8 … 9 of the order 'file', has no queries"):
        stream(folder)
    untitled = Collection("x", ("a", "b"), ("", ""), ("ant", "bee"), {}, {"test": {}})
    with pytest.raises(ConfigError, match="order 'article' needs documents with titles"):
        retrieval(untitled, name="x", order="article", corpora=1)


# --- registered ---


def test_the_embedded_collection_is_the_same_everywhere() -> None:
    benchmark = make_benchmark("dsi-numpy")
    assert benchmark.fingerprint == "abc74c58c3e25213e30dffd2fdb65799244694522bdbb979473de082a79d0c05"
    assert (benchmark.num_classes, [len(exp) for exp in benchmark.test]) == (664, [176, 45, 19, 20, 24, 21])


def test_the_embedded_collection_keeps_the_rules_of_benchmarks() -> None:
    for result in check_benchmark("dsi-numpy"):
        assert result.status == "passed", result


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = animals(tmp_path)
    made = [make_benchmark("dsi", folder=str(folder), corpora=2) for _ in range(2)]
    assert made[0].fingerprint == made[1].fingerprint


KNOWN = ("dsi-squad-sentences", "dsi-boolq", "dsi-cranfield")


@pytest.mark.parametrize("name", KNOWN)
def test_without_the_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match="There is no collection"):
        benchmarks.make(name)


@pytest.mark.parametrize("name", KNOWN)
def test_with_the_data(name: str) -> None:
    try:
        beir_folder(name.removeprefix("dsi-").replace("-", "_"))
    except DataError:
        pytest.skip("needs the collection in CLBENCH_DATA")
    benchmark = benchmarks.make(name, documents=600)
    assert len(benchmark.train) == 6
    assert benchmark.num_classes == 600
    assert all(len(exp) for exp in benchmark.test)
