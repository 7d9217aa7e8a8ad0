"""What `test_parallel.py` has several processes do: `together.py FOLDER`, started by torchrun or alone.

`FOLDER/cases.json` holds cases, name → what differs from `run_of`'s defaults. Each is carried out on the tiny
benchmark; what it comes to goes to `FOLDER/<case>-<rank>.safetensors`, or the message of its refusal to `.txt`. With
`FOLDER/scenarios.json`, a list, those functions of this file are called as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import clbench
from clbench import (
    Batch,
    Classifier,
    Strategy,
    chain,
    checkpoint,
    make_strategy,
    parallel,
    register,
)
from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.engine import Run
from clbench.errors import ClbenchError, LedgerError
from clbench.observer import Observer
from clbench.parts import CrossEntropy
from clbench.testing import tiny_benchmark, tiny_model

ALONE_TOO = {
    "epochs": 1,
    "batch_size": 16,
    "model": "mlp",
    "hidden": [16],
    "evaluation.subset": 20,
    "lr": 0.05,
}


class Unlike(Strategy):
    """Says that it is the same in every process, and is not."""

    parallel = True

    def extend(self, batch: Batch) -> Batch:
        return batch.with_x(batch.x + parallel.join().rank)


@register("unlike")
def unlike() -> Strategy:
    """For tests."""
    return chain(CrossEntropy(), Unlike())


def network(kind: str, inputs: int, classes: int) -> Classifier | None:
    """Other networks than the tiny one: `maps` with batch normalisation of feature maps, `noisy` with dropout."""
    if kind == "maps":
        norms = nn.BatchNorm2d(4), nn.BatchNorm1d(16, momentum=None, affine=False)
        body = [
            nn.Conv2d(1, 4, 3, padding=1),
            norms[0],
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * inputs, 16),
            norms[1],
        ]
        return Classifier(nn.Sequential(*body), 16, classes)
    if kind == "noisy":
        return Classifier(
            nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(0.5)), 16, classes
        )
    return None


def run_of(case: Mapping[str, Any], ranks: parallel.Ranks = parallel.ALONE) -> Run:
    """The engine of a case: `strategy`, `params`, `network`, and fields of the configuration's sections."""
    given = {
        "experiences": 3,
        "examples": 45,
        "images": True,
        **case.get("benchmark", {}),
    }  # 45 = 16 + 16 + 13
    benchmark = tiny_benchmark(**given)
    config = RunConfig(
        benchmark="tiny",
        strategy=case["strategy"],
        optim=OptimConfig(**{"lr": 0.02, "momentum": 0.9, **case.get("optim", {})}),
        train=TrainConfig(**{"batch_size": 16, "epochs": 2, **case.get("train", {})}),
        evaluation=EvaluationConfig(every=3, **case.get("evaluation", {})),
        precision=case.get("precision", "fp32"),
        seeds=Seeds(order=0, init=0, data=0),
    )
    kind = case.get("network", "plain")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network(kind, 16, benchmark.num_classes) or tiny_model(benchmark, norm=kind == "norm")
    execution = Execution(device="cpu", checkpoint_seconds=None, **case.get("execution", {}))
    strategy = make_strategy(case["strategy"], **case.get("params", {}))
    return Run(benchmark, strategy, model, config, execution, ranks=ranks)


def outcome(run: Run) -> dict[str, Tensor]:
    """What a run has come to: weights, counts and losses of the curve, memories, forward passes."""
    curve = run.evaluator.curve
    found = {f"model/{name}": value for name, value in run.model.state_dict().items()}
    found |= {f"curve/{name}": torch.tensor(getattr(curve, name)) for name in ("step", "correct", "loss")}
    for i, part in enumerate(run.strategy.parts):
        state: list[Tensor] = []
        checkpoint.tree_map(lambda tensor, kept=state: kept.append(tensor) or tensor, part.state_dict())  # type: ignore[misc]
        found |= {f"part/{i}/{n}": tensor for n, tensor in enumerate(state)}
    found["forwards"] = torch.tensor(float(run.forwards))
    return {name: value.detach().cpu().double().contiguous().clone() for name, value in found.items()}


# --- scenarios: whole runs, with their folders ---


class StopAt(Observer):
    """Asks for an end at a step, as Ctrl-C or a time limit would; the first process alone has observers."""

    def __init__(self, step: int) -> None:
        self.step = step

    def begin(self, run: Run) -> None:
        run.until = self.step


def whole(folder: Path, name: str, **how: Any) -> dict[str, Any]:
    """A run on a tiny benchmark in `FOLDER/name`: its record, or what ended it."""
    how = {"strategy": "derpp", "memory": 20, **ALONE_TOO, **how}
    benchmark = tiny_benchmark(images=True, examples=45)
    try:
        record = clbench.run(benchmark, how.pop("strategy"), out=folder / name, device="cpu", **how)
    except KeyboardInterrupt:
        return {"ended": "interrupted"}
    except ClbenchError as error:
        return {"ended": str(error)}
    return json.loads(record.to_json())


def runs(folder: Path) -> dict[str, Any]:
    """Straight through, again, interrupted and continued, diverged, refused, and left in the middle."""
    often = {"checkpoint_seconds": 0, "threads": 1}
    return {
        "straight": whole(folder, "straight"),
        "again": whole(folder, "straight"),
        "interrupted": whole(folder, "stopped", execution=often, observers=[StopAt(5)]),
        "continued": whole(folder, "stopped", execution=often),
        "diverged": whole(folder, "diverged", lr=1e30),
        "refused": whole(folder, "refused", strategy="mir"),
        "left": whole(folder, "left", execution=often, observers=[StopAt(4)]),
    }


def noise(folder: Path) -> list[list[float]]:
    """The mean over features of each row of ones (6, 64) after dropout, twice."""
    ranks, drop = parallel.join(), nn.Dropout(0.5)
    torch.manual_seed(0)
    with ranks.sharing():
        return [
            ranks.through(lambda x: (drop(x), x[:, :1]), drop, torch.ones(6, 64))[0].mean(1).tolist()
            for _ in "12"
        ]


def relay(folder: Path) -> str:
    """What a process hears when the first one fails."""

    def fails() -> bytes:
        raise LedgerError("in other hands")

    try:
        parallel.join().lead(fails)
    except ClbenchError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


SCENARIOS = {"runs": runs, "noise": noise, "relay": relay}


def main() -> None:
    torch.set_num_threads(1)
    folder, ranks = Path(sys.argv[1]), parallel.join()
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        path = folder / f"{name}-{ranks.rank}"
        try:
            run = run_of(case, ranks)
            run.fit()
        except ClbenchError as error:
            path.with_suffix(".txt").write_text(str(error))
            continue
        checkpoint.save(path.with_suffix(".safetensors"), outcome(run))
    for name in json.loads((folder / "scenarios.json").read_text()):
        (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(SCENARIOS[name](folder)))


if __name__ == "__main__":
    os.fsync = lambda fd: None  # nobody cuts the power
    main()
