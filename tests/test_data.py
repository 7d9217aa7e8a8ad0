"""Data sets: sources, what is refused and what the refusal says. Nothing here uses the network."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import data
from clbench.data import duplicates
from clbench.errors import ConfigError, DataError
from clbench.machine.torchvision import torchvision
from clbench.results.ids import run_id
from clbench.testing import check_benchmark
from clbench.types import Pool

Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def arrays(**changes: Any) -> Arrays:
    """Six 4 × 5 colour images of three classes in training, three in test."""
    images = np.arange(9 * 4 * 5 * 3, dtype=np.uint32).astype(np.uint8).reshape(9, 4, 5, 3)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    return {
        "x_train": images[:6],
        "y_train": labels[:6],
        "x_test": images[6:],
        "y_test": labels[6:],
        **changes,
    }


# --- arrays ---


def test_three_lines_to_ones_own_benchmark() -> None:
    benchmark = clbench.from_arrays(**arrays(), experiences=3)
    assert (benchmark.name, benchmark.version, benchmark.num_classes) == ("arrays", 1, 3)
    assert benchmark.input_shape == (3, 4, 5)
    assert [e.classes for e in benchmark.train] == [(0,), (1,), (2,)]
    assert len(benchmark.transform.mean) == 3
    assert benchmark.fingerprint == clbench.from_arrays(**arrays(), experiences=3).fingerprint


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ((6, 4, 5, 3), (3, 4, 5)),
        ((6, 3, 4, 5), (3, 4, 5)),
        ((6, 4, 5, 1), (1, 4, 5)),
        ((6, 4, 5), (1, 4, 5)),
        ((6, 3, 8, 8), (3, 8, 8)),
        ((6, 13, 16, 16), (13, 16, 16)),
        ((6, 16, 16, 13), (13, 16, 16)),
        ((6, 1, 5, 9), (1, 5, 9)),
        ((6, 7), (7,)),
    ],
)
def test_channels_come_first(shape: tuple[int, ...], stored: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    source = data.source_of(**arrays(x_train=x, x_test=x[:3]))
    assert source.train.x.shape == (6, *stored)
    assert source.train.x.is_contiguous()
    if shape == (6, 4, 5, 3):
        assert np.array_equal(source.train.x[2, 1].numpy(), x[2, :, :, 1])


@pytest.mark.parametrize(
    "shape", [(6, 9, 9, 30), (6, 30, 9, 9), (6, 3, 3, 30), (6, 4, 4, 4), (6, 9, 9, 9), (6, 13, 20, 16)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_that_could_lie_on_two_axes_are_asked_for(shape: tuple[int, ...], dtype: Any) -> None:
    x = np.arange(np.prod(shape)).astype(np.uint8).astype(dtype).reshape(shape)
    a, b, c = shape[1:]
    with pytest.raises(DataError, match=rf"{a} channels of {b} × {c} .* or {c} channels of {a} × {b}; say"):
        data.source_of(**arrays(x_train=x, x_test=x[:3]))
    first = data.source_of(**arrays(x_train=x, x_test=x[:3]), layout="channels-first").train.x
    last = data.source_of(**arrays(x_train=x, x_test=x[:3]), layout="channels-last").train.x
    assert np.array_equal(first.numpy(), x)
    assert np.array_equal(last.numpy(), x.transpose(0, 3, 1, 2))


def test_a_layout_is_of_images() -> None:
    for x in (np.zeros((6, 4), np.uint8), np.zeros((6, 4, 4), np.uint8)):
        with pytest.raises(DataError, match=r"layout is of images \(N, ·, ·, ·\); this array is of shape"):
            clbench.from_arrays(**arrays(x_train=x, x_test=x[:3]), layout="channels-last")


def test_deep_pixels_are_told_how_to_become_bytes() -> None:
    def message(x: Any) -> str:
        with pytest.raises(DataError) as raised:
            data.source_of(**arrays(x_train=x, x_test=x[:3]))
        return str(raised.value)

    deep = np.full((6, 4, 5, 3), 40_000, np.uint16)
    assert "from 40000 to 40000" in message(deep)
    assert ".astype(numpy.uint8)" in message(deep)
    assert "0 … 255 become uint8 by .astype(numpy.uint8)" in message(deep // 257)
    assert "by .astype(numpy.uint8) * 255" in message(deep > 0)


def test_validation_examples_of_ones_own() -> None:
    a = arrays(x_valid=arrays()["x_test"], y_valid=[0, 1, 2])
    benchmark = clbench.from_arrays(**a, experiences=3, class_order=[2, 0, 1])
    assert benchmark.valid is not None
    assert [e.data.y().tolist() for e in benchmark.valid] == [[2], [0], [1]]
    assert len(benchmark.train[0]) == 2
    domains = {"domain_train": [0, 1, 0, 1, 0, 1], "domain_test": [0, 1, 1], "domain_valid": [1, 0, 1]}
    benchmark = clbench.from_arrays(**a, **domains, shift="domain")
    assert benchmark.valid is not None
    assert [e.data.y().tolist() for e in benchmark.valid] == [[1], [0, 2]]
    with pytest.raises(ConfigError, match="have validation examples of their own"):
        clbench.from_arrays(**a, experiences=3, valid=0.5)
    with pytest.raises(ConfigError, match="own validation set leaves experience 2 no"):
        clbench.from_arrays(**{**a, "y_valid": [0, 0, 2]}, experiences=3)
    source = data.source_of(**a)
    few = data.build_few_shot(source, name="few", base=1, ways=1, shots=1).valid
    blurry = data.build_blurry(source, name="blurry", tasks=1).valid
    for stream in (few, blurry):
        assert stream is not None
        assert [e.data.y().tolist() for e in stream] == [[0], [1], [2]]
    with pytest.raises(DataError, match="Class 1 has no validation examples"):
        data.build_blurry(data.source_of(**{**a, "y_valid": [0, 0, 2]}), name="blurry", tasks=1)
    with pytest.raises(DataError, match="class 3 is in y_valid but not in y_train"):
        clbench.from_arrays(**{**a, "y_valid": [0, 3, 2]}, experiences=3)
    with pytest.raises(DataError, match="x_valid and y_valid go together"):
        clbench.from_arrays(**arrays(y_valid=[0, 1, 2]), experiences=3)


# --- the same example in training and test ---


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_shared_examples_are_counted_by_content(dtype: Any) -> None:
    """In other rows, and in arrays of their own."""
    x = np.random.default_rng(0).integers(0, 2, (400, 37)).astype(dtype)
    x_train, x_test = x[:300], x[300:].copy()
    x_test[[3, 50, 99]] = x_train[[200, 7, 7]]
    y = np.arange(300) % 2
    benchmark = clbench.from_arrays(x_train, y, x_test, y[:100], experiences=2)
    assert data.shared(benchmark.test, [benchmark.train]) == (3, 100)
    assert data.remarks(benchmark) == ["3 of 100 test examples are byte-identical to training examples."]
    (result,) = [r for r in check_benchmark(benchmark) if r.check == "rows_disjoint"]
    assert (result.status, "3 of 100 examples of the test stream" in result.message) == ("failed", True)
    known = replace(benchmark, duplicates=3)
    assert {r.status for r in check_benchmark(known)} <= {"passed", "skipped"}
    with pytest.raises(DataError, match="3 of 100 test examples are byte-identical to training examples"):
        clbench.from_arrays(x_train, y, x_test, y[:100], experiences=2, duplicates="refuse")


def test_examples_that_nothing_uses_are_not_shared() -> None:
    source = data.source_of(**arrays(x_test=arrays()["x_train"][3:]))
    benchmark = data.build_few_shot(source, name="few", base=2, ways=1, shots=1, rows=[2])
    assert data.shared(benchmark.test, [benchmark.train]) == (2, 3)  # row 5 of class 2 is no shot


def test_examples_are_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
    monkeypatch.setattr(duplicates, "CHUNK", 12)
    benchmark = clbench.from_arrays(x, np.arange(50) % 2, x[::-1], np.arange(50) % 2, experiences=2)
    assert data.shared(benchmark.test, [benchmark.train]) == (50, 50)


def test_equal_hashes_of_other_examples_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "hashes", property(lambda pool: torch.zeros(len(pool.x), dtype=torch.int64)))
    benchmark = clbench.from_arrays(**arrays(), experiences=3)
    assert data.shared(benchmark.test, [benchmark.train]) == (0, 3)


def test_a_record_says_what_is_shared_and_its_id_does_not(tmp_path: Path) -> None:
    a = arrays(x_test=arrays()["x_train"][:3])
    benchmark = clbench.from_arrays(**a, experiences=3)
    record = clbench.run(benchmark, "finetune", out=tmp_path, iterations=1, model="mlp")
    assert record.benchmark["notes"] == ["3 of 3 test examples are byte-identical to training examples."]
    bare = {key: value for key, value in record.benchmark.items() if key != "notes"}
    made_of = (record.config, bare, record.strategy, record.model, record.code)
    assert run_id(*made_of) == record.id == run_id(record.config, record.benchmark, *made_of[2:])
    clean = clbench.run(clbench.from_arrays(**arrays(), experiences=3), "finetune", out=tmp_path, model="mlp")
    assert "notes" not in clean.benchmark


def test_tensors_lists_and_views_are_taken() -> None:
    a = arrays()
    tensors = {key: torch.from_numpy(value) for key, value in a.items()}
    assert data.source_of(**tensors).train.digest == data.source_of(**a).train.digest
    lists = {**a, "y_train": a["y_train"].tolist(), "x_train": a["x_train"].tolist()}
    lists["x_train"] = np.array(lists["x_train"], dtype=np.uint8)
    assert data.source_of(**lists).train.digest == data.source_of(**a).train.digest
    a["x_train"].flags.writeable = False
    a["x_test"] = a["x_test"][::-1]
    data.source_of(**a)


def test_whole_numbers_are_used_as_they_are() -> None:
    tokens = np.arange(24, dtype=np.int32).reshape(6, 4)
    benchmark = clbench.from_arrays(**arrays(x_train=tokens, x_test=tokens[:3]), experiences=3)
    assert benchmark.train[0].data.x().dtype == torch.int64
    assert benchmark.transform.mean == ()


# --- normalisation ---


def floats(shape: tuple[int, ...] = (6, 4), **changes: Any) -> Arrays:
    x = np.random.default_rng(0).normal(50.0, 7.0, shape).astype(np.float32)
    return arrays(x_train=x, x_test=x[:3], **changes)


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 8, 8)])
def test_floats_are_standardised_by_the_first_experience(shape: tuple[int, ...]) -> None:
    """Each feature of vectors, each channel of images."""
    benchmark = clbench.from_arrays(**floats(shape), experiences=3)
    x = benchmark.transform.normalise(benchmark.train[0].data.x()).transpose(0, 1).flatten(1)
    assert torch.allclose(x.mean(1), torch.zeros(shape[1]), atol=1e-4)
    assert torch.allclose(x.std(1, correction=0), torch.ones(shape[1]), atol=1e-4)
    assert len(benchmark.transform.mean) == shape[1]


def test_later_experiences_do_not_move_the_normalisation() -> None:
    a = floats()
    other = {**a, "x_train": np.where(a["y_train"][:, None] == 0, a["x_train"], 1e4).astype(np.float32)}
    first, second = (clbench.from_arrays(**given, experiences=3).transform for given in (a, other))
    assert first == second


def test_a_feature_that_hardly_varies_at_first_has_the_scale_of_the_others() -> None:
    a = floats()
    a["x_train"][:, 1] = np.where(a["y_train"] == 0, 0.0, 30.0)
    std = clbench.from_arrays(**a, experiences=3).transform.std
    assert std[1] == sorted(std[i] for i in (0, 2, 3))[1]


def test_what_is_constant_has_a_std_of_one() -> None:
    x = np.full((6, 4), 3.0, np.float32)
    transform = clbench.from_arrays(**arrays(x_train=x, x_test=x[:3]), experiences=3).transform
    assert (transform.mean, transform.std) == ((3.0,) * 4, (1.0,) * 4)


@pytest.mark.parametrize(
    ("given", "how", "values"),
    [("bytes", "none", 0), ("floats", "none", 0), ("bytes", "first", 3), ("tokens", "first", 4)],
)
def test_what_normalises_is_a_setting(given: str, how: Any, values: int) -> None:
    tokens = np.arange(24).reshape(6, 4)
    data = {
        "bytes": arrays(),
        "floats": floats(),
        "tokens": arrays(x_train=tokens, x_test=tokens[:3]),
    }[given]
    assert len(clbench.from_arrays(**data, experiences=3, normalise=how).transform.mean) == values


# --- labels by name ---


@pytest.mark.parametrize("kind", [np.array, list, lambda names: np.array(names, dtype=object)])
def test_labels_may_be_names(kind: Any) -> None:
    a = arrays(y_train=kind(["ant", "cat", "bee"] * 2), y_test=kind(["cat", "ant", "bee"]))
    benchmark = clbench.from_arrays(**a, experiences=[["cat"], ["ant", "bee"]])
    assert benchmark.class_names == ("ant", "bee", "cat")
    assert [e.classes for e in benchmark.train] == [(2,), (0, 1)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "y_train is a NoneType; give an array, a tensor or a list"),
        ({0, 1, 2}, "y_train is a set; give an array"),
        (np.eye(3)[[0, 1, 2] * 2], r"one-hot rows by \.argmax\(1\)"),
        ([0.0, 1.0, 2.0] * 2, r"become integers by \.astype\(int\)"),
        ([0.0, float("nan"), 2.0] * 2, "Example 1 has none"),
        (["ant", None, "bee"] * 2, "Example 1 has none"),
        (np.array(["ant", type("NAType", (), {})(), "bee"] * 2), "Example 1 has none"),
        ([b"ant", b"bee", b"cat"] * 2, r"becomes text by \.astype\(str\)"),
        (["ant", "", "cat"] * 2, "holds '' in example 1; a name has letters"),
        (["ant", "b\n", "cat"] * 2, "no control characters"),
    ],
)
def test_labels_that_are_neither_numbers_nor_names(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        clbench.from_arrays(**arrays(y_train=labels))


def test_domains_may_be_names() -> None:
    a = arrays(domain_train=["ink", "oil", "ink"] * 2, domain_test=["ink", "oil", "oil"])
    assert [e.domain for e in clbench.from_arrays(**a, shift="domain").train] == ["ink", "oil"]


def test_a_name_that_is_none() -> None:
    a = arrays(y_train=["ant", "bee", "cat"] * 2, y_test=["ant", "bee", "cot"])
    with pytest.raises(
        DataError, match=r"y_test holds 'cot', .* Did you mean 'cat'\? Known: ant, bee, cat\."
    ):
        clbench.from_arrays(**a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": np.zeros((6, 4, 5, 3), np.int64)},
            r"x_train: int64 of shape .* \.astype\(numpy\.uint8\)",
        ),
        ({"x_train": np.zeros((6, 4, 5, 3), bool)}, r"x_train: bool .* \.astype\(numpy\.uint8\)"),
        ({"x_train": np.array([["a"]] * 6)}, "x_train: <U1"),
        ({"x_train": np.array([None] * 6)}, "x_train: object"),
        ({"x_train": np.zeros((6, 4, 5), np.float32)}, "x_train: float32 of shape"),
        (
            {"x_train": torch.utils.data.TensorDataset(torch.zeros(6, 3))},
            r"x_train is a TensorDataset, no array; clbench\.from_dataset takes data sets",
        ),
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8)}, "x_train is empty"),
        ({"x_train": np.full((6, 3), np.nan)}, "x_train holds NaN or infinity, first in example 0; remove"),
        (
            {"x_train": np.full((6, 3), 1e39)},
            r"x_train holds 1e\+39, first in example 0; float32.* scale them",
        ),
        ({"x_train": np.full((6, 3), np.longdouble("1e400"))}, r"x_train holds 1e\+400, first in example 0"),
        ({"x_train": torch.full((6, 3), -1e39, dtype=torch.float64)}, r"x_train holds -1e\+39, first in"),
        ({"x_train": np.zeros((6, 3), complex)}, "x_train: complex128"),
        ({"x_train": torch.zeros(6, 3, dtype=torch.complex64)}, "x_train: complex64"),
        ({"x_train": np.zeros((6, 3), "M8[s]")}, "x_train: datetime64"),
        ({"x_train": np.full((6, 3), 1 << 63, np.uint64)}, "x_train holds 9223372036854775808; .* int64"),
        (
            {"x_train": [[1.0, 2.0]] * 5 + [[1.0]]},
            "x_train cannot be read as an array of numbers of one shape",
        ),
        ({"x_train": torch.zeros(6, 3).to_sparse()}, r"x_train cannot be read .*to_dense\(\) first\.$"),
        ({"x_train": np.ma.masked_less(np.arange(18.0).reshape(6, 3), 2)}, "x_train has 2 masked values"),
        ({"y_train": np.full(6, 1 << 63, np.uint64)}, "y_train holds 9223372036854775808 in example 0"),
        ({"x_train": np.zeros((6, 4, 6, 3), np.uint8)}, "x_train and x_test must be of one shape and type"),
        ({"y_train": np.zeros(5, int)}, "y_train holds 5 numbers for 6 examples"),
        (
            {"y_train": np.zeros((6, 1), int)},
            r"one integer, or one name, per example; it is int64 of shape \(6, 1\)",
        ),
        ({"y_train": np.zeros(6)}, "one integer, or one name, per example; it is float64"),
        ({"y_train": np.array([0, 1, 2, 0, -1, 2])}, "y_train holds -1 in example 4"),
        ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "y_train has no example of class 2.*never renumbers"),
        ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, "y_train has no example of class 0"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 1 << 40])}, "y_train has no example of class 3"),
        ({"y_test": np.array([0, 1, 1])}, "y_test has no example of class 2"),
        ({"y_test": np.array([0, 1, 3])}, "class 3 is in y_test but not in y_train"),
        ({"y_train": np.array([0, 1, 0, 0, 1, 1])}, "class 2 is in y_test but not in y_train"),
        ({"domain_train": np.zeros(6, int)}, "domain_train and domain_test go together"),
        (
            {"domain_train": np.zeros(6, int), "domain_test": np.zeros(2, int)},
            "domain_test holds 2 numbers for 3",
        ),
        ({"class_names": ["cat"]}, "1 class names were given for 3 classes"),
    ],
)
def test_arrays_that_cannot_be(changes: Arrays, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.source_of(**arrays(**changes))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"shift": "domain"}, "shift 'domain' needs the domain of every example"),
        ({"mean": (0.5,)}, "mean and std go together"),
        ({"mean": (0.5,) * 2, "std": (0.5,) * 2}, "need 1 or 3 values each; 2 were given"),
        ({"mean": "grey", "std": 1}, "'mean' takes a number or a list of numbers or none; 'grey' was given"),
        ({"mean": 0.5, "std": 1, "normalise": "first"}, "normalise='first' does nothing beside mean and std"),
        ({"mean": 0.5, "std": 1e-39}, "stds are too small for their means"),
        (
            {"shift": "clas"},
            r"from_arrays\(\): parameter 'shift' takes one of 'class', 'domain', 'task'; 'clas' was",
        ),
        ({"seed": 1.5}, "'seed' takes a whole number; 1.5 was given"),
        ({"online": "maybe"}, "'online' takes true or false; 'maybe' was given"),
        ({"experience": 3}, r"from_arrays\(\) has no parameter 'experience'\. Did you mean 'experiences'"),
        (
            {"experiences": [[0, 1], [1, 2]]},
            "experiences must list every class of the data once; it has 1 twice",
        ),
        ({"experiences": [[0, 1], []]}, "Every experience needs a class; .* number 1 has none"),
        ({"experiences": [[0, 1], [2]], "class_order": "shuffled"}, "leave nothing to class_order"),
        ({"experiences": [["cat"], ["dog"]]}, "there is no class 'cat'. The data name none"),
        ({"domain_order": [1, 0]}, "domain_order does nothing with shift 'class'"),
        (
            {"shift": "domain", "domain_train": [0, 1, 2] * 2, "domain_test": [0, 1, 2], "experiences": 2},
            "every domain is an experience, and there are 3; experiences=2 was given",
        ),
        (
            {
                "shift": "domain",
                "domain_train": [0, 1, 2] * 2,
                "domain_test": [0, 1, 2],
                "class_order": [2, 1, 0],
            },
            "class_order does nothing with shift 'domain'",
        ),
        ({"augment": ("rotate",)}, "no training operation 'rotate'"),
        ({"experiences": 2}, "3 classes cannot be shared out evenly over 2"),
    ],
)
def test_benchmarks_that_cannot_be(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clbench.from_arrays(**arrays(), **{"experiences": 3, **params})


def test_only_images_are_augmented() -> None:
    x = np.zeros((6, 4), np.float32)
    with pytest.raises(ConfigError, match=r"augmentation needs images \(C, H, W\)"):
        clbench.from_arrays(**arrays(x_train=x, x_test=x[:3]), experiences=3, augment=["flip"])


def test_settings() -> None:
    task = clbench.from_arrays(**arrays(), experiences=3, shift="task", online=True)
    assert (task.setting.shift, task.setting.task_labels, task.setting.passes) == ("task", "always", 1)
    assert [e.task for e in task.train] == [0, 1, 2]
    domains = {"domain_train": [1, 1, 1, 0, 0, 0], "domain_test": [0, 1, 0], "domain_names": ["day", "night"]}
    domain = clbench.from_arrays(**arrays(**domains), shift="domain", domain_order=[1, 0])
    assert (domain.setting.shift, domain.setting.task_labels, domain.setting.passes) == (
        "domain",
        "never",
        None,
    )
    assert [e.domain for e in domain.train] == ["night", "day"]
    blocks = clbench.from_arrays(**arrays(), first=2, increment=1)
    assert [e.classes for e in blocks.train] == [(0, 1), (2,)]


def test_the_seed_is_recorded_where_it_draws() -> None:
    def seed(**params: Any) -> int:
        return clbench.from_arrays(**arrays(), experiences=3, seed=4, **params).seed

    assert seed() == 0
    assert seed(class_order=[2, 1, 0]) == 0
    assert seed(class_order="shuffled") == 4
    assert clbench.from_arrays(**arrays(), experiences=1, seed=4, valid=0.5).seed == 4


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_orders_and_moments_may_be_arrays(kind: Any) -> None:
    """As lists are, and recorded alike."""
    mean, std = kind([0.1, 0.2, 0.3]), kind([1.0, 1.0, 2.0])
    built = clbench.from_arrays(**arrays(), experiences=3, class_order=kind([2, 0, 1]), mean=mean, std=std)
    listed = clbench.from_arrays(
        **arrays(),
        experiences=3,
        class_order=[2, 0, 1],
        mean=mean.tolist() if kind is not tuple else mean,
        std=std,
    )
    assert [e.classes for e in built.train] == [(2,), (0,), (1,)]
    assert built.fingerprint == listed.fingerprint
    domains = {"domain_train": kind([1, 1, 1, 0, 0, 0]), "domain_test": kind([0, 1, 0])}
    turned = clbench.from_arrays(
        **arrays(**domains), shift="domain", domain_order=kind([1, 0]), experiences=2
    )
    assert [e.domain for e in turned.train] == ["domain 1", "domain 0"]


def test_one_mean_is_for_all_channels() -> None:
    one = clbench.from_arrays(**arrays(), experiences=3, mean=0.5, std=np.float64(0.25)).transform
    three = clbench.from_arrays(**arrays(), experiences=3, mean=[0.5] * 3, std=[0.25] * 3).transform
    x = torch.from_numpy(arrays()["x_train"].transpose(0, 3, 1, 2).copy())
    assert torch.equal(one.normalise(x), three.normalise(x))


@pytest.mark.parametrize("listed", [[[0, 2], [1]], np.array([0, 1, 2])[:, None], [["emu", "cat"], ["dog"]]])
def test_experiences_may_list_their_classes(listed: Any) -> None:
    built = clbench.from_arrays(**arrays(), class_names=["cat", "dog", "emu"], experiences=listed)
    assert [e.classes for e in built.train] == ([(0, 2), (1,)] if len(listed) == 2 else [(0,), (1,), (2,)])
    assert [sorted(set(e.data.y().tolist())) for e in built.test] == [list(e.classes) for e in built.train]


def test_two_channels() -> None:
    x = arrays()["x_train"][..., :2]
    built = clbench.from_arrays(**arrays(x_train=x, x_test=x[:3]), experiences=3, mean=0.5, std=1)
    assert built.input_shape == (2, 4, 5)
    assert len(clbench.from_arrays(**arrays(x_train=x, x_test=x[:3]), experiences=3).transform.mean) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_tensors_of_few_bits_are_taken(dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 2, 18).view(6, 3).to(dtype)
    found = data.source_of(**arrays(x_train=x, x_test=x[:3])).train.x
    assert found.dtype == torch.float32
    assert torch.equal(found, x.float())


def test_moments_are_exact() -> None:
    x = torch.randint(256, (2100, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 51
    mean, std = data.moments(x, 1 / 255)
    exact = x.double() / 255
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std[:2] == pytest.approx(exact.std((0, 2, 3), correction=0)[:2].tolist(), abs=1e-6)
    assert (mean[2], std[2]) == (0.2, 1.0)
    flat = data.moments(x.flatten(1), 1 / 255)
    assert flat[0] == pytest.approx([float(exact.mean())], abs=1e-6)


# --- digits ---


def test_digits_are_split_by_the_recorded_rule() -> None:
    source = data.digits()
    assert source.train.x.shape == (1442, 1, 8, 8)
    assert source.test.x.shape == (355, 1, 8, 8)
    assert int(source.train.x.max()) == 16
    counts = source.train.y.bincount(), source.test.y.bincount()
    assert torch.equal(counts[1], (counts[0] + counts[1]).div(5, rounding_mode="floor"))


# --- .npz ---


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, **arrays(), class_names=np.array(["cat", "dog", "emu"]))
    return path


def test_npz_is_read_as_it_is(npz: Path) -> None:
    benchmark = clbench.from_npz(npz, experiences=3)
    assert benchmark.class_names == ("cat", "dog", "emu")
    assert benchmark.fingerprint == clbench.from_arrays(**arrays(), experiences=3).fingerprint


def test_npz_that_changes_is_read_again(npz: Path) -> None:
    """Even in place, to as many bytes, with its time put back."""
    before, stat = data.read_npz(npz), npz.stat()
    assert data.read_npz(npz) is before
    np.savez(
        npz, **arrays(x_train=arrays()["x_train"] + np.uint8(1)), class_names=np.array(["cat", "dog", "emu"])
    )
    os.utime(npz, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert npz.stat().st_size == stat.st_size
    assert data.read_npz(npz).train.digest != before.train.digest


def test_npz_holds_validation_examples(npz: Path) -> None:
    a = arrays()
    np.savez(npz, **a, x_valid=a["x_test"], y_valid=a["y_test"])
    assert clbench.from_npz(npz, experiences=3).valid is not None


def test_npz_holds_nothing_else(npz: Path) -> None:
    np.savez(npz, **arrays(), y_vald=arrays()["y_test"])
    with pytest.raises(
        DataError, match=r"holds y_vald, which would go unused\. Did you mean 'y_valid'\? Known: x_tr"
    ):
        clbench.from_npz(npz)


def test_the_file_of_a_named_set_may_hold_more(folder: Path) -> None:
    folder.mkdir()
    np.savez(folder / "cifar10.npz", **arrays(), author=np.array("me"))
    assert data.load("cifar10").found == ("cifar10.npz also holds author, of which nothing is used.",)


@pytest.mark.parametrize(
    ("read", "own"), [(clbench.from_npz, "layout"), (clbench.from_folder, "test_fraction")]
)
def test_settings_are_checked_before_anything_is_read(read: Any, own: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"'experences'\. Did you mean 'experiences'\? It takes: path, .*{own}"
    ):
        read("nowhere", experences=5)
    with pytest.raises(ConfigError, match=r"'shift' takes one of 'class', .* Did you mean 'class'\?"):
        read("nowhere", shift="clas")


def test_npz_takes_a_layout(npz: Path) -> None:
    x = np.zeros((6, 9, 9, 30), np.float32)
    np.savez(npz, **arrays(x_train=x, x_test=x[:3]))
    with pytest.raises(DataError, match=r"own\.npz: x_train: images of shape .* say which by layout="):
        data.read_npz(npz)
    assert clbench.from_npz(npz, layout="channels-last", experiences=3).input_shape == (30, 9, 9)


def test_npz_with_a_key_twice(npz: Path) -> None:
    with zipfile.ZipFile(npz, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x_train.npy", archive.read("x_test.npy"))
    with pytest.raises(DataError, match=r"own\.npz is not a usable \.npz file: it holds x_train twice"):
        data.read_npz(npz)


def test_npz_without_a_key(npz: Path) -> None:
    a = arrays()
    del a["y_test"]
    np.savez(npz, **a)
    with pytest.raises(
        DataError, match=r"own\.npz has no y_test; it needs .* and holds x_train, y_train, x_test"
    ):
        data.read_npz(npz)


def test_npz_with_objects_is_never_unpickled(npz: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was loaded",))

    np.savez(npz, **arrays(y_train=np.array([Trap()] * 6, dtype=object)), allow_pickle=True)
    with pytest.raises(
        DataError, match=r"own\.npz is not a usable .npz file: y_train: Object arrays cannot be loaded"
    ):
        data.read_npz(npz)


def test_npz_that_is_damaged(npz: Path) -> None:
    whole = npz.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 8] ^= 255  # inside x_train: the checksum of the zip tells
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for content in (
        whole[: len(whole) // 2],
        bytes(flipped),
        b"",
        b"not a zip",
        array.getvalue(),
        empty.getvalue(),
    ):
        npz.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.npz"):
            data.read_npz(npz)


def test_npz_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz cannot be read: No such file"):
        clbench.from_npz(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"is not a usable|cannot be read"):
        clbench.from_npz(tmp_path)


# --- named ---


def test_a_missing_set_says_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError) as raised:
        data.load("mnist")
    message = str(raised.value)
    assert "`clbench data fetch mnist`" in message
    assert str(folder / "mnist.npz") in message
    assert "x_train (60000, 1, 28, 28) uint8, y_train (60000,) int64" in message
    with pytest.raises(
        DataError, match=r"<domain>/<class>/.*domain_names \(photo, art_painting, cartoon, sketch\)"
    ):
        data.load("pacs")
    with pytest.raises(DataError, match="PACS is not in"):
        data.fetch("pacs")


def test_an_unknown_set() -> None:
    with pytest.raises(
        ConfigError, match=r"no data set named 'mnits'. Did you mean 'mnist'\? Known: digits, mnist,"
    ):
        data.load("mnits")


def test_a_named_set_has_published_moments_only_in_its_own_shape(folder: Path) -> None:
    folder.mkdir()
    np.savez(folder / "mnist.npz", **arrays())
    assert data.load("mnist").normalisation != (data.KNOWN["mnist"].mean, data.KNOWN["mnist"].std)
    grey = np.zeros((6, 28, 28), np.uint8)
    np.savez(folder / "mnist.npz", **arrays(x_train=grey, x_test=grey[:3]))
    assert data.load("mnist").normalisation == (data.KNOWN["mnist"].mean, data.KNOWN["mnist"].std)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLBENCH_DATA")
    assert data.data_folder() == Path.home() / ".cache" / "clbench"


class FakeCIFAR10:
    """As torchvision's: NHWC arrays and lists of labels."""

    classes = ("cat", "dog", "emu")
    downloads = 0

    def __init__(self, root: Path, *, train: bool, download: bool) -> None:
        assert download
        FakeCIFAR10.downloads += 1
        split = "train" if train else "test"
        self.data, self.targets = arrays()[f"x_{split}"], arrays()[f"y_{split}"].tolist()


