"""A fresh start where a detector flags a drift.

Gama, Medas, Castillo, Rodrigues, "Learning with Drift Detection", SBIA 2004, for the idea; Bifet, Gavaldà, "Learning
from Time-Changing Data with Adaptive Windowing", SDM 2007, for the detector that is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from clbench import Run, Strategy, chain, register
from clbench.parts import CrossEntropy, DetectorName, Watch
from clbench.ranges import Count

Reset = Literal["weights", "head", "optimizer"]


class StartAnew(Watch):
    """On a drift, weights are as they were before the first step, and the optimizer is a fresh one."""

    exempt: ClassVar[dict[str, str]] = {"takes_effect": "without a drift it is fine-tuning"}
    parallel = True
    waits = 1

    def __init__(
        self, detector: DetectorName, settings: Mapping[str, Any] | None, every: int, reset: Reset
    ) -> None:
        super().__init__(detector, settings, every)
        self.reset = reset

    def setup(self, run: Run) -> None:
        super().setup(run)
        # No checkpoint holds them: a run that goes on is built with these weights, too.
        self.initial = {name: value.detach().clone() for name, value in self._now().items()}

    def _now(self) -> dict[str, Tensor]:
        """What goes back to the start: parameters that learn, and running statistics of batch normalisation."""
        if self.reset == "optimizer":
            return {}
        model = self.run.model
        found: dict[str, Tensor] = dict(self.run.parameters())
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                found |= {f"{name}.{key}": value for key, value in module.named_buffers()}
        return {key: v for key, v in found.items() if self.reset == "weights" or key.startswith("head.")}

    @torch.no_grad()
    def drift(self) -> None:
        for name, value in self._now().items():
            value.copy_(self.initial[name])
        self.run.renew_optimizer()


@register("reset-on-drift", family="drift", null={"detector": "none"})
def reset_on_drift(
    detector: DetectorName = "adwin",
    settings: dict[str, Any] | None = None,
    reset: Reset = "weights",
    every: Count = 1,
) -> Strategy:
    """Begins anew whenever a detector flags a drift: the initial weights, and a fresh optimizer.

    Let e_i = 1 if row i was predicted wrong, in the forward pass of its own step, else 0. A detector of River is given
    e_1, e_2, … in order; after a batch with a row that it flags as errors have become more, θ ← θ_0. Memories of other
    parts of a chain stay, and so does what standardises the inputs: `er+reset-on-drift` trains the new weights on old
    examples, too.

    Args:
        detector: adwin, page-hinkley, kswin, ddm, eddm, fhddm, hddm-a or hddm-w of River; given, the rows that
            settings={at: […]} lists; or none.
        settings: arguments of River's class in place of its defaults, {delta: 0.01} for one.
        reset: weights, all that learn and running statistics; head, those of the head alone; optimizer, none of them.
            The optimizer is a fresh one in any case.
        every: steps between two looks at the errors, for each of which the host waits for a GPU once.

    Reference: Gama, Medas, Castillo, Rodrigues, "Learning with Drift Detection", SBIA 2004; Bifet, Gavaldà, "Learning
    from Time-Changing Data with Adaptive Windowing", SDM 2007.

    Differences from the papers:
        1. There, a new learner begins with the examples since the warning. Here it begins with the next batch.
        2. The errors are those of the network's own head, whatever other rule a chain classifies by.
    """
    return chain(StartAnew(detector, settings, every, reset), CrossEntropy())
