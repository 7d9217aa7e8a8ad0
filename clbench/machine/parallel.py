"""One run in several processes, started by torchrun: each sends its share of a batch's rows through the network.

All processes do the same: they prepare the same batches, draw the same numbers and compute the same losses, on the
whole batch. Only what costs is divided. Within a gradient, a forward pass takes a process's own rows and gathers
everybody's outputs; their gradient goes back through the own rows, and the parameters' gradients are averaged:

    x[r], r = share(B) → network → gather → losses of all B rows
    mean over W ← network ← W · ∂L/∂out[r] ← gather's backward ←┘

The mean of W such gradients is the gradient of L, and a term of L that depends on the weights alone is in each of them
as it is. So replay, distances between rows, teachers and penalties need nothing of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from clbench.config import place
from clbench.errors import ClbenchError, ConfigError, IncompatibleError
from clbench.machine.device import pick_device
from clbench.machine.randomness import derive_seed, global_rng
from clbench.types import Batch

APART = 1e-3
"""How far apart two processes may be, relative to the largest entry: rounding differs between machines."""

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class Ranks:
    """The processes of a run, and which one this is; without torchrun, the only one.

    Attributes:
        rank: that of this process, from 0.
        size: W, how many there are.
        local: rank of this process on its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size, self.local = rank, size, local
        self._sharing = False
        self._batch: Batch | None = None  # the last one that was shared

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def device(self, name: str) -> torch.device:
        """Return the device of that name; where there are several GPUs, this process's own.

        Raises:
            ConfigError: there is none for this process.
        """
        if self.alone:
            return pick_device(name)
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda:"):
            raise ConfigError(f"{self.size} processes take a GPU each; name none: --device cuda.")
        return pick_device(f"cuda:{self.local}" if name == "cuda" else name)

    # --- who does what ---

    def share(self, n: int) -> slice:
        """Return the rows of n that are this process's: as many for each, one more for the first ones."""
        each, more = divmod(n, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    @contextlib.contextmanager
    def sharing(self, batch: Batch | None = None) -> Iterator[None]:
        """Share forward passes inside; outside, every process makes them whole."""
        if not self.alone:
            self._sharing, self._batch = True, batch
        try:
            yield
        finally:
            self._sharing = False

    def through(self, network: Network, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C) of all rows of x (B, …).

        Fewer rows than processes are not shared. Noise is drawn from a seed that torch's global generator gives, so
        that it differs between processes and yet follows from what a checkpoint holds.

        Args:
            network: what makes features and logits of rows. model: whose batch normalisation is over all rows.
        """
        if not self._sharing or len(x) < self.size:
            return network(x)
        noise = derive_seed(int(torch.randint(1 << 62, ())), f"rank {self.rank}")
        with global_rng(x.device, noise, None), self._normalising(model):
            features, logits = network(x[self.share(len(x))])
        ends = [features.shape[1:], logits.shape[1:]]  # of language, (L, D) and (L, C)
        rows = torch.cat([features.flatten(1), logits.flatten(1)], 1)
        gathered: Tensor = _Gather.apply(rows, self, len(x))  # type: ignore[no-untyped-call]
        features, logits = gathered.split([end.numel() for end in ends], 1)
        return features.unflatten(1, ends[0]), logits.unflatten(1, ends[1])

    @contextlib.contextmanager
    def _normalising(self, model: nn.Module) -> Iterator[None]:
        """Batch normalisation in training mode uses the statistics of all processes' rows.

        The modules stay as they are; only their forward is another one meanwhile.
        """
        norms = [
            m
            for m in model.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or m.running_mean is None)
        ]
        for norm in norms:
            vars(norm)["forward"] = functools.partial(_normalise, norm)
        try:
            yield
        finally:
            for norm in norms:
                del vars(norm)["forward"]

    # --- what they tell each other; every process must come by ---

    def gather(self, mine: Tensor, n: int) -> Tensor:
        """(n, K) everybody's rows, of which `mine` (share, K) are this process's."""
        most = -(-n // self.size)
        padded = mine.new_zeros((most, *mine.shape[1:]))
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in range(self.size)]
        _talk(distributed.all_gather, found, padded)
        return torch.cat([rows[: n // self.size + (r < n % self.size)] for r, rows in enumerate(found)])

    def sum(self, values: Tensor) -> Tensor:
        """Add up the values of all processes, in place."""
        if not self.alone:
            _talk(distributed.all_reduce, values)
        return values

    def average(self, parameters: Sequence[Tensor]) -> None:
        """Gradients become their mean over the processes, in one message for each type."""
        if self.alone:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            same = [g for g in gradients if g.dtype == dtype]
            flat = self.sum(torch.cat([g.reshape(-1) for g in same])).div_(self.size)
            pieces = flat.split([g.numel() for g in same])
            torch._foreach_copy_(same, [piece.view(g.shape) for piece, g in zip(pieces, same, strict=True)])

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return each flag, whether it is up in any process."""
        if self.alone:
            return flags
        told = torch.tensor(flags, dtype=torch.int32)
        _talk(distributed.all_reduce, told, distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in told.tolist())

    def lead(self, act: Callable[[], bytes]) -> bytes:
        """Return what the first process's `act` returns, in every process.

        Raises:
            ClbenchError: in the others, with the message of what it raised in the first.
        """
        if self.alone:
            return act()
        if not self.first:
            answer = self._told(b"")
            if answer[:1] == b"!":
                raise ClbenchError(answer[1:].decode())
            return answer[1:]
        try:
            answer = b"." + act()
        except Exception as error:
            self._told(b"!" + str(error).encode())
            raise
        return self._told(answer)[1:]

    def _told(self, words: bytes) -> bytes:
        """Return the first process's bytes."""
        length = torch.tensor(len(words))
        _talk(distributed.broadcast, length, 0)
        text = torch.empty(int(length), dtype=torch.uint8)
        if self.first:
            text = torch.frombuffer(bytearray(words), dtype=torch.uint8)
        _talk(distributed.broadcast, text, 0)
        return bytes(text.numpy().data)

    @torch.no_grad()
    def agree(self, who: str, weights: Sequence[Tensor], losses: float) -> None:
        """Take over the first process's weights, which differ by rounding at most, as do the last batch and the losses.

        Args:
            who: the strategy, for the message. weights: to be overwritten. losses: logged so far, summed.

        Raises:
            IncompatibleError: they differ by more.
        """
        if self.alone:
            return
        device = weights[0].device
        told = [torch.tensor([losses], dtype=torch.float64, device=device)]
        if self._batch is not None:
            told += [values.double().square().sum()[None] for values in (self._batch.x, self._batch.y)]
        apart = torch.zeros((), dtype=torch.float64, device=device)
        for mine in (*told, *weights):
            theirs = mine.detach().clone(memory_format=torch.contiguous_format)
            _talk(distributed.broadcast, theirs, 0)
            if mine.numel():
                scale = theirs.double().abs().amax().clamp(min=1e-6)
                apart = torch.maximum(apart, (mine.double() - theirs.double()).abs().amax() / scale)
            mine.copy_(theirs)
        _talk(distributed.all_reduce, apart, distributed.ReduceOp.MAX)
        if not float(apart) <= APART:
            raise IncompatibleError(
                f"The {self.size} processes of this run have drifted apart (by {float(apart):.1g}): {who} decides "
                "or draws by something that is not the same in all of them, although it declares parallel = True. "
                "Run it without torchrun."
            )


ALONE = Ranks()
"""A run in one process."""


@functools.cache
def join() -> Ranks:
    """Return the processes that torchrun has started, this one among them; `ALONE` without torchrun."""
    rank, size, local = place()
    if size == 1:
        return ALONE
    if not distributed.is_initialized():
        cuda = torch.cuda.is_available() and distributed.is_nccl_available()
        if cuda:
            torch.cuda.set_device(local % torch.cuda.device_count())
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", rank=rank, world_size=size)
        atexit.register(_leave)
    return Ranks(rank, size, local)


def _talk(how: Callable[..., object], *what: object) -> None:
    """Exchange a message that every process takes part in.

    Raises:
        ClbenchError: another one has gone.
    """
    try:
        how(*what)
    except RuntimeError as error:
        raise ClbenchError(
            f"Another process of this run has ended, so this one ends, too; its own message says why. The same command "
            f"again goes on from the last checkpoint. ({str(error).splitlines()[0]})"
        ) from error


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


class _Gather(torch.autograd.Function):
    """`Ranks.gather`. Every process goes on to the same loss, so each sends back its own rows' gradient alone.

    Times their number, as the parameters' gradients are averaged afterwards.
    """

    @staticmethod
    def forward(ctx: Any, mine: Tensor, ranks: Ranks, n: int) -> Tensor:
        ctx.ranks, ctx.rows = ranks, ranks.share(n)
        return ranks.gather(mine, n)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows] * ctx.ranks.size, None, None


class _Sum(torch.autograd.Function):
    """The sum over all processes, each of which goes on to rows of its own: so are their gradients summed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        _talk(distributed.all_reduce, total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        _talk(distributed.all_reduce, total)
        return total


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def _normalise(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """(n, C, …) → (n, C, …): batch normalisation in training mode, over the rows of all processes."""
    rows, dims = x.float(), [0, *range(2, x.dim())]
    channels, shape = x.shape[1], (1, -1, *(1 for _ in x.shape[2:]))
    size = rows.new_tensor([x.numel() // channels])
    total, size = _summed(torch.cat([rows.sum(dims), size])).split([channels, 1])
    n = size.detach()
    mean = total / n  # (C,)
    centred = rows - mean.view(shape)
    variance = _summed(centred.square().sum(dims)) / n
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            count = norm.num_batches_tracked
            assert count is not None
            count.add_(1)
            rate = norm.momentum if norm.momentum is not None else 1 / float(count)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
            norm.running_var.lerp_((variance * n / (n - 1)).to(norm.running_var.dtype), rate)
    y = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    normalised: Tensor = y.to(x.dtype)
    return normalised
