"""Where a plugin is defined, and the text of definitions that were typed into a notebook."""

from __future__ import annotations

import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clbench.errors import RegistryError
from clbench.registry.closure import code_of
from clbench.registry.typed import typed_source, where_defined


def cells(*texts: str) -> dict[str, Any]:
    """The names of a notebook after its cells, kept as IPython keeps them."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, text in enumerate(texts):
        file = f"<cell {number} of {id(names)}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec", dont_inherit=True), names)
    return names


HELPER = "class Part:\n    size = 3\n    def losses(self, batch, out):\n        return SCALE * self.size\n"
FACTORY = "def mine(weight: float = 1.0):\n    return Part()\n"


def source(*texts: str) -> str:
    return typed_source(cells(*texts)["mine"], "'mine'")


def test_a_definition_in_a_cell_counts_with_those_it_uses_in_others() -> None:
    text = source("SCALE = 2", HELPER, FACTORY)
    assert "return SCALE * self.size" in text
    assert "return Part()" in text


@pytest.mark.parametrize(
    "other",
    [
        ("SCALE = 3", HELPER, FACTORY),
        ("SCALE = 2", HELPER.replace("size = 3", "size = 4"), FACTORY),
        ("SCALE = 2", HELPER.replace("SCALE *", "SCALE +"), FACTORY),
        ("SCALE = 2", HELPER, FACTORY.replace("1.0", "2.0")),
    ],
    ids=["a constant", "an attribute", "a method", "a default"],
)
def test_whatever_changes_the_method_changes_the_text(other: tuple[str, ...]) -> None:
    assert source(*other) != source("SCALE = 2", HELPER, FACTORY)


@pytest.mark.parametrize(
    "same",
    [
        ("SCALE = 2", HELPER + "\n" + FACTORY),
        ("SCALE = 2", HELPER, FACTORY + "print(1)\nother = 5\n"),
        ("SCALE = 2\nlosses = [1]\nself = object()", HELPER, FACTORY),
    ],
    ids=["one cell", "what else the cell does", "globals named like attributes"],
)
def test_whatever_does_not_leaves_it_as_it_is(same: tuple[str, ...]) -> None:
    assert source(*same) == source("SCALE = 2", HELPER, FACTORY)


def test_a_decorated_method_is_found_behind_its_decorator() -> None:
    decorated = HELPER.replace("    def losses", "    @torch.no_grad()\n    def losses")
    assert "return SCALE * self.size" in source("import torch\nSCALE = 2", decorated, FACTORY)


def test_annotations_of_a_class_are_no_method() -> None:
    annotated = HELPER.replace("size = 3", "size: int = 3")
    assert "return SCALE * self.size" in source("SCALE = 2", annotated, FACTORY)
    with pytest.raises(RegistryError, match="it has no method"):
        source("class Empty:\n    size: int = 3\n", "def mine():\n    return Empty()\n")


def test_a_class_without_methods_is_refused_with_the_reason() -> None:
    with pytest.raises(RegistryError, match="the source of Empty is not to be had, since it has no method"):
        source("class Empty:\n    pass\n", "def mine():\n    return Empty()\n")


def test_a_global_that_cannot_be_written_down_is_refused_by_name() -> None:
    with pytest.raises(
        RegistryError, match="'mine' uses the global 'SCALE', a object, whose value a run's id cannot"
    ):
        source("SCALE = object()", HELPER, FACTORY)


def test_libraries_are_not_part_of_it() -> None:
    assert "def sqrt" not in source(
        "import math\nfrom json import dumps", "def mine():\n    return math.pi, dumps(1)\n"
    )


@pytest.mark.parametrize(
    "cell",
    [
        "from clbench.parts import CrossEntropy\ndef mine():\n    return CrossEntropy()",
        "def mine():\n    from clbench.parts import CrossEntropy\n    return CrossEntropy()",
        "import clbench.parts as p\ndef mine():\n    return p.CrossEntropy()",
        "from clbench.parts import CrossEntropy\nclass mine(CrossEntropy):\n    def f(self):\n        pass",
    ],
    ids=["name", "inside", "module", "base"],
)
def test_the_parts_of_clbench_that_it_uses_count(cell: str) -> None:
    found = {name for name, _ in code_of(source(cell))}
    assert "clbench/parts/losses.py" in found
    assert "clbench/parts/replay.py" not in found


def test_what_was_typed_where_no_text_is_kept_is_refused() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def mine():\n    return 1\n", names)
    with pytest.raises(RegistryError, match="the source of mine is not to be had"):
        typed_source(names["mine"], "'mine'")


def test_a_class_says_its_cell_and_not_the_program_s_file() -> None:
    assert where_defined(cells(HELPER)["Part"]).startswith("<cell 0")


RUNS = """
import clbench
from clbench import Strategy, register
from clbench.parts import CrossEntropy

@register("mine")
def mine() -> Strategy:
    "Mine."
    return CrossEntropy()

record = clbench.run("split-digits", "mine", seed=0, iterations=1, experiences=2, out="runs")
print(record.status)
"""


def test_a_script_runs_what_it_registers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(RUNS)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python keeps the text of -c")
def test_a_session_without_text_is_told_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUNS], cwd=tmp_path, capture_output=True, text=True)
    assert "the source of mine is not to be had" in done.stderr
    assert "Put it into a file" in done.stderr
    assert not (tmp_path / "runs").exists()
