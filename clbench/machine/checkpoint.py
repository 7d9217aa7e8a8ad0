"""Checkpoints: one safetensors file whose header holds the numbers and the shape of the tree. Never pickle.

A state is a tree of dictionaries, lists, tensors, numbers, strings, booleans and None. Tensors go into the
file under the path that leads to them; all else goes into the header as JSON with `{"tensor": path}` in their
places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import LedgerError
from clbench.files import atomic_write

FORMAT = "clbench checkpoint 1"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state so that it is there whole or not at all; equal states give equal bytes.

    Raises:
        LedgerError: it cannot be written. TypeError: a state holds something that is none of the above.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, "", tensors))
    # One entry, as safetensors writes several in no fixed order. The hash, as it checks its header only.
    header = {"format": FORMAT, "sha256": _digest(tree, tensors), "tree": tree}
    atomic_write(path, to_bytes(tensors, metadata={"clbench": json.dumps(header)}))


def load(path: Path) -> dict[str, Any]:
    """Read a state back, tensors on the CPU.

    Raises:
        LedgerError: missing, damaged, or of another format; names the file.
    """
    return parse(read(path), path)


def read(path: Path) -> bytes:
    """Return a checkpoint's bytes.

    Raises:
        LedgerError: they cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise LedgerError(f"The checkpoint {path} cannot be read: {error.strerror or error}.") from error


def parse(data: bytes, path: Path) -> dict[str, Any]:
    """Return the state that a checkpoint's bytes hold; `path` is for messages.

    Raises:
        LedgerError: damaged, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["clbench"])
        written, digest, tree = header["format"], header["sha256"], header["tree"]
        tensors = from_bytes(data)
        if written != FORMAT:
            raise LedgerError(f"{path} is a {written}; this version of clbench reads {FORMAT}.")
        state = _unpack(json.loads(tree), tensors) if digest == _digest(tree, tensors) else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise _damaged(path) from error
    if not isinstance(state, dict):
        raise _damaged(path)
    return state


def _damaged(path: Path) -> LedgerError:
    return LedgerError(
        f"The checkpoint {path} is damaged. Delete it and resume: the run then starts from the beginning."
    )


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        path = path if path not in tensors else f"{path}#{len(tensors)}"  # {"a": {"b": t}, "a/b": t}
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(value, Mapping):  # as pairs: optimizers number their parameters, and JSON keys are strings
        if wrong := [k for k in value if not isinstance(k, str | int)]:
            raise TypeError(f"A checkpoint's keys are strings and integers; '{path}' has {wrong[0]!r}.")
        return {"dict": [[k, _pack(v, f"{path}/{k}" if path else str(k), tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"A checkpoint holds tensors, numbers, strings and trees of them; '{path}' is no such thing but a "
        f"{type(value).__name__}."
    )


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "dict" in node:
        return {k: _unpack(v, tensors) for k, v in node["dict"]}
    return [_unpack(v, tensors) for v in node["list"]]


def clone(state: Any) -> Any:
    """Return a copy that later training does not change."""
    return tree_map(lambda tensor: tensor.detach().clone(), state)


def tree_map(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Return the state with every tensor replaced by what the function makes of it."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {k: tree_map(function, v) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return [tree_map(function, v) for v in state]
    return state


def nbytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    tree_map(count, state)
    return sum(sizes)


MODULE = "__module__"
"""Marks saved weights of a module, so that a teacher is told from a dictionary of anchors."""
AXES = "__axes__"
"""Marks a tensor that does not lie by rows, with the axes by which it does."""


def save_value(value: Any) -> Any:
    """Return an attribute as a checkpoint holds it: tensors, modules, memories, numbers, and containers of them."""
    if isinstance(value, nn.Module):
        return {MODULE: value.state_dict()}
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, Mapping):
        return {str(k): save_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [save_value(v) for v in value]
    if isinstance(value, Tensor):
        return _by_rows(value.detach())
    return value


def _by_rows(tensor: Tensor) -> Any:
    """A tensor that another order of its axes lays out by rows comes with it: LAPACK, for one, answers by columns.

    Files hold rows, and products with rows and with columns round differently.
    """
    if tensor.is_contiguous():
        return tensor
    strides = tensor.stride()
    axes = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    turned = tensor.permute(axes)
    return {AXES: axes, "tensor": turned} if turned.is_contiguous() else tensor


def load_value(current: Any, saved: Any, frozen: Callable[[], nn.Module], device: torch.device) -> Any:
    """Return `saved` in the form of `current`.

    Args:
        frozen: copies the model, for a module that does not exist yet, such as a teacher.
        device: where tensors go.
    """
    if saved is None:  # what there is now came later
        return None
    if isinstance(saved, dict) and AXES in saved:
        axes = saved[AXES]
        return saved["tensor"].to(device, copy=True).permute([axes.index(axis) for axis in range(len(axes))])
    if isinstance(saved, dict) and MODULE in saved:
        module = current if current is not None else frozen()
        module.load_state_dict(saved[MODULE])
        return module
    if hasattr(current, "load_state_dict"):
        current.load_state_dict(saved)
        return current
    if isinstance(saved, dict):
        inner = current if isinstance(current, Mapping) else {}
        return {k: load_value(inner.get(k), v, frozen, device) for k, v in saved.items()}
    if isinstance(saved, list):
        return [load_value(None, v, frozen, device) for v in saved]
    if isinstance(saved, Tensor):
        return saved.to(
            device, copy=True
        )  # the bytes of a file begin anywhere, which may round differently, too
    return saved
