"""`submit`, `leaderboard`, `reproduce`: numbers with evidence, and whether they come out again."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.common import Device, Folders, Json, Plugins, columns, execution, load, warn
from clbench.errors import ConfigError

if TYPE_CHECKING:
    from clbench.reports.leaderboard.store import Submission
    from clbench.results.statistics import Interval
    from clbench.runs.again import Verdict

Root = Annotated[Path, typer.Option(help="The leaderboard's folder.")]
HERE = Path("leaderboard")


def submit(
    folders: Folders,
    root: Root = HERE,
    as_json: Json = False,
) -> int:
    """Take finished runs, with their evidence, into the leaderboard; one that is refused keeps no other out."""
    from clbench.files import check_place
    from clbench.reports.leaderboard import store, submit as take
    from clbench.reports.leaderboard.private import in_words

    check_place(root / store.PAGE, file=True)
    left_out: list[str] = []
    done = take(folders, root, left_out)
    for why in left_out:
        warn(f"Left out: {why}")
    if as_json:
        print(json.dumps([_of_submission(s) for s in done], indent=2))
    for s in () if as_json else done:
        if s.path is None:
            print(f"refused  {s.folder}: {s.refused}")
            continue
        print(f"{'there' if s.already else 'taken':<9}{root / s.path}")
        if s.needs:
            print(f"{'':<9}others cannot run it again without {in_words(s.needs)}; its row is marked")
    return 1 if any(s.refused for s in done) else 0


def leaderboard(
    root: Root = HERE,
    check: Annotated[
        bool,
        typer.Option("--check", help="Change nothing: compare README.md byte for byte, and all evidence."),
    ] = False,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="Take the record with this id out first, with its curve; repeatable."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the site to this folder, too.")] = None,
) -> int:
    """Compute the leaderboard from its records and write its README.md, as `submit` does, too.

    Records that are damaged, or contradict their evidence, are named and left out; it ends with 1 then.
    """
    from clbench.files import atomic_write, check_place, make_folder
    from clbench.reports.leaderboard import readme, store, write_site
    from clbench.results.traces import Trace

    if html is not None:
        check_place(html / "index.html", file=True)
    if remove:
        if check:
            raise ConfigError("--check changes nothing, so it goes with no --remove.")
        gone, problem = store.remove(remove, root)
        for file in gone:
            print(f"removed  {file}")
        if problem:
            warn(f"{root / store.PAGE} is as it was: {problem}")
        else:
            print(root / store.PAGE)
        if problem or html is None:
            return 0
    if check and not any((root / name).exists() for name in (store.MANIFEST, store.PAGE, store.LOCK)):
        raise ConfigError(f"There is no leaderboard {root}.")
    left_out: list[str] = []
    traces: dict[str, Trace] | None = None if html is None else {}
    with store.held(root if check else make_folder(root), left_out, traces) as records:
        for why in left_out:
            warn(f"Left out: {why}")
        for file in store.unlisted(root):
            warn(f"{file} is not in {store.MANIFEST}: it was not submitted, and counts for nothing.")
        page, path = readme(records), root / store.PAGE
        if check:
            there = path.read_text(encoding="utf-8") if path.is_file() else readme([])
            if there != page:
                print(
                    f"{path} is not what its {len(records)} records give; run `clbench leaderboard`.",
                    file=sys.stderr,
                )
                return 1
            print(f"{path}: {len(records)} records, all as submitted; the page follows from them.")
        else:
            atomic_write(path, page)
            print(path)
        if html is not None:
            print(write_site(records, root, html, traces))
    return int(bool(left_out))


def reproduce(
    name: Annotated[str, typer.Argument(help="A row's id, or a benchmark: all its rows.")],
    root: Root = HERE,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; repeatable.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the new runs.  [default: a temporary one]")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.  [default: those of the record]")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Run rows of the leaderboard again and compare intervals; ends with 1 where they disagree."""
    load(plugin)
    from clbench.reports.leaderboard import read_board
    from clbench.runs import again

    left_out: list[str] = []
    chosen = again.chosen(read_board(root, left_out), name)
    for why in left_out:
        warn(f"Left out: {why}")
    lacking = {row.id: wants for row in chosen if (wants := again.lacking(row))}
    if len(lacking) == len(chosen):
        raise ConfigError(next(iter(lacking.values())))
    for wants in lacking.values():
        warn(f"{wants} It is left out.")
    rows = [row for row in chosen if row.id not in lacking]
    how = execution(device)
    verdicts: list[Verdict] = []
    others = {row.id: again.outdated(row.records, f"Row {row.id}") for row in rows}
    for other in filter(None, others.values()):
        print(other, file=sys.stderr if as_json else sys.stdout, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for row in rows:
            print(f"{row.table}  {row.strategy}  row {row.id} …", file=sys.stderr)
            verdicts += again.reproduce(row, seeds or None, out or Path(temporary), how, threads)
    if as_json:
        print(json.dumps([{**_as_dict(v), "outdated": others[v.row.id]} for v in verdicts], indent=2))
    else:
        print(_told(verdicts))
    return 0 if all(v.agrees for v in verdicts) and not lacking else 1


def _of_submission(s: Submission) -> dict[str, object]:
    taken = s.path and s.path.as_posix()
    return {
        "run": str(s.folder),
        "taken": taken,
        "already": s.already,
        "refused": s.refused,
        "needs": dict(s.needs),
    }


def _as_dict(v: Verdict) -> dict[str, object]:
    return {
        "row": v.row.id,
        "benchmark": v.row.benchmark,
        "table": v.row.table,
        "strategy": v.row.strategy,
        "metric": v.metric,
        "recorded": v.recorded.mean,
        "again": v.again.mean,
        "allowed": v.allowed,
        "same_bits": v.same_bits,
        "agrees": v.agrees,
    }


def _told(verdicts: Sequence[Verdict]) -> str:
    from clbench.results.metrics import METRICS

    lines = [("row", "strategy", "metric", "recorded", "again", "may differ by", "verdict")]
    for v in verdicts:
        verdict = "the same numbers" if v.same_bits else "agrees" if v.agrees else "DISAGREES"
        told = METRICS[v.metric].told
        numbers = _shown(v.recorded, told), _shown(v.again, told), told(v.allowed)
        lines.append((v.row.id, v.row.strategy, v.metric, *numbers, verdict))
    return columns(lines, indent=0)


def _shown(interval: Interval, of: Callable[[float], str]) -> str:
    from clbench.results.statistics import INTERVAL_FROM, TOO_FEW

    if not interval.n:
        return "nothing"
    told = f"{interval.n}, {TOO_FEW}" if 1 < interval.n < INTERVAL_FROM else f"{interval.n}"
    half = f" ± {of(interval.half)}" if interval.n >= INTERVAL_FROM else ""
    return f"{of(interval.mean)}{half} ({told})"
