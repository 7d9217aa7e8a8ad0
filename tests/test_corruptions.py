"""Corruptions: the same pixels everywhere, as strong as they say, and streams of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from clbench import make_benchmark
from clbench.errors import ConfigError, DataError
from clbench.transforms.corruptions import KINDS, STRENGTHS, Corrupt, Kind


def drawn(*shape: int) -> Tensor:
    return torch.randint(64, 192, shape, dtype=torch.uint8, generator=Generator().manual_seed(1))


def changed(kind: Kind, strength: int, x: Tensor) -> Tensor:
    return (Corrupt(kind, strength)(x).float() - x.float()) / 255


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_corrupted_alike_in_any_batch(kind: Kind) -> None:
    x = drawn(6, 3, 9, 12)
    assert torch.equal(Corrupt(kind, 3)(x)[4:5], Corrupt(kind, 3)(x[4:5]))


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_grow_with_their_strength(kind: Kind) -> None:
    sizes = [float(changed(kind, strength, drawn(4, 3, 32, 32)).square().mean()) for strength in range(1, 6)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("strength", [1, 5])
def test_noise_is_normal_with_the_deviation_that_it_says(strength: int) -> None:
    noise, deviation = changed("noise", strength, drawn(40, 3, 32, 32)), STRENGTHS["noise"][strength - 1]
    assert abs(float(noise.mean())) < 0.02 * deviation
    assert float(noise.std()) == pytest.approx(deviation, rel=0.02)
    assert float((noise.abs() < deviation).float().mean()) == pytest.approx(
        math.erf(math.sqrt(0.5)), abs=0.02
    )
    near = noise[:, :, :, 1:] * noise[:, :, :, :-1]
    assert abs(float(near.mean())) < 0.02 * deviation**2


def test_brightness_and_contrast_by_hand() -> None:
    x = torch.tensor([[[[0, 100, 200, 250]]]], dtype=torch.uint8)
    assert Corrupt("brightness", 2)(x).flatten().tolist() == [51, 151, 251, 255]
    assert Corrupt("contrast", 2)(x).flatten().tolist() == [69, 119, 169, 194]  # about 138, the mean of 137.5
    assert Corrupt("brightness", 2, white=16)(x[:, :, :, :1]).item() == 3


def test_a_blur_spreads_a_point_by_its_deviation() -> None:
    x = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    x[0, 0, 16, 16] = 255
    blurred = Corrupt("blur", 5)(x)[0, 0].float()
    expected = torch.exp(-((torch.arange(32) - 16) ** 2).float() / 2)
    expected = torch.outer(expected, expected) / expected.sum() ** 2 * 255
    torch.testing.assert_close(blurred, expected, rtol=0, atol=1.0)


def test_any_images_make_a_stream_of_corruptions() -> None:
    stream = make_benchmark("corrupted", data="digits", corruptions=["noise", "blur"], strength="rising")
    names = ["clean", *(f"{kind} {s}" for kind in ("noise", "blur") for s in range(1, 6))]
    assert [exp.domain for exp in stream.train] == names
    assert int(stream.train[1].data.x().max()) == 16  # these digits' white


def test_what_cannot_be_corrupted_is_refused() -> None:
    with pytest.raises(ConfigError, match="Corruptions need uint8 images"):
        Corrupt("noise", 1)(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="strengths 1 to 5; 6 was given"):
        Corrupt("noise", 6)
    with pytest.raises(DataError, match=r"'cifar11'\. Did you mean 'cifar10'"):
        make_benchmark("corrupted", data="cifar11")
