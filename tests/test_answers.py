"""What a frozen encoder says of texts, kept on disk for other runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench.machine import answers
from clbench.models.encoders import NONE, Encoder


class Whole(Encoder):
    """(B, T) → (B, 2): lengths, scaled by weights; counts the texts that it is asked for."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([scale, -scale]), requires_grad=False)
        self.asked = 0
        self.eval()

    def encode(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return (x != NONE).sum(1, keepdim=True) * self.weight

    def whole(self) -> dict[str, Any] | None:
        return {"encoder": "whole"}


class Partly(Whole):
    """Does something that it cannot tell."""

    def whole(self) -> None:
        return None


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(answers, "WORTH", 0)
    return tmp_path / "data" / answers.FOLDER


def rows(n: int = 70) -> Tensor:
    """Different rows, of lengths 1 … 7."""
    x = torch.full((n, 8), NONE)
    for i in range(n):
        x[i, : 1 + i % 7] = 100 + i
    return x


def ask(encoder: Encoder, *pools: Tensor) -> Tensor:
    for x in pools:
        encoder.kept.know(x)
    return torch.cat([encoder(x) for x in pools])


def test_another_run_takes_what_one_has_left() -> None:
    first, second = Whole(), Whole()
    said = ask(first, rows())
    assert torch.equal(ask(second, rows()), said)
    assert (first.asked, second.asked) == (70, 32)  # one group, to compare


def test_pools_are_kept_each_for_itself() -> None:
    ask(Whole(), rows(70)[:40], rows(70)[40:])
    second = Whole()
    ask(second, rows(70)[:40])  # a sealed test stream is not there
    assert second.asked == 32


def test_what_was_never_asked_whole_is_not_kept(folder: Path) -> None:
    encoder = Whole()
    encoder.kept.know(rows())
    encoder(rows()[:3])
    assert not folder.exists()


@pytest.mark.parametrize("other", [Whole(2.0), Partly()])
def test_other_weights_and_what_cannot_be_told_are_asked(other: Encoder) -> None:
    ask(Whole(), rows())
    assert torch.equal(ask(other, rows()), other.encode(rows()))


def test_a_file_that_says_otherwise_is_not_believed(folder: Path) -> None:
    ask(Whole(), rows())
    (file,) = folder.iterdir()
    np.save(file, np.full((70, 2), 7, dtype=np.float32))
    said = ask(Whole(), rows())
    assert torch.equal(said, Whole().encode(rows()))
    assert torch.equal(torch.from_numpy(np.load(file)).sort(0).values, said.sort(0).values)  # and made again


def test_a_file_with_a_bit_turned_is_made_again(folder: Path) -> None:
    said = ask(Whole(), rows())
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[-40] ^= 1  # of the last row, far from the group that is compared
    file.write_bytes(data)
    assert torch.equal(ask(Whole(), rows()), said)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04"])
def test_a_damaged_file_is_made_again(folder: Path, content: bytes) -> None:
    ask(Whole(), rows())
    (file,) = folder.iterdir()
    file.write_bytes(content)
    assert torch.equal(ask(Whole(), rows()), Whole().encode(rows()))
    assert np.load(file).shape == (70, 2)


def test_where_nothing_can_be_written_the_run_goes_on(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder would be")
    assert torch.equal(ask(Whole(), rows()), Whole().encode(rows()))


def test_threads_decide_on_bits_and_so_on_the_file(folder: Path) -> None:
    ask(Whole(), rows())
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        ask(Whole(), rows())
    finally:
        torch.set_num_threads(before)
    assert len(list(folder.iterdir())) == 2


def test_what_takes_no_time_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "WORTH", 2e10)
    ask(Whole(), rows())
    assert not folder.exists()
