"""Data sets: sources, what is refused and what the refusal says. Nothing here uses the network."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clbench
from clbench import data
from clbench._torchvision import torchvision
from clbench.errors import ConfigError, DataError

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
        ((6, 4, 4, 4), (4, 4, 4)),
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


def test_features_and_tokens_are_used_as_they_are() -> None:
    features = np.linspace(-1, 1, 6 * 4).reshape(6, 4)
    benchmark = clbench.from_arrays(**arrays(x_train=features, x_test=features[:3]), experiences=3)
    assert benchmark.train[0].data.x().dtype == torch.float32
    assert benchmark.transform.mean == ()
    x = benchmark.train[0].data.x()
    assert benchmark.transform.normalise(x) is x
    tokens = np.arange(24, dtype=np.int32).reshape(6, 4)
    benchmark = clbench.from_arrays(**arrays(x_train=tokens, x_test=tokens[:3]), experiences=3)
    assert benchmark.train[0].data.x().dtype == torch.int64


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
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8)}, "x_train is empty"),
        ({"x_train": np.full((6, 3), np.nan)}, "x_train holds NaN or infinity, first in example 0"),
        ({"x_train": np.zeros((6, 4, 6, 3), np.uint8)}, "x_train and x_test must be of one shape and type"),
        ({"y_train": np.zeros(5, int)}, "y_train holds 5 numbers for 6 examples"),
        ({"y_train": np.zeros((6, 1), int)}, r"one integer per example; it is int64 of shape \(6, 1\)"),
        ({"y_train": np.zeros(6)}, "one integer per example; it is float64"),
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
    before = data.read_npz(npz)
    assert data.read_npz(npz) is before
    np.savez(npz, **arrays(x_train=arrays()["x_train"] + np.uint8(1)))
    os.utime(npz, ns=(0, 0))
    assert data.read_npz(npz).train.digest != before.train.digest


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
    with pytest.raises(ConfigError, match=r"no data set named 'mnits'. Did you mean 'mnist'\? Known: mnist,"):
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


# --- image folders ---


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for c, name in enumerate(("ant", "bee")):
        for i in range(3):
            paint(root / "train" / name / f"{i}.png", (100 * c, i, 7))
        paint(root / "test" / name / "0.jpg", (100 * c, 50, 7))
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    return root


def test_a_folder_of_train_and_test(photos: Path, folder: Path) -> None:
    benchmark = clbench.from_folder(photos, size=8, experiences=2)
    assert benchmark.class_names == ("ant", "bee")
    assert benchmark.input_shape == (3, 8, 8)
    assert [len(e) for e in benchmark.train] == [3, 3]
    x = benchmark.train[1].data.x()
    assert x[:, :, 4, 4].tolist() == [[100, i, 7] for i in range(3)]
    assert len(list((folder / "folders").iterdir())) == 1


def test_a_folder_is_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.read_folder(photos, size=8)

    def fail(*_: Any) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fail)
        assert data.read_folder(photos, size=8).train.digest == first.train.digest
    assert data.read_folder(photos, size=6).train.x.shape[-1] == 6
    paint(photos / "train" / "ant" / "0.png", (9, 9, 9))
    os.utime(photos / "train" / "ant" / "0.png", ns=(1, 1))
    assert data.read_folder(photos, size=8).train.digest != first.train.digest


def test_workers_open_the_file_of_a_folder(photos: Path) -> None:
    """Sending a memory map to another process would copy all of it to shared memory."""
    pool = data.read_folder(photos, size=64).test
    sent = ForkingPickler.dumps(pool)
    assert not pool.x.is_shared()
    received = pickle.loads(sent)
    assert received.digest == pool.digest
    assert received.file == pool.file


def test_a_folder_can_be_grey(photos: Path) -> None:
    assert data.read_folder(photos, size=8, channels=1).train.x.shape == (6, 1, 8, 8)


def test_images_are_cropped_about_the_centre_and_turned_upright(photos: Path) -> None:
    wide = Image.new("RGB", (24, 8))
    wide.paste((255, 255, 255), (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    wide.save(photos / "train" / "ant" / "0.png", exif=exif)
    assert data.read_folder(photos, size=8).train.x[0].min() == 255


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    root = tmp_path / "styles"
    for d, domain in enumerate(("photo", "sketch")):
        for c, name in enumerate(("ant", "bee")):
            for i in range(10):
                paint(root / domain / name / f"{i}.png", (100 * c, i, 50 * d))
    return root


def test_a_folder_of_domains(styles: Path) -> None:
    benchmark = clbench.from_folder(styles, size=8, shift="domain")
    assert [e.domain for e in benchmark.train] == ["photo", "sketch"]
    assert [len(e) for e in benchmark.train] == [16, 16]
    assert [e.data.y().tolist() for e in benchmark.test] == [[0, 0, 1, 1]] * 2
    assert set(benchmark.train[1].data.x()[:, 2].flatten().tolist()) == {50}


def test_the_test_split_is_the_same_everywhere_and_for_more_images(styles: Path) -> None:
    def tested() -> set[int]:
        x = data.read_folder(styles / "photo", size=8).test.x
        return {int(image[1, 0, 0]) for image in x if image[0, 0, 0] == 0}

    names = [f"ant/{i}.png" for i in range(11)]
    ordered = sorted(names[:10], key=lambda name: hashlib.sha256(name.encode()).digest())
    before = {names.index(name) for name in ordered[:2]}
    assert tested() == before
    paint(styles / "photo" / "ant" / "10.png", (0, 10, 0))
    assert len(tested() & before) >= 1


def test_a_folder_of_classes(styles: Path) -> None:
    benchmark = clbench.from_folder(styles / "photo", size=8, experiences=2, test_fraction=0.5)
    assert [len(e) for e in benchmark.test] == [5, 5]
    assert benchmark.test[0].domain is None


def test_corrupt_images_are_named(photos: Path, folder: Path) -> None:
    broken = photos / "train" / "bee" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    (photos / "test" / "ant" / "0.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError) as raised:
        data.read_folder(photos, size=8)
    assert str(broken) in str(raised.value)
    assert str(photos / "test" / "ant" / "0.jpg") in str(raised.value)
    assert not (folder / "folders").exists()


def test_folders_that_cannot_be(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image folder"):
        data.read_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images in folders of classes"):
        data.read_folder(tmp_path / "empty")
    with pytest.raises(ConfigError, match="size ≥ 1 and 0 < test_fraction < 1"):
        data.read_folder(photos, size=0)
    (photos / "valid").mkdir()
    with pytest.raises(DataError, match="but also valid/, which would go unused"):
        data.read_folder(photos)
    (photos / "valid").rmdir()
    paint(photos / "test" / "cow" / "0.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"Class 'cow' in .* has no training images"):
        data.read_folder(photos)


def test_a_class_of_one_image_cannot_be_split(styles: Path) -> None:
    paint(styles / "photo" / "cow" / "0.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"Class 'cow' in .* has no test images"):
        data.read_folder(styles / "photo")


def test_pacs_from_its_images(folder: Path) -> None:
    for domain in data.KNOWN["pacs"].domains:
        for name in ("dog", "elephant"):
            for i in range(2):
                paint(folder / "pacs" / domain / name / f"{i}.png", (i, 0, 0))
    source = data.load("pacs")
    assert source.domain_names == ("art_painting", "cartoon", "photo", "sketch")
    assert source.train.x.shape == (8, 3, 64, 64)
