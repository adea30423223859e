"""The peer: a random forest on filter features, as people use it today on the same strokes.

scikit-image's ``multiscale_basic_features`` with sigma 1 to 16 on intensities scaled by the 1 and
99.8 percentiles of the picture (all its channels together), colour channels as channels, stacks
plane by plane; 100 trees of scikit-learn.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from skimage.feature import multiscale_basic_features

from napari_unetseg.core.labels import BACKGROUND_LABEL

if TYPE_CHECKING:
    from sets import Annotated, Plane

    from napari_unetseg.core.image_stack import Stack

SIGMA = (1, 16)
TREES = 100
WORKERS = next(
    name
    for name in ("workers", "num_workers")  # scikit-image 0.26 renamed it
    if name in inspect.signature(multiscale_basic_features).parameters
)


def features(image: np.ndarray, threads: int) -> np.ndarray:
    """Features (Y, X, features), float32, of a plane (channels, Y, X)."""
    low, high = np.percentile(image, [1, 99.8])
    scaled = ((image - low) / max(high - low, 1e-6)).astype(np.float32)
    found: np.ndarray = multiscale_basic_features(
        scaled.transpose(1, 2, 0),
        sigma_min=SIGMA[0],
        sigma_max=SIGMA[1],
        channel_axis=-1,
        **{WORKERS: threads},
    )
    return found


class Forest:
    """A random forest fitted to strokes.

    Parameters
    ----------
    images
        With their strokes.
    threads, seed
        Of the forest.
    known
        Keeps the features of planes; give the same one to several forests.
    """

    def __init__(
        self,
        images: Sequence[Annotated],
        threads: int,
        seed: int,
        known: dict[tuple[int, Plane], np.ndarray] | None = None,
    ) -> None:
        from sklearn.ensemble import RandomForestClassifier

        self._threads, self._known = threads, known
        rows, numbers = [], []
        for image in images:
            for plane in image.planes:
                strokes = image.labels[plane]
                if not strokes.any():
                    continue
                rows.append(self._features(image.image, plane)[strokes > 0])
                numbers.append(strokes[strokes > 0])
        target = np.concatenate(numbers)
        target = np.where(target == BACKGROUND_LABEL, 0, target)
        self._trees = RandomForestClassifier(TREES, n_jobs=threads, random_state=seed)
        self._trees.fit(np.concatenate(rows), target)

    def _features(self, stack: Stack, plane: Plane) -> np.ndarray:
        if self._known is None:
            return features(stack.read(plane, stack.whole(2)), self._threads)
        key = (id(stack.data), plane)
        if key not in self._known:
            self._known[key] = features(stack.read(plane, stack.whole(2)), self._threads)
        return self._known[key]

    def region(self, stack: Stack, plane: Plane, region: tuple[slice, ...]) -> np.ndarray:
        """Mask of a region of a plane, uint8."""
        found = self._features(stack, plane)[region]
        values = self._trees.predict(found.reshape(-1, found.shape[-1]))
        return np.asarray(values.reshape(found.shape[:2]), np.uint8)

    def predict(self, stack: Stack, planes: Sequence[Plane]) -> np.ndarray:
        """Mask of the grid, uint8; planes that are not asked for stay 0."""
        mask = np.zeros(stack.grid_shape, np.uint8)
        for plane in planes:
            found = self._features(stack, plane)
            values = self._trees.predict(found.reshape(-1, found.shape[-1]))
            mask[plane] = values.reshape(found.shape[:2])
        return mask
