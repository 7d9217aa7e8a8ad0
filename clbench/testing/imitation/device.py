"""The device itself: it carries operators out on the CPU, and notes what mixes, waits or races."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from clbench.files.places import HOME
from clbench.registry.authors import is_library
from clbench.testing.imitation.here import Contact, DeviceError, Machine, Race, WaitError
from clbench.testing.imitation.streams import Block, Stream
from clbench.testing.imitation.tensors import Generator, StrictTensor, tensors_in, tree_map

WAITS = frozenset(
    {
        "_linalg_check_errors",
        "_linalg_eigh",
        "_linalg_svd",
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "histc",
        "linalg_eig",
        "linalg_lstsq",
        "masked_select",
        "multinomial",
        "nonzero",
        "unique",
        "unique_consecutive",
        "unique_dim",
        "unique_dim_consecutive",
    }
)
"""Operators of aten for whose result the host waits: its size, or its return value, hangs on numbers of the device."""
OF_FLOATS = frozenset({"addbmm", "addmm", "addmv", "baddbmm", "bmm", "dot", "mm", "mv", "vdot"})
"""Products that the CPU has of whole numbers, and CUDA only of floats."""
MOVES_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operators that take indices on the CPU and copy them over, which waits; never the other way round."""
UNORDERED = frozenset(
    {
        "index_add",
        "index_add_",
        "max_pool3d_with_indices_backward",
        "replication_pad1d_backward",
        "replication_pad2d_backward",
        "scatter_add",
        "scatter_add_",
    }
)
"""Operators whose sums CUDA takes in any order, and of which it has another form where torch is to be deterministic."""
NEVER_ORDERED = frozenset(
    {
        "_adaptive_avg_pool2d_backward",
        "_adaptive_avg_pool3d_backward",
        "_ctc_loss",
        "adaptive_max_pool2d_backward",
        "avg_pool3d_backward",
        "cumsum",
        "fractional_max_pool2d_backward",
        "grid_sampler_2d_backward",
        "grid_sampler_3d_backward",
        "histc",
        "kthvalue",
        "max_unpool2d",
        "median",
        "nll_loss2d_forward",
        "put_",
        "reflection_pad1d_backward",
        "reflection_pad2d_backward",
        "scatter_reduce",
        "upsample_bicubic2d_backward",
        "upsample_bilinear2d_backward",
        "upsample_linear1d_backward",
        "upsample_trilinear3d_backward",
    }
)
"""Of which it has none, for floats."""
_INSIDE = f"{Path(__file__).parent}/"
_OURS, _STRATEGIES, _PARTS = f"{HOME}/", f"{HOME}/strategies/", f"{HOME}/parts/"
_ENDS = {
    str(HOME / "engine" / "engine.py"): ("fit", "__init__"),
    str(HOME / "evaluation" / "evaluator.py"): ("tick", "full", "look_at_documents"),
}
"""Functions beyond which no line has a part in what goes on, by file."""
_ALLOWED = str(HOME / "machine" / "caching.py")
"""Where evaluation waits for a strategy that spares it more."""


