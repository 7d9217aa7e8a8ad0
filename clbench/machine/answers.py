"""What a network that stays as it is says of a data set, kept on disk: asked once, by all runs of today and tomorrow.

Encoding the texts of CLINC150 takes a minute of one core, and training a head on what comes out a few seconds; a
suite of twenty strategies and five seeds would encode a hundred times. A file holds what the network would say now,
to the bit: its name is a hash of the weights, the inputs in their groups, the libraries, the processor and what else
decides on bits, and who takes it compares one group with the network's own answer. Only what takes a while is kept,
and files can be removed at any time (`clbench data clear answers`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clbench.files import UNREADABLE, canonical_json
from clbench.files.places import data_folder
from clbench.machine.environment import environment

FOLDER = "answers"
"""The folder of `$CLBENCH_DATA` for them."""
WORTH = 2e10
"""Weights times inputs from which on answers are kept: some seconds of one core."""
MOST = 1 << 30
"""Bytes of a file."""
VERSION = 1


def place(network: nn.Module, told: Mapping[str, Any], groups: Sequence[Tensor], like: Tensor) -> Path | None:
    """Return the file for what a network says of these groups of inputs; None if it is not worth one.

    Args:
        told: what the network does beside its weights, as JSON.
        groups: what goes through it together.
        like: the first answer; its type and device are those of all.
    """
    parameters = sum(p.numel() for p in network.parameters())
    if parameters * sum(len(group) for group in groups) < WORTH:
        return None
    device = like.device.type
    accelerator = torch.cuda.get_device_name(like.device) if device == "cuda" else device
    kind = [
        *(VERSION, torch.__version__, environment(accelerator, torch.get_num_threads())),
        *(str(like.dtype), torch.is_autocast_enabled(device), str(torch.get_autocast_dtype(device))),
        *(torch.get_float32_matmul_precision(), dict(told)),
        *(torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled),
    ]
    digest = hashlib.sha256(canonical_json(kind).encode())
    for name, tensor in network.state_dict().items():
        _add(digest, name, tensor)
    for number, group in enumerate(groups):
        _add(digest, str(number), group)
    return data_folder() / FOLDER / f"{digest.hexdigest()[:32]}.npy"


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    array = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
    digest.update(array.data)


def read(path: Path, like: Tensor) -> Tensor | None:
    """Return what a file holds before its SHA-256, on the device of `like` and of its shape (N, D).

    None if there is no such file, or it is damaged; it is made again then.
    """
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
            whole = file.read() == hashlib.sha256(found.data).digest()
    except UNREADABLE:
        return None
    if not whole or found.shape != tuple(like.shape) or found.dtype != np.float32:
        return None
    return torch.from_numpy(found).to(like.device)


def write(path: Path, values: Tensor) -> None:
    """Keep answers (N, D) if there is a place for them; where there is none, they are asked for again."""
    if values.dtype != torch.float32 or values.nbytes > MOST:
        return
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = values.cpu().contiguous().numpy()
        with part.open("wb") as file:
            np.save(file, array)
            file.write(hashlib.sha256(array.data).digest())
        os.replace(part, path)
    except OSError:  # a full disk or a read-only folder costs time, not the run
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
