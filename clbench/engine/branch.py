"""What training has made of a run, and branches: anneals after which it goes back to what it was before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from clbench.engine.services import Services
from clbench.machine.checkpoint import clone, tree_map
from clbench.machine.optim import phase_ends
from clbench.machine.randomness import derive_seed, global_rng_state, go_on, set_global_rng_state
from clbench.strategy import Place, State


def trained(run: Services) -> State:
    """Return all that training changes and goes on from: weights, optimizer, what the strategy keeps, draws."""
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "precision": run.precision.state_dict(),
        "strategy": [part.state_dict() for part in run.strategy.parts],
        "generators": {name: generator.get_state() for name, generator in run._generators.items()},
        "global_rng": global_rng_state(run.device),
    }


def load_trained(run: Services, state: Mapping[str, Any]) -> None:
    """Take it back, all but where the global generators stand."""
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.precision.load_state_dict(state["precision"])
    for part, saved in zip(run.strategy.parts, state["strategy"], strict=True):
        part.load_state_dict(tree_map(lambda t: t.to(run.device), saved))
    for name, saved in state["generators"].items():
        go_on(run.rng(name), saved, derive_seed(run.config.seeds.data, f"{name} from step {run.step}"))


class Branch:
    """The anneal of an experience as a branch (`optim.branch`): its steps are made, counted and evaluated as any, and
    the next experience goes on from the state before them, to the bit.

    Counters and curve go on from the branch: its steps were taken, and step numbers of a curve rise. At the last
    experience's end nobody goes back.
    """

    def __init__(self, run: Services) -> None:
        self.run = run
        self.live: State | None = None  # the state that is gone back to, within a branch
        self._objects: Any = None  # what holds it

    def begin(self) -> None:
        """Keep the present state, if the next step is the first of a branch."""
        run = self.run
        if self._begins() == run.place.done and run.experience < len(run.train) - 1:
            with run.clock.stopped():
                self.live = clone({"place": asdict(run.place), **trained(run)})
                self._hold()

    def go_back(self) -> bool:
        """Return whether there was a branch; the run is then as it was where the branch began, counters aside."""
        run, live = self.run, self.live
        if live is None:
            return False
        with run.clock.stopped():
            run.optimizer, run._trainable, requires_grad = self._objects
            for parameter, wanted in requires_grad:
                parameter.requires_grad_(wanted)
            load_trained(run, live)
            for name in run._generators.keys() - live["generators"].keys():  # first asked for in the branch
                run.rng(name).manual_seed(derive_seed(run.config.seeds.data, name))
            set_global_rng_state(run.device, live["global_rng"])
            run.place = Place(**live["place"] | {"step": run.step})
        self.live = self._objects = None
        return True

    def describe(self) -> dict[str, Any]:
        """Return the branches so far for the record: after which step each began, and after which it was evaluated."""
        run, found, end = self.run, [], 0
        if not run.config.optim.branch:
            return {}
        for exp in run.train:
            end += run.steps_of(exp)
            if end <= run.step:
                begin = end - run.steps_of(exp) + phase_ends(run.config.optim, run.steps_of(exp))[2]
                found.append({"experience": exp.index, "from_step": begin, "to_step": end})
        return {"branches": found}

    def load_state_dict(self, state: State | None) -> None:
        """Go on within a branch, if there was one."""
        self.live = state
        self._hold()

    def _begins(self) -> int | None:
        run, optim = self.run, self.run.config.optim
        return phase_ends(optim, run.steps_of(run.train[run.experience]))[2] if optim.branch else None

    def _hold(self) -> None:
        run = self.run
        self._objects = run.optimizer, run._trainable, [(p, p.requires_grad) for p in run.model.parameters()]
