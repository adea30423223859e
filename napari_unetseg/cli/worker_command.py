"""Command ``unetseg worker``: trains and predicts for remote windows; listens on 127.0.0.1."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from typing import Annotated

from typer import Option

from napari_unetseg.cli.console import note, tell
from napari_unetseg.cli.interrupts import handled
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.versions import PROGRAM_VERSION
from napari_unetseg.runtime.cpu import cores

HOST = "127.0.0.1"


def worker(
    port: Annotated[int, Option(min=1, max=65535, help="Of 127.0.0.1.")] = 8786,
    threads: Annotated[int | None, Option(help="CPU threads. Default: all cores.")] = None,
) -> None:
    """Train and predict for a napari on another computer, through an SSH tunnel.

    It listens on 127.0.0.1 alone and says what to type on the laptop. Ctrl-C ends it.
    """
    serve(port, cores() if threads is None else threads)


def serve(port: int, threads: int) -> None:
    """Wait for tasks until Ctrl-C, SIGTERM or SIGHUP.

    Parameters
    ----------
    port
        On 127.0.0.1 alone.
    threads
        CPU threads of a task whose settings name no number.

    Raises
    ------
    UserError
        The port is taken, or the key cannot be read or written.
    """
    from napari_unetseg.jobs.remote.remote_worker import WorkerServer
    from napari_unetseg.jobs.remote.worker_key import worker_key

    key, server, ended = worker_key(), WorkerServer(threads), threading.Event()
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(
            f"Port {port} is taken, perhaps by another worker; choose one with --port."
        ) from error
    with listener, handled(lambda *_: ended.set()):
        _tell(port, threads, key)
        listener.settimeout(0.2)  # how long a signal waits
        while not ended.is_set():
            with suppress(OSError):
                server.welcome(listener.accept()[0], key.encode())
        server.close()
    note("The worker has ended.")


def _tell(port: int, threads: int, key: str) -> None:
    """Print the commands for the laptop; the key only on terminals, not in log files."""
    from napari_unetseg.jobs.remote.worker_key import key_path
    from napari_unetseg.runtime.devices import device_name, pick_device

    device = device_name(pick_device("auto"))
    shown = key if sys.stdout.isatty() else f"KEY (KEY is the text in {key_path()})"
    tell(f"Worker of napari-unetseg {PROGRAM_VERSION} on {device}, {threads} CPU threads.")
    tell(f"It listens on {HOST}:{port} alone. On the laptop, open a tunnel to it:")
    tell(f"  ssh -N -L {port}:{HOST}:{port} -o ServerAliveInterval=5 {_login()}")
    tell("and paste this as computer in the dock (Ctrl-C here ends the worker):")
    tell(f"  {HOST}:{port} {shown}")


def _login() -> str:
    import getpass

    user = "USER"
    with suppress(KeyError, OSError, ImportError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"
