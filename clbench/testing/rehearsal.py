"""The contract on a GPU that is none: runs on `clbench.testing.imitation`, and what must hold of them on any GPU.

    clbench check my-strategy --rehearse-gpu

or, in a process that has loaded `clbench.machine.guard` before torch, `rehearse("my-strategy")`. Tensors of the
imitation do not outlive it, so every trial hands over copies on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.config import OptimConfig
from clbench.engine.capture import APART, undeclared
from clbench.engine.engine import Engine
from clbench.machine import checkpoint
from clbench.models import Classifier
from clbench.strategy import Strategy
from clbench.testing.contract import CHECKS
from clbench.testing.imitation import Contact, DeviceError, Race, StrictGPU, WaitError, strict_cuda
from clbench.testing.moving import moving
from clbench.testing.subjects import Subject, subject
from clbench.testing.tools import (
    NotApplicable,
    Result,
    Violation,
    attempt,
    difference,
    name_of,
    require,
    rule_of,
    same,
)
from clbench.types import Benchmark

HOW: dict[str, Any] = {
    "batch_size": 16,
    "epochs": 2,
    "optim": OptimConfig(lr=0.02, momentum=0.9, reset=False, schedule="cosine"),
}
"""Eight steps in each of three experiences, so that a step is recorded after some and carried out again in others; at
another rate in each, so that one which is recorded as a number is found."""
PASSES = 9
"""In place of two where waits are looked for: 108 steps, as what waits now and then often does every hundredth."""


@dataclass
class Trial:
    """What came of a run on the imitation.

    Attributes:
        state: network, strategy, right answers and counted forward passes, on the CPU.
        steps: the meetings of host and device in each step, evaluation and recording left out.
        ticks: those in each evaluation after a step, as far as a strategy, a plug-in or a part is at work.
        own_loop: that the strategy has a loop of its own, in which steps are what lies between two calls of
            `run.stepped`.
        races: what nothing ordered.
        finite: whether the weights are. step: how far it came.
        waits: how many the parts declare.
        recorded, reason: of its gradients.
        saved: a checkpoint from the middle, or from the first boundary after it.
    """

    state: dict[str, Any] = field(default_factory=dict)
    steps: list[list[Contact]] = field(default_factory=list)
    ticks: list[list[Contact]] = field(default_factory=list)
    own_loop: bool = False
    races: list[Race] = field(default_factory=list)
    finite: bool = False
    step: int = 0
    waits: int = 0
    recorded: int = 0
    reason: str = ""
    saved: dict[str, Any] | None = None


class Rehearsal:
    """The trials of a strategy, each made when it is first asked for."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.benchmark = subject.benchmark()
        self.strategy = subject.make()
        self.level = "exact" if self.benchmark.setting.language else "fast"  # losses alone are exact

    @functools.cached_property
    def on_cpu(self) -> Trial:
        """On the CPU itself, every step evaluated."""
        with _products():
            return self._carried_out("cpu", None, every=1, checkpoint_seconds=0.0)

    @functools.cached_property
    def plain(self) -> Trial:
        """Every step evaluated, and recorded where the strategy says that it can be."""
        return self.trial(every=1)

    @functools.cached_property
    def eager(self) -> Trial:
        """`plain`, and nothing recorded."""
        return self.trial(every=1, capture="never")

    @functools.cached_property
    def longer(self) -> Trial:
        """Of more steps, and nothing recorded or evaluated beside them."""
        return self.trial(epochs=PASSES, capture="never")

    @functools.cached_property
    def misrecorded(self) -> bool:
        """Whether a recording computes something else, or the try; `gpu_bits` says so, and no other check again."""
        found = self.on_cpu.state
        return bool(difference(found, self.plain.state) and not difference(found, self.eager.state))

    @functools.cached_property
    def steady(self) -> bool:
        """Whether it computes the same when it is asked again."""
        return not difference(self.eager.state, self.trial(every=1, capture="never").state)

    @property
    def forgetful(self) -> bool:
        """Whether it ends otherwise where it is resumed on the CPU."""
        resumed = self.go_on_cpu(self.on_cpu.saved)
        return difference(self.on_cpu.state["model"], resumed.state["model"]) is not None

    def same(self, a: Any, b: Any, message: str) -> None:
        """Raise where what two trials left differs, and say if any two do."""
        if difference(a, b) and not self.steady:
            message += f", and {EACH_TIME}"
        same(a, b, message)

    @property
    def sound(self) -> dict[str, Any]:
        """What of an execution leaves recordings out, where they are unsound."""
        return {"capture": "never"} if self.misrecorded else {}

    @functools.cached_property
    def saving(self) -> Trial:
        return self.trial(checkpoint_seconds=0.0, **self.sound)

    @functools.cached_property
    def beside(self) -> Trial:
        """Evaluated on a second stream, batches from pinned memory, nothing recorded."""
        return self.trial(
            every=1, level=self.level, overlap=True, resident="never", workers=0, capture="never"
        )

    @functools.cached_property
    def elsewhere(self) -> Trial:
        """On `cuda:1`, while `cuda:0` is the present one."""
        how = {"overlap": True, "resident": "never", "workers": 0, **self.sound}
        return self.trial(index=1, every=1, level=self.level, **how)

    @functools.cached_property
    def moving(self) -> str:
        """What changes from step to step, and is no tensor of the device."""
        with strict_cuda():
            run = replace(self.subject, device="cuda:0").run(self.benchmark, **{**HOW, "capture": "never"})
            return moving(run)

    def trial(self, index: int = 0, state: dict[str, Any] | None = None, **how: Any) -> Trial:
        """Return what comes of a run on the imitation.

        Args:
            index: of the device. state: to go on from. how: of the run and of its execution.
        """
        with strict_cuda(index) as gpu:
            return self._carried_out(f"cuda:{index}", gpu, state, **how)

    def go_on_cpu(self, state: dict[str, Any] | None) -> Trial:
        """Return what comes of a state on the CPU."""
        with _products():
            return self._carried_out("cpu", None, state)

    def _carried_out(
        self, device: str, gpu: StrictGPU | None, state: dict[str, Any] | None = None, **how: Any
    ) -> Trial:
        run = replace(self.subject, device=device).run(self.benchmark, **{**HOW, **how})
        trial = Trial()
        if state is not None:
            run.load_state_dict(state)
        if gpu is not None:
            _watched(run, gpu, trial.steps, trial.ticks)

        def save() -> None:
            if trial.saved is None and run.step >= run.total_steps // 2:
                trial.saved = on_cpu(run.state_dict())

        run.fit(save if run.execution.checkpoint_seconds is not None else None)
        trial.finite = all(bool(p.isfinite().all()) for p in run.model.parameters())
        trial.own_loop = run.points.train_experience is not None
        trial.step, trial.recorded, trial.reason = run.step, run.gradients.recorded, run.gradients.reason
        trial.waits = sum(part.waits for part in run.strategy.parts)
        trial.state = {
            "model": on_cpu(run.model.state_dict()),
            "strategy": [on_cpu(part.state_dict()) for part in run.strategy.parts],
            "right": run.evaluator.curve.correct.tolist(),
            "forwards": run.forwards,
        }
        trial.races = [] if gpu is None else gpu.races
        return trial


