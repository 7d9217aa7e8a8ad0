"""Data sets of texts: lists, files and what clbench brings; what is refused, and what the refusal says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench.data import duplicates, intents, read_texts
from clbench.data.texts import EMBEDDED
from clbench.errors import ClbenchError, ConfigError, DataError
from clbench.registry import benchmarks
from clbench.testing import check_benchmark
from clbench.transforms.utf8 import pack, rows_of
from clbench.types import Benchmark

TEXTS = [
    "play a song",
    "what's the weather",
    "naïve café",
    "turn it up",
    "rain tomorrow?",
    "un café",
    "next song",
]
LABELS = ["music", "weather", "food", "music", "weather", "food", "music"]


def test_texts_come_back_from_their_bytes() -> None:
    x = pack(TEXTS, 20)
    assert x.shape == (7, 20)
    assert [row.decode() for row in rows_of(x)] == TEXTS


def test_a_cut_text_ends_with_a_whole_character() -> None:
    assert rows_of(pack(["naïve"], 3)) == [b"na"]  # ï takes two bytes
    assert rows_of(pack(["naïve"], 4)) == ["naï".encode()]


# --- lists ---


def from_texts(**changes: Any) -> Benchmark:
    given = {"texts_train": TEXTS[:6], "y_train": LABELS[:6], "texts_test": TEXTS[3:], "y_test": LABELS[3:]}
    return clbench.from_texts(**{"experiences": 3, **given, **changes})


def test_lists_make_a_benchmark() -> None:
    benchmark = from_texts()
    assert benchmark.texts
    assert benchmark.class_names == ("food", "music", "weather")
    assert [exp.classes for exp in benchmark.train] == [(0,), (1,), (2,)]
    assert rows_of(benchmark.train[2].data.x()) == [b"what's the weather", b"rain tomorrow?"]
    assert benchmark.fingerprint == from_texts().fingerprint


def test_numbers_as_labels_are_in_their_order() -> None:
    number = {"music": 10, "weather": 9, "food": -1}
    benchmark = from_texts(
        y_train=[number[c] for c in LABELS[:6]], y_test=torch.tensor([number[c] for c in LABELS[3:]])
    )
    assert benchmark.class_names == ("-1", "9", "10")


def test_lists_may_hold_scalars_of_arrays() -> None:
    numbers, words = np.arange(4), np.array(["a", "b", "c", "d"])
    made = clbench.from_texts(list(words), list(numbers), words, numbers, experiences=2)
    assert made.class_names == ("0", "1", "2", "3")


def test_listed_names_number_the_classes_and_order_them() -> None:
    benchmark = from_texts(class_names=["weather", "food", "music"], class_order=["music", "food", "weather"])
    assert benchmark.class_names == ("weather", "food", "music")
    assert [exp.classes for exp in benchmark.train] == [(2,), (1,), (0,)]


def test_long_texts_are_cut_and_that_is_told() -> None:
    benchmark = from_texts(longest=10)
    assert benchmark.input_shape == (10,)
    assert benchmark.found == ("5 of 10 texts are cut to their first 10 bytes.",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts_train": ["", *TEXTS[1:6]]}, r"texts_train\[0\]: the text is empty"),
        ({"texts_train": [*TEXTS[:5], " \n"]}, r"texts_train\[5\]: the text is empty"),
        ({"texts_test": [3, *TEXTS[4:]]}, r"texts_test\[0\]: a text is expected; 3 is none"),
        ({"texts_train": ["a\0b", *TEXTS[1:6]]}, r"texts_train\[0\]: the text holds the character U\+0000"),
        ({"texts_train": ["\ud800", *TEXTS[1:6]]}, r"texts_train\[0\]: the text is no Unicode"),
        (
            {"y_train": [*LABELS[:5], 3]},
            r"texts_train\[5\]: the label is 3, and that of .*\[0\] is 'music'; write all",
        ),
        (
            {"y_train": [*LABELS[:5], 0.5]},
            r"texts_train\[5\]: a label is a name or a whole number; 0\.5 is neither",
        ),
        ({"y_train": [*LABELS[:5], None]}, r"texts_train\[5\]: the label is missing"),
        ({"y_train": LABELS[:5]}, r"texts_train and y_train need one label for each text.* 6 and 5"),
        (
            {"y_test": ["food", "weather", "other", "music"]},
            r"the class 'other' is in the test texts and not among",
        ),
        (
            {"y_test": ["music", "weather", "music", "music"]},
            r"the class 'food' is in the train texts and not among",
        ),
        ({"class_names": ["food", "music"]}, r"the label 'weather' is none of the 2 that are listed"),
        ({"texts_valid": TEXTS}, r"texts_valid and y_valid go together"),
        ({"class_order": [0, 1, 1]}, r"class_order must list every class .* 1 twice, no 2"),
    ],
)
def test_what_cannot_be_used_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ClbenchError, match=message):
        from_texts(**changes)


# --- files ---


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
CSV = "label,text\n" + "".join(f'{label},"{text}"\n' for text, label in zip(TEXTS, LABELS, strict=True))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.jsonl", jsonl(*ROWS)),
        ("A.CSV", CSV),
        ("A.TSV", CSV.replace(",", "\t")),
    ],
)
def test_one_file_is_shared_out_evenly(name: str, content: str, tmp_path: Path) -> None:
    source = read_texts(write(tmp_path / name, content), test_fraction=0.5)
    assert rows_of(source.train.x) == [
        b"play a song",
        b"what's the weather",
        "naïve café".encode(),
        b"next song",
    ]
    assert rows_of(source.test.x) == [b"turn it up", b"rain tomorrow?", "un café".encode()]
    assert source.class_names == ("food", "music", "weather")


def test_a_folder_has_parts_domains_and_an_order_of_classes(tmp_path: Path) -> None:
    rows = [
        {"q": text, "intent": label, "place": label == "food"}
        for text, label in zip(TEXTS, LABELS, strict=True)
    ]
    rows = [{**row, "place": "kitchen" if row["place"] else "room"} for row in rows]
    for split in ("train", "test", "dev"):
        write(tmp_path / f"{split}.jsonl", jsonl(*rows))
    write(tmp_path / "classes.txt", "weather\nmusic\nfood\n")
    source = read_texts(tmp_path, text="q", label="intent", domain="place")
    assert source.class_names == ("weather", "music", "food")
    assert source.domain_names == ("kitchen", "room")
    assert source.domain_train is not None
    assert source.domain_train.tolist() == [1, 1, 0, 1, 1, 0, 1]
    assert source.valid is not None


def test_parquet_is_read_where_pyarrow_is_there(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": TEXTS, "label": LABELS}), tmp_path / "a.parquet")
    assert read_texts(tmp_path / "a.parquet", test_fraction=0.5).class_names == ("food", "music", "weather")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": TEXTS, "kind": LABELS}, r"a\.parquet, row 1: there is no column 'label'.*text, kind"),
        ({"text": [None, *TEXTS[1:]], "label": LABELS}, r"row 1: a text is expected; None is none"),
        ({"text": TEXTS, "label": [*LABELS[:6], None]}, r"row 7: the label is missing"),
        ({"text": TEXTS, "label": [0.5] * 7}, r"row 1: a label is a name or a whole number; 0\.5 is neither"),
        ({"text": [1, 2, 3, 4, 5, 6, 7], "label": LABELS}, r"row 1: a text is expected; 1 is none"),
        ({"text": [b"a"] * 7, "label": LABELS}, r"row 1: a text is expected; b'a' is none"),
        ({"text": [], "label": []}, r"a\.parquet holds no text"),
    ],
)
def test_a_bad_table_of_parquet_is_named_with_its_row(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / "a.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"a\.parquet is not a readable Parquet file"):
        read_texts(write(tmp_path / "a.parquet", b"PAR1 and nothing else"))


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"a\.parquet: Parquet needs pyarrow .* pip install 'clbench\[parquet\]'"
    ):
        read_texts(write(tmp_path / "a.parquet", b"PAR1"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,kind\nx,y\n", r"a\.csv, line 2: there is no column 'label'.*text, kind"),
        (
            "a.csv",
            'text,label\na,x\n"b\nc",x\nd,x,y\n',
            r"a\.csv, line 5 has 3 fields and the first line names 2",
        ),
        ("a.csv", "text,label\na,x\n,y\n", r"a\.csv, line 3: the text is empty"),
        ("a.csv", "text,label\na,x\nb,\n", r"a\.csv, line 3: the label is missing"),
        ("a.csv", "text,label\na,x\nb, \n", r"a\.csv, line 3: the label is missing"),
        (
            "a.csv",
            "text,label\na,x\nb, x\n",
            r"a\.csv, line 3: the label is ' x', and that of .*line 2 is 'x'; they differ by spaces alone",
        ),
        ("a.csv", "text,label,text\na,x,b\n", r"a\.csv, line 1 names the column 'text' twice"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b", "label": "\\ud800"}\n',
            r"a\.jsonl, line 2: the label is no Unicode",
        ),
        ("a.csv", b"text,label\na,x\ncaf\xe9,x\n", r"a\.csv, line 3: byte 0xe9 is no UTF-8"),
        ("a.csv", "text,label\n", r"a\.csv holds no text"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": 3, "label": "x"}\n',
            r"a\.jsonl, line 2: a text is expected",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b", "label": 1}\n',
            r"line 2: the label is 1, and that of",
        ),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', r"line 2: there is no column 'label'"),
        ("a.jsonl", '{"text": "a",\n', r"a\.jsonl, line 1 is not JSON"),
        ("a.jsonl", '["a"]\n', r"a\.jsonl, line 1 must hold an object"),
        ("a.txt", "a\n", r"a\.txt is none of \.csv, \.tsv, \.jsonl, \.parquet"),
        ("a.jsonl", jsonl(*ROWS), r"of 3 of the class 'music', a test_fraction of 0\.2 leaves none"),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_texts(write(tmp_path / name, content))


def test_a_text_may_be_longer_than_the_csv_module_expects(tmp_path: Path) -> None:
    rows = "".join(f"{'word ' * 30000},{label}\n" for label in "xxyy")
    source = read_texts(write(tmp_path / "a.csv", f"text,label\n{rows}"), test_fraction=0.5)
    assert source.train.x.shape == (2, 4096)
    assert source.found == ("4 of 4 texts are cut to their first 4,096 bytes.",)


def test_another_order_of_classes_is_read_anew(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.csv", "text,label\na,x\nb,y\n")
    for classes in ("x\ny\n", "y\nx\n"):
        write(tmp_path / "classes.txt", classes)
        assert read_texts(tmp_path).class_names == tuple(classes.split())


def test_a_listed_class_needs_texts(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.csv", "text,label\na,x\nb,y\n")
    write(tmp_path / "classes.txt", "x\n\ny\nz\n")
    with pytest.raises(DataError, match=r"the label 'z' is listed, and no text has it"):
        read_texts(tmp_path)
    write(tmp_path / "classes.txt", "y\n\nx\n")
    assert read_texts(tmp_path).class_names == ("y", "x")


def test_a_folder_without_a_part_says_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", CSV)
    with pytest.raises(DataError, match=r"holds no test file \(test\.csv, .*; it holds train\.csv"):
        read_texts(tmp_path)
    with pytest.raises(DataError, match=r"There are no texts at 'nowhere'"):
        read_texts("nowhere")


def test_a_part_may_be_in_numbered_files(tmp_path: Path) -> None:
    for name, rows in (
        ("train-00000-of-00002", "a,x\n"),
        ("train-00001-of-00002", "b,y\n"),
        ("test_10", "d,y\n"),
        ("test_2", "c,x\n"),
    ):
        write(tmp_path / f"{name}.csv", f"text,label\n{rows}")
    source = read_texts(tmp_path)
    assert [rows_of(pool.x) for pool in (source.train, source.test)] == [[b"a", b"b"], [b"c", b"d"]]
    write(tmp_path / "train-00000-of-00002.csv", "text,label\na,x\n ,x\n")
    with pytest.raises(DataError, match=r"train-00000-of-00002\.csv, line 3: the text is empty"):
        read_texts(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00002"], r"holds 1 of the 2 files that train-00000-of-00002\.csv speaks of"),
        (["train_0", "train"], r"holds both train\.csv and train_0\.csv; leave one of them"),
        (["train-0-of-2", "train-00000-of-00002"], r"holds both .*; leave one of them"),
    ],
)
def test_numbered_files_that_are_not_whole_are_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in (*names, "test"):
        write(tmp_path / f"{name}.csv", CSV)
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path)


# --- what is registered ---


@pytest.mark.parametrize(
    ("name", "experiences", "classes", "texts", "twice"),
    [("split-clinc150", 15, 150, (15000, 3000, 4500), 2), ("split-banking77", 7, 77, (10003, 0, 3080), 6)],
)
def test_intents_need_no_download(
    name: str, experiences: int, classes: int, texts: tuple[int, int, int], twice: int
) -> None:
    benchmark = benchmarks.make(name)
    assert len(benchmark.train) == experiences
    assert benchmark.num_classes == len(benchmark.class_names) == classes
    streams = (benchmark.train, benchmark.valid or (), benchmark.test)
    assert tuple(sum(map(len, stream)) for stream in streams) == texts
    assert duplicates.shared(benchmark.test, [benchmark.train])[0] == twice
    assert benchmark.transform.mean == (0.0,)  # of bytes there is no brightness


@pytest.mark.parametrize("name", ["split-clinc150", "split-banking77"])
def test_benchmarks_keep_their_rules(name: str) -> None:
    for result in check_benchmark(name):
        assert result.status in ("passed", "skipped"), result


def test_experiences_by_domain_are_domains() -> None:
    benchmark = benchmarks.make("split-clinc150", by="domains")
    assert [len(exp.classes) for exp in benchmark.train] == [15] * 10
    assert benchmark.class_names[:3] == ("freeze account", "routing", "pin change")  # banking, the first one
    assert [exp.classes for exp in benchmark.train] == [tuple(range(i, i + 15)) for i in range(0, 150, 15)]
    other = benchmarks.make("split-clinc150", by="domains", domain_order="shuffled", seed=1)
    assert {exp.classes for exp in other.train} == {exp.classes for exp in benchmark.train}
    assert other.train[0].classes != benchmark.train[0].classes
    with pytest.raises(ConfigError, match="every domain is an experience"):
        benchmarks.make("split-clinc150", by="domains", experiences=5)


def test_the_first_texts_of_each_class_make_a_smaller_stream() -> None:
    whole, small = (
        intents("banking77"),
        clbench.make_benchmark(
            "split-banking77", train_per_class=40, test_per_class=10, class_order="natural", experiences=77
        ),
    )
    assert (sum(map(len, small.train)), sum(map(len, small.test))) == (3075, 770)  # some have fewer than 40
    for c in (0, 76):
        assert torch.equal(small.train[c].data.x(), whole.train.x[whole.train.y == c][:40])
    assert small.found[0] == "Of the train texts, the first 40 of each class are used: 3,075 of 10,003."
    assert small.fingerprint != clbench.make_benchmark("split-banking77", experiences=77).fingerprint


def test_of_each_domain_there_are_so_many(tmp_path: Path) -> None:
    rows = [{"text": f"{d} {c} {i}", "label": c, "domain": d} for i in range(5) for c in "ab" for d in "xy"]
    write(tmp_path / "a.jsonl", jsonl(*rows))
    built = clbench.make_benchmark(
        "text-file",
        path=str(tmp_path / "a.jsonl"),
        domain="domain",
        shift="domain",
        test_fraction=0.4,
        train_per_class=2,
    )
    assert [len(exp) for exp in built.train] == [4, 4]


def test_licences_lie_beside_the_texts_and_in_them() -> None:
    told = (EMBEDDED / "LICENSE.txt").read_text(encoding="utf-8")
    for name, licence in (("clinc150", "by/3.0"), ("banking77", "by/4.0")):
        assert f"{name}.json.xz" in told
        assert licence in told
        assert intents(name).train.x.dtype == torch.uint8


def test_ones_own_file_is_a_benchmark(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", CSV)
    benchmark = benchmarks.make(
        "text-file", path=str(path), test_fraction=0.5, experiences=[["food"], ["music", "weather"]]
    )
    assert [exp.classes for exp in benchmark.train] == [(0,), (1, 2)]
    record = clbench.run(
        "text-file",
        "simple-cil",
        path=str(path),
        test_fraction=0.5,
        experiences=3,
        model="bag-of-words",
        out=tmp_path,
    )
    assert record.status == "done"


# --- tasks ---


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Three tasks of texts; two of them share a label."""
    for task, labels in {"topics": ["a", "b"], "doubts": ["True", "False"], "claims": ["True", "no"]}.items():
        rows = [{"text": f"{task} {label} {i}", "label": label} for label in labels for i in range(3)]
        for split in ("train", "test"):
            write(tmp_path / "tasks" / task / f"{split}.jsonl", jsonl(*rows))
        write(tmp_path / "tasks" / task / "classes.txt", "\n".join(labels) + "\n")
    return tmp_path / "tasks"


