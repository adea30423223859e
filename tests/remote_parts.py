"""``unetseg worker`` as a process of its own, as on another computer."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
START = "import sys; from napari_unetseg.cli import main; sys.exit(main(sys.argv[1:]))"


KEY_FILE = re.compile(r"KEY is the text in (.*)\)\n")


def _at(home: Path | None) -> dict[str, str]:
    """Variables that move the configuration of a user, wherever the system has it."""
    names = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "XDG_CONFIG_HOME")
    return {} if home is None else dict.fromkeys(names, str(home))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Worker:
    """A worker with one thread; ``first`` is a line of Python that it runs before anything.

    With a home of its own it has another key than who connects, as on another computer.
    """

    def __init__(self, *, first: str = "pass", home: Path | None = None) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._said = tempfile.TemporaryFile()
        command = [sys.executable, "-c", f"{first}; {START}", "worker", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--threads", "1"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | _at(home),
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        end = time.monotonic() + 60.0
        while KEY_FILE.search(self.said) is None:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
        self._said.close()

    @property
    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode()

    @property
    def key_file(self) -> Path:
        found = KEY_FILE.search(self.said)
        assert found is not None
        return Path(found[1])

    def kill(self) -> None:
        """As if it had lost its power."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30.0)
