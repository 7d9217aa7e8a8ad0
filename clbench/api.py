"""Running: from names and numbers to a record. What the command line and Python callers share."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from clbench import checkpoint, config, metrics
from clbench.config import Execution, RunConfig
from clbench.engine import Run, derive_seed
from clbench.errors import ConfigError, DivergedError, LedgerError
from clbench.files import atomic_write, locked, make_folder, pretty_json, read_json
from clbench.ledger import (
    Record,
    code_identity,
    environment,
    has_record,
    read_record,
    run_id,
    write_record,
)
from clbench.models import Classifier
from clbench.observer import Observer
from clbench.registry import benchmarks, strategies
from clbench.strategy import Strategy, chain
from clbench.types import Benchmark

CHECKPOINT = "checkpoint.safetensors"


def runs_folder(out: str | Path | None = None) -> Path:
    """Where run folders go: `out`, else `CLBENCH_RUNS`, else `runs/`."""
    return Path(out or os.environ.get("CLBENCH_RUNS") or "runs")


def make_benchmark(name: str, **spec: Any) -> Benchmark:
    """A registered benchmark, built: `make_benchmark("split-cifar100", experiences=20, seed=1)`."""
    benchmark: Benchmark = benchmarks.make(name, **spec)
    return benchmark


def make_strategy(name: str, **params: Any) -> Strategy:
    """A registered strategy, or a chain of them: `make_strategy("derpp+refresh", memory=500)`.

    Of a chain, a parameter belongs to the strategy that has it; one that several have is given as `derpp__alpha`.
    """
    parts = name.split("+")
    given: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in params.items():
        owner, _, inner = key.partition("__")
        if inner and owner in given:
            given[owner][inner] = value
            continue
        owners = [part for part in parts if key in strategies.entry(part).signature().parameters]
        if len(owners) > 1:
            raise ConfigError(f"'{key}' could mean {' or '.join(f'{o}__{key}' for o in owners)}; write which.")
        given[owners[0] if owners else parts[0]][key] = value
    return build_strategy(name, given)


def build_strategy(name: str, params: Mapping[str, Mapping[str, Any]]) -> Strategy:
    """A chain from its parts' names and their parameters, with its registered name stamped on."""
    made = []
    for part in name.split("+"):
        strategy = strategies.make(part, **params.get(part, {}))
        strategy.name = part
        made.append(strategy)
    whole = chain(*made)
    whole.name = name
    return whole


def make_model(name: str, input_shape: tuple[int, ...], num_classes: int, **params: Any) -> Classifier:
    """A model by its registered or timm name."""
    from clbench import models

    return models.make_model(name, input_shape, num_classes, **params)


def run(
    benchmark: str | Benchmark,
    strategy: str,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    file: Mapping[str, Any] | None = None,
    execution: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    **params: Any,
) -> Record:
    """Run a strategy on a benchmark, or return the record if that very run is already there.

    A run that was interrupted continues from its last checkpoint, to the same bits.

    Args:
        benchmark: a registered name, or a benchmark of your own (`clbench.from_arrays`, …).
        strategy: a registered name, or a chain: `"derpp+refresh"`.
        seed: of everything drawn; see `Seeds` for separate ones.
        out: folder for run folders; `CLBENCH_RUNS` or `runs/` if None.
        device: cpu, cuda, cuda:1 …; auto takes CUDA if there is one.
        file: a configuration as read from YAML.
        execution: fields of `Execution`, which may not move numbers.
        observers: progress displays, loggers.
        params: settings by key, as on the command line: `memory=200`, `lr=0.1`, `**{"derpp.alpha": 0.5}`.

    Raises:
        ClbenchError: bad input, in one message. A run that diverges raises nothing; its record says so.
    """
    own = benchmark if isinstance(benchmark, Benchmark) else None
    name = own.name if own is not None else str(benchmark)
    resolved = config.resolve(name, strategy, params, seed=seed, file=file, given_benchmark=own is not None)
    how = config.validate(Execution, {"device": device, **(execution or {})})
    return start(resolved, how, runs_folder(out), benchmark=own, observers=observers)


@dataclass(frozen=True)
class Identity:
    """What a run is, before it starts: its id and what the id is made of."""

    id: str
    benchmark: dict[str, Any]
    strategy: dict[str, Any]
    code: dict[str, Any]


def identify(resolved: RunConfig, benchmark: Benchmark | None = None) -> Identity:
    """The id of a configuration, without building anything."""
    parts = [strategies.entry(part) for part in resolved.parts()]
    entries = list(parts)
    if benchmark is None:
        entry = benchmarks.entry(resolved.benchmark)
        entries.append(entry)
        what = {"name": entry.name, "version": entry.version}
    else:
        what = {"name": benchmark.name, "version": benchmark.version, "fingerprint": benchmark.fingerprint}
    method = {"name": resolved.strategy, "version": "+".join(str(part.version) for part in parts)}
    home = Path(config.__file__).resolve().parent.parent
    outside = tuple(sorted({e.source for e in entries if _outside(e.source, home)}))
    code = code_identity(outside)
    return Identity(run_id(resolved.model_dump(mode="json"), what, method, code), what, method, code)


def _outside(source: str, home: Path) -> bool:
    path = Path(source)
    return path.is_file() and not path.resolve().is_relative_to(home)


