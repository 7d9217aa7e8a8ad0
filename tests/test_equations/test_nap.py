"""NaP: h = φ(σ ⊙ N(W h) + μ) and W ← ρ W / ‖W‖_F after every update, ρ the norm at the start."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from clbench.strategies.nap import Norm, group_norms, insert_norms, owners, project, scale_invariant
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Classifier, Strategy, chain, make_model, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import Benchmark

EPS = 1e-14
"""So small that scale invariance is exact to rounding."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*sizes: int, seed: int = 0) -> nn.Sequential:
    """A float64 MLP as NaP makes it of linear layers with ReLU; the last layer is the output."""
    torch.manual_seed(seed)
    hidden: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes[:-1]):
        hidden += [nn.Linear(size_in, size_out), nn.ReLU()]
    backbone = nn.Sequential(*hidden)
    insert_norms(backbone, torch.zeros(2, sizes[0]), "layer", EPS)
    return nn.Sequential(backbone, nn.Linear(sizes[-2], sizes[-1])).double()


def hidden_weights(net: nn.Sequential) -> list[nn.Parameter]:
    return [p for name, p in net[0].named_parameters() if p.ndim == 2]


# --- scale invariance, and what follows from it ---


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("seed", [0, 1])
def test_scale_invariance(kind: Any, seed: int) -> None:
    """f(3W) = f(W), ∇f(3W) = ∇f(W) / 3 and ⟨W, ∇f⟩ = 0, to 1e-12."""
    net = network(6, 9, 7, 3, seed=seed)
    for module in net.modules():
        if isinstance(module, Norm):
            module.kind = kind
    x, y = drawn(11, 6, seed=seed), torch.arange(11) % 3
    W = hidden_weights(net)[0]
    loss = F.cross_entropy(net(x), y)
    before, (g,) = net(x).detach(), torch.autograd.grad(loss, W)
    assert abs((W.detach() * g).sum()) < 1e-12
    with torch.no_grad():
        W.mul_(3)
    (g3,) = torch.autograd.grad(F.cross_entropy(net(x), y), W)
    torch.testing.assert_close(net(x).detach(), before, rtol=0, atol=1e-12)
    torch.testing.assert_close(3 * g3, g, rtol=0, atol=1e-12)


def test_norms_grow_by_pythagoras() -> None:
    """‖W'‖² − ‖W‖² = η² ‖g‖² after a plain step."""
    net = network(6, 9, 3)
    W = hidden_weights(net)[0]
    (g,) = torch.autograd.grad(F.cross_entropy(net(drawn(11, 6)), torch.arange(11) % 3), W)
    after = W.detach() - 0.7 * g
    grown = (after**2).sum() - (W.detach() ** 2).sum()
    assert abs(grown - 0.7**2 * (g**2).sum()) < 1e-13


@pytest.mark.parametrize("seed", [0, 1])
def test_effective_learning_rate(seed: int) -> None:
    """50 steps at η = 4: the projected twin with η (ρ / ‖W_t‖)² has the same losses and directions, to 1e-12.

    ‖W_t‖ is that of the network that is not projected, one for each layer, and grows by a half or more.
    """
    plain, twin = network(5, 12, 10, 4, seed=seed), network(5, 12, 10, 4, seed=seed)
    x, y = drawn(32, 5, seed=seed), torch.arange(32) % 4
    rho = [W.norm().item() for W in hidden_weights(plain)]
    groups = [["first"], ["second"]]
    for _ in range(50):
        losses = [F.cross_entropy(net(x), y) for net in (plain, twin)]
        assert abs(losses[0] - losses[1]) < 1e-12
        rates = [4.0 * (r / W.norm().item()) ** 2 for r, W in zip(rho, hidden_weights(plain), strict=True)]
        for net, loss, hidden_rates in zip((plain, twin), losses, ([4.0, 4.0], rates), strict=True):
            weights = hidden_weights(net)
            rest = [p for p in net.parameters() if all(p is not W for W in weights)]
            gradients = torch.autograd.grad(loss, [*weights, *rest])
            with torch.no_grad():
                for p, g, rate in zip(
                    [*weights, *rest], gradients, [*hidden_rates, *[0.05] * len(rest)], strict=True
                ):
                    p -= rate * g
        project(
            hidden_weights(twin), owners(groups, torch.device("cpu")), torch.tensor(rho, dtype=torch.float64)
        )
    for a, b, r in zip(hidden_weights(plain), hidden_weights(twin), rho, strict=True):
        assert a.norm() > 1.2 * r
        assert b.norm().item() == pytest.approx(r, rel=1e-12)
        torch.testing.assert_close(a / a.norm(), b / b.norm(), rtol=0, atol=1e-12)


