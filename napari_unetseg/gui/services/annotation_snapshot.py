"""Snapshots of layers' labels for training, without copying voxels.

Annotations are stored in the image's `ImageAnnotations`, in copy-on-write chunks that a snapshot
shares. Slow steps are done on demand, in any thread: searching an array for changes without an
event, merging corrections with strokes, and comparing two snapshots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.annotations.sparse_array import SparseArray, cells
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.singleton_axes import on_grid
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.held_out_labels import HeldOutLabels, Voxels, without
from napari_unetseg.gui import layers as napari_layers

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.gui.state.session import ImageSource

Pairs = tuple[AnnotatedImage, ...]


class Snapshot:
    """The labels of one image at one moment; thread-safe.

    Parameters
    ----------
    image, stack
        The image layer and its image.
    labels
        Its labels: chunks shared with the annotations, or a lazy array.
    kind
        The kind of ``labels``.
    annotations
        A snapshot of the image's annotations.
    newer
        Regions with annotations that no training has received.
    live
        The array that is painted on, and its recorded values: changes that a script made without an
        event are recorded when the snapshot is first used.
    held_out
        Voxels whose labels no training may see.
    """

    def __init__(
        self,
        image: Any,
        stack: Stack,
        labels: Any,
        kind: LabelKind,
        annotations: ImageAnnotations,
        newer: tuple[Region, ...] = (),
        live: tuple[np.ndarray, SparseArray] | None = None,
        held_out: Sequence[Voxels] = (),
    ) -> None:
        self.image, self.kind, self.live = image, kind, live
        self._held_out = held_out
        self._stack, self._labels, self._annotations, self._newer = (
            stack,
            labels,
            annotations,
            newer,
        )
        self._corrections: SparseArray | None = None
        self._objects: SparseArray | None = None
        self._trained: tuple[Any, SparseArray | None, SparseArray | None] = (labels, None, None)
        self._before: Snapshot | None = None
        self._settled = False
        self._lock = threading.Lock()

    def follow(self, before: Snapshot | None) -> None:
        """Set an earlier snapshot of the image, which is likely to be mostly equal."""
        self._before = before

    def pair(self) -> AnnotatedImage:
        """The annotated image."""
        self.settle()
        labels, corrections, objects = self._trained
        ignore = labels.ignore if isinstance(labels, HeldOutLabels) else None
        return AnnotatedImage(
            self._stack, labels, self.kind, corrections, ignore, self._newer, objects=objects
        )

    def same_as(self, other: Snapshot) -> bool:
        """Whether another snapshot holds the same labels, corrections and objects of an image."""
        self.settle()
        other.settle()
        return (
            self.image is other.image
            and self.kind == other.kind
            and all(_equal(a, b) for a, b in zip(self._trained, other._trained, strict=True))
        )

    def settle(self) -> None:
        """Do the slow steps, once; results of the earlier snapshot are reused where it is equal."""
        with self._lock:
            if self._settled:
                return
            before, self._before = self._before, None
            if before is not None:
                before.settle()
            if self.live is not None:
                self._take_in(*self.live)
            known = None if before is None else (before._annotations, before._corrections)
            self._corrections = self._annotations.corrections(known)
            known = None if before is None else (before._annotations, before._objects)
            self._objects = self._annotations.objects(known)
            labels = self._labels
            if not isinstance(labels, SparseArray):
                labels = on_grid(labels, self._stack.grid_shape)
            self._trained = (
                without(labels, self.kind, self._held_out),
                without(self._corrections, LabelKind.STROKES, self._held_out),
                without(self._objects, LabelKind.STROKES, self._held_out),
            )
            self._settled = True

    def _take_in(self, data: np.ndarray, known: SparseArray) -> None:
        """Record changes of the array, except where voxels were annotated since."""
        for region in self._labels.differing(data):
            (cell,) = cells(region)
            if self._labels.same_chunk(known, cell):
                self._labels.write(region, np.asarray(data[region]))


def take_snapshots(
    sources: Sequence[ImageSource],
    by_image: Mapping[Any, ImageAnnotations],
    newer: Mapping[Any, Sequence[Region]] | None = None,
    before: Iterable[Snapshot] = (),
    *,
    complete: bool = True,
    held_out: Callable[[Any], Sequence[Voxels]] = lambda _: (),
) -> tuple[Snapshot, ...]:
    """Snapshots of all sources that have labels or corrections; copies no voxels.

    Unused sources and those on disk are skipped.

    Parameters
    ----------
    sources, by_image
        The training sources, and the annotations of each image.
    newer
        Regions of images that were painted on since their mask was shown.
    before
        Earlier snapshots, to reuse the results of equal ones.
    complete
        Search layers for changes without an event, too; that reads all of them.
    held_out
        Voxels of an image whose labels no training may see.

    Raises
    ------
    UserError
        Labels do not fit their image.
    """
    used, regions = [s for s in sources if s.used and not s.on_disk], newer or {}
    found = [
        _snapshot(
            s,
            by_image.get(s.image),
            tuple(regions.get(s.image, ())),
            complete=complete,
            held_out=held_out(s.image),
        )
        for s in used
    ]
    earlier = {one.image: one for one in before}
    taken = tuple(one for one in found if one is not None)
    for one in taken:
        one.follow(earlier.get(one.image))
    return taken


def _snapshot(
    source: ImageSource,
    annotated: ImageAnnotations | None,
    newer: tuple[Region, ...],
    *,
    complete: bool,
    held_out: Sequence[Voxels],
) -> Snapshot | None:
    stack = napari_layers.stack_of(source.image, source.channels)
    annotated = annotated or ImageAnnotations(stack.grid_shape)
    annotations = annotated.snapshot()
    if source.labels is None:
        if not annotations.labelled_planes():
            return None
        nothing = SparseArray(stack.grid_shape)
        kind = LabelKind.STROKES
        return Snapshot(source.image, stack, nothing, kind, annotations, newer, held_out=held_out)
    data = napari_layers.data_of(source.labels)
    AnnotatedImage(stack, data, source.kind)  # raises where labels do not fit
    if not isinstance(data, np.ndarray):
        kind = source.kind
        return Snapshot(source.image, stack, data, kind, annotations, newer, held_out=held_out)
    live = (
        (on_grid(data, stack.grid_shape), annotated.grid(LabelSource.STROKES)) if complete else None
    )
    labels = annotations.grid(LabelSource.STROKES)
    return Snapshot(source.image, stack, labels, source.kind, annotations, newer, live, held_out)


def pairs_of(snapshots: Iterable[Snapshot]) -> Pairs:
    """The annotated images."""
    return tuple(one.pair() for one in snapshots)


def newer_pairs(snapshots: Sequence[Snapshot], before: Sequence[Snapshot]) -> Pairs:
    """The annotated images; none if the earlier snapshots hold the same."""
    same = len(snapshots) == len(before) and all(
        new.same_as(old) for new, old in zip(snapshots, before, strict=True)
    )
    return () if same else pairs_of(snapshots)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, SparseArray) and isinstance(b, SparseArray):
        return a.same_as(b)
    if isinstance(a, HeldOutLabels) and isinstance(b, HeldOutLabels):
        return a.voxels == b.voxels and _equal(a.labels, b.labels)
    return a is b
