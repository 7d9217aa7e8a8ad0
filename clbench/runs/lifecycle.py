"""Running: from names and numbers to a record. What the command line and Python callers share."""

from __future__ import annotations

import contextlib
import difflib
import gc
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import nn

from clbench import config
from clbench.config import Execution, RunConfig
from clbench.config.keys import places_of
from clbench.config.yamls import dump
from clbench.data import from_data, settings_of
from clbench.data.duplicates import remarks
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer, Watched
from clbench.errors import ConfigError, DivergedError, LedgerError
from clbench.files import (
    atomic_write,
    check_place,
    expanded,
    locked,
    make_folder,
    pretty_json,
    read_json,
    writing,
)
from clbench.machine import checkpoint, parallel
from clbench.machine.device import pick_device
from clbench.machine.environment import environment
from clbench.machine.numerics import describe, deterministic, pinned
from clbench.machine.parallel import Ranks
from clbench.machine.processes import refuse_while_importing
from clbench.machine.stopping import stoppable
from clbench.registry import benchmarks, chain_parts, models, strategies
from clbench.registry.arguments import shown
from clbench.results import metrics
from clbench.results.ledger import Record, has_record, read_record, record_of, write_record
from clbench.results.live import LIVE
from clbench.runs import loggers, notebook, objects
from clbench.runs.building import build
from clbench.runs.identity import Identity, identify
from clbench.runs.kept import LAST, Keeping
from clbench.runs.live import Live
from clbench.strategy import Strategy
from clbench.types import Benchmark

CHECKPOINT = "checkpoint.safetensors"
EXECUTION = "execution.json"
MEANWHILE = (CHECKPOINT, LIVE)
"""What a run keeps until there is its record."""


def runs_folder(out: str | Path | None = None) -> Path:
    """Return where run folders go: `out`, else `CLBENCH_RUNS`, else `runs/`.

    Raises:
        LedgerError: no folder can be there.
    """
    return check_place(expanded(out or os.environ.get("CLBENCH_RUNS") or "runs"))


def run(
    benchmark: str | Benchmark,
    strategy: str | Strategy,
    *,
    model: str | nn.Module | Callable[..., Any] | None = None,
    data: Any = None,
    name: str = "",
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    file: Mapping[str, Any] | None = None,
    execution: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    **params: Any,
) -> Record:
    """Run a strategy on a benchmark, or return the record if that very run is already there.

    A run that was interrupted continues from its last checkpoint, to the same bits. Processes that torchrun started
    make it together and all return its record; the first one alone writes and has observers.

    Objects are as good as names. A run works on copies of them; its id covers their code and what they hold, so that
    the same call finds the record again.

    Args:
        benchmark: a registered name, or a benchmark of your own (`clbench.from_arrays`, …); with `data`, what to call
            the benchmark that is made of them.
        strategy: a registered name, or a chain: `"derpp+refresh"`; or a strategy of your own.
        model: a registered name, or one of timm's; or a module of your own, which starts every run with the weights
            that it has, or a class or function that makes one, with `num_classes` and `input_shape` if it takes them.
        data: a data set of torch's or a pair of them, a DataFrame of files and labels, arrays, or a path, for
            `clbench.from_data`; settings of its benchmark stand among the others: `experiences=5`.
        name: what to call a strategy of your own in records, in place of its classes' names; and what stands for an
            object whose content cannot be read, in the run's id.
        seed: for everything drawn; see `Seeds` for separate ones.
        out: folder for run folders; `CLBENCH_RUNS` or `runs/` if None.
        device: cpu, cuda, cuda:1 …; auto takes CUDA if there is one.
        file: a configuration as read from YAML.
        execution: fields of `Execution`, which are no part of the run's id.
        observers: progress displays, loggers.
        params: settings by key, as on the command line: `memory=200`, `lr=0.1`, `**{"derpp.alpha": 0.5}`.

    Raises:
        ClbenchError: bad input, in one message. A run that diverges raises nothing; its record says so.
    """
    _check_kinds(benchmark, strategy, data, file=file, execution=execution, observers=observers, out=out)
    if isinstance(model, str):
        params["model"] = model
    if (
        name and isinstance(strategy, str) and isinstance(model, str | None)
    ):  # there is nothing to be called so
        params["name"], name = name, ""
    if data is not None:
        benchmark = _benchmark_of(data, str(benchmark), strategy, params, seed)
    own = benchmark if isinstance(benchmark, Benchmark) else None
    if isinstance(strategy, Strategy) and (named := objects.named(strategy)) is not None:
        strategy, params = named[0], {**named[1], **params}
    given = strategy if isinstance(strategy, Strategy) else None
    with objects.lent(given, None if isinstance(model, str) else model, name) as (method, network):
        if network is not None:
            params["model"] = network
        resolved = config.resolve(
            own.name if own is not None else str(benchmark),
            method or str(strategy),
            params,
            seed=seed,
            file=file,
            given_benchmark=own is not None,
        )
        how = config.validate(Execution, {"device": device, **(execution or {})})
        watching = [*([notebook.RunBar()] if notebook.here() else []), *observers]
        return start(resolved, how, runs_folder(out), benchmark=own, observers=watching)


