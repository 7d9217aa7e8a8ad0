"""A GPU without a GPU: a `cuda:0` that computes on the CPU and is as strict as a real one, or stricter.

    from clbench.machine.guard import load
    assert not load()                  # before torch is imported
    from clbench.testing.imitation import strict_cuda
    with strict_cuda() as gpu:
        run = tiny_run(make_strategy("er"), tiny_benchmark(), device="cuda")
        run.fit()
    print(gpu.counts())                # how often the host waited, and on which line

Tensors of the device wrap CPU tensors and are handled one operator at a time, below autograd, so that programs take
their own CUDA branches. What it finds:

- mixing: a tensor of another device, where CUDA would raise (`DeviceError`);
- waiting: every `.item()`, `.cpu()`, `nonzero()`, copy from pageable memory …, with the program's line (`Contact`);
- streams: reading what another stream has not finished writing, writing what it still reads, and freeing what it still
  uses (`record_stream` was left out); by vector clocks, whatever the CPU's order happened to be (`Race`);
- graphs: a capture that waits, copies from the host or draws from a generator that was not registered is refused; a
  captured graph's outputs hold NaN until it is replayed; a replay carries out the same operators on the same memory.

Numbers are the CPU's: with equal seeds, results are those of the CPU to the bit, but for operators that CUDA chooses
differently (fused dropout, attention). What it cannot find: the kernels' own numbers, speed, memory, errors that
come later.

It does with numbers what torch's FakeTensor does with shapes: a wrapper subclass claims `device="cuda:0"`, a
TorchDispatchMode catches the factory functions, and `torch.cuda` gets streams, events and graphs written in Python.
The program has one thread of its own beside autograd's.

here.py      what was found, and the device that is there      streams.py   streams, events, memory
tensors.py   tensors and generators                            graphs.py    CUDA graphs
device.py    operators                                         cuda.py      `torch.cuda`
"""

from clbench.testing.imitation.cuda import strict_cuda as strict_cuda
from clbench.testing.imitation.device import StrictGPU as StrictGPU
from clbench.testing.imitation.here import (
    Contact as Contact,
    DeviceError as DeviceError,
    Race as Race,
    WaitError as WaitError,
)
