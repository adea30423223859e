"""What was used last of what the other computer sent."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by their key; any thread may ask.

    Parameters
    ----------
    limit
        Sum of sizes above which those that were not used for the longest time are forgotten.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._lock = Lock()
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def put(self, key: str, value: T, size: int = 1) -> None:
        """Keep a value."""
        with self._lock:
            self._size += size - self._values.pop(key, (value, 0))[1]
            self._values[key] = value, size
            while self._size > self._limit and len(self._values) > 1:
                self._size -= self._values.popitem(last=False)[1][1]

    def get(self, key: str | None) -> T | None:
        """A value, if it is still there."""
        with self._lock:
            if key is None or key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def keys(self) -> list[str]:
        """What is there, used last comes last."""
        with self._lock:
            return list(self._values)
