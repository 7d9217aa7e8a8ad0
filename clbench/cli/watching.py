"""`watch`, and `--watch` of what runs: the live page."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench.cli.common import Config, Out, Pairs, Plugins, Precision, Threads, load, process, settings_of
from clbench.errors import ConfigError, suggest

if TYPE_CHECKING:
    from clbench.config import RunConfig
    from clbench.reports.live import Named
    from clbench.runs.cells import Cell

Port = Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0 takes a free one.")]

LAST_LOOK = 2.0
"""Seconds in which an open page has asked again."""


def watch(
    what: Annotated[
        str | None, typer.Argument(help="A run folder, a folder of them, or a suite.  [default: --out]")
    ] = None,
    settings: Pairs = None,
    port: Port = 0,
    out: Out = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Of a suite: as many as it was started with.")
    ] = None,
    precision: Precision = None,
    config: Config = None,
    plugin: Plugins = None,
    threads: Threads = None,
) -> int:
    """Follow runs on a page of this machine: curves as they grow, the gap, the time left, the log.

    It prints the page's address, opens nothing, reads run folders and changes nothing; Ctrl-C ends it. A suite is
    followed with the settings that it was started with.
    """
    from clbench.config import suite_names
    from clbench.reports.live import LivePage

    runs: Callable[[], Sequence[Named]]
    if what is not None and not Path(what).is_dir():
        if what not in (known := suite_names()) and not Path(what).is_file():
            raise ConfigError(
                f"There is no run folder, no folder of runs and no suite '{what}'.{suggest(what, known)} "
                f"Shipped suites: {', '.join(known)}."
            )
        load(plugin)
        given = settings_of(settings, precision=precision, threads=threads)
        title, cells = _suite(what, given, seeds, config, out)
        runs = lambda: cells  # noqa: E731
    elif settings:
        raise ConfigError(f"The runs of a folder have their settings; leave out {settings[0]}.")
    else:
        folder = _root(out) if what is None else Path(what)
        title, runs = str(folder), lambda: _in(folder)
    with contextlib.suppress(KeyboardInterrupt), LivePage(title, runs, port) as page:
        print(f"{page.url}\nfollows {title}; Ctrl-C ends it.", flush=True)
        page.serve_forever()
    return 0


def _root(out: Path | None) -> Path:
    from clbench.runs.lifecycle import runs_folder

    return runs_folder(out)


def _suite(
    name: str, given: Mapping[str, Any], seeds: int | None, config: Path | None, out: Path | None
) -> tuple[str, list[Named]]:
    """Return the title of a suite, and its runs."""
    from clbench.config import read_yaml
    from clbench.runs import suite as suites

    short, loaded = suites.load(name)
    file = read_yaml(config) if config is not None else {}
    cells = suites.plan(loaded, given, range(seeds) if seeds else None, file=file)
    return loaded.title or short, _of(cells, _root(out))


def _in(folder: Path) -> list[Named]:
    """Return the runs of a folder: itself, or those in it, by the time at which they began."""
    from clbench.reports.live import Named

    if _is_run(folder):
        return [Named(folder)]
    began: dict[Path, float] = {}
    with contextlib.suppress(OSError):  # folders may go while they are looked at
        for run in folder.iterdir():
            with contextlib.suppress(OSError):
                began[run] = (run / "config.yaml").stat().st_mtime
    return [Named(run) for run in sorted(began, key=began.__getitem__)]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _of(cells: Sequence[Cell], root: Path) -> list[Named]:
    from clbench.reports.live import Named

    return [Named(root / cell.id, cell.benchmark, cell.strategy, cell.seed) for cell in cells]


@contextlib.contextmanager
def following(cells: Sequence[Cell], title: str, root: Path) -> Iterator[None]:
    """Serve the page of a suite's runs while they run, and say where; nothing where there are none."""
    if not cells:
        yield
        return
    with _beside(title, _of(cells, root)):
        yield


@contextlib.contextmanager
def following_run(resolved: RunConfig, root: Path) -> Iterator[None]:
    """Serve the page of a run while it runs; of several processes, the first does."""
    from clbench.reports.live import Named
    from clbench.runs.identity import identify

    if process() not in ("", "0"):
        yield
        return
    with _beside(f"{resolved.benchmark} · {resolved.strategy}", [Named(root / identify(resolved).id)]):
        yield


@contextlib.contextmanager
def _beside(title: str, runs: Sequence[Named]) -> Iterator[None]:
    """Serve the page from a process of its own, so that a run has its own for itself."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(title, list(runs), theirs), daemon=True)
    server.start()
    theirs.close()
    try:
        print(f"watch it: {ours.recv()}", file=sys.stderr, flush=True)
    except EOFError:
        raise ConfigError("The page cannot be served on this machine; leave out --watch.") from None
    try:
        yield
    finally:
        ours.close()  # it ends when it finds nobody there
        server.join()


def _serve(title: str, runs: list[Named], pipe: Connection) -> None:
    from clbench.machine.stopping import ignore
    from clbench.reports.live import LivePage

    ignore()  # the run decides when it ends
    page = LivePage(title, lambda: runs)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    pipe.send(page.url)
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    if time.monotonic() - page.asked < LAST_LOOK:
        time.sleep(LAST_LOOK)  # so that an open page sees the end
