"""The live page: it tells what a run has done so far, changes nothing of it, and is served to this machine alone."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, opened, stepped

import clbench
from clbench import files
from clbench.cli import watching
from clbench.engine.observer import Observer, ObserverWarning, Watched
from clbench.errors import ConfigError
from clbench.reports.live import LivePage, Named
from clbench.reports.markup import asset
from clbench.results.curve import Curve
from clbench.results.ledger import Record
from clbench.results.live import LIVE, Followed, packed, series, summary
from clbench.runs import lifecycle, live

STREAM = {"iterations": 60, "subset": 20}


def run(out: Path, *observers: Observer, **more: Any) -> Record:
    return clbench.run("split-digits", "er", out=out, observers=observers, experiences=2, **STREAM, **more)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes at every window, however quick it is."""
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 0.0)


class Looking(Observer):
    """Follows a run's folder from within the run; may end it, as a signal would."""

    def __init__(self, root: Path, until: int | None = None) -> None:
        self.root, self.until = root, until
        self.seen: list[tuple[str, int, int]] = []  # state, steps, ticks
        self.ticks: list[Any] = []

    def begin(self, run: Watched) -> None:
        self.followed = Followed(next(self.root.iterdir()))

    def window(self, run: Watched, rows: Sequence[Any]) -> None:
        self.followed.look()
        self.ticks = self.followed.curve.ticks().accuracy[:, 0].tolist()
        self.seen.append((self.followed.state, self.followed.step, len(self.ticks)))
        if self.until is not None and run.step >= self.until:
            run.stop = True  # type: ignore[attr-defined]


class Silent(Observer):
    def __init__(self, folder: Path) -> None:
        pass


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("level", "overlap"), [("exact", False), ("exact", True), ("racing", True)])
def test_a_run_that_is_followed_has_the_same_bits(
    level: str, overlap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"level": level, "execution": {"overlap": overlap}}
    followed = run(tmp_path / "followed", **how)
    monkeypatch.setattr(lifecycle, "Live", Silent)
    alone = run(tmp_path / "alone", **how)
    assert followed.curve == alone.curve
    weights = [(record.folder or Path()) / "model.safetensors" for record in (followed, alone)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert followed.metrics == alone.metrics


@pytest.mark.usefixtures("eager")
def test_what_is_told_of_a_run_that_runs_is_what_its_curve_will_say(tmp_path: Path) -> None:
    looking = Looking(tmp_path)
    record = run(tmp_path, looking)
    final = record.curve.ticks().accuracy[:, 0].tolist()
    assert looking.seen[0] == ("running", 50, 50)  # at step 50: the ticks before it
    assert [ticks for *_, ticks in looking.seen] == sorted(ticks for *_, ticks in looking.seen)
    assert looking.ticks == final[: len(looking.ticks)]
    assert not (record.folder / LIVE).exists() if record.folder else False


@pytest.mark.usefixtures("eager")
def test_a_run_that_was_interrupted_goes_on_in_its_file(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt):
        run(tmp_path, first := Looking(tmp_path, until=50))
    followed = first.followed
    followed.look()
    assert (followed.state, followed.step, len(followed.curve.ticks())) == ("stopped", 50, 51)
    looking = Looking(tmp_path)
    record = run(tmp_path, looking)
    assert looking.seen[0][0] == "running"
    assert looking.ticks == record.curve.ticks().accuracy[:, 0].tolist()[: len(looking.ticks)]
    followed.look()
    assert (followed.state, len(followed.curve)) == ("done", len(record.curve))


@pytest.mark.usefixtures("eager")
def test_a_full_disk_ends_what_is_followed_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, rows: bytes) -> int:
            return len(rows) // 2

    def fill(self: live.Live, run: Watched, step: int) -> None:
        if isinstance(self._file, io.FileIO):
            self._file.close()
        self._file = Full()  # type: ignore[assignment]
        write(self, run, step)

    write = live.Live._write
    monkeypatch.setattr(live.Live, "_write", fill)
    with pytest.warns(ObserverWarning, match=r"Live failed at step .* No space left on device"):
        record = run(tmp_path)
    assert record.status == "done"


