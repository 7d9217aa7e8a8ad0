"""What a strategy holds beside the network, against the budget of the run."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn

from clbench.engine.costs import memories_of
from clbench.errors import IncompatibleError
from clbench.machine.checkpoint import tree_map
from clbench.memory import Memory
from clbench.strategy import Run

ADDED = "added to the network"


def weight_bytes(model: nn.Module | None) -> int:
    """Bytes of all parameters and buffers; each counts once."""
    return 0 if model is None else sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


class Holding:
    """Counts what a strategy holds, by kind: what its parts keep, and what they have added to the network.

    A memory counts as full, with as many examples as it may hold and the stream brings; `memory_bytes` of a record
    does, too. A tensor that is held twice, or is the network's own, counts once.

    Attributes:
        most: bytes at most, over all looks.
    """

    def __init__(self, run: Run, bare: int) -> None:
        """Begin to count.

        Args:
            run: whose strategy it is. bare: bytes of the network without what parts have added.
        """
        self.run, self.bare = run, bare
        self.offered = sum(len(exp) for exp in run.train)
        self.most = 0

    def look(self) -> None:
        """Count what is held now.

        Raises:
            IncompatibleError: it is more than the budget; names each kind and the largest memory that fits.
        """
        kinds = self.kinds()
        total, budget = sum(kinds.values()), self.run.config.memory_budget
        if budget is not None and total > budget:
            named = ", ".join(f"{name} {size:,}" for name, size in kinds.most_common() if size)
            raise IncompatibleError(
                f"{self.run.strategy} would hold {total:,} bytes beside its network ({named}), and memory_budget "
                f"grants {budget:,}. {self._fix(total, budget)}"
            )
        self.most = max(self.most, total)

    def kinds(self) -> Counter[str]:
        """Return the bytes of each kind, by the parts and the names that they give it."""
        run, found = self.run, Counter[str]()
        found[ADDED] = max(weight_bytes(run.model) - self.bare, 0)
        memories = memories_of(run.strategy)
        parts = [(type(part).__name__, part) for part in run.strategy.parts]
        names = {id(of): f"{kind}.{name}" for kind, part in parts for name, of in vars(part).items()}
        for memory in memories:
            found[names[id(memory)]] += self._rows(memory) * memory.row
        counted = {tensor.data_ptr() for tensor in (*run.model.parameters(), *run.model.buffers())}
        counted.update(*(memory.place[1:] for memory in memories))

        def count(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in counted:
                counted.add(tensor.data_ptr())
                found[name] += tensor.nbytes
            return tensor

        for kind, part in parts:
            for key, value in part.state_dict().items():
                name = f"{kind}.{key}"  # which count() adds to
                tree_map(count, value)
        return found

    def _rows(self, memory: Memory) -> int:
        return min(memory.capacity, self.offered)

    def _fix(self, total: int, budget: int) -> str:
        """Return what to give in place of it."""
        memories = [memory for memory in memories_of(self.run.strategy) if memory.row]
        if len(memories) == 1:
            (memory,) = memories
            fits = (budget - total) // memory.row + self._rows(memory)
            granted = {params.get("memory") for params in self.run.config.params.values()}
            said = f"memory={fits}" if memory.capacity in granted else f"A memory of {fits} examples"
            if fits > 0:
                return f"{said} is the largest that fits beside the rest."
        return f"Give memory_budget={total} or more, or let it hold less."
