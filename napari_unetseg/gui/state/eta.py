"""Estimated remaining time of a job."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_SECONDS = 2.0
"""No estimate before this: the first tiles are not representative, and short jobs need none."""


class EtaEstimator:
    """Estimates from the first progress event on, so that loading PyTorch is not counted.

    Parameters
    ----------
    clock
        Returns seconds, such as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._first: tuple[float, float] | None = None

    def left(self, fraction: float) -> float | None:
        """Remaining seconds when ``fraction`` is done; None while it cannot be estimated."""
        now = self._clock()
        if self._first is None or fraction < self._first[1]:
            self._first = now, fraction
        start, done = self._first
        if now - self._began < LEAST_SECONDS or fraction <= done:
            return None
        return (now - start) * (1.0 - fraction) / (fraction - done)