def test_a_run_on_another_machine_runs_while_it_is_heard_of(tmp_path: Path) -> None:
    write_live(tmp_path)
    followed = Followed(tmp_path)
    followed.look()
    assert followed.state == "running"
    os.utime(tmp_path / LIVE, (1e9, 1e9))
    followed.look()
    assert followed.state == "stopped"


def test_time_left_is_told_by_the_pace_so_far(tmp_path: Path) -> None:
    write_live(tmp_path, steps=10, began=1000.0)
    (tmp_path / LIVE).touch()
    heard = (tmp_path / LIVE).stat().st_mtime
    write_live(tmp_path, steps=10, began=heard - 4)
    followed = Followed(tmp_path)
    followed.look()
    assert followed.step == 2
    assert followed.left == pytest.approx(4 / 2 * 8, rel=0.1)


def test_steps_that_only_the_log_tells_have_the_time_of_the_log(tmp_path: Path) -> None:
    write_live(tmp_path, steps=10)
    began = (tmp_path / LIVE).stat().st_mtime
    write_live(tmp_path, steps=10, began=began)
    (tmp_path / "log.jsonl").write_text('{"step": 4}\n')
    os.utime(tmp_path / "log.jsonl", (began + 20, began + 20))
    followed = Followed(tmp_path)
    followed.look()
    assert (followed.step, followed.left) == (5, pytest.approx(20, rel=0.1))


def write_live(folder: Path, steps: int = 4, began: float = 0.0, ticks: int = 3) -> Curve:
    """The file of a run that has made ticks after 0, 1, … steps; two experiences of half of its steps each."""
    about = {
        "format": 2,
        "benchmark": "toy",
        "strategy": "<b>er</b>",
        "seed": 0,
        "domains": ["photo", None],
        "steps": steps,
    }
    about |= {"host": "another", "from": 0, "began": began, "by": "step", "ends": [steps // 2, steps]}
    curve = Curve.from_trace([[k / 100 for k in range(ticks)]], [], first_step=0)
    with (folder / LIVE).open("wb") as file:
        file.write(json.dumps(about).encode() + b"\n" + packed(curve, 0, ticks))
    return curve


def test_a_row_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    curve = write_live(tmp_path, ticks=2)
    whole = packed(curve, 1, 2)
    data = (tmp_path / LIVE).read_bytes()
    (tmp_path / LIVE).write_bytes(data[:-5])
    followed = Followed(tmp_path)
    followed.look()
    assert len(followed.curve) == 1
    with (tmp_path / LIVE).open("ab") as file:
        file.write(whole[-5:])
    followed.look()
    assert len(followed.curve) == 2


@pytest.mark.parametrize("text", [b"garbage\n", b"[]\n", b'{"format": 1}\n', b"\xff\n"])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / LIVE).write_bytes(text)
    followed = Followed(tmp_path)
    followed.look()
    assert followed.note.startswith(f"{tmp_path / LIVE} cannot be read: ")


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda folder: None, "waiting"),
        (lambda folder: (folder / "lock").write_text("999999999"), "stopped"),
        (lambda folder: (folder / "record.json").write_text("{}"), "damaged"),
    ],
)
def test_the_state_of_a_folder(tmp_path: Path, make: Callable[[Path], object], state: str) -> None:
    make(tmp_path)
    followed = Followed(tmp_path)
    followed.look()
    assert followed.state == state


