"""GDumb: a balanced memory, and a network trained on it alone, from its beginning, at every experience's end.

Prabhu et al., "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.errors import IncompatibleError
from clbench.memory import Chosen
from clbench.parts import CrossEntropy, box, expect_examples
from clbench.ranges import Count, NotNegative, Positive, Share
from clbench.strategy import overrides


class Dumb(Strategy):
    """Nothing is learned while the stream passes; at an experience's end the network begins anew, on the memory."""

    replaces = (CrossEntropy,)  # the labels are learned here
    needs = frozenset({"memory", "boundaries"})
    state = ("memory", "seen")
    parallel = True

    def __init__(
        self, capacity: int, passes: int, batch_size: int, lr: float, min_lr: float, cutmix: float
    ) -> None:
        self.capacity, self.passes, self.batch_size = capacity, passes, batch_size
        self.lr, self.min_lr, self.cutmix = lr, min_lr, cutmix

    def setup(self, run: Run) -> None:
        for part in run.strategy.parts:
            if part is not self and any(overrides(part, point) for point in ("extend", "order")):
                raise IncompatibleError(
                    f"{part} arranges the stream's batches, and gdumb learns from none of them: it trains on its "
                    "memory alone, at an experience's end."
                )
        if self.cutmix and len(run.input_shape) != 3:
            raise IncompatibleError(
                f"cutmix pastes boxes of images (channels, height, width); an input here is {run.input_shape}. "
                "Set cutmix=0."
            )
        first = run.train[0]
        counts = first.data.y().bincount()
        left_out = max(len(first) - run.steps_of(first) * run.batch_size, 0)
        few = int(counts[counts > 0].min()) - left_out
        if few * int((counts > 0).sum()) >= self.capacity:  # then it is full
            run.foresee(self.capacity, self.batch_size, "the memory (memory, mini_batch)")
        self.memory = Chosen(self.capacity)
        expect_examples(self.memory, run)
        self.seen: list[int] = []  # classes, in the order of their first example
        self.start = {name: value.detach().clone() for name, value in run.model.state_dict().items()}

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        if batch.new:  # of the stream
            sizes = self.run.num_classes, 0
            return Output(*(batch.x.new_zeros((len(batch), size)) for size in sizes))
        self.pasted, self.share = batch.y, torch.ones((), device=batch.x.device)
        if self.cutmix:
            x, self.pasted, self.share = cut_and_paste(batch.x, batch.y, self.cutmix, self.run.rng("cutmix"))
            batch = batch.with_x(x)
        return inner(batch)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        own, pasted = F.cross_entropy(out.logits, batch.y), F.cross_entropy(out.logits, self.pasted)
        return {"fit": self.share * own + (1 - self.share) * pasted}

    def end_experience(self, exp: Experience) -> None:
        self._collect(exp)
        self.run.model.load_state_dict(self.start)
        lr = functools.partial(warm_restarts, highest=self.lr, lowest=self.min_lr)
        self.run.optimise(self._batches, self.passes, lr, momentum=0.9, weight_decay=1e-6, clip=10.0)

    def _collect(self, exp: Experience) -> None:
        """Offer the experience's examples to the memory, in the order in which they came."""
        run = self.run
        came = run.permutation(exp, 0)[: run.steps_of(exp) * run.batch_size]
        offered = exp.data.y()[came].tolist()
        held = self.memory["y"].tolist() if len(self.memory) else []
        drawn = torch.randint(1 << 62, (), generator=run.rng("memory"), device=run.device)
        rng = random.Random(int(drawn))  # one example after the other is decided on the CPU
        kept = greedy_balance(held, offered, self.capacity, self.seen, rng)
        self.seen = list(dict.fromkeys([*self.seen, *offered]))
        old, new = [i for i in kept if i < len(held)], [i - len(held) for i in kept if i >= len(held)]
        raw, y = exp.data.take(came[new])
        rows = {"x": raw.to(run.device), "y": y.to(run.device)}
        rows["task"] = torch.full_like(rows["y"], exp.task)
        if old:
            chosen = torch.tensor(old, device=run.device)
            rows = {name: torch.cat([self.memory[name][chosen], new]) for name, new in rows.items()}
        self.memory.keep(**rows)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One pass over the memory in random order: x (B, …) as stored, y (B,), task (B,)."""
        rng = self.run.rng("replay")
        order = torch.randperm(len(self.memory), generator=rng, device=rng.device)
        for rows in order.split(self.batch_size) if len(self.memory) else ():
            x, y, task = (self.memory[name].index_select(0, rows) for name in ("x", "y", "task"))
            yield x, y, task


def greedy_balance(
    held: Sequence[int], offered: Sequence[int], capacity: int, seen: Sequence[int], rng: random.Random
) -> list[int]:
    """Return which examples a memory keeps that holds the labels `held` and is offered `offered`, one by one.

    An example enters if its class is new or has fewer than capacity / classes seen; where there is no room, a random
    example of the largest class leaves; where several are as large, of the one seen first.

    Returns:
        Positions in `held` followed by `offered`, sorted.
    """
    if capacity == 0:
        return []
    rows: dict[int, list[int]] = {c: [] for c in seen}
    for position, c in enumerate(held):
        rows[c].append(position)
    size = len(held)
    for position, c in enumerate(offered, len(held)):
        if c not in rows:
            rows[c] = []
        elif len(rows[c]) >= capacity / len(rows):
            continue
        if size == capacity:
            largest = max(rows.values(), key=len)
            largest[rng.randrange(len(largest))] = largest[-1]
            largest.pop()
            size -= 1
        rows[c].append(position)
        size += 1
    return sorted(position for positions in rows.values() for position in positions)


def warm_restarts(epoch: int, highest: float, lowest: float) -> float:
    """Return the learning rate of a pass: a tenth of the highest, then cosines to the lowest over 1, 2, 4, 8 …
    passes."""
    if epoch == 0:
        return 0.1 * highest
    length = 2 ** (epoch.bit_length() - 1)  # of the present cosine, which began at pass `length`
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * (epoch - length) / length)) / 2


def cut_and_paste(
    x: Tensor, y: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix: with a probability, one box of every image is that of another image of the batch.

    The box has a share 1 − λ of the area, λ uniform in [0, 1], around a uniform centre; what lies inside the image
    counts.

    Args:
        x: (B, C, H, W) images. y: (B,) labels.

    Returns:
        x (B, C, H, W); the labels (B,) of what was pasted; the share () of the area that stayed.
    """
    sides = x.shape[2:]
    other = torch.randperm(len(x), generator=generator, device=x.device)
    do, share, *places = torch.rand(4, generator=generator, device=x.device)
    centre = torch.stack([size * place for size, place in zip(sides, places, strict=True)]).long()
    inside, _ = box(sides, torch.where(do < probability, share, 1.0), centre)  # (H, W)
    return torch.where(inside, x[other], x), y[other], 1 - inside.float().mean()


