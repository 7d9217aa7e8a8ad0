"""The counts of one tick, from a snapshot of the weights: here, or in another process that knows no run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.evaluation.forward import RANGED, Forward, kernels
from clbench.evaluation.speed.racing import Race, Request
from clbench.evaluation.testset import TestSet
from clbench.machine.caching import Kept
from clbench.machine.device import sent
from clbench.machine.graphs import CudaGraphs, sync_debug
from clbench.machine.parallel import ALONE, Ranks
from clbench.types import IGNORED, MASKED


@dataclass(frozen=True)
class Tick:
    """When: steps and stream examples so far, the experience; and whether all examples are wanted, or a comparison."""

    step: int
    examples: int
    experience: int
    whole: bool
    check: bool


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        counts: (2, S) float64, correct and summed loss of each stream; (4, S) with the rows of `ranked`.
        totals: examples of each stream that were evaluated; None for all of them.
        refined: (stream, step, correct, total, loss) of earlier ticks of which more was evaluated now.
        check: (3, S) float64, where the tick was compared with `exact`: examples judged differently, and examples that
            are right by this forward pass and by the exact one.
        seconds: that another process spent on it.
    """

    counts: Tensor
    totals: list[int] | None = None
    refined: tuple[tuple[int, int, int, int, float], ...] = ()
    check: Tensor | None = None
    seconds: float = 0.0


Helper = Callable[[Tensor], Callable[[], Tensor] | None]
"""Takes on the values at rows (n,) of the tick's weights and returns what waits for them; None if it has no time."""

RANKS = 10
"""How far down a ranking is looked."""
ROUNDED = float(torch.tensor(MASKED, dtype=torch.bfloat16))
"""`MASKED` as a head that computes in bfloat16 writes it; the other precisions have it exactly."""


def ranked(logits: Tensor, right: Tensor, exposed: Tensor | None) -> Tensor:
    """(4, B) float64: whether a right answer comes first, the loss, whether one is among the first ten, and 1 / rank of
    the first right answer if it is among them, 0 if not.

    Only classes with a score above the mask are found and have a rank; the others, those that a beam search has not met
    for example, are behind all of them and count as wrong. Wrong answers come before right ones of the same score, as
    any other order could only hang on the classes' numbers. The loss is that of the first right label.

    Args:
        logits: (B, C) scores. right: (B, 1 + R) right classes, −1 where there are fewer. exposed: (C,) bool, the
            classes that are answers; None for all.
    """
    answers = torch.ones_like(logits[0], dtype=torch.bool) if exposed is None else exposed
    masked = logits.masked_fill(~answers, MASKED)
    loss = F.cross_entropy(masked, right[:, 0], reduction="none").double()
    scores = torch.where((masked > MASKED) & (masked != ROUNDED), masked, -torch.inf)
    there = torch.where(right < 0, right[:, :1], right)  # (B, 1 + R)
    best = scores.gather(1, there).amax(1)  # (B,)
    wrong = scores.scatter(1, there, -torch.inf)
    rank = 1 + (wrong >= best[:, None]).sum(1)
    found = (best > -torch.inf) & (rank <= RANKS)
    return torch.stack([(found & (rank == 1)).double(), loss, found.double(), found / rank.double()])


