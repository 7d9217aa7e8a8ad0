"""Transforms and domain changes, against torchvision and against themselves on other machines."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.errors import ConfigError
from clbench.machine.torchvision import torchvision
from clbench.transforms.augment import (
    IMAGE_OPS,
    SIGNED,
    Permute,
    Rotate,
    Transform,
    _policy,
    auto_augment,
    crop_flip,
    image_op,
)

CIFAR = Transform(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26), ops=("crop", "flip"))


@pytest.fixture(scope="module")
def functional() -> Any:
    torchvision()
    from torchvision.transforms import functional

    return functional


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(256, (32, 3, 20, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalise_is_torchvisions(functional: Any, images: Tensor) -> None:
    ours = CIFAR.normalise(images)
    theirs = functional.normalize(images / 255, CIFAR.mean, CIFAR.std)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_normalise_scales_images_only() -> None:
    tokens, features = torch.arange(6).view(2, 3), torch.randn(2, 3)
    assert Transform().normalise(tokens) is tokens
    assert Transform().normalise(features) is features
    whitened = Transform(mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0)).normalise(features)
    torch.testing.assert_close(whitened, (features - torch.tensor([1.0, 2.0, 3.0])) / 2)
    digits = torch.tensor([[0, 8, 16]], dtype=torch.uint8)
    assert Transform(scale=1 / 16).normalise(digits).tolist() == [[0, 0.5, 1]]


def test_one_mean_serves_all_channels(images: Tensor) -> None:
    one, three = Transform(mean=(0.5,), std=(0.2,)), Transform(mean=(0.5,) * 3, std=(0.2,) * 3)
    assert torch.equal(one.normalise(images), three.normalise(images))


@pytest.mark.parametrize(
    "given", [{"mean": (0.1, 0.2, 0.3), "std": 0.5}, {"mean": 0.5, "std": (0.1, 0.2, 0.3)}]
)
def test_one_number_goes_with_a_list(given: dict[str, Any]) -> None:
    longest = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in given.items()}
    assert Transform(**given) == Transform(**longest)


def test_normalise_first_used_without_gradients_works_with_them() -> None:
    transform = Transform(mean=(0.3125,), std=(0.75,))  # used nowhere else: constants are cached
    features = torch.ones(2, 4)
    with torch.inference_mode():
        transform.normalise(features)
    transform.normalise(features.requires_grad_()).sum().backward()
    assert features.grad is not None


@pytest.mark.parametrize("padding", [0, 4])
def test_crop_and_flip_are_torchvisions(functional: Any, images: Tensor, padding: int) -> None:
    generator = torch.Generator().manual_seed(1)
    top, left = torch.randint(2 * padding + 1, (2, len(images)), generator=generator)
    side = torch.randint(2, (len(images),), generator=generator)
    ours = CIFAR.normalise(crop_flip(images, top, left, side, padding))
    for i, image in enumerate(images):
        theirs = functional.crop(functional.pad(image, padding), int(top[i]), int(left[i]), 20, 16)
        theirs = functional.hflip(theirs) if side[i] else theirs
        theirs = functional.normalize(theirs / 255, CIFAR.mean, CIFAR.std)
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-6)


def test_train_draws_every_offset_and_side_equally_often() -> None:
    """Each of the 9 · 9 · 2 outcomes, told apart by where two marks land."""
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[..., 4, 4], image[..., 4, 5] = 1, 2  # the second one may be cut off, but the side shows otherwise
    n = 162 * 200
    wide = Transform(ops=("crop", "flip"), padding=4)
    drawn = wide.augment(image.expand(n, -1, -1, -1), torch.Generator().manual_seed(0)).flatten(1)
    place, counts = drawn.eq(1).long().argmax(1).unique(return_counts=True)
    assert len(place) == 81
    assert abs(counts / n * 81 - 1).max() < 0.2  # 400 of each expected; 4 standard deviations
    flip = Transform(ops=("flip",)).augment(image.expand(n, -1, -1, -1), torch.Generator().manual_seed(0))
    assert abs(flip[:, 0, 4, 3].eq(2).double().mean() - 0.5) < 0.02
    assert set(flip[:, 0, 4, 5].unique().tolist()) == {0, 2}


def test_train_draws_from_its_generator_alone(images: Tensor) -> None:
    before = torch.get_rng_state()
    first = CIFAR.train(images, torch.Generator().manual_seed(5))
    assert torch.equal(first, CIFAR.train(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, CIFAR.train(images, torch.Generator().manual_seed(6)))
    assert torch.equal(before, torch.get_rng_state())


def test_train_leaves_its_input_alone(images: Tensor) -> None:
    before = images.clone()
    CIFAR.train(images, torch.Generator().manual_seed(0))
    assert torch.equal(images, before)


def test_a_transform_without_operations_draws_nothing(images: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    plain = Transform(mean=(0.5,), std=(0.5,))
    assert torch.equal(plain.train(images, generator), plain.normalise(images))
    assert torch.equal(generator.get_state(), state)


def test_describe_tells_transforms_apart() -> None:
    assert Transform().describe() == {"scale": 1 / 255, "mean": [], "std": []}
    assert CIFAR.describe() != Transform(mean=CIFAR.mean, std=CIFAR.std).describe()
    assert Transform(ops=("flip", "crop")).describe() == Transform(ops=("crop", "flip")).describe()


def test_lists_will_do() -> None:
    assert Transform(mean=[0.5], std=[0.5], ops=["flip"]) == Transform(mean=(0.5,), std=(0.5,), ops=("flip",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ops": ("flop",)}, "no training operation 'flop'. Did you mean 'flip'"),
        ({"mean": (0.5,)}, "one std per mean; given: 1 means, 0 stds"),
        ({"mean": (0.5,), "std": (0.0,)}, "positive stds"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "finite means"),
    ],
)
def test_transforms_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transform(**wrong)


def test_augmentation_needs_images() -> None:
    with pytest.raises(ConfigError, match=r"needs images \(B, C, H, W\)"):
        CIFAR.train(torch.zeros(2, 5), torch.Generator())


def test_permute_takes_place_p_from_permutation_p() -> None:
    permutation = torch.tensor([2, 0, 3, 1])
    vectors = torch.tensor([[10, 11, 12, 13]], dtype=torch.uint8)
    assert Permute(permutation)(vectors).tolist() == [[12, 10, 13, 11]]
    image = torch.stack([vectors.view(1, 2, 2), vectors.view(1, 2, 2) + 100], 1)  # two channels
    changed = Permute(permutation)(image)
    assert changed.shape == image.shape
    assert changed.dtype == torch.uint8
    assert changed[0, 0].flatten().tolist() == [12, 10, 13, 11]
    assert changed[0, 1].flatten().tolist() == [112, 110, 113, 111]
    assert Permute(permutation).describe() == {"permute": [2, 0, 3, 1]}


def test_permute_refuses_what_is_no_permutation_or_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="each of 0 … n−1 once"):
        Permute(torch.tensor([0, 0, 1]))
    with pytest.raises(ConfigError, match="of 2 places does not fit inputs of shape"):
        Permute(torch.tensor([1, 0]))(torch.zeros(1, 3))


@pytest.mark.parametrize("degrees", [10, 80, 160, -45, 270.5])
@pytest.mark.parametrize("size", [(28, 28), (21, 32)])
def test_rotate_is_torchvisions(functional: Any, degrees: float, size: tuple[int, int]) -> None:
    noise = torch.randint(256, (4, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    theirs = functional.rotate(noise, degrees, functional.InterpolationMode.BILINEAR)
    off = (Rotate(degrees)(noise).int() - theirs.int()).abs()
    assert off.max() <= 1  # grey level: they round to even, from float32
    assert off.float().mean() < 0.05


def test_rotate_by_right_angles_is_exact(images: Tensor) -> None:
    square = images[..., :16, :]
    for quarter in (1, 2, 3, -1):
        assert torch.equal(Rotate(90.0 * quarter)(square), square.rot90(quarter, (2, 3)))
    assert Rotate(360)(images) is images
    assert torch.equal(Rotate(180)(images), images.flip(2, 3))


def test_rotate_gives_the_same_bytes_everywhere() -> None:
    ramp = (torch.arange(2 * 28 * 28) * 37 % 256).to(torch.uint8).view(2, 1, 28, 28)
    digest = hashlib.sha256(Rotate(80)(ramp).numpy().tobytes()).hexdigest()
    assert digest == "ac98696fbf6018f3228af3d92e180bbee45a23578d2625d53ffeaf6e76c14648"


def test_rotate_in_chunks_is_rotate_at_once() -> None:
    many = torch.randint(256, (5000, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(Rotate(30)(many)[4090:4100], Rotate(30)(many[4090:4100]))


def test_rotate_needs_uint8_images() -> None:
    with pytest.raises(ConfigError, match=r"uint8 images \(N, C, H, W\); the inputs are torch.float32"):
        Rotate(10)(torch.zeros(1, 1, 8, 8))


def test_changes_of_nothing_are_nothing() -> None:
    none = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    assert Rotate(10)(none).shape == none.shape
    assert Permute(torch.arange(64))(none).shape == none.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_computes_the_same_bits(images: Tensor) -> None:
    assert torch.equal(CIFAR.normalise(images.cuda()).cpu(), CIFAR.normalise(images))
    assert torch.equal(Rotate(80)(images.cuda()).cpu(), Rotate(80)(images))
    permute = Permute(torch.randperm(320, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(permute(images.cuda()).cpu(), permute(images))
    assert CIFAR.train(images.cuda(), torch.Generator("cuda").manual_seed(0)).device.type == "cuda"


OPERATIONS = {
    "identity": lambda F, x, m: x,
    "shear y": lambda F, x, m: F.affine(
        x, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(m))], center=[0, 0]
    ),
    "translate x": lambda F, x, m: F.affine(x, 0.0, [int(m), 0], 1.0, [0.0, 0.0]),
    "translate y": lambda F, x, m: F.affine(x, 0.0, [0, int(m)], 1.0, [0.0, 0.0]),
    "rotate": lambda F, x, m: F.rotate(x, m),
    "brightness": lambda F, x, m: F.adjust_brightness(x, 1 + m),
    "colour": lambda F, x, m: F.adjust_saturation(x, 1 + m),
    "contrast": lambda F, x, m: F.adjust_contrast(x, 1 + m),
    "sharpness": lambda F, x, m: F.adjust_sharpness(x, 1 + m),
    "posterize": lambda F, x, m: F.posterize(x, int(m)),
    "solarize": lambda F, x, m: F.solarize(x, m),
    "autocontrast": lambda F, x, m: F.autocontrast(x),
    "equalize": lambda F, x, m: F.equalize(x),
    "invert": lambda F, x, m: F.invert(x),
}
MAGNITUDES = {
    "shear y": 0.23,
    "translate x": 5.7,
    "translate y": 8.2,
    "rotate": 17.3,
    "posterize": 5,
    "solarize": 113.3,
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IMAGE_OPS)
def test_image_operations_are_torchvisions(functional: Any, name: str, channels: int, sign: int) -> None:
    """Up to one grey level of rounding; a pixel halfway between two may come from the other."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(40, 200, (6, channels, 20, 16), dtype=torch.uint8, generator=generator)
    x[0] = 77  # nothing to stretch or flatten
    number = IMAGE_OPS.index(name)
    signed = SIGNED.start <= number < SIGNED.stop
    m = MAGNITUDES.get(name, 0.55) * (sign if signed else 1)
    ours = image_op(x, torch.full((6,), number), torch.full((6,), float(m)))
    theirs = torch.stack([OPERATIONS[name](functional, image, m) for image in x])
    far = (ours.int() - theirs.int()).abs() > 1
    assert ours.dtype == torch.uint8
    assert far.double().mean() <= (0.005 if name in ("rotate", "shear y") else 0.0)


