"""Damaged files are refused by name or do no harm; never do they give other numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from harness import (
    OF_A_RECORD,
    OF_A_RUN,
    Fault,
    References,
    carry_out,
    damaged,
    damages,
    goes_on,
    reads,
    same_code,
)

from clbench.runs import identity

FULL = pytest.mark.slow


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("references"))


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "code_identity", same_code)


@pytest.fixture(scope="module")
def interrupted(references: References, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By seed, a run that was killed when it had checkpoints."""
    made = {}
    for seed in (0, 1):
        out = tmp_path_factory.mktemp("interrupted")
        fault = Fault("kill", references.late("er"))
        carry_out("er", out, fault, settings={"seed": seed})
        made[seed] = next(out.iterdir())
        assert (made[seed] / "checkpoint.safetensors").is_file()
        assert not (made[seed] / "record.json").exists()
    return made


def problems(
    folder: Path, whole: Path, file: str, judge: Any, number: int, tmp_path: Path
) -> tuple[dict[str, str], set[str]]:
    """What is wrong, by damage; and what became of them in all."""
    chance = random.Random(f"{file} {number}")
    found = {
        what: judge(damaged(folder, tmp_path, file, content), file, whole)
        for what, content in damages((folder / file).read_bytes(), chance, number).items()
    }
    return {what: wrong for what, (_, wrong) in found.items() if wrong}, {
        became for became, _ in found.values()
    }


@pytest.mark.parametrize("number", [2, pytest.param(60, marks=FULL)])
@pytest.mark.parametrize("file", OF_A_RUN)
def test_a_damaged_file_of_an_interrupted_run(
    file: str, number: int, interrupted: dict[int, Path], references: References, tmp_path: Path
) -> None:
    wrong, became = problems(interrupted[0], references.folder("er"), file, goes_on, number, tmp_path)
    assert not wrong
    if file in ("environment.json", "losses.csv"):  # written anew
        assert became == {"harmless"}


@pytest.mark.parametrize("number", [60, pytest.param(2000, marks=FULL)])
@pytest.mark.parametrize("file", OF_A_RECORD)
def test_a_damaged_file_of_a_finished_run(
    file: str, number: int, references: References, tmp_path: Path
) -> None:
    whole = references.folder("er")
    wrong, became = problems(whole, whole, file, reads, number, tmp_path)
    assert not wrong
    assert ("refused" in became) == (file in ("record.json", "curve.npz"))


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "config.yaml", "log.jsonl", "losses.csv"])
def test_a_file_of_another_run_in_its_place(
    file: str, interrupted: dict[int, Path], references: References, tmp_path: Path
) -> None:
    swapped = damaged(interrupted[0], tmp_path, file, (interrupted[1] / file).read_bytes())
    became, wrong = goes_on(swapped, file, references.folder("er"))
    assert (became, wrong) == ("harmless" if file == "losses.csv" else "refused", "")


@pytest.mark.parametrize("file", ["record.json", "curve.npz"])
def test_a_result_of_another_run_in_its_place(file: str, references: References, tmp_path: Path) -> None:
    whole, other = references.folder("er"), references.folder("lwf")
    swapped = damaged(whole, tmp_path, file, (other / file).read_bytes())
    assert reads(swapped, file, whole) == ("refused", "")
    if file == "record.json":
        became, wrong = goes_on(swapped, file, whole)  # a suite, or the same command again
        assert (became, wrong) == ("refused", "")
