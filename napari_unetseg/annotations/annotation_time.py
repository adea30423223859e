"""How long a person annotated, and when each plane was first predicted. No NumPy, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["PAUSE", "Effort", "First", "checked_seconds"]

PAUSE = 60.0
"""Seconds without a word that are a pause: somebody drinks coffee, or a training is waited for."""


@dataclass(frozen=True, slots=True)
class First:
    """When a plane was first predicted as a whole.

    Attributes
    ----------
    seconds
        Of annotation in the project until then.
    stamp
        The image's time (`annotation_store.Change`) then: what was painted on the plane before
        that may have been learned by heart.
    """

    seconds: float
    stamp: int


class Effort:
    """Seconds that were spent annotating the images of a project, and the planes' firsts.

    The time between two words (strokes, corrections, accepted places, undos) counts unless it is
    a pause of more than `PAUSE` seconds; the first word after a pause counts nothing, so that the
    sum is rather too small.

    Attributes
    ----------
    seconds
        Of annotation so far.
    firsts
        By the key of the image and the leading index of the plane.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.firsts: dict[str, dict[tuple[int, ...], First]] = {}
        self._last: float | None = None

    def word(self, now: float) -> None:
        """Something was said; ``now`` is in seconds, of a clock that never goes back."""
        if self._last is not None and 0 <= now - self._last <= PAUSE:
            self.seconds += now - self._last
        self._last = now

    def predicted(
        self, key: str, planes: Sequence[tuple[int, ...]], seconds: float, stamp: int
    ) -> None:
        """Places of these planes were predicted for the first time; the last of them counts."""
        known = self.firsts.setdefault(key, {})
        known.update(dict.fromkeys(planes, First(seconds, stamp)))

    def to_json(self) -> dict[str, Any]:
        """Everything but the running clock."""
        firsts = {
            key: [[*plane, round(first.seconds, 1), first.stamp] for plane, first in known.items()]
            for key, known in self.firsts.items()
        }
        return {"seconds": round(self.seconds, 1), "firsts": firsts}

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else.
        """
        effort = cls()
        try:
            effort.seconds = checked_seconds(said["seconds"])
            for key, rows in said["firsts"].items():
                for *plane, seconds, stamp in rows:
                    if not all(type(n) is int and n >= 0 for n in (*plane, stamp)):
                        raise ValueError("a plane or its stamp is no whole number")
                    effort.predicted(key, [tuple(plane)], checked_seconds(seconds), stamp)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("the time of annotation is not described as it must be") from error
        return effort


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
