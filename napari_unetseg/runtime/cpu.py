"""CPU cores of this process."""

from __future__ import annotations

import os

from napari_unetseg.runtime.distributed import world


def cores() -> int:
    """CPU cores of this process; under torchrun its share of the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, there // world().local_size)


def default_threads() -> int:
    """One thread fewer than cores, to keep the window responsive.

    Under torchrun there is no window, and each process uses its share.
    """
    return cores() if world().local_size > 1 else max(1, cores() - 1)
