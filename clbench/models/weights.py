"""Weights that a run starts from: found by id or path, and checked by their hash. Imports no torch at the top.

`clbench pretrain` writes `<id>.safetensors` into `CLBENCH_WEIGHTS` (default `weights/`); the id is a w and the
beginning of the file's SHA-256, so that a file that was altered is no longer what its name says. Safetensors only:
nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import ConfigError, DataError, suggest
from clbench.files import atomic_write, canonical_json, expanded, file_sha256, make_folder, sha256
from clbench.files.names import WEIGHTS_DIGITS, is_weights_id

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        path: where it lies, a file or a folder. sha256: of its bytes.
        about: what `clbench pretrain` wrote into it: model, substrate and more; empty for a file from elsewhere.
    """

    path: Path
    sha256: str
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return id_of(self.sha256)

    @property
    def substrate(self) -> str:
        """In words, what these weights have learned from."""
        text: str = self.about.get("substrate", "a file from elsewhere")
        return f"{text} (weights {self.id})"


def weights_folder(folder: str | Path | None = None) -> Path:
    """Return where weights lie: `folder`, else `CLBENCH_WEIGHTS`, else `weights/`."""
    return expanded(folder or os.environ.get("CLBENCH_WEIGHTS") or "weights")


WHOLE = frozenset(("clip",))
"""Models that are built from what lies beside their weights; the folder counts as a whole."""


def find(name: str, *, whole: bool = False) -> Weights:
    """Return the weights of an id in the folder, or of a path; the bytes must be those that the id names.

    A path may also be that of a folder with a checkpoint as on the Hugging Face hub, weights in safetensors, or, if
    `whole`, of a file in such a folder.

    Raises:
        DataError: there are none, or they were altered. ConfigError: not a safetensors file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path)
    elsewhere = is_weights_id(path.stem) and not path.exists()  # a place of another machine: the id tells
    if is_weights_id(name) or elsewhere:
        path = weights_folder() / f"{path.stem}{SUFFIX}"
    if path.suffix != SUFFIX:
        raise ConfigError(
            f"Weights are given by id, w and {WEIGHTS_DIGITS} digits, or as a {SUFFIX} file; '{name}' was given. "
            "Other formats may run code when they are read."
        )
    if not path.is_file():
        known = sorted(file.stem for file in weights_folder().glob(f"*{SUFFIX}"))
        raise DataError(
            f"There are no weights {name}: {path} is missing.{suggest(path.stem, known)} In {weights_folder()}: "
            f"{', '.join(known) or 'none'}. `clbench pretrain` makes some."
        )
    if whole:
        return _read_folder(path.parent)
    found = Weights(path, file_sha256(path), _about(path))
    if is_weights_id(path.stem) and found.id != path.stem:
        raise DataError(
            f"The weights {path} were altered: by their SHA-256 they are {found.id}, not {path.stem}. Make them "
            "again with `clbench pretrain`, or fetch them from where they came from."
        )
    return found


def id_of(sha256: str) -> str:
    """Return the id of weights; with a letter that is no digit, so that no configuration takes it for a number."""
    return f"w{sha256[:WEIGHTS_DIGITS]}"


def _about(path: Path) -> dict[str, Any]:
    """Return what a file's header says of where it comes from."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("the header does not fit into the file")
            header = json.loads(file.read(size))
        about = json.loads(header.get("__metadata__", {}).get("clbench", "{}"))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(about, dict):
        raise _damaged(path)
    return about


def _read_folder(folder: Path) -> Weights:
    """Read a checkpoint of several files: its hash is over all that decide what it computes."""
    files = sorted([*folder.glob(f"*{SUFFIX}"), *folder.glob("*.json")])
    if not any(file.suffix == SUFFIX for file in files):
        raise DataError(
            f"The folder {folder} holds no {SUFFIX} file; other formats may run code when they are read."
        )
    parts = [f"{file.name} {file_sha256(file)}" for file in files]
    return Weights(folder, sha256("\n".join(parts)))


def _damaged(path: Path) -> DataError:
    return DataError(f"The weights {path} are damaged or no safetensors file.")


def tensors_of(weights: Weights) -> dict[str, Tensor]:
    """Return what a file of weights holds, on the CPU.

    Raises:
        DataError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        loaded: dict[str, Tensor] = load_file(weights.path)
    except SafetensorError as error:
        raise _damaged(weights.path) from error
    return loaded


def write(tensors: dict[str, Tensor], about: dict[str, Any], folder: Path) -> Weights:
    """Write weights under the id that their bytes give; equal weights of equal origin have one id."""
    from safetensors.torch import save

    data = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"clbench": canonical_json(about)},
    )
    digest = sha256(data)
    path = make_folder(folder) / f"{id_of(digest)}{SUFFIX}"
    if not path.is_file():
        atomic_write(path, data)
    return Weights(path, digest, about)


def load_into(backbone: nn.Module, weights: Weights) -> None:
    """Put weights into a backbone: those that `clbench pretrain` wrote, or a file with the same names and shapes.

    A file may hold a whole network of clbench's: `backbone.…`, and a head, which is left out.

    Raises:
        ConfigError: they are another network's; says which.
    """
    theirs, ours = tensors_of(weights), backbone.state_dict()
    if any(name.startswith("backbone.") for name in theirs):
        theirs = {k.removeprefix("backbone."): v for k, v in theirs.items() if k.startswith("backbone.")}
    wrong = sorted(theirs.keys() ^ ours.keys()) or sorted(
        name for name in ours if ours[name].shape != theirs[name].shape
    )
    if not wrong:
        backbone.load_state_dict(theirs)
        return
    name = wrong[0]
    if weights.about:
        model = weights.about.get("model", {})
        given = " ".join(f"model.{k}={v}" for k, v in model.get("params", {}).items() if v is not None)
        of = f"They are of inputs {tuple(weights.about.get('input_shape', ()))} and model={model.get('name')} {given}"
        raise ConfigError(
            f"The weights {weights.id} are of another network: '{name}' differs. {of}".rstrip() + "."
        )
    has, wants = (f"{tuple(of[name].shape)}" if name in of else "nothing" for of in (theirs, ours))
    raise ConfigError(
        f"The weights {weights.path} do not fit: for '{name}' they hold {has}, and the network's backbone has {wants}. "
        f"They must hold what the backbone does: {', '.join(list(ours)[:4])}{', …' if len(ours) > 4 else ''}."
    )
