"""Folders of images: their layouts, what is refused, pixels of every kind, and the cache."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clbench
from clbench import data
from clbench.data import decoded
from clbench.data.pixels import decode, eight_bits
from clbench.data.source import natural
from clbench.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write_image(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    (image if mode is None else image.convert(mode)).save(path, **options)


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
        patch.setattr(decoded, "decode", fail)
        assert data.read_folder(photos, size=8).train.digest == first.train.digest
    assert data.read_folder(photos, size=6).train.x.shape[-1] == 6


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
    with pytest.raises(DataError, match=r"valid holds no images \(it is empty\); fill or remove it"):
        data.read_folder(photos)
    (photos / "valid").rmdir()
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="it is a file; unpack it"):
        data.read_folder(tmp_path / "photos.zip")
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


# --- layouts ---


def grow(root: Path, *paths: str, images: int = 2) -> Path:
    """Folders of images, of which no two are alike."""
    for path in paths:
        for i in range(images):
            colour = hashlib.sha256(f"{path} {i}".encode()).digest()
            paint(root / path / f"{i}.png", (colour[0], colour[1], colour[2]))
    return root


def sizes(source: data.Source) -> tuple[int, int, int]:
    return len(source.train.y), 0 if source.valid is None else len(source.valid.y), len(source.test.y)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training"])
@pytest.mark.parametrize("test", ["test", "Testing", "val", "Val", "VALID", "validation"])
def test_names_of_splits(train: str, test: str, tmp_path: Path) -> None:
    grow(tmp_path / "a", f"{train}/ant", f"{train}/bee", images=3)
    source = data.read_folder(grow(tmp_path / "a", f"{test}/ant", f"{test}/bee"), size=4)
    assert sizes(source) == (6, 0, 4)
    assert (source.class_names, source.domain_names) == (("ant", "bee"), ())
    told = f"read as {train}/CLASS and {test}/CLASS{'' if test[0] in 'tT' else ', where val is the test set'}"
    assert source.found == (
        f"The folder was {told}: 6 training, 4 test images of 2 classes, read at 4 × 4 pixels.",
    )


def test_where_there_is_a_test_set_val_is_for_validation(tmp_path: Path) -> None:
    root = grow(
        tmp_path / "a", *(f"{split}/{c}" for split in ("train", "val", "test") for c in ("ant", "bee"))
    )
    benchmark = clbench.from_folder(root, size=4, experiences=2)
    assert benchmark.valid is not None
    assert [stream.name for stream in (benchmark.train, benchmark.valid, benchmark.test)] == [
        "train",
        "valid",
        "test",
    ]
    assert [len(e) for s in (benchmark.train, benchmark.valid, benchmark.test) for e in s] == [2] * 6
    assert "train/CLASS, val/CLASS and test/CLASS, where val makes the validation stream" in benchmark.notes
    pixels = {tuple(x[:, 0, 0].tolist()) for x in benchmark.valid[1].data.x()}
    colours = [hashlib.sha256(f"val/bee {i}".encode()).digest() for i in range(2)]
    assert pixels == {tuple(colour[:3]) for colour in colours}
    with pytest.raises(ConfigError, match="have validation examples of their own"):
        clbench.from_folder(root, size=4, experiences=2, valid=0.5)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{split}/{domain}/{label}", "train/DOMAIN/CLASS and val/DOMAIN/CLASS"),
        ("{domain}/{split}/{label}", "DOMAIN/train/CLASS and DOMAIN/val/CLASS"),
        ("{domain}/{label}/{split}", "DOMAIN/CLASS/train and DOMAIN/CLASS/val"),
    ],
)
def test_a_split_may_stand_anywhere(template: str, told: str, tmp_path: Path) -> None:
    for split, images in (("train", 3), ("val", 1)):
        for domain in ("d2", "d10"):
            for label in ("ant", "bee", "cow"):
                path = template.format(split=split, domain=domain, label=label)
                grow(tmp_path / "a", path, images=images)
    benchmark = clbench.from_folder(tmp_path / "a", size=4, shift="domain")
    assert [(e.domain, len(e)) for e in benchmark.train] == [("d2", 9), ("d10", 9)]
    assert [(e.domain, len(e)) for e in benchmark.test] == [("d2", 3), ("d10", 3)]
    assert (
        f"read as {told}, where val is the test set: 18 training, 6 test images of 3 classes in 2 domains"
        in (benchmark.notes)
    )


def test_each_class_may_have_its_split(tmp_path: Path) -> None:
    source = data.read_folder(grow(tmp_path / "a", "ant/train", "ant/test", "bee/train", "bee/test"), size=4)
    assert (source.class_names, sizes(source)) == (("ant", "bee"), (4, 0, 4))


def test_train_may_be_a_class(tmp_path: Path) -> None:
    source = data.read_folder(grow(tmp_path / "a", "bus", "car", "train"), size=4)
    assert source.class_names == ("bus", "car", "train")
    assert "train as a class" in source.found[0]


def test_classes_and_domains_are_sorted_by_the_numbers_in_them(tmp_path: Path) -> None:
    root = grow(tmp_path / "a", *(f"{split}/{c}" for split in ("train", "test") for c in range(12)))
    assert data.read_folder(root, size=4).class_names == tuple(map(str, range(12)))
    names = ["b", "a10", "a2", "a02", "a", "10 b", "9 c", "B"]
    assert sorted(names, key=natural) == ["9 c", "10 b", "B", "a", "a02", "a2", "a10", "b"]
    source = data.read_folder(root, size=4)
    for c in range(12):
        shown = source.train.x[source.train.y == c][:, :, 0, 0].tolist()
        assert shown == [list(hashlib.sha256(f"train/{c} {i}".encode()).digest()[:3]) for i in range(2)]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["train/ant", "test/ant", "extra/ant"],
            "holds test/ and train/, but also extra/, which would go unused",
        ),
        (["train/ant", "Train/ant", "test/ant"], "holds both Train/ and train/, which mean the same"),
        (
            ["train/ant", "val/ant", "valid/ant", "test/ant"],
            "holds both val/ and valid/, which mean the same",
        ),
        (["train/ant", "train/bee"], "holds train/, and train/ may mean a part of a split"),
        (["val/ant", "test/ant"], "holds test/ and val/, and test/ may mean a part"),
        (["train", "test"], "but no folders of classes"),
        (["train/ant", "dev/ant"], "holds dev/ and train/, and dev/ may mean a part of a split"),
        (["train2017/ant", "val2017/ant"], "train2017/ may mean a part of a split"),
        (["seg_train/ant", "seg_test/ant", "seg_pred/ant"], "seg_test/ may mean a part of a split"),
        (["photo/ant", "TestSet/ant"], "TestSet/ may mean a part of a split"),
        (["trainset", "testset"], "testset/ may mean a part of a split"),
        (["train/ant", "test"], "images at different depths: .* and "),
        (["a/train/ant", "a/test/ant", "b/train/ant"], "Domain 'b' in .* has no test images"),
        (["a/train/ant", "a/test/ant", "b/ant/x"], "no train or test/, but also ant/"),
        (["train/test/ant", "train/train/ant", "test/train/ant"], "in two ways"),
        (["train/a/b/c", "test/a/b/c"], "lies too deep"),
        (["a/b/c"], "lies too deep above its images"),
        (["train/ant", "train/bee", "test/ant"], "Class 'bee' in .* has no test images"),
        (
            ["train/ant", "test/ant", "val/bee"],
            "images at different depths|Class 'bee' in .* has no training images",
        ),
        (["train/Cat", "test/cat"], "Class 'Cat' and class 'cat' in .* name them alike"),
        (["train/\u00e9", "test/e\u0301"], "the form of accents; name them alike"),
        (["Photo/ant", "photo/bee", "sketch/Ant"], "upper and lower case"),
        (["ant", "bee/a"], "images at different depths: ant/ and bee/a/"),
        ([""], "that are in no class"),
        (["images"], "images/ in .* is taken neither for a class"),
        (["images", "masks"], "images/ in .* is taken neither for a class"),
        (
            ["ant/images", "ant/masks", "bee/images", "bee/masks"],
            "ant/images/ .* nor for the images of a class",
        ),
        (["ant/images", "ant/more/bee"], "ant/images/ .* nor for the images of a class"),
        (["train/ant/images", "train/ant/img", "test/ant/images"], "train/ant/images/ .* is taken neither"),
        (["ant", "bee/images"], "images at different places: ant/ and bee/images/"),
        (
            ["train/ant/img", "train/bee/images", "test/ant/img"],
            "different places: train/ant/img/ and train/bee",
        ),
        (["train/images", "val/images"], "but no folders of classes"),
        (
            ["train/ant/images", "val/images"],
            "val/images/ .* are in no class: move .* in val/ .*move val/ elsew",
        ),
        (["train/ant", "val/ant", "test/images"], "test/images/ .* are in no class: .*test_annotations.txt"),
        (["train/a/b/images/c", "test/a/b/images/c"], "lies too deep"),
    ],
)
def test_what_could_be_read_otherwise_is_refused(paths: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        data.read_folder(grow(tmp_path / "a", *paths), size=4)


@pytest.mark.parametrize("inner", ["images", "Imgs", "IMG"])
@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["{}"], "CLASS"),
        (["photo/{}", "sketch/{}"], "DOMAIN/CLASS"),
        (["train/{}", "val/{}"], "train/CLASS and val/CLASS"),
        (["train/photo/{}", "test/photo/{}"], "train/DOMAIN/CLASS and test/DOMAIN/CLASS"),
    ],
)
def test_images_of_a_class_may_lie_in_a_folder_of_its_folder(
    paths: list[str], told: str, inner: str, tmp_path: Path
) -> None:
    """As if they lay in that of the class; in one part of a split they may."""
    names = [path.format(label) for path in paths for label in ("ant", "bee", "cow")]
    grow(tmp_path / "a", *names, images=3)
    grow(tmp_path / "b", *(f"{name}/{inner}" for name in names), images=3)
    grow(tmp_path / "c", *(f"{n}/{inner}" if n.startswith("train") else n for n in names), images=3)
    for place in ("b", "c"):
        plain, other = (data.read_folder(tmp_path / root, size=4) for root in ("a", place))
        assert (other.class_names, other.domain_names) == (plain.class_names, plain.domain_names)
        assert sizes(other) == sizes(plain)
        assert f"read as {told}" in other.found[0]
    assert (
        f"Images of a class lie in {inner}/ of its folder." in data.read_folder(tmp_path / "b", size=4).found
    )


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """Its layout, without test/, whose images have no class."""
    root, lines = tmp_path / "tiny", []
    for wnid in ("n01443537", "n02058221", "n12267677"):
        grow(root, f"train/{wnid}/images", images=3)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for i, wnid in enumerate(("n12267677", "n02058221", "n12267677", "n01443537")):
        paint(root / "val" / "images" / f"val_{i}.png", (40 * i, 0, 0))
        lines.append(f"val_{i}.png\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_classes_of_a_split_may_be_listed(tiny_imagenet: Path) -> None:
    source = data.read_folder(tiny_imagenet, size=4)
    assert (source.class_names, source.domain_names) == (("n01443537", "n02058221", "n12267677"), ())
    assert sizes(source) == (9, 0, 4)
    reds = dict(zip(source.test.x[:, 0, 0, 0].tolist(), source.test.y.tolist(), strict=True))
    assert reds == {0: 2, 40: 1, 80: 2, 120: 0}
    assert source.found[0].startswith(
        "The folder was read as train/CLASS and val/CLASS, where val is the test set"
    )
    assert source.found[1:] == (
        "Images of a class lie in images/ of its folder.",
        "The classes of images in val/images/ are those that val/val_annotations.txt names.",
        "Files that are no images by their names were passed over: .txt (3).",
    )


def test_listed_classes_are_read_as_folders_of_classes(tiny_imagenet: Path) -> None:
    def fingerprint() -> str:
        return clbench.from_folder(tiny_imagenet, size=4, experiences=3).fingerprint

    listed = fingerprint()
    for line in (tiny_imagenet / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        (tiny_imagenet / "val" / wnid).mkdir(exist_ok=True)
        (tiny_imagenet / "val" / "images" / name).rename(tiny_imagenet / "val" / wnid / name)
    (tiny_imagenet / "val" / "images").rmdir()
    assert fingerprint() == listed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_0.png\tn12267677\n", r"names no class of val_1\.png in val/images/"),
        ("val_0.png n12267677\n", r"val_annotations\.txt, line 1: the name of an image, a tab and its class"),
        ("\nval_0.png\tn12267677\nval_0.png\tn02058221\n", "line 3: .* every image has one class"),
        ("".join(f"val_{i}.png\tn7\n" for i in range(4)), r"Class 'n\d+' in .* has no test images"),
        ("\udcff", "is no text in UTF-8"),
    ],
)
def test_lists_that_do_not_say_the_classes_are_refused(tiny_imagenet: Path, text: str, message: str) -> None:
    (tiny_imagenet / "val" / "val_annotations.txt").write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=message):
        data.read_folder(tiny_imagenet, size=4)


def test_two_lists_or_images_without_class_are_not_read(tiny_imagenet: Path) -> None:
    grow(tiny_imagenet, "test/images")
    with pytest.raises(DataError, match=r"test/images/ in .* are in no class: .* move test/ elsewhere"):
        data.read_folder(tiny_imagenet, size=4)
    shutil.rmtree(tiny_imagenet / "test")
    (tiny_imagenet / "val" / "more_annotations.txt").write_text("")
    with pytest.raises(DataError, match=r"val/images/ in .* are in no class"):
        data.read_folder(tiny_imagenet, size=4)


def test_names_that_differ_in_case_may_be_two_classes(tmp_path: Path) -> None:
    """As letters are, where they stand side by side."""
    root = grow(tmp_path / "a", *(f"{split}/{c}" for split in ("train", "test") for c in "aAb"))
    assert data.read_folder(root, size=4).class_names == ("A", "a", "b")


def test_images_below_a_class_are_not_dropped(photos: Path) -> None:
    paint(photos / "train" / "ant" / "more" / "9.png", (1, 2, 3))
    with pytest.raises(DataError, match=r"ant holds images, such as 0\.png, beside the folder more/"):
        data.read_folder(photos)


def test_a_class_without_images_is_named_with_what_it_holds(photos: Path) -> None:
    for split in ("train", "test"):
        (photos / split / "cow").mkdir()
        (photos / split / "cow" / "0.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"cow holds no images \(its files end in \.heic\)"):
        data.read_folder(photos)


def test_what_systems_leave_is_no_data(photos: Path) -> None:
    before = data.read_folder(photos, size=4)
    for litter in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "System Volume Information", "$RECYCLE.BIN"):
        for place in (photos, photos / "train", photos / "train" / "ant"):
            paint(place / litter / "0.png", (1, 2, 3))
    for litter in ("Thumbs.db", "._0.png", ".DS_Store", "desktop.ini"):
        (photos / "train" / "ant" / litter).write_bytes(b"x")
    after = data.read_folder(photos, size=4)
    assert (after.class_names, after.train.digest, after.found) == (
        before.class_names,
        before.train.digest,
        before.found,
    )


def test_files_that_are_passed_over_are_told(photos: Path) -> None:
    for name in ("1.txt", "a.heic", "LICENSE", "data.zip"):
        (photos / "train" / "bee" / name).write_bytes(b"x")
    found = data.read_folder(photos, size=4).found
    assert found[1] == (
        "Files that are no images by their names were passed over: .heic (1), .txt (2), .zip (1), LICENSE (1)."
    )


def test_links_are_followed_and_loops_refused(photos: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for split in ("train", "test"):
        (linked / split).symlink_to(photos / split)
    assert data.read_folder(linked, size=4).train.digest == data.read_folder(photos, size=4).train.digest
    (photos / "train" / "bee" / "9.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"9\.png \(No such file"):
        data.read_folder(photos)
    (photos / "train" / "bee" / "9.png").unlink()
    os.mkfifo(photos / "train" / "bee" / "9.png")
    with pytest.raises(DataError, match=r"9\.png \(it is no file\)"):
        data.read_folder(photos)
    loop = tmp_path / "loop"
    loop.mkdir()
    (loop / "again").symlink_to(loop)
    with pytest.raises(DataError, match="lies too deep"):
        data.read_folder(loop)


def test_a_run_says_how_a_folder_was_read(photos: Path, tmp_path: Path) -> None:
    paint(photos / "test" / "ant" / "copy.png", (0, 0, 7))
    benchmark = clbench.from_folder(photos, size=4, experiences=2)
    record = clbench.run(benchmark, "finetune", out=tmp_path / "runs", iterations=1, model="mlp")
    assert record.benchmark["notes"] == data.remarks(benchmark)
    assert "read as train/CLASS and test/CLASS:" in record.benchmark["notes"][0]
    assert record.benchmark["notes"][-1] == "1 of 3 test examples are byte-identical to training examples."


# --- pixels ---


def read(path: Path, channels: int = 3) -> Any:
    """(C,) of an image of one colour."""
    pixels = decode(path.read_bytes(), 4, channels)
    assert (pixels == pixels[:, :1, :1]).all()
    return pixels[:, 0, 0].tolist()


RED = (200, 30, 10)


@pytest.mark.parametrize("format", ["png", "tif"])
@pytest.mark.parametrize(("value", "byte"), [(0, 0), (257, 1), (25_700, 100), (30_840, 120), (65_535, 255)])
def test_16_bits_are_scaled(format: str, value: int, byte: int, tmp_path: Path) -> None:
    write_image(tmp_path / f"a.{format}", np.full((4, 4), value, np.uint16))
    assert read(tmp_path / f"a.{format}") == [byte] * 3
    assert read(tmp_path / f"a.{format}", channels=1) == [byte]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bits_in_either_order(mode: str, tmp_path: Path) -> None:
    values = np.full((4, 4), 25_700, ">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (4, 4), values.tobytes())
    assert np.asarray(eight_bits(image)).tolist() == [[100] * 4] * 4
    image.save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif", 1) == [100]


def test_deep_grey_of_fewer_bits(tmp_path: Path) -> None:
    """The file says what is white, not the values that it holds."""
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 4 4 1000\n" + np.full((4, 4), 500, ">u2").tobytes())
    assert read(path, 1) == [128]
    write_image(tmp_path / "b.tif", np.full((4, 4), 4095, np.uint16))
    assert read(tmp_path / "b.tif", 1) == [16]
    with Image.open(tmp_path / "b.tif") as opened:
        opened.tag_v2[258] = (12,)
        assert np.asarray(eight_bits(opened)).tolist() == [[255] * 4] * 4


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_white_may_be_zero(dtype: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.zeros((4, 4), dtype))
    with Image.open(tmp_path / "a.tif") as opened:
        opened.tag_v2[262] = 0
        assert np.asarray(eight_bits(opened)).tolist() == [[255] * 4] * 4


@pytest.mark.parametrize(("value", "byte"), [(0.0, 0), (0.25, 64), (0.5, 128), (1.0, 255)])
def test_floating_point_goes_from_0_to_1(value: float, byte: int, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.full((4, 4), value, np.float32))
    assert read(tmp_path / "a.tif") == [byte] * 3


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4), 128.0, np.float32), "floating-point numbers outside 0–1"),
        (np.full((4, 4), -0.1, np.float32), "floating-point numbers outside 0–1"),
        (np.full((4, 4), np.nan, np.float32), "floating-point numbers outside 0–1"),
        (np.full((4, 4), 7, np.int32), "holds signed numbers"),
        (Image.new("LAB", (4, 4)), r"its colours are L\*a\*b\*"),
    ],
)
def test_pixels_without_one_meaning_are_refused(pixels: Any, message: str, photos: Path) -> None:
    write_image(photos / "train" / "ant" / "9.tif", pixels)
    with pytest.raises(DataError, match=rf"9\.tif \(.*{message}"):
        data.read_folder(photos, size=4)


@pytest.mark.parametrize("format", ["gif", "png", "webp", "tif"])
def test_several_frames_are_refused(format: str, photos: Path) -> None:
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), "blue")
    first.save(photos / "train" / "ant" / f"9.{format}", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="it holds 2 frames or pages"):
        data.read_folder(photos, size=4)


def test_of_a_cameras_pictures_the_first_counts(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    assert np.abs(np.subtract(read(tmp_path / "a.jpg"), RED)).max() <= 2


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "png"),
        ("RGB", "bmp"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("RGBA", "tif"),
        ("RGBX", "tif"),
        ("CMYK", "tif"),
        ("YCbCr", "tif"),
        ("RGB", "ppm"),
    ],
)
def test_colours_survive_every_mode(mode: str, format: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), RED)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / f"a.{format}")
    assert np.abs(np.subtract(read(tmp_path / f"a.{format}"), RED)).max() <= 2


@pytest.mark.parametrize(("mode", "value"), [("1", 255), ("L", 77), ("LA", 77), ("La", 77), ("PA", 77)])
def test_grey_survives_every_mode(mode: str, value: int) -> None:
    grey = Image.new("L", (4, 4), value)
    image = grey.convert("LA").convert(mode) if mode == "La" else grey.convert(mode)
    assert np.asarray(eight_bits(image).convert("RGB")).tolist() == [[[value] * 3] * 4] * 4


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "RGBA", "RGBa", "YCbCr", "CMYK"])
def test_modes_that_no_file_has(mode: str) -> None:
    image = Image.new("RGB", (4, 4), RED)
    image = image.convert("RGBA").convert(mode) if mode == "RGBa" else image.convert(mode)
    assert np.abs(np.asarray(eight_bits(image)).astype(int)[0, 0] - RED).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    """Whatever colour lies behind it, which nobody has seen."""
    path = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        Image.new(mode, (4, 4), (*RED, 0) if mode == "RGBA" else (10, 0)).save(path)
    elif mode == "P":
        Image.new("RGB", (4, 4), RED).quantize(2).save(path, transparency=0)
    else:
        colour: Any = RED if mode == "RGB" else 10
        Image.new(mode, (4, 4), colour).save(path, transparency=colour)
    assert read(path) == [255] * 3
    assert read(path, channels=1) == [255]


def test_half_transparent_pixels_are_half_white() -> None:
    assert np.asarray(eight_bits(Image.new("RGBA", (1, 1), (0, 100, 200, 128))))[0, 0].tolist() == [
        127,
        177,
        227,
    ]


def test_a_hidden_format_starts_no_program(photos: Path) -> None:
    (photos / "train" / "ant" / "9.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    with pytest.raises(
        DataError, match=r"9\.png \(cannot identify image file: it is damaged, or none of PNG"
    ):
        data.read_folder(photos)


@pytest.mark.parametrize("mode", ["RGB", "I;16", "L"])
def test_every_mode_is_turned_upright(mode: str, tmp_path: Path) -> None:
    row = np.array([[0, 255]], np.uint16 if mode == "I;16" else np.uint8) * (257 if mode == "I;16" else 1)
    pixels = np.repeat(np.repeat(row, 4, 0), 2, 1)  # 4 × 4, dark on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, clockwise
    image = Image.fromarray(pixels)
    (image.convert("RGB") if mode == "RGB" else image).save(tmp_path / "a.png", exif=exif)
    assert decode((tmp_path / "a.png").read_bytes(), 4, 1)[0].tolist() == [[0] * 4] * 2 + [[255] * 4] * 2


# --- the cache ---


def test_content_decides_what_the_cache_holds(tmp_path: Path) -> None:
    """Two folders of the same names, sizes and times."""
    read_as = []
    for name, values in (("a", (10, 30)), ("b", (100, 120))):
        for c, value in zip(("ant", "bee"), values, strict=True):
            for i in range(5):
                path = tmp_path / name / c / f"{i}.bmp"
                write_image(path, np.full((8, 8), value, np.uint8))
                os.utime(path, ns=(10**18, 10**18))
        read_as.append(data.read_folder(tmp_path / name, size=8, channels=1))
    assert [sorted(set(source.train.x.flatten().tolist())) for source in read_as] == [[10, 30], [100, 120]]
    assert read_as[0].train.digest != read_as[1].train.digest


def test_a_file_that_changes_in_place_is_decoded_again(tmp_path: Path) -> None:
    root = grow(tmp_path / "a", "ant", "bee")
    path = root / "ant" / "0.bmp"
    write_image(path, np.full((4, 4), 10, np.uint8))
    before, stat = data.read_folder(root, size=4), path.stat()
    with path.open("r+b") as file:  # the same file, size and time
        file.seek(-16, os.SEEK_END)
        file.write(bytes([90] * 16))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = data.read_folder(root, size=4)
    digests = {source.train.digest + source.test.digest for source in (before, after)}
    assert len(digests) == 2


def test_the_cache_does_not_ask_for_names_and_times(photos: Path, tmp_path: Path, folder: Path) -> None:
    data.read_folder(photos, size=8)
    photos.rename(tmp_path / "renamed")
    os.utime(tmp_path / "renamed" / "train" / "ant" / "0.png", ns=(1, 1))
    data.read_folder(tmp_path / "renamed", size=8)
    assert len(list((folder / "folders").iterdir())) == 1


def test_a_file_that_changes_while_it_is_read_is_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = json.dumps

    def late(*given: Any) -> str:  # between hashing and decoding
        paint(photos / "train" / "bee" / "1.png", (1, 1, 1))
        return plain(*given)

    monkeypatch.setattr(decoded.json, "dumps", late)
    with pytest.raises(DataError, match=r"1\.png \(it changes while it is read\)"):
        data.read_folder(photos, size=8)


def test_damaged_pixels_are_named(photos: Path) -> None:
    path = photos / "train" / "bee" / "1.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"bee/1\.png \(image file is truncated"):
        data.read_folder(photos, size=8)


def test_images_of_many_sizes_become_one_size(tmp_path: Path) -> None:
    for i, size in enumerate(((3, 90), (1, 1), (64, 20), (7, 7), (100, 100))):
        for c in ("ant", "bee"):
            paint(tmp_path / "a" / c / f"{i}.png", RED, size)
    source = data.read_folder(tmp_path / "a")
    assert source.train.x.shape[1:] == (3, 64, 64)
    assert torch.equal(source.train.x[:, :, 5, 5], torch.tensor(RED, dtype=torch.uint8).expand(8, 3))