def _check_kinds(benchmark: Any, strategy: Any, data: Any, **others: Any) -> None:
    """Refuse what is of another kind than `run` takes.

    Raises:
        ConfigError: says what it takes.
    """
    if data is not None and not isinstance(benchmark, str):
        raise ConfigError(
            f"With data, the benchmark is the name that theirs gets; a {type(benchmark).__name__} was given."
        )
    for key, value, kinds, takes in (
        ("benchmark", benchmark, str | Benchmark, "a registered name or a Benchmark; data go to data="),
        ("strategy", strategy, str | Strategy, "a registered name or a Strategy, made, and not its class"),
        ("file", others["file"], Mapping | None, "a mapping, as clbench.config.read_yaml reads it"),
        ("execution", others["execution"], Mapping | None, "a mapping of fields of Execution"),
        ("observers", others["observers"], list | tuple, "a list of Observers"),
        ("out", others["out"], str | os.PathLike | None, "a path"),
    ):
        if not isinstance(value, kinds):
            raise ConfigError(f"'{key}' takes {takes}; {shown(value)} was given.")
    if wrong := next((one for one in others["observers"] if not isinstance(one, Observer)), None):
        raise ConfigError(f"'observers' takes a list of Observers; {shown(wrong)} is none.")


def _benchmark_of(
    data: Any, name: str, strategy: str | Strategy, params: dict[str, Any], seed: int
) -> Benchmark:
    """Return the benchmark of data; its settings leave `params`.

    Raises:
        ConfigError: a name that is taken, or a setting that the strategy has, too.
    """
    if benchmarks.knows(name):
        raise ConfigError(f"'{name}' is a registered benchmark, which has its data; give yours another name.")
    known, found = settings_of(data), {}
    parts = chain_parts(strategy) if isinstance(strategy, str) else []
    places = places_of(name, parts, {}, True)
    for key in list(params):
        bare = key.removeprefix("stream.")
        if bare == key and key in known:
            for part in parts:
                if key in strategies.entry(part).signature().parameters:
                    raise ConfigError(f"'{key}' could mean {part}.{key} or stream.{key}; write which.")
        if bare != key or key in known:
            found[bare] = params.pop(key)
        elif (near := difflib.get_close_matches(key, known, n=1, cutoff=0.8)) and key not in places:
            raise ConfigError(f"There is no setting '{key}'. Did you mean '{near[0]}'?")
    return from_data(data, name=name, **{"seed": seed, **found})