class FakeMNIST:
    """As torchvision's: tensors (N, H, W) and (N,)."""

    classes = ("0 - zero", "1 - one", "2 - two")

    def __init__(self, root: Path, *, train: bool, download: bool) -> None:
        split = "train" if train else "test"
        self.data = torch.from_numpy(arrays()[f"x_{split}"][..., 0])
        self.targets = torch.from_numpy(arrays()[f"y_{split}"])


def datasets() -> Any:
    torchvision()
    from torchvision import datasets

    return datasets


def test_fetch_decodes_once_and_records_the_hash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets(), "CIFAR10", FakeCIFAR10)
    monkeypatch.setattr(FakeCIFAR10, "downloads", 0)
    path = data.fetch("cifar10")
    assert path == folder / "cifar10.npz"
    assert data.fetch("cifar10") == path
    assert FakeCIFAR10.downloads == 2  # training and test, once
    assert sorted(p.name for p in folder.iterdir()) == ["cifar10.npz", "cifar10.npz.sha256"]
    recorded = (folder / "cifar10.npz.sha256").read_text().split()
    assert recorded == [hashlib.sha256(path.read_bytes()).hexdigest(), "cifar10.npz"]
    source = data.load("cifar10")
    assert source.class_names == ("cat", "dog", "emu")
    assert source.train.digest == data.source_of(**arrays()).train.digest


