"""Convolutions in 8-bit integers: by hand, by a reference in float64, in networks of all sorts and in an evaluation."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.evaluation import forward as forwards
from clbench.evaluation.forward import CLOSE, EvaluationCopy, weights_of
from clbench.evaluation.speed.integers import Integers, has_int8
from clbench.models import Classifier, make_model

pytestmark = pytest.mark.skipif(
    not has_int8(), reason="this processor or this torch has no integer convolutions"
)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def one_filter(weight: float, bias: float) -> nn.Module:
    conv = nn.Conv2d(1, 1, 1)
    nn.init.constant_(conv.weight, weight)
    nn.init.constant_(conv.bias, bias)
    return nn.Sequential(conv).requires_grad_(False)


# --- the equations ---


def test_one_filter_by_hand() -> None:
    """Inputs in [−1, 4.1] have the scale 5.1 / 255 = 0.02 and the zero point 50; 0.5 x + 0.25 lies in [−0.25, 2.3],
    with the scale 0.01 and the zero point 25. So 0.507 is the byte 75, which stands for 0.5, and gives 0.5 exactly."""
    network = Integers(one_filter(0.5, 0.25))
    network.load(torch.tensor([-1.0, 4.1]).view(2, 1, 1, 1))
    found = network(torch.tensor([0.507, -1.0, 4.1, 99.0]).view(4, 1, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor([0.5, -0.25, 2.3, 2.3]))  # what is out of range is cut off


class Residual(nn.Module):
    """All that goes into a convolution: bias, addition and ReLU; with stride, padding, dilation and groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.second = nn.Conv2d(6, 6, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return F.relu(self.second(h) + h)


def quantized(x: Tensor, low: float, high: float) -> tuple[Tensor, float]:
    """Bytes less their zero point, and the scale, in float64."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    return (torch.round(x / scale) + zero).clamp(0, 255) - zero, scale


def test_a_residual_block_is_what_the_equations_say() -> None:
    """Every map quantized, every product of integers exact, against float64; a byte may fall to either side of ½."""
    torch.manual_seed(0)
    network = Residual().requires_grad_(False)
    seen, x = torch.randn(8, 4, 9, 9), torch.randn(32, 4, 9, 9)
    with torch.no_grad():
        h = F.relu(network.first(seen))
        ranges = [(float(m.min()), float(m.max())) for m in (seen, h, F.relu(network.second(h) + h))]

    def layer(conv: nn.Conv2d, q: Tensor, scale: float) -> Tensor:
        step = conv.weight.double().abs().amax((1, 2, 3), keepdim=True) / 127
        weight = torch.round(conv.weight.double() / step)
        sums = F.conv2d(q, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        return sums * scale * step.view(-1, 1, 1) + conv.bias.double().view(-1, 1, 1)  # type: ignore[union-attr]

    q, scale = quantized(x.double(), *ranges[0])
    q, scale = quantized(F.relu(layer(network.first, q, scale)), *ranges[1])
    q, scale = quantized(F.relu(layer(network.second, q, scale) + q * scale), *ranges[2])

    integers = Integers(network)
    integers.load(channels_last(seen))
    bytes_apart = ((integers(channels_last(x)).double() - q * scale) / scale).abs()
    assert float(bytes_apart.max()) < 2.01
    assert float((bytes_apart > 0.5).double().mean()) < 0.01


# --- networks ---


class Shared(nn.Module):
    """One layer twice, and a map that is still needed after it was added to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.conv(x) + x
        y = torch.add(y, self.other(y))
        return (y + x).mean((2, 3))


class Pooled(nn.Module):
    """Layers that are computed in float32 between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(4, 8, 3), nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.pool(F.gelu(self.conv(x))), (1, 1, 1, 1), mode="reflect")
        x = self.last(x)
        return x.reshape(x.size(0), -1)


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)


class Doubled(OneLayer):
    """A map added to itself, one that is scaled when it is added, and an input that is added."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.add(self.conv(y + y), x, alpha=2) + x


class Gated(OneLayer):
    """One number for each map, added to all of it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x.mean((2, 3), keepdim=True)


def slim() -> nn.Module:
    return make_model("slim-resnet18", (4, 12, 12), 3, width=4).backbone


@pytest.mark.parametrize("make", [Shared, Pooled, Doubled, Gated, Residual])
def test_a_network_is_nearly_that_in_float32(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().requires_grad_(False)
    integers, x = Integers(network), channels_last(torch.randn(64, 4, 12, 12))
    integers.load(x)
    exact, before = network(x), x.clone()
    for _ in range(2):  # nothing that is kept was written over
        assert float((integers(x) - exact).abs().max()) < 0.04 * float(exact.max() - exact.min())
    assert torch.equal(x, before)


def test_results_do_not_depend_on_the_portion() -> None:
    torch.manual_seed(0)
    integers, x = Integers(Residual().requires_grad_(False)), channels_last(torch.randn(33, 4, 12, 12))
    integers.load(x[:8])
    assert torch.equal(integers(x), torch.cat([integers(x[:20]), integers(x[20:])]))


def test_a_copy_in_another_process_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    integers, x = Integers(Residual().requires_grad_(False)), channels_last(torch.randn(8, 4, 12, 12))
    integers.load(x)
    copied = pickle.loads(pickle.dumps(integers))
    copied.load(x)
    assert torch.equal(copied(x), integers(x))


class Branching(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 0.0])
def test_weights_of_a_run_that_diverges_or_has_died_end_nothing(value: float) -> None:
    network = Residual().requires_grad_(False)
    network.first.weight.fill_(value)
    integers, x = Integers(network), channels_last(torch.randn(8, 4, 12, 12))
    integers.load(x)
    assert integers(x).shape == (8, 6, 6, 6)


class WritesOver(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(x, inplace=True).mean() + x


class Discards(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.relu_()
        return x


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 4)), "not only convolutions"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), "not only convolutions"),
        (nn.ReLU(), "not only convolutions"),
        (nn.Conv2d(4, 4, 1), "outside of layers"),
        (WritesOver(), "written over"),
        (Discards(), "written over"),
        (Branching(), "cannot be traced"),
    ],
)
def test_other_networks_are_refused(network: nn.Module, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Integers(network)


# --- in an evaluation ---


def trained(body: nn.Module, size: int) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(body, size, 5).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 4, 12, 12))
    return model.eval()


def test_the_calls_that_are_closest_to_right_or_wrong_are_made_again_in_float32() -> None:
    model, n = trained(slim(), 32), 2 * CLOSE
    x, y, task = channels_last(torch.randn(n, 4, 12, 12)), torch.randint(5, (n,)), torch.full((n,), -1)
    copied = EvaluationCopy(model, None, fast=True)
    copied.see(x)
    copied.load(weights_of(model))
    rounded, found, exact = copied.logits(x, task), copied.logits(x, task, y), model(x)
    margin = [
        abs(row[i] - max(row[:i] + row[i + 1 :])) for row, i in zip(rounded.tolist(), y.tolist(), strict=True)
    ]
    again = torch.tensor(margin).argsort()[:2]
    untouched = torch.ones(n, dtype=torch.bool).index_fill(0, again, False)
    torch.testing.assert_close(found[again], exact[again], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[untouched], rounded[untouched])
    assert not torch.equal(rounded[again], exact[again])


def test_the_record_says_how_an_integer_network_computes() -> None:
    copied = EvaluationCopy(trained(slim(), 32), None, fast=True)
    said = f"8-bit integers, the closest of {CLOSE} again in float32, 20 batch normalisations folded, channels last"
    assert copied.describe() == said
    assert copied.notes == []


def test_other_networks_are_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "_has_bf16", lambda device: True)
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4 * 144, 8))
    copied = EvaluationCopy(trained(layers, 8), None, fast=True)
    assert copied.integers is None
    assert copied.dtype is torch.bfloat16


def test_a_processor_without_integers_takes_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "has_int8", lambda: False)
    monkeypatch.setattr(forwards, "_has_bf16", lambda device: True)
    copied = EvaluationCopy(trained(slim(), 32), None, fast=True)
    assert copied.integers is None
    assert copied.describe() == "bfloat16, 20 batch normalisations folded, channels last"
