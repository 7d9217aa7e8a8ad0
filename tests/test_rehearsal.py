"""The rehearsal of a GPU: the shipped strategies pass it, and it finds what is planted, with its line.

What is rehearsed has a process of its own, as torch must be told of the imitation before it is loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clbench.registry import strategies

PLANTED = Path(__file__).parent / "gpu" / "planted.py"
SOME = ("er", "gem", "ncm", "document-replay")
"""Recorded with replay, a declared wait, what evaluation is asked once, and a retrieval stream."""
MISTAKES = {
    "hidden-item": "waits",
    "waits-now-and-then": "waits",
    "constant-left-behind": "devices",
    "missing-wait": "races",
    "generator-of-its-own": "capture",
    "prints": "waits",
    "compares-all": "waits",
    "synchronizes": "waits",
    "one-wait-too-many": "waits",
    "waits-in-its-own-loop": "waits",
    "draws-on-the-cpu": "devices",
    "whole-numbers": "devices",
    "values-left-behind": "devices",
    "pinned-again": "races",
    "pinned-too-early": "races",
    "counts-in-python": "capture",
    "number-of-the-host": "bits",
    "another-tensor": "bits",
    "rate-as-a-number": "bits",
    "waits-in-logits": "waits",
    "waits-in-the-network": "waits",
    "saves-in-every-step": "waits",
    "frees-too-early": "races",
    "forgets": "resumes",
    "never-the-same": "bits",
}
"""A planted strategy, and the check that must find it."""
ONE_FAULT = ("another-tensor",)
"""Which fail one check of all that are made of them."""
INNOCENT = ("innocent", "innocent-in-logits")
NOT_NAMED = ("forgets", "never-the-same")
"""What no operator shows, so that messages have no line of it."""
CURES = {
    "hidden-item": "numbers stay on the device",
    "prints": "`waits = 1`",
    "synchronizes": "`wait_event`",
    "constant-left-behind": "device=run.device",
    "draws-on-the-cpu": "device=run.device",
    "counts-in-python": "let a tensor of the device hold it",
    "number-of-the-host": "lies on the CPU",
    "another-tensor": "write into the same one",
    "missing-wait": "`wait_stream`",
    "frees-too-early": "`tensor.record_stream(stream)`",
    "pinned-again": "is written again when an event",
    "pinned-too-early": "is read when an event",
    "waits-in-logits": "an evaluation has the host wait once",
    "waits-in-the-network": "an evaluation has the host wait once",
    "saves-in-every-step": "read a tensor on the host",
    "forgets": "`state` names what changes",
    "never-the-same": "so does any other run",
}
"""What the message says can be done in its place."""
SCRIPT = """
import json, sys
from clbench.machine.guard import load
wanted = json.loads(sys.argv[1])
if reason := load():
    print(json.dumps(reason))
    sys.exit()
from clbench.registry import load_plugin
from clbench.testing import GPU_CHECKS, name_of, rehearse
load_plugin(sys.argv[2])
found = []
for name, checks in wanted.items():
    only = [check for check in GPU_CHECKS if not checks or name_of(check) in checks]
    found += [(name, result.check, result.status, result.message) for result in rehearse(name, only=only)]
print(json.dumps(found))
"""


def rehearsed(wanted: dict[str, list[str]], plugin: Path = PLANTED) -> list[tuple[str, str, str, str]]:
    """Return strategy, check, status and message, of the checks of each strategy; of all where none are named."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(wanted), str(plugin)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Any = json.loads(done.stdout.splitlines()[-1])
    if isinstance(found, str):
        pytest.skip(found)
    return [(name, check, status, message) for name, check, status, message in found]


def failed(wanted: dict[str, list[str]], plugin: Path = PLANTED) -> list[tuple[str, str, str]]:
    found = rehearsed(wanted, plugin)
    return [(n, check, message) for n, check, status, message in found if status == "failed"]


