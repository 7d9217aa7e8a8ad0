"""The same run in other processes: other process ids and addresses, and other orders of sets of strings.

Python orders a set of strings by hashes that are drawn anew for every process. Here, servers with hash seeds of their
own begin when they are first needed, import what is slow once, fork a process for each run, and end with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clbench.machine.guard import loaded
from clbench.machine.torchvision import torchvision

if TYPE_CHECKING:
    from clbench.testing.subjects import Subject

HASH_SEEDS = ("1", "2", "3")
"""Hash seeds of the servers. Two strings come in the same order in all of them, and here, once in eight times."""

SLOW = ("torch._dynamo", "torchvision", "timm.models.vision_transformer", "avalanche.training")
"""Modules that a server imports before it forks, once this process has needed them."""


class UnreachableError(Exception):
    """What is under test cannot be imported by another process; the message says why."""


def digests_elsewhere(subject: Subject) -> Iterator[dict[str, str]]:
    """From each of the other processes, what `digests` gives there of `subject.plain`.

    Raises:
        UnreachableError: it cannot be imported there.
        RuntimeError: the process has ended, or the run failed there; with its message.
    """
    asked = json.dumps(_described(subject)) + "\n"
    servers = [_server(seed) for seed in HASH_SEEDS]
    for server in servers:  # they work side by side
        server.ask(asked)
    for answer in [server.answer() for server in servers]:
        if "unreachable" in answer:
            raise UnreachableError(answer["unreachable"])
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        yield answer["digests"]


def digests(state: Any, path: str = "") -> dict[str, str]:
    """By its path, a hash of every value in a state; equal for equal ones, in any process."""
    if isinstance(state, Mapping):
        return {k: v for key, value in state.items() for k, v in digests(value, f"{path}{key}/").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in digests(value, f"{path}{i}/").items()}
    if isinstance(state, Tensor):
        raw = state.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        said = f"{state.dtype} {tuple(state.shape)}".encode() + raw
    elif isinstance(state, set | frozenset):
        said = repr(sorted(map(repr, state))).encode()
    else:
        said = repr(state).encode()
    return {path.rstrip("/"): hashlib.sha256(said).hexdigest()}


# --- what is sent ---


def _described(subject: Subject) -> dict[str, Any]:
    """Return how another process comes to the same subject."""
    from clbench.registry import chain_parts, strategies

    if loaded():
        raise UnreachableError("the imitation of a GPU is this process's own")
    told: dict[str, Any] = {
        "slow": [name for name in SLOW if name in sys.modules],
        "path": sys.path,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "imports": [],
        "model": None,
        "device": subject.device,
    }
    if subject.model is not None:
        told["model"] = _address(subject.model)
    if subject.factories == (subject.make,):
        return {**told, "factory": _address(subject.make)}
    for entry in (strategies.entry(part) for part in chain_parts(subject.name)):
        if entry.module == "__main__":
            raise UnreachableError(f"'{entry.name}' is defined in a script or a notebook")
        if entry.module.partition(".")[0] != "clbench":
            told["imports"].append((entry.module, entry.source))
    return {**told, "name": subject.name}


def _address(function: Callable[..., Any]) -> tuple[str, str, str]:
    """Module, file and name of a function at the top level of a module."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "<locals>")
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or "<" in name or not file:
        raise UnreachableError(f"{name} lies at the top level of no module")
    return module, str(file), name


def _imported(module: str, file: str) -> Any:
    """Return a module by its name, where that leads to the file; otherwise the file as a plug-in."""
    from clbench.registry import load_plugin

    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin == file:
        return importlib.import_module(module)
    if not Path(file).is_file():
        raise UnreachableError(f"{file} is not there any more")
    return sys.modules[load_plugin(file)]


def _found(address: list[str]) -> Any:
    module, file, name = address
    try:
        return functools.reduce(getattr, name.split("."), _imported(module, file))
    except AttributeError:
        raise UnreachableError(f"{file} has no {name} when it is imported") from None


# --- the processes ---


class _Server:
    """Another Python that answers questions, line by line."""

    def __init__(self, hash_seed: str) -> None:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        atexit.register(self._end)

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer will tell
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(
            self.process.stdout.readline() or '{"failed": "the server has ended"}'
        )
        return said

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()


@functools.cache
def _server(hash_seed: str) -> _Server:
    return _Server(hash_seed)


def serve() -> None:
    """Answer questions from standard input until it ends, each in a process of its own."""
    # What a plug-in reads or prints is no question and no answer.
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    torch.set_num_threads(1)
    for line in questions:
        asked = json.loads(line)
        if "torchvision" in asked["slow"]:
            torchvision()
        for name in asked["slow"]:
            importlib.import_module(name)
        gc.freeze()  # what has been imported stays, here and in what is forked
        answers.write((_forked(asked) or json.dumps({"failed": "the process has ended"})) + "\n")
        answers.flush()


def _forked(asked: Mapping[str, Any]) -> str:
    """Return the answer of a process that begins as this one is; empty if it ended without."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as heard:
            said = heard.read()
        os.waitpid(child, 0)
        return said
    with contextlib.suppress(BaseException), os.fdopen(writing, "w") as told:
        told.write(json.dumps(_answer(asked)))
    os._exit(0)


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    from clbench.registry import strategies
    from clbench.testing.subjects import subject
    from clbench.testing.tools import everything

    sys.path[:] = asked["path"]
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    try:
        for module, file in asked["imports"]:
            _imported(module, file)
        for name in asked.get("name", "finetune").split("+"):
            if not strategies.knows(name):
                raise UnreachableError(f"'{name}' is registered by one process alone")
        model = _found(asked["model"]) if asked["model"] else None
        wanted = asked["name"] if "name" in asked else _found(asked["factory"])
        return {"digests": digests(everything(subject(wanted, model=model, device=asked["device"]).plain))}
    except UnreachableError as error:
        return {"unreachable": str(error)}
    except Exception as error:  # it is told by who asked
        return {"failed": f"{type(error).__name__}: {error}"}