def start(
    resolved: RunConfig,
    execution: Execution,
    root: Path,
    *,
    benchmark: Benchmark | None = None,
    observers: Sequence[Observer] = (),
) -> Record:
    """Run a resolved configuration in `root/<id>`, continue it if it was interrupted, or return its record.

    Args:
        resolved: what runs.
        execution: how it is carried out.
        root: folder of run folders.
        benchmark: an object of the caller's, in place of the registered one.
        observers: progress displays, loggers.

    Raises:
        ClbenchError: bad input, or a run folder in another process's hands.
    """
    refuse_while_importing()
    with pinned(resolved.threads):
        ranks = parallel.join()
        identity = identify(resolved, benchmark)
        resolved, folder = identity.resolved, root / identity.id
        _same_run(ranks, identity.id)
        if record := _finished(ranks, folder, identity.id):
            return record
        log = _Log(folder / "log.jsonl")
        watching: list[Observer] = []
        if ranks.first:
            keeping = [Keeping(folder)] if execution.keep_models else []
            theirs = loggers.observers(execution, folder, identity.id)
            watching = [log, Live(folder), *keeping, *theirs, *observers]
        with contextlib.ExitStack() as stack:

            def hold() -> bytes:
                stack.enter_context(locked(make_folder(folder), f"Run {folder}"))
                return b""

            known = ranks.lead(lambda: b"yes" if folder.is_dir() else b"")
            if known:  # whether somebody works on it is told before anything is built
                ranks.lead(hold)
            if not known:
                ranks.lead(lambda: bytes(check_place(folder)))
            if pick_device(execution.device).type == "cuda":
                gc.collect()  # engines and parts know each other: earlier runs of a process hold memory until then
            engine = build(resolved, execution, benchmark=identity.built, observers=watching, ranks=ranks)
            if not known:  # built before: a run that is refused leaves no folder
                ranks.lead(hold)
            if record := _finished(ranks, folder, identity.id):  # in the meantime
                return record
            return _carry_out(engine, folder, identity, log)


def _same_run(ranks: Ranks, run: str) -> None:
    """Refuse processes that do not have the same run in mind.

    Raises:
        LedgerError: their code, data or settings differ.
    """
    first = ranks.lead(run.encode).decode()
    if first != run:
        raise LedgerError(
            f"Process {ranks.rank} would make the run {run} and process 0 the run {first}: clbench, the data or the "
            "settings differ between their machines."
        )


def _finished(ranks: Ranks, folder: Path, id: str) -> Record | None:
    """Return the record in a folder that the first process sees, if there is one."""

    read: list[Record] = []

    def tell() -> bytes:
        if not has_record(folder):
            return b""
        read.append(read_record(folder, id))
        for name in MEANWHILE:  # killed between the record and this
            with contextlib.suppress(OSError):  # results may lie where nothing can be written
                (folder / name).unlink()
        return read[0].to_json().encode()

    told = ranks.lead(tell)
    if not told or read:
        return read[0] if read else None
    return replace(record_of(json.loads(told), folder), folder=folder)


def _kept(folder: Path) -> Execution:
    """Return how a run was carried out; a version before wrote the number of threads there, which its id tells now."""
    path = folder / EXECUTION
    tree = read_json(path) if path.is_file() else {}
    if isinstance(tree, dict):
        tree.pop("threads", None)
    kept: Execution = config.validate(Execution, tree, f"{path}: ")
    return kept


def unlogged(folder: Path, execution: Execution) -> list[str]:
    """Return the loggers of an execution that have nothing of a run that is there, as it was made without them; and
    `--keep-models` where it kept none."""
    before = _kept(folder)
    models = ["--keep-models"] if execution.keep_models and not before.keep_models else []
    return [*models, *sorted({*execution.log} - {*before.log})]


