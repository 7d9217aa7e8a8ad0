"""Images prepared for pretrained networks, against Pillow, torchvision and timm themselves; published orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

import clbench
from clbench.config import resolve
from clbench.data import read_published
from clbench.data.orders import digest, order_of
from clbench.errors import ConfigError, DataError
from clbench.machine.torchvision import torchvision
from clbench.reports.grouping import configuration
from clbench.runs import suite
from clbench.transforms.recipes import RECIPES, Prepared, Recipe
from clbench.transforms.resampling import Interpolation, resized, resized_boxes
from clbench.transforms.views import crop_boxes

PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def drawn(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=Generator().manual_seed(sum(shape)))


def pictures(x: Tensor) -> list[Image.Image]:
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in x]


def tensors(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in images])


def made(x: Tensor, **how: Any) -> clbench.Benchmark:
    y = torch.arange(len(x)) % 2
    layout: Any = "channels-first" if x.ndim == 4 else "auto"
    return clbench.from_arrays(x, y, x, y, layout=layout, experiences=2, **how)


# --- resampling ---


@pytest.mark.parametrize("by", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32, 224, 224), (90, 131, 48, 70), (61, 40, 61, 13)])
def test_resized_images_have_the_bits_of_pillow(by: Interpolation, size: tuple[int, int, int, int]) -> None:
    height, width, to_height, to_width = size
    x = drawn(3, 3, height, width)
    theirs = [image.resize((to_width, to_height), PILLOW[by]) for image in pictures(x)]
    assert torch.equal(resized(x, to_height, to_width, by), tensors(theirs))


@pytest.mark.parametrize("by", ["bicubic", "bilinear"])
def test_boxes_have_the_bits_of_pillow(by: Interpolation) -> None:
    x, generator = drawn(70, 3, 40, 52), Generator().manual_seed(0)
    boxes = crop_boxes(x, generator, 0.05)
    flipped = torch.rand(len(x), generator=generator) < 0.5
    theirs = []
    for row, image in enumerate(pictures(x)):
        top, left, height, width = (int(part[row]) for part in boxes)
        cut = image.crop((left, top, left + width, top + height)).resize((24, 32), PILLOW[by])
        theirs.append(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped[row] else cut)
    assert torch.equal(resized_boxes(x, boxes, flipped, 32, 24, by), tensors(theirs))


def test_numbers_with_a_point_are_resized_without_rounding() -> None:
    x = drawn(2, 3, 20, 20).float() / 255
    theirs = torch.nn.functional.interpolate(x, (9, 9), mode="bicubic", antialias=True)
    torch.testing.assert_close(resized(x, 9, 9, "bicubic"), theirs, rtol=0, atol=1e-5)


# --- recipes ---


@pytest.mark.parametrize("shape", [(32, 32), (250, 333), (417, 300)])
@pytest.mark.parametrize("network", ["vit_tiny_patch16_224", "timm:resnet18", "vit_base_patch16_siglip_224"])
def test_a_networks_recipe_is_timms_own_transform(network: str, shape: tuple[int, int]) -> None:
    torchvision()
    import timm

    name, x = network.removeprefix("timm:"), drawn(2, 3, *shape)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config)
    ours = made(x, recipe=f"timm:{name}")
    assert ours.input_shape == config["input_size"]
    expected = torch.stack([theirs(image) for image in pictures(x)])
    torch.testing.assert_close(ours.transform.normalise(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_a_published_recipe_is_its_codes_test_transform(name: str, small: bool) -> None:
    torchvision()
    from torchvision import transforms as T

    recipe, x = RECIPES[name], drawn(2, 3, 32, 32) if small else drawn(2, 3, 240, 320)
    by = T.InterpolationMode[recipe.interpolation.upper()]
    whole = name in ("pilot-coda", "ranpac", "ranpac-resnet", "fecam", "inflora") and small
    steps: list[Any] = [T.Resize(224 if whole else 256, by), T.CenterCrop(224)]
    if name == "fecam":
        steps = [T.ToTensor(), *steps]
    else:
        steps.append(T.ToTensor())
    if name == "ranpac-resnet":
        steps.append(T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = torch.stack([T.Compose(steps)(image) for image in pictures(x)])
    torch.testing.assert_close(made(x, recipe=name).transform.normalise(x), expected, rtol=0, atol=1e-5)


def test_training_resizes_a_drawn_box_of_each_image_by_the_runs_generator() -> None:
    x = drawn(6, 3, 40, 40)
    transform = made(x, recipe={"name": "pilot", "scale": [0.3, 0.6], "ratio": [1.0, 1.0]}, size=16).transform
    assert transform.ops == ("resized-crop", "flip")
    one, again, other = (transform.train(x, Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    boxes = crop_boxes(x, Generator().manual_seed(0), 0.3, 0.6, (1.0, 1.0))
    assert all(0.25 < int(h) * int(w) / 1600 < 0.65 and h == w for h, w in zip(*boxes[2:], strict=True))
    assert (one.shape, transform.augment(x, Generator().manual_seed(0)).shape) == ((6, 3, 16, 16), x.shape)


def test_size_alone_resizes_and_leaves_normalisation_and_augmentation() -> None:
    x = drawn(4, 3, 16, 16)
    plain, larger = (made(x, augment=("crop", "flip"), **how).transform for how in ({}, {"size": 24}))
    assert (larger.mean, larger.std, larger.ops) == (plain.mean, plain.std, ("crop", "flip"))
    cropped = plain.augment(x, Generator().manual_seed(3))
    assert torch.equal(larger.train(x, Generator().manual_seed(3)), larger.normalise(cropped))


def test_many_images_are_prepared_as_each_alone() -> None:
    transform = Prepared(recipe=Recipe(size=12, crop_pct=0.8))
    x = drawn(130, 1, 9, 9)
    assert torch.equal(transform.normalise(x)[70:71], transform.normalise(x[70:71]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"recipe": "pilto"}, "no recipe 'pilto'. Did you mean 'pilot'"),
        ({"recipe": "pretrained"}, "name the network: recipe=timm:"),
        ({"recipe": "timm:vit_tony"}, "timm has no 'vit_tony'"),
        ({"recipe": "pilot", "normalise": "first"}, "the recipe pilot says how pixels are normalised"),
        ({"recipe": {"name": "pilot", "scael": [0.1, 1.0]}}, "no parameter 'scael'. Did you mean 'scale'"),
        ({"recipe": {"scale": [0.5, 0.1]}}, "a lower and an upper bound"),
        ({"augment": ("resized-crop",)}, "needs size or recipe"),
        ({"recipe": "ranpac-resnet"}, "mean and std need 1 or 1 values each; 3 were given"),
        ({"class_order": "numpy1993"}, "published order: numpy-1993.*'numpy1993' was given. Did you mean"),
    ],
)
def test_what_is_no_recipe_or_order_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(drawn(4, 1, 8, 8), **how)


def test_features_have_no_size() -> None:
    with pytest.raises(ConfigError, match="size and recipe are for images"):
        made(torch.eye(4), size=8)


def test_the_recipe_of_a_runs_network_is_named_in_its_configuration() -> None:
    resolved = resolve(
        "split-cifar100", "finetune", {"recipe": "pretrained", "model": "vit_tiny_patch16_224"}
    )
    assert resolved.stream["recipe"] == "timm:vit_tiny_patch16_224"
    with pytest.raises(ConfigError, match="model=slim-resnet18 is none of timm"):
        resolve("split-cifar100", "finetune", {"recipe": "pretrained"})


def test_older_records_without_size_and_recipe_stay_in_their_row() -> None:
    config = resolve("split-cifar100", "finetune").model_dump(mode="json")
    assert {"size", "recipe"} <= config["stream"].keys()
    assert not {"size", "recipe"} & configuration(config, 0)["stream"].keys()


# --- runs ---


@pytest.mark.parametrize("strategy", ["er", "simple-cil"])
def test_a_run_prepares_test_images_portion_by_portion(strategy: str, tmp_path: Path) -> None:
    x = drawn(24, 3, 16, 16)
    large = resized(x, 32, 32, "bicubic")
    settings: dict[str, Any] = {
        "model": "slim-resnet18",
        "model.width": 4,
        "batch_size": 4,
        "normalise": "none",
    }
    curves = []
    for name, images, how in (("stored", large, {}), ("resized", x, {"size": 32})):
        benchmark = made(images, **{"normalise": "none", **how})
        given = {k: v for k, v in settings.items() if k != "normalise"}
        record = clbench.run(benchmark, strategy, out=tmp_path / name, device="cpu", **given)
        curves.append({k: v for k, v in record.metrics.items() if isinstance(v, float)})
        assert benchmark.input_shape == (3, 32, 32)
    assert curves[0] == curves[1]


# --- orders ---


@pytest.mark.parametrize(
    ("classes", "first", "checksum", "sha"),
    [
        (10, [4, 2, 7, 6], None, "2670e10e311e0f2b"),
        (50, [43, 41, 23, 14], 29_649, None),
        (100, [68, 56, 78, 8], 236_946, "997a048a5344d216"),
        (200, [168, 136, 51, 9], 2_044_957, "1d364b99a5915405"),
        (300, [169, 221, 146, 296], 6_935_101, None),
        (1000, [54, 7, 894, 512], None, "305571fb8fde3e0f"),
    ],
)
def test_published_orders(classes: int, first: list[int], checksum: int | None, sha: str | None) -> None:
    order = order_of("pycil-1993", classes)
    assert order[:4].tolist() == first
    assert checksum in (None, int((np.arange(classes) * order).sum()))
    assert sha in (None, digest(order))


def test_another_seed_is_another_published_order() -> None:
    assert digest(order_of("numpy-1994", 100)) == "03ac1cb18ce277b1"
    assert digest(order_of("numpy-0", 100)) == "0b019832a2a97cf6"


def test_a_stream_takes_classes_by_a_published_order_and_says_which() -> None:
    x, y = np.zeros((20, 3), "f4"), np.arange(20) % 10
    benchmark = clbench.from_arrays(x, y, x, y, first=4, increment=4, class_order="numpy-1993")
    assert [exp.classes for exp in benchmark.train] == [(2, 4, 6, 7), (0, 3, 5, 8), (1, 9)]
    assert "numpy-1993: 4 2 7 6 0 3 5 8 … (SHA-256 2670e10e311e0f2b)" in benchmark.notes


# --- folders of photographs ---


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Classes 10 and 9, of two training and one test image, none square."""
    for name in ("10", "9"):
        for split, count in (("train", 2), ("val", 1)):
            folder = tmp_path / "raw" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = drawn(30 + 7 * k, 41, 3).numpy()
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return tmp_path / "raw"


