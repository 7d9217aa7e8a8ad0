"""Tensors and generators that say they are of a CUDA device; numbers lie in the CPU's memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from clbench.testing.imitation.here import DeviceError, machine
from clbench.testing.imitation.streams import Block, Stream

_tensor: Any = torch.Tensor


class StrictTensor(torch.Tensor):
    """A tensor of the device; `raw` is the CPU tensor it stands for, `block` the memory it lies in."""

    raw: torch.Tensor
    block: Block

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, raw: torch.Tensor, block: Block) -> StrictTensor:
        made: StrictTensor = _tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=machine().device,
        )
        made.raw, made.block = raw, block
        return made

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return machine().run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        machine().meet("read", "printing")
        return f"{self.raw!r} on {self.device}"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            with torch.no_grad():
                copied: Any = self.detach().clone(memory_format=torch.preserve_format)
            copied.requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True
            if self.grad is not None:
                copied.grad = self.grad.__deepcopy__(memo)
            memo[id(self)] = copied
        return memo[id(self)]

    def __copy__(self) -> Any:
        return self.detach().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if getattr(self, "_is_param", False):
            return torch._utils._rebuild_parameter, (self.detach(), self.requires_grad, {})
        machine().meet("read", "pickling")
        data, kept = self.raw.detach().clone(), (self.dtype, str(self.device), self.requires_grad)
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (data, *kept)

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    # torch's own would ask for the present device
    def new_tensor(self, data: Any, **how: Any) -> torch.Tensor:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device, **how})

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.block.recorded.add(stream.number)

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                "memory first."
            )
        return self.detach().cpu().numpy()

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def pin_memory(self, *_: Any) -> torch.Tensor:
        raise RuntimeError(f"cannot pin '{self.type()}': only dense CPU tensors can be pinned")

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, StrictTensor):
            raise DeviceError("`.data` of a tensor of the device was set to one of the CPU")
        if value is not self:
            _tensor.data.__set__(self, value)
            self.raw, self.block = value.raw, value.block


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return what an operator takes or gives, with every leaf replaced."""
    if isinstance(tree, tuple):
        return tuple([tree_map(function, leaf) for leaf in tree])
    if isinstance(tree, list):
        return [tree_map(function, leaf) for leaf in tree]
    if isinstance(tree, dict):
        return {key: tree_map(function, leaf) for key, leaf in tree.items()}
    return function(tree)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in what an operator takes or gives, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return []
    return [tensor for leaf in tree for tensor in tensors_in(leaf)]


def parameter_data() -> property:
    """`parameter.data = x` where the parameter is on the CPU and x on the device, as `Module.to` does: it stays the
    same object."""
    plain = _tensor.data

    def get(parameter: torch.Tensor) -> Any:
        return plain.__get__(parameter)

    def put(parameter: torch.Tensor, value: torch.Tensor) -> None:
        if isinstance(value, StrictTensor):
            made = torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
            torch.utils.swap_tensors(parameter, made)
        else:
            plain.__set__(parameter, value)

    return property(get, put)


_MARK = torch.tensor([255], dtype=torch.uint8)
"""At the end of a state of the device's generators: as on a GPU, it has another size than a CPU's."""


def marked(state: torch.Tensor) -> torch.Tensor:
    """A CPU's state, as one of the device."""
    return torch.cat([state, _MARK])


def unmarked(state: torch.Tensor) -> torch.Tensor:
    """A state of the device, as a CPU's.

    Raises:
        TypeError: it lies on the device. RuntimeError: it is one of a CPU.
    """
    if isinstance(state, StrictTensor):
        raise TypeError("RNG state must be a torch.ByteTensor")  # on the CPU, as CUDA asks
    if state.numel() == torch.default_generator.get_state().numel():
        raise RuntimeError("RNG state is wrong size")
    return state[:-1]


class Generator(torch._C.Generator):
    """A generator that says which device it is of, and draws on the CPU."""

    made: ClassVar[weakref.WeakValueDictionary[int, Generator]] = weakref.WeakValueDictionary()
    """By the address of what torch hands on in their place."""
    _device: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        of = torch.device(device)
        made._device = machine().named(of) if of.type == "cuda" else of
        cls.made[made._cdata] = made  # type: ignore[attr-defined]
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._device

    def get_state(self) -> torch.Tensor:
        state = super().get_state()
        return marked(state) if self._device.type == "cuda" else state

    def set_state(self, state: torch.Tensor) -> Generator:
        super().set_state(unmarked(state) if self._device.type == "cuda" else state)
        return self
