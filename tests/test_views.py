"""Strong views: each operation is torchvision's, on every image with its own draw."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.machine.torchvision import torchvision
from clbench.transforms.views import (
    contrastive_view,
    crop_boxes,
    greyscale,
    jitter_colours,
    kornia_boxes,
    kornia_crop,
    kornia_jitter,
    kornia_view,
    resized_crop,
    shift_hue,
)


@pytest.fixture(scope="module")
def functional() -> Any:
    torchvision()
    from torchvision.transforms.v2 import functional as module

    return module


def images(n: int = 6, channels: int = 3, height: int = 12, width: int = 16) -> Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def boxes(n: int, height: int = 12, width: int = 16) -> list[Tensor]:
    like = torch.zeros(n, 3, height, width)
    return list(crop_boxes(like, torch.Generator().manual_seed(2), 0.2))


def test_resized_crops_are_torchvisions(functional: Any) -> None:
    x, (top, left, height, width) = images(), boxes(6)
    flipped = torch.tensor([True, False] * 3)
    found = resized_crop(x, top, left, height, width, flipped)
    for i in range(len(x)):
        box = [int(part[i]) for part in (top, left, height, width)]
        wanted = functional.resized_crop(x[i], *box, [12, 16], antialias=False)
        wanted = functional.horizontal_flip(wanted) if flipped[i] else wanted
        assert torch.allclose(found[i], wanted, atol=1e-5)


def test_the_whole_image_stays_as_it_is() -> None:
    x, zero = images(), torch.zeros(6, dtype=torch.int64)
    found = resized_crop(x, zero, zero, zero + 12, zero + 16, zero.bool())
    assert torch.allclose(found, x, atol=1e-6)


def test_crops_lie_inside_and_have_area_and_shape_within_bounds() -> None:
    top, left, height, width = boxes(4000, 32, 32)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    share, shape = height * width / 1024, width / height
    assert 0.18 < share.min() < 0.25  # rounding to pixels moves the ends
    assert share.max() > 0.95
    assert shape.min() > 0.68
    assert shape.max() < 1.47
    assert share.mean().item() == pytest.approx(
        0.57, abs=0.03
    )  # below 0.6: large ones do not fit in every shape


def test_a_crop_that_never_fits_is_the_largest_in_the_middle() -> None:
    top, left, height, width = crop_boxes(torch.zeros(3, 3, 8, 100), torch.Generator().manual_seed(0), 1.0)
    assert height.tolist() == [8] * 3
    assert width.tolist() == [11] * 3  # 4 : 3
    assert top.tolist() == [0] * 3
    assert left.tolist() == [44] * 3


@pytest.mark.parametrize(
    ("op", "amount", "name"),
    [
        (0, 1.3, "brightness"),
        (1, 0.7, "contrast"),
        (2, 1.4, "saturation"),
        (3, -0.08, "hue"),
        (3, 0.4, "hue"),
    ],
)
def test_each_colour_operation_is_torchvisions(functional: Any, op: int, amount: float, name: str) -> None:
    x = images()
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(6, 1)
    neutral[:, op] = amount
    found = jitter_colours(x, neutral, torch.arange(4).repeat(6, 1))
    wanted = getattr(functional, f"adjust_{name}")(x, amount)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_order_is_each_images_own(functional: Any) -> None:
    x = images(2)
    amount = torch.tensor([[1.4, 0.6, 1.0, 0.0]] * 2)
    order = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    found = jitter_colours(x, amount, order)
    first = functional.adjust_contrast(functional.adjust_brightness(x[0], 1.4), 0.6)
    second = functional.adjust_brightness(functional.adjust_contrast(x[1], 0.6), 1.4)
    assert torch.allclose(found[0], first, atol=1e-5)
    assert torch.allclose(found[1], second, atol=1e-5)


def test_greys_have_no_hue() -> None:
    x = images(channels=1).expand(-1, 3, -1, -1)
    assert torch.allclose(shift_hue(x, torch.full((6, 1, 1, 1), 0.3)), x)


def test_greyscale_is_torchvisions(functional: Any) -> None:
    x = images()
    assert torch.allclose(greyscale(x), functional.rgb_to_grayscale(x), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_an_image_in_the_unit_interval_drawn_by_its_generator(channels: int) -> None:
    raw = (images(50, channels, 8, 8) * 255).to(torch.uint8)
    view = contrastive_view(raw, torch.Generator().manual_seed(3))
    assert view.shape == raw.shape
    assert view.dtype == torch.float32
    assert 0 <= view.min() <= view.max() <= 1
    assert torch.equal(view, contrastive_view(raw, torch.Generator().manual_seed(3)))
    assert not torch.equal(view, contrastive_view(raw, torch.Generator().manual_seed(4)))


def test_a_fifth_is_grey() -> None:
    raw = (images(2000, 3, 4, 4) * 255).to(torch.uint8)
    view = contrastive_view(raw, torch.Generator().manual_seed(3))
    share = (view[:, 0] == view[:, 1]).all(2).all(1).float().mean().item()
    assert share == pytest.approx(0.2, abs=0.03)


# --- kornia 0.4.1 ---


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_kornia_jitter_pixel_by_pixel(order: tuple[int, ...]) -> None:
    x = images(4, height=2, width=3)
    x[1] = x[1].mean(0)  # grey
    x[2, :, 0] = torch.tensor([0.0, 1.0, 1.0]).view(3, 1)
    amount = torch.tensor(
        [[1.3, 0.7, 1.4, 0.1], [0.6, 1.4, 0.6, -0.1], [1.0, 1.2, 1.4, 0.05], [0.8, 0.9, 0.7, -0.02]]
    )
    found = kornia_jitter(x, amount, torch.tensor(order))
    for n, row, column in [(n, i, j) for n in range(4) for i in range(2) for j in range(3)]:
        rgb = tuple(x[n, :, row, column].tolist())
        brightness, contrast, saturation, hue = amount[n].tolist()
        for op in order:
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            rgb = [
                tuple(min(max(c + brightness - 1, 0), 1) for c in rgb),
                tuple(min(c * contrast, 1) for c in rgb),
                colorsys.hsv_to_rgb(h, min(s * saturation, 1), v),
                colorsys.hsv_to_rgb((h + hue) % 1, s, v),
            ][op]
        assert found[n, :, row, column].tolist() == pytest.approx(rgb, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 16)])
def test_kornia_crops_align_corners_by_half(height: int, width: int) -> None:
    """The matrix maps corners to corners in [−1, 1]; grid and sampling take these for the corners' outer edges."""
    x = images(50, height=height, width=width)
    top, left, high, wide = kornia_boxes(x, torch.Generator().manual_seed(3), 0.2)
    assert ((top >= 0) & (top + high <= height) & (left >= 0) & (left + wide <= width)).all()
    theta = torch.zeros(50, 2, 3)
    for axis, start, length, size in ((0, left, wide, width), (1, top, high, height)):
        theta[:, axis, axis] = (length - 1) / (size - 1)
        theta[:, axis, 2] = (2 * start + length - size) / (size - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    expected = F.grid_sample(x, grid, align_corners=False)
    torch.testing.assert_close(kornia_crop(x, top, left, high, wide), expected, rtol=0, atol=2e-5)


def test_kornia_views_are_images_each_changed_on_its_own() -> None:
    raw = (images(40) * 255).to(torch.uint8)
    found, again = (kornia_view(raw, torch.Generator().manual_seed(seed)) for seed in (5, 5))
    assert torch.equal(found, again)
    assert found.shape == raw.shape
    assert found.min() > -1e-6
    assert found.max() < 1 + 1e-6
    grey = ((found - found.mean(1, keepdim=True)).abs() < 1e-6).flatten(1).all(1)
    assert 2 <= int(grey.sum()) <= 16