def test_each_image_gets_its_own_operation() -> None:
    x = torch.randint(
        256, (len(IMAGE_OPS), 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    op, magnitude = torch.arange(len(IMAGE_OPS)), torch.full((len(IMAGE_OPS),), 3.0)
    together = image_op(x, op, magnitude)
    alone = [image_op(x[i : i + 1], op[i : i + 1], magnitude[i : i + 1]) for i in range(len(x))]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[0], x[0])


def test_auto_augment_is_torchvisions_policy(functional: Any) -> None:
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10)
    space = theirs._augmentation_space(10, (20, 16))
    ops, chances, magnitudes = _policy(20, 16, torch.device("cpu"))
    kind = {"Color": "colour", **{n: n.lower() for n in space if n != "Color"}}
    kind |= {"ShearY": "shear y", "TranslateX": "translate x", "TranslateY": "translate y"}
    for i, pair in enumerate(theirs.policies):
        for j, (name, chance, level) in enumerate(pair):
            assert IMAGE_OPS[ops[i, j]] == kind[name]
            assert chances[i, j] == pytest.approx(chance)
            if level is not None:
                assert magnitudes[i, j] == pytest.approx(float(space[name][0][level]), abs=1e-4)


def test_auto_augment_draws_from_its_generator_alone(images: Tensor) -> None:
    before, state = images.clone(), torch.get_rng_state()
    first = auto_augment(images, torch.Generator().manual_seed(5))
    assert torch.equal(first, auto_augment(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, auto_augment(images, torch.Generator().manual_seed(6)))
    assert torch.equal(before, images)
    assert torch.equal(state, torch.get_rng_state())
    assert first.dtype == torch.uint8
    changed = (first != images).flatten(1).any(1).double().mean()
    assert 0.6 < changed <= 1.0
