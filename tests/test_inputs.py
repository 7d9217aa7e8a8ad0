"""What a network takes of its inputs: every pixel, or a refusal; and whole numbers as tokens or as features."""

from __future__ import annotations

import copy
import math
import pickle
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clbench
from clbench.errors import ConfigError, DataError, DivergedError, IncompatibleError
from clbench.models import Classifier, inputs, make_model
from clbench.models.inputs import unreached
from clbench.registry import models as registered
from clbench.testing import tiny_run
from clbench.types import Benchmark

SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


class Sized(Classifier):
    """A model of a test's own backbone, whose features are all that it gives."""

    def __init__(self, backbone: nn.Module, input_shape: tuple[int, ...]) -> None:
        size = backbone(torch.zeros(1, *input_shape)).shape[1]
        super().__init__(backbone, size, 2)


# --- pixels ---


@pytest.mark.parametrize(
    ("shape", "params", "said"),
    [
        ((1, 28, 28), {}, r"528 of the 784 .* 28 × 28 \(rows 16–27, columns 16–27\).* to 16 × 16 or 32 × 32"),
        (
            (3, 32, 32),
            {"patch_size": 7},
            "240 of the 1024 .* to 28 × 28 or 35 × 35; or set .*patch_size to 4 or 2;",
        ),
        ((3, 32, 32), {"patch_size": 14}, "to 28 × 28 or 42 × 42; or set .*patch_size to 8 or 4 or 2;"),
        ((3, 40, 24), {}, "448 of the 960 .* to 32 × 16 or 48 × 32; or set .*patch_size to 8 or 4 or 2;"),
        ((1, 16, 17), {}, r"16 of the 272 .* \(column 16\).* to 16 × 16 or 16 × 32;"),
    ],
)
def test_patches_that_leave_pixels_out_are_refused(
    shape: tuple[int, ...], params: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_model(VIT, shape, 4, **SMALL, **params)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "cait_xxs24_224", "beit_base_patch16_224"])
def test_other_stems_of_patches_are_refused_alike(name: str) -> None:
    small = {**SMALL, "embed_dim": 16} if "beit" not in name else {**SMALL, "embed_dim": 32}
    with pytest.raises(
        ConfigError, match=r"would not see 528 of the 784 .* 32 × 32; or set model\.patch_size"
    ):
        make_model(name, (3, 28, 28), 4, **small)


def test_a_stem_without_patches_says_so_too() -> None:
    with pytest.raises(ConfigError, match=r"row 31, column 31\).* 31 × 31 or 33 × 33") as refused:
        valid_convolution(pads=True)
    assert "patch_size" not in str(refused.value)


def valid_convolution(pads: bool) -> None:
    """3 × 3 at stride 2 without padding: of 32 pixels it sees 31."""

    def build(shape: tuple[int, ...], **others: Any) -> Classifier:
        if others:
            raise ConfigError("it takes no parameters")
        return Sized(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten()), shape)

    inputs.check_reach(build((3, 32, 32)), "own", (3, 32, 32), build, pads)


@pytest.mark.parametrize(
    ("shape", "whole"),
    [((1, 28, 28), (32, 32)), ((3, 40, 24), (48, 32)), ((2, 8, 30), (16, 32)), ((1, 16, 32), None)],
)
def test_pad_makes_every_pixel_seen(shape: tuple[int, ...], whole: tuple[int, int] | None) -> None:
    model = make_model(VIT, shape, 4, **SMALL, pad=True)
    assert not unreached(model, shape).any()
    assert model(torch.randn(2, *shape)).shape == (2, 4)
    assert model.backbone.patch_embed.img_size == (whole or shape[1:])


@pytest.mark.parametrize(
    ("shape", "whole"), [((3, 32, 32), (75, 75)), ((3, 100, 40), (101, 75)), ((1, 80, 90), (83, 91))]
)
def test_pad_finds_the_smallest_images_that_a_network_takes(
    shape: tuple[int, ...], whole: tuple[int, int]
) -> None:
    model = make_model("inception_v3", shape, 4, pad=True)
    (hook,) = model.backbone._forward_pre_hooks.values()
    assert hook(model, (torch.zeros(1, *shape),))[0].shape == (1, shape[0], *whole)


