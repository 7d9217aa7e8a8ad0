"""Runs that something happens to at a chosen moment, each in a process of its own.

A moment is the n-th call, of Python's or C's, that clbench's own code makes within a region of a run: a step, a
boundary, a checkpoint, the loop around them, the opening of the folder, the record. An undisturbed run counts them,
and moments are drawn from the counts, so that any place in the code can be hit, and the same one again.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import clbench
from clbench.registry import strategies
from clbench.strategy import chain
from clbench.testing.tiny import architecture_of

SETTINGS: dict[str, Any] = {
    "experiences": 2,
    "train.epochs": 1,
    "iterations": 6,
    "train.batch_size": 16,
    "hidden": [8],
    "optim.lr": 0.05,
    "optim.momentum": 0.9,
    "evaluation.subset": 10,
}
"""Of every disturbed run: two experiences of six steps on the digits, a checkpoint after every step."""

OF_STRATEGY: dict[str, dict[str, Any]] = {"offline": {"iterations": 12}}

LEFT_OUT = ("align", "cpe-clip", "zero-shot")
"""Those that need a sentence encoder of another package."""

VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
"""As small as a vision transformer of timm's gets."""


def all_strategies() -> list[str]:
    """Every strategy of the project, modifiers on top of replay."""
    own = [strategies.entry(name) for name in strategies.names()]
    return [
        f"er+{entry.name}" if entry.modifier else entry.name
        for entry in own
        if entry.module.startswith("clbench.") and entry.name not in LEFT_OUT
    ]


def setting_of(strategy: str) -> tuple[str, dict[str, Any]]:
    """The benchmark and the settings that a strategy is run with: what fits it, and as little of it as there is."""
    settings = {**SETTINGS, **OF_STRATEGY.get(strategy, {})}
    parts = [strategies.entry(part) for part in strategy.split("+")]
    made = chain(*(strategies.make(part.name, **(part.tiny or {})) for part in parts))
    architecture = architecture_of(made)
    settings |= {f"{part.name}.{key}": value for part in parts for key, value in (part.tiny or {}).items()}
    if "documents" in made.all_needs():
        settings |= {
            "corpora": settings.pop("experiences"),
            "later_iterations": settings["iterations"],
            "hidden": 8,
        }
        return "dsi-numpy", settings
    if "language" in made.all_needs():
        del settings["experiences"], settings["hidden"]
        small = {"optim.name": "sgd", "length": 8, "train_blocks": 48, "test_blocks": 4, "model.width": 8}
        return "prose-and-code", settings | small
    if architecture:
        del settings["hidden"]
        settings["model"] = {"vit": "timm:vit_tiny_patch16_224", "clip": "toy-clip"}[architecture]
    if architecture == "vit":
        settings |= {f"model.{key}": value for key, value in VIT.items()}
    return "split-digits", settings


def same_code(sources: Any = (), known: Any = None) -> dict[str, Any]:
    """In place of the sources' hash."""
    return {"version": "test", "sources": "test"}


# --- moments ---

REGIONS = ("opening", "loop", "step", "boundary", "checkpoint", "record")


@dataclass(frozen=True)
class Moment:
    """The `call`-th call of clbench's own code within a region, from 0."""

    region: str
    call: int

    def __str__(self) -> str:
        return f"{self.region} {self.call}"


@dataclass(frozen=True)
class Fault:
    """What happens, and when: the process is killed, or a write finds the disk full."""

    what: Literal["kill", "full"]
    when: Moment


@functools.cache
def _regions() -> dict[Any, str]:
    """Functions in which a region begins."""
    from clbench.engine.engine import Engine
    from clbench.engine.saving import Saving
    from clbench.evaluation import ContinualEvaluator
    from clbench.machine import checkpoint
    from clbench.results import metrics
    from clbench.results.curve import Curve
    from clbench.runs import lifecycle

    found = {
        "opening": [lifecycle.start],
        "loop": [Engine.fit],
        "step": [Engine._iterate],
        "boundary": [Engine._call, ContinualEvaluator.full, ContinualEvaluator.begin_experience],
        "checkpoint": [Saving.__call__, checkpoint.save, checkpoint.load],
        "record": [Curve.save, metrics.compute, lifecycle.write_record],
    }
    return {function.__code__: region for region, functions in found.items() for function in functions}


class _Watch:
    """A profile function: counts the calls of every region, and lets the fault happen at its moment."""

    def __init__(self, fault: Fault | None, out: Path, writes: bool) -> None:
        self.fault, self.out, self.writes = fault, out, writes
        self.counts: Counter[str] = Counter()
        self.inside: list[str] = ["before"]
        self.regions = _regions()
        self.ours = tuple(str(Path(place).resolve()) for place in clbench.__path__)

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        if event == "call":
            if code in self.regions:
                self.inside.append(self.regions[code])
        elif event == "return":
            if code in self.regions:
                self.inside.pop()
            return
        elif event != "c_call":
            return
        if not (_writes(arg) if self.writes else code.co_filename.startswith(self.ours)):
            return
        region = self.inside[-1]
        moment = Moment(region, self.counts[region])
        self.counts[region] += 1
        if self.fault is not None and moment == self.fault.when:
            self._happen(self.fault)

    def _happen(self, fault: Fault) -> None:
        if fault.what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # A write that is killed in its middle leaves any beginning of what it was to write.
        for part in self.out.glob("*/.*.part"):
            os.truncate(part, random.Random(fault.when.call).randint(0, part.stat().st_size))
        os.kill(os.getpid(), signal.SIGKILL)


