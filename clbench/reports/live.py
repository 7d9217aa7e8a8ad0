"""The live page: one page on the loopback address that follows runs. It reads run folders and changes nothing.

`/` is the page, `/runs` says of every run how far it is, `/run?key=…` has the curve of one of them, from a tick on.
What is asked for is looked up among the runs that are followed; no path of a request reaches the file system.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clbench.errors import ConfigError, LedgerError
from clbench.files import sha256
from clbench.reports import charts
from clbench.reports.markup import asset, join
from clbench.reports.styles import styles
from clbench.results.curve import Curve
from clbench.results.live import SUMMARY, Followed, series, summary
from clbench.results.measures import ACCURACY, LOSS, measure_of
from clbench.results.metrics import METRICS

ADDRESS = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


PANELS = {
    ACCURACY: ("accuracy on each experience", "the gap: accuracy, and the lowest so far"),
    LOSS: (
        f"{LOSS.label} on each experience",
        f"the gap: how far the loss of old experiences rose above that at a boundary ({LOSS.unit})",
    ),
}
PANEL_OF = {ACCURACY: (1, 1, 1), LOSS: (0, 1, 0)}
LINES: tuple[tuple[str, list[int]], ...] = (("--ink", []), ("--bad", []), ("--bad", [7, 4]))
"""The panels of a run, and the colours and dashes of the lines of `SUMMARY`, each in one of them."""
ABOUT = {
    ACCURACY: (
        "Accuracy: the mean over the experiences seen so far; of a run that has ended, ACC. min-ACC: the lowest "
        "accuracy of each old experience since its end, averaged over them. WC-ACC: the accuracy of the present "
        "experience and the lowest of every older one. Percent."
    ),
    LOSS: (
        "Loss: the mean over the experiences seen so far, the lower the better. Gap: the largest rise of an old "
        "experience's loss above that at a boundary, averaged over boundaries and old experiences. Anytime loss: the "
        "mean of the loss over the steps so far. Nats per token."
    ),
}


@functools.cache
def files() -> dict[str, tuple[str, str]]:
    """Return what the page is made of, which holds nothing of any run: path → content and type."""
    return {
        "/": (asset("live.html"), "text/html"),
        "/live.css": (join([asset("page.css"), charts.style(), asset("live.css")]), "text/css"),
        "/live.js": (join([charts.script(), asset("live.js")]), "text/javascript"),
    }


@dataclass(frozen=True)
class Named:
    """A run that is followed.

    Attributes:
        folder: of the run; it may not be there yet.
        benchmark, strategy: labels; what the run says of itself if empty. seed: that of the run.
    """

    folder: Path
    benchmark: str = ""
    strategy: str = ""
    seed: int | None = None


class LivePage(ThreadingHTTPServer):
    """The server of one page; `serve_forever` serves it until `shutdown`.

    Args:
        title: what is followed, in words.
        runs: tells which runs are followed now; there may be more of them later.
        port: 0 takes a free one.

    Raises:
        ConfigError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, title: str, runs: Callable[[], Sequence[Named]], port: int = 0) -> None:
        self.title, self.runs = title, runs
        self.asked = -math.inf  # when somebody last asked, by the monotonic clock
        self._followed: dict[str, tuple[Named, Followed]] = {}
        self._read = "", Curve()  # the curve that was last read, and its version
        self._looking = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be served: {error.strerror}. Leave out --port to take a free one."
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong; a browser that went away did not."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """What the browser of somebody who sits here calls it; a page of elsewhere has another name for it."""
        port = self.server_address[1]
        return f"{ADDRESS}:{port}", f"localhost:{port}"

    def overview(self) -> dict[str, Any]:
        """Return what is known of every run, for JSON."""
        self.asked = time.monotonic()
        with self._looking:
            now = {sha256(str(named.folder.absolute()))[:16]: named for named in self.runs()}
            known = self._followed
            self._followed = {
                key: known[key] if key in known else (named, Followed(named.folder))
                for key, named in now.items()
            }
            rows = [_row(key, *of) for key, of in self._followed.items()]
        return {"title": self.title, "runs": rows, "left": _left(rows)}

    def curve(self, key: str, version: str, start: int) -> dict[str, Any] | None:
        """Return the ticks of a run from number `start` of that version of its curve on; of another version, all. None
        of a run that is not followed."""
        with self._looking:
            if key not in self._followed:
                return None
            run = self._followed[key][1]
            run.look()
            told: dict[str, Any] = {"log": run.log(), "version": sha256(run.version)[:16], "start": start}
            if told["version"] != version:
                told["start"] = 0
            if run.record is None or self._read[0] != run.version:
                try:
                    self._read = run.version, run.curve
                except LedgerError as error:
                    return told | {"note": str(error)}
            curve = self._read[1]
            experiences = curve.experiences if run.record is not None else len(run.about.get("ends", ()))
            measure = measure_of(curve)
            lines = zip(SUMMARY[measure].items(), LINES, PANEL_OF[measure], strict=True)
            told |= {
                "streams": _streams(run.domains, curve.streams),
                "experiences": experiences,
                "lines": [
                    {"key": key, "name": name, "color": color, "dash": dash, "panel": panel}
                    for (key, name), (color, dash), panel in lines
                ],
                "panels": [
                    {
                        "label": label,
                        "percent": measure.share,
                        "zero": measure.share or i == 1,
                    }
                    for i, label in enumerate(PANELS[measure])
                ],
                "about": ABOUT[measure],
            }
            return told | series(curve, run.progress(curve), told["start"])


def _streams(domains: Sequence[str | None], count: int) -> list[dict[str, Any]]:
    """Return name, colour and dashes of each test stream, for the script."""
    known = [*domains, *[None] * count]
    names = [f"experience {i + 1}" + (f" ({known[i]})" if known[i] else "") for i in range(count)]
    return [
        {"name": name, "color": of.variable, "dash": list(of.lengths)} for name, of in styles(names).items()
    ]


def _row(key: str, named: Named, run: Followed) -> dict[str, Any]:
    """Return what the table says of a run."""
    run.look()
    row: dict[str, Any] = {"key": key, "id": run.folder.name, "state": run.state, "note": run.note}
    row |= {"step": run.step, "steps": run.steps, "left": run.left}
    if run.record is not None:
        record, metrics = run.record, run.record.metrics
        said = [record.benchmark["name"], record.strategy["name"], record.seeds["data"]]
        names = SUMMARY[LOSS if METRICS[record.primary].language else ACCURACY]
        row["told"] = {names[key]: METRICS[key].told(metrics.get(key), ".1f") for key in names}
        row["seconds"] = record.budget["train_seconds"] + record.budget["eval_seconds"]
    else:
        said = [run.about.get(name) for name in ("benchmark", "strategy", "seed")]
        names = SUMMARY[measure_of(run.curve)]
        last = {key: float(line[-1]) for key, line in summary(run.curve).items() if len(line)}
        known = {key: None if value != value else value for key, value in last.items()}
        row["told"] = {names[key]: METRICS[key].told(value, ".1f") for key, value in known.items()}
    given = named.benchmark, named.strategy, named.seed
    labels = (own if label in ("", None) else label for label, own in zip(given, said, strict=True))
    return row | dict(zip(("benchmark", "strategy", "seed"), labels, strict=True))


def _left(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return about how many seconds all that runs or waits will take; None while nothing tells.

    A run that waits takes as long as those that have ended, and as many run side by side as do now.
    """
    running = [row for row in rows if row["state"] == "running"]
    waiting = sum(row["state"] == "waiting" for row in rows)
    took = [row["seconds"] for row in rows if "seconds" in row]
    present = [float(row["left"]) for row in running if row["left"] is not None]
    if not running or len(present) < len(running) or (waiting and not took):
        return None
    each = sum(took) / len(took) if took else 0.0
    last: float = max(*present, (sum(present) + waiting * each) / len(running))
    return last


class _Handler(BaseHTTPRequestHandler):
    """Answers GET, and nothing to a page that calls this machine by another name (DNS rebinding)."""

    server: LivePage
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clbench", ""
    timeout = 60

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            return self.send_error(
                HTTPStatus.MISDIRECTED_REQUEST, "this page is served to this machine alone"
            )
        asked = urlsplit(self.path)
        given = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        if asked.path in files():
            return self._send(*files()[asked.path])
        if asked.path == "/runs":
            body = json.dumps(self.server.overview(), allow_nan=False)
            known = sha256(body)[:16]
            if given.get("known") == known:
                return self._send("", "application/json", HTTPStatus.NO_CONTENT)
            return self._send(f'{{"known": "{known}", {body[1:]}', "application/json")
        if asked.path == "/run":
            start = given.get("start", "0")
            told = self.server.curve(
                given.get("key", ""), given.get("version", ""), int(start) if start.isdecimal() else 0
            )
            if told is not None:
                return self._send(json.dumps(told, allow_nan=False), "application/json")
        return self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode()
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in (
            ("Content-Security-Policy", POLICY),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
