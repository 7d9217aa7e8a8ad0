"""Every network of timm, fitted to the inputs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clbench.errors import ConfigError, DataError
from clbench.models.base import Classifier
from clbench.models.inputs import Build, Shape, padded
from clbench.ranges import Count, Fraction

TIMM = "timm:"
"""Before the name of a timm model; needed only where clbench has a model of that name, such as resnet18."""


def timm_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    pretrained: bool = False,
    patch_size: Count | None = None,
    drop_rate: Fraction | None = None,
    drop_path_rate: Fraction | None = None,
    embed_dim: Count | None = None,
    depth: Count | None = None,
    num_heads: Count | None = None,
    pad: bool = False,
) -> Classifier:
    """Return a timm backbone for images of any size, and a new linear head.

    Args:
        name: a model of timm, with the tag of its weights if wanted (`vit_base_patch16_224.augreg_in21k`).
        input_shape: (channels, height, width).
        num_classes: C.
        pretrained: take timm's weights; timm resamples position embeddings, patches and the stem to fit the
            size of the image, of its patches and the number of channels.
        patch_size, drop_rate, drop_path_rate, embed_dim, depth, num_heads: passed on; None leaves timm's value.
        pad: put zeros around images up to the next size that the model takes and of which it sees every pixel: patches
            that do not fill an image leave out its last rows and columns.

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
    return timm_network(name, input_shape, num_classes, pretrained, pad=pad, **options)


def timm_network(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    pretrained: bool = False,
    file: Path | None = None,
    pad: bool = False,
    **given: Any,
) -> Classifier:
    """`timm_model`, with timm's weights from a file if there is one."""
    shape = image_shape(name, input_shape)
    timm = timm_library()
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the model does not have
        raise ConfigError(f"timm has no '{name}': {error}.") from error
    # those models, and only those, must be told the size
    sized = config is not None and config.fixed_input_size
    if pad:
        build: Build = functools.partial(timm_network, name, num_classes=num_classes, **given)
        trial = build if sized else _one_for_all(name, shape, num_classes, options)
        usual = (224, 224) if config is None or config.input_size is None else config.input_size[1:]
        whole = functools.partial(build, pretrained=pretrained, file=file)
        return padded(whole, trial, shape, max(usual))
    if sized:
        options["img_size"] = shape[1:]
    if file is not None:
        pretrained, options["pretrained_cfg_overlay"] = True, {"file": str(file)}
    elif pretrained and (config is None or not config.has_weights):
        raise DataError(f"timm has no pretrained weights for '{name}'; leave pretrained=False.")
    backbone = _backbone(name, shape, pretrained, file, options)
    return Classifier(backbone, _feature_size(backbone, name, input_shape, options), num_classes)


def _one_for_all(name: str, input_shape: Shape, num_classes: int, options: dict[str, Any]) -> Build:
    """Builds of a model that need not be told the size of its images: one network, tried at each."""
    with torch.random.fork_rng(devices=[]):
        backbone = _backbone(name, input_shape, False, None, options)
        return lambda shape: Classifier(backbone, _feature_size(backbone, name, shape, options), num_classes)


def _backbone(
    name: str, input_shape: Shape, pretrained: bool, file: Path | None, options: dict[str, Any]
) -> nn.Module:
    """timm's network without a head, before any image has come."""
    try:
        backbone: nn.Module = timm_library().create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=input_shape[0], **options
        )
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
    args = {key: value for key, value in options.items() if key != "pretrained_cfg_overlay"}
    backbone.made_with = {"name": name.partition(".")[0], "in_chans": input_shape[0], **args}  # type: ignore[assignment]
    return backbone


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
    size = (
        ""
        if isinstance(error, TypeError)
        else (
            " If it is the size of the images that does not fit, resize them, or set model.pad=true, which puts zeros "
            "around them."
        )
    )
    return (
        f"'{name}' cannot be built for inputs of shape {input_shape}{' with ' + listed if listed else ''}: "
        f"{_first_line(error)}.{size}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def timm_library() -> Any:
    """timm, imported where it is used, as it costs seconds."""
    from clbench.machine.torchvision import torchvision

    torchvision()
    import timm

    return timm


def image_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(channels, height, width) of inputs that are images."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"model '{name}' takes images, (channels, height, width); the inputs have the shape "
            f"{tuple(input_shape)}. Use 'mlp' for vectors, 'minilm' or another encoder for texts."
        )
    return input_shape