@pytest.mark.parametrize(
    ("takes", "shape", "whole"),
    [
        (lambda h, w: min(h, w) >= 75, (32, 32), (75, 75)),
        (lambda h, w: min(h, w) >= 75, (100, 40), (100, 75)),
        (lambda h, w: h % 32 == w % 32 == 0, (100, 40), (128, 64)),
        (lambda h, w: h % 16 == w % 16 == 0, (28, 33), (32, 48)),
        (lambda h, w: h == w == 224, (28, 28), (224, 224)),
        (lambda h, w: h % 224 == w % 224 == 0, (250, 30), (448, 224)),
    ],
)
def test_the_search_for_a_size_is_short(takes: Any, shape: tuple[int, int], whole: tuple[int, int]) -> None:
    asked = []

    def build(shape: tuple[int, ...], **_: Any) -> Classifier:
        asked.append(shape)
        if not takes(*shape[1:]):
            raise ConfigError("no")
        return Sized(nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 2)), shape)

    model = inputs.padded(build, build, (1, *shape), 224)
    assert model(torch.zeros(1, 1, *shape)).shape == (1, 2)
    assert asked[-1] == (1, *whole)
    assert len(asked) < 24


def test_a_network_that_takes_no_size_is_asked_for_two() -> None:
    asked = []

    def build(shape: tuple[int, ...], **_: Any) -> Classifier:
        asked.append(shape[1:])
        raise ConfigError("It needs four channels.")

    with pytest.raises(ConfigError, match=r"no size for images of 32 × 30, .*usual one: It needs four"):
        inputs.padded(build, build, (3, 32, 30), 299)
    assert asked == [(32, 30), (299, 299)]


def test_pad_is_in_the_middle_and_holds_for_parts_of_the_network_and_copies() -> None:
    model = make_model(VIT, (1, 14, 15), 4, **SMALL, pad=True).eval()
    x = torch.randn(2, 1, 14, 15)
    padded = nn.functional.pad(x, (0, 1, 1, 1))
    assert torch.equal(model.features(x), model.features(padded))
    assert torch.equal(model.backbone.patch_embed(x), model.backbone.patch_embed(padded))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.features(x), model.features(x))


def test_pad_keeps_the_names_of_the_weights_and_the_draw() -> None:
    torch.manual_seed(3)
    state = make_model(VIT, (1, 28, 28), 4, **SMALL, pad=True).state_dict()
    torch.manual_seed(3)
    plain = make_model(VIT, (1, 32, 32), 4, **SMALL).state_dict()
    assert all(torch.equal(state[name], plain[name]) for name in plain)
    assert state.keys() == plain.keys()


def test_a_padded_run_learns_a_class_in_the_corner_and_names_the_padding(tmp_path: Any) -> None:
    y = np.arange(64) % 2
    x = np.zeros((64, 1, 14, 14), np.uint8)
    x[y == 1, :, 13, 13] = 255
    benchmark = clbench.from_arrays(x, y, x, y, experiences=1)
    settings = {"model": VIT, "epochs": 30, "optim.name": "adam", "lr": 0.003, "evaluation.every": 0}
    network = {f"model.{key}": value for key, value in {**SMALL, "patch_size": 8}.items()}
    with pytest.raises(ConfigError, match=r"model\.pad=true"):
        clbench.run(benchmark, "finetune", out=tmp_path, **settings, **network)
    record = clbench.run(benchmark, "finetune", out=tmp_path, **settings, **network, **{"model.pad": True})
    assert record.metrics["average_accuracy"] == 1
    assert record.config["model"]["params"]["pad"] is True


