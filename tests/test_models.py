"""Shapes, sizes, gradients and names of the models."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from clbench.errors import ConfigError, DataError, RegistryError
from clbench.models import Classifier, make_model
from clbench.models.timm import timm_library
from clbench.registry import models as registered

OWN = ["mlp", "slim-resnet18", "resnet18"]
ROOT = Path(__file__).parent.parent


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("mlp", (1, 28, 28), 10, 478_410),  # 784·400 + 400 + 400·400 + 400 + 400·10 + 10
        ("slim-resnet18", (3, 32, 32), 10, 1_094_750),
        ("slim-resnet18", (3, 32, 32), 100, 1_109_240),  # the GEM release has as many
        ("resnet18", (3, 32, 32), 10, 11_173_962),
    ],
)
def test_parameter_counts(name: str, shape: tuple[int, ...], classes: int, parameters: int) -> None:
    assert count(make_model(name, shape, classes)) == parameters


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [
        ("mlp", (64,), 400),
        ("mlp", (1, 8, 8), 400),
        ("slim-resnet18", (1, 8, 8), 160),
        ("slim-resnet18", (3, 32, 32), 160),
        ("slim-resnet18", (3, 64, 64), 160),
        ("slim-resnet18", (3, 84, 84), 160),
        ("resnet18", (3, 32, 32), 512),
        ("resnet18", (3, 64, 64), 512),
        ("resnet18", (3, 84, 84), 512),
    ],
)
def test_shapes(name: str, shape: tuple[int, ...], features: int) -> None:
    model = make_model(name, shape, 7).eval()
    x = torch.randn(2, *shape)
    assert model.feature_size == features
    assert model.num_classes == 7
    assert model.features(x).shape == (2, features)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(model(x), model.head(model.features(x)))


def test_mlp_layers() -> None:
    layers = make_model("mlp", (64,), 5, hidden=(30, 20)).modules()
    assert [m.out_features for m in layers if isinstance(m, nn.Linear)] == [30, 20, 5]
    linear = make_model("mlp", (2, 3), 5, hidden=())
    assert linear.feature_size == 6
    assert count(linear) == 6 * 5 + 5


def test_resnet_keeps_resolution_in_stem_and_halves_it_thrice() -> None:
    backbone = make_model("slim-resnet18", (3, 32, 32), 10).backbone
    sizes = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    backbone(torch.zeros(1, 3, 32, 32))
    assert sizes[1::2] == [(20, 32, 32), (40, 16, 16), (80, 8, 8), (160, 4, 4)]


@pytest.mark.parametrize("name", [*OWN, "timm:test_vit", "timm:test_convnext"])
def test_gradients_reach_every_parameter_and_none_is_shared(name: str) -> None:
    model = make_model(name, (3, 32, 32), 4)
    assert model.training
    nn.functional.cross_entropy(model(torch.randn(3, 3, 32, 32)), torch.tensor([0, 1, 2])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    state = model.state_dict()
    assert len({t.data_ptr() for t in state.values()}) == len(state)  # safetensors refuses shared memory


@pytest.mark.parametrize("name", [*OWN, "timm:test_vit"])
def test_weights_follow_the_global_seed(name: str) -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(make_model(name, (3, 32, 32), 4).state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not all(torch.equal(made[0][key], made[2][key]) for key in made[0])


@pytest.mark.parametrize(
    ("name", "params", "features"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4}, 192),
        ("convnext_atto", {}, 320),
        ("mobilenetv3_small_100", {}, 1024),  # timm's num_features says 576
    ],
)
def test_timm_models_take_small_images(name: str, params: dict[str, object], features: int) -> None:
    model = make_model(name, (3, 32, 32), 6, **params).eval()
    assert model.feature_size == features
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 6)
    if name.startswith("vit"):
        assert model.backbone.patch_embed.num_patches == 64


def test_timm_models_take_one_channel_and_oblong_images() -> None:
    assert make_model("timm:test_vit", (1, 32, 48), 3)(torch.randn(2, 1, 32, 48)).shape == (2, 3)


def test_a_prefix_tells_timm_from_our_own() -> None:
    assert count(make_model("timm:resnet18", (3, 32, 32), 10)) != count(
        make_model("resnet18", (3, 32, 32), 10)
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet81", "resnet18"), ("slim-resnet", "slim-resnet18"), ("convnext_ato", "convnext_atto")],
)
def test_unknown_names_suggest_over_our_own_and_timm(name: str, nearest: str) -> None:
    with pytest.raises(
        RegistryError, match=f"no model named '{name}'.*Did you mean '{nearest}'.*Known: .*mlp, "
    ):
        make_model(name, (3, 32, 32), 10)


def test_an_unknown_timm_name_suggests_with_its_prefix() -> None:
    with pytest.raises(RegistryError, match=r"Did you mean 'timm:convnext_atto'\?"):
        make_model("timm:convnext_ato", (3, 32, 32), 10)


@pytest.mark.parametrize(
    ("name", "shape", "params", "message"),
    [
        ("mlp", (64,), {"hiden": (3,)}, "no parameter 'hiden'. Did you mean 'hidden'"),
        ("mlp", (64,), {"hidden": "many"}, "parameter 'hidden' takes"),
        ("resnet18", (64,), {}, r"takes images.*shape \(64,\).*'mlp'"),
        ("timm:test_resnet", (64,), {}, "takes images"),
        ("timm:test_resnet", (3, 32, 32), {"patch": 4}, "no parameter 'patch'. Did you mean 'patch_size'"),
        ("timm:test_resnet", (3, 32, 32), {"patch_size": 4}, "with patch_size=4: .*unexpected keyword"),
        (
            "timm:inception_v3",
            (3, 32, 32),
            {},
            r"'inception_v3' cannot be built for inputs of shape \(3, 32, 32\).*or set model\.pad=true",
        ),
    ],
)
def test_refusals(name: str, shape: tuple[int, ...], params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model(name, shape, 10, **params)


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = timm_library()

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nretried")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", offline)
    with pytest.raises(DataError, match=r"'test_vit' can be neither.*ConnectionError: no route to host\)"):
        make_model("timm:test_vit", (3, 32, 32), 10, pretrained=True)
    with pytest.raises(DataError, match="no pretrained weights for 'vit_giant_patch14_224'"):
        make_model("vit_giant_patch14_224", (3, 32, 32), 10, pretrained=True)


def test_plugins_register_models_that_must_be_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    def shallow(input_shape: tuple[int, ...], num_classes: int, bias: bool = True) -> Classifier:
        """Nothing but a head."""
        return Classifier(nn.Flatten(), torch.Size(input_shape).numel(), num_classes)

    def headless(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return nn.Flatten()

    monkeypatch.setattr(registered, "_made", dict(registered._made))
    registered.register("test-shallow")(shallow)
    registered.register("test-headless")(headless)
    assert make_model("test-shallow", (3, 2), 4)(torch.zeros(1, 3, 2)).shape == (1, 4)
    with pytest.raises(RegistryError, match=r"'test-headless' must return a Classifier; .* a Flatten"):
        make_model("test-headless", (3, 2), 4)


def run(code: str) -> int:
    """The exit code of a fresh interpreter in which warnings are errors."""
    return subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, cwd=ROOT).returncode


def test_torchvision_is_imported_once_and_makes_timm_importable() -> None:
    assert not run(
        "from clbench.machine.torchvision import torchvision as get; module = get(); assert get() is module; "
        "import timm, torchvision.transforms.v2, torchvision.datasets; assert torchvision is module"
    )
