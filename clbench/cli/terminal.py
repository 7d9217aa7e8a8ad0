"""What reaches a terminal: the one place in which text is cleaned, whoever it is from, and tables are fitted."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from clbench.files.names import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Column, Table


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
    """Inside, whatever is printed reaches no terminal with control characters of a plug-in, a file or a record.

    What the output's encoding lacks is spelled, too, as Python does it on standard error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    out, err = (cast(IO[str], _Clean(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def console(stream: IO[str], width: int | None = None) -> Console:
    """Rich's console on a stream, which lets its own control sequences through, and those of what it shows not; text
    is no markup.
    """
    from rich.console import Console, ConsoleOptions
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


def fitted(table: Table, screen: Console) -> Iterator[RenderableType]:
    """Yield a table as it is, or, where it is wider than the screen, one after the other as many of its columns as fit,
    each time beside the first one, whose words are wrapped: Rich would cut numbers, and leave columns out.
    """
    from rich.measure import Measurement

    def part(columns: Sequence[Column]) -> Table:
        made = copy.copy(table)
        made.title, made.caption, made.columns, made.rows = None, None, [], []
        half = max(screen.width // 2, 1)
        made.add_column(columns[0].header, overflow="fold", max_width=half)
        for column in columns[1:]:
            made.add_column(column.header, justify=column.justify, no_wrap=True)
        for cells in zip(*(column.cells for column in columns), strict=True):
            made.add_row(*cells)
        return made

    def fits(shown: Table) -> bool:
        unbounded = screen.options.update(max_width=10_000)
        return Measurement.get(screen, unbounded, shown).maximum <= screen.width

    if fits(table):
        yield table
        return
    first, *others = table.columns
    yield from filter(None, [table.title])
    while others:
        some = next((n for n in range(len(others), 1, -1) if fits(part([first, *others[:n]]))), 1)
        yield part([first, *others[:some]])
        others = others[some:]
    yield from filter(None, [table.caption])
