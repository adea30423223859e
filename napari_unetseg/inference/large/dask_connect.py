"""Connection to a dask scheduler, or to local workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.versions import PROGRAM_VERSION

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

ANSWER_SECONDS = 15.0
"""Timeout of a scheduler."""
JOIN_SECONDS = 300.0
"""Timeout of workers, which may wait in a cluster's queue."""
MISSING = "Predicting on several processes or machines needs pip install distributed."
LOOPBACK = "127.0.0.1"
DEAF = """
import signal
for name in ("SIGINT", "SIGHUP", "SIGBREAK"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
"""
"""Ignore a terminal's signals, since the main process ends its workers."""


@dataclass(frozen=True, slots=True)
class Where:
    """Processes that predict: ``local`` ones, or the workers of a scheduler at ``address``."""

    local: int = 0
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Where:
        """Read ``local:N``, or the address of a scheduler such as ``tcp://host:8786``."""
        name, _, number = text.partition(":")
        if name == "local":
            if not number.isdigit() or not 1 <= int(number) <= 256:
                raise UserError(f"{text} has no number of processes; write local:2 for two.")
            return cls(int(number))
        if not text.startswith(("tcp://", "tls://", "ucx://", "ws://", "wss://")):
            raise UserError(
                f"{text} is not the address of a dask scheduler; it looks like tcp://host:8786."
            )
        return cls(address=text)


@contextmanager
def workers_of(where: Where, threads: int | None = None) -> Iterator[Client]:
    """Connect with workers, or start them until the end of the block.

    Parameters
    ----------
    where
        Which workers. Local ones are processes that listen on the loopback device alone.
    threads
        CPU threads that a local worker predicts with; None shares out the cores.

    Raises
    ------
    UserError
        dask.distributed is not installed, nothing answers, or no worker is there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(MISSING) from error
    if where.local:
        with (
            _as_it_was(),
            _local(where.local, threads or 1) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            client.wait_for_workers(where.local)
            yield client
        return
    with _silent():
        try:
            client = Client(where.address, timeout=ANSWER_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"No dask scheduler answers at {where.address}; start one with dask scheduler, or "
                "check the address, the network and, for tls://, the certificates in dask's "
                "configuration."
            ) from error
        with client:
            _wait_for_workers(client, where.address)
            yield client


def _local(count: int, threads: int) -> LocalCluster:
    """Workers on this machine, each with a GPU of its own where there are several."""
    import torch
    from distributed import LocalCluster

    gpus = torch.cuda.device_count()

    class Local(LocalCluster):
        def new_worker_spec(self) -> dict[Any, dict[str, Any]]:
            spec: dict[Any, dict[str, Any]] = super().new_worker_spec()  # type: ignore[no-untyped-call]
            ((name, what),) = spec.items()
            options = {**what["options"], "env": {**what["options"]["env"]}}
            if gpus > 1:
                options["env"]["CUDA_VISIBLE_DEVICES"] = str(int(name) % gpus)
            return {name: {**what, "options": options}}

    cluster: Any = Local(  # type: ignore[no-untyped-call]
        n_workers=0,
        threads_per_worker=2,  # one thread reads or writes while the other predicts
        processes=True,
        host=LOOPBACK,
        memory_limit=0,
        silence_logs=logging.CRITICAL,
        dashboard_address=f"{LOOPBACK}:0",
        preload=[DEAF],
        env={"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
    )
    cluster.scale(count)
    found: LocalCluster = cluster
    return found


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Restore environment variables that dask sets for its workers.

    Its malloc settings would slow this process down; see `runtime.glibc_malloc`.
    """
    import dask

    trim = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
    before = dict(os.environ)
    try:
        with dask.config.set({trim: None}):
            yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _silent() -> Iterator[None]:
    """Silence dask's logging, since relevant errors are raised."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _wait_for_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=JOIN_SECONDS)
    except TimeoutError as error:
        raise UserError(
            f"No worker has joined the scheduler in {JOIN_SECONDS:.0f} s; start some with "
            f"dask worker {address}."
        ) from error


def check_versions(client: Client) -> None:
    """Refuse a scheduler or workers that lack this program, or have another version of it."""
    what = (version, "napari-unetseg")  # callable without this program
    found: dict[str, Any] = {
        f"The worker at {address}": one
        for address, one in client.run(*what, on_error="return").items()
    }
    try:
        found["The scheduler"] = client.run_on_scheduler(*what)
    except ImportError as error:
        found["The scheduler"] = error
    for who, one in found.items():
        if isinstance(one, ImportError):
            raise UserError(f"{who} lacks napari-unetseg; install it there.")
        if one != PROGRAM_VERSION:
            raise UserError(
                f"{who} has napari-unetseg {one} and this is {PROGRAM_VERSION}; install the same "
                "version everywhere."
            )
