"""The learning rate of a step, by the run's clock."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from clbench.config import OptimConfig
from clbench.errors import IncompatibleError
from clbench.machine.optim import phase_ends, power_factor, schedule_factor
from clbench.strategy import Run, overrides


class Rates:
    """What `optim.schedule` makes of where a run stands: a function of its place and its examples alone, so that a run
    that goes on within a schedule goes on with it.

    Raises:
        IncompatibleError: a phase has no step, or nobody would follow the schedule.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.optim = run, run.config.optim
        check_schedule(run)

    def now(self) -> float:
        """Return the learning rate of the present step."""
        run, optim, place = self.run, self.optim, self.run.place
        later = place.experience > 0
        if optim.over == "stream":
            factor = schedule_factor(optim, place.step, self._total)
        else:
            steps = run.steps_of(run.train[place.experience])
            epochs = 1 if run.config.train.iterations is not None else run.epochs
            factor = schedule_factor(optim, place.done, steps, epochs, later and optim.over == "open")
        if optim.schedule == "power":
            factor *= power_factor(optim, run.examples, run.batch_size)
        return (optim.later_lr or optim.lr if later else optim.lr) * factor

    @functools.cached_property
    def _total(self) -> int:
        return self.run.total_steps


def check_schedule(run: Run) -> None:
    """Refuse a schedule over more than there is, with phases that have no step, or that nobody follows."""
    optim, parts = run.config.optim, run.strategy.parts
    if any(overrides(part, "train_experience") for part in parts) and (
        optim.phased or optim.over != "experience"
    ):
        raise IncompatibleError(
            f"{run.strategy} trains by a loop of its own, at one rate in an experience; leave out "
            f"optim.schedule={optim.schedule} over={optim.over}."
        )
    if optim.branch and not run.benchmark.setting.boundaries:
        raise IncompatibleError(
            f"optim.branch goes back at the ends of experiences, which {run.benchmark.id} does not tell; leave it out."
        )
    if not optim.phased:
        return
    lengths = {f"experience {exp.index + 1}": run.steps_of(exp) for exp in run.train}
    for what, steps in {"the stream": run.total_steps}.items() if optim.over == "stream" else lengths.items():
        later = optim.over == "open" and what != "experience 1"
        if (phase := next(_empty(optim, steps, later), None)) is not None:
            raise IncompatibleError(
                f"The {steps} steps of {what} leave none to {phase} of optim.schedule={optim.schedule}; train for "
                "longer, or give other fractions."
            )


def _empty(optim: OptimConfig, steps: int, later: bool) -> Iterator[str]:
    """Yield the phases without a step."""
    risen, cooled, begins = phase_ends(optim, steps)
    if optim.schedule == "warm-cosine" and risen == steps:
        yield f"the cosine after a warm-up of {optim.warmup:g}"
    if optim.schedule == "infinite" and risen == cooled and not later:
        yield f"the cooldown, from {optim.warmup:g} to {optim.cooldown:g},"
    if optim.schedule != "warm-cosine" and begins == steps and optim.annealed[0] < 1:
        yield f"the anneal, from {optim.annealed[0]:g} to 1,"
    if optim.branch and begins == 0:
        yield f"what comes before the branch at {optim.annealed[0]:g}"
