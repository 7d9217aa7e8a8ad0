"""Folders of Hugging Face's `datasets`: saved ones and Parquet files, of images, texts and features."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clbench
from clbench.data import describe_manifest
from clbench.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
X = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
Y = np.arange(12) % 4
FEATURES = {
    "label": {"names": ["ant", "bee", "cat", "dog"], "_type": "ClassLabel"},
    "image": {"_type": "Image"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def save(file: Path, rows: slice, **columns: Any) -> None:
    """A Parquet file as the Hub has it."""
    from pyarrow import parquet

    pictures = [{"bytes": png(x), "path": None} for x in X[rows]]
    table = pyarrow.table(columns or {"image": pictures, "label": Y[rows]})
    told = {"info": {"features": FEATURES}}
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(told)}), file)


def arrays(**params: Any) -> Any:
    return clbench.from_arrays(X[:8], Y[:8], X[8:], Y[8:], experiences=2, **params)


@pytest.mark.parametrize(
    "files",
    [
        [
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
        ],
        ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],
        ["a-train.parquet", "b-train.parquet", "test.parquet"],
    ],
)
def test_parquet_files_of_images_are_read_as_arrays(tmp_path: Path, files: list[str]) -> None:
    splits = {}
    for name, rows in zip(files, (slice(0, 4), slice(4, 8), slice(8, 12)), strict=True):
        save(tmp_path / "hub" / name, rows)
    if "a-train.parquet" in files:
        splits = {"train_split": ["a-train", "b-train"], "test_split": ["test"]}
    made = clbench.from_manifest(tmp_path / "hub", experiences=2, **splits)
    assert made.fingerprint == arrays().fingerprint
    assert made.class_names == ("ant", "bee", "cat", "dog")
    told = describe_manifest(tmp_path / "hub", experiences=2, **splits)
    assert (told.kind, told.rows, told.overlap, told.faults) == ("pictures", 12, 0, ())


def test_texts_of_parquet_files(tmp_path: Path) -> None:
    texts = [f"is it {i}?" for i in range(12)]
    save(tmp_path / "hub/train.parquet", slice(0), text=texts[:8], label=Y[:8])
    save(tmp_path / "hub/test.parquet", slice(0), text=texts[8:], label=Y[8:])
    made = clbench.from_manifest(tmp_path / "hub", experiences=2)
    same = clbench.from_texts(texts[:8], Y[:8].tolist(), texts[8:], Y[8:].tolist(), experiences=2)
    assert made.fingerprint == same.fingerprint
    assert made.class_names == ("ant", "bee", "cat", "dog")


def test_classes_that_no_row_has_are_told_or_left_out(tmp_path: Path) -> None:
    save(tmp_path / "hub/train.parquet", slice(0), vector=[[0.5], [1.5]] * 2, label=[1, 3, 1, 3])
    save(tmp_path / "hub/test.parquet", slice(0), vector=[[0.5], [1.5]], label=[1, 3])
    with pytest.raises(DataError, match=r"Classes without any rows \(2\): 'ant', 'cat'"):
        clbench.from_manifest(tmp_path / "hub", features=["vector"], experiences=2)
    made = clbench.from_manifest(tmp_path / "hub", features=["vector"], experiences=2, labels="names")
    assert made.class_names == ("bee", "dog")


def test_images_of_other_sizes_are_told(tmp_path: Path) -> None:
    pictures = [{"bytes": png(x), "path": None} for x in (X[0], X[1][:4], X[2])] + [
        {"bytes": b"no", "path": None}
    ]
    save(tmp_path / "hub/train.parquet", slice(0), image=pictures, label=Y[:4])
    save(tmp_path / "hub/test.parquet", slice(8, 12))
    with pytest.raises(
        DataError, match=r"(?s)cannot be read \(1\): row 4.*other sizes than .* row 2: it is 6 × 4"
    ):
        clbench.from_manifest(tmp_path / "hub", experiences=2)


def test_paths_outside_the_folder_and_missing_ones_are_unreadable_images(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(X[0]))
    paths = ["../x.png", str(tmp_path / "x.png"), "gone.png", "gone.png"]
    rows = [{"bytes": None, "path": path} for path in paths]
    save(tmp_path / "hub/train.parquet", slice(0), image=rows, label=Y[:4])
    save(tmp_path / "hub/test.parquet", slice(8, 12))
    with pytest.raises(DataError, match=r"Images that cannot be read \(4\): row 1: "):
        clbench.from_manifest(tmp_path / "hub", experiences=2)


def test_configurations_are_not_mixed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path / "hub" / name / "train/0000.parquet", slice(8))
    with pytest.raises(DataError, match=r"several configurations, such as .*one and .*two; path=… names"):
        clbench.from_manifest(tmp_path / "hub", experiences=2)


def saved_pictures(datasets: Any, split: str, rows: slice) -> Any:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])}
    )
    content = {"image": [Image.fromarray(x) for x in X[rows]], "label": Y[rows].tolist()}
    return datasets.Dataset.from_dict(content, features=features)


def saved_features(datasets: Any, split: str, rows: slice) -> Any:
    flat = (X[rows].reshape(-1, 108) / np.float32(255)).astype(np.float32)
    return datasets.Dataset.from_dict({"vector": flat.tolist(), "label": Y[rows].tolist()})


@pytest.mark.parametrize("make", [saved_pictures, saved_features])
def test_what_datasets_has_saved(tmp_path: Path, make: Callable[..., Any]) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.DatasetDict(
        {s: make(datasets, s, r) for s, r in (("train", slice(8)), ("test", slice(8, 12)))}
    )
    whole.save_to_disk(tmp_path / "saved")
    features = {} if make is saved_pictures else {"features": ["vector"]}
    made = clbench.from_manifest(tmp_path / "saved", experiences=2, **features)
    flat = (X.reshape(-1, 108) / np.float32(255)).astype(np.float32)
    same = clbench.from_arrays(flat[:8], Y[:8], flat[8:], Y[8:], experiences=2) if features else arrays()
    assert made.fingerprint == same.fingerprint
    whole["train"].save_to_disk(tmp_path / "one")  # without a split
    assert (
        len(clbench.from_manifest(tmp_path / "one", experiences=2, test_fraction=0.5, **features).test) == 2
    )


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"pip install 'clbench\[hf\]'"):
        clbench.from_manifest(tmp_path / "saved")


def test_a_label_of_another_name_is_told(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = saved_pictures(datasets, "train", slice(12)).rename_column("label", "labels")
    data.save_to_disk(tmp_path / "saved")
    told = describe_manifest(tmp_path / "saved").faults
    assert "no column 'label', of the label. Did you mean 'labels'" in told[0]


def test_one_column_of_features_is_named_alone(tmp_path: Path) -> None:
    save(
        tmp_path / "hub/all.parquet",
        slice(0),
        vector=X.reshape(12, -1).tolist(),
        label=Y,
        part=[0] * 8 + [1] * 4,
    )
    told = {"split": "part", "train_split": 0, "test_split": "1", "features": "vector"}
    made = clbench.make_benchmark("manifest", path=str(tmp_path / "hub"), **told, experiences=2)
    assert made.input_shape == (108,)


def test_other_folders_are_none(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="images in folders are for image-folder"):
        clbench.from_manifest(tmp_path / "photos")
