"""Masks that a check of quality needs: of candidate places, and of checked ones by each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, most_probable
from napari_unetseg.inference.candidate_windows import (
    Plane,
    Region,
    WindowGrid,
    cells_of,
    moved,
)
from napari_unetseg.inference.quality_estimate import Candidate
from napari_unetseg.inference.uncertainty import RegionPredictor
from napari_unetseg.runtime.devices import use_threads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.settings import MatchSpacing
    from napari_unetseg.inference.query_strategy import QueryImage
    from napari_unetseg.models.model import Model

MOST_WINDOWS = 48
"""Windows of 512² at most that are predicted to find candidates; more are drawn at random."""
DEPTH = 8
"""Planes on either side that a 3D model sees of a window."""


class PlanePredictor:
    """Masks of pieces of YX planes of an image, by a 2D or a 3D model.

    Parameters
    ----------
    model, stack, device, match_spacing
        As in `RegionPredictor`.
    numbers
        What the model's numbers became since, 255 for background.
    """

    def __init__(
        self,
        model: Model,
        stack: Stack,
        device: str = "auto",
        match_spacing: MatchSpacing = False,
        numbers: Mapping[int, int] | None = None,
    ) -> None:
        self._predictor = RegionPredictor(model, stack, device, match_spacing)
        self._lead = len(stack.leading_shape(model.dims))
        self._depth = stack.spatial_shape(model.dims)[0]
        self._table = np.arange(256, dtype=np.uint8)
        for number, other in (numbers or {}).items():
            self._table[number] = other % BACKGROUND_LABEL

    def mask(self, plane: Plane, region: Region) -> np.ndarray:
        """Numbers of structures, 0 for background, as the mask on screen has them."""
        spatial = (*(slice(z, z + 1) for z in plane[self._lead :]), *region)
        mask = self._predictor.mask(plane[: self._lead], spatial)
        return np.asarray(self._table[mask.reshape(mask.shape[-2:])])

    def rough_mask(self, plane: Plane, region: Region) -> np.ndarray:
        """The same without what lies around the region, which is faster."""
        slab = [slice(max(0, z - DEPTH), z + DEPTH + 1) for z in plane[self._lead :]]
        spatial = (*(slice(s.start, min(s.stop, self._depth)) for s in slab), *region)
        image = self._predictor.image(plane[: self._lead], spatial)
        classes = most_probable(self._predictor.predict(image))
        mask = self._predictor.model.classes.decode(classes)
        here = [z - s.start for z, s in zip(plane[self._lead :], slab, strict=True)]
        return np.asarray(self._table[mask[tuple(here)]])


def find_candidates(
    images: Sequence[QueryImage],
    model: Model,
    seed: int,
    *,
    device: str = "auto",
    match_spacing: MatchSpacing = False,
    numbers: Mapping[int, int] | None = None,
    control: JobControl | None = None,
) -> list[Candidate]:
    """Pieces of planes with what the model predicts there, where nobody labelled.

    Parameters
    ----------
    images
        The images; each must fit the model.
    model, seed
        Where there are more than `MOST_WINDOWS` windows, a random part of them is predicted, each
        with the same chance.
    device, match_spacing, numbers
        As in `PlanePredictor`.
    control
        Stops after a window, sets the threads.
    """
    control = control or JobControl()
    use_threads(control.threads)
    grids = [WindowGrid.of(one.stack, 2) for one in images]
    ends = np.cumsum([grid.count for grid in grids])
    rng, total = np.random.default_rng(seed), int(ends[-1])
    chosen = rng.choice(total, min(total, MOST_WINDOWS), replace=False, shuffle=False)
    found: list[Candidate] = []
    predictors: dict[int, PlanePredictor] = {}
    for number in np.sort(chosen).tolist():
        if control.stopped:
            break
        image = int(np.searchsorted(ends, number, side="right"))
        plane, window = grids[image].place(number - int(ends[image]) + grids[image].count)
        if image not in predictors:
            stack = images[image].stack
            predictors[image] = PlanePredictor(model, stack, device, match_spacing, numbers)
        mask = predictors[image].rough_mask(plane, window)
        mask[images[image].labelled(plane, window)] = BACKGROUND_LABEL
        found += _pieces(image, plane, window, mask, grids[image].region)
    return found


def _pieces(
    image: int, plane: Plane, window: Region, mask: np.ndarray, region: Sequence[int]
) -> Iterator[Candidate]:
    """The pieces of a window with what is predicted there; 255 in the mask is labelled."""
    for piece in cells_of(mask.shape, region):
        counts = np.bincount(mask[piece].ravel(), minlength=256)
        foreground = {n: int(counts[n]) for n in range(1, BACKGROUND_LABEL) if counts[n]}
        voxels = int(counts[:BACKGROUND_LABEL].sum())
        yield Candidate(image, plane, moved(piece, window), voxels, foreground)
