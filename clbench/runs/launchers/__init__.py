"""How the runs of a suite are carried out: by processes of this machine, or on a Ray cluster."""

from clbench.runs.launchers.base import Job, Launcher, Limits
from clbench.runs.launchers.cluster import Ray
from clbench.runs.launchers.local import Local

__all__ = ["Job", "Launcher", "Limits", "Local", "Ray"]