def on_cpu(state: Any) -> Any:
    """Return a copy of a state on the CPU."""
    return checkpoint.tree_map(lambda tensor: tensor.detach().cpu().clone(), state)


@contextlib.contextmanager
def _products() -> Iterator[None]:
    """Attention by matrix products, as on the imitation: the CPU's fused kernel rounds otherwise."""
    kept = F.scaled_dot_product_attention

    def by_products(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        return torch.ops.aten._scaled_dot_product_attention_math(query, key, value, *args, **kwargs)[0]

    F.scaled_dot_product_attention = by_products
    try:
        yield
    finally:
        F.scaled_dot_product_attention = kept


def _watched(run: Engine, gpu: StrictGPU, steps: list[list[Contact]], ticks: list[list[Contact]]) -> None:
    """Note what meets the host in each step, where what an evaluation and a recording need is left out; and what of
    theirs does in each evaluation."""
    aside: list[int] = []

    def left_out(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = len(gpu.contacts)
            try:
                return method(*args, **kwargs)
            finally:
                aside.extend(range(before, len(gpu.contacts)))

        return call

    def step(*args: Any, **kwargs: Any) -> Any:
        before = len(gpu.contacts)
        aside.clear()
        try:
            return iterate(*args, **kwargs)
        finally:
            known = set(aside)
            met = [c for i, c in enumerate(gpu.contacts[before:], before) if i not in known]
            steps.append(met)

    def stepped(*args: Any, **kwargs: Any) -> Any:
        if since:  # what comes before the first step of an experience is no part of a step
            known = set(aside)
            steps.append([c for i, c in enumerate(gpu.contacts[since[0] :], since[0]) if i not in known])
        aside.clear()
        try:
            return ended(*args, **kwargs)
        finally:
            since[:] = [len(gpu.contacts)]

    def experience(*args: Any, **kwargs: Any) -> Any:
        since.clear()
        return fit(*args, **kwargs)

    def evaluate(*args: Any, **kwargs: Any) -> None:
        before = len(gpu.contacts)
        tick(*args, **kwargs)
        ticks.append([c for c in gpu.contacts[before:] if c.theirs])

    since: list[int] = []
    iterate, ended, fit, tick = run._iterate, run.stepped, run._fit_experience, run.evaluator.tick
    run._iterate = step  # type: ignore[method-assign]
    run.stepped = stepped  # type: ignore[method-assign]
    run._fit_experience = experience  # type: ignore[method-assign]
    run.evaluator.tick = evaluate  # type: ignore[method-assign]
    run._stepped = left_out(run._stepped)  # type: ignore[method-assign]
    run.gradients._record = left_out(run.gradients._record)  # type: ignore[method-assign]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the imitation raises is a broken rule, in its own words."""
    try:
        yield
    except (DeviceError, WaitError) as error:
        raise Violation(str(error)) from None


CURES = {
    "index by a mask": "masks keep shapes by `torch.where`, `masked_fill` or a product with the mask",
    "_to_copy": "what is made of numbers of the host is made once, in `setup`, and what is copied to the host stays on "
    "the device",
    "repeat_interleave": "`repeat_interleave` is told `output_size`",
    "printing": "what is printed is kept on the device, and printed in `end_experience`",
    "normal": "`torch.normal` checks its deviations; `mean + std * torch.randn(…)` does not",
    "_linalg_check_errors": "torch's `…_ex` forms, as `torch.linalg.inv_ex`, check nothing",
    "pickling": "`torch.save` and `pickle` read a tensor on the host, so they wait until `end_experience`",
    "nonzero": "places are masks, by `torch.where(mask, a, b)` with three arguments",
}
"""By operator, what does the same without a wait."""
CURES |= dict.fromkeys(("masked_select", "index_put_ by a mask"), CURES["index by a mask"])
CURES |= dict.fromkeys(("_unique2", "bincount", "unique_dim"), "classes are counted by `one_hot(…).sum(0)`")
CURES |= {
    f"{of}.synchronize": "streams wait for each other by `wait_stream` or `wait_event`, without the host"
    for of in ("torch.cuda", "Stream", "Event")
}
NUMBER = "numbers stay on the device: `torch.where` for an `if`, `clamp` for `max()`, `detach()` to keep one"


def _cure(contact: Contact) -> str:
    """Return what a strategy can do in place of what has the host wait."""
    if contact.kind in ("send", "pageable"):
        return CURES["_to_copy"]
    return CURES.get(contact.op, NUMBER)


EACH_TIME = "so does any other run: it hangs on the clock, or draws from elsewhere than `self.run.rng`"
NAMED = 3
"""Of races at most."""
_WAIT = "one stream waits for the other first, by `wait_stream`, or by an event and `wait_event`"
_PASSED = "when an event that was recorded after the copy has passed (`event.query()`)"
ORDERS = {
    ("read before written", False): _WAIT,
    ("written before read", False): _WAIT,
    ("given out again in use", False): "`tensor.record_stream(stream)` says who uses it, too",
    ("read before written", True): f"pinned memory is read {_PASSED}",
    ("written before read", True): f"pinned memory is written again {_PASSED}, or buffers take turns",
}
"""By what races, and whether it is pinned memory of the host, what puts it in order."""


# --- the checks ---


def check_gpu_devices(trials: Rehearsal) -> None:
    """On a GPU nothing of the CPU joins an operation: no constant, no index, no generator."""
    with _told():
        trials.plain  # noqa: B018


def check_gpu_bits(trials: Rehearsal) -> None:
    """On a GPU it computes and counts what it does on the CPU, recorded or not; how kernels round is not looked at."""
    if trials.misrecorded:
        done = "recorded" if trials.plain.recorded else "where a recording is tried"
        message = f"{done}, it computes something else ({trials.moving})"
        same(trials.eager.state, trials.plain.state, message)
    trials.same(trials.on_cpu.state, trials.plain.state, "a GPU computes something else")


def check_gpu_waits(trials: Rehearsal) -> None:
    """Neither a step nor what evaluates it has a GPU's host wait more often than the strategy declares (`waits`), which
    is never by default."""
    plain = trials.plain
    if not plain.steps:
        raise NotApplicable("it trains by a loop of its own, and calls `run.stepped` for none of its steps")
    by_waits = sorted(plain.steps, key=len)
    # In a loop of its own, what it does between two passes falls into a step, so the usual one counts.
    most = by_waits[len(by_waits) // 2] if plain.own_loop else by_waits[-1]
    if len(most) <= plain.waits and not plain.own_loop:
        most = max(trials.longer.steps, key=len)
    named = (("a step", most), ("an evaluation", max(plain.ticks, key=len, default=[])))
    needed = max(len(met) for _, met in named)
    found = [_waiting(what, met, plain.waits) for what, met in named if len(met) > plain.waits]
    if found:
        raise Violation(f"{'; '.join(found)}; or declare `waits = {needed}`, if it cannot do without")


def _waiting(what: str, met: Sequence[Contact], declared: int) -> str:
    """Return how often something has the host wait, where, and what can be done about it."""
    lines = Counter(f"{c.kind} by {c.op} at {c.where}" for c in met)
    cures = "; ".join(dict.fromkeys(_cure(c) for c in met))
    said = ", ".join(f"{line}{f' ({n} times)' if n > 1 else ''}" for line, n in lines.items())
    often = "once" if len(met) == 1 else f"{len(met)} times"
    allowed = f"{declared} are declared (`waits`)" if declared else "none is declared (`waits`)"
    return f"{what} has the host wait {often}, and {allowed}: {said}. {cures}"


def check_gpu_capture(trials: Rehearsal) -> None:
    """What it declares a GPU may record (`capturable`) is recorded."""
    if not any(part.capturable for part in trials.strategy.parts):
        raise NotApplicable("it does not declare capturable = True")
    with strict_cuda():
        run = replace(trials.subject, device="cuda:0").run(trials.benchmark, **HOW)
        reason = undeclared(run)
        del run
    if reason:
        raise NotApplicable(reason)
    if reason := trials.plain.reason:
        why = f" ({trials.moving})" if reason.startswith(APART) else ""
        raise Violation(f"a GPU could not record it: {reason}{why}")
    require(trials.plain.recorded > 0, "its batches never have one shape for long, so it is not recorded")


def check_gpu_races(trials: Rehearsal) -> None:
    """Evaluated beside training, and fed from pinned memory, no stream reads what another has not finished."""
    with _told():
        races = [*trials.plain.races, *trials.beside.races, *trials.elsewhere.races]
    if races:
        found = {f"{race.kind} by {race.op} at {race.where}": race for race in races}
        said = list(found)
        orders = dict.fromkeys(ORDERS[found[line].kind, found[line].pinned] for line in said[:NAMED])
        more = f" and {len(said) - NAMED} more" if len(said) > NAMED else ""
        raise Violation(f"streams race: {', '.join(said[:NAMED])}{more}; {'; '.join(orders)}")
    trials.same(
        (trials.eager if trials.misrecorded else trials.plain).state["model"],
        trials.beside.state["model"],
        "evaluated beside training, it ends otherwise",
    )


def check_gpu_second(trials: Rehearsal) -> None:
    """On a GPU that is not the present one, it computes the same."""
    with _told():
        trials.same(trials.beside.state, trials.elsewhere.state, "on cuda:1 it ends otherwise")


def check_gpu_resumes(trials: Rehearsal) -> None:
    """A GPU's state goes on to the same bits there, and to the end on the CPU, as the CPU's does on a GPU."""
    with _told():
        of_gpu, of_cpu = trials.saving.saved, trials.on_cpu.saved
        resumed = trials.trial(state=of_gpu, **trials.sound)
        before, after = trials.saving.state["model"], resumed.state["model"]
        message = "resumed on a GPU, it ends otherwise"
        if difference(before, after) and trials.steady and trials.forgetful:
            message += ", as it does on the CPU: `state` names what changes in training and matters later"
        trials.same(before, after, message)
        for where, found in (
            ("on the CPU, a GPU's state", trials.go_on_cpu(of_gpu)),
            ("on a GPU, the CPU's state", trials.trial(state=of_cpu, **trials.sound)),
        ):
            require(found.finite, f"{where} goes on to weights that are not finite")
            require(found.step == trials.saving.step, f"{where} does not go on to the end")


GPU_CHECKS: list[Callable[[Rehearsal], None]] = [
    check_gpu_devices,
    check_gpu_bits,
    check_gpu_waits,
    check_gpu_capture,
    check_gpu_races,
    check_gpu_second,
    check_gpu_resumes,
]
"""What must hold on a GPU, rule by rule."""


def rehearse(
    strategy: str | Callable[..., Strategy],
    *,
    expected_failures: Mapping[str, str] | None = None,
    model: Callable[[Benchmark], Classifier] | None = None,
    null: Mapping[str, Any] | None = None,
    only: Sequence[Callable[[Any], None]] | None = None,
) -> Iterator[Result]:
    """Put a strategy through `GPU_CHECKS`, and through the contract on the imitation.

    Args:
        strategy, expected_failures, model, null: as for `check_strategy`.
        only: the checks to make; all if None.

    Raises:
        RuntimeError: torch does not believe in the imitation.
    """
    expected = dict(expected_failures or {})
    alone = ""
    trials: Rehearsal | None = None
    checks: Sequence[Callable[[Any], None]] = [*GPU_CHECKS, *CHECKS] if only is None else only
    for check in checks:
        known = expected.get(name_of(check))
        if alone:
            yield Result(name_of(check), rule_of(check), "skipped", alone)
        elif check in GPU_CHECKS:
            trials = trials or Rehearsal(subject(strategy, model=model, null=null))
            yield (result := attempt(check, trials, known))
            if check is check_gpu_devices and result.status == "failed":
                alone = "it does not run on a GPU"
        else:
            with strict_cuda():
                on_it = subject(strategy, model=model, null=null, device="cuda:0")
                yield attempt(check, on_it, {**on_it.exempt, **expected}.get(name_of(check)))
