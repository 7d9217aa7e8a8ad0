"""What the command line says of itself, `--help` with whole summaries and what `clbench` alone shows, and how it reads
options."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from clbench.errors import ConfigError

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


class Command(TyperCommand):
    """A command whose options are given once, and not as nothing.

    Of two seeds one would count, and an empty path is the present folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            ConfigError: names an option that is given twice, or as an empty text.
        """
        if not ctx.resilient_parsing:  # which a shell's completion is
            values, _, order = self.make_parser(ctx).parse_args(args=[*args])
            for option in (of for of in order if of.param_type_name == "option"):
                given, many = values[str(option.name)], getattr(option, "multiple", False)
                if not many and given is not True and order.count(option) > 1:
                    raise ConfigError(f"{option.opts[0]} is given twice, and takes one value; keep one.")
                if given == "" or (many and "" in given):
                    raise ConfigError(
                        f"{option.opts[0]} is given as an empty text; give a value, or leave it out."
                    )
        return super().parse_args(ctx, args)
