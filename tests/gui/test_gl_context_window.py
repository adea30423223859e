"""What OpenGL makes of layers that leave a window; a crash would end the tests, hence a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gui, pytest.mark.bindings]

PROGRAM = Path(__file__).with_name("leaving_layers.py")


def test_windows_survive_that_layers_leave() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(PROGRAM)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr
    assert "OpenGL" not in done.stderr
