"""Checkpoints: whole or not there, and told apart when they are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clbench.errors import LedgerError
from clbench.machine import checkpoint
from clbench.testing import difference

STATE: dict[str, Any] = {
    "step": 3,
    "rate": 0.1,
    "phase": "within",
    "resumed": False,
    "none": None,
    "optimizer": {
        "state": {0: {"momentum": torch.randn(3, 2)}, 1: {}},
        "groups": [{"lr": 0.1, "params": [0, 1]}],
    },
    "empty": torch.empty((0, 4)),
    "scalar": torch.tensor(2.5),
    "flags": torch.tensor([True, False]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "a": {"b": torch.zeros(1)},
    "a/b": torch.ones(1),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def test_a_state_comes_back_as_it_was(path: Path) -> None:
    checkpoint.save(path, STATE)
    assert difference(STATE, checkpoint.load(path)) is None


def test_equal_states_give_equal_bytes(path: Path) -> None:
    checkpoint.save(path, STATE)
    first = path.read_bytes()
    for _ in range(5):
        checkpoint.save(path, STATE)
        assert path.read_bytes() == first


def test_any_reader_of_safetensors_can_open_it(path: Path) -> None:
    checkpoint.save(path, {"head.weight": torch.ones(2)})
    assert torch.equal(load_file(path)["head.weight"], torch.ones(2))


def test_tensors_that_share_memory_are_saved(path: Path) -> None:
    shared = torch.arange(4.0)
    checkpoint.save(path, {"all": shared, "part": shared[:2]})
    assert checkpoint.load(path)["part"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "wrong", [np.int64(3), {1, 2}, object(), {(1, 2): 3}], ids=["numpy", "set", "object", "key"]
)
def test_what_cannot_be_saved_is_named(path: Path, wrong: object) -> None:
    with pytest.raises(TypeError, match="'strategy/0"):
        checkpoint.save(path, {"strategy": [wrong]})


def test_what_cannot_be_saved_leaves_the_old_checkpoint(path: Path) -> None:
    checkpoint.save(path, {"step": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"step": object()})
    assert checkpoint.load(path) == {"step": 1}


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: flip(data, len(data) - 1),
        lambda data: flip(data, 3),
        lambda data: flip(data, len(data) // 3),
        lambda data: b"\x00" * len(data),
        lambda data: b"no checkpoint at all, but long enough to have a header of eight bytes",
    ],
)
def test_a_damaged_checkpoint_says_how_to_go_on(path: Path, damage: Any) -> None:
    checkpoint.save(path, STATE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LedgerError, match=r"checkpoint\.safetensors is damaged\. Delete it and resume"):
        checkpoint.load(path)


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    checkpoint.save(path, {"w": torch.arange(3.0), "step": 1})
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(flip(data, at))
        with pytest.raises(LedgerError):
            checkpoint.load(path)


def test_another_format_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", "clbench checkpoint 9")
    checkpoint.save(path, {})
    monkeypatch.undo()
    with pytest.raises(
        LedgerError, match="is a clbench checkpoint 9; this version of clbench reads clbench checkpoint 1"
    ):
        checkpoint.load(path)


def test_a_missing_checkpoint_is_named(path: Path) -> None:
    with pytest.raises(LedgerError, match=r"The checkpoint .* cannot be read: No such file"):
        checkpoint.load(path)


def test_a_clone_is_not_changed_by_training() -> None:
    w = torch.zeros(1)
    copy = checkpoint.clone({"w": [w]})
    w += 1
    assert copy["w"][0].item() == 0


@pytest.mark.parametrize("turned", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_a_tensor_by_columns_comes_back_by_columns(path: Path, turned: tuple[int, int, int]) -> None:
    """Products with rows and with columns round differently, so that a run would go on to other bits."""
    tensor = torch.arange(24.0).view(2, 3, 4).permute(turned)
    checkpoint.save(path, {"it": [checkpoint.save_value(tensor)]})
    (back,) = checkpoint.load_value(None, checkpoint.load(path)["it"], nn.Module, torch.device("cpu"))
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def test_tensors_begin_where_those_of_torch_begin(path: Path) -> None:
    """A product may round by where its operands lie in memory, and tensors in a file begin anywhere."""
    checkpoint.save(path, {"it": [checkpoint.save_value(torch.ones(3 + i)) for i in range(5)]})
    back = checkpoint.load_value(None, checkpoint.load(path)["it"], nn.Module, torch.device("cpu"))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in back)
