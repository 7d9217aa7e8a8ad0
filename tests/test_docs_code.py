"""Every block of code in README and documentation runs: page by page, in a fresh folder, on small budgets.

A block names its language. `python` and `bash` are run in order; one whose first line is a comment with the name of a
file is written to it, as a reader would. `text`, `toml` and unnamed `yaml` are shown only. A block that cannot run here
has `<!-- not run: REASON -->` above it, and is counted.

Budgets: training is two iterations an experience, suites have two seeds and one process, and `check` makes two of its
checks. What commands print is not compared.
"""

from __future__ import annotations

import itertools
import linecache
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clbench import cli, config
from clbench.registry import benchmarks, load_plugin, models, strategies
from clbench.results import metrics
from clbench.runs import lifecycle, suite
from clbench.runs.cells import Cell, settle
from clbench.testing import checking, contract

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = "<!-- Written by docs/generate.py"
OTHERS = ("avalanche.md", "mammoth.md")
"""Pages whose blocks `test_interop_docs.py` runs, in processes of their own."""
PAGES = [
    page
    for page in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "examples/clbench-rings/README.md",
    )
    if WRITTEN not in page.read_text(encoding="utf-8") and page.name not in OTHERS
]
NOT_RUN = {
    "README.md": 4,
    "anywhere.md": 1,
    "drift.md": 1,
    "few-shot.md": 1,
    "gpu.md": 4,
    "index.md": 1,
    "leaderboard.md": 4,
    "logging.md": 1,
    "low-rank.md": 1,
    "results.md": 13,
    "recurring.md": 1,
    "retrieval.md": 4,
    "running.md": 6,
    "schedules.md": 1,
    "several-machines.md": 3,
    "text.md": 2,
    "image-protocol.md": 2,
    "your-own-stream.md": 4,
    "clbench-rings/README.md": 1,
}
"""How many blocks of a page are not run."""


MEASURED = ("results.md",)
"""Pages of tables with the commands that made them, which take hours."""


class Block(NamedTuple):
    """A block of code: its language, its text, where it begins, and why it is not run, if it is not."""

    language: str
    text: str
    line: int
    reason: str

    def file(self) -> str:
        """The name of the file that a block is to be written to, or nothing."""
        named = re.match(r"# ([\w-]+\.(?:py|yaml))\n", self.text)
        return named.group(1) if named else ""


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(
        r"(?:<!-- not run: (.*?) -->\n)?^```(\w*|\{toctree\})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        yield Block(
            found.group(2),
            found.group(3),
            text.count("\n", 0, found.start(3)) + 1,
            found.group(1) or ("hours" if page.name in MEASURED else ""),
        )


def name_of(page: Path) -> str:
    return page.name if page.parent.name in (ROOT.name, "docs") else f"{page.parent.name}/{page.name}"


# --- small budgets ---


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations an experience, two seeds, no processes, two checks."""
    resolve, plan = config.resolve, suite.plan

    def brief(*given: Any, **how: Any) -> config.RunConfig:
        resolved = resolve(*given, **how)
        short = {"iterations": 2, "later_iterations": None}
        return resolved.model_copy(update={"train": resolved.train.model_copy(update=short)})

    def two_seeds(loaded: Any, overrides: Any = None, seeds: Any = None, **how: Any) -> list[Cell]:
        return plan(loaded, overrides, (seeds or loaded.seeds)[:2], **how)

    def in_turn(cells: Sequence[Cell], root: Path, execution: Any, **how: Any) -> None:
        for cell in cells:
            lifecycle.start(cell.resolved, execution, root)
            settle(cell, root)

    monkeypatch.setattr(config, "resolve", brief)
    monkeypatch.setattr(suite, "plan", two_seeds)
    monkeypatch.setattr(suite, "run", in_turn)
    monkeypatch.setattr(checking, "CHECKS", [contract.check_builds, contract.check_chain_unit])


@pytest.fixture
def forgetful() -> Iterator[Callable[[], None]]:
    """Forgets what plugins have registered: now when called, and at the end."""
    known, modules = dict(metrics.METRICS), set(sys.modules)

    def forget(*kept: str) -> None:
        for registry in (strategies, benchmarks, models):
            for name, entry in list(registry._made.items()):
                if not entry.module.startswith(("clbench.", *kept)):
                    del registry._made[name]
        for name in [n for n in sys.modules if n.startswith("clbench_plugin") and n not in modules]:
            del sys.modules[name]

    yield lambda: forget("__main__")  # what a page's Python has registered stays to its end
    forget()
    metrics.METRICS.clear()
    metrics.METRICS.update(known)


# --- running ---


def commands(text: str) -> Iterator[str]:
    """The lines of a bash block, continued ones joined, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    yield from (line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def run_line(line: str, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> None:
    """clbench's commands in this process, which has torch loaded; all else in a shell."""
    latest = max(Path("runs").glob("*/record.json"), key=lambda file: file.stat().st_mtime_ns, default=None)
    if latest is not None:  # a run folder on a page stands for the reader's own
        line = re.sub(r"runs/[0-9a-f]{12}", str(latest.parent), line)
    words = shlex.split(line, comments=True)
    if words[0] == "for":  # for NAME in A B; do COMMAND; done
        name, values, body = re.fullmatch(r"for (\w+) in (.*?); do (.*); done", line).groups()  # type: ignore[union-attr]
        for value in values.split():
            run_line(body.replace(f"${name}", value), monkeypatch, forget)
        return
    if words[0] != "clbench":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-ec", line], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return
    words = list(itertools.chain(*(sorted(map(str, Path().glob(w))) if "*" in w else [w] for w in words)))
    if words[1] in ("run", "suite"):
        words += ["--threads", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    forget()
    assert ended.value.code == 0, line


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """As a notebook would: the text can be looked up afterwards."""
    name = f"<{page.name}, line {block.line}>"
    linecache.cache[name] = (len(block.text), None, block.text.splitlines(keepends=True), name)
    exec(compile(block.text, name, "exec"), namespace)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: Callable[[], None]
) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("__pycache__"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason:
            continue
        if block.file():
            Path(block.file()).write_text(block.text, encoding="utf-8")
            if block.language == "python":
                load_plugin(block.file())
                forgetful()
        elif block.language == "python":
            run_python(block, page, namespace)
        elif block.language == "bash":
            for line in commands(block.text):
                run_line(line, monkeypatch, forgetful)


# --- what is not run ---


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_its_language(page: Path) -> None:
    known = {"python", "bash", "yaml", "toml", "text", "{toctree}"}
    assert not [block.line for block in blocks(page) if block.language not in known and not block.reason]


def test_blocks_that_are_not_run_are_counted() -> None:
    counted = {name_of(page): sum(bool(block.reason) for block in blocks(page)) for page in PAGES}
    assert {name: n for name, n in counted.items() if n} == NOT_RUN
