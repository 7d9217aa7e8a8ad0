"""Imported by Python's fork server, which `processes.starting` starts with signals blocked: what it forks has them.

An interrupt that comes before such a process has begun ends it, without a traceback of what it was importing.
What the server has imported stays: it is not looked through for garbage, there or in what it forks.
"""

import gc
import os
import signal

from clbench.machine.stopping import SIGNALS

signal.signal(signal.SIGINT, signal.SIG_DFL)
os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS))
gc.disable()
os.register_at_fork(before=gc.freeze, after_in_child=gc.enable)