def test_angular_speed() -> None:
    """A tangential update u turns W by arctan(η ‖u‖ / ρ): 7.142487e-3 where η ‖u‖ / ρ is 7.142609e-3."""
    W, u = drawn(20, 30), drawn(20, 30, seed=1).sign()
    u = u - (u * W).sum() / (W * W).sum() * W
    rho = W.norm()
    moved = W + 7.142609e-3 * rho / u.norm() * u
    project([moved], owners([["W"]], W.device), rho[None])
    angle = torch.acos(((moved * W).sum() / rho**2).clamp(max=1))
    assert moved.norm().item() == pytest.approx(rho.item(), rel=1e-14)
    assert angle.item() == pytest.approx(7.142487e-3, abs=1e-8)


def test_a_dormant_unit_gets_a_gradient() -> None:
    """Pre-activations (1, 2, −50, ½), output weights (1, −2, 3, ½): the third's is −1.906e-3, and 0 without a norm."""
    z = torch.tensor([[1.0, 2.0, -50.0, 0.5]], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    norm = Norm(4, "layer", maps=False, eps=1e-5).double()
    (with_norm,) = torch.autograd.grad(norm(z).relu() @ w, z, torch.ones(1, dtype=torch.float64))
    (without,) = torch.autograd.grad(z.relu() @ w, z, torch.ones(1, dtype=torch.float64))
    assert with_norm[0, 2].item() == pytest.approx(-1.906e-3, abs=1e-6)
    assert without[0, 2] == 0


# --- what is inserted ---


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_of_vectors(kind: Any) -> None:
    norm, x = Norm(5, kind, maps=False, eps=EPS).double(), drawn(3, 5)
    with torch.no_grad():
        norm.weight.copy_(drawn(5, seed=1))
        norm.bias.copy_(drawn(5, seed=2))
    for b in range(3):
        mean = sum(x[b]) / 5 if kind == "layer" else 0.0
        deviation = math.sqrt(sum((v - mean) ** 2 for v in x[b].tolist()) / 5)
        expected = norm.weight * (x[b] - mean) / deviation + norm.bias
        torch.testing.assert_close(norm(x)[b], expected)


def test_norm_of_maps_is_over_channels_and_places() -> None:
    norm, x = Norm(3, "layer", maps=True, eps=EPS).double(), drawn(2, 3, 4, 4)
    torch.testing.assert_close(norm(x).mean((1, 2, 3)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close((norm(x) ** 2).mean((1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_queries_keys_and_values_are_normalised_apart() -> None:
    norm, x = Norm(6, "layer", maps=False, pieces=3, eps=EPS).double(), drawn(2, 5, 6)
    torch.testing.assert_close(norm(x)[..., 2:4], F.layer_norm(x[..., 2:4], (2,), eps=EPS))


def test_mlp_by_name() -> None:
    """Every hidden layer has a norm between it and its ReLU and no bias; the output layer is as it was."""
    model = make_model("mlp", (8,), 3, hidden=(5, 4))
    insert_norms(model.backbone, torch.zeros(2, 8), "layer", 1e-6)
    kinds = [type(m).__name__ for m in model.backbone.modules() if not list(m.children())]
    assert kinds == ["Flatten", "Linear", "Norm", "ReLU", "Linear", "Norm", "ReLU"]
    assert [n for n, p in model.named_parameters() if n.endswith("bias") and "head" in n] == ["head.bias"]
    assert all(m.bias is None for m in model.backbone.modules() if isinstance(m, nn.Linear))


def test_batch_normalisation_is_replaced_and_nothing_doubled() -> None:
    """20 convolutions of ResNet-18, each with one norm."""
    model = make_model("slim-resnet18", (3, 8, 8), 4, width=2)
    insert_norms(model.backbone, torch.zeros(2, 3, 8, 8), "layer", 1e-6)
    modules = list(model.backbone.modules())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)
    assert sum(isinstance(m, nn.Conv2d) for m in modules) == sum(isinstance(m, Norm) for m in modules) == 20


MODELS: list[tuple[str, dict[str, Any], int, int]] = [
    ("mlp", {"hidden": (16, 12, 10)}, 3, 2),  # all but the last hidden layer's scale and offset
    ("slim-resnet18", {"width": 2}, 20, 8),  # in each of eight blocks, those of the first convolution
    (
        "test_resnet",
        {},
        15,
        7,
    ),  # but the last convolution of each branch and of the shortcuts, and the stem's last
    (
        "test_vit",
        {"patch_size": 4},
        25,
        12,
    ),  # four layers in each of six blocks and the patches; two norms a block
]


@pytest.mark.parametrize(("name", "params", "weights", "offsets"), MODELS, ids=[m[0] for m in MODELS])
def test_what_is_projected(name: str, params: dict[str, Any], weights: int, offsets: int) -> None:
    shape = (1, 4, 4) if name == "mlp" else (3, 16, 16)
    model = make_model(name, shape, 4, **params)
    insert_norms(model.backbone, torch.zeros(2, *shape), "layer", 1e-6)
    groups = scale_invariant(model.backbone, shape)
    assert [len(g) for g in groups] == [1] * weights + [2] * offsets


@pytest.mark.parametrize(("name", "params"), [m[:2] for m in MODELS], ids=[m[0] for m in MODELS])
def test_projection_changes_no_prediction(name: str, params: dict[str, Any]) -> None:
    """Whatever the factors by which the groups have left their norms."""
    benchmark = image_benchmark() if name != "mlp" else tiny_benchmark(images=True)
    model = make_model(name, benchmark.input_shape, benchmark.num_classes, **params)
    run = tiny_run(make_strategy("finetune+nap", eps=1e-12), benchmark, model=model)
    part = run.strategy.parts[1]
    generator = torch.Generator().manual_seed(1)
    theta = run.parameters()
    with torch.no_grad():
        for group in part.groups:
            factor = torch.rand((), generator=generator) + 0.5
            for parameter in group:
                theta[parameter].mul_(factor)
        x = torch.randn((4, *benchmark.input_shape), generator=generator)
        with run.evaluating():
            before = run.model(x)
            part.after_update()
            torch.testing.assert_close(run.model(x), before, rtol=1e-4, atol=1e-5)


def image_benchmark() -> Benchmark:
    from clbench import from_arrays

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
    y = torch.arange(12) % 4
    return from_arrays(x, y, x, y, experiences=2)


def test_a_layer_that_is_never_called_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.inner.weight)

    with pytest.raises(IncompatibleError, match="'inner' of the model is used without being called"):
        tiny_run(make_strategy("finetune+nap"), tiny_benchmark(), model=Classifier(Hidden(), 4, 6))


# --- training ---


@pytest.mark.parametrize(
    "optim", [OptimConfig(lr=0.05), OptimConfig(name="adam", lr=0.01)], ids=["sgd", "adam"]
)
def test_norms_are_constant(optim: OptimConfig) -> None:
    """After 1,000 updates, every projected group has its initial norm within 1e-5, and the head another."""
    benchmark = tiny_benchmark(experiences=2, classes=3)
    model = make_model("mlp", benchmark.input_shape, benchmark.num_classes, hidden=(16, 16))
    run = tiny_run(make_strategy("finetune+nap"), benchmark, model=model, epochs=250, optim=optim)
    part, head = run.strategy.parts[1], run.model.head.weight.norm().item()
    before = norms_of(run)
    run.fit()
    assert run.updates == 1000
    torch.testing.assert_close(norms_of(run), before, rtol=1e-5, atol=0)
    torch.testing.assert_close(part.norms[-1].item(), 4.0)  # √16, of σ = 1 and μ = 0 together
    assert abs(run.model.head.weight.norm().item() - head) > 0.01


def norms_of(run: Engine) -> Tensor:
    part, theta = run.strategy.parts[1], run.parameters()
    tensors = [theta[name].detach() for name in part.names]
    return group_norms(tensors, part.owner, len(part.groups))


def test_without_projection_norms_grow() -> None:
    benchmark = tiny_benchmark(experiences=2, classes=3)
    model = make_model("mlp", benchmark.input_shape, benchmark.num_classes, hidden=(16, 16))
    strategy = make_strategy("finetune+nap", projection=False)
    run = tiny_run(strategy, benchmark, model=model, epochs=50, optim=OptimConfig(lr=0.5))
    before = [p.norm().item() for p in run.parameters().values() if p.ndim == 2]
    run.fit()
    after = [p.norm().item() for p in run.parameters().values() if p.ndim == 2]
    assert all(a > b for a, b in zip(after[:2], before[:2], strict=True))


@pytest.mark.parametrize("period", [1, 7])
@pytest.mark.parametrize("other", ["l2", "ewc", "si", "mas"])
def test_anchors_are_projected(other: str, period: int) -> None:
    """When an experience begins, the part of an anchor that is projected has the initial norms."""
    checked: list[bool] = []

    class Look(Strategy):
        def begin_experience(self, exp: object) -> None:
            part = self.run.strategy.parts[-2]
            for anchored in self.run.strategy.parts:
                for anchor in anchored.held() if hasattr(anchored, "held") else ():
                    if anchor:
                        tensors = [anchor[name] for name in part.names]
                        norms = group_norms(tensors, part.owner, len(part.groups))
                        torch.testing.assert_close(norms, part.norms, rtol=1e-5, atol=0)
                        checked.append(True)

    tiny_run(chain(make_strategy(f"{other}+nap", period=period), Look()), tiny_benchmark()).fit()
    assert len(checked) >= 2


def test_offsets_that_are_regularised() -> None:
    """strength · Σ ((σ − 1)² + μ²), with one σ moved by ½ and one μ by 2: 0.1 · 4.25."""
    unused: Any = None
    strategy = make_strategy("finetune+nap", offsets="regularise", strength=0.1)
    run = tiny_run(strategy, tiny_benchmark(), model=make_model("mlp", (8,), 6, hidden=(5, 4)))
    theta = run.parameters()
    with torch.no_grad():
        theta["backbone.1.1.weight"][0] += 0.5
        theta["backbone.3.1.bias"][2] += 2.0
    assert run.strategy.parts[1].losses(unused, unused)["offsets"].item() == pytest.approx(0.425)
    assert all(len(group) == 1 for group in run.strategy.parts[1].groups)


@pytest.mark.parametrize("chain_of", ["er+nap", "l2+nap", "ewc+nap", "finetune+nap"])
def test_chains_train_and_keep_norms(chain_of: str) -> None:
    run = tiny_run(make_strategy(chain_of), tiny_benchmark(), epochs=4)
    part = next(p for p in run.strategy.parts if str(p) == "nap")
    run.fit()
    tensors = [run.parameters()[name].detach() for name in part.names]
    torch.testing.assert_close(
        group_norms(tensors, part.owner, len(part.groups)), part.norms, rtol=1e-5, atol=0
    )
