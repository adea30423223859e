"""The command line in a test's own process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from napari_unetseg.cli import main

if TYPE_CHECKING:
    import pytest


class Result(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """What runs the command line; signals must have their usual handlers afterwards."""

    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        before = handlers()
        code = main([str(a) for a in arguments])
        assert handlers() == before
        return Result(code, *capsys.readouterr())

    return call
