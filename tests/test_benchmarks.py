"""The registered benchmarks. Those on data that must be fetched are skipped without CLBENCH_DATA."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clbench import data
from clbench.errors import ConfigError, DataError
from clbench.registry import benchmarks
from clbench.types import Benchmark, Stream

DIGITS = ("split-digits", "rotated-digits", "permuted-digits")
FETCHED = {
    "split-mnist": "mnist",
    "permuted-mnist": "mnist",
    "rotated-mnist": "mnist",
    "split-fashion-mnist": "fashion_mnist",
    "split-cifar10": "cifar10",
    "split-cifar100": "cifar100",
    "pacs": "pacs",
}


def make(name: str, **params: Any) -> Benchmark:
    benchmark = benchmarks.make(name, **params)
    assert isinstance(benchmark, Benchmark)
    return benchmark


def needs(name: str) -> None:
    path = data.data_folder() / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in CLBENCH_DATA")


def check(benchmark: Benchmark) -> None:
    """What holds of every benchmark."""
    assert benchmark.version == benchmarks.peek(benchmark.name).version
    assert len(benchmark.train) == len(benchmark.test)
    assert benchmark.primary == "average_accuracy"
    assert benchmark.notes or benchmark.name in ("npz", "image-folder")
    for stream in (benchmark.train, benchmark.test, benchmark.valid or Stream("valid", ())):
        for i, experience in enumerate(stream):
            assert experience.index == i
            assert len(experience)
            assert set(experience.data.y().unique().tolist()) == set(experience.classes)
            assert max(experience.classes) < benchmark.num_classes
    for trained, tested in zip(benchmark.train, benchmark.test, strict=True):
        assert (trained.classes, trained.task, trained.domain) == (tested.classes, tested.task, tested.domain)
    raw = benchmark.train[0].data.take(torch.arange(4))[0]
    x = benchmark.transform.train(raw, torch.Generator().manual_seed(0))
    assert x.dtype == torch.float32
    assert x.shape[1:] == benchmark.input_shape


def test_all_are_registered() -> None:
    assert set(benchmarks.names()) >= {*DIGITS, *FETCHED, "npz", "image-folder"}


@pytest.mark.parametrize("name", [*DIGITS, *FETCHED, "npz", "image-folder"])
def test_what_the_list_shows(name: str) -> None:
    """Parameters are annotated, take a seed, and each is explained; a summary fits a line."""
    entry = benchmarks.entry(name)
    assert entry.version == benchmarks.peek(name).version >= 1
    assert 20 < len(entry.summary) < 110
    parameters = entry.signature().parameters
    assert parameters["seed"].default == 0
    for parameter in parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        if parameter.name not in ("experiences", "class_order"):
            assert parameter.name in str(entry.build.__doc__)


# Recorded once: data, split, order, normalisation and setting of a benchmark at a version never change.
FINGERPRINTS = {
    ("split-digits", ()): "fb11f1912d8aa8ce32e0319cff83ac1ed7ef967e3999352a0a401dee0913204d",
    (
        "split-digits",
        (("class_order", "shuffled"), ("seed", 1), ("valid", 0.1)),
    ): "0b9ea152bf41a0332d6cc452b8b509c0622b2fdbb8c6d9f1199e59e097a921a2",
    ("rotated-digits", ()): "83a6235ae59fb0d15959550b0bb93675a44cf2b6e9b4d6e5d584f44e4f4ad9a1",
    ("permuted-digits", ()): "2b3227046ff9d1e4d30268f93265a47d5ce7f5d9b0e5fbce9cc95c04bf5b648d",
}


@pytest.mark.parametrize(("name", "params"), FINGERPRINTS)
def test_fingerprints_are_the_same_everywhere(name: str, params: tuple[tuple[str, Any], ...]) -> None:
    assert make(name, **dict(params)).fingerprint == FINGERPRINTS[name, params]


@pytest.mark.parametrize("name", DIGITS)
@pytest.mark.parametrize("valid", [0.0, 0.2])
def test_digits(name: str, valid: float) -> None:
    benchmark = make(name, valid=valid)
    check(benchmark)
    assert benchmark.name == name
    assert benchmark.num_classes == 10
    assert (benchmark.valid is not None) == (valid > 0)
    assert benchmark.spec == {**benchmark.spec, "valid": valid, "seed": 0}


@pytest.mark.parametrize("name", DIGITS)
def test_a_benchmark_can_be_built_again_from_its_spec(name: str) -> None:
    benchmark = make(name, valid=0.1, online=True, seed=5)
    assert make(name, **benchmark.spec).fingerprint == benchmark.fingerprint


def test_split_digits_has_five_pairs_in_natural_order() -> None:
    benchmark = make("split-digits")
    assert [e.classes for e in benchmark.train] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert benchmark.setting.offers() >= {"boundaries", "several passes", "memory"}
    assert "task labels" not in benchmark.setting.offers()


def test_variants_of_a_split() -> None:
    plain = make("split-digits")
    variants = {
        "task": make("split-digits", task_labels=True),
        "online": make("split-digits", online=True),
        "two": make("split-digits", experiences=2),
        "shuffled": make("split-digits", class_order="shuffled"),
        "other": make("split-digits", class_order="shuffled", seed=1),
        "valid": make("split-digits", valid=0.1),
    }
    assert len({plain.fingerprint, *(b.fingerprint for b in variants.values())}) == 7
    assert variants["task"].setting.shift == "task"
    assert [e.task for e in variants["task"].test] == [0, 1, 2, 3, 4]
    assert variants["online"].setting.passes == 1
    assert make("split-digits", seed=1).fingerprint == plain.fingerprint  # nothing is drawn


def test_permutations_differ_by_seed_and_rotations_do_not() -> None:
    assert make("permuted-digits").fingerprint != make("permuted-digits", seed=1).fingerprint
    assert make("rotated-digits").fingerprint == make("rotated-digits", seed=1).fingerprint
    assert make("permuted-digits").setting.shift == "domain"
    assert [e.domain for e in make("rotated-digits").train] == ["0°", "80°", "160°"]


def test_parameters_come_as_text_and_wrong_ones_are_refused() -> None:
    assert len(make("split-digits", experiences="2").train) == 2
    assert [e.domain for e in make("rotated-digits", angles=[0, 45]).train] == ["0°", "45°"]
    with pytest.raises(ConfigError, match=r"has no parameter 'experience'. Did you mean 'experiences'"):
        make("split-digits", experience=2)
    with pytest.raises(ConfigError, match="one of 'natural', 'shuffled'"):
        make("split-digits", class_order="random")
    with pytest.raises(ConfigError, match="experiences may be 1, 2, 5, 10"):
        make("split-digits", experiences=3)


@pytest.mark.parametrize(("name", "source"), FETCHED.items())
def test_without_the_data(name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=rf"{source}\.npz"):
        make(name)


@pytest.mark.parametrize("name", FETCHED)
def test_with_the_data(name: str) -> None:
    needs(FETCHED[name])
    benchmark = make(name)
    check(benchmark)
    assert (len(benchmark.train), benchmark.num_classes, benchmark.input_shape) == {
        "split-mnist": (5, 10, (1, 28, 28)),
        "permuted-mnist": (10, 10, (1, 28, 28)),
        "rotated-mnist": (3, 10, (1, 28, 28)),
        "split-fashion-mnist": (5, 10, (1, 28, 28)),
        "split-cifar10": (5, 10, (3, 32, 32)),
        "split-cifar100": (10, 100, (3, 32, 32)),
        "pacs": (4, 7, (3, 64, 64)),
    }[name]
    assert benchmark.transform.ops == (("crop", "flip") if "cifar" in name or name == "pacs" else ())


@pytest.mark.parametrize("name", [name for name, known in data.KNOWN.items() if known.mean])
def test_published_moments_are_those_of_the_data(name: str) -> None:
    needs(name)
    source = data.load(name)
    mean, std = data.moments(source.train.x, 1 / 255)
    # Four digits, and some copies of the data have been through a lossy format.
    assert source.mean == pytest.approx(mean, abs=3e-4)
    assert source.std == pytest.approx(std, abs=3e-4)


def test_split_cifar100_is_shuffled_and_splits_in_usual_ways() -> None:
    needs("cifar100")
    first, second = make("split-cifar100"), make("split-cifar100", seed=1)
    assert first.train[0].classes != second.train[0].classes
    assert (first.seed, second.seed) == (0, 1)
    assert make("split-cifar100", class_order="natural").train[0].classes == tuple(range(10))
    half = make("split-cifar100", first=50, increment=10)
    assert [len(e.classes) for e in half.train] == [50, 10, 10, 10, 10, 10]
    assert [len(make("split-cifar100", experiences=n).train) for n in (5, 10, 20)] == [5, 10, 20]


def test_pacs_goes_from_photos_to_sketches() -> None:
    needs("pacs")
    benchmark = make("pacs")
    assert [e.domain for e in benchmark.train] == ["photo", "art_painting", "cartoon", "sketch"]
    sizes = [len(a) + len(b) for a, b in zip(benchmark.train, benchmark.test, strict=True)]
    assert sizes == [1670, 2048, 2344, 3929]  # as published
    back = make("pacs", domains=["sketch", "cartoon", "art_painting", "photo"])
    assert back.train[0].domain == "sketch"
    with pytest.raises(ConfigError, match="no domain 'painting'; domains lists all of photo"):
        make("pacs", domains=["painting"])


def test_ones_own_npz(tmp_path: Path) -> None:
    x = np.arange(4 * 8 * 8 * 3, dtype=np.uint32).astype(np.uint8).reshape(12, 8, 8)
    y = np.arange(12) % 4
    path = tmp_path / "own.npz"
    np.savez(
        path, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4], domain_train=y % 2, domain_test=y[:4] % 2
    )
    benchmark = make("npz", path=str(path), experiences=2, class_order=[3, 1, 0, 2], augment=["flip"])
    check(benchmark)
    assert [e.classes for e in benchmark.train] == [(1, 3), (0, 2)]
    assert benchmark.transform.ops == ("flip",)
    assert len(make("npz", path=str(path), shift="domain").train) == 2
    with pytest.raises(ConfigError, match="needs a value for 'path'"):
        make("npz")


def test_ones_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    benchmark = make("image-folder", path=str(tmp_path / "photos"), size=8, experiences=2)
    check(benchmark)
    assert benchmark.class_names == ("ant", "bee")
    assert [len(e) for e in benchmark.test] == [2, 2]
