"""What guards all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    return request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))


def test_what_is_left_at_any_depth_is_seen_and_caches_are_not(conftest: Any, tmp_path: Path) -> None:
    def leave(*names: str) -> set[str]:
        before = conftest.everything_below(tmp_path)
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("")
        return set(conftest.everything_below(tmp_path) - before)

    assert leave("docs/page.md", "runs/a/record.json", ".venv/pyvenv.cfg") == {
        *("docs", "docs/page.md", "runs", "runs/a", "runs/a/record.json", ".venv")
    }
    assert leave("docs/more/x.md", "runs/a/log") == {"docs/more", "docs/more/x.md", "runs/a/log"}
    caches = (".git/index", "docs/__pycache__/a.pyc", "docs/.mypy_cache/a", ".venv/lib/a.py")
    assert leave(*caches, "docs/.ruff_cache/a", "docs/.pytest_cache/a") == set()