def test_fetch_takes_grey_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets(), "MNIST", FakeMNIST)
    data.fetch("mnist")
    assert data.load("mnist").train.x.shape == (6, 1, 4, 5)


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("File not found or corrupted.")])
def test_fetch_that_fails_leaves_nothing(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets(), "CIFAR10", fail)
    with pytest.raises(
        DataError, match=r"CIFAR-10 could not be fetched: (no network|.* corrupted)\. CIFAR-10 is not"
    ):
        data.fetch("cifar10")
    assert list(folder.iterdir()) == []


def test_a_write_that_is_cut_short_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets(), "CIFAR10", FakeCIFAR10)
    monkeypatch.setattr(np, "savez", cut)
    with pytest.raises(DataError, match=r"cifar10\.npz cannot be written: No space left on device"):
        data.fetch("cifar10")
    assert list(folder.iterdir()) == []


def test_status(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in data.status()}

    everything = {"digits": "embedded", **dict.fromkeys(data.KNOWN, "missing")}
    assert states() == everything
    assert {row["name"]: row["note"] for row in data.status()}["mnist"] == "clbench data fetch mnist"
    monkeypatch.setattr(datasets(), "CIFAR10", FakeCIFAR10)
    path = data.fetch("cifar10")
    np.savez(folder / "mnist.npz", **arrays())
    assert states() == {**everything, "cifar10": "ready", "mnist": "ready"}
    path.write_bytes(path.read_bytes() + b"x")
    assert states() == {**everything, "cifar10": "damaged", "mnist": "ready"}
