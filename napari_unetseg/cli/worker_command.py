"""``unetseg worker``: a dask scheduler and a worker for a window elsewhere, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any

from typer import Option

from napari_unetseg.cli.console import note, tell
from napari_unetseg.cli.interrupts import handled
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.versions import PROGRAM_VERSION
from napari_unetseg.runtime.cpu import cores

__all__ = ["worker"]

HOST = "127.0.0.1"
FILES = ("ca_file", "cert")
"""What dask has to be configured with for encrypted connections."""


def worker(
    port: Annotated[int, Option(min=1, max=65535, help="Of 127.0.0.1.")] = 8786,
    threads: Annotated[int | None, Option(help="CPU threads. Default: all cores.")] = None,
    tls: Annotated[
        bool,
        Option("--tls", help="Use the certificates of dask's configuration; see docs/remote.md."),
    ] = False,
) -> None:
    """Train and predict for a napari on another computer, through an SSH tunnel.

    It listens on 127.0.0.1 alone and says what to type on the laptop. Ctrl-C ends it.
    """
    serve(port, cores() if threads is None else threads, tls=tls)


def serve(port: int, threads: int, *, tls: bool = False) -> None:
    """Wait for tasks until Ctrl-C, SIGTERM or SIGHUP.

    Parameters
    ----------
    port
        Of the scheduler, on 127.0.0.1 alone.
    threads
        CPU threads of a task whose settings name no number.
    tls
        Take encrypted connections with certificates alone, as dask is configured.

    Raises
    ------
    UserError
        distributed is not installed, the port is taken, or there are no certificates.
    """
    try:
        import distributed
    except ImportError as error:
        raise UserError(
            "'unetseg worker' needs the package distributed; install it with "
            "pip install distributed."
        ) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)
    logging.getLogger(distributed.__name__).propagate = False
    _check_free(port)
    asyncio.run(_serve(port, threads, tls=tls))


def _check_free(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"Port {port} is taken, perhaps by another worker; choose one with --port."
            ) from error


async def _serve(port: int, threads: int, *, tls: bool) -> None:
    from distributed import Scheduler, Security, Worker

    from napari_unetseg.jobs.remote.remote_worker import dask_setup, dask_teardown
    from napari_unetseg.runtime.devices import device_name, pick_device

    protocol, security = "tls" if tls else "tcp", Security(require_encryption=tls)
    if tls and not all(security.get_tls_config_for_role("scheduler").get(n) for n in FILES):
        raise UserError("--tls needs certificates; docs/remote.md says how to make them.")
    # dask's own web pages listen on every address unless told otherwise
    common: dict[str, Any] = {"host": HOST, "security": security}
    common["dashboard_address"] = f"{HOST}:0"
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        stack.enter_context(handled(lambda *_: loop.call_soon_threadsafe(ended.set)))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="unetseg-worker-"))
        scheduler = await stack.enter_async_context(
            Scheduler(port=port, protocol=protocol, dashboard=False, **common)
        )
        worker = await stack.enter_async_context(
            Worker(scheduler.address, nthreads=1, memory_limit=0, local_directory=folder, **common)
        )
        await dask_setup(worker, threads)
        device = device_name(pick_device("auto"))
        tell(f"Worker of napari-unetseg {PROGRAM_VERSION} on {device}, {threads} CPU threads.")
        tell(f"It listens on {scheduler.address} alone. On the laptop, open a tunnel to it:")
        tell(f"  ssh -N -L {port}:{HOST}:{port} -o ServerAliveInterval=5 {_login()}")
        tell(f"and choose {protocol}://{HOST}:{port} as computer. Ctrl-C ends the worker.")
        await ended.wait()
        await dask_teardown(worker)
    note("The worker has ended.")


def _login() -> str:
    import getpass

    user = "USER"
    with suppress(KeyError, OSError, ImportError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"
