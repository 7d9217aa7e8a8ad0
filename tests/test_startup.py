"""What is imported, and what is not: start-up is imports, so names are held here and no times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from clbench.machine.optim import uncompiled

ROOT = Path(__file__).resolve().parent.parent
MAIN = "from clbench.__main__ import main; main()"
LIBRARIES = {"matplotlib", "sklearn", "scipy", "torchvision", "timm", "pandas", "transformers", "tokenizers"}
"""Large ones, which only those pay for who use them."""
COMPILER = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "sympy"}
TORCH = LIBRARIES | COMPILER | {"torch"}
COMMAND_LINE = TORCH | {"numpy", "pydantic", "typer", "rich", "yaml"}
RUN = ("run", "split-digits", "er", "iterations=2", "experiences=2", "--out", "some where")
ELSEWHERE = {"HOME": "/proc/none", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""No home that can be written to, and no text but ASCII."""


def program(code: str, *arguments: str, folder: Path, **variables: str) -> tuple[str, set[str]]:
    """What a program prints, and the modules that it has imported at its end."""
    last = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", last + code, *arguments],
        capture_output=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )
    return done.stdout.decode(), {*done.stderr.decode().splitlines()[-1].split()}


def test_importing_clbench_imports_no_library(tmp_path: Path) -> None:
    assert not program("import clbench", folder=tmp_path)[1] & COMMAND_LINE


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["list", "strategies", "--json"]], ids=str
)
def test_help_and_lists_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    assert not program(MAIN, *arguments, folder=tmp_path)[1] & TORCH


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, set[str]]:
    """A short run in a folder whose name has spaces and letters beyond ASCII; where, what it said and imported."""
    folder = tmp_path_factory.mktemp("ein Ort für Läufe")
    return folder, *program(MAIN, *RUN, folder=folder, **ELSEWHERE)


def test_a_run_imports_neither_what_it_does_not_use_nor_the_compiler_of_torch(
    ran: tuple[Path, str, set[str]],
) -> None:
    assert not ran[2] & (LIBRARIES | COMPILER)


def test_a_run_needs_no_home_and_no_locale(ran: tuple[Path, str, set[str]]) -> None:
    folder, said, _ = ran
    (run,) = (folder / "some where").iterdir()
    assert said.isascii()
    assert said.splitlines()[-1] == f"  {Path('some where') / run.name}"
    assert (run / "record.json").is_file()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_optimizer_that_the_compiler_does_not_know_computes_the_same(
    kind: type[torch.optim.Optimizer],
) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 3), torch.randn(4, 5, 3)
    ends, states = [], []
    for made in (kind, uncompiled(kind)):
        weight = nn.Parameter(start.clone())
        optimizer = made([weight], lr=0.1, weight_decay=0.01)
        for gradient in gradients:
            optimizer.zero_grad()
            weight.grad = gradient.clone()
            optimizer.step()
        again = made([weight], lr=0.5)
        again.load_state_dict(optimizer.state_dict())
        ends.append(weight.detach())
        states.append(str(again.state_dict()))
    assert torch.equal(*ends)
    assert states[0] == states[1]
