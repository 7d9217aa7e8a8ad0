"""The command line, called in the process of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from clbench import cli


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`clbench` with these arguments: how it ends, and what it prints."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["clbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Said(int(ended.value.code or 0), *capfd.readouterr())

    return call
