"""What the command line says of itself: `--help` with whole summaries, and what `clbench` alone shows."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

JOBS = """\
clbench: continual-learning strategies, evaluated at every iteration.

Run a benchmark suite
  clbench suite quickstart          six strategies on two streams, in a minute
  clbench run split-digits er       one run; `clbench list` says what there is

Register a strategy
  clbench new strategy my-method    the files to begin with
  clbench check my-method --plugin my_method.py
  clbench run split-digits my-method --plugin my_method.py

Reproduce the leaderboard
  clbench leaderboard --check       whether it follows from its records
  clbench reproduce split-digits    runs its rows again and compares intervals

All commands: clbench --help
"""


class Commands(TyperGroup):
    """Commands whose summaries are wrapped and never cut."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with the first paragraph of its help."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((command.help or "").partition("\n\n")[0].split()))
            for name, command in found
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
