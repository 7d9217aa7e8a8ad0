"""The benchmark of clbench itself, for structure only: no test asserts a time."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clbench.errors import ConfigError
from clbench.machine.optim import uncompiled
from clbench.models import make_model
from clbench.testing import bench
from clbench.testing.bench import contenders
from clbench.testing.bench.packing import packing
from clbench.testing.bench.turns import Contender, Gate, take_turns

CPU = torch.device("cpu")
CASES = (bench.Case("mlp", (1, 4, 4), 4), bench.Case("mlp", (1, 4, 4), 4, replay=True, share=0.5))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return bench.measure(steps=20, device="cpu", cases=CASES, rivals=False, rounds=0, run_steps=0)


def test_every_case_has_finite_figures(results: dict[str, Any]) -> None:
    assert [(row["case"], row["laps"]) for row in results["steps"]] == [
        ("mlp, batch 4", 20),
        ("mlp, batch 4+4", 10),
    ]
    for row in results["steps"]:
        assert set(row["ms"]) == {"bare loop", "clbench"}
        for ms in row["ms"].values():
            assert all(math.isfinite(value) and value >= 0 for value in ms.values())
            assert 0 < ms["q1"] <= ms["median"] <= ms["q3"]


def test_it_says_on_what_it_ran_and_is_json(results: dict[str, Any]) -> None:
    assert results["machine"]["threads"] == 1
    assert results["machine"]["torch"] == torch.__version__
    assert json.loads(json.dumps(results)) == results


def filled(results: dict[str, Any]) -> dict[str, Any]:
    """With made-up evaluations, of which Avalanche's takes 10 times as long as ours."""
    times = {"exact": 10.0, "Avalanche, PIL images, batch 256": 100.0}
    ms = {name: {"median": t, "q1": t, "q3": t, "cpu": t} for name, t in times.items()}
    row = {"ms": 5.0, "share": 0.25, "disagreement": None, "min_acc": 0.5, "wc_acc": 0.6, "wall_s": 1.0}
    other = {**row, "ms": 2.0, "disagreement": 0.002, "min_acc": 0.501}
    frozen = {"asked once": 4.0, "asked every time": 8.0}
    asked = {name: {"median": t, "q1": t, "q3": t, "cpu": t} for name, t in frozen.items()}
    return {
        **results,
        "frozen": [{"case": "l2p", "streams": 5, "images": 100, "rounds": 3, "ms": asked}],
        "evaluations": [{"case": "mlp", "streams": 5, "images": 1000, "rounds": 3, "ms": ms}],
        "runs": [
            {"benchmark": "split-digits", "case": "mlp", "steps": 4, "rows": {"exact": row, "fast": other}}
        ],
    }


def test_the_tables_hold_ratios(results: dict[str, Any]) -> None:
    lines = bench.table(filled(results)).splitlines()
    assert "| mlp | exact | 10.000 (10.000–10.000) | 10.0 | 10.0 |" in lines
    assert "| l2p | asked once | 4.000 (4.000–4.000) | 4.0 | 2.00 |" in lines
    assert "| fast | 2.0 | 50.0 | 25 % | 0.20 % | 50.10 (+0.10) | 60.00 | 1.0 |" in lines


def test_seeds_that_share_a_device_have_the_bits_of_those_alone() -> None:
    found = packing(2, 4, CPU, hidden=[8], experiences=2, subset=10)
    assert [row["at_once"] for row in found["rows"]] == [1, 2]
    assert all(row["same_bits"] for row in found["rows"])
    for row in found["rows"]:
        assert row["gain"] == pytest.approx(row["runs_per_second"] / found["rows"][0]["runs_per_second"])
    text = bench.table(
        {**bench.measure(0, device="cpu", rivals=False, rounds=0, run_steps=0), "packing": [found]}
    )
    assert text.count("| mlp | 2 |") == 2
    assert "| 1.00 | the same bits |" in text


def test_a_seed_that_fails_ends_the_measurement() -> None:
    with pytest.raises(RuntimeError, match="seed 0: diverged"):
        packing(1, 4, CPU, hidden=[8], experiences=2, lr=1e30)


