"""What clbench withstands, counted: kills, full disks, damaged files, bad input, long runs; two workers beside one.

python tests/faults/report.py [--quick] [--scaling] [--out FILE]

writes docs/results/reliability.json, from which docs/generate.py makes the tables of docs/reliability.md. About ten
minutes of one core, and then some of two; with --quick, which tests use, a few of everything. With --scaling the two
workers alone are measured anew, on a machine that should do nothing else, and the rest of the file stays.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import harness
import inputs
import measure
import scaling
from harness import Fault, References

from clbench.machine.environment import environment
from clbench.runs import identity

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "docs" / "results" / "reliability.json"


def kills(references: References, strategies: list[str], points: int, folder: Path) -> dict[str, Any]:
    """Every strategy, killed at so many drawn moments and continued."""
    regions: Counter[str] = Counter()
    wrong = []
    for strategy in strategies:
        chance = random.Random(f"report {strategy}")
        for number, moment in enumerate(references.moments(strategy, chance, points)):
            regions[moment.region] += 1
            problem = harness.survives(
                references, strategy, Fault("kill", moment), folder / f"{strategy} {number}"
            )
            wrong += [f"{strategy}, {moment}: {problem}"] if problem else []
    return {
        "strategies": len(strategies),
        "points": regions.total(),
        "regions": dict(regions),
        "wrong": wrong,
    }


def full_disks(references: References, points: int, folder: Path) -> dict[str, Any]:
    """Writes that find the disk full, each followed by the same command with space again."""
    moments = references.moments("er", random.Random("report full"), points, "writes")
    found = {
        str(moment): harness.survives(references, "er", Fault("full", moment), folder / f"full {number}")
        for number, moment in enumerate(moments)
    }
    return {
        "points": len(moments),
        "wrong": [f"{moment}: {problem}" for moment, problem in found.items() if problem],
    }


def damage(references: References, number: int, folder: Path) -> list[dict[str, Any]]:
    """Damaged files of an interrupted and of a finished run."""
    out = folder / "interrupted"
    harness.carry_out("er", out, Fault("kill", references.late("er")))
    interrupted, whole = next(out.iterdir()), references.folder("er")
    rows = []
    for kind, source, judge, files in (
        ("interrupted", interrupted, harness.goes_on, harness.OF_A_RUN),
        ("finished", whole, harness.reads, harness.OF_A_RECORD),
    ):
        for file in files:
            became: Counter[str] = Counter()
            wrong = []
            made = harness.damages((source / file).read_bytes(), random.Random(f"report {file}"), number)
            for what, content in made.items():
                outcome, problem = judge(
                    harness.damaged(source, folder / "damaged", file, content), file, whole
                )
                became[outcome] += 1
                wrong += [f"{what}: {problem}"] if problem else []
            rows.append({"run": kind, "file": file, **became, "wrong": wrong})
    return rows


def bad_input(whole: Path, scale: float, folder: Path) -> list[dict[str, Any]]:
    """Drawn inputs of every kind: accepted or refused with a message, or the report ends here."""
    os.environ |= {name: str(folder / name) for name in ("CLBENCH_DATA", "CLBENCH_RUNS", "CLBENCH_WEIGHTS")}
    os.environ["CLBENCH_DEBUG"] = "1"
    os.chdir(folder)
    return [
        {
            "kind": kind,
            **inputs.fuzz(made(whole, folder), take, max(10, int(scale * many)), folder),
        }
        for kind, (made, take, _, many) in inputs.KINDS.items()
    ]


def two_workers(quick: bool, folder: Path) -> dict[str, Any]:
    """Two workers against one."""
    if quick:
        return scaling.scaling(2, 2, 1, folder, ["local"])
    return {**scaling.scaling(8, 1600, 2, folder, ["local", "ray"]), "environment": environment("cpu", 1)}


def write(found: dict[str, Any], out: Path) -> None:
    out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few of everything")
    parser.add_argument("--scaling", action="store_true", help="two workers against one, and nothing else")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    quick, began = given.quick, time.perf_counter()

    def told(what: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    if given.scaling:
        found = json.loads(given.out.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as temporary:
            found["scaling"] = two_workers(quick, Path(temporary))
        write(found, given.out)
        sys.exit(not found["scaling"]["same_bits"])

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        references = References(folder / "references")
        strategies = ["er"] if quick else harness.all_strategies()
        found = {"quick": quick, "environment": environment("cpu", 1)}
        told("two workers against one")
        found["scaling"] = two_workers(quick, folder / "scaling")
        identity.code_identity = harness.same_code  # from here on; workers of a suite would not have it
        told("kills")
        found["kills"] = kills(references, strategies, 1 if quick else 2, folder)
        told("full disks")
        found["full_disks"] = full_disks(references, 1 if quick else 20, folder)
        told("damaged files")
        found["damage"] = damage(references, 1 if quick else 30, folder)
        told("long curve, long stream, many steps, checkpoints")
        found["curve"] = measure.alone(measure.curve_of, 10_000 if quick else 1_000_000, folder)
        found["stream"] = measure.alone(measure.stream_of, 10 if quick else 1000, folder)
        found["steps"] = [
            measure.alone(measure.steps_of, strategy, 500 if quick else 10_000, folder / strategy)
            for strategy in (["er"] if quick else ["er", "derpp", "lwf"])
        ]
        found["checkpoints"] = [
            measure.alone(measure.checkpoints_of, "split-digits", strategy, settings, folder)
            for strategy, settings in measure.CHECKPOINTS[: 1 if quick else None]
        ]
        told("bad input")
        found["inputs"] = bad_input(references.folder("er"), 0 if quick else 0.4, folder)
        found["seconds"] = round(time.perf_counter() - began)
        os.chdir(ROOT)
    write(found, given.out)
    told(f"{given.out}; `python docs/generate.py` writes the page")
    wrong = [
        *found["kills"]["wrong"],
        *found["full_disks"]["wrong"],
        *(w for d in found["damage"] for w in d["wrong"]),
        *([] if found["scaling"]["same_bits"] else ["two workers came to other bits than one"]),
    ]
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
