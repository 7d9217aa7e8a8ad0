"""Print what is installed here for clbench and Avalanche, and not for torch, torchvision, timm and transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

THERE = {
    *(
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "huggingface-hub",
        "tokenizers",
        "safetensors",
        "regex",
    ),
    *(
        "tqdm",
        "numpy",
        "pillow",
        "pyyaml",
        "packaging",
        "filelock",
        "fsspec",
        "jinja2",
        "markupsafe",
        "mpmath",
    ),
    *("networkx", "setuptools", "sympy", "triton", "typing-extensions"),
}
"""What comes with them, whatever their versions."""


def needed(roots: Iterable[str]) -> dict[str, str]:
    """Return the versions of some packages and of all that they need beside `THERE`, as installed here."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    left: list[tuple[str, tuple[str, ...]]] = [(root, ()) for root in roots]
    while left:
        name, extras = left.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in THERE or key.startswith("nvidia-") or (key, extras) in found:
            continue
        try:
            about = distribution(name)
        except PackageNotFoundError:  # of another system, or not wanted here
            continue
        found[key, extras] = about.version
        for line in about.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in ("", *extras)):
                left.append((wanted.name, tuple(sorted(wanted.extras))))
    return {name: version for (name, _), version in found.items()}


for name, version in sorted(needed(["clbench", "avalanche-lib"]).items()):
    if name != "clbench":
        print(f"{name}=={version}")
