"""Every code block of the pages for users of Avalanche and of Mammoth runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / "avalanche.md", ROOT / "docs" / "mammoth.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(command: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "CLBENCH_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _avalanche() -> None:
    if importlib.util.find_spec("avalanche") is None:
        pytest.skip("the page needs avalanche-lib")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_all_blocks_are_of_a_language_that_runs(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= {"python", "bash", "text", ""}  # text: a measurement that takes minutes and MNIST
    assert sum(len(blocks(page, language)) for language in ("python", "bash", "text")) == len(fences) // 2 > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_python_blocks_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    run([sys.executable, "-W", "ignore", str(script)], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_commands_run(page: Path, tmp_path: Path) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "clbench"
        run([sys.executable, "-m", "clbench", *arguments], tmp_path)


def test_the_method_shown_is_the_one_in_examples() -> None:
    shown = blocks(ROOT / "docs" / "mammoth.md", "python")[0]
    example = (ROOT / "examples" / "mammoth_er.py").read_text(encoding="utf-8")
    for part in shown.split("\n\n\n")[1:]:  # after the imports
        assert part.strip() in example
