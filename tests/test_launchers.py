"""Launchers: what becomes of runs whose process or machine dies, that take too long, or never could start."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clbench.config import Execution
from clbench.errors import ConfigError
from clbench.runs import suite
from clbench.runs.cells import Cell
from clbench.runs.launchers import Job, Limits, Local, Ray

SETTINGS = {"epochs": 1, "hidden": [8], "experiences": 2, "evaluation.every": 20}
HOW = Execution(device="cpu", checkpoint_seconds=0.0)
PLUGIN = """# Once, at step 30, something goes wrong.
import os, time
from pathlib import Path
from clbench import Strategy, register
from clbench.parts import CrossEntropy

class Trouble(CrossEntropy):
    def __init__(self, mark, how):
        super().__init__()
        self.mark, self.how = Path(mark), how
    def losses(self, batch, out):
        if self.run.step == 30 and not self.mark.exists():
            self.mark.touch()
            if self.how == 'die': os._exit(9)
            time.sleep(60)
        return super().losses(batch, out)

@register('trouble')
def trouble(mark: str, how: str) -> Strategy:
    return Trouble(mark, how)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    from clbench.registry import load_plugin

    file = tmp_path_factory.mktemp("plugins") / "trouble.py"
    file.write_text(PLUGIN)
    load_plugin(str(file))
    return str(file)


def trouble(mark: Path, how: str = "die") -> dict[str, Any]:
    return {"name": "trouble", "settings": {"mark": str(mark), "how": how}}


def planned(*strategies: Any, seeds: int = 1) -> list[Cell]:
    given = {
        "strategies": list(strategies),
        "benchmarks": ["split-digits"],
        "seeds": seeds,
        "settings": SETTINGS,
    }
    return suite.plan(suite.validate(suite.SuiteConfig, given))


