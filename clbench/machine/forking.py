"""Imported by Python's fork server, which `processes.starting` starts with signals blocked: what it forks has them."""

import os
import signal

from clbench.machine.stopping import SIGNALS

os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS))
