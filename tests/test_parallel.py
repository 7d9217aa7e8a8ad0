"""Several processes that make one run: what they come to is what one process comes to.

The processes run `main` of this file: `test_parallel.py FOLDER`, started by torchrun. `FOLDER/cases.json` holds cases,
name → what differs from `run_of`'s defaults. Each is carried out on the tiny benchmark; what it comes to goes to
`FOLDER/<case>-<rank>.safetensors`, or the message of its refusal to `.txt`. `FOLDER/scenarios.json` lists functions of
this file that are called as well.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clbench
from clbench import Batch, Classifier, Strategy, chain, make_strategy, register
from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig, place
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer
from clbench.engine.refusals import check_parallel
from clbench.errors import ClbenchError, ConfigError, IncompatibleError, LedgerError
from clbench.machine import checkpoint, parallel
from clbench.models import make_model
from clbench.parts import CrossEntropy
from clbench.registry import strategies
from clbench.runs.building import make_benchmark
from clbench.testing import tiny_benchmark, tiny_model
from clbench.testing.subjects import subject
from clbench.testing.tiny import KINDS

ROOT = Path(__file__).resolve().parent.parent
CLOSE = 1e-5
"""How far weights, counts and memories may be apart, relative to the largest entry of a tensor and to 1."""

PATIENCE = 600
"""Seconds for a pair of processes; on a busy machine the imports alone may take a minute."""

CASES: dict[str, dict[str, Any]] = {
    "uneven": {"strategy": "er", "params": {"draw": 3}, "train": {"batch_size": 7, "epochs": 2}},
    "single rows": {"strategy": "er", "train": {"batch_size": 2}, "benchmark": {"examples": 9}},
    "BatchNorm": {"strategy": "derpp+refresh+ema", "params": {"mode": "paper"}, "network": "norm"},
    "feature maps": {"strategy": "er-ace", "network": "maps"},
    "projection": {"strategy": "a-gem", "optim": {"name": "adam", "lr": 0.003, "clip": 0.5}},
    "penalty": {"strategy": "ewc+nap", "params": {"ewc__strength": 1.0}},
    "tasks": {"strategy": "pred-kd", "benchmark": {"shift": "task"}},
    "own rows": {"strategy": "gdumb", "params": {"passes": 2}, "benchmark": {"experiences": 2}},
    "racing": {"strategy": "er", "evaluation": {"level": "racing", "prefix": 4}},
    "rare rows": {
        "strategy": "er+restart+cmo+ldam-drw+sam+imbsam",
        "params": {"cmo__start": 0, "cmo__end": 0, "cmo__probability": 1.0, "ldam-drw__defer": 1},
        "network": "norm",
        "train": {"epochs": 2},
    },
    "balanced softmax": {"strategy": "finetune+freeze-after-first+balanced-softmax", "network": "norm"},
    "balanced loss": {"strategy": "joint+balanced-loss"},
    "first only": {"strategy": "base-only"},
    "means": {"strategy": "base-ncm"},
    "prototypes": {"strategy": "decoupled-cosine", "network": "norm"},
    "pool": {"strategy": "l2p"},
    "experts": {"strategy": "dualprompt"},
    "components": {"strategy": "coda-prompt", "optim": {"name": "adam", "lr": 0.003}},
    "masks": {"strategy": "mvp"},
    "outliers": {"strategy": "oneprompt+ovor"},
    "names": {"strategy": "cpe-clip"},
    "fixed names": {"strategy": "align"},
    "nothing trained": {"strategy": "zero-shot"},
    "documents": {"strategy": "generative-memory", "params": {"rate": 0.5}, "benchmark": {"documents": True}},
    "old documents": {"strategy": "document-replay", "network": "spells"},
    "all documents": {"strategy": "retrain", "benchmark": {"documents": True, "experiences": 2}},
    "continued": {"strategy": "continued-indexing", "benchmark": {"documents": True}},
}
NOT_EQUAL: dict[str, dict[str, Any]] = {
    "dropout": {"strategy": "er", "network": "noisy"},
    "half": {"strategy": "er", "precision": "bf16"},
}
"""Which one process computes otherwise; the processes agree all the same."""
REFUSED: dict[str, dict[str, Any]] = {
    "gradient": {"strategy": "mir"},
    "together": {"strategy": "l2p", "params": {"selection": "batch", "pool": 4, "length": 2, "top": 2}},
    "generator": {
        "strategy": "generative-memory",
        "params": {"generator": "selector"},
        "benchmark": {"documents": True},
    },
    "unlike": {"strategy": "unlike"},
    "overlap": {"strategy": "er", "execution": {"overlap": True}},
}


# --- what the processes do ---

ALONE_TOO = {
    "epochs": 1,
    "batch_size": 16,
    "model": "mlp",
    "hidden": [16],
    "evaluation.subset": 20,
    "lr": 0.05,
}


class Unlike(Strategy):
    """Says that it is the same in every process, and is not."""

    parallel = True

    def extend(self, batch: Batch) -> Batch:
        return batch.with_x(batch.x + parallel.join().rank)


def unlike() -> Strategy:
    """For tests."""
    return chain(CrossEntropy(), Unlike())


def network(kind: str, inputs: int, classes: int) -> Classifier | None:
    """Other networks than the tiny one: `maps` with batch normalisation of feature maps, `noisy` with dropout,
    `spells` an index that spells identifiers."""
    if kind == "spells":
        return make_model(
            "seq2seq", (inputs,), classes, vocabulary=600, width=16, layers=1, heads=2, dropout=0.0
        )
    if kind == "maps":
        norms = nn.BatchNorm2d(4), nn.BatchNorm1d(16, momentum=None, affine=False)
        body = [
            nn.Conv2d(1, 4, 3, padding=1),
            norms[0],
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * inputs, 16),
            norms[1],
        ]
        return Classifier(nn.Sequential(*body), 16, classes)
    if kind == "noisy":
        return Classifier(
            nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(0.5)), 16, classes
        )
    return None


def run_of(case: Mapping[str, Any], ranks: parallel.Ranks = parallel.ALONE) -> Engine:
    """The engine of a case: `strategy`, `params`, `network`, and fields of the configuration's sections."""
    given = {
        "experiences": 3,
        "examples": 45,
        "images": True,
        **case.get("benchmark", {}),
    }  # 45 = 16 + 16 + 13
    kind = case.get("network", "plain")
    benchmark = tiny_benchmark(**given)
    if kind == "spells":  # a document for each identifier
        benchmark = make_benchmark("dsi-numpy", documents=40, corpora=2, length=12, vocabulary=600)
    config = RunConfig(
        benchmark="tiny",
        strategy=case["strategy"],
        optim=OptimConfig(**{"lr": 0.02, "momentum": 0.9, **case.get("optim", {})}),
        train=TrainConfig(**{"batch_size": 16, "epochs": 1, **case.get("train", {})}),
        evaluation=EvaluationConfig(every=3, **case.get("evaluation", {})),
        precision=case.get("precision", "fp32"),
        seeds=Seeds(order=0, init=0, data=0),
    )
    # As a strategy is registered for tiny networks, unless a case says otherwise.
    chosen = subject(case["strategy"])
    strategy = make_strategy(case["strategy"], **case["params"]) if "params" in case else chosen.make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = KINDS.get(chosen.architecture, partial(tiny_model, norm=kind == "norm"))
        model = network(kind, math.prod(benchmark.input_shape), benchmark.num_classes) or made(benchmark)
    execution = Execution(device="cpu", checkpoint_seconds=None, **case.get("execution", {}))
    return Engine(benchmark, strategy, model, config, execution, ranks=ranks)