def start(
    resolved: RunConfig,
    execution: Execution,
    root: Path,
    *,
    benchmark: Benchmark | None = None,
    observers: Sequence[Observer] = (),
) -> Record:
    """Run a resolved configuration in `root/<id>`, continue it if it was interrupted, or return its record."""
    identity = identify(resolved, benchmark)
    folder = root / identity.id
    if has_record(folder):
        return read_record(folder)
    make_folder(folder)
    with locked(folder, f"Run {folder}"):
        if has_record(folder):  # finished while we waited to begin
            return read_record(folder)
        if not (folder / "config.yaml").exists():
            atomic_write(folder / "config.yaml", yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False))
        if (folder / "execution.json").exists():  # threads decide bits: a resumed run keeps those it began with
            kept = read_json(folder / "execution.json")
            execution = execution.model_copy(update={"threads": kept["threads"]})
        threads = execution.threads or torch.get_num_threads()
        atomic_write(folder / "execution.json", pretty_json({**execution.model_dump(mode="json"), "threads": threads}))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return _carry_out(resolved, execution, folder, identity, benchmark, observers)
        finally:
            torch.set_num_threads(before)


def resume(folder: str | Path, *, device: str | None = None, observers: Sequence[Observer] = ()) -> Record:
    """Continue an interrupted run to the bits it would have ended with.

    Raises:
        LedgerError: no run folder, damaged, of another code version, or in another process's hands.
    """
    folder = Path(folder)
    if has_record(folder):
        return read_record(folder)
    if not (folder / "config.yaml").is_file():
        raise LedgerError(f"{folder} is no run folder: it holds no config.yaml.")
    resolved = config.validate(RunConfig, config.read_yaml(folder / "config.yaml"), f"{folder}/config.yaml: ")
    if resolved.benchmark not in benchmarks.names():
        raise LedgerError(
            f"{folder} was run on '{resolved.benchmark}', an object in memory and no registered benchmark; call "
            "clbench.run with the same benchmark and settings to continue it."
        )
    identity = identify(resolved)
    if identity.id != folder.name:
        raise LedgerError(
            f"{folder} was begun by other code: this version would call the run {identity.id}. Continue it with the "
            "version that began it, or run it again."
        )
    kept = read_json(folder / "execution.json") if (folder / "execution.json").is_file() else {}
    execution = config.validate(Execution, {**kept, **({"device": device} if device else {})}, f"{folder}/execution.json: ")
    return start(resolved, execution, folder.parent, observers=observers)


def build(
    resolved: RunConfig,
    execution: Execution,
    *,
    benchmark: Benchmark | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """The engine for a configuration, before its first step: stream, strategy and freshly initialised model."""
    if benchmark is None:
        benchmark = make_benchmark(resolved.benchmark, **resolved.stream)
    strategy = build_strategy(resolved.strategy, resolved.params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(resolved.seeds.init, "initialisation"))
        model = make_model(
            resolved.model.name, benchmark.input_shape, benchmark.num_classes, **resolved.model.params
        )
        return Run(benchmark, strategy, model, resolved, execution, observers)


def _carry_out(
    resolved: RunConfig,
    execution: Execution,
    folder: Path,
    identity: Identity,
    benchmark: Benchmark | None,
    observers: Sequence[Observer],
) -> Record:
    log = _Log(folder / "log.jsonl")
    engine = build(resolved, execution, benchmark=benchmark, observers=[log, *observers])
    path = folder / CHECKPOINT
    if path.is_file():
        saved = checkpoint.load(path)
        engine.load_state_dict(saved["run"])
        log.cut(saved["log_bytes"])
    env = environment(str(engine.device), torch.get_num_threads())
    if engine.device.type == "cuda":
        env["device_name"] = torch.cuda.get_device_name(engine.device)
    atomic_write(folder / "environment.json", pretty_json(env))

    def save() -> None:
        checkpoint.save(path, {"run": engine.state_dict(), "log_bytes": log.bytes()})

    status, note = "done", ""
    try:
        with log:
            engine.fit(save)
    except DivergedError as error:
        status, note = "diverged", str(error)
        engine.evaluator.fetch()
    curve = engine.evaluator.curve
    curve.save(folder / "curve.npz")
    checkpoint.save(folder / "model.safetensors", {"model": engine.model.state_dict()})
    record = Record(
        id=identity.id,
        status="done" if status == "done" else "diverged",
        config=resolved.model_dump(mode="json"),
        benchmark={**identity.benchmark, "fingerprint": engine.benchmark.fingerprint},
        strategy=identity.strategy,
        seeds=resolved.seeds.model_dump(),
        code=identity.code,
        environment=env,
        budget=engine.budget(),
        metrics=metrics.compute(curve),
        curve_file={"file": "curve.npz", "sha256": curve.sha256()},
        selection=resolved.selection,
        note=note,
    )
    record = write_record(record, folder)
    path.unlink(missing_ok=True)
    return record


class _Log(Observer):
    """`log.jsonl`: one line per step with its losses, written in windows; what a resumed run repeats is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> _Log:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def cut(self, size: int) -> None:
        """Back to what it held at a checkpoint."""
        if self.path.exists():
            os.truncate(self.path, min(size, self.path.stat().st_size))

    def bytes(self) -> int:
        if self._file is None:
            return 0
        self._file.flush()
        return self.path.stat().st_size

    def window(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
        assert self._file is not None
        self._file.writelines(json.dumps(row) + "\n" for row in rows)


def now() -> str:
    """The time, for people: UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
