"""Signals that end a command: Ctrl-C, and those of schedulers, containers and closed terminals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.runtime.distributed import world

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl

NAMES = {"SIGINT": "Ctrl-C", "SIGBREAK": "Ctrl-Break", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}
"""Signals that end a command, where the system has them, and what users call them."""
KEYS = ("SIGINT", "SIGBREAK")
"""Those of the keyboard: pressed a second time they end the program at once."""
SAME_S = 5.0
"""A signal that comes again within so many seconds is the same request: shells that end, and
launchers of several processes, pass on what the system has sent already."""
STOPPING = "Stopping after this chunk"
"""What a prediction says when it is asked to stop."""
Handler = Callable[[int, Any], object]


class Quit(SystemExit):
    """A signal ends the program at once; what a job did since its last save is lost."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.name = NAMES[signal.Signals(number).name]


class Interrupted(Exception):
    """A signal ended a job after the step at hand; the text says what was kept."""

    def __init__(self, stop: Stop, kept: str) -> None:
        super().__init__(f"Stopped by {stop.name}: {kept}")
        self.code = 128 + stop.number


class Stop:
    """The signal that a job was asked to stop by; false while there was none."""

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self.number)

    @property
    def name(self) -> str:
        """What users call the signal."""
        return NAMES[signal.Signals(self.number).name]

    def take(self, number: int) -> bool:
        """Take a signal; whether it is the first one. Raises `Quit` where the patience is over."""
        if not self.number:
            self.number, self._since = number, time.monotonic()
            return True
        pressed = signal.Signals(number).name in KEYS
        if pressed or time.monotonic() - self._since > SAME_S:
            raise Quit(number)
        return False


@contextmanager
def handled(handler: Handler, *, ctrl_c: bool = True) -> Iterator[None]:
    """Call a handler for the signals that end a command, in the main thread of a program.

    A signal that is ignored stays so, as SIGHUP does under ``nohup``; Ctrl-C is always handled
    unless told otherwise.
    """
    before = {}
    for name in NAMES if threading.current_thread() is threading.main_thread() else ():
        number = getattr(signal, name, None)
        is_ctrl_c = name == "SIGINT"
        if number is None or (is_ctrl_c and not ctrl_c):
            continue
        if is_ctrl_c or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


@contextmanager
def quit_on_signals() -> Iterator[None]:
    """Raise `Quit` for a signal, as Python raises `KeyboardInterrupt` for Ctrl-C."""

    def handler(number: int, _: Any) -> None:
        _leave_lost_terminals()
        raise Quit(number)

    with handled(handler, ctrl_c=False):
        yield


@contextmanager
def stop_on_signals(control: JobControl, doing: str, again: str = "at once") -> Iterator[Stop]:
    """Let the first signal stop a job, and a second one the program.

    Of several processes that train together the first one is listened to. What a job that was
    stopped cannot do any more is raised as `Interrupted`, too.

    Parameters
    ----------
    control
        Of the job.
    doing
        What happens then, such as ``Stopping after this tile``.
    again
        How the program ends when Ctrl-C is pressed again.
    """
    stop = Stop()

    def handler(number: int, _: Any) -> None:
        _leave_lost_terminals()
        if world().rank or not stop.take(number):
            return
        control.stop()
        pressed = signal.Signals(number).name in KEYS
        more = f"; press {stop.name} again to quit {again}." if pressed else f" ({stop.name})."
        with suppress(OSError):  # not through the stream: the signal may come inside a write to it
            os.write(2, f"{doing}{more}\n".encode())

    with handled(handler):
        try:
            yield stop
        except UserError as error:
            if not stop:
                raise
            raise Interrupted(stop, str(error)) from error


def _leave_lost_terminals() -> None:
    """Send what goes to a terminal that was closed nowhere, since errors of writing end a job."""
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            write_nowhere(number)


def write_nowhere(number: int) -> None:
    """Let what is written to a file descriptor disappear."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