def outcome(run: Engine) -> dict[str, Tensor]:
    """What a run has come to: weights, counts and losses of the curve, memories, forward passes."""
    curve = run.evaluator.curve
    found = {f"model/{name}": value for name, value in run.model.state_dict().items()}
    found |= {f"curve/{name}": torch.tensor(getattr(curve, name)) for name in ("step", "correct", "loss")}
    for i, part in enumerate(run.strategy.parts):
        state: list[Tensor] = []
        checkpoint.tree_map(lambda tensor, kept=state: kept.append(tensor) or tensor, part.state_dict())  # type: ignore[misc]
        found |= {f"part/{i}/{n}": tensor for n, tensor in enumerate(state)}
    found["forwards"] = torch.tensor(float(run.forwards))
    return {name: value.detach().cpu().double().contiguous().clone() for name, value in found.items()}


# --- scenarios: whole runs, with their folders ---


class StopAt(Observer):
    """Asks for an end at a step, as Ctrl-C or a time limit would; the first process alone has observers."""

    def __init__(self, step: int) -> None:
        self.step = step

    def begin(self, run: Engine) -> None:
        run.until = self.step


def whole(folder: Path, name: str, **how: Any) -> dict[str, Any]:
    """A run on a tiny benchmark in `FOLDER/name`: its record, or what ended it."""
    how = {"strategy": "derpp", "memory": 20, **ALONE_TOO, **how}
    benchmark = tiny_benchmark(images=True, examples=45)
    try:
        record = clbench.run(benchmark, how.pop("strategy"), out=folder / name, device="cpu", **how)
    except KeyboardInterrupt:
        return {"ended": "interrupted"}
    except ClbenchError as error:
        return {"ended": str(error)}
    told: dict[str, Any] = json.loads(record.to_json())
    return told


