"""What a run has cost."""

from __future__ import annotations

import resource
import sys

import torch

from clbench.machine.checkpoint import nbytes
from clbench.memory import Memory
from clbench.strategy import Run, Strategy


def memories_of(strategy: Strategy) -> list[Memory]:
    """Return the stores of all parts; one that parts share counts once."""
    values = [value for part in strategy.parts for value in vars(part).values()]
    return list({id(value): value for value in values if isinstance(value, Memory)}.values())


def costs(run: Run) -> dict[str, float | int]:
    """Return what a run has counted and holds, units in the names; all but time and energy."""
    memories = memories_of(run.strategy)
    offered = sum(len(exp.data) for exp in run.train)
    held = [min(memory.capacity, offered) for memory in memories]  # no more than the whole stream
    bytes_held = [m.nbytes * n // max(m.capacity, 1) for m, n in zip(memories, held, strict=True)]
    parameters = list(run.model.parameters())
    return {
        "steps": run.step,
        "updates": run.updates,
        "stream_examples": run.examples,
        "forward_examples": run.forwards,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "memory_examples": sum(held),
        "memory_bytes": sum(bytes_held),
        "strategy_state_bytes": nbytes([part.state_dict() for part in run.strategy.parts]),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most, on the GPU where it is on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