@register("gdumb", family="replay", tiny={"passes": 4})
def gdumb(
    memory: Count = 200,
    passes: Count = 32,
    mini_batch: Count = 16,
    lr: Positive = 0.05,
    min_lr: NotNegative = 0.0005,
    cutmix: Share = 0.0,
) -> Strategy:
    """GDumb: keep a balanced memory, learn nothing from the stream, train anew on the memory when asked.

    An example enters the memory while its class has fewer than M / (classes seen); where there is no room, a random
    one of the largest class leaves. At the end of an experience, the network begins again from its first weights and
    takes `passes` passes over the memory: cross-entropy, SGD with momentum 0.9 and weight decay 1e-6, gradients clipped
    at norm 10, one pass at a tenth of the learning rate and then cosines that restart after 1, 2, 4 … passes. Whatever
    a method does with the stream itself should beat that.

    Args:
        memory: M, examples it holds.
        passes: over the memory; the last is at the end of a cosine if it is a power of two. The authors take 128 on
            MNIST and 256 on CIFAR-10.
        mini_batch: examples of the memory in a batch.
        lr: the highest learning rate; the run's own optimizer is not used.
        min_lr: the lowest.
        cutmix: probability that a box of each image in a batch is replaced by that of another; 0 is without.

    Reference: Prabhu et al., "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020.

    Differences from the paper:
        1. The network is trained at the end of every experience, which is when it is asked, not at any time; it begins
           with the same weights each time.
        2. The last pass counts. The authors' code reports the best pass on the test data.
        3. The greedy sampler is the paper's, with a seed; the authors' code takes each class's first examples.
        4. Classes not seen are not ruled out at prediction; a network that never met them does not name them. With less
           memory than classes, the same holds of those that had to leave: each holds one example or none.
    """
    if min_lr > lr:
        raise ValueError(f"min_lr is at most lr, {lr}; {min_lr} was given")
    return Dumb(memory, passes, mini_batch, lr, min_lr, cutmix)