def runs(folder: Path) -> dict[str, Any]:
    """Straight through, again, interrupted and continued, diverged, refused, and left in the middle."""
    often = {"checkpoint_seconds": 0}
    return {
        "straight": whole(folder, "straight"),
        "again": whole(folder, "straight"),
        "interrupted": whole(folder, "stopped", execution=often, observers=[StopAt(5)]),
        "continued": whole(folder, "stopped", execution=often),
        "diverged": whole(folder, "diverged", lr=1e30),
        "refused": whole(folder, "refused", strategy="mir"),
        "left": whole(folder, "left", execution=often, observers=[StopAt(4)]),
    }


def noise(folder: Path) -> list[list[float]]:
    """The mean over features of each row of ones (6, 64) after dropout, twice."""
    ranks, drop = parallel.join(), nn.Dropout(0.5)
    torch.manual_seed(0)
    with ranks.sharing():
        return [
            ranks.through(lambda x: (drop(x), x[:, :1]), drop, torch.ones(6, 64))[0].mean(1).tolist()
            for _ in "12"
        ]


def relay(folder: Path) -> str:
    """What a process hears when the first one fails."""

    def fails() -> bytes:
        raise LedgerError("in other hands")

    try:
        parallel.join().lead(fails)
    except ClbenchError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


SCENARIOS = {"runs": runs, "noise": noise, "relay": relay}


def main() -> None:
    """What each process does."""
    register("unlike")(unlike)  # not in the process of the tests, which other tests share
    torch.set_num_threads(1)
    folder, ranks = Path(sys.argv[1]), parallel.join()
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        path = folder / f"{name}-{ranks.rank}"
        try:
            run = run_of(case, ranks)
            run.fit()
        except ClbenchError as error:
            path.with_suffix(".txt").write_text(str(error))
            continue
        checkpoint.save(path.with_suffix(".safetensors"), outcome(run))
    for name in json.loads((folder / "scenarios.json").read_text()):
        (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(SCENARIOS[name](folder)))


# --- starting them ---


