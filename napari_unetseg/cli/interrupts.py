"""Signals that stop a command: Ctrl-C, and those of schedulers, containers and closed terminals."""

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
"""Signals that stop a command, and their names for users."""
KEYS = ("SIGINT", "SIGBREAK")
"""Keyboard signals, of which a second one ends the program at once."""
SAME_S = 5.0
"""Seconds within which a repeated signal counts as the same one, since shells and launchers forward
what the system has sent already.
"""
STOPPING = "Stopping after this chunk"
"""Message of a stopped prediction."""
Handler = Callable[[int, Any], object]


class Quit(SystemExit):
    """The program ends at once, without saving."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.name = NAMES[signal.Signals(number).name]


class Interrupted(Exception):
    """A signal ended a job after its current step; the text says what was saved."""

    def __init__(self, stop: Stop, kept: str) -> None:
        super().__init__(f"Stopped by {stop.name}: {kept}")
        self.code = 128 + stop.number


class Stop:
    """The signal that stopped a job; false without one."""

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self.number)

    @property
    def name(self) -> str:
        """Name of the signal for users."""
        return NAMES[signal.Signals(self.number).name]

    def take(self, number: int) -> bool:
        """Receive a signal; return whether it is the first. A repeated key raises `Quit`."""
        if not self.number:
            self.number, self._since = number, time.monotonic()
            return True
        pressed = signal.Signals(number).name in KEYS
        if pressed or time.monotonic() - self._since > SAME_S:
            raise Quit(number)
        return False


@contextmanager
def handled(handler: Handler, *, ctrl_c: bool = True) -> Iterator[None]:
    """Call a handler for these signals, in the main thread.

    Ignored signals stay ignored, as SIGHUP under ``nohup``; Ctrl-C is handled by default.
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
    """Stop a job at the first signal, and the program at the second.

    Under torchrun rank 0 decides. Errors of a stopped job are raised as `Interrupted`, too.

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
    """Redirect streams of a closed terminal, whose write errors would end a job."""
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            write_nowhere(number)


def write_nowhere(number: int) -> None:
    """Redirect a file descriptor to the null device."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
