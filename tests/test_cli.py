"""The command line: what it prints where, how it ends, and what it says of a mistake."""

from __future__ import annotations

import csv
import html
import json
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Command, Said, command

from clbench.registry import benchmarks, models, strategies
from clbench.results.metrics import METRICS
from clbench.testing import checking, contract

OTHERS = ("clbench_plugin", "theirs")
"""Modules that are not clbench's own."""
TINY = ["epochs=1", "hidden=[8]", "experiences=2", "evaluation.every=20"]
PLUGIN = '''"""ER-ACE in a file of one's own."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Reservoir, Strategy, register


class Asymmetric(Strategy):
    """New examples compete among the classes of the batch, old ones among all."""

    needs = frozenset({"memory"})
    state = ("memory", "seen")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def setup(self, run) -> None:
        self.memory = Reservoir(self.capacity)
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        present = torch.zeros_like(self.seen).index_fill_(0, batch.y, True)
        allowed = present | ~self.seen
        losses = {"new": F.cross_entropy(out.logits.masked_fill(~allowed, -1e9), batch.y)}
        if len(self.memory):
            old = self.memory.draw(batch.new, self.run.rng("replay"))
            losses["old"] = F.cross_entropy(self.run.forward(self.run.augment(old["x"])).logits, old["y"])
        return losses

    def after_step(self, batch: Batch, out: Output) -> None:
        self.seen.index_fill_(0, batch.y, True)
        self.memory.add(self.run.rng("memory"), x=batch.raw, y=batch.y)


@register("my-er-ace", paper="arXiv:2104.05025")
def er_ace(memory: int = 50) -> Strategy:
    """ER with an asymmetric cross-entropy."""
    return Asymmetric(memory)
'''


METRIC = '''"""A metric in a file of one's own."""

from clbench.results.curve import Curve
from clbench.results.metrics.core import metric
from clbench.results.metrics import METRICS


@metric("twice_min", title="twice", higher_is_better=True, reference="here", default=False)
def twice_min(curve: Curve) -> float | None:
    """Twice the min-ACC.

    2 min-ACC
    """
    least = METRICS["min_acc"].function(curve)
    return None if least is None else 2 * least
'''