def torchrun(*command: str, **more: Any) -> subprocess.Popen[str]:
    """A script, or `-m` and a module, with its arguments, in two processes."""
    # Whichever port is free when it is taken: one that was looked up before may be gone by then.
    own_port = [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
    ]
    head = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *own_port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*head, *command],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def ended(pair: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How a pair of processes ended: torchrun's exit code, what was printed, and what was said.

    One that takes too long is ended, its processes with it, and what it has said is told.
    """
    try:
        out, said = pair.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        pair.terminate()  # torchrun ends those it has started
        out, said = pair.communicate(timeout=PATIENCE)
        pytest.fail(f"two processes did not end within {PATIENCE} s\n{out}\n{said}")
    return pair.returncode, out, said


def carry_out(folder: Path, cases: Mapping[str, Any], scenarios: Sequence[str] = ()) -> None:
    """Have two processes do `main`."""
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    code, out, said = ended(torchrun(__file__, str(folder)))
    assert code == 0, out + said


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all that one pair of processes has done."""
    folder = tmp_path_factory.mktemp("together")
    carry_out(folder, {**CASES, **NOT_EQUAL, **REFUSED}, ["runs", "noise", "relay"])
    return folder


def found(folder: Path, case: str) -> list[dict[str, Tensor]]:
    return [checkpoint.load(folder / f"{case}-{rank}.safetensors") for rank in (0, 1)]


def told(folder: Path, scenario: str) -> list[Any]:
    return [json.loads((folder / f"{scenario}-{rank}.json").read_text()) for rank in (0, 1)]


def apart(these: Mapping[str, Tensor], those: Mapping[str, Tensor]) -> dict[str, float]:
    """Which tensors are further apart than `CLOSE`, and by how much."""
    assert these.keys() == those.keys()
    far = {}
    for name, value in those.items():
        assert these[name].shape == value.shape, name
        if value.numel():
            distance = float((these[name] - value).abs().max() / value.abs().max().clamp(min=1))
            if not distance <= CLOSE:
                far[name] = distance
    return far


def differs(folder: Path, name: str, case: Mapping[str, Any]) -> dict[str, float]:
    """What two processes have come to otherwise than one; that the two differ is an error."""
    first, second = found(folder, name)
    assert all(torch.equal(first[key], second[key]) for key in first), f"{name}: the processes differ"
    run = run_of(case)
    run.fit()
    return apart(first, outcome(run))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_come_to_what_one_comes_to(done: Path, name: str) -> None:
    assert not differs(done, name, CASES[name])


@pytest.mark.parametrize("name", NOT_EQUAL)
def test_noise_and_low_precision_leave_the_processes_equal(done: Path, name: str) -> None:
    first, second = found(done, name)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_noise_differs_between_processes_and_is_drawn_anew(done: Path) -> None:
    first, second = told(done, "noise")
    assert first == second
    assert first[0][:3] != first[0][3:]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "gradient",
            "InterferedReplay in mir cannot be trained by several processes: its loss takes a gradient",
        ),
        ("unlike", "have drifted apart"),
        ("together", "trained by several processes: all images of a batch choose their prompts together"),
        (
            "generator",
            "trained by several processes: each process would train the generator of queries by itself",
        ),
        ("overlap", "leave out --overlap"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_reason(done: Path, name: str, reason: str) -> None:
    assert all(reason in (done / f"{name}-{rank}.txt").read_text() for rank in (0, 1))


# --- whole runs ---


def test_every_process_returns_the_record_and_the_first_one_writes_it(done: Path) -> None:
    first, second = told(done, "runs")
    assert first == second
    assert first["straight"]["status"] == "done"
    assert first["straight"] == first["again"]
    assert first["straight"]["environment"]["processes"] == 2
    folder = done / "straight" / first["straight"]["id"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(first["straight"]["budget"]["steps"]))
    assert not list(folder.glob("*.part"))


def test_a_record_is_that_of_one_process(done: Path, tmp_path: Path) -> None:
    record, alone = told(done, "runs")[0]["straight"], whole(tmp_path, "alone")
    assert record["id"] == alone["id"]
    for name, value in alone["metrics"].items():
        assert record["metrics"][name] == (value if value is None else pytest.approx(value, abs=CLOSE)), name
    for name in ("steps", "updates", "stream_examples", "forward_examples", "memory_examples"):
        assert record["budget"][name] == alone["budget"][name]
    assert "processes" not in alone["environment"]


def test_an_interrupted_run_goes_on_to_the_same_bits(done: Path) -> None:
    for of_one in told(done, "runs"):
        assert of_one["interrupted"] == {"ended": "interrupted"}
        assert of_one["continued"]["curve"]["sha256"] == of_one["straight"]["curve"]["sha256"]
    run = told(done, "runs")[0]["straight"]["id"]
    straight, continued = (done / name / run / "model.safetensors" for name in ("straight", "stopped"))
    assert straight.read_bytes() == continued.read_bytes()


def test_a_diverged_run_ends_in_every_process(done: Path) -> None:
    for of_one in told(done, "runs"):
        assert of_one["diverged"]["status"] == "diverged"
        assert "not finite" in of_one["diverged"]["note"]


def test_a_refused_run_leaves_no_folder(done: Path) -> None:
    assert all("takes a gradient of its own" in of_one["refused"]["ended"] for of_one in told(done, "runs"))
    assert not (done / "refused").exists()


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(done: Path) -> None:
    said = whole(done, "left")["ended"]
    assert (
        "began with 2 processes and cannot go on to the same bits with 1; use torchrun with 2 processes"
        in said
    )


def test_what_ends_the_first_process_ends_the_others_with_its_message(done: Path) -> None:
    assert told(done, "relay") == ["LedgerError: in other hands", "ClbenchError: in other hands"]


# --- what is told before anything begins ---


class Inherits(CrossEntropy):
    """Does not say anew what it inherits."""


class Loops(Strategy):
    def train_experience(self, exp: Any) -> None:
        """A loop of its own."""


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Inherits(), "Inherits in Inherits cannot .* it does not declare `parallel = True`"),
        (Loops(), "it trains by a loop of its own"),
    ],
)
def test_a_strategy_must_declare_it_itself(strategy: Strategy, reason: str) -> None:
    check_parallel(CrossEntropy(), Execution())
    with pytest.raises(IncompatibleError, match=reason):
        check_parallel(strategy, Execution())


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_even_and_make_the_whole(n: int, size: int) -> None:
    shares = [range(n)[parallel.Ranks(rank, size).share(n)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_gpu_is_each_processes_own() -> None:
    with pytest.raises(ConfigError, match="name none: --device cuda"):
        parallel.Ranks(1, 2, 1).device("cuda:0")


def test_an_environment_that_tells_half_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert place() == (0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="Start them with torchrun, or unset WORLD_SIZE"):
        place()


def test_a_suite_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clbench.runs import suite

    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="run it without torchrun"):
        suite.run([], tmp_path, Execution())


# --- complete, and by the command line ---


def shipped() -> list[type[Strategy]]:
    """Every class that strategies are made of here, but those that only others derive from."""
    for name in strategies.names():
        strategies.entry(name)  # loads its file
    found: list[type[Strategy]] = []
    left: list[type[Strategy]] = [Strategy]
    while left:
        derived = left.pop().__subclasses__()
        left += derived
        ours = ("clbench.parts.", "clbench.strategies.")
        found += [kind for kind in derived if kind.__module__.startswith(ours) and not kind.__subclasses__()]
    return found


@pytest.mark.parametrize("kind", sorted(shipped(), key=lambda kind: f"{kind.__module__} {kind.__name__}"))
def test_every_part_says_whether_processes_may_share_its_passes(kind: type[Strategy]) -> None:
    declared = vars(kind).get("parallel", False)
    assert declared is True or (isinstance(declared, str) and len(declared.split()) > 5)


@pytest.mark.parametrize("name", strategies.names())
def test_every_strategy_runs_or_is_refused_with_a_reason_of_its_own(name: str) -> None:
    for part in subject(name).make().parts:
        declared = vars(part).get("parallel", vars(type(part)).get("parallel", False))
        assert declared is True or (isinstance(declared, str) and declared)


def declared() -> list[str]:
    """Chains, one for each registered strategy whose parts all declare that processes may share its passes."""
    found = []
    for name in strategies.names():
        whole = f"er+{name}" if strategies.entry(name).modifier else name
        if name == "ovor":  # for heads that see features alone
            whole = "oneprompt+ovor"
        try:
            check_parallel(make_strategy(whole), Execution())
        except IncompatibleError:
            continue
        found.append(whole)
    return found


def refusing() -> list[str]:
    """Strategies of which a part says why processes may not share its passes."""
    parts = {name: subject(name).make().parts for name in strategies.names()}
    return [name for name in parts if any(isinstance(part.parallel, str) for part in parts[name])]


def case_of(name: str) -> dict[str, Any]:
    """A chain with what it needs of the benchmark."""
    needs = subject(name).needs
    kinds = {kind: kind in needs for kind in ("documents", "language")}
    return {"strategy": name, "optim": {"momentum": 0.0}, "benchmark": kinds}


@pytest.mark.slow
def test_every_strategy_that_declares_it_keeps_its_word(tmp_path: Path) -> None:
    cases = {name: case_of(name) for name in declared()}
    assert len(cases) + len(refusing()) == len(strategies.names())
    carry_out(tmp_path, cases)
    wrong = {name: far for name, case in cases.items() if (far := differs(tmp_path, name, case))}
    assert not wrong


COMMAND = ("-m", "clbench", "run", "split-digits", "er+refresh", "epochs=2", "--threads", "1")


@pytest.mark.slow
def test_the_command_line_prints_once_and_survives_an_interrupt(tmp_path: Path) -> None:
    straight = torchrun(*COMMAND, "--json", "--out", str(tmp_path / "straight"))
    code, out, said = ended(straight)
    assert code == 0, said
    record = json.loads(out)
    folder = tmp_path / "stopped" / record["id"]
    stopped = torchrun(*COMMAND, "--checkpoint", "0", "--out", str(tmp_path / "stopped"))
    _wait_for(folder / "checkpoint.safetensors", stopped)
    stopped.send_signal(signal.SIGINT)
    _, _, said = ended(stopped)
    assert said.count("clbench: interrupted; the same command again goes on") == 1, said
    assert not (folder / "record.json").exists()
    again = torchrun(*COMMAND, "--out", str(tmp_path / "stopped"))
    code, _, said = ended(again)
    assert code == 0, said
    assert json.loads((folder / "record.json").read_text())["curve"] == record["curve"]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path: Path) -> None:
    """And the same command goes on from the checkpoint that the first process has written.

    Few steps, and a checkpoint after each only where one dies: writing to a busy disk may take a second each time.
    """
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, clbench\n"
        "from clbench.engine.engine import Engine\n"
        "step, dying = Engine._iterate, not os.environ.get('LIVES')\n"
        "def dies(self, batch):\n"
        "    if dying and self.step == 5 and self.ranks.rank == 1: os._exit(9)\n"
        "    if not dying and self.step < 4: raise RuntimeError('from the beginning')\n"
        "    step(self, batch)\n"
        "Engine._iterate = dies\n"
        "how = {'checkpoint_seconds': 0 if dying else 60, 'device': 'cpu'}\n"
        f"clbench.run('split-digits', 'er', iterations=5, out={str(tmp_path / 'runs')!r}, execution=how)\n"
    )
    code, out, said = ended(torchrun(str(script)))
    assert code != 0, out + said
    assert not list(tmp_path.glob("runs/*/record.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVES", "1")
        code, out, said = ended(torchrun(str(script)))
    assert code == 0, out + said
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 1


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    if not path.exists():
        code, out, said = ended(process)
        pytest.fail(f"{path.name} was never written; torchrun ended with {code}\n{out}\n{said}")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_come_to_what_one_comes_to(tmp_path: Path) -> None:
    settings = ["split-digits", "derpp+refresh", "epochs=1", "--device", "cuda", "--json"]
    pair = torchrun("-m", "clbench", "run", *settings, "--out", str(tmp_path / "two"))
    code, out, said = ended(pair)
    assert code == 0, said
    alone = subprocess.run(
        [sys.executable, "-m", "clbench", "run", *settings, "--out", str(tmp_path / "one")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    two, one = (json.loads(text)["metrics"]["average_anytime_accuracy"] for text in (out, alone.stdout))
    assert two == pytest.approx(one, abs=0.02)


if __name__ == "__main__":
    os.fsync = lambda fd: None  # nobody cuts the power
    main()