def bits(root: Path, cells: list[Cell]) -> list[str]:
    """Of every cell, a hash of its final weights and of its curve."""
    files = [root / cell.id / name for cell in cells for name in ("model.safetensors", "curve.npz")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


# --- this machine ---


def test_a_run_whose_process_dies_goes_on_to_the_same_bits(tmp_path: Path, plugin: str) -> None:
    strategy = trouble(tmp_path / "mark")
    died, undisturbed = planned(strategy), planned(strategy)
    suite.run(died, tmp_path / "a", HOW, launcher=Local(1, Limits(retries=1)), plugins=[plugin])
    suite.run(undisturbed, tmp_path / "b", HOW, launcher=Local(1), plugins=[plugin])
    assert (died[0].state, died[0].attempts, undisturbed[0].attempts) == ("done", 2, 1)
    assert bits(tmp_path / "a", died) == bits(tmp_path / "b", undisturbed)


def test_a_run_is_not_started_more_often_than_it_may(tmp_path: Path, plugin: str) -> None:
    cells = planned(trouble(tmp_path / "mark"))
    suite.run(cells, tmp_path, HOW, launcher=Local(1, Limits(retries=0)), plugins=[plugin])
    assert cells[0].state == "failed"
    assert cells[0].message == "its process ended with code 9 before there was a record"


def test_a_run_that_hangs_is_ended_at_its_limit_and_goes_on_the_next_time(
    tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    hung, again = planned(trouble(mark, "hang")), planned(trouble(mark, "hang"))

    class Clock:
        """An hour has passed once the run hangs."""

        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + 3600 * mark.exists()

    monkeypatch.setattr("clbench.runs.launchers.local.time", Clock)
    suite.run(hung, tmp_path, HOW, launcher=Local(1, Limits(seconds=600)), plugins=[plugin])
    assert (hung[0].state, hung[0].attempts) == ("timeout", 1)
    assert hung[0].message.startswith("ended at its limit of 600 s")
    assert (tmp_path / hung[0].id / "checkpoint.safetensors").is_file()
    suite.run(again, tmp_path, HOW, launcher=Local(1), plugins=[plugin])
    assert again[0].state == "done"


def test_runs_are_forked_with_the_modules_of_what_they_are_made_of(tmp_path: Path, plugin: str) -> None:
    jobs = [Job("id", cell.resolved, HOW, tmp_path) for cell in planned("er+ema", trouble(tmp_path))]
    shared = ["clbench.benchmarks.split", "clbench.models.own"]
    assert [job.modules() for job in jobs] == [
        ["clbench.strategies.er", "clbench.strategies.ema", *shared],
        shared,
    ]


# --- several on one device ---


def test_runs_side_by_side_have_the_bits_of_each_alone(tmp_path: Path) -> None:
    """Seeds that share a device, here its cores, a thread each."""
    together, alone = planned("er", seeds=3), planned("er", seeds=3)
    suite.run(together, tmp_path / "together", HOW, launcher=Local(3))
    suite.run(alone, tmp_path / "alone", HOW, launcher=Local(1))
    assert [cell.state for cell in (*together, *alone)] == ["done"] * 6
    assert bits(tmp_path / "together", together) == bits(tmp_path / "alone", alone)


def test_runs_take_turns_among_gpus_and_share_each_ones_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def places(device: str, **how: Any) -> list[tuple[str, float | None]]:
        return [(place.device, place.memory) for place in Local(**how)._places(device)]

    assert places("auto", per_gpu=2) == [("cuda:0", 0.5), ("cuda:1", 0.5)] * 2
    assert places("cuda:1", per_gpu=4) == [("cuda:1", 0.25)] * 4
    assert places("cuda", per_gpu=2, workers=3) == [("cuda:0", 0.5), ("cuda:1", 0.5), ("cuda:0", 0.5)]
    assert places("cuda", workers=3) == [("cuda", None)] * 3


def test_runs_have_their_threads_and_no_more_cores_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clbench.runs.launchers.local.cores", lambda: 8)
    assert [len(Local()._places("cpu", threads)) for threads in (1, 3, 16)] == [8, 2, 1]
    assert len(Local(workers=5)._places("cpu", 4)) == 5


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_there_must_be_a_gpu_to_share(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device '{device}' is the CPU here; --workers says how many"):
        suite.run(planned("er"), tmp_path, Execution(device=device), launcher=Local(per_gpu=2))


# --- a cluster ---

FAST_NEWS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of two machines with a core each, on this one; the driver's has none."""
    pytest.importorskip("ray", reason="the extra clbench[ray] is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": FAST_NEWS},
    )
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


pytestmark = pytest.mark.filterwarnings("ignore:::ray", "ignore::ResourceWarning")


@pytest.mark.slow
def test_a_cluster_gives_the_bits_of_one_process_also_when_a_machine_dies(
    tmp_path: Path, cluster: Any
) -> None:
    here, there = planned("finetune", "er", seeds=2), planned("finetune", "er", seeds=2)
    suite.run(here, tmp_path / "here", HOW, launcher=Local(1))
    killed = threading.Event()

    def watch(cells: Any) -> None:
        if not killed.is_set() and any(c.state == "running" and c.steps > 20 for c in cells):
            killed.set()
            cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    launcher = Ray(address=cluster.address)
    suite.run(there, tmp_path / "there", HOW, launcher=launcher, watch=watch)
    assert killed.is_set()
    assert {str(cell): cell.state for cell in there} == {str(cell): "done" for cell in here}
    assert max(cell.attempts for cell in there) > 1
    assert bits(tmp_path / "there", there) == bits(tmp_path / "here", here)


@pytest.mark.slow
def test_a_cluster_ends_what_takes_too_long_and_refuses_what_never_starts(
    tmp_path: Path, plugin: str, cluster: Any
) -> None:
    cells = planned(trouble(tmp_path / "mark", "hang"))
    launcher = Ray(address=cluster.address, limits=Limits(seconds=10))
    began = time.monotonic()
    suite.run(cells, tmp_path, HOW, launcher=launcher, plugins=[plugin])
    assert cells[0].state == "timeout"
    assert time.monotonic() - began < 50
    with pytest.raises(ConfigError, match=r"wants 64 cores, and no machine .* more than 1; lower --cpus"):
        suite.run(planned("er"), tmp_path, HOW, launcher=Ray(address=cluster.address, cpus=64))