@pytest.fixture(scope="module")
def failures() -> list[tuple[str, str, str]]:
    """Of some strategies and of all that are planted, in one process, as its start takes long."""
    wanted = {n: [] if n in ONE_FAULT else [f"gpu_{check}"] for n, check in MISTAKES.items()}
    return failed({**wanted, **{name: [] for name in (*INNOCENT, *SOME)}})


def line_of(strategy: str) -> str:
    """The line of its mistake, as messages name it."""
    text = PLANTED.read_text(encoding="utf-8").splitlines()
    until = next(i for i, line in enumerate(text) if f'"{strategy}"' in line)
    return f"gpu/planted.py:{1 + max(i for i, line in enumerate(text[:until]) if 'the mistake' in line)}"


def test_strategies_of_each_kind_pass(failures: list[tuple[str, str, str]]) -> None:
    assert not [failure for failure in failures if failure[0] in (*SOME, *INNOCENT)]


@pytest.mark.slow
@pytest.mark.parametrize("third", range(3))
def test_all_others_pass(third: int) -> None:
    others = [name for name in strategies.names() if name not in (*SOME, *MISTAKES, *INNOCENT)]
    assert not failed({name: [] for name in others[third::3]})


def test_what_is_planted_is_found_with_its_line(failures: list[tuple[str, str, str]]) -> None:
    found = [failure for failure in failures if failure[0] in MISTAKES]
    assert [(name, check) for name, check, _ in found] == [(n, f"gpu_{c}") for n, c in MISTAKES.items()]
    for name, _, message in found:
        assert name in NOT_NAMED or line_of(name) in message
        assert CURES.get(name, "") in message


INSTALLED = {
    "method/__init__.py": """
from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy
from method.inner import largest

class Part(Strategy):
    def __init__(self, broken):
        self.broken = broken

    def losses(self, batch, out):
        if self.broken:
            raise ValueError("no")
        return {"more": out.logits.square().mean() / max(1.0, largest(out.logits))}

@register("installed-waits")
def waits() -> Strategy:
    "Wait in another module of an installed package."
    return chain(CrossEntropy(), Part(False))

@register("installed-raises")
def raises() -> Strategy:
    "Raise in an installed package."
    return chain(CrossEntropy(), Part(True))
""",
    "method/inner.py": "def largest(x):\n    return x.detach().amax().item()\n",
    "loads.py": "import sys\nsys.path.insert(0, {place!r})\nsys.prefix = sys.base_prefix = {prefix!r}\nimport method\n",
}


@pytest.mark.parametrize("below", ["lib/site-packages", "own"])
def test_an_installed_plug_in_is_named_by_its_own_line(tmp_path: Path, below: str) -> None:
    place = tmp_path / below
    for name, text in INSTALLED.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            text.format(place=str(place), prefix=str(tmp_path)) if name == "loads.py" else text,
            encoding="utf-8",
        )
    wanted = {"installed-waits": ["gpu_waits"], "installed-raises": ["gpu_devices"]}
    (_, _, waits), (_, _, raises) = failed(wanted, place / "loads.py")
    assert "at method/inner.py:2" in waits
    assert f"({place}/method/__init__.py, line 12)" in raises


@pytest.mark.slow
def test_the_report_on_a_gpu_can_be_made() -> None:
    code = """
from clbench.machine.guard import load
import sys
if reason := load():
    sys.exit("no imitation: " + reason)
import torch
from clbench.testing.bench import gpu
from clbench.testing.imitation import strict_cuda
with strict_cuda():
    print(gpu.report(torch.device("cuda", 0), gpu.DRY))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "no imitation" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Performance on imitation of a GPU")
    assert "Failed:" not in done.stdout
    assert done.stdout.count("\n## ") == 7


def test_the_command_line_names_the_line() -> None:
    command = ["check", "constant-left-behind", "--plugin", str(PLANTED), "--rehearse-gpu"]
    done = subprocess.run(
        [sys.executable, "-m", "clbench", *command], capture_output=True, text=True, check=False
    )
    if "No check of" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 1
    assert line_of("constant-left-behind") in done.stdout
