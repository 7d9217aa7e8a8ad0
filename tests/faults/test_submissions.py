"""Submissions from several processes, killed at any moment: what was taken stays, and the board is always whole."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from submissions import apart, removed, taken

from clbench import config
from clbench.cli import ranking
from clbench.config import Execution
from clbench.reports.leaderboard import read_board, store
from clbench.runs import identity, lifecycle


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, which would be most of the time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def made(seeds: Sequence[int], folder: Path) -> list[Path]:
    """Runs of next to nothing, by a clean checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
        settings = {"iterations": 1, "every": 1, "experiences": 2, "hidden": [4], "evaluation.subset": 20}
        for seed in seeds:
            resolved = config.resolve("split-digits", "finetune", settings, seed=seed)
            lifecycle.start(resolved, Execution(checkpoint_seconds=None), folder)
    return sorted(folder.iterdir())


def passes(root: Path) -> set[str]:
    """The runs on a board that passes `clbench leaderboard --check`."""
    assert ranking.leaderboard(root, check=True) == 0
    return {record.id for record in read_board(root)}


def whole(root: Path) -> set[str]:
    """The same of one that nobody changes: nothing else lies there."""
    ids = passes(root)
    assert not store.unlisted(root)
    assert {path.name for path in root.iterdir()} <= {
        "README.md",
        "manifest.json",
        ".lock",
        "records",
        "curves",
    }
    assert not list(root.rglob("*.part"))
    return ids


def test_a_submission_may_be_killed_before_any_write(tmp_path: Path) -> None:
    """The board has what it had, or the runs too, and the same command again takes them."""
    first, *others = made(range(3), tmp_path / "runs")
    before, after = {first.name}, {folder.name for folder in (first, *others)}
    seen = []
    for last in range(1000):
        root = tmp_path / str(last)
        taken([first], root)
        done = apart(taken, others, root, last=last)
        seen.append({record.id for record in read_board(root)})
        assert seen[-1] in (before, after)
        assert whole(root) == seen[-1]
        taken(others, root)
        assert whole(root) == after
        if done is not None:
            break
    assert seen == sorted(seen, key=len)
    assert seen.count(before) > 5 < seen.count(after)


def test_the_first_submission_may_be_killed(tmp_path: Path) -> None:
    """There is no board yet, or a whole one."""
    (run,) = made([0], tmp_path / "runs")
    for last in range(1000):
        root = tmp_path / str(last)
        done = apart(taken, [run], root, last=last)
        assert {record.id for record in read_board(root)} in (set(), {run.name})
        if (root / store.LOCK).exists():
            assert whole(root) in (set(), {run.name})
        if done is not None:
            break


def test_a_removal_may_be_killed_before_any_write(tmp_path: Path) -> None:
    first, second = made(range(2), tmp_path / "runs")
    for last in range(1000):
        root = tmp_path / str(last)
        taken([first, second], root)
        done = apart(removed, [first.name], root, last=last)
        seen = {record.id for record in read_board(root)}
        assert seen in ({first.name, second.name}, {second.name})
        assert whole(root) == seen
        if done is not None:
            break
    assert seen == {second.name}


@pytest.mark.parametrize("runs", [9, pytest.param(150, marks=pytest.mark.slow)])
def test_submissions_of_eight_processes_lose_nothing(runs: int, tmp_path: Path) -> None:
    """Two in three are killed, by the number of their writes or by the clock; after each, the board is whole."""
    chance, root = random.Random(runs), tmp_path / "board"
    waiting = made(range(runs), tmp_path / "runs")
    every, mine = {folder.name for folder in waiting}, threading.Lock()
    said: set[str] = set()
    ends: list[bool] = []
    wrong: list[str] = []

    def work() -> None:
        while True:
            with mine:
                if not waiting or wrong:
                    return
                folder = waiting.pop(chance.randrange(len(waiting)))
                last, seconds = chance.choice(
                    [(None, None), (chance.randrange(60), None), (None, chance.uniform(0, 1))]
                )
            try:
                ids = apart(taken, [folder], root, last=last, seconds=seconds)
                with mine:
                    ends.append(ids is not None)
                    said.update(ids or ())
                    waiting.extend([] if ids else [folder])
                    certain = set(said)
                if certain:
                    assert certain <= {record.id for record in read_board(root)}
                    assert certain <= passes(root)
            except BaseException as error:
                wrong.append(f"{folder}, {last}, {seconds}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert whole(root) == every == said
    assert False in ends
