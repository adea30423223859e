"""Cache of the normalisation of images in files."""

from __future__ import annotations

import threading
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_unetseg.core.events import Event
    from napari_unetseg.core.image_stack import Normalization, Stack
    from napari_unetseg.core.settings import MatchSpacing
    from napari_unetseg.models.model import Model


class ImageRanges:
    """Thread-safe cache of normalisations by image and model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[Any, ...], tuple[tuple[Any, ...], Normalization]] = {}
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._known)

    def forget(self, image: Any) -> None:
        """Drop an image, and the result of a running measurement of it."""
        with self._lock:
            self._known = {k: v for k, v in self._known.items() if k[0] is not image}
            self._forgotten += 1

    def find(
        self, model: Model, image: Any, stack: Stack, *, match_spacing: MatchSpacing = False
    ) -> Generator[Event, None, Normalization | None]:
        """Find the normalisation of an image for a model.

        Parameters
        ----------
        model
            The model.
        image
            Key of the image, such as its layer.
        stack
            Its pixels.
        match_spacing
            As in `PredictSettings`.

        Yields
        ------
        Notice
            About the scaling, when it is measured.

        Returns
        -------
        Normalization or None
            None for an array in memory: it may be changed in place, so each mask measures it.
        """
        arrays = _arrays_of(stack)
        if any(isinstance(array, np.ndarray) for array in arrays):
            return None
        from napari_unetseg.models.voxel_sizes import fit_spacing

        fitted = fit_spacing(model, stack, match=match_spacing)
        factors = () if fitted.resampling is None else fitted.resampling.factors
        key = (image, model.normalization, factors)  # a layer's scale may change
        with self._lock:
            measured, known = self._known.get(key, ((), None))
            forgotten = self._forgotten
        if known is None or any(a is not b for a, b in zip_longest(measured, arrays)):
            known, notices = model.normalization.for_stack(fitted.seen)
            with self._lock:
                if forgotten == self._forgotten:
                    self._known[key] = arrays, known
            yield from notices
        return known


def _arrays_of(stack: Stack) -> tuple[Any, ...]:
    """The pixel arrays: one, or one for each channel where these are layers."""
    arrays: tuple[Any, ...] = getattr(stack.data, "arrays", (stack.data,))
    return arrays
