"""Replay of what has come since a detector last flagged a drift.

Bifet, Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007, for the detector that is the
default; Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486, for replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.memory import Reservoir
from clbench.parts import CrossEntropy, DetectorName, Watch, expect_examples
from clbench.ranges import Count, Natural


class ReplayOfTheConcept(Watch):
    """Examples of a reservoir join batches; a drift empties it."""

    needs = frozenset({"memory"})
    state = ("memory", "since")
    parallel = True
    waits = 1

    def __init__(
        self,
        capacity: int,
        draw: int | None,
        steps: int | None,
        detector: DetectorName,
        settings: Mapping[str, Any] | None,
        every: int,
    ) -> None:
        super().__init__(detector, settings, every)
        self.capacity, self.draw, self.steps = capacity, draw, steps
        self.idle |= draw == 0

    def setup(self, run: Run) -> None:
        super().setup(run)
        self.memory = Reservoir(self.capacity)
        expect_examples(self.memory, run)
        self.since: int | None = None  # steps since the last drift

    def extend(self, batch: Batch) -> Batch:
        n = min(batch.new if self.draw is None else self.draw, len(self.memory))
        if n == 0 or (self.steps is not None and (self.since is None or self.since >= self.steps)):
            return batch
        old = self.memory.draw(n, self.run.rng("replay"))
        return batch.join(self.run.augment(old["x"]), old["y"], old["task"], old["x"])

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.since is not None:
            self.since += 1
        super().after_step(batch, out)
        if self.draw != 0:
            self.memory.add(self.run.rng("memory"), **batch.examples())

    def drift(self) -> None:
        self.memory = Reservoir(self.capacity)
        self.since = 0


@register("replay-on-drift", family="drift", null={"draw": 0})
def replay_on_drift(
    memory: Natural = 200,
    draw: Natural | None = None,
    steps: Count | None = None,
    detector: DetectorName = "adwin",
    settings: dict[str, Any] | None = None,
    every: Count = 1,
) -> Strategy:
    """Experience replay of the present concept alone: whenever a detector flags a drift, the memory is emptied.

    Let e_i = 1 if row i was predicted wrong, in the forward pass of its own step, else 0. A detector of River is given
    e_1, e_2, … in order; after a batch with a row that it flags as errors have become more, the reservoir forgets what
    it holds, and begins again with that batch. Until the first flag this is `er`.

    Args:
        memory: examples the reservoir holds.
        draw: examples that join a batch; as many as the stream brings if none is given.
        steps: replay only in so many steps after a drift; in all of them if none is given.
        detector: adwin, page-hinkley, kswin, ddm, eddm, fhddm, hddm-a or hddm-w of River; given, the rows that
            settings={at: […]} lists; or none.
        settings: arguments of River's class in place of its defaults, {delta: 0.01} for one.
        every: steps between two looks at the errors, for each of which the host waits for a GPU once.

    Reference: Bifet, Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007; Chaudhry et al.,
    "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486.

    Differences from the papers:
        1. Neither has the two together; the rule is ours, the least that a detector can do for a memory.
        2. The errors are those of the network's own head, whatever other rule a chain classifies by.
    """
    return chain(ReplayOfTheConcept(memory, draw, steps, detector, settings, every), CrossEntropy())
