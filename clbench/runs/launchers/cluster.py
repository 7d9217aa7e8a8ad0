"""Runs on a Ray cluster: one machine or many (extra `ray`).

Every machine needs this code and sees the folder of run folders under the same name: checkpoints and records
go there, so a run whose machine dies goes on elsewhere, from its last checkpoint, to the same bits.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import BusyError, ConfigError, LedgerError
from clbench.files import locked, writing
from clbench.machine.stopping import kept, stoppable
from clbench.results.ledger import has_record
from clbench.runs.launchers.base import Job, Launcher, Limits, hear, timed_out

if TYPE_CHECKING:
    from clbench.runs.cells import Cell

PASSED_ON = ("CLBENCH_DATA", "CLBENCH_WEIGHTS", "OMP_WAIT_POLICY", "WANDB_MODE")
"""Variables of the environment that runs see as the one who started the suite does."""

LOCK_SECONDS = 60.0
"""How long a run that is started again waits for the process that was lost to let its folder go."""


@dataclass(frozen=True)
class Ray(Launcher):
    """As many runs at a time as the cluster's cores and GPUs bear.

    Attributes:
        address: that of a running cluster, `auto` for the one this machine is part of; None starts one on this machine.
        cpus: cores of each run; None is as many as its threads.
        gpus: share of each run; 0.25 puts four runs on one.
        limits: those of each run. Ray starts a run again whose process or machine died.
    """

    address: str | None = None
    cpus: int | None = None
    gpus: float = 0.0
    limits: Limits = field(default_factory=lambda: Limits(retries=3))

    def launch(self, jobs: Sequence[tuple[Cell, Job]], watch: Callable[[], None]) -> None:
        """Carry out all jobs on the cluster."""
        ray = _ray()
        with _connected(ray, self.address), _witness(jobs[0][1].root) as witness:
            self._refuse_what_never_starts(ray, max(self._cores(job) for _, job in jobs))
            here = ray.get_runtime_context().get_node_id()
            pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
            news = ray.remote(num_cpus=0, scheduling_strategy=pinned)(_News).remote()
            work, running = ray.remote(_work), {}
            for cell, job in jobs:
                shares = {"num_cpus": self._cores(job), "num_gpus": self.gpus}
                how = {"max_retries": self.limits.retries, "scheduling_strategy": "SPREAD"}
                running[work.options(**shares, **how).remote(job, witness, news)] = (cell, job)
            stop: list[bool] = []
            try:
                with stoppable(lambda: stop.append(True)):
                    self._follow(ray, running, news, watch, stop)
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)

    def _cores(self, job: Job) -> int:
        return self.cpus or job.resolved.threads

    def _refuse_what_never_starts(self, ray: Any, cores: int) -> None:
        """Ray waits for ever for a machine that is large enough."""
        less = "--cpus" if self.cpus else "--threads"
        asked = ("CPU", cores, "cores", less), ("GPU", self.gpus, "GPUs", "--gpus")
        for what, wanted, unit, option in asked:
            largest = max(node["Resources"].get(what, 0) for node in ray.nodes() if node["Alive"])
            if wanted > largest:
                raise ConfigError(
                    f"A run wants {wanted:g} {unit}, and no machine of the cluster has more than {largest:g}; "
                    f"lower {option}."
                )

    def _follow(
        self,
        ray: Any,
        running: dict[Any, tuple[Cell, Job]],
        news: Any,
        watch: Callable[[], None],
        stop: Sequence[bool],
    ) -> None:
        cells = {cell.id: cell for cell, _ in running.values()}
        began: dict[str, float] = {}
        asked = False
        while running:
            if stop and not asked:
                asked = True
                for reference in running:  # an interrupt, where it runs: it ends with a checkpoint
                    ray.cancel(reference, force=False)
            ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0.5)
            for id, key, value in ray.get(news.take.remote()):
                if key == "began":
                    cells[id].state, cells[id].attempts = "running", cells[id].attempts + 1
                    began[id] = time.monotonic()
                else:
                    hear(cells[id], key, value)
            for reference in ended:
                cell, job = running.pop(reference)
                _conclude(ray, reference, cell, job)
            for reference, (cell, _) in running.items():
                seconds = self.limits.seconds
                if seconds and cell.state == "running" and time.monotonic() - began[cell.id] > seconds:
                    timed_out(cell, seconds)
                    ray.cancel(reference, force=True)
            watch()


def _conclude(ray: Any, reference: Any, cell: Cell, job: Job) -> None:
    """Take down what became of a run that has ended."""
    from clbench.runs.cells import settle

    problem = ""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # raised in the job: the last line says what
        problem = str(error).strip().splitlines()[-1]
    except ray.exceptions.RayError as error:  # its process or its machine is gone
        problem = (str(error) or type(error).__name__).strip().splitlines()[0]
    if has_record(job.root / job.id):
        settle(cell, job.root)
    elif cell.state not in ("failed", "timeout"):
        cell.state = "failed"
        cell.message = problem or cell.message or "it ended before there was a record"


class _News:
    """An actor beside the one who started the suite: what runs have told and he has not yet taken."""

    def __init__(self) -> None:
        self._told: list[tuple[str, str, Any]] = []

    def tell(self, id: str, key: str, value: Any) -> None:
        self._told.append((id, key, value))

    def take(self) -> list[tuple[str, str, Any]]:
        told, self._told = self._told, []
        return told


def _work(job: Job, witness: Path, news: Any) -> None:
    """Carry out a run in a worker of the cluster."""
    ray = _ray()
    if not witness.is_file():
        address = ray.util.get_node_ip_address()
        raise LedgerError(
            f"The machine {address} does not see {job.root}, where runs are kept; --out must name a folder that all "
            "machines of the cluster share."
        )

    def tell(key: str, value: Any) -> None:
        told = news.tell.remote(job.id, key, value)
        if key in ("failed", "busy"):
            ray.get(told)  # before this process may end

    tell("began", None)
    _wait_for_the_lost(job.root / job.id)
    job.carry_out(tell)


def _wait_for_the_lost(folder: Path) -> None:
    """Wait for a process of a machine that was given up, which may still hold the run's folder."""
    until = time.monotonic() + LOCK_SECONDS
    while folder.is_dir():
        try:
            with locked(folder, f"Run {folder}"):
                return
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@contextmanager
def _witness(root: Path) -> Iterator[Path]:
    """Keep a file by which workers see whether they share the folder of run folders."""
    path = root / f".cluster-{uuid.uuid4().hex}"
    with writing(path):
        path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _ray() -> Any:
    # Ray reports its use to its makers unless told not to; a benchmark that phones home would surprise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ConfigError("The launcher 'ray' needs Ray: pip install 'clbench[ray]'.") from error
    import ray.util.scheduling_strategies

    loaded: Any = ray
    return loaded


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():  # by a program that uses this package
        yield
        return
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    given = {"runtime_env": {"env_vars": passed}, "log_to_driver": False, "logging_level": "error"}
    if address is None:
        given["include_dashboard"] = False
    try:
        with kept():  # Ray takes SIGTERM
            ray.init(address=address or "local", **given)
    except ConnectionError as error:
        raise ConfigError(
            f"There is no Ray cluster at '{address}': {str(error).splitlines()[0]} Start one (`ray start --head`), "
            "or leave --address out to use this machine alone."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
