"""Benchmarks from data sets of torch's and from tables of files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import clbench
from clbench.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))


X, Y = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
WHOLE = TensorDataset(X, Y)


class Items(Dataset[Any]):
    """A data set of the items in a list, as torchvision's have them."""

    def __init__(self, *items: Any, classes: Any = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __getitem__(self, i: int) -> Any:
        return self.items[i]

    def __len__(self) -> int:
        return len(self.items)


def images(mode: str = "L", size: tuple[int, int] = (6, 6), **more: Any) -> Items:
    """Eight images of two classes."""
    return Items(*((Image.new(mode, size, 30 * i), i % 2) for i in range(8)), **more)


# --- data sets ---


def test_data_sets_are_read_as_arrays_are() -> None:
    a = clbench.from_dataset(WHOLE, TensorDataset(X[:8], Y[:8]), experiences=2)
    b = clbench.from_arrays(X, Y, X[:8], Y[:8], experiences=2)
    assert a.fingerprint == b.fingerprint


def test_without_a_test_set_a_share_of_each_class_is_for_testing() -> None:
    benchmark = clbench.from_dataset(WHOLE, test_fraction=0.3, experiences=2)
    assert [len(e) for e in benchmark.test] == [6, 6]
    assert [len(e) for e in benchmark.train] == [14, 14]
    assert benchmark.fingerprint == clbench.from_dataset(WHOLE, test_fraction=0.3, experiences=2).fingerprint


@pytest.mark.parametrize(("mode", "shape"), [("L", (1, 6, 6)), ("RGB", (3, 6, 6)), ("RGBA", (3, 6, 6))])
def test_images_of_pillow(mode: str, shape: tuple[int, ...]) -> None:
    benchmark = clbench.from_dataset(images(mode), experiences=2)
    assert benchmark.input_shape == shape
    assert benchmark.train[0].data.x().dtype == torch.uint8


def test_images_are_brought_to_a_size() -> None:
    mixed = Items(*images().items, *images("RGB", (9, 7)).items)
    assert clbench.from_dataset(mixed, size=5, channels=3, experiences=2).input_shape == (3, 5, 5)
    with pytest.raises(
        DataError, match=r"item 8 is uint8 of shape \(3, 7, 9\), .* Give size=64 and channels=3"
    ):
        clbench.from_dataset(mixed, experiences=2)


def test_names_of_classes_are_the_data_set_s() -> None:
    named = images(classes=["no", "yes"])
    assert clbench.from_dataset(named, experiences=2).class_names == ("no", "yes")
    assert clbench.from_dataset(Subset(named, range(8)), experiences=2).class_names == ("no", "yes")
    assert clbench.from_dataset(images(classes=["no", "yes", "never"]), experiences=2).class_names == ()


def test_a_third_value_is_the_domain() -> None:
    domains = TensorDataset(X, Y, torch.arange(40) // 4 % 2)
    assert len(clbench.from_dataset(domains, shift="domain").train) == 2
    with pytest.raises(DataError, match="have three values; the third is a domain, for shift='domain'"):
        clbench.from_dataset(domains)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(WHOLE)


class Random(Items):
    def __getitem__(self, i: int) -> Any:
        return torch.randn(3), i % 2


class Broken(Items):
    def __getitem__(self, i: int) -> Any:
        raise OSError("no such file")


class Torn(Items):
    def __len__(self) -> int:
        raise NotImplementedError("unknown")


class Relabelled(Items):
    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.looks = 0

    def __getitem__(self, i: int) -> Any:
        self.looks += 1
        return X[i], self.looks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "the train set is a NoneType, which cannot be read by number"),
        (Torn(1), "the train set cannot tell its length: NotImplementedError: unknown"),
        (Relabelled(1, 2), "gives item 0 differently at every look"),
        (Items((torch.empty(3, device="meta"), 0)), "cannot give item 0 as an array: .* meta"),
        (Stream(), r"the train set is a Stream, which cannot be read by number: .* clbench\.from_arrays"),
        (Items(), "the train set is empty"),
        (Random(1, 2, 3, 4), r"gives item 0 differently at every look, .* augment=\('crop', 'flip'\)"),
        (Items({"image": 1, "label": 2}), "gives a dict with image, label as item 0; an item is a pair"),
        (Items(X[0]), "gives a Tensor as item 0"),
        (Broken(1), "cannot give item 0: OSError: no such file"),
        (Items((X[0], 0), (X[0, 0], 1)), r"item 1 is float32 of shape \(6, 6\), and item 0"),
        (Items(*((X[0], 0.5),) * 9), "one integer, or one name, per example; it is float64"),
        (7, "the train set is a int, which cannot be read by number"),
    ],
)
def test_data_sets_that_cannot_be(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        clbench.from_dataset(given)


def test_a_size_is_of_images_of_pillow() -> None:
    with pytest.raises(ConfigError, match="size is for images of Pillow; item 0 is a Tensor"):
        clbench.from_dataset(WHOLE, size=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "'size' takes a whole number ≥ 1"),
        ({"test_fraction": 1.0}, "'test_fraction' takes a number > 0 and < 1"),
        ({"experences": 2}, r"'experences'\. Did you mean 'experiences'\? It takes: train, test, valid_set"),
        ({"normalise": "frst"}, r"'normalise' takes one of .* Did you mean 'first'\?"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clbench.from_dataset(WHOLE, **settings)


# --- tables ---


@pytest.fixture
def table(tmp_path: Path) -> dict[str, list[Any]]:
    """Columns of sixteen files: two classes in two domains."""
    rows: dict[str, list[Any]] = {"path": [], "label": [], "domain": []}
    for i in range(16):
        Image.new("RGB", (7, 7), (9 * i, 3, 3)).save(tmp_path / f"{i}.png")
        rows["path"].append(tmp_path / f"{i}.png")
        rows["label"].append(("cat", "ant")[i % 2])
        rows["domain"].append(("ink", "oil")[i // 2 % 2])
    return rows


class Frame:
    """As pandas has them, as far as it matters."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = list(columns)
        self._columns = columns

    def __getitem__(self, column: str) -> Any:
        return np.array(self._columns[column], dtype=object)


def test_a_table_of_files(table: dict[str, list[Any]]) -> None:
    benchmark = clbench.from_frame(Frame(table), size=6, experiences=[["cat"], ["ant"]], test_fraction=0.25)
    assert benchmark.class_names == ("ant", "cat")
    assert ([len(e) for e in benchmark.train], [len(e) for e in benchmark.test]) == ([6, 6], [2, 2])
    assert benchmark.input_shape == (3, 6, 6)
    assert benchmark.notes.startswith(
        "The images are those of a table of 16 rows: 12 training, 4 test images of 2"
    )


def test_a_table_says_domain_and_split(table: dict[str, list[Any]]) -> None:
    split = [("train", "val")[i % 8 > 3] for i in range(16)]
    benchmark = clbench.from_frame({**table, "split": split}, size=6, shift="domain")
    assert [e.domain for e in benchmark.train] == ["ink", "oil"]
    assert [len(e) for e in benchmark.test] == [4, 4]


def test_a_table_s_columns_and_root_have_names(table: dict[str, list[Any]], tmp_path: Path) -> None:
    other = {"file": [path.name for path in table["path"]], "species": table["label"]}
    named = clbench.from_frame(other, path="file", label="species", root=tmp_path, size=6, experiences=2)
    assert named.class_names == ("ant", "cat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "the table has no column 'path'. Known: label, domain"),
        ({"split": ["train"] * 15 + ["tset"]}, "row 15 has the split 'tset'. Did you mean 'test'"),
        ({"split": ["train"] * 16}, "Class 'ant' in the table 'frame' has no test images"),
        ({"label": ["cat"] * 15 + [None]}, "row 15 has no label; fill it"),
        ({"label": ["cat"] * 15 + [float("nan")]}, "row 15 has no label; fill it"),
        ({"label": ["cat"] * 15 + [" "]}, "row 15 has no label; fill it"),
        ({"label": ["cat"] * 15 + [type("NAType", (), {})()]}, "row 15 has no label; fill it"),
        ({"label": ["cat"] * 15 + ["c\x1b[31m"]}, "row 15 has the label .*, with control characters"),
        ({"label": ["cat"]}, "the columns differ in length, 16 and 1"),
        ({"label": "cat"}, "the column 'label' is a str; a column is a list"),
        ({"path": [Path("a.png")] * 16}, "the file a.png is in two rows"),
        ({"path": [Path(f"no{i}.png") for i in range(16)]}, r"Images that cannot be read: .*No such file"),
    ],
)
def test_tables_that_cannot_be(table: dict[str, list[Any]], changes: dict[str, Any], message: str) -> None:
    columns = {k: v for k, v in {**table, **changes}.items() if v is not None}
    with pytest.raises(DataError, match=message):
        clbench.from_frame(columns, size=6, experiences=2)


def test_a_column_is_there_once(table: dict[str, list[Any]]) -> None:
    frame = Frame(table)
    frame.columns = [*table, "label"]
    with pytest.raises(DataError, match="more than one column 'label'"):
        clbench.from_frame(frame, size=6, experiences=2)


# --- whatever there is ---


def test_data_are_read_by_what_they_are(table: dict[str, list[Any]], tmp_path: Path) -> None:
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:8], "y_test": Y[:8]}
    np.savez(tmp_path / "own.npz", **{key: value.numpy() for key, value in arrays.items()})
    expected = clbench.from_arrays(**arrays, experiences=2).fingerprint  # type: ignore[arg-type]
    for given in (
        arrays,
        tuple(arrays.values()),
        (WHOLE, Subset(WHOLE, range(8))),
        str(tmp_path / "own.npz"),
    ):
        assert clbench.from_data(given, experiences=2).fingerprint == expected
    for columns in (Frame(table), table):
        assert clbench.from_data(columns, size=6, experiences=2).num_classes == 2


@pytest.mark.parametrize("given", [3, X, (X,), None])
def test_data_that_are_none(given: Any) -> None:
    with pytest.raises(DataError, match=r"Data are a data set as torch has them .* was given\."):
        clbench.from_data(given)


# --- more than fits into memory ---


@pytest.mark.parametrize("kind", ["npy", "raw"])
def test_a_memory_map_is_not_copied(tmp_path: Path, kind: str) -> None:
    file, x = tmp_path / f"x.{kind}", X.flatten(1).numpy()
    np.save(file, x) if kind == "npy" else x.tofile(file)
    held = np.load(file, mmap_mode="r") if kind == "npy" else np.memmap(file, np.float32, "r", shape=x.shape)
    a = clbench.from_arrays(held[4:], Y[4:], held[:4], Y[:4], experiences=2)
    assert a.fingerprint == clbench.from_arrays(x[4:], Y[4:], x[:4], Y[:4], experiences=2).fingerprint
    pool = a.train[0].data.parts[0][0]
    sent = pickle.dumps(pool)  # what a process that gathers batches gets
    assert len(sent) < 1000 + Y.nbytes
    assert torch.equal(pickle.loads(sent).x, pool.x)
    assert pool.file is not None


def test_a_memory_map_that_was_changed_in_memory_is_no_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.flatten(1).numpy())
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[0] = 7
    made = clbench.from_arrays(changed, Y, changed, Y, experiences=2)
    assert made.train[0].data.parts[0][0].file is None
    assert made.train[0].data.x()[0].eq(7).all()


@pytest.mark.parametrize("test", [None, TensorDataset(X[:8], Y[:8])])
def test_a_data_set_may_be_kept_on_disk(tmp_path: Path, test: Any) -> None:
    a = clbench.from_dataset(WHOLE, test, experiences=2, keep="disk")
    assert a.fingerprint == clbench.from_dataset(WHOLE, test, experiences=2, keep="memory").fingerprint
    if test is not None:
        assert a.train[0].data.parts[0][0].file is not None
        assert [file.suffix for file in (tmp_path / "data" / "folders").iterdir()] == [".npy", ".npy"]


def test_a_run_gathers_batches_from_a_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.flatten(1).numpy())
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    settings = {"data": (x, Y, x, Y), "experiences": 2, "memory": 4}
    curves = {
        clbench.run(
            "mapped", "er", **settings, out=tmp_path / how, execution={"resident": how, "workers": 0}
        ).curve_file["sha256"]
        for how in ("always", "never")
    }
    assert len(curves) == 1
