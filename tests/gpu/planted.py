"""Strategies with the mistakes that only a GPU shows; `tests/test_rehearsal.py` has them found."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.strategy import Run
from clbench.types import HIDDEN, Experience


class Reads(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        largest = out.logits.detach().amax()
        return {"more": out.logits.square().mean() / max(1.0, largest.item())}  # the mistake


@register("hidden-item")
def hidden_item() -> Strategy:
    """Ask the device for a number in every step."""
    return chain(CrossEntropy(), Reads())


class Logs(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        loss = out.logits.square().mean()
        if self.run.step % 100 == 99:
            assert loss.item() >= 0  # the mistake
        return {"more": loss}


@register("waits-now-and-then")
def waits_now_and_then() -> Strategy:
    """Ask the device for a number in every hundredth step."""
    return chain(CrossEntropy(), Logs())


class Constant(Strategy):
    def setup(self, run: Run) -> None:
        self.weight = torch.ones(run.num_classes)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"more": (out.logits.square() * self.weight).mean()}  # the mistake


@register("constant-left-behind")
def constant_left_behind() -> Strategy:
    """Leave a constant on the CPU."""
    return chain(CrossEntropy(), Constant())


class Aside(Strategy):
    def setup(self, run: Run) -> None:
        self.side = torch.cuda.Stream(run.device) if run.device.type == "cuda" else None

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.side is None:
            return {"more": (2 * out.logits).square().mean()}
        with torch.cuda.stream(self.side):
            doubled = 2 * out.logits  # the mistake
        return {"more": doubled.square().mean()}


@register("missing-wait")
def missing_wait() -> Strategy:
    """Compute on a second stream that waits for nothing, and for which nothing waits."""
    return chain(CrossEntropy(), Aside())


class Draws(Strategy):
    capturable = True

    def setup(self, run: Run) -> None:
        self.generator = torch.Generator(run.device)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        like = out.logits
        noise = torch.rand(like.shape, generator=self.generator, device=like.device)  # the mistake
        return {"more": (like * noise).square().mean()}


@register("generator-of-its-own")
def generator_of_its_own() -> Strategy:
    """Draw from a generator that no recording knows."""
    return chain(CrossEntropy(), Draws())


class Prints(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.said = f"{out.logits.detach()}"  # the mistake
        return {"more": out.logits.square().mean()}


@register("prints")
def prints() -> Strategy:
    """Make a text of a tensor in every step."""
    return chain(CrossEntropy(), Prints())


class Compares(Strategy):
    def after_step(self, batch: Batch, out: Output) -> None:
        self.equal = torch.allclose(out.logits, out.logits + 1)  # the mistake


@register("compares-all")
def compares_all() -> Strategy:
    """Ask whether two tensors are close."""
    return chain(CrossEntropy(), Compares())


class Synchronizes(Strategy):
    def after_step(self, batch: Batch, out: Output) -> None:
        if out.logits.is_cuda:
            event = torch.cuda.Event()
            event.record()
            event.synchronize()  # the mistake


@register("synchronizes")
def synchronizes() -> Strategy:
    """Wait for an event of the present stream."""
    return chain(CrossEntropy(), Synchronizes())


class OneTooMany(Strategy):
    waits = 1

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.least = out.logits.detach().amin().item()
        self.most = out.logits.detach().amax().item()  # the mistake
        return {"more": out.logits.square().mean()}


@register("one-wait-too-many")
def one_wait_too_many() -> Strategy:
    """Wait twice, and say once."""
    return chain(CrossEntropy(), OneTooMany())


class Loop(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits, batch.y)}

    def train_experience(self, exp: Experience) -> None:
        for x, y in self.run.visit(exp.data):
            loss = F.cross_entropy(self.run.forward(x, torch.full_like(y, HIDDEN)).logits, y)
            self.last = loss.item()  # the mistake
            self.run.stepped(len(y), {"fit": loss.detach()})


@register("waits-in-its-own-loop")
def waits_in_its_own_loop() -> Strategy:
    """Ask for a number in a loop of its own."""
    return chain(Loop())


class DrawsOnTheCPU(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        first = torch.randperm(len(batch), generator=self.run.rng("order"))[:1]  # the mistake
        return {"more": out.logits[first].square().mean()}


@register("draws-on-the-cpu")
def draws_on_the_cpu() -> Strategy:
    """Draw on the CPU, from a generator of the device."""
    return chain(CrossEntropy(), DrawsOnTheCPU())


class WholeNumbers(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        of = F.one_hot(batch.y, self.run.num_classes)  # (B, C)
        met = of.T @ of  # the mistake
        return {"more": out.logits.square().mean() * met.sum()}


@register("whole-numbers")
def whole_numbers() -> Strategy:
    """Multiply matrices of whole numbers, which CUDA has no kernel for."""
    return chain(CrossEntropy(), WholeNumbers())


class Values(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        y = batch.y.clone()
        y[torch.arange(2, device=y.device)] = torch.tensor([0, 0])  # the mistake
        return {"more": F.cross_entropy(out.logits, y)}


@register("values-left-behind")
def values_left_behind() -> Strategy:
    """Put whole numbers of the CPU into places of the device."""
    return chain(CrossEntropy(), Values())


class PinnedAgain(Strategy):
    def setup(self, run: Run) -> None:
        self.share = torch.ones(4, pin_memory=run.device.type == "cuda")

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.share.fill_(0.5)  # the mistake
        share = self.share[:1].to(out.logits.device, non_blocking=True)
        return {"more": (out.logits * share).square().mean()}


@register("pinned-again")
def pinned_again() -> Strategy:
    """Write pinned memory that the last step's copy may still read."""
    return chain(CrossEntropy(), PinnedAgain())