class Strided(nn.Module):
    """Only its shortcut is there at first: the other path begins with a scale of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.scale = nn.Conv2d(1, 3, 3, 2, 1), nn.Parameter(torch.zeros(1))
        self.some = nn.Conv2d(1, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.some(x) + self.scale * self.all(x)).flatten(1)


def test_what_begins_at_zero_counts_as_seen() -> None:
    model = Sized(Strided(), (1, 8, 8))
    assert not unreached(model, (1, 8, 8)).any()
    assert not model.backbone.scale.any()


@pytest.mark.parametrize(
    "first", [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.Conv2d(1, 2, 3, padding="same")]
)
def test_pixels_that_one_image_leaves_out_are_no_false_alarm(first: nn.Module) -> None:
    assert not unreached(Sized(nn.Sequential(first, nn.ReLU(), nn.Flatten()), (1, 8, 8)), (1, 8, 8)).any()


def test_max_pooling_of_an_odd_size_loses_the_last_row_and_column() -> None:
    missing = unreached(Sized(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), (1, 7, 6)), (1, 7, 6))
    assert missing.nonzero().tolist() == [[6, column] for column in range(6)]


def test_the_question_changes_nothing() -> None:
    model = make_model("slim-resnet18", (1, 8, 8), 4)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    unreached(model, (1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_model_may_leave_pixels_out_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    class Centre(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., 2:-2, 2:-2].flatten(1)

    def centre(input_shape: tuple[int, ...], num_classes: int, on_purpose: bool = False) -> Classifier:
        """The middle of an image."""
        if min(input_shape[1:]) < 5:
            raise ConfigError("there is no middle")
        model = Sized(Centre(), input_shape)
        model.crops = on_purpose
        return model

    monkeypatch.setattr(registered, "_made", dict(registered._made))
    registered.register("test-centre")(centre)
    make_model("test-centre", (1, 8, 8), 2, on_purpose=True)
    with pytest.raises(ConfigError, match=r"would not see 48 of the 64 pixels.*take another model"):
        make_model("test-centre", (1, 8, 8), 2)


# --- numbers or tokens ---


def rows(x: Any, **params: Any) -> Benchmark:
    y = np.arange(len(x)) % 4
    return clbench.from_arrays(x, y, x, y, experiences=2, **params)


WHOLE = np.random.default_rng(0).integers(-20, 30, (40, 6))


def run(benchmark: Benchmark, name: str, **params: Any) -> Any:
    model = make_model(name, benchmark.input_shape, benchmark.num_classes, **params)
    return tiny_run(clbench.make_strategy("finetune"), benchmark, model=model)


@pytest.mark.parametrize("dtype", ["int64", "int16", "int8", ">i4"])
def test_whole_numbers_are_features_to_a_network_that_computes_with_them(dtype: str) -> None:
    run_ = run(rows(WHOLE.astype(dtype)), "mlp")
    x = run_.normalise(torch.from_numpy(WHOLE))
    assert x.dtype == torch.float32
    assert x.tolist() == WHOLE.tolist()
    run_.fit()


def test_whole_numbers_are_normalised_as_features_are() -> None:
    whole, floating = (run(rows(x, mean=5, std=[15.0]), "mlp") for x in (WHOLE, WHOLE.astype(float)))
    x = torch.from_numpy(WHOLE)
    assert torch.equal(whole.normalise(x), floating.normalise(x.float()))


@pytest.mark.parametrize("dtype", ["int64", "uint16", "uint8"])
def test_whole_numbers_are_tokens_to_a_network_that_embeds_them(dtype: str) -> None:
    tokens = (WHOLE + 20).astype(dtype)
    run_ = run(rows(tokens), "dual-encoder", vocabulary=50)
    assert run_.normalise(torch.from_numpy(tokens[:2].astype(np.int64))).dtype == torch.int64
    run_.fit()


@pytest.mark.parametrize(
    ("x", "params", "said"),
    [
        (WHOLE, {}, r"train stream holds the token -\d+, first in example \d+; the model has 50, 0 … 49"),
        (WHOLE + 21, {}, r"holds the token 50, .*larger model\.vocabulary"),
        (WHOLE * 1.0, {}, r"embeds tokens, .* the inputs of arrays@1 are float32.*model=mlp"),
        (WHOLE + 20, {"mean": 1, "std": 2}, "are int64 to be normalised"),
    ],
)
def test_what_is_no_token_is_refused(x: Any, params: dict[str, Any], said: str) -> None:
    with pytest.raises((DataError, IncompatibleError), match=said):
        run(rows(x, **params), "dual-encoder", vocabulary=50)


def test_texts_are_no_features() -> None:
    benchmark = clbench.make_benchmark("dsi-numpy")
    with pytest.raises(IncompatibleError, match=r"are tokens, .* model=dual-encoder"):
        run(benchmark, "mlp")


def test_the_fingerprint_does_not_hang_on_the_model() -> None:
    benchmark = rows(WHOLE)
    assert run(benchmark, "mlp").benchmark.fingerprint == benchmark.fingerprint


class Places(nn.Module):
    """Embeds places, which are no inputs, and then tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.tokens = nn.Embedding(6, 4), nn.Embedding(70, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = (self.tokens(x) + self.places(torch.arange(6).expand_as(x))).mean(1)
        return found


def test_the_vocabulary_is_that_of_the_layer_which_the_tokens_reach() -> None:
    assert inputs.vocabulary(Classifier(Places(), 4, 2), (6,)) == 70
    assert inputs.vocabulary(make_model("mlp", (6,), 2), (6,)) is None
    with pytest.raises(IncompatibleError, match=r"shape \(5,\) neither as numbers nor as tokens"):
        inputs.vocabulary(Classifier(Places(), 4, 2), (5,))


# --- numbers that stay finite ---


def arrays(value: float, split: str = "train", **options: Any) -> Benchmark:
    """Two experiences of features that are 1, but for one value of class 3 in a split."""
    y = np.arange(32) % 4
    x = {name: np.ones((32, 3), np.float32) for name in ("train", "test", "valid")}
    x[split][7, 1] = value
    valid = {"x_valid": x["valid"], "y_valid": y} if split == "valid" else {}
    return clbench.from_arrays(x["train"], y, x["test"], y, experiences=2, name="mine", **valid, **options)


@pytest.mark.parametrize("split", ["train", "test", "valid"])
@pytest.mark.parametrize("value", [1e30, -2e35])
def test_values_that_overflow_once_normalised_are_the_datas_fault(
    value: float, split: str, tmp_path: Any
) -> None:
    benchmark = arrays(value, split, mean=0.0, std=1e-10)
    said = rf"mine@\d+: x of the {split} stream reaches {re.escape(f'{value:.6g}')} in experience 2, and .*float32"
    with pytest.raises(DataError, match=said):
        clbench.run(benchmark, "finetune", out=tmp_path)


@pytest.mark.parametrize(
    ("precision", "value", "wider"),
    [("fp16", 1e5, "bf16 or fp32"), ("fp16", -7e4, "bf16 or fp32"), ("bf16", 3.4e38, "fp32")],
)
def test_values_beyond_the_precision_of_training_are_the_datas_fault(
    precision: str, value: float, wider: str
) -> None:
    said = rf"train stream reaches {re.escape(f'{value:.6g}')} .* precision={precision}: .* take precision={wider}\."
    with pytest.raises(DataError, match=said):
        inputs.check_finite(arrays(value), precision)


@pytest.mark.parametrize(
    ("benchmark", "precision"),
    [
        (arrays(1e5), "fp32"),
        (arrays(1e5, mean=1e5, std=1e4), "fp16"),
        (arrays(6e4), "fp16"),
        (arrays(3e38), "bf16"),
        (arrays(1e5, "test"), "fp16"),
    ],
)
def test_values_that_stay_finite_are_taken(benchmark: Benchmark, precision: str) -> None:
    inputs.check_finite(benchmark, precision)


def test_values_that_no_experience_uses_are_no_fault() -> None:
    benchmark = arrays(1e30, std=1e-10, mean=0.0)
    without = replace(benchmark.train, experiences=benchmark.train.experiences[:1])
    inputs.check_finite(replace(benchmark, train=without), "fp32")


def test_whole_numbers_are_looked_at_where_they_are_numbers() -> None:
    y = np.arange(8) % 2
    x = np.full((8, 3), 70_000)
    benchmark = clbench.from_arrays(x, y, x, y, experiences=1)
    with pytest.raises(DataError, match="reaches 70000 in experience 1"):
        inputs.check_finite(
            replace(benchmark, transform=replace(benchmark.transform, reads="numbers")), "fp16"
        )
    inputs.check_finite(replace(benchmark, transform=replace(benchmark.transform, reads="tokens")), "fp16")


def test_a_run_that_diverges_says_how_large_its_inputs_are(tmp_path: Any) -> None:
    record = clbench.run(arrays(-700.0, normalise="none"), "finetune", out=tmp_path, batch_size=2, lr=1e30)
    assert record.status == "diverged"
    assert (
        "Inputs go up to 700 once normalised. Few networks learn from so large ones: give a mean"
        in record.note
    )


def test_a_run_that_diverges_before_its_first_update_is_not_told_to_learn_more_slowly() -> None:
    said = str(DivergedError(0, 0, {"fit": math.nan}, 1.0))
    assert "Nothing was learned yet" in said
    assert "learning rate" not in said