def test_a_run_in_another_process_s_hands_is_running_and_is_not_disturbed(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    with files.locked(tmp_path, "a run"):
        followed.look()
        assert followed.state == "running"
    followed.look()
    assert followed.state == "stopped"  # this process lives, but holds the lock no more


def test_the_gap_so_far_ends_as_the_metrics(tmp_path: Path) -> None:
    record = run(tmp_path)
    told = summary(record.curve)
    assert {key: told[key][-1] for key in ("min_acc", "wc_acc")}.items() <= record.metrics.items()


def test_later_ticks_are_told_alone() -> None:
    curve = Curve.from_trace([[0.5, 0.6, 0.7, 0.8], [0.1, 0.2]], [2])
    x = np.array([0.5, 1.0, 1.5, 2.0])
    told = series(curve, x, 2)
    assert told == {
        "x": [1.5, 2.0],
        "each": [[0.7, 0.8], [0.1, 0.2]],
        "summary": {"average_accuracy": [0.4, 0.5], "min_acc": [0.7, 0.7], "wc_acc": [0.4, 0.45]},
        "estimated": False,
    }


def test_a_stream_that_repeats_has_no_old_tasks() -> None:
    curve = Curve.from_trace([[0.5, 0.6, 0.7, 0.8]], [2])
    assert all(np.isnan(summary(curve)[key]).all() for key in ("min_acc", "wc_acc"))


# --- the server ---


@contextmanager
def served(*folders: Path, before: Callable[[], None] = lambda: None) -> Iterator[LivePage]:
    def runs() -> list[Named]:
        before()
        return [Named(folder) for folder in folders]

    with LivePage("a <i>title</i>", runs) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield page
        finally:
            page.shutdown()
            thread.join()


def ask(
    page: LivePage, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(*page.server_address[:2], timeout=10)  # type: ignore[misc]
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def asked(page: LivePage, path: str) -> Any:
    return json.loads(ask(page, path)[1])


def test_the_page_tells_of_a_run_only_what_is_new(tmp_path: Path) -> None:
    write_live(tmp_path)
    with served(tmp_path) as page:
        told = asked(page, "/runs")
        (row,) = told["runs"]
        assert (row["strategy"], row["state"], row["step"], row["steps"]) == ("<b>er</b>", "running", 2, 4)
        first = asked(page, f"/run?key={row['key']}")
        assert (first["start"], first["x"], first["experiences"]) == (0, [0.0, 0.5, 1.0], 2)
        assert [stream["name"] for stream in first["streams"]] == ["experience 1 (photo)"]
        more = asked(page, f"/run?key={row['key']}&version={first['version']}&start=2")
        assert (more["start"], more["x"]) == (2, [1.0])
        anew = asked(page, f"/run?key={row['key']}&version=other&start=2")
        assert (anew["start"], len(anew["x"])) == (0, 3)


def test_runs_that_are_taken_away_are_followed_no_more(tmp_path: Path) -> None:
    page = LivePage("runs", lambda: watching._in(tmp_path / "runs"))
    with closing(page.socket):
        assert page.overview()["runs"] == []
        for name in ("a", "b"):
            (tmp_path / "runs" / name).mkdir(parents=True)
            (tmp_path / "runs" / name / "config.yaml").touch()
        keys = {run["id"]: run["key"] for run in page.overview()["runs"]}
        shutil.rmtree(tmp_path / "runs" / "a")
        assert [run["id"] for run in page.overview()["runs"]] == ["b"]
        assert page.curve(keys["a"], "", 0) is None
        shutil.rmtree(tmp_path / "runs")
        assert page.overview()["runs"] == []


def test_what_is_known_is_not_told_again(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        known = asked(page, "/runs")["known"]
        assert ask(page, f"/runs?known={known}")[0].status == 204


def test_a_page_of_elsewhere_is_not_answered(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        assert ask(page, "/runs", Host=f"localhost:{page.server_address[1]}")[0].status == 200
        answer, body = ask(page, "/runs", Host="rebound.example")
        assert (answer.status, b"runs" in body) == (421, False)


def test_the_address_is_of_this_machine_alone(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        assert page.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_tells(tmp_path: Path, method: str) -> None:
    with served(tmp_path) as page:
        assert ask(page, "/runs", method)[0].status == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/lock",
        "/run",
        "/run?key=..",
        "/run?key=/etc",
        "/live.bin",
        "//etc/passwd",
    ],
)
def test_no_path_reaches_a_file(tmp_path: Path, path: str) -> None:
    (tmp_path / "lock").write_text("secret")
    with served(tmp_path) as page:
        answer, body = ask(page, path)
        assert (answer.status, b"secret" in body) == (404, False)


def test_every_answer_says_what_a_page_may_load(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        for path in ("/", "/live.js", "/live.css", "/runs", "/nothing"):
            policy = ask(page, path)[0].getheader("Content-Security-Policy") or ""
            assert policy.startswith(
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
            )
        assert "http" not in ask(page, "/")[1].decode()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with served(tmp_path) as page, pytest.raises(ConfigError, match=r"Port \d+ cannot be served: .* in use"):
        LivePage("another", list, page.server_address[1])


# --- in a browser ---


@needs_browser
def test_curves_grow_in_a_browser(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    ticks = 2

    def grow() -> None:
        nonlocal ticks
        ticks += 1
        write_live(folder, steps=100, ticks=ticks)

    with served(folder, before=grow) as page:
        done = opened(page.url, tmp_path / "profile")
    steps = re.search(r"<dt>steps</dt><dd>(\d+) / 100</dd>", done.stdout)
    assert steps is not None
    assert int(steps[1]) >= 3  # it has asked more than once
    assert "experience 1 (photo)" in done.stdout
    assert "<canvas" in done.stdout
    assert "&lt;b&gt;er&lt;/b&gt; on toy" in done.stdout  # as text
    assert "&lt;i&gt;title" in done.stdout
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr


@needs_browser
def test_the_table_keeps_the_focus_while_runs_go_on(tmp_path: Path) -> None:
    steps = """
    let asked = 0;
    window.fetch = async address => ({ok: true, status: 200, json: async () => address.startsWith("/runs") ? {
      known: String(++asked), title: "t", left: null, runs: ["a", "b"].map(key => ({key, id: key, state: "waiting",
        note: "", step: asked, steps: null, left: null, benchmark: "toy", strategy: key, seed: 0,
        told: {}}))} : {log: [], version: "v", start: 0}});
    const until = async there => { while (!there()) await new Promise(done => setTimeout(done, 50)); };
    PAGE
    await until(() => document.querySelectorAll("#runs button").length === 2);
    const held = document.querySelectorAll("#runs button")[1];
    held.focus();
    const before = asked;
    await until(() => asked > before + 1);
    seen.kept = document.activeElement === held;
    window.fetch = () => new Promise(() => {});
    """
    page = tmp_path / "page.html"
    page.write_text(re.sub(r"<(script src|link rel=.stylesheet).*", "", asset("live.html")), encoding="utf-8")
    assert stepped(page, steps.replace("PAGE", asset("live.js")), tmp_path) == {"kept": True}


# --- the command line ---


def command(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clbench", *words], capture_output=True, text=True, timeout=120, **how
    )


def test_what_is_neither_runs_nor_a_suite_is_named() -> None:
    done = command("watch", "quickstat")
    assert done.returncode == 2
    assert "no suite 'quickstat'. Did you mean 'quickstart'?" in done.stderr


def test_a_folder_of_runs_takes_no_settings(tmp_path: Path) -> None:
    done = command("watch", str(tmp_path), "memory=3")
    assert (done.returncode, done.stderr) == (
        2,
        "clbench: The runs of a folder have their settings; leave out memory=3.\n",
    )


def test_watch_prints_its_address_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    heard = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's `&` ignores it
    )
    words = [
        sys.executable,
        "-c",
        f"{heard}; from clbench.__main__ import main; main()",
        "watch",
        str(tmp_path),
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", process.stdout.readline())
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert (process.wait(20), process.stderr.read() if process.stderr else "") == (0, "")
        finally:
            process.kill()  # or leaving the block would wait for it


@pytest.mark.slow
def test_a_run_is_followed_while_it_runs_and_the_server_goes_with_it(tmp_path: Path) -> None:
    words = ["run", "split-digits", "er", "iterations=3", "--watch", "--out", str(tmp_path)]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    port = re.search(r"watch it: http://127\.0\.0\.1:(\d+)/", done.stderr)
    assert port is not None
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=5).request("GET", "/")