def test_there_is_a_plot(results: dict[str, Any], tmp_path: Path) -> None:
    bench.plot(filled(results), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_number_of_threads_is_given_back() -> None:
    from clbench.testing.tools import one_thread

    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("make", [contenders.bare, contenders.clbench])
def test_a_contender_takes_the_steps_that_are_counted(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    sgd = uncompiled(torch.optim.SGD)
    step = sgd.step
    monkeypatch.setattr(sgd, "step", lambda self, *a: updates.append(1) or step(self, *a))
    benchmark = contenders.random_benchmark(CASES[1], 12)
    work = contenders.Work(CASES[1], benchmark, make_model("mlp", (1, 4, 4), 10), CPU)
    take_turns([make(work)], 10, CPU)
    assert len(updates) in (10, 11)  # ten laps, and with the engine the step before the first gate


@pytest.mark.parametrize(("stretch", "order"), [(1, "ababab"), (2, "aabbab"), (5, "aaabbb")])
def test_contenders_take_turns(stretch: int, order: str) -> None:
    done: list[str] = []

    def loop(name: str) -> Any:
        def run(gate: Gate) -> None:
            while True:
                gate()
                done.append(name)
                time.sleep(0.002 if name == "a" else 0)

        return run

    both = [Contender(name, loop(name)) for name in "ab"]
    take_turns(both, 3, CPU, stretch)
    assert "".join(done) == order
    assert [len(c.wall) for c in both] == [3, 3]
    assert min(both[0].wall) >= 0.002


MAMMOTH = {
    "models/__init__.py": "import os\nos.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))\n",
    "models/er.py": """
import torch
from utils.buffer import Buffer

class Er(torch.nn.Module):
    def __init__(self, backbone, loss, args, transform, dataset=None):
        raise RuntimeError("wants a configuration and a data set")

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        new = len(inputs)
        self.opt.zero_grad()
        if not self.buffer.is_empty():
            old, theirs = self.buffer.get_data(self.args.minibatch_size, transform=self.transform, device=self.device)
            inputs, labels = torch.cat((inputs, old)), torch.cat((labels, theirs))
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels[:new])
        return loss.item()
""",
    "utils/buffer.py": """
import torch

class Buffer:
    def __init__(self, buffer_size, device="cpu"):
        self.x, self.y = [], []

    def is_empty(self):
        return not self.x

    def add_data(self, examples, labels):
        assert examples.min() >= 0 and examples.max() <= 1, "stored as they were before they were normalised"
        self.x += list(examples)
        self.y += labels.tolist()

    def get_data(self, size, transform=None, device=None):
        return torch.stack([transform(x) for x in self.x[:size]]), torch.tensor(self.y[:size])
""",
}
"""A stand-in of the parts of a checkout that the contender touches, with Mammoth's names and arguments."""


def test_a_checkout_of_mammoth_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in MAMMOTH.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("models", "models.er", "utils", "utils.buffer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    here, path = Path.cwd(), list(sys.path)
    results = bench.measure(
        20, device="cpu", cases=CASES, rivals=False, rounds=0, run_steps=0, mammoth=tmp_path
    )
    for name in ("models", "models.er", "utils", "utils.buffer"):
        sys.modules.pop(name, None)
    assert (Path.cwd(), sys.path) == (here, path)
    without, replay = results["steps"]
    assert "Mammoth Er" not in without["ms"]
    assert replay["ms"]["Mammoth Er"]["median"] > 0


def test_what_is_no_checkout_of_mammoth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no checkout of Mammoth: it has no models/er\.py"):
        contenders.mammoth(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "er.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ConfigError, match=r"ModuleNotFoundError.*nowhere_to_be_found.*requirements\.txt"):
        contenders.mammoth(tmp_path)


def test_a_contender_that_fails_or_ends_early_is_told() -> None:
    def fails(gate: Gate) -> None:
        gate()
        raise KeyError("of its own")

    with pytest.raises(KeyError, match="of its own"):
        take_turns([Contender("broken", fails)], 3, CPU)

    def ends(gate: Gate) -> None:
        gate()
        gate()

    with pytest.raises(RuntimeError, match="short ended after 1 of 3 laps"):
        take_turns([Contender("short", ends)], 3, CPU)
