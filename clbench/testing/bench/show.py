"""The results as Markdown tables and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    machine = results["machine"]
    versions = f"torch {machine['torch']}, Python {machine['python']}"
    others = f", Avalanche {results['avalanche']}" if results["avalanche"] else ""
    lines = [f"{machine['device']}; {versions}{others}; {machine['threads']} thread; medians (quartiles), ms"]
    return "\n".join([*lines, *sections(results)])


def sections(results: dict[str, Any]) -> list[str]:
    """Return the tables of those results that there are, as lines."""
    parts = {
        "steps": _steps,
        "evaluations": _evaluations,
        "frozen": _frozen,
        "runs": _runs,
        "packing": _packing,
    }
    return [line for name, part in parts.items() if name in results for line in part(results)]


def grid(head: str, rows: Sequence[str]) -> list[str]:
    """Return a Markdown table behind an empty line; none without rows. Names that end in a colon align a column
    right."""
    names = head.split(" | ")
    marks = "|".join("---:" if name.endswith(":") else "---" for name in names)
    lines = ["", f"| {' | '.join(name.rstrip(':') for name in names)} |", f"|{marks}|"]
    return [*lines, *(f"| {row} |" for row in rows)] if rows else []


def _steps(results: dict[str, Any]) -> list[str]:
    rows = []
    for row in results["steps"]:
        floor = row["ms"]["bare loop"]["cpu"]
        for name, ms in row["ms"].items():
            beside = f"{ms['cpu']:.3f} | {ms['cpu'] / floor:.2f} | {ms['cpu'] - floor:+.3f}"
            rows.append(f"{row['case']} | {row['laps']} | {name} | {_spread(ms)} | {beside}")
    return grid("a step of | laps: | contender | ms: | CPU ms: | × the bare loop: | above it, CPU ms:", rows)


def _evaluations(results: dict[str, Any]) -> list[str]:
    rows = []
    for row in results["evaluations"]:
        theirs = [ms["cpu"] for name, ms in row["ms"].items() if name.startswith("Avalanche")]
        for name, ms in row["ms"].items():
            ratio = f"{theirs[0] / ms['cpu']:.1f}" if theirs else "–"
            rows.append(f"{row['case']} | {name} | {_spread(ms)} | {ms['cpu']:.1f} | {ratio}")
    head = "images | contender | ms: | CPU ms: | × faster than Avalanche:"
    return grid(_many(results["evaluations"]) + head, rows)


def _frozen(results: dict[str, Any]) -> list[str]:
    rows = []
    for row in results["frozen"]:
        anew = row["ms"]["asked every time"]["cpu"]
        for name, ms in row["ms"].items():
            rows.append(f"{row['case']} | {name} | {_spread(ms)} | {ms['cpu']:.1f} | {anew / ms['cpu']:.2f}")
    head = "images, frozen | network | ms: | CPU ms: | ticks per second, ×:"
    return grid(_many(results["frozen"]) + head, rows)


def _many(rows: Sequence[dict[str, Any]]) -> str:
    return f"{rows[0]['streams']} × {rows[0]['images']:,} " if rows else ""


def _runs(results: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for case in results["runs"]:
        exact, theirs, rows = case["rows"]["exact"], _theirs(results, case["case"]), []
        for name, found in case["rows"].items():
            differ = "–" if found["disagreement"] is None else f"{100 * found['disagreement']:.2f} %"
            ratio = "–" if theirs is None else f"{theirs / found['ms']:.1f}"
            gaps = " | ".join(_against(found[key], exact[key]) for key in ("min_acc", "wc_acc"))
            rows.append(
                f"{name} | {found['ms']:.1f} | {ratio} | {100 * found['share']:.0f} % | {differ} | {gaps} "
                f"| {found['wall_s']:.1f}"
            )
        said = (
            f"{case['benchmark']}, {case['case']}, replay, batch 10+10, {case['steps']} steps in each experience, "
            "evaluated after every step:"
        )
        head = (
            "level | ms for 5 × 1,000 images: | × faster than Avalanche: | images evaluated: | judged differently: "
            "| min-ACC: | WC-ACC: | whole run, s:"
        )
        lines += ["", said, *grid(head, rows)]
    return lines


def _packing(results: dict[str, Any]) -> list[str]:
    rows = [
        f"{case['case']} | {case['seeds']} | {row['at_once']} | {row['seconds']:.1f} "
        f"| {60 * row['runs_per_second']:.1f} | {row['gain']:.2f} | "
        + ("the same bits" if row["same_bits"] else "**other bits**")
        for case in results["packing"]
        for row in case["rows"]
    ]
    said = "Seeds of replay on split-digits that share the device, one thread each, starts of processes included:"
    head = "network | seeds: | at a time: | seconds: | runs in a minute: | × one at a time: | curves"
    return ["", said, *grid(head, rows)] if rows else []


def _theirs(results: dict[str, Any], case: str) -> float | None:
    """Milliseconds of Avalanche's evaluation of PIL images."""
    found = (row["ms"] for row in results["evaluations"] if row["case"] == case)
    return next((float(ms["median"]) for row in found for name, ms in row.items() if "PIL" in name), None)


def _against(value: float | None, exact: float | None) -> str:
    """Percent, and how far from exact in points."""
    if value is None or exact is None:
        return "–"
    return f"{100 * value:.2f}" + (f" ({100 * (value - exact):+.2f})" if value != exact else "")


def _spread(ms: dict[str, float]) -> str:
    digits = 3 if ms["median"] < 100 else 0
    return f"{ms['median']:.{digits}f} ({ms['q1']:.{digits}f}–{ms['q3']:.{digits}f})"


def plot(results: dict[str, Any], path: Path) -> None:
    """A bar for each contender's step as a multiple of the bare loop's, and for each way to evaluate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    names = list(dict.fromkeys(name for row in results["steps"] for name in row["ms"] if name != "bare loop"))
    height = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        rows = [(k, row["ms"]) for k, row in enumerate(results["steps"]) if name in row["ms"]]
        ratios = [ms[name]["median"] / ms["bare loop"]["median"] for _, ms in rows]
        left.barh([k + i * height for k, _ in rows], ratios, height, label=name)
    left.set_yticks(
        [k + 0.4 - height / 2 for k in range(len(results["steps"]))], [r["case"] for r in results["steps"]]
    )
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xlabel("time of a training step ÷ the bare loop's")
    if names:
        left.legend()
    bars = [
        (f"{row['case']}: {name}", ms["median"])
        for row in results["evaluations"]
        for name, ms in row["ms"].items()
    ]
    bars += [
        (f"{row['case']}: {name}", found["ms"])
        for row in results["runs"]
        for name, found in row["rows"].items()
        if name not in ("exact", "fast")
    ]
    right.barh([name for name, _ in bars], [ms for _, ms in bars])
    right.set_xscale("log")
    right.set_xlabel("ms to evaluate 5 × 1,000 images")
    for axis in (left, right):
        axis.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)