@pytest.fixture
def clbench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command in this process. What its plugins register is forgotten afterwards."""

    called = command(monkeypatch, capfd)

    def call(*arguments: object) -> Said:
        said = called(*arguments)
        forget()
        return said

    def forget() -> None:
        for name in [n for n in sys.modules if n.startswith(OTHERS)]:
            del sys.modules[name]
        for name in [n for n, entry in strategies._made.items() if entry.module.startswith(OTHERS)]:
            del strategies._made[name]

    return call


@pytest.fixture
def run(clbench: Command) -> Command:
    """`clbench run` of next to nothing, on one thread."""

    def call(strategy: str = "er", *more: object) -> Said:
        return clbench("run", "split-digits", strategy, *TINY, *more, "--threads", "1", "--device", "cpu")

    return call


# --- lists ---


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_docstring_does_not_reach_the_terminal_as_control(
    clbench: Command, tmp_path: Path, command: str
) -> None:
    """Neither the start of an escape, nor what turns text round; markup is text."""
    file = tmp_path / "loud.py"
    says = "[red]Loud[/red] \\x1b[31m \\x9b2J \\u202e.\\n\\nMore \\x1b]0;title\\x07"
    file.write_text(
        "from clbench import Strategy, register\nfrom clbench.parts import CrossEntropy\n\n"
        f"@register('loud')\ndef loud(word: str = '\\x1b[0m') -> Strategy:\n    '{says}'\n    return CrossEntropy()\n"
    )
    said = clbench(command, {"list": "strategies", "show": "loud"}[command], "--plugin", file)
    assert said.code == 0
    assert "[red]Loud[/red] \\u001b[31m \\u009b2J \\u202e." in said.out
    assert all(character.isprintable() or character == "\n" for character in said.out)


@pytest.mark.parametrize("kind", ["strategies", "benchmarks", "models", "metrics", "suites"])
def test_every_kind_is_listed_as_json(clbench: Command, kind: str) -> None:
    said = clbench("list", kind, "--json")
    rows = json.loads(said.out)
    assert (said.code, said.err) == (0, "")
    assert rows
    assert all(row["name"] and row["summary"] for row in rows)


def test_everything_is_listed_for_people(clbench: Command) -> None:
    said = clbench("list")
    assert all(
        word in said.out
        for word in ("strategies:", "er@1", "split-digits@1", "mlp@1", "forgetting", "quickstart")
    )


@pytest.mark.parametrize("name", ["er", "split-digits", "mlp", "forgetting", "quickstart"])
def test_every_kind_is_shown(clbench: Command, name: str) -> None:
    said = clbench("show", name)
    assert said.code == 0
    assert said.out.partition("\n")[0].partition("@")[0].endswith(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("derpp", "    beta = 0.5   (a number ≥ 0)\n        β, weight of the stored labels.\n"),
        ("split-digits", "    experiences = 5   (a whole number ≥ 1)\n        1, 2, 5 or 10.\n"),
        ("dsi", "    folder required   (a file)\n        its path, or its name in CLBENCH_DATA.\n"),
        ("mlp", "    num_classes required   (a whole number)\n        Given by the benchmark.\n"),
    ],
)
def test_arguments_are_shown_with_their_meaning(clbench: Command, name: str, shown: str) -> None:
    said = clbench("show", name)
    assert shown in said.out
    assert "Args:" not in said.out


def test_of_a_chain_each_part_is_shown(clbench: Command) -> None:
    said = clbench("show", "er+ewc").out
    assert re.findall(r"^strategy (\w+)", said, re.MULTILINE) == ["er", "ewc"]
    assert [row["name"] for row in json.loads(clbench("show", "ewc+er", "--json").out)] == ["ewc", "er"]


@pytest.mark.parametrize("name", ["er", "split-digits", "mlp", "forgetting", "quickstart"])
def test_every_kind_is_shown_as_json(clbench: Command, name: str) -> None:
    assert json.loads(clbench("show", name, "--json").out)["name"] == name


# --- running ---


def test_a_run_prints_its_record_and_nothing_else(run: Command) -> None:
    said = run("er", "--json")
    record = json.loads(said.out)
    assert (said.code, said.err, record["status"]) == (0, "", "done")
    assert record == json.loads((Path("runs") / record["id"] / "record.json").read_text())


def test_a_run_that_is_there_is_not_run_again(run: Command) -> None:
    first = run("er", "--json")
    path = Path("runs") / json.loads(first.out)["id"] / "record.json"
    before = path.stat().st_mtime_ns
    assert run("er", "--json").out == first.out
    assert path.stat().st_mtime_ns == before


def test_a_logger_that_has_nothing_of_a_run_that_is_there_is_named(run: Command) -> None:
    run("finetune")
    assert run("finetune", "--log", "csv").err == (
        "clbench: warning: csv has nothing of 1 run that was already there; another --out makes and logs all "
        "anew.\n"
    )
    assert not list(Path().glob("runs/*/losses.csv"))
    assert "warning" not in run("finetune", "--log", "csv", "--out", "others").err
    assert run("finetune", "--log", "csv", "--out", "others").err == ""


def test_people_see_the_headline_and_the_folder(run: Command) -> None:
    said = run("er")
    assert "ACC" in said.out
    assert "experience 2/2" in said.err
    assert Path(said.out.strip().splitlines()[-1].strip()).is_dir()


def test_options_and_settings_mix(run: Command) -> None:
    record = json.loads(run("er", "memory=7", "--seed", 3, "lr=0.05", "--precision", "bf16", "--json").out)
    config = record["config"]
    assert (config["params"]["er"]["memory"], config["optim"]["lr"], config["precision"]) == (7, 0.05, "bf16")
    assert record["seeds"] == {"order": 3, "init": 3, "data": 3}


def test_a_config_file_is_taken(run: Command) -> None:
    Path("mine.yaml").write_text("optim:\n  lr: 0.05\n")
    assert json.loads(run("er", "--config", "mine.yaml", "--json").out)["config"]["optim"]["lr"] == 0.05


@pytest.mark.parametrize("command", ["show", "verify", "resume"])
def test_a_finished_run_is_json_for_every_command(clbench: Command, run: Command, command: str) -> None:
    id_ = json.loads(run("finetune", "--json").out)["id"]
    said = clbench(command, f"runs/{id_}", "--json")
    assert (said.code, said.err, json.loads(said.out)["id"]) == (0, "", id_)


def test_a_metric_that_was_changed_is_found(clbench: Command, run: Command) -> None:
    path = Path("runs") / json.loads(run("finetune", "--json").out)["id"] / "record.json"
    content = json.loads(path.read_text())
    content["metrics"]["average_accuracy"] = 0.99
    path.write_text(json.dumps(content))
    said = clbench("verify", path.parent)
    assert said.code == 1
    assert said.out.startswith("average_accuracy: the record says 0.99, the curve says 0.")
    assert "the record was altered" in said.out


def test_a_run_that_diverges_ends_with_3_and_says_where(run: Command) -> None:
    said = run("er", "lr=1e30", "--json")
    record = json.loads(said.out)
    assert (said.code, record["status"]) == (3, "diverged")
    assert record["note"].startswith("The loss is not finite at step 1 in experience 1: fit = ")


def test_a_strategy_is_checked_as_json(clbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CHECKS", [contract.check_builds, contract.check_chain_unit])
    said = clbench("check", "finetune", "--json")
    assert said.code == 0
    assert [row["status"] for row in json.loads(said.out)] == ["passed", "passed"]


# --- mistakes ---


def refused(said: Said) -> str:
    """Exit code 2, one line, no traceback; returns the line."""
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert said.err.startswith("clbench: ")
    return said.err.removeprefix("clbench: ").rstrip()


@pytest.mark.parametrize(
    ("file", "place", "reader"),
    [("images/a/1.png", "images", "image-folder"), ("prose/1.txt", "prose", "text-domains"), ("x.npz", "x.npz", "npz"),
     ("rows.csv", "rows.csv", "manifest")],
)  # fmt: skip
def test_data_in_place_of_a_benchmark_name_what_reads_them(
    clbench: Command, tmp_path: Path, file: str, place: str, reader: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    message = refused(clbench("run", f"{tmp_path}/{place}", "er"))
    assert message.endswith(f" and no benchmark; {reader} reads it, with path={tmp_path}/{place}.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run split-digts er", "There is no benchmark named 'split-digts'. Did you mean 'split-digits'?"),
        ("run split-digits derp", "There is no strategy named 'derp'. Did you mean 'derpp'?"),
        ("run split-digits er+derp", "There is no strategy named 'derp'. Did you mean 'derpp'?"),
        ("run split-digits er memry=5", "There is no setting 'memry'. Did you mean 'memory'?"),
        ("run split-digits er memory", "'memory' is not of the form key=value"),
        ("run split-digits er memory=5 memory=6", "'memory' is given twice: 5 and 6."),
        ("run split-digits er+derpp memory=5", "'memory' could mean er.memory or derpp.memory; write which."),
        (
            "run split-digits er memory=many",
            "'memory' takes a whole number ≥ 0; 'many' was given",
        ),
        (
            "run split-digits er memory=-5",
            "'memory' takes a whole number ≥ 0; -5 was given.",
        ),
        ("run split-digits er model=mlpp", "There is no model named 'mlpp'. Did you mean 'mlp'?"),
        ("run split-digits er --seed -1", "A seed is a whole number, 0 or more; -1 was given."),
        ("run split-digits er --config no.yaml", "There is no file no.yaml."),
        (
            "run split-digits er --precision fp8",
            "'precision' takes one of 'fp32', 'bf16', 'fp16'; 'fp8' was given.",
        ),
        ("run split-digits er --device tpu", "There is no device 'tpu'"),
        (
            "run split-digits er --log csv2",
            "'log.0' takes one of 'csv', 'tensorboard', 'wandb'; 'csv2' was given. Did you mean 'csv'?",
        ),
        ("run split-digits er --plugin no.py", "There is no plugin file no.py."),
        (
            "run split-digits er online=true epochs=2",
            "split-digits@1 allows 1 pass over an experience; train.epochs is 2.",
        ),
        ("run split-digits er experiences=3", "10 classes cannot be shared out evenly over 3 experiences"),
        ("run split-digits", "Missing argument"),
        ("run split-digits er --sede 3", "No such option: --sede"),
        ("runn", "No such command 'runn'. Did you mean 'run'?"),
        ("list strategy", "There is no kind 'strategy' to list. Did you mean 'strategies'?"),
        ("show derp", "Nothing is registered as 'derp', and it is no run folder. Did you mean 'derpp'?"),
        (
            "show average_acuracy",
            "Nothing is registered as 'average_acuracy', and it is no run folder. Did you mean 'average_",
        ),
        (
            "suite quikstart",
            "There is no suite 'quikstart', neither shipped nor a file. Did you mean 'quickstart'?",
        ),
        ("show er+ewcc", "Nothing is registered as 'ewcc'. Did you mean 'ewc'?"),
        ("data fetch digits", "The data set 'digits' comes with scikit-learn, so there is nothing to fetch."),
        ("data fetch digit", "Did you mean 'digits'? Known: digits, mnist, "),
        ("resume nowhere", "nowhere is no run folder: it holds no config.yaml."),
        ("verify nowhere", "There is no nowhere/record.json."),
        ("check derp", "There is no strategy named 'derp'. Did you mean 'derpp'?"),
        ("check er memory=3", "A strategy is checked with its defaults; leave out memory=3."),
        ("check npz pth=a.npz", "benchmark 'npz' has no parameter 'pth'. Did you mean 'path'?"),
    ],
)
def test_a_mistake_is_told_in_one_line(clbench: Command, arguments: str, message: str) -> None:
    assert message in refused(clbench(*arguments.split()))
    assert not Path("runs").exists()  # a run that is refused leaves nothing behind


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(run: Command, clbench: Command) -> None:
    line = refused(clbench("run", "split-digits", "er", "--device", "cuda"))
    assert line == "Device 'cuda' was asked for, but torch finds no CUDA here; use --device cpu."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("record.json", b'{"schema"', "record.json is damaged"),
        ("curve.npz", b"PK", "curve.npz is damaged or not a curve"),
    ],
)
def test_a_damaged_result_is_told_in_one_line(
    clbench: Command, run: Command, name: str, content: bytes, message: str
) -> None:
    folder = Path("runs") / json.loads(run("finetune", "--json").out)["id"]
    (folder / name).write_bytes(content)
    assert message in refused(clbench("verify", folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "optim: [", "config.yaml, line 1 is not YAML"),
        ("config.yaml", "optim: {lr: fast}", "config.yaml: 'benchmark' is missing"),
        ("execution.json", "[1", "execution.json is damaged"),
        ("execution.json", '{"workers": "many"}', "execution.json: 'workers'"),
        ("checkpoint.safetensors", "PK", "checkpoint.safetensors is damaged. Delete it and resume"),
    ],
)
def test_a_damaged_run_is_told_in_one_line_and_loses_nothing(
    clbench: Command, run: Command, name: str, content: str, message: str
) -> None:
    folder = Path("runs") / json.loads(run("finetune", "--json").out)["id"]
    (folder / "record.json").unlink()
    (folder / name).write_text(content)
    before = sorted(path.name for path in folder.iterdir())
    assert message in refused(clbench("resume", folder))
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_run_folder_with_another_name_is_refused(clbench: Command, run: Command) -> None:
    id_ = json.loads(run("finetune", "--json").out)["id"]
    (Path("runs") / id_ / "record.json").unlink()
    (Path("runs") / id_).rename("mine")
    assert f"this version would call the run {id_}" in refused(clbench("resume", "mine"))


def test_a_full_disk_is_told_in_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.files import writing
    from clbench.results.curve import Curve

    def full(self: Curve, path: Path) -> None:
        with writing(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Curve, "save", full)
    line = refused(run("finetune", "--json"))
    assert line.startswith("The disk is full: ")
    assert not list(Path("runs").glob("*/record.json"))


# --- plugins ---


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_a_method_fits_into_a_file_of_one_s_own(run: Command, plugin: Path) -> None:
    assert len(PLUGIN.splitlines()) < 60
    record = json.loads(run("my-er-ace", "memory=30", "--plugin", plugin, "--json").out)
    assert (record["strategy"], record["status"]) == ({"name": "my-er-ace", "version": "1"}, "done")


def test_a_plugin_is_a_part_of_a_chain(run: Command, plugin: Path) -> None:
    record = json.loads(run("my-er-ace+ewc", "ewc.fisher=batch", "--plugin", plugin, "--json").out)
    assert record["strategy"]["name"] == "my-er-ace+ewc"


def test_another_text_of_a_plugin_is_another_run(run: Command, plugin: Path) -> None:
    first = json.loads(run("my-er-ace", "--plugin", plugin, "--json").out)["id"]
    plugin.write_text(PLUGIN.replace("-1e9", "-1e8"))
    assert json.loads(run("my-er-ace", "--plugin", plugin, "--json").out)["id"] != first


def test_a_plugin_is_listed(clbench: Command, plugin: Path) -> None:
    rows = json.loads(clbench("list", "strategies", "--plugin", plugin, "--json").out)
    assert "my-er-ace" in {row["name"] for row in rows}


def test_a_run_of_a_plugin_asks_for_it_when_it_is_resumed(
    clbench: Command, run: Command, plugin: Path
) -> None:
    folder = Path("runs") / json.loads(run("my-er-ace", "--plugin", plugin, "--json").out)["id"]
    (folder / "record.json").unlink()
    assert "Name the plugin it comes from with --plugin" in refused(clbench("resume", folder))
    assert clbench("resume", folder, "--plugin", plugin, "--json").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nraise ValueError('no')\n", "line 2 raised ValueError: no"),
        ("x = (\n", "line 1 raised SyntaxError"),
        ("import sys\nsys.exit()\n", "line 2 raised SystemExit"),
        ("import nothing_such\n", "line 1 raised ModuleNotFoundError: No module named 'nothing_such'"),
        (
            PLUGIN.replace("my-er-ace", "er"),
            "strategy 'er' is already registered by clbench.strategies.er; rename",
        ),
        (
            PLUGIN.replace("memory: int = 50", "memory=50"),
            "parameter 'memory' has no annotation; write 'memory: int",
        ),
        (
            PLUGIN.replace("memory: int = 50", "**kwargs: int"),
            "takes *args or **kwargs; name each parameter instead",
        ),
    ],
    ids=["raises", "syntax", "exits", "import", "taken", "annotation", "kwargs"],
)
def test_a_plugin_that_is_wrong_is_told_in_one_line(
    run: Command, plugin: Path, text: str, message: str
) -> None:
    plugin.write_text(text)
    assert message in refused(run("my-er-ace", "--plugin", plugin))


def test_a_plugin_that_returns_something_else_is_refused(run: Command, plugin: Path) -> None:
    plugin.write_text(PLUGIN.replace("return Asymmetric(memory)", "return memory"))
    assert "strategy 'my-er-ace' must return a Strategy;" in refused(run("my-er-ace", "--plugin", plugin))


def test_a_factory_that_refuses_a_value_is_told_in_one_line(run: Command, plugin: Path) -> None:
    text = PLUGIN.replace(
        "    return Asym", "    if memory == 13:\n        raise ValueError('no luck')\n    return Asym"
    )
    plugin.write_text(text)
    line = refused(run("my-er-ace", "memory=13", "--plugin", plugin))
    assert line == "strategy 'my-er-ace': no luck"


def test_a_broken_plugin_is_named_and_all_others_are_listed(
    clbench: Command, plugin: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    said = clbench("list", "strategies", "--json", "--plugin", "broken.py", "--plugin", plugin)
    assert said.code == 2
    assert {"er", "my-er-ace"} <= {row["name"] for row in json.loads(said.out)}
    assert said.err == (
        "clbench: warning: The plugin broken.py cannot be loaded: line 1 raised ZeroDivisionError: division by zero\n"
    )


def test_checks_that_do_not_apply_are_counted_as_skipped(
    clbench: Command, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [contract.check_builds, contract.check_chain_unit, contract.check_null_parameters]
    monkeypatch.setattr(checking, "CHECKS", some)
    said = clbench("check", "my-er-ace", "--plugin", plugin)
    passed, skipped, failed = (
        line.split()[0] for line in said.out.splitlines()[-1].partition(": ")[2].split(", ")
    )
    assert (said.code, int(failed)) == (0, 0)
    assert said.out.count("\nskip ") == int(skipped) > 0
    assert said.out.count("ok   ") == int(passed)


@pytest.mark.parametrize(
    ("given", "reason"),
    [((), "it needs path: clbench check npz path=…"), (("path=gone.npz",), "its data cannot be had: ")],
)
def test_a_check_in_which_nothing_ran_is_not_passed(
    clbench: Command, given: tuple[str, ...], reason: str
) -> None:
    said = clbench("check", "npz", *given)
    assert said.code == 2
    assert said.out.splitlines()[-1] == "npz: 0 passed, 5 skipped, 0 failed"
    assert said.out.count(reason) == 1
    assert f"No check of npz could be made: {reason}" in said.err


def test_a_benchmark_of_one_s_own_data_is_checked(clbench: Command) -> None:
    x, y = np.arange(240, dtype=np.float32).reshape(60, 4), np.arange(60) % 4
    np.savez("mine.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    np.savez("same.npz", x_train=x[:40], y_train=y[:40], x_test=x[:20], y_test=y[:20])
    said = clbench("check", "npz", "path=mine.npz", "stream.experiences=2")
    assert (said.code, said.out.splitlines()[-1]) == (0, "npz: 5 passed, 0 skipped, 0 failed")
    assert clbench("check", "npz", "path=same.npz", "experiences=2").code == 1


def test_one_mistake_is_told_once_by_check(clbench: Command, plugin: Path) -> None:
    plugin.write_text(PLUGIN.replace("self.seen.index_fill_(0, batch.y, True)", "self.sene += 1"))
    said = clbench("check", "my-er-ace", "--plugin", plugin)
    assert said.code == 1
    assert said.out.count("has no attribute 'sene'") == 1
    assert "(" + str(plugin) + ", line " in said.out
    assert "The same stops private_randomness, " in said.out


def test_no_printed_line_ends_in_blanks(clbench: Command, run: Command) -> None:
    Path("s.yaml").write_text("strategies: [finetune]\nbenchmarks: [split-digits]\nseeds: 1\n")
    texts = [
        clbench("list").out,
        clbench("data", "status").out,
        clbench("suite", "s.yaml", *TINY, "--threads", "1").out,
    ]
    assert [line for text in texts for line in text.splitlines() if line != line.rstrip()] == []


# --- commands that are printed ---

MINE = {
    "my plugin.py": PLUGIN,
    "a suite.yaml": "strategies: [my-er-ace, er]\nbenchmarks: [split-digits]\nseeds: 1\n",
    "more.yaml": "optim: {lr: 0.07}\n",
}


def results(folder: Path) -> list[dict[str, str]]:
    """What a report says of each run, but for the seconds."""
    (file,) = folder.rglob("results.csv")
    with file.open(encoding="utf-8") as rows:
        return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(rows)]


def elsewhere(name: str, monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    """Go on in a fresh folder with these files of one's own."""
    here = Path.cwd()
    Path(name).mkdir()
    for file in files:
        shutil.copy(file, Path(name) / file)
    monkeypatch.chdir(here / name)


