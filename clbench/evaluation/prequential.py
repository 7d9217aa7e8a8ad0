"""Prequential evaluation: every batch is predicted before it is learned (test, then train).

The whole batch is predicted by the model before the batch, so that its size is part of the definition: with batches of
64, a change is met up to 63 examples late. It costs one forward pass of every example, in eval mode and full precision,
not augmented, and draws nothing. What was predicted stays on the device until somebody asks.
"""

from __future__ import annotations

import numpy as np
import torch

from clbench.errors import IncompatibleError
from clbench.results.curve import Curve
from clbench.strategy import Run
from clbench.types import Batch


class Prequential:
    """What a run predicted of every example of its stream, in the stream's order.

    Args:
        run: goes over its stream once.

    Raises:
        IncompatibleError: its setting allows more passes.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        if run.benchmark.setting.passes != 1:
            raise IncompatibleError(
                f"{run.benchmark.id} is predicted before it is learned, so its setting allows one pass: passes=1."
            )
        rows = sum(map(len, run.train))
        self._told = torch.empty((2, rows), dtype=torch.int32, device=run.device)  # predicted, and labels
        self._steps = np.empty(rows, dtype=np.int64)
        self._made = self._fetched = 0

    @torch.no_grad()
    def predict(self, batch: Batch) -> None:
        """Predict a batch of the stream as the model stands; among equal scores, the first class wins."""
        run, new = self.run, slice(self._made, self._made + batch.new)
        with run.evaluating():
            scores = run.predict(run.normalise(batch.raw), batch.task)
        self._told[0, new], self._told[1, new] = scores.argmax(1), batch.y
        self._steps[new] = run.step
        self._made = new.stop

    def fetch(self, curve: Curve) -> None:
        """Bring what was predicted since the last call into the curve, from the device in one copy."""
        new = slice(self._fetched, self._made)
        if new.stop > new.start:
            predicted, label = self._told[:, new].cpu().numpy()
            curve.append_predicted(predicted, label, self._steps[new])
            self._fetched = self._made

    def go_on(self, curve: Curve) -> None:
        """Continue after what a curve holds."""
        self._made = self._fetched = len(curve.predicted)
