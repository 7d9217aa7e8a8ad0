"""Print what is installed here for clbench and Avalanche and is not on another machine, and what is there.

lacks.py             the other machine has torch, torchvision, timm and transformers
lacks.py there.txt   it has what `pip list --format=freeze` has said there, with or without versions
lacks.py --link DIR  link what is there into an empty folder, as installed here: to try on
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOTS = ("clbench", "avalanche-lib", "quadprog")
THERE = (
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
    *("tqdm", "numpy", "pillow", "pyyaml", "packaging", "filelock", "fsspec", "jinja2", "markupsafe"),
    *("mpmath", "networkx", "setuptools", "sympy", "triton", "typing-extensions"),
)
"""What has come with torch, torchvision, timm and transformers for long, whatever their versions."""
UNUSED = {"grpcio", "tensorboard-data-server"}
"""What TensorBoard's server needs, and its writer does not."""
SOLVERS = {"open_source_solvers", "open-source-solvers"}
"""An extra of qpsolvers, a dozen programs of which one is enough: quadprog."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(roots: Iterable[str], there: Mapping[str, str | None]) -> dict[str, str]:
    """Return the versions of some packages and of all that they need, as installed here, but for what is there.

    Args:
        there: versions by name; None where any will do.
    """
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    left = [Requirement(root) for root in roots]
    while left:
        wanted = left.pop()
        name, extras = plain(wanted.name), tuple(sorted(wanted.extras - SOLVERS))
        if name in there and ((version := there[name]) is None or wanted.specifier.contains(version)):
            continue
        try:
            about = distribution(name)
        except PackageNotFoundError:  # of another system, or not wanted here
            continue
        if (name, extras) in found:
            continue
        found[name, extras] = about.version
        for line in about.requires or ():
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in ("", *extras)):
                left.append(one)
    return {name: version for (name, _), version in found.items()}


def link(names: Iterable[str], folder: Path) -> None:
    for name in names:
        about = distribution(name)
        for top in {file.parts[0] for file in about.files or () if file.parts[0] != ".."}:
            place = folder / top
            if not place.is_symlink():
                place.symlink_to(Path(str(about.locate_file(top))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("there", nargs="?", type=Path)
    parser.add_argument("--link", type=Path)
    given = parser.parse_args()
    there: dict[str, str | None] = dict.fromkeys(THERE)
    if given.there is not None:
        lines = [
            line.strip().partition("==") for line in given.there.read_text(encoding="utf-8").splitlines()
        ]
        there = {plain(name): version or None for name, _, version in lines if name}
    lacking = needed(ROOTS, there)
    if given.link is not None:  # with what that needs, unless it is brought
        link(needed(there, {}).keys() - lacking.keys(), given.link)
    else:
        for name, version in sorted(lacking.items()):
            if name not in {"clbench", *UNUSED}:
                print(f"{name}=={version}")
