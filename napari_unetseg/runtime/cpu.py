"""How many CPU cores this process may use."""

from __future__ import annotations

import os

from napari_unetseg.runtime.distributed import world


def cores() -> int:
    """CPU cores that this process may use; its share where several of a machine train together."""
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, there // world().local_size)


def default_threads() -> int:
    """One thread less than there are cores, so that the window stays alive.

    Under torchrun there is no window, and each process has its share of the cores.
    """
    return cores() if world().local_size > 1 else max(1, cores() - 1)
