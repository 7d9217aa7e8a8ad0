"""Cases of `test_parallel.py`, run alone or by each process that torchrun starts: `together.py FOLDER CASES.json`.

A case is carried out on the tiny benchmark; its weights, counts and memories go to `FOLDER/<case>-<rank>.safetensors`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clbench import checkpoint, make_strategy, parallel
from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.engine import Run
from clbench.errors import ClbenchError
from clbench.strategy import check_needs
from clbench.testing import tiny_benchmark, tiny_model

EXPERIENCES, EXAMPLES, BATCH = 3, 45, 16  # 45 = 16 + 16 + 13, an odd number


def run_of(case: Mapping[str, Any], ranks: parallel.Ranks = parallel.ALONE) -> Run:
    """The engine of a case: `strategy`, `params`, `norm`, `benchmark`, `train`, `precision`, `device`."""
    given = {"experiences": EXPERIENCES, "examples": EXAMPLES, "images": True, **case.get("benchmark", {})}
    benchmark = tiny_benchmark(**given)
    strategy = make_strategy(case["strategy"], **case.get("params", {}))
    check_needs(strategy, "tiny@1", benchmark.setting.offers())
    config = RunConfig(
        benchmark="tiny",
        strategy=case["strategy"],
        optim=OptimConfig(lr=0.05, momentum=0.9),
        train=TrainConfig(**{"batch_size": BATCH, "epochs": 2, **case.get("train", {})}),
        evaluation=EvaluationConfig(every=3),
        precision=case.get("precision", "fp32"),
        seeds=Seeds(order=0, init=0, data=0),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model(benchmark, norm=case.get("norm", False))
    execution = Execution(device=case.get("device", "cpu"), checkpoint_seconds=None)
    return Run(benchmark, strategy, model, config, execution, ranks=ranks)


def outcome(run: Run) -> dict[str, Tensor]:
    """What a run has come to: weights, counts of the curve, losses and examples of the curve, memories, forwards."""
    curve = run.evaluator.curve
    found = {f"model/{name}": value.float() for name, value in run.model.state_dict().items()}
    found |= {
        f"curve/{name}": torch.from_numpy(getattr(curve, name).astype("float64"))
        for name in ("correct", "loss")
    }
    for i, memory in enumerate(run._memories()):
        columns = memory.state_dict()["columns"]
        found |= {f"memory/{i}/{name}": rows.double() for name, rows in columns.items()}
    found["forwards"] = torch.tensor(float(run.forwards))
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    folder, ranks = Path(sys.argv[1]), parallel.join()
    for name, case in json.loads(Path(sys.argv[2]).read_text()).items():
        path = folder / f"{name}-{ranks.rank}"
        try:
            run = run_of(case, ranks)
            run.fit()
        except ClbenchError as error:
            path.with_suffix(".txt").write_text(str(error))
            continue
        checkpoint.save(path.with_suffix(".safetensors"), outcome(run))


if __name__ == "__main__":
    main()