def test_a_folder_is_prepared_from_its_files_as_torchvision_does(photographs: Path) -> None:
    torchvision()
    from torchvision import transforms as T

    benchmark = clbench.make_benchmark(
        "split-imagenet-r", path=str(photographs), first=1, increment=1, size=16
    )
    theirs = T.Compose([T.Resize(18, T.InterpolationMode.BICUBIC), T.CenterCrop(16), T.ToTensor()])
    files = [photographs / "train" / name / f"{k}.png" for name in ("10", "9") for k in (0, 1)]
    expected = torch.stack([theirs(Image.open(file)) for file in files])
    pool = benchmark.train[0].data.parts[0][0]
    torch.testing.assert_close(benchmark.transform.normalise(pool.x), expected, rtol=0, atol=1e-6)
    assert (benchmark.class_names, benchmark.input_shape) == (("10", "9"), (3, 16, 16))
    assert "200 classes, 24,000 training" in benchmark.notes


def test_lists_name_the_images_of_a_raw_release(photographs: Path, tmp_path: Path) -> None:
    lists = tmp_path / "train.txt", tmp_path / "test.txt"
    lists[0].write_text("train/9/0.png\ntrain/10/1.png\tten\n\n")
    lists[1].write_text("val/9/0.png\nval/10/0.png\tten\n")
    source = read_published("cub200", photographs, lists, Recipe(size=8), (2, 2, 2))
    assert (source.class_names, source.train.y.tolist(), len(source.found)) == (("9", "ten"), [0, 1], 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("train/9/0.png\ntrain/9/7.png\n", r"train.txt, line 2: there is no file .*7.png"),
        ("train/9/0.png\ntrain/9/0.png\n", r"line 2: train/9/0.png is listed before, in .*line 1"),
        ("train/9/0.png 0\n", r"There is train/9/0.png; a class, such as 0, stands after a tab"),
        ("../raw/train/9/0.png\n", r"line 1: \.\./raw/train/9/0\.png leaves the folder"),
        ("a/1.png\nb.png\n\n" * 6, r"(?s)line 1: .*line 2: .*line 4: .*\nand 2 more"),
        ("lonely.png\n", r"line 1: lonely.png lies in no folder that would name its class"),
        ("train/9/0.png\n", "Class '10' in .* has no training images"),
    ],
)
def test_wrong_lists_are_refused(photographs: Path, tmp_path: Path, lines: str, message: str) -> None:
    lists = tmp_path / "train.txt", tmp_path / "test.txt"
    lists[0].write_text(lines)
    lists[1].write_text("val/9/0.png\nval/10/0.png\n")
    with pytest.raises(DataError, match=message):
        read_published("cub200", photographs, lists, Recipe(size=8), (2, 2, 2))


def test_a_missing_folder_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"folder with train/CLASS/\* .*imagenet-a is none. .*train_list=FILE"
    ):
        clbench.make_benchmark("split-imagenet-a")
    with pytest.raises(DataError, match=r"go together; only a\.txt was given"):
        clbench.make_benchmark("split-cars", path=str(tmp_path), train_list="a.txt")


def test_presets_of_a_published_toolbox_are_complete_configurations(photographs: Path) -> None:
    given = {"path": str(photographs), "first": 1, "increment": 1, "stream.size": 16}
    cells = suite.plan(suite.load("pilot-imagenet-r")[1], given)
    found = {cell.resolved.strategy: cell.resolved for cell in cells}
    l2p, coda = found["l2p"], found["coda-prompt"]
    assert (l2p.optim.lr, l2p.train.batch_size, l2p.params["l2p"]["variant"]) == (1.875e-3, 32, "pilot")
    assert (l2p.stream["class_order"], l2p.stream["recipe"]) == ("numpy-1993", "pilot")
    assert (coda.stream["class_order"], coda.stream["recipe"]) == ("natural", "pilot-coda")
    assert {cell.model.name for cell in found.values()} == {"vit_base_patch16_224.augreg_in21k_ft_in1k"}
