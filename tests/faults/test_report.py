"""The report runs, and what is published is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import report

ROOT = Path(__file__).resolve().parent.parent.parent
PUBLISHED = ROOT / "docs" / "results" / "reliability.json"


def test_a_quick_report_finds_nothing_wrong(tmp_path: Path) -> None:
    out = tmp_path / "reliability.json"
    command = [sys.executable, "tests/faults/report.py", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found.keys() >= json.loads(PUBLISHED.read_text()).keys()
    assert found["scaling"]["same_bits"]
    assert found["scaling"]["rows"][0].keys() >= {"launcher", "one", "two", "efficiency"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::ray", "ignore::ResourceWarning")
def test_workers_of_a_cluster_are_measured_beside_those_of_this_machine(tmp_path: Path) -> None:
    import scaling

    found = scaling.scaling(3, 2, 1, tmp_path, ["local", "ray"])
    assert found["same_bits"]
    assert [row["launcher"] for row in found["rows"]] == ["local", "ray"]
    for row in found["rows"]:
        assert row["efficiency"] == pytest.approx(row["one"] / row["two"] / 2, rel=0.05)


@pytest.mark.parametrize("same", [True, False])
def test_the_scaling_alone_is_made_anew(same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of all has measured it; here, what is done with it."""
    out = tmp_path / "reliability.json"
    before = json.loads(PUBLISHED.read_text())
    out.write_text(json.dumps({**before, "scaling": "old"}))
    monkeypatch.setattr(report, "two_workers", lambda quick, folder: {"quick": quick, "same_bits": same})
    monkeypatch.setattr(sys, "argv", ["report.py", "--quick", "--scaling", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == (not same)
    assert json.loads(out.read_text()) == {**before, "scaling": {"quick": True, "same_bits": same}}


def test_the_published_report_is_a_full_one_without_a_failure() -> None:
    found = json.loads(PUBLISHED.read_text())
    assert not found["quick"]
    assert found["kills"]["points"] >= 50
    assert not found["kills"]["wrong"]
    assert not found["full_disks"]["wrong"]
    assert not [row for row in found["damage"] if row["wrong"]]
    assert sum(row.get("refused", 0) + row.get("accepted", 0) for row in found["inputs"]) >= 3000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps_or_the_stream(tmp_path: Path) -> None:
    """Ratios, not times: what is held grows by the curve at most, and the last fifth of a stream trains as fast."""
    import measure

    steps = measure.alone(measure.steps_of, "er", 10_000, tmp_path / "steps")
    assert steps["late_kb_per_1000_steps"] < 200
    stream = measure.alone(measure.stream_of, 300, tmp_path / "stream")
    assert stream["late_to_early_training"] < 2
    curve = measure.alone(measure.curve_of, 1_000_000, tmp_path)
    assert curve["same"]
    assert curve["held_mb"] < 160
    assert curve["peak_mb"] < 600


@pytest.mark.slow
def test_a_checkpoint_costs_little_beside_training(tmp_path: Path) -> None:
    """At most one in twenty times what the last took: of size, no more than weights, momentum and memory are."""
    import measure

    for strategy, settings in measure.CHECKPOINTS[:2]:
        found = measure.alone(measure.checkpoints_of, "split-digits", strategy, settings, tmp_path)
        assert found["size_mb"] < 4 * 4 * found["parameters"] / measure.MB + 1
        assert found["share_of_a_minute"] < 0.05
