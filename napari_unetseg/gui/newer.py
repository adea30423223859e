"""What layers hold to train on: gathered by the GUI thread, copied and compared by any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.samples import Pair
from napari_unetseg.core.sparse import SparseGrid
from napari_unetseg.gui import layers as napari_layers

if TYPE_CHECKING:
    from napari_unetseg.core.sparse import Region
    from napari_unetseg.core.truth import Truth
    from napari_unetseg.gui.session import Source

__all__ = ["Pairs", "gather", "same"]

Pairs = tuple[Pair, ...]


def gather(
    sources: Sequence[Source],
    truths: Mapping[Any, Truth],
    newer: Mapping[Any, Sequence[Region]] | None = None,
) -> Callable[[], Pairs]:
    """Look at layers now; what is returned copies their labels and corrections when it is called.

    Sources without labels and corrections, unused ones and those on disk are left out. ``newer``
    says of images where something was painted since their mask was shown.
    """
    used, regions = [s for s in sources if s.used and not s.on_disk], newer or {}
    copies = [_copier(s, truths.get(s.image), tuple(regions.get(s.image, ()))) for s in used]
    return lambda: tuple(pair for copy in copies if (pair := copy()) is not None)


def _copier(
    source: Source, truth: Truth | None, newer: tuple[Region, ...]
) -> Callable[[], Pair | None]:
    labels = None if source.labels is None else napari_layers.data_of(source.labels)
    stack = napari_layers.stack_of(source.image, source.channels)

    def copy() -> Pair | None:
        corrections = truth.corrections() if truth else None
        if labels is not None:
            return Pair(stack, napari_layers.copy_of(labels), source.kind, corrections, newer=newer)
        if corrections is None:
            return None
        nothing = SparseGrid(stack.grid_shape)
        return Pair(stack, nothing, LabelKind.STROKES, corrections, newer=newer)

    return copy


def same(these: Pairs, those: Pairs) -> bool:
    """Whether both are the same labels and corrections, image by image."""
    return len(these) == len(those) and all(
        a.kind == b.kind and _equal(a.labels, b.labels) and _equal(a.corrections, b.corrections)
        for a, b in zip(these, those, strict=True)
    )


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, SparseGrid) and isinstance(b, SparseGrid):
        return a.same_as(b)
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a.shape != b.shape:
        return False
    return all(np.array_equal(a[plane], b[plane]) for plane in np.ndindex(a.shape[:-2]))
