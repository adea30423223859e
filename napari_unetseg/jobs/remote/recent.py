"""Thread-safe LRU cache."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """LRU cache of values by key.

    Parameters
    ----------
    limit
        Largest sum of sizes.
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
        """A value, or None."""
        with self._lock:
            if key is None or key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def keys(self) -> list[str]:
        """The keys, the most recently used last."""
        with self._lock:
            return list(self._values)
