"""Predicted masks of one image, of the current and the earlier model."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui.layers.coverage import Coverage

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region

Index = tuple[int | slice, ...]
Plane = tuple[int, ...]
NO_NUMBERS: Mapping[int, int] = {}


def as_mask(values: np.ndarray) -> np.ndarray:
    """Label values of strokes as values of a mask."""
    return np.where(values == BACKGROUND_LABEL, 0, values).astype(np.uint8)


def full_region(index: Index, shape: Sequence[int]) -> Region:
    """An index as slices with start and stop along every axis."""
    padded = (*index, *(slice(None),) * (len(shape) - len(index)))
    spans = (
        i.indices(n)[:2] if isinstance(i, slice) else (i, i + 1)
        for i, n in zip(padded, shape, strict=True)
    )
    return tuple(slice(int(start), int(stop)) for start, stop in spans)


class NetworkMasks:
    """The network's masks of an image, uint8, in the numbers of its model.

    Parameters
    ----------
    shape
        Of the image's grid; the last two axes are Y and X.

    Attributes
    ----------
    model_id, earlier_model
        The model of the newest masks, and the one at the last `mark`.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._numbers: dict[int, int] = {}
        self.model_id: str | None = None
        self.clear()

    def clear(self) -> None:
        """Remove all masks."""
        self._masks = empty_grid(self._shape)
        self._covered, self._fresh = Coverage(self._shape), Coverage(self._shape)
        self._before = self._covered, self._fresh
        self._earlier: dict[Plane, bytes | None] = {}
        self.earlier_model: str | None = None

    def is_fresh(self, plane: Plane, model_id: str) -> bool:
        """Whether a plane, or all planes of a volume, have a complete mask of this model."""
        inner = self._shape[len(plane) : -2]
        planes = {(*plane, *rest) for rest in np.ndindex(*inner)}
        return model_id == self.model_id and all(self._fresh.is_complete(one) for one in planes)

    def covers(self, region: Region) -> bool:
        """Whether a region is completely covered by masks."""
        return all(self._covered.covers(p, region[-2:]) for p in _planes_in(region))

    def invalidate(self) -> None:
        """Mark every plane as outdated, so that it is predicted again, also by the same model."""
        self._fresh = Coverage(self._shape)

    def begin(self, model_id: str, numbers: Mapping[int, int]) -> None:
        """Set the model of the next tiles; masks of another model keep the numbers shown."""
        if model_id != self.model_id:
            self.invalidate()
            self._settle_numbers(numbers)
        self.model_id = model_id

    def put(self, region: Region, tile: np.ndarray) -> None:
        """Store a tile of the model of `begin`."""
        planes = _planes_in(region)
        for plane in planes:
            self._remember(plane)
        self._masks[region] = tile
        for plane in planes:
            self._covered.add(plane, region[-2:])
            self._fresh.add(plane, region[-2:])

    def shown(self, region: Region, numbers: Mapping[int, int] | None = None) -> np.ndarray:
        """The mask of a region in the numbers shown, or in the given ones."""
        mask: np.ndarray = self._masks[region]
        if numbers := self._numbers if numbers is None else numbers:
            shown = np.arange(256, dtype=np.uint8)
            for number, other in numbers.items():
                shown[number] = as_mask(np.array(other))
            mask = shown[mask]
        return mask

    def renumber(self, numbers: Mapping[int, int]) -> list[Region]:
        """Map some of the network's numbers to others, 255 for background.

        Returns
        -------
        list of Region
            The planes whose mask changed.
        """
        if dict(numbers) == self._numbers:
            return []
        before, self._numbers = self._numbers, dict(numbers)
        regions = [full_region(plane, self._shape) for plane in sorted(self._covered.planes())]
        return [r for r in regions if (self.shown(r) != self.shown(r, before)).any()]

    def drop_stale(self) -> list[Region]:
        """Remove an earlier model's masks beside the newest; return the changed planes."""
        changed = []
        for plane in sorted(self._covered.planes()):
            if self._fresh.is_complete(plane):
                continue
            old = self._covered.where(plane) & ~self._fresh.where(plane)
            if old.any():
                self._remember(plane)
                self._masks[plane][old] = 0
                changed.append(full_region(plane, self._shape))
            self._covered.copy_plane(plane, self._fresh)
        return changed

    def _settle_numbers(self, numbers: Mapping[int, int]) -> None:
        if dict(numbers) != self._numbers:
            for plane in sorted(self._covered.planes()):
                self._remember(plane)
                shown = self.shown(full_region(plane, self._shape))
                self._masks[plane] = shown.reshape(self._shape[-2:])
        self._numbers = dict(numbers)

    # -- the model before ----------------------------------------------------------------------

    def mark(self) -> None:
        """Keep the current masks for `bring_back`; a plane is saved when first overwritten."""
        self._earlier, self.earlier_model = {}, self.model_id
        self._before = self._covered.copy(), self._fresh.copy()

    def _remember(self, plane: Plane) -> None:
        if plane not in self._earlier:
            there = plane in self._covered.planes()
            packed = zlib.compress(self._masks[plane].tobytes(), 1) if there else None
            self._earlier[plane] = packed

    def earlier(self, plane: Plane) -> np.ndarray | None:
        """The mask of a plane at the last `mark`, uint8 YX; None if there was none."""
        if plane not in self._earlier:
            return self._masks[plane].copy() if plane in self._covered.planes() else None
        packed = self._earlier[plane]
        if packed is None:
            return None
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(self._shape[-2:])

    def difference(self) -> np.ndarray:
        """Differences between the masks at the last `mark` and now; read-only, for any thread.

        Returns
        -------
        numpy.ndarray
            uint8 of the image's grid: 0 nothing, 1 no longer found, 2 newly found, 3 another
            structure.
        """
        out = empty_grid(self._shape)
        for plane in sorted(self._earlier):
            before, now = self.earlier(plane), self._masks[plane]
            if before is None or plane not in self._covered.planes():
                continue
            differs = before != now
            out[plane][differs] = 3
            out[plane][differs & (now == 0)] = 1
            out[plane][differs & (before == 0)] = 2
        return out

    @property
    def can_bring_back(self) -> bool:
        """Whether there are masks of an earlier model."""
        return self.earlier_model is not None and self.earlier_model != self.model_id

    def bring_back(self, numbers: Mapping[int, int]) -> list[Region]:
        """Exchange the current masks for those at the last `mark`.

        Parameters
        ----------
        numbers
            Renumbering of the earlier model, as for `renumber`.

        Returns
        -------
        list of Region
            The planes whose mask changed.
        """
        masks = {plane: self.earlier(plane) for plane in sorted(self._earlier)}
        model, (covered, fresh) = self.earlier_model, self._before
        self.mark()
        self._numbers = dict(numbers)
        for plane, mask in masks.items():
            self._remember(plane)
            self._masks[plane] = 0 if mask is None else mask
        self.model_id, self._covered, self._fresh = model, covered.copy(), fresh.copy()
        return [full_region(plane, self._shape) for plane in masks]


def _planes_in(region: Region) -> set[Plane]:
    """Leading indices of the YX planes in a region."""
    return set(itertools.product(*(range(s.start, s.stop) for s in region[:-2])))
