"""What clbench costs, beside a bare PyTorch loop, Avalanche and Mammoth, in one process.

turns.py        contenders take turns, a few steps each, so that whatever else the machine does hits all alike
contenders.py   the same training by hand, by clbench, by Avalanche, by Mammoth
measure.py      training steps, and evaluations after every step
packing.py      several seeds on one device at once
show.py         the results as tables and as a plot
gpu.py          what a GPU does, as one report within eight minutes
"""

from clbench.testing.bench.contenders import CASES as CASES, Case as Case
from clbench.testing.bench.measure import measure as measure
from clbench.testing.bench.show import plot as plot, table as table
