"""Orders of classes: published ones by their hash, and those of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.data.orders import LISTS, digest, order_of
from clbench.errors import ConfigError

HASHES = {
    ("numpy-1993", 10): "2670e10e311e0f2b",
    ("numpy-1993", 100): "997a048a5344d216",
    ("numpy-1993", 200): "1d364b99a5915405",
    ("numpy-1993", 1000): "305571fb8fde3e0f",
    ("numpy-1994", 100): "03ac1cb18ce277b1",
    ("numpy-1995", 100): "535198d156315678",
    ("numpy-0", 100): "0b019832a2a97cf6",
    ("numpy-1", 100): "97b048dfecdc48f6",
    ("numpy-2", 100): "da1b7c9fe0c63b45",
    ("podnet-1", 100): "62e36f48cf4f51c7",
    ("podnet-2", 100): "920202d4b4eafb27",
    ("podnet-3", 100): "208ddd64ac86acb0",
    ("der-0", 100): "c5b16267aa61f3ef",
}


@pytest.mark.parametrize(("name", "n"), HASHES)
def test_published_orders(name: str, n: int) -> None:
    order = order_of(name, n)
    assert sorted(order.tolist()) == list(range(n))
    assert digest(order) == HASHES[name, n]


def test_the_hundred_classes_that_are_drawn_of_a_thousand() -> None:
    """ImageNet-100 of the code that draws it: `choice` without replacement under the seed."""
    assert digest(order_of("numpy-1993", 1000)[:100]) == "4062cd826c1490e9"


def benchmark(order: Any, classes: int = 4) -> clbench.Benchmark:
    x, y = np.zeros((2 * classes, 1, 2, 2), np.uint8), np.repeat(np.arange(classes), 2)
    names = [f"kind {c}" for c in range(classes)]
    return clbench.from_arrays(x, y, x, y, class_names=names, experiences=classes, class_order=order)


@pytest.mark.parametrize(
    "text", ["2, 0, 3, 1", "2\n0\n3\n1\n", json.dumps([2, 0, 3, 1]), "kind 2\nkind 0\nkind 3\nkind 1"]
)
def test_an_order_from_a_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "order.txt"
    file.write_text(text)
    found = benchmark(str(file))
    assert [exp.classes for exp in found.train] == [(2,), (0,), (3,), (1,)]
    assert found.fingerprint == benchmark([2, 0, 3, 1]).fingerprint
    assert "of the file order.txt: 2 0 3 1 (SHA-256" in found.notes


def test_a_run_counts_what_the_file_holds(tmp_path: Path) -> None:
    file, ids = tmp_path / "order.txt", []
    for text in ("0 1 2 3 4 5 6 7 8 9", "9 8 7 6 5 4 3 2 1 0"):
        file.write_text(text)
        record = clbench.run(
            "split-digits", "finetune", seed=0, out=tmp_path, class_order=str(file), iterations=1, hidden=[4]
        )
        ids.append(record.id)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 1 2", "class_order must list every class of the data once; it has no 3"),
        ("0 1 2 2", "2 twice"),
        ("kind 0\nkind 1\nkind 3\nkin 2", "there is no class 'kin 2'. Did you mean 'kind 2'"),
        ("[0, 1, 2.5]", "must list numbers, or names"),
        ("[0, 1", "is no JSON list"),
    ],
)
def test_a_file_that_is_no_order_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "order.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        benchmark(str(file))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"class_order: the file orders/mine.txt cannot be read: No such file"
    ):
        benchmark("orders/mine.txt")


def test_a_list_of_other_classes_is_refused() -> None:
    assert len(LISTS) == 4
    with pytest.raises(ConfigError, match="podnet-1 is an order of 100 classes, and here are 4"):
        benchmark("podnet-1")
    with pytest.raises(ConfigError, match="Did you mean 'podnet-1'"):
        benchmark("podnet1")
