"""Checkpoints: one safetensors file whose header holds the numbers and the shape of the tree. Never pickle.

A state is a tree of dictionaries, lists, tensors, numbers, strings, booleans and None. Tensors go into the file under
the path that leads to them; all else goes into the header as JSON with `{"tensor": path}` in their places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clbench.errors import LedgerError
from clbench.files import atomic_write, sha256

FORMAT = "clbench checkpoint 1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that it is there whole or not at all.

    Raises:
        LedgerError: it cannot be written. TypeError: a state holds something that is none of the above.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, "", tensors))
    data = to_bytes(tensors, metadata={"format": FORMAT, "tree": tree})
    atomic_write(path, sha256(data).encode() + data)  # safetensors checks its header, not its tensors


def load(path: Path) -> dict[str, Any]:
    """Read a state back, tensors on the CPU.

    Raises:
        LedgerError: missing, damaged, or of another format; names the file.
    """
    from safetensors.torch import load as from_bytes

    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"The checkpoint {path} cannot be read: {error.strerror or error}.") from error
    digest, data = content[:64], content[64:]
    if sha256(data).encode() != digest:
        raise LedgerError(f"The checkpoint {path} is damaged: its checksum does not match.")
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    if metadata.get("format") != FORMAT:
        raise LedgerError(f"{path} is no {FORMAT}; it says {metadata.get('format')!r}.")
    state = _unpack(json.loads(metadata["tree"]), from_bytes(data))
    assert isinstance(state, dict)
    return state


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):  # as pairs: optimizers number their parameters, and JSON keys are strings
        return {"dict": [[k, _pack(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A checkpoint holds tensors, numbers, strings and trees of them; {path} is a {type(value).__name__}.")


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "dict" in node:
        return {k: _unpack(v, tensors) for k, v in node["dict"]}
    return [_unpack(v, tensors) for v in node["list"]]


def clone(state: Any) -> Any:
    """A copy that later training does not change."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {k: clone(v) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return [clone(v) for v in state]
    return state
