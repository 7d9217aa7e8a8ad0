"""The house of clbench: which room may import which, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUND = ("errors", "ranges", "files")
LAYERS = (  # lowest first; a room imports rooms below its own, those of its own layer excepted
    GROUND,
    ("transforms", "memory"),
    ("types",),
    ("registry",),
    ("config",),
    ("machine", "results"),
    ("data", "models"),
    ("reports",),
    ("strategy",),
    ("evaluation",),
    ("engine",),
    ("runs",),
    ("parts", "__init__"),
    ("interop",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
WITHOUT_TORCH = (
    "registry",
    "config",
    "results",
    "results.curve",
    "results.ledger",
    "results.metrics",
    "reports",
    "cli",
    "runs.suite",
    "engine.observer",
    "reports.display.comparison",
    "reports.display.records",
)
"""Rooms, and modules of others, that are imported without torch: the command line answers at once."""

OFFERED = {"", "types", "strategy", "parts", "memory", "transforms", "errors", "ranges"}
"""What strategies import: values, parts and ranges; of benchmarks, data and the registry, too."""
PLUGINS = {
    "strategies": OFFERED,
    "benchmarks": OFFERED - {"strategy", "parts", "memory"} | {"data", "registry"},
}
HEAVY = {
    "avalanche",
    "wandb",
    "torchvision",
    "timm",
    "matplotlib",
    "sklearn",
    "tensorboard",
    "transformers",
    "ray",
    "pandas",
    "IPython",
}

CORE = sorted((ROOT / "clbench").rglob("*.py"))
OTHERS = sorted(path for folder in PLUGINS for path in (ROOT / folder).glob("*.py"))


def names(path: Path) -> tuple[str, ...]:
    """The dotted name of a module below clbench, in parts; of clbench itself none."""
    parts = path.relative_to(ROOT / "clbench").with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {".".join(("clbench", *names(path))) for path in CORE}


def room(module: str) -> str:
    """`clbench.engine.capture` → engine; of clbench itself, its face."""
    return module.partition(".")[2].partition(".")[0] or "__init__"


@cache
def imports(path: Path, *, functions: bool = True, types: bool = True) -> frozenset[str]:
    """What a file imports: modules, and of packages those modules that it names.

    Args:
        functions: inside functions, too. types: for type checkers, too.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        if not types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if not functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            yield from inner & MODULES
            if inner - MODULES:
                yield module
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return frozenset(visit(ast.parse(path.read_text(encoding="utf-8"))))


def own(path: Path) -> list[str]:
    """The modules of clbench that a file imports, at any time and for any reason."""
    return sorted(m for m in imports(path) if m.partition(".")[0] == "clbench")


def file_id(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def test_every_room_has_its_layer() -> None:
    rooms = {room(".".join(("clbench", *names(path)))) for path in CORE}
    assert rooms == {room for layer in LAYERS for room in layer}


def test_a_room_imports_rooms_below_it() -> None:
    height = {room: i for i, layer in enumerate(LAYERS) for room in layer}

    def wrong(path: Path) -> list[str]:
        mine = room(".".join(("clbench", *names(path))))
        return [
            module
            for module in own(path)
            if room(module) != mine
            and height[room(module)] >= height[mine]
            and not (mine in GROUND and room(module) in GROUND)
        ]

    assert not {file_id(path): found for path in CORE if (found := wrong(path))}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {".".join(("clbench", *names(path))): set(own(path)) & MODULES for path in CORE}
    left = {module: needed - {module} for module, needed in graph.items()}
    while free := {module for module, needed in left.items() if not needed & left.keys()}:
        left = {module: needed for module, needed in left.items() if module not in free}
    assert not left


def test_few_modules_stand_in_no_room() -> None:
    assert len(list((ROOT / "clbench").glob("*.py"))) <= 12


def test_no_module_is_long() -> None:
    lines = {file_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CORE + OTHERS}
    assert not {name: n for name, n in lines.items() if n > 600}


def test_the_core_names_no_plugin() -> None:
    assert not [(file_id(path), m) for path in CORE for m in own(path) if room(m) in PLUGINS]


def test_plugins_import_what_is_offered_to_them() -> None:
    def wrong(path: Path) -> list[str]:
        offered = PLUGINS[path.parent.name] - {""} | {"__init__"}
        return [m for m in imports(path, types=False) if m.startswith("clbench") and room(m) not in offered]

    assert not {file_id(path): found for path in OTHERS if (found := wrong(path))}


def test_results_and_the_command_line_are_read_without_torch() -> None:
    code = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(f'clbench.{module}')\n"
        "    assert 'torch' not in sys.modules, module"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    at_once = {file_id(path): imports(path, functions=False, types=False) for path in CORE + OTHERS}
    assert not [(name, m) for name, found in at_once.items() for m in found if m.split(".")[0] in HEAVY]