def test_each_task_has_its_own_classes(tasks: Path) -> None:
    benchmark = benchmarks.make("text-tasks", path=str(tasks), order=["doubts", "topics", "claims"])
    assert benchmark.class_names[:3] == ("doubts: True", "doubts: False", "topics: a")
    assert [exp.classes for exp in benchmark.train] == [(0, 1), (2, 3), (4, 5)]
    assert benchmark.setting.shift == "class"
    told = benchmarks.make("text-tasks", path=str(tasks), order=["doubts", "topics"], task_labels=True)
    assert told.setting.task_labels == "always"


def test_shared_labels_are_one_class(tasks: Path) -> None:
    benchmark = benchmarks.make(
        "text-tasks", path=str(tasks), order=["doubts", "topics", "claims"], labels="shared"
    )
    assert benchmark.class_names == ("True", "False", "a", "b", "no")
    assert [exp.classes for exp in benchmark.train] == [(0, 1), (2, 3), (0, 4)]
    assert [exp.domain for exp in benchmark.train] == ["doubts", "topics", "claims"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"order": "o-lora-2"}, r"there is no order 'o-lora-2'\. Did you mean 'o-lora-6'"),
        ({"order": ["doubt"]}, r"holds no task 'doubt'\. Did you mean 'doubts'"),
        (
            {"order": ["doubts"], "labels": "shared", "task_labels": True},
            r"shared labels leave nothing",
        ),
    ],
)
def test_tasks_that_are_not_there_are_named(tasks: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ClbenchError, match=message):
        benchmarks.make("text-tasks", path=str(tasks), **params)
