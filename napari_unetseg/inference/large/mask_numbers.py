"""Whole numbers of a mask from any source, and its connected parts, a plane at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.errors import UserError

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack


class MaskNumbers:
    """A mask as an array of non-negative integers, whose planes are read when they are needed.

    Parameters
    ----------
    mask
        Integers, booleans, or whole floats, of which NaN is none.
    ignore
        A number that is none.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, mask: Stack, ignore: int | None = None) -> None:
        self._mask, self._ignore = mask, ignore
        self.shape = mask.grid_shape

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        """A plane (Y, X); `UserError` where it holds no whole numbers."""
        plane = self._mask.read(index, self._mask.whole(2))[0]
        return whole_numbers(self._mask, plane, self._ignore).astype(np.int64)


class MaskParts(MaskNumbers):
    """Connected parts of the structures of a mask, numbered from 1 in each plane.

    Pixels that touch at corners are connected, as in object tables.
    """

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        """The parts of a plane (Y, X)."""
        from skimage.measure import label

        found: np.ndarray = label(super().__getitem__(index), connectivity=2)  # type: ignore[no-untyped-call]
        return found


def whole_numbers(mask: Stack, labels: np.ndarray, ignore: int | None) -> np.ndarray:
    """Integers, 0 where there is no object; `UserError` where they are none."""
    if ignore is not None:
        labels = np.where(labels == ignore, 0, labels)
    if labels.dtype.kind == "f":
        labels = np.where(np.isnan(labels), 0, labels)
        if not (np.isfinite(labels) & (labels == np.floor(labels))).all():
            raise UserError(no_mask(mask))
        labels = labels.astype(np.int64)
    return np.where(labels > 0, labels, 0) if labels.dtype.kind == "i" else labels


def no_mask(mask: Stack) -> str:
    """Why a stack is no mask."""
    return f"{mask.name} is not a mask: it needs one whole number for each voxel."
