"""Cache of normalised planes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

Key = tuple[int, tuple[int, ...]]
"""Number of an annotated image, and the index of a plane or volume of it."""


class PlaneCache:
    """Thread-safe LRU cache of planes.

    Parameters
    ----------
    most
        Size limit in bytes.
    """

    def __init__(self, most: int) -> None:
        self.most, self.nbytes = most, 0
        self._arrays: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def get(self, key: Key, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, read by one thread at a time if not cached."""
        if (kept := self._kept(key)) is not None:
            return kept
        with self._reading:
            if (kept := self._kept(key)) is not None:
                return kept
            self._put(key, array := read())
        return array

    def _kept(self, key: Key) -> np.ndarray | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def _put(self, key: Key, array: np.ndarray) -> None:
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = array
                self.nbytes += array.nbytes
            while self.nbytes > self.most:
                self.nbytes -= self._arrays.popitem(last=False)[1].nbytes

    def take_over(self, other: PlaneCache, numbers: Mapping[int, int]) -> None:
        """Take another cache's planes of the images with these numbers, under new numbers."""
        with other._lock:
            kept = list(other._arrays.items())
        for (number, index), array in kept:
            if number in numbers:
                self._put((numbers[number], index), array)
