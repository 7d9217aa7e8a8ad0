"""Pretraining: an ordinary run whose backbone is kept, under a name that is its hash.

title: …                          a configuration is that of a run, with the benchmark and, unless it is
benchmark: split-cifar100         fine-tuning, the strategy named in it
stream: {classes: [0, 50], experiences: 1}
model: …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clbench import config
from clbench.config import Execution
from clbench.engine.observer import Observer
from clbench.errors import ConfigError, suggest
from clbench.files import atomic_write, check_place, expanded
from clbench.machine import checkpoint
from clbench.models import weights
from clbench.models.weights import Weights
from clbench.results.ledger import Record
from clbench.runs import building, lifecycle

FOLDER = "pretrain"


def read(name: str) -> dict[str, Any]:
    """Return a pretraining configuration: a shipped one by name, or a file.

    Raises:
        ConfigError: there is none.
    """
    shipped = config.config_file(FOLDER, f"{name}.yaml")
    file = shipped or expanded(name)
    if not file.is_file():
        known = config.shipped(FOLDER)
        raise ConfigError(
            f"There is no pretraining configuration {name}.{suggest(name, known)} Shipped: {', '.join(known)}; or name "
            "a YAML file."
        )
    tree = config.read_yaml(file)
    if not isinstance(tree.get("benchmark"), str):
        raise ConfigError(
            f"The pretraining configuration {name} must name a benchmark, as in `benchmark: split-cifar100`."
        )
    return tree


def pretrain(
    tree: Mapping[str, Any],
    *,
    seed: int = 0,
    out: str | Path | None = None,
    folder: str | Path | None = None,
    device: str = "auto",
    execution: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    settings: Mapping[str, Any] | None = None,
) -> tuple[Weights, Record]:
    """Run a pretraining configuration, or find it run, and write its backbone.

    Args:
        tree: a configuration, of `read`.
        out: folder for run folders. folder: for weights; `CLBENCH_WEIGHTS` or `weights/` if None.
        settings: by key, over the configuration.

    Raises:
        ClbenchError: bad input, or a run that diverged.
    """
    file = {key: value for key, value in tree.items() if key != "title"}
    benchmark, strategy = file.pop("benchmark"), file.pop("strategy", "finetune")
    resolved = config.resolve(benchmark, strategy, settings or {}, seed=seed, file=file)
    how: Execution = config.validate(Execution, {"device": device, **(execution or {})})
    place = weights.weights_folder(folder)
    check_place(place / f"weights{weights.SUFFIX}", file=True)
    record = lifecycle.start(resolved, how, lifecycle.runs_folder(out), observers=observers)
    assert record.folder is not None
    if record.status != "done":
        raise ConfigError(f"The pretraining run {record.folder} has {record.status}: {record.note}")
    state = checkpoint.load(record.folder / "model.safetensors")
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in state.items()
        if name.startswith("backbone.")
    }
    about = {
        "model": record.config["model"],
        "input_shape": list(building.make_benchmark(benchmark, **resolved.stream).input_shape),
        "substrate": substrate(record),
        "benchmark": {key: record.benchmark[key] for key in ("name", "version", "fingerprint")},
        "run": record.id,
    }
    written = weights.write(backbone, about, place)
    atomic_write(written.path.with_suffix(".record.json"), record.to_json())
    return written, record


def substrate(record: Record) -> str:
    """Return what a pretraining run has learned from, in a line: model, data, length, accuracy."""
    conf = record.config
    stream = ", ".join(
        f"{k} {v}" for k, v in conf["stream"].items() if k in ("classes", "experiences") and v is not None
    )
    accuracy = record.metrics.get("average_accuracy")
    reached = "" if accuracy is None else f", {100 * accuracy:.1f} % on its test set"
    length = f"{record.budget['steps']:,} steps of {conf['train']['batch_size']}"
    start = f" from {weights.id_of(record.model['weights'])}" if "weights" in record.model else ""
    return (
        f"{conf['model']['name']}{start} trained with {conf['strategy']} on {conf['benchmark']}"
        f"{f' ({stream})' if stream else ''}, {length}{reached}"
    )
