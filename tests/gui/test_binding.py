"""What a Qt binding does to a process; a crash would end the tests, hence a program."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gui, pytest.mark.bindings]

PROGRAM = """
from qtpy.QtCore import QObject, Signal
from napari_unetseg.gui.binding import keep_constants_alive

class Sender(QObject):
    said = Signal()

keep_constants_alive()
keep_constants_alive()
sender = Sender()
for _ in range(200_000):
    sender.said.emit()
    sender.setObjectName("sender")
print(sender.objectName())
"""


def test_calls_and_signals_do_not_use_up_pythons_constants() -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sender\n", "")