def test_the_command_of_a_report_makes_its_table_in_a_fresh_folder(
    clbench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in MINE.items():
        Path(name).write_text(text)
    asked = ["suite", "a suite.yaml", *TINY, "memory=30", "--plugin", "my plugin.py", "--config", "more.yaml"]
    asked += ["--seeds", "2", "--precision", "bf16", "--threads", "1", "--device", "cpu", "--out", "$my runs"]
    assert clbench(*asked).code == 0
    first = results(Path("$my runs"))
    (table,) = Path("$my runs").rglob("table.md")
    line = table.read_text().splitlines()[2]
    page = table.with_name("report.html").read_text()
    assert html.unescape(re.findall("<pre><code>(.*?)</code>", page)[0]) == line.removeprefix("    ")
    elsewhere("fresh", monkeypatch, *map(Path, MINE))
    program, *words = shlex.split(line)
    assert program == "clbench"
    assert clbench(*words).code == 0
    assert results(Path("$my runs")) == first
    assert [row["strategy"] for row in first] == ["my-er-ace"] * 2 + ["er"] * 2


def test_a_file_that_begins_as_an_option_does_is_none(clbench: Command) -> None:
    Path("-s.yaml").write_text("strategies: [finetune]\nbenchmarks: [split-digits]\nseeds: 1\n")
    assert clbench("suite", "--threads", "1", "--", "-s.yaml", *TINY).code == 0
    (table,) = Path("runs").rglob("table.md")
    line = table.read_text().splitlines()[2].strip()
    assert (
        line == "clbench suite --threads 1 -- -s.yaml epochs=1 'hidden=[8]' experiences=2 evaluation.every=20"
    )
    assert clbench(*shlex.split(line)[1:]).code == 0


def used_with(said: Said) -> list[str]:
    """The words after `clbench` of the command by which what was found is used."""
    program, *words = shlex.split(said.out.splitlines()[-1].removeprefix("use it with: "))
    assert (said.code, program) == (0, "clbench")
    return words


def test_a_tuned_suite_is_used_with_what_it_was_tuned_with(
    clbench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in MINE.items():
        Path(name).write_text(text)
    asked = ["tune-suite", "a suite.yaml", *TINY[:2], "--plugin", "my plugin.py", "--out", "tuned it.yaml"]
    words = used_with(clbench(*asked, "--trials", "1", "--device", "cpu", "--threads", "1"))
    assert words[:4] == ["suite", "tuned it.yaml", *TINY[:2]]
    first, *_ = Path("tuned it.yaml").read_text().splitlines()
    assert shlex.split(first.partition("`")[2].rstrip("`."))[1:4] == asked[:2] + TINY[:1]
    elsewhere("fresh", monkeypatch, Path("my plugin.py"), Path("tuned it.yaml"))
    assert clbench(*words).code == 0
    (record, *_) = [json.loads(path.read_text()) for path in Path("runs").glob("*/record.json")]
    assert record["config"]["model"]["params"]["hidden"] == [8]


def test_tuned_settings_are_used_with_the_plugin_of_their_strategy(clbench: Command, plugin: Path) -> None:
    asked = ["tune", "split-digits", "my-er-ace", *TINY[:2], "--plugin", plugin, "--out", "best.yaml"]
    words = used_with(clbench(*asked, "--trials", "1", "--threads", "1"))
    assert words == ["run", "split-digits", "my-er-ace", "--config", "best.yaml", "--plugin", str(plugin)]
    assert clbench(*words).code == 0


def test_data_status_has_a_header_with_units(clbench: Command) -> None:
    header, *rows = clbench("data", "status").out.splitlines()
    assert header.split() == ["data", "set", "state", "MB", "file", "note"]
    assert rows[0].startswith("digits")


def test_data_describe_says_how_a_folder_is_read(
    clbench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from PIL import Image

    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    for k, path in enumerate(f"photos/{s}/{c}" for s in ("Train", "val") for c in ("ant", "bee")):
        Path(path).mkdir(parents=True)
        Image.new("L", (4, 4), 50 * k).save(f"{path}/0.png")
    asked = ("image-folder", "path=photos", "size=4", "experiences=2")
    head, note, *rows = clbench("data", "describe", *asked).out.splitlines()
    assert head == "image-folder@2: inputs 3 × 4 × 4, 2 classes"
    assert "read as Train/CLASS and val/CLASS, where val is the test set" in note
    assert ["train", "1", "1", "—", "1", "ant"] in [row.split() for row in rows]
    told = json.loads(clbench("data", "describe", *asked, "--json").out)
    assert told["notes"] == [note.strip()]
    assert [exp["examples"] for exp in told["streams"]["test"]] == [1, 1]
    said = clbench("run", "image-folder", "finetune", *asked[1:3], *TINY, "--threads", "1")
    assert note.strip() in said.err
    assert note in said.out.splitlines()


def test_a_suite_takes_a_file_and_a_precision(clbench: Command) -> None:
    Path("s.yaml").write_text(
        "strategies: [finetune]\nbenchmarks: [split-digits]\nseeds: 1\nsettings: {lr: 0.5}\n"
    )
    Path("c.yaml").write_text("lr: 0.25\noptim: {momentum: 0.5}\n")
    said = clbench(
        "suite", "s.yaml", *TINY, "--config", "c.yaml", "--precision", "bf16", "--threads", "1", "--json"
    )
    (record,) = Path("runs").glob("*/record.json")
    config = json.loads(record.read_text())["config"]
    assert (said.code, config["optim"]["lr"], config["optim"]["momentum"]) == (0, 0.25, 0.5)
    assert config["precision"] == "bf16"


def test_a_suite_shows_the_metrics_that_it_names_also_those_of_a_plugin(clbench: Command) -> None:
    Path("mine.py").write_text(METRIC)
    Path("suite.yaml").write_text(
        "strategies: [finetune]\nbenchmarks: [split-digits]\nseeds: 1\nmetrics: [twice_min, learning_accuracy]\n"
        "settings: {epochs: 1, hidden: [8], experiences: 2}\n"
    )
    suite = "suite", "suite.yaml", "--device", "cpu", "--workers", "1"
    said = clbench(*suite)
    assert said.code == 2
    assert "'metrics': there is no metric 'twice_min'" in said.err
    assert not Path("runs").exists()
    with_plugin = *suite, "--plugin", "mine.py"
    try:
        (told,) = json.loads(clbench(*with_plugin, "--json").out)
        del METRICS["twice_min"]  # a plugin is loaded anew
        table = clbench(*with_plugin).out.splitlines()[1]
        del METRICS["twice_min"]
        once = clbench(*with_plugin, "--metric", "min_acc").out.splitlines()[1]
    finally:
        METRICS.pop("twice_min", None)
    metrics = told["metrics"]
    assert metrics["twice_min"]["mean"] == pytest.approx(2 * metrics["min_acc"]["mean"])
    assert table.split() == ["strategy", "twice↑", "LA↑", "train", "s"]
    assert once.split() == ["strategy", "min-ACC↑", "train", "s"]
    assert "<th" in Path("runs/suite/report.html").read_text()


@pytest.mark.parametrize(("given", "meant"), [("min_ac", "min_acc"), ("min-ACC", "min_acc")])
def test_an_unknown_metric_is_refused_with_the_nearest_before_the_first_run(
    clbench: Command, given: str, meant: str
) -> None:
    said = clbench("suite", "quickstart", "--metric", given)
    assert f"There is no metric '{given}'. Did you mean '{meant}'?" in refused(said)
    assert not Path("runs").exists()


def test_a_plot_takes_a_plugin(clbench: Command, run: Command, plugin: Path) -> None:
    id_ = json.loads(run("my-er-ace", "--plugin", plugin, "--json").out)["id"]
    said = clbench("plot", f"runs/{id_}", "--plugin", plugin, "--out", "gap.png")
    assert (said.code, said.out) == (0, "gap.png\n")


# --- entry points ---


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution with one strategy that works, one that raises, and one whose name is taken."""
    site = tmp_path / "site"
    info = site / "theirs-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[clbench.strategies]\nmy-er-ace = theirs_good:er_ace\nbroken = theirs_bad:x\n"
        "er = theirs_good:er_ace\n"
    )
    (site / "theirs_good.py").write_text(PLUGIN)
    (site / "theirs_bad.py").write_text("raise RuntimeError('out of order')\n")
    monkeypatch.syspath_prepend(str(site))
    for registry in (strategies, benchmarks, models):
        for known in ("_foreign", "_points"):
            registry.__dict__.pop(known, None)
    monkeypatch.delitem(strategies._made, "er", raising=False)  # what is loaded is not looked for again
    monkeypatch.delitem(sys.modules, "clbench.strategies.er", raising=False)
    yield site
    for registry in (strategies, benchmarks, models):
        for known in ("_foreign", "_points"):
            registry.__dict__.pop(known, None)


def test_entry_points_are_listed_without_being_loaded(clbench: Command, installed: Path) -> None:
    rows = {row["name"]: row for row in json.loads(clbench("list", "strategies", "--json").out)}
    assert rows["my-er-ace"]["summary"] == "ER with an asymmetric cross-entropy."
    assert rows["my-er-ace"]["origin"] == rows["broken"]["origin"] == "theirs 1.2"


def test_an_entry_point_runs(run: Command, installed: Path) -> None:
    assert json.loads(run("my-er-ace", "--json").out)["status"] == "done"


def test_an_entry_point_that_raises_is_named(run: Command, installed: Path) -> None:
    assert refused(run("broken")) == (
        "strategy 'broken' of theirs 1.2 cannot be loaded: its entry point theirs_bad:x: line 1 raised "
        "RuntimeError: out of order"
    )


def test_of_a_taken_name_clbench_s_own_runs_and_the_other_is_named(run: Command, installed: Path) -> None:
    with warnings.catch_warnings(action="always"):
        said = run("er", "--json")
    assert said.err.startswith(
        "clbench: warning: strategy 'er' of theirs 1.2 (theirs_good:er_ace) has the name of one of clbench's own"
    )
    assert json.loads(said.out)["status"] == "done"


def test_a_broken_entry_point_stops_nothing_else(run: Command, installed: Path) -> None:
    said: Any = run("finetune", "--json")
    assert json.loads(said.out)["status"] == "done"


def test_what_cannot_be_loaded_is_named_when_all_is(clbench: Command, installed: Path) -> None:
    said = clbench("list", "strategies", "--load")
    assert said.code == 2
    assert "strategy 'er' of theirs 1.2 (theirs_good:er_ace) has the name of one of clbench's own" in said.err
    assert (
        "strategy 'broken' of theirs 1.2 cannot be loaded: its entry point theirs_bad:x: line 1 raised"
        in said.err
    )
    assert said.err.count("warning") == 2
    assert "my-er-ace@1" in said.out


def test_a_name_that_two_distributions_want_is_nobody_s(
    clbench: Command, run: Command, installed: Path
) -> None:
    info = installed / "ours-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[clbench.strategies]\nmy-er-ace = ours:x\nlost = ours:x\n")
    said = clbench("list", "strategies")
    assert said.code == 2
    assert "strategy 'lost' of ours 0.3 (ours:x) cannot be loaded: there is no module ours." in said.err
    line = refused(run("my-er-ace"))
    assert all(words in line for words in ("theirs 1.2", "ours 0.3", "Neither is used"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--launcher", "rai"], "no launcher 'rai'. Did you mean 'ray'? Known: local, ray"),
        (["--address", "auto"], "--address is for --launcher ray; the launcher is local"),
        (["--launcher", "ray", "--per-gpu", "2"], "--per-gpu is for --launcher local; the launcher is ray"),
        (["--launcher", "ray", "--workers", "2"], "--workers is for --launcher local; the launcher is ray"),
    ],
    ids=["unknown", "ray's", "shared", "local's"],
)
def test_options_of_another_launcher_are_refused(clbench: Command, options: list[str], message: str) -> None:
    said = clbench("suite", "quickstart", *options)
    assert said.code == 2
    assert message in " ".join(said.err.split())
