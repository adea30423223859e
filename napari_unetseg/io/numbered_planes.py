"""Masks of structures or objects as numbers of objects, a plane at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError


class NumberedPlanes:
    """Numbers of the objects of a mask's planes, indexed by plane.

    Parameters
    ----------
    mask
        Array-like (…, Y, X) of whole numbers; those up to 0 are background.
    connected
        Whether connected pixels of a number, also across corners, are an object, and numbered anew
        in each plane. Otherwise every number is one.
    ignore
        A number that is no object.
    """

    def __init__(self, mask: Any, *, connected: bool, ignore: int | None = None) -> None:
        self._mask, self._connected, self._ignore = mask, connected, ignore
        self.shape = tuple(mask.shape)

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        """The objects of a plane, (Y, X) int64, 0 for background."""
        from skimage.measure import label

        plane = np.asarray(self._mask[index])
        if plane.dtype.kind == "f":
            plane = np.nan_to_num(plane, nan=0.0)
            if not (plane == np.floor(plane)).all():
                raise UserError("This is no mask: it needs one whole number for each pixel.")
        plane = plane.astype(np.int64)
        inside = plane > 0 if self._ignore is None else (plane > 0) & (plane != self._ignore)
        plane = np.where(inside, plane, 0)
        if not self._connected:
            return plane
        return np.asarray(label(plane, connectivity=2))  # type: ignore[no-untyped-call]
