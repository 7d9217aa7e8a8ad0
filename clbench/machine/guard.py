"""Two CUDA devices that a CPU build of torch believes in: for `clbench.testing.imitation`. Imports no torch.

torch asks in C++ what devices there are, once, while it is loaded; so this must have been built and loaded before.
There is nothing to switch between the devices, and nothing computes on them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TRIED = ("2.13",)
"""Versions of torch, whose own library this is built against, that the imitation was tried with."""
_SOURCE = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {
struct TwoDevices : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  DeviceIndex deviceCount() const noexcept override { return 2; }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Stream getStream(Device d) const noexcept override { return Stream(Stream::DEFAULT, d); }
  Stream exchangeStream(Stream s) const noexcept override { return getStream(s.device()); }
};
static TwoDevices guard;
static DeviceGuardImplRegistrar registered(DeviceType::CUDA, &guard);
}  // namespace c10::impl

namespace at {
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 2; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at
"""


@functools.cache
def load() -> str:
    """Build it where that has not been done, and load it; return what stands against it, or nothing."""
    if "torch" in sys.modules:
        return "torch is loaded already, and asks what devices there are only then; begin in a fresh process"
    if reason := _unsuited():
        return reason
    built, reason = _built()
    if built is None:
        return reason
    try:
        ctypes.CDLL(str(built))
    except OSError as error:
        return f"what was built for the imitation of a GPU cannot be loaded: {error}"
    _loaded.add(built)
    return ""


_loaded: set[Path] = set()


def loaded() -> bool:
    """Return whether torch believes in the devices."""
    return bool(_loaded)


def _unsuited() -> str:
    """Return why this torch cannot be told of devices; empty if it can."""
    if os.name != "posix":
        return "the imitation of a GPU is built for Linux and macOS"
    try:
        found = version("torch")
    except PackageNotFoundError:
        return "torch is not installed"
    if not found.startswith(tuple(f"{tried}." for tried in TRIED)):
        return f"the imitation of a GPU is for torch {', '.join(TRIED)}, and {found} is installed"
    text = (_torch() / "version.py").read_text(encoding="utf-8")
    if not re.search(r"^cuda\b.* = None$", text, re.MULTILINE):
        return f"torch {found} is a build with CUDA; the imitation of a GPU needs the CPU build"
    return ""


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _built() -> tuple[Path | None, str]:
    """Return the library, built now if it does not lie in the cache; or why it could not be built."""
    torch = _torch()
    key = hashlib.sha256(f"{_SOURCE}{version('torch')}{sys.version}{torch}".encode()).hexdigest()[:16]
    name = f"clbench-imitation-{key}.so"
    for folder in _folders():
        if (folder / name).is_file() and (folder / name).stat().st_uid == os.getuid():
            return folder / name, ""
    command = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if command is None:
        return None, "the imitation of a GPU needs a C++ compiler once, and there is none"
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid():  # what lies there would be carried out
                continue
            with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as aside:
                source, made = Path(aside) / "guard.cpp", Path(aside) / name
                source.write_text(_SOURCE, encoding="utf-8")
                where = [f"-I{torch / 'include'}", f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}"]
                how = ["-shared", "-fPIC", "-std=c++20", *where, str(source), "-o", str(made)]
                done = subprocess.run(
                    [*command.split(), *how, "-lc10", "-ltorch_cpu"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
                    return None, f"{command} cannot build the imitation of a GPU: {said[0]}"
                made.replace(folder / name)
                return folder / name, ""
    return None, f"there is no place for the imitation of a GPU: {' nor '.join(map(str, _folders()))}"


def _folders() -> tuple[Path, Path]:
    """Return where it may lie: in the cache of who runs this, or else beside their temporary files."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clbench" / "imitation"
    return cache, Path(tempfile.gettempdir()) / f"clbench-imitation-{os.getuid()}"
