"""Bad input of every kind is accepted or refused with a message: hundreds of inputs here, thousands with -m slow."""

from __future__ import annotations

from pathlib import Path

import inputs
import pytest
from harness import carry_out

from clbench.errors import DataError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs")
    assert carry_out("er", out).code == 0
    return next(out.iterdir())


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", inputs.KINDS)
def test_bad_input_is_refused_with_a_message(
    kind: str, full: bool, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLBENCH_DATA", "CLBENCH_RUNS", "CLBENCH_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CLBENCH_DEBUG", "1")  # an error that nobody foresaw is raised
    monkeypatch.chdir(tmp_path)
    made, take, few, many = inputs.KINDS[kind]
    outcomes = inputs.fuzz(made(whole, tmp_path), take, many if full else few, tmp_path)
    assert outcomes["refused"] > 10
    assert not (tmp_path / "executed").exists()


def test_an_archive_that_unpacks_to_more_than_there_is_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clbench import files

    monkeypatch.setattr(files, "memory_bytes", lambda: 16 << 20)
    file = tmp_path / "bomb.npz"
    file.write_bytes(inputs.bomb(64 << 20))
    assert file.stat().st_size < 1 << 20
    with pytest.raises(
        DataError, match=r"bomb\.npz is not .*: it unpacks to 64 MB, more than the memory of this machine"
    ):
        inputs.take_npz(file)
