"""PACS: seven kinds of things in four styles, 9 991 images.

Li, Yang, Song, Hospedales: Deeper, broader and artier domain generalization, ICCV 2017 (arXiv:1710.03077).
"""

from __future__ import annotations

from typing import Any

from clbench.data import build, load
from clbench.errors import ConfigError
from clbench.ranges import Count, Fraction, Seed
from clbench.registry import register_benchmark
from clbench.types import Benchmark


@register_benchmark("pacs", version=1)
def pacs(
    domains: tuple[str, ...] = ("photo", "art_painting", "cartoon", "sketch"),
    online: bool = False,
    augment: bool = True,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """PACS, one style in each of four experiences: photos, paintings, cartoons, sketches.

    Args:
        domains: all four in the order of the experiences; by default ever further from photos.
        online: one pass over the stream.
        augment: random crop of the image padded by 4, and flip, in training, or what the recipe does there.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network, as for split-cifar100.
        valid: share of the training examples of each class and style that makes a validation stream.
        seed: of the validation split.
    """
    source = load("pacs")
    unknown = [name for name in domains if name not in source.domain_names]
    if unknown:
        raise ConfigError(
            f"pacs has no domain '{unknown[0]}'; domains lists all of "
            f"{', '.join(source.domain_names) or 'none'}."
        )
    return build(
        source,
        name="pacs",
        shift="domain",
        domain_order=[source.domain_names.index(name) for name in domains],
        online=online,
        augment=(None if recipe is not None else ("crop", "flip")) if augment else (),
        size=size,
        recipe=recipe,
        valid=valid,
        seed=seed,
        notes=(
            "The test set is the file's own; from a folder of images, a fifth of each class and style, by "
            "the hash of its name. The fingerprint tells copies of other sizes or splits apart."
        ),
    )
