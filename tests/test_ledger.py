"""Records: what they hold, what they refuse, and the ids that name them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clbench.config import resolve
from clbench.errors import LedgerError
from clbench.results import ledger
from clbench.results.curve import Curve
from clbench.results.ledger import Record, read_record, write_record

ENVIRONMENT: dict[str, Any] = {
    **dict.fromkeys(("python", "system", "processor"), "x"),
    "device": "cpu",
    "threads": 1,
    "libraries": {"torch": "2.9", "timm": None},
}
COUNTS = (
    *("steps", "updates", "stream_examples", "forward_examples", "parameters", "trainable_parameters"),
    *("memory_examples", "memory_bytes", "strategy_state_bytes", "peak_memory_bytes"),
)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    curve = Curve.from_matrix([[1.0, 0.0], [0.5, 1.0]], b=0.0)
    curve.save(tmp_path / "curve.npz")
    made = Record(
        id="abc",
        status="done",
        config=resolve("split-digits", "er").model_dump(mode="json"),
        benchmark={"name": "split-digits", "version": 1, "fingerprint": "f" * 64},
        strategy={"name": "er", "version": "1"},
        seeds={"order": 0, "init": 0, "data": 0},
        code={"version": "0.1", "sources": "s", "commit": None, "dirty": None},
        environment=ENVIRONMENT,
        budget={**dict.fromkeys(COUNTS, 2), "train_seconds": 1.5, "eval_seconds": 0.0},
        metrics={"average_accuracy": 0.75, "wf100": None},
        curve_file={"file": "curve.npz", "sha256": curve.sha256()},
        selection="defaults",
        model={"name": "mlp", "version": 1},
    )
    return write_record(made, tmp_path)


def rewrite(record: Record, **changes: Any) -> Path:
    assert record.folder is not None
    path = record.folder / "record.json"
    content = {**json.loads(path.read_text()), **changes}
    kept = {k: v for k, v in content.items() if v is not ... and k != "sha256"}
    path.write_text(json.dumps({**kept, "sha256": ledger._digest(kept)}))
    return record.folder


def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert record.folder is not None
    assert read_record(record.folder) == record


def test_a_record_reads_its_curve(record: Record) -> None:
    assert record.curve.matrix().R[0, 0] == 1.0


def test_an_altered_curve_is_refused(record: Record) -> None:
    assert record.folder is not None
    Curve.from_matrix([[1.0, 0.0], [1.0, 1.0]], b=0.0).save(record.folder / "curve.npz")
    with pytest.raises(
        LedgerError, match=r"curve\.npz is not the curve that record abc names: its SHA-256 differs"
    ):
        record.curve  # noqa: B018


def test_a_damaged_curve_is_refused(record: Record) -> None:
    assert record.folder is not None
    path = record.folder / "curve.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LedgerError, match=r"curve\.npz is damaged"):
        record.curve  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, r"has schema 99; this version of clbench reads up to 3\. Upgrade clbench\."),
        ({"schema": ...}, r"is no record: it names no schema"),
        ({"metrics": ...}, r"is damaged: field 'metrics' is missing"),
        ({"colour": 1}, r"is damaged: field 'colour' is unknown"),
        ({"metrics": None}, r"is damaged: field 'metrics' holds None"),
        ({"status": 3}, r"is damaged: field 'status' holds 3"),
        ({"schema": True}, r"is no record: it names no schema"),
        ({"status": "won"}, r"is damaged: field 'status' holds 'won': 'done', 'diverged' or 'timeout'"),
        ({"folder": "/etc"}, r"is damaged: field 'folder' is unknown"),
        ({"id": 5}, r"is damaged: field 'id' holds 5"),
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(record: Record, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LedgerError, match=r"record\.json " + message):
        read_record(rewrite(record, **changes))


DEEP: Any = []
for _ in range(40):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seeds.data", value) for value in ("0</th></tr></table><script>", -1, 1.0, True, None, 2**63)),
        *(("budget.steps", value) for value in (..., -1, "9", 10**4000, 2**62, 1.5)),
        *(("budget.train_seconds", value) for value in ("9", -1.0, float("nan"), float("inf"), None)),
        *(("budget.colour", 1), ("budget.whole_cpu_joules", "much")),
        *(
            ("config.stream", [1]),
            ("config.stream.seed", [1]),
            ("config.params.er", 1),
            ("config.model", "mlp"),
        ),
        *(("config.optim.lr", float("nan")), ("config.optim.lr", DEEP), ("config.seeds.order", "0")),
        *(("code.commit", 5), ("code.version", ...), ("code.dirty", "no")),
        *(("environment.threads", value) for value in (..., "x", 0, 10**9, None)),
        *(("environment.device", None), ("environment.libraries", []), ("environment.libraries.torch", 2)),
        *(("benchmark.name", 5), ("benchmark.name", None), ("benchmark.name", "a" * 501)),
        *(("benchmark.fingerprint", "F" * 64), ("benchmark.notes", "x"), ("benchmark.version", 1.5)),
        *(("strategy.name", ["er"]), ("strategy.version", None), ("strategy.more", 1)),
        *(("metrics.average_accuracy", "high"), ("metrics.average_accuracy", True), ("metrics.wf100", {})),
        *(("curve.file", "../curve.npz"), ("curve.file", ".."), ("curve.sha256", "abc")),
        *(
            ("model.weights", "w"),
            ("note", "\ud800"),
            ("selection", 1),
            ("files.x", {}),
            ("evaluation.rules", "2"),
        ),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_a_field_of_another_type_is_refused_by_its_name(record: Record, field: str, value: Any) -> None:
    assert record.folder is not None
    content = json.loads((record.folder / "record.json").read_text())
    *above, key = field.split(".")
    inner = content
    for step in above:
        inner = inner.setdefault(step, {})
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    kept = {k: v for k, v in content.items() if k != "sha256"}
    (record.folder / "record.json").write_text(json.dumps(kept))
    with pytest.raises(LedgerError, match=r"record\.json is damaged: ") as error:
        read_record(record.folder, altered=True)
    assert f"field '{field}" in str(error.value)
    assert str(error.value).isprintable()


def test_a_file_that_is_too_large_for_a_record_is_not_read(record: Record) -> None:
    assert record.folder is not None
    path = record.folder / "record.json"
    path.write_text(path.read_text() + " " * ledger.LARGEST)
    with pytest.raises(LedgerError, match=r"no record has more than 16 MB"):
        read_record(record.folder)


def test_a_number_that_json_has_not_comes_back(record: Record) -> None:
    assert record.folder is not None
    write_record(replace(record, metrics={"weight_norm_growth": float("inf")}), record.folder)
    assert read_record(record.folder).metrics == {"weight_norm_growth": float("inf")}


def test_every_flipped_byte_of_a_record_is_noticed(record: Record) -> None:
    """Or is no other record: a space more or less between two values changes nothing."""
    assert record.folder is not None
    path = record.folder / "record.json"
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        for bit in (1, 4):
            path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            with contextlib.suppress(LedgerError):
                assert read_record(record.folder) == record, data[at - 20 : at + 20]


def test_a_record_of_an_earlier_schema_has_no_sha256(record: Record) -> None:
    assert record.folder is not None
    path = record.folder / "record.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(LedgerError, match="its SHA-256 is not the one"):
        read_record(record.folder)
    path.write_text(json.dumps({**content, "schema": 1}))
    assert read_record(record.folder).metrics == record.metrics


def test_a_record_of_another_run_is_refused(record: Record) -> None:
    assert record.folder is not None
    with pytest.raises(LedgerError, match=r"record\.json is the record of the run abc, not of def"):
        read_record(record.folder, "def")


def test_a_truncated_record_is_refused(record: Record) -> None:
    assert record.folder is not None
    path = record.folder / "record.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(LedgerError, match=r"record\.json is damaged"):
        read_record(record.folder)


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(LedgerError, match=r"is not finished; `clbench resume .*` continues it"):
        read_record(tmp_path)
