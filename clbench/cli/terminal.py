"""What reaches a terminal: the one place in which text is cleaned, whoever it is from."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from clbench.files.names import printable

if TYPE_CHECKING:
    from rich.console import Console


class _Clean:
    """A stream that spells control characters (`clbench.files.names.printable`)."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(printable(text))

    def writelines(self, lines: Any) -> None:
        self.stream.writelines(map(printable, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def cleaned() -> Iterator[None]:
    """Inside, whatever is printed reaches no terminal with control characters of a plug-in, a file or a record."""
    out, err = (cast(IO[str], _Clean(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def console(stream: IO[str], width: int | None = None) -> Console:
    """Rich's console on a stream, which lets its own control sequences through, and those of what it shows not; text
    is no markup.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Clean(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return Clean(
        file=stream.stream if isinstance(stream, _Clean) else stream,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
    )