class PinnedTooEarly(Strategy):
    def setup(self, run: Run) -> None:
        self.most = torch.ones((), pin_memory=run.device.type == "cuda")

    def after_step(self, batch: Batch, out: Output) -> None:
        self.most.copy_(out.logits.amax(), non_blocking=True)
        self.last = self.most.tolist()  # the mistake


@register("pinned-too-early")
def pinned_too_early() -> Strategy:
    """Read pinned memory that a copy may not have reached."""
    return chain(CrossEntropy(), PinnedTooEarly())


class Counts(Strategy):
    capturable = True

    def setup(self, run: Run) -> None:
        self.n = 0

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.n += 1  # the mistake
        return {"more": out.logits.square().mean() * (self.n % 2)}


@register("counts-in-python")
def counts_in_python() -> Strategy:
    """Say that it can be recorded, and hang on a number of Python's."""
    return chain(CrossEntropy(), Counts())


class NumberOfTheHost(Strategy):
    capturable = True
    state = ("share",)

    def setup(self, run: Run) -> None:
        self.share = torch.tensor(1.0)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"more": out.logits.square().mean() * self.share}  # the mistake

    def after_step(self, batch: Batch, out: Output) -> None:
        self.share.mul_(0.9)


@register("number-of-the-host")
def number_of_the_host() -> Strategy:
    """Say that it can be recorded, and multiply with a number of the CPU, which a recording holds as it was."""
    return chain(CrossEntropy(), NumberOfTheHost())


class AnotherTensor(Strategy):
    capturable = True
    state = ("share",)

    def setup(self, run: Run) -> None:
        self.share = torch.ones((), device=run.device)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"more": out.logits.square().mean() * self.share}  # the mistake

    def after_step(self, batch: Batch, out: Output) -> None:
        self.share = self.share * 0.9


@register("another-tensor")
def another_tensor() -> Strategy:
    """Say that it can be recorded, and put another tensor in the place of the recorded one."""
    return chain(CrossEntropy(), AnotherTensor())


class Rate(Strategy):
    capturable = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:  # the mistake
        return {"more": out.logits.square().mean() * self.run.optimizer.param_groups[0]["lr"]}


@register("rate-as-a-number")
def rate_as_a_number() -> Strategy:
    """Say that it can be recorded, and read the rate, which a schedule changes, as a number of Python's."""
    return chain(CrossEntropy(), Rate())


class Logits(Strategy):
    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        logits = self.run.forward(x, task).logits
        return logits / max(1.0, logits.amax().item())  # the mistake


@register("waits-in-logits")
def waits_in_logits() -> Strategy:
    """Ask for a number wherever it is evaluated."""
    return chain(CrossEntropy(), Logits())


class Clipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training or x.amax() < 1e6 else x.clamp(max=1e6)  # the mistake


class InTheNetwork(Strategy):
    def wrap(self, model: nn.Module) -> nn.Module:
        backbone: nn.Module = model.backbone  # type: ignore[assignment]
        model.backbone = nn.Sequential(backbone, Clipped())
        return model


@register("waits-in-the-network")
def waits_in_the_network() -> Strategy:
    """Wrap the network in what asks for a number where it is evaluated."""
    return chain(CrossEntropy(), InTheNetwork())


class Saves(Strategy):
    def after_step(self, batch: Batch, out: Output) -> None:
        torch.save(out.logits.detach(), io.BytesIO())  # the mistake


@register("saves-in-every-step")
def saves_in_every_step() -> Strategy:
    """Write a tensor into a file in every step."""
    return chain(CrossEntropy(), Saves())


class FreesTooEarly(Strategy):
    def setup(self, run: Run) -> None:
        self.side = torch.cuda.Stream(run.device) if run.device.type == "cuda" else None

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.side is not None:
            doubled = 2 * out.logits.detach()
            self.side.wait_stream(torch.cuda.current_stream(doubled.device))
            with torch.cuda.stream(self.side):
                doubled.square()
            del doubled  # the mistake
        return {"more": out.logits.square().mean()}


@register("frees-too-early")
def frees_too_early() -> Strategy:
    """Give memory back that a second stream still reads."""
    return chain(CrossEntropy(), FreesTooEarly())


class Forgets(Strategy):
    def setup(self, run: Run) -> None:
        self.share = torch.ones((), device=run.device)  # the mistake

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"more": out.logits.square().mean() * self.share}

    def after_step(self, batch: Batch, out: Output) -> None:
        self.share.mul_(0.9)


@register("forgets")
def forgets() -> Strategy:
    """Name nothing in `state`."""
    return chain(CrossEntropy(), Forgets())


RUNS = itertools.count()


class Global(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"more": out.logits.square().mean() * (1e-3 * next(RUNS))}  # the mistake


@register("never-the-same")
def never_the_same() -> Strategy:
    """Compute with what goes on from run to run."""
    return chain(CrossEntropy(), Global())


class DeclaredInLogits(Strategy):
    waits = 1

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        logits = self.run.forward(x, task).logits
        return logits / max(1.0, logits.amax().item())

    @torch.no_grad()
    def end_experience(self, exp: Experience) -> None:
        file = io.BytesIO()
        torch.save([*self.run.model.parameters(), copy.copy(self.run.model.head.weight)], file)  # type: ignore[union-attr]
        file.seek(0)
        for mine, loaded in zip(self.run.model.parameters(), torch.load(file), strict=False):
            mine.copy_(loaded)


@register("innocent-in-logits")
def innocent_in_logits() -> Strategy:
    """Wait where it is evaluated, and say so; save and load tensors where nobody waits for it."""
    return chain(CrossEntropy(), DeclaredInLogits())


class Innocent(Strategy):
    waits = 1

    def setup(self, run: Run) -> None:
        gpu = run.device.type == "cuda"
        self.side = torch.cuda.Stream(run.device) if gpu else None
        self.event = torch.cuda.Event() if gpu else None
        self.most = torch.zeros((), pin_memory=gpu)
        self.share = torch.ones(4, pin_memory=gpu)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.said = f"{out.logits.detach().amax():.3f}"
        share = self.share[:1].to(out.logits.device, non_blocking=True)
        return {"more": (out.logits * share).square().mean()}

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.side is None or self.event is None:
            return
        if self.event.query():
            self.last = self.most.item()
        main = torch.cuda.current_stream(out.logits.device)
        self.side.wait_stream(main)
        torch.cuda.set_stream(self.side)
        most = out.logits.amax()
        torch.cuda.set_stream(main)
        main.wait_stream(self.side)
        with torch.cuda.device(out.logits.device):
            self.most.copy_(most, non_blocking=True)
            self.event.record(main)
        most.record_stream(main)
        torch.cuda.memory_allocated(out.logits.device)


@register("innocent")
def innocent() -> Strategy:
    """Do what looks like a mistake and is none: declared waits, pinned memory, ordered streams."""
    return chain(CrossEntropy(), Innocent())
