"""`new`: the files to begin with."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from clbench.errors import ClbenchError, ConfigError, choices

KINDS = ("strategy",)


def new(
    kind: Annotated[str, typer.Argument(help="strategy")],
    name: Annotated[str, typer.Argument(help="Its name: small letters, digits and hyphens.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a plugin.  [default: here; in a checkout of clbench, the project's places]"
        ),
    ] = None,
) -> None:
    """Write a strategy to begin with: source, configuration, equation test, page. It passes `clbench check`."""
    from clbench.registry.scaffold import new_strategy

    if kind not in KINDS:
        raise ConfigError(f"There is no template of a '{kind}'.{choices(kind, KINDS)}")
    files = new_strategy(name, out)
    inside = files[0].parent.name == "strategies" and out is None
    if inside:
        files += _page(files[0].parent.parent, name)
    for file in files:
        print(file)
    plugin = "" if inside else f" --plugin {shlex.quote(str(files[0]))}"
    tests = next(file for file in files if file.name.startswith("test_"))
    print(f"\nNext: clbench check {name}{plugin}\n      python -m pytest {shlex.quote(str(tests))}")


def _page(root: Path, name: str) -> list[Path]:
    """The project's pages are written from the source."""
    done = subprocess.run([sys.executable, "docs/generate.py"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise ClbenchError(f"docs/generate.py failed: {done.stderr.strip().splitlines()[-1]}")
    return [root / "docs" / "strategies" / f"{name}.md"]
