"""Annotation time: seconds between changes, without pauses."""

from __future__ import annotations

import math
from typing import Any

PAUSE = 60.0
"""Seconds without a change that count as a pause."""


class AnnotationTime:
    """Seconds that were spent annotating the images of a project.

    The time between two changes counts unless it is longer than `PAUSE`; the first change after a
    pause counts nothing, so that the sum is rather too small.

    Attributes
    ----------
    seconds
        Of annotation so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def count_change(self, now: float) -> None:
        """Count a change at ``now`` seconds of a monotonic clock."""
        if self._last is not None and 0 <= now - self._last <= PAUSE:
            self.seconds += now - self._last
        self._last = now


def checked_seconds(value: Any) -> float:
    """Seconds from a file.

    Raises
    ------
    ValueError
        They are no finite number from 0 on.
    """
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError("seconds of annotation are no number from 0 on")
    return float(value)