def _writes(function: Any) -> bool:
    """Whether a C function puts something on the disk."""
    if function in (os.replace, os.mkdir):
        return True
    own = getattr(function, "__self__", None)
    if not isinstance(own, io.IOBase) or function.__name__ not in ("write", "writelines", "flush"):
        return False
    return isinstance(getattr(own, "name", None), str)  # not a pipe, and not memory


# --- runs ---


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit code, what it said of a mistake, and the calls it counted.

    Attributes:
        code: 0; 2 for a refusal; 70 for an exception that is none; −9 killed.
        said: the message, or the traceback.
        counts: region → calls, where the run went to its end.
    """

    code: int
    said: str
    counts: dict[str, int]


def carry_out(
    strategy: str,
    out: Path,
    fault: Fault | None = None,
    *,
    count: Literal["calls", "writes"] | None = None,
    settings: dict[str, Any] | None = None,
) -> Outcome:
    """A run in a child of a server that has torch loaded.

    Args:
        strategy: its name. out: folder of run folders. fault: what happens to it.
        count: all calls, or only those that write a file.
        settings: over those of `setting_of`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clbench.runs.lifecycle", "clbench.parts", "pytest"])
    here, there = context.Pipe(duplex=False)
    given = (strategy, out, fault, count, settings or {})
    process = context.Process(target=_child, args=(there, *given))
    process.start()
    there.close()
    try:
        said, counts = here.recv()
    except EOFError:  # killed
        said, counts = "", {}
    here.close()
    process.join()
    assert process.exitcode is not None
    return Outcome(process.exitcode, said, counts)


def _child(
    told: Connection,
    strategy: str,
    out: Path,
    fault: Fault | None,
    count: str | None,
    settings: dict[str, Any],
) -> None:
    import torch

    from clbench.runs import identity, lifecycle

    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # a kill is no power cut, and waiting for the disk would be most of the time
    # Whoever edits a source while the tests run would give the continued run another id.
    identity.code_identity = same_code
    how = {"checkpoint_seconds": 0, "log": ["csv"]}
    benchmark, chosen = setting_of(strategy)
    watch = _Watch(fault, out, writes=count == "writes" or (fault is not None and fault.what == "full"))
    code, said = 0, ""
    if count is not None or fault is not None:
        sys.setprofile(watch)
    try:
        lifecycle.run(benchmark, strategy, out=out, device="cpu", execution=how, **{**chosen, **settings})
    except clbench.ClbenchError as error:
        code, said = 2, str(error)
    except BaseException:
        code, said = 70, traceback.format_exc()
    finally:
        sys.setprofile(None)
    told.send((said, dict(watch.counts)))
    sys.exit(code)


COUNTED = (
    "steps",
    "updates",
    "stream_examples",
    "forward_examples",
    "memory_bytes",
    "strategy_state_bytes",
    "held_bytes",
)


