"""Which recipe images are prepared by: one of published code by name, or that of a network of timm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clbench.errors import ConfigError, choices
from clbench.machine.torchvision import torchvision
from clbench.registry.arguments import convert
from clbench.transforms.recipes import RECIPES, Recipe

PRETRAINED = "pretrained"
"""In the place of a recipe: that of the run's network, `timm:NAME`."""
TIMM = "timm:"
"""Before the name of a network of timm, whose own configuration is the recipe."""


def recipe_of(name: str, given: str | Mapping[str, Any] | None, size: int | None) -> Recipe | None:
    """Return the recipe that a benchmark's settings `recipe` and `size` name; None where there is neither.

    Args:
        name: of the benchmark, for messages.
        given: a recipe's name, `timm:NAME`, or lines in which `name` is one and others are its settings.
        size: of the network's images, in place of the recipe's.

    Raises:
        ConfigError: there is no such recipe, or a setting that it does not have; says what there is.
    """
    if given is None and size is None:
        return None
    lines: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"name": given or ""}
    called = str(lines.pop("name", ""))
    if called.startswith(TIMM):
        recipe = _of_timm(name, called.removeprefix(TIMM))
    elif called == PRETRAINED:
        raise ConfigError(
            f"{name}: recipe={PRETRAINED} is that of a run's network, one of timm. Where there is no run, name the "
            f"network: recipe={TIMM}vit_base_patch16_224.augreg_in21k."
        )
    elif called in RECIPES or not called:
        recipe = RECIPES.get(called, Recipe())
    else:
        known = [PRETRAINED, *RECIPES]
        raise ConfigError(
            f"{name}: there is no recipe '{called}'.{choices(called, known)} Or {TIMM}NAME, by a network of timm."
        )
    if size is not None:
        lines["size"] = size
    return replace(recipe, **convert(f"{name}: recipe", Recipe, lines))


def _of_timm(name: str, network: str) -> Recipe:
    """Return the recipe of timm's configuration of a network: its size, crop, interpolation, mean and std.

    In training, which it says nothing of, a box of 8–100 % of the area and a flip, as in timm's own training.
    """
    torchvision()
    import timm
    from timm.data.config import resolve_data_config

    try:
        config = timm.get_pretrained_cfg(network)
    except RuntimeError as error:  # a tag that the model does not have
        raise ConfigError(f"{name}: timm has no '{network}': {error}.") from error
    if config is None:
        near = timm.list_models(f"{network[:6]}*")
        raise ConfigError(f"{name}: timm has no '{network}'.{choices(network, near[:20]) if near else ''}")
    data = resolve_data_config(pretrained_cfg=dataclasses.asdict(config))  # type: ignore[no-untyped-call]
    by, size = data["interpolation"], data["input_size"][1:]
    if by not in ("bicubic", "bilinear") or data["crop_mode"] == "border" or size[0] != size[1]:
        raise ConfigError(
            f"{name}: timm prepares images for '{network}' by interpolation={by}, crop_mode={data['crop_mode']}, "
            f"{size[0]} × {size[1]}; a recipe is bicubic or bilinear, center or squash, and square."
        )
    return Recipe(
        f"{TIMM}{network}",
        size=size[0],
        crop_pct=data["crop_pct"],
        squash=data["crop_mode"] == "squash",
        interpolation=by,
        scale=(0.08, 1.0),
        crop_interpolation=by,
        flip=True,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
