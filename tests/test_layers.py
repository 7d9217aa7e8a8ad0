"""Who may import whom, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted(path for path in (ROOT / "clbench").rglob("*.py"))
PLUGINS = sorted(path for folder in ("strategies", "benchmarks") for path in (ROOT / folder).glob("*.py"))
NO_TORCH = (
    "columns",
    "curve",
    "markup",
    "schema",
    "leaderboard",
    "metrics",
    "errors",
    "files",
    "ledger",
    "config",
    "registry",
    "plots",
    "report",
    "cli",
    "scaffold",
    "sources",
    "arguments",
    "observer",
    "reads",
    "selection",
    "weights",
    "yamls",
    "suite",
)


def imports(path: Path, *, inside_functions: bool = False) -> set[str]:
    """Modules that a file imports when it is imported; those for type checkers only are left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_the_core_names_no_plugin(path: Path) -> None:
    named = {
        m
        for m in imports(path, inside_functions=True)
        if m.startswith(("clbench.strategies", "clbench.benchmarks"))
    }
    assert not named


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_plugins_import_values_parts_and_data_but_not_the_engine(path: Path) -> None:
    allowed = {
        "strategies": {
            "clbench",
            "clbench.types",
            "clbench.strategy",
            "clbench.parts",
            "clbench.memory",
            "clbench.transforms.augment",
            "clbench.errors",
            "clbench.ranges",
        },
        "benchmarks": {
            "clbench",
            "clbench.types",
            "clbench.data",
            "clbench.data.streams",
            "clbench.transforms.augment",
            "clbench.registry",
            "clbench.errors",
            "clbench.ranges",
        },
    }[path.parent.name]
    assert {m for m in imports(path) if m.startswith("clbench")} <= allowed


@pytest.mark.parametrize("module", NO_TORCH)
def test_results_and_the_command_line_are_read_without_torch(module: str) -> None:
    code = f"import sys, clbench.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", CORE + PLUGINS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    heavy = {"avalanche", "wandb", "torchvision", "timm", "matplotlib", "sklearn", "tensorboard"}
    assert not {m for m in imports(path) if m.split(".")[0] in heavy}
