"""The report of a suite: a page, its tables in Markdown, its plots, and every run as CSV. No torch.

The same cells give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from clbench.errors import LedgerError
from clbench.files import atomic_write, make_folder
from clbench.reports import frame, plots
from clbench.reports.markup import join, tag
from clbench.reports.rows import (
    TIMES,
    Cell,
    Row,
    by_benchmark,
    difference_rows,
    keys_of,
    metric_names,
    table_rows,
)
from clbench.reports.tables import columns_of, head_of, markdown, markdown_table, note_of
from clbench.results.metrics import METRICS
from clbench.results.traces import Mean, Trace

PAGE = "report.html"
"""The file of a report that a reader opens."""


def write_report(cells: Sequence[Cell], folder: Path, title: str, command: str) -> Path:
    """Write `report.html`, which needs no other file, and beside it `table.md`, `results.csv` and the plots.

    Args:
        cells: the runs, in the order of the tables.
        folder: created if need be.
        title: of the suite.
        command: what made the runs; shown so that it can be repeated.

    Returns:
        The path of `report.html`.

    A curve that cannot be read and a plot that fails are left out, and the page says so.

    Raises:
        LedgerError: the folder cannot be written.
    """
    make_folder(folder)
    atomic_write(folder / "results.csv", _csv(cells))
    rows, differences = by_benchmark(table_rows(cells)), by_benchmark(difference_rows(cells))
    keys = list(dict.fromkeys(key for table in rows.values() for key in keys_of(table)))
    legend = "\n".join(f"- **{head_of(key)}**: {METRICS[key].summary}" for key in keys)
    lines = [f"# {markdown(title)}", "", f"    {command}", "", markdown_table(cells), legend, ""]
    atomic_write(folder / "table.md", "\n".join(lines))
    slugs = _slugs(rows)
    style = plots.styles(
        (cell.strategy for cell in cells), {cell.strategy: cell.name for cell in cells if cell.name}
    )
    head, foot = _around(title, command, cells, slugs, keys)
    page = [head.encode()]  # a large one: text with any letter beyond Latin-1 takes twice the memory
    for benchmark, table in rows.items():
        figures, lost = _draw(benchmark, slugs[benchmark], table, folder, style)
        changes = differences.get(benchmark, [])
        page += (
            part.encode() for part in _section(benchmark, slugs[benchmark], table, changes, figures, lost)
        )
    atomic_write(folder / PAGE, b"".join([*page, foot.encode()]))
    return folder / PAGE


def _slugs(benchmarks: Iterable[str]) -> dict[str, str]:
    """Return a part of file names for each benchmark; labels are free text."""
    slugs, taken = dict[str, str](), set[str]()
    for name in benchmarks:
        slug = base = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:80].strip("-.") or "benchmark"
        number = 2
        while slug in taken:
            slug, number = f"{base}-{number}", number + 1
        slugs[name] = slug
        taken.add(slug)
    return slugs


@dataclass(frozen=True)
class _Plot:
    file: Path
    caption: str


def _draw(
    benchmark: str, slug: str, table: Sequence[Row], folder: Path, style: Mapping[str, plots.Style]
) -> tuple[list[_Plot], list[str]]:
    """Return the plots of a benchmark, of the runs that finished, and what could not be drawn and why."""
    chosen, which = plots.most(table, "strategies")
    shown, lost = dict[str, Mean](), list[str]()
    for row in chosen:
        if traces := list(_traces(row, lost)):
            shown[row.strategy] = Mean.of(traces)
    drawn = []
    for name, caption, draw in _figures(benchmark, shown, style):
        file = folder / f"{name}-{slug}.png"
        try:
            draw(file)
        except LedgerError:
            raise  # the folder cannot be written
        except Exception as error:  # of one plot, whatever it is: the tables do not depend on it
            lost.append(f"{file.name}: {type(error).__name__}: {error}")
        else:
            drawn.append(_Plot(file, caption + which))
    return drawn, lost


def _traces(row: Row, lost: list[str]) -> Iterator[Trace]:
    """Yield what is drawn of runs, one curve in memory at a time; those that cannot be read are added to `lost`."""
    for cell in row.cells:
        if cell.status == "done" and cell.curve is not None:
            try:
                yield Trace.of(cell.curve())
            except LedgerError as error:
                lost.append(f"{cell.strategy}, seed {cell.seed}: {error}")


def _figures(
    benchmark: str, runs: Mapping[str, Mean], style: Mapping[str, plots.Style]
) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """Name, caption and function of each plot for which there is something to draw."""
    if any(of.ticks for of in runs.values()):
        yield (
            "stability-gap",
            "How accuracy on the first experience drops when another one begins, and recovers.",
            lambda file: plots.stability_gap(
                runs, file, title=f"{benchmark}: accuracy on the first experience", styles=style
            ),
        )
        yield (
            "seen-accuracy",
            "Accuracy averaged over the experiences seen so far; its mean over all steps is AAA.",
            lambda file: plots.seen_accuracy(
                runs, file, title=f"{benchmark}: accuracy on the experiences seen so far", styles=style
            ),
        )
    if any(of.networks for of in runs.values()):
        yield (
            "plasticity",
            "How well each experience was learned, and the network at its end.",
            lambda file: plots.plasticity(runs, file, title=f"{benchmark}: plasticity", styles=style),
        )
    full = {name: of for name, of in runs.items() if of.matrices}
    if full:
        yield (
            "accuracy-matrix",
            "Accuracy in percent on the full test set of each experience (columns) after learning each one "
            "(rows), mean over runs. Right of the line is what was not learned yet.",
            lambda file: plots.accuracy_matrix(
                {name: of.matrix for name, of in full.items()}, file, title=f"{benchmark}: accuracy matrix"
            ),
        )


def _csv(cells: Sequence[Cell]) -> str:
    """Return a line for each run, every metric in full precision; empty where there is no number."""
    metrics = metric_names(cells)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["benchmark", "strategy", "seed", "status", *TIMES, *metrics, "note"])
    for c in cells:
        numbers = [c.train_seconds, c.eval_seconds, *[c.metrics.get(key) for key in metrics]]
        writer.writerow([c.benchmark, c.strategy, c.seed, c.status, *numbers, c.note])
    return text.getvalue()


# --- HTML ---


def _around(
    title: str, command: str, cells: Sequence[Cell], slugs: Mapping[str, str], keys: Sequence[str]
) -> tuple[Markup, Markup]:
    """Return what stands before the sections of a page, and after them."""
    counts = Counter(cell.status for cell in cells)
    strategies, seeds = len({c.strategy for c in cells}), len({c.seed for c in cells})
    scope = " × ".join(
        f"{number} {word if number == 1 else plural}"
        for number, word, plural in (
            (strategies, "strategy", "strategies"),
            (len(slugs), "benchmark", "benchmarks"),
            (seeds, "seed", "seeds"),
        )
    )
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    links = Markup(" · ").join(tag("a", name, href=f"#{slug}") for name, slug in slugs.items())
    makers = dict.fromkeys(cell.made_by for cell in cells if cell.made_by)
    header = (
        tag("h1", title),
        tag("p", f"{scope}: {states}."),
        tag("pre", tag("code", command)),
        tag("nav", links, " · ", tag("a", "metrics", href="#metrics")),
    )
    definitions = tag("section", tag("h2", "Metrics", id="metrics"), "\n", _definitions(keys))
    footer = Markup(
        "<p>Every run in full precision: <code>results.csv</code>. The tables as Markdown: <code>table.md</code>.</p>"
    ) + (tag("p", "Made with") + tag("ul", *[tag("li", text) for text in makers]) if makers else "")
    here = Markup("<!-- sections -->")
    head, foot = frame.page(title, join(header), here + definitions, footer).split(here)
    return head, foot


def _section(
    benchmark: str,
    slug: str,
    rows: Sequence[Row],
    differences: Sequence[Row],
    figures: Sequence[_Plot],
    lost: Sequence[str],
) -> Iterator[Markup]:
    """Yield the parts of a benchmark's section."""
    yield Markup("<section>\n") + tag("h2", benchmark, id=slug) + "\n" + _table(rows)
    if differences:
        yield _table(differences, True)
    missing = [
        tag(
            "li",
            f"{cell.strategy}, seed {cell.seed}: ",
            tag("strong", cell.status),
            f". {cell.note}" if cell.note else "",
        )
        for row in rows
        for cell in row.cells
        if cell.status != "done"
    ]
    if missing:
        yield _notes("Not in the means, and not drawn:", missing)
    if lost:
        yield _notes("Could not be drawn:", [tag("li", why) for why in lost])
    for plot in figures:
        png = plot.file.read_bytes()
        image = tag(
            "img",
            src=f"data:image/png;base64,{base64.b64encode(png).decode()}",
            width=int.from_bytes(png[16:20], "big")
            * 114
            // plots.DPI,  # so that all have letters of one size
            alt=f"{benchmark}. {plot.caption}",
        )
        yield tag("figure", image, tag("figcaption", plot.caption)) + "\n"
    yield Markup("</section>\n")


def _notes(head: str, items: Sequence[Markup]) -> Markup:
    return tag("p", head, class_="note") + "\n" + tag("ul", *items, class_="note") + "\n"


def _table(rows: Sequence[Row], differences: bool = False) -> Markup:
    kinds = ["unfinished" if row.unfinished else "bound" if row.bound else "rated" for row in rows]
    table = frame.table(columns_of(rows, differences), [{"class_": kind} for kind in kinds])
    return table + tag("p", note_of(rows, differences), class_="note") + "\n"


def _definitions(keys: Sequence[str]) -> Markup:
    """Return what each metric of the tables means, its formula and where it is from."""
    parts: list[object] = []
    for key in keys:
        metric = METRICS[key]
        direction = {True: "Higher is better.", False: "Lower is better.", None: ""}[metric.higher_is_better]
        said = tag("code", metric.formula), Markup("<br>"), tag("small", metric.reference)
        parts += [
            tag("dt", head_of(key)),
            tag("dd", f"{metric.summary} {direction}", Markup("<br>"), *said),
            "\n",
        ]
    spent = "Seconds spent on training and on evaluation, mean over runs."
    return tag("dl", "\n", *parts, tag("dt", "train s, eval s"), tag("dd", spent), "\n") + "\n"