class StrictGPU(Machine, TorchDispatchMode):
    """A device that runs operators on the CPU.

    Args:
        index: the device's number. `cuda:0` stays the present one, as in a program that never says otherwise: what is
            started without a device or a stream then goes to the wrong GPU.
    """

    def __init__(self, index: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.contacts, self.races, self.unordered = [], [], []
        self.device = torch.device("cuda", index)
        self.current = torch.device("cuda", 0)
        self.host = Counter()
        self.freed = {}
        self.capturing = None
        self.sync_mode = "default"
        self.pinned = {}
        self.pools: dict[Any, Any] = {}
        self._main = threading.main_thread().ident or 0

    def begin(self) -> None:
        """Make the streams in which things happen unless others are named."""
        self.defaults = {number: Stream(torch.device("cuda", number)) for number in range(self.count)}
        self.streams = dict(self.defaults)
        self._first = self.defaults[self.device.index].number

    @property
    def count(self) -> int:
        """How many devices there are."""
        return self.device.index + 1

    # --- for who looks at it ---

    def counts(self, since: int = 0) -> Counter[tuple[str, str, str]]:
        """Return how often (kind, operator, line) met the host."""
        return Counter((c.kind, c.op, c.where) for c in self.contacts[since:])

    def where(self) -> tuple[str, bool]:
        line, backward = self._line()
        return line.said or "?", backward

    def _line(self) -> tuple[_Line, bool]:
        backward = threading.get_ident() != self._main
        found = _line(sys._getframe(2))
        if not found.said and backward:  # autograd's thread: the line that called it
            found = _line(sys._current_frames().get(self._main))
        return found, backward

    def meet(self, kind: str, op: str, clock: Counter[int] | None = None) -> None:
        """The host and the device meet; afterwards the host knows what is done of the present stream, or in a clock."""
        line, backward = self._line()
        where = line.said or "?"
        if kind != "pageable":
            if self.capturing is not None:
                raise WaitError(f"operation not permitted when stream is capturing: {op} ({where})")
            self.host |= self.stream.clock if clock is None else clock
            if self.sync_mode == "error":
                raise WaitError(f"called a synchronizing CUDA operation: {op} ({where})")
        elif self.capturing is not None:
            raise WaitError(
                f"operation not permitted when stream is capturing: {op} from pageable memory ({where})"
            )
        self.contacts.append(Contact(kind, op, where, backward, line.theirs))

    def wait_for(self, clock: Counter[int], op: str) -> None:
        """The host asks to wait until what a clock counts is done; what it knows to be done takes no wait."""
        if self.capturing is not None or any(self.host[stream] < at for stream, at in clock.items()):
            self.meet("wait", op, clock)

    def look(self, tensor: torch.Tensor, op: str, *, writes: bool = False) -> None:
        """The host reads a tensor of its own, or writes it: a copy that is under way to or from there must be over."""
        if not self.pinned or (flights := self.pinned.get(_place(tensor))) is None:
            return
        for stream, at, kind in flights:
            if self.host[stream] < at and (writes or kind == "written"):
                said = "read before written" if kind == "written" else "written before read"
                self.race(said, op, pinned=True)
        flights[:] = [flight for flight in flights if self.host[flight[0]] < flight[1]]

    def race(self, kind: str, op: str, *, pinned: bool = False) -> None:
        self.races.append(Race(kind, op, self.where()[0], pinned))

    # --- operators ---

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    @contextlib.contextmanager
    def beneath(self) -> Iterator[None]:
        """Without this mode, on the CPU tensors themselves."""
        with _disable_current_modes():
            yield

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = _about(func).name
        tensors = tensors_in((args, kwargs))
        ours = [t for t in tensors if isinstance(t, StrictTensor)]
        asked = kwargs.get("device")
        asked = None if asked is None else torch.device(asked)
        here = bool(ours) if asked is None else asked.type == "cuda"
        if not ours and not here:
            self._check_host(func, name, args, kwargs, tensors)
            if kwargs.get("pin_memory"):
                return func(*args, **{**kwargs, "pin_memory": False}).pin_memory()
            return func(*args, **kwargs)
        if asked is not None and here and self.named(asked) != self.device:
            raise DeviceError(
                f"{name} asks for {self.named(asked)}, and the run is on {self.device} ({self.where()[0]})"
            )
        if name == "_to_copy":
            return self._to_copy(func, args, kwargs, here)
        if name == "copy_":
            return self._copy_(func, args, kwargs)
        if name == "_fused_sdp_choice":
            return 0  # by matrix products: the CPU's fused kernel is no CUDA kernel
        if name == "is_pinned":
            return False
        if name in OF_FLOATS and not (ours[0].is_floating_point() or ours[0].is_complex()):
            raise DeviceError(
                f"{name} is not implemented for {ours[0].dtype} on a GPU, which multiplies only matrices of floats; "
                f"call .float() before ({self.where()[0]})"
            )
        if (
            name in ("_softmax", "_log_softmax") and args[2]
        ):  # from half to float in one: the CPU has no such kernel
            args = (args[0].to(torch.float32), args[1], False)
            ours = [args[0]]
        self._check(func, name, args, kwargs, tensors, ours)
        if asked is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("pin_memory"):
            raise RuntimeError("only dense CPU tensors can be pinned")
        return self._carried_out(func, name, args, kwargs, ours, here)

    def _carried_out(
        self, func: Any, name: str, args: Any, kwargs: Any, ours: list[StrictTensor], here: bool
    ) -> Any:
        def plain(leaf: Any) -> Any:
            if isinstance(leaf, StrictTensor):
                return leaf.raw
            if self.capturing is not None and isinstance(leaf, torch.Tensor):
                return (
                    leaf.clone()
                )  # a graph holds the number that was there, whatever the host makes of it later
            return leaf

        raw_args, raw_kwargs = tree_map(plain, args), tree_map(plain, kwargs)
        written = [t for t in _written(func, args, kwargs) if isinstance(t, StrictTensor)]
        view = _about(func).aliases and not written
        for t in written if self.capturing is not None else ():
            self.capturing.about_to_write(t.raw)
        with self.beneath():
            out = func(*raw_args, **raw_kwargs)
        if self.capturing is not None:
            self.capturing.keep.append((args, kwargs))
            self.capturing.note(func, raw_args, raw_kwargs, out, writes=bool(written), view=view)
        if not view:
            self._touch(name, ours, written)
        for t in written:
            if name.startswith("_foreach"):  # CUDA's kernels count versions themselves
                torch.autograd.graph.increment_version(t)
            if t.raw.shape != t.shape or t.raw.stride() != t.stride():  # squeeze_ and the like
                torch.Tensor.data.__set__(t, StrictTensor(t.raw, t.block))  # type: ignore[attr-defined]
        return self._wrap(out, ours, here)

    def _wrap(self, out: Any, ours: Sequence[StrictTensor], here: bool) -> Any:
        known = {
            id(t.raw): t for t in ours
        }  # an operator that writes in place returns the tensor it was given
        blocks = {t.raw.untyped_storage()._cdata: t.block for t in ours}

        def back(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not here:
                return value
            if id(value) in known:
                return known[id(value)]
            return self.made(value, blocks.get(value.untyped_storage()._cdata))

        return tree_map(back, out)

    def made(self, raw: torch.Tensor, block: Block | None = None) -> StrictTensor:
        """Return a tensor of the device around a CPU tensor; in fresh memory, if none is given."""
        if block is None:
            block = Block(self.stream)
            if self.capturing is None:
                self._give_out(self.stream)
                self.stream.clock[self.stream.number] += 1
                block.written = (self.stream.number, self.stream.clock[self.stream.number])
            else:
                self.capturing.blocks[block] = True
        return StrictTensor(raw, block)

    def _give_out(self, stream: Stream) -> None:
        """Memory that was freed on a stream may be that which is now allocated there."""
        for uses, where in self.freed.pop(stream.number, ()):
            if any(stream.clock[other] < at and self.host[other] < at for other, at in uses):
                self.race("given out again in use", f"freed at {where}")

    def _check(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        tensors: Sequence[torch.Tensor],
        ours: Sequence[StrictTensor],
    ) -> None:
        """Raise where devices mix; note where the host waits."""
        self._check_generator(name, args, kwargs)
        if name in UNORDERED or name in NEVER_ORDERED:
            self._check_order(name, tensors)
        if _about(func).waits or (
            (name.startswith("repeat_interleave") and len(args) == 1 and kwargs.get("output_size") is None)
            or (name == "searchsorted" and kwargs.get("sorter") is not None)
        ):
            self.meet("wait" if name != "_local_scalar_dense" else "read", name)
        moves = name in MOVES_INDICES
        if moves:
            self._check_indices(name, args)
        if not ours:
            return
        pointwise = _about(func).pointwise
        indices = [id(t) for t in args[1] if t is not None] if moves else []
        for tensor in tensors:
            if isinstance(tensor, StrictTensor):
                continue
            if id(tensor) in indices or ((moves or pointwise) and tensor.dim() == 0):
                continue
            raise DeviceError(
                f"Expected all tensors to be on the same device, but found {self.device} and cpu: "
                f"{name} has a {tensor.dtype} {tuple(tensor.shape)} on the CPU ({self.where()[0]}); "
                "make it with device=run.device"
            )
        for tensor in _written(func, args, kwargs):
            if not isinstance(tensor, StrictTensor):
                raise DeviceError(
                    f"{name} writes numbers of {self.device} into a tensor of the CPU ({self.where()[0]})"
                )

    def _check_order(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        if not any(t.is_floating_point() for t in tensors):
            return
        where, backward = self.where()
        if name in NEVER_ORDERED and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{name} does not have a deterministic implementation ({where})")
        self.unordered.append(Contact("unordered", name, where, backward))

    def _check_host(
        self, func: Any, name: str, args: Any, kwargs: Any, tensors: Sequence[torch.Tensor]
    ) -> None:
        """Raise where an operator of the CPU draws from the device; note where it meets a copy under way."""
        generator = _generator(args, kwargs)
        if generator is not None and generator.device.type == "cuda":
            raise DeviceError(
                f"Expected a 'cpu' device type for generator but found '{generator.device}': {name} is asked for no "
                f"device and draws on the CPU; give it device=run.device ({self.where()[0]})"
            )
        written = {id(t) for t in _written(func, args, kwargs)} if self.pinned else set()
        if self.pinned and (written or not _about(func).aliases):  # a view looks at nothing
            for tensor in tensors:
                self.look(tensor, name, writes=id(tensor) in written)

    def _check_generator(self, name: str, args: Any, kwargs: Any) -> None:
        generator = _generator(args, kwargs)
        if generator is None:
            return
        if generator.device != self.device:
            raise DeviceError(
                f"Expected a '{self.device}' generator but found one of '{generator.device}': {name} "
                f"({self.where()[0]}); draw from self.run.rng"
            )
        if self.capturing is not None and all(generator is not g for g in self.capturing.generators):
            raise WaitError(
                f"{name} draws from a generator that is not registered with the graph ({self.where()[0]}); draw from "
                "self.run.rng"
            )

    def _check_indices(self, name: str, args: Any) -> None:
        for index in args[1]:
            if not isinstance(index, torch.Tensor):
                continue
            if index.dtype in (torch.bool, torch.uint8):
                fill = name != "index" and args[2].numel() == 1 and not isinstance(args[2], StrictTensor)
                if not fill:  # else it is a masked_fill
                    self.meet("wait", f"{name} by a mask")
            elif not isinstance(index, StrictTensor):
                self.meet("send", f"{name} by indices on the CPU")
        if not isinstance(args[0], StrictTensor):
            raise DeviceError(
                f"{name}: indices or values of {self.device} for a tensor of the CPU ({self.where()[0]})"
            )

    # --- copies ---

    def _to_copy(self, func: Any, args: Any, kwargs: Any, here: bool) -> Any:
        source, quiet = args[0], bool(kwargs.get("non_blocking"))
        ours = isinstance(source, StrictTensor)
        rest = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory", "non_blocking")}
        if ours and not here:
            if quiet:  # the numbers may not be there when they are read
                self.meet("pageable", "to host, not waiting")
            else:
                self.meet("read", "_to_copy")
        elif here and not ours:
            self._send("_to_copy", source, quiet)
        raw = source.raw if ours else source
        with self.beneath():
            out = func(raw, **rest)
        if ours:
            self._touch("_to_copy", [source], [])
        if not here:
            return out
        if not ours and quiet:
            self.stream.clock[self.stream.number] += 1
            self._fly(source, "read")
        if self.capturing is not None and ours:
            self.capturing.keep.append((args, kwargs))
            self.capturing.note(func, (raw,), rest, out, writes=False, view=False)
        return self.made(out)

    def _copy_(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, source = args[:2]
        quiet = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        to, of = (isinstance(t, StrictTensor) for t in (target, source))
        if to and not of:
            self._send("copy_", source, quiet)
        elif of and not to and not (quiet and _place(target) in self.pinned):
            self.meet("pageable" if quiet else "read", "copy_")
        raw_to, raw_of = (t.raw if isinstance(t, StrictTensor) else t for t in (target, source))
        if self.capturing is not None and to:
            self.capturing.about_to_write(raw_to)
        with self.beneath():
            func(raw_to, raw_of)
        if self.capturing is not None:
            self.capturing.keep.append((args, kwargs))
            self.capturing.note(func, (raw_to, raw_of), {}, raw_to, writes=True, view=False)
        self._touch(
            "copy_", [t for t in (target, source) if isinstance(t, StrictTensor)], [target] if to else []
        )
        if to != of and quiet:
            self._fly(source if to else target, "read" if to else "written")
        return target

    def _send(self, op: str, source: torch.Tensor, quiet: bool) -> None:
        if not quiet:
            self.meet("send", op)
        elif _place(source) not in self.pinned:
            self.meet("pageable", op)

    def _fly(self, tensor: torch.Tensor, kind: str) -> None:
        """Pinned memory of the host is read, or written, in the present stream, and the host does not wait for it."""
        if self.capturing is None and (flights := self.pinned.get(_place(tensor))) is not None:
            flights.append((self.stream.number, self.stream.clock[self.stream.number], kind))

    # --- streams ---

    def _touch(self, name: str, ours: Sequence[StrictTensor], written: Sequence[StrictTensor]) -> None:
        """Advance the stream's clock, and see whether the memory is ready for it."""
        blocks: dict[Block, bool] = {}
        for t in ours:
            blocks[t.block] = blocks.get(t.block, False) or any(t is w for w in written)
        if self.capturing is None:
            self.touch(blocks, name)
            return
        for block, writes in blocks.items():
            self.capturing.blocks[block] = self.capturing.blocks.get(block, False) or writes

    def touch(self, blocks: dict[Block, bool], name: str) -> None:
        stream, me = self.stream, self.stream.number
        stream.clock[me] += 1
        now = stream.clock[me]
        for block, writes in blocks.items():
            by, at = block.written
            if self._apart(by, at):
                self.race("read before written", name)
            if writes:
                for reader, when in block.readers.items():
                    if self._apart(reader, when):
                        self.race("written before read", name)
                block.written, block.readers = (me, now), {}
            else:
                block.readers[me] = now

    def _apart(self, other: int, at: int) -> bool:
        """Whether neither the present stream nor the host knows what another one did then to be done."""
        stream = self.stream
        return (
            other >= self._first
            and other != stream.number
            and stream.clock[other] < at
            and self.host[other] < at
        )


class _About(NamedTuple):
    """What is to be known of an operator: `writes` are the arguments into which it does, by place and name; `waits`,
    whether the host always waits for it."""

    name: str
    writes: tuple[tuple[int, str], ...]
    aliases: bool
    pointwise: bool
    waits: bool


@functools.cache
def _about(func: Any) -> _About:
    schema = func._schema
    name: str = schema.name.removeprefix("aten::")
    writes = [(i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    aliases = any(r.alias_info is not None for r in schema.returns)
    by_name = name.startswith(("_foreach", "fill", "masked_fill", "where", "lerp"))
    checks_spread = name == "normal" and schema.overload_name in ("Tensor_Tensor", "float_Tensor")
    waits = name in WAITS or torch.Tag.data_dependent_output in func.tags or checks_spread
    return _About(name, tuple(writes), aliases, by_name or torch.Tag.pointwise in func.tags, waits)


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """Return the tensors that an operator writes into."""
    writes = _about(func).writes
    return (
        tensors_in([args[i] if i < len(args) else kwargs.get(name) for i, name in writes]) if writes else []
    )


def _generator(args: Any, kwargs: Any) -> Any:
    """Return the generator that an operator is given, as it was made; None if it is given none."""
    given: Any = next((a for a in args if isinstance(a, torch._C.Generator)), kwargs.get("generator"))
    return None if given is None else Generator.made.get(given._cdata, given)


def _place(tensor: torch.Tensor) -> int:
    """Where a tensor of the CPU lies, whatever part of it this is."""
    return tensor.untyped_storage().data_ptr()


class _Line(NamedTuple):
    """A line of the program; `theirs`: that a strategy, a plug-in or a part is at work there."""

    said: str
    theirs: bool


def _line(frame: Any) -> _Line:
    """Return the innermost line that is no library's; within a run, a strategy's or plug-in's rather than clbench's."""
    first, parts, allowed = "", False, False
    while frame is not None:
        name = frame.f_code.co_filename
        ours = name.startswith(_OURS) and not name.startswith(_STRATEGIES)
        if frame.f_code.co_name in _ENDS.get(name, ()):
            return _Line(first or f"{_short(name)}:{frame.f_lineno}", parts and not allowed)
        if not name.startswith(_INSIDE) and (ours or not is_library(name)):
            said = f"{_short(name)}:{frame.f_lineno}"
            if not ours:
                return _Line(f"{said}, in {first}" if first else said, not allowed)
            allowed = allowed or (not first and name == _ALLOWED)
            parts = parts or name.startswith(_PARTS)
            first = first or said
        frame = frame.f_back
    return _Line(first, parts and not allowed)


def _short(file: str) -> str:
    return "/".join(file.rsplit("/", 2)[-2:])