def named(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) bool: whether the scores (B, C) name the class y (B,): it scores higher than every other one.

    Equal highest scores name no class: which one would be, could only hang on the classes' numbers.
    """
    own = logits.gather(1, y[:, None])
    return (logits < own).sum(1) == logits.shape[1] - 1


def tallied(logits: Tensor, y: Tensor) -> Tensor:
    """(2, B) float64 of blocks of tokens: how many labels are named, and their summed loss in nats.

    Args:
        logits: (B, L, V) scores. y: (B, L) labels; `IGNORED` ones do not count.
    """
    flat, labels = logits.flatten(0, 1), y.flatten()
    counts = labels != IGNORED
    right = named(flat, labels.clamp(min=0)) & counts
    loss = F.cross_entropy(flat, labels, ignore_index=IGNORED, reduction="none")  # 0 where it does not count
    return torch.stack([right.double(), loss.double()]).view(2, *y.shape).sum(2)


class Layout:
    """How the tensors of a snapshot lie in one block of bytes."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.shapes = [w.shape for w in weights]
        self.dtypes = [w.dtype for w in weights]
        self.starts, self.nbytes = [], 0
        for w in weights:
            self.starts.append(self.nbytes)
            self.nbytes += -(-w.nbytes // 64) * 64  # aligned as if each were alone

    def views(self, block: Tensor) -> list[Tensor]:
        """Return the tensors in a block (nbytes,) uint8."""
        return [
            block[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for start, shape, dtype in zip(self.starts, self.shapes, self.dtypes, strict=True)
        ]

    def fits(self, weights: Sequence[Tensor]) -> bool:
        return self.shapes == [w.shape for w in weights]


class Ticker:
    """Evaluates ticks with one forward pass, and sometimes a second one to compare with.

    Args:
        forward: the network; exact: another one to compare with at ticks that ask for it.
        portion, exact_portion: examples in one pass of each.
        race: decides how much to evaluate; None evaluates all.
        weights: of the network now, for their shapes; only where a race looks back.
        ranks: the processes that share the examples; without a race.
    """

    def __init__(
        self,
        forward: Forward,
        portion: int,
        *,
        exact: Forward | None = None,
        exact_portion: int = 64,
        race: Race | None = None,
        weights: Sequence[Tensor] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.forward, self.portion = forward, portion
        self.exact, self.exact_portion = exact, exact_portion
        self.race = race
        self.layout = Layout(weights)
        self.ring: deque[Tensor] = deque(maxlen=race.reach if race is not None else 1)  # newest first
        self.test: TestSet | None = None
        self.exact_test: TestSet | None = None
        self.graph: Callable[[], Tensor] | None = None  # on a GPU: the whole pass as one launch
        self.loading: tuple[list[int], Callable[[], None]] | None = None  # and the load, from those addresses
        self.helper: Helper | None = None
        self.kept = Kept()

    @property
    def looks_back(self) -> bool:
        return self.race is not None and self.race.reach > 1

    def see(self, test: TestSet, exact_test: TestSet | None, experience: int) -> None:
        """What is evaluated from now on."""
        self.test, self.exact_test, self.graph = test, exact_test, None
        self.forward.see(test[:: max(len(test) // RANGED, 1)][:RANGED])
        if self.race is not None:
            self.race.see(test.streams, [int(n) for n in test.totals], experience)

    @torch.no_grad()
    def tick(self, tick: Tick, weights: Sequence[Tensor], loaded: Callable[[], None] | None = None) -> Result:
        """Evaluate.

        Args:
            weights: as `weights_of` gives them.
            loaded: called when they may change again.
        """
        test = self.test
        assert test is not None
        if self.loading is not None and self.loading[0] == [w.data_ptr() for w in weights]:
            self.loading[1]()
        else:
            self.forward.load(weights)
        compares = tick.check and self.exact is not None
        if compares:
            assert self.exact is not None
            self.exact.load(weights)
        if self.looks_back:
            assert self.race is not None
            self._remember(weights, again=self.race.knows(tick.step))
        if loaded is not None:
            loaded()
        if self.race is None:
            values = self.graph() if self.graph is not None else self.values(self.forward, test, self.portion)
            return Result(test.sums(values), check=self._compare() if compares else None)
        rows, again = self.race.tick(tick.step, tick.experience, tick.whole, self._look)
        totals = [row.total for row in rows]
        counts = torch.tensor(
            [[row.correct for row in rows], [row.loss for row in rows]], dtype=torch.float64
        )
        refined = tuple((stream, row.step, row.correct, row.total, row.loss) for stream, row in again)
        return Result(counts, totals, refined, self._compare(totals) if compares else None)

    @torch.no_grad()
    def values(self, forward: Forward, test: TestSet, portion: int, rows: Tensor | None = None) -> Tensor:
        """(2, n) float64 of every example, or of those at `rows` (n,): whether it is right, and its loss; of a block of
        tokens, how many are right, and their summed loss.

        (4, n), as `ranked` has them, where the test set ranks.
        """
        inputs, y, task, right = test.x, test.y, test.task, test.right
        if rows is not None:
            inputs, y, task = (t.index_select(0, rows) for t in (inputs, y, task))
            right = None if right is None else right.index_select(0, rows)
            if forward.channels_last and inputs.ndim == 4 and test.prepare is None:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
        height = 2 if right is None else 4
        values = torch.zeros((height, len(y)), dtype=torch.float64, device=y.device)
        mine = self.ranks.share(len(y))
        keeping = self.kept.evaluating(test, test, portion) if forward.keeps else nullcontext()
        with kernels(y.device), keeping as asked:
            for start in range(mine.start, mine.stop, portion):
                part = slice(start, min(start + portion, mine.stop))
                x = test.prepared(inputs[part])
                if asked is not None:
                    asked.show(x, part if rows is None else rows[part])
                logits = forward.logits(x, task[part], y[part])
                if right is not None:
                    values[:, part] = ranked(logits, right[part], test.exposed)
                    continue
                if y.ndim > 1:
                    values[:, part] = tallied(logits, y[part])
                    continue
                if test.exposed is not None:
                    logits = logits.masked_fill(~test.exposed, MASKED)
                values[0, part] = named(logits, y[part])
                values[1, part] = F.cross_entropy(logits, y[part], reduction="none").double()
        return self.ranks.sum(values)  # of which the others' are 0

    def _compare(self, totals: Sequence[int] | None = None) -> Tensor:
        """(3, S) judged differently, right here, right by the exact pass; for as many examples of every stream as
        a race has looked at, or all."""
        assert self.exact is not None
        assert self.test is not None
        assert self.exact_test is not None
        rows = None
        if totals is not None:
            spans = zip(self.test.starts.tolist(), totals, strict=True)
            rows = torch.cat([torch.arange(start, start + n) for start, n in spans]).to(self.test.y.device)
        here = self.values(self.forward, self.test, self.portion, rows)[0]
        there = self.values(self.exact, self.exact_test, self.exact_portion, rows)[0]
        found = torch.stack([(here != there).double(), here, there])
        if rows is not None:
            found = found.new_zeros((3, len(self.test))).index_copy_(1, rows, found)
        return self.test.sums(found)

    # --- for a race ---

    def _look(self, requests: Sequence[Request]) -> list[tuple[int, float]]:
        test = self.test
        assert test is not None
        found: list[tuple[int, float]] = [(0, 0.0)] * len(requests)
        ages = sorted({request.age for request in requests})
        for age in ages:
            if age:
                self.forward.load(self.layout.views(self.ring[age]))
            mine = [i for i, request in enumerate(requests) if request.age == age]
            spans = [
                (int(test.starts[r.stream]) + r.start, r.stop - r.start) for r in (requests[i] for i in mine)
            ]
            rows = torch.cat([torch.arange(start, start + n) for start, n in spans])
            values = self._shared(sent(rows, test.y.device), now=age == 0).cpu()
            for i, part in zip(mine, values.split([n for _, n in spans], 1), strict=True):
                right, loss = part[:2].sum(1).tolist()
                found[i] = int(right), loss
        if ages[-1]:
            self.forward.load(self.layout.views(self.ring[0]))  # the present weights again
        return found

    def _shared(self, rows: Tensor, *, now: bool) -> Tensor:
        """(2, n) values at rows (n,); with the present weights, a helper that has time computes half of the portions.

        Portions are those of the whole, so the bits do not tell who computed them.
        """
        assert self.test is not None
        mine = -(-len(rows) // (2 * self.portion)) * self.portion
        help_ = self.helper(rows[mine:]) if self.helper is not None and now and mine < len(rows) else None
        if help_ is None:
            return self.values(self.forward, self.test, self.portion, rows)
        return torch.cat([self.values(self.forward, self.test, self.portion, rows[:mine]), help_()], 1)

    def _remember(self, weights: Sequence[Tensor], again: bool) -> None:
        if again:
            block = self.ring.popleft()
        elif len(self.ring) == self.ring.maxlen:
            block = self.ring.pop()  # the oldest one's place
        else:
            block = torch.empty(self.layout.nbytes, dtype=torch.uint8, device=weights[0].device)
        for view, w in zip(self.layout.views(block), weights, strict=True):
            view.copy_(w)
        self.ring.appendleft(block)

    # --- on a GPU ---

    def capture(self, weights: Sequence[Tensor]) -> str | None:
        """Make the whole pass one launch (a CUDA graph), and taking over the weights another; what stands against it,
        or None.

        The weights and the examples stay where they are, so a replay computes with what is there then. Weights that
        have moved elsewhere are taken over as they come.
        """
        test = self.test
        assert test is not None
        graphs, static = CudaGraphs(test.y.device), torch.empty(0)

        def work() -> None:
            nonlocal static
            static = self.values(self.forward, test, self.portion)

        def load() -> None:
            self.forward.load(weights)

        try:
            with torch.no_grad():
                for mode in ("default", "error"):  # first libraries choose their algorithms and allocate
                    with sync_debug(graphs.device, mode), graphs.aside():
                        load()
                        work()
                again = graphs.record(work)
                self.loading = [w.data_ptr() for w in weights], graphs.record(load)
        except RuntimeError as error:  # a network that asks the device for a number cannot be captured
            return f"no CUDA graph: {str(error).splitlines()[0]}"

        def replay() -> Tensor:
            again()
            return static

        self.graph = replay
        return None

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        if self.race is None:
            return {}
        return {"race": self.race.state_dict(), "ring": list(self.ring)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | None = None) -> None:
        if self.race is None:
            return
        self.race.load_state_dict(state["race"])
        self.ring.clear()
        self.ring.extend(block if device is None else block.to(device) for block in state["ring"])