def evidence(folder: Path) -> dict[str, Any]:
    """Everything of a run folder that may not depend on interruptions."""
    record = json.loads((folder / "record.json").read_text())
    kept = {key: record[key] for key in ("id", "status", "metrics", "curve", "config", "seeds")}
    files = [
        name
        for name in (
            "model.safetensors",
            "curve.npz",
            "log.jsonl",
            "losses.csv",
            "config.yaml",
            "execution.json",
        )
        if (folder / name).is_file()
    ]
    return {
        **kept,
        "budget": {key: record["budget"][key] for key in COUNTED},
        **{name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        "files": sorted(path.name for path in folder.iterdir()),
    }


class References:
    """Undisturbed runs, made when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: dict[tuple[str, str], tuple[Path, dict[str, int]]] = {}

    def _of(self, strategy: str, count: Literal["calls", "writes"]) -> tuple[Path, dict[str, int]]:
        if (strategy, count) not in self._made:
            out = self.root / f"{strategy} {count}"
            done = carry_out(strategy, out, count=count)
            assert done.code == 0, done.said
            self._made[strategy, count] = next(out.iterdir()), done.counts
        return self._made[strategy, count]

    def folder(self, strategy: str) -> Path:
        """An undisturbed run."""
        made = [folder for (name, _), (folder, _) in self._made.items() if name == strategy]
        return made[0] if made else self._of(strategy, "calls")[0]

    def moments(
        self, strategy: str, chance: random.Random, number: int, count: Literal["calls", "writes"] = "calls"
    ) -> list[Moment]:
        """Drawn moments of a run, the regions in turn."""
        counts = self._of(strategy, count)[1]
        regions = [region for region in REGIONS if counts.get(region)]
        first = chance.randrange(len(regions))
        chosen = [regions[(first + i) % len(regions)] for i in range(number)]
        return [Moment(region, chance.randrange(counts[region])) for region in chosen]

    def late(self, strategy: str) -> Moment:
        """A step in the last third of a run. How many calls a step is depends on the versions of the libraries."""
        return Moment("step", self._of(strategy, "calls")[1]["step"] * 2 // 3)


def survives(references: References, strategy: str, fault: Fault, out: Path) -> str:
    """Let a fault happen, run the same again; returns what is wrong with how it ended, empty if nothing is."""
    hit = carry_out(strategy, out, fault)
    expected = -signal.SIGKILL if fault.what == "kill" else 2
    if hit.code != expected:
        return f"the fault ended the run with {hit.code}, not {expected}: {hit.said}"
    if fault.what == "full" and "The disk is full: " not in hit.said:
        return f"the full disk was told as: {hit.said}"
    folders = [path for path in out.iterdir() if path.is_dir()] if out.is_dir() else []
    finished = {path: path.read_bytes() for path in out.glob("*/record.json")}
    again = carry_out(strategy, out)
    if again.code:
        return f"it did not go on: {again.said}"
    folder = next(path for path in out.iterdir() if path.is_dir())
    if folders and folders != [folder]:
        return "it went on in another folder"
    if any(path.read_bytes() != content for path, content in finished.items()):
        return "a finished record was written anew"
    return differences(references.folder(strategy), folder)


def differences(one: Path, other: Path, but: tuple[str, ...] = ()) -> str:
    """What of the evidence of two run folders is not the same, empty if all is."""
    wanted, found = evidence(one), evidence(other)
    return ", ".join(key for key in wanted if key not in but and wanted[key] != found.get(key))


# --- damage ---

OF_A_RUN = (
    "checkpoint.safetensors",
    "config.yaml",
    "environment.json",
    "execution.json",
    "log.jsonl",
    "losses.csv",
)
OF_A_RECORD = ("record.json", "curve.npz", "config.yaml", "model.safetensors", "log.jsonl")
"""Files of an interrupted run that are damaged, and of a finished one."""


def damages(data: bytes, chance: random.Random, number: int) -> dict[str, bytes | None]:
    """Ways in which a file may be damaged: what → its bytes then, None where it is gone.

    A bit is flipped in every region: of a safetensors file in its length, its header, and every tensor; of any file in
    `number` places besides.
    """
    places = {f"byte {at}": at for at in (chance.randrange(len(data)) for _ in range(number))}
    if data[8:9] == b"{":
        size = int.from_bytes(data[:8], "little")
        places |= {"the header's length": chance.randrange(8), "the header": 8 + chance.randrange(size)}
        for name, about in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__" and about["data_offsets"][0] < about["data_offsets"][1]:
                places[name] = 8 + size + chance.randrange(*about["data_offsets"])
    flipped = {name: flip(data, at, chance.randrange(8)) for name, at in places.items()}
    cut = chance.randrange(len(data))
    whole: dict[str, bytes | None] = {
        "gone": None,
        "empty": b"",
        "without its last byte": data[:-1],
        f"the first {cut} bytes": data[:cut],
        "zeros": bytes(len(data)),
        "with more behind": data + b"\x00more",
    }
    return whole | {f"a bit of {name} flipped": content for name, content in flipped.items()}


def flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def damaged(folder: Path, into: Path, file: str, content: bytes | None) -> Path:
    """A copy of a run folder in which one file is damaged."""
    copy = into / folder.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    return copy


def goes_on(damaged: Path, file: str, whole: Path) -> tuple[str, str]:
    """Continue a damaged run in this process: "refused" or "harmless", and what is wrong with it, if anything is."""
    from clbench.runs import lifecycle

    try:
        lifecycle.resume(damaged)
    except clbench.ClbenchError as error:
        named = file in str(error) or (file == "config.yaml" and str(damaged) in str(error))
        return "refused", "" if named else f"the message names another culprit: {error}"
    except Exception as error:
        return "refused", f"{type(error).__name__}: {error}"
    # How a run is carried out, which loggers it has for example, may be lost; its numbers may not.
    how = ("execution.json", "losses.csv", "files") if file == "execution.json" else ()
    return "harmless", differences(whole, damaged, but=how)


def reads(damaged: Path, file: str, whole: Path) -> tuple[str, str]:
    """Read a damaged finished run: "refused" or "harmless", and what is wrong with it, if anything is."""
    from clbench.results.ledger import read_record

    expected = read_record(whole)
    try:
        record = read_record(damaged, damaged.name)
        same = (record, record.curve) == (expected, expected.curve)
    except clbench.ClbenchError as error:
        named = file in str(error) or (file == "record.json" and "is not finished" in str(error))
        return "refused", "" if named else f"the message names another culprit: {error}"
    except Exception as error:
        return "refused", f"{type(error).__name__}: {error}"
    return "harmless", "" if same else "it says something else"
