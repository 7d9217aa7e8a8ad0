"""Print what is installed here for clbench and Avalanche, and not for torch, torchvision, timm and transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement


def needed(roots: Iterable[str]) -> dict[str, str]:
    """Return the versions of some packages and of all that they need, as installed here."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    left: list[tuple[str, tuple[str, ...]]] = [(root, ()) for root in roots]
    while left:
        name, extras = left.pop()
        key = re.sub(r"[-_.]+", "-", name).lower(), extras
        if key in found:
            continue
        try:
            about = distribution(name)
        except PackageNotFoundError:
            continue
        found[key] = about.version
        for line in about.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in ("", *extras)):
                left.append((wanted.name, tuple(sorted(wanted.extras))))
    return {name: version for (name, _), version in found.items()}


there = needed(["torch", "torchvision", "timm", "transformers"])
for name, version in sorted(needed(["clbench", "avalanche-lib"]).items()):
    if name not in there and name != "clbench":
        print(f"{name}=={version}")
