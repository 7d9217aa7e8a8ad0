"""torchvision, also where its compiled operators do not fit the torch that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_ops: Any = torch.ops  # neither has type hints
_library: Any = torch.library

_kept: list[Any] = []
"""A library takes its operators with it when it is collected, so it is kept."""


def torchvision() -> ModuleType:
    """Return the torchvision module. Call this before importing timm or another library that imports it itself.

    On Linux the package index serves torchvision built against CUDA. Beside a torch without CUDA its compiled
    operators do not load, and `import torchvision` raises `operator torchvision::nms does not exist`, as it
    registers shape functions for operators that nobody has declared. clbench uses only what is written in
    Python (data sets, transforms), so those operators are declared here, without an implementation. Where the
    compiled operators load, nothing is declared.
    """
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        if spec is not None and spec.origin is not None and not _loads(Path(spec.origin).parent):
            _declare(Path(spec.origin).parent)
    return importlib.import_module("torchvision")


def _loads(folder: Path) -> bool:
    """Whether the compiled operators in torchvision's folder fit this torch; loads them if they do."""
    for file in folder.glob("_C*"):
        if file.suffix in (".so", ".pyd", ".dylib"):
            try:
                _ops.load_library(str(file))
            except OSError:
                return False
    return True


def _declare(folder: Path) -> None:
    """Declare the operators that `_meta_registrations.py` registers shape functions for, nms and its like."""
    file = folder / "_meta_registrations.py"
    source = file.read_text(encoding="utf-8") if file.is_file() else ""
    for name in re.findall(r"""register_fake\(["']torchvision::(\w+)["']\)""", source):
        if not hasattr(_ops.torchvision, name):
            if not _kept:
                _kept.append(_library.Library("torchvision", "FRAGMENT"))
            _kept[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
