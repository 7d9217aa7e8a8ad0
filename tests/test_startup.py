"""What is imported, and what is not: start-up is imports, so names are held here and no times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from clbench.machine.optim import uncompiled

LIBRARIES = {"matplotlib", "sklearn", "scipy", "torchvision", "timm", "pandas", "transformers", "tokenizers"}
"""Large ones, which only those pay for who use them."""
COMPILER = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "sympy"}
TORCH = LIBRARIES | COMPILER | {"torch"}
COMMAND_LINE = TORCH | {"numpy", "pydantic", "typer", "rich", "yaml"}
RUN = ("run", "split-digits", "er", "iterations=2", "experiences=2", "--json")


def loaded(program: str, *arguments: str) -> set[str]:
    """The modules that a program has imported at its end."""
    last = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", last + program, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return {*done.stderr.splitlines()[-1].split()}


def test_importing_clbench_imports_no_library() -> None:
    assert not loaded("import clbench") & COMMAND_LINE


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["list", "strategies", "--json"]], ids=str
)
def test_help_and_lists_do_not_import_torch(arguments: list[str]) -> None:
    assert not loaded("from clbench.__main__ import main; main()", *arguments) & TORCH


def test_a_run_imports_neither_what_it_does_not_use_nor_the_compiler_of_torch(tmp_path: Path) -> None:
    assert not loaded("from clbench.__main__ import main; main()", *RUN, "--out", str(tmp_path)) & (
        LIBRARIES | COMPILER
    )


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