def resume(folder: str | Path, *, device: str | None = None, observers: Sequence[Observer] = ()) -> Record:
    """Continue an interrupted run to the bits it would have ended with.

    Raises:
        LedgerError: no run folder, damaged, of another code version, or in another process's hands.
    """
    folder = Path(os.path.abspath(expanded(folder)))
    if record := _finished(parallel.join(), folder, folder.name):
        return record
    if not os.path.isfile(folder / "config.yaml"):
        raise LedgerError(f"{folder} is no run folder: it holds no config.yaml.")
    resolved = config.validate(RunConfig, config.read_yaml(folder / "config.yaml"), f"{folder}/config.yaml: ")
    needed = [resolved.model.name] if "object" in resolved.model.params else []
    for registry, names in (
        (benchmarks, [resolved.benchmark]),
        (strategies, resolved.parts()),
        (models, needed),
    ):
        if missing := [name for name in names if not registry.knows(name)]:
            raise LedgerError(
                f"{folder} needs the {registry.kind} '{missing[0]}', which is not registered. Name the "
                "plugin it comes from with --plugin; if it was an object in memory, call clbench.run with it "
                "again."
            )
    with _said_in(folder / "config.yaml"):
        identity = identify(resolved)
    if identity.id != folder.name:
        raise LedgerError(
            f"{folder} was renamed, its config.yaml altered, or it was begun by other code: this version would call "
            f"the run {identity.id}. Continue it with the version that began it, or run it again."
        )
    kept = _kept(folder)
    if device is None:
        with _said_in(folder / EXECUTION):
            pick_device(kept.device)
    execution = kept.model_copy(update={"device": device}) if device else kept
    return start(resolved, execution, folder.parent, observers=observers)


@contextlib.contextmanager
def _said_in(path: Path) -> Iterator[None]:
    """Name the file that says what is wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _carry_out(engine: Engine, folder: Path, identity: Identity, log: _Log) -> Record:
    """Train from the first step, or the last checkpoint, to the record. The folder is ours alone."""
    ranks, env = engine.ranks, environment(str(engine.device), torch.get_num_threads())
    if engine.device.type == "cuda":
        env["device_name"] = torch.cuda.get_device_name(engine.device)
    if not ranks.alone:
        env["processes"] = ranks.size
    with deterministic(engine.execution.deterministic, engine.device):
        env["numerics"] = describe()
    if ranks.first:
        _describe(engine, folder, env)

    path, kind = folder / CHECKPOINT, engine.device.type
    of = {"id": identity.id, "device": kind, "processes": ranks.size}
    found = ranks.lead(lambda: checkpoint.read(path) if path.is_file() else b"")
    saved: dict[str, Any] = {**of, "run": None, "log": {"bytes": 0, "sha256": log.sha256()}}
    if found:
        saved = checkpoint.parse(found, path)
        _same_place(saved, of, path)
    if saved["run"] is not None:
        engine.load_state_dict(saved["run"])
    if ranks.first:
        log.cut(**saved["log"])

    def save() -> None:
        if ranks.first:
            state = engine.state_dict()  # which writes the last losses
            checkpoint.save(path, {**of, "run": state, "log": {"bytes": log.bytes(), "sha256": log.sha256()}})

    status: Literal["done", "diverged"] = "done"
    note = ""
    with stoppable(lambda: setattr(engine, "stop", True)):
        try:
            with log if ranks.first else contextlib.nullcontext():
                engine.fit(save)
        except DivergedError as error:
            status, note = "diverged", str(error)
        if engine.device.type == "cuda":
            env["gradients"] = engine.gradients.describe()
        if ranks.first:
            _conclude(engine, folder, identity, env, status, note)
            for name in MEANWHILE:
                (folder / name).unlink(missing_ok=True)
    record = _finished(ranks, folder, identity.id)
    if record is None:
        raise LedgerError(
            f"{folder} was removed before its record could be read; the same command runs it again."
        )
    return record


def _describe(engine: Engine, folder: Path, env: Mapping[str, Any]) -> None:
    """Write what runs, how and where, into its folder."""
    for part in folder.glob(".*.part"):  # of writes that were killed
        part.unlink()
    atomic_write(folder / "config.yaml", dump(engine.config.model_dump(mode="json"), sort_keys=False))
    atomic_write(folder / EXECUTION, pretty_json(engine.execution.model_dump(mode="json")))
    atomic_write(folder / "environment.json", pretty_json(dict(env)))


def _same_place(saved: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with another run's checkpoint, or where the bits would be others.

    Args:
        saved: the checkpoint. here: what it should say of run, device and processes.
    """
    if saved.get("id") != here["id"]:
        raise LedgerError(
            f"The checkpoint {path} is of the run {saved.get('id')}, not of {here['id']}. Put the right one back, or "
            "delete it to start from the beginning."
        )
    began, now, use = "", "", ""
    if saved["device"] != here["device"]:
        began, now, use = f"on {saved['device']}", f"on {here['device']}", f"--device {saved['device']}"
    elif saved["processes"] != here["processes"]:
        n = saved["processes"]
        began, now = f"with {n} process{'es' if n > 1 else ''}", f"with {here['processes']}"
        use = f"torchrun with {n} processes" if n > 1 else "clbench without torchrun"
    if began:
        raise LedgerError(
            f"{path.parent} began {began} and cannot go on to the same bits {now}; use {use}, or delete {path} to "
            "start from the beginning."
        )


