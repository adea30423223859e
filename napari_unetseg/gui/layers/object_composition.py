"""What an object layer shows: predicted objects beside what a person said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.object_matching import beside_finished

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.annotations.sparse_array import Region


def composed(
    annotated: ImageAnnotations,
    region: Region,
    ids: np.ndarray,
    structures: Sequence[int],
    dims: int,
) -> np.ndarray:
    """Predicted objects without what was corrected, and finished ones on top.

    Parameters
    ----------
    annotated
        The image's annotations, or a snapshot of them.
    region, ids, structures, dims
        As in `ObjectLayer.put`.

    Returns
    -------
    numpy.ndarray
        uint32, of the region's shape.
    """
    over = annotated.overrides(region)
    other = (over != 0) & ~np.isin(over, structures)
    predicted = np.where(other, 0, ids.reshape(other.shape))
    finished = annotated.effective_objects(region)
    out = np.empty(predicted.shape, np.uint32)
    for plane in np.ndindex(*predicted.shape[: len(region) - dims]):
        out[plane] = beside_finished(predicted[plane], finished[plane])
    return out
