"""The command line. Heavy modules are imported inside commands, so that `--help` and `list` answer at once.

Exit codes: 0 done · 1 the answer is no · 2 bad input · 3 the run diverged · 128 + n signal n ended it.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from clbench.cli import data, exporting, judging, looking, ranking, running, watching, writing
from clbench.cli.common import at_home, process, warn
from clbench.cli.help import JOBS, Command, Commands
from clbench.cli.terminal import cleaned
from clbench.errors import ClbenchError, Stopped
from clbench.files.places import HOME, VERSION
from clbench.machine.stopping import ended_by, ending
from clbench.registry.leaving import let_go

AGAIN = {
    **dict.fromkeys(
        ("run", "resume", "suite", "pretrain"), "the same command again goes on from the last checkpoint"
    ),
    "tune": "the same command again searches from the beginning",
    "tune-suite": "the same command for the file that --out names goes on where it ended",
}
"""How to go on with a command that was ended by a signal."""
COMMANDS: dict[str, Callable[..., int | None]] = {
    "run": running.run,
    "resume": running.resume,
    "suite": running.suite,
    "watch": watching.watch,
    "tune": running.tune,
    "tune-suite": running.tune_suite,
    "pretrain": running.pretrain,
    "list": looking.list_,
    "show": looking.show,
    "new": writing.new,
    "check": judging.check,
    "verify": judging.verify,
    "submit": ranking.submit,
    "leaderboard": ranking.leaderboard,
    "reproduce": ranking.reproduce,
    "plot": judging.plot,
    "export": exporting.export,
    "bench": judging.bench,
}

DATA: dict[str, Callable[..., int | None]] = {
    "status": data.data_status,
    "fetch": data.data_fetch,
    "describe": data.data_describe,
    "clear": data.data_clear,
}

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="Benchmark continual-learning strategies, evaluated at every iteration.",
)
for _name, _command in COMMANDS.items():
    app.command(_name, cls=Command)(at_home(_command))
_data = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Data sets: what is here, fetching more, and what a benchmark is made of.",
)
for _name, _command in DATA.items():
    _data.command(_name, cls=Command)(at_home(_command))
app.add_typer(_data, name="data")


def main() -> NoReturn:
    """Entry point: one clear message for every mistake, and no traceback."""
    try:
        with cleaned(), ending():
            _main()
    except SystemExit as end:
        let_go(end.code if isinstance(end.code, int) else 0)
        raise


def _main() -> NoReturn:
    # Threads that spin while they wait make runs that share cores twenty times slower; read when torch is
    # loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for word in sys.argv[1:]:  # they come to stand in records and pages, which would fail after all the work
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            fail(f"{word} is no text in UTF-8; rename what it names, or set a locale with UTF-8.")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(prog_name="clbench", standalone_mode=False)
    except ClbenchError as error:
        fail(str(error))
    except Stopped as stopped:
        code = stopped.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:
        # Typer's own click raises its usage errors; they know how to show themselves.
        if not hasattr(error, "format_message"):
            _unexpected(error)
        if type(error).__name__ == "NoArgsIsHelpError":  # `clbench data` alone: its message is the help
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        fail(error.format_message())
    code = code if isinstance(code, int) else 0
    if code > 128 and process() in ("", "0"):  # 130 is what Typer makes of an interrupt
        command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
        how = f"; {AGAIN[command]}" if command in AGAIN else ""
        print(f"clbench: {ended_by(code - 128)}{how}.", file=sys.stderr)
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """clbench's own warnings as a line; everybody else's as Python shows them."""
    if category.__module__.startswith("clbench"):
        warn(str(message))
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))


def _unexpected(error: Exception) -> NoReturn:
    """One line for what nobody foresaw, such as a plugin's own mistake; `CLBENCH_DEBUG=1` shows the traceback."""
    import traceback

    if os.environ.get("CLBENCH_DEBUG"):
        raise error
    from clbench.registry.authors import is_library

    frames = traceback.extract_tb(error.__traceback__)
    ours = str(HOME) + os.sep
    outside = [f for f in frames if not (f.filename.startswith(ours) or is_library(f.filename))]
    at = (outside or frames)[-1]
    fail(
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'} "
        f"({at.filename}, line {at.lineno}). Set CLBENCH_DEBUG=1 to see the traceback."
    )


def fail(message: str) -> NoReturn:
    who = "clbench" if process() in ("", "0") else f"clbench, process {process()}"
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)  # in one line, whatever a library wrote
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if process() and context.invoked_subcommand not in ("run", "resume"):
        fail("torchrun is for `clbench run` and `clbench resume`; start this command without it.")
    if version:
        print(VERSION)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(JOBS, end="", file=sys.stderr)
        raise typer.Exit(2)