def _conclude(
    engine: Engine,
    folder: Path,
    identity: Identity,
    env: dict[str, Any],
    status: Literal["done", "diverged"],
    note: str,
) -> None:
    """Write curve, weights and record into the run's folder."""
    curve, resolved = engine.evaluator.curve, engine.config
    benchmark = engine.benchmark
    domains = [exp.domain for exp in benchmark.test]
    said = {
        "notes": remarks(benchmark),
        "about": benchmark.notes,
        "primary": benchmark.primary,
        "metrics": list(benchmark.metrics),
        "domains": domains if all(domains) else [],
    }
    curve.save(folder / "curve.npz")
    checkpoint.save(folder / LAST, engine.model.state_dict())
    record = Record(
        id=identity.id,
        status=status,
        config=resolved.model_dump(mode="json"),
        benchmark=identity.benchmark | {key: value for key, value in said.items() if value},
        strategy=identity.strategy,
        model=identity.model,
        seeds=resolved.seeds.model_dump(),
        code=identity.code,
        environment=env,
        budget=engine.budget(),
        metrics=metrics.compute(curve) | metrics.compute(curve, (benchmark.primary, *benchmark.metrics)),
        evaluation=engine.evaluator.describe() | engine.branch.describe(),
        files=identity.files,
        curve_file={"file": "curve.npz", "sha256": curve.sha256()},
        selection=resolved.selection,
        note=note,
    )
    write_record(record, folder)


class _Log(Observer):
    """`log.jsonl`: one line per step with its losses, written in windows; what a resumed run repeats is cut
    off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._digest = hashlib.sha256()

    def __enter__(self) -> _Log:
        with writing(self.path):
            self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with writing(self.path):
                self._file.close()

    def cut(self, bytes: int, sha256: str) -> None:
        """Go back to what it held at a checkpoint.

        Raises:
            LedgerError: that is not what it holds.
        """
        with writing(self.path):
            if self.path.exists() and self.path.stat().st_size > bytes:
                os.truncate(self.path, bytes)
            if bytes:
                with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
                    while part := file.read(1 << 20):
                        self._digest.update(part)
        if self.sha256() != sha256:
            raise LedgerError(
                f"{self.path} was altered since the checkpoint was written. Put it back as it was, or delete "
                f"{self.path.with_name(CHECKPOINT)} to start from the beginning."
            )

    def sha256(self) -> str:
        """Return the SHA-256 of all that was written."""
        return self._digest.hexdigest()

    def bytes(self) -> int:
        assert self._file is not None
        with writing(self.path):
            self._file.flush()
            return self.path.stat().st_size

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        assert self._file is not None
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self._digest.update(text.encode())
        with writing(self.path):
            self._file.write(text)
            self._file.flush()  # so that it can be followed
