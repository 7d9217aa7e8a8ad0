"""What a terminal shows: help, progress, names to complete, colours, paths from home, places that cannot be written."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import Command, Said, command

from clbench.cli import progress
from clbench.cli.terminal import console, fitted
from clbench.config import suite_names
from clbench.errors import LedgerError
from clbench.files import check_place, expanded
from clbench.runs.cells import Cell

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clbench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command in this process."""
    return command(monkeypatch, capfd)


@pytest.fixture
def run(clbench: Command) -> Command:
    """`clbench run` of next to nothing."""

    def call(strategy: str, *more: str) -> Said:
        tiny = ["epochs=1", "hidden=[8]", "experiences=2", "--device", "cpu"]
        return clbench("run", "split-digits", strategy, *tiny, *more)

    return call


# --- help ---


def test_alone_it_shows_the_three_jobs_in_80_columns(clbench: Command) -> None:
    said = clbench()
    assert (said.code, said.out) == (2, "")
    for job in ("clbench suite quickstart", "clbench new strategy", "clbench reproduce"):
        assert job in said.err
    assert max(map(len, said.err.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_summary_of_a_command_is_cut(
    clbench: Command, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = clbench("--help").out
    assert "..." not in said.partition("Commands:")[2]
    assert max(map(len, said.splitlines())) <= width
    whole = "train its first steps again, and compare both with its record."
    assert whole in " ".join(said.split())


def test_a_suite_is_one_line_in_a_list_and_whole_where_it_is_shown(clbench: Command) -> None:
    lines = clbench("list", "suites").out.splitlines()
    assert len(lines) == len(suite_names())
    assert max(map(len, lines)) <= 140
    (quickstart,) = (line for line in lines if line.strip().startswith("quickstart"))
    assert quickstart.endswith("   Quickstart (6 strategies, 2 benchmarks, 5 seeds)")
    assert "after every iteration." in clbench("show", "quickstart").out


# --- completion ---


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["lead"], ["leaderboard"]),
        (["run", "split-dig"], ["split-digits"]),
        (["run", "split-digits", "er+ref"], ["er+refresh"]),
        (["suite", "quick"], ["quickstart"]),
        (["run", "split-digits", "er", "--prec"], ["--precision"]),
    ],
    ids=str,
)
def test_a_shell_completes_commands_names_and_options_without_torch(
    words: list[str], found: list[str]
) -> None:
    program = (
        "import sys\nfrom clbench.__main__ import main\nsys.argv = ['clbench']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    asked = {"COMP_WORDS": " ".join(["clbench", *words]), "COMP_CWORD": str(len(words))}
    environment = {**os.environ, **asked, "_CLBENCH_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (found, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    environment = {**os.environ, "_CLBENCH_COMPLETE": f"source_{shell}"}
    program = "from clbench.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert f"_CLBENCH_COMPLETE=complete_{shell}" in done.stdout


# --- progress ---


def cells(*told: tuple[str, int, int]) -> list[Cell]:
    """Cells of a suite: state, steps and steps in all."""
    nothing: Any = SimpleNamespace()
    return [
        Cell("digits", "er", seed, nothing, f"{seed}", state, "", steps, total)
        for seed, (state, steps, total) in enumerate(told)
    ]


def test_a_suite_says_that_workers_start_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    all_ = cells(*[("waiting", 0, 0)] * 4)
    shown = progress.SuiteProgress(all_, quiet=False)
    assert str(shown._pace) == "starting workers …"
    all_[0].state = all_[1].state = "running"
    shown.update(all_)
    shown.update(all_)
    assert capsys.readouterr().err == "starting 2 workers …\n"
    now[0] = 15.0  # until here they started, which is no work
    shown.update(all_)
    now[0] = 45.0
    all_[0].state, all_[1].steps, all_[1].total = "failed", 5, 10
    shown.update(all_)  # one and a half of four in 30 s
    assert capsys.readouterr().err == "[1/4] digits · er · seed 0: failed; 0:50 left\n"
    assert str(shown._pace) == "0:30 elapsed, 0:50 left"


def test_the_bar_of_a_run_counts_experiences_from_1_and_names_its_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    line, watched = progress.Line(), SimpleNamespace(step=0, total_steps=10, experience=0, train=[0, 1])
    monkeypatch.setattr("clbench.data.remarks", lambda benchmark: [])
    watched.benchmark = None
    line.begin(watched)  # type: ignore[arg-type]
    watched.step = 5
    line.window(watched, [])  # type: ignore[arg-type]
    line._bar.refresh()
    line.end(watched)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "experience 1/2" in said
    assert re.search(r"\d:\d\d elapsed, \d:\d\d left", said)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0:00"), (45, "0:45"), (725, "12:05"), (3723, "1:02:03")]
)
def test_times_are_told_as_clocks_do(seconds: float, told: str) -> None:
    assert progress._clock(seconds) == told


@pytest.mark.parametrize(("wide", "shown"), [(100, "━"), (40, "0:00 left")])
def test_a_narrow_terminal_has_no_bar_and_cuts_words_not_times(
    wide: int, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(wide))
    all_ = cells(("running", 5, 10))
    all_[0].strategy = "a label of a strategy that goes on and on"
    with progress.SuiteProgress(all_, quiet=False) as bars:
        bars.update(all_)
    said = capsys.readouterr().err
    assert ("━" in said) is (wide == 100)
    assert shown in said
    assert "5/10" in said


# --- tables ---


@pytest.mark.parametrize("wide", [30, 45, 80, 400])
def test_a_table_that_is_wider_than_the_screen_is_shown_in_parts_and_whole(wide: int) -> None:
    from rich.table import Table

    table = Table(title="digits", caption="Percent.", box=None)
    table.add_column("strategy", no_wrap=True)
    for i in range(12):
        table.add_column(f"metric{i}", no_wrap=True, justify="right")
    for label in ("a label that goes on and on", "er"):
        table.add_row(label, *(f"{i}.5±0.1" for i in range(12)))
    written = io.StringIO()
    screen = console(written, wide)
    screen.print(*fitted(table, screen), sep="\n")
    words = written.getvalue().split()
    for i in range(12):
        assert words.count(f"metric{i}") == 1
        assert words.count(f"{i}.5±0.1") == 2
    assert "…" not in written.getvalue()
    assert (words.count("digits"), words.count("Percent.")) == (1, 1)
    assert max(map(len, written.getvalue().splitlines())) <= wide


# --- colours ---


@pytest.mark.parametrize(
    ("variables", "colours"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_are_for_terminals_unless_variables_say_otherwise(
    variables: dict[str, str], colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    written = io.StringIO()
    console(written).print("red", style="red")
    assert ("\x1b[31m" in written.getvalue()) is colours


# --- paths ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_path_may_begin_at_home(home: Path) -> None:
    assert expanded("~/runs") == home / "runs"
    assert expanded("a/~b") == Path("a/~b")


def test_options_settings_and_files_may_begin_at_home(
    clbench: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    x, y = np.zeros((8, 4), dtype="float32"), np.arange(8) % 2
    np.savez(home / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (home / "mine.yaml").write_text("stream: {path: ~/mine.npz}\n")
    tiny = ["npz", "finetune", "experiences=2", "hidden=[2]", "iterations=1", "--device", "cpu"]
    assert clbench("run", *tiny, "path=~/mine.npz", "--out=~/runs").code == 0
    monkeypatch.setenv("CLBENCH_RUNS", "~/others")
    assert clbench("run", *tiny, "--config=~/mine.yaml").code == 0
    (first,), (second,) = (home / "runs").iterdir(), (home / "others").iterdir()
    assert first.name == second.name
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1", "--seed", "2"], "--seed is given twice, and takes one value; keep one."),
        (["--out", ""], "--out is given as an empty text; give a value, or leave it out."),
        (["--plugin", ""], "--plugin is given as an empty text; give a value, or leave it out."),
    ],
)
def test_an_option_stands_once_and_not_for_nothing(
    clbench: Command, arguments: list[str], message: str
) -> None:
    assert clbench("run", "split-digits", "er", *arguments) == (2, "", f"clbench: {message}\n")


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no folder take a file, whoever asks."""

    def read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("clbench.files.tempfile.TemporaryFile", read_only)


@pytest.mark.parametrize(
    "command",
    [
        "run split-digits er --out there",
        "suite quickstart --out there",
        "tune split-digits er --out there/best.yaml",
        "tune-suite quickstart --out there/best.yaml",
        "pretrain vit-cifar100-half --weights there",
        "new strategy my-method --out there",
        "plot runs/x --out there",
        "bench --out there",
        "submit runs/x --root there",
        "leaderboard --html there",
        "show split-digits --sheet there/sheet.png",
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_work_begins(
    command: str, clbench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    monkeypatch.setattr("clbench.engine.engine.Engine.__init__", lambda *_, **__: pytest.fail("work began"))
    said = clbench(*command.split())
    assert said.code == 2
    assert said.err.startswith("clbench: there")
    assert "nothing may be made in" in said.err
    assert "Read-only file system" in said.err
    assert said.err.count("\n") == 1
    assert not list(Path().iterdir())


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ordinary file"):
        check_place(Path(os.devnull), file=True)
    with pytest.raises(LedgerError, match="is a folder; name a file in it"):
        check_place(tmp_path, file=True)


def test_a_file_that_is_there_may_be_replaced_where_its_folder_takes_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best.yaml").touch()
    assert check_place(tmp_path / "best.yaml", file=True)
    refuse(monkeypatch)
    with pytest.raises(LedgerError, match="nothing may be made in"):
        check_place(tmp_path / "best.yaml", file=True)


# --- plots ---


def test_a_run_draws_its_plot_into_its_folder_and_names_it(run: Command) -> None:
    said = run("er", "--plot")
    file = Path(said.out.splitlines()[-1].strip())
    assert file == Path(said.out.splitlines()[-2].strip()) / "stability-gap.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert run("er", "--plot", "--json").out.endswith("}\n")


def test_a_run_without_ticks_has_nothing_to_plot(run: Command) -> None:
    said = run("finetune", "evaluation.every=0", "--plot")
    assert said.code == 0
    assert "There is nothing to plot" in said.err


# --- interrupts ---


def test_an_interrupt_while_the_command_line_is_imported_is_one_line() -> None:
    program = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'clbench.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from clbench.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "clbench: interrupted.\n")


def test_an_interrupt_before_a_worker_begins_ends_it_without_a_word(tmp_path: Path) -> None:
    """What it is sent interrupts it as it is unpickled, where a process imports what it needs."""
    (tmp_path / "sent.py").write_text(
        "import os, signal\n"
        "class Sent:\n"
        "    def __reduce__(self): return interrupt, ()\n"
        "def interrupt():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "def work(sent): pass\n"
    )
    program = (
        "import multiprocessing, sent\nfrom clbench.machine.processes import starting\n"
        "process = multiprocessing.get_context('forkserver').Process(target=sent.work, args=(sent.Sent(),))\n"
        "with starting(): process.start()\n"
        "process.join()\nprint(process.exitcode)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"-{signal.SIGINT.value}\n", "")


# --- streams ---


def started(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    program = [sys.executable, "-c", "from clbench.__main__ import main; main()", *arguments]
    return subprocess.Popen(program, text=True, **how)


def test_what_an_encoding_lacks_is_spelled() -> None:
    ascii_ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    said, _ = started("list", "strategies", env=ascii_, stdout=subprocess.PIPE).communicate()
    assert "\\u03c1" in said


def test_a_reader_who_leaves_ends_the_command_as_a_shell_expects() -> None:
    read, write = os.pipe()
    os.close(read)
    tiny = ["split-digits", "finetune", "epochs=1", "hidden=[2]", "experiences=2", "--device", "cpu"]
    both = started("run", *tiny, stdout=write, stderr=write)
    os.close(write)
    assert both.wait() == 128 + signal.SIGPIPE


def test_a_name_that_is_no_text_is_refused_before_work_begins(clbench: Command) -> None:
    said = clbench("suite", "s\udcff.yaml")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("clbench: s\\udcff.yaml is no text in UTF-8")
